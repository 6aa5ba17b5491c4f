"""DataValues as they stand in a message, decoded into columns; pure.

A message of a server repeats one layout: the same type, the same fields, value after value. Such a
run is one view and one copy per column, whatever its length; where layouts alternate, value after
value is unpacked with the layout's own ``struct``. What is neither a number nor a text (an array, a
structure) raises ``Irregular``, and whoever asked has the library decode the message.

source  OPC 10000-6, 5.2.2.16 (Variant), 5.2.2.17 (DataValue)
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_agent.model import F64, I64

NO_TIME = -(1 << 63)
EXACT = 1 << 53  # the largest integer up to which a float64 holds every one
ERAS = 116_444_736_000_000_000  # 100 ns ticks from 1601 to 1970
_FIRST, _LAST = -70_000_000_000_000_000, 92_000_000_000_000_000  # ticks from 1970 that fit into ns
_NEVER = 365 * 864_000_000_000  # ticks; a time in the year 1601 is none
_RUN, _WALK = 6, 32  # values of one layout that are worth a view; values unpacked one by one then

_VALUE, _STATUS, _SOURCE, _SERVER, _SOURCE_PICO, _SERVER_PICO = 1, 2, 4, 8, 16, 32
_ARRAY = 0x80
_BOOLEAN, _INT64, _UINT64, _STRING, _DATE_TIME, _LOCALIZED = 1, 8, 9, 12, 13, 21
_NUMBERS = {
    _BOOLEAN: "B", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", _INT64: "q", _UINT64: "Q",
    10: "f", 11: "d", _DATE_TIME: "q",
}  # fmt: skip
_TEXTS = (_STRING, _LOCALIZED)
_SINGLE = {kind: struct.Struct(f"<{code}") for kind, code in _NUMBERS.items()}
_HANDLE, _LENGTH = struct.Struct("<I"), struct.Struct("<i")


class Irregular(ValueError):
    """The bytes hold what is not decoded here."""


@dataclass(frozen=True, eq=False, slots=True)
class Columns:
    """m data values.

    handle   int64 (m,): the client handle; the place in the message where there is none
    number   float64 (m,): the number, of a time its seconds since the Unix epoch; NaN where there
             is none
    rounded  bool (m,): the number stands for an integer that float64 does not hold
    status   uint32 (m,)
    source   int64 (m,): when the value became so at its source, else at the server; ns since the
             Unix epoch, ``NO_TIME`` where neither is there
    texts    place -> text
    """

    handle: I64
    number: F64
    rounded: NDArray[np.bool_]
    status: NDArray[np.uint32]
    source: I64
    texts: dict[int, str]

    def __len__(self) -> int:
        return len(self.handle)

    @classmethod
    def empty(cls, m: int) -> "Columns":
        """Return columns to be filled: no number, status good, no time."""
        return cls(
            np.arange(m),
            np.full(m, np.nan),
            np.zeros(m, bool),
            np.zeros(m, np.uint32),
            np.full(m, NO_TIME),
            {},
        )

    def part(self, start: int, stop: int) -> "Columns":
        """Return some of the values."""
        span = slice(start, stop)
        texts = {place - start: t for place, t in self.texts.items() if start <= place < stop}
        return Columns(
            self.handle[span],
            self.number[span],
            self.rounded[span],
            self.status[span],
            self.source[span],
            texts,
        )


def join(parts: Sequence[Columns]) -> Columns:
    """Return the values of several answers, in their order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Columns.empty(0)
    texts: dict[int, str] = {}
    behind = 0
    for part in parts:
        texts.update({behind + place: text for place, text in part.texts.items()})
        behind += len(part)
    return Columns(
        np.concatenate([part.handle for part in parts]),
        np.concatenate([part.number for part in parts]),
        np.concatenate([part.rounded for part in parts]),
        np.concatenate([part.status for part in parts]),
        np.concatenate([part.source for part in parts]),
        texts,
    )


def nanoseconds(ticks: I64) -> I64:
    """Return ns since the Unix epoch of ticks since 1601; ``NO_TIME`` for the null time."""
    unix = np.clip(ticks - ERAS, _FIRST, _LAST) * 100
    return np.where(ticks < _NEVER, NO_TIME, unix)


_FIELDS = (
    (_STATUS, "status", "I"),
    (_SOURCE, "source", "q"),
    (_SOURCE_PICO, "source_pico", "H"),
    (_SERVER, "server", "q"),
    (_SERVER_PICO, "server_pico", "H"),
)


@lru_cache(maxsize=256)
def _layout(mask: int, kind: int, handles: bool) -> np.dtype[np.void]:
    """Return how a number of one mask and type stands in the message."""
    fields = [("handle", "<u4")] if handles else []
    fields.append(("mask", "u1"))
    if mask & _VALUE:
        fields.append(("kind", "u1"))
        fields += [("length", "<i4")] if kind & _ARRAY else []
        fields.append(("value", f"<{_NUMBERS[kind & 0x3F]}"))
    fields += [(name, f"<{code}") for bit, name, code in _FIELDS if mask & bit]
    return np.dtype(fields)


@lru_cache(maxsize=64)
def _tail(mask: int) -> tuple[struct.Struct, tuple[int, int, int]]:
    """Return what stands behind a value: its layout, and where status, source and server time are.

    Behind the last field stand, as -2 and -1, a good status and no time.
    """
    if mask & 0xC0:
        raise Irregular(f"mask {mask:#x}")
    there = [(name, code) for bit, name, code in _FIELDS if mask & bit]
    names = [name for name, _ in there]
    picks = [
        names.index(name) if name in names else absent
        for name, absent in (("status", -2), ("source", -1), ("server", -1))
    ]
    layout = struct.Struct("<" + "".join(code for _, code in there))
    return layout, (picks[0], picks[1], picks[2])


