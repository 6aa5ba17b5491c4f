"""Which rows of ``outbox.py`` stay: of age, over a budget, or in the way of new ones."""

import logging
import sqlite3
from collections.abc import Sequence

from edge_agent.database_files import PAGE, forget_aside, put_aside
from edge_agent.outbox_opening import Opening
from edge_agent.outbox_retention import Shedding
from edge_agent.outbox_schema import Batch, Ledger, as_json, on, stored_size
from edge_agent.outbox_spans import holds

log = logging.getLogger(__name__)

AGED = 512  # most rows that leave for their age in one commit
VICTIMS = 4096  # most rows that leave for want of room in one commit, unless more have come


class Keeping(Opening):
    """What a commit does so that the files stay within their budget."""

    def _states(self, batch: Batch) -> list[tuple[str, int, bytes]]:
        """Return the rows of a checkpoint; none if it is too large to be written at once."""
        if batch.checkpoint is None:
            return []
        sequence, states = batch.checkpoint
        rows = [(name, sequence, as_json(state)) for name, state in states.items()]
        size, most = sum(len(json) for _, _, json in rows), self._files.most_state
        if size > most:
            advice = "set a larger retention.raw_bytes; the start after a kill takes longer"
            log.error("%s: a checkpoint of %d bytes has no room (%s)", self.path, size, advice)
            return []
        return rows

    def _reserve(self, batch: Batch, state: int) -> int:
        """Return the pages of the file when all files may grow by what the batch needs."""
        pages, _ = self._pages()
        frames = self._files.frames(batch, state, pages)
        self._files.room(self._db, frames)
        if self._aside:
            for gone in forget_aside(self.path, self.budget.main_bytes - PAGE * (pages + frames)):
                log.warning("%s was removed: its place is needed, or its week is over", gone)
            self._aside = bool(put_aside(self.path))
        return pages

    def _make_room(self, batch: Batch, after: Ledger, shedding: Shedding) -> None:
        """Let raw rows go before others come when the file must not grow by as much.

        On a full disk these are rows that every reader has had and no metric needs; else the
        oldest, whoever waits for them.
        """
        need = sum(stored_size(len(entry.payload)) for entry in batch.entries)
        if not need:
            return
        pages, free = self._pages()
        need = need * 9 // 8 + 16 * PAGE
        room = PAGE * (free if self._files.tight else self.budget.main_bytes // PAGE - pages + free)
        lack = need - room
        if lack <= 0:
            return
        if not self._files.tight:
            limit = max(VICTIMS, 2 * sum(len(push.entries) for push in batch.pushes))
            self._delete("raw", shedding.shed("raw", lack, limit), after)
            return
        rows = self._aged(after, lack, 1 << 62)
        if sum(stored_size(length) for _, length in rows) < lack:
            raise sqlite3.OperationalError("the disk is full, and all stored rows are waited for")
        self._delete("raw", rows, after)

    def _retain(self, batch: Batch, after: Ledger, shedding: Shedding) -> None:
        """Let rows go: delivered raw rows of age, then the oldest of a class over its budget."""
        budget, totals = self.budget, after.totals
        horizon = after.totals["newest_ns"] - self.budget.raw_age_ns
        self._delete("raw", self._aged(after, self._files.most_deleted, horizon)[:AGED], after)
        limit = max(VICTIMS, 2 * sum(len(push.entries) for push in batch.pushes))
        come = sum(stored_size(len(entry.payload)) for entry in batch.entries)
        most = come + self._files.most_deleted
        excess = min(most, totals["derived_bytes"] - budget.derived_bytes)
        self._delete("derived", shedding.shed("derived", excess, limit), after)
        pages, free = self._pages()
        used = PAGE * (pages - free) - budget.main_bytes + budget.wal_bytes // 2
        excess = min(most, max(totals["raw_bytes"] - budget.raw_bytes, used))
        self._delete("raw", shedding.shed("raw", excess, limit), after)
        shedding.finish()
        if free > max(64, pages // 4) or PAGE * pages > budget.main_bytes:
            for _ in range(min(free, self._files.most_vacuumed)):
                # Python does not step through one with a larger number: it has no columns
                self._db.execute("PRAGMA incremental_vacuum(1)")
            self._deleted += self._files.most_vacuumed * PAGE

    def _aged(self, after: Ledger, most: int, horizon: int) -> list[tuple[int, int]]:
        """Return the oldest raw rows as long as they are of age, delivered, and not needed again.

        What came after the last checkpoint is fed to the metrics once more when the agent starts.

        most     bytes of them that are enough
        horizon  time before which rows are of age
        """
        (checkpoint,) = self._db.execute("SELECT max(sequence) FROM state").fetchone()
        sql = "SELECT sequence, schema, last_ns, length(payload) FROM raw ORDER BY sequence LIMIT ?"
        aged = []
        for sequence, number, last_ns, length in self._db.execute(sql, (VICTIMS,)):
            takers = self._numbered[number].takers
            waiting = any(not holds(after.readers[name].passed, sequence) for name in takers)
            needed = checkpoint is not None and sequence > checkpoint
            if last_ns >= horizon or waiting or needed or most <= 0:
                break
            aged.append((sequence, length))
            most -= stored_size(length)
        return aged

    def _delete(self, table: str, rows: Sequence[tuple[int, int]], after: Ledger) -> None:
        """Delete rows given by number and length of payload."""
        numbers = [(sequence,) for sequence, _ in rows]
        self._db.executemany(on(table, "DELETE FROM log WHERE sequence = ?"), numbers)
        size = sum(stored_size(length) for _, length in rows)
        after.totals[f"{table}_bytes"] -= size
        self._deleted += sum(min(PAGE, stored_size(length)) for _, length in rows)
