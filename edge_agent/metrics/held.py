"""What a slot keeps of gauges and states: values that hold until the next row.

A value holds from its row to the next, but not longer than three periods; the time in which a
usable value holds is covered. So the mean of a gauge is time-weighted, and its integral is the mean
times the covered time. All columns of one kind are kept in one object and one array operation; sums
run in the order of the rows, so every partition of a stream gives the same bits.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import BAD, MINUTE, MISSING, UNCERTAIN, QualityLimits, State
from edge_agent.model import F64, I64, U8

Mask = NDArray[np.bool_]


class Held:
    """The open slot of k columns whose values hold; the base of ``Gauges`` and ``States``."""

    def __init__(self, k: int, limits: QualityLimits) -> None:
        self._limits = limits
        self._value = np.zeros(k)  # that holds now; 0 where there is none
        self._good = np.zeros(k, bool)
        self._all = np.ones(k, bool)
        self._quality = np.zeros(k, np.uint8)
        self._covered = np.zeros(k, np.int64)
        self._worst = np.zeros(k, np.uint8)
        self._entered = True  # whether the value held has been counted in this slot

    def hold(self, span: int) -> None:
        """Let the values hold for so many ns more."""
        if span <= 0:
            return
        if not self._entered:
            self._entered = True
            self._worst = np.where(self._good, self._quality, self._worst)
            self._enter()
        self._covered += self._good * span
        self._weigh_one(self._value, span)

    def take(self, value: F64, quality: U8, good: Mask | None, spans: I64) -> None:
        """Take the rows of one slot.

        value, quality, good (k, n), good where usable, None: everywhere; spans (n - 1,): ns that
        all but the last hold
        """
        if good is not None:
            value = np.where(good, value, 0.0)
            quality = quality * good
        self._entered = True
        if np.count_nonzero(quality):
            self._worst = np.maximum(self._worst, quality.max(axis=1))
        self._sample(value, good)
        if len(spans):
            self._covered += spans.sum() if good is None else good[:, :-1] @ spans
            self._weigh(value[:, :-1], spans)
        self._value, self._quality = value[:, -1], quality[:, -1]
        self._good = self._all if good is None else good[:, -1]

    def close(self) -> tuple[F64, U8]:
        """Return the slot's columns and begin a new slot."""
        share = self._covered / MINUTE
        thin = share < self._limits.uncertain_below
        quality = np.maximum(self._worst, thin * np.uint8(UNCERTAIN))
        missing = (self._covered == 0) | (share < self._limits.bad_below)
        quality = np.where(missing, np.uint8(MISSING), quality)
        cells = self._columns(share, quality)
        self._covered = np.zeros_like(self._covered)
        self._worst = np.zeros_like(self._worst)
        self._entered = False
        self._clear()
        return cells

    def save(self) -> dict[str, object]:
        """Return the state; see ``State``."""
        return {
            "value": kept(self._value),
            "good": kept(self._good),
            "quality": kept(self._quality),
            "covered": kept(self._covered),
            "worst": kept(self._worst),
            "entered": self._entered,
        }

    def load(self, state: State) -> None:
        """Take over what ``save`` returned."""
        self._value = floats(state, "value")
        self._good = np.array(state["good"], bool)
        self._quality = np.array(state["quality"], np.uint8)
        self._covered = np.array(state["covered"], np.int64)
        self._worst = np.array(state["worst"], np.uint8)
        self._entered = bool(state["entered"])

    def _enter(self) -> None:
        raise NotImplementedError

    def _sample(self, value: F64, good: Mask | None) -> None:
        raise NotImplementedError

    def _weigh(self, value: F64, spans: I64) -> None:
        raise NotImplementedError

    def _weigh_one(self, value: F64, span: int) -> None:
        raise NotImplementedError

    def _columns(self, share: F64, quality: U8) -> tuple[F64, U8]:
        raise NotImplementedError

    def _clear(self) -> None:
        raise NotImplementedError


