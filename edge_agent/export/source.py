"""The stored rows of a period, stream by stream."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edge_agent.errors import Disconnected
from edge_agent.export.spool import Spool
from edge_agent.metrics.windows import Calendar
from edge_agent.metrics.within import within
from edge_agent.model import I64, Gap, SampleBlock, Schema
from edge_agent.outbox_scan import Scan
from edge_agent.reports.period import Period
from edge_agent.sinks.base import SinkConfig
from edge_agent.sinks.history import History, HistorySink

SHOWN = 1000  # records between two lines of progress


@dataclass
class Source:
    """What there is of the log and the history in a period.

    patterns  of stream ids, as in a sink's ``streams``; without, everything but slots
    history   None: only the log is asked
    gaps      rows that are not there and why, as found so far
    faults    what could not be read, for a person
    """

    scan: Scan
    history: History | None
    spool: Spool
    period: Period
    calendar: Calendar
    patterns: Sequence[str] = ()
    gaps: list[Gap] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @cached_property
    def _of_history(self) -> list[Schema]:
        try:
            return [] if self.history is None else self.history.streams()
        except Disconnected as e:
            self.faults.append(str(e))
            return []

    @property
    def known(self) -> set[str]:
        """The streams that the log and the history have ever had."""
        schemas = [*self.scan.schemas.values(), *self._of_history]
        return {schema.stream for schema in schemas}

    def takes(self, schema: Schema) -> bool:
        """Return whether a stream is asked for."""
        return SinkConfig(streams=tuple(self.patterns)).takes(schema)

    def sort(self, progress: Callable[[str], None]) -> None:
        """Take the records of the log over, sorted by stream."""
        start, end = self.period.start_ns, self.period.end_ns
        schemas = {schema.id: schema for schema in self.scan.schemas.values()}
        for table in ("raw", "derived"):
            for n, record in enumerate(self.scan.records(table, self.takes, start, end)):
                if n % SHOWN == 0:
                    progress(f"reading the log: {n} records")
                self.spool.add(record, schemas[record.schema])
        self.spool.flush()
        self.gaps += [gap for gap in self.scan.gaps(start, end) if self.takes(gap.schema)]
        self.faults += [
            f"{self.scan.path}: schema {number} is damaged, and so the rows of its stream"
            for number in self.scan.damaged
        ]
        for hole in self.scan.holes:
            numbers = f"{hole.first}" if hole.first == hole.last else f"{hole.first}–{hole.last}"
            self.faults.append(f"{self.scan.path}: records {numbers}: {hole.reason}")

    def streams(self) -> list[Schema]:
        """Return one schema of each stream that is asked for and may have rows."""
        found = {stream: self.spool.schema(stream) for stream in self.spool.streams}
        for schema in self._of_history:
            if self.takes(schema):
                found.setdefault(schema.stream, schema)
        return [found[stream] for stream in sorted(found)]

    def rows(self, schema: Schema) -> Iterator[SampleBlock]:
        """Yield the rows of a stream in the period: those of the history, then those of the log.

        Derived rows stand in the log until the history has them, so none is told twice.
        """
        known: list[I64] = []
        if self.history is not None and HistorySink.takes(schema):
            for block in self._stored(self.history, schema.stream):
                known.append(block.time)
                yield block
        times = np.concatenate(known) if known else None
        for block in self._lawful(self.spool.blocks(schema.stream)):
            if times is None:
                yield block
                continue
            new = np.flatnonzero(~np.isin(block.time, times)).tolist()
            yield from (block.rows(i, i + 1) for i in new)
        self.spool.forget(schema.stream)

    def _stored(self, history: History, stream: str) -> Iterator[SampleBlock]:
        try:
            pieces = history.pieces(stream, self.period.start_ns, self.period.end_ns)
            yield from self._lawful(pieces)
        except Disconnected as e:
            self.faults.append(f"{stream}: {e}")

    def _lawful(self, items: Iterator[SampleBlock | Gap]) -> Iterator[SampleBlock]:
        """Yield the rows that lie in the period; note the gaps."""
        for item in items:
            if isinstance(item, Gap):
                self.gaps.append(item)
                when = np.datetime64(item.first_ns, "ns")
                self.faults.append(f"{item.schema.stream}: {item.rows} rows at {when}Z are damaged")
                continue
            block = self.inside(item)
            if len(block):
                yield block

    def inside(self, block: SampleBlock) -> SampleBlock:
        """Return the rows of a block that lie in the period."""
        start, end = self.period.start_ns, self.period.end_ns
        if HistorySink.takes(block.schema):
            return within(block, self.calendar, start, end)
        if start <= block.time[0] and block.time[-1] < end:
            return block
        return block.rows(*np.searchsorted(block.time, [start, end]).tolist())
