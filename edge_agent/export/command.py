"""Puts an export together: rows to files, files to a manifest, all to its folder at once."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import orjson

from edge_agent import __version__
from edge_agent.clock import SECOND
from edge_agent.config import Config
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.export.parts import Form, Part, synced, utc, written
from edge_agent.export.refused import refused
from edge_agent.export.source import Source
from edge_agent.export.spool import Spool
from edge_agent.export.table_csv import CsvForm
from edge_agent.export.table_parquet import ParquetForm, available
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Family, Gap, SampleBlock
from edge_agent.outbox_scan import Scan
from edge_agent.reports.period import Period
from edge_agent.sinks.history import History
from edge_agent.terminal import table

MANIFEST = "manifest.json"
SPOOL = ".spool"
OFTEN = 64  # blocks between two lines of progress
RESERVE = 256 << 20  # bytes of the disk that the agent keeps its rows on are left to it
SHOWN = 20  # faults and gaps that are told one by one

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What is to be exported.

    begin, end  local times or dates: ``2026-10-05``, ``2026-10-05T08:00``
    form        ``csv`` or ``parquet``
    folder      for the files; not there yet, or empty
    streams     patterns of stream ids; none: all but slots
    log         another log than the configuration's: then only its rows, the history is not asked
    refused     instead of all rows those that sinks refused and that were put aside
    """

    config: Config
    begin: str
    end: str
    form: str
    folder: Path
    streams: Sequence[str] = ()
    log: Path | None = None
    refused: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written, and what a person should know.

    faults  what could not be read; notes: what was never there
    """

    folder: Path
    parts: tuple[Part, ...]
    gaps: tuple[Gap, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float


def export(wish: Wish, progress: Progress) -> Exported:
    """Write the rows of a period.

    errors  ``ConfigError`` for a period that is none, a log or stream that is not there, a folder
            that is; ``EdgeError`` when the disk is nearly full. Then no folder is left behind
    """
    began = time.monotonic()
    config = wish.config
    period = _period(wish)
    log = _possible(wish)
    scan = Scan(log)
    folder = wish.folder.resolve()
    draft = folder.with_name(f".{folder.name}.draft-{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        history = History(config.data / "history.db") if wish.log is None else None
        calendar = Calendar(config.site.zone, config.shifts)
        source = Source(scan, history, Spool(draft / SPOOL), period, calendar, tuple(wish.streams))
        _asked_for(source)
        watched = _watched(progress, draft, config.data)
        if wish.refused:
            parts = tuple(refused(source, draft))
        else:
            source.sort(watched)
            parts = tuple(_written(wish, source, draft, watched))
        (draft / SPOOL).rmdir()
        notes = () if wish.refused else tuple(_notes(source))
        found = tuple(source.gaps), tuple(source.faults), notes
        result = Exported(wish.folder, parts, *found, time.monotonic() - began)
        (draft / MANIFEST).write_bytes(_manifest(wish, period, result))
        synced(draft / MANIFEST)
        draft.rename(folder)
        synced(folder.parent)
    finally:
        scan.close()
        shutil.rmtree(draft, ignore_errors=True)
    return result


def _period(wish: Wish) -> Period:
    try:
        return Period.parse(f"{wish.begin}/{wish.end}", wish.config.site.zone)
    except ValueError as e:
        raise ConfigError([f"--from, --to: {e}"]) from e


def _possible(wish: Wish) -> Path:
    """Return the log; ``ConfigError`` for a wish that cannot be met."""
    if wish.form == "parquet":
        if wish.refused:
            raise ConfigError(["--refused: these rows are written as CSV (--format csv)"])
        available()
    log = wish.log or wish.config.data / "log.db"
    if not log.exists():
        why = "" if wish.log else ": the agent has not run on this configuration"
        raise ConfigError([f"{log}: there is no log{why}"])
    if wish.folder.exists() and (not wish.folder.is_dir() or any(wish.folder.iterdir())):
        raise ConfigError([f"{wish.folder}: is there already (name a folder that is not)"])
    return log


def _asked_for(source: Source) -> None:
    """Raise ``ConfigError`` for patterns that no stream is like."""
    known = sorted(source.known)
    lost = [p for p in source.patterns if not any(fnmatchcase(name, p) for name in known)]
    if lost:
        shown = ", ".join(known[:SHOWN]) or "none"
        more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
        raise ConfigError(
            [f"--streams {p}: no stream is like it (there are: {shown}{more})" for p in lost]
        )


def _watched(progress: Progress, draft: Path, data: Path) -> Progress:
    """Return a progress that ends the export before it takes the agent's disk from it."""
    shared = data.exists() and data.stat().st_dev == draft.stat().st_dev

    def watch(line: str) -> None:
        if shared and shutil.disk_usage(draft).free < RESERVE:
            raise EdgeError(
                f"{draft.parent}: the disk that the agent's rows are on is nearly full, so nothing"
                " is exported there (choose another disk with -o)"
            )
        progress(line)

    return watch


