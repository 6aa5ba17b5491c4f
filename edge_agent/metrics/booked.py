"""The open slots of counters: what is booked of their steps, until the slots close.

**Exact.** Readings and interpolated border readings are rounded to a binary grid (2**-20 tag units;
coarser when the modulus is above 2**32), so every difference and every sum is exact in float64:
increments telescope, whatever the partition of the stream.

**The past moves, not the present.** A reading stands for itself. When a counter rolled over or was
replaced, the readings *before* are expressed on the new scale (less the modulus, or moved so that
the step is 0), and with them ``done``, the highest border reading that was booked. An increment is
then always the difference of two border readings.

**Never negative.** An increment is how far a border reading is above the highest one before it. So
what a counter ran backwards it has to run forwards again before anything is booked.

**Late energy.** A border that is not known when its slot must close is left out: the slot is
``BAD_MISSING`` and ``done`` is not moved. So the energy is booked in the slot in which the counter
is known again, marked estimated; nothing is lost, and nothing twice.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import ESTIMATED, MINUTE, MISSING, State
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.pace import Mask
from edge_agent.model import F64, I64, U8, Tag

FINE = 2.0**-20
COARSE = -12  # as a power of two

Index = NDArray[np.intp]


def grid_of(tag: Tag) -> float:
    """Return the step of the grid that a counter's readings are rounded to, in tag units.

    No register that is said to have 64 bits comes near its end: it has no need of so coarse a one.
    """
    if tag.modulus is None or tag.modulus <= 2.0**32:
        return FINE
    return float(2.0 ** min(math.ceil(math.log2(tag.modulus)) - 52, COARSE))


def at_border(t0: int, r0: F64, t1: int, r1: F64, border: I64) -> F64:
    """Return the readings at borders between two readings, (m, c) from (c,) and (m,)."""
    return r0 + (r1 - r0) * ((border - t0) / float(t1 - t0))[:, None]


class Booked:
    """The open slots of c counters; ``first`` is the number of the first one since the epoch.

    limit    ns; readings further apart are an outage
    grid     (c,), tag units; modulus: (c,), on the grid; infinite: there is none
    """

    def __init__(self, tags: tuple[Tag, ...], limit: int) -> None:
        c = len(tags)
        self._limit = limit
        self.grid = np.array([grid_of(tag) for tag in tags])
        modulus = np.array([tag.modulus or np.inf for tag in tags])
        self.modulus = np.where(
            np.isfinite(modulus), np.rint(modulus / self.grid) * self.grid, np.inf
        )
        self.done = np.full(c, np.nan)  # the highest border reading booked, on the present scale
        self._after = np.zeros(c, np.int64)  # the slot that begins at the last border booked
        self.first = 0
        self._open(0)

    # the open slots ------------------------------------------------------------------------------

    def _open(self, m: int) -> None:
        c = len(self.grid)
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

    @property
    def present(self) -> int:
        """When the present slot began, ns."""
        return (self.first + len(self._flag) - 1) * MINUTE

    def close(self, n: int) -> tuple[F64, U8]:
        """Return the columns of the first n slots, (4, n, c), and drop the slots.

        ``increment reading coverage estimated``
        """
        known = ~np.isnan(self._register[:n])
        booked = ~np.isnan(self._increment[:n])
        estimated = np.where(self._estimated[:n] > 0, ESTIMATED, 0)
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
        missing = np.uint8(MISSING)
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

    def standing(self, now: int, time: I64, reading: F64) -> tuple[F64, U8]:
        """Return ``increment reading coverage estimated`` of the first open slot so far, (4, c).

        time, reading  (c,), the last accepted ones
        """
        end = (self.first + 1) * MINUTE
        known = np.where(
            np.isnan(self._increment[0]), np.maximum(reading - self.done, 0.0), self._increment[0]
        )
        since = np.minimum(now, end) - np.minimum(time, end)
        tail = np.where((time >= 0) & (since <= self._limit), since, 0)
        covered = np.minimum(self._covered[0] + tail, MINUTE) / MINUTE
        cells = np.stack([known, reading, covered, self._estimated[0] / MINUTE])
        marks = np.zeros(cells.shape, np.uint8)
        marks[:2] = np.where(np.isnan(known), MISSING, self._flag[0])
        cells[1] = np.where(np.isnan(known), np.nan, cells[1])
        return cells, marks

    # steps ---------------------------------------------------------------------------------------

    def within(self, where: Index | slice | Mask, spans: I64, quality: U8) -> None:
        """Book steps inside the present slot.

        spans  (s,), or (s, n) of several steps each; quality (s,)
        """
        covered = spans <= self._limit
        inside, outside = spans * covered, spans * ~covered
        if spans.ndim > 1:
            inside, outside = inside.sum(axis=1), outside.sum(axis=1)
        self._covered[-1, where] += inside
        self._estimated[-1, where] += outside
        self._flag[-1, where] = np.maximum(self._flag[-1, where], quality)

    def inside(self, c: int, slot: int, spans: I64, quality: int) -> None:
        """Book steps of one counter inside an open slot: spans (n,), their worst quality."""
        here, covered = slot - self.first, spans <= self._limit
        self._covered[here, c] += spans[covered].sum()
        self._estimated[here, c] += spans[~covered].sum()
        self._flag[here, c] = max(int(self._flag[here, c]), quality)

    def over(self, who: Index, last: tuple[I64, F64], time: int, reading: F64, quality: U8) -> None:
        """Book steps that may go over borders; counters last seen together are done together.

        who, reading, quality  (s,)
        last                   time and reading before, each (s,); a time of -1: there was none
        """
        t0, r0 = last
        before = int(t0[0])
        if before >= 0 and np.count_nonzero(t0 == before) == len(t0):
            self._borders(who, before, r0, time, reading)
            self._shares(who, before, time, quality)
            return
        for before in np.unique(t0).tolist():
            same = t0 == before
            if before < 0:
                self._first(who[same], time, reading[same], quality[same])
            else:
                self._borders(who[same], before, r0[same], time, reading[same])
                self._shares(who[same], before, time, quality[same])

    def move(self, c: int, by: float) -> None:
        """Go over to another scale of a counter: its readings are so much more on it."""
        self.done[c] += by

    def _first(self, who: Index, time: int, reading: F64, quality: U8) -> None:
        """Begin with a first reading; on a border it is the border's reading."""
        slot = time // MINUTE
        if slot >= self.first:
            here = slot - self.first
            self._flag[here, who] = np.maximum(self._flag[here, who], quality)
        if time % MINUTE == 0:
            self.done[who], self._after[who] = reading, slot
            if slot > self.first:
                self._register[slot - 1 - self.first, who] = reading

    def _borders(self, who: Index, t0: int, r0: F64, t1: int, r1: F64) -> None:
        low, high = max(t0 // MINUTE, self.first), t1 // MINUTE
        if high <= low:
            return
        border = np.arange(low + 1, high + 1) * MINUTE
        grid = self.grid[who]
        readings = np.rint(at_border(t0, r0, t1, r1, border) / grid) * grid
        slots = slice(low - self.first, high - self.first)
        unknown = np.isnan(self.done[who])
        before = np.where(unknown, -np.inf, self.done[who])
        highest = np.maximum.accumulate(np.maximum(readings, before), axis=0)
        steps = highest.copy()
        steps[0] -= before
        steps[1:] -= highest[:-1]
        steps[0, unknown] = np.nan
        self._increment[slots, who] = steps
        modulus = self.modulus[who]
        before_turn = (readings < 0) & np.isfinite(modulus)  # on the scale after a rollover
        self._register[slots, who] = np.where(before_turn, readings + modulus, readings)
        late = ~unknown & (self._after[who] < low)  # borders were left out
        if np.count_nonzero(late):
            here = low - self.first
            self._flag[here, who] = np.maximum(self._flag[here, who], late * np.uint8(ESTIMATED))
        self.done[who], self._after[who] = highest[-1], high

    def _shares(self, who: Index, t0: int, t1: int, quality: U8) -> None:
        low = max(t0 // MINUTE, self.first)
        high = (t1 - 1) // MINUTE + 1 if t1 > t0 else t1 // MINUTE + 1  # two readings at one time
        if high <= low:
            return
        start = np.arange(low, high) * MINUTE
        inside = np.minimum(start + MINUTE, t1) - np.maximum(start, t0)
        share = self._covered if t1 - t0 <= self._limit else self._estimated
        slots = slice(low - self.first, high - self.first)
        share[slots, who] += inside[:, None]
        self._flag[slots, who] = np.maximum(self._flag[slots, who], quality)

    # the state -----------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "done": kept(self.done),
            "after": kept(self._after),
            "first": self.first,
            "increment": kept(self._increment),
            "register": kept(self._register),
            "covered": kept(self._covered),
            "estimated": kept(self._estimated),
            "flag": kept(self._flag),
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self.done = floats(state, "done")
        self._after = np.array(state["after"], np.int64)
        self.first = int(str(state["first"]))
        shape = (len(np.array(state["flag"], np.uint8)), len(self.grid))
        self._increment = floats(state, "increment").reshape(shape)
        self._register = floats(state, "register").reshape(shape)
        self._covered = np.array(state["covered"], np.int64).reshape(shape)
        self._estimated = np.array(state["estimated"], np.int64).reshape(shape)
        self._flag = np.array(state["flag"], np.uint8).reshape(shape)
