"""L4, peers 33: gaps after an outage are filled by what the server remembers."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError

from edge_agent.agent import Agent
from edge_agent.clock import SECOND, SystemClock
from edge_agent.config import load
from edge_agent.drivers import opcua_history
from edge_agent.drivers.base import FlagConfig, Remembers, TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_driver import OpcUaDriver
from edge_agent.errors import Disconnected
from edge_agent.health import LinkHealth
from edge_agent.model import Quality, SampleBlock, concatenate
from edge_agent.outbox_archive import Archive
from edge_agent.supervisor import run_driver
from edge_agent.units import Duration
from tests.drivers.opcua_plant import URI, DeafGate, Plant, plant

Q = Quality
pytestmark = pytest.mark.asyncio(loop_scope="module")
SOON = Duration(0.1)


def tag(name: str, **written: object) -> TagConfig:
    return TagConfig(at=f"nsu={URI};s={name}", **written)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Plant]:
    async with plant() as p:
        yield p


@pytest_asyncio.fixture(loop_scope="module")
async def server(running: Plant) -> AsyncIterator[Plant]:
    """X and Y are remembered, Z is not."""
    nodes = []
    for name in "XYZ":
        await running.add(name, 0.0)
    for name in "XY":
        nodes.append(running.server.get_node(ua.NodeId(name, running.index)))
        await running.server.historize_node_data_change(nodes[-1], period=None, count=20000)
    yield running
    history = running.server.iserver.history_manager
    for node in nodes:
        await history.dehistorize(node)
    history.storage._datachanges.clear()


@pytest.fixture
def reads_of_the_past(server: Plant, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values of a node each read of the past asks for; none is answered in time."""
    asked: list[int] = []

    async def slow(parameters: ua.HistoryReadParameters) -> object:
        asked.append(parameters.HistoryReadDetails.NumValuesPerNode)
        await asyncio.sleep(0.5)
        raise ServiceError(ua.StatusCodes.BadTimeout)

    monkeypatch.setattr(server.server.iserver.history_manager, "read_history", slow)
    return asked


def device_of(p: Plant, **written: object) -> OpcUaDevice:
    tags = {"x": tag("X"), "y": tag("Y", kind="state", mode="subscribe"), "z": tag("Z")}
    options = {"poll": SOON, "publish": SOON, "tags": tags} | written
    return OpcUaDevice(connect=p.url, **options)  # type: ignore[arg-type]


def driver_of(device: OpcUaDevice) -> OpcUaDriver:
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    assert isinstance(driver, OpcUaDriver)
    return driver


async def filled(driver: OpcUaDriver, rows: int) -> SampleBlock:
    """Return so many rows of the past."""
    blocks: list[SampleBlock] = []
    async with asyncio.timeout(10):
        while sum(map(len, blocks)) < rows:
            blocks.append(await driver.past())
    return concatenate(blocks)


async def nothing_more(driver: OpcUaDriver, seconds: float = 0.3) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await driver.past()
    except TimeoutError:
        return True
    return False


