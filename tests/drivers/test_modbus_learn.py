"""What is found out of a device that refuses some of what its map names; without any socket.

L1, peers 2: one illegal address dropped every field of its slave. L2, peers 14 to 16: try wide,
split on an exception, mark unavailable, join again.
"""

import json
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.drivers.modbus_learn import HOPELESS, MOST_IN_A_SCAN, Inquiry
from edge_agent.drivers.modbus_lessons import AGAIN, AGAIN_LATEST, AGAIN_SOON, Lessons
from edge_agent.drivers.modbus_parts import Spare
from edge_agent.drivers.modbus_plan import Bounds, ReadPlan, Request
from edge_agent.drivers.modbus_register import Register
from edge_agent.model import Quality

HR = Table.HOLDING_REGISTERS


@dataclass
class Device:
    """A device; register n holds n. What it says to a request is an exception code or its words.

    refused    addresses, and the exception of each
    borders    addresses that it does not read together with the one before
    longest    registers that one request may ask for; more is refused by ``too_long``
    mute       addresses that it says nothing about; patient: longest request that it answers at all
    everything what it answers to every request
    """

    refused: dict[int, int] = field(default_factory=dict)
    borders: set[int] = field(default_factory=set)
    longest: int = 125
    too_long: int = 3
    mute: set[int] = field(default_factory=set)
    patient: int = 125
    everything: int | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def answer(self, request: Request) -> list[int] | int | None:
        self.asked.append((request.address, request.count))
        addresses = range(request.address, request.last + 1)
        if self.everything is not None:
            return self.everything
        if request.count > self.patient or self.mute.intersection(addresses):
            return None
        if request.count > self.longest:
            return self.too_long
        for at in addresses:
            if at in self.refused:
                return self.refused[at]
            if at > request.address and at in self.borders:
                return 2
        return [at & 0xFFFF for at in addresses]


class Reader:
    """What the driver does with an inquiry, as far as an inquiry is concerned."""

    def __init__(
        self,
        columns: Sequence[Register],
        device: Device,
        lessons: Lessons | None = None,
        *,
        also: Sequence[Register] = (),
        check: bool = True,
        max_gap: int = 0,
    ) -> None:
        self.lessons = lessons or Lessons()
        self.check = check
        self.device, self.now, self.further = device, 1000.0, 0

        def make(bounds: Bounds, suspects: Sequence[tuple[int, ...]]) -> ReadPlan:
            declared = [register.span for register in also]
            return ReadPlan.build(
                columns, bounds=bounds, suspects=suspects, declared=declared, max_gap=max_gap
            )

        self.inquiry = Inquiry(make, self.lessons)

    def scan(self, spare: int = 100, step: float = 1.0) -> list[int] | None:
        """Return the qualities of a row, None if a request of the plan was not answered."""
        self.now += step
        plan = self.inquiry.begin(self.now)
        words, lost = np.zeros((1, plan.words), np.uint16), self.inquiry.lost
        for request in plan.requests:
            if self._ask(request, words, lost) is None:
                return None
        self.further = 0
        while self.further < spare and (more := self.inquiry.further()) is not None:
            self.further += 1
            self._ask(more, words, lost)
        self.inquiry.end()
        value, quality = plan.decode(words, lost)
        for column, register in enumerate(plan.registers):
            if self.check and quality[column, 0] < Quality.BAD:
                words_of = struct.pack(
                    f">{register.words}H", *range(register.first, register.last + 1)
                )
                assert value[column, 0] == float(int.from_bytes(words_of)), "a word went astray"
        return [int(q) for q in quality[:, 0]]

    def _ask(self, request: Request, words: np.ndarray, lost: np.ndarray) -> object:
        answer = self.device.answer(request)
        if answer is None:
            quality = self.inquiry.silent(request)
        elif isinstance(answer, int):
            quality = self.inquiry.refused(request, answer)
        else:
            self.inquiry.answered(request)
            quality = Quality.GOOD
            if request.offset >= 0:
                words[0, request.offset : request.offset + request.count] = answer
        if request.offset >= 0:
            lost[0, request.columns] = quality
        return answer

    @property
    def plan(self) -> list[tuple[int, int]]:
        return [(r.address, r.count) for r in self.inquiry.plan.requests]


def run_of(count: int, first: int = 0) -> list[Register]:
    return [Register(Address(HR, first + i)) for i in range(count)]


GOOD = int(Quality.GOOD)


