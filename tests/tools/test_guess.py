"""Which template or byte order is guessed, from what the simulated meters and random maps say."""

import math
import struct
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.clock import VirtualClock
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Table
from edge_agent.tools.guess import ORDERS, fits, float_of, spans_of, unknown
from edge_agent.tools.models import Models
from edge_agent.tools.plausible import Reading, is_mains_frequency, weigh
from edge_agent.tools.ranges import Found, Refusal, Reply, Span, search
from simulators.plant import CementPlant
from simulators.registers import Refused, RegisterMap, words_of
from simulators.sources import anything
from simulators.tables import device_table

HERE = "modbus+tcp://127.0.0.1:1"
MAPS = {n: d for n, d in Models().devices(HERE) if isinstance(d, ModbusDevice)}
ELECTRIC = [n for n, d in MAPS.items() if "voltage_l1" in d.tags and "frequency" in d.tags]
AREAS = {Table.HOLDING_REGISTERS: "hr", Table.INPUT_REGISTERS: "ir"}


def served(name: str) -> RegisterMap:
    """Return the registers of a meter as the simulators play it."""
    clock = VirtualClock()
    table = device_table("em", {"connect": HERE, "template": name})
    plant = CementPlant(1, clock)
    source = plant.source("em-cooler")
    assert source is not None
    if not all(source.knows(tag.name) for tag in table.tags):
        source = anything("1/em", plant.start, {t.name: (t.kind, t.unit) for t in table.tags})
    return RegisterMap(table, source)


def memory_of(name: str) -> dict[Table, dict[int, int]]:
    """Return what a search from every map's registers reads of one meter."""
    registers, instant = served(name), VirtualClock().wall_ns()
    memory = {}
    for table, area in AREAS.items():

        def reply(span: Span, area: str = area) -> Reply:
            try:
                return registers.read(area, span.first, span.count, instant)
            except Refused as e:
                return Refusal(e.code)

        found = Found()
        asking = search(found, [Span(*span) for span in spans_of(MAPS.values(), table)])
        try:
            span = next(asking)
            while True:
                span = asking.send(reply(span))
        except StopIteration:
            memory[table] = found.words
    return memory


def places(name: str) -> set[tuple[object, ...]]:
    registers = [MAPS[name].register(tag) for tag in MAPS[name].tags.values()]
    return {(r.span, r.type, r.order, r.ratio) for r in registers}


@pytest.mark.parametrize("name", ELECTRIC)
def test_a_meter_is_known_by_its_mains_values(name: str) -> None:
    found = fits(MAPS, memory_of(name))
    assert found, "no template fits"
    first = found[0]
    assert first.words == "very likely" or "voltage_l2" not in MAPS[name].tags
    if first.template != name:  # only a map that has the same registers may come first
        assert places(name) <= places(first.template) or places(first.template) <= places(name)


@pytest.mark.parametrize("name", sorted(set(MAPS) - set(ELECTRIC)))
def test_what_is_no_meter_of_the_mains_is_known_by_its_registers_or_not_at_all(name: str) -> None:
    found = fits(MAPS, memory_of(name))
    if found and found[0].template != name:
        assert places(name) & places(found[0].template)


def test_a_map_that_names_few_of_the_registers_is_not_known_by_them() -> None:
    memory = memory_of("suto/s430")
    assert fits(MAPS, memory)[0].template == "suto/s430"
    (table,) = (t for t, words in memory.items() if words)
    memory[table] |= dict.fromkeys(range(5000, 5040), 1)
    assert fits(MAPS, memory) == []


@pytest.mark.parametrize("order", ORDERS)
def test_a_meter_that_was_set_to_another_byte_order_is_known_with_it(order: str) -> None:
    memory = memory_of("chint/dtsu666")
    turned = {table: _turned(words, order) for table, words in memory.items()}
    first = fits(MAPS, turned, any_order=True)[0]
    assert (first.template, first.order or "ABCD") == ("chint/dtsu666", order)


def _turned(words: Mapping[int, int], order: str) -> dict[int, int]:
    """Return pairs of registers in another order; all numbers of this meter are pairs."""
    found = dict(words)
    for a in words:
        if a % 2 == 0 and a + 1 in words:
            raw = words[a] << 16 | words[a + 1]
            found[a], found[a + 1] = words_of(raw, "u32", order)
    return found


