"""What the data identifiers of DL/T 645 hold: format, length and unit of each; pure.

A ``Layout`` is one value or, of a block (FFH in the place of a tariff or phase), as many of the
same form as the meter has. ``place`` reads how a person writes it:

::

    di:00010000          a data identifier, also 00010000 or 00-01-00-00 (1997: di:9010)
    di:0201FF00[2]       a member of a block, counted from 0
    di:01010000.time     when the maximum demand was, as the digits YYMMDDhhmm
    di:04000503.4        a bit of a status word

Dates and times are numbers of their digits as well (YYMMDDWW, hhmmss): the meter's clock knows no
zone.

Source: DL/T 645-2007, appendix A (tables A.1 to A.6), with what makers have added to it: line
voltages and the amounts left of prepaid meters; DL/T 645-1997, appendix A.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from edge_agent.drivers.octet_frames import NOT_AVAILABLE, digits

Form = Literal["number", "bits"]


@dataclass(frozen=True, slots=True)
class Field:
    """One number of an answer.

    octets    its length on the wire; BCD, two digits each, the lowest pair first
    decimals  digits behind the point
    signed    whether the highest bit is the sign
    unit      of the number; the secondary side's, unless the meter is set otherwise
    """

    octets: int
    decimals: int = 0
    unit: str = "1"
    signed: bool = False
    form: Form = "number"

    def raw(self, octets: bytes) -> int | None:
        """Return its digits as an integer; None where the meter has no value, or none is there."""
        if len(octets) != self.octets or octets == bytes((NOT_AVAILABLE,)) * self.octets:
            return None
        if self.form == "bits":
            return int.from_bytes(octets, "little")
        if self.signed and octets[-1] & 0x80:
            number = digits(octets[:-1] + bytes((octets[-1] & 0x7F,)))
            return None if number is None else -number
        return digits(octets)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the answer to a data identifier holds.

    fields  of one member: a value, or a value and its time
    block   whether as many members follow each other as the meter has
    """

    fields: tuple[Field, ...]
    block: bool = False

    @property
    def octets(self) -> int:
        """The length of one member."""
        return sum(field.octets for field in self.fields)

    def fits(self, length: int) -> bool:
        """Return whether an answer of so many bytes can be one."""
        if self.block:
            return length > 0 and length % self.octets == 0
        return length == self.octets


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tag stands.

    member  of a block, counted from 0
    part    which field of a member
    bit     of a status word; None: the whole
    """

    item: int
    layout: Layout
    member: int = 0
    part: int = 0
    bit: int | None = None

    @property
    def field(self) -> Field:
        """How the number is written."""
        return self.layout.fields[self.part]

    def raw(self, data: bytes) -> int | None:
        """Return the number in an answer's data; None where the meter has no value."""
        before = sum(field.octets for field in self.layout.fields[: self.part])
        begin = self.member * self.layout.octets + before
        number = self.field.raw(data[begin : begin + self.field.octets])
        return number if number is None or self.bit is None else number >> self.bit & 1


_TIME = Field(5)  # YYMMDDhhmm
_PLAIN = {n: Field(n) for n in (1, 2, 3, 4, 6)}
_STATUS = Field(2, form="bits")
_VOLTAGE = Field(2, 1, "V")
_PERCENT = Field(2, 2, "%")

# kind of energy -> (unit without h, signed); phases begin at 15H, 29H and 3DH with kind 1
_KINDS = {
    0x00: ("kW", True), 0x01: ("kW", False), 0x02: ("kW", False), 0x03: ("kvar", True),
    0x04: ("kvar", True), 0x05: ("kvar", False), 0x06: ("kvar", False), 0x07: ("kvar", False),
    0x08: ("kvar", False), 0x09: ("kVA", False), 0x0A: ("kVA", False),
}  # fmt: skip
_PHASES = (0x15, 0x29, 0x3D)
_LOSSES = range(0x80, 0x87)  # associated, fundamental, harmonic and loss energies, kWh

