"""OEE of several machines that work side by side: sums of their times, never means of their OEE.

``OEE = Σ PRI·GQ / Σ PBT``; ``A = Σ APT / Σ PBT``, ``E = Σ PRI·PQ / Σ APT`` and ``QR = Σ PRI·GQ / Σ
PRI·PQ``, so that pieces of different machines count by the time that they take. It merges the
minutes of the machines; in one that a machine does not know, the others count, and the coverage,
which is the mean of theirs, says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from edge_agent.metrics.base import Metric, MetricConfig, Plant, QualityLimits, Reference
from edge_agent.metrics.formula import SHARES, Sums
from edge_agent.metrics.join import Inputs, Rows, SlotFormula
from edge_agent.metrics.losses import (
    RATIOS,
    TIMES,
    WATERFALL,
    Practice,
    between_failures,
    not_covered,
    quotient_cells,
    ratios,
    seconds,
    shares,
    summed,
)
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

_PIECES = ("produced", "good")
_PARTS = tuple(name for name in WATERFALL if name not in {*TIMES, "speed_loss_s"})
_ALL_HAVE = ("good_time_s", "quality_loss_s", "unknown_s", "fault_s")


@dataclass(frozen=True)
class OeeLine(SlotFormula):
    """The formula: what the machines' minutes have is added up.

    streams  of the machines' minutes
    parts    times that at least one machine tells; pieces: () if their units differ
    """

    streams: tuple[str, ...]
    parts: tuple[str, ...]
    pieces: tuple[Tag, ...]
    practice: Practice
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.OEE

    @cached_property
    def _times(self) -> tuple[str, ...]:
        return (*TIMES, *self.parts, "planned_stop_s", "outside_s")

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return (*self._times, "stops", "failures", *(tag.name for tag in self.pieces))

    @cached_property
    def scale(self) -> F64:
        return np.array([1e9 if name in self._times else 1.0 for name in self.additive])

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        parts = (*self.parts, "planned_stop_s", "outside_s")
        return (
            *seconds(*TIMES), *self.pieces, *shares(*RATIOS),
            *seconds("mtbf_s", "mttr_s", "speed_loss_s", *parts, "not_covered_s"),
            *shares("stops", "failures"), Tag("scheme", Unit.parse("1"), Kind.STATE), *SHARES,
        )  # fmt: skip

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        n = len(ends)
        sums = Sums.zeros(len(self.additive), n)
        known, worst = np.zeros(sums.total.shape, bool), np.zeros(sums.total.shape, np.uint8)
        missing = np.full(sums.total.shape, 0, np.uint8)
        for stream in self.streams:
            value, quality, spans = self._machine(rows[stream], ends)
            good = quality < Quality.BAD
            sums.total = sums.total + np.where(good, value, 0.0)
            known |= good
            worst = np.maximum(worst, np.where(good, quality, Quality.UNCERTAIN))
            missing = np.maximum(missing, quality)
            sums.covered, sums.estimated = sums.covered + spans[0], sums.estimated + spans[1]
        sums.known = known.astype(np.int64)
        sums.worst = np.where(known, worst, missing).astype(np.uint8)
        machines = len(self.streams)
        sums.covered, sums.estimated = sums.covered // machines, sums.estimated // machines
        return sums

    def _machine(self, given: Rows, ends: I64) -> tuple[F64, U8, I64]:
        """Return totals and quality (a, n) of a machine's minutes, covered and estimated ns."""
        told = np.array([given.index.get(name, -1) for name in self.additive])
        value, quality = (
            np.zeros((len(told), len(ends))),
            np.zeros((len(told), len(ends)), np.uint8),
        )
        found, there = given.at(ends)
        if not there.any():
            quality[:] = Quality.BAD_MISSING
            return value, quality, np.zeros((2, len(ends)), np.int64)
        own = told >= 0  # what a machine does not tell is 0
        columns = told[own]
        scale = self.scale[own, None]
        read = given.value[columns][:, found] * scale
        value[own] = np.where(scale != 1.0, np.rint(read), read)
        quality[own] = given.quality[columns][:, found]
        quality[:, ~there] = Quality.BAD_MISSING
        both = given.value[[given.index["coverage"], given.index["estimated"]]][:, found]
        return value, quality, np.where(there, np.rint(both * 60e9), 0.0).astype(np.int64)

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        cells = summed(self.additive, sums, self.scale, self.limits)
        (ideal_good, g), (lost, q) = cells["good_time_s"], cells["quality_loss_s"]
        ideal = ideal_good + lost
        (apt, a), (unknown, _) = cells["apt_s"], cells["unknown_s"]
        judged = cells | {"produced": (ideal, q), "good": (ideal_good, g)}
        found = ratios(judged, ideal, ideal_good, self.practice)
        found |= between_failures(cells, self.practice, len(self.streams))
        cells |= quotient_cells(found, sums, self.limits)
        cells["speed_loss_s"] = apt - unknown - ideal, np.maximum(a, q)
        cells |= not_covered(cells, sums, len(self.streams))
        said = np.full(len(apt), float(self.practice.tpm))
        cells["scheme"] = said, np.zeros(len(apt), np.uint8)
        wanted = [cells[tag.name] for tag in self.tags[:-2]]
        return np.array([value for value, _ in wanted]), np.array([mark for _, mark in wanted])


@dataclass(frozen=True, kw_only=True)
class OeeLineConfig(MetricConfig):
    """OEE of several machines, from their minutes.

    machines  metrics of type oee that have the window 1min
    scheme    where their micro-stops count: as delay (ISO 22400-2), or as performance loss (TPM)
    """

    kind: ClassVar[str] = "oee-line"

    machines: tuple[str, ...]
    scheme: Literal["iso22400", "tpm"] = "iso22400"
    plus_one: bool = True

    def references(self) -> list[Reference]:
        return [
            Reference(("machines", i), f"{machine}.good_time_s", Kind.GAUGE, "s")
            for i, machine in enumerate(self.machines)
        ]

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if not self.machines:
            found.append((("machines",), "needs at least one metric of type oee"))
        for i, machine in enumerate(self.machines):
            if machine in self.machines[:i]:
                found.append((("machines", i), f'"{machine}" stands twice'))
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        inputs = Inputs(plant)
        schemas = [plant.derived(f"{machine}.good_time_s")[0] for machine in self.machines]
        parts = tuple(
            part for part in _PARTS if part in _ALL_HAVE or any(part in s.index for s in schemas)
        )
        units = {s.tags[s.index["produced"]].unit.code for s in schemas}
        pieces = tuple(
            Tag(column, Unit.parse(unit)) for unit in units for column in _PIECES if len(units) == 1
        )
        practice = Practice(tpm=self.scheme == "tpm", plus_one=self.plus_one)
        if practice.tpm and "micro_stop_s" not in parts:
            raise ValueError("scheme: tpm needs machines that have micro_stop")
        formula = OeeLine(tuple(s.stream for s in schemas), parts, pieces, practice, plant.quality)
        for machine, schema in zip(self.machines, schemas, strict=True):
            for column in formula.additive:
                if column in schema.index:
                    inputs.minute(f"{machine}.{column}")
        return inputs.metrics(name, formula, self.windows)
