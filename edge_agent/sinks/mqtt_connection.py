"""One connection to an MQTT 5 broker with proof of delivery for each message.

Proof of delivery is the reason code of each PUBACK. ``aiomqtt.Client.publish`` drops it, so that a
message which the broker refuses looks delivered, and does not tell the packet's id. So messages go
through the paho client that aiomqtt drives, whose ``on_publish`` has both. paho keeps what is not
acknowledged and would send it again on a later connection, beside the outbox which does the same;
therefore a connection is used once and thrown away with what it holds.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from edge_agent.errors import Disconnected

if TYPE_CHECKING:
    import aiomqtt
    from paho.mqtt.client import Client as PahoClient
    from paho.mqtt.client import ConnectFlags, DisconnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

IN_FLIGHT = 64  # more than a few hundred make paho slower, fewer wait for the round trip
LARGEST = 268_435_455  # bytes of a packet, MQTT 5.0, 2.1.4
FAREWELL = 2.0  # seconds that saying good-bye may take; after that the will says it
TEMPORARY = {0x97}  # quota exceeded: the broker takes the same message later


class Connection:
    """One connection to the broker and the messages that it has not acknowledged yet."""

    def __init__(self, client: "aiomqtt.Client", timeout: float) -> None:
        self._client = client
        # aiomqtt offers neither the reason codes nor the CONNACK's limits (see above)
        self._paho = client._client  # noqa: SLF001
        self._timeout = timeout
        self._waiting: set[int] = set()
        self._refused: dict[int, str] = {}
        self._window = IN_FLIGHT
        self._left = 0  # how many may be unacknowledged when _progress is told
        self._loop = asyncio.get_running_loop()
        self._progress = self._loop.create_future()
        self._broken = False
        self._exhausted = ""
        self._greet = cast("Callable[..., None]", self._paho.on_connect)
        self._paho.on_connect = self._on_connect
        self._part = cast("Callable[..., None]", self._paho.on_disconnect)
        self._paho.on_disconnect = self._on_disconnect
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
        self._window = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
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
        self._part(paho, userdata, flags, code, properties)
        self._loop.call_soon_threadsafe(self._give_up, str(code))

    def _give_up(self, code: str) -> None:
        import aiomqtt

        greeted = self._client._connected  # noqa: SLF001 - as above
        if not greeted.done():
            greeted.set_exception(aiomqtt.MqttError(f"it closed the connection ({code})"))

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
        if self._left == 0:
            self._quick()
        if len(self._waiting) <= self._left and not self._progress.done():
            self._progress.set_result(None)

    def _quick(self) -> None:
        """Acknowledge at once what TCP has brought, as no message that follows will do it.

        A broker with Nagle's algorithm (mosquitto by default) holds back the PUBACKs behind the
        first until it is acknowledged, which the kernel puts off for 40 ms.
        """
        link = cast("socket.socket | None", self._paho.socket())
        if link is not None:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

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

    async def publish(self, topic: str, message: bytes, *, retain: bool = False) -> int:
        """Send a message behind those before it and return its packet id; see ``settle``."""
        if len(self._waiting) >= self._window:
            # one by one: each message that follows carries the TCP acknowledgement for which a
            # broker with Nagle's algorithm (mosquitto by default) holds back further PUBACKs
            await self._acknowledged(self._window - 1)
        info = self._paho.publish(topic, message, qos=1, retain=retain)
        if info.rc:
            self._broken = True
            raise Disconnected(f"the connection to the broker is lost: {self._loss()}")
        self._waiting.add(info.mid)
        return info.mid

    async def settle(self) -> dict[int, str]:
        """Return the packet ids refused, with reasons, when everything sent is answered for.

        errors  ``Disconnected`` when the link is lost, when nothing is acknowledged for the
                time-out or when the broker can take no more for now
        """
        await self._acknowledged(0)
        if self._exhausted:
            raise Disconnected(self._exhausted)
        return self.refusals()

    def refusals(self) -> dict[int, str]:
        """Return the packet ids refused since the last call, with what the broker said."""
        refused, self._refused = self._refused, {}
        return refused

    async def _acknowledged(self, left: int) -> None:
        """Return when at most so many messages are not acknowledged."""
        lost = self._client._disconnected  # noqa: SLF001 - aiomqtt shows it to readers only
        while (before := len(self._waiting)) > left:
            self._left, self._progress = left, self._loop.create_future()
            await asyncio.wait(
                {self._progress, lost}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if lost.done() and len(self._waiting) > left:
                self._broken = True
                raise Disconnected(f"the connection to the broker is lost: {self._loss()}")
            if len(self._waiting) == before:
                self._broken = True
                raise Disconnected(f"the broker acknowledged nothing for {self._timeout:g} s")

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
                    await self.publish(topic, message, retain=True)
                    await self.settle()
                    await self._client.__aexit__(None, None, None)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Close the socket, also one that a thread is still opening."""
        self._paho.on_socket_open = lambda paho, _userdata, _socket: paho._sock_close()  # noqa: SLF001
        self._paho._sock_close()  # noqa: SLF001 - disconnect() would wait for a loop to do it
        self._loss()  # asyncio reports a loss that nobody has asked for
