"""``edge-agent export``: other programs read in its files what the log and the history hold."""

import asyncio
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import orjson
import pytest

from edge_agent.errors import ConfigError
from edge_agent.export.command import told
from edge_agent.export.table_csv import offsets
from edge_agent.export.table_parquet import ParquetForm, read
from edge_agent.model import Site, concatenate
from edge_agent.outbox import Budget, Outbox, Reader, Record
from edge_agent.outbox_schema import Aside
from tests.exports import (
    ALL,
    DAY,
    HOUR,
    MIDNIGHT,
    MIXED,
    SECOND,
    SLOT,
    WIDER,
    ZONE,
    Plant,
    bits,
    derived,
    exported,
    logged,
    mixed,
    nanoseconds,
    plant_in,
    same,
    seconds,
    stored,
    table,
    tag,
    values,
    words,
)
from tests.outbox_writer import BUDGET


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return plant_in(tmp_path)


# ---- what the files say ------------------------------------------------------------------------


def test_the_csv_module_reads_every_value_and_quality(plant: Plant, tmp_path: Path) -> None:
    blocks = [mixed(seconds(10 * i, 10), i) for i in range(30)]
    logged(plant.log, *blocks)
    whole = concatenate(blocks)
    result = exported(plant, tmp_path / "out")
    content = (tmp_path / "out" / "em_raw.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbftime_utc,")  # without the mark Excel takes it for GBK
    assert content.endswith(b"\r\n")
    header, rows = table(tmp_path / "out" / "em_raw.csv")
    assert header == [
        *("time_utc", "time_local", "power [kW]", "power.q", "energy [kWh]", "energy.q"),
        *("state", "state.q", "recipe", "recipe.q", "time [s]", "time.q"),
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    assert [nanoseconds(text) for text in columns[0]] == whole.time.tolist()
    local = [datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp() for text in columns[1]]
    assert local == (whole.time / 1e9).tolist()
    for i in (0, 1, 2, 4):
        found = [None if text == "" else float(text) for text in columns[2 + 2 * i]]
        assert bits(found) == bits(values(whole, i))
    assert all(text.lstrip("-").isdigit() for text in columns[6] if text)
    assert str(2**64) in columns[6]
    assert [text or None for text in columns[8]] == [word or None for word in words(whole, 3)]
    for i in range(5):
        assert list(map(int, columns[3 + 2 * i])) == whole.quality[i].tolist()
    assert (result.parts[0].rows, len(rows), result.faults) == (300, 300, ())


def test_another_implementation_reads_the_parquet_bit_for_bit(plant: Plant, tmp_path: Path) -> None:
    blocks = [mixed(seconds(10 * i, 10), i) for i in range(30)]
    logged(plant.log, *blocks)
    whole = concatenate(blocks)
    exported(plant, tmp_path / "out", "parquet")
    everything = f"read_parquet('{tmp_path}/out/**/*.parquet', hive_partitioning=true)"
    with closing(duckdb.connect()) as database:
        rows = database.sql(f"SELECT epoch_ns(time), * EXCLUDE (time) FROM {everything}").fetchall()
        kinds = database.sql(f"DESCRIBE SELECT * FROM {everything}").fetchall()
    columns = [list(column) for column in zip(*rows, strict=True)]
    assert columns[0] == whole.time.tolist()
    for i in (0, 1, 2, 4):
        assert bits(columns[1 + 2 * i]) == bits(values(whole, i))
    assert columns[7] == words(whole, 3)
    for i in range(5):
        assert columns[2 + 2 * i] == whole.quality[i].tolist()
    said = {name: kind for name, kind, *_ in kinds}
    assert [said[n] for n in ("power", "power.q", "recipe", "time.value", "day", "owner")] == [
        *("DOUBLE", "UTINYINT", "VARCHAR", "DOUBLE", "DATE", "VARCHAR")
    ]


def test_parquet_is_read_back_as_the_blocks_that_were_logged(plant: Plant, tmp_path: Path) -> None:
    # a group of rows ends within the second block, the day within the third
    tags = (*MIXED.tags, *(tag(f"voltage_{i}", "V") for i in range(60)))
    wide = replace(MIXED, tags=tags)
    other = replace(wide, provenance=("config:b",))
    blocks = [
        mixed(seconds(69_000, 9_000), 1, wide),
        mixed(seconds(78_000, 8_000), 2, other),
        mixed(seconds(86_000, 1_000), 3, other),
        mixed(seconds(87_000, 10), 4, WIDER),
    ]
    logged(plant.log, *blocks)
    result = exported(plant, tmp_path / "out", "parquet", end="2026-03-04")
    files = [part.path.as_posix().partition("day=")[2] for part in result.parts]
    assert files == [f"2026-03-{name}.parquet" for name in ("02/part-1", "03/part-1", "03/part-2")]
    found = list(read(tmp_path / "out"))
    for schema in (wide, other, WIDER):
        back = concatenate([b for b in found if b.schema == schema])
        block = concatenate([b for b in blocks if b.schema == schema])
        assert same(back, block)
        assert words(back, 3) == words(block, 3)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_same_rows_give_the_same_bytes_however_they_were_logged(
    form: str, plant: Plant, tmp_path: Path
) -> None:
    whole = mixed(seconds(0, 3000))
    wide = replace(whole, schema=replace(MIXED, stream="em-2/raw"))
    hashes = []
    for name, cuts in (("a", [0, 3000]), ("b", [0, 1, 70, 71, 2000, 3000])):
        log = tmp_path / name
        pieces = [(b.rows(*span)) for span in pairwise(cuts) for b in (whole, wide)]
        logged(log, *pieces)
        exported(plant, tmp_path / f"out-{name}", form, log=log)
        files = sorted((tmp_path / f"out-{name}").rglob("*.*"))
        assert len([f for f in files if f.suffix != ".json"]) == 2
        hashes.append(
            [sha256(f.read_bytes()).digest() for f in files if f.is_file() and f.suffix != ".json"]
        )
    assert hashes[0] == hashes[1]


def test_a_changed_schema_begins_a_new_csv_file(plant: Plant, tmp_path: Path) -> None:
    other = replace(MIXED, provenance=("config:b",))  # the same columns: no reason
    blocks = [
        *(mixed(seconds(0, 5)), mixed(seconds(5, 5), 1, other)),
        *(mixed(seconds(10, 5), 2, WIDER), mixed(seconds(15, 5), 3)),
    ]
    logged(plant.log, *blocks)
    exported(plant, tmp_path / "out")
    read_back = {n: table(tmp_path / "out" / f"em_raw{n}.csv") for n in ("", ".2", ".3")}
    assert [len(rows) for _, rows in read_back.values()] == [10, 5, 5]
    assert ["voltage [V]" in header for header, _ in read_back.values()] == [False, True, False]
    said = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    spans = [(s["id"], s["rows"], s["provenance"]) for s in said["files"][0]["schemas"]]
    assert spans == [(MIXED.id, 5, []), (other.id, 5, ["config:b"])]


def test_two_rows_at_one_time_are_two_rows(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed([MIDNIGHT, MIDNIGHT, MIDNIGHT + 1]), mixed([MIDNIGHT + 1], 1))
    exported(plant, tmp_path / "out")
    _, rows = table(tmp_path / "out" / "em_raw.csv")
    assert [nanoseconds(row[0]) - MIDNIGHT for row in rows] == [0, 0, 1, 1]


def test_rows_that_the_budget_dropped_are_gaps_in_the_manifest(
    plant: Plant, tmp_path: Path
) -> None:
    small = Budget(raw_bytes=1 << 20, raw_age_ns=1 << 60, derived_bytes=1 << 20)
    logged(plant.log, *(mixed(seconds(100 * i, 100), i) for i in range(400)), budget=small)
    result = exported(plant, tmp_path / "out")
    said = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert {(gap["stream"], gap["reason"]) for gap in said["gaps"]} == {("em/raw", "bytes")}
    dropped = sum(gap["rows"] for gap in said["gaps"])
    assert 0 < dropped == 40_000 - result.parts[0].rows
    assert f"em/raw: {dropped} rows from 2026-03-01T16:00:00.000000000Z" in "".join(result.notes)


def test_the_manifest_lets_an_auditor_check_the_files(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    stored(plant.history, derived(HOUR, seconds(3600, 3, 3600 * SECOND)))
    exported(plant, tmp_path / "out")
    said = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert said["configuration"] == plant.config.digest
    assert said["period"]["from"] == "2026-03-02T00:00:00+08:00"
    files = {file["path"]: file for file in said["files"]}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*files, "manifest.json"}
    for name, file in files.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert (sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])
        assert file["rows"] == len(table(tmp_path / "out" / name)[1])
    hours = files["clinker_1h.csv"]
    assert hours["schemas"] == [{"id": HOUR.id, "rows": 3, "provenance": ["config:a"]}]
    assert hours["columns"] == [{"name": "electricity", "unit": "kWh", "kind": "gauge"}]
    assert hours["first"] == "2026-03-01T17:00:00.000000000Z"


