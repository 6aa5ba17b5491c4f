"""The example of ``water`` that the laws run on, and its oracle."""

from collections.abc import Mapping

from edge_agent.metrics.water import WaterConfig
from edge_agent.model import SampleBlock
from tests.metrics.examples import WINDOWS
from tests.metrics.oracle import (
    BAD,
    GOOD,
    LIMITS,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    Cell,
    Joined,
    Part,
    Result,
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

CONFIG = WaterConfig(
    concentrations={"cod": "outlet.cod", "nh3_n": "outlet.nh3_n"},
    flow="outlet.discharge",
    ph="outlet.ph",
    temperature="outlet.temperature",
    limits="outlet",
    windows=WINDOWS,
)
SUMS = ("volume_m3", "valid_min")
PEAKS = ("cod_abnormal", "nh3_n_abnormal", "ph_max", "ph_min")
MILLIGRAMS = {"cod": 1.0, "nh3_n": 1e-3}


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    streams = as_streams(rows)
    outlet = find(streams, "outlet.cod")
    held = slots(outlet)
    volumes = integrals(outlet, "discharge", 1.0)
    joined = Joined(streams)
    joined.readings("outlet.discharge")
    good = [t for t, value, quality in outlet.rows["discharge"] if usable(value, quality)]
    settled = outlet.rows["discharge"][-1][0]
    if good and settled <= good[-1] + round(3e9 * outlet.period):
        settled = good[-1]  # what comes after may be linked with it
    parts = {}
    for end in joined.ends():
        if end > settled // MINUTE * MINUTE:
            break
        total, mark, covered = volumes.get(end, (0.0, MISSING, 0))
        volume: Cell = (total * 1e-3, NOT_AVAILABLE if total < 0 and mark < BAD else mark)
        numbers: dict[str, Cell] = {"volume_m3": volume}
        valid = volume[1] < BAD
        for name, factor in MILLIGRAMS.items():
            (mean, _, _), quality, ns = of_minute(held.get(end, {}), name)
            if mean < 0 and quality < BAD:
                quality = NOT_AVAILABLE
            both = max(quality, volume[1])
            numbers[f"{name}_mass_kg"] = (mean * factor * (volume[0] or 0.0) * 1e-3, both)
            numbers[f"{name}_volume_m3"] = (volume[0], both)
            numbers[f"{name}_abnormal"] = (float(ns < MINUTE or quality >= BAD), GOOD)
            valid = valid and both < BAD
            covered = min(covered, ns)
        (mean, low, high), quality, _ = of_minute(held.get(end, {}), "ph")
        numbers |= {"valid_min": (float(valid), GOOD), "ph": (mean, quality)}
        numbers |= {"ph_max": (high, quality), "ph_min": (-low, quality)}
        (mean, _, _), quality, _ = of_minute(held.get(end, {}), "temperature")
        numbers["temperature"] = (mean, quality)
        part = Part({}, {}, {}, covered, 0)
        for name, (value, mark) in numbers.items():
            known = mark < BAD
            part.total[name] = value if known and value is not None else 0.0
            part.known[name], part.worst[name] = int(known), mark
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        cells: dict[str, Cell] = {
            name: (float(part.total[name]), summed_quality(part, name)) for name in part.total
        }
        for name in ("ph", "temperature"):
            known = part.known[name]
            mark = graded(bare_mark(part, name), known / part.minutes, LIMITS)
            cells[name] = (float(part.total[name]) / max(known, 1), mark)
        for name in ("ph_max", "ph_min"):
            sign = -1.0 if name == "ph_min" else 1.0
            cells[name] = (sign * float(part.total[name]), bare_mark(part, name))
        for name in MILLIGRAMS:
            mass, volume = cells[f"{name}_mass_kg"], cells[f"{name}_volume_m3"]
            both = max(mass[1], volume[1])
            both = graded(both, part.known[f"{name}_mass_kg"] / part.minutes, LIMITS)
            cells[name] = quotient((mass[0] or 0.0) * 1e3, volume[0] or 0.0, both)
            flag = f"{name}_abnormal"
            odd = part.total[flag] > 0 or part.known[flag] < part.minutes
            cells[flag] = (float(odd), GOOD)
        return cells

    return of_spans(parts, spans, derive, PEAKS)


def bare_mark(part: Part, name: str) -> int:
    """The worst quality, or why nothing is known."""
    if part.known[name]:
        return part.worst[name]
    return part.worst[name] if part.worst[name] >= BAD else MISSING


def of_minute(cells: Mapping[str, Cell], name: str) -> tuple[tuple[float, float, float], int, int]:
    """Mean, lowest and highest of a gauge, quality and covered ns; BAD below three quarters."""
    values = [cells.get(f"{name}.{column}", (None, MISSING)) for column in ("mean", "min", "max")]
    ns = round((cells.get(f"{name}.coverage", (0.0, 0))[0] or 0.0) * MINUTE)
    quality = values[0][1]
    if ns < 0.75 * MINUTE and quality < BAD:
        quality = MISSING
    mean, low, high = (value if value is not None else 0.0 for value, _ in values)
    return (mean, low, high), quality, ns
