"""Demand of a supply point: 15 minutes, sliding and fixed, with forecast, against the contract.

``P = W / 0.25 h``: see ``quarters``. A longer window has the largest demand of its minutes: a mean
of demands would be no demand. The maximum that the contract is held against is the sliding one,
or the fixed one where the contract says so (``method``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, MISSING, Metric, MetricConfig, Plant, Reference, Window
from edge_agent.metrics.base import QualityLimits as Limits
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import SHARES, Sums, merged, stacked
from edge_agent.metrics.join import Counter, Inputs, Integral
from edge_agent.metrics.quarters import (
    GRID,
    HOUR,
    DemandFormula,
    Demands,
    Loads,
    QuarterMinutes,
)
from edge_agent.metrics.tariff_tables import DemandRule
from edge_agent.model import F64, I64, U8, Family, Kind, Tag
from edge_agent.units import Unit

Method = Literal["sliding", "fixed"]
Amount = Counter | Integral
Steps = tuple[str | int, ...]


def quantity(text: str, unit: str) -> float:
    """Return a quantity ``6300 kW`` in a unit; ``ValueError`` when it is none, or not positive."""
    number, _, code = text.strip().partition(" ")
    try:
        value = float(number) * Unit.parse(code).factor_to(Unit.parse(unit))
    except ValueError as error:
        raise ValueError(f'"{text}" is not a quantity (write 6300 {unit})') from error
    if not 0 < value < np.inf:
        raise ValueError(f'"{text}" must be above 0')
    return value


def tags_of(written: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return one tag or several as a tuple."""
    if written is None:
        return ()
    return (written,) if isinstance(written, str) else written


def summed(
    amounts: tuple[Amount, ...], unit: Unit, ends: I64, rows: Mapping[str, Rows]
) -> tuple[F64, U8, I64, I64]:
    """Return the sum of amounts in a unit, on a binary grid: value, quality, covered, estimated.

    It is known where all are; what is drawn back is not deducted: an amount below 0 counts as 0.
    """
    n = len(ends)
    total, worst = np.zeros(n), np.zeros(n, np.uint8)
    covered, estimated = np.full(n, MINUTE), np.zeros(n, np.int64)
    for amount in amounts:
        value, quality, full, guessed = amount.read(ends, rows)
        factor = amount.unit.factor_to(unit)
        total += np.rint(np.maximum(value, 0.0) * factor / GRID) * GRID
        worst = np.maximum(worst, quality)
        covered, estimated = np.minimum(covered, full), np.maximum(estimated, guessed)
    return total, worst, covered, np.minimum(estimated, MINUTE - covered)


@dataclass(frozen=True)
class Contract:
    """What the maximum is held against.

    kw        contract demand; capacity: of the transformers in kVA, 0 when it is not known
    rule      None: the maximum itself is billed
    """

    kw: float
    capacity: float
    rule: DemandRule | None

    def billed(self, demand: F64) -> F64:
        """Return the demand to be billed, kW."""
        return demand if self.rule is None else self.rule.billed(demand, self.kw, self.capacity)


DEMANDS = ("demand_kw", "demand_fixed_kw", "forecast_kw", "demand_max_kw")  # a contract's level
_PEAKS = ("power_kw", *DEMANDS[:3])


@dataclass(frozen=True)
class Demand(DemandFormula):
    """The formula: energy is added up, the largest of powers and demands is kept.

    counted  the energy is that of counters, power: of the gauges beside them, if any
    """

    energy: tuple[Amount, ...]
    power: tuple[Amount, ...]
    counted: bool
    method: Method
    contract: Contract | None
    limits: Limits

    @property
    def family(self) -> Family:
        return Family.DEMAND

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        kw, one = Unit.parse("kW"), Unit.parse("1")
        found = [Tag("energy_kwh", Unit.parse("kWh")), *(Tag(name, kw) for name in _PEAKS)]
        found.append(Tag("demand_max_kw", kw))
        if self.contract is not None:
            found += [Tag("contract_share", one), Tag("billed_kw", kw)]
        return (*found, *SHARES)

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return ("energy_kwh", *_PEAKS)

    @property
    def peaks(self) -> NDArray[np.bool_]:
        return np.array([False, True, True, True, True])

    @property
    def sources(self) -> tuple[str, ...]:
        rule = None if self.contract is None else self.contract.rule
        return () if rule is None else (rule.id,)

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        sums, kwh = Sums.zeros(5, len(ends)), Unit.parse("kWh")
        energy, quality, covered, estimated = summed(self.energy, kwh, ends, rows)
        sums.set(0, energy, quality)
        sums.covered, sums.estimated = covered, estimated
        unknown = np.full(len(ends), MISSING, np.uint8)
        sums.set(1, np.zeros(len(ends)), unknown)
        if self.power:
            gauged, mark, span, _ = summed(self.power, kwh, ends, rows)
            sums.set(1, _per_hour(gauged, span), np.where(span > 0, mark, unknown).astype(np.uint8))
        return sums

    def loads(self, sums: Sums, passed: I64) -> Loads:
        # a counter's increment is that of the whole slot, a power's integral of what is covered
        known: I64 = sums.known[0] * (passed if self.counted else sums.covered)
        energy, quality = sums.total[0], sums.worst[0]
        ungauged = sums.known[1] == 0  # its power is then that of its energy
        power = np.where(ungauged, _per_hour(energy, known), sums.total[1])
        otherwise = np.where(known > 0, quality, MISSING)
        mark = np.where(ungauged, otherwise, sums.worst[1]).astype(np.uint8)
        sums.set(1, power, mark)
        return Loads(energy, known, quality, power, mark, self.counted)

    def place(self, sums: Sums, found: Demands) -> None:
        for column, given in enumerate((found.sliding, found.fixed, found.forecast), 2):
            sums.set(column, *given)

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = merged(sums, self.limits)
        chosen = 2 if self.method == "sliding" else 3
        highest, mark = sums.total[chosen], quality[chosen]
        value, marks = [*sums.total, highest], [*quality, mark]
        if self.contract is not None:
            value += [highest / self.contract.kw, self.contract.billed(highest)]
            marks += [mark, mark]
        return stacked(value), stacked(marks)


