"""The example of ``emissions`` that the laws run on, and its oracle."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import itemgetter

from edge_agent.metrics.emissions import EmissionsConfig
from edge_agent.model import SampleBlock
from tests.metrics.examples import WINDOWS
from tests.metrics.oracle import (
    BAD,
    GOOD,
    LIMITS,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    UNCERTAIN,
    Cell,
    Joined,
    Part,
    Result,
    Span,
    Stream,
    find,
    graded,
    of_spans,
    usable,
)
from tests.metrics.plants import as_streams

CONFIG = EmissionsConfig(
    so2="cems.so2",
    nox="cems.nox",
    o2="cems.o2",
    flow="cems.flow",
    o2_reference=10.0,
    windows=WINDOWS,
)
SUMS = ("valid_min", "so2_mass_kg", "nox_mass_kg")


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    return emissions(
        as_streams(rows),
        gases={"so2": "cems.so2", "nox": "cems.nox"},
        o2="cems.o2",
        flow="cems.flow",
        o2_reference=10.0,
        spans=spans,
    )


def emissions(
    streams: Sequence[tuple[str, Stream]],
    *,
    gases: Mapping[str, str],
    o2: str,
    flow: str | None,
    o2_reference: float,
    o2_limit: float = 19.0,
    spans: Sequence[Span] | None = None,
) -> Result:
    """Emission rows; tags are in mg/m3, % and Nm3/h."""
    joined = Joined(streams)
    tags = {**gases, "o2": o2} | ({"flow": flow} if flow else {})
    rows = {name: joined.readings(tag) for name, tag in tags.items()}
    parts = {}
    for end in joined.ends():
        means: dict[str, tuple[float, int, float]] = {}
        for name, tag in tags.items():
            low, high = (bisect_left(rows[name], t, key=itemgetter(0)) for t in (end - MINUTE, end))
            inside = [(v, q) for _, v, q in rows[name][low:high] if usable(v, q)]
            expected = max(1, round(60 / find(streams, tag).period))
            share = min(1.0, len(inside) / expected)
            mean = sum(v for v, _ in inside) / len(inside) if inside else 0.0
            means[name] = (mean, max(q for _, q in inside) if share >= 0.75 else MISSING, share)
        oxygen, o2_quality, _ = means["o2"]
        burning = o2_quality < BAD and oxygen < o2_limit
        part = Part({}, {}, {}, round(min(m[2] for m in means.values()) * MINUTE), 0)
        numbers: dict[str, Cell] = {}
        valid = True
        for gas in gases:
            mean, quality, _ = means[gas]
            quality = max(quality, o2_quality if burning else max(o2_quality, NOT_AVAILABLE))
            valid = valid and quality < BAD
            numbers[gas] = (mean, quality)
            right = mean * (21.0 - o2_reference) / (21.0 - oxygen) if burning else 0.0
            numbers[f"{gas}_corrected"] = (right, quality)
            if flow:
                mass = mean * means["flow"][0] * 1e-6 / 60.0
                numbers[f"{gas}_mass_kg"] = (mass, max(quality, means["flow"][1]))
        numbers |= {"o2": (oxygen, o2_quality), "valid_min": (float(valid), GOOD)}
        for name, (value, quality) in numbers.items():
            known = quality < BAD
            part.total[name], part.known[name] = value if known else 0.0, int(known)
            part.worst[name] = quality
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        cells: dict[str, Cell] = {}
        for name, total in part.total.items():
            known, share = part.known[name], part.known[name] / part.minutes
            quality = part.worst[name]
            quality = MISSING if not known and quality < BAD else quality
            if name.endswith("_mass_kg") or name == "valid_min":
                cells[name] = (total, max(quality, UNCERTAIN) if share < LIMITS[0] else quality)
                continue
            quality = graded(quality, share)
            if part.minutes >= 60 and share < 45 / 60 and quality < BAD:
                quality = MISSING
            cells[name] = (total / max(known, 1), quality)
        return cells

    return of_spans(parts, spans, derive)
