"""Which rows of a stream have their window in a period."""

import numpy as np

from edge_agent.clock import SECOND
from edge_agent.metrics.base import MINUTE
from edge_agent.metrics.batch import BATCH
from edge_agent.metrics.windows import PERIODS, Calendar
from edge_agent.model import SampleBlock


def within(block: SampleBlock, calendar: Calendar, start_ns: int, end_ns: int) -> SampleBlock:
    """Return the rows whose window lies wholly in ``[start, end)``; an event is a moment."""
    name, n = block.schema.name, len(block)
    starts = [_start(name, time, calendar) for time in block.time.tolist()]
    inside = (np.array(starts, np.int64) >= start_ns) & (block.time <= end_ns)
    if name == BATCH:  # it lasts as long as it does
        inside &= block["start_s"] * SECOND >= start_ns
    kept = np.flatnonzero(inside)
    return block.rows(int(kept[0]), int(kept[-1]) + 1) if len(kept) else block.rows(n, n)


def _start(name: str, time: int, calendar: Calendar) -> int:
    if name in PERIODS:
        span = calendar.window(name, time - 1)
        return time if span is None else span[0]
    return time - MINUTE if name.startswith("slot") else time - 1
