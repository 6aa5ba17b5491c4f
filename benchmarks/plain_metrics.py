"""The metrics of ``bench_plant`` as a gateway without columns computes them: an object per sample.

Every sample becomes an object that goes to each tag's aggregate of the minute and to the KPIs that
have asked for the tag, as in agents that are built around a message bus. It is the baseline of a
benchmark, no part of the agent; what it leaves out is said there.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

MINUTE = 60_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one tag."""

    device: str
    tag: str
    kind: str
    time: int
    value: float
    quality: int

    @property
    def good(self) -> bool:
        """Whether the value may be used."""
        return self.quality < 128 and self.quality != 70 and self.value == self.value


Handler = Callable[[Sample], None]


class Minute:
    """A tag's minute: mean, least, largest of a gauge; increment of a counter; a state's time."""

    def __init__(self) -> None:
        self.slot = -1
        self.last: Sample | None = None
        self.result: dict[str, float] = {}
        self._clear()

    def _clear(self) -> None:
        self.sum = self.covered = self.increment = 0.0
        self.low, self.high = float("inf"), float("-inf")
        self.changes = 0
        self.spent: dict[float, float] = defaultdict(float)

    def on(self, sample: Sample) -> None:
        """Take a sample."""
        slot = sample.time // MINUTE
        if slot != self.slot:
            if self.slot >= 0:
                self._close()
            self.slot = slot
        if not sample.good:
            self.last = None
            return
        last = self.last
        if last is not None:
            span = min(sample.time - last.time, 3_000_000_000) / 1e9
            self.covered += span
            if sample.kind == "counter":
                step = sample.value - last.value
                if 0 <= step <= 1000 * span:
                    self.increment += step
            elif sample.kind == "gauge":
                self.sum += last.value * span
            else:
                self.spent[last.value] += span
                self.changes += sample.value != last.value
        if sample.kind == "gauge":
            self.low, self.high = min(self.low, sample.value), max(self.high, sample.value)
        self.last = sample

    def _close(self) -> None:
        mean = self.sum / self.covered if self.covered else float("nan")
        self.result = {
            "mean": mean,
            "min": self.low,
            "max": self.high,
            "increment": self.increment,
            "changes": self.changes,
            "coverage": self.covered / 60,
            "spent": dict(self.spent),  # type: ignore[dict-item]
        }
        self._clear()


class PlainPlant:
    """Slots of every tag, energy boundaries, machines and stacks, sample by sample."""

    def __init__(self, devices: int, boundaries: int, machines: int, stacks: int) -> None:
        self.tags: dict[tuple[str, str], Minute] = {}
        self.asked: dict[tuple[str, str], list[Handler]] = defaultdict(list)
        self.names = [f"t{i}" for i in range(100)]
        self.kinds = ["gauge"] * 80 + ["counter"] * 16 + ["state"] * 4
        self.energy = [0.0] * boundaries
        self.output = [0.0] * boundaries
        self.apt = [0.0] * machines
        self.pbt = [0.0] * machines
        self.produced = [0.0] * machines
        self.mass = [0.0] * stacks
        self.gas: dict[str, list[float]] = defaultdict(list)
        self._wire(devices, boundaries, machines, stacks)

    def _wire(self, devices: int, boundaries: int, machines: int, stacks: int) -> None:
        for d in range(devices):
            for name in self.names:
                minute = self.tags[f"d{d}", name] = Minute()
                self.asked[f"d{d}", name].append(minute.on)
        for b in range(boundaries):
            for j in range(4):
                self._count((f"d{(b + j) % devices}", f"t{80 + j}"), self.energy, b)
            self._count((f"d{b}", "t95"), self.output, b)
        for m in range(machines):
            self._machine(m)
            self._count((f"d{m}", "t93"), self.produced, m)
        for s in range(stacks):
            for j in range(4):
                self.asked[f"d{s}", f"t{j}"].append(self._stack)

    def _count(self, key: tuple[str, str], totals: list[float], i: int) -> None:
        last: list[Sample] = []

        def on(sample: Sample) -> None:
            if sample.good:
                if last and 0 <= sample.value - last[0].value < 1e4:
                    totals[i] += (sample.value - last[0].value) * 0.1229
                last[:] = [sample]

        self.asked[key].append(on)

    def _machine(self, m: int) -> None:
        last: list[Sample] = []

        def on(sample: Sample) -> None:
            if sample.good:
                if last:
                    span = min(sample.time - last[0].time, 3_000_000_000) / 1e9
                    self.pbt[m] += span
                    self.apt[m] += span if last[0].value == 1 else 0.0
                last[:] = [sample]

        self.asked[f"d{m}", "t96"].append(on)

    def _stack(self, sample: Sample) -> None:
        if sample.good:
            self.gas[sample.device + sample.tag].append(sample.value)
            if len(self.gas[sample.device + sample.tag]) >= 60:
                self.gas[sample.device + sample.tag] = []

    def scan(self, device: int, time: int, value: list[float], quality: list[int]) -> None:
        """Take one scan of a device."""
        owner = f"d{device}"
        for name, kind, number, mark in zip(self.names, self.kinds, value, quality, strict=True):
            sample = Sample(owner, name, kind, time, number, mark)
            for handler in self.asked[owner, name]:
                handler(sample)
