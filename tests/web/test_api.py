"""The API over real HTTP on loopback."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import numpy as np
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.clock import SECOND
from edge_agent.errors import ConfigError
from edge_agent.health import LinkHealth, LogCounts, State
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, concatenate
from edge_agent.web import stream
from edge_agent.web.app import WebServer, create_app
from edge_agent.web.server import split_address
from edge_agent.web.state import window_span
from tests.web.conftest import Serve
from tests.web.plant import (
    CLINKER,
    KILN,
    KILN_ROW,
    NOON,
    Plant,
    alarm,
    block,
    energy_row,
    small_plant,
    tag,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def get(address: str, path: str, **asked: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(address + path, params=asked or None)


async def events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, dict]]:
    name = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_the_state_has_every_number_in_full(serve: Serve) -> None:
    state = (await get(await serve(small_plant()), "/api/v1/state")).json()

    kiln = next(d for d in state["devices"] if d["id"] == "em-kiln")
    assert {r["tag"]: r["value"] for r in kiln["rows"]} == KILN_ROW
    clinker = next(k for k in state["kpis"] if k["id"] == "clinker")
    closed = next(
        w for w in clinker["windows"] if w["stream"] == "clinker/15min" and not w["running"]
    )
    values = {c["name"]: c["value"] for c in closed["columns"]}
    assert values["intensity"] == 101.2345678901234
    assert values["electricity_kgce"] == energy_row(50, 101.2345678901234)["electricity_kgce"]
    assert closed["time_ns"] == str(NOON + 30 * 60 * SECOND)
    assert [w["running"] for w in clinker["windows"]] == [False, True] * 3
    assert clinker["targets"]["intensity"][0]["value"] == 100.0


async def test_a_bad_value_is_null_with_its_quality_beside_it(serve: Serve) -> None:
    plant = small_plant()
    plant.live.put(
        block(KILN, plant.clock.wall_ns(), KILN_ROW, {"active_power": Quality.BAD_NO_ANSWER})
    )

    state = (await get(await serve(plant), "/api/v1/state")).json()

    row = next(r for d in state["devices"] for r in d["rows"] if r["tag"] == "active_power")
    assert row["value"] is None
    assert (row["quality"], row["quality_name"]) == (129, "BAD_NO_ANSWER")


async def test_a_state_has_its_word(serve: Serve) -> None:
    state = (await get(await serve(small_plant()), "/api/v1/state")).json()

    texts = {r["tag"]: r["text"] for d in state["devices"] for r in d["rows"]}
    assert (texts["state"], texts["flag"], texts["bags"]) == ("producing", "normal", None)


async def test_a_batch_has_the_text_that_names_it(serve: Serve) -> None:
    plant = small_plant()
    tags = (tag("batch", kind=Kind.TEXT), tag("total_kgce", "kgce"))
    schema = Schema("cement/batch", Family.PRODUCT, tags, 86400.0)
    time, value = np.array([NOON], np.int64), np.array([[3.0], [812.5]])
    texts = {"batch": {3: "A-2026/017"}}
    plant.live.put(SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8), texts))

    state = (await get(await serve(plant), "/api/v1/state")).json()

    (window,) = next(k for k in state["kpis"] if k["id"] == "cement")["windows"]
    assert (window["name"], window["from_ms"]) == ("batch", None)
    assert window["columns"][0]["text"] == "A-2026/017"
    assert "text" not in window["columns"][1]


async def test_sinks_and_log_show_their_rows(serve: Serve) -> None:
    state = (await get(await serve(small_plant()), "/api/v1/state")).json()

    broker = next(s for s in state["sinks"] if s["id"] == "broker")
    assert {k: broker[k] for k in ("lag", "delivered", "refused", "dropped", "state", "error")} == {
        "lag": 1007,
        "delivered": 4000,
        "refused": 3,
        "dropped": 10,
        "state": "down",
        "error": "connection refused",
    }
    assert state["log"]["appended"] == 5320
    assert state["log"]["conserved"] is True


async def test_a_window_closed_before_the_start_comes_from_the_history(serve: Serve) -> None:
    plant = Plant()
    now = plant.clock.wall_ns()
    plant.open = [block(CLINKER["1h"], now // (3600 * SECOND) * 3600 * SECOND + 3600 * SECOND, {})]
    plant.stored["clinker/1h"] = block(CLINKER["1h"], NOON, energy_row(200, 99.5))

    state = (await get(await serve(plant), "/api/v1/state")).json()

    windows = state["kpis"][0]["windows"]
    assert (windows[0]["running"], windows[0]["time_ns"]) == (False, str(NOON))
    assert windows[0]["columns"][6]["value"] == 99.5


async def test_a_change_arrives_within_a_second(serve: Serve) -> None:
    plant = small_plant()
    address = await serve(plant)
    loop = asyncio.get_running_loop()
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"{address}/api/v1/live") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        told = events(response.aiter_lines())
        name, state = await anext(told)
        assert (name, state["site"]["id"]) == ("state", "demo-cement")

        plant.clock.now_ns += SECOND
        put_at = loop.time()
        plant.live.put(block(KILN, plant.clock.wall_ns(), KILN_ROW | {"active_power": 77.25}))
        name, change = await anext(told)
        while not change["streams"]:
            name, change = await anext(told)
        late = loop.time() - put_at

    assert name == "change"
    assert [s["stream"] for s in change["streams"]] == ["em-kiln/raw"]
    assert change["streams"][0]["value"][0] == 77.25
    assert change["now_ms"] == plant.clock.wall_ns() // 1_000_000
    assert late < 1.0


async def test_changes_come_no_faster_than_twice_a_second(serve: Serve) -> None:
    plant = small_plant()
    address = await serve(plant)
    loop = asyncio.get_running_loop()
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"{address}/api/v1/live") as response,
    ):
        told = events(response.aiter_lines())
        await anext(told)
        arrived = []
        for i in range(3):
            plant.live.put(block(KILN, plant.clock.wall_ns(), KILN_ROW | {"current_l1": float(i)}))
            await anext(told)
            arrived.append(loop.time())

    assert min(np.diff(arrived)) > 0.45


async def test_a_heartbeat_keeps_the_line_open(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.1)
    address = await serve(small_plant())
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"{address}/api/v1/live") as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith(":"):
                break

    assert line == ": heartbeat"


async def test_a_new_stream_makes_the_full_state_come_again(serve: Serve) -> None:
    plant = Plant()
    address = await serve(plant)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"{address}/api/v1/live") as response,
    ):
        told = events(response.aiter_lines())
        assert (await anext(told))[1]["devices"] == []
        plant.live.put(block(KILN, plant.clock.wall_ns(), KILN_ROW))
        name, state = await anext(told)

    assert name == "state"
    assert [d["id"] for d in state["devices"]] == ["em-kiln"]


async def test_rows_are_those_after_from_up_to_to(serve: Serve) -> None:
    plant = small_plant()
    minute = 60 * SECOND
    plant.stored["clinker/1min"] = concatenate(
        [
            block(CLINKER["1min"], NOON + i * minute, {"intensity": 100 + i / 3},
                  {"output_t": Quality.BAD_MISSING} if i == 2 else None)
            for i in range(6)
        ]
    )  # fmt: skip
    address = await serve(plant)
    span = {"from": "2026-10-05T12:01:00+08:00", "to": str(NOON + 3 * minute)}

    rows = (await get(address, "/api/v1/rows", stream="clinker/1min", **span)).json()

    assert rows["time_ns"] == [str(NOON + 2 * minute), str(NOON + 3 * minute)]
    assert rows["value"]["intensity"] == [100 + 2 / 3, 101.0]
    assert rows["value"]["output_t"] == [None, 0.0]
    assert rows["quality"]["output_t"] == [191, 0]
    assert {"name": "intensity", "unit": "kgce/t", "kind": "gauge"} in rows["columns"]


async def test_a_time_without_a_zone_is_of_the_site(serve: Serve) -> None:
    plant = small_plant()
    plant.stored["clinker/1h"] = block(CLINKER["1h"], NOON, energy_row(200, 99.5))
    address = await serve(plant)

    rows = await get(
        address,
        "/api/v1/rows",
        stream="clinker/1h",
        **{"from": "2026-10-05T11:00", "to": "2026-10-05T12:00"},
    )

    assert rows.json()["time_ns"] == [str(NOON)]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "stream is missing"),
        ("stream=clinker/1min&from=yesterday", 400, "is not a time"),
        (
            "stream=clinker/1min&from=2026-10-05T12:00&to=2026-10-05T11:00",
            400,
            "from is not before",
        ),
        ("stream=clinker/1min&limit=3", 400, "unknown parameter 'limit'"),
        ("stream=clinker/1min&from=--5", 400, "is not a time"),
        ("stream=clinker/1min&from=²", 400, "is not a time"),
        ("stream=clinker/1min&to=9999-12-31", 400, "not a time that can be stored"),
        ("stream=clinker/1min&to=99999999999999999999", 400, "not a time that can be stored"),
        ("stream=nothing/1h", 404, "no stream 'nothing/1h'"),
    ],
)
async def test_a_bad_parameter_is_answered_in_plain_words(
    serve: Serve, query: str, status: int, words: str
) -> None:
    answer = await get(await serve(small_plant()), f"/api/v1/rows?{query}")

    assert answer.status_code == status
    assert words in answer.json()["error"]


async def test_a_span_of_too_many_rows_is_refused_and_not_read(serve: Serve) -> None:
    plant, n = small_plant(), 60_000
    schema = CLINKER["1min"]
    time = NOON + np.arange(n, dtype=np.int64) * 60_000_000_000
    value, quality = np.ones((len(schema.tags), n)), np.zeros((len(schema.tags), n), np.uint8)
    plant.stored["clinker/1min"] = SampleBlock(schema, time, value, quality)
    span = {"from": "0", "to": str(NOON * 2)}
    answer = await get(await serve(plant), "/api/v1/rows", stream="clinker/1min", **span)

    assert answer.status_code == 400
    assert "more than 50000 rows" in answer.json()["error"]
    assert plant.asked == [50_001]


async def test_an_unknown_address_and_another_method_are_refused_in_json(serve: Serve) -> None:
    address = await serve(small_plant())
    async with httpx.AsyncClient(trust_env=False) as client:
        posted = await client.post(f"{address}/api/v1/state")
    missing = await get(address, "/api/v1/nothing")

    assert (posted.status_code, posted.json()["error"]) == (405, "only GET is answered here")
    assert (missing.status_code, missing.json()["error"]) == (
        404,
        "there is nothing at this address",
    )


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example"])
async def test_a_foreign_host_name_is_refused(serve: Serve, host: str) -> None:
    address = await serve(small_plant())
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{address}/api/v1/state", headers={"Host": host})

    assert answer.status_code == 421
    assert "does not serve" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080"])
async def test_a_loopback_host_name_is_served(serve: Serve, host: str) -> None:
    address = await serve(small_plant())
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{address}/api/v1/state", headers={"Host": host})

    assert answer.status_code == 200


async def test_every_answer_has_its_security_headers(serve: Serve) -> None:
    address = await serve(small_plant())
    for path in ("/", "/static/app.js", "/api/v1/state", "/api/v1/nothing", "/metrics"):
        headers = (await get(address, path)).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
    assert (await get(address, "/api/v1/state")).headers["cache-control"] == "no-store"


async def test_health_is_503_when_rows_are_not_accounted_for(serve: Serve) -> None:
    plant = small_plant()
    address = await serve(plant)
    assert (await get(address, "/healthz")).status_code == 200

    honest = plant.counts()
    plant.counts = lambda: LogCounts(**(vars(honest) | {"appended": honest.appended + 1}))  # type: ignore[method-assign]
    answer = await get(await serve(plant), "/healthz")

    assert answer.status_code == 503
    assert answer.json()["log"]["conserved"] is False


async def test_health_is_503_on_a_fault_that_needs_a_person(serve: Serve) -> None:
    plant = small_plant()
    plant.health.faults["disk"] = "no space left"

    answer = await get(await serve(plant), "/healthz")

    assert (answer.status_code, answer.json()["faults"]) == (503, {"disk": "no space left"})


async def test_ready_when_every_link_and_sink_has_been_tried(serve: Serve) -> None:
    plant = small_plant()
    plant.health.links["late"] = LinkHealth("late", ("late",))
    address = await serve(plant)

    before = await get(address, "/readyz")
    plant.health.links["late"].state = State.DOWN
    plant.health.sinks["broker"].state = State.STARTING
    sink = await get(address, "/readyz")
    plant.health.sinks["broker"].state = State.DOWN
    after = await get(address, "/readyz")

    assert (before.status_code, before.json()["waiting"]) == (503, ["late"])
    assert (sink.status_code, sink.json()["waiting"]) == (503, ["broker"])
    assert after.status_code == 200


async def test_prometheus_reads_the_metrics(serve: Serve) -> None:
    plant = small_plant()
    nasty = 'a "quoted"\\line\nbreak'
    plant.health.faults["disk"] = nasty

    answer = await get(await serve(plant), "/metrics")

    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    lag = {s.labels["sink"]: s.value for s in families["sink_lag_rows"].samples}
    assert lag == {"history": 2, "broker": 1007}
    assert sum(s.value for s in families["rows_read"].samples) == 300
    assert families["fault"].samples[0].labels["message"] == nasty


async def test_the_openapi_document_names_every_route_and_resolves(serve: Serve) -> None:
    plant = small_plant()
    address = await serve(plant)
    document = (await get(address, "/api/v1/openapi.json")).json()

    assert document["openapi"] == "3.1.0"
    served = {r.path for r in create_app(plant.sources()).routes if "static" not in r.path}
    assert set(document["paths"]) == served - {"/", "/api/v1/openapi.json"}
    for reference in re.findall(r"#/components/schemas/(\w+)", json.dumps(document)):
        assert reference in document["components"]["schemas"]
    state = (await get(address, "/api/v1/state")).json()
    conforms(state, document["components"]["schemas"]["State"], document)


def conforms(value: object, schema: dict, document: dict) -> None:
    """Check the part of JSON schema that the document uses."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer",
             float: "number", type(None): "null"}  # fmt: skip
    if "type" in schema:
        allowed = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        name = names[type(value)]
        assert name in allowed or (name == "integer" and "number" in allowed), (value, schema)
    if "enum" in schema:
        assert value in schema["enum"]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        assert set(schema.get("required", ())) <= set(value)
        for key, inner in value.items():
            if "additionalProperties" in schema:
                conforms(inner, schema["additionalProperties"], document)
            else:
                conforms(inner, known[key], document)
    if isinstance(value, list):
        for inner in value:
            conforms(inner, schema["items"], document)


