"""The columns of waste water, and how the rows of each window are made of those of a shorter one.

``ΔD = Q · T`` and ``ΔG = C · ΔD · 10⁻³`` kg are made per minute; a longer window adds them up, and
its concentration is ``G · 10³ / D``: weighted by flow (HJ 212-2017, D.1). Water that does not flow
has no concentration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, QualityLimits
from edge_agent.metrics.formula import SHARES, Formula, Sums, graded, merged, ratio, unknown
from edge_agent.metrics.join import Counter, Gauge, Integral, Rows, SlotFormula
from edge_agent.metrics.judged import Cells
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag
from edge_agent.units import Unit

ENOUGH = 0.75  # share of a minute, or of an hour's minutes, that makes it valid
VALID_DAY = 20 / 24  # of its hours
VALID_MONTH, VALID_FEBRUARY = 25, 23  # days

Stage = Literal["minutes", "hours", "days", "months"]

# an enum's look-up costs 1 µs
_BAD, _MISSING, _NOT_AVAILABLE = (
    int(Quality.BAD),
    int(Quality.BAD_MISSING),
    int(Quality.BAD_NOT_AVAILABLE),
)

_UNITS = {
    "_mass_kg": "kg",
    "_substituted_kg": "kg",
    "_m3": "m3",
    "_min": "min",
    "_h": "h",
    "_d": "d",
    "_abnormal": "1",
    "_exceeded": "1",
}


@dataclass(frozen=True)
class Columns:
    """What is measured.

    pollutants  names; ph, temperature: whether there is such a tag
    judged      pollutants (and ``ph``) whose daily means are judged
    """

    pollutants: tuple[str, ...]
    ph: bool
    temperature: bool
    judged: tuple[str, ...] = ()


def tag_of(name: str) -> Tag:
    """Return a column by its name."""
    if name.startswith("ph") and not name.endswith(("_d", "_h")):
        kind = Kind.STATE if name in {"ph_exceeded", "ph_abnormal"} else Kind.GAUGE
        return Tag(name, Unit.parse("1"), kind)
    if name == "temperature":
        return Tag(name, Unit.parse("Cel"))
    fits = [unit for suffix, unit in _UNITS.items() if name.endswith(suffix)]
    kind = Kind.STATE if name.endswith(("_exceeded", "_abnormal")) else Kind.GAUGE
    return Tag(name, Unit.parse(fits[0] if fits else "mg/L"), kind)


@dataclass(frozen=True)
class Level(Formula):
    """Rows of one stage: ``minutes`` and what is merged of them, ``hours``, ``days``, ``months``.

    stage  what its rows are; the additive columns are those of the rows that they are made of
    """

    columns: Columns
    limits: QualityLimits
    stage: Stage = "minutes"
    judged_by: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        return Family.WATER

    @property
    def sources(self) -> tuple[str, ...]:
        return self.judged_by

    @cached_property
    def additive(self) -> tuple[str, ...]:
        found = []
        for name in self.columns.pollutants:
            found += [f"{name}_mass_kg", f"{name}_volume_m3", f"{name}_abnormal"]
        found += ["volume_m3", "valid_min"]
        found += ["ph", "ph_max", "ph_min"] if self.columns.ph else []
        found += ["temperature"] if self.columns.temperature else []
        if self.stage in {"days", "months"}:
            for name in self.columns.pollutants:
                found += [f"{name}_mass_substituted_kg", f"{name}_valid_h"]
            found.append("volume_substituted_m3")
        if self.stage == "months":
            found += [f"{name}_valid_d" for name in self.columns.pollutants]
            found += [f"{name}_exceeded_d" for name in self.columns.judged]
        return tuple(found)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns but for the shares."""
        found = [*self.columns.pollutants, *self.additive]
        if self.stage == "hours":
            for name in self.columns.pollutants:
                found += [f"{name}_mass_substituted_kg", f"{name}_valid_h"]
            found += ["volume_substituted_m3", *(["ph_substitute"] if self.columns.ph else [])]
        if self.stage == "days":
            found += [f"{name}_valid_d" for name in self.columns.pollutants]
            for name in self.columns.judged:
                found += [f"{name}_limit"] if name != "ph" else []
                found += [f"{name}_exceeded", f"{name}_exceeded_d"]
        return tuple(found)

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        return (*(tag_of(name) for name in self.names), *SHARES)

    @cached_property
    def scale(self) -> F64:
        return np.array([-1.0 if name == "ph_min" else 1.0 for name in self.additive])

    @cached_property
    def peaks(self) -> NDArray[np.bool_]:
        highest = ("_abnormal", "ph_max", "ph_min")
        return np.array([name.endswith(highest) for name in self.additive])

    def short(self, sums: Sums) -> NDArray[np.bool_]:
        """Return which columns have too few valid parts for a mean, (a, n)."""
        if self.stage == "days":
            need = np.minimum(20.0, VALID_DAY * sums.expected)
        elif self.stage == "months":
            february = (sums.expected > 27.5) & (sums.expected < 29.5)
            usual = np.minimum(VALID_MONTH, sums.expected * VALID_MONTH / 30)
            need = np.where(february, VALID_FEBRUARY, usual)
        else:
            need = np.where(sums.length >= 60 * MINUTE, ENOUGH * sums.expected, 0.0)
        found: NDArray[np.bool_] = sums.known < need
        return found

    def cells(self, sums: Sums) -> Cells:
        """Return value and quality of the columns that follow from the sums alone, (n,) each."""
        place = {name: i for i, name in enumerate(self.additive)}
        amounts, short = merged(sums, self.limits), self.short(sums)
        known = np.maximum(sums.known, 1)
        marks = np.where(sums.known == 0, unknown(sums), sums.worst).astype(np.uint8)
        means = graded(marks, sums.known / sums.expected, self.limits)
        means = np.where(short & (means < _BAD), _MISSING, means)
        cells: Cells = {}
        for name, i in place.items():
            if name in {"ph", "temperature"}:
                cells[name] = sums.total[i] / known[i], means[i].astype(np.uint8)
            elif self.peaks[i]:
                cells[name] = sums.total[i] * self.scale[i], marks[i]
            else:
                cells[name] = sums.total[i], amounts[i]
        for name in self.columns.pollutants:
            self._pollutant(name, place, sums, short, cells)
        if self.stage == "hours":
            cells["volume_m3"] = replaced(cells["volume_m3"], short[place["volume_m3"]])
        return cells

    def _pollutant(
        self,
        name: str,
        place: Mapping[str, int],
        sums: Sums,
        short: NDArray[np.bool_],
        cells: Cells,
    ) -> None:
        mass, volume = f"{name}_mass_kg", f"{name}_volume_m3"
        invalid = short[place[mass]]
        if self.stage == "months":  # valid is a day, not a row with something in it
            days = sums.total[place[f"{name}_valid_d"]]
            whole = Sums.zeros(1, len(days))
            whole.known, whole.expected = days[None].astype(np.int64), sums.expected
            invalid = self.short(whole)[0]
        quality = np.maximum(cells[mass][1], cells[volume][1])
        if self.stage == "minutes":  # longer ones have rules of their own
            known = sums.known[place[mass]] / sums.expected
            quality = graded(quality, known, self.limits)
        weighted = ratio(cells[mass][0] * 1e3, cells[volume][0], quality)
        bad = np.where(invalid & (weighted[1] < _BAD), _MISSING, weighted[1])
        cells[name] = weighted[0], bad.astype(np.uint8)
        if self.stage == "hours":
            for amount in (mass, volume):
                cells[amount] = replaced(cells[amount], invalid)
        flag, seen = f"{name}_abnormal", sums.known[place[f"{name}_abnormal"]]
        odd = (sums.total[place[flag]] > 0) | (seen < sums.expected)
        cells[flag] = odd.astype(np.float64), np.zeros(len(odd), np.uint8)
        if self.stage == "days":
            cells[f"{name}_valid_d"] = (~invalid).astype(np.float64), np.zeros(len(odd), np.uint8)

    def stacked(self, cells: Cells) -> tuple[F64, U8]:
        """Return the columns in their order, (k - 2, n)."""
        value = np.stack([cells[name][0] for name in self.names])
        return value, np.stack([cells[name][1] for name in self.names]).astype(np.uint8)

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        return self.stacked(self.cells(sums))


