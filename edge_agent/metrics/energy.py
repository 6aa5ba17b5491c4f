"""Energy of a boundary: its configuration, and how the formula of ``boundary.py`` is made of it.

See ``docs/metrics/energy.md`` for what the figures mean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from edge_agent.metrics.base import Metric, MetricConfig, Plant, Reference
from edge_agent.metrics.boundary import GJ, KGCE, TCO2, Boundary, Carrier, Worth
from edge_agent.metrics.carriers import (
    Term,
    amount_grid,
    co2_terms,
    dated,
    gaps,
    heating_value,
    measured,
    tabled,
)
from edge_agent.metrics.flows import Flow, meters, steam_of
from edge_agent.metrics.join import Inputs
from edge_agent.metrics.per_unit import TONNE, Divisor, Nobody, Quantity
from edge_agent.metrics.steam import Phase
from edge_agent.model import Kind, Tag
from edge_agent.units import Unit

__all__ = ["CarrierInput", "Co2", "EnergyConfig", "Quantity", "amount_grid", "heating_value"]

Basis = Literal["equivalent", "equal-value"]
Path = tuple[str | int, ...]
ELECTRICITY, HEAT, PURCHASED_HEAT, NONE = "electricity", "heat", "purchased-heat", "none"
_DIRECTIONS = ("inputs", "returned", "produced")
_TAKEN = ("output", "output_t", "intensity", "coverage", "estimated", "quality")
_WORTH = ("code", "standard", "basis", "lhv", "co2")  # said once for a carrier


@dataclass(frozen=True, kw_only=True)
class CarrierInput:
    """The meters of one carrier in one direction, and what the carrier is worth.

    tags         counters, or gauges of a rate, which are integrated
    code         its name in the tables, if it is not the carrier's
    standard     whose coefficients count, if they are not the boundary's; basis: likewise
    lhv          measured lower heating value ``23.1 MJ/kg``, or one for each date from which on
    energy       false: counted, but no energy (water, a raw material)
    co2          its code among the CO2 factors; ``none``: it is not counted
    non_fossil   share that is not fossil, 0 to 1; of what is returned it is taken off
    added        own production: added to what comes in, because the inputs are metered where they
                 enter; false for what their meters see already, or what is made of counted energy
    pressure, temperature  gauges of steam or hot water, which is worth its heat; no temperature:
                 saturated
    phase        steam or water
    gauge        whether the pressure is that above the atmosphere's
    atmosphere   kPa
    feed_water   enthalpy of the feed water, which does not count, kJ/kg
    """

    tags: tuple[str, ...]
    code: str | None = None
    standard: str | None = None
    basis: Basis | None = None
    lhv: str | Mapping[str, str] | None = None
    energy: bool = True
    co2: str | None = None
    non_fossil: float = 0.0
    added: bool = False
    pressure: str | None = None
    temperature: str | None = None
    phase: Phase = "steam"
    gauge: bool = True
    atmosphere: float = 101.325
    feed_water: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Co2:
    """Which CO2 factors count; never those of two families.

    family         of the fuels: steel, cement-kiln, sector-unstated …
    electricity    the grid: cn-shandong, cn-north, cn-national …; variant: average, fossil …
    data_year      year of the grid factor's data; published: the newest known on each day; same:
                   the year of the day itself
    heat           whose factor of purchased heat counts
    heating_value  family, or measured where a heating value is
    """

    family: str
    electricity: str = "cn-national"
    variant: str = "average"
    data_year: int | Literal["published", "same"] = "published"
    heat: str = "default"
    heating_value: Literal["family", "measured"] = "family"


@dataclass(frozen=True, kw_only=True)
class EnergyConfig(MetricConfig):
    """Energy of a boundary, by carrier, as standard coal and per unit of output.

    standard      whose coefficients count; without its year: that of each day's edition
    basis         coefficients by energy content (当量), or by what the carrier takes to make (等价)
    output        what is made: a counter or rate, or a converted quantity
    denominators  what energy is divided by besides: output value, area
    specific      carriers whose amount is divided by all of these, too: kWh/t, m3/t
    returned      what leaves the boundary again and is deducted
    produced      what is made inside, shown apart; not in the total unless it is ``added``
    """

    kind: ClassVar[str] = "energy"

    scope: Literal["plant", "process", "unit", "equipment"] = "process"
    product: str | None = None
    standard: str = "GB/T 2589"
    basis: Basis = "equivalent"
    output: str | Quantity | None = None
    denominators: Mapping[str, Quantity] = field(default_factory=dict)
    specific: tuple[str, ...] = ()
    inputs: Mapping[str, CarrierInput | tuple[str, ...]]
    returned: Mapping[str, CarrierInput | tuple[str, ...]] = field(default_factory=dict)
    produced: Mapping[str, CarrierInput | tuple[str, ...]] = field(default_factory=dict)
    co2: Co2 | None = None

    @property
    def carriers(self) -> tuple[str, ...]:
        """Their names, those that come in first."""
        return tuple(dict.fromkeys((*self.inputs, *self.returned, *self.produced)))

    def given(self, carrier: str) -> dict[str, CarrierInput]:
        """Return what stands about a carrier by direction, those it has."""
        found = {}
        for direction in _DIRECTIONS:
            if carrier in getattr(self, direction):
                entry = getattr(self, direction)[carrier]
                found[direction] = (
                    entry if isinstance(entry, CarrierInput) else CarrierInput(tags=entry)
                )
        return found

    def main(self, carrier: str) -> CarrierInput:
        """Return the entry that says what a carrier is worth: the first of its directions."""
        return next(iter(self.given(carrier).values()))

    # ---- what it refers to, and what is wrong -------------------------------------------------

    def references(self) -> list[Reference]:
        found = []
        for direction in _DIRECTIONS:
            for carrier, entry in getattr(self, direction).items():
                here: Path = (direction, carrier)
                below = (*here, "tags") if isinstance(entry, CarrierInput) else here
                tags = entry.tags if isinstance(entry, CarrierInput) else entry
                found += [Reference((*below, i), tag) for i, tag in enumerate(tags)]
                if isinstance(entry, CarrierInput) and entry.pressure is not None:
                    path = (*here, "pressure")
                    found.append(Reference(path, entry.pressure, Kind.GAUGE, "MPa"))
                if isinstance(entry, CarrierInput) and entry.temperature is not None:
                    found.append(Reference((*here, "temperature"), entry.temperature, Kind.GAUGE))
        if isinstance(self.output, str):
            found.append(Reference(("output",), self.output))
        for path, quantity in self._quantities():
            tags = enumerate(quantity.tags)
            found += [Reference((*path, "tags", i), tag) for i, tag in tags]
        return found

    def _quantities(self) -> Iterator[tuple[Path, Quantity]]:
        if isinstance(self.output, Quantity):
            yield ("output",), self.output
        for name, quantity in self.denominators.items():
            yield ("denominators", name), quantity

    def faults(self) -> list[tuple[Path, str]]:
        found: list[tuple[Path, str]] = []
        if not self.inputs:
            found.append((("inputs",), "needs at least one carrier"))
        for carrier in self.carriers:
            found += self._carrier_faults(carrier)
        for path, quantity in self._quantities():
            found += [(path, message) for message in quantity.faults()]
        if isinstance(self.output, Quantity) and not self.output.tags:
            found.append((("output",), "needs tags: only a denominator may be monthly or constant"))
        for name in self.denominators:
            if name in {*self.carriers, *_TAKEN}:
                found.append((("denominators", name), f'there is a column "{name}" already'))
        for i, carrier in enumerate(self.specific):
            if carrier not in self.carriers:
                known = ", ".join(self.carriers)
                found.append((("specific", i), f'"{carrier}" is no carrier of this: {known}'))
        return found

    def _carrier_faults(self, carrier: str) -> Iterator[tuple[Path, str]]:
        given = self.given(carrier)
        first, main = next(iter(given.items()))
        for direction, entry in given.items():
            for key, message in _entry_faults(entry, produced=direction == "produced"):
                yield (direction, carrier, *key), message
            if (entry.pressure is None) != (main.pressure is None):
                message = "needs pressure as well, or nowhere: steam is worth its heat"
                yield (direction, carrier), message
            for name in _WORTH if entry is not main else ():
                if getattr(entry, name) is not None:
                    message = f"is said once, where the carrier stands in {first}"
                    yield (direction, carrier, name), message
        if main.lhv is not None:
            here = (first, carrier, "lhv")
            if main.pressure is not None:
                yield here, "steam is worth its heat: it has no heating value"
            try:
                measured(carrier, main.lhv)
            except ValueError as error:
                yield here, f"{error} (write 23.1 MJ/kg, or {{2026-01-01: 23.1 MJ/kg}})"

    # ---- what it is made into -----------------------------------------------------------------

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        carriers = tuple(self._carrier(carrier, inputs) for carrier in self.carriers)
        others = tuple(q.build(key, inputs) for key, q in self.denominators.items())
        output = self._output(inputs)
        formula = Boundary(carriers, output, others, self.specific, plant.quality)
        return inputs.metrics(name, formula, self.windows)

    def remarks(self, plant: Plant) -> list[str]:
        found, rows = list[str](), list[str]()
        for carrier in self.carriers:
            main = self.main(carrier)
            terms = self._terms(carrier, plant)[1] if main.energy else ()
            missing = gaps(terms) if terms else []
            if main.lhv is None:  # nobody asks for what was before a table's first edition
                missing = [when for when in missing if not when.startswith("before")]
            found += [f"{carrier}: no coefficient is in force {when}" for when in missing]
            rows += [term.source for term in (*terms, *self._co2(carrier, plant))]
        unapproved = dict.fromkeys(row for row in rows if row.endswith(":unapproved"))
        if unapproved:
            found.append(f"rests on rows that nobody has approved: {', '.join(unapproved)}")
        return found

    def _output(self, inputs: Inputs) -> Divisor:
        if self.output is None:
            return Nobody(Tag("output_t", TONNE))
        given = self.output
        quantity = Quantity(tags=(given,)) if isinstance(given, str) else given
        made = quantity.build("output", inputs)
        return quantity.build("output_t", inputs) if made.tag.unit is TONNE else made

    def _carrier(self, name: str, inputs: Inputs) -> Carrier:
        given, main = self.given(name), self.main(name)
        plant, zone = inputs.plant, inputs.plant.site.zone
        unit, terms = self._terms(name, plant) if main.energy else (None, ())
        if unit is None:
            unit = inputs.amount(main.tags[0]).unit
        counted = TONNE if main.pressure is not None else unit
        flows = {way: _flow(entry, counted, inputs) for way, entry in given.items()}
        worth: list[Worth] = []
        if terms:
            coal, heat = dated(terms, zone)
            every = list(flows.values())
            worth = [
                Worth.of("_kgce", KGCE, coal, every),
                Worth.of("_gj", GJ, heat, every),
            ]
        emitted = self._co2(name, plant)
        if emitted:
            (tonnes,) = dated(emitted, zone)
            worth.append(Worth.of("_tco2", TCO2, tonnes, list(flows.values())))
        produced = given.get("produced")
        shares = {way: given[way].non_fossil if way in given else 0.0 for way in _DIRECTIONS}
        return Carrier(
            name,
            counted,
            flows.get("inputs"),
            flows.get("returned"),
            flows.get("produced"),
            produced is not None and produced.added,
            tuple(worth),
            (shares["inputs"], shares["produced"], shares["returned"]),
            tuple(term.source for term in (*terms, *emitted)),
        )

    def _terms(self, carrier: str, plant: Plant) -> tuple[Unit, tuple[Term, ...]]:
        """Return the unit that a carrier is worth by, and its terms (kgce, GJ)."""
        main = self.main(carrier)
        if main.lhv is not None:
            return measured(carrier, main.lhv)
        code = main.code or (HEAT if main.pressure is not None else carrier)
        basis, standard = main.basis or self.basis, main.standard or self.standard
        unit, terms = tabled(plant.coefficients(code, basis, standard))
        if main.pressure is None:
            return unit, terms
        scale = Unit.parse("MJ").factor_to(unit)
        heat = [Term(t.since, t.until, _scaled(t.values, scale), t.source) for t in terms]
        return Unit.parse("MJ"), tuple(heat)

    def _co2(self, carrier: str, plant: Plant) -> tuple[Term, ...]:
        """Return the terms (tCO2 per unit) of a carrier; none when they are not wanted."""
        main = self.main(carrier)
        if self.co2 is None or main.co2 == NONE or not main.energy:
            return ()
        unit, terms = self._terms(carrier, plant)
        code = main.co2 or main.code or carrier
        year: int | str = "published"
        try:
            if code == ELECTRICITY:
                rows = plant.co2_factors(self.co2.electricity, self.co2.variant)
                year = self.co2.data_year
            elif main.pressure is not None or code == HEAT:
                rows = plant.co2_factors(main.co2 or PURCHASED_HEAT, self.co2.heat)
            else:
                rows = plant.co2_factors(code, self.co2.family)
        except KeyError as error:
            advice = "write co2: CODE beside its tags, or co2: none"
            raise KeyError(f"{carrier}: {error.args[0]}; {advice}") from error
        own = main.lhv is not None and self.co2.heating_value == "measured"
        try:
            return co2_terms(rows, unit, year, terms if own else ())
        except ValueError as error:
            raise ValueError(f"{carrier}: its CO2 factor does not fit: {error}") from error


def _entry_faults(entry: CarrierInput, *, produced: bool) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with one entry by itself."""
    if not entry.tags:
        yield (), "needs at least one meter"
    if not 0 <= entry.non_fossil <= 1:
        yield ("non_fossil",), "must be a share, 0 to 1"
    if entry.added and not produced:
        yield ("added",), "only own production (produced) is added"
    if entry.temperature is not None and entry.pressure is None:
        yield ("temperature",), "needs the pressure, too"


def _flow(entry: CarrierInput, unit: Unit, inputs: Inputs) -> Flow:
    """Return the meters of one direction, and the state of the steam that goes through them."""
    found = meters(entry.tags, unit, inputs)
    if entry.pressure is None:
        return Flow(found)
    steam = steam_of(
        entry.pressure,
        entry.temperature,
        inputs,
        phase=entry.phase,
        atmosphere=entry.atmosphere / 1e3 if entry.gauge else 0.0,
        base=entry.feed_water,
    )
    return Flow(found, steam)


def _scaled(values: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(value * factor for value in values)
