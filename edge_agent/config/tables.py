"""The dated tables that figures rest on: coefficients, benchmark levels, corrections, limits.

One fact per row, with its source, its dates and whether a person has approved it (``status``). A
table beside the plant's file (``benchmarks/limit_levels.csv``) is read in place of the packaged
one. Numbers stay the decimal digits that were printed. An empty value is missing, never zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from edge_agent.config.rows import Row, T, Table, read_table
from edge_agent.config.tables_co2 import CO2, factors
from edge_agent.config.tariffs import read_tariffs
from edge_agent.config.words import nearest
from edge_agent.errors import ConfigError, Fault
from edge_agent.metrics.base import Co2Factor, Coefficient
from edge_agent.units import Unit

STANDARD = "GB/T 2589-2020"


def data_dir() -> Path:
    """Return the folder of meters, tables and examples: in the installed package, or beside it."""
    spec = find_spec("edge_agent")
    if spec is None or spec.origin is None:
        raise ConfigError(["the package edge_agent is not installed as a folder"])
    package = Path(spec.origin).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


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


_COAL = Table(
    "coefficients/standard_coal.csv",
    CoalRow,
    ("code", "standard", "basis", "valid_from"),  # an equal value is of one year
    frozenset({"ncv_value", "kgce_per_unit"}),
    words={"basis": frozenset({"equivalent", "equal-value"})},
)
_BENCHMARK = Table(
    "benchmarks/benchmark_levels.csv",
    BenchmarkRow,
    ("product_code",),
    frozenset({"benchmark", "baseline"}),
    frozenset({"limit_product_codes"}),
)
_LIMIT = Table(
    "benchmarks/limit_levels.csv",
    LimitRow,
    ("standard", "product_code", "condition", "indicator"),
    frozenset({"level1", "level2", "level3"}),
    frozenset({"correction_id"}),
    words={"direction": frozenset({"inverse", "forward"})},
)
_CORRECTION = Table(
    "benchmarks/corrections.csv",
    CorrectionRow,
    ("correction_id", "applies_to_levels"),
    lists=frozenset({"applies_to_levels"}),
    words={"target": frozenset({"limit", "actual", "actual-input"})},
)
_EMISSION = Table(
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
        self._co2 = self._read(CO2, faults)
        self.tariffs = read_tariffs(self._folders, faults)
        if faults:
            raise ConfigError(faults)

    def _read(self, table: Table[T], faults: list[Fault]) -> tuple[T, ...]:
        return read_table(table, self._folders, faults)

    @cached_property
    def digest(self) -> str:
        """A hash of the rows that figures in the log depend on: coefficients, limits, tariffs."""
        coal = [
            (
                r.code,
                r.standard,
                r.basis,
                r.unit,
                str(r.kgce_per_unit),
                r.valid_from,
                r.valid_to,
                str(r.ncv_value),
            )
            for r in self._coal
        ]
        limits = [
            (r.id, r.pollutant, str(r.limit), r.unit, r.averaging, r.valid_from, r.valid_to)
            for r in self._emissions
        ]
        co2 = [
            (r.code, r.variant, r.data_year, r.unit, str(r.value), r.valid_from, r.valid_to)
            for r in self._co2
        ]
        return blake2b(repr((coal, limits, co2, self.tariffs)).encode(), digest_size=8).hexdigest()

    def coal_rows(self, code: str, basis: str, standard: str) -> tuple[CoalRow, ...]:
        """Return the rows of a carrier that have a value, of all dates, the oldest first.

        standard  ``GB/T 2589-2020``, or ``GB/T 2589`` for all its editions

        errors  ``KeyError`` that says why there is none
        """
        name = f'"{code}" ({basis}, {standard})'
        known = [r for r in self._coal if r.basis == basis and _is_of(r, standard)]
        rows = [r for r in known if r.code == code]
        if not rows:
            hint = nearest(code, dict.fromkeys(r.code for r in known))
            raise KeyError(f"no coefficient for {name} in {_COAL.path}{hint}")
        given = [r for r in rows if r.kgce_per_unit is not None]
        if not given:
            row = rows[-1]
            raise KeyError(f"the coefficient for {name} has no value yet ({row.place}): {row.note}")
        return tuple(sorted(given, key=lambda r: r.valid_from))

    def coefficients(self, code: str, basis: str, standard: str) -> tuple[Coefficient, ...]:
        """Return the coefficients of a carrier, as ``coal_rows`` finds them."""
        return tuple(_coefficient(row) for row in self.coal_rows(code, basis, standard))

    def co2_factors(self, code: str, variant: str) -> tuple[Co2Factor, ...]:
        """Return the CO2 factors of a code in one variant or family; ``KeyError``: there is none.

        In no case are two families mixed.
        """
        return factors(self._co2, code, variant)

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


def _is_of(row: CoalRow, standard: str) -> bool:
    return row.standard == standard or row.standard.rpartition("-")[0] == standard


def _coefficient(row: CoalRow) -> Coefficient:
    energy, _, per = row.ncv_unit.partition("/")
    heat = None
    if row.ncv_value is not None and per == row.unit and energy in {"kJ", "MJ", "GJ"}:
        heat = float(row.ncv_value) * Unit.parse(energy).factor_to(Unit.parse("MJ"))
    return Coefficient(
        row.code, row.unit, float(row.kgce_per_unit or 0), row.basis, row.standard, row.source,
        row.edition, row.valid_from, row.valid_to, row.confidence, row.approved, heat,
    )  # fmt: skip


def levels_of(row: LimitRow) -> Sequence[Decimal]:
    """Return the levels of a row that are known, best first."""
    return [level for level in (row.level1, row.level2, row.level3) if level is not None]
