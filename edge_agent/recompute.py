"""``edge-agent recompute``: derived rows again from the raw rows, compared with those stored.

The raw records of the log are fed, in their order, to new metrics of the configuration, from the
local midnight before the period on; so what a metric needs to know from before is there again. One
that remembers for longer is given the rows that it published before (``Recalls``). Rows are
compared bit for bit when their window lies wholly in the period. The agent may be running.

What the log no longer holds cannot be computed again: the raw rows that are left begin where
``retention.raw`` or the disk's budget has ended, and windows that began before are left out.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from edge_agent.agent import links_of, metrics_of
from edge_agent.clock import SECOND, SystemClock
from edge_agent.config import Config
from edge_agent.errors import ConfigError, Corrupt
from edge_agent.metrics.base import Recalls
from edge_agent.metrics.windows import Calendar
from edge_agent.metrics.within import within
from edge_agent.model import SampleBlock, Schema, concatenate
from edge_agent.outbox_archive import Archive
from edge_agent.pipeline import Flow
from edge_agent.reports.period import Period
from edge_agent.sinks.history import History, HistorySink

SHOWN = 10  # differences that are told one by one
AFTER = 25 * 3600 * SECOND  # a slot waits a day for a counter at most: then its rows are there


@dataclass
class Compared:
    """A stream: how many rows, and what is not the same."""

    stream: str
    stored: int = 0
    recomputed: int = 0
    equal: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether every stored row was computed again with the same bits, and no other."""
        return self.stored == self.recomputed == self.equal


