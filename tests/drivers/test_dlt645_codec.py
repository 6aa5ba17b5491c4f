"""DL/T 645 frames and values: published vectors exactly, laws at random, nothing but reading."""

import ast
import inspect
import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drivers import cjt188_codec, dlt645_codec
from edge_agent.drivers.dlt645_codec import Frame, is_one_of, parse, parse_address, read, read_on
from edge_agent.drivers.dlt645_items import place
from edge_agent.drivers.octet_frames import Scanner
from simulators.dlt645_server import answer
from simulators.octets import decimal

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dlt645.json").read_text("utf-8"))
FRAMES = {v["id"]: v for v in VECTORS["frames"]}
METER = "202305170042"
PREAMBLE = b"\xfe" * 4


def octets(vector: dict[str, object]) -> bytes:
    return bytes.fromhex(str(vector["frame"]))


def scanned(raw: bytes) -> list[Frame]:
    return [parse(frame) for frame in Scanner(dlt645_codec.size).feed(raw)]


def version_of(vector: dict[str, object]) -> str:
    return "1997" if "1997" in str(vector["decoded"]) else "2007"


# ---- vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", FRAMES.values(), ids=FRAMES)
def test_a_published_frame_is_read_as_it_is_meant(vector: dict[str, object]) -> None:
    (frame,) = scanned(octets(vector))
    decoded = vector["decoded"]
    assert isinstance(decoded, dict)

    assert f"{frame.control:02X}" == decoded.get("ctrl", f"{frame.control:02X}")
    if "addr" in decoded:
        said = frame.data[::-1].hex() if frame.function == 0x13 and frame.is_answer else None
        assert decoded["addr"] in {frame.address, said}
    if "di" in decoded:
        assert frame.item(version_of(vector)) == int(decoded["di"], 16)
    if "seq" in decoded:
        assert frame.data[4] == decoded["seq"]


def value(data: bytes, at: str, version: str = "2007") -> float | None:
    where = place(at, version)
    raw = where.raw(data)
    return None if raw is None else float(Fraction(raw, 10**where.field.decimals))


@pytest.mark.parametrize(
    "vector", [v for v in FRAMES.values() if {"value", "values"} & set(v["decoded"])],
    ids=lambda v: v["id"],
)  # fmt: skip
def test_a_published_value_is_read_exactly(vector: dict[str, object]) -> None:
    (frame,), version = scanned(octets(vector)), version_of(vector)
    decoded = vector["decoded"]
    assert isinstance(decoded, dict)
    data = frame.data[dlt645_codec.identifier_length(version) :]
    at = f"di:{decoded['di']}"

    if "values" in decoded:
        assert [value(data, f"{at}[{i}]") for i in range(5)] == decoded["values"]
    else:
        assert value(data, at, version) == decoded["value"]
    if "time" in decoded:
        assert value(data, f"{at}.time") == 2608151430


