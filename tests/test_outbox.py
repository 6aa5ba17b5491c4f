"""The log on disk: agrees with a list, whatever is killed, full, flipped or taken away."""

import asyncio
import math
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent import outbox_committer
from edge_agent.errors import ConfigError
from edge_agent.model import Family, Gap, SampleBlock, Schema
from edge_agent.outbox import Archive, Budget, Outbox, Reader, ReaderSpec, Record
from tests.outbox_writer import BUDGET, HOUR, RAW, READERS, SLOT, block_of, schema_of

ROOT = Path(__file__).parents[1]
OTHER = schema_of("em-2/raw", Family.SAMPLE)
WIDE = schema_of("em-wide/raw", Family.SAMPLE, 32)
ALL = ReaderSpec("all", lambda _: True)
RAW_ONLY = ReaderSpec("raw only", lambda schema: schema is RAW or schema == RAW)
MIB = 1 << 20


@asynccontextmanager
async def opened(
    path: Path, *readers: ReaderSpec, budget: Budget = BUDGET, commit: float = 0.02
) -> AsyncIterator[Outbox]:
    outbox = Outbox(path, readers, budget=budget, commit=commit)
    await outbox.start()
    try:
        yield outbox
    finally:
        await outbox.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def push(outbox: Outbox, *blocks: SampleBlock) -> int:
    raw = sum(len(b) for b in blocks if not b.schema.family.derived)
    return outbox.append(blocks, {"read": raw, "derived": sum(map(len, blocks)) - raw})


def incompressible(schema: Schema, time: int, rows: int = 1) -> SampleBlock:
    k = len(schema.tags)
    value = np.random.default_rng(time).random((k, rows))
    return SampleBlock(schema, np.arange(time, time + rows), value, np.zeros((k, rows), np.uint8))


def sequences(items: Sequence[Record | Gap]) -> list[int]:
    return [item.sequence for item in items if isinstance(item, Record)]


async def take_all(reader: Reader) -> list[Record | Gap]:
    """Take and acknowledge until nothing waits."""
    taken: list[Record | Gap] = []
    while reader.lag:
        items = await reader.take(50)
        records = [item for item in items if isinstance(item, Record)]
        reader.acknowledge(items[-1].sequence, delivered=sum(r.rows for r in records))
        taken += items
    return taken


def count_again(path: Path, reader: str) -> int:
    """Count the pending rows of a reader from the file itself."""
    with sqlite3.connect(path) as db:
        total = 0
        for table in ("raw", "derived"):
            sql = f"""SELECT coalesce(sum(rows), 0) FROM {table} JOIN takes USING (schema)
              JOIN reader ON reader.name = takes.reader
              WHERE takes.reader = ? AND sequence > cursor"""
            total += db.execute(sql, (reader,)).fetchone()[0]
    db.close()
    return total


# ---- what is appended is read ------------------------------------------------------------------


