"""How a Modbus tag is read, in words, bytes and numbers that a person can compare with a manual.

The example answer is built from a raw number the way a device does it, and is then read back by the
very plan that the agent reads with; what is told is what the plan made of it.
"""

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.drivers.base import TagConfig, groups_of
from edge_agent.drivers.modbus_address import Address
from edge_agent.drivers.modbus_decode import TextReader
from edge_agent.drivers.modbus_frames import checksum
from edge_agent.drivers.modbus_plan import ReadPlan, Request
from edge_agent.drivers.modbus_register import WORDS, Register
from edge_agent.model import Quality

if TYPE_CHECKING:
    from edge_agent.drivers.modbus import ModbusDevice

Raw = int | float | str

_USUAL: dict[str, Raw] = {
    "bool": 1, "u16": 1234, "i16": -900, "bcd16": 1234, "f32": 230.5, "f64": 230.5,
    "text": "ADL3000",
}  # fmt: skip
_WIDE = 1234567
_STRUCTS = {
    "u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q", "f32": ">f",
    "f64": ">d", "bool": ">H",
}  # fmt: skip
EXPONENT = -1  # of the example, where a register holds one
SHOWN = 6  # bytes of the answer before and behind those of the tag
_TRANSACTION = b"\x00\x01\x00\x00"


def explain(device: "ModbusDevice", name: str, tag: str) -> list[tuple[str, str]]:
    """Return the parts of the explanation: (label, text)."""
    names = next(tags for tags in groups_of(name, device).values() if tag in tags)
    plan = device.plan(names)
    column = names.index(tag)
    request = next(r for r in plan.requests if column in r.columns)
    register, written = plan.registers[column], device.tags[tag]
    raw = _example(register)
    words = _words(plan, column, raw)
    answer = _answer(request, words)
    begin = _body_of(device) + 2 + 2 * (register.first - request.address)
    size = 2 * register.words
    if register.address.table.is_bits:
        begin, size = _body_of(device) + 2 + (register.first - request.address) // 8, 1
    return [
        ("stands at", _place(register)),
        ("read by", _read_by(plan, request, names)),
        ("plan", _plan(plan, request)),
        ("asked", _spaced(_framed(device, request.pdu))),
        ("answered", _marked(_framed(device, answer), begin, size)),
        ("in it", f"bytes {begin + 1} to {begin + size} of the answer are this tag's"),
        ("decoding", _decoding(register, raw)),
        ("value", _formula(device, written, names, plan=plan, column=column, raw=raw, words=words)),
        *_limits(register, written),
    ]


def _place(register: Register) -> str:
    table = register.address.table
    last = Address(table, register.last)
    span = str(register.address) + (f" to {last}" if register.words > 1 else "")
    manual = f"{table.digit}{register.first + 1:0{4 if register.first < 9999 else 5}d}"
    what = table.name.lower().replace("_", " ")
    return f"{span} (0x{register.first:04X}; in manuals that count from one {manual}), {what}"


def _read_by(plan: ReadPlan, request: Request, names: Sequence[str]) -> str:
    number = plan.requests.index(request) + 1
    others = [names[i] for i in request.columns]
    brings = "this tag" if len(others) == 1 else f"{len(others)} tags"
    return f"request {number} of {len(plan.requests)}: {request}; it brings {brings}"


def _plan(plan: ReadPlan, request: Request) -> str:
    lines = [
        f"  {i}  {r}" + ("   <- this tag" if r is request else "")
        for i, r in enumerate(plan.requests, 1)
    ]
    lines.append(f"a scan takes about {plan.time * 1e3:.3g} ms with what is known of the link")
    return "\n".join(lines)


# ---- bytes -----------------------------------------------------------------------------------


def _body_of(device: "ModbusDevice") -> int:
    """Return where unit and PDU begin in a frame: behind the length, or at once; of the PDU."""
    return 7 if device.url.scheme == "modbus+tcp" else 1


def _framed(device: "ModbusDevice", pdu: bytes) -> bytes:
    """Return a PDU as it goes over the wire.

    source  MODBUS Messaging on TCP/IP V1.0b, 3.1.3; MODBUS over Serial Line V1.02, 2.5.1
    """
    frame = bytes([device.unit]) + pdu
    if device.url.scheme == "modbus+tcp":
        return _TRANSACTION + struct.pack(">H", len(frame)) + frame
    return frame + checksum(frame)


