"""Two lanes of one reader: after an outage what is newest goes first and the rest follows."""

import asyncio
import sqlite3
import time
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import Family, SampleBlock
from edge_agent.outbox import Aside, Budget, Marker, Reader, ReaderSpec, Record
from edge_agent.outbox_reader import ISLANDS, Age
from edge_agent.outbox_schema import FORMAT, Position
from edge_agent.outbox_spans import END, START, between, holds, joined, without
from edge_agent.outbox_store import ASIDE_BYTES, ASIDE_MOST
from tests.outbox_writer import HOUR, RAW, block_of
from tests.test_outbox import ALL, OTHER, WIDE, incompressible, opened, path, push, sequences

__all__ = ["path"]  # the fixture

SOON = ReaderSpec("all", lambda _: True, live_first=0.05)
SMALL = Budget(raw_bytes=60_000, raw_age_ns=1 << 60, derived_bytes=20_000)

numbers = st.integers(0, 30)
spans = st.lists(st.tuples(numbers, numbers).map(lambda s: (min(s), max(s))), max_size=6)


def inside(found: list[tuple[int, int]]) -> set[int]:
    return {n for start, stop in found for n in range(start + 1, stop + 1)}


@given(spans, spans)
def test_spans_are_sets_of_numbers(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    passed = START
    for span in a:
        passed = joined(passed, span)
    assert inside(list(passed)) == inside(a)
    assert all(first[1] < second[0] for first, second in pairwise(passed))
    other = START
    for span in b:
        other = joined(other, span)
    assert inside(without(passed, other)) == inside(a) - inside(b)
    assert all(holds(passed, n) == (n in inside(a)) for n in range(32))
    left = [(start, min(stop, 30)) for start, stop in between(passed)]
    assert inside(left) == set(range(1, 31)) - inside(a)
    assert between(passed)[-1][1] == END


async def delivered(reader: Reader, limit: int = 64) -> tuple[list[int], bool]:
    """Take once, acknowledge; return the numbers and whether they came behind live rows."""
    items = await reader.take(limit)
    rows = sum(item.rows for item in items if isinstance(item, Record))
    reader.acknowledge(items[-1].sequence, delivered=rows)
    return sequences(items), reader.behind


async def test_after_an_outage_the_newest_rows_go_first_and_the_rest_follows(path: Path) -> None:
    async with opened(path, SOON) as outbox:
        reader = outbox.reader("all")
        for i in range(6):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        await asyncio.sleep(0.1)  # the outage
        push(outbox, block_of(RAW, 6))
        await outbox.flush()
        assert await delivered(reader, 4) == ([1, 2, 3, 4], True)  # live there is nothing new
        push(outbox, block_of(RAW, 7))
        await outbox.flush()
        assert await delivered(reader, 4) == ([8], False)
        assert reader.backlog == 3
        assert await delivered(reader, 4) == ([5, 6, 7], True)
        push(outbox, block_of(RAW, 8))
        await outbox.flush()
        assert await delivered(reader) == ([9], False)
        assert not reader.split, "the lanes have not merged"
        await outbox.flush()
        assert outbox.ledger.readers["all"].passed == ((0, 9),)
        assert (reader.lag, reader.backlog) == (0, 0)


async def test_a_short_interruption_changes_no_order(path: Path) -> None:
    async with opened(path, ReaderSpec("all", lambda _: True, live_first=60.0)) as outbox:
        for i in range(6):
            push(outbox, block_of(RAW, i))
            await outbox.flush()
        assert await delivered(outbox.reader("all"), 3) == ([1, 2, 3], False)
    async with opened(path, ReaderSpec("all", lambda _: True, live_first=60.0)) as outbox:
        push(outbox, block_of(RAW, 6))
        await outbox.flush()
        assert await delivered(outbox.reader("all")) == ([4, 5, 6, 7], False)


async def test_without_lanes_all_stays_in_order_however_old(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE reader SET waiting_ns = 0")
        db.commit()
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 1))
        await outbox.flush()
        assert await delivered(outbox.reader("all")) == ([1, 2], False)


