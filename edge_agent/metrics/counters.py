"""Increments of counters per base slot, with reasons: rollover, reset, glitch, outage.

**Exact.** Readings and interpolated border readings are rounded to a binary grid (2**-20 tag units;
coarser when the modulus is above 2**32), so every difference and every sum is exact in float64:
increments telescope, whatever the partition of the stream.

**The past moves, not the present.** A reading stands for itself. When a counter rolled over or was
replaced, the readings *before* are expressed on the new scale (less the modulus, or moved so that
the step is 0), and with them ``done``, the reading at the last border that was booked. An increment
is then always the difference of two border readings.

**Late energy.** A border that is not known when its slot must close is left out: the slot is
``BAD_MISSING`` and ``done`` is not moved. So the energy is booked in the slot in which the counter
is known again, marked estimated; nothing is lost, and nothing twice.

**A question, not an answer.** A reading below the last one, or above what the rated power or the
fastest rate so far allows for (see ``pace``), is held back. Readings that go on from the last
accepted one make it a glitch; ``CONFIRMATIONS`` readings that go on from the suspect one, or one of
them after ``PATIENCE``, make it a rollover, a load that began, or a reset.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, SILENCE, State
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.pace import Mask, Pace
from edge_agent.model import F64, I64, U8, Quality, Tag

CONFIRMATIONS = 3  # readings after the suspect one that agree with it
PATIENCE = 30_000_000_000
FINE = 2.0**-20

Index = NDArray[np.intp]


def grid_of(tag: Tag) -> float:
    """Return the step of the grid that a counter's readings are rounded to, in tag units."""
    if tag.modulus is None or tag.modulus <= 2.0**32:
        return FINE
    return float(2.0 ** (math.ceil(math.log2(tag.modulus)) - 52))


def at_border(t0: int, r0: F64, t1: int, r1: F64, border: I64) -> F64:
    """Return the readings at borders between two readings, (m, c) from (c,) and (m,)."""
    return r0 + (r1 - r0) * ((border - t0) / float(t1 - t0))[:, None]


@dataclass
class Question:
    """A counter whose reading jumped.

    since    when the question was opened, ns
    suspects the readings held back: (ns, reading), each going on from the one before
    """

    since: int
    suspects: list[tuple[int, float]]


