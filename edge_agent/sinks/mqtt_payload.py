"""What stands in an MQTT message: the columns of a block, or one row as a flat object.

Numbers are the shortest text that gives the same float64 back, written by one orjson call for a
whole piece of a block and put between parts that are prepared once per model; NaN is null.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import orjson

from edge_agent.model import F64, Gap, Quality, SampleBlock, Schema, Signals
from edge_agent.sinks.lines import filled, frame, numbers

Payload = Literal["columns", "rows"]

MOST_VALUES = 8_192  # that are written at once: 2 ms, and 150 KB, which most brokers take
PATTERNS = 256  # of qualities, kept per model
_TAKEN = {"t", "q", "s", "h", "gap"}  # keys of a row that are no tag's


def columns(block: SampleBlock, *, backlog: bool = False) -> bytes:
    """Return the message of a block as in the contract.

    Texts are texts. ``q`` has the tags of which a row is anything but ``GOOD``; ``s``, of derived
    rows, is the id of the schema, which ``$meta`` and the history say the provenance of; ``h`` is 1
    in what comes behind live rows.
    """
    signals = block.schema.signals
    marks = {}
    if block.quality.any():
        marked = np.flatnonzero((block.quality != Quality.GOOD).any(axis=1)).tolist()
        marks = {signals[i].name: block.quality[i].tolist() for i in marked}
    texts = _columns(block.value)
    for name in block.texts:
        column = block.schema.index[name]
        said = [block.text(column, row) for row in range(len(block))]
        texts[column] = orjson.dumps(said)[1:-1].decode()
    times = orjson.dumps(block.time // 1_000_000, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    values = filled(_frame(signals), texts)
    end = _end(block.schema, backlog=backlog)
    return f'{{"t":{times},"v":{{{values}}},"q":{orjson.dumps(marks).decode()}{end}'.encode()


def rows(block: SampleBlock, *, backlog: bool = False) -> list[bytes]:
    """Return a message for each row: ``{"t":ms,"active_power":412.5}``.

    A value that is BAD is null; ``q`` has those that are anything but ``GOOD``, if any; a tag with
    the name of another key is written as ``t.value``. ``s`` and ``h`` are those of ``columns``.
    """
    k, n = block.value.shape
    signals = block.schema.signals
    parts, ends = _row_frame(signals)
    values = numbers(block.value.T.reshape(-1)) if k else []
    for name in block.texts:
        column = block.schema.index[name]
        values[column::k] = [orjson.dumps(block.text(column, row)).decode() for row in range(n)]
    times = numbers(block.time // 1_000_000)
    end = _end(block.schema, backlog=backlog)
    if not block.quality.any():
        return [
            (filled(parts, [times[i], *values[i * k : (i + 1) * k]]) + end).encode()
            for i in range(n)
        ]
    qualities = np.ascontiguousarray(block.quality.T).tobytes()
    written = []
    for i in range(n):
        pattern = qualities[i * k : (i + 1) * k]
        marks = ends.get(pattern)
        if marks is None:
            if len(ends) >= PATTERNS:
                ends.clear()
            marks = ends[pattern] = _marks(signals, pattern)
        text = filled(parts, [times[i], *values[i * k : (i + 1) * k]])
        written.append((text + marks + end).encode())
    return written


def gap(dropped: Gap, kind: Payload = "columns", *, backlog: bool = False) -> bytes:
    """Return the message that stands for rows that were dropped.

    One among rows has the time of the first as ``t``, for readers that ask for it everywhere.
    """
    told: dict[str, object] = {"t": dropped.first_ns // 1_000_000} if kind == "rows" else {}
    told["gap"] = {
        "from": dropped.first_ns // 1_000_000,
        "to": dropped.last_ns // 1_000_000,
        "rows": dropped.rows,
        "reason": dropped.reason,
    }
    return orjson.dumps(told | ({"h": 1} if backlog else {}))


def birth(schemas: Sequence[Schema]) -> bytes:
    """Return what the columns of an owner's streams are."""
    streams = {
        schema.name: {
            "schema": schema.id,
            "family": schema.family.value,
            "period": schema.period,
            "tags": {t.name: {"unit": t.unit.code, "kind": t.kind.value} for t in schema.tags},
        }
        | ({"provenance": schema.provenance} if schema.provenance else {})
        for schema in schemas
    }
    return orjson.dumps({"streams": streams})


Piece = tuple[range, bytes]  # which rows of a block a message has


def pieces(block: SampleBlock, kind: Payload, *, backlog: bool, largest: int) -> Iterator[Piece]:
    """Yield the messages of a block in order, each when it is asked for.

    A block that is long is cut, so that no step takes long, and so is one of which the message has
    more than ``largest`` bytes; the message of a single row may have more.
    """
    step = max(1, MOST_VALUES // max(1, len(block.schema.tags)))
    for start in range(0, len(block), step):
        part = block.rows(start, start + step) if len(block) > step else block
        if kind == "rows":
            for i, message in enumerate(rows(part, backlog=backlog), start):
                yield range(i, i + 1), message
        else:
            yield from _halved(part, start, backlog=backlog, largest=largest)


def _halved(block: SampleBlock, start: int, *, backlog: bool, largest: int) -> Iterator[Piece]:
    n = len(block)
    message = columns(block, backlog=backlog)
    if n < 2 or len(message) <= largest:
        yield range(start, start + n), message
        return
    count = min(n, -(-len(message) // largest))  # so many parts might be small enough
    step = -(-n // max(2, count))
    for first in range(0, n, step):
        part = block.rows(first, first + step)
        yield from _halved(part, start + first, backlog=backlog, largest=largest)


def _columns(value: F64) -> list[str]:
    """Return the numbers of each signal as JSON, without the brackets; all written by one call."""
    if value.shape[1] == 1:
        return numbers(value[:, 0])
    plain = np.ascontiguousarray(value)  # orjson reads plain rows
    text = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return text[2:-2].split("],[") if len(plain) else []


def _end(schema: Schema, *, backlog: bool) -> str:
    """Return how the message of a block ends."""
    source = f',"s":"{schema.id}"' if schema.provenance else ""
    return source + (',"h":1}' if backlog else "}")


@lru_cache(maxsize=4096)
def _frame(signals: Signals) -> list[str]:
    """Return the values of a block with a place for the numbers of each signal; see ``filled``."""
    names = [orjson.dumps(tag.name).decode() for tag in signals]
    return frame([f"{name}:[" for name in names], "],", "]")


@lru_cache(maxsize=4096)
def _row_frame(signals: Signals) -> tuple[list[str], dict[bytes, str]]:
    """Return a row with places for time and values, and where its ``q`` is kept by pattern."""
    keys = [orjson.dumps(_key(tag.name)).decode() for tag in signals]
    return frame(['{"t":', *(f",{key}:" for key in keys)], "", ""), {}


def _marks(signals: Signals, pattern: bytes) -> str:
    marked = {_key(signals[i].name): q for i, q in enumerate(pattern) if q != Quality.GOOD}
    return f',"q":{orjson.dumps(marked).decode()}' if marked else ""


def _key(name: str) -> str:
    return f"{name}.value" if name in _TAKEN else name
