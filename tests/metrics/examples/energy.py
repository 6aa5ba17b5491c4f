"""The example of ``energy`` that the laws run on, and its oracle."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor, log2

from edge_agent.metrics.energy import CarrierInput, Co2, EnergyConfig, Quantity
from edge_agent.metrics.steam import _BORDER, _IDEAL, _SATURATION, _TWO
from edge_agent.model import SampleBlock
from tests.metrics.oracle import (
    ABSENT,
    BAD,
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
    integrals,
    of_spans,
    quotient,
    slots,
    summed_quality,
    usable,
)
from tests.metrics.plants import START, as_streams

CONFIG = EnergyConfig(
    output=Quantity(tags=("scale.mass",)),
    denominators={
        "value": Quantity(monthly={"2026-01": 892.8}, unit="万元"),
        "area": Quantity(constant=12.0, unit="mu"),
        "bags": Quantity(tags=("scale.mass",), factor=0.05, unit="{bag}"),
    },
    specific=("electricity",),
    inputs={
        "electricity": ("em-a.energy",),
        "raw-coal": CarrierInput(
            tags=("scale.mass",),
            lhv={"2025-11-01": "20.1 MJ/kg", "2025-12-01": "23.1 MJ/kg"},
            co2="bituminous-coal",
        ),
        "natural-gas": CarrierInput(tags=("cems.flow",), lhv="35.6 MJ/Nm3"),
        "steam": CarrierInput(
            tags=("fm-steam.mass",),
            pressure="fm-steam.pressure",
            temperature="fm-steam.steam_temperature",
            feed_water=84.0,
        ),
        "water": CarrierInput(tags=("em-a.reactive",), energy=False),
    },
    returned={"electricity": CarrierInput(tags=("em-a.export",), non_fossil=0.25)},
    produced={"electricity": CarrierInput(tags=("em-a.energy",), non_fossil=0.8, added=True)},
    co2=Co2(family="works", electricity="cn-works"),
    windows=("1min", "15min", "1d", "1mo", "12mo"),
)
SUMS = ("electricity", "electricity_kgce", "raw-coal_gj", "steam_tco2", "output_t", "value")
NAMES = ("electricity", "raw-coal", "natural-gas", "steam", "water")
LHV = {"raw-coal": 23.1 / 29.3076, "natural-gas": 35.6 / 29.3076}
KGCE = {"electricity": 0.1229, **LHV, "steam": 0.03412}
GJ = {
    "electricity": 0.0036,
    **{name: k * 29.3076 / 1e3 for name, k in LHV.items()},
    "steam": 0.001,
}
TCO2 = {
    "electricity": 0.6e-3,
    "raw-coal": 2.2329e-3,
    "natural-gas": 21.6502 * 1e-4,
    "steam": 0.11e-3,
}
LEAST = {"electricity": 1.0, "steam": 1024.0}  # of the factors of the meters; 1 for the others

Number = tuple[float, int]


def step(factor: float, finer: int = 26) -> float:
    return 2.0 ** (floor(log2(abs(factor))) - finer)


def whole(value: float, grid: float) -> float:
    return round(value / grid) * grid


def saturation(p: float) -> float:
    """K at which water boils at so many MPa (IAPWS-IF97, equation 31)."""
    n = (0.0, *_SATURATION)
    b = p**0.25
    e = b**2 + n[3] * b + n[6]
    f, g = (n[i] * b**2 + n[i + 3] * b + n[i + 6] for i in (1, 2))
    d = 2 * g / (-f - (f**2 - 4 * e * g) ** 0.5)
    return (n[10] + d - ((n[10] + d) ** 2 - 4 * (n[9] + n[10] * d)) ** 0.5) / 2


def steam(p: float, kelvin: float) -> tuple[float, bool] | None:
    """kJ/kg of steam (equations 15-17), and whether it was colder than saturation; or None."""
    boiling = saturation(p) if 0.000611213 <= p <= 22.064 else None
    cold = boiling is not None and kelvin < boiling
    t = boiling if cold else kelvin
    if not 273.15 <= t <= 1073.15 or not 0 < p <= 100 or (boiling is None and t <= 623.15):
        return None
    if t > 623.15 and p > _BORDER[0] + _BORDER[1] * t + _BORDER[2] * t**2:
        return None
    tau, slope = 540.0 / t, 0.0
    for j, n in _IDEAL.tolist():
        slope += n * j * tau ** (j - 1)
    for i, j, n in _TWO.tolist():
        slope += n * p**i * j * (tau - 0.5) ** (j - 1)
    return 0.461526 * 540.0 * slope, cold


class Meters:
    """What the meters of the example count in a minute: value, quality, covered, estimated ns."""

    def __init__(self, streams: Sequence[tuple[str, Stream]]) -> None:
        self.joined = Joined(streams)
        names = ("em-a.energy", "em-a.export", "em-a.reactive", "scale.mass")
        self.counted = {tag: self.joined.increments(tag) for tag in (*names, "fm-steam.mass")}
        self.state = slots(find(streams, "fm-steam.mass"))
        raw = find(streams, "cems.flow")
        self.flow = integrals(raw, "flow", 3600.0)
        good = [t for t, value, quality in raw.rows["flow"] if usable(value, quality)]
        self.settled = raw.rows["flow"][-1][0]
        if good and self.settled <= good[-1] + round(3e9 * raw.period):
            self.settled = good[-1]
        first = raw.rows["flow"][0][0] // MINUTE * MINUTE + MINUTE
        self.joined.used.append((first, self.settled // MINUTE * MINUTE))

    def read(self, tag: str, factor: float, end: int) -> tuple[float, int, int, int]:
        if tag == "cems.flow":
            value, quality, covered = self.flow.get(end, (0.0, MISSING, 0))
            estimated = 0
        else:
            (value, quality), covered, estimated = self.counted[tag].get(end, ABSENT)
        return whole((value or 0.0) * factor, step(factor)), quality, covered, estimated

    def specific(self, end: int) -> Number:
        """MJ per t of the steam."""
        cells = self.state.get(end)
        if cells is None:
            return 0.0, MISSING
        (p, mark), (t, other) = cells["pressure.mean"], cells["steam_temperature.mean"]
        quality = max(mark, other)
        if quality >= BAD:
            return 0.0, quality
        found = steam(p * (1e5 / 1e6) + 101.325 / 1e3, t + 273.15)
        if found is None:
            return 0.0, max(quality, NOT_AVAILABLE)
        enthalpy, cold = found
        return whole(enthalpy - 84.0, 2.0**-20), max(quality, UNCERTAIN if cold else 0)


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    meters = Meters(as_streams(rows))
    month = 31 * 1440
    begin = START - 8 * 60 * MINUTE  # 2026-01-01 in Shanghai
    parts = {}
    for end in meters.joined.ends():
        bought, sent = (meters.read(*m, end) for m in (("em-a.energy", 1.0), ("em-a.export", 1e3)))
        mass, made = (meters.read("scale.mass", f, end) for f in (1.0, 1e-3))
        gas, water = meters.read("cems.flow", 1.0, end), meters.read("em-a.reactive", 1.0, end)
        bags, vapour = meters.read("scale.mass", 0.05, end), meters.read("fm-steam.mass", 1.0, end)
        every = (bought, sent, mass, made, gas, water, bags, vapour)
        net = (bought[0] + bought[0] - sent[0], max(bought[1], sent[1]))
        amounts = {
            "electricity": net, "raw-coal": mass[:2], "natural-gas": gas[:2],
            "steam": vapour[:2], "water": water[:2],
        }  # fmt: skip
        per_tonne, mark = meters.specific(end)
        heat = (vapour[0] * per_tonne, max(vapour[1], mark) if vapour[0] else vapour[1])
        measures = {**amounts, "steam": heat}
        cells: dict[str, Number] = dict(amounts)
        cells["electricity_returned"], cells["electricity_produced"] = sent[:2], bought[:2]
        for suffix, factors in (("_kgce", KGCE), ("_gj", GJ), ("_tco2", TCO2)):
            for name, k in factors.items():
                cells[name + suffix] = worth(measures[name], k, grid(name, suffix))
        own = worth(bought[:2], 0.1229, grid("electricity", "_kgce"))
        cells["electricity_produced_kgce"] = own
        fine = grid("electricity", "_kgce") / 64
        green = [whole(m[0] * 0.1229 * share, fine) for m, share in ((bought, 0.8), (sent, -0.25))]
        cells["non_fossil_kgce"] = (sum(green), net[1])
        minute = (end - begin) // MINUTE
        fine = step(892.8, 40)
        per = 892.8 / month / fine
        cells["value"] = ((round(per * minute) - round(per * (minute - 1))) * fine, 0)
        cells["output_t"], cells["bags"] = made[:2], bags[:2]
        part = Part({}, {}, {}, min(m[2] for m in every), max(m[3] for m in every))
        part.estimated = min(part.estimated, MINUTE - part.covered)
        for name, (value, quality) in cells.items():
            part.known[name], part.worst[name] = int(quality < BAD), quality
            part.total[name] = Fraction(value) if quality < BAD else Fraction(0)
        parts[end] = part
    return of_spans(parts, spans, derived)


def grid(name: str, suffix: str) -> float:
    """The step of what a carrier is worth: of its smallest factor, 64 times finer than amounts."""
    k = {"_kgce": KGCE, "_gj": GJ, "_tco2": TCO2}[suffix][name]
    lowest = {("raw-coal", "_kgce"): 20.1 / 29.3076, ("raw-coal", "_gj"): 20.1 / 1e3}
    k = lowest.get((name, suffix), k)
    return step(LEAST.get(name, 1.0) * k, 32)


def worth(measure: Number, k: float, fine: float) -> Number:
    return whole(measure[0] * k, fine), measure[1]


def derived(part: Part) -> dict[str, Cell]:
    """Totals and quotients of what was added up."""
    cells: dict[str, Cell] = {
        name: (float(part.total[name]), summed_quality(part, name)) for name in part.total
    }
    for suffix in ("_kgce", "_gj", "_tco2"):
        found = [cells[name + suffix] for name in NAMES if name + suffix in cells]
        cells[f"total{suffix}"] = (sum(v for v, _ in found), max(q for _, q in found))
    cells["produced_kgce"] = cells["electricity_produced_kgce"]
    cells["area"] = (12.0, 0)

    def over(name: str, under: str) -> Cell:
        (value, quality), (divisor, mark) = cells[name], cells[under]
        return quotient(value, divisor, max(quality, mark))

    cells["non_fossil_share"] = over("non_fossil_kgce", "total_kgce")
    cells["intensity"] = over("total_kgce", "output_t")
    cells["electricity_per_output"] = over("electricity", "output_t")
    for name in ("value", "area", "bags"):
        cells[f"intensity_{name}"] = over("total_kgce", name)
        cells[f"electricity_per_{name}"] = over("electricity", name)
    return cells


def energy(
    streams: Sequence[tuple[str, Stream]],
    carriers: Mapping[str, tuple[float, float, Sequence[tuple[str, float]]]],
    output: tuple[str, float],
    spans: Sequence[Span] | None = None,
) -> Result:
    """The rows of a plain boundary of counters, for tests of what is around it.

    carriers  name -> (kgce and GJ per unit, [(tag, factor to the unit; negative: returned)])
    output    (tag, factor to t)
    """
    joined = Joined(streams)
    groups = {name: tags for name, (_, _, tags) in carriers.items()}
    for name, tags in [*groups.items()]:
        sent = [(tag, -factor) for tag, factor in tags if factor < 0]
        groups |= {f"{name}_returned": sent} if sent else {}
    groups["output_t"] = [output]
    given = {tag: joined.increments(tag) for tags in groups.values() for tag, _ in tags}
    parts = {}
    for end in joined.ends():
        part = Part({}, {}, {}, MINUTE, 0)
        cells: dict[str, Number] = {}
        for name, tags in groups.items():
            total, worst = 0.0, 0
            for tag, factor in tags:
                (value, quality), covered, estimated = given[tag].get(end, ABSENT)
                total += whole((value or 0.0) * factor, step(factor))
                worst = max(worst, quality)
                part.covered = min(part.covered, covered)
                part.estimated = max(part.estimated, estimated)
            cells[name] = (total, worst)
            least = min(abs(factor) for _, factor in tags)
            for suffix, k in zip(("_kgce", "_gj"), carriers.get(name, ())[:2], strict=False):
                cells[name + suffix] = worth((total, worst), k, step(least * k, 32))
        part.estimated = min(part.estimated, MINUTE - part.covered)
        for name, (value, quality) in cells.items():
            part.known[name], part.worst[name] = int(quality < BAD), quality
            part.total[name] = Fraction(value) if quality < BAD else Fraction(0)
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        cells: dict[str, Cell] = {
            name: (float(part.total[name]), summed_quality(part, name)) for name in part.total
        }
        for suffix in ("_kgce", "_gj"):
            found = [cells[name + suffix] for name in carriers]
            cells[f"total{suffix}"] = (sum(v for v, _ in found), max(q for _, q in found))
        (coal, mark), (made, quality) = cells["total_kgce"], cells["output_t"]
        return cells | {"intensity": quotient(coal, made, max(mark, quality))}

    return of_spans(parts, spans, derive)
