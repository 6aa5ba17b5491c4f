"""Tag tables as the simulators read them: a configuration's devices with their templates.

Read with PyYAML and nothing of the agent's, so that both must agree on what the files say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, parse_qs, urlsplit

import edge_agent

Row = Mapping[str, object]


def configs() -> Path:
    """Return the folder ``configs``: in the installed package, or beside it in the source tree."""
    package = Path(edge_agent.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def read_yaml(path: Path) -> Row:
    """Return a file's mapping; ``ValueError`` in plain words if it is none."""
    import yaml

    class Loader(yaml.SafeLoader):
        """``no``, ``on`` and the like are words, as in YAML 1.2: NO is a gas."""

        yaml_implicit_resolvers = {  # noqa: RUF012 – PyYAML's own form
            first: [line for line in lines if not line[0].endswith(":bool") or first in "tTfF"]
            for first, lines in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 – a safe one
    except (OSError, yaml.YAMLError) as e:
        raise ValueError(f"{path}: cannot be read: {e}") from e
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a mapping is expected at the top")  # noqa: TRY004 – a wrong file
    return cast("Row", tree)


@dataclass(frozen=True)
class TagRow:
    """One line of a tag table, with its template's defaults filled in.

    factor      value = raw * factor + offset: scale and transformer ratios, exact
    ratio       the transformer ratios in it
    scale_from  the tag that holds a decimal exponent, by which the factor is multiplied as well
    """

    name: str
    at: str
    type: str = "u16"
    order: str = "ABCD"
    factor: Fraction = Fraction(1)
    offset: float = 0.0
    unit: str = "1"
    kind: str = "gauge"
    modulus: int | None = None
    mode: str = "poll"
    ratio: Fraction = Fraction(1)
    scale_from: str | None = None


@dataclass(frozen=True)
class DeviceTable:
    """One device: where it is reached and its tags.

    max_registers, max_gap, sections  what the real one demands of a read
    blocks  whether a DL/T 645 meter knows the identifiers of blocks
    unit_first  whether a CJ/T 188 meter sends a unit before its digits
    security  what an OPC UA server asks of its clients, as it is written
    """

    id: str
    connect: str
    tags: tuple[TagRow, ...]
    max_registers: int = 125
    max_gap: int = 16
    sections: tuple[tuple[int, int], ...] = ()
    blocks: bool = False
    unit_first: bool = False
    security: Row | None = None

    @property
    def url(self) -> SplitResult:
        """``connect`` taken apart."""
        return urlsplit(self.connect)

    @property
    def unit(self) -> int:
        """The Modbus unit."""
        return int(parse_qs(self.url.query).get("unit", ["1"])[0])


def _number(written: object) -> Fraction:
    return Fraction(str(written))


def tag_row(name: str, row: Row, ct: object, pt: object, order: object = "ABCD") -> TagRow:
    """Return one tag; CT and PT are applied as its ``ratio`` says."""
    applied = str(row.get("ratio", "1")).split("*")
    ratio = _number(ct if "ct" in applied else 1) * _number(pt if "pt" in applied else 1)
    scale_from = row.get("scale_from")
    modulus = row.get("modulus")
    return TagRow(
        name,
        str(row["at"]),
        str(row.get("type", "u16")),
        str(row.get("order", order)),
        _number(row.get("scale", 1)) * ratio,
        float(_number(row.get("offset", 0))),
        str(row.get("unit", "1")),
        str(row.get("kind", "gauge")),
        None if modulus is None else int(_number(modulus)),
        str(row.get("mode", "poll")),
        ratio,
        None if scale_from is None else str(scale_from),
    )


def _usual(connect: str) -> str | None:
    """Return the template of a meter that names neither one nor tags."""
    scheme, options = connect.partition("+")[0], parse_qs(urlsplit(connect).query)
    if scheme == "dlt645":
        return "dlt645/1997" if options.get("version") == ["1997"] else "dlt645/three-phase"
    if scheme == "cjt188":
        kinds = {"1": "cjt188/water", "2": "cjt188/heat", "3": "cjt188/gas"}
        return kinds.get(options.get("type", ["10"])[0][:1])
    return None


def device_table(device: str, row: Row, folder: Path | None = None) -> DeviceTable:
    """Return a device's table; its template is sought in the folder, then in ``configs``."""
    template: Row = {}
    named = row.get("template", None if "tags" in row else _usual(str(row.get("connect", ""))))
    if named is not None:
        name = f"meters/{named}.yaml"
        places = [place / name for place in (folder, configs()) if place is not None]
        found = next((place for place in places if place.is_file()), places[-1])
        template = read_yaml(found)
    limits = {**cast("Row", template.get("limits", {})), **row}
    tags = {**cast("Row", template.get("tags", {})), **cast("Row", row.get("tags", {}))}
    order = row.get("order", template.get("order", "ABCD"))
    sections = cast("list[list[int]]", limits.get("sections", []))
    return DeviceTable(
        device,
        str(row.get("connect", "")),
        tuple(
            tag_row(n, cast("Row", tag), row.get("ct", 1), row.get("pt", 1), order)
            for n, tag in tags.items()
        ),
        int(str(limits.get("max_registers", 125))),
        int(str(limits.get("max_gap", 16))),
        tuple((int(a), int(b)) for a, b in sections),
        bool(limits.get("blocks", False)),
        bool(limits.get("unit_first", False)),
        cast("Row | None", row.get("security")),
    )


def read_devices(path: Path) -> list[DeviceTable]:
    """Return the devices of a configuration file."""
    devices = cast("Mapping[str, Row]", read_yaml(path).get("devices") or {})
    return [device_table(name, row, path.parent) for name, row in devices.items()]
