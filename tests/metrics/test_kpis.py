"""Examples of the KPIs that can be worked out by hand, joining, lateness and roll-up."""

from collections.abc import Sequence
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.errors import ConfigError
from edge_agent.metrics.base import Metric, MetricConfig, Reference
from edge_agent.metrics.energy import CarrierInput, EnergyConfig, heating_value
from edge_agent.metrics.join import Minutes
from edge_agent.metrics.oee import OeeConfig
from edge_agent.metrics.rollup import RollUp
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Quality, SampleBlock, Schema, concatenate
from edge_agent.units import Duration
from tests.metrics.plants import METER, PACKER, SCALE, SECOND, START, Works, operators, run

MINUTE = 60 * SECOND
STATES = {"producing": (1,), "idle": (2,), "fault": (3,), "setup": (4,), "planned_stop": (5,)}


def rows(schema: Schema, minutes: float, start: float = 0.0, **columns: object) -> SampleBlock:
    """Rows at every period; a column is a number, or a function of the seconds since the start."""
    n = round(minutes * 60 / schema.period) + 1
    seconds = start * 60 + np.arange(n) * schema.period
    value = np.zeros((len(schema.tags), n))
    for name, column in columns.items():
        numbers = [column(s) if callable(column) else column for s in seconds]
        value[schema.index[name]] = numbers
    time = START + np.rint(seconds * 1e9).astype(np.int64)
    return SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))


def compute(config: MetricConfig, blocks: Sequence[SampleBlock]) -> dict[str, SampleBlock]:
    by_time = sorted(
        (block.rows(i, i + 1) for block in blocks for i in range(len(block))),
        key=lambda row: int(row.time[0]),
    )
    return run([*operators(), *config.build("kpi", Works())], by_time)


def last(block: SampleBlock) -> dict[str, float]:
    return {tag.name: float(block.value[i, -1]) for i, tag in enumerate(block.schema.tags)}


PACKING = OeeConfig(
    state="packer.state",
    states=STATES,
    produced="packer.bags",
    rejected="packer.reject",
    ideal_cycle=Duration(1.5),
    windows=("1min", "15min"),
)


