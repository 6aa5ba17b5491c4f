"""An agent without devices whose log holds an outage of three days; run by ``test_outage``.

Everything but the drivers is real. In their place stands a load: at the first start the hours of
the outage, written at once, then one row of each stream each second, stamped when it is pushed.

    python -m tests.outage_writer PLANT HOURS PERIOD SINGLE

The outage has a row each PERIOD seconds; those of the last SINGLE hours are records of one row, as
polls make them, all others stand in blocks of ``BLOCK`` rows. It says, a line each: ``filled`` and
rows and seconds, ``live``, and then each ``LOOK`` seconds ``state`` and how far the sinks are;
after ``stop`` it stops in order and says ``done``.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from edge_agent.agent import Agent
from edge_agent.config import load
from edge_agent.model import Kind, SampleBlock, Schema

SECOND = 1_000_000_000
BLOCK = 60  # rows
LOOK = 0.1  # seconds
SINKS = ("broker", "influx")


def plant(devices: int, sinks: str) -> str:
    """Return a plant of so many meters of eight tags, and one figure of them all."""
    names = [f"em-{i}" for i in range(devices)]
    gauges = "".join(f'      power_{i}: {{at: "hr:{i}", type: u16, unit: kW}}\n' for i in range(7))
    counter = '      energy: {at: "hr:8", type: u32, unit: kWh, kind: counter, modulus: 1e12}\n'
    meters = "".join(
        f"  {name}:\n    connect: modbus+tcp://127.0.0.1:1502?unit={i + 1}\n    poll: 1s\n"
        f"    tags:\n{gauges}{counter}"
        for i, name in enumerate(names)
    )
    inputs = ", ".join(f"{name}.energy" for name in names)
    return f"""
site: {{id: works}}
retention: {{raw: 30d}}
devices:
{meters}
metrics:
  all: {{type: energy, inputs: {{electricity: [{inputs}]}}, windows: [15min]}}
{sinks}
"""


def rows_at(schema: Schema, times: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> SampleBlock:
    """Return rows of a stream whose values follow from their times."""
    place = times // SECOND
    value = np.empty((len(schema.tags), len(times)))
    for i, tag in enumerate(schema.tags):
        value[i] = place - 1_700_000_000 if tag.kind is Kind.COUNTER else (place * 7 + i) % 997 / 8
    return SampleBlock(schema, times, value, np.zeros(value.shape, np.uint8))


def spans(count: int, single: int) -> Iterator[tuple[int, int]]:
    """Yield from which row to which each record goes."""
    blocks = max(0, count - single)
    for start in range(0, blocks, BLOCK):
        yield start, min(start + BLOCK, blocks)
    for start in range(blocks, count):
        yield start, start + 1


async def fill(
    agent: Agent, schemas: list[Schema], hours: float, period: int, single: float
) -> None:
    """Write the outage up to now."""
    begin = time.monotonic()
    count = round(hours * 3600 / period)
    start = agent.clock.wall_ns() // SECOND * SECOND - (count + 1) * period * SECOND
    for n, (first, last) in enumerate(spans(count, round(single * 3600 / period))):
        times = start + np.arange(first, last) * period * SECOND
        for schema in schemas:
            agent.pipeline.push(rows_at(schema, times))
        if n % 100 == 0:
            await agent.outbox.flush()
    agent.pipeline.checkpoint()
    await agent.outbox.flush()
    rows = count * len(schemas)
    say("filled", {"rows": rows, "seconds": time.monotonic() - begin})


async def produce(agent: Agent, schemas: list[Schema]) -> None:
    """Push a row of each stream each second; of no stream in the same moment as of another."""
    due = agent.clock.monotonic()
    while True:
        for schema in schemas:
            due += 1.0 / len(schemas)
            await agent.clock.sleep_until(due)
            agent.pipeline.push(rows_at(schema, np.array([agent.clock.wall_ns()])))


async def look(agent: Agent) -> None:
    """Say again and again how far the sinks are."""
    while True:
        readers = {name: agent.outbox.reader(name) for name in SINKS}
        state = {
            name: {"lag": r.lag, "split": r.split, "state": agent.health.sinks[name].state}
            for name, r in readers.items()
        }
        say("state", {"at": time.time(), **state})
        await asyncio.sleep(LOOK)


def say(word: str, what: object) -> None:
    print(word, orjson.dumps(what).decode(), flush=True)  # noqa: T201  what the parent reads


async def run(path: Path, hours: float, period: int, single: float) -> None:
    agent = Agent(load(path), grace=2.0)
    schemas = [group.schema for link in agent._links for group in link.driver.groups]
    stopped = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await agent.outbox.start()
    agent.pipeline.recover()
    if not agent.outbox.newest_ns:
        await fill(agent, schemas, hours, period, single)
    async with asyncio.TaskGroup() as tasks:
        started = agent._start_sinks(tasks)
        say("live", time.time())
        load_tasks = [tasks.create_task(produce(agent, schemas)), tasks.create_task(look(agent))]
        await stopped
        for task in load_tasks:
            task.cancel()
        agent._checkpoint()
        await agent._drain()
        for task in started:
            task.cancel()
    await agent.outbox.flush()
    await agent.outbox.close()
    say("done", None)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
