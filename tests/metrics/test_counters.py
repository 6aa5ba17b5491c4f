"""What a counter's readings make of its increments."""

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.metrics.slots import LONGEST_GAP, SlotOperator
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag, concatenate
from edge_agent.outbox_schema import as_json
from edge_agent.units import Unit
from tests.metrics.plants import SECOND, START, restored

MINUTE = 60 * SECOND


def meter(
    period: float = 1.0, modulus: float | None = None, max_rate: float | None = None
) -> Schema:
    tag = Tag("energy", Unit.parse("kWh"), Kind.COUNTER, modulus=modulus, max_rate=max_rate)
    return Schema("em/raw", Family.SAMPLE, (tag,), period)


def rows(schema: Schema, readings: list[tuple[float, float | None]]) -> SampleBlock:
    """Rows at seconds after the start; None: no answer."""
    time = np.array([START + round(s * SECOND) for s, _ in readings], np.int64)
    value = np.array([[np.nan if r is None else r for _, r in readings]])
    return SampleBlock(schema, time, value, np.where(np.isnan(value), 129, 0).astype(np.uint8))


def steady(
    seconds: int, level: float = 100.0, rate: float = 0.5
) -> list[tuple[float, float | None]]:
    return [(float(s), level + rate * s) for s in range(seconds)]


def slots(schema: Schema, readings: list[tuple[float, float | None]]) -> SampleBlock:
    found = SlotOperator(schema).update(rows(schema, readings))
    assert found is not None
    return found


def quality(block: SampleBlock, name: str) -> list[int]:
    return block.quality[block.schema.index[name]].tolist()


def test_a_slot_is_labelled_with_its_end_and_closes_at_the_first_row_there() -> None:
    operator = SlotOperator(meter())
    assert operator.update(rows(meter(), steady(60))) is None
    found = operator.update(rows(meter(), [(60.0, 130.0)]))
    assert found is not None
    assert found.time.tolist() == [START + MINUTE]
    assert found["energy.increment"].tolist() == [30.0]
    assert found["energy.reading"].tolist() == [130.0]
    assert found["energy.coverage"].tolist() == [1.0]
    assert quality(found, "energy.increment") == [Quality.GOOD]


def test_a_border_between_two_readings_is_interpolated() -> None:
    found = slots(meter(), [(s + 0.5, 2.0 * s) for s in range(121)])
    assert found["energy.reading"].tolist() == [119.0, 239.0]
    assert quality(found, "energy.increment") == [Quality.BAD_MISSING, Quality.GOOD]
    assert found["energy.increment"][1] == 120.0
    assert found["energy.coverage"][0] == pytest.approx(59.5 / 60)


def test_a_rollover_is_not_a_reset() -> None:
    readings = [(float(s), (980.0 + 0.5 * s) % 1000) for s in range(181)]
    found = slots(meter(modulus=1000.0), readings)
    assert found["energy.increment"].tolist() == [30.0, 30.0, 30.0]
    assert quality(found, "energy.increment") == [Quality.GOOD_ROLLOVER, 0, 0]


def test_a_rollover_between_two_slots_keeps_its_register_below_the_modulus() -> None:
    readings = [(s + 0.5, (999.25 + 1.0 * (s - 59)) % 1000) for s in range(125)]
    found = slots(meter(modulus=1000.0), readings)
    assert found["energy.reading"].tolist() == [999.75, 59.75]
    assert found["energy.increment"][1] == 60.0


def test_a_wrapped_step_that_the_rated_power_cannot_make_is_a_reset() -> None:
    readings = [(float(s), 500.0 + 0.5 * s if s < 70 else 3.0 + 0.5 * (s - 70)) for s in range(181)]
    found = slots(meter(modulus=1000.0, max_rate=1.0), readings)
    assert quality(found, "energy.increment") == [0, Quality.UNCERTAIN_RESET, 0]
    assert found["energy.increment"].tolist() == [30.0, 29.5, 30.0]  # the step itself is 0


