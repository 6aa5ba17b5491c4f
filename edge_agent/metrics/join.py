"""Joining rows of several streams per base slot: what every KPI's ``1min`` operator does.

A slot closes when every input has a row at or after its end. It closes without the missing ones
when the newest input has gone on for ``lateness`` since the end was first passed. A silence of all
inputs counts as one step of at most ``step``: after a stop of the agent the first stream to come
back does not close the slots of the gap, or those that were waiting, before the others have told of
them. Rows for a closed slot are counted in ``rows_late`` and otherwise ignored (of a raw stream
they still are the values that hold from then on). A gauge that is integrated holds a slot open as
long as its last usable row before the end may yet be linked with one after it (see ``integral``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.errors import ConfigError
from edge_agent.metrics.base import BAD, MINUTE, MISSING, Metric, Plant, State, Window, split_tag
from edge_agent.metrics.feed import Feed, Rows, is_minute, silence_of
from edge_agent.metrics.formula import Formula, Sums, row_of, schema_of
from edge_agent.metrics.integral import amount_unit, integrate, marked
from edge_agent.metrics.rollup import Chained, Rolling, RollUp
from edge_agent.metrics.slots import LONGEST_GAP, hold_of
from edge_agent.metrics.windows import Calendar
from edge_agent.model import F64, I64, U8, Family, Kind, SampleBlock, Schema
from edge_agent.units import Unit

__all__ = ["Counter", "Gauge", "Inputs", "Integral", "Minutes", "Reading", "Rows", "SlotFormula"]


FeedMaker = Callable[[Schema, Sequence[str], Sequence[str]], Feed]


class SlotFormula(Formula):
    """A formula that makes its base slots from the rows of its inputs."""

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        """Return the additive columns of the base slots with these ends; ``rows`` by stream id."""
        raise NotImplementedError


FOREVER = int(np.iinfo(np.int64).max)


def patience_of(schema: Schema, raw: Schema) -> int:
    """Return how far behind the newest input a stream may be, in ns.

    A raw stream: two periods. Slot rows: what their slots may wait for a counter that is silent and
    then asks a question (twice the hold), and the row that ends it.
    """
    if schema.family is Family.SLOT:
        return 2 * hold_of(raw) + round(2e9 * raw.period) + MINUTE
    return round(2e9 * raw.period)


def lateness_of(feeds: Iterable[tuple[Schema, Schema]]) -> int:
    """Return how far a KPI waits, in ns, for pairs of the stream wanted and its raw stream."""
    return max(max((patience_of(*pair) for pair in feeds), default=0) + 5 * SECOND, 65 * SECOND)


class Minutes:
    """The ``1min`` operator of a KPI."""

    def __init__(
        self, output: Schema, formula: SlotFormula, feeds: Sequence[Feed], lateness: int, step: int
    ) -> None:
        self.formula = formula
        self._feeds = {feed.schema.stream: feed for feed in feeds}
        self._output = output
        self._lateness, self._step = lateness, step
        self._newest = -1  # time of the newest row of any input
        self._waited = 0  # ns that the newest input has gone on, silence left out
        self._next = -1  # number of the first open slot
        self._quiet = 0  # ns; rows before it close nothing
        self._due: list[
            tuple[int, int]
        ] = []  # slots before -> ``_waited`` when their ends were passed
        self.rows_late = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self._feeds)

    @property
    def output(self) -> Schema:
        return self._output

    @property
    def quiet(self) -> int:
        return self._quiet

    def running(self, now: int, open_rows: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the first open slot so far; its coverage is of the part that has passed."""
        slot = self._next if self._next >= 0 else self._start()
        start, end = slot * MINUTE, (slot + 1) * MINUTE
        now = min(now, end - 1)
        if slot < 0 or now <= start:
            return None
        rows = {
            stream: feed.so_far(now, end, open_rows.get(stream))
            for stream, feed in self._feeds.items()
        }
        sums = self._base(np.array([end]), rows, now)
        sums.length[0], sums.expected[0] = now - start, (now - start) / MINUTE
        sums.covered = np.minimum(sums.covered, sums.length)
        sums.estimated = np.minimum(sums.estimated, sums.length - sums.covered)
        return row_of(self.formula, self._output, np.array([now]), sums)

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        feed = self._feeds[block.schema.stream]
        if self._next >= 0:
            border = self._next * MINUTE + feed.is_slot
            if int(block.time[0]) < border:
                self.rows_late += int(np.searchsorted(block.time, border))
        feed.add(block)
        if feed.seen > self._newest:
            self._waited += min(feed.seen - self._newest, self._step)
            self._newest = feed.seen
        if feed.seen < self._quiet:  # no input has passed a border since all had been waited for
            return None
        passed = self._newest // MINUTE
        if not self._due or passed > self._due[-1][0]:
            self._due.append((passed, self._waited))
        until = min(f.settled() for f in self._feeds.values()) // MINUTE
        sure = min((f.seen for f in self._feeds.values() if is_minute(f.schema)), default=FOREVER)
        # the minutes of another metric come for certain: they are waited for, however long
        while self._due and self._waited >= self._due[0][1] + self._lateness:
            if self._due[0][0] * MINUTE > sure:
                break
            until = max(until, self._due.pop(0)[0])
        while self._due and self._due[0][0] <= until:
            del self._due[0]
        self._quiet = 0 if self._due else (passed + 1) * MINUTE
        first = self._next if self._next >= 0 else self._start()
        if until <= first:
            return None
        return self._close(first, until)

    def _start(self) -> int:
        return min((f.first for f in self._feeds.values() if f.first >= 0), default=-1)

    def _close(self, first: int, until: int) -> SampleBlock | None:
        slots = np.arange(first, until)
        if len(slots) > LONGEST_GAP:
            slots = self._told(slots)
        ends = (slots + 1) * MINUTE
        rows = {stream: feed.rows() for stream, feed in self._feeds.items()}
        made = self._made(ends, rows) if len(ends) else None
        self._next = until
        for feed in self._feeds.values():
            feed.forget(until * MINUTE)
        return made

    def _made(self, ends: I64, rows: Mapping[str, Rows]) -> SampleBlock | None:
        """Return what the slots with these ends make."""
        return row_of(self.formula, self._output, ends, self._base(ends, rows))

    def _told(self, slots: I64) -> I64:
        """Return the slots but for those of gaps so long that the plant stood still."""
        told = np.unique(np.concatenate([feed.slots() for feed in self._feeds.values()]))
        told = told[(told >= slots[0]) & (told <= slots[-1])]
        edges = np.concatenate([[slots[0] - 1], told, [slots[-1] + 1]])
        before = np.searchsorted(edges, slots, "right") - 1
        short = np.diff(edges) <= LONGEST_GAP
        kept: I64 = slots[short[before] | (slots == edges[before])]
        return kept

    def _base(self, ends: I64, rows: Mapping[str, Rows], _now: int | None = None, /) -> Sums:
        """Return the additive columns of base slots; one that remembers slots before adds to them.

        _now  of a slot that is still open: nothing is remembered of it
        """
        return self.formula.base(ends, rows)

    def save(self) -> State:
        return {
            "next": self._next,
            "newest": self._newest,
            "waited": self._waited,
            "due": self._due,
            "late": self.rows_late,
            "feeds": {stream: feed.save() for stream, feed in self._feeds.items()},
        }

    def load(self, state: State, /) -> None:
        self._next, self.rows_late = int(str(state["next"])), int(str(state["late"]))
        self._newest, self._waited = int(str(state["newest"])), int(str(state["waited"]))
        due = cast("list[tuple[int, int]]", state["due"])
        feeds = cast("Mapping[str, State]", state["feeds"])
        self._due = [(int(slot), int(waited)) for slot, waited in due]
        self._quiet = 0
        for stream, feed in self._feeds.items():
            feed.load(feeds[stream])


