"""What runs the tools' commands; each returns the exit status."""

import argparse
import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import NamedTuple

from edge_agent.config import load
from edge_agent.drivers.opcua_security import Security
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.tools import browse as browsing
from edge_agent.tools import browse_told, scan_meters, scan_told, tagfile, tags
from edge_agent.tools import explain as explained
from edge_agent.tools.models import Models
from edge_agent.tools.scan import METERS, Scan, Wish
from edge_agent.units import Duration, Secret

NOTHING, INTERRUPTED = 1, 130

DAY = 86400.0
MODBUS_WAIT, METERS_WAIT = Duration(0.5), Duration(1.0)  # for an answer


class Show(NamedTuple):
    """How a command speaks: lines of its result, and one line of progress that is replaced."""

    say: Callable[[str], None]
    progress: Callable[[str], None]


def scan(options: argparse.Namespace, show: Show) -> int:
    """Scan a line; Ctrl-C and the end of the time show what was found until then."""
    if options.url.partition(":")[0] in METERS:
        return _scan_meters(options, show)
    wish = Wish(
        url=options.url,
        units=options.units,
        functions=options.function,
        timeout=options.timeout or MODBUS_WAIT,
        pause=options.pause,
        deep=options.deep,
    )

    async def run() -> int:
        work = Scan(wish, show.progress)
        is_whole = await _until_interrupted(work.run, options.length)
        for line in scan_told.lines(work, is_whole=is_whole):
            show.say(line)
        if not is_whole:
            return INTERRUPTED
        return 0 if work.units else NOTHING

    return asyncio.run(run())


def explain(options: argparse.Namespace, show: Show) -> int:
    """Explain one tag."""
    for line in explained.lines(load(options.config), options.tag):
        show.say(line)
    return 0


def _scan_meters(options: argparse.Namespace, show: Show) -> int:
    async def run() -> int:
        timeout = options.timeout or METERS_WAIT
        work = scan_meters.MeterScan(options.url, timeout, show.progress, deep=options.deep)
        is_whole = await _until_interrupted(work.run, options.length)
        for line in scan_meters.lines(work, is_whole=is_whole):
            show.say(line)
        if not is_whole:
            return INTERRUPTED
        return 0 if work.found else NOTHING

    return asyncio.run(run())


def browse(options: argparse.Namespace, show: Show) -> int:
    """Browse an OPC UA server; Ctrl-C shows what was found until then."""
    _not_there(options.output, replaced=options.overwrite)
    password = os.environ.get("OPCUA_PASSWORD") if options.user else None
    security = Security(
        policy=options.policy,
        mode=options.mode,
        user=options.user,
        password=None if password is None else Secret(password),
    )
    look = browsing.Look(
        url=options.url,
        path=options.path,
        depth=options.depth,
        match=options.match,
        most=options.most,
        timeout=options.timeout,
        security=None if security == Security() else security,
        data=options.data,
    )

    async def run() -> int:
        work = browsing.Browse(look, show.progress)
        is_whole = await _until_interrupted(work.run)
        for line in browse_told.lines(work, is_whole=is_whole, shows_yaml=options.output is None):
            show.say(line)
        if options.output is not None:
            text = "\n".join(browse_told.pasted(work))
            await asyncio.to_thread(options.output.write_text, text + "\n", encoding="utf-8")
            show.say(f"written   {options.output}")
        if not is_whole:
            return INTERRUPTED
        return 0 if work.variables else NOTHING

    return asyncio.run(run())


def export_tags(options: argparse.Namespace, show: Show) -> int:
    """Write the tag table of a configuration."""
    output: Path | None = options.output
    _not_there(output, replaced=options.overwrite)
    rows = tags.exported(load(options.config), options.device)
    if output is None:
        show.say(tagfile.to_csv(rows, chinese=options.chinese).replace("\r\n", "\n").rstrip("\n"))
        return 0
    if output.suffix.lower() not in {".csv", ".xlsx"}:
        raise ConfigError([f"tags export: {output}: name a file that ends in .csv or .xlsx"])
    tagfile.write(output, rows, chinese=options.chinese)
    devices = len({row["device"] for row in rows})
    show.say(f"written   {output}: {len(rows)} tags of {devices} devices")
    return 0


def import_tags(options: argparse.Namespace, show: Show) -> int:
    """Write the YAML of a tag table; what is wrong in it goes to standard error, row by row."""
    output: Path | None = options.output
    _not_there(output, replaced=options.overwrite)
    found = tags.imported(tagfile.read(options.file), str(options.file), Models(options.file))
    if output is None:
        for line in found.lines:
            show.say(line)
    elif found.lines:
        output.write_text("\n".join(found.lines) + "\n", encoding="utf-8")
        show.say(f"written   {output}: {found.good} of {found.rows} rows")
    if found.faults:
        raise ConfigError(found.faults)
    return 0


def _not_there(output: Path | None, *, replaced: bool) -> None:
    if output is not None and output.exists() and not replaced:
        raise ConfigError([f"{output}: is there already (--overwrite replaces it)"])


async def _until_interrupted(
    work: Callable[[], Coroutine[None, None, None]], seconds: float = DAY
) -> bool:
    """Run until it is done, Ctrl-C is pressed or the time is over; return whether it was done."""
    failed: list[EdgeError] = []

    async def guarded() -> None:
        try:
            await work()
        except EdgeError as e:  # one line for a person, not a group of errors
            failed.append(e)

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(guarded(), name="work")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        end = loop.call_later(seconds, task.cancel)
        await asyncio.wait([task])
        end.cancel()
    if failed:
        raise failed[0]
    return not task.cancelled()
