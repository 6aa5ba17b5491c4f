"""``edge-agent check``: what a configuration means and, if asked, what the plant answers.

Links are tried side by side, so many dead devices take no longer than one; the units of one line
are asked one after the other, as the line has it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult

import numpy as np

from edge_agent.agent import Link, links_of
from edge_agent.clock import SystemClock
from edge_agent.config import Config
from edge_agent.drivers.base import DeviceConfig, Group, groups_of
from edge_agent.errors import Disconnected, EdgeError, NoAnswer
from edge_agent.model import Kind, Quality, SampleBlock
from edge_agent.sinks.base import SinkConfig, Tells
from edge_agent.terminal import Row, labelled, shortened, table

PATIENCE = 15.0  # seconds for one read; what pushes says something every five
REST = 0.2  # seconds before a link is opened a second time
ISOLATING, LONG_ENOUGH = 8, 5.0  # reads, or s, in which the driver knows what is refused
LONGEST = 28  # places of a value; a text may be longer

_MEANINGS = {
    Quality.GOOD_ROLLOVER: "the counter went through its highest number",
    Quality.UNCERTAIN_RANGE: "outside the tag's range: compare type, order and scale, or the range",
    Quality.UNCERTAIN_FLAGGED: "the instrument says of itself that it is not in normal operation",
    Quality.UNCERTAIN_PRECISION: "an integer above 2^53 was rounded",
    Quality.UNCERTAIN_CLOCK: "the server's clock is not the agent's: set it",
    Quality.BAD_NO_ANSWER: "the unit is silent",
    Quality.BAD_DEVICE: "the device refused the request: compare address and function with the "
    "manual (40001 counts from one, hr:0 from zero)",
    Quality.BAD_NOT_AVAILABLE: "the device itself says that it has no value (not wired, or not "
    "fitted), or the words are no number of this type",
    Quality.BAD_ADDRESS: "there is no such node or register",
    Quality.BAD_SHORT: "the answer had another length than asked for",
}


@dataclass
class _Seen:
    """What was found out: rows of the table by device, and who does not answer for which reason."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    advice: dict[str, list[str]] = field(default_factory=dict)
    sinks: dict[str, str] = field(default_factory=dict)
    qualities: set[Quality] = field(default_factory=set)
    reached: bool = True

    def add(self, *row: str) -> None:
        self.rows.setdefault(row[0], []).append(row)

    def lost(self, device: str, stream: str, why: str, look: str) -> None:
        self.reached = False
        self.add(device, stream, "-", "", "", why)
        self.advice.setdefault(look, []).append(device)


def summary(config: Config) -> Iterator[str]:
    """Yield the lines that say what the configuration is."""
    yield f"{config.path}: no mistakes"
    yield f"site      {config.site.id} ({config.site.name}), gateway {config.site.gateway}"
    yield f"data      {config.data}"
    rows: list[Row] = [("device", "stream", "every", "tags", "connect")]
    for name, device in config.devices.items():
        for group, tags in groups_of(name, device).items():
            every = "pushed" if group.period is None else f"{group.period:g} s"
            stream, where = group.schema.name, device.connect.split("?")[0]
            rows.append((name, stream, every, str(len(tags)), where))
    yield from table(rows)
    plant = config.plant()
    for name, metric in config.metrics.items():
        windows = f", windows {' '.join(metric.windows)}" if metric.windows else ""
        yield f"{metric.section.rstrip('s'):<9} {name}: {metric.kind}{windows}"
        yield from (f"attention {name}: {remark}" for remark in metric.remarks(plant))
    groups = [g for name, device in config.devices.items() for g in groups_of(name, device)]
    for name, sink in config.sinks.items():
        yield f"sink      {name}: {sink.kind}"
        taken = {g.schema: g.period for g in groups if sink.takes(g.schema)}
        yield from (f"attention {name}: {remark}" for remark in sink.remarks(taken))


async def probe(config: Config, progress: Callable[[str], None]) -> tuple[list[str], bool]:
    """Try every device and sink once; return the lines to show and whether all were reached.

    A device is read once per stream, as the agent would; nothing is stored.
    """
    seen = _Seen()
    links = links_of(config, SystemClock())
    waiting = {link.name for link in links} | set(config.sinks)

    async def tried(name: str, link: Link | None, sink: SinkConfig | None) -> None:
        if link is not None:
            await _try_link(link, seen)
        if sink is not None:
            await _try_sink(name, sink, config, seen)
        waiting.discard(name)
        left = ", ".join(sorted(waiting)[:3]) + (" …" if len(waiting) > 3 else "")
        progress(f"waiting for {left}" if waiting else "")

    async with asyncio.TaskGroup() as tasks:
        for link in links:
            tasks.create_task(tried(link.name, link, None), name=f"try {link.name}")
        for name, sink in config.sinks.items():
            tasks.create_task(tried(name, None, sink), name=f"try {name}")
    return list(_told(config, seen)), seen.reached


def _told(config: Config, seen: _Seen) -> Iterator[str]:
    rows: list[Row] = [("device", "tag", "value", "unit", "ms", "quality")]
    for device in config.devices:
        rows += seen.rows.get(device, [])
    yield from table(rows)
    meant = [(q.name, _MEANINGS[q]) for q in sorted(seen.qualities) if q in _MEANINGS]
    if meant:
        yield ""
        yield from labelled(meant)
    if seen.advice:
        yield ""
        yield from labelled(
            (_few(dict.fromkeys(devices)), look) for look, devices in seen.advice.items()
        )
    if seen.sinks:
        yield ""
        yield from labelled(("sink    ", f"{n}: {seen.sinks[n]}") for n in config.sinks)


