"""Derived rows computed again from exported Parquet are those of the rows in the log."""

import asyncio
import heapq
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.agent import links_of, metrics_of
from edge_agent.clock import SECOND, SystemClock
from edge_agent.config import Config, load
from edge_agent.drivers.base import groups_of
from edge_agent.export.command import Wish, export
from edge_agent.export.table_parquet import read
from edge_agent.model import Quality, SampleBlock, Schema, concatenate
from edge_agent.outbox import Outbox, ReaderSpec
from edge_agent.pipeline import Flow
from tests.outbox_writer import BUDGET

START = round(datetime(2026, 3, 2, 23, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()) * SECOND
SCANS = 560  # of 10 s: over midnight, so two files of each stream
PLANT = """
site: {id: works, timezone: Asia/Shanghai}
devices:
  em:
    connect: "modbus+tcp://127.0.0.1"
    poll: 10s
    tags:
      energy: {at: "hr:0", unit: kWh, kind: counter, modulus: 1000}
      power: {at: "hr:1", unit: kW}
  scale:
    connect: "modbus+tcp://127.0.0.1?unit=2"
    poll: 10s
    tags:
      mass: {at: "hr:0", unit: t, kind: counter}
      state: {at: "hr:1", kind: state}
metrics:
  mill:
    type: energy
    output: scale.mass
    inputs: {electricity: [em.energy]}
    windows: [1min, 15min, 1h]
  line:
    type: oee
    state: scale.state
    states: {producing: [1], idle: [2], fault: [3]}
    produced: scale.mass
    ideal_cycle: 2s
    windows: [1min, 1h]
  share:
    type: computed
    tags: {load: {value: "mean(em.power, 10min) / 80 kW", unit: "%"}}
alarms:
  busy: {when: share.load > 75, delay: 1min, deadband: 0.5}
"""


def scans(config: Config) -> list[SampleBlock]:
    """Two devices a row at a time, as they stand in the log: rollovers, outages, empty values."""
    random = np.random.default_rng(5)
    schemas = [next(iter(groups_of(n, config.devices[n]))).schema for n in ("em", "scale")]
    power = 60 + 10 * random.random(SCANS)
    held = {
        "energy": (990 + np.cumsum(power) * 10 / 3600) % 1000,
        "power": power,
        "mass": np.cumsum(random.random(SCANS)),
        "state": np.repeat(random.choice([1.0, 2.0, 3.0], SCANS // 20), 20),
    }
    return [
        row(schema, i, [held[tag.name][i] for tag in schema.tags], random.random(2) < 0.02)
        for i in range(SCANS)
        for schema in schemas
        if not (schema is schemas[0] and 300 <= i < 340)
    ]


def row(schema: Schema, i: int, numbers: list[float], bad: np.ndarray) -> SampleBlock:
    value = np.where(bad, np.nan, numbers)[:, None]
    quality = np.where(bad, Quality.BAD_NO_ANSWER, 0).astype(np.uint8)[:, None]
    return SampleBlock(schema, np.array([START + i * 10 * SECOND]), value, quality)


def computed(config: Config, blocks: Iterator[SampleBlock]) -> dict[str, SampleBlock]:
    flow = Flow(metrics_of(config, links_of(config, SystemClock())))
    found: dict[str, list[SampleBlock]] = {}
    for block in blocks:
        for rows in flow.rows(block):
            found.setdefault(rows.schema.stream, []).append(rows)
    return {stream: concatenate(rows) for stream, rows in found.items()}


def rows_of(folder: Path) -> Iterator[SampleBlock]:
    return (block.rows(i, i + 1) for block in read(folder) for i in range(len(block)))


def test_exported_rows_give_the_same_derived_rows_bit_for_bit(tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_text(PLANT)
    config = load(tmp_path / "plant.yaml")
    config.data.mkdir()
    logged = scans(config)

    async def log() -> None:
        outbox = Outbox(config.data / "log.db", [ReaderSpec("x", lambda _: True)], budget=BUDGET)
        await outbox.start()
        for block in logged:
            outbox.append([block], {"read": 1})
        await outbox.close()

    asyncio.run(log())
    wish = Wish(config, "2026-03-02", "2026-03-04", "parquet", tmp_path / "out")
    result = export(wish, lambda _line: None)
    assert [part.rows for part in result.parts] == [320, 200, 360, 200]

    streams = sorted((tmp_path / "out").rglob("name=raw"))
    again = heapq.merge(*map(rows_of, streams), key=lambda block: block.time[0])
    live, redone = computed(config, iter(logged)), computed(config, again)
    assert set(live) >= {"em/slot", "mill/1h", "line/1min", "share/raw", "busy/event"}
    assert set(redone) == set(live)
    for stream, block in live.items():
        other = redone[stream]
        assert other.schema == block.schema
        assert np.array_equal(other.time, block.time), stream
        assert np.array_equal(other.value, block.value, equal_nan=True), stream
        assert np.array_equal(other.quality, block.quality), stream
