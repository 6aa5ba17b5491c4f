"""Energy and output of a boundary by batch: a row when a batch ends.

A batch is the time in which a tag holds one value, be it seconds or days. It begins at the row that
brings the value and ends at the row that brings another; the minutes in which that happens are
shared by time. While the tag is silent nothing is known: that time, between batches or inside one,
is the ``unknown`` part of the row. So the rows' energy and unknown energy sum up to the boundary's,
from the first batch on, exactly. A batch that is open when the agent stops goes on afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from edge_agent.metrics.base import MINUTE, SILENCE, QualityLimits, State, usable
from edge_agent.metrics.feed import Feed, Rows
from edge_agent.metrics.formula import SHARES, Sums, graded, merged, ratio, row_of
from edge_agent.metrics.join import Minutes, Reading, SlotFormula
from edge_agent.metrics.spells import UNKNOWN, Spells, spells
from edge_agent.metrics.whole import Totals, Whole
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.units import Unit

BATCH = "batch"  # name of the stream and of the column that names the batch
PERIOD = 86400.0  # what stands in the schema; a batch lasts as long as it does
_ESTIMATED, _BAD = int(Quality.UNCERTAIN_ESTIMATED), int(Quality.BAD)
_MOST_TEXTS = 64


@dataclass
class Batch:
    """A batch so far.

    value    of the tag; start, end: ns, the end of its last stretch
    whole    whether its beginning was seen
    amounts  energy and output in it; unknown: energy, output and ns while the tag was silent
    known    stretches in which energy and output were known, of so many pieces; worst: their marks
    shared   ns of minutes that were shared by time
    """

    value: float
    start: int
    end: int
    whole: bool
    unknown: list[float]
    amounts: list[float] = field(default_factory=lambda: [0.0, 0.0])
    known: list[int] = field(default_factory=lambda: [0, 0])
    worst: list[int] = field(default_factory=lambda: [0, 0])
    pieces: int = 0
    covered: int = 0
    estimated: int = 0
    shared: int = 0


@dataclass(frozen=True)
class BatchRows(SlotFormula):
    """What a batch's row is made of; a batch is its own base slot, so nothing is rolled up."""

    whole: Whole
    reading: Reading
    text: bool
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.PRODUCT

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        second, one = Unit.parse("s"), Unit.parse("1")
        kgce, made = self.whole.energy.unit, self.whole.output.unit
        return (
            Tag(BATCH, one, Kind.TEXT if self.text else Kind.STATE),
            Tag("start_s", second),
            Tag("duration_s", second),
            Tag("total_kgce", kgce),
            Tag(self.whole.made, made),
            Tag("unknown_kgce", kgce),
            Tag("unknown_output", made),
            Tag("unknown_s", second),
            Tag("intensity", self.whole.per),
            *SHARES,
        )

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags[:8])

    @property
    def sources(self) -> tuple[str, ...]:
        return self.whole.sources

    def schema(self, name: str, provenance: tuple[str, ...]) -> Schema:
        """Return the schema of the stream."""
        return Schema(f"{name}/{BATCH}", self.family, self.tags, PERIOD, provenance)

    def sums(self, batches: Sequence[Batch]) -> Sums:
        """Return the numbers of closed batches, or of one so far."""
        sums = Sums.zeros(len(self.additive), len(batches))
        sums.known[:] = 1
        for i, batch in enumerate(batches):
            length = batch.end - batch.start
            sums.total[:, i] = (
                *(batch.value, batch.start / 1e9, length / 1e9),
                *batch.amounts,
                *(batch.unknown[0], batch.unknown[1], batch.unknown[2] / 1e9),
            )
            sums.known[3:5, i] = batch.known
            much = batch.shared > (1.0 - self.limits.uncertain_below) * length
            doubt = _ESTIMATED if much else 0 if batch.whole else int(Quality.UNCERTAIN)
            sums.worst[3:5, i] = [max(mark, doubt) for mark in batch.worst]
            sums.covered[i], sums.estimated[i] = batch.covered, batch.estimated
            sums.length[i], sums.expected[i] = length, batch.pieces
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = sums.worst.copy()
        quality[3:5] = merged(sums, self.limits)[3:5]
        energy, output = sums.total[3], sums.total[4]
        judged = graded(np.maximum(quality[3], quality[4]), sums.share(), self.limits)
        value, mark = ratio(energy, output, judged)
        return np.vstack([sums.total, [value]]), np.vstack([quality, [mark]])


