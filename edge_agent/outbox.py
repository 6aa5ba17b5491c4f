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
import math
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import orjson

from edge_agent import codec
from edge_agent.database_files import damage
from edge_agent.errors import ConfigError
from edge_agent.health import Commits, LogCounts, ReaderCounts
from edge_agent.model import Quality, SampleBlock
from edge_agent.outbox_archive import Archive
from edge_agent.outbox_budget import Budget
from edge_agent.outbox_committer import RETRY, Committer
from edge_agent.outbox_salvage import Row
from edge_agent.outbox_schema import (
    Ack,
    Aside,
    Entry,
    Ledger,
    Marker,
    Position,
    Push,
    ReaderSpec,
    Record,
    on,
    positions,
    table_of,
    transaction,
)
from edge_agent.outbox_spans import START, Span, between, joined
from edge_agent.outbox_store import open_store

__all__ = ["Archive", "Aside", "Budget", "Marker", "Outbox", "Reader", "ReaderSpec", "Record"]

log = logging.getLogger(__name__)

RECENT = 400_000  # values of appended blocks that are kept in memory, 9 bytes each
ISLANDS = 64  # outages behind each other that a reader keeps apart; then all goes in order again
STEP = 4096  # numbers that a reader looks at in one go: to look at more would hold up the loop
VALUES = (
    1 << 18
)  # that are handed out at once, but for a single record: 9 bytes each, or 20 as JSON
TURN = 1.0  # seconds after which a backlog that may go on does so although live rows never pause
RECOUNT = 1000  # sequence numbers behind a cursor that ``counts`` counts again: 1 ms
_TAKE = """SELECT sequence, schema, first_ns, last_ns, rows, payload FROM raw
  WHERE sequence > ?1 AND sequence <= ?2 AND schema IN (SELECT schema FROM takes WHERE reader = ?3)
UNION ALL SELECT sequence, schema, first_ns, last_ns, rows, payload FROM derived
  WHERE sequence > ?1 AND sequence <= ?2 AND schema IN (SELECT schema FROM takes WHERE reader = ?3)
ORDER BY 1 LIMIT ?4"""
_COUNT = """SELECT coalesce(sum(rows), 0) FROM log
  WHERE sequence > ?1 AND sequence <= ?2
  AND schema IN (SELECT schema FROM takes WHERE reader = ?3)"""
_GAPS = """SELECT schema, first_ns, last_ns, rows, reason, sequence FROM gap
  WHERE reader = ?3 AND sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?4"""


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


class _Age:
    """Tells which rows were committed longer ago than so many seconds; None: no row ever is.

    It keeps a few moments, each with the number that was committed by then or soon after. What
    waited when the log was opened is as old as its oldest row may be.
    """

    def __init__(self, seconds: float | None, position: Position) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._moments = deque[tuple[float, int]]()
        self._before = position.waiting_ns

    def note(self, committed: int) -> None:
        """Take down that all up to this number is committed now."""
        now, moments = time.monotonic(), self._moments
        if not moments:
            waited = max(0.0, (time.time_ns() - self._before) / 1e9)
            moments.append((now - waited, committed))
        elif now - moments[-1][0] >= self._seconds / 16:
            moments.append((now, committed))
        else:  # there may be no other commit for long
            moments[-1] = moments[-1][0], committed

    @property
    def old(self) -> int:
        """All up to this number was committed so long ago."""
        horizon, moments = time.monotonic() - self._seconds, self._moments
        while len(moments) > 1 and moments[1][0] <= horizon:
            moments.popleft()
        return moments[0][1] if moments and moments[0][0] <= horizon else 0


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


