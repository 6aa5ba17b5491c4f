"""Waste water at an outlet: volume, concentrations weighted by flow, mass, pH.

HJ 212-2017, D.1 (formulas), table 8 (flags); HJ 356-2019 for what is substituted. See
``water_levels`` for the arithmetic and ``water_hours`` for substitution and limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from edge_agent.errors import ConfigError
from edge_agent.metrics.base import Limit, Metric, MetricConfig, Plant, Reference, Window
from edge_agent.metrics.formula import Formula
from edge_agent.metrics.join import Inputs
from edge_agent.metrics.judged import Limits, refuse_two
from edge_agent.metrics.rollup import Chained, Rolling, RollUp
from edge_agent.metrics.water_hours import Days, Hours
from edge_agent.metrics.water_levels import Columns, Level, WaterMinutes, tag_of
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Kind
from edge_agent.units import Unit

# of which rows those of a window are made
SOURCES: Mapping[Window, Window] = {
    "15min": "1min",
    "shift": "1min",
    "1h": "1min",
    "1d": "1h",
    "1mo": "1d",
    "1a": "1mo",
    "12mo": "1mo",
}


@dataclass(frozen=True, kw_only=True)
class WaterConfig(MetricConfig):
    """Waste water at an outlet.

    concentrations  by pollutant, as configs/limits calls it, with _ for -: cod, nh3_n, tn, tp, ss
    flow            the flow, or the counter of the volume
    limits          which limits of ``configs/limits`` daily means are judged by
    """

    kind: ClassVar[str] = "water"

    windows: tuple[Window, ...] = ("1min", "1h", "1d", "1mo")
    concentrations: Mapping[str, str]
    flow: str
    ph: str | None = None
    temperature: str | None = None
    limits: str | None = None

    def references(self) -> list[Reference]:
        found = [
            Reference(("concentrations", name), tag, Kind.GAUGE, "mg/L")
            for name, tag in self.concentrations.items()
        ]
        found.append(Reference(("flow",), self.flow))
        for name, given, unit in (("ph", self.ph, "1"), ("temperature", self.temperature, "Cel")):
            found += [] if given is None else [Reference((name,), given, Kind.GAUGE, unit)]
        return found

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self.concentrations:
            found.append((("concentrations",), "needs at least one pollutant: cod, nh3_n, tn, tp"))
        taken = {"ph", "temperature", "volume"}
        for name in self.concentrations:
            plain = name.replace("_", "").isalnum() and name == name.lower()
            if not plain or name in taken or tag_of(name).unit.code != "mg/L":
                message = f'"{name}" is no name of a pollutant (cod, nh3_n, tn, tp, ss)'
                found.append((("concentrations", name), message))
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        if "shift" in self.windows and not plant.shifts:
            raise ConfigError([f"metrics.{name}.windows: shift needs shifts.calendar"])
        limits = [] if self.limits is None else list(plant.limits(self.limits))
        outlet = _Outlet(name, plant, self, [row for row in limits if row.averaging == "24h"])
        if self.limits is not None and not outlet.columns.judged:
            names = ", ".join(self.concentrations)
            raise ValueError(f'limits "{self.limits}" has no daily limit of {names}')
        refuse_two(self.limits or "", outlet.limits)
        return [outlet.operator(window, self.windows) for window in self._in_order()]

    def _in_order(self) -> list[Window]:
        """Return the windows, each behind those that it is made of."""
        return sorted(self.windows, key=["1min", *SOURCES].index)


@dataclass(frozen=True)
class _Outlet:
    """Builds the operators of an outlet."""

    name: str
    plant: Plant
    config: WaterConfig
    limits: list[Limit]

    def operator(self, window: Window, published: tuple[Window, ...]) -> Metric:
        """Return the operator of a window; what it is made of is in it, where not published."""
        if window == "1min":
            inputs, formula = self._minutes()
            return inputs.minutes(self.name, formula)
        rollup = self._rollup(window)
        source = SOURCES[window]
        return rollup if source in published else Chained(self.operator(source, published), rollup)

    def _minutes(self) -> tuple[Inputs, WaterMinutes]:
        config, inputs = self.config, Inputs(self.plant)
        milligrams, cubic_metre = Unit.parse("mg/L"), Unit.parse("m3")
        measured = {name: inputs.gauge(tag) for name, tag in config.concentrations.items()}
        flow = inputs.amount(config.flow)
        if flow.unit.dimension != cubic_metre.dimension:
            raise ValueError(f'flow: "{config.flow}" counts {flow.unit.code}, must be m3 (or L/s)')
        return inputs, WaterMinutes(
            self.columns,
            self.plant.quality,
            concentrations={n: (g, g.unit.factor_to(milligrams)) for n, g in measured.items()},
            flow=(flow, flow.unit.factor_to(cubic_metre)),
            acidity=None if config.ph is None else inputs.gauge(config.ph),
            heat=None if config.temperature is None else inputs.gauge(config.temperature),
        )

    @property
    def columns(self) -> Columns:
        """What is measured and judged."""
        config = self.config
        limited = {row.pollutant.replace("-", "_") for row in self.limits}
        judged = [name for name in config.concentrations if name in limited]
        judged += ["ph"] if config.ph is not None and limited & {"ph_min", "ph_max"} else []
        heat = config.temperature is not None
        return Columns(tuple(config.concentrations), config.ph is not None, heat, tuple(judged))

    def _rollup(self, window: Window) -> RollUp:
        calendar = Calendar(self.plant.site.zone, self.plant.shifts)
        judged_by = tuple(row.source for row in self.limits)
        level = Level(self.columns, self.plant.quality)
        if window == "1h":
            made = self.plant.provenance(())
            hours = replace(level, stage="hours")
            return Hours(self.name, hours, calendar, provenance=made)
        if window == "1d":
            days = replace(level, stage="days", judged_by=judged_by)
            made = self.plant.provenance(days.sources)
            means = Limits(self.limits, "24h", "mg/L", self.plant.site.zone)
            return Days(self.name, days, calendar, means, provenance=made)
        formula: Formula = level
        if window in {"1mo", "1a", "12mo"}:
            formula = replace(level, stage="months", judged_by=judged_by)
        made, source = self.plant.provenance(formula.sources), SOURCES[window]
        if window == "12mo":
            return Rolling(self.name, formula, calendar, source=source, provenance=made)
        return RollUp(self.name, formula, window, calendar, source=source, provenance=made)
