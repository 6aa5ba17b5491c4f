"""``edge-agent recompute``: the stored raw rows give the stored figures again, bit for bit."""

import asyncio
import csv
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pytest

from edge_agent.agent import Agent
from edge_agent.clock import VirtualClock
from edge_agent.config import load
from tests.commands import called, run

ZONE = ZoneInfo("Asia/Shanghai")
BEGIN = datetime(2026, 3, 1, 20, tzinfo=ZONE)
ROWS = 1900  # every 40 s: to the evening of the next day
PLANT = """
site: {{id: works, timezone: Asia/Shanghai}}
web: {{listen: "127.0.0.1:0"}}
shifts: {{calendar: {{A: "08:00-20:00", B: "20:00-08:00"}}}}
devices:
  mill:
    connect: "replay+csv://{file}"
    time: {{column: time, format: iso, label: start}}
    poll: 40s
    tags:
      energy: {{at: energy, unit: kWh, kind: counter, modulus: 10000}}
      power: {{at: power, unit: kW}}
      mass: {{at: mass, unit: t, kind: counter}}
      state: {{at: state, kind: state}}
      pieces: {{at: pieces, unit: "{{piece}}", kind: counter}}
      so2: {{at: so2, unit: mg/m3}}
      flow: {{at: flow, unit: Nm3/h}}
metrics:
  mill-energy:
    type: energy
    output: mill.mass
    inputs: {{electricity: [mill.energy]}}
    windows: [1min, 15min, 1h, shift, 1d]
  mill-oee:
    type: oee
    state: mill.state
    states: {{producing: [1], idle: [2], fault: [3]}}
    produced: mill.pieces
    ideal_cycle: 2s
    windows: [1min, 1h]
  mill-stack:
    type: emissions
    so2: mill.so2
    flow: mill.flow
    windows: [1min, 1h]
  mill-balance:
    type: balance
    main: [mill.energy]
    subs: {{motor: [mill.power]}}
    windows: [1h]
  mill-states:
    type: energy-by-state
    energy: [mill.energy]
    state: mill.state
    states: {{producing: [1], idle: [2], fault: [3]}}
    windows: [1min, 1h]
  mill-products:
    type: product
    of: mill-energy
    by: {{tag: mill.state, products: {{cement-425: [1], cement-525: [2]}}}}
    batch: mill.state
    windows: [1h]
  mill-saved:
    type: baseline
    energy: mill-energy.electricity_1h
    variables: {{load: mill.power, output: mill-energy.output_t_1h}}
    baseline: {{from: "2026-03-01T20:00", to: "2026-03-02T06:00"}}
    windows: [1h]
  mill-load:
    type: computed
    tags: {{share: {{value: "mean(mill.power, 10min) / 80 kW", unit: "%"}}}}
alarms:
  mill-busy: {{when: mill-load.share > 88, delay: 2min, deadband: 0.5}}
  mill-used: {{when: mill-energy.electricity_1h > 1, delay: 1min}}
"""


def recording(path: Path) -> None:
    """Write a day with a rollover, a reset, glitches, an outage and empty cells."""
    random = Random(7)
    energy, mass, pieces, state = 9700.0, 100.0, 0.0, 1
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time", "energy", "power", "mass", "state", "pieces", "so2", "flow"])
        for i in range(ROWS):
            power = 60 + 20 * random.random()
            energy = (energy + power * 40 / 3600) % 10000
            mass, pieces = mass + random.random(), pieces + 18
            state = random.choice([1, 1, 1, 2, 3]) if random.random() < 0.05 else state
            pieces = 0.0 if i == 1200 else pieces
            shown = random.choice([0.0, energy * 2]) if random.random() < 0.005 else energy
            if 700 <= i < 760:
                continue
            time = BEGIN + timedelta(seconds=40 * i)
            cells = [f"{shown:.2f}", f"{power:.3f}", f"{mass:.3f}", state, f"{pieces:.0f}"]
            if random.random() < 0.01:
                cells[random.randrange(5)] = ""
            so2 = (
                "" if 100 <= i < 290 else f"{40 + i % 7}"
            )  # two hours of the first evening are lost
            table.writerow([time.isoformat(), *cells, so2, "50000"])


async def play(folder: Path) -> Path:
    recording(folder / "mill.csv")
    plant = folder / "plant.yaml"
    plant.write_text(PLANT.format(file=folder / "mill.csv"), "utf-8")
    agent = Agent(load(plant), VirtualClock(round(BEGIN.timestamp()) * 10**9), grace=60)
    running = asyncio.create_task(agent.run(), name="agent")
    await agent.ready.wait()
    link = agent.health.links["mill"]
    while link.rows_read < ROWS - 60 and not running.done():  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.01)
    agent.stop()
    await running
    return plant


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(play(tmp_path_factory.mktemp("recompute")))


