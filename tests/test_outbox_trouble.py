"""The log when something is wrong: over its budget, on a full disk, with damaged bytes."""

import asyncio
import itertools
import os
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from edge_agent import outbox_committer
from edge_agent.database_files import put_aside
from edge_agent.errors import ConfigError
from edge_agent.model import Family, Gap
from edge_agent.outbox import Budget, Marker, Outbox, ReaderSpec, Record
from edge_agent.outbox_schema import FORMAT, stored_size
from tests.outbox_writer import BUDGET, HOUR, RAW, SLOT, block_of
from tests.test_outbox import (
    ALL,
    MIB,
    OTHER,
    RAW_ONLY,
    WIDE,
    count_again,
    incompressible,
    opened,
    path,
    push,
    sequences,
    take_all,
)

__all__ = ["path"]  # the fixture

SMALL = Budget(raw_bytes=60_000, raw_age_ns=1 << 60, derived_bytes=20_000)
DERIVED = ReaderSpec("derived", lambda schema: schema.family.derived)


def gaps(items: list[Record | Gap]) -> list[Marker]:
    return [item for item in items if isinstance(item, Marker)]


async def until(outbox: Outbox, *, fault: bool) -> None:
    """Wait for a fault to show, or to be gone."""
    deadline = time.monotonic() + 10
    while bool(outbox.fault) != fault:
        assert time.monotonic() < deadline, f"the fault is {outbox.fault!r}"
        await asyncio.sleep(0.01)


# ---- over the budget ---------------------------------------------------------------------------


async def test_over_the_budget_the_oldest_rows_leave_and_a_marker_stands_for_them(
    path: Path,
) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        for i in range(1000):
            push(outbox, block_of(RAW, i) if i % 2 else block_of(OTHER, i))
            if i % 100 == 0:
                await outbox.flush()
        await outbox.flush()
        one = outbox.counts().bytes // len(list(outbox.records(0)))
        assert SMALL.raw_bytes - one < outbox.counts().bytes <= SMALL.raw_bytes
        stored = sequences(list(outbox.records(0)))
        assert stored == list(range(stored[0], 1001))
        counts = outbox.counts()
        assert counts.conserved
        assert counts.dropped == counts.readers["all"].dropped == stored[0] - 1
        assert counts.readers["all"].pending == count_again(path, "all")
        taken = await take_all(outbox.reader("all"))
        assert sequences(taken) == stored
        assert {(g.schema.stream, g.reason) for g in gaps(taken[:2])} == {
            (RAW.stream, "bytes"),
            (OTHER.stream, "bytes"),
        }
        assert len(gaps(taken)) == 2
        assert sum(g.rows for g in gaps(taken)) == stored[0] - 1
        assert gaps(taken)[0].first_ns == 0
        await outbox.flush()
        assert outbox.counts().conserved
        push(outbox, block_of(RAW, 1000))
        assert not gaps(await outbox.reader("all").take(9)), "a marker came twice"
        assert outbox.db.execute("SELECT count(*) FROM gap").fetchone() == (0,)


async def test_a_marker_does_not_carry_a_reader_over_rows_that_it_was_not_handed(
    path: Path,
) -> None:
    """What both readers were handed stays, one behind the other, and what follows leaves."""
    other = ReaderSpec("other", lambda _: True)
    async with opened(path, ALL, other, budget=SMALL) as outbox:
        for i in range(60):
            push(outbox, incompressible(RAW, i))
        await outbox.flush()
        mine, its = outbox.reader("all"), outbox.reader("other")
        await mine.take(64)
        taken = await its.take(64)
        its.acknowledge(taken[-1].sequence, delivered=sum(i.rows for i in taken))
        held = await its.take(64)
        for i in range(60, 1200):
            push(outbox, incompressible(RAW, i))
            if i % 100 == 0:
                await outbox.flush()
        await outbox.flush()
        its.acknowledge(held[-1].sequence, delivered=sum(i.rows for i in held))
        await take_all(mine)
        await take_all(its)
        await outbox.flush()
        assert outbox.counts().conserved


