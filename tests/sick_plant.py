"""A hundred simulated devices of which some are sick, the agent on them, and what both say of it.

The simulators run in a process of their own, the agent in this one, both by the box's clock. Who
was asked when is counted by the simulators; what a device said is in their log of scans.
"""

import asyncio
import json
import os
import struct
import sys
import time
from asyncio.subprocess import PIPE, Process
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import yaml

from edge_agent.agent import Agent
from edge_agent.config import load
from edge_agent.model import Quality, SampleBlock, concatenate
from edge_agent.outbox_archive import Archive
from simulators.faults import Script, read_script

SECOND = 1_000_000_000
AHEAD = 6.0  # seconds from the start of the simulators until the script's times begin to count
AHEAD_OPCUA = 10.0  # a control system takes longer to start than a meter
SETTLED = 4.0  # seconds that the agent has before it is judged, and before then if it can be
PATIENCE = 8.0  # seconds that a sound device may take to be heard at the start
SERIAL = ("modbus+rtu", "dlt645+serial", "cjt188+serial")
GAUGES = ("a", "b", "c")
SAME = 0.45  # seconds between a row's time and the answers it is made of, at most; and their delay

TAGS: dict[str, dict[str, object]] = {
    "energy": {"at": "hr:0", "type": "u32", "scale": 0.001, "kind": "counter", "unit": "kWh"},
    "a": {"at": "hr:2", "type": "f32"},
    "b": {"at": "hr:4", "type": "f32"},
    "c": {"at": "ir:0", "type": "f32"},
}  # the counter counts the ms since the start: it tells how old a value is
ITEMS: dict[str, dict[str, object]] = {
    "energy": {"at": "di:00010000", "unit": "kWh", "kind": "counter"},
    "power": {"at": "di:02030000", "unit": "kW"},
}
WATER: dict[str, dict[str, object]] = {"volume": {"at": "volume", "unit": "m3", "kind": "counter"}}
NODES: dict[str, dict[str, object]] = {
    name: {"at": f"nsu=urn:demo:plant;s={{}}.{name}", "kind": "gauge"} for name in GAUGES
}


@dataclass
class Plant:
    """Devices as they are written in a configuration, and the script of their trouble.

    period  seconds between two polls
    """

    period: float = 1.0
    devices: dict[str, dict[str, object]] = field(default_factory=dict)
    faults: list[dict[str, object]] = field(default_factory=list)
    last_link: int = 0

    @property
    def sick(self) -> set[str]:
        return {str(fault["device"]) for fault in self.faults}

    @property
    def sound(self) -> set[str]:
        return set(self.devices) - self.sick

    def link(
        self,
        scheme: str,
        *troubles: str,
        timeout: str = "200ms",
        tags: dict[str, dict[str, object]] | None = None,
    ) -> None:
        """Add a link with a unit for each trouble; an empty one is a sound unit."""
        self.last_link += 1
        where = f"/dev/ttyS{self.last_link}" if scheme in SERIAL else f"10.0.0.{self.last_link}:502"
        address, poll = f"{scheme}://{where}", f"{self.period}s"
        for unit, trouble in enumerate(troubles, 1):
            kind = trouble.split(",", maxsplit=1)[0] or "sound"
            name = f"d{len(self.devices) + 1:03}-{kind}"
            option, table = f"unit={unit}", tags or TAGS
            if scheme == "opc.tcp":
                option = ""
                table = {
                    tag: row | {"at": str(row["at"]).format(name)} for tag, row in NODES.items()
                }
            elif scheme.startswith("dlt645"):
                option, table = f"address=20230517{unit:04}", ITEMS
            elif scheme.startswith("cjt188"):
                option, table = f"address=7833001122{unit:04}", WATER
            connect = f"{address}?{option}".rstrip("?")
            device = {"connect": connect, "poll": poll, "timeout": timeout, "tags": table}
            self.devices[name] = device
            if trouble:
                self.faults.append(yaml.safe_load(f"{{device: {name}, kind: {trouble}}}"))

    def written(self, folder: Path, connect: Mapping[str, str] | None = None) -> Path:
        """Write the configuration; return its path."""
        devices = {
            name: device | {"connect": (connect or {}).get(name, device["connect"])}
            for name, device in self.devices.items()
        }
        tree = {"site": {"id": "works"}, "devices": devices, "web": {"listen": "127.0.0.1:0"}}
        path = folder / ("agent.yaml" if connect else "plant.yaml")
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        return path


