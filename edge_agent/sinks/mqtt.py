"""Blocks to an MQTT 5 broker: one message per block, each acknowledged by the broker.

Topics and payloads are those of the contract: ``edge/<site>/<owner>/<name>`` holds the columns of a
block, ``edge/<site>/<owner>/$meta`` (retained) what the columns are, and
``edge/<site>/$state/<gateway>`` (retained, and the will) whether this gateway is on line.

Proof of delivery is the reason code of each PUBACK. ``aiomqtt.Client.publish`` drops it, so that a
message which the broker refuses looks delivered, and does not tell the packet's id. So messages go
through the paho client that aiomqtt drives, whose ``on_publish`` has both. paho keeps what is not
acknowledged and would send it again on a later connection, beside the outbox which does the same;
therefore every ``connect`` makes a new client and a lost one is thrown away with what it holds.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast
from urllib.parse import SplitResult, urlsplit

import numpy as np
import orjson

from edge_agent.errors import Disconnected, Rejected
from edge_agent.model import Gap, Quality, Schema, Site
from edge_agent.sinks.base import Item, SinkConfig
from edge_agent.units import Duration, Secret

if TYPE_CHECKING:
    import aiomqtt
    from paho.mqtt.client import Client as PahoClient
    from paho.mqtt.client import ConnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

IN_FLIGHT = 64  # more than a few hundred make paho slower, fewer wait for the round trip
LARGEST = 268_435_455  # bytes of a packet, MQTT 5.0, 2.1.4
OVERHEAD = 16  # bytes of a PUBLISH packet beside topic and payload, at most
FAREWELL = 2.0  # seconds that saying good-bye may take; after that the will says it
SLICE = 256 * 1024  # bytes queued before other tasks have their turn
TEMPORARY = {0x97}  # quota exceeded: the broker takes the same message later


@dataclass(frozen=True, kw_only=True)
class MqttConfig(SinkConfig):
    """A broker that speaks MQTT 5.

    url                       ``mqtt://host:1883``, or ``mqtts://host:8883`` with TLS
    ca                        PEM file of the authority that the broker's certificate is checked
                              with; without, those of the operating system
    certificate, private_key  PEM files by which this gateway shows who it is
    timeout                   how long a message may be without acknowledgement
    """

    kind: ClassVar[str] = "mqtt"

    url: str
    user: str | None = None
    password: Secret | None = None
    ca: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    keepalive: Duration = Duration(30.0)
    timeout: Duration = Duration(10.0)

    @property
    def address(self) -> SplitResult:
        """``url`` taken apart."""
        return urlsplit(self.url)

    @property
    def port(self) -> int:
        """The broker's port; the registered ones where the URL has none."""
        return self.address.port or (8883 if self.secure else 1883)

    @property
    def secure(self) -> bool:
        """Whether the link is encrypted and the broker's certificate checked."""
        return self.address.scheme == "mqtts"

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if problem := _problem(self.url):
            found.append((("url",), problem))
        elif not self.secure:
            found += [
                ((name,), f"{name} needs an encrypted link (write mqtts:// in url)")
                for name in ("ca", "certificate", "private_key")
                if getattr(self, name) is not None
            ]
        if (self.certificate is None) != (self.private_key is None):
            found.append((("certificate",), "certificate and private_key are given together"))
        if self.password is not None and self.user is None:
            found.append((("password",), "a password needs a user"))
        if not 1 <= self.keepalive <= 65535:
            found.append((("keepalive",), "keepalive is between 1s and 65535s"))
        if self.timeout <= 0:
            found.append((("timeout",), "timeout is longer than 0 (write 10s)"))
        return found

    def build(self, site: Site) -> "MqttSink":
        return MqttSink(self, site)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how the link is encrypted; ``Disconnected`` if a file cannot be used."""
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.private_key)
        except OSError as e:
            files = ", ".join(f for f in (self.ca, self.certificate, self.private_key) if f)
            raise Disconnected(f"a certificate or key cannot be read ({files}): {e}") from e
        return context


def _problem(url: str) -> str | None:
    """Return what is wrong with the address of a broker, or None."""
    right = "write mqtt://host:1883 or mqtts://host:8883"
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError as e:
        return f"{e} ({right})"
    if address.scheme not in {"mqtt", "mqtts"} or not address.hostname or port == 0:
        return f"{url!r} is not the address of a broker ({right})"
    if "@" in address.netloc:
        return "a user and a password do not stand in url (write the keys user and password)"
    if address.path not in {"", "/"} or address.query or address.fragment:
        return f"{url!r} holds more than the address of a broker ({right})"
    return None


def payload(item: Item) -> bytes:
    """Return the message of a block or of a gap, as in the contract.

    Numbers are the shortest text that gives the same float64 back; NaN is null. ``q`` has the tags
    of which a row is anything but ``GOOD``.
    """
    if isinstance(item, Gap):
        gap = {
            "from": item.first_ns // 1_000_000,
            "to": item.last_ns // 1_000_000,
            "rows": item.rows,
            "reason": item.reason,
        }
        return orjson.dumps({"gap": gap})
    names = [tag.name for tag in item.schema.tags]
    value = np.ascontiguousarray(item.value)  # orjson reads plain rows only
    quality = np.ascontiguousarray(item.quality)
    marked = np.flatnonzero((quality != Quality.GOOD).any(axis=1))
    columns = {
        "t": item.time // 1_000_000,
        "v": dict(zip(names, value, strict=True)),
        "q": {names[i]: quality[i] for i in marked},
    }
    return orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY)


def birth(schemas: Sequence[Schema]) -> bytes:
    """Return what the columns of an owner's streams are."""
    streams = {
        schema.name: {
            "schema": schema.id,
            "family": schema.family.value,
            "period": schema.period,
            "tags": {t.name: {"unit": t.unit.code, "kind": t.kind.value} for t in schema.tags},
        }
        for schema in schemas
    }
    return orjson.dumps({"streams": streams})


