"""Reading a dated table: one fact per row, strictly, with every mistake at its line."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Generic, TypeVar

from edge_agent.errors import Fault

Cells = Mapping[str, str]
T = TypeVar("T", bound="Row")

_CONFIDENCE = frozenset({"A", "B", "B2", "M"})
_STATUS = frozenset({"approved", "unapproved"})


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


@dataclass(frozen=True)
class Table(Generic[T]):
    """One file: its rows, and what their cells must be."""

    path: str
    kind: type[T]
    key: tuple[str, ...]
    numbers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    words: Mapping[str, frozenset[str]] | None = None


def read_table(table: Table[T], folders: Sequence[Path], faults: list[Fault]) -> tuple[T, ...]:
    """Return the well-formed rows of a file, from the first folder that has it."""
    for folder in folders:
        path = folder / table.path
        if path.is_file():
            return tuple(read_rows(table, path, faults))
    faults.append(Fault(table.path, 1, 1, f"is in none of {', '.join(map(str, folders))}"))
    return ()


def read_rows(table: Table[T], path: Path, faults: list[Fault]) -> Iterator[T]:
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


def _row(table: Table[T], cells: Cells, place: str, report: Callable[[str], None]) -> T | None:
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


def _cell(table: Table[T], name: str, cell: str, words: frozenset[str]) -> object:
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
