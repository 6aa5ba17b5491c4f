"""The DL/T 645 driver against simulated meters: values, blocks, addresses, the table."""

import json
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from edge_agent.clock import VirtualClock
from edge_agent.config import load
from edge_agent.drivers.dlt645_items import Place, canonical, layout
from edge_agent.errors import NoAnswer
from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Quality, concatenate
from edge_agent.units import Duration
from simulators.dlt645_server import Dlt645Server
from simulators.faults import Script, Trouble
from simulators.fleet import play
from simulators.sources import Source
from tests.drivers.dlt645_bench import ADDRESS, GOOD, SHOWN, TAGS, Bench, Tags, device, driver, made
from tests.drivers.lines import connected, group, read, row, serial_line


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ---- the normal path --------------------------------------------------------------------------


async def test_a_meter_is_read_over_a_serial_server(bench: Bench) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        before = time.time_ns()
        block = await d.read(group(d, "m/raw"))

    assert row(block) == GOOD
    assert before <= block.time[0] <= time.time_ns()


async def test_a_meter_is_read_over_a_serial_line(bench: Bench, tmp_path: Path) -> None:
    bench.add()
    async with serial_line(tmp_path) as (ours, theirs):
        server = Dlt645Server(bench.meters)
        try:
            server.start_serial(str(ours), 2400, "N")  # a pseudo-terminal has no parity
            at = f"dlt645+serial://{theirs}?baud=2400&parity=N&address={ADDRESS}"
            async with connected(driver(m=made(at))) as d:
                assert await read(d) == GOOD
        finally:
            await server.close()


async def test_several_meters_share_a_line(bench: Bench) -> None:
    bench.add()
    bench.add("n", shown={**SHOWN, "energy": (7.0, "kWh")}, query="address=43")
    async with bench.serving():
        pair = driver(m=device(bench.port), n=device(bench.port, query="address=43"))
        async with connected(pair) as d:
            assert await read(d) == GOOD
            assert (await read(d, "n/raw"))[0] == (7.0, 0)


async def test_scale_ratios_and_units_are_applied_once(bench: Bench) -> None:
    tags: Tags = {
        "energy": {"at": "00-01-00-00", "unit": "MWh", "ratio": "ct*pt"},
        "power": {"at": "02030000", "unit": "W", "scale": -1.0, "offset": 0.5},
        "voltage": {"at": "di:02010100", "unit": "kV", "ratio": "pt", "range": (0.0, 20.0)},
    }
    bench.add()
    async with bench.serving():
        high = device(bench.port, tags, ct=40.0, pt=100.0)
        async with connected(driver(m=high)) as d:
            assert await read(d) == [(4938.24, 0), (3353.1, 0), (22.97, Quality.UNCERTAIN_RANGE)]


async def test_what_the_digits_say_is_the_nearest_float(bench: Bench) -> None:
    """L8, peers 54: 0.1 + 0.2 has no place in a meter reading."""
    bench.add(shown={**SHOWN, "energy": (0.07, "kWh"), "voltage": (0.3, "V")})
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        found = await read(d)

    assert [found[0], found[2]] == [(0.07, 0), (0.3, 0)]


async def test_demand_status_bits_and_the_clock_are_read(bench: Bench) -> None:
    tags: Tags = {
        "demand": {"at": "di:01010000", "unit": "kW"},
        "when": {"at": "di:01010000.time"},
        "relay": {"at": "di:04000503.4", "kind": "state"},
        "battery": {"at": "di:04000503.2", "kind": "state"},
        "word": {"at": "di:04000501", "kind": "state"},
        "date": {"at": "di:04000101"},
        "temperature": {"at": "di:02800007", "unit": "Cel"},
        "last_month": {"at": "di:00010001", "unit": "kWh", "kind": "counter"},
    }
    shown = {
        "demand": (12.3456, "kW"), "when": (2608151430.0, "1"), "relay": (1.0, "1"),
        "battery": (0.0, "1"), "word": (5.0, "1"), "date": (26112503.0, "1"),
        "temperature": (-12.5, "Cel"), "last_month": (999.99, "kWh"),
    }  # fmt: skip
    bench.add(tags=tags, shown=shown)
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        assert await read(d) == [(value, 0) for value, _ in shown.values()]
        assert bench.meters[0].reads == 6  # demand and its time, two bits: one exchange each