async def test_a_marker_does_not_reach_over_another_one(path: Path) -> None:
    """What another reader held leaves after what follows it, which has its marker already."""
    other = ReaderSpec("other", lambda _: True)
    async with opened(path, ALL, other, budget=SMALL) as outbox:
        its, held = outbox.reader("other"), list[Record | Gap]()
        push(outbox, incompressible(RAW, 0))
        await outbox.flush()
        its.acknowledge((await its.take(1))[0].sequence, delivered=1)  # in front of it rows leave
        for i in range(1, 1500):
            push(outbox, incompressible(RAW, i))
            if i % 100 == 0:
                await outbox.flush()
            if i == 200:
                held = await its.take(64)
            if i == 1200:  # it goes on, so what it held may leave
                records = [item for item in held if isinstance(item, Record)]
                its.acknowledge(held[-1].sequence, delivered=sum(r.rows for r in records))
        await outbox.flush()
        markers = gaps(await outbox.reader("all").take(50))
        assert len(markers) >= 2
        for before, after in itertools.pairwise(markers):
            assert before.last_ns < after.first_ns
        for marker in markers:
            assert marker.rows == marker.last_ns - marker.first_ns + 1


async def test_neither_class_of_rows_starves_the_other(path: Path) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        push(outbox, block_of(SLOT, 0), block_of(HOUR, 0))
        for i in range(1500):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        assert len(list(outbox.records(0, Family.SLOT))) == 1
        raw = len(list(outbox.records(0)))
        for i in range(1500):
            push(outbox, block_of(SLOT, i))
        await outbox.flush()
        assert len(list(outbox.records(0))) == raw
        totals = outbox.ledger.totals
        assert totals["raw_bytes"] <= SMALL.raw_bytes
        assert totals["derived_bytes"] <= SMALL.derived_bytes
        assert outbox.counts().conserved


async def test_only_readers_that_waited_for_a_row_count_it_as_dropped(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY, DERIVED, budget=SMALL) as outbox:
        for i in range(500):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        await take_all(outbox.reader("raw only"))
        await outbox.flush()
        for i in range(500, 1000):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        readers = outbox.counts().readers
        assert outbox.counts().conserved
        assert readers["derived"].dropped == readers["raw only"].dropped == 0
        assert readers["all"].dropped > 0


async def test_rows_that_were_handed_out_are_not_dropped_and_not_counted_twice(path: Path) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        for i in range(300):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        reader = outbox.reader("all")
        handed = await reader.take(10)
        for i in range(300, 1500):
            push(outbox, block_of(RAW, i))
            if i % 100 == 0:
                await outbox.flush()
        await outbox.flush()
        assert sequences(await reader.take(10))[: len(handed)] == sequences(handed)
        reader.acknowledge(handed[-1].sequence, delivered=len(handed))
        await outbox.flush()
        assert outbox.counts().conserved
        after = await reader.take(10)
        marker = after[0]
        assert isinstance(marker, Marker)
        assert (marker.sequence, marker.first_ns) == (len(handed) + 1, len(handed))
        assert sequences(after)[0] == marker.sequence + marker.rows


async def test_a_marker_does_not_reach_over_rows_that_are_still_there(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY, budget=SMALL) as outbox:
        for i in range(1000):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        handed = await outbox.reader("raw only").take(10)
        for i in range(1000, 1500):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        taken = await take_all(outbox.reader("all"))
        before, *kept, after = taken[: len(handed) + 1]
        assert [type(before), type(after)] == [Marker, Marker]
        assert sequences(kept) == sequences(handed)
        assert before.last_ns < kept[0].first_ns <= kept[-1].last_ns < after.first_ns
        assert sum(gap.rows for gap in gaps(taken)) + len(sequences(taken)) == 1500