@dataclass
class Run:
    """What a run left behind.

    truth      device -> what the simulators count of it
    said       device -> what it said: (ns, function, address, words) or (ns, node, value)
    stored     stream -> its rows
    plant      what was played
    zero       from when the script's times count, ns
    judged     from when on the agent is judged, ns: the same, or later on a slow machine
    ended      when it was told to stop, ns
    connects   device -> connections made of its link, by the agent's word
    waited     (ns, ns): until then the simulators and the agent have waited so long for a processor
    """

    folder: Path
    plant: Plant
    zero: int
    truth: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    judged: int = 0
    ended: int = 0
    connects: dict[str, int] = field(default_factory=dict)
    waited: list[tuple[int, int]] = field(default_factory=list)

    @property
    def script(self) -> Script:
        return read_script(self.folder / "faults.yaml")

    def stored(self) -> dict[str, SampleBlock]:
        archive = Archive(self.folder / "data" / "log.db")
        blocks: dict[str, list[SampleBlock]] = {}
        for record in archive.records(0):
            block = archive.block(record)
            blocks.setdefault(block.schema.stream, []).append(block)
        archive.db.close()
        return {stream: concatenate(found) for stream, found in blocks.items()}

    def said(self, device: str) -> list[dict[str, object]]:
        path = self.folder / "scans" / f"{device}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def scans(self, device: str, after: float = 0.0) -> list[int]:
        """Return when the first request of each scan of a device came, ns.

        after  seconds since it is judged
        """
        if str(self.plant.devices[device]["connect"]).startswith("modbus"):
            told = self.truth[device]
            most = max(told["asked"])
            times = [t for t, n in zip(told["times"], told["asked"], strict=True) if n == most]
        else:
            times = [int(str(line["t"])) for line in self.said(device) if _is_first(line)]
        begin = self.judged + round(after * SECOND)
        return [t for t in times if begin <= t <= self.ended]


@asynccontextmanager
async def simulators(run: Run) -> AsyncIterator[tuple[dict[str, object], int]]:
    faults = run.folder / "faults.yaml"
    faults.write_text(yaml.safe_dump(run.plant.faults), encoding="utf-8")
    origin = time.monotonic_ns() + run.zero - time.time_ns()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "simulators", str(run.plant.written(run.folder)),
        "--faults", str(faults), "--log", str(run.folder / "scans"),
        "--start", str(run.zero), "--origin", str(origin), "--serial",
        stdin=PIPE, stdout=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline()), process.pid
    finally:
        await _ended(process)


async def _ended(process: Process) -> bytes:
    """Close a process's input and wait for its end; return what it said."""
    try:
        async with asyncio.timeout(10):
            said, _ = await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
    return said


WATCH = """
import json, select, sys, time
rows, files = [], [open(f"/proc/{pid}/schedstat") for pid in sys.argv[1:]]
while not select.select([sys.stdin], [], [], 0.02)[0]:
    waited = 0
    for file in files:
        file.seek(0)
        waited += int(file.read().split()[1])
    rows.append((time.time_ns(), waited))
print(json.dumps(rows))
"""


@asynccontextmanager
async def processor(run: Run, *pids: int) -> AsyncIterator[None]:
    """Note meanwhile how long the main threads of some processes could run but had no processor."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WATCH, *map(str, pids), stdin=PIPE, stdout=PIPE
    )
    try:
        yield
    finally:
        run.waited = json.loads(await _ended(process))


async def play(
    plant: Plant, folder: Path, seconds: float, sections: Mapping[str, object] | None = None
) -> Run:
    """Run the agent on the plant for so long; return what both sides say of it.

    sections  of the configuration, beside the devices
    """
    slow = any(str(device["connect"]).startswith("opc") for device in plant.devices.values())
    ahead = AHEAD_OPCUA if slow else AHEAD
    run = Run(folder, plant, time.time_ns() + round(ahead * SECOND))
    async with simulators(run) as (ready, pid), processor(run, pid, os.getpid()):
        connect = ready["connect"]
        assert isinstance(connect, dict)
        overlay = {"data": str(folder / "data"), **(sections or {})}
        agent = Agent(load(plant.written(folder, connect), overlay))
        await until(run.zero - round(SETTLED * SECOND))
        task = asyncio.create_task(agent.run(), name="agent")
        try:
            await agent.ready.wait()
            await until(max(run.zero, time.time_ns() + round((SETTLED - 1.0) * SECOND)))
            await _all_heard(agent, plant.sound)
            run.judged = time.time_ns()
            await until(run.judged + round(seconds * SECOND))
            run.ended = time.time_ns()
            page = f"{ready['truth']}?times"
            run.truth = json.loads(await asyncio.to_thread(lambda: urlopen(page, timeout=5).read()))
            for link in agent.health.links.values():
                run.connects |= dict.fromkeys(link.devices, link.connects)
        finally:
            agent.stop()
            await task
    return run


async def _all_heard(agent: Agent, devices: Collection[str]) -> None:
    """Return when none of some devices is silent any more, or ``PATIENCE`` is at its end.

    While everything starts, on a machine that others use too, an answer may come too late; the unit
    is then asked again when the silent units of its line have had their share.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        silent = {unit for link in agent.health.links.values() for unit in link.silent}
        if silent.isdisjoint(devices):
            return
        await asyncio.sleep(0.1)


async def until(t: int) -> None:
    """Return at a time of the box's clock, ns."""
    await asyncio.sleep(max(0.0, (t - time.time_ns()) / SECOND))


