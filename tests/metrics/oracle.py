"""Slow, obvious versions of the metrics in plain Python, from raw rows to rows of any window.

No NumPy and nothing of ``edge_agent.metrics`` is used. Rows of a tag are ``(ns, value, quality)``;
all tags of a stream have the same times. Results are
``{end_ns: {column: (value or None, quality)}}``
for the minutes or for the spans ``(start_ns, end_ns)`` asked for. Every function takes the raw rows
and goes through them one by one.
"""

from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import ceil, inf, isfinite, log2
from operator import itemgetter

MINUTE = 60_000_000_000
GOOD, ROLLOVER, UNCERTAIN, RESET, ESTIMATED, FLAGGED = 0, 1, 64, 66, 69, 70
BAD, NOT_AVAILABLE, MISSING = 128, 131, 191
LONGEST_GAP = 31 * 1440
LIMITS = (0.95, 0.5)

Row = tuple[int, float, int]
Cell = tuple[float | None, int]
Result = dict[int, dict[str, Cell]]
Rows = Result | list[tuple[int, dict[str, Cell]]]  # a list where two rows may be of one time
Span = tuple[int, int]


@dataclass
class Signal:
    kind: str  # gauge, counter, state
    modulus: float | None = None
    max_rate: float | None = None
    resolution: float | None = None


@dataclass
class Stream:
    """One raw stream: its signals by name and the rows of each."""

    period: float
    signals: Mapping[str, Signal]
    rows: Mapping[str, Sequence[Row]]

    def at(self) -> Iterator[tuple[int, dict[str, tuple[float, int]]]]:
        names = list(self.rows)
        for i, (t, _, _) in enumerate(self.rows[names[0]]):
            yield t, {name: self.rows[name][i][1:] for name in names}


def usable(value: float, quality: int) -> bool:
    return quality < BAD and quality != FLAGGED and isfinite(value)


# counters ---------------------------------------------------------------------------------------


@dataclass
class Link:
    """Two accepted readings that follow each other, and what the step between them was."""

    t0: int
    r0: float  # on the scale of r1
    t1: int
    r1: float
    offset: Fraction  # from the scale of r1 to one that never turns
    quality: int


@dataclass
class Level:
    """Readings held back: (ns, reading, quality), each going on from the one before."""

    rows: list[Row]
    backward: bool


