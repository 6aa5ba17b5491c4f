"""The stored rows of a log for reading only, also while an agent writes it."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from edge_agent import codec
from edge_agent.errors import ConfigError, Corrupt
from edge_agent.model import Family, SampleBlock, Schema
from edge_agent.outbox_schema import Aside, Marker, Record, connect, on, table_of

log = logging.getLogger(__name__)

PAGE = 256  # records that are read at a time, so that no transaction is long

_ROWS = "SELECT sequence, schema, first_ns, last_ns, rows, payload FROM log WHERE sequence > ?1"
Row = tuple[int, int, int, int, int, bytes]


class Archive:
    """The records of a log and their schemas; commands use it beside a running agent.

    db          a connection that cannot write
    read_fault  what ``records`` found wrong with the file, or nothing
    errors      ``ConfigError`` when there is no log that can be read
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.db = connect(path, query_only=True)
            self._by_number = dict[int, Schema]()
            self._by_id = dict[str, Schema]()
            self._load()
        except sqlite3.DatabaseError as e:
            raise ConfigError([f"{path}: the log cannot be read: {e}"]) from e
        self.read_fault = ""

    def reopen(self) -> None:
        """Open the file again: another may stand in its place now."""
        self.db.close()
        try:
            self.db = connect(self.path, query_only=True)
            self._load()
        except sqlite3.DatabaseError as e:
            raise ConfigError([f"{self.path}: the log cannot be read: {e}"]) from e
        self.read_fault = ""

    def _load(self) -> None:
        for number, canonical in self.db.execute("SELECT number, canonical FROM schema").fetchall():
            self.know(number, Schema.from_canonical(canonical))

    @property
    def latest_ns(self) -> int:
        """The newest time that any stream has ever had, or 0."""
        (latest,) = self.db.execute("SELECT max(last_ns) FROM stream").fetchone()
        return int(latest or 0)

    def know(self, number: int, schema: Schema) -> None:
        """Take over a schema with its number in the file."""
        self._by_number[number] = self._by_id[schema.id] = schema

    def records(self, after: int, family: Family | None = Family.SAMPLE) -> Iterator[Record]:
        """Iterate over the committed records behind a number, in their order.

        family  only records of this family; None: all that are still stored
        """
        tables = ("raw", "derived") if family is None else (table_of(family),)
        sql = " UNION ALL ".join(on(table, _ROWS) for table in tables) + " ORDER BY 1 LIMIT ?2"
        for rows in self._pages(sql, after):
            for row in rows:
                if family is None or self.numbered(row[1]).family is family:
                    yield self.record(row)

    def before(self, time_ns: int, most: int) -> int:
        """Return the number of the newest raw record that ended before a time, or 0.

        It looks back from the newest, so it costs no more than what came since. Rows of an outage
        that is over came late, so they say nothing of the time of their neighbours.

        most  records that may be behind the number returned
        """
        found, below = 0, 1 << 62
        sql = """SELECT sequence, schema, last_ns FROM raw WHERE sequence < ?
          ORDER BY sequence DESC LIMIT ?"""
        try:
            with closing(connect(self.path, query_only=True)) as db:
                while most and (rows := db.execute(sql, (below, PAGE)).fetchall()):
                    for sequence, number, last_ns in rows[: None if most < 0 else most]:
                        if last_ns < time_ns and not self.numbered(number).past:
                            return int(sequence)
                        found = sequence - 1
                    most = max(0, most - len(rows)) if most > 0 else most
                    below = rows[-1][0]
        except sqlite3.DatabaseError as e:
            self.read_fault = self.explain(e)
            log.error("%s", self.read_fault)
        return found

    def _pages(self, sql: str, after: int) -> Iterator[list[Row]]:
        """Yield rows, some at a time; what comes after damage cannot be read, ever."""
        try:
            with closing(connect(self.path, query_only=True)) as db:
                while rows := db.execute(sql, (after, PAGE)).fetchall():
                    for row in rows:
                        self.numbered(row[1])
                    yield rows
                    after = rows[-1][0]
        except sqlite3.DatabaseError as e:
            self.read_fault = self.explain(e)
            log.error("%s", self.read_fault)

    def aside(self, reader: str | None = None, most: int = 100) -> list[Aside]:
        """Return the refused rows that were put aside, newest first; not those of damaged bytes.

        reader  only those of this one; None: all
        """
        sql = """SELECT reader, sequence, at_ns, reason, schema, payload FROM aside
          WHERE ?1 IS NULL OR reader = ?1 ORDER BY number DESC LIMIT ?2"""
        found = []
        rows = self.db.execute(sql, (reader, most)).fetchall()
        for name, sequence, at_ns, reason, number, payload in rows:
            with suppress(Corrupt):
                block = codec.decode(payload, self.numbered(number))
                found.append(Aside(name, sequence, at_ns, reason, block))
        return found

    def explain(self, error: sqlite3.DatabaseError) -> str:
        """Return what is wrong in plain words."""
        return f"the log {self.path} cannot be read: {error}"

    def block(self, record: Record) -> SampleBlock:
        """Return the block of a record; ``Corrupt`` if its bytes are not what was written."""
        return codec.decode(record.payload, self.schema(record.schema))

    def schema(self, id: str) -> Schema:  # noqa: A002 -- a schema's id is called so everywhere
        """Return a schema by its id; ``KeyError`` for one that never stood in the log."""
        if id not in self._by_id:
            self._load()
        return self._by_id[id]

    def numbered(self, number: int) -> Schema:
        """Return a schema by its number in the file; without one, the file is damaged."""
        if number not in self._by_number:  # it has come since
            self._load()
        if number not in self._by_number:
            raise sqlite3.DatabaseError(f"a row is of schema {number}, which is not there")
        return self._by_number[number]

    def record(self, row: Row) -> Record:
        """Return a row of the file as a record."""
        sequence, number, first_ns, last_ns, rows, payload = row
        return Record(sequence, self.numbered(number).id, first_ns, last_ns, rows, payload)

    def marker(self, row: tuple[int, int, int, int, str, int]) -> Marker:
        """Return a row of the file as a gap marker."""
        number, first_ns, last_ns, rows, reason, sequence = row
        return Marker(self.numbered(number), first_ns, last_ns, rows, reason, sequence)
