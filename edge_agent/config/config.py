"""The frozen tree that a configuration file becomes, and the plant that KPIs are built for."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from edge_agent.config.standing import standing
from edge_agent.config.tables import EmissionRow, Tables, levels_of
from edge_agent.drivers.base import DeviceConfig, groups_of
from edge_agent.metrics.base import (
    Co2Factor,
    Coefficient,
    InstrumentFlag,
    Limit,
    MetricConfig,
    QualityLimits,
)
from edge_agent.metrics.demand import DEMANDS, DemandConfig, quantity
from edge_agent.metrics.references import Named
from edge_agent.metrics.tariff_tables import Tariffs
from edge_agent.metrics.water import WaterConfig
from edge_agent.model import Schema, Site
from edge_agent.sinks.base import SinkConfig
from edge_agent.units import Duration, Secret, Size, Unit

DAY = 86400.0
YEAR = 365 * DAY
GIB = 1 << 30

Levels = Sequence[tuple[str, float]]
_PLAIN = frozenset({int, float, bool, type(None)})  # JSON has them as they are
_FIELDS: dict[type[object], tuple[str, ...] | None] = {}  # asking costs as much as the rest


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """The plant that the agent stands in, as a person writes it.

    gateway  one per agent of a site
    """

    id: str
    gateway: str = "main"
    name: str = ""
    timezone: str = "Asia/Shanghai"


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long rows are kept on this box and how much of its disk they may take.

    The log's files stay within ``raw_bytes + waiting_bytes``, those of the history within
    ``slots_bytes + metrics_bytes - waiting_bytes``, all that SQLite adds included.
    """

    raw: Duration = Duration(7 * DAY)
    raw_bytes: Size = Size(2 * GIB)
    slots: Duration = Duration(90 * DAY)
    slots_bytes: Size = Size(1 * GIB)
    metrics: Duration = Duration(5 * YEAR)
    metrics_bytes: Size = Size(2 * GIB)

    @property
    def waiting_bytes(self) -> int:
        """The part of ``metrics_bytes`` for derived rows that wait in the log for sinks."""
        return self.metrics_bytes // 4


@dataclass(frozen=True, kw_only=True)
class Web:
    """Where the dashboard listens: ``host:port``; port 0 is a free one."""

    listen: str = "127.0.0.1:8080"


