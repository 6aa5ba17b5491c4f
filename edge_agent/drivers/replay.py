"""A recorded table as a device: the rows of a CSV file, with the times they were recorded at.

A tag is the number in a column, or ``sum(column)``, the running total of a column of amounts per
interval: a counter as a meter would have shown it. The total is added up exactly and rounded once
per row, so no error grows along a year of rows. A total needs one reading more than there are
amounts: where the stamps are the ends of the intervals, a row with total 0 comes before the
first; where they are the starts, a row with the whole total comes after the last. Gauges are
``BAD_MISSING`` there.

An empty or unreadable cell is ``BAD_NOT_AVAILABLE``, never 0. An amount that is missing is
missing from the later totals, too.
"""

import asyncio
import csv
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from edge_agent.clock import Clock
from edge_agent.drivers.base import DeviceConfig, Group, TagConfig, apply_flag, groups_of
from edge_agent.errors import ConfigError, Fault
from edge_agent.model import F64, I64, U8, Quality, SampleBlock
from edge_agent.units import Duration

ROWS = 256  # rows that one read returns, but for those of the same time as the last
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SUM = re.compile(r"sum\((.+)\)")


@dataclass(frozen=True, kw_only=True)
class ReplayTime:
    """When the rows were recorded: a column of stamps, or a start and a spacing.

    format  of the column, as for ``strptime``; ``iso`` is ISO 8601
    zone    of stamps that do not name one
    start   of the first interval, ISO 8601 with zone; with ``every`` for files without such stamps
    label   whether a stamp is the start or the end of the interval that its row is about
    """

    column: str | None = None
    format: str | None = None
    zone: str = "UTC"
    start: str | None = None
    every: Duration | None = None
    label: Literal["start", "end"] = "end"


@dataclass(frozen=True)
class Table:
    """A file as text: header, rows with their line numbers, stamps in ns."""

    columns: tuple[str, ...]
    lines: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]
    time: I64
    spacing: int  # ns


