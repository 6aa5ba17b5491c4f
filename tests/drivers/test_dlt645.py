"""The DL/T 645 driver against simulated meters and a foreign server, over TCP and serial lines."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers import DRIVERS
from edge_agent.drivers.base import Counts, Learns, Probes, TagConfig
from edge_agent.drivers.dlt645 import Dlt645Device, Dlt645Driver
from edge_agent.errors import ConfigError, Disconnected, NoAnswer
from edge_agent.model import Quality
from edge_agent.units import Duration
from simulators.dlt645_server import Dlt645Meter, Dlt645Server
from simulators.faults import Script, Trouble
from simulators.tables import device_table
from tests.drivers.lines import connected, group, read, row, serial_line, shows
from tests.proxy import Wire

TIMEOUT = 0.3
ADDRESS = "202305170042"
TAGS = {
    "energy": {"at": "di:00010000", "unit": "kWh", "kind": "counter"},
    "power": {"at": "di:02030000", "unit": "kW"},
    "voltage": {"at": "di:02010100", "unit": "V"},
}
SHOWN = {"energy": (1234.56, "kWh"), "power": (-3.3526, "kW"), "voltage": (229.7, "V")}
GOOD = [(1234.56, 0), (-3.3526, 0), (229.7, 0)]
Tags = dict[str, dict[str, object]]


class Bench:
    """Meters behind one serial server.

    script  what befalls them; a trouble begins when it is put there
    """

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.script = Script()
        self.start = self.clock.wall_ns()
        self.meters: list[Dlt645Meter] = []
        self.port = 0

    def add(
        self,
        name: str = "m",
        tags: Tags | None = None,
        shown: dict[str, tuple[float, str]] | None = None,
        query: str = f"address={ADDRESS}",
        **rest: object,
    ) -> Dlt645Meter:
        written = {"connect": f"dlt645+tcp://x?{query}", "tags": tags or TAGS, **rest}
        source = shows(shown or SHOWN)
        meter = Dlt645Meter(
            device_table(name, written), source, self.clock, script=self.script, start=self.start
        )
        self.meters.append(meter)
        return meter

    def befall(self, kind: str, device: str = "m", **rest: object) -> None:
        self.script.troubles.append(Trouble(device, kind, **rest))  # type: ignore[arg-type]

    def recover(self) -> None:
        self.script.troubles.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Bench"]:
        server = Dlt645Server(self.meters)
        try:
            self.port = await server.start()
            yield self
        finally:
            await server.close()


def device(
    port: int, tags: Tags | None = None, query: str = f"address={ADDRESS}", **rest: object
) -> Dlt645Device:
    at = f"dlt645+tcp://127.0.0.1:{port}?{query}"
    return made(at, tags, **rest)


def made(connect: str, tags: Tags | None = None, **rest: object) -> Dlt645Device:
    written = {n: TagConfig(**t) for n, t in (tags or TAGS).items()}  # type: ignore[arg-type]
    rest = {"timeout": Duration(TIMEOUT), "pause": Duration(0.0), "tags": written, **rest}
    return Dlt645Device(connect=connect, **rest)  # type: ignore[arg-type]


def driver(**devices: Dlt645Device) -> Dlt645Driver:
    return Dlt645Device.build(devices, SystemClock())


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


# ---- trouble on the line ----------------------------------------------------------------------


async def test_a_silent_meter_is_no_answer_and_costs_one_timeout(bench: Bench) -> None:
    """L1, peers 10: fail fast on the first time-out."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("silence")
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="m: no answer"):
            await read(d)
        took = time.monotonic() - began

    assert TIMEOUT <= took < 3 * TIMEOUT
    assert bench.meters[0].conduct.tally.requests == 1


async def test_a_dead_meter_costs_the_others_of_its_line_nothing_else(bench: Bench) -> None:
    """L1, peers 1: the silence of one loses no data of another."""
    bench.add()
    bench.add("n", query="address=43")
    bench.befall("silence")
    async with bench.serving():
        pair = driver(m=device(bench.port), n=device(bench.port, query="address=43"))
        async with connected(pair) as d:
            with pytest.raises(NoAnswer):
                await read(d)
            assert await read(d, "n/raw") == GOOD


