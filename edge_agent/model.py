"""The one type that flows: a read-only columnar block of samples with time and quality.

A ``SampleBlock`` holds n consecutive scans of the k signals of one stream. Its ``Schema`` says
what the columns are and is identified by a hash of its content, so a stored block can be read
with the meaning it was written with, whatever the configuration has become since.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import cached_property, lru_cache
from hashlib import blake2b
from types import MappingProxyType
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from edge_agent.units import Unit

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Texts = Mapping[str, Mapping[int, str]]

NO_TEXTS: Texts = MappingProxyType({})


class Quality(IntEnum):
    """How far a value can be trusted; ordered, so a derived value has the maximum of its inputs'.

    The severity stands in the top two bits, as in an OPC UA StatusCode (OPC 10000-4, 7.39). The
    numbers are stored and published: they are never changed.
    """

    GOOD = 0
    GOOD_ROLLOVER = 1  # a counter went through its modulus
    UNCERTAIN = 64
    UNCERTAIN_RANGE = 65  # outside the limits of the instrument
    UNCERTAIN_RESET = 66  # the counter was reset or replaced
    UNCERTAIN_SUBSTITUTED = 67
    UNCERTAIN_CLOCK = 68  # the stamp cannot be trusted
    UNCERTAIN_ESTIMATED = 69  # a part is interpolated
    UNCERTAIN_FLAGGED = 70  # the instrument itself says fault, maintenance or calibration
    UNCERTAIN_PRECISION = 71  # the number was rounded: an integer above 2**53
    BAD = 128
    BAD_NO_ANSWER = 129
    BAD_DEVICE = 130  # the device refused the request
    BAD_NOT_AVAILABLE = 131  # the device says that it has no value
    BAD_ADDRESS = 132
    BAD_SHORT = 133  # the reply had another length than asked for
    BAD_MISSING = 191


class Kind(StrEnum):
    """Which arithmetic a signal allows."""

    GAUGE = "gauge"
    COUNTER = "counter"
    STATE = "state"
    TEXT = "text"  # the value is a number of the stream's vocabulary: only equality has a meaning


class Family(StrEnum):
    """Where the rows of a stream come from; a KPI's family is its metric type."""

    SAMPLE = "sample"  # read from a device
    SLOT = "slot"  # one row per base slot of one device
    ENERGY = "energy"
    OEE = "oee"
    EMISSIONS = "emissions"
    WATER = "water"
    DEMAND = "demand"
    TARIFF = "tariff"
    BALANCE = "balance"
    BASELINE = "baseline"
    ALARM = "alarm"
    COMPUTED = "computed"
    CHECK = "check"
    PRODUCT = "product"
    STATE_ENERGY = "energy-by-state"

    @property
    def derived(self) -> bool:
        """True for rows that can be computed again from the samples."""
        return self is not Family.SAMPLE


