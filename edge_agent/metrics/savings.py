"""The rows of a baseline: what was used, what the baseline model expects, what was saved.

The model is fitted while the baseline period runs and is fixed when it has ended: later rows cannot
change it. Until then nothing is expected. Rows with a bad or thinly covered input take part neither
in the fit nor in the totals and are counted.

``E_a = f(x) + A_m``; saving (IPMVP) = E_a - E_r, positive when saved; the same after GB/T 28750 is
E_r - E_a, negative when saved. Both stand in every row.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np

from edge_agent.metrics.base import MINUTE, State, Window
from edge_agent.metrics.held import kept
from edge_agent.metrics.observed import Observation, Windows
from edge_agent.metrics.regression import Model, Moments
from edge_agent.metrics.windows import Calendar
from edge_agent.model import F64, Quality, SampleBlock, Schema, concatenate

Cell = tuple[float, int]

EVER = 100 * 366 * 24 * 60 * MINUTE  # ns
NOT_AVAILABLE = int(Quality.BAD_NOT_AVAILABLE)
BEFORE, BASELINE, BETWEEN, REPORTING, AFTER = range(5)  # ``phase`` of a row
_LEVELS = {"68": 0.68, "90": 0.90}  # confidence
_TOTALS = (
    "cusum", "cusum_limit", "total_ipmvp", "total_gbt28750", "uncertainty_68", "uncertainty_90",
    "fsu_68", "fsu_90", "significant",
)  # fmt: skip


@dataclass(frozen=True)
class Span:
    """Part of the time, [start, end) in ns."""

    start: int
    end: int

    def holds(self, start: int, end: int) -> bool:
        """Return whether a window lies in it."""
        return self.start <= start and end <= self.end

    def share(self, start: int, end: int) -> float:
        """Return which share of it a window has."""
        inside = min(end, self.end) - max(start, self.start)
        return max(inside, 0) / (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What a model must be to be accepted; None: it is not asked for.

    r2         at least; cv_rmse, nmbe: at most, fractions
    t          at least, of every variable
    p_f        probability of F, at most
    p_each     of the t of every variable, at most; p_best: of the best one
    fsu        fractional savings uncertainty at 68 % confidence, at most
    days       length of the baseline period, at least
    """

    r2: float | None = None
    cv_rmse: float | None = None
    nmbe: float | None = None
    t: float | None = None
    p_f: float | None = None
    p_each: float | None = None
    p_best: float | None = None
    fsu: float | None = None
    days: float | None = None

    @property
    def judges(self) -> bool:
        """Whether anything of a model is asked for."""
        asked = (self.r2, self.cv_rmse, self.nmbe, self.t, self.p_f, self.p_each, self.p_best)
        return any(limit is not None for limit in (*asked, self.days))

    def accepts(self, model: Model, days: float) -> bool:
        """Return whether a model is good enough."""
        t, p = np.abs(model.t[1:]), model.p_values[1:]
        least = (
            (model.r2, self.r2),
            (float(t.min(initial=np.inf)), self.t),
            (days, self.days),
        )
        most = (
            (model.cv_rmse, self.cv_rmse),
            (abs(model.nmbe), self.nmbe),
            (model.p_f, self.p_f),
            (float(p.max(initial=0.0)), self.p_each),
            (float(p.min(initial=1.0)), self.p_best),
        )
        return all(limit is None or value >= limit for value, limit in least) and all(
            limit is None or value <= limit for value, limit in most
        )


@dataclass(frozen=True)
class Plan:
    """What is compared with what.

    tags         of the energy and the variables: the fit of another meter is not taken over
    names        of the variables, in the order of the inputs after the energy
    degrees      of each variable: None, or (sign, base) of a degree-day variable
    baseline     period of the fit; reporting: period whose savings are added up
    adjustments  non-routine adjustments: period, amount in units of the energy
    margin       how far outside its range in the baseline a variable may be, as a share of it
    covered      share of a window that must be covered
    days         length of the baseline period
    model        of written records, instead of a fit
    """

    tags: tuple[str, ...]
    names: tuple[str, ...]
    degrees: tuple[tuple[float, float] | None, ...]
    baseline: Span
    reporting: Span
    adjustments: tuple[tuple[Span, float], ...]
    margin: float
    covered: float
    days: float
    accept: Acceptance
    model: Model | None

    def phase(self, start: int, end: int) -> int:
        """Return in which part of the story a window lies."""
        if self.baseline.holds(start, end):
            return BASELINE
        if self.reporting.holds(start, end):
            return REPORTING
        if start < self.baseline.start:
            return BEFORE
        return BETWEEN if start < self.reporting.start else AFTER

    def variables(self, observed: F64) -> F64:
        """Return the variables of a window, degrees made of temperatures, (k,)."""
        x = observed.copy()
        for i, degrees in enumerate(self.degrees):
            if degrees is not None:
                x[i] = max(0.0, degrees[0] * (observed[i] - degrees[1]))
        return x

    def adjustment(self, start: int, end: int) -> float:
        """Return the non-routine adjustment of a window."""
        return sum((amount * span.share(start, end) for span, amount in self.adjustments), 0.0)