async def test_a_stop_ends_live_streams_at_once() -> None:
    plant = small_plant()
    server = WebServer()
    address = await server.start(create_app(plant.sources()), "127.0.0.1:0")
    loop = asyncio.get_running_loop()
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"http://{address}/api/v1/live") as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        began = loop.time()
        await server.stop()
        took = loop.time() - began
    await server.stop()

    assert took < 1.5


async def test_a_taken_port_is_a_mistake_in_plain_words() -> None:
    first, second = WebServer(), WebServer()
    address = await first.start(create_app(small_plant().sources()), "127.0.0.1:0")
    try:
        with pytest.raises(ConfigError, match="choose a free port"):
            await second.start(create_app(small_plant().sources()), address)
    finally:
        await first.stop()


@pytest.mark.parametrize("listen", ["8080", "127.0.0.1", "127.0.0.1:http", ":8080", "a:70000"])
async def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        split_address(listen)


@pytest.mark.parametrize(
    ("name", "at", "start", "end"),
    [
        ("1min", NOON, NOON - 60 * SECOND, NOON),
        ("1h", NOON + 1, NOON, NOON + 3600 * SECOND),
        ("1d", NOON, NOON - 12 * 3600 * SECOND, NOON + 12 * 3600 * SECOND),
        ("1mo", NOON, NOON - 108 * 3600 * SECOND, NOON + (26 * 24 + 12) * 3600 * SECOND),
    ],
)
async def test_a_border_ends_its_window(name: str, at: int, start: int, end: int) -> None:
    assert window_span(name, at, small_plant().sources().site.zone) == (start, end)


