"""Delivers what the log holds to one sink: pace, retry and reconnect, for every kind of sink."""

import logging
from contextlib import suppress
from typing import NoReturn

from edge_agent.clock import Clock
from edge_agent.errors import Corrupt, Disconnected, Rejected
from edge_agent.guard import FAILED_PAUSE, Backoff, PlugInFailed, note_down, plug_in
from edge_agent.health import SinkHealth, State
from edge_agent.model import Gap
from edge_agent.outbox import Outbox, Reader
from edge_agent.sinks.base import Item, Sink

log = logging.getLogger(__name__)

RECORDS = 64  # that are handed to a sink at once, at most


async def run_sink(
    health: SinkHealth, sink: Sink, reader: Reader, outbox: Outbox, clock: Clock
) -> NoReturn:
    """Deliver what a reader of the log has, for ever; ends only by cancellation."""
    backoff, down_since = Backoff(), None
    try:
        while True:
            try:
                await plug_in(sink.connect())
                health.state, health.error, health.since_ns = State.UP, "", clock.wall_ns()
                while True:
                    await _deliver(health, sink, reader, outbox)
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
                failed = isinstance(e, PlugInFailed)
                await clock.sleep(FAILED_PAUSE if failed else backoff.next() * clock.speed)
    finally:
        await _close(sink)
        health.state = State.STOPPED


async def _deliver(health: SinkHealth, sink: Sink, reader: Reader, outbox: Outbox) -> None:
    """Hand the next records to the sink and move the cursor behind them."""
    records = await reader.take(RECORDS)
    items: list[Item] = []
    rows: list[int] = []  # a gap marker stands for rows that are counted as dropped
    for record in records:
        if isinstance(record, Gap):
            items.append(record)
            rows.append(0)
            continue
        try:
            items.append(outbox.block(record))
            rows.append(record.rows)
        except Corrupt as e:
            log.error("record %d of the log is damaged: %s", record.sequence, e)
            items.append(reader.skip(record))
            rows.append(0)
    refused = 0
    try:
        await plug_in(sink.write(items), Rejected)
    except Rejected as e:
        refused = sum(len(refusal.rows) for refusal in e.refusals)
        first = e.refusals[0]
        if not health.last_refusal:
            stream = items[first.item].schema.stream
            log.error("%s refuses rows of %s: %s", health.name, stream, first.reason)
        health.last_refusal = first.reason
    last = records[-1].sequence
    reader.acknowledge(last, delivered=sum(rows) - refused, refused=refused)


async def _close(sink: Sink) -> None:
    with suppress(Disconnected, PlugInFailed):
        await plug_in(sink.close(), closing=True)