@pytest.mark.parametrize(
    ("last", "first", "over"), [(901.0, 99.0, True), (899.0, 99.0, False), (950.0, 101.0, False)]
)
def test_without_a_rated_power_only_top_and_bottom_tenth_make_a_rollover(
    last: float, first: float, over: bool
) -> None:
    before = [(float(s), last - 20.0 * max(0, 40 - s)) for s in range(90)]
    after = [(float(s), first + 20.0 * (s - 90)) for s in range(90, 122)]
    found = slots(meter(modulus=1000.0), [*before, *after])
    wanted = (1000.0 - last + first if over else 0.0) + 40 * 20.0 + 30 * 20.0
    assert np.sum(found["energy.increment"]) == wanted


def test_a_meter_that_is_replaced_near_its_end_books_no_tenth_of_its_register() -> None:
    readings = [(float(s), 930.0 + s / 60 if s < 50 else 5.0 + s / 60) for s in range(181)]
    found = slots(meter(modulus=1000.0), readings)
    assert np.sum(found["energy.increment"]) == pytest.approx(3.0, abs=0.1)
    assert quality(found, "energy.increment")[0] == Quality.UNCERTAIN_RESET


def test_an_outage_over_a_rollover_books_what_the_load_so_far_can_have_made() -> None:
    away = 20 * 3600.0
    later = [(away + s, (990.0 + 0.01 * (away + s)) % 1000) for s in range(121)]
    before = [(float(s), 990.0 + 0.01 * s) for s in range(61)]
    assert later[0][1] > 700.0
    found = slots(meter(modulus=1000.0), [*before, *later])
    assert np.sum(found["energy.increment"]) == pytest.approx(0.01 * (away + 120), abs=1e-5)
    assert np.max(found["energy.increment"]) == pytest.approx(0.6, abs=1e-4)


def test_a_new_meter_with_a_higher_reading_is_never_booked_as_one_step() -> None:
    readings = [(float(s), 500.0 + 0.5 * s if s < 70 else 9e6 + 0.5 * (s - 70)) for s in range(181)]
    found = slots(meter(max_rate=1.0), readings)
    assert found["energy.increment"].tolist() == [30.0, 29.5, 30.0]
    assert quality(found, "energy.increment")[1] == Quality.UNCERTAIN_RESET


def test_an_open_question_keeps_the_slot_open() -> None:
    schema = meter()
    operator = SlotOperator(schema)
    operator.update(rows(schema, steady(59)))
    for second in range(59, 89):
        assert operator.update(rows(schema, [(second, 0.5 * (second - 59))])) is None
    found = operator.update(rows(schema, [(89, 15.0)]))
    assert found is not None
    assert quality(found, "energy.increment") == [Quality.UNCERTAIN_RESET]


@pytest.mark.parametrize("period", [10.0, 30.0, 60.0, 900.0])
def test_the_verdict_falls_after_three_readings_and_half_a_minute(period: float) -> None:
    before: list[tuple[float, float | None]] = [(i * period, 100.0 + i) for i in range(20)]
    after: list[tuple[float, float | None]] = [(i * period, i - 15.0) for i in range(20, 30)]
    seconds = asked(meter(period=period), [*before, *after])
    assert max(seconds) - 20 * period == (max(30.0, 3 * period) if period > 10 else 30.0) - period


def test_a_slow_meter_confirms_by_its_third_reading() -> None:
    schema = meter(period=60.0, max_rate=1.0)
    readings = [(0.0, 90.0), (60.0, 100.0), (120.0, 110.0), (180.0, 5.0), (240.0, 15.0)]
    found = slots(schema, [*readings, (300.0, 25.0), (360.0, 35.0)])
    assert found["energy.increment"].tolist() == [10.0, 10.0, 0.0, 10.0, 10.0, 10.0]
    assert quality(found, "energy.increment") == [0, 0, Quality.UNCERTAIN_RESET, 0, 0, 0]


