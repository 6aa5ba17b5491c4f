"""The leader sheet: figures against known sums, read back from the file."""

import json
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from openpyxl.worksheet.worksheet import Worksheet

from edge_agent.clock import SECOND
from edge_agent.model import Family, SampleBlock, Schema, Tag
from edge_agent.reports.figures import CONTEXT
from edge_agent.reports.leader import Later, LeaderReport, leader, to_json, write_xlsx
from edge_agent.reports.period import Period
from edge_agent.units import Unit
from tests.reports.clinker import (
    COAL,
    DAY,
    ELECTRICITY,
    SITE,
    ZONE,
    benchmark,
    boundary,
    ends,
    level,
    rows,
    sheet,
    store,
)

GOLDEN = Path(__file__).parent / "leader.json"


def value(report: LeaderReport, key: str) -> Decimal:
    found = report.figure(key).value
    assert isinstance(found, Decimal)
    return found


async def test_every_figure_is_the_sum_it_claims_to_be(tmp_path: Path) -> None:
    block = rows("1h", ends("1h"))
    report = sheet(await store(tmp_path, block))

    kwh = sum(Decimal(repr(v)) for v in block["electricity"].tolist())
    kg = sum(Decimal(repr(v)) for v in block["raw-coal"].tolist())
    tonnes = sum(Decimal(repr(v)) for v in block["output_t"].tolist())
    assert value(report, "electricity.amount") == kwh
    assert value(report, "raw-coal.amount") == kg
    assert value(report, "output") == tonnes
    coal = kg * Decimal("23.1") / Decimal("29.3076")
    total = kwh * Decimal("0.1229") + coal
    assert abs(value(report, "raw-coal.kgce") - coal) < Decimal("1e-20")
    assert abs(value(report, "total") - total) < Decimal("1e-20")
    assert abs(value(report, "intensity") - total / tonnes) < Decimal("1e-20")
    assert report.figure("total").agrees is True
    assert report.figure("intensity").agrees is True
    assert report.complete
    assert report.figure("window").value == "1h"
    assert value(report, "coverage") == Decimal("0.99")
    assert value(report, "estimated") == Decimal("0.02")


async def test_levels_are_compared_unrounded(tmp_path: Path) -> None:
    """100.0000000004 looks like 100.000 and is above it."""
    tight = rows("1h", ends("1h"), k_coal=0.7143, kwh=0.0, kg=100.0000000004 / 0.7143)
    report = sheet(await store(tmp_path, tight), of=boundary(COAL))

    assert value(report, "intensity") > 100
    assert f"{value(report, 'intensity'):.6f}" == "100.000000"
    assert report.figure("level1.reached").status == "missed"
    assert report.figure("level2.reached").status == "reached"
    assert report.figure("leader").status == "missed"