async def test_a_late_answer_is_never_taken_for_the_next_one(bench: Bench) -> None:
    """L3, peers 22 and 23: the answer before is not the answer now."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read(d) == GOOD
        bench.befall("delay", by=1.5 * TIMEOUT)
        with pytest.raises(NoAnswer):
            await read(d)
        bench.recover()
        await asyncio.sleep(2.1 * TIMEOUT)
        assert await read(d) == GOOD


@pytest.mark.parametrize("tags", [TAGS, {"energy": TAGS["energy"]}], ids=["three", "one"])
async def test_a_meter_that_is_one_answer_behind_has_no_good_value(
    bench: Bench, tags: Tags
) -> None:
    """L3, peers 22: also where it is asked for one value only, so all its answers look alike."""
    began = time.monotonic()
    meter = bench.add(tags={**tags, "address": {"at": "di:04000401"}}, shown={
        **SHOWN, "address": (float(ADDRESS), "1"),
    })  # fmt: skip
    energy = meter._items["00010000"][0]
    energy.value = lambda _t: float(meter.conduct.tally.requests)  # other at every request
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        bench.befall("late-by-one")
        for _ in range(3):
            with pytest.raises(NoAnswer):
                await read(d)
            await asyncio.sleep(0)
        bench.recover()
        asked = meter.conduct.tally.requests
        found = (await read(d))[0]

    assert asked == 3
    assert found[1] == 0
    assert found[0] is not None
    assert found[0] > asked
    assert time.monotonic() - began < 10


async def test_an_item_that_alone_is_never_answered_is_left_out(bench: Bench) -> None:
    bench.add(tags={**TAGS, "odd": {"at": "di:02800002", "unit": "Hz"}},
              shown={**SHOWN, "odd": (50.0, "Hz")})  # fmt: skip
    meter = bench.meters[0]
    answer = meter._answer

    def deaf(exchange: object, line: object, item: str) -> None:
        if item != "02800002":
            answer(exchange, line, item)  # type: ignore[arg-type]

    meter._answer = deaf  # type: ignore[method-assign, assignment]
    tags = {"odd": {"at": "di:02800002", "unit": "Hz"}, **TAGS}
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        rows = []
        for _ in range(6):
            try:
                rows.append(await read(d))
            except NoAnswer:
                await asyncio.sleep(0)
        asked = meter.conduct.tally.requests
        last = await read(d)

    assert rows[0] == [(None, Quality.BAD_NO_ANSWER), *GOOD]
    assert last == [(None, Quality.BAD_ADDRESS), *GOOD]
    assert meter.conduct.tally.requests == asked + 3


@pytest.mark.parametrize("kind", ["corrupt", "garbage", "short", "poison"])
async def test_a_spoiled_answer_is_never_a_good_value(bench: Bench, kind: str) -> None:
    """L2, peers 15: stray bytes in a frame that adds up are as wrong as one that does not."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall(kind, at="di:00010000")
        for _ in range(5):
            try:
                found = await read(d)
            except NoAnswer:
                await asyncio.sleep(0)
                continue
            assert all(f == g or f[1] >= Quality.BAD for f, g in zip(found, GOOD, strict=True))
            if kind != "poison":
                assert all(quality >= Quality.BAD for _, quality in found)
        bench.recover()
        await asyncio.sleep(0)
        await read(d) if kind == "poison" else None  # what was strewn comes with the next answer
        assert await read(d) == GOOD


async def test_a_wrong_sum_is_told_apart_from_silence(bench: Bench) -> None:
    bench.add(tags={"energy": TAGS["energy"]})
    async with (
        bench.serving(),
        connected(driver(m=device(bench.port, {"energy": TAGS["energy"]}))) as d,
    ):
        bench.befall("corrupt")
        outcomes = []
        for _ in range(6):
            try:
                outcomes.append(await read(d))
            except NoAnswer:  # the flipped bit hit a beginning or the length
                await asyncio.sleep(0)

    assert [(None, Quality.BAD_SHORT)] in outcomes


async def test_frames_of_other_meters_and_echoes_are_passed_over(bench: Bench) -> None:
    meter = bench.add()
    other = Dlt645Meter(
        device_table("o", {"connect": "dlt645+tcp://x?address=99", "tags": TAGS}),
        shows({name: (1.0, unit) for name, (_, unit) in SHOWN.items()}), bench.clock,
    )  # fmt: skip
    serve = meter.serve

    def echo(frame: bytes, line: object) -> None:
        line.send(frame)  # type: ignore[attr-defined]  # a converter that hears itself
        forged = b"\x68" + bytes.fromhex("000000000099")[::-1] + frame[7:-2]
        other.serve(forged + bytes((sum(forged) & 0xFF, 0x16)), line)  # type: ignore[arg-type]
        serve(frame, line)  # type: ignore[arg-type]

    meter.serve = echo  # type: ignore[method-assign, assignment]
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read(d) == GOOD
        assert isinstance(d, Counts)
        assert d.counts["late_frames"] == 6


