"""The minute of a stack: from what the analyser tells to dry values at standard state.

Each reading is averaged over the minute first (formula 23), then the formulas of ``flue_gas`` are
applied to the means, in this order: ppm to mg/m3 (20 to 22), standard state (18), wet to dry (19),
reference oxygen (28, or 26 by excess air). The mass is that of the uncorrected dry concentration
(33). A concentration is valid in a minute in which its own readings are, and in which something
burns: O2 below ``o2_limit``. The mass needs no fire, only concentration and flow.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.metrics import flue_gas
from edge_agent.metrics.base import MINUTE
from edge_agent.metrics.formula import Sums
from edge_agent.metrics.join import Counter, Reading, Rows, SlotFormula
from edge_agent.metrics.stack_levels import CONDITIONS, FLAGS, Level
from edge_agent.metrics.stack_readings import ENOUGH, Mask, Means, minute_means, spans_in
from edge_agent.model import F64, I64, U8, Quality

States = tuple[tuple[int, ...], ...]
_BAD, _MISSING, _NONE = (
    int(q) for q in (Quality.BAD, Quality.BAD_MISSING, Quality.BAD_NOT_AVAILABLE)
)  # an enum's look-up costs 1 µs


@dataclass(frozen=True)
class Quantity:
    """A reading, or a number that the configuration gives.

    factor  to the unit that the formulas want
    """

    reading: Reading | None
    factor: float = 1.0

    def means(self, ends: I64, rows: Mapping[str, Rows]) -> Means:
        """Return its minute means."""
        if self.reading is None:
            return Means.constant(self.factor, len(ends))
        return minute_means(self.reading, self.factor, ends, rows)


@dataclass(frozen=True)
class Term:
    """One reading of a gas: NO and NO2 are two of NOx.

    factor  to mg/m3 of the gas, at the state in which it is measured
    actual  measured at the duct's temperature and pressure
    """

    reading: Reading
    factor: float
    actual: bool


@dataclass(frozen=True)
class Gas:
    """A gas and how it is measured."""

    name: str
    terms: tuple[Term, ...]
    wet: bool


@dataclass(frozen=True)
class Analyser:
    """What stands on a stack.

    o2_wet        oxygen is measured in wet gas
    temperature   Cel; pressure: gauge of the duct, Pa; atmosphere Pa; humidity: fraction
    flow          dry at standard state, Nm3/h; or velocity, m/s, with area (m2) and field factor
    condition     numbers that mean running, start-up, shut-down, stopped
    flags         instruments: numbers that mean normal, fault, maintenance, calibration
    """

    gases: tuple[Gas, ...]
    o2: Quantity | None
    o2_wet: bool
    o2_limit: float
    o2_reference: float | None
    excess_air: float | None
    temperature: Quantity | None
    pressure: Quantity
    atmosphere: Quantity
    humidity: Quantity | None
    flow: Quantity | None
    velocity: Quantity | None
    area: float
    field_factor: float
    condition: tuple[Reading, States] | None
    flags: tuple[tuple[Reading, States], ...]
    output: tuple[Counter, float] | None

    def corrected(self, concentration: F64, o2: F64) -> F64:
        """Return values at the reference oxygen; as they are where the standard has none."""
        if self.excess_air is not None:
            return flue_gas.corrected_by_excess_air(concentration, o2, self.excess_air)
        if self.o2_reference is not None:
            return flue_gas.corrected(concentration, o2, self.o2_reference)
        return concentration


class Minute:
    """The quantities of some minutes that several columns need, each averaged once."""

    def __init__(self, analyser: Analyser, ends: I64, rows: Mapping[str, Rows]) -> None:
        self._of = analyser
        self._ends, self._rows = ends, rows
        self._temperature = self._means(analyser.temperature)
        self._humidity = self._means(analyser.humidity)
        self._pressure = self._means(analyser.pressure)
        self._atmosphere = self._means(analyser.atmosphere)
        self.o2 = self._oxygen()
        self.flow = self._flow()
        self.burning, self.mark = self._fire()

    def _means(self, quantity: Quantity | None) -> Means | None:
        return None if quantity is None else quantity.means(self._ends, self._rows)

    def _dry(self, wet: Means) -> Means:
        water = self._humidity
        if water is None:
            return wet
        dryable = (water.value >= 0.0) & (water.value < 1.0)
        humidity = np.where(dryable, water.value, 0.0)
        return wet.made(flue_gas.dry(wet.value, humidity), water, where=dryable)

    def _state(self) -> tuple[F64, F64, F64, Mask, tuple[Means, ...]]:
        """Return temperature, gauge pressure, atmosphere, where they are possible, the means."""
        heat, gauge, air = self._temperature, self._pressure, self._atmosphere
        if heat is None or gauge is None or air is None:
            raise ValueError("a state without temperature or pressure")
        possible = (heat.value > -flue_gas.KELVIN) & (gauge.value + air.value > 0.0)
        celsius = np.where(possible, heat.value, 0.0)
        atmosphere = np.where(possible, air.value, flue_gas.PASCAL - gauge.value)
        return celsius, gauge.value, atmosphere, possible, (heat, gauge, air)

    def _oxygen(self) -> Means | None:
        found = self._means(self._of.o2)
        return self._dry(found) if found is not None and self._of.o2_wet else found

    def _flow(self) -> Means | None:
        """Return the dry flow at standard state, Nm3/h."""
        speed = self._means(self._of.velocity)
        if speed is None:
            return self._means(self._of.flow)
        water = self._humidity
        if water is None:
            raise ValueError("a velocity without humidity")
        celsius, gauge, atmosphere, possible, used = self._state()
        possible &= (water.value >= 0.0) & (water.value < 1.0)
        actual = flue_gas.actual_flow(speed.value, self._of.field_factor, self._of.area)
        state = celsius, gauge, atmosphere
        dry = flue_gas.standard_dry_flow(actual, *state, np.where(possible, water.value, 0.0))
        return speed.made(dry, *used, water, where=possible)

    def concentration(self, gas: Gas) -> Means:
        """Return a gas in mg/m3, dry, at standard state."""
        found = None
        for term in gas.terms:
            part = minute_means(term.reading, term.factor, self._ends, self._rows)
            if term.actual:
                celsius, gauge, atmosphere, possible, used = self._state()
                value = flue_gas.at_standard_state(part.value, celsius, gauge, atmosphere)
                part = part.made(value, *used, where=possible)
            found = part if found is None else found.made(found.value + part.value, part)
        if found is None:
            raise ValueError(f"{gas.name} is not measured")
        return self._dry(found) if gas.wet else found

    def _fire(self) -> tuple[Mask, U8]:
        """Return where something burns, and the quality that says so, or why it is not known."""
        if self.o2 is None:
            n = len(self._ends)
            return np.ones(n, bool), np.zeros(n, np.uint8)
        burning = self.o2.known & (self.o2.value < self._of.o2_limit)
        idle = np.where(self.o2.known, _NONE, _MISSING)
        return burning, np.where(burning, self.o2.quality, idle).astype(np.uint8)

    def conditions(self) -> Mask:
        """Return in which condition the plant was for most of each minute, (4, n)."""
        if self._of.condition is None:
            return np.zeros((len(CONDITIONS), len(self._ends)), bool)
        reading, groups = self._of.condition
        spans = spans_in(reading, groups, self._ends, self._rows)[:-1]
        return _most(spans) & (spans > 0)

    def flags(self) -> Mask:
        """Return which mark of an instrument a minute has: fault, maintenance, calibration, (3, n).

        A minute is normal with at least 75 % of it normal (HJ 212-2017, C.16: flue gas); else it
        has the mark that it had the longest, of several instruments each its own.
        """
        found = np.zeros((len(FLAGS), len(self._ends)), bool)
        for reading, (normal, *marks) in self._of.flags:
            spans = spans_in(reading, (normal, *marks), self._ends, self._rows)
            known, odd = spans.sum(axis=0), spans[1:-1]
            odd[0] += spans[-1]  # a number that nobody has named is a fault
            marked = odd.sum(axis=0) > (1.0 - ENOUGH) * known
            found |= _most(odd) & (odd > 0) & marked
        return found


def _most(spans: I64) -> Mask:
    """Return, of each column, the first row that has the most, (g, n)."""
    chosen: Mask = np.arange(len(spans))[:, None] == spans.argmax(axis=0)
    return chosen


@dataclass(frozen=True)
class StackMinutes(Level, SlotFormula):
    """The formula of the minute; the windows that begin anywhere are merged by it, too."""

    analyser: Analyser | None = None

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        analyser = self.analyser
        if analyser is None:
            raise ValueError("minutes without an analyser")
        sums = Sums.zeros(len(self.additive), len(ends))
        minute = Minute(analyser, ends, rows)
        place = {name: i for i, name in enumerate(self.additive)}
        conditions = minute.conditions()
        share = self._gases(sums, place, minute, conditions[1] | conditions[2] | conditions[3])
        self._counts(sums, place, minute, conditions)
        if minute.o2 is not None:
            sums.set(place["o2"], minute.o2.value, minute.o2.quality)
        if minute.flow is not None:
            sums.set(place["flow_nm3"], minute.flow.value / 60.0, minute.flow.quality)
        if analyser.output is not None:
            counter, factor = analyser.output
            amount, quality, _, _ = counter.read(ends, rows)
            sums.set(place["output_t"], amount * factor, quality)
        sums.covered = np.rint(share * MINUTE).astype(np.int64)
        return sums

    def _gases(self, sums: Sums, place: Mapping[str, int], minute: Minute, excused: Mask) -> F64:
        """Set the columns of the gases and the valid minutes; return the share that is covered."""
        analyser = self.analyser
        assert analyser is not None  # noqa: S101  base has asked
        burning, mark = minute.burning, minute.mark
        share = np.ones(len(burning)) if minute.o2 is None else minute.o2.share
        valid = burning.copy()
        o2 = np.zeros(len(burning)) if minute.o2 is None else np.where(burning, minute.o2.value, 0)
        for gas in analyser.gases:
            mean = minute.concentration(gas)
            quality = np.maximum(mean.quality, mark).astype(np.uint8)
            right = analyser.corrected(mean.value, o2)
            sums.set(place[gas.name], mean.value, quality)
            sums.set(place[f"{gas.name}_corrected"], right, quality)
            if analyser.condition is not None:
                out = np.where(excused, np.maximum(quality, _NONE), quality)
                sums.set(place[f"{gas.name}_judged"], right, out.astype(np.uint8))
            if minute.flow is not None:
                kg = flue_gas.mass_rate(mean.value, minute.flow.value) / 60.0
                whole = mean.made(kg, minute.flow)
                sums.set(place[f"{gas.name}_mass_kg"], whole.value, whole.quality)
                share = np.minimum(share, minute.flow.share)
            valid &= quality < _BAD
            share = np.minimum(share, mean.share)
        sums.set(place["valid_min"], valid.astype(np.float64), np.zeros(len(valid), np.uint8))
        return share

    def _counts(
        self, sums: Sums, place: Mapping[str, int], minute: Minute, conditions: Mask
    ) -> None:
        """Set the columns that count minutes of a condition or of a mark."""
        good = np.zeros(len(sums.length), np.uint8)
        if self.columns.condition:
            marks = dict(zip(CONDITIONS, conditions, strict=True))
        elif minute.o2 is not None:
            marks = {"stopped": minute.o2.known & ~minute.burning}
        else:
            marks = {}
        if self.columns.flags:
            marks |= dict(zip(FLAGS, minute.flags(), strict=True))
        for name, mask in marks.items():
            sums.set(place[f"{name}_min"], mask.astype(np.float64), good)
