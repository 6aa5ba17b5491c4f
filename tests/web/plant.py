"""A small plant in memory: real Live, Health and counts, filled by hand as the agent does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edge_agent.clock import SECOND, VirtualClock
from edge_agent.health import (
    Dropped,
    Health,
    LinkHealth,
    LogCounts,
    ReaderCounts,
    SinkHealth,
    State,
    StoreHealth,
)
from edge_agent.live import Live
from edge_agent.metrics.alarm_rows import alarm_tags
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Site, Tag
from edge_agent.outbox import Aside
from edge_agent.units import Unit
from edge_agent.web.app import Sources

NOON = 1_791_158_400 * SECOND + 4 * 3600 * SECOND  # 2026-10-05T12:00:00+08:00


def tag(name: str, unit: str = "1", kind: Kind = Kind.GAUGE) -> Tag:
    return Tag(name, Unit.parse(unit), kind)


def block(
    schema: Schema, time: int, values: Mapping[str, float], bad: Mapping[str, int] | None = None
) -> SampleBlock:
    """Return one row; what ``bad`` names has that quality (NaN where it is BAD)."""
    quality = np.array([[(bad or {}).get(t.name, 0)] for t in schema.tags], np.uint8)
    value = np.array([[values.get(t.name, 0.0)] for t in schema.tags], float)
    value[quality >= Quality.BAD] = np.nan
    return SampleBlock(schema, np.array([time], np.int64), value, quality)


GASES = ("so2", "nox", "dust")
KILN = Schema(
    "em-kiln/raw",
    Family.SAMPLE,
    (
        tag("active_power", "kW"),
        tag("voltage_l1", "V"),
        tag("current_l1", "A"),
        tag("power_factor"),
        tag("frequency", "Hz"),
        tag("active_energy_import", "kWh", Kind.COUNTER),
    ),
    1.0,
)
CEMS = Schema(
    "cems-kiln/raw",
    Family.SAMPLE,
    (
        *(tag(gas, "mg/m3") for gas in GASES),
        tag("o2", "%"),
        tag("flag", kind=Kind.STATE),
    ),
    5.0,
)
PACKER = Schema(
    "plc-packer/raw.sub",
    Family.SAMPLE,
    (tag("state", kind=Kind.STATE), tag("bags", "{bag}", Kind.COUNTER)),
    5.0,
)
ENERGY = (
    tag("electricity", "kWh"), tag("electricity_kgce", "kgce"), tag("raw-coal", "kg"),
    tag("raw-coal_kgce", "kgce"), tag("total_kgce", "kgce"), tag("output_t", "t"),
    tag("intensity", "kgce/t"), tag("coverage"), tag("estimated"),
)  # fmt: skip
OEE = (
    *(tag(name, "s") for name in ("apt_s", "pbt_s", "aust_s", "adet_s", "adot_s")),
    tag("produced", "{bag}"), tag("good", "{bag}"), tag("availability"), tag("effectiveness"),
    tag("quality_ratio"), tag("oee"), tag("coverage"), tag("estimated"),
)  # fmt: skip
STACK = (
    *(tag(f"{gas}{suffix}", "mg/m3") for gas in GASES for suffix in ("", "_corrected")),
    tag("o2", "%"), tag("valid_min", "min"), tag("coverage"), tag("estimated"),
)  # fmt: skip
WINDOWS = {"1min": 60, "15min": 900, "1h": 3600}


def kpi(owner: str, family: Family, tags: tuple[Tag, ...], window: str) -> Schema:
    return Schema(f"{owner}/{window}", family, tags, float(WINDOWS[window]))


CLINKER = {w: kpi("clinker", Family.ENERGY, ENERGY, w) for w in WINDOWS}
PACKING = {w: kpi("packer", Family.OEE, OEE, w) for w in WINDOWS}
KILN_STACK = {w: kpi("kiln-stack", Family.EMISSIONS, STACK, w) for w in WINDOWS}


def alarm(owner: str, state: int, priority: int, *, limit: bool = True) -> SampleBlock:
    """The present row of an alarm that has been in its state for five minutes."""
    schema = Schema(f"{owner}/event", Family.ALARM, alarm_tags(Unit.parse("mg/m3")), 86400.0)
    numbers = {"state": state, "active": state in {1, 2}, "value": 95.5, "limit": 90.0}
    numbers |= {"priority": priority, "duration_s": 300.0, "raised_1h": 3.0, "coverage": 1.0}
    bad = {} if limit else {"limit": int(Quality.BAD_NOT_AVAILABLE)}
    return block(schema, NOON, numbers, bad)


KILN_ROW = {
    "active_power": 2481.3,
    "voltage_l1": 6012.5,
    "current_l1": 241.75,
    "power_factor": 0.9512345678901234,
    "frequency": 50.01,
    "active_energy_import": 1234567.89,
}


def kiln_rows(count: int) -> SampleBlock:
    """Rows of the kiln's meter from noon on; the second has no power."""
    row = block(KILN, NOON, KILN_ROW)
    time = NOON + np.arange(count, dtype=np.int64) * SECOND
    value, quality = np.repeat(row.value, count, 1), np.repeat(row.quality, count, 1)
    value[0, 1:2], quality[0, 1:2] = np.nan, Quality.BAD_NO_ANSWER
    return SampleBlock(KILN, time, value, quality)


