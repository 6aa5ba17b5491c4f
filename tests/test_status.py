"""``edge-agent status`` on real logs: with and beside an agent, full, damaged, or not there."""

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from edge_agent import outbox_store, outbox_survey
from edge_agent.agent import Agent
from edge_agent.cli import main
from edge_agent.clock import SECOND
from edge_agent.config import load
from edge_agent.database_files import damage_flag
from edge_agent.health import State
from edge_agent.model import Family, SampleBlock, Schema, Tag
from edge_agent.outbox import Archive, Aside, Budget, Outbox, Reader, ReaderSpec, Record
from edge_agent.status import size, span, writer
from edge_agent.units import Unit
from tests.servers import Mosquitto, free_port
from tests.test_export_trouble import read_only

NOON = 1_791_172_800 * SECOND  # 2026-10-05T12:00:00+08:00
RAW = Schema("em-kiln/raw", Family.SAMPLE, (Tag("power", Unit.parse("kW")),), 1.0)
READERS = ("history", "broker")
BUDGET = Budget.within(32 << 20, 4 << 20, 1 << 60)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """A plant of one meter that does not answer and a broker that is not there."""
    tree = {
        "site": {"id": "plant"},
        "devices": {
            "em-kiln": {
                "connect": f"modbus+tcp://127.0.0.1:{free_port()}?unit=1",
                "poll": "200ms",
                "tags": {"power": {"at": "hr:0", "unit": "kW"}},
            }
        },
        "sinks": {"broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{free_port()}"}},
        "web": {"listen": f"127.0.0.1:{free_port()}"},
        "retention": {"raw_bytes": "32MiB", "metrics_bytes": "16MiB"},
    }
    file = tmp_path / "plant.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def point(plant: Path, url: str) -> None:
    """Let the plant's sink go to a broker."""
    tree = yaml.safe_load(plant.read_text())
    tree["sinks"]["broker"]["url"] = url
    plant.write_text(yaml.safe_dump(tree))


@asynccontextmanager
async def log_of(plant: Path) -> AsyncIterator[Outbox]:
    readers = [ReaderSpec(name, lambda _: True) for name in READERS]
    outbox = Outbox(plant.parent / "data" / "log.db", readers, budget=BUDGET, commit=0.02)
    await outbox.start()
    try:
        yield outbox
    finally:
        await outbox.close()


@asynccontextmanager
async def running(plant: Path) -> AsyncIterator[Agent]:
    agent = Agent(load(plant))
    task = asyncio.create_task(agent.run())
    try:
        await agent.ready.wait()
        yield agent
    finally:
        agent.stop()
        await task


def rows(second: int, count: int = 1) -> SampleBlock:
    """Readings of each second from noon on, which no compression makes small."""
    time = NOON + np.arange(second, second + count, dtype=np.int64) * SECOND
    value = np.random.default_rng(second).random((1, count))
    return SampleBlock(RAW, time, value, np.zeros((1, count), np.uint8))


async def append(outbox: Outbox, *blocks: SampleBlock) -> None:
    for block in blocks:
        outbox.append([block], {"read": len(block)})
    await outbox.flush()


def told(capfd: pytest.CaptureFixture[str], plant: Path, *more: str) -> str:
    assert main(["status", str(plant), *more]) == 0
    said, error = capfd.readouterr()
    assert error == ""
    return said


