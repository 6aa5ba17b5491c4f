"""The log on disk: the only queue of the system, one writer, many readers.

Everything that was read or computed is appended here, and everything that is delivered is read
from here, so a broker that is away, a kill and a power loss cost nothing that was committed.

**One file.** A SQLite database in WAL mode holds rows, cursors, counts, schemas, gap markers and
the metrics' checkpoint, so that one transaction moves them all: after a kill they agree with one
another. Raw and derived rows stand in two tables (``raw``, ``derived``) that share the sequence
numbers; each has a budget of its own and is accounted by itself, so neither can starve the other.
A record is one block, columnar and compressed, with a checksum (``codec.py``); its schema is
stored once, by content hash. ``<name>.lock`` keeps a second agent out; commands that read beside a
running agent use ``Archive``.

**Two threads.** ``append``, ``acknowledge``, ``checkpoint`` and ``take`` are called by the event
loop. The first three touch no disk: they put what they are given on the next batch. The committer,
the only other thread, writes the batch with a connection of its own (``outbox_store.py``): BEGIN
IMMEDIATE; rows, counts, cursors, a due checkpoint, retention; COMMIT with synchronous FULL. It
starts when the oldest thing that waits is ``commit`` seconds old, or at 1 MB. What one ``append``
brought is never parted over two commits, unless it is more than the WAL may take at once. What
power loss can take is one batch, and no reader has seen it.

**Readers** are declared when the log is opened, each with the streams that it takes. One that is
new begins at the oldest stored row, one that is declared no more is deleted. ``take`` returns
committed rows behind the cursor and hands the same out again until they are acknowledged; the
cursor and the counts are written with the next batch. So what a sink can get twice is what it had
not acknowledged. The newest blocks are kept in memory beside the file, so that readers that are up
to date do not decode them again.

**Two lanes.** A reader whose next row was committed longer ago than ``live_first`` goes on with
what is committed from then on and gets the rest, its backlog, behind that: each lane in order. What
it has passed is then more than a cursor (``outbox_spans.py``): one span more after each outage,
until the backlog has come to it and the lanes merge. Rows that its peer refuses are put aside with
the reason (table ``aside``, bounded), in the commit that passes them.

**Retention.** Raw rows stay as history after delivery until they are of age; derived rows leave
when every reader has them. Over its budget a class loses its oldest rows, delivered or not: they
are counted as dropped for each reader that waited for them, and a ``Gap`` is handed to it in their
place, one for rows of a stream that follow one another. Rows that a reader was handed and has not
acknowledged are left alone, or they would be counted twice; ``take`` hands out no more than an
eighth of a budget, shared by all readers. Age does not touch what came after the last checkpoint:
the metrics need it at the next start. All files together, with what SQLite adds, never take more
than ``Budget.files_bytes`` (``outbox_files.py``).

**The counts** are committed with the rows. Appended rows = read + substituted + derived. For each
reader, appended rows that it takes = delivered + refused + pending + dropped, where pending is
counted from the stored rows: by each commit for those it brings, passes and drops, and by
``counts`` once more from the table while no more than ``RECOUNT`` numbers wait. Gap markers are
not rows.

**Disk trouble** (full, read-only, failing) is shown by ``fault``. The batch stays in memory and is
tried again each second; nothing is acknowledged that was not written. Beyond 64 MB the oldest raw
rows are dropped from memory, counted and marked like those over the budget; derived ones only when
no raw ones are left. On a full disk a ballast file is given up, so that SQLite can work, and raw
history that all have had makes room for new rows: what is waited for does not. After an error the
file is opened again; a batch whose fsync failed is looked for before it is written once more.

**Damage.** A file that is damaged, cut short, removed or replaced, at the start or in use, is set
aside as ``<name>.corrupt-<n>`` and a new one begun without a restart (``outbox_salvage.py``): what
readers wait for is copied as far as it can be read, the rest counts as dropped, with markers
``corrupt``. Sequence numbers are consecutive (but for rows dropped from memory) and never used
again, also when no row is left.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from edge_agent import codec
from edge_agent.database_files import damage
from edge_agent.errors import ConfigError
from edge_agent.health import Commits, LogCounts, ReaderCounts
from edge_agent.model import Quality, SampleBlock
from edge_agent.outbox_archive import Archive
from edge_agent.outbox_budget import Budget
from edge_agent.outbox_committer import Committer
from edge_agent.outbox_reader import Reader
from edge_agent.outbox_salvage import Row
from edge_agent.outbox_schema import (
    Aside,
    Entry,
    Ledger,
    Marker,
    Push,
    ReaderSpec,
    Record,
    on,
    positions,
    table_of,
    transaction,
)
from edge_agent.outbox_spans import Span, between
from edge_agent.outbox_store import open_store

__all__ = ["Archive", "Aside", "Budget", "Marker", "Outbox", "Reader", "ReaderSpec", "Record"]

log = logging.getLogger(__name__)

RECENT = 400_000  # values of appended blocks that are kept in memory, 9 bytes each
RECOUNT = 1000  # sequence numbers behind a cursor that ``counts`` counts again: 1 ms
_COUNT = """SELECT coalesce(sum(rows), 0) FROM log
  WHERE sequence > ?1 AND sequence <= ?2
  AND schema IN (SELECT schema FROM takes WHERE reader = ?3)"""


class Outbox(Archive):
    """The log; see above. All is called by the thread of one event loop."""

    def __init__(
        self, path: Path, readers: Iterable[ReaderSpec], *, budget: Budget, commit: float = 1.0
    ) -> None:
        specs = list(readers)
        self._store = open_store(path, specs, budget)
        super().__init__(path)
        self._epoch = self._store.epoch
        self._last = dict[str, int](self.db.execute("SELECT name, last_ns FROM stream"))
        self._sequence = self.ledger.totals["sequence"]
        self._recent = dict[int, SampleBlock]()  # by number, oldest first
        self._recent_cells = 0
        self._most = budget.wal_bytes // 3  # bytes of a push that one commit takes
        self._closed = False
        self._committer = Committer(self._store, commit, self._woken, self._in_hand)
        share = min(budget.raw_bytes, budget.derived_bytes) // (8 * max(1, len(specs)))
        self._readers = {s.name: Reader(self, self._committer, s, share) for s in specs}

    # -- the writer's side ------------------------------------------------------------------------

    def append(self, blocks: Sequence[SampleBlock], counts: Mapping[str, int]) -> int:
        """Put the blocks of one push on the next commit; return the number of the last.

        counts  rows by where they come from: ``read``, ``substituted``, ``derived``
        """
        self.check()
        parts = [part for block in blocks if len(block) for part in self._parts(block)]
        left = dict(counts)
        for share in self._shares(parts):
            entries = [self._entry(part) for part in share]
            rows = sum(entry.rows for entry in entries)
            here = left if share[-1] is parts[-1] else _taken(left, share)
            self._committer.put(Push(self._sequence, rows, here, entries))
        return self._sequence

    def _parts(self, block: SampleBlock) -> Iterator[SampleBlock]:
        """Yield a block, or its rows in blocks of a size that one commit can take."""
        n = max(1, min(len(block), self._most // (9 * len(block.schema.tags) + 8)))
        if n == len(block):
            return iter((block,))
        return (block.rows(i, min(i + n, len(block))) for i in range(0, len(block), n))

    def _shares(self, blocks: list[SampleBlock]) -> Iterator[list[SampleBlock]]:
        """Yield the blocks of a push: all at once, if one commit can take them."""
        share, size = list[SampleBlock](), 0
        for block in blocks:
            size += 9 * block.value.size
            if share and size > self._most:
                yield share
                share, size = [], 9 * block.value.size
            share.append(block)
        if share:
            yield share

    def _entry(self, block: SampleBlock) -> Entry:
        schema = block.schema
        known = self._store.known.get(schema.id)
        if known is None:
            known = self._store.learn(schema)
            self.know(known.number, schema)
            self._committer.learn(known)
        self._sequence += 1
        first, last = int(block.time[0]), int(block.time[-1])
        self._last[schema.stream] = max(last, self._last.get(schema.stream, last))
        if known.takers:
            self._remember(block)
        return Entry(self._sequence, known, first, last, len(block), codec.encode(block))

    def _remember(self, block: SampleBlock) -> None:
        """Keep a block for the readers that are up to date: they need not decode it, each anew."""
        if block.quality.any() and block.quality.max() >= Quality.BAD:
            return  # the number behind a BAD mark is not stored
        self._recent[self._sequence] = block
        self._recent_cells += block.value.size
        while self._recent_cells > RECENT:
            self._recent_cells -= self._recent.pop(next(iter(self._recent))).value.size

    def block(self, record: Record) -> SampleBlock:
        kept = self._recent.get(record.sequence)
        return super().block(record) if kept is None else kept

    def checkpoint(self, states: Mapping[str, object]) -> None:
        """Put a checkpoint of what was appended so far into the next commit.

        states  by name, of what JSON has and arrays; NaN and infinities come back as None. They are
                written later, by the other thread: nothing in them may change any more
        """
        self._committer.checkpoint(self._sequence, states)

    def restore(self) -> tuple[int, dict[str, object]]:
        """Return the sequence and the states of the last committed checkpoint, or (0, {})."""
        rows = self.db.execute("SELECT name, sequence, json FROM state").fetchall()
        states = {name: orjson.loads(json) for name, _, json in rows}
        return (rows[0][1] if rows else 0), states

    def last_ns(self, stream: str) -> int | None:
        """Return the time of the last row ever appended to a stream, or None."""
        return self._last.get(stream)

    @property
    def newest_ns(self) -> int:
        """The newest committed time of any raw row, or 0; the clock must not begin before it."""
        return self.ledger.totals["newest_ns"]

    # -- the readers' side ------------------------------------------------------------------------

    def reader(self, name: str) -> "Reader":
        """Return a declared reader."""
        return self._readers[name]

    def counts(self) -> LogCounts:
        """Return the committed counts, all of one moment."""
        try:
            ledger = self._stored()
        except sqlite3.DatabaseError as e:
            log.debug("counts as last committed: %s", e)  # ``fault`` tells of the disk
            ledger = self.ledger
        totals = ledger.totals
        readers = {
            name: ReaderCounts(p.appended, p.delivered, p.refused, p.pending, p.dropped)
            for name, p in ledger.readers.items()
        }
        names = ("appended", "read", "substituted", "derived", "dropped")
        size = totals["raw_bytes"] + totals["derived_bytes"]
        return LogCounts(**{n: totals[n] for n in names}, bytes=size, readers=readers)

    def _stored(self) -> Ledger:
        """Return the ledger as it stands in the file, pending rows counted."""
        with transaction(self.db, "DEFERRED"):
            totals: dict[str, int] = dict(self.db.execute("SELECT name, value FROM total"))
            stored = positions(self.db)
            for name, position in stored.items():
                if totals["committed"] - position.cursor <= RECOUNT:
                    spans = between(position.passed)
                    position.pending = sum(self._count(name, span) for span in spans)
        return Ledger(totals, stored)

    def _count(self, name: str, span: Span) -> int:
        """Return the stored rows with a number in the span that a reader takes."""
        counts = (self.db.execute(on(t, _COUNT), (*span, name)) for t in ("raw", "derived"))
        return int(sum(count.fetchone()[0] for count in counts))

    @property
    def fault(self) -> str:
        """What is wrong with the disk now, or nothing."""
        faults = (
            self._committer.fault,
            self.read_fault,
            *(r.fault for r in self._readers.values()),
        )
        return next(filter(None, faults), "")

    @property
    def commits(self) -> Commits:
        """How many commits there were since the start and how long they took."""
        return self._committer.commits

    @property
    def damage(self) -> str:
        """What a person should know of a damaged file that was set aside, or nothing."""
        return damage(self.path)

    @property
    def ledger(self) -> Ledger:
        """The totals and cursors as last committed."""
        return self._store.ledger

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to commit."""
        self._committer.start()

    async def flush(self) -> None:
        """Return when everything appended, acknowledged or checkpointed so far is committed."""
        self.check()
        await self._committer.flush()

    def explain(self, error: sqlite3.DatabaseError) -> str:
        """Return what is wrong in plain words; a damaged file is set aside at the next start."""
        return self._committer.explain(error)

    async def close(self) -> None:
        """Commit what waits, end the committer and let the file go; any number of times."""
        if self._closed:
            return
        self._closed = True
        await self._committer.stop()
        self.db.close()
        try:
            await asyncio.to_thread(self._store.close)
        except sqlite3.Error as e:
            log.error("the log %s could not be closed in order: %s", self.path, e)
        self.check()

    def check(self) -> None:
        """Raise what has ended the committer, if it was a bug."""
        if self._committer.bug is not None:
            raise RuntimeError("the log is stopped by a bug") from self._committer.bug

    def _in_hand(self) -> list[tuple[str, Row]]:
        """Return the records that readers were handed, by table; called by the committer too."""
        records = [r for reader in self._readers.values() for r in reader.in_hand]
        schemas = self._store.known
        rows = []
        for r in records:
            known = schemas[r.schema]
            row = (r.sequence, known.number, r.first_ns, r.last_ns, r.rows, r.payload)
            rows.append((table_of(known.schema.family), row))
        return rows

    def _woken(self) -> None:
        if self._epoch != self._store.epoch:
            try:
                self.reopen()
            except ConfigError as e:
                log.debug("%s", e)  # what is wrong is told where it is written
            else:
                self._epoch = self._store.epoch
        for reader in self._readers.values():
            reader.wake()


def _taken(left: dict[str, int], blocks: Iterable[SampleBlock]) -> dict[str, int]:
    """Take the counts of some blocks out of those of their push, and return them."""
    taken = dict[str, int]()
    for block in blocks:
        rows = len(block)
        for name in ("derived",) if block.schema.family.derived else ("read", "substituted"):
            part = min(rows, left.get(name, 0))
            taken[name] = taken.get(name, 0) + part
            left[name] = left.get(name, 0) - part
            rows -= part
    return taken
