"""The example of ``energy`` that the laws run on, and its oracle."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor, log2

from edge_agent.metrics.energy import CarrierInput, EnergyConfig
from edge_agent.model import SampleBlock
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
    Span,
    Stream,
    of_spans,
    quotient,
    summed_quality,
)
from tests.metrics.plants import as_streams

CONFIG = EnergyConfig(
    output="scale.mass",
    inputs={
        "electricity": ("em-a.energy",),
        "raw-coal": CarrierInput(tags=("scale.mass",), lhv="23.1 MJ/kg"),
    },
    returned={"electricity": ("em-a.export",)},
    windows=WINDOWS,
)
SUMS = ("electricity", "raw-coal", "output_t")


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    carriers = {
        "electricity": (0.1229, [("em-a.energy", 1.0), ("em-a.export", -1000.0)]),
        "raw-coal": (23.1 / 29.3076, [("scale.mass", 1.0)]),
    }
    return energy(as_streams(rows), carriers, ("scale.mass", 1e-3), spans)


def energy(
    streams: Sequence[tuple[str, Stream]],
    carriers: Mapping[str, tuple[float, Sequence[tuple[str, float]]]],
    output: tuple[str, float] | None,
    spans: Sequence[Span] | None = None,
) -> Result:
    """Energy rows.

    streams   (device, stream)
    carriers  name -> (kgce per unit, [(tag, factor to the carrier's unit; negative: returned)])
    output    (tag, factor to t)
    """
    joined = Joined(streams)
    groups = {name: tags for name, (_, tags) in carriers.items()}
    groups["output_t"] = [output] if output else []
    given = {tag: joined.increments(tag) for tags in groups.values() for tag, _ in tags}
    parts = {}
    for end in joined.ends():
        part = Part({}, {}, {}, MINUTE, 0)
        for name, tags in groups.items():
            total, worst = Fraction(0), 0 if tags else MISSING
            for tag, factor in tags:
                (value, quality), covered, estimated = given[tag].get(end, ABSENT)
                steps = 2.0 ** (26 - floor(log2(abs(factor))))
                total += Fraction(round((value or 0.0) * factor * steps)) / Fraction(steps)
                worst = max(worst, quality)
                part.covered, part.estimated = (
                    min(part.covered, covered),
                    max(part.estimated, estimated),
                )
            part.known[name] = int(worst < BAD)
            part.total[name] = total if worst < BAD else Fraction(0)
            part.worst[name] = worst
        part.estimated = min(part.estimated, MINUTE - part.covered)
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        cells: dict[str, Cell] = {}
        coal, worst = 0.0, 0
        for name, (kgce, _) in carriers.items():
            quality = summed_quality(part, name)
            amount = float(part.total[name])
            cells[name], cells[f"{name}_kgce"] = (amount, quality), (amount * kgce, quality)
            coal, worst = coal + amount * kgce, max(worst, quality)
        made, quality = float(part.total["output_t"]), summed_quality(part, "output_t")
        cells |= {"total_kgce": (coal, worst), "output_t": (made, quality)}
        return cells | {"intensity": quotient(coal, made, max(worst, quality))}

    return of_spans(parts, spans, derive)
