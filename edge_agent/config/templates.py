"""Meter templates: the tag table of a model, laid under the devices that name it.

A template is searched in ``meters/`` beside the plant's file, then among those that come along.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from edge_agent.config.entries import make
from edge_agent.config.tree import Key, MapNode, Mark, Node, expand, lay_over, read
from edge_agent.config.words import nearest
from edge_agent.drivers.base import DeviceConfig, Order, TagConfig
from edge_agent.errors import ConfigError, Fault
from edge_agent.units import Duration

PREFIXES = {"modbus": "modbus+", "opcua": "opc.", "dlt645": "dlt645+", "cjt188": "cjt188+"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the model bears; defaults of the device's keys of the same names."""

    max_registers: int | None = None
    max_gap: int | None = None
    pause: Duration | None = None
    sections: tuple[tuple[int, int], ...] | None = None
    blocks: bool | None = None
    unit_first: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Template:
    """The facts of a model.

    source    where the map was read: manual and page
    verified  read back from the device, or two independent sources agree
    values    primary: the device multiplies by its transformer ratios itself
    order     of the bytes of tags that do not say their own
    """

    maker: str
    model: str
    protocol: Literal["modbus", "opcua", "dlt645", "cjt188"]
    source: str
    tags: Mapping[str, TagConfig]
    name: str = ""
    note: str = ""
    verified: bool = False
    values: Literal["primary", "secondary"] = "secondary"
    function: Literal[1, 2, 3, 4] = 3
    limits: Limits = Limits()
    timeout: Duration | None = None
    order: Order | None = None


class Templates:
    """The templates of one configuration, each read once."""

    def __init__(
        self, folders: Sequence[Path], env: Mapping[str, str], faults: list[Fault]
    ) -> None:
        self._folders = [folder / "meters" for folder in folders]
        self._env = env
        self._faults = faults
        self._read: dict[str, MapNode | None] = {}

    def known(self) -> list[str]:
        """Return the names of all templates."""
        found = {
            path.relative_to(folder).with_suffix("").as_posix()
            for folder in self._folders
            for path in folder.rglob("*.yaml")
        }
        return sorted(found)

    def under(self, device: MapNode, kind: type[DeviceConfig]) -> MapNode:
        """Return a device's tree with its template laid under it, or the usual one of its kind."""
        device = _with_usual(device, kind)
        named = device.items.get("template")
        if named is None or not isinstance(named.value, str):
            return device
        if named.value not in self._read:
            self._read[named.value] = self._load(named.value)
        template = self._read[named.value]
        if template is None:
            if named.value not in self.known():
                hint = nearest(named.value, self.known())
                self._faults.append(named.mark.fault(f'unknown template "{named.value}"{hint}'))
            return device
        self._fits(template, named.mark, named.value, kind)
        return _merged(template, device, kind)

    def facts(self, name: str) -> Template | None:
        """Return what a template says of its model; None if there is none that can be read."""
        tree = self._load(name)
        return None if tree is None else make(Template, tree, self._faults)

    def _load(self, name: str) -> MapNode | None:
        if name not in self.known():
            return None
        path = next(p for f in self._folders if (p := f / f"{name}.yaml").is_file())
        try:
            tree = expand(read(path, self._faults, shown(path)), self._env, self._faults)
        except ConfigError as error:
            self._faults += [f for f in error.faults if isinstance(f, Fault)]
            return None
        make(Template, tree, self._faults)
        return tree if isinstance(tree, MapNode) else None

    def _fits(self, template: MapNode, mark: Mark, name: str, kind: type[DeviceConfig]) -> None:
        protocol = template.items.get("protocol", Node(mark)).value
        prefix = PREFIXES.get(str(protocol))
        if prefix is not None and not any(s.startswith(prefix) for s in kind.schemes):
            message = (
                f'"{name}" is a template for {protocol}, but "connect" is {kind.schemes[0]}://'
            )
            self._faults.append(mark.fault(message))


def _with_usual(device: MapNode, kind: type[DeviceConfig]) -> MapNode:
    """Return a device that names neither template nor tags with what its kind usually has."""
    if {"template", "tags"} & device.items.keys():
        return device
    usual = kind.usual_template(str(device.items.get("connect", Node(device.mark)).value))
    if usual is None:
        return device
    return MapNode(device.mark, items={**device.items, "template": Node(device.mark, usual, usual)})


def _merged(template: MapNode, device: MapNode, kind: type[DeviceConfig]) -> MapNode:
    """Return the template's defaults and tags under the device's own keys."""
    below: dict[Key, Node] = {}
    limits = template.items.get("limits")
    sources = [template, limits] if isinstance(limits, MapNode) else [template]
    asked = {f.name for f in fields(kind)} & (
        {f.name for f in fields(Limits)} | {"timeout", "function", "order"}
    )
    for source in sources:
        below |= {key: node for key, node in source.items.items() if key in asked}
    tags = template.items.get("tags")
    if isinstance(tags, MapNode):
        primary = template.items.get("values", Node(template.mark)).value == "primary"
        below["tags"] = _without_ratio(tags) if primary else tags
    merged = lay_over(MapNode(device.mark, items=below), device)
    return merged if isinstance(merged, MapNode) else device


def _without_ratio(tags: MapNode) -> MapNode:
    """Return tags whose values are primary ones: no transformer ratio is applied again."""
    held: dict[Key, Node] = {}
    for name, tag in tags.items.items():
        if isinstance(tag, MapNode):
            items = dict(tag.items)
            if "ratio" in items:
                items["ratio"] = Node(items["ratio"].mark, "1", "1")
            held[name] = MapNode(tag.mark, items=items)
        else:
            held[name] = tag
    return MapNode(tags.mark, items=held)


def shown(path: Path) -> str:
    """Return a path as a person at this place would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
