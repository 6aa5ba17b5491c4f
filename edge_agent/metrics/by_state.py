"""Energy of a machine by what it was doing: producing, setup, idle, fault, planned stop.

What the meters count while the machine is in a state is that state's energy; what they count while
the state is not known, or has no meaning, is ``unknown``, so the parts sum up to the whole exactly.
The share that is used while nothing is produced is the first thing to save.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from edge_agent.metrics.base import MINUTE, Metric, MetricConfig, Plant, QualityLimits, Reference
from edge_agent.metrics.courses import Counted, Integrated, Part
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import SHARES, Sums, graded, merged, ratio
from edge_agent.metrics.join import Counter, Inputs, SlotFormula
from edge_agent.metrics.machine_time import PACKML
from edge_agent.metrics.spells import Machine
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

PRODUCING, IDLE, UNKNOWN = "producing", "idle", "unknown"
_TAKEN = {UNKNOWN, "total", "standby", "not_producing"}
_NAME = re.compile(r"[a-z0-9_-]+")
_NONE = np.uint8(Quality.BAD_NOT_AVAILABLE)


@dataclass(frozen=True)
class EnergyByState(SlotFormula):
    """The formula: amounts and times are additive, the share and the power are derived."""

    machine: Machine
    states: tuple[str, ...]
    meters: tuple[Counted | Integrated, ...]
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.STATE_ENERGY

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        kwh, second, kw = Unit.parse("kWh"), Unit.parse("s"), Unit.parse("kW")
        amounts = tuple(Tag(f"{name}_kwh", kwh) for name in (*self.states, UNKNOWN))
        times = tuple(Tag(f"{name}_s", second) for name in self.states)
        derived = (Tag("not_producing_share", Unit.parse("1")), Tag("standby_kw", kw))
        return (*amounts, Tag("total_kwh", kwh), *times, *derived, *SHARES)

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags[: 2 * len(self.states) + 2])

    @cached_property
    def scale(self) -> F64:
        k = len(self.states)  # times are summed in whole ns
        return np.array([1.0] * (k + 2) + [1e9] * k)

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        k = len(self.states)
        sums = Sums.zeros(2 * k + 2, len(ends))
        stretches = self.machine.spells(ends, rows)
        counted = [meter.parts(ends, rows, stretches) for meter in self.meters]
        for i, stretch in enumerate(stretches):
            parts = [parts[i] for parts in counted]
            spans = stretch.spans()
            known = int(spans[:k].sum())
            self._shares(sums, i, parts, known)
            quality = max(part.quality for part in parts)
            if quality < Quality.BAD:
                amounts = np.sum([part.amounts for part in parts], axis=0)
                sums.total[: k + 2, i] = np.append(amounts, amounts.sum())
                sums.known[: k + 2, i] = 1
            sums.worst[: k + 1, i] = max(quality, self._doubt(parts, stretch.worst))
            sums.worst[k + 1, i] = quality
            sums.total[k + 2 :, i] = spans[:k]
            sums.known[k + 2 :, i] = known > 0
            sums.worst[k + 2 :, i] = stretch.worst if known else Quality.BAD_MISSING
        return sums

    @staticmethod
    def _shares(sums: Sums, i: int, parts: list[Part], known: int) -> None:
        """Set the covered and the estimated time of a minute."""
        told = min(known, *(part.covered + part.estimated for part in parts))
        estimated = min(told, max(max(part.estimated, part.shared) for part in parts))
        sums.covered[i], sums.estimated[i] = told - estimated, estimated

    def _doubt(self, parts: list[Part], worst: int) -> int:
        """Return the quality that the sharing itself allows for."""
        much = (1.0 - self.limits.uncertain_below) * MINUTE
        shared = max(part.shared for part in parts) > much
        return max(worst, int(Quality.UNCERTAIN_ESTIMATED) if shared else 0)

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        k = len(self.states)
        quality, share = merged(sums, self.limits), sums.share()
        amount, seconds = sums.total[: k + 2], sums.total[k + 2 :] / 1e9
        judged = graded(quality[: k + 1].max(axis=0), share, self.limits)
        told = amount[:k].sum(axis=0)
        wasted = told - amount[self.states.index(PRODUCING)]
        rest, rest_quality = ratio(wasted, told, judged)
        power, power_quality = np.full(len(told), np.nan), np.full(len(told), _NONE)
        if IDLE in self.states:
            i = self.states.index(IDLE)
            judged = graded(np.maximum(quality[i], quality[k + 2 + i]), share, self.limits)
            power, power_quality = ratio(amount[i] * 3600.0, seconds[i], judged)
        value = np.vstack([amount, seconds, [rest, power]])
        return value, np.vstack([quality, [rest_quality, power_quality]])


@dataclass(frozen=True, kw_only=True)
class EnergyByStateConfig(MetricConfig):
    """Energy of a machine by its state.

    energy  the machine's meters: counters of energy, or gauges of power
    state   the tag that says what it is doing
    states  name -> numbers of the tag, or ``packml``, as for ``oee``; ``producing`` must be among
            them, ``idle`` has the standby power, others are free
    """

    kind: ClassVar[str] = "energy-by-state"

    energy: tuple[str, ...]
    state: str
    states: Literal["packml"] | Mapping[str, tuple[int, ...]]

    @property
    def _states(self) -> Mapping[str, tuple[int, ...]]:
        if self.states == "packml":
            return {str(name): numbers for name, numbers in PACKML.items()}
        return self.states

    def references(self) -> list[Reference]:
        meters = [Reference(("energy", i), tag) for i, tag in enumerate(self.energy)]
        return [*meters, Reference(("state",), self.state, Kind.STATE)]

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self.energy:
            found.append((("energy",), "needs at least one meter"))
        if not self._states.get(PRODUCING):
            found.append((("states",), "needs at least one number for producing"))
        seen: dict[int, str] = {}
        for name, numbers in self._states.items():
            if name in _TAKEN or not _NAME.fullmatch(name):
                message = f'"{name}" is no name for a state: write a-z, 0-9, _ and -, and none of '
                found.append((("states", name), message + ", ".join(sorted(_TAKEN))))
            for i, number in enumerate(numbers):
                if number in seen:
                    message = f"{number} is {seen[number]} already: a state has one meaning"
                    found.append((("states", name, i), message))
                seen.setdefault(number, name)
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        machine = Machine(inputs.raw(self.state), tuple(self._states.values()))
        meters = tuple(_meter(tag, inputs) for tag in self.energy)
        formula = EnergyByState(machine, tuple(self._states), meters, plant.quality)
        return inputs.metrics(name, formula, self.windows)


def _meter(tag: str, inputs: Inputs) -> Counted | Integrated:
    meter, unit = inputs.amount(tag), Unit.parse("kWh")
    if meter.unit.dimension != unit.dimension:
        raise ValueError(f'"{tag}" counts {meter.unit.code}, must be convertible to kWh')
    if isinstance(meter, Counter):
        return Counted.of(tag, inputs, unit)
    return Integrated(meter, meter.unit.factor_to(unit))
