"""The log's files: bounded whatever happens, on a disk that is full, fails, or loses them."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from edge_agent import outbox_opening
from edge_agent.config.config import Retention
from edge_agent.database_files import put_aside
from edge_agent.errors import ConfigError
from edge_agent.model import Family, SampleBlock
from edge_agent.outbox import Budget, Marker, Outbox, ReaderSpec, Record
from tests.outbox_writer import BUDGET, RAW, SLOT, block_of, schema_of
from tests.test_outbox import (
    ALL,
    MIB,
    RAW_ONLY,
    ROOT,
    WIDE,
    incompressible,
    opened,
    path,
    push,
    sequences,
    take_all,
)
from tests.test_outbox_trouble import fill, gaps, tmpfs, until

__all__ = ["path"]  # the fixture

TIGHT = Budget(
    raw_bytes=2 * MIB, raw_age_ns=1 << 60, derived_bytes=MIB, wal_bytes=MIB, ballast_bytes=MIB // 2
)


# ---- the bound -----------------------------------------------------------------------------------


def test_all_files_together_take_what_the_configuration_says() -> None:
    for raw, derived in ((32 * MIB, 4 * MIB), (2 << 30, 512 * MIB), (1 << 40, 1 << 30)):
        budget = Budget.within(raw, derived, 1)
        assert raw + derived - 4096 <= budget.files_bytes <= raw + derived
        assert budget.raw_bytes > 0.7 * raw
        assert budget.derived_bytes > 0.7 * derived
    kept = Retention()
    log = Budget.within(kept.raw_bytes, kept.waiting_bytes, kept.raw.ns).files_bytes
    history = kept.slots_bytes + kept.metrics_bytes - kept.waiting_bytes
    assert log + history <= kept.raw_bytes + kept.slots_bytes + kept.metrics_bytes


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Look at the sizes of all files in a folder all the time."""
    sizes, done = list[int](), threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            found = 0
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    found += entry.stat().st_size
            sizes.append(found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield sizes
    finally:
        done.set()
        watcher.join()


@pytest.mark.parametrize(
    ("seed", "rounds"),
    [(1, 60), pytest.param(2, 3000, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])],
)
async def test_the_files_never_take_more_than_their_budget(
    path: Path, seed: int, rounds: int
) -> None:
    chance = random.Random(seed)
    many = [schema_of(f"m-{i}/raw", Family.SAMPLE, 8) for i in range(300)]
    late = ReaderSpec("late", lambda _: True)
    outbox = Outbox(path, [ALL, late], budget=TIGHT, commit=0.005)
    await outbox.start()
    appended = i = 0
    with watched(path.parent) as sizes:
        for n in range(rounds):
            kind = chance.choice(["small", "many", "huge", "wide", "state", "read", "restart"])
            i += 1
            if kind == "restart" and n % 3 == 0:
                await outbox.close()
                outbox = Outbox(path, [ALL, late], budget=TIGHT, commit=0.005)
                await outbox.start()
            elif kind == "huge":
                push(outbox, incompressible(WIDE, i << 20, 4000), block_of(SLOT, i << 20))
                appended += 4001
            elif kind == "state":
                size = chance.choice([10, 1000, 40_000])
                outbox.checkpoint({"all": [chance.random() for _ in range(size)]})
            elif kind == "many":
                for schema in chance.sample(many, 100):
                    push(outbox, incompressible(schema, i << 20))
                appended += 100
            elif kind == "wide":
                for j in range(40):
                    push(outbox, incompressible(WIDE, (i << 20) + j * 40, chance.randint(1, 40)))
            elif kind == "read":
                with sqlite3.connect(path) as other:  # holds the WAL
                    other.execute("BEGIN").execute("SELECT count(*) FROM raw").fetchall()
                    push(outbox, incompressible(WIDE, i << 20, 800))
                    await asyncio.sleep(0.03)
                other.close()
            else:
                for j in range(50):
                    push(outbox, block_of(RAW, (i << 20) + j), block_of(SLOT, (i << 20) + j))
            if chance.random() < 0.5:
                reader = outbox.reader("all")
                if reader.lag:
                    items = await reader.take(64)
                    done = sum(item.rows for item in items if isinstance(item, Record))
                    reader.acknowledge(items[-1].sequence, delivered=done)
            if chance.random() < 0.6:
                await outbox.flush()
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        waiting = await take_all(outbox.reader("late"))
        assert sum(gap.rows for gap in gaps(waiting)) == counts.readers["late"].dropped > 0
        assert not outbox.fault
        await outbox.close()
    assert max(sizes) <= TIGHT.files_bytes
    assert max(sizes) > 0.55 * TIGHT.files_bytes


