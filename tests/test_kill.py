"""The agent is killed again and again, the broker and the database are cut off: nothing is lost.

A real agent on the simulated plant, a real broker and a real database, each behind a wire that can
be cut. What the agent had committed is what must have arrived, so the log is the measure; what an
agent that nobody disturbs makes of the same readings is the measure of the figures.
"""

import asyncio
import json
import random
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.agent import HISTORY
from edge_agent.config import data_dir, load
from edge_agent.health import ReaderCounts
from edge_agent.model import Family
from edge_agent.outbox import Archive
from edge_agent.sinks.history import History
from tests.arrivals import (
    Points,
    arrived_in_lanes,
    assert_lanes,
    computed_undisturbed,
    counted,
    kept,
    points_in,
    points_of,
    stored,
)
from tests.proxy import Wire
from tests.servers import HOST, Influx, Mosquitto, free_port, wait_until

REPOSITORY = Path(__file__).parent.parent
READY = 30.0  # seconds in which the simulators and the agent must be up
CATCH_UP = 60.0  # seconds in which all must have arrived; a sink that is down pauses up to 30 s
STOP = 20.0  # seconds in which an orderly stop must be over
CLOSING = 60.0  # seconds after the outages in which a minute's figures must have arrived
MINUTE = 60.0
FIGURES = [f"edge/demo-cement/{metric}/1min" for metric in ("clinker", "packer", "kiln-stack")]
SINKS = ("broker", "influx")


# ---- the plant and the agent ---------------------------------------------------------------------


@asynccontextmanager
async def simulators(seed: int) -> AsyncIterator[dict[str, str]]:
    """Run the plant; yield device -> where it is reached."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulators", "--seed", str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY)
        yield json.loads(line)["connect"]
    finally:
        process.stdin.close()
        await process.wait()


def plant(folder: Path, connect: dict[str, str], listen: str, mqtt: int, influx: int) -> Path:
    """Write the demonstration plant with these addresses and sinks; return the file."""
    written = yaml.safe_load((data_dir() / "demo.yaml").read_text(encoding="utf-8"))
    for name, url in connect.items():
        written["devices"][name]["connect"] = url
    written["data"] = "data"
    written["web"] = {"listen": listen}
    written["sinks"] = {
        "broker": {"type": "mqtt", "url": f"mqtt://{HOST}:{mqtt}"},
        "influx": {
            "type": "influxdb",
            "url": f"http://{HOST}:{influx}",
            "org": Influx.org,
            "bucket": Influx.bucket,
            "token": "${INFLUX_TOKEN}",
        },
    }
    path = folder / "plant.yaml"
    path.write_text(yaml.safe_dump(written, allow_unicode=True, sort_keys=False), encoding="utf-8")
    # PyYAML reads and writes YAML 1.1, the agent reads 1.2: it must be the same plant all the same
    places: dict[str, object] = {name: {"connect": url} for name, url in connect.items()}
    assert load(path).digest == load(data_dir() / "demo.yaml", {"devices": places}).digest
    return path


def health(listen: str) -> dict[str, Any] | None:
    """Return what the agent says of itself, or None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{listen}/healthz", timeout=5) as reply:
            return dict(json.load(reply))
    except OSError:
        return None


@dataclass
class Running:
    """The agent as a process that is ended in both ways."""

    plant: Path
    listen: str
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge_agent", "run", str(self.plant)),
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
            )

    async def kill(self) -> None:
        assert self.process is not None
        assert self.process.returncode is None, f"it ended by itself:\n{self.log.read_text()}"
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        assert self.process is not None
        # a SIGTERM that comes while Python still imports is met by nobody
        await asyncio.to_thread(
            wait_until, lambda: health(self.listen) is not None, READY, "health"
        )
        self.process.terminate()
        status = await asyncio.wait_for(self.process.wait(), STOP)
        assert status == 0, f"it ended with {status}:\n{self.log.read_text()}"

    async def __aenter__(self) -> "Running":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()


def caught_up(listen: str) -> None:
    """Return when every sink has what the log holds now."""
    wanted: dict[str, int] = {}

    def delivered() -> bool:
        found = health(listen)
        if found is None:
            return False
        sinks = {sink["name"]: sink for sink in found["sinks"]}
        wanted.update({} if wanted else {name: sink["appended"] for name, sink in sinks.items()})
        return all(sinks[name]["delivered"] >= rows for name, rows in wanted.items())

    wait_until(delivered, CATCH_UP, "everything is delivered")


# ---- what is done to it --------------------------------------------------------------------------


