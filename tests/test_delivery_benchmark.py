"""The benchmarks of log and delivery in miniature: each way is measured, every row arrives."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import bench_outbox

ROOT = Path(__file__).parent.parent
PEERS = {"mqtt", "mqtt 3.1.1", "mqtt rows", "influxdb", "plain mqtt", "plain influxdb"}


async def test_the_log_is_measured_beside_the_plain_ways(tmp_path: Path) -> None:
    found = await bench_outbox.measure(tmp_path, rounds=2, records=500)

    for size in (1, 100, 1000):
        commit: Any = found[f"commit of {size} blocks k=32 n=1"]
        for way in ("commit_ms", "bare_ms", "plain_ms"):
            assert 0 < commit[way]["median"] <= commit[way]["p99"] <= commit[way]["max"]
    backlog: Any = found["backlog"]
    assert backlog["drained_records_per_s"] > 0


def test_every_way_is_measured_against_the_plain_one(tmp_path: Path) -> None:
    page, result = tmp_path / "delivery.md", tmp_path / "result.json"
    size = ["--devices", "3", "--tags", "4", "--ticks", "3", "--backlog", "40", "--repeats", "1"]
    size += ["--alone", "0.3"]
    command = [sys.executable, "-m", "benchmarks.bench_delivery", *size, "-o", str(result)]
    done = subprocess.run(
        [*command, "--table", str(page)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr  # it counts the rows in the database itself

    found = json.loads(result.read_text())
    drained = PEERS | {"no peer", "both"}
    assert found["cpu_us_per_value"].keys() == (
        {f"live, {way}" for way in drained | {"log"}} | {f"drain, {way}" for way in drained}
    )
    assert all(figures["least"] > 0 for figures in found["cpu_us_per_value"].values())
    assert found["rows_per_s"].keys() == {f"drain, {way}" for way in drained}
    assert found["ratios"].keys() == {
        f"{phase}, plain {sink} / {phase}, {sink}"
        for phase in ("live", "drain")
        for sink in ("mqtt", "influxdb")
    }
    kinds = {f"{way}: {kind}" for way in ("log", "both") for kind in ("late", "cpu")}
    assert found["loop_held_ms"].keys() == kinds
    for figures in found["commit_to_acknowledged_ms"].values():
        assert 0 < figures["p50"] <= figures["p99"] <= figures["max"]
    assert all(f"| {way} |" in page.read_text() for way in drained)
