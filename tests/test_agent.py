"""The whole agent in this process, on simulated devices and real sockets."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import pytest

from edge_agent.agent import HISTORY, Agent
from edge_agent.clock import Clock, SystemClock
from edge_agent.config import Config, Registry, load
from edge_agent.drivers.base import DeviceConfig, Driver, Group, groups_of
from edge_agent.errors import ConfigError
from edge_agent.health import State
from edge_agent.model import Quality, SampleBlock
from edge_agent.outbox import Archive
from edge_agent.sinks.history import History
from simulators.fleet import play
from tests.servers import answers, free_port

PLANT = """
site: {id: works}
devices:
  em-a:
    connect: modbus+tcp://127.0.0.1:1502?unit=1
    poll: {fast: 200ms, slow: 400ms}
    tags:
      power:  {at: "hr:0", type: u16, unit: kW}
      energy: {at: "hr:2", type: u32, unit: kWh, kind: counter, class: slow}
  em-b:
    connect: modbus+tcp://127.0.0.1:1502?unit=2
    poll: 200ms
    tags: {power: {at: "hr:0", type: u16, unit: kW}}
web: {listen: "127.0.0.1:0"}
"""
PLC = """
  plc:
    connect: opc.tcp://127.0.0.1:4840
    poll: 200ms
    tags: {state: {at: "nsu=urn:demo:plant;s=Packer1.State", kind: state}}
