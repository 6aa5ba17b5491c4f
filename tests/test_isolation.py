"""One bad device costs nobody else a poll: a hundred devices, thirty of them sick (lesson L1)."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from edge_agent.model import Quality, SampleBlock
from tests.sick_plant import Plant, Run, lateness, play, ticks_of, wrong

SECONDS = 20.0
LATE = 0.050  # seconds, at the 99th percentile

# On a line that several units share, the grids of its three units are 333 ms apart. Two time-outs,
# those of both requests of a scan, fit between two of them: who is silent costs nobody else.
ONE_TIME_OUT = 0.150
SHARED = "150ms"
ALONE = "500ms"
GATEWAY = "modbus+tcp"
RTU = "modbus+rtu-over-tcp"


def hundred() -> Plant:
    """A hundred devices on 76 links; thirty are sick, each in its own way."""
    plant = Plant()
    for trouble in (
        "silence",
        "restart, every: 8s, for: 3s",
        "reset",
        "reset, every: 5s, for: 1s",
        "half-open, from: 5s, for: 6s",
        "half-open, from: 5s, for: 6s, new: refused",
        "delay, by: 300ms",
        "delay, by: 1300ms",
        "late-by-one",
        "exception, code: 4, every: 6s, for: 3s",
        "hole, at: 'hr:4', count: 2",
        "poison, at: 'hr:2', every: 5s, for: 1s",
        "garbage",
        "short, every: 4s, for: 2s",
        "corrupt",
    ):
        plant.link(GATEWAY, trouble, timeout=ALONE)
    for _ in range(47):
        plant.link(GATEWAY, "", timeout=ALONE)
    for troubles in (
        ("", "silence", ""),
        ("delay, by: 1s", "", "exception, code: 4"),
        ("busy", "", ""),
        ("", "", "late-by-one, every: 5s, for: 2s"),
    ):
        plant.link(GATEWAY, *troubles, timeout=SHARED)
    for troubles in (
        ("", "silence, every: 6s, for: 2s", ""),
        ("", "", "corrupt, every: 3s, for: 1s"),
        ("", "late-by-one", ""),
        ("delay, by: 200ms", "", "short"),
        ("garbage", "", ""),
    ):
        plant.link(RTU, *troubles, timeout=SHARED)
    plant.link("dlt645+tcp", "", "silence", "", timeout=SHARED)
    plant.link("cjt188+tcp", "", "corrupt, every: 3s, for: 1s", "", timeout=SHARED)
    plant.link("opc.tcp", "", "", "")
    plant.link("opc.tcp", "restart, every: 9s, for: 3s")
    plant.link("opc.tcp", "frozen, from: 5s, for: 9s")
    return plant


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return asyncio.run(play(hundred(), tmp_path_factory.mktemp("isolation"), SECONDS))


@pytest.fixture(scope="module")
def stored(run: Run) -> dict[str, SampleBlock]:
    return run.stored()


pytestmark = pytest.mark.timeout(120)  # the plant starts and runs in the first test's time


def test_there_are_a_hundred_devices_and_thirty_are_sick() -> None:
    plant = hundred()
    assert (len(plant.devices), len(plant.sick)) == (100, 30)


def test_no_poll_of_a_sound_device_is_missed(run: Run) -> None:
    """L1, peers 1, 3, 5, 8, 9: counted at the simulators, one scan in each period."""
    missed = {}
    for device in hundred().sound:
        ticks = Counter(ticks_of(run.scans(device)))
        span = range(max(ticks) + 1)
        if any(ticks[tick] != 1 for tick in span) or len(span) < SECONDS - 1:
            missed[device] = [tick for tick in span if ticks[tick] != 1]
    assert not missed


def test_no_poll_of_a_sound_device_is_late(run: Run) -> None:
    """L1, peers 4, 9, 10: nobody waits for another device's time-out."""
    late = {device: lateness(run, device) for device in hundred().sound}
    later = {d: found.max() for d, found in late.items() if found.max() > LATE + ONE_TIME_OUT}

    assert np.quantile(np.concatenate(list(late.values())), 0.99) <= LATE
    assert later == {}


def test_every_row_of_a_sound_device_is_there_and_good(
    run: Run, stored: dict[str, SampleBlock]
) -> None:
    for device in hundred().sound:
        block = stored[f"{device}/raw"]
        settled = block.time >= run.judged
        assert settled.sum() >= SECONDS - 1, device
        assert (block.quality[:, settled] == Quality.GOOD).all(), device
        assert np.diff(block.time[settled]).max() < 1.5e9, device


def test_no_value_is_good_that_its_device_did_not_say_then(
    run: Run, stored: dict[str, SampleBlock]
) -> None:
    """L3: late, spoiled and old answers end as quality, never as a wrong good value."""
    found = [text for device in hundred().devices for text in wrong(run, stored, device)]
    assert not found


def test_a_sick_device_has_its_rows_and_they_say_so(stored: dict[str, SampleBlock]) -> None:
    """Silence is data: a period without an answer has its row all the same."""
    unseen = ("delay", "half-open")  # slow; a connection replaced in time
    for device in hundred().sick:
        block = stored[f"{device}/raw"]
        assert np.diff(block.time).max() < 4e9, device  # two answers after 1.3 s each, of one
        assert len(block) > SECONDS / 3, device
        told = (block.quality >= Quality.BAD).any()
        assert told or any(word in device for word in unseen), device
