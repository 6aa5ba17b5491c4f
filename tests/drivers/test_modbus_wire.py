"""The wire under the Modbus driver: late, lost and foreign frames; time-outs; nothing left behind.

The lessons of other collectors are named by their number in the study of peers.
"""

import asyncio
import gc
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_driver import ModbusDriver
from edge_agent.drivers.modbus_plan import Request
from edge_agent.drivers.modbus_wire import Manners, Refused, Wire
from edge_agent.errors import Disconnected, NoAnswer
from edge_agent.model import Quality
from edge_agent.units import Duration
from tests.drivers import test_modbus
from tests.drivers.lines import serial_line
from tests.drivers.modbus_meter import Meter
from tests.drivers.test_modbus import at, device, driving, group, read, row, tags

GOOD = [(1000.0, 0), (1001.0, 0)]
PATIENT = Duration(2.0)  # long enough for a second try


async def known(driver: ModbusDriver, *streams: str) -> None:
    """Read until the round trips of the units are known."""
    for _ in range(3):
        for stream in streams or ("m/raw",):
            await read(driver, stream)


# ---- what else is on the line ------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    ["amid noise", "amid others", "amid broadcasts", "amid its echo", "byte by byte"],
)
async def test_what_else_is_on_an_rtu_line_costs_no_value_and_no_time(word: str) -> None:
    """L1, peers 7: a broadcast on the line must not cut the port; nor may anything else."""
    async with Meter("rtu") as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = [word] * 5
        began = time.monotonic()
        rows = [row(await read(driver)) for _ in range(5)]
        took = time.monotonic() - began

    assert rows == [GOOD] * 5
    assert took < 0.25  # no time-out
    assert driver.counts["retries"] == 0
    assert (driver.counts["late_frames"] > 0) == (word in {"amid others", "amid broadcasts"})
    assert (driver.counts["corrupt_frames"] > 0) == (word == "amid noise")


async def test_a_corrupt_frame_is_counted_and_asked_for_again() -> None:
    async with Meter("rtu") as meter, driving({"m": device(at(meter), timeout=PATIENT)}) as driver:
        await known(driver)
        meter.script = ["corrupt"]

        assert row(await read(driver)) == GOOD
        assert driver.counts == {
            "corrupt_frames": 1, "retries": 1, "late_frames": 0, "renewals": 0,
        }  # fmt: skip


async def test_corrupt_frames_only_spoil_the_request_not_the_unit() -> None:
    """L1, peers 10: only silence fails fast; a unit whose checksum is wrong is there."""
    wanted = tags(a="hr:0", b="ir:1")
    async with Meter("rtu") as meter, driving({"m": device(at(meter), tags=wanted)}) as driver:
        meter.script = ["corrupt", "good"]

        assert row(await read(driver)) == [(None, Quality.BAD_SHORT), (1001.0, 0)]
        assert driver.counts["corrupt_frames"] == 1


async def test_a_late_answer_of_another_unit_does_not_fail_the_one_that_is_asked() -> None:
    """L3, peers 22: unit 1 answers while unit 2 is asked."""
    async with Meter("rtu", late=0.3) as meter:
        units = {f"m{u}": device(at(meter, u), timeout=Duration(0.25)) for u in (1, 2)}
        async with driving(units) as driver:
            meter.script = ["late", "late"]
            with pytest.raises(NoAnswer, match=r"^m1: "):
                await read(driver, "m1/raw")
            meter.late = 0.1
            found = row(await read(driver, "m2/raw"))

    assert found == [(2000.0, 0), (2001.0, 0)]
    assert driver.counts["late_frames"] == 1


# ---- late answers ------------------------------------------------------------------------------


async def test_over_rtu_a_request_of_another_length_tells_a_late_answer_by_it() -> None:
    """L3, peers 23: what the unit says late is passed over, and it need not be left alone."""
    every = tags(a="hr:0", b="hr:1", c="hr:2") | {"d": TagConfig(at="hr:3", poll=Duration(5.0))}
    async with (
        Meter("rtu", late=0.3) as meter,
        driving({"m": device(at(meter), tags=every, timeout=Duration(0.2))}) as driver,
    ):
        meter.script = ["late", "late"]
        with pytest.raises(NoAnswer):
            await read(driver)
        meter.late = 0.15  # both answers come while the second is awaited

        assert row(await read(driver, "m/raw.5s")) == [(1003.0, 0)]
        assert row(await read(driver)) == [(1000.0, 0), (1001.0, 0), (1002.0, 0)]
        assert driver.counts["late_frames"] == 1


