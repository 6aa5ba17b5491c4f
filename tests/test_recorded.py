"""A recorded plant through the whole agent: what comes out is what the file says.

The file is the electricity of a steel plant from 2018-01-01 to 2018-10-01 18:00: 26 280 quarters
of an hour. It is played twice: through a simulated meter on a socket, which the agent polls in
lock-step with the recording, and as a file, by ``replay+csv``. Everything between is real:
configuration, driver, supervisor, pipeline, log, history. Only the clock is virtual: it jumps to
the next poll as soon as the one before is done.

The sums it is held against are made here, from the rows of the file in their order; their stamps
are of no use (the last quarter of a day is stamped 00:00 of the same day).
"""

import asyncio
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.agent import Agent
from edge_agent.clock import SECOND, VirtualClock
from edge_agent.config import load
from edge_agent.health import LogCounts
from edge_agent.model import Quality, SampleBlock
from edge_agent.sinks.history import History
from simulators.modbus_server import ModbusServer, Unit
from simulators.recorded import STEEL_PLANT, RecordedMeter
from simulators.tables import device_table

# 52 609 scans over a socket and 796 000 derived rows: 70 s on two busy cores, shared by the tests
pytestmark = pytest.mark.timeout(400)

FILE = Path(__file__).parents[1] / "simulators" / "data" / STEEL_PLANT.name
ZONE = ZoneInfo("Asia/Shanghai")
FIRST, DAYS, QUARTERS = date(2018, 1, 1), 274, 96  # the last day ends with its 72nd
ROWS = 26_280
INITIAL = Decimal("123456.78")  # what the meter shows when the recording begins
RESOLUTION = Decimal("0.01")  # kWh, of the meter's register
GRID = 2**20  # steps per kWh to which the agent rounds counter readings, so that sums are exact
PLANT = """
site: {{id: steel, timezone: Asia/Shanghai}}
web: {{listen: "127.0.0.1:0"}}
retention: {{slots: 1y}}
devices:
  meter: {device}
metrics:
  plant:
    type: energy
    scope: plant
    windows: [1h, 1d, 1mo]
    inputs: {{electricity: [meter.active_energy_import]}}
"""
# the template's pause between requests is real time: left out, or it alone would take half an hour
METER = """{{connect: "modbus+tcp://127.0.0.1:{port}?unit=3", template: acrel/adl3000,
          poll: {{fast: 15min, slow: 15min}}, pause: 0s}}"""
REPLAY = """
    connect: "replay+csv://{file}"
    time: {{start: "2018-01-01T00:00:00+08:00", every: 15min, label: end}}
    tags:
      active_energy_import: {{at: "sum(Usage_kWh)", unit: kWh, kind: counter}}
"""


@dataclass(frozen=True)
class Played:
    """What a run has left.

    running  the open windows at the end, by stream
    """

    history: History
    counts: LogCounts
    running: dict[str, SampleBlock]
    seconds: float

    def rows(self, stream: str, start: int = 0, end: int = 1 << 62) -> SampleBlock:
        block = self.history.rows(stream, start, end)
        assert block is not None
        return block


def midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=ZONE).timestamp()) * SECOND


