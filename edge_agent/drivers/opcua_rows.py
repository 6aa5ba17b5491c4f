"""The rows that a subscription makes; pure but for the clock it is handed.

One value and one quality are held per column. A publish response becomes one row at the newest
source time in it, and one more for every other source time of a state or a counter, so each of
their changes keeps its exact time. A column that was not notified repeats what it holds: silence is
the server's statement that nothing has changed, for as long as its responses arrive and its clock
goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.clock import Clock
from edge_agent.drivers.base import DeviceConfig, apply_flag
from edge_agent.drivers.opcua_values import DataValue, Scaling, reading, source_time
from edge_agent.model import F64, U8, Kind, Quality, SampleBlock, Schema


@dataclass(frozen=True, slots=True)
class _Change:
    """A notification with the time that its row is going to have.

    source  orders the changes that share a row time because their own times could not be used
    marked  whether the time of receipt stands for a time that cannot be right
    """

    time: int
    source: int
    column: int
    value: float
    quality: int
    marked: bool

    @property
    def moment(self) -> tuple[int, int]:
        """Changes of one moment share a row."""
        return self.time, self.source


class SubscriptionRows:
    """The held values of one pushed group.

    tolerance  ns by which a source time may differ from the agent's clock
    keep_alive seconds, by ``clock.monotonic()``, between two responses at most
    floor      ns; no row is older: there are rows up to here already
    """

    def __init__(
        self,
        config: DeviceConfig,
        schema: Schema,
        names: Sequence[str],
        clock: Clock,
        *,
        tolerance: int,
        keep_alive: float,
        floor: int,
    ) -> None:
        self._config, self._schema, self._clock = config, schema, clock
        self._scaling = Scaling.of(config, schema, names)
        self._tolerance, self._keep_alive = tolerance, keep_alive
        self._exact = [tag.kind is not Kind.GAUGE for tag in schema.tags]
        k = len(schema.tags)
        self._value: F64 = np.full(k, np.nan)
        self._quality: U8 = np.full(k, Quality.BAD_NOT_AVAILABLE, np.uint8)
        self._refused = np.zeros(k, bool)
        self._waiting = np.ones(k, bool)  # for the first notification since the start or a silence
        self._patience = clock.monotonic() + 2 * keep_alive
        self._published: int | None = None
        self._advanced = clock.monotonic()
        self._silent = False
        self.last = floor
        self.revived = False  # the silence is over: what has not changed must be asked for again

    def refuse(self, column: int, quality: Quality) -> None:
        """Note that the server does not watch a column."""
        self._value[column], self._quality[column] = np.nan, quality
        self._refused[column], self._waiting[column] = True, False

    def doubt(self) -> None:
        """Note that notifications were lost: what is held may have changed since."""
        trusted = self._quality < Quality.UNCERTAIN
        self._quality[trusted] = Quality.UNCERTAIN

    def keep_alive(self, published: int | None) -> SampleBlock | None:
        """Return the row of a response without notifications; None before the first values.

        published  ns, the server's PublishTime; the row's time if the two clocks agree
        """
        self._watch(published)
        if self._waiting.any() and self._clock.monotonic() < self._patience and not self._silent:
            return None
        now = self._clock.wall_ns()
        trusted = published is not None and abs(published - now) <= self._tolerance
        return self._block([(published if trusted and published is not None else now, [])])

    def silence(self) -> SampleBlock:
        """Return the row of a subscription whose responses are overdue."""
        self._fall_silent()
        return self._block([(self._clock.wall_ns(), [])])

    def notify(self, items: Sequence[tuple[int, DataValue]], published: int | None) -> SampleBlock:
        """Return the rows of a response with notifications: (column, value) as they came."""
        self._watch(published)
        changes = self._changes(items)
        moments = {change.moment for change in changes if self._exact[change.column]}
        moments.add(changes[-1].moment)
        rows: list[tuple[int, list[_Change]]] = []
        begin = 0
        for moment in sorted(moments):
            end = begin
            while end < len(changes) and changes[end].moment <= moment:
                end += 1
            rows.append((moment[0], changes[begin:end]))
            begin = end
        return self._block(rows)

    def _changes(self, items: Sequence[tuple[int, DataValue]]) -> list[_Change]:
        """Return the notifications in the order of their times, of equal times as they came."""
        read = [reading(value) for _, value in items]
        columns = np.array([column for column, _ in items], np.intp)
        value, quality = self._scaling.apply(
            columns, np.array([r for r, _ in read]), np.array([q for _, q in read], np.uint8)
        )
        now, changes = self._clock.wall_ns(), []
        for i, (column, item) in enumerate(items):
            source, first = source_time(item), bool(self._waiting[column])
            self._waiting[column] = False
            if source is None or (first and source < now - self._tolerance):
                # a value that has stood for hours when the subscription begins is no wrong clock
                time, source, marked = now, now, False
            elif abs(source - now) <= self._tolerance:
                time, marked = source, False
            else:
                time, marked = now, True
            changes.append(_Change(time, source, column, float(value[i]), int(quality[i]), marked))
        return sorted(changes, key=lambda change: change.moment)

    def _block(self, rows: Sequence[tuple[int, Sequence[_Change]]]) -> SampleBlock:
        """Return one row per time, each with the changes applied that belong to it."""
        n, k = len(rows), len(self._schema.tags)
        time, value = np.empty(n, np.int64), np.empty((k, n))
        quality = np.empty((k, n), np.uint8)
        for i, (stamp, changes) in enumerate(rows):
            for change in changes:
                self._value[change.column] = change.value
                self._quality[change.column] = change.quality
            self.last = max(self.last, stamp)
            time[i], value[:, i], quality[:, i] = self.last, self._value, self._quality
            for change in changes:  # a mark of the time is of this row, not of the value held
                if change.marked and quality[change.column, i] < Quality.UNCERTAIN_CLOCK:
                    quality[change.column, i] = Quality.UNCERTAIN_CLOCK
        apply_flag(self._config, self._schema, value, quality)
        return SampleBlock(self._schema, time, value, quality)

    def _watch(self, published: int | None) -> None:
        """Take note of a response: the end of a silence, or the server's clock standing still."""
        now = self._clock.monotonic()
        if published is None or published != self._published:
            self._published, self._advanced = published, now
            self.revived = self.revived or self._silent
            self._silent = False
        elif now - self._advanced >= self._keep_alive:
            self._fall_silent()

    def _fall_silent(self) -> None:
        self._silent = True
        watched = ~self._refused
        self._value[watched], self._quality[watched] = np.nan, Quality.BAD_NO_ANSWER
        self._waiting[watched] = True
