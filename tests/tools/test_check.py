"""``check --connect`` when much of the plant is dead, as the person before it reads it."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from edge_agent.check import silence, unreachable
from edge_agent.drivers.base import DeviceConfig
from edge_agent.terminal import width
from tests.commands import line, run, started
from tests.servers import free_port

DEAD = 30
pytestmark = pytest.mark.timeout(60)  # processes import for seconds on a loaded machine


@pytest.fixture
def silent() -> Iterator[list[int]]:
    """Thirty ports that accept a connection and never say a word."""
    with ExitStack() as stack:
        ports = []
        for _ in range(DEAD):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(server.getsockname()[1])
        yield ports


def test_thirty_dead_devices_take_as_long_as_one(tmp_path: Path, silent: list[int]) -> None:
    """L1, peers 5 and 9: a dead device costs the others nothing."""
    devices = {
        f"em-{i}": {"connect": f"modbus+tcp://127.0.0.1:{port}", "tags": {"p": {"at": "hr:0"}}}
        for i, port in enumerate(silent)
    }
    plant = tmp_path / "plant.yaml"
    plant.write_text(yaml.safe_dump({"site": {"id": "works"}, "devices": devices}))
    began = time.monotonic()
    status, said, error = run("check", plant, "--connect")
    assert (status, error) == (3, "")
    assert time.monotonic() - began < DEAD / 2  # one time-out of 1 s each, on a loaded machine
    assert len(re.findall(r"^em-\d+ +raw +- +no answer: ", said, re.MULTILINE)) == DEAD
    looks = [text for text in said.splitlines() if "look at:" in text]
    assert len(looks) == 1  # the same advice for all of them stands there once
    assert looks[0].startswith("em-0, em-1 and 28 more  look at: is 1 the address set in the meter")


def test_what_is_said_fits_into_a_terminal(tmp_path: Path) -> None:
    port = free_port()
    devices = {
        "em": {"connect": f"modbus+rtu-over-tcp://127.0.0.1:{port}", "template": "acrel/adl3000"},
        "plc": {"connect": f"opc.tcp://127.0.0.1:{port}", "tags": {"p": {"at": "i=2258"}}},
        "line": {"connect": "modbus+rtu:///dev/ttyUSB99", "template": "acrel/adl3000"},
    }
    sinks = {"broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{port}"}}
    plant = tmp_path / "plant.yaml"
    tree = {"site": {"id": "works", "name": "示范厂"}, "devices": devices, "sinks": sinks}
    plant.write_text(yaml.safe_dump(tree))
    status, said, error = run("check", plant, "--connect", cwd=tmp_path)
    assert (status, error) == (3, "")
    told = said.partition("device  tag")[2]
    assert max(map(width, told.splitlines()[5:])) <= 100
    assert "ls -l /dev/serial/by-id" in told
    assert f"port {port} of meter or gateway" in told


@pytest.mark.parametrize(
    ("connect", "words"),
    [
        ("modbus+tcp://10.0.0.1:502?unit=7", ["is 7 the address", "behind a gateway: baud"]),
        ("modbus+rtu:///dev/ttyS0?unit=9", ["is 9 the address", "A and B not crossed"]),
        ("dlt645+tcp://10.0.0.1:1?address=202305170042", ["202305170042", "serial server"]),
    ],
)
def test_a_silent_unit_is_told_with_its_own_address(connect: str, words: list[str]) -> None:
    said = silence(DeviceConfig(connect=connect))
    assert all(word in said for word in words)


def test_a_serial_line_is_no_host_to_ping() -> None:
    said = unreachable(DeviceConfig(connect="modbus+rtu:///dev/ttyS0").url)
    assert "ping" not in said
    assert "/dev/ttyS0" in said


def test_a_register_that_is_refused_spoils_its_own_tag_only(tmp_path: Path) -> None:
    """L2, peers 16: split on an exception until the bad register is known."""
    plant, trouble = tmp_path / "plant.yaml", tmp_path / "trouble.yaml"
    meter = {"connect": "modbus+tcp://h:1", "template": "acrel/adl3000"}
    trouble.write_text('[{device: em, kind: hole, at: "hr:0x0062", from: 0s}]')
    plant.write_text(yaml.safe_dump({"site": {"id": "works"}, "devices": {"em": meter}}))
    with started("simulate", plant, "--faults", trouble) as process:
        meter["connect"] = json.loads(line(process, "{"))["connect"]["em"]
        plant.write_text(yaml.safe_dump({"site": {"id": "works"}, "devices": {"em": meter}}))
        status, said, error = run("check", plant, "--connect")
    assert (status, error) == (0, "")
    bad = re.findall(r"^em +(\w+) .*(BAD_\w+)$", said, re.MULTILINE)
    assert [name for name, _ in bad] == ["voltage_l2"]
    assert re.search(rf"^{bad[0][1]} +there is no such|the device refused", said, re.MULTILINE)
