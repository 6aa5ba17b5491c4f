"""The runners of links and sinks, on a virtual clock with peers that misbehave as told."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edge_agent.clock import SECOND, VirtualClock
from edge_agent.delivery import run_sink
from edge_agent.drivers.base import Group
from edge_agent.errors import Disconnected, NoAnswer, Unreachable
from edge_agent.health import LinkHealth, SinkHealth, State
from edge_agent.model import Family, Quality, SampleBlock, Schema, Tag, no_answer
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.sinks.base import Item
from edge_agent.supervisor import run_driver
from edge_agent.units import Unit


def group(device: str, period: float | None = 1.0) -> Group:
    tag = Tag("active_power", Unit.parse("kW"))
    return Group(Schema(f"{device}/raw", Family.SAMPLE, (tag,), period or 5.0), period)


@dataclass
class Line:
    """A line with units behind it; ``trouble`` is asked before every connect and read."""

    clock: VirtualClock
    groups: tuple[Group, ...]
    trouble: Callable[[str, float], BaseException | None] = lambda *_: None
    answer_time: float = 0.01
    connect_time: float = 0.0
    connects: list[float] = field(default_factory=list)
    reads: list[tuple[str, float]] = field(default_factory=list)
    closes: int = 0

    async def connect(self) -> None:
        self.connects.append(self.clock.monotonic())
        if self.connect_time:
            await self.clock.sleep(self.connect_time)
        await self._meet("connect")

    async def read(self, group: Group) -> SampleBlock:
        device = group.schema.owner
        self.reads.append((device, self.clock.monotonic()))
        if group.period is None:
            await self.clock.sleep(2.0)
        await self.clock.sleep(self.answer_time)
        await self._meet(device)
        time = np.array([self.clock.wall_ns()], np.int64)
        return SampleBlock(group.schema, time, np.ones((1, 1)), np.zeros((1, 1), np.uint8))

    async def close(self) -> None:
        self.closes += 1

    async def _meet(self, what: str) -> None:
        trouble = self.trouble(what, self.clock.monotonic())
        if trouble is not None:
            if isinstance(trouble, NoAnswer):
                await self.clock.sleep(0.3)  # the time-out
            raise trouble


@dataclass
class Rows:
    """What the runner handed on."""

    blocks: list[tuple[SampleBlock, bool]] = field(default_factory=list)

    def __call__(self, block: SampleBlock, *, substituted: bool = False) -> None:
        assert block.lawful()
        self.blocks.append((block, substituted))

    def of(self, device: str) -> list[tuple[int, int, bool]]:
        """Time, quality and whether substituted, row by row."""
        return [
            (int(t), int(q), substituted)
            for block, substituted in self.blocks
            if block.schema.owner == device
            for t, q in zip(block.time, block.quality[0], strict=True)
        ]


async def run_for(seconds: float, line: Line, rows: Rows, batch: float = 1.0) -> LinkHealth:
    health = LinkHealth("line-1", tuple(g.schema.owner for g in line.groups))
    task = asyncio.create_task(run_driver(health, line, rows, line.clock, batch))
    end = line.clock.monotonic() + seconds
    while line.clock.monotonic() < end and not task.done():  # noqa: ASYNC110  time is virtual
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    return health


async def test_the_schedule_does_not_drift() -> None:
    clock = VirtualClock()
    line, rows = Line(clock, (group("em-1"),)), Rows()
    await run_for(600, line, rows)
    asked = [t for _, t in line.reads]
    assert np.allclose(np.diff(asked), 1.0)
    assert asked[-1] == pytest.approx(600, abs=1.5)


async def test_the_first_scan_is_read_as_soon_as_the_link_is_up_whatever_the_period() -> None:
    clock = VirtualClock()
    line = Line(clock, (group("em-1", 60.0), group("em-2", 900.0)), connect_time=0.2)
    health = await run_for(1800, line, Rows())
    first = {name: min(t for device, t in line.reads if device == name) for name in health.devices}
    assert first == {"em-1": 0.2, "em-2": 0.21}
    assert health.ticks_missed == 0
    later = [t for device, t in line.reads if device == "em-2" and t > 1]
    assert later == [450.0, 1350.0]  # the groups of a line are spread


async def test_a_link_that_has_never_answered_is_answered_for_from_its_first_failure() -> None:
    clock = VirtualClock()
    start = clock.now_ns
    refused = lambda what, _: Disconnected("refused") if what == "connect" else None  # noqa: E731
    line, rows = Line(clock, (group("em-1", 60.0),), refused, connect_time=0.2), Rows()
    await run_for(600, line, rows)
    times = [(t - start) / SECOND for t, _, _ in rows.of("em-1")[:10]]
    assert times == pytest.approx([0.2, *(60.0 * i for i in range(1, 10))])
    assert all(q == Quality.BAD_NO_ANSWER and s for _, q, s in rows.of("em-1"))


async def test_a_silent_unit_costs_the_others_of_its_line_no_poll() -> None:
    clock = VirtualClock()
    devices = ("em-1", "em-2", "em-3", "em-4")
    silent = lambda what, _: NoAnswer("em-2") if what == "em-2" else None  # noqa: E731
    line, rows = Line(clock, tuple(map(group, devices)), silent), Rows()
    health = await run_for(300, line, rows)
    for device in ("em-1", "em-3", "em-4"):
        found = rows.of(device)
        assert 299 <= len(found) <= 301
        assert all(q == Quality.GOOD for _, q, _ in found)
    dead = rows.of("em-2")
    assert 299 <= len(dead) <= 301
    assert all(q == Quality.BAD_NO_ANSWER and s for _, q, s in dead)
    assert sum(d == "em-2" for d, _ in line.reads) * 0.31 <= 0.05 * 300 + 0.31  # probed, not polled
    assert health.silent == {"em-2"}
    assert health.state is State.STOPPED


async def test_a_unit_that_answers_again_is_polled_again() -> None:
    clock = VirtualClock()
    away = lambda what, now: NoAnswer("em-2") if what == "em-2" and now < 60 else None  # noqa: E731
    line, rows = Line(clock, (group("em-1"), group("em-2")), away), Rows()
    health = await run_for(200, line, rows)
    back = next(t for t, q, _ in rows.of("em-2") if q == Quality.GOOD)
    assert (back - rows.of("em-2")[0][0]) / SECOND < 60 + 20 * 0.31 + 0.5
    assert health.silent == set()


@dataclass
class ProbedLine(Line):
    """A line whose units can be asked for one register."""

    probes: list[tuple[str, float]] = field(default_factory=list)

    async def probe(self, device: str) -> None:
        self.probes.append((device, self.clock.monotonic()))
        await self.clock.sleep(self.answer_time / 10)
        await self._meet(device)


async def test_dead_units_together_cost_a_line_5_percent_and_the_others_no_poll() -> None:
    """L1, peers 9 and 10: one dead unit fills the bus; fail fast, but only for that unit."""
    clock = VirtualClock()
    dead = {f"em-{i}" for i in range(5)}
    silent = lambda what, _: NoAnswer(what) if what in dead else None  # noqa: E731
    groups = tuple(group(f"em-{i}") for i in range(10))
    line, rows = ProbedLine(clock, groups, silent), Rows()
    health = await run_for(600, line, rows)
    lost = 0.3 * (len(line.probes) + sum(device in dead for device, _ in line.reads))
    assert lost <= 0.05 * 600 + 0.3 * len(dead)  # and the time-outs by which they were found dead
    assert health.timeouts == len(line.probes) + len(dead)
    assert {device for device, _ in line.probes} == dead
    for i in range(5, 10):
        found = rows.of(f"em-{i}")
        assert 599 <= len(found) <= 601
        assert {q for _, q, _ in found} == {Quality.GOOD}
    assert health.ticks_missed <= 1  # while all five were found dead in the first two seconds


async def test_a_unit_alone_on_its_line_is_back_within_two_seconds() -> None:
    clock = VirtualClock()
    away = lambda what, now: NoAnswer(what) if 20 <= now < 60 else None  # noqa: E731
    line, rows = ProbedLine(clock, (group("em-1"), group("em-1", 60.0)), away), Rows()
    await run_for(100, line, rows)
    start = rows.of("em-1")[0][0]
    back = min(t for t, q, _ in rows.of("em-1") if q == Quality.GOOD and t > start + 59 * SECOND)
    assert (back - start) / SECOND < 62


async def test_all_that_a_unit_has_is_read_when_it_is_back() -> None:
    clock = VirtualClock()
    away = lambda what, now: NoAnswer(what) if 20 <= now < 40 else None  # noqa: E731
    slow = Group(Schema("em-1/raw.slow", Family.SAMPLE, group("em-1").schema.tags, 900.0), 900.0)
    line, rows = ProbedLine(clock, (group("em-1"), slow), away), Rows()
    await run_for(100, line, rows)
    times = [b.time[0] / SECOND for b, _ in rows.blocks if b.schema.name == "raw.slow"]
    start = rows.of("em-1")[0][0] / SECOND
    assert [round(t - start) for t in times] == [0, 40]


async def test_a_unit_that_comes_and_goes_costs_no_more_than_a_dead_one() -> None:
    clock = VirtualClock()
    flaps = lambda what, now: NoAnswer(what) if what == "em-1" and now % 7 < 4 else None  # noqa: E731
    line, rows = ProbedLine(clock, (group("em-1"), group("em-2"), group("em-3")), flaps), Rows()
    health = await run_for(600, line, rows)
    assert 5 < health.timeouts <= 0.05 * 600 / 0.3 + 1
    assert all(q == Quality.GOOD for d in ("em-2", "em-3") for _, q, _ in rows.of(d))
    answered = [t for t, q, _ in rows.of("em-1") if q == Quality.GOOD]
    assert len(answered) > 80  # it is there for 3 s of 7, and 1 s of these is the longest wait


async def test_what_a_scan_has_read_before_it_met_silence_does_not_delay_the_probe() -> None:
    """20 time-outs, not 20 scans: a meter of many items was left alone for minutes."""
    clock = VirtualClock()

    def away(what: str, now: float) -> NoAnswer | None:
        return NoAnswer(what, waited=0.3) if what == "em-2" and 20 <= now < 30 else None

    line, rows = ProbedLine(clock, (group("em-1", 10.0), group("em-2", 10.0)), away), Rows()
    line.answer_time = 4.0
    health = await run_for(60, line, rows)
    assert health.timeouts > 0
    assert health.silent == set()
    assert [q for _, q, _ in rows.of("em-2")].count(Quality.BAD_NO_ANSWER) <= 2


async def test_a_full_line_still_probes() -> None:
    clock = VirtualClock()
    away = lambda what, now: NoAnswer(what) if what == "em-2" and 20 <= now < 60 else None  # noqa: E731
    line = ProbedLine(clock, (group("em-1"), group("em-2"), group("em-3")), away, answer_time=0.6)
    rows = Rows()
    health = await run_for(120, line, rows)
    assert health.ticks_missed > 0
    assert health.silent == set()


async def test_links_with_different_phases_ask_at_different_times() -> None:
    clock = VirtualClock()
    lines = [Line(clock, (group(f"em-{i}"),)) for i in range(4)]
    tasks = [
        asyncio.create_task(
            run_driver(LinkHealth(f"l{i}", (f"em-{i}",)), line, Rows(), clock, 1.0, phase=i / 4)
        )
        for i, line in enumerate(lines)
    ]
    while clock.monotonic() < 10:  # noqa: ASYNC110  time is virtual
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    phases = [line.reads[-1][1] % 1.0 for line in lines]
    assert phases == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=1e-6)


async def test_a_link_that_is_down_still_gives_a_row_each_period() -> None:
    clock = VirtualClock()
    down = lambda what, now: Disconnected("refused") if what == "connect" and now < 30 else None  # noqa: E731
    line, rows = Line(clock, (group("em-1"), group("em-2", 5.0)), down), Rows()
    await run_for(120, line, rows)
    fast, slow = rows.of("em-1"), rows.of("em-2")
    assert 118 <= len(fast) <= 121
    assert 23 <= len(slow) <= 25
    assert {q for _, q, _ in fast} == {Quality.GOOD, Quality.BAD_NO_ANSWER}
    assert np.diff([t for t, _, _ in fast]).max() <= 2.1 * SECOND


async def test_a_refusing_peer_is_not_stormed() -> None:
    clock = VirtualClock()
    refused = lambda what, _: Disconnected("refused") if what == "connect" else None  # noqa: E731
    line, rows = Line(clock, (group("em-1"),), refused), Rows()
    await run_for(600, line, rows)
    assert len(line.connects) < 70
    assert np.diff(line.connects).max() <= 30.5


async def test_a_connection_that_brings_no_scan_is_not_stormed_either() -> None:
    clock = VirtualClock()
    lost = lambda what, _: Disconnected("reset by peer") if what == "em-1" else None  # noqa: E731
    line, rows = Line(clock, (group("em-1"),), lost), Rows()
    await run_for(600, line, rows)
    assert len(line.connects) < 70
    assert 595 <= len(rows.of("em-1")) <= 700


@pytest.mark.parametrize("outage", [3, 60, 3600])
@pytest.mark.parametrize("at", ["connect", "em-1"])  # refused, or closed before anything was heard
async def test_a_link_that_refused_is_read_within_two_seconds_of_its_return(
    outage: int, at: str
) -> None:
    clock = VirtualClock()
    away = lambda what, now: Unreachable("refused") if what == at and now < outage else None  # noqa: E731
    line, rows = Line(clock, (group("em-1"),), away), Rows()
    begin = clock.now_ns
    await run_for(outage + 10, line, rows)
    first = next(t for t, quality, _ in rows.of("em-1") if quality == Quality.GOOD)
    assert outage <= (first - begin) / SECOND < outage + 2
    assert rows.of("em-1")[-1][1] == Quality.GOOD
    assert len(line.connects) <= outage * 2 + 6


async def test_a_pushed_group_and_polled_groups_share_a_connection() -> None:
    clock = VirtualClock()
    line, rows = Line(clock, (group("plc-1", None), group("plc-2"))), Rows()
    await run_for(100, line, rows)
    assert 48 <= len(rows.of("plc-1")) <= 51
    assert 99 <= len(rows.of("plc-2")) <= 101


async def test_the_first_disconnection_ends_all_tasks_of_the_connection() -> None:
    clock = VirtualClock()

    def lost(what: str, now: float) -> BaseException | None:
        return Disconnected("cut") if what in {"plc-1", "connect"} and 50 < now < 62 else None

    line, rows = Line(clock, (group("plc-1", None), group("plc-2")), lost), Rows()
    health = await run_for(100, line, rows)
    assert health.connects >= 2
    assert any(s for _, _, s in rows.of("plc-1"))
    assert rows.of("plc-2")[-1][1] == Quality.GOOD


async def test_a_bug_in_a_driver_is_failed_and_tried_again_after_a_long_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = VirtualClock()
    bug = lambda what, now: ZeroDivisionError("oops") if what == "em-1" and now < 10 else None  # noqa: E731
    line, rows = Line(clock, (group("em-1"),), bug), Rows()
    await run_for(200, line, rows)
    assert line.connects[1] - line.connects[0] >= 59
    assert rows.of("em-1")[-1][1] == Quality.GOOD
    assert "ZeroDivisionError: oops" in caplog.text
    assert 195 <= len(rows.of("em-1")) <= 202  # answered for during the pause


async def test_a_bug_that_shows_while_the_link_is_down_is_told_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = VirtualClock()

    def trouble(what: str, now: float) -> BaseException | None:
        down = Disconnected("refused") if now < 10 else ZeroDivisionError("oops")
        return down if what == "connect" and now < 60 else None  # longer than any back-off

    line, rows = Line(clock, (group("em-1"),), trouble), Rows()
    await run_for(200, line, rows)
    told = [(r.levelname, r.exc_info is not None) for r in caplog.records if "down" in r.msg]
    assert told == [("WARNING", False), ("ERROR", True)]
    assert rows.of("em-1")[-1][1] == Quality.GOOD


async def test_an_error_that_a_call_may_not_raise_fails_the_link_and_not_the_agent() -> None:
    clock = VirtualClock()
    silent = lambda what, now: NoAnswer("plc-1") if what == "plc-1" and now < 10 else None  # noqa: E731
    line, rows = Line(clock, (group("plc-1", None), group("plc-2")), silent), Rows()
    await run_for(200, line, rows)
    assert len(line.connects) == 2
    assert {rows.of(device)[-1][1] for device in ("plc-1", "plc-2")} == {Quality.GOOD}


async def test_a_bug_behind_push_ends_the_runner() -> None:
    clock = VirtualClock()
    line = Line(clock, (group("em-1"),))

    def broken(block: SampleBlock, *, substituted: bool = False) -> None:
        raise RuntimeError(f"a metric is wrong: {len(block)} rows, {substituted=}")

    health = LinkHealth("line-1", ("em-1",))
    with pytest.raises(ExceptionGroup) as caught:
        await run_driver(health, line, broken, clock, 1.0)
    assert caught.group_contains(RuntimeError, match="a metric is wrong")


async def test_scans_faster_than_a_commit_are_handed_on_together() -> None:
    clock = VirtualClock()
    line, rows = Line(clock, (group("press-1", 0.02),), answer_time=0.001), Rows()
    await run_for(10, line, rows, batch=0.5)
    sizes = [len(block) for block, _ in rows.blocks]
    assert max(sizes) > 20
    assert sum(sizes) >= 490


async def test_rows_are_marked_while_the_clock_is_not_to_be_trusted() -> None:
    clock = VirtualClock(uncertain=True)
    line, rows = Line(clock, (group("em-1"),)), Rows()
    await run_for(5, line, rows)
    assert {q for _, q, _ in rows.of("em-1")} == {Quality.UNCERTAIN_CLOCK}


async def test_a_slow_line_skips_ticks_and_counts_them() -> None:
    clock = VirtualClock()
    line, rows = Line(clock, (group("em-1"),), answer_time=2.5), Rows()
    health = await run_for(60, line, rows)
    assert len(line.reads) + health.ticks_missed == pytest.approx(60, abs=3)
    assert np.allclose(np.diff([t for t, _, _ in rows.of("em-1")]) / SECOND, 2.5)


# ---- sinks -----------------------------------------------------------------------------------


@dataclass
class Peer:
    """A peer that lets itself be reached and refuses the first writes."""

    useless: int
    got: list[Item] = field(default_factory=list)
    connects: int = 0

    async def connect(self) -> None:
        self.connects += 1

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:  # noqa: ARG002
        if self.useless:
            self.useless -= 1
            raise Disconnected("reset by peer")
        self.got += items

    async def close(self) -> None:
        return


async def test_a_sink_that_connects_but_is_of_no_use_is_told_once_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    budget = Budget(raw_bytes=1 << 24, raw_age_ns=10**18, derived_bytes=1 << 24)
    specs = [ReaderSpec("broker", lambda _: True)]
    outbox = Outbox(tmp_path / "log.db", specs, budget=budget, commit=0.01)
    await outbox.start()
    peer, clock = Peer(useless=5), VirtualClock()
    health = SinkHealth("broker", "mqtt")
    task = asyncio.create_task(run_sink(health, peer, outbox.reader("broker"), outbox, clock))
    for second in range(3):
        outbox.append([no_answer(group("em-1").schema, second * SECOND)], {"read": 1})
        await outbox.flush()
    async with asyncio.timeout(10):
        while outbox.reader("broker").lag:  # noqa: ASYNC110  the log's thread is real
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await outbox.close()
    blocks = [item for item in peer.got if isinstance(item, SampleBlock)]
    assert [t for block in blocks for t in block.time.tolist()] == [0, SECOND, 2 * SECOND]
    assert peer.connects == 6
    assert caplog.text.count("broker is down") == 1
    assert caplog.text.count("broker is back") == 1
