"""Sections of figures as one printable sheet: formulas where figures follow from others.

Columns: item, value, unit, stored value, check, source. The value of a computed figure is a real
formula over the cells above; beside it stands what the agent stored, and a cell that says whether
the two agree.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.reports.figures import STATUS, Figure, Label, Section

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

WIDTHS = {"A": 37, "B": 19, "C": 11, "D": 19, "E": 17, "F": 66}
INK, SOFT, LINE, TINT, RED, GREEN = "1C2421", "5D6964", "C9D2CD", "EAF2EE", "B3261E", "1A7F4B"
AMBER = "96610A"
FONT = "Microsoft YaHei"  # there on the desks that read this; others substitute a sans serif
COLOURS = {"unapproved": RED, "missed": RED, "partial": AMBER, "unknown": AMBER, "measured": AMBER}
HEADS: tuple[Label, ...] = (
    ("项目", "Item"), ("数值", "Value"), ("单位", "Unit"), ("存储值", "Stored value"),
    ("核对 / 状态", "Check / status"), ("来源", "Source"),
)  # fmt: skip


def write(
    title: Label,
    subtitle: str,
    warnings: Sequence[Label],
    sections: Sequence[Section],
    path: Path,
) -> None:
    """Write one sheet on A4, landscape, one page wide."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    if sheet is None or not hasattr(sheet, "merge_cells"):
        raise RuntimeError("a new workbook has no sheet")
    sheet.title = "能耗核算"
    row = _head(sheet, title, subtitle, warnings)
    addresses: dict[str, str] = {}
    for section in sections:
        row = _section(sheet, row, section.title)
        for figure in section.figures:
            addresses[figure.key] = f"B{row}"
            _figure(sheet, row, figure, addresses)
            row += 1
    _page(sheet, row - 1)
    book.save(path)


def _head(sheet: "Worksheet", title: Label, subtitle: str, warnings: Sequence[Label]) -> int:
    """Write title, warnings and column heads; return the first free row."""
    lines = [(f"{title[0]}\n{title[1]}", 16, INK, 46), (subtitle, 10.5, SOFT, 20)]
    lines += [(f"⚠ {zh} / {en}", 11, RED, 22) for zh, en in warnings]
    for row, (text, size, colour, height) in enumerate(lines, 1):
        sheet.merge_cells(f"A{row}:F{row}")
        _put(sheet, f"A{row}", text, size=size, bold=colour != SOFT, colour=colour, wrap=True)
        sheet.row_dimensions[row].height = height
    row = len(lines) + 1
    for column, (zh, en) in zip("ABCDEF", HEADS, strict=True):
        _put(sheet, f"{column}{row}", f"{zh}\n{en}", size=9.5, bold=True, colour="FFFFFF",
             fill="0F6B5C", wrap=True, align="right" if column in "BD" else "left")  # fmt: skip
    sheet.row_dimensions[row].height = 30
    sheet.freeze_panes = f"A{row + 1}"
    sheet.print_title_rows = f"{row}:{row}"
    return row + 1


def _section(sheet: "Worksheet", row: int, title: Label) -> int:
    sheet.merge_cells(f"A{row}:F{row}")
    _put(sheet, f"A{row}", f"{title[0]}  {title[1]}", size=11.5, bold=True, fill=TINT)
    sheet.row_dimensions[row].height = 22
    return row + 1


