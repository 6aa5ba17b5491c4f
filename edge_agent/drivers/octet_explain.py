"""How a tag of a DL/T 645 or CJ/T 188 meter is read, for a person with the meter's manual.

The example shows the data of an answer, not a whole one: this package makes no frames but requests.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from edge_agent.drivers import cjt188_codec, dlt645_codec
from edge_agent.drivers.base import DeviceConfig, TagConfig, groups_of
from edge_agent.drivers.dlt645_items import Place, canonical
from edge_agent.drivers.dlt645_plan import Ask
from edge_agent.units import Unit

if TYPE_CHECKING:
    from edge_agent.drivers.cjt188 import Cjt188Device
    from edge_agent.drivers.dlt645 import Dlt645Device

_EXAMPLE = "1234567890123456"  # digits, cut to the length of a number
REPLY = 0.1  # seconds that a meter usually takes to begin its answer


def explain_dlt645(device: "Dlt645Device", name: str, tag: str) -> list[tuple[str, str]]:
    """Return the parts of the explanation: (label, text)."""
    names = next(tags for tags in groups_of(name, device).values() if tag in tags)
    version, column = device.version, names.index(tag)
    asks = device.asks(names)
    ask = next(a for a in asks if column in (c for c, _ in a.columns))
    where = next(place for c, place in ask.columns if c == column)
    digits = _EXAMPLE[: 2 * where.field.octets]
    octets = bytes.fromhex(digits)[::-1]
    shift = bytes((octet + 0x33) & 0xFF for octet in octets)
    raw = where.field.raw(octets) or 0
    shown = raw if where.bit is None else raw >> where.bit & 1
    value = Fraction(shown, 10**where.field.decimals)
    plain = _spaced(octets[::-1])
    said = f"less 33H each, the highest pair first: {plain} = {_number(value)}"
    return [
        ("stands at", f"{canonical(device.where(device.tags[tag]), version)}, {_form(where)}"),
        ("read by", _read_by(asks, ask, version)),
        ("plan", _plan(device, asks, ask, names)),
        ("asked", _spaced(dlt645_codec.read(device.address, ask.item, version))),
        (
            "in it",
            f"behind the identifier, at byte {_begin(where)} of the data: [{_spaced(shift)}]",
        ),
        ("decoding", said if where.bit is None else f"{said}; its bit {where.bit} is {shown}"),
        ("value", _formula(device, device.tags[tag], value, where.field.unit)),
    ]


def explain_cjt188(device: "Cjt188Device", name: str, tag: str) -> list[tuple[str, str]]:
    """Return the parts of the explanation: (label, text)."""
    names = next(tags for tags in groups_of(name, device).values() if tag in tags)
    where = device.where(device.tags[tag])
    field = where.field
    octets = bytes.fromhex(_EXAMPLE[: 2 * field.octets])[::-1]
    number = int(octets[::-1].hex()) if not field.is_bits else int.from_bytes(octets, "little")
    value = Fraction(number if where.bit is None else number >> where.bit & 1, 10**field.decimals)
    code = next((c for c, u in cjt188_codec.UNITS.items() if u == field.unit), None)
    unit = f"{code:02X}" if field.has_unit and code is not None else ""
    own = " ".join(filter(None, [unit, _spaced(octets)][:: 1 if device.unit_first else -1]))
    named = f", {unit}H is {field.unit}" if unit else ""
    order = device.order or cjt188_codec.ORDERS[0]
    found_out = "" if device.order else " (the order of the identifier is found out)"
    return [
        ("stands at", f"{device.tags[tag].at}, {field.octets} bytes, {field.decimals} decimals"),
        ("read by", f"the one request there is; it brings {len(names)} tags"),
        ("asked", _spaced(cjt188_codec.read(device.type, device.address, 2, order)) + found_out),
        ("in it", f"behind identifier and SER, at byte {field.begin + 1} of the data: [{own}]"),
        ("decoding", f"the highest pair first: {_spaced(octets[::-1])} = {_number(value)}" + named),
        ("value", _formula(device, device.tags[tag], value, field.unit)),
    ]


def _spaced(octets: bytes) -> str:
    return octets.hex(" ").upper()


def _number(value: Fraction) -> str:
    return f"{float(value):.10g}"


def _form(where: Place) -> str:
    field = where.field
    if field.form == "bits":
        return f"{field.octets} bytes of bits"
    sign = ", the highest bit is the sign" if field.signed else ""
    unit = "" if field.unit == "1" else f", {field.unit}"
    return f"{field.octets} bytes BCD, {field.decimals} decimals{unit}{sign}"


def _begin(where: Place) -> int:
    before = sum(field.octets for field in where.layout.fields[: where.part])
    return where.member * where.layout.octets + before + 1


def _written(item: int, version: str) -> str:
    return f"{item:0{8 if version == '2007' else 4}X}"


def _read_by(asks: Sequence[Ask], ask: Ask, version: str) -> str:
    brings = "this tag" if len(ask.columns) == 1 else f"{len(ask.columns)} tags"
    block = ", a block; one by one if the meter does not know it" if ask.singles else ""
    number = asks.index(ask) + 1
    return (
        f"exchange {number} of {len(asks)}: {_written(ask.item, version)}, brings {brings}{block}"
    )


def _plan(device: "Dlt645Device", asks: Sequence[Ask], ask: Ask, names: Sequence[str]) -> str:
    lines = [
        f"  {i}  {_written(a.item, device.version)}" + ("   <- this tag" if a is ask else "")
        for i, a in enumerate(asks, 1)
    ]
    seconds = device.line.takes(device.octets_of(names)) + len(asks) * (REPLY + float(device.pause))
    lines.append(f"a scan takes about {seconds:.2g} s at {device.line.serial.baud} baud")
    return "\n".join(lines)


def _formula(device: DeviceConfig, tag: TagConfig, value: Fraction, natural: str) -> str:
    """Return how the meter's number becomes the tag's value."""
    factors = []
    unit = Fraction(repr(Unit.parse(natural).factor_to(Unit.parse(tag.unit))))
    if unit != 1:
        factors.append(f"{_number(unit)} ({natural} to {tag.unit})")
    if tag.scale != 1:
        factors.append(f"{tag.scale:g} (scale)")
    factors += [f"{getattr(device, key):g} ({key})" for key in ("ct", "pt") if key in tag.ratio]
    whole = value * unit * DeviceConfig.ratio_of(device, tag)
    added = f" + {tag.offset:g} (offset)" if tag.offset else ""
    shown = " × ".join([_number(value), *factors])
    total = f"{float(whole) + tag.offset:.10g}" + ("" if tag.unit == "1" else f" {tag.unit}")
    plain = not factors and not added
    return f"{total} (the number as it is)" if plain else f"{shown}{added} = {total}"
