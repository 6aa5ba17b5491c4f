"""What the registers of an unknown device mean: which template fits, or which byte order; pure.

What was read of the device, its memory, is compared offline with every register map there is.
Where none fits, pairs of registers are looked at in all four byte orders: in the wrong one a float
has an exponent that nothing in a plant has, and hardly any pair is a voltage or 50 Hz.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from edge_agent.drivers.base import NumberType, Order, TagConfig
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.drivers.modbus_plan import ReadPlan
from edge_agent.model import Quality
from edge_agent.tools.fit import Fit
from edge_agent.tools.plausible import (
    Evidence,
    Reading,
    is_mains,
    is_mains_frequency,
    weigh,
)

Memory = Mapping[Table, Mapping[int, int]]

ORDERS: tuple[Order, ...] = get_args(Order)
BLOCK, FIRST_BLOCKS = 100, 10  # registers; 1000 of them are read of a device that has them all
PART = 0.2  # share of a map's tags from which it may turn out to be the one
OWN, ALL_BUT = 5, 0.9  # registers that are not 0, and the share of them that a map must name
LEAST = 0.6  # share of a map's tags that must be readable
SANE = 0.8  # share of the pairs that are not zero which must be numbers that a plant has
FEW = 3  # pairs below which a share says nothing
SHOWN = 40  # tags of an unknown device that are written down


@dataclass(frozen=True)
class Unknown:
    """What an unknown table seems to hold: pairs of one number type in one byte order."""

    table: Table
    type: NumberType
    order: Order
    evidence: Evidence
    tags: Mapping[str, TagConfig] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)


# ---- templates -------------------------------------------------------------------------------


def fits(maps: Mapping[str, ModbusDevice], memory: Memory, *, any_order: bool = False) -> list[Fit]:
    """Return the templates that fit what was read, the best first.

    any_order  try the other byte orders too, where a template leaves them to the device
    """
    found = []
    for name, device in maps.items():
        tries: list[tuple[Order | None, ModbusDevice]] = [(None, device)]
        if any_order and all(tag.order is None for tag in device.tags.values()):
            tries += [(o, replace(device, order=o)) for o in ORDERS if o != device.order]
        for order, tried in tries:
            readings = readings_of(tried, memory)
            tags = sum(tag.type != "text" for tag in device.tags.values())
            if readings and len(readings) >= LEAST * tags:
                evidence = weigh(readings)
                if len(readings) == tags:
                    evidence.add(*_shape(tried, memory))
                found.append(Fit(name, evidence, len(readings), tags, order))
    best: dict[str, Fit] = {}
    for fit in sorted(found, key=lambda fit: -fit.rank):
        if fit.evidence.sound:
            best.setdefault(fit.template, fit)
    return list(best.values())


def _shape(device: ModbusDevice, memory: Memory) -> tuple[float, str]:
    """Return what it says that a map names the registers that are not 0, and few others do."""
    spans = [device.register(tag).span for tag in device.tags.values()]
    named = {(table, a) for table, first, last in spans for a in range(first, last + 1)}
    filled = {(table, a) for table, words in memory.items() for a, word in words.items() if word}
    both = len(named & filled)
    if both < OWN or both < ALL_BUT * len(filled):
        return 0.0, ""
    return 3.0 + 0.1 * min(both, 20), f"all {both} registers that are not 0 are named in it"


def contenders(maps: Mapping[str, ModbusDevice], memory: Memory) -> list[str]:
    """Return the templates of which a part is read and fits, so that the rest should be tried."""
    found = []
    for name, device in maps.items():
        readings = readings_of(device, memory)
        if len(readings) >= PART * len(device.tags) and weigh(readings).points > 0:
            found.append(name)
    return found


def readings_of(device: ModbusDevice, memory: Memory) -> list[Reading]:
    """Return what the tags of a map would be, those that can be read."""
    names = []
    for name, tag in device.tags.items():
        table, first, last = device.register(tag).span
        held = memory.get(table, {})
        if tag.type != "text" and all(address in held for address in range(first, last + 1)):
            names.append(name)
    names = [n for n in names if (of := device.tags[n].scale_from) is None or of in names]
    if not names:
        return []
    values = _decoded(device.plan(names), memory)
    return [
        Reading(name, device.tags[name].unit, device.tags[name].kind, value)
        for name, value in zip(names, values, strict=True)
    ]


def _decoded(plan: ReadPlan, memory: Memory) -> Iterator[float]:
    """Yield the value of each column; infinite where its words are no number of its type."""
    words = np.zeros((1, plan.words), np.uint16)
    for request in plan.requests:
        held = memory[request.table]
        for i in range(request.count):  # what is read along need not be known
            words[0, request.offset + i] = held.get(request.address + i, 0)
    value, quality = plan.decode(words)
    for column, register in enumerate(plan.registers):
        is_illegal = quality[column, 0] >= Quality.BAD and register.type.startswith(("bcd", "m10k"))
        yield float("inf") if is_illegal and not register.invalid else float(value[column, 0])


# ---- byte order ------------------------------------------------------------------------------


def unknown(memory: Memory) -> list[Unknown]:
    """Return what the tables of an unknown device seem to hold, the best guess of each."""
    found = []
    for table, words in memory.items():
        if table.is_bits:
            continue
        guesses = [g for g in (*_floats(table, words), *_integers(table, words)) if g.tags]
        if guesses:
            found.append(max(guesses, key=lambda g: g.evidence.points))
    return found


def _floats(table: Table, words: Mapping[int, int]) -> Iterator[Unknown]:
    """Yield what pairs would be as floats.

    CDAB read one register too late is nearly ABCD: the high word is right, and the low word, the
    next one's, is only noise. But then the first and the last word of a run are left over.
    """
    for order in ORDERS:
        for parity in (0, 1):
            pairs, left = _pairs(words, parity)
            values = {a: float_of(*pair, order) for a, pair in pairs.items()}
            sane = {a: v for a, v in values.items() if 1e-3 <= abs(v) <= 1e9}
            evidence = _mains(sane, 2)
            evidence.add(0.3 * len(sane))
            evidence.add(-0.5 * (len(pairs) - len(sane)) - 0.2 * left)
            if len(pairs) >= FEW and len(sane) >= SANE * len(pairs):
                yield _unknown(table, "f32", order, evidence, sane)


def _pairs(words: Mapping[int, int], parity: int) -> tuple[dict[int, tuple[int, int]], int]:
    """Return the pairs that are not zero, and how many words that are not zero are in none.

    parity  of the first pair, counted from where a run of registers begins
    """
    pairs, left, begin, paired = dict[int, tuple[int, int]](), 0, -1, -1
    for address in sorted(words):
        if address - 1 not in words:
            begin = address
        if address <= paired:
            continue
        if (address - begin) % 2 == parity and address + 1 in words:
            paired = address + 1
            if words[address] or words[address + 1]:
                pairs[address] = (words[address], words[address + 1])
        else:
            left += words[address] != 0
    return pairs, left


def float_of(first: int, second: int, order: Order) -> float:
    """Return the 32-bit float that two registers hold."""
    if order in {"CDAB", "DCBA"}:
        first, second = second, first
    layout = ">HH" if order in {"ABCD", "CDAB"} else "<HH"
    raw = struct.pack(layout, first, second)
    return float(struct.unpack(">f", raw)[0])


def _integers(table: Table, words: Mapping[int, int]) -> Iterator[Unknown]:
    """Yield what single registers with one or two decimals would be."""
    for swapped in (False, True):
        raw = {a: (w >> 8 | (w & 0xFF) << 8) if swapped else w for a, w in words.items()}
        evidence = _mains({a: w / 10.0 for a, w in raw.items() if w}, 1)
        hertz = {a for a, w in raw.items() if is_mains_frequency(w / 100.0)}
        if hertz:
            evidence.add(2.0, f"{raw[min(hertz)] / 100.0:.2f} Hz")
        if not hertz or not any("V" in said for said in evidence.said):
            continue  # three numbers in a row may be nearly equal by chance
        tags, values = dict[str, TagConfig](), dict[str, float]()
        order: Order = "BADC" if swapped else "ABCD"
        usual = _unless_usual(order)
        for address in _triplets({a: w / 10.0 for a, w in raw.items() if w}, 1)[:1]:
            for i in range(3):
                name = f"voltage_l{i + 1}"
                at = str(Address(table, address + i))
                tags[name] = TagConfig(at=at, type="u16", order=usual, scale=0.1, unit="V")
                values[name] = raw[address + i] / 10.0
        for address in sorted(hertz)[:1]:
            at = str(Address(table, address))
            tags["frequency"] = TagConfig(at=at, type="u16", order=usual, scale=0.01, unit="Hz")
            values["frequency"] = raw[address] / 100.0
        yield Unknown(table, "u16", order, evidence, tags, values)


def _mains(values: Mapping[int, float], step: int) -> Evidence:
    """Return what speaks of the mains among numbers at their addresses."""
    evidence = Evidence()
    for address in _triplets(values, step)[:2]:
        evidence.add(3.0, f"3 voltages of {values[address]:.4g} V")
    for hertz in [v for v in values.values() if is_mains_frequency(v)][:1]:
        evidence.add(2.0, f"{hertz:.2f} Hz")
    return evidence


def _triplets(values: Mapping[int, float], step: int) -> list[int]:
    """Return where three numbers in a row are mains voltages and nearly equal."""
    found: list[int] = []
    for address, volts in values.items():
        three = [volts, values.get(address + step, 0.0), values.get(address + 2 * step, 0.0)]
        taken = found and address < found[-1] + 3 * step
        if not taken and is_mains(volts) and max(three) - min(three) <= 0.1 * volts:
            found.append(address)
    return found


def _unless_usual(order: Order) -> Order | None:
    return None if order == "ABCD" else order


def _unknown(
    table: Table,
    kind: NumberType,
    order: Order,
    evidence: Evidence,
    values: Mapping[int, float],
) -> Unknown:
    voltages = {
        first + 2 * i: f"voltage_{phase}"
        for first, phases in zip(
            _triplets(values, 2), (("l1", "l2", "l3"), ("l12", "l23", "l31")), strict=False
        )
        for i, phase in enumerate(phases)
    }
    tags, shown = dict[str, TagConfig](), dict[str, float]()
    for address, value in list(values.items())[:SHOWN]:
        name, unit = voltages.get(address), "V"
        if name is None and is_mains_frequency(value) and "frequency" not in tags:
            name, unit = "frequency", "Hz"
        name, unit = (name, unit) if name else (f"value_{address}", "1")
        at = str(Address(table, address))
        tags[name] = TagConfig(at=at, type=kind, order=_unless_usual(order), unit=unit)
        shown[name] = value
    return Unknown(table, kind, order, evidence, tags, shown)


def spans_of(maps: Iterable[ModbusDevice], table: Table) -> list[tuple[int, int]]:
    """Return first address and size of what each map would ask a table for, each once."""
    found: set[tuple[int, int]] = set()
    for device in maps:
        registers = [
            register
            for tag in device.tags.values()
            if (register := device.register(tag)).address.table is table
        ]
        plan = ReadPlan.build(
            registers, max_registers=device.max_registers, sections=device.sections
        )
        for request in plan.requests:
            head = min((registers[c] for c in request.columns), key=lambda r: (r.first, r.last))
            found.add((head.first, head.last - head.first + 1))
    return sorted(found)


def blocks_of(maps: Iterable[ModbusDevice], table: Table) -> list[int]:
    """Return where blocks of ``BLOCK`` registers begin that hold what any map names, and the first.

    For a device that answers any address: it has no ranges that could be found.
    """
    spans = [device.register(tag).span for device in maps for tag in device.tags.values()]
    named = {a // BLOCK for where, first, last in spans if where is table for a in (first, last)}
    return [BLOCK * n for n in sorted(named | set(range(FIRST_BLOCKS)))]
