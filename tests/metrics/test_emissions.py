"""Emissions: minutes and hours that can be worked out by hand, and what a person may write."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.config import Config, load
from edge_agent.errors import ConfigError
from edge_agent.metrics.base import Resumable
from edge_agent.metrics.emissions import ConditionConfig, EmissionsConfig
from edge_agent.metrics.rollup import RollUp
from edge_agent.metrics.substitution import HOUR
from edge_agent.model import Kind, Quality, SampleBlock
from edge_agent.outbox_schema import as_json
from tests.metrics.plants import DUCT, KILN, STACK, START, Works, run, same
from tests.metrics.test_kpis import compute, last, rows

STACKS = EmissionsConfig(
    nox="cems.nox", o2="cems.o2", flow="cems.flow", o2_reference=10.0, windows=("1min", "1h")
)


def test_minutes_in_which_nothing_burns_are_neither_corrected_nor_counted() -> None:
    block = rows(STACK, 61.0, nox=50.0, o2=lambda s: 20.5 if s < 600 else 11.0, flow=1e5)
    found = compute(STACKS, [block])
    minute, hour = found["kpi/1min"], last(found["kpi/1h"])
    column = minute.schema.index["nox_corrected"]
    assert minute.quality[column, :10].tolist() == [Quality.BAD_NOT_AVAILABLE] * 10
    assert minute["o2"][0] == 20.5
    assert hour["valid_min"] == 50.0
    assert hour["nox"] == pytest.approx(50.0)
    assert hour["nox_corrected"] == pytest.approx(50.0 * 11 / 10)


@pytest.mark.parametrize(("idle", "bad"), [(15, False), (16, True)])
def test_an_hour_needs_45_valid_minutes(idle: int, bad: bool) -> None:
    block = rows(STACK, 61.0, nox=50.0, o2=lambda s: 20.5 if s < idle * 60 else 11.0, flow=1e5)
    hour = compute(STACKS, [block])["kpi/1h"]
    assert hour["valid_min"].tolist() == [60.0 - idle]
    assert bool(np.isnan(hour["nox_corrected"][0])) is bad


@pytest.mark.parametrize(("missing", "valid"), [(3, 1.0), (4, 0.0)])
def test_a_minute_needs_three_quarters_of_its_samples(missing: int, valid: float) -> None:
    block = rows(STACK, 1.0, nox=50.0, o2=11.0, flow=1e5)
    value, marks = block.value.copy(), block.quality.copy()
    value[1, :missing], marks[1, :missing] = np.nan, Quality.BAD_NO_ANSWER
    found = compute(STACKS, [SampleBlock(STACK, block.time, value, marks)])["kpi/1min"]
    assert found["valid_min"].tolist() == [valid]
    assert found["coverage"].tolist() == [pytest.approx(1 - missing / 12)]


def test_calibration_gas_is_left_out_and_an_uncertain_value_is_kept() -> None:
    block = rows(STACK, 1.0, nox=50.0, o2=11.0, flow=1e5)
    value, marks = block.value.copy(), block.quality.copy()
    value[1, 0], marks[1, 0] = 900.0, Quality.UNCERTAIN_FLAGGED
    marks[1, 1] = Quality.UNCERTAIN_RANGE
    found = compute(STACKS, [SampleBlock(STACK, block.time, value, marks)])["kpi/1min"]
    assert found["nox"].tolist() == [50.0]
    assert found.quality[found.schema.index["nox"]].tolist() == [Quality.UNCERTAIN_RANGE]


# from what the analyser tells to what is published -----------------------------------------------

DUCT_STATE = {"heat": 52.3, "draught": -0.35, "humidity": 9.8}
FURNACE = EmissionsConfig(
    so2="kiln.so2",
    no="kiln.no",
    no2="kiln.no2",
    pm="kiln.pm",
    o2="kiln.o2",
    o2_reference=6.0,
    wet=True,
    actual=("pm",),
    temperature="kiln.heat",
    pressure="kiln.draught",
    atmosphere=101.0,
    humidity="kiln.humidity",
    velocity="kiln.speed",
    velocity_factor=0.97,
    duct_area=9.62,
    windows=("1min",),
)


def furnace(minutes: float, start: float = 0.0, **columns: object) -> list[SampleBlock]:
    usual = {"so2": 10.0, "no": 20.0, "no2": 5.0, "pm": 15.0, "o2": 7.4, "speed": 11.773}
    kiln = rows(KILN, minutes, start, **usual | {"flag": 1.0, "run": 1.0} | columns)
    return [kiln, rows(DUCT, minutes, start, **DUCT_STATE)]


def test_a_wet_analyser_at_the_ducts_state_becomes_dry_at_standard_state() -> None:
    figures = last(compute(FURNACE, furnace(3.0))["kpi/1min"])
    water, o2 = 1.0 - 0.098, 7.4 / (1.0 - 0.098)
    assert figures["pm"] == pytest.approx(17.993494 / water, rel=1e-7)  # the vector of formula 18
    assert figures["so2"] == pytest.approx(10.0 * 64 / 22.4 / water)
    assert figures["nox"] == pytest.approx((20.0 * 46 / 22.4 + 5.0) / water)
    assert figures["o2"] == pytest.approx(o2)
    assert figures["pm_corrected"] == pytest.approx(figures["pm"] * 15.0 / (21.0 - o2))
    flow = 297384.520558 / 11.4198 * 0.97 * 11.773  # the vector of formula 31, its velocity
    assert figures["flow_nm3"] == pytest.approx(flow / 60.0, rel=1e-7)
    assert figures["so2_mass_kg"] == pytest.approx(figures["so2"] * flow * 1e-6 / 60.0, rel=1e-7)


def test_excess_air_in_place_of_reference_oxygen() -> None:
    config = replace(FURNACE, o2_reference=None, excess_air=1.7)
    figures = last(compute(config, furnace(3.0))["kpi/1min"])
    alpha = 21.0 / (21.0 - figures["o2"])
    assert figures["pm_corrected"] == pytest.approx(figures["pm"] * alpha / 1.7)


def test_a_water_content_that_cannot_be_makes_no_value() -> None:
    kiln, duct = furnace(3.0)
    value = duct.value.copy()
    value[duct.schema.index["humidity"]] = 100.0
    found = compute(FURNACE, [kiln, SampleBlock(DUCT, duct.time, value, duct.quality)])["kpi/1min"]
    for name in ("so2", "o2", "flow_nm3", "pm_mass_kg"):
        assert np.isnan(found[name]).all(), name


def test_a_slow_humidity_holds_for_three_periods_and_no_longer() -> None:
    kiln, duct = furnace(12.0)
    found = compute(FURNACE, [kiln, duct.rows(0, 3)])["kpi/1min"]  # read at 0, 1 and 2 min
    assert (~np.isnan(found["so2"])).tolist()[:6] == [True] * 5 + [False]


def test_a_mass_needs_no_fire() -> None:
    block = rows(STACK, 61.0, nox=50.0, o2=20.5, flow=1e5)
    hour = compute(STACKS, [block])["kpi/1h"]
    assert np.isnan(hour["nox"]).all()
    assert hour["nox_mass_kg"].tolist() == [pytest.approx(5.0)]
    assert hour["stopped_h"].tolist() == [1.0]
    assert hour["nox_mass_substituted_kg"].tolist() == [0.0]


# marks, limits, hours ----------------------------------------------------------------------------

MARKED = replace(
    FURNACE,
    o2_reference=10.0,
    limits="works",
    condition=ConditionConfig(
        tag="kiln.run", running=(1,), start_up=(3,), shut_down=(4,), stopped=(5,)
    ),
    windows=("1min", "1h"),
)


@pytest.mark.parametrize(("minutes", "judged"), [(15, True), (16, False)])
def test_start_up_is_kept_and_not_judged(minutes: int, judged: bool) -> None:
    columns = {
        "run": lambda s: 3.0 if s < minutes * 60 else 1.0,
        "so2": lambda s: 100.0 if s < minutes * 60 else 5.0,
    }
    found = compute(MARKED, furnace(61.0, **columns))
    minute, hour = found["kpi/1min"], last(found["kpi/1h"])
    assert hour["start_up_min"] == minutes
    assert minute["so2"][0] > 300.0  # kept
    assert hour["so2_corrected"] > hour["so2_limit"] == 60.0  # with the minutes of the start-up
    assert hour["so2_judged_h"] == float(judged)
    assert (hour["so2_exceeded"] == 0.0) is judged
    assert hour["so2_exceeded_h"] == 0.0
    if judged:
        assert hour["so2_judged"] < 60.0


def test_a_limit_is_that_of_the_day_and_named_in_the_provenance() -> None:
    start = 15.0 * 60  # 23:00 local on the first; the limit is 60, then 40
    found = compute(MARKED, furnace(121.0, start, so2=17.0))["kpi/1h"]
    assert found["so2_limit"].tolist() == [60.0, 40.0]
    assert 40.0 < found["so2_judged"][0] < 60.0
    assert found["so2_exceeded"].tolist() == [0.0, 1.0]
    assert "emission_limits:works-so2 (unapproved)" in found.schema.provenance
    assert found.schema.tags[found.schema.index["so2_exceeded"]].kind is Kind.STATE


def test_minutes_of_the_instruments_marks_are_counted() -> None:
    def flag(seconds: float) -> float:
        return {0: 1.0, 1: 4.0, 2: 5.0, 3: 6.0, 4: 9.0}.get(int(seconds // 60), 2.0)

    found = compute(FURNACE, furnace(8.0, flag=flag))["kpi/1min"]
    assert found["maintenance_min"][:6].tolist() == [0, 1, 0, 0, 0, 0]
    assert found["calibration_min"][:6].tolist() == [0, 0, 1, 0, 0, 0]
    assert found["fault_min"][:6].tolist() == [0, 0, 0, 1, 1, 0]  # 9 is none of those named


def test_a_quarter_of_a_minute_away_from_normal_is_not_a_mark() -> None:
    found = compute(FURNACE, furnace(2.0, flag=lambda s: 4.0 if s < 15 or s >= 100 else 1.0))
    assert found["kpi/1min"]["maintenance_min"].tolist() == [0.0, 1.0]


def hours_of(lost: dict[int, int]) -> SampleBlock:
    """Hours with 5 kg of NOx each; in some, minutes are lost."""
    block = rows(STACK, 60.0 * 5 + 1, nox=50.0, o2=11.0, flow=1e5)
    value, marks = block.value.copy(), block.quality.copy()
    minute = (block.time - START) // (60 * 10**9)
    for hour, minutes in lost.items():
        inside = (minute >= hour * 60) & (minute < hour * 60 + minutes)
        value[:, inside], marks[:, inside] = np.nan, Quality.BAD_NO_ANSWER
    broken = SampleBlock(STACK, block.time, value, marks)
    return run(STACKS.build("kpi", Works()), [broken])["kpi/1h"]


def test_the_mean_of_a_valid_hour_stands_for_the_hour() -> None:
    hour = hours_of({2: 15})
    assert hour["nox_mass_kg"].tolist() == pytest.approx([5.0] * 5)
    assert hour["estimated"].tolist() == pytest.approx([0, 0, 0.25, 0, 0])
    assert hour["coverage"][2] == pytest.approx(0.75)
    assert hour.quality[hour.schema.index["nox_mass_kg"], 2] == Quality.UNCERTAIN


def test_an_invalid_hour_is_given_the_largest_of_the_valid_ones() -> None:
    hour = hours_of({2: 20, 3: 60})
    assert hour["nox_mass_kg"][2] == pytest.approx(5.0 * 40 / 60)  # what was measured
    assert hour["nox_mass_substituted_kg"].tolist() == pytest.approx([0, 0, 5.0 / 3, 5.0, 0])
    assert np.isnan(hour["nox"][2:4]).all()  # a concentration never
    marks = hour.quality[hour.schema.index["nox_mass_substituted_kg"]].tolist()
    assert marks == [0, 0, Quality.UNCERTAIN_SUBSTITUTED, Quality.UNCERTAIN_SUBSTITUTED, 0]
    assert hour["nox_capture_rate"].tolist() == pytest.approx(
        [1.0, 1.0, 2159 / 2160, 2158 / 2160, 2158 / 2160]
    )
    assert hour["estimated"].tolist() == pytest.approx([0, 0, 1 / 3, 1, 0])


def test_without_a_valid_hour_before_it_nothing_is_substituted() -> None:
    hour = hours_of({0: 20})
    column = hour.schema.index["nox_mass_substituted_kg"]
    assert hour.quality[column, 0] == Quality.BAD_NOT_AVAILABLE
    assert hour["estimated"][0] == 0.0


# windows -----------------------------------------------------------------------------------------


def test_a_day_is_the_same_whether_its_hours_are_published_or_not() -> None:
    block = rows(STACK, 60.0 * 17, nox=lambda s: 50.0 + s / 1e3, o2=11.0, flow=1e5)
    chained = replace(STACKS, windows=("1d",))
    assert [m.output.stream for m in chained.build("kpi", Works())] == ["kpi/1d"]
    alone = run(chained.build("kpi", Works()), [block])
    every = replace(STACKS, windows=("1min", "1h", "1d"))
    whole = run(every.build("kpi", Works()), [block])
    same(alone["kpi/1d"], whole["kpi/1d"])


def test_a_new_configuration_keeps_the_hours_that_substitutes_come_from() -> None:
    old, new = (STACKS.build("kpi", Works())[1] for _ in range(2))
    minutes = compute(STACKS, [rows(STACK, 130.0, nox=50.0, o2=11.0, flow=1e5)])["kpi/1min"]
    old.update(minutes)
    assert isinstance(new, RollUp)
    new.resume(json.loads(as_json(old.save())))
    schema, n = minutes.schema, 240
    value = np.zeros((len(schema.tags), n))
    marks = np.zeros(value.shape, np.uint8)
    mass = schema.index["nox_mass_kg"]
    value[mass], marks[mass] = np.nan, Quality.BAD_MISSING
    time = START + (180 + np.arange(1, n + 1)) * 60 * 10**9
    found = new.update(SampleBlock(schema, time, value, marks))
    assert found is not None
    assert found["nox_mass_substituted_kg"][-1] == pytest.approx(5.0)


def test_an_hour_goes_on_when_the_minutes_are_published_no_longer_or_only_now() -> None:
    alone = replace(STACKS, windows=("1h",))
    block = rows(STACK, 130.0, nox=50.0, o2=11.0, flow=1e5)
    for before, after in ((STACKS, alone), (alone, STACKS)):
        old, new = before.build("kpi", Works()), after.build("kpi", Works())[-1]
        run(old, [block])
        assert isinstance(new, Resumable)
        new.resume(json.loads(as_json(old[-1].save())))
        found, kept = (json.loads(as_json(metric.save())) for metric in (new, old[-1]))
        assert found.get("rollup", found) == kept.get("rollup", kept)  # no minute is lost


def test_a_day_of_hours_with_too_few_minutes_does_not_look_whole() -> None:
    days = replace(STACKS, windows=("1h", "1d")).build("kpi", Works())[1]
    hour = hours_of(dict.fromkeys(range(5), 20)).rows(0, 1)  # nothing stands for a third of it
    found = None
    for i in range(24):
        time = START + (i - 7) * HOUR  # from midnight on
        found = days.update(SampleBlock(hour.schema, np.array([time]), hour.value, hour.quality))
    assert found is not None
    column = found.schema.index["nox_mass_kg"]
    assert found["coverage"][0] == pytest.approx(2 / 3)
    assert found.quality[column, 0] == Quality.UNCERTAIN


def test_the_running_hour_is_judged_as_it_stands() -> None:
    minutes, hours = replace(STACKS, limits="works").build("kpi", Works())
    for block in [rows(STACK, 30.0, nox=150.0, o2=11.0, flow=1e5)]:
        done = minutes.update(block)
        assert done is not None
        hours.update(done)
    row = hours.running(int(block.time[-1]), {})
    assert row is not None
    assert row["nox_exceeded"].tolist() == [1.0]
    assert row["nox_mass_kg"].tolist() == [pytest.approx(7.5)]


# what a person may write ------------------------------------------------------------------------

LEAST = EmissionsConfig(so2="a.so2", o2="a.o2", o2_reference=6.0)


def test_references_say_what_a_tag_must_be() -> None:
    assert {r.tag: r.unit for r in STACKS.references()} == {
        "cems.nox": ("mg/m3", "ppm"), "cems.o2": "%", "cems.flow": "Nm3/h",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"so2": None}, ()),
        ({"o2_reference": 21.0}, ("o2_reference",)),
        ({"o2_limit": 21.0}, ("o2_limit",)),
        ({"o2": None}, ("o2_reference",)),
        ({"excess_air": 1.7}, ("excess_air",)),
        ({"excess_air": 0.9, "o2_reference": None}, ("excess_air",)),
        ({"nox": "a.nox", "no": "a.no"}, ("nox",)),
        ({"no2": "a.no2"}, ("no2",)),
        ({"wet": True}, ("wet",)),
        ({"wet": ("so2", "pm"), "humidity": "a.h"}, ("wet", 1)),
        ({"actual": True}, ("actual",)),
        ({"velocity": "a.v"}, ("velocity",)),
        ({"output": "a.mass"}, ("output",)),
        ({"condition": ConditionConfig(tag="a.s", running=(1,), stopped=(1,))},
         ("condition", "stopped", 0)),
        ({"condition": ConditionConfig(tag="a.s")}, ("condition",)),
        ({"atmosphere": 101_325.0}, ("atmosphere",)),
        ({"velocity_factor": 0.0}, ("velocity_factor",)),
    ],
)  # fmt: skip
def test_a_wrong_stack_is_named_by_its_place(
    change: dict[str, object], path: tuple[str | int, ...]
) -> None:
    assert [where for where, _ in replace(LEAST, **change).faults()] == [path]


def test_a_right_stack_has_no_faults() -> None:
    assert STACKS.faults() == LEAST.faults() == []


def test_a_limit_for_another_reference_oxygen_is_refused() -> None:
    config = replace(STACKS, o2_reference=6.0, limits="works")
    with pytest.raises(ValueError, match=r"works-nox is for 10 % O2, but o2_reference is 6"):
        config.build("kpi", Works())


PLANT = """\
site: {id: works}
devices:
  cems:
    connect: "modbus+tcp://127.0.0.1:5024?unit=7"
    tags:
      so2: {at: hr40001, type: f32, unit: ppm}
      nox: {at: hr40003, type: f32}
      pm: {at: hr40005, type: f32, unit: kW}
      o2: {at: hr40007, type: f32, unit: "%"}
      flow: {at: hr40009, type: f32, unit: Nm3/h}
      flag: {at: hr40021, type: u16, kind: state}
    flag: {tag: flag, normal: [0], calibration: [3]}
