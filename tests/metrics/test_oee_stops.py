"""OEE: stops and micro-stops, pieces, calendars, state maps, several machines."""

from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from random import Random
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.metrics.base import MINUTE, Metric
from edge_agent.metrics.join import Minutes
from edge_agent.metrics.machine_time import ACTIVITIES, PACKML
from edge_agent.metrics.oee import Oee
from edge_agent.metrics.oee_line import OeeLineConfig
from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Kind, Quality, SampleBlock, Schema, Site
from edge_agent.units import Duration
from tests.metrics.machines import MICRO, PLAIN, packer, quarter, spoiled
from tests.metrics.plants import (
    PACKER,
    SCALE,
    SECOND,
    START,
    Works,
    operators,
    pieces,
    restored,
    run,
    same,
)
from tests.metrics.test_kpis import compute, last, rows

LINE = OeeLineConfig(machines=("one", "two"), windows=("1min", "15min"))

# stops ------------------------------------------------------------------------------------------


def test_a_stop_over_a_border_is_judged_by_its_whole_length() -> None:
    short = packer([(0, 1), (1.5, 3), (3.25, 1)])  # 105 s in three minutes
    found = compute(MICRO, [short])["kpi/1min"]
    assert found["micro_stop_s"][:5].tolist() == [0, 30, 60, 15, 0]
    assert found["micro_stops"][:5].tolist() == [0, 1, 0, 0, 0]
    assert found["fault_s"].max() == found["failures"].max() == 0
    assert found["adet_s"][:5].tolist() == [0, 30, 60, 15, 0]
    long = packer([(0, 1), (1.5, 3), (3.5, 1)])  # 120 s: as long as the limit
    found = compute(MICRO, [long])["kpi/1min"]
    assert found["micro_stop_s"].max() == found["micro_stops"].max() == 0
    assert found["fault_s"][:5].tolist() == [0, 30, 60, 30, 0]
    assert found["failures"][:5].tolist() == found["stops"][:5].tolist() == [0, 1, 0, 0, 0]


def test_the_idle_part_of_a_short_stop_is_delay() -> None:
    found = quarter(MICRO, packer([(0, 1), (2, 3), (2.5, 2), (3, 1), (5, 2), (9, 1)]))
    assert found["micro_stop_s"] == found["adet_s"] == 60.0
    assert found["adot_s"] == 240.0
    assert (found["stops"], found["micro_stops"], found["failures"]) == (2, 1, 0)


