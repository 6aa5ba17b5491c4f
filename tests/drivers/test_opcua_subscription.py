"""A subscription of a real server: bursts, silence, foreign clocks, lost messages."""

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua

from edge_agent.clock import SECOND, PlantClock
from edge_agent.drivers import base
from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.errors import Disconnected
from edge_agent.model import Quality
from edge_agent.units import Duration
from tests.drivers.opcua_plant import URI, Plant, connected, plant

Q = Quality
pytestmark = pytest.mark.asyncio(loop_scope="module")
FAST = Duration(0.1)


def pushed(name: str, **written: object) -> TagConfig:
    at = f"nsu={URI};s={name}"
    return TagConfig(at=at, mode="subscribe", **written)  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Plant]:
    async with plant() as p:  # takes a second to start
        yield p


@pytest_asyncio.fixture(loop_scope="module")
async def server(running: Plant) -> Plant:
    await running.add("X", 0.0)
    await running.add("Y", 0.0)
    return running


@pytest.fixture
def short_keep_alive(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(base, "KEEP_ALIVE", 0.3)
    return 0.3


async def test_every_state_change_has_its_own_row_with_its_exact_time(server: Plant) -> None:
    device = OpcUaDevice(
        connect=server.url,
        publish=Duration(0.5),
        tags={"state": pushed("X", kind="state"), "level": pushed("Y")},
    )
    async with connected(device) as (driver, groups):
        first = await driver.read(groups["raw.sub"])
        assert first.quality[:, -1].tolist() == [0, 0]
        start = (time.time_ns() // 1000 + 1) * 1000
        times = [start + i * 100_000 for i in range(99)]
        for i, at in enumerate(times):
            await server.write("X", i + 1.0, at=at)
        await server.write("Y", 3.0, at=times[50])
        block = await driver.read(groups["raw.sub"])
    assert block.time.tolist() == times
    assert block["state"].tolist() == [i + 1.0 for i in range(99)]
    assert block["level"].tolist() == [0.0] * 50 + [3.0] * 49
    assert not block.quality.any()


async def test_a_burst_of_200_changes_within_one_interval_loses_none(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, tags={"state": pushed("X", kind="state")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        start = (time.time_ns() // 1000 + 1) * 1000
        times = [start + i * 10_000 for i in range(200)]
        for i, at in enumerate(times):
            await server.write("X", i + 1.0, at=at)
        block = await driver.read(groups["raw.sub"])
    assert block.time.tolist() == times
    assert block["state"].tolist() == [i + 1.0 for i in range(200)]


async def test_gauges_of_one_response_share_a_row_at_the_newest_time(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, tags={"x": pushed("X"), "y": pushed("Y")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        now = (time.time_ns() // 1000 + 1) * 1000
        await server.write("X", 1.0, at=now)
        await server.write("X", 2.0, at=now + 3000)
        await server.write("Y", 3.0, at=now + 1000)
        block = await driver.read(groups["raw.sub"])
    assert block.time.tolist() == [now + 3000]
    assert block.value[:, 0].tolist() == [2.0, 3.0]


async def test_silence_gives_rows_that_repeat_what_is_held(
    server: Plant, short_keep_alive: float
) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X")})
    await server.write("X", 4.0)
    async with connected(device) as (driver, groups):
        blocks = [await driver.read(groups["raw.sub"]) for _ in range(4)]
    times = [int(b.time[0]) for b in blocks]
    gaps = np.diff(times) / SECOND
    assert all(b["x"].tolist() == [4.0] and not b.quality.any() for b in blocks)
    assert gaps.max() < 2 * short_keep_alive
    assert abs(times[-1] - time.time_ns()) < SECOND


async def test_a_refused_item_costs_the_others_nothing(server: Plant) -> None:
    tags = {"gone": pushed("Nowhere", kind="state"), "x": pushed("X")}
    async with connected(OpcUaDevice(connect=server.url, tags=tags)) as (driver, groups):
        block = await driver.read(groups["raw.sub"])
    assert block.quality[:, 0].tolist() == [Q.BAD_ADDRESS, Q.GOOD]


async def test_a_bad_status_is_never_published_as_a_good_value(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X", kind="state")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        await server.write("X", 1.0, status=ua.StatusCodes.BadSensorFailure)
        bad = await driver.read(groups["raw.sub"])
        await server.write("X", 1.0, status=ua.StatusCodes.Good)
        good = await driver.read(groups["raw.sub"])
    assert bad.quality.tolist() == [[Q.BAD_DEVICE]]
    assert np.isnan(bad.value).all()
    assert (good["x"].tolist(), good.quality.tolist()) == ([1.0], [[Q.GOOD]])


async def test_a_foreign_source_clock_is_replaced_and_marked(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X", kind="state")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        for hours in (-1, 1):
            await server.write("X", float(hours), at=time.time_ns() + hours * 3600 * SECOND)
            block = await driver.read(groups["raw.sub"])
            assert abs(int(block.time[0]) - time.time_ns()) < SECOND
            assert block["x"].tolist() == [hours]
            assert block.quality.tolist() == [[Q.UNCERTAIN_CLOCK]]


async def test_a_value_that_has_stood_for_hours_is_good_when_the_subscription_begins(
    server: Plant,
) -> None:
    await server.write("X", 1.0, at=time.time_ns() - 7200 * SECOND)
    device = OpcUaDevice(connect=server.url, tags={"x": pushed("X", kind="state")})
    async with connected(device) as (driver, groups):
        block = await driver.read(groups["raw.sub"])
    assert abs(int(block.time[0]) - time.time_ns()) < SECOND
    assert block.quality.tolist() == [[Q.GOOD]]


async def test_fast_plant_time_keeps_source_times_and_stamps_keep_alives(server: Plant) -> None:
    clock = PlantClock(1_767_225_600 * SECOND, time.monotonic_ns(), speed=30.0)
    device = OpcUaDevice(connect=server.url, tags={"x": pushed("X", kind="state")})
    async with connected(device, clock) as (driver, groups):
        await driver.read(groups["raw.sub"])
        at = (clock.wall_ns() // 1000 + 1) * 1000
        await server.write("X", 2.0, at=at)
        changed = await driver.read(groups["raw.sub"])
        while changed["x"][0] != 2.0:
            changed = await driver.read(groups["raw.sub"])
        silent = await driver.read(groups["raw.sub"])
    assert changed.time.tolist() == [at]
    assert abs(int(silent.time[0]) - clock.wall_ns()) < 30 * SECOND
    assert not silent.quality.any()


@pytest.mark.usefixtures("short_keep_alive")
async def test_overdue_responses_make_bad_rows_until_the_values_are_sent_again(
    server: Plant,
) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X", kind="state")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        served = server.subscription()
        assert served._task is not None
        served._task.cancel()  # the server answers requests, but publishes no more
        block = await driver.read(groups["raw.sub"])
        while block.quality[0, -1] == Q.GOOD:
            block = await driver.read(groups["raw.sub"])
        assert block.quality.tolist() == [[Q.BAD_NO_ANSWER]]
        await served.start()
        for _ in range(5):
            block = await driver.read(groups["raw.sub"])
            if block.quality[0, -1] == Q.GOOD:
                break
        assert block["x"][-1] == 0.0  # has not changed, and is known again


@pytest.mark.usefixtures("short_keep_alive")
async def test_a_server_that_publishes_nothing_for_long_is_given_up(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        task = server.subscription()._task
        assert task is not None
        task.cancel()
        silent = 0
        while silent < 3:
            block = await driver.read(groups["raw.sub"])
            silent += int(block.quality[0, -1] == Q.BAD_NO_ANSWER)
        with pytest.raises(Disconnected, match="publishes nothing"):
            await driver.read(groups["raw.sub"])


async def test_a_lost_message_is_asked_for_again(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X", kind="state")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        now = (time.time_ns() // 1000 + 1) * 1000
        await server.write("X", 1.0, at=now)
        server.subscription()._pop_publish_result()  # numbered and kept, but never sent
        await server.write("X", 2.0, at=now + 5000)
        block = await driver.read(groups["raw.sub"])
    assert block.time.tolist() == [now, now + 5000]
    assert block["x"].tolist() == [1.0, 2.0]
    assert not block.quality.any()


async def test_a_message_lost_for_good_puts_what_is_held_in_doubt(server: Plant) -> None:
    device = OpcUaDevice(
        connect=server.url,
        publish=FAST,
        tags={"x": pushed("X", kind="state"), "y": pushed("Y")},
    )
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw.sub"])
        await server.write("Y", 1.0)
        server.subscription()._pop_publish_result()
        server.subscription()._not_acknowledged_results.clear()
        await server.write("X", 2.0)
        block = await driver.read(groups["raw.sub"])
    assert block.value[:, -1].tolist() == [2.0, 0.0]
    assert block.quality[:, -1].tolist() == [Q.GOOD, Q.UNCERTAIN]
