"""Examples of energy by state that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from edge_agent.metrics.by_state import EnergyByStateConfig
from edge_agent.model import Kind, Quality, SampleBlock
from tests.metrics.plants import METER, PACKER, SECOND, Works, plant_rows
from tests.metrics.test_kpis import compute, last, rows

STATES = {"producing": (1,), "idle": (2,), "fault": (3,), "setup": (4,), "planned_stop": (5,)}
CONFIG = EnergyByStateConfig(
    energy=("em-a.energy",), state="packer.state", states=STATES, windows=("1min", "15min")
)
POWER = EnergyByStateConfig(
    energy=("em-a.power",), state="packer.state", states=STATES, windows=("1min", "15min")
)
PARTS = (*(f"{name}_kwh" for name in STATES), "unknown_kwh")


def load(seconds: float) -> float:
    """kWh of 60 kW for 40 s of each minute, and of 12 kW for the rest."""
    minutes, rest = divmod(seconds, 60.0)
    return 100 + (minutes * 2640 + min(rest, 40) * 60 + max(rest - 40, 0) * 12) / 3600


def machine(minutes: float = 17.0) -> SampleBlock:
    """Producing for 40 s of each minute, idle for the rest."""
    return rows(PACKER, minutes, state=lambda s: 1 if s % 60 < 40 else 2, bags=0.0, reject=0.0)


def test_a_worked_example_is_split_exactly_where_the_state_changes() -> None:
    figures = last(compute(CONFIG, [rows(METER, 17.0, energy=load), machine()])["kpi/15min"])
    assert figures["producing_kwh"] == pytest.approx(10.0, abs=1e-4)
    assert figures["idle_kwh"] == pytest.approx(1.0, abs=1e-4)
    assert figures["not_producing_share"] == pytest.approx(1 / 11, abs=1e-5)
    assert figures["standby_kw"] == pytest.approx(12.0, abs=1e-3)
    assert (figures["producing_s"], figures["idle_s"]) == (600.0, 300.0)
    assert (figures["unknown_kwh"], figures["coverage"], figures["estimated"]) == (0.0, 1.0, 0.0)


def test_power_is_split_where_there_is_no_counter() -> None:
    meter = rows(METER, 17.0, power=lambda s: 60.0 if 5 <= s % 60 < 40 else 12.0)
    states = rows(PACKER, 17.0, state=lambda s: 1 if s % 60 < 40 else 2, bags=0.0, reject=0.0)
    figures = last(compute(POWER, [meter, states])["kpi/15min"])
    # while producing: 5 s up, 30 s of 60 kW, 5 s down
    assert figures["producing_kwh"] == pytest.approx(15 * (5 * 36 + 30 * 60 + 5 * 36) / 3600)
    assert figures["idle_kwh"] == pytest.approx(15 * 20 * 12 / 3600)
    assert figures["total_kwh"] == sum(figures[name] for name in PARTS)


def test_a_slow_meter_is_shared_by_the_time_in_each_state_and_marked() -> None:
    meter = rows(METER, 17.0, energy=lambda s: 100 + s / 60)
    whole = compute(CONFIG, [_every(meter, 12), machine()])["kpi/15min"]
    figures = last(whole)
    assert figures["producing_kwh"] == pytest.approx(10.0, abs=1e-4)
    assert figures["idle_kwh"] == pytest.approx(5.0, abs=1e-4)
    assert (figures["coverage"], figures["estimated"]) == (0.0, 1.0)
    marks = dict(zip((tag.name for tag in whole.schema.tags), whole.quality[:, -1], strict=True))
    assert marks["producing_kwh"] == Quality.UNCERTAIN_ESTIMATED


def _every(block: SampleBlock, n: int) -> SampleBlock:
    """Every n-th row."""
    rest = slice(None, None, n)
    return SampleBlock(
        block.schema, block.time[rest], block.value[:, rest].copy(), block.quality[:, rest].copy()
    )


def test_a_silent_state_is_unknown_after_three_periods() -> None:
    states = machine()
    keep = (states.time - states.time[0]) < 300 * SECOND  # 5 min, then nothing
    silent = SampleBlock(PACKER, states.time[keep], states.value[:, keep], states.quality[:, keep])
    found = compute(CONFIG, [rows(METER, 17.0, energy=load), silent])["kpi/1min"]
    assert found["producing_s"][4] == 40.0
    assert found["unknown_kwh"][4] == 0.0
    assert found["idle_s"][5] == 10.0  # of the last row at 4:55, until 5:10
    assert found["unknown_kwh"][5] == pytest.approx(2640 / 3600 - 10 * 60 / 3600, abs=1e-4)
    assert found["unknown_kwh"][6] == found["total_kwh"][6] > 0
    assert found["coverage"][6] == 0.0


def test_what_a_meter_books_late_is_in_no_state() -> None:
    meter = rows(METER, 17.0, energy=load)
    away = (meter.time - meter.time[0] > 180 * SECOND) & (meter.time - meter.time[0] < 420 * SECOND)
    quality = np.where(away, np.uint8(Quality.BAD_NO_ANSWER), meter.quality)
    value = np.where(away, np.nan, meter.value)
    outage = SampleBlock(METER, meter.time, value, quality)
    found = compute(CONFIG, [outage, machine()])["kpi/1min"]
    total = np.nansum(found["total_kwh"])
    assert total == pytest.approx(len(found) * 2640 / 3600, abs=1e-4)  # nothing is lost
    assert np.nanmax(found["producing_kwh"]) < 0.7  # nothing of the outage is called producing
    assert np.nansum(found["unknown_kwh"]) == pytest.approx(4 * 2640 / 3600, abs=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_parts_sum_up_to_the_increment_exactly_whatever_the_meter_does(seed: int) -> None:
    blocks = [block for block in plant_rows(seed).values() if block.schema in {METER, PACKER}]
    found = compute(CONFIG, blocks)
    slots = found["em-a/slot"]
    increments = dict(zip(slots.time.tolist(), slots["energy.increment"], strict=True))
    for window in ("kpi/1min", "kpi/15min"):
        block = found.get(window)
        if block is None:
            continue
        parts = np.sum([block[name] for name in PARTS], axis=0)
        np.testing.assert_array_equal(parts, block["total_kwh"])
        assert (np.nan_to_num(np.stack([block[name] for name in PARTS])) >= 0).all()
    block = found["kpi/1min"]
    for end, total in zip(block.time.tolist(), block["total_kwh"], strict=True):
        if not np.isnan(total):
            assert total == increments[end]


def test_the_states_of_packml_are_known() -> None:
    config = replace(CONFIG, states="packml")
    states = rows(PACKER, 17.0, state=lambda s: 6 if s % 60 < 40 else 4, bags=0.0, reject=0.0)
    figures = last(compute(config, [rows(METER, 17.0, energy=load), states])["kpi/15min"])
    assert figures["producing_kwh"] == pytest.approx(10.0, abs=1e-4)
    assert figures["standby_kw"] == pytest.approx(12.0, abs=1e-3)
    assert figures["blocked_kwh"] == 0.0


def test_what_is_wrong_is_said_in_plain_words() -> None:
    wrong = EnergyByStateConfig(
        energy=(), state="packer.state", states={"unknown": (1,), "idle": (2, 1)}
    )
    told = dict(wrong.faults())
    assert told["energy",] == "needs at least one meter"
    assert told["states",] == "needs at least one number for producing"
    assert told["states", "unknown"].startswith('"unknown" is no name for a state')
    assert told["states", "idle", 1] == "1 is unknown already: a state has one meaning"
    assert [r.kind for r in CONFIG.references()] == [None, Kind.STATE]
    with pytest.raises(ValueError, match=r'"scale.mass" counts kg, must be convertible to kWh'):
        EnergyByStateConfig(energy=("scale.mass",), state="packer.state", states=STATES).build(
            "kpi", Works()
        )
