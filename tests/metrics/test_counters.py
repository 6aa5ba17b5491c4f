"""What a counter's readings make of its increments."""

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.metrics.slots import LONGEST_GAP, SlotOperator
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag, concatenate
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
    readings = [(float(s), last if s < 30 else first) for s in range(61)]
    found = slots(meter(modulus=1000.0), readings)
    wanted = 1000.0 - last + first if over else 0.0
    assert found["energy.increment"].tolist() == [wanted]


def test_a_new_meter_with_a_higher_reading_is_never_booked_as_one_step() -> None:
    readings = [(float(s), 500.0 + 0.5 * s if s < 70 else 9e6 + 0.5 * (s - 70)) for s in range(181)]
    found = slots(meter(max_rate=1.0), readings)
    assert found["energy.increment"].tolist() == [30.0, 29.5, 30.0]
    assert quality(found, "energy.increment")[1] == Quality.UNCERTAIN_RESET


def test_an_open_question_keeps_the_slot_open() -> None:
    schema = meter()
    operator = SlotOperator(schema)
    operator.update(rows(schema, steady(59)))
    for second, reading in ((59, 0.0), (60, 0.5), (61, 1.0)):
        assert operator.update(rows(schema, [(second, reading)])) is None
    found = operator.update(rows(schema, [(62, 1.5)]))
    assert found is not None
    assert quality(found, "energy.increment") == [Quality.UNCERTAIN_RESET]


def test_a_slow_meter_confirms_by_its_next_reading() -> None:
    schema = meter(period=60.0)
    readings = [(0.0, 100.0), (60.0, 110.0), (120.0, 5.0), (180.0, 15.0)]
    found = slots(schema, readings)
    assert found["energy.increment"].tolist() == [10.0, 0.0, 10.0]
    assert quality(found, "energy.increment") == [0, Quality.UNCERTAIN_RESET, 0]


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
    operator.update(rows(schema, [*steady(59), (59.0, 0.0), (60.0, 0.5)]))
    again = restored(SlotOperator(schema), operator)
    found = again.update(rows(schema, [(61.0, 1.0), (62.0, 1.5)]))
    assert found is not None
    assert quality(found, "energy.increment") == [Quality.UNCERTAIN_RESET]
