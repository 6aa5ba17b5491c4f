"""One Modbus tag as plan and decoding need it, and which number types there are.

Word and byte order. Letters name the bytes of a 32-bit number from the most significant on; the
order says how they follow each other on the wire. ``CDAB`` means the least significant word
first, ``BADC`` the bytes of each word swapped, ``DCBA`` both; the same two rules hold for 16, 48
and 64 bits. Of a text only the second one matters: its words always follow each other.

Modulo-10000 (``m10k``): each register holds 0 to 9999, a digit of base 10000. ``ABCD`` is the
most significant register first, as for every other type; meters that send the lowest first are
``CDAB``.
"""

from dataclasses import dataclass
from fractions import Fraction

from edge_agent.drivers.base import NumberType, Order
from edge_agent.drivers.modbus_address import Address, Table

Span = tuple[Table, int, int]  # table, first and last address

WORDS: dict[NumberType, int] = {
    "bool": 1, "u16": 1, "i16": 1, "u32": 2, "i32": 2, "u64": 4, "i64": 4, "f32": 2, "f64": 4,
    "bcd16": 1, "bcd32": 2, "bcd64": 4, "m10k32": 2, "m10k48": 3, "m10k64": 4,
}  # fmt: skip
LARGEST: dict[NumberType, int] = {
    "f32": (2**24 - 1) << 104,
    "f64": (2**53 - 1) << 971,
}


@dataclass(frozen=True, slots=True)
class Register:
    """One tag as the plan needs it: where it stands and how its words become a number.

    ratio     exact; value = raw * ratio * 10**exponent + offset, rounded once for integers up to
              2**53
    invalid   raw numbers that mean no value; of integers the two's complement may be written
              unsigned
    low, high limits in tag units
    length    characters of a text, two in a register
    exponent  the column of the same stream that holds the decimal exponent
    """

    address: Address
    type: NumberType = "u16"
    order: Order = "ABCD"
    ratio: Fraction = Fraction(1)
    offset: float = 0.0
    invalid: tuple[int, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    length: int = 0
    exponent: int | None = None

    @property
    def words(self) -> int:
        """How many registers (or bits of a bit table) it takes."""
        if self.address.table.is_bits:
            return 1
        return max(1, -(-self.length // 2)) if self.type == "text" else WORDS[self.type]

    @property
    def first(self) -> int:
        """The wire address of its first register or bit."""
        return self.address.number

    @property
    def last(self) -> int:
        """The wire address of its last register or bit."""
        return self.first + self.words - 1

    @property
    def span(self) -> Span:
        """Its table, first and last address."""
        return self.address.table, self.first, self.last

    @property
    def is_low_word_first(self) -> bool:
        """True where its least significant word comes first."""
        return self.order in {"CDAB", "DCBA"}

    @property
    def is_swapped(self) -> bool:
        """True where the bytes of its words come swapped."""
        return self.order in {"BADC", "DCBA"} and not self.address.table.is_bits


def as_stored(kind: NumberType, number: int) -> int:
    """Return a raw number as the type holds it: ``0x8000`` is -32768 in an ``i16``."""
    if kind not in {"u16", "i16", "u32", "i32", "u64", "i64"}:
        return number
    bits = 16 * WORDS[kind]
    pattern = number % (1 << bits)
    return pattern - (1 << bits) if kind[0] == "i" and pattern >> (bits - 1) else pattern


def fits(kind: NumberType, number: int) -> bool:
    """Return whether a type can hold a raw number, integers also as their bit pattern."""
    if kind in LARGEST:
        return abs(number) <= LARGEST[kind]
    if kind in {"bool", "text"}:
        return True
    if kind.startswith(("bcd", "m10k")):  # a word holds four decimal digits
        return number >= 0 and len(str(number)) <= 4 * WORDS[kind]
    bits = 16 * WORDS[kind]
    lowest = -(1 << (bits - 1)) if kind[0] == "i" else 0
    return lowest <= number < 1 << bits