metrics:
  stack: {type: emissions, o2: cems.o2, """


def stack_in_a_file(folder: Path, text: str) -> Config:
    (folder / "plant.yaml").write_text(PLANT + text + "}\n", "utf-8")
    return load(folder / "plant.yaml", env={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pm: cems.pm", '"cems.pm" has kW, must be convertible to mg/m3'),
        ("so2: cems.flow", '"cems.flow" has Nm3/h, must be convertible to mg/m3 or ppm'),
        ("nox: cems.nox", '"cems.nox" has no unit, must be mg/m3 or ppm'),
        (
            "so2: cems.so2, limits: db37-2376",
            'limits "db37-2376" begins two rows of so2: db37-2376-core-so2, db37-2376-key-so2',
        ),
        (
            "so2: cems.so2, limits: gb18918-1a",
            'limits "gb18918-1a" has no hourly or daily limit of so2',
        ),
        (
            "so2: cems.so2, o2_reference: 6, limits: db37-2373-cement-key",
            "the limit db37-2373-cement-key-so2 is for 10 % O2, but o2_reference is 6: write",
        ),
    ],
)
def test_a_wrong_stack_in_a_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        stack_in_a_file(tmp_path, text)
    assert message in str(told.value)


def test_a_file_gives_its_stack_the_limits_and_flags_of_the_plant(tmp_path: Path) -> None:
    text = "so2: cems.so2, flow: cems.flow, o2_reference: 10, limits: db37-2373-cement-key"
    config = stack_in_a_file(tmp_path, f"{text}, windows: [1min, 1h, 1d, 1a]")
    made = {m.output.name: m.output for m in config.metrics["stack"].build("x", config.plant())}
    assert {"calibration_min", "fault_min"} <= made["1min"].index.keys()
    assert {"so2_limit", "so2_exceeded", "so2_mass_substituted_kg"} <= made["1h"].index.keys()
    assert {"so2_exceeded_h", "so2_capture_rate", "so2_valid_d"} <= made["1a"].index.keys()
    said = "emission_limits:db37-2373-cement-key-so2 (unapproved)"
    assert [said in made[name].provenance for name in made] == [False, True, True, True]
