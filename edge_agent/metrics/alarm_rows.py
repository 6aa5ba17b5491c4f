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
from edge_agent.metrics.base import SILENCE, State, usable
from edge_agent.metrics.conditions import Condition, Delays, Judged
from edge_agent.metrics.operations import Program
from edge_agent.metrics.rollup import SHARES
from edge_agent.model import I64, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.units import Unit

HOUR = 3600 * 1_000_000_000
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
        self._silence = round(SILENCE * aligned.driver.period * 1e9)
        self.situation = Situation(shelved=settings.until >= 0, removed=settings.removed)
        self._told: AlarmState | None = None  # by the last event row; None: there is none yet
        self._time, self._known = -1, False  # of the last row
        self._known_ns = 0  # for how long the condition was known since the last event
        self._since = 0  # time of the last event
        self._raised: list[int] = []  # when it occurred, in the last hour
        self._latest = (np.nan, int(Quality.BAD_MISSING), np.nan, int(Quality.BAD_MISSING))

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
        events = self._events(rows, judged)
        told = []
        passed = self._passed(rows, judged)
        if self._told is None:
            self._since = int(rows.time[0])
            events.setdefault(0, [])
        for i in sorted(events):
            for event in events[i]:
                if event is AlarmEvent.OCCUR:
                    self._raised = [*self._raised[1 - COUNTED :], int(rows.time[i])]
                self.situation = after(self.situation, event, self._settings.rules)
            if self.situation.state is not self._told:
                told.append(
                    (
                        int(rows.time[i]),
                        self._row(int(rows.time[i]), _at(judged, i), int(passed[i])),
                    )
                )
                self._told, self._since = self.situation.state, int(rows.time[i])
                passed = passed - passed[i]
        self._known_ns = int(passed[-1])
        self._time, self._known = int(rows.time[-1]), bool(judged.known[-1])
        self._latest = _at(judged, -1)
        if not told:
            return None
        value = np.array([v for _, (v, _) in told]).T
        quality = np.array([q for _, (_, q) in told], np.uint8).T
        return SampleBlock(self._output, np.array([t for t, _ in told], np.int64), value, quality)

    def _events(self, rows: Together, judged: Judged) -> dict[int, list[AlarmEvent]]:
        """Return what happens at which row, in order: first what silences, then the condition."""
        found: dict[int, list[AlarmEvent]] = {}
        until = self._settings.until
        if self.situation.shelved and until >= 0 and rows.time[-1] >= until:
            found[int(np.searchsorted(rows.time, until))] = [AlarmEvent.UNSHELVE]
        if self._settings.suppressed is not None:
            value, quality = rows.run(self._settings.suppressed)
            known = np.flatnonzero(usable(value, quality))
            before = np.concatenate([[self.situation.suppressed], value[known] == 1])
            for i in np.flatnonzero(np.diff(before)).tolist():
                event = AlarmEvent.SUPPRESS if before[i + 1] else AlarmEvent.UNSUPPRESS
                found.setdefault(int(known[i]), []).append(event)
        for i, active in self._delays.changes(rows.time, judged):
            event = AlarmEvent.OCCUR if active else AlarmEvent.CLEAR
            found.setdefault(i, []).append(event)
        return found

    def _passed(self, rows: Together, judged: Judged) -> I64:
        """Return for how long the condition was known since the last event, at each row, ns."""
        first = int(rows.time[0]) if self._time < 0 else self._time
        spans = np.minimum(np.diff(rows.time, prepend=first), self._silence)
        spans = spans * np.concatenate([[self._known], judged.known[:-1]])
        return np.cumsum(spans) + self._known_ns

    def _row(
        self, time: int, judged: tuple[float, int, float, int], known_ns: int
    ) -> tuple[list[float], list[int]]:
        """Return values and qualities of a row of the situation at a time."""
        value, quality, limit, limit_quality = judged
        lately = sum(t > time - HOUR for t in self._raised)
        length = time - self._since
        share = known_ns / length if length > 0 else 1.0
        state, active = float(self.situation.state), float(self.situation.active)
        numbers = [state, active, value, limit, float(self._settings.priority)]
        numbers += [length / 1e9, float(lately), min(1.0, share), 0.0]
        return numbers, [0, 0, quality, limit_quality, 0, 0, 0, 0, 0]

    def running(self, now: int, _open: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the situation as it stands, at the newest row that was judged; never stored."""
        if self._told is None:
            return None
        del now  # what is not judged yet is not known
        numbers, marks = self._row(self._time, self._latest, self._known_ns)
        value, quality = np.array([numbers]).T, np.array([marks], np.uint8).T
        return SampleBlock(self._output, np.array([self._time]), value, quality)

    def save(self) -> State:
        s = self.situation
        flags = [s.active, s.shelved, s.suppressed, s.removed, self._known]
        return {
            "aligned": self._aligned.save(),
            "condition": self._condition.save(),
            "delays": self._delays.save(),
            "flags": [int(flag) for flag in flags],
            "states": [int(s.announced), -1 if self._told is None else int(self._told)],
            "times": [self._time, self._known_ns, self._since],
            "raised": list(self._raised),
            "latest": list(self._latest),
        }

    def load(self, state: State, /) -> None:
        self._aligned.load(cast("State", state["aligned"]))
        self._condition.load(int(str(state["condition"])))
        self._delays.load(cast("list[int]", state["delays"]))
        active, shelved, suppressed, removed, self._known = map(
            bool, cast("list[int]", state["flags"])
        )
        announced, told = cast("list[int]", state["states"])
        told_state = None if told < 0 else AlarmState(told)
        self.situation = Situation(active, AlarmState(announced), shelved, suppressed, removed)
        self._told = told_state
        self._time, self._known_ns, self._since = (
            int(t) for t in cast("list[int]", state["times"])
        )
        self._raised = [int(t) for t in cast("list[int]", state["raised"])]
        value, quality, limit, limit_quality = cast("list[float | None]", state["latest"])
        self._latest = (_number(value), int(quality or 0), _number(limit), int(limit_quality or 0))


def _number(written: float | None) -> float:
    return np.nan if written is None else float(written)


def _at(judged: Judged, i: int) -> tuple[float, int, float, int]:
    """Return value, its quality, limit and its quality of one row."""
    value, limit = float(judged.value[i]), float(judged.limit[i])
    return value, int(judged.quality[i]), limit, int(judged.limit_quality[i])
