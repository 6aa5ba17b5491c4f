"""What a KPI adds up, and how a row is made of it: the same for every window.

A KPI's formula says which of its columns are additive (amounts, times, counts, sums of minutes) and
derives the others from them with one pure function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import (
    BAD,
    MINUTE,
    MISSING,
    NOT_AVAILABLE,
    UNCERTAIN,
    QualityLimits,
    Window,
)
from edge_agent.metrics.windows import PERIODS
from edge_agent.model import F64, I64, U8, Family, SampleBlock, Schema, Tag
from edge_agent.units import Unit

T = TypeVar("T", bound=np.generic)
_SHARE = Unit.parse("1")
SHARES = (Tag("coverage", _SHARE), Tag("estimated", _SHARE))


@dataclass
class Sums:
    """Additive numbers of n windows.

    total      float64 (a, n), sums of the additive columns, in exact steps where they have some; of
               a column that is a peak, the largest
    known      int64 (a, n), base rows in which the column was known
    worst      uint8 (a, n), worst quality of those; of a row in which it was not known, why
    covered, estimated, length   int64 (n,), ns
    expected   float64 (n,), base rows that the window has when nothing is missing
    """

    total: F64
    known: I64
    worst: U8
    covered: I64
    estimated: I64
    length: I64
    expected: F64

    @classmethod
    def zeros(cls, a: int, n: int) -> "Sums":
        """Return n windows of a columns without any base slot; the length is that of one slot."""
        counts = np.zeros((a, n), np.int64)
        spans = np.zeros(n, np.int64)
        worst = np.zeros((a, n), np.uint8)
        length = np.full(n, MINUTE)
        return cls(np.zeros((a, n)), counts, worst, spans, spans.copy(), length, np.ones(n))

    def set(self, column: int, value: F64, quality: U8) -> None:
        """Set one additive column of base slots; it is unknown where the quality is bad."""
        good = quality < BAD
        self.total[column] = np.where(good, value, 0.0)
        self.known[column] = good
        self.worst[column] = quality

    def share(self) -> F64:
        """Return the covered and estimated share of each window."""
        return (self.covered + self.estimated) / self.length


class Formula:
    """The pure part of a KPI, the same for every window; a frozen dataclass inherits from it.

    limits  the thresholds of window quality
    """

    limits: QualityLimits

    @property
    def family(self) -> Family:
        """The measurement its rows belong to."""
        raise NotImplementedError

    @property
    def tags(self) -> tuple[Tag, ...]:
        """The columns, in the order in which they are published; the last two are ``SHARES``."""
        raise NotImplementedError

    @property
    def additive(self) -> tuple[str, ...]:
        """The columns that are added up."""
        raise NotImplementedError

    @property
    def scale(self) -> F64:
        """What the published additive columns are multiplied with to be the totals, (a,)."""
        return np.ones(len(self.additive))

    @property
    def peaks(self) -> NDArray[np.bool_]:
        """Which additive columns are merged by their maximum instead of their sum, (a,)."""
        return np.zeros(len(self.additive), bool)

    @property
    def by_coverage(self) -> NDArray[np.bool_]:
        """Which additive columns are as good as the coverage of the whole window, (a,).

        Of these, a row that is UNCERTAIN for its own coverage only is added up as if it were good.
        """
        return np.ones(len(self.additive), bool)

    @property
    def sources(self) -> tuple[str, ...]:
        """Ids of the table rows that it computes with."""
        return ()

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        """Return value and quality of all columns but the last two, (k - 2, n)."""
        raise NotImplementedError


def stacked(columns: Sequence[NDArray[T]]) -> NDArray[T]:
    """Return columns (n,) as one array (m, n); ``np.stack`` takes three times as long."""
    return np.concatenate(columns).reshape(len(columns), -1)


def merged(sums: Sums, limits: QualityLimits) -> U8:
    """Return the quality of additive columns: (a, n).

    A sum is bad only when none of its parts is known, and uncertain when some is not.
    """
    partly = (sums.known < sums.expected) | (sums.share() < limits.uncertain_below)
    quality = np.maximum(sums.worst, partly * np.uint8(UNCERTAIN))
    none = sums.known == 0
    if np.count_nonzero(none):
        quality = np.where(none, unknown(sums), quality)
    return quality.astype(np.uint8)


def unknown(sums: Sums) -> U8:
    """Return the quality of columns that are not known: the reason, where there is one, (a, n)."""
    return np.where(sums.worst < BAD, np.uint8(MISSING), sums.worst)


def worse(one: tuple[U8, I64], other: tuple[U8, I64]) -> U8:
    """Return the worst quality of known rows of two parts; of unknown ones only if no row is known.

    Each part is (worst, known), as in ``Sums``.
    """
    (first, some), (second, more) = one, other
    first = np.where((some == 0) & (more > 0), 0, first)
    second = np.where((more == 0) & (some > 0), 0, second)
    return np.maximum(first, second).astype(np.uint8)


def graded(quality: U8, share: F64, limits: QualityLimits) -> U8:
    """Return a quality that is at least as bad as the share of good time makes it."""
    thin, missing = share < limits.uncertain_below, share < limits.bad_below
    quality = np.maximum(quality, thin * np.uint8(UNCERTAIN))
    if np.count_nonzero(missing):
        quality = np.where(missing & (quality < BAD), MISSING, quality)
    return quality.astype(np.uint8)


def ratio(over: F64, under: F64, quality: U8) -> tuple[F64, U8]:
    """Return the quotient and its quality: ``BAD_NOT_AVAILABLE`` where the divisor is 0."""
    there = under != 0
    if np.count_nonzero(there) == there.size:
        return over / under, quality.astype(np.uint8)
    value = np.divide(over, under, out=np.full(over.shape, np.nan), where=there)
    return value, np.where(~there & (quality < BAD), NOT_AVAILABLE, quality).astype(np.uint8)


def row_of(formula: Formula, schema: Schema, time: I64, sums: Sums) -> SampleBlock:
    """Return the published rows of windows."""
    derived, marks = formula.derive(sums)
    value, quality = (
        np.empty((len(marks) + 2, len(time))),
        np.zeros((len(marks) + 2, len(time)), np.uint8),
    )
    value[:-2], quality[:-2] = derived, marks
    value[:-2][marks >= BAD] = np.nan
    value[-2], value[-1] = sums.covered / sums.length, sums.estimated / sums.length
    return SampleBlock(schema, time, value, quality)


def schema_of(
    name: str, window: Window, formula: Formula, provenance: tuple[str, ...] = ()
) -> Schema:
    """Return the schema of a KPI's stream of one window; provenance: see ``Plant.provenance``."""
    stream, period = f"{name}/{window}", PERIODS[window]
    return Schema(stream, formula.family, formula.tags, period, provenance)
