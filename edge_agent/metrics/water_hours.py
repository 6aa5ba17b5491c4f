"""Hours and days of waste water: invalid hours are substituted, daily means are judged.

An interval of N invalid hours gets the mean of the N valid hours before it (HJ 356-2019, as a
platform that is in use implements it; the text was not read). N is known only when the interval
ends, and rows cannot wait for that. So the i-th invalid hour gets the value of the i-th last valid
hour: whenever the interval ends, its hours add up to N times that mean exactly.
"""

from collections.abc import Mapping
from statistics import median
from typing import cast

import numpy as np

from edge_agent.metrics.base import MINUTE, Limit, State
from edge_agent.metrics.formula import Sums
from edge_agent.metrics.judged import CellRows, Cells, Limits, over
from edge_agent.metrics.water_levels import Level
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Quality, SampleBlock

HOURS = 168  # valid hours that are remembered, and so the longest interval that is substituted
COLD = 12.0  # °C up to which the limit ``nh3-n-cold`` counts (GB 18918-2002, note of the row)

LOOKED_BACK = 31 * 24 * 60 * MINUTE  # ns that ``recompute`` looks back for them
_HOUR = 60 * MINUTE
_NOT_AVAILABLE = int(Quality.BAD_NOT_AVAILABLE)
_SUBSTITUTED = int(Quality.UNCERTAIN_SUBSTITUTED)
_ESTIMATED = int(Quality.UNCERTAIN_ESTIMATED)


def cell(value: float, quality: int = 0) -> "tuple[np.ndarray, np.ndarray]":
    """Return one value and its quality as the columns of one row."""
    return np.array([value]), np.array([quality], np.uint8)


