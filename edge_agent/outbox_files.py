"""The files of the log of ``outbox.py``: how large they grow, and whether they are still there.

``PRAGMA max_page_count`` bounds the main file, ``Wal`` the WAL: for that, the frames that a commit
may write are estimated, from above, before it begins.
"""

import fcntl
import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import IO

from edge_agent.database_files import PAGE, PTRMAP, Wal, identity
from edge_agent.errors import ConfigError
from edge_agent.outbox_budget import Budget
from edge_agent.outbox_schema import Batch, connect, stored_size

log = logging.getLogger(__name__)

VACUUM = 256  # pages given back to the file system in one commit, at most
FEW = 24  # frames of what any transaction changes: counts, cursors, times, roots


class Files:
    """The open main file with its WAL, the ballast and the lock of one log.

    readers  how many there are
    tight    the disk is full: the ballast is gone, and the main file must not grow
    """

    def __init__(self, path: Path, budget: Budget, readers: int) -> None:
        self.path = path
        self._budget = budget
        self._readers = readers
        self._ballast = path.with_name(path.name + ".ballast")
        self._wal = Wal(budget.wal_bytes)
        self._wal_path = path.with_name(path.name + "-wal")
        self.tight = False
        self._largest = 0  # pages that ``max_page_count`` allows now
        self._lock: IO[bytes] | None = None
        self._probe: int | None = None  # the main file, to see whether it can be read
        self._ours: tuple[tuple[int, int], ...] = ()
        self._folder = 0
        self._length = 0

    # -- opening ----------------------------------------------------------------------------------

    def lock(self) -> None:
        """Keep other agents out until ``unlock`` or the end of the process."""
        self.unlock()
        self._lock = lock = self.path.with_name(self.path.name + ".lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self.unlock()
            advice = "another agent uses this log (one data folder each)"
            raise ConfigError([f"{self.path}: {advice}"]) from e
        except OSError as e:
            self.unlock()
            advice = "data must name a folder on a file system with locks, not a share without"
            raise ConfigError([f"{self.path}: cannot be locked: {e.strerror} ({advice})"]) from e

    def unlock(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Let everything go, when the connections are closed."""
        if self._probe is not None:
            os.close(self._probe)
            self._probe = None
        self.unlock()

    def open(self) -> sqlite3.Connection:
        """Return the connection that writes, in WAL mode and bounded."""
        lock = self.path.with_name(self.path.name + ".lock")
        if self._lock is None or _opened(self._lock.fileno()) != identity(lock):
            self.lock()
        db = connect(self.path)
        try:
            self._wal.prepare(db)
            self.noted()
            self._largest = 0
            self._bound(db)
        except BaseException:
            db.close()
            raise
        return db

    def opened(self) -> None:
        """Take note of the files as they are now: they must stay the same ones."""
        self._hold()
        self._folder = self.path.parent.stat().st_dev
        self._ours = self._found()
        self.noted()
        self._ballast_again()

    def _bound(self, db: sqlite3.Connection) -> None:
        """Let the main file grow no further than its budget, or than it is already."""
        pages = self._budget.main_bytes // PAGE
        if self._largest != pages:
            (self._largest,) = db.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    # -- the WAL ----------------------------------------------------------------------------------

    def room(self, db: sqlite3.Connection, frames: int) -> None:
        """Return when the WAL has room for so many frames; ``OperationalError`` if it has none."""
        self._bound(db)
        self._wal.room(db, frames, always=self.tight)

    def wrote(self, batch: Batch, deleted: int, pages: int) -> None:
        """Count the frames of a commit that is over; deleted: bytes of the rows that have left."""
        self._wal.wrote(self._changed(batch, deleted, pages))
        self.noted()

    def noted(self) -> None:
        """Take note of how long the main file is; nobody but us changes that."""
        with suppress(OSError):
            self._length = self.path.stat().st_size

    def frames(self, batch: Batch, state: int, pages: int) -> int:
        """Return how many frames a commit may write, at most.

        state  bytes of its checkpoint; pages: of the main file
        """
        leaving = self.most_deleted + 64 * PAGE * batch.steps
        return self._changed(batch, leaving, pages) + state * 5 // 4 // PAGE + self.most_vacuumed

    def _changed(self, batch: Batch, deleted: int, pages: int) -> int:
        """Return how many pages rows change that come and go."""
        come = sum(stored_size(len(entry.payload)) for entry in batch.entries)
        written = come * 5 // 4 + deleted + sum(2 * len(k.schema.canonical) for k in batch.schemas)
        written += 256 * (len(batch.schemas) + len(batch.lost)) * (1 + self._readers)
        changed = written // PAGE + len({e.known.number for e in batch.entries}) // 16
        return changed + min(changed, pages // PTRMAP + 1) + FEW

    @property
    def most_state(self) -> int:
        """Bytes of a checkpoint that can be written in one transaction."""
        return self._budget.wal_bytes // 3

    @property
    def most_deleted(self) -> int:
        """Bytes of small rows that leave in one commit beyond those that come."""
        return self._budget.wal_bytes // 8

    @property
    def most_vacuumed(self) -> int:
        """Pages that are given back in one commit."""
        return min(VACUUM, self._budget.wal_bytes // 32 // PAGE)

    # -- the ballast ------------------------------------------------------------------------------

    def give_up_ballast(self) -> bool:
        """Remove the ballast if the disk is full; return whether it is, and it was there."""
        if self._free() >= max(self._budget.ballast_bytes, 16 * PAGE):
            return False
        self.tight = True
        try:
            self._ballast.unlink()
        except OSError:
            return False
        return True

    def loosen(self) -> None:
        """Make the ballast again when there is space, and let the file grow."""
        if self._free() >= 2 * max(self._budget.ballast_bytes, 16 * PAGE):
            self._ballast_again()

    def _ballast_again(self) -> None:
        size = self._budget.ballast_bytes
        if not size:
            self.tight = False
            return
        try:
            with self._ballast.open("r+b" if self._ballast.exists() else "w+b") as file:
                file.truncate(min(size, file.seek(0, os.SEEK_END)))
                os.posix_fallocate(file.fileno(), 0, size)  # unlike a truncate it holds the space
        except OSError:
            with suppress(OSError):
                self._ballast.unlink(missing_ok=True)
            self.tight = True
        else:
            self.tight = False

    def _free(self) -> int:
        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return 1 << 62  # not what is wrong
        return disk.f_bavail * disk.f_frsize

    # -- whether they are there -------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        """Whether other files stand where the open ones were, or none."""
        return self._found() != self._ours

    def missing(self) -> str:
        """Return what has become of the files under our hands, or nothing if some are there.

        errors  ``OperationalError`` while the disk that they are on is not there
        """
        main, wal = self._found()
        if main == (0, 0):
            left = next(folder for folder in self.path.absolute().parents if folder.exists())
            if left.stat().st_dev != self._folder:  # to begin anew below would be on another disk
                raise sqlite3.OperationalError("the disk of its folder is not there")
            is_there = left == self.path.absolute().parent
            return "it was removed" if is_there else "its folder was moved or removed"
        return "its WAL was removed" if main == self._ours[0] and wal == (0, 0) else ""

    def cut_short(self, pages: int) -> bool:
        """Return whether the main file has lost its end; pages: as the open connection sees it."""
        return self.path.stat().st_size < min(self._length, pages * PAGE)

    def _hold(self) -> None:
        """Hold the file open, to see whether it can be read: to close it gives up SQLite's locks.

        One that is held already is let go only if it is another file, or its disk is gone.
        """
        if self._probe is not None:
            with suppress(OSError):
                os.pread(self._probe, PAGE, 0)
                if identity(self.path) == _opened(self._probe):
                    return
            os.close(self._probe)
        self._probe = os.open(self.path, os.O_RDONLY)

    def readable(self) -> bool:
        """Return whether the disk lets the file be read; SQLite takes a failed read for damage."""
        if self._probe is not None:
            try:
                os.pread(self._probe, PAGE, 0)
            except OSError:
                return False
        return True

    def _found(self) -> tuple[tuple[int, int], ...]:
        return identity(self.path), identity(self._wal_path)


def _opened(file: int) -> tuple[int, int]:
    held = os.fstat(file)
    return held.st_dev, held.st_ino
