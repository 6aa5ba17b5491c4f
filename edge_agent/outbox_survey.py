"""What stands in a log, for a person: how full it is, what waits for whom and since when.

It reads the file beside a running agent or without one, so the dashboard and ``edge-agent status``
say the same.
"""

import logging
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edge_agent.database_files import identity
from edge_agent.errors import ConfigError, Corrupt
from edge_agent.health import Dropped, LogCounts, ReaderCounts, SetAside, StoreHealth
from edge_agent.outbox_archive import Archive
from edge_agent.outbox_budget import Budget
from edge_agent.outbox_schema import Aside, on, positions, table_of, transaction
from edge_agent.outbox_spans import Span, between

log = logging.getLogger(__name__)

MARKERS = 200  # gap markers that are listed at most, the newest, told and not told each

_OLDEST = "SELECT first_ns FROM raw ORDER BY sequence LIMIT 1"
_GAPS = """SELECT reader, schema, first_ns, last_ns, rows, reason, 0 FROM gap
  ORDER BY last_ns DESC, sequence DESC LIMIT ?"""
_TOLD = """SELECT reader, schema, first_ns, last_ns, rows, reason, 1 FROM told
  ORDER BY number DESC LIMIT ?"""
_WAITING = """SELECT schema, first_ns FROM log WHERE sequence > ?2 AND sequence <= ?3
  AND schema IN (SELECT schema FROM takes WHERE reader = ?1) ORDER BY sequence LIMIT 1"""


def counts(archive: Archive) -> LogCounts:
    """Return the counts as they were last committed."""
    db = archive.db
    with transaction(db, "DEFERRED"):
        totals: dict[str, int] = dict(db.execute("SELECT name, value FROM total"))
        sql = "SELECT name, appended, delivered, refused, pending, dropped FROM reader"
        readers = {name: ReaderCounts(*rows) for name, *rows in db.execute(sql)}
    names = ("appended", "read", "substituted", "derived", "dropped")
    size = totals["raw_bytes"] + totals["derived_bytes"]
    return LogCounts(**{n: totals[n] for n in names}, bytes=size, readers=readers)


def store_health(archive: Archive, budget: Budget) -> StoreHealth:
    """Return how full the log is, how far back it goes, and what left it or was set aside."""
    db = archive.db
    with transaction(db, "DEFERRED"):
        totals: dict[str, int] = dict(db.execute("SELECT name, value FROM total"))
        oldest = db.execute(_OLDEST).fetchone()
        gaps = [row for sql in (_GAPS, _TOLD) for row in db.execute(sql, (MARKERS,))]
    newest = totals["newest_ns"]
    return StoreHealth(
        raw_bytes=totals["raw_bytes"],
        derived_bytes=totals["derived_bytes"],
        raw_budget_bytes=budget.raw_bytes,
        derived_budget_bytes=budget.derived_bytes,
        disk_bytes=_disk_bytes(archive),
        limit_bytes=budget.files_bytes,
        oldest_ns=oldest[0] if oldest else newest,
        newest_ns=newest,
        set_aside=set_aside_files(archive),
        dropped=tuple(_dropped(archive, row) for row in gaps),
    )


def _dropped(archive: Archive, row: tuple[str, int, int, int, int, str, int]) -> Dropped:
    sink, number, first_ns, last_ns, rows, reason, told = row
    stream = archive.numbered(number).stream
    return Dropped(sink, stream, first_ns, last_ns, rows, reason, told=bool(told))


def _disk_bytes(archive: Archive) -> int:
    path = archive.path
    parts = (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", ".ballast"))
    return sum(part.stat().st_size for part in parts if part.exists())


def set_aside_files(archive: Archive) -> tuple[SetAside, ...]:
    """Return the damaged files beside the log, oldest first; until somebody moves them."""
    path = archive.path
    found = [
        SetAside(file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in path.parent.glob(f"{path.name}.corrupt-*")
        if not file.name.endswith("-wal")
    ]
    return tuple(sorted(found, key=lambda file: file.at_ns))


def behind(archive: Archive) -> dict[str, float]:
    """Return by reader the age of its oldest waiting row against its stream's newest, in s."""
    db = archive.db
    found: dict[str, float] = {}
    with transaction(db, "DEFERRED"):
        newest: dict[str, int] = dict(db.execute("SELECT name, last_ns FROM stream"))
        taken = db.execute("SELECT reader, schema FROM takes").fetchall()
        for name, position in positions(db).items():
            families = {archive.numbered(number).family for r, number in taken if r == name}
            tables = sorted(set(map(table_of, families)))
            waiting = [_oldest(db, name, table, between(position.passed)) for table in tables]
            ages = [_age(archive, newest, *row) for row in waiting if row is not None]
            found[name] = max(ages, default=0.0)
    return found


def _oldest(
    db: sqlite3.Connection, name: str, table: str, spans: Sequence[Span]
) -> tuple[int, int] | None:
    """Return schema and time of the first row in the spans that a reader takes."""
    for span in spans:
        row: tuple[int, int] | None = db.execute(on(table, _WAITING), (name, *span)).fetchone()
        if row is not None:
            return row
    return None


def _age(archive: Archive, newest: dict[str, int], number: int, first_ns: int) -> float:
    stream = archive.numbered(number).stream
    return max(0, newest.get(stream, first_ns) - first_ns) / 1e9


class Survey:
    """The log of a running agent, as the page and health show it.

    ``look`` is called by a thread of its own: to find the oldest row that waits may mean to pass
    over many of others.

    store   as it was found last
    behind  by reader, in s
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        self._archive: Archive | None = None
        self._found = identity(path)
        self._lock = threading.Lock()  # a cancelled ``look`` goes on while ``close`` is called
        self._closed = False
        self.store = StoreHealth(0, 0, budget.raw_bytes, budget.derived_bytes, 0, 0, 0, 0)
        self.behind: dict[str, float] = {}

    def look(self) -> None:
        """Look again; a disk that fails leaves what was found before."""
        with self._lock:
            try:
                if not self._closed:
                    self._look()
            except (ConfigError, sqlite3.DatabaseError, OSError, TypeError, ValueError) as e:
                # ``fault`` tells of the disk; of a damaged page a number may be read as nothing
                log.debug("the log as it was found before: %s", e)

    def _look(self) -> None:
        found = identity(self._path)
        if self._archive is not None and found != self._found:  # another stands in its place
            self._archive.db.close()
            self._archive = None
        if self._archive is None:
            self._archive, self._found = Archive(self._path), found
        self.store = store_health(self._archive, self._budget)
        self.behind = behind(self._archive)

    def refused(self, sink: str | None, most: int) -> list[Aside]:
        """Return rows that were refused and put aside, newest first; called by any thread.

        errors  ``Corrupt`` when the log cannot be read
        """
        try:
            archive = Archive(self._path)
            with closing(archive.db):
                return archive.aside(sink, most)
        except (ConfigError, sqlite3.DatabaseError) as e:
            raise Corrupt(str(e)) from e

    def close(self) -> None:
        """Let the file go, for good."""
        with self._lock:
            self._closed = True
            if self._archive is not None:
                self._archive.db.close()
