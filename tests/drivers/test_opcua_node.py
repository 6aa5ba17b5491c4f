"""Against node-opcua, a server written by others: types, security, and how a link comes back."""

import asyncio
import contextlib
import gc
import resource
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from edge_agent.clock import SystemClock
from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_driver import OpcUaDriver
from edge_agent.drivers.opcua_security import Policy, Security
from edge_agent.errors import Disconnected
from edge_agent.health import LinkHealth
from edge_agent.model import Quality, SampleBlock
from edge_agent.supervisor import run_driver
from edge_agent.units import Duration, Secret
from tests.drivers.node_server import NodeServer, node_server
from tests.drivers.opcua_plant import URI, connected

Q = Quality
# a server takes three seconds to start, and longer on a loaded machine
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
FAST = Duration(0.1)
VALUES = [
    ("Boolean", "Boolean", True, 1.0),
    ("SByte", "SByte", -128, -128.0),
    ("Byte", "Byte", 255, 255.0),
    ("Int16", "Int16", -32768, -32768.0),
    ("UInt16", "UInt16", 65535, 65535.0),
    ("Int32", "Int32", -(2**31), -(2.0**31)),
    ("UInt32", "UInt32", 2**32 - 1, 2.0**32 - 1),
    ("Int64", "Int64", [0x1F, 0xFFFFFFFF], 2.0**37 - 1),  # [high, low] in JavaScript
    ("UInt64", "UInt64", [0x1FFFFF, 0xFFFFFFFF], 2.0**53 - 1),
    ("Float", "Float", 0.5, 0.5),
    ("Double", "Double", 50.01, 50.01),
    ("DateTime", "DateTime", "2026-01-01T00:00:00Z", 1_767_225_600.0),
]


def tag(name: str, **written: object) -> TagConfig:
    return TagConfig(at=f"nsu={URI};s={name}", **written)  # type: ignore[arg-type]


def pushed(name: str, **written: object) -> TagConfig:
    return tag(name, mode="subscribe", **written)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeServer]:
    values: list[tuple[str, str, object]] = [(n, t, v) for n, t, v, _ in VALUES]
    values += [
        ("Text", "String", "运行"),
        ("Curve", "Double", [1.5, 2.5, 3.5]),
        ("X", "Double", 1.0),
    ]
    async with node_server(tmp_path_factory.mktemp("node"), values) as server:
        yield server


@pytest.mark.parametrize("mode", ["poll", "subscribe"])
async def test_every_type_is_read_right(node: NodeServer, mode: str) -> None:
    tags = {name.lower(): tag(name, mode=mode) for name, *_ in VALUES}
    tags["text"] = tag("Text", mode=mode, type="text")
    tags["element"] = tag("Curve;index=1", mode=mode)
    tags["curve"] = tag("Curve", mode=mode)
    tags["gone"] = tag("Gone", mode=mode)
    device = OpcUaDevice(connect=node.url, publish=FAST, tags=tags)
    async with connected(device) as (driver, groups):
        (group,) = groups.values()
        block = await driver.read(group)
        while mode == "subscribe" and block.quality[:-2, -1].any():
            block = await driver.read(group)
    for name, _, _, expected in VALUES:
        assert block[name.lower()][-1] == expected, name
    assert block.text(block.schema.index["text"], len(block) - 1) == "运行"
    assert block["element"][-1] == 2.5
    assert not block.quality[:-2, -1].any()
    assert block.quality[-2:, -1].tolist() == [Q.BAD_NOT_AVAILABLE, Q.BAD_ADDRESS]