def decode(data: bytes, offset: int, count: int, *, handles: bool) -> tuple[Columns, int]:
    """Return the values that stand at an offset, and the offset behind them.

    handles  each value has its client handle before it
    errors   ``Irregular``
    """
    if not 0 <= count <= len(data) - offset:
        raise Irregular(f"{count} values in {len(data) - offset} bytes")
    columns = Columns.empty(count)
    done = 0
    try:
        while done < count:
            run = _run(data, offset, columns, done, handles=handles)
            if run:
                done, offset = done + run[0], offset + run[1]
                continue
            for place in range(done, min(count, done + _WALK)):
                offset = _one(data, offset, columns, place, handles=handles)
                done += 1
    except (struct.error, IndexError) as e:
        raise Irregular("the message ends before its values do") from e
    return columns, offset


def _run(
    data: bytes, offset: int, columns: Columns, done: int, *, handles: bool
) -> tuple[int, int] | None:
    """Fill in the run of numbers of one layout that begins here; return values and bytes."""
    head = offset + (4 if handles else 0)
    mask = data[head]
    kind = data[head + 1] if mask & _VALUE else 0
    if mask & 0xC0 or (mask & _VALUE and (kind & 0x40 or kind & 0x3F not in _NUMBERS)):
        return None
    layout = _layout(mask, kind, handles)
    room = min(len(columns) - done, (len(data) - offset) // layout.itemsize)
    if room < _RUN:
        return None
    seen = np.frombuffer(data, layout, room, offset)
    same = seen["mask"] == mask
    if mask & _VALUE:
        same &= seen["kind"] == kind
        if kind & _ARRAY:
            same &= seen["length"] == 1
    length = room if same.all() else int(np.argmin(same))
    if length < _RUN:
        return None
    _fill(columns, slice(done, done + length), seen[:length], kind & 0x3F)
    return length, length * layout.itemsize


def _fill(columns: Columns, here: slice, seen: NDArray[np.void], kind: int) -> None:
    """Copy a run into its place."""
    names = seen.dtype.names or ()
    if "handle" in names:
        columns.handle[here] = seen["handle"]
    if "status" in names:
        columns.status[here] = seen["status"]
    if "source" in names:
        columns.source[here] = nanoseconds(seen["source"])
    if "server" in names:
        time = columns.source[here]
        columns.source[here] = np.where(time == NO_TIME, nanoseconds(seen["server"]), time)
    if "value" not in names:
        return
    value = seen["value"]
    if kind == _DATE_TIME:
        columns.number[here] = np.where(value < _NEVER, np.nan, (value - ERAS) / 1e7)
        return
    if kind == _BOOLEAN:
        value = value != 0
    with np.errstate(invalid="ignore"):  # a signalling NaN is no number like any other
        columns.number[here] = value
    if kind == _INT64:
        columns.rounded[here] = (value > EXACT) | (value < -EXACT)
    elif kind == _UINT64:
        columns.rounded[here] = value > EXACT


def _one(data: bytes, offset: int, columns: Columns, place: int, *, handles: bool) -> int:
    """Fill in one value; return the offset behind it."""
    if handles:
        (columns.handle[place],) = _HANDLE.unpack_from(data, offset)
        offset += 4
    mask, offset = data[offset], offset + 1
    if mask & _VALUE:
        offset = _value(data, offset, columns, place)
    layout, (status, source, server) = _tail(mask)
    found = (*layout.unpack_from(data, offset), 0, 0)
    columns.status[place] = found[status]
    time = _nanoseconds(found[source])
    columns.source[place] = _nanoseconds(found[server]) if time == NO_TIME else time
    return offset + layout.size


def _value(data: bytes, offset: int, columns: Columns, place: int) -> int:
    """Fill in what a variant holds; return the offset behind it."""
    kind, offset = data[offset], offset + 1
    if kind & _ARRAY:
        (length,) = _LENGTH.unpack_from(data, offset)
        if kind & 0x40 or length != 1:
            raise Irregular(f"an array of {length}")
        offset += 4
    kind &= 0x7F
    if kind == 0:
        return offset
    if kind in _TEXTS:
        return _text(data, offset, kind, columns, place)
    if kind not in _NUMBERS:
        raise Irregular(f"type {kind:#x}")
    layout = _SINGLE[kind]
    (number,) = layout.unpack_from(data, offset)
    if kind == _DATE_TIME:
        columns.number[place] = np.nan if number < _NEVER else (number - ERAS) / 1e7
    else:
        columns.number[place] = number if kind != _BOOLEAN else number != 0
        columns.rounded[place] = kind in {_INT64, _UINT64} and abs(number) > EXACT
    return offset + layout.size


def _text(data: bytes, offset: int, kind: int, columns: Columns, place: int) -> int:
    """Fill in a text, of a LocalizedText the text without its language."""
    mask = 2  # bits of a LocalizedText: 1 there is a language, 2 there is a text
    if kind == _LOCALIZED:
        mask, offset = data[offset], offset + 1
    found: str | None = None
    for _ in range((mask & 1) + (mask >> 1 & 1)):
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += 4
        end = offset + max(length, 0)
        if end > len(data):
            raise Irregular("a text that is longer than the message")
        found = None if length < 0 else data[offset:end].decode("utf-8", "replace")
        offset = end
    if mask & 2 and found is not None:
        columns.texts[place] = found
    return offset


def _nanoseconds(ticks: int) -> int:
    """Return ``nanoseconds`` of one time."""
    if ticks < _NEVER:
        return NO_TIME
    return min(max(ticks - ERAS, _FIRST), _LAST) * 100
