"""What happens to rows that leave the log of ``outbox.py`` before all its readers have had them."""

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping

from edge_agent.outbox_schema import Known, Ledger, Lost, on, stored_size, table_of
from edge_agent.outbox_spans import Spans, holds


class Shedding:
    """Drops rows that somebody still waits for, and leaves a marker in their place.

    Markers of one stream that follow one another become one, unless the first has been handed out.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        known: Mapping[int, Known],
        after: Ledger,
        held: Callable[[], Mapping[str, Spans]],
    ) -> None:
        self._db = db
        self._known = known
        self._after = after
        self._held = held
        self._taken: Mapping[str, Spans] | None = None
        self._open = dict[tuple[str, int], Lost]()  # by reader and schema
        self._there = dict[tuple[str, int], list[int]]()  # numbers of the markers of before

    @property
    def taken(self) -> Mapping[str, Spans]:
        """What each reader has been handed; asking keeps ``take`` out until the commit."""
        if self._taken is None:
            self._taken = self._held()
        return self._taken

    def lose(self, lost: Iterable[Lost]) -> None:
        """Account for rows that were dropped from memory."""
        for rows in lost:
            self._after.totals["dropped"] += rows.rows
            for name in rows.known.takers:
                self._after.readers[name].appended += rows.rows
                self._after.readers[name].dropped += rows.rows
                self._mark(name, rows)
        self.finish()  # what is shed from the file is older

    def shed(self, table: str, excess: int, limit: int) -> list[tuple[int, int]]:
        """Return the oldest rows of a table (number, length) that must go.

        excess  bytes to be rid of; limit: most rows to look at
        """
        victims: list[tuple[int, int]] = []
        if excess <= 0:
            return victims
        sql = """SELECT sequence, schema, first_ns, last_ns, rows, length(payload)
          FROM log ORDER BY sequence LIMIT ?"""
        oldest = self._db.execute(on(table, sql), (limit,))
        for sequence, number, first_ns, last_ns, rows, length in oldest:
            if excess <= 0:
                break
            known = self._known[number]
            if self._drop(Lost(known, sequence, sequence, first_ns, last_ns, rows)):
                victims.append((sequence, length))
                excess -= stored_size(length)
        return victims

    def _drop(self, rows: Lost) -> bool:
        """Account for a stored row that is to go; return False if it has been handed out."""
        readers = self._after.readers
        number = rows.sequence
        waiting = [n for n in rows.known.takers if not holds(readers[n].passed, number)]
        if any(holds(self.taken[name], number) for name in waiting):
            for name in rows.known.takers:
                self._close((name, rows.known.number))
            return False
        self._after.totals["dropped"] += rows.rows if waiting else 0
        for name in waiting:
            readers[name].leave(number, rows.rows)
            readers[name].dropped += rows.rows
            self._mark(name, rows)
        return True

    def _mark(self, name: str, rows: Lost) -> None:
        key = (name, rows.known.number)
        if key in self._open:
            between = self._open[key].last, rows.sequence
            if self._parted(name, *between) or self._marked(key, *between):
                self._close(key)
        if key in self._open:
            marker = self._open[key]
            marker.last = rows.last
            marker.last_ns = max(marker.last_ns, rows.last_ns)
            marker.rows += rows.rows
        else:
            self._open[key] = Lost(
                rows.known, rows.sequence, rows.last, rows.first_ns, rows.last_ns, rows.rows
            )

    def _parted(self, name: str, before: int, after: int) -> bool:
        """Return whether the reader has passed numbers between two that it has not."""
        spans = (*self._after.readers[name].passed, *self.taken[name])
        return any(start < after and stop > before for start, stop in spans if stop > start)

    def _marked(self, key: tuple[str, int], before: int, after: int) -> bool:
        """Return whether a marker of before stands between two numbers.

        So it is when rows stay because another reader holds them, and leave after what follows.
        """
        if key not in self._there:
            sql = "SELECT sequence FROM gap WHERE reader = ? AND schema = ? ORDER BY sequence"
            self._there[key] = [number for (number,) in self._db.execute(sql, key)]
        there = self._there[key]
        i = bisect_right(there, before)
        return i < len(there) and there[i] < after

    def finish(self) -> None:
        """Write the markers that are still open."""
        for key in list(self._open):
            self._close(key)

    def _close(self, key: tuple[str, int]) -> None:
        if (new := self._open.pop(key, None)) is None:
            return
        name, number = key
        before = self._db.execute(
            "SELECT sequence, last FROM gap WHERE reader = ? AND schema = ? AND sequence < ?"
            " ORDER BY sequence DESC LIMIT 1",
            (name, number, new.sequence),
        ).fetchone()
        if before and (
            holds(self.taken[name], before[0]) or self._parted(name, before[1], new.sequence)
        ):
            before = None
        table = table_of(new.known.schema.family)
        sql = "SELECT 1 FROM log WHERE sequence > ? AND sequence < ? AND schema = ? LIMIT 1"
        between = (before[1], new.sequence, number) if before else ()
        if before and not self._db.execute(on(table, sql), between).fetchone():
            self._db.execute(
                "UPDATE gap SET last = ?, last_ns = max(last_ns, ?), rows = rows + ?"
                " WHERE reader = ? AND sequence = ?",
                (new.last, new.last_ns, new.rows, name, before[0]),
            )
        else:
            marker = (new.sequence, new.last, number, new.first_ns, new.last_ns, new.rows, "bytes")
            self._db.execute("INSERT INTO gap VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (name, *marker))
