"""The carriers of a boundary: amount, coefficient and coal equivalent, line by line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from edge_agent.metrics.base import Coefficient
from edge_agent.reports.figures import CONTEXT, STATUS, Figure, Label, exact
from edge_agent.reports.period import SECOND, Period
from edge_agent.reports.windows import History, Rows, covers, increments
from edge_agent.units import Unit

MJ_PER_KGCE = Decimal("29.3076")  # GB/T 2589-2020: 1 kgce = 29 307.6 kJ
BASIS: Mapping[str, Label] = {
    "equivalent": ("当量值", "equivalent (当量)"),
    "equal-value": ("等价值", "equal-value (等价)"),
}


@dataclass(frozen=True)
class CarrierLine:
    """One energy carrier of the boundary.

    carrier      the column of the metric's rows: ``electricity``
    tags         its counters; returned_tags: those of what leaves the boundary again
    coefficient  the row of the table, or a measured heating value: ``23.1 MJ/kg``; None: no energy
    name         Chinese and English; row: where the coefficient stands, ``file:line``
    later        coefficients that count from a later time in the period on
    by_heat      whether the coefficient is that of its heat, as for steam
    """

    carrier: str
    tags: tuple[str, ...]
    coefficient: Coefficient | str | None
    returned_tags: tuple[str, ...] = ()
    name: Label | None = None
    row: str = ""
    later: "tuple[Later, ...]" = ()
    by_heat: bool = False


@dataclass(frozen=True)
class Later:
    """A coefficient that counts from a time on, in ns; row: where it stands."""

    since: int
    coefficient: Coefficient | str
    row: str = ""


@dataclass(frozen=True)
class Boundary:
    """What is measured: scope, product, basis of the coefficients, counters."""

    scope: str
    product: str
    basis: str
    output_tag: str
    carriers: tuple[CarrierLine, ...]
    product_name: Label | None = None


@dataclass(frozen=True)
class Work:
    """What the parts of the sheet share."""

    boundary: Boundary
    history: History
    period: Period
    rows: Rows
    digest: str
    figures: dict[str, Figure] = field(default_factory=dict)

    def value(self, key: str) -> Decimal | None:
        found = self.figures[key].value
        return found if isinstance(found, Decimal) else None

    def keep(self, figures: list[Figure]) -> list[Figure]:
        self.figures.update({figure.key: figure for figure in figures})
        return figures


def both(label: Label) -> str:
    """Return a label in both languages, once if they are the same."""
    zh, en = label
    return zh if zh == en else f"{zh} / {en}"


def carrier_lines(work: Work, line: CarrierLine) -> list[Figure]:
    """Return amount (what came in, what went out, net), coefficient and coal equivalent."""
    zh, en = line.name or (line.carrier, line.carrier)
    rows, key = work.rows, line.carrier
    unit = rows.unit(key) if rows.block is not None and key in rows.block.schema.index else None
    code = unit.code if unit is not None else ""
    figures = _returned(work, line, unit, (zh, en)) if line.returned_tags else []
    net = ("（净）", ", net") if line.returned_tags else ("", "")
    counters = ", ".join([*line.tags, *(f"−{tag}" for tag in line.returned_tags)])
    figures.append(
        Figure(
            f"{key}.amount",
            (f"{zh} · 实物量{net[0]}", f"{en}: amount{net[1]}"),
            rows.sum(key),
            f"{rows.source(key, work.digest)}; {counters}",
            code,
            status="" if covers(rows, work.period) else "partial",
        )
    )
    work.keep(figures)
    return figures if line.coefficient is None else [*figures, *_coal(work, line, (zh, en))]


def _coal(work: Work, line: CarrierLine, name: Label) -> list[Figure]:
    """Return coefficient and coal equivalent; each coefficient counts for its own days."""
    rows, key = work.rows, line.carrier
    column = f"{key}_gj" if line.by_heat else key
    unit = (
        rows.unit(column) if rows.block is not None and column in rows.block.schema.index else None
    )
    given = [Later(work.period.start_ns, line.coefficient or "", line.row), *line.later]
    figures, terms = list[Figure](), list[str]()
    coal: Decimal | None = Decimal(0)
    for i, part in enumerate(given):
        number = "" if len(given) == 1 else str(i + 1)
        measure = f"{key}.amount"
        if number or line.by_heat:
            until = given[i + 1].since if i + 1 < len(given) else None
            measure = f"{key}.measure{number}"
            figures.append(_measure(work, column, unit, (measure, name), (part.since, until)))
        k = _coefficient(f"{key}.k{number}", part, unit, name)
        work.keep([*figures, k])
        figures.append(k)
        amount, factor = work.value(measure), work.value(k.key)
        coal = (
            None
            if coal is None or amount is None or factor is None
            else CONTEXT.add(coal, CONTEXT.multiply(amount, factor))
        )
        terms.append(f"{{{measure}}}*{{{k.key}}}")
    source = "实物量 × 系数 / amount × coefficient"
    source = "焓值热量 × 系数 / heat by enthalpy × coefficient" if line.by_heat else source
    figures.append(
        Figure(
            f"{key}.kgce",
            (f"{name[0]} · 折标煤", f"{name[1]}: coal equivalent"),
            coal,
            f"{source}; 存储/stored: {rows.source(f'{key}_kgce', work.digest)}",
            "kgce",
            "+".join(terms),
            rows.sum(f"{key}_kgce"),
        )
    )
    return work.keep(figures)


def _measure(
    work: Work,
    column: str,
    unit: Unit | None,
    named: tuple[str, Label],
    span: tuple[int, int | None],
) -> Figure:
    """Return what one coefficient counts for: the amount, or the heat, of its days."""
    key, (zh, en) = named
    status = "" if covers(work.rows, work.period) else "partial"
    source = f"{work.rows.source(column, work.digest)}; {_days(work.period, *span)}"
    code = unit.code if unit is not None else ""
    label = (f"{zh} · 计算量", f"{en}: of these days")
    return Figure(key, label, work.rows.sum(column, *span), source, code, status=status)


def _days(period: Period, since: int, until: int | None) -> str:
    first, last = (
        datetime.fromtimestamp(ns // SECOND, period.zone)
        for ns in (max(since, period.start_ns), period.end_ns if until is None else until)
    )
    return f"{first:%Y-%m-%d %H:%M} – {last:%Y-%m-%d %H:%M}"


def _returned(work: Work, line: CarrierLine, unit: Unit | None, name: Label) -> list[Figure]:
    """Return what came in and what was returned, from the minute rows of the counters."""
    figures = []
    for part, tags, zh, en in (
        ("in", line.tags, "输入", "taken in"),
        ("returned", line.returned_tags, "返还（抵扣）", "returned (deducted)"),
    ):
        value, source = (
            (None, "–") if unit is None else increments(work.history, tags, work.period, unit)
        )
        if value is None:
            source += "; 已包含在净值中 / contained in the net amount"
        status = "" if value is not None else "partial"
        label = (f"{name[0]} · {zh}", f"{name[1]}: {en}")
        code = unit.code if unit is not None else ""
        figures.append(Figure(f"{line.carrier}.{part}", label, value, source, code, status=status))
    return figures


def _coefficient(key: str, part: Later, unit: Unit | None, name: Label) -> Figure:
    """Return kgce per unit of the amount, and what it rests on."""
    code = unit.code if unit is not None else ""
    label = (f"{name[0]} · 折标准煤系数", f"{name[1]}: coefficient")
    given = part.coefficient
    if isinstance(given, str):
        number, _, per = given.strip().partition(" ")
        energy, _, quantity = per.strip().partition("/")
        megajoules = exact(Unit.parse(energy).factor_to(Unit.parse("MJ")))
        factor = _factor(unit, quantity)
        value = CONTEXT.divide(Decimal(number) * megajoules * factor, MJ_PER_KGCE)
        source = (
            f"实测低位发热量/measured LHV {given}; k = LHV / {MJ_PER_KGCE} MJ/kgce (GB/T 2589-2020)"
        )
        formula = f"{number}*{megajoules.normalize():f}*{factor.normalize():f}/{MJ_PER_KGCE}"
        return Figure(key, label, value, source, f"kgce/{code}", formula, status="measured")
    status = "approved" if given.approved else "unapproved"
    source = (
        f"{given.standard} ({given.edition}), {given.code}, {BASIS.get(given.basis, ('', ''))[0]}; "
        f"{given.source}; 有效/valid {given.valid_from}–{given.valid_to}; "
        f"可信度/confidence {given.confidence}; {both(STATUS[status])}"
    )
    source += f"; {part.row}" if part.row else ""
    value = CONTEXT.multiply(exact(given.kgce_per_unit), _factor(unit, given.unit))
    return Figure(key, label, value, source, f"kgce/{code}", status=status)


def _factor(unit: Unit | None, per: str) -> Decimal:
    """Return how many of the coefficient's units a unit of the amount is."""
    return Decimal(1) if unit is None else exact(unit.factor_to(Unit.parse(per)))
