"""Merging rows into longer windows: sums, maxima, chains of windows, twelve months."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.agent import ordered
from edge_agent.metrics.base import MINUTE, Metric, Plant, QualityLimits, Window
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.formula import SHARES, Formula, Sums, merged, ratio, schema_of
from edge_agent.metrics.rollup import Rolling, RollUp
from edge_agent.metrics.windows import Calendar
from edge_agent.model import F64, U8, Family, Quality, SampleBlock, Tag
from edge_agent.units import Unit
from tests.metrics.plants import Works, restored, run, same

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")


@dataclass(frozen=True)
class Load(Formula):
    """Energy, the highest power, and their quotient."""

    limits: QualityLimits = field(default_factory=QualityLimits)

    @property
    def family(self) -> Family:
        return Family.DEMAND

    @property
    def tags(self) -> tuple[Tag, ...]:
        kwh, kw, hour = (Unit.parse(unit) for unit in ("kWh", "kW", "h"))
        return (Tag("energy", kwh), Tag("peak", kw), Tag("hours", hour), *SHARES)

    @property
    def additive(self) -> tuple[str, ...]:
        return ("energy", "peak")

    @property
    def peaks(self) -> NDArray[np.bool_]:
        return np.array([False, True])

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = merged(sums, self.limits)
        hours, mark = ratio(sums.total[0], sums.total[1], quality.max(axis=0))
        return np.vstack([sums.total, hours]), np.vstack([quality, mark])


def ns(text: str, zone: ZoneInfo = SHANGHAI) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 10**9


def months(*days: str, energy: float = 10.0) -> SampleBlock:
    """Day rows with these ends; the peak is negative, and grows."""
    time = np.array([ns(day) for day in days], np.int64)
    n = len(time)
    value = np.array([[energy] * n, np.arange(n) - 100.0, [np.nan] * n, [1.0] * n, [0.0] * n])
    quality = np.zeros((5, n), np.uint8)
    quality[2] = Quality.BAD_NOT_AVAILABLE
    return SampleBlock(schema_of("m", "1d", Load()), time, value, quality)


def days(first: str, n: int, zone: ZoneInfo = SHANGHAI) -> SampleBlock:
    calendar, at, ends = Calendar(zone), ns(first, zone), []
    for _ in range(n):
        span = calendar.window("1d", at)
        assert span is not None
        ends.append(at := span[1])
    shown = (datetime.fromtimestamp(end // 10**9, UTC).astimezone(zone) for end in ends)
    block = months(*(day.replace(tzinfo=None).isoformat() for day in shown))
    return SampleBlock(block.schema, np.array(ends, np.int64), block.value, block.quality)


def test_a_peak_is_the_largest_also_of_negative_numbers_and_the_sum_a_sum() -> None:
    rollup = RollUp("m", Load(), "1mo", Calendar(SHANGHAI), source="1d")
    found = rollup.update(days("2026-03-01", 31))
    assert found is not None
    assert found["energy"].tolist() == [310.0]
    assert found["peak"].tolist() == [-70.0]
    assert found.quality[:, 0].tolist() == [0, 0, 0, 0, 0]
    assert found["coverage"].tolist() == [1.0]


def test_a_peak_of_which_a_part_is_unknown_is_that_of_the_rest_and_uncertain() -> None:
    block = days("2026-03-01", 31)
    value, quality = block.value.copy(), block.quality.copy()
    value[1, 30], quality[1, 30] = np.nan, Quality.BAD_MISSING
    block = SampleBlock(block.schema, block.time, value, quality)
    rollup = RollUp("m", Load(), "1mo", Calendar(SHANGHAI), source="1d")
    found = rollup.update(block)
    assert found is not None
    assert found["peak"].tolist() == [-71.0]
    assert found.quality[1].tolist() == [Quality.UNCERTAIN]


@pytest.mark.parametrize(("first", "n"), [("2026-03-01", 31), ("2026-10-01", 31)])
def test_a_month_of_days_of_23_or_25_hours_is_whole(first: str, n: int) -> None:
    rollup = RollUp("m", Load(), "1mo", Calendar(BERLIN), source="1d")
    found = rollup.update(days(first, n, BERLIN))
    assert found is not None
    assert found["coverage"].tolist() == [1.0]
    assert found.quality[0].tolist() == [0]


def test_a_month_with_a_missing_day_says_so() -> None:
    rollup = RollUp("m", Load(), "1mo", Calendar(SHANGHAI), source="1d")
    block = days("2026-03-01", 31)
    rollup.update(block.rows(0, 10))
    found = rollup.update(block.rows(11, 31))
    assert found is not None
    assert found["coverage"].tolist() == [30 / 31]
    assert found.quality[0].tolist() == [Quality.UNCERTAIN]


def year_after(first: str, n: int, window: Window = "12mo") -> SampleBlock:
    rolling = Rolling("m", Load(), Calendar(SHANGHAI), source="1d")
    assert rolling.output.stream == f"m/{window}"
    found = run([rolling], [days(first, n)])[f"m/{window}"]
    assert found.schema == rolling.output
    return found


def test_twelve_months_are_the_last_twelve_at_each_months_end() -> None:
    found = year_after("2025-01-01", 365 + 31 + 28)
    local = [datetime.fromtimestamp(t // 10**9, SHANGHAI).date().isoformat() for t in found.time]
    assert local[10:] == ["2025-12-01", "2026-01-01", "2026-02-01", "2026-03-01"]
    assert found["energy"].tolist()[-3:] == [3650.0, 3650.0, 3650.0]
    assert found["coverage"].tolist()[-3:] == [1.0, 1.0, 1.0]
    assert found.quality[0].tolist()[-3:] == [0, 0, 0]
    assert found["peak"].tolist()[-1] == days("2025-01-01", 424)["peak"][-1]


def test_the_first_months_of_twelve_are_marked_with_what_is_missing() -> None:
    found = year_after("2025-01-01", 59)
    assert found["energy"].tolist() == [310.0, 590.0]
    assert found["coverage"].tolist() == [31 / 366, 59 / 365]  # 2024 was a leap year
    assert found.quality[0].tolist() == [Quality.UNCERTAIN, Quality.UNCERTAIN]


def test_a_month_that_was_never_seen_is_missing_from_the_twelve() -> None:
    rolling = Rolling("m", Load(), Calendar(SHANGHAI), source="1d")
    found = run([rolling], [days("2025-01-01", 31), days("2025-03-01", 306)])["m/12mo"]
    assert found["coverage"].tolist()[-1] == pytest.approx((365 - 28) / 365, rel=1e-12)
    assert found["energy"].tolist()[-1] == 3370.0


def test_twelve_months_survive_a_restart_between_any_two_months() -> None:
    whole = year_after("2025-01-01", 500)

    def fresh() -> Rolling:
        return Rolling("m", Load(), Calendar(SHANGHAI), source="1d")

    block = days("2025-01-01", 500)
    pieces = [block.rows(i, i + 20) for i in range(0, 500, 20)]
    same(whole, run([fresh()], pieces, lambda old: restored(fresh(), old))["m/12mo"])


def test_a_running_month_counts_the_days_that_have_passed() -> None:
    rollup = RollUp("m", Load(), "1mo", Calendar(SHANGHAI), source="1d")
    block = days("2026-03-01", 10)
    rollup.update(block)
    noon = block.value[:, -1:].copy()
    half = int(block.time[-1]) + 720 * MINUTE
    part = SampleBlock(block.schema, np.array([half]), noon, block.quality[:, -1:].copy())
    row = rollup.running(half, {"m/1d": part})
    assert row is not None
    assert row["energy"].tolist() == [110.0]
    assert row["coverage"].tolist() == [1.0]
    assert row.quality[0].tolist() == [0]


# references ---------------------------------------------------------------------------------------

CLINKER = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "1h", "1d"))


@pytest.mark.parametrize(
    ("reference", "stream", "column"),
    [
        ("clinker.total_kgce", "clinker/1min", "total_kgce"),
        ("clinker.total_kgce_1h", "clinker/1h", "total_kgce"),
        ("clinker.electricity_kgce_1d", "clinker/1d", "electricity_kgce"),
    ],
)
def test_a_column_of_another_metric_is_found_by_name_and_window(
    reference: str, stream: str, column: str
) -> None:
    schema, name = Works(metrics={"clinker": CLINKER}).derived(reference)
    assert (schema.stream, name) == (stream, column)


@pytest.mark.parametrize(
    "reference", ["clinker.total_kgce_1mo", "clinker.steam", "mill.total_kgce"]
)
def test_a_column_that_does_not_exist_is_told(reference: str) -> None:
    with pytest.raises(KeyError, match=r"no column of clinker|unknown metric"):
        Works(metrics={"clinker": CLINKER}).derived(reference)


@dataclass(frozen=True, kw_only=True)
class Circular(EnergyConfig):
    """A metric that asks for a column of another while it is built."""

    other: str = ""

    def build(self, name: str, plant: Plant) -> list[Metric]:
        plant.derived(self.other)
        return super().build(name, plant)


def test_metrics_that_use_each_other_are_told() -> None:
    circle = {
        name: Circular(inputs={"electricity": ("em-a.energy",)}, other=f"{other}.total_kgce")
        for name, other in (("a", "b"), ("b", "a"))
    }
    with pytest.raises(KeyError, match="in a circle: a -> b -> a"):
        Works(metrics=circle).named.outputs("a")


def test_a_metric_stands_behind_those_whose_rows_it_takes() -> None:
    metrics = CLINKER.build("clinker", Works())
    streams = [metric.output.stream for metric in ordered(metrics[::-1])]
    assert streams == ["clinker/1min", "clinker/1d", "clinker/1h"]


def test_a_derived_row_says_what_it_rests_on_and_its_state_outlives_a_change_of_that() -> None:
    one, other = (
        schema_of("m", "1h", Load(), ("config:1", "table:row")),
        schema_of("m", "1h", Load(), ("config:2",)),
    )
    assert one.id != other.id
    assert one.layout == other.layout
    assert type(one).from_canonical(one.canonical) == one
