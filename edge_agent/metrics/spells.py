"""Which state held when within a minute, and how an amount is shared by the time of each.

A row's state holds until the next row, but not longer than three periods: after that nothing is
known, and the last state is not taken to go on. States are numbers from 0; ``UNKNOWN`` is -1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_agent.metrics.base import MINUTE, SILENCE, usable
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.join import Reading
from edge_agent.metrics.machine_time import Meaning
from edge_agent.model import F64, I64, U8

UNKNOWN = -1


@dataclass(frozen=True)
class Spells:
    """The stretches of a minute between changes of the state.

    border  int64 (m + 1,), ns, from the minute's start to its end
    state   int64 (m,), of the stretch between two borders
    worst   worst quality of the rows whose states hold
    states  how many states there are
    """

    border: I64
    state: I64
    worst: int
    states: int

    def spans(self) -> I64:
        """Return the ns of each state and, last, of the unknown time, (states + 1,)."""
        found = np.zeros(self.states + 1, np.int64)
        np.add.at(found, self.state, np.diff(self.border))  # -1 is the last
        return found


@dataclass(frozen=True)
class Machine:
    """A tag that says which of some states holds.

    numbers  of each state, the numbers of the tag that mean it
    """

    reading: Reading
    numbers: tuple[tuple[int, ...], ...]

    @cached_property
    def _meaning(self) -> Meaning:
        return Meaning({n: i for i, numbers in enumerate(self.numbers) for n in numbers})

    def read(self, rows: Mapping[str, Rows]) -> tuple[I64, I64, U8]:
        """Return time, state and quality of the rows."""
        time, value, quality = self.reading.read(rows)
        state = self._meaning.of(value, usable(value, quality), UNKNOWN)
        return time, state, quality

    def spells(self, ends: I64, rows: Mapping[str, Rows]) -> list[Spells]:
        """Return the stretches of the minutes with these ends."""
        told = self.read(rows)
        silence = round(SILENCE * self.reading.period * 1e9)
        return [spells(told, silence, int(end), len(self.numbers)) for end in ends]


def spells(told: tuple[I64, I64, U8], silence: int, end: int, states: int) -> Spells:
    """Return the stretches of the minute that ends there.

    told     time, state and quality of rows, (m,); those that do not hold in it are left out
    silence  ns that a row holds at most
    """
    time, state, quality = told
    start = end - MINUTE
    first = max(int(np.searchsorted(time, start, "right")) - 1, 0)
    last = int(np.searchsorted(time, end, "left"))
    time, state, quality = time[first:last], state[first:last], quality[first:last]
    held = np.minimum(np.append(time[1:], end), time + silence)
    until = np.clip(held, start, end)
    begin = np.clip(time, start, end)
    edges = np.append(np.stack([begin, until], axis=1).ravel(), end)
    border = np.concatenate([[start], edges])
    between = np.full(len(edges), UNKNOWN, np.int64)
    between[1::2] = state
    long = np.diff(border) > 0
    begins, between = border[:-1][long], between[long]
    new = np.append(True, between[1:] != between[:-1])
    known = (until > begin) & (state != UNKNOWN)
    worst = int(quality[known].max(initial=0))
    return Spells(np.append(begins[new], end), between[new], worst, states)


def shared_out(amount: float, spans: Sequence[int] | I64, grid: float) -> F64:
    """Return the parts of an amount, in proportion to spans; they sum up to it exactly.

    amount  a multiple of the grid; spans (s,), ns, not all 0
    """
    upto = np.cumsum(spans)
    parts = np.rint(amount * (upto / upto[-1]) / grid) * grid
    parts[-1] = amount
    return np.diff(parts, prepend=0.0)


def converted(parts: F64, total: float, factor: float, grid: float) -> F64:
    """Return parts in another unit, on a grid; they sum up to the converted total exactly.

    parts (s,), which sum up to the total, or nearly so
    """
    upto = np.rint(np.cumsum(parts) * factor / grid) * grid
    upto[-1] = np.rint(total * factor / grid) * grid
    return np.diff(upto, prepend=0.0)
