"""Three days without broker and database, then both are there: what waits is drained, live goes on.

The log is filled with 72 h of event time while both servers are stopped. What comes then is printed
by ``mosquitto_sub`` with the time of receipt, and the database is asked again and again how old its
newest rows are.
"""

import asyncio
import itertools
import json
import sys
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.delivery import MOST
from edge_agent.model import Family
from edge_agent.outbox import Archive
from tests.arrivals import counted
from tests.outage_writer import BLOCK, SINKS, plant
from tests.printed import Printed
from tests.servers import Influx, Mosquitto

REPOSITORY = Path(__file__).parent.parent
LATE = 2.0  # seconds after its time in which a live row must be there
FASTER = 20  # times the live rate, at least, at which what waits is drained
SETTLED = 2.5  # seconds after a sink is up in which each stream has its first live row
LAST = 1.5  # seconds before a server goes, whose rows may not have been sent any more
AWAY = 3.0  # seconds that the second outage lasts; longer than LIVE_FIRST
LIVE_FIRST = "2s"


@dataclass
class Writer:
    """The agent as a process and what it said last."""

    command: list[str]
    process: asyncio.subprocess.Process | None = None
    filled: dict[str, float] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=REPOSITORY,
        )
        self._listener = asyncio.create_task(self._listen(), name="listener")
        self.states.clear()

    async def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            word, _, rest = line.decode().partition(" ")
            if word == "filled":
                self.filled = json.loads(rest)
            elif word == "state":
                self.states.append(json.loads(rest))

    async def until(self, claim: Callable[[dict[str, Any]], bool], seconds: float) -> None:
        """Return when the claim is true of what it says."""
        deadline = time.monotonic() + seconds
        while not (self.states and claim(self.states[-1])):
            assert time.monotonic() < deadline, self.states[-1:]
            assert self.process is not None
            assert self.process.returncode is None
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"stop\n")
        assert await asyncio.wait_for(self.process.wait(), 20) == 0
        await self._listener

    async def __aenter__(self) -> "Writer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Ages:
    """How old the newest rows of the database are: asked again and again."""

    influx: Influx
    found: list[tuple[float, float]] = field(default_factory=list)  # when; oldest of the devices, s

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["Ages"]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._watch())
            yield self
            task.cancel()

    async def _watch(self) -> None:
        while True:
            try:
                rows = await asyncio.to_thread(
                    self.influx.query, 'select last("quality") from "sample" group by "device"'
                )
            except (OSError, AssertionError):  # it is away
                rows = []
            now = time.time()
            if rows:
                self.found.append((now, now - min(row["time"] for row in rows) / 1e9))
            await asyncio.sleep(0.1)

    def within(self, spans: list[tuple[float, float]]) -> list[float]:
        return [age for when, age in self.found if any(a <= when <= b for a, b in spans)]


@dataclass
class Stream:
    """What came of one stream: times of rows in ms, whether they came behind, when they came."""

    times: "array[int]" = field(default_factory=lambda: array("q"))
    behind: "array[int]" = field(default_factory=lambda: array("b"))
    received: "array[float]" = field(default_factory=lambda: array("d"))


def arrivals(printed: Printed) -> dict[str, Stream]:
    """Return the raw rows that came."""
    found: dict[str, Stream] = {}
    for message in printed.messages():
        if not message.topic.endswith("/raw"):
            continue
        body = message.json
        stream = found.setdefault(message.topic.split("/", 2)[2], Stream())
        rows = len(body["t"])
        stream.times.extend(body["t"])
        stream.behind.extend([body.get("h", 0)] * rows)
        stream.received.extend([message.received_ns / 1e9] * rows)
    return found