@dataclass
class CounterOracle:
    signal: Signal
    period: float
    last: tuple[int, float] | None = None
    offset: Fraction = Fraction(0)
    since: int = 0
    levels: list[Level] = field(default_factory=list)  # the first jump, and what does not fit it
    links: list[Link] = field(default_factory=list)
    firsts: list[tuple[int, float, int]] = field(default_factory=list)
    border: tuple[int, Fraction] | None = None  # the last one booked, and the highest reading
    fastest: float = 0.0  # of all steps accepted and booked, counts per second
    refused: float = 0.0  # rate of the last step upward that was not believed
    peak: Fraction | None = None  # before it ran backwards, on the scale that never turns
    reset: tuple[int, Fraction] | None = None  # time and scale before the last reset
    changed: int = 0  # when the reading last rose

    @property
    def grid(self) -> float:
        m = self.signal.modulus
        return 2.0**-20 if m is None or m <= 2.0**32 else 2.0 ** min(ceil(log2(m)) - 52, -12)

    @property
    def modulus(self) -> float:
        m = self.signal.modulus
        return inf if m is None else round(m / self.grid) * self.grid

    @property
    def coarse(self) -> bool:
        return self.signal.max_rate is not None and self.signal.resolution is None

    def rate(self, before: tuple[int, float], t: int, r: float) -> float:
        return (r - before[1]) / ((t - before[0]) / 1e9 + self.period)

    def allowed(self, since: int, t: int, r: float, factor_of: float = 0.0) -> float:
        """How far a counter may step to a reading; ``factor_of``: a rate to compare with."""
        m, rate = self.signal.modulus, self.signal.max_rate
        if rate is None:
            rate = 10 * max(factor_of, self.fastest)
        count = self.signal.resolution
        if count is None and m is not None and m <= 1e11:
            count = 1e-8 * m
        slack = 2.0**-20 * abs(r) if count is None else 2 * count
        return rate * ((t - since) / 1e9 + self.period) + slack

    def follows(self, before: tuple[int, float], t: int, r: float, factor_of: float = 0.0) -> bool:
        """Whether a reading can go on from another."""
        return 0 <= r - before[1] <= self.allowed(before[0], t, r, factor_of)

    def agrees(self, level: Level, t: int, r: float) -> bool:
        """Whether a reading goes on from those held back."""
        (t1, r1, _), (latest, value, _) = level.rows[0], level.rows[-1]
        known = self.signal.max_rate is not None
        if not known and r1 < self.last[1] <= r:
            return False
        if r >= value:
            if known or r1 > self.last[1]:
                rate = 0.0 if known else self.rate(self.last, t1, r1)
                if self.coarse:
                    rises = [b[0] for a, b in pairwise(level.rows) if b[1] > a[1]]
                    latest = rises[-1] if rises else self.changed
                return self.follows((latest, value), t, r, rate)
            return True  # after a fall it may begin with any load
        fell = self.last[1] - r1
        small = 0 < fell <= self.allowed(self.last[0], t1, r1)
        again = small and value - r <= self.allowed(latest, t, r)
        level.backward = level.backward or again
        return again

    def read(self, t: int, value: float, quality: int) -> None:
        if usable(value, quality):
            self.judge(t, round(value / self.grid) * self.grid, quality)

    def judge(self, t: int, r: float, quality: int) -> None:
        if self.last is None:
            self.last, self.changed = (t, r), t
            self.firsts.append((t, r, quality))
            if t % MINUTE == 0:
                self.border = (t, Fraction(r))
            return
        fall = self.last[1] - r
        may = self.allowed(self.last[0], t, r)
        if self.follows(self.last, t, r) or (self.peak is not None and 0 < fall <= may):
            self.levels = []
            self.fastest = max(self.fastest, self.rate(self.last, t, r))
            self.accept(t, r, quality)
            return
        if not self.levels:
            self.since = t
        for level in self.levels:
            if self.agrees(level, t, r):
                level.rows.append((t, r, quality))
                self.levels = self.levels[: self.levels.index(level) + 1]
                break
        else:
            level = Level([(t, r, quality)], 0 < fall <= min(may, 0.01 * self.last[1]))
            self.levels = [*self.levels[:1], level]
        if len(level.rows) > 3 and t - level.rows[0][0] >= 30_000_000_000:
            self.levels = []
            self.answer(level)

    def answer(self, level: Level) -> None:
        rows = level.rows
        if level.backward and self.undone(*rows[0][:2]) is None:
            self.peak = Fraction(self.last[1]) + self.offset
        else:
            self.turn(rows)
            rows = rows[1:]
        for t, r, quality in rows:
            self.judge(t, r, quality)

    def undone(self, t: int, r: float) -> float | None:
        """The reading before the last reset, an hour ago at most, if one goes on from it.

        It is on the scale of that one, which may have rolled over.
        """
        if self.reset is None or t - self.reset[0] > 3600_000_000_000:
            return None
        before = float(Fraction(self.last[1]) + self.offset - self.reset[1])
        for level in (before, before - self.modulus):
            if self.follows((self.reset[0], level), t, r):
                return level
        return None

    def believes(self, rows: list[Row]) -> bool:
        """Whether a level is a load that began, of a counter without a rated power."""
        old, first = self.last[1], rows[0][:2]
        rate = self.rate(self.last, *first)
        if self.rate(first, *rows[-1][:2]) >= rate / 10:
            return True
        if first[1] - old <= abs(old) / 100:
            return True
        if first[1] - old > old:
            return False
        before, self.refused = self.refused, rate
        return rate <= 10 * before

    def rolled_over(self, rows: list[Row]) -> bool:
        (t0, r0), (t, new, _), m = self.last, rows[0], self.modulus
        wrapped = m - r0 + new
        if m == inf or new >= r0 or new < 0 or wrapped < 0:
            return False
        if self.signal.max_rate is not None:
            return wrapped <= self.allowed(self.changed if self.coarse else t0, t, new)
        seconds = (t - t0) / 1e9 + self.period
        if wrapped <= 3 * self.fastest * seconds:
            return True
        if r0 < 0.9 * m or new > (1 - 0.9) * m:
            return False
        went_on = self.rate((t, new), *rows[-1][:2])
        return (
            wrapped <= 0.01 * m
            or went_on >= wrapped / seconds / 10
            or wrapped <= self.allowed(t0, t, new)
        )

    def turn(self, rows: list[Row]) -> None:
        t, new, quality = rows[0]
        t0, r0 = self.last
        if (level := self.undone(t, new)) is not None:
            if new < r0:
                self.refused = 0.0
            self.offset += Fraction(r0) - Fraction(level)
            self.last, self.reset = (t0, level), None
            self.accept(t, new, max(quality, ESTIMATED))
            return
        if self.signal.max_rate is None and new > r0 and self.believes(rows):
            self.fastest = max(self.fastest, self.rate(self.last, t, new))
            self.accept(t, new, quality)
            return
        if self.coarse and r0 < new <= r0 + self.allowed(self.changed, t, new):
            self.accept(t, new, quality)
            return
        if self.rolled_over(rows):
            self.offset += Fraction(self.modulus)
            self.last, self.reset = (t0, r0 - self.modulus), None
            self.accept(t, new, max(quality, ROLLOVER))
            return
        if new < r0:
            self.refused = 0.0
        self.reset = (t0, self.offset)
        self.offset += Fraction(r0) - Fraction(new)
        self.last = (t0, new)
        self.accept(t, new, max(quality, RESET))

    def accept(self, t: int, r: float, quality: int) -> None:
        t0, r0 = self.last
        if self.peak is not None:
            quality = max(quality, UNCERTAIN)
            if Fraction(r) + self.offset >= self.peak:
                self.peak = None
        if r > r0:
            self.changed = t
        self.links.append(Link(t0, r0, t, r, self.offset, quality))
        self.last = (t, r)

    def cells(self, name: str, start: int) -> dict[str, Cell]:
        """The columns of the slot that begins at ``start``, with the readings taken so far."""
        end = start + MINUTE
        covered = estimated = quality = 0
        reading: float | None = None
        increment: float | None = None
        at_end: Fraction | None = None
        self.links = [link for link in self.links if link.t1 > start - 1]
        for t, r, q in self.firsts:
            quality = max(quality, q) if start <= t < end else quality
            reading = r if t == end else reading
        for link in self.links:
            inside = min(link.t1, end) - max(link.t0, start)
            if inside > 0:
                if link.t1 - link.t0 <= round(3 * self.period * 1e9):
                    covered += inside
                else:
                    estimated += inside
            if inside > 0 or start <= link.t0 == link.t1 < end:
                quality = max(quality, link.quality)
            if link.t0 < end <= link.t1:
                share = float(end - link.t0) / float(link.t1 - link.t0)
                r = link.r0 + (link.r1 - link.r0) * share
                r = round(r / self.grid) * self.grid
                at_end = Fraction(r) + link.offset
                reading = r + self.modulus if r < 0 and self.modulus < inf else r
        if at_end is not None:
            if self.border is not None:
                if self.border[0] != start:
                    quality = max(quality, ESTIMATED)
                highest = max(self.border[1], at_end)
                increment = float(highest - self.border[1])
                at_end = highest
            self.border = (end, at_end)
        if estimated:
            quality = max(quality, ESTIMATED)
        return {
            f"{name}.increment": (increment, quality if increment is not None else MISSING),
            f"{name}.reading": (reading, quality if reading is not None else MISSING),
            f"{name}.coverage": (covered / MINUTE, GOOD),
            f"{name}.estimated": (estimated / MINUTE, GOOD),
        }