async def test_rows_come_back_in_order_with_their_schema(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        blocks = [block_of(RAW, 10, 3), block_of(SLOT, 11), block_of(OTHER, 12)]
        assert push(outbox, *blocks) == 3
        taken = await outbox.reader("all").take(10)
        assert sequences(taken) == [1, 2, 3]
        for record, block in zip(taken, blocks, strict=True):
            assert isinstance(record, Record)
            read = outbox.block(record)
            assert read.schema == block.schema
            np.testing.assert_array_equal(read.value, block.value)
            assert (record.first_ns, record.last_ns) == (block.time[0], block.time[-1])


async def test_a_reader_that_is_up_to_date_gets_what_one_that_starts_later_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.outbox.RECENT", 20)
    random = np.random.default_rng(1)
    async with opened(path, ALL) as outbox:
        for i in range(40):
            quality = random.choice([0, 0, 65, 131], (4, 2)).astype(np.uint8)
            value = random.random((4, 2))  # also behind BAD marks: never to be seen
            push(outbox, SampleBlock(RAW, np.arange(2) + 10 * i, value, quality))
        await outbox.flush()
        records = [r for r in await outbox.reader("all").take(50) if isinstance(r, Record)]
        archive = Archive(path)
        for record in records:
            now, later = outbox.block(record), archive.block(record)
            np.testing.assert_array_equal(now.value, later.value)
            np.testing.assert_array_equal(now.quality, later.quality)
            np.testing.assert_array_equal(now.time, later.time)
        archive.db.close()
        assert len(records) == 40


async def test_nothing_is_read_before_it_is_committed(path: Path) -> None:
    async with opened(path, ALL, commit=60.0) as outbox:
        push(outbox, block_of(RAW, 1))
        take = asyncio.create_task(outbox.reader("all").take(1))
        await asyncio.sleep(0.05)
        assert not take.done()
        await outbox.flush()
        assert sequences(await take) == [1]


async def test_many_appends_make_one_commit(path: Path) -> None:
    async with opened(path, ALL, commit=0.1) as outbox:
        for i in range(100):
            push(outbox, block_of(RAW, i))
        await outbox.reader("all").take(1)
        assert outbox.reader("all").lag == 100


async def test_a_megabyte_is_committed_at_once(path: Path) -> None:
    async with opened(path, ALL, commit=60.0) as outbox:
        for i in range(80):
            push(outbox, incompressible(WIDE, i * 64, 64))
        assert await outbox.reader("all").take(1)


async def test_the_same_is_taken_again_until_it_is_acknowledged(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        for i in range(6):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        reader = outbox.reader("all")
        assert sequences(await reader.take(4)) == [1, 2, 3, 4]
        assert sequences(await reader.take(4)) == [1, 2, 3, 4]
        reader.acknowledge(3, delivered=3)
        assert sequences(await reader.take(4)) == [4, 5, 6]


async def test_a_reader_gets_only_what_it_takes(path: Path) -> None:
    async with opened(path, RAW_ONLY) as outbox:
        for i in range(5):
            push(outbox, block_of(RAW, i), block_of(OTHER, i), block_of(SLOT, i))
        await outbox.flush()
        assert sequences(await outbox.reader("raw only").take(10)) == [1, 4, 7, 10, 13]


async def test_a_refused_row_is_counted_apart(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 1, 5))
        await outbox.flush()
        reader = outbox.reader("all")
        await reader.take(1)
        reader.acknowledge(1, delivered=3, refused=2)
        assert reader.lag == 0
        await outbox.flush()
        counts = outbox.counts()
        assert (counts.readers["all"].delivered, counts.readers["all"].refused) == (3, 2)
        assert counts.conserved


async def test_a_delivered_derived_row_leaves_and_a_raw_one_stays(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY) as outbox:
        push(outbox, block_of(RAW, 1), block_of(SLOT, 1))
        await outbox.flush()
        await take_all(outbox.reader("all"))
        await outbox.flush()
        assert sequences(list(outbox.records(0, None))) == [1]
        assert outbox.last_ns(SLOT.stream) == 1


async def test_records_are_iterated_by_family(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        for i in range(600):
            push(outbox, block_of(RAW, i), block_of(SLOT, i), block_of(HOUR, i))
        await outbox.flush()
        assert sequences(list(outbox.records(3))) == list(range(4, 1801, 3))
        assert sequences(list(outbox.records(0, Family.SLOT))) == list(range(2, 1801, 3))
        assert sequences(list(outbox.records(1790, None))) == list(range(1791, 1801))


# ---- opening again -----------------------------------------------------------------------------


async def test_numbers_go_on_when_no_row_is_left(path: Path) -> None:
    no_history = Budget(raw_bytes=MIB, raw_age_ns=0, derived_bytes=MIB)
    async with opened(path, ALL, budget=no_history) as outbox:
        push(outbox, block_of(RAW, 1), block_of(SLOT, 1))
        await outbox.flush()
        await take_all(outbox.reader("all"))
        push(outbox, block_of(SLOT, 2))
        await outbox.flush()
        await take_all(outbox.reader("all"))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM raw")
    db.close()
    async with opened(path, ALL, budget=no_history) as outbox:
        assert list(outbox.records(0, None)) == []
        assert push(outbox, block_of(RAW, 2)) == 4


async def test_a_checkpoint_is_restored_with_its_sequence(path: Path) -> None:
    states: dict[str, object] = {"clinker/1h": {"sum": 1 / 3, "open": [1, 2]}, "digest": "abc"}
    async with opened(path, ALL) as outbox:
        assert outbox.restore() == (0, {})
        push(outbox, block_of(RAW, 1), block_of(RAW, 2))
        outbox.checkpoint({"old": 1})
        await outbox.flush()
        outbox.checkpoint(states)
        push(outbox, block_of(RAW, 3))
    async with opened(path, ALL) as outbox:
        assert outbox.restore() == (2, states)
        assert outbox.last_ns(RAW.stream) == 3
        assert outbox.newest_ns == 3


async def test_a_checkpoint_is_not_committed_before_the_rows_it_covers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_committer, "BATCH", 1)  # a commit for each push
    outbox = Outbox(path, [ALL], budget=BUDGET)
    seen = list[tuple[int, int]]()

    def look() -> None:
        seen.append((outbox.restore()[0], outbox.ledger.totals["committed"]))

    monkeypatch.setattr(outbox._committer, "_woken", look)
    for i in range(50):
        push(outbox, block_of(RAW, i))
    outbox.checkpoint({"metric": 1})
    await outbox.start()
    await outbox.flush()
    await outbox.close()
    assert len(seen) >= 50
    assert all(checkpoint <= committed for checkpoint, committed in seen)
    assert seen[-1] == (50, 50)


async def test_a_new_reader_begins_at_the_oldest_stored_row(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 1, 2), block_of(SLOT, 1))
        await outbox.flush()
        await take_all(outbox.reader("all"))
    async with opened(path, ALL, ReaderSpec("new", lambda _: True)) as outbox:
        assert sequences(await outbox.reader("new").take(9)) == [1]
        counts = outbox.counts()
        assert (counts.readers["new"].appended, counts.readers["new"].pending) == (2, 2)
        assert counts.conserved