# variables 02 vv pp 00: vv -> (field, is there a total at pp 0)
_VARIABLES = {
    0x01: (_VOLTAGE, False),
    0x02: (Field(3, 3, "A", signed=True), False),
    0x03: (Field(3, 4, "kW", signed=True), True),
    0x04: (Field(3, 4, "kvar", signed=True), True),
    0x05: (Field(3, 4, "kVA", signed=True), True),
    0x06: (Field(2, 3, signed=True), True),
    0x07: (Field(2, 1, "deg"), False),
    0x08: (_PERCENT, False),
    0x09: (_PERCENT, False),
    0x0C: (_VOLTAGE, False),  # line voltages: common, but not in the standard's table
}
_SINGLE = {
    0x02800001: Field(3, 3, "A", signed=True),
    0x02800002: Field(2, 2, "Hz"),
    0x02800003: Field(3, 4, "kW", signed=True),
    0x02800004: Field(3, 4, "kW", signed=True),
    0x02800005: Field(3, 4, "kvar", signed=True),
    0x02800006: Field(3, 4, "kVA", signed=True),
    0x02800007: Field(2, 1, "Cel", signed=True),
    0x02800008: Field(2, 2, "V"),
    0x02800009: Field(2, 2, "V"),
    0x0280000A: Field(4, 0, "min"),
    0x0280000B: Field(4, 4, "CNY/kWh"),  # the price that holds now
    # of prepaid meters: what is left and what is owed, as energy and as money
    0x00900100: Field(4, 2, "kWh"),
    0x00900101: Field(4, 2, "kWh"),
    0x00900200: Field(4, 2, "CNY"),
    0x00900201: Field(4, 2, "CNY"),
    0x04000101: _PLAIN[4],  # YYMMDDWW, 0 is Sunday
    0x04000102: _PLAIN[3],  # hhmmss
    0x04000103: Field(1, 0, "min"),
    0x04000104: Field(1, 0, "min"),
    0x04000105: Field(2, 0, "ms"),
    **{0x04000200 + n: _PLAIN[2 if n == 5 else 1] for n in range(1, 7)},
    **{0x04000300 + n: _PLAIN[1] for n in range(1, 6)},
    0x04000306: _PLAIN[3],  # current transformer ratio
    0x04000307: _PLAIN[3],  # voltage transformer ratio
    0x04000401: _PLAIN[6],
    0x04000402: _PLAIN[6],
    0x04000409: _PLAIN[3],  # imp/kWh
    0x0400040A: _PLAIN[3],  # imp/kvarh
    **{0x04000500 + n: _STATUS for n in range(1, 8)},
}

_FIELDS_1997 = {
    0xB61: Field(2, 0, "V"),
    0xB62: Field(2, 2, "A"),
    0xB63: Field(3, 4, "kW"),
    0xB64: Field(2, 2, "kvar"),
    0xB65: Field(2, 3),
}
_SINGLE_1997 = {
    0xC010: _PLAIN[4],  # YYMMDDWW
    0xC011: _PLAIN[3],  # hhmmss
    0xC020: Field(1, form="bits"),
    0xC021: Field(1, form="bits"),
    0xC030: _PLAIN[3],
    0xC031: _PLAIN[3],
    0xC032: _PLAIN[6],
    0xC033: _PLAIN[6],
    0xC034: _PLAIN[6],
}


def layout(item: int, version: str = "2007") -> Layout | None:
    """Return what the answer to a data identifier holds; None where the table has none."""
    if version == "1997":
        return _layout_1997(item)
    if item in _SINGLE:
        return Layout((_SINGLE[item],))
    if item == 0x040005FF:
        return Layout((_STATUS,), block=True)
    by_category = {0x00: _accumulated, 0x01: _accumulated, 0x02: _variable, 0x05: _frozen}
    found = by_category.get(item >> 24)
    return None if found is None else found(*item.to_bytes(4, "big"))


def _accumulated(category: int, kind: int, tariff: int, day: int) -> Layout | None:
    """Return energies (0) and maximum demands (1) by kind, tariff and settlement day."""
    phase = next((kind - first + 1 for first in _PHASES if 0 <= kind - first < 10), None)
    if kind in _LOSSES and category == 0:
        unit, signed = "kW", False
    elif kind in _KINDS or phase in _KINDS:
        unit, signed = _KINDS[kind if phase is None else phase]
    else:
        return None
    alone = phase is not None or kind in _LOSSES
    if (alone and tariff) or not (tariff <= 0x3F or tariff == 0xFF) or day > 0x0C:
        return None
    energy, demand = (Field(4, 2, unit + "h", signed),), (Field(3, 4, unit, signed), _TIME)
    return Layout(demand if category else energy, block=tariff == 0xFF)


def _variable(_category: int, kind: int, phase: int, order: int) -> Layout | None:
    if kind in {0x0A, 0x0B}:  # harmonics of a phase, up to the 21st
        known = phase in {1, 2, 3} and (1 <= order <= 0x15 or order == 0xFF)
        return Layout((_PERCENT,), block=order == 0xFF) if known else None
    if kind not in _VARIABLES or order:
        return None
    field, has_total = _VARIABLES[kind]
    if phase != 0xFF and not (0 if has_total else 1) <= phase <= 3:
        return None
    return Layout((field,), block=phase == 0xFF)


def _frozen(_category: int, how: int, what: int, row: int) -> Layout | None:
    """Return values frozen by time (0), at once (1), each hour (4), each day (6)."""
    if how not in {0x00, 0x01, 0x02, 0x03, 0x04, 0x06} or not 1 <= row <= 0xFE:
        return None
    if what == 0x00:
        return Layout((_TIME,))
    if 0x01 <= what <= 0x08:
        unit, signed = _KINDS[what]
        return Layout((Field(4, 2, unit + "h", signed),), block=how != 0x04)
    if what in {0x09, 0x0A} and how != 0x04:
        return Layout((Field(3, 4, "kW"), _TIME), block=True)
    if what == 0x10 and how != 0x04:
        return Layout((Field(3, 4, "kW", signed=True),), block=True)
    return None