@dataclass
class Inputs:
    """Collects which columns of which streams a KPI reads, while it is built."""

    plant: Plant

    def __post_init__(self) -> None:
        self._columns: dict[str, tuple[Schema, Schema, list[str]]] = {}
        self._integrals: dict[str, list[str]] = {}
        self._own: dict[str, tuple[FeedMaker, int]] = {}

    def increment(self, tag: str) -> "Counter":
        """Ask for the slot rows of a counter."""
        schema, (_, name) = self.plant.slot(tag), split_tag(tag)
        columns = tuple(f"{name}.{suffix}" for suffix in ("increment", "coverage", "estimated"))
        self._ask(schema, self.plant.raw(tag), columns)
        unit = schema.tags[schema.index[columns[0]]].unit
        return Counter(schema.stream, columns, unit)

    def amount(self, tag: str) -> "Counter | Integral":
        """Ask for what a counter counts, or for the integral of a gauge whose unit is a rate.

        errors  ``ValueError`` when the tag is neither
        """
        schema, (_, name) = self.plant.raw(tag), split_tag(tag)
        signal = schema.tags[schema.index[name]]
        if signal.kind is Kind.COUNTER:
            return self.increment(tag)
        if signal.kind is not Kind.GAUGE:
            raise ValueError(f'"{tag}" is a {signal.kind.value}, must be a counter or a gauge')
        unit, per = amount_unit(signal.unit)
        self._ask(schema, schema, (name,))
        self._integrals.setdefault(schema.stream, []).append(name)
        reading = Reading(schema.stream, name, signal.unit, schema.period)
        return Integral(reading, unit, per, silence_of(schema), self.plant.quality.uncertain_below)

    def gauge(self, tag: str) -> "Gauge":
        """Ask for the slot rows of a gauge; ``KeyError`` for a tag that is none."""
        schema, (_, name) = self.plant.slot(tag), split_tag(tag)
        columns = tuple(f"{name}.{suffix}" for suffix in ("mean", "min", "max", "coverage"))
        self._ask(schema, self.plant.raw(tag), columns)
        return Gauge(schema.stream, columns, schema.tags[schema.index[columns[0]]].unit)

    def raw(self, tag: str) -> "Reading":
        """Ask for the raw rows of a tag."""
        schema, (_, name) = self.plant.raw(tag), split_tag(tag)
        self._ask(schema, schema, (name,))
        return Reading(schema.stream, name, schema.tags[schema.index[name]].unit, schema.period)

    def register(self, tag: str) -> str:
        """Ask for the register at the end of a counter's slots; return the column's name."""
        schema, (_, name) = self.plant.slot(tag), split_tag(tag)
        self._ask(schema, self.plant.raw(tag), (f"{name}.reading",))
        return f"{name}.reading"

    def minute(self, reference: str) -> "Counter":
        """Ask for an additive column of another metric's minutes; it is read like a counter.

        errors  ``ValueError`` when that metric has no minutes
        """
        schema, column = self.plant.derived(reference)
        if schema.name != "1min":
            raise ValueError(f'"{schema.owner}" needs the window 1min for this')
        columns = (column, "coverage", "estimated")
        self._ask(schema, schema, columns)
        return Counter(schema.stream, columns, schema.tags[schema.index[column]].unit)

    def own_feed(self, stream: str, make: "FeedMaker", wait: int) -> None:
        """Keep the rows of a raw stream in a feed of one's own.

        wait  ns that it may hold a slot
        """
        self._own[stream] = make, wait

    def _ask(self, schema: Schema, raw: Schema, columns: tuple[str, ...]) -> None:
        self._columns.setdefault(schema.stream, (schema, raw, []))[2].extend(columns)

    def metrics(
        self,
        name: str,
        formula: SlotFormula,
        windows: Sequence[Window],
        kind: type["Minutes"] | None = None,
    ) -> list[Metric]:
        """Return the KPI's operators, one per window; the first gets blocks before the others.

        kind  of the ``1min`` operator, ``Minutes`` unless it is one that remembers slots
        """
        if "shift" in windows and not self.plant.shifts:
            raise ConfigError([f"metrics.{name}.windows: shift needs shifts.calendar"])
        rollups = self.rollups(name, formula, [w for w in windows if w != "1min"])
        if "1min" in windows:
            return [self.minutes(name, formula, kind), *rollups]
        return [Chained(self.minutes(name, formula, kind), rollup) for rollup in rollups]

    def rollups(
        self, name: str, formula: Formula, windows: Sequence[Window], source: Window = "1min"
    ) -> list[RollUp]:
        """Return what merges the rows of a window of the KPI into those of longer ones."""
        calendar = Calendar(self.plant.site.zone, self.plant.shifts)
        made = self.plant.provenance(formula.sources)
        return [
            Rolling(name, formula, calendar, source=source, provenance=made)
            if window == "12mo"
            else RollUp(name, formula, window, calendar, source=source, provenance=made)
            for window in windows
        ]

    def minutes(
        self, name: str, formula: SlotFormula, kind: type["Minutes"] | None = None
    ) -> "Minutes":
        """Return the KPI's ``1min`` operator."""
        output = schema_of(name, "1min", formula, self.plant.provenance(formula.sources))
        return (kind or Minutes)(output, formula, *self.joined())

    def joined(self) -> tuple[list[Feed], int, int]:
        """Return the feeds asked for, how long they are waited for, and a silence's longest step.

        The latter two in ns, as ``Minutes`` takes them.
        """
        asked = self._columns.values()
        integrals = self._integrals
        plain: tuple[FeedMaker, int] = (Feed, 0)
        feeds = [
            self._own.get(s.stream, plain)[0](s, columns, integrals.get(s.stream, ()))
            for s, _, columns in asked
        ]
        links = [silence_of(s) + 5 * SECOND for s, _, _ in asked if s.stream in integrals]
        waited = [(s, raw) for s, raw, _ in asked if not is_minute(s)]
        lateness = max(lateness_of(waited), *links, 0)
        lateness += max((wait for _, wait in self._own.values()), default=0)
        step = max(MINUTE, *(round(raw.period * 1e9) for _, raw, _ in asked))
        return feeds, lateness, step


