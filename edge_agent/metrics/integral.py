"""Amounts from a rate: energy from power, tonnes from t/h, by the trapezoidal rule.

Between two usable readings the rate is a straight line, and the amount below it is their mean times
the time between them; a slot's border between them is on that line. Readings further apart than
three periods are an outage: nothing is made up for it, its time is not covered. So a plain load
that is switched on and off is neither counted twice nor left out, and the sum of the slots is the
trapezoid of the readings themselves.
"""

import re

import numpy as np

from edge_agent.metrics.base import MINUTE, MISSING, UNCERTAIN, usable
from edge_agent.metrics.pace import Mask
from edge_agent.model import F64, I64, U8
from edge_agent.units import Unit

_PER = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_POWERS = {Unit.parse(code).dimension for code in ("kW", "kvar", "kVA")}


def amount_unit(rate: Unit) -> tuple[Unit, float]:
    """Return the unit of a rate's amount, and how many seconds a rate of one takes for it.

    ``kW`` -> ``kWh``, 3600; ``t/h`` -> ``t``, 3600; ``m3/min`` -> ``m3``, 60

    errors  ``ValueError`` when the unit is that of no rate
    """
    per = re.fullmatch(r"(.+?)(?:/(s|min|h|d)|\.(s|min|h|d)-1)", rate.code)
    if per is not None:
        return Unit.parse(per[1]), _PER[per[2] or per[3]]
    if rate.dimension not in _POWERS:
        raise ValueError(f"{rate.code} is no rate, so it has no amount (kW, t/h, m3/h have one)")
    try:
        return Unit.parse(f"{rate.code}h"), 3600.0
    except ValueError:
        return Unit.parse(f"{rate.code}.h"), 3600.0


def integrate(time: I64, value: F64, quality: U8, ends: I64, silence: int) -> tuple[F64, U8, I64]:
    """Return value times seconds, worst quality and covered ns of the slots with these ends.

    time, value, quality  (m,), rows of one gauge: those in the slots, the last usable one before
                          and the first usable one after
    silence               ns; readings further apart are an outage
    returns               each (n,); 0, 0 and 0 where nothing is covered
    """
    good = usable(value, quality)
    time, value, quality = time[good], value[good], quality[good]
    n, length = len(ends), np.diff(time)
    linked = np.flatnonzero((length > 0) & (length <= silence))
    if not len(linked) or not n:
        return np.zeros(n), np.zeros(n, np.uint8), np.zeros(n, np.int64)
    first = time[linked] // MINUTE
    several = (time[linked + 1] - 1) // MINUTE - first + 1  # slots that a pair of readings is in
    pair = np.repeat(linked, several)
    slot = np.repeat(first - np.cumsum(several) + several, several) + np.arange(several.sum())
    place = np.minimum(np.searchsorted(ends, (slot + 1) * MINUTE), n - 1)
    wanted = ends[place] == (slot + 1) * MINUTE
    pair, slot, place = pair[wanted], slot[wanted], place[wanted]
    start = np.maximum(time[pair], slot * MINUTE)
    end = np.minimum(time[pair + 1], (slot + 1) * MINUTE)
    v0, slope = value[pair], (value[pair + 1] - value[pair]) / length[pair].astype(np.float64)
    middle = v0 + slope * ((start - time[pair] + end - time[pair]) / 2.0)
    # in the order of the rows, whatever blocks they came in: the bits must not depend on those
    amount = np.bincount(place, middle * ((end - start) / 1e9), n).astype(np.float64)
    covered = np.bincount(place, end - start, n).astype(np.int64)
    worst = np.zeros(n, np.uint8)
    np.maximum.at(worst, place, np.maximum(quality[pair], quality[pair + 1]))
    return amount, worst, covered


def last_usable(time: I64, good: Mask, before: I64) -> I64:
    """Return the time of the last usable row of each column, (c,); ``before`` where there is none.

    time (m,), good (c, m), before (c,)
    """
    there = good.any(axis=1)
    last = good.shape[1] - 1 - np.argmax(good[:, ::-1], axis=1)
    return np.where(there, time[last], before)


def marked(quality: U8, covered: I64, length: int, uncertain_below: float) -> U8:
    """Return the quality of amounts: BAD only where nothing is covered, UNCERTAIN where little."""
    thin = covered < uncertain_below * length
    quality = np.where(thin, np.maximum(quality, UNCERTAIN), quality)
    return np.where(covered == 0, MISSING, quality).astype(np.uint8)
