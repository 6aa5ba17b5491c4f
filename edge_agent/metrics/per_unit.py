"""What energy is divided by: output of any unit, output value, area."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.metrics.base import MINUTE
from edge_agent.metrics.carriers import midnight
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.flows import Flow, Meter, meters
from edge_agent.metrics.join import Inputs
from edge_agent.model import F64, I64, U8, Quality, Tag
from edge_agent.units import Unit

TONNE = Unit.parse("t")
Read = tuple[F64, U8, tuple[I64, I64] | None]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a figure is divided by; one of tags, monthly and constant.

    tags      counters, or gauges of a rate, that are added up
    factor    how much one unit of a tag is in ``unit``, for converted products: 0.05 t per bag
    unit      of the quantity; that of the first tag unless it is written
    monthly   figures of whole months, ``2026-01: 1250``, each spread evenly over its month
    constant  the same at all times, an area
    """

    tags: tuple[str, ...] = ()
    factor: float | None = None
    unit: str | None = None
    monthly: Mapping[str, float] = field(default_factory=dict)
    constant: float | None = None

    def faults(self) -> list[str]:
        """Return what is wrong with it."""
        found = []
        if bool(self.tags) + bool(self.monthly) + (self.constant is not None) != 1:
            found.append("needs tags, monthly figures or a constant, and one of them only")
        if self.unit is None and not self.tags:
            found.append("needs a unit")
        if self.unit is not None:
            try:
                Unit.parse(self.unit)
            except ValueError as error:
                found.append(str(error))
        if self.factor is not None and (self.unit is None or not self.factor > 0):
            found.append("a factor is above 0 and has a unit: {factor: 0.05, unit: t}")
        if self.constant is not None and not self.constant > 0:
            found.append("a constant is above 0")
        for month, value in self.monthly.items():
            try:
                midnight(f"{month}-01", ZoneInfo("UTC"))
            except ValueError:
                found.append(f'"{month}" is not a month (write 2026-01)')
            if value < 0:
                found.append(f"{month}: must be 0 or more")
        return found

    def build(self, name: str, inputs: Inputs) -> "Divisor":
        """Return what reads it as a column of this name; a mass is in t."""
        code = self.unit or inputs.amount(self.tags[0]).unit.code
        given = Unit.parse(code)
        unit = TONNE if given.dimension == TONNE.dimension else given
        tag, scale = Tag(name, unit), given.factor_to(unit)
        if self.constant is not None:
            return Constant(tag, self.constant * scale)
        if self.monthly:
            monthly = {month: value * scale for month, value in self.monthly.items()}
            return Monthly.of(tag, monthly, inputs.plant.site.zone)
        if self.factor is None:
            return Counted(tag, Flow(meters(self.tags, unit, inputs)))
        found: list[Meter] = [(inputs.amount(one), self.factor * scale) for one in self.tags]
        return Counted(tag, Flow(tuple(found)))


@dataclass(frozen=True)
class Divisor:
    """What figures are divided by, as a column of its own."""

    tag: Tag

    def read(self, ends: I64, rows: Mapping[str, Rows], /) -> Read:
        """Return value and quality of minutes; covered and estimated ns if it is metered."""
        raise NotImplementedError


@dataclass(frozen=True)
class Counted(Divisor):
    """What meters count."""

    flow: Flow

    def read(self, ends: I64, rows: Mapping[str, Rows], /) -> Read:
        taken = self.flow.read(ends, rows)
        return taken.amount, taken.quality, (taken.covered, taken.estimated)


@dataclass(frozen=True)
class Nobody(Divisor):
    """What nobody counts."""

    def read(self, ends: I64, _rows: Mapping[str, Rows], /) -> Read:
        n = len(ends)
        return np.zeros(n), np.full(n, Quality.BAD_MISSING, np.uint8), None


@dataclass(frozen=True)
class Constant(Divisor):
    """What does not change; it is not added up."""

    value: float

    def read(self, ends: I64, _rows: Mapping[str, Rows], /) -> Read:
        return np.full(len(ends), self.value), np.zeros(len(ends), np.uint8), None


@dataclass(frozen=True)
class Monthly(Divisor):
    """Figures of whole months, spread evenly; a minute of a month without one is not available.

    starts, minutes, totals  (m,), of the months in their order
    """

    starts: I64
    minutes: I64
    totals: F64
    grid: float

    @classmethod
    def of(cls, tag: Tag, monthly: Mapping[str, float], zone: ZoneInfo) -> "Monthly":
        """Return what the figures of a configuration say, ``2026-01: 1250``."""
        given = sorted(monthly.items())
        starts = np.array([midnight(f"{month}-01", zone) for month, _ in given], np.int64)
        ends = np.array([midnight(_after(month), zone) for month, _ in given], np.int64)
        totals = np.array([value for _, value in given], np.float64)
        highest = float(totals.max()) or 1.0
        grid = float(2.0 ** (np.floor(np.log2(highest)) - 40))
        return cls(tag, starts, (ends - starts) // MINUTE, totals, grid)

    def read(self, ends: I64, _rows: Mapping[str, Rows], /) -> Read:
        """Return each minute's part: rounded so that the parts add up to the month's figure."""
        month = np.maximum(np.searchsorted(self.starts, ends - 1, "right") - 1, 0)
        passed = (ends - self.starts[month]) // MINUTE
        inside = (passed > 0) & (passed <= self.minutes[month])
        per = self.totals[month] / self.minutes[month] / self.grid
        value = (np.rint(per * passed) - np.rint(per * (passed - 1))) * self.grid
        none = np.where(inside, Quality.GOOD, Quality.BAD_NOT_AVAILABLE).astype(np.uint8)
        return np.where(inside, value, 0.0), none, None


def _after(month: str) -> str:
    year, number = (int(part) for part in month.split("-"))
    return f"{year + number // 12}-{number % 12 + 1:02}-01"
