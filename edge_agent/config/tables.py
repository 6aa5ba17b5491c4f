"""The dated tables that figures rest on: coefficients, benchmark levels, corrections, limits.

One fact per row, with its source, its dates and whether a person has approved it (``status``). A
table beside the plant's file (``benchmarks/limit_levels.csv``) is read in place of the packaged
one. Numbers stay the decimal digits that were printed. An empty value is missing, never zero.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cached_property
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

from edge_agent.config.words import nearest
from edge_agent.errors import ConfigError, Fault
from edge_agent.metrics.base import Coefficient

STANDARD = "GB/T 2589-2020"

Cells = Mapping[str, str]
T = TypeVar("T", bound="Row")


def data_dir() -> Path:
    """Return the folder of meters, tables and examples: in the installed package, or beside it."""
    spec = find_spec("edge_agent")
    if spec is None or spec.origin is None:
        raise ConfigError(["the package edge_agent is not installed as a folder"])
    package = Path(spec.origin).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every row says about itself.

    valid_from, valid_to  ISO dates, both inclusive; empty: not read, or still in force
    confidence            A official text read, B one transcription, B2 two agree, M unverified
    status                ``approved`` when a person has compared the row with the official text
    place                 ``file:line``
    """

    source: str
    edition: str
    valid_from: str
    valid_to: str
    confidence: str
    status: str
    note: str
    place: str

    @property
    def approved(self) -> bool:
        """Whether a person has compared the row with the official text."""
        return self.status == "approved"

    def in_force(self, on: date | None) -> bool:
        """Return whether the row is valid on a day; None: whether its end is open."""
        if on is None:
            return not self.valid_to
        day = on.isoformat()
        return self.valid_from <= day and (not self.valid_to or day <= self.valid_to)


@dataclass(frozen=True, kw_only=True)
class CoalRow(Row):
    """How much standard coal a unit of an energy carrier is.

    basis  equivalent (当量) or equal-value (等价)
    """

    code: str
    name_zh: str
    standard: str
    unit: str
    ncv_value: Decimal | None
    ncv_unit: str
    kgce_per_unit: Decimal | None
    basis: str


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow(Row):
    """标杆 and 基准 level of a product."""

    product_code: str
    product_zh: str
    condition: str
    unit: str
    benchmark: Decimal | None
    baseline: Decimal | None
    field_group: str
    retrofit_deadline: str
    limit_standard: str
    limit_product_codes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LimitRow(Row):
    """Levels 1 to 3 of one indicator of a product.

    direction      inverse: lower is better; forward: higher is better
    correction_id  the corrections that apply, in this order
    """

    standard: str
    product_code: str
    product_zh: str
    condition: str
    indicator: str
    indicator_zh: str
    direction: str
    unit: str
    level1: Decimal | None
    level2: Decimal | None
    level3: Decimal | None
    correction_id: tuple[str, ...]
    leader_sector: str
    clause: str


@dataclass(frozen=True, kw_only=True)
class CorrectionRow(Row):
    """A rule that changes a limit or a measured value before they are compared."""

    correction_id: str
    standard: str
    applies_to_levels: tuple[str, ...]
    target: str
    expression: str
    variables: str
    clause: str


@dataclass(frozen=True, kw_only=True)
class EmissionRow(Row):
    """The limit of one pollutant; air in mg/m3 dry at 273 K and 101.325 kPa."""

    id: str
    standard: str
    area_or_unit: str
    medium: str
    pollutant: str
    limit: Decimal | None
    unit: str
    averaging: str
    o2_reference_pct: Decimal | None


@dataclass(frozen=True)
class _Table(Generic[T]):
    """One file: its rows, and what their cells must be."""

    path: str
    kind: type[T]
    key: tuple[str, ...]
    numbers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    words: Mapping[str, frozenset[str]] | None = None


