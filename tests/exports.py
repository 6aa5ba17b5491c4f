"""A log and a history with rows of every kind, and what is read back of their export."""

import asyncio
import csv
import struct
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.config import Config, load
from edge_agent.export.command import Exported, Wish, export
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.sinks.history import HistorySink
from edge_agent.units import Unit
from tests.outbox_writer import BUDGET

SECOND = 10**9
DAY = 86400 * SECOND
ZONE = ZoneInfo("Asia/Shanghai")
MIDNIGHT = round(datetime(2026, 3, 2, tzinfo=ZONE).timestamp()) * SECOND
ALL = ReaderSpec("all", lambda _: True)
PLANT = """
site: {id: works, timezone: Asia/Shanghai}
devices: {em: {connect: "modbus+tcp://127.0.0.1", tags: {p: {at: "hr:0", unit: kW}}}}
"""
LEAF = 0x0D  # first byte of a page with rows of a table (SQLite file format, 1.6)
BORDERS = [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, 1e16, np.inf, -np.inf]


def tag(name: str, unit: str = "1", kind: Kind = Kind.GAUGE) -> Tag:
    return Tag(name, Unit.parse(unit), kind)


MIXED = Schema(
    "em/raw",
    Family.SAMPLE,
    (
        tag("power", "kW"),
        tag("energy", "kWh", Kind.COUNTER),
        tag("state", kind=Kind.STATE),
        tag("recipe", kind=Kind.TEXT),
        tag("time", "s"),
    ),
    1.0,
)
WIDER = replace(MIXED, tags=(*MIXED.tags, tag("voltage", "V")))
HOUR = Schema("clinker/1h", Family.ENERGY, (tag("electricity", "kWh"),), 3600.0, ("config:a",))
SLOT = Schema("em/slot", Family.SLOT, (tag("power.mean", "kW"),), 60.0)
TEXTS = {"recipe": {0: "水泥 42.5", 1: 'a "b", c', 2: "two\nlines", 3: ""}}


def mixed(time: Sequence[int], seed: int = 0, schema: Schema = MIXED) -> SampleBlock:
    """Rows of every kind, a fifth of the values BAD."""
    random, n = np.random.default_rng(seed), len(time)
    value = random.normal(0, 1e3, (len(schema.tags), n))
    value[0, : len(BORDERS)] = BORDERS[:n]
    value[2] = random.choice([0.0, 1.0, 2.0**53, 2.0**60, -(2.0**63), 2.0**64], n)
    value[3] = random.integers(0, 4, n)
    quality = random.choice(np.array([0, 0, 0, 66, 129], np.uint8), value.shape)
    value[quality >= Quality.BAD] = np.nan
    return SampleBlock(schema, np.array(time, np.int64), value, quality, TEXTS)


def seconds(first: int, n: int, step: int = SECOND) -> list[int]:
    return [MIDNIGHT + first * SECOND + i * step for i in range(n)]


def derived(schema: Schema, time: Sequence[int]) -> SampleBlock:
    value = np.array([[t / 1e9 for t in time]])
    return SampleBlock(schema, np.array(time, np.int64), value, np.zeros((1, len(time)), np.uint8))


class Plant(NamedTuple):
    config: Config
    file: Path
    log: Path
    history: Path


def plant_in(tmp_path: Path) -> Plant:
    """A plant that has not run yet."""
    file = tmp_path / "plant.yaml"
    file.write_text(PLANT)
    (tmp_path / "data").mkdir()
    return Plant(load(file), file, tmp_path / "data" / "log.db", tmp_path / "data" / "history.db")


def logged(path: Path, *blocks: SampleBlock, budget: Budget = BUDGET) -> None:
    async def log() -> None:
        outbox = Outbox(path, [ALL], budget=budget, commit=0.01)
        await outbox.start()
        for block in blocks:
            outbox.append([block], {"read": len(block)})
        await outbox.close()

    asyncio.run(log())


def stored(path: Path, *blocks: SampleBlock) -> None:
    sink = HistorySink(
        path, slots_ns=1 << 60, metrics_ns=1 << 60, slots_bytes=1 << 30, metrics_bytes=1 << 30
    )

    async def store() -> None:
        await sink.connect()
        await sink.write(blocks)
        await sink.close()

    asyncio.run(store())


def exported(
    plant: Plant, folder: Path, form: str = "csv", begin: str = "2026-03-02", **more: object
) -> Exported:
    wish = Wish(plant.config, begin, "2026-03-03", form, folder)
    return export(replace(wish, **more), lambda _line: None)


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def nanoseconds(text: str) -> int:
    assert text.endswith("Z")
    return int(np.datetime64(text[:-1], "ns").astype(np.int64))


def bits(numbers: Sequence[float | None]) -> list[bytes | None]:
    return [None if n is None else struct.pack("<d", n) for n in numbers]


def same(a: SampleBlock, b: SampleBlock) -> bool:
    return (
        a.schema == b.schema
        and np.array_equal(a.time, b.time)
        and np.array_equal(a.value, b.value, equal_nan=True)
        and np.array_equal(a.quality, b.quality)
        and np.array_equal(np.signbit(a.value), np.signbit(b.value))
    )


def values(block: SampleBlock, column: int) -> list[float | None]:
    bad = block.quality[column] >= Quality.BAD
    held = zip(block.value[column].tolist(), bad.tolist(), strict=True)
    return [None if is_bad else number for number, is_bad in held]


def words(block: SampleBlock, column: int) -> list[str | None]:
    return [block.text(column, row) for row in range(len(block))]