# ---- judging ---------------------------------------------------------------------------------


def lateness(run: Run, device: str, after: float = 0.0) -> np.ndarray:
    """Return how late each scan of a device came against its grid, in seconds.

    The grid is the earliest that fits all requests: nobody tells the wire where it begins. For what
    the agent and the simulators waited for a processor, on a machine that others use too, neither
    can be blamed: it is taken off.
    """
    times = np.array(run.scans(device, after), np.int64)
    t = (times - times[0]) / SECOND
    off = t - np.rint(t / run.plant.period) * run.plant.period
    late = off - off.min()
    due = times - np.rint(late * SECOND).astype(np.int64)
    waits = [waited(run, *span) for span in zip(due.tolist(), times.tolist(), strict=True)]
    return np.asarray(np.maximum(0.0, late - np.array(waits)))


def missed(run: Run, device: str) -> list[int]:
    """Return the periods in which a device was not asked for exactly one scan.

    One in which agent and simulators had no processor for half of the time is not counted.
    """
    times = run.scans(device)
    found = Counter(ticks_of(times, run.plant.period))
    odd = [tick for tick in range(max(found) + 1) if found[tick] != 1]
    half = round(run.plant.period * SECOND / 2)
    due = {tick: times[0] + 2 * half * tick for tick in odd}
    return [t for t, ns in due.items() if waited(run, ns - half, ns + 2 * half) < half / SECOND]


def waited(run: Run, begin: int, end: int) -> float:
    """Return how long in a span (ns) simulators and agent waited for a processor, in seconds."""
    when = [t for t, _ in run.waited]
    first = max(0, bisect_left(when, begin) - 1)
    last = min(len(when) - 1, bisect_right(when, end))
    return (run.waited[last][1] - run.waited[first][1]) / SECOND


def ticks_of(times: list[int], period: float = 1.0) -> list[int]:
    """Return the number of the period in which each request came."""
    t = (np.array(times, np.int64) - times[0]) / SECOND
    return [int(tick) for tick in np.rint(t / period)]


def wrong(run: Run, stored: Mapping[str, SampleBlock], device: str) -> Iterator[str]:
    """Yield each stored good value that the device did not say at that time."""
    same = SAME + max((t.by for t in run.script.of(device, "delay")), default=0.0)
    said: dict[str, list[tuple[int, float]]] = {}
    for line in run.said(device):
        for tag, value in _values(line):
            said.setdefault(tag, []).append((int(str(line["t"])), value))
    for stream, block in stored.items():
        if block.schema.owner != device:
            continue
        for column, tag in enumerate(block.schema.tags):
            heard = said.get(tag.name, [])
            when = [t for t, _ in heard]
            for time_ns, value, quality in zip(
                block.time.tolist(),
                block.value[column].tolist(),
                block.quality[column].tolist(),
                strict=True,
            ):
                if quality != Quality.GOOD:
                    continue
                slack = (same + waited(run, time_ns - SECOND, time_ns + SECOND)) * SECOND
                low = bisect_left(when, time_ns - slack)
                high = bisect_right(when, time_ns + slack)
                near = [v for _, v in heard[low:high]]
                if not any(abs(v - value) <= 1e-9 * abs(v) for v in near):
                    yield f"{stream} {tag.name} at {time_ns}: {value} is none of {near}"


def _values(line: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Yield the values in one line of the log of scans, decoded with ``struct`` alone."""
    if "node" in line:
        yield str(line["node"]).rpartition(".")[2], float(str(line["value"]))
        return
    if "words" not in line:
        yield from _octets(line)
        return
    words, address = line["words"], int(str(line["address"]))
    assert isinstance(words, list)
    area = "hr" if line["fc"] == 3 else "ir"
    for tag, row in TAGS.items():
        where, _, first = str(row["at"]).partition(":")
        at = int(first) - address
        if where == area and at >= 0 and at + 2 <= len(words):
            raw = struct.pack(">2H", *words[at : at + 2])
            form = ">I" if row["type"] == "u32" else ">f"
            yield tag, struct.unpack(form, raw)[0] * float(str(row.get("scale", 1)))


def _is_first(line: Mapping[str, object]) -> bool:
    """Return whether a line of the log of scans is of the first thing that a scan asks for."""
    return (
        str(line.get("item", "00010000")) == "00010000" and str(line.get("node", ".a"))[-2:] == ".a"
    )


def _octets(line: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Yield the values in a line of a DL/T 645 or CJ/T 188 meter: digits, the last ones first."""
    data = bytes.fromhex(str(line["data"]))
    if "item" not in line:
        yield "volume", int(data[6:2:-1].hex()) / 100
    elif line["item"] == "00010000":
        yield "energy", int(data[3::-1].hex()) / 100
    else:
        sign = -1 if data[2] & 0x80 else 1
        yield "power", sign * int(bytes([data[2] & 0x7F, data[1], data[0]]).hex()) / 10_000