async def outage(p: Plant, driver: OpcUaDriver) -> list[int]:
    """Read once, then lose the link while X changes five times and Y once; return the times."""
    await driver.connect()
    for group in driver.groups:
        await driver.read(group)
    await driver.close()
    start = (time.time_ns() // 1000 + 1) * 1000
    times = [start + i * 20_000_000 for i in range(5)]
    for i, at in enumerate(times):
        await p.write("X", 10.0 + i, at=at)
    await p.write("Y", 3.0, at=times[2] + 5000, status=ua.StatusCodes.UncertainInitialValue)
    await asyncio.sleep(12.0 if driver._histories["plc"].period > 1 else 0.6)
    return times


async def test_the_rows_of_an_outage_come_from_the_servers_memory(server: Plant) -> None:
    driver = driver_of(device_of(server))
    assert isinstance(driver, Remembers)
    times = await outage(server, driver)
    await driver.connect()
    try:
        block = await filled(driver, 6)
        assert await nothing_more(driver)
    finally:
        await driver.close()
    assert block.schema.stream == "plc/raw.history"
    assert block.time.tolist() == sorted([*times, times[2] + 5000])
    assert block["x"].tolist() == [10.0, 11.0, 12.0, 12.0, 13.0, 14.0]
    assert not block.quality[block.schema.index["x"]].any()
    missing, uncertain = Q.BAD_MISSING, Q.UNCERTAIN
    assert block.quality[block.schema.index["y"]].tolist() == [missing] * 3 + [uncertain] * 3
    assert block.quality[block.schema.index["z"]].tolist() == [missing] * 6
    assert block.lawful()


async def test_there_is_nothing_to_fill_at_the_first_start_and_where_it_is_not_wanted(
    server: Plant,
) -> None:
    first, off = driver_of(device_of(server)), driver_of(device_of(server, history=Duration(0.0)))
    await outage(server, off)
    for driver in (first, off):
        await driver.connect()
        assert await nothing_more(driver)
        await driver.close()


async def test_what_was_not_read_yet_is_read_after_a_restart_of_the_agent(server: Plant) -> None:
    before = driver_of(device_of(server))
    times = await outage(server, before)
    learnt = before.save()
    after = driver_of(device_of(server))
    after.load(learnt)
    await after.connect()
    try:
        assert (await filled(after, 6)).time.tolist()[0] == times[0]
    finally:
        await after.close()
    stranger = driver_of(device_of(server))
    stranger.load({"endpoint": learnt["endpoint"], "history": {"plc": {"until": "x", "gaps": [7]}}})


async def test_long_gaps_come_in_portions_in_the_order_of_time(
    server: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcua_history, "VALUES", 10)
    monkeypatch.setattr(opcua_history, "FEWEST", 10)
    driver = driver_of(device_of(server))
    await driver.connect()
    await driver.read(driver.groups[0])
    await driver.close()
    start = (time.time_ns() // 1000 + 1) * 1000
    for i in range(300):
        await server.write("X", 1.0 + i, at=start + i * 1_000_000)
        if i % 50 == 0:
            await server.write("Y", 1.0 + i, at=start + i * 1_000_000)
    await asyncio.sleep(0.6)
    await driver.connect()
    try:
        block = await filled(driver, 300)
        assert await nothing_more(driver)
    finally:
        await driver.close()
    assert block["x"].tolist() == [1 + i for i in range(300)]
    assert block["y"].tolist() == [1 + i // 50 * 50 for i in range(300)]
    assert (np.diff(block.time) == 1_000_000).all()


async def test_a_supervised_link_fills_its_gap_and_the_live_rows_stay_as_they_were(
    server: Plant,
) -> None:
    device = device_of(server, flag=FlagConfig(tag="y", normal=(3,)))
    driver, blocks = driver_of(device), []
    times = await outage(server, driver)

    def push(block: SampleBlock, *, substituted: bool = False) -> None:
        del substituted
        blocks.append(block)

    async def until_filled() -> None:
        async with asyncio.timeout(10):
            while not any(b.schema.past for b in blocks) or len(blocks) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    health = LinkHealth("plc", ("plc",))
    task = asyncio.create_task(run_driver(health, driver, push, SystemClock(), 0.1))
    try:
        await until_filled()
    finally:
        task.cancel()
        await asyncio.wait([task])
    past = [b for b in blocks if b.schema.past]
    assert past[0].time.tolist()[0] == times[0]
    flagged = past[0].quality[past[0].schema.index["x"]].tolist()
    assert flagged == [Q.UNCERTAIN_FLAGGED] * 3 + [Q.GOOD] * 3  # until the flag was normal
    for stream in {b.schema.stream for b in blocks}:
        stamps = np.concatenate([b.time for b in blocks if b.schema.stream == stream])
        assert (np.diff(stamps) >= 0).all()


async def test_a_server_that_takes_too_long_is_asked_for_less_and_then_let_alone(
    server: Plant, reads_of_the_past: list[int]
) -> None:
    driver = driver_of(device_of(server, timeout=Duration(0.4)))
    await outage(server, driver)
    history = driver._histories["plc"]
    try:
        for _ in range(8):  # one that does one thing after the other may lose the link over it
            with contextlib.suppress(Disconnected):
                await driver.connect()
                await nothing_more(driver, 3.0)
            if not history.gaps:
                break
        await driver.connect()
        assert not (await driver.read(driver.groups[0])).quality.any()
    finally:
        await driver.close()
    assert reads_of_the_past == [2000, 500, 125, 50]


async def test_a_server_that_refuses_to_tell_its_past_keeps_its_link(
    server: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_parameters: ua.HistoryReadParameters) -> object:
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)

    monkeypatch.setattr(server.server.iserver.history_manager, "read_history", refuse)
    driver = driver_of(device_of(server))
    await outage(server, driver)
    await driver.connect()
    try:
        assert await nothing_more(driver)
        assert not (await driver.read(driver.groups[0])).quality.any()
    finally:
        await driver.close()


async def test_an_agent_has_the_past_in_its_log_and_its_books_are_right(
    server: Plant, tmp_path: Path
) -> None:
    """An outage, read back: rows read, substituted and derived are the rows appended."""
    gate = await DeafGate.opened(server)
    config = tmp_path / "plant.yaml"
    config.write_text(
        f"""
site: {{id: test}}
devices:
  plc:
    connect: {gate.url}
    timeout: 500ms
    poll: 200ms
    tags: {{x: {{at: "nsu={URI};s=X"}}}}
web: {{listen: "127.0.0.1:0"}}
""",
        encoding="utf-8",
    )
    agent = Agent(load(config))
    task = asyncio.create_task(agent.run())
    try:
        await agent.ready.wait()
        await asyncio.sleep(1.0)
        gate.deaf = True
        await asyncio.sleep(0.3)
        start = (time.time_ns() // 1000 + 1) * 1000
        times = [start + i * 100_000_000 for i in range(8)]
        for i, at in enumerate(times):
            await server.write("X", 10.0 + i, at=at)
        await asyncio.sleep(1.5)
        gate.deaf = False
        await asyncio.sleep(4.0)
    finally:
        agent.stop()
        await task
        await gate.close()
    archive = Archive(tmp_path / "data" / "log.db")
    blocks = [archive.block(record) for record in archive.records(0)]
    past = concatenate([b for b in blocks if b.schema.past])
    assert past.time.tolist() == times
    assert past["x"].tolist() == [10.0 + i for i in range(8)]
    assert not past.quality.any()
    live = concatenate([b for b in blocks if b.schema.stream == "plc/raw"])
    assert (np.diff(live.time) >= 0).all()
    silent = live.time[live.quality[0] == Q.BAD_NO_ANSWER]
    assert ((silent > start - SECOND) & (silent < start + 5 * SECOND)).all()
    assert len(silent) >= 4
    assert agent.counts().conserved
    assert not [s for s in agent.live.streams() if s.past]  # not the page's newest value


async def test_a_server_that_remembers_nothing_leaves_the_gap_as_it_is_marked() -> None:
    async with plant() as p:
        for name in "XYZ":
            await p.add(name, 0.0)
        driver = driver_of(device_of(p))
        await outage(p, driver)
        await driver.connect()
        assert await nothing_more(driver)
        assert not driver._histories["plc"].gaps
        await driver.close()


async def test_no_gap_reaches_back_further_than_is_wanted() -> None:
    history = opcua_history.History("plc", OpcUaDevice(connect="opc.tcp://plc"), 1.0)
    history.until = 100 * SECOND
    history.opened(101 * SECOND, 60 * SECOND, 2 * SECOND)
    assert not history.gaps
    history.opened(1000 * SECOND, 60 * SECOND, 2 * SECOND)
    assert history.save() == {"until": 1000 * SECOND, "gaps": [[940 * SECOND, 1000 * SECOND]]}
    history.opened(1030 * SECOND, 60 * SECOND, 2 * SECOND)
    gaps = [[970 * SECOND, 1000 * SECOND], [1000 * SECOND, 1030 * SECOND]]
    assert history.save()["gaps"] == gaps
