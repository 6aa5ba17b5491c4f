"""A recorded steel plant: demand, bands, power factor and cost equal a slow version from the file.

The slow version reads the CSV files by itself, row by row, and knows nothing of the metrics but the
grid that counter readings are rounded to. ``Usage_kWh`` of each quarter becomes a register; between
two readings a register runs evenly. Of the file's nine months, January's last day to the first days
of March are used: a whole month, and a change of season. Bands are Shandong's of 2024.
"""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import sqrt
from random import Random
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.config.tables import Tables, data_dir
from edge_agent.metrics.demand import DemandConfig
from edge_agent.metrics.prices import Prices
from edge_agent.metrics.slots import SlotOperator, slot_schema
from edge_agent.metrics.tariff import TariffConfig
from edge_agent.metrics.tariff_tables import Tariffs
from edge_agent.model import Family, Kind, SampleBlock, Schema, Tag
from edge_agent.units import Unit
from simulators.recorded import STEEL_PLANT
from tests.metrics.plants import SECOND, Works, pieces, run, same

ZONE = ZoneInfo("Asia/Shanghai")
FIRST = datetime(2018, 1, 1, tzinfo=ZONE)  # the file's first quarter begins; one row per quarter
BEGIN, DAYS = datetime(2018, 1, 31, tzinfo=ZONE), 32  # to 4 March
GRID = 2**20  # steps per kWh of the agent's readings
COLUMNS = {
    "active": "Usage_kWh",
    "lagging": "Lagging_Current_Reactive_Power_kVarh",
    "leading": "Leading_Current_Reactive_Power_kVarh",
}
METER = Schema(
    "meter/raw",
    Family.SAMPLE,
    tuple(
        # at most 3600 kW: a register that stood still for days may begin without being doubted
        Tag(name, Unit.parse("kWh" if name == "active" else "kvarh"), Kind.COUNTER, max_rate=1.0)
        for name in COLUMNS
    ),
    900.0,
)
FLOATING, FIXED, FUNDS = 0.45, 0.17, 0.03  # invented, CNY/kWh
DEMAND = DemandConfig(energy="meter.active", contract="600 kW", windows=("1min", "1d", "1mo"))
BILL = TariffConfig(
    energy="meter.active",
    reactive_import="meter.lagging",
    reactive_export="meter.leading",
    edition="2024",
    power_factor_standard=0.9,
    prices=(
        Prices(
            since="2018-01-01",
            floating={"purchase": FLOATING},
            fixed={"transmission": FIXED},
            funds={"all": FUNDS},
            demand=38.0,
        ),
    ),
    contract="600 kW",
    windows=("1min", "1d", "1mo"),
)


@cache
def tariffs() -> Tariffs:
    return Tables().tariffs


@dataclass(frozen=True)
class SteelPlant(Works):
    """A plant with one meter and the packaged tables."""

    def raw(self, _name: str) -> Schema:
        return METER

    def slot(self, _name: str) -> Schema:
        return slot_schema(METER)

    @property
    def tariffs(self) -> Tariffs:
        return tariffs()


@cache
def registers(begin: datetime, days: int) -> dict[str, list[int]]:
    """The reading of each register at the borders of the quarters, in steps, from the file."""
    skipped = (begin - FIRST) // timedelta(minutes=15)
    with STEEL_PLANT.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[skipped : skipped + days * 96]
    found = {}
    for name, column in COLUMNS.items():
        total, readings = Fraction(0), [0]
        for row in rows:  # in their order: the stamps are of no use
            total += Fraction(row[column])
            readings.append(round(total * GRID))
        found[name] = readings
    return found


def recorded(begin: datetime = BEGIN, days: int = DAYS) -> SampleBlock:
    """The registers as raw rows, one at each border."""
    readings = registers(begin, days).values()
    value = np.array([[steps / GRID for steps in register] for register in readings])
    start = int(begin.timestamp()) * SECOND
    time = start + np.arange(value.shape[1]) * 900 * SECOND
    return SampleBlock(METER, time, value, np.zeros(value.shape, np.uint8))


