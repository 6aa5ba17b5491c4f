"""Electricity meters that speak DL/T 645, on a serial line or behind a serial server.

What a meter does not know (D1 with "no such data") spoils its own tag only and is asked for again
ever more seldom; a block that it does not know is read member by member. Both are learnt for good.
A sum that is wrong spoils what was asked for, and two in a row the rest of the scan, so a meter on
a bad wire does not take the time of the others; a meter that is silent is ``NoAnswer``.

Source: DL/T 645-2007; DL/T 645-1997.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from edge_agent.clock import Clock, midway
from edge_agent.drivers import dlt645_codec as codec
from edge_agent.drivers.base import DeviceConfig, Group, TagConfig, groups_of
from edge_agent.drivers.dlt645_items import Place, place
from edge_agent.drivers.dlt645_meter import Identity, Meter, Refused
from edge_agent.drivers.dlt645_plan import Ask, plan
from edge_agent.drivers.octet_line import Garbled
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
from edge_agent.units import Unit

SPOILED = 2  # answers with a wrong sum in a row after which the rest of a scan is not asked for


@dataclass(frozen=True, kw_only=True)
class Dlt645Device(MeterDevice):
    """One meter: ``dlt645+serial:///dev/ttyUSB0?baud=2400&parity=E&address=202305170042``.

    blocks  whether the meter knows the identifiers of blocks (FF for all tariffs or phases)
    """

    schemes: ClassVar[tuple[str, ...]] = ("dlt645+serial", "dlt645+tcp")
    own_options: ClassVar[frozenset[str]] = frozenset({"address", "version"})
    port: ClassVar[int] = 5345
    protocol: ClassVar[str] = "DL/T 645"

    blocks: bool = False

    @property
    def version(self) -> str:
        """Which edition it speaks: 2007 or 1997."""
        return self.option("version", "2007")

    @property
    def address(self) -> str:
        """Twelve digits; without one in the URL the meter is alone on its line."""
        return codec.parse_address(self.option("address", codec.ANYBODY))

    @classmethod
    def usual_template(cls, connect: str) -> str | None:
        return "dlt645/1997" if "version=1997" in connect else "dlt645/three-phase"

    def where(self, tag: TagConfig) -> Place:
        """Return where a tag stands; ``ValueError`` says what would be right."""
        return place(tag.at, self.version)

    def ratio_of(self, tag: TagConfig) -> Fraction:
        """Return the exact factor from the digits' unit to the tag's, transformers included."""
        natural = Unit.parse(self.where(tag).field.unit)
        return super().ratio_of(tag) * factor_to(natural, tag)

    def asks(self, tags: Sequence[str]) -> tuple[Ask, ...]:
        """Return the exchanges of a scan of these tags."""
        places = [self.where(self.tags[tag]) for tag in tags]
        return plan(places, self.version, blocks=self.blocks)

    def octets_of(self, tags: Sequence[str]) -> int:
        identifier = codec.identifier_length(self.version)
        return sum(
            len(codec.read(self.address, ask.item, self.version)) + 12 + identifier + ask.octets
            for ask in self.asks(tags)
        )

    def clash(self, other: DeviceConfig) -> str | None:
        if isinstance(other, Dlt645Device) and codec.is_one_of(self.address, other.address):
            return f"address {self.address} of this link"
        return None

    def explain(self, name: str, tag: str) -> list[tuple[str, str]]:
        from edge_agent.drivers.octet_explain import explain_dlt645  # which only a person asks for

        return explain_dlt645(self, name, tag)

    def faults(self) -> list[tuple[Path, str]]:
        own = {"address": _address_faults, "version": _version_faults}
        faults: list[tuple[Path, str]] = [(("connect",), text) for text in self.address_faults(own)]
        if self.version not in codec.VERSIONS:
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
        natural = "1" if where.bit is not None else where.field.unit
        return faults + unit_fault(tag, natural)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> "Dlt645Driver":
        return Dlt645Driver({n: d for n, d in devices.items() if isinstance(d, cls)}, clock)


def _address_faults(text: str) -> list[str]:
    try:
        codec.parse_address(text)
    except ValueError as e:
        return [str(e)]
    return []


def _version_faults(text: str) -> list[str]:
    right = " or ".join(codec.VERSIONS)
    return [] if text in codec.VERSIONS else [f"version={text} is not possible (write {right})"]


# ---- the driver ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stream:
    """One stream of one meter."""

    config: Dlt645Device
    meter: Meter
    schema: Schema
    columns: tuple[Column, ...]
    asks: tuple[Ask, ...]


@dataclass
class _Progress:
    """How a scan goes.

    heard_at  monotonic seconds: when the meter was heard last, or the scan began
    answered  whether the meter has answered anything
    silent    whether it has not answered to the last item
    spoiled   how many of the last answers had a wrong sum
    """

    heard_at: float
    answered: bool = False
    silent: bool = False
    spoiled: int = 0


class Dlt645Driver(LineDriver[_Stream]):
    """One line and all meters on it."""

    def __init__(self, devices: Mapping[str, Dlt645Device], clock: Clock) -> None:
        """Plan every stream; ``ConfigError`` if the devices do not agree on what the line is."""
        self._clock = clock
        line = line_of(devices, codec.size)
        self._meters: dict[str, Meter] = {}
        streams: dict[Group, _Stream] = {}
        for name, device in devices.items():
            items = {device.where(tag).item for tag in device.tags.values()}
            identity = Identity(
                name, device.address, device.version, float(device.timeout), float(device.pause)
            )
            meter = Meter(identity, line, clock, items)
            self._meters[name] = meter
            for group, tags in groups_of(name, device).items():
                streams[group] = _Stream(
                    device,
                    meter,
                    group.schema,
                    tuple(Column.of(device, device.tags[tag]) for tag in tags),
                    device.asks(tags),
                )
        super().__init__(line, streams)

    async def probe(self, device: str) -> None:
        async with self._lock:
            await self._meters[device].sign_of_life()

    def save(self) -> dict[str, object]:
        return {n: m.refusals.save() for n, m in self._meters.items() if m.refusals.known}

    def load(self, state: Mapping[str, object], /) -> None:
        for name, meter in self._meters.items():
            meter.refusals.load(state.get(name), self._clock.monotonic())

    async def _scan(self, stream: _Stream) -> SampleBlock:
        meter, row = stream.meter, Row(stream.columns)
        answered, began = await meter.learn_address(), self._clock.monotonic()
        so_far = _Progress(began, answered)
        work = deque(stream.asks)
        while work and so_far.spoiled < SPOILED:
            ask = work.popleft()
            if meter.refuses(ask.item):
                _instead(ask, work, row, Quality.BAD_ADDRESS)
                continue
            try:
                quality = await self._outcome(meter, ask, row, so_far)
            except NoAnswer as e:
                e.waited = self._clock.monotonic() - so_far.heard_at
                raise
            if not so_far.silent:
                so_far.heard_at = self._clock.monotonic()
            if quality is not None:
                _instead(ask, work, row, quality)
        for ask in work:
            _instead(ask, deque(), row, Quality.BAD_SHORT)
        return row.block(stream.config, stream.schema, midway(self._clock, began))

    async def _outcome(
        self, meter: Meter, ask: Ask, row: Row, so_far: "_Progress"
    ) -> Quality | None:
        """Read an item into its columns; return what is wrong with all of them, None if nothing.

        errors  ``NoAnswer`` where the silence is the meter's and not this item's alone
        """
        try:
            if not so_far.answered and meter.doubts(ask.item):
                so_far.answered = await meter.sign_of_life()
                if not so_far.answered:
                    so_far.spoiled += 1
                    return Quality.BAD_SHORT
            quality = await self._fill(meter, ask, row)
        except Garbled:
            so_far.answered, so_far.silent = True, False
            so_far.spoiled += 1
            return Quality.BAD_SHORT
        except TimeoutError as e:
            if so_far.silent or not so_far.answered:
                raise meter.silent(e) from e
            meter.suspect(ask.item)
            so_far.silent = True
            return Quality.BAD_NO_ANSWER
        so_far.answered, so_far.silent, so_far.spoiled = True, False, 0
        return quality

    async def _fill(self, meter: Meter, ask: Ask, row: Row) -> Quality | None:
        """Read an item into its columns; as ``_outcome``, what the line raises is left to it."""
        whole = ask.columns[0][1].layout
        try:
            answer = await meter.read(ask.item)
        except Refused as e:
            if e.has_no_such_data or ask.singles:
                meter.learn(ask.item, str(e))
                return Quality.BAD_ADDRESS
            return Quality.BAD_DEVICE
        if not whole.fits(len(answer)):
            if ask.singles:
                meter.learn(ask.item, "its answer has another length")
                return Quality.BAD_ADDRESS
            return Quality.BAD_SHORT
        meter.refusals.forget(ask.item)
        for column, where in ask.columns:
            if (where.member + 1) * whole.octets > len(answer):
                row.spoil(column, Quality.BAD_ADDRESS)  # it has fewer tariffs
            else:
                step = Fraction(1, 10**where.field.decimals)
                row.fill(column, where.raw(answer), step)
        return None


def _instead(ask: Ask, work: deque[Ask], row: Row, quality: Quality) -> None:
    """Have a block read member by member, or mark what an item would have brought."""
    if quality is Quality.BAD_ADDRESS and ask.singles:
        work.extendleft(reversed(ask.singles))
        return
    for column, _ in ask.columns:
        row.spoil(column, quality)
