"""Functions of the rows before: ``rate delta mean lowest highest forecast``.

They run on the rows of one stream as these come, not on rows joined with other streams, so their
results do not depend on what else an expression uses. What they keep is bounded: the rows of the
length asked for, at most ``ROWS`` of them. Readings that may not be used (bad, or flagged by the
instrument itself) are left out.

- ``rate(x)``: per second, between a reading and the usable one before it; not over a silence of
  more than three periods
- ``delta(x, w)``: against the last usable reading at or before ``t - w``
- ``mean lowest highest (x, w)``: of the usable readings in ``(t - w, t]``; UNCERTAIN and BAD by the
  share of those expected, as a window's value
- ``forecast(x, w)``: the mean of the window that is open, if the reading stays what it is now:
  ``(S + x · m) / (n + m)`` with the n readings so far, their sum S, and m periods to its end. At
  the end it is the mean itself.

The rate and the difference of a counter that falls are not known (``BAD_NOT_AVAILABLE``).
"""

from dataclasses import dataclass
from typing import cast

import numpy as np

from edge_agent.metrics.base import SILENCE, QualityLimits, State, Window, usable
from edge_agent.metrics.formula import graded
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.operations import Program
from edge_agent.metrics.windows import PERIODS, Calendar
from edge_agent.model import F64, I64, U8, Family, Quality, Schema

# an enum's look-up costs 1 µs
_BAD, _MISSING = np.uint8(Quality.BAD), np.uint8(Quality.BAD_MISSING)
_NO_VALUE = np.uint8(Quality.BAD_NOT_AVAILABLE)
FUNCTIONS = ("rate", "delta", "mean", "lowest", "highest", "forecast")
ROWS = 3600  # readings that one function may look back on
_LENGTHS: dict[float, Window] = {
    seconds: window for window, seconds in PERIODS.items() if window in {"15min", "1h", "1d"}
}
_FOLDS = {"mean": np.add, "lowest": np.minimum, "highest": np.maximum}


@dataclass(frozen=True, slots=True)
class Moved:
    """A function of the rows before, of an expression of one stream.

    span   seconds that it looks back, or that its window is long; 0 for ``rate``
    rises  whether the argument is a counter
    """

    function: str
    argument: Program
    span: float
    rises: bool = False

    def check(self, schema: Schema) -> None:
        """Raise ``ValueError`` when the stream has too many rows in that time, or too few."""
        if self.function == "forecast" and self.span not in _LENGTHS:
            raise ValueError("forecast takes 15min, 1h or 24h")
        if self.function in {"rate", "forecast"}:
            return
        rows = self.span / schema.period
        if rows > ROWS:
            longest = f"{ROWS * schema.period:g}s"
            raise ValueError(f"{self.function} may look back {longest} on {schema.stream}")
        if rows < 1:
            raise ValueError(
                f"{schema.stream} has a row every {schema.period:g}s: look back longer"
            )


