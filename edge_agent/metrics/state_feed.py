"""The rows of a machine's state, and what a KPI must remember of those that it has dropped."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from edge_agent.metrics.base import MINUTE, State, usable
from edge_agent.metrics.feed import Feed, Rows
from edge_agent.metrics.machine_time import (
    UNKNOWN,
    Index,
    Last,
    Meaning,
    Trace,
    after,
    shown,
    stands,
    stops,
    trace,
)
from edge_agent.model import F64, I64, U8, SampleBlock, Schema


@dataclass(frozen=True)
class StateRows(Rows):
    """Rows of a state and what was before them."""

    last: Last = field(default_factory=Last)


@dataclass(frozen=True)
class Watch:
    """How the rows of a state are read.

    state, reason  columns; reason may be None
    reasons        look-up of the reason's numbers; any other is ``others``
    silence        ns that a row holds at most; threshold: ns below which a stop is short
    """

    state: str
    meaning: Meaning
    silence: int
    threshold: int = 0
    reason: str | None = None
    reasons: Meaning = field(default_factory=lambda: Meaning({}))
    others: int = 0

    def trace(self, rows: Rows) -> tuple[Trace, Index]:
        """Return the activities of rows, and the reason that each row of a stop shows."""
        column = rows.index[self.state]
        found = trace(
            self.meaning, rows.time, rows.value[column], rows.quality[column], self.silence
        )
        if self.reason is None:
            return found, shown(found, np.full(len(rows.time), self.others))
        column = rows.index[self.reason]
        value, quality = rows.value[column], rows.quality[column]
        reason = self.reasons.of(value, usable(value, quality), self.others)
        return found, shown(found, reason)


class StateFeed(Feed):
    """A feed that settles nothing from the beginning of a stop on until it can be judged."""

    def __init__(
        self, schema: Schema, columns: Sequence[str], integrals: Sequence[str], watch: Watch
    ) -> None:
        self.last = Last()
        self._watch = watch
        self._column = schema.index[watch.state]
        self._pending: int | None = None  # when the stop began that is too young to be judged
        self._judged = -1  # number of the slot at whose beginning it was looked for
        super().__init__(schema, columns, integrals)

    def _rows(self, time: I64, value: F64, quality: U8 | None) -> Rows:
        rows = super()._rows(time, value, quality)
        return StateRows(rows.schema, rows.index, rows.time, rows.value, rows.quality, self.last)

    def rows(self) -> Rows:
        rows = cast("StateRows", super().rows())
        if rows.last is not self.last:
            self._kept = rows = replace(rows, last=self.last)
        return rows

    def add(self, block: SampleBlock) -> None:
        super().add(block)
        if self._pending is not None and self._ends(block):
            self._judged = -1

    def _ends(self, block: SampleBlock) -> bool:
        """Return whether the pending stop can be judged with these rows."""
        if self.seen >= cast("int", self._pending) + self._watch.threshold:
            return True
        value, quality = block.value[self._column], block.quality[self._column]
        activity = self._watch.meaning.of(value, usable(value, quality), UNKNOWN)
        return bool(((activity != UNKNOWN) & ~stands(activity)).any())

    def settled(self) -> int:
        settled = super().settled()
        if not self._watch.threshold:
            return settled
        if self._judged < 0 or (self._pending is None and self._judged != self.seen // MINUTE):
            found, _ = self._watch.trace(self.rows())
            self._pending = stops(found, self.last, self._watch.threshold).pending
            self._judged = self.seen // MINUTE
        return settled if self._pending is None else min(settled, self._pending)

    def forget(self, end: int) -> None:
        found, reason = self._watch.trace(self.rows())
        self.last = after(found, self.last, end, self._watch.threshold, reason)
        self._judged = -1
        super().forget(end)

    def save(self) -> State:
        last = self.last
        return {**super().save(), "last": [last.activity, last.begun, last.long, last.reason]}

    def load(self, state: State) -> None:
        activity, begun, long, reason = cast("list[int]", state["last"])
        self.last = Last(int(activity), int(begun), bool(long), int(reason))
        self._pending, self._judged = None, -1
        super().load(state)
