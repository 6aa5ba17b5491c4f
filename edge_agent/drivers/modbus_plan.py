"""From a register map to requests, and from the words of the answers to values; pure.

A plan is made once per stream. Adjacent registers are read by one request, as far as the device's
limits, gaps and section borders allow. All answers of a scan lie side by side in one row of
words; a coil or discrete input is a word of 0 or 1. Decoding works on n such rows at once: per
number type one gather brings the words of all its registers into the order least significant word
first, one dtype view makes numbers of them, and scale, offset, sentinels and limits are applied
to all columns together.

Word and byte order. Letters name the bytes of a 32-bit number from the most significant on; the
order says how they follow each other on the wire. ``CDAB`` means the least significant word
first, ``BADC`` the bytes of each word swapped, ``DCBA`` both; the same two rules hold for 16, 48
and 64 bits.

Modulo-10000 (``m10k``): each register holds 0 to 9999, a digit of base 10000. ``ABCD`` is the
most significant register first, as for every other type; meters that send the lowest first are
``CDAB``.

Two traps: a dtype view needs a contiguous last axis, which ``take`` gives and fancy indexing does
not; and a signalling NaN warns when it is cast.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.base import NumberType, Order
from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.model import F64, U8, Quality

U16 = NDArray[np.uint16]
Index = NDArray[np.intp]
Flags = NDArray[np.bool_]
Raw = NDArray[np.integer] | NDArray[np.floating]

MAX_REGISTERS = 125  # MODBUS Application Protocol V1.1b3, 6.3
MAX_BITS = 2000  # the same, 6.1
EXACT = 2**53  # integers up to here are float64 without rounding

WORDS: dict[NumberType, int] = {
    "bool": 1, "u16": 1, "i16": 1, "u32": 2, "i32": 2, "u64": 4, "i64": 4, "f32": 2, "f64": 4,
    "bcd16": 1, "bcd32": 2, "m10k32": 2, "m10k48": 3, "m10k64": 4,
}  # fmt: skip
_DTYPE: dict[NumberType, str] = {
    "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "u64": "<u8", "i64": "<i8",
    "f32": "<f4", "f64": "<f8", "bcd16": "<u2", "bcd32": "<u4",
}  # fmt: skip


@dataclass(frozen=True)
class Register:
    """One tag as the plan needs it: where it stands and how its words become a number.

    ratio   exact; value = raw * ratio + offset, rounded once for integers up to 2**53
    invalid raw numbers that mean no value; of integers the two's complement may be written unsigned
    low, high  limits in tag units
    """

    address: Address
    type: NumberType = "u16"
    order: Order = "ABCD"
    ratio: Fraction = Fraction(1)
    offset: float = 0.0
    invalid: tuple[int, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    @property
    def first(self) -> int:
        """The wire address of its first register or bit."""
        return self.address.number

    @property
    def last(self) -> int:
        """The wire address of its last register or bit."""
        return self.first + (1 if self.address.table.is_bits else WORDS[self.type]) - 1


@dataclass(frozen=True)
class Request:
    """One read request of a plan.

    offset   where its words begin in the row of words of a scan
    columns  the columns of the stream that it brings
    """

    table: Table
    address: int
    count: int
    offset: int
    columns: tuple[int, ...]

    @property
    def pdu(self) -> bytes:
        """The request as it goes over the wire, without unit, transaction and checksum."""
        return struct.pack(">BHH", self.table.function, self.address, self.count)

    def __str__(self) -> str:
        last = self.address + self.count - 1
        prefix, what = self.table.prefix, "bits" if self.table.is_bits else "registers"
        span = f"{prefix}:{self.address}..{prefix}:{last}"
        return f"{span} ({self.count} {what}, function {self.table.function})"


@dataclass(frozen=True)
class _Gather:
    """All registers of one number type: which words they are and how numbers are made of them."""

    columns: Index  # (m,) where the numbers go
    index: Index  # (m * words,) into the row of words, least significant word first
    numbers: Callable[[U16], tuple[Raw, Flags | None]]  # words -> numbers (n, m), which are legal
    wide: bool  # may exceed 2**53
    sentinels: tuple[Index, Raw, Index, Index] | None  # see _sentinels

    def decode(self, source: U16, value: F64, quality: U8) -> None:
        """Fill in the columns of this type; what is no value becomes NaN."""
        raw, legal = self.numbers(source.take(self.index, axis=1))
        if self.sentinels is None and legal is None:
            value[self.columns] = raw.T
        else:
            value[self.columns] = np.where(self._void(raw, legal), np.nan, raw).T
        if self.wide:
            rounded = raw > EXACT
            if raw.dtype.kind == "i":
                rounded |= raw < -EXACT
            quality[self.columns] = np.where(rounded, Quality.UNCERTAIN_PRECISION, 0).T

    def _void(self, raw: Raw, legal: Flags | None) -> Flags:
        void = np.zeros(raw.shape, np.bool_) if legal is None else ~legal
        if self.sentinels is not None:
            where, numbers, starts, which = self.sentinels
            hits = np.logical_or.reduceat(raw.take(where, axis=1) == numbers, starts, axis=1)
            void[:, which] |= hits
        return void


@dataclass(frozen=True)
class ReadPlan:
    """The requests of one stream and the decoding of what they bring."""

    registers: tuple[Register, ...]
    requests: tuple[Request, ...]
    words: int
    _request_of: Index = field(repr=False)
    _gathers: tuple[_Gather, ...] = field(repr=False)
    _swapped: bool = field(repr=False)
    _numerator: F64 | None = field(repr=False)
    _denominator: F64 | None = field(repr=False)
    _offset: F64 | None = field(repr=False)
    _limits: tuple[F64, F64] | None = field(repr=False)

    @classmethod
    def build(
        cls,
        registers: Iterable[Register],
        *,
        max_registers: int = MAX_REGISTERS,
        max_gap: int = 0,
        sections: Sequence[tuple[int, int]] = (),
    ) -> "ReadPlan":
        """Return the plan for the columns of one stream, in their order.

        max_gap   registers nobody asked for that may be read along between two that are wanted
        sections  first and last address of blocks that no request may cross
        """
        columns = tuple(registers)
        requests = _coalesce(columns, max_registers, max_gap, sections)
        words = sum(request.count for request in requests)
        start, request_of = np.zeros(len(columns), np.intp), np.zeros(len(columns), np.intp)
        for i, request in enumerate(requests):
            for column in request.columns:
                start[column] = request.offset + columns[column].first - request.address
                request_of[column] = i
        gathers = tuple(
            _gather(kind, columns, start, words) for kind in WORDS if _of_kind(kind, columns)
        )
        return cls(
            columns,
            requests,
            words,
            request_of,
            gathers,
            any(_is_swapped(r) for r in columns),
            _unless_all([float(r.ratio.numerator) for r in columns], 1.0),
            _unless_all([float(r.ratio.denominator) for r in columns], 1.0),
            _unless_all([r.offset for r in columns], 0.0),
            _limits(columns),
        )

    def decode(self, words: U16, outcome: U8 | None = None) -> tuple[F64, U8]:
        """Return values (k, n) in tag units and qualities (k, n) of n scans.

        words    uint16 (n, words): the answers side by side; any number where there was none
        outcome  uint8 (n, requests): the ``Quality`` of each answer; None: all good
        """
        shape = (len(self.registers), len(words))
        value, quality = np.empty(shape), np.zeros(shape, np.uint8)
        source = words.astype("<u2", copy=False)
        if self._swapped:
            source = np.concatenate((source, source.byteswap()), axis=1)
        with np.errstate(invalid="ignore", over="ignore"):  # answers may hold any bits
            for gather in self._gathers:
                gather.decode(source, value, quality)
            if self._numerator is not None:
                value *= self._numerator
            if self._denominator is not None:
                value /= self._denominator
            if self._offset is not None:
                value += self._offset
        if self._limits is not None:
            outside = (value < self._limits[0]) | (value > self._limits[1])
            quality[outside & (quality < Quality.UNCERTAIN_RANGE)] = Quality.UNCERTAIN_RANGE
        void = ~np.isfinite(value)
        if void.any():
            value[void] = np.nan
            quality[void] = Quality.BAD_NOT_AVAILABLE
        if outcome is not None and outcome.any():
            answers = outcome.take(self._request_of, axis=1).T
            lost = answers >= Quality.BAD
            value[lost] = np.nan
            np.copyto(quality, answers, where=lost)
        return value, quality


# ---- requests --------------------------------------------------------------------------------


def section_of(register: Register, sections: Sequence[tuple[int, int]]) -> int:
    """Return which section holds a register wholly; -1 if none does."""
    for i, (first, last) in enumerate(sections):
        if first <= register.first and register.last <= last:
            return i
    return -1


def _coalesce(
    columns: Sequence[Register],
    max_registers: int,
    max_gap: int,
    sections: Sequence[tuple[int, int]],
) -> tuple[Request, ...]:
    requests: list[Request] = []
    for table in Table:
        limit = MAX_BITS if table.is_bits else max_registers
        wanted = [i for i, r in enumerate(columns) if r.address.table is table]
        wanted.sort(key=lambda i: (columns[i].first, columns[i].last))
        run: list[int] = []
        end = 0
        for i in wanted:
            register = columns[i]
            joins = (
                bool(run)
                and register.first - end - 1 <= max_gap
                and max(end, register.last) - columns[run[0]].first < limit
                and section_of(register, sections) == section_of(columns[run[0]], sections)
            )
            if run and not joins:
                requests.append(_request(table, columns, run, end, requests))
                run = []
            end = max(end, register.last) if run else register.last
            run.append(i)
        if run:
            requests.append(_request(table, columns, run, end, requests))
    return tuple(requests)


def _request(
    table: Table, columns: Sequence[Register], run: list[int], end: int, before: list[Request]
) -> Request:
    offset = before[-1].offset + before[-1].count if before else 0
    first = columns[run[0]].first
    return Request(table, first, end - first + 1, offset, tuple(run))


# ---- decoding --------------------------------------------------------------------------------


def _of_kind(kind: NumberType, columns: Sequence[Register]) -> list[int]:
    return [i for i, r in enumerate(columns) if r.type == kind]


def _is_swapped(register: Register) -> bool:
    return register.order in {"BADC", "DCBA"} and not register.address.table.is_bits


def _unless_all(numbers: Sequence[float], neutral: float) -> F64 | None:
    """Return the numbers as a column, or None when applying them would change nothing."""
    if all(number == neutral for number in numbers):
        return None
    return np.array(numbers, np.float64)[:, None]


def _limits(columns: Sequence[Register]) -> tuple[F64, F64] | None:
    low = np.array([[r.low] for r in columns], np.float64)
    high = np.array([[r.high] for r in columns], np.float64)
    return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def _gather(kind: NumberType, columns: Sequence[Register], start: Index, words: int) -> _Gather:
    chosen, size = _of_kind(kind, columns), WORDS[kind]
    index = []
    for i in chosen:
        steps = range(size) if columns[i].order in {"CDAB", "DCBA"} else reversed(range(size))
        base = int(start[i]) + (words if _is_swapped(columns[i]) else 0)
        index += [base + step for step in steps]
    return _Gather(
        np.array(chosen, np.intp),
        np.array(index, np.intp),
        _numbers(kind, [columns[i] for i in chosen]),
        kind in {"u64", "i64", "m10k64"},
        _sentinels(kind, [columns[i] for i in chosen]),
    )


def _numbers(
    kind: NumberType, registers: Sequence[Register]
) -> Callable[[U16], tuple[Raw, Flags | None]]:
    """Return the function from gathered words to the numbers of one type."""
    if kind == "bool":
        masks = [0xFFFF if r.address.bit is None else 1 << r.address.bit for r in registers]
        mask = np.array(masks, np.uint16)
        return lambda words: (((words & mask) != 0).view(np.uint8), None)
    if kind.startswith("m10k"):
        size = WORDS[kind]
        weight = 10_000 ** np.arange(size, dtype=np.int64)

        def modulo(words: U16) -> tuple[Raw, Flags]:
            digits = words.reshape(len(words), -1, size)
            return digits.astype(np.int64) @ weight, np.all(digits <= 9999, axis=2)

        return modulo
    dtype = np.dtype(_DTYPE[kind])
    if kind.startswith("bcd"):
        places = np.arange(2 * dtype.itemsize)

        def decimal(words: U16) -> tuple[Raw, Flags]:
            digits = (words.view(dtype)[:, :, None].astype(np.int64) >> 4 * places) & 0xF
            return digits @ 10 ** places.astype(np.int64), np.all(digits <= 9, axis=2)

        return decimal
    return lambda words: (words.view(dtype), None)


def _sentinels(
    kind: NumberType, registers: Sequence[Register]
) -> tuple[Index, Raw, Index, Index] | None:
    """Return, for the registers that have any: register of each sentinel, its number, run starts.

    Integers are compared as integers: as float64 the highest 64-bit numbers are all the same.
    """
    where, numbers, starts, which = list[int](), list[int](), list[int](), list[int]()
    for i, register in enumerate(registers):
        if register.invalid:
            starts.append(len(where))
            which.append(i)
            where += [i] * len(register.invalid)
            numbers += [as_stored(kind, number) for number in register.invalid]
    if not where:
        return None
    dtype = np.dtype(_DTYPE.get(kind, "<i8") if not kind.startswith("bcd") else "<i8")
    return (
        np.array(where, np.intp),
        np.array(numbers, dtype),
        np.array(starts, np.intp),
        np.array(which, np.intp),
    )


def as_stored(kind: NumberType, number: int) -> int:
    """Return a raw number as the type holds it: ``0x8000`` is -32768 in an ``i16``."""
    if kind not in {"u16", "i16", "u32", "i32", "u64", "i64"}:
        return number
    bits = 16 * WORDS[kind]
    pattern = number % (1 << bits)
    return pattern - (1 << bits) if kind[0] == "i" and pattern >> (bits - 1) else pattern


def fits(kind: NumberType, number: int) -> bool:
    """Return whether a type can hold a raw number, signed or as its bit pattern."""
    if kind not in {"u16", "i16", "u32", "i32", "u64", "i64"}:
        return True
    bits = 16 * WORDS[kind]
    lowest = -(1 << (bits - 1)) if kind[0] == "i" else 0
    return lowest <= number < 1 << bits
