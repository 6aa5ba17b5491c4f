"""RTU devices that lose, hold back, spoil and delay their answers at random: no value is old.

They answer in the order in which they were asked, which is all that can be relied on. What a
register shows is raised before each request, so that every answer can be told from every other.
"""

import asyncio
import random
import struct
from collections import deque
from contextlib import suppress

import pytest

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_line import Line, Manners
from edge_agent.drivers.modbus_plan import Request
from edge_agent.drivers.modbus_wire import Refused, Wire
from tests.drivers.modbus_meter import checksum

SECONDS = 4.0
BOUND = 0.25  # the time-out; twice the floor, so there are second tries


class Moody:
    """One device behind a converter."""

    def __init__(self, seed: int) -> None:
        self.shown = 0
        self._random = random.Random(seed)
        self._behind = 0  # how many answers it holds back
        self._held: deque[bytes] = deque()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await reader.readexactly(8)
                frame = self._answer(request)
                mood = self._random.random()
                if mood < 0.05:
                    self._behind = self._random.choice([0, 0, 1, 2])
                elif mood < 0.10:
                    await asyncio.sleep(self._random.uniform(0, 1.5 * BOUND))
                elif mood < 0.13:
                    frame = b""  # lost
                elif mood < 0.16:
                    frame = frame[:3] + b"\x55" + frame[4:]
                elif mood < 0.18:
                    writer.write(self._random.randbytes(7))
                self._held.append(frame)
                while len(self._held) > self._behind:
                    writer.write(self._held.popleft())
        writer.close()

    def _answer(self, request: bytes) -> bytes:
        unit, function, address, count = struct.unpack(">BBHH", request[:6])
        if self._random.random() < 0.02:
            body = bytes([unit, function | 0x80, 6])
        else:
            words = [(self.shown + address + i) & 0xFFFF for i in range(count)]
            body = struct.pack(f">BBB{count}H", unit, function, 2 * count, *words)
        return body + checksum(body)


async def read_for(seconds: float, seed: int, requests: list[Request]) -> tuple[int, int]:
    """Return how many answers held values, and how many of those were not of this request."""
    moody = Moody(seed)
    server = await asyncio.start_server(moody.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    line = Line("modbus+rtu-over-tcp", "127.0.0.1", port, 9600, "N", 1, 8)
    wire = Wire(line, {1: Manners(BOUND, 0.0), 2: Manners(BOUND, 0.0)})
    good = wrong = 0
    now = asyncio.get_running_loop().time
    end = now() + seconds
    try:
        await wire.open()
        while now() < end:
            for request in requests:
                moody.shown += 7
                try:
                    answer = await wire.ask(1, request)
                except TimeoutError:
                    with suppress(TimeoutError):
                        await wire.probe(1, requests[0])
                    await asyncio.sleep(BOUND / 5)
                    break
                if not isinstance(answer, Refused):
                    good += 1
                    first = (moody.shown + request.address) & 0xFFFF
                    wrong += [int(w) for w in answer] != [
                        (first + i) & 0xFFFF for i in range(request.count)
                    ]
            await asyncio.sleep(0.002)
    finally:
        await wire.close()
        server.close()
        await server.wait_closed()
    return good, wrong


@pytest.mark.parametrize("counts", [(1,), (4,), (2, 2, 2), (5, 4, 3)])
async def test_no_mood_of_a_device_makes_an_old_value_a_new_one(counts: tuple[int, ...]) -> None:
    """L3, peers 22, 23."""
    requests = [Request(Table.HOLDING_REGISTERS, 16 * i, n, 0, ()) for i, n in enumerate(counts)]
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(read_for(SECONDS, seed, requests)) for seed in range(12)]
    found = [task.result() for task in runs]

    assert sum(wrong for _, wrong in found) == 0, found
    assert sum(good for good, _ in found) > 100
