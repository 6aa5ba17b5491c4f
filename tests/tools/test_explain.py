"""What ``explain`` says of a tag, against frames and numbers made here with ``struct``."""

import re
import struct
from fractions import Fraction
from pathlib import Path

import pytest

from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.terminal import width
from edge_agent.tools.models import Models
from simulators.registers import place
from tests.commands import ROOT, called, run
from tests.drivers.modbus_meter import checksum

DEMO = "configs/demo.yaml"
pytestmark = pytest.mark.timeout(60)  # processes import for seconds on a loaded machine
FUNCTIONS = {"co": 1, "di": 2, "hr": 3, "ir": 4}
MAPS = {
    scheme: {n: d for n, d in Models().devices(f"{scheme}://h:1?unit=7") if "tcp" in scheme}
    for scheme in ("modbus+tcp", "modbus+rtu-over-tcp")
}


LAYOUTS = {
    "u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q", "f32": ">f",
    "f64": ">d",
}  # fmt: skip


def read(octets: bytes, kind: str, order: str) -> float:
    words = [octets[i : i + 2] for i in range(0, len(octets), 2)]
    if order in {"CDAB", "DCBA"}:
        words.reverse()
    if order in {"BADC", "DCBA"}:
        words = [word[::-1] for word in words]
    return struct.unpack(LAYOUTS[kind], b"".join(words))[0]


def hexadecimal(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("scheme", MAPS)
@pytest.mark.parametrize("name", MAPS["modbus+tcp"])
def test_bytes_and_numbers_of_every_tag_of_a_template_are_right(scheme: str, name: str) -> None:
    device = MAPS[scheme][name]
    assert isinstance(device, ModbusDevice)
    for tag, written in device.tags.items():
        said = dict(device.explain("em", tag))
        area, address, bit = place(written.at)
        asked = hexadecimal(said["asked"])
        if scheme == "modbus+tcp":
            assert asked[2:6] == struct.pack(">HH", 0, 6)
            asked = asked[6:]
        else:
            assert asked[-2:] == checksum(asked[:-2])
            asked = asked[:-2]
        unit, function, first, count = struct.unpack(">BBHH", asked)
        assert (unit, function) == (7, FUNCTIONS[area])
        assert first <= address < first + count
        bracket = re.search(r"\[([0-9A-F ]+)\]", said["answered"])
        assert bracket is not None
        own = hexadecimal(bracket[1])
        assert bracket[1] in said["decoding"] or bit is not None or area in {"co", "di"}
        if written.type in {None, "bool", "text"} or str(written.type).startswith(("bcd", "m10k")):
            continue
        raw = Fraction(read(own, str(written.type), written.order or device.order))
        shown = re.search(r"= (-?[\d.e+-]+)$", said["decoding"])
        assert shown is not None
        assert float(shown[1]) == float(raw)
        if written.scale_from is None:
            value = float(raw * Fraction(repr(written.scale)) + Fraction(repr(written.offset)))
            assert f"{value:.12g}" in said["value"]


def explained(tag: str, plant: Path | str = DEMO) -> dict[str, str]:
    status, said, error = run("explain", plant, tag)
    assert (status, error) == (0, "")
    assert [text for text in said.splitlines() if width(text) > 100] == []
    parts: dict[str, str] = {}
    label = ""
    column = said.index("em-" if "em-" in said else tag.partition(".")[0])
    for text in said.splitlines():
        label = text[:column].strip() or label
        parts[label] = f"{parts[label]}\n{text[column:]}" if label in parts else text[column:]
    return parts


def test_a_tag_is_explained_from_the_wire_to_the_figures() -> None:
    said = explained("em-kiln.active_energy_import")
    assert said["stands at"].startswith(
        "hr:10 to hr:11 (0x000A; in manuals that count from one 400"
    )
    assert said["read by"].startswith("request 1 of ")
    assert said["plan"].count("<- this tag") == 1
    assert said["value"] == "1234567 × 0.01 (scale) × 600 (ct) × 1 (pt) = 7407402 kWh"
    assert said["rollover"].startswith("raw 100000000 is 600000000")
    assert said["stream"].startswith("em-kiln/raw.slow, read every 5 s (class slow)")
    assert said["MQTT"] == "topic edge/demo-cement/em-kiln/raw.slow, v.active_energy_import"
    assert said["InfluxDB"].startswith("sample,device=em-kiln,site=demo-cement,stream=raw.slow ")
    used = said["metrics"].splitlines()
    assert used[0] == "clinker: inputs.electricity.0, windows 1min 15min 1h"
    assert used[-1] == "em-kiln-check: counter, windows 1h"
    assert "acrel/adl3000: Acrel ADL3000; not verified" in said["template"]
    assert "source: Acrel ADL3000-E manual" in said["template"].replace("\n", " ")


def test_a_node_is_explained_with_the_bytes_that_the_library_reads() -> None:
    from asyncua import ua
    from asyncua.common.utils import Buffer
    from asyncua.ua.ua_binary import struct_from_binary

    device = OpcUaDevice(
        connect="opc.tcp://h",
        pt=10.0,
        tags={
            "p": TagConfig(at="nsu=urn:x;s=P", scale=0.1, offset=2.0, unit="kW", ratio="pt"),
            "n": TagConfig(at="ns=3;i=7;index=2", kind="counter", mode="subscribe"),
        },
    )
    said = dict(device.explain("plc", "p"))
    item = struct_from_binary(ua.ReadValueId, Buffer(hexadecimal(said["asked"].split("\n")[0])))
    assert (item.NodeId, item.AttributeId) == (ua.NodeId("P", 2), 13)
    answer = struct_from_binary(ua.DataValue, Buffer(hexadecimal(said["answered"])))
    assert answer.Value.Value == 230.5
    assert said["value"] == "230.5 × 0.1 (scale) × 10 (pt) + 2 (offset) = 232.5 kW"
    assert said["read by"].startswith("Read request 1 of 1, it brings this tag")
    said = dict(device.explain("plc", "n"))
    item = struct_from_binary(ua.ReadValueId, Buffer(hexadecimal(said["asked"].split("\n")[0])))
    assert (item.NodeId, item.IndexRange) == (ua.NodeId(7, 3), "2")
    assert said["read by"].startswith("a monitored item")
    assert "element 2 of the array" in said["stands at"]


def test_sinks_that_take_the_tag_are_named(tmp_path: Path) -> None:
    plant = tmp_path / "plant.yaml"
    sinks = (
        "sinks:\n  broker: {type: mqtt, url: 'mqtt://h'}\n"
        "  kept: {type: mqtt, url: 'mqtt://i', streams: ['em-*/raw']}\n"
        "  other: {type: mqtt, url: 'mqtt://j', streams: ['cems-*/raw']}\n"
    )
    plant.write_text((ROOT / DEMO).read_text("utf-8") + sinks, encoding="utf-8")
    assert (
        explained("em-kiln.voltage_l1", plant)["sinks"] == "broker (mqtt), kept (mqtt) by em-*/raw"
    )
    assert explained("em-kiln.active_energy_import", plant)["sinks"] == "broker (mqtt)"


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("em-kil.active_power", 'unknown device "em-kil" (did you mean "em-kiln"?)'),
        ("em-kiln.active_powr", 'em-kiln has no tag "active_powr" (did you mean "active_power"?)'),
        ("em-kiln", "write DEVICE.TAG"),
    ],
)
def test_a_name_that_is_none_is_one_line(
    tag: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said, error = called(capfd, "explain", str(ROOT / DEMO), tag)
    assert (status, said) == (2, "")
    assert told in error
    assert error.count("\n") == 1