def sums() -> dict[date, Decimal]:
    """Return kWh by day, from the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        usage = [Decimal(row["Usage_kWh"]) for row in csv.DictReader(file)]
    assert len(usage) == ROWS
    days = [usage[i : i + QUARTERS] for i in range(0, len(usage), QUARTERS)]
    return {FIRST + timedelta(days=i): sum(day, Decimal(0)) for i, day in enumerate(days)}


def by_month(days: dict[date, Decimal]) -> dict[date, Decimal]:
    months: dict[date, Decimal] = {}
    for day, energy in days.items():
        months[day.replace(day=1)] = months.get(day.replace(day=1), Decimal(0)) + energy
    return months


def written(folder: Path, device: str) -> Path:
    path = folder / "plant.yaml"
    path.write_text(PLANT.format(device=device), "utf-8")
    return path


async def ended(agent: Agent, running: "asyncio.Task[None]", began: float) -> Played:
    """Stop the agent and return what it has made."""
    open_windows = {row.schema.stream: row for row in agent.pipeline.running()}
    agent.stop()
    await running
    history = History(agent.config.data / "history.db")
    return Played(history, agent.counts(), open_windows, time.perf_counter() - began)


async def polled(folder: Path) -> Played:
    """Play the whole file through a meter; time stands still while a scan is under way."""
    recording = RecordedMeter(initial=INITIAL)
    clock = VirtualClock(recording.start)
    table = device_table("meter", {"connect": "?unit=3", "template": "acrel/adl3000"})
    server = ModbusServer([Unit(table, recording.source(), clock)])
    path = written(folder, METER.format(port=await server.start()))
    agent, began = Agent(load(path), clock, grace=120), time.perf_counter()
    try:
        with clock.participant():
            running = asyncio.create_task(agent.run(), name="agent")
            await agent.ready.wait()
            await clock.sleep(DAYS * 86400 + 60)
            return await ended(agent, running, began)
    finally:
        await server.close()


async def replayed(folder: Path) -> Played:
    """Play the file as a device; it sets the pace, so the clock has nothing to do."""
    clock = VirtualClock(midnight(FIRST))
    config = load(written(folder, REPLAY.format(file=FILE)))
    agent, began = Agent(config, clock, grace=120), time.perf_counter()
    running = asyncio.create_task(agent.run(), name="agent")
    await agent.ready.wait()
    link = agent.health.links["meter"]
    while link.rows_read < ROWS + 1 and not running.done():  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.01)
    return await ended(agent, running, began)


@pytest.fixture(scope="module")
def meter(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return asyncio.run(polled(tmp_path_factory.mktemp("meter")))


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return asyncio.run(replayed(tmp_path_factory.mktemp("replay")))


def told(played: Played, window: str) -> dict[date, Decimal]:
    """Return kWh by the local date on which a window begins; closed windows, then the open one."""
    stream = f"plant/{window}"
    closed = played.rows(stream)
    assert (closed.quality == Quality.GOOD)[closed.schema.index["electricity"]].all()
    assert (closed["coverage"] == 1.0).all()
    assert (closed["estimated"] == 0.0).all()
    blocks = [closed, *([played.running[stream]] if stream in played.running else [])]
    found: dict[date, Decimal] = {}
    for block in blocks:
        for end, energy in zip(block.time.tolist(), block["electricity"].tolist(), strict=True):
            day = datetime.fromtimestamp(end // SECOND - 1, ZONE).date()
            found[day.replace(day=1) if window == "1mo" else day] = Decimal(energy)
    return found


def largest_difference(one: dict[date, Decimal], other: dict[date, Decimal]) -> Decimal:
    assert list(one) == list(other)
    return max(abs(one[day] - other[day]) for day in one)


# ---- through the meter -----------------------------------------------------------------------


def test_every_scan_of_the_meter_is_accounted_for(meter: Played) -> None:
    assert meter.counts.conserved
    assert meter.counts.substituted == meter.counts.dropped == 0
    # two streams; one has the last border, the other is read at the start too
    assert meter.counts.read == 2 * DAYS * QUARTERS + 2


def test_each_day_through_the_meter_is_the_file_s_to_a_count_of_the_register(
    meter: Played,
) -> None:
    assert len(told(meter, "1d")) == DAYS
    assert largest_difference(told(meter, "1d"), sums()) <= RESOLUTION


def test_each_month_through_the_meter_is_the_file_s_to_a_count_of_the_register(
    meter: Played,
) -> None:
    months = told(meter, "1mo")
    assert len(months) == 10  # the last is the day of October, a window that is still open
    assert largest_difference(months, by_month(sums())) <= RESOLUTION


def test_hours_days_and_months_add_up_to_the_last_register_less_the_first_exactly(
    meter: Played,
) -> None:
    minute, start = 60 * SECOND, midnight(FIRST)
    begin = meter.rows("meter/slot.slow", start, start + minute)
    end = meter.history.last("meter/slot.slow", 1)
    assert end is not None
    assert end.time[0] == midnight(FIRST + timedelta(days=DAYS))
    first = Fraction(begin["active_energy_import.reading"][0])
    first -= Fraction(begin["active_energy_import.increment"][0])
    last = Fraction(end["active_energy_import.reading"][0])
    assert abs(Decimal(float(first)) - INITIAL) <= Decimal(1) / GRID
    hours = meter.rows("plant/1h")["electricity"].tolist()
    for amounts in (hours, told(meter, "1d").values(), told(meter, "1mo").values()):
        assert sum(map(Fraction, amounts)) == last - first
    assert abs(Decimal(float(last - first)) - sum(sums().values())) <= Decimal(1) / GRID


def months() -> Iterator[tuple[date, int, int]]:
    starts = [date(2018, month, 1) for month in range(1, 11)]
    for start, end in pairwise(starts):
        yield start, midnight(start), midnight(end)


def test_mean_power_times_hours_is_the_energy_of_the_month(meter: Played) -> None:
    energy = by_month(sums())
    for month, start, end in months():
        slots = meter.rows("meter/slot", start, end)
        hours = slots["active_power.coverage"] / 60
        # the power is read in the middle of a quarter: the first half of the first is not known
        assert hours.sum() >= (end - start) / SECOND / 3600 - 0.1251
        integral = float(np.nansum(slots["active_power.mean"] * hours))
        assert integral == pytest.approx(float(energy[month]), rel=0.005)


# ---- as a file -------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["1d", "1mo"])
def test_each_day_and_month_of_the_replayed_file_is_the_file_s(replay: Played, window: str) -> None:
    expected = sums() if window == "1d" else by_month(sums())
    assert largest_difference(told(replay, window), expected) <= Decimal(1) / GRID


def test_the_replayed_file_adds_up_to_its_own_total_exactly(replay: Played) -> None:
    total = Fraction(sum(sums().values()))
    on_grid = Fraction(round(total * GRID), GRID)
    hours = replay.rows("plant/1h")["electricity"].tolist()
    for amounts in (hours, told(replay, "1d").values(), told(replay, "1mo").values()):
        assert sum(map(Fraction, amounts)) == on_grid
    assert replay.counts.conserved
    assert replay.counts.read == ROWS + 1  # a total has one reading more than amounts
