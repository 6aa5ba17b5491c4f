"""An agent is killed many times at random moments under load: what was committed stays and arrives.

Every agent is forked by ``tests.kill_writer``, with a real log, broker, database and history; the
values of its load follow from their place, so what must be there is known without looking. What the
broker handed out is read by ``mosquitto_sub``, what the database holds by queries.
"""

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.agent import HISTORY
from edge_agent.health import ReaderCounts
from edge_agent.model import Family, Schema
from edge_agent.outbox import Archive
from edge_agent.sinks.history import History
from tests.arrivals import (
    Points,
    Rows,
    arrived,
    assert_first_arrivals,
    computed_undisturbed,
    counted,
    kept,
    points_in,
    points_of,
    rows_of,
    stored,
)
from tests.kill_writer import PLANT, Phase, load_of
from tests.printed import Printed
from tests.servers import Influx, Message, Mosquitto

REPOSITORY = Path(__file__).parent.parent
FOR_EVER = 1 << 40  # rows of a load that is killed before it has them
RECOVERED = 2.0  # seconds in which an agent must have opened its log and recovered
STARTS = 0.25  # part of the kills that come within EARLY
EARLY = 0.06  # seconds after the fork: opening, recovery, first commits
LATE = 0.3  # seconds after the recovery: everything else
# messages that come again after a kill, at most: the batch in flight, and those acknowledged since
# the last commit, which has the cursors (here after 50 ms, in which two or three batches go out)
AGAIN = 4 * 64


