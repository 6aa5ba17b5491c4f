"""What ``explain`` says of meters in octet frames, against bytes and numbers made here."""

import re
from fractions import Fraction

import pytest

from edge_agent.drivers.base import DeviceConfig
from edge_agent.drivers.cjt188 import Cjt188Device
from edge_agent.drivers.dlt645 import Dlt645Device
from edge_agent.tools.models import Models

ADDRESSES = {
    "dlt645/three-phase": "dlt645+tcp://h?address=202305170042",
    "dlt645/three-phase-blocks": "dlt645+tcp://h?address=202305170042",
    "dlt645/single-phase": "dlt645+serial:///dev/ttyS0?address=202305170042",
    "dlt645/1997": "dlt645+tcp://h?address=202305170042&version=1997",
    "cjt188/water": "cjt188+tcp://h?address=42&type=10&di=901F",
    "cjt188/heat": "cjt188+tcp://h?address=42&type=20",
    "cjt188/heat-unit-first": "cjt188+tcp://h?address=42&type=20",
}


def device(template: str) -> DeviceConfig:
    made = Models().device(template, ADDRESSES[template])
    assert made is not None
    return made


def own(said: dict[str, str]) -> bytes:
    found = re.search(r"\[(.*)\]", said["in it"])
    assert found is not None
    return bytes.fromhex(found[1])


def number(said: str) -> float:
    return float(said.rsplit(" = ", maxsplit=1)[-1].split(maxsplit=1)[0].rstrip(","))


@pytest.mark.parametrize("template", [t for t in ADDRESSES if t.startswith("dlt645")])
def test_bytes_and_numbers_of_every_tag_of_a_dlt645_meter_are_right(template: str) -> None:
    meter = device(template)
    assert isinstance(meter, Dlt645Device)
    for tag, written in meter.tags.items():
        said = dict(meter.explain("em", tag))
        asked = bytes.fromhex(said["asked"]).lstrip(b"\xfe")
        item = "".join(f"{(o - 0x33) & 0xFF:02X}" for o in reversed(asked[10:-2]))
        assert asked[8] in {0x11, 0x01}
        assert f": {item}, brings" in said["read by"]
        assert f"{item}   <- this tag" in said["plan"]
        assert written.at.removeprefix("di:") in said["stands at"]
        digits = "".join(f"{(o - 0x33) & 0xFF:02X}" for o in reversed(own(said)))
        decimals = int(re.search(r"(\d) decimals", said["stands at"])[1])  # type: ignore[index]
        assert number(said["decoding"]) == float(Fraction(int(digits), 10**decimals))


@pytest.mark.parametrize("template", [t for t in ADDRESSES if t.startswith("cjt188")])
def test_bytes_and_numbers_of_every_tag_of_a_cjt188_meter_are_right(template: str) -> None:
    meter = device(template)
    assert isinstance(meter, Cjt188Device)
    for tag in meter.tags:
        said = dict(meter.explain("m", tag))
        asked = bytes.fromhex(said["asked"].split(" (")[0]).lstrip(b"\xfe")
        identifier = bytes.fromhex("901F" if template == "cjt188/water" else "1F90")
        assert (asked[1], asked[9], asked[11:13]) == (meter.type, 0x01, identifier)
        octets = own(said)
        with_unit = re.search(r", ([0-9A-F]{2})H is", said["decoding"])
        if with_unit:
            at = 0 if meter.unit_first else len(octets) - 1
            assert octets[at] == int(with_unit[1], 16)
            octets = octets[1:] if meter.unit_first else octets[:-1]
        if "status" not in tag:
            decimals = int(re.search(r"(\d) decimals", said["stands at"])[1])  # type: ignore[index]
            true = Fraction(int(octets[::-1].hex()), 10**decimals)
            assert number(said["decoding"]) == float(true)


def test_scale_ratios_and_unit_are_shown_with_their_outcome() -> None:
    high = Dlt645Device(
        connect="dlt645+tcp://h?address=1",
        ct=40.0,
        pt=100.0,
        tags={
            "energy": Models()
            .device("dlt645/three-phase", ADDRESSES["dlt645/three-phase"])  # type: ignore[union-attr]
            .tags["active_energy_import"]
        },
    )
    said = dict(high.explain("em", "energy"))

    assert said["value"] == "123456.78 × 40 (ct) × 100 (pt) = 493827120 kWh"
