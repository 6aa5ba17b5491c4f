"""``edge-agent export``: other programs read in its files what the log and the history hold."""

import asyncio
import csv
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import orjson
import pytest

from edge_agent.config import Config, load
from edge_agent.errors import ConfigError
from edge_agent.export.command import Exported, Wish, export, told
from edge_agent.export.table_parquet import read
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag, concatenate
from edge_agent.outbox import Outbox, ReaderSpec
from edge_agent.outbox_scan import Scan
from edge_agent.sinks.history import HistorySink
from edge_agent.units import Unit
from tests.commands import ROOT, environment, run
from tests.outbox_writer import BUDGET, RAW, block_of

SECOND = 10**9
DAY = 86400 * SECOND
ZONE = ZoneInfo("Asia/Shanghai")
MIDNIGHT = round(datetime(2026, 3, 2, tzinfo=ZONE).timestamp()) * SECOND
ALL = ReaderSpec("all", lambda _: True)
PLANT = """
site: {id: works, timezone: Asia/Shanghai}
devices: {em: {connect: "modbus+tcp://127.0.0.1", tags: {p: {at: "hr:0", unit: kW}}}}
"""
LEAF = 0x0D  # first byte of a page with rows of a table (SQLite file format, 1.6)
BORDERS = [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, 1e16, 123456789.125]


def tag(name: str, unit: str = "1", kind: Kind = Kind.GAUGE) -> Tag:
    return Tag(name, Unit.parse(unit), kind)


MIXED = Schema(
    "em/raw",
    Family.SAMPLE,
    (
        tag("power", "kW"),
        tag("energy", "kWh", Kind.COUNTER),
        tag("state", kind=Kind.STATE),
        tag("recipe", kind=Kind.TEXT),
        tag("time", "s"),
    ),
    1.0,
)
WIDER = replace(MIXED, tags=(*MIXED.tags, tag("voltage", "V")))
HOUR = Schema("clinker/1h", Family.ENERGY, (tag("electricity", "kWh"),), 3600.0, ("config:a",))
SLOT = Schema("em/slot", Family.SLOT, (tag("power.mean", "kW"),), 60.0)
TEXTS = {"recipe": {0: "水泥 42.5", 1: 'a "b", c', 2: "two\nlines", 3: ""}}


def mixed(time: Sequence[int], seed: int = 0, schema: Schema = MIXED) -> SampleBlock:
    """Rows of every kind, a fifth of the values BAD."""
    random, n = np.random.default_rng(seed), len(time)
    value = random.normal(0, 1e3, (len(schema.tags), n))
    value[0, : len(BORDERS)] = BORDERS[:n]
    value[2] = random.choice([0.0, 1.0, 2.0**53, 2.0**60, -(2.0**63), 2.0**64], n)
    value[3] = random.integers(0, 4, n)
    quality = random.choice(np.array([0, 0, 0, 66, 129], np.uint8), value.shape)
    value[quality >= Quality.BAD] = np.nan
    return SampleBlock(schema, np.array(time, np.int64), value, quality, TEXTS)


def seconds(first: int, n: int, step: int = SECOND) -> list[int]:
    return [MIDNIGHT + first * SECOND + i * step for i in range(n)]


def derived(schema: Schema, time: Sequence[int]) -> SampleBlock:
    value = np.array([[t / 1e9 for t in time]])
    return SampleBlock(schema, np.array(time, np.int64), value, np.zeros((1, len(time)), np.uint8))


class Plant(NamedTuple):
    config: Config
    file: Path
    log: Path
    history: Path


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    file = tmp_path / "plant.yaml"
    file.write_text(PLANT)
    (tmp_path / "data").mkdir()
    return Plant(load(file), file, tmp_path / "data" / "log.db", tmp_path / "data" / "history.db")


def logged(path: Path, *blocks: SampleBlock) -> None:
    async def log() -> None:
        outbox = Outbox(path, [ALL], budget=BUDGET, commit=0.01)
        await outbox.start()
        for block in blocks:
            outbox.append([block], {"read": len(block)})
        await outbox.close()

    asyncio.run(log())


