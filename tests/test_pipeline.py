"""Block -> metrics -> log: one batch per push, and a start that loses and doubles nothing."""

import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from edge_agent.agent import links_of, metrics_of
from edge_agent.clock import VirtualClock
from edge_agent.config import Config, load
from edge_agent.live import Live
from edge_agent.model import Quality, SampleBlock, Schema, no_answer
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.outbox_schema import as_json
from edge_agent.pipeline import AGAIN, Flow, Pipeline
from tests.metrics.plants import START, interleaved, stream

SECOND = 1_000_000_000
BUDGET = Budget(raw_bytes=1 << 26, raw_age_ns=1 << 60, derived_bytes=1 << 26)
DERIVED = ReaderSpec("derived", lambda schema: schema.family.derived)
PLANT = """
site: {id: works}
devices:
  em-kiln:
    connect: modbus+tcp://127.0.0.1:1502?unit=1
    poll: {fast: 5s, slow: 10s}
    rated: 4000
    tags:
      power:  {at: "hr:0", type: u16, unit: kW}
      energy: {at: "hr:1", type: u32, unit: kWh, kind: counter, modulus: 1e6, class: slow}
  scale:
    connect: modbus+tcp://127.0.0.1:1502?unit=2
    poll: 10s
    tags:
      mass: {at: "hr:0", type: u32, unit: t, kind: counter, modulus: 1e6}
  packer:
    connect: modbus+tcp://127.0.0.1:1503?unit=1
    poll: 5s
    tags:
      state:  {at: "hr:0", type: u16, kind: state}
      bags:   {at: "hr:1", type: u32, unit: "{bag}", kind: counter}
      reject: {at: "hr:3", type: u32, unit: "{bag}", kind: counter}
metrics:
  clinker:
    type: energy
    output: scale.mass
    inputs: {electricity: [em-kiln.energy]}
    windows: [1min, 15min]
  line:
    type: oee
    state: packer.state
    states: {producing: [1], idle: [2], fault: [3], setup: [4], planned_stop: [5]}
    produced: packer.bags
    rejected: packer.reject
    ideal_cycle: 1.5s
    windows: [1min, 15min]
"""
Rows = dict[str, list[tuple[int, bytes, bytes]]]


def plant(folder: Path, text: str = PLANT) -> Config:
    file = folder / "plant.yaml"
    file.write_text(text)
    return load(file)


def schemas(config: Config) -> dict[str, Schema]:
    links = links_of(config, VirtualClock())
    return {g.schema.stream: g.schema for link in links for g in link.driver.groups}


@asynccontextmanager
async def opened(
    config: Config, data: Path, *, recorded: Sequence[str] = ()
) -> AsyncIterator[tuple[Outbox, Pipeline, Live]]:
    """What the agent makes of a configuration, without devices and sinks."""
    outbox = Outbox(data / "log.db", [DERIVED], budget=BUDGET, commit=0.05)
    live, metrics = Live(), metrics_of(config, links_of(config, VirtualClock()))
    await outbox.start()
    try:
        digests = config.device_digests
        yield (
            outbox,
            Pipeline(metrics, outbox, live, config.digest, devices=digests, recorded=recorded),
            live,
        )
    finally:
        await outbox.close()


def row(schema: Schema, seconds: float, *values: float) -> SampleBlock:
    time = np.array([START + round(seconds * SECOND)], np.int64)
    return SampleBlock(schema, time, np.array([values]).T, np.zeros((len(values), 1), np.uint8))


def blocks_of(config: Config, seed: int, minutes: float) -> list[SampleBlock]:
    """Rows with everything that goes wrong in a plant, in the order in which they come."""
    random = Random(seed)
    pause = random.choice([None, (4.3, 9.0)])
    rows = {name: stream(random, s, minutes, pause) for name, s in schemas(config).items()}
    return interleaved(rows, random, 3, 4.0)


def derived(outbox: Outbox) -> Rows:
    """Every derived row in the log, in log order."""
    found: Rows = {}
    for record in outbox.records(0, family=None):
        block = outbox.block(record)
        if block.schema.family.derived:
            for i, time in enumerate(block.time.tolist()):
                value, quality = block.value[:, i].tobytes(), block.quality[:, i].tobytes()
                found.setdefault(block.schema.stream, []).append((time, value, quality))
    return found


async def uninterrupted(config: Config, folder: Path, blocks: Sequence[SampleBlock]) -> Rows:
    async with opened(config, folder) as (outbox, pipeline, _):
        for block in blocks:
            pipeline.push(block)
        await outbox.flush()
        return derived(outbox)


# ---- one push --------------------------------------------------------------------------------