@dataclass(frozen=True)
class Counter:
    """Where a counter's slot rows stand; columns ``increment coverage estimated``."""

    stream: str
    columns: tuple[str, ...]
    unit: Unit

    def read(self, ends: I64, rows: Mapping[str, Rows]) -> tuple[F64, U8, I64, I64]:
        """Return increment, its quality, covered and estimated ns of the slots with these ends."""
        given = rows[self.stream]
        found, there = given.at(ends)
        told = np.count_nonzero(there)
        if not told:
            missing = np.full(len(ends), MISSING, np.uint8)
            none = np.zeros(len(ends), np.int64)
            return np.zeros(len(ends)), missing, none, none
        increment, *shares = (given.index[column] for column in self.columns)
        quality = given.quality[increment, found]
        spans = np.rint(given.value[shares][:, found] * MINUTE).astype(np.int64)
        if told < len(ends):
            quality[~there], spans[:, ~there] = MISSING, 0
        value = np.where(quality < BAD, given.value[increment, found], 0.0)
        return value, quality, spans[0], spans[1]


@dataclass(frozen=True)
class Gauge:
    """Where a gauge's slot rows stand; columns ``mean min max coverage``."""

    stream: str
    columns: tuple[str, ...]
    unit: Unit

    def read(self, ends: I64, rows: Mapping[str, Rows]) -> tuple[F64, U8, I64]:
        """Return mean, lowest and highest value (3, n), their quality and the covered ns."""
        given = rows[self.stream]
        found, there = given.at(ends)
        if not there.any():
            missing = np.full(len(ends), MISSING, np.uint8)
            return np.zeros((3, len(ends))), missing, np.zeros(len(ends), np.int64)
        places = [given.index[column] for column in self.columns]
        quality = np.where(there, given.quality[places[0], found], MISSING)
        value = np.where(quality < BAD, given.value[places[:3]][:, found], 0.0)
        covered = np.where(there, np.rint(given.value[places[3], found] * MINUTE), 0.0)
        return value, quality.astype(np.uint8), covered.astype(np.int64)