async def test_a_meter_of_1997_is_read(bench: Bench) -> None:
    tags: Tags = {
        "energy": {"at": "di:9010", "unit": "kWh", "kind": "counter"},
        "voltage": {"at": "B611", "unit": "V"},
        "power": {"at": "di:B630", "unit": "kW"},
    }
    query = f"address={ADDRESS}&version=1997"
    bench.add(tags=tags, query=query, shown={**SHOWN, "power": (1.25, "kW")})
    async with bench.serving(), connected(driver(m=device(bench.port, tags, query))) as d:
        assert await read(d) == [(1234.56, 0), (229.0, 0), (1.25, 0)]


async def test_a_counter_at_a_million_is_read_as_it_begins_again(bench: Bench) -> None:
    bench.add(shown={**SHOWN, "energy": (1_000_000.01, "kWh")})
    counter = {"at": "di:00010000", "unit": "kWh", "kind": "counter", "modulus": 1e6}
    async with bench.serving():
        d = driver(m=device(bench.port, {**TAGS, "energy": counter}, ct=40.0))
        async with connected(d):
            assert (await read(d))[0] == (0.01, 0)

    tag = group(d, "m/raw").schema.tags[0]
    assert (tag.modulus, tag.unit.code) == (1e6, "kWh")


@pytest.mark.parametrize("scheme", ["dlt645", "cjt188"])
async def test_a_rollover_at_a_million_is_counted_on(scheme: str, tmp_path: Path) -> None:
    """A real counter goes through its end between two scans; the step is neither lost nor huge."""
    at = {"dlt645": "at: 'di:00010000', unit: kWh", "cjt188": "at: volume, unit: m3"}[scheme]
    path = tmp_path / "plant.yaml"
    path.write_text(
        f"site: {{id: a}}\ndevices:\n  em: {{connect: '{scheme}+tcp://h?address=42', poll: 10s,"
        f" tags: {{c: {{{at}, kind: counter, modulus: 1e6}}}}}}\n"
    )
    clock = VirtualClock()
    script = Script([Trouble("em", "rollover", start=30.0, by=65.0)])
    began = clock.now_ns
    unit = "kWh" if scheme == "dlt645" else "m3"
    source = Source({"c": (unit, lambda t: 1000.0 + (t - began) / 1e9)})
    async with play(path, clock, script=script, sources={"em": source}) as fleet:
        config = replace(load(path, env={}).devices["em"], connect=fleet.connect["em"])
        d = type(config).build({"em": config}, clock)
        async with connected(d):
            blocks = []
            for _ in range(30):
                blocks.append(await d.read(d.groups[0]))
                clock.now_ns += 10 * 10**9
    readings = concatenate(blocks)
    slots = SlotOperator(d.groups[0].schema).update(readings)

    assert readings.value.max() > 999_990
    assert readings.value[0, -1] < 1000
    assert slots is not None
    increments = slots["c.increment"]
    assert increments.tolist()[-1] == pytest.approx(60.0, abs=0.02)
    assert (increments[2:] < 61).all()
    quality = slots.quality[slots.schema.index["c.increment"]].tolist()
    assert Quality.GOOD_ROLLOVER in quality


# ---- blocks -----------------------------------------------------------------------------------

PHASES: Tags = {
    **{f"voltage_l{i}": {"at": f"di:02010{i}00", "unit": "V"} for i in (1, 2, 3)},
    "total": {"at": "di:00010000", "unit": "kWh", "kind": "counter"},
    "peak": {"at": "di:00010200", "unit": "kWh", "kind": "counter"},
    "frequency": {"at": "di:02800002", "unit": "Hz"},
}
THREE = {
    "voltage_l1": (229.1, "V"), "voltage_l2": (229.2, "V"), "voltage_l3": (229.3, "V"),
    "total": (10.0, "kWh"), "peak": (3.0, "kWh"), "frequency": (50.02, "Hz"),
}  # fmt: skip


