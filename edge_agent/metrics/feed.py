"""The rows of one input of a KPI that are still needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import MINUTE, MISSING, SILENCE, State, usable
from edge_agent.metrics.held import floats, kept
from edge_agent.metrics.integral import last_usable
from edge_agent.model import F64, I64, U8, Family, SampleBlock, Schema


def silence_of(raw: Schema) -> int:
    """Return how far apart two readings may be without an outage between them, in ns."""
    return round(SILENCE * raw.period * 1e9)


def is_minute(schema: Schema) -> bool:
    """Return whether the rows are another metric's minutes."""
    return schema.name == "1min"


@dataclass(frozen=True)
class Rows:
    """Rows of some columns of a stream: those in the slots, the last before, those after.

    time (m,), value and quality (c, m)
    """

    schema: Schema
    index: Mapping[str, int]
    time: I64
    value: F64
    quality: U8

    def at(self, ends: I64) -> tuple[I64, "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]"]:
        """Return, for slot rows, where the row of each end stands, and whether there is one."""
        if not len(self.time):
            return np.zeros(len(ends), np.int64), np.zeros(len(ends), bool)
        found = np.minimum(self.time.searchsorted(ends), len(self.time) - 1)
        return found, self.time[found] == ends


def _span(columns: NDArray[np.intp]) -> "slice | NDArray[np.intp]":
    """Return columns as a slice if they stand together in their order: a view, no copy."""
    if len(columns) and bool((np.diff(columns) == 1).all()):
        return slice(int(columns[0]), int(columns[-1]) + 1)
    return columns


class Feed:
    """The rows of one input that are still needed.

    integrals  those of its columns that are integrated; a raw stream's
    """

    def __init__(
        self, schema: Schema, columns: Sequence[str], integrals: Sequence[str] = ()
    ) -> None:
        self.schema = schema
        self.is_slot = schema.family is Family.SLOT or is_minute(schema)
        self.names = tuple(dict.fromkeys(columns))
        self._columns = schema.columns(self.names)
        self._integrals = schema.columns(dict.fromkeys(integrals))
        self._reach = silence_of(schema) if integrals else 0  # how far back rows are needed
        self._usable = np.full(len(self._integrals), -1, np.int64)  # time of the last one of each
        self._index = {name: i for i, name in enumerate(self.names)}
        self._blocks: list[SampleBlock] = []
        self._chosen = _span(self._columns)
        self._kept = self._rows(np.zeros(0, np.int64), np.zeros((len(self.names), 0)), None)
        self.first = -1  # number of the first slot with a row
        self.seen = -1  # time of the last row

    def _rows(self, time: I64, value: F64, quality: U8 | None) -> Rows:
        marks = np.zeros(value.shape, np.uint8) if quality is None else quality
        return Rows(self.schema, self._index, time, value, marks)

    def add(self, block: SampleBlock) -> None:
        """Append a block."""
        self._blocks.append(block)
        if self.first < 0:
            self.first = (int(block.time[0]) - self.is_slot) // MINUTE
        self.seen = int(block.time[-1])
        if self._reach:
            good = usable(block.value[self._integrals], block.quality[self._integrals])
            self._usable = last_usable(block.time, good, self._usable)

    def settled(self) -> int:
        """Return the time up to which nothing changes any more, whatever rows follow."""
        if not self._reach:
            return self.seen
        open_ended = (self._usable >= 0) & (self.seen <= self._usable + self._reach)
        return int(np.where(open_ended, self._usable, self.seen).min())

    def rows(self) -> Rows:
        """Return all rows kept."""
        if self._blocks:
            blocks, self._blocks = self._blocks, []
            new = blocks[0] if len(blocks) == 1 else self._joined(blocks)
            value, quality = new.value[self._chosen], new.quality[self._chosen]
            kept = self._kept
            if len(kept.time):
                self._kept = self._rows(
                    np.concatenate([kept.time, new.time]),
                    np.concatenate([kept.value, value], axis=1),
                    np.concatenate([kept.quality, quality], axis=1),
                )
            else:
                self._kept = self._rows(new.time, value, quality)
        return self._kept

    def _joined(self, blocks: Sequence[SampleBlock]) -> SampleBlock:
        """Return the blocks as one: to pick the columns of each would take longer."""
        return SampleBlock(
            self.schema,
            np.concatenate([block.time for block in blocks]),
            np.concatenate([block.value for block in blocks], axis=1),
            np.concatenate([block.quality for block in blocks], axis=1),
        )

    def so_far(self, now: int, end: int, open_row: SampleBlock | None) -> Rows:
        """Return the rows kept, and what stands for the slot that ends there and is still open."""
        rows = self.rows()
        if not self.is_slot:  # the last value holds until now, no further
            time, missing = np.array([max(now, self.seen)], np.int64), MISSING
            value = np.full((len(self.names), 1), np.nan)
            marks = np.full(value.shape, missing, np.uint8)
        elif open_row is not None and end - MINUTE < int(open_row.time[0]) <= end:
            time, value = np.array([end]), open_row.value[self._columns]
            marks = open_row.quality[self._columns]
        else:
            return rows
        return self._rows(
            np.concatenate([rows.time, time]),
            np.hstack([rows.value, value]),
            np.hstack([rows.quality, marks]),
        )

    def slots(self) -> I64:
        """Return the numbers of the slots that have rows."""
        return np.unique((self.rows().time - self.is_slot) // MINUTE)

    def forget(self, end: int) -> None:
        """Drop the rows of slots up to an end, but for those of a raw stream that go on after it.

        These are the row whose value holds, and all that a row to come may be linked with.
        """
        rows = self.rows()
        cut = int(rows.time.searchsorted(end, "right" if self.is_slot else "left"))
        cut = cut if self.is_slot else max(0, cut - 1)
        if self._reach:
            cut = min(cut, int(np.searchsorted(rows.time, end - self._reach)))
        if cut:
            self._kept = self._rows(
                rows.time[cut:].copy(), rows.value[:, cut:].copy(), rows.quality[:, cut:].copy()
            )

    def save(self) -> State:
        """Return the state; see ``State``."""
        rows = self.rows()
        return {
            "first": self.first,
            "seen": self.seen,
            "usable": kept(self._usable),
            "time": kept(rows.time),
            "value": kept(rows.value),
            "quality": kept(rows.quality),
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self.first, self.seen = int(str(state["first"])), int(str(state["seen"]))
        self._usable = np.array(state["usable"], np.int64)
        shape = (len(self.names), -1) if state["time"] else (len(self.names), 0)
        self._blocks = []
        self._kept = self._rows(
            np.array(state["time"], np.int64),
            floats(state, "value").reshape(shape),
            np.array(state["quality"], np.uint8).reshape(shape),
        )