def stored(path: Path, *blocks: SampleBlock) -> None:
    sink = HistorySink(
        path, slots_ns=1 << 60, metrics_ns=1 << 60, slots_bytes=1 << 30, metrics_bytes=1 << 30
    )

    async def store() -> None:
        await sink.connect()
        await sink.write(blocks)
        await sink.close()

    asyncio.run(store())


def exported(
    plant: Plant, folder: Path, form: str = "csv", begin: str = "2026-03-02", **more: object
) -> Exported:
    wish = Wish(plant.config, begin, "2026-03-03", form, folder)
    return export(replace(wish, **more), lambda _line: None)


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def nanoseconds(text: str) -> int:
    assert text.endswith("Z")
    return int(np.datetime64(text[:-1], "ns").astype(np.int64))


def bits(numbers: Sequence[float | None]) -> list[bytes | None]:
    return [None if n is None else struct.pack("<d", n) for n in numbers]


def same(a: SampleBlock, b: SampleBlock) -> bool:
    return (
        a.schema == b.schema
        and np.array_equal(a.time, b.time)
        and np.array_equal(a.value, b.value, equal_nan=True)
        and np.array_equal(a.quality, b.quality)
        and np.array_equal(np.signbit(a.value), np.signbit(b.value))
    )


def values(block: SampleBlock, column: int) -> list[float | None]:
    bad = block.quality[column] >= Quality.BAD
    held = zip(block.value[column].tolist(), bad.tolist(), strict=True)
    return [None if is_bad else number for number, is_bad in held]


def words(block: SampleBlock, column: int) -> list[str | None]:
    return [block.text(column, row) for row in range(len(block))]


# ---- what the files say ------------------------------------------------------------------------


def test_the_csv_module_reads_every_value_and_quality(plant: Plant, tmp_path: Path) -> None:
    blocks = [mixed(seconds(10 * i, 10), i) for i in range(30)]
    logged(plant.log, *blocks)
    whole = concatenate(blocks)
    result = exported(plant, tmp_path / "out")
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


# ---- trouble -----------------------------------------------------------------------------------


def flipped(path: Path, sequence: int, table_name: str = "raw") -> None:
    with closing(sqlite3.connect(path)) as database, database:
        sql = f"SELECT payload FROM {table_name} WHERE sequence = ?"
        payload = bytearray(database.execute(sql, (sequence,)).fetchone()[0])
        payload[-6] ^= 0x10
        change = f"UPDATE {table_name} SET payload = ? WHERE sequence = ?"
        database.execute(change, (bytes(payload), sequence))


def test_a_damaged_record_is_told_and_the_rest_exported(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, *(mixed(seconds(10 * i, 10), i) for i in range(5)))
    flipped(plant.log, 3)
    span = ("--from", "2026-03-02", "--to", "2026-03-03")
    status, said, error = run("export", plant.file, *span, "-o", tmp_path / "out")
    assert status == 1
    assert error == "edge-agent: em/raw: 10 rows at 2026-03-01T16:00:20.000000000Z are damaged\n"
    assert "exported    40 rows of 1 streams in 1 files" in said
    _, rows = table(tmp_path / "out" / "em_raw.csv")
    assert [(nanoseconds(row[0]) - MIDNIGHT) // SECOND for row in rows] == [
        *range(20),
        *range(30, 50),
    ]
    (gap,) = orjson.loads((tmp_path / "out" / "manifest.json").read_bytes())["gaps"]
    assert (gap["stream"], gap["rows"], gap["reason"]) == ("em/raw", 10, "corrupt")


