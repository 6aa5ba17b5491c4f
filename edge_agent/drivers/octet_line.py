"""A serial line, or a TCP serial server at its end, under a driver that makes frames of octets.

One request is in flight. The first frame that the driver takes for its answer ends the wait;
all others (of other meters, of requests before, an echo of our own) are counted and dropped, and
what is left of a frame when a request goes out is forgotten. A wait is lengthened while a frame
is coming in, because at 1200 baud a long one takes longer than a meter may take to answer.

A TCP connection on which nobody has answered for a while may be half open: a box between forgot
it and swallows what is sent. It is made anew before the next request.

A serial port is read when the kernel has some, in the loop: no thread, no polling.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from edge_agent.drivers.links import CONNECT, UNACKNOWLEDGED, SerialSettings, watch
from edge_agent.drivers.octet_frames import Scanner, Size
from edge_agent.errors import ConfigError, Disconnected, EdgeError, Unreachable

if TYPE_CHECKING:
    from serial import Serial  # type: ignore[import-untyped]  # pyserial has no types of its own

T = TypeVar("T")

BETWEEN = 0.5  # seconds between two bytes of a frame at most (DL/T 645-2007, 7.1)
SPOILED = 0.2  # seconds of quiet after a frame with a wrong sum that end the wait for another one
LONGEST = 270  # bytes of a frame with its preamble
BITS = 11  # of a byte on the wire: start, eight, parity, stop


class Garbled(EdgeError):
    """What came in place of an answer had a wrong sum."""


@dataclass(frozen=True)
class Line:
    """What all devices of one link share."""

    scheme: str
    host: str
    port: int
    serial: SerialSettings

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.host if self.is_serial else f"{self.host}:{self.port}"

    @property
    def is_serial(self) -> bool:
        """True for a serial line of this box."""
        return self.scheme.endswith("+serial")

    def takes(self, octets: int) -> float:
        """Return the seconds that so many bytes take on the wire, also behind a serial server."""
        return octets * BITS / self.serial.baud

    def difference(self, other: "Line") -> str:
        """Return in words what differs from another line."""
        return ", ".join(
            f"{f.name} is {getattr(self, f.name)} here and {getattr(other, f.name)} there"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        )


def common(lines: Mapping[str, Line]) -> Line:
    """Return what the devices of a link agree on; ``ConfigError`` if they do not."""
    first, *others = lines
    differing = [
        f"devices.{name}: {lines[name].difference(lines[first])} "
        f"(it shares its link with {first}: both must say the same)"
        for name in others
        if lines[name] != lines[first]
    ]
    if differing:
        raise ConfigError(differing)
    return lines[first]


@dataclass
class _Asking:
    """The request in flight.

    take      returns whether a frame is the answer, and ends the wait with it
    give_up   ends the wait with an error
    deadline, last  the wait's end, and the loop's time up to which it may be put off
    """

    take: Callable[[bytes], bool]
    give_up: Callable[[Exception], None]
    deadline: asyncio.Timeout
    last: float


class OctetLine:
    """One link, opened and closed any number of times.

    patience  the longest time-out of its devices, seconds
    counts    late_frames: that came and were the answer to nothing that was asked;
              corrupt_frames: waits that a wrong sum ended; renewals: of a mute connection
    """

    def __init__(self, line: Line, size: Size, patience: float) -> None:
        self.patience = patience
        self.counts = {"late_frames": 0, "corrupt_frames": 0, "renewals": 0}
        self._line = line
        self._scanner = Scanner(size)
        self._end: _TcpEnd | _SerialEnd | None = None
        self._asking: _Asking | None = None
        self._has_heard = False  # since the link was opened
        self._free_at = 0.0  # the loop's time before which nothing is sent
        self._mute_since: float | None = None  # since when nobody has answered, the loop's time

    async def open(self) -> None:
        """Open the link. Raises ``Unreachable``."""
        await self.close()
        make = _SerialEnd.open if self._line.is_serial else _TcpEnd.open
        self._has_heard = False
        self._end = await make(self._line, self)
        self._scanner.clear()
        self._mute_since = None

    async def close(self) -> None:
        """Close the link; any number of times."""
        end, self._end = self._end, None
        if end is not None:
            end.close()
            await asyncio.sleep(0)  # the transport says goodbye in the loop's next round

    async def ask(
        self, request: bytes, accept: Callable[[bytes], T | None], within: float, pause: float
    ) -> T:
        """Send a request; return what the driver makes of the first frame that it accepts.

        accept   returns None for a frame that is not the answer
        within   seconds that the meter may take, beside the time of the bytes on the wire
        pause    seconds that it needs after its answer before anybody is asked
        errors  ``TimeoutError`` when nothing was, ``Garbled`` when something came that may have
                been, ``Disconnected`` when the link is gone
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._free_at - loop.time()))
        end = await self._usable()
        self._scanner.clear()
        bound = self._line.takes(len(request)) + within
        answer: asyncio.Future[T] = loop.create_future()

        def take(frame: bytes) -> bool:
            found = None if answer.done() else accept(frame)
            if found is not None:
                answer.set_result(found)
            return found is not None

        def give_up(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        try:
            async with asyncio.timeout(bound) as deadline:
                last = loop.time() + bound + self._line.takes(LONGEST)
                self._asking = _Asking(take, give_up, deadline, last)
                end.send(request)
                return await answer
        except TimeoutError as e:
            if self._mute_since is None:
                self._mute_since = loop.time() - bound
            if self._scanner.garbled:
                self.counts["corrupt_frames"] += 1
                raise Garbled("the sum of the answer is wrong") from e
            raise TimeoutError("no answer") from e
        except OSError as e:
            self._asking = None
            self.lost(e)
            raise Disconnected(f"{self._line.name} is gone: {e}") from e
        finally:
            self._asking = None
            self._free_at = loop.time() + pause

    async def _usable(self) -> "_TcpEnd | _SerialEnd":
        """Return the end that is open; a new one where nobody has answered for too long."""
        since, now = self._mute_since, asyncio.get_running_loop().time()
        if since is not None and now - since > UNACKNOWLEDGED and not self._line.is_serial:
            self.counts["renewals"] += 1
            await self.open()
            self._mute_since = since  # that a connection can be made is no answer
        if self._end is None:
            raise Disconnected(f"{self._line.name} is not connected")
        return self._end

    def arrived(self, octets: bytes) -> None:
        """Take what came in."""
        self._mute_since = None
        asking, answered, self._has_heard = self._asking, False, True
        for frame in self._scanner.feed(octets):
            if asking is not None and not answered and asking.take(frame):
                answered = True
            else:
                self.counts["late_frames"] += 1
        if asking is not None and not answered:
            self._reconsider(asking)

    def _reconsider(self, asking: _Asking) -> None:
        """Wait on for a frame that is coming in, but not for long after a spoiled one."""
        now, when = asyncio.get_running_loop().time(), asking.deadline.when()
        if asking.deadline.expired() or when is None:
            return
        if self._scanner.garbled:
            asking.deadline.reschedule(min(now + SPOILED, asking.last))
        elif self._scanner.is_amid:
            asking.deadline.reschedule(max(when, min(now + BETWEEN, asking.last)))

    def lost(self, error: Exception | None) -> None:
        """Take note that the other end is gone; end the wait for an answer."""
        end, self._end = self._end, None
        if end is not None:
            end.close()
        if self._asking is not None:
            closed = "is gone" if self._line.is_serial else "closed the connection"
            why = f"is gone: {error}" if error else closed
            kind = Disconnected if self._has_heard else Unreachable
            self._asking.give_up(kind(f"{self._line.name} {why}"))


class _TcpEnd(asyncio.Protocol):
    """The socket of a serial server."""

    def __init__(self, owner: OctetLine) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._closed = False

    @classmethod
    async def open(cls, line: Line, owner: OctetLine) -> "_TcpEnd":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT):
                transport, end = await loop.create_connection(
                    lambda: cls(owner), line.host, line.port
                )
        except TimeoutError as e:
            raise Unreachable(f"{line.name} does not answer") from e
        except OSError as e:
            raise Unreachable(f"{line.name} cannot be reached: {e.strerror or e}") from e
        end._transport = transport  # noqa: SLF001 – of the class itself
        watch(transport, owner.patience)
        return end

    def data_received(self, data: bytes) -> None:
        self._owner.arrived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._owner.lost(exc)

    def send(self, octets: bytes) -> None:
        if self._transport is not None:
            self._transport.write(octets)

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()


class _SerialEnd:
    """A serial port of this box."""

    def __init__(self, port: "Serial", owner: OctetLine) -> None:
        self._port: Serial | None = port
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(port.fileno(), self._read, port.fileno())

    @classmethod
    async def open(cls, line: Line, owner: OctetLine) -> "_SerialEnd":
        import termios

        from serial import Serial, SerialException

        settings = line.serial
        try:
            port = Serial(
                line.host, settings.baud, settings.bytesize, settings.parity, settings.stopbits,
                timeout=0, write_timeout=0, exclusive=True,
            )  # fmt: skip
            port.reset_input_buffer()
        except (SerialException, OSError, ValueError, termios.error) as e:
            raise Unreachable(f"{line.name} cannot be opened: {e}") from e
        return cls(port, owner)

    def _read(self, descriptor: int) -> None:
        try:
            octets = os.read(descriptor, 4096)
        except BlockingIOError:
            return
        except OSError as e:  # the converter was pulled out
            self._owner.lost(e)
            return
        if octets:
            self._owner.arrived(octets)
        else:
            self._owner.lost(None)

    def send(self, octets: bytes) -> None:
        if self._port is not None:
            self._port.write(octets)

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            self._loop.remove_reader(port.fileno())
            port.close()
