"""What a meter has counted in each state of a machine, minute by minute.

Of a counter the slot row gives the readings at the minute's borders, and the raw rows those between
them. What was counted between two readings is shared by the time of the states between them, so it
is exact as far as the readings stand closer together than the changes of the state. Readings and
shares are on the counter's binary grid: the parts of a minute sum up to its increment exactly.

A minute whose readings go back (a glitch, a rollover, a replaced meter) is shared by time as a
whole. What was counted while the meter was silent, and is booked late, is in no state: it is
unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.metrics.base import split_tag, usable
from edge_agent.metrics.booked import grid_of
from edge_agent.metrics.energy import amount_grid
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.join import Counter, Inputs, Integral, Reading
from edge_agent.metrics.pace import Mask
from edge_agent.metrics.spells import UNKNOWN, Spells, converted, shared_out
from edge_agent.model import F64, I64, U8, Quality
from edge_agent.units import Unit

_BAD, _ESTIMATED = int(Quality.BAD), int(Quality.UNCERTAIN_ESTIMATED)


@dataclass(frozen=True)
class Part:
    """What one meter counted in one minute.

    amounts    float64 (states + 1,), the unknown last; 0 where the quality is BAD
    covered    ns that the meter is known for, measured and estimated
    estimated  ns of them that are interpolated over a silence
    shared     ns of readings between which the state changed
    """

    amounts: F64
    quality: int
    covered: int
    estimated: int
    shared: int


@dataclass(frozen=True)
class Counted:
    """The slot rows of a counter and its raw readings."""

    counter: Counter
    register: str
    reading: Reading
    factor: float
    grid: float

    @classmethod
    def of(cls, tag: str, inputs: Inputs, unit: Unit) -> "Counted":
        """Return it for a tag, in a unit."""
        counter, reading = inputs.increment(tag), inputs.raw(tag)
        raw = inputs.plant.raw(tag)
        signal = raw.tags[raw.index[split_tag(tag)[1]]]
        register = inputs.register(tag)
        return cls(counter, register, reading, counter.unit.factor_to(unit), grid_of(signal))

    def parts(self, ends: I64, rows: Mapping[str, Rows], stretches: list[Spells]) -> list[Part]:
        """Return what it counted in the minutes with these ends."""
        increment, quality, covered, estimated = self.counter.read(ends, rows)
        slots = rows[self.counter.stream]
        found, _ = slots.at(ends)
        readings = Readings.of(self.reading.read(rows), self.grid)
        step, parts = amount_grid(self.factor), []
        for i, stretch in enumerate(stretches):
            total, mark, shared = float(increment[i]), int(quality[i]), 0
            amounts = np.zeros(stretch.states + 1)
            if mark < _BAD:
                if len(stretch.state) == 1 and mark < _ESTIMATED:  # no need of the readings
                    amounts[stretch.state] = total
                else:
                    last = float(slots.value[slots.index[self.register], found[i]])
                    border = last - total, last
                    amounts, shared = _by_readings(stretch, readings, border, mark)
                amounts = converted(amounts, total, self.factor, step)
            parts.append(Part(amounts, mark, int(covered[i]), int(estimated[i]), shared))
        return parts


@dataclass(frozen=True)
class Readings:
    """Raw readings of a counter on its grid: time, value and whether they are usable, (m,)."""

    time: I64
    value: F64
    good: Mask
    grid: float

    @classmethod
    def of(cls, told: tuple[I64, F64, U8], grid: float) -> "Readings":
        """Return them from time, value and quality."""
        time, value, quality = told
        good = usable(value, quality)
        return cls(time, np.rint(np.where(good, value, 0.0) / grid) * grid, good, grid)

    def within(self, start: int, end: int) -> tuple[I64, F64, bool]:
        """Return time and value of those between, and whether the last one before is usable.

        Of readings of one time the last counts.
        """
        low = int(np.searchsorted(self.time, start, "right"))
        high = int(np.searchsorted(self.time, end, "left"))
        inside = np.flatnonzero(self.good[low:high]) + low
        if len(inside):
            inside = inside[np.append(np.diff(self.time[inside]) > 0, True)]
        return self.time[inside], self.value[inside], low > 0 and bool(self.good[low - 1])


def _by_readings(
    stretch: Spells, readings: Readings, border: tuple[float, float], quality: int
) -> tuple[F64, int]:
    """Return what was counted in each state and the unknown, and the ns that are shared by time.

    border  the readings at the minute's start and end
    """
    start, end, grid = int(stretch.border[0]), int(stretch.border[-1]), readings.grid
    time, value, followed = readings.within(start, end)
    at = np.concatenate([[start], time, [end]])
    read = np.concatenate([[border[0]], value, [border[1]]])
    if (np.diff(read) < 0).any():
        return _by_time(border[1] - border[0], stretch, grid, known=quality < _ESTIMATED)
    points = np.unique(np.concatenate([at, stretch.border]))
    between = np.minimum(np.searchsorted(at, points, "right") - 1, len(at) - 2)
    share = (points - at[between]) / (at[between + 1] - at[between])
    course = read[between] + (read[between + 1] - read[between]) * share
    course = np.rint(course / grid) * grid
    between = between[:-1]
    state = stretch.state[np.searchsorted(stretch.border, points[:-1], "right") - 1]
    if quality >= _ESTIMATED and not followed:  # it may be of long before
        state = np.where(between == 0, UNKNOWN, state)
    amounts = np.zeros(stretch.states + 1)
    np.add.at(amounts, state, np.diff(course))
    changed = (between[1:] == between[:-1]) & (state[1:] != state[:-1])
    mixed = np.unique(between[1:][changed])
    return amounts, int((at[mixed + 1] - at[mixed]).sum())


def _by_time(amount: float, stretch: Spells, grid: float, *, known: bool) -> tuple[F64, int]:
    spans = stretch.spans()
    if not known:
        spans = np.zeros_like(spans)
        spans[UNKNOWN] = 1
    shared = int(spans.sum()) if (spans > 0).sum() > 1 else 0
    return shared_out(amount, spans, grid), shared


@dataclass(frozen=True)
class Integrated:
    """A rate, for a machine without a counter: the trapezoid, cut where the state changes."""

    integral: Integral
    factor: float

    def parts(self, ends: I64, rows: Mapping[str, Rows], stretches: list[Spells]) -> list[Part]:
        """Return what it amounts to in the minutes with these ends."""
        total, quality, covered, _ = self.integral.read(ends, rows)
        time, value, marks = self.integral.reading.read(rows)
        good = usable(value, marks)
        time, value = time[good], value[good]
        step, parts = amount_grid(self.factor), []
        for i, stretch in enumerate(stretches):
            amounts = np.zeros(stretch.states + 1)
            if quality[i] < _BAD:
                amounts = self._cut(time, value, stretch)
                amounts = converted(amounts, float(total[i]), self.factor, step)
            parts.append(Part(amounts, int(quality[i]), int(covered[i]), 0, 0))
        return parts

    def _cut(self, time: I64, value: F64, stretch: Spells) -> F64:
        """Return the amounts below the line between usable readings, by state."""
        start, end = int(stretch.border[0]), int(stretch.border[-1])
        inside = time[(time > start) & (time < end)]
        points = np.unique(np.concatenate([inside, stretch.border]))
        row = np.searchsorted(time, points[:-1], "right") - 1
        state = stretch.state[np.searchsorted(stretch.border, points[:-1], "right") - 1]
        there = (row >= 0) & (row + 1 < len(time))
        row, state, begin, until = row[there], state[there], points[:-1][there], points[1:][there]
        length = time[row + 1] - time[row]
        linked = length <= self.integral.silence
        row, state, length = row[linked], state[linked], length[linked]
        begin, until = begin[linked], until[linked]
        slope = (value[row + 1] - value[row]) / length
        middle = value[row] + slope * ((begin - time[row] + until - time[row]) / 2.0)
        amounts = np.zeros(stretch.states + 1)
        np.add.at(amounts, state, middle * ((until - begin) / 1e9) / self.integral.per)
        return amounts
