"""InfluxDB lines against the real engine: exact rows, refusals, splitting, plain words."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.check import probe
from edge_agent.config import load
from edge_agent.errors import Disconnected, Rejected
from edge_agent.model import Family, Gap, Quality, SampleBlock, Schema
from edge_agent.sinks import influxdb
from edge_agent.sinks.influxdb import InfluxConfig, InfluxSink
from edge_agent.units import Duration, Secret
from tests.proxy import Wire
from tests.servers import HOST, Influx, VictoriaMetrics, free_port
from tests.sinks.blocks import SECOND, SITE, START, block, schema

KILN = schema("em-kiln/raw")


def sink_for(server: Influx | VictoriaMetrics, **options: Any) -> InfluxSink:
    given: dict[str, Any] = {
        "url": server.url,
        "org": server.org,
        "bucket": server.bucket,
        "token": Secret(server.token),
        "timeout": Duration(2.0),
    }
    return InfluxConfig(**(given | options)).build(SITE)


@pytest.mark.parametrize("gzip", [True, False])
async def test_rows_are_stored_exactly_with_their_quality(influx: Influx, gzip: bool) -> None:
    columns = schema("em-kiln/raw", "active_power", "running")
    value = np.array([[0.1 + 0.2, np.nan, 1e-300], [1.0, 2.0, np.nan]])
    quality = np.array([[0, 129, 65], [0, 0, 130]], np.uint8)
    stamps = START + np.arange(3, dtype=np.int64) * SECOND + 7
    sink = sink_for(influx, gzip=gzip)
    await sink.connect()
    await sink.write([SampleBlock(columns, stamps, value, quality)])
    await sink.close()
    rows = influx.query("select * from sample")
    assert [row["time"] for row in rows] == stamps.tolist()
    assert [row["active_power"] for row in rows] == [0.1 + 0.2, None, 1e-300]
    assert [row["running"] for row in rows] == [1, 2, None]
    assert [row["quality"] for row in rows] == [0, 129, 130]
    assert [row["active_power.q"] for row in rows] == [None, 129, 65]
    assert [row["running.q"] for row in rows] == [None, None, 130]
    assert {(row["site"], row["device"], row["stream"]) for row in rows} == {
        ("demo-cement", "em-kiln", "raw")
    }
    kinds = {row["fieldKey"]: row["fieldType"] for row in influx.query("show field keys")}
    assert kinds == {"active_power": "float", "running": "integer", "quality": "integer",
                     "active_power.q": "integer", "running.q": "integer"}  # fmt: skip


async def test_derived_rows_and_gaps_have_measurements_of_their_own(influx: Influx) -> None:
    hours = schema("clinker/1h", "intensity", family=Family.ENERGY)
    sink = sink_for(influx)
    await sink.connect()
    await sink.write([block(hours, 1), Gap(KILN, START, START + 9 * SECOND, 10, "bytes")])
    await sink.close()
    (row,) = influx.query("select * from energy")
    assert (row["metric"], row["window"], row["quality"]) == ("clinker", "1h", 0)
    (gap,) = influx.query("select * from gap")
    assert gap == {
        "time": START, "site": "demo-cement", "owner": "em-kiln", "name": "raw",
        "to": START + 9 * SECOND, "rows": 10,
    }  # fmt: skip


async def test_writing_again_changes_nothing(influx: Influx) -> None:
    sink = sink_for(influx)
    await sink.connect()
    await sink.write([block(KILN, 50)])
    before = influx.query("select * from sample")
    await sink.write([block(KILN, 50)] * 3)
    await sink.close()
    assert influx.query("select * from sample") == before
    assert len(before) == 50


async def test_a_large_batch_travels_in_several_requests(
    influx: Influx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influxdb, "MOST_LINES", 100)
    sink = sink_for(influx)
    await sink.connect()
    await sink.write([block(KILN, 30, first=30 * i) for i in range(20)])
    await sink.close()
    (row,) = influx.query("select count(quality) from sample")
    assert row["count"] == 600


async def test_a_request_too_large_for_the_server_is_split_down_to_rows(tmp_path: Path) -> None:
    with Influx(tmp_path, largest="1k") as database:
        sink = sink_for(database, gzip=False)
        await sink.connect()
        wide = Schema(
            "em-wide/raw", Family.SAMPLE, schema("x/raw", *(f"a{i:03}" for i in range(60))).tags, 1
        )
        blocks = [block(KILN, 40), block(wide, 1), block(KILN, 40, first=40)]
        with pytest.raises(Rejected, match="413") as refusal:
            await sink.write(blocks)
        await sink.close()
        assert {r.item for r in refusal.value.refusals} == {1}
        (row,) = database.query("select count(quality) from sample")
        assert row["count"] == 80


async def test_refused_blocks_are_found_wherever_they_stand(influx: Influx) -> None:
    sink = sink_for(influx)
    await sink.connect()
    await sink.write([block(schema("a/raw", "mode", state=""), 1)])
    chance = np.random.default_rng(3)
    bad = schema("b/raw", "mode", state="mode")
    for round_number in range(5):
        refused = set(chance.choice(32, round_number * 4, replace=False).tolist())
        first = 1000 * (round_number + 1)
        items = [block(bad if i in refused else KILN, 1, first=first + i) for i in range(32)]
        reasons = {}
        try:
            await sink.write(items)
        except Rejected as e:
            reasons = {r.item: r.reason for r in e.refusals}
        assert set(reasons) == refused
        stored = influx.query("select quality from sample where device = 'em-kiln'")
        assert sum(row["time"] >= START + first * SECOND for row in stored) == 32 - len(refused)
        assert all("field type conflict" in reason for reason in reasons.values())
    await sink.close()


async def test_a_wrong_token_keeps_the_rows_and_says_what_to_mend(influx: Influx) -> None:
    sink = sink_for(influx, token=Secret("stolen"))
    with pytest.raises(Disconnected, match="mend token") as error:
        await sink.connect()
    assert "stolen" not in str(error.value)
    with pytest.raises(Disconnected, match="401"):
        await sink.write([block(KILN)])
    await sink.close()


async def test_an_unknown_bucket_keeps_the_rows_and_says_what_to_mend(influx: Influx) -> None:
    sink = sink_for(influx, bucket="nowhere")
    with pytest.raises(Disconnected, match="mend bucket or org"):
        await sink.connect()
    await sink.close()


async def test_an_ill_server_behind_a_healthy_front_is_waited_for(influx: Influx) -> None:
    sink = sink_for(influx)
    await sink.connect()
    influx.stop_engine()
    with pytest.raises(Disconnected, match="502"):
        await sink.write([block(KILN)])
    influx.start_engine()
    await sink.write([block(KILN)])
    await sink.close()
    assert len(influx.query("select * from sample")) == 3


async def test_a_connection_cut_in_the_middle_is_told(influx: Influx) -> None:
    async with Wire(influx.port) as wire:
        sink = sink_for(influx, url=f"http://{HOST}:{wire.port}")
        await sink.connect()
        wire.cut()
        with pytest.raises(Disconnected, match="cannot be reached"):
            await sink.write([block(KILN)])
        wire.mend()
        await sink.write([block(KILN)])
        await sink.close()
    assert len(influx.query("select * from sample")) == 3


PAGE = b"Content-Type: text/html; charset=utf-8\r\nContent-Length: 9\r\n\r\n<h1>a</h1>"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n" + PAGE, "not a database"),
        (b"HTTP/1.1 400 Bad Request\r\n" + PAGE, "a web page"),
        (b"HTTP/1.1 422 x\r\n" + PAGE, "a web page"),
        (b"HTTP/1.1 400 x\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd", "cannot be reached"),
        (b"nonsense\r\n\r\n", "cannot be reached"),
    ],
)
async def test_what_is_no_database_neither_takes_rows_nor_refuses_them(
    answer: bytes, words: str
) -> None:
    async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(web_server, HOST) as server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        config = InfluxConfig(url=url, org="plant", bucket="energy", token=Secret("t"))
        sink = config.build(SITE)
        with pytest.raises(Disconnected, match=words):
            await sink.connect()
        with pytest.raises(Disconnected, match=words):
            await sink.write([block(KILN)])
        await sink.close()


async def test_nobody_listening_is_told_in_plain_words(influx: Influx) -> None:
    sink = sink_for(influx, url=f"http://{HOST}:{free_port()}")
    with pytest.raises(Disconnected, match=r"be reached: \[Errno 111\] Connection refused$"):
        await sink.connect()
    await sink.close()


async def test_the_loop_goes_on_while_the_server_is_slow(influx: Influx) -> None:
    sink = sink_for(influx)
    await sink.connect()
    influx.pause()
    async with asyncio.TaskGroup() as tasks:
        written = tasks.create_task(sink.write([block(KILN)]))
        latest = 0.0
        for _ in range(20):
            started = time.monotonic()
            await asyncio.sleep(0.01)
            latest = max(latest, time.monotonic() - started)
        assert not written.done()
        influx.resume()
    assert latest < 0.3
    await sink.close()


async def test_victoria_metrics_takes_the_same_lines(victoria_metrics: VictoriaMetrics) -> None:
    sink = sink_for(victoria_metrics)
    await sink.connect()
    sent = block(KILN, 5)
    await sink.write([sent])
    await sink.close()
    ((labels, points),) = victoria_metrics.series("sample_voltage_l1")
    assert labels["device"] == "em-kiln"
    assert [ms for ms, _ in points] == (sent.time // 10**6).tolist()
    # it keeps some thirteen digits
    assert [v for _, v in points] == pytest.approx(sent["voltage_l1"].tolist(), rel=1e-12)
    ((_, qualities),) = victoria_metrics.series("sample_quality")
    assert [v for _, v in qualities] == [0, Quality.BAD_NO_ANSWER, 0, 0, 0]


@pytest.mark.parametrize(("precision", "unit"), [("us", 10**3), ("ms", 10**6), ("s", 10**9)])
async def test_times_are_cut_to_the_precision(influx: Influx, precision: str, unit: int) -> None:
    stamps = START + 123_456_789 + np.arange(3, dtype=np.int64) * SECOND
    sink = sink_for(influx, precision=precision)
    await sink.connect()
    sent = SampleBlock(KILN, stamps, block(KILN)["voltage_l1"] * np.ones((2, 1)),
                       np.zeros((2, 3), np.uint8))  # fmt: skip
    await sink.write([sent, Gap(KILN, START + 7, START + 9 * SECOND, 10, "bytes")])
    await sink.close()
    rows = influx.query("select * from sample")
    assert [row["time"] for row in rows] == (stamps // unit * unit).tolist()
    (gap,) = influx.query("select * from gap")
    assert (gap["time"], gap["to"]) == (START, START + 9 * SECOND)


async def test_rows_of_one_time_become_one_with_the_last_value_of_each_field(
    influx: Influx,
) -> None:
    stamps = START + np.array([1, 2, 3], np.int64) * 10**6
    value = np.array([[1.0, 2.0, np.nan], [5.0, np.nan, np.nan]])
    quality = np.array([[0, 0, 129], [0, 129, 129]], np.uint8)
    sink = sink_for(influx, precision="s")
    await sink.connect()
    await sink.write([SampleBlock(KILN, stamps, value, quality)])
    await sink.close()
    (row,) = influx.query("select active_power, voltage_l1, quality from sample")
    assert row == {"time": START, "active_power": 2.0, "voltage_l1": 5.0, "quality": 129}


def test_a_precision_that_may_be_too_coarse_is_told() -> None:
    streams = {schema("a/raw"): 0.1, schema("b/raw"): 1.0, schema("c/raw.sub"): None}
    config = {"url": "http://h", "bucket": "b", "token": Secret("t")}
    (told,) = InfluxConfig(**config, precision="s").remarks(streams)
    assert "a/raw (every 0.1 s), c/raw.sub (pushed)" in told
    assert "b/raw" not in told
    assert InfluxConfig(**config).remarks(streams) == []


async def test_one_name_for_two_types_is_told_and_refused(influx: Influx) -> None:
    number, state = schema("a/raw", "mode", state=""), schema("b/raw", "mode", state="mode")
    sink = sink_for(influx)
    (told,) = sink._config.remarks({number: 1.0, state: 1.0})
    assert told.startswith("mode is a number in a/raw but a state in b/raw: the rows of one")
    await sink.connect()
    with pytest.raises(Rejected, match="field type conflict") as refusal:
        await sink.write([block(number), block(state)])
    await sink.close()
    assert [(r.item, *r.rows) for r in refusal.value.refusals] == [(1, 0, 2)]  # row 1 has no mode


async def test_a_user_of_influxdb_1_writes_to_a_database_and_policy(tmp_path: Path) -> None:
    with Influx(tmp_path, users={"edge": "schlüssel", "guest": "x"}) as server:
        server.query('GRANT WRITE ON "energy" TO edge')
        login = {"token": None, "org": "", "bucket": "energy/autogen"}
        sink = sink_for(server, user="edge", password=Secret("schlüssel"), **login)
        await sink.connect()
        await sink.write([block(KILN)])
        assert sink.remark.startswith("InfluxDB 1.6.7")
        await sink.close()
        assert len(server.query("select * from energy.autogen.sample")) == 3
        for user, password, bucket, words in [
            ("edge", "guess", "energy", "user and password"),
            ("guest", "x", "energy", "right to write"),
            ("edge", "schlüssel", "other", "mend bucket or org"),
        ]:
            options = login | {"bucket": bucket}
            sink = sink_for(server, user=user, password=Secret(password), **options)
            with pytest.raises(Disconnected, match=words) as error:
                await sink.connect()
            assert password not in str(error.value).split() or len(password) < 2
            await sink.close()


def plant(server: Influx | VictoriaMetrics, **options: str) -> str:
    keys = {"url": server.url, "org": "plant", "bucket": server.bucket, "token": "${T}"} | options
    written = ", ".join(f'{key}: "{text}"' for key, text in keys.items())
    return f"""
