"""What can still be read of a damaged log goes into a new one.

Copied are counts, cursors, times, markers, the checkpoint, and all rows behind the slowest cursor
or the checkpoint: what somebody waits for, or needs at the next start. Rows on damaged pages are
passed over; what was pending and is not found counts as dropped, with markers ``corrupt``. Which
streams those rows were of is not known, so they are shared out as the rows around them are.

When the counts themselves cannot be read they begin anew with the rows that are found, and all of
these are delivered, again or not. Numbers go on above the old ones in any case.
"""

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b

from edge_agent.outbox_schema import LATER, TABLES, TOTALS, on, stored_size, transaction

log = logging.getLogger(__name__)

CHUNK = 64  # records that are read at once
_COUNTS = ("total", "reader", "takes", "island")  # these agree with one another or are of no use
_ROW = "INSERT OR IGNORE INTO log VALUES (?, ?, ?, ?, ?, ?)"
Row = tuple[int, int, int, int, int, bytes]


@dataclass
class Found:
    """What came of it.

    rows   that were copied, and missing: those that somebody waits for and that are gone
    holes  numbers behind which rows could not be read
    """

    rows: int = 0
    missing: int = 0
    counts: bool = True
    holes: list[int] = field(default_factory=list)


def begin(target: sqlite3.Connection) -> None:
    """Make the tables of a new log that is filled before it is put in place."""
    for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = MEMORY", "synchronous = OFF"):
        target.execute(f"PRAGMA {pragma}")
    with transaction(target):
        for statement in (TABLES + LATER).split(";")[:-1]:
            target.execute(statement)
        target.executemany("INSERT INTO total VALUES (?, 0)", [(name,) for name in TOTALS])


