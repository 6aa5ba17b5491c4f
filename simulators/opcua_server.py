"""Serve the plant's control systems over OPC UA.

The namespace is ``urn:demo:plant``, the nodes ``Kiln1.*`` and ``Packer1.*``.

A polled node is computed when it is read. A node that is subscribed to is written when it changes,
with the exact plant time of the change as its SourceTimestamp: asyncua notifies on writes only.
What is served and written goes to the scan log; every value that is read is counted.

Of a script's trouble, exception, busy and hole (``at`` a node id) are bad status codes of nodes,
frozen stops values and the server's clock, and what befalls the link is the gate's.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from edge_agent.clock import Clock
from edge_agent.units import Unit
from simulators.ailing import AilingSource
from simulators.faults import Script, Trouble
from simulators.modbus_server import ScanLog
from simulators.opcua_gate import KINDS, Gate
from simulators.opcua_security import APPLICATION, Security
from simulators.signals import SECOND
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow
from simulators.truth import Outcome, Tally, Truth

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.server.server import Server

NAMESPACE = "urn:demo:plant"
LOOK = 0.5  # plant seconds between two looks for what has changed
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = 1000  # the finest step of a time in asyncua
CURRENT_TIME = 2258  # node id of the server's clock, OPC 10000-6, annex A
_STATUS = {
    "exception": "BadDeviceFailure",
    "busy": "BadResourceUnavailable",
    "hole": "BadNodeIdUnknown",
}
_TURNS = frozenset({*_STATUS, "frozen"})


@dataclass(frozen=True)
class _Node:
    """One served signal."""

    device: str
    name: str  # the identifier: Packer1.State
    tag: TagRow
    source: Source
    factor: float
    numeric: str  # name of the ua.VariantType

    def value(self, raw: float) -> float | int | str:
        """Return a source's value in the node's unit and type."""
        value = raw * self.factor
        if self.numeric == "String":
            return f"{self.name.rpartition('.')[2]} {round(value)}"
        return value if self.numeric == "Double" else round(value)


def _node(device: str, tag: TagRow, source: Source) -> _Node:
    factor = Unit.parse(source.unit(tag.name)).factor_to(Unit.parse(tag.unit))
    kinds = {"gauge": "Double", "counter": "UInt32", "state": "Int32", "text": "String"}
    numeric = kinds["text" if tag.type == "text" else tag.kind]
    if tag.kind == "counter" and tag.type.startswith("f"):
        numeric = "Double"
    return _Node(device, tag.at.partition("s=")[2].split(";")[0], tag, source, factor, numeric)


def _modulus(tag: TagRow) -> int | None:
    """Return at which count a node's counter begins again."""
    whole = tag.kind == "counter" and not tag.type.startswith("f")
    return tag.modulus or (1 << 32) if whole else None


