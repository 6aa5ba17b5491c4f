"""The metrics of ``bench_plant`` as a gateway without columns computes them: an object per sample.

Every sample becomes an object that goes to its tag's aggregate of the minute, as in agents that are
built around a message bus. What a KPI needs of a minute it takes from these aggregates when all of
its devices have gone past it, and its rows are added up to 15 minutes and an hour. So a KPI costs
next to nothing here: this is how one would write it to be fast, a sample at a time.

It is the baseline of a benchmark, no part of the agent. Values hold until the next sample, at most
three periods, and readings of counters are interpolated at borders, as in the agent; the benchmark
compares the figures. What is left out: rollover, reset, back-feed and glitches of counters (a step
is taken when it is not absurd), outages (nothing is spread or waited for), dated coefficients,
time zones, late rows, states that go on after a restart.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
SILENCE = 3 * SECOND
FLAGGED, UNCERTAIN, BAD = 70, 64, 128
FASTEST = 1000.0  # units of a counter per second
NAN = float("nan")
INFINITE = float("inf")
KGCE, GJ = 0.1229, 0.0036  # of a kWh
Row = dict[str, float]


@dataclass(slots=True)
class Sample:
    """One value of one tag."""

    device: str
    tag: str
    time: int
    value: float
    quality: int


class Minute:
    """The minute of a tag: how long a usable value held, and the worst quality of those."""

    def __init__(self) -> None:
        self.end = 0  # of the minute that is open
        self.time, self.value, self.quality = 0, NAN, BAD  # of the last sample
        self.covered, self.worst = 0, 0
        self.row: Row = {}  # of the minute before
        self.clear()

    def on(self, sample: Sample) -> None:
        """Take a sample."""
        quality, value, time = sample.quality, sample.value, sample.time
        good = quality < BAD and quality != FLAGGED and value == value  # noqa: PLR0124
        if time >= self.end:
            self.close(time, value, good=good)
        if self.quality < BAD:
            span = time - self.time
            self.hold(span if span < SILENCE else SILENCE)  # noqa: FURB136  faster than min
        if good:
            self.take(value)
            if quality > self.worst:  # noqa: PLR1730  faster than max
                self.worst = quality
        self.time, self.value, self.quality = time, value, quality if good else BAD

    def close(self, time: int, value: float, *, good: bool) -> None:
        """Close the minute at its border, and go on to that of a sample."""
        border, held = self.end, self.quality < BAD
        if held:
            span = min(border - self.time, SILENCE)
            if good and time > self.time:
                self.cross(value, (border - self.time) / (time - self.time))
            self.hold(span)
            self.time = border
        share = self.covered / MINUTE
        worst = self.worst if share >= 0.95 else max(self.worst, UNCERTAIN)
        self.row = self.figures() | {"coverage": share, "worst": worst if share >= 0.5 else BAD}
        self.end = time // MINUTE * MINUTE + MINUTE
        self.covered, self.worst = 0, self.quality if held else 0
        self.clear()

    def clear(self) -> None:
        """Begin a minute."""

    def take(self, value: float) -> None:
        """Take a usable value."""

    def hold(self, span: int) -> None:
        """Let the last value hold until the next one, or a border."""
        self.covered += span

    def cross(self, value: float, part: float) -> None:
        """Go over a border between two readings; part: of the way to the later one."""

    def figures(self) -> Row:
        """Return what the minute was."""
        raise NotImplementedError


class Gauge(Minute):
    """Time-weighted mean, least and largest value; the plain mean of the samples."""

    def clear(self) -> None:
        self.sum = self.samples = 0.0
        self.count = 0
        self.low = self.high = self.value

    def take(self, value: float) -> None:
        if not self.low <= value:
            self.low = value
        if not self.high >= value:
            self.high = value
        self.samples += value
        self.count += 1

    def hold(self, span: int) -> None:
        self.covered += span
        self.sum += self.value * (span / SECOND)

    def figures(self) -> Row:
        covered, n = self.covered / SECOND, self.count
        return {
            "mean": self.sum / covered if covered else NAN,
            "min": self.low,
            "max": self.high,
            "sample_mean": self.samples / n if n else NAN,
            "samples": n,
        }


class Counter(Minute):
    """Increment and register at the end."""

    def __init__(self) -> None:
        self.begin = self.register = NAN
        super().__init__()

    def cross(self, value: float, part: float) -> None:
        if 0 <= value - self.value <= FASTEST * 60:
            self.register = self.value + (value - self.value) * part

    def figures(self) -> Row:
        increment, self.begin = self.register - self.begin, self.register
        return {"increment": increment, "reading": self.register}


class State(Minute):
    """How long each state lasted, how often each began."""

    def clear(self) -> None:
        self.spent: dict[float, int] = {}
        self.began: dict[float, int] = {}

    def hold(self, span: int) -> None:
        self.covered += span
        self.spent[self.value] = self.spent.get(self.value, 0) + span

    def take(self, value: float) -> None:
        if value != self.value and self.quality < BAD:
            self.began[value] = self.began.get(value, 0) + 1

    def figures(self) -> Row:
        row = {f"s{state:.0f}": span / SECOND for state, span in self.spent.items()}
        row |= {f"n{state:.0f}": float(n) for state, n in self.began.items()}
        return row | {"last": self.value, "changes": float(sum(self.began.values()))}


@dataclass
class Kpi:
    """A figure of some tags, closed per minute and rolled up to 15 minutes and an hour.

    base      the additive columns of a minute; derived: what follows from them
    peaks     columns of which the largest is kept
    """

    inputs: Mapping[str, Minute]
    base: Callable[[Mapping[str, Minute], int], Row]
    derived: Callable[[Row], Row]
    peaks: frozenset[str] = frozenset()
    rows: dict[int, Row] = field(default_factory=dict)  # minutes of a window -> its last row
    sums: dict[int, tuple[Row, int]] = field(default_factory=dict)

    def close(self, end: int) -> None:
        """Make the row of a minute."""
        row = self.base(self.inputs, end)
        given = [minute.row for minute in self.inputs.values()]
        row["coverage"] = min(one["coverage"] for one in given)
        row["worst"] = max(one["worst"] for one in given)
        self.rows[1] = row | self.derived(row)
        for length in (15, 60):
            sums, count = self.sums.get(length, ({}, 0))
            for name, value in row.items():
                if name == "worst" or name in self.peaks:
                    sums[name] = max(sums.get(name, value), value)
                else:
                    sums[name] = sums.get(name, 0.0) + value
            self.sums[length] = sums, count + 1
            if end // MINUTE % length == 0:
                sums["coverage"] /= length
                self.rows[length] = sums | self.derived(sums)
                del self.sums[length]


def ratio(over: float, under: float) -> float:
    """Return a quotient, NaN where there is nothing to divide by."""
    return over / under if under else NAN


def energy(inputs: Mapping[str, Minute], _end: int) -> Row:
    """Return what a boundary took, what it is worth, and its output."""
    kwh = sum(minute.row["increment"] for name, minute in inputs.items() if name != "output")
    return {
        "electricity": kwh,
        "total_kgce": kwh * KGCE,
        "total_gj": kwh * GJ,
        "output_t": inputs["output"].row["increment"],
    }


def intensity(row: Row) -> Row:
    """Return energy per output."""
    return {"intensity": ratio(row["total_kgce"], row["output_t"])}


def times(inputs: Mapping[str, Minute], _end: int) -> Row:
    """Return where a machine's time went, and its pieces."""
    state, produced = inputs["state"].row, inputs["produced"].row["increment"]
    apt, adot, adet = (state.get(name, 0.0) for name in ("s1", "s2", "s3"))
    return {
        "apt_s": apt,
        "adot_s": adot,
        "adet_s": adet,
        "pbt_s": apt + adot + adet,
        "failures": state.get("n3", 0.0),
        "stops": state.get("n2", 0.0) + state.get("n3", 0.0),
        "produced": produced,
        "good": produced - inputs["rejected"].row["increment"],
    }


