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
    for add in (
        _demo,
        _run,
        _status,
        _check,
        _explain,
        _scan,
        _browse,
        _tags,
        _simulate,
        _report,
        _recompute,
        _export,
    ):
        add(menu)
    return whole


class _Menu:
    """The commands below one parser."""

    def __init__(self, above: argparse.ArgumentParser, runs: Mapping[str, Run]) -> None:
        self._below = above.add_subparsers(metavar="COMMAND", required=True)
        self.runs = runs

    def add(self, name: str, what: str, example: str, more: str = "") -> argparse.ArgumentParser:
        """Return the parser of one more command; ``more`` stands below its first line of help."""
        one = self._below.add_parser(
            name.rpartition(" ")[2],
            help=what,
            description=what[0].upper() + what[1:] + "." + (f"\n\n{more}" if more else ""),
            epilog=f"example:  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in self.runs:
            one.set_defaults(command=self.runs[name])
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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _units(text: str) -> tuple[int, ...]:
    return _numbers(text, 255, "units", "1-16 or 1,3,5-9")


def _functions(text: str) -> tuple[int, ...]:
    found = _numbers(text, 4, "read functions", "3,4")
    if 0 in found:
        raise argparse.ArgumentTypeError("there is no function 0 (write 3,4)")
    return found


def _numbers(text: str, last: int, what: str, right: str) -> tuple[int, ...]:
    """Return the numbers of ``1-16`` or ``1,3,5-9``, each once."""
    numbers: dict[int, None] = {}
    for part in text.split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} are no {what} (write {right})")
        first, end = int(low), int(high or low)
        if not first <= end <= last:
            raise argparse.ArgumentTypeError(f"{part!r}: {what} go up to {last} (write {right})")
        numbers |= dict.fromkeys(range(first, end + 1))
    return tuple(numbers)


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


def _status(menu: _Menu) -> None:
    what = "show what arrives: rows waiting, refused or dropped by sink, and how full the log is"
    more = (
        "Reads the log beside a running agent, or without one. A running agent is\n"
        "asked why a sink is down, where web.listen says. Run it as the user that the agent runs\n"
        "as. Exit status 1 says that there is no log or that it cannot be read."
    )
    example = "edge-agent status /etc/edge-agent/plant.yaml"
    add = menu.add("status", what, example, more).add_argument
    add("config", type=Path, metavar="CONFIG", help="the plant's YAML file")
    most = "how many refusals and gaps are listed, the newest (10)"
    add("--most", type=_positive, default=10, metavar="N", help=most)


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


def _explain(menu: _Menu) -> None:
    what = "show how one tag is read, decoded and used"
    more = (
        "The request that brings it and the whole plan of its stream, the bytes on the wire with\n"
        "an example, how they become a number and a unit, and who uses it. Nothing is connected."
    )
    example = "edge-agent explain plant.yaml em-kiln.active_power"
    add = menu.add("explain", what, example, more).add_argument
    add("config", type=Path, metavar="CONFIG", help="the plant's YAML file")
    add("tag", metavar="DEVICE.TAG", help="as metrics name it: em-kiln.active_power")


def _scan(menu: _Menu) -> None:
    what = "find the Modbus units or the meters on a line and what they may be"
    more = (
        "Asks each unit number for one register, then searches what can be read, and compares it\n"
        "with the meter templates: 50 Hz, equal phase voltages, P² + Q² = S². It never writes.\n"
        "Prints a table and YAML to paste into the plant's file. Ctrl-C shows what was found so\n"
        "far. A serial line may be used by one program only: stop the agent before.\n\n"
        "URL is  modbus+tcp://192.168.1.20:502        a meter or gateway with Modbus TCP\n"
        "        modbus+rtu:///dev/ttyUSB0?baud=9600  a serial line of this box\n"
        "        modbus+rtu-over-tcp://192.168.1.20:4196  a serial server that passes frames on\n"
        "        dlt645+serial:///dev/ttyUSB0         electricity meters; or dlt645+tcp://…\n"
        "        cjt188+serial:///dev/ttyUSB0         water, heat, gas meters; or cjt188+tcp://…"
    )
    example = "edge-agent scan modbus+tcp://192.168.1.20:502 --units 1-32"
    add = menu.add("scan", what, example, more).add_argument
    add("url", metavar="URL", help="the line: modbus+tcp://…, modbus+rtu:///dev/…")
    add("--units", type=_units, default="1-16", metavar="LIST", help="1-32, or 1,3,5-9 (1-16)")
    functions = "read functions to try: 3 and 4 read registers, 1 and 2 bits (3,4)"
    add("--function", type=_functions, default="3,4", metavar="LIST", help=functions)
    wait = "how long a unit may take to answer (500ms; DL/T 645 and CJ/T 188: 1s)"
    add("--timeout", type=duration, metavar="TIME", help=wait)
    rest = "how long the line is left alone between requests (20ms)"
    add("--pause", type=duration, default="20ms", metavar="TIME", help=rest)
    most = "end after this time and show what was found (10m)"
    add("--for", dest="length", type=duration, default="10m", metavar="TIME", help=most)
    deep = "search all addresses, also where a template fits, or one meter has answered, already"
    add("--deep", action="store_true", help=deep)


