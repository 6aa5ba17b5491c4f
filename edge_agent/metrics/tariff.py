"""Electricity by time-of-use band, its cost, power factor and monthly bill.

Each minute lies in one band of the local clock, so increments are split exactly at the bands'
edges, whatever the zone does; the bands add up to the total. ``cost = W · k · p_floating + W ·
(p_fixed + p_funds)`` by the minute, with the band's coefficient k and the prices of the day.
``cos φ = Wp / sqrt(Wp² + Wq²)`` of the window's energies, reactive forward + |reverse|.

Basic charge and power factor adjustment are of a month: ``cost_demand`` is in the rows of ``1mo``
only, and years add up the months' bills.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import (
    MINUTE,
    Metric,
    MetricConfig,
    Plant,
    QualityLimits,
    Reference,
    Window,
)
from edge_agent.metrics.demand import (
    Amount,
    Method,
    Steps,
    contract_of,
    paths_of,
    quantity,
    quantity_faults,
    summed,
    tags_of,
)
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import SHARES, Formula, Sums, merged, ratio
from edge_agent.metrics.join import Inputs
from edge_agent.metrics.power import power_factor
from edge_agent.metrics.prices import Basic, PriceList, Prices, faults_of
from edge_agent.metrics.quarters import HOUR, DemandFormula, Demands, Loads, QuarterMinutes
from edge_agent.metrics.rollup import Chained
from edge_agent.metrics.tariff_tables import BANDS, Adjustment, TimeOfUse, local_minutes
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

COLUMNS = (*(f"{band.replace('-', '_')}_kwh" for band in BANDS), "unscheduled_kwh")
COSTS = ("cost_floating", "cost_fixed", "cost_funds")
GRID = 2.0**-26  # CNY: sums are exact up to 134 million
_NOT = np.uint8(Quality.BAD_NOT_AVAILABLE)
_BAD = int(Quality.BAD)  # an enum's look-up costs 1 µs

Cells = dict[str, tuple[F64, U8]]


@dataclass(frozen=True)
class Tariff(DemandFormula):
    """The formula of windows up to a month: energies and costs by the minute are additive.

    monthly  it is that of months, whose bill has a basic charge
    """

    energy: tuple[Amount, ...]
    reactive: tuple[Amount, ...]
    table: TimeOfUse
    zone: ZoneInfo
    prices: PriceList | None
    adjustment: Adjustment | None
    basic: Basic | None
    limits: QualityLimits
    monthly: bool = False

    @property
    def family(self) -> Family:
        return Family.TARIFF

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        kwh, one, cny = Unit.parse("kWh"), Unit.parse("1"), Unit.parse("CNY")
        found = [Tag(name, kwh) for name in (*COLUMNS, "energy_kwh")]
        if self.reactive:
            found += [Tag("reactive_kvarh", Unit.parse("kvarh")), Tag("power_factor", one)]
        if self.adjustment is not None:
            found.append(Tag("adjustment", one))
        if self.prices is not None:
            found += [Tag(name, cny) for name in COSTS]
            if self.basic is not None:
                per = "CNY/kVA" if self.basic.capacity is not None else "CNY/kW"
                found += [
                    Tag("demand_max_kw", Unit.parse("kW")),
                    Tag("basic_price", Unit.parse(per)),
                ]
                found.append(Tag("cost_demand", cny))
            if self.adjustment is not None:
                found.append(Tag("cost_adjustment", cny))
            found += [Tag("cost_total", cny), Tag("price_mean", Unit.parse("CNY/kWh"))]
        return (*found, *SHARES)

    @cached_property
    def additive(self) -> tuple[str, ...]:
        found = [*COLUMNS]
        found += ["reactive_kvarh"] if self.reactive else []
        found += COSTS if self.prices is not None else ()
        return (*found, *(("demand_max_kw", "basic_price") if self.basic is not None else ()))

    @property
    def peaks(self) -> NDArray[np.bool_]:
        return np.isin(self.additive, ("demand_max_kw", "basic_price"))

    @property
    def sources(self) -> tuple[str, ...]:
        found = [*self.table.ids]
        found += [self.adjustment.id] if self.adjustment is not None else []
        if self.basic is not None and self.basic.contract is not None:
            rule = self.basic.contract.rule
            found += [rule.id] if rule is not None else []
        return tuple(found)

    # base slots ----------------------------------------------------------------------------------

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        sums = Sums.zeros(len(self.additive), len(ends))
        energy, quality, covered, estimated = summed(self.energy, Unit.parse("kWh"), ends, rows)
        local = local_minutes(self.zone, ends - MINUTE)
        row = self.table.row_of(local)
        self._split(sums, row, energy, quality)
        column = len(COLUMNS)
        if self.reactive:
            kvarh = Unit.parse("kvarh")
            amount, mark, full, guessed = summed(self.reactive, kvarh, ends, rows)
            sums.set(column, amount, mark)
            covered, estimated = np.minimum(covered, full), np.maximum(estimated, guessed)
            column += 1
        if self.prices is not None:
            self._costs(sums, column, (local // 1440, row), (energy, quality))
        sums.covered, sums.estimated = covered, np.minimum(estimated, MINUTE - covered)
        return sums

    def _split(self, sums: Sums, row: I64, energy: F64, quality: U8) -> None:
        """Put the energy of each minute into its band."""
        bands = len(COLUMNS)
        here = np.where(row < 0, bands - 1, self.table.bands[row]) == np.arange(bands)[:, None]
        known = quality < _BAD
        sums.total[:bands] = np.where(here & known, energy, 0.0)
        sums.known[:bands] = known
        # in the other bands there is nothing, if anything is known
        sums.worst[:bands] = np.where(here | ~known, quality, 0)

    def _costs(self, sums: Sums, column: int, when: tuple[I64, I64], load: tuple[F64, U8]) -> None:
        """Set the costs of each minute; when: local day and row of the table."""
        prices, (days, row), (energy, quality) = self.prices, when, load
        if prices is None:
            return
        at = prices.at(days)
        coefficient = np.where(row < 0, np.nan, self.table.coefficients[row])
        floating = prices.floating[at]
        floating = np.where(floating == 0.0, 0.0, floating * coefficient)
        for i, price in enumerate((floating, prices.fixed[at], prices.funds[at])):
            known = (at >= 0) & np.isfinite(price)
            cost = np.rint(energy * np.where(known, price, 0.0) / GRID) * GRID
            mark = np.where(known, quality, np.maximum(quality, _NOT)).astype(np.uint8)
            sums.set(column + i, cost, mark)
        if self.basic is not None:
            basic = prices.basic[at]
            known = (at >= 0) & np.isfinite(basic)
            sums.set(column + 4, basic, np.where(known, 0, _NOT).astype(np.uint8))

    def loads(self, sums: Sums, passed: I64) -> Loads:
        energy, known = sums.total[: len(COLUMNS)].sum(axis=0), sums.known[0] * passed
        quality: U8 = sums.worst[: len(COLUMNS)].max(axis=0)
        power = np.divide(energy, known / HOUR, out=np.zeros(len(known)), where=known > 0)
        return Loads(energy, known, quality, power, quality, counted=True)

    def place(self, sums: Sums, found: Demands) -> None:
        if self.basic is not None:
            chosen = found.sliding if self.basic.method == "sliding" else found.fixed
            sums.set(len(self.additive) - 2, *chosen)

    # rows ----------------------------------------------------------------------------------------

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        cells = summed_cells(self, sums)
        if self.adjustment is not None:
            factor, mark = cells["power_factor"]
            cells["adjustment"] = self.adjustment.share(factor), mark
        if self.basic is not None:
            (demand, q), (price, p) = cells["demand_max_kw"], cells["basic_price"]
            mark = np.maximum(q, p) if self.monthly else np.full(q.shape, _NOT)
            cells["cost_demand"] = self.basic.cost(demand, price), mark
        if self.prices is not None:
            self._bill(cells)
        return stacked(self, cells)

    def _bill(self, cells: Cells) -> None:
        """Add the adjustment, the total and the mean price."""
        floating, fixed, funds = (cells[name] for name in COSTS)
        adjustable, mark = floating[0] + fixed[0], np.maximum(floating[1], fixed[1])
        if self.monthly and self.basic is not None:
            demand, q = cells["cost_demand"]
            adjustable, mark = adjustable + demand, np.maximum(mark, q)
        total, whole = adjustable + funds[0], np.maximum(mark, funds[1])
        if self.adjustment is not None:
            share, q = cells["adjustment"]
            cells["cost_adjustment"] = share * adjustable, np.maximum(mark, q).astype(np.uint8)
            total, whole = total + share * adjustable, np.maximum(whole, q)
        priced(cells, total, whole.astype(np.uint8))


@dataclass(frozen=True)
class Bills(Formula):
    """The formula of years: the bills of their months are added up."""

    tariff: Tariff

    @property
    def limits(self) -> QualityLimits:  # type: ignore[override]  # those of the months
        return self.tariff.limits

    @property
    def family(self) -> Family:
        return Family.TARIFF

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        return self.tariff.tags

    @cached_property
    def additive(self) -> tuple[str, ...]:
        derived = {tag.name for tag in self.tags} & {"cost_demand", "cost_adjustment"}
        return (*self.tariff.additive, *sorted(derived))

    @property
    def peaks(self) -> NDArray[np.bool_]:
        return np.isin(self.additive, ("demand_max_kw", "basic_price"))

    @property
    def sources(self) -> tuple[str, ...]:
        return self.tariff.sources

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        cells = summed_cells(self, sums)
        if self.tariff.adjustment is not None:
            factor, mark = cells["power_factor"]
            cells["adjustment"] = np.full(factor.shape, np.nan), np.maximum(mark, _NOT)
        if self.tariff.prices is not None:
            parts = [cells[n] for n in (*COSTS, "cost_demand", "cost_adjustment") if n in cells]
            total = np.sum([value for value, _ in parts], axis=0)
            priced(cells, total, np.max([mark for _, mark in parts], axis=0))
        return stacked(self, cells)


def summed_cells(formula: Formula, sums: Sums) -> Cells:
    """Return the additive columns, the total of the bands and the power factor."""
    quality = merged(sums, formula.limits)
    cells: Cells = {n: (sums.total[i], quality[i]) for i, n in enumerate(formula.additive)}
    bands = len(COLUMNS)
    energy = sums.total[:bands].sum(axis=0), quality[:bands].max(axis=0)
    cells["energy_kwh"] = energy
    if "reactive_kvarh" in cells:
        reactive, mark = cells["reactive_kvarh"]
        factor, mark = power_factor(energy[0], reactive), np.maximum(energy[1], mark)
        none = np.isnan(factor) & (mark < _BAD)
        cells["power_factor"] = factor, np.where(none, _NOT, mark).astype(np.uint8)
    return cells


def priced(cells: Cells, total: F64, quality: U8) -> None:
    """Add the total cost and the mean price."""
    energy, mark = cells["energy_kwh"]
    cells["cost_total"] = total, quality
    cells["price_mean"] = ratio(total, energy, np.maximum(quality, mark))


def stacked(formula: Formula, cells: Cells) -> tuple[F64, U8]:
    """Return value and quality of the columns in the order of the tags, (k - 2, n)."""
    columns = [cells[tag.name] for tag in formula.tags[:-2]]
    return np.stack([c[0] for c in columns]), np.stack([c[1] for c in columns]).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class TariffConfig(MetricConfig):
    """Electricity by time-of-use band, and what it costs.

    energy                 counters of the imported energy
    reactive_import, reactive_export  counters of reactive energy, forward and reverse
    table, user_class      which rows of ``configs/tariffs/<table>.csv``
    edition                one year's rows for all days; without, those valid on the day
    power_factor_standard  0.9, 0.85 or 0.8: rows of configs/tariffs/power_factor.csv
    prices                 dated prices
    billed                 basic charge by contract and rule, by the maximum, or by capacity
    contract, method, rule, transformer  as in ``demand``
    """

    kind: ClassVar[str] = "tariff"

    energy: str | tuple[str, ...]
    reactive_import: str | tuple[str, ...] | None = None
    reactive_export: str | tuple[str, ...] | None = None
    table: str = "tou_shandong"
    user_class: str = "tou"
    edition: str | None = None
    power_factor_standard: float | None = None
    prices: tuple[Prices, ...] = ()
    billed: Literal["contract", "maximum", "capacity"] = "contract"
    contract: str | None = None
    method: Method = "sliding"
    rule: str = "two-part"
    transformer: str | None = None
    windows: tuple[Window, ...] = ("1min", "1h", "1d", "1mo")

    def references(self) -> list[Reference]:
        wanted = (
            ("energy", self.energy, "kWh"),
            ("reactive_import", self.reactive_import, "kvarh"),
            ("reactive_export", self.reactive_export, "kvarh"),
        )
        return [
            Reference(path, tag, Kind.COUNTER, unit)
            for key, written, unit in wanted
            for path, tag in paths_of(key, written)
        ]

    def faults(self) -> list[tuple[Steps, str]]:
        found = faults_of(self.prices)
        found += quantity_faults("contract", self.contract, "kW")
        found += quantity_faults("transformer", self.transformer, "kVA")
        if not tags_of(self.energy):
            found.append((("energy",), "needs at least one counter"))
        if self.power_factor_standard is not None and self.reactive_import is None:
            message = "needs reactive_import (a counter of reactive energy)"
            found.append((("power_factor_standard",), message))
        if self._has_basic:
            key = {"contract": "contract", "capacity": "transformer"}.get(self.billed)
            if key is not None and getattr(self, key) is None:
                found.append((("billed",), f"by {self.billed} needs {key}"))
        else:
            needed = f"a basic price: {self._basic_price} among prices"
            for key in ("contract", "transformer"):
                if getattr(self, key) is not None:
                    found.append(((key,), f"is of no use without {needed}"))
        return found

    @property
    def _has_basic(self) -> bool:
        return any(getattr(price, self._basic_price) is not None for price in self.prices)

    @property
    def _basic_price(self) -> str:
        return "capacity" if self.billed == "capacity" else "demand"

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        standard = self.power_factor_standard
        reactive = (*tags_of(self.reactive_import), *tags_of(self.reactive_export))
        formula = Tariff(
            tuple(inputs.increment(tag) for tag in tags_of(self.energy)),
            tuple(inputs.increment(tag) for tag in reactive),
            plant.tariffs.time_of_use(self.table, self.user_class, self.edition),
            plant.site.zone,
            PriceList.of(self.prices, self._basic_price) if self.prices else None,
            None if standard is None else plant.tariffs.adjustment(standard),
            self._basic(plant) if self._has_basic else None,
            plant.quality,
        )
        kind = QuarterMinutes if formula.basic is not None else None
        months = replace(formula, monthly=True)
        short = [window for window in self.windows if window not in {"1mo", "1a", "12mo"}]
        made = inputs.metrics(name, formula, short, kind)

        def month() -> Metric:
            """Return the months' operator, behind the minutes if they are not published."""
            rollup = inputs.rollups(name, months, ["1mo"])[0]
            if "1min" in self.windows:
                return rollup
            return Chained(inputs.minutes(name, formula, kind), rollup)

        if "1mo" in self.windows:
            made.append(month())
        years: list[Window] = [window for window in self.windows if window in {"1a", "12mo"}]
        for rollup in inputs.rollups(name, Bills(months), years, "1mo"):
            made.append(rollup if "1mo" in self.windows else Chained(month(), rollup))
        return made

    def _basic(self, plant: Plant) -> Basic:
        if self.billed == "capacity":
            return Basic(self.method, None, quantity(self.transformer or "", "kVA"))
        terms = self.contract, self.transformer, self.billed, self.rule
        return Basic(self.method, contract_of(*terms, plant), None)
