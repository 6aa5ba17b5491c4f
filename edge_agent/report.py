"""``edge-agent report``: hands the reports what the configuration knows and writes the files.

The reports know stored rows and plain facts only; which tags make a boundary and which table rows
hold for it stand in the configuration, which is above them.
"""

from collections.abc import Iterator
from pathlib import Path

from edge_agent import __version__
from edge_agent.config import Config
from edge_agent.errors import ConfigError
from edge_agent.metrics.carriers import midnight
from edge_agent.metrics.energy import EnergyConfig, Quantity
from edge_agent.reports.figures import Label
from edge_agent.reports.leader import (
    Benchmark,
    Boundary,
    CarrierLine,
    Later,
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
    boundary = _boundary(config, name, energy, span)
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


def _boundary(config: Config, name: str, energy: EnergyConfig, period: Period) -> Boundary:
    product = energy.product or ""
    names = [row.product_zh for row in config.tables.benchmark_levels(product)]
    made = energy.build(name, config.plant())[0].output
    if "output_t" not in made.index:
        raise ConfigError([f"--metric {name}: the sheet is per tonne, and its output has no mass"])
    return Boundary(
        energy.scope,
        product,
        energy.basis,
        _shown(energy.output),
        tuple(_carrier(config, energy, carrier, period) for carrier in energy.carriers),
        (names[0], product) if names else None,
    )


def _shown(output: str | Quantity | None) -> str:
    if not isinstance(output, Quantity):
        return output or ""
    factor = "" if output.factor is None else f" × {output.factor:g} {output.unit}"
    return f"{' + '.join(output.tags)}{factor}"


def _carrier(config: Config, energy: EnergyConfig, carrier: str, period: Period) -> CarrierLine:
    given, main = energy.given(carrier), energy.main(carrier)
    tags = {way: entry.tags for way, entry in given.items()}
    made = given.get("produced")
    own = made.tags if made is not None and made.added else ()
    rates = _rates(config, energy, carrier, period) if main.energy else []
    first = rates[0] if rates else None
    return CarrierLine(
        carrier,
        (*tags.get("inputs", ()), *own),
        None if first is None else first.coefficient,
        tags.get("returned", ()),
        _name(config, carrier),
        "" if first is None else first.row,
        tuple(rates[1:]),
        by_heat=main.pressure is not None,
    )


def _rates(config: Config, energy: EnergyConfig, carrier: str, period: Period) -> list[Later]:
    """Return the coefficients that count in a period, the first from its start on."""
    main, zone = energy.main(carrier), config.site.zone
    place = f"metrics: inputs.{carrier}.lhv"
    if isinstance(main.lhv, str):
        return [Later(period.start_ns, main.lhv, place)]
    if main.lhv is not None:
        found = [Later(midnight(day, zone), text, place) for day, text in main.lhv.items()]
    else:
        code = main.code or ("heat" if main.pressure is not None else carrier)
        basis, standard = main.basis or energy.basis, main.standard or energy.standard
        rows = config.tables.coal_rows(code, basis, standard)
        coefficients = config.tables.coefficients(code, basis, standard)
        found = [
            Later(midnight(given.valid_from, zone), given, row.place)
            for row, given in zip(rows, coefficients, strict=True)
        ]
    found.sort(key=lambda rate: rate.since)
    begun = [rate for rate in found if rate.since <= period.start_ns]
    later = [rate for rate in found if period.start_ns < rate.since < period.end_ns]
    return [*begun[-1:], *later] or found[:1]


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