def _browse(menu: _Menu) -> None:
    what = "show the address tree of an OPC UA server with its values, to paste as tags"
    more = (
        "Prints the variables with value, type, unit and a guess at their kind (state, counter,\n"
        "gauge), then YAML to paste: one device per object below the start. Ctrl-C shows what was\n"
        "found so far. The password is taken from the environment: $OPCUA_PASSWORD. With a policy\n"
        "the agent shows its own certificate (made below --data), which the server must accept."
    )
    example = "edge-agent browse opc.tcp://192.168.1.30:4840 --path Objects/Plant --depth 4"
    add = menu.add("browse", what, example, more).add_argument
    policies = ["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
    add("url", metavar="URL", help="the server: opc.tcp://host:4840")
    start = "begin there: names from Objects on, or a node id (Objects)"
    add("--path", default="", metavar="PATH", help=start)
    add("--depth", type=_positive, default=8, metavar="N", help="levels below the start (8)")
    only = "only variables whose name or path is like this: '*temp*'"
    add("--match", metavar="PATTERN", help=only)
    add("--most", type=_positive, default=5000, metavar="N", help="end after so many nodes (5000)")
    add("--user", metavar="NAME", help="log in as this user, password in $OPCUA_PASSWORD")
    policy = f"how the line is secured: {', '.join(policies)} (None)"
    add("--policy", choices=policies, default="None", metavar="POLICY", help=policy)
    modes = "sign-and-encrypt or sign (with a policy sign-and-encrypt)"
    add("--mode", choices=["sign", "sign-and-encrypt"], metavar="MODE", help=modes)
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="for the certificate (data)")
    wait = "how long an answer may take (4s)"
    add("--timeout", type=duration, default="4s", metavar="TIME", help=wait)
    add("-o", "--output", type=Path, metavar="FILE", help="write the YAML there")
    add("--overwrite", action="store_true", help="replace the file if it is there")


def _tags(menu: _Menu) -> None:
    what = "bring the tag table into a spreadsheet and back"
    more = "tags export writes it, tags import reads it; see the help of each."
    both = menu.add("tags", what, "edge-agent tags export plant.yaml -o points.xlsx", more)
    below = _Menu(both, menu.runs)
    what = "write the tag table of a configuration as CSV or XLSX"
    more = (
        "One row per tag as it is in force, those of the templates as well; the column origin\n"
        "says which: template, changed (the plant's file writes some of it), own. CSV is UTF-8\n"
        "with the mark that Excel looks for. Without -o the CSV goes to the terminal."
    )
    example = "edge-agent tags export plant.yaml -o points.xlsx"
    add = below.add("tags export", what, example, more).add_argument
    add("config", type=Path, metavar="CONFIG", help="the plant's YAML file")
    add("-o", "--output", type=Path, metavar="FILE", help="points.csv or points.xlsx")
    only = "only this device; may be given several times (all)"
    add("--device", action="append", default=[], metavar="NAME", help=only)
    add("--chinese", action="store_true", help="headings in Chinese: 设备, 点名, 地址 …")
    add("--overwrite", action="store_true", help="replace the file if it is there")

    what = "read a tag table and write it as YAML to paste"
    more = (
        "The first row names the columns: device, tag, at, type, order, scale, unit, kind …,\n"
        "or 设备, 点名, 地址, 类型, 字节序, 系数, 单位, 种类 …; tags export writes all of them.\n"
        "Only device, tag and at are needed; at not where a template has the tag. With connect\n"
        "(and template, ct, pt) a table is all that its devices need to be read. An empty cell\n"
        "leaves what the template says, - takes it away, and no in the column use takes the tag\n"
        "out. CSV may be UTF-8 or GBK, with comma, semicolon or tab. Each mistake is told as\n"
        "file:row:column; the rows that are right are written all the same."
    )
    add = below.add("tags import", what, "edge-agent tags import points.xlsx", more).add_argument
    add("file", type=Path, metavar="FILE", help="points.csv or points.xlsx")
    add("-o", "--output", type=Path, metavar="FILE", help="write the YAML there (the terminal)")
    add("--overwrite", action="store_true", help="replace the file if it is there")


