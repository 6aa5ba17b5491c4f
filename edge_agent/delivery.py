"""Delivers what the log holds to one sink: pace, retry and reconnect, for every kind of sink.

After an outage the newest rows go first and the rest follows behind them (``outbox_reader.py``).
That backlog has at most half of the sink's time, in pieces that take no longer than ``PIECE``, so
that live rows find the sink free.
"""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from edge_agent.clock import Clock
from edge_agent.errors import Corrupt, Disconnected, Refusal, Rejected
from edge_agent.guard import FAILED_PAUSE, Backoff, PlugInFailed, note_down, plug_in
from edge_agent.health import SinkHealth, State
from edge_agent.model import Gap, SampleBlock, concatenate
from edge_agent.outbox import Aside, Marker, Outbox, Reader, Record
from edge_agent.sinks.base import Item, Sink

log = logging.getLogger(__name__)

RECORDS = 64  # that are handed to a sink at once, at most: a sink writes their text in one go
FIRST = 64  # of the backlog, before it is known how long they take
MOST = 512  # of the backlog: to take more at once would hold up the loop
PIECE = 0.25  # seconds that one write of the backlog should take
ROUND_TRIP = 1.0  # seconds; a single record that takes longer is too much for the link
DECODED = 32  # records, or so many times ``JOINED`` values, after which others have their turn
REASON = 1000  # characters of a peer's reason that are kept
JOINED = 4096  # values of one stream that are handed over as one block: some 50 kB of JSON


async def run_sink(  # noqa: PLR0917 - each is another part of the agent
    health: SinkHealth,
    sink: Sink,
    reader: Reader,
    outbox: Outbox,
    clock: Clock,
    rate: float | None = None,
) -> NoReturn:
    """Deliver what the reader of the log has, for ever; ends only by cancellation.

    rate  rows of backlog per second, at most; None: as many as half of the time allows
    """
    delivery = _Delivery(health, sink, reader, outbox, clock)
    backoff, pace, down_since = Backoff(), _Pace(rate), None
    try:
        while True:
            try:
                await plug_in(sink.connect())
                health.state, health.error, health.since_ns = State.UP, "", clock.wall_ns()
                while True:
                    await _deliver(delivery, pace)
                    backoff.reset()
                    if down_since is not None:
                        seconds = clock.monotonic() - down_since
                        log.info("%s is back after %.1f s", health.name, seconds)
                        down_since = None
            except (Disconnected, PlugInFailed) as e:
                note_down(health, e, said=down_since is not None)
                if down_since is None:
                    down_since, health.since_ns = clock.monotonic(), clock.wall_ns()
                await _close(sink)
                if isinstance(e, PlugInFailed):
                    await clock.sleep(FAILED_PAUSE)
                else:
                    await clock.sleep(backoff.next(e.retry_after) * clock.speed)
    finally:
        await _close(sink)
        health.state = State.STOPPED


@dataclass(frozen=True)
class _Delivery:
    """One sink and the reader of the log that it is fed from."""

    health: SinkHealth
    sink: Sink
    reader: Reader
    outbox: Outbox
    clock: Clock


