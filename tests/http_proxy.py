"""An HTTP proxy before a real database that plays faults.

async with HttpProxy(database.port) as proxy:
    proxy.faults += [answer(503, "Retry-After: 2"), LOST]   # for the next requests with rows
    proxy.greetings += [answer(401)]                        # for the next requests without
    ...                                                     # the sink writes to proxy.url
    proxy.requests                                          # what came: lines of each request

A request that no fault is left for is forwarded. ``proxy.url`` is https when a folder with
certificates is given (``tests.broker.certificates``).
"""

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType

from tests.process import HOST

_END = b"\r\n\r\n"


@dataclass
class Exchange:
    """One request and the connection that it came on."""

    head: bytes
    body: bytes
    target: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    over: bool = False  # the connection is of no use any more

    @property
    def lines(self) -> list[str]:
        """What was sent, comments apart."""
        packed = b"content-encoding: gzip" in self.head.lower()
        text = (gzip.decompress(self.body) if packed else self.body).decode()
        return [line for line in text.split("\n") if line and not line.startswith("#")]

    async def forward(self) -> bytes:
        """Hand the request to the real database and return its answer."""
        there, back = await asyncio.open_connection(HOST, self.target)
        back.write(self.head[:-2] + b"Connection: close" + _END + self.body)
        reply = await there.read()
        back.close()
        return reply.replace(b"Connection: close\r\n", b"", 1)

    async def say(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection as a crash does."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        self.over = True

    async def hang(self) -> None:
        """Say nothing more until the other end has gone."""
        try:
            await self.reader.read()
        finally:
            self.over = True


Fault = Callable[[Exchange], Awaitable[None]]


async def plain(exchange: Exchange) -> None:
    """Be no fault at all."""
    await exchange.say(await exchange.forward())


def answer(status: int, *headers: str, body: str = "", kind: str = "application/json") -> Fault:
    """Answer without the database."""
    head = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body.encode())}", *headers]
    if body:
        head.append(f"Content-Type: {kind}")

    async def play(exchange: Exchange) -> None:
        await exchange.say("\r\n".join(head).encode() + _END + body.encode())

    return play


def raw(text: bytes, *, forwarded: bool = False, then: str = "close") -> Fault:
    """Say just this, with or without handing the request on, then close, reset or hang."""

    async def play(exchange: Exchange) -> None:
        if forwarded:
            await exchange.forward()
        await exchange.say(text)
        if then == "hang":
            await exchange.hang()
        elif then == "reset":
            exchange.reset()
        exchange.over = True

    return play


async def lost_before(exchange: Exchange) -> None:
    """Reset before the database has seen anything."""
    exchange.reset()


async def lost_after(exchange: Exchange) -> None:
    """Reset when the database has taken the request: its answer is lost."""
    await exchange.forward()
    exchange.reset()


async def hung_before(exchange: Exchange) -> None:
    """Take the request and say nothing."""
    await exchange.hang()


async def hung_after(exchange: Exchange) -> None:
    """Hand the request on and say half of the answer."""
    reply = await exchange.forward()
    await exchange.say(reply[: len(reply) // 2])
    await exchange.hang()


async def babbling(exchange: Exchange) -> None:
    """Send what belongs to no answer behind the right one."""
    await exchange.say(await exchange.forward() + b"HTTP/1.1 400 x\r\n{garbage}")


@dataclass
class HttpProxy:
    """See the module."""

    target: int
    tls: ssl.SSLContext | None = None
    faults: list[Fault] = field(default_factory=list)
    greetings: list[Fault] = field(default_factory=list)
    requests: list[list[str]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # a request with rows has come
    stalls: int = 0  # large requests of which no more is taken than the head
    port: int = 0
    connections: int = 0
    _end: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"

    async def __aenter__(self) -> "HttpProxy":
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # so that a stall is felt
        listener.bind((HOST, 0))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener, ssl=self.tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self._end.set()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(_END)
                if self.stalls and _length(head) > 100_000:
                    self.stalls -= 1
                    await self._end.wait()
                    break
                body = await reader.readexactly(_length(head))
                exchange = Exchange(head, body, self.target, reader, writer)
                lines = exchange.lines
                script = self.faults if lines else self.greetings
                if lines:
                    self.requests.append(lines)
                    self.asked.set()
                await (script.pop(0) if script else plain)(exchange)
                if exchange.over:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end has gone
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