async def test_a_probe_is_one_short_exchange(bench: Bench) -> None:
    meter = bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert isinstance(d, Probes)
        assert isinstance(d, Learns)
        await d.probe("m")
        assert meter.conduct.tally.requests == 1
        bench.befall("silence")
        with pytest.raises(NoAnswer):
            await d.probe("m")
        assert meter.conduct.tally.requests == 2
        bench.befall("exception")
        bench.recover()
        await asyncio.sleep(0)
        bench.befall("exception")
        await d.probe("m")  # a refusal is a sign of life


# ---- the link ---------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_is_told_at_once(bench: Bench) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("reset")
        began = time.monotonic()
        with pytest.raises(Disconnected):
            await read(d)
        assert time.monotonic() - began < TIMEOUT
        bench.recover()
        with pytest.raises(Disconnected, match="is not connected"):
            await read(d)
        await d.connect()
        assert await read(d) == GOOD


async def test_the_first_good_value_comes_within_two_seconds_of_the_links_return(
    bench: Bench,
) -> None:
    bench.add()
    async with (
        bench.serving(),
        Wire(bench.port) as wire,
        connected(driver(m=device(wire.port))) as d,
    ):
        assert await read(d) == GOOD
        wire.cut()
        with pytest.raises(Disconnected):
            await read(d)
        wire.mend()
        began = time.monotonic()
        await d.connect()
        assert await read(d) == GOOD
        assert time.monotonic() - began < 2


async def test_a_serial_line_that_comes_back_is_read_again(bench: Bench, tmp_path: Path) -> None:
    bench.add()
    at = f"dlt645+serial://{tmp_path / 'theirs'}?parity=N&address={ADDRESS}"
    d = driver(m=made(at))
    found = []
    for _ in range(2):
        async with serial_line(tmp_path) as (ours, _theirs):
            server = Dlt645Server(bench.meters)
            try:
                server.start_serial(str(ours), 2400, "N")
                began = time.monotonic()
                await d.connect()
                found.append(await read(d))
                assert time.monotonic() - began < 2
            finally:
                await server.close()
        with pytest.raises(Disconnected):  # the converter was pulled out
            await read(d)
        await d.close()
        with pytest.raises(Disconnected, match="cannot be opened"):
            await d.connect()

    assert found == [GOOD, GOOD]


async def test_a_port_where_nobody_listens_is_told() -> None:
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1 cannot be reached"):
        await driver(m=device(1)).connect()


async def test_closing_is_possible_at_any_time(bench: Bench) -> None:
    d = driver(m=device(1))
    await d.close()
    bench.add()
    async with bench.serving():
        d = driver(m=device(bench.port))
        await d.connect()
        await d.close()
        await d.close()


# ---- a server written by others ----------------------------------------------------------------


@asynccontextmanager
async def foreign_meter() -> AsyncIterator[int]:
    """PyPI's dlt645, whose addresses are written the other way round."""
    from dlt645.model.types.dlt645_type import Demand
    from dlt645.service.serversvc.async_server_service import AsyncMeterServerService

    server = AsyncMeterServerService.new_tcp_server("127.0.0.1", 0)
    server.set_address(bytes.fromhex(ADDRESS)[::-1])
    server.set_00(0x00010000, 1234.56)
    server.set_00(0x00000000, -1234.56)
    server.set_00(0x00010200, 3.5)
    server.set_02(0x02010100, 229.7)
    server.set_02(0x02020100, 4.321)
    server.set_02(0x02030000, -3.3526)
    server.set_02(0x02060000, 0.985)
    server.set_02(0x02800002, 50.02)
    server.set_02(0x02800007, -12.5)
    from datetime import datetime

    server.set_01(0x01010000, Demand(12.3456, datetime(2026, 8, 15, 14, 30)))  # noqa: DTZ001
    assert await server.start()
    try:
        yield server.server._server.sockets[0].getsockname()[1]
    finally:
        await server.stop()


