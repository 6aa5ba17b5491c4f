"""What a sink is and what its configuration holds.

A sink hands blocks to one peer and does nothing else: no buffer, no retry, no reconnect. The outbox
buffers, the supervisor retries. To add one, write one file with a ``SinkConfig`` subclass and a
class with the three members of ``Sink``, and name the config in ``sinks/__init__.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol

from edge_agent.model import Family, Gap, SampleBlock, Schema, Site

Item = SampleBlock | Gap


class Sink(Protocol):
    """One peer that takes blocks."""

    async def connect(self) -> None:
        """Reach the peer. Raises ``Disconnected``."""

    async def write(self, items: Sequence[Item]) -> None:
        """Return when the peer has acknowledged all items, in the order given.

        errors  ``Disconnected``: nothing is known, all are sent again; ``Rejected``: those named
                are refused for ever, the others acknowledged
        """

    async def close(self) -> None:
        """Let the peer go; any number of times, also before ``connect``."""


@dataclass(frozen=True, kw_only=True)
class SinkConfig:
    """What every sink has.

    streams  patterns of stream ids that it takes (``em-*/raw``, ``clinker/*``); without, everything
             but slot rows, which go to the local history only
    """

    kind: ClassVar[str] = ""

    streams: tuple[str, ...] = ()

    def takes(self, schema: Schema) -> bool:
        """Return whether the rows of a stream go to this sink."""
        if self.streams:
            return any(fnmatchcase(schema.stream, pattern) for pattern in self.streams)
        return schema.family is not Family.SLOT

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Return what is wrong beyond the types: (path below the sink, message)."""
        return []

    def build(self, site: Site) -> Sink:
        """Return the sink."""
        raise NotImplementedError