site: {{id: demo, gateway: main, name: demo, timezone: Asia/Shanghai}}
devices:
  em-1: {{connect: "modbus+tcp://{HOST}:{free_port()}", poll: 1s, tags: {{p: {{at: hr40001}}}}}}
sinks: {{influx: {{type: influxdb, {written}}}}}
"""


@pytest.mark.parametrize(
    ("kind", "options", "token", "words"),
    [
        (
            Influx,
            {},
            "test-token",
            "influx: reached: InfluxDB 1.6.7~rc0; login, bucket and the right",
        ),
        (Influx, {}, "wrong", "401: unauthorized access; mend token (InfluxDB 1: user and"),
        (Influx, {"bucket": "no"}, "test-token", 'database not found: "no"; mend bucket or org'),
        (Influx, {"url": "{engine}"}, "test-token", "no write call of InfluxDB 2 here (InfluxDB 1"),
        (VictoriaMetrics, {}, "any", "reached: VictoriaMetrics, it seems: what it does not take"),
        (VictoriaMetrics, {"url": "{}/select"}, "any", "not the words of a database: mend url"),
    ],
)
async def test_check_says_in_plain_words_what_is_wrong(
    kind: type[Influx] | type[VictoriaMetrics], options: dict[str, str], token: str, words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    with kind(tmp_path) as server:
        path = tmp_path / "plant.yaml"
        engine = getattr(server, "engine_url", "")
        options = {key: text.format(server.url, engine=engine) for key, text in options.items()}
        path.write_text(plant(server, **options), "utf-8")
        lines, _ = await probe(load(path, env={"T": token}), lambda _: None)
    (at,) = [i for i, line in enumerate(lines) if line.startswith("sink")]
    told = " ".join(" ".join(lines[at:]).split())
    assert words in told
    assert "look at" not in told  # that is for what does not say more


@pytest.mark.parametrize(
    ("options", "where", "what"),
    [
        ({"url": "127.0.0.1:8086"}, "url", "http://host:8086"),
        ({"url": "http://host:x"}, "url", "http://host:8086"),
        ({"url": "http://u:p@host"}, "url", "the key token"),
        ({"url": "influx://u:hunter2@host"}, "url", "the key token"),
        ({"url": "http://host?token=hunter2"}, "url", "more than the address"),
        ({"url": "influx://host?token=hunter2"}, "url", "http://host:8086"),
        ({"bucket": ""}, "bucket", "bucket is empty"),
        ({"user": "edge", "password": Secret("x")}, "token", "two logins"),
        ({"token": None, "user": "edge"}, "user", "without password"),
        ({"token": None, "password": Secret("x")}, "password", "without user"),
        ({"token": None, "user": "a:b", "password": Secret("x")}, "user", "colon"),
        ({"token": None, "user": "a", "password": Secret("")}, "password", "${INFLUX_PASSWORD}"),
        ({"token": Secret("hunter2\n")}, "token", "line break"),
        ({"token": Secret("")}, "token", "${INFLUX_TOKEN}"),
        ({"timeout": Duration(0)}, "timeout", "longer than 0"),
    ],
)
def test_a_mistake_is_told_with_its_place(options: dict[str, Any], where: str, what: str) -> None:
    right: dict[str, Any] = {
        "url": "http://h:8086", "org": "plant", "bucket": "energy", "token": Secret("t")
    }  # fmt: skip
    assert InfluxConfig(**right).faults() == []
    ((path, message),) = InfluxConfig(**(right | options)).faults()
    assert path == (where,)
    assert what in message
    assert "hunter2" not in message
