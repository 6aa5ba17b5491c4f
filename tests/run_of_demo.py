"""One run of the whole demo on real servers, and everything that came out of it.

The plant's clock begins shortly before a full hour, so windows of a minute, of a quarter and of an
hour close.
"""

import asyncio
import json
import os
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from playwright.async_api import Page, async_playwright

from edge_agent import demo
from edge_agent.agent import Agent
from edge_agent.model import SampleBlock, Schema, concatenate
from edge_agent.outbox_archive import Archive
from edge_agent.sinks.history import History
from edge_agent.units import Duration
from simulators.registers import WORDS, place
from simulators.tables import DeviceTable, configs, read_devices
from tests.servers import Influx, Message, Mosquitto
from tests.web.conftest import ARGUMENTS, CHROMIUM

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
START = (
    round(datetime(2026, 11, 20, 9, 57, 40, tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()) * SECOND
)
SPEED = 4.0
LENGTH = Duration(150.0)
SEED = 7
KPIS = ("clinker", "packer", "kiln-stack")
WINDOWS = ("1min", "15min", "1h")


@dataclass
class Run:
    """What a run left behind, each part as it was found where a user would look."""

    folder: Path
    status: int = -1
    said: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    cells: dict[tuple[str, str, int], float | None] = field(default_factory=dict)
    running: list[tuple[str, str]] = field(default_factory=list)
    measured: dict[str, list[dict[str, object]]] = field(default_factory=dict)

    def raw(self) -> dict[str, SampleBlock]:
        """Return the stored raw rows, by stream."""
        archive = Archive(self.folder / "data" / "log.db")
        blocks: dict[str, list[SampleBlock]] = defaultdict(list)
        for record in archive.records(0):
            block = archive.block(record)
            blocks[block.schema.stream].append(block)
        return {stream: concatenate(found) for stream, found in blocks.items()}

    def kpi(self, stream: str) -> SampleBlock:
        """Return the stored rows of a KPI."""
        block = History(self.folder / "data" / "history.db").rows(stream, 0, 1 << 62)
        assert block is not None, stream
        return block

    def served(self, device: str) -> list[dict[str, object]]:
        """Return what a simulated device says that it served."""
        path = self.folder / "scans" / f"{device}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


async def play(folder: Path, broker: Mosquitto, influx: Influx) -> Run:
    """Run the demo once; look at its page on the way."""
    run = Run(folder)
    agents: list[Agent] = []
    os.environ["INFLUX_TOKEN"] = influx.token
    wish = demo.Demo(
        listen="127.0.0.1:0",
        length=LENGTH,
        speed=SPEED,
        data=folder / "data",
        mqtt=broker.url,
        influx=f"{influx.url}?org={influx.org}&bucket={influx.bucket}",
        log=folder / "scans",
        seed=SEED,
        start=START,
    )
    with broker.subscriber() as subscriber:
        async with asyncio.TaskGroup() as tasks:
            done = tasks.create_task(demo.run(wish, run.said.append, agents.append))
            while not agents:  # noqa: ASYNC110  it is made once the simulators are ready
                await asyncio.sleep(0.05)
            await agents[0].ready.wait()
            await _look(run, agents[0])
            run.status = await done
        counts = agents[0].counts().readers["broker"]
        run.messages = subscriber.wait_for(counts.delivered and 1, seconds=10)
        await asyncio.sleep(0.5)
        run.messages = list(subscriber.messages)
    for name in ("sample", "energy", "oee", "emissions"):
        run.measured[name] = influx.query(f"SELECT * FROM {name}")
    return run


async def _look(run: Run, agent: Agent) -> None:
    """Note what the page shows: closed windows with their figures, running ones as such."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.goto(f"http://{agent.address}/")
        closed = '[data-stream="{}"][data-column="coverage"][data-running="false"]'
        for stream in (f"{kpi}/{window}" for kpi in KPIS for window in WINDOWS):
            await page.wait_for_selector(closed.format(stream), state="attached", timeout=60_000)
        await _note(run, page)
        await browser.close()


async def _note(run: Run, page: Page) -> None:
    read = """cells => cells.map(c => [c.dataset.stream, c.dataset.column, c.dataset.time,
                                       c.dataset.value, c.dataset.running, c.innerText])"""
    cells = await page.eval_on_selector_all("[data-stream][data-column]", read)
    for stream, column, time, value, running, text in cells:
        if running == "true":
            run.running.append((stream, text))
        else:
            run.cells[stream, column, int(time)] = json.loads(value)


# ---- what the simulators served, decoded by nothing of the agent's ---------------------------


def tables() -> dict[str, DeviceTable]:
    """Return the tag tables of the demo's devices, as the simulators read them."""
    return {table.id: table for table in read_devices(configs() / "demo.yaml")}


def readings(
    table: DeviceTable, scans: list[dict[str, object]]
) -> dict[str, list[tuple[int, float]]]:
    """Return what was served of each tag: (ns, value) in the order served."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for scan in scans:
        words = scan["words"]
        assert isinstance(words, list)
        for tag in table.tags:
            area, address, _ = place(tag.at)
            first = address - int(str(scan["address"]))
            width = WORDS[tag.type]
            if {"hr": 3, "ir": 4}[area] == scan["fc"] and 0 <= first <= len(words) - width:
                raw = _number(words[first : first + width], tag.type, tag.order)
                value = float(Fraction(raw) * tag.factor) + tag.offset
                found[tag.name].append((int(str(scan["t"])), value))
    return found


def _number(words: list[int], kind: str, order: str) -> int | float:
    ordered = words[::-1] if order in {"CDAB", "DCBA"} else words
    ends: Literal["big", "little"] = "big" if order in {"ABCD", "CDAB"} else "little"
    raw = b"".join(word.to_bytes(2, ends) for word in ordered)
    form = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "f64": "d", "u64": "Q"}
    number: int | float = struct.unpack(f">{form[kind]}", raw)[0]
    return number


def stored(block: SampleBlock, tag: str) -> list[tuple[int, float]]:
    """Return the stored values of a tag that are not BAD: (ns, value) in order."""
    quality = block.quality[block.schema.index[tag]]
    return [
        (int(t), float(v))
        for t, v, q in zip(block.time, block[tag], quality, strict=True)
        if q < 128
    ]


def rows(block: SampleBlock) -> Iterator[tuple[int, dict[str, tuple[float | None, int]]]]:
    """Yield the rows of a block: end or time, and each column's value and quality."""
    for i, t in enumerate(block.time):
        yield (
            int(t),
            {
                tag.name: (
                    None if block.quality[c, i] >= 128 else float(block.value[c, i]),
                    int(block.quality[c, i]),
                )
                for c, tag in enumerate(block.schema.tags)
            },
        )


def columns(schema: Schema) -> list[str]:
    """Return the names of the columns."""
    return [tag.name for tag in schema.tags]