_CONFIDENCE = frozenset({"A", "B", "B2", "M"})
_STATUS = frozenset({"approved", "unapproved"})
_COAL = _Table(
    "coefficients/standard_coal.csv",
    CoalRow,
    ("code", "standard", "basis"),
    frozenset({"ncv_value", "kgce_per_unit"}),
    words={"basis": frozenset({"equivalent", "equal-value"})},
)
_BENCHMARK = _Table(
    "benchmarks/benchmark_levels.csv",
    BenchmarkRow,
    ("product_code",),
    frozenset({"benchmark", "baseline"}),
    frozenset({"limit_product_codes"}),
)
_LIMIT = _Table(
    "benchmarks/limit_levels.csv",
    LimitRow,
    ("standard", "product_code", "condition", "indicator"),
    frozenset({"level1", "level2", "level3"}),
    frozenset({"correction_id"}),
    words={"direction": frozenset({"inverse", "forward"})},
)
_CORRECTION = _Table(
    "benchmarks/corrections.csv",
    CorrectionRow,
    ("correction_id", "applies_to_levels"),
    lists=frozenset({"applies_to_levels"}),
    words={"target": frozenset({"limit", "actual", "actual-input"})},
)
_EMISSION = _Table(
    "limits/emission_limits.csv",
    EmissionRow,
    ("id",),
    frozenset({"limit", "o2_reference_pct"}),
)


class Tables:
    """The tables of one configuration.

    folders  searched in this order for each file
    errors   ``ConfigError`` with every row that is malformed, at ``file:line:1``
    """

    def __init__(self, *folders: Path) -> None:
        faults: list[Fault] = []
        self._folders = folders or (data_dir(),)
        self._coal = self._read(_COAL, faults)
        self._benchmarks = self._read(_BENCHMARK, faults)
        self._limits = self._read(_LIMIT, faults)
        self._corrections = self._read(_CORRECTION, faults)
        self._emissions = self._read(_EMISSION, faults)
        if faults:
            raise ConfigError(faults)

    def _read(self, table: _Table[T], faults: list[Fault]) -> tuple[T, ...]:
        for folder in self._folders:
            path = folder / table.path
            if path.is_file():
                return tuple(_rows(table, path, faults))
        faults.append(
            Fault(table.path, 1, 1, f"is in none of {', '.join(map(str, self._folders))}")
        )
        return ()

    @cached_property
    def digest(self) -> str:
        """A hash of the rows that figures in the log depend on: coefficients and limits."""
        coal = [
            (r.code, r.standard, r.basis, r.unit, str(r.kgce_per_unit), r.valid_from, r.valid_to)
            for r in self._coal
        ]
        limits = [
            (r.id, r.pollutant, str(r.limit), r.unit, r.averaging, r.valid_from, r.valid_to)
            for r in self._emissions
        ]
        return blake2b(repr((coal, limits)).encode(), digest_size=8).hexdigest()

    def coal(
        self, code: str, basis: str, on: date | None = None, standard: str = STANDARD
    ) -> CoalRow:
        """Return the row of a carrier's coefficient; it has a value.

        on      the day it is in force; None: that of the edition that has no end yet
        errors  ``KeyError`` that says why there is none
        """
        name = f'"{code}" ({basis}, {standard})'
        known = [r for r in self._coal if r.standard == standard and r.basis == basis]
        rows = [r for r in known if r.code == code]
        if not rows:
            hint = nearest(code, dict.fromkeys(r.code for r in known))
            raise KeyError(f"no coefficient for {name} in {_COAL.path}{hint}")
        rows = sorted((r for r in rows if r.in_force(on)), key=lambda r: r.valid_from)
        if not rows:
            raise KeyError(f"no coefficient for {name} is in force on {on or 'an open date'}")
        row = rows[-1]
        if row.kgce_per_unit is None:
            raise KeyError(f"the coefficient for {name} has no value yet ({row.place}): {row.note}")
        return row

    def coefficient(
        self, code: str, basis: str, on: date | None = None, standard: str = STANDARD
    ) -> Coefficient:
        """Return the coefficient of a carrier, as ``coal`` finds it."""
        row = self.coal(code, basis, on, standard)
        return Coefficient(
            row.code, row.unit, float(row.kgce_per_unit or 0), row.basis, row.standard, row.source,
            row.edition, row.valid_from, row.valid_to, row.confidence, row.approved,
        )  # fmt: skip

    def carriers(self, standard: str = STANDARD) -> tuple[str, ...]:
        """Return the codes of a standard's carriers."""
        return tuple(dict.fromkeys(r.code for r in self._coal if r.standard == standard))

    @cached_property
    def names(self) -> dict[str, str]:
        """Chinese names of the carriers, by code; as in the present standard where it has one."""
        rows = sorted(self._coal, key=lambda r: r.standard == STANDARD)
        return {row.code: row.name_zh.partition("（")[0] for row in rows}

    def limit_levels(self, product: str, indicator: str | None = None) -> tuple[LimitRow, ...]:
        """Return the levels of a product; several rows when they depend on a condition."""
        return tuple(
            r
            for r in self._limits
            if r.product_code == product and indicator in {None, r.indicator}
        )

    def benchmark_levels(self, product: str) -> tuple[BenchmarkRow, ...]:
        """Return 标杆 and 基准 of a product, by its own code or by that of its limit standard."""
        own = tuple(r for r in self._benchmarks if r.product_code == product)
        return own or tuple(r for r in self._benchmarks if product in r.limit_product_codes)

    def corrections(self, correction_id: str) -> tuple[CorrectionRow, ...]:
        """Return the rules of one correction; one row per level when they differ."""
        return tuple(r for r in self._corrections if r.correction_id == correction_id)

    def emission_limits(self, id_prefix: str) -> tuple[EmissionRow, ...]:
        """Return the limits whose id is the prefix, or goes on after it with a hyphen."""
        return tuple(
            r for r in self._emissions if r.id == id_prefix or r.id.startswith(f"{id_prefix}-")
        )

    @cached_property
    def products(self) -> tuple[str, ...]:
        """The codes of all products that have a level."""
        codes = [r.product_code for r in self._limits] + [r.product_code for r in self._benchmarks]
        return tuple(dict.fromkeys(codes))

    @cached_property
    def emission_ids(self) -> tuple[str, ...]:
        """The ids of all emission limits."""
        return tuple(r.id for r in self._emissions)


