"""What delivery costs: rows from the log to a real broker and a real InfluxDB engine.

    python -m benchmarks.bench_delivery                       JSON to standard output
    python -m benchmarks.bench_delivery --devices 1000 --ticks 10
    python -m benchmarks.bench_delivery -o result.json --table docs/benchmark-delivery.md

*live*: one row of each device is appended and committed, and the tick ends when the peers have
acknowledged it. *drain*: rows of an outage, one per record as they were read, wait in a log that is
opened anew. Both go through ``run_sink``, the outbox and the sinks as in the agent. CPU is that of
this process, all its threads (``time.process_time``); broker and database are other processes. The
ways are measured in turn in each round, and the figure is the median of the rounds, in µs of CPU
per value. What a sink costs is its way less ``log``, which appends and commits only.

*held*: a callback each millisecond notes for how long the loop was held while the backlog drains to
both peers and 1 000 tags are read at 100 ms; beside it the same without a backlog and peers.

The baselines send the same rows in the same rounds without a log: ``plain mqtt`` is paho with one
JSON object per row, ``plain influxdb`` is influxdb-client with a ``Point`` per row.
"""

import argparse
import asyncio
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.delivery_figures import machine, quantiles, ratios, spread, table
from benchmarks.delivery_load import Fleet, PlainInflux, PlainMqtt, Ticker, Watched
from edge_agent.agent import SWITCH
from edge_agent.clock import SystemClock
from edge_agent.delivery import run_sink
from edge_agent.health import SinkHealth
from edge_agent.model import Site
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.sinks.influxdb import InfluxConfig
from edge_agent.sinks.mqtt import MqttConfig
from edge_agent.sinks.mqtt_connection import Version
from edge_agent.sinks.mqtt_payload import Payload
from edge_agent.units import Secret
from tests.servers import Influx, Mosquitto

GIB = 1 << 30
WARM = 2  # ticks before those that count
LIVE_FIRST = 60.0  # seconds, as in the agent
PLAIN = 20  # ticks that a plain way drains at once
WAYS: dict[str, tuple[str, ...]] = {
    "log": (),
    "no peer": ("nothing",),
    "mqtt": ("mqtt",),
    "mqtt 3.1.1": ("mqtt 3.1.1",),
    "mqtt rows": ("mqtt rows",),
    "influxdb": ("influxdb",),
    "both": ("mqtt", "influxdb"),
}
BASELINES = {"plain mqtt": PlainMqtt, "plain influxdb": PlainInflux}
NUMBERS = count(1)


@dataclass
class Bench:
    """Servers, load and what was measured so far."""

    fleet: Fleet
    broker: Mosquitto
    store: Influx
    folder: Path
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # µs per value
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # rows/s
    latency: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # ms
    held: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # ms

    def sink(self, kind: str, site: str) -> Watched:
        """Return a sink of that kind, as the agent builds it."""
        place = Site(site, "main", "")
        if kind == "nothing":
            return Watched(None)
        if kind.startswith("mqtt"):
            version: Version = "3.1.1" if kind == "mqtt 3.1.1" else 5
            payload: Payload = "rows" if kind == "mqtt rows" else "columns"
            mqtt = MqttConfig(url=self.broker.url, version=version, payload=payload)
            return Watched(mqtt.build(place))
        store = self.store
        config = InfluxConfig(
            url=store.url, org=store.org, bucket=store.bucket, token=Secret(store.token)
        )
        return Watched(config.build(place))

    def check(self, site: str, rows: int) -> None:
        """Fail unless the database holds each row once."""
        found = self.store.query(f"SELECT count(quality) FROM sample WHERE site = '{site}'")
        assert found[0]["count"] == rows, f"{found[0]['count']} rows of {rows}"


def opened(path: Path, kinds: tuple[str, ...], commit: float) -> Outbox:
    budget = Budget(raw_bytes=8 * GIB, raw_age_ns=1 << 60, derived_bytes=GIB)
    return Outbox(
        path,
        [ReaderSpec(k, lambda _: True, LIVE_FIRST) for k in kinds],
        budget=budget,
        commit=commit,
    )


