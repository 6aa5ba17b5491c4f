"""Rows as Parquet files, one per stream and local day, in folders that say what is in them.

``site=works/owner=em-kiln/name=raw/day=2026-10-05/part-1.parquet``: owner and name are the two
parts of the stream's id. ``time`` is timestamp[ns, UTC]; each signal is a float64 column of its
name and a uint8 column ``name.q``; a text is a dictionary of strings; BAD is null. A row that
closes a window stands in the day that the window lies in: the row of midnight is in the day before.

A file is a function of its rows alone: groups of rows have a fixed size, and no clock is in it.
Values stand as BYTE_STREAM_SPLIT, which takes half the time and two thirds of the bytes of
dictionaries (measured on a day of meters). The metadata holds, as JSON under ``edge_agent``, what
a ``Schema`` is made of, so ``read`` gives the blocks again.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from edge_agent.clock import SECOND
from edge_agent.errors import ConfigError
from edge_agent.export.parts import column_names, spanned, words
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Site, Tag, concatenate

if TYPE_CHECKING:
    import pyarrow as pa

KEY = b"edge_agent"
GROUP = 1 << 20  # values in a group of rows, which is what a reader takes at a time
MOST = 1 << 17  # rows in a group
RESERVED = ("time", "site", "owner", "name", "day")
MISSING = (
    "Parquet needs pyarrow, which is not installed: pip install 'edge-agent[parquet]'"
    " (without a network: from the offline bundle, pip install --no-index --find-links FOLDER"
    " 'edge-agent[parquet]'), or write --format csv"
)


def available() -> None:
    """Raise ``ConfigError`` when the library is not there."""
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError as e:
        raise ConfigError([f"--format parquet: {MISSING}"]) from e


class ParquetForm:
    """A file per stream and local day, and a further one from where its columns change."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._calendar = Calendar(site.zone)

    def cut(self, block: SampleBlock) -> Iterator[tuple[str, SampleBlock]]:
        early = 0 if block.schema.family in {Family.SAMPLE, Family.COMPUTED} else 1
        at = 0
        while at < len(block):
            instant = int(block.time[at]) - early
            start, end = self._calendar.window("1d", instant) or (instant, instant + 1)
            stop = max(at + 1, int(np.searchsorted(block.time, end + early)))
            day = datetime.fromtimestamp(start // SECOND, self._site.zone)
            yield f"{day:%Y-%m-%d}", block.rows(at, stop)
            at = stop

    def place(self, schema: Schema, special: str, number: int) -> Path:
        name = schema.name.replace("/", "_")
        folder = f"site={self._site.id}/owner={schema.owner}/name={name}/day={special}"
        return Path(folder) / f"part-{number}.parquet"

    def open(self, path: Path, schema: Schema) -> "ParquetSheet":
        return ParquetSheet(path, schema, self._site)


class ParquetSheet:
    """One open file."""

    def __init__(self, path: Path, schema: Schema, site: Site) -> None:
        from pyarrow import parquet

        self._schema, self._site = schema, site
        self._arrow = arrow_schema(schema)
        texts = [tag.kind is Kind.TEXT for tag in schema.tags]
        names = self._arrow.names[1::2]
        values = [name for name, text in zip(names, texts, strict=True) if not text]
        self._writer = parquet.ParquetWriter(
            path,
            self._arrow,
            compression="zstd",
            use_dictionary=[name for name in self._arrow.names[1:] if name not in values],
            column_encoding={"time": "DELTA_BINARY_PACKED"}
            | dict.fromkeys(values, "BYTE_STREAM_SPLIT"),
        )
        self._group = min(MOST, max(1, GROUP // max(1, len(schema.tags))))
        self._held: list[SampleBlock] = []
        self._rows = 0
        self._spans: list[tuple[Schema, int]] = []
        self._texts: dict[str, dict[int, str]] = {}

    def write(self, block: SampleBlock) -> None:
        spanned(self._spans, block)
        for name, said in block.texts.items():
            self._texts.setdefault(name, {}).update(said)
        self._held.append(block)
        self._rows += len(block)
        while self._rows >= self._group:
            self._flush(self._group)

    def _flush(self, rows: int) -> None:
        whole = concatenate(self._held)
        self._writer.write_table(table(whole.rows(0, rows), self._arrow), row_group_size=rows)
        self._rows -= rows
        self._held = [whole.rows(rows, len(whole))] if self._rows else []

    def close(self) -> None:
        if self._rows:
            self._flush(self._rows)
        schema = self._schema
        told = {
            "site": self._site.id,
            "stream": schema.stream,
            "family": schema.family.value,
            "period_s": schema.period,
            "columns": [tag.to_json() for tag in schema.tags],
            "schemas": [
                {"id": s.id, "provenance": s.provenance, "rows": n} for s, n in self._spans
            ],
            "texts": {
                name: {str(n): text for n, text in sorted(said.items())}
                for name, said in sorted(self._texts.items())
            },
        }
        self._writer.add_key_value_metadata({KEY: orjson.dumps(told)})
        self._writer.close()


def arrow_schema(schema: Schema) -> "pa.Schema":
    """Return the columns: time, then value and quality of each signal, with unit and kind."""
    import pyarrow as pa

    fields = [pa.field("time", pa.timestamp("ns", "UTC"), nullable=False)]
    texts = pa.dictionary(pa.int32(), pa.string())
    for name, tag in zip(column_names(schema, RESERVED), schema.tags, strict=True):
        meaning = {"unit": tag.unit.code, "kind": tag.kind.value}
        kind = texts if tag.kind is Kind.TEXT else pa.float64()
        fields += [
            pa.field(name, kind, metadata=meaning),
            pa.field(f"{name}.q", pa.uint8(), nullable=False),
        ]
    return pa.schema(fields)


def table(block: SampleBlock, columns: "pa.Schema") -> "pa.Table":
    """Return rows as a table of these columns."""
    import pyarrow as pa

    arrays = [pa.array(block.time, pa.timestamp("ns", "UTC"))]
    for i, tag in enumerate(block.schema.tags):
        if tag.kind is Kind.TEXT:
            arrays.append(pa.array(words(block, i), pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(block.value[i], mask=np.isnan(block.value[i])))
        arrays.append(pa.array(block.quality[i]))
    return pa.Table.from_arrays(arrays, schema=columns)


def read(folder: Path) -> Iterator[SampleBlock]:
    """Yield the blocks of one exported stream: of all files below a folder, in their order.

    Values, qualities, times and schemas are those that were exported, so ``Flow.rows`` gives the
    same derived rows. A text whose words had two numbers has the later one.
    """
    from pyarrow import parquet

    for path in sorted(folder.rglob("*.parquet"), key=_order):
        with parquet.ParquetFile(path) as file:
            told = orjson.loads(file.metadata.metadata[KEY])
            tags = tuple(Tag.from_json(column) for column in told["columns"])
            spans = [
                (
                    Schema(
                        told["stream"],
                        Family(told["family"]),
                        tags,
                        float(told["period_s"]),
                        tuple(span["provenance"]),
                    ),
                    int(span["rows"]),
                )
                for span in told["schemas"]
            ]
            groups = (file.read_row_group(i) for i in range(file.num_row_groups))
            yield from _blocks(groups, spans, told["texts"])


def _order(path: Path) -> tuple[str, int]:
    return str(path.parent), int(path.stem.rpartition("-")[2])


def _blocks(
    groups: "Iterable[pa.Table]",
    spans: list[tuple[Schema, int]],
    texts: Mapping[str, Mapping[str, str]],
) -> Iterator[SampleBlock]:
    """Yield the rows of one file, parted where the schema changes."""
    said = {name: {int(n): text for n, text in known.items()} for name, known in texts.items()}
    schema, left = spans[0]
    after = iter(spans[1:])
    for group in groups:
        at = 0
        whole = _block(group, schema, said)
        while at < len(whole):
            if left == 0:
                schema, left = next(after)
            n = min(left, len(whole) - at)
            part = whole.rows(at, at + n)
            yield SampleBlock(schema, part.time, part.value, part.quality, said)
            at, left = at + n, left - n


def _block(group: "pa.Table", schema: Schema, said: Mapping[str, Mapping[int, str]]) -> SampleBlock:
    k, n = len(schema.tags), group.num_rows
    value, quality = np.empty((k, n)), np.empty((k, n), np.uint8)
    for i, tag in enumerate(schema.tags):
        column = group.column(1 + 2 * i)
        if tag.kind is Kind.TEXT:
            numbers = {text: float(number) for number, text in said.get(tag.name, {}).items()}
            value[i] = [_number(text, numbers) for text in column.to_pylist()]
        else:
            value[i] = column.to_numpy()
        quality[i] = group.column(2 + 2 * i).to_numpy()
    value[quality >= Quality.BAD] = np.nan
    time = group.column(0).to_numpy().astype("datetime64[ns]").astype(np.int64)
    return SampleBlock(schema, time, value, quality, said)


def _number(text: str | None, numbers: Mapping[str, float]) -> float:
    if text is None:
        return float("nan")
    return numbers[text] if text in numbers else float(text.removeprefix("#"))