def _written(wish: Wish, source: Source, draft: Path, progress: Progress) -> Iterator[Part]:
    """Write stream by stream."""
    site = wish.config.site
    form: Form = CsvForm(site.zone) if wish.form == "csv" else ParquetForm(site)
    for schema in source.streams():
        rows = _told(schema.stream, source.rows(schema), progress)
        yield from written(rows, form, draft)


def _told(stream: str, blocks: Iterator[SampleBlock], progress: Progress) -> Iterator[SampleBlock]:
    rows = 0
    for n, block in enumerate(blocks):
        if n % OFTEN == 0:
            progress(f"writing {stream}: {rows} rows")
        rows += len(block)
        yield block


def _notes(source: Source) -> Iterator[str]:
    """Yield what a person could miss in the files."""
    asked = [schema for schema in source.scan.schemas.values() if source.takes(schema)]
    families = {schema.family for schema in asked}
    zone, oldest = source.period.zone, source.scan.oldest_ns()
    if Family.SAMPLE in families and oldest is not None and oldest > source.period.start_ns:
        begin = datetime.fromtimestamp(oldest // SECOND, zone)
        yield f"the raw rows that are kept begin at {begin:%Y-%m-%d %H:%M:%S}"
    if source.scan.left:
        yield "raw rows left the log for its age or its budget before they were read"
    if Family.COMPUTED in families:
        yield (
            "rows of computed tags stay in the log only until every sink has them; their slots"
            " stay in the history (--streams 'NAME/slot')"
        )
    for gap in source.gaps[:SHOWN]:
        if gap.reason != "corrupt":  # which the faults tell
            when = f"from {utc(gap.first_ns)} to {utc(gap.last_ns)}"
            yield f"{gap.schema.stream}: {gap.rows} rows {when} were dropped ({gap.reason})"


def _manifest(wish: Wish, period: Period, result: Exported) -> bytes:
    """Return what an auditor checks the files with; the same rows give the same text."""
    config = wish.config
    told = {
        "what": "edge-agent export",
        "version": __version__,
        "format": wish.form,
        "site": {
            "id": config.site.id,
            "gateway": config.site.gateway,
            "zone": config.site.zone.key,
        },
        "configuration": config.digest,
        "log": None if wish.log is None else wish.log.name,
        "period": {
            "from": period.begin.isoformat(),
            "to": period.end.isoformat(),
            "from_ns": period.start_ns,
            "to_ns": period.end_ns,
        },
        "streams": list(wish.streams),
        "refused": wish.refused,
        "files": [part.to_json() for part in result.parts],
        "gaps": [
            {
                "stream": gap.schema.stream,
                "first": utc(gap.first_ns),
                "last": utc(gap.last_ns),
                "rows": gap.rows,
                "reason": gap.reason,
            }
            for gap in result.gaps
        ],
        "faults": result.faults,
        "notes": result.notes,
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n"


def told(result: Exported) -> Iterator[str]:
    """Yield the lines to show: what is there; faults are told apart."""
    rows: dict[str, int] = {}
    for part in result.parts:
        stream = part.spans[0][0].stream
        rows[stream] = rows.get(stream, 0) + part.rows
    yield from table((stream, str(count)) for stream, count in rows.items())
    for note in result.notes:
        yield f"attention   {note}"
    if not rows:
        yield "no rows in this period"
    size = sum(part.size for part in result.parts) / 1e6
    files = len(result.parts)
    yield (
        f"exported    {sum(rows.values())} rows of {len(rows)} streams in {files} files, "
        f"{size:.1f} MB, {result.seconds:.1f} s"
    )
    yield f"written     {result.folder}"
