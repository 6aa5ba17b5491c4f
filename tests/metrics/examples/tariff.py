"""The example of ``tariff`` that the laws run on, and its oracle."""

from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from math import floor, sqrt
from zoneinfo import ZoneInfo

from edge_agent.metrics.prices import Prices
from edge_agent.metrics.tariff import TariffConfig
from edge_agent.model import SampleBlock
from tests.metrics.examples import WINDOWS
from tests.metrics.examples.demand import Minute, at_end, booked_late
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    MINUTE,
    NOT_AVAILABLE,
    Cell,
    Joined,
    Part,
    Result,
    Span,
    of_spans,
    quotient,
    summed_quality,
)
from tests.metrics.plants import as_streams

PRICES = Prices(
    since="2025-12-01",
    floating={"purchase": 0.4, "capacity": 0.1},
    fixed={"transmission": 0.15},
    funds={"all": 0.03},
    demand=38.4,
)
CONFIG = TariffConfig(
    energy="em-a.energy",
    reactive_import="em-a.reactive",
    table="tou",
    power_factor_standard=0.9,
    prices=(PRICES,),
    contract="150 kW",
    windows=WINDOWS,
)
BANDS = ("sharp_kwh", "peak_kwh", "flat_kwh", "valley_kwh", "deep_valley_kwh", "unscheduled_kwh")
SUMS = (*BANDS, "energy_kwh", "reactive_kvarh", "cost_fixed", "cost_floating", "cost_funds")
ZONE = ZoneInfo("Asia/Shanghai")
STEPS = 2**26


def band_at(start: int) -> tuple[str, float | None]:
    """Band and coefficient of the minute that begins then: the table of ``Works``."""
    local = datetime.fromtimestamp(start // 10**9, UTC).astimezone(ZONE)
    clock = f"{local:%H:%M}"
    if "08:00" <= clock < "08:04":
        return "valley_kwh", 0.3
    if "08:04" <= clock < "08:07":
        return "peak_kwh", 1.7
    if "08:07" <= clock < "08:14":
        return "sharp_kwh", None
    if clock >= "08:16":
        return "flat_kwh", 1.0
    return "unscheduled_kwh", None


def adjusted(active: float, reactive: float) -> tuple[float | None, float | None]:
    """Power factor, and what the bill changes by."""
    whole = sqrt(active**2 + reactive**2)
    if not whole:
        return None, None
    factor = active / whole
    hundredths = floor(factor * 100 + 0.5)
    return factor, -0.0075 if hundredths >= 90 else (90 - hundredths) * 0.5 / 100


def rounded(number: float) -> Fraction:
    return Fraction(round(number * STEPS), STEPS)


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG, of windows shorter than a month."""
    joined = Joined(as_streams(rows))
    booked, reactive = joined.increments("em-a.energy"), joined.increments("em-a.reactive")
    parts: dict[int, Part] = {}
    past: dict[int, Minute] = {}
    since: int | None = None
    for end in joined.ends():
        (value, quality), covered, estimated = booked.get(end, ABSENT)
        (kvarh, mark), full, guessed = reactive.get(end, ABSENT)
        energy = Fraction(value or 0.0)
        band, coefficient = band_at(end - MINUTE)
        unless_bad = quality if quality >= BAD else 0
        cells: dict[str, tuple[Fraction | float, int]] = {
            name: (energy, quality) if name == band else (Fraction(0), unless_bad) for name in BANDS
        }
        cells["reactive_kvarh"] = rounded(kvarh or 0.0), mark
        cost = rounded(float(energy) * (0.5 * coefficient)) if coefficient is not None else 0.0
        cells["cost_floating"] = (
            cost,
            quality if coefficient is not None else max(quality, NOT_AVAILABLE),
        )
        cells["cost_fixed"] = rounded(float(energy) * 0.15), quality
        cells["cost_funds"] = rounded(float(energy) * 0.03), quality
        since = booked_late(past, end, (value, quality), since)
        demand, worst = at_end(past, end, None)["demand_kw"]
        cells["demand_max_kw"] = demand or 0.0, worst
        cells["basic_price"] = 38.4, 0
        covered, estimated = min(covered, full), max(estimated, guessed)
        part = Part({}, {}, {}, covered, min(estimated, MINUTE - covered))
        for name, (number, worst) in cells.items():
            part.total[name] = number if worst < BAD else type(number)(0)
            part.known[name], part.worst[name] = int(worst < BAD), worst
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        q = {name: summed_quality(part, name) for name in part.total}
        n = {name: float(total) for name, total in part.total.items()}
        energy, worst = sum(n[name] for name in BANDS), max(q[name] for name in BANDS)
        factor, share = adjusted(energy, n["reactive_kvarh"])
        mark = max(worst, q["reactive_kvarh"])
        mark = NOT_AVAILABLE if factor is None and mark < BAD else mark
        adjustable = n["cost_floating"] + n["cost_fixed"]
        costs = max(q["cost_floating"], q["cost_fixed"])
        change = (share or 0.0) * adjustable
        total = adjustable + n["cost_funds"] + change
        whole = max(costs, mark, q["cost_funds"])
        return {name: (n[name], q[name]) for name in n} | {
            "energy_kwh": (energy, worst),
            "power_factor": (factor, mark),
            "adjustment": (share, mark),
            "cost_demand": (None, NOT_AVAILABLE),
            "cost_adjustment": (change, max(costs, mark)),
            "cost_total": (total, whole),
            "price_mean": quotient(total, energy, max(whole, worst)),
        }

    return of_spans(parts, spans, derive, ("demand_max_kw", "basic_price"))
