"""The plan of a Modbus stream: addresses, requests, and the law of decoding."""

import json
import math
import struct
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.drivers.modbus_plan import ReadPlan
from edge_agent.drivers.modbus_register import WORDS, Register
from edge_agent.model import Quality

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "modbus.json").read_text("utf-8"))
ORDERS = ["ABCD", "CDAB", "BADC", "DCBA"]
STRUCT = {
    "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d",
}  # fmt: skip
NAN = float("nan")


# ---- the obvious version, value by value ------------------------------------------------------


def in_order(wire: bytes, order: str) -> bytes:
    """Return the bytes of a number most significant first."""
    words = [wire[i : i + 2] for i in range(0, len(wire), 2)]
    if order in {"BADC", "DCBA"}:
        words = [word[::-1] for word in words]
    if order in {"CDAB", "DCBA"}:
        words = words[::-1]
    return b"".join(words)


def raw_number(register: Register, words: Sequence[int]) -> float | int | None:
    wire = b"".join(struct.pack(">H", word) for word in words)
    if register.address.table.is_bits:
        return words[0]
    plain = in_order(wire, register.order)
    if register.type == "bool":
        bits = int.from_bytes(plain, "big")
        return int(bits != 0 if register.address.bit is None else bits >> register.address.bit & 1)
    if register.type.startswith("bcd"):
        digits = plain.hex()
        return int(digits) if digits.isdecimal() else None
    if register.type.startswith("m10k"):
        parts = struct.unpack(f">{len(plain) // 2}H", plain)
        if max(parts) > 9999:
            return None
        return sum(part * 10_000**i for i, part in enumerate(reversed(parts)))
    return struct.unpack(">" + STRUCT[register.type], plain)[0]


def oracle(register: Register, words: Sequence[int]) -> tuple[float, int]:
    raw = raw_number(register, words)
    if raw is None or not math.isfinite(raw):
        return NAN, Quality.BAD_NOT_AVAILABLE
    bits = 16 * WORDS[register.type]
    sentinels = set(register.invalid)
    if register.type[0] == "i":
        sentinels |= {n - (1 << bits) for n in register.invalid if n >> (bits - 1) == 1}
    if raw in sentinels:
        return NAN, Quality.BAD_NOT_AVAILABLE
    quality = Quality.GOOD
    value = float(raw) * float(register.ratio.numerator) / float(register.ratio.denominator)
    value += register.offset
    if not math.isfinite(value):
        return NAN, Quality.BAD_NOT_AVAILABLE
    if isinstance(raw, int) and abs(raw) > 2**53:
        quality = Quality.UNCERTAIN_PRECISION
    elif not register.low <= value <= register.high:
        quality = Quality.UNCERTAIN_RANGE
    return value, quality


def words_of(plan: ReadPlan, memory: dict[Table, list[int]]) -> list[int]:
    """Return the row of words that a device with this memory answers the plan with."""
    return [
        word
        for request in plan.requests
        for word in memory[request.table][request.address : request.address + request.count]
    ]