def test_glitches_book_nothing() -> None:
    readings = steady(181)
    for s in (30, 60, 61, 62, 119):
        readings[s] = (float(s), 0.0)
    found = slots(meter(), readings)
    assert found["energy.increment"].tolist() == [30.0, 30.0, 30.0]
    assert max(quality(found, "energy.increment")) == Quality.UNCERTAIN_ESTIMATED  # 4 s without any


def test_a_reading_that_the_instrument_flags_is_no_reading() -> None:
    block = rows(meter(), steady(61))
    value, marks = block.value.copy(), block.quality.copy()
    value[0, 30], marks[0, 30] = 7.0, Quality.UNCERTAIN_FLAGGED
    found = SlotOperator(meter()).update(SampleBlock(block.schema, block.time, value, marks))
    assert found is not None
    assert found["energy.increment"].tolist() == [30.0]
    assert quality(found, "energy.increment") == [0]


def test_the_energy_of_an_outage_is_spread_over_its_slots_and_marked() -> None:
    readings = [r for r in steady(901) if not 90 < r[0] < 810]
    found = slots(meter(), readings)
    assert len(found) == 15
    assert found["energy.increment"].tolist() == [30.0] * 15
    assert found["energy.estimated"].tolist() == [0, 0.5, *[1.0] * 11, 0.5, 0]
    assert quality(found, "energy.increment") == [0, *[Quality.UNCERTAIN_ESTIMATED] * 13, 0]


def test_a_counter_that_does_not_answer_holds_its_slot_for_half_a_minute_only() -> None:
    schema = meter()
    operator = SlotOperator(schema)
    operator.update(rows(schema, steady(50)))
    silent: list[tuple[float, float | None]] = [(float(s), None) for s in range(50, 91)]
    assert operator.update(rows(schema, silent)) is None
    found = operator.update(rows(schema, [(91.0, None)]))
    assert found is not None
    assert quality(found, "energy.increment") == [Quality.BAD_MISSING]
    assert found["energy.coverage"].tolist() == [pytest.approx(49 / 60)]


def test_late_energy_is_booked_where_it_becomes_known_and_never_lost() -> None:
    silent: list[tuple[float, float | None]] = [(float(s), None) for s in range(90, 240)]
    readings = [*steady(90), *silent, *steady(301)[240:]]
    found = slots(meter(), readings)
    marks = quality(found, "energy.increment")
    # the slot that ends as the counter returns is still open, the ones before had to close
    assert marks == [0, 191, 191, Quality.UNCERTAIN_ESTIMATED, 0]
    assert np.nansum(found["energy.increment"]) == 150.0
    assert found["energy.increment"][3] == 90.0


def test_late_energy_of_several_closed_slots_is_booked_in_one() -> None:
    schema = meter()
    silent: list[tuple[float, float | None]] = [(float(s), None) for s in range(90, 240)]
    operator = SlotOperator(schema)
    first = operator.update(rows(schema, [*steady(90), *silent, (271.0, None)]))
    assert first is not None
    second = operator.update(rows(schema, steady(361)[272:]))
    assert second is not None
    total = np.nansum(concatenate([first, second])["energy.increment"])
    assert total == 180.0
    assert quality(second, "energy.increment") == [Quality.UNCERTAIN_ESTIMATED, 0]


def test_after_a_month_of_silence_the_stream_begins_anew_and_loses_no_energy() -> None:
    away = (LONGEST_GAP + 5) * 60.0
    later: list[tuple[float, float | None]] = [(away + s, 5000.0 + 0.5 * s) for s in range(121)]
    found = slots(meter(), [*steady(61), *later])
    assert len(found) == 4
    assert np.nansum(found["energy.increment"]) == 5060.0 - 100.0
    assert quality(found, "energy.increment")[2:] == [Quality.UNCERTAIN_ESTIMATED, 0]