# ---- which rows --------------------------------------------------------------------------------


def test_raw_rows_from_the_start_on_and_windows_that_lie_in_the_period(
    plant: Plant, tmp_path: Path
) -> None:
    hour = 3600 * SECOND
    logged(plant.log, mixed(seconds(-3600, 27, hour)), derived(HOUR, [MIDNIGHT + 30 * hour]))
    stored(plant.history, derived(HOUR, seconds(-3600, 27, hour)))
    exported(plant, tmp_path / "out")
    raw = [nanoseconds(row[0]) for row in table(tmp_path / "out" / "em_raw.csv")[1]]
    hours = [nanoseconds(row[0]) for row in table(tmp_path / "out" / "clinker_1h.csv")[1]]
    assert raw == [MIDNIGHT + i * hour for i in range(24)]
    assert hours == [MIDNIGHT + i * hour for i in range(1, 25)]


def test_rows_that_a_device_had_kept_through_an_outage_are_found_behind_newer_ones(
    plant: Plant, tmp_path: Path
) -> None:
    past = replace(MIXED, stream="em/raw.history")
    logged(plant.log, mixed(seconds(DAY // SECOND + 9, 5)), mixed(seconds(100, 5), 1, past))
    result = exported(plant, tmp_path / "out")
    assert [(part.path.name, part.rows) for part in result.parts] == [("em_raw.history.csv", 5)]


def test_the_window_of_midnight_is_in_the_day_that_it_closes(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed([MIDNIGHT + DAY - 1, MIDNIGHT + DAY]))
    stored(plant.history, derived(HOUR, [MIDNIGHT + DAY, MIDNIGHT + DAY + 3600 * SECOND]))
    result = exported(plant, tmp_path / "out", "parquet", end="2026-03-04")
    days = [
        (p.spans[0][0].stream, p.path.parent.name, p.last_ns - MIDNIGHT - DAY) for p in result.parts
    ]
    assert days == [
        ("clinker/1h", "day=2026-03-02", 0),
        ("clinker/1h", "day=2026-03-03", 3600 * SECOND),
        ("em/raw", "day=2026-03-02", -1),
        ("em/raw", "day=2026-03-03", 0),
    ]


def test_days_and_local_times_are_those_of_the_site_also_when_the_clock_changes() -> None:
    zone = ZoneInfo("Europe/Berlin")
    start = round(datetime(2026, 3, 28, tzinfo=zone).timestamp())
    time = (start + np.arange(24 + 23 + 24) * 3600) * SECOND
    block = replace(mixed(range(len(time))), time=time)
    cut = ParquetForm(Site("works", "main", "", zone)).cut(block)
    assert [(day, len(rows)) for day, rows in cut] == [
        *(("2026-03-28", 24), ("2026-03-29", 23), ("2026-03-30", 24))
    ]
    local = [datetime.fromtimestamp(t, zone) for t in (time // SECOND).tolist()]
    assert (offsets(time, zone) // SECOND).tolist() == [t.utcoffset().seconds for t in local]


def test_slots_are_exported_only_when_they_are_asked_for(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    stored(plant.history, derived(HOUR, seconds(3600, 1)), derived(SLOT, seconds(60, 2)))
    names = lambda n: sorted(p.name for p in (tmp_path / n).glob("*.csv"))  # noqa: E731
    exported(plant, tmp_path / "a")
    exported(plant, tmp_path / "b", streams=["*/slot", "clinker/*"])
    assert names("a") == ["clinker_1h.csv", "em_raw.csv"]
    assert names("b") == ["clinker_1h.csv", "em_slot.csv"]
    with pytest.raises(ConfigError, match=r"kiln/\*: no stream is like it \(there are: clinker/1h"):
        exported(plant, tmp_path / "c", streams=["em/*", "kiln/*"])
    assert not (tmp_path / "c").exists()


def test_derived_rows_that_the_history_has_not_yet_come_from_the_log(
    plant: Plant, tmp_path: Path
) -> None:
    hours = seconds(3600, 5, 3600 * SECOND)
    logged(plant.log, derived(HOUR, hours[1:4]), derived(HOUR, hours[4:]))
    stored(plant.history, derived(HOUR, hours[:3]))
    exported(plant, tmp_path / "out")
    _, rows = table(tmp_path / "out" / "clinker_1h.csv")
    assert [nanoseconds(row[0]) for row in rows] == hours
    assert [float(row[2]) for row in rows] == [t / 1e9 for t in hours]


def test_an_empty_period_has_a_manifest_and_no_file(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    result = exported(plant, tmp_path / "out", "parquet", begin="2026-03-02T12:00")
    assert (result.parts, result.faults) == ((), ())
    assert "no rows in this period" in list(told(result))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_refused_rows_are_written_with_sink_time_and_reason(plant: Plant, tmp_path: Path) -> None:
    block = mixed(seconds(0, 10))
    reasons = {0: 'field type conflict: "power", float', 1: "不允许"}

    async def refuse() -> None:
        outbox = Outbox(plant.log, [ALL], budget=BUDGET, commit=0.01)
        await outbox.start()
        for i in range(2):
            outbox.append([replace(block, time=block.time + i * 10 * SECOND)], {"read": 10})
        (first, second) = await taken(outbox.reader("all"), 2)
        aside = [
            Aside(
                "all", record.sequence, MIDNIGHT + DAY + i, reasons[i], rows.rows(2 * i, 2 * i + 2)
            )
            for i, record in enumerate((first, second))
            for rows in (outbox.block(record),)
        ]
        outbox.reader("all").acknowledge(second.sequence, delivered=16, refused=4, aside=aside)
        await outbox.close()

    asyncio.run(refuse())
    result = exported(plant, tmp_path / "out", refused=True)
    header, rows = table(tmp_path / "out" / "em_raw.refused.csv")
    assert header[:4] == ["reader", "refused_at", "reason", "time_utc"]
    assert {(row[0], row[1]) for row in rows} == {
        ("all", "2026-03-02T16:00:00.000000000Z"),
        ("all", "2026-03-02T16:00:00.000000001Z"),
    }
    assert [row[2] for row in rows] == [reasons[0]] * 2 + [reasons[1]] * 2
    assert [(nanoseconds(row[3]) - MIDNIGHT) // SECOND for row in rows] == [0, 1, 12, 13]
    power = [None if row[5] == "" else float(row[5]) for row in rows]
    assert bits(power) == bits([values(block, 0)[i] for i in (0, 1, 2, 3)])
    assert [part.rows for part in result.parts] == [4]
    with pytest.raises(ConfigError, match="written as CSV"):
        exported(plant, tmp_path / "other", "parquet", refused=True)


async def taken(reader: Reader, n: int) -> list[Record]:
    items: list[Record] = []
    while len(items) < n:
        items = [item for item in await reader.take(n) if isinstance(item, Record)]
    return items
