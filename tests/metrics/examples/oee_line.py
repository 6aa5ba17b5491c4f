"""The example of ``oee-line`` that the laws run on, and its oracle."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from edge_agent.metrics.oee import OeeConfig
from edge_agent.metrics.oee_line import OeeLineConfig
from edge_agent.model import SampleBlock
from edge_agent.units import Duration
from tests.metrics.examples import WINDOWS, oee
from tests.metrics.oracle import (
    BAD,
    GOOD,
    MINUTE,
    MISSING,
    UNCERTAIN,
    Cell,
    Part,
    Result,
    Span,
    graded,
    of_spans,
    quotient,
    summed_quality,
)
from tests.metrics.plants import as_streams

OTHER = {"producing": (2, 6), "blocked": (1,), "fault": (5,), "maintenance": (3,)}
OTHERS = {
    "one": replace(oee.CONFIG, windows=("1min",)),
    "two": OeeConfig(
        state="packer.reason",
        states=OTHER,
        produced="packer.reject",
        ideal_cycle=Duration(2.0),
        windows=("1min",),
    ),
}
CONFIG = OeeLineConfig(machines=("one", "two"), scheme="tpm", windows=WINDOWS)
SUMS = ("apt_s", "pbt_s", "blocked_s", "micro_stop_s", "produced", "failures", "good_time_s")
_PARTS = ("good_time_s", "quality_loss_s", "unknown_s", "fault_s", "blocked_s", "micro_stop_s")
_TIMES = ("apt_s", "pbt_s", "aust_s", "adet_s", "adot_s", *_PARTS, "planned_stop_s", "outside_s")


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    two = oee.oee(
        as_streams(rows),
        state="packer.reason",
        states=OTHER,
        produced="packer.reject",
        rejected=None,
        ideal_cycle=2.0,
    )
    return line([oee.expected(rows, None), two], spans)


def line(machines: list[Result], spans: list[Span] | None) -> Result:
    """Rows of the line from the minutes of its machines."""
    parts = {}
    first, last = min(min(m) for m in machines), min(max(m) for m in machines)
    for end in range(first, last + 1, MINUTE):
        told = [m.get(end) for m in machines]
        part = Part({}, {}, {}, 0, 0)
        for row in told:
            if row is not None:
                part.covered += round(row["coverage"][0] * MINUTE)
                part.estimated += round(row["estimated"][0] * MINUTE)
        part.covered //= len(machines)
        part.estimated //= len(machines)
        for name in (*_TIMES, "stops", "failures", "produced", "good"):
            unit = 1_000_000_000 if name in _TIMES else 1
            cells: list[Cell] = [
                (None, MISSING) if r is None else r.get(name, (0.0, 0)) for r in told
            ]
            good = [(value or 0.0, quality) for value, quality in cells if quality < BAD]
            part.known[name] = int(bool(good))
            amounts = [round(v * unit) if unit > 1 else Fraction(v) for v, _ in good]
            part.total[name] = sum((Fraction(amount) for amount in amounts), Fraction(0))
            part.worst[name] = max((q for _, q in good), default=max(q for _, q in cells))
            if good and len(good) < len(cells):
                part.worst[name] = max(part.worst[name], UNCERTAIN)
        parts[end] = part

    def derive(part: Part) -> dict[str, Cell]:
        q = {name: summed_quality(part, name) for name in part.total}
        n = {
            name: float(total / 1_000_000_000) if name in _TIMES else float(total)
            for name, total in part.total.items()
        }

        def share(over: float, under: float, *of: str) -> Cell:
            return quotient(over, under, graded(max(q[name] for name in of), part.share()))

        apt, aust, adet, pbt = (n[name] for name in ("apt_s", "aust_s", "adet_s", "pbt_s"))
        best, ideal = n["good_time_s"], n["good_time_s"] + n["quality_loss_s"]
        run = apt + n["micro_stop_s"]
        known = pbt + n["planned_stop_s"] + n["outside_s"]
        every = ("apt_s", "good_time_s", "quality_loss_s")
        failures = n["failures"] + len(machines)
        return {name: (n[name], q[name]) for name in n} | {
            "availability": share(run, pbt, "apt_s"),
            "effectiveness": share(ideal, run, "apt_s", "quality_loss_s"),
            "quality_ratio": share(best, ideal, "good_time_s", "quality_loss_s"),
            "oee": share(best, pbt, *every),
            "nee": share((apt + aust) * best, pbt * apt, *every),
            "teep": share(best, known, *every),
            "utilization_efficiency": share(apt, apt + aust + adet, "apt_s"),
            "technical_efficiency": share(apt, apt + adet, "apt_s"),
            "allocation_efficiency": share(apt + aust + adet, pbt, "apt_s"),
            "setup_ratio": share(aust, apt + aust, "apt_s"),
            "mtbf_s": share(apt + aust, failures, "apt_s"),
            "mttr_s": share(n["fault_s"], failures, "apt_s"),
            "speed_loss_s": (apt - n["unknown_s"] - ideal, max(q["apt_s"], q["quality_loss_s"])),
            "not_covered_s": (len(machines) * part.minutes * 60.0 - known, GOOD),
            "scheme": (1.0, GOOD),
        }

    return of_spans(parts, spans, derive)
