"""Which stored windows a report adds up, and what they hold.

The hourly rows are used when the whole period is covered by them; else the shortest window that
covers it without a hole; else the window that covers most of it, and the report says that it is
partial. Windows of different lengths are never mixed, so nothing is counted twice, and nothing is
extrapolated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import numpy as np

from edge_agent.model import Quality, SampleBlock, Schema
from edge_agent.reports.figures import CONTEXT, exact, total
from edge_agent.reports.period import SECOND, Period
from edge_agent.units import Unit

LENGTHS = {"1min": 60, "15min": 900, "1h": 3600}  # aligned to the epoch; shortest first
PREFERRED = "1h"


class History(Protocol):
    """What a report needs of the stored rows; ``sinks.history.History`` is one."""

    def streams(self) -> Sequence[Schema]:
        """Return the schemas of the streams that have rows."""

    def rows(self, stream: str, start_ns: int, end_ns: int, /) -> SampleBlock | None:
        """Return the rows with start < time <= end, or None."""


@dataclass(frozen=True)
class Rows:
    """The rows of one stream in a period.

    block     those on the window's grid, one for each end; None when there are none
    expected  how many windows the period has
    usable    of ``block``: rows in which every column that is needed has a number
    """

    stream: str
    window: str
    block: SampleBlock | None
    expected: int
    usable: tuple[int, ...]

    @property
    def present(self) -> int:
        """Rows found, usable or not."""
        return 0 if self.block is None else len(self.block)

    @property
    def complete(self) -> bool:
        """Whether every window of the period has its numbers."""
        return self.expected > 0 and len(self.usable) == self.expected

    def sum(
        self, column: str, after: int | None = None, until: int | None = None
    ) -> Decimal | None:
        """Return the sum of a column over the usable rows; None without any.

        after, until  ns; of those rows only that lie between
        """
        if self.block is None or not self.usable:
            return None
        rows = np.array(self.usable)
        time = self.block.time[rows]
        inside = (time > (time[0] - 1 if after is None else after)) & (
            time <= (time[-1] if until is None else until)
        )
        return total(self.block[column][rows[inside]].tolist())

    def known(self, column: str) -> bool:
        """Return whether every usable row has a number in a column that was not asked for."""
        return self.block is not None and not np.isnan(self.block[column][list(self.usable)]).any()

    def share(self, column: str) -> Decimal:
        """Return the mean of a share over the whole period; a window without a row counts as 0."""
        if self.block is None or column not in self.block.schema.index or not self.expected:
            return Decimal(0)
        values = self.block[column]
        found = total(values[~np.isnan(values)].tolist())
        return CONTEXT.divide(found, Decimal(self.expected))

    def unit(self, column: str) -> Unit | None:
        """Return the unit of a column."""
        if self.block is None:
            return None
        schema = self.block.schema
        return schema.tags[schema.index[column]].unit

    def source(self, column: str, digest: str) -> str:
        """Return where the sum of a column comes from."""
        schema = self.block.schema.id if self.block is not None else "–"
        return (
            f"{self.stream} [{column}]: Σ {len(self.usable)} 行/rows × {self.window}; "
            f"schema {schema}; config {digest}"
        )


def collect(history: History, stream: str, period: Period, columns: Sequence[str]) -> Rows:
    """Return the rows of one stream in the period, on the grid of its window."""
    window = stream.partition("/")[2]
    length = LENGTHS[window] * SECOND if window in LENGTHS else 60 * SECOND  # slots: one minute
    first, last = -(-period.start_ns // length), period.end_ns // length
    expected = max(0, last - first)
    block = history.rows(stream, first * length, last * length) if expected else None
    if block is None or not len(block):
        return Rows(stream, window, None, expected, ())
    on_grid = np.flatnonzero(block.time % length == 0)
    _, newest = np.unique(block.time[on_grid][::-1], return_index=True)
    kept = on_grid[::-1][newest]  # a row written twice counts once
    block = SampleBlock(
        block.schema, block.time[kept], block.value[:, kept], block.quality[:, kept]
    )
    known = [name for name in columns if name in block.schema.index]
    good = np.full(len(block), len(known) == len(columns))
    for name in known:
        good &= block.quality[block.schema.index[name]] < Quality.BAD
    return Rows(stream, window, block, expected, tuple(np.flatnonzero(good).tolist()))


def choose(history: History, metric: str, period: Period, columns: Sequence[str]) -> list[Rows]:
    """Return what each window length has of the period, the one to use first."""
    found = [collect(history, f"{metric}/{name}", period, columns) for name in LENGTHS]
    seconds = (period.end_ns - period.start_ns) // SECOND

    def rank(rows: Rows) -> tuple[bool, bool, int, int]:
        length = LENGTHS[rows.window]
        whole = rows.complete and rows.expected * length == seconds
        covered = len(rows.usable) * length
        if whole:
            return (False, rows.window != PREFERRED, 0, length)
        return (True, False, -covered, -length)

    return sorted(found, key=rank)


def covers(rows: Rows, period: Period) -> bool:
    """Return whether the rows cover the whole period, to its borders, with numbers."""
    length = LENGTHS[rows.window] * SECOND
    return rows.complete and rows.expected * length == period.end_ns - period.start_ns


def increments(
    history: History, tags: Sequence[str], period: Period, unit: Unit
) -> tuple[Decimal | None, str]:
    """Return the sum of counters' increments in a unit, and where it comes from.

    returns  (None, why) when the minute rows of any of them do not cover the whole period
    """
    found, sources = Decimal(0), []
    schemas = list(history.streams())
    for tag in tags:
        device, _, name = tag.partition(".")
        column = f"{name}.increment"
        schema = next((s for s in schemas if s.owner == device and column in s.index), None)
        if schema is None:
            return None, f"{tag}: 无分钟行 / no minute rows"
        rows = collect(history, schema.stream, period, [column])
        if not rows.complete:
            have = f"{len(rows.usable)}/{rows.expected}"
            return None, f"{tag}: 分钟行不完整 / minute rows incomplete ({have})"
        factor = exact(schema.tags[schema.index[column]].unit.factor_to(unit))
        found = CONTEXT.add(found, CONTEXT.multiply(rows.sum(column) or Decimal(0), factor))
        sources.append(f"{schema.stream} [{column}]: Σ {rows.expected} 行/rows; schema {schema.id}")
    return found, "; ".join(sources)