def _few(devices: dict[str, None]) -> str:
    names = list(devices)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


async def _try_link(link: Link, seen: _Seen) -> None:
    silent: set[str] = set()
    try:
        await _open(link)
        for group in link.driver.groups:
            device = group.schema.owner
            if device in silent:
                continue
            try:
                await _read(link, group, seen)
            except (NoAnswer, TimeoutError) as e:
                silent.add(device)
                said = str(e).removeprefix(f"{device}: ") or f"nothing within {PATIENCE:g} s"
                look = silence(link.devices[device])
                seen.lost(device, group.schema.name, f"no answer: {said}", look)
    except Disconnected as e:
        for device, config in link.devices.items():
            if device not in seen.rows:
                seen.lost(device, "-", f"not reached: {e}", unreachable(config.url))
        seen.reached = False
    finally:
        await link.driver.close()


async def _open(link: Link) -> None:
    """Open a link, again if it fails: the first ones load libraries while others wait for them."""
    try:
        await link.driver.connect()
    except Disconnected:
        await asyncio.sleep(REST)
        await link.driver.connect()


async def _read(link: Link, group: Group, seen: _Seen) -> None:
    """Read a stream, again if nobody answers at first: a lost frame is no dead unit.

    It is read again as well while a device refuses something: the driver then asks for less at once
    until it knows the very register, and only that one is bad in the end.
    """
    try:
        block, took = await _timed(link, group)
    except NoAnswer:
        block, took = await _timed(link, group)
    began = time.perf_counter()
    for _ in range(ISOLATING):
        refused = np.isin(block.quality[:, -1], (Quality.BAD_DEVICE, Quality.BAD_ADDRESS)).any()
        if group.period is None or not refused or time.perf_counter() - began > LONG_ENOUGH:
            break
        await asyncio.sleep(REST)  # the driver finds out in the time that a line has to spare
        block, took = await _timed(link, group)
    states = link.devices[group.schema.owner].tags
    for i, tag in enumerate(block.schema.tags):
        quality = Quality(int(block.quality[i, -1]))
        seen.qualities.add(quality)
        value = _value(block, i, states[tag.name].states)
        seen.add(group.schema.owner, tag.name, value, _unit(tag.unit.code), took, quality.name)


async def _timed(link: Link, group: Group) -> tuple[SampleBlock, str]:
    """Return what a stream says and the ms that it took."""
    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE):
        block = await link.driver.read(group)
    return block, f"{(time.perf_counter() - began) * 1e3:.1f}"


def _value(block: SampleBlock, column: int, states: Mapping[int, str]) -> str:
    """Return the last value of a column as a person reads it."""
    if block.quality[column, -1] >= Quality.BAD:
        return "-"
    tag, value = block.schema.tags[column], float(block.value[column, -1])
    if tag.kind is Kind.TEXT:
        return shortened(block.text(column, len(block) - 1) or "", LONGEST)
    if value in states:
        return shortened(f"{value:g} {states[int(value)]}", LONGEST)
    return f"{value:.10g}"


def _unit(code: str) -> str:
    return "" if code == "1" else code


async def _try_sink(name: str, sink: SinkConfig, config: Config, seen: _Seen) -> None:
    target = sink.build(config.site)
    try:
        async with asyncio.timeout(PATIENCE):
            await target.connect()
        remark = target.remark if isinstance(target, Tells) else ""
        seen.sinks[name] = f"reached: {remark}" if remark else "reached"
    except (EdgeError, TimeoutError) as e:
        said = str(e) or f"nothing within {PATIENCE:g} s"
        look = " (look at: address and port, user and password or token, is it running)"
        seen.sinks[name] = f"not reached: {said}{'' if 'mend ' in said else look}"
        seen.reached = False
    finally:
        await target.close()


# ---- what to look at next --------------------------------------------------------------------


def unreachable(url: SplitResult) -> str:
    """Return what to look at when a link cannot be opened."""
    if not url.hostname:
        return (
            f"look at: is {url.path} there (ls -l /dev/serial/by-id), may this user open it (group "
            "dialout), has another program opened it"
        )
    reach = f"ping {url.hostname}"
    if url.scheme == "opc.tcp":
        return (
            f"look at: does {reach} answer, port (4840 is usual), is the OPC UA server switched "
            "on, user and password, does it trust the agent's certificate"
        )
    return (
        f"look at: does {reach} answer, port {url.port or ''} of meter or gateway, cable and "
        "power, does another program hold its only connection"
    ).replace("  ", " ")


def silence(device: DeviceConfig) -> str:
    """Return what to look at when a unit says nothing on a link that lives."""
    address = device.option("unit", "") or device.option("address", "") or "1"
    if device.url.scheme == "opc.tcp":
        return "look at: is the server's program running, does it push (mode: subscribe)"
    line = "baud and parity as set in the meter, A and B not crossed, end of line terminated"
    if device.url.hostname and device.url.scheme != "modbus+tcp":
        line = f"at the serial server: {line}"
    elif device.url.hostname:
        line = f"behind a gateway: {line}"
    return (
        f"look at: is {address} the address set in the meter, has it power; {line}; a slow meter "
        f"needs a longer timeout (now {device.timeout:g} s)"
    )
