"""What stands in a log, for a person: how full it is, what waits for whom and since when.

It reads the file beside a running agent or without one, so the dashboard and ``edge-agent status``
say the same.
"""

import logging
import sqlite3
import time
from dataclasses import replace

from edge_agent.health import Dropped, LogCounts, ReaderCounts, SetAside, StoreHealth
from edge_agent.outbox import Archive, Budget, Outbox
from edge_agent.outbox_schema import SLACK, on, transaction

log = logging.getLogger(__name__)

MARKERS = 1000  # gap markers that are listed at most, the newest
FRESH = 1.0  # seconds that what was found stands, however many ask

_OLDEST = "SELECT first_ns FROM raw ORDER BY sequence LIMIT 1"
_GAPS = """SELECT reader, schema, first_ns, last_ns, rows, reason FROM gap
  ORDER BY last_ns DESC, sequence DESC LIMIT ?"""
_WAITING = """SELECT schema, first_ns FROM log
  WHERE sequence > ?1 AND schema IN (SELECT schema FROM takes WHERE reader = ?2)
  ORDER BY sequence LIMIT 1"""


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
        gaps = db.execute(_GAPS, (MARKERS,)).fetchall()
    newest = totals["newest_ns"]
    return StoreHealth(
        raw_bytes=totals["raw_bytes"],
        derived_bytes=totals["derived_bytes"],
        raw_budget_bytes=budget.raw_bytes,
        derived_budget_bytes=budget.derived_bytes,
        disk_bytes=_disk_bytes(archive),
        limit_bytes=budget.raw_bytes + budget.derived_bytes + 2 * SLACK,
        oldest_ns=oldest[0] if oldest else newest,
        newest_ns=newest,
        set_aside=set_aside_files(archive),
        dropped=tuple(_dropped(archive, row) for row in gaps),
    )


def _dropped(archive: Archive, row: tuple[str, int, int, int, int, str]) -> Dropped:
    sink, number, first_ns, last_ns, rows, reason = row
    return Dropped(sink, archive.numbered(number).stream, first_ns, last_ns, rows, reason)


def _disk_bytes(archive: Archive) -> int:
    path = archive.path
    parts = (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm"))
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
        for name, cursor in db.execute("SELECT name, cursor FROM reader").fetchall():
            rows = (db.execute(on(t, _WAITING), (cursor, name)) for t in ("raw", "derived"))
            waiting = [row for row in (r.fetchone() for r in rows) if row]
            ages = [_age(archive, newest, *row) for row in waiting]
            found[name] = max(ages, default=0.0)
    return found


def _age(archive: Archive, newest: dict[str, int], number: int, first_ns: int) -> float:
    stream = archive.numbered(number).stream
    return max(0, newest.get(stream, first_ns) - first_ns) / 1e9


class Survey:
    """The log of a running agent, as the page and health show it."""

    def __init__(self, outbox: Outbox, budget: Budget) -> None:
        self._outbox, self._budget = outbox, budget
        self._store = StoreHealth(0, 0, budget.raw_bytes, budget.derived_bytes, 0, 0, 0, 0)
        self._until = 0.0

    def store(self) -> StoreHealth:
        """Return how full the log is; a disk that fails leaves what was found before."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + FRESH
            try:
                self._store = store_health(self._outbox, self._budget)
            except (sqlite3.DatabaseError, OSError) as e:
                log.debug("the log as it was found before: %s", e)  # ``fault`` tells of the disk
        return replace(self._store, commits=self._outbox.commits)
