"""Times, ratios and losses of a machine: OEE after ISO 22400-2.

``A = APT / PBT``, ``E = PRI · PQ / APT``, ``QR = GQ / PQ``, ``OEE = A · E · QR = PRI · GQ / PBT``.
Producing is APT, setup AUST; fault, delay, blocked, starved and every micro-stop are ADET; idle is
ADOT; together they are PBT. Planned stops and maintenance are planned time outside of it; the rest
is not planned. E above 1 means that the ideal cycle is too slow; it is shown as it is. Times are
whole nanoseconds; a state holds until the next row, but not longer than three periods.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import ClassVar, Literal, cast

import numpy as np

from edge_agent.metrics.base import (
    BAD,
    MISSING,
    SILENCE,
    UNCERTAIN,
    Metric,
    MetricConfig,
    Plant,
    QualityLimits,
    Reference,
)
from edge_agent.metrics.formula import SHARES, Sums, stacked
from edge_agent.metrics.join import Counter, Inputs, Reading, Rows, SlotFormula
from edge_agent.metrics.losses import (
    RATIOS,
    TIMES,
    Cells,
    Practice,
    between_failures,
    not_covered,
    practice_cells,
    practice_tags,
    quotient_cells,
    ratios,
    seconds,
    shares,
    summed,
    waterfall,
)
from edge_agent.metrics.machine_time import (
    ACTIVITIES,
    FAULT,
    IDLE,
    MAINTENANCE,
    MICRO,
    OFF,
    PACKML,
    PLANNED_STOP,
    PRODUCING,
    SETUP,
    Activity,
    States,
    activities,
    appears,
    counted,
    spent,
    worst,
)
from edge_agent.metrics.state_feed import StateFeed, StateRows, Watch
from edge_agent.metrics.windows import Calendar
from edge_agent.model import F64, I64, U8, Family, Kind, Tag
from edge_agent.units import Duration, Unit

__all__ = ["Activity", "Oee", "OeeConfig"]
_DELAYS: tuple[Activity, ...] = ("delay", "blocked", "starved")


@dataclass(frozen=True)
class Machine:
    """Where the rows of a machine's state stand, and what of it is told.

    delays    those activities of ``_DELAYS`` that its state knows
    reasons   names of the configured reasons
    planned   the calendar of planned time; None: all time is planned
    """

    stream: str
    delays: tuple[Activity, ...]
    reasons: tuple[str, ...] = ()
    planned: Calendar | None = None

    def within(self, ends: I64) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Return which of the minutes with these ends lie in planned time."""
        found = np.ones(len(ends), bool)
        if self.planned is None:
            return found
        i, starts = 0, ends - 1
        while i < len(ends):
            span = self.planned.window("shift", int(starts[i]))
            j = i + 1 if span is None else int(np.searchsorted(starts, span[1]))
            found[i:j] = span is not None
            i = j
        return found


@dataclass(frozen=True)
class Pieces:
    """The counters of a machine."""

    produced: Counter
    rejected: Counter | None = None
    scrap: Counter | None = None
    rework: Counter | None = None


