"""Baselines and savings: energy against a regression on production, weather or any tag.

After ISO 50006 (GB/T 36713), GB/T 28750, IPMVP option C and ASHRAE Guideline 14; the arithmetic is
in ``regression``, the rows in ``savings``. One window per metric: a model of days is not one of
hours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.metrics.base import Metric, MetricConfig, Plant, Reference, Window
from edge_agent.metrics.formula import SHARES
from edge_agent.metrics.observed import Wanted, Windows
from edge_agent.metrics.regression import Model, Moments
from edge_agent.metrics.savings import Acceptance, Baseline, Plan, Span
from edge_agent.metrics.windows import PERIODS, Calendar
from edge_agent.model import Family, Kind, Schema, Tag
from edge_agent.units import Unit

Path = tuple[str | int, ...]
PeriodText = Mapping[str, str]  # from, to
NonRoutine = Mapping[str, str]  # from, to, amount, reason

WINDOWS: tuple[Window, ...] = ("1min", "15min", "1h", "shift", "1d", "1mo")
NEVER = 1 << 62  # ns, an open end

# IPMVP: R2 and t are rules of thumb, a year is option C's full cycle. G14: the prescriptive path
# with less than twelve months of reporting. SEP: its 50001 M&V protocol. GB/T 28750 was not read:
# it asks for nothing here.
PROTOCOLS: Mapping[str, Acceptance] = {
    "ipmvp-c": Acceptance(r2=0.75, t=2.0, days=365.0, fsu=0.5),
    "ashrae-g14": Acceptance(cv_rmse=0.20, nmbe=0.00005, fsu=0.5),
    "sep": Acceptance(r2=0.5, p_f=0.10, p_each=0.20, p_best=0.10, fsu=0.5),
    "gbt28750": Acceptance(fsu=0.5),
}


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable made of a temperature: degrees below or above a base, of the window's mean."""

    tag: str
    below: float | None = None
    above: float | None = None


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(MetricConfig):
    """Energy against what a model of the baseline period expects.

    energy       counter or power of a device, or a column of another metric in the same window
    variables    what it depends on, by name: the same, or a gauge, which is averaged
    baseline     first and last day of the fit, or instants; reporting: of the savings; its end can
                 be left open
    records      rows of a baseline that was measured before: the fit is made of them at the start
    non_routine  changes that the model does not know: from, to, amount (spread evenly), reason
    protocol     whose acceptance numbers count; accept: others, one by one
    margin       how far outside the baseline's range a variable may be, as a share of that range
    covered      share of a window that must be covered, or its row is left out
    """

    kind: ClassVar[str] = "baseline"

    windows: tuple[Window, ...] = ("1d",)
    energy: str
    variables: Mapping[str, str | Variable] = field(default_factory=dict)
    baseline: PeriodText
    reporting: PeriodText = field(default_factory=dict)
    records: tuple[Mapping[str, float], ...] = ()
    non_routine: tuple[NonRoutine, ...] = ()
    protocol: Literal["ipmvp-c", "ashrae-g14", "sep", "gbt28750"] = "ipmvp-c"
    accept: Acceptance = field(default_factory=Acceptance)
    margin: float = 0.1
    covered: float = 0.9

    def references(self) -> list[Reference]:
        found = [Reference(("energy",), self.energy)]
        for name, given in self.variables.items():
            if isinstance(given, Variable):
                found.append(Reference(("variables", name, "tag"), given.tag, None, "Cel"))
            else:
                found.append(Reference(("variables", name), given))
        return found

    def faults(self) -> list[tuple[Path, str]]:
        found = [*self._window_faults(), *self._period_faults(), *self._number_faults()]
        for name, given in self.variables.items():
            if not name.replace("_", "").isalnum() or name != name.lower():
                found.append((("variables", name), f'"{name}" is not a name: write a-z, 0-9 and _'))
            elif name in _own_columns(self.variables):
                found.append((("variables", name), f'"{name}" is a column already: choose another'))
            if isinstance(given, Variable) and (given.below is None) == (given.above is None):
                found.append((("variables", name), "needs either below or above, in °C"))
        return found

    def _window_faults(self) -> Iterator[tuple[Path, str]]:
        if len(self.windows) != 1:
            yield ("windows",), "a baseline has one window (write windows: [1d])"
        elif self.windows[0] not in WINDOWS:
            yield ("windows",), f"must be one of {', '.join(WINDOWS)}"

    def _period_faults(self) -> Iterator[tuple[Path, str]]:
        """Yield what is wrong with dates."""
        found = list(_dates(("baseline",), self.baseline, ("from", "to")))
        found += _dates(("reporting",), self.reporting, ("from", "to"), optional=True)
        for i, change in enumerate(self.non_routine):
            found += _dates(("non_routine", i), change, ("from", "to", "amount", "reason"))
        yield from found
        if not found and "from" in self.reporting:
            utc = ZoneInfo("UTC")
            if _span(self.reporting, utc).start < _span(self.baseline, utc).end:
                yield ("reporting", "from"), "must be after the end of the baseline"

    def _number_faults(self) -> Iterator[tuple[Path, str]]:
        if self.margin < 0:
            yield ("margin",), "must not be negative (0.1 is a tenth of the range)"
        if not 0 <= self.covered <= 1:
            yield ("covered",), "must be from 0 to 1"
        wanted = {"energy", *self.variables}
        for i, record in enumerate(self.records):
            if record.keys() != wanted:
                yield ("records", i), f"must have {', '.join(sorted(wanted))}"

    def build(self, name: str, plant: Plant) -> list[Metric]:
        window = self.windows[0]
        wanted = [Wanted("energy", self.energy, amount=True)]
        wanted += [Wanted(key, _tag(given)) for key, given in self.variables.items()]
        windows = Windows(name, wanted, plant, window)
        columns = _columns(self.variables, windows.units)
        made = plant.provenance(())
        output = Schema(f"{name}/{window}", Family.BASELINE, columns, PERIODS[window], made)
        plan = self._plan(plant.site.zone, windows.units[0])
        calendar = Calendar(plant.site.zone, plant.shifts)
        return [Baseline(output, plan, windows, calendar, window)]

    def _plan(self, zone: ZoneInfo, unit: Unit) -> Plan:
        baseline = _span(self.baseline, zone)
        reporting = _span(self.reporting, zone)
        return Plan(
            tags=(self.energy, *(_tag(given) for given in self.variables.values())),
            names=tuple(self.variables),
            degrees=tuple(_degrees(given) for given in self.variables.values()),
            baseline=baseline,
            reporting=Span(max(reporting.start, baseline.end), reporting.end),
            adjustments=tuple(
                (_span(change, zone), _amount(change["amount"], unit))
                for change in self.non_routine
            ),
            margin=self.margin,
            covered=self.covered,
            days=(baseline.end - baseline.start) / (86_400 * SECOND),
            accept=self._acceptance(),
            model=self._recorded(),
        )

    def _acceptance(self) -> Acceptance:
        """Return the numbers of the protocol, those written instead where there are some."""
        default, own = PROTOCOLS[self.protocol], self.accept
        names = [f.name for f in fields(Acceptance)]
        given = {name: getattr(own, name) for name in names if getattr(own, name) is not None}
        return Acceptance(**{name: getattr(default, name) for name in names} | given)

    def _recorded(self) -> Model | None:
        if not self.records:
            return None
        moments = Moments(len(self.variables))
        for record in self.records:
            moments.add(np.array([*(record[name] for name in self.variables), record["energy"]]))
        try:
            return moments.fit()
        except ValueError as error:
            raise ValueError(f"records: {error}") from error


