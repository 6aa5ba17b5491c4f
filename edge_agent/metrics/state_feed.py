"""The rows of a machine's state, and what a KPI must remember of those that it has dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np

from edge_agent.metrics.base import MINUTE, State, usable
from edge_agent.metrics.feed import Feed, Rows
from edge_agent.metrics.machine_time import (
    UNKNOWN,
    Index,
    Last,
    Meaning,
    Stops,
    Trace,
    after,
    shown,
    stands,
    stops,
    trace,
)
from edge_agent.model import F64, I64, U8, Kind, SampleBlock, Schema


@dataclass(frozen=True)
class Watch:
    """How the rows of a state are read.

    state, reason  columns; reason may be None
    reasons        number or text of the reason -> place of its name; any other is ``others``
    silence        ns that a row holds at most; threshold: ns below which a stop is short
    """

    state: str
    meaning: Meaning
    silence: int
    threshold: int = 0
    reason: str | None = None
    reasons: Mapping[int | str, int] = field(default_factory=dict)
    others: int = 0


@dataclass(frozen=True)
class StateRows(Rows):
    """Rows of a state, what was before them, and what they tell, which is found out once.

    reasons  look-up of the numbers of the reason
    """

    watch: Watch
    last: Last
    reasons: Meaning

    @cached_property
    def trace(self) -> Trace:
        """The activities of the rows."""
        column = self.index[self.watch.state]
        value, quality = self.value[column], self.quality[column]
        return trace(self.watch.meaning, self.time, value, quality, self.watch.silence)

    @cached_property
    def stops(self) -> Stops:
        """What they tell of stops."""
        return stops(self.trace, self.last, self.watch.threshold)

    @cached_property
    def reason(self) -> Index:
        """The reason that each row of a stop shows; -1 where the machine does not stand."""
        watch = self.watch
        if watch.reason is None:
            return shown(self.trace, np.full(len(self.time), watch.others))
        column = self.index[watch.reason]
        value, quality = self.value[column], self.quality[column]
        found = self.reasons.of(value, usable(value, quality), watch.others)
        return shown(self.trace, found)

    @cached_property
    def unexplained(self) -> Index:
        """0 for each row of a stop whose reason could not be read, else -1."""
        if self.watch.reason is None:
            return np.full(len(self.time), -1)
        column = self.index[self.watch.reason]
        lost = ~usable(self.value[column], self.quality[column])
        return np.where(lost & (self.reason >= 0), 0, -1)


class StateFeed(Feed):
    """A feed that settles nothing from the beginning of a stop on until it can be judged."""

    def __init__(
        self, schema: Schema, columns: Sequence[str], integrals: Sequence[str], watch: Watch
    ) -> None:
        self.last = Last()
        self._watch = watch
        self._words: dict[int, int] = {}  # numbers of the reason, of a text those met so far
        self._reasons = Meaning({})
        self._is_text = watch.reason is not None and (
            schema.tags[schema.index[watch.reason]].kind is Kind.TEXT
        )
        if not self._is_text:
            self._know({n: place for n, place in watch.reasons.items() if isinstance(n, int)})
        self._column = schema.index[watch.state]
        self._pending: int | None = None  # when the stop began that is too young to be judged
        self._judged = -1  # number of the slot at whose beginning it was looked for
        super().__init__(schema, columns, integrals)

    def _rows(self, time: I64, value: F64, quality: U8 | None) -> Rows:
        rows = super()._rows(time, value, quality)
        return StateRows(
            rows.schema, rows.index, rows.time, rows.value, rows.quality,
            self._watch, self.last, self._reasons,
        )  # fmt: skip

    def _know(self, words: Mapping[int, int]) -> None:
        self._words |= words
        self._reasons = Meaning(self._words)

    def _learn(self, block: SampleBlock) -> None:
        """Find out which numbers of the stream's vocabulary are which reasons."""
        watch = self._watch
        said = block.texts.get(cast("str", watch.reason), {})
        new = {n: watch.reasons.get(t, watch.others) for n, t in said.items()}
        if not new.keys() <= self._words.keys():
            self._know(new)

    def rows(self) -> StateRows:
        rows = cast("StateRows", super().rows())
        if rows.last is not self.last or rows.reasons is not self._reasons:
            self._kept = rows = replace(rows, last=self.last, reasons=self._reasons)
        return rows

    def add(self, block: SampleBlock) -> None:
        super().add(block)
        if self._is_text:
            self._learn(block)
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
            self._pending = self.rows().stops.pending
            self._judged = self.seen // MINUTE
        return settled if self._pending is None else min(settled, self._pending)

    def forget(self, end: int) -> None:
        rows = self.rows()
        self.last = after(rows.trace, rows.stops, self.last, end, rows.reason)
        self._judged = -1
        super().forget(end)

    def save(self) -> State:
        last = self.last
        kept = [last.activity, last.begun, last.long, last.reason]
        return {**super().save(), "last": kept, "words": list(self._words.items())}

    def load(self, state: State) -> None:
        activity, begun, long, reason = cast("list[int]", state["last"])
        self.last = Last(int(activity), int(begun), bool(long), int(reason))
        self._pending, self._judged = None, -1
        words = cast("list[tuple[int, int]]", state["words"])
        self._know({int(number): int(place) for number, place in words})
        super().load(state)
