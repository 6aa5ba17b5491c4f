"""Servers written by others read by us, and our simulators read by a client written by others.

Every type in every order, and all four tables. The expected words are packed with ``struct`` here;
neither the agent's decoder nor the simulators' encoder has a part in them.
"""

import asyncio
import math
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edge_agent.clock import VirtualClock
from edge_agent.drivers.base import NumberType, Order, TagConfig
from edge_agent.model import Quality
from edge_agent.units import Duration
from simulators.modbus_server import ModbusServer, Unit
from simulators.sources import Source
from simulators.tables import device_table
from tests.drivers.foreign_server import SIZE, TABLES
from tests.drivers.test_modbus import device, driving, read

ORDERS: tuple[Order, ...] = get_args(Order)
TEXT = "MTR-7 Ofen"
NUMBERS: dict[str, float] = {
    "u16": 54321, "i16": -12345, "u32": 3_000_000_001, "i32": -2_000_000_001,
    "u64": 2**53 - 1, "i64": -(2**52) - 1, "f32": 49.975, "f64": -math.pi * 1e10,
    "bcd16": 9076, "bcd32": 12_345_678, "bcd64": 1_234_567_890_123_456, "m10k32": 98_765_432,
    "m10k48": 987_654_321_012, "m10k64": 1_234_567_890_123_456,
}  # fmt: skip


def packed(kind: str, number: float) -> bytes:
    """Return a number as its type stands on the wire in the order ABCD."""
    formats = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q"}
    formats |= {"f32": "f", "f64": "d"}
    if kind in formats:
        whole = number if kind[0] == "f" else int(number)
        return struct.pack(">" + formats[kind], whole)
    digits = int(kind[-2:]) // 4
    text = f"{int(number):0{digits}d}"
    if kind.startswith("bcd"):
        return bytes.fromhex(text)
    return b"".join(int(text[i : i + 4]).to_bytes(2, "big") for i in range(0, digits, 4))


def ordered(octets: bytes, order: str) -> list[int]:
    words = [octets[i : i + 2] for i in range(0, len(octets), 2)]
    if order in {"CDAB", "DCBA"}:
        words.reverse()
    if order in {"BADC", "DCBA"}:
        words = [word[::-1] for word in words]
    return [int.from_bytes(word, "big") for word in words]


@dataclass
class Plant:
    """Tags, what they must show, and the four tables in which they stand."""

    tags: dict[str, TagConfig]
    values: dict[str, float]
    tables: dict[str, list[int]]

    def write(self, folder: Path) -> Path:
        path = folder / "map"
        words = [word for name in TABLES for word in self.tables[name]]
        path.write_bytes(struct.pack(f"<{4 * SIZE}H", *words))
        return path


def plant(*, texts: bool = True) -> Plant:
    tags: dict[str, TagConfig] = {}
    values: dict[str, float] = {}
    tables = {name: [0] * SIZE for name in TABLES}
    for table in ("hr", "ir"):
        address = 3
        for kind, number in NUMBERS.items():
            for order in ORDERS:
                name = f"{table}_{kind}_{order}"
                tags[name] = TagConfig(at=f"{table}:{address}", type=kind, order=order)  # type: ignore[arg-type]  # of NUMBERS
                values[name] = float(np.float32(number)) if kind == "f32" else number
                words = ordered(packed(kind, number), order)
                tables[table][address : address + len(words)] = words
                address += len(words) + (kind == "u64")  # with gaps that nobody asks for
        tables[table][address] = 0b1000_0000_0010_0001
        for bit in (0, 1, 5, 15):
            tags[f"{table}_bit{bit}"] = TagConfig(at=f"{table}:{address}.{bit}")
            values[f"{table}_bit{bit}"] = float(bit != 1)
        if texts:
            tags[f"{table}_text"] = TagConfig(
                at=f"{table}:{address + 1}", type="text", length=len(TEXT), kind="text"
            )
            words = ordered(TEXT.encode("ascii"), "ABCD")
            tables[table][address + 1 : address + 1 + len(words)] = words
    for table, every in (("co", 3), ("di", 5)):
        tables[table] = [int(i % every == 0) for i in range(SIZE)]
        for i in range(7, 40):
            tags[f"{table}{i}"] = TagConfig(at=f"{table}:{i}")
            values[f"{table}{i}"] = float(i % every == 0)
    return Plant(tags, values, tables)


