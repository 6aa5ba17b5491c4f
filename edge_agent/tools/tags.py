"""``edge-agent tags``: the tag table of a configuration out, and a table in.

A table is read into the same tree of nodes as a YAML file, with rows and columns as its places, and
goes through the same checks; so a cell is told to be wrong in the words that the same mistake in
the file would be told in. A row that is wrong is left out, and the others are not lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edge_agent.config import Config, checks
from edge_agent.config.tree import Key, ListNode, MapNode, Mark, Node, walk
from edge_agent.config.tree import read as read_yaml
from edge_agent.drivers.base import DeviceConfig, TagConfig
from edge_agent.errors import ConfigError
from edge_agent.tools.cells import (
    DEVICE_KEYS,
    TAG_KEYS,
    Column,
    column_of,
    is_used,
    near,
    row_of,
    value_of,
)
from edge_agent.tools.models import Models
from edge_agent.tools.pasted import device_lines, differing, number
from edge_agent.tools.tagfile import Cell, Grid, letter

TITLES = 10  # rows in which the headings are looked for: tables like to have a title
Row = dict[str, str]


# ---- export ----------------------------------------------------------------------------------


def exported(config: Config, devices: Sequence[str] = ()) -> list[Row]:
    """Return the rows of all tags as they are in force, device by device.

    devices  only these; ``ConfigError`` for one that is none
    """
    unknown = [name for name in devices if name not in config.devices]
    if unknown:
        raise ConfigError([f"tags export: there is no device {name}" for name in unknown])
    written = _as_written(config.path)
    models, rows = Models(config.path), list[Row]()
    for name, device in config.devices.items():
        if devices and name not in devices:
            continue
        known = _of_template(models, device.template, device.connect)
        same = {
            "device": name,
            "template": device.template or "",
            "connect": written.get(name, device.connect),
            "ct": "" if device.ct == 1 else number(device.ct),
            "pt": "" if device.pt == 1 else number(device.pt),
        }
        for tag, config_of in device.tags.items():
            below = known.get(tag)
            origin = "own" if below is None else "template" if below == config_of else "changed"
            rows.append(same | {"tag": tag, "origin": origin} | row_of(config_of, below))
        rows += [
            same | {"tag": tag, "origin": "changed", "use": "no"}
            for tag in known
            if tag not in device.tags
        ]
    return rows


def _as_written(path: Path) -> dict[str, str]:
    """Return the addresses of the devices as they stand in the file, with ``${NAME}`` in them."""
    devices, _ = walk(read_yaml(path, []), ("devices",))
    if not isinstance(devices, MapNode):
        return {}
    found = {str(name): walk(node, ("connect",)) for name, node in devices.items.items()}
    return {name: str(node.value) for name, (node, steps) in found.items() if steps}


def _of_template(models: Models, template: str | None, connect: str) -> Mapping[str, TagConfig]:
    made = None if template is None else models.device(template, connect)
    return {} if made is None else made.tags


# ---- import ----------------------------------------------------------------------------------


class Imported(NamedTuple):
    """What a table says: YAML to paste, the mistakes in the order of the rows, and the counts."""

    lines: list[str]
    faults: list[str]
    good: int
    rows: int


@dataclass
class _Row:
    """One row of the table, with the places of its cells."""

    number: int
    cells: dict[str, Node] = field(default_factory=dict)
    used: bool = True

    def text(self, column: str) -> str:
        node = self.cells.get(column)
        return "" if node is None else str(node.value)


def imported(grid: Grid, name: str, models: Models) -> Imported:
    """Return the devices of a table; ``ConfigError`` when it has no headings.

    name  of the file, for the places of mistakes
    """
    return _Import(name, models).run(grid)


class _Import:
    def __init__(self, name: str, models: Models) -> None:
        self._name = name
        self._models = models
        self._faults: dict[tuple[int, int, str], None] = {}

    def run(self, grid: Grid) -> Imported:
        first, columns = self._headings(grid)
        rows = list(self._rows(grid[first + 1 :], first + 2, columns))
        lines, good = ["devices:"], 0
        for device, members in self._devices(rows).items():
            told, right = self._device(device, members)
            lines += told
            good += right
        faults = [
            f"{self._name}:{row}:{letter(column - 1)}: {message}"
            for row, column, message in sorted(self._faults)
        ]
        return Imported(lines if good else [], faults, good, len(rows))

    def _fault(self, mark: Mark, message: str) -> None:
        self._faults[mark.line, mark.column, message] = None

    def _mark(self, row: int, column: int) -> Mark:
        return Mark(self._name, row, column + 1)

    # ---- rows ----

    def _headings(self, grid: Grid) -> tuple[int, dict[int, Column]]:
        """Return the row of the headings, counted from 0, and what each column is."""
        best, columns = 0, dict[int, Column]()
        for i, row in enumerate(grid[:TITLES]):
            known = {j: c for j, cell in enumerate(row) if (c := column_of(cell.text)) is not None}
            if len(known) > len(columns):
                best, columns = i, known
        missing = {"device", "tag"} - {column.name for column in columns.values()}
        if missing:
            what = " and no column ".join(sorted(missing))
            right = "the first row names the columns: device, tag, at, …; or 设备, 点名, 地址, …"
            raise ConfigError([f"{self._name}:1:A: there is no column {what} ({right})"])
        seen: dict[str, int] = {}
        for j, cell in enumerate(grid[best]):
            mark = self._mark(best + 1, j)
            if j not in columns:
                if cell.text.strip():
                    self._fault(mark, f'unknown column "{cell.text.strip()}"{near(cell.text)}')
            elif columns[j].name in seen:
                other = letter(seen[columns[j].name])
                self._fault(mark, f'column "{columns[j].name}" stands twice (first in {other})')
                del columns[j]
            else:
                seen[columns[j].name] = j
        return best, columns

    def _rows(self, grid: Grid, first: int, columns: Mapping[int, Column]) -> Iterator[_Row]:
        above = ""
        where = next(j for j, column in columns.items() if column.name == "device")
        for i, cells in enumerate(grid, first):
            row = _Row(i)
            before = len(self._faults)
            for j, cell in enumerate(cells):
                if j in columns and cell.text.strip():
                    self._cell(row, columns[j].name, cell, self._mark(i, j))
            if not row.cells and len(self._faults) == before:
                continue
            if "device" in row.cells:
                above = row.text("device")
            elif above:  # merged cells, or a person who writes a name once
                row.cells["device"] = Node(self._mark(i, where), above, above)
            if len(self._faults) == before and self._is_named(row):
                yield row

    def _cell(self, row: _Row, column: str, cell: Cell, mark: Mark) -> None:
        """Put what a cell says into its row."""
        text = cell.text.strip()
        if cell.fault:
            self._fault(mark, cell.fault)
            return
        try:
            if column == "use":
                row.used = is_used(text)
            elif column != "origin":
                plain = column not in TAG_KEYS and column not in DEVICE_KEYS
                value = text if plain else value_of(column, text)
                row.cells[column] = _node(value, text, mark)
        except ValueError as e:
            self._fault(mark, str(e))

    def _is_named(self, row: _Row) -> bool:
        for column in ("device", "tag"):
            if column not in row.cells:
                self._fault(self._mark(row.number, 0), f'"{column}" is missing')
                return False
        device = row.text("device")
        if not checks.ID.fullmatch(device):
            mark = row.cells["device"].mark
            self._fault(mark, f'"{device}" is not a name: write a-z, 0-9 and -')
            return False
        return True

    @staticmethod
    def _devices(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
        found: dict[str, list[_Row]] = {}
        for row in rows:
            found.setdefault(row.text("device"), []).append(row)
        return found

    # ---- one device ----

    def _device(self, device: str, rows: list[_Row]) -> tuple[list[str], int]:
        """Return the YAML of a device and how many of its rows are right."""
        keys = {key: node for key in DEVICE_KEYS if (node := self._common(rows, key))}
        rows = list(self._once(rows))
        template = keys.get("template")
        if template is not None and template.value not in self._models.names():
            hint = self._models.nearest(str(template.value))
            self._fault(template.mark, f'unknown template "{template.value}"{hint}')
            del keys["template"]
        connect = self._address(keys, rows)
        known = _of_template(self._models, _text(keys.get("template")), _text(connect) or "")
        made: DeviceConfig | None = None
        while rows:
            made, wrong = self._made(device, {**keys, "connect": connect}, rows, known)
            broken = [k for k, n in keys.items() if (n.mark.line, n.mark.column) in wrong]
            if broken:  # of the device itself: its rows are looked at without
                for key in broken:
                    del keys[key]
                connect = self._address(keys, rows)
                continue
            bad = {line for line, _ in wrong}
            left = [row for row in rows if row.number not in bad]
            if len(left) == len(rows):
                break
            rows = left
        if made is None or not rows:
            return [], 0
        tags = dict(self._differing(rows, made, known))
        plain = {key: node.value for key, node in keys.items()}
        return list(device_lines(device, plain, tags)), len(rows)

    def _common(self, rows: Sequence[_Row], key: str) -> Node | None:
        """Return what all rows of a device say of the device itself."""
        said = [row.cells[key] for row in rows if key in row.cells]
        for node in said[1:]:
            if node.value != said[0].value:
                first = said[0].mark.line
                self._fault(node.mark, f'"{node.value}", but "{said[0].value}" in row {first}')
        return said[0] if said else None

    def _once(self, rows: Sequence[_Row]) -> Iterator[_Row]:
        first: dict[str, int] = {}
        for row in rows:
            tag = row.text("tag")
            if tag in first:
                mark = row.cells["tag"].mark
                self._fault(mark, f'tag "{tag}" stands twice (first in row {first[tag]})')
            else:
                first[tag] = row.number
                yield row

    def _address(self, keys: Mapping[str, Node], rows: Sequence[_Row]) -> Node:
        """Return the address that the checks go by: the table's, or one of a protocol that fits."""
        mark = rows[0].cells["tag"].mark if rows else Mark(self._name)
        given = keys.get("connect")
        if given is not None:
            return given
        places = [row.text("at") for row in rows if "at" in row.cells]
        supposed = self._models.supposed(_text(keys.get("template")), places)
        return Node(mark, supposed, supposed)

    def _made(
        self,
        device: str,
        keys: Mapping[str, Node],
        rows: Sequence[_Row],
        known: Mapping[str, TagConfig],
    ) -> tuple[DeviceConfig | None, set[tuple[int, int]]]:
        """Return the device of some rows, and the places of what is wrong in them."""
        tags: dict[Key, Node] = {}
        for row in rows:
            if row.used:
                mark = row.cells["tag"].mark
                tags[row.text("tag")] = MapNode(mark, items=_tag(row, known.get(row.text("tag"))))
            elif row.text("tag") in known:
                tags[row.text("tag")] = Node(row.cells["tag"].mark)
        mark = rows[0].cells["device"].mark
        items: dict[Key, Node] = dict(keys.items())
        items["tags"] = MapNode(mark, items=tags)
        node = MapNode(mark, items=items)
        made, whole, faults = self._models.make(node)
        root = MapNode(mark, items={"devices": MapNode(mark, items={device: whole})})
        checked = checks.Checked(root, self._name, faults)
        if made is not None:
            checks.device(device, made, checked.report_here)
        wrong = set()
        for fault in faults:
            if fault.file == self._name:
                wrong.add((fault.line, fault.column))
                self._fault(Mark(fault.file, fault.line, fault.column), fault.message)
        return made, wrong

    @staticmethod
    def _differing(
        rows: Sequence[_Row], made: DeviceConfig, known: Mapping[str, TagConfig]
    ) -> Iterator[tuple[str, Mapping[str, object] | None]]:
        for row in rows:
            tag = row.text("tag")
            below = known.get(tag)
            if tag not in made.tags:
                if below is not None:
                    yield tag, None
                continue
            written = differing(made.tags[tag], below)
            if below is not None and "states" in written:
                kept = made.tags[tag].states
                written["states"] = {**kept, **{n: None for n in below.states if n not in kept}}
            if written:
                yield tag, written


def _text(node: Node | None) -> str | None:
    return None if node is None else str(node.value)


def _node(value: object, text: str, mark: Mark) -> Node:
    """Return a cell as a node; everything in it stands at the cell."""
    if isinstance(value, dict):
        return MapNode(mark, items={k: Node(mark, v, str(v)) for k, v in value.items()})
    if isinstance(value, list):
        return ListNode(mark, items=[Node(mark, item, str(item)) for item in value])
    return Node(mark, value, text)


def _tag(row: _Row, below: TagConfig | None) -> dict[Key, Node]:
    """Return the keys of a tag; states that the template has and the cell has not are taken out."""
    items: dict[Key, Node] = {key: row.cells[key] for key in TAG_KEYS if key in row.cells}
    states = items.get("states")
    if below is not None and isinstance(states, MapNode):
        gone: dict[Key, Node] = {
            n: Node(states.mark) for n in below.states if n not in states.items
        }
        items["states"] = MapNode(states.mark, items={**states.items, **gone})
    return items
