"""What an export costs, against the loop that one would write with ``csv.writer``.

Workload: power meters of 32 float32 signals at 1 Hz, in all a million values, a hundredth of the
scans BAD; once as a slow source leaves them in the log (a record per scan of ten meters) and once
as a fast one does (60 scans a record). The plain loop reads the same log through ``Archive`` and
writes time, values and qualities of each row with ``csv.writer``, one file per stream. Everything
includes reading the log; the export also sorts, hashes and syncs its files. Time is that of the
processor, of all threads, the least of repeats. Memory: the peak of a process of its own, beside
that of an export of a minute. Run from the root of the repository: ``python -m
benchmarks.bench_export [FOLDER]``; one JSON object to standard output.
"""

import asyncio
import csv
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow

from benchmarks.bench_outbox import GIB, SECOND, K, meter
from edge_agent.config import load
from edge_agent.export.command import Wish, export
from edge_agent.model import Quality, SampleBlock
from edge_agent.outbox import Archive, Budget, Outbox, ReaderSpec

VALUES = 1_000_000
DEVICES = 10
REPEATS = 3
BEGIN, END = "2025-11-22", "2025-11-24"
PLANT = """
site: {id: works}
devices: {em-0: {connect: "modbus+tcp://127.0.0.1", tags: {p: {at: "hr:0", unit: kW}}}}
"""


def spoiled(block: SampleBlock) -> SampleBlock:
    """One scan of a hundred has no answer."""
    bad = (block.time // SECOND) % 100 == 7
    value, quality = block.value.copy(), block.quality.copy()
    value[:, bad], quality[:, bad] = np.nan, Quality.BAD_NO_ANSWER
    return SampleBlock(block.schema, block.time, value, quality)


async def fill(path: Path, n: int) -> None:
    budget = Budget(raw_bytes=4 * GIB, raw_age_ns=1 << 60, derived_bytes=GIB)
    outbox = Outbox(path, [ReaderSpec("none", lambda _: False)], budget=budget, commit=0.1)
    await outbox.start()
    for scan in range(0, VALUES // (K * DEVICES), n):
        blocks = [spoiled(meter(device, n, scan)) for device in range(DEVICES)]
        outbox.append(blocks, {"read": n * DEVICES})
    await outbox.close()


def plain(log: Path, folder: Path) -> None:
    """The loop of a person in a hurry."""
    folder.mkdir()
    archive = Archive(log)
    files = {}
    for record in archive.records(0):
        block = archive.block(record)
        stream = block.schema.stream
        if stream not in files:
            file = (folder / f"{stream.replace('/', '_')}.csv").open("w", newline="")
            files[stream] = file, csv.writer(file)
            names = [tag.name for tag in block.schema.tags]
            files[stream][1].writerow(["time", *names, *(f"{name}.q" for name in names)])
        for i in range(len(block)):
            when = datetime.fromtimestamp(int(block.time[i]) / 1e9, UTC).isoformat()
            values = [float(v) if v == v else "" for v in block.value[:, i]]  # noqa: PLR0124
            files[stream][1].writerow([when, *values, *(int(q) for q in block.quality[:, i])])
    for file, _ in files.values():
        file.close()


def fastest(work: Callable[[Path], object], folder: Path) -> tuple[float, int]:
    """Seconds of processor of the fastest run, and the bytes it wrote."""
    best, size = float("inf"), 0
    for _ in range(REPEATS):
        begin = time.process_time()
        work(folder)
        best = min(best, time.process_time() - begin)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        shutil.rmtree(folder)
    return best, size


def peak(file: Path, log: Path, form: str, folder: Path, end: str = END) -> float:
    """MB that a process took at most."""
    script = (
        "import sys; from pathlib import Path; from edge_agent.cli import main;"
        "status = main(sys.argv[1:]); print(Path('/proc/self/status').read_text());"
        "sys.exit(status)"
    )
    command = ["export", file, "--from", BEGIN, "--to", end, "--format", form, "--log", log]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, command), "-o", str(folder)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shutil.rmtree(folder)
    return round(int(done.stdout.partition("VmHWM:")[2].split()[0]) / 1024, 1)


def of(folder: Path, n: int) -> dict[str, object]:
    log = folder / f"log-{n}.db"
    asyncio.run(fill(log, n))
    file = folder / "plant.yaml"
    file.write_text(PLANT)
    config = load(file)

    def exported(form: str) -> Callable[[Path], object]:
        return lambda out: export(Wish(config, BEGIN, END, form, out, log=log), lambda _: None)

    out = folder / "out"
    ways = {
        "csv": exported("csv"),
        "parquet": exported("parquet"),
        "plain": lambda o: plain(log, o),
    }
    exported("parquet")(out)  # the library is imported outside the timing
    shutil.rmtree(out)
    results: dict[str, object] = {}
    seconds = {}
    for name, work in ways.items():
        seconds[name], size = fastest(work, out)
        results[name] = {
            "values_per_s": round(VALUES / seconds[name]),
            "rows_per_s": round(VALUES / K / seconds[name]),
            "bytes_per_value": round(size / VALUES, 2),
        }
    for name in ("csv", "parquet"):
        results[f"{name}_times_as_fast_as_plain"] = round(seconds["plain"] / seconds[name], 1)
        results[f"{name}_peak_mb"] = peak(file, log, name, out)
        results[f"{name}_peak_mb_of_a_minute"] = peak(file, log, name, out, "2025-11-22T00:01")
    return results


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        results = {f"{n} scans a record": of(Path(folder), n) for n in (1, 60)}
    machine = {"python": platform.python_version(), "numpy": np.__version__}
    machine |= {"pyarrow": pyarrow.__version__, "machine": platform.machine()}
    print(json.dumps({"bench": "export", **machine, **results}, indent=2))


if __name__ == "__main__":
    main()