def test_the_plant_has_every_type_in_every_order() -> None:
    whole = plant()
    kinds = {tag.type for tag in whole.tags.values() if tag.type is not None}

    assert kinds | {"bool"} == set(get_args(NumberType))
    for kind in NUMBERS:
        assert {t.order for t in whole.tags.values() if t.type == kind} == set(ORDERS)
    assert max(len(words) for words in whole.tables.values()) == SIZE


# ---- their servers, our driver -------------------------------------------------------------------


@asynccontextmanager
async def process(*command: str | Path) -> AsyncIterator[str]:
    """A program that says one line when it is ready; ended by its id."""
    started = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert started.stdout is not None
    try:
        async with asyncio.timeout(15):
            line = (await started.stdout.readline()).decode().strip()
        assert line, f"{command[0]} ended with {started.returncode}"
        yield line
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@asynccontextmanager
async def wire(folder: Path) -> AsyncIterator[tuple[Path, Path]]:
    """Two ends of a serial line."""
    ends = folder / "ttyA", folder / "ttyB"
    line = await asyncio.create_subprocess_exec(
        "socat", *(f"pty,raw,echo=0,link={end}" for end in ends)
    )
    try:
        async with asyncio.timeout(10):
            while not all(end.exists() for end in ends):  # noqa: ASYNC110 – socat tells nobody
                await asyncio.sleep(0.01)
        yield ends
    finally:
        line.terminate()
        await line.wait()


@pytest.fixture(scope="module")
def libmodbus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc")
    assert compiler is not None, "gcc is not installed (run .ci/system-packages)"
    program = tmp_path_factory.mktemp("libmodbus") / "server"
    source = Path(__file__).with_name("libmodbus_server.c")
    subprocess.run([compiler, "-O1", "-o", program, source, "-lmodbus"], check=True, timeout=20)
    return program


async def read_all(connect: str, whole: Plant) -> None:
    """Read the plant and compare every value; what is not there is refused, not invented."""
    beyond = {"beyond": TagConfig(at=f"hr:{SIZE + 5}", poll=Duration(7.0))}
    meter = device(connect, tags=whole.tags | beyond, timeout=Duration(2.0))
    async with driving({"m": meter}) as driver:
        for _ in range(2):
            block = await read(driver)
            assert not block.quality.any(), block.quality.tolist()
            found = {tag.name: block[tag.name][0] for tag in block.schema.tags}
            assert {name: found[name] for name in whole.values} == whole.values
            for table in ("hr", "ir"):
                column = block.schema.index[f"{table}_text"]
                assert block.text(column, 0) == TEXT
        refused = await read(driver, "m/raw.7s")
        assert refused.quality[0, 0] >= Quality.BAD
        assert np.isnan(refused.value[0, 0])


@pytest.mark.parametrize("server", ["pyModbusTCP", "uModbus"])
async def test_all_types_and_orders_of_a_python_server_over_tcp(
    server: str, tmp_path: Path
) -> None:
    whole = plant()
    path = whole.write(tmp_path)
    async with process(sys.executable, "-m", "tests.drivers.foreign_server", server, path) as port:
        await read_all(f"modbus+tcp://127.0.0.1:{port}?unit=1", whole)


async def test_all_types_and_orders_of_umodbus_over_a_serial_line(tmp_path: Path) -> None:
    whole = plant()
    path = whole.write(tmp_path)
    async with (
        wire(tmp_path) as (ours, theirs),
        process(sys.executable, "-m", "tests.drivers.foreign_server", "uModbus", path, theirs),
    ):
        await read_all(f"modbus+rtu://{ours}?baud=115200&unit=1", whole)


