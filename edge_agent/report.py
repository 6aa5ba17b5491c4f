"""``edge-agent report``: hands the reports what the configuration knows and writes the files.

The reports know stored rows and plain facts only; which tags make a boundary and which table rows
hold for it stand in the configuration, which is above them.
"""

from collections.abc import Iterator
from pathlib import Path

from edge_agent import __version__
from edge_agent.config import Config
from edge_agent.errors import ConfigError
from edge_agent.metrics.energy import CarrierInput, EnergyConfig
from edge_agent.reports.figures import Label
from edge_agent.reports.leader import (
    Benchmark,
    Boundary,
    CarrierLine,
    Level,
    leader,
    to_json,
    write_xlsx,
)
from edge_agent.reports.period import Period
from edge_agent.sinks.history import History

INDICATOR = "comprehensive-energy"
PER_TONNE = "kgce/t"


def write_leader(config: Config, period: str, folder: Path, metric: str | None) -> Iterator[str]:
    """Write the leader sheet as XLSX and JSON; yield the lines to show.

    errors  ``ConfigError`` for a period or metric that is none
    """
    try:
        span = Period.parse(period, config.site.zone)
    except ValueError as e:
        raise ConfigError([f"--period: {e}"]) from e
    name, energy = _chosen(config, metric)
    boundary = _boundary(config, energy)
    report = leader(
        site=config.site,
        metric=name,
        boundary=boundary,
        history=History(config.data / "history.db"),
        levels=list(_levels(config, boundary.product)),
        benchmarks=list(_benchmarks(config, boundary.product)),
        period=span,
        config_digest=config.digest,
        version=__version__,
    )
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{config.site.id}-{name}-leader-{period.replace('/', '_').replace(':', '')}"
    sheet, data = folder / f"{stem}.xlsx", folder / f"{stem}.json"
    write_xlsx(report, sheet)
    data.write_bytes(to_json(report))
    intensity = report.figure("intensity").value
    yield f"{name}, {span}: " + ("no figure" if intensity is None else f"{intensity:.3f} kgce/t")
    for zh, en in report.warnings:
        yield f"attention   {zh} / {en}"
    yield f"written     {sheet}"
    yield f"written     {data}"


def _chosen(config: Config, metric: str | None) -> tuple[str, EnergyConfig]:
    """Return the energy metric that is meant: the one named, else the only one with a product."""
    found = {name: m for name, m in config.metrics.items() if isinstance(m, EnergyConfig)}
    if metric is not None:
        if metric not in found:
            known = ", ".join(found) or "none"
            raise ConfigError([f"--metric {metric}: is no energy metric (there are: {known})"])
        return metric, found[metric]
    usable = [(name, m) for name, m in found.items() if m.product and m.output]
    if len(usable) != 1:
        names = ", ".join(name for name, _ in usable) or "none"
        raise ConfigError([f"which energy metric? write --metric NAME (with a product: {names})"])
    return usable[0]


def _boundary(config: Config, energy: EnergyConfig) -> Boundary:
    product = energy.product or ""
    names = [row.product_zh for row in config.tables.benchmark_levels(product)]
    carriers = dict.fromkeys((*energy.inputs, *energy.returned))
    return Boundary(
        energy.scope,
        product,
        energy.basis,
        energy.output or "",
        tuple(_carrier(config, energy, carrier) for carrier in carriers),
        (names[0], product) if names else None,
    )


def _carrier(config: Config, energy: EnergyConfig, carrier: str) -> CarrierLine:
    given = energy.inputs.get(carrier, ())
    returned = energy.returned.get(carrier, ())
    if isinstance(given, CarrierInput) and given.lhv is not None:
        source, name = f"metrics: inputs.{carrier}.lhv", _name(config, carrier)
        return CarrierLine(carrier, given.tags, given.lhv, returned, name=name, row=source)
    row = config.tables.coal(carrier, energy.basis)
    return CarrierLine(
        carrier,
        given.tags if isinstance(given, CarrierInput) else given,
        config.tables.coefficient(carrier, energy.basis),
        returned,
        name=_name(config, carrier),
        row=row.place,
    )


def _name(config: Config, carrier: str) -> Label:
    """Return what a carrier is called: one with a measured heating value may be in no table."""
    return config.tables.names.get(carrier, carrier), carrier


def _levels(config: Config, product: str) -> Iterator[Level]:
    for row in config.tables.limit_levels(product, INDICATOR):
        if row.unit == PER_TONNE:
            correction = ", ".join(row.correction_id)
            yield Level(
                standard=row.standard,
                clause=row.clause,
                unit=row.unit,
                level1=row.level1,
                level2=row.level2,
                level3=row.level3,
                direction=row.direction,
                source=row.source,
                edition=row.edition,
                confidence=row.confidence,
                approved=row.approved,
                row=row.place,
                note=f"未作修正 / correction not applied: {correction}" if correction else "",
            )


def _benchmarks(config: Config, product: str) -> Iterator[Benchmark]:
    for row in config.tables.benchmark_levels(product):
        if row.unit == PER_TONNE:
            yield Benchmark(
                document=row.source,
                unit=row.unit,
                benchmark=row.benchmark,
                baseline=row.baseline,
                source=row.source,
                edition=row.edition,
                confidence=row.confidence,
                approved=row.approved,
                row=row.place,
                note=row.note,
            )
