"""``edge-agent demo``: the bundled plant as a process of its own, and the agent on it.

Nothing has to be installed or started by hand: the simulators print where they listen, the demo
lays these addresses over ``configs/demo.yaml``, and the embedded store and page are the agent's
own.
"""

import asyncio
import json
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from edge_agent.agent import HISTORY, Agent
from edge_agent.clock import SECOND, PlantClock
from edge_agent.config import Config, data_dir, load
from edge_agent.errors import ConfigError, EdgeError, Fault
from edge_agent.metrics.base import MINUTE
from edge_agent.model import Family, Quality, SampleBlock
from edge_agent.outbox_archive import Archive
from edge_agent.units import Duration

READY = 30.0  # seconds the simulators may take to start
FASTEST = 0.05  # seconds of real time between two polls, at least
OPTIONS = {"web.listen": "--listen", "sinks.broker.url": "--mqtt", "sinks.influx": "--influx"}
PAGE = ("127.0.0.1", 8080)  # as configs/demo.yaml has it
CLOSING = Duration(30.0)  # plant time that the last window may take to close after its end


@dataclass(frozen=True)
class Demo:
    """What a person asked for.

    length  plant time to run from the next full minute on; None: until stopped
    log     folder in which the simulators note every scan that they serve
    start   plant time at the start, ns since the Unix epoch; None: now
    """

    listen: str | None = None
    length: Duration | None = None
    speed: float = 1.0
    data: Path | None = None
    mqtt: str | None = None
    influx: str | None = None
    log: Path | None = None
    seed: int = 1
    start: int | None = None


@asynccontextmanager
async def simulators(clock: PlantClock, demo: Demo) -> AsyncIterator[dict[str, str]]:
    """Run the simulators as a process; yield device -> where it is reached."""
    command = [sys.executable, "-m", "simulators", "--seed", str(demo.seed)]
    command += ["--start", str(clock.start), "--origin", str(clock.origin)]
    command += ["--speed", repr(clock.speed)]
    if demo.log is not None:
        command += ["--log", str(demo.log)]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C stops the agent, and the agent the simulators
    )
    try:
        if process.stdout is None:
            raise EdgeError("the simulators have no standard output")
        try:
            line = await asyncio.wait_for(process.stdout.readline(), READY)
        except TimeoutError as e:
            raise EdgeError(f"the simulators were not ready within {READY:g} s") from e
        if not line:
            raise EdgeError("the simulators ended before they were ready; their message is above")
        yield json.loads(line)["connect"]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def configuration(demo: Demo, connect: dict[str, str], data: Path) -> Config:
    """Return the demo's configuration with the simulators' addresses laid over it."""
    overlay: dict[str, object] = {
        "data": str(data),
        "devices": {name: {"connect": url} for name, url in connect.items()},
    }
    if demo.listen is not None:
        overlay["web"] = {"listen": demo.listen}
    elif _taken(PAGE):
        overlay["web"] = {"listen": f"{PAGE[0]}:0"}
    sinks: dict[str, object] = {}
    if demo.mqtt is not None:
        sinks["broker"] = {"type": "mqtt", "url": demo.mqtt}
    if demo.influx is not None:
        sinks["influx"] = _influx(demo.influx)
    if sinks:
        overlay["sinks"] = sinks
    try:
        config = load(data_dir() / "demo.yaml", overlay)
    except ConfigError as e:
        raise ConfigError([_of_option(fault) for fault in e.faults]) from e
    shortest = min(d.period_of(t) for d in config.devices.values() for t in d.tags.values())
    if shortest / demo.speed < FASTEST:
        fastest = math.floor(shortest / FASTEST)
        raise ConfigError([f"--speed {demo.speed:g} polls too often; {fastest} is the most here"])
    return config


def _of_option(fault: Fault | str) -> Fault | str:
    """Return a mistake in what was laid over the file as one of the option that it came from."""
    if isinstance(fault, Fault):
        for place, option in OPTIONS.items():
            if fault.message.startswith(place):
                return f"{option}: {fault.message.removeprefix(place).lstrip(':. ')}"
    return fault


def _taken(address: tuple[str, int]) -> bool:
    """Return whether somebody listens there; a second demo then takes any free port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return True
    return False


def _influx(url: str) -> dict[str, object]:
    """Return the sink for ``http://host:8086?org=plant&bucket=energy``."""
    if not os.environ.get("INFLUX_TOKEN"):
        raise ConfigError(["--influx: put the token into the environment variable INFLUX_TOKEN"])
    parts = urlsplit(url)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return {
        "type": "influxdb",
        "url": f"{parts.scheme}://{parts.netloc}",
        "org": options.get("org", "demo"),
        "bucket": options.get("bucket", "demo"),
        "token": "${INFLUX_TOKEN}",
    }


