"""The laws of ``architecture.md`` §5, on every registered metric, the slots and every window.

A metric added to ``METRICS`` is under them with a module in ``tests/metrics/examples``.
"""

import pickle
import timeit
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_agent.agent import ordered
from edge_agent.metrics.base import Metric
from edge_agent.metrics.rollup import RollUp
from edge_agent.metrics.slots import SlotOperator, slot_schema
from edge_agent.model import Family, SampleBlock, Schema
from edge_agent.outbox_schema import as_json
from tests.metrics import oracle
from tests.metrics.examples import examples
from tests.metrics.plants import (
    METER,
    PACKER,
    SCALE,
    SECOND,
    STACK,
    START,
    STREAMS,
    Works,
    agrees,
    as_oracle,
    interleaved,
    operators,
    pieces,
    plant_rows,
    restored,
    run,
    same,
)

EXAMPLES = examples()
SEEDS = st.integers(0, 2**32)
SLOTS = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
LAWS = settings(SLOTS, max_examples=15)
KINDS = pytest.mark.parametrize("kind", list(EXAMPLES))


def metrics_of(kind: str) -> list[Metric]:
    """The example's operators and those of the metrics that it refers to."""
    example = EXAMPLES[kind]
    configs = {**example.others, "kpi": example.config}
    plant = Works(metrics=configs)
    made = [metric for name, config in configs.items() for metric in config.build(name, plant)]
    computed = [m.output for m in made if m.output.family is Family.COMPUTED]
    return [*(SlotOperator(schema) for schema in computed if slot_schema(schema).tags), *made]


def build(kind: str) -> list[Metric]:
    return ordered([*operators(), *metrics_of(kind)])


def streams_of(kind: str) -> list[Schema]:
    """Return the raw streams that an example and the metrics it refers to read."""
    example = EXAMPLES[kind]
    every = [*example.others.values(), example.config]
    tags = [reference.tag for config in every for reference in config.references()]
    own = {schema.owner for schema in STREAMS}
    read = {Works().raw(tag).stream for tag in tags if tag.partition(".")[0] in own}
    return [schema for schema in STREAMS if schema.stream in read]


def rows_of(kind: str, seed: int, minutes: float = 14.0) -> dict[str, SampleBlock]:
    return plant_rows(seed, minutes, streams_of(kind))


def restarting(new: Iterable[Metric]) -> Callable[[Metric], Metric]:
    """Return what makes a new metric with the state of an old one, from fresh ones of each output.

    They are copied by pickle, in a quarter of the time of ``deepcopy``; building makes all of them.
    """
    fresh = {metric.output.stream: pickle.dumps(metric) for metric in new}
    return lambda metric: restored(pickle.loads(fresh[metric.output.stream]), metric)


def renewing(kind: str, random: Random) -> Callable[[Metric], Metric]:
    """Restart a metric before a third of its blocks."""
    restarted = restarting(build(kind))
    return lambda metric: metric if random.random() > 0.3 else restarted(metric)


def of_every_kind(seed: int) -> list[SampleBlock]:
    """Rows of some streams that have every kind of column; the others are for their metrics."""
    rows = plant_rows(seed)
    return [rows[schema.stream] for schema in (METER, SCALE, PACKER, STACK)]


@SLOTS
@given(seed=SEEDS)
def test_slots_do_not_depend_on_the_partition_or_on_restarts(seed: int) -> None:
    random = Random(seed)
    for block in of_every_kind(seed):
        whole = SlotOperator(block.schema).update(block)
        if whole is None:  # a question after an outage of all minutes: its answer has not come
            continue
        output = SlotOperator(block.schema).output.stream
        for longest in (1, 7, 40):
            cut = pieces(block, random, longest)
            same(whole, run([SlotOperator(block.schema)], cut)[output])
        restarted = run(
            [SlotOperator(block.schema)],
            pieces(block, random, 7),
            lambda metric: restored(SlotOperator(block.schema), metric),  # noqa: B023  used at once
        )
        same(whole, restarted[output])


@SLOTS
@given(seed=SEEDS)
def test_slots_equal_the_oracle(seed: int) -> None:
    for block in of_every_kind(seed):
        found, wanted = SlotOperator(block.schema).update(block), oracle.slots(as_oracle(block))
        assert (found is None) == (not wanted)
        if found is not None:
            agrees(found, wanted, 1e-12)


@KINDS
@LAWS
@given(seed=SEEDS)
def test_any_partition_and_interleaving_within_the_lateness_gives_the_same_rows(
    kind: str, seed: int
) -> None:
    random = Random(seed)
    rows = rows_of(kind, seed)
    whole = run(build(kind), interleaved(rows, random, 1, 0.0))
    cut = run(build(kind), interleaved(rows, random, 8, 15.0))
    assert whole.keys() == cut.keys()
    assume(EXAMPLES[kind].stream in whole)  # not where the scale asks up to the end
    for stream, block in whole.items():
        same(block, cut[stream])


@KINDS
@LAWS
@given(seed=SEEDS)
def test_a_restart_between_any_two_blocks_changes_nothing(kind: str, seed: int) -> None:
    random = Random(seed)
    rows = rows_of(kind, seed)
    blocks = interleaved(rows, random, 8, 5.0)
    whole = run(build(kind), blocks)
    restarted = run(build(kind), blocks, renewing(kind, random))
    for stream, block in whole.items():
        same(block, restarted[stream])