# ---- refused registers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "quality"),
    [(2, Quality.BAD_ADDRESS), (3, Quality.BAD_DEVICE), (4, Quality.BAD_DEVICE)],
)
def test_one_refused_register_costs_only_its_own_tag(code: int, quality: Quality) -> None:
    """L1, peers 2; the neighbours have their values in the very scan of the refusal."""
    reader = Reader(run_of(100), Device({37: code}))
    expected = [GOOD] * 100
    expected[37] = int(quality)

    assert [reader.scan() for _ in range(4)] == [expected] * 4


def test_its_neighbours_are_read_together_again_around_it() -> None:
    """L2, peers 16: re-join."""
    device = Device({37: 2})
    reader = Reader(run_of(100), device)
    for _ in range(2):
        reader.scan()
    device.asked.clear()

    reader.scan()

    assert device.asked == [(0, 37), (38, 62)]


def test_a_refused_register_is_asked_again_ever_more_seldom() -> None:
    device = Device({5: 2})
    reader = Reader(run_of(10), device)
    probes = []
    for _ in range(10_000):
        device.asked.clear()
        reader.scan(step=2.0)
        if reader.now > 1020 and (5, 1) in device.asked:
            probes.append(reader.now)

    pauses = np.diff(probes)
    assert AGAIN <= probes[0] - 1000 < AGAIN + 20
    assert pauses[0] == pytest.approx(2 * AGAIN, abs=4)
    assert pauses.max() == pytest.approx(AGAIN_LATEST, abs=4)
    assert len(probes) < 15


def test_a_register_that_answers_again_is_read_with_the_others_and_so_are_its_like() -> None:
    """Half a device was away: when one register is back, the others are asked at once."""
    device = Device(dict.fromkeys(range(20, 30), 4))
    reader = Reader(run_of(40), device)
    for _ in range(10):
        reader.scan()
    assert len(reader.lessons.refused) == 10
    device.refused.clear()
    device.refused[25] = 4
    reader.now += AGAIN

    reader.scan()
    second = reader.scan()

    assert second == [GOOD] * 25 + [Quality.BAD_DEVICE] + [GOOD] * 14
    assert reader.plan == [(0, 25), (26, 14)]


def test_a_register_that_goes_every_night_is_asked_every_hour_for_all_that() -> None:
    """L2, peers 16: each return doubled the next pause, after ten nights it was a week."""
    lessons, now = Lessons(), 0.0
    for _ in range(20):
        lessons.bury((HR, 5, 5), 2, now)
        now = lessons.refused[HR, 5, 5].due
        lessons.revive((HR, 5, 5), now)
    lessons.bury((HR, 5, 5), 2, now)

    assert lessons.refused[HR, 5, 5].due == now + AGAIN_LATEST


def test_a_block_that_was_away_for_long_is_noticed_soon_when_it_is_back() -> None:
    """Its registers are asked one after the other, not all once an hour."""
    device = Device()
    reader = Reader([*run_of(100), *run_of(10, first=200)], device, check=False)
    reader.scan()
    device.refused = dict.fromkeys(range(100), 4)
    for _ in range(2000):
        reader.scan(step=10.0)
    assert len(reader.lessons.refused) == 100
    device.refused = {}
    back = reader.now
    while reader.lessons.refused:
        reader.scan(step=1.0)

    assert reader.now - back < 180
    assert reader.scan() == [GOOD] * 110


def test_a_register_that_had_answered_before_is_believed_longer_and_asked_sooner() -> None:
    device = Device()
    reader = Reader(run_of(10), device)
    reader.scan()
    device.refused[4] = 4
    buried_after = 0
    while not reader.lessons.refused:
        reader.scan()
        buried_after += 1

    (fact,) = reader.lessons.refused.values()
    assert buried_after > 3
    assert fact.interval == AGAIN_SOON


def test_what_a_device_never_answered_to_is_not_learnt() -> None:
    """Nothing tells a device with one wrong tag from a device that is not ready."""
    device = Device({0: 2})
    reader = Reader(run_of(1), device)

    rows = [reader.scan() for _ in range(5)]

    assert rows == [[Quality.BAD_ADDRESS]] * 5
    assert not reader.lessons.refused
    assert len(device.asked) == 5


