"""Longer windows: rows of a shorter one are added up, and the other columns derived again.

A ratio is never averaged, a maximum is merged as one. See ``formula.py`` for what is added up.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import (
    BAD,
    MINUTE,
    UNCERTAIN,
    Metric,
    State,
    Window,
)
from edge_agent.metrics.formula import Formula, Sums, row_of, schema_of, worse
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.windows import Calendar
from edge_agent.model import I64, SampleBlock, Schema, concatenate

ASIDE = 15  # blocks of rows that are added at once


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
