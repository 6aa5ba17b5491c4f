"""One connection to an MQTT broker that tells what becomes of each message.

Proof of delivery is the reason code of each PUBACK. ``aiomqtt.Client.publish`` drops it, so that a
message which the broker refuses looks delivered, and does not tell the packet's id. So messages go
through the paho client that aiomqtt drives, whose ``on_publish`` has both. paho keeps what is not
acknowledged and would send it again on a later connection, beside the outbox which does the same;
therefore a connection is used once and thrown away with what it holds.

MQTT 3.1.1 has no reason codes: there a PUBACK says only that the broker has the message.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from edge_agent.errors import Disconnected
from edge_agent.sinks.mqtt_answers import (
    BLAMELESS,
    OLD,
    RETAIN_NOT_SUPPORTED,
    parted,
    refused_connect,
    stranger,
    tls_hint,
)
from edge_agent.sinks.mqtt_paho import quicken
from edge_agent.units import Secret

if TYPE_CHECKING:
    from paho.mqtt.client import Client as PahoClient
    from paho.mqtt.client import ConnectFlags, DisconnectFlags
    from paho.mqtt.enums import MQTTErrorCode
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

Version = Literal[5, "3.1.1"]

IN_FLIGHT = 64  # more than a few hundred make paho slower, fewer wait for the round trip
LARGEST = 268_435_455  # bytes of a packet, MQTT 5.0, 2.1.4
FAREWELL = 2.0  # seconds that saying good-bye may take; after that the will says it
HEARD = 64  # first bytes of the broker that are kept
UNSPECIFIED = 0x80  # how paho reports that a socket was closed or failed
MALFORMED = 0x82  # and that what came is no packet that it knows
CLOSED = {"104]", "32]"}  # of an errno: reset by peer, broken pipe


@dataclass(frozen=True, kw_only=True)
class Login:
    """Whom to connect to, and as who.

    state  the topic that the will is told on; None: there is no will
    """

    host: str
    port: int
    version: Version
    identity: str
    user: str | None
    password: Secret | None
    state: str | None
    retain: bool
    keepalive: float
    timeout: float
    tls: ssl.SSLContext | None


@dataclass(slots=True)
class Message:
    """What is published.

    item  which item of a write it belongs to, None: it is the sink's own and retained
    rows  which rows of the item stand in it
    """

    topic: str
    text: bytes
    item: int | None = None
    rows: range = range(0)


Answered = Callable[[Message, int, str], None]  # message, reason code, its name


class _Overheard(logging.Handler):
    """Keeps the last error that the library reports nowhere else."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage().removeprefix("failed to receive on socket: ")


