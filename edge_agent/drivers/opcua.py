"""OPC UA: one server is one link; tags are polled (a Read per group) or pushed (a subscription).

A tag's ``at`` is a node id as a person writes it: ``nsu=urn:demo:plant;s=Packer1.State``,
``ns=2;s=…``, ``i=2258``, ``g=…``, ``b=…``. A namespace URI is looked up in the server's namespace
array at each connect, because its number may change with a restart of the server (OPC 10000-6,
5.3.1.10).

A server's silence is the link's: a request that is not answered in time ends the connection.
"""

import asyncio
import base64
import binascii
import logging
import re
import socket
import struct
import uuid
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

import numpy as np

from edge_agent.clock import Clock
from edge_agent.drivers.base import DeviceConfig, Driver, Group, apply_flag, groups_of
from edge_agent.drivers.opcua_rows import SubscriptionRows
from edge_agent.drivers.opcua_security import Security
from edge_agent.drivers.opcua_subscription import FASTEST, Subscription
from edge_agent.drivers.opcua_values import Scaling, reading
from edge_agent.errors import Disconnected
from edge_agent.model import Quality, SampleBlock
from edge_agent.units import Duration

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.client.client import Client

log = logging.getLogger(__name__)

TCP_CONNECT = 0.8  # s, real: a host on the plant's network accepts sooner, or is away
CLOSE = 2.0  # s, real: how long a farewell may take
SESSION_MS = 60_000  # a session that we could not close is forgotten soon; a PLC has few of them
MOST = 500  # nodes per request where the server does not say
NAMESPACES, MAX_NODES_PER_READ, MAX_ITEMS_PER_CALL = 2255, 11705, 11714  # ids, OPC 10000-6, annex A

UNTRUSTED = "the server does not trust the agent's certificate (accept it there)"
_REFUSED_USER = "the server refuses the user or the password"
_WORDS = {
    "BadUserAccessDenied": _REFUSED_USER,
    "BadIdentityTokenInvalid": _REFUSED_USER,
    "BadIdentityTokenRejected": _REFUSED_USER,
    "BadSecurityChecksFailed": UNTRUSTED,
    "BadCertificateUntrusted": UNTRUSTED,
    "BadCertificateInvalid": UNTRUSTED,
    "BadSecurityPolicyRejected": "the server does not offer this security policy",
    "BadTooManySessions": "the server has no session left",
    "BadTooManySubscriptions": "the server has no subscription left",
}

_NODE = re.compile(
    r"(?:nsu=(?P<uri>[^;]+);|ns=(?P<index>\d+);)?(?P<type>[isgb])=(?P<id>.+)", re.DOTALL
)


@dataclass(frozen=True)
class NodeAddress:
    """A node id, its namespace by URI or by number; ``identifier`` as the server knows it."""

    uri: str | None
    index: int
    identifier: int | str | bytes | uuid.UUID

    @classmethod
    def parse(cls, text: str) -> "NodeAddress":
        """Return the address that a person wrote; ``ValueError`` says what would be right.

        source  OPC 10000-6, 5.3.1.10: ``;`` and ``%`` in a URI are written %3B and %25
        """
        match = _NODE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f'"{text}" is no node id (write nsu=urn:demo:plant;s=Packer1.State or ns=2;i=1001)'
            )
        uri, kind, written = match["uri"], match["type"], match["id"]
        identifier: int | str | bytes | uuid.UUID = written
        try:
            if kind == "i":
                identifier = int(written)
            elif kind == "g":
                identifier = uuid.UUID(written)
            elif kind == "b":
                identifier = base64.b64decode(written, validate=True)
        except (ValueError, binascii.Error) as e:
            right = {"i": "a whole number", "g": "a GUID", "b": "base64"}[kind]
            raise ValueError(f'"{text}": after {kind}= stands {right}') from e
        if isinstance(identifier, int) and not 0 <= identifier < 1 << 32:
            raise ValueError(f'"{text}": a numeric node id is 0 to 4294967295')
        return cls(unquote(uri) if uri else None, int(match["index"] or 0), identifier)

    def node(self, namespaces: Sequence[str]) -> "ua.NodeId | None":
        """Return the node id as this server numbers it; None if it has no such namespace."""
        from asyncua import ua

        index = self.index
        if self.uri is not None:
            if self.uri not in namespaces:
                return None
            index = namespaces.index(self.uri)
        # the library's annotation knows only its own subclasses of int and str; it takes plain ones
        return ua.NodeId(self.identifier, index)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class OpcUaDevice(DeviceConfig):
    """An OPC UA server, or the part of one that is one machine.

    publish          how often the server may push; state changes in between keep their own time
    clock_tolerance  how far the server's clock may be from the agent's
    """

    schemes: ClassVar[tuple[str, ...]] = ("opc.tcp",)

    timeout: Duration = Duration(4.0)
    security: Security | None = None
    publish: Duration = Duration(0.5)
    clock_tolerance: Duration = Duration(5.0)

    @property
    def endpoint(self) -> str:
        """``connect`` with the port that OPC UA has when none is written."""
        url = self.url
        return url._replace(netloc=url.netloc if url.port else f"{url.netloc}:4840").geturl()

    @property
    def link(self) -> Hashable:
        return (self.endpoint, self.security)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> Driver:
        return OpcUaDriver({k: d for k, d in devices.items() if isinstance(d, cls)}, clock)

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        try:
            if not self.url.hostname or self.url.port == 0:
                found.append((("connect",), "write opc.tcp://host:4840"))
        except ValueError as e:
            found.append((("connect",), f"{e} (write opc.tcp://host:4840)"))
        if "@" in self.url.netloc:
            found.append(
                (("connect",), "write user and password under security, not in the address")
            )
        for name, tag in self.tags.items():
            try:
                NodeAddress.parse(tag.at)
            except ValueError as e:
                found.append((("tags", name, "at"), str(e)))
        if self.security is not None:
            found += [(("security", key), message) for key, message in self.security.faults()]
        return found


