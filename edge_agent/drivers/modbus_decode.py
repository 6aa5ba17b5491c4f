"""From the words of a stream's answers to values; pure.

All answers of a scan lie side by side in one row of words; a coil or discrete input is a word of 0
or 1. Decoding works on n such rows at once: per number type one gather brings the words of all its
registers into the order least significant word first, one dtype view makes numbers of them, and
scale, exponents, offset, sentinels and limits are applied to all columns together. Only a text
whose bytes have changed is looked at by itself.

Two traps: a dtype view needs a contiguous last axis, which ``take`` gives and fancy indexing does
not; and a signalling NaN warns when it is cast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.base import NumberType, Vocabulary
from edge_agent.drivers.modbus_register import WORDS, Register, as_stored
from edge_agent.model import F64, U8, Quality

U16 = NDArray[np.uint16]
Index = NDArray[np.intp]
Flags = NDArray[np.bool_]
Raw = NDArray[np.integer] | NDArray[np.floating]

EXACT = 2**53  # integers up to here are float64 without rounding
MOST_EXPONENT = 30  # of a scale register; a larger one is no exponent but garbage

_DTYPE: dict[NumberType, str] = {
    "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "u64": "<u8", "i64": "<i8",
    "f32": "<f4", "f64": "<f8", "bcd16": "<u2", "bcd32": "<u4", "bcd64": "<u8",
}  # fmt: skip
_TENS = np.array([float(f"1e{e}") for e in range(MOST_EXPONENT + 1)])
_UNREAD = b"\xff"  # no byte of UTF-8, and a text has more than one


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
class _Scaling:
    """value = raw * numerator / denominator + offset, each (k, 1) or None where it is neutral.

    scaled, exponents  the columns that have a decimal exponent, and the columns that hold it
    """

    numerator: F64 | None
    denominator: F64 | None
    offset: F64 | None
    scaled: Index
    exponents: Index

    def apply(self, value: F64) -> None:
        """Turn raw numbers into tag units, in place; an absurd exponent makes NaN.

        Powers of ten are exact up to 10**22, and a negative one divides: an integer whose
        product with the numerator is below 2**53 is rounded once, whatever its exponent.
        """
        up = down = None
        if len(self.scaled):
            up, down = self._powers(value[self.exponents])
        if self.numerator is not None:
            value *= self.numerator
        if up is None or down is None:
            if self.denominator is not None:
                value /= self.denominator
        else:
            value[self.scaled] *= up
            divisor = np.ones_like(value)
            if self.denominator is not None:
                divisor *= self.denominator
            divisor[self.scaled] *= down
            value /= divisor
        if self.offset is not None:
            value += self.offset

    def _powers(self, exponent: F64) -> tuple[F64, F64]:
        """Return multiplier and divisor of raw exponents (m, n); NaN for what is none."""
        for step, operand in (
            (np.multiply, self.numerator), (np.divide, self.denominator), (np.add, self.offset),
        ):  # fmt: skip
            if operand is not None:
                exponent = step(exponent, operand[self.exponents])
        sane = (np.abs(exponent) <= MOST_EXPONENT) & (exponent == np.rint(exponent))
        whole = np.where(sane, exponent, 0).astype(np.intp)
        up: F64 = np.where(sane, _TENS[np.maximum(whole, 0)], np.nan)
        return up, _TENS[np.maximum(-whole, 0)]


@dataclass(frozen=True)
class _Text:
    """One text: which words it is."""

    column: int
    words: slice
    length: int


class TextReader:
    """The texts of one column as numbers of its vocabulary.

    Read as UTF-8, of which ASCII is a part, else as GBK, which instruments made in China use. A
    NUL ends a text, and blanks at its end do not count.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.vocabulary = vocabulary if vocabulary is not None else Vocabulary()
        self._bytes = _UNREAD
        self._number = float("nan")

    def number(self, written: bytes) -> float:
        """Return the number of a text; NaN for bytes that are none."""
        if written != self._bytes:
            text = _text(written)
            self._number = float("nan") if text is None else float(self.vocabulary.index(text))
            self._bytes = written
        return self._number

    def numbers(self, written: U8) -> F64:
        """Return the numbers of texts (n, length); a row like the one before is not looked at."""
        value = np.empty(len(written))
        starts = np.flatnonzero(np.any(written[1:] != written[:-1], axis=1)) + 1
        for start, stop in zip([0, *starts], [*starts, len(written)], strict=True):
            value[start:stop] = self.number(written[start].tobytes()) if stop else np.nan
        return value