def _layout_1997(item: int) -> Layout | None:
    if item in _SINGLE_1997:
        return Layout((_SINGLE_1997[item],))
    group, last = item >> 4, item & 0xF
    if group in _FIELDS_1997:
        first = 1 if group in {0xB61, 0xB62} else 0
        known = first <= last <= 3 or last == 0xF
        return Layout((_FIELDS_1997[group],), block=last == 0xF) if known else None
    # 9xxx energies, Axxx demands, Bxxx their times; bits 11-10: this month, the last, before that
    category, kind = item >> 12, item >> 4 & 0x3F
    if category not in {0x9, 0xA, 0xB} or item >> 10 & 3 == 3:
        return None
    reactive = {0x11: "kvar", 0x12: "kvar", 0x13: "kvar", 0x14: "kvar", 0x15: "kvar", 0x16: "kvar"}
    unit = {0x01: "kW", 0x02: "kW", **reactive}.get(kind)
    if unit is None:
        return None
    field = {0x9: Field(4, 2, unit + "h"), 0xA: Field(3, 4, unit), 0xB: _PLAIN[4]}[category]
    return Layout((field,), block=last == 0xF)


# ---- blocks ----------------------------------------------------------------------------------


def block_of(item: int, version: str = "2007") -> tuple[int, int] | None:
    """Return the block that a data identifier is a member of, and which; None: of none."""
    if version == "1997":
        block, first = item | 0xF, 1 if item >> 4 in {0xB61, 0xB62} else 0
        member = (item & 0xF) - first
    elif item >> 24 == 0x02 and item >> 16 & 0xFF in {0x0A, 0x0B}:
        block, member = item | 0xFF, (item & 0xFF) - 1
    elif item >> 8 == 0x040005:
        block, member = 0x040005FF, (item & 0xFF) - 1
    else:
        block, member = item | 0xFF00, item >> 8 & 0xFF
        kind = item >> 16 & 0xFF
        if item >> 24 == 0x02 and kind in _VARIABLES and not _VARIABLES[kind][1]:
            member -= 1
    one, all_ = layout(item, version), layout(block, version)
    if one is None or one.block or all_ is None or not all_.block or one.fields != all_.fields:
        return None
    return block, member


# ---- what a person writes --------------------------------------------------------------------

_TABLE = {
    "2007": "energies 00…, demands 01…, measured values 02…, clock and status 04…, frozen 05…",
    "1997": "energies 9…, demands A… and their times B…, measured values B6…, clock, status C0…",
}
_EXAMPLE = {
    "2007": "di:00010000, of a block a member: di:0201FF00[2]",
    "1997": "di:9010, of a block a member: di:B61F[2]",
}
_AT = re.compile(r"(?:di:)?([0-9A-F]+)(?:\[(\d+)\])?(?:\.(time|\d+))?", re.IGNORECASE | re.ASCII)


def place(at: str, version: str = "2007") -> Place:
    """Return where a tag stands; ``ValueError`` says what would be right."""
    length, other = (8, "1997") if version == "2007" else (4, "2007")
    match = _AT.fullmatch(at.replace("-", "").strip())
    if match is None or len(match[1]) != length:
        hint = f"; with version={other} in the address it is one of the other edition's"
        wrong_edition = match is not None and len(match[1]) in {4, 8}
        raise ValueError(
            f'"{at}" is no data identifier of DL/T 645-{version} (write {length} hexadecimal '
            f"digits: {_EXAMPLE[version]}{hint if wrong_edition else ''})"
        )
    item = int(match[1], 16)
    found = layout(item, version)
    if found is None:
        raise ValueError(
            f"{match[1].upper()} is not in the table of DL/T 645-{version} ({_TABLE[version]})"
        )
    if found.block and match[2] is None:
        raise ValueError(f'"{at}" is a block: name one of its members, from 0 on ({at}[0])')
    if match[2] is not None and not found.block:
        raise ValueError(f'"{at}" is one value, not a block (a block: {_EXAMPLE[version]})')
    which = int(match[2] or 0)
    if which > 63:
        raise ValueError(f'"{at}": no block has more than 64 members, counted from 0')
    return _part(at, Place(item, found, which), match[3])


def _part(at: str, whole: Place, part: str | None) -> Place:
    if part is None:
        return whole
    found = whole.layout
    if part.lower() == "time":
        if len(found.fields) == 1:
            raise ValueError(f'"{at}": only a maximum demand has a time (di:01010000.time)')
        return replace(whole, part=1)
    if found.fields[0].form != "bits":
        raise ValueError(f'"{at}": only status words have bits (di:04000503.4)')
    if int(part) >= 8 * found.octets:
        raise ValueError(f'"{at}": its bits are 0 to {8 * found.octets - 1}')
    return replace(whole, bit=int(part))


def canonical(where: Place, version: str = "2007") -> str:
    """Return a place as it is best written."""
    text = f"di:{where.item:0{8 if version == '2007' else 4}X}"
    if where.layout.block:
        text += f"[{where.member}]"
    if where.part:
        text += ".time"
    return text if where.bit is None else f"{text}.{where.bit}"
