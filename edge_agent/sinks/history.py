"""Derived rows in one local SQLite file: what reports and charts read.

``HistorySink`` writes it, ``History`` reads it, also while it is written and from any thread. A row
is one record ``(stream, time)``, so to write it again replaces it. Its values and qualities are one
compressed text of bytes; beside it stands the key of the schema that it was written with.

Slots and metric rows have a budget of their own each, in age and in bytes. Age counts from the
newest row being written, not from the clock of the box, and one ``write`` removes at most twice
as many rows as it stores (and a few more): a clock gone wrong cannot empty the history at once.
The file with its WAL stays within both budgets together: the WAL and some room come out of them.
When the file is full all the same, because its pages are not, the oldest rows of the class that has
most of its share leave before others come.

A file that is damaged or gone is set aside and a new one begun: what the log still holds comes
again, and reports miss the past. ``History`` that finds damage leaves a note for the sink.
"""

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import zstandard

from edge_agent.database_files import (
    FRAME,
    PAGE,
    Wal,
    damage_flag,
    forget_aside,
    identity,
    put_aside,
    set_aside,
)
from edge_agent.errors import Corrupt, Disconnected
from edge_agent.model import Family, Gap, Quality, SampleBlock, Schema
from edge_agent.sinks.base import Item

COST = "length({row}payload) * 5 / 4 + 64"  # bytes of the file that a row takes, as measured
STEP = 64  # rows removed by each write beyond twice those stored
PIECE = 2000  # rows that ``History.pieces`` reads at a time
VACUUM = 256  # pages given back to the file system by each write
MIB = 1 << 20

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS stream (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS schema (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, canonical TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS row (
    stream INTEGER NOT NULL, time INTEGER NOT NULL, slot INTEGER NOT NULL,
    schema INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (stream, time)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_age ON row (slot, time);
CREATE TABLE IF NOT EXISTS used (slot INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO used VALUES (0, 0), (1, 0);
CREATE TRIGGER IF NOT EXISTS row_stored AFTER INSERT ON row BEGIN
    UPDATE used SET bytes = bytes + (NEW) WHERE slot = new.slot;
END;
CREATE TRIGGER IF NOT EXISTS row_replaced AFTER UPDATE ON row BEGIN
    UPDATE used SET bytes = bytes - (OLD) WHERE slot = old.slot;
    UPDATE used SET bytes = bytes + (NEW) WHERE slot = new.slot;
END;
CREATE TRIGGER IF NOT EXISTS row_removed AFTER DELETE ON row BEGIN
    UPDATE used SET bytes = bytes - (OLD) WHERE slot = old.slot;
END;
""".replace("(NEW)", f"({COST.format(row='new.')})").replace(
    "(OLD)", f"({COST.format(row='old.')})"
)

_STORE = """
INSERT INTO row VALUES (?, ?, ?, ?, ?) ON CONFLICT (stream, time)
DO UPDATE SET slot = excluded.slot, schema = excluded.schema, payload = excluded.payload
"""

_PIECE = """
SELECT time, schema, payload FROM row WHERE stream = (SELECT key FROM stream WHERE name = ?)
AND time > ? AND time <= ? ORDER BY time LIMIT ?
"""


@dataclass(frozen=True)
class _Budget:
    """What one class of rows may take."""

    slot: bool
    age_ns: int
    bytes: int


class HistorySink:
    """Stores the derived rows of this agent; the agent always has one.

    path       the file; made with its folder when it is not there
    *_ns       age at which rows are removed; *_bytes: size at which the oldest are
    """

    def __init__(
        self, path: Path, *, slots_ns: int, metrics_ns: int, slots_bytes: int, metrics_bytes: int
    ) -> None:
        self._path = path
        whole = slots_bytes + metrics_bytes
        wal = min(64 * MIB, max(MIB, whole // 16))
        self._main = whole - wal - Wal.shm_bytes(wal)  # bytes of the main file, at most
        self._room = min(wal, self._main // 16)  # of it, for what is not counted
        rows = self._main - self._room
        self._budgets = (
            _Budget(slot=True, age_ns=slots_ns, bytes=rows * slots_bytes // whole),
            _Budget(slot=False, age_ns=metrics_ns, bytes=rows * metrics_bytes // whole),
        )
        self._wal = Wal(wal, often=1000)
        self._rows = max(1, self._wal.most // 24)  # in one transaction: each may change some pages
        self._ours: tuple[tuple[int, int], ...] = ()
        self._aside = True  # there may be a damaged file that was set aside
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()  # a cancelled write() still runs while close() is called
        self._keys: dict[str, tuple[int, int]] = {}  # schema id -> keys of stream and schema

    @staticmethod
    def takes(schema: Schema) -> bool:
        """Return whether the rows of a stream belong here: of computed tags only their slots."""
        return schema.family.derived and schema.family is not Family.COMPUTED

    async def connect(self) -> None:
        await self.close()
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with self._lock, self._trouble():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if damage_flag(self._path).exists():
                raise sqlite3.DatabaseError("it was found damaged")
            database = self._database = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._wal.prepare(database)
            self._bound(database)
            database.executescript(_TABLES)
            database.execute("SELECT * FROM row ORDER BY stream DESC LIMIT 1").fetchall()
            self._ours = self._found()

    def _found(self) -> tuple[tuple[int, int], ...]:
        return identity(self._path), identity(self._path.with_name(self._path.name + "-wal"))

    def _bound(self, database: sqlite3.Connection) -> None:
        database.execute(f"PRAGMA max_page_count = {self._main // PAGE}").fetchall()

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:  # noqa: ARG002
        """Store the rows, on disk when it returns; a gap needs no row."""
        await asyncio.to_thread(self._write, [i for i in items if not isinstance(i, Gap)])

    def _write(self, blocks: Sequence[SampleBlock]) -> None:
        with self._lock, self._trouble():
            database = self._database
            if database is None:
                raise Disconnected("the history is not open")
            if self._found() != self._ours or damage_flag(self._path).exists():
                raise sqlite3.DatabaseError("it was removed, replaced or found damaged")
            if self._aside:
                pages, _ = _pages(database)
                for gone in forget_aside(self._path, self._main - PAGE * pages - self._room):
                    log.warning("%s was removed: its place is needed, or its week is over", gone)
                self._aside = bool(put_aside(self._path))
            for part in _parts(blocks, self._rows, self._wal.most * FRAME // 8):
                self._store(database, part)

    def _store(self, database: sqlite3.Connection, blocks: Sequence["_Rows"]) -> None:
        """Store some rows in one transaction."""
        size = sum(len(payload) for rows in blocks for _, payload in rows.payloads)
        count = sum(len(rows.payloads) for rows in blocks)
        step = 2 * count + min(STEP, self._rows)
        frames = size // PAGE + 4 * count + 24
        self._wal.room(database, frames + 2 * step)
        database.execute("BEGIN IMMEDIATE")
        try:
            gone = self._forget(database, blocks, step, size * 2 + 8 * PAGE * len(blocks))
            for rows in blocks:
                stream, schema = self._key(database, rows.schema)
                slot = rows.schema.family is Family.SLOT
                database.executemany(
                    _STORE, [(stream, time, slot, schema, data) for time, data in rows.payloads]
                )
            database.execute("COMMIT")
        except BaseException:
            self._keys.clear()  # keys given in the transaction are gone with it
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        self._wal.wrote(frames + 2 * gone)
        self._shrink(database)

    def _shrink(self, database: sqlite3.Connection) -> None:
        """Give free pages back to the file system, some at a time."""
        pages, free = _pages(database)
        most = min(VACUUM, self._wal.most // 8)
        if free:
            self._wal.room(database, most + 24)
            database.executescript(f"PRAGMA incremental_vacuum({most})")  # execute() does one step
            self._wal.wrote(min(most, free) + 24)
        if PAGE * pages > self._main:
            self._bound(database)

    def _key(self, database: sqlite3.Connection, schema: Schema) -> tuple[int, int]:
        keys = self._keys.get(schema.id)
        if keys is None:
            database.execute("INSERT OR IGNORE INTO stream (name) VALUES (?)", (schema.stream,))
            database.execute(
                "INSERT OR IGNORE INTO schema (id, canonical) VALUES (?, ?)",
                (schema.id, schema.canonical),
            )
            row = database.execute(
                "SELECT stream.key, schema.key FROM stream, schema WHERE name = ? AND id = ?",
                (schema.stream, schema.id),
            ).fetchone()
            keys = self._keys[schema.id] = (int(row[0]), int(row[1]))
        return keys

    def _forget(
        self, database: sqlite3.Connection, blocks: Sequence["_Rows"], step: int, come: int
    ) -> int:
        """Remove the oldest rows of each class that is over its budget, a step at a time.

        come     bytes that the file needs now
        returns  how many were removed
        """
        gone = 0
        pages, free = _pages(database)
        lack = come - (self._main - PAGE * (pages - free))
        used = dict(database.execute("SELECT slot, bytes FROM used").fetchall())
        fullest = max(self._budgets, key=lambda b: used[b.slot] / max(1, b.bytes))
        for budget in self._budgets:
            mine = [rows for rows in blocks if (rows.schema.family is Family.SLOT) == budget.slot]
            lacking = lack if budget is fullest else 0
            if not mine and lacking <= 0:
                continue
            newest = max((rows.payloads[-1][0] for rows in mine), default=-(1 << 62))
            excess = max(used[budget.slot] - budget.bytes, lacking)
            oldest = database.execute(
                f"SELECT stream, time, {COST.format(row='')} FROM row"  # noqa: S608 - ours
                " WHERE slot = ? ORDER BY time LIMIT ?",
                (budget.slot, step),
            )
            removed = list[tuple[int, int]]()
            for stream, time, cost in oldest:
                if time > newest - budget.age_ns and excess <= 0:
                    break
                removed.append((stream, time))
                excess -= cost
            database.executemany("DELETE FROM row WHERE stream = ? AND time = ?", removed)
            gone += len(removed)
        return gone

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Raise trouble with the file as ``Disconnected``; set it aside when it is damaged."""
        try:
            with _disk_trouble():
                yield
        except Disconnected as e:
            if isinstance(e.__cause__, sqlite3.Error) and _damaged(e.__cause__):
                self._begin_anew(str(e.__cause__))
            raise

    def _begin_anew(self, reason: str) -> None:
        """Make way for a new file: the next ``connect`` begins it."""
        self._let_go()
        try:
            aside = set_aside(self._path)
            damage_flag(self._path).unlink(missing_ok=True)
        except OSError as e:
            log.error("the damaged history %s cannot be set aside: %s", self._path, e)
            return
        self._aside = True
        where = f"set aside as {aside.name}" if aside is not None else "gone"
        said = "the history %s is damaged (%s): it is %s, a new one is begun; reports miss the past"
        log.error(said, self._path, reason, where)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        database, self._database = self._database, None
        self._keys.clear()
        if database is not None:
            with suppress(sqlite3.Error):  # a file that is of no use
                database.close()


class History:
    """Reads the file that ``HistorySink`` writes; each call by itself, from any thread.

    A file that is not there yet reads as empty. Errors: ``Disconnected`` for trouble with the disk,
    ``Corrupt`` for bytes that are no rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def streams(self) -> list[Schema]:
        """Return the schema of the newest row of each stream, by the stream's name."""
        with self._reading() as database:
            names = database.execute("SELECT key, name FROM stream ORDER BY name").fetchall()
            schemas = [_newest(database, key) for key, _ in names]
        return [schema for schema in schemas if schema is not None]

    def rows(
        self, stream: str, start_ns: int, end_ns: int, most: int | None = None
    ) -> SampleBlock | None:
        """Return the rows with ``start < time <= end``, or None if there are none.

        Rows are labelled by the end of their window, so the windows of [start, end) are those. The
        columns are those of the stream's newest schema; a row written when a column was not there
        has ``BAD_MISSING`` in it, and columns that are no longer there are left out.

        most  rows read at most, the oldest ones: a year of minutes takes hundreds of MB of memory
        """
        where = "time > ? AND time <= ? ORDER BY time LIMIT ?"
        return self._select(stream, where, (start_ns, end_ns, -1 if most is None else most))

    def made_of(self, stream: str, start_ns: int, end_ns: int) -> list[Schema]:
        """Return the schemas that the rows with ``start < time <= end`` were written with.

        Their ``provenance`` says which configuration and which table rows the figures rest on.
        """
        sql = (
            "SELECT DISTINCT row.schema FROM row JOIN stream ON stream.key = row.stream"
            " WHERE stream.name = ? AND time > ? AND time <= ?"
        )
        with self._reading() as database:
            keys = database.execute(sql, (stream, start_ns, end_ns)).fetchall()
            return [_schema(database, key) for (key,) in keys]

    def last(self, stream: str, n: int) -> SampleBlock | None:
        """Return the newest n rows, oldest first, or None if there are none."""
        return self._select(stream, "1 ORDER BY time DESC LIMIT ?", (n,))

    def pieces(self, stream: str, start_ns: int, end_ns: int) -> Iterator[SampleBlock | Gap]:
        """Yield the rows with ``start < time <= end`` in order, in the schemas of their time.

        At most ``PIECE`` rows are read at a time, each time of the file as it is then. In place of
        bytes that are no row stands a gap.
        """
        while start_ns < end_ns:
            with self._reading() as database:
                records = database.execute(_PIECE, (stream, start_ns, end_ns, PIECE)).fetchall()
                schemas = {key: _schema(database, key) for key in {record[1] for record in records}}
            if not records:
                return
            start_ns = records[-1][0]
            for key, same in groupby(records, itemgetter(1)):
                yield from _readable(schemas[key], key, list(same))

    def _select(self, stream: str, where: str, bounds: tuple[int, ...]) -> SampleBlock | None:
        with self._reading() as database:
            found = database.execute("SELECT key FROM stream WHERE name = ?", (stream,)).fetchone()
            target = None if found is None else _newest(database, found[0])
            if target is None:
                return None
            records = database.execute(
                f"SELECT time, schema, payload FROM row WHERE stream = ? AND {where}",  # noqa: S608 - ours
                (found[0], *bounds),
            ).fetchall()
            schemas = {key: _schema(database, key) for key in {record[1] for record in records}}
        records.sort()
        return _assemble(target, schemas, records) if records else None

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Leave a note for the sink when the file is found damaged."""
        try:
            yield
        except Disconnected as e:
            if isinstance(e.__cause__, sqlite3.Error) and _damaged(e.__cause__):
                with suppress(OSError):
                    damage_flag(self._path).touch()
            raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees one state of the file."""
        if not self._path.exists():
            with closing(sqlite3.connect(":memory:")) as empty:
                empty.executescript(_TABLES)
                yield empty
            return
        with self._noticing(), _disk_trouble():
            path = self._path.absolute()
            is_sealed = not os.access(path.parent, os.W_OK)  # SQLite needs a file beside a WAL's
            alone = is_sealed and not path.with_name(path.name + "-wal").exists()
            address = f"{path.as_uri()}?{'immutable=1' if alone else 'mode=ro'}"
            with closing(sqlite3.connect(address, uri=True, timeout=5.0)) as database:
                database.execute("BEGIN")
                yield database


def _pages(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the pages of the file, and how many of them are free."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return pages, free


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some rows of a block as they are stored: time and payload."""

    schema: Schema
    payloads: list[tuple[int, bytes]]


def _parts(blocks: Sequence[SampleBlock], most: int, size: int) -> Iterator[list[_Rows]]:
    """Yield the rows of blocks in parts of so many rows, or bytes of payload, at most."""
    part, count, held = list[_Rows](), 0, 0
    for block in blocks:
        rows = _Rows(block.schema, [])
        for time, payload in zip(block.time.tolist(), _payloads(block), strict=True):
            if count and (count >= most or held + len(payload) > size):
                yield [*part, rows] if rows.payloads else part
                part, count, held, rows = [], 0, 0, _Rows(block.schema, [])
            rows.payloads.append((time, payload))
            count, held = count + 1, held + len(payload)
        if rows.payloads:
            part.append(rows)
    if part:
        yield part


def _newest(database: sqlite3.Connection, stream: int) -> Schema | None:
    newest = database.execute(
        "SELECT schema FROM row WHERE stream = ? ORDER BY time DESC LIMIT 1", (stream,)
    ).fetchone()
    return None if newest is None else _schema(database, newest[0])


def _schema(database: sqlite3.Connection, key: int) -> Schema:
    found = database.execute("SELECT canonical FROM schema WHERE key = ?", (key,)).fetchone()
    return Schema.from_canonical(found[0])


def _payloads(block: SampleBlock) -> Iterator[bytes]:
    """Yield each row's values and qualities as compressed bytes.

    The eight bytes of the values stand in planes: first bytes of all columns, then second bytes …,
    which compresses to less than the plain order.
    """
    compressor = zstandard.ZstdCompressor(level=3)
    k, n = block.value.shape
    planes = np.ascontiguousarray(block.value.T).view(np.uint8).reshape(n, k, 8)
    planes = np.ascontiguousarray(planes.transpose(0, 2, 1))
    quality = np.ascontiguousarray(block.quality.T)
    for i in range(n):
        yield compressor.compress(planes[i].tobytes() + quality[i].tobytes())


def _assemble(
    target: Schema, schemas: dict[int, Schema], records: Sequence[tuple[int, int, bytes]]
) -> SampleBlock:
    """Return the records as rows of one schema, column by column of the same name."""
    k, n = len(target.tags), len(records)
    value = np.full((k, n), np.nan)
    quality = np.full((k, n), Quality.BAD_MISSING, np.uint8)
    decompressor = zstandard.ZstdDecompressor()
    keys = np.array([record[1] for record in records])
    for key, schema in schemas.items():
        rows = np.flatnonzero(keys == key)
        width = len(schema.tags)
        try:
            content = b"".join(decompressor.decompress(records[i][2]) for i in rows.tolist())
            planes = np.frombuffer(content, np.uint8).reshape(len(rows), 9, width)
        except (zstandard.ZstdError, ValueError) as e:
            raise Corrupt(f"{target.stream}: stored rows cannot be read: {e}") from e
        names = [tag.name for tag in target.tags if tag.name in schema.index]
        here, there = target.columns(names), schema.columns(names)
        numbers = np.ascontiguousarray(planes[:, :8].transpose(2, 0, 1)).view(np.float64)[:, :, 0]
        value[np.ix_(here, rows)] = numbers[there]
        quality[np.ix_(here, rows)] = planes[:, 8, there].T
    return SampleBlock(
        target, np.array([record[0] for record in records], np.int64), value, quality
    )


def _readable(
    schema: Schema, key: int, records: Sequence[tuple[int, int, bytes]]
) -> Iterator[SampleBlock | Gap]:
    """Yield records of one schema as rows, and a gap for each that is none."""
    try:
        yield _assemble(schema, {key: schema}, records)
    except Corrupt:
        if len(records) == 1:
            yield Gap(schema, records[0][0], records[0][0], 1, "corrupt")
            return
        middle = len(records) // 2
        yield from _readable(schema, key, records[:middle])
        yield from _readable(schema, key, records[middle:])


@contextmanager
def _disk_trouble() -> Iterator[None]:
    """Raise trouble with the file as ``Disconnected``: it is tried again."""
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        damaged = isinstance(e, sqlite3.Error) and _damaged(e)
        advice = "; it is damaged, and a new one is begun by the running agent" if damaged else ""
        raise Disconnected(f"the history cannot be read or written: {e}{advice}") from e


def _damaged(error: sqlite3.Error) -> bool:
    """Return whether it is the file that is damaged, not the disk that is full or away."""
    return type(error) is sqlite3.DatabaseError
