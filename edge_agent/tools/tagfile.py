"""The tag table as a file: CSV as Excel in China writes and opens it, and XLSX."""

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from pathlib import Path
from typing import NamedTuple

from edge_agent.errors import ConfigError
from edge_agent.tools.cells import COLUMNS

NUMBERS = {"scale", "offset", "modulus", "deadband", "length", "ct", "pt"}
DELIMITERS = ",;\t"
GREY = "808080"
WIDEST = 44


class Cell(NamedTuple):
    """What stands in a cell, and what is wrong with it already (a date that was a number)."""

    text: str
    fault: str = ""


Grid = list[list[Cell]]


def letter(column: int) -> str:
    """Return the name of a column as spreadsheets show it: 0 is A, 26 is AA."""
    name = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


# ---- reading ---------------------------------------------------------------------------------


def read(path: Path) -> Grid:
    """Return the cells of a table; ``ConfigError`` when the file cannot be read as one."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".xlsx":
            return _read_xlsx(path)
        if suffix in {".csv", ".txt", ".tsv"}:
            return parse_csv(path.read_bytes())
    except OSError as e:
        raise ConfigError([f"{path}: cannot be read: {e.strerror}"]) from e
    except ValueError as e:
        raise ConfigError([f"{path}: {e}"]) from e
    raise ConfigError([f"{path}: is neither .csv nor .xlsx (save it as one of these)"])


def parse_csv(content: bytes) -> Grid:
    """Return the cells of a CSV file, whatever its encoding and delimiter; ``ValueError``."""
    text = _decoded(content)
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as e:
        raise ValueError(f"is not CSV: {e} (a quote is doubled inside a quoted cell)") from e
    return [[Cell(cell) for cell in row] for row in rows]


def _decoded(content: bytes) -> str:
    """Return the text: UTF-8, UTF-16 with its mark (Excel's Unicode text), else GB 18030."""
    usual = ("utf-8-sig", "gb18030")
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else usual:
        with suppress(UnicodeDecodeError):
            return content.decode(encoding)
    raise ValueError("is neither UTF-8 nor GBK text")


def _read_xlsx(path: Path) -> Grid:
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError) as e:
        raise ValueError("is not an XLSX file (save it as .xlsx or .csv)") from e
    try:
        sheet = book.worksheets[0]
        return [[_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    finally:
        book.close()


def _cell(value: object) -> Cell:
    if value is None:
        return Cell("")
    if isinstance(value, datetime | date | time):
        fault = f"the spreadsheet made a date of it ({value}): format the column as text"
        return Cell(str(value), fault)
    if isinstance(value, bool):
        return Cell("true" if value else "false")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return Cell(str(int(value)))
    return Cell(str(value))


# ---- writing ---------------------------------------------------------------------------------

Rows = Sequence[Mapping[str, str]]


def write(path: Path, rows: Rows, *, chinese: bool) -> None:
    """Write the rows; the ending says how."""
    if path.suffix.lower() == ".xlsx":
        _write_xlsx(path, rows, chinese=chinese)
    else:
        path.write_text(to_csv(rows, chinese=chinese), encoding="utf-8-sig", newline="")


def headings(*, chinese: bool) -> list[str]:
    """Return the first row."""
    return [column.chinese if chinese else column.name for column in COLUMNS]


def to_csv(rows: Rows, *, chinese: bool = False) -> str:
    """Return the rows as CSV, with the line ends that CSV has (RFC 4180)."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(headings(chinese=chinese))
    writer.writerows(_texts(rows))
    return file.getvalue()


def _texts(rows: Rows) -> Iterable[list[str]]:
    return ([row.get(column.name, "") for column in COLUMNS] for row in rows)


def _write_xlsx(path: Path, rows: Rows, *, chinese: bool) -> None:
    from openpyxl import Workbook
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter

    book = Workbook()
    sheet = book.worksheets[0]
    sheet.title = "点表" if chinese else "tags"
    sheet.append(headings(chinese=chinese))
    for row in rows:
        sheet.append([_typed(column.name, row.get(column.name, "")) for column in COLUMNS])
        if row.get("origin") == "template":
            for cell in sheet[sheet.max_row]:
                cell.font = Font(color=GREY)
    for cell in sheet[1]:
        cell.font = Font(bold=True)
    for i, column in enumerate(COLUMNS, 1):
        longest = max([len(column.name), *(len(row.get(column.name, "")) for row in rows)])
        sheet.column_dimensions[get_column_letter(i)].width = min(WIDEST, longest + 3)
        if column.name not in NUMBERS:  # a person's 1-2 stays a text there, too
            for cell in sheet[get_column_letter(i)][1:]:
                cell.number_format = "@"
    sheet.freeze_panes = "C2"
    sheet.auto_filter.ref = sheet.dimensions
    notes = book.create_sheet("说明" if chinese else "columns")
    for column in COLUMNS:
        notes.append([column.name, column.chinese, column.holds, column.zh])
    for i, places in enumerate((14, 10, 64, 30), 1):
        notes.column_dimensions[get_column_letter(i)].width = places
    book.save(path)


def _typed(column: str, text: str) -> str | float | None:
    if column in NUMBERS and text:
        try:
            return float(text)
        except ValueError:
            return text
    return text or None
