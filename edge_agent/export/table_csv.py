"""Rows as CSV that a spreadsheet, pandas and a person read alike.

RFC 4180 with a header, UTF-8 with the mark (BOM) that Excel needs to show Chinese. ``time_utc`` is
exact (nanoseconds), ``time_local`` is the site's clock in the form that Excel takes as a time. Then
for each signal ``name [unit]`` and ``name.q``, its quality. A value is the shortest text that gives
the same float64 back, a state a whole number, a text its words; BAD is an empty cell.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.export.parts import column_names, words
from edge_agent.model import F64, I64, Kind, SampleBlock, Schema
from edge_agent.sinks.lines import numbers

QUARTER = 900 * SECOND  # no zone changes its offset at another minute
LIMIT = 2.0**63
_MARKS = [str(quality) for quality in range(256)]


class CsvForm:
    """A file per stream, and a further one from where its columns change."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone

    def cut(self, block: SampleBlock) -> Iterator[tuple[str, SampleBlock]]:
        yield "", block

    def place(self, schema: Schema, _special: str, number: int) -> Path:
        more = f".{number}" if number > 1 else ""
        return Path(f"{schema.owner}_{schema.name.replace('/', '_')}{more}.csv")

    def open(self, path: Path, schema: Schema) -> "CsvSheet":
        return CsvSheet(path, schema, self._zone)


class CsvSheet:
    """One open file.

    before  names of columns that stand before all others; ``write`` is given what is in them
    """

    def __init__(
        self, path: Path, schema: Schema, zone: ZoneInfo, before: Sequence[str] = ()
    ) -> None:
        self._zone = zone
        self._file = path.open("x", encoding="utf-8", newline="")
        self._file.write("\ufeff" + ",".join(map(quoted, [*before, *header(schema)])) + "\r\n")

    def write(self, block: SampleBlock, before: Sequence[str] = ()) -> None:
        fixed = [[quoted(text)] * len(block) for text in before]
        columns = [*fixed, *self._times(block.time), *cells(block)]
        self._file.write("".join(f"{','.join(row)}\r\n" for row in zip(*columns, strict=True)))

    def close(self) -> None:
        self._file.close()

    def _times(self, time: I64) -> tuple[list[str], list[str]]:
        exact = np.datetime_as_string(time.view("datetime64[ns]")).tolist()
        local = ((time + offsets(time, self._zone)) // 1_000_000).view("datetime64[ms]")
        shown = [text.replace("T", " ") for text in np.datetime_as_string(local).tolist()]
        return [f"{text}Z" for text in exact], [text.removesuffix(".000") for text in shown]


def header(schema: Schema) -> list[str]:
    """Return the first row: a signal without a unit has none in brackets."""
    names = column_names(schema, ("time_utc", "time_local"))
    found = ["time_utc", "time_local"]
    for name, tag in zip(names, schema.tags, strict=True):
        found += [name if tag.unit.code == "1" else f"{name} [{tag.unit.code}]", f"{name}.q"]
    return found


def cells(block: SampleBlock) -> Iterator[list[str]]:
    """Yield the columns of values and qualities as texts."""
    n = len(block)
    texts = numbers(block.value.reshape(-1)) if block.value.size else []
    for i, tag in enumerate(block.schema.tags):
        if tag.kind is Kind.TEXT:
            yield ["" if word is None else quoted(word) for word in words(block, i)]
        elif tag.kind is Kind.STATE:
            yield _states(block.value[i])
        else:
            yield _known(texts[i * n : (i + 1) * n], block.value[i])
        marks = block.quality[i]
        yield [_MARKS[mark] for mark in marks.tolist()] if marks.any() else ["0"] * n


def _known(texts: list[str], value: F64) -> list[str]:
    if np.isfinite(value).all():
        return texts
    return [
        text if text != "null" else "" if number != number else str(number)  # noqa: PLR0124
        for text, number in zip(texts, value.tolist(), strict=True)
    ]


def _states(value: F64) -> list[str]:
    if (np.abs(value) < LIMIT).all() and (value == np.trunc(value)).all():
        return numbers(value.astype(np.int64))
    return [
        "" if number != number else str(int(number)) if number.is_integer() else repr(number)  # noqa: PLR0124
        for number in value.tolist()
    ]


def offsets(time: I64, zone: ZoneInfo) -> I64:
    """Return how far the site's clock is ahead of UTC, ns (n,)."""
    quarters, which = np.unique(time // QUARTER, return_inverse=True)
    found = [
        datetime.fromtimestamp(q * QUARTER // SECOND, zone).utcoffset() for q in quarters.tolist()
    ]
    seconds = [0 if offset is None else round(offset.total_seconds()) for offset in found]
    return np.array(seconds, np.int64)[which] * SECOND


def quoted(text: str) -> str:
    """Return a text as a cell."""
    if not any(character in text for character in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'
