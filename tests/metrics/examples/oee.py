"""The example of ``oee`` that the laws run on, and its oracle."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from operator import itemgetter

from edge_agent.metrics.oee import OeeConfig
from edge_agent.model import SampleBlock
from edge_agent.units import Duration
from tests.metrics.examples import WINDOWS
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    MINUTE,
    MISSING,
    Cell,
    Joined,
    Part,
    Result,
    Row,
    Span,
    Stream,
    find,
    graded,
    holding,
    of_spans,
    quotient,
    summed_quality,
)
from tests.metrics.plants import as_streams

STATES = {"producing": (1,), "idle": (2,), "fault": (3,), "setup": (4,), "planned_stop": (5,)}
CONFIG = OeeConfig(
    state="packer.state",
    states=STATES,
    produced="packer.bags",
    rejected="packer.reject",
    ideal_cycle=Duration(1.5),
    windows=WINDOWS,
)
SUMS = ("apt_s", "pbt_s", "adot_s", "produced", "good")


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    return oee(
        as_streams(rows),
        state="packer.state",
        states=STATES,
        produced="packer.bags",
        rejected="packer.reject",
        ideal_cycle=1.5,
        spans=spans,
    )


def oee(
    streams: Sequence[tuple[str, Stream]],
    *,
    state: str,
    states: Mapping[str, Sequence[int]],
    produced: str,
    rejected: str | None,
    ideal_cycle: float,
    spans: Sequence[Span] | None = None,
) -> Result:
    """OEE rows; ``states`` maps producing, idle, fault, setup, planned_stop to numbers."""
    joined = Joined(streams)
    rows = joined.readings(state)
    period = find(streams, state).period
    made = joined.increments(produced)
    scrap = joined.increments(rejected) if rejected else None

    def rows_of(end: int) -> Sequence[Row]:
        low = bisect_left(rows, end - MINUTE - round(3e9 * period), key=itemgetter(0))
        return rows[max(low - 1, 0) : bisect_left(rows, end, key=itemgetter(0)) + 1]

    meaning = {number: name for name, numbers in states.items() for number in numbers}
    parts = {}
    for end in joined.ends():
        spent = dict.fromkeys(("producing", "setup", "fault", "idle", "planned_stop"), 0)
        worst = 0
        for value, quality, ns, t in holding(rows_of(end), period, end - MINUTE, end):
            if value in meaning:
                spent[meaning[value]] += ns
            worst = max(worst, quality if ns or t >= end - MINUTE else 0)
        busy = sum(spent.values()) - spent["planned_stop"]
        times = {"apt_s": spent["producing"], "pbt_s": busy, "aust_s": spent["setup"]}
        times |= {"adet_s": spent["fault"], "adot_s": spent["idle"]}
        covered = sum(spent.values())
        seen = int(covered > 0)
        part = Part({}, {}, {}, covered, 0)
        for name, ns in times.items():
            part.total[name], part.known[name] = Fraction(ns), seen
            part.worst[name] = worst if seen else MISSING
        (count, quality), full, part.estimated = made.get(end, ABSENT)
        part.covered = min(part.covered, full)
        counts = {"produced": (count, quality)}
        if scrap is not None:
            (bad, mark), full, guessed = scrap.get(end, ABSENT)
            part.covered, part.estimated = min(part.covered, full), max(part.estimated, guessed)
            quality = max(quality, mark)
            counts["good"] = ((count or 0.0) - (bad or 0.0), quality)
        else:
            counts["good"] = (count, quality)
        for name, (value, mark) in counts.items():
            known = mark < BAD
            part.total[name] = Fraction(value) if known else Fraction(0)
            part.known[name], part.worst[name] = int(known), mark
        part.estimated = min(part.estimated, MINUTE - part.covered)
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        q = {name: summed_quality(part, name) for name in part.total}
        n = {name: float(total) for name, total in part.total.items()}
        seconds = {name: n[name] / 1e9 for name in n if name.endswith("_s")}
        cells: dict[str, Cell] = {name: (seconds.get(name, n[name]), q[name]) for name in n}
        apt, share = seconds["apt_s"], part.share()
        a = quotient(apt, seconds["pbt_s"], graded(q["apt_s"], share))
        e = quotient(
            ideal_cycle * n["produced"], apt, graded(max(q["apt_s"], q["produced"]), share)
        )
        r = quotient(n["good"], n["produced"], graded(max(q["produced"], q["good"]), share))
        product = None if None in (a[0], e[0], r[0]) else a[0] * e[0] * r[0]
        ratios = {"availability": a, "effectiveness": e, "quality_ratio": r}
        return cells | ratios | {"oee": (product, max(a[1], e[1], r[1]))}

    return of_spans(parts, spans, derive)
