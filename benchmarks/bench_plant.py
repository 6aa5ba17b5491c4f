"""What all metrics of a typical plant cost: 10 000 tags of 100 devices at 1 s, 200 KPIs.

    python -m benchmarks.bench_plant            prints JSON

The metrics are those that the agent builds from a configuration: slots of every tag, 100 energy
boundaries, 60 machines, 20 stacks and 20 supply points, with windows of 1 min, 15 min and 1 h.
They are fed one row a second and device, as the supervisor does it. CPU is this process's own.

The baseline is what a gateway without columns does: an object per sample, handed to its tag's
aggregate, and the same KPIs of these aggregates in plain Python; what it leaves out stands in
``plain_metrics``. Before anything is timed, both are fed the same rows of a small plant, and their
figures must agree (``agree``).
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.plain_metrics import PlainPlant
from edge_agent.agent import links_of, metrics_of
from edge_agent.clock import SECOND, VirtualClock
from edge_agent.config import Config, load
from edge_agent.metrics.base import Metric
from edge_agent.model import SampleBlock, Schema
from edge_agent.pipeline import Flow

START = 1_767_225_600 * SECOND
TAGS = 100  # of a device: 80 gauges, 16 counters, 4 states


@dataclass(frozen=True)
class Size:
    """A plant: so many devices, and KPIs of each kind."""

    devices: int
    boundaries: int
    machines: int
    stacks: int
    supplies: int

    @classmethod
    def of(cls, devices: int) -> "Size":
        """Return the typical plant with so many devices."""
        return cls(devices, devices, devices * 3 // 5, devices // 5, devices // 5)


def written(size: Size) -> str:
    """Return the configuration of a plant."""
    lines = ["site: {id: works}", "devices:"]
    for d in range(size.devices):
        lines.append(f'  d{d}:\n    connect: "modbus+tcp://10.0.{d // 250}.{d % 250}"\n    tags:')
        for i in range(TAGS):
            kind = "gauge" if i < 80 else "counter" if i < 96 else "state"
            unit = _UNITS.get(i, "kWh" if kind == "counter" else "1" if kind == "state" else "kW")
            at = f'"hr:{2 * i}"'
            lines.append(f'      t{i}: {{at: {at}, type: u32, kind: {kind}, unit: "{unit}"}}')
    lines.append("metrics:")
    for b in range(size.boundaries):
        inputs = ", ".join(f"d{(b + j) % size.devices}.t{80 + j}" for j in range(4))
        lines.append(
            f"  e{b}: {{type: energy, inputs: {{electricity: [{inputs}]}}, output: d{b}.t95}}"
        )
    lines += [
        f"  m{m}: {{type: oee, state: d{m}.t96, produced: d{m}.t93, rejected: d{m}.t94,"
        " states: {producing: [1], idle: [2], fault: [3]}, ideal_cycle: 1s}"
        for m in range(size.machines)
    ]
    lines += [
        f"  s{s}: {{type: emissions, so2: d{s}.t0, nox: d{s}.t1, o2: d{s}.t2, flow: d{s}.t3,"
        " o2_reference: 10, windows: [1min, 1h]}"
        for s in range(size.stacks)
    ]
    lines += [
        f"  p{p}: {{type: demand, energy: d{p}.t80, windows: [1min, 15min]}}"
        for p in range(size.supplies)
    ]
    return "\n".join(lines)


_UNITS = {0: "mg/m3", 1: "mg/m3", 2: "%", 3: "Nm3/h", 93: "{piece}", 94: "{piece}", 95: "t"}


def configured(size: Size) -> Config:
    """Return the configuration as the agent reads it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plant.yaml"
        path.write_text(written(size), "utf-8")
        return load(path)


