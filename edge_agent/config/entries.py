"""One entry of the tree into one frozen object: the reader that pydantic stands behind.

The root of each validation is a model that forbids unknown keys: a plain dataclass would ignore
them. Each device, KPI and sink is an entry of its own, so a wrong one hides nothing of the others.
"""

from importlib import import_module
from typing import NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from edge_agent.config.tree import MapNode, Node, plain, walk
from edge_agent.config.words import faults_of, mended, plain_with, written
from edge_agent.drivers.base import DeviceConfig
from edge_agent.errors import Fault
from edge_agent.metrics.base import MetricConfig
from edge_agent.sinks.base import SinkConfig

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", alias_generator=written, allow_inf_nan=False)
_MODELS: dict[type[object], type[BaseModel]] = {}  # building one takes a millisecond


class Registry(NamedTuple):
    """Every class that a configuration can name: by scheme, by ``type``, by ``type``."""

    devices: tuple[type[DeviceConfig], ...]
    metrics: tuple[type[MetricConfig], ...]
    sinks: tuple[type[SinkConfig], ...]

    @classmethod
    def installed(cls) -> "Registry":
        """Return what the packages of drivers, metrics and sinks name."""
        return cls(
            import_module("edge_agent.drivers").DRIVERS,
            import_module("edge_agent.metrics").METRICS,
            import_module("edge_agent.sinks").SINKS,
        )

    def schemes(self) -> dict[str, type[DeviceConfig]]:
        """Return the device class of each scheme of ``connect``."""
        return {scheme: kind for kind in self.devices for scheme in kind.schemes}


def _wrapper(kind: type[object]) -> type[BaseModel]:
    """Return a model with one field ``entry`` that forbids unknown keys at every depth."""
    if kind not in _MODELS:
        _MODELS[kind] = create_model("Entry", __config__=STRICT, entry=(kind, ...))
    return _MODELS[kind]


def make(kind: type[T], node: Node, faults: list[Fault]) -> T | None:
    """Return the entry as an object of its class; None, and ``faults``, when it is wrong."""
    model = _wrapper(cast("type[object]", kind))
    try:
        made = model.model_validate({"entry": plain(node)})
    except ValidationError as error:
        data = plain_with(node, mended(error, node))
        try:
            made = model.model_validate({"entry": data})
        except ValidationError as left:
            faults += faults_of(left, kind, node)
            return None
    return cast("T", made.entry)  # type: ignore[attr-defined]  # the one field of the wrapper


def without(node: Node, key: str) -> Node:
    """Return a mapping without one of its keys."""
    if not isinstance(node, MapNode):
        return node
    items = {k: item for k, item in node.items.items() if k != key}
    return MapNode(node.mark, items=items)


def text_at(node: Node, key: str, faults: list[Fault]) -> str | None:
    """Return the text of a key that an entry must have; None when it is missing or no text."""
    held, steps = walk(node, (key,))
    if not isinstance(node, MapNode):
        faults.append(node.mark.fault("must be a mapping: {key: value}"))
    elif not steps:
        faults.append(node.mark.fault(f'"{key}" is missing'))
    elif not isinstance(held.value, str):
        faults.append(held.mark.fault("must be text"))
    else:
        return held.value
    return None
