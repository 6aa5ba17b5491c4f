"""Minute means of what stands on a stack: samples, values that hold, states.

A source that is read at least every ``FAST`` seconds is averaged over its samples (HJ 212-2017,
formula 23: Σ/n) and its minute is known with 75 % of those expected. A slower one (a humidity read
each minute, a recorded hourly mean) holds its value until the next row, at most three periods, and
its minute is known when values hold for 75 % of it. HJ 76 asks for a sample each 5 s: what is
slower is computed, but it does not comply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, SILENCE, usable
from edge_agent.metrics.join import Reading, Rows
from edge_agent.model import F64, I64, U8, Quality

ENOUGH = 0.75  # share of the expected samples that makes a minute's mean
FAST = 15.0  # s; with fewer samples in a minute 75 % of them is no measure

Mask = NDArray[np.bool_]
_BAD, _MISSING, _NONE = (
    int(q) for q in (Quality.BAD, Quality.BAD_MISSING, Quality.BAD_NOT_AVAILABLE)
)  # an enum's look-up costs 1 µs


@dataclass(frozen=True)
class Means:
    """Minute means: value, worst quality of what was used, share of the minute that was known."""

    value: F64
    quality: U8
    share: F64

    @property
    def known(self) -> Mask:
        """Where there is a value."""
        found: Mask = self.quality < _BAD
        return found

    @classmethod
    def constant(cls, value: float, n: int) -> "Means":
        """Return n minutes of a number that the configuration gives."""
        return cls(np.full(n, value), np.zeros(n, np.uint8), np.ones(n))

    def made(self, value: F64, *others: "Means", where: "Mask | None" = None) -> "Means":
        """Return what was computed from these and other means; not available outside ``where``."""
        quality, share = self.quality, self.share
        for other in others:
            quality = np.maximum(quality, other.quality)
            share = np.minimum(share, other.share)
        if where is not None:
            impossible = (quality < _BAD) & ~where
            quality = np.where(impossible, _NONE, quality).astype(np.uint8)
        return Means(np.where(quality < _BAD, value, 0.0), quality, share)


def minute_means(reading: Reading, factor: float, ends: I64, rows: Mapping[str, Rows]) -> Means:
    """Return the means of the minutes with these ends, times a factor."""
    time, value, quality = reading.read(rows)
    good = usable(value, quality)
    if reading.period <= FAST:
        place, chosen = _sampled(time, good, ends)
        weight = np.ones(len(place))
        full = max(1.0, round(60.0 / reading.period))
    else:
        place, chosen, spans = _holding(time, good, round(SILENCE * reading.period * 1e9), ends)
        weight = spans.astype(np.float64)
        full = float(MINUTE)
    n = len(ends)
    # bincount adds in the order of the rows: the bits do not depend on the partition
    total = np.bincount(place, weight * value[chosen], n)
    weights = np.bincount(place, weight, n)
    worst = np.zeros(n, np.uint8)
    np.maximum.at(worst, place, quality[chosen])
    share = np.minimum(1.0, weights / full)
    mean = np.divide(total, weights, out=np.zeros(n), where=weights > 0) * factor
    worst = np.where(share >= ENOUGH, worst, _MISSING).astype(np.uint8)
    return Means(mean, worst, share)


def _sampled(time: I64, good: Mask, ends: I64) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, of each usable row in the minutes, the minute and the row."""
    place = np.searchsorted(ends, time, "right")
    last = np.minimum(place, len(ends) - 1)
    chosen = np.flatnonzero(good & (place < len(ends)) & (time >= ends[last] - MINUTE))
    return place[chosen], chosen


def _holding(
    time: I64, good: Mask, silence: int, ends: I64
) -> tuple[NDArray[np.intp], NDArray[np.intp], I64]:
    """Return, of each usable row that holds in a minute: the minute, the row, and for how long."""
    starts = ends - MINUTE
    first = np.maximum(np.searchsorted(time, starts, "right") - 1, 0)
    count = np.maximum(np.searchsorted(time, ends) - first, 0)
    place = np.repeat(np.arange(len(ends)), count)
    before = np.cumsum(count) - count
    row = np.arange(len(place)) - before[place] + first[place]
    until = np.append(time[1:], np.iinfo(np.int64).max)
    until = np.minimum(until, time + silence)[row]
    spans = np.minimum(until, ends[place]) - np.maximum(time[row], starts[place])
    held = (spans > 0) & good[row]
    return place[held], row[held], spans[held]


def spans_in(
    reading: Reading, groups: Sequence[Sequence[int]], ends: I64, rows: Mapping[str, Rows]
) -> I64:
    """Return the ns of each minute in which a state was one of a group's numbers, (groups + 1, n).

    The last row is of all other numbers.
    """
    time, value, quality = reading.read(rows)
    silence = round(SILENCE * reading.period * 1e9)
    place, chosen, spans = _holding(time, usable(value, quality), silence, ends)
    state, found = value[chosen], np.zeros((len(groups) + 1, len(ends)), np.int64)
    for i, numbers in enumerate(groups):
        inside = (state[:, None] == np.array(numbers, np.float64)).any(axis=1)
        found[i] = np.bincount(place, spans * inside, len(ends))
    found[-1] = np.bincount(place, spans, len(ends)) - found.sum(axis=0)
    return found