class Ledger:
    """The last valid hours of each quantity, and how many invalid ones have followed.

    A valid hour without a value (water that stood has no concentration) ends an interval and is not
    remembered.
    """

    def __init__(self) -> None:
        self._valid: dict[str, list[float]] = {}
        self._invalid: dict[str, int] = {}

    def book(self, name: str, value: float | None) -> float | None:
        """Take an hour, NaN for valid without a value; return the substitute of an invalid one."""
        if value is not None:
            self._invalid[name] = 0
            if np.isfinite(value):
                self._valid[name] = [*self._valid.get(name, []), value][-HOURS:]
            return None
        self._invalid[name] = i = self._invalid.get(name, 0) + 1
        valid = self._valid.get(name, [])
        return valid[-i] if i <= len(valid) else None

    def middle(self, name: str) -> float | None:
        """Return the median of as many valid hours as there are invalid ones after them."""
        n, valid = self._invalid.get(name, 0), self._valid.get(name, [])
        return median(valid[-n:]) if 0 < n <= len(valid) else None

    def copy(self) -> "Ledger":
        """Return another with the same content."""
        other = Ledger()
        other._valid, other._invalid = dict(self._valid), dict(self._invalid)
        return other

    def save(self) -> State:
        """Return the state; see ``State``."""
        return {
            "valid": {k: list(v) for k, v in self._valid.items()},
            "invalid": dict(self._invalid),
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        valid = cast("Mapping[str, list[float]]", state["valid"])
        invalid = cast("Mapping[str, int]", state["invalid"])
        self._valid = {name: [float(v) for v in values] for name, values in valid.items()}
        self._invalid = {name: int(n) for name, n in invalid.items()}


class Hours(CellRows):
    """The ``1h`` rows; hours in which nobody was there are rows, too, as they are substituted."""

    def __init__(
        self, name: str, formula: Level, calendar: Calendar, *, provenance: tuple[str, ...]
    ) -> None:
        super().__init__(
            name, formula, formula, "1h", calendar, source="1min", provenance=provenance
        )
        self._level = formula
        self._ledger = Ledger()
        self._after = self._ledger  # as it is after the row made last
        self._last = -1  # end of the last hour closed

    def _go_to(self, instant: int, done: list[SampleBlock]) -> None:
        super()._go_to(instant, done)
        if self._span is None or self._last < 0:
            return
        until = min(self._span[0], self._last + HOURS * _HOUR)
        while self._last < until:  # nobody was there
            empty = Sums.zeros(len(self._level.additive), 1)
            empty.length[0], empty.expected[0] = _HOUR, 60.0
            self._last += _HOUR
            done.append(self._row(self._last, empty))
            self._ledger = self._after
        self._last = self._span[0]

    def _close(self, done: list[SampleBlock]) -> None:
        span = self._span
        super()._close(done)
        if span is not None:
            self._ledger, self._last = self._after, span[1]

    def _more(self, time: int, cells: Cells, sums: Sums) -> None:  # noqa: ARG002  every hour alike
        self._after = ledger = self._ledger.copy()
        volume = _known(cells, "volume_m3")
        stand_in = ledger.book("volume_m3", volume)
        cells["volume_substituted_m3"] = _filled(volume is not None, stand_in)
        flowed = volume if volume is not None else stand_in
        added, whole = 0.0, flowed is not None
        for name in self._level.columns.pollutants:
            mass, had = _known(cells, f"{name}_mass_kg"), _known(cells, name)
            stand_in = ledger.book(name, None if mass is None else np.nan if had is None else had)
            if mass is not None:  # minutes of a valid hour without a concentration have the hour's
                without = (volume or 0.0) - (_known(cells, f"{name}_volume_m3") or 0.0)
                amount = (had or 0.0) * max(without, 0.0) * 1e-3
                filled = cell(amount, _ESTIMATED if amount else 0)
            else:
                amount = 0.0 if stand_in is None or flowed is None else stand_in * flowed * 1e-3
                filled = _filled(False, None if stand_in is None or flowed is None else amount)
                whole &= stand_in is not None
            cells[f"{name}_mass_substituted_kg"] = filled
            cells[f"{name}_valid_h"] = cell(float(mass is not None))
            added += amount
        if self._level.columns.ph:
            ledger.book("ph", _known(cells, "ph"))
            middle = ledger.middle("ph")
            known = cell(0.0, _NOT_AVAILABLE) if middle is None else cell(middle, _SUBSTITUTED)
            cells["ph_substitute"] = known
        if whole and (added or volume is None):
            sums.estimated = sums.length - sums.covered

    @property
    def memory(self) -> int:
        """How far back valid hours are looked for, ns."""
        return LOOKED_BACK

    def recall(self, rows: SampleBlock, /) -> None:
        """Take over the valid hours from own rows."""
        for j in range(len(rows)):
            row = rows.rows(j, j + 1)
            index = rows.schema.index
            cells = {name: (row.value[i], row.quality[i]) for name, i in index.items()}
            self._more(int(row.time[0]), cells, Sums.zeros(len(self._level.additive), 1))
            self._ledger = self._after
            self._newest = self._last = int(row.time[0])

    def save(self) -> State:
        return dict(super().save()) | {"ledger": self._ledger.save(), "last": self._last}

    def load(self, state: State, /) -> None:
        super().load(state)
        self._ledger.load(cast("State", state["ledger"]))
        self._last = int(str(state["last"]))


def _known(cells: Cells, name: str) -> float | None:
    value, quality = cells[name]
    return float(value[0]) if quality[0] < Quality.BAD else None


def _filled(valid: bool, substitute: float | None) -> "tuple[np.ndarray, np.ndarray]":
    """Return the substituted part of an amount: 0 in a valid hour."""
    if valid:
        return cell(0.0)
    return cell(0.0, _NOT_AVAILABLE) if substitute is None else cell(substitute, _SUBSTITUTED)


class Days(CellRows):
    """The ``1d`` rows, judged by the limits of daily means that are in force on that day."""

    def __init__(
        self,
        name: str,
        formula: Level,
        calendar: Calendar,
        limits: Limits,
        *,
        provenance: tuple[str, ...],
    ) -> None:
        super().__init__(name, formula, formula, "1d", calendar, source="1h", provenance=provenance)
        self._level, self._limits = formula, limits

    def _more(self, time: int, cells: Cells, sums: Sums) -> None:
        rows = self._limits.at(time - int(sums.length[0]))
        for name in self._level.columns.judged:
            exceeded = self._ph(rows, cells) if name == "ph" else self._over(name, rows, cells)
            cells[f"{name}_exceeded"] = exceeded
            value, quality = exceeded
            judged = quality < Quality.BAD
            cells[f"{name}_exceeded_d"] = np.where(judged, value, 0.0), quality

    def _over(
        self, name: str, rows: Mapping[str, Limit], cells: Cells
    ) -> "tuple[np.ndarray, np.ndarray]":
        """Return whether a daily mean is above its limit; the limit stands beside it."""
        row = rows.get(name.replace("_", "-"))
        cold = rows.get(f"{name.replace('_', '-')}-cold")
        heat = _known(cells, "temperature") if "temperature" in cells else None
        row = cold if cold is not None and heat is not None and heat <= COLD else row
        value, quality = cells[name]
        if row is None:
            cells[f"{name}_limit"] = cell(0.0, _NOT_AVAILABLE)
            return cell(0.0, _NOT_AVAILABLE)
        limit = self._limits.allowed(row)
        cells[f"{name}_limit"] = cell(limit)
        return over(value, limit), quality

    @staticmethod
    def _ph(rows: Mapping[str, Limit], cells: Cells) -> "tuple[np.ndarray, np.ndarray]":
        value, quality = cells["ph"]
        low, high = rows.get("ph-min"), rows.get("ph-max")
        if low is None and high is None:
            return cell(0.0, _NOT_AVAILABLE)
        out = (low is not None and value < low.limit) | (high is not None and value > high.limit)
        return np.asarray(out, np.float64), quality