# ---- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("40001", "hr:0"), ("400001", "hr:0"), ("hr40001", "hr:0"), ("49999", "hr:9998"),
        ("465536", "hr:65535"), ("hr400011", "hr:10"), ("30001", "ir:0"), ("ir30001", "ir:0"),
        ("300100", "ir:99"), ("10001", "di:0"), ("co00001", "co:0"), ("hr:0", "hr:0"),
        ("hr:0x0A", "hr:10"), ("HR:0XfF", "hr:255"), (" ir:7 ", "ir:7"), ("co:0", "co:0"),
        ("di:65535", "di:65535"), ("hr:5.3", "hr:5.3"), ("hr:0x10.15", "hr:16.15"),
        ("40006.3", "hr:5.3"), ("hr:010", "hr:10"),
    ],
)  # fmt: skip
def test_an_address_has_one_canonical_form(written: str, canonical: str) -> None:
    address = Address.parse(written)

    assert str(address) == canonical
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "written",
    [
        "", "hr", "hr:", "5", "hr:-1", "hr:65536", "465537", "499999", "hr40000", "40000", "400000",
        "hr30001", "ir40001", "20001", "50001", "4001", "4000001", "hr:5.16", "co:5.3", "hr:0xG",
        "hr:5.", "hr:٥", "holding:5", "hr:1e3", "hr:5:3", "٤٠٠٠١",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_plain_words(written: str) -> None:
    with pytest.raises(ValueError, match=r"address|register|bits"):
        Address.parse(written)


def test_a_refusal_says_what_would_be_right() -> None:
    with pytest.raises(ValueError, match=r"write 40001 or hr40001 .* hr:0, ir:0, co:0, di:0"):
        Address.parse("holding 5")


# ---- requests ---------------------------------------------------------------------------------


def registers(*written: str, kind: str = "u16") -> list[Register]:
    return [Register(Address.parse(at), kind) for at in written]  # type: ignore[arg-type]  # a literal


def spans(plan: ReadPlan) -> list[tuple[str, int, int]]:
    return [(r.table.prefix, r.address, r.count) for r in plan.requests]


def test_adjacent_registers_are_read_by_one_request() -> None:
    plan = ReadPlan.build(registers("hr:2", "hr:0", "hr:1"))

    assert spans(plan) == [("hr", 0, 3)]
    assert plan.requests[0].columns == (1, 2, 0)
    assert str(plan.requests[0]) == "hr:0..hr:2 (3 registers, function 3)"
    assert plan.requests[0].pdu.hex() == "0300000003"


def test_a_register_nobody_asked_for_is_not_read_unless_allowed() -> None:
    wanted = registers("hr:0", "hr:2", "hr:5")

    assert spans(ReadPlan.build(wanted)) == [("hr", 0, 1), ("hr", 2, 1), ("hr", 5, 1)]
    assert spans(ReadPlan.build(wanted, max_gap=1)) == [("hr", 0, 3), ("hr", 5, 1)]
    assert spans(ReadPlan.build(wanted, max_gap=2)) == [("hr", 0, 6)]


def test_a_request_asks_for_no_more_than_the_device_allows() -> None:
    wanted = registers(*[f"hr:{2 * i}" for i in range(100)], kind="u32")

    assert spans(ReadPlan.build(wanted)) == [("hr", 0, 124), ("hr", 124, 76)]
    assert max(r.count for r in ReadPlan.build(wanted, max_registers=5).requests) == 4


def test_two_thousand_bits_are_one_request() -> None:
    plan = ReadPlan.build([Register(Address(Table.COILS, i), "bool") for i in range(2001)])

    assert spans(plan) == [("co", 0, 2000), ("co", 2000, 1)]


def test_no_request_crosses_the_border_of_a_section() -> None:
    wanted = registers("hr:254", "hr:255", "hr:256", "hr:257")

    plan = ReadPlan.build(wanted, max_gap=8, sections=[(0, 255), (256, 511)])

    assert spans(plan) == [("hr", 254, 2), ("hr", 256, 2)]


def test_a_register_within_another_is_read_with_it() -> None:
    plan = ReadPlan.build(registers("hr:0", kind="u64") + registers("hr:1", "hr:4"))

    value, _ = plan.decode(np.array([[0, 7, 0, 1, 9]], np.uint16))

    assert spans(plan) == [("hr", 0, 5)]
    assert value[:, 0].tolist() == [7 * 2.0**32 + 1, 7, 9]


def test_tables_are_never_mixed() -> None:
    plan = ReadPlan.build(registers("hr:0", "ir:1", "di:2", "co:3"))

    assert sorted(spans(plan)) == [("co", 3, 1), ("di", 2, 1), ("hr", 0, 1), ("ir", 1, 1)]


def test_bits_of_one_register_are_read_once() -> None:
    plan = ReadPlan.build(registers("hr:5.0", "hr:5.3", "hr:5.15", kind="bool"))

    value, _ = plan.decode(np.array([[0x8001]], np.uint16))

    assert spans(plan) == [("hr", 5, 1)]
    assert value.ravel().tolist() == [1.0, 0.0, 1.0]


# ---- decoding ---------------------------------------------------------------------------------


def decoded(register: Register, words: Sequence[int]) -> tuple[float, int]:
    value, quality = ReadPlan.build([register]).decode(np.array([words], np.uint16))
    return float(value[0, 0]), int(quality[0, 0])


def holding(kind: str, **rest: object) -> Register:
    return Register(Address.parse("hr:0"), kind, **rest)  # type: ignore[arg-type]  # literals


@pytest.mark.parametrize("vector", VECTORS["encodings"], ids=lambda v: f"{v['type']} {v['value']}")
def test_the_golden_encodings_decode_to_their_numbers(vector: dict[str, str]) -> None:
    long = {"ABCDEFGH": "ABCD", "GHEFCDAB": "CDAB", "BADCFEHG": "BADC", "HGFEDCBA": "DCBA"}
    kind = {"float32": "f32", "float64": "f64"}[vector["type"]]
    expected = float(vector["value"])
    if kind == "f32":
        expected = struct.unpack(">f", struct.pack(">f", expected))[0]
    orders = {long.get(name, name): text for name, text in vector.items() if name.isupper()}

    for order, text in orders.items():
        words = struct.unpack(f">{len(text) // 4}H", bytes.fromhex(text))
        assert decoded(holding(kind, order=order), words) == (expected, Quality.GOOD)
    assert len(orders) >= 3


def test_the_golden_frames_decode_to_the_manuals_numbers() -> None:
    frames = {frame["id"]: bytes.fromhex(frame["frame"]) for frame in VECTORS["rtu_frames"]}
    volts = struct.unpack(">3f", frames["dtsu666_reply"][3:15])
    words = struct.unpack(">6H", frames["dtsu666_reply"][3:15])
    energy = struct.unpack(">4H", frames["pac3200_energy_reply_f64"][3:11])
    at = [
        Register(Address(Table.HOLDING_REGISTERS, 2 * i), "f32", ratio=Fraction("0.1"))
        for i in range(3)
    ]

    value, _ = ReadPlan.build(at).decode(np.array([words], np.uint16))

    assert value.ravel().tolist() == [v / 10 for v in volts] == [229.7, 230.1, 228.8]
    assert decoded(holding("f64"), energy) == (1234567.891, Quality.GOOD)
    request = ReadPlan.build([Register(Address.parse("hr:801"), "f64")]).requests[0]
    assert request.pdu == frames["pac3200_read_energy_801_4_fc03"][1:-2]


@pytest.mark.parametrize(
    ("kind", "order", "words", "value"),
    [
        ("bcd16", "ABCD", [0x1234], 1234), ("bcd16", "BADC", [0x3412], 1234),
        ("bcd32", "ABCD", [0x1234, 0x5678], 12345678),
        ("bcd32", "CDAB", [0x5678, 0x1234], 12345678),
        ("m10k32", "ABCD", [12, 3456], 123456), ("m10k32", "CDAB", [3456, 12], 123456),
        ("m10k48", "ABCD", [1, 2, 3], 100020003), ("m10k64", "CDAB", [4, 3, 2, 1], 1000200030004),
        ("i16", "ABCD", [0xFFFF], -1), ("bool", "ABCD", [0], 0), ("bool", "ABCD", [2], 1),
    ],
)  # fmt: skip
def test_a_type_decodes_its_digits(kind: str, order: str, words: list[int], value: float) -> None:
    assert decoded(holding(kind, order=order), words) == (value, Quality.GOOD)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bcd16", [0x12A4]), ("bcd32", [0xFFFF, 0xFFFF]), ("m10k32", [0, 10_000]),
        ("m10k64", [0xFFFF, 0, 0, 0]), ("f32", [0x7FC0, 0]), ("f32", [0x7F80, 0]),
        ("f32", [0x7FA0, 1]), ("f64", [0xFFF0, 0, 0, 0]),
    ],
)  # fmt: skip
def test_what_is_no_number_is_not_available(kind: str, words: list[int]) -> None:
    value, quality = decoded(holding(kind), words)

    assert math.isnan(value)
    assert quality == Quality.BAD_NOT_AVAILABLE


