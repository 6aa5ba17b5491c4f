"""What a run has left behind: in the log, the history, the broker and the database, as rows.

Each place is read by other means, and all are brought to the same form, so that they can be
compared: a row is its time and, by name, value and quality.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_agent.agent import Agent
from edge_agent.config import load
from edge_agent.health import LogCounts
from edge_agent.model import Family, Quality, SampleBlock, Schema
from edge_agent.outbox import Archive
from edge_agent.sinks.history import History
from tests.servers import Influx, Message

Row = tuple[int, tuple[tuple[str, float | None, int], ...]]  # time; name, value, quality
Rows = dict[str, list[Row]]  # by stream, in order
Points = dict[tuple[str, int], dict[str, float | str]]  # by stream and time; value by field


def rows_of(block: SampleBlock) -> list[Row]:
    """Return the rows of a block; a value that is BAD is None."""
    names = [tag.name for tag in block.schema.tags]
    rows: list[Row] = []
    for i, moment in enumerate(block.time.tolist()):
        qualities = block.quality[:, i].tolist()
        values = [
            None if quality >= Quality.BAD else value
            for value, quality in zip(block.value[:, i].tolist(), qualities, strict=True)
        ]
        rows.append((moment, tuple(zip(names, values, qualities, strict=True))))
    return rows


def stored(log: Archive, family: Family | None = Family.SAMPLE) -> tuple[Rows, dict[str, Schema]]:
    """Return the rows of a log in its order, and the schemas of their streams."""
    rows, schemas = defaultdict[str, list[Row]](list), dict[str, Schema]()
    for record in log.records(0, family):
        block = log.block(record)
        rows[block.schema.stream] += rows_of(block)
        schemas[block.schema.stream] = block.schema
    assert log.read_fault == ""
    return dict(rows), schemas


def kept(history: History) -> tuple[Rows, dict[str, Schema]]:
    """Return the rows of the history, and the schemas of their streams."""
    schemas = {schema.stream: schema for schema in history.streams()}
    blocks = {stream: history.last(stream, 1 << 30) for stream in schemas}
    return {s: rows_of(block) for s, block in blocks.items() if block is not None}, schemas


async def computed_undisturbed(plant: Path, log: Archive, folder: Path) -> Rows:
    """Return the derived rows that an agent makes of the raw rows of a log in one go."""
    agent = Agent(load(plant, {"data": str(folder)}))
    await agent.outbox.start()
    for record in log.records(0):
        agent.pipeline.push(log.block(record))
    await agent.outbox.flush()
    rows, schemas = stored(agent.outbox, None)
    await agent.outbox.close()
    return {s: found for s, found in rows.items() if schemas[s].family.derived}


async def counted(plant: Path) -> LogCounts:
    """Return the counts as the next start of the agent finds them."""
    outbox = Agent(load(plant)).outbox
    counts = outbox.counts()
    await outbox.close()
    return counts


def arrived_in_lanes(
    messages: Iterable[Message], schemas: dict[str, Schema]
) -> dict[str, list[tuple[Row, bool]]]:
    """Return the rows that MQTT brought, in the order of arrival, with all that came twice.

    Of each row whether it was said to come behind live ones.
    """
    rows = defaultdict[str, list[tuple[Row, bool]]](list)
    for message in messages:
        stream = message.topic.split("/", 2)[2]
        if "$" in stream:
            continue
        written = message.json
        if "gap" in written:
            continue
        schema = schemas[stream]
        source = {"s"} if schema.provenance else set()
        assert set(written) - {"h"} == {"t", "v", "q"} | source, message
        assert written.get("s", schema.id) == schema.id, message
        names = [tag.name for tag in schema.tags]
        assert set(written["v"]) == set(names), message
        good = [0] * len(written["t"])
        for i, moment in enumerate(written["t"]):
            cells = [(n, written["v"][n][i], written["q"].get(n, good)[i]) for n in names]
            rows[stream].append(((moment, tuple(cells)), written.get("h") == 1))
    return dict(rows)


def assert_lanes(stream: str, logged: Sequence[Row], found: Iterable[tuple[Row, bool]]) -> None:
    """Each lane has its rows in the order of the log, and between them they have every row.

    found  the rows in the order of arrival, and whether each was said to come behind live ones; a
           live one is newer than all that came before it
    """
    place = dict[Row, int]()
    for i, row in enumerate(logged):
        place.setdefault(row, i)
    seen, newest, last = set[int](), -1, -1
    for row, behind in found:
        assert row in place, f"{stream}: {row} is not in the log"
        i = place[row]
        if i in seen:
            continue
        seen.add(i)
        if behind:
            assert i > last, f"{stream}: row {i} of the backlog came behind row {last}"
            last = i
        else:
            assert i > newest, f"{stream}: row {i} came as a live one, the newest is {newest}"
        newest = max(newest, i)
    assert len(seen) == len(place), f"{stream}: {len(place) - len(seen)} rows never came"


def points_of(schema: Schema, rows: Iterable[Row]) -> Points:
    """Return what InfluxDB must hold; of two rows at one time the later wins, field by field."""
    points: Points = {}
    for moment, cells in rows:
        point = points.setdefault((schema.stream, moment), {})
        for name, value, quality in cells:
            if value is not None:
                point[name] = value
            if quality != Quality.GOOD:
                point[f"{name}.q"] = quality
        point["quality"] = max(quality for _, _, quality in cells)
        if schema.provenance:
            point["schema"] = schema.id
    return points


def points_in(influx: Influx, family: Family, site: str = "demo-cement") -> Points:
    """Return what InfluxDB holds of one family."""
    points: Points = {}
    owner, name = ("metric", "window") if family.derived else ("device", "stream")
    for row in influx.query(f'select * from "{family.value}"'):
        key = f"{row.pop(owner)}/{row.pop(name)}", row.pop("time")
        assert row.pop("site") == site
        points[key] = {field: value for field, value in row.items() if value is not None}
    return points