def _per_hour(energy: F64, time: I64) -> F64:
    """Return the mean power in kW of kWh in ns; 0 where there is no time."""
    return np.divide(energy, time / HOUR, out=np.zeros(len(time)), where=time > 0)


@dataclass(frozen=True, kw_only=True)
class DemandConfig(MetricConfig):
    """Demand of a supply point.

    energy       counters of the imported energy; they take precedence over the power
    power        gauges of the active power; beside counters they tell the present power
    contract     contract demand, ``6300 kW``
    method       which maximum the contract is held against
    billed       by the contract and its rule, or by the maximum itself
    rule         a row of configs/tariffs/demand_rules.csv
    transformer  capacity of the transformers, ``8000 kVA``, for the least contract that is billed
    """

    kind: ClassVar[str] = "demand"

    energy: str | tuple[str, ...] | None = None
    power: str | tuple[str, ...] | None = None
    contract: str | None = None
    method: Method = "sliding"
    billed: Literal["contract", "maximum"] = "contract"
    rule: str = "two-part"
    transformer: str | None = None
    windows: tuple[Window, ...] = ("1min", "15min", "1d", "1mo")

    def references(self) -> list[Reference]:
        return [
            Reference(path, tag, kind, unit)
            for key, written, kind, unit in (
                ("energy", self.energy, Kind.COUNTER, "kWh"),
                ("power", self.power, Kind.GAUGE, "kW"),
            )
            for path, tag in paths_of(key, written)
        ]

    def faults(self) -> list[tuple[Steps, str]]:
        found: list[tuple[Steps, str]] = []
        if not tags_of(self.energy) and not tags_of(self.power):
            found.append(((), "needs energy (counters) or power (gauges)"))
        for key, text, unit in (
            ("contract", self.contract, "kW"),
            ("transformer", self.transformer, "kVA"),
        ):
            found += quantity_faults(key, text, unit)
        if self.contract is None:
            needed = {"billed": self.billed == "maximum", "transformer": self.transformer}
            found += [((key,), "needs contract: what is billed") for key, v in needed.items() if v]
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        energy = tuple(inputs.amount(tag) for tag in tags_of(self.energy))
        power = tuple(inputs.amount(tag) for tag in tags_of(self.power))
        formula = Demand(
            energy or power,
            power if energy else (),
            bool(energy),
            self.method,
            contract_of(self.contract, self.transformer, self.billed, self.rule, plant),
            plant.quality,
        )
        return inputs.metrics(name, formula, self.windows, QuarterMinutes)


def paths_of(key: str, written: str | tuple[str, ...] | None) -> list[tuple[Steps, str]]:
    """Return the tags of an option that is one tag or several, each with where it stands."""
    if written is None or isinstance(written, str):
        return [((key,), tag) for tag in tags_of(written)]
    return [((key, i), tag) for i, tag in enumerate(written)]


def quantity_faults(key: str, text: str | None, unit: str) -> list[tuple[Steps, str]]:
    """Return what is wrong with a quantity."""
    if text is None:
        return []
    try:
        quantity(text, unit)
    except ValueError as error:
        return [((key,), str(error))]
    return []


def contract_of(
    contract: str | None, transformer: str | None, billed: str, rule: str, plant: Plant
) -> Contract | None:
    """Return the contract that is written; ``KeyError`` for a rule that does not exist."""
    if contract is None:
        return None
    capacity = 0.0 if transformer is None else quantity(transformer, "kVA")
    found = None if billed == "maximum" else plant.tariffs.rule(rule)
    return Contract(quantity(contract, "kW"), capacity, found)