@pytest.mark.parametrize(
    ("kind", "sentinel", "words"),
    [
        ("u16", 0xFFFF, [0xFFFF]), ("i16", 0x8000, [0x8000]), ("i16", -32768, [0x8000]),
        ("u32", 0xFFFFFFFF, [0xFFFF, 0xFFFF]), ("i32", 0x80000000, [0x8000, 0]),
        ("u64", 2**64 - 1, [0xFFFF] * 4), ("i64", 2**63, [0x8000, 0, 0, 0]),
        ("f32", -9999, [0xC61C, 0x3C00]),
    ],
)  # fmt: skip
def test_a_sentinel_is_never_a_number(kind: str, sentinel: int, words: list[int]) -> None:
    value, quality = decoded(holding(kind, invalid=(7, sentinel)), words)

    assert math.isnan(value)
    assert quality == Quality.BAD_NOT_AVAILABLE


def test_the_number_beside_a_64_bit_sentinel_is_kept() -> None:
    value, quality = decoded(holding("u64", invalid=(2**64 - 1,)), [0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE])

    assert (value, quality) == (float(2**64 - 2), Quality.UNCERTAIN_PRECISION)


def test_integers_above_2_53_are_marked_as_rounded() -> None:
    exact, beyond = [0x0020, 0, 0, 0], [0x0020, 0, 0, 1]
    below = struct.unpack(">4H", struct.pack(">q", -(2**53) - 1))

    assert decoded(holding("u64"), exact) == (2.0**53, Quality.GOOD)
    assert decoded(holding("u64"), beyond)[1] == Quality.UNCERTAIN_PRECISION
    assert decoded(holding("i64"), below)[1] == Quality.UNCERTAIN_PRECISION
    assert decoded(holding("m10k64"), [9999] * 4)[1] == Quality.UNCERTAIN_PRECISION


