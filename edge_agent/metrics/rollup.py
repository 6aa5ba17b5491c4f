"""Sums of windows: what is added up, how a row is made of it, and how longer windows are merged.

A KPI's formula says which of its columns are additive (amounts, times, counts, sums of minutes) and
derives the others from them with one pure function. Longer windows add up the additive columns of
the ``1min`` rows and derive again: a ratio is never averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import (
    BAD,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    UNCERTAIN,
    Metric,
    QualityLimits,
    State,
    Window,
)
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.windows import PERIODS, Calendar
from edge_agent.model import F64, I64, U8, Family, SampleBlock, Schema, Tag, concatenate
from edge_agent.units import Unit

T = TypeVar("T", bound=np.generic)
_SHARE = Unit.parse("1")
ASIDE = 15  # blocks of rows that are added at once
SHARES = (Tag("coverage", _SHARE), Tag("estimated", _SHARE))


@dataclass
class Sums:
    """Additive numbers of n windows.

    total      float64 (a, n), sums of the additive columns, in exact steps where they have some; of
               a column that is a peak, the largest
    known      int64 (a, n), base rows in which the column was known
    worst      uint8 (a, n), worst quality of those; of a row in which it was not known, why
    covered, estimated, length   int64 (n,), ns
    expected   float64 (n,), base rows that the window has when nothing is missing
    """

    total: F64
    known: I64
    worst: U8
    covered: I64
    estimated: I64
    length: I64
    expected: F64

    @classmethod
    def zeros(cls, a: int, n: int) -> "Sums":
        """Return n windows of a columns without any base slot; the length is that of one slot."""
        counts = np.zeros((a, n), np.int64)
        spans = np.zeros(n, np.int64)
        worst = np.zeros((a, n), np.uint8)
        length = np.full(n, MINUTE)
        return cls(np.zeros((a, n)), counts, worst, spans, spans.copy(), length, np.ones(n))

    def set(self, column: int, value: F64, quality: U8) -> None:
        """Set one additive column of base slots; it is unknown where the quality is bad."""
        good = quality < BAD
        self.total[column] = np.where(good, value, 0.0)
        self.known[column] = good
        self.worst[column] = quality

    def share(self) -> F64:
        """Return the covered and estimated share of each window."""
        return (self.covered + self.estimated) / self.length


class Formula:
    """The pure part of a KPI, the same for every window; a frozen dataclass inherits from it.

    limits  the thresholds of window quality
    """

    limits: QualityLimits

    @property
    def family(self) -> Family:
        """The measurement its rows belong to."""
        raise NotImplementedError

    @property
    def tags(self) -> tuple[Tag, ...]:
        """The columns, in the order in which they are published; the last two are ``SHARES``."""
        raise NotImplementedError

    @property
    def additive(self) -> tuple[str, ...]:
        """The columns that are added up."""
        raise NotImplementedError

    @property
    def scale(self) -> F64:
        """What the published additive columns are multiplied with to be the totals, (a,)."""
        return np.ones(len(self.additive))

    @property
    def peaks(self) -> NDArray[np.bool_]:
        """Which additive columns are merged by their maximum instead of their sum, (a,)."""
        return np.zeros(len(self.additive), bool)

    @property
    def by_coverage(self) -> NDArray[np.bool_]:
        """Which additive columns are as good as the coverage of the whole window, (a,).

        Of these, a row that is UNCERTAIN for its own coverage only is added up as if it were good.
        """
        return np.ones(len(self.additive), bool)

    @property
    def sources(self) -> tuple[str, ...]:
        """Ids of the table rows that it computes with."""
        return ()

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        """Return value and quality of all columns but the last two, (k - 2, n)."""
        raise NotImplementedError


def stacked(columns: Sequence[NDArray[T]]) -> NDArray[T]:
    """Return columns (n,) as one array (m, n); ``np.stack`` takes three times as long."""
    return np.concatenate(columns).reshape(len(columns), -1)


def merged(sums: Sums, limits: QualityLimits) -> U8:
    """Return the quality of additive columns: (a, n).

    A sum is bad only when none of its parts is known, and uncertain when some is not.
    """
    partly = (sums.known < sums.expected) | (sums.share() < limits.uncertain_below)
    quality = np.maximum(sums.worst, partly * np.uint8(UNCERTAIN))
    none = sums.known == 0
    if np.count_nonzero(none):
        quality = np.where(none, unknown(sums), quality)
    return quality.astype(np.uint8)


def unknown(sums: Sums) -> U8:
    """Return the quality of columns that are not known: the reason, where there is one, (a, n)."""
    return np.where(sums.worst < BAD, np.uint8(MISSING), sums.worst)


def worse(one: tuple[U8, I64], other: tuple[U8, I64]) -> U8:
    """Return the worst quality of known rows of two parts; of unknown ones only if no row is known.

    Each part is (worst, known), as in ``Sums``.
    """
    (first, some), (second, more) = one, other
    first = np.where((some == 0) & (more > 0), 0, first)
    second = np.where((more == 0) & (some > 0), 0, second)
    return np.maximum(first, second).astype(np.uint8)


def graded(quality: U8, share: F64, limits: QualityLimits) -> U8:
    """Return a quality that is at least as bad as the share of good time makes it."""
    thin, missing = share < limits.uncertain_below, share < limits.bad_below
    quality = np.maximum(quality, thin * np.uint8(UNCERTAIN))
    if np.count_nonzero(missing):
        quality = np.where(missing & (quality < BAD), MISSING, quality)
    return quality.astype(np.uint8)


def ratio(over: F64, under: F64, quality: U8) -> tuple[F64, U8]:
    """Return the quotient and its quality: ``BAD_NOT_AVAILABLE`` where the divisor is 0."""
    there = under != 0
    if np.count_nonzero(there) == there.size:
        return over / under, quality.astype(np.uint8)
    value = np.divide(over, under, out=np.full(over.shape, np.nan), where=there)
    return value, np.where(~there & (quality < BAD), NOT_AVAILABLE, quality).astype(np.uint8)


def row_of(formula: Formula, schema: Schema, time: I64, sums: Sums) -> SampleBlock:
    """Return the published rows of windows."""
    derived, marks = formula.derive(sums)
    value, quality = (
        np.empty((len(marks) + 2, len(time))),
        np.zeros((len(marks) + 2, len(time)), np.uint8),
    )
    value[:-2], quality[:-2] = derived, marks
    value[:-2][marks >= BAD] = np.nan
    value[-2], value[-1] = sums.covered / sums.length, sums.estimated / sums.length
    return SampleBlock(schema, time, value, quality)


def schema_of(
    name: str, window: Window, formula: Formula, provenance: tuple[str, ...] = ()
) -> Schema:
    """Return the schema of a KPI's stream of one window; provenance: see ``Plant.provenance``."""
    stream, period = f"{name}/{window}", PERIODS[window]
    return Schema(stream, formula.family, formula.tags, period, provenance)


