import csv
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from edge_agent.clock import VirtualClock
from simulators.modbus_server import ModbusServer, Unit
from simulators.recorded import GAS_TURBINE, STEEL_PLANT, RecordedAnalyser, RecordedMeter
from simulators.signals import HOUR, MINUTE, SECOND
from simulators.tables import device_table
from tests.simulators.test_templates import by_pymodbus


@pytest.fixture(scope="module")
def steel() -> RecordedMeter:
    return RecordedMeter()


def local(year: int, month: int, day: int, hour: int = 0) -> int:
    zone = ZoneInfo("Asia/Shanghai")
    return int(datetime(year, month, day, hour, tzinfo=zone).timestamp()) * SECOND


def test_the_whole_file_is_the_energy_that_its_description_states(steel: RecordedMeter) -> None:
    assert sum(steel.sums_by_day().values()) == Decimal("731077.46")
    assert steel.energy(steel.stop) == Decimal("731077.46")
    assert datetime.fromtimestamp(steel.start / SECOND, UTC) == datetime(
        2017, 12, 31, 16, tzinfo=UTC
    )


def test_the_register_rises_by_the_sum_of_the_day_between_its_midnights(
    steel: RecordedMeter,
) -> None:
    days = steel.sums_by_day()

    assert len(days) == 274
    for day in (date(2018, 1, 1), date(2018, 2, 28), date(2018, 9, 30)):
        begin = local(day.year, day.month, day.day)
        assert steel.energy(begin + 24 * HOUR) - steel.energy(begin) == days[day]


def test_the_first_day_is_the_sum_of_the_first_96_rows(steel: RecordedMeter) -> None:
    with STEEL_PLANT.open(encoding="utf-8", newline="") as file:
        rows = [Decimal(row["Usage_kWh"]) for row in csv.DictReader(file)][:96]

    assert steel.sums_by_day()[date(2018, 1, 1)] == sum(rows)


def test_the_register_rises_by_the_sum_of_the_month(steel: RecordedMeter) -> None:
    months = steel.sums_by_month()

    assert list(months) == [date(2018, month, 1) for month in range(1, 11)]
    for month in range(1, 10):
        risen = steel.energy(local(2018, month + 1, 1)) - steel.energy(local(2018, month, 1))
        assert risen == months[date(2018, month, 1)]


def test_within_an_interval_the_register_rises_evenly_with_the_mean_power(
    steel: RecordedMeter,
) -> None:
    t = steel.start + 5 * MINUTE  # the first row: 3.17 kWh

    assert steel.energy(t) == Decimal("3.17") / 3
    assert steel.power(t) == pytest.approx(12.68)
    assert steel.power(steel.stop) == 0.0
    assert steel.energy(steel.stop + HOUR) == steel.energy(steel.stop)


async def test_a_simulated_meter_shows_the_recorded_register(steel: RecordedMeter) -> None:
    clock = VirtualClock(local(2018, 3, 1))
    row = {"connect": "modbus+tcp://127.0.0.1:1?unit=5", "template": "acrel/adl3000"}
    server = ModbusServer([Unit(device_table("em-steel", row), steel.source(), clock)])
    port = await server.start()
    try:
        high, low = await by_pymodbus(port, "hr", 0x000A, 2)
    finally:
        await server.close()

    sums = steel.sums_by_month()
    assert high << 16 | low == (sums[date(2018, 1, 1)] + sums[date(2018, 2, 1)]) * 100


def test_the_analyser_holds_each_hour_of_the_record() -> None:
    start = local(2026, 1, 1)
    analyser = RecordedAnalyser(start)
    source = analyser.source()

    assert len(analyser.nox) == 2399
    assert GAS_TURBINE.is_file()
    assert source.value("co", start) == 7.4491
    assert source.value("nox", start + HOUR - 1) == 113.25
    assert source.value("nox", start + HOUR) == 112.02
