"""A process that starts agents which are killed: all but their devices is real.

It imports what an agent needs once and forks one when it is told so, so that a start takes
milliseconds and hundreds of kills fit into a test. Each agent opens the log, recovers, and delivers
to the broker and the database of its configuration; in place of drivers stands a load whose values
follow from their place in the stream, pushed as fast as the sinks take it.

What is said to it, a line each: ``run ROWS AHEAD`` (go on until every stream has so many rows,
then stop in order; the load is so many rows ahead of the sinks at most) and ``reap``. What it says:
``started PID``; ``opened JSON`` (the counts as found); ``flushed ROWS``: every stream has committed
so many; ``done``; ``ended STATUS``.

Where an agent is stands in a file that outlives it, a byte each: see ``Phase``.
"""

import asyncio
import ctypes
import gc
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

# imported by the agent when they are first used
import aiomqtt  # noqa: F401
import influxdb_client.client.influxdb_client
import influxdb_client.service.write_service  # noqa: F401
import isal.igzip  # noqa: F401
import numpy as np
import orjson

import edge_agent.agent as agent_module
from edge_agent.agent import HISTORY, Agent, links_of, metrics_of
from edge_agent.clock import SystemClock
from edge_agent.config import Config, load
from edge_agent.delivery import run_sink
from edge_agent.health import SinkHealth
from edge_agent.model import Kind, Quality, SampleBlock, Schema
from edge_agent.outbox_schema import Batch
from edge_agent.sinks.base import Item, Sink
from edge_agent.units import Size

START = 1_764_000_000_000_000_000  # 2025-11-24T16:00:00Z, ns
PR_SET_PDEATHSIG = 1  # prctl: no agent outlives this process
APART = 10  # rows between the shortest and the longest stream, hardly more
AHEAD = 800  # rows that a sink may be behind: enough that it always has something to deliver
PLANT = """
site: {id: works}
commit: 50ms
devices:
  em-kiln:
    connect: modbus+tcp://127.0.0.1:1502?unit=1
    poll: 5s
    rated: 4000
    tags:
      power:  {at: "hr:0", type: u16, unit: kW}
      energy: {at: "hr:1", type: u32, unit: kWh, kind: counter, modulus: 1e9}
  scale:
    connect: modbus+tcp://127.0.0.1:1502?unit=2
    poll: 5s
    tags:
      mass: {at: "hr:0", type: u32, unit: t, kind: counter, modulus: 1e9}
  packer:
    connect: modbus+tcp://127.0.0.1:1503?unit=1
    poll: 5s
    tags:
      state:  {at: "hr:0", type: u16, kind: state}
      bags:   {at: "hr:1", type: u32, unit: "{bag}", kind: counter}
      reject: {at: "hr:3", type: u32, unit: "{bag}", kind: counter}
metrics:
  clinker:
    type: energy
    output: scale.mass
    inputs: {electricity: [em-kiln.energy]}
    windows: [1min, 15min]
  line:
    type: oee
    state: packer.state
    states: {producing: [1], idle: [2], fault: [3], setup: [4], planned_stop: [5]}
    produced: packer.bags
    rejected: packer.reject
    ideal_cycle: 1.5s
    windows: [1min, 15min]
"""


class Phase(IntEnum):
    """What an agent does now; each has its byte, which is 1 while it is so."""

    OPENING = 0
    RECOVERING = 1
    COMMITTING = 2
    TO_BROKER = 3
    TO_INFLUX = 4
    TO_HISTORY = 5
    STOPPING = 6


SINKS = {"broker": Phase.TO_BROKER, "influx": Phase.TO_INFLUX, HISTORY: Phase.TO_HISTORY}


def say(text: str) -> None:
    """Write a line in one piece: a kill does not leave half of it."""
    os.write(1, f"{text}\n".encode())


# ---- the load ------------------------------------------------------------------------------------


def load_of(schema: Schema, first: int, rows: int) -> SampleBlock:
    """Return rows of a stream from a place on; some are of a device that did not answer."""
    place = np.arange(first, first + rows)
    k = len(schema.tags)
    value = np.empty((k, rows))
    for i, tag in enumerate(schema.tags):
        if tag.kind is Kind.COUNTER:
            value[i] = place * (i + 2)
        elif tag.kind is Kind.STATE:
            value[i] = place // 7 % 5 + 1
        else:
            value[i] = (place * 37 + i) % 101 / 8
    quality = np.zeros((k, rows), np.uint8)
    silent = place % 17 == 5
    value[:, silent], quality[:, silent] = np.nan, Quality.BAD_NO_ANSWER
    time = START + place * round(schema.period * 1e9)
    return SampleBlock(schema, time, value, quality)