class RollUp:
    """Merges the rows of a KPI's shorter window into rows of a longer one.

    source  the window whose rows are merged; each counts as one base row of ``Sums``
    """

    def __init__(
        self,
        name: str,
        formula: Formula,
        window: Window,
        calendar: Calendar,
        *,
        source: Window = "1min",
        provenance: tuple[str, ...] = (),
    ) -> None:
        self._formula = formula
        self._window = window
        self._calendar = calendar
        self._source = source
        self._input = f"{name}/{source}"
        self._output = schema_of(name, window, formula, provenance)
        self._places = np.array([], np.intp)
        self._peaks, self._by_coverage = formula.peaks, formula.by_coverage[:, None]
        self._span: tuple[int, int] | None = None
        self._newest = 0
        self._sums = Sums.zeros(len(formula.additive), 1)
        self._aside: list[SampleBlock] = []  # rows of the open window that are not added yet

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._input,)

    @property
    def output(self) -> Schema:
        return self._output

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        done: list[SampleBlock] = []
        i = int(np.searchsorted(block.time, self._newest, "right"))  # fed again: added already
        while i < len(block):
            self._go_to(int(block.time[i]) - 1, done)
            if self._span is None:  # in no shift
                i += 1
                continue
            j = int(np.searchsorted(block.time, self._span[1], "right"))
            self._add(block.rows(i, j))
            if self._newest == self._span[1]:
                self._close(done)
            i = j
        return concatenate(done) if done else None

    def running(self, _now: int, open_rows: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the open window so far with its open base row; coverage is of what has passed."""
        part, span = open_rows.get(self._input), self._span
        now = self._newest if part is None else int(part.time[-1])
        if span is None and part is not None:
            span = self._calendar.window(self._window, now)
        if span is None or now <= span[0]:
            return None
        sums = self._copy()
        if part is not None:
            self._plus(sums, part)
        sums.length[0], sums.expected[0] = now - span[0], self._expected(span[0], now)
        return self._row(now, sums)

    def _go_to(self, instant: int, done: list[SampleBlock]) -> None:
        if self._span is not None and instant >= self._span[1]:
            self._close(done)
        if self._span is None:
            self._span = self._calendar.window(self._window, instant)

    def _add(self, block: SampleBlock) -> None:
        """Lay rows aside: to add some of them at once is the same and takes less time."""
        self._aside.append(block)
        self._newest = int(block.time[-1])
        if len(self._aside) >= ASIDE:
            self._add_aside()

    def _add_aside(self) -> None:
        if self._aside:
            blocks, self._aside = self._aside, []
            self._plus(self._sums, concatenate(blocks))

    def _columns(self, schema: Schema) -> NDArray[np.intp]:
        """Return where the additive columns stand in the rows of the source."""
        if not len(self._places):
            self._places = schema.columns(self._formula.additive)
        return self._places

    def _lengths(self, time: I64) -> I64:
        """Return how many ns of their window rows stand for; a running row for what has passed."""
        if self._source == "1min":
            return time - (time - 1) // MINUTE * MINUTE
        spans = (self._calendar.window(self._source, int(t) - 1) for t in time)
        starts = [t if span is None else span[0] for t, span in zip(time, spans, strict=True)]
        return time - np.array(starts, np.int64)

    def _expected(self, start: int, end: int) -> float:
        """Return how many base rows a window has, or its part so far."""
        if self._source == "1min":
            return (end - start) / MINUTE
        last = self._calendar.window(self._source, end - 1)
        if last is None or last[1] == end:
            return self._calendar.count(self._source, start, end)
        whole = self._calendar.count(self._source, start, last[0]) if last[0] > start else 0
        return whole + (end - last[0]) / (last[1] - last[0])

    def _plus(self, sums: Sums, block: SampleBlock) -> None:
        columns = self._columns(block.schema)
        value, quality = block.value[columns], block.quality[columns]
        good = quality < BAD
        value = np.where(good, value, 0.0) * self._formula.scale[:, None]
        exact = (self._formula.scale != 1.0) & ~self._peaks  # a peak keeps its digits
        value = np.where(exact[:, None], np.rint(value), value)
        total = np.cumsum(np.hstack([sums.total, value]), axis=1)[:, -1:]  # in order
        if self._peaks.any():
            highest = np.where(good, value, -np.inf).max(axis=1, keepdims=True)
            highest = np.where(sums.known > 0, np.maximum(sums.total, highest), highest)
            highest = np.where(np.isfinite(highest), highest, 0.0)
            total = np.where(self._peaks[:, None], highest, total)
        sums.total = total
        known = good.sum(axis=1, keepdims=True)
        # a minute that is UNCERTAIN for its coverage does not make the hour so: it has its own
        thin = block.value[-2:].sum(axis=0) < self._formula.limits.uncertain_below
        counts = good & ~(thin & (quality == UNCERTAIN) & self._by_coverage)
        worst = np.where(counts, quality, 0).max(axis=1, keepdims=True).astype(np.uint8)
        if known.all() and sums.known.all():
            sums.worst = np.maximum(sums.worst, worst)
        else:  # of a column that is not known: why
            worst = np.where(known > 0, worst, quality.max(axis=1, keepdims=True))
            sums.worst = worse((sums.worst, sums.known), (worst, known))
        sums.known = sums.known + known
        lengths = self._lengths(block.time)
        shares = np.rint(block.value[-2:] * lengths).astype(np.int64).sum(axis=1)
        sums.covered = sums.covered + shares[0]
        sums.estimated = sums.estimated + shares[1]

    def _close(self, done: list[SampleBlock]) -> None:
        if self._span is None:
            return
        self._add_aside()
        start, end = self._span
        self._sums.length[0], self._sums.expected[0] = end - start, self._expected(start, end)
        done.append(self._row(end, self._copy()))
        self._sums = Sums.zeros(len(self._peaks), 1)
        self._span = None

    def _row(self, time: int, sums: Sums) -> SampleBlock:
        return row_of(self._formula, self._output, np.array([time]), sums)

    def _copy(self) -> Sums:
        self._add_aside()
        s = self._sums
        parts = s.total, s.known, s.worst, s.covered, s.estimated
        return Sums(*parts, s.length.copy(), s.expected.copy())

    def save(self) -> State:
        self._add_aside()
        return {"span": self._span, "newest": self._newest} | _saved(self._sums)

    def resume(self, state: State) -> None:
        """Take over the open window of another configuration whose columns are the same.

        It is the sum of the rows that were published, whatever they were computed from; where they
        were not published it stands in the state of the chain. A state that other code wrote is
        left.
        """
        own = cast("State", state.get("rollup", state))
        if own.keys() == self.save().keys():
            self.load(own)

    def load(self, state: State, /) -> None:
        span = cast("tuple[int, int] | None", state["span"])
        self._span = None if span is None else (int(span[0]), int(span[1]))
        self._newest = int(str(state["newest"]))
        self._sums, self._aside = _loaded(state), []


def _saved(sums: Sums) -> dict[str, object]:
    return {
        "total": kept(sums.total[:, 0]),
        "known": kept(sums.known[:, 0]),
        "worst": kept(sums.worst[:, 0]),
        "covered": int(sums.covered[0]),
        "estimated": int(sums.estimated[0]),
    }


def _loaded(state: State) -> Sums:
    total = floats(state, "total").reshape(-1, 1)
    sums = Sums.zeros(len(total), 1)
    sums.total = total
    sums.known = np.array(state["known"], np.int64).reshape(-1, 1)
    sums.worst = np.array(state["worst"], np.uint8).reshape(-1, 1)
    sums.covered = np.array([state["covered"]], np.int64)
    sums.estimated = np.array([state["estimated"]], np.int64)
    return sums


class Rolling(RollUp):
    """The last twelve months, a row at the end of each: the sums of at most twelve months."""

    MONTHS = 12

    def __init__(
        self,
        name: str,
        formula: Formula,
        calendar: Calendar,
        *,
        source: Window = "1min",
        provenance: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, formula, "1mo", calendar, source=source, provenance=provenance)
        self._output = schema_of(name, "12mo", formula, provenance)
        self._past: list[tuple[int, Sums]] = []  # end and sums of the months before

    def _row(self, time: int, sums: Sums) -> SampleBlock:
        """Return the row of the months up to this one; one that was never seen is missing."""
        span = self._calendar.window("12mo", time - 1)
        start = time if span is None else span[0]
        whole = Sums.zeros(len(self._peaks), 1)
        for part in (*(month for end, month in self._past if end > start), sums):
            highest = np.where(whole.known > 0, np.maximum(whole.total, part.total), part.total)
            highest = np.where(part.known > 0, highest, whole.total)
            whole.total = np.where(self._peaks[:, None], highest, whole.total + part.total)
            whole.worst = worse((whole.worst, whole.known), (part.worst, part.known))
            whole.known = whole.known + part.known
            whole.covered = whole.covered + part.covered
            whole.estimated = whole.estimated + part.estimated
        whole.length[0], whole.expected[0] = time - start, self._expected(start, time)
        return super()._row(time, whole)

    def _close(self, done: list[SampleBlock]) -> None:
        month, sums = self._span, self._copy()
        super()._close(done)
        if month is not None:
            self._past = [*self._past, (month[1], sums)][1 - self.MONTHS :]

    def save(self) -> State:
        past = [{"end": end} | _saved(sums) for end, sums in self._past]
        return dict(super().save()) | {"past": past}

    def load(self, state: State, /) -> None:
        super().load(state)
        past = cast("list[State]", state["past"])
        self._past = [(int(str(month["end"])), _loaded(month)) for month in past]


class Chained:
    """A longer window whose ``1min`` rows are not published: the KPI and a roll-up behind it."""

    def __init__(self, minutes: Metric, rollup: RollUp) -> None:
        self._minutes = minutes
        self._rollup = rollup

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._minutes.inputs

    @property
    def output(self) -> Schema:
        return self._rollup.output

    @property
    def quiet(self) -> int:
        """See ``Patient``."""
        return int(getattr(self._minutes, "quiet", 0))

    @property
    def rows_late(self) -> int:
        """Rows that came for a closed slot."""
        late = getattr(self._minutes, "rows_late", 0)
        return int(late)

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        rows = self._minutes.update(block)
        return None if rows is None else self._rollup.update(rows)

    def running(self, now: int, open_rows: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        minute = self._minutes.running(now, open_rows)
        return self._rollup.running(now, {} if minute is None else {minute.schema.stream: minute})

    def save(self) -> State:
        return {"minutes": self._minutes.save(), "rollup": self._rollup.save()}

    def load(self, state: State, /) -> None:
        for part, metric in (("minutes", self._minutes), ("rollup", self._rollup)):
            metric.load(cast("State", state[part]))

    def resume(self, state: State) -> None:
        """Take over the open windows, as ``RollUp.resume``; the minutes begin empty."""
        self._rollup.resume(state)
        if isinstance(self._minutes, RollUp | Chained) and "minutes" in state:
            self._minutes.resume(cast("State", state["minutes"]))