class Batches(Minutes):
    """The operator of ``<name>/batch``: minutes are joined, rows made when a batch has ended."""

    def __init__(
        self, output: Schema, formula: BatchRows, feeds: Sequence[Feed], lateness: int, step: int
    ) -> None:
        super().__init__(output, formula, feeds, lateness, step)
        self._rows = formula
        self._open: Batch | None = None
        self._gap = [0.0, 0.0, 0.0]  # energy, output and ns since the tag fell silent
        self._texts: dict[int, str] = {}
        self._added = 0  # end of the last minute that has been added

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        if block.schema.stream == self._rows.reading.stream:
            self._texts.update(block.texts.get(self._rows.reading.name, {}))
        return super().update(block)

    def running(self, _now: int, _open: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the open batch up to the end of the last minute."""
        return None if self._open is None else self._block([self._open])

    def _made(self, ends: I64, rows: Mapping[str, Rows]) -> SampleBlock | None:
        ends = ends[ends > self._added]  # fed again: added already
        if not len(ends):
            return None
        self._added = int(ends[-1])
        told = self._rows.whole.read(ends, rows)
        time, value, quality = self._rows.reading.read(rows)
        good = usable(value, quality)
        values, state = np.unique(np.where(good, value, 0.0), return_inverse=True)
        read = time, np.where(good, state, UNKNOWN), quality
        silence = round(SILENCE * self._rows.reading.period * 1e9)
        closed: list[Batch] = []
        for i, end in enumerate(ends.tolist()):
            self._take(told, i, spells(read, silence, end, len(values)), values, closed)
        if len(self._texts) > _MOST_TEXTS:
            self._forget(value[good])
        return self._block(closed) if closed else None

    def _take(
        self, told: Totals, i: int, stretch: Spells, values: F64, closed: list[Batch]
    ) -> None:
        """Add the stretches of a minute to the batches that they are of."""
        border = stretch.border
        parts = list(told.shared(i, np.diff(border)))
        for j, state in enumerate(stretch.state.tolist()):
            begin, end = int(border[j]), int(border[j + 1])
            amounts = [float(part[j]) if mark < _BAD else 0.0 for part, mark in parts]
            if state == UNKNOWN:
                added = (*amounts, float(end - begin))
                self._gap = [a + b for a, b in zip(self._gap, added, strict=True)]
                continue
            batch = self._going_on(float(values[state]), begin, closed)
            batch.end = end
            batch.amounts = [a + b for a, b in zip(batch.amounts, amounts, strict=True)]
            self._judge(batch, told, i, stretch.worst, (begin, end), mixed=len(stretch.state) > 1)

    def _going_on(self, value: float, begin: int, closed: list[Batch]) -> Batch:
        """Return the batch that a value belongs to; another that is open has ended."""
        open_, gap = self._open, self._gap
        self._gap = [0.0, 0.0, 0.0]
        if open_ is not None and open_.value == value:
            open_.unknown = [a + b for a, b in zip(open_.unknown, gap, strict=True)]
            return open_
        seen = open_ is not None and open_.end == begin
        if open_ is not None:
            open_.whole = open_.whole and seen
            closed.append(open_)
        self._open = Batch(value, begin, begin, seen, gap)
        return self._open

    def _judge(
        self,
        batch: Batch,
        told: Totals,
        i: int,
        doubt: int,
        span: tuple[int, int],
        *,
        mixed: bool,
    ) -> None:
        """Add to a batch how far a stretch of a minute is known."""
        length = span[1] - span[0]
        known = round(told.told(i) * length / MINUTE)
        estimated = known if mixed else round(int(told.estimated[i]) * length / MINUTE)
        thin = told.told(i) < self._rows.limits.uncertain_below * MINUTE
        for j, mark in enumerate(told.quality[:, i].tolist()):
            batch.known[j] += mark < _BAD
            if mark < _BAD and not (thin and mark == Quality.UNCERTAIN):
                batch.worst[j] = max(batch.worst[j], mark, doubt)
        batch.pieces += 1
        batch.covered += known - estimated
        batch.estimated += estimated
        batch.shared += length if mixed else 0

    def _block(self, batches: Sequence[Batch]) -> SampleBlock:
        ends = np.array([batch.end for batch in batches], np.int64)
        block = row_of(self._rows, self.output, ends, self._rows.sums(batches))
        if not self._rows.text:
            return block
        numbers = {int(batch.value) for batch in batches}
        said = {number: self._texts.get(number, "") for number in numbers}
        return replace(block, texts={BATCH: said})

    def _forget(self, values: F64) -> None:
        """Drop the texts that no row still has."""
        wanted = {int(value) for value in values}
        wanted |= set() if self._open is None else {int(self._open.value)}
        self._texts = {number: text for number, text in self._texts.items() if number in wanted}

    def save(self) -> State:
        open_ = None if self._open is None else asdict(self._open)
        texts = {str(number): text for number, text in self._texts.items()}
        own = {"open": open_, "gap": list(self._gap), "texts": texts, "added": self._added}
        return {**super().save(), **own}

    def load(self, state: State, /) -> None:
        super().load(state)
        self._take_over(state)

    def resume(self, state: State) -> None:
        """Take over the open batch of another configuration; the minutes begin empty."""
        if state.keys() == self.save().keys():
            self._take_over(state)

    def _take_over(self, state: State) -> None:
        found = cast("dict[str, Any] | None", state["open"])
        self._open = None if found is None else Batch(**found)
        self._gap = [float(part) for part in cast("list[float]", state["gap"])]
        texts = cast("Mapping[str, str]", state["texts"])
        self._texts = {int(number): text for number, text in texts.items()}
        self._added = int(str(state["added"]))
