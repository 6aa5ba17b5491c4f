"""The local history: what is written is read, again and again, within its budgets."""

import asyncio
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.database_files import damage, damage_flag, put_aside
from edge_agent.errors import Corrupt, Disconnected
from edge_agent.model import Family, Gap, Quality, SampleBlock, Schema
from edge_agent.sinks.history import History, HistorySink
from tests.sinks.blocks import SECOND, START, block, schema

SLOTS = schema("em-kiln/slot", "active_power.mean", "active_power.max", family=Family.SLOT)
HOURS = schema("clinker/1h", "intensity", "output_t", family=Family.ENERGY)
GENEROUS = 10**9


def sink(
    path: Path, *, slots_s: int = GENEROUS, metrics_s: int = GENEROUS,
    slots_bytes: int = GENEROUS, metrics_bytes: int = GENEROUS,
) -> HistorySink:  # fmt: skip
    return HistorySink(
        path,
        slots_ns=slots_s * SECOND,
        metrics_ns=metrics_s * SECOND,
        slots_bytes=slots_bytes,
        metrics_bytes=metrics_bytes,
    )


def same(a: SampleBlock | None, b: SampleBlock) -> bool:
    assert a is not None
    return (
        a.schema.id == b.schema.id
        and np.array_equal(a.time, b.time)
        and a.value.tobytes() == b.value.tobytes()
        and np.array_equal(a.quality, b.quality)
    )


