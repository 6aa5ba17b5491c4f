"""L4: the session, the subscription and the server lie; L3: an old value is never shown as new."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession

from edge_agent.clock import SystemClock
from edge_agent.drivers import base, opcua_subscription
from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_driver import OpcUaDriver
from edge_agent.errors import Disconnected
from edge_agent.health import LinkHealth
from edge_agent.model import Quality, SampleBlock
from edge_agent.supervisor import run_driver
from edge_agent.units import Duration
from tests.drivers.opcua_plant import URI, DeafGate, Plant, connected, plant

Q = Quality
pytestmark = pytest.mark.asyncio(loop_scope="module")
FAST = Duration(0.1)


def tag(name: str, **written: object) -> TagConfig:
    return TagConfig(at=f"nsu={URI};s={name}", **written)  # type: ignore[arg-type]


def pushed(name: str, **written: object) -> TagConfig:
    return tag(name, mode="subscribe", **written)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Plant]:
    async with plant() as p:
        yield p


@pytest_asyncio.fixture(loop_scope="module")
async def server(running: Plant) -> Plant:
    await running.add("X", 1.0)
    return running


class Rows:
    """What a supervised driver hands on."""

    def __init__(self) -> None:
        self.blocks: list[SampleBlock] = []
        self.news = asyncio.Event()

    def push(self, block: SampleBlock, *, substituted: bool = False) -> None:
        del substituted
        self.blocks.append(block)
        self.news.set()

    async def until(self, quality: Quality) -> SampleBlock:
        """Return the next block whose last row has one quality."""
        while True:
            self.news.clear()
            await self.news.wait()
            block = self.blocks[-1]
            if (block.quality[:, -1] == quality).all():
                return block


@pytest.fixture
def frozen(server: Plant, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set: the server's clock stands still."""
    space, still, at = server.server.iserver.aspace, asyncio.Event(), datetime.now(UTC)
    clock, read = ua.NodeId(ua.Int32(2258)), space.read_attribute_value

    def says(node: ua.NodeId, attribute: ua.AttributeIds) -> ua.DataValue:
        nonlocal at
        if node != clock:
            return read(node, attribute)
        at = at if still.is_set() else datetime.now(UTC)
        return ua.DataValue(ua.Variant(at, ua.VariantType.DateTime))

    monkeypatch.setattr(space, "read_attribute_value", says)
    return still


