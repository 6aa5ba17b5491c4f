"""Cross-check of a counter against its integrated power: whether two figures of a meter agree.

A ratio that is applied twice or never, a wrong sign, a counter that stands still and a power of
another circuit all show here, and nowhere else. Only minutes count in which both are known in full;
the power's integral is its time-weighted mean times the minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from edge_agent.metrics.base import (
    MINUTE,
    Metric,
    MetricConfig,
    Plant,
    QualityLimits,
    Reference,
    Window,
    split_tag,
)
from edge_agent.metrics.energy import amount_grid
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import SHARES, Sums, graded, merged
from edge_agent.metrics.integral import amount_unit
from edge_agent.metrics.join import Counter, Gauge, Inputs, SlotFormula
from edge_agent.metrics.pace import count_of
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

_GRID = amount_grid(1.0)


@dataclass(frozen=True)
class Check(SlotFormula):
    """The formula: what was counted and what was integrated are added up, and compared.

    export what is deducted, with the factor to the counter's unit; None: the power has one sign
    per    what a mean of one for a minute is, in the counter's unit
    count  what a count of the register is, in that unit; 0 when it is not known
    """

    counter: Counter
    export: tuple[Counter, float] | None
    power: Gauge
    per: float
    count: float
    tolerance: float
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.CHECK

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        unit, one = self.counter.unit, Unit.parse("1")
        amounts = (Tag("counted", unit), Tag("integrated", unit))
        return (*amounts, Tag("deviation", one), Tag("disagrees", one, Kind.STATE), *SHARES)

    @property
    def additive(self) -> tuple[str, ...]:
        return ("counted", "integrated")

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        sums = Sums.zeros(2, len(ends))
        counted, quality, covered, estimated = self.counter.read(ends, rows)
        if self.export is not None:
            back, worse, less, more = self.export[0].read(ends, rows)
            counted = np.rint((counted - back * self.export[1]) / _GRID) * _GRID
            quality, covered = np.maximum(quality, worse), np.minimum(covered, less)
            estimated = np.maximum(estimated, more)
        levels, mark, held = self.power.read(ends, rows)
        enough = self.limits.uncertain_below * MINUTE
        both = (quality < Quality.UNCERTAIN) & (estimated == 0) & (covered >= enough)
        both &= (mark < Quality.BAD) & (held >= enough)
        worst = np.maximum(quality, mark)
        unknown = np.where(worst < Quality.BAD, Quality.BAD_MISSING, worst)
        used = np.where(both, worst, unknown).astype(np.uint8)
        sums.set(0, counted, used)
        sums.set(1, np.rint(levels[0] * self.per / _GRID) * _GRID, used)
        sums.covered = np.minimum(covered, held)
        sums.estimated = np.minimum(estimated, sums.length - sums.covered)
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality, (counted, integrated) = merged(sums, self.limits), sums.total
        known = sums.known[0]
        worst = graded(quality[0], known / sums.expected, self.limits)
        larger = np.maximum(np.abs(counted), np.abs(integrated))
        apart = counted - integrated
        deviation = np.divide(apart, larger, out=np.zeros(len(apart)), where=larger > 0)
        # where minutes are left out, the register is read anew: a count at each end of each part
        parts = np.minimum(known, np.maximum(np.ceil(sums.expected) - known, 0) + 1)
        allowed = self.tolerance * larger + 2.0 * self.count * parts
        disagrees = (np.abs(apart) > allowed).astype(np.float64)
        value = np.vstack([sums.total, [deviation, disagrees]])
        return value, np.vstack([quality, [worst, worst]])


@dataclass(frozen=True, kw_only=True)
class CheckConfig(MetricConfig):
    """A counter and the gauge of its rate, of one meter or of two.

    export     counter of what goes the other way, where the power is negative
    tolerance  the share of the larger amount by which the two may differ
    """

    kind: ClassVar[str] = "check"

    windows: tuple[Window, ...] = ("1h", "1d")
    counter: str
    power: str
    export: str | None = None
    tolerance: float = 0.05

    def references(self) -> list[Reference]:
        found = [Reference(("counter",), self.counter, Kind.COUNTER)]
        if self.export is not None:
            found.append(Reference(("export",), self.export, Kind.COUNTER))
        return [*found, Reference(("power",), self.power, Kind.GAUGE)]

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        if 0 < self.tolerance < 1:
            return []
        return [(("tolerance",), "must be a fraction between 0 and 1 (0.05 is 5 %)")]

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        counter, power = inputs.increment(self.counter), inputs.gauge(self.power)
        amount, seconds = amount_unit(power.unit)
        if amount.dimension != counter.unit.dimension:
            told = f'"{self.power}" has {power.unit.code}, must be a rate of {counter.unit.code}'
            raise ValueError(told)
        per, count = 60.0 / seconds * amount.factor_to(counter.unit), _count(self.counter, plant)
        export = None
        if self.export is not None:
            back = inputs.increment(self.export)
            export = back, back.unit.factor_to(counter.unit)
            count += _count(self.export, plant) * export[1]
        formula = Check(counter, export, power, per, count, self.tolerance, plant.quality)
        return inputs.metrics(name, formula, self.windows)


def _count(tag: str, plant: Plant) -> float:
    raw = plant.raw(tag)
    return count_of(raw.tags[raw.index[split_tag(tag)[1]]])
