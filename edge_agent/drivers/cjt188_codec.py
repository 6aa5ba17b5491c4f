"""Frames of CJ/T 188 (water, heat and gas meters), for reading and nothing else; pure.

::

    FE FE FE FE  68 T A0..A6 C L DI DI SER DATA CS 16

T is the type of the meter, A0 to A6 are fourteen digits, the lowest pair first; AAH stands for
any. CS is the sum of all bytes from the first 68H on, and a frame whose sum is wrong is none. The
two bytes of a data identifier go low one first (1F 90) or high one first (90 1F): meters of both
kinds are in use, whatever the edition says. SER is repeated in the answer.

There is no function here that takes a control code: the requests that can be made are read (01H)
and read the address (03H), each spelt out. So this package cannot close a valve.

Source: CJ/T 188-2004 and -2018, 6 and 7 and their tables of data identifiers and units.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_agent.drivers.octet_frames import NOT_AVAILABLE, digits, sealed
from edge_agent.units import Unit

ANYBODY = "A" * 14
METERING, ADDRESS = 0x901F, 0x810A
_ITEMS = {METERING, ADDRESS}
Order = Literal["901F", "1F90"]
ORDERS: tuple[Order, ...] = ("1F90", "901F")  # how a data identifier goes over the wire

_HEADER = 11  # from 68H to L
_MARK = b"\x68"

UNITS: Mapping[int, str] = {
    0x01: "J", 0x02: "W.h", 0x05: "kW.h", 0x08: "MW.h", 0x0A: "100.MW.h", 0x0B: "kJ", 0x0E: "MJ",
    0x11: "GJ", 0x13: "100.GJ", 0x14: "W", 0x17: "kW", 0x1A: "MW", 0x29: "L", 0x2C: "m3",
    0x32: "L/h", 0x35: "m3/h",
}  # fmt: skip

Category = Literal["water", "heat", "gas"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame says.

    type     of the meter: 10H to 19H water, 20H to 29H heat, 30H to 39H gas
    address  fourteen digits, the highest first; "A" where any is meant
    data     identifier and SER included
    """

    type: int
    address: str
    control: int
    data: bytes

    @property
    def is_answer(self) -> bool:
        """True for what a meter sends."""
        return bool(self.control & 0x80)

    @property
    def is_refusal(self) -> bool:
        """True where the meter does not do what it was asked for."""
        return bool(self.control & 0x40)

    @property
    def function(self) -> int:
        """What was asked for: 01H, 03H."""
        return self.control & 0x3F

    @property
    def serial(self) -> int | None:
        """The running number of the request that it answers."""
        place = 0 if self.is_refusal else 2
        return self.data[place] if len(self.data) > place else None

    @property
    def item(self) -> int | None:
        """The data identifier that it is about, in either order; None where it carries none."""
        if self.is_refusal or len(self.data) < 3:
            return None
        number = int.from_bytes(self.data[:2], "big")
        return number if number in _ITEMS else int.from_bytes(self.data[:2], "little")


# ---- addresses -------------------------------------------------------------------------------


def parse_address(text: str) -> str:
    """Return the fourteen digits of a meter's address, short ones filled up with 0.

    errors  ``ValueError`` if it is none
    """
    whole = text.upper().zfill(14)
    if not text or not re.fullmatch(r"[0-9A-F]{14}", whole):
        raise ValueError(
            f'"{text}" is no address of a meter (write its up to 14 digits, the maker\'s four '
            "first: 78330011223344; pairs AA stand for any)"
        )
    return whole


def is_one_of(address: str, asked: str) -> bool:
    """Return whether a meter's address is one that was asked for, as far as it says digits."""
    pairs = zip(bytes.fromhex(address), bytes.fromhex(asked), strict=True)
    return all(0xAA in {mine, its} or mine == its for mine, its in pairs)


# ---- requests --------------------------------------------------------------------------------


def read(meter: int, address: str, serial: int, order: Order = "1F90") -> bytes:
    """Return the request for all that a meter shows (901FH).

    serial  repeated in the answer, 0 to 255
    """
    head = _MARK + bytes((meter,)) + bytes.fromhex(address)[::-1] + b"\x01\x03"
    return sealed(head + _identifier(METERING, order) + bytes((serial,)))


def read_address(meter: int, serial: int, order: Order = "1F90") -> bytes:
    """Return the request by which the only meter on a line says its address (810AH)."""
    head = _MARK + bytes((meter,)) + bytes.fromhex(ANYBODY) + b"\x03\x03"
    return sealed(head + _identifier(ADDRESS, order) + bytes((serial,)))


