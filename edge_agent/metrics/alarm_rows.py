"""The rows of an alarm: its events, made from the rows that its condition judges.

An alarm has one stream, ``<name>/event``: a row at its first row, and at each change of its state,
at the row time at which it changes. What is judged, and when, is in ``conditions.py``; the states
are in ``alarm_states.py``; rows of several streams are put together as in ``aligned.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from edge_agent.metrics.alarm_states import AlarmEvent, AlarmState, Rules, Situation, after
from edge_agent.metrics.aligned import Aligned, Together
from edge_agent.metrics.base import State, usable
from edge_agent.metrics.conditions import Condition, Delays, Judged
from edge_agent.metrics.formula import SHARES
from edge_agent.metrics.held import floats
from edge_agent.metrics.operations import Program
from edge_agent.model import Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.units import Unit

HOUR = 3600 * 1_000_000_000
REMEMBERED = 366 * 24 * HOUR  # how far back the last event is looked for
_MISSING = int(Quality.BAD_MISSING)
COUNTED = 100  # occurrences that are remembered


def alarm_tags(unit: Unit) -> tuple[Tag, ...]:
    """Return the columns of an alarm whose value is in a unit."""
    one, second = Unit.parse("1"), Unit.parse("s")
    states = (Tag("state", one, Kind.STATE), Tag("active", one, Kind.STATE))
    judged = (Tag("value", unit), Tag("limit", unit))
    last = (Tag("priority", one, Kind.STATE), Tag("duration_s", second), Tag("raised_1h", one))
    return (*states, *judged, *last, *SHARES)


@dataclass(frozen=True)
class Settings:
    """What an alarm does beside its condition.

    suppressed  the program of the condition that suppresses it; until: ns, the end of shelving
    """

    rules: Rules
    priority: int
    suppressed: Program | None = None
    until: int = -1
    removed: bool = False


class Alarm:
    """The operator of one alarm."""

    def __init__(
        self,
        output: Schema,
        aligned: Aligned,
        condition: Condition,
        delays: Delays,
        settings: Settings,
    ) -> None:
        self._output, self._aligned = output, aligned
        self._condition, self._delays, self._settings = condition, delays, settings
        self.situation = Situation(shelved=settings.until >= 0, removed=settings.removed)
        self._told: AlarmState | None = None  # by the last event row; None: there is none yet
        self._since = 0  # time of the last event
        self._raised: list[int] = []  # when it occurred, the last ones
        self._latest = Reading(-1, np.nan, _MISSING, np.nan, _MISSING, known=False)
        self._newest: tuple[int, Judged] | None = None  # what ``_latest`` is to be made of
        self._behind = -1  # rows up to then are fed again: what happened at them is told already

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._aligned.inputs

    @property
    def output(self) -> Schema:
        return self._output

    @property
    def rows_late(self) -> int:
        """Rows that came when they could not be used for their time any more."""
        return self._aligned.rows_late

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        rows = self._aligned.update(block)
        if rows is None:
            return None
        judged = self._condition.judge(rows)
        first = int(np.searchsorted(rows.time, self._behind, "right"))
        events = self._events(rows, judged, first)
        if first == len(rows.time):
            return None
        told: list[tuple[list[float], list[int]]] = []
        times: list[int] = []
        if self._told is None:
            self._since = int(rows.time[0])
        if self.situation.state is not self._told:  # the first row, or another configuration
            events.setdefault(first, [])
        for i in sorted(events):
            now = int(rows.time[i])
            for event in events[i]:
                if event is AlarmEvent.OCCUR:
                    self._raised = [*self._raised[1 - COUNTED :], now]
                self.situation = after(self.situation, event, self._settings.rules)
            if self.situation.state is not self._told:
                told.append(self._row(_reading(now, judged, i)))
                times.append(now)
                self._told, self._since = self.situation.state, now
        self._newest = int(rows.time[-1]), judged
        if not told:
            return None
        value = np.array([v for v, _ in told]).T
        quality = np.array([q for _, q in told], np.uint8).T
        return SampleBlock(self._output, np.array(times, np.int64), value, quality)

    def _events(self, rows: Together, judged: Judged, first: int) -> dict[int, list[AlarmEvent]]:
        """Return what happens at which row, in order: first what silences, then the condition.

        first  the first row at which something may happen
        """
        found: dict[int, list[AlarmEvent]] = {}
        until = self._settings.until
        if self.situation.shelved and until >= 0 and rows.time[-1] >= until:
            found[int(np.searchsorted(rows.time, until))] = [AlarmEvent.UNSHELVE]
        if self._settings.suppressed is not None:
            value, quality = rows.run(self._settings.suppressed)
            known = np.flatnonzero(usable(value, quality))
            known = known[known >= first]
            before = np.concatenate([[self.situation.suppressed], value[known] == 1])
            for i in np.flatnonzero(np.diff(before)).tolist():
                event = AlarmEvent.SUPPRESS if before[i + 1] else AlarmEvent.UNSUPPRESS
                found.setdefault(int(known[i]), []).append(event)
        changes = self._delays.changes(rows.time, judged)
        changes = [change for change in changes if change[0] >= first]
        held = not changes[0][1] if changes else self._delays.active
        if held is not self.situation.active and first < len(rows.time):
            changes.insert(0, (first, held))  # it is judged by another limit now
        for i, active in changes:
            event = AlarmEvent.OCCUR if active else AlarmEvent.CLEAR
            found.setdefault(i, []).append(event)
        return found

    def _row(self, now: "Reading") -> tuple[list[float], list[int]]:
        """Return values and qualities of a row of the situation at a reading."""
        lately = sum(time > now.time - HOUR for time in self._raised)
        state, active = float(self.situation.state), float(self.situation.active)
        numbers = [state, active, now.value, now.limit, float(self._settings.priority)]
        numbers += [(now.time - self._since) / 1e9, float(lately), float(now.known), 0.0]
        return numbers, [0, 0, now.quality, now.limit_quality, 0, 0, 0, 0, 0]

    def running(self, _now: int, _open: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the situation as it stands, at the newest row that was judged; never stored."""
        if self._told is None:
            return None
        now = self._at_last()
        numbers, marks = self._row(now)
        value, quality = np.array([numbers]).T, np.array([marks], np.uint8).T
        return SampleBlock(self._output, np.array([now.time]), value, quality)

    def _at_last(self) -> "Reading":
        """Return what was judged at the newest row."""
        if self._newest is not None:
            time, judged = self._newest
            self._latest, self._newest = _reading(time, judged, -1), None
        return self._latest

    @property
    def memory(self) -> int:
        """How far back its own rows tell of the state that it is in, ns."""
        return REMEMBERED

    def recall(self, rows: SampleBlock, /) -> None:
        """Take over the situation that the last of its own rows tells of."""
        active = rows["active"] == 1
        begun = np.flatnonzero(active & ~np.concatenate([[False], active[:-1]]))
        self._raised = rows.time[begun][-COUNTED:].tolist()
        self._told, self._since = AlarmState(round(float(rows["state"][-1]))), int(rows.time[-1])
        told, until = self._told, self._settings.until
        self.situation = Situation(
            active=bool(active[-1]),
            announced=told if told < AlarmState.SHELVED else AlarmState.NORMAL,
            shelved=self._since < until,
            suppressed=told is AlarmState.SUPPRESSED,
            removed=self._settings.removed,
        )
        self._delays.active = self.situation.active

    def save(self) -> State:
        s, now = self.situation, self._at_last()
        flags = [s.active, s.shelved, s.suppressed, s.removed, now.known]
        return {
            "aligned": self._aligned.save(),
            "condition": self._condition.save(),
            "delays": self._delays.save(),
            "flags": [int(flag) for flag in flags],
            "states": [int(s.announced), -1 if self._told is None else int(self._told)],
            "since": self._since,
            "raised": list(self._raised),
            "latest": [now.time, now.quality, now.limit_quality],
            "numbers": [now.value, now.limit],
            "behind": self._behind,
        }

    def load(self, state: State, /) -> None:
        self._aligned.load(cast("State", state["aligned"]))
        self._condition.load(int(str(state["condition"])))
        self._delays.load(cast("list[int]", state["delays"]))
        self._behind = int(str(state["behind"]))
        self._take_over(state)

    def resume(self, state: State) -> None:
        """Take over the situation of another configuration: it has been announced.

        What is put away or taken out is as this configuration says.
        """
        if state.keys() != self.save().keys():
            return
        self._take_over(state)
        self._behind, settings = self._latest.time, self._settings
        wanted = {
            (AlarmEvent.SHELVE, AlarmEvent.UNSHELVE): (
                self.situation.shelved,
                self._behind < settings.until,
            ),
            (AlarmEvent.REMOVE, AlarmEvent.RESTORE): (self.situation.removed, settings.removed),
            (AlarmEvent.SUPPRESS, AlarmEvent.UNSUPPRESS): (
                self.situation.suppressed,
                self.situation.suppressed and settings.suppressed is not None,
            ),
        }
        for events, (was, now) in wanted.items():
            if was is not now:
                event = events[0] if now else events[1]
                self.situation = after(self.situation, event, settings.rules)
        self._delays.active = self.situation.active

    def _take_over(self, state: State) -> None:
        *flags, known = map(bool, cast("list[int]", state["flags"]))
        announced, told = cast("list[int]", state["states"])
        self.situation = Situation(flags[0], AlarmState(announced), *flags[1:])
        self._told = None if told < 0 else AlarmState(told)
        self._since = int(str(state["since"]))
        self._raised = [int(time) for time in cast("list[int]", state["raised"])]
        time, quality, limit_quality = map(int, cast("list[int]", state["latest"]))
        value, limit = floats(state, "numbers").tolist()
        self._newest = None
        self._latest = Reading(time, value, quality, limit, limit_quality, known=known)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was judged at one row, and by what limit; known: it counts."""

    time: int
    value: float
    quality: int
    limit: float
    limit_quality: int
    known: bool


def _reading(time: int, judged: Judged, i: int) -> Reading:
    value, limit = float(judged.value[i]), float(judged.limit[i])
    marks = int(judged.quality[i]), int(judged.limit_quality[i])
    return Reading(time, value, marks[0], limit, marks[1], known=bool(judged.known[i]))
