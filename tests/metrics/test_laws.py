"""The laws of ``architecture.md`` §5, on every registered metric, the slots and every window.

A metric added to ``METRICS`` is under them with an entry in ``EXAMPLES``.
"""

import timeit
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.metrics import METRICS
from edge_agent.metrics.base import Metric, MetricConfig
from edge_agent.metrics.emissions import EmissionsConfig
from edge_agent.metrics.energy import CarrierInput, EnergyConfig
from edge_agent.metrics.oee import OeeConfig
from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Family, SampleBlock, Schema
from edge_agent.outbox_schema import as_json
from edge_agent.units import Duration
from tests.metrics import oracle
from tests.metrics.plants import (
    METER,
    SECOND,
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

WINDOWS = ("1min", "15min", "1h", "shift", "1d", "1mo")
STATES = {"producing": (1,), "idle": (2,), "fault": (3,), "setup": (4,), "planned_stop": (5,)}
EXAMPLES: dict[str, MetricConfig] = {
    "energy": EnergyConfig(
        output="scale.mass",
        inputs={
            "electricity": ("em-a.energy",),
            "raw-coal": CarrierInput(tags=("scale.mass",), lhv="23.1 MJ/kg"),
        },
        returned={"electricity": ("em-a.export",)},
        windows=WINDOWS,
    ),
    "oee": OeeConfig(
        state="packer.state",
        states=STATES,
        produced="packer.bags",
        rejected="packer.reject",
        ideal_cycle=Duration(1.5),
        windows=WINDOWS,
    ),
    "emissions": EmissionsConfig(
        so2="cems.so2",
        nox="cems.nox",
        o2="cems.o2",
        flow="cems.flow",
        o2_reference=10.0,
        windows=WINDOWS,
    ),
}


def expected(
    kind: str, rows: dict[str, SampleBlock], spans: list[oracle.Span] | None
) -> oracle.Result:
    streams = [(name.partition("/")[0], as_oracle(block)) for name, block in rows.items()]
    if kind == "energy":
        carriers = {
            "electricity": (0.1229, [("em-a.energy", 1.0), ("em-a.export", -1000.0)]),
            "raw-coal": (23.1 / 29.3076, [("scale.mass", 1.0)]),
        }
        return oracle.energy(streams, carriers, ("scale.mass", 1e-3), spans)
    if kind == "oee":
        return oracle.oee(
            streams,
            state="packer.state",
            states=STATES,
            produced="packer.bags",
            rejected="packer.reject",
            ideal_cycle=1.5,
            spans=spans,
        )
    return oracle.emissions(
        streams,
        gases={"so2": "cems.so2", "nox": "cems.nox"},
        o2="cems.o2",
        flow="cems.flow",
        o2_reference=10.0,
        spans=spans,
    )


ORACLES = {"energy", "oee", "emissions"}
SEEDS = st.integers(0, 2**32)
LAWS = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
KINDS = pytest.mark.parametrize("kind", [config.kind for config in METRICS])


def build(kind: str) -> list[Metric]:
    return [*operators(), *EXAMPLES[kind].build("kpi", Works())]


def used(kind: str, rows: dict[str, SampleBlock]) -> dict[str, SampleBlock]:
    tags = [reference.tag for reference in EXAMPLES[kind].references()]
    streams = {Works().raw(tag).stream for tag in tags}
    return {name: block for name, block in rows.items() if name in streams}


def renewing(kind: str, random: Random) -> Callable[[Metric], Metric]:
    """Restart a metric before a third of its blocks."""

    def renew(metric: Metric) -> Metric:
        if random.random() > 0.3:
            return metric
        fresh = next(m for m in build(kind) if m.output == metric.output)
        return restored(fresh, metric)

    return renew


def test_every_metric_is_under_the_laws() -> None:
    assert {config.kind for config in METRICS} == set(EXAMPLES) == ORACLES


@LAWS
@given(seed=SEEDS)
def test_slots_do_not_depend_on_the_partition_or_on_restarts(seed: int) -> None:
    random = Random(seed)
    for block in plant_rows(seed).values():
        whole = SlotOperator(block.schema).update(block)
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


@LAWS
@given(seed=SEEDS)
def test_slots_equal_the_oracle(seed: int) -> None:
    for block in plant_rows(seed).values():
        found = SlotOperator(block.schema).update(block)
        assert found is not None
        agrees(found, oracle.slots(as_oracle(block)), 1e-12)


@KINDS
@LAWS
@given(seed=SEEDS)
def test_any_partition_and_interleaving_within_the_lateness_gives_the_same_rows(
    kind: str, seed: int
) -> None:
    random = Random(seed)
    rows = used(kind, plant_rows(seed))
    whole = run(build(kind), interleaved(rows, random, 1, 0.0))
    cut = run(build(kind), interleaved(rows, random, 8, 15.0))
    assert whole.keys() == cut.keys()
    assert "kpi/1min" in whole
    for stream, block in whole.items():
        same(block, cut[stream])


@KINDS
@LAWS
@given(seed=SEEDS)
def test_a_restart_between_any_two_blocks_changes_nothing(kind: str, seed: int) -> None:
    random = Random(seed)
    rows = used(kind, plant_rows(seed))
    blocks = interleaved(rows, random, 8, 5.0)
    whole = run(build(kind), blocks)
    restarted = run(build(kind), blocks, renewing(kind, random))
    for stream, block in whole.items():
        same(block, restarted[stream])


@KINDS
@LAWS
@given(seed=SEEDS)
def test_the_number_behind_a_bad_mark_changes_nothing(kind: str, seed: int) -> None:
    rows = used(kind, plant_rows(seed))
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
def test_minutes_and_longer_windows_equal_the_oracle(kind: str, seed: int) -> None:
    rows = used(kind, plant_rows(seed, 19.0))
    found = run(build(kind), interleaved(rows, Random(seed), 3, 0.0))
    agrees(found["kpi/1min"], expected(kind, rows, None), 1e-12)
    for window, minutes in (("15min", 15),):
        block = found.get(f"kpi/{window}")
        if block is None:
            continue
        spans = [(end - minutes * oracle.MINUTE, end) for end in block.time.tolist()]
        agrees(block, expected(kind, rows, spans), 1e-12)


def days_of(kind: str, seed: int) -> SampleBlock:
    """Minute rows of three days: those of a quarter of an hour, over and over."""
    minutes = run(build(kind), interleaved(used(kind, plant_rows(seed)), Random(seed), 3, 0.0))
    block = minutes["kpi/1min"]
    times = 3 * 1440 // len(block)
    time = START + (np.arange(times * len(block)) + 1) * oracle.MINUTE
    value = np.tile(block.value, (1, times))
    return SampleBlock(block.schema, time, value, np.tile(block.quality, (1, times)))


@KINDS
@pytest.mark.parametrize("window", WINDOWS[1:])
def test_long_windows_do_not_depend_on_the_partition_or_on_restarts(kind: str, window: str) -> None:
    def rollup() -> Metric:
        return EXAMPLES[kind].build("kpi", Works())[WINDOWS.index(window)]

    random, block = Random(3), days_of(kind, 3)
    end = START + 40 * 1440 * oracle.MINUTE  # the next month, to close everything
    last = SampleBlock(
        block.schema, np.array([end]), block.value[:, :1].copy(), block.quality[:, :1].copy()
    )
    stream = rollup().output.stream
    whole = run([rollup()], [block, last])[stream]
    for longest in (1, 100):
        cut = pieces(block, random, longest)
        same(whole, run([rollup()], [*cut, last])[stream])
    renewed = run([rollup()], [*pieces(block, random, 50), last], lambda m: restored(rollup(), m))
    same(whole, renewed[stream])


@KINDS
def test_a_day_adds_up_what_its_minutes_have(kind: str) -> None:
    metric = EXAMPLES[kind].build("kpi", Works())[WINDOWS.index("1d")]
    block = days_of(kind, 3)
    days = metric.update(block)
    assert days is not None
    names = {
        "energy": ("electricity", "raw-coal", "output_t"),
        "oee": ("apt_s", "pbt_s", "adot_s", "produced", "good"),
        "emissions": ("valid_min", "so2_mass_kg", "nox_mass_kg"),
    }
    for name in names[kind]:
        for end, total in zip(days.time, days[name], strict=True):
            inside = (block.time > end - 1440 * oracle.MINUTE) & (block.time <= end)
            assert total == pytest.approx(np.nansum(block[name][inside]), rel=1e-12)


def test_slots_of_a_fast_source_are_at_least_five_times_faster_than_plain_python() -> None:
    random = Random(1)
    slow = plant_rows(1)[METER.stream]
    schema = Schema("fast/raw", Family.SAMPLE, slow.schema.tags, 0.1)
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
