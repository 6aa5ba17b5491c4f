"""Functions of the rows before: equal to the slow version, whatever blocks the rows came in."""

import json
from random import Random

import numpy as np
import pytest

from edge_agent.metrics.base import QualityLimits
from edge_agent.metrics.moving import ROWS, Moved, Moving
from edge_agent.metrics.operations import clean
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Family, Quality, SampleBlock, Schema
from edge_agent.outbox_schema import as_json
from tests.metrics import slow_rows
from tests.metrics.oracle import Row
from tests.metrics.plants import SCALE, SECOND, STACK, START, Works, pieces, plant_rows, tag

CASES = [
    ("rate", 0.0, STACK, "nox"),
    ("delta", 60.0, STACK, "nox"),
    ("delta", 180.0, SCALE, "mass"),
    ("mean", 60.0, STACK, "nox"),
    ("lowest", 20.0, STACK, "o2"),
    ("highest", 300.0, STACK, "so2"),
    ("forecast", 900.0, STACK, "so2"),
]


def moving(function: str, span: float, schema: Schema, *, rises: bool = False) -> Moving:
    moved = Moved(function, (), span, rises=rises)
    moved.check(schema)
    return Moving(moved, schema, QualityLimits(), Calendar(Works().site.zone))


def slow(function: str, span: float, rows: list[Row], period: float, *, rises: bool) -> list[Row]:
    if function == "rate":
        return slow_rows.rate(rows, period)
    if function == "delta":
        return slow_rows.delta(rows, period, span, rises=rises)
    if function == "forecast":
        return slow_rows.forecast(rows, period, span)
    folds = {"mean": lambda v: sum(v) / len(v), "lowest": min, "highest": max}
    return slow_rows.over(rows, period, span, folds[function])


@pytest.mark.parametrize(("function", "span", "schema", "name"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_a_function_of_the_rows_before_equals_the_slow_version(
    function: str, span: float, schema: Schema, name: str, seed: int
) -> None:
    block, random = plant_rows(seed, 19.0)[schema.stream], Random(seed)
    i, rises = schema.index[name], name == "mass"
    columns = block.time.tolist(), block.value[i].tolist(), block.quality[i].tolist()
    wanted = slow(function, span, list(zip(*columns, strict=True)), schema.period, rises=rises)

    found: list[tuple[float, int]] = []
    machine = moving(function, span, schema, rises=rises)
    for piece in pieces(block, random, 9):
        if random.random() < 0.3:  # a restart
            state = json.loads(as_json(machine.save()))
            machine = moving(function, span, schema, rises=rises)
            machine.load(state)
        value, quality = machine.take(*numbers(piece, i))
        found += zip(value.tolist(), quality.tolist(), strict=True)

    whole, marks = moving(function, span, schema, rises=rises).take(*numbers(block, i))
    np.testing.assert_array_equal([v for v, _ in found], whole)  # the same bits
    np.testing.assert_array_equal([q for _, q in found], marks)
    assert marks.tolist() == [q for _, _, q in wanted]
    np.testing.assert_allclose(whole, [v for _, v, _ in wanted], rtol=1e-12)


def numbers(block: SampleBlock, i: int) -> tuple:
    quality = block.quality[i]
    return block.time, clean(block.value[i], quality), quality


def test_a_day_s_forecast_is_of_the_local_day() -> None:
    machine = moving("forecast", 86400.0, Schema("a/raw", Family.SAMPLE, (tag("x", "kW"),), 3600.0))
    time = START + np.arange(20) * 3600 * SECOND  # from 08:00 in Shanghai
    value = np.where(np.arange(20) < 16, 10.0, 30.0)  # the day ends after 16 hours
    found, _ = machine.take(time, value, np.zeros(20, np.uint8))
    np.testing.assert_allclose(found[:16], 10.0)
    np.testing.assert_allclose(found[16:], 30.0)


def test_what_is_kept_is_bounded_and_does_not_depend_on_the_blocks() -> None:
    schema = Schema("a/raw", Family.SAMPLE, (tag("x", "kW"),), 1.0)
    n = 3 * ROWS  # a subscription that comes ten times as often as its period says
    time, value = START + np.arange(n) * SECOND // 10, np.sin(np.arange(n))
    good = np.zeros(n, np.uint8)
    whole, _ = moving("mean", 3600.0, schema).take(time, value, good)
    machine = moving("mean", 3600.0, schema)
    parts = [
        machine.take(time[i : i + 50], value[i : i + 50], good[i : i + 50])[0]
        for i in range(0, n, 50)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(machine.save()["time"]) == ROWS  # type: ignore[arg-type]


def test_two_readings_of_one_time_have_no_rate() -> None:
    machine = moving("rate", 0.0, STACK)
    time = START + np.array([0, 5, 5, 10]) * SECOND
    _, quality = machine.take(time, np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4, np.uint8))
    none = [Quality.BAD_MISSING, 0, Quality.BAD_NOT_AVAILABLE, 0]
    assert quality.tolist() == none


@pytest.mark.parametrize(
    ("function", "span", "told"),
    [
        ("mean", 5.0 * ROWS + 5, "mean may look back 18000s on cems/raw"),
        ("delta", 1.0, "cems/raw has a row every 5s: look back longer"),
        ("forecast", 600.0, "forecast takes 15min, 1h or 24h"),
    ],
)
def test_a_length_that_is_not_possible_is_refused(function: str, span: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        moving(function, span, STACK)
