"""Every number type in every order, texts, and exponents (L8, peers 53 to 55)."""

import json
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drivers.base import NumberType, Vocabulary
from edge_agent.drivers.modbus_address import Address
from edge_agent.drivers.modbus_decode import TextReader
from edge_agent.drivers.modbus_frames import Refused, Rtu
from edge_agent.drivers.modbus_plan import ReadPlan
from edge_agent.drivers.modbus_register import Register
from edge_agent.model import Quality

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "modbus.json").read_text("utf-8"))
ORDERS = ["ABCD", "CDAB", "BADC", "DCBA"]

# type, value, and the words on the wire in the orders ABCD, CDAB, BADC, DCBA
GOLDEN: list[tuple[str, float, str, str, str, str]] = [
    ("bool", 1, "0100", "0100", "0001", "0001"),
    ("u16", 4660, "1234", "1234", "3412", "3412"),
    ("i16", -2, "fffe", "fffe", "feff", "feff"),
    ("u32", 305419896, "1234 5678", "5678 1234", "3412 7856", "7856 3412"),
    ("i32", -19088744, "fedc ba98", "ba98 fedc", "dcfe 98ba", "98ba dcfe"),
    ("u64", 283686952306183, "0001 0203 0405 0607", "0607 0405 0203 0001",
     "0100 0302 0504 0706", "0706 0504 0302 0100"),
    ("i64", -283686952306184, "fffe fdfc fbfa f9f8", "f9f8 fbfa fdfc fffe",
     "feff fcfd fafb f8f9", "f8f9 fafb fcfd feff"),
    ("f32", 123456.703125, "47f1 205a", "205a 47f1", "f147 5a20", "5a20 f147"),
    ("f64", 1234567.891, "4132 d687 e418 9375", "9375 e418 d687 4132",
     "3241 87d6 18e4 7593", "7593 18e4 87d6 3241"),
    ("bcd16", 1987, "1987", "1987", "8719", "8719"),
    ("bcd32", 12345678, "1234 5678", "5678 1234", "3412 7856", "7856 3412"),
    ("bcd64", 1234567890123456, "1234 5678 9012 3456", "3456 9012 5678 1234",
     "3412 7856 1290 5634", "5634 1290 7856 3412"),
    ("m10k32", 12345678, "04d2 162e", "162e 04d2", "d204 2e16", "2e16 d204"),
    ("m10k48", 123456789012, "04d2 162e 2334", "2334 162e 04d2", "d204 2e16 3423",
     "3423 2e16 d204"),
    ("m10k64", 1234567890123456, "04d2 162e 2334 0d80", "0d80 2334 162e 04d2",
     "d204 2e16 3423 800d", "800d 3423 2e16 d204"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def decoded(
    registers: Sequence[Register], row: Sequence[int], reader: TextReader | None = None
) -> list[tuple[float, int]]:
    plan = ReadPlan.build(registers)
    assert len(plan.requests) == 1
    texts = {} if reader is None else {0: reader}
    value, quality = plan.decode(np.array([row], np.uint16), None, texts)
    return list(zip(value[:, 0].tolist(), quality[:, 0].tolist(), strict=True))


def holding(kind: str, at: int = 0, **rest: object) -> Register:
    return Register(Address.parse(f"hr:{at}"), kind, **rest)  # type: ignore[arg-type]  # literals


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: str(row[0]))
def test_every_type_in_every_order(row: tuple[str, float, str, str, str, str], order: str) -> None:
    """L8, peers 53: float types and orders were misread for a decade."""
    kind, value, *written = row

    found = decoded([holding(kind, order=order)], words(written[ORDERS.index(order)]))

    assert found == [(value, Quality.GOOD)]


def test_the_golden_table_names_every_number_type() -> None:
    assert {row[0] for row in GOLDEN} | {"text"} == set(get_args(NumberType))


def test_all_types_in_all_orders_are_decoded_together() -> None:
    registers, row, expected = [], list[int](), []
    for order in ORDERS:
        for kind, value, *written in GOLDEN:
            registers.append(holding(kind, at=len(row), order=order))
            row += words(written[ORDERS.index(order)])
            expected.append((value, Quality.GOOD))
    plan = ReadPlan.build(registers)
    answers = np.array([row, row, row], np.uint16)

    value, quality = plan.decode(answers)

    assert plan.requests[0].count > 100
    for column, (number, _) in enumerate(expected):
        assert value[column].tolist() == [number] * 3
    assert not quality.any()


@given(raw=st.binary(min_size=8, max_size=8), order=st.sampled_from(ORDERS))
def test_the_orders_are_permutations_of_the_same_bytes(raw: bytes, order: str) -> None:
    """The order of a 64-bit number, spelled out byte by byte."""
    at = {
        "ABCD": (0, 1, 2, 3, 4, 5, 6, 7), "CDAB": (6, 7, 4, 5, 2, 3, 0, 1),
        "BADC": (1, 0, 3, 2, 5, 4, 7, 6), "DCBA": (7, 6, 5, 4, 3, 2, 1, 0),
    }[order]  # fmt: skip
    wire = bytes(raw[i] for i in at)

    ((value, _),) = decoded([holding("i64", order=order)], struct.unpack(">4H", wire))

    assert value == float(struct.unpack(">q", raw)[0])


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("bcd64", "1234 5678 9012 345a"), ("bcd64", "a000 0000 0000 0000"),
        ("m10k48", "0001 2710 0000"), ("m10k64", "0000 0000 0000 ffff"),
    ],
)  # fmt: skip
def test_what_is_no_digit_is_not_available(kind: str, row: str) -> None:
    ((value, quality),) = decoded([holding(kind)], words(row))

    assert math.isnan(value)
    assert quality == Quality.BAD_NOT_AVAILABLE


