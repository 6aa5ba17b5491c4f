"""Energy of a boundary: amounts by carrier, standard coal, and energy per tonne of output.

``E = Σ (E_i · k_i)``, net of what is returned, and ``e = E / P`` (GB/T 2589-2020; 1 kgce = 29 307.6
kJ). A carrier with a measured heating value has ``k = LHV / 29.3076 MJ/kg``; the others take the
plant's coefficient.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from edge_agent.metrics.base import Metric, MetricConfig, Plant, QualityLimits, Reference
from edge_agent.metrics.join import Counter, Inputs, Rows, SlotFormula
from edge_agent.metrics.rollup import SHARES, Sums, merged, ratio
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

MJ_PER_KGCE = 29.3076  # GB/T 2589-2020


@dataclass(frozen=True, kw_only=True)
class CarrierInput:
    """The counters of one carrier, and its measured lower heating value: ``23.1 MJ/kg``."""

    tags: tuple[str, ...]
    lhv: str | None = None


def heating_value(text: str) -> tuple[float, str]:
    """Return kgce per unit, and the unit, of a heating value ``23.1 MJ/kg``.

    errors  ``ValueError`` when it is none
    """
    number, _, unit = text.strip().partition(" ")
    energy, slash, per = unit.strip().partition("/")
    if not slash:
        raise ValueError(f'"{text}" is not a heating value (write 23.1 MJ/kg)')
    factor = Unit.parse(energy).factor_to(Unit.parse("MJ"))
    Unit.parse(per)
    return float(number) * factor / MJ_PER_KGCE, per


def amount_grid(factor: float) -> float:
    """Return the binary step of a converted amount: 64 times finer than that of its readings.

    So sums stay exact up to 2**27 of the tag's units, and rounding every minute the same way does
    not add up to anything that could be seen.
    """
    return float(2.0 ** (math.floor(math.log2(abs(factor))) - 26))


@dataclass(frozen=True)
class Carrier:
    """One carrier: counters with the factor to its unit, negative for what is returned."""

    name: str
    unit: Unit
    kgce: float
    counters: tuple[tuple[Counter, float], ...]


@dataclass(frozen=True)
class Energy(SlotFormula):
    """The formula: amounts are additive, everything else is derived from them."""

    carriers: tuple[Carrier, ...]
    output: tuple[Counter, float] | None
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.ENERGY

    @property
    def tags(self) -> tuple[Tag, ...]:
        kgce = Unit.parse("kgce")
        amounts = [Tag(carrier.name, carrier.unit) for carrier in self.carriers]
        coal = [Tag(f"{carrier.name}_kgce", kgce) for carrier in self.carriers]
        pairs = [tag for pair in zip(amounts, coal, strict=True) for tag in pair]
        last = (Tag("output_t", Unit.parse("t")), Tag("intensity", Unit.parse("kgce/t")))
        return (*pairs, Tag("total_kgce", kgce), *last, *SHARES)

    @property
    def additive(self) -> tuple[str, ...]:
        return (*(carrier.name for carrier in self.carriers), "output_t")

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        n = len(ends)
        sums = Sums.zeros(len(self.carriers) + 1, n)
        covered, estimated = np.full(n, sums.length[0] if n else 0), np.zeros(n, np.int64)
        parts = [*(carrier.counters for carrier in self.carriers)]
        parts.append((self.output,) if self.output else ())
        for column, counters in enumerate(parts):
            total, worst = np.zeros(n), np.zeros(n, np.uint8)
            if not counters:  # a boundary whose output nobody counts
                worst += np.uint8(Quality.BAD_MISSING)
            for counter, factor in counters:
                value, quality, full, guessed = counter.read(ends, rows)
                total += np.rint(value * factor / (grid := amount_grid(factor))) * grid
                worst = np.maximum(worst, quality)
                covered = np.minimum(covered, full)
                estimated = np.maximum(estimated, guessed)
            sums.set(column, total, worst)
        sums.covered, sums.estimated = covered, np.minimum(estimated, sums.length - covered)
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = merged(sums, self.limits)
        amount, output = sums.total[:-1], sums.total[-1]
        value, marks = [], []
        total, worst = np.zeros(len(output)), np.zeros(len(output), np.uint8)
        for i, carrier in enumerate(self.carriers):
            coal = amount[i] * carrier.kgce
            value += [amount[i], coal]
            marks += [quality[i], quality[i]]
            total = total + coal
            worst = np.maximum(worst, quality[i])
        intensity, per_tonne = ratio(total, output, np.maximum(worst, quality[-1]))
        return (
            np.stack([*value, total, output, intensity]),
            np.stack([*marks, worst, quality[-1], per_tonne]),
        )


@dataclass(frozen=True, kw_only=True)
class EnergyConfig(MetricConfig):
    """Energy of a process, by carrier, as standard coal and per tonne of output.

    basis     coefficients by energy content (当量), or by what the carrier takes to make (等价)
    output    counter of the product's mass
    returned  what leaves the boundary again and is deducted
    """

    kind: ClassVar[str] = "energy"

    scope: Literal["plant", "process", "unit", "equipment"] = "process"
    product: str | None = None
    basis: Literal["equivalent", "equal-value"] = "equivalent"
    output: str | None = None
    inputs: Mapping[str, CarrierInput | tuple[str, ...]]
    returned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def references(self) -> list[Reference]:
        found = []
        for carrier, given in self.inputs.items():
            below = ("tags",) if isinstance(given, CarrierInput) else ()
            for i, tag in enumerate(_tags(given)):
                found.append(Reference(("inputs", carrier, *below, i), tag, Kind.COUNTER))
        for carrier, tags in self.returned.items():
            found += [
                Reference(("returned", carrier, i), t, Kind.COUNTER) for i, t in enumerate(tags)
            ]
        if self.output is not None:
            found.append(Reference(("output",), self.output, Kind.COUNTER, "t"))
        return found

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        for carrier, given in self.inputs.items():
            if not _tags(given):
                found.append((("inputs", carrier), "needs at least one counter"))
            if isinstance(given, CarrierInput) and given.lhv is not None:
                try:
                    heating_value(given.lhv)
                except ValueError as error:
                    found.append((("inputs", carrier, "lhv"), f"{error} (write 23.1 MJ/kg)"))
        if not self.inputs:
            found.append((("inputs",), "needs at least one carrier"))
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        names = dict.fromkeys((*self.inputs, *self.returned))
        carriers = tuple(self._carrier(carrier, inputs) for carrier in names)
        output = None
        if self.output is not None:
            counter = inputs.increment(self.output)
            output = (counter, counter.unit.factor_to(Unit.parse("t")))
        return inputs.metrics(name, Energy(carriers, output, plant.quality), self.windows)

    def _carrier(self, name: str, inputs: Inputs) -> Carrier:
        given = self.inputs.get(name, ())
        if isinstance(given, CarrierInput) and given.lhv is not None:
            kgce, code = heating_value(given.lhv)
        else:
            coefficient = inputs.plant.coefficient(name, self.basis)
            kgce, code = coefficient.kgce_per_unit, coefficient.unit
        unit = Unit.parse(code)
        signed = [(tag, 1.0) for tag in _tags(given)] + [
            (t, -1.0) for t in self.returned.get(name, ())
        ]
        counters = [(inputs.increment(tag), sign) for tag, sign in signed]
        return Carrier(
            name, unit, kgce, tuple((c, s * c.unit.factor_to(unit)) for c, s in counters)
        )


def _tags(given: CarrierInput | tuple[str, ...]) -> tuple[str, ...]:
    return given.tags if isinstance(given, CarrierInput) else given
