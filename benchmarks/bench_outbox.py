"""What a block costs on its way through the log: encoding, group commit, taking, counting.

    python -m benchmarks.bench_outbox [FOLDER]      one JSON object; the folder chooses the disk

Workload: power meters of 32 float32 signals; 1 scan a block (slow sources) to 256 (fast sources,
batched). Minimum of repeats unless it says otherwise.

The baselines of a commit write the same samples in the same rounds, in turn with it, to the same
disk: *bare* appends the same bytes to a file and calls fdatasync; *plain* inserts a row per sample
into SQLite (WAL, synchronous NORMAL, so without waiting for the disk).
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
from edge_agent.outbox import Budget, Outbox, ReaderSpec, Record
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


def opened(path: Path, *readers: ReaderSpec, commit: float = 60.0) -> Outbox:
    budget = Budget(raw_bytes=4 * GIB, raw_age_ns=1 << 60, derived_bytes=GIB)
    return Outbox(path, readers, budget=budget, commit=commit)


async def of_throughput(folder: Path, n: int, commits: int) -> dict[str, object]:
    """Append blocks of 100 devices and commit them, one commit after the other, nothing between."""
    outbox = opened(folder / f"throughput-{n}.db", ReaderSpec("sink", lambda _: True))
    await outbox.start()
    batches = [[meter(device, n, scan * n) for device in range(100)] for scan in range(commits)]
    began, cpu = time.perf_counter(), time.process_time()
    for blocks in batches:
        for block in blocks:
            outbox.append([block], {"read": n})
        await outbox.flush()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    stored = outbox.ledger.totals["raw_bytes"]
    await outbox.close()
    records = 100 * commits
    return {
        "records_per_s": round(records / seconds),
        "rows_per_s": round(records * n / seconds),
        "samples_MB_per_s": round(records * n * K * 8 / seconds / 1e6, 1),
        "stored_MB_per_s": round(stored / seconds / 1e6, 1),
        "cpu_us_per_value": round(cpu / (records * n * K) * 1e6, 3),
        "stored_bytes_per_value": round(stored / (records * n * K), 2),
    }


class Bare:
    """Appends to a file and waits for the disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def commit(self, payloads: list[bytes]) -> None:
        self._file.write(b"".join(payloads))
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Plain:
    """A row of SQLite per sample."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TABLE sample (time, device, tag, value)")

    def commit(self, blocks: list[SampleBlock]) -> None:
        rows = [
            (at, block.schema.owner, tag.name, value)
            for block in blocks
            for tag, values in zip(block.schema.tags, block.value.tolist(), strict=True)
            for at, value in zip(block.time.tolist(), values, strict=True)
        ]
        self._db.executemany("INSERT INTO sample VALUES (?, ?, ?, ?)", rows)
        self._db.commit()

    def close(self) -> None:
        self._db.close()


async def of_latency(folder: Path, size: int, rounds: int) -> dict[str, object]:
    """Measure commits of so many blocks of one row, from the call to the answer, all in turn."""
    outbox = opened(folder / f"latency-{size}.db", ReaderSpec("sink", lambda _: True))
    await outbox.start()
    bare, plain = Bare(folder / f"bare-{size}"), Plain(folder / f"plain-{size}.db")
    seconds: dict[str, list[float]] = {"commit": [], "bare": [], "plain": []}
    cpu: dict[str, list[float]] = {"commit": [], "plain": []}
    for scan in range(rounds):
        blocks = [meter(i % 100, 1, 100 * scan + i // 100) for i in range(size)]
        payloads = [codec.encode(block) for block in blocks]
        used, began = time.process_time(), time.perf_counter()
        for block in blocks:
            outbox.append([block], {"read": 1})
        await outbox.flush()
        seconds["commit"].append(time.perf_counter() - began)
        cpu["commit"].append(time.process_time() - used)
        began = time.perf_counter()
        bare.commit(payloads)
        seconds["bare"].append(time.perf_counter() - began)
        used, began = time.process_time(), time.perf_counter()
        plain.commit(blocks)
        seconds["plain"].append(time.perf_counter() - began)
        cpu["plain"].append(time.process_time() - used)
    await outbox.close()
    bare.close()
    plain.close()
    median = {name: statistics.median(found) for name, found in cpu.items()}
    return {
        **{f"{name}_ms": spread(found) for name, found in seconds.items()},
        **{f"{name}_cpu_us_per_value": round(m / size / K * 1e6, 3) for name, m in median.items()},
        "cpu_plain_to_commit": round(median["plain"] / median["commit"], 1),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum in ms."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    of = {"median": cuts[49], "p99": cuts[98], "max": max(seconds)}
    return {name: round(value * 1e3, 2) for name, value in of.items()}


async def of_backlog(folder: Path, records: int, rounds: int) -> dict[str, object]:
    """A sink that has been away for a while: what it costs others, and what its return costs."""
    path = folder / "backlog.db"
    readers = [ReaderSpec("away", lambda _: True), ReaderSpec("rare", lambda s: s.owner == "em-3")]
    blocks = [meter(device, 1) for device in range(100)]
    outbox = opened(path, *readers, commit=1.0)
    await outbox.start()
    before = await _commits(outbox, blocks, rounds)
    for i in range(records // 100):
        for block in blocks:
            outbox.append([block], {"read": 1})
        if i % 30 == 0:
            await outbox.flush()
    await outbox.flush()
    after = await _commits(outbox, blocks, rounds)
    await outbox.close()
    began = time.perf_counter()
    outbox = opened(path, *readers)
    opening = time.perf_counter() - began
    await outbox.start()
    began = time.perf_counter()
    await outbox.reader("rare").take(64)
    rare = time.perf_counter() - began
    results: dict[str, object] = {
        "records": records,
        "open_ms": round(opening * 1e3, 2),
        "counts_us": fastest(outbox.counts, 20, 3),
        "take_64_of_one_device_in_100_ms": round(rare * 1e3, 2),
        "commit_cpu_ms_median": {"no backlog": before, "behind by all records": after},
        **await _taken(outbox, min(records, 20_000)),
    }
    used = outbox.ledger.totals["raw_bytes"]
    await outbox.close()
    full = Budget(raw_bytes=used, raw_age_ns=1 << 60, derived_bytes=GIB)
    outbox = Outbox(path, readers, budget=full, commit=60.0)
    await outbox.start()
    results["commit_over_budget_cpu_ms_median"] = await _commits(outbox, blocks, rounds)
    await outbox.close()
    return results


async def _commits(outbox: Outbox, blocks: list[SampleBlock], rounds: int) -> float:
    """Return ms of CPU of a commit of the blocks, median of the rounds."""
    used = []
    for _ in range(rounds):
        for block in blocks:
            outbox.append([block], {"read": 1})
        began = time.process_time()
        await outbox.flush()
        used.append(time.process_time() - began)
    return round(statistics.median(used) * 1e3, 2)


async def _taken(outbox: Outbox, records: int) -> dict[str, object]:
    """Take and decode so many records; what was acknowledged is committed before more is taken."""
    reader, takes, decodes, taken = outbox.reader("away"), 0.0, 0.0, 0
    began = time.perf_counter()
    while taken < records:
        cpu = time.thread_time()
        items = await reader.take(256)
        takes += time.thread_time() - cpu
        cpu = time.thread_time()
        for item in items:
            if isinstance(item, Record):
                outbox.block(item)
        decodes += time.thread_time() - cpu
        reader.acknowledge(items[-1].sequence, delivered=len(items))
        taken += len(items)
    seconds = time.perf_counter() - began
    return {
        "drained_records_per_s": round(taken / seconds),
        "take_cpu_us_per_record": round(takes / taken * 1e6, 2),
        "decode_cpu_us_per_record": round(decodes / taken * 1e6, 2),
    }


async def measure(folder: Path, *, rounds: int = 200, records: int = 300_000) -> dict[str, object]:
    """Return the figures; with fewer rounds and records they are worse and sooner there."""
    results: dict[str, object] = {"codec": of_codec()}
    for n in (1, 10, 60, 256):
        commits = max(2, rounds // (4 + n))
        results[f"throughput, blocks of k=32 n={n}"] = await of_throughput(folder, n, commits)
    for size in (1, 100, 1000):
        found = await of_latency(folder, size, max(2, rounds if size < 1000 else rounds // 5))
        results[f"commit of {size} blocks k=32 n=1"] = found
    return results | {
        "backlog": await of_backlog(folder, records, max(2, rounds // 4)),
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
