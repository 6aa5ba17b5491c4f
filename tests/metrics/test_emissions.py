"""Emissions: minutes and hours that can be worked out by hand, and what a person may write."""

from dataclasses import replace

import numpy as np
import pytest

from edge_agent.metrics.emissions import ConditionConfig, EmissionsConfig
from edge_agent.model import Quality, SampleBlock
from tests.metrics.plants import STACK, Works
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


# what a person may write ------------------------------------------------------------------------

LEAST = EmissionsConfig(so2="a.so2", o2="a.o2", o2_reference=6.0)


def test_references_say_what_a_tag_must_be() -> None:
    assert {r.tag: r.unit for r in STACKS.references()} == {
        "cems.nox": ("mg/m3", "[ppm]"), "cems.o2": "%", "cems.flow": "Nm3/h",
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
