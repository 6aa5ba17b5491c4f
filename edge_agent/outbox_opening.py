"""How the file of ``outbox.py`` is opened, again after trouble, and begun anew after damage."""

import logging
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from edge_agent import outbox_salvage
from edge_agent.database_files import damage_flag, put_aside, remove, set_aside
from edge_agent.errors import ConfigError
from edge_agent.model import Schema
from edge_agent.outbox_budget import Budget
from edge_agent.outbox_files import Files
from edge_agent.outbox_schema import (
    FORMAT,
    Batch,
    Known,
    Ledger,
    ReaderSpec,
    connect,
    table_of,
    transaction,
)
from edge_agent.outbox_spans import Span, Spans

log = logging.getLogger(__name__)

LOOKS = 3  # times that rows are looked for in a damaged file, with a pause between

Handed = Callable[[], list[tuple[str, outbox_salvage.Row]]]


class _Numbered(dict[int, Known]):
    """Schemas by their number in the file."""

    def __missing__(self, number: int) -> Known:
        raise sqlite3.DatabaseError(f"a row is of schema {number}, which is not there")


class Opening(ABC):
    """A file that can be opened; what stands in it is the business of ``Store``.

    epoch  changes when the connections to the file must be opened again
    """

    ledger: Ledger
    _db: sqlite3.Connection

    def __init__(self, path: Path, readers: Sequence[ReaderSpec], budget: Budget) -> None:
        self.path = path
        self.budget = budget
        self.specs = {spec.name: spec for spec in readers}
        self.known: dict[str, Known] = {}
        self._numbered = _Numbered()
        self._tables = {name: frozenset[str]() for name in self.specs}  # with rows of a reader
        self._numbers = 0  # the last that a schema was given
        self._written = 0  # the last that stands in the file
        self._deleted = 0  # bytes of changed pages, beside those of new rows, in this commit
        self._attempt: tuple[Batch, Ledger] | None = None  # that may be in the file or not
        self._counts = dict[tuple[str, Span], dict[int, int]]()  # while readers are declared
        self._missing = list[int]()  # rows that could not be read when it was begun anew so far
        self._suspect = False  # the open files may be of no use
        self.epoch = 0
        self._files = Files(path, budget, len(self.specs))
        self._files.lock()
        try:
            self._open()
        except (sqlite3.Error, ConfigError, OSError):
            self._files.close()
            raise
        self._aside = bool(put_aside(path))  # there is a damaged file that has been set aside

    def close(self) -> None:
        """Bring everything into the main file and let it go."""
        try:
            with closing(self._db):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._files.close()

    def learn(self, schema: Schema, number: int = 0) -> Known:
        """Return the schema with its number, or that which it will have, and who takes it."""
        takers = tuple(name for name, spec in self.specs.items() if spec.takes(schema))
        self._numbers = max(self._numbers, number or self._numbers + 1)
        known = self.known[schema.id] = Known(number or self._numbers, schema, takers)
        self._numbered[known.number] = known
        for name in takers:
            self._tables[name] |= {table_of(schema.family)}
        return known

    def _for_want_of_space(self, error: sqlite3.Error) -> bool:
        """Return whether there is more space now than when it failed; ``-shm`` fails otherwise."""
        kinds = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        return any(says(error, kind) for kind in kinds) and self._files.give_up_ballast()

    @property
    def unsure(self) -> bool:
        """Whether the last batch failed in a way that may have brought it into the file."""
        return self._attempt is not None

    @property
    def trouble(self) -> str:
        """What is wrong although everything is written, or nothing."""
        if not self._files.tight:
            return ""
        advice = "the oldest rows that all have make room for new ones; free some space"
        return f"the disk of {self.path} is full ({advice})"

    def _open(self) -> None:
        flag = damage_flag(self.path)
        self._adopt()
        try:
            self._open_sound(flag)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as e:
            self.known.clear()
            self._numbered.clear()
            self._begin_anew(str(e))
            flag.unlink(missing_ok=True)
            self._begin()
        self._files.opened()

    def _open_sound(self, flag: Path) -> None:
        if flag.exists() or self._is_empty():
            raise sqlite3.DatabaseError("it was found damaged")
        if not self.path.exists():
            self._begin_first()
        try:
            self._db = self._files.open()
        except sqlite3.OperationalError as e:
            if not self._for_want_of_space(e):
                raise
            self._db = self._files.open()
        try:
            self._begin()
        except BaseException:
            self._db.close()
            raise

    def _begin(self) -> None:
        self._prepare()
        with transaction(self._db):
            self._declare()

    def _begin_first(self) -> None:
        """Put a log in place that is whole: a kill meanwhile must not leave an empty file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(connect(self._fresh)) as fresh:
            outbox_salvage.begin(fresh)
            fresh.execute(f"PRAGMA user_version = {FORMAT}")
        self._put_in_place()

    def _put_in_place(self) -> Path | None:
        """Let the new file take the place of the old one; return where that is now."""
        _synced(self._fresh)
        aside = set_aside(self.path)
        self._fresh.rename(self.path)
        _synced(self.path.parent)
        return aside

    def _is_empty(self) -> bool:
        """Return whether the file has lost all that was in it."""
        return self.path.exists() and not self.path.stat().st_size

    def _adopt(self) -> None:
        """Finish, or undo, what was left of beginning anew when the process died."""
        fresh = self._fresh
        if not fresh.exists():
            return
        if not self.path.exists():
            with closing(connect(fresh)) as db:
                finished = db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
            if finished:
                set_aside(self.path)
                fresh.rename(self.path)
        remove(fresh)

    @property
    def _fresh(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def _reopened(self, batch: Batch) -> bool:
        """Open the file again after it failed; return whether the batch had been written after all.

        An fsync that failed may have brought everything to the disk. The disk may also have been
        mounted anew: the open files are of no use then.
        """
        if reason := self._files.missing():
            raise sqlite3.DatabaseError(reason)
        totals = self._left()
        attempt = self._attempt
        written = attempt is not None and attempt[0] is batch and totals == attempt[1].totals
        if totals != self.ledger.totals and not written:
            raise sqlite3.DatabaseError("it is not as it was left")
        before, self._db = self._db, self._files.open()
        outbox_salvage.close(before)
        self._files.opened()
        self._suspect, self._attempt = False, None
        self.epoch += 1
        if attempt is not None and written:
            self.ledger = attempt[1]
            self._written = max([self._written, *(known.number for known in batch.schemas)])
        return written

    def _left(self) -> dict[str, int]:
        """Return the totals of the file that stands there now."""
        with closing(connect(self.path, query_only=True)) as db:
            try:
                return dict(db.execute("SELECT name, value FROM total"))
            except sqlite3.OperationalError as e:
                if says(e, sqlite3.SQLITE_ERROR):
                    raise sqlite3.DatabaseError("another file stands in its place") from e
                raise

    def readable(self) -> bool:
        """Return whether the disk lets the file be read: else its content may be right."""
        if not self._files.readable():
            with suppress(OSError):
                damage_flag(self.path).unlink(missing_ok=True)
            self._suspect = True
            return False
        return True

    def mend(self, damage: str, handed: Handed) -> None:
        """Begin a new file in place of one that is damaged or gone.

        damage  what was found wrong
        handed  rows that readers were handed and may not have acknowledged
        errors  ``OperationalError`` or ``OSError`` while the disk does not let us
        """
        self._begin_anew(damage, handed)
        damage_flag(self.path).unlink(missing_ok=True)
        self._suspect, self._attempt = False, None
        self._files.opened()
        self.epoch += 1

    def _begin_anew(self, reason: str, handed: Handed | None = None) -> None:
        """Set the damaged file aside and put a new one in its place, with what can be read.

        handed  None: the counts are those of the file, as far as they can be read; else they are
                known, and the open connection is read, whatever has become of the name of its file
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove(self._fresh)
        above = self.path.stat().st_mtime_ns // 1_000_000 if self.path.exists() else 0
        with closing(connect(self._fresh)) as fresh:
            outbox_salvage.begin(fresh)
            if handed is None:
                source = _readable(self.path)
            else:
                source, self._db = self._db, fresh
                try:
                    self._write_known(self.ledger)
                finally:
                    self._db = source
            found = outbox_salvage.copy(
                source,
                fresh,
                counted=handed is not None,
                handed=handed() if handed is not None else (),
                above=above,
            )
            if handed is not None:
                self._look_once_more(found.missing)
            fresh.execute(f"PRAGMA user_version = {FORMAT}")
        outbox_salvage.close(source)
        aside = self._put_in_place()
        self._db = self._files.open()
        if handed is not None:
            self._count_again()
        self._aside = bool(put_aside(self.path))
        where = f"set aside as {aside.name}" if aside is not None else "gone"
        log.error(
            "the log %s is damaged (%s): it is %s, and a new one begun with %d rows of it; "
            "%d rows that were waited for cannot be read and count as dropped%s",
            self.path,
            reason,
            where,
            found.rows,
            found.missing,
            "" if found.counts else "; its counts could not be read and begin anew",
        )

    def _look_once_more(self, missing: int) -> None:
        """Raise ``OperationalError`` unless as many were missing before: a disk may recover."""
        before, self._missing = self._missing, [*self._missing, missing]
        if missing and missing not in before and len(before) < LOOKS:
            raise sqlite3.OperationalError(f"{missing} rows of it cannot be read: once more")
        self._missing = []

    def _write_known(self, ledger: Ledger) -> None:
        """Write what is known of the log without its file."""
        schemas = [known for known in list(self.known.values()) if known.number <= self._written]
        with transaction(self._db):
            self._write_schemas(schemas)
            self._write_ledger(ledger)
            for name, position in ledger.readers.items():
                self._write_islands(name, position.passed)

    def _count_again(self) -> None:
        """Take over what beginning anew has done to the counts."""
        after = self.ledger.copy()
        after.totals.update(self._db.execute("SELECT name, value FROM total"))
        for name, *counts in self._db.execute("SELECT name, pending, backlog, dropped FROM reader"):
            position = after.readers[name]
            position.pending, position.backlog, position.dropped = counts
        self.ledger = after

    def _pages(self) -> tuple[int, int]:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return pages, free

    @abstractmethod
    def _prepare(self) -> None:
        """Make the tables, or raise if there are others."""

    @abstractmethod
    def _declare(self) -> None:
        """Read what is there and make the readers those that were declared."""

    @abstractmethod
    def _write_schemas(self, schemas: Iterable[Known]) -> None: ...

    @abstractmethod
    def _write_ledger(self, ledger: Ledger) -> None: ...

    @abstractmethod
    def _write_islands(self, name: str, passed: Spans) -> None: ...


def errorcode(error: sqlite3.Error) -> int:
    """Return SQLite's code; errors that are ours have none."""
    return int(getattr(error, "sqlite_errorcode", 0))


def says(error: sqlite3.Error, code: int) -> bool:
    """Return whether it is SQLite's error of a kind; those that are ours have no code."""
    return errorcode(error) & 0xFF == code


def _readable(path: Path) -> sqlite3.Connection | None:
    try:
        return connect(path, query_only=True)
    except sqlite3.Error:
        return None


def _synced(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