def rows_of(schema: Schema, seconds: int, seed: int) -> SampleBlock:
    """Return a device's rows: a random load, counters that go with it, states that change."""
    random = np.random.default_rng(seed)
    value = np.abs(random.normal(10, 2, size=(TAGS, seconds)))
    value[80:96] = np.cumsum(random.random((16, seconds)), axis=1).round() + 1000 * seed
    value[96:] = np.repeat(random.integers(1, 4, size=(4, seconds // 20 + 1)), 20, axis=1)[
        :, :seconds
    ]
    phase = seed * 10_000_000 % SECOND
    stamps = START + phase + np.arange(seconds) * SECOND
    by_row = value.T.copy().T  # a row's numbers stand together, as a driver makes them
    return SampleBlock(schema, stamps, by_row, np.zeros((seconds, TAGS), np.uint8).T)


class Plant:
    """The metrics of a configuration and the rows of its devices."""

    def __init__(self, size: Size, seconds: int) -> None:
        config = configured(size)
        links = links_of(config, VirtualClock(START))
        self.metrics: list[Metric] = metrics_of(config, links)
        schemas = [group.schema for link in links for group in link.driver.groups]
        self.rows = [rows_of(schema, seconds, i) for i, schema in enumerate(schemas)]
        self.blocks = [[block.rows(s, s + 1) for block in self.rows] for s in range(seconds)]

    def run(self, begin: int, end: int) -> tuple[float, float, int]:
        """Feed some seconds; return CPU s, the longest second of it, and the rows made."""
        if begin == 0:
            self.flow = Flow(self.metrics)
        longest, made, start = 0.0, 0, time.process_time()
        for second in self.blocks[begin:end]:
            before = time.process_time()
            for block in second:
                for rows in self.flow.rows(block):
                    made += len(rows)
            longest = max(longest, time.process_time() - before)
        return time.process_time() - start, longest, made


def columnar(devices: int, minutes: int) -> dict[str, float]:
    """Return ms of CPU per second of plant time, in the first and in the last minutes."""
    seconds = 60 * minutes
    plant = Plant(Size.of(devices), seconds)
    warm = 120  # the first slot is not whole
    plant.run(0, warm)
    half = (seconds - warm) // 2
    early, longest, made = plant.run(warm, warm + half)
    late, other, more = plant.run(warm + half, warm + 2 * half)
    return {
        "tags": devices * TAGS,
        "kpis": sum(vars(Size.of(devices)).values()) - devices,
        "ms of CPU per s": round((early + late) / (2 * half) * 1e3, 3),
        "later minutes against earlier": round(late / early, 2),
        "longest second, ms": round(max(longest, other) * 1e3, 1),
        "rows made": made + more,
    }


def plain(devices: int, seconds: int) -> float:
    """Return ms of CPU per second of plant time of the per-sample version."""
    size = Size.of(devices)
    plant = Plant(size, seconds)
    per_sample = PlainPlant(**vars(size))
    samples = [list(_samples(plant, second)) for second in range(seconds)]
    start = time.process_time()
    for second in samples:
        for device, time_ns, value, quality in second:
            per_sample.scan(device, time_ns, value, quality)
    return (time.process_time() - start) / seconds * 1e3


COMPARED = {
    "e": ("electricity", "total_kgce", "output_t", "intensity"),
    "m": ("apt_s", "pbt_s", "produced", "availability", "oee"),
    "s": ("so2", "nox_corrected", "so2_mass_kg"),
    "p": ("energy_kwh", "demand_kw", "demand_fixed_kw"),
    "d": ("t0.mean", "t5.min", "t6.max", "t80.increment", "t80.coverage", "t96.changes"),
}
CLOSE = 1e-5  # relative: readings at borders are on a grid of 2**-20


def agree(minutes: int = 32) -> int:
    """Return how many figures are the same in both versions; raise if one is not."""
    plant, size = Plant(Size.of(5), 60 * minutes), Size.of(5)
    plain_plant, flow = PlainPlant(**vars(size)), Flow(plant.metrics)
    rows: dict[str, SampleBlock] = {}
    ends: dict[str, list[float]] = {}
    for second in range(60 * minutes):
        for block in plant.blocks[second]:
            rows |= {made.schema.stream: made for made in flow.rows(block)}
        for device, time_ns, value, quality in _samples(plant, second):
            plain_plant.scan(device, time_ns, value, quality)
    for stream, row in rows.items():
        owner, _, window = stream.partition("/")
        for name in COMPARED[owner[0]]:
            other = _plain_figure(plain_plant, owner, window, name)
            if other is not None:
                ends.setdefault(f"{stream} {name}", [float(row[name][-1]), other])
    wrong = {k: v for k, v in ends.items() if not np.isclose(*v, rtol=CLOSE, equal_nan=True)}
    if wrong or not ends:
        raise AssertionError(f"the two versions differ: {wrong}")
    return len(ends)


def _plain_figure(plant: PlainPlant, owner: str, window: str, name: str) -> float | None:
    if window == "slot":
        tag, _, figure = name.partition(".")
        return plant.tags[owner, tag].row[figure]
    length = {"1min": 1, "15min": 15}.get(window, 0)
    return plant.kpis[owner].rows.get(length, {}).get(name)


def _samples(plant: Plant, second: int) -> Iterator[tuple[int, int, list[float], list[int]]]:
    for device, block in enumerate(plant.blocks[second]):
        yield device, int(block.time[0]), block.value[:, 0].tolist(), block.quality[:, 0].tolist()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    options.add_argument("--minutes", type=int, default=17, help="of plant time (17)")
    minutes = options.parse_args().minutes
    compared = agree()
    loads = [columnar(devices, minutes) for devices in (50, 100, 200)]
    baseline = plain(100, 190)
    result = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "figures of both versions that agree": compared,
        "plants": loads,
        "per-sample Python, 10 000 tags, ms of CPU per s": round(baseline, 1),
        "times faster": round(baseline / float(loads[1]["ms of CPU per s"]), 1),
    }
    print(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
