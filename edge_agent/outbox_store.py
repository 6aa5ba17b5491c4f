"""The SQL under ``outbox.py``: opening the file, and what one group commit changes in it.

Only the committer calls ``Store.commit``, on the one connection that writes. Nothing here knows of
asyncio or threads; the design is in the docstring of ``outbox.py``.
"""

import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edge_agent import codec
from edge_agent.errors import ConfigError
from edge_agent.model import Schema
from edge_agent.outbox_budget import Budget
from edge_agent.outbox_keeping import Keeping
from edge_agent.outbox_opening import errorcode, says
from edge_agent.outbox_retention import Shedding
from edge_agent.outbox_schema import (
    FORMAT,
    LATER,
    TABLES,
    TOTALS,
    UPGRADES,
    Ack,
    Aside,
    Batch,
    Entry,
    Known,
    Ledger,
    Marker,
    Position,
    ReaderSpec,
    on,
    positions,
    stored_size,
    table_of,
    transaction,
)
from edge_agent.outbox_spans import END, Span, Spans, between, holds, without

TOLD_MOST = 1000  # gap markers that are kept after a reader has been told of them
ASIDE_MOST = 1000  # refusals that are kept …
ASIDE_BYTES = 1 << 20  # … and bytes of them
_TELL = """INSERT INTO told (reader, schema, first_ns, last_ns, rows, reason)
  SELECT reader, schema, first_ns, last_ns, rows, reason FROM gap
  WHERE reader = ? AND sequence > ? AND sequence <= ? ORDER BY sequence"""
log = logging.getLogger(__name__)


