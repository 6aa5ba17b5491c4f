"""What the files of an export have in common: where one ends, and what the manifest says of it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Protocol

import numpy as np

from edge_agent.model import SampleBlock, Schema, concatenate

CELLS = 1 << 16  # values that are written at a time, so that small blocks cost no call each


class Sheet(Protocol):
    """One open file."""

    def write(self, block: SampleBlock) -> None:
        """Add rows; the columns are always the same."""

    def close(self) -> None:
        """Finish the file."""


class Form(Protocol):
    """A kind of files."""

    def cut(self, block: SampleBlock) -> Iterable[tuple[str, SampleBlock]]:
        """Yield the rows that stand in one file, with what is special to it."""

    def place(self, schema: Schema, special: str, number: int) -> Path:
        """Return where a file stands, from the folder of the export on.

        number  from 1: of this stream there is one of the same kind with each number before
        """

    def open(self, path: Path, schema: Schema) -> Sheet:
        """Begin a file."""


@dataclass
class Part:
    """One file that was written.

    spans  the schemas of its rows, each with how many rows: the columns are the same, the
           configuration that they rest on may be another
    """

    path: Path
    spans: list[tuple[Schema, int]] = field(default_factory=list)
    rows: int = 0
    first_ns: int = 0
    last_ns: int = 0
    size: int = 0
    sha256: str = ""

    def add(self, block: SampleBlock) -> None:
        """Count rows."""
        first, last = int(block.time[0]), int(block.time[-1])
        self.first_ns = min(first, self.first_ns) if self.rows else first
        self.last_ns = max(last, self.last_ns)
        self.rows += len(block)
        spanned(self.spans, block)

    def seal(self, folder: Path) -> None:
        """Bring the file to the disk and note its size and its hash."""
        with (folder / self.path).open("rb") as file:
            self.sha256 = file_digest(file, "sha256").hexdigest()
            self.size = file.tell()
        synced(folder / self.path)

    def to_json(self) -> dict[str, object]:
        """Return what the manifest says of it."""
        schema = self.spans[0][0]
        spans = [{"id": s.id, "rows": n, "provenance": s.provenance} for s, n in self.spans]
        return {
            "path": self.path.as_posix(),
            "stream": schema.stream,
            "family": schema.family.value,
            "period_s": schema.period,
            "rows": self.rows,
            "first": utc(self.first_ns),
            "last": utc(self.last_ns),
            "bytes": self.size,
            "sha256": self.sha256,
            "schemas": spans,
            "columns": [tag.to_json() for tag in schema.tags],
        }


def spanned(spans: list[tuple[Schema, int]], block: SampleBlock) -> None:
    """Add the rows of a block to the spans of one schema each."""
    before = 0
    if spans and spans[-1][0].id == block.schema.id:
        before = spans.pop()[1]
    spans.append((block.schema, before + len(block)))


def synced(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def utc(time_ns: int) -> str:
    """Return a time as ISO 8601, exact."""
    return f"{np.datetime64(time_ns, 'ns')}Z"


def written(blocks: Iterable[SampleBlock], form: Form, folder: Path) -> Iterator[Part]:
    """Write the rows of one stream; yield each file when it is complete.

    A file ends where the columns change, or what is special to it.
    """
    pieces = ((piece, special) for b in joined(blocks) for special, piece in form.cut(b))
    used: dict[str, int] = {}
    piece, special = next(pieces, (None, ""))
    while piece is not None:
        key = piece.schema.layout, special
        used[special] = used.get(special, 0) + 1
        part = Part(form.place(piece.schema, special, used[special]))
        path = folder / part.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(form.open(path, piece.schema)) as sheet:
            while piece is not None and (piece.schema.layout, special) == key:
                sheet.write(piece)
                part.add(piece)
                piece, special = next(pieces, (None, ""))
        part.seal(folder)
        yield part


def joined(blocks: Iterable[SampleBlock]) -> Iterator[SampleBlock]:
    """Yield the same rows in larger blocks."""
    held: list[SampleBlock] = []
    cells = 0
    for block in blocks:
        if held and (block.schema.id != held[0].schema.id or cells >= CELLS):
            yield concatenate(held)
            held, cells = [], 0
        held.append(block)
        cells += block.value.size
    if held:
        yield concatenate(held)


def column_names(schema: Schema, reserved: Sequence[str]) -> list[str]:
    """Return what the columns are called; a tag that is called as another column is ``x.value``."""
    names = [tag.name for tag in schema.tags]
    return [f"{name}.value" if name in reserved else name for name in names]


def words(block: SampleBlock, column: int) -> list[str | None]:
    """Return the texts of a text signal; None where it is BAD, ``#3`` where its text is not stored.

    The history has no texts: there a number still says which rows are alike.
    """
    said = block.texts.get(block.schema.tags[column].name, {})
    codes, which = np.unique(block.value[column], return_inverse=True)
    known = [
        None if code != code else said.get(int(code), f"#{int(code)}")  # noqa: PLR0124
        for code in codes.tolist()
    ]
    return [known[i] for i in which.tolist()]
