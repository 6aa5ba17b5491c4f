"""Blocks to an MQTT 5 broker: one message per block, each acknowledged by the broker.

Topics and payloads are those of the contract: ``edge/<site>/<owner>/<name>`` holds the columns of a
block, ``edge/<site>/<owner>/$meta`` (retained) what the columns are, and
``edge/<site>/$state/<gateway>`` (retained, and the will) whether this gateway is on line.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

import numpy as np
import orjson

from edge_agent.errors import Disconnected, Refusal, Rejected
from edge_agent.model import F64, Gap, Quality, Schema, Signals, Site
from edge_agent.sinks.base import Item, SinkConfig, address_problem
from edge_agent.sinks.lines import filled, frame, numbers
from edge_agent.sinks.mqtt_connection import IN_FLIGHT, Connection
from edge_agent.units import Duration, Secret

log = logging.getLogger(__name__)
library_log = logging.getLogger(f"{__name__}.library")
library_log.setLevel(logging.CRITICAL)  # what it reports as an error is raised as well

PORTS = {"mqtt": 1883, "mqtts": 8883}
OVERHEAD = 16  # bytes of a PUBLISH packet beside topic and payload, at most
SUSPICIOUS = 2  # writes lost in a row, after which messages are sent one by one
SLICE = 256 * 1024  # bytes queued before other tasks have their turn


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
        return self.address.port or PORTS[self.address.scheme]

    @property
    def secure(self) -> bool:
        """Whether the link is encrypted and the broker's certificate checked."""
        return self.address.scheme == "mqtts"

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if problem := address_problem(self.url, "a broker", PORTS, "keys user and password"):
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