def _rows(table: _Table[T], path: Path, faults: list[Fault]) -> Iterator[T]:
    """Yield the rows of a file that are well formed; the others go to ``faults``."""
    names = [name for name in table.kind.__dataclass_fields__ if name != "place"]
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = next(reader, [])
        if sorted(header) != sorted(names):
            odd = ", ".join(sorted(set(header) ^ set(names))) or "a column that stands twice"
            faults.append(
                Fault(str(path), 1, 1, f"the columns must be {', '.join(names)}; look at: {odd}")
            )
            return
        seen: dict[tuple[str, ...], int] = {}
        before = reader.line_num
        try:
            for cells in reader:
                line, before = before + 1, reader.line_num
                report = _reporter(path, line, faults)
                if len(cells) != len(header):
                    report(f"has {len(cells)} cells, must have {len(header)}")
                    continue
                row = dict(zip(header, cells, strict=True))
                key = tuple(row[name] for name in table.key)
                if key in seen:
                    report(f"{' / '.join(key)} stands twice (first in line {seen[key]})")
                seen.setdefault(key, line)
                made = _row(table, row, f"{path.name}:{line}", report)
                if made is not None:
                    yield made
        except csv.Error as error:
            _reporter(path, reader.line_num, faults)(f"is not CSV: {error}")


def _reporter(path: Path, line: int, faults: list[Fault]) -> Callable[[str], None]:
    return lambda message: faults.append(Fault(str(path), line, 1, message))


def _row(table: _Table[T], cells: Cells, place: str, report: Callable[[str], None]) -> T | None:
    made: dict[str, object] = {"place": place}
    words = {"confidence": _CONFIDENCE, "status": _STATUS} | dict(table.words or {})
    well = True
    for name, cell in cells.items():
        try:
            made[name] = _cell(table, name, cell, words.get(name, frozenset()))
        except ValueError as error:
            report(f"{name}: {error}")
            well = False
    return table.kind(**made) if well else None  # type: ignore[arg-type]  # checked against the fields above


def _cell(table: _Table[T], name: str, cell: str, words: frozenset[str]) -> object:
    if words and cell not in words:
        raise ValueError(f'"{cell}" is not one of {", ".join(sorted(words))}')
    if name in {"valid_from", "valid_to"} and cell:
        date.fromisoformat(cell)
    if name in table.lists:
        return tuple(part for part in cell.split(";") if part)
    if name in table.numbers:
        return _number(cell)
    return cell


def _number(cell: str) -> Decimal | None:
    if not cell:
        return None
    try:
        number = Decimal(cell)
    except InvalidOperation as error:
        raise ValueError(f'"{cell}" is not a number') from error
    if not number.is_finite():
        raise ValueError(f'"{cell}" is not a number')
    return number


def levels_of(row: LimitRow) -> Sequence[Decimal]:
    """Return the levels of a row that are known, best first."""
    return [level for level in (row.level1, row.level2, row.level3) if level is not None]
