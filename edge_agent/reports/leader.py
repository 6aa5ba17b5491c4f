"""The leader sheet: energy per tonne of a boundary, its levels, and where every figure comes from.

A candidate for 能效"领跑者" must reach level 1 of the mandatory limit standard AND the 标杆 level
of the benchmark notice (工信厅联节函〔2025〕221号, basic requirement 2). The sheet shows whether
the stored rows say so; it never rounds before it compares, never extrapolates, and says at its top
when it rests on table rows that no person has compared with the official text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import orjson

from edge_agent.model import Site
from edge_agent.reports.carriers import (
    BASIS,
    Boundary,
    CarrierLine,
    Later,
    Work,
    both,
    carrier_lines,
)
from edge_agent.reports.comparison import compared
from edge_agent.reports.figures import CONTEXT, Figure, Label, Section
from edge_agent.reports.levels import Benchmark, Level
from edge_agent.reports.period import Period
from edge_agent.reports.windows import History, Rows, choose, covers

__all__ = [
    "Benchmark", "Boundary", "CarrierLine", "Later", "LeaderReport", "Level", "leader", "to_json",
    "write_xlsx",
]  # fmt: skip

SCOPE: Mapping[str, Label] = {
    "plant": ("企业", "plant"),
    "process": ("工序", "process"),
    "unit": ("单元", "unit"),
    "equipment": ("设备", "equipment"),
}


@dataclass(frozen=True)
class LeaderReport:
    """A finished document; ``write_xlsx`` and ``to_json`` show the same content."""

    title: Label
    subtitle: str
    warnings: tuple[Label, ...]
    sections: tuple[Section, ...]
    approved: bool
    complete: bool

    def figure(self, key: str) -> Figure:
        """Return one line; ``KeyError`` for an unknown key."""
        found = [f for section in self.sections for f in section.figures if f.key == key]
        if not found:
            raise KeyError(key)
        return found[0]


def leader(
    *,
    site: Site,
    metric: str,
    boundary: Boundary,
    history: History,
    levels: Sequence[Level],
    benchmarks: Sequence[Benchmark],
    period: Period,
    config_digest: str,
    version: str,
) -> LeaderReport:
    """Return the sheet of one energy boundary and one period, from stored rows.

    levels, benchmarks  rows of the tables for the boundary's product, in kgce/t; may be empty
    """
    columns = [f"{c.carrier}{s}" for c in boundary.carriers for s in ("", *_suffixes(c))]
    ranked = choose(history, metric, period, [*columns, "total_kgce", "output_t"])
    work = Work(boundary, history, period, ranked[0], config_digest)
    carriers = [figure for line in boundary.carriers for figure in carrier_lines(work, line)]
    result = work.keep(_result(work))
    comparison = compared(
        work.figures["intensity"], levels, benchmarks, partial=not covers(work.rows, period)
    )
    sections = (
        Section(("对象与边界", "Subject and boundary"), _subject(work, site, metric, version)),
        Section(("能源消耗", "Energy by carrier"), tuple(carriers)),
        Section(("综合能耗与单位产品能耗", "Total and energy per tonne"), tuple(result)),
        *_beside(work),
        Section(("能效对标", "Comparison with the levels"), comparison),
        Section(("数据完整性", "Completeness of the data"), _completeness(work, ranked)),
    )
    figures = [figure for section in sections for figure in section.figures]
    approved = not any(figure.status == "unapproved" for figure in figures)
    return LeaderReport(
        ("能效“领跑者”单位产品能耗核算表", "Energy efficiency leader: energy per unit of product"),
        f"{site.name} · {metric} · {period}",
        _warnings(work, figures),
        sections,
        approved,
        covers(work.rows, period),
    )


def _suffixes(line: CarrierLine) -> tuple[str, ...]:
    if line.coefficient is None:
        return ()
    return ("_kgce", "_gj") if line.by_heat else ("_kgce",)


def _warnings(work: Work, figures: Sequence[Figure]) -> tuple[Label, ...]:
    found: list[Label] = []
    if any(figure.status == "unapproved" for figure in figures):
        found.append(("含未核准系数，不得用于正式申报", "uses unapproved rows, not for submission"))
    if not covers(work.rows, work.period):
        have = f"{len(work.rows.usable)}/{work.rows.expected}"
        found.append(
            (
                f"数据不完整（{have} 个时段），仅就现有数据核算，未作外推",
                f"incomplete data ({have} windows): figures are of what is there, not extrapolated",
            )
        )
    differing = [figure.label for figure in figures if figure.agrees is False]
    if differing:
        zh, en = (", ".join(names) for names in zip(*differing, strict=True))
        found.append((f"与存储值不符：{zh}", f"differs from the stored value: {en}"))
    return tuple(found)


def _subject(work: Work, site: Site, metric: str, version: str) -> tuple[Figure, ...]:
    boundary, period = work.boundary, work.period
    config = f"config {work.digest}"
    product = boundary.product_name or (boundary.product, boundary.product)
    scope = SCOPE.get(boundary.scope, (boundary.scope, boundary.scope))
    basis = BASIS.get(boundary.basis, (boundary.basis, boundary.basis))
    said: list[tuple[str, Label, str, str]] = [
        ("site", ("企业", "Enterprise"), f"{site.name} ({site.id} / {site.gateway})", "site"),
        ("metric", ("核算对象", "Metric"), metric, f"metrics.{metric}"),
        ("scope", ("边界层级", "Scope"), both(scope), f"metrics.{metric}.scope"),
        ("product", ("产品", "Product"), f"{both(product)} [{boundary.product}]",
         f"metrics.{metric}.product"),
        ("basis", ("折标基准", "Basis"), both(basis), f"metrics.{metric}.basis"),
        ("output_tag", ("产量计量", "Output counter"), boundary.output_tag,
         f"metrics.{metric}.output"),
        ("period", ("统计期", "Period"), str(period), f'--period {period.text}; {period.zone.key}'),
        ("digest", ("配置指纹", "Configuration"), work.digest, f"edge-agent {version}"),
    ]  # fmt: skip
    return tuple(
        Figure(key, label, value, source if key in {"period", "digest"} else f"{config}: {source}")
        for key, label, value, source in said
    )


def _result(work: Work) -> list[Figure]:
    """Return total, output and energy per tonne, the last one last."""
    rows, status = work.rows, "" if covers(work.rows, work.period) else "partial"
    counted = [line.carrier for line in work.boundary.carriers if line.coefficient is not None]
    coals = [work.value(f"{carrier}.kgce") for carrier in counted]
    known = [coal for coal in coals if coal is not None]
    energy = None
    if len(known) == len(coals) and known:
        energy = Decimal(0)
        for coal in known:
            energy = CONTEXT.add(energy, coal)
    output = rows.sum("output_t")
    intensity = None if energy is None or not output else CONTEXT.divide(energy, output)
    stored = rows.sum("total_kgce")
    per_tonne = None if stored is None or not output else CONTEXT.divide(stored, output)
    formula = "+".join(f"{{{carrier}.kgce}}" for carrier in counted)
    return [
        Figure("total", ("综合能耗", "Total energy"), energy,
               "各能源折标煤之和 / sum of the carriers; 存储/stored: "
               + rows.source("total_kgce", work.digest),
               "kgce", formula, stored, status),
        Figure("output", ("产量", "Output"), output,
               f"{rows.source('output_t', work.digest)}; {work.boundary.output_tag}", "t",
               status=status),
        Figure("intensity", ("单位产品综合能耗", "Energy per tonne"), intensity,
               "综合能耗 ÷ 产量 / total ÷ output; 存储/stored: Σ total_kgce ÷ Σ output_t",
               "kgce/t", "{total}/{output}", per_tonne, status, style="main"),
    ]  # fmt: skip


_BESIDE: Mapping[str, Label] = {
    "total_gj": ("综合能耗（热量）", "Total energy, heat"),
    "total_tco2": ("二氧化碳排放", "CO2"),
    "produced_kgce": ("自产能源", "Own production"),
    "non_fossil_kgce": ("非化石能源", "Non-fossil energy"),
}


def _beside(work: Work) -> tuple[Section, ...]:
    """Return what the rows have beside the energy; the leader notice asks for 20 % non-fossil."""
    rows, status = work.rows, "" if covers(work.rows, work.period) else "partial"
    found = []
    for key, label in _BESIDE.items():
        if rows.block is None or key not in rows.block.schema.index:
            continue
        unit = rows.unit(key)
        value = rows.sum(key) if rows.known(key) else None  # a day without a factor has none
        mark = status if value is not None else "partial"
        code = "" if unit is None else unit.code
        found.append(Figure(key, label, value, rows.source(key, work.digest), code, status=mark))
    work.keep(found)
    green = work.value("non_fossil_kgce") if "non_fossil_kgce" in work.figures else None
    energy = work.value("total")
    if green is not None and energy:
        label = ("非化石能源占比", "Non-fossil share")
        source = (
            "非化石能源 ÷ 综合能耗 / non-fossil ÷ total; 官方算法未核实 / official way not known"
        )
        share, formula = CONTEXT.divide(green, energy), "{non_fossil_kgce}/{total}"
        found.append(
            Figure(
                "non_fossil_share", label, share, source,
                formula=formula, status=status, style="share",
            )
        )  # fmt: skip
    title = ("热量、排放与非化石能源", "Heat, emissions, non-fossil energy")
    return (Section(title, tuple(found)),) if found else ()


def _completeness(work: Work, ranked: Sequence[Rows]) -> tuple[Figure, ...]:
    rows = work.rows
    whole = covers(rows, work.period)
    source = rows.source("coverage", work.digest)
    others = ", ".join(f"{r.window} {len(r.usable)}/{r.expected}" for r in ranked)
    if whole and rows.window == "1h":
        why = "小时行覆盖全期 / hourly rows cover the whole period"
    elif whole:
        why = "小时行不全，取覆盖全期的最短时段 / hourly rows do not; the shortest window that does"
    else:
        why = "没有时段覆盖全期，取覆盖最多者 / no window covers it; the one that covers most"
    status = "complete" if whole else "partial"
    count = f"{rows.stream}; config {work.digest}"
    return (
        Figure("window", ("所用时段", "Window used"), rows.window, f"{why} ({others})"),
        Figure("expected", ("应有时段数", "Windows expected"), rows.expected, str(work.period)),
        Figure("present", ("已有行数", "Rows present"), rows.present, count),
        Figure("used", ("参与核算行数", "Rows used"), len(rows.usable),
               f"{count}; 各列均有效 / every column has a value", status=status),
        Figure("coverage", ("覆盖率（按时间加权）", "Coverage, time-weighted"),
               rows.share("coverage"), f"{source}; 缺行计 0 / a missing row counts 0",
               style="share"),
        Figure("estimated", ("估算占比（按时间加权）", "Estimated share, time-weighted"),
               rows.share("estimated"), rows.source("estimated", work.digest), style="share"),
    )  # fmt: skip


def to_json(report: LeaderReport) -> bytes:
    """Return the same content as JSON: numbers as float64 and as exact text."""
    written = {
        "title": {"zh": report.title[0], "en": report.title[1]},
        "subtitle": report.subtitle,
        "approved": report.approved,
        "complete": report.complete,
        "warnings": [{"zh": zh, "en": en} for zh, en in report.warnings],
        "sections": [
            {
                "title": {"zh": section.title[0], "en": section.title[1]},
                "figures": [_written(figure) for figure in section.figures],
            }
            for section in report.sections
        ],
    }
    return orjson.dumps(written, option=orjson.OPT_INDENT_2) + b"\n"


def _written(figure: Figure) -> dict[str, object]:
    number = figure.value if isinstance(figure.value, Decimal) else None
    return {
        "key": figure.key,
        "label": {"zh": figure.label[0], "en": figure.label[1]},
        "value": figure.value if number is None else float(number),
        "exact": None if number is None else str(number),
        "unit": figure.unit,
        "stored": None if figure.stored is None else str(figure.stored),
        "agrees": figure.agrees,
        "formula": figure.formula,
        "status": figure.status,
        "source": figure.source,
    }


def write_xlsx(report: LeaderReport, path: Path) -> None:
    """Write the report as one sheet that prints on A4; computed cells are formulas."""
    from edge_agent.reports.sheet import write

    write(report.title, report.subtitle, report.warnings, report.sections, path)
