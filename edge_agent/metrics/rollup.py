"""Sums of windows: what is added up, how a row is made of it, and how longer windows are merged.

A KPI's formula says which of its columns are additive (amounts, times, counts, sums of minutes) and
derives the others from them with one pure function. Longer windows add up the additive columns of
the ``1min`` rows and derive again: a ratio is never averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from edge_agent.metrics.base import MINUTE, Metric, QualityLimits, State, Window
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.windows import PERIODS, Calendar
from edge_agent.model import F64, I64, U8, Family, Quality, SampleBlock, Schema, Tag, concatenate
from edge_agent.units import Unit

_SHARE = Unit.parse("1")
SHARES = (Tag("coverage", _SHARE), Tag("estimated", _SHARE))


@dataclass
class Sums:
    """Additive numbers of n windows.

    total      float64 (a, n), sums of the additive columns, in exact steps where they have some
    known      int64 (a, n), base slots in which the column was known
    worst      uint8 (a, n), worst quality of those; of a slot in which it was not known, why
    covered, estimated, length   int64 (n,), ns
    """

    total: F64
    known: I64
    worst: U8
    covered: I64
    estimated: I64
    length: I64

    @classmethod
    def zeros(cls, a: int, n: int) -> "Sums":
        """Return n windows of a columns without any base slot; the length is that of one slot."""
        counts = np.zeros((a, n), np.int64)
        spans = np.zeros(n, np.int64)
        worst = np.zeros((a, n), np.uint8)
        return cls(np.zeros((a, n)), counts, worst, spans, spans.copy(), np.full(n, MINUTE))

    def set(self, column: int, value: F64, quality: U8) -> None:
        """Set one additive column of base slots; it is unknown where the quality is bad."""
        good = quality < Quality.BAD
        self.total[column] = np.where(good, value, 0.0)
        self.known[column] = good
        self.worst[column] = quality

    def expected(self) -> F64:
        """Return the number of base slots of each window."""
        return self.length / MINUTE

    def share(self) -> F64:
        """Return the covered and estimated share of each window."""
        return (self.covered + self.estimated) / self.length


class Formula(Protocol):
    """The pure part of a KPI, the same for every window.

    tags      the columns of its rows; the last two are ``coverage`` and ``estimated``
    additive  names of those that are added up
    steps     float64 (a,): additive columns times this are whole numbers; 0: they are not
    """

    @property
    def family(self) -> Family:
        """The measurement its rows belong to."""

    @property
    def tags(self) -> tuple[Tag, ...]:
        """The columns, in the order in which they are published."""

    @property
    def additive(self) -> tuple[str, ...]:
        """The columns that are added up."""

    @property
    def scale(self) -> F64:
        """What the published additive columns are multiplied with to be the totals, (a,)."""

    @property
    def limits(self) -> QualityLimits:
        """The thresholds of window quality."""

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        """Return value and quality of all columns but the last two, (k - 2, n)."""


def merged(sums: Sums, limits: QualityLimits) -> U8:
    """Return the quality of additive columns: (a, n).

    A sum is bad only when none of its parts is known, and uncertain when some is not.
    """
    partly = (sums.known < sums.expected()) | (sums.share() < limits.uncertain_below)
    quality = np.maximum(sums.worst, np.where(partly, Quality.UNCERTAIN, 0))
    return np.where(sums.known == 0, unknown(sums), quality).astype(np.uint8)


def unknown(sums: Sums) -> U8:
    """Return the quality of columns that are not known: the reason, where there is one, (a, n)."""
    reason = np.where(sums.worst < Quality.BAD, Quality.BAD_MISSING, sums.worst)
    return reason.astype(np.uint8)


def graded(quality: U8, share: F64, limits: QualityLimits) -> U8:
    """Return a quality that is at least as bad as the share of good time makes it."""
    quality = np.where(
        share < limits.uncertain_below, np.maximum(quality, Quality.UNCERTAIN), quality
    )
    missing = (share < limits.bad_below) & (quality < Quality.BAD)
    return np.where(missing, Quality.BAD_MISSING, quality).astype(np.uint8)


def ratio(over: F64, under: F64, quality: U8) -> tuple[F64, U8]:
    """Return the quotient and its quality: ``BAD_NOT_AVAILABLE`` where the divisor is 0."""
    value = np.divide(over, under, out=np.full(over.shape, np.nan), where=under != 0)
    none = (under == 0) & (quality < Quality.BAD)
    return value, np.where(none, Quality.BAD_NOT_AVAILABLE, quality).astype(np.uint8)


def row_of(formula: Formula, schema: Schema, time: I64, sums: Sums) -> SampleBlock:
    """Return the published rows of windows."""
    value, quality = formula.derive(sums)
    shares = np.stack([sums.covered, sums.estimated]) / sums.length
    value = np.where(quality >= Quality.BAD, np.nan, value)
    good = np.zeros(shares.shape, np.uint8)
    return SampleBlock(schema, time, np.vstack([value, shares]), np.vstack([quality, good]))


def schema_of(name: str, window: Window, formula: Formula) -> Schema:
    """Return the schema of a KPI's stream of one window."""
    return Schema(f"{name}/{window}", formula.family, formula.tags, PERIODS[window])