async def test_the_leader_condition_needs_level_1_and_the_benchmark(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h")))  # 97.3 kgce/t
    strict = benchmark().__class__(**(vars(benchmark()) | {"benchmark": Decimal(95)}))

    assert sheet(history).figure("leader").status == "reached"
    assert sheet(history, benchmarks=[strict]).figure("leader").status == "missed"
    assert sheet(history, benchmarks=[strict]).figure("level1.reached").status == "reached"
    assert sheet(history, benchmarks=[]).figure("leader").status == "unknown"


async def test_a_level_that_the_standard_does_not_have_stays_open(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h")))
    without = level().__class__(**(vars(level()) | {"level1": None}))
    report = sheet(history, levels=[without])

    assert report.figure("level1").value is None
    assert report.figure("level1.reached").status == "unknown"
    assert report.figure("leader").status == "unknown"


async def test_distances_have_their_sign_and_share(tmp_path: Path) -> None:
    report = sheet(await store(tmp_path, rows("1h", ends("1h"))))

    intensity = value(report, "intensity")
    assert value(report, "level3.distance") == CONTEXT.subtract(intensity, Decimal(117))
    assert value(report, "baseline.share") == pytest.approx((intensity - 117) / 117)
    assert value(report, "level3.distance") < 0


async def test_unapproved_rows_are_said_at_the_top_and_at_the_figure(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h"), k_coal=0.7143))
    report = sheet(history, of=boundary(COAL))

    assert not report.approved
    assert (
        "含未核准系数，不得用于正式申报",
        "uses unapproved rows, not for submission",
    ) in report.warnings
    assert report.figure("raw-coal.k").status == "unapproved"
    assert "unapproved" in report.figure("raw-coal.k").source
    assert sheet(await store(tmp_path, rows("1h", ends("1h"))), of=boundary()).approved


@pytest.mark.parametrize("part", ["level", "benchmark"])
async def test_unapproved_levels_count_as_well(tmp_path: Path, part: str) -> None:
    history = await store(tmp_path, rows("1h", ends("1h")))
    report = sheet(
        history,
        levels=[level(approved=part != "level")],
        benchmarks=[benchmark(approved=part != "benchmark")],
    )

    assert not report.approved
    assert "unapproved" in str(report.figure("leader").value)


async def test_a_missing_hour_falls_back_to_the_shortest_window_without_a_hole(
    tmp_path: Path,
) -> None:
    history = await store(
        tmp_path,
        rows("1h", ends("1h")[:-1]),
        rows("15min", ends("15min")),
        rows("1min", ends("1min")),
    )
    report = sheet(history)

    assert report.figure("window").value == "1min"
    assert report.complete
    assert report.figure("used").value == 1440


async def test_partial_data_is_said_and_never_extrapolated(tmp_path: Path) -> None:
    half = rows("1h", ends("1h")[:12])
    report = sheet(await store(tmp_path, half))

    assert not report.complete
    assert any("12/24" in zh for zh, _ in report.warnings)
    assert value(report, "output") == sum(Decimal(repr(v)) for v in half["output_t"].tolist())
    assert value(report, "coverage") == Decimal("0.99") / 2
    assert "仅就现有数据" in str(report.figure("leader").value)
    assert (report.figure("expected").value, report.figure("present").value) == (24, 12)


async def test_a_row_without_its_coal_counts_in_no_sum(tmp_path: Path) -> None:
    block = rows("1h", ends("1h"), bad=[3])
    report = sheet(await store(tmp_path, block))

    rest = [v for i, v in enumerate(block["output_t"].tolist()) if i != 3]
    assert value(report, "output") == sum(Decimal(repr(v)) for v in rest)
    assert (report.figure("present").value, report.figure("used").value) == (24, 23)
    assert not report.complete


async def test_a_period_between_two_windows_is_not_covered(tmp_path: Path) -> None:
    period = Period.parse("2026-10-05T08:00:30/2026-10-05T09:00:00", ZONE)
    report = sheet(await store(tmp_path, rows("1min", ends("1min"))), period=period)

    assert report.figure("used").value == 59
    assert not report.complete


async def test_an_empty_history_makes_a_sheet_without_figures(tmp_path: Path) -> None:
    report = sheet(await store(tmp_path))

    assert report.figure("intensity").value is None
    assert report.figure("leader").status == "unknown"
    write_xlsx(report, tmp_path / "empty.xlsx")
    assert json.loads(to_json(report))["complete"] is False


async def test_a_stored_figure_that_differs_is_named_at_the_top(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h"), k_coal=0.8))
    report = sheet(history, of=boundary(COAL))

    assert report.figure("raw-coal.kgce").agrees is False
    assert any("raw coal: coal equivalent" in en for _, en in report.warnings)


def slots(device: str, column: str, per_minute: float) -> SampleBlock:
    times = ends("1min")
    schema = Schema(f"{device}/slot.slow", Family.SLOT, (Tag(column, Unit.parse("MWh")),), 60.0)
    value = np.full((1, len(times)), per_minute)
    return SampleBlock(schema, np.array(times), value, np.zeros(value.shape, np.uint8))


async def test_returned_energy_is_shown_from_the_minute_rows(tmp_path: Path) -> None:
    of = boundary(returned=("em-whr.active_energy_export",))
    history = await store(
        tmp_path,
        rows("1h", ends("1h")),
        slots("em-kiln", "active_energy_import.increment", 0.125),
        slots("em-whr", "active_energy_export.increment", 0.025),
    )
    report = sheet(history, of=of)

    assert value(report, "electricity.in") == 1440 * 125
    assert value(report, "electricity.returned") == 1440 * 25
    assert "em-whr/slot.slow" in report.figure("electricity.returned").source


async def test_returned_energy_without_minute_rows_says_so(tmp_path: Path) -> None:
    of = boundary(returned=("em-whr.active_energy_export",))
    report = sheet(await store(tmp_path, rows("1h", ends("1h"))), of=of)

    returned = report.figure("electricity.returned")
    assert (returned.value, returned.status) == (None, "partial")
    assert "no minute rows" in returned.source


async def test_each_coefficient_counts_for_its_own_part_of_the_period(tmp_path: Path) -> None:
    block = rows("1h", ends("1h"))
    noon = DAY.start_ns + 12 * 3600 * SECOND
    value_, index = block.value.copy(), block.schema.index
    afternoon = block.time > noon
    more = block["electricity"] * (0.2 - 0.1229) * afternoon
    for column in ("electricity_kgce", "total_kgce"):
        value_[index[column]] += more
    block = SampleBlock(block.schema, block.time, value_, block.quality)
    plain = boundary()
    first = plain.carriers[0]
    changed = replace(ELECTRICITY, kgce_per_unit=0.2)
    line = replace(first, later=(Later(noon, changed, "own.csv:7"),))
    of = replace(plain, carriers=(line, *plain.carriers[1:]))
    report = sheet(await store(tmp_path, block), of=of)

    kwh = [Decimal(repr(v)) for v in block["electricity"].tolist()]
    assert value(report, "electricity.measure1") == sum(kwh[:12])
    assert value(report, "electricity.measure2") == sum(kwh[12:])
    coal = sum(kwh[:12]) * Decimal("0.1229") + sum(kwh[12:]) * Decimal("0.2")
    assert value(report, "electricity.kgce") == coal
    assert report.figure("electricity.kgce").agrees is True
    assert report.figure("total").agrees is True
    assert "own.csv:7" in report.figure("electricity.k2").source
    page = read(report, tmp_path)
    formulas = [row[0].value for row in page["B1:B80"] if isinstance(row[0].value, str)]
    assert any(formula.startswith("=") and formula.count("*") == 2 for formula in formulas)


async def test_what_is_no_energy_is_shown_and_not_counted(tmp_path: Path) -> None:
    plain = boundary()
    coal = replace(plain.carriers[1], coefficient=None)
    of = replace(plain, carriers=(plain.carriers[0], coal))
    report = sheet(await store(tmp_path, rows("1h", ends("1h"), k_coal=0.0)), of=of)

    assert value(report, "raw-coal.amount") > 0
    assert value(report, "total") == value(report, "electricity.kgce")
    with pytest.raises(KeyError):
        report.figure("raw-coal.k")


# the sheet itself --------------------------------------------------------------------------------


def read(report: LeaderReport, folder: Path) -> Worksheet:
    path = folder / "leader.xlsx"
    write_xlsx(report, path)
    sheet_ = openpyxl.load_workbook(path).active
    assert isinstance(sheet_, Worksheet)
    return sheet_


def number(page: Worksheet, address: str) -> float:
    """Return what a cell shows: a formula is worked out from the cells that it names."""
    found = page[address].value
    if isinstance(found, str) and found.startswith("="):
        sum_ = re.sub(r"[A-F]\d+", lambda m: repr(number(page, m[0])), found[1:])
        assert re.fullmatch(r"[-+*/().e\d]+", sum_), found
        return float(eval(sum_))
    return float(found)


def lines(page: Worksheet) -> dict[str, int]:
    """Return the row of each line by its English label."""
    return {
        str(cell.value).partition("\n")[2].strip(): cell.row
        for cell in page["A"]
        if "\n" in str(cell.value or "")
    }


async def test_the_file_shows_each_figure_and_its_formulas_work_out(tmp_path: Path) -> None:
    report = sheet(await store(tmp_path, rows("1h", ends("1h"))))
    page = read(report, tmp_path)
    where = lines(page)

    figures = [f for section in report.sections for f in section.figures]
    for figure in figures:
        row = where[figure.label[1].strip()]
        assert page[f"F{row}"].value, figure.key
        if isinstance(figure.value, Decimal):
            assert number(page, f"B{row}") == pytest.approx(float(figure.value), rel=1e-12)
            if figure.stored is not None:
                assert page[f"D{row}"].value == float(figure.stored)
                assert "一致 / equal" in str(page[f"E{row}"].value)
        else:
            assert page[f"B{row}"].value == ("—" if figure.value is None else figure.value)
    kgce = where["raw coal: coal equivalent"]
    assert page[f"B{kgce}"].value == f"=B{kgce - 2}*B{kgce - 1}"
    assert page[f"F{kgce}"].value.startswith(f"=B{kgce - 2}*B{kgce - 1}; ")
    assert page[f"F{kgce}"].data_type == "s"


async def test_unapproved_rows_are_red_and_in_words_in_the_file(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h"), k_coal=0.7143))
    page = read(sheet(history, of=boundary(COAL)), tmp_path)

    assert page["A3"].value == (
        "⚠ 含未核准系数，不得用于正式申报 / uses unapproved rows, not for submission"
    )
    assert page["A3"].font.color.rgb == "00B3261E"
    row = lines(page)["raw coal: coefficient"]
    assert page[f"E{row}"].value == "未核准 / unapproved"
    assert page[f"E{row}"].font.color.rgb == "00B3261E"


async def test_the_file_prints_on_a4(tmp_path: Path) -> None:
    page = read(sheet(await store(tmp_path, rows("1h", ends("1h")))), tmp_path)

    assert (page.page_setup.paperSize, page.page_setup.orientation) == (9, "landscape")
    assert page.sheet_properties.pageSetUpPr.fitToPage
    assert page.freeze_panes == "A4"
    assert page.print_title_rows == "$3:$3"


async def test_a_name_that_looks_like_a_formula_stays_text(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h")))
    nasty = SITE.__class__(SITE.id, SITE.gateway, '=HYPERLINK("http://evil.example")', ZONE)
    report = leader(
        site=nasty, metric="clinker", boundary=boundary(), history=history, levels=[level()],
        benchmarks=[benchmark()], period=DAY, config_digest="0", version="0",
    )  # fmt: skip
    page = read(report, tmp_path)

    row = lines(page)["Enterprise"]
    assert (page["A2"].data_type, page[f"B{row}"].data_type) == ("s", "s")


async def test_the_json_is_the_golden_one(tmp_path: Path) -> None:
    history = await store(tmp_path, rows("1h", ends("1h"), k_coal=0.7143))
    written = to_json(sheet(history, of=boundary(COAL), levels=[level(approved=False)]))

    assert json.loads(written) == json.loads(GOLDEN.read_bytes())


async def test_a_month_of_hours_is_covered(tmp_path: Path) -> None:
    month = Period.parse("2026-10", ZONE)
    report = sheet(await store(tmp_path, rows("1h", ends("1h", month))), period=month)

    assert report.figure("used").value == 31 * 24
    assert report.complete
    assert month.end_ns - month.start_ns == 31 * 86400 * SECOND