def test_sixteen_digits_are_more_than_a_float_holds() -> None:
    (found,) = decoded([holding("bcd64")], words("9999 9999 9999 9999"))

    assert found == (1e16, Quality.UNCERTAIN_PRECISION)


def test_every_golden_frame_has_the_checksum_that_it_ends_with() -> None:
    """Their registers are decoded in test_modbus_plan; CRC-16/MODBUS, low byte first."""
    for frame in VECTORS["rtu_frames"]:
        *body, low, high = bytes.fromhex(frame["frame"])
        crc = 0xFFFF
        for byte in body:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
        assert (crc & 0xFF, crc >> 8) == (low, high), frame["id"]


@pytest.mark.parametrize(
    ("asked", "answer", "registers", "values"),
    [
        (None, "dtsu666_reply", [("f32", 0), ("f32", 2), ("f32", 4)], [2297.0, 2301.0, 2288.0]),
        ("pac3200_read_energy_801_4_fc03", "pac3200_energy_reply_f64", [("f64", 801)],
         [1234567.891]),
        ("delta_dpm_c530_read_0100_2", None, [("f32", 0x100)], None),
        (None, "exception_illegal_address", [("u16", 9)], None),
    ],
)  # fmt: skip
def test_the_golden_frames_are_sent_and_read_exactly(
    asked: str | None,
    answer: str | None,
    registers: list[tuple[str, int]],
    values: list[float] | None,
) -> None:
    from pymodbus.framer import FramerRTU
    from pymodbus.pdu import DecodePDU

    frames = {frame["id"]: bytes.fromhex(frame["frame"]) for frame in VECTORS["rtu_frames"]}
    plan = ReadPlan.build([holding(kind, at) for kind, at in registers])
    (request,) = plan.requests
    if asked is not None:
        framer = FramerRTU(DecodePDU(is_server=False))  # as the wire sends it
        assert framer.encode(request.pdu, 1, 0) == frames[asked]
    if answer is not None:
        wire = Rtu()
        wire.expect(1, request)
        taken = wire.take(frames[answer])
        assert taken is not None
        if values is None:
            assert taken[1] == Refused(2)
        else:
            assert isinstance(taken[1], np.ndarray)
            assert decoded(plan.registers, taken[1].tolist()) == [(v, 0) for v in values]


# ---- any map ------------------------------------------------------------------------------------

FORMAT = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q",
          "f32": "f", "f64": "d"}  # fmt: skip


