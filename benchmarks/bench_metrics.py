"""What the metrics cost: a row of a 32-tag meter, blocks of several sizes, a minute of each KPI.

    python benchmarks/bench_metrics.py            prints JSON

Typical load: one row a second per device (n = 1), batches of fast sources, and the block of a gap.
The time of a row includes its share of the slot that it closes; the minimum of repeats is reported.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_agent.metrics.base import Metric
from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Family, Kind, SampleBlock, Schema, Tag
from edge_agent.pipeline import Flow
from edge_agent.units import Unit
from tests.metrics import oracle
from tests.metrics.plants import as_oracle, interleaved, run
from tests.metrics.test_laws import EXAMPLES, metrics_of, rows_of

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND + 300_000_000
ROWS = 1800


def meter() -> SampleBlock:
    """Half an hour of 24 gauges, 6 counters and 2 states at 1 Hz."""
    tags = [Tag(f"g{i}", Unit.parse("kW")) for i in range(24)]
    tags += [Tag(f"c{i}", Unit.parse("kWh"), Kind.COUNTER, modulus=1e8) for i in range(6)]
    tags += [Tag(f"s{i}", Unit.parse("1"), Kind.STATE) for i in range(2)]
    random = np.random.default_rng(1)
    value = random.normal(size=(32, ROWS))
    value[24:30] = np.cumsum(random.random((6, ROWS)), axis=1) + 1e5
    value[30:] = random.integers(0, 3, size=(2, ROWS))
    times = START + np.arange(ROWS) * SECOND
    schema = Schema("em/raw", Family.SAMPLE, tuple(tags), 1.0)
    return SampleBlock(schema, times, value, np.zeros((32, ROWS), np.uint8))


def fastest(work: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def slot_rows(block: SampleBlock, size: int) -> float:
    """Return µs per block of so many rows."""
    blocks = [block.rows(i, min(ROWS, i + size)) for i in range(0, ROWS, size)]

    def work() -> None:
        flow = Flow([SlotOperator(block.schema)])
        for piece in blocks:
            list(flow.rows(piece))

    return fastest(work) / len(blocks) * 1e6


def gap_of_a_week(block: SampleBlock) -> float:
    """Return ms for the block that a week's silence is emitted as."""
    late = SampleBlock(block.schema, block.time + 7 * 86400 * SECOND, block.value, block.quality)
    times = []
    for _ in range(3):
        operator = SlotOperator(block.schema)
        operator.update(block)
        begin = time.perf_counter()
        operator.update(late.rows(0, 4))
        times.append(time.perf_counter() - begin)
    return min(times) * 1e3


def kpi_minute(kind: str) -> float:
    """Return µs per minute of plant time for a KPI with its windows, slot operators left out."""
    rows = rows_of(kind, 2, 30.0)
    fed = interleaved(rows, Random(1), 1, 0.0)

    def slots() -> list[Metric]:
        return [SlotOperator(block.schema) for block in rows.values()]

    both = fastest(lambda: run([*slots(), *metrics_of(kind)], fed))
    return (both - fastest(lambda: run(slots(), fed))) / 30 * 1e6


def against_the_oracle(block: SampleBlock) -> float:
    """Return how many times faster the slot operator is than plain Python, in blocks of 60."""
    part = block.rows(0, 600)
    plain = as_oracle(part)
    return fastest(lambda: oracle.slots(plain), 2) / fastest(
        lambda: [SlotOperator(block.schema).update(part.rows(i, i + 60)) for i in range(0, 600, 60)]
    )


def main() -> None:
    block = meter()
    result = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "slot µs per block of n rows, 32 tags": {
            n: round(slot_rows(block, n), 1) for n in (1, 10, 60, 256)
        },
        "gap of a week, ms": round(gap_of_a_week(block), 2),
        "kpi µs per minute, six windows": {kind: round(kpi_minute(kind)) for kind in EXAMPLES},
        "times faster than the oracle": round(against_the_oracle(block), 1),
    }
    print(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
