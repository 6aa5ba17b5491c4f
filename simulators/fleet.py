"""All simulated devices of a configuration on free loopback ports."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from edge_agent.clock import Clock
from simulators.cjt188_server import Cjt188Meter
from simulators.cjt188_server import size as cjt188_size
from simulators.dlt645_server import Dlt645Meter
from simulators.dlt645_server import size as dlt645_size
from simulators.faults import Script
from simulators.modbus_server import ModbusServer, ScanLog, Unit
from simulators.octets import OctetServer
from simulators.opcua_security import Security, kept
from simulators.opcua_server import OpcUaServer
from simulators.plant import CementPlant
from simulators.pseudo_terminal import Cable
from simulators.registers import place
from simulators.sources import Source, anything
from simulators.tables import DeviceTable, read_devices
from simulators.truth import Tally, Truth

OCTETS: dict[str, tuple[type[Dlt645Meter] | type[Cjt188Meter], Callable[[bytes], int]]] = {
    "dlt645+tcp": (Dlt645Meter, dlt645_size),
    "dlt645+serial": (Dlt645Meter, dlt645_size),
    "cjt188+tcp": (Cjt188Meter, cjt188_size),
    "cjt188+serial": (Cjt188Meter, cjt188_size),
}


@dataclass
class Fleet:
    """What is running.

    connect  device -> where it is reached now
    skipped  devices whose protocol is not simulated
    sources  device -> what it shows
    counted  the wire truth: what each device was asked and how it answered
    """

    plant: CementPlant
    connect: dict[str, str] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    modbus: list[ModbusServer] = field(default_factory=list)
    opcua: list[OpcUaServer] = field(default_factory=list)
    octets: list[OctetServer] = field(default_factory=list)
    counted: Truth = field(default_factory=Truth)

    def truth(self) -> Mapping[str, Tally]:
        """Return what each device was asked and how it answered."""
        return self.counted.devices()


@asynccontextmanager
async def play(
    config: Path,
    clock: Clock,
    *,
    seed: int = 1,
    log: Path | None = None,
    script: Script | None = None,
    sources: Mapping[str, Source] | None = None,
    serial: bool = False,
) -> AsyncIterator[Fleet]:
    """Play every device of a configuration.

    Devices on one address share one port here too. A device of the cement plant shows the plant,
    any other one plausible numbers. Serial devices are reached over TCP.

    sources  device -> what it shows instead
    serial   serial devices are reached over pseudo terminals
    """
    fleet = Fleet(CementPlant(seed, clock))
    scans = ScanLog(log)
    async with AsyncExitStack() as stack:
        stack.callback(scans.close)
        links: dict[tuple[str, str], list[tuple[DeviceTable, Source]]] = {}
        tables = read_devices(config)
        if script is not None and (misfits := _misfits(script, tables)):
            raise ValueError("\n".join(misfits))
        for table in tables:
            url = table.url
            source = (sources or {}).get(table.id) or _source(fleet.plant, table)
            fleet.sources[table.id] = source
            links.setdefault((url.scheme, url.netloc + url.path), []).append((table, source))
        for (scheme, _), devices in links.items():
            if scheme.startswith("modbus+"):
                units = [
                    Unit(
                        table,
                        source,
                        clock,
                        log=scans,
                        script=script,
                        start=fleet.plant.start,
                        tally=fleet.counted.tally(table.id),
                    )
                    for table, source in devices
                ]
                server = ModbusServer(units, "mbap" if scheme == "modbus+tcp" else "rtu")
                fleet.modbus.append(server)
                address = await _started(server, scheme, stack, serial=serial)
                for table, _s in devices:
                    fleet.connect[table.id] = f"{address}?{_options(table, address)}"
            elif scheme in OCTETS:
                meters = [
                    OCTETS[scheme][0](
                        table,
                        source,
                        clock,
                        log=scans,
                        script=script,
                        start=fleet.plant.start,
                        tally=fleet.counted.tally(table.id),
                    )
                    for table, source in devices
                ]
                octets = OctetServer(meters, OCTETS[scheme][1])
                fleet.octets.append(octets)
                address = await _started(octets, scheme, stack, serial=serial)
                for table, _s in devices:
                    fleet.connect[table.id] = f"{address}?{_meter_options(table, address)}"
            elif scheme == "opc.tcp":
                security = devices[0][0].security
                opcua = OpcUaServer(
                    devices,
                    clock,
                    scans,
                    None if security is None else Security.written(security, kept()),
                    script=script,
                    start=fleet.plant.start,
                    counted=fleet.counted,
                )
                stack.push_async_callback(opcua.close)
                port = await opcua.start()
                fleet.opcua.append(opcua)
                fleet.connect |= {t.id: f"opc.tcp://127.0.0.1:{port}" for t, _s in devices}
            else:
                fleet.skipped += [table.id for table, _s in devices]
        yield fleet


async def _started(
    server: ModbusServer | OctetServer, scheme: str, stack: AsyncExitStack, *, serial: bool
) -> str:
    """Start a server; return its address without options."""
    if serial and (scheme == "modbus+rtu" or scheme.endswith("+serial")):
        cable = stack.enter_context(Cable())
        stack.push_async_callback(server.close)
        server.start_serial(cable.ours)
        return f"{scheme}://{cable.theirs}"
    stack.push_async_callback(server.close)
    port = await server.start()
    over_tcp = {"modbus+rtu": "modbus+rtu-over-tcp"}.get(scheme, scheme)
    return f"{over_tcp.replace('+serial', '+tcp')}://127.0.0.1:{port}"


def _options(table: DeviceTable, address: str) -> str:
    return table.url.query if address.startswith("modbus+rtu:") else f"unit={table.unit}"


def _meter_options(table: DeviceTable, address: str) -> str:
    line = {"baud", "parity", "stopbits", "bytesize"} if "+tcp" in address else {"parity"}
    given = [pair for pair in parse_qsl(table.url.query) if pair[0] not in line]
    return urlencode(given if "+tcp" in address else [*given, ("parity", "N")])


def _misfits(script: Script, tables: list[DeviceTable]) -> list[str]:
    """Return a complaint for each entry of a script that the configuration has no place for."""
    misfits = script.strangers([table.id for table in tables])
    for table in tables:
        if table.url.scheme.startswith("modbus"):
            for trouble in script.of(table.id, "hole", "poison"):
                try:
                    place(trouble.at)
                except ValueError as e:
                    misfits.append(f"{script.name}:{trouble.line}: {e}")
    return misfits


def _source(plant: CementPlant, table: DeviceTable) -> Source:
    """Return what a device shows: the plant's if it has every tag, else plausible numbers."""
    known = plant.source(table.id)
    if known is not None and all(known.knows(tag.name) for tag in table.tags):
        return known
    tags = {tag.name: (tag.kind, tag.unit) for tag in table.tags}
    # a register that counts the other way round shows what flows the other way
    times = {t.name: float(t.ratio) * (-1 if t.factor < 0 else 1) for t in table.tags}
    return anything(f"{plant.seed}/{table.id}", plant.start, tags, times)