def shift_of_packing() -> SampleBlock:
    """15 min: 9 producing, 1 setup, 2 fault, 1 idle, 2 planned stop; 300 bags, 30 rejected."""
    states = [1, 1, 1, 4, 1, 1, 3, 3, 1, 1, 2, 1, 1, 5, 5, 1]
    return rows(
        PACKER,
        16.0,
        state=lambda s: states[min(int(s // 60), 15)],
        bags=lambda s: 1000 + s / 3,
        reject=lambda s: 50 + s / 30,
    )


def test_oee_of_a_worked_example() -> None:
    figures = last(compute(PACKING, [shift_of_packing()])["kpi/15min"])
    assert figures["apt_s"] == 540.0
    assert figures["pbt_s"] == 780.0
    assert (figures["aust_s"], figures["adet_s"], figures["adot_s"]) == (60.0, 120.0, 60.0)
    assert (figures["produced"], figures["good"]) == (300.0, 270.0)
    assert figures["availability"] == pytest.approx(540 / 780)
    assert figures["effectiveness"] == pytest.approx(1.5 * 300 / 540)
    assert figures["quality_ratio"] == pytest.approx(0.9)
    assert figures["coverage"] == 1.0


def test_oee_is_the_ideal_time_of_good_pieces_over_the_busy_time() -> None:
    found = compute(PACKING, [shift_of_packing()])
    for stream in ("kpi/1min", "kpi/15min"):
        block = found[stream]
        good = block.quality[block.schema.index["oee"]] < Quality.BAD
        wanted = 1.5 * block["good"][good] / block["pbt_s"][good]
        assert good.any()
        np.testing.assert_allclose(block["oee"][good], wanted, rtol=1e-12)


def test_a_ratio_without_a_divisor_is_not_available() -> None:
    block = compute(PACKING, [shift_of_packing()])["kpi/1min"]
    planned_stop = 13
    for name in ("availability", "effectiveness", "oee"):
        column = block.schema.index[name]
        assert np.isnan(block.value[column, planned_stop])
        assert block.quality[column, planned_stop] == Quality.BAD_NOT_AVAILABLE


def test_a_state_that_has_no_meaning_is_not_covered() -> None:
    block = rows(PACKER, 2.0, state=lambda s: 9 if s < 30 else 1, bags=lambda s: s)
    figures = compute(PACKING, [block])["kpi/1min"]
    assert figures["coverage"].tolist() == [0.5, 1.0]
    assert figures["apt_s"].tolist() == [30.0, 60.0]


ENERGY = EnergyConfig(
    output="scale.mass",
    inputs={
        "electricity": ("em-a.energy", "em-a.reactive"),
        "raw-coal": CarrierInput(tags=("scale.mass",), lhv="23.1 MJ/kg"),
    },
    windows=("1min", "15min"),
)


def test_energy_of_a_worked_example() -> None:
    config = EnergyConfig(
        output="scale.mass",
        inputs={
            "electricity": ("em-a.energy",),
            "raw-coal": CarrierInput(tags=("scale.mass",), lhv="29.3076 MJ/kg"),
        },
        returned={"electricity": ("em-a.export",)},
        windows=("1min", "15min"),
    )
    meter = rows(METER, 17.0, energy=lambda s: 100 + s / 60, export=lambda s: s / 6e5)
    scale = rows(SCALE, 17.0, mass=lambda s: 500 + s / 6)
    found = compute(config, [meter, scale])
    figures = last(found["kpi/15min"])
    assert figures["electricity"] == pytest.approx(13.5, abs=2e-3)  # 15 kWh, 1.5 kWh returned
    assert figures["electricity_kgce"] == pytest.approx(13.5 * 0.1229, abs=2e-3)
    assert figures["raw-coal"] == figures["raw-coal_kgce"] == pytest.approx(150.0)
    assert figures["output_t"] == pytest.approx(0.15)
    assert figures["intensity"] == pytest.approx(figures["total_kgce"] / figures["output_t"])
    names = [tag.name for tag in found["kpi/1min"].schema.tags]
    assert names == [
        "electricity", "electricity_returned", "electricity_kgce", "electricity_gj",
        "raw-coal", "raw-coal_kgce", "raw-coal_gj",
        "total_kgce", "total_gj", "output_t", "intensity", "coverage", "estimated",
    ]  # fmt: skip


def test_an_output_that_nobody_counts_is_missing() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "15min"))
    found = compute(config, [rows(METER, 16.0, energy=lambda s: 100 + s / 60)])
    for block in (found["kpi/1min"], found["kpi/15min"]):
        for name in ("output_t", "intensity"):
            marks = block.quality[block.schema.index[name]]
            assert set(marks.tolist()) == {Quality.BAD_MISSING}


def test_minutes_of_energy_add_up_exactly_to_the_quarter_hour() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "15min"))
    found = compute(config, [rows(METER, 16.0, energy=lambda s: 100 + s * 0.0123456789)])
    minutes = found["kpi/1min"]["electricity"][:15]
    assert float(np.sum(minutes)) == float(found["kpi/15min"]["electricity"][0])
    assert float(np.sum(minutes[::-1])) == float(found["kpi/15min"]["electricity"][0])


def test_energy_per_tonne_is_not_an_average_of_minutes() -> None:
    config = EnergyConfig(
        output="scale.mass", inputs={"electricity": ("em-a.energy",)}, windows=("1min", "15min")
    )
    meter = rows(METER, 17.0, energy=lambda s: 100 + s / 60)
    scale = rows(SCALE, 17.0, mass=lambda s: 500 + max(0, s - 600))
    found = compute(config, [meter, scale])
    figures = last(found["kpi/15min"])
    assert figures["intensity"] == pytest.approx(15 * 0.1229 / 0.3, rel=1e-6)
    assert np.isnan(found["kpi/1min"]["intensity"][0])


def test_a_heating_value_is_kgce_per_unit() -> None:
    assert heating_value("29.3076 MJ/kg") == (1.0, "kg")
    assert heating_value("29307.6 kJ/kg")[0] == pytest.approx(1.0)
    assert heating_value("35.5 MJ/Nm3")[1] == "Nm3"
    for wrong in ("23.1", "23.1 MJ", "23.1 kg/MJ", "much MJ/kg"):
        with pytest.raises(ValueError, match=r"."):
            heating_value(wrong)


# joining ----------------------------------------------------------------------------------------


def joined() -> Minutes:
    metric = PACKING.build("kpi", Works())[0]
    assert isinstance(metric, Minutes)
    return metric


def test_a_dead_input_holds_the_others_only_for_the_lateness() -> None:
    metric, raw = joined(), rows(PACKER, 6.0, state=1)
    found = [metric.update(raw.rows(i, i + 1)) for i in range(len(raw))]
    done = concatenate([block for block in found if block is not None])
    assert 1 <= len(done) < 5
    assert done["apt_s"].tolist() == [60.0] * len(done)
    assert done["coverage"].tolist() == [0.0] * len(done)
    assert np.isnan(done["produced"]).all()