def size_of(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


async def test_rows_come_back_bit_for_bit(path: Path) -> None:
    history = sink(path)
    await history.connect()
    slots, hours = block(SLOTS, 60), block(HOURS, 5, seed=2)
    await history.write([slots, hours, Gap(HOURS, 1, 2, 3, "bytes")])
    await history.close()
    reader = History(path)
    assert [s.id for s in reader.streams()] == [HOURS.id, SLOTS.id]
    assert same(reader.rows("em-kiln/slot", 0, 2 * START), slots)
    assert same(reader.rows("clinker/1h", 0, 2 * START), hours)


async def test_a_period_holds_the_windows_that_end_in_it(path: Path) -> None:
    history = sink(path)
    await history.connect()
    hours = block(HOURS, 10)
    await history.write([hours])
    reader = History(path)
    times = hours.time.tolist()
    assert same(reader.rows("clinker/1h", times[2], times[5]), hours.rows(3, 6))
    assert reader.rows("clinker/1h", times[9], 2 * START) is None
    assert same(reader.last("clinker/1h", 3), hours.rows(7, 10))
    assert same(reader.last("clinker/1h", 30), hours)
    assert reader.last("unknown/1h", 3) is None
    await history.close()


async def test_a_row_written_again_replaces_itself(path: Path) -> None:
    history = sink(path)
    await history.connect()
    first, again = block(HOURS, 4), block(HOURS, 4, seed=9)
    await history.write([first])
    await history.write([first, again])
    await history.close()
    assert same(History(path).rows("clinker/1h", 0, 2 * START), again)


async def test_rows_of_an_older_schema_are_read_by_the_names_of_the_newest(path: Path) -> None:
    older = block(HOURS, 2)
    wider = schema("clinker/1h", "total_kgce", "intensity", family=Family.ENERGY)
    newer = block(wider, 1, first=2)
    history = sink(path)
    await history.connect()
    await history.write([older])
    await history.write([newer])
    await history.close()
    found = History(path).rows("clinker/1h", 0, 2 * START)
    assert found is not None
    assert found.schema.id == wider.id
    assert found.lawful()
    assert found.quality[0].tolist() == [Quality.BAD_MISSING, Quality.BAD_MISSING, Quality.GOOD]
    assert np.array_equal(found["intensity"][:2], older["intensity"], equal_nan=True)
    assert found["intensity"][2] == newer["intensity"][0]
    assert [s.id for s in History(path).streams()] == [wider.id]


async def test_no_more_rows_are_read_than_asked_for_the_oldest_first(path: Path) -> None:
    history = sink(path)
    await history.connect()
    stored = block(HOURS, 5)
    await history.write([stored])
    await history.close()
    assert same(History(path).rows("clinker/1h", 0, 2 * START, 3), stored.rows(0, 3))
    assert same(History(path).rows("clinker/1h", 0, 2 * START, 9), stored)


async def test_old_rows_go_by_age_and_each_class_has_its_own(path: Path) -> None:
    history = sink(path, slots_s=100)
    await history.connect()
    await history.write([block(HOURS, 50)])
    for first in range(0, 500, 50):
        await history.write([block(SLOTS, 50, first=first)])
    await history.close()
    slots = History(path).rows("em-kiln/slot", 0, 2 * START)
    hours = History(path).rows("clinker/1h", 0, 2 * START)
    assert slots is not None
    assert (slots.time[0] - START) // SECOND == 400
    assert hours is not None
    assert len(hours) == 50


async def test_old_rows_go_by_bytes_and_the_file_stays_near_the_budget(path: Path) -> None:
    budget = 400_000
    wide = Schema("em/slot", Family.SLOT, schema("x/slot", *(f"t{i}" for i in range(50))).tags, 60)
    history = sink(path, slots_bytes=budget)
    await history.connect()
    for first in range(0, 4000, 100):
        await history.write([block(wide, 100, first=first, seed=first)])
    await history.close()
    kept = History(path).rows("em/slot", 0, 2 * START)
    assert kept is not None
    assert 500 < len(kept) < 1500
    assert (kept.time[-1] - START) // SECOND == 3999
    assert size_of(path) < budget + 50_000  # the write in hand


async def test_a_clock_gone_wrong_cannot_empty_the_history(path: Path) -> None:
    history = sink(path, metrics_s=3600)
    await history.connect()
    await history.write([block(HOURS, 1000)])
    await history.write([block(HOURS, 1, first=10**9)])
    await history.close()
    left = History(path).rows("clinker/1h", 0, 2 * START)
    assert left is not None
    assert len(left) > 900


async def test_rows_can_be_read_while_they_are_written(path: Path) -> None:
    history = sink(path)
    await history.connect()
    reader = History(path)

    async def write() -> None:
        for first in range(0, 200, 10):
            await history.write([block(HOURS, 10, first=first)])

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        while not writing.done():
            found = await asyncio.to_thread(reader.last, "clinker/1h", 1000)
            assert found is None or len(found) % 10 == 0  # whole writes only
    await history.close()
    found = reader.last("clinker/1h", 1000)
    assert found is not None
    assert len(found) == 200


def test_a_history_that_is_not_there_yet_is_empty(path: Path) -> None:
    reader = History(path)
    assert reader.streams() == []
    assert reader.rows("clinker/1h", 0, 2 * START) is None
    assert not path.exists()


def _spoil(path: Path, start: int) -> None:
    """Write over all but the first bytes of a file."""
    path.parent.mkdir(exist_ok=True)
    before = path.read_bytes() if path.exists() else bytes(20_000)
    path.write_bytes(before[:start] + b"\xff" * (len(before) - start))


async def test_a_damaged_history_is_set_aside_by_whoever_writes_it(path: Path) -> None:
    _spoil(path, 0)
    with pytest.raises(Disconnected, match="damaged, and a new one is begun"):
        History(path).streams()
    history = sink(path)
    with pytest.raises(Disconnected):
        await history.connect()
    await history.connect()
    await history.write([block(HOURS)])
    await history.close()
    assert put_aside(path) == [path.with_name("history.db.corrupt-1")]
    assert "history.db.corrupt-1" in damage(path)
    assert same(History(path).rows("clinker/1h", 0, 2 * START), block(HOURS))


@pytest.mark.parametrize("loss", ["file", "wal", "pages", "flag"])
async def test_a_history_lost_under_the_agent_is_begun_anew(path: Path, loss: str) -> None:
    history = sink(path)
    await history.connect()
    for first in range(0, 3000, 500):
        await history.write([block(HOURS, 500, first=first)])
    if loss == "pages":
        with closing(sqlite3.connect(path)) as other:  # they are in the WAL
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        _spoil(path, 4096)
        with pytest.raises(Disconnected):
            History(path).rows("clinker/1h", 0, 2 * START)
    elif loss == "flag":
        damage_flag(path).touch()
    else:
        path.with_name(path.name + ("-wal" if loss == "wal" else "")).unlink()
    later = block(HOURS, 3, first=5000)
    with pytest.raises(Disconnected):
        await history.write([later])
    await history.connect()
    await history.write([later])
    await history.close()
    assert same(History(path).rows("clinker/1h", 0, 2 * START), later)
    assert not damage_flag(path).exists()


async def test_the_history_never_takes_more_than_its_budgets(path: Path) -> None:
    slots_bytes, metrics_bytes = 8 << 20, 12 << 20
    history = sink(path, slots_bytes=slots_bytes, metrics_bytes=metrics_bytes)
    await history.connect()
    sizes, done = list[int](), threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            sizes.append(sum(f.stat().st_size for f in path.parent.iterdir()))

    tags = tuple(f"t{i}" for i in range(1500))
    streams = [schema(f"m{i}/slot", *tags, family=Family.SLOT) for i in range(20)]
    streams += [schema(f"k{i}/1h", *tags, family=Family.ENERGY) for i in range(20)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    reader = sqlite3.connect(path)
    try:
        for i in range(20):
            if i in {6, 13}:  # one that reads for too long
                reader.execute("BEGIN").execute("SELECT count(*) FROM row").fetchall()
            items = [block(s, 3, first=3 * i, seed=i) for s in streams]
            with suppress(Disconnected):
                await history.write(items)
            if reader.in_transaction:
                reader.execute("COMMIT")
                await history.write(items)
    finally:
        done.set()
        watcher.join()
        reader.close()
    await history.close()
    assert max(sizes) <= slots_bytes + metrics_bytes
    assert max(sizes) > 0.8 * (slots_bytes + metrics_bytes)
    for stream in streams:
        found = History(path).last(stream.stream, 1)
        assert found is not None
        assert int(found.time[-1] - START) // SECOND == 59


async def test_trouble_with_the_disk_is_told_and_nothing_half_written(path: Path) -> None:
    history = sink(path)
    with pytest.raises(Disconnected):
        await history.write([block(HOURS)])
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(Disconnected, match="history"):
        await history.connect()
    path.parent.unlink()
    await history.connect()
    other = sqlite3.connect(path)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON row WHEN new.time % 2 BEGIN"
                  " SELECT RAISE(ABORT, 'database or disk is full'); END")  # fmt: skip
    odd = SampleBlock(
        HOURS, np.array([2, 3], np.int64), np.ones((2, 2)), np.zeros((2, 2), np.uint8)
    )
    with pytest.raises(Disconnected, match="disk is full"):
        await history.write([odd])
    assert History(path).streams() == []
    other.execute("DROP TRIGGER full")
    other.close()
    await history.write([odd])
    await history.close()
    await history.close()
    assert same(History(path).rows("clinker/1h", 0, 10), odd)


async def test_damaged_bytes_are_told(path: Path) -> None:
    history = sink(path)
    await history.connect()
    await history.write([block(HOURS)])
    await history.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE row SET payload = x'00112233'")
    database.close()
    with pytest.raises(Corrupt, match="clinker/1h"):
        History(path).last("clinker/1h", 1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=3), max_size=6))
def test_writes_in_any_order_agree_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, writes: list[list[tuple[int, int]]]
) -> None:
    path = tmp_path_factory.mktemp("model") / "history.db"
    model: dict[int, bytes] = {}

    async def run() -> None:
        history = sink(path)
        for number, write in enumerate(writes):
            await history.connect()
            blocks = [block(HOURS, n, first=first, seed=number) for first, n in write]
            await history.write(blocks)
            await history.close()
            for b in blocks:
                model.update((int(b.time[i]), b.value[:, i].tobytes()) for i in range(len(b)))

    asyncio.run(run())
    found = History(path).rows("clinker/1h", 0, 2 * START)
    rows = {} if found is None else {
        int(found.time[i]): found.value[:, i].tobytes() for i in range(len(found))
    }  # fmt: skip
    assert rows == model
