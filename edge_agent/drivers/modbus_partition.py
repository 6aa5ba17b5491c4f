"""Which registers of a table are read together: the partition of least modelled time; pure.

A request costs its turn-around, a register its bytes. The optimum is found by dynamic programming
over the registers in the order of their addresses. That suffices: a register within another is
read with it, and of requests none of which holds another a register may always be left to an
earlier one.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_register import Span
from edge_agent.model import I64


@dataclass(frozen=True)
class Cost:
    """What a read request costs on a link; whole nanoseconds, so that equal is equal.

    request  what every request costs: turn-around, pauses, the bytes around the registers
    byte     what each byte of registers or bits in the answer costs
    """

    request: int
    byte: int

    def of(self, table: Table, count: int) -> int:
        """Return the ns that it takes to read so many registers or bits."""
        return self.request + self.byte * (-(-count // 8) if table.is_bits else 2 * count)

    @classmethod
    def of_tcp(cls, pause: float = 0.0) -> "Cost":
        """Return the cost over TCP, where a request costs more than reading over any gap.

        20 ms of turn-around, as of a slow meter, and 80 ns per byte (100 Mbit/s): all the 65 536
        registers there are take less than one request.
        """
        return cls(20_000_000 + round(pause * 1e9), 80)

    @classmethod
    def of_line(cls, baud: int, bits: int, pause: float = 0.0) -> "Cost":
        """Return the cost on a serial line.

        bits    on the wire per character, start and stop bits included
        pause   seconds between an answer and the next request
        source  MODBUS over Serial Line V1.02, 2.5.1.1: silence of 3.5 characters before a frame,
                1.75 ms above 19 200 baud; 8 bytes of request and 5 around the registers
        """
        character = round(1e9 * bits / baud)
        silence = max(1_750_000, 7 * character // 2)
        return cls(
            13 * character + silence + max(silence, round(pause * 1e9)) + DEVICE_TURN, character
        )


DEVICE_TURN = 5_000_000  # ns that a device on a line thinks before it answers
TCP = Cost.of_tcp()


def walls_of(
    table: Table, declared: Iterable[Span], refused: Iterable[Span], max_gap: int
) -> list[tuple[int, int]]:
    """Return the addresses that no request may touch: what was refused, and wide gaps."""
    walls = [(first, last) for where, first, last in refused if where is table]
    end = None
    for first, last in sorted((f, e) for where, f, e in declared if where is table):
        if end is not None and first - end - 1 > max_gap:
            walls.append((end + 1, first - 1))
        end = last if end is None else max(end, last)
    merged: list[tuple[int, int]] = []
    for first, last in sorted(walls):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


@dataclass(frozen=True)
class Ways:
    """In which ways the registers of one table may be read together."""

    table: Table
    limit: int
    cost: Cost
    walls: list[tuple[int, int]]
    borders: list[int]

    @cached_property
    def _price(self) -> I64:
        sizes = range(self.limit + 1)
        return np.array([self.cost.of(self.table, size) for size in sizes], np.int64)

    def cover(self, wanted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the spans of least time that hold all wanted ones, in order.

        Where neighbours may not be read together, none on one side goes with one on the other, so
        the parts between are solved one by one.
        """
        outer: list[tuple[int, int]] = []
        for first, last in sorted(wanted, key=lambda s: (s[0], -s[1])):
            if not outer or last > outer[-1][1]:
                outer.append((first, last))
        spans, part = [], outer[:1]
        for before, after in pairwise(outer):
            if not self._may(before[0], after[1]):
                spans += self._cheapest(part)
                part = []
            part.append(after)
        return spans + self._cheapest(part)

    def _may(self, first: int, last: int) -> bool:
        """Return whether a request for more than one tag may have this span."""
        at = bisect_left(self.walls, first, key=lambda wall: wall[1])
        if at < len(self.walls) and self.walls[at][0] <= last:
            return False
        at = bisect_left(self.borders, first + 1)
        return at == len(self.borders) or self.borders[at] > last

    def _cheapest(self, part: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the partition into runs of neighbours that takes the least time.

        From the last on: ``time[i]`` is what the registers from the i-th on cost at best. Where
        each register follows the one before, every partition reads as many, so the fewest requests
        are the quickest, and filling one after the other gives these.
        """
        if not self.table.is_bits and all(b[0] == a[1] + 1 for a, b in pairwise(part)):
            return self._filled(part)
        n, price = len(part), self._price
        first, last = np.array(part, np.int64).reshape(n, 2).T
        time, count = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
        until = np.zeros(n, np.intp)
        reach = np.maximum(np.searchsorted(last, first + self.limit), np.arange(1, n + 1))
        for i in reversed(range(n)):
            size = np.minimum(last[i : reach[i]] - first[i] + 1, self.limit)
            total = price[size] + time[i + 1 : reach[i] + 1]
            best = np.flatnonzero(total == total.min())
            fewest = count[i + 1 + best]
            j = int(best[np.flatnonzero(fewest == fewest.min())[-1]])  # the first one the longest
            time[i], count[i], until[i] = total[j], 1 + count[i + 1 + j], i + 1 + j
        spans, i = [], 0
        while i < n:
            spans.append((int(first[i]), int(last[until[i] - 1])))
            i = int(until[i])
        return spans

    def _filled(self, part: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the partition whose requests are as long as they may be."""
        spans: list[tuple[int, int]] = []
        for first, last in part:
            if spans and last - spans[-1][0] < self.limit:
                spans[-1] = spans[-1][0], last
            else:
                spans.append((first, last))
        return spans