@dataclass(frozen=True)
class Oee(SlotFormula):
    """The formula: times and counts are additive, ratios are derived from them."""

    machine: Machine
    pieces: Pieces
    ideal_cycle: float
    practice: Practice
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.OEE

    @cached_property
    def _times(self) -> tuple[str, ...]:
        """The additive columns of time, in ns while they are added up."""
        delays = tuple(f"{activity}_s" for activity in self.machine.delays)
        micro = ("micro_stop_s",) if self.practice.micro_stop else ()
        overtime = ("overtime_s",) if self.machine.planned else ()
        reasons = tuple(f"reason_{name}_s" for name in self._reasons)
        return (
            *TIMES, "unknown_s", "fault_s", *delays, *micro, "planned_stop_s", "outside_s",
            *overtime, *reasons,
        )  # fmt: skip

    @cached_property
    def _reasons(self) -> tuple[str, ...]:
        return (*self.machine.reasons, "other") if self.machine.reasons else ()

    @cached_property
    def _events(self) -> tuple[str, ...]:
        micro = ("micro_stops",) if self.practice.micro_stop else ()
        return ("stops", *micro, "failures", *(f"reason_{n}_n" for n in self.machine.reasons))

    @cached_property
    def _counts(self) -> tuple[str, ...]:
        given = {"scrap": self.pieces.scrap, "rework": self.pieces.rework}
        extra = tuple(name for name, counter in given.items() if counter is not None)
        return ("produced", "good", *extra, *(("overtime_n",) if self.machine.planned else ()))

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return (*self._times, *self._events, *self._counts)

    @cached_property
    def scale(self) -> F64:
        whole = len(self._events) + len(self._counts)
        return np.array([1e9] * len(self._times) + [1.0] * whole)  # times are summed in whole ns

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        piece = self.pieces.produced.unit
        counts = {name: Tag(name, piece) for name in self._counts}
        parts = tuple(name for name in self._times if name not in TIMES)
        of_pieces = tuple(f"{name}_ratio" for name in ("scrap", "rework") if name in counts)
        per_hour = Unit.parse("h-1" if piece.code == "1" else f"{piece.code}/h")
        return (
            *seconds(*TIMES), counts.pop("produced"), counts.pop("good"),
            *shares(*RATIOS, *of_pieces), Tag("throughput_rate", per_hour),
            *seconds("mtbf_s", "mttr_s", "good_time_s", "quality_loss_s", "speed_loss_s"),
            *seconds(*parts, "not_covered_s"), *shares(*self._events), *counts.values(),
            *practice_tags(), *SHARES,
        )  # fmt: skip

    # base slots ----------------------------------------------------------------------------------

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        sums = Sums.zeros(len(self.additive), len(ends))
        planned = self.machine.within(ends)
        values, covered, marks = self._machine(ends, rows, planned)
        unknown = np.where(covered == 0, MISSING, marks).astype(np.uint8)
        cells = {name: (value, unknown) for name, value in values.items()}
        if self._reasons:
            guessed = self._guessed(ends, cast("StateRows", rows[self.machine.stream]), unknown)
            reasons = [name for name in cells if name.startswith("reason_")]
            cells |= {name: (values[name], guessed) for name in reasons}
        pieces, full, estimated = self._pieces(ends, rows)
        for name, (value, quality) in pieces.items():
            cells[name] = np.where(planned, value, 0.0), quality
        value, quality = pieces["produced"]
        cells["overtime_n"] = np.where(planned, 0.0, value), quality
        blind = cells["produced"][1] >= BAD
        cells["unknown_s"] = np.where(blind, values["apt_s"], 0), unknown
        value, quality = (
            np.array(part) for part in zip(*(cells[n] for n in self.additive), strict=True)
        )
        good = quality < BAD
        sums.total, sums.known = np.where(good, value, 0.0), good.astype(np.int64)
        sums.worst = quality
        sums.covered = np.minimum(covered, full)
        sums.estimated = np.minimum(estimated, sums.length - sums.covered)
        return sums

    @staticmethod
    def _guessed(ends: I64, given: StateRows, quality: U8) -> U8:
        """Return the quality of reasons: time whose reason could not be read is among others."""
        lost = given.unexplained
        if not len(lost) or lost.max() < 0:
            return quality
        spans = spent(given.trace, lost, 1, ends)[0]
        return np.maximum(quality, np.where(spans > 0, UNCERTAIN, 0)).astype(np.uint8)

    def _machine(
        self,
        ends: I64,
        rows: Mapping[str, Rows],
        planned: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    ) -> tuple[dict[str, I64], I64, U8]:
        """Return times and events by column, the covered ns, and the worst quality of the state."""
        given = cast("StateRows", rows[self.machine.stream])
        found, judged, reason = given.trace, given.stops, given.reason
        category = np.where(judged.short, MICRO, found.activity)
        every = spent(found, category, MICRO + 1, ends)
        time = every * planned
        if self.machine.planned is not None:  # in a shift the machine is meant to run
            time[IDLE] += time[OFF]
            time[OFF] = 0
        values = {
            "apt_s": time[PRODUCING],
            "pbt_s": time[PRODUCING : IDLE + 1].sum(axis=0) + time[MICRO],
            "aust_s": time[SETUP],
            "adet_s": time[FAULT:IDLE].sum(axis=0) + time[MICRO],
            "adot_s": time[IDLE],
            "fault_s": time[FAULT],
            "micro_stop_s": time[MICRO],
            "planned_stop_s": time[PLANNED_STOP] + time[MAINTENANCE],
            "outside_s": (every * ~planned).sum(axis=0) + time[OFF],
            "overtime_s": every[PRODUCING] * ~planned,
        }
        values |= {f"{name}_s": time[ACTIVITIES.index(name)] for name in self.machine.delays}
        events = {
            "stops": judged.begins,
            "micro_stops": judged.begins & judged.short,
            "failures": judged.fails & ~judged.short,
        }
        if self._reasons:
            spans = spent(found, reason, len(self._reasons), ends) * planned
            values |= {f"reason_{n}_s": s for n, s in zip(self._reasons, spans, strict=True)}
            new = appears(found, given.last, reason)
            for i, name in enumerate(self.machine.reasons):
                events[f"reason_{name}_n"] = new & (reason == i)
        counts = counted(found.time, np.array([*events.values()]), ends) * planned
        values |= dict(zip(events, counts, strict=True))
        return values, every.sum(axis=0), worst(found, ends)

    def _pieces(self, ends: I64, rows: Mapping[str, Rows]) -> tuple[Cells, I64, I64]:
        """Return the pieces by column, and the covered and estimated ns of their counters."""
        given = {
            name: counter.read(ends, rows)
            for name in ("produced", "rejected", "scrap", "rework")
            if (counter := getattr(self.pieces, name)) is not None
        }
        cells: Cells = {name: (value, quality) for name, (value, quality, _, _) in given.items()}
        full = np.minimum.reduce([spans for _, _, spans, _ in given.values()])
        estimated = np.maximum.reduce([spans for _, _, _, spans in given.values()])
        bad = ("rejected",) if "rejected" in given else ("scrap", "rework")
        good, quality = cells["produced"]
        for name in bad:
            if name in cells:
                good = good - cells[name][0]
                quality = np.maximum(quality, cells[name][1])
        cells["good"] = good, quality
        cells.pop("rejected", None)
        return cells, full, estimated

    # any window ----------------------------------------------------------------------------------

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        cells = summed(self.additive, sums, self.scale, self.limits)
        (produced, p), (good, _) = cells["produced"], cells["good"]
        ideal, ideal_good = self.ideal_cycle * produced, self.ideal_cycle * good
        (apt, a), (aust, _), (adet, _) = (cells[name] for name in ("apt_s", "aust_s", "adet_s"))
        found = ratios(cells, ideal, ideal_good, self.practice)
        found |= between_failures(cells, self.practice)
        found["throughput_rate"] = produced * 3600.0, apt + aust + adet, np.maximum(a, p)
        for name in ("scrap", "rework"):
            if name in cells:
                value, quality = cells[name]
                found[f"{name}_ratio"] = value, produced, np.maximum(quality, p)
        cells |= quotient_cells(found, sums, self.limits)
        cells |= waterfall(cells, ideal, ideal_good) | not_covered(cells, sums)
        cells |= practice_cells(self.practice, len(produced))
        wanted = [cells[tag.name] for tag in self.tags[:-2]]
        return stacked([value for value, _ in wanted]), stacked([mark for _, mark in wanted])