# slots ------------------------------------------------------------------------------------------


def holding(
    rows: Sequence[Row], period: float, start: int, end: int
) -> list[tuple[float, int, int, int]]:
    """(value, quality, ns it holds in the slot, its time) of the usable rows of a slot."""
    found = []
    for i, (t, value, quality) in enumerate(rows):
        following = rows[i + 1][0] if i + 1 < len(rows) else inf
        until = min(following, t + round(3 * period * 1e9))
        inside = int(min(until, end) - max(t, start))
        if usable(value, quality) and (inside > 0 or start <= t < end):
            found.append((value, quality, max(inside, 0), t))
    return found


def graded(quality: int, share: float, limits: tuple[float, float] = LIMITS) -> int:
    if share < limits[1] and quality < BAD:
        return MISSING
    return max(quality, UNCERTAIN) if share < limits[0] else quality


def gauge_cells(name: str, rows: Sequence[Row], period: float, start: int) -> dict[str, Cell]:
    found = holding(rows, period, start, start + MINUTE)
    covered = sum(ns for _, _, ns, _ in found)
    share = covered / MINUTE
    quality = graded(max((q for _, q, _, _ in found), default=0), share)
    values: list[float | None] = [None, None, None]
    if quality < BAD:
        total = 0.0
        for value, _, ns, _ in found:
            total += value * (ns / 1e9)
        seen = [value for value, _, _, _ in found]
        values = [total / (covered / 1e9), min(seen), max(seen)]
    columns = zip(("mean", "min", "max"), values, strict=True)
    return {f"{name}.{c}": (v, quality) for c, v in columns} | {f"{name}.coverage": (share, GOOD)}


