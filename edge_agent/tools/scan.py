"""``edge-agent scan``: which Modbus units answer, what can be read of them, and what they may be.

Only reads are sent, one at a time, with a pause between them. First every unit is asked for one
register: any answer, an exception too, says that it is there. Then each table is searched, first
where known meters have their registers, and given up as soon as a template fits all of it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.drivers.cjt188 import Cjt188Device
from edge_agent.drivers.dlt645 import Dlt645Device
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_plan import Request
from edge_agent.drivers.modbus_wire import Manners, Refused, Wire, Words
from edge_agent.errors import ConfigError, Disconnected
from edge_agent.tools.fit import Fit
from edge_agent.tools.guess import (
    BLOCK,
    Memory,
    Unknown,
    blocks_of,
    contenders,
    fits,
    spans_of,
    unknown,
)
from edge_agent.tools.models import Models
from edge_agent.tools.ranges import LAST, Found, Refusal, Reply, Span, grid, search
from edge_agent.units import Duration

SILENCES = 4  # unanswered requests in a row after which a table is left alone
SAME = 0.6  # share of the registers that are not 0 by which two units are one device
LONG = 1000  # registers in a row, after which a range is left when a template fits
RECONNECTS = 3  # how often a device may close the connection on a request
BUSY, BUSY_RESTS = {5, 6}, (0.2, 0.5, 1.0)  # exceptions by which a device asks for time; s
METERS = (*Dlt645Device.schemes, *Cjt188Device.schemes)  # scanned by scan_meters
REST = 1.0  # s before it is opened again
STALE = 2.1  # time-outs for which the wire does not ask a silent RTU unit again

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What to scan.

    units      numbers of the units to ask
    functions  read functions to try: 3 and 4 are registers, 1 and 2 bits
    deep       search the whole address space even when a template fits
    """

    url: str
    units: Sequence[int]
    functions: Sequence[int] = (3, 4)
    timeout: Duration = Duration(0.5)
    pause: Duration = Duration(0.02)
    deep: bool = False


@dataclass
class Unit:
    """What was found of one unit."""

    number: int
    tables: dict[Table, Found] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    silent: set[Table] = field(default_factory=set)
    done: bool = False

    @property
    def memory(self) -> Memory:
        """What was read of it."""
        return {table: found.words for table, found in self.tables.items()}