def open_store(path: Path, readers: Sequence[ReaderSpec], budget: Budget) -> "Store":
    """Return the store.

    errors  ``ConfigError`` when the file cannot be used for a reason that a person must mend
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Store(path, readers, budget)
    except (OSError, sqlite3.OperationalError) as e:
        advice = "the folder must be writable and have space"
        raise ConfigError([f"{path}: the log cannot be opened: {e} ({advice})"]) from e


class Store(Keeping):
    """The file with the one connection that writes."""

    # -- opening ----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        db = self._db
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if tables and not {"raw", "derived", "total"} <= tables:
            raise sqlite3.DatabaseError("it is no log of this agent")
        if version == 0:
            with transaction(db):
                _run(db, TABLES + LATER)
                db.executemany("INSERT INTO total VALUES (?, 0)", [(name,) for name in TOTALS])
                db.execute(f"PRAGMA user_version = {FORMAT}")
            version = FORMAT
        while version in UPGRADES:
            with transaction(db):
                _run(db, UPGRADES[version])
                version += 1
                db.execute(f"PRAGMA user_version = {version}")
        if version != FORMAT:
            advice = "install that version, or name another folder in data"
            raise ConfigError([f"{self.path}: another version wrote this log ({advice})"])

    def _declare(self) -> None:
        """Read what is there and make the readers those that were declared."""
        db = self._db
        totals: dict[str, int] = dict(db.execute("SELECT name, value FROM total"))
        stored = positions(db)
        for table in ("raw", "derived"):  # damage shows itself here, not at the first commit
            for sql in (
                "SELECT * FROM log ORDER BY sequence LIMIT 1",
                "SELECT * FROM log ORDER BY sequence DESC LIMIT 1",
            ):
                db.execute(on(table, sql)).fetchall()
        for number, canonical in db.execute("SELECT number, canonical FROM schema").fetchall():
            try:
                self.learn(Schema.from_canonical(canonical), number)
            except (ValueError, KeyError, TypeError) as e:
                raise sqlite3.DatabaseError(f"a schema cannot be read: {e}") from e
        before: set[tuple[str, int]] = set(db.execute("SELECT reader, schema FROM takes"))
        now = {(name, known.number) for known in self.known.values() for name in known.takers}
        self.ledger = Ledger(totals, {name: stored.get(name, Position()) for name in self.specs})
        for name, number in sorted(before ^ now):
            if name in self.specs:
                self._change(name, number, 1 if (name, number) in now else -1)
        self._counts.clear()
        if stored.keys() != self.specs.keys() or before != now:
            self._store_declared(now)
            if before - now or stored.keys() - self.specs.keys():
                self._forget_delivered(0, totals["sequence"], self.ledger)
        self._write_ledger(self.ledger)
        self._written = self._numbers

    def _change(self, name: str, number: int, sign: int) -> None:
        """Count the stored rows of a schema that a reader takes from now on, or takes no more."""
        position = self.ledger.readers[name]
        for start, stop in between(position.passed):
            for table in ("raw", "derived"):
                rows = self._counted(table, (start, stop)).get(number, 0)
                position.appended += sign * rows
                position.leave(start + 1, -sign * rows)

    def _counted(self, table: str, span: Span) -> Mapping[int, int]:
        """Return the stored rows in a span by number of the schema: once, for all that ask.

        The table is read from one end to the other, a million records in about a second.
        """
        if (table, span) not in self._counts:
            sql = """SELECT schema, sum(rows) FROM log WHERE sequence > ? AND sequence <= ?
              GROUP BY schema"""
            self._counts[table, span] = dict(self._db.execute(on(table, sql), span))
        return self._counts[table, span]

    def _store_declared(self, takes: Iterable[tuple[str, int]]) -> None:
        db = self._db
        db.execute("DELETE FROM takes")
        db.executemany("INSERT INTO takes VALUES (?, ?)", sorted(takes))
        db.execute("DELETE FROM reader")
        db.execute("DELETE FROM island")
        db.execute("DELETE FROM aside WHERE reader NOT IN (SELECT reader FROM takes)")
        db.execute("DELETE FROM told WHERE reader NOT IN (SELECT reader FROM takes)")
        db.execute(
            "DELETE FROM gap WHERE (reader, schema) NOT IN (SELECT reader, schema FROM takes)"
        )
        self._write_ledger(self.ledger)
        for name, position in self.ledger.readers.items():
            self._write_islands(name, position.passed)

    # -- committing -------------------------------------------------------------------------------

    def commit(self, batch: Batch, held: Callable[[], Mapping[str, Spans]]) -> None:
        """Write a batch in one transaction.

        held    called before rows are dropped that somebody waits for: what each reader has been
                handed; those are left alone
        errors  ``sqlite3.OperationalError``: nothing is written, and may be tried again
        """
        if (self._suspect or self._files.changed) and self._reopened(batch):
            return
        try:
            if self._files.cut_short(self._pages()[0]):
                raise sqlite3.DatabaseError("it was cut short")
            if self._files.tight:
                self._files.loosen()
            self._commit(batch, held)
        except sqlite3.OperationalError as e:
            if not self._for_want_of_space(e):
                self._suspect = bool(errorcode(e)) and not says(e, sqlite3.SQLITE_FULL)
                raise
            log.warning("the disk of %s is full: its ballast is given up", self.path)
            self._commit(batch, held)

    def _commit(self, batch: Batch, held: Callable[[], Mapping[str, Spans]]) -> None:
        after = self.ledger.copy()
        states = self._states(batch)
        state = sum(len(json) for _, _, json in states)
        pages = self._reserve(batch, state)
        self._deleted = state * 5 // 4
        try:
            with transaction(self._db):
                self._write(batch, after, states, Shedding(self._db, self._numbered, after, held))
        except sqlite3.OperationalError as e:
            if errorcode(e) and not says(e, sqlite3.SQLITE_FULL):
                self._attempt = (batch, after)
            raise
        self._files.wrote(batch, self._deleted, pages)
        self.ledger = after
        self._written = max([self._written, *(known.number for known in batch.schemas)])

    def _write(
        self,
        batch: Batch,
        after: Ledger,
        states: Sequence[tuple[str, int, bytes]],
        shedding: Shedding,
    ) -> None:
        self._write_schemas(batch.schemas)
        for name, ack in batch.acks.items():
            self._write_ack(name, ack, after)
        shedding.lose(batch.lost.values())
        self._make_room(batch, after, shedding)
        self._write_entries(batch, after)
        if states:
            self._db.execute("DELETE FROM state")
            self._db.executemany("INSERT INTO state VALUES (?, ?, ?)", states)
        self._retain(batch, after, shedding)
        self._note_waiting(after)
        self._write_ledger(after)

    def _note_waiting(self, after: Ledger) -> None:
        """Note for each reader since when the oldest row waits, as far as a commit can tell."""
        for name, position in after.readers.items():
            brought = position.appended - self.ledger.readers[name].appended
            if position.pending <= brought:
                position.waiting_ns = time.time_ns()

    def _write_schemas(self, schemas: Iterable[Known]) -> None:
        for known in schemas:
            row = (known.number, known.schema.id, known.schema.canonical)
            self._db.execute("INSERT INTO schema VALUES (?, ?, ?)", row)
            takes = [(name, known.number) for name in known.takers]
            self._db.executemany("INSERT INTO takes VALUES (?, ?)", takes)

    def _write_entries(self, batch: Batch, after: Ledger) -> None:
        rows = defaultdict[str, list[tuple[object, ...]]](list)
        last = dict[str, int]()
        for entry in batch.entries:
            known, table = entry.known, table_of(entry.known.schema.family)
            stream = known.schema.stream
            last[stream] = max(entry.last_ns, last.get(stream, entry.last_ns))
            for name in known.takers:
                after.readers[name].appended += entry.rows
                after.readers[name].pending += entry.rows
            if table == "raw":
                after.totals["newest_ns"] = max(after.totals["newest_ns"], entry.last_ns)
            elif not known.takers:
                continue  # every reader has it already: there is none
            after.totals[f"{table}_bytes"] += stored_size(len(entry.payload))
            rows[table].append(_row(entry))
        for table, inserts in rows.items():
            self._db.executemany(on(table, "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)"), inserts)
        for lost in batch.lost.values():
            last.setdefault(lost.known.schema.stream, lost.last_ns)
        self._db.executemany(
            "INSERT INTO stream VALUES (?, ?) ON CONFLICT (name)"
            " DO UPDATE SET last_ns = max(last_ns, excluded.last_ns)",
            list(last.items()),
        )
        for push in batch.pushes:
            _add(after.totals, push.counts)
            after.totals["appended"] += push.rows
            after.totals["committed"] = push.last
        _add(after.totals, batch.lost_counts)
        numbers = [after.totals["sequence"], after.totals["committed"]]
        after.totals["sequence"] = max(numbers + [lost.last for lost in batch.lost.values()])
        if batch.whole:  # also the markers of rows that were dropped from memory can be handed out
            after.totals["committed"] = after.totals["sequence"]

    def _write_ack(self, name: str, ack: Ack, after: Ledger) -> None:
        position = after.readers[name]
        split = len(ack.passed) > 1 and ack.passed[-1][0] > max(position.live_from, position.cursor)
        steps = without(ack.passed, position.passed)
        for step in steps:
            position.leave(step[1], self._rows(name, step))
        position.passed = ack.passed
        if len(ack.passed) == 1:
            position.backlog = 0
        elif split:
            position.backlog = position.pending - self._rows(name, (ack.passed[-1][1], END))
        self._write_islands(name, ack.passed)
        if ack.aside:
            self._write_aside(ack.aside)
        position.acknowledged += ack.rows
        position.delivered += ack.delivered
        position.refused += ack.refused
        position.dropped += ack.dropped
        after.totals["dropped"] += ack.dropped
        self._write_told(name, steps, ack.skipped)
        for step in steps:
            if "derived" in self._tables[name]:
                self._forget_delivered(*step, after)

    def _rows(self, name: str, span: Span) -> int:
        """Return the stored rows with a number in the span that a reader takes."""
        sql = (
            "SELECT coalesce(sum(rows), 0) FROM log WHERE sequence > ? AND sequence <= ?"
            " AND schema IN (SELECT schema FROM takes WHERE reader = ?)"
        )
        counts = (self._db.execute(on(table, sql), (*span, name)) for table in self._tables[name])
        return sum(int(count.fetchone()[0]) for count in counts)

    def _write_islands(self, name: str, passed: Spans) -> None:
        self._db.execute("DELETE FROM island WHERE reader = ?", (name,))
        rows = [(name, start, stop) for start, stop in passed[1:]]
        self._db.executemany("INSERT INTO island VALUES (?, ?, ?)", rows)

    def _write_told(self, name: str, steps: Sequence[Span], skipped: Iterable[Marker]) -> None:
        """Keep what a reader has been told of lost rows, where a person sees it; the newest."""
        written = 0
        for step in steps:
            place = (name, *step)
            written += self._db.execute(_TELL, place).rowcount
            sql = "DELETE FROM gap WHERE reader = ? AND sequence > ? AND sequence <= ?"
            self._db.execute(sql, place)
        for gap in skipped:
            row = (name, self.known[gap.schema.id].number, gap.first_ns, gap.last_ns, gap.rows)
            self._db.execute("INSERT INTO told VALUES (NULL, ?, ?, ?, ?, ?, ?)", (*row, gap.reason))
            written += 1
        if written:
            sql = "DELETE FROM told WHERE number <= (SELECT max(number) FROM told) - ?"
            self._db.execute(sql, (TOLD_MOST,))

    def _write_aside(self, asides: Sequence[Aside]) -> None:
        """Keep refused rows, of a very large block the first; the oldest make room for them."""
        for aside in asides[-ASIDE_MOST:]:
            block = aside.block
            block = block.rows(0, min(len(block), max(1, ASIDE_BYTES // (9 * len(block.value)))))
            row = (aside.reader, self.known[block.schema.id].number, aside.sequence, aside.at_ns)
            sql = "INSERT INTO aside (reader, schema, sequence, at_ns, reason, payload)"
            payload = codec.encode(block)
            self._db.execute(f"{sql} VALUES (?, ?, ?, ?, ?, ?)", (*row, aside.reason, payload))
        sizes = "SELECT number, length(payload) + length(reason) FROM aside ORDER BY number DESC"
        size = 0
        for kept, (number, length) in enumerate(self._db.execute(sizes).fetchall()):
            size += length
            if kept and (size > ASIDE_BYTES or kept >= ASIDE_MOST):
                self._db.execute("DELETE FROM aside WHERE number <= ?", (number,))
                break

    def _forget_delivered(self, start: int, stop: int, after: Ledger) -> None:
        """Delete the derived rows in (start, stop] that no reader waits for any more."""
        sql = "SELECT sequence, schema, length(payload) FROM derived"
        rows = self._db.execute(f"{sql} WHERE sequence > ? AND sequence <= ?", (start, stop))
        gone = [
            (sequence, length)
            for sequence, number, length in rows
            if all(
                holds(after.readers[name].passed, sequence)
                for name in self._numbered[number].takers
            )
        ]
        self._delete("derived", gone, after)

    def _write_ledger(self, ledger: Ledger) -> None:
        totals = list(ledger.totals.items())
        self._db.executemany("UPDATE total SET value = ?2 WHERE name = ?1", totals)
        rows = [
            (name, p.cursor, *p.counts, p.backlog, p.waiting_ns)
            for name, p in ledger.readers.items()
        ]
        sql = "INSERT OR REPLACE INTO reader VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.executemany(sql, rows)


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";")[:-1]:
        db.execute(statement)


def _row(entry: Entry) -> tuple[object, ...]:
    times = (entry.first_ns, entry.last_ns)
    return (entry.sequence, entry.known.number, *times, entry.rows, entry.payload)


def _add(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, rows in counts.items():
        totals[name] += rows