def streams_of(agent: Agent) -> list[Schema]:
    """Return the raw streams of an agent."""
    return [group.schema for link in agent._links for group in link.driver.groups]


def place_of(agent: Agent, schema: Schema) -> int:
    """Return how many rows of a stream the log has."""
    last = agent.outbox.last_ns(schema.stream)
    return 0 if last is None else (last - START) // round(schema.period * 1e9) + 1


async def produce(agent: Agent, rows: int, ahead: int) -> None:
    """Push rows until every stream has so many; say how many are safe."""
    schemas = streams_of(agent)
    places = {schema.stream: place_of(agent, schema) for schema in schemas}
    turn = 0
    while min(places.values()) < rows:
        for schema in schemas:
            place = places[schema.stream]
            count = min(1 + (turn + place) % 3, rows - place)
            if count > 0 and place < min(places.values()) + APART:
                agent.pipeline.push(load_of(schema, place, count))
                places[schema.stream] = place + count
        turn += 1
        if turn % 13 == 0:
            agent.pipeline.checkpoint()
        if turn % 8 == 0:
            await agent.outbox.flush()
            say(f"flushed {min(places.values())}")
        while max(agent.outbox.reader(name).lag for name in ("broker", "influx")) > ahead:  # noqa: ASYNC110  a lag has no event
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
    await agent.outbox.flush()
    say(f"flushed {min(places.values())}")


# ---- one agent -----------------------------------------------------------------------------------


class Watched:
    """A sink of which is noted when it is delivering."""

    def __init__(self, sink: Sink, note: Callable[[int], None]) -> None:
        self._sink, self._note = sink, note

    async def connect(self) -> None:
        await self._sink.connect()

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:
        self._note(1)
        try:
            await self._sink.write(items, backlog=backlog)
        finally:
            self._note(0)

    async def close(self) -> None:
        await self._sink.close()


async def run(config: Config, phases: mmap.mmap, rows: int, ahead: int) -> None:
    """Be an agent until the streams have so many rows; then stop in order."""

    def note(phase: Phase) -> Callable[[int], None]:
        return lambda value: phases.__setitem__(phase, value)

    begin = time.monotonic()
    note(Phase.OPENING)(1)
    agent = Agent(config, grace=60.0)
    store, committing = agent.outbox._store, note(Phase.COMMITTING)
    commit = store.commit

    def watched(batch: Batch, held: Callable[[], Mapping[str, int]]) -> None:
        committing(1)
        commit(batch, held)
        committing(0)

    store.commit = watched
    counts = agent.outbox.counts()
    found = {
        "conserved": counts.conserved,
        "rows": min(place_of(agent, schema) for schema in streams_of(agent)),
        "delivered": {name: reader.delivered for name, reader in counts.readers.items()},
    }
    note(Phase.OPENING)(0)
    note(Phase.RECOVERING)(1)
    await agent.outbox.start()
    fed = agent.pipeline.recover()
    note(Phase.RECOVERING)(0)
    found |= {"fed": fed, "seconds": time.monotonic() - begin}
    say(f"opened {orjson.dumps(found).decode()}")

    def deliver(health: SinkHealth, sink: Sink, *rest: Any) -> Coroutine[Any, Any, NoReturn]:
        return run_sink(health, Watched(sink, note(SINKS[health.name])), *rest)

    agent_module.run_sink = deliver
    async with asyncio.TaskGroup() as tasks:
        sinks = agent._start_sinks(tasks)
        await produce(agent, rows, ahead)
        note(Phase.STOPPING)(1)
        agent._checkpoint()
        await agent._drain()
        for sink in sinks:
            sink.cancel()
    await agent.outbox.flush()
    await agent.outbox.close()
    say("done")


def main(plant: Path, phases: Path, raw_bytes: int | None) -> None:
    """Start agents as told.

    raw_bytes  a budget smaller than a configuration may ask for
    """
    config = load(plant)
    if raw_bytes is not None:
        config = replace(config, retention=replace(config.retention, raw_bytes=Size(raw_bytes)))
    metrics_of(config, links_of(config, SystemClock()))  # what is read for it is kept
    gc.collect()
    gc.freeze()
    with phases.open("r+b") as file, mmap.mmap(file.fileno(), len(Phase)) as shared:
        for line in sys.stdin:
            order, _, rest = line.partition(" ")
            if order.strip() == "reap":
                _, status = os.wait()
                say(f"ended {status}")
                continue
            shared[:] = bytes(len(Phase))
            pid = os.fork()
            if pid == 0:
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                rows, ahead = map(int, rest.split())
                asyncio.run(run(config, shared, rows, ahead))
                os._exit(0)
            say(f"started {pid}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else None)
