"""Water, heat and gas meters that speak CJ/T 188, on a serial line or behind a serial server.

A meter says all that it has in one answer, each number with its unit, from which the tag's is
made. A frame with a wrong sum is none. Every request carries another running number, which the
answer repeats, so a late answer is never taken for the next one.

In which order a meter wants the two bytes of a data identifier is found out while it has never
answered, and kept. A refusal does not tell it: it may be what the meter says to the wrong order. To
a meter that brings nothing the other order is tried now and then: another one may be in its place.

Source: CJ/T 188-2004 and -2018.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, cast
from urllib.parse import parse_qs

from edge_agent.clock import Clock, midway
from edge_agent.drivers import cjt188_codec as codec
from edge_agent.drivers.base import DeviceConfig, Group, TagConfig, groups_of
from edge_agent.drivers.cjt188_codec import Category, Place
from edge_agent.drivers.octet_line import Garbled, OctetLine
from edge_agent.drivers.octet_meters import (
    Column,
    LineDriver,
    MeterDevice,
    Path,
    Row,
    factor_to,
    line_of,
    unit_fault,
)
from edge_agent.errors import NoAnswer
from edge_agent.model import Quality, SampleBlock, Schema

OTHER = 8  # each so many requests in vain go out in the order that is not the known one
CONSTANT = {0x00, 0x01}  # running numbers of meters that do not repeat ours; never ours


@dataclass(frozen=True, kw_only=True)
class Cjt188Device(MeterDevice):
    """One meter: ``cjt188+serial:///dev/ttyUSB0?baud=2400&address=78330011223344&type=10``.

    unit_first  whether the byte of a unit stands before its digits, as some makers have it
    """

    schemes: ClassVar[tuple[str, ...]] = ("cjt188+serial", "cjt188+tcp")
    own_options: ClassVar[frozenset[str]] = frozenset({"address", "type", "di"})
    port: ClassVar[int] = 5345
    protocol: ClassVar[str] = "CJ/T 188"

    unit_first: bool = False

    @property
    def type(self) -> int:
        """The type of the meter: 10H to 19H water, 20H to 29H heat, 30H to 39H gas."""
        return int(self.option("type", "10"), 16)

    @property
    def category(self) -> Category:
        """What it measures; ``ValueError`` if the type is none."""
        found = codec.category(self.type)
        if found is None:
            raise ValueError("no type of meter")
        return found

    @property
    def address(self) -> str:
        """Fourteen digits; without one in the URL the meter is alone on its line."""
        return codec.parse_address(self.option("address", codec.ANYBODY))

    @property
    def order(self) -> codec.Order | None:
        """How a data identifier goes over the wire; None: to be found out."""
        return cast("codec.Order | None", self.option("di", "") or None)

    @classmethod
    def usual_template(cls, connect: str) -> str | None:
        kinds = {"1": "water", "2": "heat", "3": "gas"}
        written = parse_qs(connect.partition("?")[2]).get("type", ["10"])[0]
        return f"cjt188/{kinds[written[0]]}" if written[:1] in kinds else None

    def where(self, tag: TagConfig) -> Place:
        """Return where a tag stands; ``ValueError`` says what would be right."""
        return codec.place(tag.at, self.category)

    def octets_of(self, tags: Sequence[str]) -> int:  # noqa: ARG002 – it always says all
        request = codec.read(self.type, self.address, 0)
        return len(request) + 16 + codec.LENGTH[self.category]

    def clash(self, other: DeviceConfig) -> str | None:
        if isinstance(other, Cjt188Device) and codec.is_one_of(self.address, other.address):
            return f"address {self.address} of this link"
        return None

    def explain(self, name: str, tag: str) -> list[tuple[str, str]]:
        from edge_agent.drivers.octet_explain import explain_cjt188  # which only a person asks for

        return explain_cjt188(self, name, tag)

    def faults(self) -> list[tuple[Path, str]]:
        own = {"address": _address_faults, "type": _type_faults, "di": _order_faults}
        faults: list[tuple[Path, str]] = [(("connect",), text) for text in self.address_faults(own)]
        if _type_faults(self.option("type", "10")):
            return faults
        for name, tag in self.tags.items():
            faults += [(("tags", name, key), text) for key, text in self._tag_faults(tag)]
        return faults

    def _tag_faults(self, tag: TagConfig) -> list[tuple[str, str]]:
        faults = self.common_faults(tag)
        try:
            where = self.where(tag)
        except ValueError as e:
            return [*faults, ("at", str(e))]
        return faults + unit_fault(tag, where.field.unit)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> "Cjt188Driver":
        return Cjt188Driver({n: d for n, d in devices.items() if isinstance(d, cls)}, clock)


def _address_faults(text: str) -> list[str]:
    try:
        codec.parse_address(text)
    except ValueError as e:
        return [str(e)]
    return []


def _type_faults(text: str) -> list[str]:
    if len(text) == 2 and text[0] in "123" and text[1] in "0123456789":
        return []
    right = "10 to 19 for water, 20 to 29 for heat, 30 to 39 for gas"
    return [f"type={text} is not possible (write {right})"]


def _order_faults(text: str) -> list[str]:
    right = " or ".join(codec.ORDERS)
    return [] if text in codec.ORDERS else [f"di={text} is not possible (write {right})"]


# ---- the driver ------------------------------------------------------------------------------


class _Meter:
    """One meter and what is known of it."""

    def __init__(self, name: str, config: Cjt188Device, line: OctetLine) -> None:
        self.name, self.config = name, config
        self.learnt: codec.Order | None = None
        self._line = line
        self._address = config.address  # its own, once it has said it
        self._serial = random.randrange(256)
        self._silent = 0  # times in a row that it did not answer
        self._in_vain = 0  # times in a row that it brought no values

    async def read(self) -> codec.Frame:
        """Return its answer; ``NoAnswer``, ``Garbled``, ``Disconnected``."""
        if self._address == codec.ANYBODY and self._silent % 2:
            await self._exchange(codec.ADDRESS)  # not every meter says its values to anybody
        return await self._exchange(codec.METERING)

    async def _exchange(self, item: int) -> codec.Frame:
        config, order = self.config, self._order()
        self._serial = (self._serial + 1) % 256
        while self._serial in CONSTANT:
            self._serial += 1
        if item == codec.METERING:
            request = codec.read(config.type, self._address, self._serial, order)
        else:
            request = codec.read_address(config.type, self._serial, order)
        expected = _Expected(config.type, self._address, self._serial, item)
        try:
            frame = await self._line.ask(
                request, expected, float(config.timeout), float(config.pause)
            )
        except TimeoutError as e:
            self._silent, self._in_vain = self._silent + 1, self._in_vain + 1
            self._address = config.address  # there may be another one in its place
            raise NoAnswer(self.name, str(e)) from e
        self._silent, self._address = 0, frame.address
        if frame.is_refusal:
            self._in_vain += 1
        else:
            self.learnt, self._in_vain = order, 0
        return frame

    def _order(self) -> codec.Order:
        if self.config.order is not None:
            return self.config.order
        tries = self._in_vain // 2 if self.config.address == codec.ANYBODY else self._in_vain
        first, second = codec.ORDERS
        if self.learnt is None:
            return second if tries % 2 else first
        other = first if self.learnt == second else second
        return other if tries % OTHER == OTHER - 1 else self.learnt


@dataclass(frozen=True)
class _Expected:
    """Which frame is the answer: of whom, to what and to which request."""

    type: int
    address: str
    serial: int
    item: int

    def __call__(self, octets: bytes) -> codec.Frame | None:
        frame = codec.parse(octets)
        right = (
            frame.is_answer
            and frame.function == (0x01 if self.item == codec.METERING else 0x03)
            and frame.type >> 4 == self.type >> 4
            and codec.is_one_of(frame.address, self.address)
            and (frame.serial == self.serial or frame.serial in CONSTANT)
            and (frame.is_refusal or frame.item == self.item)
        )
        return frame if right else None


@dataclass(frozen=True)
class _Stream:
    """One stream of one meter."""

    meter: _Meter
    schema: Schema
    columns: tuple[Column, ...]
    tags: tuple[TagConfig, ...]
    places: tuple[Place, ...]


class Cjt188Driver(LineDriver[_Stream]):
    """One line and all meters on it."""

    def __init__(self, devices: Mapping[str, Cjt188Device], clock: Clock) -> None:
        """Prepare every stream; ``ConfigError`` if the devices do not agree on the line."""
        self._clock = clock
        line = line_of(devices, codec.size)
        self._meters = {name: _Meter(name, d, line) for name, d in devices.items()}
        streams: dict[Group, _Stream] = {}
        for name, device in devices.items():
            for group, names in groups_of(name, device).items():
                tags = tuple(device.tags[tag] for tag in names)
                streams[group] = _Stream(
                    self._meters[name],
                    group.schema,
                    tuple(Column.of(device, tag) for tag in tags),
                    tags,
                    tuple(device.where(tag) for tag in tags),
                )
        super().__init__(line, streams)

    async def probe(self, device: str) -> None:
        async with self._lock:
            try:
                await self._meters[device].read()
            except Garbled:
                return  # somebody is there

    def save(self) -> dict[str, object]:
        return {n: {"di": m.learnt} for n, m in self._meters.items() if m.learnt is not None}

    def load(self, state: Mapping[str, object], /) -> None:
        for name, meter in self._meters.items():
            kept = state.get(name)
            order = kept.get("di") if isinstance(kept, dict) else None
            if order in codec.ORDERS:
                meter.learnt = cast("codec.Order", order)

    async def _scan(self, stream: _Stream) -> SampleBlock:
        row = Row(stream.columns)
        began = self._clock.monotonic()
        try:
            frame = await stream.meter.read()
        except Garbled:
            wrong, data = Quality.BAD_SHORT, b""
        else:
            wrong, data = Quality.BAD_DEVICE, b"" if frame.is_refusal else frame.data[3:]
        time = midway(self._clock, began)
        config = stream.meter.config
        if data and len(data) != codec.LENGTH[config.category]:
            wrong, data = Quality.BAD_SHORT, b""
        for column, (where, tag) in enumerate(zip(stream.places, stream.tags, strict=True)):
            if data:
                _fill(row, column, where, tag, data, unit_first=config.unit_first)
            else:
                row.spoil(column, wrong)
        return row.block(config, stream.schema, time)


def _fill(
    row: Row, column: int, where: Place, tag: TagConfig, data: bytes, *, unit_first: bool
) -> None:
    """Fill in a number in the tag's unit; one that the meter counts in a wrong unit is BAD."""
    try:
        found = codec.reading(where, data, unit_first=unit_first)
        if found is None:
            row.fill(column, None, Fraction(1))
        else:
            step = Fraction(1, 10**found.decimals) * factor_to(found.unit, tag)
            row.fill(column, found.raw, step)
    except ValueError:
        row.spoil(column, Quality.BAD_DEVICE)
