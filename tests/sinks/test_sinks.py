"""What every registered sink must do, against a real server: accept, refuse, lose, wait."""

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from edge_agent.errors import Disconnected, Rejected
from edge_agent.model import Family
from edge_agent.sinks import SINKS
from edge_agent.sinks.base import SinkConfig
from edge_agent.sinks.influxdb import InfluxConfig
from edge_agent.sinks.mqtt import MqttConfig
from edge_agent.units import Duration, Secret
from tests.servers import Influx, Mosquitto, wait_until
from tests.sinks.blocks import SITE, Row, block, rows, schema

TIMEOUT = Duration(1.0)


class Peer(Protocol):
    """A real server and what it has got; refuses the rows of ``forbidden/raw``."""

    @property
    def config(self) -> SinkConfig: ...
    def rows(self) -> list[Row]: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class MqttPeer(Mosquitto):
    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            users={"edge": "secret", "office": "other"},
            acl="user edge\ntopic write edge/demo-cement/em-kiln/#\n"
            "topic write edge/demo-cement/em-mill/#\ntopic write edge/demo-cement/$state/#\n"
            "topic write edge/demo-cement/forbidden/$meta\nuser office\ntopic read #",
        )

    def start(self) -> None:
        super().start()
        self.config = MqttConfig(
            url=self.url, user="edge", password=Secret("secret"), timeout=TIMEOUT
        )
        if not hasattr(self, "seen"):
            self.seen = self.subscriber("edge/+/+/raw", user="office").__enter__()

    def rows(self) -> list[Row]:
        wait_until(self.seen.connected, 5, "the subscriber is back")
        time.sleep(0.2)  # one message too many would still be on its way
        got = [(m.topic, m.payload) for m in self.seen.messages]
        # a broker that ends hands out again what its subscriber's acknowledgement missed
        again = {i for i, m in enumerate(self.seen.messages) if m.duplicate and got[i] in got[:i]}
        return [
            (m.topic.removeprefix("edge/demo-cement/"), t, {k: v[i] for k, v in columns.items()
             if v[i] is not None})
            for number, m in enumerate(self.seen.messages) if number not in again
            for columns in [m.json["v"]]
            for i, t in enumerate(m.json["t"])
        ]  # fmt: skip

    def end(self) -> None:
        self.seen.__exit__(None, None, None)
        self.stop()


class InfluxPeer(Influx):
    def start(self) -> None:
        super().start()
        self.config = InfluxConfig(
            url=self.url,
            org=self.org,
            bucket=self.bucket,
            token=Secret(self.token),
            timeout=TIMEOUT,
        )
        # "running" is a text here, so a number is refused
        request = urllib.request.Request(
            f"{self.url}/api/v2/write?bucket={self.bucket}",
            b'sample,device=old running="yes" 1763777000000000000',
            {"Authorization": f"Token {self.token}"},
        )
        urllib.request.urlopen(request, timeout=5).close()

    def rows(self) -> list[Row]:
        found = self.query("select * from sample where device != 'old' group by device, stream")
        return [
            (f"{row['device']}/{row['stream']}", row["time"] // 1_000_000, {
                name: value for name, value in row.items() if value is not None
                and name not in {"time", "device", "stream", "site", "quality"}
                and not name.endswith(".q")})
            for row in found
        ]  # fmt: skip

    def end(self) -> None:
        self.stop()


PEERS: dict[str, type[MqttPeer] | type[InfluxPeer]] = {"mqtt": MqttPeer, "influxdb": InfluxPeer}


@pytest.fixture(params=[config.kind for config in SINKS])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    server = PEERS[request.param](tmp_path)
    server.start()
    yield server
    server.end()


KILN = schema("em-kiln/raw")
MILL = schema("em-mill/raw", "active_power", "mode", state="mode")
FORBIDDEN = schema("forbidden/raw", "running")


def sorted_rows(found: list[Row]) -> list[tuple[str, int, list[tuple[str, float]]]]:
    return sorted((stream, time, sorted(values.items())) for stream, time, values in found)