def logged(path: Path) -> dict[str, list[int]]:
    """Return the times of the raw rows of a log in its order, in ms."""
    archive = Archive(path)
    found: dict[str, list[int]] = {}
    for record in archive.records(0):
        block = archive.block(record)
        found.setdefault(block.schema.stream, []).extend((block.time // 1_000_000).tolist())
    archive.db.close()
    return found


def spans(states: list[dict[str, Any]], name: str, cuts: list[float]) -> list[tuple[float, float]]:
    """Return from when to when a sink was up, but for its first seconds and those before a cut."""
    found, since = list[tuple[float, float]](), None
    for before, after in itertools.pairwise(states):
        if before[name]["state"] != "up":
            since = None
            continue
        since = before["at"] if since is None else since
        for cut in cuts:
            if before["at"] <= cut < after["at"]:
                found.append((since + SETTLED, cut - LAST))
                since = None
                break
    return [(start, end) for start, end in found if start < end]


def rate(states: list[dict[str, Any]], name: str) -> float:
    """Return the rows per second by which what waits became less, while a sink was up and split."""
    seconds = rows = 0.0
    for before, after in itertools.pairwise(states):
        if all(state[name]["split"] and state[name]["state"] == "up" for state in (before, after)):
            seconds += after["at"] - before["at"]
            rows += before[name]["lag"] - after[name]["lag"]
    return float(rows / seconds)


def counted_in(influx: Influx, stream: str) -> int:
    """Return how many rows of a stream the database has; to count all at once takes it too long."""
    device = stream.partition("/")[0]
    rows = influx.query(f'select count("quality") from "sample" where "device" = \'{device}\'')
    return int(rows[0]["count"])


def told(seconds: list[float]) -> str:
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return f"{len(seconds)} times late: p50 {p50:.2f} s, p99 {p99:.2f} s, most {max(seconds):.2f} s"


@pytest.mark.parametrize(
    ("devices", "period", "single", "pace"),
    [
        # 52 000 rows are written, drained and compared, in real time; slowly enough that the second
        # outage and the restart come in the middle
        pytest.param(2, 10, 2.0, "3000", marks=pytest.mark.timeout(120)),
        # 5.2 million, as fast as it goes beside live rows
        pytest.param(20, 1, 4.0, None, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
async def test_three_days_are_drained_while_live_rows_stay_in_time(  # noqa: PLR0917  fixtures
    devices: int,
    period: int,
    single: float,
    pace: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", Influx.token)
    broker, influx = Mosquitto(tmp_path), Influx(tmp_path)
    path = tmp_path / "plant.yaml"
    with broker, influx, Printed(broker, tmp_path / "printed", "edge/#") as printed:
        path.write_text(plant(devices, sinks(broker.url, influx.url, pace)), encoding="utf-8")
        command = [sys.executable, "-m", "tests.outage_writer", str(path), "72", str(period)]
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(influx.stop)
        async with Writer([*command, str(single)]) as agent, Ages(influx).watched() as ages:
            await agent.until(lambda _: True, 600)
            await asyncio.sleep(float(LIVE_FIRST[:-1]) + 1)  # live rows that are late by the outage
            total = agent.filled["rows"]
            states, cuts = list[dict[str, Any]](), list[float]()

            async def drained(share: float) -> None:
                """Return when a share of what waited is left at the broker."""
                await agent.until(lambda s: s["broker"]["state"] == "up", 60)
                await agent.until(lambda s: s["broker"]["lag"] <= share * total, 1800)
                cuts.append(time.time())

            await asyncio.to_thread(broker.start)
            await asyncio.to_thread(influx.start)
            await drained(0.6)
            await asyncio.to_thread(broker.stop)  # a second outage in the middle
            await asyncio.to_thread(influx.stop)
            await asyncio.sleep(AWAY)
            await asyncio.to_thread(broker.start)
            await asyncio.to_thread(influx.start)
            await drained(0.2)
            await agent.stop()  # and a restart
            states += agent.states
            await agent.start()
            await agent.until(
                lambda s: all(s[n]["lag"] <= devices and not s[n]["split"] for n in SINKS), 1800
            )
            await asyncio.sleep(SETTLED + LAST + 1)
            cuts.append(time.time())
            await asyncio.sleep(0.3)  # it says once more that all is well
            await agent.stop()
            states += agent.states
        printed.wait(120)
        found, wanted = arrivals(printed), logged(tmp_path / "data" / "log.db")
        rows = {stream: counted_in(influx, stream) for stream in wanted}
        derived = influx.query(f'select count("quality") from "{Family.ENERGY}"')
    counts = await counted(path)

    up = {name: spans(states, name, cuts) for name in SINKS}
    late = [
        received - t / 1000
        for stream in found.values()
        for t, behind, received in zip(stream.times, stream.behind, stream.received, strict=True)
        if not behind and any(a <= t / 1000 <= b for a, b in up["broker"])
    ]
    old = ages.within(up["influx"])
    rates = {name: rate(states, name) for name in SINKS}
    print(  # noqa: T201  what the run was worth
        f"{total:.0f} rows written in {agent.filled['seconds']:.1f} s\n"
        + "".join(f"{n}: {r:.0f} rows/s, {r / devices:.0f} times live\n" for n, r in rates.items())
        + f"broker: {told(late)}\nnewest rows of the database, up to 1 s old: {told(old)}"
    )
    assert min(rates.values()) >= FASTER * devices
    assert max(late) < LATE
    assert max(old) < 1.0 + LATE  # the last row is of up to a period ago
    assert counts.conserved
    assert all(counts.readers[n].pending == counts.readers[n].dropped == 0 for n in SINKS)
    assert rows == {stream: len(times) for stream, times in wanted.items()}
    assert derived[0]["count"] > 72 * 4 - 2
    assert found.keys() == wanted.keys()
    for stream, times in wanted.items():
        in_lanes(times, found[stream])
        assert len(found[stream].times) - len(times) <= 3 * MOST * BLOCK, "what came again"


def in_lanes(times: list[int], found: Stream) -> None:
    """Every row came, first in order in each lane; what waited for the servers came behind."""
    assert sorted(set(found.times)) == times
    seen = set[int]()
    last = [0, 0]
    for t, behind in zip(found.times, found.behind, strict=True):
        if t not in seen:
            seen.add(t)
            assert t > last[behind]
            last[behind] = t
    first = found.times[found.behind.index(0)]  # the first live row
    assert all(behind for t, behind in zip(found.times, found.behind, strict=True) if t < first), (
        "a row of the outage came as a live one"
    )


def sinks(broker: str, influx: str, pace: str | None) -> str:
    lanes = f"live_first_after: {LIVE_FIRST}" + (f", backlog_rate: {pace}" if pace else "")
    return f"""
sinks:
  broker: {{type: mqtt, url: "{broker}", {lanes}}}
  influx: {{type: influxdb, url: "{influx}", org: plant, bucket: energy,
           token: "${{INFLUX_TOKEN}}", {lanes}}}
"""