async def test_a_reader_declared_no_more_is_forgotten_with_what_only_it_waited_for(
    path: Path,
) -> None:
    async with opened(path, ALL, RAW_ONLY) as outbox:
        push(outbox, block_of(RAW, 1), block_of(SLOT, 1))
    async with opened(path, RAW_ONLY) as outbox:
        assert list(outbox.counts().readers) == ["raw only"]
        assert outbox.counts().conserved
        assert sequences(list(outbox.records(0, None))) == [1]


@pytest.mark.parametrize("takes", [lambda _: True, lambda s: s == OTHER, lambda _: False])
async def test_a_reader_that_takes_other_streams_still_conserves(
    path: Path, takes: Callable[[Schema], bool]
) -> None:
    async with opened(path, ReaderSpec("all", lambda schema: schema == RAW)) as outbox:
        for i in range(8):
            push(outbox, block_of(RAW, i), block_of(OTHER, i), block_of(SLOT, i))
        await outbox.flush()
        reader = outbox.reader("all")
        await reader.take(3)
        reader.acknowledge(7, delivered=3)
    async with opened(path, ReaderSpec("all", takes)) as outbox:
        push(outbox, block_of(OTHER, 9))
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert counts.readers["all"].pending == count_again(path, "all")
        await take_all(outbox.reader("all"))
        await outbox.flush()
        assert outbox.counts().conserved


async def test_close_commits_what_waits(path: Path) -> None:
    async with opened(path, ALL, commit=60.0) as outbox:
        push(outbox, block_of(RAW, 1))
    assert not path.with_name("log.db-wal").exists()
    async with opened(path, ALL) as outbox:
        assert outbox.reader("all").lag == 1
        await outbox.close()
        await outbox.close()


async def test_a_folder_that_cannot_be_written_is_a_mistake_to_mend(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Outbox(tmp_path / "data" / "log.db", [ALL], budget=BUDGET)


async def test_two_agents_cannot_use_one_log(path: Path) -> None:
    async with opened(path, ALL):
        with pytest.raises(ConfigError, match="another agent"):
            Outbox(path, [ALL], budget=BUDGET)
    async with opened(path, ALL):
        pass


async def test_an_archive_reads_beside_the_agent_and_changes_nothing(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 1))
        await outbox.flush()
        archive = Archive(path)
        push(outbox, block_of(OTHER, 2), block_of(SLOT, 2))
        await outbox.flush()
        assert sequences(list(archive.records(0, None))) == [1, 2, 3]
        blocks = [archive.block(record) for record in archive.records(0)]
        assert [block.schema for block in blocks] == [RAW, OTHER]
        archive.db.close()
        assert outbox.reader("all").lag == 3


