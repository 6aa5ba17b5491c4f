"""Rows of several streams put together at the row times of one of them, in event time.

The *driver* is the stream with the shortest period. Each of its rows gets, of every other stream,
the first row at just its time, else the last one before, if that is not older than three of that
stream's periods; otherwise the columns are BAD_MISSING. A row is given out once every other stream
has told of its time: a stream of samples has with its first row at or after it, a stream of windows
as soon as no window can end between its last row and that time. So the result does not depend on
how the rows of the streams came between each other.

A stream that says nothing any more is waited for no longer than ``patience`` of event time; as in
``join.py``, a silence of all streams counts as one step only. Rows that come after that are still
the value that holds from then on. What is kept is bounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.metrics.base import MINUTE, SILENCE, Plant, State, Window
from edge_agent.metrics.expression import Column
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.moving import Moved, Moving
from edge_agent.metrics.operations import Program, clean, run
from edge_agent.metrics.windows import PERIODS, Calendar
from edge_agent.model import F64, I64, U8, Family, Quality, SampleBlock, Schema

_MISSING = np.uint8(Quality.BAD_MISSING)  # an enum's look-up costs 1 µs
_SAMPLES = frozenset({Family.SAMPLE, Family.COMPUTED})
_DERIVED = 15 * MINUTE  # what the KPI of a derived row may wait for silent inputs


@dataclass
class Wanted:
    """What is read of one stream: its columns, then what functions of the rows before make."""

    schema: Schema
    columns: list[str] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)


class Names:
    """What the expressions of one metric refer to, collected while they are compiled."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._calendar = Calendar(plant.site.zone, plant.shifts)
        self.wanted: dict[str, Wanted] = {}

    def stream(self, schema: Schema) -> Wanted:
        """Return what is read of a stream."""
        return self.wanted.setdefault(schema.stream, Wanted(schema))

    def column(self, name: str) -> Column:
        """Return the column that a name stands for; ``KeyError`` for none."""
        schema, column = found(self._plant, name)
        tag = schema.tags[schema.index[column]]
        wanted = self.stream(schema)
        if column not in wanted.columns:
            wanted.columns.append(column)
        return Column(schema.stream, wanted.columns.index(column), tag.unit, tag.kind)

    def moving(self, stream: str, moved: Moved) -> int:
        """Return the column of a function of the rows before: counted from -1 downwards."""
        wanted = self.wanted[stream]
        moved.check(wanted.schema)
        if moved not in wanted.moved:
            wanted.moved.append(moved)
        return -1 - wanted.moved.index(moved)

    def align(self, plant: Plant, clock: Sequence[Schema] = ()) -> "Aligned":
        """Return what puts the rows together; clock: streams that only say that time goes on."""
        for schema in clock:
            self.stream(schema)
        feeds = [Feed(wanted, plant, self._calendar) for wanted in self.wanted.values()]
        return Aligned(feeds)


def found(plant: Plant, name: str) -> tuple[Schema, str]:
    """Return stream and column of ``em-kiln.active_power`` or ``clinker.intensity_1h``."""
    try:
        schema, column = plant.derived(name)
    except KeyError as error:
        if "unknown metric" not in str(error.args[0]):
            raise
        return plant.raw(name), name.partition(".")[2]
    if schema.family is Family.ALARM:
        raise KeyError(f'"{name}": an alarm has rows only when it changes, nothing can use them')
    return schema, column


class Feed:
    """The rows of one stream that are still needed."""

    def __init__(self, wanted: Wanted, plant: Plant, calendar: Calendar) -> None:
        self.schema = schema = wanted.schema
        self.samples = schema.family in _SAMPLES
        self.width = len(wanted.columns) + len(wanted.moved)
        self._columns = schema.columns(wanted.columns)
        self._own = len(wanted.columns)
        self._moving = [Moving(m, schema, plant.quality, calendar) for m in wanted.moved]
        self._calendar = calendar
        self.hold = round(SILENCE * schema.period * 1e9)
        self.seen = -1  # time of the last row
        self.clear()

    def clear(self) -> None:
        """Keep no row."""
        self.time = np.zeros(0, np.int64)
        self.value = np.zeros((self.width, 0))
        self.quality = np.zeros((self.width, 0), np.uint8)

    def places(self, first: int) -> dict[tuple[str, int], int]:
        """Return where the columns stand when the first of them is the row ``first``."""
        stream, own = self.schema.stream, self._own
        found = {(stream, i): first + i for i in range(own)}
        return found | {(stream, -1 - i): first + own + i for i in range(len(self._moving))}

    def columns(self, block: SampleBlock) -> tuple[F64, U8]:
        """Return the columns of a block, (width, n), with what functions of the rows make."""
        self.seen = int(block.time[-1])
        quality = block.quality[self._columns]
        value = clean(block.value[self._columns], quality)
        places = self.places(0)
        for moving in self._moving:
            argument, marks = run(moving.moved.argument, value, quality, places)
            result, mark = moving.take(block.time, argument, marks)
            value, quality = np.vstack([value, result]), np.vstack([quality, mark])
        return value, quality

    def add(self, time: I64, value: F64, quality: U8, most: int) -> None:
        """Keep rows; of more than ``most`` the last ones."""
        self.time = np.concatenate([self.time, time])[-most:]
        self.value = np.hstack([self.value, value])[:, -most:]
        self.quality = np.hstack([self.quality, quality])[:, -most:]

    def told(self, begun: int) -> int:
        """Return up to which time, inclusive, no other row can matter any more.

        begun  time of the driver's first row, -1 before it: a window of an hour or more that has
               no row yet is taken to have none before
        """
        windows = self.schema.name in PERIODS and not self.samples
        instant = self.seen
        if instant < 0 and windows and self.schema.period >= 3600:
            instant = begun - 1
        if instant < 0 or not windows:
            return self.seen
        window = cast("Window", self.schema.name)
        for _ in range(96):  # between two shifts there may be none
            span = self._calendar.window(window, instant)
            if span is not None:
                return span[1] - 1
            instant += 15 * MINUTE
        return instant

    def at(self, time: I64) -> tuple[F64, U8]:
        """Return the columns that hold at some times, (width, m)."""
        missing = np.full((self.width, len(time)), _MISSING)
        if not len(self.time):
            return np.full(missing.shape, np.nan), missing
        first = np.searchsorted(self.time, time)
        row = np.minimum(first, len(self.time) - 1)
        row = np.where(self.time[row] == time, row, first - 1)
        there = (row >= 0) & (time - self.time[row] <= self.hold)
        row = np.maximum(row, 0)
        value = np.where(there, self.value[:, row], np.nan)
        return value, np.where(there, self.quality[:, row], missing)

    def forget(self, time: int) -> None:
        """Drop the rows that no row at or after a time needs."""
        self.drop(int(np.searchsorted(self.time, time)) - 1)

    def drop(self, cut: int) -> None:
        """Drop the first rows."""
        if cut > 0:
            self.time = self.time[cut:].copy()
            self.value = self.value[:, cut:].copy()
            self.quality = self.quality[:, cut:].copy()

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "seen": self.seen,
            "time": kept(self.time),
            "value": kept(self.value),
            "quality": kept(self.quality),
            "moving": [moving.save() for moving in self._moving],
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self.seen = int(str(state["seen"]))
        self.time = np.array(state["time"], np.int64)
        shape = (self.width, len(self.time))
        self.value = floats(state, "value").reshape(shape)
        self.quality = np.array(state["quality"], np.uint8).reshape(shape)
        for moving, saved in zip(self._moving, cast("list[State]", state["moving"]), strict=True):
            moving.load(saved)


