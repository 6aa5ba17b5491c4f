"""From what server, log, broker and database have to the figures of ``benchmarks.gateway``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gateway_load import STAMP, Load, stamps, wall_ms
from edge_agent.outbox import Archive
from tests.servers import Influx, VictoriaMetrics

I64 = NDArray[np.int64]
OTHERS = ("server", "subscriber", "broker")


@dataclass(frozen=True)
class Window:
    """The time that is measured.

    first_ns, last_ns  monotonic; ``wall`` is what is added for the wall clock
    cpu                seconds of each process; memory: the gateway's at the end, MB
    """

    first_ns: int
    last_ns: int
    wall: int
    cpu: Mapping[str, float]
    memory: Mapping[str, float | None]

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.last_ns - self.first_ns) / 1e9


def figures(
    load: Load, window: Window, scans: NDArray[Any], rows: NDArray[Any], found: Mapping[str, I64]
) -> dict[str, object]:
    """Return the figures of one run.

    scans, rows  what the server answered, what the subscriber got (``SCAN``, ``ROW``)
    found        the scans that log and database have, see ``logged`` and ``stored``
    """
    device = scans["link"].astype(np.int64) * load.units + scans["unit"] - 1
    inside = (scans["first_ns"] >= window.first_ns) & (scans["first_ns"] < window.last_ns)
    wanted = _key(device, scans["stamp"])[inside & (scans["complete"] == 1)]
    requests = int(scans["requests"][inside].sum())
    seconds, cpu = window.seconds, window.cpu["gateway"]
    samples = len(wanted) * load.per_unit
    arrived = rows["arrival_ns"] - window.wall
    heard = rows[(arrived >= window.first_ns) & (arrived < window.last_ns)]
    found = {**found, "broker": _key(rows["device"].astype(np.int64), rows["stamp"])}
    return {
        "seconds": round(seconds, 2),
        "requests_per_s": round(requests / seconds, 1),
        "samples_per_s": round(samples / seconds, 1),
        "cpu_s": round(cpu, 2),
        "core_share": round(cpu / seconds, 4),
        "cpu_us_per_tag": round(cpu / max(1, samples) * 1e6, 3),
        "cpu_us_per_request": round(cpu / max(1, requests) * 1e6, 1),
        **window.memory,
        "others_core_share": {name: round(window.cpu[name] / seconds, 3) for name in OTHERS},
        "machine_cores_busy": round(window.cpu["machine"] / seconds, 2),
        "lateness_ms": quantiles(lateness(load, device[inside], scans["first_ns"][inside])),
        "missed_polls": missed(load, device[inside], scans["first_ns"][inside]),
        "scan_ms": quantiles((scans["last_ns"] - scans["first_ns"])[inside] / 1e6),
        "register_to_message_ms": quantiles(
            heard["arrival_ns"] / 1e6 - wall_ms(heard["stamp"], heard["time_ms"])
        ),
        "sample_to_message_ms": quantiles(heard["arrival_ns"] / 1e6 - heard["time_ms"]),
        "rows_answered": len(wanted),
        "rows_lost": {name: int((~np.isin(wanted, keys)).sum()) for name, keys in found.items()},
        "rows_twice": {name: len(keys) - len(np.unique(keys)) for name, keys in found.items()},
        "values_checked": int(rows["checked"].sum()),
        "values_wrong": int(rows["wrong"].sum()),
    }


def _key(device: I64, stamp: NDArray[Any]) -> I64:
    """Return one number for each scan: its device and its stamp."""
    return device * STAMP + stamp.astype(np.int64)


def lateness(load: Load, device: I64, first_ns: I64) -> NDArray[np.float64]:
    """Return by how many ms each scan began after its unit's tick.

    Ticks are a period apart and none is asked for a period late. So the tick stands, on a circle of
    one period, where half of the arrivals follow soonest; what came just before it moves it there.
    """
    period = load.period_ms * 1_000_000
    late = [np.empty(0)]
    for number in np.unique(device):
        phase = first_ns[device == number] % period
        tick = min(phase, key=lambda at: np.median((phase - at) % period))
        behind = (phase - tick + period // 20) % period
        late.append((behind - behind.min()) / 1e6)
    return np.concatenate(late)


def missed(load: Load, device: I64, first_ns: I64) -> int:
    """Return the periods in which a unit was not asked."""
    period, count = load.period_ms * 1_000_000, 0
    for number in np.unique(device):
        count += int((np.rint(np.diff(first_ns[device == number]) / period) - 1).clip(0).sum())
    return count + (len(load.devices) - len(np.unique(device)))


def quantiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Return median, 99th percentile and maximum."""
    if not len(values):
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.quantile(values, (0.5, 0.99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2),
            "max": round(float(values.max()), 2)}  # fmt: skip