FOREIGN: Tags = {
    "energy": {"at": "di:00010000", "unit": "kWh", "kind": "counter"},
    "combined": {"at": "di:00000000", "unit": "kWh"},
    "peak": {"at": "di:00010200", "unit": "kWh"},
    "voltage": {"at": "di:02010100", "unit": "V"},
    "current": {"at": "di:02020100", "unit": "A"},
    "power": {"at": "di:02030000", "unit": "kW"},
    "factor": {"at": "di:02060000"},
    "frequency": {"at": "di:02800002", "unit": "Hz"},
    "temperature": {"at": "di:02800007", "unit": "Cel"},
    "demand": {"at": "di:01010000", "unit": "kW"},
    "when": {"at": "di:01010000.time"},
}
TRUE = [1234.56, -1234.56, 3.5, 229.7, 4.321, -3.3526, 0.985, 50.02, -12.5, 12.3456, 2608151430.0]


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("query", [f"address={ADDRESS}", ""])
async def test_a_foreign_meter_is_read_right(query: str, blocks: bool) -> None:
    async with foreign_meter() as port:
        meter = device(port, FOREIGN, query, blocks=blocks)
        async with connected(driver(m=meter)) as d:
            assert await read(d) == [(value, 0) for value in TRUE]


async def test_a_foreign_meter_refuses_blocks_and_is_read_all_the_same() -> None:
    phases: Tags = {f"v{i}": {"at": f"di:02010{i}00", "unit": "V"} for i in (1, 2, 3)}
    async with foreign_meter() as port, connected(driver(m=device(port, phases, blocks=True))) as d:
        assert (await read(d))[0] == (229.7, 0)
        assert list(d.save()["m"]) == ["201FF00"]  # type: ignore[call-overload]


# ---- the configuration ------------------------------------------------------------------------


def test_dlt645_is_registered() -> None:
    assert Dlt645Device in DRIVERS


def test_a_right_configuration_has_no_faults() -> None:
    serial = made(
        "dlt645+serial:///dev/ttyUSB0?baud=9600&parity=N&stopbits=1&bytesize=8&address=42"
    )
    plain = made("dlt645+tcp://10.0.0.9:5345?address=AAAAAAAA0042&version=2007")

    assert serial.faults() == plain.faults() == []
    assert (serial.link, serial.line.serial.baud, serial.address) == (
        "/dev/ttyUSB0", 9600, "000000000042",
    )  # fmt: skip
    assert (plain.link, plain.line.serial.parity) == (("10.0.0.9", 5345), "E")
    assert made("dlt645+serial:///dev/ttyS1").line.serial.baud == 2400


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ("dlt645+tcp://", "no device to connect to (write dlt645+tcp://192.168.1.5:5345)"),
        ("dlt645+tcp://h:0", "no device to connect to"),
        ("dlt645+serial://dev/ttyS0", "no device to connect to"),
        ("dlt645+tcp://h?address=1234567890123", "is no address of a meter"),
        ("dlt645+tcp://h?address=20230517AA42", "is no address of a meter"),
        ("dlt645+tcp://h?version=2018", "version=2018 is not possible (write 2007 or 1997)"),
        ("dlt645+tcp://h?baud=2400", 'unknown option "baud" (known: address, version)'),
        ("dlt645+serial:///dev/ttyS0?baud=2401", "baud=2401 is not possible"),
    ],
)
def test_a_wrong_address_is_named(connect: str, message: str) -> None:
    (fault,) = made(connect).faults()

    assert fault[0] == ("connect",)
    assert message in fault[1]


@pytest.mark.parametrize(
    ("tag", "key", "message"),
    [
        ({"at": "hr:0", "unit": "kWh"}, "at", "is no data identifier of DL/T 645-2007"),
        ({"at": "di:9010", "unit": "kWh"}, "at", "version=1997"),
        ({"at": "di:00010000", "unit": "kW"}, "unit", "the meter shows kWh"),
        ({"at": "di:00010000"}, "unit", "it has no unit, but the meter shows kWh"),
        ({"at": "di:02060000", "unit": "V"}, "unit", "the meter shows no unit"),
        ({"at": "di:00010000", "unit": "kWh", "type": "u32"}, "type", "leave type out"),
        ({"at": "di:00010000", "unit": "kWh", "mode": "subscribe"}, "mode", "no subscriptions"),
    ],
)
def test_a_wrong_tag_is_named(tag: dict[str, object], key: str, message: str) -> None:
    (fault,) = made("dlt645+tcp://h?address=1", {"t": tag}).faults()

    assert fault[0] == ("tags", "t", key)
    assert message in fault[1]


def test_devices_of_one_line_must_agree_on_it() -> None:
    with pytest.raises(ConfigError, match=r"n: serial is .* with m"):
        driver(
            m=made("dlt645+serial:///dev/ttyS0?baud=2400&address=1"),
            n=made("dlt645+serial:///dev/ttyS0?baud=9600&address=2"),
        )
