"""The rows that a subscription makes; pure but for the clock it is handed.

One value and one quality are held per column. A publish response becomes one row at the newest
source time in it, and one more for every other source time of a state or a counter, so each of
their changes keeps its exact time. A column that was not notified repeats what it holds: silence is
the server's statement that nothing has changed, for as long as its responses arrive and its clock
goes on.

All of it is done on columns: a response of a thousand notifications costs a dozen array operations.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import Clock
from edge_agent.drivers.base import DeviceConfig, apply_flag
from edge_agent.drivers.opcua_columns import NO_TIME, Columns
from edge_agent.drivers.opcua_values import Scaling
from edge_agent.model import F64, I64, U8, Kind, Quality, SampleBlock, Schema


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
        scaling: Scaling,
        clock: Clock,
        *,
        tolerance: int,
        keep_alive: float,
        floor: int,
    ) -> None:
        self._config, self._schema, self._clock = config, schema, clock
        self._scaling = scaling
        self._tolerance, self._keep_alive = tolerance, keep_alive
        self._exact = np.array([tag.kind is not Kind.GAUGE for tag in schema.tags], bool)
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

    def wake(self) -> None:
        """Note that the server is alive again; its values are going to come."""
        self._silent = False

    def expect(self, column: int) -> None:
        """Note that the server watches a column: its value is going to come."""
        self._refused[column], self._waiting[column] = False, True

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
        return self._held(published if trusted and published is not None else now)

    def silence(self) -> SampleBlock:
        """Return the row of a subscription whose responses are overdue."""
        self._fall_silent()
        return self._held(self._clock.wall_ns())

    def notify(self, items: Columns, published: int | None) -> SampleBlock:
        """Return the rows of a response with notifications, whose handles are the columns."""
        self._watch(published)
        column = items.handle.astype(np.intp)
        value, quality = self._scaling.apply(column, items)
        time, source, marked = self._times(column, items.source)
        order = np.lexsort((source, time))  # by time, of equal times as they came
        column, value, quality = column[order], value[order], quality[order]
        time, source, marked = time[order], source[order], marked[order]
        moment = np.zeros(len(time), np.intp)
        np.cumsum((np.diff(time) != 0) | (np.diff(source) != 0), out=moment[1:])
        rows = np.unique(np.append(moment[self._exact[column]], moment[-1]))
        row = np.searchsorted(rows, moment)
        stamps = time[np.searchsorted(moment, rows)]
        held = self._value, self._quality
        block_value, block_quality = laid_out(held, column, row, value, quality)
        self._value, self._quality = block_value[:, -1].copy(), block_quality[:, -1].copy()
        late = column[marked], row[marked]  # a mark of the time is of this row, not of what is held
        block_quality[late] = np.maximum(block_quality[late], Quality.UNCERTAIN_CLOCK)
        return self._block(stamps, block_value, block_quality)

    def _times(self, column: NDArray[np.intp], source: I64) -> tuple[I64, I64, NDArray[np.bool_]]:
        """Return the time that the row of each notification gets.

        Beside it, what orders those that share one because their own times could not be used, and
        whether the time of receipt stands for a time that cannot be right.
        """
        now = self._clock.wall_ns()
        first = np.zeros(len(column), bool)
        first[np.unique(column, return_index=True)[1]] = True
        first &= self._waiting[column]
        self._waiting[column] = False
        # a value that has stood for hours when the subscription begins is no wrong clock
        own = (source != NO_TIME) & ~(first & (source < now - self._tolerance))
        source = np.where(own, source, now)
        near = np.abs(source - now) <= self._tolerance
        return np.where(near, source, now), source, ~near

    def _held(self, stamp: int) -> SampleBlock:
        """Return a row of what is held."""
        k = len(self._value)
        value, quality = self._value.reshape(k, 1).copy(), self._quality.reshape(k, 1).copy()
        return self._block(np.array([stamp], np.int64), value, quality)

    def _block(self, stamps: I64, value: F64, quality: U8) -> SampleBlock:
        time = np.maximum.accumulate(np.maximum(stamps, self.last))
        self.last = int(time[-1])
        apply_flag(self._config, self._schema, value, quality)
        texts = self._scaling.texts(self._schema, value)
        return SampleBlock(self._schema, time, value, quality, texts)

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


def laid_out(
    held: tuple[F64, U8], column: NDArray[np.intp], row: NDArray[np.intp], value: F64, quality: U8
) -> tuple[F64, U8]:
    """Return values and qualities, (k, n): what is held, with each change from its row on.

    held            (k,): values and qualities before the first row
    column          (m,): of each change
    row             (m,): of each change, 0 to n-1, non-decreasing
    value, quality  (m,): of equal row and column the last counts
    """
    k, n = len(held[0]), int(row[-1]) + 1
    change = np.full((k, n), -1, np.intp)
    change[column, row] = np.arange(len(column))
    np.maximum.accumulate(change, axis=1, out=change)
    before = change < 0
    return (
        np.where(before, held[0][:, None], value[change]),
        np.where(before, held[1][:, None], quality[change]),
    )