def played(blocks: list[SampleBlock]) -> dict[str, SampleBlock]:
    plant = SteelPlant()
    metrics = [*DEMAND.build("demand", plant), *BILL.build("bill", plant)]
    return run([SlotOperator(METER), *metrics], blocks)


@pytest.fixture(scope="module")
def figures() -> dict[str, SampleBlock]:
    """What the metrics make of it, fed in blocks of one row to 300."""
    return played(pieces(recorded(), Random(5), 300))


# ---- the slow version ------------------------------------------------------------------------


@dataclass
class Minute:
    """A minute: its start in local time, energies, and the demand at its end, in steps."""

    start: datetime
    active: int
    reactive: int
    sliding: int | None
    fixed: int | None  # of the quarter that ends with it
    band: str
    coefficient: Fraction


def evenly(readings: list[int]) -> list[int]:
    """The reading at each minute, in steps."""
    found = [readings[0]]
    for before, after in pairwise(readings):
        for minute in range(1, 16):
            reading = before / GRID + (after - before) / GRID * (minute / 15)
            found.append(round(reading * GRID))
    return found


@cache
def bands() -> dict[tuple[int, int], tuple[str, Fraction]]:
    """Band and coefficient by month and hour, from the table; its edges are on full hours."""
    found = {}
    path = data_dir() / "tariffs" / "tou_shandong.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["year"] == "2024" and row["user_class"] == "tou":
                for month in row["months"].split(";"):
                    for hour in range(int(row["start"][:2]), int(row["end"][:2])):
                        found[int(month), hour] = row["band"], Fraction(row["coefficient"])
    assert len(found) == 12 * 24
    return found


@cache
def minutes() -> list[Minute]:
    by_minute = {name: evenly(readings) for name, readings in registers(BEGIN, DAYS).items()}
    active, found = by_minute["active"], []
    for i in range(len(active) - 1):
        start, end = BEGIN + timedelta(minutes=i), i + 1
        band, coefficient = bands()[start.month, start.hour]
        reactive = sum(by_minute[n][end] - by_minute[n][i] for n in ("lagging", "leading"))
        demand = (active[end] - active[end - 15]) * 4 if end >= 15 else None
        fixed = demand if end % 15 == 0 else None
        energy = active[end] - active[i]
        found.append(Minute(start, energy, reactive, demand, fixed, band, coefficient))
    return found


