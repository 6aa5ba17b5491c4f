"""What the variables of an OPC UA server would be as tags: address, name, kind, unit; pure."""

import base64
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal
from unicodedata import normalize
from urllib.parse import quote

from edge_agent.drivers.base import TagConfig
from edge_agent.units import Unit

Kind = Literal["gauge", "counter", "state", "text"]

# words of a name that say what it is; English as PLC programs write it, and Chinese
_STATE = {
    "state", "status", "mode", "alarm", "fault", "error", "step", "running", "ready", "run",
    "stop", "enabled", "active", "phase", "recipe", "warning",
}  # fmt: skip
_COUNTER = {
    "total", "totals", "count", "counter", "counts", "energy", "sum", "accumulated", "totalizer",
    "totaliser", "produced", "pieces", "hours", "bags", "parts", "cycles", "consumption",
}  # fmt: skip
_STATE_ZH, _COUNTER_ZH = ("状态", "模式", "故障", "报警", "运行信号"), (
    "累计", "总量", "总产", "电量", "电度", "计数", "产量", "总数",
)  # fmt: skip
_INTEGERS = {"SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"}
_COUNTED = {"W.h", "k[var].h", "t", "m3", "[Nm3]", "{bag}", "k[VA].h"}


@dataclass(frozen=True)
class Variable:
    """One variable of a server.

    path    browse names from below the starting node on
    type    of its value, the library's name: Double, Int32, Boolean, String …
    value   None where there is none; why says why then
    array   how many values it holds; None for a single one
    """

    path: tuple[str, ...]
    address: str
    type: str
    value: object = None
    why: str = ""
    array: int | None = None
    unit: str = ""
    range: tuple[float, float] | None = None
    states: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether the driver can read it: a number, a truth or a text, and one of it."""
        readable = self.type in _INTEGERS | {"Float", "Double", "Boolean", "String"}
        return (
            readable
            and self.array is None
            and not self.why.startswith(("BadNotReadable", "BadUserAccess"))
        )

    @property
    def shown(self) -> str:
        """Its value as a person reads it."""
        if self.why:
            return self.why
        if isinstance(self.value, float):
            return f"{self.value:.6g}"
        return str(self.value)


def address(identifier: object, namespace: str) -> str:
    """Return a node id as the configuration has it, with the URI of its namespace.

    namespace  "" for that of OPC UA itself
    source     OPC 10000-6, 5.3.1.10: ``;`` and ``%`` in a URI are written %3B and %25
    """
    if isinstance(identifier, int):
        text = f"i={identifier}"
    elif isinstance(identifier, uuid.UUID):
        text = f"g={identifier}"
    elif isinstance(identifier, bytes):
        text = f"b={base64.b64encode(identifier).decode()}"
    else:
        text = f"s={identifier}"
    uri = quote(namespace, safe="".join(chr(c) for c in range(33, 127) if chr(c) not in ";%"))
    return f"nsu={uri};{text}" if namespace else text


def words(name: str) -> list[str]:
    """Return the words of a name in small letters: ``TotalBags_2`` is total, bags, 2."""
    parted = re.sub(
        r"([a-z0-9])([A-Z])|([A-Z]+)([A-Z][a-z])", r"\1\3 \2\4", normalize("NFKC", name)
    )
    return re.findall(r"[a-z]+|\d+|[^\x00-\x7f]+", parted.lower())


def kind_of(variable: Variable) -> Kind:
    """Return a guess at what a variable is."""
    if variable.type == "String":
        return "text"
    if variable.type == "Boolean" or variable.states:
        return "state"
    name = variable.path[-1]
    said = set(words(name))
    is_whole = variable.type in _INTEGERS
    if is_whole and (said & _STATE or any(w in name for w in _STATE_ZH)):
        return "state"
    if said & _COUNTER or any(w in name for w in _COUNTER_ZH) or _is_total(variable.unit):
        is_negative = isinstance(variable.value, int | float) and variable.value < 0
        return "gauge" if is_negative else "counter"
    return "gauge"


def _is_total(unit: str) -> bool:
    try:
        dimension = Unit.parse(unit).dimension
    except ValueError:
        return False
    energies = [Unit.parse(code).dimension for code in ("W.h", "k[var].h")]
    return dimension in energies


def unit_of(text: str) -> str:
    """Return an engineering unit as the configuration knows it; empty where it knows none."""
    plain = normalize("NFKC", text).strip().replace("·", ".").replace("^", "")
    plain = {"degC": "°C", "℃": "°C", "°c": "°C", "rpm": "1/min", "r/min": "1/min"}.get(
        plain, plain
    )
    for tried in (plain, text.strip()):
        try:
            Unit.parse(tried)
        except ValueError:
            continue
        return "" if tried == "1" else tried
    return ""


def matches(variable: Variable, pattern: str | None) -> bool:
    """Return whether a variable's path, or the end of it, matches a pattern like ``*temp*``."""
    if pattern is None:
        return True
    path = "/".join(variable.path).lower()
    return fnmatchcase(path, pattern.lower()) or fnmatchcase(
        path.rpartition("/")[2], pattern.lower()
    )


# ---- devices and tags ------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """One device to paste: variables under their tags' names."""

    name: str
    tags: Mapping[str, Variable]


def machines(variables: Sequence[Variable], usual: str) -> list[Machine]:
    """Return the devices: what stands first in a path is one; ``usual`` has what stands in none."""
    groups: dict[str, list[Variable]] = {}
    for variable in variables:
        if variable.is_usable:
            groups.setdefault(variable.path[0] if len(variable.path) > 1 else "", []).append(
                variable
            )
    found: list[Machine] = []
    for group, members in groups.items():
        base = "-".join(w for w in words(group) if w.isascii()) if group else usual
        name = _unique(base or usual, {machine.name for machine in found}, "-")
        found.append(Machine(name, _tags(members, 1 if group else 0)))
    return found


def _tags(members: Sequence[Variable], skip: int) -> dict[str, Variable]:
    """Return names: the last part of the path, with those before it where that is not enough."""
    found: dict[str, Variable] = {}
    last = [_word(v.path[-1:]) for v in members]
    for variable, short in zip(members, last, strict=True):
        name = short if short and last.count(short) == 1 else _word(variable.path[skip:])
        name = name or _word((re.sub(r".*[=.]", "", variable.address),)) or "value"
        found[_unique(name, found, "_")] = variable
    return found


def _word(parts: Sequence[str]) -> str:
    return "_".join(w for part in parts for w in words(part) if w.isascii())


def _unique(base: str, taken: "set[str] | Mapping[str, object]", sign: str) -> str:
    name, n = base, 2
    while name in taken:
        name, n = f"{base}{sign}{n}", n + 1
    return name


def tag_of(variable: Variable) -> TagConfig:
    """Return the variable as a tag."""
    kind = kind_of(variable)
    low, high = variable.range or (0.0, 0.0)
    is_limited = kind == "gauge" and low < high
    return TagConfig(
        at=variable.address,
        kind=kind,
        unit=variable.unit or "1",
        range=variable.range if is_limited else None,
        states=variable.states,
    )