def _answer(request: Request, words: Sequence[int]) -> bytes:
    own = words[request.offset : request.offset + request.count]
    if request.table.is_bits:
        packed = sum(bool(bit) << i for i, bit in enumerate(own))
        body = packed.to_bytes(-(-request.count // 8), "little")
    else:
        body = struct.pack(f">{request.count}H", *own)
    return bytes([request.table.function, len(body)]) + body


def _spaced(frame: bytes) -> str:
    return frame.hex(" ").upper()


def _marked(frame: bytes, begin: int, size: int) -> str:
    """Return the bytes around those of a tag, which stand in brackets."""
    head, own, tail = frame[:begin], frame[begin : begin + size], frame[begin + size :]
    before, behind = _spaced(head), _spaced(tail)
    if len(head) > 2 * SHOWN + 2:
        before = f"{_spaced(head[: SHOWN + 3])} … {_spaced(head[-SHOWN:])}"
    if len(tail) > SHOWN:
        behind = f"{_spaced(tail[: SHOWN - 2])} … {_spaced(tail[-2:])}"
    return f"{before} [{_spaced(own)}] {behind}".strip()


def _words(plan: ReadPlan, column: int, raw: Raw) -> list[int]:
    """Return a row of words that is 0 but for a tag, and its exponent if it has one."""
    row = [0] * plan.words
    register = plan.registers[column]
    wanted: list[tuple[int, Raw]] = [(column, raw)]
    if register.exponent is not None:
        wanted.append((register.exponent, EXPONENT))
    for i, number in wanted:
        request = next(r for r in plan.requests if i in r.columns)
        at = request.offset + plan.registers[i].first - request.address
        packed = stored(plan.registers[i], number)
        row[at : at + len(packed)] = packed
    return row


def stored(register: Register, raw: Raw) -> list[int]:
    """Return the words in which a device holds a raw number or text."""
    packed = _packed(register, raw)
    words = [int.from_bytes(packed[i : i + 2], "big") for i in range(0, len(packed), 2)]
    if register.type == "text":
        return words
    if register.address.bit is not None:
        return [int(bool(raw)) << register.address.bit]
    if register.is_low_word_first:
        words.reverse()
    if register.is_swapped:
        words = [word >> 8 | (word & 0xFF) << 8 for word in words]
    return words


def _packed(register: Register, raw: Raw) -> bytes:
    """Return the bytes of a raw value, the most significant first."""
    kind, size = register.type, 2 * register.words
    if isinstance(raw, str):
        return raw.encode()[:size].ljust(size, b"\x00")
    if kind.startswith("bcd"):
        return bytes.fromhex(f"{int(raw):0{2 * size}d}")
    if kind.startswith("m10k"):
        count = WORDS[kind]
        digits = f"{int(raw):0{4 * count}d}"
        return struct.pack(f">{count}H", *(int(digits[4 * i : 4 * i + 4]) for i in range(count)))
    number = raw if kind in {"f32", "f64"} else int(raw)
    return struct.pack(_STRUCTS[kind], number)


# ---- numbers ---------------------------------------------------------------------------------


def _example(register: Register) -> Raw:
    if register.type == "text":
        return str(_USUAL["text"])[: max(1, register.length)]
    raw = _USUAL.get(register.type, _WIDE)
    scaled = float(raw) * float(register.ratio) + register.offset
    if register.type == "bool" or register.low <= scaled <= register.high:
        return raw
    middle = (register.low + register.high) / 2  # a plausible number for this tag
    fitting = (middle - register.offset) / float(register.ratio)
    whole = fitting if register.type in {"f32", "f64"} else round(fitting)
    try:
        _packed(register, whole)
    except (struct.error, ValueError, OverflowError):
        return raw
    return whole


def _decoding(register: Register, raw: Raw) -> str:
    octets = _spaced(b"".join(word.to_bytes(2, "big") for word in stored(register, raw)))
    if register.address.table.is_bits:
        return f"bool: one bit = {raw}"
    if register.address.bit is not None:
        return f"bool, bit {register.address.bit} of {octets} = {raw}"
    order = f", order {register.order}" if register.words > 1 or register.is_swapped else ""
    if register.type == "text":
        return f"text of {register.length} characters: {octets} = {raw!r}"
    return f"{register.type}{order}: {octets} = {raw}"


def _formula(
    device: "ModbusDevice",
    written: TagConfig,
    names: Sequence[str],
    *,
    plan: ReadPlan,
    column: int,
    raw: Raw,
    words: Sequence[int],
) -> str:
    """Return how the raw number becomes the value, and what the plan makes of it."""
    rows = np.array([words], np.uint16)
    readers = {i: TextReader() for i, r in enumerate(plan.registers) if r.type == "text"}
    value, quality = plan.decode(rows, None, readers)
    if isinstance(raw, str):
        return raw
    parts = [str(raw)]
    if written.scale != 1:
        parts.append(f"{written.scale:g} (scale)")
    parts += [f"{getattr(device, r):g} ({r})" for r in ("ct", "pt") if r in written.ratio]
    exponent = plan.registers[column].exponent
    if exponent is not None:
        parts.append(f"10^{EXPONENT} (the exponent that {names[exponent]} holds)")
    text = " × ".join(parts)
    if written.offset:
        text += f" + {written.offset:g} (offset)"
    unit = "" if written.unit == "1" else f" {written.unit}"
    said = Quality(int(quality[column, 0]))
    shown = "no value" if said >= Quality.BAD else f"{value[column, 0]:.12g}{unit}"
    text = f"{text} = {shown}" if text != str(raw) else f"{shown} (the number as it is)"
    return text + ("" if said is Quality.GOOD else f" ({said.name})")


def _limits(register: Register, written: TagConfig) -> list[tuple[str, str]]:
    found = []
    if register.invalid:
        numbers = ", ".join(
            f"{n} (0x{n & (1 << 16 * register.words) - 1:X})" for n in written.invalid
        )
        found.append(("no value", f"raw {numbers} becomes BAD_NOT_AVAILABLE"))
    if written.modulus is not None:
        top = float(written.modulus) * float(register.ratio)
        found.append(
            ("rollover", f"raw {written.modulus:.12g} is {top:.12g}: it begins again at 0")
        )
    return found