@dataclass(frozen=True)
class Together:
    """Rows put together: time (m,), value and quality (c, m); the values ``clean``."""

    time: I64
    value: F64
    quality: U8
    places: dict[tuple[str, int], int]

    def run(self, program: Program) -> tuple[F64, U8]:
        """Return what a program makes of them, value and quality (m,)."""
        return run(program, self.value, self.quality, self.places)


class Aligned:
    """Puts the rows of some streams together."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = {feed.schema.stream: feed for feed in feeds}
        self.driver = min(feeds, key=lambda feed: feed.schema.period).schema
        self._others = [feed for feed in feeds if feed.schema.stream != self.driver.stream]
        self._drives = self._feeds[self.driver.stream]
        longest = max(f.schema.period if f.samples else 60.0 for f in feeds)
        self._step = round(max(longest, 60.0) * 1e9)
        derived = 0 if all(feed.samples for feed in feeds) else _DERIVED
        self.patience = max(round(2e9 * longest) + 5 * SECOND, 65 * SECOND, derived) + self._step
        self.places: dict[tuple[str, int], int] = {}
        first = 0
        for feed in feeds:
            self.places |= feed.places(first)
            first += feed.width
        self._most = {
            feed.schema.stream: 64 + round(3e-9 * self.patience / feed.schema.period)
            for feed in feeds
        }
        self._newest, self._waited = -1, 0
        self._due = np.zeros(0, np.int64)  # ``_waited`` when each row of the driver came
        self._begun, self._given = -1, -1  # times of the driver's first row and the last given out
        self.rows_late = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The streams that it wants."""
        return tuple(self._feeds)

    def update(self, block: SampleBlock) -> Together | None:
        """Return the rows that a block completes."""
        feed = self._feeds[block.schema.stream]
        value, quality = feed.columns(block)
        if not self._others:
            return Together(block.time, value, quality, self.places)
        if feed.seen > self._newest:
            if self._newest >= 0:
                self._waited += min(feed.seen - self._newest, self._step)
            self._newest = feed.seen
        if feed is not self._drives:
            self.rows_late += int(np.searchsorted(block.time, self._given))
        feed.add(block.time, value, quality, self._most[block.schema.stream])
        if feed is self._drives:
            self._begun = int(block.time[0]) if self._begun < 0 else self._begun
            came = np.full(len(block), self._waited, np.int64)
            self._due = np.concatenate([self._due, came])[-len(feed.time) :]
        return self._complete()

    def _complete(self) -> Together | None:
        time = self._drives.time
        until = min(feed.told(self._begun) for feed in self._others)
        n = int(np.searchsorted(time, until, "right"))
        n = max(n, int(np.searchsorted(self._due, self._waited - self.patience, "right")))
        if not n:
            return None
        time = time[:n]
        parts = [
            (self._drives.value[:, :n], self._drives.quality[:, :n])
            if feed is self._drives
            else feed.at(time)
            for feed in self._feeds.values()
        ]
        self._given = int(time[-1])
        self._due = self._due[n:].copy()
        self._drives.drop(n)
        for feed in self._others:
            feed.forget(self._given)
        value = np.vstack([v for v, _ in parts])
        return Together(time, value, np.vstack([q for _, q in parts]), self.places)

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "feeds": {stream: feed.save() for stream, feed in self._feeds.items()},
            "newest": self._newest,
            "waited": self._waited,
            "due": kept(self._due),
            "given": [self._begun, self._given],
            "late": self.rows_late,
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        feeds = cast("Mapping[str, State]", state["feeds"])
        for stream, feed in self._feeds.items():
            feed.load(feeds[stream])
        self._newest, self._waited = int(str(state["newest"])), int(str(state["waited"]))
        self._begun, self._given = (int(t) for t in cast("list[int]", state["given"]))
        self.rows_late = int(str(state["late"]))
        self._due = np.array(state["due"], np.int64)