class RollUp:
    """Merges the ``1min`` rows of a KPI into rows of a longer window."""

    def __init__(self, name: str, formula: Formula, window: Window, calendar: Calendar) -> None:
        self._formula = formula
        self._window = window
        self._calendar = calendar
        self._input = f"{name}/1min"
        self._output = schema_of(name, window, formula)
        index = self._output.index
        self._columns = np.array([index[column] for column in formula.additive], np.intp)
        self._span: tuple[int, int] | None = None
        self._newest = 0
        self._sums = Sums.zeros(len(self._columns), 1)

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
            self._go_to(int(block.time[i]) - MINUTE, done)
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
        """Return the open window so far with its open minute; coverage is of what has passed."""
        minute, span = open_rows.get(self._input), self._span
        now = self._newest if minute is None else int(minute.time[-1])
        if span is None and minute is not None:
            span = self._calendar.window(self._window, now)
        if span is None:
            return None
        sums = self._copy()
        if minute is not None:
            self._plus(sums, minute, now % MINUTE)
        sums.length[0] = now - span[0]
        return row_of(self._formula, self._output, np.array([now]), sums)

    def _go_to(self, instant: int, done: list[SampleBlock]) -> None:
        if self._span is not None and instant >= self._span[1]:
            self._close(done)
        if self._span is None:
            self._span = self._calendar.window(self._window, instant)

    def _add(self, block: SampleBlock) -> None:
        self._plus(self._sums, block, MINUTE)
        self._newest = int(block.time[-1])

    def _plus(self, sums: Sums, block: SampleBlock, length: int) -> None:
        """Add rows of so many ns each."""
        value, quality = block.value[self._columns], block.quality[self._columns]
        good = quality < Quality.BAD
        value = np.where(good, value, 0.0) * self._formula.scale[:, None]
        value = np.where(self._formula.scale[:, None] != 1.0, np.rint(value), value)
        sums.total = np.cumsum(np.hstack([sums.total, value]), axis=1)[:, -1:]  # in order
        sums.known = sums.known + good.sum(axis=1, keepdims=True)
        # a minute that is UNCERTAIN for its coverage does not make the hour so: it has its own
        thin = block.value[-2:].sum(axis=0) < self._formula.limits.uncertain_below
        counts = good & ~(thin & (quality == Quality.UNCERTAIN))
        worst = np.where(counts, quality, 0).max(axis=1, keepdims=True).astype(np.uint8)
        sums.worst = np.maximum(sums.worst, worst)
        shares = np.rint(block.value[-2:] * length).astype(np.int64).sum(axis=1)
        sums.covered = sums.covered + shares[0]
        sums.estimated = sums.estimated + shares[1]

    def _close(self, done: list[SampleBlock]) -> None:
        if self._span is None:
            return
        start, end = self._span
        self._sums.length[0] = end - start
        done.append(row_of(self._formula, self._output, np.array([end]), self._copy()))
        self._sums = Sums.zeros(len(self._columns), 1)
        self._span = None

    def _copy(self) -> Sums:
        s = self._sums
        return Sums(s.total, s.known, s.worst, s.covered, s.estimated, s.length.copy())

    def save(self) -> State:
        sums = self._sums
        return {
            "span": self._span,
            "newest": self._newest,
            "total": kept(sums.total[:, 0]),
            "known": kept(sums.known[:, 0]),
            "worst": kept(sums.worst[:, 0]),
            "covered": int(sums.covered[0]),
            "estimated": int(sums.estimated[0]),
        }

    def resume(self, state: State) -> None:
        """Take over the open window of another configuration whose columns are the same.

        It is the sum of the ``1min`` rows that were published, whatever they were computed from. A
        state that other code wrote is left.
        """
        if state.keys() == self.save().keys():
            self.load(state)

    def load(self, state: State, /) -> None:
        span = cast("tuple[int, int] | None", state["span"])
        self._span = None if span is None else (int(span[0]), int(span[1]))
        self._newest = int(str(state["newest"]))
        self._sums = Sums(
            floats(state, "total").reshape(-1, 1),
            np.array(state["known"], np.int64).reshape(-1, 1),
            np.array(state["worst"], np.uint8).reshape(-1, 1),
            np.array([state["covered"]], np.int64),
            np.array([state["estimated"]], np.int64),
            np.array([MINUTE]),
        )


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
        """Take over the open window, as ``RollUp.resume``; the minutes begin empty."""
        self._rollup.resume(cast("State", state["rollup"]))
