"""The example of ``emissions`` that the laws run on, and its oracle."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import itemgetter

from edge_agent.metrics.emissions import ConditionConfig, EmissionsConfig
from edge_agent.model import SampleBlock
from tests.metrics.examples import WINDOWS
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    GOOD,
    LIMITS,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    UNCERTAIN,
    Cell,
    Joined,
    Part,
    Result,
    Span,
    Stream,
    find,
    graded,
    holding,
    of_spans,
    quotient,
    usable,
)
from tests.metrics.plants import as_streams

CONDITIONS = {"running": (1, 2), "start_up": (3,), "shut_down": (4,), "stopped": (5,)}
CONFIG = EmissionsConfig(
    so2="kiln.so2",
    no="kiln.no",
    no2="kiln.no2",
    pm="kiln.pm",
    o2="kiln.o2",
    wet=("so2", "nox", "o2"),
    actual=("pm",),
    temperature="kiln.heat",
    pressure="kiln.draught",
    atmosphere=100.8,
    humidity="kiln.humidity",
    velocity="kiln.speed",
    velocity_factor=0.97,
    duct_area=9.62,
    o2_reference=10.0,
    condition=ConditionConfig(tag="kiln.run", **CONDITIONS),
    output="scale.mass",
    limits="works",
    windows=WINDOWS,
)
SUMS = ("valid_min", "fault_min", "running_min", "stopped_min", "flow_nm3", "output_t")
FLAG = ("kiln.flag", (1, 2, 3), {"fault": (6,), "maintenance": (4,), "calibration": (5,)})


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG, for windows that begin anywhere."""
    return emissions(
        as_streams(rows),
        gases={
            "so2": {"kiln.so2": 64.0 / 22.4},
            "nox": {"kiln.no": 46.0 / 22.4, "kiln.no2": 1.0},
            "pm": {"kiln.pm": 1.0},
        },
        wet=("so2", "nox", "o2"),
        actual=("pm",),
        state=("kiln.heat", "kiln.draught", 100_800.0),
        humidity="kiln.humidity",
        o2="kiln.o2",
        velocity=("kiln.speed", 9.62 * 0.97),
        o2_reference=10.0,
        condition=("kiln.run", CONDITIONS),
        flags=[FLAG],
        output=("scale.mass", 1e-3),
        spans=spans,
    )


Mean = tuple[float, int, float]  # value, quality, share


class Minute:
    """The means of one minute, one tag after the other."""

    def __init__(self, streams: Sequence[tuple[str, Stream]], joined: Joined, end: int) -> None:
        self.streams, self.joined, self.end = streams, joined, end

    def held(self, tag: str) -> list[tuple[float, int, int, int]]:
        rows, period = self.joined.readings(tag), find(self.streams, tag).period
        low = bisect_left(rows, self.end - MINUTE - round(3e9 * period), key=itemgetter(0))
        near = rows[max(low - 1, 0) : bisect_left(rows, self.end, key=itemgetter(0)) + 1]
        return holding(near, period, self.end - MINUTE, self.end)

    def mean(self, tag: str, factor: float = 1.0) -> Mean:
        period = find(self.streams, tag).period
        if period <= 15.0:
            rows = self.joined.readings(tag)
            low, high = (
                bisect_left(rows, t, key=itemgetter(0)) for t in (self.end - MINUTE, self.end)
            )
            inside = [(v, q, 1.0) for _, v, q in rows[low:high] if usable(v, q)]
            full = max(1.0, round(60 / period))
        else:
            inside = [(v, q, float(ns)) for v, q, ns, _ in self.held(tag) if ns]
            full = float(MINUTE)
        weight = sum(w for _, _, w in inside)
        share = min(1.0, weight / full)
        if share < 0.75:
            return 0.0, MISSING, share
        value = sum(v * w for v, _, w in inside) / weight * factor
        return value, max(q for _, q, _ in inside), share

    def most(self, tag: str, groups: Mapping[str, Sequence[int]]) -> tuple[str, dict[str, int]]:
        """The group in which a state was the longest; '' if in none."""
        spent = dict.fromkeys(groups, 0)
        for value, _, ns, _ in self.held(tag):
            for name, numbers in groups.items():
                spent[name] += ns if value in numbers else 0
        best = max(spent, key=lambda name: spent[name])
        return (best if spent[best] else ""), spent


