"""Slow versions of what expressions do with rows: looking back on one stream, joining several."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from math import isfinite
from operator import itemgetter

from tests.metrics.oracle import BAD, LIMITS, MISSING, NOT_AVAILABLE, UNCERTAIN, Row, usable

Pair = tuple[float | None, int]


def cell(value: float | None, quality: int) -> Pair:
    """A value that is no number is not available; one that is bad is none."""
    if quality >= BAD:
        return None, quality
    if value is None or not isfinite(value):
        return None, NOT_AVAILABLE
    return value, quality


def worse(*marks: int) -> int:
    top = max(marks)
    return 70 if 70 in marks and top < BAD else top


def look_back(
    rows: Sequence[Row], at: Callable[[int, list[Row]], Pair], *, always: bool = False
) -> list[Row]:
    """Rows of a function of the usable rows up to each row; always: also where it is not usable."""
    found: list[Row] = []
    before: list[Row] = []
    for t, value, quality in rows:
        good = usable(value, quality)
        if good:
            before.append((t, value, quality))
        if good or always:
            result, mark = cell(*at(t, before))
        else:
            result, mark = None, quality if quality >= BAD else NOT_AVAILABLE
        found.append((t, float("nan") if result is None else result, mark))
    return found


def rate(rows: Sequence[Row], period: float) -> list[Row]:
    def at(_: int, before: list[Row]) -> Pair:
        if len(before) < 2 or before[-1][0] - before[-2][0] > 3e9 * period:
            return None, MISSING
        (t0, v0, q0), (t1, v1, q1) = before[-2:]
        return (v1 - v0) / ((t1 - t0) / 1e9) if t1 > t0 else None, max(q0, q1)

    return look_back(rows, at)


def delta(rows: Sequence[Row], period: float, span: float, *, rises: bool = True) -> list[Row]:
    """rises: a counter, whose fall is not known."""

    def at(t: int, before: list[Row]) -> Pair:
        due = t - round(span * 1e9)
        old = bisect_right(before, due, key=itemgetter(0)) - 1
        if old < 0 or due - before[old][0] > 3e9 * period:
            return None, MISSING
        change = before[-1][1] - before[old][1]
        return (None if rises and change < 0 else change), max(before[-1][2], before[old][2])

    return look_back(rows, at)


def over(
    rows: Sequence[Row], period: float, span: float, fold: Callable[[list[float]], float]
) -> list[Row]:
    def at(t: int, before: list[Row]) -> Pair:
        inside = before[bisect_right(before, t - round(span * 1e9), key=itemgetter(0)) :]
        if not inside:
            return None, MISSING
        share = min(1.0, len(inside) * period / span)
        quality = max(row[2] for row in inside)
        quality = max(quality, UNCERTAIN) if share < LIMITS[0] else quality
        return fold([row[1] for row in inside]), MISSING if share < LIMITS[1] else quality

    return look_back(rows, at, always=True)


def forecast(rows: Sequence[Row], period: float, span: float) -> list[Row]:
    length = round(span * 1e9)

    def at(t: int, before: list[Row]) -> Pair:
        end = t // length * length + length
        inside = before[bisect_left(before, end - length, key=itemgetter(0)) :]
        left = (end - t) / (period * 1e9)
        total = sum(row[1] for row in inside)
        return (total + left * inside[-1][1]) / (len(inside) + left), inside[-1][2]

    return look_back(rows, at)


def held(rows: Sequence[Row], period: float, t: int) -> Pair:
    """What a stream says at a time: its first row just then, or the last one before."""
    i = bisect_left(rows, t, key=itemgetter(0))
    if i == len(rows) or rows[i][0] != t:
        i -= 1
    if i < 0 or t - rows[i][0] > 3e9 * period:
        return None, MISSING
    return cell(rows[i][1], rows[i][2])
