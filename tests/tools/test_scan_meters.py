"""``edge-agent scan`` on lines of DL/T 645 and CJ/T 188 meters."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.terminal import width
from edge_agent.tools.scan_meters import MeterScan, lines
from edge_agent.units import Duration
from tests.commands import line, run, started
from tests.tools.test_scan import pasted, scanned

PLANT = """
site: {id: works}
devices:
  em-3: {connect: "dlt645+tcp://h1:1?address=202305170044", template: dlt645/three-phase}
  em-4: {connect: "dlt645+tcp://h2:1?address=1044&version=1997", template: dlt645/1997}
  w-1: {connect: "cjt188+tcp://h3:1?address=78330011223344&type=10", template: cjt188/water}
"""
pytestmark = pytest.mark.timeout(60)  # processes import for seconds on a loaded machine


@pytest.fixture(scope="module")
def meters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Three simulated lines with a meter each; device -> address of its line."""
    plant = tmp_path_factory.mktemp("meters") / "plant.yaml"
    plant.write_text(PLANT)
    with started("simulate", plant) as process:
        connect = json.loads(line(process, "{"))["connect"]
        yield {name: url.partition("?")[0] for name, url in connect.items()}
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


@pytest.mark.parametrize(
    ("device", "template", "options"),
    [
        ("em-3", "dlt645/three-phase", "address=202305170044"),
        ("em-4", "dlt645/1997", "address=000000001044&version=1997"),
        ("w-1", "cjt188/water", "address=78330011223344&type=10"),
    ],
)
def test_the_meter_of_a_line_is_found_with_its_template(
    meters: dict[str, str], device: str, template: str, options: str, tmp_path: Path
) -> None:
    status, said, error = run("scan", meters[device])
    assert (status, error) == (0, "")
    assert "1 meter answers" in said
    assert re.search(rf"^[\d ]+ +{template} +very likely ", said, re.MULTILINE)
    assert [text for text in said.splitlines() if width(text) > 110] == []
    (found,) = load(pasted(said, tmp_path)).devices.values()
    assert (found.connect, found.template) == (f"{meters[device]}?{options}", template)


def frame(address: str, control: int, data: bytes) -> bytes:
    """Return a frame as DL/T 645-2007, 7.1 has it."""
    shifted = bytes((octet + 0x33) & 0xFF for octet in data)
    body = b"\x68" + bytes.fromhex(address)[::-1] + b"\x68" + bytes([control, len(data)]) + shifted
    return body + bytes([sum(body) & 0xFF, 0x16])


def means(asked: str, address: str) -> bool:
    return all("A" in a or a == b for a, b in zip(asked, address, strict=True))


@asynccontextmanager
async def crowd(*addresses: str) -> AsyncIterator[tuple[str, list[int]]]:
    """Meters on one line that all answer when they are meant, at once, so that nobody is heard."""
    asked: list[int] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        pending = b""
        while chunk := await reader.read(256):
            pending += chunk
            begin = pending.find(b"\x68")
            if begin < 0 or len(pending) < begin + 12 + pending[begin + 9]:
                continue
            request, pending = pending[begin:], b""
            address, control = request[6:0:-1].hex().upper(), request[8]
            asked.append(control)
            meant = [a for a in addresses if means(address, a)]
            data = bytes((octet - 0x33) & 0xFF for octet in request[10 : 10 + request[9]])
            answers = [frame(a, control | 0x80, data + b"\x12\x34\x56\x00") for a in meant]
            if len(answers) == 1:
                writer.write(answers[0])
            elif answers:
                spoiled = answers[0][:-2] + bytes([answers[0][-2] ^ 0xFF]) + answers[0][-1:]
                writer.write(spoiled)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"dlt645+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_meters_that_speak_at_once_are_found_by_their_addresses() -> None:
    addresses = ("202305170042", "202305170142", "202305170007")
    pairs = ["00", "01", "07", "42"]  # of a hundred: each takes as long as its bytes at 2400 baud
    async with crowd(*addresses) as (url, asked):
        scan = MeterScan(url, Duration(0.03), lambda _: None, pairs=pairs)
        await scan.run()
    assert {meter.options["address"] for meter in scan.meters} == set(addresses)
    assert set(asked) <= {0x11, 0x12, 0x13, 0x01}  # nothing but reading
    said = "\n".join(lines(scan, is_whole=True))
    assert "3 meters answer" in said
    assert all(f"?address={address}" in said for address in addresses)


async def test_a_line_without_meters_says_what_to_look_at() -> None:
    async with crowd() as (url, _):
        status, said, error = await scanned(url, "--timeout", "50ms")
    assert (status, error) == (1, "")
    assert "0 meters answer" in said
    assert "2400 baud and parity E are usual" in said


def test_a_wrong_address_is_one_line() -> None:
    status, said, error = run("scan", "dlt645+tcp://")
    assert (status, said) == (2, "")
    assert error.count("\n") == 1