def joint(value: float, *parts: Mean, possible: bool = True) -> Mean:
    quality = max(q for _, q, _ in parts)
    if not possible and quality < BAD:
        quality = NOT_AVAILABLE
    return value if quality < BAD else 0.0, quality, min(s for _, _, s in parts)


def emissions(
    streams: Sequence[tuple[str, Stream]],
    *,
    gases: Mapping[str, str | Mapping[str, float]],
    o2: str | None,
    o2_reference: float | None,
    flow: str | None = None,
    velocity: tuple[str, float] | None = None,
    wet: Sequence[str] = (),
    actual: Sequence[str] = (),
    state: tuple[str, str, float] | None = None,
    humidity: str | None = None,
    condition: tuple[str, Mapping[str, Sequence[int]]] | None = None,
    flags: Sequence[tuple[str, Sequence[int], Mapping[str, Sequence[int]]]] = (),
    output: tuple[str, float] | None = None,
    o2_limit: float = 19.0,
    spans: Sequence[Span] | None = None,
) -> Result:
    """Emission rows.

    gases     name -> tag in mg/m3, or tags with their factor to mg/m3
    velocity  tag in m/s, area times field factor
    state     tags of temperature (Cel) and gauge pressure (kPa), atmosphere (Pa)
    """
    joined = Joined(streams)
    terms = {gas: {tag: 1.0} if isinstance(tag, str) else tag for gas, tag in gases.items()}
    tags = [tag for parts in terms.values() for tag in parts]
    tags += [t for t in (o2, flow, humidity, *(state or ())[:2]) if isinstance(t, str)]
    tags += [pair[0] for pair in (velocity, condition) if pair is not None]
    for tag in [*tags, *(flag[0] for flag in flags)]:
        joined.readings(tag)
    made = joined.increments(output[0]) if output else {}
    has_flow = flow is not None or velocity is not None
    parts = {}
    for end in joined.ends():
        minute = Minute(streams, joined, end)
        water = minute.mean(humidity, 0.01) if humidity else (0.0, GOOD, 1.0)

        def dry(mean: Mean) -> Mean:
            fits = 0.0 <= water[0] < 1.0  # noqa: B023  used at once
            return joint(mean[0] / (1 - water[0]) if fits else 0.0, mean, water, possible=fits)  # noqa: B023

        heat = gauge = (0.0, GOOD, 1.0)
        air = 101_325.0
        if state:
            heat, gauge, air = minute.mean(state[0]), minute.mean(state[1], 1e3), state[2]
        possible = heat[0] > -273.0 and air + gauge[0] > 0.0
        pressure = (air + gauge[0]) / 101_325.0
        oxygen: Mean = minute.mean(o2) if o2 else (0.0, GOOD, 1.0)
        oxygen = dry(oxygen) if "o2" in wet else oxygen
        burning = oxygen[1] < BAD and (oxygen[0] < o2_limit or o2 is None)
        mark = oxygen[1] if burning else NOT_AVAILABLE
        mark = mark if oxygen[1] < BAD else MISSING
        stream: Mean = minute.mean(flow) if flow else (0.0, MISSING, 1.0)
        if velocity:
            speed = minute.mean(velocity[0])
            fits = possible and 0.0 <= water[0] < 1.0
            moved = 3600.0 * velocity[1] * speed[0] * 273.0 / (273.0 + heat[0]) * pressure
            stream = joint(moved * (1 - water[0]), speed, heat, gauge, water, possible=fits)
        how = minute.most(*condition)[0] if condition else ""
        part = Part({}, {}, {}, 0, 0)
        numbers: dict[str, Cell] = {}
        share, valid = oxygen[2], burning
        for gas, of_gas in terms.items():
            found: Mean | None = None
            for tag, factor in of_gas.items():
                mean = minute.mean(tag, factor)
                if gas in actual:
                    value = mean[0] / pressure * (273.0 + heat[0]) / 273.0
                    mean = joint(value, mean, heat, gauge, possible=possible)
                found = mean if found is None else joint(found[0] + mean[0], found, mean)
            assert found is not None
            found = dry(found) if gas in wet else found
            quality = max(found[1], mark)
            right = found[0]
            if burning and o2_reference is not None:
                right *= (21.0 - o2_reference) / (21.0 - oxygen[0])
            numbers[gas] = (found[0], quality)
            numbers[f"{gas}_corrected"] = (right, quality)
            if condition:
                excused = how in {"start_up", "shut_down", "stopped"}
                out = max(quality, NOT_AVAILABLE) if excused else quality
                numbers[f"{gas}_judged"] = (right, out)
            if has_flow:
                mass = found[0] * stream[0] * 1e-6 / 60.0
                numbers[f"{gas}_mass_kg"] = (mass, max(found[1], stream[1]))
                share = min(share, stream[2])
            valid = valid and quality < BAD
            share = min(share, found[2])
        if o2:
            numbers["o2"] = oxygen[:2]
        numbers["valid_min"] = (float(valid), GOOD)
        if condition:
            numbers |= {f"{name}_min": (float(how == name), GOOD) for name in condition[1]}
        elif o2:
            numbers["stopped_min"] = (float(oxygen[1] < BAD and not burning), GOOD)
        if flags:
            marks = dict.fromkeys(flags[0][2], 0.0)
            for tag, normal, named in flags:
                known = {*normal, *(number for group in named.values() for number in group)}
                others = [number for number in range(-9, 99) if number not in known]
                odd = dict(named) | {"fault": [*named["fault"], *others]}
                _, spent = minute.most(tag, {"normal": normal, **odd})
                away = sum(spent[name] for name in odd)
                if away > 0.25 * sum(spent.values()):
                    marks[max(odd, key=lambda name: spent[name])] = 1.0
            numbers |= {f"{name}_min": (count, GOOD) for name, count in marks.items()}
        if has_flow:
            numbers["flow_nm3"] = (stream[0] / 60.0, stream[1])
        if output:
            (amount, quality), _, _ = made.get(end, ABSENT)
            numbers["output_t"] = ((amount or 0.0) * output[1], quality)
        part.covered = round(share * MINUTE)
        for name, (value, quality) in numbers.items():
            known = quality < BAD
            part.total[name], part.known[name] = value if known else 0.0, int(known)
            part.worst[name] = quality
        parts[end] = part

    return of_spans(parts, spans, lambda part: cells_of(part, tuple(terms)))


MEANS = ("_corrected", "_judged")


def cells_of(part: Part, gases: Sequence[str]) -> dict[str, Cell]:
    """The columns of a window of minutes that begins anywhere."""
    cells: dict[str, Cell] = {}
    for name, total in part.total.items():
        known, share = part.known[name], part.known[name] / part.minutes
        quality = part.worst[name]
        quality = MISSING if not known and quality < BAD else quality
        if name not in gases and name != "o2" and not name.endswith(MEANS):
            cells[name] = (total, max(quality, UNCERTAIN) if share < LIMITS[0] else quality)
            continue
        quality = graded(quality, share)
        if part.minutes >= 60 and share < 45 / 60 and quality < BAD:
            quality = MISSING
        cells[name] = (total / max(known, 1), quality)
    if "output_t" in cells:
        made, mark = cells["output_t"]
        for gas in gases:
            mass, quality = cells[f"{gas}_mass_kg"]
            cells[f"{gas}_kg_per_t"] = quotient(mass or 0.0, made or 0.0, max(quality, mark))
    return cells
