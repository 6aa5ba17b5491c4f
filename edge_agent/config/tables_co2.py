"""CO2 factors: of the grids by data year, of fuels and heat by family (``co2_factors.csv``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from edge_agent.config.rows import Row, Table
from edge_agent.config.words import nearest
from edge_agent.metrics.base import Co2Factor

_OVER = {"tCO2": 1.0, "kgCO2": 1e-3, "kgCO2e": 1e-3}
_PER = {"1e4Nm3": "10000.Nm3"}


@dataclass(frozen=True, kw_only=True)
class Co2Row(Row):
    """How much CO2 a unit of electricity, fuel, heat or material stands for.

    kind      grid, fuel, heat, material or upstream
    variant   of a grid: average, fossil …; of the others: the short name of the family
    value     of a fuel: heating value × carbon content × oxidation × 44/12 of the same family
    """

    code: str
    kind: str
    name_zh: str
    data_year: str
    variant: str
    value: Decimal | None
    unit: str
    ncv_value: Decimal | None
    ncv_unit: str
    carbon_content_tc_per_gj: Decimal | None
    oxidation_pct: Decimal | None
    family: str


CO2 = Table(
    "coefficients/co2_factors.csv",
    Co2Row,
    ("code", "kind", "data_year", "variant", "family"),
    frozenset({"value", "ncv_value", "carbon_content_tc_per_gj", "oxidation_pct"}),
    words={"kind": frozenset({"grid", "fuel", "heat", "material", "upstream"})},
)


def factors(rows: Sequence[Co2Row], code: str, variant: str) -> tuple[Co2Factor, ...]:
    """Return the factors of a code in one variant or family, of all years.

    errors  ``KeyError`` that says what there is
    """
    family = [row for row in rows if row.variant == variant]
    if not family:
        known = nearest(variant, dict.fromkeys(row.variant for row in rows))
        raise KeyError(f'no CO2 factors of "{variant}" in {CO2.path}{known}')
    found = [row for row in family if row.code == code and row.value is not None]
    if not found:
        hint = nearest(code, dict.fromkeys(row.code for row in family))
        raise KeyError(f'no CO2 factor for "{code}" ({variant}) in {CO2.path}{hint}')
    return tuple(_factor(row, row.value) for row in found if row.value is not None)


def _factor(row: Co2Row, value: Decimal) -> Co2Factor:
    over, _, per = row.unit.partition("/")
    if over not in _OVER:
        raise KeyError(f"{row.place}: {row.unit} is no unit of a CO2 factor (tCO2/t, kgCO2/kWh)")
    carbon, oxidation = row.carbon_content_tc_per_gj, row.oxidation_pct
    burnt = None if carbon is None or oxidation is None else float(carbon * oxidation / 100)
    return Co2Factor(
        code=row.code,
        variant=row.variant,
        data_year=row.data_year,
        unit=_PER.get(per, per),
        tco2_per_unit=float(value) * _OVER[over],
        tc_per_gj=burnt,
        valid_from=row.valid_from,
        valid_to=row.valid_to,
        approved=row.approved,
    )