def size_of(path: Path) -> int:
    return path.stat().st_size


def frames_in(path: Path) -> int:
    """Return the frames in a WAL as SQLite itself has them: mxFrame of the wal-index header."""
    shm = path.with_name(path.name + "-shm").read_bytes()
    return int.from_bytes(shm[16:20], sys.byteorder)


async def test_a_reader_that_does_not_let_go_stops_the_writer_and_loses_nothing(path: Path) -> None:
    async with opened(path, ALL, budget=TIGHT) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        other = sqlite3.connect(path)
        other.execute("BEGIN").execute("SELECT * FROM raw").fetchall()
        for i in range(1, 30):
            push(outbox, incompressible(WIDE, i * 512, 256))
        await until(outbox, fault=True)
        assert "another program reads it" in outbox.fault
        assert frames_in(path) * 4120 <= TIGHT.wal_bytes
        other.close()
        await outbox.flush()
        assert not outbox.fault
        assert outbox.counts().conserved
        assert outbox.counts().appended == 1 + 29 * 256


async def test_a_smaller_budget_is_reached_while_rows_come(path: Path) -> None:
    async with opened(path, ALL, budget=BUDGET) as outbox:
        for i in range(400):
            push(outbox, incompressible(WIDE, i * 512, 128))
        await outbox.flush()
    assert size_of(path) > 2 * TIGHT.main_bytes
    async with opened(path, ALL, budget=TIGHT) as outbox:
        for i in range(400, 800):
            push(outbox, incompressible(WIDE, i * 512, 2))
            await outbox.flush()
            if size_of(path) <= TIGHT.main_bytes:
                break
        assert size_of(path) <= TIGHT.main_bytes, "free pages were not given back"
        assert outbox.counts().conserved


# ---- a full disk ---------------------------------------------------------------------------------

ON_DISK = Budget(
    raw_bytes=8 * MIB, raw_age_ns=1 << 60, derived_bytes=MIB, wal_bytes=2 * MIB, ballast_bytes=MIB
)


