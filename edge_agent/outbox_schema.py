"""What stands in the file of ``outbox.py`` and what is on its way there: tables and types."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from edge_agent.database_files import PAGE
from edge_agent.model import Family, Gap, SampleBlock, Schema
from edge_agent.outbox_spans import START, Spans, joined

FORMAT = 3  # of the file; PRAGMA user_version
OVERHEAD = 200  # bytes of memory that an entry takes beside its payload

TABLES = """
CREATE TABLE schema (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, canonical TEXT NOT NULL);
CREATE TABLE raw (sequence INTEGER PRIMARY KEY, schema INTEGER NOT NULL, first_ns INTEGER NOT NULL,
  last_ns INTEGER NOT NULL, rows INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE derived (sequence INTEGER PRIMARY KEY, schema INTEGER NOT NULL,
  first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, rows INTEGER NOT NULL,
  payload BLOB NOT NULL);
CREATE TABLE reader (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, appended INTEGER NOT NULL,
  delivered INTEGER NOT NULL, refused INTEGER NOT NULL, dropped INTEGER NOT NULL,
  pending INTEGER NOT NULL, backlog INTEGER NOT NULL DEFAULT 0,
  waiting_ns INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE takes (reader TEXT NOT NULL, schema INTEGER NOT NULL, PRIMARY KEY (reader, schema))
  WITHOUT ROWID;
CREATE TABLE gap (reader TEXT NOT NULL, sequence INTEGER NOT NULL, last INTEGER NOT NULL,
  schema INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  rows INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (reader, sequence)) WITHOUT ROWID;
CREATE TABLE stream (name TEXT PRIMARY KEY, last_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE total (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state (name TEXT PRIMARY KEY, sequence INTEGER NOT NULL, json BLOB NOT NULL)
  WITHOUT ROWID;
"""
TOLD = """
CREATE TABLE IF NOT EXISTS told (number INTEGER PRIMARY KEY, reader TEXT NOT NULL,
  schema INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
  rows INTEGER NOT NULL, reason TEXT NOT NULL);
"""
LATER = (
    TOLD
    + """
CREATE TABLE island (reader TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
  PRIMARY KEY (reader, start)) WITHOUT ROWID;
CREATE TABLE aside (number INTEGER PRIMARY KEY, reader TEXT NOT NULL, schema INTEGER NOT NULL,
  sequence INTEGER NOT NULL, at_ns INTEGER NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL);
"""
)
UPGRADES = {  # what makes the next format of a file, by its format
    1: "ALTER TABLE reader ADD COLUMN backlog INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE reader ADD COLUMN waiting_ns INTEGER NOT NULL DEFAULT 0;" + LATER,
    2: TOLD,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One stored block.

    schema  the schema's id; first_ns, last_ns: times of its first and last row
    """

    sequence: int
    schema: str
    first_ns: int
    last_ns: int
    rows: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Marker(Gap):
    """A gap with its place in the log."""

    sequence: int


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """A reader of the log and which streams it takes.

    live_first  seconds since its commit after which a row that is next makes way: what is newest
                goes first and the rest follows; None: always in order
    """

    name: str
    takes: Callable[[Schema], bool]
    live_first: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A schema with its number in the file and the readers that take it."""

    number: int
    schema: Schema
    takers: tuple[str, ...]


@dataclass(slots=True)
class Entry:
    """One numbered and encoded block on its way to the file."""

    sequence: int
    known: Known
    first_ns: int
    last_ns: int
    rows: int
    payload: bytes


@dataclass(slots=True)
class Push:
    """What one call of ``append`` brought: never parted over two commits."""

    last: int
    rows: int
    counts: Mapping[str, int]
    entries: list[Entry]
    ticket: int = 0

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return OVERHEAD + sum(len(entry.payload) + OVERHEAD for entry in self.entries)

    def keep(self, derived: bool) -> None:
        """Forget the entries of the other class; the counts stay those of the whole push."""
        self.entries = [e for e in self.entries if e.known.schema.family.derived == derived]


@dataclass(frozen=True, slots=True)
class Aside:
    """Rows that a reader's peer refuses for ever.

    sequence  of the record that they stood in; at_ns: when they were refused
    """

    reader: str
    sequence: int
    at_ns: int
    reason: str
    block: SampleBlock


@dataclass(slots=True)
class Ack:
    """How far a reader has come since the last commit, and what became of the rows, in rows.

    passed   all that it has passed
    skipped  damaged records, which are dropped
    """

    passed: Spans = START
    delivered: int = 0
    refused: int = 0
    markers: int = 0
    aside: list[Aside] = field(default_factory=list)
    skipped: list[Marker] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Rows of the damaged records."""
        return sum(marker.rows for marker in self.skipped)

    @property
    def rows(self) -> int:
        """Rows that are pending no more."""
        return self.delivered + self.refused + self.dropped

    def add(self, other: "Ack") -> None:
        """Take over a further step."""
        self.passed = other.passed
        self.delivered += other.delivered
        self.refused += other.refused
        self.markers += other.markers
        self.aside += other.aside
        self.skipped += other.skipped


@dataclass(slots=True)
class Lost:
    """Rows of one stream that were dropped from memory before they reached the file."""

    known: Known
    sequence: int
    last: int
    first_ns: int
    last_ns: int
    rows: int

    @classmethod
    def of(cls, entry: Entry) -> "Lost":
        """Return the rows of one entry."""
        known, number = entry.known, entry.sequence
        return cls(known, number, number, entry.first_ns, entry.last_ns, entry.rows)

    def add(self, other: "Lost") -> None:
        """Take over rows of the same stream that follow, or come before, with none between."""
        self.sequence = min(self.sequence, other.sequence)
        self.last = max(self.last, other.last)
        self.first_ns = min(self.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        self.rows += other.rows


@dataclass(slots=True)
class Batch:
    """Everything that one commit writes."""

    pushes: list[Push] = field(default_factory=list)
    schemas: list[Known] = field(default_factory=list)
    acks: dict[str, Ack] = field(default_factory=dict)
    lost: dict[int, Lost] = field(default_factory=dict)  # by number of the schema
    lost_counts: dict[str, int] = field(default_factory=dict)  # of pushes with no entry left
    steps: int = 0  # acknowledgements
    checkpoint: tuple[int, Mapping[str, object]] | None = None
    whole: bool = False  # nothing with a lower number is left behind

    @property
    def entries(self) -> Iterator[Entry]:
        """All blocks in the order of their numbers."""
        return (entry for push in self.pushes for entry in push.entries)

    def lose(self, rows: Lost) -> None:
        """Account for rows that were dropped from memory."""
        if rows.known.number in self.lost:
            self.lost[rows.known.number].add(rows)
        else:
            self.lost[rows.known.number] = rows

    def count(self, push: Push) -> None:
        """Keep the counts of a push of which nothing is left."""
        for name, rows in {**push.counts, "appended": push.rows}.items():
            self.lost_counts[name] = self.lost_counts.get(name, 0) + rows

    def extend(self, newer: "Batch") -> None:
        """Make this, which could not be written, what is to be written next: without the pushes."""
        self.pushes = []
        self.schemas += newer.schemas
        for name, ack in newer.acks.items():
            self.acks.setdefault(name, Ack()).add(ack)
        for rows in newer.lost.values():
            self.lose(rows)
        for name, count in newer.lost_counts.items():
            self.lost_counts[name] = self.lost_counts.get(name, 0) + count
        self.steps += newer.steps
        self.checkpoint = newer.checkpoint or self.checkpoint


def as_json(state: object) -> bytes:
    """Return a state of a checkpoint as it is stored."""
    return orjson.dumps(state, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(slots=True)
class Position:
    """The committed place and counts of one reader, in rows.

    passed        what it need not be handed any more
    backlog       those of the pending rows that come behind live ones
    waiting_ns    by the box's clock: the pending rows were committed then or later
    acknowledged  since the log was opened; not stored
    """

    passed: Spans = START
    appended: int = 0
    delivered: int = 0
    refused: int = 0
    dropped: int = 0
    pending: int = 0
    backlog: int = 0
    waiting_ns: int = 0
    acknowledged: int = 0

    @property
    def cursor(self) -> int:
        """All up to this number is passed."""
        return self.passed[0][1]

    @property
    def counts(self) -> tuple[int, int, int, int, int]:
        """The rows by what became of them, as ``health.ReaderCounts`` has them, pending last."""
        return self.appended, self.delivered, self.refused, self.dropped, self.pending

    @property
    def live_from(self) -> int:
        """Rows behind this number are no backlog."""
        return self.passed[-1][0] if len(self.passed) > 1 else 0

    def leave(self, sequence: int, rows: int) -> None:
        """Count rows of a record that are pending no more."""
        self.pending -= rows
        if sequence <= self.live_from:
            self.backlog -= rows


def positions(db: sqlite3.Connection) -> dict[str, Position]:
    """Return the readers as they stand in the file."""
    names = "name, cursor, appended, delivered, refused, dropped, pending, backlog, waiting_ns"
    found = {
        name: Position(((0, cursor),), *counts)
        for name, cursor, *counts in db.execute(f"SELECT {names} FROM reader")  # noqa: S608 - ours
    }
    for name, start, stop in db.execute("SELECT reader, start, stop FROM island ORDER BY start"):
        found[name].passed = joined(found[name].passed, (start, stop))
    return found


@dataclass(slots=True)
class Ledger:
    """The committed totals and readers."""

    totals: dict[str, int]
    readers: dict[str, Position]

    def copy(self) -> "Ledger":
        """Return one that can be changed without changing this."""
        return Ledger(self.totals.copy(), {name: replace(p) for name, p in self.readers.items()})


TOTALS = (
    "sequence",  # the last number ever given out
    "committed",  # the last number whose row is stored, or was
    "appended",
    "read",
    "substituted",
    "derived",
    "dropped",
    "raw_bytes",
    "derived_bytes",
    "newest_ns",
)


def stored_size(payload: int) -> int:
    """Return the bytes of the file that a record of so many bytes of payload takes.

    A record that fits shares its page with as many of its size as fit too; a larger one keeps a
    part on the page and the rest on overflow pages (SQLite file format, 1.6, table leaf cells). One
    part in 64 is added for inner and pointer-map pages.
    """
    usable, most, least = PAGE, PAGE - 35, (PAGE - 12) * 32 // 255 - 23
    record = payload + 26  # header and the other columns
    local, overflow = record, 0
    if record > most:
        rest = least + (record - least) % (usable - 4)
        local = rest if rest <= most else least
        overflow = (record - local + usable - 5) // (usable - 4)
    share = PAGE // max(1, (PAGE - 8) // (local + 7))
    size = overflow * PAGE + share
    return size + size // 64


def table_of(family: Family) -> str:
    """Return the table that rows of the family stand in."""
    return "derived" if family.derived else "raw"


def on(table: str, sql: str) -> str:
    """Return a statement for ``raw`` or ``derived``, which it calls ``log``."""
    return sql.replace(" log", f" {table}", 1)


def connect(path: Path, *, query_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode that any one thread at a time may use.

    query_only  it writes nothing, does not begin a file that is not there, and takes no WAL away
                when it is closed: by then another log may have that name. In a folder that
                cannot be written SQLite cannot make the index of a WAL; a log without one is
                complete and nobody writes it, so it is read as it is
    """
    mode = "mode=ro" if query_only else "mode=rwc"
    if query_only and not os.access(path.absolute().parent, os.W_OK):
        mode = mode if path.with_name(path.name + "-wal").exists() else "immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(
        uri, timeout=5.0, isolation_level=None, check_same_thread=False, uri=True
    )


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit at the end of the block, or undo it."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise
