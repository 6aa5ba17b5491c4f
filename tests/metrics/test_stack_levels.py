"""Hours, days, months and years of a stack against a slow version; a recorded gas turbine."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.metrics.base import Limit, Window
from edge_agent.metrics.emissions import EmissionsConfig
from edge_agent.metrics.rollup import RollUp
from edge_agent.model import Family, Quality, SampleBlock, Schema, Site
from simulators.recorded import GAS_TURBINE
from tests.metrics.examples.emissions import CONFIG
from tests.metrics.oracle import MINUTE, Result
from tests.metrics.plants import SECOND, Works, agrees, pieces, run, tag
from tests.metrics.stack_oracle import HOUR, Stack, hours, longer, ns_of

LEVELS: tuple[Window, ...] = ("1min", "1h", "1d", "1mo", "1a", "12mo")
TWO = replace(CONFIG, pm=None, actual=False, windows=LEVELS)
ONE = replace(TWO, so2=None, wet=("nox", "o2"))


def works(zone: str = "Asia/Shanghai") -> Works:
    return Works(site=Site("works", "main", "works", ZoneInfo(zone)))


def rollups(config: EmissionsConfig, plant: Works) -> dict[str, RollUp]:
    made = [metric for metric in config.build("kpi", plant) if isinstance(metric, RollUp)]
    return {metric.output.name: metric for metric in made}


def stack_of(zone: str, gases: Sequence[str]) -> Stack:
    place = ZoneInfo(zone)
    limits = {"so2": lambda s: 60.0 if s < second else 40.0, "nox": lambda _: 100.0}
    second = ns_of(datetime(2026, 1, 2, tzinfo=place))
    return Stack(
        gases,
        place,
        condition=True,
        output=True,
        hourly={gas: limits[gas] for gas in gases},
        daily={"nox": lambda _: 90.0},
    )


def minutes_of(schema: Schema, start: int, days: int, seed: int) -> SampleBlock:
    """Minute rows of a stack with hours that are lost, stopped or thin."""
    random, n = np.random.default_rng(seed), days * 1440
    value = np.empty((len(schema.tags), n))
    quality = np.zeros(value.shape, np.uint8)
    for i, signal in enumerate(schema.tags):
        center = {"mg/m3": 50.0, "kg": 0.05, "%": 9.0, "Nm3": 4000.0, "t": 2.0}
        value[i] = random.gamma(4.0, center.get(signal.unit.code, 4.0) / 4.0, n)
        value[i] *= np.repeat(random.choice([0.5, 1.0, 2.5], n // 720), 720)
        if signal.unit.code == "min":
            value[i] = random.random(n) < 0.02
        lost = random.random(n) < 0.05
        for _ in range(days // 2):
            at, length = random.integers(n), random.choice([20, 60, 500, 2000])
            lost[at : at + length] = random.random() < 0.5
        if signal.unit.code != "min":
            quality[i, lost] = random.choice([128, 131, 191], lost.sum())
            quality[i, random.random(n) < 0.1] |= 64
    index = schema.index
    for _ in range(days // 3):
        at = random.integers(n)
        value[index["stopped_min"], at : at + 300] = 1.0
    value[index["coverage"]] = random.choice([0.5, 0.9, 1.0, 1.0], n)
    value[index["estimated"]] = 0.0
    quality[-2:] = 0
    value[quality >= Quality.BAD] = np.nan
    time = start + (np.arange(n) + 1) * MINUTE
    return SampleBlock(schema, time, value, quality)


def as_rows(block: SampleBlock) -> Result:
    found: Result = {}
    names = [signal.name for signal in block.schema.tags]
    columns = [
        [(None if q >= 128 else v, q) for v, q in zip(values, marks, strict=True)]
        for values, marks in zip(block.value.tolist(), block.quality.tolist(), strict=True)
    ]
    for i, end in enumerate(block.time.tolist()):
        found[end] = {name: column[i] for name, column in zip(names, columns, strict=True)}
    return found


@pytest.mark.parametrize(
    ("config", "zone", "first", "days"),
    [
        (ONE, "Asia/Shanghai", (2026, 1, 31), 31),  # all of February
        (TWO, "Europe/Berlin", (2026, 3, 20), 14),  # a day of 23 hours, and the quarter's end
    ],
)
def test_hours_days_and_months_equal_the_slow_version(
    config: EmissionsConfig, zone: str, first: tuple[int, int, int], days: int
) -> None:
    plant = works(zone)
    schema = config.build("kpi", plant)[0].output
    gases = [gas for gas in ("so2", "nox") if gas in schema.index]
    stack = stack_of(zone, gases)
    block = minutes_of(schema, ns_of(datetime(*first, tzinfo=ZoneInfo(zone))), days, 5)
    found = run(list(rollups(config, plant).values()), pieces(block, Random(1), 700))
    agrees(found["kpi/1h"], hours(stack, as_rows(block)), 1e-12)
    for level, shorter in (("1d", "1h"), ("1mo", "1d")):
        wanted = longer(stack, as_rows(found[f"kpi/{shorter}"]), level)
        over = found[f"kpi/{level}"]
        agrees(over, dict(list(wanted.items())[: len(over)]), 1e-12)
        assert len(over) >= len(wanted) - 1
    # every case stands in the rows that were compared
    hour, day = found["kpi/1h"], found["kpi/1d"]
    for name in ("nox_exceeded", "nox_valid_h"):
        assert set(hour[name][~np.isnan(hour[name])]) == {0.0, 1.0}, name
    assert len(set(day["nox_valid_d"])) == 2 or days < 20
    marks = hour.quality[hour.schema.index["nox_mass_substituted_kg"]]
    assert {Quality.GOOD, Quality.UNCERTAIN_SUBSTITUTED} <= set(marks.tolist())
    assert 1.0 in hour["stopped_h"]
    assert (hour["estimated"] > 0).any()


def test_a_year_and_the_last_twelve_months_equal_the_slow_version() -> None:
    plant, stack = works(), stack_of("Asia/Shanghai", ("nox",))
    made = rollups(ONE, plant)
    random, schema = np.random.default_rng(3), made["1mo"].output
    ends = [datetime(2025 + m // 12, m % 12 + 1, 1, tzinfo=stack.zone) for m in range(3, 28)]
    value = random.random((len(schema.tags), len(ends))) + 1.0
    value[-2:] = [[0.9], [0.05]]
    quality = np.where(random.random(value.shape) < 0.2, Quality.BAD_MISSING, Quality.GOOD)
    quality[-2:] = 0
    value[quality >= Quality.BAD] = np.nan
    time = np.array([ns_of(end) for end in ends])
    months = SampleBlock(schema, time, value, quality.astype(np.uint8))
    found = run([made["1a"], made["12mo"]], [months])
    years = longer(stack, as_rows(months), "1a")
    agrees(found["kpi/1a"], dict(list(years.items())[: len(found["kpi/1a"])]), 1e-12)
    assert len(years) == 3
    rolling = found["kpi/12mo"]
    assert rolling["nox_mass_kg"][14] == pytest.approx(
        np.nansum(months["nox_mass_kg"][3:15]), rel=1e-12
    )
    known = months["nox_corrected"][3:15]
    assert rolling["nox_corrected"][14] == pytest.approx(np.nanmean(known), rel=1e-12)


# a recorded gas turbine -------------------------------------------------------------------------

TURBINE = Schema("turbine/raw", Family.SAMPLE, (tag("co", "mg/m3"), tag("nox", "mg/m3")), 3600.0)
SPRING = ns_of(datetime(2015, 1, 1, tzinfo=ZoneInfo("Asia/Shanghai")))


class Turbine(Works):
    """A plant that has the turbine's analyser and nothing else."""

    def raw(self, name: str) -> Schema:
        assert name in {"turbine.co", "turbine.nox"}
        return TURBINE

    def limits(self, prefix: str) -> tuple[Limit, ...]:
        return (Limit(prefix, "nox", 100.0, "mg/m3", "1h", None, "", "", False),)