def encoded(kind: str, order: str, raw: int) -> tuple[bytes, float | str | None]:
    """Return what a device sends for a raw number of so many bits, and what it means."""
    if kind == "text":
        text = "".join(chr(0x41 + (raw >> 4 * i) % 26) for i in range(6))
        plain, meaning = text.encode(), text
    elif kind.startswith("bcd"):
        digits = f"{raw:0{int(kind[3:]) // 4}d}"[-int(kind[3:]) // 4 :]
        plain, meaning = bytes.fromhex(digits), float(digits)
    elif kind.startswith("m10k"):
        size = int(kind[4:]) // 16
        parts = [raw // 10_000**i % 10_000 for i in reversed(range(size))]
        plain, meaning = struct.pack(f">{size}H", *parts), float(raw % 10_000**size)
    else:
        size = struct.calcsize(FORMAT[kind])
        plain = (raw % 256**size).to_bytes(size, "big")
        (number,) = struct.unpack(">" + FORMAT[kind], plain)
        meaning = float(number) if math.isfinite(number) else None
    pairs = [plain[i : i + 2] for i in range(0, len(plain), 2)]
    if order in {"BADC", "DCBA"}:
        pairs = [pair[::-1] for pair in pairs]
    if order in {"CDAB", "DCBA"} and kind != "text":
        pairs.reverse()
    return b"".join(pairs), meaning


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_device_sends_is_what_is_read(data: st.DataObject) -> None:
    """All types in all orders, on a map with holes, with limits and over several requests."""
    kinds = sorted(set(get_args(NumberType)) - {"bool"})
    memory, registers, meanings, at = dict[int, int](), list[Register](), [], 0
    for _ in range(data.draw(st.integers(1, 30))):
        kind, order = data.draw(st.sampled_from(kinds)), data.draw(st.sampled_from(ORDERS))
        sent, meaning = encoded(kind, order, data.draw(st.integers(0, 2**64 - 1)))
        registers.append(holding(kind, at, order=order, length=6 if kind == "text" else 0))
        meanings.append(meaning)
        memory |= {at + i: w for i, w in enumerate(struct.unpack(f">{len(sent) // 2}H", sent))}
        at += len(sent) // 2 + data.draw(st.sampled_from([0, 0, 1, 4]))
    gap = data.draw(st.sampled_from([0, 1, 8]))
    plan = ReadPlan.build(registers, max_registers=data.draw(st.integers(4, 125)), max_gap=gap)
    row = [memory.get(a, 0xFFFF) for r in plan.requests for a in range(r.address, r.last + 1)]
    readers = {i: TextReader() for i, r in enumerate(registers) if r.type == "text"}

    value, quality = plan.decode(np.array([row], np.uint16), None, readers)

    for i, meaning in enumerate(meanings):
        found = value[i, 0]
        if meaning is None:
            assert math.isnan(found)
            assert quality[i, 0] == Quality.BAD_NOT_AVAILABLE
        elif isinstance(meaning, str):
            assert readers[i].vocabulary.used(value[i]) == {int(found): meaning}
        else:
            assert found == meaning
            assert quality[i, 0] in {Quality.GOOD, Quality.UNCERTAIN_PRECISION}


# ---- texts ------------------------------------------------------------------------------------


def text_words(written: bytes, length: int, order: str = "ABCD") -> list[int]:
    sent = written.ljust(length + length % 2, b"\0")
    return list(
        struct.unpack(("<" if order in {"BADC", "DCBA"} else ">") + f"{len(sent) // 2}H", sent)
    )


def read_text(written: bytes, length: int = 16, order: str = "ABCD") -> tuple[str | None, int]:
    reader = TextReader()
    register = holding("text", length=length, order=order)
    ((value, quality),) = decoded([register], text_words(written, length, order), reader)
    used = reader.vocabulary.used(np.array([value]))
    return used.get(int(value)) if used else None, quality


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"DTSU666", "DTSU666"), (b"SN 0042   ", "SN 0042"), (b"", ""), (b"  x", "  x"),
        (b"v1.2\0junk\xff", "v1.2"), ("电表".encode(), "电表"),
        ("三相电表".encode("gbk"), "三相电表"),
        ("水泥窑\u3000二".encode("gbk"), "水泥窑\u3000二"),
        (b"exactly sixteen!", "exactly sixteen!"),
    ],
)  # fmt: skip
def test_a_text_is_read_without_its_padding(written: bytes, text: str, order: str) -> None:
    assert read_text(written, order=order) == (text, Quality.GOOD)


@pytest.mark.parametrize(
    "written", [b"\xff" * 16, b"a\xff\xff", b"\x01\x02", b"ab\x80", b"\x1b[2J"]
)
def test_bytes_that_are_no_text_are_not_available(written: bytes) -> None:
    assert read_text(written) == (None, Quality.BAD_NOT_AVAILABLE)


def test_a_text_of_an_odd_length_ends_within_its_last_register() -> None:
    assert read_text(b"abcdeX", length=5) == ("abcde", Quality.GOOD)


