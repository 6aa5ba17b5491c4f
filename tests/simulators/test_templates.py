"""Every meter that comes along: checked, planned, served by the simulator and read back."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.clock import VirtualClock
from edge_agent.config import load
from edge_agent.drivers.base import DeviceConfig, Driver, TagConfig
from edge_agent.drivers.cjt188 import Cjt188Device
from edge_agent.drivers.dlt645 import Dlt645Device
from edge_agent.model import Quality
from edge_agent.units import Unit
from simulators.fleet import Fleet, play
from simulators.sources import Source
from simulators.tables import configs, read_yaml
from tests.config.plants import SITE
from tests.simulators.reading import expected, runs

METERS = sorted((configs() / "meters").rglob("*.yaml"))
MODBUS = [p for p in METERS if "protocol: modbus" in p.read_text(encoding="utf-8")]
CT, PT = 40, 100
LINKS = {
    ("modbus", "tcp"): "modbus+tcp://127.0.0.1:5020?unit=5",
    ("modbus", "serial"): "modbus+rtu:///dev/ttyS9?unit=5&baud=19200",
    ("dlt645", "tcp"): "dlt645+tcp://127.0.0.1:5345?address=202305170042",
    ("dlt645", "serial"): "dlt645+serial:///dev/ttyS9?address=202305170042&baud=9600",
    ("cjt188", "tcp"): "cjt188+tcp://127.0.0.1:5345?address=78330011223344",
    ("cjt188", "serial"): "cjt188+serial:///dev/ttyS9?address=78330011223344&baud=9600",
}
OPTIONS = {"1997": "&version=1997", "hot-water": "&type=11", "heat": "&type=20", "gas": "&type=30"}
Template = dict[str, Any]
Read = Callable[[int, str, int, int], Coroutine[None, None, list[int]]]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def template_of(path: Path) -> Template:
    return dict(read_yaml(path))


def meters(paths: list[Path] = METERS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=map(name_of, paths))


def true_value(source: Source, tag: str, unit: str, t: int) -> float:
    factor = Unit.parse(source.unit(tag)).factor_to(Unit.parse(unit))
    return source.value(tag, t) * factor


@asynccontextmanager
async def served(
    folder: Path, path: Path, link: str, clock: VirtualClock
) -> AsyncIterator[tuple[DeviceConfig, Fleet]]:
    """A plant with one meter of the template; its configuration has the simulator's address."""
    plant = folder / "plant.yaml"
    connect = LINKS[template_of(path)["protocol"], link]
    if path.parent.name in {"dlt645", "cjt188"}:
        connect += OPTIONS.get(path.stem.removesuffix("-unit-first"), "")
    plant.write_text(
        f"{SITE}devices:\n"
        f"  em: {{connect: '{connect}', template: {name_of(path)}, ct: {CT}, pt: {PT},"
        " timeout: 5s}\n"
    )
    device = load(plant, env={}).devices["em"]
    async with play(plant, clock, serial=True) as fleet:
        assert fleet.skipped == []
        yield replace(device, connect=fleet.connect["em"]), fleet


@asynccontextmanager
async def connected(device: DeviceConfig, clock: VirtualClock) -> AsyncIterator[Driver]:
    driver = type(device).build({"em": device}, clock)
    await driver.connect()
    try:
        yield driver
    finally:
        await driver.close()


def tolerance(device: DeviceConfig, tag: TagConfig, true: float, exponent: float) -> float:
    """How far a reading may be off: the step of its register, the rounding of its float."""
    if tag.type in {"f32", "f64"}:
        return abs(true) * 2**-22
    if isinstance(device, (Dlt645Device, Cjt188Device)):
        exponent = -device.where(tag).field.decimals
    return abs(float(device.ratio_of(tag))) * 10**exponent * (1 + 1e-6) + abs(true) * 2**-50


@meters()
@pytest.mark.parametrize("link", ["tcp", "serial"])
async def test_the_driver_reads_every_tag_as_the_meter_has_it(
    path: Path, link: str, tmp_path: Path
) -> None:
    clock = VirtualClock()  # stands still: every answer is of the same instant
    seen = set()
    async with served(tmp_path, path, link, clock) as (device, fleet):
        source, now = fleet.sources["em"], clock.wall_ns()
        async with connected(device, clock) as driver:
            for group in driver.groups:
                block = await driver.read(group)
                for column, shown in enumerate(group.schema.tags):
                    tag = device.tags[shown.name]
                    true = true_value(source, shown.name, tag.unit, now)
                    read, quality = block.value[column, 0], block.quality[column, 0]
                    assert quality == Quality.GOOD, shown
                    exponent = 0.0 if tag.scale_from is None else source.value(tag.scale_from, now)
                    bound = tolerance(device, tag, true, exponent)
                    assert abs(read - true) <= bound, (shown, read, true)
                    seen.add(shown.name)
    assert seen == set(device.tags)