"""
SOUND = ("em-a/raw", "em-b/raw", "plc/raw")
PERIOD = 0.2


def written(folder: Path, text: str) -> Path:
    file = folder / "plant.yaml"
    file.write_text(text)
    return file


@asynccontextmanager
async def plant(
    folder: Path,
    devices: Mapping[str, object] | None = None,
    registry: Registry | None = None,
    *,
    plc: bool = False,
    **sections: object,
) -> AsyncIterator[Config]:
    """Play the devices; yield a configuration that knows where they and others are."""
    text = (
        PLANT.replace("\nweb:", f"{PLC}web:") if plc else PLANT
    )  # a server takes seconds to start
    async with play(written(folder, text), SystemClock()) as fleet:
        connect = {name: {"connect": url} for name, url in fleet.connect.items()}
        overlay = {"devices": {**connect, **(devices or {})}, **sections}
        yield load(folder / "plant.yaml", overlay, registry=registry)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Agent]:
    agent = Agent(config)
    task = asyncio.create_task(agent.run())
    try:
        ready = asyncio.create_task(agent.ready.wait())
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        yield agent
    finally:
        agent.stop()
        await task


async def until(claim: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def stored(folder: Path) -> dict[str, list[SampleBlock]]:
    archive = Archive(folder / "data" / "log.db")
    found: dict[str, list[SampleBlock]] = {}
    for record in archive.records(0):
        block = archive.block(record)
        found.setdefault(block.schema.stream, []).append(block)
    archive.db.close()
    return found


def good(blocks: list[SampleBlock]) -> list[int]:
    """Return the times of the rows that hold values."""
    return [int(t) for b in blocks for t, q in zip(b.time, b.quality[0], strict=True) if q < 128]


def unharmed(folder: Path, seconds: float) -> None:
    """Assert that the sound devices were read in time, none left out."""
    found = stored(folder)
    assert {"em-a/raw", "em-b/raw"} <= found.keys()
    for stream in (s for s in SOUND if s in found):
        times = good(found[stream])
        assert len(times) >= 0.9 * seconds / PERIOD, stream
        assert np.diff(times).max() < 3 * PERIOD * 1e9, stream
        assert sum(map(len, found[stream])) == len(times), stream


@pytest.fixture
def closed_port() -> int:
    return free_port()


# ---- a day without trouble -------------------------------------------------------------------


async def test_an_agent_reads_shows_stores_and_stops_in_order(tmp_path: Path) -> None:
    async with plant(tmp_path, plc=True) as config, running(config) as agent:
        await asyncio.sleep(2.0)
        async with httpx.AsyncClient(base_url=f"http://{agent.address}") as browser:
            health = await browser.get("/healthz")
            state = (await browser.get("/api/v1/state")).json()
        assert health.status_code == 200
        assert health.json()["ok"] is True
        assert {link["state"] for link in health.json()["links"]} == {"up"}
        assert set(SOUND) <= {schema.stream for schema in agent.live.streams()}
        assert "em-a" in str(state)
    unharmed(tmp_path, 2.0)
    counts = agent.counts()
    assert counts.conserved
    assert (counts.read, counts.substituted) == (counts.appended - counts.derived, 0)
    assert [link.ticks_missed for link in agent.health.links.values()] == [0, 0]
    assert {link.state for link in agent.health.links.values()} == {State.STOPPED}
    assert agent.health.sinks[HISTORY].state is State.STOPPED
    assert not answers(int(agent.address.rpartition(":")[2]))


async def test_a_minute_that_closes_is_in_the_history_when_the_agent_has_stopped(
    tmp_path: Path,
) -> None:
    async with plant(tmp_path) as config:
        async with running(config) as agent:
            await until(lambda: agent.live.last("em-b/raw") is not None, "a row")
            last = agent.live.last("em-b/raw")
            assert last is not None
            minute = (int(last.time[0]) // 60_000_000_000 + 1) * 60_000_000_000
            ahead = SampleBlock(last.schema, last.time + 60_000_000_000, last.value, last.quality)
            agent.pipeline.push(ahead)  # as if the next minute had come
        counts = agent.counts()
        assert counts.derived >= 1
        assert (counts.readers[HISTORY].delivered, counts.readers[HISTORY].pending) == (
            counts.derived,
            0,
        )
        rows = History(tmp_path / "data" / "history.db").rows("em-b/slot", minute - 1, minute + 1)
        assert rows is not None
        assert rows.time.tolist() == [minute]


async def test_a_restart_goes_on_with_numbers_times_and_counts(tmp_path: Path) -> None:
    seen = []
    async with plant(tmp_path) as config:
        for _ in range(3):
            async with running(config) as agent:
                await asyncio.sleep(0.7)
            seen.append(agent.counts())
            assert seen[-1].conserved
    assert seen[0].read < seen[1].read < seen[2].read
    archive = Archive(tmp_path / "data" / "log.db")
    records = list(archive.records(0))  # slot rows leave the log once they are in the history
    archive.db.close()
    numbers = [r.sequence for r in records]
    assert numbers == sorted(set(numbers))
    assert len(numbers) <= numbers[-1] <= len(numbers) + seen[2].derived
    assert sum(r.rows for r in records) == seen[2].read + seen[2].substituted
    assert seen[2].appended == seen[2].read + seen[2].substituted + seen[2].derived
    for blocks in stored(tmp_path).values():
        times = np.concatenate([b.time for b in blocks])
        assert (np.diff(times) > 0).all()
        assert {int(b.quality.max()) for b in blocks} == {Quality.GOOD}


# ---- trouble of one is no trouble of the others ----------------------------------------------


async def test_a_dead_device_and_a_dead_broker_cost_the_others_nothing(
    tmp_path: Path, closed_port: int
) -> None:
    tags = {"power": {"at": "hr:0", "type": "u16", "unit": "kW"}}
    dead = {"connect": f"modbus+tcp://127.0.0.1:{closed_port}", "poll": "200ms", "tags": tags}
    sinks = {"broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{closed_port}"}}
    async with (
        plant(tmp_path, {"dead": dead}, plc=True, sinks=sinks) as config,
        running(config) as agent,
    ):
        await asyncio.sleep(3.0)
        health = agent.health
        assert health.links["dead"].state is State.DOWN
        assert str(closed_port) in health.links["dead"].error
        assert health.sinks["broker"].state is State.DOWN
        assert health.ok
        broker = health.sinks["broker"]
        assert broker.behind_seconds == pytest.approx(3.0, abs=1.6)  # looked at once a second
        assert (broker.backlog, broker.remaining_seconds) == (0, None)
        assert agent.store().raw_bytes > 0
        missed = [link.ticks_missed for name, link in health.links.items() if name != "dead"]
        assert missed == [0, 0]
        before = time.monotonic()
    assert time.monotonic() - before < 3.0  # the stop does not wait for the dead
    unharmed(tmp_path, 3.0)
    rows = stored(tmp_path)["dead/raw"]
    assert {int(b.quality.min()) for b in rows} == {Quality.BAD_NO_ANSWER}
    assert sum(map(len, rows)) == pytest.approx(3.0 / PERIOD, abs=4)
    counts = agent.counts()
    assert counts.conserved
    assert counts.substituted == sum(map(len, rows))
    left = counts.readers["broker"]
    assert (left.pending, left.delivered) == (left.appended, 0)


@dataclass(frozen=True, kw_only=True)
class Broken(DeviceConfig):
    """A device whose plug-in has a bug."""

    schemes: ClassVar[tuple[str, ...]] = ("broken",)

    @property
    def link(self) -> Hashable:
        return self.connect

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> Driver:
        assert clock.speed > 0
        return BrokenDriver([g for name, d in devices.items() for g in groups_of(name, d)])


class BrokenDriver:
    def __init__(self, groups: list[Group]) -> None:
        self.groups = tuple(groups)

    async def connect(self) -> None:
        pass

    async def read(self, group: Group) -> SampleBlock:
        raise ZeroDivisionError(f"a bug while {group.schema.stream} is read")

    async def close(self) -> None:
        pass


async def test_a_bug_in_one_plug_in_is_shown_and_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installed = Registry.installed()
    registry = installed._replace(devices=(*installed.devices, Broken))
    bad = {"connect": "broken://x", "poll": "200ms", "tags": {"power": {"at": "x", "unit": "kW"}}}
    async with (
        plant(tmp_path, {"bad": bad}, registry) as config,
        running(config) as agent,
    ):
        await asyncio.sleep(2.0)
        assert agent.health.links["bad"].state is State.FAILED
        assert "ZeroDivisionError" in agent.health.links["bad"].error
        assert not agent.health.ok
        async with httpx.AsyncClient(base_url=f"http://{agent.address}") as browser:
            assert (await browser.get("/healthz")).json()["ok"] is False
    unharmed(tmp_path, 2.0)
    bugs = stored(tmp_path)["bad/raw"]
    assert {int(b.quality.min()) for b in bugs} == {Quality.BAD_NO_ANSWER}
    assert caplog.text.count("Traceback") == 1


@dataclass(frozen=True, kw_only=True)
class Pupil(Broken):
    """A device whose driver counts its own starts."""

    schemes: ClassVar[tuple[str, ...]] = ("pupil",)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> Driver:
        assert clock.speed > 0
        return PupilDriver([g for name, d in devices.items() for g in groups_of(name, d)])


class PupilDriver(BrokenDriver):
    starts = 0

    async def read(self, group: Group) -> SampleBlock:
        await asyncio.sleep(0.05)
        time_ns = np.array([time.time_ns()], np.int64)
        value = np.array([[float(self.starts)]])
        return SampleBlock(group.schema, time_ns, value, np.zeros((1, 1), np.uint8))

    def save(self) -> dict[str, object]:
        return {"starts": self.starts + 1}

    def load(self, state: Mapping[str, object]) -> None:
        self.starts = int(str(state["starts"]))


async def test_what_a_driver_has_learnt_survives_a_restart(tmp_path: Path) -> None:
    """L2, peers 16: what was found out about a device is not found out again."""
    installed = Registry.installed()
    registry = installed._replace(devices=(*installed.devices, Pupil))
    pupil = {"connect": "pupil://x", "poll": "200ms", "tags": {"power": {"at": "x", "unit": "kW"}}}
    async with plant(tmp_path, {"pupil": pupil}, registry) as config:
        for start in range(3):
            async with running(config) as agent:
                await until(lambda: agent.live.last("pupil/raw") is not None, "a row")
                last = agent.live.last("pupil/raw")
                assert last is not None
                assert last.value[0, 0] == start


async def test_learning_that_fails_costs_only_what_was_learnt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Registry.installed()
    registry = installed._replace(devices=(*installed.devices, Pupil))
    pupil = {"connect": "pupil://x", "poll": "200ms", "tags": {"power": {"at": "x", "unit": "kW"}}}
    async with plant(tmp_path, {"pupil": pupil}, registry) as config:
        async with running(config) as agent:
            await until(lambda: agent.live.last("pupil/raw") is not None, "a row")
            monkeypatch.setattr(PupilDriver, "save", lambda _: {"something": "else"})
        async with running(config) as agent:
            await until(lambda: agent.live.last("pupil/raw") is not None, "a row")
    assert "what was learnt of its devices is lost" in caplog.text


# ---- start and stop --------------------------------------------------------------------------


async def test_stop_may_be_called_twice_and_before_the_agent_is_ready(tmp_path: Path) -> None:
    async with plant(tmp_path) as config:
        agent = Agent(config)
        agent.stop()
        agent.stop()
        async with asyncio.timeout(5):
            await agent.run()
        agent.stop()
        assert agent.counts().conserved
        async with running(config) as again:  # everything is free again
            await until(lambda: again.live.last("em-a/raw") is not None, "a row")
            again.stop()
            again.stop()


async def test_a_port_that_is_taken_is_told_and_everything_let_go(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with plant(tmp_path, web={"listen": f"127.0.0.1:{port}"}) as config:
            with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
                await Agent(config).run()
    async with plant(tmp_path) as config, running(config) as agent:
        await until(lambda: agent.live.last("em-a/raw") is not None, "a row")


async def test_two_agents_do_not_share_a_data_folder(tmp_path: Path) -> None:
    async with plant(tmp_path) as config, running(config) as agent:
        with pytest.raises(ConfigError, match="another agent uses this log"):
            Agent(config)
        await until(lambda: agent.live.last("em-a/raw") is not None, "a row")


async def test_a_data_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    async with plant(tmp_path, data=str(tmp_path / "file" / "data")) as config:
        with pytest.raises(ConfigError, match="data names a folder that the agent may write"):
            Agent(config)


async def test_the_commit_period_is_that_of_the_configuration(tmp_path: Path) -> None:
    async with plant(tmp_path, commit="5s") as config, running(config) as agent:
        await until(lambda: agent.live.last("em-a/raw") is not None, "a row")
        await asyncio.sleep(0.7)
        assert agent.counts().appended == 0
    assert agent.counts().appended > 0


async def test_a_stop_leaves_no_task_and_no_file_open(tmp_path: Path) -> None:
    def files() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return [str(link.readlink()) for link in links if os.path.lexists(link)]

    async with plant(tmp_path) as config:
        before = asyncio.all_tasks()
        async with running(config) as agent:
            await until(lambda: agent.live.last("em-a/raw") is not None, "a row")
            assert any(str(tmp_path) in name for name in files())
        await asyncio.sleep(0.1)
        left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not any(str(tmp_path) in name for name in files())
    assert not [name for name in left if not name.startswith("Task-")]  # ours have names