async def test_what_waited_over_a_long_stop_is_backlog_at_the_start(path: Path) -> None:
    async with opened(path, SOON) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
    await asyncio.sleep(0.1)
    async with opened(path, SOON) as outbox:
        push(outbox, block_of(RAW, 1))
        await outbox.flush()
        assert await delivered(outbox.reader("all")) == ([1, 2], True)  # parted when it was asked
        push(outbox, block_of(RAW, 2))
        await outbox.flush()
        assert await delivered(outbox.reader("all")) == ([3], False)


async def test_the_backlog_waits_until_it_may_and_live_rows_do_not(path: Path) -> None:
    async with opened(path, SOON) as outbox:
        reader = outbox.reader("all")
        for i in range(9):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        reader.part()
        moment = time.monotonic() + 2.0
        asyncio.get_running_loop().call_later(0.1, push, outbox, block_of(RAW, 9))
        live = await reader.take(64, backlog=2, not_before=moment)
        assert (sequences(live), reader.behind) == ([10], False)
        assert time.monotonic() < moment
        reader.acknowledge(10, delivered=1)
        late = await reader.take(64, backlog=2, not_before=moment)
        assert (sequences(late), reader.behind) == ([1, 2], True)
        assert time.monotonic() >= moment


async def test_a_backlog_that_may_go_just_now_does_not_wait_for_a_commit(path: Path) -> None:
    async with opened(path, SOON) as outbox:
        reader = outbox.reader("all")
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        reader.part()
        await outbox.flush()
        for micro in range(1000):  # looking for live rows takes some 50 µs
            async with asyncio.timeout(5):
                late = await reader.take(1, not_before=time.monotonic() + micro % 100 / 1e6)
            assert (sequences(late), reader.behind) == ([1], True)


