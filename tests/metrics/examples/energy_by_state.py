"""The example of ``energy-by-state`` that the laws run on, and its oracle."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import inf

from edge_agent.metrics.by_state import EnergyByStateConfig
from edge_agent.model import SampleBlock
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    ESTIMATED,
    LIMITS,
    MINUTE,
    MISSING,
    Cell,
    Joined,
    Part,
    Result,
    Row,
    Span,
    find,
    graded,
    integrals,
    of_spans,
    quotient,
    slots,
    summed_quality,
    usable,
)
from tests.metrics.plants import as_streams

STATES = {"producing": (1,), "idle": (2,), "fault": (3, 6), "setup": (4,)}
CONFIG = EnergyByStateConfig(
    energy=("em-b.energy", "em-b.power"),
    state="packer.state",
    states=STATES,
    windows=("1min", "15min", "1d", "12mo"),
)
NAMES = (*STATES, "unknown")
SUMS = ("producing_kwh", "unknown_kwh", "total_kwh", "fault_s")
MEANING = {number: name for name, numbers in STATES.items() for number in numbers}
Stretch = tuple[int, int, str]  # from, until, state


def stretches(rows: Sequence[Row], period: float, start: int) -> tuple[list[Stretch], int]:
    """The states of a minute in their order without a hole, and the worst quality of their rows."""
    found: list[Stretch] = []
    worst, at, end = 0, start, start + MINUTE
    low = bisect_left(rows, start - 4 * round(period * 1e9), key=lambda row: row[0])
    for i in range(max(low - 1, 0), len(rows)):
        t, value, quality = rows[i]
        following = rows[i + 1][0] if i + 1 < len(rows) else inf
        begin, until = max(t, start), min(following, t + round(3 * period * 1e9), end)
        if t >= end:
            break
        if usable(value, quality) and value in MEANING and until > begin:
            found += [(at, begin, "unknown")] if begin > at else []
            found.append((begin, int(until), MEANING[value]))
            worst, at = max(worst, quality), int(until)
    return [*found, (at, end, "unknown")] if at < end else found, worst


@dataclass
class Share:
    """What a meter has counted in a minute by state, in its own unit."""

    amounts: dict[str, Fraction] = field(default_factory=lambda: dict.fromkeys(NAMES, Fraction()))
    shared: int = 0


def by_time(amount: float, parts: Sequence[Stretch], grid: float, *, known: bool) -> Share:
    share = Share()
    spans = {name: sum(u - b for b, u, s in parts if s == name) for name in NAMES}
    if not known:
        spans = dict.fromkeys(NAMES, 0) | {"unknown": MINUTE}
    share.shared = MINUTE if sum(1 for ns in spans.values() if ns) > 1 else 0
    upto, before = 0, 0.0
    for name in NAMES:
        upto += spans[name]
        reached = round(amount * (upto / MINUTE) / grid) * grid
        reached = amount if name == "unknown" else reached
        share.amounts[name], before = Fraction(reached) - Fraction(before), reached
    return share


def by_readings(
    rows: Sequence[Row],
    parts: Sequence[Stretch],
    border: tuple[float, float],
    quality: int,
    grid: float,
) -> Share:
    """What was counted between the readings of a minute, by the states between them."""
    start, end = parts[0][0], parts[-1][1]
    low = bisect_left(rows, start + 1, key=lambda row: row[0])
    readings = [(start, border[0])]
    for t, value, q in rows[low:]:
        if t >= end:
            break
        if usable(value, q):
            if readings[-1][0] == t:
                readings.pop()
            readings.append((t, round(value / grid) * grid))
    readings.append((end, border[1]))
    late = quality >= ESTIMATED and not (low and usable(*rows[low - 1][1:]))
    if any(r1 < r0 for (_, r0), (_, r1) in pairwise(readings)):
        return by_time(border[1] - border[0], parts, grid, known=quality < ESTIMATED)
    share = Share()
    for i, ((t0, r0), (t1, r1)) in enumerate(pairwise(readings)):
        inside = [(max(b, t0), min(u, t1), s) for b, u, s in parts if max(b, t0) < min(u, t1)]
        before = r0
        for _, until, state in inside:
            reached = round((r0 + (r1 - r0) * ((until - t0) / (t1 - t0))) / grid) * grid
            known = state if i or not late else "unknown"
            share.amounts[known] += Fraction(reached) - Fraction(before)
            before = reached
        if len({s for _, _, s in inside}) > 1 and (i or not late):
            share.shared += t1 - t0
    return share


def integrated(rows: Sequence[Row], parts: Sequence[Stretch], period: float) -> Share:
    """The trapezoid of a power in kW, by state, in kWh."""
    share = Share()
    amounts = dict.fromkeys(NAMES, 0.0)
    low = bisect_left(rows, parts[0][0] - round(4e9 * period), key=lambda row: row[0])
    high = bisect_left(rows, parts[-1][1] + round(4e9 * period), key=lambda row: row[0])
    good = [(t, v) for t, v, q in rows[max(low - 1, 0) : high + 1] if usable(v, q)]
    for (t0, v0), (t1, v1) in pairwise(good):
        if not 0 < t1 - t0 <= round(3 * period * 1e9):
            continue
        for begin, until, state in parts:
            b, u = max(begin, t0), min(until, t1)
            if b < u:
                middle = v0 + (v1 - v0) / (t1 - t0) * ((b - t0 + u - t0) / 2)
                amounts[state] += middle * ((u - b) / 1e9) / 3600
    share.amounts = {name: Fraction(amount) for name, amount in amounts.items()}
    return share


def in_kwh(share: Share, total: float) -> dict[str, Fraction]:
    """The parts on the grid of amounts, with the whole exactly."""
    fine = Fraction(2) ** 26
    found, upto, before = {}, Fraction(), Fraction()
    for name in NAMES:
        upto += share.amounts[name]
        exact = upto if name != "unknown" else Fraction(total)
        reached = round(float(exact) * fine) / fine
        found[name], before = reached - before, reached
    return found


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    streams = as_streams(rows)
    joined = Joined(streams)
    counted = joined.increments("em-b.energy")
    state, meter = joined.readings("packer.state"), find(streams, "em-b.energy")
    power, registers = integrals(meter, "power", 3600.0), slots(meter)
    parts = {}
    for end in joined.ends():
        inside, doubt = stretches(state, find(streams, "packer.state").period, end - MINUTE)
        known = sum(u - b for b, u, s in inside if s != "unknown")
        amounts, shared = dict.fromkeys(NAMES, Fraction()), 0
        (value, mark), covered, guessed = counted.get(end, ABSENT)
        quality, told = mark, min(known, covered + guessed)
        if mark < BAD:
            last = registers[end]["energy.reading"][0]
            border = (last - value, last)
            own = by_readings(meter.rows["energy"], inside, border, mark, 2.0**-20)
            shared = own.shared
            for s, amount in in_kwh(own, value).items():
                amounts[s] += amount
        total, mark, covered = power.get(end, (0.0, MISSING, 0))
        own = integrated(meter.rows["power"], inside, meter.period)
        for s, amount in in_kwh(own, total).items():
            amounts[s] += amount
        quality, told = max(quality, mark), min(told, covered)
        parts[end] = part = Part({}, {}, {}, 0, min(told, max(guessed, shared)))
        part.covered = told - part.estimated
        split = max(quality, doubt, ESTIMATED if shared > (1 - LIMITS[0]) * MINUTE else 0)
        numbers = {f"{s}_kwh": (amount, split) for s, amount in amounts.items()}
        numbers["total_kwh"] = (sum(amounts.values()), quality)
        for s in STATES:
            ns = sum(u - b for b, u, name in inside if name == s)
            numbers[f"{s}_s"] = (Fraction(ns), doubt if known else MISSING)
        for name, (value, worst) in numbers.items():
            part.total[name] = value if worst < BAD else Fraction()
            part.known[name], part.worst[name] = int(worst < BAD), worst

    def derive(part: Part) -> dict[str, Cell]:
        q = {name: summed_quality(part, name) for name in part.total}
        n = {k: float(v) / (1e9 if k.endswith("_s") else 1.0) for k, v in part.total.items()}
        cells: dict[str, Cell] = {name: (n[name], q[name]) for name in n}
        told = sum(n[f"{s}_kwh"] for s in STATES)
        worst = graded(max(q[f"{s}_kwh"] for s in NAMES), part.share())
        cells["not_producing_share"] = quotient(told - n["producing_kwh"], told, worst)
        worst = graded(max(q["idle_kwh"], q["idle_s"]), part.share())
        cells["standby_kw"] = quotient(n["idle_kwh"] * 3600, n["idle_s"], worst)
        return cells

    return of_spans(parts, spans, derive)
