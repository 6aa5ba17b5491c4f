"""The CJ/T 188 driver against simulated meters."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers import DRIVERS
from edge_agent.drivers.base import Learns, Probes, TagConfig
from edge_agent.drivers.cjt188 import OTHER, Cjt188Device, Cjt188Driver
from edge_agent.errors import Disconnected, NoAnswer
from edge_agent.model import Quality
from edge_agent.units import Duration
from simulators.cjt188_server import Cjt188Meter, Cjt188Server, answer
from simulators.conduct import Line
from simulators.faults import Script, Trouble
from simulators.tables import device_table
from tests.drivers.lines import connected, group, row, serial_line, shows
from tests.drivers.lines import read as read_row
from tests.proxy import Wire

METER = "78330011223344"
TIMEOUT = 0.3


# ---- the driver -------------------------------------------------------------------------------

Tags = dict[str, dict[str, object]]
WATER: Tags = {
    "volume": {"at": "volume", "unit": "m3", "kind": "counter", "modulus": 1e6},
    "settled": {"at": "volume_settled", "unit": "m3"},
    "closed": {"at": "status.0", "kind": "state"},
    "battery": {"at": "status.2", "kind": "state"},
}
SHOWN = {
    "volume": (1234.56, "m3"), "settled": (1000.0, "m3"), "closed": (0.0, "1"),
    "battery": (1.0, "1"),
}  # fmt: skip
GOOD = [(1234.56, 0), (1000.0, 0), (0.0, 0), (1.0, 0)]
HEAT: Tags = {
    "heat": {"at": "heat", "unit": "kWh", "kind": "counter"},
    "power": {"at": "power", "unit": "kW"},
    "flow": {"at": "flow", "unit": "m3/h"},
    "volume": {"at": "volume", "unit": "m3", "kind": "counter"},
    "supply": {"at": "temperature_supply", "unit": "°C"},
    "return": {"at": "temperature_return", "unit": "°C"},
    "hours": {"at": "hours", "unit": "h"},
    "time": {"at": "time"},
}
WARM = {
    "heat": (5000.0, "kWh"), "power": (12.5, "kW"), "flow": (0.4321, "m3/h"),
    "volume": (99.5, "m3"), "supply": (61.25, "Cel"), "return": (40.5, "Cel"),
    "hours": (1234.0, "h"), "time": (20261125224500.0, "1"),
}  # fmt: skip


class Bench:
    """Meters behind one serial server, and what befalls them."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.script = Script()
        self.meters: list[Cjt188Meter] = []
        self.port = 0

    def add(
        self,
        name: str = "m",
        tags: Tags | None = None,
        shown: dict[str, tuple[float, str]] | None = None,
        query: str = f"address={METER}",
        **rest: object,
    ) -> Cjt188Meter:
        written = {"connect": f"cjt188+tcp://x?{query}", "tags": tags or WATER, **rest}
        source = shows(shown or SHOWN)
        table = device_table(name, written)
        # the simulator finds its readings by the place in the answer
        meter = Cjt188Meter(table, source, self.clock, script=self.script)
        self.meters.append(meter)
        return meter

    def befall(self, kind: str, device: str = "m", **rest: object) -> None:
        self.script.troubles.append(Trouble(device, kind, **rest))  # type: ignore[arg-type]

    def recover(self) -> None:
        self.script.troubles.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Bench"]:
        server = Cjt188Server(self.meters)
        try:
            self.port = await server.start()
            yield self
        finally:
            await server.close()


def made(connect: str, tags: Tags | None = None, **rest: object) -> Cjt188Device:
    written = {n: TagConfig(**t) for n, t in (tags or WATER).items()}  # type: ignore[arg-type]
    rest = {"timeout": Duration(TIMEOUT), "pause": Duration(0.0), "tags": written, **rest}
    return Cjt188Device(connect=connect, **rest)  # type: ignore[arg-type]


def device(
    port: int, tags: Tags | None = None, query: str = f"address={METER}", **rest: object
) -> Cjt188Device:
    return made(f"cjt188+tcp://127.0.0.1:{port}?{query}", tags, **rest)


def driver(**devices: Cjt188Device) -> Cjt188Driver:
    return Cjt188Device.build(devices, SystemClock())


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_water_meter_is_read_in_one_exchange(bench: Bench) -> None:
    meter = bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        block = await d.read(group(d, "m/raw"))

    assert row(block) == GOOD
    assert meter.reads == 1


async def test_a_water_meter_is_read_over_a_serial_line(bench: Bench, tmp_path: Path) -> None:
    bench.add()
    async with serial_line(tmp_path) as (ours, theirs):
        server = Cjt188Server(bench.meters)
        try:
            server.start_serial(str(ours))
            at = f"cjt188+serial://{theirs}?parity=N&address={METER}"
            async with connected(driver(m=made(at))) as d:
                assert await read_row(d) == GOOD
        finally:
            await server.close()


