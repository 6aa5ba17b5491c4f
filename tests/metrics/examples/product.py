"""The example of ``product`` that the laws run on, and its oracle; that of its batches, too."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, nan
from operator import itemgetter

from edge_agent.metrics.energy import CarrierInput, EnergyConfig
from edge_agent.metrics.product import ProductConfig, ProductTag
from edge_agent.model import SampleBlock
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    ESTIMATED,
    LIMITS,
    MINUTE,
    MISSING,
    UNCERTAIN,
    Cell,
    Joined,
    Part,
    Result,
    Row,
    Span,
    find,
    graded,
    of_spans,
    quotient,
    summed_quality,
    usable,
)
from tests.metrics.plants import as_streams

PRODUCTS = {"cement-425": (1, 3), "cement-525": (2,), "slag": (4, 7)}
CONFIG = ProductConfig(
    of="boundary",
    by=ProductTag(tag="packer.state", products=PRODUCTS),
    batch="packer.state",
    windows=("1min", "15min", "1d", "12mo"),
)
OTHERS = {
    "boundary": EnergyConfig(  # a kilogram is a kgce, so that nothing is rounded on the way
        inputs={"raw-coal": CarrierInput(tags=("scale.mass",), lhv="29.3076 MJ/kg")},
        output="scale.mass",
        windows=("1min",),
    )
}
NAMES = (*PRODUCTS, "unknown")
SUMS = ("kgce_cement-425", "output_unknown", "total_kgce")
MEANING = {float(n): name for name, numbers in PRODUCTS.items() for n in numbers}
FINE = Fraction(2) ** 36


@dataclass
class Stretch:
    """A part of a minute in which the tag held one value; None: it was silent."""

    begin: int
    end: int
    value: float | None


def stretches(rows: Sequence[Row], period: float, end: int) -> tuple[list[Stretch], int]:
    """The stretches of a minute without a hole, and the worst quality of the rows that hold."""
    found: list[Stretch] = []
    worst, at = 0, end - MINUTE
    low = bisect_left(rows, at - 4 * round(period * 1e9), key=itemgetter(0))
    for i in range(max(low - 1, 0), len(rows)):
        t, value, quality = rows[i]
        if t >= end:
            break
        following = rows[i + 1][0] if i + 1 < len(rows) else inf
        begin, until = max(t, end - MINUTE), min(following, t + round(3 * period * 1e9), end)
        if not usable(value, quality) or until <= begin:
            continue
        found += [Stretch(at, begin, None)] if begin > at else []
        if found and found[-1].value == value and found[-1].end == begin:
            found[-1].end = int(until)
        else:
            found.append(Stretch(begin, int(until), value))
        worst, at = max(worst, quality), int(until)
    return ([*found, Stretch(at, end, None)] if at < end else found), worst


def shares(amount: float, spans: Sequence[int]) -> list[Fraction]:
    """The parts of a minute's amount by time, in whole steps of 2**-36, with the whole exactly."""
    whole = Fraction(round(amount * FINE)) / FINE
    found, upto, before = [], 0, Fraction()
    for i, span in enumerate(spans):
        upto += span
        reached = Fraction(round(float(whole) * (upto / MINUTE) * float(FINE))) / FINE
        reached = whole if i == len(spans) - 1 else reached
        found.append(reached - before)
        before = reached
    return found


def minutes(
    rows: Mapping[str, SampleBlock],
) -> Iterator[tuple[int, tuple[Cell, Cell, int, int], list[Stretch], int]]:
    """Each minute: its end, energy, output, covered and estimated ns; the stretches and worst."""
    joined = Joined(as_streams(rows))
    counted, state = joined.increments("scale.mass"), joined.readings("packer.state")
    period = find(joined.streams, "packer.state").period
    for end in joined.ends():
        (value, quality), covered, estimated = counted.get(end, ABSENT)
        coal = round((value or 0.0) * 2.0**26) / 2.0**26
        made = round((value or 0.0) * 1e-3 * 2.0**36) / 2.0**36
        told = (coal, quality), (made, quality), covered, min(estimated, MINUTE - covered)
        yield end, told, *stretches(state, period, end)


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    parts: dict[int, Part] = {}
    stream = find(as_streams(rows), "packer.state")
    known_rows = [(t, v if v in MEANING else nan, q) for t, v, q in stream.rows["state"]]
    for end, (coal, made, covered, estimated), inside, _ in minutes(rows):
        # rows whose number means no product do not count for the quality
        doubt = stretches(known_rows, stream.period, end)[1]
        time = dict.fromkeys(NAMES, 0)
        for s in inside:
            time[MEANING.get(s.value, "unknown")] += s.end - s.begin
        shared = sum(1 for ns in time.values() if ns) > 1
        told = min(covered + estimated, MINUTE - time["unknown"])
        part = parts[end] = Part({}, {}, {}, 0, told if shared else min(told, estimated))
        part.covered = told - part.estimated
        for kind, total, (value, mark) in (
            ("kgce", "total_kgce", coal),
            ("output", "output_t", made),
        ):
            known = mark < BAD
            given = shares(value if known else 0.0, list(time.values()))
            for name, amount in zip(NAMES, given, strict=True):
                part.total[f"{kind}_{name}"] = amount
                worst = max(mark, doubt, ESTIMATED if shared else 0)
                part.worst[f"{kind}_{name}"] = worst if known else mark
                part.known[f"{kind}_{name}"] = int(known)
            part.total[total], part.known[total] = sum(given), int(known)
            part.worst[total] = mark

    def derive(part: Part) -> dict[str, Cell]:
        q = {name: summed_quality(part, name) for name in part.total}
        n = {name: float(value) for name, value in part.total.items()}
        cells: dict[str, Cell] = {name: (n[name], q[name]) for name in n}
        for name in PRODUCTS:
            over, under = f"kgce_{name}", f"output_{name}"
            cells[f"intensity_{name}"] = quotient(n[over], n[under], max(q[over], q[under]))
        return cells

    return of_spans(parts, spans, derive)


