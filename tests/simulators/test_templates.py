import asyncio
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.clock import VirtualClock
from edge_agent.units import Unit
from simulators.modbus_server import ModbusServer
from simulators.modbus_server import Unit as SimulatedUnit
from simulators.plant import CementPlant
from simulators.tables import configs, device_table
from tests.simulators.reading import expected, runs

METERS = sorted((configs() / "meters").rglob("*.yaml"))
CT, PT = 40, 100
Template = dict[str, Any]
Read = Callable[[int, str, int, int], Coroutine[None, None, list[int]]]


def template_of(path: Path) -> Template:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


async def by_pymodbus(port: int, area: str, address: int, count: int) -> list[int]:
    from pymodbus.client import AsyncModbusTcpClient

    client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0)
    assert await client.connect()
    try:
        read = client.read_holding_registers if area == "hr" else client.read_input_registers
        reply = await read(address, count=count, device_id=5)
        assert not reply.isError(), reply
        return list(reply.registers)
    finally:
        client.close()


async def by_mbpoll(port: int, area: str, address: int, count: int) -> list[int]:
    kind = "4:hex" if area == "hr" else "3:hex"
    process = await asyncio.create_subprocess_exec(
        "mbpoll", "-m", "tcp", "-p", str(port), "-a", "5", "-0", "-r", str(address),
        "-c", str(count), "-t", kind, "-1", "127.0.0.1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    text = (await process.communicate())[0].decode()
    assert process.returncode == 0, text
    return [int(word, 16) for word in re.findall(r"^\[\d+\]:\s+0x([0-9A-F]+)", text, re.MULTILINE)]


@pytest.mark.parametrize("read", [by_pymodbus, by_mbpoll])
@pytest.mark.parametrize("path", METERS, ids=[f"{p.parent.name}/{p.stem}" for p in METERS])
async def test_every_register_of_a_template_is_read_back_as_the_model_has_it(
    path: Path, read: Read
) -> None:
    clock = VirtualClock()  # stands still: every answer is of the same instant
    row = {
        "connect": "modbus+tcp://127.0.0.1:5020?unit=5",
        "template": f"{path.parent.name}/{path.stem}",
        "ct": CT,
        "pt": PT,
    }
    source = CementPlant(1, clock).source("em-cooler")
    assert source is not None
    server = ModbusServer([SimulatedUnit(device_table("em", row), source, clock)])
    port = await server.start()
    rows = expected(template_of(path), CT, PT)
    try:
        for run in runs(rows):
            first, count = run[0].address, run[-1].address + run[-1].width - run[0].address
            words = await read(port, run[0].area, first, count)
            assert len(words) == count
            for tag in run:
                begin = tag.address - first
                true = source.value(tag.name, clock.wall_ns())
                true *= Unit.parse(source.unit(tag.name)).factor_to(Unit.parse(tag.unit))
                got = tag.decode(words[begin : begin + tag.width])
                assert tag.close(got, true), (tag, got, true)
    finally:
        await server.close()


@pytest.mark.parametrize("path", METERS, ids=[f"{p.parent.name}/{p.stem}" for p in METERS])
def test_a_template_says_where_its_map_was_read(path: Path) -> None:
    template = template_of(path)

    assert {
        "maker",
        "model",
        "protocol",
        "source",
        "verified",
        "values",
        "function",
        "tags",
    } <= set(template)
    assert len(template["source"]) > 20
    assert isinstance(template["verified"], bool)
    assert template["values"] in {"primary", "secondary"}
    areas = {str(tag["at"])[:2] for tag in template["tags"].values()}
    assert areas == {"hr" if template["function"] == 3 else "ir"}


@pytest.mark.parametrize("path", METERS, ids=[f"{p.parent.name}/{p.stem}" for p in METERS])
def test_a_primary_meter_is_not_multiplied_with_its_transformers_again(path: Path) -> None:
    template = template_of(path)
    ratios = {tag.get("ratio", "1") for tag in template["tags"].values()}

    assert (ratios == {"1"}) == (template["values"] == "primary")