def test_a_row_for_a_closed_slot_is_counted_and_ignored() -> None:
    metric, raw = joined(), rows(PACKER, 6.0, state=1)
    for i in range(len(raw)):
        metric.update(raw.rows(i, i + 1))
    slots = operators()[2].update(rows(PACKER, 1.0, bags=lambda s: s))
    assert slots is not None
    assert metric.rows_late == 0
    assert metric.update(slots) is None
    assert metric.rows_late == 1


def test_after_a_stop_of_the_agent_no_stream_closes_the_gap_before_the_others_came() -> None:
    config = EnergyConfig(
        output="scale.mass", inputs={"electricity": ("em-a.energy",)}, windows=("1min",)
    )
    meters = [rows(METER, 5.0, start, energy=lambda s: 100 + s / 600) for start in (0.0, 95.0)]
    scales = [rows(SCALE, 5.0, start, mass=lambda s: 500 + s) for start in (0.0, 95.0)]
    found = compute(config, [*meters, *scales])["kpi/1min"]
    assert len(found) == 100
    assert not np.isnan(found.value).any()
    assert float(np.sum(found["output_t"])) == pytest.approx(6.0)


def test_a_question_at_the_return_does_not_cost_the_slots_before_it() -> None:
    before = rows(PACKER, 4.2, state=1, bags=lambda s: 1000 + s)
    value, marks = before.value.copy(), before.quality.copy()
    value[1, -6:], marks[1, -6:] = np.nan, Quality.BAD_DEVICE  # the fourth minute waits
    before = SampleBlock(PACKER, before.time, value, marks)
    after = rows(PACKER, 3.0, 14.0, state=1, bags=lambda s: s - 840)  # replaced in the gap
    found = compute(PACKING, [before, after])["kpi/1min"]
    assert found.time.tolist() == [START + (i + 1) * MINUTE for i in range(17)]
    assert not np.isnan(found["produced"]).any()
    column = found.quality[found.schema.index["produced"]]
    assert column[3:13].tolist() == [Quality.UNCERTAIN_ESTIMATED] * 10


def test_windows_that_are_not_listed_are_not_published() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("15min",))
    assert [m.output.stream for m in config.build("kpi", Works())] == ["kpi/15min"]
    found = compute(config, [rows(METER, 16.0, energy=lambda s: 100 + s / 8)])
    assert [s for s in found if s.startswith("kpi")] == ["kpi/15min"]
    assert found["kpi/15min"]["electricity"].tolist() == [112.5]


def test_the_running_row_is_the_window_so_far() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "1h"))
    metrics = [*operators(), *config.build("kpi", Works())]
    assert so_far(metrics) == {}
    run(metrics, [rows(METER, 10.5, energy=lambda s: 100 + s / 60)])
    found = so_far(metrics, 10.5)
    for stream, energy in (("kpi/1min", 0.5), ("kpi/1h", 10.5)):
        row = found[stream]
        assert row.time.tolist() == [START + 10 * MINUTE + 30 * SECOND]
        assert row["electricity"].tolist() == pytest.approx([energy])
        assert row["coverage"].tolist() == [1.0]


def test_a_running_row_at_a_border_is_of_the_window_that_is_not_closed_yet() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "15min"))
    metrics = [*operators(), *config.build("kpi", Works())]
    run(metrics, [rows(METER, 15.0, energy=lambda s: 100 + s / 60)])
    assert "kpi/15min" not in so_far(metrics, 15.0)
    run(metrics, [rows(METER, 0.1, start=15.25, energy=lambda s: 100 + s / 60)])
    assert so_far(metrics, 15.35)["kpi/15min"]["electricity"].tolist() == pytest.approx(
        [0.35], abs=0.02
    )


def test_the_running_row_of_a_state_ends_now() -> None:
    metrics = [*operators(), *PACKING.build("kpi", Works())]
    run(metrics, [rows(PACKER, 1.5, state=1.0, bags=lambda s: s / 2, reject=lambda _s: 0.0)])
    found = so_far(metrics, 1.5)["kpi/15min"]
    assert found["apt_s"].tolist() == [90.0]
    assert found["produced"].tolist() == pytest.approx([45.0])