def state_cells(
    name: str, rows: Sequence[Row], near: Sequence[Row], period: float, start: int
) -> dict[str, Cell]:
    found = holding(near, period, start, start + MINUTE)
    share = sum(ns for _, _, ns, _ in found) / MINUTE
    worst = max((q for _, q, _, _ in found), default=0)
    quality = graded(worst, share)
    i = bisect_left(rows, start, key=itemgetter(0))
    before = next((v for _, v, q in reversed(rows[:i]) if usable(v, q)), None)
    changes = 0
    for t, value, q in rows[i:]:
        if t >= start + MINUTE:
            break
        if usable(value, q):
            changes += before is not None and value != before
            before = value
    last: Cell = (found[-1][0], worst) if found else (None, MISSING)
    counted: Cell = (float(changes), quality) if quality < BAD else (None, quality)
    return {f"{name}.last": last, f"{name}.changes": counted, f"{name}.coverage": (share, GOOD)}


def slots(stream: Stream) -> Result:
    """Slot rows of a stream: those that its rows close."""
    hold = round((max(3 * stream.period, 30.0) + stream.period) * 1e9)
    kinds = stream.signals
    counters = {n: CounterOracle(s, stream.period) for n, s in kinds.items() if s.kind == "counter"}
    result: Result = {}
    first: int | None = None
    before = 0

    def near(name: str, start: int) -> Sequence[Row]:
        """The rows that can matter for a slot, not all of a long run."""
        rows = stream.rows[name]
        low = bisect_left(rows, start - round(3 * stream.period * 1e9), key=itemgetter(0))
        high = bisect_left(rows, start + MINUTE, key=itemgetter(0))
        return rows[max(low - 1, 0) : high + 1]

    def close(slot: int) -> None:
        start = slot * MINUTE
        cells: dict[str, Cell] = {}
        for name, signal in kinds.items():
            if signal.kind == "counter":
                cells |= counters[name].cells(name, start)
            elif signal.kind == "gauge":
                cells |= gauge_cells(name, near(name, start), stream.period, start)
            else:
                cells |= state_cells(
                    name, stream.rows[name], near(name, start), stream.period, start
                )
        result[start + MINUTE] = cells

    for t, row in stream.at():
        slot = t // MINUTE
        if first is None:
            first = slot
        if slot - before // MINUTE > LONGEST_GAP and before:
            while first <= before // MINUTE:
                close(first)
                first += 1
            first = slot
        before = t
        for name, counter in counters.items():
            counter.read(t, *row[name])
        while first < slot:
            end = (first + 1) * MINUTE
            known = all(c.last is not None and c.last[0] >= end for c in counters.values())
            asked = any(c.levels and t < c.since + hold for c in counters.values())
            waited = t - end >= (86_400_000_000_000 if asked else hold)
            if not known and not waited:
                break
            close(first)
            first += 1
    return result


# integrals --------------------------------------------------------------------------------------


