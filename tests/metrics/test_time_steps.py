"""Days of a time change, ends of months and steps of the clock: windows stay right and marked."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.metrics.base import MINUTE, MetricConfig
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.oee import OeeConfig
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Kind, Quality, SampleBlock, Site
from edge_agent.units import Duration
from tests.metrics.plants import METER, PACKER, SECOND, Works, operators, run

HOUR = 60 * MINUTE
BERLIN = ZoneInfo("Europe/Berlin")
SHIFTS = {"A": "06:00-14:00", "B": "14:00-22:00", "N": "22:00-06:00"}
ENERGY = EnergyConfig(
    inputs={"electricity": ("em-a.energy",)}, windows=("1min", "1h", "shift", "1d", "1mo")
)
OEE = OeeConfig(
    state="packer.state",
    states={"producing": (1,), "idle": (2,)},
    produced="packer.bags",
    ideal_cycle=Duration(1.0),
    windows=("1min", "1h", "shift", "1d"),
)
LOAD = 0.1  # kWh a minute; and 60 bags


def ns(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * SECOND


def rows(times: np.ndarray, marks: np.ndarray | None = None) -> list[SampleBlock]:
    """Both machines at these times, with a steady load; marks: the quality of each row."""
    n, passed = len(times), (times - times[0]) / MINUTE
    quality = np.zeros(n, np.uint8) if marks is None else marks
    found = []
    for schema in (METER, PACKER):
        value = np.zeros((len(schema.tags), n))
        for i, tag in enumerate(schema.tags):
            if tag.kind is Kind.COUNTER:
                rate = 60.0 if tag.name == "bags" else LOAD
                value[i] = np.round(passed * rate, 6) % (tag.modulus or np.inf)
            elif tag.kind is Kind.STATE:
                value[i] = 1.0
        block = SampleBlock(schema, times, value, np.tile(quality, (len(schema.tags), 1)))
        found += [block.rows(i, i + 500) for i in range(0, n, 500)]
    return sorted(found, key=lambda block: int(block.time[-1]))


def made(config: MetricConfig, blocks: list[SampleBlock]) -> Mapping[str, SampleBlock]:
    plant = Works(site=Site("works", "main", "works", BERLIN), shifts=SHIFTS)
    return run([*operators(), *config.build("kpi", plant)], blocks)


def every(seconds: int, begin: int, end: int) -> np.ndarray:
    return np.arange(begin, end + 1, seconds * SECOND, dtype=np.int64)


TIME_CHANGES = pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])


def around(day: str) -> tuple[list[SampleBlock], int]:
    """Rows from the evening before a day to the morning after it, and the end of the day."""
    midnight = datetime.fromisoformat(day)
    before, after = midnight - timedelta(hours=2.1), midnight + timedelta(hours=24.1)
    end = ns((midnight + timedelta(days=1)).isoformat())
    return rows(every(15, ns(before.isoformat()), ns(after.isoformat()))), end


@TIME_CHANGES
def test_the_energy_of_a_day_of_a_time_change_is_that_of_its_hours(day: str, hours: int) -> None:
    blocks, end = around(day)
    found = made(ENERGY, blocks)
    days = found["kpi/1d"]
    at = days.time.tolist().index(end)
    assert days["coverage"][at] == 1.0
    assert days.quality[0, at] == Quality.GOOD
    assert days["electricity"][at] == pytest.approx(hours * 60 * LOAD, abs=1e-4)
    hour = found["kpi/1h"]
    assert np.diff(hour.time).tolist() == [HOUR] * (len(hour) - 1)


@TIME_CHANGES
def test_the_night_shift_of_a_time_change_is_as_long_as_it_was(day: str, hours: int) -> None:
    blocks, end = around(day)
    found = made(OEE, blocks)
    days, shifts = found["kpi/1d"], found["kpi/shift"]
    assert days["pbt_s"][days.time.tolist().index(end)] == hours * 3600
    night = shifts.time.tolist().index(ns(f"{day}T06:00"))
    assert shifts["pbt_s"][night] == (hours - 16) * 3600
    assert shifts["coverage"][night] == 1.0


@pytest.mark.parametrize("month", ["2026-02", "2028-02", "2026-12"])
def test_the_last_minute_of_a_month_belongs_to_it_and_the_next_to_the_next(month: str) -> None:
    first = datetime.fromisoformat(f"{month}-01")
    following = (first + timedelta(days=32)).replace(day=1)
    border = ns(following.isoformat())
    blocks = rows(every(10, border - 2 * HOUR, border + 2 * HOUR))
    months = made(ENERGY, blocks)["kpi/1mo"]
    assert months.time.tolist() == [border]
    assert months["electricity"][0] == pytest.approx(119 * LOAD + LOAD, abs=1e-4)
    span = Calendar(BERLIN).window("1mo", border - 1)
    assert span is not None
    assert months["coverage"][0] == pytest.approx(2 * HOUR / (span[1] - span[0]), rel=1e-9)
    assert months.quality[0, 0] >= Quality.UNCERTAIN


def test_a_leap_second_is_a_second_like_any_other() -> None:
    leap = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp()) * SECOND  # after 23:59:60
    minutes = made(ENERGY, rows(every(10, leap - HOUR, leap + HOUR)))["kpi/1min"]
    assert np.diff(minutes.time).tolist() == [MINUTE] * (len(minutes) - 1)
    inner = minutes["electricity"][1:]
    assert inner == pytest.approx(np.full(len(inner), LOAD), abs=1e-4)


def test_a_clock_that_jumps_an_hour_forward_leaves_an_hour_that_is_not_covered() -> None:
    begin = ns("2026-06-10T12:00")
    jump = begin + 3 * HOUR + 25 * MINUTE
    times = every(10, begin, begin + 9 * HOUR + 20 * MINUTE)
    stepped = np.where(times < jump, times, times + HOUR)
    energy, oee = made(ENERGY, rows(stepped)), made(OEE, rows(stepped))
    for found in (energy, oee):
        for window in ("1min", "1h", "shift"):
            ends = found[f"kpi/{window}"].time
            assert len(ends)
            assert bool((np.diff(ends) > 0).all())
    # the meter's energy of the gap is there, spread and marked; the machine's time is not
    minutes = energy["kpi/1min"]
    gap = (minutes.time > jump + MINUTE) & (minutes.time < jump + HOUR)
    assert gap.sum() == 58
    assert minutes["coverage"][gap].max() == 0.0
    assert minutes["estimated"][gap].min() == 1.0
    assert (minutes.quality[0, gap] >= Quality.UNCERTAIN).all()
    total = np.nansum(minutes["electricity"])
    passed = (int(minutes.time[-1]) - int(times[0]) - HOUR) / MINUTE
    assert total == pytest.approx((passed + 60) * LOAD, rel=0.02)
    standing = oee["kpi/1min"]
    gap = (standing.time > jump + MINUTE) & (standing.time < jump + HOUR)
    assert np.isnan(standing["apt_s"][gap]).all()
    hours = oee["kpi/1h"]
    around = hours.time == (jump // HOUR + 1) * HOUR
    assert 0.0 < hours["coverage"][around][0] < 0.95
    assert hours.quality[0, around][0] >= Quality.UNCERTAIN


def test_an_hour_on_a_clock_that_is_ahead_of_the_box_is_marked_in_every_window() -> None:
    """The box's clock was set back: stamps go on, marked until it has caught up (§7)."""
    begin = ns("2026-06-10T06:00")
    times = every(10, begin, begin + 8 * HOUR + MINUTE)
    back = (times >= begin + 2 * HOUR) & (times < begin + 3 * HOUR)
    marks = np.where(back, int(Quality.UNCERTAIN_CLOCK), 0).astype(np.uint8)
    energy, oee = made(ENERGY, rows(times, marks)), made(OEE, rows(times, marks))
    for found in (energy, oee):
        hours = found["kpi/1h"]
        marked = dict(zip(hours.time.tolist(), hours.quality[0].tolist(), strict=True))
        assert marked[begin + 3 * HOUR] == Quality.UNCERTAIN_CLOCK
        assert marked[begin + HOUR] == Quality.GOOD
        assert marked[begin + 5 * HOUR] == Quality.GOOD
        shift = found["kpi/shift"]
        assert shift.quality[0].tolist() == [Quality.UNCERTAIN_CLOCK]
