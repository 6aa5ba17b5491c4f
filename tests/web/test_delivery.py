"""What the API tells of delivery, over real HTTP on loopback."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.clock import SECOND
from edge_agent.errors import Corrupt
from edge_agent.health import Commits, SetAside, StoreHealth
from edge_agent.outbox import Aside
from edge_agent.web.delivery import VALUES
from tests.web.conftest import Serve
from tests.web.plant import GAP, NOON, STORE, kiln_rows, small_plant
from tests.web.test_api import conforms, get

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_sink_tells_how_far_it_is_behind_and_for_how_long(serve: Serve) -> None:
    plant = small_plant()
    broker = plant.health.sinks["broker"]
    broker.backlog, broker.behind_seconds, broker.remaining_seconds = 900, 7200.04, 840.4
    plant.store = replace(STORE, dropped=(GAP, replace(GAP, told=True)))
    address = await serve(plant)

    state = (await get(address, "/api/v1/state")).json()
    health = (await get(address, "/healthz")).json()

    told = next(sink for sink in state["sinks"] if sink["id"] == "broker")
    shown = ("lag", "backlog", "behind_s", "remaining_s", "markers")
    assert [told[name] for name in shown] == [1007, 900, 7200.0, 840, 1]
    sink = next(sink for sink in health["sinks"] if sink["name"] == "broker")
    assert (sink["backlog"], sink["behind_seconds"], sink["dropped"]) == (900, 7200.04, 10)
    assert health["store"]["raw_budget_bytes"] == STORE.raw_budget_bytes
    assert health["store"]["markers"] == 1


async def test_the_store_tells_how_full_it_is_and_for_how_long_there_is_room(serve: Serve) -> None:
    plant = small_plant()
    plant.store = replace(STORE, set_aside=(SetAside("log.db.corrupt-1", 4096, NOON),))

    log = (await get(await serve(plant), "/api/v1/state")).json()["log"]

    assert (log["raw_bytes"], log["raw_budget_bytes"]) == (200_000_000, 2_000_000_000)
    assert (log["kept_s"], log["room_s"]) == (86_400, 864_000)
    assert log["oldest_ms"] == NOON // 1_000_000 - 86_400_000
    (aside,) = log["set_aside"]
    assert aside == {"name": "log.db.corrupt-1", "bytes": 4096, "time_ms": NOON // 1_000_000}


@pytest.mark.parametrize(("kept", "raw"), [(59 * SECOND, 1000), (86_400 * SECOND, 0)])
async def test_nobody_guesses_the_room_from_too_little(kept: int, raw: int) -> None:
    store = replace(STORE, raw_bytes=raw, oldest_ns=STORE.newest_ns - kept)

    assert store.room_seconds is None


async def test_gaps_are_told_by_sink(serve: Serve) -> None:
    plant = small_plant()
    other = replace(GAP, sink="history", stream="clinker/1min", reason="corrupt", told=True)
    plant.store = replace(STORE, dropped=(GAP, other))
    address = await serve(plant)

    both = await get(address, "/api/v1/dropped")
    one = (await get(address, "/api/v1/dropped", sink="broker")).json()

    assert [(gap["sink"], gap["told"]) for gap in both.json()] == [
        ("broker", False),
        ("history", True),
    ]
    assert one == [
        {
            "sink": "broker", "stream": "em-kiln/raw", "rows": 8, "reason": "bytes", "told": False,
            "from_ms": NOON // 1_000_000 - 3_600_000, "to_ms": NOON // 1_000_000 - 3_593_000,
        }
    ]  # fmt: skip
    document = (await get(address, "/api/v1/openapi.json")).json()
    for gap in both.json():
        conforms(gap, document["components"]["schemas"]["Dropped"], document)


async def test_refused_rows_are_told_with_reason_and_values_newest_first(serve: Serve) -> None:
    plant = small_plant()
    plant.put_aside = [
        Aside("broker", k, NOON + k * SECOND, f"reason {k}", kiln_rows(3)) for k in range(5)
    ]
    plant.put_aside.append(Aside("history", 9, NOON, "other", kiln_rows(1)))
    address = await serve(plant)

    first = (await get(address, "/api/v1/refused", sink="broker", most="2")).json()
    rest = (await get(address, "/api/v1/refused", sink="broker", most="3", skip="2")).json()

    assert [r["reason"] for r in first["refused"]] == ["reason 4", "reason 3"]
    assert (first["next"], rest["next"]) == (2, None)
    assert [r["reason"] for r in rest["refused"]] == ["reason 2", "reason 1", "reason 0"]
    told = first["refused"][0]
    assert {k: told[k] for k in ("sink", "stream", "rows", "sequence", "at_ms")} == {
        "sink": "broker", "stream": "em-kiln/raw", "rows": 3, "sequence": 4,
        "at_ms": NOON // 1_000_000 + 4000,
    }  # fmt: skip
    assert told["time_ns"] == [str(NOON + k * SECOND) for k in range(3)]
    assert told["value"]["active_power"] == [2481.3, None, 2481.3]
    assert told["quality"]["active_power"] == [0, 129, 0]
    document = (await get(address, "/api/v1/openapi.json")).json()
    everyone = (await get(address, "/api/v1/refused")).json()
    assert everyone["refused"][0]["sink"] == "history"
    conforms(everyone, document["components"]["schemas"]["Refused"], document)


async def test_of_a_long_refusal_the_first_rows_are_told(serve: Serve) -> None:
    plant = small_plant()
    plant.put_aside = [Aside("broker", 1, NOON, "too many", kiln_rows(1000))]

    (told,) = (await get(await serve(plant), "/api/v1/refused")).json()["refused"]

    assert (told["rows"], len(told["time_ms"])) == (1000, VALUES // 6)


async def test_a_log_that_cannot_be_read_is_told_in_plain_words(serve: Serve) -> None:
    plant = small_plant()

    def broken(_sink: str | None, _most: int) -> list[Aside]:
        raise Corrupt("log.db: the log cannot be read")

    plant.refused = broken  # type: ignore[method-assign]
    answer = await get(await serve(plant), "/api/v1/refused")

    assert (answer.status_code, answer.json()["error"]) == (503, "log.db: the log cannot be read")


async def test_a_wrong_question_is_answered_in_plain_words(serve: Serve) -> None:
    address = await serve(small_plant())
    wrong = {
        "dropped?sink=nobody": (404, "no sink 'nobody' (there are: history, broker)"),
        "dropped?sinks=broker": (400, "unknown parameter 'sinks' (known: sink)"),
        "refused?most=0": (400, "most='0' is not a whole number from 1 to 200"),
        "refused?most=201": (400, "most='201' is not a whole number from 1 to 200"),
        "refused?skip=-1": (400, "skip='-1' is not a whole number from 0 to 1000000"),
        "refused?before=3": (400, "unknown parameter 'before' (known: sink, most, skip)"),
    }

    answers = {asked: await get(address, f"/api/v1/{asked}") for asked in wrong}

    assert {k: (a.status_code, a.json()["error"]) for k, a in answers.items()} == wrong


async def test_prometheus_has_the_delivery_and_the_store(serve: Serve) -> None:
    plant = small_plant()
    plant.health.sinks["broker"].backlog = 900
    plant.health.sinks["broker"].behind_seconds = 7200.5
    aside = (SetAside("log.db.corrupt-1", 4096, NOON),)
    commits = Commits(300, 4.5, tuple(k / 1000 for k in range(1, 101)))
    plant.store = replace(STORE, set_aside=aside, commits=commits)

    text = (await get(await serve(plant), "/metrics")).text

    families = {f.name: f for f in text_string_to_metric_families(text)}

    def of(name: str, label: str) -> dict[str, float]:
        return {s.labels[label]: s.value for s in families[name].samples if label in s.labels}

    assert of("sink_backlog_rows", "sink") == {"history": 0, "broker": 900}
    assert of("sink_behind_seconds", "sink")["broker"] == 7200.5
    assert of("rows_refused", "sink")["broker"] == 3
    assert of("log_used_bytes", "rows") == {"raw": 200_000_000, "derived": 1_234_567}
    assert of("log_budget_bytes", "rows")["raw"] == 2_000_000_000
    assert families["log_files_set_aside"].samples[0].value == 1
    assert families["log_oldest_row_time_seconds"].samples[0].value == NOON / SECOND - 86_400
    commit = families["log_commit_seconds"]
    assert commit.type == "summary"
    quantiles = of("log_commit_seconds", "quantile")
    assert quantiles == {"0.5": 0.05, "0.99": 0.099, "1": 0.1}
    totals = {s.name: s.value for s in commit.samples if not s.labels}
    assert totals == {"log_commit_seconds_sum": 4.5, "log_commit_seconds_count": 300}


async def test_a_log_without_a_commit_has_no_quantiles(serve: Serve) -> None:
    plant = small_plant()
    plant.store = StoreHealth(0, 0, 1, 1, 0, 1, 0, 0)

    text = (await get(await serve(plant), "/metrics")).text

    names = [s.name for f in text_string_to_metric_families(text) for s in f.samples]
    assert names.count("log_commit_seconds") == 0
    assert "log_commit_seconds_count" in names
