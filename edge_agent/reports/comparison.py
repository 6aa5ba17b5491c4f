"""A figure against its levels: distance, share, reached or not; never rounded before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from edge_agent.reports.figures import CONTEXT, STATUS, Figure, Label
from edge_agent.reports.levels import Benchmark, Level


@dataclass(frozen=True)
class _Bound:
    """One level to compare with."""

    key: str
    label: Label
    value: Decimal | None
    row: Level | Benchmark

    @property
    def source(self) -> str:
        """Where the level stands."""
        row = self.row
        standard = f"{row.standard} {row.clause}" if isinstance(row, Level) else row.document
        status = "approved" if row.approved else "unapproved"
        parts = [f"{standard} ({row.edition})", row.source, f"可信度/confidence {row.confidence}"]
        parts += [part for part in (row.note, row.row) if part]
        zh, en = STATUS[status]
        return "; ".join([*parts, f"{zh} / {en}"])


def compared(
    figure: Figure, levels: Sequence[Level], benchmarks: Sequence[Benchmark], *, partial: bool
) -> tuple[Figure, ...]:
    """Return the lines of the comparison and, last, the leader condition.

    partial  the figure is of incomplete data: the verdicts say so
    """
    bounds = [bound for row in levels for bound in _of_level(row, levels.index(row))]
    bounds += [bound for row in benchmarks for bound in _of_benchmark(row, benchmarks.index(row))]
    lines = [line for bound in bounds for line in _lines(figure, bound, partial=partial)]
    return (*lines, _condition(figure, bounds, partial=partial))


def _of_level(row: Level, i: int) -> Iterator[_Bound]:
    suffix = f".{i + 1}" if i else ""
    for n, value in enumerate((row.level1, row.level2, row.level3), 1):
        label = (f"{row.standard} {n}级", f"{row.standard} level {n}")
        yield _Bound(f"level{n}{suffix}", label, value, row)


def _of_benchmark(row: Benchmark, i: int) -> Iterator[_Bound]:
    suffix = f".{i + 1}" if i else ""
    yield _Bound(f"benchmark{suffix}", ("标杆水平", "Benchmark level 标杆"), row.benchmark, row)
    yield _Bound(f"baseline{suffix}", ("基准水平", "Baseline level 基准"), row.baseline, row)


def _reached(figure: Figure, bound: _Bound) -> bool | None:
    if not isinstance(figure.value, Decimal) or bound.value is None:
        return None
    if bound.row.unit != figure.unit:
        raise ValueError(f"{bound.label[1]} is in {bound.row.unit}, the figure in {figure.unit}")
    if bound.row.direction == "inverse":
        return figure.value <= bound.value
    return figure.value >= bound.value


def _verdict(reached: bool | None, *, partial: bool) -> tuple[str, str]:
    """Return the status and its words."""
    status = "unknown" if reached is None else "reached" if reached else "missed"
    zh, en = STATUS[status]
    if partial and reached is not None:
        zh, en = f"{zh}（仅就现有数据）", f"{en} (of the data there is)"
    return status, f"{zh} / {en}"


def _lines(figure: Figure, bound: _Bound, *, partial: bool) -> Iterator[Figure]:
    zh, en = bound.label
    status = "approved" if bound.row.approved else "unapproved"
    yield Figure(bound.key, bound.label, bound.value, bound.source, bound.row.unit, status=status)
    reached = _reached(figure, bound)
    distance = share = None
    if isinstance(figure.value, Decimal) and bound.value is not None:
        distance = CONTEXT.subtract(figure.value, bound.value)
        share = CONTEXT.divide(distance, bound.value) if bound.value else None
    better = "≤" if bound.row.direction == "inverse" else "≥"
    own, key = f"{{{figure.key}}}", f"{{{bound.key}}}"
    source = "单耗 − 水平 / figure − level"
    formula = f"{own}-{key}" if distance is not None else ""
    yield Figure(
        f"{bound.key}.distance", (f"　与{zh}之差", f"　distance to {en}"), distance, source,
        bound.row.unit, formula, style="signed",
    )  # fmt: skip
    yield Figure(
        f"{bound.key}.share", (f"　与{zh}之差（%）", f"　distance to {en}, %"), share,
        "差 ÷ 水平 / distance ÷ level", "1", f"{formula and f'({formula})/{key}'}",
        style="signed share",
    )  # fmt: skip
    verdict, words = _verdict(reached, partial=partial)
    yield Figure(
        f"{bound.key}.reached", (f"　是否达到{zh}", f"　{en} reached"), words,
        f"单耗 {better} 水平，比较前不修约 / figure {better} level, compared unrounded",
        status=verdict,
    )  # fmt: skip


def _condition(figure: Figure, bounds: Sequence[_Bound], *, partial: bool) -> Figure:
    needed = [b for b in bounds if b.key.partition(".")[0] in {"level1", "benchmark"}]
    found = [_reached(figure, bound) for bound in needed]
    kinds = {bound.key.partition(".")[0] for bound in needed}
    reached: bool | None = all(found)
    if False in found:
        reached = False
    elif None in found or kinds != {"level1", "benchmark"}:
        reached = None
    status, words = _verdict(reached, partial=partial)
    if not all(bound.row.approved for bound in needed):
        words += "（依据未核准数据 / by unapproved rows）"
    return Figure(
        "leader",
        ("领跑者能耗条件（1级 且 标杆）", "Leader condition (level 1 AND 标杆)"),
        words,
        "工信厅联节函〔2025〕221号 基本要求二 / basic requirement 2: "
        + ", ".join(bound.label[0] for bound in needed),
        status=status,
        style="main",
    )
