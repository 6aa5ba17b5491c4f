"""Least squares in one pass, and what an auditor asks of the fit.

The rows are never kept. ``Moments`` carries the triangular factor of the centred rows, brought up
to date by one Givens rotation per column: as accurate as a QR decomposition of all rows at once
(Golub and Van Loan, *Matrix Computations*, 5.2 and 6.5.3), because no square of a column is ever
formed. Residuals cannot be kept either, so their lag-1 autocorrelation comes from the cross
products of each row with the one before it.

Sources: NIST/SEMATECH e-Handbook 4.1.4.1 (least squares); ASHRAE Guideline 14-2014 annex B
(CV(RMSE), NMBE, fractional savings uncertainty); Student and F probabilities by the regularised
incomplete beta function (Abramowitz and Stegun 26.5).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.held import floats, kept
from edge_agent.model import F64

COLLINEAR = 1e-9  # of its own spread: a variable that the others explain but for less than this
HOURLY = 1.26  # what Guideline 14 puts for the ratio of the exact uncertainty to the simple one
_ROUNDING = 1e-13  # a share that is nothing but rounding
_TINY = 1e-300  # of Lentz's continued fraction


# ---- probabilities ---------------------------------------------------------------------------


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), to about 1e-14 relative.

    source  continued fraction of DLMF 8.17.22, evaluated by Lentz's method
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # it converges fast on the other side only
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = a * math.log(x) + b * math.log1p(-x)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    c, d = 1.0, 1.0 / _nonzero(1.0 - (a + b) * x / (a + 1.0))
    whole = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _nonzero(1.0 + term * d)
            c = _nonzero(1.0 + term / c)
            whole *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return math.exp(front) * whole / a


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def student_two_sided(t: float, df: float) -> float:
    """Return the probability that Student's t with df degrees of freedom is further from 0."""
    return incomplete_beta(df / 2.0, 0.5, df / (df + t * t))


def fisher_above(f: float, df1: float, df2: float) -> float:
    """Return the probability that F with these degrees of freedom is larger."""
    return incomplete_beta(df2 / 2.0, df1 / 2.0, df2 / (df2 + df1 * f))


@lru_cache(maxsize=64)
def student_quantile(confidence: float, df: float) -> float:
    """Return the t that Student's t stays within, both ways, with this confidence (0.90).

    By bisection: the tail falls strictly with t, so this cannot miss.
    """
    tail = 1.0 - confidence
    low, high = 0.0, 1.0
    while student_two_sided(high, df) > tail:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = (low + high) / 2.0
        if not low < middle < high:
            break
        if student_two_sided(middle, df) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


# ---- the rows, in one pass -------------------------------------------------------------------