async def by_pymodbus(port: int, area: str, address: int, count: int) -> list[int]:
    from pymodbus.client import AsyncModbusTcpClient

    client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0)
    assert await client.connect()
    try:
        read = {
            "hr": client.read_holding_registers,
            "ir": client.read_input_registers,
            "co": client.read_coils,
            "di": client.read_discrete_inputs,
        }[area]
        reply = await read(address, count=count, device_id=5)
        assert not reply.isError(), reply
        return list(reply.registers) or [int(bit) for bit in reply.bits[:count]]
    finally:
        client.close()


async def by_mbpoll(port: int, area: str, address: int, count: int) -> list[int]:
    kind = {"hr": "4:hex", "ir": "3:hex", "co": "0", "di": "1"}[area]
    process = await asyncio.create_subprocess_exec(
        "mbpoll", "-m", "tcp", "-p", str(port), "-a", "5", "-0", "-r", str(address),
        "-c", str(count), "-t", kind, "-1", "127.0.0.1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    text = (await process.communicate())[0].decode()
    assert process.returncode == 0, text
    found = re.findall(r"^\[\d+\]:\s+(?:0x)?([0-9A-F]+)", text, re.MULTILINE)
    return [int(word, 16) for word in found]


@pytest.mark.parametrize("read", [by_pymodbus, by_mbpoll])
@meters(MODBUS)
async def test_every_register_is_what_the_file_says_to_programs_of_others(
    path: Path, read: Read, tmp_path: Path
) -> None:
    clock = VirtualClock()
    template = template_of(path)
    rows = expected(template, CT, PT)
    longest = min(60, template.get("limits", {}).get("max_registers", 60))
    async with served(tmp_path, path, "tcp", clock) as (device, fleet):
        source, port = fleet.sources["em"], device.url.port
        assert port is not None
        for run in runs(rows, longest):
            first, count = run[0].address, run[-1].address + run[-1].width - run[0].address
            words = await read(port, run[0].area, first, count)
            assert len(words) == count
            for row in run:
                tag = row
                if row.scale_from is not None:
                    exponent = round(source.value(row.scale_from, clock.wall_ns()))
                    tag = replace(row, factor=row.factor * 10**exponent)
                begin = tag.address - first
                true = true_value(source, tag.name, tag.unit, clock.wall_ns())
                got = tag.decode(words[begin : begin + tag.width])
                assert tag.close(got, true), (tag, got, true)


@meters()
def test_a_template_says_where_its_map_was_read_and_what_is_doubtful(path: Path) -> None:
    template = template_of(path)

    assert {"maker", "model", "protocol", "source", "verified", "values", "tags"} <= set(template)
    assert len(template["source"]) > 20
    assert isinstance(template["verified"], bool)
    assert template["verified"] or len(template.get("note", "")) > 20
    assert template["values"] in {"primary", "secondary"}


@meters(MODBUS)
def test_a_template_names_the_function_that_most_of_its_registers_are_read_with(
    path: Path,
) -> None:
    template = template_of(path)
    areas = [str(tag["at"])[:2] for tag in template["tags"].values()]

    assert (
        template["function"]
        == {"co": 1, "di": 2, "hr": 3, "ir": 4}[max(set(areas), key=areas.count)]
    )


@meters()
def test_a_primary_meter_is_not_multiplied_with_its_transformers_again(path: Path) -> None:
    template = template_of(path)
    ratios = {tag.get("ratio", "1") for tag in template["tags"].values()}

    assert ratios == {"1"} or template["values"] == "secondary"


def tag_names() -> Iterator[str]:
    for path in METERS:
        yield from template_of(path)["tags"]


def test_tags_are_named_with_the_same_words_in_all_templates() -> None:
    assert not [name for name in tag_names() if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]


@meters(MODBUS)
async def test_a_simulated_meter_shows_mains_values_that_a_person_would_believe(
    path: Path, tmp_path: Path
) -> None:
    clock = VirtualClock()
    async with served(tmp_path, path, "tcp", clock) as (device, fleet):
        source, now = fleet.sources["em"], clock.wall_ns()
        for name, tag in device.tags.items():
            true = true_value(source, name, tag.unit, now)
            ratio = PT if "pt" in tag.ratio else 1
            if re.fullmatch(r"voltage_l\d", name):
                assert 220 <= true / ratio <= 240
            elif re.fullmatch(r"voltage_l\d\d", name):
                assert 380 <= true / ratio <= 420
            elif name == "frequency":
                assert 49.9 <= true <= 50.1
            elif name.startswith("power_factor"):
                assert 0 < true <= 1
        if {"active_power", "reactive_power", "apparent_power"} <= set(device.tags):
            p, q, s = (
                true_value(source, f"{kind}_power", unit, now)
                for kind, unit in (("active", "kW"), ("reactive", "kvar"), ("apparent", "kVA"))
            )
            assert abs(p**2 + q**2 - s**2) < 0.01 * s**2