async def test_a_reader_that_works_while_rows_leave_misses_none_unmarked(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY, budget=SMALL, commit=0.001) as outbox:
        reader = outbox.reader("all")
        n, seen = 20_000, list[tuple[int, int]]()  # first row and rows

        async def deliver() -> None:
            while sum(rows for _, rows in seen) < n:
                items = await reader.take(7)
                seen.extend((item.first_ns, item.rows) for item in items)
                await asyncio.sleep(0.0003 * (len(seen) % 5))
                done = sum(item.rows for item in items if isinstance(item, Record))
                reader.acknowledge(items[-1].sequence, delivered=done)

        task = asyncio.create_task(deliver())
        for i in range(n):
            push(outbox, block_of(RAW, i))
            if i % 20 == 0:
                await asyncio.sleep(0.0005)
        await task
        await outbox.flush()
        ends = [0, *(first + rows for first, rows in seen)]
        assert [first for first, _ in seen] == ends[:-1]
        assert outbox.counts().conserved
        assert outbox.counts().readers["all"].dropped > 0, "the reader was fast enough"


async def test_a_marker_handed_out_does_not_grow(path: Path) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        reader = outbox.reader("all")
        delivered = dropped = 0
        for i in range(3000):
            push(outbox, block_of(RAW, i))
            if i % 500 == 499:
                await outbox.flush()
                items = await reader.take(20)
                dropped += sum(gap.rows for gap in gaps(items))
                for j in range(i * 1000, i * 1000 + 700):
                    push(outbox, block_of(OTHER, j))
                await outbox.flush()
                delivered += len(sequences(items))
                reader.acknowledge(items[-1].sequence, delivered=len(sequences(items)))
        await outbox.flush()
        rest = await take_all(reader)
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert counts.dropped == dropped + sum(gap.rows for gap in gaps(rest))
        assert counts.readers["all"].delivered == delivered + len(sequences(rest))


async def test_markers_alone_are_acknowledged_without_a_record(path: Path) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        for i in range(1000):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        reader = outbox.reader("all")
        assert len(await reader.take(1)) == 1
        reader.acknowledge(0, delivered=0)
        assert isinstance((await reader.take(1))[0], Record)


async def test_markers_outlive_a_restart(path: Path) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        for i in range(1000):
            push(outbox, block_of(RAW, i))
    async with opened(path, ALL, budget=SMALL) as outbox:
        first = (await outbox.reader("all").take(1))[0]
        assert isinstance(first, Marker)
        assert first.rows == outbox.counts().dropped > 0


