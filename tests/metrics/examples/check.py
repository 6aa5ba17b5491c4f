"""The example of ``check`` that the laws run on, and its oracle."""

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

from edge_agent.metrics.check import CheckConfig
from edge_agent.model import SampleBlock
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    LIMITS,
    MINUTE,
    MISSING,
    UNCERTAIN,
    Cell,
    Joined,
    Part,
    Result,
    Span,
    find,
    graded,
    of_spans,
    slots,
    summed_quality,
)
from tests.metrics.plants import as_streams

CONFIG = CheckConfig(
    counter="em-a.energy",
    power="em-a.power",
    tolerance=0.1,
    windows=("1min", "15min", "1h", "1d"),
)
SUMS = ("counted", "integrated")
COUNT = 1e-5  # kWh: the register begins again at 1000


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    streams = as_streams(rows)
    joined = Joined(streams)
    counter = joined.increments("em-a.energy")
    held = slots(find(streams, "em-a.power"))
    parts = {}
    for end in joined.ends():
        (increment, quality), covered, estimated = counter.get(end, ABSENT)
        cells = held.get(end, {})
        mean, mark = cells.get("power.mean", (None, MISSING))
        ns = round((cells.get("power.coverage", (0.0, 0))[0] or 0.0) * MINUTE)
        enough = LIMITS[0] * MINUTE
        both = quality < UNCERTAIN and not estimated and covered >= enough
        both = both and mark < BAD and ns >= enough
        worst = max(quality, mark)
        worst = worst if both or worst >= BAD else MISSING
        integrated = Fraction(round((mean or 0.0) / 60 * 2**26), 2**26)
        part = Part({}, {}, {}, min(covered, ns), 0)
        part.estimated = min(estimated, MINUTE - part.covered)
        part.total = {
            "counted": Fraction(increment or 0.0) if both else Fraction(0),
            "integrated": integrated if both else Fraction(0),
        }
        part.known = dict.fromkeys(part.total, int(both))
        part.worst = dict.fromkeys(part.total, worst)
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        cells: dict[str, Cell] = {}
        for name, total in part.total.items():
            cells[name] = (float(total), summed_quality(part, name))
        counted, integrated = (float(total) for total in part.total.values())
        larger, apart = max(abs(counted), abs(integrated)), counted - integrated
        known = part.known["counted"]
        quality = graded(cells["counted"][1], known / part.minutes)
        allowed = 0.1 * larger + 2 * COUNT * min(known, ceil(part.minutes) - known + 1)
        cells["deviation"] = (apart / larger if larger else 0.0, quality)
        return cells | {"disagrees": (float(abs(apart) > allowed), quality)}

    return of_spans(parts, spans, derive)
