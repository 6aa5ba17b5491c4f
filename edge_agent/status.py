"""``edge-agent status``: what the log holds, what waits for whom, what was refused or lost.

It reads the log beside a running agent, or without one. Whether a sink is up is known to the
agent alone: it is asked for ``/healthz`` when it runs.
"""

import json
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from edge_agent import outbox_survey
from edge_agent.clock import SECOND
from edge_agent.config import Config
from edge_agent.errors import ConfigError, EdgeError
from edge_agent.health import LogCounts, StoreHealth
from edge_agent.model import Quality
from edge_agent.outbox import Archive, Aside, Budget
from edge_agent.terminal import Row, labelled, table

ASKED = 3.0  # seconds that a running agent has to answer
NO_BREAK = "\N{NO-BREAK SPACE}"
LATE = 30.0  # seconds that a sink may be behind without a word
SHOWN = 6  # tags of a refused row
ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  where a listener on all is asked


@dataclass(frozen=True)
class Status:
    """All that ``edge-agent status`` shows.

    process  the agent that writes the log, or None
    sinks    what it says of its sinks, by name; empty when it could not be asked
    """

    log: Path
    process: int | None
    counts: LogCounts
    store: StoreHealth
    behind: Mapping[str, float]
    sinks: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    refused: Sequence[Aside] = ()


def read(config: Config, most: int) -> Status:
    """Return what the log of a configuration holds.

    most    how many refusals, the newest
    errors  ``EdgeError`` when there is no log, or it cannot be read
    """
    path = config.data / "log.db"
    if not path.exists():
        raise EdgeError(f"{path}: there is no log (has the agent run on this configuration?)")
    kept = config.retention
    budget = Budget.within(kept.raw_bytes, kept.waiting_bytes, kept.raw.ns)
    process = writer(path)
    try:
        archive = Archive(path)
        with closing(archive.db):
            return Status(
                path,
                process,
                outbox_survey.counts(archive),
                outbox_survey.store_health(archive, budget),
                outbox_survey.behind(archive),
                {} if process is None else _asked(config.web.listen),
                archive.aside(None, most),
            )
    except (ConfigError, sqlite3.DatabaseError) as e:
        if "no such table" in str(e) or "no such column" in str(e):
            raise EdgeError(f"{path}: another version wrote this log (run the agent once)") from e
        reason = str(e) if isinstance(e, ConfigError) else f"{path}: {e}"
        raise EdgeError(f"{reason} (read it as the user that the agent runs as)") from e


def writer(path: Path) -> int | None:
    """Return the process that holds the lock of a log; the lock itself is left alone."""
    lock = path.with_name(path.name + ".lock")
    try:
        held = lock.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    file = f"{os.major(held.st_dev):02x}:{os.minor(held.st_dev):02x}:{held.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words and file in words:
            return int(words[words.index(file) - 1])
    return None