def oee(row: Row) -> Row:
    """Return the ratios of a machine; its ideal cycle is 1 s."""
    apt, pbt, adet = row["apt_s"], row["pbt_s"], row["adet_s"]
    produced, good = row["produced"], row["good"]
    return {
        "availability": ratio(apt, pbt),
        "effectiveness": ratio(produced, apt),
        "quality_ratio": ratio(good, produced),
        "oee": ratio(good, pbt),
        "utilization_efficiency": ratio(apt, apt + adet),
        "allocation_efficiency": ratio(apt + adet, pbt),
        "throughput_rate": ratio(3600 * produced, apt + adet),
        "mtbf_s": apt / (row["failures"] + 1),
        "mttr_s": adet / (row["failures"] + 1),
        "speed_loss_s": apt - produced,
        "quality_loss_s": produced - good,
    }


def stack(inputs: Mapping[str, Minute], _end: int) -> Row:
    """Return concentrations at 10 % oxygen, and masses."""
    means = {name: minute.row["sample_mean"] for name, minute in inputs.items()}
    valid = all(minute.row["samples"] >= 45 for minute in inputs.values())
    corrected = (21.0 - 10.0) / (21.0 - means["o2"])
    row = {"valid_min": float(valid), "o2": means["o2"], "flow_nm3": means["flow"] / 60}
    for gas in ("so2", "nox"):
        row[gas] = means[gas]
        row[f"{gas}_corrected"] = means[gas] * corrected
        row[f"{gas}_mass_kg"] = means[gas] * means["flow"] * 1e-6 / 60
    return row


