"""Hours and days of a stack: judged by the limits in force, invalid hours' mass substituted."""

from collections.abc import Mapping
from typing import cast
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.metrics.base import MINUTE, State, Window
from edge_agent.metrics.formula import Sums
from edge_agent.metrics.judged import CellRows, Cells, Limits, over
from edge_agent.metrics.stack_levels import HourLevel, Level
from edge_agent.metrics.substitution import HOUR, Booked, Ledger
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Quality, SampleBlock

_GOOD = np.zeros(1, np.uint8)
_NONE = np.full(1, np.nan)


class Judged(CellRows):
    """A roll-up whose means are compared with limits.

    letter  ``h`` or ``d``: what judged and exceeded windows are counted in
    """

    def __init__(
        self,
        name: str,
        formula: Level,
        calendar: Calendar,
        limits: Limits,
        *,
        window: Window,
        source: Window,
        provenance: tuple[str, ...],
    ) -> None:
        super().__init__(
            name, formula, formula, window, calendar, source=source, provenance=provenance
        )
        self._level = formula
        self._limits = limits
        self._letter = window[1:]

    def _more(self, time: int, cells: Cells, sums: Sums) -> None:  # noqa: ARG002  hours do
        """Add the columns that depend on when the window is."""
        span = self._calendar.window(self._window, time - 1)
        if span is not None:
            self._judge(span[0], cells)

    def _judge(self, start: int, cells: Cells) -> None:
        rows = self._limits.at(start)
        for gas in self._limits.pollutants:
            value, quality = cells[self._level.columns.judged(gas)]
            if gas not in rows:
                none = np.maximum(quality, Quality.BAD_NOT_AVAILABLE).astype(np.uint8)
                cells[f"{gas}_limit"] = _NONE, np.full(1, Quality.BAD_NOT_AVAILABLE, np.uint8)
                cells[f"{gas}_exceeded"] = _NONE, none
            else:
                limit = self._limits.allowed(rows[gas])
                cells[f"{gas}_limit"] = np.full(1, limit), _GOOD
                cells[f"{gas}_exceeded"] = over(value, limit), quality
            exceeded, mark = cells[f"{gas}_exceeded"]
            judged = (mark < Quality.BAD).astype(np.float64)
            cells[f"{gas}_judged_{self._letter}"] = judged, _GOOD
            counted = np.where(judged > 0, exceeded, 0.0)
            cells[f"{gas}_exceeded_{self._letter}"] = counted, _GOOD


class Hours(Judged):
    """The ``1h`` rows of a stack; keeps the ledger of valid hours.

    memory  how far back rows of its own are asked for when it begins anew, ns; see ``recall``
    """

    memory = 400 * 24 * HOUR

    def __init__(
        self,
        name: str,
        formula: HourLevel,
        calendar: Calendar,
        limits: Limits,
        zone: ZoneInfo,
        *,
        provenance: tuple[str, ...],
    ) -> None:
        super().__init__(
            name, formula, calendar, limits, window="1h", source="1min", provenance=provenance
        )
        self._hour = formula
        self._ledger = Ledger(formula.columns.gases, zone)
        self._after = self._ledger  # as it is after the row made last

    def _close(self, done: list[SampleBlock]) -> None:
        before = len(done)
        super()._close(done)
        if len(done) > before:
            self._ledger = self._after

    def _more(self, time: int, cells: Cells, sums: Sums) -> None:
        super()._more(time, cells, sums)
        columns, masses = self._level.columns, dict[str, float | None]()
        for gas in columns.gases:
            valid = bool(self._hour.valid(gas, sums)[0])
            mass = float(cells[f"{gas}_mass_kg"][0][0]) if columns.flow and valid else 0.0
            masses[gas] = mass if valid else None
        stopped = bool(self._hour.stopped(sums)[0])
        span = self._calendar.window("1h", time - 1)
        self._after = self._ledger.copy()
        booked = self._after.book(span[0] if span else time, masses, stopped=stopped)
        if columns.stops:
            cells["stopped_h"] = np.full(1, float(stopped)), _GOOD
        for gas in columns.gases:
            cells[f"{gas}_valid_h"] = np.full(1, float(masses[gas] is not None)), _GOOD
            cells[f"{gas}_capture_rate"] = np.full(1, booked[gas].rate), _GOOD
            if columns.flow:
                self._substitute(gas, masses[gas], booked[gas], cells)
        if columns.flow and not stopped:
            self._estimate(masses, booked, sums)
        self._level.per_tonne(cells)

    @staticmethod
    def _substitute(gas: str, mass: float | None, booked: Booked, cells: Cells) -> None:
        """Add what the known minutes of an invalid hour lack of the hour's substitute."""
        name, quality = f"{gas}_mass_substituted_kg", Quality.GOOD
        lacking = 0.0
        if booked.substitute is None:
            lacking, quality = np.nan, Quality.BAD_NOT_AVAILABLE
        elif mass is None and booked.substitute > 0.0:
            known, mark = cells[f"{gas}_mass_kg"]
            measured = float(known[0]) if mark[0] < Quality.BAD else 0.0
            lacking = max(0.0, booked.substitute - measured)
            quality = Quality.UNCERTAIN_SUBSTITUTED
        cells[name] = np.full(1, lacking), np.full(1, quality, np.uint8)

    def _estimate(
        self, masses: Mapping[str, float | None], booked: Mapping[str, Booked], sums: Sums
    ) -> None:
        """Count the minutes without mass as estimated, if something stands for them."""
        rows = [self._level.additive.index(f"{gas}_mass_kg") for gas in masses]
        if any(booked[gas].substitute is None for gas in masses):
            return
        missing = sums.expected[0] - float(sums.known[rows].min())
        spare = sums.length[0] - sums.covered[0]
        sums.estimated = np.array([min(round(missing * MINUTE), int(spare))], np.int64)

    def recall(self, rows: SampleBlock) -> None:
        """Take over the ledger from published rows; the minutes to come begin behind them."""
        columns = self._level.columns
        stopped = rows["stopped_h"] == 1.0 if columns.stops else np.zeros(len(rows), bool)
        valid = {gas: rows[f"{gas}_valid_h"] == 1.0 for gas in columns.gases}
        for i, end in enumerate(rows.time.tolist()):
            masses: dict[str, float | None] = {}
            for gas in columns.gases:
                mass = float(rows[f"{gas}_mass_kg"][i]) if columns.flow else 0.0
                masses[gas] = mass if valid[gas][i] else None
            self._ledger.book(end - HOUR, masses, stopped=bool(stopped[i]))
            self._newest = end

    def save(self) -> State:
        return dict(super().save()) | {"ledger": self._ledger.save()}

    def load(self, state: State, /) -> None:
        super().load(state)
        self._ledger.load(cast("State", state["ledger"]))