class Reader:
    """The place of one reader in the rows that it takes; used by one task.

    ``live`` is the lane behind what it has passed last; ``backlog`` what was left out before it.

    share  bytes of payload that are handed out at most at a time, but for a single record
    """

    def __init__(self, outbox: Outbox, committer: Committer, spec: ReaderSpec, share: int) -> None:
        self._outbox = outbox
        self._committer = committer
        self._name = spec.name
        self._age = _Age(spec.live_first, outbox.ledger.readers[spec.name])
        self._share = share
        self._passed = outbox.ledger.readers[spec.name].passed
        self._handed: list[Record | Marker] = []
        self._from = 0  # what was handed out stands behind this number …
        self._behind = False  # … and comes behind live rows
        self._turn = math.inf  # monotonic time at which the backlog goes before live rows
        self._skipped = dict[int, Marker]()  # in place of damaged records, by sequence
        self._acknowledged = 0  # rows, since the log was opened
        self._age.note(outbox.ledger.totals["committed"])
        self._event = asyncio.Event()
        self.fault = ""

    def wake(self) -> None:
        """Look again for rows: something was committed."""
        self._age.note(self._outbox.ledger.totals["committed"])
        self._event.set()

    @property
    def in_hand(self) -> list[Record]:
        """Records that were handed out and are not acknowledged."""
        return [item for item in self._handed if isinstance(item, Record)]

    @property
    def lag(self) -> int:
        """Committed rows that are not acknowledged."""
        committed = self._outbox.ledger.readers[self._name]
        return committed.pending - (self._acknowledged - committed.acknowledged)

    @property
    def backlog(self) -> int:
        """Those of them that come behind live rows, as last committed; 0 with one lane."""
        return self._outbox.ledger.readers[self._name].backlog

    @property
    def _owes(self) -> bool:
        """Whether what was acknowledged is not committed: a kill now would repeat it."""
        return self._acknowledged > self._outbox.ledger.readers[self._name].acknowledged

    @property
    def split(self) -> bool:
        """Whether there are two lanes."""
        return len(self._passed) > 1

    @property
    def behind(self) -> bool:
        """Whether what was taken last comes behind live rows."""
        return self._behind

    async def take(
        self, limit: int, *, backlog: int | None = None, not_before: float = 0.0
    ) -> list[Record | Marker]:
        """Return the next committed items, at least one and the same until they are acknowledged.

        A record that fails its checksum comes as a gap and counts as dropped. What was acknowledged
        is committed when more is handed out, so a kill repeats one batch at most.

        limit       of items; of the backlog: ``backlog``, if given
        not_before  monotonic time before which none of the backlog is handed out
        """
        late = limit if backlog is None else backlog
        while True:
            self._event.clear()
            self._outbox.check()
            before = self._passed
            now = time.monotonic()  # one moment for all: what may not go now is waited for
            try:
                self._handed = self._some(limit, late, not_before, now)
                self.fault = ""
            except sqlite3.DatabaseError as e:
                self._handed, self.fault = [], self._outbox.explain(e)
                asyncio.get_running_loop().call_later(RETRY, self.wake)
            if self._handed:
                if self._owes:
                    await self._committer.flush(rows=False)
                return list(self._handed)
            if self._passed != before:  # rows of others; there may be some of its own behind
                await asyncio.sleep(0)
                continue
            wait = not_before - now if self.split else 0.0
            with suppress(TimeoutError):
                async with asyncio.timeout(wait if wait > 0 else None):
                    await self._event.wait()

    def _some(self, limit: int, late: int, not_before: float, now: float) -> list[Record | Marker]:
        """Return what is next of one of the lanes, or nothing.

        Live rows go first; where they never pause, the backlog has a turn each ``TURN`` seconds.
        """
        if self.split and now >= max(not_before, self._turn) and (items := self._late(late)):
            return items
        if items := self._next(limit):
            if self.split and now >= not_before:
                self._turn = min(self._turn, now + TURN)
            return items
        return self._late(late) if self.split and now >= not_before else []

    def _next(self, limit: int) -> list[Record | Marker]:
        """Return what is next of the live lane; split it if that is old."""
        items = self._look(between(self._passed)[-1], limit)
        if items and items[0].sequence <= self._age.old and len(self._passed) <= ISLANDS:
            self.part()
            items = self._look(between(self._passed)[-1], limit)
        self._behind = False
        return items

    def part(self) -> None:
        """Go on with what is committed from now on; what waits becomes backlog."""
        committed = self._outbox.ledger.totals["committed"]
        first, *islands = self._passed
        # an island on which nothing was passed parts nothing: a peer that answers but takes
        # nothing would use them all up
        self._passed = (first, *(span for span in islands if span[0] < span[1]))
        self._pass((committed, committed), Ack())

    def _late(self, limit: int) -> list[Record | Marker]:
        """Return what is next of the backlog; where there is none left, the lanes merge."""
        items = self._look(between(self._passed)[0], limit)
        if items:
            self._behind, self._turn = True, math.inf
        return items

    def _look(self, lane: Span, limit: int) -> list[Record | Marker]:
        """Return what is next of a lane, within ``STEP`` numbers; pass those where nothing is.

        Nothing behind ``committed`` is looked at, though it may stand in the file already: the
        counts do not know of it yet, and a marker there may be in front of rows that are to come.
        """
        outbox, generation = self._outbox, self._committer.generation
        self._skipped.clear()  # those of an earlier look were not acknowledged
        start = lane[0]
        reach = min(lane[1], outbox.ledger.totals["committed"], start + STEP)
        asked = (start, reach, self._name, limit)
        items, whole = self._records(asked)
        last = reach if whole else items[-1].sequence
        markers = [outbox.marker(row) for row in outbox.db.execute(_GAPS, asked).fetchall()]
        items += [marker for marker in markers if marker.sequence <= last]
        items = sorted(items, key=lambda item: item.sequence)[:limit]
        end = max(start, items[-1].sequence if items else reach)
        if not self._committer.hand_out(self._name, joined(self._passed, (start, end)), generation):
            return []  # rows are leaving just now: look again after the commit
        self._from = start
        if not items and end > start:  # only rows of others so far
            self._pass((start, end), Ack())
        return items

    def _pass(self, span: Span, ack: Ack) -> None:
        self._passed = ack.passed = joined(self._passed, span)
        self._committer.acknowledge(self._name, ack)

    def _records(self, asked: tuple[int, int, str, int]) -> tuple[list[Record | Marker], bool]:
        """Return the next records, the damaged ones as markers, as far as share and values go.

        The second says whether these are all: otherwise a marker behind them must wait, or the
        reader would pass what lies between.
        """
        outbox = self._outbox
        items: list[Record | Marker] = []
        size = values = 0
        with closing(outbox.db.execute(_TAKE, asked)) as rows:
            for row in rows:
                record = outbox.record(row)
                size += len(record.payload)
                values += record.rows * len(outbox.schema(record.schema).tags)
                if items and (size > self._share or values > VALUES):
                    return items, False
                if codec.intact(record.payload):
                    items.append(record)
                else:
                    items.append(self.skip(record))
        return items, len(items) < asked[-1]

    def skip(self, record: Record) -> Marker:
        """Count a record that does not decode as dropped; return the gap that stands for it.

        The count is written when the record is acknowledged.
        """
        schema = self._outbox.schema(record.schema)
        times = (record.first_ns, record.last_ns)
        marker = Marker(schema, *times, record.rows, "corrupt", record.sequence)
        self._skipped[record.sequence] = marker
        return marker

    def acknowledge(
        self, sequence: int, *, delivered: int, refused: int = 0, aside: Sequence[Aside] = ()
    ) -> None:
        """Move behind a record of those handed out last; written with the next commit.

        delivered, refused  rows of sample blocks; gap markers and skipped records are not counted.
        Markers handed out behind the last record, and those of a batch without any, go with it.

        aside  the rows that are refused, to be kept where a person sees them
        """
        left = [item for item in self._handed if item.sequence > sequence]
        if left and not any(isinstance(item, Record) for item in left):
            sequence, left = left[-1].sequence, []
        markers = len(self._handed) - len(left)
        self._handed = left
        dropped = [number for number in self._skipped if self._from < number <= sequence]
        skipped = list(map(self._skipped.pop, dropped))
        ack = Ack(START, delivered, refused, markers, list(aside), skipped)
        self._acknowledged += ack.rows
        self._pass((self._from, sequence), ack)
        self._from = sequence
