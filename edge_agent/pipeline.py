"""Block -> metrics -> log, in one synchronous call.

Between a driver and the log there is no queue: ``push`` hands the block to the metrics that want
its stream, their rows go the same way, and all of it is appended to the log as one batch that no
commit parts.

Start is recovery: the last checkpoint is loaded and the raw records behind it are fed through the
metrics in log order. A derived row at or before the last time of its stream is in the log already
and is dropped. After a change of the configuration the metrics begin empty and are fed the last
``AGAIN`` of those devices that are what they were; only what is made of published rows goes on, so
hours, days and months stay whole and no baseline is lost.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from edge_agent.errors import Corrupt, Disconnected
from edge_agent.live import Live
from edge_agent.metrics.base import Learns, Metric, Patient, Resumable
from edge_agent.model import Family, Quality, SampleBlock, Schema, concatenate
from edge_agent.outbox import Record

log = logging.getLogger(__name__)

Running = list[SampleBlock]
Stored = Callable[[str, int, int], SampleBlock | None]

AGAIN = 2 * 3600 * 1_000_000_000  # ns of raw rows that new metrics are fed
LOADED = 7 * 24 * 3600 * 1_000_000_000  # ns of stored rows that are in memory at once
ASIDE = 256  # rows laid aside at most …
VALUES = 8192  # … and values: so that taking them holds up nobody else's poll
MOST = 100_000  # records of them: about six seconds of work, in which nothing is read


class Log(Protocol):
    """What the pipeline needs of the outbox."""

    def append(self, blocks: Sequence[SampleBlock], counts: Mapping[str, int]) -> int: ...
    def checkpoint(self, states: Mapping[str, object]) -> None: ...
    def restore(self) -> tuple[int, dict[str, object]]: ...
    def records(self, after: int, family: Family | None = ...) -> Iterable[Record]: ...
    def block(self, record: Record) -> SampleBlock: ...
    def schema(self, id: str) -> Schema: ...  # noqa: A002  a schema's id is called so everywhere
    def before(self, time_ns: int, most: int) -> int: ...
    def last_ns(self, stream: str) -> int | None: ...
    @property
    def newest_ns(self) -> int: ...


class Flow:
    """Which metric takes the rows of which stream.

    Rows that complete nothing are laid aside for the metrics that can wait (``Patient``) until a
    row comes that may: to take some rows at once is the same and costs far less. Before a metric
    takes that row, it has all others that came before it, those of its other inputs too.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._ways: dict[str, _Way] = {}
        for metric in metrics:
            for stream in metric.inputs:
                self._ways.setdefault(stream, _Way(stream)).add(metric)

    def rows(self, block: SampleBlock) -> Iterator[SampleBlock]:
        """Yield what a block makes metrics complete, each before what is made of it."""
        way = self._ways.get(block.schema.stream)
        if way is None:
            return
        if way.waits(block):
            yield from self._taken(way.prompt, block)
            return
        way.give()
        yield from self._taken(way.wanting, block)
        way.border = min((metric.quiet for metric in way.patient), default=0)

    def settle(self) -> None:
        """Give the metrics all that is laid aside; it completes nothing."""
        for way in self._ways.values():
            way.give()

    def _taken(self, metrics: Sequence[Metric], block: SampleBlock) -> Iterator[SampleBlock]:
        for metric in metrics:
            for stream in metric.inputs:
                self._ways[stream].give()
            rows = metric.update(block)
            if rows is not None and len(rows):
                yield rows
                yield from self.rows(rows)


