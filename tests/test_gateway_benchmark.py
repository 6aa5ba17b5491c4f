"""The whole-agent benchmark in miniature: its figures are there and no row is lost on the way."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gateway_figures import lateness
from benchmarks.gateway_load import STAMP, Load, expected
from benchmarks.gateway_subscriber import Collector

ROOT = Path(__file__).parent.parent
FIGURES = {
    "load", "tags", "period_s", "connections", "devices", "server", "start_s", "seconds",
    "requests_per_s", "samples_per_s", "cpu_s", "core_share", "cpu_us_per_tag",
    "cpu_us_per_request", "rss_mb", "pss_mb", "peak_mb", "others_core_share", "lateness_ms",
    "machine_cores_busy",
    "missed_polls", "scan_ms", "register_to_message_ms", "sample_to_message_ms", "rows_answered",
    "rows_lost", "rows_twice", "values_checked", "values_wrong",
}  # fmt: skip


def measured(folder: Path, *options: str) -> dict[str, Any]:
    result = folder / "result.json"
    command = [sys.executable, "-m", "benchmarks.gateway", "-o", str(result), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(result.read_text())
    return found


@pytest.mark.parametrize(("behind", "wrong"), [(0, 0), (1, 0), (-1, 499), (5, 499)])
def test_a_value_of_a_moment_that_the_scan_was_not_in_is_found(behind: int, wrong: int) -> None:
    load, base, device = Load(5000, 1000), 1_700_000_000, 3
    begin = (base + 100) * 1000  # ms; the message comes two and a half steps later
    value = expected(load.per_unit, *load.place(device), base + 100 + behind, base).astype(float)
    value[0] = begin * 8 % STAMP / 8
    collector = Collector(load, base)
    compared, found = collector.compare(device, value, begin, begin + 2500)

    assert (compared, found) == (499, wrong)


def test_lateness_counts_from_the_tick_also_if_a_scan_is_nearly_a_period_late() -> None:
    late = np.array([3.0, 0.0, 900.0, 4.0, 600.0, 3.5])  # ms; half of them come 3 ms late
    arrivals = ((np.arange(6) + 5) * 1000 + 990 + late) * 1e6
    load, device = Load(5000, 1000), np.zeros(6, np.int64)

    assert sorted(lateness(load, device, arrivals.astype(np.int64))) == sorted(late)


@pytest.mark.timeout(60)  # a broker, a database and an agent are started
@pytest.mark.parametrize(
    ("load", "how"),
    [("1000@1s", ()), ("1000@100ms", ("--no-compiler",))],
    ids=["served by C", "served by Python"],
)
def test_a_small_gateway_loses_no_row_and_says_nothing_wrong(
    tmp_path: Path, load: str, how: tuple[str, ...]
) -> None:
    page = tmp_path / "benchmark.md"
    window = ("--seconds", "3", "--warm-up", "1", "--no-plain", "--table", str(page))
    (run,) = measured(tmp_path, "--load", load, *window, *how)["runs"]

    assert run.keys() == FIGURES
    assert run["rows_answered"] >= 10 * 3 / run["period_s"] * 0.5  # half of it on a busy machine
    assert run["rows_lost"] == {"log": 0, "broker": 0, "database": 0}
    assert run["rows_twice"] == {"log": 0, "broker": 0, "database": 0}
    assert run["values_checked"] > 0
    assert run["values_wrong"] == 0
    for name in ("lateness_ms", "scan_ms", "register_to_message_ms", "sample_to_message_ms"):
        figures = run[name]
        assert 0 <= figures["p50"] <= figures["p99"] <= figures["max"], name
    assert run["cpu_us_per_tag"] > 0
    assert run["rss_mb"] >= run["pss_mb"] > 0
    assert run["load"] in page.read_text()


@pytest.mark.timeout(60)
def test_the_plain_gateway_is_measured_beside_it(tmp_path: Path) -> None:
    window = ("--seconds", "2", "--warm-up", "0.5")
    result = measured(tmp_path, "--load", "1000@1s", *window)

    assert result["plain"]["rows_lost"] == {"broker": 0}
    assert result["plain"]["values_wrong"] == 0
    assert result["ratio"] > 0
