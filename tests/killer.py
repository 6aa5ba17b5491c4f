"""Starts agents through ``tests.kill_writer`` and kills them at random moments."""

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kill_writer import AHEAD, PLANT, Phase
from tests.process import wait_until

REPOSITORY = Path(__file__).parent.parent
FOR_EVER = 1 << 40  # rows of a load that is killed before it has them
STARTS = 0.25  # part of the kills that come within EARLY
EARLY = 0.06  # seconds after the fork: opening, recovery, first commits
CONNECTED = 10.0  # seconds in which a sink must be at work
LATE = 0.3  # seconds after the recovery: everything else


@dataclass
class Killer:
    """Starts agents and kills them; keeps what was found on the way."""

    plant: Path
    phases: Path
    raw_bytes: int | None = None  # a smaller budget than that of the plant
    kills: int = 0
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
                [sys.executable, "-m", "tests.kill_writer", str(self.plant), str(self.phases),
                 *([] if self.raw_bytes is None else [str(self.raw_bytes)])],
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
                self.safe = max(self.safe, found["rows"])
                self.slowest = max(self.slowest, found["seconds"])
                self.fed = max(self.fed, found["fed"])
            elif word == "flushed":
                self.safe = int(rest)
            if word == until:
                return rest
        raise AssertionError(f"it ended before it said {until!r}")

    def _delivers(self) -> bool:
        return bool(self._shared[Phase.TO_BROKER] or self._shared[Phase.TO_INFLUX])

    def kill(self, chance: random.Random, *, ahead: int = AHEAD, delivering: bool = True) -> None:
        """Start an agent and kill it at a random moment: while it starts, or when it is at work.

        ahead       rows that its load may be ahead of the sinks
        delivering  whether there is somebody to deliver to
        """
        self._say(f"run {FOR_EVER} {ahead}")
        pid = int(self._hear("started"))
        if chance.random() < STARTS:
            time.sleep(chance.uniform(0, EARLY))
        else:
            self._hear("opened")
            if delivering:  # to connect takes a slow machine its time
                wait_until(self._delivers, CONNECTED, "a sink is at work")
            time.sleep(chance.uniform(0, LATE))
        os.kill(pid, signal.SIGKILL)
        self._say("reap")
        assert int(self._hear("ended")) == signal.SIGKILL
        self.kills += 1
        now = {phase.name for phase in Phase if self._shared[phase]}
        self.hit.update(now or {"BETWEEN"})

    def finish(self, more: int = 100, *, ahead: int = AHEAD) -> None:
        """Let an agent bring every stream to the same length, so much more, and stop in order."""
        self._say(f"run {self.safe + more} {ahead}")
        self._hear("done")
        self._say("reap")
        assert int(self._hear("ended")) == 0


def plant(folder: Path, broker: str, influx: str, *, live_first: str = "never") -> Path:
    """Write the plant with sinks at these addresses; return the file.

    live_first  after how long an outage both send what is newest first
    """
    path = folder / "plant.yaml"
    path.write_text(
        f"""{PLANT}
sinks:
  broker: {{type: mqtt, url: "{broker}", live_first_after: {live_first}}}
  influx: {{type: influxdb, url: "{influx}", org: plant, bucket: energy,
           token: "${{INFLUX_TOKEN}}", live_first_after: {live_first}}}
""",
        encoding="utf-8",
    )
    return path