@dataclass(frozen=True)
class WaterMinutes(Level, SlotFormula):
    """The minute, and what is merged of minutes.

    concentrations  by pollutant, with the factor to mg/L; flow: with the factor to m3
    """

    concentrations: Mapping[str, tuple[Gauge, float]] | None = None
    flow: tuple[Counter | Integral, float] | None = None
    acidity: Gauge | None = None
    heat: Gauge | None = None

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        if self.flow is None or self.concentrations is None:
            raise ValueError("minutes without inputs")
        n, place = len(ends), {name: i for i, name in enumerate(self.additive)}
        sums = Sums.zeros(len(place), n)
        amount, factor = self.flow
        volume, quality, covered, estimated = amount.read(ends, rows)
        volume = volume * factor
        quality = _not_negative(volume, quality)
        sums.set(place["volume_m3"], volume, quality)
        valid = quality < _BAD
        for name, (gauge, to_mg) in self.concentrations.items():
            (mean, _, _), mark, full = _minute(gauge, ends, rows)
            mark = _not_negative(mean, mark)
            both = np.maximum(mark, quality)
            sums.set(place[f"{name}_mass_kg"], mean * to_mg * volume * 1e-3, both)
            sums.set(place[f"{name}_volume_m3"], volume, both)
            odd = (full < MINUTE) | (mark >= _BAD)
            sums.set(place[f"{name}_abnormal"], odd.astype(np.float64), np.zeros(n, np.uint8))
            valid &= both < _BAD
            covered = np.minimum(covered, full)
        sums.set(place["valid_min"], valid.astype(np.float64), np.zeros(n, np.uint8))
        if self.acidity is not None:
            (mean, low, high), mark, _ = _minute(self.acidity, ends, rows)
            for name, value in (("ph", mean), ("ph_max", high), ("ph_min", -low)):
                sums.set(place[name], value, mark)
        if self.heat is not None:
            (mean, _, _), mark, _ = _minute(self.heat, ends, rows)
            sums.set(place["temperature"], mean, mark)
        sums.covered, sums.estimated = covered, np.minimum(estimated, sums.length - covered)
        return sums


def replaced(cell: tuple[F64, U8], invalid: NDArray[np.bool_]) -> tuple[F64, U8]:
    """Return an amount of hours that is BAD in the invalid ones: they are replaced as a whole."""
    value, quality = cell
    gone = invalid & (quality < _BAD)
    return value, np.where(gone, _MISSING, quality).astype(np.uint8)


def _minute(gauge: Gauge, ends: I64, rows: Mapping[str, Rows]) -> tuple[F64, U8, I64]:
    """Return mean, lowest, highest (3, n), quality and covered ns; BAD below 75 % of a minute."""
    value, quality, covered = gauge.read(ends, rows)
    thin = (covered < ENOUGH * MINUTE) & (quality < _BAD)
    return value, np.where(thin, _MISSING, quality).astype(np.uint8), covered


def _not_negative(value: F64, quality: U8) -> U8:
    """Return a quality that says that a negative reading is none."""
    wrong = (value < 0) & (quality < _BAD)
    return np.where(wrong, _NOT_AVAILABLE, quality).astype(np.uint8)