def test_a_gap_of_a_week_is_emitted_at_once() -> None:
    week = 7 * 86400.0
    later: list[tuple[float, float | None]] = [(week + s, 1100.0 + s) for s in range(5)]
    found = slots(meter(), [*steady(61), *later])
    assert len(found) == 7 * 1440
    assert float(np.sum(found["energy.increment"])) == 1000.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), known=st.booleans())
def test_increments_add_up_to_last_minus_first_whatever_glitches_there_are(
    seed: int, known: bool
) -> None:
    random = Random(seed)
    schema = meter(period=5.0, max_rate=3.0 if known else None)
    level, readings, bad = random.random() * 1e6, [], 0
    for i in range(200):
        level += random.random() * 10
        reading: float | None = level
        bad = bad + 1 if i % 12 and 0 < i < 196 and random.random() < 0.15 and bad < 3 else 0
        if bad:  # no more than three in a row, and not on a border
            wrong = [level * 0.5, 0.0, *([level * 3 + 1e4] if known else [])]
            reading = random.choice([None, *wrong])
        readings.append((i * 5.0, reading))
    found = slots(schema, readings)
    values = [Fraction(v) for v in found["energy.increment"].tolist()]
    register = found["energy.reading"]
    grid = 2.0**-20
    first = Fraction(round((readings[0][1] or 0.0) / grid)) / 2**20
    assert sum(values) == Fraction(float(register[-1])) - first
    assert min(values) >= 0


def test_the_state_of_a_question_survives_a_restart() -> None:
    schema = meter()
    operator = SlotOperator(schema)
    operator.update(rows(schema, [*steady(59), *((59.0 + s, s / 2) for s in range(20))]))
    again = restored(SlotOperator(schema), operator)
    assert as_json(again.save()) == as_json(operator.save())
    found = again.update(rows(schema, [(59.0 + s, s / 2) for s in range(20, 31)]))
    assert found is not None
    assert quality(found, "energy.increment") == [Quality.UNCERTAIN_RESET]


# no rated power is known: what the counter did so far decides (see ``pace``)


def lines(*parts: tuple[float, float], start: float = 100.0) -> list[tuple[float, float | None]]:
    """Readings of every second while a load changes: (until which second, tag units a second)."""
    level, found = start, []
    for second in range(int(parts[-1][0]) + 1):
        found.append((float(second), level))
        level += next(rate for until, rate in parts if second < until or until == parts[-1][0])
    return found


def asks(operator: SlotOperator) -> bool:
    """Return whether a question is open, as the state tells it."""
    counters = operator.save()["counters"]
    assert isinstance(counters, dict)
    return bool(counters["questions"])


def asked(schema: Schema, readings: list[tuple[float, float | None]]) -> list[float]:
    """Return the seconds at which a question was open."""
    operator, found = SlotOperator(schema), []
    for second, reading in readings:
        operator.update(rows(schema, [(second, reading)]))
        if asks(operator):
            found.append(second)
    return found


@pytest.mark.parametrize("modulus", [None, 1e9])
@pytest.mark.parametrize("spike", [500.0, 1e6, 4e8])
@pytest.mark.parametrize("at", [(1,), (30,), (30, 31, 32), (58, 59, 60)])
def test_a_spike_upward_that_returns_books_nothing(
    modulus: float | None, spike: float, at: tuple[int, ...]
) -> None:
    readings = steady(181)
    for s in at:
        readings[s] = (float(s), spike + s)
    found = slots(meter(modulus=modulus), readings)
    assert found["energy.increment"].tolist() == [30.0, 30.0, 30.0]
    assert Quality.UNCERTAIN_RESET not in quality(found, "energy.increment")