async def test_a_push_reaches_live_log_and_metrics_in_one_call_and_one_batch(
    tmp_path: Path,
) -> None:
    config = plant(tmp_path)
    meter = schemas(config)["em-kiln/raw"]
    async with opened(config, tmp_path) as (outbox, pipeline, live):
        for second in range(0, 60, 5):
            pipeline.push(row(meter, second, 100.0))
        await outbox.flush()
        assert outbox.counts().derived == 0
        pipeline.push(row(meter, 61, 120.0))
        raw, slot = live.last("em-kiln/raw"), live.last("em-kiln/slot")
        assert raw is not None
        assert slot is not None
        assert raw["power"].tolist() == [120.0]
        assert slot.time.tolist() == [START + 60 * SECOND]
        assert slot["power.mean"].tolist() == [100.0]
        await outbox.flush()
        counts = outbox.counts()
        assert (counts.read, counts.derived, counts.appended) == (13, 1, 14)
        assert counts.conserved
        assert [r.sequence for r in outbox.records(0, family=None)] == list(range(1, 15))


async def test_substituted_rows_are_counted_apart(tmp_path: Path) -> None:
    config = plant(tmp_path)
    async with opened(config, tmp_path) as (outbox, pipeline, _):
        pipeline.push(no_answer(schemas(config)["scale/raw"], START), substituted=True)
        await outbox.flush()
        counts = outbox.counts()
        assert (counts.read, counts.substituted, counts.conserved) == (0, 1, True)