def _simulate(menu: _Menu) -> None:
    what = "run the simulators alone; they print where they listen, and where they count, as truth"
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


def _add_period(add: Callable[..., object]) -> None:
    """Add the plant's file and the period of a command on stored rows."""
    add("config", type=Path, metavar="CONFIG", help="the plant's YAML file")
    local = "local date or time: 2026-10-05 or 2026-10-05T08:00"
    add("--from", dest="begin", required=True, metavar="T", help=local)
    add("--to", dest="end", required=True, metavar="T", help=local)


def _recompute(menu: _Menu) -> None:
    what = "compute the derived rows of a period again from the stored raw rows and compare them"
    more = (
        "Every slot and figure whose window lies in the period is computed from the raw rows in\n"
        "the log, as the running agent does, and compared bit for bit with what was stored. The\n"
        "agent may be running. Exit status 1 says that something differs."
    )
    example = "edge-agent recompute plant.yaml --from 2026-10-05 --to 2026-10-06"
    add = menu.add("recompute", what, example, more).add_argument
    _add_period(add)
    folder = "write the recomputed rows there, a CSV file for each stream"
    add("-o", "--output", type=Path, metavar="DIR", help=folder)


def _export(menu: _Menu) -> None:
    what = "write stored rows as CSV or Parquet files, with a manifest to check them by"
    more = (
        "Raw rows come from the log, as long as it keeps them (retention.raw); figures, alarms\n"
        "and slots from the history. A raw row with time t is in the period when FROM <= t < TO;\n"
        "a row that closes a window (minute, hour, shift, day) has the time of its END, and is in\n"
        "it when the whole window is. Times are those of the site. The agent may be running; run\n"
        "it as the user that the agent runs as.\n\n"
        "csv      a file per stream, for Excel and people; a further one where columns changed\n"
        "parquet  site=…/owner=…/name=…/day=…/part-1.parquet, for pandas, polars, DuckDB; needs\n"
        "         pip install 'edge-agent[parquet]'\n\n"
        "manifest.json names each file with its rows, times, units and SHA-256, and what is\n"
        "missing. The folder appears when all is written. Exit status 1 says that something could\n"
        "not be read; the rest is there. docs/export.md says how to read the files."
    )
    example = "edge-agent export plant.yaml --from 2026-10-01 --to 2026-11-01 -o october"
    add = menu.add("export", what, example, more).add_argument
    _add_period(add)
    forms = "csv or parquet (csv)"
    add("--format", dest="form", choices=["csv", "parquet"], default="csv", metavar="F", help=forms)
    only = (
        "only streams like this, as in a sink's streams: 'em-*/raw', 'clinker/*'; may be given"
        " several times (all but slots)"
    )
    add("--streams", action="append", default=[], metavar="PATTERN", help=only)
    other = "the rows of this log instead, such as one set aside: data/log.db.corrupt-1"
    add("--log", type=Path, metavar="FILE", help=other)
    refused = "instead only the rows that a sink's peer refused, with sink, time and reason (csv)"
    add("--refused", action="store_true", help=refused)
    folder = "folder for the files; it must not be there yet, or be empty"
    add("-o", "--output", type=Path, required=True, metavar="DIR", help=folder)