async def test_members_of_a_block_are_read_together(bench: Bench) -> None:
    bench.add(tags=PHASES, shown=THREE, blocks=True)
    async with bench.serving(), connected(driver(m=device(bench.port, PHASES, blocks=True))) as d:
        assert await read(d) == [(value, 0) for value, _ in THREE.values()]

    assert bench.meters[0].reads == 3  # 0201FF00, 0001FF00, 02800002


async def test_a_meter_without_blocks_is_read_member_by_member_from_then_on(bench: Bench) -> None:
    """L2, peers 16: try wide, take it apart when it is refused, and remember."""
    meter = bench.add(tags=PHASES, shown=THREE)
    async with bench.serving():
        wide = device(bench.port, PHASES, blocks=True)
        async with connected(driver(m=wide)) as d:
            first = await read(d)
            refused = meter.conduct.tally.refused
            second = await read(d)
            learnt = json.loads(json.dumps(d.save()))
        d = driver(m=wide)
        d.load(learnt)
        async with connected(d):
            third = await read(d)

    assert first == second == third == [(value, 0) for value, _ in THREE.values()]
    assert (refused, meter.conduct.tally.refused) == (2, 2)  # never asked for again, nor after load
    assert learnt == {"m": {"201FF00": "it has no such data", "1FF00": "it has no such data"}}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"m": 5},
        {"m": {"xyz": "?", "10000": 3}},
        {"other": {}},
        {"m": {"di": "901F"}},
        {"m": []},
    ],
)
def test_what_another_configuration_has_learnt_is_passed_over(state: dict[str, object]) -> None:
    d = driver(m=device(1))
    d.load(state)

    assert set(d.save()) <= {"m"}


async def test_a_tariff_that_the_meter_does_not_have_is_no_value(bench: Bench) -> None:
    bench.add(tags=PHASES, shown=THREE, blocks=True)
    wanted = {**PHASES, "sixth": {"at": "di:0001FF00[6]", "unit": "kWh"}}
    async with bench.serving(), connected(driver(m=device(bench.port, wanted, blocks=True))) as d:
        found = await read(d)

    assert found[3:5] == [(10.0, 0), (3.0, 0)]
    assert found[-1] == (None, Quality.BAD_ADDRESS)


async def test_an_answer_that_goes_on_in_further_frames_is_put_together(bench: Bench) -> None:
    tags: Tags = {
        "first": {"at": "di:0001FF00[0]", "unit": "kWh"},
        "last": {"at": "di:0001FF00[63]", "unit": "kWh"},
    }
    bench.add(tags=tags, shown={"first": (1.5, "kWh"), "last": (64.25, "kWh")})
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        assert await read(d) == [(1.5, 0), (64.25, 0)]
        assert bench.meters[0].reads == 2  # 200 and 60 bytes


def every_item(version: str) -> list[Place]:
    """Return all single values of an edition, but of tariffs, orders and days some only."""
    if version == "1997":
        items = range(0x9000, 0x10000)
    else:
        tariffs, days = (0, 1, 4, 63), (0, 1, 12)
        accumulated = [
            (category << 24) + (kind << 16) + (tariff << 8) + day
            for category in (0, 1) for kind in range(0xC8) for tariff in tariffs for day in days
        ]  # fmt: skip
        rows = (0, 1, 2, 3, 21)
        others = [
            (head << 16) + (column << 8) + row
            for head in range(0x0200, 0x020D) for column in range(4) for row in rows
        ]  # fmt: skip
        named = range(0x02800001, 0x0280000C), range(0x04000101, 0x0400050F)
        items = [*accumulated, *others, *[i for some in named for i in some], 0x05040101]
    found = [(item, layout(item, version)) for item in items]
    return [Place(item, single) for item, single in found if single and not single.block]


