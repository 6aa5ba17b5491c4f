"""Whether the condition of an alarm holds, row by row, and when it counts: deadband and delays.

Bad and flagged values decide nothing: an alarm neither comes nor goes by them. Only ``Stale`` is
about them. A condition must hold for the whole delay; a gap of more than three periods without a
usable row begins the delay anew.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.aligned import Together
from edge_agent.metrics.base import usable
from edge_agent.metrics.expression import Comparison
from edge_agent.metrics.grammar import ONE, SECOND
from edge_agent.metrics.operations import Program
from edge_agent.model import F64, I64, U8, Quality
from edge_agent.units import Unit

Mask = NDArray[np.bool_]
_NO_VALUE = np.uint8(Quality.BAD_NOT_AVAILABLE)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a condition says of rows, all (m,).

    over    the alarm's condition holds; calm: it is over, by the deadband; known: they count
    value   what is judged, and its quality; limit: what by
    """

    over: Mask
    calm: Mask
    known: Mask
    value: F64
    quality: U8
    limit: F64
    limit_quality: U8


class Condition(Protocol):
    """What an alarm is about."""

    @property
    def unit(self) -> Unit:
        """The unit of value and limit."""

    def judge(self, rows: Together) -> Judged:
        """Return what it says of rows."""

    def save(self) -> int:
        """Return what it keeps."""

    def load(self, state: int) -> None:
        """Take over what ``save`` returned."""


@dataclass(frozen=True, slots=True)
class Limited:
    """A comparison: with a deadband the value must come back by that much to be calm."""

    comparison: Comparison
    deadband: float

    @property
    def unit(self) -> Unit:
        return self.comparison.unit

    def judge(self, rows: Together) -> Judged:
        value, quality = rows.run(self.comparison.left)
        known = usable(value, quality)
        right = self.comparison.right
        if len(right) == 1 and right[0].name == "number":  # as most are
            limit, limit_quality = np.full(value.shape, right[0].number), np.zeros_like(quality)
        else:
            limit, limit_quality = rows.run(right)
            known &= usable(limit, limit_quality)
        over, calm = _compared(self.comparison.sign, value, limit, self.deadband)
        return Judged(over, calm, known, value, quality, limit, limit_quality)

    def save(self) -> int:
        return 0

    def load(self, state: int) -> None:
        """Take nothing: nothing is kept."""


def _compared(sign: str, value: F64, limit: F64, deadband: float) -> tuple[Mask, Mask]:
    with np.errstate(invalid="ignore"):
        if sign == ">":
            return value > limit, value <= limit - deadband
        if sign == ">=":
            return value >= limit, value < limit - deadband
        if sign == "<":
            return value < limit, value >= limit + deadband
        if sign == "<=":
            return value <= limit, value > limit + deadband
        over = value == limit if sign == "==" else value != limit
        return over, ~over


@dataclass(frozen=True, slots=True)
class Truth:
    """Any other expression that is true or false; its value is 1 or 0."""

    program: Program

    @property
    def unit(self) -> Unit:
        return ONE

    def judge(self, rows: Together) -> Judged:
        value, quality = rows.run(self.program)
        none = np.full(value.shape, _NO_VALUE)
        known = usable(value, quality)
        empty = np.full(value.shape, np.nan)
        return Judged(value == 1, value == 0, known, value, quality, empty, none)

    def save(self) -> int:
        return 0

    def load(self, state: int) -> None:
        """Take nothing: nothing is kept."""


class Stale:
    """No usable value for so long; the value is the age of the last one, in seconds."""

    def __init__(self, program: Program, longest: int) -> None:
        self._program, self._longest = program, longest  # ns
        self._last = -1  # time of the last usable row, or of the first row of all

    @property
    def unit(self) -> Unit:
        return SECOND

    def judge(self, rows: Together) -> Judged:
        value, quality = rows.run(self._program)
        time = rows.time
        if self._last < 0:
            self._last = int(time[0])
        good = usable(value, quality)
        last = np.maximum.accumulate(np.where(good, time, self._last))
        self._last = int(last[-1])
        over = time - last >= self._longest
        fine = np.zeros(time.shape, np.uint8)
        limit = np.full(time.shape, self._longest / 1e9)
        return Judged(
            over, ~over, np.ones(time.shape, bool), (time - last) / 1e9, fine, limit, fine
        )

    def save(self) -> int:
        return self._last

    def load(self, state: int) -> None:
        self._last = state


class Delays:
    """From rows that hold or do not to the instants at which the condition comes and goes.

    delay, off_delay  ns; silence: ns without a known row after which a delay begins anew
    """

    def __init__(self, delay: int, off_delay: int, silence: int) -> None:
        self._delay, self._off_delay, self._silence = delay, off_delay, silence
        self.active = False
        self._since = -1  # since when a change is waiting; -1: none is
        self._last = -1  # time of the last known row

    def changes(self, time: I64, judged: Judged) -> list[tuple[int, bool]]:
        """Return the rows at which it changes, and to what."""
        leaving = judged.calm if self.active else judged.over
        if self._since < 0 and not (leaving & judged.known).any():  # nothing waits, nothing begins
            rows = np.flatnonzero(judged.known)
            self._last = int(time[rows[-1]]) if len(rows) else self._last
            return []
        rows = np.flatnonzero(judged.known)
        if not len(rows):
            return []
        known, found = time[rows], list[tuple[int, bool]]()
        code = np.where(judged.over[rows], 2, np.where(judged.calm[rows], 0, 1))
        before = known[0] if self._last < 0 else self._last
        gap = np.diff(known, prepend=before) > self._silence
        starts = np.flatnonzero(gap[1:] | (code[1:] != code[:-1])) + 1
        for a, b in pairwise([0, *starts.tolist(), len(rows)]):
            if gap[a]:
                self._since = -1
            if code[a] != (0 if self.active else 2):
                self._since = -1
                continue
            self._since = int(known[a]) if self._since < 0 else self._since
            due = self._since + (self._off_delay if self.active else self._delay)
            i = a + int(np.searchsorted(known[a:b], due))
            if i < b:
                self.active, self._since = not self.active, -1
                found.append((int(rows[i]), self.active))
        self._last = int(known[-1])
        return found

    def save(self) -> list[int]:
        """Return the state."""
        return [int(self.active), self._since, self._last]

    def load(self, state: list[int]) -> None:
        """Take over what ``save`` returned."""
        self.active, self._since, self._last = bool(state[0]), int(state[1]), int(state[2])
