"""What a driver is, what a device's configuration holds, and which streams its tags make.

A driver reads one physical link and does nothing else: no pace, no retry, no reconnect, no log of
failures. These are the supervisor's. To add a protocol, write one file with a ``DeviceConfig``
subclass and a class with the four members of ``Driver``, and name the config in
``drivers/__init__.py``.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Protocol, get_args, runtime_checkable
from urllib.parse import SplitResult, parse_qs, urlsplit

import numpy as np
from annotated_types import Ge, Gt, Le

from edge_agent.clock import Clock
from edge_agent.model import F64, U8, Family, Kind, Quality, SampleBlock, Schema, Tag, shared
from edge_agent.units import Duration, Unit

NumberType = Literal[
    "bool", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64",
    "bcd16", "bcd32", "bcd64", "m10k32", "m10k48", "m10k64", "text",
]  # fmt: skip
COUNTED = frozenset(  # whole numbers: one of them is the resolution of a counter
    get_args(NumberType)
) - {"bool", "f32", "f64", "text"}
Order = Literal["ABCD", "CDAB", "BADC", "DCBA"]

KEEP_ALIVE = 5.0  # seconds: a subscribed stream advances at least this often
TOLERANCE = 1.2  # a counter may run this much faster than its rated power allows


@dataclass(frozen=True)
class Group:
    """Signals of one device that are read together: one stream."""

    schema: Schema
    period: float | None  # seconds between reads; None: the device sets the pace


class Driver(Protocol):
    """One physical link. Called by one task per connection (and one per group that is pushed)."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """What can be read; known before the device is."""

    async def connect(self) -> None:
        """Open the link. Raises ``Disconnected``."""

    async def read(self, group: Group) -> SampleBlock:
        """Return at least one scan.

        errors  ``NoAnswer`` when the unit is silent but the link lives; ``Disconnected`` when the
                link is of no use
        """

    async def close(self) -> None:
        """Close the link; any number of times, also before ``connect``."""


@runtime_checkable
class Probes(Protocol):
    """A driver with several units on a line, whose silent ones are asked for a sign of life."""

    async def probe(self, device: str) -> None:
        """Return when the unit has answered the cheapest request there is: one register.

        errors  ``NoAnswer`` when it is silent, ``Disconnected`` when the link is of no use
        """


@runtime_checkable
class Learns(Protocol):
    """A driver that finds out what its devices bear, and need not find it out again."""

    def save(self) -> dict[str, object]:
        """Return what was learnt, JSON-able; kept with the checkpoint."""

    def load(self, state: Mapping[str, object], /) -> None:
        """Take over what ``save`` returned, before the first ``connect``.

        What does not fit (another configuration, another version) is passed over.
        """


@runtime_checkable
class Remembers(Protocol):
    """A driver whose devices remember what they measured while nobody asked."""

    async def past(self) -> SampleBlock:
        """Return the next rows of an outage that is over; wait for as long as there are none.

        They are a stream of their own, which is not among ``groups``: nobody answers for it.

        errors  ``Disconnected``; what was not returned yet comes after the next ``connect``
        """


@runtime_checkable
class KeepsFiles(Protocol):
    """A driver that needs files of its own, such as a certificate."""

    def keep_in(self, folder: Path) -> None:
        """Take the configuration's data folder, before the first ``connect``."""


@runtime_checkable
class Counts(Protocol):
    """A driver that counts what went wrong on its link without costing a value."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Return what happened how often since the start: ``late_frames``, ``retries``."""


