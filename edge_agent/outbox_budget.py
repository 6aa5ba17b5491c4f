"""How much the log of ``outbox.py`` may take of the disk."""

from dataclasses import dataclass, replace

from edge_agent.database_files import Wal

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Budget:
    """How much the log may hold, and what its files take beside.

    raw_bytes, derived_bytes  of rows, each for its own class
    raw_age_ns                how long delivered raw rows are kept as history
    wal_bytes                 the WAL, at most; as much again is room in the main file for schemas,
                              cursors, markers, the checkpoint and free pages
    ballast_bytes             a file that is given up when the disk is full
    """

    raw_bytes: int
    raw_age_ns: int
    derived_bytes: int
    wal_bytes: int = 4 * MIB
    ballast_bytes: int = 0

    @classmethod
    def within(cls, raw_bytes: int, derived_bytes: int, raw_age_ns: int) -> "Budget":
        """Return the budget whose files together stay within ``raw_bytes + derived_bytes``.

        The WAL, the room and the ballast come out of both classes in proportion.
        """
        total = raw_bytes + derived_bytes
        wal = min(64 * MIB, max(4 * MIB, total // 16))
        beside = cls(0, raw_age_ns, 0, wal, min(16 * MIB, max(2 * MIB, total // 32)))
        rows = total - beside.files_bytes
        derived = rows * derived_bytes // total
        return replace(beside, raw_bytes=rows - derived, derived_bytes=derived)

    @property
    def main_bytes(self) -> int:
        """The main file, at most."""
        return self.raw_bytes + self.derived_bytes + self.wal_bytes

    @property
    def files_bytes(self) -> int:
        """All files together, at most."""
        beside = self.wal_bytes + Wal.shm_bytes(self.wal_bytes) + self.ballast_bytes
        return self.main_bytes + beside
