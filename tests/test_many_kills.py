"""An agent is killed many times at random moments under load: what was committed stays and arrives.

Every agent is forked by ``tests.kill_writer``, with a real log, broker, database and history; the
values of its load follow from their place, so what must be there is known without looking. What the
broker handed out is read by ``mosquitto_sub``, what the database holds by queries.
"""

import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from edge_agent.agent import HISTORY
from edge_agent.delivery import MOST, RECORDS
from edge_agent.health import ReaderCounts
from edge_agent.model import Family, Schema
from edge_agent.outbox import Archive
from edge_agent.sinks.history import History
from tests.arrivals import (
    Points,
    Rows,
    arrived_in_lanes,
    assert_lanes,
    computed_undisturbed,
    counted,
    kept,
    points_in,
    points_of,
    rows_of,
    stored,
)
from tests.kill_writer import Phase, load_of
from tests.killer import Killer, plant
from tests.printed import Printed
from tests.servers import Influx, Message, Mosquitto

RECOVERED = 2.0  # seconds in which an agent must have opened its log and recovered
BATCH = 256  # records that a sink is handed at once, at most; of the backlog 512
BACKLOG = 512


def repeats(messages: Iterable[Message], log: Archive) -> list[int]:
    """Return of how many raw records rows came again on each connection of the agent.

    A connection begins with the word ``online``. What is handed out anew is cut anew into messages,
    so the records of the log are counted.
    """
    record = dict[tuple[str, int], int]()
    for stored_record in log.records(0):
        block = log.block(stored_record)
        for moment in (block.time // 1_000_000).tolist():
            record[block.schema.stream, moment] = stored_record.sequence
    found, seen = list[set[int]](), set[tuple[str, int]]()
    for message in messages:
        stream = message.topic.split("/", 2)[2]
        if stream.startswith("$state") and message.payload == b"online":
            found.append(set())
        elif stream.endswith("/raw"):
            rows = {(stream, moment) for moment in message.json["t"]}
            found[-1] |= {record[row] for row in rows & seen}
            seen |= rows
    return [len(records) for records in found]


def expected(schemas: Iterable[Schema], rows: Rows) -> Rows:
    """Return the rows of the load, as many as the log has."""
    return {
        schema.stream: rows_of(load_of(schema, 0, len(rows[schema.stream]))) for schema in schemas
    }


@pytest.mark.parametrize(
    ("kills", "live_first"),
    [
        # some 0.3 s each, and what is compared
        pytest.param(35, "never", marks=pytest.mark.timeout(120)),
        pytest.param(15, "150ms", marks=pytest.mark.timeout(120)),
        pytest.param(1000, "never", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
        pytest.param(1000, "150ms", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_an_agent_killed_many_times_loses_nothing(  # noqa: PLR0917  fixtures
    kills: int,
    live_first: str,
    tmp_path: Path,
    mosquitto: Mosquitto,
    influx: Influx,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    chance = random.Random(seed)
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    path = plant(tmp_path, mosquitto.url, influx.url, live_first=live_first)
    printed = Printed(mosquitto, tmp_path / "printed.txt", "edge/#")
    begin = time.monotonic()
    with printed, Killer(path, tmp_path / "phases").ready() as killer:
        for _ in range(kills):
            killer.kill(chance)
        killer.finish()
        printed.wait(60)
    messages = list(printed.messages())
    archive = Archive(tmp_path / "data" / "log.db")
    again = repeats(messages, archive)
    print(  # noqa: T201  what the run was worth
        f"seed {seed}: {kills} kills in {time.monotonic() - begin:.0f} s; hit {dict(killer.hit)};"
        f" opened and recovered within {killer.slowest:.3f} s, at most {killer.fed} records fed;"
        f" {len(messages)} messages; after a kill came again: at most {max(again)} records,"
        f" {sum(again)} in all"
    )

    raw, schemas = stored(archive)
    derived, others = kept(History(tmp_path / "data" / "history.db"))
    schemas |= others
    sent = raw | {s: rows for s, rows in derived.items() if schemas[s].family is not Family.SLOT}
    found = arrived_in_lanes(messages, schemas)

    # every row that was pushed is in the log, in order and with its value
    assert raw == expected([schemas[stream] for stream in raw], raw)
    assert {len(rows) for rows in raw.values()} == {killer.safe}
    # the figures are those of an agent that was not disturbed
    assert derived == await computed_undisturbed(path, archive, tmp_path / "again")
    # the broker had every row in the order of the log, in each lane
    assert found.keys() == sent.keys()
    for stream, rows in sent.items():
        assert_lanes(stream, [(t // 1_000_000, cells) for t, cells in rows], found[stream])
        behind = any(late for _, late in found[stream])
        assert not behind or live_first != "never"
    # the database has every row once and nothing else
    wanted, have = Points(), Points()
    for stream, rows in sent.items():
        wanted |= points_of(schemas[stream], rows)
    for family in {schemas[stream].family for stream in sent}:
        have |= points_in(influx, family, "works")
    assert have == wanted
    # every row is accounted for
    counts = await counted(path)
    assert counts.conserved
    for name, taken in {HISTORY: derived, "broker": sent, "influx": sent}.items():
        total = sum(map(len, taken.values()))
        assert counts.readers[name] == ReaderCounts(total, total, 0, 0, 0), name
    assert max(again) <= (RECORDS if live_first == "never" else MOST), "more than one batch"
    assert killer.slowest < RECOVERED
    if kills >= 1000:
        assert all(killer.hit[phase.name] for phase in Phase if phase is not Phase.STOPPING)