class Vocabulary:
    """Running numbers for the texts of one signal; a number is never given to another text.

    The newest ``most`` texts are known; one that comes again after so many others gets a new
    number, which costs nothing: each block carries the texts of the numbers it holds.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._next = 0
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}

    def index(self, text: str) -> int:
        """Return the number of a text."""
        number = self._numbers.get(text)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[text], self._texts[number] = number, text
            if len(self._numbers) > self._most:
                oldest = next(iter(self._texts))
                del self._numbers[self._texts.pop(oldest)]
        return number

    def used(self, values: F64) -> dict[int, str]:
        """Return the texts of the numbers in a column; NaN has none."""
        numbers = {int(v) for v in values[~np.isnan(values)]}
        return {number: self._texts[number] for number in sorted(numbers) if number in self._texts}

    def save(self) -> dict[str, object]:
        """Return it JSON-able, so that numbers go on after a restart."""
        return {"next": self._next, "texts": [[n, t] for n, t in self._texts.items()]}

    @classmethod
    def load(cls, state: Mapping[str, object], most: int = 1000) -> "Vocabulary":
        """Return what ``save`` wrote; ``ValueError`` or ``TypeError`` if it did not."""
        loaded = cls(most)
        texts = state.get("texts", [])
        if not isinstance(texts, list):
            raise TypeError("texts must be a list")
        loaded._texts = {int(number): str(text) for number, text in texts}
        loaded._numbers = {text: number for number, text in loaded._texts.items()}
        loaded._next = max([int(str(state.get("next", 0))), *(n + 1 for n in loaded._texts)])
        return loaded


NO_STATES: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class TagConfig:
    """One tag as a person writes it, whatever the protocol.

    scale, offset  value = raw * scale * ratio + offset
    ratio          which transformer ratios of the device are applied (templates only)
    invalid        raw numbers by which the device says that it has no value
    length         characters of a text
    scale_from     the tag that holds a decimal exponent: value = raw * scale * 10**exponent
    """

    at: str
    type: NumberType | None = None
    order: Order | None = None
    length: Annotated[int, Ge(1), Le(250)] | None = None
    scale: float = 1.0
    scale_from: str | None = None
    offset: float = 0.0
    ratio: Literal["1", "ct", "pt", "ct*pt"] = "1"
    unit: str = "1"
    kind: Literal["gauge", "counter", "state", "text"] = "gauge"
    modulus: Annotated[float, Gt(0)] | None = None
    invalid: tuple[int, ...] = ()
    range: tuple[float, float] | None = None
    states: Mapping[int, str] = field(default_factory=lambda: NO_STATES)
    class_: Literal["fast", "slow"] = "fast"
    poll: Duration | None = None
    deadband: Annotated[float, Ge(0)] | None = None
    mode: Literal["poll", "subscribe"] = "poll"


@dataclass(frozen=True, kw_only=True)
class PollClasses:
    """How often the two poll classes are read."""

    fast: Duration = Duration(1.0)
    slow: Duration = Duration(60.0)


_USUAL = PollClasses()


@dataclass(frozen=True, kw_only=True)
class FlagConfig:
    """The tag by which an instrument says how it is; a state in none of the lists is a fault."""

    tag: str
    normal: tuple[int, ...]
    maintenance: tuple[int, ...] = ()
    calibration: tuple[int, ...] = ()
    fault: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What every device has; ``tags`` holds the template's tags and the device's own.

    shared   keys that must be equal for all devices of a link, if they have them
    ct, pt   transformer ratios, applied once, here, to tags whose template says secondary
    rated    kW; what the device can consume at most, for the plausibility of its counters
    """

    schemes: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ("timeout", "pause", "security")
    own_options: ClassVar[frozenset[str]] = frozenset({"unit", "address"})
    """Options of the URL in which devices of one link may differ."""

    connect: str
    template: str | None = None
    poll: Duration | PollClasses = Duration(1.0)
    ct: Annotated[float, Gt(0)] = 1.0
    pt: Annotated[float, Gt(0)] = 1.0
    rated: Annotated[float, Gt(0)] | None = None
    flag: FlagConfig | None = None
    timeout: Duration = Duration(1.0)
    tags: Mapping[str, TagConfig] = field(default_factory=dict)

    @cached_property
    def url(self) -> SplitResult:
        """``connect`` taken apart."""
        return urlsplit(self.connect)

    @cached_property
    def _options(self) -> Mapping[str, list[str]]:
        return parse_qs(self.url.query)

    def option(self, name: str, default: str) -> str:
        """Return an option of the URL: link and unit only."""
        return self._options.get(name, [default])[0]

    @property
    def link(self) -> Hashable:
        """What devices on the same socket or serial line have in common."""
        raise NotImplementedError

    @classmethod
    def build(cls, devices: "Mapping[str, DeviceConfig]", clock: Clock) -> Driver:
        """Return the driver of one link with its devices, by device id."""
        raise NotImplementedError

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Return what is wrong beyond the types: (path below the device, message)."""
        return []

    def explain(self, name: str, tag: str) -> list[tuple[str, str]]:  # noqa: ARG002
        """Return how a tag is asked for and decoded, for a person: (label, text).

        name  the device's id
        """
        return []

    @classmethod
    def usual_template(cls, connect: str) -> str | None:  # noqa: ARG003 – for those that have one
        """Return the template of a device that names neither one nor tags, by its address."""
        return None

    def clash(self, other: "DeviceConfig") -> str | None:  # noqa: ARG002 – for those that can
        """Return what of this device's address another one of its link has as well."""
        return None

    @property
    def occupies(self) -> float:
        """The share of its line's time that its polls take at least; 0 where nobody knows."""
        return 0.0

    @property
    def spacing(self) -> float | None:
        """Seconds between rows where the device itself sets the pace; None where it is asked."""
        return None

    def ratio_of(self, tag: TagConfig) -> Fraction:
        """Return the exact factor from raw to tag units: scale and transformer ratios, once."""
        ratio = _exact(tag.scale)
        if "ct" in tag.ratio:
            ratio *= _exact(self.ct)
        if "pt" in tag.ratio:
            ratio *= _exact(self.pt)
        return ratio

    def period_of(self, tag: TagConfig) -> float:
        """Return the seconds between two reads of a tag."""
        if tag.poll is not None:
            return tag.poll
        if isinstance(self.poll, PollClasses):
            return self.poll.slow if tag.class_ == "slow" else self.poll.fast
        return _USUAL.slow if tag.class_ == "slow" else self.poll

    def model_tag(self, name: str, tag: TagConfig) -> Tag:
        """Return the signal that the tag is, in engineering units."""
        ratio, unit = self.ratio_of(tag), Unit.parse(tag.unit)
        kind = Kind.TEXT if tag.type == "text" else Kind(tag.kind)
        low, high = tag.range or (float("-inf"), float("inf"))
        modulus = None if tag.modulus is None else float(_exact(tag.modulus) * ratio)
        max_rate = resolution = None
        if kind is Kind.COUNTER and tag.type in COUNTED and tag.scale_from is None:
            resolution = float(abs(ratio))
        if kind is Kind.COUNTER and self.rated is not None:
            power = Unit.parse("kW.h")
            if unit.dimension == power.dimension:
                max_rate = self.rated * TOLERANCE / 3600.0 * power.factor_to(unit)
        return Tag(name, unit, kind, modulus, low, high, max_rate, resolution)

    @cached_property
    def streams(self) -> tuple[tuple[str, float | None, tuple[Tag, ...]], ...]:
        """Name, period and signals of each stream; see ``groups_of``."""
        members: dict[str, list[str]] = {}
        periods: dict[str, float | None] = {}
        for name, tag in self.tags.items():
            if self.spacing is not None:
                stream, period = "raw", None
            elif tag.mode == "subscribe":
                stream, period = "raw.sub", None
            elif tag.poll is not None:
                stream, period = f"raw.{tag.poll:g}s", float(tag.poll)
            else:
                stream = "raw.slow" if tag.class_ == "slow" else "raw"
                period = float(self.period_of(tag))
            members.setdefault(stream, []).append(name)
            periods[stream] = period
        for names in members.values():
            needed = [self.flag.tag] if self.flag is not None else []
            needed += [t for name in names if (t := self.tags[name].scale_from) is not None]
            names += [name for name in dict.fromkeys(needed) if name not in names]
        return tuple(
            (stream, periods[stream], shared(tuple(self.model_tag(n, self.tags[n]) for n in names)))
            for stream, names in members.items()
        )