def _identifier(item: int, order: Order) -> bytes:
    return item.to_bytes(2, "big" if order == "901F" else "little")


# ---- answers ---------------------------------------------------------------------------------


def size(octets: bytes, at: int) -> int:
    """Return the length of the frame that begins at a 68H, see ``octet_frames.Size``."""
    return _HEADER + 2 + (octets[at + 10] if len(octets) > at + 10 else 0)


def parse(frame: bytes) -> Frame:
    """Return what a whole frame without preamble says."""
    return Frame(frame[1], frame[8:1:-1].hex().upper(), frame[9], frame[_HEADER:-2])


@dataclass(frozen=True, slots=True)
class Field:
    """One value of an answer.

    begin     where it stands behind SER
    octets    its length without the byte of the unit; BCD, the lowest pair first
    decimals  digits behind the point
    unit      what it measures; the answer says in which unit, unless ``has_unit`` is False
    """

    begin: int
    octets: int
    decimals: int = 0
    unit: str = "1"
    has_unit: bool = False
    is_bits: bool = False


_WATER = {
    "volume": Field(0, 4, 2, "m3", has_unit=True),
    "volume_settled": Field(5, 4, 2, "m3", has_unit=True),
    "time": Field(10, 7),
    "status": Field(17, 2, is_bits=True),
}
_HEAT = {
    "heat_settled": Field(0, 4, 2, "kW.h", has_unit=True),
    "heat": Field(5, 4, 2, "kW.h", has_unit=True),
    "power": Field(10, 4, 2, "kW", has_unit=True),
    "flow": Field(15, 4, 4, "m3/h", has_unit=True),
    "volume": Field(20, 4, 2, "m3", has_unit=True),
    "temperature_supply": Field(25, 3, 2, "Cel"),
    "temperature_return": Field(28, 3, 2, "Cel"),
    "hours": Field(31, 3, 0, "h"),
    "time": Field(34, 7),
    "status": Field(41, 2, is_bits=True),
}
FIELDS: Mapping[Category, Mapping[str, Field]] = {"water": _WATER, "heat": _HEAT, "gas": _WATER}
LENGTH: Mapping[Category, int] = {"water": 19, "heat": 43, "gas": 19}
"""Bytes behind SER."""


def category(meter: int) -> Category | None:
    """Return what a type of meter measures."""
    found: dict[int, Category] = {1: "water", 2: "heat", 3: "gas"}
    return found.get(meter >> 4)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tag stands in the answer; bit: of the status word."""

    name: str
    field: Field
    bit: int | None = None


def place(at: str, kind: Category) -> Place:
    """Return where a tag stands; ``ValueError`` says what would be right."""
    name, dot, bit = at.strip().partition(".")
    field = FIELDS[kind].get(name)
    if field is None:
        known = ", ".join(FIELDS[kind])
        raise ValueError(
            f'"{at}" is nothing that a {kind} meter shows (it shows {known}, and bits: status.2; '
            "which kind it is says type= in the address: 10 water, 20 heat, 30 gas)"
        )
    if not dot:
        return Place(name, field)
    if not field.is_bits or not (bit.isascii() and bit.isdecimal()) or int(bit) > 15:
        raise ValueError(f'"{at}": only status has bits, 0 to 15 (status.2)')
    return Place(name, field, int(bit))


@dataclass(frozen=True, slots=True)
class Reading:
    """A number as the meter says it: ``raw / 10**decimals`` in ``unit``."""

    raw: int
    decimals: int
    unit: Unit


def reading(where: Place, data: bytes, *, unit_first: bool = False) -> Reading | None:
    """Return a number of an answer; None where the meter has no value.

    data        what stands behind SER
    unit_first  the meter sends the byte of the unit before the digits, not behind them
    errors      ``ValueError`` for a unit that the table does not know
    """
    field = where.field
    begin = field.begin + (1 if field.has_unit and unit_first else 0)
    octets = data[begin : begin + field.octets]
    if len(octets) < field.octets or octets == bytes((NOT_AVAILABLE,)) * field.octets:
        return None
    if field.is_bits:
        word = int.from_bytes(octets, "little")
        return Reading(word if where.bit is None else word >> where.bit & 1, 0, Unit.parse("1"))
    number = digits(octets)
    if number is None:
        return None
    unit = field.unit
    if field.has_unit:
        code = data[field.begin if unit_first else field.begin + field.octets]
        if code not in UNITS:
            raise ValueError(f"{code:02X}H is no unit of CJ/T 188")
        unit = UNITS[code]
    return Reading(number, field.decimals, Unit.parse(unit))
