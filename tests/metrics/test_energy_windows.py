"""Energy over shifts, months and twelve months, worked out from what its minutes are."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.metrics.base import MINUTE, Metric, Window
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.rollup import RollUp
from edge_agent.model import F64, Quality, SampleBlock, Site
from tests.metrics.plants import SECOND, Works

ZONE = ZoneInfo("Asia/Shanghai")
KGCE = 0.125  # of a kWh here: sums of these minutes are exact
NIGHT = {"day": "06:00-22:00", "night": "22:00-06:00"}


def instant(*local: int) -> int:
    return round(datetime(*local, tzinfo=ZONE).timestamp()) * SECOND


def rollup(window: Window, plant: Works | None = None) -> tuple[Metric, Metric]:
    """The minutes of an energy metric and the operator of a longer window."""
    config = EnergyConfig(
        inputs={"electricity": ("em-a.energy",)}, output="scale.mass", windows=("1min", window)
    )
    minutes, longer = config.build("kpi", plant or Works())
    assert isinstance(longer, RollUp)
    return minutes, longer


def made_of(
    minutes: Metric,
    start: int,
    end: int,
    electricity: Callable[[datetime], float],
    output: Callable[[datetime], float],
) -> SampleBlock:
    """Minute rows whose amounts depend on the local hour in which they lie."""
    schema = minutes.output
    time = np.arange(start // MINUTE + 1, end // MINUTE + 1) * MINUTE
    hours, which = np.unique((time - 1) // (60 * MINUTE), return_inverse=True)
    begin = [datetime.fromtimestamp(h * 3600, UTC).astimezone(ZONE) for h in hours.tolist()]
    value = np.zeros((len(schema.tags), len(time)))
    kwh, made = (np.array([given(at) for at in begin])[which] for given in (electricity, output))
    for name, column in (("electricity", kwh), ("electricity_kgce", kwh * KGCE)):
        value[schema.index[name]] = column
    value[schema.index["output_t"]] = made
    value[schema.index["coverage"]] = 1.0
    return SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))


def column(block: SampleBlock, name: str) -> tuple[F64, list[int]]:
    return block[name], block.quality[block.schema.index[name]].tolist()


def test_twelve_months_roll_on_at_the_end_of_each_month() -> None:
    """2025: month m has m/8 kWh a minute; from 2026 on 2 kWh. 1/64 t a minute, none in May."""
    minutes, rolling = rollup("12mo")
    borders = [instant(2025 + m // 12, m % 12 + 1, 1) for m in range(16)]
    found = []
    for start, end in pairwise(borders):
        month = made_of(
            minutes,
            start,
            end,
            lambda at: at.month / 8 if at.year == 2025 else 2.0,
            lambda at: 0.0 if at.month == 5 else 1 / 64,
        )
        found += [row for row in (rolling.update(month),) if row is not None]
    assert [int(row.time[0]) for row in found] == borders[1:]
    length = [(b - a) // MINUTE for a, b in pairwise(borders)]
    kwh = [n * (m + 1) / 8 if m < 12 else n * 2.0 for m, n in enumerate(length)]
    tonnes = [0.0 if m % 12 == 4 else n / 64 for m, n in enumerate(length)]
    for last, row in enumerate(found):
        first = max(0, last - 11)
        assert row["electricity"][0] == sum(kwh[first : last + 1])
        assert row["output_t"][0] == sum(tonnes[first : last + 1])
        wanted = sum(kwh[first : last + 1]) / sum(tonnes[first : last + 1])
        assert row["intensity"][0] == pytest.approx(_coal(row) / row["electricity"][0] * wanted)
    # the year 2025 by hand: Σ m/8 · days · 1440
    days = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    year = sum(m * n for m, n in enumerate(days, 1)) * 1440 / 8
    assert found[11]["electricity"][0] == year == 428_760.0
    # one month on, January 2025 has gone and January 2026 has come
    assert found[12]["electricity"][0] == year - 31 * 1440 / 8 + 31 * 1440 * 2
    covered = [row["coverage"][0] for row in found]
    assert covered[0] == pytest.approx(31 / 365, abs=1e-3)  # of twelve months, not of one
    assert covered[11:] == [1.0] * 4
    qualities = [column(row, "electricity")[1][0] for row in found]
    assert qualities == [Quality.UNCERTAIN] * 11 + [Quality.GOOD] * 4


def _coal(row: SampleBlock) -> float:
    return float(row["total_kgce"][0])


def test_an_hour_without_output_has_energy_and_no_intensity_and_counts_for_its_day() -> None:
    day = instant(2026, 3, 2), instant(2026, 3, 3)

    def output(at: datetime) -> float:
        return 0.0 if at.hour in {2, 3} else 0.25

    minutes, hours = rollup("1h")
    rows = hours.update(made_of(minutes, *day, lambda _: 1.0, output))
    assert rows is not None
    value, quality = column(rows, "intensity")
    idle = [hour in {2, 3} for hour in range(24)]
    assert np.isnan(value).tolist() == idle
    assert [q == Quality.BAD_NOT_AVAILABLE for q in quality] == idle
    coal, quality = column(rows, "total_kgce")
    assert len(set(coal.tolist())) == 1  # the base load of an idle hour is not lost
    assert set(quality) == {Quality.GOOD}
    minutes, days = rollup("1d")
    rows = days.update(made_of(minutes, *day, lambda _: 1.0, output))
    assert rows is not None
    assert rows["output_t"][0] == 22 * 60 * 0.25
    assert rows["intensity"][0] == pytest.approx(coal.sum() / (22 * 60 * 0.25))


def test_a_shift_over_midnight_is_one_window_also_over_the_end_of_a_month() -> None:
    """1 kWh a minute until midnight, 3 kWh afterwards: 120 and 360 minutes of the night."""
    minutes, shifts = rollup("shift", Works(shifts=NIGHT))
    start, end = instant(2026, 2, 28, 6), instant(2026, 3, 1, 22)
    block = made_of(minutes, start, end, lambda at: 1.0 if at.month == 2 else 3.0, lambda _: 0.25)
    rows = shifts.update(block)
    assert rows is not None
    ends = [instant(2026, 2, 28, 22), instant(2026, 3, 1, 6), instant(2026, 3, 1, 22)]
    assert rows.time.tolist() == ends
    assert rows["electricity"].tolist() == [960.0, 120.0 * 1 + 360.0 * 3, 2880.0]
    assert rows["output_t"].tolist() == [240.0, 120.0, 240.0]
    assert rows["coverage"].tolist() == [1.0, 1.0, 1.0]
    minutes, days = rollup("1d", Works(shifts=NIGHT))
    day = days.update(block)
    assert day is not None
    assert int(day.time[0]) == instant(2026, 3, 1)  # the day ends where the shift goes on
    assert day["electricity"][0] == 18 * 60


def test_a_shift_over_midnight_in_a_night_of_a_clock_change_has_its_length() -> None:
    """Central Europe, 2026-03-29: 2:00 becomes 3:00, so the night has seven hours."""
    zone = ZoneInfo("Europe/Berlin")
    minutes, shifts = rollup("shift", Works(site=Site("w", "main", "w", zone), shifts=NIGHT))
    start = round(datetime(2026, 3, 28, 22, tzinfo=zone).timestamp()) * SECOND
    end = round((datetime(2026, 3, 28, 21, tzinfo=UTC) + timedelta(hours=7)).timestamp()) * SECOND
    rows = shifts.update(made_of(minutes, start, end, lambda _: 1.0, lambda _: 0.25))
    assert rows is not None
    assert (rows.time.tolist(), rows["electricity"].tolist()) == ([end], [420.0])