def stack_means(row: Row) -> Row:
    """Return the means of the valid minutes."""
    names = ("so2", "nox", "so2_corrected", "nox_corrected", "o2")
    return {f"{name}_mean": ratio(row[name], row["valid_min"]) for name in names}


class Demand:
    """The last 15 minutes of a supply point."""

    def __init__(self) -> None:
        self.last: deque[float] = deque(maxlen=15)

    def __call__(self, inputs: Mapping[str, Minute], end: int) -> Row:
        kwh = inputs["energy"].row["increment"]
        self.last.append(kwh)
        inside = (end // MINUTE - 1) % 15 + 1
        quarter = sum(list(self.last)[-inside:])
        return {
            "energy_kwh": kwh,
            "power_kw": kwh * 60,
            "demand_kw": sum(self.last) / (len(self.last) / 60),
            "demand_fixed_kw": quarter * 4,
            "forecast_kw": (quarter + kwh * (15 - inside)) * 4,
        }


PEAKS = frozenset(("power_kw", "demand_kw", "demand_fixed_kw", "forecast_kw"))


class PlainPlant:
    """Slots of every tag, and the KPIs of them, sample by sample."""

    def __init__(
        self, devices: int, boundaries: int, machines: int, stacks: int, supplies: int
    ) -> None:
        self.names = [f"t{i}" for i in range(100)]
        kinds: list[type[Minute]] = [Gauge] * 80 + [Counter] * 16 + [State] * 4
        self.tags: dict[tuple[str, str], Minute] = {
            (f"d{d}", name): kind()
            for d in range(devices)
            for name, kind in zip(self.names, kinds, strict=True)
        }
        self.kpis: dict[str, Kpi] = {}
        self.ends = [0] * devices  # of the open minute
        self.asking: list[list[tuple[Kpi, tuple[int, ...]]]] = [[] for _ in range(devices)]
        for b in range(boundaries):
            found = tuple(sorted({(b + j) % devices for j in range(4)}))
            meters = {f"d{(b + j) % devices}.t{80 + j}" for j in range(4)}
            inputs = {meter: self._tag(meter) for meter in sorted(meters)}
            inputs["output"] = self._tag(f"d{b}.t95")
            self._ask(f"e{b}", Kpi(inputs, energy, intensity), found)
        for m in range(machines):
            names = {"state": "t96", "produced": "t93", "rejected": "t94"}
            self._ask(f"m{m}", Kpi(self._tags(m, names), times, oee), (m,))
        for s in range(stacks):
            names = {"so2": "t0", "nox": "t1", "o2": "t2", "flow": "t3"}
            self._ask(f"s{s}", Kpi(self._tags(s, names), stack, stack_means), (s,))
        for p in range(supplies):
            kpi = Kpi(self._tags(p, {"energy": "t80"}), Demand(), lambda _: {}, PEAKS)
            self._ask(f"p{p}", kpi, (p,))

    def _tag(self, written: str) -> Minute:
        device, _, name = written.partition(".")
        return self.tags[device, name]

    def _tags(self, device: int, names: Mapping[str, str]) -> dict[str, Minute]:
        return {role: self._tag(f"d{device}.{name}") for role, name in names.items()}

    def _ask(self, name: str, kpi: Kpi, devices: tuple[int, ...]) -> None:
        self.kpis[name] = kpi
        for device in devices:
            self.asking[device].append((kpi, devices))

    def scan(self, device: int, time: int, value: list[float], quality: list[int]) -> None:
        """Take one scan of a device."""
        owner, tags = f"d{device}", self.tags
        for name, number, mark in zip(self.names, value, quality, strict=True):
            sample = Sample(owner, name, time, number, mark)
            tags[owner, name].on(sample)
        end = self.ends[device]
        if time >= end:
            self.ends[device] = time // MINUTE * MINUTE + MINUTE
            for kpi, devices in self.asking[device] if end else ():
                if all(self.ends[other] > end for other in devices):
                    kpi.close(end)
