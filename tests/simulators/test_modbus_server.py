import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.clock import SECOND, VirtualClock
from simulators.faults import Script, read_script
from simulators.modbus_server import ModbusServer, ScanLog, Unit, crc16
from simulators.plant import CementPlant
from simulators.tables import device_table

SCALE = {
    "tags": {
        "mass": {"at": "hr:0", "type": "u32", "scale": 0.001, "unit": "t", "kind": "counter"},
        "flow": {"at": "hr:2", "type": "u16", "scale": 0.01, "unit": "t/h"},
    }
}


class Bench:
    """Two scales behind one port, a log and a script of trouble."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.plant = CementPlant(1, self.clock)
        self.script = Script()
        self.folder = folder
        self.log = ScanLog(folder)
        self.units = [self._unit("scale-coal", 1), self._unit("scale-clinker", 2)]
        self.server = ModbusServer(self.units)
        self.port = 0

    def _unit(self, device: str, number: int) -> Unit:
        table = device_table(device, {"connect": f"modbus+tcp://x?unit={number}", **SCALE})
        source = self.plant.source(device)
        assert source is not None
        return Unit(table, source, self.clock, log=self.log, script=self.script)

    async def ask(self, unit: int, function: int, address: int, count: int) -> bytes | None:
        """Return the reply's unit, function and body; None for silence."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(struct.pack(">HHHBBHH", 7, 0, 6, unit, function, address, count))
            async with asyncio.timeout(0.3):
                transaction, protocol, length = struct.unpack(">HHH", await reader.readexactly(6))
                assert (transaction, protocol) == (7, 0)
                return await reader.readexactly(length)
        except TimeoutError:
            return None
        finally:
            writer.close()
            await asyncio.wait([asyncio.ensure_future(_closed(writer))])

    async def raw(self, unit: int, function: int, address: int, count: int) -> bytes:
        """Return the bytes that come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(struct.pack(">HHHBBHH", 7, 0, 6, unit, function, address, count))
            return await reader.read(300)
        finally:
            writer.close()
            await writer.wait_closed()

    def lines(self, device: str) -> list[dict[str, object]]:
        path = self.folder / f"{device}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def script_of(self, text: str) -> None:
        path = self.folder / "faults.yaml"
        path.write_text(text)
        self.script.troubles = read_script(path).troubles


async def _closed(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.wait_closed()
    except ConnectionResetError:
        return


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    b = Bench(tmp_path)
    b.port = await b.server.start()
    try:
        yield b
    finally:
        await b.server.close()
        b.log.close()


async def test_every_answered_read_is_counted_and_logged_as_it_was_sent(bench: Bench) -> None:
    t = bench.clock.wall_ns()

    reply = await bench.ask(2, 3, 0, 3)

    assert reply is not None
    words = list(struct.unpack(">3H", reply[3:]))
    assert bench.lines("scale-clinker") == [
        {"t": t, "unit": 2, "fc": 3, "address": 0, "words": words}
    ]
    assert (bench.server.reads, bench.units[0].reads, bench.units[1].reads) == (1, 0, 1)
    assert words[2] == int(bench.plant.flow_t_h("scale-clinker", t) * 100)


async def test_a_later_read_shows_the_mass_that_went_over_the_scale_meanwhile(bench: Bench) -> None:
    before = await bench.ask(1, 3, 0, 2)
    start = bench.clock.now_ns
    bench.clock.now_ns += 600 * SECOND
    after = await bench.ask(1, 3, 0, 2)

    assert before is not None
    assert after is not None
    risen = struct.unpack(">I", after[3:])[0] - struct.unpack(">I", before[3:])[0]
    truth = bench.plant.mass_t("scale-coal", start, bench.clock.now_ns) * 1000
    assert abs(risen - truth) < 1


@pytest.mark.parametrize(
    ("unit", "function", "address", "count", "code"),
    [
        (1, 3, 500, 1, 2),  # a hole
        (1, 3, 2, 5, 2),  # reaches into it
        (1, 4, 0, 1, 2),  # nothing among the input registers
        (1, 3, 0, 126, 3),
        (1, 6, 0, 1, 1),  # writing is not offered
        (9, 3, 0, 1, 11),  # the gateway finds no such unit
    ],
)
async def test_what_cannot_be_read_gets_its_exception(  # noqa: PLR0917 – one row of the table
    bench: Bench, unit: int, function: int, address: int, count: int, code: int
) -> None:
    assert await bench.ask(unit, function, address, count) == bytes([unit, function | 0x80, code])
    assert bench.server.reads == 0
    assert not (bench.folder / "scale-coal.jsonl").exists()


async def test_a_silent_unit_leaves_the_other_one_on_the_line_alone(bench: Bench) -> None:
    bench.script_of("[{device: scale-coal, from: 10s, to: 20s, kind: silence}]")
    bench.clock.now_ns += 10 * SECOND

    assert await bench.ask(1, 3, 0, 1) is None
    assert await bench.ask(2, 3, 0, 1) is not None
    bench.clock.now_ns += 10 * SECOND
    assert await bench.ask(1, 3, 0, 1) is not None


async def test_scripted_exceptions_and_holes_carry_their_code(bench: Bench) -> None:
    bench.script_of(
        "[{device: scale-coal, kind: exception, code: 6},"
        " {device: scale-clinker, kind: hole, at: 'hr:2', count: 1}]"
    )

    assert await bench.ask(1, 3, 0, 1) == bytes([1, 0x83, 6])
    assert await bench.ask(2, 3, 0, 3) == bytes([2, 0x83, 2])
    assert await bench.ask(2, 3, 0, 2) is not None


async def test_a_scripted_reset_cuts_the_connection(bench: Bench) -> None:
    bench.script_of("[{device: scale-coal, kind: reset}]")

    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await bench.ask(1, 3, 0, 1)


@pytest.mark.parametrize("kind", ["garbage", "short", "corrupt"])
async def test_a_spoiled_answer_is_no_answer_to_the_request(bench: Bench, kind: str) -> None:
    bench.script_of(f"[{{device: scale-coal, kind: {kind}}}]")

    replies = [await bench.raw(1, 3, 0, 2) for _ in range(20)]

    heads = [(reply[:6], reply[6:9], len(reply)) for reply in replies]
    assert (struct.pack(">HHH", 7, 0, 7), bytes([1, 3, 4]), 13) not in heads
    assert all(replies)
    assert (bench.server.reads, bench.units[0].conduct.tally.spoiled) == (0, 20)


async def test_a_delayed_answer_is_the_one_of_its_request(bench: Bench) -> None:
    bench.script_of("[{device: scale-coal, kind: delay, by: 2s}]")
    asked = bench.clock.wall_ns()

    assert await bench.ask(1, 3, 0, 2) is not None
    assert bench.clock.wall_ns() == asked + 2 * SECOND
    assert bench.lines("scale-coal")[0]["t"] == asked


async def test_a_reset_counter_begins_at_nothing(bench: Bench) -> None:
    bench.script_of("[{device: scale-coal, from: 60s, kind: counter-reset}]")
    bench.clock.now_ns += 60 * SECOND
    begin = bench.clock.now_ns
    bench.clock.now_ns += 30 * SECOND

    reply = await bench.ask(1, 3, 0, 2)

    assert reply is not None
    counted = bench.plant.mass_t("scale-coal", begin, bench.clock.now_ns) * 1000
    assert struct.unpack(">I", reply[3:])[0] == int(counted)


def test_a_script_that_cannot_be_played_says_what_would_be_right(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text("[{device: a, kind: sulking}]")

    with pytest.raises(ValueError, match="silence, delay, late-by-one, exception"):
        read_script(path)


async def test_rtu_frames_over_tcp_are_answered_by_the_same_registers(bench: Bench) -> None:
    from pymodbus import FramerType
    from pymodbus.client import AsyncModbusTcpClient

    server = ModbusServer(bench.units, "rtu")
    port = await server.start()
    client = AsyncModbusTcpClient("127.0.0.1", port=port, framer=FramerType.RTU, retries=0)
    try:
        assert await client.connect()
        reply = await client.read_holding_registers(0, count=3, device_id=2)
        assert bench.lines("scale-clinker")[0]["words"] == reply.registers
    finally:
        client.close()
        await server.close()


async def test_a_serial_line_is_read_by_an_independent_master(bench: Bench, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    line = await asyncio.create_subprocess_exec(
        "socat", f"pty,raw,echo=0,link={ours}", f"pty,raw,echo=0,link={theirs}"
    )
    server = ModbusServer(bench.units)
    try:
        while not (ours.exists() and theirs.exists()):  # noqa: ASYNC110 – as the next line says
            await asyncio.sleep(0.01)  # socat tells nobody that its links are there
        server.start_serial(str(ours))
        master = await asyncio.create_subprocess_exec(
            "mbpoll", "-m", "rtu", "-b", "9600", "-P", "none", "-a", "2", "-0", "-r", "0",
            "-c", "3", "-t", "4:hex", "-1", str(theirs),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        text = (await master.communicate())[0].decode()
        assert master.returncode == 0, text
        words = bench.lines("scale-clinker")[0]["words"]
        assert [f"0x{word:04X}" in text for word in words] == [True] * 3  # type: ignore[attr-defined]
    finally:
        await server.close()
        line.terminate()
        await line.wait()


def test_the_checksum_is_that_of_the_modbus_standard() -> None:
    # CRC-16/MODBUS, check value of "123456789"
    assert crc16(b"123456789") == bytes([0x37, 0x4B])


def test_without_a_folder_nothing_is_logged(tmp_path: Path) -> None:
    ScanLog(None).write("em", {"t": 1})

    assert os.listdir(tmp_path) == []  # noqa: PTH208
