"""Availability, effectiveness, quality ratio and OEE of a machine (ISO 22400-2).

``A = APT / PBT``, ``E = ideal_cycle · PQ / APT``, ``QR = GQ / PQ``, ``OEE = A · E · QR``. PBT is
the time of all states but planned stops; APT producing, AUST setup, ADET fault, ADOT idle. E above
1 means that the ideal cycle is too slow. Times are whole nanoseconds; a state holds until the next
row, but not longer than three periods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edge_agent.metrics.base import (
    MINUTE,
    SILENCE,
    Metric,
    MetricConfig,
    Plant,
    QualityLimits,
    Reference,
    usable,
)
from edge_agent.metrics.join import Counter, Inputs, Reading, Rows, SlotFormula
from edge_agent.metrics.rollup import SHARES, Sums, graded, merged, ratio
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Duration, Unit

Activity = Literal["producing", "idle", "fault", "setup", "planned_stop"]
_TIMES: dict[str, Activity] = {
    "apt_s": "producing",
    "aust_s": "setup",
    "adet_s": "fault",
    "adot_s": "idle",
}
_COLUMNS = ("apt_s", "pbt_s", "aust_s", "adet_s", "adot_s", "produced", "good")


def time_in(
    state: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]", time: I64, silence: int, border: I64
) -> I64:
    """Return the ns before each border in which a state held, counted from the first row.

    state (m,) whether the row is in the state; silence: ns that a row holds at most
    """
    if not len(time):
        return np.zeros(len(border), np.int64)
    spans = np.minimum(np.diff(time), silence)
    before = np.concatenate([[0], np.cumsum(spans * state[:-1])])
    at = np.searchsorted(time, border, "right") - 1
    row = np.maximum(at, 0)
    held = np.minimum(border - time[row], silence) * state[row]
    return np.where(at < 0, 0, before[row] + held)


@dataclass(frozen=True)
class Oee(SlotFormula):
    """The formula: times and counts are additive, ratios are derived from them."""

    state: Reading
    states: Mapping[Activity, tuple[int, ...]]
    produced: Counter
    rejected: Counter | None
    ideal_cycle: float
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.OEE

    @property
    def tags(self) -> tuple[Tag, ...]:
        second, one, piece = Unit.parse("s"), Unit.parse("1"), self.produced.unit
        times = tuple(Tag(name, second) for name in _COLUMNS[:5])
        ratios = ("availability", "effectiveness", "quality_ratio", "oee")
        counts = (Tag("produced", piece), Tag("good", piece))
        return (*times, *counts, *(Tag(name, one) for name in ratios), *SHARES)

    @property
    def additive(self) -> tuple[str, ...]:
        return _COLUMNS

    @property
    def scale(self) -> F64:
        return np.array([1e9] * 5 + [1.0] * 2)  # times are summed in whole ns

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        sums = Sums.zeros(len(_COLUMNS), len(ends))
        covered, worst = self._times(ends, rows, sums)
        produced, quality, full, estimated = self.produced.read(ends, rows)
        sums.set(5, produced, quality)
        covered = np.minimum(covered, full)
        if self.rejected is not None:
            rejected, mark, full, guessed = self.rejected.read(ends, rows)
            produced, quality = produced - rejected, np.maximum(quality, mark)
            covered, estimated = np.minimum(covered, full), np.maximum(estimated, guessed)
        sums.set(6, produced, quality)
        sums.covered, sums.estimated = covered, np.minimum(estimated, sums.length - covered)
        sums.worst[:5] = np.where(sums.known[:5] > 0, worst, Quality.BAD_MISSING)
        return sums

    def _times(self, ends: I64, rows: Mapping[str, Rows], sums: Sums) -> tuple[I64, U8]:
        """Set the times; return the covered ns and the worst quality of the states."""
        time, value, quality = self.state.read(rows)
        silence = round(SILENCE * self.state.period * 1e9)
        good = usable(value, quality)

        def spent(*activities: Activity) -> I64:
            numbers = [n for activity in activities for n in self.states.get(activity, ())]
            state = good & np.isin(value, numbers)
            upper = time_in(state, time, silence, ends)
            return upper - time_in(state, time, silence, ends - sums.length)

        busy = spent("producing", "setup", "fault", "idle")
        covered = busy + spent("planned_stop")
        unknown = np.where(covered == 0, Quality.BAD_MISSING, Quality.GOOD).astype(np.uint8)
        for column, name in enumerate(_COLUMNS[:5]):
            spans = busy if name == "pbt_s" else spent(_TIMES[name])
            sums.set(column, spans.astype(np.float64), unknown)
        return covered, self._worst(ends, time, good, quality, silence)

    @staticmethod
    def _worst(
        ends: I64,
        time: I64,
        good: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]",
        quality: U8,
        silence: int,
    ) -> U8:
        """Return the worst quality of the usable rows that hold in each slot."""
        worst = np.zeros(len(ends), np.uint8)
        doubtful = np.flatnonzero(good & (quality > 0))
        last = np.append(time[1:], np.iinfo(np.int64).max)
        for i in doubtful.tolist():
            until = min(int(last[i]), int(time[i]) + silence)
            inside = (ends > time[i]) & (ends - MINUTE < max(until, int(time[i]) + 1))
            worst[inside] = np.maximum(worst[inside], quality[i])
        return worst

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = merged(sums, self.limits)
        total, share = sums.total, sums.share()
        apt, pbt, produced, good = total[0] / 1e9, total[1] / 1e9, total[5], total[6]
        availability, a = ratio(apt, pbt, graded(quality[0], share, self.limits))
        effectiveness, e = ratio(
            self.ideal_cycle * produced,
            apt,
            graded(np.maximum(quality[0], quality[5]), share, self.limits),
        )
        quality_ratio, r = ratio(
            good, produced, graded(np.maximum(quality[5], quality[6]), share, self.limits)
        )
        oee = availability * effectiveness * quality_ratio
        value = np.vstack(
            [total[:5] / 1e9, total[5:], [availability, effectiveness, quality_ratio, oee]]
        )
        return value, np.vstack([quality, [a, e, r, np.maximum(np.maximum(a, e), r)]])


@dataclass(frozen=True, kw_only=True)
class OeeConfig(MetricConfig):
    """OEE of a machine from its state and its counters.

    states       which numbers of the state mean what; a number in none of the lists is not covered
    ideal_cycle  the shortest time that one piece takes
    """

    kind: ClassVar[str] = "oee"

    state: str
    states: Mapping[Activity, tuple[int, ...]]
    produced: str
    rejected: str | None = None
    ideal_cycle: Duration

    def references(self) -> list[Reference]:
        found = [Reference(("state",), self.state, Kind.STATE)]
        found.append(Reference(("produced",), self.produced, Kind.COUNTER))
        if self.rejected is not None:
            found.append(Reference(("rejected",), self.rejected, Kind.COUNTER))
        return found

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self.states.get("producing"):
            found.append((("states",), "needs at least one number for producing"))
        seen: dict[int, str] = {}
        for activity, numbers in self.states.items():
            for i, number in enumerate(numbers):
                if number in seen:
                    message = f"{number} is {seen[number]} already: a state has one meaning"
                    found.append((("states", activity, i), message))
                seen.setdefault(number, activity)
        if self.ideal_cycle <= 0:
            found.append((("ideal_cycle",), "must be longer than 0 s"))
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        formula = Oee(
            inputs.raw(self.state),
            self.states,
            inputs.increment(self.produced),
            None if self.rejected is None else inputs.increment(self.rejected),
            float(self.ideal_cycle),
            plant.quality,
        )
        return inputs.metrics(name, formula, self.windows)
