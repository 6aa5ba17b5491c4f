"""Refused rows against the real engine: which ones, at what price, and nothing else with them."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.clock import VirtualClock
from edge_agent.delivery import run_sink
from edge_agent.errors import Rejected
from edge_agent.health import SinkHealth
from edge_agent.model import Gap, SampleBlock, Schema
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.sinks.base import Item
from edge_agent.sinks.influxdb import InfluxConfig
from edge_agent.units import Secret
from tests.http_proxy import HttpProxy
from tests.servers import Influx
from tests.sinks.blocks import SECOND, SITE, START, block, schema

BUDGET = Budget(raw_bytes=1 << 24, raw_age_ns=10**18, derived_bytes=1 << 24)
WEEK = 7 * 86_400 * SECOND  # a shard


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    """One for all tests, each of which has a bucket of its own."""
    with Influx(tmp_path_factory.mktemp("influx")) as database:
        yield database


@pytest.fixture
def influx(server: Influx, request: pytest.FixtureRequest) -> Influx:
    server.bucket = f"b{abs(hash(request.node.name))}"
    server.query(f'CREATE DATABASE "{server.bucket}"')
    return server


def config(server: Influx, url: str = "", bucket: str = "") -> InfluxConfig:
    return InfluxConfig(
        url=url or server.url, bucket=bucket or server.bucket, token=Secret(server.token)
    )


async def written(
    server: Influx, items: list[Item], url: str = "", bucket: str = ""
) -> set[tuple[int, int]]:
    """Write; return item and row of what is refused."""
    sink = config(server, url, bucket).build(SITE)
    await sink.connect()
    try:
        await sink.write(items)
    except Rejected as e:
        return {(refusal.item, row) for refusal in e.refusals for row in refusal.rows}
    finally:
        await sink.close()
    return set()


async def seed(server: Influx) -> None:
    """Make ``mode`` an integer, in this week and the next."""
    states = schema("seed/raw", "mode", state="mode")
    await written(server, [block(states, 1), block(states, 1, first=WEEK // SECOND)])


def count(server: Influx, device: str) -> int:
    rows = server.query(f"select count(quality) from sample where device = '{device}'")
    return int(rows[0]["count"]) if rows else 0


MODES = schema("em-mode/raw", "power", "mode", state="")  # a float here
KILN = schema("em-kiln/raw")


def modes(rows: int, with_mode: set[int], columns: Schema = MODES, first: int = 0) -> SampleBlock:
    """Rows of which only some have a mode."""
    there = np.isin(np.arange(rows), list(with_mode))
    value = np.vstack([np.arange(rows, dtype=float), np.where(there, 1.5, np.nan)])
    quality = np.vstack([np.zeros(rows, np.uint8), np.where(there, 0, 129).astype(np.uint8)])
    stamps = START + (first + np.arange(rows, dtype=np.int64)) * SECOND
    return SampleBlock(columns, stamps, value, quality)


async def test_of_a_block_only_the_rows_in_conflict_are_refused(influx: Influx) -> None:
    await seed(influx)
    refused = await written(
        influx, [block(KILN, 50), modes(50, {7, 23}), modes(9, set(), first=50)]
    )
    assert refused == {(1, 7), (1, 23)}
    assert count(influx, "em-kiln") == 50
    assert count(influx, "em-mode") == 57


async def test_conflicts_in_two_shards_are_all_found(influx: Influx) -> None:
    """The engine counts those of one shard only."""
    await seed(influx)
    late = modes(30, {11, 12}, first=WEEK // SECOND)
    assert await written(influx, [modes(30, {3}), late]) == {(0, 3), (1, 11), (1, 12)}
    assert count(influx, "em-mode") == 57


async def test_a_line_that_does_not_parse_hides_no_other_refusal(influx: Influx) -> None:
    """A time beyond what the engine holds does not parse; it is not counted beside a conflict."""
    await seed(influx)
    kiln = block(KILN, 20)
    stamps = kiln.time.copy()
    stamps[-2:] = np.iinfo(np.int64).max
    kiln = SampleBlock(KILN, stamps, kiln.value, kiln.quality)
    sink = config(influx).build(SITE)
    await sink.connect()
    with pytest.raises(Rejected) as error:
        await sink.write([kiln, modes(20, {5}), Gap(KILN, 2**63 - 1, 2**63 - 1, 1, "age")])
    await sink.close()
    found = {(r.item, *r.rows): r.reason for r in error.value.refusals}
    assert set(found) == {(0, 18, 19), (1, 5), (2,)}  # a gap marker has no rows
    assert found[0, 18, 19].startswith("the database answered 400: unable to parse: ")
    assert "field type conflict" in found[1, 5]
    assert count(influx, "em-kiln") == 18
    assert count(influx, "em-mode") == 19


@pytest.mark.parametrize(
    ("others", "gaps", "most"), [(0, False, 1), (0, True, 4), (30, False, 14), (30, True, 20)]
)
async def test_a_stream_in_conflict_costs_few_requests_and_no_other_row(
    influx: Influx, others: int, gaps: bool, most: int
) -> None:
    await seed(influx)
    rows = 5000 if not others else 2000
    with_mode = set(range(rows)) - (set(range(0, rows, 7)) if gaps else set())
    items: list[Item] = [modes(rows, with_mode)]
    items += [block(schema(f"em-{i}/raw"), 100) for i in range(others)]
    items = items[len(items) // 2 :] + items[: len(items) // 2]
    place = (others + 1) - (others + 1) // 2 if others else 0
    async with HttpProxy(influx.port) as proxy:
        refused = await written(influx, items, proxy.url)
        asked = len(proxy.requests)
    assert refused == {(place, row) for row in with_mode}
    assert count(influx, "em-mode") == rows - len(with_mode)
    assert all(count(influx, f"em-{i}") == 100 for i in range(others))
    assert asked <= most


async def test_a_stream_that_is_always_refused_costs_one_more_request(influx: Influx) -> None:
    await seed(influx)
    async with HttpProxy(influx.port) as proxy:
        sink = config(influx, proxy.url).build(SITE)
        await sink.connect()
        asked = []
        for second in range(4):
            columns = [schema(f"em-{i}/raw") for i in range(20)]
            items: list[Item] = [block(each, 2, first=2 * second) for each in columns]
            items.insert(11, modes(2, {0, 1}, first=2 * second))
            before = len(proxy.requests)
            with pytest.raises(Rejected) as error:
                await sink.write(items)
            assert [(r.item, *r.rows) for r in error.value.refusals] == [(11, 0, 1)]
            asked.append(len(proxy.requests) - before)
        influx.query("DROP MEASUREMENT sample")  # somebody mends it
        await sink.write(items)
        before = len(proxy.requests)
        await sink.write(items)
        assert len(proxy.requests) - before == 1
        await sink.close()
    assert asked[0] > 5
    assert asked[1:] == [2, 2, 2]
    assert count(influx, "em-mode") == 2


async def test_refused_rows_are_put_aside_with_the_servers_words(
    influx: Influx, tmp_path: Path
) -> None:
    await seed(influx)
    kiln, bad = block(KILN, 40), modes(40, {4, 5, 30})
    outbox = Outbox(tmp_path / "log.db", [ReaderSpec("db", lambda _: True)], budget=BUDGET)
    await outbox.start()
    reader, health = outbox.reader("db"), SinkHealth("db", "influxdb")
    sink = config(influx).build(SITE)
    task = asyncio.create_task(run_sink(health, sink, reader, outbox, VirtualClock()))
    for start in range(0, 40, 10):
        rows = [kiln.rows(start, start + 10), bad.rows(start, start + 10)]
        outbox.append(rows, {"read": 20})
    await outbox.flush()
    async with asyncio.timeout(10):
        while reader.lag:  # noqa: ASYNC110  the log's thread is real
            await asyncio.sleep(0.005)
    await outbox.flush()
    task.cancel()
    await asyncio.wait([task])
    aside, counts = outbox.aside("db"), outbox.counts().readers["db"]
    await outbox.close()
    assert (counts.delivered, counts.refused) == (77, 3)
    stamps = [t for each in reversed(aside) for t in each.block.time.tolist()]
    assert sorted(stamps) == bad.time[[4, 5, 30]].tolist()
    assert {each.block.schema.stream for each in aside} == {"em-mode/raw"}
    assert all("field type conflict" in each.reason for each in aside)
    assert count(influx, "em-kiln") == 40
    assert count(influx, "em-mode") == 37


async def test_rows_older_than_the_bucket_keeps_are_refused_at_once(influx: Influx) -> None:
    influx.query(f'CREATE RETENTION POLICY "hour" ON "{influx.bucket}" DURATION 1h REPLICATION 1')
    now = time.time_ns() // SECOND * SECOND
    kiln = block(KILN, 30)
    young = SampleBlock(KILN, now + np.arange(30, dtype=np.int64), kiln.value, kiln.quality)
    async with HttpProxy(influx.port) as proxy:
        refused = await written(influx, [kiln, young], proxy.url, f"{influx.bucket}/hour")
        assert len(proxy.requests) < 12
    assert refused == {(0, row) for row in range(30)}
    (row,) = influx.query(f'select count(quality) from "{influx.bucket}".hour.sample')
    assert row["count"] == 30


async def test_one_poison_row_of_five_thousand_is_found_in_two_dozen_requests(
    influx: Influx,
) -> None:
    await seed(influx)
    async with HttpProxy(influx.port) as proxy:
        refused = await written(influx, [modes(5000, {3210})], proxy.url)
        assert len(proxy.requests) <= 24
    assert refused == {(0, 3210)}
    assert count(influx, "em-mode") == 4999