@dataclass(frozen=True)
class Decoder:
    """How the words of one plan become the columns of its stream."""

    columns: int
    gathers: tuple[_Gather, ...]
    texts: tuple[_Text, ...]
    swapped: bool
    scaling: _Scaling
    limits: tuple[F64, F64] | None

    @classmethod
    def build(cls, registers: Sequence[Register], start: Index, words: int) -> "Decoder":
        """Return the decoder of a stream's columns.

        start  (k,), where the first word of each stands in a row of so many words
        """
        return cls(
            len(registers),
            tuple(
                _gather(kind, registers, start, words)
                for kind in WORDS
                if any(r.type == kind for r in registers)
            ),
            tuple(
                _Text(i, slice(at, at + r.words), r.length)
                for i, r in enumerate(registers)
                if r.type == "text"
                for at in [int(start[i]) + (words if r.is_swapped else 0)]
            ),
            any(r.is_swapped for r in registers),
            _Scaling(
                _unless_all([float(r.ratio.numerator) for r in registers], 1.0),
                _unless_all([float(r.ratio.denominator) for r in registers], 1.0),
                _unless_all([r.offset for r in registers], 0.0),
                np.array([i for i, r in enumerate(registers) if r.exponent is not None], np.intp),
                np.array([r.exponent for r in registers if r.exponent is not None], np.intp),
            ),
            _limits(registers),
        )

    def decode(
        self, words: U16, lost: U8 | None, texts: Mapping[int, TextReader]
    ) -> tuple[F64, U8]:
        """Return values (k, n) in tag units and qualities (k, n); see ``ReadPlan.decode``."""
        shape = (self.columns, len(words))
        value, quality = np.empty(shape), np.zeros(shape, np.uint8)
        source = words.astype("<u2", copy=False)
        if self.swapped:
            source = np.concatenate((source, source.byteswap()), axis=1)
        with np.errstate(invalid="ignore", over="ignore"):  # answers may hold any bits
            for gather in self.gathers:
                gather.decode(source, value, quality)
            for text in self.texts:
                self._read(text, source, value, lost, texts)
            self.scaling.apply(value)
        if self.limits is not None:
            outside = (value < self.limits[0]) | (value > self.limits[1])
            quality[outside & (quality < Quality.UNCERTAIN_RANGE)] = Quality.UNCERTAIN_RANGE
        void = ~np.isfinite(value)
        if void.any():
            quality[void] = Quality.BAD_NOT_AVAILABLE
            value[void] = np.nan
        if lost is not None and lost.any():
            gone = lost.T >= Quality.BAD
            np.copyto(quality, lost.T, where=gone)
            value[gone] = np.nan
        scaled, exponents = self.scaling.scaled, self.scaling.exponents
        if len(scaled):  # a value is no better than its exponent
            quality[scaled] = np.maximum(quality[scaled], quality[exponents])
            value[quality >= Quality.BAD] = np.nan
        return value, quality

    @staticmethod
    def _read(
        text: _Text, source: U16, value: F64, lost: U8 | None, texts: Mapping[int, TextReader]
    ) -> None:
        """Fill in a column of texts; an answer that was lost holds none."""
        value[text.column] = np.nan
        rows = np.arange(len(source)) if lost is None else np.flatnonzero(lost[:, text.column] == 0)
        if text.column in texts and len(rows):
            sent = np.ascontiguousarray(source[rows, text.words].byteswap()).view(np.uint8)
            value[text.column, rows] = texts[text.column].numbers(sent[:, : text.length])


def _text(written: bytes) -> str | None:
    """Return the text that bytes are; None if they are none."""
    plain = written.split(b"\0", 1)[0]
    for encoding in ("utf-8", "gbk"):
        try:
            text = plain.decode(encoding).rstrip()
        except UnicodeDecodeError:
            continue
        if all(letter.isprintable() or letter.isspace() for letter in text):
            return text
    return None


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
    chosen, size = [i for i, r in enumerate(columns) if r.type == kind], WORDS[kind]
    index = []
    for i in chosen:
        steps = range(size) if columns[i].is_low_word_first else reversed(range(size))
        base = int(start[i]) + (words if columns[i].is_swapped else 0)
        index += [base + step for step in steps]
    return _Gather(
        np.array(chosen, np.intp),
        np.array(index, np.intp),
        _numbers(kind, [columns[i] for i in chosen]),
        kind in {"u64", "i64", "m10k64", "bcd64"},
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
