import math
from itertools import pairwise

import pytest

from edge_agent.clock import PlantClock, VirtualClock
from simulators.packer import CYCLE, PRODUCING
from simulators.plant import CALIBRATION, DAY, CementPlant
from simulators.signals import HOUR, MINUTE, SECOND

START = 1_795_000_000 * SECOND + 123_456_789  # some instant in November 2026, inside a minute


def plant(seed: int = 1, start: int = START) -> CementPlant:
    return CementPlant(seed, PlantClock(start, 0))


@pytest.mark.parametrize("meter", CementPlant.METERS)
def test_the_energy_of_a_meter_is_the_numerical_integral_of_its_power(meter: str) -> None:
    p, begin, step = plant(), START + 40 * SECOND, SECOND // 50
    end = begin + 3 * MINUTE
    midpoints = range(begin + step // 2, end, step)

    summed = math.fsum(p.power_kw(meter, t) for t in midpoints) * step / HOUR

    # a step of the load within one slice is off by less than that slice
    assert p.energy_kwh(meter, begin, end) == pytest.approx(summed, rel=2e-4)


@pytest.mark.parametrize("scale", CementPlant.SCALES)
def test_the_mass_over_a_scale_is_the_numerical_integral_of_its_flow(scale: str) -> None:
    p, step = plant(), SECOND // 50
    end = START + 3 * MINUTE

    summed = math.fsum(p.flow_t_h(scale, t) for t in range(START + step // 2, end, step))

    assert p.mass_t(scale, START, end) == pytest.approx(summed * step / HOUR, rel=2e-5)


@pytest.mark.parametrize("meter", CementPlant.METERS)
def test_energies_of_adjacent_spans_add_up_over_months(meter: str) -> None:
    p = plant()
    cuts = [START + i * (3 * DAY + 17 * MINUTE + 3) for i in range(21)]

    parts = math.fsum(p.energy_kwh(meter, a, b) for a, b in pairwise(cuts))

    assert parts == pytest.approx(p.energy_kwh(meter, cuts[0], cuts[-1]), rel=1e-12)


def test_the_grid_feeds_what_the_loads_take_beyond_the_recovered_heat() -> None:
    p = plant()
    loads = [m for m in p.METERS if m not in {"em-grid", "em-whr"}]

    rest = p.energy_kwh("em-grid", START, START + HOUR) + p.energy_kwh(
        "em-whr", START, START + HOUR
    )
    rest -= sum(p.energy_kwh(m, START, START + HOUR) for m in loads)

    assert 6000 < rest < 7600  # the cement mills, which have no meter of their own


def test_a_counter_is_its_initial_reading_plus_the_energy_since_the_start() -> None:
    p, t = plant(), START + 5 * HOUR + 7
    kiln, recovery = p.source("em-kiln"), p.source("em-whr")
    assert kiln is not None
    assert recovery is not None

    risen = kiln.value("active_energy_import", t) - kiln.value("active_energy_import", START)
    delivered = recovery.value("active_energy_export", t)
    delivered -= recovery.value("active_energy_export", START)

    assert risen == pytest.approx(p.energy_kwh("em-kiln", START, t), rel=1e-9)
    assert delivered == pytest.approx(p.energy_kwh("em-whr", START, t), rel=1e-9)
    assert recovery.value("active_power", t) == -p.power_kw("em-whr", t)
    assert recovery.value("active_energy_import", t) == 1200.0


def test_the_clinker_line_is_as_thirsty_as_the_standard_expects() -> None:
    p, end = plant(), START + 6 * HOUR
    drives = ("em-kiln", "em-raw-mill", "em-coal-mill", "em-cooler")
    clinker = p.mass_t("scale-clinker", START, end)
    electricity = sum(p.energy_kwh(m, START, end) for m in drives)
    net = electricity - p.energy_kwh("em-whr", START, end)
    coal = p.mass_t("scale-coal", START, end)

    intensity = (coal * 1000 * 23.1 / 29.3076 + net * 0.1229) / clinker

    assert 50 < electricity / clinker < 60  # kWh/t
    assert 100 < intensity < 110  # kgce/t


def test_the_times_in_all_states_add_up_to_the_span_exactly() -> None:
    p, end = plant(), START + 30 * HOUR + 1

    spent = p.packer.state_ns(START, end)

    assert sum(spent.values()) == end - START
    assert all(ns > 0 for ns in spent.values())
    assert p.state_seconds(START, end)[PRODUCING] == spent[PRODUCING] / SECOND


def test_the_state_changes_at_the_instants_that_it_says() -> None:
    p = plant()
    changes = p.state_changes(START, START + 3 * HOUR)

    assert len(changes) > 100
    for t, state in changes:
        assert p.state(t) == state
        assert p.state(t - 1) != state


def test_a_bag_is_ready_after_each_cycle_of_producing() -> None:
    p, end = plant(), START + 2 * HOUR + 11 * MINUTE
    producing = p.packer.state_ns(START, end)[PRODUCING]

    assert abs(p.bags(START, end) - producing / CYCLE) < 1
    assert p.rejects(START, end) == pytest.approx(p.bags(START, end) / 50, abs=2)


def test_a_bag_count_changes_at_the_instant_that_it_says() -> None:
    p = plant()
    for span in range(200):
        begin = START + span * 7 * SECOND
        for t, count in p.packer.bag_changes(begin, begin + 7 * SECOND):
            assert p.packer.bags(t) == count
            assert p.packer.bags(t - 1) == count - 1
        for t, count in p.packer.reject_changes(begin, begin + 7 * SECOND):
            assert p.packer.rejects(t) == count
            assert p.packer.rejects(t - 1) == count - 1


def test_the_mean_of_a_gas_leaves_the_calibration_out() -> None:
    p = plant()
    begin = START // DAY * DAY + CALIBRATION[0] - MINUTE
    step = SECOND // 10
    normal = [t for t in range(begin, begin + HOUR, step) if p.flag(t) == 0]

    mean = p.gas_mean("nox", begin, begin + HOUR)

    assert len(normal) == 50 * 600
    assert mean == pytest.approx(sum(p.gas("nox", t) for t in normal) / len(normal), rel=1e-5)
    assert p.source("cems-kiln").value("nox", begin + 2 * MINUTE) == 0.0  # type: ignore[union-attr]
    assert math.isnan(p.gas_mean("nox", begin + 2 * MINUTE, begin + 3 * MINUTE))


def test_the_same_seed_is_the_same_plant_and_another_seed_another() -> None:
    t = START + 17 * MINUTE
    rows = [
        [*(p.power_kw(m, t) for m in p.METERS), p.source("scale-coal").value("mass", t)]  # type: ignore[union-attr]
        for p in (plant(1), plant(1), plant(2))
    ]

    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert plant(1).state_changes(START, t) != plant(2).state_changes(START, t)


def test_what_happens_at_an_instant_does_not_depend_on_when_the_plant_was_started() -> None:
    early, late = plant(start=START), plant(start=START + 5 * HOUR)
    t = START + 7 * HOUR

    assert early.power_kw("em-grid", t) == late.power_kw("em-grid", t)
    assert early.state_changes(t, t + HOUR) == late.state_changes(t, t + HOUR)
    assert early.energy_kwh("em-kiln", t, t + HOUR) == late.energy_kwh("em-kiln", t, t + HOUR)


def test_asking_does_not_change_the_plant() -> None:
    asked, fresh = plant(), plant()
    for i in range(1000):
        asked.bags(START, START + i * MINUTE)
        asked.power_kw("em-kiln", START + i * 997)

    t = START + 3 * HOUR
    assert asked.bags(START, t) == fresh.bags(START, t)
    assert asked.energy_kwh("em-packing", START, t) == fresh.energy_kwh("em-packing", START, t)


def test_on_a_clock_without_a_start_the_plant_begins_now() -> None:
    clock = VirtualClock()

    assert CementPlant(1, clock).start == clock.wall_ns()