@KINDS
@LAWS
@given(seed=SEEDS)
def test_the_number_behind_a_bad_mark_changes_nothing(kind: str, seed: int) -> None:
    rows = rows_of(kind, seed)
    random = np.random.default_rng(seed)
    garbage = {}
    for name, block in rows.items():
        noise = random.choice([-1.0, 1e300, np.inf, 0.0, 77.0], block.value.shape)
        value = np.where(block.quality >= 128, noise, block.value)
        garbage[name] = SampleBlock(block.schema, block.time, value, block.quality)
    clean = run(build(kind), interleaved(rows, Random(seed), 5, 0.0))
    dirty = run(build(kind), interleaved(garbage, Random(seed), 5, 0.0))
    for stream, block in clean.items():
        same(block, dirty[stream])


@KINDS
@LAWS
@given(seed=SEEDS)
def test_rows_equal_the_oracle(kind: str, seed: int) -> None:
    example = EXAMPLES[kind]
    rows = rows_of(kind, seed, 19.0)
    found = run(build(kind), interleaved(rows, Random(seed), 3, 0.0))
    agrees(found[example.stream], example.expected(rows, None), example.relative)
    block = found.get("kpi/15min")
    if block is not None:
        spans = [(end - 15 * oracle.MINUTE, end) for end in block.time.tolist()]
        agrees(block, example.expected(rows, spans), example.relative)


# longer windows ---------------------------------------------------------------------------------

LONGER = [kind for kind in EXAMPLES if any(isinstance(m, RollUp) for m in metrics_of(kind))]


def rollups(kind: str) -> list[Metric]:
    return [metric for metric in metrics_of(kind) if isinstance(metric, RollUp)]


def days_of(kind: str, seed: int, days: int = 3) -> SampleBlock:
    """Minute rows of some days: those of a quarter of an hour, over and over."""
    minutes = run(build(kind), interleaved(rows_of(kind, seed), Random(seed), 3, 0.0))
    block = minutes["kpi/1min"]
    times = days * 1440 // len(block)
    time = START + (np.arange(times * len(block)) + 1) * oracle.MINUTE
    value = np.tile(block.value, (1, times))
    return SampleBlock(block.schema, time, value, np.tile(block.quality, (1, times)))


@pytest.mark.parametrize("kind", LONGER)
def test_long_windows_do_not_depend_on_the_partition_or_on_restarts(kind: str) -> None:
    random, block = Random(3), days_of(kind, 3)
    # another year, to close everything: of a chain of windows each closes behind the shorter one
    days = [400, 401, 402, 440, 441, 442, 480]
    ends = [START + (1440 * day + m) * oracle.MINUTE for day in days for m in (1, 61)]
    again = np.zeros(len(ends), np.intp)
    last = SampleBlock(block.schema, np.array(ends), block.value[:, again], block.quality[:, again])
    whole = run(rollups(kind), [block, last])
    assert {metric.output.stream for metric in rollups(kind)} == set(whole)
    assert len(whole) == len(EXAMPLES[kind].config.windows) - 1

    singles = pieces(block.rows(0, 300), random, 1)  # single rows cost as much as large blocks
    rest = block.rows(300, len(block))
    cuts = [run(rollups(kind), [*singles, *pieces(rest, random, n), last]) for n in (20, 100)]
    cuts.append(run(rollups(kind), [*pieces(block, random, 50), last], restarting(rollups(kind))))
    for cut in cuts:
        for stream, rows in whole.items():
            same(rows, cut[stream])


@pytest.mark.parametrize("kind", [kind for kind in LONGER if EXAMPLES[kind].sums])
def test_a_day_adds_up_what_its_minutes_have(kind: str) -> None:
    block = days_of(kind, 3)
    days = run(rollups(kind), [block])["kpi/1d"]
    for name in EXAMPLES[kind].sums:
        for end, total in zip(days.time, days[name], strict=True):
            inside = (block.time > end - 1440 * oracle.MINUTE) & (block.time <= end)
            assert total == pytest.approx(np.nansum(block[name][inside]), rel=1e-12)


def test_slots_of_a_fast_source_are_at_least_five_times_faster_than_plain_python() -> None:
    random = Random(1)
    slow = plant_rows(1)[METER.stream]
    tags = tuple(replace(tag, max_rate=1.0) for tag in slow.schema.tags)  # so that none asks
    schema = Schema("fast/raw", Family.SAMPLE, tags, 0.1)
    n = 1800
    time = START + np.arange(n) * SECOND // 10
    value = np.vstack([[random.random() for _ in range(n)], *[np.arange(n) / 1e4] * 3])
    block = SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))
    plain = as_oracle(block)

    def seconds(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, number=1, repeat=3))

    fast = seconds(lambda: SlotOperator(schema).update(block))
    assert seconds(lambda: oracle.slots(plain)) >= 5 * fast


@pytest.mark.parametrize("schema", STREAMS, ids=lambda schema: schema.stream)
def test_an_operator_without_rows_saves_and_loads(schema: Schema) -> None:
    operator = SlotOperator(schema)
    again = restored(SlotOperator(schema), operator)
    assert as_json(again.save()) == as_json(operator.save())