def test_a_text_is_looked_at_only_when_its_bytes_have_changed() -> None:
    class Counting(Vocabulary):
        asked = 0

        def index(self, text: str) -> int:
            self.asked += 1
            return super().index(text)

    vocabulary = Counting()
    reader = TextReader(vocabulary)
    plan = ReadPlan.build([holding("text", length=4), holding("u16", at=2)])
    rows = [[*text_words(t, 4), 7] for t in (b"RUN", b"RUN", b"RUN", b"STOP", b"RUN", b"RUN")]

    value, quality = plan.decode(np.array(rows, np.uint16), None, {0: reader})
    again, _ = plan.decode(np.array(rows[-1:], np.uint16), None, {0: reader})

    assert value.tolist() == [[0, 0, 0, 1, 0, 0], [7] * 6]
    assert again[0, 0] == 0
    assert not quality.any()
    assert vocabulary.asked == 3
    assert vocabulary.used(value[0]) == {0: "RUN", 1: "STOP"}


def test_a_text_that_was_not_answered_takes_no_number() -> None:
    reader = TextReader()
    plan = ReadPlan.build([holding("text", length=4)])
    lost = np.array([[Quality.BAD_DEVICE], [Quality.GOOD]], np.uint8)
    rows = np.array([[0, 0], text_words(b"on", 4)], np.uint16)

    value, quality = plan.decode(rows, lost, {0: reader})

    assert math.isnan(value[0, 0])
    assert quality.tolist() == [[Quality.BAD_DEVICE, Quality.GOOD]]
    assert reader.vocabulary.used(value[0]) == {0: "on"}


# ---- scale by register ------------------------------------------------------------------------


def scaled(raw: int, exponent: int, kind: str = "i16", **rest: object) -> tuple[float, int]:
    """Return a u32 whose exponent stands in the register behind it."""
    pair = [holding("u32", exponent=1, **rest), holding(kind, at=2)]
    found, _ = decoded(pair, [raw >> 16, raw & 0xFFFF, exponent & 0xFFFF])
    return found


@given(raw=st.integers(0, 2**32 - 1), exponent=st.integers(-22, 6))
def test_a_scaled_value_is_the_double_nearest_to_the_exact_one(raw: int, exponent: int) -> None:
    """L8, peers 54: rounding of scaled values."""
    expected = float(raw * Fraction(10) ** exponent)

    assert scaled(raw, exponent) == (expected, Quality.GOOD)


@given(raw=st.integers(0, 9999), exponent=st.integers(-15, 6))
def test_scale_and_exponent_are_rounded_together(raw: int, exponent: int) -> None:
    expected = float(raw * Fraction("0.01") * 40 * Fraction(10) ** exponent)

    assert scaled(raw, exponent, ratio=Fraction("0.01") * 40) == (expected, Quality.GOOD)


@pytest.mark.parametrize(
    ("exponent", "kind"), [(31, "i16"), (-31, "i16"), (0x8000, "i16"), (300, "u16")]
)
def test_an_absurd_exponent_makes_the_value_bad(exponent: int, kind: str) -> None:
    value, quality = scaled(5, exponent, kind)

    assert math.isnan(value)
    assert quality == Quality.BAD_NOT_AVAILABLE


def test_an_exponent_without_value_makes_the_value_bad() -> None:
    """The SunSpec way of saying that a scale is not there is 0x8000."""
    pair = [holding("u16", exponent=1), holding("i16", at=1, invalid=(0x8000,))]
    value, exponent = decoded(pair, [5, 0x8000])

    assert math.isnan(value[0])
    assert value[1] == exponent[1] == Quality.BAD_NOT_AVAILABLE


def test_an_exponent_that_was_not_answered_makes_the_value_bad() -> None:
    plan = ReadPlan.build([holding("u16", exponent=1), holding("i16", at=9), holding("u16", at=1)])
    lost = np.array([[0, Quality.BAD_DEVICE, 0]], np.uint8)

    value, quality = plan.decode(np.array([[5, 6, 0]], np.uint16), lost)

    assert quality[:, 0].tolist() == [Quality.BAD_DEVICE, Quality.BAD_DEVICE, Quality.GOOD]
    assert np.isnan(value[:2]).all()
    assert value[2, 0] == 6


def test_an_exponent_is_scaled_itself_before_it_scales() -> None:
    """A register that holds 3 for a step of 0.001: scale -1."""
    pair = [holding("u16", exponent=1), holding("u16", at=1, ratio=Fraction(-1))]

    assert decoded(pair, [1234, 3]) == [(1.234, Quality.GOOD), (-3.0, Quality.GOOD)]


def test_a_value_is_no_better_than_its_exponent() -> None:
    pair = [holding("u16", exponent=1), holding("i16", at=1, low=0.0, high=3.0)]

    assert decoded(pair, [5, 4]) == [
        (50000.0, Quality.UNCERTAIN_RANGE),
        (4.0, Quality.UNCERTAIN_RANGE),
    ]
