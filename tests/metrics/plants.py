"""A small plant with everything that goes wrong in one, and the pipeline that feeds its metrics."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

import numpy as np

from edge_agent.metrics.base import (
    Co2Factor,
    Coefficient,
    InstrumentFlag,
    Limit,
    Metric,
    MetricConfig,
    QualityLimits,
)
from edge_agent.metrics.references import Named
from edge_agent.metrics.slots import SlotOperator, slot_schema
from edge_agent.metrics.tariff_tables import (
    ALWAYS,
    Adjustment,
    AdjustmentStep,
    Band,
    DemandRule,
    Tariffs,
)
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Site, Tag, concatenate
from edge_agent.outbox_schema import as_json
from edge_agent.units import Unit
from tests.metrics import oracle

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z


def tag(name: str, unit: str, kind: Kind = Kind.GAUGE, **limits: float) -> Tag:
    return Tag(name, Unit.parse(unit), kind, **limits)


METER = Schema(
    "em-a/raw",
    Family.SAMPLE,
    (
        tag("power", "kW"),
        tag("energy", "kWh", Kind.COUNTER, modulus=1000.0, max_rate=0.2),
        tag("export", "MWh", Kind.COUNTER),
        tag("reactive", "kvarh", Kind.COUNTER, modulus=2.0**33),
    ),
    5.0,
)
SCALE = Schema(
    "scale/raw.slow", Family.SAMPLE, (tag("mass", "kg", Kind.COUNTER, modulus=1e5),), 60.0
)
PACKER = Schema(
    "packer/raw",
    Family.SAMPLE,
    (
        tag("state", "1", Kind.STATE),
        tag("bags", "{bag}", Kind.COUNTER, modulus=65536.0),
        tag("reject", "{bag}", Kind.COUNTER),
        tag("reason", "1", Kind.STATE),
    ),
    5.0,
)
STACK = Schema(
    "cems/raw",
    Family.SAMPLE,
    (tag("so2", "mg/m3"), tag("nox", "mg/m3"), tag("o2", "%"), tag("flow", "Nm3/h")),
    5.0,
)
SUB_METER = Schema(
    "em-b/raw",
    Family.SAMPLE,
    (tag("energy", "kWh", Kind.COUNTER, modulus=1e6), tag("power", "kW")),
    20.0,
)
KILN = Schema(
    "kiln/raw",
    Family.SAMPLE,
    (
        tag("so2", "[ppm]"),
        tag("no", "[ppm]"),
        tag("no2", "mg/m3"),
        tag("pm", "mg/m3"),
        tag("o2", "%"),
        tag("speed", "m/s"),
        tag("flag", "1", Kind.STATE),
        tag("run", "1", Kind.STATE),
    ),
    5.0,
)
DUCT = Schema(
    "kiln/raw.slow",
    Family.SAMPLE,
    (tag("heat", "Cel"), tag("draught", "kPa"), tag("humidity", "%")),
    60.0,
)
OUTLET = Schema(
    "outlet/raw",
    Family.SAMPLE,
    (
        tag("cod", "mg/L"),
        tag("nh3_n", "ug/L"),
        tag("ph", "1"),
        tag("temperature", "Cel"),
        tag("discharge", "L/s"),
    ),
    5.0,
)
STEAM = Schema(
    "fm-steam/raw",
    Family.SAMPLE,
    (tag("mass", "t", Kind.COUNTER), tag("pressure", "bar"), tag("steam_temperature", "°C")),
    30.0,
)
STREAMS = (METER, SCALE, PACKER, STACK, SUB_METER, KILN, DUCT, OUTLET, STEAM)


@dataclass(frozen=True)
class Works:
    """The plant that KPIs are built from."""

    site: Site = field(default_factory=lambda: Site("works", "main", "works"))
    shifts: Mapping[str, str] = field(
        default_factory=lambda: {"A": "08:00-16:00", "B": "16:00-00:00", "C": "00:00-08:00"}
    )
    quality: QualityLimits = field(default_factory=QualityLimits)
    metrics: Mapping[str, MetricConfig] = field(default_factory=dict)

    @cached_property
    def named(self) -> Named:
        return Named(self.metrics, self)

    def derived(self, reference: str) -> tuple[Schema, str]:
        return self.named.column(reference)

    def provenance(self, sources: Sequence[str]) -> tuple[str, ...]:
        return ("config:works", *sources)

    def raw(self, name: str) -> Schema:
        if (computed := self.named.raw(name)) is not None:
            return computed
        device, _, column = name.partition(".")
        return next(s for s in STREAMS if s.owner == device and column in s.index)

    def slot(self, name: str) -> Schema:
        return slot_schema(self.raw(name))

    @property
    def tariffs(self) -> Tariffs:
        """Bands whose edges lie in the first minutes of the rows: 08:00 local time."""
        edges = [("valley", 480, 484), ("peak", 484, 487), ("sharp", 487, 494), ("flat", 496, 1440)]
        months, days = tuple(range(1, 13)), (-ALWAYS, ALWAYS)
        factors = {"valley": 0.3, "peak": 1.7, "sharp": math.nan, "flat": 1.0}
        rows = tuple(
            ("tou", "2026", Band(b, months, start, end, factors[b], *days, f"tou:{b}"))
            for b, start, end in edges
        )
        steps = AdjustmentStep(90, 100, -0.75, 0.0), AdjustmentStep(0, 90, 0.0, 0.5)
        return Tariffs(
            {"tou": rows},
            {90: Adjustment("0.90", steps, "power_factor:0.90")},
            {"two-part": DemandRule(1.05, 2.0, 0.4, "demand_rules:two-part")},
        )

    def coefficients(self, carrier: str, basis: str, standard: str) -> tuple[Coefficient, ...]:
        rows = [
            ("electricity", "kWh", 0.404, "2008-06-01", "2021-03-31", None),
            ("electricity", "kWh", 0.1229, "2021-04-01", "", 3.6),
            ("raw-coal", "kg", 0.7143, "2021-04-01", "", 20.934),
            ("heat", "MJ", 0.03412, "2021-04-01", "", 1.0),
            ("diesel", "kg", 1.4571, "2021-04-01", "2025-12-31", 42.705),
            ("fresh-water", "t", 0.2571, "2021-04-01", "", None),
        ]
        found = tuple(
            Coefficient(code, unit, k, basis, standard, "test", "", since, until, "M", False, heat)
            for code, unit, k, since, until, heat in rows
            if code == carrier
        )
        if not found:
            raise KeyError(f'no coefficient for "{carrier}"')
        return found

    def co2_factors(self, code: str, variant: str) -> tuple[Co2Factor, ...]:
        rows = [
            ("cn-works", "average", "2023", "kWh", 0.6e-3, None, "2025-12-31"),
            ("cn-works", "average", "2022", "kWh", 0.7e-3, None, "2024-12-20"),
            ("bituminous-coal", "works", "", "t", 2.2329, 0.02618 * 0.98, ""),
            ("natural-gas", "works", "", "10000.Nm3", 21.6502, 0.01532 * 0.99, ""),
            ("purchased-heat", "default", "", "GJ", 0.11, None, ""),
        ]
        found = tuple(
            Co2Factor(
                code=c, variant=v, data_year=year, unit=unit, tco2_per_unit=t, tc_per_gj=carbon,
                valid_from=since, valid_to="", approved=True,
            )
            for c, v, year, unit, t, carbon, since in rows
            if (c, v) == (code, variant)
        )  # fmt: skip
        if not found:
            raise KeyError(f'no CO2 factor for "{code}" ({variant})')
        return found

    def limits(self, prefix: str) -> tuple[Limit, ...]:
        rows = [
            ("works-so2-old", "so2", 60.0, "1h", "", "2026-01-01"),
            ("works-so2", "so2", 40.0, "1h", "2026-01-02", ""),
            ("works-nox", "nox", 100.0, "1h", "", ""),
            ("works-nox-24h", "nox", 90.0, "24h", "", ""),
        ]
        found = [Limit(i, g, v, "mg/m3", a, 10.0, f, t, False) for i, g, v, a, f, t in rows]
        rows = [
            ("outlet-cod", "cod", 50.0, "24h", "2026-01-01", ""),
            ("outlet-nh3-n", "nh3-n", 5.0, "24h", "2026-01-01", ""),
            ("outlet-nh3-n-cold", "nh3-n-cold", 8.0, "24h", "2026-01-01", ""),
            ("outlet-ph-min", "ph-min", 6.0, "24h", "2026-01-01", ""),
            ("outlet-ph-max", "ph-max", 9.0, "24h", "2026-01-01", ""),
        ]
        found += [Limit(i, g, v, "mg/L", a, None, f, t, False) for i, g, v, a, f, t in rows]
        return tuple(row for row in found if row.id.startswith(prefix))

    def flag(self, tag: str) -> InstrumentFlag | None:
        if tag.partition(".")[0] != "kiln":
            return None
        return InstrumentFlag("kiln.flag", (1, 2, 3), (4,), (5,), (6,))


def column(random: Random, signal: Tag, n: int) -> tuple[list[float], list[int]]:
    """Numbers and qualities of one signal with bad rows, glitches, resets and rollovers."""
    marks = [0] * n
    if signal.kind is Kind.COUNTER:
        rate = 0.5 if signal.max_rate else 3.0
        top = signal.modulus or 1e6
        level = top * random.choice([0.2, 0.995, 0.9999])
        values = []
        late = random.choice([0, 0, 0, 1, 6, 15])  # rows before the true total
        coarse = random.choice([0.0, 0.0, 6.0])
        load = 1.0
        bad = 0
        for i in range(n):
            if random.random() < 0.02:
                load = random.choice([0.0, 0.001, 1.0, -0.3])  # it may run backwards
            level += random.random() * rate * load
            if signal.modulus and level >= signal.modulus:
                level -= signal.modulus
            if random.random() < 0.008:
                level = random.random() * 10  # a reset, or a new meter
            values.append(0.0 if i < late else level // coarse * coarse if coarse else level)
            if bad:  # the garbage of the row before, for some rows
                values[i] = values[i - 1]
                bad -= 1
            elif random.random() < 0.01:
                values[i] = level + random.choice([50.0, top / 3, top / 2])
                bad = random.randrange(6)
            elif random.random() < 0.02:
                values[i] = random.choice([0.0, level / 2, level + top / 3])  # a glitch
                marks[i] = random.choice([0, 0, 70])
    elif signal.kind is Kind.STATE:
        values, level = [], 1.0
        for _ in range(n):
            level = float(random.randint(1, 6)) if random.random() < 0.2 else level
            values.append(level)
    else:
        centers = {"o2": 16.0, "flow": 1e5, "humidity": 9.0, "steam_temperature": 260.0}
        center = centers.get(signal.name, 40.0)
        values = [random.gauss(center, center / 10) for _ in range(n)]
    for i in range(n):
        if random.random() < 0.03:
            marks[i] = random.choice([64, 65, 70, 129, 131])
    return values, marks


def stream(
    random: Random, schema: Schema, minutes: float, pause: tuple[float, float] | None
) -> SampleBlock:
    """Rows of one stream, some left out, all bad for a while; none within the pause (minutes)."""
    period = schema.period
    n = int(minutes * 60 / period)
    offset = random.choice([0, 0, random.randint(0, int(period * 1e9))])
    times = [START + offset + round(i * period * 1e9) for i in range(n)]
    jitter = random.choice([0, int(period * 2e8)])
    times = sorted(t + random.randint(0, jitter) for t in times)
    if random.random() < 0.5:
        i = random.randrange(n - 1)
        times[i] = times[i + 1]  # two rows at one time
    numbers = [column(random, signal, n) for signal in schema.tags]
    value = np.array([v for v, _ in numbers])
    quality = np.array([q for _, q in numbers], np.uint8)
    if random.random() < 0.6:
        i, length = random.randrange(n), random.choice([2, 5, 20, 60])
        rows = slice(i, i + length)
        if random.random() < 0.5:
            quality[:, rows] = Quality.BAD_NO_ANSWER
        else:
            quality[random.randrange(len(quality)), rows] = Quality.BAD_DEVICE
    value[quality >= 128] = np.nan
    keep = np.array([random.random() > 0.02 for _ in times])
    time = np.array(times, np.int64)
    if pause is not None:
        low, high = (START + round(p * 60e9) for p in pause)
        keep &= (time < low) | (time >= high)
    keep[0] = keep[-1] = True
    return SampleBlock(schema, time[keep], value[:, keep], quality[:, keep])


def plant_rows(
    seed: int, minutes: float = 14.0, schemas: Iterable[Schema] = STREAMS
) -> dict[str, SampleBlock]:
    """The rows of streams; in half of the cases the whole plant was not read for a while."""
    pause = Random(seed).choice([None, (4.3, 9.0), (3.0, 11.2)])
    return {
        schema.stream: stream(Random(f"{seed} {schema.stream}"), schema, minutes, pause)
        for schema in schemas
    }


def pieces(block: SampleBlock, random: Random, longest: int) -> list[SampleBlock]:
    """Cut a block into some of at most so many rows."""
    found, i = [], 0
    while i < len(block):
        j = min(len(block), i + random.randint(1, longest))
        found.append(block.rows(i, j))
        i = j
    return found


def interleaved(
    rows: Mapping[str, SampleBlock], random: Random, longest: int, late: float
) -> list[SampleBlock]:
    """Blocks of several streams, each stream in order, none later than ``late`` seconds."""
    queued = []
    for name, block in rows.items():
        limit = 1 if block.schema.period > 30 else longest
        at = 0
        for i, piece in enumerate(pieces(block, random, limit)):
            at = max(at, int(piece.time[-1]) + round(random.random() * late * 1e9))
            queued.append((at, name, i, piece))
    return [piece for _, _, _, piece in sorted(queued, key=lambda entry: entry[:3])]


def run(
    metrics: Sequence[Metric],
    blocks: Iterable[SampleBlock],
    renew: Callable[[Metric], Metric] | None = None,
) -> dict[str, SampleBlock]:
    """Push blocks through metrics as the pipeline does; return the rows of each output.

    renew  asked for each metric before each block: a new object with the state, or the same
    """
    live = list(metrics)
    found: dict[str, list[SampleBlock]] = {}

    def push(block: SampleBlock) -> None:
        for i, metric in enumerate(live):
            if block.schema.stream in metric.inputs:
                if renew is not None:
                    live[i] = renew(metric)
                rows = live[i].update(block)
                if rows is not None:
                    assert rows.lawful()
                    found.setdefault(rows.schema.stream, []).append(rows)
                    push(rows)

    for block in blocks:
        push(block)
    return {name: concatenate(rows) for name, rows in found.items()}


def operators() -> list[Metric]:
    return [SlotOperator(schema) for schema in STREAMS]


def restored(new: Metric, old: Metric) -> Metric:
    """Return a new object with the state of the old one, through JSON."""
    new.load(json.loads(as_json(old.save())))
    return new


def as_oracle(block: SampleBlock) -> oracle.Stream:
    """The same rows as plain lists."""
    signals, rows = {}, {}
    for i, signal in enumerate(block.schema.tags):
        signals[signal.name] = oracle.Signal(
            signal.kind.value, signal.modulus, signal.max_rate, signal.resolution
        )
        columns = block.time.tolist(), block.value[i].tolist(), block.quality[i].tolist()
        rows[signal.name] = list(zip(*columns, strict=True))
    return oracle.Stream(block.schema.period, signals, rows)


def as_streams(rows: Mapping[str, SampleBlock]) -> list[tuple[str, oracle.Stream]]:
    """The same as (device, stream), as the oracles take them."""
    return [(name.partition("/")[0], as_oracle(block)) for name, block in rows.items()]


def same(one: SampleBlock | None, other: SampleBlock | None) -> None:
    """Assert that two blocks are equal bit for bit."""
    assert one is not None
    assert other is not None
    assert one.schema == other.schema
    np.testing.assert_array_equal(one.time, other.time)
    np.testing.assert_array_equal(one.quality, other.quality)
    np.testing.assert_array_equal(one.value, other.value)


def agrees(block: SampleBlock, given: oracle.Rows, relative: float = 0.0) -> None:
    """Assert that a block has the oracle's rows."""
    rows = list(given.items()) if isinstance(given, dict) else given
    assert block.time.tolist() == [end for end, _ in rows]
    for i, signal in enumerate(block.schema.tags):
        for (end, cells), value, quality in zip(
            rows, block.value[i], block.quality[i], strict=True
        ):
            wanted, mark = cells[signal.name]
            where = f"{signal.name} at {(end - START) / 60e9} min"
            assert quality == mark, where
            if wanted is None:
                assert np.isnan(value), where
            else:
                assert abs(value - wanted) <= relative * max(abs(wanted), abs(value)), (
                    where, value, wanted,
                )  # fmt: skip
