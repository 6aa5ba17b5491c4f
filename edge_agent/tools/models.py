"""The meter templates as the tools need them: the device that a template alone would make."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_agent.config import Registry, data_dir
from edge_agent.config.entries import make
from edge_agent.config.templates import PREFIXES, Template, Templates
from edge_agent.config.tree import MapNode, Mark, of
from edge_agent.config.words import nearest
from edge_agent.drivers.base import DeviceConfig
from edge_agent.errors import Fault


class Models:
    """The templates beside a plant's file and those that come along."""

    def __init__(self, beside: Path | None = None) -> None:
        """``beside``: the plant's file."""
        folders = [] if beside is None else [beside.absolute().parent]
        self._faults: list[Fault] = []
        self._templates = Templates([*folders, data_dir()], {}, self._faults)
        self._schemes = Registry.installed().schemes()

    def names(self) -> list[str]:
        """Return the names of all templates."""
        return self._templates.known()

    def facts(self, name: str) -> Template | None:
        """Return what a template says of its model; None if there is none that can be read."""
        return self._templates.facts(name)

    def nearest(self, name: str) -> str:
        """Return `` (did you mean …?)`` for a template that there is not."""
        return nearest(name, self.names())

    def make(self, node: MapNode) -> tuple[DeviceConfig | None, MapNode, list[Fault]]:
        """Return the device of a tree, the tree with its template under it, and what is wrong."""
        scheme = str(node.items["connect"].value).partition(":")[0]
        kind = self._schemes.get(scheme)
        if kind is None:
            message = f'unknown scheme "{scheme}"{nearest(scheme, self._schemes)}'
            return None, node, [node.items["connect"].mark.fault(message)]
        before = len(self._faults)
        whole = self._templates.under(node, kind)
        made = make(kind, whole, self._faults)
        found = self._faults[before:]
        del self._faults[before:]
        return (None if found else made), whole, found

    def device(self, name: str, connect: str) -> DeviceConfig | None:
        """Return the device that has nothing but an address and this template."""
        node = of({"connect": connect, "template": name}, Mark(name))
        return self.make(node)[0] if isinstance(node, MapNode) else None

    def supposed(self, template: str | None, places: Sequence[str]) -> str:
        """Return an address of the protocol that a template or the tags' places belong to."""
        facts = None if template is None else self.facts(template)
        prefix = "" if facts is None else PREFIXES[facts.protocol]
        wrong: dict[str, int] = {}
        for scheme in self._schemes:
            connect = f"{scheme}://127.0.0.1"
            tags = {f"t{i}": {"at": at} for i, at in enumerate(places)}
            node = of({"connect": connect, "tags": tags}, Mark(scheme))
            if not scheme.startswith(prefix) or not isinstance(node, MapNode):
                continue
            made, _, _ = self.make(node)
            if made is not None:
                at = [steps for steps, _ in made.faults() if steps[-1:] == ("at",)]
                wrong[connect] = len(at)
        return min(wrong, key=lambda connect: wrong[connect])

    def devices(self, connect: str) -> Iterator[tuple[str, DeviceConfig]]:
        """Yield every template that an address of this scheme can have, as a device."""
        for name in self.names():
            made = self.device(name, connect)
            if made is not None:
                yield name, made