@dataclass(frozen=True)
class Reading:
    """Where the raw rows of a tag stand."""

    stream: str
    name: str
    unit: Unit
    period: float

    def read(self, rows: Mapping[str, Rows]) -> tuple[I64, F64, U8]:
        """Return time, value and quality of the rows."""
        given = rows[self.stream]
        column = given.index[self.name]
        return given.time, given.value[column], given.quality[column]


@dataclass(frozen=True)
class Integral:
    """The amount of a gauge whose unit is a rate, from its raw rows; used like a ``Counter``.

    unit     of the amount; per: seconds that a rate of one takes for an amount of one
    silence  ns; over an outage longer than that nothing is made up
    """

    reading: Reading
    unit: Unit
    per: float
    silence: int
    uncertain_below: float

    def read(self, ends: I64, rows: Mapping[str, Rows]) -> tuple[F64, U8, I64, I64]:
        """Return amount, its quality, covered and estimated ns of the slots with these ends.

        An amount is what the covered time had, so it is BAD only where nothing is covered; no time
        is estimated.
        """
        time, value, quality = self.reading.read(rows)
        total, worst, covered = integrate(time, value, quality, ends, self.silence)
        marks = marked(worst, covered, MINUTE, self.uncertain_below)
        return total / self.per, marks, covered, np.zeros(len(ends), np.int64)