class Connection:
    """One connection to the broker and the messages that it has not answered yet.

    largest  bytes of the largest packet that the broker takes
    retain   whether it keeps retained messages
    gone     whether it has come to its end
    """

    def __init__(self, login: Login) -> None:
        import aiomqtt

        self._login = login
        self._library = _Overheard()
        logger = logging.Logger("mqtt library", logging.ERROR)  # noqa: LOG001 - one for itself
        logger.addHandler(self._library)
        old = login.version == "3.1.1"
        secret = None if login.password is None else login.password.reveal()
        will = None
        if login.state is not None:
            will = aiomqtt.Will(login.state, b"offline", qos=1, retain=login.retain)
        self._client = aiomqtt.Client(
            login.host,
            login.port,
            username=login.user,
            password=secret,
            logger=logger,
            identifier=login.identity,
            protocol=aiomqtt.ProtocolVersion.V311 if old else aiomqtt.ProtocolVersion.V5,
            clean_session=True if old else None,
            clean_start=3 if old else True,  # 3: the default, others are for MQTT 5 only
            will=will,
            keepalive=round(login.keepalive),
            timeout=login.timeout,
            tls_context=login.tls,
            max_inflight_messages=IN_FLIGHT,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        # aiomqtt offers neither the reason codes nor the CONNACK's limits (see above)
        self._paho = self._client._client  # noqa: SLF001
        self._waiting: dict[int, tuple[Message, Answered | None]] = {}
        self._window = IN_FLIGHT
        self._left = 0  # how many may be unanswered when _progress is told
        self._loop = asyncio.get_running_loop()
        self._progress = self._loop.create_future()
        self._broken = False
        self._heard = b""
        self._parted: tuple[int, str] | None = None
        self._closed = False  # by the other end, without a word
        self.gone = False  # aiomqtt forgets a loss between CONNACK and the end of ``__aenter__``
        self._retrieved(self._client._disconnected)  # noqa: SLF001 - as above
        self._unfit = ""
        self._opened = self._loop.time()
        self._hook()
        self.largest = LARGEST
        self.retain = login.retain

    def _hook(self) -> None:
        paho = self._paho
        self._greet = cast("Callable[..., None]", paho.on_connect)
        self._part = cast("Callable[..., None]", paho.on_disconnect)
        self._receive = paho._sock_recv  # noqa: SLF001 - as above
        paho.on_connect = self._on_connect
        paho.on_disconnect = self._on_disconnect
        paho.on_publish = self._on_publish
        quicken(paho)
        paho._sock_recv = self._overhear  # type: ignore[method-assign]  # noqa: SLF001
        paho.connect_timeout = self._login.timeout

    def _overhear(self, bufsize: int) -> bytes:
        """Keep the first bytes that come back: they tell what is no broker, or one of old."""
        received = self._receive(bufsize)
        if len(self._heard) < HEARD:
            self._heard += received[: HEARD - len(self._heard)]
        return received

    def _on_connect(
        self,
        paho: "PahoClient",
        userdata: object,
        flags: "ConnectFlags",
        code: "ReasonCode",
        properties: "Properties | None",
    ) -> None:
        """Keep to what the broker says it can take; paho does not."""
        paho._sock_recv = self._receive  # type: ignore[method-assign]  # noqa: SLF001
        self.largest = getattr(properties, "MaximumPacketSize", LARGEST)
        self._window = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        refused = code.value == RETAIN_NOT_SUPPORTED
        self.retain = not refused and bool(getattr(properties, "RetainAvailable", 1))
        if getattr(properties, "MaximumQoS", 1) < 1:
            self._unfit = refused_connect(0x9B, "maximum QoS 0", identity="", state="")
        self._greet(paho, userdata, flags, code, properties)

    def _on_disconnect(
        self,
        paho: "PahoClient",
        userdata: object,
        flags: "DisconnectFlags",
        code: "ReasonCode",
        properties: "Properties | None",
    ) -> None:
        """Give up a greeting that will not come; aiomqtt would wait for it until the time-out."""
        if flags.is_disconnect_packet_from_server:
            self._parted = code.value, str(code)
        elif code.value in {UNSPECIFIED, MALFORMED}:  # not: no PINGRESP in time
            self._closed = not self._library.said or bool(CLOSED & set(self._library.said.split()))
        self.gone = True
        self._part(paho, userdata, flags, code, properties)
        self._loop.call_soon_threadsafe(self._give_up)

    def _give_up(self) -> None:
        import aiomqtt

        greeted = self._client._connected  # noqa: SLF001 - as above
        if not greeted.done():
            greeted.set_exception(aiomqtt.MqttError("it closed the connection without a greeting"))

    def _on_publish(
        self,
        _paho: "PahoClient",
        _userdata: object,
        mid: int,
        code: "ReasonCode",
        _properties: "Properties | None",
    ) -> None:
        message, answered = self._waiting.pop(mid, (None, None))
        if message is not None and answered is not None:
            answered(message, code.value, "" if code.value == 0 else str(code))
        if len(self._waiting) <= self._left and not self._progress.done():
            self._progress.set_result(None)

    async def open(self) -> None:
        """Return when the broker has greeted; ``Disconnected`` says why it has not."""
        import aiomqtt

        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as e:
            await self._abandon()
            raise Disconnected(self._why_not(e)) from e
        except BaseException:
            await self._abandon()
            raise
        if self._unfit or self.gone:
            await self._abandon()
            raise Disconnected(self._unfit) if self._unfit else self._loss()
        self._retrieved(self._client._disconnected)  # noqa: SLF001 - it may be another one now

    @staticmethod
    def _retrieved(lost: "asyncio.Future[None]") -> None:
        """Let asyncio not report a loss that nobody asks for."""
        lost.add_done_callback(lambda f: f.cancelled() or f.exception())

    def _why_not(self, error: Exception) -> str:
        """Return why there was no greeting, and what would be right."""
        login = self._login
        code = getattr(error, "rc", None)
        if strange := stranger(self._heard, login.version):
            return strange
        if code is not None and not isinstance(code, int):
            who = {"identity": login.identity, "state": login.state or ""}
            return refused_connect(code.value, str(code), **who)
        said = self._library.said or str(error)
        if said == "Operation timed out":
            begun = "began to answer and fell silent" if self._heard else "said nothing"
            return (
                f"somebody took the connection but {begun} for {login.timeout:g} s: is it an MQTT "
                "broker, and the right port?" + (OLD if login.version == 5 else "")
            )
        hint = tls_hint(said)
        if not hint and "reset" in said:
            hint = (
                " (this port is without TLS: write mqtt://?)"
                if login.tls
                else (" (this port wants TLS: write mqtts://?)")
            )
        return f"the broker cannot be reached: {said}{hint}"

    async def publish(
        self, message: Message, answered: Answered | None = None, *, retain: bool = False
    ) -> None:
        """Send a message behind those before it; what the broker answers is handed on."""
        if len(self._waiting) >= self._window:
            await self.answered(self._window // 2)  # to wait costs as much as a message
        info = self._paho.publish(message.topic, message.text, qos=1, retain=retain and self.retain)
        if info.rc:
            self._broken = True
            raise self._loss()
        self._waiting[info.mid] = message, answered

    async def answered(self, left: int = 0) -> None:
        """Return when at most so many messages are not answered.

        errors  ``Disconnected`` when the link is lost, or nothing is answered for the time-out
        """
        lost = self._client._disconnected  # noqa: SLF001 - aiomqtt shows it to readers only
        while (before := len(self._waiting)) > left:
            self._left, self._progress = left, self._loop.create_future()
            await asyncio.wait(
                {self._progress, lost},
                timeout=self._login.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if lost.done() and len(self._waiting) > left:
                self._broken = True
                raise self._loss()
            if len(self._waiting) == before:
                self._broken = True
                raise Disconnected(f"the broker answered nothing for {self._login.timeout:g} s")

    async def alive(self) -> bool:
        """Return whether the broker answers a ping, within the time-out."""
        answered = self._loop.create_future()
        known = self._paho._handle_pingresp  # noqa: SLF001 - paho tells nobody of it

        def pong() -> "MQTTErrorCode":
            if not answered.done():
                answered.set_result(None)
            return known()

        self._paho._handle_pingresp = pong  # type: ignore[method-assign]  # noqa: SLF001
        self._paho._send_pingreq()  # noqa: SLF001
        await asyncio.wait({answered}, timeout=self._login.timeout)
        return answered.done()

    async def rest(self, seconds: float) -> None:
        """Return when the connection has lived for a while; ``Disconnected`` if it has not."""
        lost = self._client._disconnected  # noqa: SLF001 - as above
        await asyncio.wait({lost}, timeout=seconds)
        if lost.done():
            self._broken = True
            raise self._loss()

    @property
    def waiting(self) -> list[Message]:
        """The messages that are not answered."""
        return [message for message, _ in self._waiting.values()]

    @property
    def parted(self) -> int | None:
        """The reason for which the broker has ended the connection, if it has told one."""
        return None if self._parted is None else self._parted[0]

    @property
    def ended(self) -> bool:
        """Whether the other end has closed the connection, for no reason of its own."""
        return self._closed if self.parted is None else self.parted not in BLAMELESS

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return self._loop.time() - self._opened

    def _loss(self) -> Disconnected:
        """Return why the connection is of no use any more."""
        if self._parted is not None:
            return parted(*self._parted, identity=self._login.identity)
        if self._library.said:
            hint = tls_hint(self._library.said)
            return Disconnected(f"the connection to the broker is lost: {self._library.said}{hint}")
        return Disconnected("the broker closed the connection and did not say why")

    async def close(self, last: Message | None) -> None:
        """Publish a last message if the link still works, and end it; within ``FAREWELL``."""
        import aiomqtt

        try:
            # what cannot be said in time the will says
            with suppress(Disconnected, TimeoutError, aiomqtt.MqttError):
                async with asyncio.timeout(0 if self._broken else FAREWELL):
                    if last is not None:
                        await self.publish(last, retain=True)
                    await self.answered()
                    await self._client.__aexit__(None, None, None)
        finally:
            await self._abandon()

    async def _abandon(self) -> None:
        """Close the socket, also one that a thread is still opening.

        Not at once: aiomqtt has the loop listen to a socket by its number in one of the next steps,
        and the number of a closed one is another's.
        """
        self._paho.on_socket_open = lambda paho, _userdata, _socket: paho._sock_close()  # noqa: SLF001
        # disconnect() would wait for a loop to do it
        self._loop.call_soon(self._paho._sock_close)  # noqa: SLF001
        await asyncio.sleep(0)