class OpcUaServer:
    """One OPC UA server with the tags of one or more devices.

    start    ns: from when the script's times count
    counted  where the values that are read are counted, by device
    """

    def __init__(
        self,
        devices: list[tuple[DeviceTable, Source]],
        clock: Clock,
        log: ScanLog | None = None,
        security: Security | None = None,
        *,
        script: Script | None = None,
        start: int = 0,
        counted: Truth | None = None,
    ) -> None:
        self._clock, self._log, self._security = clock, log or ScanLog(None), security
        self._script, self._start = script or Script(), start
        counted = counted or Truth()
        self._tallies = {d.id: counted.tally(d.id) for d, _source in devices}
        ids = [d.id for d, _source in devices]
        broken = any(t.device in ids and t.kind in KINDS for t in self._script.troubles)
        self._gate = Gate(ids, self._script, clock, start) if broken else None
        self._shown: dict[str, str | None] = {}  # pushed node -> bad status, "" frozen, None well
        nodes = [
            _node(d.id, tag, AilingSource(source, d, self._script, start, _modulus))
            for d, source in devices
            for tag in d.tags
        ]
        self._polled = [node for node in nodes if node.tag.mode == "poll"]
        self._pushed = [node for node in nodes if node.tag.mode != "poll"]
        self._server: Server | None = None
        self._writer: asyncio.Task[None] | None = None

    @property
    def reads(self) -> int:
        """How many values it has answered with."""
        return sum(tally.answered for tally in self._tallies.values())

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1; return the port."""
        from asyncua import ua
        from asyncua.server.server import Server

        logging.getLogger("asyncua").setLevel(logging.WARNING)
        logging.getLogger("asyncua.server.server").setLevel(
            logging.ERROR
        )  # "No policy" of an open one
        users = None if self._security is None else self._security.users()
        self._server = server = Server(user_manager=users)
        await server.init()
        await server.set_application_uri(APPLICATION)
        server.set_endpoint(f"opc.tcp://127.0.0.1:{0 if self._gate else port}/")
        if self._security is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        else:
            await self._security.apply(server)
        await self._populate(server)
        await server.start()
        self._writer = asyncio.create_task(self._follow(), name="opcua writer")
        listening = getattr(server.bserver, "_server", None)  # the only way to the port taken
        own = int(getattr(listening, "sockets")[0].getsockname()[1])  # noqa: B009 – untyped there
        return own if self._gate is None else await self._gate.open(own, port)

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
        await self._own_clock(server, space)

    async def _own_clock(self, server: "Server", space: int) -> None:
        """Let the server's clock be the plant's, which a script may stop.

        The library writes it each second, which would take the callback away: it may write another.
        """
        from asyncua import ua

        unused = await server.nodes.objects.add_variable(
            _node_id("Unused", space), ua.QualifiedName("Unused", space), _time(self._now())
        )
        server.iserver.current_time_node = unused

        def now(_node_id: "ua.NodeId", _attribute: object) -> "ua.DataValue":
            spells = [self._frozen_since(device) for device in self._tallies]
            at = min((spell for spell in spells if spell is not None), default=self._now())
            return ua.DataValue(ua.Variant(_time(at), ua.VariantType.DateTime))

        clock = ua.NodeId(ua.Int32(CURRENT_TIME))
        server.set_attribute_value_callback(clock, now)

    # ---- trouble

    def _troubles(self, device: str, t: int) -> list[Trouble]:
        return self._script.now(device, (t - self._start) / SECOND)

    def _frozen_since(self, device: str) -> int | None:
        """Return since when, ns, a device has been frozen."""
        now = self._now()
        for trouble in self._troubles(device, now):
            spell = trouble.window((now - self._start) / SECOND)
            if trouble.kind == "frozen" and spell is not None:
                at = self._start + round(spell[0] * SECOND)
                return at // _MICROSECOND * _MICROSECOND
        return None

    def _refusal(self, node: _Node, t: int) -> str | None:
        """Return the bad status that a node has."""
        for trouble in self._troubles(node.device, t):
            hit = trouble.kind != "hole" or trouble.at == node.tag.at
            if trouble.kind in _STATUS and hit:
                return _STATUS[trouble.kind]
        return None

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
        tally: Tally = self._tallies[node.device]

        def answer(_node_id: "ua.NodeId", _attribute: object) -> "ua.DataValue":
            now = self._now()
            refusal = self._refusal(node, now)
            tally.count(now, Outcome.REFUSED if refusal else Outcome.ANSWERED)
            if refusal:
                return _refused(refusal, now)
            frozen = self._frozen_since(node.device)
            instant = now if frozen is None else frozen
            value = node.value(node.source.value(node.tag.name, instant))
            self._note(node, instant, value)
            return _data_value(node, value, instant, instant)

        return answer

    def _note(self, node: _Node, source_ns: int, value: float | str) -> None:
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
                for node in self._pushed:
                    await self._turn(node, ids[node.name], now)
                found = [
                    (t, value, node)
                    for node in self._pushed
                    if self._shown.get(node.name) is None
                    for t, value in node.source.changes(node.tag.name, done, now)
                ]
                for t, value, node in sorted(found, key=lambda change: change[0]):
                    await self._write(node, ids[node.name], t, value)
                done = now

    async def _turn(self, node: _Node, node_id: "ua.NodeId", now: int) -> None:
        """Write what a pushed node shows when its trouble begins or ends."""
        frozen = self._frozen_since(node.device) is not None
        shown = "" if frozen else self._refusal(node, now)
        if shown == self._shown.get(node.name) or self._server is None:
            return
        self._shown[node.name] = shown
        if shown:
            await self._server.write_attribute_value(node_id, _refused(shown, now))
        elif shown is None:
            await self._write(node, node_id, now, node.source.value(node.tag.name, now))

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
        seconds = (now - self._start) / SECOND
        turn = self._script.next_change(self._tallies, seconds, _TURNS) - seconds
        return max(0.0, min((min([ahead, *changes]) - now) / SECOND, turn) - behind)

    async def close(self) -> None:
        """Stop; any number of times."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])
        if self._gate is not None:
            await self._gate.close()
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


def _refused(status: str, now: int) -> "ua.DataValue":
    from asyncua import ua
    from asyncua.ua.status_codes import StatusCodes

    code = ua.StatusCode(ua.UInt32(getattr(StatusCodes, status)))
    return ua.DataValue(None, code, SourceTimestamp=_time(now), ServerTimestamp=_time(now))


def _data_value(node: _Node, value: float | str, source_ns: int, server_ns: int) -> "ua.DataValue":
    from asyncua import ua

    return ua.DataValue(
        ua.Variant(value, ua.VariantType[node.numeric]),
        SourceTimestamp=_time(source_ns),
        ServerTimestamp=_time(server_ns),
    )
