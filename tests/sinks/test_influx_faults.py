"""InfluxDB's sink against faults of HTTP, played before real databases; rows are then counted."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.clock import VirtualClock
from edge_agent.delivery import run_sink
from edge_agent.errors import Disconnected
from edge_agent.health import SinkHealth
from edge_agent.model import SampleBlock
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.sinks import influx_wire
from edge_agent.sinks.influxdb import InfluxConfig
from edge_agent.units import Duration, Secret
from tests.http_proxy import (
    Exchange,
    Fault,
    HttpProxy,
    answer,
    babbling,
    hung_after,
    hung_before,
    lost_after,
    lost_before,
    plain,
    raw,
)
from tests.servers import Influx, VictoriaMetrics, certificates
from tests.sinks.blocks import SITE, block, schema

TIMEOUT = 0.4
BUDGET = Budget(raw_bytes=1 << 24, raw_age_ns=10**18, derived_bytes=1 << 24)
HTML = "<html>please log in</html>"
FOUND = "/api/v2/write?bucket=energy"

Stored = list[tuple[int, float]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    with Influx(tmp_path_factory.mktemp("influx")) as server:
        yield server


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    with VictoriaMetrics(tmp_path_factory.mktemp("metrics")) as server:
        yield server


def config_for(proxy: HttpProxy, **options: Any) -> InfluxConfig:
    given: dict[str, Any] = {
        "url": proxy.url,
        "org": Influx.org,
        "bucket": Influx.bucket,
        "token": Secret(Influx.token),
        "timeout": Duration(TIMEOUT),
    }
    return InfluxConfig(**(given | options))


def rows_of(blocks: list[SampleBlock]) -> Stored:
    """Time in ms and voltage of each row."""
    return [
        (int(t) // 1_000_000, float(v))
        for b in blocks
        for t, v in zip(b.time, b["voltage_l1"], strict=True)
    ]


def in_influx(server: Influx, device: str) -> Stored:
    found = server.query(f"select voltage_l1 from sample where device = '{device}'")
    return [(row["time"] // 1_000_000, row["voltage_l1"]) for row in found]


def in_metrics(server: VictoriaMetrics, device: str) -> Stored:
    found = server.series(f'sample_voltage_l1{{device="{device}"}}')
    return [point for _, points in found for point in points]


@dataclass
class Delivery:
    health: SinkHealth
    outbox: Outbox
    clock: VirtualClock


@asynccontextmanager
async def delivering(folder: Path, config: InfluxConfig) -> AsyncIterator[Delivery]:
    """Run the delivery of what is appended; its pauses pass at once."""
    outbox = Outbox(
        folder / "log.db", [ReaderSpec("db", lambda _: True)], budget=BUDGET, commit=0.01
    )
    await outbox.start()
    health, clock = SinkHealth("db", "influxdb"), VirtualClock()
    reader = outbox.reader("db")
    task = asyncio.create_task(run_sink(health, config.build(SITE), reader, outbox, clock))
    try:
        yield Delivery(health, outbox, clock)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await outbox.close()


async def delivered(run: Delivery) -> None:
    """Return when all is delivered and its cursor is stored."""
    await run.outbox.flush()
    async with asyncio.timeout(15):
        while run.outbox.reader("db").lag:  # noqa: ASYNC110  the log's thread is real
            await asyncio.sleep(0.005)
    await run.outbox.flush()


CUT = b'HTTP/1.1 400 x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"error":"par'

FAULTS: list[tuple[str, Fault, str]] = [
    ("too-many", answer(429, "Retry-After: 1", body='{"code":"x","message":"slow"}'), "429: slow"),
    ("unavailable", answer(503, "Retry-After: 1"), "answered 503"),
    ("error", answer(500, body='{"error":"timeout"}'), "500: timeout"),
    ("gateway", answer(502, body=HTML, kind="text/html"), "answered 502"),
    ("slow-gateway", answer(504), "answered 504"),
    ("slow", answer(408), "answered 408"),
    ("conflict", answer(409, body='{"error":"table exists"}'), "409: table exists"),
    ("not-allowed", answer(405), "no InfluxDB: mend url"),
    ("unauthorized", answer(401, body='{"code":"x","message":"no"}'), "mend token"),
    ("forbidden", answer(403, body='{"code":"x","message":"no"}'), "right to write"),
    ("no-bucket", answer(404, body='{"error":"database not found"}'), "mend bucket or org"),
    ("no-call", answer(404, body="404 page not found", kind="text/plain"), "from 1.8 on"),
    ("moved", answer(301, f"Location: {FOUND}"), "301: go to /api/v2/write, which is not done"),
    ("found", answer(302, "Location: http://u:pw@h/login?token=pw"), "go to http://h/login,"),
    ("other", answer(303, f"Location: {FOUND}"), "answers 303"),
    ("elsewhere", answer(307, f"Location: {FOUND}"), "answers 307"),
    ("portal", answer(200), "a web page answered (200)"),
    ("login", answer(200, body=HTML, kind="text/html"), "a web page answered (200)"),
    ("login-400", answer(400, body=HTML, kind="text/html"), "a web page answered (400)"),
    ("tls-port", answer(400, body="plain HTTP to HTTPS", kind="text/plain"), "not the words of a"),
    ("status-line", raw(b"HTTP/1.1 204 No Content\r\n"), "broke off"),
    ("status-line-taken", raw(b"HTTP/1.1 204 No Content\r\n", forwarded=True), "broke off"),
    ("half-status", raw(b"HTTP/1.1 20", forwarded=True, then="reset"), "cannot be reached"),
    ("half-refusal", raw(CUT, then="reset"), "cannot be reached"),
    ("short-refusal", raw(CUT), "its answer broke off"),
    ("no-utf8", raw(CUT[:-13].replace(b"99", b"2") + b"\xff\xfe"), "cannot be reached"),
    ("nonsense", raw(b"220 smtp ready\r\n"), "it does not speak HTTP (220 smtp ready)"),
    ("nothing", raw(b""), "it ended the connection without an answer"),
    ("lost-before", lost_before, "cannot be reached"),
    ("lost-after", lost_after, "cannot be reached"),
    ("hung-before", hung_before, "silent for 0.4 s"),
    ("hung-after", hung_after, "silent for 0.4 s"),
]  # fmt: skip


@pytest.mark.parametrize("case", FAULTS, ids=[name for name, *_ in FAULTS])
async def test_a_fault_costs_no_row_and_repeats_at_most_one_batch(
    case: tuple[str, Fault, str],
    database: Influx,
    metrics: VictoriaMetrics,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, fault, words = case
    device = f"em-{name}"
    kiln = schema(f"{device}/raw")
    blocks = [block(kiln, 20, first=20 * i, seed=i) for i in range(3)]
    for server, folder in ((database, "a"), (metrics, "b")):
        async with HttpProxy(server.port, faults=[fault]) as proxy:
            async with delivering(tmp_path / folder, config_for(proxy)) as run:
                run.outbox.append(blocks[:2], {"read": 40})
                await delivered(run)
                run.outbox.append(blocks[2:], {"read": 20})
                await delivered(run)
            counts = run.outbox.counts().readers["db"]
            assert (counts.delivered, counts.refused) == (60, 0)
        assert words in caplog.text
        assert Secret(Influx.token).reveal() not in caplog.text
        assert "pw" not in caplog.text
        caplog.clear()
    sent = rows_of(blocks)
    assert in_influx(database, device) == sent
    seen = in_metrics(metrics, device)
    assert [t for t, _ in dict.fromkeys(seen)] == [t for t, _ in sent]
    repeats = Counter(t for t, _ in seen)
    accepted_and_lost = name in {"lost-after", "hung-after", "status-line-taken", "half-status"}
    assert set(repeats.values()) == ({1, 2} if accepted_and_lost else {1})
    assert sum(n - 1 for n in repeats.values()) == (40 if accepted_and_lost else 0)


async def test_what_follows_a_right_answer_spoils_nothing(
    database: Influx, metrics: VictoriaMetrics, tmp_path: Path
) -> None:
    kiln = schema("em-babble/raw")
    blocks = [block(kiln, 20, first=20 * i, seed=i) for i in range(6)]
    for server, folder in ((database, "a"), (metrics, "b")):
        async with (
            HttpProxy(server.port, faults=[babbling] * 6) as proxy,
            delivering(tmp_path / folder, config_for(proxy)) as run,
        ):
            for piece in blocks:
                run.outbox.append([piece], {"read": 20})
                await delivered(run)
    assert in_influx(database, "em-babble") == rows_of(blocks)
    repeats = Counter(t for t, _ in in_metrics(metrics, "em-babble"))
    assert len(repeats) == 120


EMPTY = answer(400, body="incoming write was empty", kind="text/plain")  # InfluxDB 3 says so
BARE = answer(400, body='{"error":"no such precision"}')


async def test_a_server_may_refuse_a_request_without_rows(database: Influx) -> None:
    async with HttpProxy(database.port, greetings=[EMPTY, BARE], faults=[plain, BARE]) as proxy:
        sink = config_for(proxy).build(SITE)
        await sink.connect()
        assert "it answers 400 to a request without rows (incoming write was empty)" in sink.remark
        await sink.write([block(schema("em-empty/raw"))])
        await sink.connect()
        with pytest.raises(Disconnected, match="of a request without rows too: mend this sink"):
            await sink.write([block(schema("em-empty/raw"), first=3)])  # it is not the rows
        await sink.close()
    assert len(in_influx(database, "em-empty")) == 3


async def test_a_server_that_says_no_to_everything_refuses_no_row(database: Influx) -> None:
    no = answer(400, body='{"message":"Bad Request"}')
    async with HttpProxy(database.port, greetings=[plain, no], faults=[no]) as proxy:
        sink = config_for(proxy).build(SITE)
        await sink.connect()
        with pytest.raises(Disconnected, match="400: Bad Request; it does so without rows too"):
            await sink.write([block(schema("em-no/raw"))])
        await sink.connect()
        await sink.write([block(schema("em-no/raw"))])
        proxy.greetings += [answer(413)]
        with pytest.raises(Disconnected, match="413 to an empty request"):
            await sink.connect()
        await sink.close()
    assert len(in_influx(database, "em-no")) == 3


async def test_a_connection_that_was_idle_is_not_used_again(
    database: Influx, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpProxy(database.port) as proxy:
        sink = config_for(proxy).build(SITE)
        await sink.connect()
        for first in (0, 3, 6):
            await sink.write([block(schema("em-idle/raw"), first=first)])
        assert proxy.connections == 1
        monkeypatch.setattr(influx_wire, "IDLE", 0.0)
        for first in (9, 12):
            await sink.write([block(schema("em-idle/raw"), first=first)])
        assert proxy.connections == 3
        await sink.close()
    assert len(in_influx(database, "em-idle")) == 15


async def test_faults_without_end_lose_nothing(
    database: Influx, metrics: VictoriaMetrics, tmp_path: Path
) -> None:
    """Every other answer is lost, some requests too; connects fail as well."""
    mill = schema("em-storm/raw")
    blocks = [block(mill, 5, first=5 * i, seed=i) for i in range(40)]
    for server, folder in ((database, "a"), (metrics, "b")):
        faults = [lost_after, answer(503), lost_before, lost_after] * 3
        async with HttpProxy(server.port, faults=faults) as proxy:
            proxy.greetings += [answer(503), lost_before, answer(401)] * 3
            async with delivering(tmp_path / folder, config_for(proxy)) as run:
                for piece in blocks:
                    run.outbox.append([piece], {"read": 5})
                await delivered(run)
            assert not proxy.faults
    assert in_influx(database, "em-storm") == rows_of(blocks)
    repeats = Counter(t for t, _ in in_metrics(metrics, "em-storm"))
    assert len(repeats) == 200
    assert max(repeats.values()) <= 1 + 6  # six answers were lost


# ---- Retry-After -----------------------------------------------------------------------------

DATES = ("Date: Thu, 26 Nov 2026 05:00:00 GMT", "Retry-After: Thu, 26 Nov 2026 05:01:30 GMT")


@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [
        (429, ["Retry-After: 90"], 90),
        (503, ["Retry-After: 90"], 90),
        (503, [*DATES], 90),  # by the server's clock, whatever ours says
        (429, ["Retry-After: 86400"], 300),  # no longer than five minutes
        (503, ["Retry-After: Mon, 01 Jan 2001 00:00:00 GMT"], 0.1),
        (429, ["Retry-After: soon"], 0.1),
        (503, [], 0.1),
    ],
)
async def test_a_server_is_left_alone_for_as_long_as_it_asks(
    status: int, headers: list[str], least: float, database: Influx, tmp_path: Path
) -> None:
    device = f"em-after{status}-{len(''.join(headers))}"
    moments: list[float] = []

    async def busy(exchange: Exchange) -> None:
        moments.append(run.clock.monotonic())
        await answer(status, *headers)(exchange)

    async def taken(exchange: Exchange) -> None:
        moments.append(run.clock.monotonic())
        await plain(exchange)

    async with (
        HttpProxy(database.port, faults=[busy, taken]) as proxy,
        delivering(tmp_path, config_for(proxy)) as run,
    ):
        run.outbox.append([block(schema(f"{device}/raw"))], {"read": 3})
        await delivered(run)
    first, second = moments
    assert least <= second - first <= least + 0.5
    assert len(in_influx(database, device)) == 3


# ---- TLS -------------------------------------------------------------------------------------


async def test_tls_needs_the_right_authority(database: Influx, tmp_path: Path) -> None:
    own, strange = certificates(tmp_path / "own"), certificates(tmp_path / "strange")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    async with HttpProxy(database.port, tls=context) as proxy:
        for ca in (str(strange.ca), None):
            sink = config_for(proxy, ca=ca).build(SITE)
            with pytest.raises(Disconnected, match="certificate of the database does not pass"):
                await sink.connect()
            await sink.close()
        sink = config_for(proxy, ca=str(tmp_path / "nowhere.pem")).build(SITE)
        with pytest.raises(Disconnected, match="No such file"):
            await sink.connect()
        sink = config_for(proxy, ca=str(own.ca)).build(SITE)
        await sink.connect()
        await sink.write([block(schema("em-tls/raw"), 5)])
        await sink.close()
        plain_text = config_for(proxy, url=proxy.url.replace("https", "http")).build(SITE)
        with pytest.raises(Disconnected, match="cannot be reached"):
            await plain_text.connect()
        await plain_text.close()
    sink = config_for(proxy, url=database.url.replace("http", "https")).build(SITE)
    with pytest.raises(Disconnected, match="write http://"):
        await sink.connect()
    await sink.close()
    assert len(in_influx(database, "em-tls")) == 5
