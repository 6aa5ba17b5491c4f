"""What can be written behind ``edge-agent``: the commands, their options and their help."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from edge_agent import __version__
from edge_agent.units import Duration

Run = Callable[[argparse.Namespace], int]

WRONG = 2  # exit status of a wrong argument


class _Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """Return the parser of all commands; ``runs`` says what runs each of them."""
    whole: argparse.ArgumentParser = _Parser(
        prog="edge-agent",
        description="Reads the meters and machines of a plant, computes its energy and production "
        "figures, keeps every sample safe and passes them on. It only reads from devices.",
    )
    whole.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    whole.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="what is logged (info for run, else warning)",
    )
    menu = _Menu(whole, runs)
    for add in (_demo, _run, _check, _simulate, _report):
        add(menu)
    return whole


class _Menu:
    """The commands below one parser."""

    def __init__(self, above: argparse.ArgumentParser, runs: Mapping[str, Run]) -> None:
        self._below = above.add_subparsers(metavar="COMMAND", required=True)
        self._runs = runs

    def add(self, name: str, what: str, example: str, more: str = "") -> argparse.ArgumentParser:
        """Return the parser of one more command; ``more`` stands below its first line of help."""
        one = self._below.add_parser(
            name.rpartition(" ")[2],
            help=what,
            description=what[0].upper() + what[1:] + "." + (f"\n\n{more}" if more else ""),
            epilog=f"example:  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in self._runs:
            one.set_defaults(command=self._runs[name])
        return one


# ---- kinds of values -------------------------------------------------------------------------


def duration(text: str) -> Duration:
    """Return the length of time that was written."""
    try:
        length = Duration.parse(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    if length <= 0:
        raise argparse.ArgumentTypeError(f"{text} has no length (write 10m)")
    return length


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.01 <= speed <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a speed (write 1, 10)")
    return speed


# ---- commands --------------------------------------------------------------------------------


def _demo(menu: _Menu) -> None:
    what = "start a simulated cement plant and the agent on it, with the dashboard"
    add = menu.add("demo", what, "edge-agent demo --for 10m").add_argument
    until = "end by itself after this much plant time, from the next full minute on"
    influx = "write to InfluxDB too (http://host:8086?org=o&bucket=b; token in $INFLUX_TOKEN)"
    add("--listen", metavar="ADDR", help="where the dashboard listens (127.0.0.1:8080)")
    add("--for", dest="length", type=duration, metavar="TIME", help=until)
    add("--speed", type=_speed, default=1.0, metavar="N", help="plant seconds per second (1)")
    add("--data", type=Path, metavar="DIR", help="keep the data here (a temporary folder)")
    add("--mqtt", metavar="URL", help="publish to a broker too (mqtt://host:1883)")
    add("--influx", metavar="URL", help=influx)
    add("--log-scans", type=Path, metavar="DIR", help="note every scan that is served")
    add("--seed", type=int, default=1, metavar="N", help="another plant (1)")


def _run(menu: _Menu) -> None:
    what = "run the agent in the foreground until SIGTERM; SIGHUP reads the file again"
    one = menu.add("run", what, "edge-agent run /etc/edge-agent/plant.yaml")
    one.add_argument("config", type=Path, metavar="CONFIG", help="the plant's YAML file")


def _check(menu: _Menu) -> None:
    what = "name every mistake of a configuration at once, with file:line:column"
    more = (
        "With --connect every device is read once, as the agent would read it, and every sink is\n"
        "tried; nothing is stored. Exit status 3 says that something was not reached."
    )
    add = menu.add("check", what, "edge-agent check plant.yaml --connect", more).add_argument
    add("config", type=Path, nargs="?", metavar="CONFIG", help="the plant's YAML file")
    add("--connect", action="store_true", help="try every device and sink, show what is read")
    add("--schema", action="store_true", help="print the JSON schema for editors")


def _simulate(menu: _Menu) -> None:
    what = "run the simulators alone and print where they listen and tell what they answered"
    example = "edge-agent simulate plant.yaml --faults trouble.yaml"
    add = menu.add("simulate", what, example).add_argument
    add("plant", type=Path, nargs="?", metavar="CONFIG", help="whose devices (the demo's)")
    trouble = "scripted trouble: [{device: em-kiln, from: 10s, to: 20s, kind: silence}, …]"
    add("--faults", type=Path, metavar="FILE", help=trouble)
    add("--log-scans", type=Path, metavar="DIR", help="note every scan that is served")
    add("--serial", action="store_true", help="serial devices on pseudo terminals, not over TCP")


def _report(menu: _Menu) -> None:
    what = "write a report with the evidence for every figure"
    example = "edge-agent report leader plant.yaml --period 2026-10 -o reports"
    add = menu.add("report", what, example).add_argument
    periods = "2026, 2026-10, 2026-10-05 or 2026-10-05T08:00/2026-10-05T09:00"
    add("kind", choices=["leader"], metavar="KIND", help="leader")
    add("config", type=Path, metavar="CONFIG", help="the plant's YAML file")
    add("--period", required=True, metavar="PERIOD", help=periods)
    add("--metric", metavar="NAME", help="the energy metric, if there are several")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder for the files (here)",
    )
