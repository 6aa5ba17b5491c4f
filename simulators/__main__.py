"""``python -m simulators``: the plant as a process of its own.

Prints one JSON line when everything listens, and ends on SIGTERM, SIGINT or when its standard
input (if that is a pipe) is closed, so that it never outlives the process that started it.
"""

import argparse
import asyncio
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

from edge_agent.clock import PlantClock
from simulators.faults import Script, read_script
from simulators.fleet import play
from simulators.tables import configs


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m simulators",
        description="Play the devices of a configuration on free loopback ports. "
        "Prints one JSON line with their addresses when ready.",
        epilog="Example: python -m simulators configs/demo.yaml --log scans. In the line, truth is "
        "an address that tells as JSON how often each device was asked and how it answered "
        "(/DEVICE for one, ?times with every request).",
    )
    parser.add_argument(
        "config", nargs="?", type=Path, help="a configuration; without, the demonstration plant"
    )
    parser.add_argument("--seed", type=int, default=1, help="same seed, same plant (default 1)")
    parser.add_argument("--start", type=int, help="plant time at the origin, ns since 1970 UTC")
    parser.add_argument("--origin", type=int, help="this box's monotonic clock then, ns")
    parser.add_argument("--speed", type=float, default=1.0, help="plant seconds per real second")
    parser.add_argument("--log", type=Path, help="folder for a log of every answered read")
    parser.add_argument(
        "--serial", action="store_true", help="serial devices on pseudo terminals, not over TCP"
    )
    parser.add_argument("--faults", type=Path, help="a script of trouble, see simulators/faults.py")
    return parser.parse_args(argv)


def _watch_input(stopped: asyncio.Event) -> None:
    """Stop when standard input, being a pipe or a socket, is closed by the parent."""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def look() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stopped.set()

    loop.add_reader(descriptor, look)


async def _run(arguments: argparse.Namespace) -> None:
    start = time.time_ns() if arguments.start is None else arguments.start
    origin = time.monotonic_ns() if arguments.origin is None else arguments.origin
    clock = PlantClock(start, origin, arguments.speed)
    script = Script() if arguments.faults is None else read_script(arguments.faults)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    _watch_input(stopped)
    config = arguments.config or configs() / "demo.yaml"
    seed, log, serial = arguments.seed, arguments.log, arguments.serial
    async with play(config, clock, seed=seed, log=log, script=script, serial=serial) as fleet:
        truth = await fleet.counted.serve()
        ready = {
            "ready": True,
            "connect": fleet.connect,
            "skipped": fleet.skipped,
            "truth": truth,
            "start": start,
            "origin": origin,
            "speed": arguments.speed,
        }
        print(json.dumps(ready), flush=True)
        try:
            await stopped.wait()
        finally:
            await fleet.counted.close()


def main(argv: list[str] | None = None) -> int:
    """Run until stopped; return the exit status."""
    arguments = _arguments(argv)
    try:
        asyncio.run(_run(arguments))
    except (ValueError, OSError) as e:
        print(f"simulators: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
