"""Simulated DL/T 645 meters behind one serial server, what befalls them, and who reads them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge_agent.clock import SystemClock
from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.dlt645 import Dlt645Device, Dlt645Driver
from edge_agent.units import Duration
from simulators.dlt645_server import Dlt645Meter, Dlt645Server
from simulators.faults import Script, Trouble
from simulators.tables import device_table
from tests.drivers.lines import shows

TIMEOUT = 0.3
ADDRESS = "202305170042"
TAGS = {
    "energy": {"at": "di:00010000", "unit": "kWh", "kind": "counter"},
    "power": {"at": "di:02030000", "unit": "kW"},
    "voltage": {"at": "di:02010100", "unit": "V"},
}
SHOWN = {"energy": (1234.56, "kWh"), "power": (-3.3526, "kW"), "voltage": (229.7, "V")}
GOOD = [(1234.56, 0), (-3.3526, 0), (229.7, 0)]
Tags = dict[str, dict[str, object]]


class Bench:
    """Meters behind one serial server.

    script  what befalls them; a trouble begins when it is put there
    """

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.script = Script()
        self.start = self.clock.wall_ns()
        self.meters: list[Dlt645Meter] = []
        self.port = 0

    def add(
        self,
        name: str = "m",
        tags: Tags | None = None,
        shown: dict[str, tuple[float, str]] | None = None,
        query: str = f"address={ADDRESS}",
        **rest: object,
    ) -> Dlt645Meter:
        written = {"connect": f"dlt645+tcp://x?{query}", "tags": tags or TAGS, **rest}
        source = shows(shown or SHOWN)
        meter = Dlt645Meter(
            device_table(name, written), source, self.clock, script=self.script, start=self.start
        )
        self.meters.append(meter)
        return meter

    def befall(self, kind: str, device: str = "m", **rest: object) -> None:
        self.script.troubles.append(Trouble(device, kind, **rest))  # type: ignore[arg-type]

    def recover(self) -> None:
        self.script.troubles.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Bench"]:
        server = Dlt645Server(self.meters)
        try:
            self.port = await server.start()
            yield self
        finally:
            await server.close()


def device(
    port: int, tags: Tags | None = None, query: str = f"address={ADDRESS}", **rest: object
) -> Dlt645Device:
    at = f"dlt645+tcp://127.0.0.1:{port}?{query}"
    return made(at, tags, **rest)


def made(connect: str, tags: Tags | None = None, **rest: object) -> Dlt645Device:
    written = {n: TagConfig(**t) for n, t in (tags or TAGS).items()}  # type: ignore[arg-type]
    rest = {"timeout": Duration(TIMEOUT), "pause": Duration(0.0), "tags": written, **rest}
    return Dlt645Device(connect=connect, **rest)  # type: ignore[arg-type]


def driver(**devices: Dlt645Device) -> Dlt645Driver:
    return Dlt645Device.build(devices, SystemClock())