async def test_changes_and_bad_values_are_pushed_with_their_times(node: NodeServer) -> None:
    device = OpcUaDevice(
        connect=node.url, publish=FAST, tags={"x": pushed("X", kind="state"), "p": tag("X")}
    )
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        now = time.time_ns() // 1_000_000
        for i in range(5):
            await node.do("write", name="X", type="Double", value=10.0 + i, at=now + 60 * i)
            await asyncio.sleep(0.06)  # longer than the interval at which it looks
        rows: dict[int, float] = {}
        while 14.0 not in rows.values():
            block = await driver.read(groups["raw.sub"])
            rows |= dict(zip((block.time // 1_000_000).tolist(), block["x"].tolist(), strict=True))
        expected = {now + 60 * i: 10.0 + i for i in range(5)}
        assert {t: v for t, v in rows.items() if t in expected} == expected
        await node.do("write", name="X", type="Double", value=0, status="BadSensorFailure")
        block = await driver.read(groups["raw.sub"])
        while not block.quality[0, -1]:
            block = await driver.read(groups["raw.sub"])
        assert block.quality[0, -1] == Q.BAD_DEVICE
        assert (await driver.read(groups["raw"])).quality.tolist() == [[Q.BAD_DEVICE]]
        await node.do("write", name="X", type="Double", value=1.0)


@pytest.mark.parametrize("mode", ["sign", "sign-and-encrypt"])
@pytest.mark.parametrize(
    "policy", ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
)
async def test_every_policy_with_the_agents_certificate_and_a_user(
    node: NodeServer, tmp_path: Path, policy: Policy, mode: str
) -> None:
    for password in ("right", "wrong"):
        security = Security(
            policy=policy,
            mode=mode,  # type: ignore[arg-type]
            user="edge",
            password=Secret(password),
        )
        tags = {"x": tag("Double"), "p": pushed("Double")}
        device = OpcUaDevice(connect=node.url, security=security, tags=tags)
        driver = OpcUaDevice.build({"plc": device}, SystemClock())
        assert isinstance(driver, OpcUaDriver)
        driver.keep_in(tmp_path)
        try:
            if password == "wrong":
                with pytest.raises(Disconnected, match="refuses the user or the password"):
                    await driver.connect()
                continue
            await driver.connect()
            for group, name in zip(driver.groups, "xp", strict=True):
                assert (await driver.read(group))[name].tolist() == [50.01]
        finally:
            await driver.close()


async def test_a_user_certificate_logs_in(node: NodeServer, tmp_path: Path) -> None:
    from edge_agent.drivers.opcua_certificates import identity

    identity(tmp_path / "user.der", tmp_path / "user.pem")
    security = Security(
        policy="Basic256Sha256", user_certificate="user.der", user_private_key="user.pem"
    )
    device = OpcUaDevice(connect=node.url, security=security, tags={"x": tag("Double")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    assert isinstance(driver, OpcUaDriver)
    driver.keep_in(tmp_path)
    try:
        await driver.connect()
        assert (await driver.read(driver.groups[0]))["x"].tolist() == [50.01]
    finally:
        await driver.close()


async def test_the_limits_that_it_announces_are_kept_to(tmp_path: Path) -> None:
    """L4, peers 32: more than its limit is refused, by Read and by CreateMonitoredItems."""
    limits = {"maxNodesPerRead": 20, "maxMonitoredItemsPerCall": 10}
    async with node_server(tmp_path, [("X", "Double", 1.0)], limits=limits) as server:
        tags = {f"x{i}": tag("X") for i in range(45)} | {f"p{i}": pushed("X") for i in range(45)}
        device = OpcUaDevice(connect=server.url, publish=FAST, tags=tags)
        async with connected(device) as (driver, groups):
            assert not (await driver.read(groups["raw"])).quality.any()
            block = await driver.read(groups["raw.sub"])
            while block.quality[:, -1].any():  # the first response has the items of the first call
                block = await driver.read(groups["raw.sub"])
            assert driver.save()["most"] == {}  # it never had to be refused


async def test_a_server_that_does_not_know_the_agent_is_told_to_trust_it(tmp_path: Path) -> None:
    """L9, peers 56: plain words, and a person's one action mends it."""
    async with node_server(tmp_path, [("X", "Double", 1.0)], trusting=False) as server:
        security = Security(policy="Basic256Sha256")
        device = OpcUaDevice(connect=server.url, security=security, tags={"x": tag("X")})
        driver = OpcUaDevice.build({"plc": device}, SystemClock())
        assert isinstance(driver, OpcUaDriver)
        driver.keep_in(tmp_path)
        try:
            with pytest.raises(Disconnected, match="does not trust the agent's certificate"):
                await driver.connect()
            await server.do("trust", file=str(tmp_path / "certificates" / "opcua.der"))
            await driver.connect()
            assert (await driver.read(driver.groups[0]))["x"].tolist() == [1.0]
        finally:
            await driver.close()


async def test_no_reconnect_leaves_a_session_behind(node: NodeServer) -> None:
    """L4, peers 28; L9, peers 59: counted at the server."""
    before = await node.do("sessions")
    device = OpcUaDevice(connect=node.url, tags={"x": tag("Double"), "p": pushed("Double")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    for _ in range(20):
        await driver.connect()
        await driver.close()
    after = await node.do("sessions")
    assert int(str(after["created"])) - int(str(before["created"])) == 20
    assert after["open"] == before["open"]


async def test_the_gap_of_an_outage_is_filled_from_its_memory(tmp_path: Path) -> None:
    """L4, peers 33."""
    values = [("X", "Double", 0.0), ("Y", "Int32", 0)]
    limits = {"maxNodesPerRead": 2, "maxNodesPerHistoryReadData": 1}
    async with node_server(tmp_path, values, historizing=["X", "Y"], limits=limits) as server:
        device = OpcUaDevice(
            connect=server.url, poll=FAST, tags={"x": tag("X"), "y": tag("Y", kind="counter")}
        )
        driver = OpcUaDevice.build({"plc": device}, SystemClock())
        assert isinstance(driver, OpcUaDriver)
        await driver.connect()
        await driver.read(driver.groups[0])
        await driver.close()
        now = time.time_ns() // 1_000_000 + 1
        for i in range(20):
            at = now + 10 * i
            await server.do("write", name="X", type="Double", value=1.0 + i, at=at)
            await server.do("write", name="Y", type="Int32", value=100 + i, at=at)
        await asyncio.sleep(0.5)
        try:
            await driver.connect()
            async with asyncio.timeout(10):
                block = await driver.past()
        finally:
            await driver.close()
    assert (block.time // 1_000_000).tolist() == [now + 10 * i for i in range(20)]
    assert block["x"].tolist() == [1.0 + i for i in range(20)]
    assert block["y"].tolist() == [100.0 + i for i in range(20)]
    assert not block.quality.any()


def resident() -> float:
    """Return the memory of this process, MB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@pytest.mark.soak
@pytest.mark.timeout(600)  # 300 sessions, encrypted, each with a read and a subscription
async def test_300_reconnects_cost_no_memory(node: NodeServer, tmp_path: Path) -> None:
    """L9, peers 58: leaks of a megabyte a day."""
    tags = {f"x{i}": tag("Double") for i in range(50)}
    tags |= {f"p{i}": pushed("Double") for i in range(50)}
    security = Security(policy="Basic256Sha256")
    device = OpcUaDevice(connect=node.url, security=security, tags=tags)
    driver, before = OpcUaDevice.build({"plc": device}, SystemClock()), 0.0
    assert isinstance(driver, OpcUaDriver)
    driver.keep_in(tmp_path)
    for i in range(301):
        await driver.connect()
        for group in driver.groups:
            await driver.read(group)
        await driver.close()
        before = resident() if i == 30 else before
    assert resident() - before < 3.0


class Watch:
    """When a supervised link brings rows, by ``time.monotonic``."""

    def __init__(self, device: OpcUaDevice) -> None:
        self.device = device
        self.driver = OpcUaDevice.build({"plc": device}, SystemClock())
        self.health = LinkHealth("plc", ("plc",))
        self.seen: list[tuple[float, str, int]] = []
        self.blocks: list[SampleBlock] = []

    def push(self, block: SampleBlock, *, substituted: bool = False) -> None:
        del substituted
        self.blocks.append(block)
        self.seen.append((time.monotonic(), block.schema.name, int(block.quality.max())))

    async def first(self, quality: Quality, after: float, stream: str) -> float:
        """Return when the first row of a stream with a quality came after a time."""
        while True:
            found = [t for t, s, q in self.seen if (s, q) == (stream, quality) and t >= after]
            if found:
                return found[0]
            await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(
            run_driver(self.health, self.driver, self.push, SystemClock(), 1.0)
        )
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.parametrize("stream", ["raw", "raw.sub"])
async def test_a_killed_server_is_read_within_two_seconds_of_its_return(
    tmp_path: Path, stream: str
) -> None:
    """L4, peers 27, 29, 34; the namespaces have other numbers after the restart."""
    async with node_server(tmp_path, [("X", "Double", 1.0)]) as server:
        x = tag("X") if stream == "raw" else pushed("X")
        watch = Watch(OpcUaDevice(connect=server.url, publish=FAST, tags={"x": x}))
        async with watch.running(), asyncio.timeout(45):
            await watch.first(Q.GOOD, 0.0, stream)
            began = time.monotonic()
            await server.kill()
            await watch.first(Q.BAD_NO_ANSWER, began, stream)
            server.settings["before"] = ["urn:demo:newcomer"]
            start = asyncio.create_task(server.start())
            returned = await server.until_listening()
            good = await watch.first(Q.GOOD, returned, stream)
            await start
            began = time.monotonic()  # what a connection costs on this machine, loaded as it is
            async with connected(watch.device) as (driver, groups):
                await driver.read(groups[stream])
            took = time.monotonic() - began
        assert good - returned < 2.0 + took


async def test_a_server_that_stands_still_has_no_values_and_is_read_on_at_once(
    node: NodeServer,
) -> None:
    """L3, peers 24; L4, peers 30, 31: the socket lives, the process does not."""
    tags = {"x": tag("Double"), "p": pushed("Double")}
    device = OpcUaDevice(connect=node.url, publish=FAST, timeout=Duration(1.0), tags=tags)
    watch = Watch(device)
    try:
        async with watch.running(), asyncio.timeout(45):
            for stream in ("raw", "raw.sub"):
                await watch.first(Q.GOOD, 0.0, stream)
            node.signal(signal.SIGSTOP)
            frozen = time.monotonic()
            for stream in ("raw", "raw.sub"):
                bad = await watch.first(Q.BAD_NO_ANSWER, frozen, stream)
                assert bad - frozen < 4.0
            await asyncio.sleep(2.0)
            assert not [q for t, _, q in watch.seen if t > frozen + 1.2 and q == Q.GOOD]
            node.signal(signal.SIGCONT)
            thawed = time.monotonic()
            for stream in ("raw", "raw.sub"):
                assert await watch.first(Q.GOOD, thawed, stream) - thawed < 2.0
    finally:
        node.signal(signal.SIGCONT)