def payload(item: Item, *, backlog: bool = False) -> bytes:
    """Return the message of a block or of a gap, as in the contract.

    Numbers are the shortest text that gives the same float64 back; NaN is null; texts are texts.
    ``q`` has the tags of which a row is anything but ``GOOD``; ``s``, of derived rows, is the id of
    the schema, which ``$meta`` and the history say the provenance of; ``h`` is 1 in what comes
    behind live rows.
    """
    if isinstance(item, Gap):
        gap = {
            "from": item.first_ns // 1_000_000,
            "to": item.last_ns // 1_000_000,
            "rows": item.rows,
            "reason": item.reason,
        }
        return orjson.dumps({"gap": gap} | ({"h": 1} if backlog else {}))
    signals = item.schema.signals
    marks = {}
    if item.quality.any():
        marked = np.flatnonzero((item.quality != Quality.GOOD).any(axis=1)).tolist()
        marks = {signals[i].name: item.quality[i].tolist() for i in marked}
    columns = _columns(item.value)
    for name in item.texts:
        column = item.schema.index[name]
        said = [item.text(column, row) for row in range(len(item))]
        columns[column] = orjson.dumps(said)[1:-1].decode()
    times = orjson.dumps(item.time // 1_000_000, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    values = filled(_frame(signals), columns)
    source = f',"s":"{item.schema.id}"' if item.schema.provenance else ""
    source += ',"h":1' if backlog else ""
    return f'{{"t":{times},"v":{{{values}}},"q":{orjson.dumps(marks).decode()}{source}}}'.encode()


def _columns(value: F64) -> list[str]:
    """Return the numbers of each signal as JSON, without the brackets; all written by one call."""
    if value.shape[1] == 1:
        return numbers(value[:, 0])
    plain = np.ascontiguousarray(value)  # orjson reads plain rows
    text = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return text[2:-2].split("],[") if len(plain) else []


@lru_cache(maxsize=4096)
def _frame(signals: Signals) -> list[str]:
    """Return the values of a block with a place for the numbers of each signal; see ``filled``."""
    names = [orjson.dumps(tag.name).decode() for tag in signals]
    return frame([f"{name}:[" for name in names], "],", "]")


def birth(schemas: Sequence[Schema]) -> bytes:
    """Return what the columns of an owner's streams are."""
    streams = {
        schema.name: {
            "schema": schema.id,
            "family": schema.family.value,
            "period": schema.period,
            "tags": {t.name: {"unit": t.unit.code, "kind": t.kind.value} for t in schema.tags},
        }
        | ({"provenance": schema.provenance} if schema.provenance else {})
        for schema in schemas
    }
    return orjson.dumps({"streams": streams})


class MqttSink:
    """The sink of ``MqttConfig``."""

    def __init__(self, config: MqttConfig, site: Site) -> None:
        self._config = config
        self._prefix = f"edge/{site.id}/"
        self._identity = f"{site.id}-{site.gateway}"
        self._state = f"{self._prefix}$state/{site.gateway}"
        self._connection: Connection | None = None
        self._schemas: dict[str, dict[str, Schema]] = {}  # owner -> stream's name -> newest
        self._born: set[str] = set()  # ids of the schemas told on this connection
        self._refused: dict[bytes, str] = {}  # digests of what was refused before the link broke
        self._losses = 0  # writes in a row that ended with the connection

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
            logger=library_log,
            identifier=self._identity,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            will=aiomqtt.Will(self._state, b"offline", qos=1, retain=True),
            keepalive=round(config.keepalive),
            timeout=config.timeout,
            tls_context=context,
            max_inflight_messages=IN_FLIGHT,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        connection = Connection(client, config.timeout)
        await connection.open()
        self._connection = connection
        self._born.clear()
        await connection.publish(self._state, b"online", retain=True)
        for reason in (await connection.settle()).values():
            log.warning("%s: %s", self._state, reason)

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:
        connection = self._connection
        if connection is None:
            raise Disconnected("there is no connection to the broker")
        batch = _Batch(connection, self._refused)
        queued = 0
        try:
            for index, item in enumerate(items):
                await self._bear(batch, item.schema)
                message = payload(item, backlog=backlog)
                await batch.publish(index, self._prefix + item.schema.stream, message)
                if self._losses >= SUSPICIOUS:
                    await batch.settle()
                queued += len(message)
                if queued > SLICE:
                    queued = 0
                    await asyncio.sleep(0)
            refused = await batch.settle()
        except Disconnected:
            # A broker may end the connection with a refusal (mosquitto 2.0.11 does so when
            # max_queued_messages is 0). To get past it, messages go one by one after some losses,
            # so that the refusal is heard, and what was refused is not sent again.
            self._losses += 1
            batch.learn()
            raise
        self._losses = 0
        self._refused.clear()
        if refused:
            rows = [0 if isinstance(item, Gap) else len(item) for item in items]
            raise Rejected([Refusal(i, range(rows[i]), why) for i, why in refused.items()])

    async def _bear(self, batch: "_Batch", schema: Schema) -> None:
        """Tell what the columns of a stream are, once on each connection and schema."""
        if schema.id in self._born:
            return
        self._born.add(schema.id)
        streams = self._schemas.setdefault(schema.owner, {})
        streams[schema.name] = schema
        topic = f"{self._prefix}{schema.owner}/$meta"
        await batch.publish(None, topic, birth(list(streams.values())))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(self._state, b"offline")


class _Batch:
    """The messages of one write and what becomes of them."""

    def __init__(self, connection: Connection, known: dict[bytes, str]) -> None:
        self._connection = connection
        self._known = known
        self._sent: dict[int, tuple[int | None, str, bytes]] = {}  # by packet id
        self._refused: dict[int, str] = {}  # by index of the item

    async def publish(self, index: int | None, topic: str, message: bytes) -> None:
        """Send an item's message, or a birth, which is retained and no item's."""
        reason = self._known.get(_digest(topic, message)) if self._known else None
        size = len(message) + len(topic.encode()) + OVERHEAD
        if size > self._connection.largest:
            reason = f"{size} bytes; the broker takes at most {self._connection.largest}"
        if reason is None:
            packet = await self._connection.publish(topic, message, retain=index is None)
            self._sent[packet] = (index, topic, message)
        else:
            self._refuse(index, reason)

    async def settle(self) -> dict[int, str]:
        """Return the items refused, with reasons, when all are answered for."""
        self._learn(await self._connection.settle())
        return self._refused

    def learn(self) -> None:
        """Note what was refused before the connection was lost."""
        self._learn(self._connection.refusals())

    def _learn(self, refusals: dict[int, str]) -> None:
        for packet, reason in refusals.items():
            index, topic, message = self._sent[packet]
            if index is None:
                log.warning("%s: %s", topic, reason)
            self._refuse(index, reason)
            self._known[_digest(topic, message)] = reason

    def _refuse(self, index: int | None, reason: str) -> None:
        if index is not None:
            self._refused[index] = reason


def _digest(topic: str, message: bytes) -> bytes:
    return blake2b(topic.encode() + b"\0" + message, digest_size=16).digest()
