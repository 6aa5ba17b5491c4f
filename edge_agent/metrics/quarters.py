"""Demand of 15 minutes, minute by minute: the memory that ``demand`` and ``tariff`` share.

Demand is the mean power over 15 minutes. Sliding demand is taken anew at each minute, over the last
15; fixed demand over the quarters of the clock (00, 15, 30, 45), whose energy so far is shown like
the rising demand of a meter: it reaches the quarter's demand with its last minute. The forecast of
a quarter is its energy so far and the present power until its end.

**What is not known** is left out: demand is the mean power of the time that is known, marked when
that is less than the whole. **Energy that comes late:** a counter that was silent for so long that
its minutes had to be closed without it is booked in the minute in which it is known again. For the
demand it is spread evenly over the minutes that it belongs to; otherwise an outage would end in a
peak that nobody drew.

source  DL/T 645 (需量周期 15 min, 滑差时间 1 min)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, QualityLimits, State
from edge_agent.metrics.feed import Feed, Rows
from edge_agent.metrics.formula import Sums, graded
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.join import Minutes, SlotFormula
from edge_agent.model import F64, I64, U8, Quality, Schema

PERIOD = 15  # minutes
LENGTH = PERIOD * MINUTE
HOUR = 60.0 * MINUTE  # ns
Number = TypeVar("Number", np.float64, np.int64, np.uint8)
# an enum's look-up costs 1 µs
_BAD, _MISSING = int(Quality.BAD), int(Quality.BAD_MISSING)
_UNCERTAIN, _ESTIMATED = int(Quality.UNCERTAIN), int(Quality.UNCERTAIN_ESTIMATED)
GRID = 2.0**-26  # kWh, see ``amount_grid``


@dataclass(frozen=True)
class Loads:
    """What is known of n minutes.

    energy   kWh, 0 where it is not known; known: ns of the minute that it is of
    quality  of the energy; counted: it comes from counters, so it may come late
    power    kW at present, and its quality
    """

    energy: F64
    known: I64
    quality: U8
    power: F64
    power_quality: U8
    counted: bool

    def rows(self, start: int, stop: int) -> "Loads":
        """Return some of the minutes."""
        span = slice(start, stop)
        power = self.power[span], self.power_quality[span]
        return Loads(self.energy[span], self.known[span], self.quality[span], *power, self.counted)

    @property
    def guessed(self) -> NDArray[np.bool_]:
        """Where the energy is known and partly estimated, (n,)."""
        found: NDArray[np.bool_] = self.quality >= _ESTIMATED
        return found & (self.known > 0)


@dataclass(frozen=True)
class Demands:
    """Demands at the end of n minutes in kW, each with its quality."""

    sliding: tuple[F64, U8]
    fixed: tuple[F64, U8]
    forecast: tuple[F64, U8]


def demands(
    ends: I64, last: I64, windows: tuple[F64, I64, U8], now: tuple[F64, U8], limits: QualityLimits
) -> Demands:
    """Return the demands of minutes.

    ends     (n,) ends of the minutes, ns
    last     (n,) ns of each that have passed: less than a minute of one that is still open
    windows  energy, known ns and worst quality of the 15 minutes up to each, (n, 15)
    now      present power in kW and its quality, (n,)
    """
    energy, known, worst = windows
    total, time = energy.sum(axis=1), known.sum(axis=1)
    sliding = _mean(total, time), _graded(worst, time, last + LENGTH - MINUTE, limits)

    minutes = (ends - 1) // MINUTE % PERIOD + 1  # of the quarter, this one included
    inside = np.arange(PERIOD) >= PERIOD - minutes[:, None]
    energy, known, worst = (np.where(inside, part, 0) for part in (energy, known, worst))
    total, time = energy.sum(axis=1), known.sum(axis=1)
    passed = (minutes - 1) * MINUTE + last
    over = passed == LENGTH
    mean, quality = _mean(total, time), _graded(worst, time, passed, limits)
    # until then what is known is the least that the demand will be, so it is never too little
    least = np.maximum(worst.max(axis=1), _UNCERTAIN)
    quality = np.where((quality >= _BAD) & (time > 0) & ~over, least, quality).astype(np.uint8)
    fixed = np.where(over, mean, total / (LENGTH / HOUR)), quality

    seen = now[1] < _BAD
    used = np.where(time == passed, total, mean * (passed / HOUR))
    rest = np.where(seen, now[0], mean) * ((LENGTH - passed) / HOUR)
    also = np.where(over, 0, np.where(seen, now[1], _UNCERTAIN)).astype(np.uint8)
    worst = np.maximum(worst, also[:, None])
    forecast = np.where(over, fixed[0], (used + rest) / (LENGTH / HOUR))
    return Demands(sliding, fixed, (forecast, _graded(worst, time, passed, limits)))


def _mean(energy: F64, time: I64) -> F64:
    """Return mean power in kW of kWh in ns; 0 where no time is known."""
    return np.divide(energy, time / HOUR, out=np.zeros(len(time)), where=time > 0)


def _graded(worst: U8, time: I64, whole: I64, limits: QualityLimits) -> U8:
    quality = graded(worst.max(axis=1).astype(np.uint8), time / whole, limits)
    return np.where(time == 0, _MISSING, quality).astype(np.uint8)


class Quarter:
    """The last 15 minutes."""

    def __init__(self, limits: QualityLimits) -> None:
        self._limits = limits
        self._energy = np.zeros(PERIOD)
        self._known = np.zeros(PERIOD, np.int64)
        self._worst = np.zeros(PERIOD, np.uint8)
        self._end = -1  # of the last minute
        self._since = -1  # end of the last minute that was known

    def take(self, ends: I64, loads: Loads) -> Demands:
        """Return the demands of closed minutes, in their order, and remember the last 15."""
        found = [
            self._run(ends[start:stop], loads.rows(start, stop))
            for start, stop in self._runs(ends, loads)
        ]
        return Demands(
            _joined([part.sliding for part in found]),
            _joined([part.fixed for part in found]),
            _joined([part.forecast for part in found]),
        )

    def standing(self, ends: I64, passed: I64, loads: Loads) -> Demands:
        """Return the demands as they stand in a minute that is still open; nothing is kept."""
        copy = Quarter(self._limits)
        copy.load(self.save())
        copy._go_to(int(ends[0]))
        return copy._append(ends, passed, loads)

    @staticmethod
    def _runs(ends: I64, loads: Loads) -> Iterator[tuple[int, int]]:
        """Yield spans of minutes that follow each other, none but the first of which comes late."""
        begins = np.diff(ends) != MINUTE
        if loads.counted:
            begins |= loads.guessed[1:] & (loads.known[:-1] == 0)
        yield from pairwise([0, *(np.flatnonzero(begins) + 1).tolist(), len(ends)])

    def _run(self, ends: I64, loads: Loads) -> Demands:
        self._go_to(int(ends[0]))
        absent = (int(ends[0]) - self._since) // MINUTE - 1 if self._since >= 0 else 0
        if loads.counted and absent > 0 and loads.guessed[0]:
            each = round(float(loads.energy[0]) / (absent + 1) / GRID) * GRID
            loads = replace(loads, energy=np.append(each, loads.energy[1:]))
            there = slice(max(PERIOD - absent, 0), PERIOD)
            self._energy[there], self._known[there] = each, MINUTE
            self._worst[there] = loads.quality[0]
        found = self._append(ends, np.full(len(ends), MINUTE), loads)
        self._end = int(ends[-1])
        seen = np.flatnonzero(loads.known > 0)
        self._since = int(ends[seen[-1]]) if len(seen) else self._since
        return found

    def _go_to(self, end: int) -> None:
        """Enter minutes that nothing is known of, up to the one before."""
        absent = min((end - self._end) // MINUTE - 1, PERIOD) if self._end >= 0 else 0
        self._energy = np.append(self._energy[absent:], np.zeros(absent))
        self._known = np.append(self._known[absent:], np.zeros(absent, np.int64))
        self._worst = np.append(self._worst[absent:], np.zeros(absent, np.uint8))

    def _append(self, ends: I64, last: I64, loads: Loads) -> Demands:
        """Return the demands of minutes that follow those remembered; last: ns of each so far."""
        known = np.minimum(loads.known, last)
        # a minute that is UNCERTAIN for its coverage does not make the quarter so: it has its own
        thin = loads.quality == _UNCERTAIN
        thin &= known < self._limits.uncertain_below * last
        worst = np.where((known > 0) & ~thin, loads.quality, 0).astype(np.uint8)
        energy = np.append(self._energy, np.where(known > 0, loads.energy, 0.0))
        time, marks = np.append(self._known, known), np.append(self._worst, worst)
        windows = _last_15(energy), _last_15(time), _last_15(marks)
        self._energy, self._known = energy[-PERIOD:].copy(), time[-PERIOD:].copy()
        self._worst = marks[-PERIOD:].copy()
        now = loads.power, loads.power_quality
        return demands(ends, last, windows, now, self._limits)

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "energy": kept(self._energy),
            "known": kept(self._known),
            "worst": kept(self._worst),
            "end": self._end,
            "since": self._since,
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self._energy = floats(state, "energy")
        self._known = np.array(state["known"], np.int64)
        self._worst = np.array(state["worst"], np.uint8)
        self._end, self._since = int(str(state["end"])), int(str(state["since"]))


def _last_15(minutes: NDArray[Number]) -> NDArray[Number]:
    """Return the 15 minutes up to each but the first 15, (n, 15)."""
    if len(minutes) == PERIOD + 1:  # one row, as when it is live: a view of it costs less
        return minutes[None, 1:]
    return sliding_window_view(minutes, PERIOD)[1:]


def _joined(parts: list[tuple[F64, U8]]) -> tuple[F64, U8]:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


class DemandFormula(SlotFormula):
    """A formula with demands among its peaks: what it measures, and where they stand."""

    def loads(self, sums: Sums, passed: I64) -> Loads:
        """Return what is known of base slots, from their additive columns.

        passed  (n,) ns of each that have passed: less than a minute of one that is still open
        """
        raise NotImplementedError

    def place(self, sums: Sums, found: Demands) -> None:
        """Set the demands in the additive columns of base slots."""
        raise NotImplementedError


class QuarterMinutes(Minutes):
    """The ``1min`` operator of a KPI with demands."""

    def __init__(
        self,
        output: Schema,
        formula: SlotFormula,
        feeds: Sequence[Feed],
        lateness: int,
        step: int,
    ) -> None:
        super().__init__(output, formula, feeds, lateness, step)
        if not isinstance(formula, DemandFormula):
            raise TypeError(f"{type(formula).__name__} has no demands")
        self._measured = formula
        self._quarter = Quarter(formula.limits)

    def _base(self, ends: I64, rows: Mapping[str, Rows], now: int | None = None, /) -> Sums:
        sums = super()._base(ends, rows, now)
        if not len(ends):
            return sums
        passed = np.full(len(ends), MINUTE) if now is None else now - ends + MINUTE
        loads = self._measured.loads(sums, passed)
        if now is None:
            found = self._quarter.take(ends, loads)
        else:
            found = self._quarter.standing(ends, passed, loads)
        self._measured.place(sums, found)
        return sums

    def save(self) -> State:
        return {**super().save(), "quarter": self._quarter.save()}

    def load(self, state: State, /) -> None:
        super().load(state)
        self._quarter.load(cast("State", state["quarter"]))
