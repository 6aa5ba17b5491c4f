"""What a block costs on its way through the log: encoding, group commit, taking, counting.

Workload: power meters of 32 float32 signals, one scan a block (slow sources) and 60 scans a block
(fast sources, batched); a group commit holds one block of each of 100 devices. Run from the root of
the repository: ``python -m benchmarks.bench_outbox [FOLDER]``; the folder chooses the disk. Minimum
of repeats unless it says otherwise; one JSON object to standard output.
"""

import asyncio
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import zstandard

from edge_agent import codec
from edge_agent.model import Family, SampleBlock, Schema, Tag
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.units import Unit

K = 32
START = 1_763_778_000_000_000_000
SECOND = 1_000_000_000
GIB = 1 << 30


@lru_cache
def schema_of(device: int) -> Schema:
    tags = tuple(Tag(f"tag_{i}", Unit.parse("kW")) for i in range(K))
    return Schema(f"em-{device}/raw", Family.SAMPLE, tags, 1.0)


def meter(device: int, n: int, scan: int = 0) -> SampleBlock:
    random = np.random.default_rng(1000 * device + scan)
    base = np.random.default_rng(device).uniform(1, 500, (K, 1))
    value = (base * (1 + random.normal(0, 0.01, (K, n)))).astype(np.float32).astype(float)
    time_ns = START + scan * SECOND + np.arange(n) * SECOND
    return SampleBlock(schema_of(device), time_ns, value, np.zeros((K, n), np.uint8))


def fastest(work: Callable[[], object], number: int = 500, repeats: int = 7) -> float:
    """Microseconds of one call."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(number):
            work()
        best = min(best, time.perf_counter() - begin)
    return round(best / number * 1e6, 2)


def of_codec() -> dict[str, object]:
    results: dict[str, object] = {}
    for n in (1, 10, 60):
        block = meter(1, n)
        payload = codec.encode(block)
        results[f"k=32 n={n}"] = {
            "encode_us": fastest(lambda block=block: codec.encode(block)),
            "decode_us": fastest(lambda p=payload, s=block.schema: codec.decode(p, s)),
            "bytes": len(payload),
            "bytes_per_sample": round(len(payload) / (K * n), 2),
        }
    return results


async def of_commit(folder: Path, n: int, rounds: int = 200) -> dict[str, object]:
    """One block of each of 100 devices per commit, with one reader that follows."""
    budget = Budget(raw_bytes=GIB, raw_age_ns=1 << 60, derived_bytes=GIB)
    outbox = Outbox(
        folder / f"commit-{n}.db", [ReaderSpec("sink", lambda _: True)], budget=budget, commit=60.0
    )
    await outbox.start()
    reader = outbox.reader("sink")
    walls, cpus, appends, takes = [], [], [], []
    for scan in range(rounds):
        blocks = [meter(device, n, scan) for device in range(100)]
        begin = time.perf_counter()
        for block in blocks:
            outbox.append([block], {"read": n})
        appends.append((time.perf_counter() - begin) / 100)
        begin, cpu = time.perf_counter(), time.process_time()
        await outbox.flush()
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - cpu)
        while reader.lag:
            begin = time.perf_counter()
            taken = await reader.take(64)
            takes.append((time.perf_counter() - begin) / len(taken))
            reader.acknowledge(taken[-1].sequence, delivered=n * len(taken))
    stored = outbox.ledger.totals["raw_bytes"] / (rounds * 100)
    await outbox.close()
    return {
        "append_us_per_block": round(statistics.median(appends) * 1e6, 1),
        "commit_wall_ms_median": round(statistics.median(walls) * 1e3, 2),
        "commit_wall_ms_p99": round(statistics.quantiles(walls, n=100)[98] * 1e3, 2),
        "commit_cpu_ms_median": round(statistics.median(cpus) * 1e3, 2),
        "take_us_per_record": round(statistics.median(takes) * 1e6, 2),
        "stored_bytes_per_block": round(stored),
        "file_bytes_per_block": round((folder / f"commit-{n}.db").stat().st_size / (rounds * 100)),
    }


async def of_backlog(folder: Path, records: int = 300_000) -> dict[str, object]:
    """A sink that has been away for a while: counting, opening, taking, dropping."""
    readers = [ReaderSpec("away", lambda _: True), ReaderSpec("rare", lambda s: s.owner == "em-3")]
    path = folder / "backlog.db"
    budget = Budget(raw_bytes=GIB, raw_age_ns=1 << 60, derived_bytes=GIB)
    blocks = [meter(device, 1) for device in range(100)]
    outbox = Outbox(path, readers, budget=budget, commit=1.0)
    await outbox.start()
    for i in range(records // 100):
        for block in blocks:
            outbox.append([block], {"read": 1})
        if i % 30 == 0:
            await outbox.flush()
    await outbox.close()
    begin = time.perf_counter()
    outbox = Outbox(path, readers, budget=budget, commit=60.0)
    opening = time.perf_counter() - begin
    await outbox.start()
    begin = time.perf_counter()
    await outbox.reader("rare").take(64)
    rare = time.perf_counter() - begin
    results = {
        "records": records,
        "open_ms": round(opening * 1e3, 2),
        "counts_us": fastest(outbox.counts, 20, 3),
        "take_64_of_one_device_in_100_ms": round(rare * 1e3, 2),
    }
    begin = time.perf_counter()
    number = sum(1 for _ in outbox.records(0))
    results["records_per_s"] = round(number / (time.perf_counter() - begin))
    used = outbox.ledger.totals["raw_bytes"]
    await outbox.close()
    full = Budget(raw_bytes=used, raw_age_ns=1 << 60, derived_bytes=GIB)
    outbox = Outbox(path, readers, budget=full, commit=60.0)
    await outbox.start()
    walls = []
    for _ in range(50):
        for block in blocks:
            outbox.append([block], {"read": 1})
        begin = time.perf_counter()
        await outbox.flush()
        walls.append(time.perf_counter() - begin)
    results["commit_over_budget_wall_ms_median"] = round(statistics.median(walls) * 1e3, 2)
    await outbox.close()
    return results


async def measure(folder: Path) -> dict[str, object]:
    return {
        "codec": of_codec(),
        "group commit, 100 blocks k=32 n=1": await of_commit(folder, 1),
        "group commit, 100 blocks k=32 n=60": await of_commit(folder, 60, 60),
        "backlog": await of_backlog(folder),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "sqlite": sqlite3.sqlite_version,
            "zstandard": zstandard.__version__,
        },
    }


if __name__ == "__main__":
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as name:
        print(json.dumps(asyncio.run(measure(Path(name))), indent=2))
