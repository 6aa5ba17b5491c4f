"""What the page may read, handed over by the agent: the page knows neither config nor outbox."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge_agent.clock import Clock
from edge_agent.health import Health, LogCounts, StoreHealth
from edge_agent.live import Live
from edge_agent.model import SampleBlock, Site
from edge_agent.outbox_schema import Aside

Levels = Sequence[tuple[str, float]]  # ("标杆/benchmark", 100.0): Chinese and English name, bound


class RefusedRows(Protocol):
    """How the page asks for what sinks have refused; called by a thread."""

    def __call__(self, sink: str | None, most: int, /) -> list[Aside]:
        """Return the newest refusals, newest first. Raises ``Corrupt``."""


class StoredRows(Protocol):
    """How the page asks the history."""

    def __call__(
        self, stream: str, start_ns: int, end_ns: int, most: int | None = None, /
    ) -> SampleBlock | None:
        """Return the oldest rows, ``most`` of them, with start < time <= end; None if none."""


@dataclass(frozen=True)
class Sources:
    """Everything the page may read.

    running  one-row blocks: the open window of each KPI stream as it stands, never stored
    rows     stored rows of a stream
    states   ``"plc-packer.state"`` -> ``{1: "producing"}``, the words of a state's numbers
    targets  ``"clinker.intensity"`` -> levels to show beside the figure, best first

    closed_before  by stream, the last window closed before the start: the history is asked once
    """

    site: Site
    version: str
    clock: Clock
    live: Live
    health: Health
    counts: Callable[[], LogCounts]
    store: Callable[[], StoreHealth]
    refused: RefusedRows
    running: Callable[[], list[SampleBlock]]
    rows: StoredRows
    states: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    targets: Mapping[str, Levels] = field(default_factory=dict)
    closed_before: dict[str, SampleBlock | None] = field(
        default_factory=dict, init=False, repr=False
    )
