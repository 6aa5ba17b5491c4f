"""Meters that agree with their power, meters that do not, and meters that are dead in part."""

from pathlib import Path

import numpy as np
import pytest

from edge_agent.agent import links_of, metrics_of
from edge_agent.clock import SystemClock
from edge_agent.config import Config, load
from edge_agent.config.standing import standing
from edge_agent.metrics.alarm_states import AlarmState
from edge_agent.metrics.base import Metric
from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Quality, SampleBlock, Schema
from tests.metrics.plants import SECOND, START, run

HOUR = 3600

PLANT = """
site: {id: works}
data: ./data
devices:
  em-a:
    connect: "modbus+tcp://127.0.0.1:5020?unit=1"
    poll: 5s
    tags:
      active_power: {at: "hr:0", type: f32, unit: kW, class: fast}
      active_energy_import: {at: "hr:2", type: u32, scale: 0.01, unit: kWh, kind: counter, EXTRA}
      voltage_l1: {at: "hr:4", type: u16, scale: 0.1, unit: V}
metrics: {}
"""


def plant(tmp_path: Path, more: str = "modulus: 4294967296", text: str = PLANT) -> Config:
    path = tmp_path / "plant.yaml"
    path.write_text(text.replace("EXTRA", more), "utf-8")
    return load(path)


def metrics(config: Config) -> list[Metric]:
    return metrics_of(config, links_of(config, SystemClock()))


def raw_schema(config: Config) -> Schema:
    return config.plant().raw("em-a.active_power")


def rows(
    config: Config, hours: float, kw: float = 36.0, factor: float = 1.0, begin: float = 0.0
) -> SampleBlock:
    """Rows of every 5 s; factor: what the counter counts of the energy that there is."""
    schema = raw_schema(config)
    s = np.arange(begin * HOUR, (begin + hours) * HOUR + 1, 5.0)
    value = np.zeros((len(schema.tags), len(s)))
    value[schema.index["active_power"]] = kw
    counts = np.floor(5e4 + kw * s / 3600 * factor * 100 + 1e-6)
    value[schema.index["active_energy_import"]] = counts * 0.01
    value[schema.index["voltage_l1"]] = 231.0
    time = (START + s * SECOND).astype(np.int64)
    return SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))


def without(block: SampleBlock, tag: str, begin: float, end: float) -> SampleBlock:
    """The block with a tag that the device refuses between two hours."""
    value, quality = block.value.copy(), block.quality.copy()
    hours = (block.time - START) / SECOND / HOUR
    dead = (hours > begin) & (hours < end)
    column = block.schema.index[tag]
    value[column, dead], quality[column, dead] = np.nan, Quality.BAD_DEVICE
    return SampleBlock(block.schema, block.time, value, quality)


def hours_of(config: Config, block: SampleBlock) -> dict[str, SampleBlock]:
    return run(metrics(config), [block])


def test_a_meter_that_counts_what_its_power_gives_agrees(tmp_path: Path) -> None:
    config = plant(tmp_path)
    found = hours_of(config, rows(config, 2.1))
    check = found["em-a-check/1h"]
    assert check["counted"].tolist() == [pytest.approx(36.0, abs=0.02)] * 2
    assert check["integrated"].tolist() == [pytest.approx(36.0)] * 2
    assert check["disagrees"].tolist() == [0.0, 0.0]
    assert not check.quality.any()


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1, 40.0, 1 / 4000])
def test_a_wrong_ratio_and_a_register_that_stands_disagree(tmp_path: Path, factor: float) -> None:
    config = plant(tmp_path)
    check = hours_of(config, rows(config, 1.1, factor=factor))["em-a-check/1h"]
    assert check["disagrees"].tolist() == [1.0]
    assert check["deviation"][0] == pytest.approx((factor - 1) / max(factor, 1), abs=2e-3)


def test_a_load_of_few_counts_does_not_disagree(tmp_path: Path) -> None:
    config = plant(tmp_path)
    check = hours_of(config, rows(config, 1.1, kw=0.015))["em-a-check/1h"]
    assert abs(check["deviation"][0]) > 0.05
    assert check["disagrees"].tolist() == [0.0]


def test_no_load_agrees_with_no_count(tmp_path: Path) -> None:
    config = plant(tmp_path)
    check = hours_of(config, rows(config, 1.1, kw=0.0))["em-a-check/1h"]
    assert check["deviation"].tolist() == [0.0]
    assert check["disagrees"].tolist() == [0.0]


