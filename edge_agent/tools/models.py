"""The meter templates as the tools need them: the device that a template alone would make."""

from collections.abc import Iterator
from pathlib import Path

from edge_agent.config import Registry, data_dir
from edge_agent.config.entries import make
from edge_agent.config.templates import Template, Templates
from edge_agent.config.tree import MapNode, Mark, of
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

    def device(self, name: str, connect: str) -> DeviceConfig | None:
        """Return the device that has nothing but an address and this template."""
        kind = self._schemes.get(connect.partition(":")[0])
        node = of({"connect": connect, "template": name}, Mark(name))
        if kind is None or not isinstance(node, MapNode):
            return None
        before = len(self._faults)
        made = make(kind, self._templates.under(node, kind), self._faults)
        is_right = len(self._faults) == before
        del self._faults[before:]
        return made if is_right else None

    def devices(self, connect: str) -> Iterator[tuple[str, DeviceConfig]]:
        """Yield every template that an address of this scheme can have, as a device."""
        for name in self.names():
            made = self.device(name, connect)
            if made is not None:
                yield name, made
