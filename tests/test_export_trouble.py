"""``edge-agent export`` when something is wrong, interrupted, or writes at the same time."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import pytest

from edge_agent.errors import ConfigError, EdgeError
from edge_agent.export import command
from edge_agent.export.command import Wish, export
from edge_agent.outbox_scan import Scan
from tests.commands import ROOT, environment, run
from tests.exports import (
    DAY,
    HOUR,
    LEAF,
    MIDNIGHT,
    SECOND,
    Plant,
    derived,
    exported,
    logged,
    mixed,
    nanoseconds,
    plant_in,
    seconds,
    stored,
    table,
)
from tests.outbox_writer import RAW, block_of


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return plant_in(tmp_path)


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


def test_of_a_damaged_history_the_raw_rows_are_exported(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    stored(plant.history, derived(HOUR, seconds(3600, 5, 3600 * SECOND)))
    plant.history.write_bytes(plant.history.read_bytes()[:4096] + b"\xff" * 40_000)
    result = exported(plant, tmp_path / "out")
    assert [part.path.name for part in result.parts] == ["em_raw.csv"]
    (fault,) = result.faults
    assert "the history cannot be read" in fault


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_disk_taken_out_of_a_gateway_is_read_without_being_written(
    form: str, plant: Plant, tmp_path: Path
) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    stored(plant.history, derived(HOUR, seconds(3600, 5, 3600 * SECOND)))
    with read_only(plant.log.parent):
        result = exported(plant, tmp_path / "out", form)
    assert [part.rows for part in result.parts] == [5, 5]
    assert result.faults == ()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Show a folder as it is on a disk that cannot be written; root needs a mount for that."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", folder, folder], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


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


def test_the_disk_of_the_agent_is_not_filled(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    monkeypatch.setattr(command, "RESERVE", 1 << 60)  # more than any disk has
    with pytest.raises(EdgeError, match="nearly full, so nothing is exported there"):
        exported(plant, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"plant.yaml", "data"}


def test_without_the_library_one_line_says_how_to_get_it(plant: Plant, tmp_path: Path) -> None:
    logged(plant.log, mixed(seconds(0, 5)))
    code = (
        "import sys; sys.modules['pyarrow'] = None; from edge_agent.cli import main\n"
        "*same, folder = sys.argv[1:]\n"
        "assert main([*same, '--format', 'csv', '-o', folder + '-csv']) == 0\n"
        "sys.exit(main([*same, '--format', 'parquet', '-o', folder]))"
    )
    arguments = ["export", plant.file, "--from", "2026-03-02", "--to", "2026-03-03"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), str(tmp_path / "out")],
        capture_output=True, text=True, cwd=ROOT, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout.endswith(f"written     {tmp_path}/out-csv\n")
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