class Scan:
    """One scan of one link; what it has found so far can be shown at any time."""

    def __init__(self, wish: Wish, progress: Progress) -> None:
        self.wish = wish
        self.units: dict[int, Unit] = {}
        self.asked = 0
        self.requests = 0
        self.lost = ""
        self.is_one = False  # one device answers to any number
        self._progress = progress
        self.device = device_at(wish.url, wish)
        manners = Manners(float(wish.timeout), float(wish.pause))
        self._wire = Wire(self.device.line, dict.fromkeys(wish.units, manners))
        self._reconnects = 0
        found = Models().devices(wish.url)
        self.maps = {name: d for name, d in found if isinstance(d, ModbusDevice)}

    async def run(self) -> None:
        """Scan; raises ``Disconnected`` only when the link cannot be opened at all."""
        try:
            await self._wire.open()
            try:
                for number in self.wish.units:
                    await self._look_for(number)
                units = list(self.units.values())
                for i, unit in enumerate(units):
                    await self._explore(unit)
                    if i == 1 and len(units) == self.asked and alike(units[0], unit):
                        self.is_one = True
                        self.units = {units[0].number: units[0]}
                        break
            except Disconnected as e:
                self.lost = str(e)
        finally:
            self._progress("")
            await self._wire.close()

    # ---- units ----

    async def _look_for(self, number: int) -> None:
        self._progress(
            f"asking unit {number} ({self.asked + 1} of {len(self.wish.units)}), "
            f"{len(self.units)} found"
        )
        table = _table_of(self.wish.functions[0])
        reply = await self._ask(number, table, Span(0, 1))
        self.asked += 1
        if reply is not None:
            self.units[number] = Unit(number)

    async def _ask(self, unit: int, table: Table, span: Span) -> Reply | None:
        """Return the words, how they were refused, or None for silence."""
        request = Request(table, span.first, span.count, 0, ())
        try:
            answer = await self._once(unit, request)
            for rest in BUSY_RESTS:
                if not isinstance(answer, Refused) or answer.code not in BUSY:
                    break
                await asyncio.sleep(rest)
                answer = await self._once(unit, request)
        except TimeoutError:
            return None
        except Disconnected:
            self._reconnects += 1
            if self._reconnects > RECONNECTS:
                raise
            await asyncio.sleep(REST)
            await self._wire.open()
            return None
        return Refusal(answer.code) if isinstance(answer, Refused) else [int(w) for w in answer]

    async def _once(self, unit: int, request: Request) -> Words | Refused:
        await self._wire.settle(unit)
        self.requests += 1
        return await self._wire.ask(unit, request)

    # ---- one unit ----

    async def _explore(self, unit: Unit) -> None:
        for function in self.wish.functions:
            table = _table_of(function)
            found = unit.tables[table] = Found()
            wanted = self._wanted(unit, table)
            for hint in self._hints(table):
                if wanted is not None and hint not in wanted:
                    continue
                held = len(found.words)
                if not await self._search(unit, table, found, hint):
                    break
                if found.everywhere:
                    await self._read_blocks(unit, table, found)
                    break
                if len(found.words) > held:
                    unit.fits = fits(self.maps, unit.memory)
                    wanted = self._wanted(unit, table)
        unit.fits = fits(self.maps, unit.memory, any_order=True)
        is_sure = bool(unit.fits) and unit.fits[0].words == "very likely"
        unit.unknown = [] if is_sure else unknown(unit.memory)
        unit.done = True

    async def _read_blocks(self, unit: Unit, table: Table, found: Found) -> None:
        """Read of a device that answers any address what the templates name, and the beginning."""
        for first in blocks_of(self.maps.values(), table):
            if not await self._search(
                unit, table, found, Span(first, min(BLOCK, LAST + 1 - first))
            ):
                return

    def _is_enough(self, unit: Unit) -> bool:
        """Return whether a template fits, so that a long range need not be read to its end."""
        return not self.wish.deep and any(
            fit.words == "very likely" for fit in fits(self.maps, unit.memory)
        )

    def _wanted(self, unit: Unit, table: Table) -> set[Span] | None:
        """Return which hints are worth asking when a template fits already; None: all.

        What fits may be a part of a larger map: the registers of those are still asked for.
        """
        if self.wish.deep or not (unit.fits and unit.fits[0].words == "very likely"):
            return None
        rivals = [self.maps[name] for name in contenders(self.maps, unit.memory)]
        return {Span(first, count) for first, count in spans_of(rivals, table)}

    def _hints(self, table: Table) -> list[Span]:
        """Return where to look: first where the models already found have their registers."""
        near = {fit.template for unit in self.units.values() for fit in unit.fits[:1]}
        known = spans_of([self.maps[name] for name in near], table)
        known += spans_of(self.maps.values(), table)
        known += [(address, 1) for address in grid(deep=self.wish.deep)]
        return [Span(first, count) for first, count in dict.fromkeys(known)]

    async def _search(self, unit: Unit, table: Table, found: Found, hint: Span) -> bool:
        """Search from one hint; return whether the table is worth another."""
        asking = search(found, [hint])
        held = len(found.words)
        try:
            span = next(asking)
            silences = 0
            while True:
                if len(found.words) - held > LONG:
                    if self._is_enough(unit):
                        found.cut.add(span.first - 1)
                        return True
                    held = len(found.words)
                self._progress(
                    f"unit {unit.number}, {table.prefix}:{span.first}: {len(found.words)} "
                    f"registers found, {self.requests} requests"
                )
                reply = await self._ask(unit.number, table, span)
                silences = silences + 1 if reply is None else 0
                if silences >= SILENCES:
                    unit.silent.add(table)
                    return False
                if reply is None and self.device.line.is_rtu:
                    await asyncio.sleep(STALE * self.wish.timeout)
                span = asking.send(Refusal(0) if reply is None else reply)
        except StopIteration:
            return not found.absent


def alike(one: Unit, other: Unit) -> bool:
    """Return whether two units say the same, but for what changes from one second to the next."""
    ranges = [[found.ranges() for found in unit.tables.values()] for unit in (one, other)]
    words = [
        (word, other.memory.get(table, {}).get(address))
        for table, held in one.memory.items()
        for address, word in held.items()
        if word
    ]
    same = sum(mine == its for mine, its in words)
    return ranges[0] == ranges[1] and any(ranges[0]) and same >= SAME * len(words)


def _table_of(function: int) -> Table:
    return next(table for table in Table if table.function == function)


def device_at(url: str, wish: Wish) -> ModbusDevice:
    """Return the line as a device; ``ConfigError`` when the address is none."""
    scheme = url.partition(":")[0]
    if scheme not in ModbusDevice.schemes:
        known = "://, ".join((*ModbusDevice.schemes, *METERS))
        raise ConfigError([f"scan: {url}: scan reads {known}:// (browse reads opc.tcp://)"])
    device = ModbusDevice(connect=url, timeout=wish.timeout, pause=wish.pause)
    try:
        wrong = [message for steps, message in device.faults() if steps == ("connect",)]
    except ValueError as e:
        wrong = [str(e)]
    if wrong:
        raise ConfigError([f"scan: {url}: {message}" for message in wrong])
    return device