def test_a_day_gives_the_same_rows_again_also_in_another_process(plant: Path) -> None:
    status, out, err = run("recompute", plant, "--from", "2026-03-02", "--to", "2026-03-02T16:00")
    assert status == 0, out + err
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert lines["mill/slot"] == ["960", "960", "960"]
    assert lines["mill-energy/1min"] == ["960", "960", "960"]
    assert lines["mill-energy/1h"] == ["16", "16", "16"]
    assert lines["mill-oee/1h"] == ["16", "16", "16"]
    assert lines["mill-states/1h"] == lines["mill-products/1h"] == ["16", "16", "16"]
    assert int(lines["mill-products/batch"][0]) > 10
    assert out.splitlines()[-1] == "every stored row was computed again, bit for bit"


def test_what_a_metric_remembers_for_long_comes_from_its_stored_rows(plant: Path) -> None:
    span = ("--from", "2026-03-02T08:00", "--to", "2026-03-02T16:00")
    status, out, err = run("recompute", plant, *span)
    assert status == 0, out + err
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert lines["mill-stack/1h"] == ["8", "8", "8"]
    assert int(lines["mill-busy/event"][0]) > 5
    # this alarm is active since the first hour, hours before the raw rows that are fed
    assert "mill-used/event" not in lines
    assert lines["mill-load/slot"] == ["480", "480", "480"]
    assert "mill-load/raw" not in lines  # only its slots are in the history


def test_a_baseline_goes_on_from_its_stored_rows(plant: Path) -> None:
    # the raw rows are fed from midnight on, the fit began at eight in the evening
    status, out, err = run(
        "recompute", plant, "--from", "2026-03-02T01:00", "--to", "2026-03-02T16:00"
    )
    assert status == 0, out + err
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert lines["mill-saved/1h"] == ["15", "15", "15"]


def test_rows_are_written_as_csv(plant: Path, tmp_path: Path) -> None:
    span = ("--from", "2026-03-02T01:00", "--to", "2026-03-02T03:00")
    status, out, err = run("recompute", plant, *span, "-o", tmp_path)
    assert status == 0, out + err
    with (tmp_path / "mill-energy_1h.csv").open(encoding="utf-8-sig", newline="") as file:
        hours = list(csv.DictReader(file))
    assert [row["time_utc"] for row in hours] == [
        "2026-03-01T18:00:00+00:00",
        "2026-03-01T19:00:00+00:00",
    ]
    assert all(60 < float(row["electricity"]) < 80 for row in hours)


def test_a_stored_figure_that_was_tampered_with_is_told(plant: Path) -> None:
    path = plant.parent / "data" / "history.db"
    with closing(sqlite3.connect(path)) as database, database:
        (stream,) = database.execute(
            "SELECT key FROM stream WHERE name = 'mill-energy/1h'"
        ).fetchone()
        rows = database.execute(
            "SELECT time, payload FROM row WHERE stream = ? ORDER BY time", (stream,)
        ).fetchall()
        (one, _), (_, other) = rows[8], rows[9]
        change = "UPDATE row SET payload = ? WHERE stream = ? AND time = ?"
        database.execute(change, (other, stream, one))
    status, out, _err = run("recompute", plant, "--from", "2026-03-02", "--to", "2026-03-02T16:00")
    assert status == 1
    told = [line for line in out.splitlines() if line.startswith("mill-energy/1h 2026")]
    assert told
    assert "electricity: stored" in told[0]


@pytest.mark.parametrize(
    ("begin", "end", "told"),
    [
        ("yesterday", "2026-03-02", "'yesterday' in the period"),
        ("2026-03-03", "2026-03-02", "ends before it begins"),
    ],
)
def test_a_period_that_is_none_is_told(
    plant: Path, begin: str, end: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _out, err = called(capfd, "recompute", str(plant), "--from", begin, "--to", end)
    assert status == 2
    assert told in err


def test_a_plant_that_never_ran_is_told(
    plant: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "plant.yaml"
    alone.write_text(plant.read_text("utf-8"), "utf-8")
    period = "--from", "2026-03-02", "--to", "2026-03-03"
    status, _out, err = called(capfd, "recompute", str(alone), *period)
    assert status == 2
    assert "there is no log" in err
