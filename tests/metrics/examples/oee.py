"""The example of ``oee`` that the laws run on, and its oracle."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from edge_agent.metrics.oee import OeeConfig
from edge_agent.model import SampleBlock
from edge_agent.units import Duration
from tests.metrics.examples import WINDOWS
from tests.metrics.oracle import (
    ABSENT,
    BAD,
    GOOD,
    MINUTE,
    MISSING,
    UNCERTAIN,
    Cell,
    Joined,
    Part,
    Result,
    Row,
    Span,
    Stream,
    find,
    graded,
    of_spans,
    quotient,
    summed_quality,
    usable,
)
from tests.metrics.plants import as_streams

STATES = {"producing": (1,), "idle": (2,), "fault": (3,), "setup": (4,), "planned_stop": (5,)}
CONFIG = OeeConfig(
    state="packer.state",
    states=STATES,
    produced="packer.bags",
    rejected="packer.reject",
    ideal_cycle=Duration(1.5),
    micro_stop=Duration(40.0),
    scheme="tpm",
    reason="packer.reason",
    reasons={"jam": (1, 2), "no-material": (4,)},
    windows=WINDOWS,
)
SUMS = (
    "apt_s", "pbt_s", "adot_s", "micro_stop_s", "produced", "good", "stops", "failures",
    "reason_jam_s", "good_time_s", "speed_loss_s",
)  # fmt: skip
STANDS = ("fault", "delay", "blocked", "starved", "idle")
DELAYS = ("delay", "blocked", "starved")


def expected(rows: Mapping[str, SampleBlock], spans: list[Span] | None) -> Result:
    """The rows of CONFIG."""
    return oee(
        as_streams(rows),
        state="packer.state",
        states=STATES,
        produced="packer.bags",
        rejected="packer.reject",
        ideal_cycle=1.5,
        micro_stop=40.0,
        tpm=True,
        reason="packer.reason",
        reasons={"jam": (1, 2), "no-material": (4,)},
        spans=spans,
    )


@dataclass
class Stop:
    """A time in which the machine stands; ``seen``: whether its beginning was seen."""

    begin: int
    seen: bool
    end: int | None = None

    def short(self, threshold: int) -> bool:
        return self.seen and self.end is not None and self.end - self.begin < threshold


@dataclass
class Held:
    """A row whose state is known: what it is, until when it holds, and what begins with it."""

    time: int
    until: int
    activity: str
    quality: int
    stop: Stop | None
    reason: str | None
    begins: bool
    fails: bool
    appears: bool


def story(
    rows: Sequence[Row], meaning: Mapping[float, str], why: Sequence[str], silence: int
) -> list[Held]:
    """All known rows of a state, one after the other."""
    found: list[Held] = []
    last: Held | None = None
    for i, (t, value, quality) in enumerate(rows):
        if not usable(value, quality) or value not in meaning:
            continue
        until = min(t + silence, rows[i + 1][0]) if i + 1 < len(rows) else t + silence
        activity, stop = meaning[value], last.stop if last else None
        stands = activity in STANDS
        begins = stands and (last is None or last.activity not in STANDS)
        if begins:
            stop = Stop(t, seen=last is not None)
        elif not stands:
            if last is not None and last.stop is not None:
                last.stop.end = t
            stop = None
        reason = why[i] if stands else None
        fails = activity == "fault" and last is not None and last.activity != "fault"
        appears = reason is not None and (last is None or last.reason != reason)
        begins = begins and last is not None
        last = Held(t, until, activity, quality, stop, reason, begins, fails, appears)
        found.append(last)
    return found


def oee(
    streams: Sequence[tuple[str, Stream]],
    *,
    state: str,
    states: Mapping[str, Sequence[int]],
    produced: str,
    rejected: str | None,
    ideal_cycle: float,
    scrap: str | None = None,
    rework: str | None = None,
    micro_stop: float = 0.0,
    tpm: bool = False,
    plus_one: bool = True,
    reason: str | None = None,
    reasons: Mapping[str, Sequence[int]] | None = None,
    planned: Callable[[int], bool] | None = None,
    spans: Sequence[Span] | None = None,
) -> Result:
    """OEE rows; ``planned``: whether the minute that ends there is."""
    joined = Joined(streams)
    rows = joined.readings(state)
    threshold = round(micro_stop * 1e9)
    silence = round(3e9 * find(streams, state).period)
    meaning = {float(n): name for name, numbers in states.items() for n in numbers}
    names = {float(n): name for name, numbers in (reasons or {}).items() for n in numbers}
    why = ["other"] * len(rows)
    if reason is not None:
        shown = find(streams, reason).rows[reason.partition(".")[2]]
        why = [names.get(v, "other") if usable(v, q) else "lost" for _, v, q in shown]
    held = story(rows, meaning, why, silence)
    counters = {"produced": produced, "rejected": rejected, "scrap": scrap, "rework": rework}
    given = {name: joined.increments(tag) for name, tag in counters.items() if tag}
    times = held and [row.time for row in held]
    until = joined.ends()[-1]
    if held and (stop := held[-1].stop) and stop.seen and rows[-1][0] < stop.begin + threshold:
        until = min(until, stop.begin // MINUTE * MINUTE)  # it is too young to be judged
    parts = {}
    for end in joined.ends():
        if end > until:
            break
        start, inside = end - MINUTE, planned is None or planned(end)
        low = bisect_left(times, start - silence)
        near = held[max(low - 1, 0) : bisect_left(times, end)]
        n: dict[str, int] = dict.fromkeys(
            (
                "apt_s", "aust_s", "adet_s", "adot_s", "fault_s", "micro_stop_s", "planned_stop_s",
                "outside_s", "overtime_s", "stops", "micro_stops", "failures", "reason_other_s",
            ), 0,
        )  # fmt: skip
        n |= {f"{name}_s": 0 for name in DELAYS}
        n |= {f"reason_{name}_{x}": 0 for name in reasons or {} for x in "sn"}
        covered = worst = lost = 0
        for row in near:
            ns = max(min(row.until, end) - max(row.time, start), 0)
            here = start <= row.time < end
            covered += ns
            lost += ns if row.reason == "lost" else 0
            worst = max(worst, row.quality if ns or here else 0)
            short = row.stop is not None and row.stop.short(threshold)
            if not inside:
                n["outside_s"] += ns
                n["overtime_s"] += ns if row.activity == "producing" else 0
                continue
            n["stops"] += here and row.begins
            n["micro_stops"] += here and row.begins and short
            n["failures"] += here and row.fails and not short
            if row.reason is not None:
                n[f"reason_{'other' if row.reason == 'lost' else row.reason}_s"] += ns
                if row.reason not in {"other", "lost"}:
                    n[f"reason_{row.reason}_n"] += here and row.appears
            activity = "idle" if planned and row.activity == "off" else row.activity
            if short:
                n["micro_stop_s"] += ns
                n["adet_s"] += ns
            elif activity in ("fault", *DELAYS):
                n[f"{activity}_s"] += ns
                n["adet_s"] += ns
            else:
                column = {"producing": "apt_s", "setup": "aust_s", "idle": "adot_s"}
                column |= {"planned_stop": "planned_stop_s", "maintenance": "planned_stop_s"}
                n[column.get(activity, "outside_s")] += ns
        n["pbt_s"] = n["apt_s"] + n["aust_s"] + n["adet_s"] + n["adot_s"]
        part = Part({}, {}, {}, covered, 0)
        counts: dict[str, Cell] = {}
        for name, slots in given.items():
            counts[name], full, guessed = slots.get(end, ABSENT)
            part.covered, part.estimated = min(part.covered, full), max(part.estimated, guessed)
        good, quality = counts["produced"]
        good = good or 0.0
        for name in ("rejected",) if rejected else ("scrap", "rework"):
            if name in counts:
                good, quality = good - (counts[name][0] or 0.0), max(quality, counts[name][1])
        counts["good"] = (good, quality)
        counts.pop("rejected", None)
        overtime, quality = counts["produced"]
        n["unknown_s"] = n["apt_s"] if quality >= BAD else 0
        if not inside:
            counts = {name: (0.0, mark) for name, (_, mark) in counts.items()}
        counts["overtime_n"] = (0.0 if inside else overtime or 0.0, quality)
        for name, total in n.items():
            part.total[name], part.known[name] = Fraction(int(total)), int(covered > 0)
            part.worst[name] = worst if covered else MISSING
            if name.startswith("reason_") and covered and lost:
                part.worst[name] = max(worst, UNCERTAIN)
        for name, (value, mark) in counts.items():
            known = mark < BAD
            part.total[name] = Fraction(value) if known else Fraction(0)
            part.known[name], part.worst[name] = int(known), mark
        part.estimated = min(part.estimated, MINUTE - part.covered)
        parts[end] = part

    wanted = ["fault_s", *(f"{a}_s" for a in DELAYS if states.get(a)), "planned_stop_s"]
    wanted += ["outside_s", "unknown_s", "stops", "failures", "apt_s", "pbt_s", "aust_s", "adet_s"]
    wanted += [
        "adot_s",
        "produced",
        "good",
        *(("micro_stop_s", "micro_stops") if threshold else ()),
    ]
    wanted += ["overtime_s", "overtime_n"] if planned else []
    wanted += [f"reason_{name}_{x}" for name in reasons or {} for x in "sn"]
    wanted += ["reason_other_s"] if reasons else []
    wanted += [name for name in ("scrap", "rework") if name in given]

    def derive(part: Part) -> dict[str, Cell]:
        q = {name: summed_quality(part, name) for name in part.total}
        n = {
            name: float(total / 1_000_000_000) if name.endswith("_s") else float(total)
            for name, total in part.total.items()
        }
        cells: dict[str, Cell] = {name: (n[name], q[name]) for name in wanted}

        def share(over: float, under: float, *of: str) -> Cell:
            return quotient(over, under, graded(max(q[name] for name in of), part.share()))

        apt, aust, adet, pbt = (n[name] for name in ("apt_s", "aust_s", "adet_s", "pbt_s"))
        run = apt + n["micro_stop_s"] if tpm else apt
        ideal, best = ideal_cycle * n["produced"], ideal_cycle * n["good"]
        known = pbt + n["planned_stop_s"] + n["outside_s"]
        every = ("apt_s", "produced", "good")
        failures = n["failures"] + plus_one
        cells |= {
            "availability": share(run, pbt, "apt_s"),
            "effectiveness": share(ideal, run, "apt_s", "produced"),
            "quality_ratio": share(n["good"], n["produced"], "produced", "good"),
            "oee": share(best, pbt, *every),
            "nee": share((apt + aust) * best, pbt * apt, *every),
            "teep": share(best, known, *every),
            "utilization_efficiency": share(apt, apt + aust + adet, "apt_s"),
            "technical_efficiency": share(apt, apt + adet, "apt_s"),
            "allocation_efficiency": share(apt + aust + adet, pbt, "apt_s"),
            "setup_ratio": share(aust, apt + aust, "apt_s"),
            "throughput_rate": share(3600 * n["produced"], apt + aust + adet, "apt_s", "produced"),
            "mtbf_s": share(apt + aust, failures, "apt_s"),
            "mttr_s": share(n["fault_s"], failures, "apt_s"),
            "good_time_s": (best, max(q["produced"], q["good"])),
            "quality_loss_s": (ideal - best, max(q["produced"], q["good"])),
            "speed_loss_s": (apt - n["unknown_s"] - ideal, max(q["apt_s"], q["produced"])),
            "not_covered_s": (part.minutes * 60.0 - known, GOOD),
            "scheme": (float(tpm), GOOD),
            "micro_stop_limit_s": (micro_stop, GOOD),
        }
        for name in ("scrap", "rework"):
            if name in given:
                cells[f"{name}_ratio"] = share(n[name], n["produced"], name, "produced")
        return cells

    return of_spans(parts, spans, derive)
