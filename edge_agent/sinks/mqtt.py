"""Blocks to an MQTT broker, each message acknowledged by it.

Topics and payloads are those of the contract: ``edge/<site>/<owner>/<name>`` holds the rows of a
stream, ``edge/<site>/<owner>/$meta`` (retained) what the columns are, and
``edge/<site>/$state/<gateway>`` (retained, and the will) whether this gateway is on line.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import SplitResult, urlsplit

from edge_agent.errors import Disconnected, Rejected
from edge_agent.model import Gap, Schema, Site
from edge_agent.sinks.base import Item, SinkConfig, address_problem
from edge_agent.sinks.mqtt_answers import BLIND, THROWN_OUT, perhaps_taken_over
from edge_agent.sinks.mqtt_batch import OVERHEAD, Batch, Ledger
from edge_agent.sinks.mqtt_connection import Connection, Login, Message, Version
from edge_agent.sinks.mqtt_payload import Payload, birth, gap, pieces
from edge_agent.sinks.mqtt_tls import tls_context
from edge_agent.sinks.mqtt_topics import (
    CLIENT_ID,
    TEMPLATE,
    Topics,
    client_id,
    client_id_problem,
    template_problem,
)
from edge_agent.units import Duration, Secret

log = logging.getLogger(__name__)

PORTS = {"mqtt": 1883, "mqtts": 8883}
SLICE = 64 * 1024  # bytes queued before other tasks have their turn
FIRST_PAUSE = 5.0  # seconds after so many, and twice as long each time
SUSPICIOUS = 3  # short connections in a row, closed without a word while nothing was under way


@dataclass(frozen=True, kw_only=True)
class MqttConfig(SinkConfig):
    """An MQTT broker.

    url                       ``mqtt://host:1883``, or ``mqtts://host:8883`` with TLS
    version                   5, or 3.1.1 for a broker that is older
    topic                     where the rows of a stream stand; ``{site}``, ``{gateway}``,
                              ``{owner}`` (the device or metric), ``{name}`` (``raw``, ``1h``)
    payload                   ``columns``: one message per block; ``rows``: one per row, flat
    births                    whether ``$meta`` and ``$state`` are published, retained
    client_id                 who the gateway is for the broker; ``{site}``, ``{gateway}``
    ca                        PEM file of the authority that the broker's certificate is checked
                              with; without, those of the operating system
    certificate, private_key  PEM files by which this gateway shows who it is
    timeout                   how long a message may be without acknowledgement
    """

    kind: ClassVar[str] = "mqtt"
    files: ClassVar[tuple[str, ...]] = ("ca", "certificate", "private_key")

    url: str
    version: Version = 5
    topic: str = TEMPLATE
    payload: Payload = "columns"
    births: bool = True
    client_id: str = CLIENT_ID
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
                for name in self.files
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
        if problem := template_problem(self.topic, self.streams):
            found.append((("topic",), problem))
        if problem := client_id_problem(self.client_id):
            found.append((("client_id",), problem))
        return found

    def remarks(self, streams: Mapping[Schema, float | None]) -> list[str]:  # noqa: ARG002
        if self.version == 5:
            return []
        return [BLIND]

    def session(self) -> str:
        if address_problem(self.url, "", PORTS, ""):
            return ""
        return f"{self.address.hostname}:{self.port} {self.client_id}"

    def build(self, site: Site) -> "MqttSink":
        return MqttSink(self, site)

    def login(self, site: Site, state: str, *, retain: bool) -> Login:
        """Return whom to connect to, and as who; ``Disconnected`` if a file cannot be used."""
        files = self.ca, self.certificate, self.private_key
        return Login(
            host=self.address.hostname or "",
            port=self.port,
            version=self.version,
            identity=client_id(self.client_id, site),
            user=self.user,
            password=self.password,
            state=state if self.births else None,
            retain=retain,
            keepalive=self.keepalive,
            timeout=self.timeout,
            tls=tls_context(*files) if self.secure else None,
        )


class MqttSink:
    """The sink of ``MqttConfig``."""

    def __init__(self, config: MqttConfig, site: Site) -> None:
        self._config = config
        self._site = site
        self._topics = Topics(config.topic, site)
        self._connection: Connection | None = None
        self._retain = True  # until a broker says that it keeps no retained messages
        self._schemas: dict[str, dict[str, Schema]] = {}  # owner -> stream's name -> newest
        self._born: set[str] = set()  # ids of the schemas told on this connection
        self._ledger = Ledger()
        self._thrown_out = 0  # connections in a row that were closed with nothing under way

    async def connect(self) -> None:
        await self.close()
        connection = await self._open()
        if self._retain and not connection.retain:
            self._retain = False
            log.warning("%s keeps no retained messages: $meta and $state reach those only who "
                        "listen when they are sent", self._config.address.hostname)  # fmt: skip
        self._connection = connection
        self._born.clear()
        if self._config.births:
            batch = Batch(connection, self._ledger)
            try:
                await batch.publish(Message(self._topics.state, b"online"))
                await batch.settle()
            except Disconnected:
                await batch.remember()
                raise
            batch.refusals()

    async def _open(self) -> Connection:
        """Return a connection, one without a retained will if the broker keeps none."""
        for retain in (self._retain, False):
            login = await asyncio.to_thread(
                self._config.login, self._site, self._topics.state, retain=retain
            )
            connection = Connection(login)
            try:
                await connection.open()
            except Disconnected:
                if connection.retain or not retain:
                    raise
            else:
                return connection
        raise Disconnected("the broker keeps no retained messages")

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:
        connection = self._connection
        if connection is None:
            raise Disconnected("there is no connection to the broker")
        batch = Batch(connection, self._ledger)
        queued = 0
        try:
            for index, item in enumerate(items):
                await self._bear(batch, item.schema)
                for message in self._messages(index, item, connection, backlog=backlog):
                    await batch.publish(message)
                    queued += len(message.text)
                    if queued > SLICE:
                        queued = 0
                        await asyncio.sleep(0)
            await batch.settle()
        except Disconnected as e:
            await batch.remember()
            raise self._held_back(e, connection) from e
        batch.complete()
        if refusals := batch.refusals():
            raise Rejected(refusals)

    def _messages(
        self, index: int, item: Item, connection: Connection, *, backlog: bool
    ) -> Iterator[Message]:
        topic, kind = self._topics.stream(item.schema), self._config.payload
        if isinstance(item, Gap):
            yield Message(topic, gap(item, kind, backlog=backlog), index)
            return
        largest = min(connection.largest - len(topic.encode()) - OVERHEAD, self._ledger.cut)
        for rows, text in pieces(item, kind, backlog=backlog, largest=largest):
            yield Message(topic, text, index, rows)

    async def _bear(self, batch: Batch, schema: Schema) -> None:
        """Tell what the columns of a stream are, once on each connection and schema."""
        if schema.id in self._born or not self._config.births:
            return
        self._born.add(schema.id)
        streams = self._schemas.setdefault(schema.owner, {})
        streams[schema.name] = schema
        text = birth(list(streams.values()))
        await batch.publish(Message(self._topics.meta(schema.owner), text))

    def _held_back(self, lost: Disconnected, connection: Connection) -> Disconnected:
        """Return the loss; with a pause, if it looks like another client under the same id.

        A broker of MQTT 3.1.1 (and mosquitto 2.0.11) closes that of the first without a word.
        """
        if connection.waiting or not connection.ended or connection.parted is not None:
            return lost
        self._thrown_out = self._thrown_out + 1 if connection.age < 2 * THROWN_OUT else 1
        if self._thrown_out < SUSPICIOUS:
            return lost
        identity = client_id(self._config.client_id, self._site)
        pause = min(THROWN_OUT, FIRST_PAUSE * 2.0 ** min(self._thrown_out - SUSPICIOUS, 16))
        return Disconnected(perhaps_taken_over(str(lost), identity), retry_after=pause)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            births = self._config.births
            await connection.close(Message(self._topics.state, b"offline") if births else None)