def test_minutes_wait_only_while_a_stop_can_still_be_short() -> None:
    metrics = [*operators(), *MICRO.build("kpi", Works())]
    block = packer([(0, 1), (3.5, 3), (9, 1)])
    closed = {}
    for i in range(len(block)):
        found = run(metrics, [block.rows(i, i + 1)])
        for end in found["kpi/1min"].time.tolist() if "kpi/1min" in found else ():
            closed[(end - START) // MINUTE] = (int(block.time[i]) - START) / MINUTE
    assert closed[3] == pytest.approx(3, abs=0.2)
    assert closed[4] == closed[5] == pytest.approx(5.5, abs=0.2)  # two minutes after 3.5
    assert all(closed[minute] == pytest.approx(minute, abs=0.2) for minute in range(6, 16))


def test_a_lost_answer_in_a_fault_is_not_a_second_failure() -> None:
    block = packer([(0, 1), (3, 3), (8, 1)])
    lost = spoiled(block, "state", slice(60, 64), Quality.BAD_NO_ANSWER)  # 20 s in minute 6
    found = quarter(MICRO, lost)
    assert (found["failures"], found["stops"]) == (1, 1)
    assert found["fault_s"] == 280.0
    assert found["not_covered_s"] == 20.0
    assert found["adot_s"] == 0.0


def test_a_stop_whose_beginning_nobody_saw_is_long_and_not_counted() -> None:
    found = quarter(MICRO, packer([(0, 3), (1, 1)]))
    assert (found["stops"], found["failures"], found["micro_stops"]) == (0, 0, 0)
    assert found["fault_s"] == 60.0


def test_faults_that_are_parted_by_idling_are_two_failures_of_one_stop() -> None:
    found = quarter(PLAIN, packer([(0, 1), (2, 3), (4, 2), (6, 3), (8, 1)]))
    assert (found["failures"], found["stops"]) == (2, 1)
    assert found["mttr_s"] == pytest.approx(240 / 3)


def test_silence_is_not_idle_time() -> None:
    block = packer([(0, 1)])
    keep = (block.time < START + 4 * MINUTE) | (block.time >= START + 9 * MINUTE)
    silent = SampleBlock(PACKER, block.time[keep], block.value[:, keep], block.quality[:, keep])
    found = quarter(PLAIN, silent)
    assert found["adot_s"] == 0.0
    assert found["not_covered_s"] == 300.0 - 10.0  # the last row holds 15 s, five of them before
    assert found["apt_s"] == 610.0
    assert found["coverage"] == pytest.approx(600 / 900, abs=0.02)


def test_reasons_are_told_by_their_names() -> None:
    config = replace(PLAIN, reason="packer.reason", reasons={"jam": (11, 12), "no-bags": (20,)})
    block = packer(
        [(0, 1), (2, 3), (4, 1), (6, 2), (9, 1), (10, 3), (11, 1)],
        reason=lambda s: 11 if s < 240 else 20 if s < 450 else 99 if s < 600 else 12,
    )
    found = quarter(config, block)
    assert (found["reason_jam_s"], found["reason_jam_n"]) == (180.0, 2)
    assert (found["reason_no-bags_s"], found["reason_no-bags_n"]) == (90.0, 1)
    assert found["reason_other_s"] == 90.0


WORDS = {1: "Jam at infeed", 2: "Jam at outfeed", 3: "Kein Sack"}
TEXTED = replace(
    PACKER, tags=tuple(replace(t, kind=Kind.TEXT) if t.name == "reason" else t for t in PACKER.tags)
)


class Texted(Works):
    """A plant whose packer says why it stands."""

    def raw(self, name: str) -> Schema:
        return TEXTED if name.startswith("packer.") else super().raw(name)


def test_reasons_can_be_texts() -> None:
    jam = ("Jam at infeed", "Jam at outfeed")
    config = replace(
        MICRO, reason="packer.reason", reasons={"jam": jam, "no-bags": ("Kein Sack",)},
        windows=("1min",),
    )  # fmt: skip
    given = packer(
        [(0, 1), (2, 3), (4, 1), (6, 2), (9, 1), (10, 3), (13, 1)],
        reason=lambda s: 1 if s < 240 else 3 if s < 600 else 2,
    )
    block = SampleBlock(TEXTED, given.time, given.value, given.quality, {"reason": WORDS})

    def metrics() -> list[Metric]:
        return [SlotOperator(TEXTED), *config.build("kpi", Texted())]

    def renew(metric: Metric) -> Metric:
        return restored(next(m for m in metrics() if m.output == metric.output), metric)

    found = run(metrics(), [block])["kpi/1min"]
    assert float(np.sum(found["reason_jam_s"][:15])) == 300.0
    assert float(np.sum(found["reason_jam_n"][:15])) == 2.0
    assert float(np.sum(found["reason_no-bags_s"][:15])) == 180.0
    same(found, run(metrics(), pieces(block, Random(1), 5), renew)["kpi/1min"])


def test_a_state_that_falls_silent_in_a_young_stop_does_not_hold_the_minutes_for_ever() -> None:
    config = replace(MICRO, produced="scale.mass", rejected=None, windows=("1min",))
    metrics = [*operators(), *config.build("kpi", Works())]
    state = packer([(0, 1), (2.5, 3)], 3.0)
    blocks = [(int(state.time[i]), state.rows(i, i + 1)) for i in range(len(state))]
    mass = rows(SCALE, 30.0, mass=lambda s: 500 + s)
    blocks += [(int(mass.time[i]), mass.rows(i, i + 1)) for i in range(len(mass))]
    found = run(metrics, [block for _, block in sorted(blocks, key=itemgetter(0))])["kpi/1min"]
    assert len(found) >= 10
    assert found["fault_s"][:3].tolist() == [0.0, 0.0, 30.0]
    assert found["fault_s"][3] == 15.0  # its last row holds three periods
    assert np.nansum(found["micro_stop_s"]) == 0.0
    assert found["not_covered_s"][3:6].tolist() == [45.0, 60.0, 60.0]


# pieces -----------------------------------------------------------------------------------------


def test_a_glitch_of_the_counter_does_not_move_the_effectiveness() -> None:
    clean, dirty = packer([(0, 1)]), packer([(0, 1)])
    value = dirty.value.copy()
    for row, jump in ((40, 30000.0), (90, -900.0), (91, 60000.0), (150, 1e9)):
        value[PACKER.index["bags"], row] += jump
    found = quarter(PLAIN, SampleBlock(PACKER, dirty.time, value, dirty.quality))
    assert found["effectiveness"] == pytest.approx(quarter(PLAIN, clean)["effectiveness"])


def test_an_ideal_cycle_that_is_too_slow_is_shown_as_it_is() -> None:
    found = quarter(replace(PLAIN, ideal_cycle=Duration(6.0)), packer([(0, 1)]))
    assert found["effectiveness"] == pytest.approx(2.0)
    assert found["speed_loss_s"] == pytest.approx(-900.0)
    assert found["good_time_s"] == pytest.approx(1800.0)


def test_an_hour_without_a_piece_has_an_oee_of_zero() -> None:
    found = quarter(PLAIN, packer([(0, 3)], bags=1000.0))
    assert (found["oee"], found["teep"], found["availability"]) == (0.0, 0.0, 0.0)
    assert np.isnan(found["effectiveness"])
    assert np.isnan(found["quality_ratio"])


def test_time_whose_pieces_are_not_known_is_no_speed_loss() -> None:
    block = spoiled(packer([(0, 1)], 20.0), "bags", slice(0, 60), Quality.BAD_DEVICE)
    found = quarter(PLAIN, block)
    assert found["unknown_s"] == 300.0
    assert found["speed_loss_s"] == pytest.approx(600.0 - 1.5 * found["produced"])


# calendars, maps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "night"),
    [("2026-03-28T21:00:00", 7), ("2026-10-24T20:00:00", 9), ("2026-06-01T20:00:00", 8)],
)
def test_planned_time_follows_the_wall_clock_over_midnight_and_changes_of_time(
    first: str, night: int
) -> None:
    site = Site("works", "main", "works", ZoneInfo("Europe/Berlin"))
    works = Works(site=site, shifts={"night": "22:00-06:00"})
    config = replace(PLAIN, planned="shifts", windows=("1min", "shift", "1d"))
    minutes, shift, _ = config.build("kpi", works)
    assert isinstance(minutes, Minutes)
    assert isinstance(minutes.formula, Oee)
    begin = int(np.datetime64(first, "ns").astype(np.int64))  # 22:00 of the evening there
    ends = begin + (np.arange(-60, 24 * 60) + 1) * MINUTE
    planned = minutes.formula.machine.within(ends)
    assert not planned[:60].any()
    assert planned[60 : 60 + night * 60].all()
    assert not planned[60 + night * 60 : 60 + 20 * 60].any()
    rows_of_shift = shifted(minutes.output, ends, planned)
    found = shift.update(rows_of_shift)
    assert found is not None
    assert found["pbt_s"][0] == night * 3600.0
    assert found["coverage"][0] == 1.0
    assert found.time[0] == begin + night * 3600 * SECOND