def test_an_archive_of_nothing_is_a_mistake_and_makes_no_file(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Archive(path)
    assert not path.exists()


# ---- a list as the model -----------------------------------------------------------------------


@dataclass
class Place:
    """What a reader has had, and the numbers at which it went on with what was newest.

    faded  those behind which it was handed nothing: they may part its backlog, or not
    """

    done: set[int] = field(default_factory=set)
    borders: list[int] = field(default_factory=list)
    faded: set[int] = field(default_factory=set)


class LogMachine(RuleBasedStateMachine):
    """Random appends, takes, acknowledgements, kills and restarts agree with a list.

    Commits happen only in ``flush``, and in ``take`` of a reader whose acknowledgements are not
    committed, so what a kill takes away is known exactly. A kill is a copy of the file and its WAL,
    opened in place of the one that was in use.
    """

    names = ("all", "raw only")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(self.runner.run(asyncio.to_thread(_new_folder)))
        self.generation = 0
        self.stored: list[tuple[int, Schema, int]] = []
        self.waiting: list[tuple[int, Schema, int]] = []
        self.places = {name: Place() for name in self.names}
        self.kept = deepcopy(self.places)
        self.checkpointed = self.kept_checkpoint = 0
        self.patched = pytest.MonkeyPatch()  # the model has no clock: the backlog never has a turn
        self.patched.setattr("edge_agent.outbox_reader.TURN", math.inf)
        self.patched.setattr("edge_agent.outbox_committer.FRAME", 0)  # nor is a commit due by acks
        self.owing = set[str]()  # readers whose acknowledgements are not committed yet
        self.left: list[Outbox] = []
        self.open()

    def open(self) -> None:
        path = self.folder / f"{self.generation}.db"
        self.outbox = Outbox(path, [ALL, RAW_ONLY], budget=BUDGET, commit=60.0)
        self.runner.run(self.outbox.start())

    def teardown(self) -> None:
        for outbox in [*self.left, self.outbox]:
            self.runner.run(outbox.close())
        self.runner.close()
        shutil.rmtree(self.folder)
        self.patched.undo()

    @rule(shape=st.lists(st.sampled_from([RAW, OTHER, SLOT]), min_size=1, max_size=4))
    def append(self, shape: list[Schema]) -> None:
        first = len(self.stored) + len(self.waiting) + 1
        assert push(self.outbox, *(block_of(s, first, 2) for s in shape)) == first + len(shape) - 1
        self.waiting += [(first + i, schema, 2) for i, schema in enumerate(shape)]

    @rule()
    def checkpoint(self) -> None:
        self.checkpointed = len(self.stored) + len(self.waiting)
        self.outbox.checkpoint({"at": self.checkpointed})

    @rule()
    def flush(self) -> None:
        self.runner.run(self.outbox.flush())
        self.committed()

    def committed(self) -> None:
        self.stored, self.waiting = self.stored + self.waiting, []
        self.kept, self.kept_checkpoint = deepcopy(self.places), self.checkpointed
        self.owing.clear()

    def waiting_for(self, name: str) -> list[int]:
        takes = ALL.takes if name == "all" else RAW_ONLY.takes
        done = self.places[name].done
        return [n for n, schema, _ in self.stored if n not in done and takes(schema)]

    def expected(self, name: str) -> tuple[list[int], bool]:
        """Return the lane that is next, and whether it is backlog."""
        waiting, borders = self.waiting_for(name), self.places[name].borders
        live = [n for n in waiting if not borders or n > borders[-1]]
        if live or not waiting:
            return live, False
        border = next(border for border in borders if waiting[0] <= border)
        return [n for n in waiting if n <= border], True

    @precondition(lambda self: self.stored)
    @rule(name=st.sampled_from(names))
    def part(self, name: str) -> None:
        self.outbox.reader(name).part()
        place = self.places[name]
        if place.borders and not any(n > place.borders[-1] for n in place.done):
            place.faded.add(place.borders.pop())
        place.borders.append(len(self.stored))

    @precondition(lambda self: any(self.waiting_for(name) for name in self.names))
    @rule(limit=st.integers(1, 8), part=st.integers(0, 8))
    def deliver(self, limit: int, part: int) -> None:
        name = next(name for name in self.names if self.waiting_for(name))
        reader = self.outbox.reader(name)
        lane, behind = self.expected(name)
        taken = self.runner.run(reader.take(limit))
        if name in self.owing:
            self.committed()
        assert reader.behind == behind
        numbers = sequences(taken)
        assert numbers == lane[: len(numbers)]
        if numbers != lane[:limit]:
            after = lane[len(numbers)]
            assert any(numbers[-1] <= border < after for border in self.places[name].faded)
        for item in taken:
            assert isinstance(item, Record)
            assert self.outbox.block(item).time[0] == item.first_ns
        if part:
            done = taken[:part]
            reader.acknowledge(done[-1].sequence, delivered=2 * len(done))
            self.places[name].done |= set(sequences(done))
            self.owing.add(name)

    @rule()
    def kill(self) -> None:
        before = self.folder / f"{self.generation}.db"
        self.generation += 1
        for suffix in ("", "-wal"):
            old = before.with_name(before.name + suffix)
            shutil.copy(old, self.folder / f"{self.generation}.db{suffix}")
        self.left.append(self.outbox)
        self.waiting, self.places = [], deepcopy(self.kept)
        self.owing.clear()
        self.checkpointed = self.kept_checkpoint
        self.open()

    @rule()
    def stop_and_start(self) -> None:
        self.runner.run(self.outbox.close())
        self.committed()
        self.open()

    @invariant()
    def agrees(self) -> None:
        counts = self.outbox.counts()
        assert counts.conserved
        assert counts.appended == sum(rows for _, _, rows in self.stored)
        for name in self.names:
            assert self.outbox.reader(name).lag == 2 * len(self.waiting_for(name))
            assert counts.readers[name].pending == self.outbox.ledger.readers[name].pending
        raw = [n for n, schema, _ in self.stored if not schema.family.derived]
        assert sequences(list(self.outbox.records(0))) == raw
        assert self.outbox.restore()[0] == self.kept_checkpoint


def _new_folder() -> str:
    import tempfile

    return tempfile.mkdtemp(prefix="outbox-")


LogMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestAgainstAList(LogMachine.TestCase):  # type: ignore[misc, name-defined] # made at run time
    """The model above under pytest."""


# ---- kills -------------------------------------------------------------------------------------


@pytest.mark.timeout(60)  # starts a process for each kill
async def test_a_kill_at_any_moment_leaves_a_prefix_of_whole_pushes(path: Path) -> None:
    chance = random.Random(7)
    sizes = [0]
    for _ in range(6):
        said = run_and_kill(path, after=chance.uniform(0.02, 0.4))
        async with opened(path, *READERS) as outbox:
            times = {}
            for schema in (RAW, SLOT, HOUR):
                records = list(outbox.records(0, schema.family))
                for record in records:
                    np.testing.assert_array_equal(
                        outbox.block(record).value, block_of(schema, record.first_ns).value
                    )
                times[schema.stream] = [record.first_ns for record in records]
            n = len(times[RAW.stream])
            assert times == {stream: list(range(n)) for stream in times}
            assert n > said, "a flushed push is gone"
            assert sequences(list(outbox.records(0, None))) == list(range(1, 3 * n + 1))
            counts = outbox.counts()
            assert counts.conserved
            assert (counts.appended, counts.read) == (3 * n, n)
            assert counts.readers["down"].pending == 3 * n
            sequence, states = outbox.restore()
            assert states == ({"metric": {"time": sequence // 3 - 1}} if sequence else {})
        assert n > sizes[-1], "appending did not go on"
        sizes.append(n)


def run_and_kill(path: Path, *, after: float) -> int:
    """Run the writer, kill it so long after its first flush; return what it flushed last."""
    command = [sys.executable, "-m", "tests.outbox_writer", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = writer.stdout.readline()
        time.sleep(after)
        writer.kill()
        lines = [said, *writer.stdout.read().splitlines(keepends=True)]
    return int(next(line for line in reversed(lines) if line.endswith("\n")))
