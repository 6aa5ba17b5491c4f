"""What a driver finds out about its devices, over real sockets, and keeps over a restart.

The lessons of other collectors are named by their number in the study of peers.
"""

import asyncio
import json
import time

import numpy as np
import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers.base import Learns, Probes, TagConfig
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_driver import ModbusDriver
from edge_agent.drivers.modbus_lessons import AGAIN, SILENCE
from edge_agent.errors import NoAnswer
from edge_agent.model import Quality
from edge_agent.units import Duration
from tests.drivers.modbus_meter import Meter
from tests.drivers.test_modbus import at, device, driving, read, row, tags

BAD = (None, int(Quality.BAD_ADDRESS))


def run_of(count: int, first: int = 0) -> dict[str, TagConfig]:
    return tags(**{f"r{i}": f"hr:{i}" for i in range(first, first + count)})


def expected(count: int, *dead: int, unit: int = 1) -> list[tuple[float | None, int]]:
    return [BAD if i in dead else (1000.0 * unit + i, 0) for i in range(count)]


def spans(meter: Meter) -> list[tuple[int, int]]:
    return [(address, count) for _, _, address, count in meter.asked]


def kept(driver: ModbusDriver) -> dict[str, object]:
    """Return what a driver has learnt, as it comes back from the checkpoint."""
    state = json.loads(json.dumps(driver.save()))
    assert isinstance(state, dict)
    return state


def test_a_modbus_driver_probes_and_learns() -> None:
    driver = ModbusDevice.build({"m": device("modbus+tcp://h")}, SystemClock())

    assert isinstance(driver, Probes)
    assert isinstance(driver, Learns)


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_one_illegal_address_costs_one_tag(framing: str) -> None:
    """L1, peers 2: one illegal address drops every field of that slave."""
    async with Meter(framing) as meter:
        meter.holes = {17: 2}
        async with driving({"m": device(at(meter), tags=run_of(40))}) as driver:
            rows = [row(await read(driver)) for _ in range(3)]
            meter.asked.clear()
            after = row(await read(driver))

    assert rows == [expected(40, 17)] * 3
    assert after == expected(40, 17)
    assert spans(meter) == [(0, 17), (18, 22)]
    assert driver.learnt == {"m": ["hr:17 is refused (exception 2); asked again every 60 s"]}


async def test_what_was_learnt_survives_a_restart() -> None:
    async with Meter() as meter:
        meter.holes = {5: 2, 30: 4}
        config = {"m": device(at(meter), tags=run_of(40))}
        async with driving(config) as driver:
            for _ in range(4):
                await read(driver)
            state = kept(driver)
        meter.asked.clear()
        again = ModbusDevice.build(config, SystemClock())
        again.load(state)
        await again.connect()
        try:
            found = row(await read(again))
        finally:
            await again.close()

    assert [q for _, q in found].count(0) == 38
    assert spans(meter) == [(0, 5), (6, 24), (31, 9)]


async def test_what_was_learnt_of_another_map_is_passed_over() -> None:
    """The tags have changed: the device may be another one, or was mended."""
    async with Meter() as meter:
        meter.holes = {5: 2}
        async with driving({"m": device(at(meter), tags=run_of(10))}) as driver:
            for _ in range(3):
                await read(driver)
            state = kept(driver)
        other = {"m": device(at(meter), tags=run_of(12))}
        driver = ModbusDevice.build(other, SystemClock())
        driver.load(state)

    assert state["devices"]
    assert driver.learnt == {"m": []}


@pytest.mark.parametrize(
    "state",
    [{}, {"devices": 7, "texts": []}, {"devices": {"m": 3, "x": {}}, "texts": {"m/raw": {"a": 1}}}],
)
def test_a_state_of_nobody_does_no_harm(state: dict[str, object]) -> None:
    driver = ModbusDevice.build({"m": device("modbus+tcp://h")}, SystemClock())

    driver.load(state)

    assert driver.save() == {"devices": {}, "texts": {}}


async def test_a_device_that_is_busy_or_not_ready_is_read_at_once_when_it_is_ready() -> None:
    """L3, peers 25: a busy slave was recorded as 0; and its registers are not dead."""
    async with Meter() as meter, driving({"m": device(at(meter), tags=run_of(40))}) as driver:
        first = row(await read(driver))
        refused = []
        for code in (6, 5, 4, 4, 2):
            meter.script = [f"exception {code}"] * 30
            refused += row(await read(driver))
        meter.script = []
        meter.asked.clear()
        after = row(await read(driver))

    assert first == after == expected(40)
    assert set(refused) == {(None, int(Quality.BAD_DEVICE))}
    assert spans(meter) == [(0, 40)]
    assert driver.learnt == {"m": []}