def of_windows(stream: SampleBlock) -> list[list[Minute]]:
    """The minutes of each row's window: the day or month before its end."""
    last = [datetime.fromtimestamp(end // SECOND - 1, UTC) for end in stream.time.tolist()]
    grouped = by_window(stream.schema.name)
    return [grouped[key_of(at.astimezone(ZONE), stream.schema.name)] for at in last]


def key_of(start: datetime, window: str) -> tuple[int, int]:
    return start.month, start.day if window == "1d" else 0


@cache
def by_window(window: str) -> dict[tuple[int, int], list[Minute]]:
    found: dict[tuple[int, int], list[Minute]] = {}
    for minute in minutes():
        found.setdefault(key_of(minute.start, window), []).append(minute)
    return found


# ---- comparison ------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["1d", "1mo"])
def test_energy_of_each_band_is_the_file_s_exactly(
    figures: dict[str, SampleBlock], window: str
) -> None:
    stream = figures[f"bill/{window}"]
    assert len(stream) == {"1d": DAYS, "1mo": 2}[window]
    names = ("sharp", "peak", "flat", "valley", "deep-valley")
    for i, inside in enumerate(of_windows(stream)):
        for band in names:
            expected = sum(m.active for m in inside if m.band == band)
            assert stream[f"{band.replace('-', '_')}_kwh"][i] * GRID == expected, band
        assert stream["energy_kwh"][i] * GRID == sum(m.active for m in inside)
        assert stream["reactive_kvarh"][i] * GRID == sum(m.reactive for m in inside)
        assert stream["unscheduled_kwh"][i] == 0.0


def test_every_band_of_both_seasons_occurs() -> None:
    assert {(m.start.month, m.band) for m in minutes()} >= {
        (month, band)
        for month in (2, 3)
        for band in ("sharp", "peak", "flat", "valley", "deep-valley")
    }


@pytest.mark.parametrize("window", ["1d", "1mo"])
def test_maximum_demand_sliding_and_fixed_is_the_file_s_exactly(
    figures: dict[str, SampleBlock], window: str
) -> None:
    stream = figures[f"demand/{window}"]
    for i, inside in enumerate(of_windows(stream)):
        if inside[0].start == BEGIN:  # whose first 14 minutes have no whole quarter behind them
            continue
        sliding = max(m.sliding for m in inside if m.sliding is not None)
        fixed = max(m.fixed for m in inside if m.fixed is not None)
        assert stream["demand_kw"][i] * GRID == sliding
        assert stream["demand_fixed_kw"][i] * GRID == fixed
        assert stream["demand_max_kw"][i] * GRID == sliding
        assert stream.quality[:, i].max() == 0


def test_demand_of_every_minute_is_the_file_s_exactly(figures: dict[str, SampleBlock]) -> None:
    stream = figures["demand/1min"]
    assert len(stream) == len(minutes())
    names = ("demand_kw", "demand_fixed_kw", "forecast_kw")
    sliding, fixed, forecast = (stream[name].tolist() for name in names)
    for i, minute in enumerate(minutes()):
        if minute.sliding is not None:
            assert sliding[i] * GRID == minute.sliding
        if minute.fixed is not None:
            assert fixed[i] * GRID == forecast[i] * GRID == minute.fixed


def test_power_factor_of_the_month_and_its_adjustment(figures: dict[str, SampleBlock]) -> None:
    stream = figures["bill/1mo"]
    february = of_windows(stream)[1]
    active = sum(m.active for m in february) / GRID
    reactive = sum(m.reactive for m in february) / GRID
    factor = active / sqrt(active**2 + reactive**2)
    assert stream["power_factor"][1] == pytest.approx(factor, rel=1e-12)
    assert 0.70 <= factor < 0.90
    assert stream["adjustment"][1] == pytest.approx((0.90 - round(factor, 2)) * 0.5, abs=1e-12)


def test_cost_of_the_month_is_that_of_the_file_to_a_tenth_of_a_cent(
    figures: dict[str, SampleBlock],
) -> None:
    stream = figures["bill/1mo"]
    february = of_windows(stream)[1]
    energy = sum(m.active for m in february) / GRID
    floating = float(sum(m.active * m.coefficient for m in february) / GRID) * FLOATING
    fixed, funds = energy * FIXED, energy * FUNDS
    highest = max(m.sliding for m in february if m.sliding is not None) / GRID
    basic = (600.0 + 2.0 * max(highest - 1.05 * 600.0, 0.0)) * 38.0
    adjusted = stream["adjustment"][1] * (floating + fixed + basic)
    expected = {
        "cost_floating": floating,
        "cost_fixed": fixed,
        "cost_funds": funds,
        "cost_demand": basic,
        "cost_adjustment": adjusted,
        "cost_total": floating + fixed + funds + basic + adjusted,
    }
    for name, cost in expected.items():
        assert stream[name][1] == pytest.approx(cost, abs=1e-3), name
    assert stream["price_mean"][1] == stream["cost_total"][1] / stream["energy_kwh"][1]


@pytest.mark.parametrize("longest", [1, 13])
def test_any_size_of_block_gives_the_same_rows(longest: int) -> None:
    block = recorded(datetime(2018, 2, 28, tzinfo=ZONE), 2)  # over the change of season
    whole = played([block])
    cut = played([block.rows(i, i + longest) for i in range(0, len(block), longest)])
    assert {"demand/1d", "bill/1mo"} <= whole.keys()
    for stream, rows in whole.items():
        same(rows, cut[stream])