def test_of_a_log_with_broken_pages_the_readable_rows_are_exported(
    plant: Plant, tmp_path: Path
) -> None:
    blocks = [mixed(seconds(10 * i, 10), i) for i in range(2000)]
    logged(plant.log, *blocks)
    aside = plant.log.rename(plant.log.with_name("log.db.corrupt-1"))
    content = bytearray(aside.read_bytes())
    leaves = [page for page in range(0, len(content), 4096) if content[page] == LEAF]
    broken = leaves[len(leaves) // 2]
    content[broken : broken + 4096] = b"\xff" * 4096
    aside.write_bytes(bytes(content))
    result = exported(plant, tmp_path / "out", log=aside)
    _, rows = table(tmp_path / "out" / "em_raw.csv")
    assert 19_000 < len(rows) < 20_000
    assert len(result.faults) == 1
    assert "corrupt-1: records " in result.faults[0]
    assert "malformed" in result.faults[0]
    first, last = map(int, result.faults[0].split("records ")[1].split(":")[0].split("–"))
    assert len(rows) == 20_000 - 10 * (last - first + 1)


def test_a_damaged_row_of_the_history_is_told(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    stored(plant.history, derived(HOUR, seconds(3600, 5, 3600 * SECOND)))
    with closing(sqlite3.connect(plant.history)) as database, database:
        third = MIDNIGHT + 3 * 3600 * SECOND
        database.execute("UPDATE row SET payload = x'00' WHERE time = ?", (third,))
    result = exported(plant, tmp_path / "out")
    assert result.faults == ("clinker/1h: 1 rows at 2026-03-01T19:00:00.000000000Z are damaged",)
    assert len(table(tmp_path / "out" / "clinker_1h.csv")[1]) == 4


def test_a_file_that_is_no_log_is_told(plant: Plant, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no log: the agent has not run"):
        exported(plant, tmp_path / "out")
    plant.log.write_bytes(b"\xff" * 8192)
    with pytest.raises(ConfigError, match="the log cannot be read: file is not a database"):
        exported(plant, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"none\.db: there is no log"):
        exported(plant, tmp_path / "out", log=tmp_path / "none.db")


def test_a_folder_that_is_there_is_not_touched(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    (tmp_path / "out").mkdir()
    exported(plant, tmp_path / "out")  # it is empty
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match="is there already"):
        exported(plant, tmp_path / "out", "parquet")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_an_export_that_is_interrupted_leaves_nothing(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))

    def interrupted(line: str) -> None:
        if line.startswith("writing"):
            raise KeyboardInterrupt

    wish = Wish(plant.config, "2026-03-02", "2026-03-03", "csv", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        export(wish, interrupted)
    assert {p.name for p in tmp_path.iterdir()} == {"plant.yaml", "data"}


def test_without_the_library_one_line_says_how_to_get_it(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    hidden = "import sys; sys.modules['pyarrow'] = None; from edge_agent.cli import main; main()"
    span = ["--from", "2026-03-02", "--to", "2026-03-03"]
    arguments = ["export", plant.file, *span, "--format", "parquet", "-o", tmp_path / "out"]
    code = hidden.replace("main()", "sys.exit(main())")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'edge-agent[parquet]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- beside a running agent --------------------------------------------------------------------


def test_a_log_that_is_written_at_the_same_time_gives_an_unbroken_run_of_rows(
    plant: Plant, tmp_path: Path
) -> None:
    # the writer's times are nanoseconds from 0 on
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.outbox_writer", plant.log], cwd=ROOT, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    try:
        for _ in range(60):
            assert writer.stdout.readline()
        span = {"begin": "1970-01-01T08:00", "end": "1970-01-02"}
        committed = int(writer.stdout.readline())
        exported(plant, tmp_path / "out", **span)
        more = int(writer.stdout.readline())
    finally:
        writer.kill()
        writer.communicate()
    _, rows = table(tmp_path / "out" / "em_raw.csv")
    assert [nanoseconds(row[0]) for row in rows] == list(range(len(rows)))
    assert len(rows) > committed
    assert more > committed


def test_rows_that_leave_the_log_before_they_are_read_are_told(plant: Plant) -> None:
    logged(plant.log, *(block_of(RAW, MIDNIGHT + i) for i in range(9000)))
    with closing(Scan(plant.log)) as scan:
        records = scan.records("raw", lambda _: True, MIDNIGHT, MIDNIGHT + DAY)
        next(records)
        with closing(sqlite3.connect(plant.log)) as database, database:
            database.execute("DELETE FROM raw WHERE sequence <= 6000")
        rest = [record.sequence for record in records]
        assert rest[-3000:] == list(range(6001, 9001))
        assert scan.left
