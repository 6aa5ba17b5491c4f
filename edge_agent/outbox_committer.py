"""The thread that writes the log of ``outbox.py``, and what waits for it in memory."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice

from edge_agent.database_files import FRAME, damage_flag
from edge_agent.health import Commits
from edge_agent.outbox_opening import Handed
from edge_agent.outbox_schema import Ack, Batch, Known, Lost, Push
from edge_agent.outbox_spans import START, Spans
from edge_agent.outbox_store import Store

log = logging.getLogger(__name__)

BATCH = 1 << 20  # bytes: a commit is due, whatever its age, and takes hardly more
MEMORY = 64 << 20  # bytes that wait for the disk; beyond, the oldest raw rows are dropped
RECENT = 256  # commits whose durations are kept
Waiter = tuple[int, asyncio.Future[None]]  # the last push that it waits for, or 0: only for acks
RETRY = 1.0  # seconds between two attempts on a disk that fails


class Committer:
    """What waits for the next commits, and the thread that makes them.

    period  seconds that the oldest thing may wait
    woken   called in the loop after each commit
    handed  the rows that readers have in hand
    """

    def __init__(
        self, store: Store, period: float, woken: Callable[[], None], handed: Handed
    ) -> None:
        self._store = store
        self._period = period
        self._woken = woken
        self._handed = handed
        self._batch = store.budget.wal_bytes // 8  # bytes, beside those of ``BATCH``
        self._changed = threading.Condition()  # guards all below
        self._queue = deque[Push]()
        self._bytes = 0
        self._tickets = 0
        self._next = Batch()  # what the next commit writes beside the pushes
        self._unsure: Batch | None = None  # it failed, and may be in the file or not …
        self._unsure_for: list[Waiter] = []  # … and who wants to hear of it
        self._full = False  # there was no room for rows: acknowledgements may still have some
        self._damage = ""  # what was found wrong with the file
        self._busy = 0  # pushes at the head of the queue that are being written
        self._due: float | None = None  # monotonic time of the next commit
        self._not_before = 0.0
        self._stopping = self._gave_up = False
        self._shedding = False  # rows that readers wait for are being dropped
        self._taken = dict[str, Spans](dict.fromkeys(store.specs, START))
        self._waiting: list[Waiter] = []
        self._took = deque[float](maxlen=RECENT)  # seconds of the last commits
        self._commits, self._seconds = 0, 0.0
        self.generation = 0
        self.fault = ""
        self.bug: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # -- called by the event loop -----------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Commit what waits, trying once, and end the thread."""
        if self._thread is None:
            self.start()
        with self._changed:
            self._stopping = True
            if self._next.acks:  # one that waited for a commit of rows
                self._set_due(0.0)
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        for _, future in self._waiting:
            future.cancel()  # what it waits for will not be

    def put(self, push: Push) -> None:
        """Put a push on the next batch."""
        with self._changed:
            self._tickets += 1
            push.ticket = self._tickets
            self._queue.append(push)
            self._bytes += push.size
            if self._bytes > MEMORY:
                self._shed()
            self._set_due(0.0 if self._bytes >= min(BATCH, self._batch) else self._period)

    def learn(self, known: Known) -> None:
        """Put a new schema on the next batch."""
        with self._changed:
            self._next.schemas.append(known)

    def acknowledge(self, name: str, ack: Ack) -> None:
        """Put a reader's step on the next batch; one over rows of others only can wait for it."""
        with self._changed:
            self._next.acks.setdefault(name, Ack()).add(ack)
            self._next.steps += 1
            if ack.rows or ack.markers:
                many = self._next.steps * 64 * FRAME > self._batch  # each deletes so many rows
                self._set_due(0.0 if many else self._period)

    def checkpoint(self, sequence: int, states: Mapping[str, object]) -> None:
        """Put a checkpoint on the batch that holds its sequence."""
        with self._changed:
            self._next.checkpoint = (sequence, states)
            self._set_due(self._period)

    async def flush(self, *, rows: bool = True) -> None:
        """Return when everything put so far is committed; else only what was acknowledged."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._waiting.append((self._tickets if rows else 0, done))
            self._set_due(0.0)
        await done

    def hand_out(self, name: str, spans: Spans, generation: int) -> bool:
        """Note what a reader has had or is handed; False if it may be gone since it was read."""
        with self._changed:
            if self._shedding or generation != self.generation:
                return False
            self._taken[name] = spans
            return True

    @property
    def commits(self) -> Commits:
        """How many commits there were and how long they took, the disk's answer included."""
        with self._changed:
            return Commits(self._commits, self._seconds, tuple(self._took))

    def _set_due(self, seconds: float) -> None:
        due = time.monotonic() + seconds
        if self._due is None or due < self._due:
            self._due = due
            self._changed.notify()

    def _shed(self) -> None:
        """Drop the oldest rows in memory, raw ones first, down to seven eighths of the bound.

        Derived ones stay while a batch is being written: it may hold raw ones that can go soon.
        """
        for derived in (False, True):
            if derived and self._busy and self._bytes <= MEMORY + 2 * BATCH:
                break
            for push in islice(self._queue, self._busy, None):
                if self._bytes <= MEMORY // 8 * 7:
                    break
                self._bytes -= push.size
                for entry in push.entries:
                    if entry.known.schema.family.derived == derived:
                        self._next.lose(Lost.of(entry))
                push.keep(not derived)
                self._bytes += push.size
        empty = [push for push in islice(self._queue, self._busy, None) if not push.entries]
        for push in empty:
            self._bytes -= push.size
            self._next.count(push)
        if empty:
            gone = {push.ticket for push in empty}
            self._queue = deque(push for push in self._queue if push.ticket not in gone)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait():
                self._commit()
        except BaseException as e:  # a bug: whoever calls next is told
            self.bug = e
            self._tell([])
            raise

    def _wait(self) -> bool:
        """Return when a commit is due; False when it is time to end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                due = None if self._due is None else max(self._due, self._not_before)
                if due is not None and due <= now:
                    return True
                self._changed.wait(None if due is None else due - now)
            return self._due is not None and not self._gave_up

    def _commit(self) -> None:
        batch, waiting = self._begin()
        began = time.monotonic()
        try:
            self._write(batch)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except (sqlite3.DatabaseError, OSError) as e:
            self._failed(batch, waiting, e)
        else:
            self._succeeded(batch, waiting, time.monotonic() - began)

    def _write(self, batch: Batch) -> None:
        """Write a batch; into a new file, if the old one is found damaged or gone."""
        try:
            self._mend()
            self._store.commit(batch, self._held)
        except (sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise
        except sqlite3.DatabaseError as e:
            self._damage = str(e)
            self._mend()
            self._store.commit(batch, self._held)

    def _mend(self) -> None:
        if self._damage and not self._store.readable():
            self._damage = ""
            raise sqlite3.OperationalError("its disk does not let it be read")
        if self._damage:
            self._held()
            self._store.mend(self._damage, self._handed)
            self._damage = ""

    def _begin(self) -> tuple[Batch, list[Waiter]]:
        """Return what is to be written now, and who wants to hear of it."""
        with self._changed:
            if self._unsure is not None:
                self._due = time.monotonic()
                return self._unsure, self._unsure_for
            if self._full and self._next.acks:
                self._full = False
                self._due = time.monotonic()
                batch = Batch(acks=self._next.acks, steps=self._next.steps)
                self._next.acks, self._next.steps = {}, 0
                return batch, [entry for entry in self._waiting if not entry[0]]
            batch, self._next = self._next, Batch()
            size = 0
            for push in self._queue:
                if size >= min(BATCH, self._batch):
                    break
                batch.pushes.append(push)
                size += push.size
            self._busy = len(batch.pushes)
            rest = len(self._queue) > self._busy
            batch.whole = not rest
            self._due = time.monotonic() if rest else None
            if rest and batch.checkpoint and batch.checkpoint[0] > batch.pushes[-1].last:
                self._next.checkpoint, batch.checkpoint = batch.checkpoint, None
            return batch, list(self._waiting)

    def _held(self) -> Mapping[str, Spans]:
        """Keep rows from being handed out until the commit is over; return which were."""
        with self._changed:
            self._shedding = True
            return dict(self._taken)

    def _end(self, written: int) -> None:
        for _ in range(written):
            self._bytes -= self._queue.popleft().size
        self._busy = 0
        self._shedding = False
        self.generation += 1

    def _succeeded(self, batch: Batch, waiting: list[Waiter], took: float) -> None:
        with self._changed:
            self._end(len(batch.pushes))
            self._took.append(took)
            self._commits, self._seconds = self._commits + 1, self._seconds + took
            left = self._queue[0].ticket if self._queue else self._tickets + 1
            done = [entry for entry in waiting if entry[0] < left]
            self._waiting = [entry for entry in self._waiting if entry not in done]
            self._not_before = 0.0
            self._unsure = None
            fault = self.fault
            if batch.pushes or not self._queue:
                self.fault = self._store.trouble
        if fault and not self.fault:
            log.info("the log %s is written again", self._store.path)
        elif self.fault != fault:
            log.error("%s", self.fault)
        self._tell([future for _, future in done])

    def _failed(
        self, batch: Batch, waiting: list[Waiter], error: sqlite3.DatabaseError | OSError
    ) -> None:
        said = self.explain(error)
        with self._changed:
            if self._store.unsure:
                self._unsure, self._unsure_for = batch, waiting
            else:
                self._full, self._unsure = True, None
                batch.extend(self._next)
                self._next = batch
                self._end(0)
                if self._bytes > MEMORY:
                    self._shed()
            self._not_before = time.monotonic() + RETRY
            self._due = self._not_before
            self._gave_up = self._stopping
            rows = sum(push.rows for push in self._queue)
            fault, self.fault = self.fault, said
        if self._gave_up:
            log.error("the log %s is closed without the last %d rows", self._store.path, rows)
        if fault != self.fault:
            log.error("%s", self.fault)
        self._tell([])

    def explain(self, error: sqlite3.DatabaseError | OSError) -> str:
        """Return what is wrong in plain words; a new file is begun in place of a damaged one."""
        path = self._store.path
        if isinstance(error, (sqlite3.OperationalError, OSError)):
            advice = "rows wait in memory; free some space, or mend the disk or its permissions"
            return f"the log {path} cannot be written: {error} ({advice})"
        if not self._store.readable():
            return f"the log {path} cannot be read: its disk does not let it be read"
        with suppress(OSError):  # for the next start, if there is no time now
            damage_flag(path).touch()
        with self._changed:
            self._damage = str(error)
            self._set_due(0.0)
        return f"the log {path} is damaged: {error} (a new one is begun)"

    def _tell(self, done: list[asyncio.Future[None]]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told, done)

    def _told(self, done: list[asyncio.Future[None]]) -> None:
        if self.bug is not None:
            failed, self._waiting = self._waiting, []
            for _, future in failed:
                if not future.done():
                    future.set_exception(RuntimeError(f"the log is stopped by a bug: {self.bug!r}"))
        for future in done:
            if not future.done():
                future.set_result(None)
        self._woken()