def _figure(sheet: "Worksheet", row: int, figure: Figure, addresses: dict[str, str]) -> None:
    main = figure.style == "main"
    zh, en = figure.label
    colour = COLOURS.get(figure.status, GREEN if figure.status in {"reached", "complete"} else INK)
    _put(sheet, f"A{row}", f"{zh}\n{en}", bold=main, wrap=True)
    number, computed = isinstance(figure.value, Decimal | int), False
    shown: object = float(figure.value) if isinstance(figure.value, Decimal) else figure.value
    source = figure.source
    if figure.formula and figure.value is not None:
        formula = re.sub(r"\{([^}]+)\}", lambda m: addresses[m[1]], figure.formula)
        shown, source, computed = f"={formula}", f"={formula}; {source}", True
    _put(sheet, f"B{row}", "—" if shown is None else shown, bold=main, colour=colour if main or
         figure.status in COLOURS or not number else INK, align="right" if number else "left",
         form=_form(figure), wrap=not number, computed=computed)  # fmt: skip
    if isinstance(figure.value, str):
        sheet.merge_cells(f"B{row}:E{row}")
    else:
        _beside(sheet, row, figure, colour)
    _put(sheet, f"F{row}", source, size=8.5, colour=SOFT, wrap=True)
    lines = max(2, -(-_width(source) // 74))
    sheet.row_dimensions[row].height = max(29, 12.5 * lines + 4)


def _beside(sheet: "Worksheet", row: int, figure: Figure, colour: str) -> None:
    """Write unit, stored value and check."""
    _put(sheet, f"C{row}", "" if figure.unit == "1" else figure.unit)
    words = " / ".join(STATUS[figure.status]) if figure.status else ""
    if figure.stored is not None and figure.value is not None:
        _put(sheet, f"D{row}", float(figure.stored), align="right", form=_form(figure))
        same = f"ABS(B{row}-D{row})<=0.000000001*MAX(ABS(B{row}),ABS(D{row}))"
        tail = f"；{words}" if words else ""
        check = f'=IF({same},"一致 / equal{tail}","不一致 / differs{tail}")'
        _put(sheet, f"E{row}", check, size=9, colour=colour, wrap=True, computed=True)
    else:
        _put(sheet, f"D{row}", None)
        _put(sheet, f"E{row}", words, size=9, colour=colour, wrap=True,
             bold=figure.status == "unapproved")  # fmt: skip


def _form(figure: Figure) -> str:
    """Return the number format: rounding is for the eye only."""
    if isinstance(figure.value, int):
        return "#,##0"
    if "share" in figure.style:
        return "+0.00%;-0.00%;0.00%" if "signed" in figure.style else "0.00%"
    if figure.style == "signed":
        return "+#,##0.000;-#,##0.000;0.000"
    if figure.key.endswith(".k"):
        return "0.0000##"
    return "#,##0.000"


def _width(text: str) -> int:
    """Return the width of a text in Latin letters; a Chinese one is two wide."""
    return sum(2 if ord(letter) > 0x2E7F else 1 for letter in text)


def _put(
    sheet: "Worksheet",
    address: str,
    value: object,
    *,
    size: float = 10,
    bold: bool = False,
    colour: str = INK,
    fill: str = "",
    align: str = "left",
    form: str = "",
    wrap: bool = False,
    computed: bool = False,
) -> None:
    from openpyxl.styles import Alignment, Border, Font, PatternFill, Side

    indent = 0 if address.startswith("A") else 1
    cell = sheet[address]
    cell.value = value
    if isinstance(value, str) and not computed:
        cell.data_type = "s"  # a text that begins with = is no formula
    cell.font = Font(name=FONT, size=size, bold=bold, color=colour)
    cell.alignment = Alignment(horizontal=align, vertical="center", wrap_text=wrap, indent=indent)
    cell.border = Border(bottom=Side("hair", color=LINE))
    if fill:
        cell.fill = PatternFill("solid", fgColor=fill)
    if form:
        cell.number_format = form


def _page(sheet: "Worksheet", last: int) -> None:
    from openpyxl.worksheet.properties import PageSetupProperties

    for column, width in WIDTHS.items():
        sheet.column_dimensions[column].width = width
    sheet.print_area = f"A1:F{last}"
    sheet.page_setup.orientation = "landscape"
    sheet.page_setup.paperSize = sheet.PAPERSIZE_A4
    sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight = 1, 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.page_margins.left = sheet.page_margins.right = 0.4
    sheet.page_margins.top = sheet.page_margins.bottom = 0.5
    if sheet.oddFooter is not None:
        sheet.oddFooter.center.text = "&P / &N"
    sheet.sheet_view.showGridLines = False
