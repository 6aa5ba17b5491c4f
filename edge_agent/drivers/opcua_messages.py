"""What is read of a server's answers without the library's decoder: heads, and DataValues.

The library decodes an answer into one object per value (17–24 µs each); of these answers only the
values are many, so their columns are taken straight from the bytes. Whatever is not laid out as
expected here raises ``Irregular``, and the library decodes that answer.

source  OPC 10000-6, 5.2 (binary encoding); OPC 10000-4, 5.10.2 (Read), 5.10.3 (HistoryRead),
        5.13.5 (Publish), 7.25 (NotificationData)
"""

import struct
from dataclasses import dataclass

import numpy as np

from edge_agent.drivers.opcua_columns import NO_TIME, Columns, Irregular, decode, nanoseconds

_PUBLISH, _READ, _HISTORY = 829, 634, 667  # encodings of the responses
_DATA_CHANGE, _HISTORY_DATA = 811, 658
_U32, _I32, _I64 = struct.Struct("<I"), struct.Struct("<i"), struct.Struct("<q")
_FOUR_BYTE, _NUMERIC = struct.Struct("<BBH"), struct.Struct("<BHI")  # node ids, short and long
_HEAD = struct.Struct("<qIIB")  # time, request, result, diagnostics
_NOTHING = b"\x00\x00\x00"  # no additional header


class _Bytes:
    """A message and how far it has been read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        found = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return found

    def number(self, layout: struct.Struct = _I32) -> int:
        return int(self.take(layout)[0])

    def text(self) -> bytes | None:
        length = self.number()
        if length < 0:
            return None
        self.at += length
        if self.at > len(self.data):
            raise Irregular("a text that is longer than the message")
        return self.data[self.at - length : self.at]

    def kind(self) -> int:
        """Return the number of the encoding that follows."""
        form, space, number = self.take(_NUMERIC if self.data[self.at] == 2 else _FOUR_BYTE)
        if form not in {1, 2} or space != 0:
            raise Irregular("an encoding of another namespace")
        return number

    def head(self, expected: int) -> int:
        """Pass over the head of a response; return its result."""
        if self.kind() != expected:
            raise Irregular("another response")
        _, _, result, diagnostics = self.take(_HEAD)
        strings = self.number()
        if diagnostics or strings > 0 or self.data[self.at : self.at + 3] != _NOTHING:
            raise Irregular("a head with more than a result")
        self.at += len(_NOTHING)
        return result

    def body(self, expected: int) -> int:
        """Enter an extension object; return the offset behind it."""
        if self.kind() != expected or self.data[self.at] != 1:
            raise Irregular("another structure")
        self.at += 1
        length = self.number()
        if length < 0 or self.at + length > len(self.data):
            raise Irregular("a structure that is longer than the message")
        return self.at + length

    def values(self, *, handles: bool) -> Columns:
        """Return an array of values, each with a client handle or none of them."""
        count = max(0, self.number())
        columns, self.at = decode(self.data, self.at, count, handles=handles)
        return columns


@dataclass(frozen=True, eq=False, slots=True)
class Published:
    """A publish response that holds nothing but changes of values.

    published  when the server sent it, ns; None if it does not say
    parts      one per notification in it; none in a keep-alive
    """

    subscription: int
    number: int
    published: int | None
    parts: tuple[Columns, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Recorded:
    """What the server has recorded of one node: values, and where to go on reading."""

    status: int
    onward: bytes | None
    values: Columns


def published(data: bytes) -> Published:
    """Return a publish response; ``Irregular`` if it holds anything but changes of values."""
    message = _Bytes(data)
    try:
        if message.head(_PUBLISH):
            raise Irregular("a fault")
        subscription = message.number(_U32)
        kept = max(0, message.number())
        message.at += 4 * kept + 1  # their numbers, and whether there is more
        number, sent = message.number(_U32), message.number(_I64)
        parts = []
        for _ in range(max(0, message.number())):
            end = message.body(_DATA_CHANGE)
            parts.append(message.values(handles=True))
            message.at = end
    except (struct.error, IndexError) as e:
        raise Irregular("the message is too short") from e
    time = int(nanoseconds(np.array([sent]))[0])
    return Published(subscription, number, None if time == NO_TIME else time, tuple(parts))


def read(data: bytes) -> Columns:
    """Return the values of a read response, in the order asked for."""
    message = _Bytes(data)
    try:
        if message.head(_READ):
            raise Irregular("a fault")
        return message.values(handles=False)
    except (struct.error, IndexError) as e:
        raise Irregular("the message is too short") from e


def recorded(data: bytes) -> list[Recorded]:
    """Return the nodes of a history response, in the order asked for."""
    message, found = _Bytes(data), []
    try:
        if message.head(_HISTORY):
            raise Irregular("a fault")
        for _ in range(max(0, message.number())):
            status, onward = message.number(_U32), message.text()
            if message.data[message.at : message.at + 3] == _NOTHING:
                message.at += 3
                found.append(Recorded(status, onward, Columns.empty(0)))
                continue
            end = message.body(_HISTORY_DATA)
            found.append(Recorded(status, onward, message.values(handles=False)))
            message.at = end
    except (struct.error, IndexError) as e:
        raise Irregular("the message is too short") from e
    return found