async def test_over_rtu_a_late_exception_is_not_taken_for_the_next_one() -> None:
    """L3, peers 23: an exception has no length by which to tell it from another."""
    every = tags(a="hr:0", b="hr:1") | {"c": TagConfig(at="hr:3", poll=Duration(5.0))}
    async with (
        Meter("rtu") as meter,
        driving({"m": device(at(meter), tags=every, timeout=Duration(0.2))}) as driver,
    ):
        meter.script = ["silent", "exception 2"]  # the second answers the question whose it is
        with pytest.raises(NoAnswer):
            await read(driver)

        assert row(await read(driver, "m/raw.5s")) == [(1003.0, 0)]
        meter.script = ["exception 2"]
        assert row(await read(driver, "m/raw.5s")) == [(None, Quality.BAD_ADDRESS)]


# without and with a second try
@pytest.mark.parametrize(("framing", "bound"), [("tcp", 0.1), ("rtu", 0.1), ("rtu", 0.5)])
@pytest.mark.parametrize("counts", [(1,), (3, 2)])
async def test_a_device_that_is_one_answer_behind_never_shows_an_old_value(
    framing: str, bound: float, counts: tuple[int, ...]
) -> None:
    """L3, peers 22, 23: the answer to a request comes when the next one is asked."""
    requests = [Request(Table.HOLDING_REGISTERS, 10 * i, n, 0, ()) for i, n in enumerate(counts)]
    good = old = 0
    async with Meter(framing) as meter:
        wire = Wire(device(at(meter)).line, {1: Manners(bound, 0.0)})
        await wire.open()
        try:
            for turn in range(9):
                meter.script = ["behind"] * 100 if 2 <= turn < 6 else []
                for i, request in enumerate(requests):
                    meter.more += 7  # every answer can be told from every other
                    try:
                        answer = await wire.ask(1, request)
                    except TimeoutError:
                        with suppress(TimeoutError):
                            await wire.probe(1, requests[0])
                        continue
                    if not isinstance(answer, Refused):
                        good += turn >= 6
                        old += answer[0] != 1000 + 10 * i + meter.more
                await asyncio.sleep(bound / 4)
        finally:
            await wire.close()

    assert old == 0
    assert good > 0


async def test_a_unit_that_knows_requests_of_one_length_only_is_read_again_after_a_silence() -> (
    None
):
    """L3, peers 20, 23: nothing tells its answers apart, and it says nothing to other lengths."""
    bound = Duration(0.1)
    async with (
        Meter("rtu") as meter,
        driving({"m": device(at(meter), tags=tags(a="hr:0"), timeout=bound)}) as driver,
    ):
        await known(driver)
        meter.patient = 1
        meter.script = ["silent", "silent"]
        found = None
        for _ in range(8):
            try:
                found = row(await read(driver))
            except NoAnswer:
                await asyncio.sleep(2 * bound)
                with suppress(NoAnswer):
                    await driver.probe("m")

    assert found == [(1000.0, 0)]


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_lost_answer_costs_no_row(framing: str) -> None:
    async with (
        Meter(framing) as meter,
        driving({"m": device(at(meter), timeout=PATIENT)}) as driver,
    ):
        await known(driver)
        meter.script = ["silent"]
        began = time.monotonic()
        found = row(await read(driver))
        took = time.monotonic() - began

        assert found == GOOD
        assert took < 1.5
        assert driver.counts["retries"] == 1
        assert len(meter.asked) == 5


async def test_after_a_second_try_the_other_answer_is_not_taken_for_the_next() -> None:
    """L3, peers 22: both requests are answered, the first one late; the next has the same shape."""
    wanted = tags(a="hr:0", b="hr:10", c="hr:20")
    async with (
        Meter("rtu", late=0.35) as meter,
        driving({"m": device(at(meter), tags=wanted, timeout=PATIENT)}) as driver,
    ):
        await known(driver)
        for _ in range(3):
            meter.script = ["late", "late"]
            assert row(await read(driver)) == [(1000.0, 0), (1010.0, 0), (1020.0, 0)]

        assert driver.counts["retries"] >= 1  # the later ones are no surprise any more


# ---- time-outs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_time_outs_may_be_far_below_a_second(framing: str) -> None:
    """L2, peers 19."""
    quick = Duration(0.03)
    async with Meter(framing) as meter, driving({"m": device(at(meter), timeout=quick)}) as driver:
        meter.script = ["silent"]
        began = time.monotonic()
        with pytest.raises(NoAnswer):
            await read(driver)

        assert 0.03 <= time.monotonic() - began < 0.2


