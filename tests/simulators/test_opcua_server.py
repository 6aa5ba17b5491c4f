import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.clock import SECOND, PlantClock
from simulators.modbus_server import ScanLog
from simulators.opcua_security import Security
from simulators.opcua_server import NAMESPACE, OpcUaServer
from simulators.plant import CementPlant
from simulators.tables import configs, read_devices

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPEED = 20.0


def plant_server(
    clock: PlantClock, log: ScanLog | None = None, security: Security | None = None
) -> tuple[CementPlant, OpcUaServer]:
    plant = CementPlant(3, clock)
    tables = [t for t in read_devices(configs() / "demo.yaml") if t.id.startswith("plc-")]
    devices = [(table, plant.source(table.id)) for table in tables]
    return plant, OpcUaServer(devices, clock, log, security)  # type: ignore[arg-type]


def ns(time_: datetime) -> int:
    aware = time_ if time_.tzinfo else time_.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1) * 1000


class Notified:
    """Collects what a subscription brings: node -> (source time, value)."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[int, float]]] = {}

    def datachange_notification(self, node: object, value: float, data: object) -> None:
        source = data.monitored_item.Value.SourceTimestamp  # type: ignore[attr-defined]
        self.values.setdefault(node.nodeid.Identifier, []).append((ns(source), value))  # type: ignore[attr-defined]


async def test_each_change_of_state_is_published_with_its_exact_time(tmp_path: Path) -> None:
    from asyncua import Client

    clock = PlantClock(1_795_000_000 * SECOND, time.monotonic_ns(), SPEED)
    log = ScanLog(tmp_path)
    plant, server = plant_server(clock, log)
    port = await server.start()
    notified = Notified()
    try:
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            space = await client.get_namespace_index(NAMESPACE)
            names = ("State", "TotalBags", "RejectBags")
            nodes = [client.get_node(f"ns={space};s=Packer1.{name}") for name in names]
            subscription = await client.create_subscription(50, notified)
            await subscription.subscribe_data_change(nodes, queuesize=100)
            async with asyncio.timeout(10):
                while len(notified.values) < len(nodes):  # noqa: ASYNC110  nothing tells of it
                    await asyncio.sleep(0.01)
            begin = clock.wall_ns()
            await asyncio.sleep(6)
            end = clock.wall_ns() - SECOND * SPEED // 2  # what may still be under way is not asked
    finally:
        await server.close()
        log.close()

    states = notified.values["Packer1.State"]
    bags = notified.values["Packer1.TotalBags"]
    truth = plant.state_changes(begin, int(end))
    assert len(truth) >= 2
    assert [change for change in states if begin < change[0] <= end] == truth
    offset = bags[-1][1] - plant.packer.bags(bags[-1][0])
    assert [value for _, value in bags] == [offset + plant.packer.bags(t) for t, _ in bags]
    written = [
        json.loads(line) for line in (tmp_path / "plc-packer.jsonl").read_text().splitlines()
    ]
    for name, values in notified.values.items():
        logged = [(row["source_ns"], row["value"]) for row in written if row["node"] == name]
        assert set(values) <= set(logged)
        assert [t for t, _ in logged] == sorted(t for t, _ in logged)


async def test_a_polled_node_is_computed_when_it_is_read_and_logged(tmp_path: Path) -> None:
    from asyncua import Client

    clock = PlantClock(time.time_ns(), time.monotonic_ns())
    log = ScanLog(tmp_path)
    plant, server = plant_server(clock, log)
    port = await server.start()
    try:
        async with Client(f"opc.tcp://127.0.0.1:{port}") as client:
            space = await client.get_namespace_index(NAMESPACE)
            node = client.get_node(f"ns={space};s=Kiln1.BurningZoneTemperature")
            reads = [await node.read_data_value() for _ in range(3)]
            state = await client.get_node(f"ns={space};s=Kiln1.State").read_value()
    finally:
        await server.close()
        log.close()

    source = plant.source("plc-kiln")
    assert source is not None
    seen = [(ns(read.SourceTimestamp), read.Value.Value) for read in reads]
    assert seen == [(t, source.value("burning_zone_temperature", t)) for t, _ in seen]
    assert len({t for t, _ in seen}) == 3
    assert state == 1
    lines = [json.loads(line) for line in (tmp_path / "plc-kiln.jsonl").read_text().splitlines()]
    logged = [
        (r["source_ns"], r["value"]) for r in lines if r["node"] == "Kiln1.BurningZoneTemperature"
    ]
    assert set(seen) <= set(logged)


async def test_a_secured_server_lets_only_its_user_in(tmp_path: Path) -> None:
    from asyncua import Client, ua
    from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

    clock = PlantClock(time.time_ns(), time.monotonic_ns())
    (tmp_path / "server").mkdir()
    _, server = plant_server(clock, security=Security(tmp_path / "server", "edge", "secret"))
    port = await server.start()

    async def read_as(user: str, password: str) -> int:
        client = Client(f"opc.tcp://127.0.0.1:{port}")
        client.application_uri = "urn:test:client"
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.der"
        await client.setup_self_signed_certificate(key, certificate, host_name="127.0.0.1")
        client.set_user(user)
        client.set_password(password)
        mode = ua.MessageSecurityMode.SignAndEncrypt
        await client.set_security(SecurityPolicyBasic256Sha256, certificate, key, mode=mode)
        async with client:
            space = await client.get_namespace_index(NAMESPACE)
            return int(await client.get_node(f"ns={space};s=Packer1.State").read_value())

    try:
        assert await read_as("edge", "secret") in range(1, 6)
        with pytest.raises(ua.UaStatusCodeError):
            await read_as("edge", "guess")
        with pytest.raises((ua.UaError, ConnectionError, TimeoutError)):
            async with Client(f"opc.tcp://127.0.0.1:{port}", timeout=2):
                pass
    finally:
        await server.close()