class _Way:
    """The metrics that take a stream, and its rows that are laid aside for the patient ones.

    border  ns; a row before it completes nothing of theirs
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.wanting: list[Metric] = []
        self.patient: list[Patient] = []
        self.prompt: list[Metric] = []
        self.border = 0
        self._aside: list[SampleBlock] = []
        self._values = 0

    def add(self, metric: Metric) -> None:
        """Take in a metric."""
        self.wanting.append(metric)
        if isinstance(metric, Patient):
            self.patient.append(metric)
        else:
            self.prompt.append(metric)

    def waits(self, block: SampleBlock) -> bool:
        """Lay a block aside if it completes nothing; return whether it was."""
        if int(block.time[-1]) >= self.border:
            return False
        aside = self._aside
        full = len(aside) >= ASIDE or self._values >= VALUES
        if aside and (full or block.schema is not aside[0].schema):
            self.give()
        self._aside.append(block)
        self._values += block.value.size
        return True

    def give(self) -> None:
        """Give the patient metrics what is laid aside."""
        if not self._aside:
            return
        blocks, self._aside, self._values = self._aside, [], 0
        rows = concatenate(blocks)
        for metric in self.patient:
            if metric.update(rows) is not None:
                raise RuntimeError(f"{self.stream}: rows were laid aside that complete something")


def teach(metrics: Sequence[Metric], stored: Stored, until: int) -> None:
    """Feed the stored rows of before to the metrics that learn from them.

    So the fit of a baseline can begin before the metric was configured. A metric that needs raw
    rows, which are not kept for long, is left as it is.

    stored  rows of a stream with ``start < time <= end``
    errors  those of ``stored``
    """
    outputs = {metric.output.stream: metric.output for metric in metrics}
    for metric in metrics:
        since = metric.since(until) if isinstance(metric, Learns) else None
        if since is None or not all(stream in outputs for stream in metric.inputs):
            continue
        for start in range(since, until, LOADED):
            end = min(start + LOADED, until)
            found = [stored(stream, start, end) for stream in metric.inputs]
            blocks = [b for b in found if b is not None and _unchanged(b, outputs)]
            if len(blocks) == 1:
                metric.update(blocks[0])
                continue
            times = [(int(t), i, j) for i, b in enumerate(blocks) for j, t in enumerate(b.time)]
            for _, i, j in sorted(times):
                metric.update(blocks[i].rows(j, j + 1))


def _unchanged(block: SampleBlock, outputs: Mapping[str, Schema]) -> bool:
    """Return whether stored rows have the columns that their metric has now."""
    return block.schema.layout == outputs[block.schema.stream].layout


class Pipeline:
    """The way of a block; owns the metrics and nothing else that lasts.

    digest    what the metrics were configured from; states of another configuration are not loaded
    devices   device -> what it was configured from
    stored    the stored rows of a stream, for metrics that learn from them
    recorded  streams that come from a file, with their own times: at a start it is read again, and
              rows that are in the log already are passed over
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        outbox: Log,
        live: Live,
        digest: str,
        *,
        devices: Mapping[str, str] | None = None,
        recorded: Collection[str] = (),
        stored: Stored | None = None,
    ) -> None:
        self._metrics = tuple(metrics)
        self._outbox = outbox
        self._live = live
        self._digest = digest
        self._devices = dict(devices or {})
        self._recorded = frozenset(recorded)
        self._stored = stored
        self._newest = 0  # time of the newest raw row
        self.learnt: dict[str, object] = {}  # what the drivers had learnt at the last checkpoint
        self._flow = Flow(self._metrics)

    def push(self, block: SampleBlock, *, substituted: bool = False) -> None:
        """Take a block of a device all the way into the log's next batch.

        substituted  the rows answer for a silent device; they are counted apart
        """
        if block.schema.stream in self._recorded or block.schema.past:
            block = self._not_logged(block)
        if not len(block):
            return
        block = self._forward_only(block)
        self._newest = max(self._newest, int(block.time[-1]))
        batch = [block, *self._flow.rows(block)]
        for made in batch:
            self._live.put(made)
        counts = {"substituted" if substituted else "read": len(block)}
        counts["derived"] = sum(len(b) for b in batch) - len(block)
        self._outbox.append(batch, counts)

    def recover(self) -> int:
        """Load the last checkpoint, feed what came after it; return the number of records fed."""
        sequence, states = self._outbox.restore()
        learnt = states.get("drivers")
        self.learnt = learnt if isinstance(learnt, dict) else {}
        self._newest = self._outbox.newest_ns
        usable: set[str] | None = None  # all
        if states.get("digest") == self._digest:
            for metric in self._metrics:
                state = states.get(metric.output.layout)
                if isinstance(state, dict):
                    metric.load(state)
        elif states:
            log.info("the configuration has changed: the last two hours are computed anew")
            self._resume(states)
            sequence = self._outbox.before(self._outbox.newest_ns - AGAIN, MOST)
            stored = states.get("devices")
            known = stored if isinstance(stored, dict) else {}
            usable = {name for name, digest in self._devices.items() if known.get(name) == digest}
        self._teach()
        fed = 0
        for record in self._outbox.records(sequence):
            if usable is not None and self._outbox.schema(record.schema).owner not in usable:
                continue
            try:
                block = self._outbox.block(record)
            except Corrupt as e:
                log.error("record %d of the log is damaged and left out: %s", record.sequence, e)
                continue
            made = (self._not_logged(rows) for rows in self._flow.rows(block))
            batch = [rows for rows in made if len(rows)]
            for rows in (*batch, block):
                self._live.put(rows)
            if batch:
                self._outbox.append(batch, {"derived": sum(len(b) for b in batch)})
            fed += 1
        return fed

    def _teach(self) -> None:
        if self._stored is None:
            return
        try:
            teach(self._metrics, self._stored, self._newest)
        except (Disconnected, Corrupt) as e:
            log.error("what was stored before cannot be read, baselines may begin anew: %s", e)

    def _resume(self, states: Mapping[str, object]) -> None:
        """Let go on what is made of published rows: open windows, the fit of a baseline."""
        for metric in self._metrics:
            state = states.get(metric.output.layout)
            if isinstance(metric, Resumable) and isinstance(state, dict):
                metric.resume(state)

    def checkpoint(self, learnt: Mapping[str, object] | None = None) -> None:
        """Put the state of all metrics into the next commit, with the sequence it belongs to.

        learnt  what the drivers have learnt of their devices, by link; None: what it was before
        """
        self._flow.settle()
        self.learnt = self.learnt if learnt is None else dict(learnt)
        states: dict[str, object] = {m.output.layout: m.save() for m in self._metrics}
        kept = {"digest": self._digest, "devices": self._devices, "drivers": self.learnt}
        self._outbox.checkpoint(states | kept)

    def running(self) -> Running:
        """Return the open window of every KPI stream as it stands, one row each."""
        self._flow.settle()
        rows: dict[str, SampleBlock] = {}
        for metric in self._metrics:
            row = metric.running(self._newest, rows)
            if row is not None:
                rows[row.schema.stream] = row
        return [row for row in rows.values() if row.schema.family is not Family.SLOT]

    @property
    def rows_late(self) -> int:
        """Rows that came after their slot was closed; ``recompute`` uses them."""
        return sum(int(getattr(m, "rows_late", 0)) for m in self._metrics)

    def _not_logged(self, block: SampleBlock) -> SampleBlock:
        last = self._outbox.last_ns(block.schema.stream)
        if last is None:
            return block
        return block.rows(int(np.searchsorted(block.time, last, side="right")), len(block))

    def _forward_only(self, block: SampleBlock) -> SampleBlock:
        """Return the block with no row before the last one of its stream.

        A source whose clock went back, or a restart with a wrong clock: the row keeps its value,
        gets the time of the row before it and is marked.
        """
        last = self._outbox.last_ns(block.schema.stream)
        if last is None or block.time[0] >= last:
            return block
        early = block.time < last
        quality = block.quality.copy()
        usable = quality < Quality.BAD
        quality[usable & early] = np.maximum(quality, Quality.UNCERTAIN_CLOCK)[usable & early]
        return replace(block, time=np.maximum(block.time, last), quality=quality)