async def test_a_dead_unit_is_given_up_at_the_first_silence() -> None:
    """L1, peers 10: neither its other requests nor second tries keep the line from the others."""
    wanted = tags(a="hr:0", b="hr:100", c="ir:0", d="ir:100")
    async with Meter("rtu") as meter:
        units = {f"m{u}": device(at(meter, u), tags=wanted, timeout=Duration(5.0)) for u in (1, 2)}
        async with driving(units) as driver:
            await known(driver, "m1/raw", "m2/raw")
            meter.silent_units, meter.asked = {1}, []
            took = []
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(NoAnswer):
                    await read(driver, "m1/raw")
                took.append(time.monotonic() - began)
            await read(driver, "m2/raw")

    assert took[0] < 1.5  # of a configured 5 s
    assert [unit for unit, *_ in meter.asked] == [1, 1] + [2] * 4


async def test_a_gateway_that_waits_for_a_dead_unit_costs_the_next_one_no_value() -> None:
    """L1, peers 4: what is asked next stands behind the dead unit's request in the gateway."""
    async with Meter() as meter:
        units = {f"m{u}": device(at(meter, u), timeout=PATIENT) for u in (1, 2)}
        async with driving(units) as driver:
            await known(driver, "m1/raw", "m2/raw")
            meter.silent_units, meter.blocks = {1}, 0.9
            began = time.monotonic()
            with pytest.raises(NoAnswer):
                await read(driver, "m1/raw")
            given_up = time.monotonic() - began
            found = row(await read(driver, "m2/raw"))

    assert given_up < 0.9  # sooner than the gateway gives it up
    assert found == [(2000.0, 0), (2001.0, 0)]


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_device_that_stalls_at_times_is_waited_for_once_that_is_known(framing: str) -> None:
    """L1, peers 12: each stall is longer than the time-out."""
    async with Meter(framing, late=0.6) as meter:
        stalling = device(at(meter), timeout=Duration(0.5))
        async with driving({"m": stalling}) as driver:
            await known(driver)
            meter.script = ["late", "late"]
            with pytest.raises(NoAnswer):
                await read(driver)
            meter.script = []
            await asyncio.sleep(1.2)  # the late ones have come
            await known(driver)
            meter.script = ["late", "late"]

            assert row(await read(driver)) == GOOD
            assert driver.counts["late_frames"] >= 1


# ---- pauses ------------------------------------------------------------------------------------


async def test_time_out_and_pause_are_the_unit_s_not_the_line_s() -> None:
    """L1, peers 6: one meter needs 25 ms between requests; the others do not wait for it."""
    async with Meter("rtu") as meter:
        slow = device(at(meter, 1), pause=Duration(0.1), timeout=Duration(0.3))
        units = {"m1": slow} | {f"m{u}": device(at(meter, u), timeout=PATIENT) for u in (2, 3)}
        async with driving(units) as driver:
            begun, ended = {}, {}
            await read(driver, "m3/raw")
            for name in ("m2", "m3", "m1", "m2"):
                begun[name] = time.monotonic()
                await read(driver, f"{name}/raw")
                ended[name] = time.monotonic()
            meter.silent_units = {1}
            began = time.monotonic()
            with pytest.raises(NoAnswer):
                await read(driver, "m1/raw")
            given_up = time.monotonic() - began

    # a pause begins with an answer, so some moment after its read began
    assert ended["m3"] - begun["m3"] < 0.1 <= ended["m1"] - begun["m3"]
    assert ended["m2"] - begun["m3"] >= 0.2  # after m1: the longer pause of both neighbours
    assert given_up < 1.0


# ---- never an old or invented value --------------------------------------------------------------


async def test_a_silent_meter_yields_no_row_and_no_old_value() -> None:
    """L3, peers 24: a frozen meter's last values were published with fresh times."""
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        await known(driver)
        meter.silent_units = {1}
        for _ in range(3):
            with pytest.raises(NoAnswer):
                await driver.read(group(driver, "m/raw"))


async def test_a_silence_costs_what_it_has_taken_not_the_answers_before_it() -> None:
    """L1, peers 9: by that it is measured how long the unit is left alone."""
    wanted, bound = tags(a="hr:0", b="hr:9"), Duration(0.5)
    async with (
        Meter() as meter,
        driving({"m": device(at(meter), tags=wanted, timeout=bound)}) as driver,
    ):
        meter.slow = 0.3
        meter.script = ["good", "silent"]
        with pytest.raises(NoAnswer) as silence:
            await read(driver)

    assert silence.value.waited == pytest.approx(0.5, abs=0.15)


