"""Rows that a sink's peer refuses for ever, with the reason, so that a person can mend them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path

from edge_agent.errors import ConfigError
from edge_agent.export.parts import Part, utc
from edge_agent.export.source import Source
from edge_agent.export.table_csv import CsvForm, CsvSheet
from edge_agent.outbox_archive import Archive
from edge_agent.outbox_schema import Aside

COLUMNS = ("reader", "refused_at", "reason")


def refused(source: Source, folder: Path) -> Iterator[Part]:
    """Write the refused rows of a period, a file for each stream; yield each when it is complete.

    Before the columns that every file has stand the sink, the time at which its peer refused the
    row, and what it said; the oldest refusal comes first.
    """
    found = sorted(_aside(source), key=lambda aside: (aside.block.schema.stream, aside.at_ns))
    form = CsvForm(source.period.zone)
    used: dict[str, int] = {}
    for _, same in groupby(found, lambda aside: aside.block.schema.layout):
        group = list(same)
        schema = group[0].block.schema
        number = used[schema.stream] = used.get(schema.stream, 0) + 1
        place = form.place(schema, "", number)
        part = Part(place.with_name(f"{place.stem}.refused.csv"))
        with closing(CsvSheet(folder / part.path, schema, source.period.zone, COLUMNS)) as sheet:
            for aside in group:
                sheet.write(aside.block, (aside.reader, utc(aside.at_ns), aside.reason))
                part.add(aside.block)
        part.seal(folder)
        yield part


def _aside(source: Source) -> Iterator[Aside]:
    """Yield the refused rows that are asked for; the table of them is small."""
    archive = Archive(source.scan.path)
    with closing(archive.db) as database:
        try:
            (kept,) = database.execute("SELECT count(*) FROM aside").fetchone()
            found = archive.aside(most=kept)
        except sqlite3.DatabaseError as e:
            raise ConfigError([f"{archive.path}: its refused rows cannot be read: {e}"]) from e
    if len(found) < kept:
        source.faults.append(f"{archive.path}: {kept - len(found)} refused records are damaged")
    for aside in found:
        block = source.inside(aside.block)
        if len(block) and (not source.patterns or source.takes(block.schema)):
            yield Aside(aside.reader, aside.sequence, aside.at_ns, aside.reason, block)
