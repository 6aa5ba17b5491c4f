"""The columns of a stack's rows, and how each window's are made of the shorter one's.

Minutes are merged into quarter hours, shifts and hours; hours into days, days into months, months
into years, each by its own rule of validity (HJ 76: an hour has 45 valid minutes, a day 20 valid
hours, a month 25 valid days, February 23). A mean is that of the valid parts, each with the same
weight (formulas 23 to 25); an amount is the sum of what is known of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_agent.metrics.base import QualityLimits
from edge_agent.metrics.formula import SHARES, Formula, Sums, graded, ratio, unknown
from edge_agent.metrics.judged import Cells
from edge_agent.metrics.stack_readings import Mask
from edge_agent.metrics.substitution import HOUR
from edge_agent.model import F64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

VALID_HOUR = 45 / 60  # of its minutes
VALID_DAY = 20  # hours
VALID_MONTH, VALID_FEBRUARY = 25, 23  # days
CONDITIONS = ("running", "start_up", "shut_down", "stopped")
FLAGS = ("fault", "maintenance", "calibration")

_BAD, _MISSING, _UNCERTAIN = (
    int(q) for q in (Quality.BAD, Quality.BAD_MISSING, Quality.UNCERTAIN)
)  # an enum's look-up costs 1 µs

_UNITS = {
    "_mass_kg": "kg",
    "_mass_substituted_kg": "kg",
    "_kg_per_t": "kg/t",
    "_min": "min",
    "_h": "h",
    "_d": "d",
    "_t": "t",
    "_nm3": "Nm3",
    "_capture_rate": "1",
    "_exceeded": "1",
}


def tag_of(name: str) -> Tag:
    """Return a column by its name."""
    if name == "o2":
        return Tag(name, Unit.parse("%"))
    fits = [unit for suffix, unit in _UNITS.items() if name.endswith(suffix)]
    kind = Kind.STATE if name.endswith("_exceeded") else Kind.GAUGE
    return Tag(name, Unit.parse(fits[0] if fits else "mg/m3"), kind)


@dataclass(frozen=True)
class Columns:
    """What a stack has, and so which columns.

    o2         there is an oxygen analyser
    flow       there is a flow, so there is mass
    condition  the plant tells how it runs
    flags      an instrument tells in which state it is
    output     the product is counted
    hourly     gases whose hourly means are judged; daily: whose daily means
    """

    gases: tuple[str, ...]
    o2: bool
    flow: bool
    condition: bool = False
    flags: bool = False
    output: bool = False
    hourly: tuple[str, ...] = ()
    daily: tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether it is known when the plant stands."""
        return self.o2 or self.condition

    def means_of(self, gas: str) -> tuple[str, ...]:
        """Return the concentrations of a gas."""
        judged = (f"{gas}_judged",) if self.condition else ()
        return (gas, f"{gas}_corrected", *judged)

    def judged(self, gas: str) -> str:
        """Return the mean of a gas that is compared with a limit."""
        return f"{gas}_judged" if self.condition else f"{gas}_corrected"

    def minutes(self) -> tuple[str, ...]:
        """Return the columns that count minutes."""
        stops: tuple[str, ...] = ("stopped",) if self.o2 else ()
        marks = CONDITIONS if self.condition else stops
        marks += FLAGS if self.flags else ()
        return ("valid_min", *(f"{mark}_min" for mark in marks))


