"""``edge-agent check``: what a configuration means and, if asked, what the plant answers."""

import asyncio
import time
from collections.abc import Iterator
from unicodedata import east_asian_width

from edge_agent.agent import Link, links_of
from edge_agent.clock import SystemClock
from edge_agent.config import Config
from edge_agent.drivers.base import groups_of
from edge_agent.errors import Disconnected, NoAnswer, Rejected
from edge_agent.model import Quality, SampleBlock

Row = tuple[str, ...]

PATIENCE = 15.0  # seconds for one read; what pushes says something every five


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
    yield from _table(rows)
    for name, metric in config.metrics.items():
        yield f"metric    {name}: {metric.kind}, windows {' '.join(metric.windows)}"
    for name, sink in config.sinks.items():
        yield f"sink      {name}: {sink.kind}"


async def probe(config: Config) -> tuple[list[str], bool]:
    """Try every device and sink once; return the lines to show and whether all were reached.

    A device is read once per stream, as the agent would; nothing is stored.
    """
    clock = SystemClock()
    rows: list[Row] = [("device", "tag", "value", "unit", "ms", "quality")]
    reached = True
    for link in links_of(config, clock):
        found, up = await _probe_link(link)
        rows += found
        reached &= up
    lines = list(_table(rows))
    for name, sink in config.sinks.items():
        target = sink.build(config.site)
        try:
            await target.connect()
            lines.append(f"sink      {name}: reached")
        except (Disconnected, Rejected) as e:
            lines.append(f"sink      {name}: not reached: {e}")
            reached = False
        finally:
            await target.close()
    return lines, reached


async def _probe_link(link: Link) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    reached = True
    try:
        await link.driver.connect()
        for group in link.driver.groups:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(PATIENCE):
                    block = await link.driver.read(group)
            except (NoAnswer, TimeoutError) as e:
                said = str(e) or f"nothing came within {PATIENCE:g} s"
                rows.append((group.schema.owner, group.schema.name, "-", "", "", said))
                reached = False
                continue
            took = f"{(time.perf_counter() - began) * 1e3:.1f}"
            rows += [
                (group.schema.owner, tag, value, unit, took, quality)
                for tag, value, unit, quality in _values(block)
            ]
    except Disconnected as e:
        known = {row[0] for row in rows}
        rows += [
            (device, "-", "-", "", "", f"not reached: {e}")
            for device in link.devices
            if device not in known
        ]
        reached = False
    finally:
        await link.driver.close()
    return rows, reached


def _values(block: SampleBlock) -> Iterator[tuple[str, str, str, str]]:
    last = len(block) - 1
    for i, tag in enumerate(block.schema.tags):
        quality = Quality(int(block.quality[i, last]))
        value = "-" if quality >= Quality.BAD else f"{block.value[i, last]:.10g}"
        yield tag.name, value, tag.unit.code, quality.name


def _table(rows: list[Row]) -> Iterator[str]:
    """Yield the rows in columns; Chinese characters take two places."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c + " " * (w - _width(c)) for c, w in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _width(text: str) -> int:
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)