def groups_of(device: str, config: DeviceConfig) -> dict[Group, tuple[str, ...]]:
    """Return the streams of a device and the names of the tags in each, in the order written.

    ``raw`` and ``raw.slow`` are the poll classes, ``raw.5s`` a tag's own period, ``raw.sub`` what
    the device pushes. A device's flag is read with every stream that it judges, an exponent with
    every stream whose values it scales.
    """
    groups = {}
    for stream, period, tags in config.streams:
        spacing = period or config.spacing or KEEP_ALIVE
        schema = Schema(f"{device}/{stream}", Family.SAMPLE, tags, spacing)
        groups[Group(schema, period)] = tuple(tag.name for tag in tags)
    return groups


@lru_cache(maxsize=1024)
def _exact(number: float) -> Fraction:
    """Return a number as it was written: 0.1 is a tenth."""
    return Fraction(repr(number))


def apply_flag(config: DeviceConfig, schema: Schema, value: F64, quality: U8) -> None:
    """Mark, in place, the values of rows in which the instrument does not say that it is normal.

    value, quality  (k, n), decoded; the flag's own column is left as it is, and so is what is BAD.
                    A flag that could not be read is in none of the lists, so its row is marked as
                    well. The mark replaces any other doubt: metrics leave out what has it, and the
                    span gas of a calibration may well be out of range
    """
    if config.flag is None or config.flag.tag not in schema.index:
        return
    column = schema.index[config.flag.tag]
    flagged = ~np.isin(value[column], config.flag.normal)
    marked = flagged & (quality < Quality.BAD)
    marked[column] = False
    quality[marked] = Quality.UNCERTAIN_FLAGGED