@dataclass
class _Pace:
    """How much is handed over at once, and when the next piece of the backlog may be.

    rate     rows of backlog per second at most, or None
    records  in the next piece of the backlog, at most
    live     live records in the next piece, at most
    moment   monotonic time before which there is no backlog
    fixed    seconds that a write takes whatever is in it, as far as is known
    """

    rate: float | None
    records: int = FIRST
    live: int = RECORDS
    moment: float = 0.0
    fixed: float = math.inf

    def note(self, records: int, rows: int, seconds: float) -> None:
        """Take down what a piece has taken.

        A far peer's round trip is no reason for smaller pieces: they would shrink to one record.
        """
        allowed = 0.0 if self.rate is None else rows / self.rate  # seconds for so many rows
        self.fixed = min(seconds, ROUND_TRIP) if records == 1 else min(self.fixed, seconds)
        own = seconds if self.fixed == seconds > PIECE and records > 1 else seconds - self.fixed
        fitting = round(records * PIECE / max(own, allowed, 1e-4))
        self.records = max(1, min(MOST, 2 * self.records, fitting))
        self.moment = time.monotonic() + max(seconds, allowed - seconds)

    def fail(self, records: int) -> None:
        """Hand over less: on a link that has become slow the same might fail for ever."""
        self.records = self.live = max(1, records // 2)

    def pass_live(self, seconds: float) -> None:
        """Take down that live rows were taken, and how fast."""
        self.live = min(RECORDS, 2 * self.live)
        self.fixed = min(self.fixed, seconds)


@dataclass
class _Batch:
    """What is handed to a sink at once.

    numbers  of each item, the number in the log of its newest record
    rows     of all blocks; a gap marker stands for rows that are counted as dropped
    """

    items: list[Item]
    numbers: list[int]

    @property
    def rows(self) -> int:
        return sum(len(item) for item in self.items if isinstance(item, SampleBlock))


async def _deliver(delivery: _Delivery, pace: _Pace) -> None:
    """Hand the next records to the sink and move behind them."""
    health, reader, outbox = delivery.health, delivery.reader, delivery.outbox
    records = await reader.take(pace.live, backlog=pace.records, not_before=pace.moment)
    began = time.monotonic()
    batch = await _read(records, reader, outbox)
    aside = list[Aside]()
    try:
        await plug_in(delivery.sink.write(batch.items, backlog=reader.behind), Rejected)
    except Rejected as e:
        now_ns = delivery.clock.wall_ns()
        aside = _aside(e.refusals, batch, health.name, now_ns)
        _note_refusal(health, e.refusals[0], batch, now_ns)
    except Disconnected:
        pace.fail(len(records))
        raise
    refused = sum(len(rows.block) for rows in aside)
    delivered = batch.rows - refused
    last = records[-1].sequence
    reader.acknowledge(last, delivered=delivered, refused=refused, aside=aside)
    seconds = time.monotonic() - began
    if reader.behind:
        pace.note(len(records), batch.rows, seconds)
    else:
        pace.pass_live(seconds)


def _note_refusal(health: SinkHealth, first: Refusal, batch: _Batch, now_ns: int) -> None:
    if not health.last_refusal:
        stream = batch.items[first.item].schema.stream
        log.error("%s refuses rows of %s: %s", health.name, stream, first.reason)
    health.last_refusal, health.refused_ns = first.reason, now_ns


async def _read(records: Sequence[Record | Marker], reader: Reader, outbox: Outbox) -> _Batch:
    """Return the records as items, those of one stream as one block: ten cost hardly more than one.

    A stream's order stays: a gap marker, another schema or ``JOINED`` values begin a new item.
    """
    parts, numbers = list[list[SampleBlock] | Gap](), list[int]()
    places = dict[str, tuple[int, int]]()  # by stream: what its rows may be joined to, its values
    decoded = 0
    for record in records:
        item = record if isinstance(record, Gap) else _block(record, reader, outbox)
        values = item.value.size if isinstance(item, SampleBlock) else JOINED
        place, size = places.get(item.schema.stream, (-1, JOINED + 1))
        before = parts[place] if size + values <= JOINED else None
        if (
            isinstance(item, SampleBlock)
            and isinstance(before, list)
            and item.schema.id == before[0].schema.id
        ):
            before.append(item)
            numbers[place] = record.sequence
            places[item.schema.stream] = place, size + values
        else:
            places[item.schema.stream] = len(parts), values
            parts.append(item if isinstance(item, Gap) else [item])
            numbers.append(record.sequence)
        decoded += max(values, JOINED)
        if decoded >= DECODED * JOINED:
            decoded = 0
            await asyncio.sleep(0)
    return _Batch([p if isinstance(p, Gap) else concatenate(p) for p in parts], numbers)


def _block(record: Record, reader: Reader, outbox: Outbox) -> Item:
    """Return the block of a record, or the gap that stands for it if it is damaged."""
    try:
        return outbox.block(record)
    except Corrupt as e:
        log.error("record %d of the log is damaged: %s", record.sequence, e)
        return reader.skip(record)


def _aside(refusals: Sequence[Refusal], batch: _Batch, name: str, now_ns: int) -> list[Aside]:
    """Return the refused rows with their reasons; a refused gap marker has none.

    A row that is named twice keeps its first reason, or it would be counted twice.

    errors  ``PlugInFailed``: the sink names no rows, or some that it was not handed
    """
    if not refusals:
        raise PlugInFailed("it refuses rows and names none")
    found, named = list[Aside](), dict[int, set[int]]()
    for refusal in refusals:
        if not 0 <= refusal.item < len(batch.items):
            raise PlugInFailed(f"it refuses item {refusal.item} of {len(batch.items)}")
        item, before = batch.items[refusal.item], named.setdefault(refusal.item, set())
        if isinstance(item, Gap):
            continue
        rows = sorted(set(map(int, refusal.rows)) - before)
        if not rows:
            continue
        if not 0 <= rows[0] <= rows[-1] < len(item):
            raise PlugInFailed(f"it refuses rows of {item.schema.stream} that it was not handed")
        before.update(rows)
        number, reason = batch.numbers[refusal.item], refusal.reason[:REASON]
        found.append(Aside(name, number, now_ns, reason, item.pick(np.array(rows))))
    return found


async def _close(sink: Sink) -> None:
    with suppress(Disconnected, PlugInFailed):
        await plug_in(sink.close(), closing=True)