def test_a_value_outside_the_limits_is_kept_and_marked() -> None:
    limited = holding("u16", ratio=Fraction("0.1"), low=0.0, high=50.0)

    assert decoded(limited, [500]) == (50.0, Quality.GOOD)
    assert decoded(limited, [501]) == (50.1, Quality.UNCERTAIN_RANGE)


@given(
    raw=st.integers(0, 2**32 - 1),
    scale=st.sampled_from(["0.1", "0.01", "0.001", "0.3", "10", "1.25", "0.0001"]),
    ct=st.sampled_from([1, 40, 120]),
)
def test_a_scaled_integer_is_the_double_nearest_to_the_exact_value(
    raw: int, scale: str, ct: int
) -> None:
    ratio = Fraction(scale) * ct
    words = [raw >> 16, raw & 0xFFFF]

    value, _ = decoded(holding("u32", ratio=ratio), words)

    assert value == float(raw * ratio)


def test_a_lost_answer_spoils_only_its_own_columns() -> None:
    plan = ReadPlan.build(registers("hr:0", "hr:9"))
    lost = np.array(
        [[Quality.GOOD, Quality.BAD_DEVICE], [Quality.BAD_SHORT, Quality.GOOD]], np.uint8
    )

    value, quality = plan.decode(np.array([[1, 2], [3, 4]], np.uint16), lost)

    np.testing.assert_array_equal(value, [[1, NAN], [NAN, 4]])
    np.testing.assert_array_equal(quality, [[0, Quality.BAD_SHORT], [Quality.BAD_DEVICE, 0]])


SIZE = 24  # small, so that registers overlap
KINDS = sorted(WORDS)