@dataclass
class Totals:
    """What has been added up over the reporting period."""

    rows: int = 0
    expected: float = 0.0  # f(x)
    saved: float = 0.0  # E_a - E_r
    cusum: float = 0.0  # E_r - f(x)


class Baseline:
    """One row per window; see the module.

    output  columns as ``baseline.columns`` makes them
    """

    def __init__(
        self, output: Schema, plan: Plan, windows: Windows, calendar: Calendar, window: Window
    ) -> None:
        self._output, self._plan, self._windows = output, plan, windows
        self._calendar, self._window = calendar, window
        self._moments = Moments(len(plan.names))
        self._model = plan.model
        self._grades: dict[str, Cell] | None = None  # of the model, once it is fixed
        self._fixed = plan.model is not None
        self._left_out = 0  # rows of the baseline period
        self._missed = 0  # rows of the reporting period
        self._last = -1  # end of the last window
        self._totals = Totals()

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._windows.inputs

    @property
    def output(self) -> Schema:
        return self._output

    @property
    def rows_late(self) -> int:
        """Rows that came for a closed slot."""
        return self._windows.rows_late

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        rows = [self._row(observed) for observed in self._windows.take(block)]
        return concatenate(rows) if rows else None

    def running(self, _now: int, _open_rows: object, /) -> SampleBlock | None:
        """Return None: a model of whole windows says nothing of a part of one."""
        return None

    def _row(self, observed: Observation) -> SampleBlock:
        return self._step(observed, self._plan.variables(observed.value[1:]))

    def _step(self, observed: Observation, x: F64) -> SampleBlock:
        """Go on by a window with these variables; return its row."""
        end = observed.end
        span = self._calendar.window(self._window, end - 1)
        start = end if span is None else span[0]
        phase = self._plan.phase(start, end)
        usable = bool(
            np.isfinite(observed.value).all()
            and (observed.quality < Quality.BAD).all()
            and (observed.quality != Quality.UNCERTAIN_FLAGGED).all()
            and observed.covered + observed.estimated >= self._plan.covered
        )
        if not self._fixed:
            self._learn(phase, np.append(x, observed.value[0]), usable, start)
        self._last = end
        cells = self._cells(observed, x, phase, usable, self._plan.adjustment(start, end))
        cells |= self._judgement()
        value = np.array([cells[tag.name][0] for tag in self._output.tags])
        quality = np.array([cells[tag.name][1] for tag in self._output.tags], np.uint8)
        value = np.where(quality >= Quality.BAD, np.nan, value)
        time = np.array([end], np.int64)
        return SampleBlock(self._output, time, value[:, None], quality[:, None])

    def _learn(self, phase: int, row: F64, usable: bool, start: int) -> None:
        if phase in {BEFORE, BASELINE}:
            if phase == BASELINE and usable:
                if start != self._last:
                    self._moments.skip()
                self._moments.add(row)
            elif phase == BASELINE:
                self._moments.skip()
                self._left_out += 1
            return
        self._fix()

    def _fix(self) -> None:
        self._fixed, self._grades = True, None
        try:
            self._model = self._moments.fit()
        except ValueError:
            self._model = None  # too few rows, or variables that depend on each other

    def _cells(
        self, observed: Observation, x: F64, phase: int, usable: bool, adjustment: float
    ) -> dict[str, Cell]:
        """Return the columns that are of this window, and those of the totals up to it."""
        quality = int(observed.quality[1:].max(initial=0))
        actual: Cell = (float(observed.value[0]), int(observed.quality[0]))
        cells: dict[str, Cell] = {"actual": actual, "phase": (float(phase), 0)}
        for i, name in enumerate(self._plan.names):
            cells[name] = (float(x[i]), int(observed.quality[i + 1]))
        cells |= {"coverage": (observed.covered, 0), "estimated": (observed.estimated, 0)}
        modelled, inside, total = 0.0, False, 0.0
        if self._model is None:
            quality = NOT_AVAILABLE
        elif quality < Quality.BAD:
            column = x[:, None]
            modelled = float(self._model.predict(column)[0])
            inside = bool(self._model.within(column, self._plan.margin)[0])
            total = modelled + adjustment
            quality = max(quality, 0 if inside and usable else int(Quality.UNCERTAIN))
        both = max(quality, actual[1])
        saving = total - actual[0]
        if phase == REPORTING and self._model is not None:
            if usable:
                self._add(modelled, actual[0], saving)
            else:
                self._missed += 1
        ratio = (actual[0] / total, both) if total else (0.0, max(both, NOT_AVAILABLE))
        return cells | self._sums() | {
            "expected": (total, quality),
            "non_routine": (adjustment, 0),
            "saving_ipmvp": (saving, both),
            "saving_gbt28750": (-saving, both),
            "enpi": ratio,
            "in_range": (float(inside), quality if quality >= Quality.BAD else 0),
        }  # fmt: skip

    def _add(self, modelled: float, actual: float, saving: float) -> None:
        sums = self._totals
        sums.rows += 1
        sums.expected += modelled
        sums.saved += saving
        sums.cusum += actual - modelled

    def _sums(self) -> dict[str, Cell]:
        """Return the totals of the reporting period; there are none before its first row."""
        sums, model = self._totals, self._model
        if model is None or not sums.rows:
            return dict.fromkeys(_TOTALS, (0.0, NOT_AVAILABLE))
        cells: dict[str, Cell] = {
            "cusum": (sums.cusum, 0),
            "cusum_limit": (3.0 * model.rmse * sums.rows**0.5, 0),
            "total_ipmvp": (sums.saved, 0),
            "total_gbt28750": (-sums.saved, 0),
        }
        for level, confidence in _LEVELS.items():
            wide = model.uncertainty(sums.expected, sums.rows, confidence)
            known = 0 if np.isfinite(wide) else NOT_AVAILABLE
            cells[f"uncertainty_{level}"] = (wide, known)
            share = wide / abs(sums.saved) if sums.saved else 0.0
            cells[f"fsu_{level}"] = (share, known if sums.saved else NOT_AVAILABLE)
        share, known = cells["fsu_68"]
        limit = self._plan.accept.fsu
        judged = NOT_AVAILABLE if limit is None else known
        cells["significant"] = (float(limit is not None and share <= limit), judged)
        return cells

    def _judgement(self) -> dict[str, Cell]:
        """Return how good the model is; the same in every row once it is fixed."""
        count = self._moments.n if self._model is None else self._model.n
        counts = {"n": count, "left_out": self._left_out, "missed": self._missed}
        if self._grades is None or not self._fixed:
            self._grades = _grades(self._model, self._plan)
        return self._grades | {name: (float(n), 0) for name, n in counts.items()}

    @property
    def memory(self) -> int:
        """How far back its own rows tell of the fit and the totals, ns."""
        return EVER

    def recall(self, rows: SampleBlock, /) -> None:
        """Learn again from own rows: they hold the energy and the variables of each window."""
        columns = rows.schema.columns(("actual", *self._plan.names))
        for j, end in enumerate(rows.time.tolist()):
            value, quality = rows.value[columns, j], rows.quality[columns, j]
            covered, estimated = rows.value[-2:, j].tolist()
            self._step(Observation(end, value, quality, covered, estimated), value[1:])
            self._windows.pass_by(end)

    def since(self, instant: int) -> int | None:
        """Return the beginning of the baseline, or of the reporting period behind records."""
        plan = self._plan
        begin = plan.baseline.start if plan.model is None else plan.reporting.start
        return begin if self._last < 0 and begin < instant else None

    def save(self) -> State:
        sums = self._totals
        return {
            "windows": self._windows.save(),
            "moments": self._moments.save(),
            "fixed": self._fixed,
            "left_out": self._left_out,
            "missed": self._missed,
            "last": self._last,
            "rows": sums.rows,
            "sums": kept(np.array([sums.expected, sums.saved, sums.cusum])),
            "plan": repr(self._plan),
        }

    def load(self, state: State, /) -> None:
        self._windows.load(cast("State", state["windows"]))
        self._take_over(state)

    def resume(self, state: State) -> None:
        """Go on with the fit and the totals of another configuration, if the plan is the same.

        A baseline of months must not be lost because a tag was added somewhere else.
        """
        if state.keys() == self.save().keys() and state["plan"] == repr(self._plan):
            self._windows.resume(cast("State", state["windows"]))
            self._take_over(state)

    def _take_over(self, state: State) -> None:
        self._moments.load(cast("State", state["moments"]))
        self._left_out, self._missed = int(str(state["left_out"])), int(str(state["missed"]))
        self._last = int(str(state["last"]))
        expected, saved, cusum = (float(v) for v in cast("list[float]", state["sums"]))
        self._totals = Totals(int(str(state["rows"])), expected, saved, cusum)
        if state["fixed"] and self._plan.model is None:
            self._fix()


def _grades(model: Model | None, plan: Plan) -> dict[str, Cell]:
    """Return the columns that tell how good a model is."""
    names = ("n_effective", "r2", "r2_adjusted", "cv_rmse", "nmbe", "p_f", "rho", "accepted")
    slopes = ("b_0", *(f"b_{name}" for name in plan.names))
    tests = tuple(f"t_{name}" for name in plan.names)
    if model is None:
        return dict.fromkeys((*names, *slopes, *tests), (0.0, NOT_AVAILABLE))
    accepted = plan.accept.judges and plan.accept.accepts(model, plan.days)
    values = [
        model.independent, model.r2, model.r2_adjusted, model.cv_rmse, model.nmbe, model.p_f,
        model.rho, float(accepted), *model.beta.tolist(), *model.t[1:].tolist(),
    ]  # fmt: skip
    cells = {
        name: (value, 0 if np.isfinite(value) else NOT_AVAILABLE)
        for name, value in zip((*names, *slopes, *tests), values, strict=True)
    }
    if not plan.accept.judges:
        cells["accepted"] = (0.0, NOT_AVAILABLE)
    return cells
