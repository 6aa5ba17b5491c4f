"""MQTT against mosquitto: topics, payloads, births, the will, proof of delivery, TLS."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from edge_agent.errors import Disconnected, Rejected
from edge_agent.model import Family, Gap, Quality, SampleBlock, Schema
from edge_agent.sinks.mqtt import MqttConfig, MqttSink
from edge_agent.sinks.mqtt_payload import birth, columns, gap
from edge_agent.units import Duration, Secret
from tests.proxy import Wire
from tests.servers import HOST, Certificates, Mosquitto, Subscriber, certificates, free_port
from tests.sinks.blocks import SITE, START, block, schema

KILN = schema("em-kiln/raw")
SLOW = schema("em-kiln/raw.slow", "active_energy_import")
HOURS = schema("clinker/1h", "intensity", family=Family.ENERGY)
RAW = "edge/demo-cement/em-kiln/raw"
META = "edge/demo-cement/em-kiln/$meta"
STATE = "edge/demo-cement/$state/main"


@pytest.fixture
def seen(mosquitto: Mosquitto) -> Iterator[Subscriber]:
    with mosquitto.subscriber() as subscriber:
        yield subscriber


def sink_for(url: str, **options: Any) -> MqttSink:
    return MqttConfig(url=url, timeout=Duration(2.0), **options).build(SITE)


def test_a_block_is_written_as_the_contract_says() -> None:
    time = np.array([1763778000000, 1763778001000], np.int64) * 1_000_000
    value = np.array([[412.5, np.nan], [0.1, 1e300]])
    quality = np.array([[0, 129], [0, 0]], np.uint8)
    assert columns(SampleBlock(KILN, time, value, quality)) == (
        b'{"t":[1763778000000,1763778001000],"v":{"active_power":[412.5,null],'
        b'"voltage_l1":[0.1,1e+300]},"q":{"active_power":[0,129]}}'
    )
    dropped = Gap(KILN, 5_000_000, 9_000_000, 120, "bytes")
    assert gap(dropped) == b'{"gap":{"from":5,"to":9,"rows":120,"reason":"bytes"}}'


async def test_no_acknowledgement_of_a_batch_is_held_back(mosquitto: Mosquitto) -> None:
    sink = sink_for(mosquitto.url)
    await sink.connect()
    seconds = []
    for first in range(0, 600, 20):
        began = time.perf_counter()
        await sink.write([block(KILN, 1, first=first + i) for i in range(20)])
        seconds.append(time.perf_counter() - began)
    await sink.close()
    # the kernel likes to put an acknowledgement off for 40 ms, and mosquitto waits for it: half of
    # the batches took longer
    assert sorted(seconds)[len(seconds) * 3 // 4] < 0.030


def test_a_derived_row_names_the_schema_that_says_what_it_rests_on() -> None:
    made = ("config:1f", "standard_coal:electricity")
    hours = Schema("clinker/1h", Family.ENERGY, KILN.tags, 3600.0, made)
    value, quality = np.array([[1.0], [2.0]]), np.zeros((2, 1), np.uint8)
    sent = orjson.loads(columns(SampleBlock(hours, np.array([10**9]), value, quality)))
    assert sent["s"] == hours.id
    told = orjson.loads(birth([hours]))["streams"]["1h"]
    assert (told["schema"], told["provenance"]) == (hours.id, list(made))


def test_numbers_survive_the_text_bit_for_bit() -> None:
    bits = np.random.default_rng(7).integers(0, 2**64, 20_000, np.uint64).view(np.float64)
    value = np.ascontiguousarray(bits[np.isfinite(bits)][:16_000].reshape(2, -1))
    n = value.shape[1]
    sent = SampleBlock(KILN, np.arange(n, dtype=np.int64), value, np.zeros((2, n), np.uint8))
    read = orjson.loads(columns(sent))["v"]
    assert np.array([read["active_power"], read["voltage_l1"]]).tobytes() == value.tobytes()


def test_a_view_of_some_rows_or_columns_in_any_layout_is_written_alike() -> None:
    whole = block(KILN, 10)
    view = whole.rows(3, 7)
    turned = SampleBlock(
        KILN, view.time, np.asfortranarray(view.value), np.asfortranarray(view.quality)
    )
    copied = SampleBlock(KILN, view.time.copy(), view.value.copy(), view.quality.copy())
    assert columns(view) == columns(turned) == columns(copied)


async def test_a_gap_stands_on_the_topic_of_its_stream(
    mosquitto: Mosquitto, seen: Subscriber
) -> None:
    sink = sink_for(mosquitto.url)
    await sink.connect()
    await sink.write([block(KILN), Gap(KILN, START, START + 10**9, 2, "bytes")])
    await sink.close()
    first, gap = seen.wait_for(2, RAW)
    assert "t" in first.json
    assert gap.json["gap"] == {
        "from": START // 10**6, "to": START // 10**6 + 1000, "rows": 2, "reason": "bytes"
    }  # fmt: skip


async def test_a_birth_stands_before_the_first_block_and_again_after_a_reconnect(
    mosquitto: Mosquitto, seen: Subscriber
) -> None:
    sink = sink_for(mosquitto.url)
    for _ in range(2):
        await sink.connect()
        await sink.write([block(KILN), block(HOURS), block(SLOW), block(KILN)])
        await sink.close()
    topics = [m.topic.removeprefix("edge/demo-cement/") for m in seen.wait_for(18)]
    once = ["$state/main", "em-kiln/$meta", "em-kiln/raw", "clinker/$meta", "clinker/1h",
            "em-kiln/$meta", "em-kiln/raw.slow", "em-kiln/raw", "$state/main"]  # fmt: skip
    assert topics == once * 2
    with mosquitto.subscriber(META, identity="late") as late:
        (kept,) = late.wait_for(1)
    assert kept.retained
    assert kept.payload == birth([KILN, SLOW])
    assert kept.json["streams"]["raw"] == {
        "schema": KILN.id,
        "family": "sample",
        "period": 1.0,
        "tags": {
            "active_power": {"unit": "kW", "kind": "gauge"},
            "voltage_l1": {"unit": "kW", "kind": "gauge"},
        },
    }


async def test_the_state_is_told_by_the_gateway_and_by_the_will(
    mosquitto: Mosquitto, seen: Subscriber
) -> None:
    sink = sink_for(mosquitto.url)
    await sink.connect()
    await sink.close()
    assert [m.payload for m in seen.wait_for(2, STATE)] == [b"online", b"offline"]
    async with Wire(mosquitto.port) as wire:
        lost = sink_for(f"mqtt://{HOST}:{wire.port}")
        await lost.connect()
        wire.cut()
        await asyncio.to_thread(seen.wait_for, 4, STATE)
        await lost.close()
    assert [m.payload for m in seen.on(STATE)][2:] == [b"online", b"offline"]


async def test_many_blocks_arrive_in_order_and_once(mosquitto: Mosquitto, seen: Subscriber) -> None:
    sink = sink_for(mosquitto.url)
    await sink.connect()
    blocks = [block(KILN, 1, first=i) for i in range(500)]
    await sink.write(blocks[:300])
    await sink.write(blocks[300:])
    await sink.close()
    seen.wait_for(2, STATE)
    assert [m.json["t"][0] for m in seen.on(RAW)] == [int(b.time[0]) // 10**6 for b in blocks]


@pytest.mark.timeout(60)  # twenty outages, each with its reconnect
async def test_outages_at_any_moment_lose_nothing_and_repeat_only_what_was_not_acknowledged(
    mosquitto: Mosquitto, seen: Subscriber
) -> None:
    await outages(mosquitto, seen, 20)


@pytest.mark.soak
@pytest.mark.timeout(600)  # four hundred
@pytest.mark.parametrize("version", [5, "3.1.1"])
async def test_a_link_that_breaks_by_itself_makes_no_message_look_like_the_culprit(
    mosquitto: Mosquitto, seen: Subscriber, version: Any
) -> None:
    await outages(mosquitto, seen, 400, version=version)


async def outages(mosquitto: Mosquitto, seen: Subscriber, most: int, **options: Any) -> None:
    """Write while the link breaks within ms, so many times; assert what arrived."""
    chance = random.Random(5)
    acknowledged: list[int] = []
    async with Wire(mosquitto.port) as wire:
        sink = sink_for(f"mqtt://{HOST}:{wire.port}", **options)
        outages = 0
        for number in range(3 * most):
            batch = [block(KILN, 1, first=number * 20 + i) for i in range(20)]
            while True:
                if outages < most:
                    later = asyncio.get_running_loop().call_later(chance.uniform(0, 0.01), wire.cut)
                    outages += 1
                else:
                    later = None
                with contextlib.suppress(Disconnected):
                    await sink.connect()
                    await sink.write(batch)
                    break
                wire.mend()
            if later is not None:
                later.cancel()
            wire.mend()
            acknowledged += [int(b.time[0]) // 10**6 for b in batch]
        await sink.close()
    await asyncio.to_thread(seen.wait_for, len(acknowledged), RAW)
    await asyncio.sleep(0.3)
    times = [m.json["t"][0] for m in seen.on(RAW)]
    assert list(dict.fromkeys(times)) == acknowledged  # first arrivals are in order
    assert len(times) <= len(acknowledged) + outages * 20


async def test_a_block_too_large_for_the_broker_is_cut_and_a_row_too_large_is_refused(
    tmp_path: Path,
) -> None:
    wide = schema("em-wide/raw", *(f"signal_{i}" for i in range(200)))
    with Mosquitto(tmp_path, settings="max_packet_size 2000") as broker:
        sink = sink_for(broker.url, births=False)  # that of 200 signals is too large as well
        await sink.connect()
        sent = [block(KILN), block(wide, 2), block(KILN, 200, first=3), block(KILN, first=203)]
        with broker.subscriber() as seen:
            with pytest.raises(Rejected, match="the broker takes at most 2000") as refusal:
                await sink.write(sent)
            seen.wait_for(6, RAW)
        await sink.close()
    assert {row for r in refusal.value.refusals for row in r.rows} == {0, 1}
    assert {r.item for r in refusal.value.refusals} == {1}
    times = [t for message in seen.messages for t in message.json["t"]]
    assert times == [START // 10**6 + 1000 * i for i in range(206)]


async def test_a_broker_that_hangs_up_after_each_refusal_is_got_past(tmp_path: Path) -> None:
    # mosquitto 2.0.11 without limit of its queue ends the connection after a refused message
    allowed = "topic write edge/demo-cement/em-kiln/#\ntopic write edge/demo-cement/$state/#"
    with Mosquitto(tmp_path, acl=allowed, settings="max_queued_messages 0") as broker:
        sink = sink_for(broker.url)
        blocks = [block(HOURS, 1), block(KILN, 1), block(HOURS, 1, first=1)]
        refused: set[int] = set()
        for _ in range(8):
            await sink.connect()
            try:
                await sink.write(blocks)
            except Disconnected:
                continue
            except Rejected as refusal:
                refused = {r.item for r in refusal.refusals}
                break
        assert refused == {0, 2}
        await sink.close()


async def test_a_wrong_password_is_told_in_plain_words(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, users={"edge": "secret"}) as broker:
        sink = sink_for(broker.url, user="edge", password=Secret("hunter2"))
        with pytest.raises(Disconnected, match="Not authorized") as error:
            await sink.connect()
        assert "hunter2" not in str(error.value)
        await sink.close()


async def test_nobody_listening_is_told_in_plain_words() -> None:
    sink = sink_for(f"mqtt://{HOST}:{free_port()}")
    with pytest.raises(Disconnected, match="the broker cannot be reached"):
        await sink.connect()
    await sink.close()


async def test_a_connect_that_is_given_up_leaves_no_socket(mosquitto: Mosquitto) -> None:
    mosquitto.pause()
    sink = sink_for(mosquitto.url)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sink.connect()
    await sink.close()
    mosquitto.resume()
    await sink.connect()
    await sink.write([block(KILN)])
    await sink.close()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("pem"))


async def test_tls_delivers_and_checks_who_the_broker_is(tmp_path: Path, pem: Certificates) -> None:
    with Mosquitto(tmp_path, certificates=pem) as broker:
        sink = sink_for(broker.url, ca=str(pem.ca))
        await sink.connect()
        await sink.write([block(KILN, 60)] * 100)
        await sink.close()
        stranger = sink_for(broker.url)
        with pytest.raises(Disconnected, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.connect()
        await stranger.close()
        misnamed = sink_for(broker.url.replace(HOST, "localhost"), ca=str(pem.ca))
        with pytest.raises(Disconnected, match="Hostname mismatch"):
            await misnamed.connect()


async def test_tls_shows_the_gateways_own_certificate(tmp_path: Path, pem: Certificates) -> None:
    with Mosquitto(tmp_path, certificates=pem, require_certificate=True) as broker:
        known = sink_for(
            broker.url,
            ca=str(pem.ca),
            certificate=str(pem.client_certificate),
            private_key=str(pem.client_key),
        )
        await known.connect()
        await known.write([block(KILN)])
        await known.close()
        with pytest.raises(Disconnected):
            await sink_for(broker.url, ca=str(pem.ca)).connect()
        with pytest.raises(Disconnected, match=r"nothing\.pem"):
            await sink_for(broker.url, ca=str(tmp_path / "nothing.pem")).connect()


@pytest.mark.parametrize(
    ("options", "where", "what"),
    [
        ({"url": "tcp://host:1883"}, "url", "mqtt://host:1883"),
        ({"url": "mqtt://:1883"}, "url", "mqtt://host:1883"),
        ({"url": "mqtt://host:99999"}, "url", "mqtt://host:1883"),
        ({"url": "mqtt://edge:hunter2@host"}, "url", "keys user and password"),
        ({"url": "tcp://edge:hunter2@host:1883"}, "url", "keys user and password"),
        ({"url": "edge:hunter2@host"}, "url", "keys user and password"),
        ({"url": "mqtt://host/topic"}, "url", "more than the address"),
        ({"url": "mqtt://host", "ca": "ca.pem"}, "ca", "mqtts://"),
        ({"url": "mqtts://host", "certificate": "c.pem"}, "certificate", "together"),
        ({"url": "mqtt://host", "password": Secret("x")}, "password", "needs a user"),
        ({"url": "mqtt://host", "keepalive": Duration(0.5)}, "keepalive", "between 1s"),
        ({"url": "mqtt://host", "timeout": Duration(0)}, "timeout", "longer than 0"),
    ],
)
def test_a_mistake_is_told_with_its_place(options: dict[str, Any], where: str, what: str) -> None:
    ((path, message),) = MqttConfig(**options).faults()
    assert path == (where,)
    assert what in message
    assert "hunter2" not in message


def test_a_right_configuration_has_no_faults() -> None:
    plain = MqttConfig(url="mqtt://broker.plant")
    assert plain.faults() == []
    assert plain.port == 1883
    safe = MqttConfig(
        url="mqtts://[::1]", user="edge", password=Secret("x"), ca="a", certificate="b",
        private_key="c",
    )  # fmt: skip
    assert safe.faults() == []
    assert (safe.port, safe.address.hostname) == (8883, "::1")


def test_every_quality_but_good_is_told() -> None:
    for quality in Quality:
        value = np.full((2, 1), np.nan if quality >= Quality.BAD else 1.0)
        one = SampleBlock(KILN, np.array([0], np.int64), value, np.full((2, 1), quality, np.uint8))
        assert bool(orjson.loads(columns(one))["q"]) == (quality is not Quality.GOOD)
