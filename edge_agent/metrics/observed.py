"""What tags and columns of other metrics had in each window, one row per window.

A counter's increments are added up; an energy that is measured as power is integrated; any other
gauge is averaged over the time in which it is known. A column of another metric is taken from that
metric's row of the same window. Rows of several streams belong together by their end: a window
closes when every stream has a row at or after its end, or when ``LONGEST`` windows wait for one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from edge_agent.metrics.base import MINUTE, Metric, Plant, QualityLimits, State, Window, split_tag
from edge_agent.metrics.formula import SHARES, Sums, graded, merged, unknown
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.join import Counter, Gauge, Inputs, Integral, Rows, SlotFormula
from edge_agent.metrics.rollup import Chained
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.units import Unit

LONGEST = 40  # windows that wait for a stream that tells nothing


@dataclass(frozen=True)
class Wanted:
    """One input: its name, its tag or column, and whether a rate is integrated."""

    name: str
    tag: str
    amount: bool = False


@dataclass(frozen=True)
class Observed(SlotFormula):
    """Window values of tags of devices; its rows are not published.

    amounts, gauges  by the name of the input
    """

    amounts: Mapping[str, Counter | Integral]
    gauges: Mapping[str, Gauge]
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.BASELINE

    @property
    def tags(self) -> tuple[Tag, ...]:
        one, second = Unit.parse("1"), Unit.parse("s")
        amounts = [Tag(name, amount.unit) for name, amount in self.amounts.items()]
        areas = [Tag(f"{name} area", one) for name in self.gauges]
        times = [Tag(f"{name} time", second) for name in self.gauges]
        means = [Tag(name, gauge.unit) for name, gauge in self.gauges.items()]
        return (*amounts, *areas, *times, *means, *SHARES)

    @property
    def additive(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags[: len(self.amounts) + 2 * len(self.gauges)])

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        n, a, g = len(ends), len(self.amounts), len(self.gauges)
        sums = Sums.zeros(a + 2 * g, n)
        covered, estimated = np.full(n, MINUTE), np.zeros(n, np.int64)
        for i, amount in enumerate(self.amounts.values()):
            value, quality, full, guessed = amount.read(ends, rows)
            sums.set(i, value, quality)
            covered, estimated = np.minimum(covered, full), np.maximum(estimated, guessed)
        for i, gauge in enumerate(self.gauges.values(), a):
            cells, quality, full = gauge.read(ends, rows)
            sums.set(i, cells[0] * (full / 1e9), quality)
            sums.set(i + g, full / 1e9, quality)
            covered = np.minimum(covered, full)
        sums.covered, sums.estimated = covered, np.minimum(estimated, sums.length - covered)
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        a, g = len(self.amounts), len(self.gauges)
        area, seconds = sums.total[a : a + g], sums.total[a + g :]
        mean = np.divide(area, seconds, out=np.full(area.shape, np.nan), where=seconds > 0)
        marks = np.where(sums.known == 0, unknown(sums), sums.worst)[a : a + g].astype(np.uint8)
        marks = graded(marks, seconds * 1e9 / sums.length, self.limits)
        return np.vstack([sums.total, mean]), np.vstack([merged(sums, self.limits), marks])


@dataclass(frozen=True)
class Observation:
    """One window: its end, value and quality of each input, its covered and estimated share."""

    end: int
    value: F64
    quality: U8
    covered: float
    estimated: float


class Windows:
    """Joins the rows of the streams that hold the inputs of a metric.

    units  of the inputs, in the order in which they are wanted
    errors ``KeyError`` for an unknown tag, ``ValueError`` for a column of another window
    """

    def __init__(self, name: str, wanted: Sequence[Wanted], plant: Plant, window: Window) -> None:
        columns = {w.name: column for w in wanted if (column := _column(plant, w.tag, window))}
        own = [w for w in wanted if w.name not in columns]
        self._part = _part(name, own, plant, window) if own else None
        if self._part is not None:
            columns |= {w.name: (self._part.output, w.name) for w in own}
        self._places: dict[str, list[tuple[int, int]]] = {}
        units = []
        for i, (schema, name_there) in enumerate(columns[w.name] for w in wanted):
            place = schema.index[name_there]
            self._places.setdefault(schema.stream, []).append((i, place))
            units.append(schema.tags[place].unit)
        self.units = tuple(units)
        self._open: dict[str, list[Observation]] = {stream: [] for stream in self._places}
        self._seen = dict.fromkeys(self._places, -1)
        self._done = -1  # end of the last window handed out
        self._fed: dict[str, int] = {}  # time of the last slot row that the part had, by stream

    @property
    def inputs(self) -> tuple[str, ...]:
        """Stream ids of the blocks that ``take`` wants."""
        own = () if self._part is None else self._part.inputs
        part = "" if self._part is None else self._part.output.stream
        return (*own, *(stream for stream in self._places if stream != part))

    @property
    def rows_late(self) -> int:
        """Rows that came for a closed slot."""
        return int(getattr(self._part, "rows_late", 0))

    def take(self, block: SampleBlock) -> list[Observation]:
        """Return the windows that a block completes, oldest first."""
        if self._part is not None and block.schema.stream in self._part.inputs:
            rows = self._part.update(new) if len(new := self._new(block)) else None
            if rows is not None:
                self._put(rows)
        if block.schema.stream in self._open:
            self._put(block)
        until = min(self._seen.values())
        ends = sorted({row.end for rows in self._open.values() for row in rows})
        if len(ends) > LONGEST:
            until = max(until, ends[-LONGEST - 1])
        return [self._joined(end) for end in ends if end <= until]

    def pass_by(self, end: int) -> None:
        """Do not hand out the windows up to an end: they are known from elsewhere."""
        self._done = end

    def _new(self, block: SampleBlock) -> SampleBlock:
        """Return the rows that the part did not have yet: stored ones may be fed again."""
        if block.schema.family is not Family.SLOT:
            return block
        first = int(np.searchsorted(block.time, self._fed.get(block.schema.stream, -1), "right"))
        if first < len(block):
            self._fed[block.schema.stream] = int(block.time[-1])
        return block.rows(first, len(block))

    def _put(self, block: SampleBlock) -> None:
        stream = block.schema.stream
        places = self._places[stream]
        columns = [column for _, column in places]
        for j in range(int(np.searchsorted(block.time, self._done, "right")), len(block)):
            end = int(block.time[j])
            if end <= self._seen[stream]:  # fed again
                continue
            value, quality = block.value[columns, j], block.quality[columns, j]
            covered, estimated = block.value[-2:, j].tolist()
            self._open[stream].append(Observation(end, value, quality, covered, estimated))
            self._seen[stream] = end

    def _joined(self, end: int) -> Observation:
        n = len(self.units)
        value, quality = np.full(n, np.nan), np.full(n, Quality.BAD_MISSING, np.uint8)
        covered, estimated = 1.0, 0.0
        for stream, rows in self._open.items():
            row = rows.pop(0) if rows and rows[0].end == end else None
            covered = min(covered, 0.0 if row is None else row.covered)
            if row is not None:
                estimated = max(estimated, row.estimated)
                places = [i for i, _ in self._places[stream]]
                value[places], quality[places] = row.value, row.quality
        self._done = end
        return Observation(end, value, quality, covered, min(estimated, 1.0 - covered))

    def save(self) -> State:
        """Return the state; see ``State``."""
        return {
            "part": None if self._part is None else self._part.save(),
            "open": {s: [_saved(row) for row in rows] for s, rows in self._open.items()},
            "seen": dict(self._seen),
            "done": self._done,
            "fed": dict(self._fed),
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        if self._part is not None:
            self._part.load(cast("State", state["part"]))
        self._fed = {k: int(v) for k, v in cast("Mapping[str, int]", state["fed"]).items()}
        self._take_over(state)

    def resume(self, state: State) -> None:
        """Take over what another configuration had of the same inputs; open minutes begin anew."""
        if isinstance(self._part, Chained):
            self._part.resume(cast("State", state["part"]))
        self._take_over(state)

    def _take_over(self, state: State) -> None:
        waiting = cast("Mapping[str, list[State]]", state["open"])
        seen = cast("Mapping[str, int]", state["seen"])
        self._done = int(str(state["done"]))
        for stream in self._open:
            self._open[stream] = [_loaded(row) for row in waiting.get(stream, [])]
            self._seen[stream] = int(seen.get(stream, -1))


def _column(plant: Plant, tag: str, window: Window) -> tuple[Schema, str] | None:
    """Return stream and column of another metric; None for a tag of a device, or a computed one."""
    try:
        schema, column = plant.derived(tag)
    except KeyError:
        return None
    if schema.name.startswith("raw"):
        return None
    if schema.name != window:
        right = f"{tag.removesuffix(f'_{schema.name}')}_{window}"
        raise ValueError(f'"{tag}" has rows of {schema.name}, not of {window} (write {right})')
    return schema, column


def _part(name: str, own: Sequence[Wanted], plant: Plant, window: Window) -> Metric:
    """Return the operator of those inputs that are tags of devices."""
    inputs = Inputs(plant)
    amounts: dict[str, Counter | Integral] = {}
    gauges: dict[str, Gauge] = {}
    for w in own:
        schema = plant.raw(w.tag)
        kind = schema.tags[schema.index[split_tag(w.tag)[1]]].kind
        if w.amount or kind is Kind.COUNTER:
            amounts[w.name] = inputs.amount(w.tag)
        else:
            gauges[w.name] = inputs.gauge(w.tag)
    return inputs.metrics(name, Observed(amounts, gauges, plant.quality), (window,))[0]


def _saved(row: Observation) -> State:
    value, quality = kept(row.value), kept(row.quality)
    shares = [row.covered, row.estimated]
    return {"end": row.end, "value": value, "quality": quality, "shares": shares}


def _loaded(state: State) -> Observation:
    covered, estimated = floats(state, "shares").tolist()
    quality = np.array(state["quality"], np.uint8)
    return Observation(int(str(state["end"])), floats(state, "value"), quality, covered, estimated)
