"""What runs the tools' commands; each returns the exit status."""

import argparse
import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from edge_agent.config import load
from edge_agent.errors import EdgeError
from edge_agent.tools import explain as explained
from edge_agent.tools import scan_told
from edge_agent.tools.scan import Scan, Wish

NOTHING, INTERRUPTED = 1, 130

DAY = 86400.0


class Show(NamedTuple):
    """How a command speaks: lines of its result, and one line of progress that is replaced."""

    say: Callable[[str], None]
    progress: Callable[[str], None]


def scan(options: argparse.Namespace, show: Show) -> int:
    """Scan a Modbus link; Ctrl-C and the end of the time show what was found until then."""
    wish = Wish(
        url=options.url,
        units=options.units,
        functions=options.function,
        timeout=options.timeout,
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
