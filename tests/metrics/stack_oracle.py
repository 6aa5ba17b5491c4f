"""Hours, days, months and years of a stack, slow and obvious, from rows of the shorter window.

Rows are ``{end_ns: {column: (value or None, quality)}}`` as in ``oracle``. Everything is looked
back at from the beginning for each row; nothing of ``edge_agent.metrics`` is used.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tests.metrics.oracle import (
    BAD,
    GOOD,
    LIMITS,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    UNCERTAIN,
    Cell,
    Result,
    graded,
    quotient,
)

HOUR = 60 * MINUTE
SUBSTITUTED = 67
Row = Mapping[str, Cell]
Window = tuple[int, int, float]  # start, end, rows expected


@dataclass
class Stack:
    """What the stack of an example has; the limit of a gas on a day as functions of its start."""

    gases: Sequence[str]
    zone: ZoneInfo
    flow: bool = True
    condition: bool = False
    stops: bool = True
    output: bool = False
    hourly: Mapping[str, Callable[[int], float | None]] = field(default_factory=dict)
    daily: Mapping[str, Callable[[int], float | None]] = field(default_factory=dict)

    def means(self) -> list[str]:
        found = [f"{gas}{s}" for gas in self.gases for s in ("", "_corrected")]
        found += [f"{gas}_judged" for gas in self.gases if self.condition]
        return [*found, "o2"]


def local(zone: ZoneInfo, ns: int) -> datetime:
    return datetime.fromtimestamp(ns // 1_000_000_000, zone)


def ns_of(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000


def midnight(day: datetime) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=day.tzinfo)


def hour_of(_zone: ZoneInfo, end: int) -> Window:
    start = (end - 1) // HOUR * HOUR
    return start, start + HOUR, 60.0


def day_of(zone: ZoneInfo, end: int) -> Window:
    begin = midnight(local(zone, end - 1))
    after = midnight(begin + timedelta(days=1, hours=6))
    return ns_of(begin), ns_of(after), (ns_of(after) - ns_of(begin)) / HOUR


def month_of(zone: ZoneInfo, end: int) -> Window:
    begin = midnight(local(zone, end - 1)).replace(day=1)
    after = (begin + timedelta(days=40)).replace(day=1)
    days = (after.replace(tzinfo=None) - begin.replace(tzinfo=None)).days
    return ns_of(begin), ns_of(after), float(days)


def year_of(zone: ZoneInfo, end: int) -> Window:
    begin = midnight(local(zone, end - 1)).replace(month=1, day=1)
    return ns_of(begin), ns_of(begin.replace(year=begin.year + 1)), 12.0


def grouped(
    rows: Result, zone: ZoneInfo, window: Callable[[ZoneInfo, int], Window]
) -> Iterable[tuple[Window, list[tuple[int, Row]]]]:
    groups: dict[Window, list[tuple[int, Row]]] = {}
    for end, cells in rows.items():
        groups.setdefault(window(zone, end), []).append((end, cells))
    return groups.items()


def merged(
    stack: Stack, rows: list[tuple[int, Row]], expected: float, names: Iterable[str], longer: bool
) -> tuple[dict[str, Cell], dict[str, int]]:
    """Means and sums of rows, without any rule of validity; how many rows each is made of.

    longer  the rows are hours or more: what an hour lacks of an amount, its day lacks, too
    """
    cells: dict[str, Cell] = {}
    count: dict[str, int] = {}
    for name in names:
        total, known, worst, why = 0.0, 0, GOOD, GOOD
        for _, row in rows:
            value, quality = row[name]
            if value is None:
                why = max(why, quality)
                continue
            total, known = total + value, known + 1
            share = (row["coverage"][0] or 0.0) + (row["estimated"][0] or 0.0)
            own = longer and name not in stack.means() and name != "o2"
            if own or not (share < LIMITS[0] and quality == UNCERTAIN):
                worst = max(worst, quality)
        count[name] = known
        quality = worst if known else why or MISSING
        if name in stack.means():
            cells[name] = (total / max(known, 1), graded(quality, known / expected))
        elif known / expected < LIMITS[0]:
            cells[name] = (total, max(quality, UNCERTAIN))
        else:
            cells[name] = (total, quality)
    return cells, count


def bare(cells: dict[str, Cell]) -> dict[str, Cell]:
    return {name: (None, q) if q >= BAD else (v, q) for name, (v, q) in cells.items()}


def judge(
    stack: Stack,
    cells: dict[str, Cell],
    start: int,
    letter: str,
    limits: Mapping[str, Callable[[int], float | None]],
) -> None:
    for gas, allowed in limits.items():
        value, quality = cells[f"{gas}_judged" if stack.condition else f"{gas}_corrected"]
        limit = allowed(start)
        over = value is not None and limit is not None and value > limit * (1 + 1e-12)
        if limit is None:
            quality = max(quality, NOT_AVAILABLE)
        cells[f"{gas}_limit"] = (limit, GOOD if limit is not None else NOT_AVAILABLE)
        cells[f"{gas}_exceeded"] = (float(over), quality)
        judged = quality < BAD
        cells[f"{gas}_judged_{letter}"] = (float(judged), GOOD)
        cells[f"{gas}_exceeded_{letter}"] = (float(over and judged), GOOD)


def per_tonne(stack: Stack, cells: dict[str, Cell]) -> None:
    if not stack.output:
        return
    made, mark = cells["output_t"]
    for gas in stack.gases:
        mass, quality = cells[f"{gas}_mass_kg"]
        more, doubt = cells[f"{gas}_mass_substituted_kg"]
        doubt = UNCERTAIN if doubt >= BAD else doubt
        total = (mass or 0.0) + (more or 0.0)
        cells[f"{gas}_kg_per_t"] = quotient(total, made or 0.0, max(quality, doubt, mark))


@dataclass
class Past:
    """An hour that is over: its start, kg of each gas or None, whether the plant stood."""

    start: int
    masses: Mapping[str, float | None]
    stopped: bool


def looked_back(gas: str, past: Sequence[Past], zone: ZoneInfo) -> tuple[float, float | None]:
    """Rate of the quarter and substitute of the last hour, by looking at every hour before it."""
    now = past[-1]
    moment = local(zone, now.start)
    first = midnight(moment).replace(month=(moment.month - 1) // 3 * 3 + 1, day=1)
    after = (first + timedelta(days=100)).replace(day=1)
    start, end = ns_of(first), ns_of(after)
    gap = 0
    for hour in reversed(past):
        if hour.masses[gas] is not None and not hour.stopped:
            break
        gap += 1
    valid = [h.masses[gas] for h in past if h.masses[gas] is not None and not h.stopped]
    stops = invalid = length = 0
    given: list[float] = []
    rate, last = 1.0, None
    for i, hour in enumerate(past):  # all of the quarter; of the gap, what each hour was given
        in_gap = i >= len(past) - gap
        lost = hour.masses[gas] is None and not hour.stopped
        length += in_gap and lost
        if not start <= hour.start < end:
            continue
        stops, invalid = stops + hour.stopped, invalid + lost
        hours = (end - start) // HOUR - stops
        rate = (hours - invalid) / hours
        if not in_gap or not lost:
            continue
        last = None
        if rate >= 0.75:
            searched = 2160 if rate < 0.9 else 180 if length <= 24 else 720
            last = max(valid[-searched:], default=None)
        if last is not None:
            last += max(0.0, len(given) * last - sum(given))
            given.append(last)
    if now.stopped or now.masses[gas] is not None:
        return rate, 0.0
    return rate, last


def hours(stack: Stack, minutes: Result) -> Result:
    """Hour rows from minute rows."""
    found: Result = {}
    past: list[Past] = []
    for (start, end, expected), rows in grouped(minutes, stack.zone, hour_of):
        names = [n for n in rows[0][1] if n not in {"coverage", "estimated"}]
        names = [n for n in names if not n.endswith("_kg_per_t")]
        cells, count = merged(stack, rows, expected, names, False)
        for name in stack.means():
            if name in cells and count[name] < 45 and cells[name][1] < BAD:
                cells[name] = (None, MISSING)
        stopped = stack.stops and (cells["stopped_min"][0] or 0.0) > 15
        hour = Past(start, {}, stopped)
        masses: dict[str, float | None] = {}
        for gas in stack.gases:
            mass = f"{gas}_mass_kg"
            valid = count[gas] >= 45 and not stopped and (not stack.flow or count[mass] >= 45)
            whole = 0.0
            if stack.flow and valid:
                whole = (cells[mass][0] or 0.0) * 60 / count[mass]
                cells[mass] = (whole, cells[mass][1])
            masses[gas] = whole if valid else None
        hour.masses = masses
        past.append(hour)
        cells = bare(cells)
        stood = dict.fromkeys(stack.gases, True)
        for gas in stack.gases:
            rate, substitute = looked_back(gas, past, stack.zone)
            cells[f"{gas}_valid_h"] = (float(masses[gas] is not None), GOOD)
            cells[f"{gas}_capture_rate"] = (rate, GOOD)
            stood[gas] = substitute is not None
            if stack.flow:
                name = f"{gas}_mass_substituted_kg"
                if substitute is None:
                    cells[name] = (None, NOT_AVAILABLE)
                elif masses[gas] is None and substitute > 0:
                    lacking = max(0.0, substitute - (cells[f"{gas}_mass_kg"][0] or 0.0))
                    cells[name] = (lacking, SUBSTITUTED)
                else:
                    cells[name] = (0.0, GOOD)
        if stack.stops:
            cells["stopped_h"] = (float(stopped), GOOD)
        judge(stack, cells, start, "h", stack.hourly)
        per_tonne(stack, cells)
        covered = sum(round((row["coverage"][0] or 0.0) * MINUTE) for _, row in rows)
        estimated = 0
        if stack.flow and not stopped and all(stood.values()):
            known = min(count[f"{gas}_mass_kg"] for gas in stack.gases)
            estimated = min(round((60 - known) * MINUTE), HOUR - covered)
        cells |= {"coverage": (covered / HOUR, GOOD), "estimated": (estimated / HOUR, GOOD)}
        found[end] = bare(cells)
    return found


def longer(stack: Stack, rows: Result, level: str) -> Result:
    """Day, month or year rows from those of the shorter window."""
    window = {"1d": day_of, "1mo": month_of, "1a": year_of}[level]
    shorter = {"1d": hour_of, "1mo": day_of, "1a": month_of}[level]
    found: Result = {}
    for (start, end, expected), inside in grouped(rows, stack.zone, window):
        left_out = ("_limit", "_exceeded", "_capture_rate", "_kg_per_t", "coverage", "estimated")
        names = [name for name in inside[0][1] if not name.endswith(left_out)]
        cells, count = merged(stack, inside, expected, names, True)
        least = 20 if level == "1d" else 23 if expected < 29.5 else 25
        for name in stack.means():
            if level != "1a" and name in cells and count[name] < least and cells[name][1] < BAD:
                cells[name] = (None, MISSING)
        length = end - start
        running = length / HOUR - ((cells["stopped_h"][0] or 0.0) if stack.stops else 0.0)
        for gas in stack.gases:
            valid = cells[f"{gas}_valid_h"][0] or 0.0
            cells[f"{gas}_capture_rate"] = quotient(valid, running, GOOD)
            if level == "1d":
                cells[f"{gas}_valid_d"] = (float(count[gas] >= 20), GOOD)
        cells = bare(cells)
        if level == "1d":
            judge(stack, cells, start, "d", stack.daily)
        per_tonne(stack, cells)
        for share in ("coverage", "estimated"):
            spent = 0
            for e, row in inside:
                begin, stop, _ = shorter(stack.zone, e)
                spent += round((row[share][0] or 0.0) * (stop - begin))
            cells[share] = (spent / length, GOOD)
        found[end] = bare(cells)
    return found