@dataclass(frozen=True, slots=True)
class Tag:
    """One signal: what its numbers mean and which are plausible.

    modulus   the reading at which a counter begins again at 0, in tag units; None: it never does
    low, high the limits of the instrument, in tag units; a value outside is ``UNCERTAIN_RANGE``
    max_rate  the largest plausible increase of a counter, tag units per second (from the rated
              power)
    resolution  what one count of a counter's register is, in tag units; None: not known, or it is
              a floating point number
    """

    name: str
    unit: Unit
    kind: Kind = Kind.GAUGE
    modulus: float | None = None
    low: float = -np.inf
    high: float = np.inf
    max_rate: float | None = None
    resolution: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return what ``from_json`` reads; infinite limits are left out, JSON has none."""
        written: dict[str, object] = {
            "name": self.name,
            "unit": self.unit.code,
            "kind": self.kind.value,
        }
        for name in ("modulus", "max_rate", "resolution"):
            if getattr(self, name) is not None:
                written[name] = float(getattr(self, name))
        for name in ("low", "high"):
            if np.isfinite(getattr(self, name)):
                written[name] = float(getattr(self, name))
        return written

    @classmethod
    def from_json(cls, written: Mapping[str, object]) -> "Tag":
        """Return the tag that ``to_json`` wrote."""
        rest = {k: float(str(v)) for k, v in written.items() if k not in {"name", "unit", "kind"}}
        unit, kind = Unit.parse(str(written["unit"])), Kind(str(written["kind"]))
        return cls(str(written["name"]), unit, kind, **rest)


class Signals(tuple[Tag, ...]):
    """The signals of a stream, with a hash that is computed once.

    A plant has many devices of few models. What is made of their signals is kept by ``lru_cache``s,
    so equal signals, and what is made of them, stand in memory once.
    """

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def shared(tags: tuple[Tag, ...]) -> Signals:
    """Return the first of equal tuples of signals."""
    return _shared(tags if isinstance(tags, Signals) else Signals(tags))


@lru_cache(maxsize=256)
def _shared(signals: Signals) -> Signals:
    return signals


@lru_cache(maxsize=256)
def _index(signals: Signals) -> dict[str, int]:
    return {tag.name: i for i, tag in enumerate(signals)}


@lru_cache(maxsize=16)
def _written(signals: Signals) -> str:
    return _json([tag.to_json() for tag in signals])


def _read(text: str) -> Signals:
    """Return the signals that ``_written`` wrote; a log has many streams of few models."""
    key = blake2b(text.encode(), digest_size=16).digest()
    known = _READ.get(key)
    if known is None:
        if len(_READ) >= 256:
            _READ.clear()
        known = _READ[key] = shared(tuple(Tag.from_json(tag) for tag in json.loads(text)))
    return known


_READ: dict[bytes, Signals] = {}
_TAGS = ',"tags":'  # parts a canonical text: no key comes behind it, and no text holds it unescaped


def _json(written: object) -> str:
    return json.dumps(written, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Schema:
    """What the columns of a stream are.

    stream  ``<owner>/<name>``: ``em-kiln/raw``, ``em-kiln/slot``, ``clinker/1h``
    tags    made to be ``Signals``
    period  seconds between rows as configured; a gap of more than three is not covered by data
    provenance  of derived rows: ids of the configuration and of the table rows they rest on
    """

    stream: str
    family: Family
    tags: tuple[Tag, ...]
    period: float
    provenance: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", shared(self.tags))

    @property
    def signals(self) -> Signals:
        """``tags`` as what they are."""
        return shared(self.tags)

    @cached_property
    def owner(self) -> str:
        """The device or KPI that the rows belong to."""
        return self.stream.partition("/")[0]

    @cached_property
    def name(self) -> str:
        """The stream's name under its owner: ``raw``, ``slot``, ``1h``."""
        return self.stream.partition("/")[2]

    @property
    def past(self) -> bool:
        """Whether the rows are of an outage that is over, as the device remembers it."""
        return self.name == "raw.history"

    @cached_property
    def index(self) -> dict[str, int]:
        """Column of each signal by its name."""
        return _index(self.signals)

    def columns(self, names: Iterable[str]) -> NDArray[np.intp]:
        """Return the columns of the named signals; ``KeyError`` for an unknown one."""
        return np.array([self.index[name] for name in names], np.intp)

    @property
    def canonical(self) -> str:
        """The schema as JSON with a fixed order, the text that its id is the hash of."""
        head: dict[str, object] = {"family": self.family.value, "period": self.period}
        head["stream"] = self.stream
        if self.provenance:
            head["provenance"] = self.provenance
        return f"{_json(head)[:-1]}{_TAGS}{_written(self.signals)}}}"

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the content's hash (BLAKE2b)."""
        return blake2b(self.canonical.encode(), digest_size=8).hexdigest()

    @cached_property
    def layout(self) -> str:
        """The id of the same columns without their provenance: under it a state is kept."""
        return replace(self, provenance=()).id

    @classmethod
    def from_canonical(cls, text: str) -> "Schema":
        """Return the schema that ``canonical`` wrote."""
        head, _, tags = text.partition(_TAGS)
        written = json.loads(head + "}")
        signals = _read(tags.removesuffix("}"))
        stream, family = written["stream"], Family(written["family"])
        provenance = tuple(written.get("provenance", ()))
        return cls(stream, family, signals, float(written["period"]), provenance)


