"""What goes wrong at a broker or a database costs nobody else anything, and no row.

The whole agent on two simulated meters, with a real broker and a real database at once. What they
have in the end is compared with the log, row by row: the broker's is what ``mosquitto_sub`` prints.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from edge_agent.agent import Agent
from edge_agent.config import Registry
from edge_agent.health import State
from edge_agent.model import Family, Quality, Site
from edge_agent.outbox import Archive
from edge_agent.sinks.base import Item, Sink, SinkConfig
from tests.arrivals import (
    Points,
    Rows,
    arrived_in_lanes,
    assert_lanes,
    points_in,
    points_of,
    stored,
)
from tests.http_proxy import (
    HttpProxy,
    answer,
    hung_after,
    lost_after,
    lost_before,
    plain,
    raw,
)
from tests.printed import Printed
from tests.proxy import Wire
from tests.servers import HOST, Influx, Mosquitto
from tests.test_agent import PERIOD, plant, running, unharmed, until

CATCH_UP = 20.0  # seconds: the longest pause after the failures of a few seconds, and some
PROMPT = 1.0  # seconds after its time in which a row is at a sound sink: commit period and some
pytestmark = pytest.mark.timeout(60)  # outages of seconds, pauses and catching up


def sinks(
    broker: str, database: str, *, login: bool = False, token: str = "${INFLUX_TOKEN}"
) -> dict[str, dict[str, object]]:
    """Return both sinks as they stand in a configuration."""
    mqtt: dict[str, object] = {"type": "mqtt", "url": broker, "timeout": "2s"}
    if login:
        mqtt |= {"user": "edge", "password": "${MQTT_PASSWORD}"}
    place = {"org": Influx.org, "bucket": Influx.bucket, "token": token, "timeout": "2s"}
    return {"broker": mqtt, "influx": {"type": "influxdb", "url": database} | place}


async def delivered(agent: Agent, *names: str) -> None:
    """Return when some sinks have all that the log holds now."""
    wanted = {name: agent.counts().readers[name].appended for name in names}

    def done() -> bool:
        readers = agent.counts().readers
        return all(readers[n].delivered + readers[n].refused >= rows for n, rows in wanted.items())

    deadline = time.monotonic() + CATCH_UP
    while not done():
        assert time.monotonic() < deadline, agent.counts()
        await asyncio.sleep(0.05)


def everything_arrived(
    folder: Path, printed: Printed, influx: Influx, *, refused: Sequence[str] = ()
) -> Rows:
    """Assert that broker and database have the rows of the log, each once; return these.

    refused  streams that neither of them takes
    """
    archive = Archive(folder / "data" / "log.db")
    raw, schemas = stored(archive)
    archive.db.close()
    wanted = {stream: rows for stream, rows in raw.items() if stream not in refused}
    found = arrived_in_lanes(printed.messages(), schemas)
    assert found.keys() == wanted.keys()
    points = Points()
    for stream, rows in wanted.items():
        assert_lanes(stream, [(t // 1_000_000, cells) for t, cells in rows], found[stream])
        points |= points_of(schemas[stream], rows)
    assert points_in(influx, Family.SAMPLE, "works") == points
    assert len(points) == sum(map(len, wanted.values()))  # no two rows have one key
    return raw


def told(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """Return how many lines from WARNING on hold a text."""
    return sum(
        text in record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    )


# ---- credentials ---------------------------------------------------------------------------------


async def test_wrong_credentials_are_told_once_and_keep_every_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    influx: Influx,
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "hunter2")
    monkeypatch.setenv("INFLUX_TOKEN", "stolen-token")
    broker = Mosquitto(tmp_path, users={"edge": "other", "office": "office"})
    with broker, Printed(broker, tmp_path / "printed", "edge/#", user="office") as printed:
        both = sinks(broker.url, influx.url, login=True)
        async with plant(tmp_path, sinks=both) as config, running(config) as agent:
            await asyncio.sleep(3.0)
            health = agent.health.sinks
            assert (health["broker"].state, health["influx"].state) == (State.DOWN, State.DOWN)
            assert "Not authorized" in health["broker"].error
            assert "mend token" in health["influx"].error
            assert health["history"].state is State.UP
            readers = agent.counts().readers
            assert all(readers[n].pending == readers[n].appended > 20 for n in both)
            assert (told(caplog, "broker is down"), told(caplog, "influx is down")) == (1, 1)
            # the broker's list of users is mended: the agent goes on by itself
            broker.users["edge"] = "hunter2"
            await asyncio.to_thread(broker.restart)
            await delivered(agent, "broker")
            assert agent.health.sinks["influx"].state is State.DOWN
        # a secret of the agent is read when it starts
        monkeypatch.setenv("INFLUX_TOKEN", influx.token)
        async with plant(tmp_path, sinks=both) as config, running(config) as agent:
            await delivered(agent, *both)
        printed.wait()
        everything_arrived(tmp_path, printed, influx)
    assert agent.counts().conserved
    assert "hunter2" not in caplog.text
    assert "stolen-token" not in caplog.text


# ---- what is refused -----------------------------------------------------------------------------


async def test_a_denied_topic_and_a_type_conflict_stop_no_other_stream(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    influx: Influx,
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "hunter2")
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    acl = "user edge\n" + "\n".join(
        f"topic write edge/works/{t}" for t in ("em-a/raw", "em-a/$meta", "em-b/#", "$state/#")
    )
    acl += "\nuser office\ntopic read #\ntopic write printed/#"
    broker = Mosquitto(tmp_path, users={"edge": "hunter2", "office": "office"}, acl=acl)
    # the only tag of em-a/raw.slow is a text in the database
    now = time.time_ns()
    await asyncio.to_thread(influx.write, f'sample,device=old energy="text" {now}')
    with broker, Printed(broker, tmp_path / "printed", "edge/#", user="office") as printed:
        both = sinks(broker.url, influx.url, login=True)
        async with plant(tmp_path, sinks=both) as config, running(config) as agent:
            await asyncio.sleep(2.0)
            await delivered(agent, *both)
            for name in both:
                assert agent.health.sinks[name].state is State.UP
                assert told(caplog, f"{name} refuses rows of em-a/raw.slow") == 1
        printed.wait()
        influx.query("delete from sample where device = 'old'")
        raw = everything_arrived(tmp_path, printed, influx, refused=["em-a/raw.slow"])
    counts, refused = agent.counts(), len(raw["em-a/raw.slow"])
    assert counts.conserved
    assert refused > 3
    for name in both:
        assert counts.readers[name].refused == refused
        assert counts.readers[name].delivered == sum(map(len, raw.values())) - refused
    archive = Archive(tmp_path / "data" / "log.db")
    for name, words in {"broker": "Not authorized", "influx": "conflict"}.items():
        aside = archive.aside(name)
        assert {rows.block.schema.stream for rows in aside} == {"em-a/raw.slow"}
        assert all(words in rows.reason for rows in aside)
        kept = {moment for rows in aside for moment in rows.block.time.tolist()}
        assert kept == {moment for moment, _ in raw["em-a/raw.slow"]}
    archive.db.close()


# ---- a slow or hanging sink ----------------------------------------------------------------------


def lateness(printed: Printed, since_ns: int) -> list[float]:
    """Return how many seconds after its time each row came that is of after a moment."""
    return [
        (message.received_ns - t * 1_000_000) / 1e9
        for message in printed.messages()
        if "/raw" in message.topic
        for t in message.json["t"]
        if t * 1_000_000 > since_ns
    ]


@pytest.mark.parametrize("trouble", ["slow", "hangs"])
@pytest.mark.parametrize("victim", ["broker", "influx"])
async def test_a_sink_in_trouble_slows_nothing_else(  # noqa: PLR0917  fixtures
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mosquitto: Mosquitto,
    influx: Influx,
    victim: str,
    trouble: str,
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    ports = {"broker": mosquitto.port, "influx": influx.port}
    async with Wire(ports[victim]) as wire:
        ports[victim] = wire.port
        both = sinks(f"mqtt://{HOST}:{ports['broker']}", f"http://{HOST}:{ports['influx']}")
        with Printed(mosquitto, tmp_path / "printed", "edge/#") as printed:
            async with plant(tmp_path, sinks=both) as config, running(config) as agent:
                await delivered(agent, *both)
                if trouble == "slow":
                    wire.limit(100)
                else:
                    wire.stall()
                since = time.time_ns()
                newest = await watched(agent, influx, 3.0)
                readers, sound = (
                    agent.counts().readers,
                    "influx" if victim == "broker" else "broker",
                )
                assert readers[victim].pending > 20
                assert readers[sound].pending < 20
                printed.wait()
                late = lateness(printed, since) if sound == "broker" else newest
                assert len(late) > 20
                assert max(late) < PROMPT
                wire.limit(None)
                if trouble == "hangs":
                    wire.cut()
                wire.mend()
                await delivered(agent, *both)
            printed.wait()
            everything_arrived(tmp_path, printed, influx)
    unharmed(tmp_path, 3.0)
    assert agent.counts().conserved


async def watched(agent: Agent, influx: Influx, seconds: float) -> list[float]:
    """Return how old the newest rows of the database were, beyond a period, time and again.

    Meanwhile no poll is missed and none is late.
    """
    ages, late = list[float](), list[float]()
    missed = [link.ticks_missed for link in agent.health.links.values()]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = await asyncio.to_thread(influx.query, 'select last("quality") from "sample"')
        ages += [(time.time_ns() - row["time"]) / 1e9 - PERIOD for row in found]
        late += [link.late_seconds for link in agent.health.links.values()]
        await asyncio.sleep(0.05)
    assert [link.ticks_missed for link in agent.health.links.values()] == missed
    assert np.quantile(late, 0.9) < 0.05
    return ages


# ---- faults one after the other ------------------------------------------------------------------


async def test_faults_of_every_kind_at_both_servers_cost_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mosquitto: Mosquitto, influx: Influx
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    half = raw(b"HTTP/1.1 204 No Cont", forwarded=True)
    async with HttpProxy(influx.port) as proxy, Wire(mosquitto.port) as wire:
        both = sinks(f"mqtt://{HOST}:{wire.port}", proxy.url)
        with Printed(mosquitto, tmp_path / "printed", "edge/#") as printed:
            async with plant(tmp_path, sinks=both) as config, running(config) as agent:
                await delivered(agent, *both)  # what they import has been imported
                proxy.faults += [
                    answer(429, "Retry-After: 1"), plain, lost_before, plain, lost_after, plain,
                    half, plain, answer(503), hung_after,
                ]  # fmt: skip
                begin = time.monotonic()
                for stalled in (True, False, True):
                    await asyncio.sleep(0.5)
                    if stalled:
                        wire.stall()
                        await asyncio.sleep(0.4)
                    wire.cut()
                    await asyncio.sleep(0.4)
                    wire.mend()
                await until(lambda: not proxy.faults, "every fault is played")
                seconds = time.monotonic() - begin
                await delivered(agent, *both)
            printed.wait()
            everything_arrived(tmp_path, printed, influx)
    unharmed(tmp_path, seconds)
    assert agent.counts().conserved


# ---- a bug ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Buggy(SinkConfig):
    """A sink whose plug-in has a bug."""

    kind: ClassVar[str] = "buggy"

    def build(self, site: Site) -> Sink:  # noqa: ARG002  as the others
        return BuggySink()


class BuggySink:
    async def connect(self) -> None:
        pass

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:  # noqa: ARG002
        raise ZeroDivisionError(f"a bug while {len(items)} items are written")

    async def close(self) -> None:
        pass


async def test_a_bug_in_a_sink_is_shown_and_costs_the_others_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mosquitto: Mosquitto,
    influx: Influx,
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    installed = Registry.installed()
    registry = installed._replace(sinks=(*installed.sinks, Buggy))
    three = sinks(mosquitto.url, influx.url) | {"bad": {"type": "buggy"}}
    with Printed(mosquitto, tmp_path / "printed", "edge/#") as printed:
        async with (
            plant(tmp_path, registry=registry, sinks=three) as config,
            running(config) as agent,
        ):
            await asyncio.sleep(2.0)
            await delivered(agent, "broker", "influx")
            assert agent.health.sinks["bad"].state is State.FAILED
            assert "ZeroDivisionError" in agent.health.sinks["bad"].error
            assert not agent.health.ok
        printed.wait()
        everything_arrived(tmp_path, printed, influx)
    unharmed(tmp_path, 2.0)
    counts = agent.counts()
    assert counts.conserved
    assert counts.readers["bad"].pending == counts.readers["bad"].appended
    assert caplog.text.count("Traceback") == 1


# ---- the clock of the box ------------------------------------------------------------------------


async def test_steps_of_the_clock_during_an_outage_leave_each_row_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mosquitto: Mosquitto, influx: Influx
) -> None:
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    true_time, step = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: true_time() + step[0] * 1_000_000_000)
    both = sinks(mosquitto.url, influx.url)
    with Printed(mosquitto, tmp_path / "printed", "edge/#") as printed:
        async with plant(tmp_path, sinks=both) as config:
            async with running(config) as agent:
                await delivered(agent, *both)
                await asyncio.to_thread(mosquitto.stop)
                await asyncio.to_thread(influx.stop)
                for seconds in (0, 3600, -7200, 7200):  # forward, far back, and as it was
                    step[0] = seconds
                    await asyncio.sleep(0.8)
                step[0] = -600  # and the agent starts with a clock that is behind
            async with running(config) as agent:
                await asyncio.sleep(0.8)
                await asyncio.to_thread(mosquitto.start)
                await asyncio.to_thread(influx.start)
                await delivered(agent, *both)
        printed.wait()
        raw = everything_arrived(tmp_path, printed, influx)
    assert agent.counts().conserved
    for stream, rows in raw.items():
        times = np.array([moment for moment, _ in rows])
        assert (np.diff(times) > 0).all(), stream
        assert np.diff(times).max() > 3599e9, stream
        marks = {quality for _, cells in rows for _, _, quality in cells}
        assert marks == {Quality.GOOD, Quality.UNCERTAIN_CLOCK}, stream
