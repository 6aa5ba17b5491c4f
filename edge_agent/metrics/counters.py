"""Increments of counters per base slot, with reasons: rollover, reset, glitch, back-feed, outage.

What is booked of a step, and why sums are exact, stands in ``booked``.

**A question, not an answer.** A reading below the last one, or above what the rated power or the
fastest rate so far allows for (see ``pace``), is held back. Readings that go on from the last
accepted one make it a glitch. The verdict on any other falls when ``CONFIRMATIONS`` readings have
gone on from it and ``PATIENCE`` has passed, whichever is later. Readings that fit neither are a
level of their own, which takes the place of the first only when it is confirmed itself, so a glitch
does not put off a verdict. It is one of:

- **undone**: it goes on from the reading before the last reset, which is not longer than ``UNDO``
  ago. So that was no reset but a long glitch, and the counter's energy since then is booked;
- **a load that began**, of a counter without a rated power (see ``pace``); of one with, **a count**
  of a register so coarse that the load has taken since the one before to make it;
- **rollover**: the step over the modulus is one that is allowed;
- **back-feed**: it fell no faster than it may rise, again and again or by a hundredth of the
  register at most. The counter runs backwards; it may go on to, without a question, until it is
  back at its highest reading. Until then nothing is booked, and all is UNCERTAIN;
- otherwise **a reset or another meter**: the step is not booked.
"""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import cast

import numpy as np

from edge_agent.metrics.base import MINUTE, SILENCE, State
from edge_agent.metrics.booked import Booked, Index
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.integral import last_usable
from edge_agent.metrics.pace import SHARE, Mask, Pace
from edge_agent.model import F64, I64, U8, Quality, Tag

CONFIRMATIONS = 3  # readings after the suspect one that agree with it
PATIENCE = 30_000_000_000
UNDO = 3600_000_000_000  # how long a wrong level may last to be seen as such

Suspect = tuple[int, float, int]  # ns, reading, quality


@dataclass
class Level:
    """Readings held back, each going on from the one before.

    backward  whether they are those of a counter that runs backwards
    """

    readings: list[Suspect]
    backward: bool

    @property
    def confirmed(self) -> bool:
        """Whether a verdict may fall on them."""
        lasted = self.readings[-1][0] - self.readings[0][0]
        return len(self.readings) > CONFIRMATIONS and lasted >= PATIENCE


@dataclass
class Question:
    """A counter whose reading jumped.

    since   when the question was opened, ns
    levels  the one that it jumped to, and the last one that did not go on from that
    """

    since: int
    levels: list[Level]


