"""What the two SQLite files of the agent, log and history, have in common as files.

SQLite has no bound for the WAL: it grows while a reader holds an old state, and by as much as a
transaction changes. So ``Wal`` counts, from above, the frames that are in it. When those of the
next transaction do not fit behind them, the WAL is emptied first; while a reader does not let go of
it, nothing is written.

A damaged file is renamed to ``<name>.corrupt-<n>`` and kept until a person removes it, for a week,
or until the new file needs its place: together they stay within what the one may take.
"""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

PAGE = 4096
FRAME = PAGE + 24  # bytes of the WAL that a changed page takes
PTRMAP = 819  # pages that one page of the pointer map is for
AUTOCHECKPOINT = 256
KEPT = 7 * 24 * 3600  # seconds that a damaged file is kept


class Wal:
    """The bound of one WAL.

    most   bytes of it; often: frames after which SQLite empties it if nobody reads
    """

    def __init__(self, most: int, often: int = AUTOCHECKPOINT) -> None:
        self.most = most // FRAME - 1
        self._often = min(often, self.most // 2)
        self._position = self.most  # frames in it, at most

    @staticmethod
    def shm_bytes(most: int) -> int:
        """Return what the ``-shm`` beside takes at most: 32 KiB for about 4096 frames."""
        return (2 + most // FRAME // 4096) << 15

    def prepare(self, db: sqlite3.Connection) -> None:
        """Set up a connection that writes."""
        for pragma in (
            "auto_vacuum = INCREMENTAL",  # means something only before the first table
            "journal_mode = WAL",
            "synchronous = FULL",
            "secure_delete = OFF",  # on in Debian: every page of a deleted row would be written
            f"wal_autocheckpoint = {self._often}",
            f"journal_size_limit = {self.most * FRAME // 4}",
            "busy_timeout = 1000",  # ms that a reader is waited for
        ):
            said = db.execute(f"PRAGMA {pragma}").fetchall()
            if "journal_mode" in pragma and said != [("wal",)]:
                raise sqlite3.OperationalError("its file system has no shared memory (a share?)")
        self._position = self.most
        self.empty(db, "TRUNCATE")

    def room(self, db: sqlite3.Connection, frames: int, *, always: bool = False) -> None:
        """Return when there is room for so many frames; ``OperationalError`` if there is none.

        always  empty the WAL in any case
        """
        if always or self._position + frames > self.most:
            self.empty(db, "RESTART")
        if self._position and self._position + frames > self.most:
            raise sqlite3.OperationalError("another program reads it for too long at a time")

    def wrote(self, frames: int) -> None:
        """Count the frames of a transaction that is over."""
        self._position += frames

    def empty(self, db: sqlite3.Connection, kind: str) -> None:
        """Bring the WAL into the main file, so that it is written from its beginning again."""
        busy, frames, _ = db.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
        self._position = max(0, frames) if busy else 0


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file, if it is there, so that a new one can take its place.

    Of those from before none is kept: there is room for one at most. A WAL without its file goes,
    or SQLite would take it for the new file's.
    """
    if not path.exists():
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return None
    before = put_aside(path)
    number = 1 + max(map(_number, before), default=0)
    for old in before:
        remove(old)
    target = path.with_name(f"{path.name}.corrupt-{number}")
    path.rename(target)
    wal = path.with_name(path.name + "-wal")
    if wal.exists():
        wal.rename(target.with_name(target.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    os.utime(target)  # its age counts from now
    return target


def put_aside(path: Path) -> list[Path]:
    """Return the damaged files that were set aside and are still there, oldest first."""
    try:
        found = path.parent.glob(f"{path.name}.corrupt-*")
        return sorted((f for f in found if _number(f)), key=_number)
    except OSError:
        return []


def forget_aside(path: Path, room: int) -> list[Path]:
    """Remove damaged files that are a week old or larger than the room; return which."""
    gone = []
    for aside in put_aside(path):
        parts = [aside.with_name(aside.name + suffix) for suffix in ("", "-wal", "-shm")]
        with suppress(OSError):
            size = sum(part.stat().st_size for part in parts if part.exists())
            age = path.stat().st_mtime - aside.stat().st_mtime  # by the times of the files
            if size > room or age > KEPT:
                remove(aside)
                gone.append(aside)
    return gone


def remove(path: Path) -> None:
    """Remove a file with its WAL."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int]:
    """Return what tells a file from every other one: device and inode, or zeros."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def damage_flag(path: Path) -> Path:
    """Return the file whose presence says that a file was found damaged while it was in use."""
    return path.with_name(path.name + ".damaged")


def damage(path: Path) -> str:
    """Return what a person should know of a damaged file that was set aside, or nothing."""
    if not (aside := put_aside(path)):
        return ""
    advice = "what was lost stands in the agent's messages; remove it when it is of no use any more"
    return f"{path.name} was damaged: it is set aside as {aside[-1]}, a new one begun ({advice})"


def _number(aside: Path) -> int:
    number = aside.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
