"""``edge-agent scan`` as a process, against meters on loopback and on a serial line."""

import asyncio
import os
import pty
import re
import signal
import struct
import sys
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.config import load
from edge_agent.terminal import width
from simulators.modbus_server import ModbusServer, Unit
from simulators.plant import CementPlant
from simulators.sources import anything
from simulators.tables import device_table
from tests.commands import ROOT, called, command, environment
from tests.drivers.foreign_server import SIZE
from tests.drivers.modbus_meter import Meter
from tests.servers import free_port

QUICK = ("--pause", "1ms", "--timeout", "2s")
pytestmark = pytest.mark.timeout(60)  # processes import for seconds on a loaded machine


def server(rows: dict[int, dict[str, object]], framing: str = "mbap") -> ModbusServer:
    """Return units of a line by their numbers: tables of tags as in a configuration."""
    clock = SystemClock()
    plant = CementPlant(1, clock)
    units = []
    for number, row in rows.items():
        table = device_table(f"em-{number}", {"connect": f"modbus+tcp://h?unit={number}", **row})
        source = plant.source("em-cooler")
        if source is None or not all(source.knows(tag.name) for tag in table.tags):
            tags = {tag.name: (tag.kind, tag.unit) for tag in table.tags}
            source = anything(f"1/{number}", plant.start, tags)
        units.append(Unit(table, source, clock))
    return ModbusServer(units, "mbap" if framing == "mbap" else "rtu")


