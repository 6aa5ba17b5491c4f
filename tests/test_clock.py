"""The clocks: time that never goes back, and time that jumps."""

import asyncio
import time

import pytest

from edge_agent.clock import SECOND, PlantClock, SystemClock, VirtualClock


def test_the_system_clock_agrees_with_the_box() -> None:
    clock = SystemClock()
    assert abs(clock.wall_ns() - time.time_ns()) < SECOND
    assert not clock.uncertain


def test_a_clock_behind_the_last_stored_row_goes_on_from_it_and_says_so() -> None:
    future = time.time_ns() + 3600 * SECOND
    clock = SystemClock(not_before=future)
    assert clock.wall_ns() >= future
    assert clock.uncertain


def test_a_step_back_is_not_followed_and_a_step_forward_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before = clock.wall_ns()
    true_time = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true_time() - 600 * SECOND)
    assert clock.wall_ns() >= before
    assert clock.uncertain
    monkeypatch.setattr(time, "time_ns", lambda: true_time() + 600 * SECOND)
    assert clock.wall_ns() - before >= 599 * SECOND
    assert not clock.uncertain


async def test_plant_time_runs_faster_by_the_speed() -> None:
    clock = PlantClock(0, time.monotonic_ns(), 50.0)
    began = time.perf_counter()
    await clock.sleep(5.0)
    assert 0.1 <= time.perf_counter() - began < 0.3
    assert 5 * SECOND <= clock.wall_ns() < 15 * SECOND


async def test_virtual_time_jumps_when_every_participant_sleeps() -> None:
    clock = VirtualClock()
    order: list[tuple[str, float]] = []

    async def worker(name: str, period: float) -> None:
        with clock.participant():
            for _ in range(3):
                await clock.sleep(period)
                await asyncio.sleep(0.001)  # real work: time must not pass
                order.append((name, clock.monotonic()))

    await asyncio.gather(worker("a", 3600), worker("b", 5400))
    assert order == [
        ("a", 3600), ("b", 5400), ("a", 7200), ("b", 10800), ("a", 10800), ("b", 16200),
    ]  # fmt: skip


async def test_a_cancelled_sleeper_does_not_hold_virtual_time() -> None:
    clock = VirtualClock()
    with clock.participant():
        sleeper = asyncio.create_task(clock.sleep(1e9))
        await asyncio.sleep(0)
        sleeper.cancel()
        await asyncio.wait([sleeper])
        await clock.sleep(1.0)
    assert clock.monotonic() == 1.0