@st.composite
def maps(draw: st.DrawFn) -> list[Register]:
    found = []
    for _ in range(draw(st.integers(1, 12))):
        table = draw(st.sampled_from(list(Table)))
        kind = "bool" if table.is_bits else draw(st.sampled_from(KINDS))
        at = draw(st.integers(0, SIZE - (1 if table.is_bits else WORDS[kind])))
        bit = draw(st.none() | st.integers(0, 15)) if kind == "bool" and not table.is_bits else None
        found.append(
            Register(
                Address(table, at, bit),
                kind,
                draw(st.sampled_from(ORDERS)),
                Fraction(draw(st.sampled_from(["1", "0.1", "-0.01", "40", "1.5"]))),
                draw(st.sampled_from([0.0, -40.0, 0.5])),
                tuple(draw(st.lists(st.integers(0, 65535), max_size=2))),
                draw(st.sampled_from([-math.inf, -10.0])),
                draw(st.sampled_from([math.inf, 1000.0])),
            )
        )
    return found


@settings(max_examples=120, deadline=None)
@given(
    columns=maps(),
    gap=st.integers(0, 10),
    limit=st.integers(4, 125),
    border=st.integers(1, SIZE),
    seed=st.integers(0, 2**32 - 1),
)
def test_decoding_equals_struct_unpack(
    columns: list[Register], gap: int, limit: int, border: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    plan = ReadPlan.build(
        columns, max_registers=limit, max_gap=gap, sections=[(0, border - 1), (border, SIZE)]
    )
    pool = [0, 1, 0x1234, 0x8000, 0xFFFF, 0x7F80, 0x7FA0, 9999]
    memories = []
    for _ in range(1 + seed % 5):
        words = np.where(
            random.random(SIZE) < 0.5, random.integers(0, 65536, SIZE), random.choice(pool, SIZE)
        )
        bits = random.integers(0, 2, SIZE).tolist()
        memories.append({t: bits if t.is_bits else words.tolist() for t in Table})

    value, quality = plan.decode(np.array([words_of(plan, m) for m in memories], np.uint16))

    for n, memory in enumerate(memories):
        for k, register in enumerate(columns):
            size = 1 if register.address.table.is_bits else WORDS[register.type]
            span = slice(register.first, register.first + size)
            expected = oracle(register, memory[register.address.table][span])
            assert (value[k, n], quality[k, n]) == expected or (
                math.isnan(value[k, n]) and math.isnan(expected[0]) and quality[k, n] == expected[1]
            ), register


@settings(max_examples=120, deadline=None)
@given(columns=maps(), gap=st.integers(0, 10), limit=st.integers(4, 125))
def test_every_column_is_brought_by_one_request_within_the_limits(
    columns: list[Register], gap: int, limit: int
) -> None:
    plan = ReadPlan.build(columns, max_registers=limit, max_gap=gap)

    assert sorted(c for r in plan.requests for c in r.columns) == list(range(len(columns)))
    assert plan.words == sum(r.count for r in plan.requests)
    for request in plan.requests:
        assert request.count <= (2000 if request.table.is_bits else limit)
        wanted = {
            at for c in request.columns for at in range(columns[c].first, columns[c].last + 1)
        }
        assert {request.address, request.address + request.count - 1} <= wanted
        assert max(np.diff(sorted(wanted)), default=1) <= gap + 1


def test_the_vectorised_decoding_is_five_times_as_fast_as_value_by_value() -> None:
    address, columns = 0, []
    for kind in ["f32"] * 60 + ["u64"] * 4 + ["u16"] * 20:
        columns.append(
            Register(Address(Table.HOLDING_REGISTERS, address), kind, ratio=Fraction("0.1"))  # type: ignore[arg-type]  # a literal
        )
        address += WORDS[kind]  # type: ignore[index]  # the same
    plan = ReadPlan.build(columns)
    words = np.random.default_rng(1).integers(0, 16000, (60, plan.words)).astype(np.uint16)
    rows = words.tolist()

    def one_by_one() -> None:
        for row in rows:
            for register in columns:
                oracle(register, row[register.first : register.last + 1])

    def best(run: object, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()  # type: ignore[operator]  # either of the two
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(one_by_one, 3) >= 5 * best(lambda: plan.decode(words), 20)
