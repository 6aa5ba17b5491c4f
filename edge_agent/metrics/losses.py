"""Ratios and losses of one machine or several, from sums of their times and of their pieces.

Nothing here is averaged: every figure is a quotient or a difference of sums, so it is right for any
window and any number of machines. ``ideal`` is the time that the pieces of a machine take at its
ideal cycle, PRI · PQ; of several machines it is the sum of theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.metrics.base import QualityLimits
from edge_agent.metrics.formula import Sums, graded, merged, ratio, stacked
from edge_agent.model import F64, U8, Kind, Tag
from edge_agent.units import Unit

Cells = dict[str, tuple[F64, U8]]  # value and quality, (n,)
Quotients = dict[str, tuple[F64, F64, U8]]  # dividend, divisor and quality, (n,)

# parts of PBT: together they are it
WATERFALL = (
    "good_time_s", "quality_loss_s", "speed_loss_s", "unknown_s", "aust_s", "fault_s", "delay_s",
    "blocked_s", "starved_s", "micro_stop_s", "adot_s",
)  # fmt: skip
TIMES = ("apt_s", "pbt_s", "aust_s", "adet_s", "adot_s")
RATIOS = (
    "availability", "effectiveness", "quality_ratio", "oee", "nee", "teep",
    "utilization_efficiency", "technical_efficiency", "allocation_efficiency", "setup_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class Practice:
    """How the figures are computed where practices differ.

    tpm         micro-stops are a performance loss (Nakajima), not one of availability (ISO 22400-2)
    micro_stop  seconds below which a stop is one; 0: none is
    plus_one    MTBF and MTTR are over failures + 1, as ISO 22400-2 prints it
    """

    tpm: bool = False
    micro_stop: float = 0.0
    plus_one: bool = True


def seconds(*names: str) -> tuple[Tag, ...]:
    """Return columns of time."""
    return tuple(Tag(name, Unit.parse("s")) for name in names)


def shares(*names: str) -> tuple[Tag, ...]:
    """Return columns without a unit."""
    return tuple(Tag(name, Unit.parse("1")) for name in names)


def practice_tags() -> tuple[Tag, ...]:
    """Return the columns that say how the others were computed; ``scheme`` 0: ISO, 1: TPM."""
    return (Tag("scheme", Unit.parse("1"), Kind.STATE), *seconds("micro_stop_limit_s"))


def practice_cells(practice: Practice, n: int) -> Cells:
    """Return what stands in them."""
    said = np.full(n, float(practice.tpm)), np.full(n, practice.micro_stop)
    good = np.zeros(n, np.uint8)
    return {"scheme": (said[0], good), "micro_stop_limit_s": (said[1], good)}


def summed(names: tuple[str, ...], sums: Sums, scale: F64, limits: QualityLimits) -> Cells:
    """Return the additive columns and their quality."""
    total = sums.total / scale[:, None]
    return dict(zip(names, zip(total, merged(sums, limits), strict=True), strict=True))


def waterfall(cells: Cells, ideal: F64, ideal_good: F64) -> Cells:
    """Return into what the production time falls; a speed loss below 0: the cycle is too slow.

    ideal, ideal_good  (n,), s: all pieces and the good ones at the ideal cycle
    """
    (apt, a), (_, p), (_, g), (unknown, _) = (
        cells[name] for name in ("apt_s", "produced", "good", "unknown_s")
    )
    quality = np.maximum(p, g)
    return {
        "good_time_s": (ideal_good, quality),
        "quality_loss_s": (ideal - ideal_good, quality),
        "speed_loss_s": (apt - unknown - ideal, np.maximum(a, p)),
    }


def not_covered(cells: Cells, sums: Sums, machines: int = 1) -> Cells:
    """Return the time of which the state is not known, of all machines."""
    known = sum((cells[name][0] for name in ("pbt_s", "planned_stop_s", "outside_s")), start=0.0)
    length = machines * sums.length / 1e9
    return {"not_covered_s": (length - known, np.zeros(len(sums.length), np.uint8))}


def ratios(
    cells: Mapping[str, tuple[F64, U8]], ideal: F64, ideal_good: F64, practice: Practice
) -> Quotients:
    """Return what ``RATIOS`` are the quotients of.

    OEE is PRI · GQ / PBT: the product A · E · QR, and 0 where nothing was produced in busy time.
    TEEP is over all time of which the state is known.
    """
    (apt, a), (pbt, _), (aust, _), (adet, _), (_, p), (_, g) = (
        cells[name] for name in (*TIMES[:4], "produced", "good")
    )
    micro = cells["micro_stop_s"][0] if practice.tpm and "micro_stop_s" in cells else 0.0
    run, processing = apt + micro, apt + aust
    busy = processing + adet
    known = pbt + cells["planned_stop_s"][0] + cells["outside_s"][0]
    ap, pg = np.maximum(a, p), np.maximum(p, g)
    every = np.maximum(ap, g)
    return {
        "availability": (run, pbt, a),
        "effectiveness": (ideal, run, ap),
        "quality_ratio": (ideal_good, ideal, pg),
        "oee": (ideal_good, pbt, every),
        "nee": (processing * ideal_good, pbt * apt, every),
        "teep": (ideal_good, known, every),
        "utilization_efficiency": (apt, busy, a),
        "technical_efficiency": (apt, apt + adet, a),
        "allocation_efficiency": (busy, pbt, a),
        "setup_ratio": (aust, processing, a),
    }


def quotient_cells(quotients: Quotients, sums: Sums, limits: QualityLimits) -> Cells:
    """Return quotients, graded by the share of good time, in one array operation."""
    dividends, divisors, marked = zip(*quotients.values(), strict=True)
    over, under, quality = stacked(dividends), stacked(divisors), stacked(marked)
    value, marks = ratio(over, under, graded(quality, sums.share(), limits))
    return dict(zip(quotients, zip(value, marks, strict=True), strict=True))


def between_failures(
    cells: Mapping[str, tuple[F64, U8]], practice: Practice, machines: int = 1
) -> Quotients:
    """Return what MTBF and MTTR are the quotients of, s.

    Time between failures is that of setup and production; time to restoration that of failures.
    """
    (apt, a), (aust, _), (fault, _), (failures, _) = (
        cells[name] for name in ("apt_s", "aust_s", "fault_s", "failures")
    )
    events = failures + machines * practice.plus_one
    return {"mtbf_s": (apt + aust, events, a), "mttr_s": (fault, events, a)}