class _Connection:
    """One connection to the broker and the messages that it has not acknowledged yet."""

    def __init__(self, client: "aiomqtt.Client", timeout: float) -> None:
        self._client = client
        # aiomqtt offers neither the reason codes nor the CONNACK's limits (see the module's text)
        self._paho = client._client  # noqa: SLF001
        self._timeout = timeout
        self._waiting: set[int] = set()
        self._refused: dict[int, str] = {}
        self._settled = asyncio.get_running_loop().create_future()
        self._broken = False
        self._exhausted = ""
        self._greet = cast("Callable[..., None]", self._paho.on_connect)
        self._paho.on_connect = self._on_connect
        self._paho.on_publish = self._on_publish
        self._paho.connect_timeout = timeout
        self.largest = LARGEST

    def _on_connect(
        self,
        paho: "PahoClient",
        userdata: object,
        flags: "ConnectFlags",
        code: "ReasonCode",
        properties: "Properties | None",
    ) -> None:
        """Keep to what the broker says it can take; paho does not."""
        self.largest = getattr(properties, "MaximumPacketSize", LARGEST)
        paho.max_inflight_messages_set(
            min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        )
        self._greet(paho, userdata, flags, code, properties)

    def _on_publish(
        self,
        _paho: "PahoClient",
        _userdata: object,
        mid: int,
        code: "ReasonCode",
        _properties: "Properties | None",
    ) -> None:
        if code.is_failure:
            reason = f"the broker answered: {code} ({code.value})"
            if code.value in TEMPORARY:
                self._exhausted = reason
            self._refused[mid] = reason
        self._waiting.discard(mid)
        if not self._waiting and not self._settled.done():
            self._settled.set_result(None)

    async def open(self) -> None:
        """Return when the broker has greeted; ``Disconnected`` says why it has not."""
        import aiomqtt

        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as e:
            self._abandon()
            raise Disconnected(f"the broker cannot be reached: {e}") from e
        except BaseException:
            self._abandon()
            raise

    def publish(self, topic: str, message: bytes, *, retain: bool = False) -> int:
        """Queue a message behind those before it and return its packet id."""
        info = self._paho.publish(topic, message, qos=1, retain=retain)
        if info.rc:
            self._broken = True
            raise Disconnected(f"the connection to the broker is lost: {self._loss()}")
        self._waiting.add(info.mid)
        return info.mid

    async def settle(self) -> dict[int, str]:
        """Return the packet ids refused, with reasons, when everything queued is answered for.

        errors  ``Disconnected`` when the link is lost, when nothing is acknowledged for the
                time-out or when the broker can take no more for now
        """
        lost = self._client._disconnected  # noqa: SLF001 - aiomqtt shows it to readers only
        while self._waiting:
            before = len(self._waiting)
            self._settled = asyncio.get_running_loop().create_future()
            await asyncio.wait(
                {self._settled, lost}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if self._waiting and lost.done():
                self._broken = True
                raise Disconnected(f"the connection to the broker is lost: {self._loss()}")
            if len(self._waiting) == before:
                self._broken = True
                raise Disconnected(f"the broker acknowledged nothing for {self._timeout:g} s")
        if self._exhausted:
            raise Disconnected(self._exhausted)
        refused, self._refused = self._refused, {}
        return refused

    def _loss(self) -> str:
        lost = self._client._disconnected  # noqa: SLF001 - as above
        return str(lost.exception()) if lost.done() else "the broker has closed it"

    async def close(self, topic: str, message: bytes) -> None:
        """Publish a last message if the link still works, and end it; within ``FAREWELL``."""
        import aiomqtt

        try:
            # what cannot be said in time the will says
            with suppress(Disconnected, TimeoutError, aiomqtt.MqttError):
                async with asyncio.timeout(0 if self._broken else FAREWELL):
                    self.publish(topic, message, retain=True)
                    await self.settle()
                    await self._client.__aexit__(None, None, None)
        finally:
            self._loss()  # asyncio reports a loss that nobody has asked for
            self._abandon()

    def _abandon(self) -> None:
        """Close the socket, also one that a thread is still opening."""
        self._paho.on_socket_open = lambda paho, _userdata, _socket: paho._sock_close()  # noqa: SLF001
        self._paho._sock_close()  # noqa: SLF001 - disconnect() would wait for a loop to do it


class MqttSink:
    """The sink of ``MqttConfig``."""

    def __init__(self, config: MqttConfig, site: Site) -> None:
        self._config = config
        self._prefix = f"edge/{site.id}/"
        self._identity = f"{site.id}-{site.gateway}"
        self._state = f"{self._prefix}$state/{site.gateway}"
        self._connection: _Connection | None = None
        self._schemas: dict[str, dict[str, Schema]] = {}  # owner -> stream's name -> newest
        self._born: set[str] = set()  # ids of the schemas told on this connection

    async def connect(self) -> None:
        import aiomqtt

        await self.close()
        config = self._config
        context = await asyncio.to_thread(config.tls_context)
        client = aiomqtt.Client(
            config.address.hostname or "",
            config.port,
            username=config.user,
            password=None if config.password is None else config.password.reveal(),
            identifier=self._identity,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            will=aiomqtt.Will(self._state, b"offline", qos=1, retain=True),
            keepalive=round(config.keepalive),
            timeout=config.timeout,
            tls_context=context,
        )
        connection = _Connection(client, config.timeout)
        await connection.open()
        self._connection = connection
        self._born.clear()
        connection.publish(self._state, b"online", retain=True)
        for reason in (await connection.settle()).values():
            log.warning("%s: %s", self._state, reason)

    async def write(self, items: Sequence[Item]) -> None:
        connection = self._connection
        if connection is None:
            raise Disconnected("there is no connection to the broker")
        refused: dict[int, str] = {}
        sent: dict[int, int] = {}  # packet id -> index
        births: dict[int, str] = {}  # packet id -> topic
        queued = 0
        for index, item in enumerate(items):
            births.update(self._bear(connection, item.schema))
            topic, message = self._prefix + item.schema.stream, payload(item)
            size = len(message) + len(topic.encode()) + OVERHEAD
            if size > connection.largest:
                refused[index] = f"{size} bytes; the broker takes at most {connection.largest}"
                continue
            sent[connection.publish(topic, message)] = index
            queued += size
            if queued > SLICE:
                queued = 0
                await asyncio.sleep(0)
        for packet, reason in (await connection.settle()).items():
            if packet in sent:
                refused[sent[packet]] = reason
            else:
                log.warning("%s: %s", births.get(packet, self._state), reason)
        if refused:
            raise Rejected(refused)

    def _bear(self, connection: _Connection, schema: Schema) -> dict[int, str]:
        """Tell what the columns of a stream are, once on each connection and schema."""
        if schema.id in self._born:
            return {}
        self._born.add(schema.id)
        streams = self._schemas.setdefault(schema.owner, {})
        streams[schema.name] = schema
        topic = f"{self._prefix}{schema.owner}/$meta"
        return {connection.publish(topic, birth(list(streams.values())), retain=True): topic}

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(self._state, b"offline")
