"""A Modbus server whose registers are computed from the plant at the instant of each request.

Function codes 1 to 4 on TCP (MBAP), on serial lines and on RTU frames over TCP; several units on
one port, like meters behind a gateway. Every read that is answered is counted and written to the
scan log, so what the agent stored can be compared with what it was told.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Literal, TextIO

from edge_agent.clock import SECOND, Clock
from simulators.faults import Script
from simulators.registers import Area, Refused, RegisterMap
from simulators.sources import Source
from simulators.tables import DeviceTable

_AREA: dict[int, Area] = {1: "co", 2: "di", 3: "hr", 4: "ir"}
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


class Unit:
    """One simulated device behind a port.

    reads  how many reads it has answered with values
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
    ) -> None:
        self.device = table.id
        self.number = table.unit
        self.reads = 0
        self._clock = clock
        self._log = log or ScanLog(None)
        self._script = script or Script()
        self._start = clock.wall_ns() if start is None else start
        self._map = RegisterMap(table, _ResetSource(source, table, self._script, self._start))
        self._random = Random(table.id)

    async def answer(self, pdu: bytes) -> bytes | None:
        """Return the reply, None for silence; ``ConnectionResetError`` cuts the line."""
        if len(pdu) != 5 or pdu[0] not in _AREA:
            return bytes([pdu[0] | 0x80, 1])
        function, address, count = struct.unpack(">BHH", pdu)
        late = 0.0
        for trouble in self._script.now(self.device, self._seconds()):
            if trouble.kind == "silence":
                return None
            if trouble.kind == "reset":
                raise ConnectionResetError(f"{self.device}: scripted")
            if trouble.kind == "garbage":
                return self._random.randbytes(self._random.randrange(1, 12))
            if trouble.kind == "exception":
                return bytes([function | 0x80, trouble.code])
            if trouble.kind == "hole" and trouble.touches(_AREA[function], address, count):
                return bytes([function | 0x80, 2])
            late = trouble.by if trouble.kind == "delay" else late
        reply = self._read(function, address, count)
        if late:
            await self._clock.sleep(late)
        return reply

    def _seconds(self) -> float:
        return (self._clock.wall_ns() - self._start) / SECOND

    def _read(self, function: int, address: int, count: int) -> bytes:
        t = self._clock.wall_ns()
        try:
            words = self._map.read(_AREA[function], address, count, t)
        except Refused as e:
            return bytes([function | 0x80, e.code])
        self.reads += 1
        line = {"t": t, "unit": self.number, "fc": function, "address": address, "words": words}
        self._log.write(self.device, line)
        if function <= 2:
            bits = sum(bit << i for i, bit in enumerate(words))
            body = bits.to_bytes((count + 7) // 8, "little")
        else:
            body = struct.pack(f">{count}H", *words)
        return bytes([function, len(body)]) + body


class _ResetSource(Source):
    """The same readings, with counters that begin anew where the script says so."""

    def __init__(self, source: Source, table: DeviceTable, script: Script, start: int) -> None:
        super().__init__({})
        self._source = source
        self._counters = {tag.name for tag in table.tags if tag.kind == "counter"}
        self._device, self._script, self._start = table.id, script, start

    def unit(self, tag: str) -> str:
        return self._source.unit(tag)

    def value(self, tag: str, t: int) -> float:
        value = self._source.value(tag, t)
        resets = [
            self._start + round(trouble.start * SECOND)
            for trouble in self._script.now(self._device, (t - self._start) / SECOND)
            if trouble.kind == "counter-reset" and tag in self._counters
        ]
        return value - self._source.value(tag, max(resets)) if resets else value


def crc16(frame: bytes) -> bytes:
    """Return the checksum of an RTU frame, low byte first."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc.to_bytes(2, "little")


class ModbusServer:
    """Several units behind one TCP port or one serial line."""

    def __init__(self, units: list[Unit], framing: Literal["mbap", "rtu"] = "mbap") -> None:
        self.units = {unit.number: unit for unit in units}
        self._framing = framing
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._serial: _SerialLine | None = None

    @property
    def reads(self) -> int:
        """How many reads all units have answered with values."""
        return sum(unit.reads for unit in self.units.values())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._serve, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    def start_serial(self, path: str, baud: int = 9600, parity: str = "N") -> None:
        """Answer on a serial line."""
        self._serial = _SerialLine(self, path, baud, parity)

    async def close(self) -> None:
        """Stop listening and let every client go; any number of times."""
        if self._serial is not None:
            await self._serial.close()
            self._serial = None
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        serve = self._serve_mbap if self._framing == "mbap" else self._serve_rtu
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await serve(reader, writer)
        finally:
            writer.close()

    async def _serve_mbap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            transaction, protocol, length, number = struct.unpack(
                ">HHHB", await reader.readexactly(7)
            )
            if protocol != 0 or not 2 <= length <= 254:
                return
            pdu = await reader.readexactly(length - 1)
            unit = self.units.get(number)
            try:
                reply = (
                    bytes([pdu[0] | 0x80, _GATEWAY_TARGET_SILENT])
                    if unit is None
                    else await unit.answer(pdu)
                )
            except ConnectionResetError:
                _cut(writer)
                return
            if reply is not None:
                header = struct.pack(">HHHB", transaction, 0, len(reply) + 1, number)
                writer.write(header + reply)
                await writer.drain()

    async def _serve_rtu(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending = b""
        while chunk := await reader.read(256):
            pending += chunk
            try:
                replies, pending = await self.rtu(pending)
            except ConnectionResetError:
                _cut(writer)
                return
            writer.write(replies)
            await writer.drain()

    async def rtu(self, pending: bytes) -> tuple[bytes, bytes]:
        """Return the replies to the whole requests in a buffer, and what is left of it."""
        replies = b""
        while len(pending) >= 8:
            frame = pending[:8]
            if crc16(frame[:6]) != frame[6:]:
                pending = pending[1:]
                continue
            pending = pending[8:]
            unit = self.units.get(frame[0])
            reply = None if unit is None else await unit.answer(frame[1:6])
            if reply is not None:
                body = frame[:1] + reply
                replies += body + crc16(body)
        return replies, pending


def _cut(writer: asyncio.StreamWriter) -> None:
    """Reset the connection instead of closing it in order."""
    line = writer.get_extra_info("socket")
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _SerialLine:
    """RTU frames on a serial port, read when the kernel has some."""

    def __init__(self, server: ModbusServer, path: str, baud: int, parity: str) -> None:
        import serial  # type: ignore[import-untyped]  # pyserial has no types of its own

        self._server = server
        self._port = serial.Serial(path, baud, parity=parity, timeout=0, exclusive=True)
        self._arrived = asyncio.Event()
        self._pending = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._port.fileno(), self._read)
        self._task = asyncio.create_task(self._answer(), name=f"serial {path}")

    def _read(self) -> None:
        self._pending += self._port.read(256)
        self._arrived.set()

    async def _answer(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            pending, self._pending = self._pending, b""
            with suppress(ConnectionResetError):  # a line has no connection to cut: silence
                replies, rest = await self._server.rtu(pending)
                self._pending = rest + self._pending
                self._port.write(replies)

    async def close(self) -> None:
        self._loop.remove_reader(self._port.fileno())
        self._task.cancel()
        await asyncio.wait([self._task])
        self._port.close()
