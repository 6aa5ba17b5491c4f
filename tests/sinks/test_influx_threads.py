"""InfluxDB's sink and its thread: the loop goes on, and nothing is written after close."""

import asyncio
import gc
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import Disconnected
from edge_agent.sinks import influxdb
from edge_agent.sinks.base import Item
from edge_agent.sinks.influxdb import InfluxConfig, InfluxSink
from edge_agent.units import Duration, Secret
from tests.http_proxy import Exchange, HttpProxy, answer, hung_before
from tests.servers import Influx, certificates, free_port
from tests.sinks.blocks import SITE, block, schema

TIMEOUT = 0.4


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    with Influx(tmp_path_factory.mktemp("influx")) as server:
        yield server


def sink_to(url: str, **options: Any) -> InfluxSink:
    given = {"bucket": Influx.bucket, "token": Secret(Influx.token), "timeout": Duration(TIMEOUT)}
    return InfluxConfig(**({"url": url} | given | options)).build(SITE)


def count(server: Influx, device: str) -> int:
    rows = server.query(f"select count(quality) from sample where device = '{device}'")
    return int(rows[0]["count"]) if rows else 0


async def test_the_loop_has_its_turn_while_a_large_batch_is_written(database: Influx) -> None:
    wide = schema("em-wide/raw", *(f"a{i:03}" for i in range(100)))
    items: list[Item] = [block(wide, 64, first=64 * i, seed=i) for i in range(32)]
    late: list[float] = []
    sink = sink_to(database.url, timeout=Duration(10.0))
    await sink.connect()
    async with asyncio.TaskGroup() as tasks:
        began = time.monotonic()
        write = tasks.create_task(sink.write(items))
        while not write.done():
            started = time.monotonic()
            await asyncio.sleep(0.001)
            late.append(time.monotonic() - started - 0.001)
    took = time.monotonic() - began
    await sink.close()
    assert len(late) > 50
    assert max(late) < took / 3  # done at once it would be all of it
    assert count(database, "em-wide") == 32 * 64


@pytest.mark.parametrize("secure", [False, True])
async def test_a_cancelled_write_is_over_when_close_returns(
    secure: bool, database: Influx, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    gone = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await exchange.hang()
        gone.set()

    tls = context if secure else None
    async with HttpProxy(database.port, tls=tls, faults=[held]) as proxy:
        sink = sink_to(proxy.url, timeout=Duration(30.0), ca=str(own.ca))
        await sink.connect()
        blocks = [block(schema("em-cancel/raw"), 4000, first=4000 * i) for i in range(3)]
        write = asyncio.create_task(sink.write(blocks))
        await proxy.asked.wait()
        write.cancel()
        started = time.monotonic()
        await asyncio.wait([write])
        assert write.cancelled()
        call = sink._call
        assert call is not None
        await sink.close()
        assert call.done()
        assert time.monotonic() - started < 1.0
        await asyncio.wait_for(gone.wait(), 5)
        assert len(proxy.requests) == 1
    assert count(database, "em-cancel") == 0
    del call, write
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_server_that_takes_its_time_with_each_byte_is_given_up(database: Influx) -> None:
    async def dripping(exchange: Exchange) -> None:
        reply = await exchange.forward()
        for i in range(len(reply)):
            await exchange.say(reply[i : i + 1])
            await asyncio.sleep(TIMEOUT / 4)

    async with HttpProxy(database.port, faults=[dripping]) as proxy:
        sink = sink_to(proxy.url)
        await sink.connect()
        started = time.monotonic()
        with pytest.raises(Disconnected, match="did not come to an end"):
            await sink.write([block(schema("em-drip/raw"), 3)])
        assert time.monotonic() - started < TIMEOUT * 4
        await sink.connect()
        await sink.write([block(schema("em-drip/raw"), 3)])
        await sink.close()
    assert count(database, "em-drip") == 3


async def test_a_slow_peer_is_given_less_at_once(database: Influx) -> None:
    async with HttpProxy(database.port, faults=[hung_before] * 3) as proxy:
        sink = sink_to(proxy.url, timeout=Duration(0.3))
        for tries in range(4):
            await sink.connect()
            try:
                await sink.write([block(schema("em-slow/raw"), 4000)])
            except Disconnected:
                assert tries < 3
        await sink.close()
        sizes = [len(lines) for lines in proxy.requests]
    assert sizes[0] > 1.8 * sizes[1] > 3.5 * sizes[2]
    assert count(database, "em-slow") == 4000


async def test_a_way_too_slow_to_send_on_is_given_less_at_once(
    database: Influx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influxdb, "MOST_BYTES", 8_000_000)  # more than the kernel takes at once
    wide = schema("em-narrow/raw", *(f"a{i:02}" for i in range(100)))
    async with HttpProxy(database.port, stalls=1) as proxy:
        sink = sink_to(proxy.url, gzip=False)
        await sink.connect()
        with pytest.raises(Disconnected, match="silent for 0") as error:
            await sink.write([block(wide, 4000)])
        assert "Connection aborted" in str(error.value.__cause__)  # while it was being sent
        assert sink._most < 4_000_001
        await sink.connect()
        await sink.write([block(wide, 40)])
        await sink.close()
    assert count(database, "em-narrow") == 40


async def test_sinks_that_hang_take_no_thread_of_others(database: Influx) -> None:
    hanging = {"faults": [hung_before] * 40, "greetings": [answer(204)] * 40}
    async with HttpProxy(database.port, **hanging) as proxy:
        sinks = [
            sink_to(proxy.url, timeout=Duration(5.0)) for _ in range(40)
        ]  # more than asyncio's threads
        async with asyncio.TaskGroup() as tasks:
            for sink in sinks:
                tasks.create_task(sink.connect())
        writes = [asyncio.create_task(sink.write([block(schema("x/raw"))])) for sink in sinks]
        while proxy.faults:  # noqa: ASYNC110  until the last of them hangs
            await asyncio.sleep(0.005)
        async with asyncio.timeout(1):
            assert await asyncio.to_thread(lambda: 1) == 1
        for write in writes:
            write.cancel()
        await asyncio.wait(writes)
        for sink in sinks:
            await sink.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("influxdb")]


async def test_nobody_is_left_waiting_for_a_connect_that_is_cancelled() -> None:
    sink = sink_to(f"http://127.0.0.1:{free_port()}")
    task = asyncio.create_task(sink.connect())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await sink.close()
    with pytest.raises(Disconnected, match="no connection"):
        await sink.write([])
