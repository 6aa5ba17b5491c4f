"""CJ/T 188 frames and values: published vectors exactly, and nothing but reading."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drivers import cjt188_codec
from edge_agent.drivers.cjt188_codec import Frame, parse, place, read, read_address, reading
from edge_agent.drivers.octet_frames import Scanner
from edge_agent.units import Unit
from simulators.cjt188_server import answer
from simulators.octets import bcd

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cjt188.json").read_text("utf-8"))
FRAMES = {v["id"]: v for v in VECTORS["frames"]}
METER = "78330011223344"
PREAMBLE = b"\xfe" * 4


def octets(name: str) -> bytes:
    return bytes.fromhex(FRAMES[name]["frame"])


def scanned(raw: bytes) -> list[Frame]:
    return [parse(frame) for frame in Scanner(cjt188_codec.size).feed(raw)]


# ---- vectors ----------------------------------------------------------------------------------


def test_the_published_request_is_made_and_read_byte_by_byte() -> None:
    (frame,) = scanned(octets("c1"))

    assert read(0x10, METER, 0, "1F90") == octets("c1")
    assert (frame.type, frame.address, frame.control) == (0x10, METER, 0x01)
    assert (frame.item, frame.serial) == (0x901F, 0)


def test_the_published_answer_is_read() -> None:
    (frame,) = scanned(octets("c2_fixed"))
    data = frame.data[3:]
    found = {at: reading(place(at, "water"), data) for at in ("volume", "time", "status")}

    assert (frame.control, frame.item, frame.serial) == (0x81, 0x901F, 0)
    assert found["volume"] is not None
    assert (found["volume"].raw, found["volume"].decimals) == (55667700, 2)
    assert found["volume"].unit == Unit.parse("m3")
    assert found["time"] is not None
    assert found["time"].raw == 20150511220131
    assert found["status"] is not None
    assert found["status"].raw == 0x8421


def test_the_simulator_makes_the_published_answer_byte_by_byte() -> None:
    data = bytes.fromhex("1F 90 00") + 2 * (bcd(55667700, 4) + b"\x2c")
    data += bcd(20150511220131, 7) + bytes.fromhex("21 84")

    assert answer(0x10, METER, 0x81, data) == octets("c2_fixed")


def test_the_most_copied_answer_is_refused_because_its_sum_is_wrong() -> None:
    scanner = Scanner(cjt188_codec.size)

    assert scanner.feed(octets("c2_bad")) == []
    assert scanner.garbled


def test_a_published_answer_with_the_unit_before_the_digits_is_read() -> None:
    # cnblogs.com/llguanli/p/8683992.html; its sum recomputed, which is 31H as published
    raw = bytes.fromhex(
        "68 20 32 41 31 40 00 00 00 81 2E 90 1F 01 08 02 00 00 00 08 02 00 00 00 17 00 00 00 00"
        "35 00 00 00 00 2C 34 10 00 00 35 25 00 66 25 00 00 00 00 53 00 12 10 07 15 20 00 00 31 16"
    )
    (frame,) = scanned(raw)
    data = frame.data[3:]

    def value(at: str) -> tuple[float, str]:
        found = reading(place(at, "heat"), data, unit_first=True)
        assert found is not None
        return found.raw / 10**found.decimals, found.unit.code

    assert len(data) == cjt188_codec.LENGTH["heat"]
    assert [value("heat"), value("volume")] == [(0.02, "MW.h"), (10.34, "m3")]
    assert value("temperature_supply") == (25.35, "Cel")
    assert value("temperature_return") == (25.66, "Cel")
    assert value("time") == (20150710120053.0, "1")


# ---- reading only -----------------------------------------------------------------------------


@given(
    st.integers(0, 255), st.from_regex(r"[0-9A-F]{14}", fullmatch=True), st.integers(0, 255),
    st.sampled_from(cjt188_codec.ORDERS),
)  # fmt: skip
def test_whatever_is_asked_for_only_reads(
    meter: int, address: str, serial: int, order: cjt188_codec.Order
) -> None:
    (values,) = scanned(read(meter, address, serial, order))
    (who,) = scanned(read_address(meter, serial, order))

    assert (values.control, who.control) == (0x01, 0x03)
    assert (values.item, who.item) == (0x901F, 0x810A)
    assert (values.type, values.address, values.serial) == (meter, address, serial)


@pytest.mark.parametrize(
    ("at", "kind", "message"),
    [
        ("energy", "heat", "is nothing that a heat meter shows"),
        ("heat", "water", "type= in the address: 10 water, 20 heat, 30 gas"),
        ("volume.1", "water", "only status has bits"),
        ("status.16", "gas", "only status has bits, 0 to 15"),
        ("status.x", "gas", "only status has bits, 0 to 15"),
    ],
)
def test_a_wrong_place_is_told(at: str, kind: cjt188_codec.Category, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(at, kind)
