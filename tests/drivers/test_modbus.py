"""The Modbus driver against real servers on loopback, honest and faulty ones."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from edge_agent.clock import SECOND, SystemClock, VirtualClock
from edge_agent.config import load
from edge_agent.drivers import DRIVERS
from edge_agent.drivers.base import FlagConfig, Group, PollClasses, TagConfig
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_driver import ModbusDriver
from edge_agent.errors import ConfigError, Disconnected, NoAnswer
from edge_agent.model import Quality, SampleBlock
from edge_agent.units import Duration
from tests.drivers.modbus_meter import Meter

TIMEOUT = 0.25


def tags(**written: str) -> dict[str, TagConfig]:
    return {name: TagConfig(at=at) for name, at in written.items()}


def device(connect: str, **rest: object) -> ModbusDevice:
    rest = {"timeout": Duration(TIMEOUT), "tags": tags(a="hr:0", b="hr:1"), **rest}
    return ModbusDevice(connect=connect, **rest)  # type: ignore[arg-type]  # the tests' short form


@asynccontextmanager
async def driving(devices: Mapping[str, ModbusDevice]) -> AsyncIterator[ModbusDriver]:
    driver = ModbusDevice.build(devices, SystemClock())
    await driver.connect()
    try:
        yield driver
    finally:
        await driver.close()


def at(meter: Meter, unit: int = 1) -> str:
    scheme = "modbus+tcp" if meter.framing == "tcp" else "modbus+rtu-over-tcp"
    return f"{scheme}://127.0.0.1:{meter.port}?unit={unit}"


async def read(driver: ModbusDriver, stream: str = "m/raw") -> SampleBlock:
    block = await driver.read(group(driver, stream))
    assert block.lawful()
    return block


def group(driver: ModbusDriver, stream: str) -> Group:
    return next(g for g in driver.groups if g.schema.stream == stream)


def row(block: SampleBlock) -> list[tuple[float | None, int]]:
    values = (None if np.isnan(v) else float(v) for v in block.value[:, 0])
    return list(zip(values, block.quality[:, 0].tolist(), strict=True))


GOOD = [(1000.0, 0), (1001.0, 0)]


# ---- the normal path --------------------------------------------------------------------------


@asynccontextmanager
async def pymodbus_server(unit: int = 1) -> AsyncIterator[int]:
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    coils = [SimData(0, values=[True, False, True, True] * 4, datatype=DataType.BITS)]
    inputs = [SimData(0, values=[7, 8, 9], datatype=DataType.REGISTERS)]
    holdings = [SimData(0, values=[0x4247, 0xEB85, 12, 0x8000], datatype=DataType.REGISTERS)]
    server = ModbusTcpServer(
        SimDevice(unit, simdata=(coils, coils, holdings, inputs)), address=("127.0.0.1", 0)
    )
    await server.serve_forever(background=True)
    try:
        yield server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # a server
    finally:
        await server.shutdown()


async def test_a_foreign_server_is_read_from_all_four_tables() -> None:
    wanted = {
        "frequency": TagConfig(at="40001", type="f32", unit="Hz"),
        "count": TagConfig(at="hr:2", scale=0.1),
        "below": TagConfig(at="hr:3", type="i16"),
        "bit": TagConfig(at="hr:3.15"),
        "input": TagConfig(at="30002"),
        "on": TagConfig(at="co:0"),
        "off": TagConfig(at="di:1"),
    }
    async with pymodbus_server() as port:
        meter = device(f"modbus+tcp://127.0.0.1:{port}", tags=wanted)
        async with driving({"m": meter}) as driver:
            before = time.time_ns()
            block = await read(driver)

    assert block.value[:, 0].tolist() == pytest.approx([49.98, 1.2, -32768, 1, 8, 1, 0], rel=1e-7)
    assert not block.quality.any()
    assert before <= block.time[0] <= time.time_ns()


async def test_the_bits_of_the_library_s_own_server_come_in_the_standard_s_order() -> None:
    """L8, peers 55: pymodbus turned the order of bits round in 3.10 and back in 3.11."""
    coils = {f"b{i}": TagConfig(at=f"co:{i}") for i in range(16)}
    async with (
        pymodbus_server() as port,
        driving({"m": device(f"modbus+tcp://127.0.0.1:{port}", tags=coils)}) as driver,
    ):
        block = await read(driver)

    assert block.value[:, 0].tolist() == [1, 0, 1, 1] * 4
    assert metadata.version("pymodbus").startswith("3.")  # its server is the witness here


async def test_every_stream_of_every_unit_of_a_link_is_read_over_one_connection() -> None:
    poll = PollClasses(fast=Duration(1.0), slow=Duration(60.0))
    wanted = tags(a="hr:0", b="hr:1") | {"c": TagConfig(at="ir:5", class_="slow")}
    async with Meter() as meter:
        devices = {f"m{u}": device(at(meter, u), tags=wanted, poll=poll) for u in (1, 2)}
        async with driving(devices) as driver:
            rows = {g.schema.stream: row(await driver.read(g)) for g in driver.groups}

    assert {g.schema.stream: g.period for g in driver.groups} == {
        "m1/raw": 1.0, "m1/raw.slow": 60.0, "m2/raw": 1.0, "m2/raw.slow": 60.0,
    }  # fmt: skip
    assert rows["m1/raw"] == GOOD
    assert rows["m2/raw"] == [(2000.0, 0), (2001.0, 0)]
    assert rows["m2/raw.slow"] == [(2005.0, 0)]
    assert meter.connections == 1
    assert meter.asked[-1] == (2, 4, 5, 1)


async def test_a_row_is_stamped_midway_between_first_request_and_last_answer() -> None:
    class Ticking(VirtualClock):
        """One second passes between any two looks at it."""

        def wall_ns(self) -> int:
            self.now_ns += 1_000_000_000
            return self.now_ns

    async with Meter() as meter:
        clock = Ticking(now_ns=0)
        driver = ModbusDevice.build({"m": device(at(meter))}, clock)
        await driver.connect()
        try:
            block = await driver.read(driver.groups[0])
        finally:
            await driver.close()

    assert block.time.tolist() == [500_000_000]  # it began at 0 s and was over at 1 s


async def test_a_step_of_the_box_s_clock_while_a_device_is_asked_is_not_halved() -> None:
    """L7, peers 50: the clock is set right by a year when the network comes."""
    year = 31_536_000 * SECOND

    class SetRight(VirtualClock):
        def wall_ns(self) -> int:
            return self.now_ns + (year if meter.asked else 0)

    async with Meter() as meter:
        driver = ModbusDevice.build({"m": device(at(meter))}, SetRight(now_ns=0))
        await driver.connect()
        try:
            block = await driver.read(driver.groups[0])
        finally:
            await driver.close()

    assert block.time.tolist() == [year]


async def test_an_answer_in_two_parts_is_one_answer() -> None:
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = ["in two parts"]

        assert row(await read(driver)) == GOOD


async def test_a_device_is_given_its_pause_between_requests() -> None:
    async with Meter() as meter:
        slow = device(at(meter), tags=tags(a="hr:0", b="hr:9", c="hr:20"), pause=Duration(0.05))
        async with driving({"m": slow}) as driver:
            began = time.monotonic()
            await read(driver)
            took = time.monotonic() - began

    assert len(meter.asked) == 3
    assert 0.1 <= took < 0.5


async def test_a_flag_that_is_not_normal_marks_all_values_of_its_row_but_bad_ones() -> None:
    flag = FlagConfig(tag="b", normal=(0,), maintenance=(1001,))
    span_gas = TagConfig(at="hr:2", range=(0.0, 100.0))  # 1002: a calibration is out of range
    async with Meter() as meter:
        read_out = tags(a="hr:0", b="hr:1", c=f"hr:{600}") | {"d": span_gas}
        analyser = device(at(meter), tags=read_out, flag=flag)
        async with driving({"m": analyser}) as driver:
            found = row(await read(driver))

    assert found == [
        (1000.0, Quality.UNCERTAIN_FLAGGED), (1001.0, Quality.GOOD), (None, Quality.BAD_ADDRESS),
        (1002.0, Quality.UNCERTAIN_FLAGGED),
    ]  # fmt: skip


# ---- wrong answers ----------------------------------------------------------------------------


async def test_a_refused_request_spoils_only_its_own_columns() -> None:
    async with Meter() as meter:
        holed = device(at(meter), tags=tags(a="hr:0", hole="hr:600", b="ir:1"))
        async with driving({"m": holed}) as driver:
            found = row(await read(driver))

    assert found == [(1000.0, 0), (None, Quality.BAD_ADDRESS), (1001.0, 0)]


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
@pytest.mark.parametrize("word", ["short", "empty"])
async def test_a_short_reply_is_never_a_good_value(framing: str, word: str) -> None:
    async with Meter(framing) as meter:
        both = device(at(meter), tags=tags(a="hr:0", b="hr:1", c="hr:50"))
        async with driving({"m": both}) as driver:
            meter.script = [word]
            found, after = row(await read(driver)), row(await read(driver))

    assert found == [(None, Quality.BAD_SHORT), (None, Quality.BAD_SHORT), (1050.0, 0)]
    assert after == [*GOOD, (1050.0, 0)]


async def test_a_short_reply_of_bits_is_never_a_good_value() -> None:
    bits = {f"b{i}": TagConfig(at=f"co:{i}") for i in range(20)}
    async with Meter() as meter, driving({"m": device(at(meter), tags=bits)}) as driver:
        meter.script = ["short"]
        short, good = await read(driver), await read(driver)

    assert (short.quality == Quality.BAD_SHORT).all()
    assert good.value[:, 0].tolist() == [float(i % 3 == 0) for i in range(20)]


@pytest.mark.parametrize("word", ["lying", "unknown function", "other function"])
async def test_an_answer_that_makes_no_sense_costs_its_columns_but_not_the_connection(
    word: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Meter() as meter:
        both = device(at(meter), tags=tags(a="hr:0", b="ir:1"))
        async with driving({"m": both}) as driver:
            meter.script = ["good", word]
            found, after = row(await read(driver)), row(await read(driver))

    assert found == [(1000.0, 0), (None, Quality.BAD_SHORT)]
    assert after == GOOD
    assert meter.connections == 1
    assert not caplog.records


@pytest.mark.parametrize("word", ["silent", "other unit", "other transaction", "no transaction"])
async def test_what_is_not_its_answer_is_no_answer_and_the_link_lives(word: str) -> None:
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = [word]
        with pytest.raises(NoAnswer, match=r"^m: "):
            await read(driver)

        assert row(await read(driver)) == GOOD
        assert meter.connections == 1


async def test_garbage_is_no_answer_and_is_forgotten() -> None:
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = ["garbage"]
        with pytest.raises(NoAnswer):
            await read(driver)

        assert row(await read(driver)) == GOOD


@pytest.mark.parametrize("code", [10, 11])
async def test_a_gateway_that_has_no_answer_from_the_unit_is_the_unit_s_silence(code: int) -> None:
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = [f"exception {code}"]

        with pytest.raises(NoAnswer, match="gateway"):
            await read(driver)


async def test_a_silent_unit_costs_the_others_of_its_line_one_time_out() -> None:
    async with Meter("rtu") as meter:
        meter.silent_units = {1}
        async with driving({f"m{u}": device(at(meter, u)) for u in (1, 2)}) as driver:
            began = time.monotonic()
            with pytest.raises(NoAnswer):
                await read(driver, "m1/raw")
            with pytest.raises(NoAnswer):  # not asked while its late answer may come
                await read(driver, "m1/raw")
            found = row(await read(driver, "m2/raw"))
            took = time.monotonic() - began

    assert found == [(2000.0, 0), (2001.0, 0)]
    assert TIMEOUT <= took < 2 * TIMEOUT
    assert [unit for unit, *_ in meter.asked] == [1, 2]


async def test_over_tcp_a_late_answer_is_never_taken_for_the_next_one() -> None:
    """The meter is one answer behind: every answer is that to the request before."""
    wanted = tags(a="hr:0", b="hr:10", c="hr:20")  # three requests of one register each
    async with Meter() as meter, driving({"m": device(at(meter), tags=wanted)}) as driver:
        meter.script = ["behind"] * 4
        for _ in range(4):
            with pytest.raises(NoAnswer):
                await read(driver)

        assert row(await read(driver)) == [(1000.0, 0), (1010.0, 0), (1020.0, 0)]
        assert meter.connections == 1


@pytest.mark.parametrize("late", [1.2, 1.9, 2.8])
async def test_over_rtu_a_late_answer_is_never_taken_for_the_next_one(late: float) -> None:
    """All requests have the same shape, so only the time tells whose an answer is."""
    wanted = tags(a="hr:0", b="hr:10", c="hr:20")
    async with (
        Meter("rtu", late=late * TIMEOUT) as meter,
        driving({"m": device(at(meter), tags=wanted)}) as driver,
    ):
        meter.script = ["good", "late"]
        silences, found = 0, None
        while found is None:
            try:
                found = row(await read(driver))
            except NoAnswer:
                silences += 1
                await asyncio.sleep(TIMEOUT / 10)

    assert found == [(1000.0, 0), (1010.0, 0), (1020.0, 0)]
    assert silences >= 1  # once the late answer has come, it is asked again


async def test_a_late_answer_that_was_no_longer_awaited_is_not_taken_after_a_reconnect() -> None:
    """A converter hands what the line says to whoever is connected."""
    async with (
        Meter("rtu", late=1.5 * TIMEOUT) as meter,
        driving({"m": device(at(meter))}) as driver,
    ):
        meter.script = ["late"]
        with pytest.raises(NoAnswer):
            await read(driver)
        await driver.close()
        await driver.connect()

        with pytest.raises(NoAnswer, match="late one"):
            await read(driver)
        await asyncio.sleep(2 * TIMEOUT)

        assert row(await read(driver)) == GOOD


# ---- the link ---------------------------------------------------------------------------------


async def test_a_reset_connection_is_a_lost_link_at_once() -> None:
    async with (
        Meter() as meter,
        driving({"m": device(at(meter), timeout=Duration(5.0))}) as driver,
    ):
        meter.script = ["good", "reset"]
        assert row(await read(driver)) == GOOD
        began = time.monotonic()
        with pytest.raises(Disconnected):
            await read(driver)
        assert time.monotonic() - began < 1

        with pytest.raises(Disconnected):
            await read(driver)
        await driver.connect()
        assert row(await read(driver)) == GOOD


async def test_many_silences_do_not_close_a_living_connection() -> None:
    async with (
        Meter() as meter,
        driving({"m": device(at(meter), timeout=Duration(0.02))}) as driver,
    ):
        meter.script = ["silent"] * 12
        for _ in range(12):
            with pytest.raises(NoAnswer):
                await read(driver)

        assert row(await read(driver)) == GOOD
        assert meter.connections == 1


async def test_a_refused_connection_is_a_lost_link() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        driver = ModbusDevice.build(
            {"m": device(f"modbus+tcp://127.0.0.1:{unused.getsockname()[1]}")}, SystemClock()
        )

        with pytest.raises(Disconnected, match=r"127.0.0.1:\d+ cannot be opened"):
            await driver.connect()
        await driver.close()


async def test_a_connect_without_any_answer_takes_at_most_a_second() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):  # a full queue: the kernel does not answer further connects
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        driver = ModbusDevice.build(
            {"m": device(f"modbus+tcp://127.0.0.1:{full.getsockname()[1]}")}, SystemClock()
        )
        began = time.monotonic()
        try:
            with pytest.raises(Disconnected):
                await driver.connect()
        finally:
            await driver.close()
            for filler in fillers:
                filler.close()

    assert 0.7 <= time.monotonic() - began < 1.0


async def test_a_driver_may_be_closed_at_any_time() -> None:
    async with Meter() as meter:
        driver = ModbusDevice.build({"m": device(at(meter))}, SystemClock())
        await driver.close()
        with pytest.raises(Disconnected):
            await read(driver)
        await driver.connect()
        await driver.close()
        await driver.close()


async def test_silence_is_not_written_to_the_log_by_the_library(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
            meter.script = ["silent", "other unit", "garbage"]
            for _ in range(3):
                with pytest.raises(NoAnswer):
                    await read(driver)

    assert [r for r in caplog.records if r.name.startswith(("pymodbus", "asyncio"))] == []


async def test_a_serial_line_is_read(tmp_path: Path) -> None:
    """A pseudo-terminal pair stands for the wire; the other end is a meter behind a converter."""
    wire = tmp_path / "ttyM0"
    async with Meter("rtu") as meter:
        meter.silent_units = {7}
        process = await asyncio.create_subprocess_exec(
            "socat", f"pty,raw,echo=0,link={wire}", f"tcp:127.0.0.1:{meter.port}"
        )
        try:
            async with asyncio.timeout(5):
                while not wire.exists():  # noqa: ASYNC110  another process makes it
                    await asyncio.sleep(0.01)
            serial = f"modbus+rtu://{wire}?baud=115200&parity=N"
            units = {f"m{u}": device(f"{serial}&unit={u}", timeout=Duration(0.3)) for u in (3, 7)}
            async with driving(units) as driver:
                first = row(await read(driver, "m3/raw"))
                with pytest.raises(NoAnswer):
                    await read(driver, "m7/raw")
                again = row(await read(driver, "m3/raw"))
                process.terminate()
                await process.wait()
                with pytest.raises(Disconnected):
                    await read(driver, "m3/raw")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert first == again == [(3000.0, 0), (3001.0, 0)]


# ---- the configuration ------------------------------------------------------------------------


def test_modbus_is_registered() -> None:
    assert ModbusDevice in DRIVERS
    assert ModbusDevice.schemes == ("modbus+tcp", "modbus+rtu", "modbus+rtu-over-tcp")


def test_a_right_configuration_has_no_faults() -> None:
    plain = device("modbus+tcp://10.0.0.5:502?unit=255")
    serial = device("modbus+rtu:///dev/ttyS0?baud=2400&parity=E&stopbits=2&bytesize=8&unit=247")

    assert plain.faults() == serial.faults() == []
    assert (plain.link, plain.unit) == (("10.0.0.5", 502), 255)
    assert (serial.link, serial.unit, serial.line.baud) == ("/dev/ttyS0", 247, 2400)
    assert device("modbus+tcp://plc").link == ("plc", 502)


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ("modbus+tcp://", "no device to connect to"),
        ("modbus+tcp://host:0", "no device to connect to"),
        ("modbus+tcp://host:99999", "a port is a number"),
        ("modbus+tcp://host/1", "means nothing"),
        ("modbus+tcp://host?unit=256", "a unit is a number from 0 to 255"),
        ("modbus+tcp://host?unit=one", "a unit is a number"),
        ("modbus+rtu:///dev/ttyS0?unit=0", "a unit is a number from 1 to 247"),
        ("modbus+rtu-over-tcp://host?unit=248", "a unit is a number from 1 to 247"),
        ("modbus+tcp://host?slave=1", 'unknown option "slave" (known: unit)'),
        ("modbus+tcp://host?baud=9600", 'unknown option "baud"'),
        ("modbus+rtu:///dev/ttyS0?baud=9601", "baud=9601 is not possible"),
        ("modbus+rtu:///dev/ttyS0?parity=even", "parity=even is not possible (one of E N O)"),
        ("modbus+rtu://dev/ttyS0", "no device to connect to (write modbus+rtu:///dev/ttyUSB0)"),
    ],
)
def test_a_wrong_link_is_named(connect: str, message: str) -> None:
    (fault,) = device(connect).faults()

    assert fault[0] == ("connect",)
    assert message in fault[1]


@pytest.mark.parametrize(
    ("tag", "key", "message"),
    [
        (TagConfig(at="x"), "at", "not a Modbus address"),
        (TagConfig(at="hr:65535", type="u32"), "at", "past address 65535"),
        (TagConfig(at="hr:0", type="u64"), "type", "u64 needs 4 registers, max_registers is 3"),
        (TagConfig(at="co:0", type="u16"), "type", "its type is bool, not u16"),
        (TagConfig(at="hr:0.1", type="u16"), "type", "its type is bool, not u16"),
        (TagConfig(at="hr:9", type="u32"), "at", "lies in none of the sections"),
        (TagConfig(at="hr:0", mode="subscribe"), "mode", "no subscriptions"),
        (TagConfig(at="hr:0", invalid=(65536,)), "invalid", "65536 is no number that u16 can hold"),
        (TagConfig(at="hr:0", type="bcd16", invalid=(65535,)), "invalid", "that bcd16 can hold"),
        (TagConfig(at="hr:0", type="m10k48", invalid=(10**12,)), "invalid", "that m10k48 can hold"),
        (TagConfig(at="hr:0", type="f32", invalid=(10**39,)), "invalid", "that f32 can hold"),
        (TagConfig(at="hr:0", range=(5.0, 1.0)), "range", "a range is [low, high]"),
    ],
)
def test_a_wrong_tag_is_named(tag: TagConfig, key: str, message: str) -> None:
    wrong = device(
        "modbus+tcp://h", tags={"t": tag}, max_registers=3, sections=((0, 9), (10, 65535))
    )

    (fault,) = wrong.faults()

    assert fault[0] == ("tags", "t", key)
    assert message in fault[1]


def test_a_section_that_ends_before_it_begins_is_named() -> None:
    wrong = device("modbus+tcp://h", tags={}, sections=((0, 9), (20, 10)))

    assert [path for path, _ in wrong.faults()] == [("sections", 1)]


def test_devices_of_one_line_must_agree_on_it() -> None:
    devices = {
        "m1": device("modbus+rtu:///dev/ttyS0?baud=9600&unit=1"),
        "m2": device("modbus+rtu:///dev/ttyS0?baud=2400&unit=2"),
    }

    with pytest.raises(ConfigError, match=r"m2: baud is 2400 here and 9600 there .* with m1"):
        ModbusDevice.build(devices, SystemClock())


def test_time_out_and_pause_may_differ_on_a_link(tmp_path: Path) -> None:
    """L1, peers 6: they are properties of the device, not of the line."""
    path = tmp_path / "plant.yaml"
    link = "modbus+rtu:///dev/ttyS0?baud=9600"
    meters = "".join(
        f"  m{i}: {{connect: '{link}&unit={i}', tags: {{a: {{at: hr:0}}}}{keys}}}\n"
        for i, keys in enumerate(["", ", timeout: 3s", ", pause: 25ms, max_registers: 8"], 1)
    )
    path.write_text(f"site: {{id: a}}\ndevices:\n{meters}")

    devices = load(path, env={}).devices

    assert [devices[f"m{i}"].timeout for i in (1, 2, 3)] == [1.0, 3.0, 1.0]
    ModbusDevice.build({name: devices[name] for name in devices}, SystemClock())