async def test_nothing_is_0_before_the_first_answer() -> None:
    """L3, peers 24: 0 was reported before the first full read."""
    wanted = tags(a="hr:0", b="ir:0")
    async with Meter() as meter, driving({"m": device(at(meter), tags=wanted)}) as driver:
        meter.script = ["exception 4", "short"]
        found = row(await read(driver))

    assert found == [(None, Quality.BAD_DEVICE), (None, Quality.BAD_SHORT)]


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
@pytest.mark.parametrize("code", [5, 6])
async def test_a_busy_device_is_not_0(framing: str, code: int) -> None:
    """L3, peers 25: a busy slave was recorded as 0."""
    async with Meter(framing) as meter, driving({"m": device(at(meter))}) as driver:
        await known(driver)
        meter.script = [f"exception {code}"]

        assert row(await read(driver)) == [(None, Quality.BAD_DEVICE)] * 2
        assert row(await read(driver)) == GOOD


# ---- one request at a time, and nothing left behind ----------------------------------------------


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_reads_that_come_together_go_over_the_link_one_after_the_other(framing: str) -> None:
    """L9, peers 59: what is asked on one link must be serialised."""
    async with Meter(framing) as meter:
        units = {f"m{u}": device(at(meter, u)) for u in range(1, 9)}
        async with driving(units) as driver:
            meter.script = ["in two parts"] * 8
            async with asyncio.TaskGroup() as tasks:
                reads = [tasks.create_task(read(driver, f"{name}/raw")) for name in units]

    values = [task.result().value[0, 0] for task in reads]
    assert values == [1000.0 * u for u in range(1, 9)]
    assert meter.most_at_once == 1
    assert meter.connections == 1


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 – counted while it is open, each time


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_thousand_connections_leave_nothing_behind(framing: str) -> None:
    """L9, peers 58 and 59: no task, socket or thread."""
    async with Meter(framing) as meter:
        driver = ModbusDevice.build({"m": device(at(meter))}, SystemClock())
        await driver.connect()
        await driver.close()
        await asyncio.sleep(0.05)
        gc.collect()
        before = len(asyncio.all_tasks()), _open_files(), threading.active_count()
        for i in range(1000):
            await driver.connect()
            if i % 10 == 0:
                assert row(await read(driver)) == GOOD
            await driver.close()
        await asyncio.sleep(0.1)
        gc.collect()
        after = len(asyncio.all_tasks()), _open_files(), threading.active_count()

        assert meter.connections == 1001
    assert after == before


async def test_a_serial_line_opened_many_times_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serial_line(tmp_path) as (ours, _):
        driver = ModbusDevice.build({"m": device(f"modbus+rtu://{ours}")}, SystemClock())
        before = len(asyncio.all_tasks()), _open_files(), threading.active_count()
        for _ in range(300):
            await driver.connect()
            await driver.close()
        gc.collect()

        assert (len(asyncio.all_tasks()), _open_files(), threading.active_count()) == before


def test_the_wire_works_on_uvloop_as_well(tmp_path: Path) -> None:
    import uvloop

    async def work() -> None:
        async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
            meter.script = ["good", "in two parts", "silent", "good", "reset"]
            assert [row(await read(driver)) for _ in range(2)] == [GOOD, GOOD]
            with pytest.raises(NoAnswer):
                await read(driver)
            assert row(await read(driver)) == GOOD
            with pytest.raises(Disconnected):
                await read(driver)
        await test_modbus.test_a_serial_line_is_read(tmp_path)

    uvloop.run(work())


async def test_a_read_that_is_cancelled_leaves_the_link_usable() -> None:
    async with (
        Meter() as meter,
        driving({"m": device(at(meter), timeout=Duration(5.0))}) as driver,
    ):
        meter.script = ["silent"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await read(driver)

        assert row(await read(driver)) == GOOD


async def test_a_connection_on_which_nobody_answers_is_replaced_in_time() -> None:
    """A converter has forgotten the connection: it stays open, and new ones are answered."""
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        await known(driver)
        meter.script = ["silent"] * 1000
        began = time.monotonic()
        while meter.connections == 1:
            with pytest.raises(NoAnswer):
                await read(driver)
            await asyncio.sleep(0.05)
        assert 3.0 < time.monotonic() - began < 6.0
        assert driver.counts["renewals"] == 1
        meter.script = []

        assert row(await read(driver)) == GOOD


async def test_a_serial_line_that_is_not_there_is_a_lost_link(tmp_path: Path) -> None:
    driver = ModbusDevice.build(
        {"m": device(f"modbus+rtu://{tmp_path}/ttyUSB9?baud=9600")}, SystemClock()
    )
    with pytest.raises(Disconnected, match="ttyUSB9 cannot be opened"):
        await driver.connect()
    await driver.close()