@pytest.mark.parametrize("unit_first", [False, True])
async def test_a_heat_meter_is_read_whatever_unit_it_counts_in(
    bench: Bench, unit_first: bool
) -> None:
    query = f"address={METER}&type=20"
    meter = bench.add(tags=HEAT, shown=WARM, query=query, unit_first=unit_first)
    meter.units["heat"] = "MW.h"
    async with bench.serving():
        heat = device(bench.port, HEAT, query, unit_first=unit_first)
        async with connected(driver(m=heat)) as d:
            assert await read_row(d) == [(value, 0) for value, _ in WARM.values()]


async def test_a_number_whose_unit_is_of_another_dimension_is_no_value(bench: Bench) -> None:
    query = f"address={METER}&type=20"
    meter = bench.add(tags=HEAT, shown=WARM, query=query)
    meter.units["flow"] = "kW"
    meter._read = lambda *_: lambda _t: 1.0  # type: ignore[method-assign]
    async with bench.serving(), connected(driver(m=device(bench.port, HEAT, query))) as d:
        found = await read_row(d)

    assert found[2] == (None, Quality.BAD_DEVICE)
    assert found[1] == (1.0, 0)


async def test_what_a_meter_does_not_have_is_not_available(bench: Bench) -> None:
    bench.add(tags={"volume": WATER["volume"]})
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert (await read_row(d))[:2] == [GOOD[0], (None, Quality.BAD_NOT_AVAILABLE)]


@pytest.mark.parametrize("order", ["1F90", "901F"])
async def test_the_order_of_the_identifier_is_found_out_and_kept(bench: Bench, order: str) -> None:
    meter = bench.add(query=f"address={METER}&di={order}")
    async with bench.serving():
        d = driver(m=device(bench.port))
        async with connected(d):
            for _ in range(2):
                try:
                    found = await read_row(d)
                except NoAnswer:
                    continue
            learnt = json.loads(json.dumps(d.save()))
        assert found == GOOD
        assert learnt == {"m": {"di": order}}
        d = driver(m=device(bench.port))
        d.load(learnt)
        asked = meter.conduct.tally.requests
        async with connected(d):
            assert await read_row(d) == GOOD

    assert meter.conduct.tally.requests == asked + 1


async def test_a_refusal_does_not_tell_the_order_of_the_identifier(bench: Bench) -> None:
    """A meter that refused the first order was asked in that one for ever, also after restarts."""
    meter = bench.add(query=f"address={METER}&di=901F")
    serve = meter.serve

    def strict(frame: bytes, line: Line) -> None:
        if frame[11:13] == b"\x90\x1f":
            serve(frame, line)
        else:
            line.send(answer(0x10, METER, 0xC1, frame[13:14] + b"\x01\x00"))

    meter.serve = strict  # type: ignore[method-assign]
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read_row(d) == [(None, Quality.BAD_DEVICE)] * 4
        assert d.save() == {}
        assert await read_row(d) == GOOD


async def test_a_meter_in_the_place_of_one_with_the_other_order_is_found(bench: Bench) -> None:
    """L2: what was learnt of the one before must not silence it for ever."""
    bench.add(query=f"address={METER}&di=901F")
    found = None
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert isinstance(d, Learns)
        d.load({"m": {"di": "1F90"}})
        for _ in range(OTHER):
            with suppress(NoAnswer):
                found = await read_row(d)
        assert found == GOOD
        assert d.save() == {"m": {"di": "901F"}}


@pytest.mark.parametrize("state", [{}, {"m": 5}, {"m": {"di": "1234"}}, {"n": {"di": "901F"}}])
def test_what_another_configuration_has_learnt_is_passed_over(state: dict[str, object]) -> None:
    d = driver(m=device(1))
    d.load(state)

    assert d.save() == {}


async def test_the_only_meter_of_a_line_needs_no_address(bench: Bench) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port, query=""))) as d:
        assert await read_row(d) == GOOD


async def test_a_meter_that_says_to_anybody_only_who_it_is_is_asked_by_name(bench: Bench) -> None:
    meter = bench.add()
    serve = meter.serve

    def shy(frame: bytes, line: object) -> None:
        if frame[9] == 0x03 or frame[8] != 0xAA:
            serve(frame, line)  # type: ignore[arg-type]

    meter.serve = shy  # type: ignore[method-assign, assignment]
    async with bench.serving(), connected(driver(m=device(bench.port, query=""))) as d:
        with pytest.raises(NoAnswer):
            await read_row(d)
        assert await read_row(d) == GOOD


async def test_several_meters_share_a_line(bench: Bench) -> None:
    bench.add()
    bench.add("n", tags=HEAT, shown=WARM, query="address=43&type=20")
    async with bench.serving():
        heat = device(bench.port, HEAT, "address=43&type=20")
        async with connected(driver(m=device(bench.port), n=heat)) as d:
            assert await read_row(d) == GOOD
            assert (await read_row(d, "n/raw"))[0] == (5000.0, 0)
            bench.befall("silence")
            with pytest.raises(NoAnswer):
                await read_row(d)
            assert (await read_row(d, "n/raw"))[0] == (5000.0, 0)


# ---- trouble ----------------------------------------------------------------------------------


