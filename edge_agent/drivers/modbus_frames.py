"""From the bytes of a link to the answer of the request in flight; pure.

Over TCP every frame carries the transaction id of its request, so an answer is known by it. RTU has
no such id: an answer is known by unit, function and length, and by its checksum. What is not the
answer (one that comes late, a frame of another unit, a broadcast, the echo of the request, noise)
is passed over, and waiting goes on. pymodbus's own RTU framer is not used for answers: it drops
what comes in one chunk with a frame, behind it or behind one with a wrong checksum.

The words of an answer are a view of its bytes: nothing is made of them one by one.

Source: MODBUS Application Protocol V1.1b3; MODBUS over Serial Line V1.02.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.modbus_plan import Request
from edge_agent.model import Quality

Words = NDArray[np.uint16]

MOST = 2048  # bytes kept while no frame is found in them
_READS, _WRITES, _WRITES_OF_MANY, _EXCEPTION = (1, 2, 3, 4), (5, 6), (15, 16), 0x80


@dataclass(frozen=True)
class Refused:
    """An answer that holds no values.

    code    the device's exception code; 0 where the answer had another length or function than
            was asked for, or its checksum was wrong
    source  MODBUS Application Protocol V1.1b3, 7
    """

    code: int

    @property
    def quality(self) -> Quality:
        """What the columns of the request become."""
        return Quality.BAD_DEVICE if self.code else Quality.BAD_SHORT


class Shape(NamedTuple):
    """All by which an RTU answer can be told from another: size is that of its values in bytes."""

    unit: int
    function: int
    size: int

    @classmethod
    def of(cls, unit: int, request: Request) -> "Shape":
        """Return the shape of the answer to a request."""
        size = -(-request.count // 8) if request.table.is_bits else 2 * request.count
        return cls(unit, request.table.function, size)


class Stray(NamedTuple):
    """A whole frame that is not the answer awaited; ``mark`` is what ``expect`` returned for it."""

    mark: int
    shape: Shape


class Framing(Protocol):
    """Finds the answer to one request at a time.

    strays    whole frames that were passed over; the caller takes them out
    is_noisy  since the last ``expect``, bytes came that belong to no frame
    is_heard  since the last ``expect``, the unit sent something that is no answer to this request
    """

    strays: list[Stray]
    is_noisy: bool
    is_heard: bool

    def expect(self, unit: int, request: Request, *, again: bool = False) -> int:
        """Return the mark of the request to send next, and await its answer.

        again  it repeats the one before: an answer to either will do
        """

    def sent(self, frame: bytes) -> None:
        """Note how the request went over the line."""

    def rest(self) -> None:
        """Await nothing."""

    def take(self, chunk: bytes) -> tuple[int, Words | Refused] | None:
        """Take in what has come; return the whole answer and the mark of its request."""


def _values(request: Request, frame: bytes, offset: int) -> Words:
    """Return the words (or bits) that stand at an offset of a frame.

    source  bits: the first is the least significant of the first byte (6.1)
    """
    if request.table.is_bits:
        packed = np.frombuffer(frame, np.uint8, -(-request.count // 8), offset)
        return np.unpackbits(packed, count=request.count, bitorder="little").astype(np.uint16)
    return np.frombuffer(frame, ">u2", request.count, offset)


# ---- TCP -------------------------------------------------------------------------------------


class Mbap:
    """Frames with a header: transaction, 0, length of what follows, unit."""

    def __init__(self) -> None:
        self.strays: list[Stray] = []
        self.is_noisy = self.is_heard = False
        self._transaction = 0
        self._awaited: tuple[int, ...] = ()
        self._unit = 0
        self._request: Request | None = None
        self._head = b""  # how the answer begins if it is a good one
        self._total = 0
        self._buffer = b""

    def expect(self, unit: int, request: Request, *, again: bool = False) -> int:
        self._transaction = self._transaction % 0xFFFF + 1  # never 0: some servers leave it out
        mark, shape = self._transaction, Shape.of(unit, request)
        self._buffer = b""  # half a frame must not be filled up with the next one
        if again:
            self._awaited = (*self._awaited, mark)
        else:
            self._awaited, self.is_noisy, self.is_heard = (mark,), False, False
        self._unit, self._request, self._total = unit, request, 9 + shape.size
        self._head = struct.pack(">HHHBBB", mark, 0, 3 + shape.size, *shape)
        return mark

    def sent(self, frame: bytes) -> None:
        """Nothing to do: nobody echoes over TCP."""

    def rest(self) -> None:
        self._awaited, self._request = (), None

    def take(self, chunk: bytes) -> tuple[int, Words | Refused] | None:
        if (
            not self._buffer
            and self._request is not None
            and len(chunk) == self._total
            and chunk.startswith(self._head)
        ):
            return self._awaited[-1], _values(self._request, chunk, 9)
        return self._search(self._buffer + chunk)

    def _search(self, buffer: bytes) -> tuple[int, Words | Refused] | None:
        """Cut the buffer into frames; return the first that answers."""
        answer = None
        while len(buffer) >= 8:
            mark, protocol, length = struct.unpack_from(">HHH", buffer)
            if protocol != 0 or not 2 <= length <= 254:
                self.is_noisy = True
                buffer = self._from_next_head(buffer)
                continue
            stop = 6 + length
            if length == 2 and buffer[7] & _EXCEPTION and len(buffer) == 9:
                stop = 9  # devices are known that do not count the code
            if len(buffer) < stop:
                break
            frame, buffer = buffer[:stop], buffer[stop:]
            if answer is None and mark in self._awaited and frame[6] == self._unit:
                answer = mark, self._judged(frame)
            else:
                size = frame[8] if len(frame) > 8 else 0
                self.strays.append(Stray(mark, Shape(frame[6], frame[7], size)))
        self._buffer = buffer
        return answer

    def _from_next_head(self, buffer: bytes) -> bytes:
        """Return the buffer from where an awaited frame may begin."""
        for mark in self._awaited:
            at = buffer.find(struct.pack(">HH", mark, 0), 1)
            if at > 0:
                return buffer[at:]
        return b""

    def _judged(self, frame: bytes) -> Words | Refused:
        """Return what a frame with the right transaction id and unit holds."""
        request = self._request
        if request is None or frame[7] == request.table.function | _EXCEPTION:
            return Refused(frame[8] if len(frame) == 9 else 0)
        right = Shape.of(self._unit, request)
        if len(frame) != self._total or frame[7:9] != bytes([right.function, right.size]):
            return Refused(0)
        return _values(request, frame, 9)


# ---- RTU -------------------------------------------------------------------------------------


def _table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
        found.append(crc)
    return tuple(found)


_CRC = _table()


def checksum(frame: bytes) -> bytes:
    """Return the CRC-16 of a frame as it is sent, low byte first.

    source  MODBUS over Serial Line V1.02, 6.2.2
    """
    crc = 0xFFFF
    for byte in frame:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


def _lengths(buffer: bytes, at: int) -> tuple[int, ...]:
    """Return how long a frame that begins here can be; one more than there is if that is open."""
    left = len(buffer) - at
    if left < 3:
        return (left + 1,)
    function = buffer[at + 1]
    if function in _READS:  # an answer, or the request of another master or an echo
        return 5 + buffer[at + 2], 8
    if function in _WRITES:
        return (8,)
    if function in _WRITES_OF_MANY:
        return (8, 9 + buffer[at + 6]) if left > 6 else (8, left + 1)
    return (5,) if function & _EXCEPTION else ()


def split(buffer: bytes) -> tuple[list[bytes], bytes, bytes]:
    """Return the whole frames in a buffer, what is none, and what may be the beginning of one."""
    frames, noise, start, at, begun = [], b"", 0, 0, -1
    while at < len(buffer):
        lengths = _lengths(buffer, at)
        for length in lengths:
            stop = at + length
            if stop <= len(buffer) and checksum(buffer[at : stop - 2]) == buffer[stop - 2 : stop]:
                frames.append(buffer[at:stop])
                noise += buffer[start:at]
                at = start = stop
                begun = -1
                break
        else:
            if begun < 0 and any(at + length > len(buffer) for length in lengths):
                begun = at
            at += 1
    tail = len(buffer) if begun < 0 else begun
    return frames, noise + buffer[start:tail], buffer[tail:]


class Rtu:
    """Frames of unit, function, contents and checksum, with nothing between them to go by."""

    def __init__(self) -> None:
        self.strays: list[Stray] = []
        self.is_noisy = self.is_heard = False
        self._shape: Shape | None = None
        self._request: Request | None = None
        self._head = b""
        self._echo = b""
        self._buffer = b""

    def expect(self, unit: int, request: Request, *, again: bool = False) -> int:
        self._shape, self._request = Shape.of(unit, request), request
        self._head = bytes(self._shape)
        self._buffer = b""
        if not again:
            self.is_noisy = self.is_heard = False
        return 0

    def sent(self, frame: bytes) -> None:
        self._echo = frame

    def rest(self) -> None:
        if self._shape is not None and self._buffer:  # a frame that has not come to its end
            self.is_noisy = True
            self.is_heard = self.is_heard or bytes(self._shape[:2]) in self._buffer
        self._shape = self._request = None

    def take(self, chunk: bytes) -> tuple[int, Words | Refused] | None:
        buffer = self._buffer + chunk if self._buffer else chunk
        shape, request = self._shape, self._request
        if shape is not None and request is not None and buffer != self._echo:
            total = 5 + shape.size
            if buffer.startswith(self._head):
                if len(buffer) < total:
                    self._buffer = buffer
                    return None
                if len(buffer) == total and checksum(buffer[:-2]) == buffer[-2:]:
                    self._buffer = b""
                    return 0, _values(request, buffer, 3)
        return self._search(buffer)

    def _search(self, buffer: bytes) -> tuple[int, Words | Refused] | None:
        frames, noise, rest = split(buffer)
        self._buffer = rest[-MOST:]
        shape, answer = self._shape, None
        self.is_noisy = self.is_noisy or bool(noise)
        if shape is not None and bytes(shape[:2]) in noise + rest:
            self.is_heard = True
        for frame in frames:
            if frame == self._echo:
                self._echo = b""
            elif answer is None and (found := self._judged(frame)) is not None:
                answer = 0, found
            else:
                self.strays.append(Stray(0, Shape(*frame[:3])))
        return answer

    def _judged(self, frame: bytes) -> Words | Refused | None:
        """Return what a frame says to the request in flight; None if it is no answer to it."""
        shape, request = self._shape, self._request
        if shape is None or request is None or frame[0] != shape.unit:
            return None
        if frame[1] == shape.function | _EXCEPTION:
            return Refused(frame[2])
        if frame[:3] == self._head and len(frame) == 5 + shape.size:
            return _values(request, frame, 3)
        self.is_heard = True
        return None
