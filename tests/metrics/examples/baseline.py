"""The example of ``baseline`` that the laws run on, and its oracle.

The fit is solved in exact fractions by the normal equations, which only an oracle may do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, isfinite, nan, sqrt

from edge_agent.metrics.baseline import BaselineConfig
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.regression import fisher_above, student_quantile
from edge_agent.metrics.savings import Acceptance
from edge_agent.model import SampleBlock
from tests.metrics.examples import energy
from tests.metrics.oracle import (
    BAD,
    FLAGGED,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    UNCERTAIN,
    Cell,
    Result,
    Span,
    find,
    quotient,
    slots,
)
from tests.metrics.plants import START, as_streams

CONFIG = BaselineConfig(
    energy="clinker.electricity_1min",
    variables={"output": "clinker.output_t_1min", "power": "em-a.power"},
    baseline={"from": "2026-01-01T08:00", "to": "2026-01-01T08:08"},  # START is eight o'clock
    reporting={"from": "2026-01-01T08:10", "to": "2026-01-01T08:17"},
    non_routine=(
        {"from": "2026-01-01T08:11", "to": "2026-01-01T08:13", "amount": "3 kWh", "reason": "test"},
    ),
    protocol="sep",
    accept=Acceptance(cv_rmse=0.8),
    covered=0.5,
    windows=("1min",),
)
OTHERS = {
    "clinker": EnergyConfig(
        inputs={"electricity": ("em-a.energy",)}, output="scale.mass", windows=("1min",)
    )
}
SUMS = ()
RELATIVE = 1e-6  # floating point against fractions, over eight rows that may nearly agree

NONE: Cell = (None, NOT_AVAILABLE)


@dataclass
class Fit:
    """Rows ``x1 x2 y`` of the baseline, and what is left of them."""

    rows: list[tuple[int, list[Fraction]]] = field(default_factory=list)

    def solve(self) -> bool:
        n, x = len(self.rows), [[Fraction(1), *row[:-1]] for _, row in self.rows]
        if n <= 3:
            return False
        y = [row[-1] for _, row in self.rows]
        normal = [[sum(r[i] * r[j] for r in x) for j in range(3)] for i in range(3)]
        self.inverse = inverted(normal)
        if not self.inverse:
            return False
        right = [sum(r[i] * v for r, v in zip(x, y, strict=True)) for i in range(3)]
        self.beta = [sum(a * b for a, b in zip(line, right, strict=True)) for line in self.inverse]
        fit = [sum(b * v for b, v in zip(self.beta, r, strict=True)) for r in x]
        self.e = [v - f for v, f in zip(y, fit, strict=True)]
        self.mean = sum(y) / n
        self.left, self.total = sum(e * e for e in self.e), sum((v - self.mean) ** 2 for v in y)
        self.n, self.df = n, n - 3
        self.low = [min(float(r[i]) for r in x) for i in (1, 2)]
        self.high = [max(float(r[i]) for r in x) for i in (1, 2)]
        return True

    @property
    def rmse(self) -> float:
        return sqrt(self.left / self.df)

    @property
    def rho(self) -> float:
        ends = [end for end, _ in self.rows]
        pairs = [i for i in range(1, self.n) if ends[i] - ends[i - 1] == MINUTE]
        if not pairs or not self.left:
            return 0.0
        products = sum(self.e[i] * self.e[i - 1] for i in pairs)
        return float(products / self.left * (self.n - 1) / len(pairs))

    @property
    def independent(self) -> float:
        rho = min(max(self.rho, 0.0), 1.0)
        return max(self.n * (1 - rho) / (1 + rho), 1.0)

    def cells(self) -> dict[str, Cell]:
        se = [self.rmse * sqrt(self.inverse[i][i]) for i in range(3)]
        t = [float(b) / s if s else inf if b else 0.0 for b, s in zip(self.beta, se, strict=True)]
        r2 = float(1 - self.left / self.total) if self.total else 0.0
        f = float((self.total - self.left) / 2 / (self.left / self.df)) if self.left else inf
        f = f if self.total else 0.0  # nothing to explain
        cv = self.rmse / float(self.mean) if self.mean else nan
        p_f = fisher_above(f, 2, self.df)
        p = [fisher_above(v * v, 1, self.df) for v in t[1:]]  # t² is F with 1 degree of freedom
        good = r2 >= 0.5 and p_f <= 0.1 and max(p) <= 0.2 and min(p) <= 0.1 and cv <= 0.8
        numbers = {
            "n": self.n, "n_effective": self.independent, "r2": r2, "cv_rmse": cv, "nmbe": cv * 0.0,
            "r2_adjusted": 1 - (1 - r2) * (self.n - 1) / self.df, "p_f": p_f, "rho": self.rho,
            "accepted": float(good), "b_0": self.beta[0], "b_output": self.beta[1],
            "b_power": self.beta[2], "t_output": t[1], "t_power": t[2],
        }  # fmt: skip
        return {k: (float(v), 0) if isfinite(v) else NONE for k, v in numbers.items()}


def inverted(a: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    """The inverse of a 3 x 3 matrix by cofactors; [] when there is none."""

    def minor(i: int, j: int) -> Fraction:
        (p, q), (r, s) = (
            [v for c, v in enumerate(row) if c != j] for k, row in enumerate(a) if k != i
        )
        return (p * s - q * r) * (-1) ** (i + j)

    determinant = sum(a[0][j] * minor(0, j) for j in range(3))
    if not determinant:
        return []
    return [[minor(j, i) / determinant for j in range(3)] for i in range(3)]


def expected(rows: Mapping[str, SampleBlock], _spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    streams = as_streams(rows)
    clinker = energy.energy(
        streams, {"electricity": (0.1229, 0.0036, [("em-a.energy", 1.0)])}, ("scale.mass", 1e-3)
    )
    power = slots(find(streams, "em-a.power"))
    fit, model, told = Fit(), False, False
    left_out, missed, sums = 0, 0, [0, 0.0, 0.0, 0.0]
    result: Result = {}
    last = min(max(clinker), max(power))
    for end in sorted(e for e in clinker.keys() | power.keys() if e <= last):
        row = clinker.get(end, {})
        cells: dict[str, Cell] = {"actual": row.get("electricity", (None, MISSING))}
        cells["output"] = row.get("output_t", (None, MISSING))
        cells["power"] = power.get(end, {}).get("power.mean", (None, MISSING))
        cover = [
            row.get("coverage", (0.0, 0))[0],
            power.get(end, {}).get("power.coverage", (0.0, 0))[0],
        ]
        covered = min(c or 0.0 for c in cover)
        guessed = min(row.get("estimated", (0.0, 0))[0] or 0.0, 1.0 - covered)
        inputs = [cells[name] for name in ("output", "power", "actual")]
        usable = all(q < BAD and q != FLAGGED for _, q in inputs) and covered + guessed >= 0.5
        minute = (end - START) // MINUTE  # 1 is the first one
        phase = 1 if 1 <= minute <= 8 else 3 if 11 <= minute <= 17 else 2 if minute > 8 else 0
        phase = 4 if minute > 17 else phase
        if phase == 1:
            if usable:
                fit.rows.append((end, [Fraction(v or 0.0) for v, _ in inputs]))
            left_out += not usable
        elif phase > 1 and not told:
            model, told = fit.solve(), True
        extra = 1.5 if minute in {12, 13} else 0.0
        quality = max(cells["output"][1], cells["power"][1])
        cells |= {"coverage": (covered, 0), "estimated": (guessed, 0), "phase": (float(phase), 0)}
        cells |= {"non_routine": (extra, 0)}
        if not model:
            quality = NOT_AVAILABLE
        cells |= dict.fromkeys(("expected", "in_range"), (None, quality))
        both = max(quality, cells["actual"][1])
        cells |= dict.fromkeys(("saving_ipmvp", "saving_gbt28750"), (None, both))
        cells["enpi"] = (None, max(both, NOT_AVAILABLE))
        if quality < BAD:
            x = [cells["output"][0], cells["power"][0]]
            f = float(
                fit.beta[0] + sum(Fraction(v) * b for v, b in zip(x, fit.beta[1:], strict=True))
            )
            inside = all(
                low - 0.1 * (high - low) <= v <= high + 0.1 * (high - low)
                for v, low, high in zip(x, fit.low, fit.high, strict=True)
            )
            quality = quality if inside and usable else max(quality, UNCERTAIN)
            cells["in_range"], cells["expected"] = (float(inside), 0), (f + extra, quality)
            both = max(quality, cells["actual"][1])
            if both < BAD:
                actual = cells["actual"][0]
                saved = f + extra - actual
                cells |= {"saving_ipmvp": (saved, both), "saving_gbt28750": (-saved, both)}
                cells["enpi"] = quotient(actual, f + extra, both)
                if phase == 3 and usable:
                    sums = [sums[0] + 1, sums[1] + f, sums[2] + saved, sums[3] + actual - f]
        missed += phase == 3 and model and not usable
        cells |= totals(fit, sums) if model and sums[0] else dict.fromkeys(TOTALS, NONE)
        if model:
            cells |= fit.cells()
        else:
            cells |= dict.fromkeys(MODEL, NONE) | {"n": (float(len(fit.rows)), 0)}
        cells |= {"left_out": (float(left_out), 0), "missed": (float(missed), 0)}
        result[end] = cells
    return result


TOTALS = (
    "cusum", "cusum_limit", "total_ipmvp", "total_gbt28750", "uncertainty_68", "uncertainty_90",
    "fsu_68", "fsu_90", "significant",
)  # fmt: skip
MODEL = (
    "n_effective", "r2", "r2_adjusted", "cv_rmse", "nmbe", "p_f", "rho", "accepted", "b_0",
    "b_output", "b_power", "t_output", "t_power",
)  # fmt: skip


def totals(fit: Fit, sums: Sequence[float]) -> dict[str, Cell]:
    m, expected_sum, saved, cusum = sums
    cells: dict[str, Cell] = {
        "cusum": (cusum, 0), "cusum_limit": (3 * fit.rmse * sqrt(m), 0),
        "total_ipmvp": (saved, 0), "total_gbt28750": (-saved, 0),
    }  # fmt: skip
    share = sqrt(fit.n / fit.independent * (1 + 2 / fit.independent) / m)
    for level, confidence in (("68", 0.68), ("90", 0.90)):
        wide, share_of = f"uncertainty_{level}", f"fsu_{level}"
        cells |= {wide: NONE, share_of: NONE}
        if fit.mean:
            t = student_quantile(confidence, fit.df)
            number = abs(t * 1.26 * fit.rmse / float(fit.mean) * share * expected_sum)
            cells[wide] = (number, 0)
            cells[share_of] = (number / abs(saved), 0) if saved else NONE
    ratio, mark = cells["fsu_68"]
    cells["significant"] = NONE if ratio is None else (float(ratio <= 0.5), mark)
    return cells
