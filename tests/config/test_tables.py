import csv
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from edge_agent.config.tables import Tables, data_dir
from edge_agent.errors import ConfigError

COAL = "coefficients/standard_coal.csv"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of one packaged table in a folder of the plant's own."""
    (tmp_path / COAL).parent.mkdir()
    shutil.copy(data_dir() / COAL, tmp_path / COAL)
    (tmp_path / COAL).chmod(0o644)
    return tmp_path


def test_a_coefficient_says_where_it_comes_from() -> None:
    (row,) = Tables().coefficients("electricity", "equivalent", "GB/T 2589-2020")
    assert (row.kgce_per_unit, row.unit, row.standard) == (0.1229, "kWh", "GB/T 2589-2020")
    assert row.source
    assert (row.edition, row.valid_from, row.approved) == ("2020", "2021-04-01", False)


def test_all_editions_of_a_standard_are_found_together() -> None:
    rows = Tables().coefficients("fresh-water", "equal-value", "GB/T 2589")
    assert [(r.kgce_per_unit, r.valid_from, r.valid_to) for r in rows] == [
        (0.0857, "2008-06-01", "2021-03-31"), (0.2571, "2021-04-01", ""),
    ]  # fmt: skip
    assert rows[1].mj_per_unit == 7.535
    own = Tables().coefficients("electricity", "equal-value", "GB 30251-2024")
    assert [row.kgce_per_unit for row in own] == [0.3]
    assert own[0].mj_per_unit is None
    assert own[0].id == "standard_coal:electricity:GB 30251-2024:equal-value:2025-05-01:unapproved"


def test_an_equal_value_of_electricity_is_of_one_year(own: Path) -> None:
    path = own / COAL
    text = path.read_text("utf-8").splitlines()
    year = "electricity,电力,GB/T 2589-2020,kWh,,,0.29{0},equal-value,x,202{0},"
    year += "202{0}-01-01,202{0}-12-31,A,approved,"
    path.write_text("\n".join([*text, year.format(5), year.format(6)]), "utf-8")
    rows = Tables(own, data_dir()).coefficients("electricity", "equal-value", "GB/T 2589")
    assert [(r.kgce_per_unit, r.valid_to) for r in rows] == [
        (0.295, "2025-12-31"), (0.296, "2026-12-31"),
    ]  # fmt: skip
    assert rows[0].id == "standard_coal:electricity:GB/T 2589-2020:equal-value:2025-01-01"


def test_co2_factors_are_of_one_family() -> None:
    tables = Tables()
    years = {
        row.data_year: row.tco2_per_unit for row in tables.co2_factors("cn-shandong", "average")
    }
    assert years == pytest.approx({"2023": 0.6191e-3, "2022": 0.641e-3, "2021": 0.6838e-3})
    steel, cement = (tables.co2_factors("anthracite", f)[0] for f in ("steel", "cement-kiln"))
    assert (steel.tco2_per_unit, cement.tco2_per_unit, steel.unit) == (2.4719, 2.2819, "t")
    with pytest.raises(KeyError, match=r'no CO2 factor for "diesel" \(cement-kiln\)'):
        tables.co2_factors("diesel", "cement-kiln")
    with pytest.raises(KeyError, match='no CO2 factors of "cement"'):
        tables.co2_factors("diesel", "cement")


def test_a_fuels_co2_is_its_carbon_that_burns() -> None:
    for code, heat, family in (
        ("diesel", 42.652, "steel"),
        ("natural-gas", 389.31, "sector-unstated"),
    ):
        row = Tables().co2_factors(code, family)[0]
        assert row.tc_per_gj is not None
        assert heat * row.tc_per_gj * 44 / 12 == pytest.approx(row.tco2_per_unit, rel=2e-5)


@pytest.mark.parametrize(
    ("code", "basis", "why"),
    [
        ("electricity", "equal-value", "has no value yet .*standard_coal.csv:37.*thermal plants"),
        ("electrcity", "equivalent", 'did you mean "electricity"'),
        ("raw-coal", "equal-value", "no coefficient for"),
    ],
)
def test_a_coefficient_that_is_missing_says_why(code: str, basis: str, why: str) -> None:
    with pytest.raises(KeyError, match=why):
        Tables().coefficients(code, basis, "GB/T 2589")


def test_no_row_is_approved_until_a_person_has_done_so() -> None:
    for path in data_dir().rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        if rows and "status" in rows[0]:
            assert {row["status"] for row in rows} == {"unapproved"}, path