def _tag(given: str | Variable) -> str:
    return given.tag if isinstance(given, Variable) else given


def _degrees(given: str | Variable) -> tuple[float, float] | None:
    if not isinstance(given, Variable):
        return None
    return (-1.0, given.below) if given.below is not None else (1.0, given.above or 0.0)


def _dates(
    path: Path, given: Mapping[str, str], keys: tuple[str, ...], *, optional: bool = False
) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with a period, and with the amount in it."""
    missing = [key for key in keys if key not in given and not optional]
    if missing or given.keys() - set(keys):
        yield (
            path,
            f"must have {', '.join(keys)}" + (" or less" if optional else " and no other key"),
        )
        return
    try:
        span = _span(given, ZoneInfo("UTC"))
    except ValueError as error:
        yield path, f"{error} (write 2026-01-31, or 2026-01-31T08:00)"
        return
    if span.end <= span.start:
        yield (*path, "to"), "must not be before from"
    try:
        _amount(given.get("amount", "0 kWh"), None)
    except ValueError as error:
        yield (*path, "amount"), str(error)


def _amount(text: str, unit: Unit | None) -> float:
    """Return an amount ``1200 kWh`` in a unit; ``ValueError`` when it is none."""
    number, _, written = text.strip().partition(" ")
    try:
        amount, own = float(number), Unit.parse(written.strip() or "missing")
    except ValueError as error:
        raise ValueError(f'"{text}" is not an amount (write 1200 kWh)') from error
    return amount if unit is None else amount * own.factor_to(unit)


def _span(given: Mapping[str, str], zone: ZoneInfo) -> Span:
    """Return a period in local time; the day that it goes ``to`` is in it, an instant is its end.

    errors  ``ValueError`` when a date is none
    """
    start = _instant(given["from"], zone, 0) if "from" in given else -NEVER
    return Span(start, _instant(given["to"], zone, 1) if "to" in given else NEVER)


def _instant(text: str, zone: ZoneInfo, later: int) -> int:
    """Return an instant in ns; of a date, midnight some days later."""
    at = datetime.fromisoformat(text)
    if len(text) == len("2026-01-31"):
        at += timedelta(days=later)
    return int(at.replace(tzinfo=zone).timestamp()) * SECOND


def _columns(variables: Mapping[str, str | Variable], units: tuple[Unit, ...]) -> tuple[Tag, ...]:
    """Return the columns of a row; units are those of the energy and of the variables."""
    energy, one = units[0], Unit.parse("1")
    amounts = ("actual", "expected", "non_routine", "saving_ipmvp", "saving_gbt28750")
    totals = ("cusum", "cusum_limit", "total_ipmvp", "total_gbt28750")
    judged = ("n_effective", "r2", "r2_adjusted", "cv_rmse", "nmbe", "p_f", "rho")
    found = [Tag(name, energy) for name in amounts]
    found += [Tag("enpi", one), Tag("in_range", one, Kind.STATE), Tag("phase", one, Kind.STATE)]
    found += [Tag(name, energy) for name in (*totals, "uncertainty_68", "uncertainty_90")]
    found += [Tag("fsu_68", one), Tag("fsu_90", one), Tag("significant", one, Kind.STATE)]
    found += [Tag(name, unit) for name, unit in zip(variables, units[1:], strict=True)]
    found += [Tag(name, one) for name in ("n", "left_out", "missed", *judged)]
    found += [Tag("accepted", one, Kind.STATE), Tag("b_0", energy)]
    for name, unit in zip(variables, units[1:], strict=True):
        found += [Tag(f"b_{name}", _per(energy, unit)), Tag(f"t_{name}", one)]
    return (*found, *SHARES)


def _own_columns(variables: Mapping[str, str | Variable]) -> set[str]:
    """Return the names of columns that are not variables."""
    one = Unit.parse("1")
    named = [tag.name for tag in _columns(variables, (one,) * (len(variables) + 1))]
    return {name for name in named if name not in variables or named.count(name) > 1} | {"energy"}


def _per(energy: Unit, unit: Unit) -> Unit:
    """Return energy per unit; of a unit that is itself a quotient: energy times its divisor."""
    over, _, under = unit.code.partition("/")
    if not unit.dimension and unit.factor == 1.0:
        return energy
    code = f"{energy.code}/{over}" + (f".{under}" if under else "")
    try:
        made = Unit.parse(code)
    except ValueError:
        return Unit.parse("1")
    return made