@dataclass(frozen=True)
class Recomputation:
    """What came out: rows by stream, the comparison, and what a person should know."""

    rows: Mapping[str, SampleBlock]
    compared: tuple[Compared, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether all stored rows of the period are as they were."""
        return all(one.same for one in self.compared)


def recompute(config: Config, begin: str, end: str) -> Recomputation:
    """Compute the derived rows of a period again.

    begin, end  local times or dates: ``2026-10-05``, ``2026-10-05T08:00``
    errors      ``ConfigError`` for a period that is none, or a log that is not there
    """
    try:
        period = Period.parse(f"{begin}/{end}", config.site.zone)
    except ValueError as e:
        raise ConfigError([f"--from, --to: {e}"]) from e
    path = config.data / "log.db"
    if not path.exists():
        raise ConfigError([f"{path}: there is no log: the agent has not run on this configuration"])
    archive, history = Archive(path), History(config.data / "history.db")
    calendar = Calendar(config.site.zone, config.shifts)
    start = _midnight(period)
    notes = list(_gaps(archive, config, start, period))
    rows = {
        stream: within(block, calendar, period.start_ns, period.end_ns)
        for stream, block in _again(archive, history, config, start, period.end_ns).items()
        if HistorySink.takes(block.schema)
    }
    rows = {stream: block for stream, block in rows.items() if len(block)}
    stored: dict[str, SampleBlock] = {}
    others: dict[str, int] = {}
    for schema in history.streams():
        block = history.rows(schema.stream, period.start_ns, period.end_ns)
        if block is None or not len(
            block := within(block, calendar, period.start_ns, period.end_ns)
        ):
            continue
        stored[schema.stream] = block
        for written in history.made_of(schema.stream, int(block.time[0]) - 1, int(block.time[-1])):
            other = _other(written, config)
            others |= {other: others.get(other, 0) + 1} if other else {}
    for other, count in others.items():
        notes.append(f"rows of {count} streams were stored under {other}, not under this file")
    streams = sorted({*rows, *stored})
    compared = tuple(_compare(name, stored.get(name), rows.get(name)) for name in streams)
    return Recomputation(rows, compared, tuple(notes))


def told(result: Recomputation) -> Iterator[str]:
    """Yield the lines to show."""
    width = max((len(one.stream) for one in result.compared), default=6)
    yield f"{'stream':<{width}}  {'stored':>8}  {'again':>8}  {'equal':>8}"
    for one in result.compared:
        mark = "" if one.same else "  differs"
        counts = "  ".join(f"{n:>8}" for n in (one.stored, one.recomputed, one.equal))
        yield f"{one.stream:<{width}}  {counts}{mark}"
    for one in result.compared:
        yield from one.differences[:SHOWN]
    for note in result.notes:
        yield f"attention   {note}"
    if not result.compared:
        yield "no derived rows in this period"
    elif result.same:
        yield "every stored row was computed again, bit for bit"


def write(result: Recomputation, folder: Path) -> Iterator[str]:
    """Write the recomputed rows, a CSV file for each stream; yield the lines to show."""
    folder.mkdir(parents=True, exist_ok=True)
    for stream, block in result.rows.items():
        path = folder / f"{stream.replace('/', '_')}.csv"
        names = [tag.name for tag in block.schema.tags]
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.writer(file)
            table.writerow(["time_utc", *names, *(f"{name}.q" for name in names)])
            for time, value, quality in zip(
                block.time.tolist(), block.value.T.tolist(), block.quality.T.tolist(), strict=True
            ):
                known = ["" if number != number else number for number in value]  # noqa: PLR0124
                table.writerow([_shown(time), *known, *quality])
        yield f"written     {path}"


def _midnight(period: Period) -> int:
    """Return the local midnight before the period begins: a whole day lies before most windows."""
    day = period.begin.replace(hour=0, minute=0, second=0)
    if day.timestamp() * 1e9 >= period.start_ns:
        day = (day - timedelta(hours=12)).replace(hour=0)
    return round(day.timestamp()) * SECOND


def _again(
    archive: Archive, history: History, config: Config, start: int, end: int
) -> dict[str, SampleBlock]:
    """Return all rows that the raw records from a start on complete, by stream."""
    metrics = metrics_of(config, links_of(config, SystemClock()))
    for metric in metrics:
        if isinstance(metric, Recalls):
            rows = history.rows(metric.output.stream, start - metric.memory, start)
            if rows is not None and rows.schema.tags == metric.output.tags:
                metric.recall(rows)
    flow = Flow(metrics)
    found: dict[str, list[SampleBlock]] = {}
    for record in archive.records(archive.before(start, -1)):
        if record.first_ns > end + AFTER:
            break
        try:
            block = archive.block(record)
        except Corrupt:
            continue  # the live path had it before it was damaged: the comparison tells
        for rows in flow.rows(block):
            found.setdefault(rows.schema.stream, []).append(rows)
    return {stream: concatenate(blocks) for stream, blocks in found.items()}


def _gaps(archive: Archive, config: Config, start: int, period: Period) -> Iterator[str]:
    """Yield what the log cannot tell any more."""
    first = next(iter(archive.records(0)), None)
    if first is None:
        yield "the log holds no raw rows"
    elif first.first_ns > start:
        zone = config.site.zone
        begin = datetime.fromtimestamp(first.first_ns // SECOND, zone)
        yield (
            f"the raw rows begin at {begin:%Y-%m-%d %H:%M:%S}: what was measured before is no "
            f"longer there, so the first rows after {max(begin, period.begin):%H:%M} may differ"
        )


def _other(schema: Schema, config: Config) -> str:
    """Return the configuration that stored rows rest on when it is not this one."""
    owner = config.device_digests.get(schema.owner, config.digest)
    said = [part for part in schema.provenance if part.startswith("config:")]
    return "".join(said) if said and said != [f"config:{owner}"] else ""


def _compare(name: str, old: SampleBlock | None, new: SampleBlock | None) -> Compared:
    result = Compared(name, 0 if old is None else len(old), 0 if new is None else len(new))
    if old is None or new is None:
        what = "not computed again" if new is None else "computed, but not stored"
        result.differences.append(f"{name}: {max(result.stored, result.recomputed)} rows {what}")
        return result
    times, here, there = np.intersect1d(old.time, new.time, return_indices=True)
    columns = [tag.name for tag in new.schema.tags if tag.name in old.schema.index]
    a, b = old.schema.columns(columns), new.schema.columns(columns)
    values = old.value[a][:, here], new.value[b][:, there]
    marks = old.quality[a][:, here], new.quality[b][:, there]
    differs = (marks[0] != marks[1]) | ((values[0] != values[1]) & ~np.isnan(values).all(axis=0))
    result.equal = int((~differs.any(axis=0)).sum())
    for column, row in np.argwhere(differs)[:SHOWN].tolist():
        was, now = (
            f"{v[column, row]!r} ({m[column, row]})" for v, m in zip(values, marks, strict=True)
        )
        when = _shown(int(times[row]))
        result.differences.append(f"{name} {when} {columns[column]}: stored {was}, again {now}")
    for block, what in ((old, "not computed again"), (new, "computed, but not stored")):
        alone = np.setdiff1d(block.time, times)
        result.differences += [f"{name} {_shown(int(t))}: {what}" for t in alone[:SHOWN]]
    return result


def _shown(time: int) -> str:
    return datetime.fromtimestamp(time / 1e9, UTC).isoformat(timespec="seconds")


def lines(config: Config, begin: str, end: str, folder: Path | None) -> tuple[bool, Iterable[str]]:
    """Return whether all rows are the same, and the lines to show."""
    result = recompute(config, begin, end)
    shown = list(told(result))
    return result.same, [*shown, *(write(result, folder) if folder is not None else ())]