async def test_a_row_before_the_last_of_its_stream_gets_its_time_and_a_mark(
    tmp_path: Path,
) -> None:
    config = plant(tmp_path)
    raw = schemas(config)["packer/raw"]
    async with opened(config, tmp_path) as (outbox, pipeline, _):
        pipeline.push(row(raw, 100, 1, 10, 0))
        times = np.array([START + s * SECOND for s in (90, 95, 100, 105)], np.int64)
        value = np.array([[1.0] * 4, [10.0, np.nan, 11, 12], [0.0] * 4])
        quality = np.zeros((3, 4), np.uint8)
        quality[1, 1] = Quality.BAD_DEVICE
        quality[2, 0] = Quality.UNCERTAIN_FLAGGED
        pipeline.push(SampleBlock(raw, times, value, quality))
        await outbox.flush()
        block = outbox.block(list(outbox.records(0))[-1])
    assert ((block.time - START) // SECOND).tolist() == [100, 100, 100, 105]
    assert block.lawful()
    clock, bad, flagged = (
        Quality.UNCERTAIN_CLOCK,
        Quality.BAD_DEVICE,
        Quality.UNCERTAIN_FLAGGED,
    )
    assert block.quality.tolist() == [
        [clock, clock, 0, 0],
        [clock, bad, 0, 0],
        [flagged, clock, 0, 0],
    ]
    assert block["bags"].tolist()[2:] == [11, 12]


async def test_a_stream_stays_in_order_over_a_restart(tmp_path: Path) -> None:
    config = plant(tmp_path)
    raw = schemas(config)["scale/raw"]
    async with opened(config, tmp_path) as (_, pipeline, _):
        pipeline.push(row(raw, 100, 5))
    async with opened(config, tmp_path) as (outbox, pipeline, live):
        pipeline.recover()
        seen = live.last("scale/raw")
        assert seen is not None
        assert seen["mass"].tolist() == [5.0]
        pipeline.push(row(raw, 50, 6))
        await outbox.flush()
        last = outbox.block(list(outbox.records(0))[-1])
        assert last.time.tolist() == [START + 100 * SECOND]
        assert last.quality.tolist() == [[Quality.UNCERTAIN_CLOCK]]


async def test_what_is_read_from_a_file_again_is_not_stored_again(tmp_path: Path) -> None:
    config = plant(tmp_path)
    raw = schemas(config)["scale/raw"]
    rows = [row(raw, s, s / 10) for s in (10, 20, 30, 40)]
    for n in (2, 4):
        async with opened(config, tmp_path, recorded=["scale/raw"]) as (outbox, pipeline, _):
            pipeline.recover()
            for block in rows[:n]:
                pipeline.push(block)
            await outbox.flush()
            assert outbox.counts().read == n
            stored = [outbox.block(record) for record in outbox.records(0)]
            assert [int(b.time[0] - START) // SECOND for b in stored] == [10, 20, 30, 40][:n]
            assert {int(b.quality.max()) for b in stored} == {Quality.GOOD}


async def test_the_past_that_is_read_from_a_device_again_is_not_stored_again(
    tmp_path: Path,
) -> None:
    config = plant(tmp_path)
    past = replace(schemas(config)["scale/raw"], stream="scale/raw.history")
    async with opened(config, tmp_path) as (outbox, pipeline, live):
        for last in (20, 40):  # a restart asks for the gap from its last checkpoint on
            for seconds in range(10, last + 1, 10):
                pipeline.push(row(past, float(seconds), 1.0))
        await outbox.flush()
        stored = [outbox.block(record) for record in outbox.records(0)]
        assert [int(b.time[0] - START) // SECOND for b in stored] == [10, 20, 30, 40]
        assert {int(b.quality.max()) for b in stored} == {Quality.GOOD}
        assert live.last("scale/raw.history") is None


# ---- rows that are laid aside -----------------------------------------------------------------


class Prompt:
    """Hands every row on at once: what ``Flow`` is measured by."""

    def __init__(self, config: Config) -> None:
        self.metrics = metrics_of(config, links_of(config, VirtualClock()))

    def rows(self, block: SampleBlock) -> Iterator[SampleBlock]:
        for metric in self.metrics:
            if block.schema.stream in metric.inputs:
                rows = metric.update(block)
                if rows is not None:
                    yield rows
                    yield from self.rows(rows)


def bits(rows: Iterator[SampleBlock]) -> list[tuple[str, bytes, bytes, bytes]]:
    return [
        (b.schema.stream, b.time.tobytes(), b.value.tobytes(), b.quality.tobytes()) for b in rows
    ]


@pytest.mark.parametrize("seed", range(6))
def test_rows_laid_aside_make_the_same_rows_at_the_same_moment(tmp_path: Path, seed: int) -> None:
    stops = PLANT.replace("ideal_cycle: 1.5s", "ideal_cycle: 1.5s\n    micro_stop: 40s")
    config = plant(tmp_path, stops)
    metrics = metrics_of(config, links_of(config, VirtualClock()))
    flow, prompt = Flow(metrics), Prompt(config)
    random, waited = Random(seed), 0
    for block in blocks_of(config, seed, 34.0):
        for i in range(len(block)):
            found = bits(flow.rows(block.rows(i, i + 1)))
            assert found == bits(prompt.rows(block.rows(i, i + 1)))
            waited += not found
            if random.random() < 0.01:
                flow.settle()
    assert waited
    flow.settle()
    states = [as_json(m.save()) for m in metrics]
    assert states == [as_json(m.save()) for m in prompt.metrics]


# ---- recovery --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_a_restart_anywhere_gives_the_rows_of_a_run_without_one(
    tmp_path: Path, seed: int
) -> None:
    config = plant(tmp_path)
    random = Random(seed)
    blocks = blocks_of(config, seed, 34.0)
    expected = await uninterrupted(config, tmp_path / "whole", blocks)
    assert len(expected) == 8
    assert all(len(rows) > 1 for rows in expected.values())
    cuts = sorted(random.sample(range(1, len(blocks)), 3))
    checkpoints = set(random.sample(range(len(blocks)), random.choice([0, 1, 4])))
    fed: list[int] = []
    found: Rows = {}
    conserved, read = False, 0
    for start, stop in zip([0, *cuts], [*cuts, len(blocks)], strict=True):
        async with opened(config, tmp_path / "cut") as (outbox, pipeline, _):
            fed.append(pipeline.recover())
            for i in range(start, stop):
                pipeline.push(blocks[i])
                if i in checkpoints:
                    pipeline.checkpoint()
            await outbox.flush()
            found = derived(outbox)
            conserved, read = outbox.counts().conserved, outbox.counts().read
    assert found == expected
    assert conserved
    assert read == sum(map(len, blocks))
    last = max((c for c in checkpoints if c < cuts[-1]), default=-1)
    assert fed[-1] == cuts[-1] - 1 - last
    for rows in found.values():
        times = [time for time, _, _ in rows]
        assert times == sorted(set(times))


async def test_a_damaged_record_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = plant(tmp_path)
    raw = schemas(config)["em-kiln/raw"]
    async with opened(config, tmp_path) as (_, pipeline, _):
        for second in range(0, 60, 5):
            pipeline.push(row(raw, second, 100.0 if second == 25 else 200.0))
    with sqlite3.connect(tmp_path / "log.db") as db:
        (payload,) = db.execute("SELECT payload FROM raw WHERE sequence = 6").fetchone()
        damaged = payload[:-1] + bytes([payload[-1] ^ 1])
        db.execute("UPDATE raw SET payload = ? WHERE sequence = 6", (damaged,))
    db.close()
    async with opened(config, tmp_path) as (outbox, pipeline, live):
        assert pipeline.recover() == 11
        pipeline.push(row(raw, 61, 200.0))
        slot = live.last("em-kiln/slot")
        assert slot is not None
        assert slot["power.min"].tolist() == [200.0]
        await outbox.flush()
    assert "record 6 of the log is damaged and left out" in caplog.text


# ---- another configuration -------------------------------------------------------------------


async def test_after_a_change_of_the_configuration_the_open_windows_stay_whole(
    tmp_path: Path,
) -> None:
    before = plant(tmp_path)
    after = plant(tmp_path, PLANT.replace("ideal_cycle: 1.5s", "ideal_cycle: 2s"))
    blocks = blocks_of(before, 3, 34.0)
    expected = await uninterrupted(before, tmp_path / "whole", blocks)
    cut = len(blocks) * 2 // 3
    async with opened(before, tmp_path / "cut") as (_, pipeline, _):
        for block in blocks[:cut]:
            pipeline.push(block)
        pipeline.checkpoint()
    async with opened(after, tmp_path / "cut") as (outbox, pipeline, _):
        assert pipeline.recover() == cut
        for block in blocks[cut:]:
            pipeline.push(block)
        await outbox.flush()
        found = derived(outbox)
        assert outbox.counts().conserved
    changed = {"line/1min", "line/15min"}
    assert {s: rows for s, rows in found.items() if s not in changed} == {
        s: rows for s, rows in expected.items() if s not in changed
    }
    for name in changed:
        assert [time for time, _, _ in found[name]] == [time for time, _, _ in expected[name]]
        assert found[name] != expected[name]


async def test_windows_longer_than_what_is_fed_again_stay_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.pipeline.AGAIN", 300 * SECOND)  # for 15min as 2 h are for 1d
    before = plant(tmp_path)
    after = plant(tmp_path, PLANT.replace("ideal_cycle: 1.5s", "ideal_cycle: 2s"))
    blocks = blocks_of(before, 5, 44.0)
    expected = await uninterrupted(before, tmp_path / "whole", blocks)
    cut = len(blocks) * 5 // 8
    async with opened(before, tmp_path / "cut") as (_, pipeline, _):
        for block in blocks[:cut]:
            pipeline.push(block)
        pipeline.checkpoint()
    async with opened(after, tmp_path / "cut") as (outbox, pipeline, _):
        assert pipeline.recover() < cut
        for block in blocks[cut:]:
            pipeline.push(block)
        await outbox.flush()
        found = derived(outbox)
    for name in ("clinker/1min", "clinker/15min"):
        assert len(found[name]) > 1
        assert found[name] == expected[name]


async def test_rows_of_a_device_that_has_changed_are_not_mixed_with_those_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = plant(tmp_path)
    changed = PLANT.replace("rated: 4000", "rated: 4000\n    ct: 40").replace(
        "      power:  {at", "      more:   {at: hr:9, type: u16}\n      power:  {at"
    )
    after = plant(tmp_path, changed)
    async with opened(before, tmp_path) as (_, pipeline, _):
        pipeline.push(row(schemas(before)["em-kiln/raw"], 10, 100.0))
        pipeline.push(row(schemas(before)["scale/raw"], 10, 5.0))
        pipeline.checkpoint()
    caplog.set_level(logging.INFO)
    async with opened(after, tmp_path) as (_, pipeline, live):
        assert pipeline.recover() == 1
        assert [schema.stream for schema in live.streams()] == ["scale/raw"]
        for second in range(15, 65, 5):
            pipeline.push(row(schemas(after)["em-kiln/raw"], second, 7.0, 200.0))
        slot = live.last("em-kiln/slot")
        assert slot is not None
        assert slot["power.min"].tolist() == [200.0]
    assert "the configuration has changed" in caplog.text


async def test_rows_that_a_device_had_kept_do_not_end_the_look_back(tmp_path: Path) -> None:
    config = plant(tmp_path)
    raw = schemas(config)["scale/raw"]
    async with opened(config, tmp_path) as (outbox, pipeline, _):
        for minute in range(20):
            pipeline.push(row(raw, 60 * minute, minute))
        await outbox.flush()
        since = outbox.before(START + 600 * SECOND, 1000)
        pipeline.push(row(replace(raw, stream="scale/raw.history"), 60, 1.0))
        await outbox.flush()
        assert outbox.before(START + 600 * SECOND, 1000) == since > 0


async def test_only_the_last_two_hours_are_computed_anew(tmp_path: Path) -> None:
    before = plant(tmp_path)
    after = plant(tmp_path, PLANT + "shifts: {calendar: {A: '08:00-16:00'}}\n")
    raw = schemas(before)["scale/raw"]
    async with opened(before, tmp_path) as (outbox, pipeline, _):
        for minute in range(200):
            pipeline.push(row(raw, 60 * minute, minute))
        pipeline.checkpoint()
        await outbox.flush()
        assert outbox.before(outbox.newest_ns - AGAIN, 1000) == next(
            r.sequence for r in outbox.records(0) if r.first_ns == START + 78 * 60 * SECOND
        )
        assert outbox.before(START, 1000) == 0
        assert len(list(outbox.records(outbox.before(START, 50)))) == 50
    async with opened(after, tmp_path) as (_, pipeline, _):
        assert pipeline.recover() == 121
