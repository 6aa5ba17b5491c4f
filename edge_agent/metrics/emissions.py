"""Emissions of a stack by HJ 75, HJ 76 and HJ 212: what a plant configures, and its operators.

Which formula stands where: ``flue_gas`` the formulas, ``stack_readings`` minute means,
``stack_minutes`` the minute, ``stack_levels`` hours, days, months and years with their rules of
validity, ``stack_hours`` limits and substitution, ``substitution`` its rule. The whole for a
reader who checks figures: ``docs/metrics/emissions.md``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from edge_agent.errors import ConfigError
from edge_agent.metrics import flue_gas
from edge_agent.metrics.base import Limit, Metric, MetricConfig, Plant, Reference, Window
from edge_agent.metrics.join import Inputs, Reading
from edge_agent.metrics.judged import Limits, refuse_two
from edge_agent.metrics.rollup import Chained, Rolling, RollUp
from edge_agent.metrics.stack_hours import Hours, Judged
from edge_agent.metrics.stack_levels import (
    CONDITIONS,
    Columns,
    DayLevel,
    HourLevel,
    MonthLevel,
    YearLevel,
)
from edge_agent.metrics.stack_minutes import Analyser, Gas, Quantity, StackMinutes, States, Term
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Kind
from edge_agent.units import Unit

GASES = ("so2", "nox", "pm", "co", "nh3", "hcl", "hf", "hg")
_READ = (*GASES, "no", "no2")
_SOURCE: Mapping[Window, Window] = {
    "15min": "1min",
    "shift": "1min",
    "1h": "1min",
    "1d": "1h",
    "1mo": "1d",
    "1a": "1mo",
    "12mo": "1mo",
}

_NEEDS = {
    "wet": ("humidity",),
    "actual": ("temperature", "pressure"),
    "velocity": ("duct_area", "temperature", "pressure", "humidity"),
}

Fault = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True, kw_only=True)
class ConditionConfig:
    """How the plant tells in which condition it runs; a number in none of the lists is no mark."""

    tag: str
    running: tuple[int, ...] = ()
    start_up: tuple[int, ...] = ()
    shut_down: tuple[int, ...] = ()
    stopped: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EmissionsConfig(MetricConfig):
    """Emissions of a stack from its analyser.

    no, no2       instead of nox: nitrogen monoxide and dioxide; without no2, NO alone
    o2_reference  reference oxygen content of the standard, %; without, values are not corrected
    excess_air    instead of o2_reference: the excess-air coefficient of the standard
    o2_limit      % O2 from which on nothing burns: such minutes are neither corrected nor valid
    wet           measured in wet gas: all, or the names of some, ``o2`` among them
    actual        measured in mg/m3 at the duct's temperature and pressure: all, or some
    temperature, pressure, humidity  of the duct; pressure is the gauge pressure
    atmosphere    kPa, or a tag
    flow          dry standard flow, Nm3/h
    velocity      instead of flow, with duct_area (m2) and velocity_factor (Kv)
    condition     production marks
    output        counter of the product's mass
    limits        which limits of ``configs/limits`` the values are judged by
    """

    kind: ClassVar[str] = "emissions"

    so2: str | None = None
    nox: str | None = None
    no: str | None = None
    no2: str | None = None
    pm: str | None = None
    co: str | None = None
    nh3: str | None = None
    hcl: str | None = None
    hf: str | None = None
    hg: str | None = None
    o2: str | None = None
    o2_reference: float | None = None
    excess_air: float | None = None
    o2_limit: float = 19.0
    wet: bool | tuple[str, ...] = False
    actual: bool | tuple[str, ...] = False
    temperature: str | None = None
    pressure: str | None = None
    atmosphere: float | str = 101.325
    humidity: str | None = None
    flow: str | None = None
    velocity: str | None = None
    velocity_factor: float = 1.0
    duct_area: float | None = None
    condition: ConditionConfig | None = None
    output: str | None = None
    limits: str | None = None

    # what is asked of the plant ------------------------------------------------------------------

    def references(self) -> list[Reference]:
        gas = ("mg/m3", "ppm")
        units = dict.fromkeys(_READ, gas) | {"pm": ("mg/m3",), "hg": ("mg/m3",)}
        units |= {"o2": ("%",), "flow": ("Nm3/h",), "velocity": ("m/s",), "humidity": ("%",)}
        units |= {"temperature": ("Cel",), "pressure": ("Pa",), "atmosphere": ("Pa",)}
        found = []
        for name, unit in units.items():
            tag = getattr(self, name)
            if isinstance(tag, str):
                wanted = unit[0] if len(unit) == 1 else unit
                found.append(Reference((name,), tag, Kind.GAUGE, wanted))
        if self.condition is not None:
            found.append(Reference(("condition", "tag"), self.condition.tag, Kind.STATE))
        if self.output is not None:
            found.append(Reference(("output",), self.output, Kind.COUNTER, "t"))
        return found

    def faults(self) -> list[Fault]:
        return [*self._gas_faults(), *self._oxygen_faults(), *self._state_faults()]

    def _gas_faults(self) -> Iterator[Fault]:
        if not self._gases():
            yield (), f"needs at least one of {', '.join(_READ[:-1])}"
        if self.nox is not None and (self.no is not None or self.no2 is not None):
            yield ("nox",), "is made of no and no2, which are given as well: write one or the other"
        elif self.no2 is not None and self.no is None:
            yield ("no2",), "needs no beside it: NOx is NO and NO2"
        yield from self._condition_faults()

    def _condition_faults(self) -> Iterator[Fault]:
        given = self.condition
        if given is not None and not any(getattr(given, name) for name in CONDITIONS):
            yield ("condition",), f"names no number: write {': [1], '.join(CONDITIONS)}: [4]"
        seen: dict[int, str] = {}
        for name in CONDITIONS if self.condition is not None else ():
            for i, number in enumerate(getattr(self.condition, name)):
                if number in seen:
                    message = f"{number} is {seen[number]} already: a number has one meaning"
                    yield ("condition", name, i), message
                seen.setdefault(number, name)

    def _oxygen_faults(self) -> Iterator[Fault]:
        if self.o2_reference is not None and not 0 <= self.o2_reference < flue_gas.AMBIENT:
            yield ("o2_reference",), "must be 0 or more and below 21 (percent)"
        if self.excess_air is not None and self.excess_air < 1:
            yield ("excess_air",), "must be 1 or more: air that is used, by the air that is needed"
        if not 0 < self.o2_limit < flue_gas.AMBIENT:
            yield ("o2_limit",), "must be above 0 and below 21 (percent)"
        if self.o2_reference is not None and self.excess_air is not None:
            yield ("excess_air",), "o2_reference is given as well: a standard has one or the other"
        for name in ("o2_reference", "excess_air"):
            if getattr(self, name) is not None and self.o2 is None:
                yield (name,), "needs o2: the tag of the oxygen content"

    def _state_faults(self) -> Iterator[Fault]:
        known = (*self._gases(), "o2")
        for name in ("wet", "actual"):
            given = getattr(self, name)
            for i, gas in enumerate(given if isinstance(given, tuple) else ()):
                if gas not in known:
                    yield (name, i), f'"{gas}" is not measured here: name {", ".join(known)}'
        for name, others in _NEEDS.items():
            missing = [other for other in others if getattr(self, other) is None]
            if getattr(self, name) and missing:
                yield (name,), f"needs {' and '.join(missing)} beside it"
        if self.flow is not None and self.velocity is not None:
            yield ("velocity",), "flow is given as well: write one or the other"
        yield from self._duct_faults()

    def _duct_faults(self) -> Iterator[Fault]:
        if not isinstance(self.atmosphere, str) and not 30 <= self.atmosphere <= 120:
            yield ("atmosphere",), "must be the pressure of the air in kPa, as 101.325"
        if self.velocity_factor <= 0:
            yield ("velocity_factor",), "must be above 0: mean velocity over that at the point"
        if self.duct_area is not None and self.duct_area <= 0:
            yield ("duct_area",), "must be above 0 (m2)"
        if self.output is not None and self.flow is None and self.velocity is None:
            yield ("output",), "needs flow or velocity: without there is no mass"

    # what it is made of --------------------------------------------------------------------------

    def build(self, name: str, plant: Plant) -> list[Metric]:
        if "shift" in self.windows and not plant.shifts:
            raise ConfigError([f"metrics.{name}.windows: shift needs shifts.calendar"])
        inputs = Inputs(plant)
        analyser = self._analyser(inputs)
        limits = self._limits(plant)
        gases = tuple(gas.name for gas in analyser.gases)
        columns = Columns(
            gases,
            o2=analyser.o2 is not None,
            flow=analyser.flow is not None or analyser.velocity is not None,
            condition=analyser.condition is not None,
            flags=bool(analyser.flags),
            output=analyser.output is not None,
            hourly=_judged(gases, limits, "1h"),
            daily=_judged(gases, limits, "24h"),
        )
        minutes = StackMinutes(columns, plant.quality, analyser=analyser)
        return [*_Chain(name, plant, inputs, minutes, limits).metrics(self.windows)]

    def _gases(self) -> tuple[str, ...]:
        given = {gas for gas in GASES if getattr(self, gas) is not None}
        return tuple(gas for gas in GASES if gas in given or (gas == "nox" and self.no is not None))

    def _limits(self, plant: Plant) -> tuple[Limit, ...]:
        """Return the limits of the gases measured; they must be for the same reference oxygen."""
        if self.limits is None:
            return ()
        rows, gases = plant.limits(self.limits), self._gases()
        used = tuple(
            row for row in rows if row.pollutant in gases and row.averaging in {"1h", "24h"}
        )
        if not used:
            said = f"has no hourly or daily limit of {', '.join(gases)}"
            raise ValueError(f'limits "{self.limits}" {said}')
        refuse_two(self.limits, used)
        for row in used:
            if row.o2_reference is not None and row.o2_reference != self.o2_reference:
                raise ValueError(
                    f"the limit {row.id} is for {row.o2_reference:g} % O2, but o2_reference is "
                    f"{'not given' if self.o2_reference is None else f'{self.o2_reference:g}'}: "
                    "write the same, or name another limit"
                )
        return used

    def _analyser(self, inputs: Inputs) -> Analyser:
        def quantity(tag: str | None, unit: str) -> Quantity | None:
            if tag is None:
                return None
            reading = inputs.raw(tag)
            return Quantity(reading, reading.unit.factor_to(Unit.parse(unit)))

        humidity = quantity(self.humidity, "1")
        temperature = None if self.temperature is None else Quantity(inputs.raw(self.temperature))
        pressure = quantity(self.pressure, "Pa") or Quantity(None, 0.0)
        air = self.atmosphere
        told = quantity(air, "Pa") if isinstance(air, str) else Quantity(None, 1e3 * air)
        output = None
        if self.output is not None:
            counter = inputs.increment(self.output)
            output = (counter, counter.unit.factor_to(Unit.parse("t")))
        condition = None
        if self.condition is not None:
            states = tuple(getattr(self.condition, name) for name in CONDITIONS)
            condition = (inputs.raw(self.condition.tag), states)
        return Analyser(
            tuple(self._gas(gas, inputs) for gas in self._gases()),
            quantity(self.o2, "%"),
            self._is("wet", "o2"),
            self.o2_limit,
            self.o2_reference,
            self.excess_air,
            temperature,
            pressure,
            told or Quantity(None, flue_gas.PASCAL),
            humidity,
            quantity(self.flow, "Nm3/h"),
            quantity(self.velocity, "m/s"),
            self.duct_area or 0.0,
            self.velocity_factor,
            condition,
            tuple(self._flags(inputs)),
            output,
        )

    def _gas(self, name: str, inputs: Inputs) -> Gas:
        tags = {name: getattr(self, name)}
        if name == "nox" and self.no is not None:
            tags = {"no": self.no, "no2": self.no2}
        terms = []
        for part, tag in tags.items():
            if tag is None:
                continue
            reading = inputs.raw(tag)
            concentration, ratio = Unit.parse("mg/m3"), Unit.parse("[ppm]")
            if reading.unit.code == "1":
                raise ValueError(f'"{tag}" has no unit, must be mg/m3 or ppm')
            by_volume = reading.unit.dimension == ratio.dimension
            factor = reading.unit.factor_to(ratio if by_volume else concentration)
            factor *= flue_gas.ppm_factor(part) if by_volume else 1.0
            factor *= flue_gas.NO_AS_NO2 if part == "no" else 1.0
            terms.append(Term(reading, factor, self._is("actual", name) and not by_volume))
        return Gas(name, tuple(terms), self._is("wet", name))

    def _is(self, option: str, gas: str) -> bool:
        given = getattr(self, option)
        return gas in given if isinstance(given, tuple) else bool(given)

    def _flags(self, inputs: Inputs) -> Iterator[tuple[Reading, States]]:
        """Yield the flags of the instruments that measure gases and oxygen, each once."""
        tags = [getattr(self, name) for name in (*_READ, "o2")]
        flags = [inputs.plant.flag(tag) for tag in tags if tag is not None]
        for flag in dict.fromkeys(flag for flag in flags if flag is not None):
            states = flag.normal, flag.fault, flag.maintenance, flag.calibration
            yield inputs.raw(flag.tag), states


def _judged(gases: Sequence[str], limits: Sequence[Limit], averaging: str) -> tuple[str, ...]:
    said = {row.pollutant for row in limits if row.averaging == averaging}
    return tuple(gas for gas in gases if gas in said)


class _Chain:
    """Builds the windows of a stack, each from the next shorter one of ``_SOURCE``."""

    def __init__(
        self,
        name: str,
        plant: Plant,
        inputs: Inputs,
        minutes: StackMinutes,
        limits: Sequence[Limit],
    ) -> None:
        self._name, self._inputs, self._minutes = name, inputs, minutes
        self._limits, self._zone = limits, plant.site.zone
        self._calendar = Calendar(plant.site.zone, plant.shifts)
        self._sources = tuple(row.source for row in limits)
        self._plain = plant.provenance(())
        self._made = plant.provenance(self._sources)
        self._level = (minutes.columns, minutes.limits, self._sources)

    def metrics(self, windows: Sequence[Window]) -> Iterator[Metric]:
        """Yield the operators of the windows, those behind windows that are not published too."""
        for window in windows:
            yield self._metric(window, windows)

    def _metric(self, window: Window, published: Sequence[Window]) -> Metric:
        if window == "1min":
            return self._inputs.minutes(self._name, self._minutes)
        source = _SOURCE[window]
        own = self._rollup(window, source)
        return own if source in published else Chained(self._metric(source, published), own)

    def _rollup(self, window: Window, source: Window) -> RollUp:
        name, calendar, made = self._name, self._calendar, self._made
        if window == "1h":
            hours, level = Limits(self._limits, "1h", "mg/m3", self._zone), HourLevel(*self._level)
            return Hours(name, level, calendar, hours, self._zone, provenance=made)
        if window == "1d":
            means = Limits(self._limits, "24h", "mg/m3", self._zone)
            return Judged(
                name,
                DayLevel(*self._level),
                calendar,
                means,
                window=window,
                source=source,
                provenance=made,
            )
        if window == "12mo":
            return Rolling(name, YearLevel(*self._level), calendar, source=source, provenance=made)
        if window in {"1mo", "1a"}:
            longer = MonthLevel if window == "1mo" else YearLevel
            return RollUp(
                name, longer(*self._level), window, calendar, source=source, provenance=made
            )
        plain = self._minutes
        return RollUp(name, plain, window, calendar, source=source, provenance=self._plain)
