"""Electricity meters that speak DL/T 645-2007 or -1997, with values from a source.

A meter knows the data identifiers that its tags name and, where its table says ``blocks``, the
blocks that these are members of. To any other it says that it has no such data. Answers too long
for a frame go on in further ones.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random

from edge_agent.clock import SECOND, Clock
from simulators.conduct import Exchange, Line
from simulators.faults import Script, Trouble
from simulators.modbus_server import ScanLog
from simulators.octets import (
    MeterBase,
    OctetServer,
    bcd,
    decimal,
    option,
    reading,
    sealed,
)
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow
from simulators.truth import Outcome, Tally

LONGEST = 200  # bytes of DATA in one frame
OTHER_ERROR, NO_SUCH_DATA = 0x01, 0x02
_READ, _ON, _WHO = 0x11, 0x12, 0x13

# data identifiers -> digits as the standard's tables print them, a sign allowed, unit
_TABLE = (
    (r"0090010[01]", "XXXXXX.XX", False, "kWh"),
    (r"0090020[01]", "XXXXXX.XX", False, "CNY"),
    (r"0280000B", "XXXX.XXXX", False, "CNY/kWh"),
    (r"0400030[67]", "NNNNNN", False, "1"),
    (r"0400020[12346]|0400030[1-5]", "NN", False, "1"),
    (r"04000205", "NNNN", False, "1"),
    (r"000[034]....|00(17|18|2B|2C|3F|40)....", "XXXXXX.XX", True, "kWh"),
    (r"00......", "XXXXXX.XX", False, "kWh"),
    (r"01......", "XX.XXXX", True, "kW"),
    (r"0201....", "XXX.X", False, "V"),
    (r"0202....|02800001", "XXX.XXX", True, "A"),
    (r"020[345]....|0280000[3456]", "XX.XXXX", True, "kW"),
    (r"0206....", "X.XXX", True, "1"),
    (r"0207....", "XXX.X", False, "deg"),
    (r"020[89AB]....", "XX.XX", False, "%"),
    (r"020C....", "XXX.X", False, "V"),
    (r"02800002", "XX.XX", False, "Hz"),
    (r"02800007", "XXX.X", True, "Cel"),
    (r"0280000[89]", "XX.XX", False, "V"),
    (r"0280000A", "XXXXXXXX", False, "min"),
    (r"04000101", "YYMMDDWW", False, "1"),
    (r"04000102", "hhmmss", False, "1"),
    (r"0400010[34]", "NN", False, "min"),
    (r"0400010[5]", "XXXX", False, "ms"),
    (r"0400040[12]", "NNNNNNNNNNNN", False, "1"),
    (r"040004(09|0A)", "XXXXXX", False, "1"),
    (r"040005..", "bits16", False, "1"),
    (r"05..0[1-8]..", "XXXXXX.XX", False, "kWh"),
    (r"05..(09|0A)..", "XX.XXXX", False, "kW"),
    (r"05..10..", "XX.XXXX", True, "kW"),
    (r"9.[0-9A-F].", "XXXXXX.XX", False, "kWh"),
    (r"A...", "XX.XXXX", False, "kW"),
    (r"B61.", "XXX", False, "V"),
    (r"B62.", "XX.XX", False, "A"),
    (r"B63.", "XX.XXXX", False, "kW"),
    (r"B64.", "XX.XX", False, "kvar"),
    (r"B65.", "X.XXX", False, "1"),
    (r"B[014589]..", "MMDDhhmm", False, "1"),
    (r"C010", "YYMMDDWW", False, "1"),
    (r"C011", "hhmmss", False, "1"),
    (r"C02[01]", "bits8", False, "1"),
    (r"C03[01]", "NNNNNN", False, "1"),
    (r"C03[234]", "NNNNNNNNNNNN", False, "1"),
)  # fmt: skip
_AT = re.compile(r"(?:di:)?([0-9A-Fa-f-]+)(?:\[(\d+)\])?(?:\.(time|\d+))?")


@dataclass(frozen=True)
class _Digits:
    """How a data identifier is written."""

    octets: int
    decimals: int
    signed: bool
    bits: bool

    @classmethod
    def of(cls, item: str) -> "tuple[_Digits, str] | None":
        """Return how, and in which unit; None if the meter has no such data."""
        for pattern, printed, signed, unit in _TABLE:
            if re.fullmatch(pattern, item):
                if printed.startswith("bits"):
                    return cls(int(printed[4:]) // 8, 0, False, True), unit
                whole, _, behind = printed.partition(".")
                octets = (len(whole) + len(behind) + 1) // 2
                return cls(octets, len(behind), signed, False), unit
        return None


@dataclass
class _Member:
    """One value of an item, from one or more tags.

    when  of a maximum demand: None for what has no time
    """

    digits: _Digits
    wraps: bool = False
    value: Callable[[int], float] | None = None
    bits: tuple[tuple[int, Callable[[int], float]], ...] = ()
    has_time: bool = False
    when: Callable[[int], float] | None = None

    def octets(self, t: int) -> bytes:
        """Return it as the meter writes it; FF where it has none."""
        if self.bits:
            word = sum((self._bit(read, t) << bit) for bit, read in self.bits)
            written = word.to_bytes(self.digits.octets, "little")
        elif self.value is None:
            written = b"\xff" * self.digits.octets
        elif self.digits.bits:
            written = int(self.value(t)).to_bytes(self.digits.octets, "little")
        else:
            written = decimal(
                self.value(t), self.digits.octets, self.digits.decimals,
                signed=self.digits.signed, wraps=self.wraps,
            )  # fmt: skip
        return written + self._time(t) if self.has_time else written

    @staticmethod
    def _bit(read: Callable[[int], float], t: int) -> int:
        return int(read(t) != 0)

    def _time(self, t: int) -> bytes:
        if self.when is not None:
            return bcd(int(self.when(t)), 5)
        return bytes.fromhex(f"{datetime.fromtimestamp(t // SECOND, UTC):%y%m%d%H%M}")[::-1]


def _block_of(item: str) -> tuple[str, int]:
    """Return the block that an item would be a member of, and which."""
    if len(item) == 4:
        return item[:3] + "F", int(item[3], 16) - (item[:3] in {"B61", "B62"})
    if item[:4] in {"020A", "020B"} or item.startswith("040005"):
        return item[:6] + "FF", int(item[6:], 16) - 1
    from_one = item.startswith("02") and item[2:4] in {"01", "02", "07", "08", "09", "0C"}
    return item[:4] + "FF" + item[6:], int(item[4:6], 16) - from_one


def _is_block(item: str) -> bool:
    if len(item) == 4:
        return item[3] == "F"
    return "FF" in {item[4:6], item[6:]} or item.startswith("0506")


class Dlt645Meter(MeterBase):
    """One simulated meter.

    address  its own, also where its configuration leaves it open
    """

    def __init__(
        self,
        table: DeviceTable,
        source: Source,
        clock: Clock,
        *,
        log: ScanLog | None = None,
        script: Script | None = None,
        start: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        super().__init__(
            table, source, clock, header=10, modulus=_wraps,
            log=log, script=script, start=start, tally=tally,
        )  # fmt: skip
        self._length = 2 if option(table, "version", "2007") == "1997" else 4
        written = option(table, "address", "A" * 12).zfill(12).upper()
        own = f"{Random(table.id).randrange(10**12):012d}"
        self.address = "".join(o if w == "A" else w for w, o in zip(written, own, strict=True))
        self._items: dict[str, dict[int, _Member]] = {}
        self._rest = b""  # of an answer, and of which item
        self._rest_of = ""
        for tag in table.tags:
            self._add(tag, blocks=table.blocks)

    def _add(self, tag: TagRow, *, blocks: bool) -> None:
        match = _AT.fullmatch(tag.at)
        if match is None:
            raise ValueError(f"{self.device}.{tag.name}: {tag.at!r} is no data identifier")
        item = match[1].replace("-", "").upper()
        found = _Digits.of(item)
        if found is None:
            raise ValueError(f"{self.device}.{tag.name}: the simulator has no {item}")
        places = [(item, int(match[2] or 0))]
        block, which = _block_of(item)
        if blocks and not _is_block(item) and _Digits.of(block) == found:
            places.append((block, which))
        for name, member in places:
            self._put((name, member), tag, match[3], found)

    def _put(
        self, place: tuple[str, int], tag: TagRow, part: str | None, how: tuple[_Digits, str]
    ) -> None:
        (item, which), (digits, unit) = place, how
        own = None if part or digits.bits else _unit_like(tag.unit, unit)
        read = reading(self._source, tag, own)
        has_time = item.startswith("01") or bool(re.fullmatch(r"05..(09|0A)..", item))
        members = self._items.setdefault(item, {})
        member = members.setdefault(which, _Member(digits, has_time=has_time))
        if part == "time":
            member.when = read
        elif part is not None:
            member.bits += ((int(part), read),)
        else:
            member.value, member.wraps = read, tag.kind == "counter"

    # ---- answers ----

    def serve(self, frame: bytes, line: Line) -> None:
        asked = frame[6:0:-1].hex().upper()
        for mine, its in zip(self.address, asked, strict=True):
            if its not in {mine, "A"}:
                return
        data = bytes((octet - 0x33) % 256 for octet in frame[10:-2])
        exchange = self.conduct.asked()
        control = frame[8] | (0x10 if self._length == 2 else 0)
        if control == _WHO and self._length == 4:
            self._say(exchange, line, _WHO, bytes.fromhex(self.address)[::-1])
        elif control in {_READ, _ON} and len(data) >= self._length:
            item = data[self._length - 1 :: -1].hex().upper()
            if control == _ON:
                sequence = data[self._length :]
                self._go_on(exchange, line, item, sequence)
            else:
                self._answer(exchange, line, item)
        else:
            self._refuse(exchange, line, control, OTHER_ERROR)

    def _answer(self, exchange: Exchange, line: Line, item: str) -> None:
        def touches(trouble: Trouble) -> bool:
            match = _AT.fullmatch(trouble.at)
            return match is not None and match[1].replace("-", "").upper() == item

        code = exchange.refusal(touches)
        if code is not None or item not in self._items:
            no_data = code is None or code == NO_SUCH_DATA
            self._refuse(exchange, line, _READ, NO_SUCH_DATA if no_data else OTHER_ERROR)
            return
        members = self._items[item]
        blank = replace(next(iter(members.values())), value=None, bits=(), when=None)
        written = b"".join(
            members.get(i, blank).octets(exchange.instant) for i in range(max(members) + 1)
        )
        head = bytes.fromhex(item)[::-1]
        room = LONGEST - len(head)
        self._rest, self._rest_of = written[room:], item
        note = {"item": item, "data": written.hex()}
        if self._say(exchange, line, _READ, head + written[:room], more=bool(self._rest)):
            self.note(exchange.asked_at, note)

    def _go_on(self, exchange: Exchange, line: Line, item: str, sequence: bytes) -> None:
        if item != self._rest_of or not self._rest:
            self._refuse(exchange, line, _ON, NO_SUCH_DATA)
            return
        head = bytes.fromhex(item)[::-1]
        room = LONGEST - len(head) - len(sequence)
        part, self._rest = self._rest[:room], self._rest[room:]
        self._say(exchange, line, _ON, head + part + sequence, more=bool(self._rest))

    def _refuse(self, exchange: Exchange, line: Line, control: int, error: int) -> None:
        frame = self._frame(control | 0xC0, bytes([error]))
        self.conduct.say(exchange, frame, line, refused=True)

    def _say(
        self, exchange: Exchange, line: Line, control: int, data: bytes, *, more: bool = False
    ) -> bool:
        frame = self._frame(control | 0x80 | (0x20 if more else 0), data)
        return self.conduct.say(exchange, frame, line) is Outcome.ANSWERED

    def _frame(self, control: int, data: bytes) -> bytes:
        if self._length == 2:
            control &= 0xEF  # the functions of 1997 are 01H, 02H
        return answer(self.address, control, data)


def answer(address: str, control: int, data: bytes) -> bytes:
    """Return the frame in which a meter says something; data as it is, without the 33H."""
    head = b"\x68" + bytes.fromhex(address)[::-1] + b"\x68" + bytes([control, len(data)])
    return sealed(head + bytes((octet + 0x33) % 256 for octet in data))


def _unit_like(written: str, natural: str) -> str:
    """Return the table's unit in the quantity of a tag: kvarh where it says kWh, kVA where kW."""
    for quantity in ("var", "VA"):
        if quantity in written.replace("[", "").replace("]", ""):
            return natural.replace("W", quantity)
    return natural


def _wraps(tag: TagRow) -> int | None:
    return None if tag.kind != "counter" else tag.modulus or 10**6


def size(octets: bytes) -> int:
    """Return the length of the request at the beginning of some bytes; 0 if there is none."""
    if len(octets) > 7 and octets[7] != 0x68:
        return 0
    return 12 + (octets[9] if len(octets) > 9 else 0)


class Dlt645Server(OctetServer):
    """Several meters behind one serial server or on one line."""

    def __init__(self, meters: "list[Dlt645Meter]") -> None:
        super().__init__(meters, size)
