"""Demand worked out by hand: windows, gaps, late energy, forecast, contract."""

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from edge_agent.metrics.base import Metric, MetricConfig, QualityLimits
from edge_agent.metrics.demand import DemandConfig, quantity
from edge_agent.metrics.quarters import Demands, Loads, Quarter
from edge_agent.metrics.tariff_tables import DemandRule
from edge_agent.model import Quality, SampleBlock
from edge_agent.outbox_schema import as_json
from tests.metrics.plants import (
    METER,
    SECOND,
    START,
    Works,
    interleaved,
    operators,
    plant_rows,
    restored,
    run,
    same,
)

MINUTE = 60 * SECOND
BY_POWER = DemandConfig(power="em-a.power", windows=("1min", "15min"))
BY_ENERGY = DemandConfig(energy="em-a.energy", windows=("1min", "15min", "1h"))
RULE = DemandRule(tolerance=1.05, excess_factor=2.0, minimum_share=0.4, id="rule")


def meter(minutes: float, load: Sequence[float], power: float | None = None) -> SampleBlock:
    """Rows of the meter each 5 s; the load is kW by the minute, the last one holds on."""
    n = round(minutes * 12) + 1
    seconds = np.arange(n) * 5.0
    kw = np.array([load[min(int(s // 60), len(load) - 1)] for s in seconds])
    value = np.zeros((len(METER.tags), n))
    value[METER.index["power"]] = kw if power is None else power
    value[METER.index["energy"]] = 100.0 + np.append(0.0, np.cumsum(kw[:-1] * 5 / 3600))
    time = START + np.rint(seconds * 1e9).astype(np.int64)
    return SampleBlock(METER, time, value, np.zeros(value.shape, np.uint8))


def compute(config: MetricConfig, blocks: Sequence[SampleBlock]) -> dict[str, SampleBlock]:
    return run([*operators()[:1], *config.build("kpi", Works())], blocks)


def at(rows: SampleBlock, minute: int) -> dict[str, float]:
    i = rows.time.tolist().index(START + minute * MINUTE)
    return {tag.name: float(rows.value[j, i]) for j, tag in enumerate(rows.schema.tags)}


def mark(rows: SampleBlock, column: str, minute: int) -> int:
    i = rows.time.tolist().index(START + minute * MINUTE)
    return int(rows.quality[rows.schema.index[column], i])


def loads(energy: Sequence[float | None], quality: int = 0, counted: bool = True) -> Loads:
    """Minutes of these kWh; None: not known."""
    value = np.array([0.0 if e is None else e for e in energy])
    known = np.array([0 if e is None else MINUTE for e in energy], np.int64)
    marks = np.array([191 if e is None else quality for e in energy], np.uint8)
    return Loads(value, known, marks, value * 60, marks, counted)


def take(quarter: Quarter, start: int, minutes: Loads) -> Demands:
    ends = START + (start + 1 + np.arange(len(minutes.energy))) * MINUTE
    return quarter.take(ends, minutes)


# ---- windows ---------------------------------------------------------------------------------


def test_a_peak_across_the_border_of_quarters_is_seen_by_the_sliding_demand_only() -> None:
    load = [60.0] * 22 + [360.0] * 15 + [60.0] * 30  # 15 min from minute 22 on
    rows = compute(BY_ENERGY, [meter(62, load)])
    hour = at(rows["kpi/1h"], 60)
    assert hour["demand_kw"] == pytest.approx(360.0, abs=1e-4)
    assert hour["demand_fixed_kw"] == pytest.approx((8 * 360 + 7 * 60) / 15, abs=1e-4)
    assert hour["demand_max_kw"] == hour["demand_kw"]
    assert hour["energy_kwh"] == pytest.approx((15 * 360 + 45 * 60) / 60, abs=1e-4)


def test_the_fixed_demand_of_the_contract_can_be_chosen() -> None:
    config = replace(BY_ENERGY, method="fixed")
    hour = at(compute(config, [meter(62, [60.0] * 22 + [360.0] * 15 + [60.0])])["kpi/1h"], 60)
    assert hour["demand_max_kw"] == hour["demand_fixed_kw"] < hour["demand_kw"]


def test_fixed_demand_rises_to_the_demand_of_the_quarter() -> None:
    rows = compute(BY_ENERGY, [meter(47, [60.0] * 15 + [120.0] * 30)])["kpi/1min"]
    risen = [at(rows, minute)["demand_fixed_kw"] for minute in range(16, 31)]
    assert risen == pytest.approx([120.0 * i / 15 for i in range(1, 16)], abs=1e-4)
    assert at(rows, 30)["demand_kw"] == at(rows, 30)["demand_fixed_kw"]


def test_the_forecast_is_the_energy_so_far_and_the_present_power_to_the_end() -> None:
    rows = compute(BY_ENERGY, [meter(32, [60.0] * 20 + [240.0] * 12)])["kpi/1min"]
    figures = at(rows, 22)  # 5 min at 60, 2 at 240, 8 to come
    assert figures["forecast_kw"] == pytest.approx((5 * 60 + 10 * 240) / 15, abs=1e-4)
    assert at(rows, 30)["forecast_kw"] == at(rows, 30)["demand_fixed_kw"]


def test_a_gauge_beside_the_counter_tells_the_present_power() -> None:
    config = DemandConfig(energy="em-a.energy", power="em-a.power", windows=("1min",))
    rows = compute(config, [meter(32, [60.0] * 32, power=300.0)])["kpi/1min"]
    figures = at(rows, 22)
    assert figures["demand_kw"] == pytest.approx(60.0, abs=1e-4)
    assert figures["power_kw"] == pytest.approx(300.0)
    assert figures["forecast_kw"] == pytest.approx((7 * 60 + 8 * 300) / 15, abs=1e-4)


def test_a_power_alone_is_integrated() -> None:
    rows = compute(BY_POWER, [meter(32, [60.0] * 22 + [360.0] * 10)])["kpi/1min"]
    assert at(rows, 20)["demand_kw"] == pytest.approx(60.0)
    # the line from 60 to 360 in the 5 s before minute 22
    assert at(rows, 30)["demand_kw"] == pytest.approx((7 * 60 + 8 * 360 + 150 / 12) / 15)


def test_feeders_are_added_before_the_demand_is_taken() -> None:
    config = replace(BY_POWER, power=("em-a.power", "em-a.power"))
    rows = compute(config, [meter(32, [60.0] * 22 + [360.0] * 10)])["kpi/1min"]
    alone = compute(BY_POWER, [meter(32, [60.0] * 22 + [360.0] * 10)])["kpi/1min"]
    assert at(rows, 30)["demand_kw"] == 2 * at(alone, 30)["demand_kw"]


def test_what_flows_back_is_no_demand() -> None:
    rows = compute(BY_POWER, [meter(32, [-500.0] * 16 + [60.0] * 16)])["kpi/1min"]
    assert at(rows, 15)["demand_kw"] == 0.0
    assert at(rows, 31)["energy_kwh"] == pytest.approx(1.0)


# ---- what is not known -----------------------------------------------------------------------


def test_demand_from_less_than_fifteen_minutes_is_marked_and_from_half_of_them_is_none() -> None:
    rows = compute(BY_ENERGY, [meter(20, [60.0] * 20)])["kpi/1min"]
    assert mark(rows, "demand_kw", 7) == Quality.BAD_MISSING
    assert mark(rows, "demand_kw", 8) == Quality.UNCERTAIN
    assert at(rows, 8)["demand_kw"] == pytest.approx(60.0, abs=1e-4)
    assert mark(rows, "demand_kw", 15) == Quality.GOOD


def test_demand_across_a_gap_is_the_mean_of_what_is_known() -> None:
    block = meter(50, [60.0] * 20 + [600.0] * 5 + [60.0] * 25)
    quality = block.quality.copy()
    quality[METER.index["power"], 20 * 12 + 1 : 25 * 12] = Quality.BAD_NO_ANSWER
    value = np.where(quality >= Quality.BAD, np.nan, block.value)
    rows = compute(BY_POWER, [SampleBlock(METER, block.time, value, quality)])["kpi/1min"]
    assert mark(rows, "energy_kwh", 23) == Quality.BAD_MISSING
    assert mark(rows, "demand_kw", 25) == Quality.UNCERTAIN
    assert at(rows, 25)["demand_kw"] == pytest.approx(60.0, rel=0.1)  # not 60 · 10 / 15
    assert mark(rows, "demand_kw", 41) == Quality.GOOD


def test_energy_that_comes_late_is_spread_over_the_minutes_it_belongs_to() -> None:
    quarter = Quarter(QualityLimits())
    take(quarter, 0, loads([1.0] * 15))
    take(quarter, 15, loads([None] * 9))
    found = take(quarter, 24, loads([10.0], quality=Quality.UNCERTAIN_ESTIMATED))
    assert found.sliding[0].tolist() == [60.0]  # 1 kWh in each of 10 minutes, not 10 in one
    assert found.sliding[1].tolist() == [Quality.UNCERTAIN_ESTIMATED]
    later = take(quarter, 25, loads([1.0] * 15))
    assert later.sliding[0].tolist() == pytest.approx([60.0] * 15)
    assert later.sliding[1][-1] == Quality.GOOD


def test_energy_that_comes_late_does_not_change_rows_before_whatever_the_blocks() -> None:
    minutes: list[float | None] = [*[1.0] * 16, *[None] * 9, 10.0, *[2.0] * 9]
    marks = [0] * 16 + [191] * 9 + [69] + [0] * 9
    whole = replace(loads(minutes), quality=np.array(marks, np.uint8))
    together = take(Quarter(QualityLimits()), 0, whole)
    single = Quarter(QualityLimits())
    for i in range(len(minutes)):
        found = take(single, i, whole.rows(i, i + 1))
        for name in ("sliding", "fixed", "forecast"):
            value, quality = getattr(found, name)
            assert value[0] == getattr(together, name)[0][i], (name, i)
            assert quality[0] == getattr(together, name)[1][i], (name, i)


def test_the_energy_of_a_gauge_never_comes_late() -> None:
    quarter = Quarter(QualityLimits())
    take(quarter, 0, loads([1.0] * 15, counted=False))
    take(quarter, 15, loads([None] * 5, counted=False))
    marked = loads([10.0], quality=Quality.UNCERTAIN_PRECISION, counted=False)
    assert take(quarter, 20, marked).sliding[0].tolist() == [(9.0 + 10.0) / 10 * 60]


def test_minutes_without_any_row_are_minutes_that_are_not_known() -> None:
    quarter = Quarter(QualityLimits())
    take(quarter, 0, loads([1.0] * 15))
    found = take(quarter, 25, loads([4.0]))
    assert found.sliding[0].tolist() == [(4 * 1.0 + 4.0) / 5 * 60]
    assert found.sliding[1].tolist() == [Quality.BAD_MISSING]


def test_an_outage_that_ends_is_no_peak() -> None:
    """The counter is silent for 40 minutes, its minutes are closed, then 40 kWh come at once."""
    block = meter(90, [60.0] * 90)
    quiet = (block.time > START + 20 * MINUTE) & (block.time < START + 60 * MINUTE)
    quality = block.quality.copy()
    quality[:, quiet] = Quality.BAD_NO_ANSWER
    value = np.where(quality >= Quality.BAD, np.nan, block.value)
    rows = compute(BY_ENERGY, [SampleBlock(METER, block.time, value, quality)])
    minutes = rows["kpi/1min"]
    energy = minutes["energy_kwh"]
    assert np.nanmax(energy) > 30.0  # booked in one minute: sums are exact
    assert np.nansum(energy) == pytest.approx(len(minutes), abs=1e-3)
    assert np.nanmax(minutes["demand_kw"]) == pytest.approx(60.0, rel=0.01)
    assert mark(minutes, "demand_kw", 70) == Quality.UNCERTAIN_ESTIMATED


# ---- contract --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "billed"),
    [
        (800.0, 1000.0),  # below the contract: the contract
        (1050.0, 1000.0),  # 105 % of it: still
        (1100.0, 1100.0),  # 50 above 105 %: at double price
    ],
)
def test_a_contract_is_billed_up_to_five_percent_above_it(demand: float, billed: float) -> None:
    assert RULE.billed(np.array([demand]), 1000.0, 0.0).tolist() == [billed]


def test_a_contract_is_billed_as_forty_percent_of_the_transformers_at_least() -> None:
    assert RULE.billed(np.array([900.0]), 1000.0, 4000.0).tolist() == [1600.0]
    assert RULE.billed(np.array([1700.0]), 1000.0, 4000.0).tolist() == [1640.0]


def test_the_share_of_the_contract_and_what_is_billed_stand_in_every_row() -> None:
    config = replace(BY_ENERGY, contract="0.1 MW")
    figures = at(compute(config, [meter(62, [60.0] * 20 + [120.0] * 42)])["kpi/1h"], 60)
    assert figures["contract_share"] == pytest.approx(1.2, abs=1e-5)
    assert figures["billed_kw"] == pytest.approx(100.0 + 2 * 15.0, abs=1e-3)
    by_maximum = replace(config, billed="maximum")
    figures = at(compute(by_maximum, [meter(62, [60.0] * 20 + [120.0] * 42)])["kpi/1h"], 60)
    assert figures["billed_kw"] == figures["demand_max_kw"]


def test_the_rule_stands_in_the_provenance() -> None:
    metric = replace(BY_ENERGY, contract="100 kW").build("kpi", Works())[0]
    assert "demand_rules:two-part" in metric.output.provenance


@pytest.mark.parametrize("text", ["6300", "kW", "6300 kWh", "-1 kW", "0 kW", "inf kW"])
def test_a_quantity_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|above 0"):
        quantity(text, "kW")


def test_mistakes_of_a_configuration_are_told() -> None:
    config = DemandConfig(contract="many", transformer="10 kW")
    assert [path for path, _ in config.faults()] == [(), ("contract",), ("transformer",)]
    config = DemandConfig(power="a.p", billed="maximum", transformer="100 kVA")
    assert [path for path, _ in config.faults()] == [("billed",), ("transformer",)]  # no effect


# ---- the open minute, and a power under the laws ---------------------------------------------


def test_the_running_row_stands_for_the_part_of_the_minute_that_has_passed() -> None:
    block = meter(20.5, [60.0] * 16 + [240.0] * 5)
    metrics: list[Metric] = [*operators()[:1], *BY_ENERGY.build("kpi", Works())]
    run(metrics, [block])
    now, rows = int(block.time[-1]), {}
    before = as_json(metrics[1].save())
    for metric in metrics[:2]:
        row = metric.running(now, rows)
        assert row is not None
        rows[row.schema.stream] = row
    row = rows["kpi/1min"]
    figures = {tag.name: float(row.value[i, 0]) for i, tag in enumerate(row.schema.tags)}
    assert int(row.time[0]) == now
    assert figures["demand_kw"] == pytest.approx((10 * 60 + 4.5 * 240) / 14.5, rel=1e-4)
    assert figures["forecast_kw"] == pytest.approx((60 + 14 * 240) / 15, rel=1e-4)
    assert as_json(metrics[1].save()) == before  # nothing is kept of it


@pytest.mark.parametrize("seed", range(6))
def test_a_demand_from_power_does_not_depend_on_the_partition_or_on_restarts(seed: int) -> None:
    random, rows = Random(seed), {METER.stream: plant_rows(seed, 25.0)[METER.stream]}

    def build() -> list[Metric]:
        return BY_POWER.build("kpi", Works())

    def renew(metric: Metric) -> Metric:
        new = next(m for m in build() if m.output == metric.output)
        return restored(new, metric)

    whole = run(build(), interleaved(rows, random, 200, 0.0))
    cut = run(build(), interleaved(rows, random, 4, 0.0), renew)
    for stream, block in whole.items():
        same(block, cut[stream])


def test_the_state_is_that_of_fifteen_minutes_however_long_it_runs() -> None:
    sizes = []
    for minutes in (30, 300):
        metric = BY_POWER.build("kpi", Works())[0]
        run([metric], [meter(minutes, [60.0])])
        sizes.append(len(json.dumps(json.loads(as_json(metric.save())))))
    assert sizes[1] <= sizes[0] + 40