async def test_on_a_full_disk_history_makes_room_for_new_rows(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as disk:
        path, ballast = disk / "log.db", disk / "log.db.ballast"
        async with opened(path, ALL, budget=ON_DISK) as outbox:
            for i in range(100):
                push(outbox, incompressible(WIDE, i * 512, 128))
            await take_all_later(outbox)
            assert ballast.stat().st_blocks * 512 >= ON_DISK.ballast_bytes, "it holds no space"
            fill(disk / "foreign")
            for i in range(100, 160):
                push(outbox, incompressible(WIDE, i * 512, 128))
                await outbox.flush()
            assert "is full" in outbox.fault
            assert not ballast.exists()
            counts = outbox.counts()
            assert (counts.appended, counts.dropped) == (160 * 128, 0)
            assert sequences(await outbox.reader("all").take(500))[0] == 101
            history = sequences(list(outbox.records(0)))
            assert history[0] > 1, "no history has left"
            (disk / "foreign").unlink()
            push(outbox, block_of(RAW, 0))
            await outbox.flush()
            assert not outbox.fault
            assert ballast.stat().st_size == ON_DISK.ballast_bytes
            assert len(await take_all(outbox.reader("all"))) == 61
            await outbox.flush()
            assert outbox.counts().conserved


async def take_all_later(outbox: Outbox) -> None:
    """Commit, deliver and checkpoint everything, so that all of it is history."""
    await outbox.flush()
    await take_all(outbox.reader("all"))
    outbox.checkpoint({"metric": 1})
    await outbox.flush()


async def test_on_a_full_disk_rows_that_are_waited_for_stay(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as disk:
        path = disk / "log.db"
        async with opened(path, ALL, budget=ON_DISK) as outbox:
            for i in range(100):
                push(outbox, incompressible(WIDE, i * 512, 128))
            await outbox.flush()
            outbox.checkpoint({"metric": 1})
            await outbox.flush()
            fill(disk / "foreign")
            appended = 100
            while not outbox.fault or outbox.counts().appended == appended * 128:
                push(outbox, incompressible(WIDE, appended * 512, 128))
                appended += 1
                await asyncio.sleep(0.02)
                if "waited for" in outbox.fault:
                    break
            stored = outbox.counts().appended
            assert stored < appended * 128
            assert outbox.counts().dropped == 0
            reader = outbox.reader("all")
            taken: list[Record | Marker] = []
            while outbox.counts().appended < appended * 128:  # the disk is full still
                items = await reader.take(50)
                taken += items
                reader.acknowledge(items[-1].sequence, delivered=sum(item.rows for item in items))
                await asyncio.sleep(0.05)
            assert "is full" in outbox.fault
            rest = await take_all(reader)
            assert sequences([*taken, *rest]) == list(range(1, appended + 1))
            await outbox.flush()
            assert outbox.counts().conserved


async def test_a_log_on_a_full_disk_is_opened_with_the_space_of_the_ballast(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as disk:
        async with opened(disk / "log.db", ALL, budget=ON_DISK) as outbox:
            push(outbox, block_of(RAW, 0))
        fill(disk / "foreign")
        async with opened(disk / "log.db", ALL, budget=ON_DISK) as outbox:
            assert sequences(await outbox.reader("all").take(9)) == [1]


# ---- a disk that fails ---------------------------------------------------------------------------

FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The error named in the file $FAULT, for files whose path has $UNDER in it, while it is there. */
static int wrong(const char *call, int fd) {
    char link[64], path[4096], said[64] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if (!strstr(path, getenv("UNDER"))) return 0;
    FILE *f = fopen(getenv("FAULT"), "r");
    if (!f) return 0;
    int found = fscanf(f, "%63s", said);
    fclose(f);
    if (found != 1 || !strstr(said, call)) return 0;
    errno = strstr(said, "rofs") ? EROFS : EIO;
    return 1;
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    return wrong("write", fd) ? -1 : real(fd, b, n, o);
}
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { return pwrite64(fd, b, n, o); }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) {
    static ssize_t (*real)(int, void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pread64");
    return wrong("read", fd) ? -1 : real(fd, b, n, o);
}
ssize_t pread(int fd, void *b, size_t n, off_t o) { return pread64(fd, b, n, o); }
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return wrong("sync", fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    return wrong("sync", fd) ? -1 : real(fd);
}
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that lets the disk of one process fail."""
    folder = tmp_path_factory.mktemp("failing")
    (folder / "failing.c").write_text(FAILING)
    library = folder / "failing.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", library, folder / "failing.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.mark.timeout(60)  # a process, and a second until each attempt
@pytest.mark.parametrize("faults", [["sync", "write"], ["write-rofs", "read,write,sync"]])
async def test_a_disk_that_fails_and_comes_back_loses_nothing_committed(
    path: Path, failing: Path, faults: list[str]
) -> None:
    flag = path.with_name("fault")
    environ = {**os.environ, "LD_PRELOAD": str(failing), "UNDER": path.name, "FAULT": str(flag)}
    writer = started(path, environ)
    said = Said(writer)
    try:
        for fault in faults:
            said.wait_for(20)
            flag.write_text(fault)
            said.wait_until_silent()
            flag.unlink()
            said.wait_for(20)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        said.close()
    assert "Traceback" not in said.errors, said.errors
    assert "cannot be written" in said.errors
    assert "damaged" not in said.errors
    async with opened(path, *_declared()) as outbox:
        stored = [record.first_ns for record in outbox.records(0)]
        assert stored == list(range(len(stored))), "a row is missing, comes twice or out of order"
        assert len(stored) > said.last
        assert outbox.counts().conserved
        assert not outbox.damage


def _declared() -> list[ReaderSpec]:
    from tests.outbox_writer import READERS

    return READERS


def started(path: Path, environ: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.outbox_writer", str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=ROOT, env=environ, text=True)


class Said:
    """What a writer says: the time up to which all is committed."""

    def __init__(self, writer: subprocess.Popen[str]) -> None:
        self.last, self.errors = -1, ""
        self._writer = writer
        self._threads = [threading.Thread(target=f) for f in (self._numbers, self._errors)]
        for thread in self._threads:
            thread.start()

    def _numbers(self) -> None:
        assert self._writer.stdout is not None
        for line in self._writer.stdout:
            self.last = int(line)

    def _errors(self) -> None:
        assert self._writer.stderr is not None
        for line in self._writer.stderr:
            self.errors += line

    def wait_for(self, more: int) -> None:
        """Return when so many more rows are committed."""
        wanted, deadline = self.last + more, time.monotonic() + 20
        while self.last < wanted:
            assert time.monotonic() < deadline, self.errors
            assert self._writer.poll() is None, self.errors
            time.sleep(0.01)

    def wait_until_silent(self) -> None:
        """Return when it has found out that nothing can be committed."""
        before, deadline = self.errors.count("cannot be written"), time.monotonic() + 20
        while self.errors.count("cannot be written") == before:
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        for stream in (self._writer.stdout, self._writer.stderr):
            assert stream is not None
            stream.close()


def run(*command: object, check: bool = True) -> None:
    subprocess.run([str(part) for part in command], check=check, capture_output=True)


async def test_a_disk_that_was_mounted_anew_is_written_again(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs the right to mount a disk")
    image, again, disk = tmp_path / "image", tmp_path / "again", tmp_path / "disk"
    run("mkdir", disk)
    run("truncate", "-s", "32M", image)
    run("mkfs.ext4", "-q", image)
    run("mount", "-o", "loop", image, disk)
    path = disk / "data" / "log.db"
    try:
        async with opened(path, ALL) as outbox:
            for i in range(100):
                push(outbox, block_of(RAW, i))
            await outbox.flush()
            run("mount", "-o", "remount,abort", disk)  # as after an error of its journal
            push(outbox, block_of(RAW, 100))
            await until(outbox, fault=True)
            assert outbox.counts().appended == 100
            run("umount", "-l", disk)  # the files are open
            push(outbox, block_of(RAW, 101))
            deadline = time.monotonic() + 10
            while "is not there" not in outbox.fault:
                assert time.monotonic() < deadline, outbox.fault
                await asyncio.sleep(0.01)
            run("cp", image, again)  # the same disk under another device
            run("fsck.ext4", "-fy", again, check=False)
            run("mount", "-o", "loop", again, disk)
            await until(outbox, fault=False)
            await outbox.flush()
            assert [record.first_ns for record in outbox.records(0)] == list(range(102))
            assert len(await take_all(outbox.reader("all"))) == 102
            await outbox.flush()
            assert outbox.counts().conserved
            assert not outbox.damage
    finally:
        run("umount", "-l", disk, check=False)


# ---- power loss ----------------------------------------------------------------------------------


def read(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_torn_end_of_the_wal_takes_whole_commits_and_no_more(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        for i in range(60):
            push(outbox, block_of(RAW, i), block_of(SLOT, i))
            await outbox.flush()
        whole, wal = read(path), read(path.with_name("log.db-wal"))
    chance = random.Random(3)
    found = list[int]()
    for i in range(24):
        cut = chance.randrange(len(wal))
        torn = wal[:cut] if i % 2 else wal[:cut] + chance.randbytes(len(wal) - cut)
        copy = path.with_name(f"torn-{i}.db")
        copy.write_bytes(whole)
        copy.with_name(copy.name + "-wal").write_bytes(torn)
        async with opened(copy, ALL) as outbox:
            numbers = sequences(list(outbox.records(0, None)))
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) % 2 == 0, "a push was parted"
            assert outbox.counts().conserved
            assert outbox.counts().appended == len(numbers)
            push(outbox, block_of(RAW, 100))
            await outbox.flush()
            assert not outbox.damage
        found.append(len(numbers))
    assert len(set(found)) > 5


# ---- damage while it runs ------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    """Change a file in its place, under whoever has it open."""
    changed = change(bytearray(path.read_bytes()))
    with path.open("r+b") as file:
        file.write(changed)
        file.truncate(len(changed))


def pages_lost(whole: bytearray) -> bytearray:
    """Write over a part in the middle of the tree of rows."""
    middle = len(whole) // 8192 * 4096
    whole[middle : middle + 5 * 4096] = b"\xff" * 5 * 4096
    return whole


def replaced(path: Path) -> None:
    other = path.with_name("other")
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE something (else_ TEXT)")
    db.close()
    other.replace(path)


def moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


DAMAGES: dict[str, tuple[Callable[[Path], None], bool]] = {  # and whether every row survives
    "removed": (Path.unlink, True),
    "its wal removed": (lambda path: path.with_name(path.name + "-wal").unlink(), True),
    "its folder moved": (moved, True),
    "another file in its place": (replaced, True),
    "cut short": (lambda path: rewrite(path, lambda b: b[: len(b) // 2]), False),
    "emptied": (lambda path: rewrite(path, lambda _: b""), False),
    "pages lost": (lambda path: rewrite(path, pages_lost), False),
    "another header": (lambda path: rewrite(path, lambda b: b"garbage!" * 512 + b[4096:]), False),
}


@pytest.mark.parametrize("kind", DAMAGES)
async def test_collection_goes_on_in_a_new_file_when_the_log_is_damaged(
    tmp_path: Path, kind: str
) -> None:
    damage, harmless = DAMAGES[kind]
    path = tmp_path / "data" / "log.db"
    path.parent.mkdir()
    async with opened(path, ALL, RAW_ONLY, budget=BUDGET) as outbox:
        reader = outbox.reader("all")
        for i in range(600):
            push(outbox, incompressible(WIDE, i * 8, 2), block_of(RAW, i))
            if i % 50 == 0:
                await outbox.flush()
        await outbox.flush()
        outbox.checkpoint({"metric": 7})
        taken = await reader.take(64)
        reader.acknowledge(taken[-1].sequence, delivered=sum(item.rows for item in taken))
        await outbox.flush()
        before = [*taken, *(in_hand := await reader.take(64))]
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.close()
        damage(path)
        list(outbox.records(0))  # a look at the file finds what a commit would not
        for i in range(600, 640):
            push(outbox, block_of(RAW, i))
        await outbox.flush()
        reader.acknowledge(in_hand[-1].sequence, delivered=sum(item.rows for item in in_hand))
        after = await take_all(reader)
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert counts.appended == 600 * 3 + 40
        numbers = sequences([*before, *after])
        assert numbers == sorted(set(numbers)), "out of order or twice"
        assert numbers[-40:] == list(range(1201, 1241))
        assert sum(gap.rows for gap in gaps(after)) == counts.readers["all"].dropped
        assert {gap.reason for gap in gaps(after)} <= {"corrupt"}
        if harmless:
            assert counts.dropped == 0
            assert numbers == list(range(1, 1241))
        assert outbox.last_ns(RAW.stream) == 639
        assert not outbox.fault
    async with opened(path, ALL, RAW_ONLY, budget=BUDGET) as outbox:
        assert outbox.counts().appended == 600 * 3 + 40
        await take_all(outbox.reader("raw only"))
        await outbox.flush()
        assert outbox.counts().conserved


async def test_rows_that_wait_are_salvaged_at_a_start_too(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY) as outbox:
        for i in range(400):
            push(outbox, incompressible(WIDE, i * 8, 2), block_of(RAW, i))
        outbox.checkpoint({"metric": 7})
        await outbox.flush()
        reader = outbox.reader("all")
        taken = await reader.take(100)
        reader.acknowledge(taken[-1].sequence, delivered=sum(item.rows for item in taken))
    rewrite(path, pages_lost)
    path.with_name("log.db.damaged").touch()
    async with opened(path, ALL, RAW_ONLY) as outbox:
        reader = outbox.reader("all")
        rest = await take_all(reader)
        await outbox.flush()
        counts = outbox.counts()
        assert counts.conserved
        assert counts.appended == 400 * 3
        assert sequences(rest)[0] > 100, "delivered rows came again"
        assert len(sequences(rest)) > 500, "hardly anything was salvaged"
        assert sum(gap.rows for gap in gaps(rest)) == counts.readers["all"].dropped > 0
        assert outbox.restore()[1] == {"metric": 7}
        assert outbox.last_ns(RAW.stream) == 399
        assert push(outbox, block_of(RAW, 500)) == 801
        assert len(put_aside(path)) == 1


async def test_a_damaged_file_leaves_when_rows_need_its_place(path: Path) -> None:
    async with opened(path, ALL, budget=TIGHT) as outbox:
        for i in range(60):
            push(outbox, incompressible(WIDE, i * 512, 128))
            await outbox.flush()
        await take_all(outbox.reader("all"))
        await outbox.flush()
        outbox.explain(sqlite3.DatabaseError("database disk image is malformed"))
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        assert outbox.damage
        assert len(put_aside(path)) == 1
        with watched(path.parent) as sizes:
            for i in range(60, 130):
                push(outbox, incompressible(WIDE, i * 512, 128))
                await outbox.flush()
        assert not outbox.damage
        assert put_aside(path) == []
        assert max(sizes) <= TIGHT.files_bytes


async def test_a_foreign_database_is_no_log(path: Path) -> None:
    replaced(path)
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
        await outbox.flush()
        with sqlite3.connect(put_aside(path)[0]) as db:
            assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("something",)]
        db.close()


async def test_what_a_kill_leaves_of_beginning_anew_is_finished_or_undone(path: Path) -> None:
    async with opened(path, ALL) as outbox:
        push(outbox, block_of(RAW, 0))
    new = path.with_name("log.db.new")
    shutil.copy(path, new)
    async with opened(path, ALL) as outbox:  # the old one is there: it counts
        push(outbox, block_of(RAW, 1))
        assert not new.exists()
    shutil.move(path, new)
    async with opened(path, ALL) as outbox:  # the old one was renamed already
        assert sequences(list(outbox.records(0))) == [1, 2]
        assert not new.exists()


async def test_a_kill_while_the_first_log_is_made_leaves_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_path: Path) -> None:
        assert not path.exists(), "an empty file looks as if all in it were lost"
        raise OSError("killed")

    monkeypatch.setattr(outbox_opening, "_synced", killed)
    with pytest.raises(ConfigError, match="killed"):
        Outbox(path, [ALL], budget=BUDGET)
    monkeypatch.undo()
    async with opened(path, ALL) as outbox:
        assert push(outbox, block_of(RAW, 0)) == 1
        assert not outbox.damage


async def test_a_reader_finds_its_rows_though_numbers_go_on_far_above(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY) as outbox:
        push(outbox, block_of(RAW, 0))
    rewrite(path, lambda _: b"")
    async with opened(path, ALL, RAW_ONLY) as outbox:
        number = push(outbox, block_of(SLOT, 1), block_of(RAW, 2))
        await outbox.flush()
        assert number > 1 << 40
        assert put_aside(path)
        for name, wanted in (("all", [number - 1, number]), ("raw only", [number])):
            async with asyncio.timeout(2):
                assert sequences(await outbox.reader(name).take(5)) == wanted


# ---- the start -----------------------------------------------------------------------------------


def many(first: int, count: int, rows: int) -> list[SampleBlock]:
    """Blocks of one schema that hardly compress, made faster than each by itself."""
    value = np.random.default_rng(first).random((32, rows))
    quality = np.zeros((32, rows), np.uint8)
    times = (np.arange(n * rows, (n + 1) * rows) for n in range(first, first + count))
    return [SampleBlock(WIDE, time, value, quality) for time in times]


@pytest.mark.parametrize(
    ("megabytes", "rows", "most"),
    [
        (60, 800, 2.0),
        pytest.param(1000, 2000, 2.0, marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(1000, 2, 2.0, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
async def test_a_large_log_is_open_and_read_at_once_after_a_kill(
    path: Path, megabytes: int, rows: int, most: float
) -> None:
    budget = Budget.within(2 << 30, 1 << 30, 1 << 60)
    each = 8 * 32 * rows
    count = max(1, MIB // each)  # records of a commit
    async with opened(path, ALL, budget=budget) as outbox:
        n = 0
        while n * each < megabytes * 1_000_000:
            push(outbox, *many(n, count, rows))
            n += count
            await outbox.flush()
        outbox.checkpoint({"metric": 1})
        push(outbox, *many(n, count, rows))
        await outbox.flush()
        killed = path.with_name("killed.db")  # as a kill leaves it: with a WAL
        os.link(path, killed)
        shutil.copy(path.with_name("log.db-wal"), killed.with_name("killed.db-wal"))
        begin = time.perf_counter()
        other = Outbox(killed, [ALL], budget=budget, commit=0.01)
        await other.start()
        push(other, block_of(RAW, 0))
        await other.flush()
        first = await other.reader("all").take(64)
        seconds = time.perf_counter() - begin
        assert sequences(first)[0] == 1
        assert other.counts().appended == (n + count) * rows + 1
        await other.close()
        begin = time.perf_counter()
        other = Outbox(killed, [ALL, RAW_ONLY], budget=budget)  # the configuration has changed
        changed = time.perf_counter() - begin
        await other.close()
        text = (
            f"{size_of(path) >> 20} MiB, {n + count} records: open, written, read {seconds:.3f} s"
        )
        measured(f"{text}; open with a reader more {changed:.3f} s")
    assert seconds < most
    assert changed < 2 * most  # every record is looked at once: about a second in a million


def measured(text: str) -> None:
    print(text)  # noqa: T201  read with -s


async def test_a_row_of_no_schema_is_damage_and_no_bug(path: Path) -> None:
    async with opened(path, ALL, RAW_ONLY) as outbox:
        for i in range(9):
            push(outbox, block_of(SLOT, i), block_of(RAW, i))
        await outbox.flush()
        await take_all(outbox.reader("raw only"))
        await outbox.flush()
        with sqlite3.connect(path) as db:
            db.execute("UPDATE derived SET schema = 99 WHERE sequence = 3")
        db.close()
        reader = outbox.reader("all")
        taken = sequences(await reader.take(50))
        assert taken == [1, 2, *range(4, 19)]
        reader.acknowledge(18, delivered=17)
        await outbox.flush()
        counts = outbox.counts().readers["all"]
        assert (counts.delivered, counts.dropped, counts.pending) == (17, 1, 0)
        assert put_aside(path)
        outbox.check()
        push(outbox, block_of(RAW, 9))
        await outbox.flush()
        assert outbox.counts().conserved
