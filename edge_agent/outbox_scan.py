"""The records of a period in a log, also while an agent writes it or when it is damaged.

Numbers are not times: a device that sends what it has kept through an outage puts old rows behind
new ones. So all numbers are looked at, some thousand by each statement; no transaction is longer
than one statement, or the agent could not shorten its WAL.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.model import Schema
from edge_agent.outbox_schema import Marker, Record, connect, on

STEP = 4096  # numbers that one statement looks at
SHARE = 4 << 20  # bytes of payload that one statement returns, and one record more

_ROWS = """SELECT sequence, schema, first_ns, last_ns, rows, payload FROM log
WHERE sequence > ?1 AND sequence <= ?2 AND last_ns >= ?3 AND first_ns <= ?4
AND schema IN (SELECT value FROM json_each(?5)) ORDER BY sequence"""
_GAPS = """SELECT DISTINCT schema, first_ns, last_ns, rows, reason, sequence FROM gap
WHERE last_ns >= ?1 AND first_ns <= ?2 ORDER BY sequence"""


@dataclass
class Hole:
    """Numbers that the file cannot show any more, the first and the last, and why."""

    first: int
    last: int
    reason: str


class Scan:
    """Reads one log, by number.

    schemas  by their number in the file; damaged: the numbers of those that are no schema now
    holes    what could not be read so far
    left     whether rows left the log for its budget before they were reached
    errors   ``ConfigError`` when there is no log that can be read at all
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holes: list[Hole] = []
        self.left = False
        try:
            self._db = connect(path, query_only=True)
            self._ends = {table: self._newest(table) for table in ("raw", "derived")}
            rows = self._db.execute("SELECT number, id, canonical FROM schema").fetchall()
        except sqlite3.DatabaseError as e:
            raise ConfigError([f"{path}: the log cannot be read: {e}"]) from e
        read = {number: _schema(id_, text) for number, id_, text in rows}
        self.schemas = {number: schema for number, schema in read.items() if schema is not None}
        self.damaged = [number for number, schema in read.items() if schema is None]

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def oldest_ns(self) -> int | None:
        """Return the time of the oldest raw row by number, or None if there is none."""
        try:
            sql = "SELECT first_ns FROM raw ORDER BY sequence LIMIT 1"
            row = self._db.execute(sql).fetchone()
        except sqlite3.DatabaseError:
            return None  # ``records`` tells
        return None if row is None else int(row[0])

    def records(
        self, table: str, takes: Callable[[Schema], bool], start_ns: int, end_ns: int
    ) -> Iterator[Record]:
        """Yield the records with a row in ``[start, end]`` that were committed when it was opened.

        table  ``raw`` or ``derived``
        takes  which streams
        """
        numbers = ",".join(str(n) for n, schema in self.schemas.items() if takes(schema))
        asked = (start_ns, end_ns, f"[{numbers}]")
        after, last = (self._oldest(table) or 1) - 1, self._ends[table]
        while after < last:
            stop = min(after + STEP, last)
            yield from self._between(on(table, _ROWS), after, stop, asked)
            after = stop
            oldest = self._oldest(table)
            if oldest is None or oldest > after + 1:  # derived rows leave when they are delivered
                self.left |= table == "raw" and after < last
                after = last if oldest is None else oldest - 1

    def gaps(self, start_ns: int, end_ns: int) -> Iterator[Marker]:
        """Yield the markers of dropped rows that a reader still waits for, each once."""
        try:
            rows = self._db.execute(_GAPS, (start_ns, end_ns)).fetchall()
        except sqlite3.DatabaseError as e:
            self.holes.append(Hole(0, 0, f"the gap markers: {e}"))
            return
        for number, first_ns, last_ns, count, reason, sequence in rows:
            if number in self.schemas:  # one may have come since
                yield Marker(self.schemas[number], first_ns, last_ns, count, reason, sequence)

    def _between(
        self, sql: str, after: int, last: int, asked: tuple[int, int, str]
    ) -> Iterator[Record]:
        """Yield the records in ``(after, last]``; where a page is damaged, what lies around it."""
        while after < last:
            try:
                found, is_more = self._page(sql, after, last, asked)
            except sqlite3.DatabaseError as e:
                if last - after == 1:
                    self._hole(last, str(e))
                    return
                middle = (after + last) // 2
                yield from self._between(sql, after, middle, asked)
                yield from self._between(sql, middle, last, asked)
                return
            yield from found
            after = found[-1].sequence if is_more else last

    def _page(
        self, sql: str, after: int, last: int, asked: tuple[int, int, str]
    ) -> tuple[list[Record], bool]:
        """Return records of one statement, and whether there may be more of them."""
        found: list[Record] = []
        size = 0
        with closing(self._db.execute(sql, (after, last, *asked))) as rows:
            for sequence, number, first_ns, last_ns, count, payload in rows:
                schema = self.schemas[number].id
                found.append(Record(sequence, schema, first_ns, last_ns, count, payload))
                size += len(payload)
                if size >= SHARE:
                    return found, True
        return found, False

    def _hole(self, sequence: int, reason: str) -> None:
        if self.holes and self.holes[-1].last == sequence - 1 and self.holes[-1].reason == reason:
            self.holes[-1].last = sequence
        else:
            self.holes.append(Hole(sequence, sequence, reason))

    def _oldest(self, table: str) -> int | None:
        """Return the smallest number of a table, or None if it is empty."""
        try:
            sql = on(table, "SELECT min(sequence) FROM log")
            (number,) = self._db.execute(sql).fetchone()
        except sqlite3.DatabaseError:
            return 1  # its page is damaged
        return None if number is None else int(number)

    def _newest(self, table: str) -> int:
        """Return the number behind which nothing has been committed yet."""
        try:
            sql = on(table, "SELECT max(sequence) FROM log")
            (number,) = self._db.execute(sql).fetchone()
        except sqlite3.DatabaseError:  # its page is damaged
            sql = "SELECT value FROM total WHERE name = 'sequence'"
            (number,) = self._db.execute(sql).fetchone()
        return int(number or 0)


def _schema(id_: str, canonical: str) -> Schema | None:
    """Return a schema; None for bytes that are not what was written."""
    try:
        schema = Schema.from_canonical(canonical)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return schema if schema.id == id_ else None
