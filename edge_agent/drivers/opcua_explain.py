"""How an OPC UA tag is read, for a person: the node, the requests, its bytes, the number.

The bytes are made by the library, for a server in which the tag's namespace has the number 2; the
example is scaled by what the driver scales with.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.drivers.base import Group, TagConfig, groups_of
from edge_agent.drivers.opcua_address import NodeAddress
from edge_agent.drivers.opcua_limits import Limits
from edge_agent.drivers.opcua_subscription import QUEUE, SAMPLES
from edge_agent.drivers.opcua_values import Scaling, columns_of
from edge_agent.model import Quality

if TYPE_CHECKING:
    from asyncua import ua

    from edge_agent.drivers.opcua import OpcUaDevice

EXAMPLE, TEXT, STATE, COUNT = 230.5, "P.O 42.5", 1, 1234
VALUE = 13  # the attribute
NUMBER = 2  # of the namespace in the example


def explain(device: "OpcUaDevice", name: str, tag: str) -> list[tuple[str, str]]:
    """Return the parts of the explanation: (label, text)."""
    from asyncua import ua
    from asyncua.ua.ua_binary import struct_to_binary

    group, names = next((g, n) for g, n in groups_of(name, device).items() if tag in n)
    written = device.tags[tag]
    address = NodeAddress.parse(written.at)
    node = ua.NodeId(address.identifier, NUMBER if address.uri else address.index)  # type: ignore[arg-type]
    item = ua.ReadValueId(node, ua.IntegerId(VALUE))
    if address.element is not None:
        item.IndexRange = ua.String(str(address.element))
    answer = ua.DataValue(_variant(written))
    return [
        ("stands at", _place(address)),
        ("read by", _read_by(device, group, names, tag)),
        ("asked", f"{struct_to_binary(item).hex(' ').upper()}{_named(address)}"),
        ("answered", struct_to_binary(answer).hex(" ").upper()),
        ("decoding", _decoding(answer)),
        ("value", _formula(device, group, names, tag, answer)),
        *_marked(written),
    ]


def _place(address: NodeAddress) -> str:
    kind = {int: "number", str: "name", bytes: "bytes"}.get(type(address.identifier), "GUID")
    held = address.identifier
    said = held.hex(" ") if isinstance(held, bytes) else str(held)
    if address.uri is None:
        where = f"namespace number {address.index}" if address.index else "OPC UA's own namespace"
        text = f"{kind} {said} in {where}"
        if address.index:
            text += " (its number may change with a restart of the server: better nsu=URI;…)"
    else:
        text = f"{kind} {said} in namespace {address.uri}, looked up at each connect"
    return text + ("" if address.element is None else f"; element {address.element} of the array")


def _named(address: NodeAddress) -> str:
    said = "node id, attribute 13 (Value), index range, encoding"
    if address.uri is not None:
        said += f"; the namespace is {NUMBER} in this example"
    return f"\n{said}"


def _read_by(device: "OpcUaDevice", group: Group, names: Sequence[str], tag: str) -> str:
    if group.period is None:
        sampled = float(device.publish) * 1e3 / SAMPLES
        return (
            f"a monitored item of the stream's subscription, one of {len(names)}: sampled every "
            f"{sampled:g} ms, up to {QUEUE} values kept, published every {device.publish:g} s"
        )
    most = Limits(device.max_nodes)["read"]
    count, number = -(-len(names) // most), names.index(tag) // most + 1
    brings = "this tag" if len(names) == 1 else f"{min(len(names), most)} tags"
    return (
        f"Read request {number} of {count}, it brings {brings} (at most {most} nodes per request, "
        "fewer where the server announces or shows that it bears less)"
    )


def _variant(written: TagConfig) -> "ua.Variant":
    from asyncua import ua

    if written.kind == "text":
        return ua.Variant(TEXT, ua.VariantType.String)
    if written.kind == "state":
        state = min(written.states, default=STATE)
        return ua.Variant(state, ua.VariantType.Int32)
    if written.kind == "counter":
        return ua.Variant(COUNT, ua.VariantType.UInt32)
    low, high = written.range or (EXAMPLE, EXAMPLE)
    factor = written.scale or 1.0
    middle = ((low + high) / 2 - written.offset) / factor if written.range else EXAMPLE
    return ua.Variant(middle, ua.VariantType.Double)


def _decoding(answer: "ua.DataValue") -> str:
    variant = answer.Value
    said = "" if variant is None else f"{variant.VariantType.name} {variant.Value!r}"
    return f"{said}, status Good (any number, truth or text is taken as the server has it)"


def _formula(
    device: "OpcUaDevice", group: Group, names: Sequence[str], tag: str, answer: "ua.DataValue"
) -> str:
    """Return how the server's number becomes the value, and what the driver makes of it."""
    written, column = device.tags[tag], names.index(tag)
    raw = None if answer.Value is None else answer.Value.Value
    if isinstance(raw, str):
        return raw
    scaling = Scaling.of(device, group.schema, names)
    value, quality = scaling.apply(np.array([column]), columns_of([answer]))
    parts = [str(raw)]
    if written.scale != 1:
        parts.append(f"{written.scale:g} (scale)")
    parts += [f"{getattr(device, r):g} ({r})" for r in ("ct", "pt") if r in written.ratio]
    text = " × ".join(parts) + (f" + {written.offset:g} (offset)" if written.offset else "")
    unit = "" if written.unit == "1" else f" {written.unit}"
    said = Quality(int(quality[0]))
    shown = "no value" if said >= Quality.BAD else f"{value[0]:.12g}{unit}"
    text = f"{text} = {shown}" if text != str(raw) else f"{shown} (the number as it is)"
    return text + ("" if said is Quality.GOOD else f" ({said.name})")


def _marked(written: TagConfig) -> list[tuple[str, str]]:
    found = [
        ("quality", "status Good, Uncertain and Bad of the server are kept for each value"),
    ]
    if written.invalid:
        numbers = ", ".join(map(str, written.invalid))
        found.append(("no value", f"{numbers} becomes BAD_NOT_AVAILABLE"))
    return found
