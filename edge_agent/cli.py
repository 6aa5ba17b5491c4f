"""The commands, as ``edge-agent --help`` lists them.

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
from collections.abc import Callable, Coroutine, Mapping, Sequence

from edge_agent import demo
from edge_agent.agent import Agent
from edge_agent.arguments import WRONG, Run, parser
from edge_agent.check import probe, summary
from edge_agent.config import Config, data_dir, json_schema, load
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.report import write_leader
from edge_agent.terminal import shortened
from edge_agent.tools import commands

log = logging.getLogger(__name__)

UNREACHED = 3
NICE = 10  # an export leaves the processor to the agent
PLACES = 78  # of a line of progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parser(_RUNS).parse_args(arguments)
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
    lines, reached = asyncio.run(probe(config, _progress))
    for line in lines:
        _say(line)
    return 0 if reached else UNREACHED


def _status(options: argparse.Namespace) -> int:
    from edge_agent import status  # the agent's start must not wait for it

    config = load(options.config)
    found = status.read(config, options.most)
    for line in status.lines(found, config.site.zone, options.most):
        _say(line)
    return 0


def _simulate(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "simulators", str(options.plant or data_dir() / "demo.yaml")]
    if options.faults is not None:
        command += ["--faults", str(options.faults)]
    if options.log_scans is not None:
        command += ["--log", str(options.log_scans)]
    if options.serial:
        command += ["--serial"]
    os.execv(command[0], command)  # noqa: S606  the same interpreter, a fixed module


def _report(options: argparse.Namespace) -> int:
    for line in write_leader(load(options.config), options.period, options.output, options.metric):
        _say(line)
    return 0


def _recompute(options: argparse.Namespace) -> int:
    from edge_agent import recompute  # the agent's start must not wait for it

    config = load(options.config)
    same, shown = recompute.lines(config, options.begin, options.end, options.output)
    for line in shown:
        _say(line)
    return 0 if same else 1


def _export(options: argparse.Namespace) -> int:
    from edge_agent.export import command  # the agent's start must not wait for it

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing half-written is left
    os.nice(NICE)
    wish = command.Wish(
        config=load(options.config),
        begin=options.begin,
        end=options.end,
        form=options.form,
        folder=options.output,
        streams=options.streams,
        log=options.log,
        refused=options.refused,
    )
    result = command.export(wish, _progress)
    _progress("")
    for line in command.told(result):
        _say(line)
    for fault in result.faults[: command.SHOWN]:
        print(f"edge-agent: {fault}", file=sys.stderr)
    if (more := len(result.faults) - command.SHOWN) > 0:
        print(f"edge-agent: and {more} more (see {command.MANIFEST})", file=sys.stderr)
    return 1 if result.faults else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _progress(line: str) -> None:
    """Show what is going on in one line that the next one replaces; only to a person."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{shortened(line, PLACES)}", end="", file=sys.stderr, flush=True)


_SHOW = commands.Show(_say, _progress)
_RUNS: Mapping[str, Run] = {
    "demo": _demo,
    "run": _run,
    "status": _status,
    "check": _check,
    "explain": lambda options: commands.explain(options, _SHOW),
    "scan": lambda options: commands.scan(options, _SHOW),
    "browse": lambda options: commands.browse(options, _SHOW),
    "tags export": lambda options: commands.export_tags(options, _SHOW),
    "tags import": lambda options: commands.import_tags(options, _SHOW),
    "simulate": _simulate,
    "report": _report,
    "recompute": _recompute,
    "export": _export,
}