@pytest.mark.parametrize("code", [2, 4, 5, 6])
def test_a_device_that_refuses_everything_for_a_while_teaches_nothing(code: int) -> None:
    """It starts, or its measuring part is away: exception 4 for all, or busy (5, 6)."""
    device = Device()
    reader = Reader([*run_of(60), *run_of(60, first=100)], device)
    reader.scan()
    device.everything = code
    for _ in range(10):
        device.asked.clear()
        assert reader.scan() == [Quality.BAD_DEVICE] * 120
        assert len(device.asked) <= 10
    device.everything = None
    device.asked.clear()

    assert reader.scan() == [GOOD] * 120
    assert device.asked == [(0, 60), (100, 60)]
    assert reader.lessons.told() == []


def test_a_passing_refusal_of_one_request_teaches_nothing() -> None:
    device = Device()
    reader = Reader([*run_of(60), *run_of(60, first=100)], device)
    for code in (4, 2, 6, 4):
        reader.scan()
        device.refused = dict.fromkeys(range(100, 160), code)
        reader.scan()
        device.refused = {}
        assert reader.scan() == [GOOD] * 120
        reader.scan()

    assert reader.lessons.told() == []
    assert reader.plan == [(0, 60), (100, 60)]


def test_finding_out_goes_on_in_the_next_scan_when_there_is_no_time_left() -> None:
    """However many registers are wrong, a scan asks for little more than its plan."""
    device = Device(dict.fromkeys(range(0, 120, 3), 2))
    reader = Reader(run_of(120), device)
    most = 0
    for _ in range(400):
        device.asked.clear()
        reader.scan(spare=1)
        most = max(most, len(device.asked) - len(reader.plan))

    row = reader.scan(spare=0)

    assert most <= 2
    assert row == [Quality.BAD_ADDRESS if at % 3 == 0 else GOOD for at in range(120)]
    assert len(reader.plan) == 40


def test_a_scan_asks_for_a_bounded_number_of_parts() -> None:
    device = Device(dict.fromkeys(range(0, 120, 2), 2))
    reader = Reader(run_of(120), device)

    reader.scan(spare=10_000)
    first = len(device.asked)
    most = 0
    for _ in range(50):
        reader.scan(spare=10_000)
        most = max(most, reader.further)

    assert first == HOPELESS
    assert most == MOST_IN_A_SCAN
    assert len(reader.lessons.refused) == 60


def test_a_register_refused_within_another_that_answers_costs_only_itself() -> None:
    inner, outer = Register(Address(HR, 1), "bool"), Register(Address(HR, 0), "u32")

    class Picky(Device):
        def answer(self, request: Request) -> list[int] | int | None:
            words = super().answer(request)
            return 2 if request.count == 4 or request.address == 1 else words

    device = Picky()
    columns = [outer, inner, *run_of(2, first=2)]
    lessons = Lessons()
    make = partial(_plan, columns)
    inquiry = Inquiry(make, lessons)
    for now in range(8):
        plan = inquiry.begin(float(now))
        for request in plan.requests:
            _tell(inquiry, request, device.answer(request))
        while (more := inquiry.further()) is not None:
            _tell(inquiry, more, device.answer(more))
        inquiry.end()

    assert list(lessons.refused) == []
    asked = {(r.address, r.count) for r in inquiry.plan.requests}
    assert asked == {(0, 3), (3, 1)}


def _plan(
    columns: Sequence[Register], bounds: Bounds, suspects: Sequence[tuple[int, ...]]
) -> ReadPlan:
    return ReadPlan.build(columns, bounds=bounds, suspects=suspects)


def _tell(inquiry: Inquiry, request: Request, answer: object) -> None:
    if isinstance(answer, int):
        inquiry.refused(request, answer)
    else:
        inquiry.answered(request)


# ---- borders and sizes ------------------------------------------------------------------------


def test_a_border_of_the_device_is_found_and_never_crossed_again() -> None:
    device = Device(borders={30})
    reader = Reader(run_of(100), device)
    for _ in range(6):
        assert reader.scan() == [GOOD] * 100
    device.asked.clear()

    reader.scan()

    assert device.asked == [(0, 30), (30, 70)]
    assert reader.lessons.told() == ["no request reads hr:29 and hr:30"]


@pytest.mark.parametrize("code", [3, 2])
def test_a_device_that_gives_only_short_answers_is_asked_for_less(code: int) -> None:
    """Code 3 is the right one for too many registers; some say 2."""
    device = Device(longest=60, too_long=code)
    reader = Reader(run_of(240), device)
    for _ in range(8):
        assert reader.scan() == [GOOD] * 240
    device.asked.clear()

    reader.scan()

    assert len(device.asked) == 4
    assert max(count for _, count in device.asked) <= 60
    assert reader.lessons.bounds.borders == frozenset()