class Counters:
    """The last readings of c counters, the questions they ask, and what is booked of them."""

    def __init__(self, tags: tuple[Tag, ...], period: float) -> None:
        c = len(tags)
        self._period = period
        self.slots = Booked(tags, round(SILENCE * period * 1e9))
        self._grid, self._modulus = self.slots.grid, self.slots.modulus
        self._pace = Pace(tags)
        self._time = np.full(c, -1, np.int64)  # of the last accepted reading; -1: none yet
        self._reading = np.zeros(c)
        self._backward = np.zeros(c, bool)  # runs backwards, or is not yet back at its
        self._peak = np.zeros(c)  # reading before
        self._some_backward = False
        self._coarse = np.array(  # perhaps: its resolution is not known
            [tag.max_rate is not None and tag.resolution is None for tag in tags], bool
        )
        self._some_coarse = bool(self._coarse.any())
        self._changed = np.zeros(c, np.int64)  # when the reading last rose, if some are coarse
        self._moved = np.zeros(c)  # by the last reset, for ``UNDO``
        self._reset = np.full(c, -UNDO, np.int64)  # time of the last reading before it
        self.questions: dict[int, Question] = {}

    def resolved(self) -> int:
        """Return the first slot that some counter has no reading at or after the end of."""
        return int(self._time.min()) // MINUTE if len(self._time) else np.iinfo(np.int64).max

    def standing(self, now: int) -> tuple[F64, U8]:
        """Return ``increment reading coverage estimated`` of the first open slot so far, (4, c)."""
        return self.slots.standing(now, self._time, self._reading)

    # readings ------------------------------------------------------------------------------------

    def row(self, time: int, value: F64, quality: U8, good: Mask) -> None:
        """Take one row: (c,), good where usable. The slots up to its time are open."""
        if not len(quality):
            return
        reading = np.rint(np.where(good, value, 0.0) / self._grid) * self._grid
        step, seconds = reading - self._reading, (time - self._time) / 1e9 + self._period
        backward = self._backward if self._some_backward else None
        allowed = self._pace.allows(step, seconds, reading, backward)
        normal = good & (self._time >= 0) & allowed
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
            self._judge(c, (time, float(reading[c]), int(quality[c])))

    def run(self, time: I64, value: F64, quality: U8, good: Mask | None) -> bool:
        """Take rows of the present slot at once; return False if one asks a question.

        value, quality, good  (c, n), good where usable, None: everywhere
        """
        if not len(quality) or (good is not None and not good.any()):
            return True
        if self.questions or self._some_backward:
            return False
        some: slice | Mask = slice(None)
        if good is not None:
            some = np.asarray(good.any(axis=1))
            if not np.array_equal(some, good.all(axis=1)):
                return False
        inside = self._time[some]
        if inside.min() < self.slots.first * MINUTE or inside.min() < 0:
            return False
        grid = self._grid[some, None]
        reading = np.rint(value[some] / grid) * grid
        steps, spans = np.empty_like(reading), np.empty(reading.shape, np.int64)
        steps[:, 0], spans[:, 0] = reading[:, 0] - self._reading[some], time[0] - inside
        steps[:, 1:], spans[:, 1:] = reading[:, 1:] - reading[:, :-1], time[1:] - time[:-1]
        if not self._pace.take(some, steps, spans / 1e9 + self._period, reading):
            return False
        self.slots.within(some, spans, quality[some].max(axis=1))
        if self._some_coarse:
            rose = last_usable(time, steps > 0, self._changed[some])
            self._changed[some] = rose
        self._time[some] = time[-1]
        self._reading[some] = reading[:, -1]
        return True

    # questions -----------------------------------------------------------------------------------

    def _seconds(self, t0: int, t1: int) -> float:
        return (t1 - t0) / 1e9 + self._period

    def _allowed(self, c: int, t0: int, t1: int, reading: float, rate: float = 0.0) -> float:
        return self._pace.allowed(c, self._seconds(t0, t1), reading, rate)

    def _judge(self, c: int, suspect: Suspect) -> None:
        """Take a reading that is the first one, asks a question, or answers one."""
        time, reading, quality = suspect
        t0, step = int(self._time[c]), reading - float(self._reading[c])
        if t0 < 0:
            self._accept_one(c, time, reading, quality)
            return
        allowed = self._allowed(c, t0, time, reading)
        if (-allowed if self._backward[c] else 0.0) <= step <= allowed:
            self.questions.pop(c, None)  # if there was one: a glitch
            self._pace.learn_one(c, step, self._seconds(t0, time))
            self._accept_one(c, time, reading, quality)
            return
        question = self.questions.setdefault(c, Question(time, []))
        for i, level in enumerate(question.levels):
            if self._agrees(c, level, time, reading):
                level.readings.append(suspect)
                del question.levels[i + 1 :]
                break
        else:
            backward = 0.0 < -step <= min(allowed, SHARE * float(self._reading[c]))
            level = Level([suspect], backward)
            question.levels[1:] = [level]
        if level.confirmed:
            del self.questions[c]
            self._answer(c, level)

    def _agrees(self, c: int, level: Level, time: int, reading: float) -> bool:
        """Return whether a reading goes on from those held back; it may be a fall again."""
        t0, r0 = int(self._time[c]), float(self._reading[c])
        (first, new, _), (before, latest, _) = level.readings[0], level.readings[-1]
        rate = self._pace.among_suspects(c, new - r0, self._seconds(t0, first))
        if self._pace.learns[c] and new < r0 <= reading:  # back up: the fall was a glitch
            return False
        if latest <= reading:
            since = self._risen(c, level) if self._coarse[c] else before
            return reading - latest <= self._allowed(c, since, time, reading, rate)
        small = 0.0 < r0 - new <= self._allowed(c, t0, first, new)
        if small and latest - reading <= self._allowed(c, before, time, reading):
            level.backward = True
            return True
        return False

    def _answer(self, c: int, level: Level) -> None:
        """Take the readings of a confirmed level; one of them may be a question again."""
        rest = level.readings
        if level.backward and self._undone(c, rest[0]) is None:
            self._backward[c], self._peak[c] = True, self._reading[c]
            self._some_backward = True
        else:
            self._turn(c, rest)
            rest = rest[1:]
        at = 0
        while at < len(rest):
            taken = self._accept_chain(c, rest[at:])
            if not taken:
                self._judge(c, rest[at])
            at += taken or 1

    def _accept_chain(self, c: int, suspects: list[Suspect]) -> int:
        """Take the readings up to the end of a slot at once; return how many, 0: take one.

        Half a minute of a fast source is hundreds of them: one by one they take 25 us each.
        """
        t0, r0 = int(self._time[c]), float(self._reading[c])
        end = (t0 // MINUTE + 1) * MINUTE
        n = bisect_left(suspects, end, key=itemgetter(0))
        if n < 2 or c in self.questions or self._backward[c] or self._coarse[c]:
            return 0
        if t0 < self.slots.first * MINUTE:
            return 0
        times = np.array([t0, *(time for time, _, _ in suspects[:n])])
        readings = np.array([r0, *(reading for _, reading, _ in suspects[:n])])
        spans, steps = np.diff(times), np.diff(readings)
        some = np.zeros(len(self._grid), bool)
        some[c] = True
        seconds = spans / 1e9 + self._period
        if not self._pace.take(some, steps[None], seconds[None], readings[None, 1:]):
            return 0
        self.slots.inside(c, t0 // MINUTE, spans, max(quality for _, _, quality in suspects[:n]))
        self._time[c], self._reading[c] = times[-1], readings[-1]
        return n

    def _turn(self, c: int, suspects: list[Suspect]) -> None:
        """Go over to a confirmed new level: a load that began, rollover, reset or replacement."""
        time, new, quality = suspects[0]
        t0, r0 = int(self._time[c]), float(self._reading[c])
        seconds, pace = self._seconds(t0, time), self._pace
        if (back := self._undone(c, suspects[0])) is not None:
            if new < r0:
                pace.fell(c)
            self._move(c, back)
            self._reset[c] = -UNDO
            self._accept_one(c, time, new, max(quality, Quality.UNCERTAIN_ESTIMATED))
            return
        went_on = (suspects[-1][1] - new) / self._seconds(time, suspects[-1][0])
        if pace.learns[c] and new > r0 and pace.believes(c, r0, new - r0, seconds, went_on):
            pace.learn_one(c, new - r0, seconds)
            self._accept_one(c, time, new, quality)
            return
        if self._coarse[c]:
            seconds = self._seconds(int(self._changed[c]), time)
            if 0.0 < new - r0 <= pace.allowed(c, seconds, new):
                self._accept_one(c, time, new, quality)
                return
        modulus = float(self._modulus[c])
        if new < r0 and pace.turns_over(c, (r0, new, modulus), seconds, went_on):
            self._move(c, -modulus)
            self._reset[c] = -UNDO
            self._accept_one(c, time, new, max(quality, Quality.GOOD_ROLLOVER))
            return
        if new < r0:
            pace.fell(c)
        self._reset[c], self._moved[c] = t0, new - r0
        self._move(c, new - r0)
        self._accept_one(c, time, new, max(quality, Quality.UNCERTAIN_RESET))

    def _risen(self, c: int, level: Level) -> int:
        """Return when a level last rose, or the accepted readings before it."""
        readings = level.readings
        rises = [b[0] for a, b in pairwise(readings) if b[1] > a[1]]
        return rises[-1] if rises else int(self._changed[c])

    def _undone(self, c: int, suspect: Suspect) -> float | None:
        """Return how far to move the scale, if a reading goes on from that before the last reset.

        It may have rolled over meanwhile.
        """
        since, (time, reading, _) = int(self._reset[c]), suspect
        if time - since > UNDO:
            return None
        step = reading - (float(self._reading[c]) - float(self._moved[c]))
        allowed, modulus = self._allowed(c, since, time, reading), float(self._modulus[c])
        if 0.0 <= step <= allowed:
            return -float(self._moved[c])
        return -float(self._moved[c]) - modulus if 0.0 <= step + modulus <= allowed else None

    def _move(self, c: int, by: float) -> None:
        self._reading[c] += by
        self._peak[c] += by
        self.slots.move(c, by)

    # what is accepted ----------------------------------------------------------------------------

    def _accept_one(self, c: int, time: int, reading: float, quality: int) -> None:
        self._accept(np.array([c]), time, np.array([reading]), np.array([quality], np.uint8))

    def _accept(self, chosen: Index | None, time: int, reading: F64, quality: U8) -> None:
        """Take readings that go on from the last ones, of some counters or of all."""
        where: Index | slice = slice(None) if chosen is None else chosen
        if self._some_backward:
            doubtful = np.maximum(quality, Quality.UNCERTAIN)
            quality = np.where(self._backward[where], doubtful, quality).astype(np.uint8)
        last = self._time[where]
        if int(last.min()) < self.slots.present or time < self.slots.present:
            who = np.arange(len(self._grid)) if chosen is None else chosen
            self.slots.over(who, (last, self._reading[where]), time, reading, quality)
        else:
            self.slots.within(where, time - last, quality)
        if self._some_coarse:
            rose = (reading > self._reading[where]) | (last < 0)
            self._changed[where] = np.where(rose, time, self._changed[where])
        self._time[where] = time
        self._reading[where] = reading
        if self._some_backward:
            self._backward[where] &= reading < self._peak[where]
            self._some_backward = bool(self._backward.any())

    # the state -----------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "time": kept(self._time),
            "reading": kept(self._reading),
            "backward": kept(self._backward),
            "peak": kept(self._peak),
            "moved": kept(self._moved),
            "changed": kept(self._changed),
            "reset": kept(self._reset),
            "pace": self._pace.save(),
            "questions": [
                [c, q.since, [[list(level.readings), level.backward] for level in q.levels]]
                for c, q in self.questions.items()
            ],
            "slots": self.slots.save(),
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self._time = np.array(state["time"], np.int64)
        self._reading = floats(state, "reading")
        self._backward = np.array(state["backward"], bool)
        self._some_backward = bool(self._backward.any())
        self._peak, self._moved = floats(state, "peak"), floats(state, "moved")
        self._reset = np.array(state["reset"], np.int64)
        self._changed = np.array(state["changed"], np.int64)
        self._pace.load(cast("State", state["pace"]))
        asked = cast("list[tuple[int, int, list[tuple[list[Suspect], bool]]]]", state["questions"])
        self.questions = {
            c: Question(since, [Level([(t, r, q) for t, r, q in held], b) for held, b in levels])
            for c, since, levels in asked
        }
        self.slots.load(cast("State", state["slots"]))