@pytest.mark.parametrize(("version", "blocks"), [("2007", False), ("2007", True), ("1997", True)])
async def test_every_value_of_the_table_is_read_as_the_simulator_writes_it(
    bench: Bench, version: str, blocks: bool
) -> None:
    """The two have tables of their own, and each number is the most that its digits can hold."""
    places, random = every_item(version), Random(version)
    tags: Tags = {}
    shown = {}
    for i, where in enumerate(places):
        how = where.field
        most = 10 ** (2 * how.octets) if how.form == "number" else 256**how.octets - 1
        number = random.randrange(most // (2 if how.signed else 1))
        sign = -1 if how.signed and random.random() < 0.5 else 1
        value = sign * float(Fraction(number, 10**how.decimals))
        tags[f"t{i}"] = {"at": canonical(where, version), "unit": how.unit, "kind": "counter"}
        shown[f"t{i}"] = (value, how.unit)
    query = f"address={ADDRESS}&version={version}"
    meter = bench.add(tags=tags, shown=shown, query=query, blocks=blocks)
    async with bench.serving():
        reader = device(bench.port, tags, query, blocks=blocks, poll=Duration(1000.0))
        async with connected(driver(m=reader)) as d:
            found = await read(d)

    for where, one, (value, _) in zip(places, found, shown.values(), strict=True):
        assert one == (value, 0), canonical(where, version)
    assert len(places) > (50 if version == "1997" else 400)
    assert meter.conduct.tally.refused == 0
    assert (meter.reads < 0.8 * len(places)) == blocks


# ---- addresses --------------------------------------------------------------------------------


async def test_the_only_meter_of_a_line_is_asked_who_it_is(bench: Bench) -> None:
    meter = bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port, query=""))) as d:
        assert await read(d) == GOOD
        asked = meter.conduct.tally.requests
        assert await read(d) == GOOD

    assert asked == 4  # its address, then three values
    assert meter.conduct.tally.requests == 7


async def test_a_shortened_address_finds_its_meter(bench: Bench) -> None:
    bench.add()
    async with bench.serving():
        short = device(bench.port, query="address=AAAAAAAAAA42")
        async with connected(driver(m=short)) as d:
            assert await read(d) == GOOD


async def test_a_meter_put_in_the_place_of_another_one_is_found(bench: Bench) -> None:
    old = bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port, query=""))) as d:
        assert await read(d) == GOOD
        old.address = "000000000043"
        with pytest.raises(NoAnswer):
            await read(d)
        assert await read(d) == GOOD


# ---- what meters refuse, and do not have -------------------------------------------------------


async def test_what_a_meter_does_not_know_spoils_its_own_tag_only(bench: Bench) -> None:
    """L1, peers 2: one illegal address must not drop what else the device has."""
    meter = bench.add()
    wanted = {**TAGS, "phase": {"at": "di:00150000", "unit": "kWh"}}
    async with bench.serving(), connected(driver(m=device(bench.port, wanted))) as d:
        rows = [await read(d) for _ in range(3)]

    assert rows == [[*GOOD, (None, Quality.BAD_ADDRESS)]] * 3
    assert meter.conduct.tally.refused == 1  # and then left alone for a minute


async def test_a_value_of_all_ff_is_not_available(bench: Bench) -> None:
    meter = bench.add()
    meter._items["02010100"][0].value = None
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert (await read(d))[2] == (None, Quality.BAD_NOT_AVAILABLE)


async def test_a_number_that_stands_for_nothing_is_no_value(bench: Bench) -> None:
    bench.add(shown={**SHOWN, "voltage": (0.0, "V")})
    tags = {**TAGS, "voltage": {"at": "di:02010100", "unit": "V", "invalid": (0,)}}
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        assert (await read(d))[2] == (None, Quality.BAD_NOT_AVAILABLE)


async def test_another_refusal_is_tried_again_at_once(bench: Bench) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("busy")
        assert await read(d) == [(None, Quality.BAD_DEVICE)] * 3
        bench.recover()
        assert await read(d) == GOOD