def test_coils_have_a_longest_request_of_their_own() -> None:
    """A controller that gives 512 coils at once, and 125 registers."""

    class Controller(Device):
        def answer(self, request: Request) -> list[int] | int | None:
            self.longest = 512 if request.table.is_bits else 125
            words = super().answer(request)
            return [1] * request.count if isinstance(words, list) else words

    coils = [Register(Address(Table.COILS, at), "bool") for at in range(1, 1201)]
    device = Controller(patient=2000)
    reader = Reader(coils, device, check=False)
    for _ in range(12):
        assert reader.scan() == [GOOD] * 1200
    device.asked.clear()

    reader.scan()

    assert len(device.asked) == 3
    assert reader.lessons.bounds == Bounds(max_bits=512)


def test_a_refused_register_of_the_slow_stream_does_not_harm_the_fast_one() -> None:
    """Registers of the other stream are read along, until one of them is refused."""
    fast = [Register(Address(HR, at)) for at in range(0, 30, 2)]
    slow = [Register(Address(HR, at)) for at in range(1, 30, 2)]
    device = Device({7: 2})
    readers = [Reader(fast, device, also=slow)]
    readers.append(Reader(slow, device, readers[0].lessons, also=fast))
    for _ in range(4):
        assert readers[0].scan() == [GOOD] * 15
        assert (readers[1].scan() or []).count(GOOD) == 14

    assert readers[0].plan == [(0, 7), (8, 21)]
    assert readers[1].plan == [(1, 5), (9, 21)]


def test_longer_requests_are_tried_again_and_lose_no_value() -> None:
    device = Device(longest=30)
    reader = Reader(run_of(120), device)
    rows = [reader.scan() for _ in range(40)]
    at_first = reader.plan
    device.longest = 125
    rows += [reader.scan(step=20.0) for _ in range(40)]

    assert at_first == [(0, 30), (30, 30), (60, 30), (90, 30)]
    assert reader.plan == [(0, 120)]
    assert rows == [[GOOD] * 120] * 80


def test_a_border_that_is_none_any_more_is_read_over_again() -> None:
    device = Device(borders={30})
    reader = Reader(run_of(60), device)
    rows = [reader.scan() for _ in range(40)]
    at_first = reader.plan
    device.borders.clear()
    rows += [reader.scan(step=20.0) for _ in range(40)]

    assert at_first == [(0, 30), (30, 30)]
    assert reader.plan == [(0, 60)]
    assert rows == [[GOOD] * 60] * 80


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_what_a_noisy_line_has_taught_is_forgotten_when_the_noise_is_over(share: float) -> None:
    """L1: a device on a bad line must not be read register by register for ever after."""

    class Noisy(Device):
        random = random.Random(7)
        share = 0.0

        def answer(self, request: Request) -> list[int] | int | None:
            words = super().answer(request)
            if self.random.random() < self.share:
                return self.random.choice([2, 4, 6, None])
            return words

    device = Noisy({37: 2})
    device.share = share
    reader = Reader([*run_of(60), *run_of(40, first=100)], device, check=False)
    other = Reader(run_of(2, first=300), device, reader.lessons)
    most = 0
    for _ in range(600):
        reader.scan(spare=8)
        other.scan(step=0.0)
        most = max(most, len(reader.plan))
    device.share = 0.0
    for _ in range(400):
        reader.scan(spare=8, step=10.0)

    assert most < 20
    assert reader.plan == [(0, 37), (38, 22), (100, 40)]


def test_block_reads_that_are_too_large_for_a_device_become_smaller() -> None:
    """L2, peers 20: too large a block is answered too late, or not at all; short ones are."""
    device = Device(patient=40)
    reader = Reader(run_of(100), device)
    slow = Reader(run_of(2, first=200), device, reader.lessons)  # the other stream of the device
    silent = 0
    for _ in range(12):
        silent += reader.scan() is None
        slow.scan()
    device.asked.clear()

    assert reader.scan() == [GOOD] * 100
    assert max(count for _, count in device.asked) <= 40
    assert silent <= 4
    assert not reader.lessons.refused


def test_a_register_that_silences_the_device_costs_only_its_own_tag() -> None:
    """Some devices say nothing to what they do not know."""
    device = Device(mute={7})
    reader = Reader(run_of(20), device)
    other = Reader(run_of(2, first=200), device, reader.lessons)
    for _ in range(20):
        reader.scan()
        other.scan()
    device.asked.clear()

    row = reader.scan()

    assert row == [GOOD] * 7 + [Quality.BAD_NO_ANSWER] + [GOOD] * 12
    assert device.asked == [(0, 7), (8, 12)]