@asynccontextmanager
async def delivering(outbox: Outbox, sinks: dict[str, Watched]) -> AsyncIterator[None]:
    """Run the log and the sinks."""
    await outbox.start()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                run_sink(SinkHealth(k, k), sink, outbox.reader(k), outbox, SystemClock())
            )
            for k, sink in sinks.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
    await outbox.close()


async def live(bench: Bench, way: str, ticks: int) -> None:
    """Measure ticks one after the other, each committed and acknowledged before the next."""
    fleet, site = bench.fleet, f"run-{next(NUMBERS)}"
    blocks = [fleet.tick(i) for i in range(WARM + ticks)]
    sinks = {kind: bench.sink(kind, site) for kind in WAYS[way]}
    outbox = opened(bench.folder / f"{site}.db", WAYS[way], 60.0)
    begun = 0.0
    async with delivering(outbox, sinks):
        for i, tick in enumerate(blocks):
            if i == WARM:
                begun = time.process_time()
            for block in tick:
                outbox.append([block], {"read": 1})
            await outbox.flush()
            committed = time.perf_counter()
            for kind, sink in sinks.items():
                await sink.reach((i + 1) * fleet.devices)
                if i >= WARM and len(sinks) == 1 and kind != "nothing":
                    bench.latency[f"live, {way}"].append((sink.done_at - committed) * 1e3)
        await outbox.flush()
        used = time.process_time() - begun
    bench.cpu[f"live, {way}"].append(used / (ticks * fleet.values) * 1e6)
    if "influxdb" in sinks:
        bench.check(site, len(blocks) * fleet.devices)


async def backlog(bench: Bench, ticks: int) -> None:
    """Write a log whose readers have had nothing of it: one file for each way."""
    for way in filter(WAYS.get, WAYS):
        outbox = opened(bench.folder / f"{way}.backlog", WAYS[way], 0.2)
        await outbox.start()
        for i in range(ticks):
            for block in bench.fleet.tick(i):
                outbox.append([block], {"read": 1})
            if i % 50 == 0:
                await outbox.flush()
        await outbox.close()


async def drain(bench: Bench, way: str, ticks: int) -> None:
    """Measure how a backlog leaves; it costs all that ``live`` does less encoding and appending."""
    site, rows = f"run-{next(NUMBERS)}", ticks * bench.fleet.devices
    path = bench.folder / f"{site}.db"
    shutil.copy(bench.folder / f"{way}.backlog", path)
    outbox = opened(path, WAYS[way], 1.0)
    sinks = {kind: bench.sink(kind, site) for kind in WAYS[way]}
    begun, used = time.perf_counter(), time.process_time()
    async with delivering(outbox, sinks):
        for sink in sinks.values():
            await sink.reach(rows)
        seconds = time.perf_counter() - begun
        await outbox.flush()
        used = time.process_time() - used
    bench.cpu[f"drain, {way}"].append(used / (rows * bench.fleet.tags) * 1e6)
    bench.rates[f"drain, {way}"].append(rows / seconds)
    if "influxdb" in sinks:
        bench.check(site, rows)
    path.unlink()


async def held(bench: Bench, way: str, ticks: int, alone: float) -> None:
    """Measure how long the loop is held while a backlog drains and 1 000 tags are read at 100 ms.

    It ends when the backlog has gone; without a peer, after ``alone`` seconds.
    """
    site, rows = f"run-{next(NUMBERS)}", ticks * bench.fleet.devices
    path = bench.folder / f"{site}.db"
    kinds = WAYS[way]
    if kinds:
        shutil.copy(bench.folder / f"{way}.backlog", path)
    outbox = opened(path, kinds, 0.1)
    sinks = {kind: bench.sink(kind, site) for kind in kinds}
    polled = Fleet(10, 100, 100_000_000)
    polled.tick(0)
    gc.collect()
    gc.freeze()  # as the agent does when it has started
    ticker = Ticker(asyncio.get_running_loop())

    async def poll() -> None:
        for number in count(20_000_000):
            for block in polled.tick(number):
                outbox.append([block], {"read": 1})
            await asyncio.sleep(0.1)

    async with delivering(outbox, sinks):
        task = asyncio.create_task(poll())
        if sinks:
            for sink in sinks.values():
                await sink.reach(rows)
        else:
            await asyncio.sleep(alone)
        task.cancel()
        ticker.stop()
    gc.unfreeze()
    bench.held[f"{way}: late"] += ticker.late
    bench.held[f"{way}: cpu"] += ticker.cpu
    path.unlink()


