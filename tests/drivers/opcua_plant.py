"""A real OPC UA server on loopback that the tests play the plant with."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from asyncua import Server, ua
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.user_managers import UserManager

from edge_agent.clock import Clock, SystemClock
from edge_agent.drivers.base import Group
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_driver import OpcUaDriver

URI = "urn:demo:plant"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def utc(ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)


class Plant:
    """A server with variables that are written with a status and a source time."""

    def __init__(self, users: UserManager | None = None) -> None:
        self.server = Server(user_manager=users)
        self.url = f"opc.tcp://127.0.0.1:{free_port()}"
        self.index = 0

    async def prepare(self, *before: str) -> None:
        """Set up; ``before``: namespaces that take the numbers before the plant's."""
        await self.server.init()
        self.server.set_endpoint(self.url)
        for uri in before:
            await self.server.register_namespace(uri)
        self.index = await self.server.register_namespace(URI)

    async def add(self, name: str, value: object, kind: ua.VariantType | None = None) -> None:
        """Make a variable of the value's type; one of that name made before is forgotten."""
        node_id = ua.NodeId(name, self.index)
        await self.server.delete_nodes([self.server.get_node(node_id)])
        variant = ua.Variant(value, kind)
        await self.server.nodes.objects.add_variable(node_id, name, variant)

    async def write(
        self,
        name: str,
        value: object,
        *,
        at: int | None = None,
        status: int = 0,
    ) -> None:
        """Set a value; ``at``: its source time, ns."""
        written = ua.DataValue(
            ua.Variant(value),
            ua.StatusCode(status),
            None if at is None else utc(at),
        )
        await self.server.write_attribute_value(ua.NodeId(name, self.index), written)

    def subscription(self) -> InternalSubscription:
        """The one subscription that the server serves."""
        (served,) = self.server.iserver.subscription_service.subscriptions.values()
        return served


@asynccontextmanager
async def plant() -> AsyncIterator[Plant]:
    """A started server; stopped at the end, if it still runs."""
    made = Plant()
    await made.prepare()
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()


@asynccontextmanager
async def connected(
    device: OpcUaDevice, clock: Clock | None = None
) -> AsyncIterator[tuple[OpcUaDriver, dict[str, Group]]]:
    """A connected driver of one device ``plc``, and its groups by name."""
    driver = OpcUaDevice.build({"plc": device}, clock or SystemClock())
    assert isinstance(driver, OpcUaDriver)
    try:
        await driver.connect()
        yield driver, {group.schema.name: group for group in driver.groups}
    finally:
        await driver.close()


class DeafGate:
    """A relay that, when deaf, takes everything and hands on nothing.

    closes_after  connections that it relays; those that come later are closed at once
    """

    def __init__(self) -> None:
        self.deaf, self.url = False, ""
        self.closes_after = 1 << 30
        self.tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def opened(cls, server: Plant) -> "DeafGate":
        gate, port = cls(), int(server.url.rpartition(":")[2])

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            gate.closes_after -= 1
            if gate.closes_after < 0:
                writer.close()
                return
            there, back = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as both:
                both.create_task(gate.carry(reader, back))
                both.create_task(gate.carry(there, writer))

        gate.listener = await asyncio.start_server(relay, "127.0.0.1", 0)
        gate.url = f"opc.tcp://127.0.0.1:{gate.listener.sockets[0].getsockname()[1]}"
        return gate

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                if not self.deaf:
                    writer.write(part)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def close(self) -> None:
        self.listener.close()
        await asyncio.sleep(0)
