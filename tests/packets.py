"""A wire that understands MQTT: it changes or keeps back single packets before a real broker.

async with PacketWire(broker.port) as wire:
    wire.to_client = lambda packet: packet if packet[0] != PUBACK else b""
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.process import HOST

CONNECT, CONNACK, PUBLISH, PUBACK, DISCONNECT = 0x10, 0x20, 0x30, 0x40, 0xE0

Change = Callable[[bytes], bytes | None]  # a packet to what goes on; None: the connection is reset


def kind(packet: bytes) -> int:
    """Return which packet it is."""
    return packet[0] & 0xF0


def puback(packet: bytes, code: int) -> bytes:
    """Return a PUBACK of MQTT 5 with another reason code."""
    return bytes([PUBACK, 3]) + packet[2:4] + bytes([code])


class PacketWire:
    """Carries the packets between clients and a broker, through a function for each way."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.to_broker: Change = lambda packet: packet
        self.to_client: Change = lambda packet: packet
        self.port = 0

    @property
    def url(self) -> str:
        """The address as a sink's ``url``."""
        return f"mqtt://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for end in list(self._ends):
            end.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = {writer}
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
            ends.add(back)
            self._ends |= ends
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, back, "to_broker"))
                tasks.create_task(self._pump(there, writer, "to_client"))
        except* ConnectionResetError:
            for end in ends:
                end.transport.abort()
        except* (OSError, asyncio.IncompleteReadError):  # one side has ended it
            for end in ends:
                end.close()
        finally:
            self._ends -= ends
            self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, end: asyncio.StreamWriter, way: str
    ) -> None:
        while True:
            packet = await _packet(source)
            changed = getattr(self, way)(packet)
            if changed is None:
                raise ConnectionResetError
            end.write(changed)
            await end.drain()


async def _packet(source: asyncio.StreamReader) -> bytes:
    packet = await source.readexactly(1)
    length = shift = 0
    while True:
        byte = await source.readexactly(1)
        packet += byte
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if not byte[0] & 0x80:
            return packet + await source.readexactly(length)
