"""The links under the simulated devices: TCP ports and serial lines, and how they break.

A protocol gives a ``Feed``: it is handed the bytes that have come and not been used yet, answers
the whole requests among them on the line, and returns the rest.
"""

import asyncio
import math
import socket
import struct
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from edge_agent.clock import SECOND, Clock
from simulators.conduct import Line
from simulators.faults import Script, Trouble

if TYPE_CHECKING:
    import serial  # type: ignore[import-untyped]  # pyserial has no types of its own

Feed = Callable[[bytes, Line], bytes]
PENDING = 4096  # bytes that make no request are forgotten beyond this


class _Later:
    """Answers that are to be sent later."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, line: Line, seconds: float, frame: bytes) -> None:
        task = asyncio.create_task(self._wait(line, seconds, frame), name="late answer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self, line: Line, seconds: float, frame: bytes) -> None:
        with self._clock.participant():
            await self._clock.sleep(seconds)
            line.send(frame)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Watch:
    """Tells a link when trouble of it begins or ends."""

    def __init__(self, devices: Collection[str], script: Script, clock: Clock, start: int) -> None:
        self._devices, self._script = devices, script
        self._clock, self._start = clock, start
        self._task: asyncio.Task[None] | None = None

    @property
    def _seconds(self) -> float:
        return (self._clock.wall_ns() - self._start) / SECOND

    def now(self, kind: str) -> Trouble | None:
        """Return the trouble of a kind that befalls the link now."""
        seconds = self._seconds
        found = (t for device in self._devices for t in self._script.now(device, seconds))
        return next((t for t in found if t.kind == kind), None)

    def start(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call back at once and at every begin and end."""
        if math.isfinite(self._script.next_change(self._devices, -1.0)):
            self._task = asyncio.create_task(self._follow(changed), name="trouble of a link")

    async def _follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        with self._clock.participant():
            await changed()
            while math.isfinite(at := self._script.next_change(self._devices, self._seconds)):
                await self._clock.sleep(at - self._seconds)
                await changed()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()  # it has failed: say so


class _Connection(asyncio.Protocol):
    """One client of a listener; a ``Line``.

    lost  it has been on the line when that became half open: it is muted for good
    """

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._pending = b""
        self._transport: asyncio.Transport | None = None
        self.muted = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 – of a stream server
        self._transport = transport
        self._listener.joined(self)

    def data_received(self, data: bytes) -> None:
        self._pending = self._listener.feed(self._pending + data, self)[-PENDING:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 – asyncio's
        self._transport = None
        self._listener.left(self)

    def send(self, frame: bytes) -> None:
        if self._transport is not None and not self.muted:
            self._transport.write(frame)

    def later(self, seconds: float, frame: bytes) -> None:
        self._listener.late.send(self, seconds, frame)

    def drop(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Reset the connection instead of closing it in order."""
        if self._transport is not None:
            line = self._transport.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()


class Listener:
    """A TCP port with any number of clients, which restarts and goes half open as scripted.

    devices      whose trouble is the port's
    connections  how many clients have come
    gone         is told of each that has left
    """

    def __init__(
        self,
        feed: Feed,
        devices: Collection[str],
        script: Script,
        clock: Clock,
        start: int,
        *,
        gone: Callable[[Line], None] | None = None,
    ) -> None:
        self.feed = feed
        self._tell = gone
        self.connections = 0
        self.late = _Later(clock)
        self._watch = _Watch(devices, script, clock, start)
        self._clients: set[_Connection] = set()
        self._gone = asyncio.Event()
        self._bound: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._half_open: Trouble | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port, which nobody else can take while nobody listens."""
        self._bound = _bound(host, port)
        await self._listen()
        self._watch.start(self._apply)
        return int(self._bound.getsockname()[1])

    async def close(self) -> None:
        """Stop listening and let every client go; any number of times."""
        await self._watch.close()
        await self.late.close()
        self._stop_listening()
        for client in self._clients:
            client.muted = False
            client.drop()
        while self._clients:
            self._gone.clear()
            await self._gone.wait()
        if self._bound is not None:
            self._bound.close()
            self._bound = None

    def joined(self, client: _Connection) -> None:
        """Keep a new client."""
        self.connections += 1
        self._clients.add(client)
        client.muted = self._half_open is not None and self._half_open.new == "silent"

    def left(self, client: _Connection) -> None:
        """Forget a client."""
        self._clients.discard(client)
        if self._tell is not None:
            self._tell(client)
        self._gone.set()

    async def _listen(self) -> None:
        if self._server is None and self._bound is not None:
            ours = _bound(*self._bound.getsockname()[:2])
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Connection(self), sock=ours)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _apply(self) -> None:
        """Be as the script has it now."""
        restart, half_open = self._watch.now("restart"), self._watch.now("half-open")
        if half_open is not None and self._half_open is None:
            for client in self._clients:
                client.muted = client.lost = True
        if half_open is None:
            for client in self._clients:
                client.muted = client.lost
        self._half_open = half_open
        if restart is not None:
            for client in self._clients:
                client.cut()
        if restart is not None or (half_open is not None and half_open.new == "refused"):
            self._stop_listening()
        else:
            await self._listen()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that holds a port without listening."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.setblocking(False)
    return bound


class SerialLine:
    """A serial port of this box, read when the kernel has some; a ``Line``.

    It has no connection to cut: while its devices restart or its link is half open, it is muted.
    """

    def __init__(
        self, feed: Feed, devices: Collection[str], script: Script, clock: Clock, start: int
    ) -> None:
        self.muted = False
        self._feed = feed
        self._late = _Later(clock)
        self._watch = _Watch(devices, script, clock, start)
        self._pending = b""
        self._port: serial.Serial | None = None

    def start(self, path: str, baud: int = 9600, parity: str = "N") -> None:
        """Answer on the port."""
        import serial

        self._port = serial.Serial(path, baud, parity=parity, timeout=0, exclusive=True)
        asyncio.get_running_loop().add_reader(self._port.fileno(), self._read)
        self._watch.start(self._apply)

    def _read(self) -> None:
        if self._port is not None:
            self._pending = self._feed(self._pending + self._port.read(256), self)[-PENDING:]

    async def _apply(self) -> None:
        self.muted = bool(self._watch.now("restart") or self._watch.now("half-open"))

    def send(self, frame: bytes) -> None:
        if self._port is not None and not self.muted:
            self._port.write(frame)

    def later(self, seconds: float, frame: bytes) -> None:
        self._late.send(self, seconds, frame)

    def cut(self) -> None:
        """Do nothing: a request that would cut a connection is merely not answered."""

    async def close(self) -> None:
        """Close the port; any number of times."""
        await self._watch.close()
        await self._late.close()
        if self._port is not None:
            asyncio.get_running_loop().remove_reader(self._port.fileno())
            self._port.close()
            self._port = None