def recorded() -> list[tuple[float, float]]:
    with Path(GAS_TURBINE).open(encoding="utf-8", newline="") as file:
        return [(float(row["co_mg_m3"]), float(row["nox_mg_m3"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("longest", [5, 3000])
def test_a_recorded_gas_turbine_gives_the_figures_of_one_pass(longest: int) -> None:
    """Hourly concentrations, without oxygen and flow; judged by 100 mg/m3 of NOx."""
    rows = recorded()
    time = SPRING + np.arange(len(rows)) * HOUR
    value = np.array(rows).T.copy()
    block = SampleBlock(TURBINE, time, value, np.zeros(value.shape, np.uint8))
    config = EmissionsConfig(
        co="turbine.co", nox="turbine.nox", limits="turbine", windows=LEVELS[:4]
    )
    found = run(config.build("kpi", Turbine()), pieces(block, Random(2), longest))

    def local(i: int) -> datetime:
        return datetime.fromtimestamp((SPRING + i * HOUR) // SECOND, ZoneInfo("Asia/Shanghai"))

    whole = [(local(i), row) for i, row in enumerate(rows[: found["kpi/1h"].value.shape[1]])]
    for gas, column in (("co", 0), ("nox", 1)):
        hourly = [row[column] for _, row in whole]
        np.testing.assert_allclose(found["kpi/1h"][gas], hourly, rtol=1e-9)
        np.testing.assert_allclose(found["kpi/1h"][f"{gas}_corrected"], hourly, rtol=1e-9)
        days = [
            [row[column] for _, row in group] for _, group in groupby(whole, lambda r: r[0].date())
        ]
        means = [sum(day) / len(day) for day in days]
        n = len(found["kpi/1d"])
        np.testing.assert_allclose(found["kpi/1d"][gas], means[:n], rtol=1e-9)
        months = [
            [mean for mean, _ in group]
            for _, group in groupby(
                ((m, local(24 * i).month) for i, m in enumerate(means[:n])), lambda r: r[1]
            )
        ]
        found_months = found["kpi/1mo"]
        wanted = [sum(month) / len(month) for month in months[: len(found_months)]]
        assert len(wanted) == 3  # January to March are over
        np.testing.assert_allclose(found_months[gas], wanted, rtol=1e-9)
    over = [row[1] > 100.0 for _, row in whole]
    np.testing.assert_array_equal(found["kpi/1h"]["nox_exceeded"], np.array(over, float))
    by_month = [
        sum(row[1] > 100.0 for _, row in group) for _, group in groupby(whole, lambda r: r[0].month)
    ]
    assert found["kpi/1mo"]["nox_exceeded_h"].tolist() == by_month[:3]
    assert 0 < by_month[0] < 744
