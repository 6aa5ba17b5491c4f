"""From a register map to requests; pure.

A plan is made once per stream, and again when something was learnt of the device. It is the
partition of the wanted registers into requests that takes the least modelled time: a request costs
its turn-around, a register its bytes (``Cost``). Where reading over a gap costs more than one
request more, as on a slow line, two requests are made of it; over TCP a request always costs more,
so there the plan is also the one with the fewest requests. Between plans of equal time the one with
fewer requests is taken. No strategy that merges over gaps up to a fixed width is quicker, and over
TCP none needs fewer requests; on a line the quickest plan may have more requests than one that
reads over every gap, and then the time decides.

What no request may do, unless one tag alone demands it: ask for more than the device allows, leave
its section, cross a border that the device was found to have, touch a register that was refused, or
read more than ``max_gap`` undeclared registers in a row. The default is none at all: an undeclared
register may be refused, shift the values behind it, or spoil the next answer (peers 14, 15).
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_decode import U16, Decoder, TextReader
from edge_agent.drivers.modbus_partition import TCP, Cost, Ways, walls_of
from edge_agent.drivers.modbus_register import Register, Span
from edge_agent.model import F64, U8

MAX_REGISTERS = 125  # MODBUS Application Protocol V1.1b3, 6.3
MAX_BITS = 2000  # the same, 6.1
NO_TEXTS: Mapping[int, TextReader] = {}


@dataclass(frozen=True)
class Bounds:
    """What was found out about a device; see ``modbus_learn``.

    max_registers, max_bits  what one request may ask for at most; None: what the map says
    dead     spans that it refuses
    borders  a table and an address which no request reads together with the one before
    no_gaps  True where reading undeclared registers does harm, whatever the map allows
    """

    max_registers: int | None = None
    max_bits: int | None = None
    dead: frozenset[Span] = frozenset()
    borders: frozenset[tuple[Table, int]] = frozenset()
    no_gaps: bool = False


NOTHING_FOUND = Bounds()


@dataclass(frozen=True)
class Request:
    """One read request of a plan.

    offset   where its words begin in the row of words of a scan
    columns  the columns of the stream that it brings
    gaps     True where it reads undeclared registers along
    """

    table: Table
    address: int
    count: int
    offset: int
    columns: tuple[int, ...]
    gaps: bool = False

    @cached_property
    def where(self) -> slice | NDArray[np.intp]:
        """``columns`` to index an array with; a slice costs a tenth of a list."""
        first, past = self.columns[0], self.columns[-1] + 1
        if self.columns == tuple(range(first, past)):
            return slice(first, past)
        return np.array(self.columns, np.intp)

    @property
    def last(self) -> int:
        """The last address it asks for."""
        return self.address + self.count - 1

    @property
    def span(self) -> Span:
        """Its table, first and last address."""
        return self.table, self.address, self.last

    @property
    def pdu(self) -> bytes:
        """The request as it goes over the wire, without unit, transaction and checksum."""
        return struct.pack(">BHH", self.table.function, self.address, self.count)

    def __str__(self) -> str:
        prefix, what = self.table.prefix, "bits" if self.table.is_bits else "registers"
        span = f"{prefix}:{self.address}..{prefix}:{self.last}"
        return f"{span} ({self.count} {what}, function {self.table.function})"

    def part(self, registers: Sequence[Register], columns: Sequence[int]) -> "Request":
        """Return the request for some of its columns; its words stand where they stand in it."""
        first = min(registers[i].first for i in columns)
        last = max(registers[i].last for i in columns)
        at = self.offset + first - self.address
        return Request(self.table, first, last - first + 1, at, tuple(columns))


@dataclass(frozen=True)
class ReadPlan:
    """The requests of one stream and the decoding of what they bring.

    requests  what every scan asks for
    suspects  parts that a request of was refused, not yet known which register is to blame
    dead      one request per refused register of the stream, asked again now and then
    words     of the row of words of a scan, suspects and dead ones included
    cost      of the link
    declared  what else may be read along
    """

    registers: tuple[Register, ...]
    requests: tuple[Request, ...]
    suspects: tuple[Request, ...]
    dead: tuple[Request, ...]
    words: int
    cost: Cost
    declared: tuple[Span, ...] = field(repr=False)
    _decoder: Decoder = field(repr=False)

    @classmethod
    def build(
        cls,
        registers: Iterable[Register],
        *,
        max_registers: int = MAX_REGISTERS,
        max_gap: int = 0,
        sections: Sequence[tuple[int, int]] = (),
        cost: Cost = TCP,
        declared: Iterable[Span] = (),
        bounds: Bounds = NOTHING_FOUND,
        suspects: Sequence[tuple[int, ...]] = (),
    ) -> "ReadPlan":
        """Return the plan for the columns of one stream, in their order.

        max_gap   undeclared registers that may be read along between two that are wanted
        sections  first and last address of blocks that no request may cross
        declared  what else the device's map names, and may be read along: its other streams
        suspects  columns that are asked apart from the others, one request for each group
        """
        columns = tuple(registers)
        max_gap = 0 if bounds.no_gaps else max_gap
        doubtful = {i for group in suspects for i in group}
        dead: dict[Span, list[int]] = {}
        for i, register in enumerate(columns):
            if register.span in bounds.dead and i not in doubtful:
                dead.setdefault(register.span, []).append(i)
        apart = [tuple(group) for group in dead.values()]
        doubtful.update(*apart)
        refused = [*bounds.dead, *(_hull(columns, group) for group in suspects)]
        also = tuple(declared)
        known = [*(r.span for r in columns), *also]
        row = _Row()
        for table in Table:
            most = bounds.max_bits if table.is_bits else bounds.max_registers
            usual = MAX_BITS if table.is_bits else max_registers
            ways = Ways(
                table,
                min(usual, most or usual),
                cost,
                walls_of(table, known, refused, max_gap),
                sorted(at for where, at in bounds.borders if where is table),
            )
            wanted = (i for i in range(len(columns)) if i not in doubtful)
            row.fill(
                ways, columns, [i for i in wanted if columns[i].address.table is table], sections
            )
        count = len(row.requests)
        for group in [*suspects, *apart]:
            row.add(_hull(columns, group), group)
        if max_gap:
            row.mark_gaps(known)
        start = np.zeros(len(columns), np.intp)
        for request in row.requests:
            for i in request.columns:
                start[i] = request.offset + columns[i].first - request.address
        rest = row.requests[count:]
        return cls(
            columns,
            tuple(row.requests[:count]),
            tuple(rest[: len(suspects)]),
            tuple(rest[len(suspects) :]),
            row.words,
            cost,
            also,
            Decoder.build(columns, start, row.words),
        )

    @property
    def time(self) -> float:
        """Seconds that one scan takes by the cost model."""
        return sum(self.cost.of(r.table, r.count) for r in self.requests) / 1e9

    def decode(
        self,
        words: U16,
        lost: U8 | None = None,
        texts: Mapping[int, TextReader] = NO_TEXTS,
    ) -> tuple[F64, U8]:
        """Return values (k, n) in tag units and qualities (k, n) of n scans.

        words  uint16 (n, words): the answers side by side; any number where there was none
        lost   uint8 (n, k): the ``Quality`` of columns without answer, GOOD for the others; None:
               all were answered
        texts  who reads the columns of texts; a text without reader is BAD
        """
        return self._decoder.decode(words, lost, texts)


def section_of(register: Register, sections: Sequence[tuple[int, int]]) -> int:
    """Return which section holds a register wholly; -1 if none does."""
    for i, (first, last) in enumerate(sections):
        if first <= register.first and register.last <= last:
            return i
    return -1


class _Row:
    """The requests of a plan and the row of words that their answers make."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.words = 0

    def add(self, span: Span, columns: Iterable[int]) -> None:
        table, first, last = span
        count = last - first + 1
        self.requests.append(Request(table, first, count, self.words, tuple(columns)))
        self.words += count

    def fill(
        self,
        ways: Ways,
        columns: Sequence[Register],
        wanted: Sequence[int],
        sections: Sequence[tuple[int, int]],
    ) -> None:
        """Add the requests of one table for the columns that are wanted."""
        groups: dict[int, list[int]] = {}
        for i in wanted:
            groups.setdefault(section_of(columns[i], sections), []).append(i)
        covers: list[tuple[int, int, list[int]]] = []
        for group in groups.values():
            spans = ways.cover((columns[i].first, columns[i].last) for i in group)
            held: list[list[int]] = [[] for _ in spans]
            for i in sorted(group, key=lambda i: (columns[i].first, columns[i].last)):
                held[bisect_left(spans, columns[i].last, key=lambda span: span[1])].append(i)
            covers += [(*span, members) for span, members in zip(spans, held, strict=True)]
        for first, last, members in sorted(covers):
            self.add((ways.table, first, last), members)

    def mark_gaps(self, declared: Iterable[Span]) -> None:
        """Mark the requests that read what is not declared."""
        known = {(table, at) for table, first, last in declared for at in range(first, last + 1)}
        for i, request in enumerate(self.requests):
            if any((request.table, at) not in known for at in range(request.address, request.last)):
                self.requests[i] = replace(request, gaps=True)


def _hull(columns: Sequence[Register], group: Iterable[int]) -> Span:
    members = [columns[i] for i in group]
    return (
        members[0].address.table,
        min(r.first for r in members),
        max(r.last for r in members),
    )