async def test_the_rows_of_every_sink_and_how_far_it_is_behind(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with log_of(plant) as outbox:
        await append(outbox, *(rows(minute * 60, 60) for minute in range(30)))
        reader = outbox.reader("broker")
        taken = await reader.take(10)
        reader.acknowledge(taken[-1].sequence, delivered=597, refused=3)
        await outbox.flush()

        beside = told(capfd, plant)
    alone = told(capfd, plant)

    (sink,) = re.findall(r"^broker +(.*)$", alone, re.MULTILINE)
    assert re.split("  +", sink) == ["stopped", "1200", "20 min", "597", "3", "0"]
    assert f"agent       process {os.getpid()}\n" in beside
    assert "agent       not running\n" in alone
    assert "newest row  2026-10-05 12:29:59" in alone
    assert "back to 2026-10-05 12:00:00 (30 min)" in alone
    assert "1800 appended = 1800 read + 0 substituted + 0 derived; all accounted for" in alone


async def test_refused_rows_are_told_with_reason_and_values(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with log_of(plant) as outbox:
        await append(outbox, *(rows(minute * 60, 60) for minute in range(3)))
        reader = outbox.reader("broker")
        for minute in range(3):
            (record,) = await reader.take(1)
            poison = outbox.block(record).rows(2, 5)
            aside = Aside("broker", record.sequence, NOON + 200 * SECOND, f"no {minute}", poison)
            reader.acknowledge(record.sequence, delivered=57, refused=3, aside=[aside])
        await outbox.flush()
    said = told(capfd, plant, "--most", "2")

    assert "refused: 9 rows; those put aside last, the newest first" in said
    assert re.findall(r"^    why +(.*)$", said, re.MULTILINE) == ["no 2", "no 1"]
    assert "  broker  em-kiln/raw  2026-10-05 12:02:02 to 2026-10-05 12:02:04  3 rows\n" in said
    assert f"power {rows(120, 60).value[0, 2]:.6g} kW" in said
    assert "    at      2026-10-05 12:03:20\n" in said


async def test_a_log_of_before_this_version_asks_for_the_agent(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with log_of(plant) as outbox:
        await append(outbox, rows(0))
    with closing(sqlite3.connect(plant.parent / "data" / "log.db")) as db:
        db.execute("DROP TABLE aside")

    assert main(["status", str(plant)]) == 1
    assert "another version wrote this log (run the agent once)" in capfd.readouterr().err


async def test_lost_rows_are_told_also_when_the_sink_has_its_gap_markers(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with log_of(plant) as outbox:
        for k in range(60):
            await append(outbox, rows(k * 60_000, 60_000))
        dropped = outbox.counts().readers["broker"].dropped
        away = told(capfd, plant)
        shortened = told(capfd, plant, "--most", "1")
        await deliver_all(outbox.reader("broker"))
        await append(outbox, *(rows(4_000_000 + k) for k in range(4)))
        damage(outbox.path, outbox.append([], {}) - 2)
        await deliver_all(outbox.reader("broker"))
        await outbox.flush()
        found = outbox_survey.store_health(outbox, BUDGET)
        counts = outbox.counts()
    back = told(capfd, plant)

    assert dropped > 0
    first = re.escape("  broker   em-kiln/raw  2026-10-05 12:00:00")
    assert re.search(rf"^{first} +to .* +{dropped} rows +the budget was full$", away, re.MULTILINE)
    assert re.search(r"^room +a sink can be away for about \d+ ", away, re.MULTILINE)
    (used,) = re.findall(r"^raw rows +\S+ MiB of \d+\.\d MiB \((\d+)\.\d%\)", away, re.MULTILINE)
    assert 90 <= int(used) <= 100
    assert "… 1 gaps more (--most 2)" in shortened
    assert (found.markers("broker"), found.markers("history")) == (0, 1)
    ours = [(d.rows, d.reason) for d in found.dropped if d.sink == "broker" and d.told]
    assert ours == [(1, "corrupt"), (dropped, "bytes")]
    assert (counts.readers["broker"].dropped, counts.conserved) == (dropped + 1, True)
    assert re.search(
        rf"^  broker .* {dropped} rows +the budget was full, told$", back, re.MULTILINE
    )
    assert re.search(r"^  broker .* 1 rows +damaged on the disk, told$", back, re.MULTILINE)


async def test_of_what_a_sink_was_told_the_newest_is_kept(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_store, "TOLD_MOST", 3)
    async with log_of(plant) as outbox:
        await append(outbox, *(rows(k) for k in range(6)))
        for number in range(1, 6):
            damage(outbox.path, number)
        await deliver_all(outbox.reader("broker"))
        await outbox.flush()
        told_of = outbox_survey.store_health(outbox, BUDGET).dropped

    assert [(gap.first_ns - NOON) // SECOND for gap in told_of] == [4, 3, 2]


def damage(path: Path, sequence: int) -> None:
    """Flip a bit of a stored record, as a disk does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        sql = "SELECT payload FROM raw WHERE sequence = ?"
        payload = bytearray(db.execute(sql, (sequence,)).fetchone()[0])
        payload[-1] ^= 1
        db.execute("UPDATE raw SET payload = ? WHERE sequence = ?", (bytes(payload), sequence))


async def deliver_all(reader: Reader) -> None:
    while reader.lag:
        taken = await reader.take(50)
        delivered = sum(item.rows for item in taken if isinstance(item, Record))
        reader.acknowledge(taken[-1].sequence, delivered=delivered)


async def test_a_log_that_was_set_aside_is_named(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with log_of(plant) as outbox:
        await append(outbox, rows(0))
    damage_flag(plant.parent / "data" / "log.db").touch()
    async with log_of(plant) as outbox:
        await append(outbox, rows(60))

    said = told(capfd, plant)

    assert re.search(r"^set aside +log\.db\.corrupt-1: the log was damaged", said, re.MULTILINE)


def test_no_log_is_status_1_and_a_wrong_file_status_2(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(plant)]) == 1
    assert re.fullmatch(r"edge-agent: .*log\.db: there is no log .*\n", capfd.readouterr().err)
    (plant.parent / "data").mkdir()
    (plant.parent / "data" / "log.db").write_bytes(b"no database at all" * 100)
    assert main(["status", str(plant)]) == 1
    assert re.fullmatch(r"edge-agent: .*file is not a database.*\n", capfd.readouterr().err)
    assert main(["status", str(plant.parent / "none.yaml")]) == 2


async def test_a_disk_taken_out_of_a_gateway_is_read_without_being_written(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with log_of(plant) as outbox:
        await append(outbox, rows(0, 5))
    with read_only(plant.parent / "data"):
        said = told(capfd, plant)

    assert "rows        5 appended" in said


async def test_a_running_agent_is_asked_why_a_sink_is_down(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(plant) as agent:
        async with asyncio.timeout(15):
            while agent.health.sinks["broker"].state is not State.DOWN:  # noqa: ASYNC110  bounded
                await asyncio.sleep(0.02)
        said = await asyncio.to_thread(told, capfd, plant)

    assert f"agent       process {os.getpid()}\n" in said
    assert re.search(r"^broker +down +\d+", said, re.MULTILINE)
    assert re.search(r"^broker +down since \d.*: .*cannot be reached", said, re.MULTILINE)


async def test_what_a_broker_refuses_is_told_by_page_and_status(
    plant: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rules = "topic write edge/plant/$state/#\ntopic write edge/plant/em-kiln/$meta\n"
    with Mosquitto(plant.parent, acl=rules) as broker:
        point(plant, broker.url)
        async with running(plant) as agent:
            async with asyncio.timeout(15):
                while not agent.counts().readers["broker"].refused:  # noqa: ASYNC110  bounded
                    await asyncio.sleep(0.02)
            async with httpx.AsyncClient(base_url=f"http://{agent.address}") as page:
                told_by_page = (await page.get("/api/v1/refused?sink=broker")).json()["refused"]
            said = await asyncio.to_thread(told, capfd, plant)

    first = told_by_page[-1]
    assert (first["sink"], first["stream"]) == ("broker", "em-kiln/raw")
    assert first["value"]["power"] == [None] * first["rows"]
    assert "Not authorized" in first["reason"]
    assert first["reason"] in re.sub(r"\s+", " ", said)
    assert re.search(r"^  broker  em-kiln/raw  \d{4}-.* rows?$", said, re.MULTILINE)


async def test_the_survey_of_a_log_agrees_with_its_counts(plant: Path) -> None:
    async with log_of(plant) as outbox:
        await append(outbox, *(rows(k * 1000, 1000) for k in range(150)))
        archive = Archive(outbox.path)
        found = outbox_survey.store_health(archive, BUDGET)

        assert outbox_survey.counts(archive) == outbox.counts()
        dropped = sum(gap.rows for gap in found.dropped if gap.sink == "broker")
        assert dropped == outbox.counts().readers["broker"].dropped
        assert found.disk_bytes <= found.limit_bytes
        assert outbox.commits.count >= 1
        assert outbox.commits.seconds >= sum(outbox.commits.recent) > 0
        archive.db.close()


def test_nobody_holds_a_log_that_is_not_open(tmp_path: Path) -> None:
    assert writer(tmp_path / "log.db") is None


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_a_size_is_told_as_people_say_it(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (7200, "2 h"), (2e6, "23 d")]
)
def test_a_span_is_told_as_people_say_it(seconds: float, shown: str) -> None:
    assert span(seconds) == shown
