"""A serial line of two pseudo-terminals, and simulated octet meters, for the drivers' tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from math import isnan
from pathlib import Path

from edge_agent.drivers.base import Driver, Group
from edge_agent.model import SampleBlock
from simulators.sources import Source

Rows = list[tuple[float | None, int]]


@asynccontextmanager
async def serial_line(folder: Path) -> AsyncIterator[tuple[Path, Path]]:
    """Yield the two ends of a line."""
    ours, theirs = folder / "ours", folder / "theirs"
    process = await asyncio.create_subprocess_exec(
        "socat", f"pty,raw,echo=0,link={ours}", f"pty,raw,echo=0,link={theirs}"
    )
    try:
        while not (ours.exists() and theirs.exists()):  # noqa: ASYNC110 – as the next line says
            await asyncio.sleep(0.01)  # socat tells nobody that its links are there
        yield ours, theirs
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def shows(values: Mapping[str, tuple[float, str] | Callable[[int], float]]) -> Source:
    """Return a source of fixed readings (value, unit), or of functions of the time."""
    readings: dict[str, tuple[str, Callable[[int], float]]] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            readings[name] = (value[1], lambda _t, number=value[0]: number)  # type: ignore[misc]
        else:
            readings[name] = ("1", value)
    return Source(readings)


@asynccontextmanager
async def connected(driver: Driver) -> AsyncIterator[Driver]:
    """Connect a driver; close it at the end."""
    try:
        await driver.connect()
        yield driver
    finally:
        await driver.close()


def group(driver: Driver, stream: str) -> Group:
    return next(g for g in driver.groups if g.schema.stream == stream)


async def read(driver: Driver, stream: str = "m/raw") -> Rows:
    """Read a stream once; return values (None where BAD) and qualities by column."""
    block = await driver.read(group(driver, stream))
    return row(block)


def row(block: SampleBlock) -> Rows:
    assert block.lawful()
    values = (None if isnan(v) else float(v) for v in block.value[:, 0])
    return list(zip(values, block.quality[:, 0].tolist(), strict=True))