def shifted(
    schema: Schema, ends: "np.ndarray[tuple[int], np.dtype[np.int64]]", planned: object
) -> SampleBlock:
    """Minute rows of a machine that idles: planned time in shifts, the rest outside."""
    value = np.zeros((len(schema.tags), len(ends)))
    value[schema.index["pbt_s"]] = value[schema.index["adot_s"]] = np.where(planned, 60.0, 0.0)
    value[schema.index["outside_s"]] = np.where(planned, 0.0, 60.0)
    value[schema.index["coverage"]] = 1.0
    return SampleBlock(schema, ends, value, np.zeros(value.shape, np.uint8))


def test_work_outside_of_shifts_is_overtime_and_nothing_else() -> None:
    config = replace(PLAIN, planned="shifts")
    works = Works(shifts={"A": "08:05-08:15"})
    block = packer([(0, 1), (7, 7), (9, 1)])
    by_row = [block.rows(i, i + 1) for i in range(len(block))]
    found = last(run([*operators(), *config.build("kpi", works)], by_row)["kpi/15min"])
    assert (found["overtime_s"], found["overtime_n"]) == (300.0, 100.0)
    assert (found["apt_s"], found["adot_s"], found["outside_s"]) == (480.0, 120.0, 300.0)
    assert found["produced"] == pytest.approx(200.0)
    assert found["availability"] == pytest.approx(0.8)
    assert found["teep"] == pytest.approx(1.5 * 200 / 900)


def test_packml_has_every_state_once() -> None:
    numbers = [number for numbers in PACKML.values() for number in numbers]
    assert sorted(numbers) == list(range(1, 18))
    config = replace(PLAIN, states="packml")
    assert config.faults() == []
    found = quarter(config, packer([(0, 6), (2, 11), (4, 5), (5, 9), (8, 3), (9, 4), (12, 6)]))
    assert (found["apt_s"], found["delay_s"], found["blocked_s"]) == (300.0, 120.0, 60.0)
    assert (found["fault_s"], found["aust_s"], found["adot_s"]) == (180.0, 60.0, 180.0)