def integrals(stream: Stream, name: str, per: float) -> dict[int, tuple[float, int, int]]:
    """Amount, quality and covered ns of a rate, by the end of the slot; slots without any are not.

    per  seconds that a rate of one takes for an amount of one
    """
    rows = [(t, v, q) for t, v, q in stream.rows[name] if usable(v, q)]
    found: dict[int, tuple[float, int, int]] = {}
    for (t0, v0, q0), (t1, v1, q1) in pairwise(rows):
        if not 0 < t1 - t0 <= round(3 * stream.period * 1e9):
            continue
        start = t0
        while start < t1:
            end = (start // MINUTE + 1) * MINUTE
            stop = min(t1, end)
            first, last = (v0 + (v1 - v0) * ((t - t0) / (t1 - t0)) for t in (start, stop))
            area = (first + last) / 2 * ((stop - start) / 1e9) / per
            total, worst, covered = found.get(end, (0.0, 0, 0))
            found[end] = (total + area, max(worst, q0, q1), covered + stop - start)
            start = stop
    return {
        end: (total, max(worst, UNCERTAIN) if covered < LIMITS[0] * MINUTE else worst, covered)
        for end, (total, worst, covered) in found.items()
    }


# KPIs -------------------------------------------------------------------------------------------


@dataclass
class Part:
    """The additive numbers of one minute, or of several."""

    total: dict[str, Fraction | float]
    known: dict[str, int]
    worst: dict[str, int]
    covered: int
    estimated: int
    minutes: int = 1

    def share(self) -> float:
        return (self.covered + self.estimated) / (self.minutes * MINUTE)


def merged(parts: Sequence[Part], minutes: int, peaks: Container[str] = ()) -> Part:
    """The sums of parts; of peaks, the largest that is known."""
    first = parts[0]

    def worst(part: Part, name: str) -> int:
        """A minute that is uncertain for its coverage does not make the hour so."""
        if len(parts) == 1:
            return part.worst[name]
        if not any(p.known[name] for p in parts):
            return part.worst[name]  # why it is not known
        thin = part.share() < LIMITS[0] and part.worst[name] == UNCERTAIN
        return 0 if thin or not part.known[name] else part.worst[name]

    total = {name: first.total[name] for name in first.total}
    for part in parts[1:]:
        for name in total:
            total[name] += part.total[name]
    for name in total:
        if name in peaks:
            total[name] = max((p.total[name] for p in parts if p.known[name]), default=0.0)
    return Part(
        total,
        {name: sum(p.known[name] for p in parts) for name in total},
        {name: max(worst(p, name) for p in parts) for name in total},
        sum(p.covered for p in parts),
        sum(p.estimated for p in parts),
        minutes,
    )


def summed_quality(part: Part, name: str) -> int:
    if not part.known[name]:
        return max(part.worst[name], MISSING) if part.worst[name] < BAD else part.worst[name]
    partly = part.known[name] < part.minutes or part.share() < LIMITS[0]
    return max(part.worst[name], UNCERTAIN if partly else GOOD)


def shares(part: Part) -> dict[str, Cell]:
    length = part.minutes * MINUTE
    return {"coverage": (part.covered / length, GOOD), "estimated": (part.estimated / length, GOOD)}


def bare(cell: Cell) -> Cell:
    return (None, cell[1]) if cell[1] >= BAD else cell


def quotient(over: float, under: float, quality: int) -> Cell:
    if under == 0:
        return None, quality if quality >= BAD else NOT_AVAILABLE
    return over / under, quality


def find(streams: Sequence[tuple[str, Stream]], tag: str) -> Stream:
    """The stream of a tag ``device.name``; streams by device."""
    device, _, name = tag.partition(".")
    return next(s for d, s in streams if d == device and name in s.signals)


def of_spans(
    parts: Mapping[int, Part],
    spans: Sequence[Span] | None,
    derive: Callable[[Part], dict[str, Cell]],
    peaks: Container[str] = (),
) -> Result:
    result: Result = {}
    for start, end in spans or [(e - MINUTE, e) for e in parts]:
        inside = [part for e, part in parts.items() if start < e <= end]
        if inside:
            part = merged(inside, (end - start) // MINUTE, peaks)
            result[end] = {name: bare(cell) for name, cell in derive(part).items()} | shares(part)
    return result


class Joined:
    """Slot rows by tag, each stream's computed once, and the ends that all inputs have."""

    def __init__(self, streams: Sequence[tuple[str, Stream]]) -> None:
        self.streams = streams
        self.rows: dict[int, Result] = {}
        self.used: list[tuple[int, int]] = []

    def increments(self, tag: str) -> dict[int, tuple[Cell, int, int]]:
        stream = find(self.streams, tag)
        if id(stream) not in self.rows:
            self.rows[id(stream)] = slots(stream)
        name = tag.partition(".")[2]
        found = {}
        for end, cells in self.rows[id(stream)].items():
            covered, estimated = (
                round(cells[f"{name}.{c}"][0] * MINUTE) for c in ("coverage", "estimated")
            )
            found[end] = (cells[f"{name}.increment"], covered, estimated)
        self.used.append((min(found, default=0), max(found, default=0)))
        return found

    def readings(self, tag: str) -> Sequence[Row]:
        rows = find(self.streams, tag).rows[tag.partition(".")[2]]
        self.used.append((rows[0][0] // MINUTE * MINUTE + MINUTE, rows[-1][0] // MINUTE * MINUTE))
        return rows

    def ends(self) -> range:
        return range(min(f for f, _ in self.used), min(x for _, x in self.used) + 1, MINUTE)


ABSENT = ((None, MISSING), 0, 0)
