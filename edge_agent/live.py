"""The last rows of every stream in memory: what the dashboard reads.

Nothing here is stored or published; a browser that asks is answered from this.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_agent.model import SampleBlock, Schema


class Live:
    """The newest row of every stream, and who wants to hear of new ones."""

    def __init__(self) -> None:
        self._last: dict[str, SampleBlock] = {}
        self._listeners: list[Callable[[str], None]] = []

    def put(self, block: SampleBlock) -> None:
        """Take over the last row of a block; what is past already is nobody's newest row."""
        if block.schema.past:
            return
        n = len(block)
        self._last[block.schema.stream] = block if n == 1 else block.rows(n - 1, n)
        for listener in self._listeners:
            listener(block.schema.stream)

    def last(self, stream: str) -> SampleBlock | None:
        """Return the newest row of a stream as a block of one, or None."""
        return self._last.get(stream)

    def streams(self) -> list[Schema]:
        """Return the schemas of the streams seen so far, in the order of their first row."""
        return [block.schema for block in self._last.values()]

    @contextmanager
    def listening(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Call the listener with each stream that gets new rows, for as long as the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


SHARE = 0.02  # of the time that open windows may be worked out in
KEPT = 0.2  # seconds that they stand at least: the page and its alarms ask one after the other


class Standing:
    """The open windows as they stand, for however many ask.

    Each row has its own time, so one that is some seconds old is not taken for new. To work them
    out takes a millisecond for a small plant and a tenth of a second for a large one.
    """

    def __init__(self, work: Callable[[], list[SampleBlock]]) -> None:
        self._work = work
        self._rows: list[SampleBlock] = []
        self._until = 0.0

    def rows(self) -> list[SampleBlock]:
        """Return one row for each open window."""
        begin = time.monotonic()
        if begin >= self._until:
            self._rows = self._work()
            end = time.monotonic()
            self._until = end + max(KEPT, (end - begin) / SHARE)
        return self._rows
