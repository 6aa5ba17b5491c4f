"""Water, heat and gas meters that speak CJ/T 188, with values from a source."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from edge_agent.clock import SECOND, Clock
from simulators.conduct import Line
from simulators.faults import Script
from simulators.modbus_server import ScanLog
from simulators.octets import MeterBase, OctetServer, bcd, decimal, option, reading, sealed
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow
from simulators.truth import Outcome, Tally

# what a meter sends one after the other: (tag, digits as the standard prints them, unit)
_WATER = (("volume", "XXXXXX.XX", "m3"), ("volume_settled", "XXXXXX.XX", "m3"))
_HEAT = (
    ("heat_settled", "XXXXXX.XX", "kW.h"), ("heat", "XXXXXX.XX", "kW.h"),
    ("power", "XXXXXX.XX", "kW"), ("flow", "XXXX.XXXX", "m3/h"), ("volume", "XXXXXX.XX", "m3"),
    ("temperature_supply", "XXXX.XX", "Cel"), ("temperature_return", "XXXX.XX", "Cel"),
    ("hours", "XXXXXX", "h"),
)  # fmt: skip
_CODES = {"kW.h": 0x05, "MW.h": 0x08, "GJ": 0x11, "kW": 0x17, "L": 0x29, "m3": 0x2C, "m3/h": 0x35}


class Cjt188Meter(MeterBase):
    """One simulated meter.

    units  tag -> the unit in which the meter counts it, where that is another than usual
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
            table, source, clock, header=11, modulus=_wraps,
            log=log, script=script, start=start, tally=tally,
        )  # fmt: skip
        self.type = int(option(table, "type", "10"), 16)
        written = option(table, "address", "A" * 14).zfill(14).upper()
        own = f"{Random(table.id).randrange(10**14):014d}"
        pairs = (written[i : i + 2] for i in range(0, 14, 2))
        self.address = "".join(
            own[2 * i : 2 * i + 2] if pair == "AA" else pair for i, pair in enumerate(pairs)
        )
        self.order = option(table, "di", "1F90")
        self.units: dict[str, str] = {}
        self.unit_first = table.unit_first
        self._tags = {tag.at: tag for tag in table.tags}
        known = {name for name, _, _ in self._rows} | {"time", "status"}
        for at in self._tags:
            if at.partition(".")[0] not in known:
                raise ValueError(f"{table.id}: the simulated meter has no {at}")

    @property
    def _rows(self) -> tuple[tuple[str, str, str], ...]:
        return _HEAT if self.type >> 4 == 2 else _WATER

    def serve(self, frame: bytes, line: Line) -> None:
        asked, kind = frame[8:1:-1], frame[1]
        for mine, its in zip(bytes.fromhex(self.address), asked, strict=True):
            if its not in {mine, 0xAA}:
                return
        identifier = {b"\x90\x1f": "read", b"\x81\x0a": "who"}
        data = frame[11:-2]
        swapped = self.order == "1F90"
        wanted = identifier.get(data[1::-1] if swapped else data[:2])
        if kind not in {self.type, 0xAA} or wanted is None or len(data) != 3:
            return  # it does not know what this is about
        exchange = self.conduct.asked()
        if exchange.refusal(lambda _trouble: True) is not None:
            refusal = answer(self.type, self.address, frame[9] | 0xC0, data[2:] + b"\x01\x00")
            self.conduct.say(exchange, refusal, line, refused=True)
            return
        body = data + (self._values(exchange.instant) if wanted == "read" else b"")
        said = answer(self.type, self.address, frame[9] | 0x80, body)
        if self.conduct.say(exchange, said, line) is Outcome.ANSWERED:
            self.note(exchange.asked_at, {"data": body.hex()})

    def _values(self, t: int) -> bytes:
        values = b"".join(self._number(t, *row) for row in self._rows)
        time, status = self._tags.get("time"), self._tags.get("status")
        if time is None:
            stamp = f"{datetime.fromtimestamp(t // SECOND, UTC):%Y%m%d%H%M%S}"
            values += bytes.fromhex(stamp)[::-1]
        else:
            values += bcd(int(self._read(time, None)(t)), 7)
        word = 0 if status is None else int(self._read(status, None)(t))
        for at, tag in self._tags.items():
            if match := re.fullmatch(r"status\.(\d+)", at):
                word |= int(self._read(tag, None)(t) != 0) << int(match[1])
        return values + word.to_bytes(2, "little")

    def _number(self, t: int, name: str, printed: str, usual: str) -> bytes:
        whole, _, behind = printed.partition(".")
        octets, unit = (len(whole) + len(behind)) // 2, self.units.get(name, usual)
        tag = self._tags.get(name)
        if tag is None:
            digits = b"\xff" * octets
        else:
            digits = decimal(
                self._read(tag, unit)(t), octets, len(behind),
                signed=False, wraps=tag.kind == "counter",
            )  # fmt: skip
        if usual in {"Cel", "h"}:
            return digits
        code = bytes([_CODES[unit]])
        return code + digits if self.unit_first else digits + code

    def _read(self, tag: TagRow, unit: str | None) -> Callable[[int], float]:
        return reading(self._source, tag, unit)


def answer(kind: int, address: str, control: int, data: bytes) -> bytes:
    """Return the frame in which a meter says something."""
    head = bytes([0x68, kind]) + bytes.fromhex(address)[::-1] + bytes([control, len(data)])
    return sealed(head + data)


def _wraps(tag: TagRow) -> int | None:
    return None if tag.kind != "counter" else tag.modulus or 10**6


def size(octets: bytes) -> int:
    """Return the length of the request at the beginning of some bytes."""
    return 13 + (octets[10] if len(octets) > 10 else 0)


class Cjt188Server(OctetServer):
    """Several meters behind one serial server or on one line."""

    def __init__(self, meters: "list[Cjt188Meter]") -> None:
        super().__init__(meters, size)
