import struct

import pytest

from edge_agent.clock import VirtualClock
from simulators.registers import Refused, RegisterMap, place, words_of
from simulators.sources import Source, anything
from simulators.tables import device_table


@pytest.mark.parametrize(
    ("at", "where"),
    [
        ("hr:0x0010", ("hr", 16, None)),
        ("ir:4", ("ir", 4, None)),
        ("hr:5.3", ("hr", 5, 3)),
        ("co:0", ("co", 0, None)),
        ("40001", ("hr", 0, None)),
        ("400001", ("hr", 0, None)),
        ("hr40021", ("hr", 20, None)),
        ("30002", ("ir", 1, None)),
        ("10001", ("di", 0, None)),
    ],
)
def test_an_address_is_read_as_the_manual_means_it(at: str, where: object) -> None:
    assert place(at) == where


def test_a_word_that_is_no_address_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(ValueError, match="write hr:0x10 or 40017"):
        place("register 7")


@pytest.mark.parametrize(
    ("raw", "type_", "order", "words"),
    [
        (1.0, "f32", "ABCD", [0x3F80, 0x0000]),
        (1.0, "f32", "CDAB", [0x0000, 0x3F80]),
        (1.0, "f32", "BADC", [0x803F, 0x0000]),
        (1.0, "f32", "DCBA", [0x0000, 0x803F]),
        (0x01020304, "u32", "ABCD", [0x0102, 0x0304]),
        (0x01020304, "u32", "CDAB", [0x0304, 0x0102]),
        (0x01020304, "u32", "BADC", [0x0201, 0x0403]),
        (0x01020304, "u32", "DCBA", [0x0403, 0x0201]),
        (-2, "i16", "ABCD", [0xFFFE]),
        (-2, "i32", "ABCD", [0xFFFF, 0xFFFE]),
        (12345678, "bcd32", "ABCD", [0x1234, 0x5678]),
        (123456789012, "m10k48", "ABCD", [1234, 5678, 9012]),
        (2**40, "u64", "ABCD", [0, 0x100, 0, 0]),
        (3.999, "u16", "ABCD", [3]),  # a register cuts off
        (3.9999999999, "u16", "ABCD", [4]),  # a rounding error of the sum is no step
        (70000, "u16", "ABCD", [0xFFFF]),  # and saturates
        (-5, "u16", "ABCD", [0]),
    ],
)
def test_a_number_becomes_these_words(raw: float, type_: str, order: str, words: list[int]) -> None:
    assert words_of(raw, type_, order) == words


def test_a_float64_is_ieee_754() -> None:
    assert words_of(-1234.5, "f64", "ABCD") == list(
        struct.unpack(">4H", struct.pack(">d", -1234.5))
    )


def table(**tag: object) -> RegisterMap:
    row = {"connect": "modbus+tcp://x?unit=1", "tags": {"e": {"at": "hr:10", **tag}}}
    return RegisterMap(device_table("d", row), Source({"e": ("kWh", lambda t: t / 1e9)}))


def test_a_counter_begins_again_at_its_modulus_in_raw_counts() -> None:
    counter = table(type="u32", scale=0.01, unit="kWh", kind="counter", modulus="1e4")

    before, after = (counter.read("hr", 10, 2, t * 10**7)[1] for t in (9999, 10001))

    assert (before, after) == (9999, 1)


def test_a_counter_without_a_modulus_wraps_at_its_width_and_a_gauge_does_not() -> None:
    counter = table(type="u16", unit="kWh", kind="counter")
    gauge = table(type="u16", unit="kWh")

    assert counter.read("hr", 10, 1, 65537 * 10**9) == [1]
    assert gauge.read("hr", 10, 1, 65537 * 10**9) == [65535]


def test_the_unit_of_the_table_is_the_unit_of_the_register() -> None:
    assert table(type="u32", unit="Wh").read("hr", 10, 2, 2 * 10**9) == [0, 2000]


def test_ct_and_pt_divide_what_a_secondary_register_holds() -> None:
    row = {"ct": 40, "pt": 100, "tags": {"e": {"at": "hr:0", "ratio": "ct*pt", "unit": "kWh"}}}
    registers = RegisterMap(device_table("d", row), Source({"e": ("kWh", lambda _t: 8000.0)}))

    assert registers.read("hr", 0, 1, 0) == [2]


def test_a_hole_and_too_long_a_read_are_refused() -> None:
    row = {
        "max_registers": 20,
        "sections": [[0, 9], [30, 39]],
        "tags": {"a": {"at": "hr:0"}, "b": {"at": "hr:30"}},
    }
    start = VirtualClock().wall_ns()
    source = anything("x", start, {"a": ("gauge", "1"), "b": ("gauge", "1")})
    registers = RegisterMap(device_table("d", row), source)

    assert len(registers.read("hr", 0, 10, start)) == 10  # what has no tag reads 0
    for area, address, count, code in (
        ("hr", 8, 3, 2),
        ("hr", 20, 1, 2),
        ("ir", 50, 1, 2),
        ("hr", 0, 21, 3),
        ("hr", 0, 0, 3),
    ):
        with pytest.raises(Refused) as refusal:
            registers.read(area, address, count, start)  # type: ignore[arg-type]
        assert refusal.value.code == code