@dataclass
class Killer:
    """Starts agents and kills them; keeps what was found on the way."""

    plant: Path
    phases: Path
    safe: int = 0  # rows that every stream had committed, as far as was said
    hit: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    fed: int = 0

    @contextmanager
    def ready(self) -> Iterator["Killer"]:
        """Run the process that starts agents."""
        self.phases.write_bytes(bytes(len(Phase)))
        with (
            self.phases.open("r+b") as file,
            mmap.mmap(file.fileno(), len(Phase)) as self._shared,
            subprocess.Popen(
                [sys.executable, "-m", "tests.kill_writer", str(self.plant), str(self.phases)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                cwd=REPOSITORY, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            ) as self._process,
        ):  # fmt: skip
            yield self
            assert self._process.stdin is not None
            self._process.stdin.close()
            assert self._process.wait(20) == 0

    def _say(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def _hear(self, until: str) -> str:
        """Take in what is said until a line that begins so; return the rest of it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "opened":
                found = json.loads(rest)
                assert found["conserved"], found
                assert found["rows"] >= self.safe, f"{self.safe} rows were committed: {found}"
                self.slowest = max(self.slowest, found["seconds"])
                self.fed = max(self.fed, found["fed"])
            elif word == "flushed":
                self.safe = int(rest)
            if word == until:
                return rest
        raise AssertionError(f"it ended before it said {until!r}")

    def kill(self, chance: random.Random) -> None:
        """Start an agent and kill it at a random moment: while it starts, or when it is at work."""
        self._say(f"run {FOR_EVER}")
        pid = int(self._hear("started"))
        if chance.random() < STARTS:
            time.sleep(chance.uniform(0, EARLY))
        else:
            self._hear("opened")
            time.sleep(chance.uniform(0, LATE))
        os.kill(pid, signal.SIGKILL)
        self._say("reap")
        assert int(self._hear("ended")) == signal.SIGKILL
        now = {phase.name for phase in Phase if self._shared[phase]}
        self.hit.update(now or {"BETWEEN"})

    def finish(self) -> None:
        """Let an agent bring every stream to the same length and stop in order."""
        self._say(f"run {self.safe + 100}")
        self._hear("done")
        self._say("reap")
        assert int(self._hear("ended")) == 0


def plant(folder: Path, broker: Mosquitto, influx: Influx) -> Path:
    """Write the plant with these sinks."""
    path = folder / "plant.yaml"
    path.write_text(
        f"""{PLANT}
sinks:
  broker: {{type: mqtt, url: "{broker.url}"}}
  influx: {{type: influxdb, url: "{influx.url}", org: plant, bucket: energy,
           token: "${{INFLUX_TOKEN}}"}}
""",
        encoding="utf-8",
    )
    return path


def repeats(messages: Iterable[Message]) -> list[int]:
    """Return how many messages came again on each connection of the agent, the first one's first.

    A connection begins with the word ``online``.
    """
    found, seen = list[int](), set[tuple[str, bytes, int]]()
    for message in messages:
        if "/$state/" in message.topic:
            if message.payload == b"online":
                found.append(0)
        elif "$" not in message.topic:
            times = message.json["t"]
            key = (message.topic, message.payload, times[0])
            found[-1] += key in seen
            seen.add(key)
    return found


def expected(schemas: Iterable[Schema], rows: Rows) -> Rows:
    """Return the rows of the load, as many as the log has."""
    return {
        schema.stream: rows_of(load_of(schema, 0, len(rows[schema.stream]))) for schema in schemas
    }


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(50, marks=pytest.mark.timeout(120)),  # some 0.3 s each, and what is compared
        pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_an_agent_killed_many_times_loses_nothing(
    kills: int,
    tmp_path: Path,
    mosquitto: Mosquitto,
    influx: Influx,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    chance = random.Random(seed)
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    path = plant(tmp_path, mosquitto, influx)
    printed = Printed(mosquitto, tmp_path / "printed.txt", "edge/#")
    begin = time.monotonic()
    with printed, Killer(path, tmp_path / "phases").ready() as killer:
        for _ in range(kills):
            killer.kill(chance)
        killer.finish()
        printed.wait(60)
    messages = list(printed.messages())
    again = repeats(messages)
    print(  # noqa: T201  what the run was worth
        f"seed {seed}: {kills} kills in {time.monotonic() - begin:.0f} s; hit {dict(killer.hit)};"
        f" opened and recovered within {killer.slowest:.3f} s, at most {killer.fed} records fed;"
        f" {len(messages)} messages, came again after a kill: sum {sum(again)}, most {max(again)}"
    )

    archive = Archive(tmp_path / "data" / "log.db")
    raw, schemas = stored(archive)
    derived, others = kept(History(tmp_path / "data" / "history.db"))
    schemas |= others
    sent = raw | {s: rows for s, rows in derived.items() if schemas[s].family is not Family.SLOT}
    found = arrived(messages, schemas)

    # every row that was pushed is in the log, in order and with its value
    assert raw == expected([schemas[stream] for stream in raw], raw)
    assert {len(rows) for rows in raw.values()} == {killer.safe}
    # the figures are those of an agent that was not disturbed
    assert derived == await computed_undisturbed(path, archive, tmp_path / "again")
    # the broker had every row in the order of the log
    assert found.keys() == sent.keys()
    for stream, rows in sent.items():
        assert_first_arrivals(stream, [(t // 1_000_000, cells) for t, cells in rows], found[stream])
    # the database has every row once and nothing else
    wanted, have = Points(), Points()
    for stream, rows in sent.items():
        wanted |= points_of(schemas[stream], rows)
    for family in {schemas[stream].family for stream in sent}:
        have |= points_in(influx, family, "works")
    assert have == wanted
    # every row is accounted for
    counts = await counted(path)
    assert counts.conserved
    for name, taken in {HISTORY: derived, "broker": sent, "influx": sent}.items():
        total = sum(map(len, taken.values()))
        assert counts.readers[name] == ReaderCounts(total, total, 0, 0, 0), name
    assert max(again) <= AGAIN
    assert killer.slowest < RECOVERED
    if kills >= 1000:
        assert all(killer.hit[phase.name] for phase in Phase if phase is not Phase.STOPPING)
