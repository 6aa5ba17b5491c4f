"""What one reader of the log of ``outbox.py`` is handed, and how far it has come."""

import asyncio
import math
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from edge_agent import codec
from edge_agent.outbox_committer import RETRY, Committer
from edge_agent.outbox_schema import Ack, Aside, Marker, Position, ReaderSpec, Record
from edge_agent.outbox_spans import START, Span, between, joined

if TYPE_CHECKING:
    from edge_agent.outbox import Outbox

ISLANDS = 64  # outages behind each other that a reader keeps apart; then all goes in order again
STEP = 4096  # numbers that a reader looks at in one go: to look at more would hold up the loop
VALUES = 1 << 18  # handed out at once at most, but for a single record: 9 bytes each, 20 as JSON
TURN = 1.0  # seconds after which a backlog that may go on does so although live rows never pause
_TAKE = """SELECT sequence, schema, first_ns, last_ns, rows, payload FROM raw
  WHERE sequence > ?1 AND sequence <= ?2 AND schema IN (SELECT schema FROM takes WHERE reader = ?3)
UNION ALL SELECT sequence, schema, first_ns, last_ns, rows, payload FROM derived
  WHERE sequence > ?1 AND sequence <= ?2 AND schema IN (SELECT schema FROM takes WHERE reader = ?3)
ORDER BY 1 LIMIT ?4"""
_GAPS = """SELECT schema, first_ns, last_ns, rows, reason, sequence FROM gap
  WHERE reader = ?3 AND sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?4"""
_FIRST = """SELECT min(first) FROM (
  SELECT min(sequence) AS first FROM raw WHERE sequence > ?1
  UNION ALL SELECT min(sequence) FROM derived WHERE sequence > ?1
  UNION ALL SELECT min(sequence) FROM gap WHERE reader = ?2 AND sequence > ?1)"""


class Age:
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


class Reader:
    """The place of one reader in the rows that it takes; used by one task.

    ``live`` is the lane behind what it has passed last; ``backlog`` what was left out before it.

    share  bytes of payload that are handed out at most at a time, but for a single record
    """

    def __init__(
        self, outbox: "Outbox", committer: Committer, spec: ReaderSpec, share: int
    ) -> None:
        self._outbox = outbox
        self._committer = committer
        self._name = spec.name
        self._age = Age(spec.live_first, outbox.ledger.readers[spec.name])
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
            self._pass((start, max(end, self._gap(end, lane[1]))), Ack())
        return items

    def _gap(self, start: int, stop: int) -> int:
        """Return up to which number there is nothing: after damage numbers go on far above."""
        committed = self._outbox.ledger.totals["committed"]  # first: more may come meanwhile
        (first,) = self._outbox.db.execute(_FIRST, (start, self._name)).fetchone()
        return int(min(committed if first is None else first - 1, committed, stop))

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