# ---- the laws by themselves ------------------------------------------------------------------


def readings(values: Mapping[str, float]) -> list[Reading]:
    units = {"voltage": "V", "current": "A", "frequency": "Hz", "active": "kW", "reactive": "kvar"}
    return [
        Reading(n, units.get(n.split("_")[0], "kVA" if "apparent" in n else "1"), "gauge", v)
        for n, v in values.items()
    ]


GOOD = {
    "frequency": 50.02, "voltage_l1": 231.0, "voltage_l2": 230.2, "voltage_l3": 229.5,
    "voltage_l12": 399.5, "active_power": 30.0, "reactive_power": 40.0, "apparent_power": 50.0,
    "power_factor": 0.6, "active_power_l1": 10.0, "active_power_l2": 10.0, "active_power_l3": 10.0,
}  # fmt: skip


def test_a_meter_on_the_mains_convinces() -> None:
    evidence = weigh(readings(GOOD))
    assert evidence.sound
    assert evidence.minus == 0
    assert "50.02 Hz" in evidence.said
    assert "P² + Q² = S²" in evidence.said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency", 5002.0), ("voltage_l1", 23100.5), ("apparent_power", 5000.0),
        ("power_factor", 600.0), ("active_power", 1e-39), ("active_power_l1", 7e20),
    ],
)  # fmt: skip
def test_an_impossible_number_speaks_against_a_map(name: str, value: float) -> None:
    assert weigh(readings(GOOD | {name: value})).minus > 0


@pytest.mark.parametrize("volts", [57.7, 100.0, 230.0, 400.0, 5774.0, 10000.0])
def test_voltages_are_known_on_both_sides_of_a_transformer(volts: float) -> None:
    three = {f"voltage_l{i}": volts * (1 + i / 200) for i in (1, 2, 3)}
    assert weigh(readings(three | {"frequency": 50.0})).sound


def test_a_meter_without_voltage_says_nothing() -> None:
    assert not weigh(readings(dict.fromkeys(GOOD, 0.0))).sound


# ---- byte order ------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=100, deadline=None)
@given(st.floats(width=32, allow_nan=False))
def test_a_float_of_two_registers_is_what_struct_says(order: str, value: float) -> None:
    first, second = words_of(value, "f32", order)
    assert float_of(first, second, order) == value


plant_values = st.floats(0.5, 5e5, width=32)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=60, deadline=None)
@given(st.lists(plant_values, min_size=4, max_size=20), st.integers(0, 50))
def test_the_byte_order_of_floats_is_found(order: str, values: list[float], first: int) -> None:
    """L8, peers 53: the order is found out, not configured by trial."""
    values = [230.1, 231.7, 229.4, 50.01, *values]
    words = [word for value in values for word in words_of(value, "f32", order)]
    (guess,) = unknown({Table.HOLDING_REGISTERS: dict(enumerate(words, first))})
    assert (guess.type, guess.order) == ("f32", order)
    assert {tag.order or "ABCD" for tag in guess.tags.values()} == {order}
    assert guess.tags["voltage_l1"].at == f"hr:{first}"
    assert guess.tags["frequency"].at == f"hr:{first + 6}"
    read = [guess.values[name] for name in guess.tags]
    assert read == [struct.unpack(">f", struct.pack(">f", value))[0] for value in values]


def test_single_registers_with_a_decimal_are_found() -> None:
    words = [2301, 2310, 2296, 0, 5002]
    (guess,) = unknown({Table.INPUT_REGISTERS: dict(enumerate(words))})
    assert (guess.type, guess.order) == ("u16", "ABCD")
    assert guess.tags["voltage_l2"].at == "ir:1"
    assert math.isclose(guess.values["frequency"], 50.02)


def test_counters_are_no_floats() -> None:
    words = [w for n in (12345, 99999, 123456, 7) for w in (n >> 16, n & 0xFFFF)]
    assert unknown({Table.HOLDING_REGISTERS: dict(enumerate(words))}) == []


@settings(deadline=None)
@given(st.floats(allow_nan=True))
def test_no_number_is_the_frequency_of_two_networks(value: float) -> None:
    bands = [(49.5, 50.5), (59.5, 60.5)]
    assert is_mains_frequency(value) == any(low <= value <= high for low, high in bands)
    assert all(one[1] < other[0] for one, other in pairwise(bands))