async def test_a_server_that_answers_while_its_clock_stands_still_has_no_values(
    server: Plant, frozen: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """L3, peers 24: a frozen device was read on with fresh time stamps."""
    device = OpcUaDevice(connect=server.url, frozen_after=Duration(0.3), tags={"x": tag("X")})
    caplog.set_level(logging.INFO, "edge_agent.drivers.opcua_driver")
    async with connected(device) as (driver, groups):
        for still, expected in ((False, Q.GOOD), (True, Q.BAD_NO_ANSWER), (False, Q.GOOD)):
            frozen.set() if still else frozen.clear()
            await driver.read(groups["raw"])
            await asyncio.sleep(0.4)
            block = await driver.read(groups["raw"])
            assert block.quality.tolist() == [[expected]]
            assert block.lawful()
    said = [r.getMessage() for r in caplog.records if "clock" in r.getMessage()]
    assert len(said) == 2
    assert "stands still" in said[0]
    assert "goes on" in said[1]


async def test_a_quiet_subscription_of_a_frozen_server_is_no_answer_until_it_goes_on(
    server: Plant, frozen: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4, peers 30: keep-alives come, but nothing behind them lives."""
    monkeypatch.setattr(base, "KEEP_ALIVE", 0.3)
    device = OpcUaDevice(
        connect=server.url, publish=FAST, frozen_after=Duration(0.2), tags={"x": pushed("X")}
    )
    async with connected(device) as (driver, groups):
        seen = []
        for step in (False, True, False):
            frozen.set() if step else frozen.clear()
            wanted = Q.BAD_NO_ANSWER if step else Q.GOOD
            for _ in range(9):
                block = await driver.read(groups["raw.sub"])
                if block.quality[0, -1] == wanted:
                    break
            seen.append(block.quality[0, -1])
        assert seen == [Q.GOOD, Q.BAD_NO_ANSWER, Q.GOOD]
        assert block["x"][-1] == 1.0


# ---- what is too much for the server


async def test_a_server_that_refuses_large_requests_is_asked_for_less_and_this_is_remembered(
    server: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4, peers 32: more nodes than it bears, though it announces no limit."""
    service, asked = server.server.iserver.attribute_service, []
    read = service.read

    def choosy(parameters: ua.ReadParameters, *rest: object) -> object:
        asked.append(len(parameters.NodesToRead))
        if asked[-1] > 10:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return read(parameters, *rest)

    monkeypatch.setattr(service, "read", choosy)
    device = OpcUaDevice(connect=server.url, tags={f"x{i}": tag("X") for i in range(40)})
    async with connected(device) as (driver, groups):
        block = await driver.read(groups["raw"])
        assert not block.quality.any()
        learnt = driver.save()
        assert [n for n in asked if n > 10] == [41, 20]
        asked.clear()
        await driver.read(groups["raw"])
        assert max(asked) == 10
    asked.clear()
    again = OpcUaDevice.build({"plc": device}, SystemClock())
    assert isinstance(again, OpcUaDriver)
    again.load(learnt)
    await again.connect()
    await again.read(again.groups[0])
    await again.close()
    assert max(asked) == 10


async def test_monitored_items_are_made_in_portions_that_the_server_takes(
    server: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4, peers 32: 12,500 items in one call, silently refused."""
    create, asked = InternalSession.create_monitored_items, []

    async def choosy(
        session: InternalSession, parameters: ua.CreateMonitoredItemsParameters
    ) -> object:
        asked.append(len(parameters.ItemsToCreate))
        if asked[-1] > 10:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return await create(session, parameters)

    monkeypatch.setattr(InternalSession, "create_monitored_items", choosy)
    tags = {f"x{i}": pushed("X") for i in range(25)}
    async with connected(OpcUaDevice(connect=server.url, tags=tags)) as (driver, groups):
        block = await driver.read(groups["raw.sub"])
    assert not block.quality[:, -1].any()
    assert asked == [25, 12, 6, 6, 6, 6, 1]


async def test_a_refused_item_is_asked_for_again_slowly(
    server: Plant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "KEEP_ALIVE", 0.3)
    monkeypatch.setattr(opcua_subscription, "AGAIN", 0.3)
    tags = {"late": pushed("Late"), "x": pushed("X")}
    device = OpcUaDevice(connect=server.url, publish=FAST, tags=tags)
    async with connected(device) as (driver, groups):
        for _ in range(5):
            block = await driver.read(groups["raw.sub"])
        assert block.quality[:, -1].tolist() == [Q.BAD_ADDRESS, Q.GOOD]
        await server.add("Late", 2.0)
        for _ in range(9):
            block = await driver.read(groups["raw.sub"])
            if not block.quality[0, -1]:
                break
    assert block.value[:, -1].tolist() == [2.0, 1.0]
    said = [r for r in caplog.records if "is not watched" in r.getMessage()]
    assert len(said) == 1  # not at each try


# ---- sessions


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the server is asked for: every CreateSession and CloseSession."""
    seen: list[str] = []
    create, close = InternalSession.create_session, InternalSession.close_session

    async def creating(session: InternalSession, *rest: object, **named: object) -> object:
        seen.append("create")
        return await create(session, *rest, **named)  # type: ignore[arg-type]

    async def closing(session: InternalSession, *rest: object, **named: object) -> object:
        seen.append("close")
        return await close(session, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(InternalSession, "create_session", creating)
    monkeypatch.setattr(InternalSession, "close_session", closing)
    return seen


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_200_reconnects_make_200_sessions_and_leave_none(
    server: Plant, sessions: list[str]
) -> None:
    """L9, peers 58 and 59: sessions, tasks and sockets that stay behind."""
    device = OpcUaDevice(connect=server.url, tags={"x": tag("X"), "p": pushed("X")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    counts = []
    for i in range(200):
        await driver.connect()
        if i % 20 == 0:
            await driver.read(driver.groups[0])
        await driver.close()
        if i in (20, 199):
            counts.append((len(asyncio.all_tasks()), open_files()))
    assert sessions.count("create") == 200
    assert sessions.count("close") >= 200
    assert not server.server.iserver.subscription_service.subscriptions
    assert counts[1][0] <= counts[0][0] + 2
    assert counts[1][1] <= counts[0][1] + 2


async def test_a_server_that_refuses_is_asked_for_one_session_per_step_of_the_back_off(
    server: Plant, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4, peers 28: 6,410 CreateSession calls in two minutes."""

    def refuse(*_: object) -> object:
        raise ServiceError(ua.StatusCodes.BadTooManySessions)

    monkeypatch.setattr(InternalSession, "activate_session", refuse)
    device = OpcUaDevice(connect=server.url, tags={"x": tag("X"), "p": pushed("X")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    health, rows = LinkHealth("plc", ("plc",)), Rows()
    task = asyncio.create_task(run_driver(health, driver, rows.push, SystemClock(), 1.0))
    await asyncio.sleep(3.0)
    task.cancel()
    await asyncio.wait([task])
    assert "no session left" in health.error
    assert 1 <= sessions.count("create") == health.connects <= 8


async def test_a_session_that_the_server_has_forgotten_is_made_anew(
    server: Plant, sessions: list[str]
) -> None:
    """L4, peers 27: a bad session that was asked again and again."""
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": tag("X"), "p": pushed("X")})
    driver, rows = OpcUaDevice.build({"plc": device}, SystemClock()), Rows()
    health = LinkHealth("plc", ("plc",))
    task = asyncio.create_task(run_driver(health, driver, rows.push, SystemClock(), 1.0))
    try:
        async with asyncio.timeout(10):
            await rows.until(Q.GOOD)
            for session in list(server.server.iserver._external_sessions.values()):
                await session.close_session(True)
            while sessions.count("create") < 2:
                await rows.until(Q.GOOD)
            for _ in range(3):
                await rows.until(Q.GOOD)
        assert sessions.count("create") == 2
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_subscription_that_the_server_ends_is_begun_anew(server: Plant) -> None:
    """L4, peers 30: it stops silently after months."""
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"p": pushed("X")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        ended = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadTimeout))
        await server.subscription().enqueue_statuschange(ended)
        await server.write("X", 2.0)  # the library tells of it with the next change
        with pytest.raises(Disconnected, match="subscription ended: BadTimeout"):
            await driver.read(groups["raw.sub"])
        await driver.connect()
        assert (await driver.read(groups["raw.sub"]))["p"][-1] == 2.0


async def test_a_restart_with_other_namespace_numbers_is_read_on(unused_namespace: str) -> None:
    """L4, peers 27, 29 and 34: no data after a restart of the server."""
    first = Plant()
    device = OpcUaDevice(connect=first.url, publish=FAST, tags={"x": tag("X"), "p": pushed("X")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    rows, indices = Rows(), []
    task: asyncio.Task[None] | None = None
    try:
        for before in ((), (unused_namespace,)):
            p = Plant()
            p.url = first.url
            await p.prepare(*before)
            indices.append(p.index)
            await p.add("X", 5.0)
            await p.server.start()
            try:
                if task is None:
                    health = LinkHealth("plc", ("plc",))
                    task = asyncio.create_task(
                        run_driver(health, driver, rows.push, SystemClock(), 1.0)
                    )
                good = set()
                async with asyncio.timeout(10):
                    while good != {"plc/raw", "plc/raw.sub"}:
                        good.add((await rows.until(Q.GOOD)).schema.stream)
            finally:
                await p.server.stop()
            rows.blocks.clear()
    finally:
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
    assert indices[0] != indices[1]


@pytest.fixture
def unused_namespace() -> str:
    return "urn:demo:newcomer"


async def test_a_dead_link_is_noticed_within_the_time_out(server: Plant) -> None:
    """L4, peers 31: a client that never notices that nobody is there any more."""
    gate = await DeafGate.opened(server)
    device = OpcUaDevice(
        connect=gate.url, timeout=Duration(1.0), tags={"x": tag("X"), "p": pushed("X")}
    )
    try:
        async with connected(device) as (driver, groups):
            await driver.read(groups["raw.sub"])
            loop = asyncio.get_running_loop()
            gate.deaf, began = True, loop.time()
            with pytest.raises(Disconnected, match=r"no answer within 1 s"):
                await driver.read(groups["raw"])
            assert loop.time() - began < 1.5
            await ends(driver, groups["raw.sub"])
            assert loop.time() - began < 5.0
    finally:
        await gate.close()
        served = server.server.iserver.subscription_service  # nobody was there to say farewell to
        await served.delete_subscriptions(list(served.subscriptions))


async def ends(driver: OpcUaDriver, group: base.Group) -> None:
    """Read until the driver says that the link is of no use."""
    try:
        while True:
            await driver.read(group)
    except Disconnected:
        return


async def test_a_bad_status_is_kept_per_item_and_never_the_last_good_value(server: Plant) -> None:
    """L3, peers 21 and 26: the last good value was sent again under a bad status."""
    await server.add("Y", 1.0)
    tags = {"x": tag("X"), "y": tag("Y"), "gone": tag("Gone")}
    async with connected(OpcUaDevice(connect=server.url, tags=tags)) as (driver, groups):
        await driver.read(groups["raw"])
        await server.write("X", 1.0, status=ua.StatusCodes.BadNoCommunication)
        block = await driver.read(groups["raw"])
    assert block.quality[:, 0].tolist() == [Q.BAD_DEVICE, Q.GOOD, Q.BAD_ADDRESS]
    assert np.isnan(block.value[[0, 2], 0]).all()