async def scanned(
    *arguments: str, interrupt: Callable[[], bool] | None = None
) -> tuple[int, str, str]:
    """Run the command beside the servers of this loop; press Ctrl-C when something has happened."""
    process = await asyncio.create_subprocess_exec(
        *command("scan", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        if interrupt is not None:
            while not interrupt():  # noqa: ASYNC110  another process has no event
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGINT)
        said, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(), error.decode()


def pasted(said: str, tmp_path: Path) -> Path:
    """Return a plant's file with what the command said to paste."""
    file = tmp_path / "plant.yaml"
    file.write_text("site: {id: works}\n" + said[said.index("devices:") :], encoding="utf-8")
    return file


# what an analyser nobody has a template for holds
ANALYSER = {
    f"v{i}": {"at": f"hr:{2 * i}", "type": "f32", "order": "CDAB", "unit": "mg/m3"}
    for i in range(6)
}


async def test_a_gateway_is_scanned_and_what_is_pasted_can_be_checked(tmp_path: Path) -> None:
    meters = server({
        1: {"template": "acrel/adl3000"},
        3: {"template": "siemens/pac3200"},
        7: {"tags": ANALYSER},
    })  # fmt: skip
    port = await meters.start()
    try:
        status, said, error = await scanned(f"modbus+tcp://127.0.0.1:{port}", *QUICK)
    finally:
        await meters.close()
    assert (status, error) == (0, "")
    assert "3 units answer, 13 silent" in said
    assert re.search(r"^1 +hr:0 … hr:255 +256 +\d+ +60 +3$", said, re.MULTILINE)
    assert re.search(
        r"^1 +acrel/adl3000 +very likely +31 of 31 +.*(49|50)\.\d+ Hz", said, re.MULTILINE
    )
    assert re.search(r"^3 +siemens/pac3200 +very likely ", said, re.MULTILINE)
    assert re.search(r"^7 +none +possible +f32 CDAB in hr", said, re.MULTILINE)
    assert [text for text in said.splitlines() if width(text) > 100] == []
    devices = load(pasted(said, tmp_path)).devices
    assert [device.template for device in devices.values()] == [
        "acrel/adl3000", "siemens/pac3200", None,
    ]  # fmt: skip
    analyser = devices["unit-7"]
    assert analyser.connect == f"modbus+tcp://127.0.0.1:{port}?unit=7"
    assert {(tag.at, tag.order) for tag in analyser.tags.values()} == {
        (f"hr:{2 * i}", "CDAB") for i in range(6)
    }


async def test_a_meter_whose_map_holds_another_s_is_not_taken_for_that_one() -> None:
    meters = server({1: {"template": "eastron/sdm630"}})  # the SDM120's map is a part of it
    port = await meters.start()
    try:
        _, said, _ = await scanned(f"modbus+tcp://127.0.0.1:{port}", "--units", "1", *QUICK)
    finally:
        await meters.close()
    assert re.search(r"^1 +eastron/sdm630 +very likely +26 of 26 ", said, re.MULTILINE)
    assert "template: eastron/sdm630   # very likely; or eastron/sdm" in said


async def test_a_scan_only_reads_and_passes_silent_units_over() -> None:
    async with Meter("rtu") as meter:
        meter.silent_units = {2, 4}
        url = f"modbus+rtu-over-tcp://127.0.0.1:{meter.port}"
        status, said, error = await scanned(url, "--units", "1-4", *QUICK)
    assert (status, error) == (0, "")
    assert "2 units answer, 2 silent" in said
    assert {function for _, function, _, _ in meter.asked} == {3, 4}
    assert all(1 <= count <= 125 for _, _, _, count in meter.asked)
    assert len([unit for unit, *_ in meter.asked if unit in {2, 4}]) == 2  # once each, not again
    for unit in (1, 3):
        assert re.search(rf"^{unit} +hr:0 … hr:(499|[56]\d\d) +\d+ ", said, re.MULTILINE)


async def test_bits_are_scanned_too() -> None:
    async with Meter() as meter:
        url = f"modbus+tcp://127.0.0.1:{meter.port}"
        status, said, error = await scanned(url, "--units", "1", "--function", "1,2", *QUICK)
    assert (status, error) == (0, "")
    assert {function for _, function, _, _ in meter.asked} == {1, 2}
    assert re.search(r"^1 +co:0 … co:\d+ +\d+ +\d+ +1$", said, re.MULTILINE)
    assert re.search(r"^1 +di:0 … di:\d+ +\d+ +\d+ +2$", said, re.MULTILINE)
    assert re.search(r'co_0: +\{at: "co:0"\} +# bit 1', said)


@asynccontextmanager
async def null_modem() -> AsyncIterator[tuple[str, str]]:
    """Two serial ports, each of which hears what is said into the other."""
    masters, paths, slaves = [], [], []
    for _ in range(2):
        master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        masters.append(master)
        slaves.append(slave)
        paths.append(os.ttyname(slave))
    loop = asyncio.get_running_loop()
    for one, other in (masters, masters[::-1]):
        loop.add_reader(one, lambda a=one, b=other: os.write(b, os.read(a, 4096)))
    try:
        yield paths[0], paths[1]
    finally:
        for master in masters:
            loop.remove_reader(master)
        for descriptor in (*masters, *slaves):
            os.close(descriptor)


async def test_a_serial_line_is_scanned() -> None:
    meters = server({5: {"template": "acrel/adl3000"}}, "rtu")
    async with null_modem() as (near, far):
        meters.start_serial(far, baud=19200)
        try:
            url = f"modbus+rtu://{near}?baud=19200"
            status, said, error = await scanned(url, "--units", "4-6", *QUICK)
        finally:
            await meters.close()
    assert (status, error) == (0, "")
    assert "1 unit answers, 2 silent" in said
    assert re.search(r"^5 +acrel/adl3000 +very likely ", said, re.MULTILINE)
    assert f'connect: "modbus+rtu://{near}?baud=19200&unit=5"' in said


@asynccontextmanager
async def anybody() -> AsyncIterator[str]:
    """A device that does not look at the unit, has registers 0 to 49, and is busy at first."""
    known: set[tuple[int, int]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readexactly(12):
                function, first, count = struct.unpack(">BHH", request[7:])
                words = [(7 * (first + i) + 1) & 0xFFFF for i in range(count)]
                body = struct.pack(f">BB{count}H", function, 2 * count, *words)
                if function != 3 or first + count > 50:
                    body = bytes([function | 0x80, 1 if function != 3 else 2])
                elif count > 1 and (first, count) not in known:  # busy when asked for much
                    known.add((first, count))
                    body = bytes([function | 0x80, 6])
                writer.write(request[:4] + struct.pack(">HB", len(body) + 1, request[6]) + body)
        except asyncio.IncompleteReadError:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"modbus+tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()


async def test_a_device_that_answers_to_any_unit_is_one_and_busy_is_no_hole() -> None:
    async with anybody() as url:
        status, said, error = await scanned(url, "--units", "1-9", *QUICK)
    assert (status, error) == (0, "")
    assert "1 unit answers, 0 silent" in said
    assert "all 9 numbers are answered alike: it is one device, whatever its unit" in said
    assert re.findall(r"^\d +(\S+ … \S+) +(\d+) ", said, re.MULTILINE) == [("hr:0 … hr:49", "50")]


async def test_ctrl_c_shows_what_was_found_until_then() -> None:
    async with Meter("rtu") as meter:
        meter.silent_units = set(range(2, 248))
        url = f"modbus+rtu-over-tcp://127.0.0.1:{meter.port}"
        status, said, error = await scanned(
            url, "--units", "1-247", interrupt=lambda: len(meter.asked) > 1
        )
    assert (status, error) == (130, "")
    assert re.search(r"1 unit answers, \d+ silent", said)
    assert "ended early: what was found until then follows" in said
    assert re.search(r"^1 +nothing found", said, re.MULTILINE)


async def test_a_scan_ends_by_itself_when_its_time_is_over() -> None:
    async with Meter("rtu") as meter:
        meter.silent_units = set(range(1, 248))
        url = f"modbus+rtu-over-tcp://127.0.0.1:{meter.port}"
        status, said, _ = await scanned(url, "--units", "1-247", "--for", "1s")
    assert status == 130
    assert "ended early" in said


async def test_a_line_on_which_nobody_answers_says_what_to_look_at() -> None:
    async with Meter("rtu") as meter:
        meter.silent_units = {1, 2}
        url = f"modbus+rtu-over-tcp://127.0.0.1:{meter.port}"
        status, said, error = await scanned(url, "--units", "1,2", "--timeout", "100ms")
    assert (status, error) == (1, "")
    assert "0 units answer, 2 silent" in said
    assert "look at" in said
    assert "baud and parity" in said


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([f"modbus+tcp://127.0.0.1:{free_port()}"], 1, "cannot be opened"),
        (["modbus+rtu:///dev/ttyUSB99"], 1, "/dev/ttyUSB99 cannot be opened"),
        (["modbus+tcp://"], 2, "no device to connect to (write modbus+tcp://192.168.1.5:502)"),
        (["http://127.0.0.1"], 2, "scan reads modbus+tcp"),
        (["modbus+tcp://127.0.0.1", "--units", "1-300"], 2, "units go up to 255 (write 1-16"),
        (["modbus+tcp://127.0.0.1", "--function", "6"], 2, "read functions go up to 4"),
    ],
)
def test_what_cannot_be_scanned_is_told_in_one_line(
    arguments: list[str], status: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done, said, error = called(capfd, "scan", *arguments)
    assert (done, said) == (status, "")
    assert told in error
    assert error.count("\n") == 1


@asynccontextmanager
async def foreign(kind: str, holding: dict[int, int], tmp_path: Path) -> AsyncIterator[str]:
    """A server written by others as a process of its own; its holding registers."""
    tables = [0] * (4 * SIZE)
    for address, word in holding.items():
        tables[2 * SIZE + address] = word
    held = tmp_path / "map"
    held.write_bytes(struct.pack(f"<{len(tables)}H", *tables))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.drivers.foreign_server", kind, str(held),
        stdout=asyncio.subprocess.PIPE, env=environment(), cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield f"modbus+tcp://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("kind", ["pyModbusTCP", "uModbus"])
async def test_the_byte_order_of_a_server_written_by_others_is_found(
    kind: str, tmp_path: Path
) -> None:
    values = [230.5, 231.25, 229.75, 12.5, 12.75, 12.0, 50.02]
    words = [w for v in values for w in struct.unpack(">HH", struct.pack(">f", v))[::-1]]
    async with foreign(kind, dict(enumerate(words, 100)), tmp_path) as url:
        status, said, error = await scanned(url, "--units", "1", "--function", "3", *QUICK)
    assert (status, error) == (0, "")
    assert re.search(
        r"^1 +none +possible +f32 CDAB in hr +3 voltages of 230\.5 V", said, re.MULTILINE
    )
    devices = load(pasted(said, tmp_path)).devices
    tags = devices["unit-1"].tags
    assert (tags["voltage_l3"].at, tags["frequency"].at) == ("hr:104", "hr:112")
    assert {tag.order for tag in tags.values()} == {"CDAB"}