def test_every_activity_has_its_time() -> None:
    states: Mapping[str, tuple[int, ...]] = {a: (i,) for i, a in enumerate(ACTIVITIES, 1)}
    config = replace(PLAIN, states=states, windows=("15min",))
    found = quarter(config, packer([(i, i + 1) for i in range(10)] + [(10, 1)]))
    assert (found["apt_s"], found["aust_s"], found["adot_s"]) == (360.0, 60.0, 60.0)
    assert [found[f"{a}_s"] for a in ("fault", "delay", "blocked", "starved")] == [60.0] * 4
    assert (found["planned_stop_s"], found["outside_s"], found["pbt_s"]) == (120.0, 60.0, 720.0)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"micro_stop": Duration(0.0)}, ("micro_stop",)),
        ({"scheme": "tpm"}, ("scheme",)),
        ({"reason": "packer.reason"}, ("reasons",)),
        ({"reasons": {"jam": (1,)}}, ("reasons",)),
        ({"reason": "a.b", "reasons": {"jam": (1,), "wear": (1,)}}, ("reasons", "wear", 0)),
        ({"reason": "a.b", "reasons": {"other": (1,)}}, ("reasons", "other")),
    ],
)
def test_a_wrong_option_is_named_by_its_place(
    change: dict[str, object], path: tuple[str | int, ...]
) -> None:
    assert [where for where, _ in replace(PLAIN, **change).faults()] == [path]


def test_what_the_plant_lacks_is_told_when_it_is_built() -> None:
    with pytest.raises(ValueError, match=r"planned: shifts needs shifts\.calendar"):
        replace(PLAIN, planned="shifts").build("kpi", Works(shifts={}))
    elsewhere = replace(PLAIN, reason="em-a.power", reasons={"jam": (1,)})
    with pytest.raises(ValueError, match="must be read with"):
        elsewhere.build("kpi", Works())
    worded = replace(PLAIN, reason="packer.reason", reasons={"jam": ("Jam",)})
    with pytest.raises(ValueError, match="is a state: write numbers"):
        worded.build("kpi", Works())
    counted = replace(PLAIN, reason="packer.bags", reasons={"jam": (1,)})
    with pytest.raises(ValueError, match="must be a state or a text"):
        counted.build("kpi", Works())


# several machines -------------------------------------------------------------------------------


def test_a_line_is_the_quotient_of_sums_not_the_mean_of_ratios() -> None:
    one = replace(PLAIN, windows=("1min",))
    two = replace(
        PLAIN, state="packer.reason", rejected=None, produced="packer.reject",
        ideal_cycle=Duration(10.0), windows=("1min",),
    )  # fmt: skip
    configs = {"one": one, "two": two, "kpi": LINE}
    works = Works(metrics=configs)
    block = packer(
        [(0, 1), (5, 5)], reason=lambda s: 1 if s < 600 else 3, reject=lambda s: 50 + s / 60
    )
    metrics = [m for name, config in configs.items() for m in config.build(name, works)]
    by_row = [block.rows(i, i + 1) for i in range(len(block))]
    found = last(run([*operators(), *metrics], by_row)["kpi/15min"])
    good = 1.5 * (300 - 15) + 10 * 15  # of 5 minutes of busy time the one, of 15 the other
    assert found["pbt_s"] == 1200.0
    assert found["apt_s"] == 900.0
    assert found["oee"] == pytest.approx(good / 1200)
    assert found["availability"] == pytest.approx(0.75)
    assert found["quality_ratio"] == pytest.approx(good / (1.5 * 300 + 10 * 15))


def test_a_line_names_what_is_wrong_with_its_machines() -> None:
    assert [w for w, _ in OeeLineConfig(machines=()).faults()] == [("machines",)]
    assert [w for w, _ in OeeLineConfig(machines=("a", "a")).faults()] == [("machines", 1)]
    works = Works(metrics={"one": replace(PLAIN, windows=("15min",))})
    with pytest.raises(ValueError, match="needs the window 1min"):
        OeeLineConfig(machines=("one",)).build("kpi", works)
    works = Works(metrics={"one": PLAIN})
    with pytest.raises(ValueError, match="needs machines that have micro_stop"):
        OeeLineConfig(machines=("one",), scheme="tpm").build("kpi", works)
