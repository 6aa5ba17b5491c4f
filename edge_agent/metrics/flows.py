"""What goes through some meters of one carrier in a minute: the amount, and the heat of steam."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_agent.metrics.base import BAD, NOT_AVAILABLE, UNCERTAIN
from edge_agent.metrics.carriers import amount_grid, rounded
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import stacked
from edge_agent.metrics.join import Counter, Gauge, Inputs, Integral
from edge_agent.metrics.steam import ZERO, Phase, enthalpy
from edge_agent.model import F64, I64, U8
from edge_agent.units import Unit

Meter = tuple[Counter | Integral, float]  # with the factor to the unit wanted
_STEP = 2.0**-20  # kJ/kg: enthalpies in steps, so that every machine has the same bits


@dataclass
class Taken:
    """Amount, and what it is worth by: the amount itself, or its heat in MJ; ``worst`` of each."""

    amount: F64
    quality: U8
    measure: F64
    marks: U8
    covered: I64
    estimated: I64

    def less(self, other: "Taken", sign: float = -1.0) -> "Taken":
        """Return the difference, or with a sign of 1 the sum."""
        return Taken(
            self.amount + sign * other.amount,
            np.maximum(self.quality, other.quality),
            self.measure + sign * other.measure,
            np.maximum(self.marks, other.marks),
            np.minimum(self.covered, other.covered),
            np.maximum(self.estimated, other.estimated),
        )


@dataclass(frozen=True)
class Steam:
    """The state of steam or hot water, for its enthalpy.

    pressure     with the factor to MPa; atmosphere: what is added to a gauge pressure, MPa
    temperature  None: saturated; kelvin: what is added to it
    base         enthalpy that does not count: of the feed water, kJ/kg
    """

    pressure: tuple[Gauge, float]
    atmosphere: float
    temperature: Gauge | None
    kelvin: float
    phase: Phase
    base: float

    def specific(self, ends: I64, rows: Mapping[str, Rows]) -> tuple[F64, U8]:
        """Return heat per mass of each minute, kJ/kg or MJ/t, and its quality.

        It is that of the minute's mean pressure and mean temperature. Where the temperature is on
        the wrong side of saturation it is UNCERTAIN, and not available outside of the formulation.
        """
        gauge, factor = self.pressure
        (pressure, _, _), quality, _ = gauge.read(ends, rows)
        kelvin = None
        if self.temperature is not None:
            (mean, _, _), mark, _ = self.temperature.read(ends, rows)
            kelvin = np.where(mark < BAD, mean + self.kelvin, np.nan)
            quality = np.maximum(quality, mark)
        absolute = np.where(quality < BAD, pressure * factor + self.atmosphere, np.nan)
        value, assumed = enthalpy(absolute, kelvin, self.phase)
        quality = np.where(assumed, np.maximum(quality, UNCERTAIN), quality)
        none = np.isnan(value)
        quality = np.where(none, np.maximum(quality, NOT_AVAILABLE), quality)
        heat = rounded(np.where(none, 0.0, value - self.base), _STEP)
        return heat, quality.astype(np.uint8)


@dataclass(frozen=True)
class Flow:
    """Some meters of one carrier; the amounts are in its unit, the sums exact.

    steam  what the mass is weighted with, for carriers that are worth their heat
    """

    meters: tuple[Meter, ...]
    steam: Steam | None = None

    @cached_property
    def _factors(self) -> tuple[F64, F64]:
        """The meters' factors, and the steps of their amounts, (m, 1)."""
        factors = [factor for _, factor in self.meters]
        grids = [amount_grid(factor) for factor in factors]
        return np.array(factors)[:, None], np.array(grids)[:, None]

    @property
    def step(self) -> float:
        """The smallest factor of the meters, for the step of what the amounts are worth."""
        return min((abs(factor) for _, factor in self.meters), default=1.0)

    def read(self, ends: I64, rows: Mapping[str, Rows]) -> Taken:
        """Return what went through in the minutes with these ends."""
        read = zip(*(meter.read(ends, rows) for meter, _ in self.meters), strict=True)
        value, quality, full, guessed = (stacked(part) for part in read)
        factors, grids = self._factors
        total = rounded(value * factors, grids).sum(axis=0, initial=0.0)
        worst, covered, estimated = quality.max(axis=0), full.min(axis=0), guessed.max(axis=0)
        if self.steam is None:
            return Taken(total, worst, total, worst, covered, estimated)
        per_tonne, marks = self.steam.specific(ends, rows)
        marks = np.where(total == 0, worst, np.maximum(worst, marks)).astype(np.uint8)
        return Taken(total, worst, total * per_tonne, marks, covered, estimated)


def meters(tags: tuple[str, ...], unit: Unit, inputs: Inputs) -> tuple[Meter, ...]:
    """Return the meters of some tags, counters or rates, with their factors to a unit.

    errors  ``ValueError`` with the tag that cannot be converted
    """
    found = []
    for tag in tags:
        meter = inputs.amount(tag)
        try:
            factor = meter.unit.factor_to(unit)
        except ValueError as error:
            raise ValueError(f'"{tag}" counts {meter.unit.code}, not {unit.code}') from error
        found.append((meter, factor))
    return tuple(found)


def steam_of(
    pressure: str,
    temperature: str | None,
    inputs: Inputs,
    *,
    phase: Phase,
    atmosphere: float,
    base: float,
) -> Steam:
    """Return the state of steam from two gauges; see ``Steam``.

    errors  ``ValueError`` with the tag that is no pressure or no temperature
    """
    gauge, kelvin, mean = inputs.gauge(pressure), 0.0, None
    try:
        factor = gauge.unit.factor_to(Unit.parse("MPa"))
    except ValueError as error:
        raise ValueError(f'"{pressure}" has {gauge.unit.code}, must be a pressure') from error
    if temperature is not None:
        mean = inputs.gauge(temperature)
        if mean.unit.dimension == Unit.parse("Cel").dimension:
            kelvin = ZERO
        elif mean.unit.code != "K":
            raise ValueError(f'"{temperature}" has {mean.unit.code}, must be in °C or K')
    return Steam((gauge, factor), atmosphere, mean, kelvin, phase, base)