@dataclass(frozen=True, kw_only=True)
class ReplayDevice(DeviceConfig):
    """A CSV file: ``replay+csv:///path/to/file.csv``, or ``replay+csv:file.csv`` from here."""

    schemes: ClassVar[tuple[str, ...]] = ("replay+csv",)

    time: ReplayTime

    @property
    def path(self) -> Path:
        """The file."""
        return Path(unquote(self.url.netloc + self.url.path))

    @property
    def link(self) -> Hashable:
        return str(self.path)

    @property
    def spacing(self) -> float:
        """Seconds between rows: as configured, or the median of the stamps."""
        if self.time.every is not None:
            return self.time.every
        try:
            return self.table().spacing / 1e9
        except ConfigError:
            return 1.0  # ``faults`` says what is wrong; nothing is read with this number

    def table(self) -> Table:
        """Return the file's content; ``ConfigError`` names every line that is wrong."""
        try:
            stat = self.path.stat()
        except OSError as e:
            said = f"{self.path} cannot be read: {e.strerror}"
            if not self.path.is_absolute():
                said += f" (it is looked for in {Path.cwd()}: write the whole path)"
            raise ConfigError([said]) from e
        return _read(self.path, stat.st_mtime_ns, self.time)

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        faults = list(self._time_faults())
        if faults:
            return faults
        try:
            table = self.table()
        except ConfigError as e:
            return [(("connect",), str(fault)) for fault in e.faults]
        for name, tag in self.tags.items():
            column = _column(tag.at)
            if column not in table.columns:
                text = f'no column "{column}" (the file has: {", ".join(table.columns)})'
                faults.append((("tags", name, "at"), text))
            if tag.type is not None:
                faults.append(
                    (("tags", name, "type"), "a file holds plain numbers: leave type out")
                )
        return faults

    def _time_faults(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        time = self.time
        try:
            ZoneInfo(time.zone)
        except (ZoneInfoNotFoundError, ValueError):
            yield ("time", "zone"), f'unknown time zone "{time.zone}" (write Asia/Shanghai)'
        if time.column is not None:
            if time.start is not None:
                yield ("time", "start"), "give either column, or start and every"
            if time.format is None:
                yield ("time",), "format is missing (iso, or as for strptime: %d/%m/%Y %H:%M)"
            return
        if time.start is None or time.every is None:
            yield ("time",), "give either column and format, or start and every"
            return
        try:
            if datetime.fromisoformat(time.start).tzinfo is None:
                yield ("time", "start"), f"{time.start} names no zone (2018-01-01T00:00:00+08:00)"
        except ValueError:
            yield ("time", "start"), f"{time.start} is not a time (2018-01-01T00:00:00+08:00)"
        if time.every <= 0:
            yield ("time", "every"), "the spacing must be longer than nothing"

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> "ReplayDriver":  # noqa: ARG003  the file has the time
        return ReplayDriver({n: d for n, d in devices.items() if isinstance(d, cls)})


class ReplayDriver:
    """The devices that are played from one file."""

    def __init__(self, devices: Mapping[str, ReplayDevice]) -> None:
        """Read the file; ``ConfigError`` names every line that is wrong."""
        self._blocks: dict[str, SampleBlock] = {}
        self._next: dict[str, int] = {}
        groups: list[Group] = []
        for name, device in devices.items():
            for group, tags in groups_of(name, device).items():
                groups.append(group)
                self._blocks[group.schema.stream] = _block(device, group, tags)
                self._next[group.schema.stream] = 0
        self._groups = tuple(groups)

    @property
    def groups(self) -> tuple[Group, ...]:
        return self._groups

    async def connect(self) -> None:
        """Do nothing: the file has been read. After a break the rows go on where they stopped."""

    async def close(self) -> None:
        """Do nothing: no file is open."""

    async def read(self, group: Group) -> SampleBlock:
        """Return the next rows, about 256; after the last one never return.

        Rows of one time stay together: those up to the last time logged are passed over.
        """
        stream = group.schema.stream
        block, start = self._blocks[stream], self._next[stream]
        if start >= len(block):
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # a long file must not keep the loop from everything else
        last = block.time[min(start + ROWS, len(block)) - 1]
        self._next[stream] = stop = int(np.searchsorted(block.time, last, "right"))
        return block.rows(start, stop)


# ---- the file --------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int, time: ReplayTime) -> Table:
    """Return a file's content; read once for the check, the streams and the driver."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = tuple(name.strip() for name in next(reader, []))
            numbered = [(reader.line_num, tuple(row)) for row in reader if row]
    except OSError as e:
        raise ConfigError([f"{path} cannot be read: {e.strerror}"]) from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise ConfigError([f"{path} is not a CSV file in UTF-8: {e}"]) from e
    if not numbered:
        raise ConfigError([f"{path} has no rows (a header and at least one row are needed)"])
    lines, rows = tuple(n for n, _ in numbered), tuple(row for _, row in numbered)
    stamps = _stamps(path, time, columns, lines, rows)
    return Table(columns, lines, rows, stamps, _spacing(time, stamps))


def _stamps(
    path: Path,
    time: ReplayTime,
    columns: Sequence[str],
    lines: Sequence[int],
    rows: Sequence[Sequence[str]],
) -> I64:
    if time.column is None:
        if time.start is None or time.every is None:
            raise ConfigError([f"{path}: time needs column and format, or start and every"])
        first = _ns(datetime.fromisoformat(time.start))
        steps = np.arange(len(rows), dtype=np.int64) + (time.label == "end")
        return first + steps * time.every.ns
    if time.column not in columns:
        raise ConfigError([f'{path}: no column "{time.column}" (it has: {", ".join(columns)})'])
    column, zone = columns.index(time.column), ZoneInfo(time.zone)
    faults, stamps = list[Fault | str](), list[int]()
    for line, row in zip(lines, rows, strict=True):
        text = row[column].strip() if column < len(row) else ""
        try:
            stamp = _ns(_parse(text, time.format or "iso", zone))
        except ValueError:
            faults.append(Fault(str(path), line, 1, f'"{text}" is not a time as {time.format}'))
            continue
        if stamps and stamp < stamps[-1]:
            faults.append(
                Fault(
                    str(path),
                    line,
                    1,
                    f"{text} is earlier than the row before (sort them, or use start and every)",
                )
            )
        stamps.append(max(stamp, stamps[-1] if stamps else stamp))
    if faults:
        raise ConfigError(faults)
    return np.array(stamps, np.int64)


def _parse(text: str, layout: str, zone: ZoneInfo) -> datetime:
    iso = layout == "iso"
    time = datetime.fromisoformat(text) if iso else datetime.strptime(text, layout)  # noqa: DTZ007  below
    return time if time.tzinfo is not None else time.replace(tzinfo=zone)


def _ns(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def _spacing(time: ReplayTime, stamps: I64) -> int:
    if time.every is not None:
        return time.every.ns
    return int(np.median(np.diff(stamps))) if len(stamps) > 1 else 1_000_000_000


# ---- the rows --------------------------------------------------------------------------------


def _column(at: str) -> str:
    match = _SUM.fullmatch(at.strip())
    return match[1].strip() if match else at.strip()


def _exact(cell: str) -> Fraction | None:
    """Return the number that is written, exactly; None if it is none."""
    return Fraction(cell.strip()) if _NUMBER.fullmatch(cell.strip()) else None


def _block(device: ReplayDevice, group: Group, tags: Sequence[str]) -> SampleBlock:
    table = device.table()
    configs = [device.tags[name] for name in tags]
    totals = [bool(_SUM.fullmatch(tag.at.strip())) for tag in configs]
    extra = any(totals)
    before = extra and device.time.label == "end"
    after = extra and device.time.label == "start"
    value = np.array([_values(device, tag, table, before, after) for tag in configs], np.float64)
    value = value.reshape(len(configs), len(table.rows) + extra)
    time = table.time
    if before:
        time = np.concatenate(([time[0] - table.spacing], time))
    if after:
        time = np.concatenate((time, [time[-1] + table.spacing]))
    quality = _quality(configs, value)
    if extra:
        quality[~np.array(totals), 0 if before else -1] = Quality.BAD_MISSING
    apply_flag(device, group.schema, value, quality)
    return SampleBlock(group.schema, time.astype(np.int64), value, quality)


def _values(
    device: ReplayDevice, tag: TagConfig, table: Table, before: bool, after: bool
) -> list[float]:
    """Return one column in tag units, NaN where there is no value."""
    ratio, name = device.ratio_of(tag), _column(tag.at)
    if name not in table.columns:
        raise ConfigError([f'{device.path}: no column "{name}"'])
    column = table.columns.index(name)
    named = {text: Fraction(number) for number, text in tag.states.items()}
    cells = [row[column] if column < len(row) else "" for row in table.rows]
    raw = [named.get(cell.strip(), _exact(cell)) for cell in cells]
    raw = [None if number in tag.invalid else number for number in raw]
    if not _SUM.fullmatch(tag.at.strip()):
        p, q = float(ratio.numerator), float(ratio.denominator)
        numbers = [np.nan if n is None else float(n) * p / q + tag.offset for n in raw]
        return [np.nan] * before + numbers + [np.nan] * after
    total, readings = Fraction(0), [tag.offset] if before or after else []
    for number in raw:
        total += number or 0
        readings.append(np.nan if number is None else float(total * ratio) + tag.offset)
    return readings


def _quality(configs: Sequence[TagConfig], value: F64) -> U8:
    quality = np.zeros(value.shape, np.uint8)
    for i, tag in enumerate(configs):
        if tag.range is not None:
            outside = (value[i] < tag.range[0]) | (value[i] > tag.range[1])
            quality[i, outside] = Quality.UNCERTAIN_RANGE
    void = ~np.isfinite(value)
    value[void] = np.nan
    quality[void] = Quality.BAD_NOT_AVAILABLE
    return quality
