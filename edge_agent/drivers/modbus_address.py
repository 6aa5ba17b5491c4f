"""Where a Modbus tag stands: a table, a zero-based wire address and, for one bit, its number.

Manuals count from one and put the table in front (``40001``); the wire counts from zero. Both are
taken, and everything is shown in the second form, because it is the one that cannot be misread.

Source: MODBUS Application Protocol V1.1b3, 4.3 and 4.4.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


class Table(Enum):
    """The four tables: prefix, the function that reads it, first digit in manuals."""

    COILS = ("co", 1, "0")
    DISCRETE_INPUTS = ("di", 2, "1")
    HOLDING_REGISTERS = ("hr", 3, "4")
    INPUT_REGISTERS = ("ir", 4, "3")

    def __init__(self, prefix: str, function: int, digit: str) -> None:
        self.prefix = prefix
        self.function = function
        self.digit = digit

    @property
    def is_bits(self) -> bool:
        """True for tables of single bits."""
        return self.function <= 2


_BY_PREFIX = {table.prefix: table for table in Table}
_BY_DIGIT = {table.digit: table for table in Table}
_WIRE = re.compile(r"(hr|ir|co|di):(0x[0-9a-f]+|\d+)(?:\.(\d+))?", re.ASCII)
_MANUAL = re.compile(r"(hr|ir|co|di)?([0134])(\d{4}|\d{5})(?:\.(\d+))?", re.ASCII)
_RIGHT = "write 40001 or hr40001 as in the manual, or hr:0, ir:0, co:0, di:0 counted from zero"
LAST = 0xFFFF


@dataclass(frozen=True, slots=True)
class Address:
    """A table and a zero-based wire address; ``str`` is the canonical form ``hr:5.3``.

    bit  0 (least significant) to 15 of a register; None: the whole register, or a coil
    """

    table: Table
    number: int
    bit: int | None = None

    def __str__(self) -> str:
        return f"{self.table.prefix}:{self.number}" + ("" if self.bit is None else f".{self.bit}")

    @classmethod
    @lru_cache(maxsize=4096)  # the devices of one model have the same, each asks several times
    def parse(cls, text: str) -> "Address":
        """Return the address a person wrote; ``ValueError`` says what would be right."""
        plain = text.strip().lower()
        if match := _WIRE.fullmatch(plain):
            table, number = _BY_PREFIX[match[1]], int(match[2], 0 if "x" in match[2] else 10)
            bit = match[3]
        elif match := _MANUAL.fullmatch(plain):
            table, number, bit = _BY_DIGIT[match[2]], int(match[3]) - 1, match[4]
            if match[1] not in {None, table.prefix}:
                right = _BY_PREFIX[match[1]].digit
                raise ValueError(f'"{text}": {match[1]} addresses begin with {right} ({_RIGHT})')
        else:
            raise ValueError(f'"{text}" is not a Modbus address ({_RIGHT})')
        if number < 0:
            raise ValueError(f'"{text}": the manual\'s addresses begin at 1 ({_RIGHT})')
        if number > LAST:
            raise ValueError(f'"{text}": the last address is {table.prefix}:{LAST}')
        return cls(table, number, _bit(text, table, bit))


def _bit(text: str, table: Table, written: str | None) -> int | None:
    if written is None:
        return None
    if table.is_bits:
        raise ValueError(f'"{text}": {table.prefix} holds single bits, leave out ".{written}"')
    if int(written) > 15:
        raise ValueError(f'"{text}": a register has the bits 0 to 15')
    return int(written)