async def test_a_smaller_budget_is_reached_step_by_step(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        for i in range(10_000):
            push(outbox, block_of(RAW, i))
    async with opened(path, ALL, budget=SMALL) as outbox:
        for i in range(5):
            push(outbox, block_of(RAW, 10_000 + i))
            await outbox.flush()
        assert outbox.counts().bytes <= SMALL.raw_bytes
        assert outbox.counts().conserved


async def test_the_files_stay_within_the_budgets_and_eight_mebibytes(path: Path) -> None:
    budget = Budget(raw_bytes=4 * MIB, raw_age_ns=1 << 60, derived_bytes=MIB)
    largest = 0
    async with opened(path, ALL, budget=budget) as outbox:
        for i in range(1500):
            rows = (1, 7, 16, 64)[i % 4]
            push(outbox, incompressible(WIDE, i * 64, rows), block_of(SLOT, i))
            if i % 50 == 0:
                await outbox.flush()
                largest = max(largest, sum(f.stat().st_size for f in path.parent.iterdir()))
        await outbox.flush()
        assert not outbox.fault
        assert outbox.counts().conserved
        assert outbox.ledger.totals["raw_bytes"] > 0.9 * budget.raw_bytes
    assert largest <= budget.raw_bytes + budget.derived_bytes + (8 << 20)


@pytest.mark.parametrize("size", [10, 80, 300, 1300, 2100, 4000, 4050, 5000, 9000, 30_000])
def test_the_size_accounted_is_what_the_file_grows_by(tmp_path: Path, size: int) -> None:
    db = sqlite3.connect(tmp_path / "size.db")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("CREATE TABLE raw (n INTEGER PRIMARY KEY, s INTEGER, a, b, r, payload BLOB)")
    n = max(20, 3_000_000 // (size + 40))
    row = (7, 1 << 60, 1 << 60, 1, os.urandom(size))
    db.executemany("INSERT INTO raw VALUES (?, ?, ?, ?, ?, ?)", ((i, *row) for i in range(n)))
    db.commit()
    grown = db.execute("PRAGMA page_count").fetchone()[0] * 4096 / n
    db.close()
    assert 0.99 * grown - 4096 * 4 / n <= stored_size(size) <= 1.1 * grown


async def test_only_old_rows_that_all_have_and_no_metric_needs_leave_for_their_age(
    path: Path,
) -> None:
    budget = Budget(raw_bytes=MIB, raw_age_ns=10, derived_bytes=MIB)
    async with opened(path, ALL, budget=budget) as outbox:
        for i in range(40):
            push(outbox, block_of(RAW, i))
            if i == 19:
                outbox.checkpoint({"metric": 1})
        await outbox.flush()
        assert len(list(outbox.records(0))) == 40
        await take_all(outbox.reader("all"))
        await outbox.flush()
        assert sequences(list(outbox.records(0))) == list(range(21, 41))
        outbox.checkpoint({"metric": 2})
        await outbox.flush()
        assert sequences(list(outbox.records(0))) == list(range(30, 41))
        assert outbox.counts().conserved
        assert outbox.counts().dropped == 0


# ---- disk trouble ------------------------------------------------------------------------------


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


async def test_a_full_disk_is_shown_and_writing_goes_on_when_there_is_space(
    tmp_path: Path,
) -> None:
    with tmpfs(tmp_path / "disk", "4m") as disk:
        async with opened(disk / "log.db", ALL) as outbox:
            push(outbox, block_of(RAW, 0))
            await outbox.flush()
            ballast = disk / "ballast"
            fill(ballast)
            for i in range(1, 60):
                push(outbox, incompressible(WIDE, i * 64, 16))
            await until(outbox, fault=True)
            assert "full" in outbox.fault
            assert outbox.counts().appended == 1
            assert outbox.reader("all").lag == 1
            ballast.unlink()
            await until(outbox, fault=False)
            await outbox.flush()
            assert sequences(list(outbox.records(0))) == list(range(1, 61))
            assert outbox.counts().conserved


async def test_a_log_that_may_not_grow_is_a_full_disk(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        with full(outbox):
            push(outbox, *(incompressible(WIDE, i * 64, 64) for i in range(10)))
            await until(outbox, fault=True)
            assert "full" in outbox.fault
            assert outbox.counts().appended == 0
        await outbox.flush()
        assert not outbox.fault
        assert outbox.reader("all").lag == 640


def allow_no_growth(outbox: Outbox) -> None:
    outbox._store._db.execute("PRAGMA max_page_count = 1").fetchall()


@contextmanager
def full(outbox: Outbox) -> Iterator[None]:
    """Let the log's file grow no further than it is, for as long as the block runs."""
    allow_no_growth(outbox)
    try:
        yield
    finally:
        outbox._store._db.execute("PRAGMA max_page_count = 100000").fetchall()


async def test_a_disk_that_fails_is_shown_and_nothing_is_lost(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        reader = outbox.reader("all")
        reader.acknowledge((await reader.take(1))[0].sequence, delivered=1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # any write fails
        try:
            push(outbox, block_of(RAW, 1))
            outbox.checkpoint({"metric": 1})
            await until(outbox, fault=True)
            assert "cannot be written" in outbox.fault
            assert outbox.counts().readers["all"].delivered == 0
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await outbox.flush()
        assert not outbox.fault
        assert outbox.restore() == (2, {"metric": 1})
        assert outbox.counts().readers["all"].delivered == 1
        assert outbox.counts().conserved


async def test_beyond_the_bound_of_memory_the_oldest_raw_rows_are_dropped_and_marked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_committer, "MEMORY", 100_000)
    monkeypatch.setattr(outbox_committer, "RETRY", 0.02)
    async with opened(path, ALL, DERIVED) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        with full(outbox):
            for i in range(1, 170):
                push(outbox, incompressible(WIDE, i), block_of(SLOT, i))
                if i % 40 == 0:
                    await asyncio.sleep(0.03)
            await until(outbox, fault=True)
            assert outbox._committer._bytes <= 100_000
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert (counts.appended, counts.read, counts.derived) == (339, 170, 169)
        assert counts.readers["derived"].pending == 169, "derived rows went before raw ones"
        taken = await take_all(outbox.reader("all"))
        assert len(gaps(taken)) == 1
        assert gaps(taken)[0].rows == counts.dropped == 339 - len(sequences(taken))
        assert gaps(taken)[0].schema == WIDE
        await take_all(outbox.reader("derived"))
        await outbox.flush()
        assert outbox.counts().conserved
        assert list(outbox.records(0, Family.SLOT)) == []
        last = outbox.ledger.totals["sequence"]
    async with opened(path, ALL, DERIVED) as outbox:
        assert push(outbox, block_of(RAW, 500)) == last + 1


async def test_derived_rows_are_dropped_from_memory_when_no_raw_ones_are_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_committer, "MEMORY", 50_000)
    monkeypatch.setattr(outbox_committer, "RETRY", 0.02)
    async with opened(path, ALL) as outbox:
        with full(outbox):
            for i in range(600):
                push(outbox, incompressible(WIDE, i), incompressible(SLOT, i * 16, 16))
            await until(outbox, fault=True)
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert counts.appended == 600 * 17
        taken = await take_all(outbox.reader("all"))
        assert sum(gap.rows for gap in gaps(taken)) == counts.dropped
        assert {gap.schema.stream for gap in gaps(taken)} == {WIDE.stream, SLOT.stream}
        await outbox.flush()
        assert outbox.counts().conserved


async def test_a_marker_of_rows_dropped_from_memory_waits_for_what_is_before_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_committer, "BATCH", 1)  # a commit for each push
    monkeypatch.setattr(outbox_committer, "MEMORY", 20_000)
    outbox = Outbox(path, [ALL], budget=BUDGET, commit=0.0)
    for i in range(20):
        push(outbox, block_of(HOUR, i))
    push(outbox, incompressible(WIDE, 20, 100))  # more than the bound by itself
    await outbox.start()
    try:
        reader, taken = outbox.reader("all"), list[Record | Gap]()
        async with asyncio.timeout(10):
            while not gaps(taken):
                items = await reader.take(64)
                reader.acknowledge(items[-1].sequence, delivered=len(sequences(items)))
                taken += items
        assert sequences(taken) == list(range(1, 21))
        assert [gap.rows for gap in gaps(taken)] == [100]
        await outbox.flush()
        assert outbox.counts().conserved
        assert reader.lag == 0
    finally:
        await outbox.close()


async def test_numbers_of_rows_dropped_from_memory_are_not_used_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_committer, "MEMORY", 0)
    async with opened(path, ALL) as outbox:
        for i in range(5):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        assert outbox.counts().dropped == 5
        assert outbox.counts().conserved
        marker = (await outbox.reader("all").take(5))[0]
        assert isinstance(marker, Marker)
        assert (marker.first_ns, marker.last_ns, marker.rows) == (0, 4, 5)
        outbox.reader("all").acknowledge(marker.sequence, delivered=0)
    monkeypatch.undo()
    async with opened(path, ALL) as outbox:
        assert push(outbox, block_of(RAW, 5)) == 6
        assert sequences(await outbox.reader("all").take(5)) == [6]


async def test_close_gives_up_on_a_disk_that_stays_full(path: Path) -> None:
    outbox = Outbox(path, [ALL], budget=BUDGET, commit=0.02)
    await outbox.start()
    allow_no_growth(outbox)
    push(outbox, *(incompressible(WIDE, i * 64, 64) for i in range(10)))
    await until(outbox, fault=True)
    await outbox.close()
    async with opened(path, ALL) as outbox:
        assert outbox.counts().appended == 0


# ---- damage ------------------------------------------------------------------------------------


def flip_a_bit(path: Path, sequence: int) -> None:
    with sqlite3.connect(path) as db:
        sql = "SELECT payload FROM raw WHERE sequence = ?"
        payload = bytearray(db.execute(sql, (sequence,)).fetchone()[0])
        payload[len(payload) // 2] ^= 4
        db.execute("UPDATE raw SET payload = ? WHERE sequence = ?", (bytes(payload), sequence))
    db.close()


def overwrite(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(path.read_bytes()))


async def test_a_flipped_bit_costs_one_record_and_a_gap_says_so(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        for i in range(5):
            push(outbox, block_of(RAW, i, 3))
    flip_a_bit(path, 3)
    async with opened(path, ALL) as outbox:
        reader = outbox.reader("all")
        for _ in range(2):  # taken twice, counted once
            taken = await reader.take(9)
        assert sequences(taken) == [1, 2, 4, 5]
        gap = taken[2]
        assert isinstance(gap, Gap)
        assert (gap.reason, gap.rows, gap.first_ns, gap.last_ns) == ("corrupt", 3, 2, 4)
        reader.acknowledge(taken[-1].sequence, delivered=12)
        assert reader.lag == 0
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert counts.readers["all"].dropped == counts.dropped == 3


async def test_a_damaged_record_that_leaves_for_the_budget_is_counted_once(path: Path) -> None:
    async with opened(path, ALL, budget=SMALL) as outbox:
        for i in range(20):
            push(outbox, incompressible(RAW, i))
    flip_a_bit(path, 5)
    async with opened(path, ALL, budget=SMALL) as outbox:
        reader = outbox.reader("all")
        assert gaps(await reader.take(64))
        await reader.take(1)  # the write of those failed: fewer are tried
        reader.acknowledge(1, delivered=1)
        for i in range(20, 1200):
            push(outbox, incompressible(RAW, i))
            if i % 100 == 0:
                await outbox.flush()
        await outbox.flush()
        await take_all(reader)
        await outbox.flush()
        assert outbox.counts().conserved
        assert outbox.counts().readers["all"].pending == 0


async def test_a_reader_may_skip_a_record(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0, 2), block_of(RAW, 2, 2))
        await outbox.flush()
        reader = outbox.reader("all")
        first, second = await reader.take(2)
        assert isinstance(first, Record)
        assert reader.skip(first).reason == "corrupt"
        reader.acknowledge(second.sequence, delivered=2)
        await outbox.flush()
        assert outbox.counts().conserved
        assert outbox.counts().readers["all"].dropped == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"this is no database" * 1000,
        lambda whole: whole[:16] + bytes(len(whole) - 16),
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:4096] + b"\xff" * (len(whole) - 4096),
    ],
    ids=["another file", "zeros", "cut short", "pages lost"],
)
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    async with opened(path, ALL) as outbox:
        for i in range(300):
            push(outbox, block_of(RAW, i))
    overwrite(path, damage)
    async with opened(path, ALL) as outbox:
        assert put_aside(path) == [path.with_name("log.db.corrupt-1")]
        assert "log.db.corrupt-1" in outbox.damage
        assert push(outbox, block_of(RAW, 1)) > 300, "a number was used again"
        await outbox.flush()
        assert outbox.counts().conserved
    async with opened(path, ALL) as outbox:
        assert outbox.damage, "told until a person removes it"
        put_aside(path)[0].unlink()
        assert not outbox.damage
        assert not outbox.fault


async def test_a_log_of_another_version_is_left_alone_and_told(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    for _ in range(2):  # neither set aside nor kept locked
        with pytest.raises(ConfigError, match="another version"):
            Outbox(path, [ALL], budget=BUDGET)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {FORMAT}")
    async with opened(path, ALL) as outbox:
        assert len(list(outbox.records(0))) == 1
