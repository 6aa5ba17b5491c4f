"""Balance of the main meters of a carrier against the meters behind them.

``gap = main + own - Σ subs``: what is metered at the entrance, and what is made behind it, less
what the sub-meters have counted. The gap is shown as it is and never spread over the sub-meters;
losses, consumers without a meter and wrong ratios are in it. The tree has one level: a sub-meter
that has meters behind it is the main meter of a balance of its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from edge_agent.metrics.base import Metric, MetricConfig, Plant, QualityLimits, Reference
from edge_agent.metrics.energy import amount_grid
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import SHARES, Sums, graded, merged, ratio
from edge_agent.metrics.join import Counter, Inputs, Integral, SlotFormula
from edge_agent.model import F64, I64, U8, Family, Kind, Tag
from edge_agent.units import Unit

MAIN, OWN = "main", "own"
_DERIVED = ("sum_subs", "gap", "gap_share", "unbalanced")
_TAKEN = {MAIN, OWN, *_DERIVED, "coverage", "estimated", "quality"}
_NAME = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True)
class Branch:
    """One column: meters with the factor to the unit of the balance."""

    name: str
    meters: tuple[tuple[Counter | Integral, float], ...]


@dataclass(frozen=True)
class Balance(SlotFormula):
    """The formula: amounts are additive, the gap is derived from them.

    own        whether the second branch is production behind the main meter
    tolerance  the gap from which on the balance does not close, a fraction of what comes in
    """

    branches: tuple[Branch, ...]
    own: bool
    unit: Unit
    tolerance: float
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.BALANCE

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        one = Unit.parse("1")
        amounts = tuple(Tag(branch.name, self.unit) for branch in self.branches)
        gap = (Tag("sum_subs", self.unit), Tag("gap", self.unit), Tag("gap_share", one))
        return (*amounts, *gap, Tag("unbalanced", one, Kind.STATE), *SHARES)

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return tuple(branch.name for branch in self.branches)

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        n = len(ends)
        sums = Sums.zeros(len(self.branches), n)
        covered, estimated = sums.length.copy(), np.zeros(n, np.int64)
        for column, branch in enumerate(self.branches):
            total, worst = np.zeros(n), np.zeros(n, np.uint8)
            for meter, factor in branch.meters:
                value, quality, full, guessed = meter.read(ends, rows)
                total += np.rint(value * factor / (grid := amount_grid(factor))) * grid
                worst = np.maximum(worst, quality)
                covered, estimated = np.minimum(covered, full), np.maximum(estimated, guessed)
            sums.set(column, total, worst)
        sums.covered, sums.estimated = covered, np.minimum(estimated, sums.length - covered)
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = merged(sums, self.limits)
        sources = 2 if self.own else 1
        supply, used = sums.total[:sources].sum(axis=0), sums.total[sources:].sum(axis=0)
        gap = supply - used
        worst = graded(quality.max(axis=0), sums.share(), self.limits)
        share, share_quality = ratio(gap, supply, worst)
        # without a division, so that what is used while nothing comes in does not balance either
        unbalanced = np.abs(gap) > self.tolerance * np.abs(supply)
        value = np.vstack([sums.total, [used, gap, share, unbalanced.astype(np.float64)]])
        used_quality = quality[sources:].max(axis=0)
        return value, np.vstack([quality, [used_quality, worst, share_quality, worst]])


@dataclass(frozen=True, kw_only=True)
class BalanceConfig(MetricConfig):
    """Main meters against the meters behind them.

    main       counters, or gauges of a rate, at the entrance
    subs       name -> those behind it; a name is a column
    own        those of what is made behind the main meters and used there: 自产
    unit       that all are converted to; that of the first main meter when it is not given
    tolerance  the share of what comes in that the gap may have
    """

    kind: ClassVar[str] = "balance"

    main: tuple[str, ...]
    subs: Mapping[str, tuple[str, ...]]
    own: tuple[str, ...] = ()
    unit: str | None = None
    tolerance: float = 0.05

    def references(self) -> list[Reference]:
        groups: list[tuple[tuple[str, ...], tuple[str, ...]]]
        groups = [(("main",), self.main), (("own",), self.own)]
        groups += [(("subs", name), tags) for name, tags in self.subs.items()]
        return [Reference((*path, i), tag) for path, tags in groups for i, tag in enumerate(tags)]

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self.main:
            found.append((("main",), "needs at least one meter"))
        if not self.subs:
            found.append((("subs",), "needs at least one sub-meter (write name: [device.tag])"))
        for name, tags in self.subs.items():
            if name in _TAKEN:
                found.append((("subs", name), f'"{name}" is a column of the balance itself'))
            elif not _NAME.fullmatch(name):
                found.append((("subs", name), f'"{name}" is not a name: write a-z, 0-9, _ and -'))
            if not tags:
                found.append((("subs", name), "needs at least one meter"))
        found += self._twice()
        if not 0 <= self.tolerance < 1:
            found.append((("tolerance",), "must be a fraction from 0 to below 1 (0.05 is 5 %)"))
        return found

    def _twice(self) -> list[tuple[tuple[str | int, ...], str]]:
        seen: set[str] = set()
        found: list[tuple[tuple[str | int, ...], str]] = []
        for reference in self.references():
            if reference.tag in seen:
                message = f'"{reference.tag}" is in this balance already: it would count twice'
                found.append((reference.path, message))
            seen.add(reference.tag)
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        first = inputs.amount(self.main[0])
        unit = first.unit if self.unit is None else Unit.parse(self.unit)
        groups = {MAIN: self.main} | ({OWN: self.own} if self.own else {}) | dict(self.subs)
        branches = tuple(_branch(name, tags, unit, inputs) for name, tags in groups.items())
        formula = Balance(branches, bool(self.own), unit, self.tolerance, plant.quality)
        return inputs.metrics(name, formula, self.windows)


def _branch(name: str, tags: tuple[str, ...], unit: Unit, inputs: Inputs) -> Branch:
    meters = []
    for tag in tags:
        meter = inputs.amount(tag)
        if meter.unit.dimension != unit.dimension:
            raise ValueError(
                f'"{tag}" counts {meter.unit.code}, must be convertible to {unit.code}'
            )
        meters.append((meter, meter.unit.factor_to(unit)))
    return Branch(name, tuple(meters))