class Moments:
    """What a fit needs of rows ``(x1 … xk, y)``; O(k²) numbers, whatever the number of rows.

    n          rows taken
    pairs      rows of which the one before was taken too
    low, high  float64 (k + 1,), smallest and largest value of each column
    """

    def __init__(self, variables: int) -> None:
        c = variables + 1
        self.n = 0
        self.pairs = 0
        self.low, self.high = np.full(c, np.inf), np.full(c, -np.inf)
        self._mean = np.zeros(c)
        self._root = np.zeros((c, c))  # R of the centred rows: RᵀR are their cross products
        self._first = np.zeros(c)  # rows are told by their distance from the first one
        self._last: F64 | None = None  # the row before, if it was taken
        self._cross = np.zeros((c, c))  # sum of a row times the one before
        self._ahead, self._behind = np.zeros(c), np.zeros(c)  # sums over the pairs

    @property
    def variables(self) -> int:
        """The number of variables, k."""
        return len(self.low) - 1

    def add(self, row: F64) -> None:
        """Take a row; it follows the one taken before unless ``skip`` came between."""
        self.n += 1
        self.low, self.high = np.minimum(self.low, row), np.maximum(self.high, row)
        away = row - self._mean
        self._mean = self._mean + away / self.n
        _rotate(self._root, away * math.sqrt((self.n - 1) / self.n))
        if self.n == 1:
            self._first = row.copy()
        distance = row - self._first
        if self._last is not None:
            self.pairs += 1
            self._cross = self._cross + np.outer(distance, self._last)
            self._ahead, self._behind = self._ahead + distance, self._behind + self._last
        self._last = distance

    def skip(self) -> None:
        """Say that a row was left out here: its neighbours are not next to each other."""
        self._last = None

    def fit(self) -> "Model":
        """Return the model of the rows taken.

        errors  ``ValueError`` that says why there is none
        """
        k, n = self.variables, self.n
        if n <= k + 1:
            raise ValueError(f"{n} rows are too few for {k + 1} parameters")
        root = self._root
        spread = np.sqrt((root[:, :k] ** 2).sum(axis=0))  # of each variable, times sqrt(n - 1)
        if (np.abs(np.diagonal(root)[:k]) <= COLLINEAR * spread).any():
            raise ValueError("a variable is constant or follows from the others")
        inverse = _inverse(root[:k, :k])
        slope = inverse @ root[:k, k]
        total, left = float((root[:, k] ** 2).sum()), float(root[k, k] ** 2)
        mean_x, mean_y = self._mean[:k], float(self._mean[k])
        beta = np.concatenate([[mean_y - float(slope @ mean_x)], slope])
        variance = left / (n - k - 1)
        spreads = inverse @ inverse.T
        own = 1.0 / n + float(mean_x @ spreads @ mean_x)
        se = np.sqrt(variance * np.concatenate([[own], np.diagonal(spreads)]))
        return Model(
            n=n, beta=beta, se=se, explained=total - left, left=left, total=total, mean=mean_y,
            bias=n * (mean_y - float(beta[0]) - float(slope @ mean_x)),
            rho=self._autocorrelation(slope, left), low=self.low[:k], high=self.high[:k],
        )  # fmt: skip

    def _autocorrelation(self, slope: F64, left: float) -> float:
        """Return the lag-1 autocorrelation of the residuals; gaps are scaled for."""
        if left <= 0 or not self.pairs:
            return 0.0
        to_residual = np.concatenate([-slope, [1.0]])
        shift = float(to_residual @ (self._mean - self._first))
        products = float(to_residual @ self._cross @ to_residual)
        products -= shift * float(to_residual @ (self._ahead + self._behind))
        products += self.pairs * shift * shift
        return products / left * (self.n - 1) / self.pairs

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "n": self.n,
            "pairs": self.pairs,
            "bounds": kept(np.where(self.n, [self.low, self.high], 0.0)),
            "mean": kept(self._mean),
            "root": kept(self._root),
            "first": kept(self._first),
            "last": None if self._last is None else kept(self._last),
            "cross": kept(self._cross),
            "sums": kept(np.stack([self._ahead, self._behind])),
        }

    def load(self, state: Mapping[str, object]) -> None:
        """Take over what ``save`` returned."""
        shape = self._root.shape
        self.n, self.pairs = int(str(state["n"])), int(str(state["pairs"]))
        if self.n:
            self.low, self.high = floats(state, "bounds").reshape(2, -1)
        self._mean, self._first = floats(state, "mean"), floats(state, "first")
        self._root = floats(state, "root").reshape(shape)
        self._last = None if state["last"] is None else floats(state, "last")
        self._cross = floats(state, "cross").reshape(shape)
        self._ahead, self._behind = floats(state, "sums").reshape(2, -1)


def _rotate(root: F64, row: F64) -> None:
    """Bring a triangular factor up to date with one more row; both are changed."""
    for j in range(len(row)):
        length = math.hypot(root[j, j], row[j])
        if length == 0.0:
            continue
        c, s = root[j, j] / length, row[j] / length
        above, below = root[j, j:].copy(), row[j:].copy()
        root[j, j:] = c * above + s * below
        row[j:] = c * below - s * above


def _inverse(root: F64) -> F64:
    """Return the inverse of an upper triangle, by back substitution."""
    k = len(root)
    found = np.zeros((k, k))
    for j in range(k):
        for i in range(j, -1, -1):
            known = float(root[i, i + 1 : j + 1] @ found[i + 1 : j + 1, j])
            found[i, j] = (float(i == j) - known) / root[i, i]
    return found


