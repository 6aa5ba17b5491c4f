"""A process that writes a log until it is killed; run by ``test_outbox`` with the path of the log.

Push i is a raw block and two derived ones, all at time i. After each flush the process says how far
the log must be when it is found again.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np

from edge_agent.model import Family, SampleBlock, Schema, Tag
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.units import Unit


def schema_of(stream: str, family: Family, k: int = 4) -> Schema:
    tags = tuple(Tag(f"tag_{i}", Unit.parse("kW")) for i in range(k))
    return Schema(stream, family, tags, 1.0)


RAW = schema_of("em/raw", Family.SAMPLE)
SLOT = schema_of("em/slot", Family.SLOT)
HOUR = schema_of("clinker/1h", Family.ENERGY)

READERS = [
    ReaderSpec("sink", lambda schema: schema.family is not Family.SLOT),
    ReaderSpec("down", lambda _: True),
]
BUDGET = Budget(raw_bytes=1 << 26, raw_age_ns=1 << 60, derived_bytes=1 << 26)


def block_of(schema: Schema, time: int, rows: int = 1) -> SampleBlock:
    """Rows from ``time`` on, one per nanosecond; the values follow from the time."""
    times = np.arange(time, time + rows)
    k = len(schema.tags)
    value = times + np.arange(k)[:, None] / 8
    return SampleBlock(schema, times, value, np.zeros((k, rows), np.uint8))


async def write(path: Path) -> None:
    outbox = Outbox(path, READERS, budget=BUDGET, commit=0.005)
    await outbox.start()
    await asyncio.gather(append(outbox), deliver(outbox))


async def append(outbox: Outbox) -> None:
    last = outbox.last_ns(RAW.stream)
    i = 0 if last is None else last + 1
    while True:
        for i in range(i, i + 7):  # noqa: B020 -- goes on where it was
            blocks = [block_of(RAW, i), block_of(SLOT, i), block_of(HOUR, i)]
            outbox.append(blocks, {"read": 1, "derived": 2})
            if i % 5 == 0:
                outbox.checkpoint({"metric": {"time": i}})
            await asyncio.sleep(0)
        await outbox.flush()
        print(i, flush=True)  # noqa: T201 -- what the parent reads
        i += 1


async def deliver(outbox: Outbox) -> None:
    reader = outbox.reader("sink")
    while True:
        taken = await reader.take(16)
        reader.acknowledge(taken[-1].sequence, delivered=sum(item.rows for item in taken))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1])))
