"""What the dated tables of ``configs/tariffs`` are for a metric: bands, adjustment, demand rules.

Times are of the local clock. A day is an integer, counted from 1970-01-01; a clock is minutes since
local midnight. The files are read in ``config/tariffs.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.model import F64, I64

BANDS = ("sharp", "peak", "flat", "valley", "deep-valley")
ALWAYS = 1 << 40  # a day that never comes
_MINUTE = 60_000_000_000
_QUARTER = 15 * _MINUTE  # no zone changes its offset but at a quarter of an hour
_DAY = 1440


def local_minutes(zone: ZoneInfo, instants: I64) -> I64:
    """Return the minutes of the local clock since 1970-01-01 00:00 of instants in ns, (n,)."""
    quarters, places = np.unique(instants // _QUARTER, return_inverse=True)
    offsets = [_offset(zone, quarter * 900) for quarter in quarters.tolist()]
    return instants // _MINUTE + np.array(offsets, np.int64)[places]


def _offset(zone: ZoneInfo, second: int) -> int:
    offset = datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds()) // 60


@dataclass(frozen=True)
class Band:
    """One band of a day in some months.

    months       1 to 12
    start, end   minutes of the clock, half-open; 1440 is midnight at the day's end
    coefficient  of the floating price parts; NaN: it was not read
    first, last  days on which the row is valid, both inclusive
    id           names the row's edition and season in a figure's provenance
    """

    band: str
    months: tuple[int, ...]
    start: int
    end: int
    coefficient: float
    first: int
    last: int
    id: str


@dataclass(frozen=True)
class TimeOfUse:
    """A time-of-use table: which band holds at which minute of the local clock."""

    name: str
    rows: tuple[Band, ...]

    @cached_property
    def _editions(self) -> list[tuple[int, int, I64]]:
        """First day, last day, and the row of each month and minute, (12, 1440); -1: none."""
        found: list[tuple[int, int, I64]] = []
        for first, last in sorted({(row.first, row.last) for row in self.rows}):
            place = np.full((12, _DAY), -1, np.int64)
            for i, row in enumerate(self.rows):
                if (row.first, row.last) == (first, last):
                    for month in row.months:
                        place[month - 1, row.start : row.end] = i
            found.append((first, last, place))
        return found

    @cached_property
    def bands(self) -> I64:
        """The number in ``BANDS`` of each row."""
        return np.array([BANDS.index(row.band) for row in self.rows], np.int64)

    @cached_property
    def coefficients(self) -> F64:
        """The coefficient of each row."""
        return np.array([row.coefficient for row in self.rows])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the rows, once each."""
        return tuple(dict.fromkeys(row.id for row in self.rows))

    def row_of(self, minutes: I64) -> I64:
        """Return the row of each minute of the local clock, -1 where none is valid, (n,).

        Of two editions valid on one day the one that began later counts.
        """
        days, clock = np.divmod(minutes, _DAY)
        months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
        found = np.full(len(minutes), -1, np.int64)
        for first, last, place in self._editions:
            inside = (days >= first) & (days <= last)
            found = np.where(inside, place[months, clock], found)
        return found


@dataclass(frozen=True)
class AdjustmentStep:
    """A piece of the power factor adjustment; power factors in whole hundredths.

    at_high, per_hundredth  percent at ``high``, and for each 0.01 below it
    """

    low: int
    high: int
    at_high: float
    per_hundredth: float


@dataclass(frozen=True)
class Adjustment:
    """The power factor adjustment of one standard (力调): pieces from high to low.

    source  水电财字〔1983〕215号, 功率因数调整电费办法
    """

    standard: str
    steps: tuple[AdjustmentStep, ...]
    id: str

    def share(self, power_factor: F64) -> F64:
        """Return what the bill changes by, as a fraction: -0.0075 is a reward; NaN where NaN.

        power_factor  0 to 1
        The power factor is rounded to two decimals first, half up, as the table is printed.
        """
        known = np.isfinite(power_factor)
        hundredths = np.floor(np.where(known, power_factor, 0.0) * 100.0 + 0.5).astype(np.int64)
        return np.where(known, self._percent[hundredths] / 100.0, np.nan)

    @cached_property
    def _percent(self) -> F64:
        """The adjustment of each hundredth from 0.00 to 1.00; where pieces meet, of the upper."""
        percent = np.full(101, np.nan)
        for step in reversed(self.steps):
            at = np.arange(step.low, step.high + 1)
            percent[at] = step.at_high + (step.high - at) * step.per_hundredth
        return percent


@dataclass(frozen=True)
class DemandRule:
    """How a contract demand is billed.

    tolerance      of the contract up to which the contract is billed
    excess_factor  on what lies above it
    minimum_share  of the transformer's capacity in kVA that a contract is billed as at least, kW
    """

    tolerance: float
    excess_factor: float
    minimum_share: float
    id: str

    def billed(self, demand: F64, contract: float, capacity: float) -> F64:
        """Return the demand to be billed, kW; capacity in kVA, 0 when it is not known."""
        base = max(contract, self.minimum_share * capacity)
        excess = np.maximum(demand - self.tolerance * base, 0.0)
        return base + self.excess_factor * excess


@dataclass(frozen=True)
class Tariffs:
    """All tables of a configuration.

    bands        of each table: (user class, edition, row)
    """

    bands: Mapping[str, tuple[tuple[str, str, Band], ...]] = field(default_factory=dict)
    adjustments: Mapping[int, Adjustment] = field(default_factory=dict)
    rules: Mapping[str, DemandRule] = field(default_factory=dict)

    def time_of_use(self, table: str, user_class: str, edition: str | None) -> TimeOfUse:
        """Return the rows of a user class; those of one edition, if it is given, on any day.

        errors  ``KeyError`` that says what there is
        """
        if table not in self.bands:
            raise KeyError(f'no table "{table}" in configs/tariffs (there are {_told(self.bands)})')
        classes = dict.fromkeys(row[0] for row in self.bands[table])
        if user_class not in classes:
            raise KeyError(f'"{table}" has no user class "{user_class}" (it has {_told(classes)})')
        rows = [row[1:] for row in self.bands[table] if row[0] == user_class]
        editions = dict.fromkeys(row[0] for row in rows)
        if edition is None:
            return TimeOfUse(table, tuple(band for _, band in rows))
        if edition not in editions:
            raise KeyError(f'"{table}" has no edition "{edition}" (it has {_told(editions)})')
        pinned = tuple(_any_day(band) for found, band in rows if found == edition)
        return TimeOfUse(table, pinned)

    def adjustment(self, standard: float) -> Adjustment:
        """Return the adjustment of a standard power factor; ``KeyError`` says what there is."""
        hundredths = round(standard * 100)
        if abs(standard * 100 - hundredths) > 1e-9 or hundredths not in self.adjustments:
            known = _told([f"{number / 100:.2f}" for number in self.adjustments])
            raise KeyError(f"no standard power factor {standard:g} (there are {known})")
        return self.adjustments[hundredths]

    def rule(self, name: str) -> DemandRule:
        """Return a demand rule; ``KeyError`` says what there is."""
        if name not in self.rules:
            raise KeyError(f'no demand rule "{name}" (there are {_told(self.rules)})')
        return self.rules[name]


def _any_day(band: Band) -> Band:
    return Band(
        band.band, band.months, band.start, band.end, band.coefficient, -ALWAYS, ALWAYS, band.id
    )


def _told(names: object) -> str:
    found = [str(name) for name in names] if isinstance(names, list | dict) else []
    return ", ".join(found) or "none"
