"""Emissions of a stack: minute means, reference oxygen, mass, valid minutes (HJ 212, HJ 75).

A minute's mean is the mean of its usable samples (formula 23). A gas is valid in a minute with at
least 75 % of the expected samples, of the gas and of O2, and O2 below ``o2_limit`` (above, nothing
burns). The corrected value ``C · (21 - O2ref) / (21 - O2)`` (formula 28) is made per minute; longer
windows are means over their valid minutes. From an hour on a mean is BAD with less than 45 of 60
valid minutes (formula 24). Mass is ``C · Q · 10⁻⁶`` kg/h with the uncorrected value (formula 33).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edge_agent.metrics.base import (
    MINUTE,
    Metric,
    MetricConfig,
    Plant,
    QualityLimits,
    Reference,
    usable,
)
from edge_agent.metrics.join import Inputs, Reading, Rows, SlotFormula
from edge_agent.metrics.rollup import SHARES, Sums, graded, unknown
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

GASES = ("so2", "nox", "pm", "co", "nh3")
AMBIENT = 21.0  # % O2, as the standard rounds it
ENOUGH = 0.75  # share of the expected samples that makes a minute's mean
VALID_HOUR = 45 / 60


def corrected(concentration: F64, o2: F64, reference: float) -> F64:
    """Return concentrations at the reference oxygen content, for O2 below 21 %.

    source  HJ 212-2017, D.2, formula 28
    """
    return concentration * (AMBIENT - reference) / (AMBIENT - o2)


@dataclass(frozen=True)
class Means:
    """Minute means: value, worst quality of the samples used, share of those expected."""

    value: F64
    quality: U8
    share: F64


@dataclass(frozen=True)
class Emissions(SlotFormula):
    """The formula: sums over valid minutes are additive."""

    gases: Mapping[str, Reading]
    o2: Reading
    flow: Reading | None
    o2_reference: float
    o2_limit: float
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.EMISSIONS

    @property
    def tags(self) -> tuple[Tag, ...]:
        concentration, kg = Unit.parse("mg/m3"), Unit.parse("kg")
        found = []
        for gas in self.gases:
            found += [Tag(gas, concentration), Tag(f"{gas}_corrected", concentration)]
            found += [Tag(f"{gas}_mass_kg", kg)] if self.flow is not None else []
        return (*found, Tag("o2", Unit.parse("%")), Tag("valid_min", Unit.parse("min")), *SHARES)

    @property
    def additive(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags[:-2])

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        sums = Sums.zeros(len(self.additive), len(ends))
        o2 = self._means(self.o2, Unit.parse("%"), ends, rows)
        flow = (
            None if self.flow is None else self._means(self.flow, Unit.parse("Nm3/h"), ends, rows)
        )
        burning = (o2.quality < Quality.BAD) & (o2.value < self.o2_limit)
        idle = np.where(o2.quality < Quality.BAD, Quality.BAD_NOT_AVAILABLE, Quality.BAD_MISSING)
        valid, share, column = burning.copy(), o2.share, 0
        for reading in self.gases.values():
            mean = self._means(reading, Unit.parse("mg/m3"), ends, rows)
            quality = np.maximum(mean.quality, np.where(burning, o2.quality, idle)).astype(np.uint8)
            sums.set(column, mean.value, quality)
            o2_used = np.where(burning, o2.value, 0.0)
            sums.set(column + 1, corrected(mean.value, o2_used, self.o2_reference), quality)
            column += 2
            if flow is not None:
                mass = mean.value * flow.value * 1e-6 / 60.0
                sums.set(column, mass, np.maximum(quality, flow.quality))
                share = np.minimum(share, flow.share)
                column += 1
            valid &= quality < Quality.BAD
            share = np.minimum(share, mean.share)
        sums.set(column, o2.value, o2.quality)
        sums.set(column + 1, valid.astype(np.float64), np.zeros(len(ends), np.uint8))
        sums.covered = np.rint(share * MINUTE).astype(np.int64)
        return sums

    @staticmethod
    def _means(reading: Reading, unit: Unit, ends: I64, rows: Mapping[str, Rows]) -> Means:
        time, value, quality = reading.read(rows)
        good = usable(value, quality)
        factor = reading.unit.factor_to(unit)
        expected = max(1.0, round(60.0 / reading.period))
        n = len(ends)
        mean, worst, share = np.zeros(n), np.full(n, Quality.BAD_MISSING, np.uint8), np.zeros(n)
        first, last = np.searchsorted(time, ends - MINUTE), np.searchsorted(time, ends)
        for i in np.flatnonzero(last > first).tolist():
            chosen = np.flatnonzero(good[first[i] : last[i]]) + first[i]
            if not len(chosen):
                continue
            share[i] = min(1.0, len(chosen) / expected)
            mean[i] = float(np.cumsum(value[chosen])[-1]) / len(chosen) * factor
            worst[i] = quality[chosen].max() if share[i] >= ENOUGH else Quality.BAD_MISSING
        return Means(mean, worst, share)

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        names = self.additive
        known = np.maximum(sums.known, 1)
        share = sums.known / sums.expected
        marks = np.where(sums.known == 0, unknown(sums), sums.worst).astype(np.uint8)
        quality = graded(marks, share, self.limits)
        short = (share < VALID_HOUR) & (sums.length >= 60 * MINUTE) & (quality < Quality.BAD)
        quality = np.where(short, Quality.BAD_MISSING, quality)
        # a mass is the sum of what is known of it; the minutes are counted, whatever they are like
        summed = np.array([[name.endswith("_mass_kg") or name == "valid_min"] for name in names])
        partly = graded(marks, share, QualityLimits(self.limits.uncertain_below, 0.0))
        quality = np.where(summed, partly, quality).astype(np.uint8)
        return np.where(summed, sums.total, sums.total / known), quality


@dataclass(frozen=True, kw_only=True)
class EmissionsConfig(MetricConfig):
    """Emissions of a stack from its analyser.

    o2_reference  reference oxygen content of the standard, %
    flow          dry standard flow, Nm3/h
    o2_limit      % O2 from which on nothing burns: such minutes are neither corrected nor valid
    limits        which limits of ``configs/limits`` the values are judged by
    """

    kind: ClassVar[str] = "emissions"

    so2: str | None = None
    nox: str | None = None
    pm: str | None = None
    co: str | None = None
    nh3: str | None = None
    o2: str
    o2_reference: float
    flow: str | None = None
    o2_limit: float = 19.0
    limits: str | None = None

    def references(self) -> list[Reference]:
        wanted = [(gas, tag, "mg/m3") for gas, tag in self._gases().items()]
        wanted.append(("o2", self.o2, "%"))
        if self.flow is not None:
            wanted.append(("flow", self.flow, "Nm3/h"))
        return [Reference((name,), tag, Kind.GAUGE, unit) for name, tag, unit in wanted]

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self._gases():
            found.append(((), f"needs at least one of {', '.join(GASES)}"))
        if not 0 <= self.o2_reference < AMBIENT:
            found.append((("o2_reference",), "must be 0 or more and below 21 (percent)"))
        if not 0 < self.o2_limit < AMBIENT:
            found.append((("o2_limit",), "must be above 0 and below 21 (percent)"))
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        formula = Emissions(
            {gas: inputs.raw(tag) for gas, tag in self._gases().items()},
            inputs.raw(self.o2),
            None if self.flow is None else inputs.raw(self.flow),
            self.o2_reference,
            self.o2_limit,
            plant.quality,
        )
        return inputs.metrics(name, formula, self.windows)

    def _gases(self) -> dict[str, str]:
        given = {gas: getattr(self, gas) for gas in GASES}
        return {gas: tag for gas, tag in given.items() if tag is not None}