REQUESTS = {
    "p1": read("000000000161", 0x00010000),
    "p3": read("000000000161", 0x02010100),
    "p6": dlt645_codec.read_address(),
    "p7": read("000102030425", 0x00010000),
    "p9": read("003411001043", 0x02010100),
    "p97a": read("138000130754", 0x9010, "1997"),
    "o15": read_on(METER, 0x0001FF00, 1),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_published_request_is_made_byte_by_byte(name: str) -> None:
    published = octets(FRAMES[name]).lstrip(b"\xfe")

    assert REQUESTS[name] == PREAMBLE + published


ANSWERS = {
    "p97b": ("138000130754", 0x81, "10 90", decimal(0.01, 4, 2, signed=False, wraps=True)),
    "o4": (METER, 0x91, "00 00 00 00", decimal(-1234.56, 4, 2, signed=True, wraps=True)),
    "o5": (METER, 0x91, "00 01 01 02", decimal(229.7, 2, 1, signed=False, wraps=False)),
    "o8": (METER, 0x91, "00 00 03 02", decimal(3.3526, 3, 4, signed=True, wraps=False)),
    "o10": (METER, 0x91, "00 00 06 02", decimal(0.985, 2, 3, signed=True, wraps=False)),
    "o11": (METER, 0x91, "02 00 80 02", decimal(50.02, 2, 2, signed=False, wraps=False)),
    "o14": (METER, 0x93, "", bytes.fromhex(METER)[::-1]),
    "o12": (
        METER, 0x91, "00 00 01 01",
        decimal(12.3456, 3, 4, signed=True, wraps=False) + bytes.fromhex("30 14 15 08 26"),
    ),
    "o3": (
        METER, 0x91, "00 FF 01 00",
        b"".join(
            decimal(v, 4, 2, signed=False, wraps=True)
            for v in FRAMES["o3"]["decoded"]["values"]
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_simulator_makes_a_published_answer_byte_by_byte(name: str) -> None:
    address, control, item, data = ANSWERS[name]

    assert answer(address, control, bytes.fromhex(item) + data) == PREAMBLE + octets(FRAMES[name])


def test_every_vector_is_made_by_one_side_or_the_other() -> None:
    assert set(REQUESTS) | set(ANSWERS) == set(FRAMES)


def test_a_published_reply_of_a_meter_with_a_quarter_kilowatthour() -> None:
    # "DLT645-2007报文解析", the replies to p1 and p3
    energy, voltage = (
        scanned(bytes.fromhex(text))[0]
        for text in (
            "68 61 01 00 00 00 00 68 91 08 33 33 34 33 59 33 33 33 8A 16",
            "68 61 01 00 00 00 00 68 91 06 33 34 34 35 34 43 10 16",
        )
    )

    assert value(energy.data[4:], "di:00010000") == 0.26
    assert value(voltage.data[4:], "di:02010100") == 100.1


# ---- reading only -----------------------------------------------------------------------------

CODECS = (dlt645_codec, cjt188_codec)
CONTROL_AT = {dlt645_codec: 8, cjt188_codec: 9}
MAY_MAKE = {dlt645_codec: {0x11, 0x12, 0x13, 0x01, 0x02}, cjt188_codec: {0x01, 0x03}}
addresses = st.from_regex(r"(AA){0,6}[0-9]{12}", fullmatch=True).map(lambda text: text[:12])


@pytest.mark.parametrize("codec", CODECS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_no_function_takes_a_control_code(codec: object) -> None:
    tree = ast.parse(inspect.getsource(codec))  # type: ignore[arg-type]  # a module
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            names = {argument.arg for argument in function.args.args + function.args.kwonlyargs}
            assert not names & {"control", "code", "function", "command"}, function.name


@pytest.mark.parametrize("codec", CODECS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_only_requests_that_are_tested_here_make_frames(codec: object) -> None:
    tree = ast.parse(inspect.getsource(codec))  # type: ignore[arg-type]  # a module
    makers = {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(isinstance(n, ast.Name) and n.id == "sealed" for n in ast.walk(function))
    }

    assert makers <= {"read", "read_on", "read_address"}


def test_nobody_else_makes_frames() -> None:
    package = Path(inspect.getfile(dlt645_codec)).parents[1]
    makers = {
        path.stem
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and "sealed" in {name.name for name in node.names}
    }

    assert makers == {"dlt645_codec", "cjt188_codec"}


@given(addresses, st.integers(0, 2**32 - 1), st.integers(0, 255), st.sampled_from(("2007", "1997")))
def test_whatever_is_asked_for_only_reads(
    address: str, item: int, sequence: int, version: str
) -> None:
    item %= 2**32 if version == "2007" else 2**16
    allowed = {0x11, 0x12} if version == "2007" else {0x01, 0x02}

    for raw in (read(address, item, version), read_on(address, item, sequence, version)):
        (frame,) = scanned(raw)
        assert frame.control in allowed
        assert (frame.address, frame.item(version)) == (address, item)
    assert scanned(dlt645_codec.read_address())[0].control == 0x13


# ---- the scanner ------------------------------------------------------------------------------

frames = st.builds(
    answer,
    st.from_regex(r"[0-9]{12}", fullmatch=True),
    st.sampled_from((0x91, 0xB1, 0xD1, 0x93, 0x92)),
    st.binary(max_size=200),
)
quiet = st.binary(max_size=30).map(lambda noise: noise.replace(b"\x68", b"\x69"))


@given(st.lists(st.tuples(quiet, frames), max_size=5), st.data())
def test_every_frame_is_found_however_it_comes_in_pieces(
    parts: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(noise + frame for noise, frame in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    scanner = Scanner(dlt645_codec.size)

    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += scanner.feed(stream[begin:end])

    assert found == [frame.lstrip(b"\xfe") for _, frame in parts]
    assert not scanner.is_amid


@given(st.binary(max_size=600))
def test_noise_is_survived_and_what_is_found_in_it_adds_up(noise: bytes) -> None:
    for codec in CODECS:
        for frame in Scanner(codec.size).feed(noise):
            assert sum(frame[:-2]) & 0xFF == frame[-2]
            assert frame[-1] == 0x16
            codec.parse(frame)


@given(st.binary(min_size=1, max_size=40), frames)
def test_a_frame_behind_one_that_was_broken_off_is_found(noise: bytes, frame: bytes) -> None:
    broken = b"\x68\x42\x00\x17\x05\x23\x20\x68\x91\xc8" + noise.replace(b"\x68", b"\x69")

    assert Scanner(dlt645_codec.size).feed(broken + frame)[-1:] == [frame.lstrip(b"\xfe")]


@given(frames, st.data())
def test_a_flipped_bit_never_makes_another_frame(frame: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(8 * 4, 8 * len(frame) - 1))
    spoiled = bytearray(frame)
    spoiled[bit // 8] ^= 1 << bit % 8
    scanner = Scanner(dlt645_codec.size)

    assert frame.lstrip(b"\xfe") not in scanner.feed(bytes(spoiled))


def test_a_wrong_sum_is_told_from_silence() -> None:
    scanner = Scanner(dlt645_codec.size)
    raw = bytearray(octets(FRAMES["o5"]))
    raw[-2] ^= 1

    assert scanner.feed(bytes(raw)) == []
    assert scanner.garbled
    assert scanner.clear() == 0
    assert not scanner.garbled


# ---- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [("202305170042", METER), ("161", "000000000161"), ("aaaaaa170042", "AAAAAA170042")],
)
def test_an_address_is_written_as_on_the_plate(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["1234567890123", "20230517AA42", "A", "12F4", "", "١٢"])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no address of a meter"):
        parse_address(text)


def test_a_wildcard_stands_for_any_high_digits() -> None:
    assert is_one_of(METER, "AAAAAAAA0042")
    assert is_one_of("AAAAAAAAAAAA", METER)  # some repeat the wildcard in their answer
    assert not is_one_of(METER, "AAAAAAAA0043")


# ---- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "version", "words"),
    [
        (0x02, "2007", "it has no such data"),
        (0x05, "2007", "another error, wrong password or not authorised"),
        (0x01, "1997", "an illegal value"),
        (0x00, "2007", "it gives no reason"),
    ],
)
def test_a_refusal_is_told_in_words(bits: int, version: str, words: str) -> None:
    (frame,) = scanned(answer(METER, 0xD1, bytes([bits])))

    assert frame.is_refusal
    assert frame.item(version) is None
    assert dlt645_codec.reasons(frame, version) == words