@dataclass(frozen=True, eq=False, slots=True)
class SampleBlock:
    """n consecutive scans of k signals, read-only.

    time     int64 (n,), ns since the Unix epoch, UTC, non-decreasing
    value    float64 (k, n) in tag units; NaN exactly where the quality is BAD
    quality  uint8 (k, n), see ``Quality``
    texts    of each text signal: number -> text, of every number that stands in its column, so
             that a block can be read without any other
    """

    schema: Schema
    time: I64
    value: F64
    quality: U8
    texts: Texts = field(default_factory=lambda: NO_TEXTS)

    def __post_init__(self) -> None:
        shape = (len(self.schema.tags), len(self.time))
        if self.value.shape != shape or self.quality.shape != shape:
            raise ValueError(f"{self.schema.stream}: {self.value.shape} is not {shape}")
        for array in (self.time, self.value, self.quality):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, name: str) -> F64:
        """Return the values of one signal, (n,)."""
        column: F64 = self.value[self.schema.index[name]]
        return column

    def rows(self, start: int, stop: int) -> "SampleBlock":
        """Return a view of some of the rows."""
        span = slice(start, stop)
        return SampleBlock(
            self.schema, self.time[span], self.value[:, span], self.quality[:, span], self.texts
        )

    def pick(self, rows: NDArray[np.intp]) -> "SampleBlock":
        """Return a copy of some of the rows, given by their indices in order."""
        picked = self.time[rows], self.value[:, rows], self.quality[:, rows]
        return SampleBlock(self.schema, *picked, self.texts)

    def marked(self, quality: U8) -> "SampleBlock":
        """Return the same rows with other qualities, (k, n)."""
        return replace(self, quality=quality)

    def text(self, column: int, row: int) -> str | None:
        """Return what a text signal said in a row; None where it is BAD or no text."""
        said = self.texts.get(self.schema.tags[column].name)
        if said is None or self.quality[column, row] >= Quality.BAD:
            return None
        return said.get(int(self.value[column, row]))

    def lawful(self) -> bool:
        """Return whether times do not go back and values are NaN exactly where they are BAD."""
        bad = self.quality >= Quality.BAD
        return bool(np.all(np.isnan(self.value) == bad) and np.all(np.diff(self.time) >= 0))


def concatenate(blocks: Sequence[SampleBlock]) -> SampleBlock:
    """Return the rows of several blocks of one schema as one block, in the order given."""
    if len(blocks) == 1:
        return blocks[0]
    return SampleBlock(
        blocks[0].schema,
        np.concatenate([b.time for b in blocks]),
        np.concatenate([b.value for b in blocks], axis=1),
        np.concatenate([b.quality for b in blocks], axis=1),
        _joined([b.texts for b in blocks]),
    )


def _joined(said: Sequence[Texts]) -> Texts:
    """Return the texts of several blocks of one stream: a number means the same in all of them."""
    if not any(said):
        return NO_TEXTS
    joined: dict[str, dict[int, str]] = {}
    for texts in said:
        for name, words in texts.items():
            joined.setdefault(name, {}).update(words)
    return joined


def no_answer(schema: Schema, time: int, quality: Quality = Quality.BAD_NO_ANSWER) -> SampleBlock:
    """Return the row that answers for a silent device: silence is data."""
    k = len(schema.tags)
    return SampleBlock(
        schema,
        np.array([time], np.int64),
        np.full((k, 1), np.nan),
        np.full((k, 1), quality, np.uint8),
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """What stands in a stream in place of rows that were dropped before a sink had them.

    first_ns, last_ns  times of the first and last row dropped
    reason             why: ``bytes``, ``age``, ``corrupt``
    """

    schema: Schema
    first_ns: int
    last_ns: int
    rows: int
    reason: str


@dataclass(frozen=True)
class Site:
    """The plant that the agent stands in.

    id       in topics, measurements and file names; gateway: one per agent of a site
    """

    id: str
    gateway: str
    name: str
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Asia/Shanghai"))