@pytest.mark.parametrize("zeros", [1, 2, 5, 70, 600])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_total_that_comes_after_zeros_is_never_booked(zeros: int, rate: float) -> None:
    readings = [(float(s), 0.0 if s < zeros else 5e6 + rate * (s - zeros)) for s in range(901)]
    found = slots(meter(), readings)
    assert np.nansum(found["energy.increment"]) == rate * (900 - zeros)
    assert quality(found, "energy.increment").count(Quality.UNCERTAIN_RESET) == 1


def test_a_device_that_reads_zero_after_each_restart_never_books_its_total() -> None:
    readings = [
        (float(s), 0.0 if s % 300 in range(60, 60 + 7 * (s // 300)) else 5e6 + 0.5 * s)
        for s in range(2401)
    ]
    found = slots(meter(), readings)
    assert 1000 < np.nansum(found["energy.increment"]) <= 1200.0


def test_a_total_that_came_late_does_not_make_a_spike_believed() -> None:
    readings = [(float(s), 0.0 if s < 5 else 5e6 + 0.5 * s) for s in range(181)]
    readings[100] = (100.0, 5.3e6)
    assert np.nansum(slots(meter(), readings)["energy.increment"]) == 0.5 * 175


@pytest.mark.parametrize("new", [7e5, 9e6])
def test_another_meter_that_reads_more_is_not_booked(new: float) -> None:
    readings = [(float(s), 5e5 + 0.5 * s if s < 70 else new + 0.5 * (s - 70)) for s in range(181)]
    found = slots(meter(), readings)
    assert found["energy.increment"].tolist() == [30.0, 29.5, 30.0]
    assert quality(found, "energy.increment") == [0, Quality.UNCERTAIN_RESET, 0]


def test_another_meter_after_a_total_that_came_late_is_not_booked_either() -> None:
    levels = [(0.0, 30), (5e6, 300), (7e6, 600)]
    readings = [(s, next(level for level, until in levels if s < until)) for s in range(600)]
    found = slots(meter(), [(float(s), level) for s, level in readings])
    assert np.nansum(found["energy.increment"]) == 0.0


def test_two_meters_that_answer_in_turn_book_nothing() -> None:
    readings = [(float(s), 7e5 if s // 40 % 2 else 5e5) for s in range(1201)]
    assert np.nansum(slots(meter(), readings)["energy.increment"]) == 0.0


def test_a_total_that_comes_after_zeros_and_garbage_is_never_booked() -> None:
    readings = [(float(s), 0.0 if s < 30 else 5e6 + 0.5 * s) for s in range(181)]
    readings[29] = (29.0, 3.0)
    assert np.nansum(slots(meter(), readings)["energy.increment"]) == 0.5 * 150


@pytest.mark.parametrize("zeros", range(1, 8))
def test_a_meter_that_falls_to_zero_and_comes_back_lower_books_no_total(zeros: int) -> None:
    readings = steady(181, level=5e6)
    for s in range(70, 181):
        readings[s] = (float(s), 0.0 if s < 70 + zeros else 4e6 + 0.5 * s)
    assert 80.0 < np.nansum(slots(meter(), readings)["energy.increment"]) < 90.0


def test_what_a_counter_may_step_grows_with_its_load() -> None:
    loads = [(100.0 * (i + 1), 0.01 * 6.0**i) for i in range(6)]
    assert max(asked(meter(), lines(*loads))) < 32


@pytest.mark.parametrize("start", [0.0, 100.0, 1e6])
@pytest.mark.parametrize("idle", [0.0, 1e-3])
def test_a_load_that_begins_is_booked_in_full(start: float, idle: float) -> None:
    readings = lines((600, idle), (1200, 1.0), start=start)
    found = slots(meter(), readings)
    wanted = (readings[-1][1] or 0.0) - start
    assert np.sum(found["energy.increment"]) == pytest.approx(wanted, abs=1e-5)
    assert set(quality(found, "energy.increment")) == {Quality.GOOD}


def test_a_load_that_begins_in_the_middle_of_a_poll_and_rises_is_booked_in_full() -> None:
    readings = lines((100, 1e-3), (101, 0.02), (102, 0.3), (103, 3.0), (601, 8.0))[:601]
    found = slots(meter(), readings)
    wanted = (readings[-1][1] or 0.0) - 100.0
    assert np.sum(found["energy.increment"]) == pytest.approx(wanted, abs=1e-5)
    assert set(quality(found, "energy.increment")) == {Quality.GOOD}


@pytest.mark.parametrize("polls", [2, 5, 20])
@pytest.mark.parametrize("period", [1.0, 5.0, 60.0])
@pytest.mark.parametrize(("start", "lost"), [(0.0, 12.0), (100.0, 6.0), (12_000.0, 0.0)])
def test_a_coarse_register_asks_only_at_its_first_counts(
    polls: int, period: float, start: float, lost: float
) -> None:
    readings = [(i * period, start + 6.0 * (i // polls)) for i in range(40 * polls + 1)]
    seconds = asked(meter(period=period), readings)
    assert seconds
    assert max(seconds) < (3 * polls + 4) * period + 62
    found = slots(meter(period=period), [*readings, (readings[-1][0] + 60, readings[-1][1])])
    assert 240.0 - lost <= np.nansum(found["energy.increment"]) <= 240.0


def test_a_register_that_steps_after_any_number_of_polls_does_not_ask() -> None:
    random, readings, level = Random(5), [], 1000.0
    for s in range(3600):
        level += 6.0 * (random.random() < random.choice([0.05, 0.9]))
        readings.append((s + random.random() * 0.9, level))
    assert max(asked(meter(), readings), default=0.0) < 60.0


@pytest.mark.parametrize("period", [1.0, 60.0, 900.0])
def test_short_pulses_of_a_load_are_lost_once_at_most(period: float) -> None:
    readings = [(i * period, 1.0 + 1e-3 * i + 50.0 * (i // 12)) for i in range(241)]
    found = slots(meter(period=period), readings)
    assert np.nansum(found["energy.increment"]) >= 19 * 50.0 - 50.0
    old = [(t, 1e5 + (r or 0.0)) for t, r in readings]  # a pulse is little of the register
    found = slots(meter(period=period), old)
    assert np.nansum(found["energy.increment"]) >= 19 * 50.0
    assert Quality.UNCERTAIN_RESET not in quality(found, "energy.increment")


@pytest.mark.parametrize("period", [1.0, 10.0, 60.0, 900.0])
def test_every_scan_books_a_steady_load_in_full(period: float) -> None:
    readings = [(i * period, 10.0 + 2.0 * i * period) for i in range(int(7200 / period) + 1)]
    found = slots(meter(period=period), readings)
    assert np.nansum(found["energy.increment"]) == 14400.0
    assert Quality.UNCERTAIN_RESET not in quality(found, "energy.increment")
    assert max(asked(meter(period=period), readings)) <= max(4 * period, 60.0)


@pytest.mark.parametrize("hours", [1, 24, 24 * 7])
def test_the_energy_of_a_long_outage_is_booked_without_a_question(hours: int) -> None:
    later = [(60.0 + 3600.0 * hours + s, 130.0 + 1800.0 * hours + s / 2) for s in range(61)]
    readings = [*steady(61), *later]
    assert max(asked(meter(), readings)) < 60
    assert np.sum(slots(meter(), readings)["energy.increment"]) == 60.0 + 1800.0 * hours


def test_what_a_counter_is_allowed_survives_a_restart() -> None:
    schema = meter()
    operator = SlotOperator(schema)
    operator.update(rows(schema, steady(61)))
    again = restored(SlotOperator(schema), operator)
    assert as_json(again.save()) == as_json(operator.save())
    again.update(rows(schema, [(62.0, 131.0)]))
    assert not asks(again)
    again.update(rows(schema, [(63.0, 700.0)]))
    assert asks(again)