async def test_ten_thousand_tags_cost_the_loop_little(serve: Serve) -> None:
    """The full state of a large site comes in one piece, and numbers stay numbers."""
    plant = Plant()
    for i in range(100):
        schema = type(KILN)(
            f"em-{i}/raw", Family.SAMPLE, tuple(tag(f"t{j}") for j in range(100)), 1.0
        )
        value, quality = np.full((100, 1), i + 0.1), np.zeros((100, 1), np.uint8)
        plant.live.put(SampleBlock(schema, np.array([NOON]), value, quality))

    answer = await get(await serve(plant), "/api/v1/state")

    state = orjson.loads(answer.content)
    assert sum(len(d["rows"]) for d in state["devices"]) == 10_000
    assert state["devices"][99]["rows"][99]["value"] == 99.1


async def test_alarms_are_told_what_is_not_normal_first(serve: Serve) -> None:
    plant = small_plant()
    plant.open += [alarm("calm", 0, 4), alarm("low", 1, 1), alarm("high", 1, 3, limit=False)]
    address = await serve(plant)

    found = (await get(address, "/api/v1/alarms")).json()

    assert [a["id"] for a in found] == ["high", "low", "calm"]
    assert found[0] == {
        "id": "high", "state": "unacknowledged", "active": True, "priority": "high",
        "value": 95.5, "limit": None, "unit": "mg/m3", "quality": 0,
        "since_ms": NOON // 10**6 - 300_000, "time_ms": NOON // 10**6, "raised_1h": 3,
    }  # fmt: skip
    state = (await get(address, "/api/v1/state")).json()
    assert state["alarms"] == found
    assert "high" not in {kpi["id"] for kpi in state["kpis"]}
