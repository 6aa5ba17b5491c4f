"""One module for each kind of metric: what the laws of ``test_laws.py`` run on.

A module has

- ``CONFIG``: a ``MetricConfig`` of the kind, with all the windows that it can have
- ``expected(rows, spans)``: its rows by a slow, obvious version in plain Python; ``rows`` by
  stream, ``spans`` of the longer windows asked for, None for the shortest
- ``SUMS``: columns whose day is the sum of its minutes; () where there is none
- ``OTHERS`` (optional): the metrics that it refers to, by name
- ``RELATIVE`` (optional): how far its numbers may be from those of ``expected``
- ``STREAM`` (optional): the stream that ``expected`` is of, ``kpi/1min`` unless said otherwise
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from edge_agent.metrics import METRICS
from edge_agent.metrics.base import MetricConfig, Window
from edge_agent.model import SampleBlock
from tests.metrics.oracle import Rows, Span

WINDOWS: tuple[Window, ...] = ("1min", "15min", "1h", "shift", "1d", "1mo", "1a", "12mo")


@dataclass(frozen=True)
class Example:
    """What a module of this package says."""

    kind: str
    config: MetricConfig
    expected: Callable[[Mapping[str, SampleBlock], list[Span] | None], Rows]
    sums: tuple[str, ...]
    others: Mapping[str, MetricConfig]
    stream: str
    relative: float


def examples() -> dict[str, Example]:
    """Return the example of every registered kind; a missing module is an error."""
    found = {}
    for kind in (config.kind for config in METRICS):
        module = import_module(f"{__name__}.{kind.replace('-', '_')}")
        assert module.CONFIG.kind == kind
        others, stream = getattr(module, "OTHERS", {}), getattr(module, "STREAM", "kpi/1min")
        relative = getattr(module, "RELATIVE", 1e-12)
        found[kind] = Example(
            kind, module.CONFIG, module.expected, module.SUMS, others, stream, relative
        )
    return found
