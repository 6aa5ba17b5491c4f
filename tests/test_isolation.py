"""One bad device costs nobody else a poll: a hundred devices, thirty of them sick (lesson L1)."""

import asyncio

import numpy as np
import pytest

from edge_agent.model import Quality, SampleBlock
from tests.sick_plant import Plant, Run, lateness, missed, play, wrong

SECONDS = 20.0
LATE = 0.050  # seconds, at the 99th percentile

# On a line that several units share, the grids of its three units are 333 ms apart. Two time-outs,
# those of both requests of a scan, fit between two of them: who is silent costs nobody else. A unit
# that is out of step is asked up to four times in a row, so what comes behind it may once be later.
ONCE = 0.300
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
    plant.link("opc.tcp", "frozen, from: 5s")
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
    counted = {device: len(run.scans(device)) for device in hundred().sound}
    assert {device: missed(run, device) for device in hundred().sound if missed(run, device)} == {}
    assert min(counted.values()) >= SECONDS - 3


def test_no_poll_of_a_sound_device_is_late(run: Run) -> None:
    """L1, peers 4, 9, 10: nobody waits for another device's time-out."""
    late = {device: lateness(run, device) for device in hundred().sound}
    later = {d: found.max() for d, found in late.items() if found.max() > LATE + ONCE}

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


# ---- by lesson -------------------------------------------------------------------------------


def sick(kind: str, *, alone: bool) -> list[str]:
    """Return the sick devices of a kind that have their link to themselves, or share it."""
    devices = hundred().devices
    links: dict[str, list[str]] = {}
    for name, device in devices.items():
        links.setdefault(str(device["connect"]).partition("?")[0], []).append(name)
    return [
        name
        for names in links.values()
        for name in names
        if name.endswith(kind) and (len(names) == 1) == alone
    ]


def beside(devices: list[str]) -> list[str]:
    """Return the sound devices that share a link with some devices."""
    plant = hundred()
    links = {str(plant.devices[name]["connect"]).partition("?")[0] for name in devices}
    return [d for d in plant.sound if str(plant.devices[d]["connect"]).partition("?")[0] in links]


def asked(run: Run, device: str) -> int:
    """Return how many requests came to a device since it is judged."""
    return sum(t >= run.judged for t in run.truth[device]["times"])


def always_good(run: Run, stored: dict[str, SampleBlock], devices: list[str]) -> bool:
    blocks = [stored[f"{device}/raw"] for device in devices]
    return all((b.quality[:, b.time >= run.judged] == Quality.GOOD).all() for b in blocks)


def test_one_unreachable_unit_loses_no_data_of_the_others_of_its_gateway(
    run: Run, stored: dict[str, SampleBlock]
) -> None:
    """L1, peers 1 (telegraf#11782) and 5 (openems#6)."""
    others = beside(sick("silence", alone=False))
    assert len(others) >= 6
    assert always_good(run, stored, others)


def test_an_address_where_nobody_answers_stops_no_collection_elsewhere(
    run: Run, stored: dict[str, SampleBlock]
) -> None:
    """L1, peers 3 (device-modbus-go#666) and 8 (core#122607)."""
    gone = sick("silence", alone=True) + sick("restart", alone=True)
    assert len(gone) >= 3
    assert all((stored[f"{device}/raw"].quality >= Quality.BAD).any() for device in gone)
    assert always_good(run, stored, sorted(hundred().sound))


def test_a_device_slower_than_its_period_holds_nobody_up(run: Run) -> None:
    """L1, peers 4 (device-sdk-go#1829): no head-of-line blocking between devices."""
    slow = sick("delay", alone=True)
    alone = hundred().sound - set(beside(sorted(hundred().sick)))
    late = np.concatenate([lateness(run, device) for device in sorted(alone)])
    assert len(slow) == 2
    assert np.quantile(late, 0.99) <= LATE


def test_a_dead_unit_does_not_fill_the_queue_of_its_line(run: Run) -> None:
    """L1, peers 9 (node-red-contrib-modbus#288): it is probed, not asked each period."""
    flapping = {str(fault["device"]) for fault in hundred().faults if "every" in fault}
    dead = [device for device in sick("silence", alone=False) if device not in flapping]
    assert len(dead) == 2
    assert all(asked(run, device) < SECONDS / 2 for device in dead)


def test_only_silence_is_left_alone_exceptions_are_asked_on(run: Run) -> None:
    """L1, peers 10 (EVerest#2673): a unit that answers, with whatever exception, is no dead one."""
    refusing = sick("exception", alone=False) + sick("busy", alone=False)
    assert len(refusing) == 2
    assert all(asked(run, device) >= SECONDS - 1 for device in refusing)


def test_a_silent_unit_costs_nobody_the_connection(run: Run) -> None:
    """L1, peers 7 (neuron#1602): one unit without an answer resets no connection for all."""
    quiet = [d for d in sick("silence", alone=False) if beside([d])]
    assert quiet
    assert all(run.connects[device] <= 2 for device in quiet)  # one, and one try at the start