def test_a_row_that_the_plant_has_approved_is_approved(own: Path) -> None:
    text = (own / COAL).read_text("utf-8")
    line = next(x for x in text.splitlines() if x.startswith("electricity,电力（当量值）"))
    approved = line.replace(",unapproved,", ",approved,")
    (own / COAL).write_text(text.replace(line, approved), "utf-8")
    tables = Tables(own, data_dir())
    assert tables.coefficients("electricity", "equivalent", "GB/T 2589")[-1].approved
    assert not tables.coefficients("raw-coal", "equivalent", "GB/T 2589")[-1].approved
    assert tables.limit_levels("cement-clinker")  # the other tables are the packaged ones


def test_levels_keep_their_printed_digits_and_their_corrections() -> None:
    [row] = Tables().limit_levels("cement-clinker", "comprehensive-energy")
    assert (row.level1, row.level2, row.level3) == (Decimal(100), Decimal(107), Decimal(117))
    assert (row.standard, row.unit, row.direction) == ("GB 16780-2021", "kgce/t", "inverse")
    assert row.correction_id == ("gb16780-altitude",)
    assert Tables().corrections("gb16780-altitude")


def test_every_correction_that_a_level_names_exists() -> None:
    tables = Tables()
    named = {
        c for p in tables.products for row in tables.limit_levels(p) for c in row.correction_id
    }
    assert named
    assert all(tables.corrections(correction) for correction in named)


def test_a_benchmark_is_found_by_the_product_of_its_limit_standard() -> None:
    [row] = Tables().benchmark_levels("cement-clinker")
    assert "cement-clinker" in {row.product_code, *row.limit_product_codes}


def test_emission_limits_are_found_by_the_beginning_of_their_id() -> None:
    rows = Tables().emission_limits("db37-2373-cement-key")
    assert {row.pollutant for row in rows} >= {"so2", "nox", "pm"}
    assert all(row.o2_reference_pct in {None, Decimal(10)} for row in rows)
    assert Tables().emission_limits("db37-2373-cem") == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (",0.7143,", ",0.71.43,", 'kgce_per_unit: "0.71.43" is not a number'),
        (",0.7143,", ",nan,", 'kgce_per_unit: "nan" is not a number'),
        (",unapproved,", ",yes,", 'status: "yes" is not one of approved, unapproved'),
        ("2021-04-01", "1.4.2021", "valid_from: Invalid isoformat"),
        (",equivalent,", ",equal,", 'basis: "equal" is not one of equal-value, equivalent'),
        ("raw-coal,", "raw-coal,,", "has 16 cells, must have 15"),
    ],
)
def test_a_malformed_row_is_told_with_its_line(own: Path, old: str, new: str, told: str) -> None:
    lines = (own / COAL).read_text("utf-8").splitlines()
    lines[1] = lines[1].replace(old, new, 1)
    (own / COAL).write_text("\n".join(lines), "utf-8")
    with pytest.raises(ConfigError) as caught:
        Tables(own, data_dir())
    assert [str(f).split(":1: ")[1].startswith(told) for f in caught.value.faults] == [True]
    assert str(caught.value).startswith(f"{own / COAL}:2:1: ")


def test_a_row_that_stands_twice_and_a_column_that_is_missing_are_mistakes(own: Path) -> None:
    lines = (own / COAL).read_text("utf-8").splitlines()
    (own / COAL).write_text("\n".join([*lines, lines[1]]), "utf-8")
    with pytest.raises(ConfigError, match=f":{len(lines) + 1}:1: raw-coal / .* stands twice"):
        Tables(own, data_dir())
    (own / COAL).write_text("\n".join([lines[0].replace(",status", ""), *lines[1:]]), "utf-8")
    with pytest.raises(ConfigError, match=r":1:1: the columns must be .* look at: status"):
        Tables(own, data_dir())


def test_the_digest_follows_the_coefficients(own: Path) -> None:
    before = Tables(own, data_dir()).digest
    text = (own / COAL).read_text("utf-8")
    (own / COAL).write_text(text.replace(",0.7143,", ",0.7144,"), "utf-8")
    assert Tables(own, data_dir()).digest != before


def test_the_digest_follows_the_limits(own: Path) -> None:
    before = Tables(own, data_dir()).digest
    path = own / "limits" / "emission_limits.csv"
    path.parent.mkdir(exist_ok=True)
    text = (data_dir() / "limits" / "emission_limits.csv").read_text("utf-8")
    path.write_text(text.replace("air,so2,35,", "air,so2,36,", 1), "utf-8")
    assert Tables(own, data_dir()).digest != before
