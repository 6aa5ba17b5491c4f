"""OPC UA in a configuration: one server is one link.

A tag's ``at`` is a node id as a person writes it, see ``opcua_address``. Tags are polled (a Read
per group) or pushed (a subscription, ``mode: subscribe``). The driver itself is ``opcua_driver``,
loaded when a configuration has such a device.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from edge_agent.clock import Clock
from edge_agent.drivers.base import DeviceConfig, Driver
from edge_agent.drivers.opcua_address import NodeAddress
from edge_agent.drivers.opcua_security import Security
from edge_agent.units import Duration


@dataclass(frozen=True, kw_only=True)
class OpcUaDevice(DeviceConfig):
    """An OPC UA server, or the part of one that is one machine.

    publish          how often the server may push; state changes in between keep their own time
    clock_tolerance  how far the server's clock may be from the agent's
    frozen_after     how long the server's clock may stand still before its values are none
    history          how far back an outage is filled from what the server remembers; 0s: not at all
    max_nodes        nodes in one request at most, where the server announces more than it bears
    """

    schemes: ClassVar[tuple[str, ...]] = ("opc.tcp",)

    timeout: Duration = Duration(4.0)
    security: Security | None = None
    publish: Duration = Duration(0.5)
    clock_tolerance: Duration = Duration(5.0)
    frozen_after: Duration = Duration(2.0)
    history: Duration = Duration(86400.0)
    max_nodes: Annotated[int, Ge(1)] | None = None

    @property
    def endpoint(self) -> str:
        """``connect`` with the port that OPC UA has when none is written."""
        url = self.url
        return url._replace(netloc=url.netloc if url.port else f"{url.netloc}:4840").geturl()

    @property
    def link(self) -> Hashable:
        return (self.endpoint, self.security)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> Driver:
        from edge_agent.drivers.opcua_driver import OpcUaDriver

        return OpcUaDriver({k: d for k, d in devices.items() if isinstance(d, cls)}, clock)

    def explain(self, name: str, tag: str) -> list[tuple[str, str]]:
        from edge_agent.drivers.opcua_explain import explain  # which only a person asks for

        return explain(self, name, tag)

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        try:
            if not self.url.hostname or self.url.port == 0:
                found.append((("connect",), "write opc.tcp://host:4840"))
        except ValueError as e:
            found.append((("connect",), f"{e} (write opc.tcp://host:4840)"))
        if "@" in self.url.netloc:
            found.append(
                (("connect",), "write user and password under security, not in the address")
            )
        for name, tag in self.tags.items():
            try:
                NodeAddress.parse(tag.at)
            except ValueError as e:
                found.append((("tags", name, "at"), str(e)))
            if tag.scale_from is not None:
                text = "an OPC UA server scales by itself: leave scale_from out"
                found.append((("tags", name, "scale_from"), text))
        if self.security is not None:
            found += [(("security", key), message) for key, message in self.security.faults()]
        return found
