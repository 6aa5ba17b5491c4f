"""A Modbus meter on a loopback socket that answers wrongly when told to.

    async with Meter() as meter:                  # framing="rtu": as behind a serial converter
        meter.script = ["good", "silent"]         # one word per request, then "good" for ever

Register n of unit u holds ``1000 * u + n``; addresses from ``HOLE`` on are refused. More:

    meter.holes = {7: 2}                          # address: the exception that it answers with
    meter.patient = 40                            # longer requests are not answered
    meter.mute = {9}                              # nor are those for one of these
    meter.poison = {8}                            # reading one of them spoils the next answer
    meter.memory = {3: 0x4142}                    # what else registers hold
    meter.slow = 0.02                             # seconds that every answer takes
"""

import asyncio
import struct
from types import TracebackType

HOLE = 500
STEP = 0.02


def checksum(frame: bytes) -> bytes:
    """CRC-16/MODBUS, low byte first (MODBUS over Serial Line V1.02, 6.2.2)."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return struct.pack("<H", crc)


class Meter:
    def __init__(self, framing: str = "tcp", late: float = 0.0) -> None:
        self.framing = framing
        self.late = late
        self.script: list[str] = []
        self.silent_units: set[int] = set()
        self.blocks = 0.0  # seconds for which a silent unit keeps the gateway before it says so
        self.more = 0  # what is added to every register
        self.asked: list[tuple[int, int, int, int]] = []  # unit, function, address, count
        self.holes: dict[int, int] = {}
        self.patient = 125
        self.mute: set[int] = set()
        self.poison: set[int] = set()
        self.memory: dict[int, int] = {}
        self.slow = 0.0
        self._poisoned = False
        self.connections = 0
        self.at_once = self.most_at_once = 0  # requests that are being answered
        self.port = 0
        self._held: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Meter":
        await self.start()
        return self

    async def start(self) -> None:
        """Listen, again on the same port after ``stop``."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Refuse connections and reset those there are, as when the process is killed."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                size = 12 if self.framing == "tcp" else 8
                request = await reader.readexactly(size)
                word = self.script.pop(0) if self.script else "good"
                if word == "reset":
                    writer.transport.abort()
                    return
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    await self._answer(word, request, writer)
                finally:
                    self.at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # the client has gone, or the test is over
        finally:
            self._tasks.discard(task)

    async def _answer(self, word: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        tcp = self.framing == "tcp"
        transaction = struct.unpack(">H", request[:2])[0] if tcp else 0
        unit, function, address, count = struct.unpack(">BBHH", request[6:] if tcp else request[:6])
        self.asked.append((unit, function, address, count))
        asked = range(address, address + count)
        spoiled, self._poisoned = self._poisoned, not self.poison.isdisjoint(asked)
        if unit in self.silent_units and self.blocks:
            await asyncio.sleep(self.blocks)
            writer.write(struct.pack(">HHHBBB", transaction, 0, 3, unit, function | 0x80, 11))
            return
        if word == "silent" or unit in self.silent_units or count > self.patient:
            return
        if not self.mute.isdisjoint(asked):
            return
        await asyncio.sleep(self.slow)
        # a poisoned device answers as if it had been asked two registers further on
        more = 1000 * unit + self.more + (2 if spoiled else 0)
        registers = [self.memory.get(a, (a + more) & 0xFFFF) for a in asked]
        body = struct.pack(f">BB{count}H", function, 2 * count, *registers)
        if function <= 2:
            bits = [(address + i) % 3 == 0 for i in range(count)]
            packed = sum(bit << i for i, bit in enumerate(bits)).to_bytes(-(-count // 8), "little")
            body = bytes([function, len(packed)]) + packed
        refusal = next((self.holes[a] for a in asked if a in self.holes), None)
        if address >= HOLE or refusal is not None:
            body = bytes([function | 0x80, refusal or 2])
        body, unit, transaction = self._spoiled(word, body, unit, transaction)
        frame = bytes([unit]) + body
        if tcp:
            frame = struct.pack(">HHH", transaction, 0, len(frame)) + frame
        else:
            frame += checksum(frame)
        if word == "garbage":
            frame = bytes(range(7, 7 + len(frame)))
        if word == "behind":  # the answer to the request before this one
            frame, self._held = self._held or b"", frame
        frame = self._amid(word, request, frame)
        if word == "late":
            later = asyncio.create_task(self._send_later(writer, frame), name="late answer")
            self._tasks.add(later)
            later.add_done_callback(self._tasks.discard)
            return
        if word == "byte by byte":
            for byte in frame[:-1]:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.001)
            frame = frame[-1:]
        writer.write(frame[: len(frame) // 2])
        await asyncio.sleep(STEP if word == "in two parts" else 0)
        writer.write(frame[len(frame) // 2 :])

    @staticmethod
    def _amid(word: str, request: bytes, frame: bytes) -> bytes:
        """Return what is on the line together with the answer (RTU)."""
        broadcast = bytes([0, 6, 0, 1, 0, 2])
        match word:
            case "amid noise":
                return b"\0\xff\x55" + frame + b"\xff\0"
            case "amid others":
                other = bytes([frame[0] + 1]) + frame[1:-2]
                return other + checksum(other) + frame + other + checksum(other)
            case "amid broadcasts":
                return broadcast + checksum(broadcast) + frame + broadcast + checksum(broadcast)
            case "amid its echo":
                return request + frame
            case "corrupt":
                return frame[:4] + bytes([frame[4] ^ 4]) + frame[5:]
        return frame

    def _spoiled(
        self, word: str, body: bytes, unit: int, transaction: int
    ) -> tuple[bytes, int, int]:
        match word.split():
            case ["exception", code]:
                body = bytes([body[0] | 0x80, int(code)])
            case ["short"]:  # one register less, in a frame that is otherwise right
                body = bytes([body[0], body[1] - 2]) + body[2:-2]
            case ["empty"]:
                body = bytes([body[0], 0])
            case ["lying"]:  # says more bytes than it has
                body = bytes([body[0], 250]) + body[2:]
            case ["unknown", "function"]:
                body = bytes([0x63]) + body[1:]
            case ["other", "function"]:
                body = bytes([7 - body[0]]) + body[1:]
            case ["other", "unit"]:
                unit += 1
            case ["no", "transaction"]:
                transaction = 0
            case ["other", "transaction"]:
                transaction ^= 0x5555
        return body, unit, transaction

    async def _send_later(self, writer: asyncio.StreamWriter, frame: bytes) -> None:
        await asyncio.sleep(self.late)
        if not writer.is_closing():
            writer.write(frame)
