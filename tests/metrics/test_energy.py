"""The energy boundary worked by hand: coefficients of the day, CO2, steam, per unit of anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.config.tables import Tables
from edge_agent.metrics.base import Co2Factor, Coefficient, MetricConfig
from edge_agent.metrics.carriers import Term, gaps
from edge_agent.metrics.energy import CarrierInput, Co2, EnergyConfig, Quantity
from edge_agent.metrics.slots import slot_schema
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema
from tests.metrics.plants import SECOND, Works, run, tag

MINUTE = 60 * SECOND
ZONE = ZoneInfo("Asia/Shanghai")
NAMES = {
    "kwh": "kWh", "sent": "kWh", "sun": "kWh", "coal": "kg", "diesel": "kg", "gas": "m3",
    "water": "t", "made": "t", "bags": "{bag}", "steam": "t",
}  # fmt: skip
METERS = Schema(
    "m/raw",
    Family.SAMPLE,
    (
        *(tag(name, unit, Kind.COUNTER) for name, unit in NAMES.items()),
        tag("p", "MPa"), tag("t", "°C"), tag("power", "kW"), tag("state", "1", Kind.STATE),
    ),
    30.0,
)  # fmt: skip
MINUTES = slot_schema(METERS)
Row = tuple[str, float, str, str]  # code, kgce per kWh or kg, first and last day


@cache
def tables() -> Tables:
    """The packaged tables, read once."""
    return Tables()


@dataclass(frozen=True)
class Mill(Works):
    """The plant of these examples: one stream of meters, and the packaged tables or own rows."""

    rows: Sequence[Row] = field(default_factory=tuple)

    def raw(self, _name: str) -> Schema:
        return METERS

    def coefficients(self, carrier: str, basis: str, standard: str) -> tuple[Coefficient, ...]:
        own = [row for row in self.rows if row[0] == carrier]
        unit = "kWh" if carrier == "electricity" else "kg"
        return tuple(
            Coefficient(carrier, unit, k, basis, standard, "", "", since, until, "A", True)
            for _, k, since, until in own
        ) or tables().coefficients(carrier, basis, standard)

    def co2_factors(self, code: str, variant: str) -> tuple[Co2Factor, ...]:
        return tables().co2_factors(code, variant)


def ns(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()) * SECOND


def slots(start: str, n: int, **columns: float) -> SampleBlock:
    """Minutes from a local time on: increments of counters, means of p and t."""
    value, marks = np.zeros((len(MINUTES.tags), n)), np.zeros((len(MINUTES.tags), n), np.uint8)
    for i, column in enumerate(MINUTES.tags):
        name, _, suffix = column.name.partition(".")
        if suffix in {"increment", "mean"}:
            value[i] = columns.get(name, 0.0)
        if suffix == "coverage":
            value[i] = 1.0
    ends = ns(start) + (np.arange(n) + 1) * MINUTE
    return SampleBlock(MINUTES, ends, value, marks)


def compute(
    config: MetricConfig, *blocks: SampleBlock, plant: Works | None = None
) -> dict[str, SampleBlock]:
    return run(config.build("kpi", plant or Mill()), blocks)


def row(block: SampleBlock, i: int = -1) -> dict[str, float]:
    return {column.name: float(block.value[j, i]) for j, column in enumerate(block.schema.tags)}


def mark(block: SampleBlock, column: str) -> list[int]:
    return block.quality[block.schema.index[column]].tolist()


MILL = EnergyConfig(
    output="m.made",
    inputs={
        "electricity": ("m.kwh",),
        "raw-coal": CarrierInput(tags=("m.coal",), co2="bituminous-coal"),
        "diesel": ("m.diesel",),
        "natural-gas": CarrierInput(tags=("m.gas",), code="natural-gas-high", co2="natural-gas"),
        "fresh-water": CarrierInput(tags=("m.water",), basis="equal-value", co2="none"),
    },
    returned={"electricity": ("m.sent",)},
    specific=("electricity", "fresh-water"),
    co2=Co2(family="steel", electricity="cn-shandong"),
    windows=("1min", "1h"),
)


def test_an_hour_of_a_mill_worked_by_hand() -> None:
    """GB/T 2589-2020: E = Σ E_i k_i net of what is returned, e = E / P; coefficients of App. A, B.

    1000 kWh net × 0.1229 + 2000 kg × 0.7143 + 50 kg × 1.4571 + 100 m3 × 1.3300 + 30 t × 0.2571;
    GJ by the heating values 3.6 MJ/kWh, 20.934, 42.705, 38.979 MJ and 7.535 MJ/t; tCO2 by the
    grid factor of 2023 for Shandong and T/CISA 452-2024, the gas as 100 m3 × 273.15 / 293.15.
    """
    each = {
        "kwh": 1200,
        "sent": 200,
        "coal": 2000,
        "diesel": 50,
        "gas": 100,
        "water": 30,
        "made": 15,
    }
    block = slots("2026-03-01", 60, **{name: value / 60 for name, value in each.items()})
    hour = row(compute(MILL, block)["kpi/1h"])
    kgce = {"electricity": 122.9, "raw-coal": 1428.6, "diesel": 72.855, "natural-gas": 133.0}
    for name, value in (kgce | {"fresh-water": 7.713}).items():
        assert hour[f"{name}_kgce"] == pytest.approx(value, rel=1e-7)
    assert (hour["electricity"], hour["electricity_returned"]) == pytest.approx((1000, 200))
    assert hour["total_kgce"] == pytest.approx(1765.068, rel=1e-7)
    assert hour["intensity"] == pytest.approx(1765.068 / 15, rel=1e-7)
    assert hour["total_gj"] == pytest.approx(3.6 + 41.868 + 2.13525 + 3.8979 + 0.22605, rel=1e-7)
    gas = 2.1650 * 0.1 * 273.15 / 293.15
    assert hour["total_tco2"] == pytest.approx(0.6191 + 4.4658 + 0.154795 + gas, rel=1e-7)
    assert hour["electricity_per_output"] == pytest.approx(1000 / 15)
    assert hour["fresh-water_per_output"] == pytest.approx(2.0)


def test_columns_have_the_units_that_a_person_expects() -> None:
    schema = MILL.build("kpi", Mill())[0].output
    units = {column.name: column.unit.code for column in schema.tags}
    assert units["electricity"] == "kWh"
    assert (units["output_t"], units["intensity"]) == ("t", "kgce/t")
    assert (units["total_gj"], units["total_tco2"]) == ("GJ", "tCO2")
    assert (units["fresh-water_per_output"], units["electricity_per_output"]) == ("t/t", "kWh/t")
    assert "fresh-water_tco2" not in units


def test_every_row_that_counts_stands_in_the_provenance() -> None:
    made = MILL.build("kpi", Mill())[0].output.provenance
    assert "standard_coal:raw-coal:GB/T 2589-2020:equivalent:2021-04-01:unapproved" in made
    assert "standard_coal:fresh-water:GB/T 2589-2008:equal-value:2008-06-01:unapproved" in made
    assert "co2_factors:cn-shandong:average:2023:unapproved" in made
    assert "co2_factors:diesel:steel:2024-10-17:unapproved" in made
    lhv = EnergyConfig(inputs={"raw-coal": CarrierInput(tags=("m.coal",), lhv="23.1 MJ/kg")})
    assert lhv.build("kpi", Mill())[0].output.provenance[1:] == ("measured:raw-coal:23.1 MJ/kg",)
    approved = EnergyConfig(inputs={"electricity": ("m.kwh",)})
    rows = approved.build("kpi", Mill(rows=[("electricity", 0.3, "2026-01-01", "")]))[0]
    assert rows.output.provenance[1:] == (
        "standard_coal:electricity:GB/T 2589:equivalent:2026-01-01",
    )


# coefficients of the day --------------------------------------------------------------------------

YEARS = (
    ("electricity", 0.300, "2025-01-01", "2025-12-31"),
    ("electricity", 0.296, "2026-01-01", "2026-12-31"),
)
GRID = EnergyConfig(
    output="m.made",
    basis="equal-value",
    inputs={"electricity": ("m.kwh",)},
    windows=("1min", "1h", "1d", "1mo", "12mo"),
)


def test_a_coefficient_changes_at_the_local_midnight_of_the_year() -> None:
    block = slots("2025-12-31T23:00", 120, kwh=100.0, made=1.0)
    hours = compute(GRID, block, plant=Mill(rows=YEARS))["kpi/1h"]
    assert hours["electricity_kgce"].tolist() == pytest.approx([1800.0, 1776.0], rel=1e-9)
    assert hours["intensity"].tolist() == pytest.approx([30.0, 29.6], rel=1e-9)


def test_each_day_of_a_month_counts_with_its_own_coefficient() -> None:
    rows = [("electricity", 0.3, "", "2026-02-09"), ("electricity", 0.2, "2026-02-10", "")]
    block = slots("2026-02-01", 28 * 1440, kwh=10.0, made=0.5)
    found = compute(GRID, block, slots("2026-03-01", 1), plant=Mill(rows=rows))
    assert found["kpi/1d"]["electricity_kgce"][[8, 9]].tolist() == pytest.approx([4320.0, 2880.0])
    month = row(found["kpi/1mo"])
    by_hand = 1440 * 10.0 * (9 * 0.3 + 19 * 0.2)
    assert month["electricity_kgce"] == month["total_kgce"] == pytest.approx(by_hand, rel=1e-9)
    assert month["intensity"] == pytest.approx(by_hand / (28 * 720), rel=1e-9)
    assert float(found["kpi/1d"]["total_kgce"].sum()) == month["total_kgce"]


def test_twelve_months_over_the_year_add_up_both_coefficients() -> None:
    block = slots("2025-12-31", 2 * 1440, kwh=10.0)
    found = compute(GRID, block, slots("2026-02-01", 1), plant=Mill(rows=YEARS))["kpi/12mo"]
    assert found["total_kgce"][-1] == pytest.approx(14400 * 0.3 + 14400 * 0.296, rel=1e-9)


def test_a_day_without_a_row_has_amounts_but_no_standard_coal() -> None:
    block = slots("2026-12-31T23:00", 120, kwh=100.0, made=1.0)
    found = compute(GRID, block, plant=Mill(rows=YEARS))
    hours = found["kpi/1h"]
    assert hours["electricity"].tolist() == [6000.0, 6000.0]
    for column in ("electricity_kgce", "electricity_gj", "total_kgce", "intensity"):
        assert mark(hours, column) == [Quality.GOOD, Quality.BAD_NOT_AVAILABLE]
    config = EnergyConfig(
        basis="equal-value", inputs={"electricity": ("m.kwh",)}, windows=("1min", "1d")
    )
    day = compute(config, slots("2026-12-30T23:00", 25 * 60, kwh=1.0), plant=Mill(rows=YEARS[:1]))
    assert mark(day["kpi/1d"], "total_kgce")[-1] == Quality.BAD_NOT_AVAILABLE


def test_a_measured_heating_value_counts_from_its_day_on() -> None:
    coal = CarrierInput(
        tags=("m.coal",), lhv={"2026-02-01": "22.8 MJ/kg", "2026-01-10": "5500 kJ/kg"}
    )
    config = EnergyConfig(inputs={"raw-coal": coal}, windows=("1min", "1h"))
    blocks = [slots(f"{day}T23:00", 120, coal=1.0) for day in ("2026-01-09", "2026-01-31")]
    found = compute(config, *blocks)["kpi/1h"]
    wanted = [60 * 5.5 / 29.3076, 60 * 5.5 / 29.3076, 60 * 22.8 / 29.3076]
    hours = found["raw-coal_kgce"]
    assert hours[~np.isnan(hours)].tolist() == pytest.approx(wanted, rel=1e-9)
    assert mark(found, "raw-coal_kgce")[0] == Quality.BAD_NOT_AVAILABLE
    assert found["raw-coal_gj"][-1] == pytest.approx(60 * 0.0228, rel=1e-9)
    assert config.remarks(Mill()) == ["raw-coal: no coefficient is in force before 2026-01-10"]


def test_of_two_rows_in_force_the_later_one_counts() -> None:
    rows = [("electricity", 0.4, "", ""), ("electricity", 0.3, "2026-01-02", "2026-01-02")]
    block = slots("2026-01-01T23:59", 1442, kwh=1.0)
    found = compute(GRID, block, plant=Mill(rows=rows))["kpi/1min"]["electricity_kgce"]
    assert found[[0, 1, 1440, 1441]].tolist() == pytest.approx([0.4, 0.3, 0.3, 0.4])


def test_what_is_missing_between_rows_is_said() -> None:
    def term(since: str, until: str) -> Term:
        return Term(since, until, (1.0,), "")

    assert gaps([term("", "")]) == []
    assert gaps([term("2026-03-01", "2026-03-31"), term("", "2026-01-31")]) == [
        "from 2026-02-01 to 2026-02-28", "after 2026-03-31",
    ]  # fmt: skip
    assert gaps([term("2026-01-01", "2026-01-31"), term("2026-02-01", "")]) == ["before 2026-01-01"]
    remarks = GRID.remarks(Mill(rows=YEARS))
    assert remarks == ["electricity: no coefficient is in force after 2026-12-31"]
    assert any("nobody has approved" in remark for remark in MILL.remarks(Mill()))


# CO2 ----------------------------------------------------------------------------------------------


def emitted(co2: Co2, start: str, **entry: object) -> float:
    inputs: Mapping[str, CarrierInput] = {
        "electricity": CarrierInput(tags=("m.kwh",)),
        "diesel": CarrierInput(tags=("m.diesel",), **entry),
    }
    config = EnergyConfig(inputs=inputs, co2=co2, windows=("1min",))
    found = compute(config, slots(start, 1, kwh=1000.0, diesel=1000.0))["kpi/1min"]
    return float(found["electricity_tco2"][0]), float(found["diesel_tco2"][0])


def test_a_grid_factor_is_that_of_its_data_year() -> None:
    def grid(year: object, start: str) -> float:
        co2 = Co2(family="steel", electricity="cn-shandong", data_year=year)
        return emitted(co2, start)[0]

    assert grid("published", "2025-12-30") == pytest.approx(0.6410)  # that of 2023 is not out yet
    assert grid("published", "2025-12-31") == pytest.approx(0.6191)
    assert grid(2022, "2026-06-01") == pytest.approx(0.6410)
    assert grid("same", "2022-12-31") == pytest.approx(0.6410)
    assert np.isnan(grid("same", "2024-01-01"))
    with pytest.raises(ValueError, match="no CO2 factor of the data year 2024"):
        grid(2024, "2026-01-01")


def test_a_measured_heating_value_may_replace_the_familys() -> None:
    family = emitted(Co2(family="steel"), "2026-01-01", lhv="43 MJ/kg")
    measured = emitted(Co2(family="steel", heating_value="measured"), "2026-01-01", lhv="43 MJ/kg")
    assert family[1] == pytest.approx(3.0959)
    assert measured[1] == pytest.approx(43 * 0.0202 * 0.98 * 44 / 12, rel=1e-9)


def test_a_fuel_that_the_family_does_not_have_is_not_taken_from_another() -> None:
    with pytest.raises(KeyError, match=r'diesel: no CO2 factor for "diesel" \(cement-kiln\).*none'):
        emitted(Co2(family="cement-kiln"), "2026-01-01")


# steam --------------------------------------------------------------------------------------------


def steamed(**entry: object) -> EnergyConfig:
    steam = CarrierInput(tags=("m.steam",), pressure="m.p", temperature="m.t", **entry)
    return EnergyConfig(inputs={"steam": steam}, co2=Co2(family="steel"), windows=("1min",))


def test_steam_is_worth_its_heat() -> None:
    """1 MPa, 200 °C: 2828.27 kJ/kg in steam tables after IAPWS-IF97; k = 0.03412 kgce/MJ."""
    block = slots("2026-01-01", 1, steam=2.0, p=1.0, t=200.0)
    found = row(compute(steamed(gauge=False, feed_water=84.0), block)["kpi/1min"])
    heat = 2.0 * (2828.27 - 84.0)
    assert found["steam"] == 2.0
    assert found["steam_gj"] == pytest.approx(heat / 1e3, rel=1e-5)
    assert found["steam_kgce"] == pytest.approx(heat * 0.03412, rel=1e-5)
    assert found["steam_tco2"] == pytest.approx(heat / 1e3 * 0.11, rel=1e-5)


def test_a_gauge_pressure_is_above_that_of_the_atmosphere() -> None:
    block = slots("2026-01-01", 1, steam=1.0, p=1.0 - 0.0902, t=200.0)
    found = row(compute(steamed(atmosphere=90.2), block)["kpi/1min"])
    assert found["steam_gj"] == pytest.approx(2.82827, rel=1e-5)


def test_steam_colder_than_saturation_is_uncertain_and_not_water() -> None:
    block = slots("2026-01-01", 1, steam=1.0, p=1.0, t=175.0)
    found = compute(steamed(gauge=False), block)["kpi/1min"]
    assert found["steam_gj"].tolist() == pytest.approx([2.77712], rel=1e-5)
    assert mark(found, "steam_kgce") == [Quality.UNCERTAIN]
    assert mark(found, "steam") == [Quality.GOOD]


def test_without_flow_the_state_of_the_steam_does_not_matter() -> None:
    block = slots("2026-01-01", 2, p=-1.0, t=20.0)
    found = compute(steamed(), block)["kpi/1min"]
    assert found["steam_kgce"].tolist() == [0.0, 0.0]
    flows = compute(steamed(), slots("2026-01-01", 1, steam=1.0, p=-1.0, t=20.0))["kpi/1min"]
    assert mark(flows, "steam_kgce") == [Quality.BAD_NOT_AVAILABLE]
    assert mark(flows, "steam") == [Quality.GOOD]


def test_condensate_that_is_returned_is_hot_water() -> None:
    """Boiling water at 0.1 MPa less water of 20 °C: 417.4 - 84 kJ/kg."""
    water = CarrierInput(
        tags=("m.water",), pressure="m.p", temperature="m.t", phase="water", gauge=False,
        feed_water=84.0,
    )  # fmt: skip
    steam = CarrierInput(tags=("m.steam",), pressure="m.p", gauge=False, feed_water=84.0)
    config = EnergyConfig(
        inputs={"steam": steam}, returned={"condensate": water}, windows=("1min",)
    )
    block = slots("2026-01-01", 1, steam=1.0, water=0.5, p=0.1, t=105.0)
    found = row(compute(config, block)["kpi/1min"])
    assert found["condensate_gj"] == pytest.approx(-0.5 * (417.4 - 84.0) / 1e3, rel=1e-3)
    assert found["total_gj"] == pytest.approx(found["steam_gj"] + found["condensate_gj"])
    assert found["steam_gj"] == pytest.approx((2674.9 - 84.0) / 1e3, rel=1e-4)  # dry saturated


# per unit -----------------------------------------------------------------------------------------


def divided(**options: object) -> EnergyConfig:
    options = {"output": "m.made", "inputs": {"electricity": ("m.kwh",)}} | options
    return EnergyConfig(windows=("1min", "1h", "1mo"), **options)


def test_without_output_there_is_no_energy_per_tonne_and_everything_else_stays() -> None:
    found = compute(divided(specific=("electricity",)), slots("2026-01-01", 60, kwh=10.0))["kpi/1h"]
    assert row(found)["total_kgce"] == pytest.approx(73.74)
    assert row(found)["output_t"] == 0.0
    for column in ("intensity", "electricity_per_output"):
        assert mark(found, column) == [Quality.BAD_NOT_AVAILABLE]
    assert found["coverage"].tolist() == [1.0]


def test_a_converted_product_counts_by_its_factor() -> None:
    bags = Quantity(tags=("m.bags",), factor=50.0, unit="kg")
    found = row(
        compute(divided(output=bags), slots("2026-01-01", 60, kwh=10.0, bags=2.0))["kpi/1h"]
    )
    assert found["output_t"] == pytest.approx(6.0)
    assert found["intensity"] == pytest.approx(73.74 / 6)


@pytest.mark.parametrize(
    ("output", "made", "unit"),
    [
        ("m.gas", 30.0, "kgce/m3"),
        (Quantity(tags=("m.sun",), unit="MWh"), 0.03, "kgce/MWh"),
        (Quantity(tags=("m.bags",), factor=2.5, unit="m2"), 75.0, "kgce/m2"),
    ],
)
def test_output_may_be_of_any_unit(output: str | Quantity, made: float, unit: str) -> None:
    block = slots("2026-01-01", 60, kwh=10.0, gas=0.5, sun=0.5, bags=0.5)
    found = compute(divided(output=output), block)["kpi/1h"]
    assert row(found)["output"] == pytest.approx(made)
    assert row(found)["intensity"] == pytest.approx(73.74 / made)
    assert found.schema.tags[found.schema.index["intensity"]].unit.code == unit


def test_energy_per_10_000_yuan_and_per_mu_and_water_per_both() -> None:
    config = divided(
        inputs={
            "electricity": ("m.kwh",),
            "fresh-water": CarrierInput(tags=("m.water",), energy=False),
        },
        denominators={
            "output-value": Quantity(monthly={"2026-02": 1250.0}, unit="万元"),
            "area": Quantity(constant=120.0, unit="亩"),
        },
        specific=("fresh-water",),
    )
    block = slots("2026-02-01", 28 * 1440, kwh=10.0, water=0.1, made=0.5)
    found = compute(config, block, slots("2026-03-01", 1))
    month, kgce = row(found["kpi/1mo"]), 28 * 14400 * 0.1229
    assert month["output-value"] == 1250.0
    assert month["intensity_output-value"] == pytest.approx(kgce / 1250, rel=1e-9)
    assert month["intensity_area"] == pytest.approx(kgce / 120, rel=1e-9)
    assert month["fresh-water_per_output-value"] == pytest.approx(28 * 144 / 1250)
    assert month["fresh-water_per_area"] == pytest.approx(28 * 144 / 120)
    assert month["total_kgce"] == month["electricity_kgce"]
    units = {tag.name: tag.unit.code for tag in found["kpi/1mo"].schema.tags}
    assert units["intensity_output-value"] == "kgce/万元"
    assert units["fresh-water_per_area"] == "t/亩"
    assert mark(found["kpi/1min"], "output-value")[-1] == Quality.BAD_NOT_AVAILABLE


def test_a_power_gauge_is_integrated_where_there_is_no_counter() -> None:
    config = EnergyConfig(inputs={"electricity": ("m.power",)}, windows=("1min",))
    n = 10
    value = np.zeros((len(METERS.tags), n))
    value[METERS.index["power"]] = 120.0
    raw = SampleBlock(
        METERS,
        ns("2026-01-01") + np.arange(n) * 30 * SECOND,
        value,
        np.zeros(value.shape, np.uint8),
    )
    found = compute(config, raw)["kpi/1min"]
    assert found["electricity"].tolist() == pytest.approx([2.0] * len(found))
    assert found["electricity_kgce"].tolist() == pytest.approx([2.0 * 0.1229] * len(found))


# own production -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("added", "total"), [(False, 100.0), (True, 140.0)])
def test_own_production_is_shown_apart_and_added_only_where_it_is_told(
    added: bool, total: float
) -> None:
    sun = CarrierInput(tags=("m.sun",), non_fossil=1.0, added=added)
    config = divided(produced={"electricity": sun})
    found = row(compute(config, slots("2026-01-01", 60, kwh=100 / 60, sun=40 / 60))["kpi/1h"])
    assert found["electricity_produced"] == pytest.approx(40.0)
    assert found["produced_kgce"] == pytest.approx(40 * 0.1229, rel=1e-7)
    assert found["electricity"] == pytest.approx(total)
    assert found["total_kgce"] == pytest.approx(total * 0.1229, rel=1e-7)
    assert found["non_fossil_share"] == pytest.approx(40 / total, rel=1e-7)


def test_a_share_of_what_is_bought_may_be_non_fossil() -> None:
    green = CarrierInput(tags=("m.kwh",), non_fossil=0.3)
    heat = CarrierInput(tags=("m.sun",))
    config = divided(inputs={"electricity": green}, produced={"electricity": heat})
    found = row(compute(config, slots("2026-01-01", 60, kwh=1.0, sun=0.5))["kpi/1h"])
    assert found["non_fossil_kgce"] == pytest.approx(60 * 0.3 * 0.1229, rel=1e-7)
    assert found["non_fossil_share"] == pytest.approx(0.3, rel=1e-7)
    assert found["produced_kgce"] == pytest.approx(30 * 0.1229, rel=1e-7)


def test_non_fossil_energy_that_is_sent_away_is_taken_off() -> None:
    sun = CarrierInput(tags=("m.sun",), non_fossil=1.0, added=True)
    config = divided(
        produced={"electricity": sun},
        returned={"electricity": CarrierInput(tags=("m.sent",), non_fossil=1.0)},
    )
    block = slots("2026-01-01", 60, kwh=1.0, sun=0.5, sent=0.25)
    found = row(compute(config, block)["kpi/1h"])
    assert found["electricity"] == 75.0
    assert found["non_fossil_kgce"] == pytest.approx(15 * 0.1229, rel=1e-9)
    assert found["non_fossil_share"] == pytest.approx(0.2, rel=1e-9)


# what is wrong ------------------------------------------------------------------------------------

KWH = ("m.kwh",)


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"inputs": {"electricity": CarrierInput(tags=())}}, ("inputs", "electricity"), "needs"),
        (
            {"inputs": {"coal": CarrierInput(tags=KWH, lhv={"2026-13-01": "23 MJ/kg"})}},
            ("inputs", "coal", "lhv"), "month must be",
        ),
        (
            {"inputs": {"coal": CarrierInput(tags=KWH, lhv={})}},
            ("inputs", "coal", "lhv"), "at least one value",
        ),
        (
            {"inputs": {"coal": CarrierInput(tags=KWH, lhv="0 MJ/kg")}},
            ("inputs", "coal", "lhv"), "not above 0",
        ),
        (
            {"inputs": {"electricity": CarrierInput(tags=KWH, non_fossil=30.0)}},
            ("inputs", "electricity", "non_fossil"), "share",
        ),
        (
            {"inputs": {"electricity": CarrierInput(tags=KWH, added=True)}},
            ("inputs", "electricity", "added"), "own production",
        ),
        (
            {"inputs": {"steam": CarrierInput(tags=KWH, temperature="m.t")}},
            ("inputs", "steam", "temperature"), "pressure",
        ),
        (
            {"inputs": {"steam": CarrierInput(tags=KWH, pressure="m.p", lhv="3 MJ/kg")}},
            ("inputs", "steam", "lhv"), "worth its heat",
        ),
        (
            {"returned": {"electricity": CarrierInput(tags=KWH, code="electricity")}},
            ("returned", "electricity", "code"), "said once, where the carrier stands in inputs",
        ),
        (
            {"returned": {"electricity": CarrierInput(tags=KWH, pressure="m.p")}},
            ("returned", "electricity"), "pressure as well",
        ),
        ({"output": Quantity(constant=1.0, unit="t")}, ("output",), "needs tags"),
        ({"output": Quantity(tags=KWH, factor=2.0)}, ("output",), "has a unit"),
        ({"denominators": {"a": Quantity()}}, ("denominators", "a"), "one of them only"),
        (
            {"denominators": {"a": Quantity(monthly={"2026": 1.0}, unit="万元")}},
            ("denominators", "a"), 'not a month (write 2026-01)',
        ),
        (
            {"denominators": {"a": Quantity(constant=-1.0, unit="m2")}},
            ("denominators", "a"), "above 0",
        ),
        ({"denominators": {"a": Quantity(tags=KWH, unit="ells")}}, ("denominators", "a"), "ells"),
        (
            {"denominators": {"output": Quantity(constant=1.0, unit="m2")}},
            ("denominators", "output"), "already",
        ),
        ({"specific": ("gas",)}, ("specific", 0), "no carrier of this: electricity"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_place(
    options: dict[str, object], path: tuple[str | int, ...], message: str
) -> None:
    found = EnergyConfig(**({"inputs": {"electricity": KWH}} | options)).faults()
    assert path in [where for where, _ in found]
    assert any(message in said for where, said in found if where == path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": {"electricity": ("m.coal",)}}, '"m.coal" counts kg, not kWh'),
        ({"inputs": {"electricity": ("m.state",)}}, "must be a counter or a gauge"),
        (
            {"inputs": {"s": CarrierInput(tags=("m.steam",), pressure="m.t")}},
            '"m.t" has °C, must be a pressure',
        ),
        (
            {"inputs": {"s": CarrierInput(tags=("m.steam",), pressure="m.p", temperature="m.p")}},
            "must be in °C or K",
        ),
        ({"output": Quantity(tags=("m.made",), unit="m2")}, '"m.made" counts t, not m2'),
    ],
)
def test_a_tag_that_does_not_fit_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyConfig(**({"inputs": {"electricity": KWH}} | options)).build("kpi", Mill())