class Counters:
    """The open slots of c counters; ``first`` is the number of the first one since the epoch."""

    def __init__(self, tags: tuple[Tag, ...], period: float) -> None:
        c = len(tags)
        self._period = period
        self._limit = round(SILENCE * period * 1e9)
        self._grid = np.array([grid_of(tag) for tag in tags])
        self._modulus = np.array([tag.modulus or np.inf for tag in tags])
        self._modulus = np.where(
            np.isfinite(self._modulus), np.rint(self._modulus / self._grid) * self._grid, np.inf
        )
        self._pace = Pace(tags)
        self._time = np.full(c, -1, np.int64)  # of the last accepted reading; -1: none yet
        self._reading = np.zeros(c)
        self._done = np.full(c, np.nan)  # reading at the last border booked, on the present scale
        self._after = np.zeros(c, np.int64)  # the slot that begins at that border
        self.questions: dict[int, Question] = {}
        self.first = 0
        self._open(0)

    # the open slots ------------------------------------------------------------------------------

    def _open(self, m: int) -> None:
        c = len(self._grid)
        self._increment = np.full((m, c), np.nan)
        self._register = np.full((m, c), np.nan)
        self._covered = np.zeros((m, c), np.int64)
        self._estimated = np.zeros((m, c), np.int64)
        self._flag = np.zeros((m, c), np.uint8)

    def begin(self, slot: int) -> None:
        """Begin anew at a slot; what is not yet booked is booked where it becomes known."""
        self.first = slot
        self._open(1)

    def extend(self, slot: int) -> None:
        """Open all slots up to this one."""
        m = len(self._flag)
        if slot - self.first + 1 <= m:
            return
        old = self._increment, self._register, self._covered, self._estimated, self._flag
        self._open(slot - self.first + 1)
        self._increment[:m], self._register[:m] = old[:2]
        self._covered[:m], self._estimated[:m], self._flag[:m] = old[2:]

    @property
    def open(self) -> int:
        """Number of open slots, the present one included."""
        return len(self._flag)

    def resolved(self) -> int:
        """Return the first slot that some counter has no reading at or after the end of."""
        return int(self._time.min()) // MINUTE if len(self._time) else np.iinfo(np.int64).max

    def close(self, n: int) -> tuple[F64, U8]:
        """Return the columns of the first n slots, (4, n, c), and drop the slots.

        ``increment reading coverage estimated``
        """
        known = ~np.isnan(self._register[:n])
        booked = ~np.isnan(self._increment[:n])
        estimated = np.where(self._estimated[:n] > 0, Quality.UNCERTAIN_ESTIMATED, 0)
        quality = np.maximum(self._flag[:n], estimated).astype(np.uint8)
        full = np.zeros_like(quality)
        value = np.stack(
            [
                self._increment[:n],
                self._register[:n],
                self._covered[:n] / MINUTE,
                self._estimated[:n] / MINUTE,
            ]
        )
        missing = np.uint8(Quality.BAD_MISSING)
        cells = np.stack(
            [np.where(booked, quality, missing), np.where(known, quality, missing), full, full]
        )
        self.first += n
        self._increment = self._increment[n:]
        self._register = self._register[n:]
        self._covered = self._covered[n:]
        self._estimated = self._estimated[n:]
        self._flag = self._flag[n:]
        return value, cells

    def standing(self, now: int) -> tuple[F64, U8]:
        """Return ``increment reading coverage estimated`` of the first open slot so far, (4, c)."""
        end = (self.first + 1) * MINUTE
        known = np.where(
            np.isnan(self._increment[0]), self._reading - self._done, self._increment[0]
        )
        since = np.minimum(now, end) - np.minimum(self._time, end)
        tail = np.where((self._time >= 0) & (since <= self._limit), since, 0)
        covered = np.minimum(self._covered[0] + tail, MINUTE) / MINUTE
        cells = np.stack([known, self._reading, covered, self._estimated[0] / MINUTE])
        marks = np.zeros(cells.shape, np.uint8)
        marks[:2] = np.where(np.isnan(known), Quality.BAD_MISSING, self._flag[0])
        cells[1] = np.where(np.isnan(known), np.nan, cells[1])
        return cells, marks

    # readings ------------------------------------------------------------------------------------

    def row(self, time: int, value: F64, quality: U8, good: Mask) -> None:
        """Take one row: (c,), good where usable. The slots up to its time are open."""
        if not len(quality):
            return
        reading = np.rint(np.where(good, value, 0.0) / self._grid) * self._grid
        step, seconds = reading - self._reading, (time - self._time) / 1e9 + self._period
        normal = good & (self._time >= 0) & self._pace.allows(step, seconds, reading)
        if self.questions:
            normal[list(self.questions)] = False
        if good.all() and normal.all():
            self._pace.learn(None, step, seconds)
            self._accept(None, time, reading, quality)
            return
        if normal.any():
            chosen = np.flatnonzero(normal)
            self._pace.learn(chosen, step, seconds)
            self._accept(chosen, time, reading[chosen], quality[chosen])
        for c in np.flatnonzero(good & ~normal).tolist():
            self._judge(c, time, float(reading[c]), int(quality[c]))

    def run(self, time: I64, value: F64, quality: U8, good: Mask) -> bool:
        """Take rows of the present slot at once, (c, n); return False if one asks a question."""
        if not len(quality):
            return True
        some = np.asarray(good.any(axis=1))
        if self.questions or not np.array_equal(some, good.all(axis=1)):
            return False
        if not some.any():
            return True
        inside = self._time[some]
        if inside.min() < self.first * MINUTE or inside.min() < 0:
            return False
        grid = self._grid[some, None]
        reading = np.rint(value[some] / grid) * grid
        readings = np.column_stack([self._reading[some], reading])
        times = np.column_stack([inside, np.broadcast_to(time, reading.shape)])
        spans, steps = np.diff(times), np.diff(readings)
        if not self._pace.take(some, steps, spans / 1e9 + self._period, reading):
            return False
        covered = spans <= self._limit
        self._covered[-1, some] += (spans * covered).sum(axis=1)
        self._estimated[-1, some] += (spans * ~covered).sum(axis=1)
        self._flag[-1, some] = np.maximum(self._flag[-1, some], quality[some].max(axis=1))
        self._time[some] = time[-1]
        self._reading[some] = reading[:, -1]
        return True

    def _seconds(self, t0: int, t1: int) -> float:
        return (t1 - t0) / 1e9 + self._period

    def _follows(self, c: int, before: tuple[int, float], t1: int, r1: float, rate: float) -> bool:
        """Return whether a reading can go on from another one; rate: see ``Pace.allowed``."""
        t0, r0 = before
        return 0 <= r1 - r0 <= self._pace.allowed(c, self._seconds(t0, t1), r1, rate)

    def _judge(self, c: int, time: int, reading: float, quality: int) -> None:
        """Take a reading that is the first one, asks a question, or answers one."""
        t0, r0 = int(self._time[c]), float(self._reading[c])
        question = self.questions.get(c)
        if t0 < 0:
            self._accept_one(c, time, reading, quality)
            return
        if self._follows(c, (t0, r0), time, reading, 0.0):  # if there was a question: a glitch
            self.questions.pop(c, None)
            self._pace.learn_one(c, reading - r0, self._seconds(t0, time))
            self._accept_one(c, time, reading, quality)
            return
        if question is None:
            self.questions[c] = Question(time, [(time, reading)])
            return
        start = question.suspects[0][0]
        if not self._agrees(c, question.suspects, time, reading):
            question.suspects = [(time, reading)]
            return
        question.suspects.append((time, reading))
        if len(question.suspects) <= CONFIRMATIONS and time - start < PATIENCE:
            return
        del self.questions[c]
        self._turn(c, question.suspects, quality)
        for t, r in question.suspects[1:]:  # after a reset one of them may be a question again
            self._judge(c, t, r, quality)

    def _agrees(self, c: int, suspects: list[tuple[int, float]], time: int, reading: float) -> bool:
        """Return whether a reading goes on from those held back."""
        t0, r0 = int(self._time[c]), float(self._reading[c])
        start, new = suspects[0]
        if self._pace.learns[c] and new < r0 <= reading:  # back up: the fall was a glitch
            return False
        rate = self._pace.among_suspects(c, new - r0, self._seconds(t0, start))
        return self._follows(c, suspects[-1], time, reading, rate)

    def _turn(self, c: int, suspects: list[tuple[int, float]], quality: int) -> None:
        """Go over to a confirmed new level: a load that began, rollover, reset or replacement."""
        time, new = suspects[0]
        t0, r0, modulus = int(self._time[c]), float(self._reading[c]), float(self._modulus[c])
        seconds = self._seconds(t0, time)
        if self._pace.learns[c] and new > r0:
            went_on = (suspects[-1][1] - new) / self._seconds(time, suspects[-1][0])
            if self._pace.believes(c, r0, new - r0, seconds, went_on):
                self._pace.learn_one(c, new - r0, seconds)
                self._accept_one(c, time, new, quality)
                return
        if np.isinf(modulus) or new >= r0:
            over = False
        elif self._pace.learns[c]:
            over = r0 >= 0.9 * modulus and 0 <= new <= 0.1 * modulus
        else:
            over = 0 <= modulus - r0 + new <= self._pace.allowed(c, seconds, new)
        if new < r0 and not over:
            self._pace.fell(c)
        shift, reason = (
            (-modulus, Quality.GOOD_ROLLOVER) if over else (new - r0, Quality.UNCERTAIN_RESET)
        )
        self._reading[c] += shift
        self._done[c] += shift
        self._accept_one(c, time, new, max(quality, reason))

    def _accept_one(self, c: int, time: int, reading: float, quality: int) -> None:
        self._accept(np.array([c]), time, np.array([reading]), np.array([quality], np.uint8))

    def _accept(self, chosen: Index | None, time: int, reading: F64, quality: U8) -> None:
        """Take readings that go on from the last ones, of some counters or of all."""
        last = self._time if chosen is None else self._time[chosen]
        oldest = int(last.min())
        present = (self.first + len(self._flag) - 1) * MINUTE
        if oldest < present or time < present:
            self._span(
                np.arange(len(self._grid)) if chosen is None else chosen, time, reading, quality
            )
        else:  # between two borders
            spans = time - last
            where: Index | slice = slice(None) if chosen is None else chosen
            covered = spans <= self._limit
            self._covered[-1, where] += spans * covered
            self._estimated[-1, where] += spans * ~covered
            self._flag[-1, where] = np.maximum(self._flag[-1, where], quality)
        if chosen is None:
            self._time[:] = time
            self._reading = reading
        else:
            self._time[chosen] = time
            self._reading[chosen] = reading

    def _span(self, chosen: Index, time: int, reading: F64, quality: U8) -> None:
        """Book steps that may go over borders; counters last seen together are done together."""
        last = self._time[chosen]
        for t0 in np.unique(last).tolist():
            same = last == t0
            if t0 < 0:
                self._first(chosen[same], time, reading[same], quality[same])
            else:
                self._borders(chosen[same], t0, time, reading[same])
                self._shares(chosen[same], t0, time, quality[same])

    def _first(self, who: Index, time: int, reading: F64, quality: U8) -> None:
        """Begin with a first reading; on a border it is the border's reading."""
        slot = time // MINUTE
        if slot >= self.first:
            here = slot - self.first
            self._flag[here, who] = np.maximum(self._flag[here, who], quality)
        if time % MINUTE == 0:
            self._done[who], self._after[who] = reading, slot
            if slot > self.first:
                self._register[slot - 1 - self.first, who] = reading

    def _borders(self, who: Index, t0: int, t1: int, r1: F64) -> None:
        low, high = max(t0 // MINUTE, self.first), t1 // MINUTE
        if high <= low:
            return
        border = np.arange(low + 1, high + 1) * MINUTE
        r0, grid = self._reading[who], self._grid[who]
        readings = np.rint(at_border(t0, r0, t1, r1, border) / grid) * grid
        slots = slice(low - self.first, high - self.first)
        self._increment[slots, who] = np.diff(np.vstack([self._done[who], readings]), axis=0)
        modulus = self._modulus[who]
        before_turn = (readings < 0) & np.isfinite(modulus)  # on the scale after a rollover
        self._register[slots, who] = np.where(before_turn, readings + modulus, readings)
        late = ~np.isnan(self._done[who]) & (self._after[who] < low)  # borders were left out
        mark = np.where(late, np.uint8(Quality.UNCERTAIN_ESTIMATED), np.uint8(0))
        here = low - self.first
        self._flag[here, who] = np.maximum(self._flag[here, who], mark)
        self._done[who], self._after[who] = readings[-1], high

    def _shares(self, who: Index, t0: int, t1: int, quality: U8) -> None:
        low = max(t0 // MINUTE, self.first)
        high = (t1 - 1) // MINUTE + 1 if t1 > t0 else t1 // MINUTE + 1  # two readings at one time
        start = np.arange(low, high) * MINUTE
        inside = np.minimum(start + MINUTE, t1) - np.maximum(start, t0)
        share = self._covered if t1 - t0 <= self._limit else self._estimated
        slots = np.ix_(np.arange(low - self.first, high - self.first), who)
        share[slots] += inside[:, None]
        self._flag[slots] = np.maximum(self._flag[slots], quality)

    # the state -----------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "time": kept(self._time),
            "reading": kept(self._reading),
            "done": kept(self._done),
            "after": kept(self._after),
            "pace": self._pace.save(),
            "questions": [[c, q.since, list(q.suspects)] for c, q in self.questions.items()],
            "first": self.first,
            "increment": kept(self._increment),
            "register": kept(self._register),
            "covered": kept(self._covered),
            "estimated": kept(self._estimated),
            "flag": kept(self._flag),
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self._time = np.array(state["time"], np.int64)
        self._reading, self._done = floats(state, "reading"), floats(state, "done")
        self._after = np.array(state["after"], np.int64)
        self._pace.load(cast("State", state["pace"]))
        asked = cast("list[tuple[int, int, list[tuple[int, float]]]]", state["questions"])
        self.questions = {c: Question(since, [(t, r) for t, r in rest]) for c, since, rest in asked}
        self.first = int(str(state["first"]))
        flags = cast("list[list[int]]", state["flag"])
        shape = (len(flags), len(self._grid))
        self._increment = floats(state, "increment").reshape(shape)
        self._register = floats(state, "register").reshape(shape)
        self._covered = np.array(state["covered"], np.int64).reshape(shape)
        self._estimated = np.array(state["estimated"], np.int64).reshape(shape)
        self._flag = np.array(flags, np.uint8).reshape(shape)
