"""Where a machine's time goes: from rows of its state to time by activity, stops and failures.

A *stop* begins with the row that brings an activity in which the machine stands still although it
could produce (fault, delay, blocked, starved, idle), and ends with the first row of another one. It
is a *micro-stop* if that row comes less than the threshold after its beginning: the whole of a stop
is judged, wherever slots part it. Time in which the state is not known neither ends a stop nor
belongs to it. A stop whose beginning nobody saw is none of the counted ones, and is long.

What was before the rows at hand is in a ``Last``, so a slot needs the rows of itself and, while a
stop is too young to be judged, those up to its end or its threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, usable
from edge_agent.model import F64, I64, U8

Activity = Literal[
    "producing", "setup", "fault", "delay", "blocked", "starved", "idle",
    "maintenance", "planned_stop", "off",
]  # fmt: skip
States = Mapping[Activity, tuple[int, ...]]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

ACTIVITIES: tuple[Activity, ...] = get_args(Activity)
(PRODUCING, SETUP, FAULT, DELAY, BLOCKED, STARVED, IDLE, MAINTENANCE, PLANNED_STOP, OFF) = range(10)
MICRO = 10  # the time of short stops, whatever their activity
UNKNOWN = -1
_STANDS = np.zeros(MICRO + 2, bool)  # the last one is that of UNKNOWN
_STANDS[[FAULT, DELAY, BLOCKED, STARVED, IDLE, MICRO]] = True
_UNSEEN = -(2**61)  # ns: when a stop began whose beginning nobody saw
_OPEN = 2**61

# ISA-TR88.00.02. Held has its cause in the machine, suspended before or behind it.
PACKML: States = {
    "producing": (6,),  # execute
    "setup": (3, 15, 16),  # starting, resetting, completing
    "fault": (1, 8, 9),  # clearing, aborting, aborted
    "delay": (10, 11, 12),  # holding, held, unholding
    "blocked": (5, 13, 14),  # suspended, suspending, unsuspending
    "idle": (2, 4, 7, 17),  # stopped, idle, stopping, complete
}


@dataclass(frozen=True)
class Last:
    """What was before the rows at hand.

    activity  of the last row whose state is known
    begun     ns at which the stop began that it belongs to
    long      whether that stop has been judged to be none of the short ones
    reason    the reason shown in that row; -1: no stop
    """

    activity: int = UNKNOWN
    begun: int = _UNSEEN
    long: bool = False
    reason: int = -1


@dataclass(frozen=True)
class Trace:
    """Rows of a state: when, which activity (``UNKNOWN``: none), until when it holds; all (m,).

    quality  of the rows that are known; 0 where they are not
    """

    time: I64
    activity: Index
    until: I64
    quality: U8


@dataclass(frozen=True)
class Stops:
    """What the rows of a trace tell of stops; all (m,).

    short    the row belongs to a micro-stop
    begun    ns at which the stop began that the row belongs to
    begins   a stop begins with the row
    fails    a fault begins with the row
    pending  ns at which the stop began that is too young to be judged; None: there is none
    """

    short: Mask
    begun: I64
    begins: Mask
    fails: Mask
    pending: int | None


class Meaning:
    """Which number means what, as a look-up."""

    def __init__(self, numbers: Mapping[int, int]) -> None:
        known = sorted(numbers)
        self._numbers = np.array(known, np.float64)
        self._meanings = np.array([numbers[number] for number in known], np.intp)

    def of(self, value: F64, good: Mask, otherwise: int) -> Index:
        """Return the meaning of values; ``otherwise`` where they have none or are not good."""
        if not len(self._numbers):
            return np.full(len(value), otherwise, np.intp)
        found = np.minimum(np.searchsorted(self._numbers, value), len(self._numbers) - 1)
        known = good & (self._numbers[found] == value)
        return np.where(known, self._meanings[found], otherwise)


def stands(activity: Index) -> Mask:
    """Return where an activity is one of those of a stop."""
    return _STANDS[activity]


def activities(states: States) -> Meaning:
    """Return the look-up of a state's numbers."""
    return Meaning({n: ACTIVITIES.index(a) for a, numbers in states.items() for n in numbers})


def trace(meaning: Meaning, time: I64, value: F64, quality: U8, silence: int) -> Trace:
    """Return the rows of a state as activities; silence: ns that a row holds at most."""
    activity = meaning.of(value, usable(value, quality), UNKNOWN)
    until = time + silence
    until[:-1] = np.minimum(until[:-1], time[1:])
    return Trace(time, activity, until, np.where(activity == UNKNOWN, 0, quality).astype(np.uint8))


