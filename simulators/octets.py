"""Meters that speak in frames of octets, 68H … sum 16H: what DL/T 645 and CJ/T 188 share.

Apart from the agent's codecs on purpose: both must agree on what the standards say.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from random import Random
from typing import Protocol
from urllib.parse import parse_qs

from edge_agent.clock import Clock
from edge_agent.units import Unit
from simulators.ailing import AilingSource
from simulators.conduct import Conduct, Framing, Line, flipped
from simulators.faults import Script
from simulators.links import Listener, SerialLine
from simulators.modbus_server import ScanLog
from simulators.registers import NEAR
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow
from simulators.truth import Tally

PREAMBLE = b"\xfe\xfe\xfe\xfe"


def sealed(body: bytes) -> bytes:
    """Return a frame of what goes from the first 68H to the data, with four FEH before it."""
    return PREAMBLE + body + (sum(body) % 256).to_bytes(1, "big") + b"\x16"


def bcd(number: int, octets: int) -> bytes:
    """Return the lowest digits of a number, two to the byte, the lowest pair first."""
    text = f"{number % 10 ** (2 * octets):0{2 * octets}d}"
    return bytes.fromhex(text)[::-1]


def decimal(number: float, octets: int, decimals: int, *, signed: bool, wraps: bool) -> bytes:
    """Return a number as a meter writes it: cut off, and at its end from 0 on or no further.

    signed  the highest bit is the sign
    """
    places = 10 ** (2 * octets)
    count = math.floor(abs(number) * 10**decimals + NEAR)
    count = count % places if wraps else min(count, places * (8 if signed else 10) // 10 - 1)
    written = bytearray(bcd(count, octets))
    if signed and number < 0:
        written[-1] |= 0x80
    return bytes(written)


def option(table: DeviceTable, name: str, usual: str) -> str:
    """Return an option of the device's address."""
    return parse_qs(table.url.query).get(name, [usual])[0]


def reading(source: Source, tag: TagRow, unit: str | None) -> Callable[[int], float]:
    """Return what the digits of a tag say at an instant, in the meter's unit (None: the tag's)."""
    factor = Unit.parse(source.unit(tag.name)).factor_to(Unit.parse(tag.unit))
    to_meter = Fraction(1)
    if unit is not None:
        to_meter = Fraction(repr(Unit.parse(tag.unit).factor_to(Unit.parse(unit))))
    scale = float(tag.factor / to_meter)
    return lambda t: (source.value(tag.name, t) * factor - tag.offset) / scale


def framing(header: int) -> Framing:
    """Return how such frames go wrong; header: bytes from the first 68H to L, with it."""

    def corrupt(frame: bytes, random: Random) -> bytes:
        begin = frame.index(0x68)
        return frame[:begin] + flipped(frame[begin:], random)

    def stray(frame: bytes, octets: bytes) -> bytes:
        begin = frame.index(0x68)
        body = bytearray(frame[begin:-2])
        body[header - 1] += len(octets)
        at = min(header + 4, len(body))
        return sealed(bytes(body[:at]) + octets + bytes(body[at:]))

    return Framing(corrupt, stray)


class OctetMeter(Protocol):
    """One simulated meter of a line."""

    device: str
    conduct: Conduct

    def serve(self, frame: bytes, line: Line) -> None:
        """Answer a request, a whole frame without preamble, if it is to this meter."""


class MeterBase:
    """What a simulated meter is made of."""

    def __init__(
        self,
        table: DeviceTable,
        source: Source,
        clock: Clock,
        *,
        header: int,
        modulus: Callable[[TagRow], int | None],
        log: ScanLog | None = None,
        script: Script | None = None,
        start: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        script, start = script or Script(), clock.wall_ns() if start is None else start
        self.device = table.id
        self.conduct = Conduct(
            table.id, script, clock, start, tally=tally or Tally(), framing=framing(header)
        )
        self._log = log or ScanLog(None)
        self._source = AilingSource(source, table, script, start, modulus)

    def note(self, t: int, line: Mapping[str, object]) -> None:
        """Write an answer to the log."""
        self._log.write(self.device, {"t": t, **line})

    @property
    def reads(self) -> int:
        """How many requests it has answered with values."""
        return self.conduct.tally.answered


class OctetServer:
    """Several meters behind one TCP port (a serial server) or on one serial line.

    size  the length of the frame at the beginning of some bytes; 0 if there is none
    """

    def __init__(self, meters: Sequence[OctetMeter], size: Callable[[bytes], int]) -> None:
        self._meters = meters
        self._size = size
        self._listener: Listener | None = None
        self._serial: SerialLine | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port."""
        self._listener = Listener(self._feed, [m.device for m in self._meters], *self._conduct())
        return await self._listener.start(host, port)

    def start_serial(self, path: str, baud: int = 2400, parity: str = "N") -> None:
        """Answer on a serial line."""
        self._serial = SerialLine(self._feed, [m.device for m in self._meters], *self._conduct())
        self._serial.start(path, baud, parity)

    def _conduct(self) -> tuple[Script, Clock, int]:
        conduct = self._meters[0].conduct
        return conduct.script, conduct.clock, conduct.start

    async def close(self) -> None:
        """Stop listening and let every client go; any number of times."""
        for link in (self._listener, self._serial):
            if link is not None:
                await link.close()

    def _feed(self, pending: bytes, line: Line) -> bytes:
        while (begin := pending.find(0x68)) >= 0:
            pending = pending[begin:]
            size = self._size(pending)
            if size > len(pending):
                return pending
            frame = pending[:size]
            if size and frame[-1] == 0x16 and frame[-2] == sum(frame[:-2]) % 256:
                pending = pending[size:]
                for meter in self._meters:
                    meter.serve(frame, line)
            else:
                pending = pending[1:]
        return b""