async def test_outages_in_a_row_leave_islands_that_outlive_a_restart(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        reader = outbox.reader("all")
        for i in range(5):
            push(outbox, block_of(RAW, i), block_of(HOUR, i))
        await outbox.flush()
        reader.part()
        push(outbox, block_of(RAW, 5), block_of(HOUR, 5))
        await outbox.flush()
        assert await delivered(reader) == ([11, 12], False)
        push(outbox, block_of(RAW, 6), block_of(HOUR, 6))
        await outbox.flush()
        reader.part()  # a second outage
        push(outbox, block_of(RAW, 7), block_of(HOUR, 7))
        await outbox.flush()
        assert await delivered(reader) == ([15, 16], False)
        await outbox.flush()
        assert outbox.ledger.readers["all"].passed == ((0, 0), (10, 12), (14, 16))
        assert (reader.lag, reader.backlog) == (12, 12)
        hours = [r.sequence for r in outbox.records(0, Family.ENERGY)]
        assert hours == [2, 4, 6, 8, 10, 14], "a delivered derived row has stayed"
    async with opened(path, ALL) as outbox:
        reader = outbox.reader("all")
        assert (reader.lag, reader.backlog) == (12, 12)
        push(outbox, block_of(RAW, 8))
        await outbox.flush()
        assert await delivered(reader, 7) == ([17], False)
        assert await delivered(reader, 7) == ([1, 2, 3, 4, 5, 6, 7], True)
        assert await delivered(reader, 7) == ([8, 9, 10], True)
        assert await delivered(reader, 7) == ([13, 14], True)
        await outbox.flush()
        assert outbox.ledger.readers["all"].passed == ((0, 17),)
        assert outbox.counts().conserved
        assert list(outbox.records(0, Family.ENERGY)) == []


async def test_rows_of_others_are_no_backlog(path: Path) -> None:
    rare = ReaderSpec("rare", lambda schema: schema == OTHER, live_first=0.05)
    async with opened(path, rare) as outbox:
        reader = outbox.reader("rare")
        for i in range(5):
            push(outbox, block_of(RAW, i))
        push(outbox, block_of(OTHER, 5))
        await outbox.flush()
        reader.part()
        for i in range(6, 10):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        assert reader.backlog == 1
        assert await delivered(reader) == ([6], True)
        await outbox.flush()
        assert (reader.lag, reader.backlog) == (0, 0)


async def test_rows_dropped_from_the_backlog_are_marked_on_their_side_of_an_island(
    path: Path,
) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        reader = outbox.reader("all")
        for i in range(20):
            push(outbox, incompressible(WIDE, i))
        await outbox.flush()
        reader.part()
        for i in range(20, 30):
            push(outbox, incompressible(WIDE, i))
        await outbox.flush()
        live = (await delivered(reader))[0] + (await delivered(reader))[0]
        assert live == list(range(21, 31))
        for i in range(30, 400):  # over the budget: all of before, and some of these
            push(outbox, incompressible(WIDE, i))
            if i % 50 == 0:
                await outbox.flush()
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        found = list[Marker | Record]()
        with suppress(TimeoutError):  # nothing more comes
            while True:
                async with asyncio.timeout(0.5):
                    items = await reader.take(64)
                rows = sum(item.rows for item in items if isinstance(item, Record))
                reader.acknowledge(items[-1].sequence, delivered=rows)
                found += items
                await outbox.flush()
        assert (reader.lag, reader.split) == (0, False)
        markers = [item for item in found if isinstance(item, Marker)]
        assert sum(marker.rows for marker in markers) == counts.dropped > 20
        assert {(m.first_ns, m.last_ns) for m in markers if m.first_ns < 30} == {(0, 19)}
        assert min(m.first_ns for m in markers if m.first_ns >= 20) == 30
        assert outbox.counts().conserved


async def test_a_backlog_advances_though_live_rows_never_pause(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.outbox_reader.TURN", 0.05)
    async with opened(path, ALL) as outbox:
        reader = outbox.reader("all")
        for i in range(6):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        reader.part()
        lanes, late = list[bool](), list[int]()
        async with asyncio.timeout(10):
            while len(late) < 6:
                push(outbox, block_of(RAW, 6 + len(lanes)))
                await outbox.flush()
                numbers, behind = await delivered(reader, 2)
                lanes.append(behind)
                late += numbers if behind else []
        assert late == list(range(1, 7))
        assert lanes.count(False) > lanes.count(True) == 3
        assert not any(first and then for first, then in pairwise(lanes))
        await outbox.flush()
        assert outbox.counts().conserved


async def test_a_peer_that_answers_but_takes_nothing_makes_one_backlog(path: Path) -> None:
    """Each try finds rows that have waited too long; that must not use up all islands."""
    async with opened(path, ALL) as outbox:
        reader = outbox.reader("all")
        for i in range(ISLANDS + 2):
            push(outbox, block_of(RAW, i))
            await outbox.flush()
            reader.part()
        last = ISLANDS + 2
        await outbox.flush()
        assert outbox.ledger.readers["all"].passed == ((0, 0), (last, last))
        assert (reader.lag, reader.backlog) == (last, last)
        push(outbox, block_of(RAW, last))
        await outbox.flush()
        assert await delivered(reader) == ([last + 1], False)
        assert await delivered(reader) == (list(range(1, 65)), True)


async def test_rows_of_others_are_passed_step_by_step(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.outbox_reader.STEP", 8)
    rare = ReaderSpec("rare", lambda schema: schema == OTHER)
    async with opened(path, rare, ALL) as outbox:
        reader = outbox.reader("rare")
        for i in range(100):
            push(outbox, block_of(OTHER if i in {3, 50, 99} else RAW, i))
        await outbox.flush()
        assert await delivered(reader) == ([4], False)
        reader.part()
        assert await delivered(reader) == ([51], True)
        assert await delivered(reader) == ([100], True)
        for i in range(100, 200):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        nothing = asyncio.create_task(reader.take(1))
        used = time.process_time()
        await asyncio.sleep(0.2)
        assert not nothing.done()
        assert time.process_time() - used < 0.1, "it does not wait, it looks again and again"
        push(outbox, block_of(OTHER, 200))
        await outbox.flush()
        assert sequences(await nothing) == [201]
        assert sequences(await outbox.reader("all").take(100)) == list(range(1, 9))


async def test_what_is_handed_out_at_once_has_a_bounded_number_of_values(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        for _ in range(8):  # constant, so hardly any bytes
            push(outbox, block_of(RAW, 0, 25_000))
        await outbox.flush()
        assert len(await outbox.reader("all").take(64)) == (1 << 18) // 100_000


def test_rows_committed_soon_after_others_grow_old_with_them() -> None:
    age = Age(0.32, Position(waiting_ns=time.time_ns()))
    age.note(1)
    age.note(2)  # and nothing more is committed
    assert age.old == 0
    time.sleep(0.35)
    assert age.old == 2


# ---- refused rows ------------------------------------------------------------------------------


def aside(block: SampleBlock, reason: str, sequence: int = 1) -> Aside:
    return Aside("all", sequence, 1_000, reason, block)


async def test_refused_rows_are_put_aside_with_their_reason(path: Path) -> None:
    rows = block_of(RAW, 7, 3)
    async with opened(path, ALL) as outbox:
        push(outbox, rows)
        await outbox.flush()
        (record,) = await outbox.reader("all").take(1)
        part = rows.pick(np.array([0, 2]))
        outbox.reader("all").acknowledge(
            record.sequence, delivered=1, refused=2, aside=[aside(part, "no room")]
        )
        await outbox.flush()
        assert outbox.counts().conserved
    async with opened(path, ALL) as outbox:
        (kept,) = outbox.aside()
        assert (kept.reader, kept.sequence, kept.at_ns, kept.reason) == ("all", 1, 1_000, "no room")
        assert kept.block.time.tolist() == [7, 9]
        np.testing.assert_array_equal(kept.block.value, rows.value[:, [0, 2]])
        assert outbox.aside("another") == []


async def test_the_newest_refusals_are_kept_and_a_large_one_in_part(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        reader = outbox.reader("all")
        number = push(outbox, *(block_of(RAW, i) for i in range(ASIDE_MOST + 5)))
        await outbox.flush()
        while reader.lag:
            items = await reader.take(64)
            refused = [aside(block_of(RAW, i.first_ns), f"no {i.first_ns}") for i in items]
            reader.acknowledge(items[-1].sequence, delivered=0, refused=len(items), aside=refused)
        await outbox.flush()
        reasons = [kept.reason for kept in outbox.aside(most=2 * ASIDE_MOST)]
        assert reasons == [f"no {i}" for i in range(number - 1, number - 1 - ASIDE_MOST, -1)]
        push(outbox, incompressible(WIDE, number, 2 * ASIDE_BYTES // 256))
        await outbox.flush()
        (record,) = await reader.take(1)
        assert isinstance(record, Record)
        block = outbox.block(record)
        reader.acknowledge(
            record.sequence, delivered=0, refused=len(block), aside=[aside(block, "large")]
        )
        await outbox.flush()
        kept = outbox.aside(most=1)[0]
        assert 0 < len(kept.block) < len(block)
        assert outbox.counts().conserved


# ---- a log of before -----------------------------------------------------------------------------


async def test_a_log_of_the_first_format_goes_on(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        (record,) = await outbox.reader("all").take(1)
        outbox.reader("all").acknowledge(record.sequence, delivered=1)
        push(outbox, block_of(RAW, 1))
    with closing(sqlite3.connect(path)) as db:  # as the first version made it
        for statement in (
            "ALTER TABLE reader DROP COLUMN backlog",
            "ALTER TABLE reader DROP COLUMN waiting_ns",
            "DROP TABLE island",
            "DROP TABLE aside",
            "DROP TABLE told",
            "PRAGMA user_version = 1",
        ):
            db.execute(statement)
    async with opened(path, ALL) as outbox:
        assert await delivered(outbox.reader("all")) == ([2], False)
        await outbox.flush()
        assert outbox.counts().conserved
        assert (outbox.counts().appended, outbox.aside()) == (2, [])
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)


async def test_a_log_of_the_second_format_goes_on(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE told")
        db.execute("PRAGMA user_version = 2")
    async with opened(path, ALL) as outbox:
        assert await delivered(outbox.reader("all")) == ([1], False)
        await outbox.flush()
        assert outbox.counts().conserved


async def test_what_was_acknowledged_is_committed_when_more_is_handed_out(path: Path) -> None:
    async with opened(path, ALL, commit=60.0) as outbox:
        for i in range(8):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        await delivered(outbox.reader("all"), 4)
        assert outbox.ledger.readers["all"].delivered == 0
        assert sequences(await outbox.reader("all").take(4)) == [5, 6, 7, 8]
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT cursor FROM reader").fetchone() == (4,)
