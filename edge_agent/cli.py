"""The commands: ``edge-agent run | demo | check | simulate | report``.

Exit status: 0 done; 2 the configuration or an argument is wrong; 3 ``check --connect`` could not
reach something; 1 anything else. Errors go to standard error, one line per fault, never a
traceback for a person's mistake.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import NoReturn

from edge_agent import __version__, demo
from edge_agent.agent import Agent
from edge_agent.check import probe, summary
from edge_agent.config import Config, data_dir, json_schema, load
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.report import write_leader
from edge_agent.units import Duration

log = logging.getLogger(__name__)

WRONG, UNREACHED = 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = _parser().parse_args(arguments)
    level = options.log_level or ("info" if options.command is _run else "warning")
    logging.basicConfig(level=level.upper(), format="%(levelname)-7s %(message)s")
    for noisy in ("pymodbus", "asyncua", "aiomqtt", "mqtt", "uvicorn", "urllib3", "reactivex"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        return int(options.command(options))
    except ConfigError as e:
        print(e, file=sys.stderr)
        return WRONG
    except BrokenPipeError:  # ``edge-agent check … | head``: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (EdgeError, OSError) as e:
        print(f"edge-agent: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _loop(work: Coroutine[None, None, int]) -> int:
    """Run a coroutine on the fastest loop there is; nothing depends on which."""
    try:
        import uvloop  # type: ignore[import-not-found,unused-ignore]  # an extra
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _on_signals(handlers: dict[signal.Signals, Callable[[], None]]) -> None:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)


# ---- commands --------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    async def run() -> int:
        config: Config | None = load(options.config)
        stopping = False
        agent: Agent | None = None

        def stop() -> None:
            nonlocal stopping
            stopping = True
            if agent is not None:
                agent.stop()

        def reload() -> None:
            nonlocal config
            try:
                config = load(options.config)
            except ConfigError as e:
                log.error("the old configuration stays:\n%s", e)
                return
            log.info("the configuration is read again")
            if agent is not None:
                agent.stop()

        _on_signals({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload})
        while config is not None and not stopping:
            agent, config = Agent(config), None
            await agent.run()
        return 0

    return _loop(run())


def _demo(options: argparse.Namespace) -> int:
    wish = demo.Demo(
        listen=options.listen,
        length=options.length,
        speed=options.speed,
        data=options.data,
        mqtt=options.mqtt,
        influx=options.influx,
        log=options.log_scans,
        seed=options.seed,
    )

    async def run() -> int:
        def watch(agent: Agent) -> None:
            _on_signals({signal.SIGTERM: agent.stop, signal.SIGINT: agent.stop})

        return await demo.run(wish, _say, watch)

    return _loop(run())


def _check(options: argparse.Namespace) -> int:
    if options.schema:
        _say(json.dumps(json_schema(), ensure_ascii=False, indent=2))
        return 0
    if options.config is None:
        raise ConfigError(["check: which configuration? (edge-agent check plant.yaml)"])
    config = load(options.config)
    for line in summary(config):
        _say(line)
    if not options.connect:
        return 0
    lines, reached = asyncio.run(probe(config))
    for line in lines:
        _say(line)
    return 0 if reached else UNREACHED


def _simulate(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "simulators", str(options.plant or data_dir() / "demo.yaml")]
    if options.faults is not None:
        command += ["--faults", str(options.faults)]
    if options.log_scans is not None:
        command += ["--log", str(options.log_scans)]
    os.execv(command[0], command)  # noqa: S606  the same interpreter, a fixed module


def _report(options: argparse.Namespace) -> int:
    for line in write_leader(load(options.config), options.period, options.output, options.metric):
        _say(line)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


# ---- arguments -------------------------------------------------------------------------------


def _duration(text: str) -> Duration:
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


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


class _Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="edge-agent",
        description="Reads the meters and machines of a plant, computes its energy and production "
        "figures, keeps every sample safe and passes them on. It only reads from devices.",
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="what is logged (info for run, else warning)",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    what = "start a simulated cement plant and the agent on it, with the dashboard"
    _demo_options(_command(commands, "demo", _demo, what, "edge-agent demo --for 10m"))

    what = "run the agent in the foreground until SIGTERM; SIGHUP reads the file again"
    one = _command(commands, "run", _run, what, "edge-agent run /etc/edge-agent/plant.yaml")
    one.add_argument("config", type=Path, metavar="CONFIG", help="the plant's YAML file")

    what = "name every mistake of a configuration at once, with file:line:column"
    one = _command(commands, "check", _check, what, "edge-agent check plant.yaml --connect")
    add = one.add_argument
    add("config", type=Path, nargs="?", metavar="CONFIG", help="the plant's YAML file")
    add("--connect", action="store_true", help="try every device and sink, show what is read")
    add("--schema", action="store_true", help="print the JSON schema for editors")

    what = "run the simulators alone and print where they listen"
    example = "edge-agent simulate plant.yaml --faults trouble.yaml"
    add = _command(commands, "simulate", _simulate, what, example).add_argument
    add("plant", type=Path, nargs="?", metavar="CONFIG", help="whose devices (the demo's)")
    add("--faults", type=Path, metavar="FILE", help="scripted trouble")
    add("--log-scans", type=Path, metavar="DIR", help="note every scan that is served")

    what = "write a report with the evidence for every figure"
    example = "edge-agent report leader plant.yaml --period 2026-10 -o reports"
    add = _command(commands, "report", _report, what, example).add_argument
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
    return parser


def _demo_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    until = "end by itself after this much plant time, from the next full minute on"
    influx = "write to InfluxDB too (http://host:8086?org=o&bucket=b; token in $INFLUX_TOKEN)"
    add("--listen", metavar="ADDR", help="where the dashboard listens (127.0.0.1:8080)")
    add("--for", dest="length", type=_duration, metavar="TIME", help=until)
    add("--speed", type=_speed, default=1.0, metavar="N", help="plant seconds per second (1)")
    add("--data", type=Path, metavar="DIR", help="keep the data here (a temporary folder)")
    add("--mqtt", metavar="URL", help="publish to a broker too (mqtt://host:1883)")
    add("--influx", metavar="URL", help=influx)
    add("--log-scans", type=Path, metavar="DIR", help="note every scan that is served")
    add("--seed", type=int, default=1, metavar="N", help="another plant (1)")
