"""The tables of ``configs/tariffs``: time-of-use bands, power factor steps, demand rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from edge_agent.config.rows import Row, T, Table, read_table
from edge_agent.errors import Fault
from edge_agent.metrics.tariff_tables import (
    ALWAYS,
    BANDS,
    Adjustment,
    AdjustmentStep,
    Band,
    DemandRule,
    Tariffs,
)

_EPOCH = date(1970, 1, 1)
F = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class BandRow(Row):
    """One band of a day in the months of a season; ``[start, end)`` of the local clock."""

    year: str
    season: str
    months: tuple[str, ...]
    user_class: str
    start: str
    end: str
    band: str
    coefficient: Decimal | None


@dataclass(frozen=True, kw_only=True)
class StepRow(Row):
    """A piece of the power factor adjustment, in percent of the bill."""

    standard: Decimal | None
    low: Decimal | None
    high: Decimal | None
    at_high_pct: Decimal | None
    per_hundredth_pct: Decimal | None


@dataclass(frozen=True, kw_only=True)
class RuleRow(Row):
    """How a contract demand is billed."""

    id: str
    tolerance: Decimal | None
    excess_factor: Decimal | None
    minimum_share: Decimal | None


_STEPS = Table(
    "tariffs/power_factor.csv",
    StepRow,
    ("standard", "low"),
    frozenset({"standard", "low", "high", "at_high_pct", "per_hundredth_pct"}),
)
_RULES = Table(
    "tariffs/demand_rules.csv",
    RuleRow,
    ("id",),
    frozenset({"tolerance", "excess_factor", "minimum_share"}),
)


def _bands_table(path: str) -> Table[BandRow]:
    return Table(
        path,
        BandRow,
        ("year", "season", "user_class", "start"),
        frozenset({"coefficient"}),
        frozenset({"months"}),
        {"band": frozenset(BANDS)},
    )


def read_tariffs(folders: Sequence[Path], faults: list[Fault]) -> Tariffs:
    """Return the tables of all files ``tariffs/tou_*.csv``, and the two others.

    folders  searched in this order for each file
    """
    names = {path.name for folder in folders for path in (folder / "tariffs").glob("tou_*.csv")}
    bands = {}
    for name in sorted(names):
        path = f"tariffs/{name}"
        rows = read_table(_bands_table(path), folders, faults)
        table = name.removesuffix(".csv")
        bands[table] = tuple(
            (row.user_class, row.year, made)
            for row in rows
            if (made := _band(table, path, row, faults)) is not None
        )
        _check_overlaps(path, bands[table], faults)
    return Tariffs(bands, _adjustments(folders, faults), _rules(folders, faults))


def _source(table: str, name: str, row: Row) -> str:
    return f"{table}:{name}" + ("" if row.approved else " (unapproved)")


def _band(table: str, path: str, row: BandRow, faults: list[Fault]) -> Band | None:
    line = int(row.place.rpartition(":")[2])
    try:
        start, end = _clock(row.start), _clock(row.end)
        months = tuple(int(month) for month in row.months)
    except ValueError as error:
        faults.append(Fault(path, line, 1, str(error)))
        return None
    if not start < end or not months or not all(1 <= month <= 12 for month in months):
        message = "start must be before end, and months must be 1 to 12"
        faults.append(Fault(path, line, 1, message))
        return None
    return Band(
        row.band,
        months,
        start,
        end,
        math.nan if row.coefficient is None else float(row.coefficient),
        _day(row.valid_from, -ALWAYS),
        _day(row.valid_to, ALWAYS),
        _source(table, f"{row.year}-{row.season}-{row.user_class}", row),
    )


def _clock(text: str) -> int:
    """Return minutes since midnight of ``08:30``; 24:00 is the day's end."""
    hours, _, minutes = text.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and len(minutes) == 2):
        raise ValueError(f'"{text}" is not a time of day (write 08:30)')
    clock = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or clock > 1440:
        raise ValueError(f'"{text}" is not a time of day (write 08:30)')
    return clock


def _day(text: str, otherwise: int) -> int:
    return (date.fromisoformat(text) - _EPOCH).days if text else otherwise


def _check_overlaps(path: str, rows: Sequence[tuple[str, str, Band]], faults: list[Fault]) -> None:
    """Report bands of one user class and edition that hold at the same time."""
    groups: dict[tuple[str, str, int, int, int], list[Band]] = {}
    for kind, year, band in rows:
        for month in band.months:
            groups.setdefault((kind, year, band.first, band.last, month), []).append(band)
    told: set[tuple[str, ...]] = set()
    for (kind, year, *_), bands in groups.items():
        for one, other in pairwise(sorted(bands, key=lambda band: band.start)):
            said = year, kind, one.band, other.band
            if other.start < one.end and said not in told:
                told.add(said)
                when = f"{other.start // 60:02d}:{other.start % 60:02d}"
                message = f"{year} {kind}: {one.band} and {other.band} overlap at {when}"
                faults.append(Fault(path, 1, 1, message))


def _whole(table: Table[T], folders: Sequence[Path], faults: list[Fault]) -> list[tuple[T, F]]:
    """Return rows with their numbers by column; one without all of them is a mistake."""
    found: list[tuple[T, F]] = []
    for row in read_table(table, folders, faults):
        numbers = {name: getattr(row, name) for name in table.numbers}
        missing = sorted(name for name, number in numbers.items() if number is None)
        if missing:
            line = int(row.place.rpartition(":")[2])
            faults.append(Fault(table.path, line, 1, f"{', '.join(missing)}: must have a number"))
        else:
            found.append((row, {name: float(number) for name, number in numbers.items()}))
    return found


def _adjustments(folders: Sequence[Path], faults: list[Fault]) -> dict[int, Adjustment]:
    pieces: dict[int, list[tuple[StepRow, AdjustmentStep]]] = {}
    for row, n in _whole(_STEPS, folders, faults):
        low, high = round(n["low"] * 100), round(n["high"] * 100)
        step = AdjustmentStep(low, high, n["at_high_pct"], n["per_hundredth_pct"])
        pieces.setdefault(round(n["standard"] * 100), []).append((row, step))
    found: dict[int, Adjustment] = {}
    for standard, own in pieces.items():
        steps = sorted((step for _, step in own), key=lambda step: step.low, reverse=True)
        if [s.high for s in steps] != [100, *(s.low for s in steps[:-1])] or steps[-1].low:
            message = f"the pieces of {standard / 100:.2f} must join and go from 1.00 to 0.00"
            faults.append(Fault(_STEPS.path, 1, 1, message))
        worst = min((row for row, _ in own), key=lambda row: row.approved)
        name = f"{standard / 100:.2f}"
        found[standard] = Adjustment(name, tuple(steps), _source("power_factor", name, worst))
    return found


def _rules(folders: Sequence[Path], faults: list[Fault]) -> dict[str, DemandRule]:
    return {
        row.id: DemandRule(
            n["tolerance"],
            n["excess_factor"],
            n["minimum_share"],
            _source("demand_rules", row.id, row),
        )
        for row, n in _whole(_RULES, folders, faults)
    }