def logged(load: Load, path: Path) -> I64:
    """Return the scans that stand in the agent's log."""
    numbers = {name: i for i, name in enumerate(load.devices)}
    archive, keys = Archive(path), [np.empty(0, np.int64)]
    for record in archive.records(0):
        block = archive.block(record)
        value = block["stamp"][block.quality[0] == 0]
        keys.append(_key(np.int64(numbers[block.schema.owner]), stamps(value)))
    archive.db.close()
    return np.concatenate(keys)


def stored(load: Load, store: "VictoriaMetrics | Influx") -> I64:
    """Return the scans that stand in the database."""
    numbers = {name: i for i, name in enumerate(load.devices)}
    keys = [np.empty(0, np.int64)]
    if isinstance(store, VictoriaMetrics):
        for labels, samples in store.series("sample_stamp"):
            value = np.array([value for _, value in samples])
            keys.append(_key(np.int64(numbers[labels["device"]]), stamps(value)))
    else:
        rows = store.query('SELECT stamp FROM "sample" GROUP BY device')
        device = np.array([numbers[row["device"]] for row in rows], np.int64)
        keys.append(_key(device, stamps(np.array([row["stamp"] for row in rows]))))
    return np.concatenate(keys)


# ---- the table -------------------------------------------------------------------------------

COLUMNS = (
    "load", "share of one core", "µs per tag", "µs per request", "RSS, PSS", "lateness p50, p99",
    "register → message p50, p99", "rows answered",
    "lost: log, broker, database", "missed polls", "cores busy",
)  # fmt: skip


def _row(run: Mapping[str, Any], name: str) -> str:
    late, latency, lost = run["lateness_ms"], run["register_to_message_ms"], run["rows_lost"]
    of_three = ", ".join(str(lost.get(n, "–")) for n in ("log", "broker", "database"))
    pss = "–" if run["pss_mb"] is None else f"{run['pss_mb']:.0f}"
    cells = (
        name,
        f"{100 * run['core_share']:.1f} %",
        f"{run['cpu_us_per_tag']:.2f}",
        f"{run['cpu_us_per_request']:.0f}",
        f"{run['rss_mb']:.0f}, {pss} MB",
        f"{late['p50']}, {late['p99']} ms",
        f"{latency['p50']:.0f}, {latency['p99']:.0f} ms",
        f"{run['rows_answered']}",
        of_three,
        f"{run['missed_polls']}",
        f"{run['machine_cores_busy']:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


NOTES = """
- *share of one core*, *µs per tag*, *µs per request*: user and system time of all threads of the
  agent, from `/proc`. The window holds a full minute, at which all slots close, and a checkpoint.
- *lateness*: arrival of a unit's first request at the server after its tick. The ticks of a unit
  are a period apart, and stand where its arrivals begin, modulo the period.
- *register → message*: from the moment in which the server computed the answer to the arrival of
  the message at a subscriber. What is published is what is committed, and a commit comes once a
  second at 1 s, every 100 ms at 100 ms.
- *cores busy*: of the machine, with broker, database, server and whatever else ran there: where it
  is near the number of cores, lateness and latency are not the agent's.
- *lost*: scans that the server answered in the window and that are not in the log, not at the
  broker's subscriber, not in the database.
- *the plain way*: `benchmarks/plain_gateway.py`, with pymodbus as its manual shows it, and a
  conversion, a row of SQLite and a `Point` per value; no metrics, no quality, no fsync.
"""
PACKAGES = ("python", "numpy", "uvloop", "pymodbus", "aiomqtt", "influxdb-client", "orjson")


def table(result: Mapping[str, Any]) -> str:
    """Return the result as a page of Markdown."""
    machine, runs, plain = result["machine"], result["runs"], result["plain"]
    packages = ", ".join(f"{name} {machine[name]}" for name in PACKAGES)
    checked = sum(run["values_checked"] for run in runs)
    wrong = sum(run["values_wrong"] for run in runs)
    baseline = ratio = ""
    if plain is not None:
        baseline = _row(plain, f"the plain way, {plain['load']}") + "\n"
        ratio = f"The plain way takes {result['ratio']} times the agent's CPU per tag.\n"
    return f"""# What the whole agent costs

Measured {machine["date"]} by `{machine["command"].strip()}`, which wrote this page.

{machine["processor"]}, {machine["cores"]} cores, {machine["system"]}; {packages};
{machine["broker"]}; {machine["database"]}; the load is served by: {runs[0]["server"]}.

float32 tags over {runs[0]["connections"]} Modbus TCP connections, with slots of every tag, an
energy KPI per connection, the log with fsync, MQTT (QoS 1) and InfluxDB's write call to real
servers on the same machine; windows of {runs[0]["seconds"]:.0f} s.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{"".join(_row(run, run["load"]) + chr(10) for run in runs)}{baseline}
{ratio}
Of {checked} values in messages that were compared with what the server must have said at that
time, {wrong} were wrong.
{NOTES}"""