def batches(rows: Mapping[str, SampleBlock]) -> Result:
    """The rows of the stream ``kpi/batch``."""
    result: Result = {}
    run: dict[str, object] | None = None
    gap = [Fraction(), Fraction(), Fraction()]
    for _, (coal, made, covered, estimated), inside, doubt in minutes(rows):
        amounts = [
            shares(value if mark < BAD else 0.0, [s.end - s.begin for s in inside])
            for value, mark in (coal, made)
        ]
        for i, s in enumerate(inside):
            own = [amounts[0][i], amounts[1][i]]
            if s.value is None:
                gap = [a + b for a, b in zip(gap, [*own, Fraction(s.end - s.begin)], strict=True)]
                continue
            if run is None or run["value"] != s.value:
                seen = run is not None and run["end"] == s.begin
                if run is not None:
                    result[run["end"]] = closed(run, seen)
                run = {"value": s.value, "begin": s.begin, "seen": seen, "unknown": gap}
                run |= {"sum": [Fraction(), Fraction()], "marks": [], "shared": 0}
                run |= {"covered": 0, "estimated": 0}
            else:
                run["unknown"] = [a + b for a, b in zip(run["unknown"], gap, strict=True)]
            gap = [Fraction(), Fraction(), Fraction()]
            run["end"] = s.end
            run["sum"] = [a + b for a, b in zip(run["sum"], own, strict=True)]
            length, mixed = s.end - s.begin, len(inside) > 1
            known = round((covered + estimated) * length / MINUTE)
            guessed = known if mixed else round(estimated * length / MINUTE)
            run["covered"] += known - guessed
            run["estimated"] += guessed
            run["shared"] += length if mixed else 0
            thin = covered + estimated < LIMITS[0] * MINUTE
            run["marks"].append([(q, thin, doubt) for _, q in (coal, made)])
    return result


def closed(run: dict[str, object], seen: bool) -> dict[str, Cell]:
    """The row of a batch that has ended; seen: whether another followed it at once."""
    length = run["end"] - run["begin"]
    share = (run["covered"] + run["estimated"]) / length
    extra = 0 if run["seen"] and seen else UNCERTAIN
    extra = ESTIMATED if run["shared"] > (1 - LIMITS[0]) * length else extra
    marks = []
    for j in range(2):
        told = [marks[j] for marks in run["marks"]]
        good = [(q, thin, doubt) for q, thin, doubt in told if q < BAD]
        worst = max((max(q, d) for q, thin, d in good if not (thin and q == UNCERTAIN)), default=0)
        partly = len(good) < len(told) or share < LIMITS[0]
        worst = max(worst, extra, UNCERTAIN if partly else 0)
        marks.append(worst if good else MISSING)
    coal, made = (float(amount) for amount in run["sum"])
    cells: dict[str, Cell] = {
        "batch": (run["value"], 0),
        "start_s": (run["begin"] / 1e9, 0),
        "duration_s": (length / 1e9, 0),
        "total_kgce": (coal if marks[0] < BAD else None, marks[0]),
        "output_t": (made if marks[1] < BAD else None, marks[1]),
        "unknown_kgce": (float(run["unknown"][0]), 0),
        "unknown_output": (float(run["unknown"][1]), 0),
        "unknown_s": (float(run["unknown"][2]) / 1e9, 0),
        "coverage": (run["covered"] / length, 0),
        "estimated": (run["estimated"] / length, 0),
    }
    cell = quotient(coal, made, graded(max(marks), share))
    return cells | {"intensity": (None, cell[1]) if cell[1] >= BAD else cell}
