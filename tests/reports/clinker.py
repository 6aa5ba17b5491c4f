"""A clinker boundary with known sums: what the metric would have stored, and its set-up."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.metrics.base import Coefficient
from edge_agent.model import Family, Quality, SampleBlock, Schema, Site, Tag
from edge_agent.reports.leader import (
    Benchmark,
    Boundary,
    CarrierLine,
    LeaderReport,
    Level,
    leader,
)
from edge_agent.reports.period import Period
from edge_agent.sinks.history import History, HistorySink
from edge_agent.units import Unit

ZONE = ZoneInfo("Asia/Shanghai")
SITE = Site("demo-cement", "main", "示范水泥厂", ZONE)
DAY = Period.parse("2026-10-05", ZONE)
LENGTHS = {"1min": 60, "15min": 900, "1h": 3600}
NAMES = [
    ("electricity", "kWh"), ("electricity_kgce", "kgce"), ("raw-coal", "kg"),
    ("raw-coal_kgce", "kgce"), ("total_kgce", "kgce"), ("output_t", "t"), ("intensity", "kgce/t"),
    ("coverage", "1"), ("estimated", "1"),
]  # fmt: skip

ELECTRICITY = Coefficient(
    "electricity", "kWh", 0.1229, "equivalent", "GB/T 2589-2020", "transcription", "2020",
    "2021-04-01", "", "B2", approved=True,
)  # fmt: skip
COAL = Coefficient(
    "raw-coal", "kg", 0.7143, "equivalent", "GB/T 2589-2020", "general knowledge", "2020",
    "2021-04-01", "", "M", approved=False,
)  # fmt: skip


def level(*, approved: bool = True) -> Level:
    return Level(
        "GB 16780-2021", "4.2 表2", "kgce/t", Decimal(100), Decimal(107), Decimal(117), "inverse",
        "public transcription", "2021", "B", approved, "configs/benchmarks/limit_levels.csv:3",
        "gb16780-altitude 未应用 / not applied",
    )  # fmt: skip


def benchmark(*, approved: bool = True) -> Benchmark:
    return Benchmark(
        "发改产业〔2023〕723号", "kgce/t", Decimal(100), Decimal(117), "723号", "2023", "M",
        approved, row="configs/benchmarks/benchmark_levels.csv:20",
    )  # fmt: skip


def boundary(coal: Coefficient | str = "23.1 MJ/kg", returned: tuple[str, ...] = ()) -> Boundary:
    return Boundary(
        "process",
        "cement-clinker",
        "equivalent",
        "scale-clinker.mass",
        (
            CarrierLine(
                "electricity", ("em-kiln.active_energy_import",), ELECTRICITY, returned,
                ("电力", "electricity"), "configs/coefficients/standard_coal.csv:25",
            ),
            CarrierLine(
                "raw-coal", ("scale-coal.mass",), coal, (), ("原煤", "raw coal"),
                "configs/coefficients/standard_coal.csv:2",
            ),
        ),
        ("水泥熟料", "cement clinker"),
    )  # fmt: skip


def rows(
    window: str,
    ends: Sequence[int],
    *,
    k_coal: float = 23.1 / 29.3076,
    tonnes: float = 200.1,
    kwh: float = 30.25,
    kg: float = 118.7,
    bad: Sequence[int] = (),
) -> SampleBlock:
    """Return one row for each end: kWh and kg per tonne, as the energy metric computes them.

    bad  indices of rows whose coal is not known
    """
    schema = Schema(
        f"clinker/{window}",
        Family.ENERGY,
        tuple(Tag(n, Unit.parse(u)) for n, u in NAMES),
        float(LENGTHS[window]),
    )
    n = len(ends)
    made = (tonnes + np.arange(n) % 7) * LENGTHS[window] / 3600
    electricity, coal = made * kwh, made * kg
    total = electricity * 0.1229 + coal * k_coal
    value = np.array(
        [electricity, electricity * 0.1229, coal, coal * k_coal, total, made, total / made,
         np.full(n, 0.99), np.full(n, 0.02)]
    )  # fmt: skip
    quality = np.zeros(value.shape, np.uint8)
    for i in bad:
        quality[2:5, i] = quality[6, i] = Quality.BAD_MISSING
        value[2:5, i] = value[6, i] = np.nan
    return SampleBlock(schema, np.array(ends, np.int64), value, quality)


def ends(window: str, period: Period = DAY) -> list[int]:
    length = LENGTHS[window] * SECOND
    return list(range(period.start_ns + length, period.end_ns + 1, length))


async def store(folder: Path, *blocks: SampleBlock) -> History:
    """Write the rows with the real history sink and return its reader."""
    sink = HistorySink(
        folder / "history.db",
        slots_ns=90 * 86400 * SECOND,
        metrics_ns=5 * 365 * 86400 * SECOND,
        slots_bytes=1 << 28,
        metrics_bytes=1 << 28,
    )
    await sink.connect()
    await sink.write(list(blocks))
    await sink.close()
    return History(folder / "history.db")


def sheet(
    history: History,
    *,
    of: Boundary | None = None,
    levels: Sequence[Level] | None = None,
    benchmarks: Sequence[Benchmark] | None = None,
    period: Period = DAY,
) -> LeaderReport:
    return leader(
        site=SITE,
        metric="clinker",
        boundary=of or boundary(),
        history=history,
        levels=[level()] if levels is None else levels,
        benchmarks=[benchmark()] if benchmarks is None else benchmarks,
        period=period,
        config_digest="0123456789abcdef",
        version="0.1.0",
    )
