"""From what ``benchmarks.bench_delivery`` measured to figures, and to a page of Markdown."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "orjson", "aiomqtt", "paho-mqtt", "influxdb-client", "isal", "uvloop")
COLUMNS = (
    "way", "live: CPU µs per value", "drain: CPU µs per value", "drain: rows/s",
    "times the live rate", "commit → acknowledged p50, p99",
)  # fmt: skip


def spread(found: Sequence[float]) -> dict[str, float]:
    """Return median and extremes of the rounds."""
    median = statistics.median(found)
    return {"median": round(median, 3), "least": round(min(found), 3), "most": round(max(found), 3)}


def quantiles(found: Sequence[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum."""
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "max": round(max(found), 2)}


def ratios(cpu: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return by how much CPU each plain way takes more than the sink, the log counted in."""
    found = {}
    for phase in ("live", "drain"):
        for sink in ("mqtt", "influxdb"):
            plain, ours = f"{phase}, plain {sink}", f"{phase}, {sink}"
            if plain in cpu and ours in cpu:
                found[f"{plain} / {ours}"] = round(cpu[plain]["median"] / cpu[ours]["median"], 1)
    return found


def machine(arguments: Sequence[str]) -> dict[str, object]:
    """Return where and with what it was measured."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),  # of the minute before: what neighbours do
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: of(package) for package in PACKAGES},
        "command": " ".join(["python -m benchmarks.bench_delivery", *arguments]),
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the result as a page of Markdown."""
    where, cpu = result["machine"], result["cpu_us_per_value"]
    ways = list(dict.fromkeys(name.partition(", ")[2] for name in cpu))
    rows = "\n".join(_row(result, way) for way in ways)
    held = "\n".join(
        f"| {way} | {found['p50']} ms | {found['p99']} ms | {found['max']} ms |"
        for way, found in result["loop_held_ms"].items()
    )
    said = "\n".join(f"- {name}: {ratio}" for name, ratio in result["ratios"].items())
    return f"""# What delivery costs

Measured {where["date"]} by `{where["command"]}`, which wrote this page.

{where["processor"]}, {where["cores"]} cores, load average {where["load_average"]} before it began,
{where["system"]}; python {where["python"]},
{", ".join(f"{name} {where[name]}" for name in PACKAGES)}; mosquitto and InfluxDB 1.6 behind nginx.

{result["devices"]} devices of {result["tags_of_a_device"]} float32 tags, medians of \
{result["rounds"]} rounds in which the ways took turns.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{rows}

CPU of a plain way divided by that of the sink with the log in front of it:

{said}

How long the loop is held, seen by a callback each millisecond, while the backlog drains to both
peers (*both*) and without any (*log*), both while 1 000 tags are read at 100 ms:

| | p50 | p99 | most |
|---|---|---|---|
{held}
{NOTES}"""


def _row(result: Mapping[str, Any], way: str) -> str:
    def of(figures: str, phase: str, show: str) -> str:
        found = result[figures].get(f"{phase}, {way}")
        return "–" if found is None else show.format(found)

    cells = (
        way,
        of("cpu_us_per_value", "live", "{0[median]}"),
        of("cpu_us_per_value", "drain", "{0[median]}"),
        of("rows_per_s", "drain", "{}"),
        of("times_the_live_rate", "drain", "{}"),
        of("commit_to_acknowledged_ms", "live", "{0[p50]}, {0[p99]} ms"),
    )
    return "| " + " | ".join(cells) + " |"


NOTES = """
- *CPU*: user and system time of the measuring process, all its threads; broker and database are
  processes of their own.
- *live*: one row of each device is appended and committed with fsync, and acknowledged by the peers
  before the next is appended; a tick stands for a second. *drain*: the rows of an outage, a record
  each, wait in the log.
- *mqtt 3.1.1*: the older protocol; *mqtt rows*: one flat JSON object per row, as `payload: rows`
  sends it; else MQTT 5 and the columns of a block in one message.
- *log* appends and commits and has no reader; *no peer* has a reader whose sink does nothing. What
  a sink alone costs is its way less *no peer*.
- *late*: the callback's lateness, of which neighbours on the machine have a part; *cpu*: what the
  loop's own thread worked between two callbacks.
- *rows/s* and the latency are wall time on a machine that also runs the servers and whatever the
  load average comes from: on a busy one they are not the agent's.
- *plain mqtt*: paho, QoS 1, one JSON object per row by `json.dumps`. *plain influxdb*:
  influxdb-client, a `Point` per row, written by its synchronous API. Neither has a log.
"""
