"""What silent units cost a real line, and how soon they are back: counted at the simulators."""

import asyncio
from itertools import pairwise

import pytest

from edge_agent.breaker import SHARE
from edge_agent.model import Quality
from tests.sick_plant import SECOND, Plant, Run, lateness, play, ticks_of

TIMEOUT = 0.1
DEAD, BACK = 3, 10.0  # units, and when the last of them is back, in seconds
SECONDS = 24.0
LINES = ("modbus+tcp", "modbus+rtu-over-tcp")
TAGS: dict[str, dict[str, object]] = {
    "state": {"at": "hr:0", "kind": "state"},
    "a": {"at": "hr:1", "type": "f32"},
    "c": {"at": "ir:0", "type": "f32"},
}
pytestmark = pytest.mark.timeout(90)  # the plant starts and runs in the first test's time


def plant() -> Plant:
    """Two lines of seven units each: four are well, two dead, one is dead at first."""
    made = Plant()
    for scheme in LINES:
        troubles = ("", "silence", "", "silence", "", f"silence, to: {BACK}s", "")
        made.link(scheme, *troubles, timeout=f"{TIMEOUT}s", tags=TAGS)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return asyncio.run(play(plant(), tmp_path_factory.mktemp("lines"), SECONDS))


def of_line(line: int) -> list[str]:
    return list(plant().devices)[7 * line : 7 * line + 7]


def requests(run: Run, devices: list[str]) -> list[tuple[int, str, str, int]]:
    """Return all requests to some devices in their order: (ns, device, what came of it, asked)."""
    return sorted(
        (t, device, outcome, asked)
        for device in devices
        for t, outcome, asked in zip(
            *(run.truth[device][key] for key in ("times", "outcomes", "asked")), strict=True
        )
        if t >= run.judged
    )


@pytest.mark.parametrize("line", [0, 1], ids=LINES)
def test_dead_units_together_take_a_twentieth_of_the_line(run: Run, line: int) -> None:
    """L1, peers 9: no dead unit fills the queue of the bus."""
    asked = requests(run, of_line(line))
    waited = sum(
        min((after[0] - t) / SECOND, TIMEOUT)
        for (t, _, outcome, _), after in pairwise(asked)
        if outcome == "silent"
    )
    assert any(outcome == "silent" for _, _, outcome, _ in asked)
    assert waited <= SHARE * (run.ended - run.judged) / SECOND + TIMEOUT


@pytest.mark.parametrize("line", [0, 1], ids=LINES)
def test_a_probe_asks_for_one_register_and_no_two_follow_each_other(run: Run, line: int) -> None:
    asked = requests(run, of_line(line))
    silent = [i for i, (_, _, outcome, _) in enumerate(asked) if outcome == "silent"]
    again = [i for i in silent if any(asked[i][1] == asked[j][1] for j in silent if j < i)]

    assert {asked[i][3] for i in again} == {1}
    assert all(later - earlier > 1 for earlier, later in pairwise(silent))


@pytest.mark.parametrize("line", [0, 1], ids=LINES)
def test_the_living_units_of_the_line_are_asked_in_time(run: Run, line: int) -> None:
    """L1, peers 5, 10: a dead unit costs the cycle one time-out now and then, and nobody a poll."""
    for device in [d for d in of_line(line) if d in plant().sound]:
        ticks = ticks_of(run.scans(device))
        assert ticks == list(range(ticks[-1] + 1))
        assert len(ticks) >= SECONDS - 1
        assert lateness(run, device).max() < TIMEOUT


@pytest.mark.parametrize("line", [0, 1], ids=LINES)
def test_a_unit_that_is_back_is_found_within_20_time_outs_of_each_dead_one(
    run: Run, line: int
) -> None:
    device = of_line(line)[5]
    block = run.stored()[f"{device}/raw"]
    good = block.time[(block.quality == Quality.GOOD).all(axis=0)]

    assert (good[0] - run.zero) / SECOND - BACK <= max(2.0, 20 * TIMEOUT * DEAD) + 1.0
    assert len(good) >= SECONDS - BACK - 20 * TIMEOUT * DEAD - 1