@dataclass(frozen=True, kw_only=True)
class Shifts:
    """The shifts of a day: name -> ``08:00-16:00``, local time."""

    calendar: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SitePlant:
    """What a KPI may ask while it is built: the ``Plant`` of ``metrics/base.py``."""

    site: Site
    shifts: Mapping[str, str]
    quality: QualityLimits
    devices: Mapping[str, DeviceConfig]
    tables: Tables
    metrics: Mapping[str, MetricConfig] = field(default_factory=dict)
    digest: str = ""

    def raw(self, tag: str) -> Schema:
        """Return the raw stream that holds a tag; ``KeyError`` for an unknown one."""
        device, _, name = tag.partition(".")
        if device in self.metrics and (computed := self.named.raw(tag)) is not None:
            return computed
        config = self.devices[device]
        held = [schema for schema in self._streams[device] if name in schema.index]
        if not held:
            raise KeyError(f"unknown tag {tag}")
        # the flag is read with every stream that it judges; its own is that of its poll class
        written = config.tags[name]
        own = [s for s in held if s.period == config.period_of(written) and s.name != "raw.sub"]
        return (held if written.mode == "subscribe" or not own else own)[0]

    @cached_property
    def _streams(self) -> dict[str, list[Schema]]:
        return {name: [g.schema for g in groups_of(name, d)] for name, d in self.devices.items()}

    def slot(self, tag: str) -> Schema:
        """Return the slot stream of the same tag."""
        from edge_agent.metrics.slots import slot_schema

        raw = self.raw(tag)
        if raw.stream not in self._slots:
            self._slots[raw.stream] = slot_schema(raw)
        return self._slots[raw.stream]

    @cached_property
    def _slots(self) -> dict[str, Schema]:
        return {}

    @cached_property
    def named(self) -> Named:
        """The metrics, for those that use their columns."""
        return Named(self.metrics, self)

    def derived(self, reference: str) -> tuple[Schema, str]:
        """Return stream and column of another metric: ``clinker.intensity_1h``; ``KeyError``."""
        return self.named.column(reference)

    def provenance(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return the configuration's digest and the sources."""
        return (f"config:{self.digest}", *sources)

    def coefficients(self, carrier: str, basis: str, standard: str) -> tuple[Coefficient, ...]:
        """Return the coefficients of all dates; ``KeyError`` that says why there is none."""
        return self.tables.coefficients(carrier, basis, standard)

    def co2_factors(self, code: str, variant: str) -> tuple[Co2Factor, ...]:
        """Return the CO2 factors of all dates; ``KeyError`` that says what there is."""
        return self.tables.co2_factors(code, variant)

    @property
    def tariffs(self) -> Tariffs:
        """The tables of ``configs/tariffs``."""
        return self.tables.tariffs

    def limits(self, prefix: str) -> tuple[Limit, ...]:
        """Return the emission limits whose ids begin so, of all dates; those that have a value."""
        rows = self.tables.emission_limits(prefix)
        return tuple(_limit(row, float(row.limit)) for row in rows if row.limit is not None)

    def flag(self, tag: str) -> InstrumentFlag | None:
        """Return how the device of a tag says in which state it is."""
        device = tag.partition(".")[0]
        flag = self.devices[device].flag if device in self.devices else None
        if flag is None:
            return None
        states = flag.normal, flag.maintenance, flag.calibration, flag.fault
        return InstrumentFlag(f"{device}.{flag.tag}", *states)


def _limit(row: EmissionRow, limit: float) -> Limit:
    o2 = None if row.o2_reference_pct is None else float(row.o2_reference_pct)
    judged = row.pollutant, limit, row.unit, row.averaging, o2
    return Limit(row.id, *judged, row.valid_from, row.valid_to, row.approved)


@dataclass(frozen=True, eq=False, kw_only=True)
class Config:
    """A whole configuration, checked; everything that the agent is built from.

    path     the file it was read from
    data     folder of the log and the history, absolute
    devices  with the tags of their templates
    commit   how long a row may wait for its commit; None: as long as the shortest poll period
    """

    path: Path
    site: Site
    data: Path
    retention: Retention
    devices: Mapping[str, DeviceConfig]
    shifts: Mapping[str, str]
    quality: QualityLimits
    metrics: Mapping[str, MetricConfig]
    sinks: Mapping[str, SinkConfig]
    web: Web
    commit: Duration | None
    tables: Tables

    def plant(self) -> SitePlant:
        """Return the plant that KPIs are built for."""
        return SitePlant(
            self.site,
            self.shifts,
            self.quality,
            self.devices,
            self.tables,
            self.every_metric,
            self.digest,
        )

    @cached_property
    def every_metric(self) -> Mapping[str, MetricConfig]:
        """The metrics and alarms that are configured, and those that stand without being so."""
        taken = {*self.devices, *self.metrics}
        return {**self.metrics, **standing(self.devices, taken)}

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the hash of all that figures depend on; no secret is in it."""
        parts = (self.site, self.device_digests, self.shifts, self.quality, self.metrics)
        return _digest(*parts, self.tables.digest)

    @cached_property
    def device_digests(self) -> dict[str, str]:
        """The same for what the readings of each device depend on."""
        return {name: _digest(name, device) for name, device in self.devices.items()}

    def targets(self) -> dict[str, Levels]:
        """Return the levels to show beside a figure, best first: ``clinker.intensity`` -> levels.

        The names are Chinese and English, parted by a stroke; a level that no person has compared
        with the official text says so.
        """
        found: dict[str, Levels] = {}
        for name, metric in self.metrics.items():
            product, limits = (getattr(metric, key, None) for key in ("product", "limits"))
            if isinstance(product, str) and product:
                found |= {f"{name}.intensity": shown} if (shown := self._intensity(product)) else {}
            if isinstance(metric, WaterConfig):
                found |= self._waste_water(name, metric)
            elif isinstance(limits, str) and limits:
                found |= self._emissions(name, limits)
            if isinstance(metric, DemandConfig) and metric.contract is not None:
                level = "合同需量/contract", quantity(metric.contract, "kW")
                found |= {f"{name}.{column}": [level] for column in DEMANDS}
        return found

    def _intensity(self, product: str) -> Levels:
        for row in self.tables.limit_levels(product, "comprehensive-energy"):
            if row.unit == "kgce/t":
                mark = _mark(approved=row.approved)
                return [
                    (f"{i}级{mark[0]}/level {i}{mark[1]}", float(level))
                    for i, level in enumerate(levels_of(row), 1)
                ]
        return []

    def _emissions(self, name: str, limits: str) -> dict[str, Levels]:
        found: dict[str, Levels] = {}
        for row in self.tables.emission_limits(limits):
            if row.limit is not None and row.unit == "mg/m3":
                mark = _mark(approved=row.approved)
                shown = (f"限值{mark[0]}/limit{mark[1]}", float(row.limit))
                found.setdefault(f"{name}.{row.pollutant}_corrected", [shown])
        return found

    def _waste_water(self, name: str, outlet: WaterConfig) -> dict[str, Levels]:
        found: dict[str, Levels] = {}
        for row in self.tables.emission_limits(outlet.limits or ""):
            pollutant = row.pollutant.replace("-", "_")
            if (
                row.limit is not None
                and row.averaging == "24h"
                and pollutant in outlet.concentrations
            ):
                mark, unit = _mark(approved=row.approved), Unit.parse("mg/L")
                limit = float(row.limit) * Unit.parse(row.unit).factor_to(unit)
                shown = (f"日均限值{mark[0]}/daily limit{mark[1]}", limit)
                found.setdefault(f"{name}.{pollutant}", [shown])
        return found


def _mark(*, approved: bool) -> tuple[str, str]:
    return ("", "") if approved else ("（未核准）", " (unapproved)")


def _digest(*said: object) -> str:
    text = json.dumps([_canonical(part) for part in said], ensure_ascii=False)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _canonical(value: object) -> object:
    """Return what JSON can hold; secrets, and passwords in addresses, are stars."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if (names := _fields(kind)) is not None:
        held = [(name, _canonical(getattr(value, name))) for name in names]
        return {"": kind.__name__} | dict(held)
    if isinstance(value, Mapping):
        return [[str(key), _canonical(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value if isinstance(value, int | float) else _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, str) and "@" in value:
        return re.sub(r"(?<=//)[^/@]*@", "***@", value)
    return "***" if isinstance(value, Secret) else str(value)


def _fields(kind: type[object]) -> tuple[str, ...] | None:
    """Return the names of a dataclass's fields; None for another type."""
    if kind not in _FIELDS:
        found = tuple(f.name for f in fields(kind)) if is_dataclass(kind) else None
        _FIELDS[kind] = found
    return _FIELDS[kind]