# ---- the model -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Model:
    """``y = b0 + b1·x1 + … + bk·xk``, fixed.

    n          rows of the fit
    beta, se   float64 (k + 1,), coefficients, the intercept first, and their standard errors
    explained  sum of squares that the variables explain; left: of the residuals; total: of y
    bias       sum of the residuals
    rho        lag-1 autocorrelation of the residuals
    low, high  float64 (k,), range of each variable in the rows of the fit
    """

    n: int
    beta: F64
    se: F64
    explained: float
    left: float
    total: float
    mean: float
    bias: float
    rho: float
    low: F64
    high: F64

    @property
    def parameters(self) -> int:
        """The number of coefficients, the intercept included: p."""
        return len(self.beta)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the residuals, n - p."""
        return self.n - self.parameters

    @property
    def rmse(self) -> float:
        """Standard deviation of the residuals, with n - p."""
        return math.sqrt(self.left / self.freedom)

    @property
    def t(self) -> F64:
        """Student's t of each coefficient, (p,); infinite for a fit without residuals."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.beta == 0.0, 0.0, self.beta / self.se)

    @property
    def p_values(self) -> F64:
        """Two-sided probability of each t, (p,)."""
        return np.array([student_two_sided(float(t), self.freedom) for t in self.t])

    @property
    def r2(self) -> float:
        """Coefficient of determination; 0 where y does not vary."""
        return self.explained / self.total if self.total > 0 else 0.0

    @property
    def r2_adjusted(self) -> float:
        """R² corrected for the number of parameters."""
        return 1.0 - (1.0 - self.r2) * (self.n - 1) / self.freedom

    @property
    def cv_rmse(self) -> float:
        """CV(RMSE) as a fraction of the mean, with n - p; NaN where the mean is 0."""
        return self.rmse / self.mean if self.mean else math.nan

    @property
    def nmbe(self) -> float:
        """Normalised mean bias error as a fraction, with n - p; NaN where the mean is 0.

        A fit with an intercept has none but what rounding leaves.
        """
        if not self.mean:
            return math.nan
        found = self.bias / (self.freedom * self.mean)
        return found if abs(found) > _ROUNDING else 0.0

    @property
    def f(self) -> float:
        """F of the regression; infinite without residuals, 0 without variables."""
        k = self.parameters - 1
        if not k or self.explained == 0.0:
            return 0.0
        return self.explained / k / (self.left / self.freedom) if self.left > 0 else math.inf

    @property
    def p_f(self) -> float:
        """Probability of a larger F; 1 without variables."""
        k = self.parameters - 1
        return fisher_above(self.f, k, self.freedom) if k else 1.0

    @property
    def independent(self) -> float:
        """The number of independent rows ``n' = n (1 - rho) / (1 + rho)``, at least 1.

        A negative autocorrelation would make it larger than n and is counted as none.
        """
        rho = min(max(self.rho, 0.0), 1.0)
        return max(self.n * (1.0 - rho) / (1.0 + rho), 1.0)

    def predict(self, x: F64) -> F64:
        """Return the expected values of rows of variables, (k, m) -> (m,)."""
        found = np.full(x.shape[1], self.beta[0])
        for slope, column in zip(self.beta[1:], x, strict=True):
            found = found + slope * column
        return found

    def within(self, x: F64, margin: float) -> NDArray[np.bool_]:
        """Return which rows (k, m) lie in the range of the fit, widened by a share of itself."""
        slack = margin * (self.high - self.low)
        inside = (x >= (self.low - slack)[:, None]) & (x <= (self.high + slack)[:, None])
        found: NDArray[np.bool_] = np.logical_and.reduce(inside, axis=0)
        return found

    def uncertainty(self, expected: float, rows: int, confidence: float) -> float:
        """Return by how much the saving of so many rows may be wrong, in units of y.

        ``t · 1.26 · CV(RMSE) · sqrt(n / n' · (1 + 2 / n') / m) · expected``: the fractional savings
        uncertainty times the saving, which is defined where nothing was saved too.

        expected  what the model expected of the rows together; rows: m
        source    ASHRAE Guideline 14-2014, annex B (read in secondary sources only)
        """
        if not rows or not self.mean:
            return math.nan
        n, free = self.n, self.independent
        share = math.sqrt(n / free * (1.0 + 2.0 / free) / rows)
        t = student_quantile(confidence, self.freedom)
        return abs(t * HOURLY * self.cv_rmse * share * expected)