def copy(
    source: sqlite3.Connection | None,
    target: sqlite3.Connection,
    *,
    counted: bool,
    handed: Iterable[tuple[str, Row]] = (),
    above: int = 0,
) -> Found:
    """Copy what is of use into a log that ``begin`` has made.

    source   the damaged log, or None if it cannot be opened
    counted  the target has its schemas, counts and readers already, from memory
    handed   rows in memory, with the table that they belong to
    above    the number that numbers go on above when the old ones cannot be read
    """
    found = Found()
    tables = [
        name for (name,) in target.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    small = [name for name in tables if name not in {"raw", "derived"}]
    whole = set[str]()
    with transaction(target):
        for name in small:
            if counted and name in {*_COUNTS, "schema"}:  # which are known better
                continue
            if source is not None and _copy_table(source, target, name):
                whole.add(name)
        found.counts = counted or whole.issuperset(_COUNTS)
        if not counted:
            _drop_broken_schemas(target)
        if not found.counts:
            _count_anew(target)
    low, high = (_low(target), _total(target, "committed")) if found.counts else (0, 1 << 62)
    for table in ("raw", "derived"):
        rows = [row for name, row in handed if name == table]
        with transaction(target):
            target.executemany(on(table, _ROW), rows)
        if source is not None:
            _copy_rows(source, target, table, (low, high), found)
    with transaction(target):
        _settle(target, found, above)
    return found


# ---- small tables --------------------------------------------------------------------------------


def _copy_table(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> bool:
    """Copy a table as far as it can be read; return whether that was to its end."""
    try:
        there = {row[1] for row in source.execute(f"PRAGMA table_info({name})")}
        if not there:
            return name in LATER  # an older log has not got it
        names = [row[1] for row in target.execute(f"PRAGMA table_info({name})") if row[1] in there]
        columns, marks = ", ".join(names), ", ".join("?" * len(names))
        insert = f"INSERT OR REPLACE INTO {name} ({columns}) VALUES ({marks})"  # noqa: S608  ours
        for row in source.execute(f"SELECT {columns} FROM {name}"):  # noqa: S608  ours
            target.execute(insert, row)
    except (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError) as e:
        log.debug("%s: %s", name, e)
        return False
    return True


def _drop_broken_schemas(target: sqlite3.Connection) -> None:
    """Forget schemas whose text is not the one that their id is the hash of."""
    for number, id_, canonical in target.execute("SELECT * FROM schema").fetchall():
        text = canonical.encode() if isinstance(canonical, str) else b""
        if blake2b(text, digest_size=8).hexdigest() != id_:
            target.execute("DELETE FROM schema WHERE number = ?", (number,))


def _count_anew(target: sqlite3.Connection) -> None:
    for name in ("reader", "takes", "island", "gap", "total"):
        target.execute(f"DELETE FROM {name}")  # noqa: S608  our own names
    target.executemany("INSERT INTO total VALUES (?, 0)", [(name,) for name in TOTALS])


def _low(target: sqlite3.Connection) -> int:
    """Return the number up to which nobody needs the rows."""
    (cursor,) = target.execute("SELECT min(cursor) FROM reader").fetchone()
    (checkpoint,) = target.execute("SELECT max(sequence) FROM state").fetchone()
    return int(min(n for n in (cursor, checkpoint, _total(target, "committed")) if n is not None))


def _total(target: sqlite3.Connection, name: str) -> int:
    return int(target.execute("SELECT value FROM total WHERE name = ?", (name,)).fetchone()[0])


# ---- rows ----------------------------------------------------------------------------------------


def _copy_rows(
    source: sqlite3.Connection,
    target: sqlite3.Connection,
    table: str,
    span: tuple[int, int],
    found: Found,
) -> None:
    known = {number for (number,) in target.execute("SELECT number FROM schema")}
    low, high = span
    for rows in _readable(source, table, low, found.holes):
        usable = [r for r in rows if r[1] in known and r[0] <= high and isinstance(r[5], bytes)]
        with transaction(target):
            target.executemany(on(table, _ROW), usable)
        found.rows += sum(row[4] for row in usable)


def _readable(
    source: sqlite3.Connection, table: str, after: int, holes: list[int]
) -> Iterator[Sequence[Row]]:
    """Yield the rows behind a number, some at a time, and pass over those that cannot be read."""
    sql = on(table, "SELECT * FROM log WHERE sequence > ? ORDER BY sequence LIMIT ?")
    most = CHUNK
    while True:
        try:
            rows = source.execute(sql, (after, most)).fetchall()
        except sqlite3.DatabaseError:
            if most > 1:
                most = 1  # up to the one that cannot be read
                continue
            holes.append(after)
            leapt = _next_readable(source, sql, after)
            if leapt is None:
                return
            after, most = leapt, CHUNK
            continue
        if not rows:
            return
        yield rows
        after = rows[-1][0]


def _next_readable(source: sqlite3.Connection, sql: str, after: int) -> int | None:
    """Return the least number found behind which a row can be read again, or None."""

    def reads(number: int) -> bool:
        try:
            source.execute(sql, (number, 1)).fetchall()
        except sqlite3.DatabaseError:
            return False
        return True

    step = 1
    while not reads(after + step):
        step *= 2
        if step > 1 << 40:
            return None
    low, high = after + step // 2, after + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reads(middle) else (middle, high)
    return high


# ---- counts --------------------------------------------------------------------------------------


def _settle(target: sqlite3.Connection, found: Found, above: int) -> None:
    """Make the counts those of the rows that are there."""
    totals = dict(target.execute("SELECT name, value FROM total").fetchall())
    seen = 0
    for table in ("raw", "derived"):
        lengths = target.execute(
            on(table, "SELECT length(payload), count(*) FROM log GROUP BY length(payload)")
        )
        totals[f"{table}_bytes"] = sum(stored_size(length) * n for length, n in lengths)
        sql = "SELECT coalesce(max(sequence), 0), coalesce(sum(rows), 0) FROM log"
        last, rows = target.execute(on(table, sql)).fetchone()
        seen = max(seen, last)
        if not found.counts:
            totals["read" if table == "raw" else "derived"] = rows
            totals["appended"] += rows
    if not found.counts:
        totals["sequence"] = totals["committed"] = max(seen, above)
        newest = target.execute("SELECT coalesce(max(last_ns), 0) FROM raw").fetchone()[0]
        totals["newest_ns"] = newest
    else:
        found.missing = _count_missing(target, found)
        totals["dropped"] += found.missing
        totals["sequence"] = max(totals["sequence"], seen)
    target.executemany("UPDATE total SET value = ?2 WHERE name = ?1", list(totals.items()))


def _count_missing(target: sqlite3.Connection, found: Found) -> int:
    """Count what each reader waits for and will not have; return the most of any."""
    largest = 0
    readers = target.execute("SELECT name, cursor, pending FROM reader").fetchall()
    for name, cursor, pending in readers:
        waiting, backlog = _waiting(target, name, cursor)
        missing = max(0, pending - sum(waiting.values()))
        target.execute(
            "UPDATE reader SET pending = pending - ?1, dropped = dropped + ?1, backlog = ?2"
            " WHERE name = ?3",
            (missing, backlog, name),
        )
        if missing:
            numbers = _unused(target, name, cursor, found.holes, most=64)
            _mark(target, name, missing, waiting, numbers)
        largest = max(largest, missing)
    return largest


def _waiting(target: sqlite3.Connection, name: str, cursor: int) -> tuple[dict[int, int], int]:
    """Return the rows that are there for a reader, by number of the schema, and its backlog."""
    sql = "SELECT max(start) FROM island WHERE reader = ?"
    live = target.execute(sql, (name,)).fetchone()[0] or 0
    waiting, backlog = dict[int, int](), 0
    for table in ("raw", "derived"):
        sql = """SELECT schema, sum(rows), sum(rows * (sequence <= ?3)) FROM log WHERE sequence > ?1
          AND schema IN (SELECT schema FROM takes WHERE reader = ?2) AND NOT EXISTS (SELECT 1
            FROM island WHERE reader = ?2 AND start < sequence AND stop >= sequence)
          GROUP BY schema"""
        for schema, rows, behind in target.execute(on(table, sql), (cursor, name, live)):
            waiting[schema] = rows
            backlog += behind
    return waiting, backlog


def _mark(
    target: sqlite3.Connection, name: str, missing: int, waiting: dict[int, int], numbers: list[int]
) -> None:
    """Leave markers for as many rows as are gone, of streams in the proportion of the others."""
    weights = waiting
    if not waiting:
        taken = target.execute("SELECT schema FROM takes WHERE reader = ?", (name,))
        weights = {number: 1 for (number,) in taken}
    shares = sorted(((w, n) for n, w in weights.items()), reverse=True)[: len(numbers)]
    whole, left = sum(w for w, _ in shares), missing
    for i, ((weight, schema), number) in enumerate(zip(shares, numbers, strict=False)):
        rows = left if i == len(shares) - 1 else min(left, missing * weight // whole)
        left -= rows
        if rows:
            first, last = _times(target, schema, number)
            row = (name, number, number, schema, first, last, rows, "corrupt")
            target.execute("INSERT INTO gap VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _unused(
    target: sqlite3.Connection, name: str, cursor: int, holes: Sequence[int], *, most: int
) -> list[int]:
    """Return numbers behind the cursor that no row and no marker has, the holes' first."""
    found = list[int]()
    end = _total(target, "committed")
    sql = """SELECT 1 FROM raw WHERE sequence = ?1 UNION ALL SELECT 1 FROM derived
      WHERE sequence = ?1 UNION ALL SELECT 1 FROM gap WHERE sequence = ?1 AND reader = ?2
      UNION ALL SELECT 1 FROM island WHERE reader = ?2 AND start < ?1 AND stop >= ?1"""
    for start in (*(h for h in sorted(holes) if h >= cursor), cursor):
        number = start + 1
        while number <= end and len(found) < most:
            if number not in found and not target.execute(sql, (number, name)).fetchone():
                found.append(number)
            elif start != cursor and number - start > most:
                break
            number += 1
    return found


def _times(target: sqlite3.Connection, schema: int, number: int) -> tuple[int, int]:
    """Return between which times the rows were that stood at a number: those of its neighbours."""
    before = after = None
    for table in ("raw", "derived"):
        sql = """SELECT last_ns FROM log WHERE sequence < ? AND schema = ?
          ORDER BY sequence DESC LIMIT 1"""
        before = before or target.execute(on(table, sql), (number, schema)).fetchone()
        sql = "SELECT first_ns FROM log WHERE sequence > ? AND schema = ? ORDER BY sequence LIMIT 1"
        after = after or target.execute(on(table, sql), (number, schema)).fetchone()
    stream = target.execute("SELECT coalesce(max(last_ns), 0) FROM stream").fetchone()[0]
    if after is None:
        after = (stream,)
    first = after[0] if before is None else min(before[0], after[0])
    return int(first), int(after[0])


def close(*databases: sqlite3.Connection | None) -> None:
    """Close connections to files that may be of no use any more."""
    for database in databases:
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()