def test_a_device_that_is_silent_altogether_teaches_nothing() -> None:
    device = Device()
    reader = Reader(run_of(100), device)
    reader.scan()
    device.patient = 0
    for _ in range(10):
        assert reader.scan() is None
    device.patient = 125

    assert reader.scan() == [GOOD] * 100
    assert reader.plan == [(0, 100)]


def test_a_device_that_falls_silent_while_it_is_taken_apart_is_called_silent() -> None:
    """Also in scans in which there was no time to ask it; until it is heard from elsewhere."""
    device = Device(refused={1: 2})
    reader = Reader(run_of(2), device)
    device.everything = 4
    reader.scan()
    device.everything, device.patient = None, 0
    reader.scan()
    assert reader.plan == []
    unheard = [reader.inquiry.is_unheard]
    reader.scan(spare=0)
    unheard.append(reader.inquiry.is_unheard)
    reader.lessons.heard += 1  # a probe was answered

    assert [*unheard, reader.inquiry.is_unheard] == [True, True, False]


# ---- any device -------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Register], Device]:
    """A map with holes and a device that refuses some of it; undeclared registers are refused."""
    columns, at = [], 0
    for _ in range(draw(st.integers(2, 40))):
        kind = draw(st.sampled_from(["u16", "u16", "u32", "u64"]))
        columns.append(Register(Address(HR, at), kind))  # type: ignore[arg-type]  # literals
        at += columns[-1].words + draw(st.sampled_from([0, 0, 0, 0, 1, 3]))
    known = {a for c in columns for a in range(c.first, c.last + 1)}
    refused = {a: 2 for a in range(at + 200) if a not in known}
    for column in draw(st.sets(st.sampled_from(columns), max_size=len(columns) - 1)):
        refused[column.first] = draw(st.sampled_from([2, 3, 4]))
    starts = [c.first for c in columns]
    return columns, Device(refused, draw(st.sets(st.sampled_from(starts), max_size=3)))


def settle(reader: Reader, spare: int = 100) -> None:
    """Scan until nothing is found out any more, for 50 seconds at most: no register is due then."""
    quiet, until = 0, reader.now + 50
    while quiet < 4 and reader.now < until:
        reader.scan(spare, step=0.1)
        quiet = 0 if reader.further else quiet + 1


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(world=worlds(), spare=st.sampled_from([1, 3, 100]))
def test_whatever_is_refused_the_rest_is_read_in_the_fewest_requests(
    world: tuple[list[Register], Device], spare: int
) -> None:
    columns, device = world
    dead = [c for c in columns if c.first in device.refused]
    borders = frozenset((HR, at) for at in device.borders)
    bounds = Bounds(dead=frozenset(c.span for c in dead), borders=borders)
    best = ReadPlan.build(columns, bounds=bounds)
    known = {a for c in columns for a in range(c.first, c.last + 1)}
    reader = Reader(columns, device)
    settle(reader, spare)

    device.asked.clear()
    row = reader.scan(step=0.01)

    assert [q < Quality.BAD for q in row or []] == [c not in dead for c in columns]
    assert [(r.address, r.count) for r in best.requests] == device.asked
    assert all(known.issuperset(range(at, at + count)) for at, count in device.asked)


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(world=worlds(), longest=st.integers(4, 30), code=st.sampled_from([2, 3]))
def test_whatever_the_longest_answer_is_everything_is_read(
    world: tuple[list[Register], Device], longest: int, code: int
) -> None:
    columns, device = world
    device.longest, device.too_long = longest, code
    dead = [c for c in columns if c.first in device.refused]
    reader = Reader(columns, device)
    settle(reader)

    device.asked.clear()
    row = reader.scan(step=0.01)

    assert [q < Quality.BAD for q in row or []] == [c not in dead for c in columns]
    assert reader.further == 0
    assert max((count for _, count in device.asked), default=0) <= longest


def test_while_it_is_found_out_nothing_undeclared_is_read() -> None:
    """L2, peers 15: touching one undefined register corrupts the next answer by 4 bytes."""
    columns = [Register(Address(HR, at)) for at in range(90) if at % 9 != 8]
    device = Device({4: 2, 50: 4}, borders={66})
    reader = Reader(columns, device)
    for _ in range(200):
        reader.scan()

    touched = {a for at, count in device.asked for a in range(at, at + count)}
    assert not touched & {at for at in range(90) if at % 9 == 8}
    assert (reader.scan() or []).count(GOOD) == len(columns) - 2