def plainly(bench: Bench, way: str, ticks: int) -> None:
    """Measure a baseline: tick by tick, and as a backlog in larger batches."""
    site = f"run-{next(NUMBERS)}"
    server: Any = bench.broker if way == "plain mqtt" else bench.store
    blocks = [bench.fleet.tick(i) for i in range(WARM + ticks + PLAIN)]
    client = BASELINES[way](server, site)
    for tick in blocks[:WARM]:
        client.write(tick)
    used = time.process_time()
    for tick in blocks[WARM : WARM + ticks]:
        client.write(tick)
    used = time.process_time() - used
    bench.cpu[f"live, {way}"].append(used / (ticks * bench.fleet.values) * 1e6)
    rows = [block for tick in blocks[-PLAIN:] for block in tick]
    begun, used = time.perf_counter(), time.process_time()
    client.write(rows)
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    bench.cpu[f"drain, {way}"].append(used / (len(rows) * bench.fleet.tags) * 1e6)
    bench.rates[f"drain, {way}"].append(len(rows) / seconds)
    client.close()
    if way == "plain influxdb":
        bench.check(site, len(blocks) * bench.fleet.devices)


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, object]:
    """Return the figures, the ways taken in turn."""
    if options.backlog:
        run(backlog(bench, options.backlog))
    for number in range(options.repeats):
        for way in options.way or [*WAYS, *BASELINES]:
            gc.collect()
            if way in BASELINES:
                plainly(bench, way, options.ticks)
                continue
            run(live(bench, way, options.ticks))
            if way != "log" and options.backlog:
                run(drain(bench, way, options.backlog))
        if options.backlog:
            for way in ("log", "both"):
                run(held(bench, way, options.backlog, options.alone))
        print(f"round {number + 1} of {options.repeats} is done", file=sys.stderr)
    rate = bench.fleet.devices * 1e9 / bench.fleet.period_ns
    rates = {way: statistics.median(found) for way, found in bench.rates.items()}
    cpu = {way: spread(found) for way, found in bench.cpu.items()}
    return {
        "devices": bench.fleet.devices,
        "tags_of_a_device": bench.fleet.tags,
        "ticks": options.ticks,
        "backlog_rows": options.backlog * bench.fleet.devices,
        "rounds": options.repeats,
        "cpu_us_per_value": cpu,
        "ratios": ratios(cpu),
        "rows_per_s": {way: round(found) for way, found in rates.items()},
        "times_the_live_rate": {way: round(found / rate, 1) for way, found in rates.items()},
        "loop_held_ms": {way: quantiles(found) for way, found in bench.held.items()},
        "commit_to_acknowledged_ms": {w: quantiles(found) for w, found in bench.latency.items()},
    }


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on the loop that the agent takes: uvloop where it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        pass
    sys.setswitchinterval(SWITCH)  # as the agent does
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


def parsed(arguments: list[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bench_delivery", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--devices", type=int, default=100, help="read together (100)")
    add("--tags", type=int, default=100, help="of each device (100)")
    add("--ticks", type=int, default=30, help="that a round of live takes (30)")
    add("--backlog", type=int, default=200, help="ticks that wait when a drain begins (200)")
    add("--alone", type=float, default=5.0, help="seconds that the loop is watched alone (5)")
    add("--repeats", type=int, default=5, help="rounds (5)")
    add("--way", action="append", choices=[*WAYS, *BASELINES], help="only this; any number")
    add("--folder", help="where the log is written: chooses the disk")
    add("--table", type=Path, metavar="FILE", help="write the figures as Markdown")
    add("-o", "--output", type=Path, metavar="FILE", help="write the JSON here")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        with Mosquitto(folder) as broker, Influx(folder) as store:
            bench = Bench(Fleet(options.devices, options.tags), broker, store, folder)
            result = {"machine": machine(arguments)} | measure(bench, options)
    text = json.dumps(result, indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n")
    if options.table is not None:
        options.table.write_text(table(result))


if __name__ == "__main__":
    main(sys.argv[1:])
