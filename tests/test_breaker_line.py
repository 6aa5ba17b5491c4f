"""What silent units cost a real line, and how soon they are back: counted at the simulators."""

import asyncio
from itertools import pairwise

import pytest

from edge_agent.breaker import SHARE
from edge_agent.model import Quality
from tests.sick_plant import SECOND, Plant, Run, lateness, play, ticks_of

DEAD, BACK = 3, 10.0  # units, and when the last of them is back, in seconds
SECONDS = 24.0
LINES = [(s, t) for s in ("modbus+tcp", "modbus+rtu-over-tcp") for t in ("100ms", "1s")]
# The grids of a line's seven units are 143 ms apart: a time-out of 100 ms fits between two of them;
# one of 1 s does not, and a probe is given up when a living unit is due.
COST = 0.143
KNOWN = 7.0  # seconds until all silent units are known; finding out costs two time-outs of each
TAGS: dict[str, dict[str, object]] = {
    "state": {"at": "hr:0", "kind": "state"},
    "a": {"at": "hr:1"},
    "c": {"at": "ir:0"},
}
each_line = pytest.mark.parametrize("line", range(4), ids=[" ".join(line) for line in LINES])
pytestmark = pytest.mark.timeout(90)  # the plant starts and runs in the first test's time


def plant() -> Plant:
    """Lines of seven units each: four are well, two dead, one is dead at first."""
    made = Plant()
    for scheme, timeout in LINES:
        troubles = ("", "silence", "", "silence", "", f"silence, to: {BACK}s", "")
        made.link(scheme, *troubles, timeout=timeout, tags=TAGS)
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
        if t >= run.judged + KNOWN * SECOND
    )


@each_line
def test_dead_units_together_take_a_twentieth_of_the_line(run: Run, line: int) -> None:
    """L1, peers 9: no dead unit fills the queue of the bus."""
    asked = requests(run, of_line(line))
    waited = sum(
        min((after[0] - t) / SECOND, 0.1 if LINES[line][1] == "100ms" else COST)
        for (t, _, outcome, _), after in pairwise(asked)
        if outcome == "silent"
    )
    assert any(outcome == "silent" for _, _, outcome, _ in asked)
    assert waited <= SHARE * ((run.ended - run.judged) / SECOND - KNOWN) + COST


@each_line
def test_a_probe_asks_for_one_register_and_no_two_follow_each_other(run: Run, line: int) -> None:
    asked = requests(run, of_line(line))
    silent = [i for i, (_, _, outcome, _) in enumerate(asked) if outcome == "silent"]

    assert {asked[i][3] for i in silent} == {1}
    assert all(later - earlier > 1 for earlier, later in pairwise(silent))


@each_line
def test_the_living_units_of_the_line_are_asked_in_time(run: Run, line: int) -> None:
    """L1, peers 5, 10: a dead unit costs the cycle one time-out now and then, and nobody a poll."""
    for device in [d for d in of_line(line) if d in plant().sound]:
        ticks = ticks_of(run.scans(device, KNOWN))
        assert ticks == list(range(ticks[-1] + 1))
        assert len(ticks) >= SECONDS - KNOWN - 1
        assert lateness(run, device, KNOWN).max() < COST


@each_line
def test_a_unit_that_is_back_is_found_within_20_time_outs_of_each_dead_one(
    run: Run, line: int
) -> None:
    device, timeout = of_line(line)[5], 0.1 if LINES[line][1] == "100ms" else 1.0
    block = run.stored()[f"{device}/raw"]
    good = block.time[(block.quality == Quality.GOOD).all(axis=0)]
    back = (good[good > run.zero + BACK * SECOND][0] - run.zero) / SECOND - BACK

    assert back <= max(2.0, 20 * timeout * DEAD) + 1.0
