"""The example of ``alarm`` that the laws run on, and its oracle."""

from collections.abc import Mapping

from edge_agent.metrics.alarm import AlarmConfig
from edge_agent.model import SampleBlock
from edge_agent.units import Duration
from tests.metrics.oracle import Cell, Rows, Span, find, usable
from tests.metrics.plants import as_streams
from tests.metrics.slow_rows import cell, held

STREAM = "kpi/event"
SUMS = ()
CONFIG = AlarmConfig(
    when="cems.nox > 42",
    delay=Duration(6),
    off_delay=Duration(4),
    deadband=2.0,
    suppress="packer.state == 5",
    acknowledge=True,
    priority="high",
)
SECOND = 1_000_000_000


def expected(rows: Mapping[str, SampleBlock], _spans: list[Span] | None) -> Rows:
    """The events of CONFIG, row by row."""
    streams = as_streams(rows)
    state = list(find(streams, "packer.state").rows["state"])
    found: list[tuple[int, dict[str, Cell]]] = []
    active = suppressed = False
    shown, told = "normal", None
    pending = last_known = None
    since = 0
    raised: list[int] = []
    numbers = {"normal": 0, "unacknowledged": 1, "returned": 3, "suppressed": 7}
    for t, value, quality in find(streams, "cems.nox").rows["nox"]:
        if t > state[-1][0]:
            break
        working = held(state, 5.0, t)
        if working[0] is not None and working[1] != 70 and (working[0] == 5) != suppressed:
            suppressed = not suppressed
            announced = "unacknowledged" if active else "normal"
            shown = "suppressed" if suppressed else announced
        known = usable(value, quality)
        if known:
            if last_known is not None and t - last_known > 15 * SECOND:
                pending = None
            if (value <= 40) if active else (value > 42):
                pending = t if pending is None else pending
                if t - pending >= (4 if active else 6) * SECOND:
                    active, pending = not active, None
                    raised += [t] if active else []
                    if not suppressed:
                        shown = "unacknowledged" if active else "returned"
            else:
                pending = None
            last_known = t
        if shown != told:
            length = t - since if told is not None else 0
            found.append(
                (
                    t,
                    {
                        "state": (numbers[shown], 0),
                        "active": (float(active), 0),
                        "value": cell(value, quality),
                        "limit": (42.0, 0),
                        "priority": (3.0, 0),
                        "duration_s": (length / 1e9, 0),
                        "raised_1h": (float(len(raised)), 0),
                        "coverage": (float(known), 0),
                        "estimated": (0.0, 0),
                    },
                )
            )
            told, since = shown, t
    return found
