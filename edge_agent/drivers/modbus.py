"""Modbus over TCP, over a serial line and over a serial line behind a TCP converter: the devices.

Source: MODBUS Application Protocol V1.1b3; MODBUS over Serial Line V1.02.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from edge_agent.clock import Clock
from edge_agent.drivers.base import (
    DeviceConfig,
    Group,
    NumberType,
    Order,
    TagConfig,
    groups_of,
)
from edge_agent.drivers.links import SerialSettings, link_faults
from edge_agent.drivers.modbus_address import Address
from edge_agent.drivers.modbus_partition import Cost
from edge_agent.drivers.modbus_plan import (
    NOTHING_FOUND,
    Bounds,
    ReadPlan,
    section_of,
)
from edge_agent.drivers.modbus_register import Register, Span, fits
from edge_agent.drivers.modbus_wire import Line
from edge_agent.units import Duration

if TYPE_CHECKING:
    from edge_agent.drivers.modbus_driver import ModbusDriver

Path = tuple[str | int, ...]
NO_PAUSE = Duration(0.0)
PORT = 502


Limits = tuple[int, int, tuple[tuple[int, int], ...], Cost]  # registers, gap, sections, cost


@lru_cache(maxsize=256)
def _plan(
    columns: tuple[Register, ...],
    declared: tuple[Span, ...],
    limits: Limits,
    bounds: Bounds,
    suspects: tuple[tuple[int, ...], ...],
) -> ReadPlan:
    """Return a plan; devices of one model that are known equally well share theirs."""
    max_registers, max_gap, sections, cost = limits
    return ReadPlan.build(
        columns,
        max_registers=max_registers,
        max_gap=max_gap,
        sections=sections,
        cost=cost,
        declared=declared,
        bounds=bounds,
        suspects=suspects,
    )


@dataclass(frozen=True, kw_only=True)
class ModbusDevice(DeviceConfig):
    """One Modbus unit: ``modbus+tcp://host:502?unit=1``, ``modbus+rtu:///dev/ttyS0?baud=9600``.

    pause          between an answer and the next request; of two neighbours the longer one counts
    max_registers  registers that one request may ask for
    max_gap        undeclared registers that may be read along between two that are wanted
    sections       first and last address of blocks that no request may cross
    order          of the bytes of tags that do not say their own
    """

    schemes: ClassVar[tuple[str, ...]] = ("modbus+tcp", "modbus+rtu", "modbus+rtu-over-tcp")
    shared: ClassVar[tuple[str, ...]] = ()  # time-out and pause are the unit's, not the line's

    pause: Duration = NO_PAUSE
    max_registers: Annotated[int, Ge(1), Le(125)] = 125
    max_gap: Annotated[int, Ge(0), Le(124)] = 0
    sections: tuple[tuple[int, int], ...] = ()
    order: Order = "ABCD"

    @property
    def serial(self) -> bool:
        """True for a serial line of this box."""
        return self.url.scheme == "modbus+rtu"

    @cached_property
    def unit(self) -> int:
        """The number of the unit on its link."""
        return int(self.option("unit", "1"))

    @property
    def link(self) -> tuple[str, int] | str:
        """Host and port, or the path of the serial line."""
        return self.url.path if self.serial else (self.url.hostname or "", self.url.port or PORT)

    @property
    def line(self) -> Line:
        """What all devices of a link must agree on."""
        serial = SerialSettings().laid_under(self.url)
        return Line(
            self.url.scheme,
            self.url.path if self.serial else self.url.hostname or "",
            0 if self.serial else self.url.port or PORT,
            serial.baud,
            serial.parity,
            serial.stopbits,
            serial.bytesize,
        )

    @property
    def cost(self) -> Cost:
        """What a request costs on this link; behind a converter a line of 9600 baud is supposed."""
        line = self.line
        if not line.is_rtu:
            return Cost.of_tcp(float(self.pause))
        bits = 1 + line.bytesize + (line.parity != "N") + line.stopbits
        return Cost.of_line(line.baud, bits, float(self.pause))

    def register(self, tag: TagConfig) -> Register:
        """Return a tag as the plan needs it; ``ValueError`` if its address is none."""
        address = Address.parse(tag.at)
        one_bit = address.table.is_bits or address.bit is not None
        low, high = tag.range or (-np.inf, np.inf)
        usual: NumberType = "text" if tag.kind == "text" else "bool" if one_bit else "u16"
        return Register(
            address,
            tag.type or usual,
            tag.order or self.order,
            self.ratio_of(tag),
            tag.offset,
            tag.invalid,
            low,
            high,
            tag.length or 0,
        )

    def plan(self, tags: Sequence[str]) -> ReadPlan:
        """Return how the tags of a stream are read while nothing is known of the device."""
        columns = []
        for tag in tags:
            of = self.tags[tag].scale_from
            register = self.register(self.tags[tag])
            columns.append(register if of is None else replace(register, exponent=tags.index(of)))
        declared = tuple(self.register(tag).span for tag in self.tags.values())
        return _plan(tuple(columns), declared, self._limits, NOTHING_FOUND, ())

    def replan(
        self, plan: ReadPlan, bounds: Bounds, suspects: Sequence[tuple[int, ...]]
    ) -> ReadPlan:
        """Return the plan of the same tags after what was found out; one in doubt is not kept."""
        make = _plan.__wrapped__ if suspects else _plan
        return make(plan.registers, plan.declared, self._limits, bounds, tuple(suspects))

    @property
    def _limits(self) -> Limits:
        return self.max_registers, self.max_gap, self.sections, self.cost

    def plans(self, name: str) -> dict[Group, ReadPlan]:
        """Return the streams of the device and how each is read; ``name`` is the device's id."""
        return {group: self.plan(tags) for group, tags in groups_of(name, self).items()}

    def explain(self, name: str, tag: str) -> list[tuple[str, str]]:
        from edge_agent.drivers.modbus_explain import explain  # which only a person asks for

        return explain(self, name, tag)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the device's address or map."""
        spans = sorted(str(self.register(tag).span) for tag in self.tags.values())
        said = repr((self.connect, self.max_registers, self.max_gap, self.sections, spans))
        return blake2b(said.encode(), digest_size=8).hexdigest()

    def faults(self) -> list[tuple[Path, str]]:
        found = link_faults(
            self.url, serial=self.serial, port=PORT, own={"unit": self._unit_faults}
        )
        faults: list[tuple[Path, str]] = [(("connect",), text) for text in found]
        for i, (first, last) in enumerate(self.sections):
            if not 0 <= first <= last <= 0xFFFF:
                right = "a section is [first, last], 0 <= first <= last <= 65535"
                faults.append((("sections", i), f"{right}, not {[first, last]}"))
        for name, tag in self.tags.items():
            faults += [(("tags", name, key), text) for key, text in self._tag_faults(tag)]
        return faults

    def _unit_faults(self, text: str) -> list[str]:
        low, high = (0, 255) if self.url.scheme == "modbus+tcp" else (1, 247)
        if text.isascii() and text.isdigit() and low <= int(text) <= high:
            return []
        return [f"unit={text}: a unit is a number from {low} to {high} here"]

    def _tag_faults(self, tag: TagConfig) -> list[tuple[str, str]]:
        faults = []
        if tag.mode == "subscribe":
            faults.append(("mode", "Modbus knows no subscriptions (leave mode out, or write poll)"))
        try:
            register = self.register(tag)
        except ValueError as e:
            return [*faults, ("at", str(e))]
        address, kind = register.address, register.type
        if kind != "bool" and (address.table.is_bits or address.bit is not None):
            faults.append(("type", f"{address} is one bit: its type is bool, not {kind}"))
        elif register.last > 0xFFFF:
            faults.append(
                ("at", f"{address} with {register.words} registers goes past address 65535")
            )
        elif register.last - register.first >= self.max_registers:
            text = f"{kind} needs {register.words} registers, max_registers is {self.max_registers}"
            faults.append(("type", text))
        elif self._outside(register):
            span = f"{address}" + (f" to {register.last}" if register.last > register.first else "")
            text = f"{span} lies in none of the sections, or crosses a border"
            faults.append(("at", text))
        faults += [
            ("invalid", f"{number} is no number that {kind} can hold")
            for number in tag.invalid
            if not fits(kind, number)
        ]
        if tag.range is not None and not tag.range[0] < tag.range[1]:
            faults.append(("range", f"a range is [low, high], not {list(tag.range)}"))
        if kind == "text" and tag.length is None:
            faults.append(("length", "a text needs its length in characters (length: 16)"))
        exponent = self.tags.get(tag.scale_from or "")
        if exponent is not None and (
            exponent.scale_from or "text" in {exponent.type, exponent.kind}
        ):
            faults.append(("scale_from", f"{tag.scale_from} is no plain number: it cannot scale"))
        return faults

    def _outside(self, register: Register) -> bool:
        in_sections = not self.sections or section_of(register, self.sections) >= 0
        return not (register.address.table.is_bits or in_sections)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> "ModbusDriver":
        from edge_agent.drivers.modbus_driver import ModbusDriver

        return ModbusDriver({n: d for n, d in devices.items() if isinstance(d, cls)}, clock)