@dataclass(frozen=True)
class _Limits:
    """How much the server takes in one request (OPC 10000-5, 6.3.11); 0 there: it does not say."""

    read: int = MOST
    items: int = MOST

    @classmethod
    def announced(cls, read: object, items: object) -> "_Limits":
        """Return the limits that the server has announced, if they are numbers."""
        said = [min(MOST, n) if isinstance(n, int) and n > 0 else MOST for n in (read, items)]
        return cls(*said)


class OpcUaDriver:
    """All devices behind one endpoint."""

    def __init__(self, devices: Mapping[str, OpcUaDevice], clock: Clock) -> None:
        self._clock = clock
        self._groups = {
            group: (device, names)
            for name, device in devices.items()
            for group, names in groups_of(name, device).items()
        }
        self._scalings = {g: Scaling.of(d, g.schema, n) for g, (d, n) in self._groups.items()}
        first = next(iter(devices.values()))
        self._endpoint, self._security = first.endpoint, first.security
        if first.security is not None and first.security.in_clear:
            log.warning("%s: without a policy the password may be read on the line", self._endpoint)
        self._timeout = float(max(device.timeout for device in devices.values()))
        self._client: Client | None = None
        self._nodes: dict[Group, list[ua.NodeId | None]] = {}
        self._pushed: dict[Group, Subscription] = {}
        self._floor = 0
        self._limits = _Limits()

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._groups)

    async def connect(self) -> None:
        """Open the link and begin the subscriptions. Raises ``Disconnected``."""
        await self.close()
        with self._failures():
            client = self._new_client()
            self._client = client
            if self._security is not None:
                await self._security.apply(client)
            await client.connect()
            await self._look_up(client)
            for group in self._groups:
                if group.period is None:
                    self._pushed[group] = self._subscription(client, group)
                    await self._pushed[group].begin()

    def _new_client(self) -> "Client":
        """Return a client that neither reconnects nor logs: both are the supervisor's."""
        from asyncua.client.client import Client

        class Impatient(Client):
            """A client that does not wait for a host that is away as long as for a slow answer."""

            async def connect_socket(self) -> None:
                try:
                    async with asyncio.timeout(TCP_CONNECT):
                        await super().connect_socket()
                except TimeoutError as e:
                    raise ConnectionError("the host does not accept connections in time") from e

        logging.getLogger("asyncua").setLevel(logging.WARNING)
        # what goes wrong in the client reaches us as an exception and is logged once, in words
        logging.getLogger("asyncua.client").setLevel(logging.CRITICAL + 1)
        client = Impatient(self._endpoint, self._timeout, max(1.0, self._timeout))
        client.name = client.description = "edge-agent"
        client.application_uri = f"urn:{socket.gethostname()}:edge-agent"
        client.session_timeout = max(SESSION_MS, round(4000 * self._timeout))
        return client

    async def read(self, group: Group) -> SampleBlock:
        """Return the rows of the next response: to a Read request, or of the subscription.

        errors  ``Disconnected`` when the server does not answer in time or the session is lost
        """
        if self._client is None:
            raise Disconnected(f"{self._endpoint}: not connected")
        with self._failures():
            if group.period is None:
                return await self._pushed[group].next_rows()
            return await self._poll(self._client, group)

    async def close(self) -> None:
        """Close the link; any number of times, also before ``connect``."""
        client, self._client = self._client, None
        self._floor = max((self._floor, *(p.rows.last for p in self._pushed.values())))
        self._pushed.clear()
        if client is None:
            return
        try:
            async with asyncio.timeout(CLOSE):
                await client.disconnect()
        except TimeoutError:
            log.debug("%s: did not answer the farewell", self._endpoint)
        finally:
            client.disconnect_socket()
            for _ in range(5):  # the library cancels its tasks but does not wait for them
                await asyncio.sleep(0)

    # ---- polling

    async def _poll(self, client: "Client", group: Group) -> SampleBlock:
        config, names = self._groups[group]
        k = len(names)
        raw, quality = np.full(k, np.nan), np.full(k, Quality.BAD_SHORT, np.uint8)
        known = [i for i, node in enumerate(self._nodes[group]) if node is not None]
        quality[[i for i in range(k) if i not in set(known)]] = Quality.BAD_ADDRESS
        before = self._clock.wall_ns()
        for start in range(0, len(known), self._limits.read):
            columns = known[start : start + self._limits.read]
            nodes = [self._nodes[group][i] for i in columns]
            values = await self._read_values(client, nodes)
            for column, value in zip(columns, values, strict=False):
                raw[column], quality[column] = reading(value)
        time = before + (self._clock.wall_ns() - before) // 2
        scaled, marked = self._scalings[group].apply(np.arange(k), raw, quality)
        rows, marks = scaled.reshape(k, 1), marked.reshape(k, 1)
        apply_flag(config, group.schema, rows, marks)
        return SampleBlock(group.schema, np.array([time], np.int64), rows, marks)

    @staticmethod
    async def _read_values(
        client: "Client", nodes: "Sequence[ua.NodeId | None]"
    ) -> "list[ua.DataValue]":
        from asyncua import ua
        from asyncua.ua.attribute_ids import AttributeIds

        asked = ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Neither)
        asked.NodesToRead = [
            ua.ReadValueId(NodeId=node, AttributeId=AttributeIds.Value) for node in nodes
        ]
        return list(await client.uaclient.session.read(asked))

    async def _look_up(self, client: "Client") -> None:
        """Learn the namespaces and limits of the server, and what its nodes are called there."""
        from asyncua import ua

        asked = [
            ua.NodeId(ua.Int32(i)) for i in (NAMESPACES, MAX_NODES_PER_READ, MAX_ITEMS_PER_CALL)
        ]
        answers = await self._read_values(client, asked)
        found = [None if a.Value is None else a.Value.Value for a in answers]
        uris = [str(uri) for uri in found[0] or ()]
        self._limits = _Limits.announced(found[1], found[2])
        self._nodes = {}
        for group, (device, names) in self._groups.items():
            addresses = [NodeAddress.parse(device.tags[name].at) for name in names]
            self._nodes[group] = [address.node(uris) for address in addresses]
            for uri in {a.uri for a in addresses if a.uri is not None} - set(uris):
                log.warning("%s: the server has no namespace %s", group.schema.owner, uri)

    def _subscription(self, client: "Client", group: Group) -> Subscription:
        """Return the subscription of a pushed group, its times in real seconds."""
        config, names = self._groups[group]
        speed, keep_alive = self._clock.speed, group.schema.period / self._clock.speed
        rows = SubscriptionRows(
            config,
            group.schema,
            names,
            self._clock,
            tolerance=round(config.clock_tolerance.ns * speed),
            keep_alive=group.schema.period,
            floor=max(self._floor, self._clock.wall_ns()),
        )
        return Subscription(
            group,
            client.uaclient.session,
            rows,
            self._nodes[group],
            publish=max(FASTEST, min(config.publish / speed, keep_alive)),
            keep_alive=keep_alive,
            items_per_call=self._limits.items,
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the library raises when the link is of no use into ``Disconnected``."""
        from asyncua.ua.uaerrors import UaError

        try:
            yield
        except Disconnected as e:
            raise Disconnected(f"{self._endpoint}: {e}") from e
        # an assertion is how the library reports a secure channel that the server has closed, a
        # ValueError or struct.error is an answer that cannot be decoded
        except (OSError, UaError, AssertionError, ValueError, struct.error) as e:
            raise Disconnected(f"{self._endpoint}: {self._reason(e)}") from e

    def _reason(self, error: Exception) -> str:
        """Return in plain words why the link is of no use."""
        from asyncua import ua
        from asyncua.ua.uaerrors import UaStatusCodeError

        secured = self._security is not None and self._security.policy != "None"
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        if isinstance(error, UaStatusCodeError):
            name = str(ua.StatusCode(error.code).name)
            return f"{_WORDS.get(name, 'the server refuses')} ({name})"
        if isinstance(error, AssertionError) and secured:
            return UNTRUSTED
        if "No matching endpoints" in str(error) and self._security is not None:
            policy, mode = self._security.policy, self._security.mode
            return f"the server offers no endpoint with policy {policy} and mode {mode}"
        return str(error) or type(error).__name__
