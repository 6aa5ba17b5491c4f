"""References to columns of other metrics: ``clinker.intensity_1h`` stands in ``clinker/1h``.

Without a window it is the minute's. Metrics of type ``computed`` have a raw stream: their columns
can be used wherever a device's tag can.
"""

from collections.abc import Mapping

from edge_agent.errors import ConfigError
from edge_agent.metrics.base import MetricConfig, Plant
from edge_agent.model import Schema


class Named:
    """The other metrics of a plant by name; each is built once, when it is asked for."""

    def __init__(self, configs: Mapping[str, MetricConfig], plant: Plant) -> None:
        self._configs, self._plant = configs, plant
        self._outputs: dict[str, tuple[Schema, ...]] = {}
        self._building: list[str] = []

    def __contains__(self, name: object) -> bool:
        return name in self._configs

    def outputs(self, name: str) -> tuple[Schema, ...]:
        """Return the streams of a metric.

        errors  ``KeyError`` for one that does not exist or uses itself; what its ``build`` raises
        """
        if name not in self._outputs:
            if name in self._building:
                way = " -> ".join([*self._building[self._building.index(name) :], name])
                raise KeyError(f"metrics use each other in a circle: {way}")
            self._building.append(name)
            try:
                metrics = self._configs[name].build(name, self._plant)
            finally:
                self._building.pop()
            self._outputs[name] = tuple(metric.output for metric in metrics)
        return self._outputs[name]

    def sound(self, name: str) -> bool:
        """Return whether a metric can be built."""
        try:
            return bool(self.outputs(name))
        except (ConfigError, KeyError, ValueError):
            return False

    def column(self, reference: str) -> tuple[Schema, str]:
        """Return stream and column of ``clinker.intensity_1h``; ``KeyError`` with what is wrong."""
        owner, _, rest = reference.partition(".")
        if owner not in self._configs:
            raise KeyError(f'unknown metric in "{reference}"')
        streams = {schema.name: schema for schema in self.outputs(owner)}
        for name, schema in streams.items():
            column = rest.removesuffix(f"_{name}")
            if column != rest and column in schema.index:
                return schema, column
        for name in ("1min", "raw", *streams):
            if name in streams and rest in streams[name].index:
                return streams[name], rest
        known = ", ".join(sorted({tag.name for s in streams.values() for tag in s.tags}))
        windows = ", ".join(streams)
        raise KeyError(f'"{reference}" is no column of {owner}: {known}; windows {windows}')

    def raw(self, tag: str) -> Schema | None:
        """Return the raw stream of a computed tag; None when no metric has such a stream."""
        owner, _, name = tag.partition(".")
        if owner not in self._configs or self._configs[owner].kind != "computed":
            return None
        streams = self.outputs(owner) if self.sound(owner) else ()
        return next((s for s in streams if s.name == "raw" and name in s.index), None)