@dataclass(frozen=True, kw_only=True)
class OeeConfig(MetricConfig):
    """OEE of a machine from its state and its counters.

    states       which numbers of the state mean what; a number in none of the lists is not covered
    ideal_cycle  the shortest time that one piece takes
    rejected     pieces that are not good; without it those of ``scrap`` and ``rework`` are
    micro_stop   a shorter stop is a micro-stop; None: no stop is
    scheme       where micro-stops count: as delay (ISO 22400-2), or as performance loss (TPM)
    planned      always, or in shifts only
    reasons      names for numbers or texts of the tag ``reason``: how long, how often in stops
    """

    kind: ClassVar[str] = "oee"

    state: str
    states: Literal["packml"] | Mapping[Activity, tuple[int, ...]]
    produced: str
    rejected: str | None = None
    scrap: str | None = None
    rework: str | None = None
    ideal_cycle: Duration
    micro_stop: Duration | None = None
    scheme: Literal["iso22400", "tpm"] = "iso22400"
    plus_one: bool = True
    planned: Literal["always", "shifts"] = "always"
    reason: str | None = None
    reasons: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)

    def references(self) -> list[Reference]:
        kinds: dict[str, Kind | None] = {"state": Kind.STATE, "reason": None}
        kinds |= dict.fromkeys(("produced", "rejected", "scrap", "rework"), Kind.COUNTER)
        return [
            Reference((name,), tag, kind)
            for name, kind in kinds.items()
            if (tag := getattr(self, name)) is not None
        ]

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self._states.get("producing"):
            found.append((("states",), "needs at least one number for producing"))
        if self.states != "packml":
            found += _twice("states", self.states, "a state has one meaning")
        found += _twice("reasons", self.reasons, "a number is one reason")
        if self.ideal_cycle <= 0:
            found.append((("ideal_cycle",), "must be longer than 0 s"))
        if self.micro_stop is not None and self.micro_stop <= 0:
            found.append((("micro_stop",), "must be longer than 0 s"))
        if self.scheme == "tpm" and self.micro_stop is None:
            found.append((("scheme",), "needs micro_stop: it says where micro-stops count"))
        if bool(self.reasons) != (self.reason is not None):
            found.append((("reasons",), "reason and reasons belong together: write both"))
        if "other" in self.reasons:
            found.append((("reasons", "other"), "other is the name of all other reasons"))
        return found

    @property
    def _states(self) -> States:
        return PACKML if self.states == "packml" else self.states

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        others = (
            None if tag is None else inputs.increment(tag)
            for tag in (self.rejected, self.scrap, self.rework)
        )
        pieces = Pieces(inputs.increment(self.produced), *others)
        machine = self._machine(inputs)
        micro_stop = 0.0 if self.micro_stop is None else float(self.micro_stop)
        practice = Practice(self.scheme == "tpm", micro_stop, self.plus_one)
        formula = Oee(machine, pieces, float(self.ideal_cycle), practice, plant.quality)
        return inputs.metrics(name, formula, self.windows)

    def _machine(self, inputs: Inputs) -> Machine:
        plant, state = inputs.plant, inputs.raw(self.state)
        if self.planned == "shifts" and not plant.shifts:
            raise ValueError("planned: shifts needs shifts.calendar")
        threshold = 0 if self.micro_stop is None else self.micro_stop.ns
        names = list(self.reasons)
        watch = Watch(
            state.name,
            activities(self._states),
            round(SILENCE * state.period * 1e9),
            threshold,
            None if self.reason is None else self._reason(self.reason, state, inputs),
            {n: names.index(key) for key, numbers in self.reasons.items() for n in numbers},
            len(names),
        )
        inputs.own_feed(state.stream, partial(StateFeed, watch=watch), threshold)
        calendar = Calendar(plant.site.zone, plant.shifts) if self.planned == "shifts" else None
        known = tuple(a for a in _DELAYS if self._states.get(a))
        return Machine(state.stream, known, tuple(names), calendar)

    def _reason(self, tag: str, state: Reading, inputs: Inputs) -> str:
        """Return the reason's column in the stream of the state."""
        given = inputs.raw(tag)
        if given.stream != state.stream:
            raise ValueError(
                f'"{tag}" must be read with "{self.state}": same device, poll and mode'
            )
        schema = inputs.plant.raw(tag)
        kind = schema.tags[schema.index[given.name]].kind
        if kind not in {Kind.STATE, Kind.TEXT}:
            raise ValueError(f'"{tag}" is a {kind.value}, must be a state or a text')
        for said in (said for given in self.reasons.values() for said in given):
            if isinstance(said, str) != (kind is Kind.TEXT):
                wanted = "texts" if kind is Kind.TEXT else "numbers"
                raise ValueError(f'"{tag}" is a {kind.value}: write {wanted} in reasons')
        return given.name


def _twice(
    key: str,
    meanings: Mapping[str, tuple[int | str, ...]] | Mapping[Activity, tuple[int, ...]],
    rule: str,
) -> list[tuple[tuple[str | int, ...], str]]:
    """Return the numbers that have two meanings."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    seen: dict[int | str, str] = {}
    for meaning, numbers in meanings.items():
        for i, number in enumerate(numbers):
            if number in seen:
                found.append(((key, meaning, i), f"{number} is {seen[number]} already: {rule}"))
            seen.setdefault(number, meaning)
    return found
