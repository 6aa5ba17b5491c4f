"""The load of ``benchmarks.bench_delivery``: rows of many devices, and what the sinks do with them.

Plain ways to send the same rows, as the manuals of the client libraries show them, are the
baselines: one JSON object per row with paho, one ``Point`` per row with influxdb-client.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edge_agent.model import Family, Gap, SampleBlock, Schema, Tag
from edge_agent.sinks.base import Item, Sink
from edge_agent.units import Unit
from tests.servers import HOST, Influx, Mosquitto

START = 1_763_778_000_000_000_000
CYCLE = 64  # rows of a device before its values come again, so that none is made while it is timed


@dataclass(frozen=True)
class Fleet:
    """So many devices with so many float32 gauges each, read together."""

    devices: int
    tags: int
    period_ns: int = 1_000_000_000

    @property
    def values(self) -> int:
        """Of one tick."""
        return self.devices * self.tags

    @cached_property
    def schemas(self) -> list[Schema]:
        tags = tuple(Tag(f"signal_{i:03}", Unit.parse("kW")) for i in range(self.tags))
        period = self.period_ns / 1e9
        return [
            Schema(f"device-{i:04}/raw", Family.SAMPLE, tags, period) for i in range(self.devices)
        ]

    @cached_property
    def _columns(self) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        """Values of each row of the cycle, (devices, tags)."""
        rng = np.random.default_rng(1)
        base = rng.uniform(1, 500, (self.devices, self.tags))
        return [
            (base * (1 + rng.normal(0, 0.01, base.shape))).astype(np.float32).astype(np.float64)
            for _ in range(CYCLE)
        ]

    def tick(self, number: int) -> list[SampleBlock]:
        """Return one row of each device."""
        values = self._columns[number % CYCLE]
        time_ns = np.array([START + number * self.period_ns], np.int64)
        quality = np.zeros((self.tags, 1), np.uint8)
        return [
            SampleBlock(schema, time_ns, values[i].reshape(-1, 1), quality)
            for i, schema in enumerate(self.schemas)
        ]


class Watched:
    """A sink that counts the rows which its peer has acknowledged, or one without a peer."""

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self.rows = 0
        self.writes = 0
        self.done_at = 0.0  # monotonic, of the last write
        self._wanted = 0
        self._reached = asyncio.Event()

    async def connect(self) -> None:
        if self._sink is not None:
            await self._sink.connect()

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:
        if self._sink is not None:
            await self._sink.write(items, backlog=backlog)
        self.done_at = time.perf_counter()
        self.writes += 1
        self.rows += sum(len(item) for item in items if not isinstance(item, Gap))
        if self.rows >= self._wanted:
            self._reached.set()

    async def close(self) -> None:
        if self._sink is not None:
            await self._sink.close()

    async def reach(self, rows: int) -> None:
        """Return when so many rows are acknowledged."""
        self._wanted = rows
        self._reached.clear()
        if self.rows < rows:
            await self._reached.wait()


class Ticker:
    """A callback each millisecond that notes for how long others have held the loop.

    late  ms by which it came after its time; on a busy machine that is also the neighbours' doing
    cpu   ms of CPU that the loop's thread has used between two of them: what it did in one go
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late: list[float] = []
        self.cpu: list[float] = []
        self._loop = loop
        self._next()

    def _next(self) -> None:
        self._due, self._used = time.perf_counter() + 0.001, time.thread_time()
        self._handle = self._loop.call_later(0.001, self._tick)

    def _tick(self) -> None:
        self.late.append(max(0.0, time.perf_counter() - self._due) * 1e3)
        self.cpu.append((time.thread_time() - self._used) * 1e3)
        self._next()

    def stop(self) -> None:
        self._handle.cancel()


class PlainMqtt:
    """One JSON object per row, QoS 1, the client's own thread."""

    def __init__(self, broker: Mosquitto, site: str) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._site = site
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=site, protocol=paho.MQTTv5
        )
        client.connect(HOST, broker.port)
        client.loop_start()

    def write(self, blocks: Sequence[SampleBlock]) -> None:
        sent = []
        for block, names in _named(blocks):
            topic = f"edge/{self._site}/{block.schema.stream}"
            for i, at in enumerate(block.time.tolist()):
                row = dict(zip(names, block.value[:, i].tolist(), strict=True))
                message = json.dumps({"t": at // 1_000_000, "v": row})
                sent.append(self._client.publish(topic, message, qos=1))
        for info in sent:
            info.wait_for_publish(60)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class PlainInflux:
    """A ``Point`` per row, written by the synchronous API."""

    def __init__(self, store: Influx, site: str) -> None:
        from influxdb_client import InfluxDBClient, Point
        from influxdb_client.client.write_api import SYNCHRONOUS

        self._site, self._bucket = site, store.bucket
        new_client: Any = InfluxDBClient  # the library is not annotated
        self._point: Any = Point
        self._client = new_client(store.url, store.token, org=store.org, timeout=60_000)
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

    def write(self, blocks: Sequence[SampleBlock]) -> None:
        points = []
        for block, names in _named(blocks):
            for i, at in enumerate(block.time.tolist()):
                point = self._point("sample").tag("site", self._site)
                point.tag("device", block.schema.owner).tag("stream", block.schema.name)
                for name, value in zip(names, block.value[:, i].tolist(), strict=True):
                    point.field(name, value)
                points.append(point.field("quality", 0).time(at))
        self._api.write(bucket=self._bucket, record=points)

    def close(self) -> None:
        self._client.close()


def _named(blocks: Sequence[SampleBlock]) -> Iterator[tuple[SampleBlock, list[str]]]:
    names = [tag.name for tag in blocks[0].schema.tags]
    return ((block, names) for block in blocks)
