import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import yaml

from simulators.tables import configs
from tests.simulators.test_templates import by_pymodbus


@asynccontextmanager
async def simulators(*arguments: str) -> AsyncIterator[tuple[Process, dict[str, object]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators", *arguments,
        stdin=PIPE, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, json.loads(await process.stdout.readline() or b"{}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_demo_plant_says_where_each_device_is_and_ends_when_its_input_closes(
    tmp_path: Path,
) -> None:
    async with simulators("--log", str(tmp_path), "--seed", "4") as (process, ready):
        connect = ready["connect"]
        assert isinstance(connect, dict)
        demo = yaml.safe_load((configs() / "demo.yaml").read_text(encoding="utf-8"))
        assert list(connect) == list(demo["devices"])
        assert ready["ready"] is True
        assert ready["skipped"] == []
        assert ready["speed"] == 1.0
        kiln, mill = urlsplit(connect["em-kiln"]), urlsplit(connect["em-raw-mill"])
        assert (kiln.hostname, kiln.port) == (mill.hostname, mill.port) == ("127.0.0.1", mill.port)
        for name, written in demo["devices"].items():
            assert urlsplit(connect[name]).query == urlsplit(written["connect"]).query

        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 5) == 0
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_a_scale_of_the_demo_is_read_over_the_printed_address(tmp_path: Path) -> None:
    config = tmp_path / "plant.yaml"
    config.write_text(
        "devices:\n"
        "  scale-coal: {connect: 'modbus+tcp://10.0.0.1:502?unit=5',"
        " tags: {mass: {at: 'hr:0', type: u32, scale: 0.001, unit: t, kind: counter}}}\n"
        "  silo-7: {connect: 'modbus+rtu:///dev/ttyS9?unit=3', tags: {level: {at: 'hr:9'}}}\n"
        "  recorded: {connect: 'replay+csv:plant.csv', tags: {power: {at: power}}}\n"
    )
    async with simulators(str(config), "--log", str(tmp_path / "log")) as (process, ready):
        connect = ready["connect"]
        assert isinstance(connect, dict)
        assert ready["skipped"] == ["recorded"]
        assert re.fullmatch(r"modbus\+rtu-over-tcp://127.0.0.1:\d+\?unit=3", connect["silo-7"])
        words = await by_pymodbus(urlsplit(connect["scale-coal"]).port, "hr", 0, 2)
        told = await asyncio.to_thread(lambda: urlopen(str(ready["truth"]), timeout=5).read())
        assert json.loads(told)["scale-coal"]["answered"] == 1
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0

    line = json.loads((tmp_path / "log" / "scale-coal.jsonl").read_text())
    assert line["words"] == words


async def test_a_serial_device_is_read_over_the_printed_pseudo_terminal(tmp_path: Path) -> None:
    config = tmp_path / "plant.yaml"
    config.write_text(
        "devices:\n  silo-7: {connect: 'modbus+rtu:///dev/ttyS9?unit=3&baud=9600',"
        " tags: {level: {at: 'hr:9', scale: 0.1}}}\n"
    )
    async with simulators(str(config), "--serial") as (_process, ready):
        connect = ready["connect"]
        assert isinstance(connect, dict)
        address = urlsplit(connect["silo-7"])
        assert (address.scheme, address.query) == ("modbus+rtu", "unit=3&baud=9600")
        master = await asyncio.create_subprocess_exec(
            "mbpoll", "-m", "rtu", "-b", "9600", "-P", "none", "-a", "3", "-0", "-r", "9",
            "-t", "4", "-1", address.path, stdout=PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said = (await master.communicate())[0].decode()

    assert master.returncode == 0, said
    match = re.search(r"^\[9\]:\s+(\d+)", said, re.MULTILINE)
    assert match is not None
    assert 350 < int(match[1]) < 650


@pytest.mark.parametrize("text", ["devices: [1", "- a list"])
async def test_a_file_that_cannot_be_read_ends_with_status_2_and_a_sentence(
    tmp_path: Path, text: str
) -> None:
    config = tmp_path / "plant.yaml"
    config.write_text(text)

    async with simulators(str(config)) as (process, ready):
        _, error = await process.communicate()

    assert ready == {}
    assert process.returncode == 2
    assert str(config) in error.decode()
    assert "Traceback" not in error.decode()