async def test_all_types_and_orders_of_libmodbus_over_tcp(libmodbus: Path, tmp_path: Path) -> None:
    whole = plant()
    async with process(libmodbus, "tcp", whole.write(tmp_path)) as port:
        await read_all(f"modbus+tcp://127.0.0.1:{port}?unit=1", whole)


async def test_all_types_and_orders_of_libmodbus_over_a_serial_line(
    libmodbus: Path, tmp_path: Path
) -> None:
    whole = plant()
    async with (
        wire(tmp_path) as (ours, theirs),
        process(libmodbus, "rtu", whole.write(tmp_path), theirs, "17"),
    ):
        await read_all(f"modbus+rtu://{ours}?baud=115200&unit=17", whole)


# ---- our simulators, their client ----------------------------------------------------------------


class Still(Source):
    """Readings that do not change."""

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__({name: ("1", lambda _, v=value: v) for name, value in values.items()})


@asynccontextmanager
async def simulated(whole: Plant, folder: Path, link: str) -> AsyncIterator[list[str]]:
    """Our simulator with the plant's values; yields how mbpoll reaches it."""
    rows = {
        name: {"at": tag.at, "type": tag.type or "bool", "order": tag.order}
        for name, tag in whole.tags.items()
    }
    table = device_table("m", {"connect": "modbus+tcp://h?unit=9", "tags": rows})
    server = ModbusServer([Unit(table, Still(whole.values), VirtualClock())])
    async with AsyncExitStack() as stack:
        if link == "tcp":
            reach = ["-m", "tcp", "-p", str(await server.start()), "127.0.0.1"]
        else:
            ours, theirs = await stack.enter_async_context(wire(folder))
            server.start_serial(str(ours), 115200)
            reach = ["-m", "rtu", "-b", "115200", "-P", "none", str(theirs)]
        stack.push_async_callback(server.close)
        yield reach


async def mbpoll(reach: list[str], kind: str, address: int, count: int, *more: str) -> list[str]:
    *options, target = reach
    started = await asyncio.create_subprocess_exec(
        "mbpoll", *options, "-a", "9", "-0", "-r", str(address), "-c", str(count), "-t", kind,
        "-o", "3", "-1", *more, target,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    text = (await started.communicate())[0].decode()
    assert started.returncode == 0, text
    return re.findall(r"^\[\d+\]:\s+(\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("link", ["tcp", "rtu"])
async def test_mbpoll_reads_all_types_and_orders_of_our_simulator(
    link: str, tmp_path: Path
) -> None:
    whole = plant(texts=False)
    kinds = {"hr": ("4:hex", 16), "ir": ("3:hex", 16), "co": ("0", 10), "di": ("1", 10)}
    async with simulated(whole, tmp_path, link) as reach:
        for table, (kind, base) in kinds.items():
            first, last = span(whole, table)
            for start in range(first, last + 1, 100):
                expected = whole.tables[table][start : min(start + 100, last + 1)]
                words = await mbpoll(reach, kind, start, len(expected))
                assert [int(word, base) for word in words] == expected


@pytest.mark.parametrize("link", ["tcp", "rtu"])
@pytest.mark.parametrize(("kind", "type_"), [("4:float", "f32"), ("4:int", "i32")])
async def test_mbpoll_makes_the_same_numbers_of_them(
    kind: str, type_: str, link: str, tmp_path: Path
) -> None:
    """It knows two of the orders: the words as the standard has them (-B), and swapped."""
    whole = plant(texts=False)
    async with simulated(whole, tmp_path, link) as reach:
        for order, option in (("ABCD", "-B"), ("CDAB", "-0")):
            address = int(whole.tags[f"hr_{type_}_{order}"].at.partition(":")[2])
            [number] = await mbpoll(reach, kind, address, 1, option)
            assert float(number) == pytest.approx(NUMBERS[type_], rel=1e-5)


def span(whole: Plant, table: str) -> tuple[int, int]:
    """Return the first and the last address of a table that have a meaning."""
    if table in {"co", "di"}:
        return 7, 39
    used = [i for i, word in enumerate(whole.tables[table]) if word]
    return used[0], used[-1]
