"""The slot operator: one row per minute for every tag of a raw stream, without being configured.

Rows are labelled with the slot's end. Columns, in the order of the tags:

- counter  ``.increment .reading .coverage .estimated``: see ``counters``; ``reading`` is the
register at the slot's end
- gauge    ``.mean .min .max .coverage``: time-weighted, each value holds until the next row, at
most three periods
- state    ``.last .changes .coverage``
- text     none: the raw rows tell all there is

A slot closes at the first row at or after its end by which every counter has an accepted reading at
or after its end, or at the first row ``hold`` past its end: a counter that does not answer holds
nothing back for ever. While a counter's jump is a question, slots wait for the answer, but no
longer than ``hold`` from the question and no slot older than a day. After a silence of more than
``LONGEST_GAP`` the stream begins anew at its next row.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, SILENCE, QualityLimits, State, usable
from edge_agent.metrics.counters import Counters
from edge_agent.metrics.held import Gauges, Held, States, floats, kept
from edge_agent.model import (
    F64,
    I64,
    U8,
    Family,
    Kind,
    Quality,
    SampleBlock,
    Schema,
    Signals,
    Tag,
    concatenate,
    shared,
)
from edge_agent.units import Unit

LONGEST_GAP = 31 * 1440  # slots
DAY = 1440 * MINUTE
_SHARE = Unit.parse("1")
_NO_SPANS = np.array([], np.int64)
_SUFFIXES = {
    Kind.COUNTER: ("increment", "reading", "coverage", "estimated"),
    Kind.GAUGE: ("mean", "min", "max", "coverage"),
    Kind.STATE: ("last", "changes", "coverage"),
    Kind.TEXT: (),
}


def slot_schema(raw: Schema) -> Schema:
    """Return the slot stream of a raw stream: ``em-kiln/slot.slow`` for ``em-kiln/raw.slow``."""
    stream = f"{raw.owner}/slot{raw.name.removeprefix('raw')}"
    return Schema(stream, Family.SLOT, _columns(raw.signals), MINUTE / 1e9)


@lru_cache(maxsize=256)
def _columns(signals: Signals) -> Signals:
    return shared(tuple(_column(tag, suffix) for tag in signals for suffix in _SUFFIXES[tag.kind]))


def _column(tag: Tag, suffix: str) -> Tag:
    own_unit = suffix not in {"coverage", "estimated", "changes"}
    kinds = {"reading": Kind.COUNTER, "last": Kind.STATE}
    unit = tag.unit if own_unit else _SHARE
    return Tag(f"{tag.name}.{suffix}", unit, kinds.get(suffix, Kind.GAUGE))


def _span(members: NDArray[np.intp]) -> "slice | NDArray[np.intp]":
    """Return columns as a slice if they stand together: a view instead of a copy."""
    if len(members) and members[-1] - members[0] + 1 == len(members):
        return slice(int(members[0]), int(members[-1]) + 1)
    return members


def hold_of(raw: Schema) -> int:
    """Return how long past its end a slot waits for a counter, in ns."""
    return round((max(SILENCE * raw.period, 30.0) + raw.period) * 1e9)


class SlotOperator:
    """Slot rows of one raw stream."""

    def __init__(
        self,
        raw: Schema,
        limits: QualityLimits | None = None,
        provenance: tuple[str, ...] = (),
    ) -> None:
        self._raw = raw
        self._output = replace(slot_schema(raw), provenance=provenance)
        limits = limits or QualityLimits()
        kinds = np.array([tag.kind.value for tag in raw.tags], object)
        self._members = {kind: np.flatnonzero(kinds == kind.value) for kind in Kind}
        self._targets = {kind: self._columns(kind) for kind in Kind}
        self._counters = Counters(
            tuple(tag for tag in raw.tags if tag.kind is Kind.COUNTER), raw.period
        )
        self._counting = _span(self._members[Kind.COUNTER])
        self._held: dict[Kind, Held] = {}
        if len(self._members[Kind.GAUGE]):
            self._held[Kind.GAUGE] = Gauges(len(self._members[Kind.GAUGE]), limits)
        if len(self._members[Kind.STATE]):
            self._held[Kind.STATE] = States(len(self._members[Kind.STATE]), limits)
        self._holding = [(_span(self._members[kind]), held) for kind, held in self._held.items()]
        self._silence = round(SILENCE * raw.period * 1e9)
        self._hold = hold_of(raw)
        self._time = -1  # of the last row
        self._cells: dict[int, tuple[F64, U8]] = {}  # closed gauges and states of slots that wait
        self._border = 0  # ns; before it nothing closes
        self._empty = self._empty_row()

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self._raw.stream,)

    @property
    def output(self) -> Schema:
        return self._output

    @property
    def quiet(self) -> int:
        return self._border

    def running(self, _now: int, _open: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the first open slot, labelled by its end; only its counters are told."""
        if self._time < 0 or not len(self._members[Kind.COUNTER]):
            return None
        value, quality = self._empty[0][:, None].copy(), self._empty[1][:, None].copy()
        cells, marks = self._counters.standing(self._time)
        value[self._targets[Kind.COUNTER], 0] = cells
        quality[self._targets[Kind.COUNTER], 0] = marks
        end = np.array([(self._counters.slots.first + 1) * MINUTE], np.int64)
        return SampleBlock(self._output, end, value, quality)

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        done = self._taken(block)
        waiting = self._counters.slots.open > 1
        self._border = 0 if waiting else (self._time // MINUTE + 1) * MINUTE
        return concatenate(done) if done else None

    def _taken(self, block: SampleBlock) -> list[SampleBlock]:
        """Take a block; return what closes."""
        done: list[SampleBlock] = []
        if len(block) == 1:
            self._rows(block, done)
            return done
        slots = block.time // MINUTE
        borders = np.flatnonzero(np.diff(slots)) + 1
        edges = [0, *borders, len(slots)]
        for start, stop in pairwise(edges):
            if stop > start:
                self._rows(block.rows(start, stop), done)
        return done

    # one slot's rows -----------------------------------------------------------------------------

    def _rows(self, block: SampleBlock, done: list[SampleBlock]) -> None:
        """Take rows of one slot; append what closes."""
        time, n = int(block.time[0]), len(block)
        self._enter(time, done)
        spans = np.minimum(np.diff(block.time), self._silence) if n > 1 else _NO_SPANS
        good = usable(block.value, block.quality)
        whole = np.count_nonzero(good) == good.size
        for members, held in self._holding:
            some = None if whole or good[members].all() else good[members]
            held.take(block.value[members], block.quality[members], some, spans)
        value, quality = block.value[self._counting], block.quality[self._counting]
        good = good[self._counting]
        for i in range(n):
            rest = None if whole else good[:, i:]
            if (
                n - i > 1
                and self._counters.slots.open == 1
                and self._counters.run(block.time[i:], value[:, i:], quality[:, i:], rest)
            ):
                break
            self._counters.row(int(block.time[i]), value[:, i], quality[:, i], good[:, i])
            if self._counters.slots.open > 1:
                self._close(int(block.time[i]), done)
        self._time = int(block.time[-1])

    def _enter(self, time: int, done: list[SampleBlock]) -> None:
        """Go on to the time of the next row, over borders if there are some between."""
        slot, last = time // MINUTE, self._time // MINUTE
        if self._time < 0:
            self._counters.slots.begin(slot)
            return
        until = min(time, self._time + self._silence)  # the values of the last row hold till then
        if slot == last:
            self._keep(until - self._time)
            return
        self._keep(min(until, (last + 1) * MINUTE) - self._time)
        self._put(last)
        for held_slot in range(last + 1, min(slot, (until - 1) // MINUTE + 1)):
            span = min(until, (held_slot + 1) * MINUTE) - held_slot * MINUTE
            if span == MINUTE and held_slot - 1 > last and self._held:  # as the whole slot before
                self._cells[held_slot] = self._cells[held_slot - 1]
                continue
            self._keep(span)
            self._put(held_slot)
        if slot - last > LONGEST_GAP:
            self._emit(last + 1 - self._counters.slots.first, done)
            self._cells.clear()
            self._counters.slots.begin(slot)
        else:
            self._counters.slots.extend(slot)
            self._keep(until - slot * MINUTE)

    def _keep(self, span: int) -> None:
        for held in self._held.values():
            held.hold(span)

    def _put(self, slot: int) -> None:
        """Close the gauges and states of a slot."""
        if not self._held:
            return
        value, quality = self._empty
        value, quality = value.copy(), quality.copy()
        for kind, held in self._held.items():
            cells, marks = held.close()
            value[self._targets[kind]] = cells
            quality[self._targets[kind]] = marks
        self._cells[slot] = value, quality

    def _close(self, time: int, done: list[SampleBlock]) -> None:
        """Emit the slots that every counter is known for, or that have waited long enough."""
        asked = any(time < q.since + self._hold for q in self._counters.questions.values())
        waited = (time - (DAY if asked else self._hold)) // MINUTE
        until = min(time // MINUTE, max(self._counters.resolved(), waited))
        if until > self._counters.slots.first:
            self._emit(until - self._counters.slots.first, done)

    def _emit(self, n: int, done: list[SampleBlock]) -> None:
        first = self._counters.slots.first
        value = np.repeat(self._empty[0][:, None], n, axis=1)
        quality = np.repeat(self._empty[1][:, None], n, axis=1)
        for slot in [slot for slot in self._cells if slot < first + n]:
            value[:, slot - first], quality[:, slot - first] = self._cells.pop(slot)
        cells, marks = self._counters.slots.close(n)
        targets = self._targets[Kind.COUNTER]
        value[targets] = cells.transpose(0, 2, 1)
        quality[targets] = marks.transpose(0, 2, 1)
        end: I64 = np.arange(first + 1, first + n + 1, dtype=np.int64) * MINUTE
        done.append(SampleBlock(self._output, end, value, quality))

    def _columns(self, kind: Kind) -> "np.ndarray[tuple[int, ...], np.dtype[np.intp]]":
        """Return where the columns of a kind stand in a row, (suffixes, tags of the kind)."""
        names = [self._raw.tags[i].name for i in self._members[kind]]
        found = [
            self._output.columns(f"{name}.{suffix}" for name in names) for suffix in _SUFFIXES[kind]
        ]
        return np.array(found, np.intp).reshape(len(_SUFFIXES[kind]), len(names))

    def _empty_row(self) -> tuple[F64, U8]:
        """Return the row of a slot without any: everything missing, coverage 0."""
        share = np.array(
            [t.name.endswith((".coverage", ".estimated")) for t in self._output.tags], bool
        )
        value = np.where(share, 0.0, np.nan)
        return value, np.where(share, Quality.GOOD, Quality.BAD_MISSING).astype(np.uint8)

    # the state -----------------------------------------------------------------------------------

    def save(self) -> State:
        return {
            "time": self._time,
            "counters": self._counters.save(),
            "held": {kind.value: held.save() for kind, held in self._held.items()},
            "cells": [[slot, kept(v), kept(q)] for slot, (v, q) in self._cells.items()],
        }

    def load(self, state: State, /) -> None:
        self._border = 0
        self._time = int(str(state["time"]))
        held = cast("Mapping[str, State]", state["held"])
        cells = cast("list[tuple[int, list[float | None], list[int]]]", state["cells"])
        self._counters.load(cast("State", state["counters"]))
        for kind, accumulator in self._held.items():
            accumulator.load(held[kind.value])
        self._cells = {
            slot: (floats({"v": value}, "v"), np.array(quality, np.uint8))
            for slot, value, quality in cells
        }