def energy_row(tonnes: float, intensity: float) -> dict[str, float]:
    total = tonnes * intensity
    return {
        "electricity": tonnes * 51.2, "electricity_kgce": tonnes * 51.2 * 0.1229,
        "raw-coal": tonnes * 121.0, "raw-coal_kgce": total - tonnes * 51.2 * 0.1229,
        "total_kgce": total, "output_t": tonnes, "intensity": intensity, "coverage": 0.9987,
        "estimated": 0.002,
    }  # fmt: skip


STORE = StoreHealth(  # a day of raw rows, a tenth of the budget
    raw_bytes=200_000_000,
    derived_bytes=1_234_567,
    raw_budget_bytes=2_000_000_000,
    derived_budget_bytes=1_000_000_000,
    disk_bytes=210_000_000,
    limit_bytes=3_008_388_608,
    oldest_ns=NOON - 86_400 * SECOND,
    newest_ns=NOON,
)


HOUR = 3600 * SECOND
GAP = Dropped("broker", "em-kiln/raw", NOON - HOUR, NOON - HOUR + 7 * SECOND, 8, "bytes")


@dataclass
class Plant:
    """What the tests change while a browser looks on."""

    clock: VirtualClock = field(default_factory=lambda: VirtualClock(NOON + 37 * 60 * SECOND))
    live: Live = field(default_factory=Live)
    open: list[SampleBlock] = field(default_factory=list)
    stored: dict[str, SampleBlock] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    readers: dict[str, ReaderCounts] = field(default_factory=dict)
    store: StoreHealth = field(default_factory=lambda: STORE)
    put_aside: list[Aside] = field(default_factory=list)  # oldest first
    read: int = 5000
    asked: list[int | None] = field(default_factory=list)  # how many rows at most, by each request

    def counts(self) -> LogCounts:
        return LogCounts(self.read + 320, self.read, 20, 300, 0, 1_234_567, self.readers)

    def rows(
        self, stream: str, start: int, end: int, most: int | None = None
    ) -> SampleBlock | None:
        self.asked.append(most)
        kept = self.stored.get(stream)
        if kept is None:
            return None
        first, last = np.searchsorted(kept.time, [start, end], side="right").tolist()
        return kept.rows(first, last if most is None else min(last, first + most))

    def refused(self, sink: str | None, most: int) -> list[Aside]:
        return [a for a in reversed(self.put_aside) if sink in {None, a.reader}][:most]

    def sources(self) -> Sources:
        return Sources(
            site=Site("demo-cement", "main", "示范水泥厂"),
            version="0.1.0",
            clock=self.clock,
            live=self.live,
            health=self.health,
            counts=self.counts,
            store=lambda: self.store,
            refused=self.refused,
            running=lambda: self.open,
            rows=self.rows,
            states={
                "plc-packer.state": {1: "producing", 3: "fault"},
                "cems-kiln.flag": {0: "normal", 2: "maintenance"},
            },
            targets={
                "clinker.intensity": [
                    ("GB 16780-2021 1级 · 标杆/GB 16780-2021 level 1 · benchmark", 100.0),
                    ("GB 16780-2021 2级/GB 16780-2021 level 2", 107.0),
                    ("GB 16780-2021 3级 · 基准/GB 16780-2021 level 3 · baseline", 117.0),
                ],
                "kiln-stack.so2_corrected": [("限值/limit", 50.0)],
                "kiln-stack.nox_corrected": [("限值/limit", 100.0)],
                "kiln-stack.dust_corrected": [("限值/limit", 10.0)],
            },
        )