def _asked(listen: str) -> Mapping[str, Mapping[str, object]]:
    """Return what a running agent says of its sinks, by name; nothing if it does not answer."""
    host, _, port = listen.rpartition(":")
    url = f"http://{ANY.get(host, host)}:{port}/healthz"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            with direct.open(url, timeout=ASKED) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as e:  # 503: something needs a person
            with e:
                found = json.load(e)
        return {sink["name"]: sink for sink in found["sinks"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# ---- what a person reads ---------------------------------------------------------------------


def lines(status: Status, zone: ZoneInfo, most: int) -> Iterator[str]:
    """Yield the lines to show.

    most  how many gaps and refusals are listed at most, each
    """
    yield from labelled(_head(status, zone))
    yield ""
    yield from table(_sinks(status))
    yield from labelled(_down(status, zone))
    yield from _refused(status, zone)
    yield from _gaps(status.store, zone, most)


def _head(status: Status, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    store, counts = status.store, status.counts
    yield "agent", "not running" if status.process is None else f"process {status.process}"
    yield "log", str(status.log)
    yield "newest row", _time(store.newest_ns, zone)
    back = f"back to {_time(store.oldest_ns, zone)} ({span(store.kept_seconds)})"
    yield "raw rows", f"{_full(store.raw_bytes, store.raw_budget_bytes)}, {back}"
    yield "derived", _full(store.derived_bytes, store.derived_budget_bytes)
    yield "on disk", f"{size(store.disk_bytes)}, never more than {size(store.limit_bytes)}"
    history = status.log.with_name("history.db")
    if history.exists():
        yield "history", f"{size(history.stat().st_size)} of computed rows beside the log"
    if store.room_seconds is not None:
        yield "room", f"a sink can be away for about {span(store.room_seconds)} until rows are lost"
    total = f"{counts.appended} appended = {counts.read} read + {counts.substituted} substituted"
    sure = "all accounted for" if counts.conserved else "NOT ALL ACCOUNTED FOR"
    yield "rows", f"{total} + {counts.derived} derived; {sure}"
    for file in store.set_aside:
        what = f"{size(file.bytes)}, last written {_time(file.at_ns, zone)}"
        yield "set aside", f"{file.name}: the log was damaged, a new one was begun ({what})"


def _sinks(status: Status) -> Iterator[Row]:
    yield "sink", "state", "waiting", "behind", "delivered", "refused", "dropped"
    for name, reader in status.counts.readers.items():
        known = status.sinks.get(name, {})
        state = str(known.get("state", "unknown" if status.process else "stopped"))
        rows = (reader.delivered, reader.refused, reader.dropped)
        behind = span(status.behind.get(name, 0.0)) if reader.pending else "-"
        yield name, state, str(reader.pending), behind, *map(str, rows)


def _down(status: Status, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    """Yield why a sink is not up, and when it will have caught up."""
    for name, sink in status.sinks.items():
        if sink.get("error"):
            since = _time(int(str(sink.get("since_ns", 0))), zone)
            yield name, f"{sink['state']} since {since}: {sink['error']}"
        elif status.behind.get(name, 0) > LATE and sink.get("remaining_seconds") is not None:
            left = span(float(str(sink["remaining_seconds"])))
            first = "; live rows go first" if sink.get("backlog") else ""
            yield name, f"catching up: about {left} left{first}"


def _refused(status: Status, zone: ZoneInfo) -> Iterator[str]:
    if not status.refused:
        return
    total = sum(reader.refused for reader in status.counts.readers.values())
    yield ""
    yield f"refused: {total} rows; those put aside last, the newest first"
    for aside in status.refused:
        block = aside.block
        first, last = (_time(int(block.time[i]), zone) for i in (0, -1))
        span_of = first if first == last else f"{first} to {last}"
        rows = f"{len(block)} row{'s' if len(block) > 1 else ''}"
        yield f"  {aside.reader}  {block.schema.stream}  {span_of}  {rows}"
        pairs = (
            ("at", _time(aside.at_ns, zone)),
            ("why", aside.reason),
            ("values", _values(aside)),
        )
        yield from (f"    {line.replace(NO_BREAK, ' ')}" for line in labelled(pairs))


def _values(aside: Aside) -> str:
    """Return the first row of a refusal in short, what the reason names first."""
    block = aside.block
    columns = zip(block.schema.tags, block.value[:, 0], block.quality[:, 0], strict=True)
    told = [
        f"{tag.name} -" if quality >= Quality.BAD else f"{tag.name} {value:.6g} {tag.unit.code}"
        for tag, value, quality in sorted(columns, key=lambda c: c[0].name not in aside.reason)
    ]
    rest = [f"{len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return ", ".join(one.replace(" ", NO_BREAK) for one in (told[:SHOWN] + rest))


_REASONS = {
    "bytes": "the budget was full",
    "age": "of age",
    "corrupt": "damaged on the disk",
}


def _gaps(store: StoreHealth, zone: ZoneInfo, most: int) -> Iterator[str]:
    if not store.dropped:
        return
    yield ""
    yield "dropped; what the sinks have not been told of first, then the newest first"
    yield from table(
        ("  " + gap.sink, gap.stream, _time(gap.first_ns, zone), "to " + _time(gap.last_ns, zone),
         f"{gap.rows} rows", _REASONS.get(gap.reason, gap.reason) + (", told" if gap.told else ""))
        for gap in store.dropped[:most]
    )  # fmt: skip
    if len(store.dropped) > most:
        yield f"  … {len(store.dropped) - most} gaps more (--most {len(store.dropped)})"


def _full(used: int, budget: int) -> str:
    return f"{size(used)} of {size(budget)} ({used / max(1, budget):.1%})"


def _time(ns: int, zone: ZoneInfo) -> str:
    if not ns:
        return "never"
    return f"{datetime.fromtimestamp(ns // SECOND, zone):%Y-%m-%d %H:%M:%S}"


def size(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"


def span(seconds: float) -> str:
    """Return a length of time as a person reads it."""
    for most, one, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / one:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