async def test_what_is_accepted_arrives_exactly(peer: Peer) -> None:
    sink = peer.config.build(SITE)
    await sink.connect()
    blocks = [block(KILN, 3), block(MILL, 2, seed=2), block(KILN, 60, first=3, seed=3)]
    await sink.write(blocks)
    await sink.write([])
    await sink.close()
    assert sorted_rows(peer.rows()) == sorted_rows(rows(blocks))


async def test_what_is_refused_is_named_and_the_rest_arrives(peer: Peer) -> None:
    sink = peer.config.build(SITE)
    await sink.connect()
    blocks = [block(KILN), block(FORBIDDEN, 1), block(MILL), block(FORBIDDEN, 1, first=5)]
    with pytest.raises(Rejected) as refusal:
        await sink.write(blocks)
    await sink.close()
    assert {r.item for r in refusal.value.refusals} == {1, 3}
    assert all("answered" in r.reason for r in refusal.value.refusals)
    assert sorted_rows(peer.rows()) == sorted_rows(rows([blocks[0], blocks[2]]))


async def test_a_peer_that_went_away_is_told_and_gets_all_when_it_is_back(peer: Peer) -> None:
    sink = peer.config.build(SITE)
    await sink.connect()
    blocks = [block(KILN), block(KILN, first=3, seed=2)]
    await sink.write(blocks[:1])
    peer.stop()
    with pytest.raises(Disconnected):
        await sink.write(blocks[1:])
    with pytest.raises(Disconnected):
        await sink.connect()
    peer.start()
    await sink.connect()
    await sink.write(blocks[1:])
    await sink.close()
    assert sorted_rows(peer.rows()) == sorted_rows(rows(blocks))


async def test_a_peer_that_hangs_is_given_up_after_the_time_out(peer: Peer) -> None:
    sink = peer.config.build(SITE)
    await sink.connect()
    peer.pause()
    started = time.monotonic()
    with pytest.raises(Disconnected):
        await sink.write([block(KILN)])
    assert TIMEOUT * 0.9 <= time.monotonic() - started < TIMEOUT * 2.5
    await sink.close()
    assert time.monotonic() - started < TIMEOUT * 5
    peer.resume()


async def test_a_peer_that_is_slow_is_waited_for(peer: Peer) -> None:
    sink = peer.config.build(SITE)
    await sink.connect()
    peer.pause()
    async with asyncio.TaskGroup() as tasks:
        written = tasks.create_task(sink.write([block(KILN)]))
        await asyncio.sleep(TIMEOUT / 2)
        assert not written.done()
        peer.resume()
    await sink.close()
    assert sorted_rows(peer.rows()) == sorted_rows(rows([block(KILN)]))


async def test_closing_is_always_allowed(peer: Peer) -> None:
    sink = peer.config.build(SITE)
    await sink.close()
    await sink.connect()
    await sink.close()
    await sink.close()
    with pytest.raises(Disconnected):
        await sink.write([block(KILN)])
    await sink.connect()
    await sink.connect()
    await sink.write([block(KILN)])
    peer.stop()
    await sink.close()
    peer.start()


def test_a_sink_that_is_not_used_costs_no_import() -> None:
    program = "import sys, edge_agent.sinks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert not loaded & {"aiomqtt", "paho", "influxdb_client", "urllib3", "isal"}


@pytest.mark.parametrize("config", SINKS)
def test_a_sink_takes_all_but_slots_unless_streams_are_named(config: type[SinkConfig]) -> None:
    taken = (schema("em-kiln/raw"), schema("clinker/1h", family=Family.ENERGY))
    slots = schema("em-kiln/slot", family=Family.SLOT)
    plain, chosen = config.__new__(config), config.__new__(config)
    object.__setattr__(chosen, "streams", ("em-*/slot", "clinker/1?"))
    assert [plain.takes(s) for s in (*taken, slots)] == [True, True, False]
    assert [chosen.takes(s) for s in (*taken, slots)] == [False, True, True]
