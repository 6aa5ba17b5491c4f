"""Small plug-ins and a small plant: what the configuration is tested with."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from edge_agent.config import Config, Registry, load
from edge_agent.drivers.base import DeviceConfig
from edge_agent.errors import ConfigError
from edge_agent.metrics.base import Metric, MetricConfig, Plant, Reference
from edge_agent.model import Kind
from edge_agent.sinks.base import SinkConfig
from edge_agent.units import Duration, Secret


@dataclass(frozen=True, kw_only=True)
class Login:
    user: str
    password: Secret | None = None


@dataclass(frozen=True, kw_only=True)
class Meter(DeviceConfig):
    schemes: ClassVar[tuple[str, ...]] = ("modbus+tcp", "modbus+rtu")

    pause: Duration = Duration(0.0)
    max_registers: Annotated[int, Ge(1), Le(125)] = 125
    max_gap: int = 0
    sections: tuple[tuple[int, int], ...] = ()
    login: Login | None = None

    @property
    def link(self) -> Hashable:
        return (self.url.hostname, self.url.port)

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        return [
            (("tags", name, "at"), f'"{tag.at}" is no address')
            for name, tag in self.tags.items()
            if not tag.at.startswith(("hr", "4"))
        ]


@dataclass(frozen=True, kw_only=True)
class Source:
    tags: tuple[str, ...]
    lhv: str | None = None


@dataclass(frozen=True, kw_only=True)
class Energy(MetricConfig):
    kind: ClassVar[str] = "energy"

    scope: Literal["plant", "process"] = "process"
    product: str | None = None
    inputs: Mapping[str, Source | tuple[str, ...]] = field(default_factory=dict)

    def references(self) -> list[Reference]:
        return [
            Reference(("inputs", carrier, i), tag, Kind.COUNTER, "kWh")
            for carrier, tags in self.inputs.items()
            if isinstance(tags, tuple)
            for i, tag in enumerate(tags)
        ]

    def build(self, name: str, plant: Plant) -> list[Metric]:  # noqa: ARG002  of the base class
        for carrier in self.inputs:
            plant.coefficients(carrier, "equivalent", "GB/T 2589")
        return []


@dataclass(frozen=True, kw_only=True)
class Broker(SinkConfig):
    kind: ClassVar[str] = "mqtt"

    url: str
    port: Annotated[int, Ge(1), Le(65535)] = 1883
    password: Secret | None = None


REGISTRY = Registry((Meter,), (Energy,), (Broker,))

SITE = "site: {id: demo}\n"
DEVICE = (
    "devices: {em: {connect: 'modbus+tcp://h:502',"
    " tags: {e: {at: 'hr:0', unit: kWh, kind: counter}}}}\n"
)


def plant(folder: Path, text: str, **options: object) -> Config:
    """Write ``plant.yaml`` and read it with the small plug-ins."""
    path = folder / "plant.yaml"
    path.write_text(text, "utf-8")
    return load(path, registry=REGISTRY, **{"env": {}} | options)  # type: ignore[arg-type]  # as given


def mistakes(folder: Path, text: str, **options: object) -> list[str]:
    """Return the mistakes of a text, without the folder."""
    try:
        plant(folder, text, **options)
    except ConfigError as error:
        return [str(fault).replace(f"{folder}/", "") for fault in error.faults]
    return []
