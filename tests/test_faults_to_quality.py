"""Every fault over every protocol ends as quality, never as a wrong good value (lesson L3).

One run of the real agent, a quarter of a minute: a link for each fault and protocol. Each device is
well at first, then has its trouble for three seconds, then is well again.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from edge_agent.model import Quality, SampleBlock
from tests.sick_plant import SECOND, Plant, Run, play, waited, wrong

PERIOD = 1.0
BEGIN, LAST = 2.0, 3.0  # seconds: when the trouble begins, and how long it lasts
BACK = 2.0  # seconds within which a device is back, if it does not wait for a processor
SECONDS = BEGIN + LAST + BACK + 3.0

PROTOCOLS = (
    "modbus+tcp", "modbus+rtu-over-tcp", "modbus+rtu",
    "dlt645+tcp", "dlt645+serial", "cjt188+tcp", "cjt188+serial",
)  # fmt: skip
AT = {"modbus": "hr:4", "dlt645": "di:02030000"}
BAD = (
    "silence", "exception, code: 4", "busy, code: 6", "busy, code: 5", "short", "corrupt",
    "garbage", "reset", "half-open, new: silent", "half-open, new: refused", "restart",
    "late-by-one",
)  # fmt: skip
PARTLY = ("hole", "poison")  # one column of them, or one answer
UNSEEN = (
    "delay, by: 100ms", "delay, by: 700ms", "half-open, new: answered", "frozen", "rollover",
    "glitch, times: 0", "glitch, times: 10", "counter-reset", "restart, counters: anew",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    protocol: str
    trouble: str

    @property
    def written(self) -> str:
        kind, _, rest = self.trouble.partition(",")
        places = {"hole": ", count: 2", "poison": ", bytes: 4"}
        if kind in places:
            rest = f"at: '{AT[self.protocol.partition('+')[0]]}'{places[kind]}"
        return f"{kind}, from: {BEGIN}s, for: {LAST}s" + (f", {rest}" if rest else "")


def cases(*troubles: str) -> list[Case]:
    return [
        Case(protocol, trouble)
        for protocol in PROTOCOLS
        for trouble in troubles
        if trouble not in PARTLY or protocol.partition("+")[0] in AT
    ]


ALL = cases(*BAD, *PARTLY, *UNSEEN)
# a unit that was out of step is believed only when its old answers must have come; what a device
# refuses is learnt, and asked for again seldom
SLOWLY = ("late-by-one", "short", "hole")
BACK_SOON = [case for case in ALL if case.trouble not in SLOWLY]
pytestmark = pytest.mark.timeout(120)  # the plant starts and runs in the first test's time


def plant() -> Plant:
    """A device for each case, in their order."""
    made = Plant(PERIOD)
    for case in ALL:
        made.link(case.protocol, case.written, timeout="250ms")
    return made


@dataclass
class Seen:
    run: Run
    stored: dict[str, SampleBlock]

    def name(self, case: Case) -> str:
        return list(self.run.plant.devices)[ALL.index(case)]

    def rows(self, case: Case, begin: float, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the times (seconds since the zero) and qualities of some rows of a device."""
        block = self.stored[f"{self.name(case)}/raw"]
        seconds = (block.time - self.run.zero) / SECOND
        these = (seconds >= begin) & (seconds < end)
        return seconds[these], block.quality[:, these]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    run = asyncio.run(play(plant(), tmp_path_factory.mktemp("faults"), SECONDS))
    return Seen(run, run.stored())


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.protocol}: {c.trouble}")
def test_no_good_value_is_wrong(seen: Seen, case: Case) -> None:
    assert list(wrong(seen.run, seen.stored, seen.name(case))) == []


@pytest.mark.parametrize("case", cases(*BAD, *PARTLY), ids=lambda c: f"{c.protocol}: {c.trouble}")
def test_trouble_is_told_as_quality(seen: Seen, case: Case) -> None:
    _, before = seen.rows(case, 0.0, BEGIN - 0.2)
    _, meanwhile = seen.rows(case, BEGIN, BEGIN + LAST)

    assert (before == Quality.GOOD).all(axis=0).any()
    assert (meanwhile >= Quality.BAD).any()


@pytest.mark.parametrize("case", BACK_SOON, ids=lambda c: f"{c.protocol}: {c.trouble}")
def test_a_device_is_back_within_two_seconds(seen: Seen, case: Case) -> None:
    when, quality = seen.rows(case, BEGIN + LAST, SECONDS)
    good = when[(quality == Quality.GOOD).all(axis=0)]

    assert len(good) > 0
    zero, end = seen.run.zero, BEGIN + LAST
    span = (zero + round(t * SECOND) for t in (end, float(good[0])))
    assert good[0] - end < BACK + waited(seen.run, *span)