async def test_a_late_answer_is_never_taken_for_the_next_one(bench: Bench) -> None:
    """L3, peers 22 and 23: the running number tells one answer from the next."""
    meter = bench.add(shown={**SHOWN, "volume": (0.0, "m3")})
    meter._read = lambda *_: lambda _t: float(meter.conduct.tally.requests)  # type: ignore[method-assign]
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert (await read_row(d))[0] == (1.0, 0)
        bench.befall("late-by-one")
        for _ in range(4):
            with pytest.raises(NoAnswer):
                await read_row(d)
        bench.recover()
        assert (await read_row(d))[0] == (6.0, 0)


async def test_a_meter_that_repeats_no_running_number_is_read_all_the_same(bench: Bench) -> None:
    meter = bench.add()
    serve = meter.serve

    def careless(frame: bytes, line: object) -> None:
        changed = frame[:13] + b"\x00"
        serve(changed + bytes((sum(changed) & 0xFF, 0x16)), line)  # type: ignore[arg-type]

    meter.serve = careless  # type: ignore[method-assign, assignment]
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read_row(d) == GOOD


@pytest.mark.parametrize("kind", ["corrupt", "garbage", "short", "poison"])
async def test_a_spoiled_answer_is_never_a_good_value(bench: Bench, kind: str) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read_row(d) == GOOD
        bench.befall(kind, at="hr:0")
        for i in range(6):
            try:
                found = await read_row(d)
            except NoAnswer:
                continue
            assert (kind == "poison" and i == 0) or all(q >= Quality.BAD for _, q in found)
        bench.recover()
        if kind == "poison":
            await read_row(d)  # what was strewn comes with the next answer
        assert await read_row(d) == GOOD


async def test_a_refusal_and_a_silence_are_told_apart(bench: Bench) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("busy")
        assert await read_row(d) == [(None, Quality.BAD_DEVICE)] * 4
        bench.recover()
        bench.befall("silence")
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="m: no answer"):
            await read_row(d)
        assert time.monotonic() - began < 3 * TIMEOUT


async def test_a_probe_is_one_exchange(bench: Bench) -> None:
    meter = bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert isinstance(d, Probes)
        assert isinstance(d, Learns)
        await d.probe("m")
        assert meter.conduct.tally.requests == 1
        bench.befall("silence")
        with pytest.raises(NoAnswer):
            await d.probe("m")


async def test_the_first_good_value_comes_within_two_seconds_of_the_links_return(
    bench: Bench,
) -> None:
    bench.add()
    async with (
        bench.serving(),
        Wire(bench.port) as wire,
        connected(driver(m=device(wire.port))) as d,
    ):
        assert await read_row(d) == GOOD
        wire.cut()
        with pytest.raises(Disconnected):
            await read_row(d)
        await asyncio.sleep(0.1)
        wire.mend()
        began = time.monotonic()
        await d.connect()
        assert await read_row(d) == GOOD
        assert time.monotonic() - began < 2


# ---- the configuration ------------------------------------------------------------------------


def test_cjt188_is_registered() -> None:
    assert Cjt188Device in DRIVERS


def test_a_right_configuration_has_no_faults() -> None:
    heat = made("cjt188+serial:///dev/ttyUSB0?address=AA330011223344&type=21&di=901F", HEAT)
    water = made("cjt188+tcp://10.0.0.9")

    assert heat.faults() == water.faults() == []
    assert (heat.type, heat.category, heat.line.serial.baud) == (0x21, "heat", 2400)
    assert (water.type, water.address) == (0x10, "A" * 14)


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ("cjt188+tcp://", "no device to connect to"),
        ("cjt188+tcp://h?address=7833001122334455", "is no address of a meter"),
        ("cjt188+tcp://h?address=12-3", "is no address of a meter"),
        ("cjt188+tcp://h?type=40", "type=40 is not possible (write 10 to 19 for water"),
        ("cjt188+tcp://h?type=1A", "type=1A is not possible"),
        ("cjt188+tcp://h?di=1234", "di=1234 is not possible (write 1F90 or 901F)"),
        ("cjt188+tcp://h?unit=1", 'unknown option "unit" (known: address, di, type)'),
    ],
)
def test_a_wrong_address_is_named(connect: str, message: str) -> None:
    (fault,) = made(connect).faults()

    assert fault[0] == ("connect",)
    assert message in fault[1]


@pytest.mark.parametrize(
    ("tag", "key", "message"),
    [
        ({"at": "heat", "unit": "kWh"}, "at", "is nothing that a water meter shows"),
        ({"at": "volume", "unit": "kWh"}, "unit", "the meter shows m3"),
        ({"at": "volume", "unit": "m3", "type": "u32"}, "type", "leave type out"),
        ({"at": "status", "mode": "subscribe"}, "mode", "CJ/T 188 knows no subscriptions"),
    ],
)
def test_a_wrong_tag_is_named(tag: dict[str, object], key: str, message: str) -> None:
    (fault,) = made("cjt188+tcp://h", {"t": tag}).faults()

    assert fault[0] == ("tags", "t", key)
    assert message in fault[1]
