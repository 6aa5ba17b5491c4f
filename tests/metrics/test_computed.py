# ruff: noqa: E501, ISC004  a table of mistakes and messages is read line by line
"""Computed tags: rows of several streams together, mistakes with their place, use by other KPIs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_agent.agent import links_of, metrics_of
from edge_agent.clock import VirtualClock
from edge_agent.config import load
from edge_agent.errors import ConfigError
from edge_agent.metrics.base import Metric
from edge_agent.metrics.computed import ComputedConfig, ComputedTag
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema
from tests.metrics.plants import METER, PACKER, SCALE, SECOND, STACK, START, Works, run

HEAD = """\
site: {id: works}
devices:
  em-a:
    connect: modbus+tcp://127.0.0.1:1502?unit=1
    poll: 5s
    tags:
      power: {at: "hr:0", type: u16, unit: kW}
      energy: {at: "hr:1", type: u32, unit: kWh, kind: counter}
  em-b:
    connect: modbus+tcp://127.0.0.1:1502?unit=2
    poll: 5s
    tags: {power: {at: "hr:0", type: u16, unit: MW}, state: {at: "hr:1", type: u16, kind: state}}
metrics:
"""


def build(**tags: str) -> list[Metric]:
    config = ComputedConfig(tags={name: ComputedTag(value=value) for name, value in tags.items()})
    assert config.faults() == []
    return config.build("kpi", Works())


def row(schema: Schema, seconds: float, values: Sequence[float], quality: int = 0) -> SampleBlock:
    value = np.full((len(schema.tags), 1), np.nan if quality >= 128 else 0.0)
    if quality < 128:
        value[: len(values), 0] = values
    marks = np.full(value.shape, quality, np.uint8)
    return SampleBlock(schema, np.array([START + round(seconds * SECOND)]), value, marks)


def told(path: Path, metrics: str) -> str:
    path = path / "plant.yaml"
    path.write_text(HEAD + metrics, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, env={})
    return str(caught.value).replace(str(path), "plant.yaml")


def test_a_row_waits_until_every_other_stream_has_told_of_its_time() -> None:
    (metric,) = build(both="em-a.power + cems.flow / 1 Nm3/h * 1 kW")
    assert metric.update(row(METER, 10, [1.0])) is None
    assert metric.update(row(STACK, 9, [0, 0, 0, 5.0])) is None
    done = metric.update(row(STACK, 14, [0, 0, 0, 7.0]))
    assert done is not None
    assert done["both"].tolist() == [6.0]  # what stood before 10 s; 14 s is later
    assert done.time.tolist() == [START + 10 * SECOND]


def test_a_row_of_just_the_same_time_counts() -> None:
    (metric,) = build(both="em-a.power + cems.flow / 1 Nm3/h * 1 kW")
    metric.update(row(STACK, 5, [0, 0, 0, 5.0]))
    metric.update(row(METER, 10, [1.0]))
    done = metric.update(row(STACK, 10, [0, 0, 0, 7.0]))
    assert done is not None
    assert done["both"].tolist() == [8.0]


def test_a_value_holds_for_three_of_its_periods() -> None:
    (metric,) = build(both="em-a.power + cems.flow / 1 Nm3/h * 1 kW")
    metric.update(row(STACK, 0, [0, 0, 0, 5.0]))
    for second in (15, 15.1):
        metric.update(row(METER, second, [1.0]))
    done = metric.update(row(STACK, 20, [0, 0, 0, 7.0]))
    assert done is not None
    assert done.quality.tolist() == [[0, Quality.BAD_MISSING]]


def test_a_stream_that_stays_silent_is_not_waited_for_for_ever() -> None:
    (metric,) = build(both="where(em-a.power > 0, em-a.power, cems.flow / 1 Nm3/h * 1 kW)")
    metric.update(row(STACK, 0, [0, 0, 0, 5.0]))
    rows = [metric.update(row(METER, s, [s])) for s in range(5, 400, 5)]
    given = [r for r in rows if r is not None]
    assert given
    assert sum(map(len, given)) > 40
    assert given[0]["both"].tolist() == [5.0]


def test_the_state_stays_small_when_the_driver_is_silent() -> None:
    (metric,) = build(both="em-a.power + cems.flow / 1 Nm3/h * 1 kW")
    for second in range(0, 5 * 4000, 5):
        metric.update(row(STACK, second, [0, 0, 0, 5.0]))
    feeds = metric.save()["feeds"]
    assert len(feeds["cems/raw"]["time"]) < 1000  # type: ignore[index]


def test_the_fastest_stream_makes_the_rows_and_counters_and_states_are_read_as_they_are() -> None:
    (metric,) = build(a="packer.bags / 1 {bag} + scale.mass / 1 kg", b="packer.state == 3")
    assert metric.output.period == PACKER.period
    assert [tag.kind for tag in metric.output.tags] == [Kind.GAUGE, Kind.STATE]
    metric.update(row(SCALE, 0, [100.0]))
    metric.update(row(PACKER, 5, [3.0, 20.0]))
    done = metric.update(row(SCALE, 60, [100.0]))
    assert done is not None
    assert done.value.tolist() == [[120.0], [1.0]]


def test_the_difference_of_a_counter_that_falls_is_not_known() -> None:
    (metric,) = build(per="rate(em-a.energy)")
    rows = [metric.update(row(METER, 5.0 * i, [0, e])) for i, e in enumerate([10, 11, 3, 4])]
    values = np.concatenate([r["per"] for r in rows if r is not None])
    np.testing.assert_allclose(values, [np.nan, 0.2, np.nan, 0.2])


def test_a_forecast_is_the_mean_if_all_stays_as_it_is_and_the_mean_itself_at_the_end() -> None:
    (metric,) = build(ahead="forecast(em-a.power, 15min)")
    rows = [metric.update(row(METER, 5.0 * i, [60.0 if i < 90 else 120.0])) for i in range(180)]
    values = np.concatenate([r["ahead"] for r in rows if r is not None])
    assert values[0] == pytest.approx(60.0)
    assert values[90] == pytest.approx((90 * 60 + 91 * 120) / 181, rel=1e-2)
    assert values[179] == pytest.approx(90.0, rel=5e-3)


def test_computed_tags_have_slots_and_can_be_used_by_other_computed_tags() -> None:
    base = ComputedConfig(tags={"double": ComputedTag(value="em-a.power * 2")})
    top = ComputedConfig(tags={"four": ComputedTag(value="base.double * 2", unit="MW")})
    works = Works(metrics={"base": base, "top": top})
    metrics = [*base.build("base", works), *top.build("top", works)]
    found = run(metrics, [row(METER, 5, [3.0])])
    assert found["top/raw"]["four"].tolist() == [0.012]
    assert works.slot("base.double").tags[0].name == "double.mean"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            "  c:\n    type: computed\n    tags:\n      x:\n        value: em-a.power + em-a.energy\n",
            "plant.yaml:18:9: metrics.c.tags.x.value: kW and kWh cannot be added: "
            "take rate() of the kWh, or multiply the kW by a time (at character 12)",
        ),
        (
            "  c:\n    type: computed\n    tags:\n      x: {value: em-a.power-em-b.power}\n",
            'plant.yaml:17:11: metrics.c.tags.x.value: "em-a.power-em-b.power" is not a name '
            "owner.column: a dash inside a name belongs to it, so write a minus with spaces around it "
            "(at character 1)",
        ),
        (
            "  c: {type: computed, tags: {x: {value: em-a.powr * 2}}}\n",
            'plant.yaml:14:34: metrics.c.tags.x.value: unknown tag "em-a.powr" (did you mean "em-a.power"?)',
        ),
        (
            "  c: {type: computed, tags: {x: {value: em-a.power * 2, unit: kWh}}}\n",
            "plant.yaml:14:57: metrics.c.tags.x.unit: the value is in kW, not convertible to kWh",
        ),
        (
            "  c: {type: computed, tags: {x: {value: c.x * 2}}}\n",
            "metrics use each other in a circle: c -> c",
        ),
        (
            "  c: {type: computed, tags: {x: {value: 2 * 3}}}\n",
            "metrics.c.tags.x.value: uses no tag: a constant needs no computed tag",
        ),
        (
            "  c: {type: computed, tags: {x: {value: 'mean(em-a.power + em-b.power, 1h)'}}}\n",
            "mean needs tags of one stream: give the sum a name as a computed tag (at character 1)",
        ),
        (
            "  c: {type: computed, tags: {x: {value: 'mean(em-a.power, 24h)'}}}\n",
            "mean may look back 18000s on em-a/raw (at character 1)",
        ),
        (
            "  c: {type: computed, windows: [1min], tags: {X: {value: em-a.power}}}\n",
            '"X" is not the name of a tag: write a-z, 0-9 and _',
        ),
        (
            "  c: {type: computed, tags: {x: {value: em-b.state + 1}}}\n",
            "a state can only be compared: plc.state == 3 (at character 1)",
        ),
    ],
)
def test_a_mistake_is_told_where_it_stands(tmp_path: Path, metrics: str, message: str) -> None:
    assert message in told(tmp_path, metrics)


def test_all_mistakes_of_a_metric_are_told_at_once(tmp_path: Path) -> None:
    tags = "x: {value: em-a.power + 1 kWh}, y: {value: em-a.power > 1 h}, z: {value: em-a.power + }"
    lines = told(tmp_path, f"  c: {{type: computed, tags: {{{tags}}}}}\n").splitlines()
    assert len(lines) == 1  # the third cannot be read, so units are not looked at yet
    tags = "x: {value: em-a.power + 1 kWh}, y: {value: em-a.power > 1 h}"
    assert len(told(tmp_path, f"  c: {{type: computed, tags: {{{tags}}}}}\n").splitlines()) == 2


def test_a_kpi_may_use_a_computed_tag_as_a_device_s(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    metrics = """\
  total:
    type: computed
    tags: {power: {value: em-a.power + em-b.power}}
  incomer: {type: demand, power: total.power, contract: 6300 kW}
"""
    path.write_text(HEAD + metrics, "utf-8")
    config = load(path, env={})
    made = metrics_of(config, links_of(config, VirtualClock()))
    streams = [metric.output.stream for metric in made]
    assert streams.index("total/raw") < streams.index("total/slot") < streams.index("incomer/1min")
    assert made[streams.index("total/raw")].output.family is Family.COMPUTED
    assert made[streams.index("total/raw")].output.provenance[0].startswith("config:")
