"""The example of ``demand`` that the laws run on, and its oracle."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from edge_agent.metrics.demand import DemandConfig
from edge_agent.model import SampleBlock
from tests.metrics.examples import WINDOWS
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    ESTIMATED,
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
    integrals,
    of_spans,
    summed_quality,
    usable,
)
from tests.metrics.plants import as_streams

CONFIG = DemandConfig(
    energy="em-a.energy",
    power="em-a.power",
    contract="0.15 MW",
    transformer="500 kVA",
    windows=WINDOWS,
)
SUMS = ("energy_kwh",)
STEPS = 2**26
HOUR = 60 * MINUTE
PEAKS = ("power_kw", "demand_kw", "demand_fixed_kw", "forecast_kw")

Minute = tuple[Fraction, int, int]  # kWh, ns that are known, quality


def mean(minutes: Sequence[Minute]) -> float:
    """kW of the time that is known."""
    hours = Fraction(sum(known for _, known, _ in minutes), HOUR)
    return float(sum((e for e, _, _ in minutes), Fraction(0)) / hours) if hours else 0.0


def marked(minutes: Sequence[Minute], limits: tuple[float, float] = (0.95, 0.5)) -> int:
    known = sum(ns for _, ns, _ in minutes)
    share = known / (len(minutes) * MINUTE)
    return graded(max(q for _, _, q in minutes), share, limits) if known else MISSING


def at_end(past: Mapping[int, Minute], end: int, now: tuple[float, int] | None) -> dict[str, Cell]:
    """The demands at the end of a minute; now: present power and its quality."""
    last = [past.get(end - i * MINUTE, (Fraction(0), 0, 0)) for i in reversed(range(15))]
    passed = (end // MINUTE - 1) % 15 + 1
    quarter = last[-passed:]
    energy = sum((e for e, _, _ in quarter), Fraction(0))
    known = sum(ns for _, ns, _ in quarter)
    if passed == 15:
        fixed: Cell = (mean(quarter), marked(quarter))
        return {
            "demand_kw": (mean(last), marked(last)),
            "demand_fixed_kw": fixed,
            "forecast_kw": fixed,
        }
    so_far = float(energy) if known == passed * MINUTE else mean(quarter) * passed / 60
    power, quality = now or (mean(quarter), UNCERTAIN)
    if known:
        share = known / (passed * MINUTE)
        quality = graded(max(quality, *(q for _, _, q in quarter)), share)
    forecast = (so_far + power * (15 - passed) / 60) * 4
    return {
        "demand_kw": (mean(last), marked(last)),
        "demand_fixed_kw": (float(energy) * 4, marked(quarter, (0.95, 0.0))),
        "forecast_kw": (forecast, quality if known else MISSING),
    }


def booked_late(past: dict[int, Minute], end: int, cell: Cell, since: int | None) -> int | None:
    """Book a minute; energy that came late is spread. Return the end of the last known one."""
    value, quality = cell
    if quality >= BAD or value is None:
        past[end] = Fraction(0), 0, 0
        return since
    past[end] = Fraction(value), MINUTE, quality
    if quality >= ESTIMATED and since is not None and end - since > MINUTE:
        each = value / ((end - since) // MINUTE)
        for minute in range(since + MINUTE, end + 1, MINUTE):
            past[minute] = Fraction(round(each * STEPS), STEPS), MINUTE, quality
    return end


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    streams = as_streams(rows)
    joined = Joined(streams)
    booked = joined.increments("em-a.energy")
    raw = find(streams, "em-a.power")
    gauged = integrals(raw, "power", 3600.0)
    good = [t for t, value, quality in raw.rows["power"] if usable(value, quality)]
    settled = raw.rows["power"][-1][0]
    if good and settled <= good[-1] + round(3e9 * raw.period):
        settled = good[-1]  # what comes after may be linked with it
    parts: dict[int, Part] = {}
    past: dict[int, Minute] = {}
    since: int | None = None
    for end in joined.ends():
        if end > settled // MINUTE * MINUTE:
            break
        (value, quality), covered, estimated = booked.get(end, ABSENT)
        since = booked_late(past, end, (value, quality), since)
        energy = Fraction(value or 0.0)
        power: Cell = (float(energy) * 60, quality)
        if end in gauged:
            total, mark, ns = gauged[end]
            power = (float(Fraction(round(max(total, 0.0) * STEPS), STEPS)) * HOUR / ns, mark)
        now = (power[0], power[1]) if power[1] < BAD and power[0] is not None else None
        cells = {"energy_kwh": (energy, quality), "power_kw": power, **at_end(past, end, now)}
        part = Part({}, {}, {}, covered, min(estimated, MINUTE - covered))
        for name, (number, mark) in cells.items():
            part.total[name] = number if mark < BAD and number is not None else 0.0
            part.known[name], part.worst[name] = int(mark < BAD), mark
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        cells: dict[str, Cell] = {
            name: (float(part.total[name]), summed_quality(part, name)) for name in part.total
        }
        highest, quality = float(part.total["demand_kw"]), summed_quality(part, "demand_kw")
        billed = 200.0 + 2.0 * max(highest - 1.05 * 200.0, 0.0)  # 40 % of 500 kVA are more than 150
        return cells | {
            "demand_max_kw": (highest, quality),
            "contract_share": (highest / 150.0, quality),
            "billed_kw": (billed, quality),
        }

    return of_spans(parts, spans, derive, PEAKS)
