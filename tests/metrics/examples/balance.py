"""The example of ``balance`` that the laws run on, and its oracle."""

from collections.abc import Mapping
from fractions import Fraction

from edge_agent.metrics.balance import BalanceConfig
from edge_agent.model import SampleBlock
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    MINUTE,
    Cell,
    Joined,
    Part,
    Result,
    Span,
    graded,
    of_spans,
    quotient,
    summed_quality,
)
from tests.metrics.plants import as_streams

CONFIG = BalanceConfig(
    main=("em-a.energy",),
    own=("em-a.export",),
    subs={"kiln": ("em-b.energy",)},
    tolerance=0.1,
    windows=("1min", "15min", "1d", "12mo"),
)
SUMS = ("main", "own", "kiln")
METERS = {
    "main": ("em-a.energy", 1.0),
    "own": ("em-a.export", 1000.0),
    "kiln": ("em-b.energy", 1.0),
}


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    joined = Joined(as_streams(rows))
    given = {name: joined.increments(tag) for name, (tag, _) in METERS.items()}
    parts = {}
    for end in joined.ends():
        part = parts[end] = Part({}, {}, {}, MINUTE, 0)
        for name, (_, factor) in METERS.items():
            (value, quality), covered, estimated = given[name].get(end, ABSENT)
            fine = Fraction(2) ** (17 if factor > 1.0 else 26)  # steps of a unit, see amount_grid
            known = quality < BAD
            part.total[name] = round((value or 0.0) * factor * fine) / fine if known else Fraction()
            part.known[name], part.worst[name] = int(known), quality
            part.covered = min(part.covered, covered)
            part.estimated = max(part.estimated, estimated)
        part.estimated = min(part.estimated, MINUTE - part.covered)

    def derive(part: Part) -> dict[str, Cell]:
        quality = {name: summed_quality(part, name) for name in METERS}
        cells: dict[str, Cell] = {name: (float(part.total[name]), quality[name]) for name in METERS}
        worst = graded(max(quality.values()), part.share())
        supply = part.total["main"] + part.total["own"]
        gap = supply - part.total["kiln"]
        cells["sum_subs"] = cells["kiln"]
        cells["gap"] = (float(gap), worst)
        cells["gap_share"] = quotient(float(gap), float(supply), worst)
        cells["unbalanced"] = (float(abs(gap) > Fraction(0.1) * abs(supply)), worst)
        return cells

    return of_spans(parts, spans, derive)