async def test_a_poisonous_register_between_others_is_never_touched() -> None:
    """L2, peers 15: touching one undefined register shifts the next answer by 4 bytes."""
    wanted = run_of(8) | run_of(8, first=9) | run_of(8, first=18)
    async with Meter() as meter:
        meter.poison, meter.holes = {8, 17}, {3: 2, 20: 2}
        async with driving({"m": device(at(meter), tags=wanted)}) as driver:
            rows = [await read(driver) for _ in range(6)]

    numbers = [i for i in range(26) if i not in {8, 17}]
    for block in rows:
        good = block.quality[:, 0] == Quality.GOOD
        assert block.value[good, 0].tolist() == [1000.0 + i for i in numbers if i not in {3, 20}]
    assert not any(set(range(a, a + n)) & meter.poison for a, n in spans(meter))


async def test_the_server_of_that_test_does_poison() -> None:
    """The same map read over the gap, as a template may allow, is wrong: the guard matters."""
    wanted = run_of(8) | {"far": TagConfig(at="hr:9"), "other": TagConfig(at="ir:0")}
    async with Meter() as meter:
        meter.poison = {8}
        async with driving({"m": device(at(meter), tags=wanted, max_gap=1)}) as driver:
            block = await read(driver)

    assert block.value[9, 0] == 1002.0  # 1000 is right


async def test_blocks_that_are_too_large_for_a_device_become_smaller() -> None:
    """L2, peers 20: a device that lets long requests wait answers to short ones."""
    async with Meter() as meter:
        meter.patient = 35
        quick = device(at(meter), tags=run_of(60), timeout=Duration(0.1))
        async with driving({"m": quick}) as driver:
            silences, rows, until = 0, [], time.monotonic() + 10
            while not driver.learnt["m"] and time.monotonic() < until:
                await asyncio.sleep(0.02)
                try:
                    rows.append(row(await read(driver)))
                except NoAnswer:
                    silences += 1
                    await asyncio.sleep(0.05)
                    await driver.probe("m")  # as the unit's breaker does
            state = kept(driver)
        meter.asked.clear()
        again = ModbusDevice.build({"m": quick}, SystemClock())
        again.load(state)
        await again.connect()
        try:
            first = row(await read(again))
        finally:
            await again.close()

    assert rows[-1] == expected(60)
    assert silences <= 6
    assert first == expected(60)
    assert max(count for _, count in spans(meter)) <= 35


async def test_a_probe_is_one_short_request() -> None:
    wanted = {"a": TagConfig(at="hr:0", type="f64"), "b": TagConfig(at="hr:4")} | run_of(9, first=9)
    async with Meter() as meter, driving({"m": device(at(meter), tags=wanted)}) as driver:
        await read(driver)
        meter.asked.clear()

        await driver.probe("m")

    assert spans(meter) == [(4, 1)]


@pytest.mark.parametrize("word", ["exception 2", "exception 6", "short"])
async def test_whatever_a_unit_says_is_a_sign_of_life(word: str) -> None:
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = [word]

        await driver.probe("m")

    assert len(meter.asked) == 1


@pytest.mark.parametrize("answered_before", [False, True])
async def test_a_device_that_does_not_know_its_first_register_is_found_for_all_that(
    answered_before: bool,
) -> None:
    """L1, peers 20: it was probed for ever by the one register that it says nothing to."""
    async with Meter() as meter, driving({"m": device(at(meter), tags=run_of(3))}) as driver:
        if answered_before:
            await read(driver)
        meter.mute = {0}
        with pytest.raises(NoAnswer):
            await driver.probe("m")

        await driver.probe("m")

    assert spans(meter)[-2:] == [(0, 1), (1, 1)]


@pytest.mark.parametrize("word", ["silent", "exception 11"])
async def test_the_probe_of_a_silent_unit_is_no_answer(word: str) -> None:
    async with Meter() as meter, driving({"m": device(at(meter))}) as driver:
        meter.script = [word]

        with pytest.raises(NoAnswer, match=r"^m: "):
            await driver.probe("m")


async def test_finding_out_takes_little_of_the_time_of_the_others_on_the_line() -> None:
    """A device with forty wrong tags, on a line with one that has none."""
    async with Meter("rtu") as meter:
        meter.slow = 0.02
        meter.holes = dict.fromkeys(range(0, 80, 2), 2)
        devices = {
            "m1": device(at(meter, 1), tags=run_of(80)),
            "m2": device(at(meter, 2), tags=run_of(1, first=81)),
        }
        async with driving(devices) as driver:
            inquiry = driver._streams["m1/raw"].inquiry
            began, late, beside = time.monotonic(), [], 0
            for tick in range(30):
                until = began + 0.1 * tick
                await asyncio.sleep(max(0.0, until - time.monotonic()))
                late.append(time.monotonic() - until)
                await read(driver, "m2/raw")
                before, planned = len(meter.asked), len(inquiry.plan.requests)
                await read(driver, "m1/raw")
                beside += len(meter.asked) - before - planned
            took = time.monotonic() - began

    assert [unit for unit, *_ in meter.asked].count(2) == 30
    assert beside > 5
    # 20 ms each: a twentieth of the time, a tenth of a second at the beginning, one begun
    assert 0.02 * beside <= 0.05 * took + 0.1 + 0.02
    assert np.median(late) < 0.05