def script(
    chance: random.Random, kills: int, outage: float, border: float
) -> list[tuple[float, str]]:
    """Return what is done when, in seconds since the start.

    An outage begins with a second in which nothing arrives and nobody is told. One lies over the
    border, so that figures wait for a sink while the agent is killed; one kill comes within each
    outage and one just after the border, when windows close. The restart in order leaves a
    checkpoint, from which the kills behind it recover.

    border  when a minute ends
    """
    cuts = [chance.uniform(2, 4), max(2.0, border - chance.uniform(0.2, 0.8) * outage)]
    chance.shuffle(cuts)
    length = max(border + 6, *(cut + outage + 1 for cut in cuts))
    moments = [cut + chance.uniform(0.3, 1) * outage for cut in cuts]
    moments.append(border + chance.uniform(0, 4))
    moments += [chance.uniform(2, length) for _ in range(kills - len(moments))]
    events = [(moment, "kill") for moment in moments]
    events.append((chance.uniform(0.3, 0.7) * length, "restart"))
    for name, cut in zip(SINKS, cuts, strict=True):
        events += [(cut, f"stall {name}"), (cut + 1, f"cut {name}"), (cut + outage, f"mend {name}")]
    return sorted(events)


async def play(
    events: Iterable[tuple[float, str]], agent: Running, wires: Mapping[str, Wire]
) -> None:
    """Do it, and say what was done when."""
    begin = time.monotonic()
    for moment, event in events:
        await asyncio.sleep(max(0.0, begin + moment - time.monotonic()))
        print(f"{time.monotonic() - begin:6.2f} s  {event}")  # noqa: T201  read after a failure
        action, _, name = event.partition(" ")
        if name:
            {"stall": Wire.stall, "cut": Wire.cut, "mend": Wire.mend}[action](wires[name])
        else:
            await (agent.kill() if action == "kill" else agent.stop())
            await agent.start()


# ---- the test ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "outage"),
    [
        # real time: a minute of the day must end while it runs, so up to 60 s, then the rest
        pytest.param(5, 5.0, marks=pytest.mark.timeout(180)),
        # real time: two outages of a minute, what comes before and after, and the catching up
        pytest.param(10, 60.0, marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
async def test_nothing_committed_is_lost_or_changed_by_kills_and_outages(  # noqa: PLR0917  fixtures
    kills: int,
    outage: float,
    tmp_path: Path,
    mosquitto: Mosquitto,
    influx: Influx,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    listen = f"{HOST}:{free_port()}"
    log = tmp_path / "agent.log"
    async with (
        Wire(mosquitto.port) as to_broker,
        Wire(influx.port) as to_influx,
        simulators(seed) as connect,
    ):
        path = plant(tmp_path, connect, listen, to_broker.port, to_influx.port)
        with mosquitto.subscriber("edge/#") as subscriber:
            async with Running(path, listen, log) as agent:
                border = MINUTE - time.time() % MINUTE
                border += MINUTE if border < 6 else 0  # some readings must come before it
                events = script(random.Random(seed), kills, outage, border)
                print(f"seed {seed}, a minute ends at {border:.1f} s")  # noqa: T201  read after a failure
                await play(events, agent, {"broker": to_broker, "influx": to_influx})
                for topic in FIGURES:
                    await asyncio.to_thread(subscriber.wait_for, 1, topic, CLOSING)
                await asyncio.to_thread(caught_up, listen)
                await agent.stop()
            messages = list(subscriber.messages)

    archive = Archive(tmp_path / "data" / "log.db")
    raw, schemas = stored(archive)
    derived, others = kept(History(tmp_path / "data" / "history.db"))
    schemas |= others
    figures = {s: rows for s, rows in derived.items() if schemas[s].family is not Family.SLOT}
    sent = raw | figures
    found = arrived_in_lanes(messages, schemas)

    # there is something to compare
    assert {schemas[stream].owner for stream in raw} == set(connect)
    assert {topic.split("/", 2)[2] for topic in FIGURES} <= figures.keys()

    # the broker had every row, in order and with its value, and no figure in two versions
    assert found.keys() == sent.keys()
    for stream in figures:
        figures_found = {row for row, _ in found[stream]}
        assert len({moment for moment, _ in figures_found}) == len(figures_found), stream
    for stream, rows in sent.items():
        logged = [(moment // 1_000_000, cells) for moment, cells in rows]
        assert_lanes(stream, logged, found[stream])

    # the database has every row and nothing else
    wanted, have = Points(), Points()
    for stream, rows in sent.items():
        wanted |= points_of(schemas[stream], rows)
    for family in {schemas[stream].family for stream in sent}:
        have |= points_in(influx, family)
    assert have == wanted

    # the figures are those of an agent that was not disturbed
    assert derived == await computed_undisturbed(path, archive, tmp_path / "again")

    # every row is accounted for
    counts = await counted(path)
    assert counts.appended == counts.read + counts.substituted + counts.derived
    assert counts.read + counts.substituted == sum(map(len, raw.values()))
    assert counts.derived == sum(map(len, derived.values()))
    assert counts.dropped == 0
    for name, taken in {HISTORY: derived, "broker": sent, "influx": sent}.items():
        total = sum(map(len, taken.values()))
        assert counts.readers[name] == ReaderCounts(total, total, 0, 0, 0), name
    assert "Traceback" not in log.read_text()