def stops(rows: Trace, last: Last, threshold: int) -> Stops:
    """Judge the stops; threshold: ns, 0: there are no micro-stops."""
    m = len(rows.time)
    short, begins, fails = np.zeros(m, bool), np.zeros(m, bool), np.zeros(m, bool)
    since = np.full(m, _UNSEEN)
    known = np.flatnonzero(rows.activity != UNKNOWN)
    if not len(known):
        return Stops(short, since, begins, fails, _young(rows, last, threshold))
    activity, time = rows.activity[known], rows.time[known]
    before = np.concatenate([[last.activity], activity[:-1]])
    stands, stood = _STANDS[activity], _STANDS[before]
    unseen = stands & (before == UNKNOWN)
    start = stands & ~stood
    number = np.cumsum(start)  # of the stop, or of the last one; 0: that of ``last``
    begun = np.concatenate([[last.begun], np.where(unseen, _UNSEEN, time)[start]])
    end = np.full(len(begun), _OPEN)
    over = ~stands & stood
    end[number[over]] = time[over]
    is_short = end - begun < threshold
    is_short[0] &= not last.long
    short[known] = stands & is_short[number]
    since[known] = begun[number]
    begins[known] = start & ~unseen
    fails[known] = (activity == FAULT) & (before != FAULT) & (before != UNKNOWN)
    open_long = last.long and number[-1] == 0
    at_end = replace(last, activity=int(activity[-1]), begun=int(begun[-1]), long=open_long)
    return Stops(short, since, begins, fails, _young(rows, at_end, threshold))


def _young(rows: Trace, last: Last, threshold: int) -> int | None:
    """Return when the stop that goes on began, if it can still become a short one."""
    if not _STANDS[last.activity] or last.long or not len(rows.time):
        return None
    return last.begun if int(rows.time[-1]) < last.begun + threshold else None


def after(rows: Trace, judged: Stops, last: Last, end: int, reason: Index) -> Last:
    """Return what is to be remembered of the rows before an end.

    judged  what ``stops`` returned of the rows and ``last``; reason (m,): what ``shown`` did
    """
    known = np.flatnonzero((rows.activity != UNKNOWN) & (rows.time < end))
    if not len(known):
        return last
    at = int(known[-1])
    if not _STANDS[rows.activity[at]]:
        return Last(int(rows.activity[at]))
    return Last(
        int(rows.activity[at]), int(judged.begun[at]), not judged.short[at], int(reason[at])
    )


def shown(rows: Trace, reason: Index) -> Index:
    """Return the reason that each row of a stop shows; -1 where the machine does not stand."""
    return np.where(_STANDS[rows.activity], reason, -1)


def appears(rows: Trace, last: Last, reason: Index) -> Mask:
    """Return where a reason appears that the last known row did not show, (m,)."""
    known = np.flatnonzero(rows.activity != UNKNOWN)
    before = np.concatenate([[last.reason], reason[known]])[:-1]
    found = np.zeros(len(rows.time), bool)
    found[known] = (reason[known] >= 0) & (reason[known] != before)
    return found


# time in slots --------------------------------------------------------------------------------


def spent(rows: Trace, category: Index, count: int, ends: I64) -> I64:
    """Return the ns of each category of rows in the minutes with these ends, (count, n).

    category  (m,), of each row; one below 0 counts nowhere
    """
    if not len(rows.time):
        return np.zeros((count, len(ends)), np.int64)
    members = category == np.arange(count)[:, None]
    before = np.zeros(members.shape, np.int64)
    np.cumsum(members[:, :-1] * (rows.until - rows.time)[:-1], axis=1, out=before[:, 1:])

    def until(border: I64) -> I64:
        at = np.searchsorted(rows.time, border, "right") - 1
        row = np.maximum(at, 0)
        held = np.where(at < 0, 0, np.minimum(border, rows.until[row]) - rows.time[row])
        total: I64 = before[:, row] + members[:, row] * held
        return total

    return until(ends) - until(ends - MINUTE)


def counted(time: I64, events: Mask, ends: I64) -> I64:
    """Return how many of each kind of events are in the minutes with these ends, (count, n).

    events  (count, m), of rows at these times
    """
    found = np.zeros((len(events), len(ends)), np.int64)
    if not events.any():
        return found
    kind, row = np.nonzero(events)
    when = time[row]
    slot = np.searchsorted(ends, when, "right")
    inside = slot < len(ends)
    inside[inside] = when[inside] >= ends[slot[inside]] - MINUTE
    np.add.at(found, (kind[inside], slot[inside]), 1)
    return found


def worst(rows: Trace, ends: I64) -> U8:
    """Return the worst quality of the known rows that hold in each minute, (n,)."""
    found = np.zeros(len(ends), np.uint8)
    if not rows.quality.any():
        return found
    for quality in np.unique(rows.quality[rows.quality > 0]).tolist():
        doubtful = rows.quality == quality
        time = rows.time[doubtful]
        until = np.maximum(rows.until[doubtful], time + 1)
        steps = np.zeros(len(ends) + 1, np.int64)
        first = np.searchsorted(ends, time, "right")
        stop = np.maximum(np.searchsorted(ends - MINUTE, until, "left"), first)
        np.add.at(steps, first, 1)
        np.add.at(steps, stop, -1)
        found[np.cumsum(steps)[:-1] > 0] = quality
    return found