async def test_time_outs_and_pauses_may_be_far_below_a_second() -> None:
    """L2, peers 19: sub-second time-outs were impossible elsewhere."""
    quick = {"timeout": Duration(0.05), "pause": Duration(0.01)}
    async with Meter() as meter:
        devices = {f"m{u}": device(at(meter, u), tags=run_of(2), **quick) for u in (1, 2)}
        meter.silent_units = {2}
        async with driving(devices) as driver:
            began = time.monotonic()
            found = row(await read(driver, "m1/raw"))
            with pytest.raises(NoAnswer):
                await read(driver, "m2/raw")
            took = time.monotonic() - began

    assert found == expected(2)
    assert took < 0.3


async def test_bits_come_in_the_order_of_their_addresses() -> None:
    """L8, peers 55: the order of bits in pymodbus was changed in 3.10 and back in 3.11."""
    bits = {f"b{i}": TagConfig(at=f"co:{i}") for i in range(21)}
    async with Meter() as meter, driving({"m": device(at(meter), tags=bits)}) as driver:
        block = await read(driver)

    assert block.value[:, 0].tolist() == [float(i % 3 == 0) for i in range(21)]


# ---- texts, exponents and orders over the wire -------------------------------------------------


async def test_texts_exponents_and_the_order_of_a_device_are_read() -> None:
    wanted = {
        "model": TagConfig(at="hr:0", type="text", length=6),
        "power": TagConfig(at="hr:10", scale_from="power_scale"),
        "power_scale": TagConfig(at="hr:11", type="i16"),
        "energy": TagConfig(at="hr:12", type="u32"),
        "count": TagConfig(at="hr:14", type="u32", order="ABCD"),
    }
    async with Meter() as meter:
        meter.memory = {0: 0x4441, 1: 0x3357, 2: 0x3030, 10: 1234, 11: 0xFFFE}
        meter.memory |= {12: 0x0002, 13: 0x0001, 14: 0x0001, 15: 0x0002}
        config = {"m": device(at(meter), tags=wanted, order="CDAB")}
        async with driving(config) as driver:
            block = await read(driver)
            state = kept(driver)
            meter.memory[2] = 0xFFFF
            spoilt = await read(driver)
        again = ModbusDevice.build(config, SystemClock())
        again.load(state)
        await again.connect()
        try:
            meter.memory |= {0: 0x4144, 1: 0x4C00}
            other = await read(again)
        finally:
            await again.close()

    assert row(block)[1:] == [(12.34, 0), (-2.0, 0), (65538.0, 0), (65538.0, 0)]
    assert block.text(0, 0) == "DA3W00"
    assert block.texts == {"model": {0: "DA3W00"}}
    assert row(spoilt)[0] == (None, Quality.BAD_NOT_AVAILABLE)
    assert other.texts == {"model": {1: "ADL"}}  # numbers go on where they were


def test_a_text_without_length_and_a_scale_that_is_none_are_named() -> None:
    wrong = device(
        "modbus+tcp://h",
        tags={
            "name": TagConfig(at="hr:0", type="text"),
            "power": TagConfig(at="hr:10", scale_from="name"),
        },
    )

    assert [path for path, _ in wrong.faults()] == [
        ("tags", "name", "length"), ("tags", "power", "scale_from")
    ]  # fmt: skip


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_register_without_answer_costs_the_others_nothing_when_it_is_tried_again(
    framing: str,
) -> None:
    """L1, peers 20: over RTU its late answer would look like those of its neighbours."""
    wanted = tags(a="hr:0", b="hr:10", c="hr:20")
    async with Meter(framing) as meter, driving({"m": device(at(meter), tags=wanted)}) as driver:
        meter.mute = {20}
        span = (Table.HOLDING_REGISTERS, 20, 20)
        driver._lessons["m"].bury(span, SILENCE, now=-AGAIN)  # it is due
        rows = [row(await read(driver)) for _ in range(4)]

    assert (1, 3, 20, 1) in meter.asked
    assert rows == [[(1000.0, 0), (1010.0, 0), (None, Quality.BAD_NO_ANSWER)]] * 4
