"""Rows that the budget drops while nobody takes them: counted and marked, exactly, also by kills.

The broker and the database are away for longer than the log has room for, and the agent is killed
meanwhile and while it delivers what is left. Each row is then at the sink or in a gap marker.
"""

import random
from pathlib import Path

import pytest

from tests.arrivals import counted
from tests.kill_writer import START
from tests.killer import FOR_EVER, Killer, plant
from tests.printed import Printed
from tests.servers import Influx, Mosquitto

SMALL = 100 << 10  # bytes: room for some 700 records
STREAMS = ("em-kiln/raw", "scale/raw", "packer/raw")
PERIOD = 5_000  # ms
IN_FLIGHT = 100  # rows of a share of so small a budget
Places = set[int]  # of rows in their stream


def place(ms: int) -> int:
    """Return the place of a row in its stream from its time."""
    return (ms - START // 1_000_000) // PERIOD


def marked(first: int, last: int, rows: int) -> Places:
    """Return the places that a gap marker stands for: all from the first to the last, in ms."""
    places = set(range(place(first), place(last) + 1))
    assert len(places) == rows
    return places


def at_the_broker(printed: Printed) -> tuple[dict[str, Places], dict[str, dict[int, Places]]]:
    """Return the rows that came and the gaps by their beginning; of gaps that came again the last.

    A marker that was handed out before a kill may have grown when it comes again.
    """
    rows: dict[str, Places] = {stream: set() for stream in STREAMS}
    gaps: dict[str, dict[int, Places]] = {stream: {} for stream in STREAMS}
    for message in printed.messages():
        stream = message.topic.split("/", 2)[2]
        if stream not in rows:
            continue
        body = message.json
        if "gap" in body:
            gap = body["gap"]
            assert gap["reason"] == "bytes"
            gaps[stream][gap["from"]] = marked(gap["from"], gap["to"], gap["rows"])
        else:
            rows[stream].update(place(t) for t in body["t"])
    return rows, gaps


def in_the_database(influx: Influx) -> tuple[dict[str, Places], dict[str, dict[int, Places]]]:
    """Return the same of the database."""
    rows: dict[str, Places] = {stream: set() for stream in STREAMS}
    gaps: dict[str, dict[int, Places]] = {stream: {} for stream in STREAMS}
    for row in influx.query('select "quality", "device", "stream" from "sample"'):
        rows[f"{row['device']}/{row['stream']}"].add(place(row["time"] // 1_000_000))
    for row in influx.query('select * from "gap"'):
        first, last = row["time"] // 1_000_000, int(row["to"]) // 1_000_000
        gaps[f"{row['owner']}/{row['name']}"][first] = marked(first, last, int(row["rows"]))
    return rows, gaps


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(0, marks=pytest.mark.timeout(60)),  # what is compared, on a slow machine
        pytest.param(12, marks=pytest.mark.timeout(90)),  # some 0.3 s each, and what is compared
        pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
async def test_every_dropped_row_stands_in_one_gap_marker(
    kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, influx: Influx
) -> None:
    seed = random.SystemRandom().randrange(10_000)
    chance = random.Random(seed)
    monkeypatch.setenv("INFLUX_TOKEN", influx.token)
    broker = Mosquitto(tmp_path)
    path = plant(tmp_path, broker.url, influx.url)
    with broker, Printed(broker, tmp_path / "printed", "edge/#") as printed:
        with Killer(path, tmp_path / "phases", SMALL).ready() as killer:
            killer.finish()  # there are rows, and they are delivered
            broker.stop()
            influx.stop()
            for _ in range(kills):
                killer.kill(chance, ahead=FOR_EVER, delivering=False)
            killer.finish(1_000, ahead=FOR_EVER)
            broker.start()
            influx.start()
            for _ in range(kills):  # while the rest is delivered, and more is dropped
                killer.kill(chance, ahead=FOR_EVER)
            killer.finish()
            printed.wait(60)
        counts = await counted(path)
        print(f"seed {seed}: {killer.safe} rows of each stream, {counts}")  # noqa: T201
        assert counts.conserved
        places = {"broker": at_the_broker(printed), "influx": in_the_database(influx)}
        for name, (rows, gaps) in places.items():
            assert counts.readers[name].refused == counts.readers[name].pending == 0
            dropped = twice = 0
            for stream in STREAMS:
                lost = set[int]().union(*gaps[stream].values())
                assert len(lost) == sum(map(len, gaps[stream].values())) > 0, (name, stream)
                assert lost | rows[stream] == set(range(killer.safe)), (name, stream)
                twice += len(lost & rows[stream])
                dropped += len(lost)
            assert counts.readers[name].dropped == dropped, name
            # what had come and was not acknowledged yet when the agent was killed
            assert twice <= kills * IN_FLIGHT, name