@dataclass
class Moving:
    """What one function keeps: the usable readings that it still needs.

    time (m,), value (m,), quality (m,); the open window's end, sum and number for ``forecast``
    """

    moved: Moved
    schema: Schema
    limits: QualityLimits
    calendar: Calendar

    def __post_init__(self) -> None:
        self._time = np.zeros(0, np.int64)
        self._value = np.zeros(0)
        self._quality = np.zeros(0, np.uint8)
        self._end, self._sum, self._number = 0, 0.0, 0
        self._span = round(self.moved.span * 1e9)
        self._silence = round(SILENCE * self.schema.period * 1e9)

    def take(self, time: I64, value: F64, quality: U8) -> tuple[F64, U8]:
        """Return the function at rows (n,), value and quality."""
        good = usable(value, quality)
        if self.moved.function == "forecast":
            found, marks = self._forecast(time, value, quality, good)
        else:
            before = len(self._time)
            self._time = np.concatenate([self._time, time[good]])
            self._value = np.concatenate([self._value, value[good]])
            self._quality = np.concatenate([self._quality, quality[good]])
            upto = before + np.cumsum(good)  # usable readings up to each row
            if self.moved.function in {"rate", "delta"}:
                found, marks = self._difference(time, quality, good, upto)
            else:
                found, marks = self._folded(time, upto)
            self._forget(int(time[-1]))
        wrong = (marks < _BAD) & ~np.isfinite(found)
        marks = np.where(wrong, _NO_VALUE, marks).astype(np.uint8)
        return np.where(marks >= _BAD, np.nan, found), marks

    def _difference(
        self,
        time: I64,
        quality: U8,
        good: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]",
        upto: I64,
    ) -> tuple[F64, U8]:
        """Return the change since the reading before, per second, or since ``t - w``."""
        unusable = np.where(quality >= _BAD, quality, _NO_VALUE)
        if not len(self._time):
            return np.full(len(time), np.nan), unusable
        now = np.maximum(upto - 1, 0)
        if self.moved.function == "rate":
            then, due = upto - 2, time
        else:
            due = time - self._span
            then = np.minimum(np.searchsorted(self._time, due, "right") - 1, upto - 1)
        there = (then >= 0) & (then > upto - 1 - ROWS)
        then = np.maximum(then, 0)
        there &= due - self._time[then] <= self._silence
        change = self._value[now] - self._value[then]
        if self.moved.function == "rate":
            seconds = (self._time[now] - self._time[then]) / 1e9
            with np.errstate(all="ignore"):  # two rows at one time: no number, told by ``take``
                change = change / seconds
        marks = np.maximum(self._quality[now], self._quality[then])
        if self.moved.rises:
            marks = np.where(change < 0, _NO_VALUE, marks)
        marks = np.where(there, marks, _MISSING)
        return change, np.where(good, marks, unusable).astype(np.uint8)

    def _folded(self, time: I64, upto: I64) -> tuple[F64, U8]:
        """Return mean, lowest or highest of the readings in ``(t - w, t]``."""
        first = np.searchsorted(self._time, time - self._span, "right")
        first = np.minimum(np.maximum(first, upto - ROWS), upto)
        number = upto - first
        # each part by itself, whatever blocks the rows came in; what lies between is not looked at
        parts = np.stack([first, upto], axis=1).reshape(-1)
        fold = _FOLDS[self.moved.function]
        values = fold.reduceat(np.append(self._value, 0.0), parts)[::2]
        worst = np.maximum.reduceat(np.append(self._quality, np.uint8(0)), parts)[::2]
        if self.moved.function == "mean":
            values = values / np.maximum(number, 1)
        share = np.minimum(1.0, number * self.schema.period / self.moved.span)
        marks = graded(worst, share, self.limits)
        return values, np.where(number == 0, _MISSING, marks).astype(np.uint8)

    def _forecast(
        self,
        time: I64,
        value: F64,
        quality: U8,
        good: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]",
    ) -> tuple[F64, U8]:
        found = np.full(len(time), np.nan)
        raw = self.schema.family in {Family.SAMPLE, Family.COMPUTED}
        instant = time if raw else time - 1  # a window's row is of the time before its label
        i = 0
        while i < len(time):
            if self._end <= instant[i]:
                span = self.calendar.window(_LENGTHS[self.moved.span], int(instant[i]))
                self._end, self._sum, self._number = span[1] if span else 0, 0.0, 0
            j = i + int(np.searchsorted(instant[i:], self._end))
            rows = np.flatnonzero(good[i:j]) + i
            if len(rows):
                sums = np.cumsum(np.concatenate([[self._sum], value[rows]]))[1:]
                numbers = self._number + 1 + np.arange(len(rows))
                left = (self._end - time[rows]) / (self.schema.period * 1e9)
                found[rows] = (sums + left * value[rows]) / (numbers + left)
                self._sum, self._number = float(sums[-1]), int(numbers[-1])
            i = max(j, i + 1)
        unusable = np.where(quality >= _BAD, quality, _NO_VALUE)
        return found, np.where(good, quality, unusable).astype(np.uint8)

    def _forget(self, now: int) -> None:
        """Drop what no later row can look back on."""
        if self.moved.function == "rate":
            first = len(self._time) - 1
        else:
            reach = self._span + (self._silence if self.moved.function == "delta" else 0)
            first = int(np.searchsorted(self._time, now - reach))
        first = max(first, len(self._time) - ROWS)
        if first > 0:
            self._time = self._time[first:].copy()
            self._value = self._value[first:].copy()
            self._quality = self._quality[first:].copy()

    def save(self) -> State:
        """Return the state; see ``State``."""
        return {
            "time": kept(self._time),
            "value": kept(self._value),
            "quality": kept(self._quality),
            "window": [self._end, self._number],
            "sum": self._sum,
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        end, number = cast("tuple[int, int]", state["window"])
        self._end, self._number = int(end), int(number)
        self._sum = float(str(state["sum"]))
        self._time = np.array(state["time"], np.int64)
        self._value = floats(state, "value").reshape(-1)
        self._quality = np.array(state["quality"], np.uint8)
