"""Every fault of the simulators' scripts ends as quality or silence, never as a wrong good value.

Every register shows the millisecond in which the device was asked, so that a value of another
request, of another register or of an earlier scan is none of the values that can be right. A
second unit on the same link is well all the time.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers.base import TagConfig
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_driver import ModbusDriver
from edge_agent.errors import Disconnected, NoAnswer
from edge_agent.model import Quality
from edge_agent.units import Duration
from simulators.faults import Script, Trouble
from simulators.modbus_server import ModbusServer, Unit
from simulators.sources import Source
from simulators.tables import device_table
from tests.drivers.test_modbus import device

ILL, WELL_AGAIN, END = 1.0, 3.5, 6.5  # seconds
EVERY = 0.2  # seconds between two scans
TAGS = {"a": 0, "b": 100, "c": 200}  # addresses: three requests of the same shape, and a longer one
LONG = {f"d{i}": 300 + 2 * i for i in range(8)}
STEP = 10_000_000  # between the values of two registers at the same instant

TROUBLES: Mapping[str, Trouble] = {
    name: Trouble("sick", kind, ILL, WELL_AGAIN, **more)  # type: ignore[arg-type]  # its own fields
    for name, (kind, more) in {
        "silence": ("silence", {}),
        "flapping": ("silence", {"every": 0.7, "lasts": 0.3}),
        "delay": ("delay", {"by": 0.25}),
        "delay past the time-out": ("delay", {"by": 0.8}),
        "late by one": ("late-by-one", {}),
        "late by one at times": ("late-by-one", {"every": 0.9, "lasts": 0.5}),
        "exception": ("exception", {"code": 4}),
        "busy": ("busy", {"code": 6}),
        "hole": ("hole", {"at": "hr:100", "count": 2, "code": 2}),
        "poison": ("poison", {"at": "hr:100", "count": 2}),
        "short": ("short", {}),
        "corrupt": ("corrupt", {}),
        "garbage": ("garbage", {}),
        "reset": ("reset", {}),
        "half-open": ("half-open", {"new": "answered"}),
        "half-open, silent": ("half-open", {"new": "silent"}),
        "restart": ("restart", {}),
    }.items()
}
OF_THE_LINK = {"reset", "half-open", "half-open, silent", "restart"}


@dataclass
class Seen:
    """What came of the scans of one unit: good and bad rows, and values that cannot be right."""

    good: list[float] = field(default_factory=list)
    bad: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Bed:
    """Two units behind one port, and the driver that reads them."""

    def __init__(self, trouble: Trouble, framing: str) -> None:
        self.start = time.time_ns()
        addresses = {**TAGS, **LONG}
        shown = {name: {"at": f"hr:{at}", "type": "u32"} for name, at in addresses.items()}
        self.offset = {name: STEP * i for i, name in enumerate(addresses)}
        clock, script = SystemClock(), Script([trouble])
        units = []
        for number, name in enumerate(("sick", "well"), 1):
            source = Source({tag: ("1", self._reading(tag, number)) for tag in addresses})
            row = {"connect": f"modbus+tcp://h?unit={number}", "max_gap": 0, "tags": shown}
            table = device_table(name, row)
            units.append(Unit(table, source, clock, script=script, start=self.start))
        self.server = ModbusServer(units, "mbap" if framing == "tcp" else "rtu")
        self.scheme = "modbus+tcp" if framing == "tcp" else "modbus+rtu-over-tcp"
        self.seen = {"sick": Seen(), "well": Seen()}

    def _reading(self, tag: str, number: int):
        return lambda t: (t - self.start) // 1_000_000 + self.offset[tag] + number * 1_000_000

    async def run(self) -> None:
        port = await self.server.start()
        tags = {n: TagConfig(at=f"hr:{at}", type="u32") for n, at in {**TAGS, **LONG}.items()}
        devices = {
            name: device(
                f"{self.scheme}://127.0.0.1:{port}?unit={number}",
                tags=tags,
                timeout=Duration(0.5),
            )
            for number, name in enumerate(("sick", "well"), 1)
        }
        driver = ModbusDevice.build(devices, SystemClock())
        assert isinstance(driver, ModbusDriver)
        try:
            is_open, silent = False, False
            while (now := self.now()) < END:
                if not is_open:
                    with suppress(Disconnected):
                        await driver.connect()
                        is_open = True
                for name in ("well", "sick"):
                    try:
                        if name == "sick" and silent:
                            await driver.probe(name)
                        silent = silent and name != "sick"
                        await self._scan(driver, name)
                    except NoAnswer:
                        self.seen[name].bad.append(self.now())
                        silent = silent or name == "sick"
                    except Disconnected:
                        self.seen[name].bad.append(self.now())
                        await driver.close()
                        is_open = False
                await asyncio.sleep(max(0.01, now + EVERY - self.now()))
        finally:
            await driver.close()
            await self.server.close()

    def now(self) -> float:
        return (time.time_ns() - self.start) / 1e9

    async def _scan(self, driver: ModbusDriver, name: str) -> None:
        group = next(g for g in driver.groups if g.schema.owner == name)
        began, seen = self.now(), self.seen[name]
        block = await driver.read(group)
        ended = self.now()
        assert block.lawful()
        (seen.good if not block.quality.any() else seen.bad).append(ended)
        for column, tag in enumerate(block.schema.tags):
            if block.quality[column, 0] == Quality.GOOD:
                ms = block.value[column, 0] - self.offset[tag.name]
                at = (ms - 1_000_000 * (1 + (name == "well"))) / 1000
                if not began - 0.002 <= at <= ended:
                    seen.wrong.append(f"{tag.name} of {at:.3f} read {began:.3f} to {ended:.3f}")
            else:
                assert np.isnan(block.value[column, 0])


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_no_fault_ends_as_a_wrong_good_value_or_costs_the_other_unit_a_value(
    framing: str,
) -> None:
    """L1, L3: all faults at the same time, each on a link of its own."""
    beds = {name: Bed(trouble, framing) for name, trouble in TROUBLES.items()}
    async with asyncio.TaskGroup() as tasks:
        for bed in beds.values():
            tasks.create_task(bed.run())

    wrong = {(n, u): s.wrong for n, bed in beds.items() for u, s in bed.seen.items() if s.wrong}
    assert wrong == {}
    spoilt = [name for name in set(beds) - OF_THE_LINK if beds[name].seen["well"].bad]
    assert spoilt == []
    unhurt = [n for n, bed in beds.items() if not any(t < WELL_AGAIN for t in bed.seen["sick"].bad)]
    mended = {"delay", "flapping", "late by one", "late by one at times", "poison"}  # asked again
    assert set(unhurt) <= mended
    ill_for_ever = [n for n, b in beds.items() if not [t for t in b.seen["sick"].good if t > 5.5]]
    assert ill_for_ever == []
