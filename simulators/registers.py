"""Values to register words, the way a device does it; apart from the agent's decoder on purpose."""

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from edge_agent.units import Unit
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow

Area = Literal["co", "di", "hr", "ir"]

WORDS = {
    "bool": 1, "u16": 1, "i16": 1, "bcd16": 1, "u32": 2, "i32": 2, "f32": 2, "bcd32": 2,
    "bcd64": 4, "m10k32": 2, "m10k48": 3, "u64": 4, "i64": 4, "f64": 4, "m10k64": 4,
}  # fmt: skip
_AREAS: dict[str, Area] = {"0": "co", "1": "di", "3": "ir", "4": "hr"}
_PREFIXES: dict[str, Area] = {"co": "co", "di": "di", "ir": "ir", "hr": "hr"}
NEAR = 1e-6  # of a step: a number this close below the next step is that step, not a rounding error


def place(at: str) -> tuple[Area, int, int | None]:
    """Return area, zero-based address and bit of a written address; ``ValueError`` if it is none.

    ``hr:0x10``, ``hr:5.3``, ``ir:4`` count from zero; ``40001``, ``400001``, ``hr40001`` from one.
    """
    match = re.fullmatch(r"(co|di|ir|hr):(0x[0-9A-Fa-f]+|\d+)(?:\.(\d+))?", at)
    if match:
        return _PREFIXES[match[1]], int(match[2], 0), None if match[3] is None else int(match[3])
    match = re.fullmatch(r"(?:co|di|ir|hr)?([0134])(\d{4,5})(?:\.(\d+))?", at)
    if match:
        return _AREAS[match[1]], int(match[2]) - 1, None if match[3] is None else int(match[3])
    raise ValueError(f"{at!r} is no Modbus address (write hr:0x10 or 40017)")


def words_of(raw: float, type_: str, order: str, modulus: int | None = None) -> list[int]:
    """Return the words of a raw number: integers are cut off, wrap at the modulus and saturate."""
    if type_ in {"f32", "f64"}:
        packed = struct.pack(">f" if type_ == "f32" else ">d", raw)
    else:
        number = math.floor(raw + NEAR)
        packed = _packed(number if modulus is None else number % modulus, type_)
    words = list(struct.unpack(f">{len(packed) // 2}H", packed))
    if order in {"CDAB", "DCBA"}:
        words.reverse()
    if order in {"BADC", "DCBA"}:
        words = [word >> 8 | (word & 0xFF) << 8 for word in words]
    return words


def _packed(number: int, type_: str) -> bytes:
    size = 2 * WORDS[type_]
    if type_.startswith("bcd"):
        return bytes.fromhex(f"{number % 10 ** (2 * size):0{2 * size}d}")
    if type_.startswith("m10k"):
        digits = f"{number % 10000 ** (size // 2):0{2 * size}d}"
        parts = [int(digits[i : i + 4]) for i in range(0, len(digits), 4)]
        return struct.pack(f">{len(parts)}H", *parts)
    if type_ == "bool":
        return struct.pack(">H", int(number != 0))
    signed = type_.startswith("i")
    low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if signed else (0, 1 << 8 * size)
    return min(max(number, low), high - 1).to_bytes(size, "big", signed=signed)


@dataclass(frozen=True)
class Register:
    """One tag where it stands.

    width    words, or one for a coil
    wraps    raw count at which a counter begins again; None for what is no integer counter
    reading  the value in the tag's unit at an instant
    exponent of ten that another tag shows, at an instant
    """

    tag: TagRow
    area: Area
    address: int
    bit: int | None
    wraps: int | None
    reading: Callable[[int], float]
    exponent: Callable[[int], float] | None = None

    @property
    def width(self) -> int:
        """How many addresses it takes."""
        return 1 if self.area in {"co", "di"} or self.bit is not None else WORDS[self.tag.type]

    def words(self, t: int) -> list[int]:
        """Return its words (or its bit) at an instant."""
        factor = float(self.tag.factor)
        if self.exponent is not None:
            factor *= 10.0 ** self.exponent(t)
        raw = (self.reading(t) - self.tag.offset) / factor
        if self.area in {"co", "di"}:
            return [int(raw != 0)]
        if self.bit is not None:
            return [int(raw != 0) << self.bit]
        return words_of(raw, self.tag.type, self.tag.order, self.wraps)


def wraps(tag: TagRow) -> int | None:
    """Return the raw count at which an integer counter begins again."""
    if tag.kind != "counter" or tag.type in {"f32", "f64", "bool"}:
        return None
    natural = {"u": 1 << 16 * WORDS[tag.type], "i": 1 << 16 * WORDS[tag.type] - 1}
    return tag.modulus or natural.get(tag.type[0])


def _converted(source: Source, tag: TagRow) -> Callable[[int], float]:
    factor = Unit.parse(source.unit(tag.name)).factor_to(Unit.parse(tag.unit))
    return lambda t: source.value(tag.name, t) * factor


def _exponent(source: Source, name: str | None) -> Callable[[int], float] | None:
    return None if name is None else lambda t: source.value(name, t)


class Refused(Exception):
    """The device answers with an exception code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exception {code}")


class RegisterMap:
    """A device's registers, and what may be read of them.

    Within its sections (or, without sections, within gaps of ``max_gap``) an address without a tag
    reads 0, as on a real meter; any other address is refused.
    """

    def __init__(self, table: DeviceTable, source: Source) -> None:
        self.max_registers = table.max_registers
        self._sections = table.sections
        self._at: dict[tuple[Area, int], list[tuple[Register, int]]] = {}
        self.registers = []
        for tag in table.tags:
            area, address, bit = place(tag.at)
            register = Register(
                tag, area, address, bit, wraps(tag), _converted(source, tag),
                _exponent(source, tag.scale_from),
            )  # fmt: skip
            self.registers.append(register)
            for offset in range(register.width):
                self._at.setdefault((area, address + offset), []).append((register, offset))
        self._gaps = self._small_gaps(table.max_gap)

    def _small_gaps(self, max_gap: int) -> set[tuple[Area, int]]:
        gaps: set[tuple[Area, int]] = set()
        taken = sorted(self._at)
        for (area, one), (next_area, other) in pairwise(taken):
            if area == next_area and other - one - 1 <= max_gap:
                gaps.update((area, address) for address in range(one + 1, other))
        return gaps

    def _readable(self, area: Area, address: int, count: int) -> bool:
        stop = address + count
        if self._sections and area in {"hr", "ir"}:
            return any(low <= address and stop - 1 <= high for low, high in self._sections)
        cells = ((area, a) for a in range(address, stop))
        return all(cell in self._at or cell in self._gaps for cell in cells)

    def read(self, area: Area, address: int, count: int, t: int) -> list[int]:
        """Return the words (or bits) of one instant; ``Refused`` with the code of the device."""
        if not 1 <= count <= (2000 if area in {"co", "di"} else self.max_registers):
            raise Refused(3)
        if not self._readable(area, address, count):
            raise Refused(2)
        known: dict[int, list[int]] = {}
        answer = [0] * count
        for offset in range(count):
            for register, word in self._at.get((area, address + offset), ()):
                if id(register) not in known:
                    known[id(register)] = register.words(t)
                answer[offset] |= known[id(register)][word]
        return answer