def so_far(metrics: Sequence[Metric], minutes: float = 0.0) -> dict[str, SampleBlock]:
    found: dict[str, SampleBlock] = {}
    now = START + round(minutes * MINUTE)
    for metric in metrics:
        row = metric.running(now, found)
        if row is not None:
            found[row.schema.stream] = row
    return {stream: row for stream, row in found.items() if stream.startswith("kpi")}


@pytest.mark.parametrize(
    ("zone", "first", "hours"),
    [
        ("Asia/Shanghai", 16.0, 24),
        ("Europe/Berlin", 24 * 86 + 23, 23),
        ("Europe/Berlin", 24 * 296 + 22, 25),
    ],
)
def test_a_day_is_the_sum_of_its_minutes_also_when_the_time_changes(
    zone: str, first: float, hours: int
) -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min",))
    formula = config.build("kpi", Works())[0]
    assert isinstance(formula, Minutes)
    rollup = RollUp("kpi", formula.formula, "1d", Calendar(ZoneInfo(zone)))
    n = hours * 60
    schema = formula.output
    value = np.ones((len(schema.tags), n))
    value[schema.index["estimated"]] = 0.0
    time = START + round(first * 60) * MINUTE + np.arange(1, n + 1) * MINUTE
    found = rollup.update(SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8)))
    assert found is not None
    assert found["electricity"].tolist() == [n]
    assert found["coverage"].tolist() == [1.0]
    assert (found.quality[0] == 0).all()


def test_a_thin_minute_does_not_make_the_quarter_hour_uncertain() -> None:
    block = rows(METER, 16.0, energy=lambda s: 100 + s / 8)
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "15min"))
    formula = config.build("kpi", Works())[0]
    minutes = compute(config, [block])["kpi/1min"]
    value, marks = minutes.value.copy(), minutes.quality.copy()
    value[minutes.schema.index["coverage"], 4] = 0.9
    marks[minutes.schema.index["electricity"], 4] = Quality.UNCERTAIN
    assert isinstance(formula, Minutes)
    rollup = RollUp("kpi", formula.formula, "15min", Calendar(ZoneInfo("Asia/Shanghai")))
    found = rollup.update(SampleBlock(minutes.schema, minutes.time, value, marks))
    assert found is not None
    assert found["coverage"].tolist() == [pytest.approx(14.9 / 15)]
    assert found.quality[found.schema.index["electricity"]].tolist() == [Quality.GOOD]


def test_a_window_with_missing_minutes_keeps_its_value_and_says_so() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("1min", "15min"))
    found = compute(config, [rows(METER, 12.0, 4.0, energy=lambda s: 100 + s / 8)])["kpi/15min"]
    assert found["electricity"].tolist() == [82.5]
    assert found["coverage"].tolist() == [pytest.approx(11 / 15)]
    assert found.quality[found.schema.index["electricity"]].tolist() == [Quality.UNCERTAIN]


# configuration ----------------------------------------------------------------------------------


def test_references_say_what_a_tag_must_be() -> None:
    assert Reference(("inputs", "raw-coal", "tags", 0), "scale.mass") in ENERGY.references()


def oee(states: dict[str, tuple[int, ...]], cycle: float = 1.0) -> OeeConfig:
    return OeeConfig(state="a.s", states=states, produced="a.p", ideal_cycle=Duration(cycle))


def coal(lhv: str) -> EnergyConfig:
    return EnergyConfig(inputs={"coal": CarrierInput(tags=("a.b",), lhv=lhv)})


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (EnergyConfig(inputs={}), ("inputs",)),
        (EnergyConfig(inputs={"electricity": ()}), ("inputs", "electricity")),
        (coal("23"), ("inputs", "coal", "lhv")),
        (oee({"idle": (1,)}), ("states",)),
        (oee({"producing": (1,), "fault": (1,)}), ("states", "fault", 0)),
        (oee(STATES, 0.0), ("ideal_cycle",)),
    ],
)
def test_a_wrong_configuration_is_named_by_its_place(
    config: MetricConfig, path: tuple[str | int, ...]
) -> None:
    assert [where for where, _ in config.faults()] == [path]


@pytest.mark.parametrize("config", [ENERGY, PACKING], ids=["energy", "oee"])
def test_a_right_configuration_has_no_faults(config: MetricConfig) -> None:
    assert config.faults() == []


def test_shift_windows_without_a_calendar_are_refused() -> None:
    config = EnergyConfig(inputs={"electricity": ("em-a.energy",)}, windows=("shift",))
    with pytest.raises(ConfigError, match=r"shift needs shifts\.calendar"):
        config.build("kpi", Works(shifts={}))
