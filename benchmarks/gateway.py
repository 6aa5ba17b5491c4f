"""What the whole agent costs: float32 tags from Modbus TCP to a broker and a database.

    python -m benchmarks.gateway                        all loads; JSON to standard output
    python -m benchmarks.gateway --load 100000@1s --seconds 30
    python -m benchmarks.gateway -o result.json --table docs/benchmark.md

The agent runs as its own process, as ``edge-agent run`` does: slots of every tag, an energy KPI per
connection, the log with fsync, mosquitto and VictoriaMetrics (or ``--database influxdb``). A server
computes every register from the time and keeps what it answered, so each of its scans is looked for
in the log, at the broker and in the database, and the values of messages are checked.

CPU is the agent's own time (``/proc/<pid>/stat``, all threads), so neighbours on the machine do not
count. Lateness is the arrival of a unit's first request at the server after its tick. The usual
65 s hold a checkpoint and a full minute, at which all slots close. The baseline
(``plain_gateway.py``) runs on the first load.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.gateway_figures import Window, figures, logged, stored, table
from benchmarks.gateway_load import HERE, Load, Server, as_json, configuration
from benchmarks.gateway_subscriber import ROW
from tests.servers import Influx, Mosquitto, VictoriaMetrics, free_port, program

LOADS = ("10000@1s", "50000@1s", "100000@1s", "10000@100ms")
START = 300.0  # seconds in which every unit must have been read
SETTLE = 2.5  # seconds after the window in which its last rows are on their way
TICKS = os.sysconf("SC_CLK_TCK")


class Store(VictoriaMetrics):
    """VictoriaMetrics with memory for a hundred thousand series."""

    def command(self) -> list[str]:
        return [*super().command()[:-1], "-memory.allowedBytes=256MB"]


Peer = Store | Influx


@dataclass
class Process:
    """A process that is measured."""

    pid: int

    @property
    def cpu(self) -> float:
        """Seconds of CPU of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> dict[str, float]:
        """Return resident and proportional memory and the most there was, MB; None is unknown."""
        found = dict[str, float]()
        for file, names in (("status", ("VmRSS", "VmHWM")), ("smaps_rollup", ("Pss",))):
            try:
                lines = Path(f"/proc/{self.pid}/{file}").read_text().splitlines()
            except PermissionError:
                continue
            for line in lines:
                name, _, rest = line.partition(":")
                if name in names:
                    found[name] = round(int(rest.split()[0]) / 1024, 1)
        return {"rss_mb": found["VmRSS"], "pss_mb": found.get("Pss"), "peak_mb": found["VmHWM"]}


@contextmanager
def started(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process in the root of the repository; it is killed if it is still there at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=HERE.parent, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def subscriber(port: int, file: Path, load: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "benchmarks.gateway_subscriber", str(port), str(file), load]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=HERE.parent, **pipes)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the subscriber does not start")
        yield process
    finally:
        process.kill()
        process.communicate()


def run(load: Load, options: argparse.Namespace, *, plain: bool = False) -> dict[str, object]:
    """Return the figures of one load."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        server = stack.enter_context(Server(folder, load, compiler=not options.no_compiler))
        broker = stack.enter_context(Mosquitto(folder))
        store = stack.enter_context(
            Influx(folder) if options.database == "influxdb" else Store(folder)
        )
        told = as_json(load, server.base)
        rows_file, log = folder / "rows", folder / "gateway.log"
        listener = stack.enter_context(subscriber(broker.port, rows_file, told))
        command = (
            plain_command(folder, server, broker, store)
            if plain
            else agent_command(folder, server, sinks_of(broker, store), options)
        )
        began = time.monotonic()
        gate = stack.enter_context(started(command, log))
        try:
            start = until_read(gate, server, began)
            time.sleep(options.warm_up)
            pids = {"gateway": gate.pid, "server": server.pid, "subscriber": listener.pid}
            pids["broker"] = broker.pid
            window = observe({n: Process(pid) for n, pid in pids.items()}, options.seconds)
            time.sleep(SETTLE)
            gate.send_signal(signal.SIGTERM)
            gate.wait(60)
        except BaseException:
            sys.stderr.write(log.read_text()[-4000:])
            raise
        listener.communicate()
        server.stop()
        rows = np.fromfile(rows_file, ROW)
        found = {}
        if not plain:
            found = {
                "log": logged(load, folder / "data" / "log.db"),
                "database": stored(load, store),
            }
        return {
            "load": str(load),
            "tags": load.tags,
            "period_s": load.period,
            "connections": load.links,
            "devices": len(load.devices),
            "server": server.kind,
            "start_s": round(start, 1),
            **figures(load, window, server.scans, rows, found),
        }


def plain_command(folder: Path, server: Server, broker: Mosquitto, store: Peer) -> list[str]:
    """Return the command of the baseline."""
    module = [sys.executable, "-m", "benchmarks.plain_gateway", str(folder)]
    told = as_json(server.load, server.base)
    return [*module, told, str(broker.port), store.url, *map(str, server.ports)]


def agent_command(
    folder: Path, server: Server, sinks: str, options: argparse.Namespace
) -> list[str]:
    """Write the agent's configuration and return its command."""
    text = configuration(server.load, server.ports, sinks, free_port(), options.commit)
    (folder / "plant.yaml").write_text(text)
    profiler = ["-m", "cProfile", "-o", options.profile] if options.profile else []
    return [sys.executable, *profiler, "-m", "edge_agent", "run", str(folder / "plant.yaml")]