async def run(demo: Demo, say: Callable[[str], None], watch: Callable[[Agent], None]) -> int:
    """Run the demo; return the exit status: 0 when nothing was lost.

    say    prints a line for the person
    watch  is handed the agent once it exists, to stop it on a signal
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as temporary:
        data = demo.data or Path(temporary)
        configuration(demo, {}, data)  # what is wrong is told before anything is started
        clock = PlantClock(_start(demo, data), time.monotonic_ns(), demo.speed)
        async with simulators(clock, demo) as connect:
            agent = Agent(configuration(demo, connect, data.absolute()), clock)
            watch(agent)
            guide = asyncio.create_task(_guide(agent, clock, demo, data, say), name="guide")
            guide.add_done_callback(lambda _: agent.stop())
            try:
                await agent.run()
            finally:
                guide.cancel()
                await asyncio.wait([guide])
            if not guide.cancelled():
                guide.result()  # raises what went wrong
            return _summary(agent, say)


def _start(demo: Demo, data: Path) -> int:
    """Return the plant's time at the start: behind what a faster run has stored already."""
    start = time.time_ns() if demo.start is None else demo.start
    log = data / "log.db"
    return max(start, Archive(log).latest_ns + SECOND) if log.exists() else start


async def _guide(
    agent: Agent, clock: PlantClock, demo: Demo, data: Path, say: Callable[[str], None]
) -> None:
    """Say where everything is; return when the demo is over."""
    await agent.ready.wait()
    say(f"dashboard   http://{agent.address}/")
    say(f"data        {data}{'' if demo.data else '  (removed at the end)'}")
    if demo.length is None:
        say("stop        Ctrl-C")
        await asyncio.Event().wait()
    else:
        say(f"running     {demo.length:g} s")
        await _until(agent, clock, demo.length)


_NO_FIGURES = {Family.SLOT, Family.COMPUTED, Family.CHECK, Family.ALARM}


async def _until(agent: Agent, clock: PlantClock, length: Duration) -> None:
    """Return when the time asked for has passed and its windows are closed."""
    begin = -(-clock.wall_ns() // MINUTE) * MINUTE
    end = begin + length.ns
    last_window = end // MINUTE * MINUTE
    awaited = {name for name, kpi in agent.config.metrics.items() if "1min" in kpi.windows}
    while clock.wall_ns() < end + CLOSING.ns:
        await clock.sleep(0.2)
        rows = [row for row in _kpi_rows(agent) if row.schema.name == "1min"]
        closed = {row.schema.owner for row in rows if row.time[-1] >= last_window}
        if clock.wall_ns() >= end and closed >= awaited:
            return


def _kpi_rows(agent: Agent) -> list[SampleBlock]:
    families = [f for f in Family if f.derived and f not in _NO_FIGURES]
    return [row for family in families for row in agent.newest(family)]


def _summary(agent: Agent, say: Callable[[str], None]) -> int:
    """Say what was read, computed, stored and lost; return the exit status."""
    counts = agent.counts()
    history = counts.readers[HISTORY]
    lost = counts.dropped + sum(r.refused + r.dropped for r in counts.readers.values())
    missing = sum(r.pending for r in counts.readers.values())
    say("")
    say(f"read        {counts.read} rows from {len(agent.config.devices)} devices")
    say(f"substituted {counts.substituted} rows for devices that did not answer")
    say(f"computed    {counts.derived} rows of slots and KPIs")
    say(f"stored      {counts.appended} rows in the log, {history.delivered} in the local history")
    for name, reader in counts.readers.items():
        if name != HISTORY:
            lost_here = f", {reader.refused} refused, {reader.dropped} dropped"
            told = lost_here if reader.refused or reader.dropped else ""
            say(f"delivered   {reader.delivered} rows to {name}, {reader.pending} left{told}")
    say(f"lost        {lost} rows{'' if counts.conserved else '; the counts do not add up'}")
    for row in _kpi_rows(agent):
        say("")
        for line in _figures(row, agent.config.site.zone):
            say(line)
    return 0 if lost == 0 and missing == 0 and counts.conserved else 1


def _figures(row: SampleBlock, zone: ZoneInfo) -> Iterator[str]:
    """Yield a row as a person reads it: its stream and end, and the figures it has."""
    end = datetime.fromtimestamp(int(row.time[-1]) // SECOND, zone)
    columns = [
        f"{tag.name} {value:.6g}" + ("" if tag.unit.code == "1" else f" {tag.unit.code}")
        for tag, value, quality in zip(
            row.schema.tags, row.value[:, -1], row.quality[:, -1], strict=True
        )
        if quality < Quality.BAD
    ]
    yield f"{row.schema.stream} until {end:%H:%M}"
    whole = "; ".join(column.replace(" ", "\N{NO-BREAK SPACE}") for column in columns)
    for line in wrap(
        whole, 88, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    ):
        yield line.replace("\N{NO-BREAK SPACE}", " ")