@pytest.mark.parametrize("tag", ["active_power", "active_energy_import"])
@pytest.mark.parametrize(
    ("dead", "mark"), [(0.03, Quality.GOOD), (0.3, Quality.UNCERTAIN), (0.7, Quality.BAD_MISSING)]
)
def test_minutes_in_which_one_of_them_is_dead_are_left_out(
    tmp_path: Path, tag: str, dead: float, mark: Quality
) -> None:
    config = plant(tmp_path)
    block = without(rows(config, 1.5), tag, 0.1, 0.1 + dead)
    check = hours_of(config, block)["em-a-check/1h"]
    column = check.schema.index["disagrees"]
    graded = check.quality[column, 0]
    assert graded == mark or (graded == Quality.UNCERTAIN and dead < 0.1)
    if mark < Quality.BAD:
        assert check["disagrees"].tolist() == [0.0]
        assert abs(check["deviation"][0]) < 0.01


def test_the_living_tags_of_a_device_with_a_dead_register_keep_their_rows(tmp_path: Path) -> None:
    config = plant(tmp_path)
    block = without(rows(config, 1.2), "active_energy_import", -1.0, 9.0)
    found = hours_of(config, block)
    slots, check = found["em-a/slot"], found["em-a-check/1h"]
    assert set(slots["active_power.mean"].tolist()) == {36.0}
    assert set(slots["voltage_l1.mean"].tolist()) == {231.0}
    assert np.isnan(slots["active_energy_import.increment"]).all()
    assert len(slots) == 71
    assert np.isnan(check["disagrees"]).all()
    assert found["em-a-disagrees/event"].quality[-1].max() < Quality.BAD


def test_a_reset_is_no_disagreement(tmp_path: Path) -> None:
    config = plant(tmp_path)
    block = rows(config, 1.1)
    value = block.value.copy()
    value[block.schema.index["active_energy_import"], 400:] -= 500.0
    reset = SampleBlock(block.schema, block.time, value, block.quality)
    check = hours_of(config, reset)["em-a-check/1h"]
    assert check["disagrees"].tolist() == [0.0]
    assert abs(check["deviation"][0]) < 0.01


def test_an_event_is_told_only_when_agreement_changes(tmp_path: Path) -> None:
    config = plant(tmp_path)
    operators, names = metrics(config), []
    for begin, factor in ((0, 1.0), (3, 2.0), (6, 1.0), (9, 1.0)):
        block = rows(config, 3.0 - 5 / HOUR, factor=factor, begin=begin)
        events = run(operators, [block]).get("em-a-disagrees/event")
        if events is not None:
            names += [AlarmState(int(state)).name for state in events["state"]]
    assert len(names) == 3
    assert names[0] == names[2] == "NORMAL"


def test_a_check_of_ones_own_takes_the_place_of_the_standing_one(tmp_path: Path) -> None:
    own = "metrics:\n  em-a-check: {type: check, counter: em-a.active_energy_import, "
    own += "power: em-a.active_power, tolerance: 0.2, windows: [1h]}\n"
    config = plant(tmp_path, text=PLANT.replace("metrics: {}\n", own))
    assert "em-a-check" in config.metrics
    assert standing(config.devices, {*config.devices, *config.metrics}) == {}
    check = hours_of(config, rows(config, 1.1, factor=1.1))["em-a-check/1h"]
    assert check["disagrees"].tolist() == [0.0]


def test_an_export_is_deducted(tmp_path: Path) -> None:
    more = "modulus: 1e9}\n      active_energy_export: {at: 'hr:6', type: u32, scale: 0.01, "
    more += "unit: kWh, kind: counter, modulus: 1e9"
    config = plant(tmp_path, more)
    block = rows(config, 1.1, factor=0.5)
    value, back = block.value.copy(), block.schema.index["active_energy_export"]
    value[block.schema.index["active_power"]] = 0.0
    value[back] = block.value[block.schema.index["active_energy_import"]]
    check = hours_of(config, SampleBlock(block.schema, block.time, value, block.quality))
    assert check["em-a-check/1h"]["counted"].tolist() == [0.0]
    assert check["em-a-check/1h"]["disagrees"].tolist() == [0.0]


def test_the_rows_of_the_check_can_be_named_by_an_alarm_of_ones_own(tmp_path: Path) -> None:
    text = PLANT + 'alarms:\n  far-off: {when: "em-a-check.deviation_1h > 0.5", priority: high}\n'
    config = plant(tmp_path, text=text)
    assert any(metric.output.stream == "far-off/event" for metric in metrics(config))


def test_a_device_without_power_has_no_check(tmp_path: Path) -> None:
    config = plant(tmp_path, text=PLANT.replace("active_power", "apparent_power"))
    assert list(config.every_metric) == []
    assert [m for m in metrics(config) if not isinstance(m, SlotOperator)] == []