def sinks_of(broker: Mosquitto, store: Peer) -> str:
    """Return the section of the configuration; the token comes from the environment."""
    os.environ["BENCH_TOKEN"] = store.token
    return f"""sinks:
  broker: {{type: mqtt, url: "{broker.url}"}}
  store: {{type: influxdb, url: "{store.url}", org: {store.org}, bucket: {store.bucket},
          token: "${{BENCH_TOKEN}}"}}
"""


def until_read(gate: "subprocess.Popen[bytes]", server: Server, began: float) -> float:
    """Return the seconds until as many scans are answered as there are units."""
    units = len(server.load.devices)
    while server.counts()[1] < units:
        if gate.poll() is not None or time.monotonic() - began > START:
            raise RuntimeError("the gateway does not read all units")
        time.sleep(0.05)
    return time.monotonic() - began


def observe(processes: dict[str, Process], seconds: float) -> Window:
    """Return what the processes used in a time, and how much memory the gateway had after it."""
    before = {name: process.cpu for name, process in processes.items()}
    first, busy = time.monotonic_ns(), machine_cpu()
    time.sleep(seconds)
    last, busy = time.monotonic_ns(), machine_cpu() - busy
    cpu = {name: process.cpu - before[name] for name, process in processes.items()}
    memory = processes["gateway"].memory()
    wall = time.time_ns() - time.monotonic_ns()
    return Window(first, last, wall, cpu | {"machine": busy}, memory)


def machine_cpu() -> float:
    """Return the seconds of CPU that all processes have used, neighbours included."""
    user, nice, system, _, _, irq, soft = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, irq, soft))) / TICKS


def machine(options: argparse.Namespace) -> dict[str, object]:
    """Return where and with what it was measured."""
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ("numpy", "uvloop", "pymodbus", "aiomqtt", "influxdb-client", "orjson")
    said = subprocess.run(
        [program("mosquitto"), "-h"], capture_output=True, text=True, check=False
    ).stdout
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: of(package) for package in packages},
        "broker": said.splitlines()[0] if said else "mosquitto",
        "database": options.database,
        "compiler": shutil.which("cc") is not None and not options.no_compiler,
        "command": "python -m benchmarks.gateway " + " ".join(options.arguments),
    }


def parsed(arguments: list[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("benchmarks.gateway", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--load", action="append", metavar="TAGS@PERIOD", help="100000@1s; any number of times")
    add("--seconds", type=float, default=65.0, help="length of the window (65)")
    add("--warm-up", type=float, default=10.0, help="seconds before it (10)")
    add("--database", choices=("victoria-metrics", "influxdb"), default="victoria-metrics")
    add("--commit", default="", metavar="DURATION", help="the agent's own choice without")
    add("--no-plain", action="store_true", help="leave the baseline out")
    add("--no-compiler", action="store_true", help="serve the load with Python")
    add("--folder", help="where the log is written: chooses the disk")
    add("--profile", metavar="FILE", help="run the agent under cProfile (its figures are worse)")
    add("--table", type=Path, metavar="FILE", help="write the figures as Markdown")
    add("-o", "--output", type=Path, metavar="FILE", help="write the JSON here")
    options = parser.parse_args(arguments)
    options.arguments = arguments
    return options


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    loads = [Load.parse(text) for text in options.load or LOADS]
    plain = None if options.no_plain else run(loads[0], options, plain=True)
    runs = []
    for load in loads:
        runs.append(run(load, options))
        print(f"{load}: {json.dumps(runs[-1])}", file=sys.stderr)
    result = {"machine": machine(options), "runs": runs, "plain": plain}
    if plain is not None:
        result["ratio"] = round(plain["cpu_us_per_tag"] / runs[0]["cpu_us_per_tag"], 1)
    text = json.dumps(result, indent=2)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text + "\n")
    if options.table is not None:
        options.table.write_text(table(result))


if __name__ == "__main__":
    main(sys.argv[1:])
