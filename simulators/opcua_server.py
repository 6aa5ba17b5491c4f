"""Serve the plant's control systems over OPC UA.

The namespace is ``urn:demo:plant``, the nodes ``Kiln1.*`` and ``Packer1.*``.

A polled node is computed when it is read. A node that is subscribed to is written when it changes,
with the exact plant time of the change as its SourceTimestamp: asyncua notifies on writes only.
What is served and written goes to the scan log.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edge_agent.clock import Clock
from edge_agent.units import Unit
from simulators.modbus_server import ScanLog
from simulators.signals import SECOND
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.server.server import Server
    from asyncua.server.user_managers import UserManager

NAMESPACE = "urn:demo:plant"
APPLICATION = "urn:demo:plant:server"
LOOK = 0.5  # plant seconds between two looks for what has changed
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = 1000  # the finest step of a time in asyncua


@dataclass(frozen=True)
class Security:
    """Basic256Sha256 with signing and encryption, and one user; without it the server is open.

    folder  where the server's certificate and key are made
    """

    folder: Path
    user: str
    password: str


@dataclass(frozen=True)
class _Node:
    """One served signal."""

    device: str
    name: str  # the identifier: Packer1.State
    tag: TagRow
    source: Source
    factor: float
    numeric: str  # name of the ua.VariantType

    def value(self, raw: float) -> float | int:
        """Return a source's value in the node's unit and type."""
        value = raw * self.factor
        return value if self.numeric == "Double" else round(value)


def _node(device: str, tag: TagRow, source: Source) -> _Node:
    factor = Unit.parse(source.unit(tag.name)).factor_to(Unit.parse(tag.unit))
    numeric = {"gauge": "Double", "counter": "UInt32", "state": "Int32"}[tag.kind]
    if tag.kind == "counter" and tag.type.startswith("f"):
        numeric = "Double"
    return _Node(device, tag.at.partition("s=")[2].split(";")[0], tag, source, factor, numeric)


class OpcUaServer:
    """One OPC UA server with the tags of one or more devices."""

    def __init__(
        self,
        devices: list[tuple[DeviceTable, Source]],
        clock: Clock,
        log: ScanLog | None = None,
        security: Security | None = None,
    ) -> None:
        self._clock, self._log, self._security = clock, log or ScanLog(None), security
        nodes = [_node(d.id, tag, source) for d, source in devices for tag in d.tags]
        self._polled = [node for node in nodes if node.tag.mode == "poll"]
        self._pushed = [node for node in nodes if node.tag.mode != "poll"]
        self._server: Server | None = None
        self._writer: asyncio.Task[None] | None = None
        self.reads = 0

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; return the port."""
        from asyncua.server.server import Server

        logging.getLogger("asyncua").setLevel(logging.WARNING)
        logging.getLogger("asyncua.server.server").setLevel(
            logging.ERROR
        )  # "No policy" of an open one
        users = None if self._security is None else _users(self._security)
        self._server = server = Server(user_manager=users)
        await server.init()
        await server.set_application_uri(APPLICATION)
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
        await self._secure(server)
        await self._populate(server)
        await server.start()
        self._writer = asyncio.create_task(self._follow(), name="opcua writer")
        listening = getattr(server.bserver, "_server", None)  # the only way to the port taken
        return int(getattr(listening, "sockets")[0].getsockname()[1])  # noqa: B009 – untyped there

    async def _secure(self, server: "Server") -> None:
        from asyncua import ua

        if self._security is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            return
        from asyncua.crypto.cert_gen import setup_self_signed_certificate
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key, certificate = self._security.folder / "key.pem", self._security.folder / "cert.der"
        usage = [ExtendedKeyUsageOID.SERVER_AUTH]
        names = {"commonName": "demo plant"}
        await setup_self_signed_certificate(
            key, certificate, APPLICATION, "127.0.0.1", usage, names
        )
        await server.load_certificate(str(certificate))
        await server.load_private_key(str(key))
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        server.set_identity_tokens([ua.UserNameIdentityToken])

    async def _populate(self, server: "Server") -> None:
        from asyncua import ua

        space = await server.register_namespace(NAMESPACE)
        folders = {}
        for node in [*self._polled, *self._pushed]:
            owner, _, leaf = node.name.rpartition(".")
            owner = owner or "Plant"
            if owner not in folders:
                folders[owner] = await server.nodes.objects.add_object(
                    _node_id(owner, space), ua.QualifiedName(owner, space)
                )
            variable = await folders[owner].add_variable(
                _node_id(node.name, space),
                ua.QualifiedName(leaf, space),
                ua.Variant(node.value(0.0), ua.VariantType[node.numeric]),
            )
            if node.tag.mode == "poll":
                server.set_attribute_value_callback(variable.nodeid, self._answer(node))
            else:
                await self._write(node, variable.nodeid, *self._standing(node))

    def _now(self) -> int:
        return self._clock.wall_ns() // _MICROSECOND * _MICROSECOND

    def _standing(self, node: _Node) -> tuple[int, float]:
        """Return when a value last changed, within the last hour, and what it is since."""
        now = self._now()
        for span in (60, 600, 3600):
            with suppress(ValueError):  # counts begin with the plant
                if changes := node.source.changes(node.tag.name, now - span * SECOND, now):
                    return changes[-1]
        return now, node.source.value(node.tag.name, now)

    def _answer(self, node: _Node) -> "Callable[[ua.NodeId, object], ua.DataValue]":
        def answer(_node_id: "ua.NodeId", _attribute: object) -> "ua.DataValue":
            now = self._now()
            value = node.value(node.source.value(node.tag.name, now))
            self.reads += 1
            self._note(node, now, value)
            return _data_value(node, value, now, now)

        return answer

    def _note(self, node: _Node, source_ns: int, value: float) -> None:
        line = {"t": self._now(), "node": node.name, "value": value, "source_ns": source_ns}
        self._log.write(node.device, line)

    async def _write(self, node: _Node, node_id: "ua.NodeId", t: int, raw: float) -> None:
        if self._server is None:
            return
        source_ns, value = t // _MICROSECOND * _MICROSECOND, node.value(raw)
        self._note(node, source_ns, value)
        written = _data_value(node, value, source_ns, max(self._now(), source_ns))
        await self._server.write_attribute_value(node_id, written)

    async def _follow(self) -> None:
        """Write every change, oldest first, twice a plant second and at changes of state."""
        if self._server is None or not self._pushed:
            return
        space = await self._server.get_namespace_index(NAMESPACE)
        ids = {node.name: _node_id(node.name, space) for node in self._pushed}
        done = self._now()
        with self._clock.participant():
            while True:
                await self._clock.sleep(self._until_next(done))
                now = self._now()
                found = [
                    (t, value, node)
                    for node in self._pushed
                    for t, value in node.source.changes(node.tag.name, done, now)
                ]
                for t, value, node in sorted(found, key=lambda change: change[0]):
                    await self._write(node, ids[node.name], t, value)
                done = now

    def _until_next(self, now: int) -> float:
        """Return the plant seconds until the next look."""
        ahead = now + round(LOOK * SECOND)
        changes = [
            t
            for node in self._pushed
            if node.tag.kind == "state"
            for t, _ in node.source.changes(node.tag.name, now, ahead)
        ]
        behind = (self._clock.wall_ns() - now) / SECOND
        return max(0.0, (min([ahead, *changes]) - now) / SECOND - behind)

    async def close(self) -> None:
        """Stop; any number of times."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        if self._server is not None:
            await self._server.stop()
            self._server = None
        writer, self._writer = self._writer, None
        if writer is not None and not writer.cancelled():
            writer.result()  # it has failed: say so


def _time(ns: int) -> "ua.DateTime":
    return cast("ua.DateTime", _EPOCH + timedelta(microseconds=ns // _MICROSECOND))


def _node_id(name: str, space: int) -> "ua.NodeId":
    from asyncua import ua

    return ua.NodeId.from_string(f"ns={space};s={name}")


def _data_value(node: _Node, value: float, source_ns: int, server_ns: int) -> "ua.DataValue":
    from asyncua import ua

    return ua.DataValue(
        ua.Variant(value, ua.VariantType[node.numeric]),
        SourceTimestamp=_time(source_ns),
        ServerTimestamp=_time(server_ns),
    )


def _users(security: Security) -> "UserManager":
    """Return asyncua's user manager with the one user who may log in."""
    from asyncua.crypto.permission_rules import User, UserRole
    from asyncua.server.user_managers import UserManager

    class OneUser(UserManager):
        def get_user(
            self,
            iserver: object,  # noqa: ARG002 – asyncua's signature
            username: str | None = None,
            password: str | bytes | None = None,
            certificate: object = None,  # noqa: ARG002
        ) -> User | None:
            given = password.decode() if isinstance(password, bytes) else password
            known = (username, given) == (security.user, security.password)
            return User(role=UserRole.User) if known else None

    return OneUser()