@pytest.mark.parametrize("spoilt", [0, None])
def test_a_gap_that_spoils_the_next_answer_is_not_read_for_long(spoilt: int | None) -> None:
    """L2, peers 15, where the template allows gaps: what comes next is garbled, or nothing."""

    class Poisonous(Device):
        poisoned = False

        def answer(self, request: Request) -> list[int] | int | None:
            words, was = super().answer(request), self.poisoned
            self.poisoned = request.address <= 8 <= request.last
            return spoilt if was else words

    columns = [*run_of(8), *run_of(8, first=9), *run_of(3, first=100)]
    device = Poisonous()
    reader = Reader(columns, device, max_gap=4)
    rows = [reader.scan() for _ in range(24)]
    device.asked.clear()

    assert rows[-1] == [GOOD] * 19
    assert (reader.scan() or []).count(GOOD) == 19
    assert device.asked == [(0, 8), (9, 8), (100, 3)]
    assert reader.lessons.told() == ["no undeclared register is read"]
    again = Lessons()
    again.load(saved(reader), [c.span for c in columns], now=0.0)
    assert again.bounds.no_gaps


def test_gaps_that_do_no_harm_are_read_as_the_template_allows() -> None:
    class Flaky(Device):
        random = random.Random(3)

        def answer(self, request: Request) -> list[int] | int | None:
            return 0 if self.random.random() < 0.1 else super().answer(request)

    reader = Reader([*run_of(8), *run_of(8, first=9), *run_of(3, first=100)], Flaky(), max_gap=4)
    for _ in range(500):
        reader.scan()

    assert reader.plan == [(0, 17), (100, 3)]


# ---- over restarts ----------------------------------------------------------------------------


def saved(reader: Reader) -> dict[str, object]:
    state = json.loads(json.dumps(reader.lessons.save()))
    assert isinstance(state, dict)
    return state


def test_what_was_learnt_is_not_found_out_again_after_a_restart() -> None:
    device = Device({3: 2, 70: 4}, borders={40}, longest=30)
    columns = run_of(80)
    first = Reader(columns, device)
    for _ in range(20):
        first.scan()
    lessons = Lessons()
    lessons.load(saved(first), [c.span for c in columns], now=1000.0)
    device.asked.clear()

    again = Reader(columns, device, lessons)
    row = again.scan()

    assert (row or []).count(GOOD) == 78
    assert again.plan == first.plan
    assert device.asked == again.plan
    assert lessons.told() == first.lessons.told()


def test_a_refused_register_of_another_map_is_not_taken_over() -> None:
    state = {"refused": [["hr", 3, 3, 2, 60.0], ["hr", 500, 500, 2, 60.0]]}
    lessons = Lessons()

    lessons.load(state, [c.span for c in run_of(10)], now=0.0)

    assert list(lessons.refused) == [(HR, 3, 3)]


@pytest.mark.parametrize(
    "state",
    [
        {}, {"refused": 5, "borders": "x", "most": None}, {"refused": [[1, 2]], "most": [[]]},
        {"refused": [["zz", 1, 1, 2, 3.0], ["hr", "a", None, 2, "b"]]},
        {"borders": [["hr", -4, 1], ["hr", True, 1], [None, 3, "x"]]},
        {"most": [[True, -3, 1], [0, "x", 2]]},
    ],
)  # fmt: skip
def test_what_is_no_state_is_passed_over(state: dict[str, object]) -> None:
    lessons = Lessons()

    lessons.load(state, [c.span for c in run_of(10)], now=0.0)

    assert lessons.bounds == Bounds()


# ---- the time it may take ---------------------------------------------------------------------


def test_finding_out_takes_a_twentieth_of_the_time_of_a_link() -> None:
    spare, now, taken = Spare(), 100.0, 0.0
    for _ in range(6000):
        now += 0.01
        if spare.is_left(now):
            spare.spend(0.04)
            taken += 0.04
            now += 0.04

    assert taken / (now - 100.0) == pytest.approx(0.05, abs=0.01)


def test_after_a_quiet_hour_it_takes_no_more_than_a_moment_at_once() -> None:
    spare = Spare()
    assert spare.is_left(5000.0)

    asked = 0
    while spare.is_left(5000.0):
        spare.spend(0.02)
        asked += 1

    assert asked * 0.02 <= 0.12
