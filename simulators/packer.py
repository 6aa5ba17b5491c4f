"""The packing machine: a seeded schedule of states with exact change times, and the bags it makes.

Each hour of the epoch has its own seeded schedule and begins producing, so any start time works. A
bag is ready whenever the machine has produced for one cycle more; counts are therefore exact at
any instant.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from random import Random

from simulators.signals import HOUR

MILLISECOND = 1_000_000
PRODUCING, IDLE, FAULT, SETUP, PLANNED_STOP = 1, 2, 3, 4, 5
STATES = (PRODUCING, IDLE, FAULT, SETUP, PLANNED_STOP)
CYCLE = 1600 * MILLISECOND  # of producing time, for one bag; the ideal is 1.5 s
REJECT_EVERY = 50  # of so many bags one is torn or too light

_STOPS = (  # state, weight, shortest and longest time in ms
    (IDLE, 55, 3_000, 12_000),
    (FAULT, 25, 5_000, 30_000),
    (SETUP, 14, 10_000, 40_000),
    (PLANNED_STOP, 6, 15_000, 45_000),
)


@lru_cache(maxsize=8192)
def _hour(seed: int, hour: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return begin (ns), state and producing time before each part of an hour."""
    random = Random(f"{seed}/packer/{hour}")
    begins, states, produced = [0], [PRODUCING], [0]
    end = HOUR // MILLISECOND
    time = random.randint(20_000, 90_000)
    made = time
    while time < end:
        state, _, low, high = random.choices(_STOPS, [stop[1] for stop in _STOPS])[0]
        begins.append(time)
        states.append(state)
        produced.append(made)
        time += random.randint(low, high)
        if time >= end:
            break
        begins.append(time)
        states.append(PRODUCING)
        produced.append(made)
        run = random.randint(20_000, 90_000)
        time += run
        made += run
    base = hour * HOUR
    return (
        tuple(base + b * MILLISECOND for b in begins),
        tuple(states),
        tuple(p * MILLISECOND for p in produced),
    )


class Packer:
    """The machine from some instant on; asked about an earlier hour it raises ``ValueError``."""

    def __init__(self, seed: int, start: int) -> None:
        self._seed = seed
        self._first_hour = start // HOUR
        self._before_hour = [0]  # producing time before each hour since the first

    def state(self, t: int) -> int:
        """Return the state at an instant; from its change time on it is the new one."""
        begins, states, _ = _hour(self._seed, t // HOUR)
        return states[bisect_right(begins, t) - 1]

    def changes(self, after: int, until: int) -> list[tuple[int, int]]:
        """Return the changes in ``(after, until]`` as (ns, new state)."""
        found = []
        state = self.state(after)
        for hour in range(after // HOUR, until // HOUR + 1):
            begins, states, _ = _hour(self._seed, hour)
            for begin, new in zip(begins, states, strict=True):
                if after < begin <= until and new != state:
                    found.append((begin, new))
                    state = new
        return found

    def state_ns(self, start: int, stop: int) -> dict[int, int]:
        """Return the time in each state within ``[start, stop)``, ns; it adds up to the span."""
        spent = dict.fromkeys(STATES, 0)
        edges = [(start, self.state(start)), *self.changes(start, stop)]
        for (begin, state), end in zip(edges, [t for t, _ in edges[1:]] + [stop], strict=True):
            spent[state] += end - begin
        return spent

    def produced_ns(self, t: int) -> int:
        """Return the producing time since the first hour began."""
        hour = t // HOUR
        if hour < self._first_hour:
            raise ValueError("the packer's counts begin with the hour of the plant's start")
        while len(self._before_hour) <= hour - self._first_hour:
            last_ns = (self._first_hour + len(self._before_hour)) * HOUR - 1
            whole = self._in_hour(last_ns) + (self.state(last_ns) == PRODUCING)
            self._before_hour.append(self._before_hour[-1] + whole)
        return self._before_hour[hour - self._first_hour] + self._in_hour(t)

    def _in_hour(self, t: int) -> int:
        begins, states, produced = _hour(self._seed, t // HOUR)
        part = bisect_right(begins, t) - 1
        return produced[part] + (t - begins[part] if states[part] == PRODUCING else 0)

    def bags(self, t: int) -> int:
        """Return how many bags were ready since the first hour began; the torn ones count too."""
        return self.produced_ns(t) // CYCLE

    def rejects(self, t: int) -> int:
        """Return how many of these bags were rejected."""
        return self._rejects_of(self.bags(t))

    def _rejects_of(self, bags: int) -> int:
        block, rest = divmod(bags, REJECT_EVERY)
        return block + (rest > self._torn(block))

    def _torn(self, block: int) -> int:
        return Random(f"{self._seed}/reject/{block}").randrange(REJECT_EVERY)

    def bag_time(self, number: int, before: int) -> int:
        """Return when a bag was ready, seeking back from an instant at which it was."""
        end, ago = before, self.produced_ns(before) - number * CYCLE
        while True:
            begins, states, _ = _hour(self._seed, (end - 1) // HOUR)
            part = bisect_right(begins, end - 1) - 1
            if states[part] == PRODUCING:
                if ago < end - begins[part]:
                    return end - ago
                ago -= end - begins[part]
            end = begins[part]

    def last_reject(self, bags: int) -> int:
        """Return the number of the last rejected one of so many bags; 0 if there was none."""
        block, rest = divmod(bags, REJECT_EVERY)
        if rest > self._torn(block):
            return block * REJECT_EVERY + self._torn(block) + 1
        return (block - 1) * REJECT_EVERY + self._torn(block - 1) + 1 if block else 0

    def bag_changes(self, after: int, until: int) -> list[tuple[int, int]]:
        """Return the bag count's changes in ``(after, until]``: the last of each stretch."""
        return self._counted(after, until, self.bags, lambda bags: bags)

    def reject_changes(self, after: int, until: int) -> list[tuple[int, int]]:
        """Return the same of the rejected bags."""
        return self._counted(after, until, self.rejects, self.last_reject)

    def _counted(
        self, after: int, until: int, count: Callable[[int], int], bag: Callable[[int], int]
    ) -> list[tuple[int, int]]:
        found, before = [], count(after)
        for t in [*(t for t, _ in self.changes(after, until)), until]:
            now = count(t)
            if now != before:
                found.append((self.bag_time(bag(self.bags(t)), t), now))
                before = now
        return found