def small_plant() -> Plant:
    """Return a plant with three devices, three KPIs, two sinks and nothing wrong."""
    plant = Plant()
    now = plant.clock.wall_ns()
    plant.health.started_ns = now - 3600 * SECOND
    for name in ("em-kiln", "cems-kiln", "plc-packer"):
        plant.health.links[name] = LinkHealth(name, (name,), State.UP, now, rows_read=100)
    plant.health.sinks = {
        "history": SinkHealth("history", "history", State.UP),
        "broker": SinkHealth(
            "broker",
            "mqtt",
            State.DOWN,
            now - 600 * SECOND,
            "connection refused",
            behind_seconds=600.0,
        ),
    }
    plant.readers = {
        "history": ReaderCounts(300, 298, 0, 2, 0),
        "broker": ReaderCounts(5020, 4000, 3, 1007, 10),
    }
    plant.live.put(block(KILN, now, KILN_ROW))
    gases = {"so2": 21.4, "nox": 61.2, "dust": 4.31, "o2": 9.6}
    plant.live.put(block(CEMS, now - 2 * SECOND, gases, {"dust": Quality.UNCERTAIN_RANGE}))
    plant.live.put(block(PACKER, now - SECOND, {"state": 1, "bags": 182_344}))
    for window, seconds in WINDOWS.items():
        length = seconds * SECOND
        end = now // length * length
        part = (now - end) / length or 0.5
        made = seconds / 18
        for schema, closed, running in (
            (CLINKER[window], energy_row(made, 101.2345678901234), energy_row(part * made, 104.2)),
            (PACKING[window], _oee(seconds, 0.86), _oee(seconds * part, 0.81)),
            (KILN_STACK[window], _stack(1.0, seconds), _stack(1.1, seconds * part)),
        ):  # fmt: skip
            plant.live.put(block(schema, end, closed))
            mark = {"quality": 64, "intensity": Quality.UNCERTAIN} if part < 0.95 else {}
            plant.open.append(block(schema, end + length, running | {"coverage": part}, mark))
    return plant


def _oee(seconds: float, availability: float) -> dict[str, float]:
    made = seconds * 0.62
    return {
        "apt_s": seconds * availability, "pbt_s": seconds, "adot_s": seconds * (1 - availability),
        "produced": round(made), "good": round(made * 0.99), "availability": availability,
        "effectiveness": 0.934, "quality_ratio": 0.991, "oee": availability * 0.934 * 0.991,
        "coverage": 1.0,
    }  # fmt: skip


def _stack(load: float, seconds: float) -> dict[str, float]:
    raw = {"so2": 21.4 * load, "nox": 61.2 * load, "dust": 4.3 * load}
    corrected = {f"{gas}_corrected": value * 11.0 / 11.4 for gas, value in raw.items()}
    return raw | corrected | {"o2": 9.6, "valid_min": seconds / 60, "coverage": 1.0}
