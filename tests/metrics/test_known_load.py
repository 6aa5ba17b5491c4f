"""Counters of a known load, through everything that meters do: the total is exact.

The register is made from the true energy in whole counts, so what it must come to is known to the
last bit. Troubles are far enough apart that their truth can be known.
"""

from bisect import bisect_left
from fractions import Fraction
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.metrics.booked import grid_of
from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.units import Unit
from tests.metrics.plants import SECOND, START

MINUTE = 60 * SECOND
RATED = 100.0  # kW
MAX_RATE = RATED * 1.2 / 3600.0

# kWh of one count, the number of counts at which it begins again, and whether the first is told
WIDTHS = {
    "u16": (0.1, 2**16, True),
    "u32": (0.01, 2**32, True),
    "bcd6": (0.01, 10**6, True),
    "bcd8": (0.01, 10**8, True),
    "u16 of 1 kWh": (1.0, 2**16, False),
    "u64": (0.001, 2**64, True),
    "f32": (0.001, None, False),
    "f32 of 1 kWh": (1.0, None, False),
}


class Meter:
    """A meter in trouble: its rows, and what is true of them."""

    def __init__(self, width: str, period: int, random: Random) -> None:
        self.count, self.counts, self.told = WIDTHS[width]
        modulus = None if self.counts is None else self.counts * self.count
        resolution = self.count if self.told else None
        tag = Tag("energy", Unit.parse("kWh"), Kind.COUNTER, modulus=modulus, max_rate=MAX_RATE)
        tag = Tag(**{f: getattr(tag, f) for f in tag.__slots__} | {"resolution": resolution})
        self.schema = Schema("em/raw", Family.SAMPLE, (tag,), float(period))
        self.random, self.period, self.top = random, period, modulus or 1e6
        self.grid = grid_of(tag)
        near_the_end = min(self.top, 1e9) - random.choice([1.0, 10.0, 60.0])
        self.energy = random.choice([near_the_end, random.uniform(400.0, 4000.0)])
        self.second = 0
        self.rows: list[tuple[int, float | None]] = []
        self.truth: list[tuple[int, int]] = []  # time and the register as if it never turned, grids
        self.fresh = True  # whether the register is another one since it was read
        self.left: list[float] = []  # where registers were left
        self.doubtful: list[tuple[int, int]] = []  # when a wrong level stood for a reset
        self.rose = 0

    @property
    def shown(self) -> float:
        n = int(self.energy / self.count)
        return float(np.float32(n * self.count)) if self.counts is None else self.of(n)

    def of(self, n: int) -> float:
        return n % (self.counts or n + 1) * self.count

    @property
    def unwrapped(self) -> int:
        turns = 0 if self.counts is None else int(self.energy / self.count) // self.counts
        return self.grids(self.shown) + turns * self.grids(self.top)

    def grids(self, reading: float) -> int:
        return round(reading / self.grid)

    def wait(self, load: float) -> None:
        """Let a period go by at a share of the rated power."""
        self.second += self.period
        self.energy += load * RATED * self.period / 3600.0

    def read(self, wrong: float | None = None) -> None:
        time = START + self.second * SECOND
        self.rows.append((time, self.shown if wrong is None else wrong))
        if wrong is None:
            true = self.truth[-1][1] if self.truth else 0
            step = 0 if self.fresh else self.unwrapped - self.before
            self.rose = self.second if step > 0 or self.fresh else self.rose
            self.truth.append((time, true + step))
            self.before, self.fresh = self.unwrapped, False

    def silence(self, *, rows: bool) -> None:
        if rows:
            self.rows.append((START + self.second * SECOND, None))

    # what happens --------------------------------------------------------------------------------

    def quiet(self, seconds: float) -> None:
        """Read a load as it is."""
        load, until = self.random.random(), self.second + seconds
        while self.second < until:
            load = self.random.choice([0.0, 0.02, 1.0, load, load, load])
            self.wait(load)
            self.read()

    def settle(self) -> None:
        """Read no load, up to a border, so that no count is a question any more."""
        until = self.second + 60 + 6 * self.period
        while self.second < until or self.second % 60:
            self.wait(0.0)
            self.read()

    def far(self, seconds: float) -> float:
        """Return a reading that the register cannot have come to, and never had."""
        since = seconds + self.second - self.rose + 4 * self.period + 60.0
        possible = 2.0 * (MAX_RATE * since + 4.0 * self.count) + 1.0
        while True:
            far = self.random.choice([0.0, self.shown * self.random.random(), self.other()])
            step = far - self.shown
            turned = self.counts is not None and step + self.top < possible + 200.0
            levels = (*self.left, *(level - self.top for level in self.left))
            known = any(-200.0 <= far - level <= 400.0 for level in levels)
            near = -max(possible, 0.02 * self.shown) <= step <= possible
            if not near and not turned and not known:
                return far

    def other(self) -> float:
        return self.random.uniform(0.0, 0.95) * min(self.top, 1e7)

    def glitch(self) -> None:
        """Read garbage, for less than a verdict takes."""
        most = max(3, (30 - 1) // self.period)
        n, garbage = self.random.randint(1, most), self.far(40.0 + 4 * self.period)
        rising = self.random.choice([0.0, 0.01])
        for i in range(n):
            self.wait(self.random.random())
            self.read(garbage + rising * i)

    def outage(self) -> None:
        """Read nothing for a while; the load goes on."""
        seconds, rows = self.random.choice([4, 20, 100, 1000, 7200]), self.random.random() < 0.5
        load = self.random.random()
        for _ in range(-(-seconds // self.period)):
            self.wait(load)
            self.silence(rows=rows)
        self.wait(load)
        self.read()

    def replace(self) -> None:
        """Read a register that was reset, or is another one, perhaps after an outage."""
        seconds, rows = self.random.choice([0, 0, 20, 1000]), self.random.random() < 0.5
        for _ in range(-(-seconds // self.period)):
            self.wait(0.5)
            self.silence(rows=rows)
        new = self.far(seconds + 40.0 + 4 * self.period)
        self.left.append(self.shown)
        self.energy, self.fresh = new + self.count / 2, True
        self.wait(0.0)
        self.read()

    def long_glitch(self) -> None:
        """Read a wrong level for longer than a verdict takes, then the register again."""
        seconds = self.random.choice([60, 300, 1200]) + 4 * self.period
        wrong, load = self.far(seconds + 60.0), self.random.choice([0.1, 1.0])
        counting = self.random.random() < 0.5
        start, before = self.second, self.energy
        self.left.append(wrong)
        while self.second < start + seconds:
            self.wait(load)
            counted = (self.energy - before) * 0.9 // self.count * self.count
            self.read(wrong + (counted if counting else 0.0))
        self.doubtful.append((START + start * SECOND, START + (self.second + 90) * SECOND))

    def run_backwards(self) -> None:
        """Feed back for a while, then count forwards until the register is where it was."""
        if not 300.0 < self.shown < self.top - 100.0 or self.count == 1:
            return
        highest, load = self.energy, -self.random.random()
        until = self.second + self.random.choice([self.period, 40, 300])
        start = self.second
        while self.second < until:
            self.wait(load)
            self.read()
        while self.energy <= highest + 2 * self.count:
            self.wait(1.0)
            self.read()
        self.doubtful.append((START + start * SECOND, START + (self.second + 60) * SECOND))

    def live(self) -> None:
        self.read()
        self.quiet(120)
        for _ in range(self.random.randint(2, 7)):
            events = (
                self.glitch, self.glitch, self.outage, self.replace, self.long_glitch,
                self.run_backwards,
            )  # fmt: skip
            if not self.told:
                self.settle()
            self.random.choice(events)()
            self.quiet(self.random.choice([60, 90, 200]) + 6 * self.period)
        self.settle()

    # what is true --------------------------------------------------------------------------------

    def block(self) -> SampleBlock:
        time = np.array([t for t, _ in self.rows], np.int64)
        value = np.array([[np.nan if v is None else v for _, v in self.rows]])
        quality = np.where(np.isnan(value), Quality.BAD_NO_ANSWER, 0).astype(np.uint8)
        return SampleBlock(self.schema, time, value, quality)

    def true_at(self, time: int) -> Fraction:
        """The register at a time, in kWh, on the line between the two true readings about it."""
        i = bisect_left(self.truth, (time, -(10**30)))
        (t1, r1), (t0, r0) = self.truth[i], self.truth[max(i - 1, 0)]
        share = Fraction(time - t0, t1 - t0) if t1 > time else 1
        return (r0 + (r1 - r0) * share) * Fraction(self.grid)

    def in_doubt(self, end: int) -> bool:
        return any(low < end and end - MINUTE < high for low, high in self.doubtful)


def holds(seed: int, width: str, period: int) -> None:
    meter = Meter(width, period, Random(seed))
    meter.live()
    found = SlotOperator(meter.schema).update(meter.block())
    assert found is not None
    quality = found.quality[found.schema.index["energy.increment"]]
    booked, grid = Fraction(0), Fraction(meter.grid)
    for i, end in enumerate(found.time.tolist()):
        value = found["energy.increment"][i]
        if quality[i] >= Quality.BAD:
            continue
        assert value >= 0.0
        booked += Fraction(float(value))
        true, doubt = meter.true_at(end), meter.in_doubt(end)
        assert doubt or booked <= true + grid  # never more than there was
        if quality[i] < Quality.UNCERTAIN and not doubt:
            step = true - meter.true_at(end - MINUTE)
            # a count of which it is not known that it is one may be taken some readings later
            assert abs(Fraction(float(value)) - step) <= (grid if meter.told else meter.count)
    assert int(found.time[-1]) == meter.rows[-1][0]
    assert booked == meter.truth[-1][1] * grid


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    width=st.sampled_from(list(WIDTHS)),
    period=st.sampled_from([1, 5, 15, 60]),
)
def test_the_total_is_exact_whatever_the_meter_goes_through(
    seed: int, width: str, period: int
) -> None:
    holds(seed, width, period)
