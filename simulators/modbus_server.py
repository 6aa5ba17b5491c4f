"""A Modbus server whose registers are computed from the plant at the instant of each request.

Function codes 1 to 4 on TCP (MBAP), on serial lines and on RTU frames over TCP; several units on
one port, like meters behind a gateway. Every read that is answered is counted and written to the
scan log, so what the agent stored can be compared with what it was told.
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Literal, TextIO

from edge_agent.clock import Clock
from simulators.ailing import AilingSource
from simulators.conduct import Conduct, Exchange, Framing, Line, flipped
from simulators.faults import Script
from simulators.links import Listener, SerialLine
from simulators.registers import Area, Refused, RegisterMap, wraps
from simulators.sources import Source
from simulators.tables import DeviceTable
from simulators.truth import Outcome, Tally

_AREA: dict[int, Area] = {1: "co", 2: "di", 3: "hr", 4: "ir"}
_ILLEGAL_FUNCTION = 1
_GATEWAY_TARGET_SILENT = 11


class ScanLog:
    """What the devices of a run said: a file ``<device>.jsonl`` each, one JSON line per answer."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, TextIO] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, device: str, line: Mapping[str, object]) -> None:
        """Write one line and flush it."""
        if self._folder is None:
            return
        if device not in self._files:
            path = self._folder / f"{device}.jsonl"
            self._files[device] = path.open("a", encoding="utf-8", buffering=1)
        self._files[device].write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def crc16(frame: bytes) -> bytes:
    """Return the checksum of an RTU frame, low byte first."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


def _wrong_header(frame: bytes, random: Random) -> bytes:
    """Return an MBAP frame whose header or byte count is wrong; TCP lets no other fault through."""
    spoiled = bytearray(frame)
    place = random.choice([2, 3, 4, 5, 7, 8])  # protocol, length, function, byte count
    spoiled[place] ^= random.randrange(1, 256)
    return bytes(spoiled)


def _stray_mbap(frame: bytes, stray: bytes) -> bytes:
    """Return a frame with stray bytes before its values, and the length that it has now."""
    length = int.from_bytes(frame[4:6], "big") + len(stray)
    return frame[:4] + length.to_bytes(2, "big") + frame[6:9] + stray + frame[9:]


def _stray_rtu(frame: bytes, stray: bytes) -> bytes:
    body = frame[:3] + stray + frame[3:-2]
    return body + crc16(body)


MBAP = Framing(_wrong_header, _stray_mbap)
RTU = Framing(flipped, _stray_rtu)


class Unit:
    """One simulated device behind a port."""

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
        script, start = script or Script(), clock.wall_ns() if start is None else start
        self.device, self.number = table.id, table.unit
        self.conduct = Conduct(table.id, script, clock, start, tally=tally or Tally(), framing=MBAP)
        self._log = log or ScanLog(None)
        self._map = RegisterMap(table, AilingSource(source, table, script, start, wraps))

    @property
    def reads(self) -> int:
        """How many reads it has answered with values."""
        return self.conduct.tally.answered

    def serve(self, pdu: bytes, line: Line, framed: Callable[[bytes], bytes]) -> None:
        """Answer one request on the line it came from.

        framed  makes a frame of the answer's function code and data
        """
        if len(pdu) != 5 or pdu[0] not in _AREA:
            refusal = framed(bytes([pdu[0] | 0x80, _ILLEGAL_FUNCTION]))
            self.conduct.say(self.conduct.asked(), refusal, line, refused=True)
            return
        function, address, count = struct.unpack(">BHH", pdu)
        area, exchange = _AREA[function], self.conduct.asked(count)
        try:
            words = self._words(exchange, area, address, count)
        except Refused as e:
            refusal = framed(bytes([function | 0x80, e.code]))
            self.conduct.say(exchange, refusal, line, refused=True)
            return
        outcome = self.conduct.say(exchange, framed(_values(function, words)), line)
        if outcome is Outcome.ANSWERED:
            note = {"t": exchange.asked_at, "unit": self.number, "fc": function}
            self._log.write(self.device, note | {"address": address, "words": words})

    def _words(self, exchange: Exchange, area: Area, address: int, count: int) -> list[int]:
        if code := exchange.refusal(lambda trouble: trouble.touches(area, address, count)):
            raise Refused(code)
        return self._map.read(area, address, count, exchange.instant)


def _values(function: int, words: list[int]) -> bytes:
    if function <= 2:
        bits = sum(bit << i for i, bit in enumerate(words))
        body = bits.to_bytes((len(words) + 7) // 8, "little")
    else:
        body = struct.pack(f">{len(words)}H", *words)
    return bytes([function, len(body)]) + body


class ModbusServer:
    """Several units behind one TCP port or one serial line."""

    def __init__(self, units: list[Unit], framing: Literal["mbap", "rtu"] = "mbap") -> None:
        self.units = {unit.number: unit for unit in units}
        self._devices = [unit.device for unit in units]
        self._framing = framing
        self._listener: Listener | None = None
        self._serial: SerialLine | None = None

    @property
    def reads(self) -> int:
        """How many reads all units have answered with values."""
        return sum(unit.reads for unit in self.units.values())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port."""
        feed, framing = (self._mbap, MBAP) if self._framing == "mbap" else (self._rtu, RTU)
        self._listener = Listener(feed, self._devices, *self._conducts(framing))
        return await self._listener.start(host, port)

    def start_serial(self, path: str, baud: int = 9600, parity: str = "N") -> None:
        """Answer on a serial line."""
        self._serial = SerialLine(self._rtu, self._devices, *self._conducts(RTU))
        self._serial.start(path, baud, parity)

    def _conducts(self, framing: Framing) -> tuple[Script, Clock, int]:
        """Let the units' frames be of a kind; return by what script and clock they behave."""
        conducts = [unit.conduct for unit in self.units.values()]
        for conduct in conducts:
            conduct.framing = framing
        return conducts[0].script, conducts[0].clock, conducts[0].start

    async def close(self) -> None:
        """Stop listening and let every client go; any number of times."""
        for link in (self._listener, self._serial):
            if link is not None:
                await link.close()

    def _mbap(self, pending: bytes, line: Line) -> bytes:
        while len(pending) >= 8:
            transaction, protocol, length, number = struct.unpack(">HHHB", pending[:7])
            if protocol != 0 or not 2 <= length <= 254:
                line.cut()
                return b""
            if len(pending) < 6 + length:
                break
            pdu, pending = pending[7 : 6 + length], pending[6 + length :]
            unit = self.units.get(number)

            def framed(body: bytes, transaction: int = transaction, number: int = number) -> bytes:
                return struct.pack(">HHHB", transaction, 0, len(body) + 1, number) + body

            if unit is None:
                line.send(framed(bytes([pdu[0] | 0x80, _GATEWAY_TARGET_SILENT])))
            else:
                unit.serve(pdu, line, framed)
        return pending

    def _rtu(self, pending: bytes, line: Line) -> bytes:
        while len(pending) >= 8:
            frame = pending[:8]
            if crc16(frame[:6]) != frame[6:]:
                pending = pending[1:]
                continue
            pending = pending[8:]
            unit = self.units.get(frame[0])

            def framed(body: bytes, number: bytes = frame[:1]) -> bytes:
                return number + body + crc16(number + body)

            if unit is not None:
                unit.serve(frame[1:6], line, framed)
        return pending