class Gauges(Held):
    """Columns ``mean min max coverage`` of k gauges, (4 k,): k means, k minima, …."""

    def __init__(self, k: int, limits: QualityLimits) -> None:
        super().__init__(k, limits)
        self._clear()

    def _clear(self) -> None:
        k = len(self._value)
        self._sum = np.zeros(k)  # value times seconds
        self._low = np.full(k, np.nan)
        self._high = np.full(k, np.nan)

    def _enter(self) -> None:
        held = np.where(self._good, self._value, np.nan)
        self._low, self._high = held, held

    def _sample(self, value: F64, good: Mask | None) -> None:
        if good is not None:
            value = np.where(good, value, np.nan)
        if value.shape[1] == 1:
            self._low = np.fmin(self._low, value[:, 0])
            self._high = np.fmax(self._high, value[:, 0])
        else:
            self._low = np.fmin(self._low, np.fmin.reduce(value, axis=1))
            self._high = np.fmax(self._high, np.fmax.reduce(value, axis=1))

    def _weigh(self, value: F64, spans: I64) -> None:
        # in the order of the rows, not pairwise: the bits must not depend on the partition
        terms = value * (spans / 1e9)
        self._sum = np.cumsum(np.column_stack([self._sum, terms]), axis=1)[:, -1]

    def _weigh_one(self, value: F64, span: int) -> None:
        self._sum = self._sum + value * (span / 1e9)

    def _columns(self, share: F64, quality: U8) -> tuple[F64, U8]:
        bad = quality >= BAD
        seconds = np.where(bad, 1.0, self._covered / 1e9)
        cells = np.array([self._sum / seconds, self._low, self._high, share])
        cells[:3, bad] = np.nan
        return cells, np.array([quality, quality, quality, np.zeros_like(quality)])

    def save(self) -> dict[str, object]:
        own = {"sum": kept(self._sum), "low": kept(self._low), "high": kept(self._high)}
        return super().save() | own

    def load(self, state: State) -> None:
        super().load(state)
        self._sum, self._low, self._high = (floats(state, name) for name in ("sum", "low", "high"))


class States(Held):
    """Columns ``last changes coverage`` of k states.

    A change is counted at the row that brings a state other than the last usable one, whatever was
    between them.
    """

    def __init__(self, k: int, limits: QualityLimits) -> None:
        super().__init__(k, limits)
        self._known = np.full(k, np.nan)  # the last usable state, however old
        self._clear()

    def _clear(self) -> None:
        self._changes = np.zeros(len(self._value))
        self._seen = np.zeros(len(self._value), bool)

    def _enter(self) -> None:
        self._seen = self._good

    def _sample(self, value: F64, good: Mask | None) -> None:
        if good is None:
            known = self._known
            self._changes = self._changes + ((value[:, 0] != known) & ~np.isnan(known))
            if value.shape[1] > 1:
                self._changes += (np.diff(value) != 0).sum(axis=1)
            self._known = value[:, -1]
            self._seen = self._all
            return
        for column, usable_now in zip(value.T, good.T, strict=True):
            moved = usable_now & (column != self._known) & ~np.isnan(self._known)
            self._changes = self._changes + moved
            self._known = np.where(usable_now, column, self._known)
            self._seen = self._seen | usable_now

    def _weigh(self, value: F64, spans: I64) -> None:
        """States have no mean."""

    def _weigh_one(self, value: F64, span: int) -> None:
        """States have no mean."""

    def _columns(self, share: F64, quality: U8) -> tuple[F64, U8]:
        last = np.where(self._seen, np.maximum(self._worst, 0), MISSING).astype(np.uint8)
        cells = np.array([self._known, self._changes, share])
        cells[0, ~self._seen] = np.nan
        cells[1, quality >= BAD] = np.nan
        return cells, np.array([last, quality, np.zeros_like(quality)])

    def save(self) -> dict[str, object]:
        own = {
            "known": kept(self._known),
            "changes": kept(self._changes),
            "seen": kept(self._seen),
        }
        return super().save() | own

    def load(self, state: State) -> None:
        super().load(state)
        self._known, self._changes = floats(state, "known"), floats(state, "changes")
        self._seen = np.array(state["seen"], bool)


def kept(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as they are now: a state is written while the metric goes on."""
    return np.array(values, order="C")  # JSON is written from that order only


def floats(state: Mapping[str, object], name: str) -> F64:
    """Return an array of a state; NaN was written as null."""
    return np.array(state[name], np.float64)
