"""Rows with columns that do not follow from their sums alone, and limits that means are judged by.

Stacks and outlets have both: a substitute depends on the hours before, a limit on the day.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import combinations
from typing import Protocol
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.metrics.base import BAD, Limit, Window
from edge_agent.metrics.formula import Formula, Sums
from edge_agent.metrics.rollup import RollUp
from edge_agent.metrics.windows import Calendar
from edge_agent.model import F64, U8, SampleBlock
from edge_agent.units import Unit

_NOISE = 1e-12  # relative: what a mean of equal values may be off; a mean at its limit is within

Cells = dict[str, tuple[F64, U8]]


class Limits:
    """The limits that means of one length are judged by, with their dates.

    unit  of the means
    """

    def __init__(self, rows: Sequence[Limit], averaging: str, unit: str, zone: ZoneInfo) -> None:
        self._rows = [row for row in rows if row.averaging == averaging]
        self._unit, self._zone = Unit.parse(unit), zone

    @property
    def pollutants(self) -> tuple[str, ...]:
        """What is judged."""
        return tuple(dict.fromkeys(row.pollutant for row in self._rows))

    def at(self, start: int) -> Mapping[str, Limit]:
        """Return what is in force in a window that begins then, by pollutant."""
        day = datetime.fromtimestamp(start // SECOND, self._zone).date().isoformat()
        return {row.pollutant: row for row in self._rows if row.in_force(day)}

    def allowed(self, row: Limit) -> float:
        """Return a limit in the unit of the means."""
        return row.limit * Unit.parse(row.unit).factor_to(self._unit)


def over(value: F64, limit: float) -> F64:
    """Return 1 where a mean is above its limit, else 0; what rounding leaves is not above."""
    found: F64 = (value > limit * (1.0 + _NOISE)).astype(np.float64)
    return found


def refuse_two(prefix: str, rows: Sequence[Limit]) -> None:
    """Raise ``ValueError`` when the same mean is judged by two rows on the same day."""
    for one, other in combinations(rows, 2):
        same = one.pollutant == other.pollutant and one.averaging == other.averaging
        ends = one.valid_to or "9999", other.valid_to or "9999"
        if same and max(one.valid_from, other.valid_from) <= min(ends):
            both = f"{one.pollutant}: {one.id}, {other.id}"
            message = f'limits "{prefix}" begins two rows of {both} (write more of the id)'
            raise ValueError(message)


class CellFormula(Protocol):
    """A formula that tells its columns one by one."""

    def cells(self, sums: Sums) -> Cells:
        """Return value and quality of the columns that follow from the sums, (n,) each."""

    def stacked(self, cells: Cells) -> tuple[F64, U8]:
        """Return the columns in their order, (k - 2, n)."""


class CellRows(RollUp):
    """A roll-up that adds columns to those that follow from the sums.

    level  the formula once more, for its cells
    """

    def __init__(
        self,
        name: str,
        formula: Formula,
        level: CellFormula,
        window: Window,
        calendar: Calendar,
        *,
        source: Window,
        provenance: tuple[str, ...],
    ) -> None:
        super().__init__(name, formula, window, calendar, source=source, provenance=provenance)
        self._cells = level

    def _row(self, time: int, sums: Sums) -> SampleBlock:
        cells = self._cells.cells(sums)
        self._more(time, cells, sums)
        value, quality = self._cells.stacked(cells)
        value = np.where(quality >= BAD, np.nan, value)
        shares = np.stack([sums.covered, sums.estimated]) / sums.length
        marks = np.vstack([quality, np.zeros(shares.shape, np.uint8)])
        return SampleBlock(self.output, np.array([time]), np.vstack([value, shares]), marks)

    def _more(self, time: int, cells: Cells, sums: Sums) -> None:
        """Add the columns that depend on when the window is, or on those before."""
        raise NotImplementedError