@dataclass(frozen=True)
class Level(Formula):
    """Minute rows merged into windows that begin anywhere: 15 minutes, a shift."""

    columns: Columns
    limits: QualityLimits
    judged_by: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        return Family.EMISSIONS

    @property
    def sources(self) -> tuple[str, ...]:
        return self.judged_by

    @cached_property
    def additive(self) -> tuple[str, ...]:
        gases = (name for gas in self.columns.gases for name in self.of_gas(gas))
        o2 = ("o2",) if self.columns.o2 else ()
        flow = ("flow_nm3",) if self.columns.flow else ()
        output = ("output_t",) if self.columns.output else ()
        return (*gases, *o2, *self.counts(), *flow, *output)

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        return (*(tag_of(name) for name in (*self.additive, *self.derived())), *SHARES)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns but for the shares."""
        return tuple(tag.name for tag in self.tags[:-2])

    @cached_property
    def _summed(self) -> Mask:
        means = {name for gas in self.columns.gases for name in self.columns.means_of(gas)}
        return np.array([[name not in means and name != "o2"] for name in self.additive])

    # what the levels differ in -------------------------------------------------------------------

    def of_gas(self, gas: str) -> tuple[str, ...]:
        """Return the additive columns of a gas."""
        mass = (f"{gas}_mass_kg",) if self.columns.flow else ()
        return (*self.columns.means_of(gas), *mass)

    def counts(self) -> tuple[str, ...]:
        """Return the additive columns that count time."""
        return self.columns.minutes()

    def derived(self) -> Iterator[str]:
        """Yield the columns that are not added up."""
        if self.columns.output and self.columns.flow:
            yield from (f"{gas}_kg_per_t" for gas in self.columns.gases)

    def short(self, sums: Sums) -> Mask:
        """Return which means have too few valid parts, (a, n)."""
        thin = sums.known < VALID_HOUR * sums.expected
        found: Mask = thin & (sums.length >= HOUR)
        return found

    def more(self, cells: Cells, sums: Sums) -> None:  # noqa: ARG002  longer levels do
        """Add the columns that are not added up."""
        self.per_tonne(cells)

    # the same for all ----------------------------------------------------------------------------

    def cells(self, sums: Sums) -> Cells:
        """Return value and quality of every column, (n,) each."""
        known, share = np.maximum(sums.known, 1), sums.known / sums.expected
        marks = np.where(sums.known == 0, unknown(sums), sums.worst).astype(np.uint8)
        quality = graded(marks, share, self.limits)
        short = self.short(sums) & (quality < _BAD)
        quality = np.where(short, _MISSING, quality)
        # an amount is the sum of what is known of it
        partly = graded(marks, share, QualityLimits(self.limits.uncertain_below, 0.0))
        quality = np.where(self._summed, partly, quality).astype(np.uint8)
        value = np.where(self._summed, sums.total, sums.total / known)
        cells = {name: (value[i], quality[i]) for i, name in enumerate(self.additive)}
        self.more(cells, sums)
        return cells

    def stacked(self, cells: Cells) -> tuple[F64, U8]:
        """Return the columns in their order, (k - 2, n)."""
        value = np.stack([cells[name][0] for name in self.names])
        return value, np.stack([cells[name][1] for name in self.names]).astype(np.uint8)

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        return self.stacked(self.cells(sums))

    def per_tonne(self, cells: Cells) -> None:
        """Add the mass by tonne of output, what was substituted included."""
        if not (self.columns.output and self.columns.flow):
            return
        output, mark = cells["output_t"]
        for gas in self.columns.gases:
            mass, quality = cells[f"{gas}_mass_kg"]
            if f"{gas}_mass_substituted_kg" in cells:
                more, doubt = cells[f"{gas}_mass_substituted_kg"]
                mass = mass + np.where(doubt < _BAD, more, 0.0)
                quality = np.maximum(quality, np.where(doubt < _BAD, doubt, _UNCERTAIN))
            cells[f"{gas}_kg_per_t"] = ratio(mass, output, np.maximum(quality, mark))


@dataclass(frozen=True)
class HourLevel(Level):
    """Minutes merged into an hour; the ledger and the limits add what depends on the past.

    The hour's mean stands for the hour (formula 33), so the mass of a valid hour is that of its
    known minutes times 60 by their number.
    """

    def derived(self) -> Iterator[str]:
        columns = self.columns
        for gas in columns.gases:
            yield from (f"{gas}_mass_substituted_kg",) if columns.flow else ()
            yield from (f"{gas}_valid_h", f"{gas}_capture_rate")
        yield from ("stopped_h",) if columns.stops else ()
        for gas in columns.hourly:
            yield from (f"{gas}_limit", f"{gas}_exceeded", f"{gas}_exceeded_h", f"{gas}_judged_h")
        yield from super().derived()

    def stopped(self, sums: Sums) -> Mask:
        """Return the hours in which the plant stood too long for 45 valid minutes."""
        if not self.columns.stops:
            return np.zeros(len(sums.length), bool)
        minutes = sums.total[self.additive.index("stopped_min")]
        found: Mask = minutes > (1.0 - VALID_HOUR) * sums.expected
        return found

    def valid(self, gas: str, sums: Sums) -> Mask:
        """Return the hours with 45 valid minutes of a gas, and of its mass if there is a flow."""
        names = (gas, f"{gas}_mass_kg") if self.columns.flow else (gas,)
        rows = [self.additive.index(name) for name in names]
        enough = sums.known[rows] >= VALID_HOUR * sums.expected
        found: Mask = enough.all(axis=0) & ~self.stopped(sums)
        return found

    def more(self, cells: Cells, sums: Sums) -> None:
        if not self.columns.flow:
            return
        for gas in self.columns.gases:
            i = self.additive.index(f"{gas}_mass_kg")
            mass, quality = cells[f"{gas}_mass_kg"]
            whole = mass * sums.expected / np.maximum(sums.known[i], 1)
            cells[f"{gas}_mass_kg"] = np.where(self.valid(gas, sums), whole, mass), quality


@dataclass(frozen=True)
class DayLevel(Level):
    """Hours merged into a day; an amount of hours that lack some of theirs is UNCERTAIN, too."""

    @property
    def by_coverage(self) -> Mask:
        found: Mask = ~self._summed[:, 0]
        return found

    def of_gas(self, gas: str) -> tuple[str, ...]:
        mass = (f"{gas}_mass_kg", f"{gas}_mass_substituted_kg") if self.columns.flow else ()
        return (*self.columns.means_of(gas), *mass)

    def counts(self) -> tuple[str, ...]:
        columns = self.columns
        stopped = ("stopped_h",) if columns.stops else ()
        valid = (f"{gas}_valid_h" for gas in columns.gases)
        judged = (f"{gas}_{what}_h" for gas in columns.hourly for what in ("exceeded", "judged"))
        return (*columns.minutes(), *stopped, *valid, *judged)

    def derived(self) -> Iterator[str]:
        yield from (f"{gas}_capture_rate" for gas in self.columns.gases)
        yield from (f"{gas}_valid_d" for gas in self.columns.gases)
        for gas in self.columns.daily:
            yield from (f"{gas}_limit", f"{gas}_exceeded", f"{gas}_exceeded_d", f"{gas}_judged_d")
        yield from super().derived()

    def short(self, sums: Sums) -> Mask:
        found: Mask = (sums.known < VALID_DAY) & (sums.length >= 23 * HOUR)
        return found

    def more(self, cells: Cells, sums: Sums) -> None:
        none = np.zeros(len(sums.length), np.uint8)
        self._captured(cells, sums)
        for gas in self.columns.gases:
            valid = sums.known[self.additive.index(gas)] >= VALID_DAY
            cells[f"{gas}_valid_d"] = valid.astype(np.float64), none
        super().more(cells, sums)

    def _captured(self, cells: Cells, sums: Sums) -> None:
        """Add the rate of valid hours of the window, stops left out."""
        none = np.zeros(len(sums.length), np.uint8)
        hours = sums.length / HOUR
        if self.columns.stops:
            hours = hours - sums.total[self.additive.index("stopped_h")]
        for gas in self.columns.gases:
            valid = sums.total[self.additive.index(f"{gas}_valid_h")]
            cells[f"{gas}_capture_rate"] = ratio(valid, hours, none)


@dataclass(frozen=True)
class MonthLevel(DayLevel):
    """Days merged into a month."""

    def counts(self) -> tuple[str, ...]:
        columns = self.columns
        valid = (f"{gas}_valid_d" for gas in columns.gases)
        judged = (f"{gas}_{what}_d" for gas in columns.daily for what in ("exceeded", "judged"))
        return (*super().counts(), *valid, *judged)

    def derived(self) -> Iterator[str]:
        yield from (f"{gas}_capture_rate" for gas in self.columns.gases)
        yield from Level.derived(self)

    def short(self, sums: Sums) -> Mask:
        least = np.where(sums.expected < 29.5, VALID_FEBRUARY, VALID_MONTH)
        found: Mask = (sums.known < least) & (sums.expected >= 28)
        return found

    def more(self, cells: Cells, sums: Sums) -> None:
        self._captured(cells, sums)
        Level.more(self, cells, sums)


@dataclass(frozen=True)
class YearLevel(MonthLevel):
    """Months merged into a year."""

    def short(self, sums: Sums) -> Mask:
        return np.zeros(sums.known.shape, bool)
