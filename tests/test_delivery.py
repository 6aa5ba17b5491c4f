"""What ``run_sink`` hands to a sink, at which pace, and what becomes of refused rows."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edge_agent.clock import SystemClock
from edge_agent.delivery import JOINED, PIECE, run_sink
from edge_agent.errors import Disconnected, Refusal, Rejected
from edge_agent.health import SinkHealth, State
from edge_agent.model import Gap, SampleBlock
from edge_agent.outbox import Outbox, ReaderSpec
from edge_agent.sinks.base import Item
from tests.outbox_writer import RAW, block_of
from tests.test_outbox import OTHER, WIDE, incompressible, opened, path, push
from tests.test_outbox_trouble import flip_a_bit

__all__ = ["path"]  # the fixture

SPEC = ReaderSpec("sink", lambda _: True, live_first=0.5)


@dataclass
class Peer:
    """Takes what it is handed, in so many seconds, but for the rows that are poison to it."""

    seconds: float = 0.0
    poison: Callable[[int], bool] = lambda _: False
    away: bool = False
    most: int = 1 << 30  # rows at once; to take more it is too slow
    refuses: Sequence[Refusal] | None = None  # by a bug, whatever it is handed
    writes: list[tuple[list[Item], bool]] = field(default_factory=list)

    async def connect(self) -> None:
        if self.away:
            raise Disconnected("away")

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:
        await asyncio.sleep(self.seconds)
        if sum(len(times_of(item)) for item in items) > self.most:
            raise Disconnected("too slow")
        if self.refuses is not None:
            raise Rejected(self.refuses)
        self.writes.append((list(items), backlog))
        refusals = [
            Refusal(i, [row for row, t in enumerate(times) if self.poison(t)], "poison")
            for i, times in enumerate(map(times_of, items))
        ]
        if any(refusal.rows for refusal in refusals):
            raise Rejected([refusal for refusal in refusals if refusal.rows])

    async def close(self) -> None:
        return

    def times(self, stream: str, *, backlog: bool | None = None) -> list[int]:
        """Return the times of the rows of a stream, in the order of arrival."""
        blocks = [i for items, late in self.writes if backlog in {None, late} for i in items]
        return [t for block in blocks if block.schema.stream == stream for t in times_of(block)]


def times_of(item: Item) -> list[int]:
    return item.time.tolist() if isinstance(item, SampleBlock) else []


@asynccontextmanager
async def delivering(
    outbox: Outbox, peer: Peer, rate: float | None = None
) -> AsyncIterator[SinkHealth]:
    health = SinkHealth("sink", "test")
    reader, clock = outbox.reader("sink"), SystemClock()
    task = asyncio.create_task(run_sink(health, peer, reader, outbox, clock, rate))
    try:
        yield health
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(claim: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not claim():  # noqa: ASYNC110  the log's thread is real
            await asyncio.sleep(0.005)


async def test_records_of_one_stream_are_handed_over_as_one_block_in_order(path: Path) -> None:
    peer = Peer()
    async with opened(path, SPEC) as outbox:
        for i in range(20):
            push(outbox, block_of(RAW, i), block_of(OTHER, i))
        await outbox.flush()
        async with delivering(outbox, peer):
            await until(lambda: not outbox.reader("sink").lag)
        (items, _), *others = peer.writes
        assert not others
        assert [item.schema.stream for item in items] == [RAW.stream, OTHER.stream]
        for stream in (RAW.stream, OTHER.stream):
            assert peer.times(stream) == list(range(20))
        await outbox.flush()
        assert outbox.counts().readers["sink"].delivered == 40


async def test_a_block_is_not_joined_beyond_what_a_message_should_hold(path: Path) -> None:
    peer = Peer()
    async with opened(path, SPEC) as outbox:
        for i in range(0, 640, 20):
            push(outbox, incompressible(WIDE, i, 20))
        await outbox.flush()
        async with delivering(outbox, peer):
            await until(lambda: not outbox.reader("sink").lag)
    blocks = [i for items, _ in peer.writes for i in items if isinstance(i, SampleBlock)]
    sizes = [block.value.size for block in blocks]
    assert max(sizes) <= JOINED
    assert len(sizes) < 32 // 2
    assert peer.times(WIDE.stream) == list(range(640))


async def test_a_damaged_record_parts_its_neighbours(path: Path) -> None:
    peer = Peer()
    async with opened(path, SPEC) as outbox:
        push(outbox, *(incompressible(WIDE, i) for i in range(5)))
        await outbox.flush()
    flip_a_bit(path, 3)
    async with opened(path, SPEC) as outbox:
        async with delivering(outbox, peer):
            await until(lambda: not outbox.reader("sink").lag)
            await outbox.flush()
        items = [item for items, _ in peer.writes for item in items]
        assert [isinstance(item, Gap) for item in items] == [False, True, False]
        assert [times_of(item) for item in items] == [[0, 1], [], [3, 4]]
        assert outbox.counts().readers["sink"].dropped == 1
        assert outbox.counts().conserved


async def test_refused_rows_are_counted_put_aside_and_cost_no_neighbour(path: Path) -> None:
    peer = Peer(poison=lambda t: t in {3, 7, 8})
    async with opened(path, SPEC) as outbox:
        for i in range(10):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        async with delivering(outbox, peer) as health:
            await until(lambda: not outbox.reader("sink").lag)
            await outbox.flush()
        counts = outbox.counts().readers["sink"]
        assert (counts.delivered, counts.refused, counts.conserved) == (7, 3, True)
        (aside,) = outbox.aside()
        assert (aside.reader, aside.reason) == ("sink", "poison")
        assert aside.block.time.tolist() == [3, 7, 8]
        np.testing.assert_array_equal(aside.block.value, block_of(RAW, 0, 10).value[:, [3, 7, 8]])
        assert health.last_refusal == "poison"
        assert 0 < health.refused_ns <= aside.at_ns


async def test_live_rows_find_a_slow_sink_free_while_a_backlog_is_delivered(path: Path) -> None:
    peer = Peer(seconds=0.02, away=True)
    async with opened(path, SPEC, commit=0.005) as outbox:
        for i in range(3000):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        async with delivering(outbox, peer) as health:
            await asyncio.sleep(0.6)  # longer than ``live_first``
            peer.away = False
            await until(lambda: bool(peer.writes))
            late = []
            while outbox.reader("sink").split:
                i = 3000 + len(late)
                began = time.monotonic()
                push(outbox, block_of(OTHER, i))
                await until(lambda i=i: i in peer.times(OTHER.stream))  # type: ignore[misc]
                late.append(time.monotonic() - began)
                await asyncio.sleep(0.02)
            await until(lambda: not outbox.reader("sink").lag)
            assert health.backlog >= 0
        assert len(late) > 3, "the backlog was gone before anything live came"
        assert max(late) < 0.5
        assert peer.times(RAW.stream) == list(range(3000))
        assert peer.times(OTHER.stream, backlog=False) == peer.times(OTHER.stream)
        await outbox.flush()
        assert outbox.counts().conserved


@pytest.mark.parametrize("rate", [None, 2000.0])
async def test_a_backlog_has_half_of_the_time_or_its_rate(path: Path, rate: float | None) -> None:
    peer = Peer(seconds=0.01)
    async with opened(path, SPEC) as outbox:
        for i in range(1000):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        outbox.reader("sink").part()
        began = time.monotonic()
        async with delivering(outbox, peer, rate):
            await until(lambda: not outbox.reader("sink").lag)
        seconds = time.monotonic() - began
    if rate is None:
        assert seconds >= 2 * 0.01 * (len(peer.writes) - 1)
    else:
        last = sum(len(times_of(item)) for item in peer.writes[-1][0])  # nothing rests behind it
        assert seconds >= (1000 - last) / rate


async def test_pieces_do_not_shrink_because_the_peer_is_far(path: Path) -> None:
    """Each write takes 0.3 s whatever is in it: single records would never catch up."""
    peer = Peer(seconds=1.2 * PIECE)
    async with opened(path, SPEC) as outbox:
        for i in range(1000):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        outbox.reader("sink").part()
        async with delivering(outbox, peer):
            await until(lambda: not outbox.reader("sink").lag, 15)
    assert len(peer.writes) < 15
    assert peer.times(RAW.stream) == list(range(1000))


async def test_a_piece_is_no_longer_than_its_rate_allows(path: Path) -> None:
    peer = Peer()
    async with opened(path, SPEC) as outbox:
        for i in range(0, 12_000, 60):
            push(outbox, block_of(RAW, i, 60))
        await outbox.flush()
        outbox.reader("sink").part()
        async with delivering(outbox, peer, 20_000.0):
            await until(lambda: not outbox.reader("sink").lag)
    rows = [sum(len(times_of(item)) for item in items) for items, _ in peer.writes]
    assert sum(rows) == 12_000
    assert max(rows[1:]) <= 20_000 * PIECE


@pytest.mark.parametrize("late", [False, True])
async def test_a_sink_that_has_become_slow_is_handed_less(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    monkeypatch.setattr("edge_agent.guard.Backoff.next", lambda _, asked: asked or 0.001)
    peer = Peer(most=9)
    async with opened(path, SPEC) as outbox:
        for i in range(100):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        if late:
            outbox.reader("sink").part()
        async with delivering(outbox, peer):
            await until(lambda: not outbox.reader("sink").lag)
    assert peer.times(RAW.stream, backlog=late) == list(range(100))


@pytest.mark.parametrize(
    "refuses",
    [
        [],
        [Refusal(1, [0], "no such item")],
        [Refusal(-1, [0], "no such item")],
        [Refusal(0, [0, 4], "no such row")],
        [Refusal(0, [-1], "no such row")],
    ],
)
async def test_a_sink_that_refuses_what_it_was_not_handed_fails_alone(
    path: Path, refuses: Sequence[Refusal]
) -> None:
    peer = Peer(refuses=refuses)
    async with opened(path, SPEC) as outbox:
        push(outbox, block_of(RAW, 0, 4))
        await outbox.flush()
        async with delivering(outbox, peer) as health:
            await until(lambda: health.state is State.FAILED)
        assert "refuses" in health.error
        await outbox.flush()
        assert outbox.counts().readers["sink"].pending == 4


async def test_a_row_that_is_refused_twice_is_counted_once(path: Path) -> None:
    peer = Peer(refuses=[Refusal(0, [2, 1], "first"), Refusal(0, [1, 3], "second")])
    async with opened(path, SPEC) as outbox:
        push(outbox, block_of(RAW, 0, 4))
        await outbox.flush()
        async with delivering(outbox, peer):
            await until(lambda: not outbox.reader("sink").lag)
            await outbox.flush()
        counts = outbox.counts().readers["sink"]
        assert (counts.delivered, counts.refused, counts.conserved) == (1, 3, True)
        kept = [(aside.reason, aside.block.time.tolist()) for aside in outbox.aside()]
        assert kept == [("second", [3]), ("first", [1, 2])]
