"""What a carrier is worth: dated factors to standard coal, heat and CO2; sums that stay exact.

``k`` of a day is that of the row in force on that local day: a measured heating value
(``k = LHV / 29.3076 MJ/kg``) before the table's. A day without a row has no factor, so its figures
are not available; nothing is carried over. Which row is in force is found from the borders of the
rows in one search, without a calendar.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.metrics.base import Co2Factor, Coefficient
from edge_agent.model import F64, I64
from edge_agent.units import Unit

MJ_PER_KGCE = 29.3076  # GB/T 2589-2020: 1 kgce = 29 307.6 kJ
CO2_PER_CARBON = 44 / 12  # GB/T 32150: molar masses of CO2 and of carbon
NORMAL_PER_M3 = 273.15 / 293.15  # Nm3 (0 °C) in a m3 at 20 °C, the state of GB/T 2589's gases
_ALWAYS = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Term:
    """The factors of one row, in the order in which they are asked for, and its id.

    since, until  ISO dates, both inclusive; empty: without a beginning, or an end
    """

    since: str
    until: str
    values: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Dated:
    """A factor of each day: ``values[i]`` until ``borders[i]``, NaN where no row is in force.

    borders  int64 (b,), ns, local midnights; values float64 (b + 1,)
    """

    borders: I64
    values: F64

    def at(self, ends: I64) -> F64:
        """Return the factor of the minutes with these ends, (n,), or (1,) if it is one for all."""
        borders = self._borders
        if not borders or bisect_right(borders, int(ends[0]) - 1) == (
            last := bisect_right(borders, int(ends[-1]) - 1)
        ):
            return self.values[-1:] if not borders else self.values[last : last + 1]
        return np.asarray(self.values[np.searchsorted(self.borders, ends - 1, "right")])

    @cached_property
    def _borders(self) -> list[int]:
        return [int(border) for border in self.borders]

    @property
    def least(self) -> float:
        """The smallest factor, for the step of what is converted with it; 1 if all are 0."""
        there = np.abs(self.values[np.isfinite(self.values) & (self.values != 0)])
        return float(there.min()) if len(there) else 1.0


def dated(terms: Sequence[Term], zone: ZoneInfo) -> tuple[Dated, ...]:
    """Return one ``Dated`` for each value of the terms; of two in force the later one counts."""
    begins = [midnight(term.since, zone) for term in terms]
    ends = [midnight(term.until, zone, 1) if term.until else None for term in terms]
    borders = sorted({ns for ns in (*begins, *ends) if ns is not None and ns != _ALWAYS})
    columns: list[list[float]] = [[] for _ in terms[0].values]
    for start in (_ALWAYS, *borders):
        inside = [
            (begin, term)
            for term, begin, end in zip(terms, begins, ends, strict=True)
            if begin <= start and (end is None or start < end)
        ]
        latest = max(inside, key=lambda pair: pair[0])[1] if inside else None
        for i, column in enumerate(columns):
            column.append(math.nan if latest is None else latest.values[i])
    where = np.array(borders, np.int64)
    return tuple(Dated(where, np.array(column)) for column in columns)


def midnight(day: str, zone: ZoneInfo, later: int = 0) -> int:
    """Return the local midnight at which a day begins, in ns; for no day: before everything."""
    if not day:
        return int(_ALWAYS)
    local = date.fromisoformat(day) + timedelta(days=later)
    return int(datetime.combine(local, time(), zone).timestamp()) * SECOND


def gaps(terms: Sequence[Term]) -> list[str]:
    """Return from when to when no row is in force, in words; before the first row, too."""
    found, known = [], ""
    ordered = sorted(terms, key=lambda term: term.since)
    if ordered[0].since:
        found.append(f"before {ordered[0].since}")
    for i, term in enumerate(ordered):
        if i and known and term.since > _next(known):
            found.append(f"from {_next(known)} to {_next(term.since, -1)}")
        if not term.until:
            return found
        known = max(known, term.until)
    return [*found, f"after {known}"]


def _next(day: str, days: int = 1) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def heating_value(text: str) -> tuple[float, str]:
    """Return kgce per unit, and the unit, of a heating value ``23.1 MJ/kg``.

    errors  ``ValueError`` when it is none
    """
    number, _, unit = text.strip().partition(" ")
    energy, slash, per = unit.strip().partition("/")
    if not slash:
        raise ValueError(f'"{text}" is not a heating value (write 23.1 MJ/kg)')
    factor = Unit.parse(energy).factor_to(Unit.parse("MJ"))
    Unit.parse(per)
    if not 0 < float(number) < math.inf:
        raise ValueError(f'"{text}" is not above 0')
    return float(number) * factor / MJ_PER_KGCE, per


def measured(carrier: str, lhv: str | Mapping[str, str]) -> tuple[Unit, tuple[Term, ...]]:
    """Return unit and terms (kgce, GJ) of a measured heating value, or of those of each date.

    A value counts until the day before the next one; before the first there is none.

    errors  ``ValueError`` for what is no date or no heating value
    """
    given = {"": lhv} if isinstance(lhv, str) else dict(sorted(lhv.items()))
    if not given:
        raise ValueError("needs at least one value")
    days, terms, unit = [*given][1:], [], None
    for (since, text), following in zip(given.items(), [*days, ""], strict=True):
        until = _next(following, -1) if following else ""
        kgce, code = heating_value(text)
        unit = unit or Unit.parse(code)
        kgce *= unit.factor_to(Unit.parse(code))
        source = f"measured:{carrier}:{text}" + (f":{since}" if since else "")
        if since:
            date.fromisoformat(since)
        terms.append(Term(since, until, (kgce, kgce * MJ_PER_KGCE / 1e3), source))
    return unit or Unit.parse("1"), tuple(terms)


def tabled(rows: Sequence[Coefficient]) -> tuple[Unit, tuple[Term, ...]]:
    """Return unit and terms (kgce, GJ) of a table's rows; GJ by the row's own heating value."""
    unit = Unit.parse(rows[-1].unit)
    terms = []
    for row in rows:
        factor = unit.factor_to(Unit.parse(row.unit))
        kgce = row.kgce_per_unit * factor
        heat = kgce * MJ_PER_KGCE if row.mj_per_unit is None else row.mj_per_unit * factor
        terms.append(Term(row.valid_from, row.valid_to, (kgce, heat / 1e3), row.id))
    return unit, tuple(terms)


def co2_terms(
    rows: Iterable[Co2Factor], unit: Unit, year: int | str, heat: Sequence[Term] = ()
) -> tuple[Term, ...]:
    """Return the terms (tCO2 per unit) of a carrier.

    year  of a grid's factor: that of its data; ``published``: the newest known on each day;
          ``same``: the year of the day itself
    heat  terms (kgce, GJ) of a measured heating value that replaces the family's

    errors  ``ValueError`` for units that do not fit, or a year without a row
    """
    chosen = [
        r for r in rows if not (isinstance(year, int) and r.data_year) or r.data_year == str(year)
    ]
    if not chosen:
        raise ValueError(f"no CO2 factor of the data year {year}")
    if heat and all(row.tc_per_gj is not None for row in chosen):
        carbon, row = chosen[-1].tc_per_gj or 0.0, chosen[-1]
        return tuple(
            Term(t.since, t.until, (t.values[1] * carbon * CO2_PER_CARBON,), f"{row.id}:{t.source}")
            for t in heat
        )
    found = []
    for row in chosen:
        value = row.tco2_per_unit * _units(unit, Unit.parse(row.unit))
        since, until = row.valid_from, row.valid_to
        if isinstance(year, int) or not row.data_year:
            since, until = "", ""
        elif year == "same":
            since, until = f"{row.data_year}-01-01", f"{row.data_year}-12-31"
        found.append(Term(since, until, (value,), row.id))
    return tuple(found)


def _units(unit: Unit, per: Unit) -> float:
    """Return how many units of a CO2 factor a carrier's unit is; a m3 of gas is one at 20 °C."""
    normal, cubic = Unit.parse("Nm3"), Unit.parse("m3")
    if unit.dimension == cubic.dimension and per.dimension == normal.dimension:
        return unit.factor_to(cubic) * NORMAL_PER_M3 * normal.factor_to(per)
    return unit.factor_to(per)


# ---- exact sums ------------------------------------------------------------------------------


def amount_grid(factor: float) -> float:
    """Return the binary step of a converted amount: 64 times finer than that of its readings.

    So sums stay exact up to 2**27 of the tag's units, and rounding every minute the same way does
    not add up to anything that could be seen.
    """
    return float(2.0 ** (math.floor(math.log2(abs(factor))) - 26))


def worth_grid(factor: float) -> float:
    """Return the binary step of what an amount is worth: 64 times finer than that of the amount.

    An hour's kgce are then amount times coefficient to 1e-9, also of a small load.
    """
    return amount_grid(factor) / 64


def rounded(value: F64, grid: float | F64) -> F64:
    """Return values in whole steps."""
    return np.asarray(np.rint(value / grid) * grid)
