"""What breaks between an OPC UA client and its server: a relay in front of the server.

The link's own trouble (restart, half-open) is the listener's. Silence holds back both directions
until it is over, delay holds back the answers, reset cuts the connection at the next request, and
short, corrupt and garbage spoil the bytes of the answers.
"""

import asyncio
from collections.abc import Collection
from random import Random

from edge_agent.clock import SECOND, Clock
from simulators.conduct import Line, flipped
from simulators.faults import LINK_KINDS, Script
from simulators.links import Listener

KINDS = LINK_KINDS | {"silence", "delay", "reset", "short", "corrupt", "garbage"}


class Gate:
    """A port before the server's own.

    devices  whose trouble befalls the port
    start    ns: from when the script's times count
    """

    def __init__(self, devices: Collection[str], script: Script, clock: Clock, start: int) -> None:
        self._devices, self._script = devices, script
        self._clock, self._start = clock, start
        self._listener = Listener(self._feed, devices, script, clock, start, gone=self._left)
        self._relays: dict[Line, _Relay] = {}
        self._random = Random(",".join(devices))
        self._behind = 0

    async def open(self, behind: int, port: int = 0) -> int:
        """Listen on 127.0.0.1 before another port; return the port."""
        self._behind = behind
        return await self._listener.start(port=port)

    async def close(self) -> None:
        """Let every client go; any number of times."""
        await self._listener.close()
        for relay in list(self._relays.values()):
            await relay.close()

    @property
    def _seconds(self) -> float:
        return (self._clock.wall_ns() - self._start) / SECOND

    def _befallen(self, kind: str) -> float | None:
        """Return the ``by`` of trouble of a kind that there is now."""
        seconds = self._seconds
        found = (t for device in self._devices for t in self._script.now(device, seconds))
        return next((t.by for t in found if t.kind == kind), None)

    def _feed(self, data: bytes, line: Line) -> bytes:
        if self._befallen("reset") is not None:
            line.cut()
            return b""
        if line not in self._relays:
            self._relays[line] = _Relay(self, line, self._behind)
        self._relays[line].requests.put_nowait(data)
        return b""

    def _left(self, line: Line) -> None:
        if line in self._relays:
            self._relays[line].end()

    def forget(self, line: Line) -> None:
        """Take note that a relay has ended."""
        self._relays.pop(line, None)

    async def silence(self) -> None:
        """Return when there is no silence."""
        with self._clock.participant():
            while self._befallen("silence") is not None:
                seconds = self._seconds
                until = self._script.next_change(self._devices, seconds, {"silence"})
                await self._clock.sleep(until - seconds)

    def answer(self, line: Line, data: bytes) -> None:
        """Hand on bytes of the server's."""
        if self._befallen("garbage") is not None:
            data = self._random.randbytes(self._random.randrange(1, 12))
        elif self._befallen("short") is not None:
            data = data[: len(data) // 2]
        elif self._befallen("corrupt") is not None:
            data = flipped(data, self._random)
        delay = self._befallen("delay")
        if delay is None:
            line.send(data)
        else:
            line.later(delay, data)


class _Relay:
    """One client and its connection to the server."""

    def __init__(self, gate: Gate, line: Line, port: int) -> None:
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._gate, self._line, self._port = gate, line, port
        self._task = asyncio.create_task(self._run(), name="opcua relay")

    def end(self) -> None:
        self._task.cancel()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.TaskGroup() as both:
                    there = both.create_task(self._there(writer), name="opcua requests")
                    await self._back(reader)
                    there.cancel()
            finally:
                writer.close()
        except* OSError:
            pass
        finally:
            self._line.cut()
            self._gate.forget(self._line)

    async def _there(self, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await self.requests.get()
            await self._gate.silence()
            writer.write(data)

    async def _back(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            await self._gate.silence()
            self._gate.answer(self._line, data)
