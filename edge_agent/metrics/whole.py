"""Energy and output of a boundary, minute by minute, to be shared out by product or batch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.metrics.feed import Rows
from edge_agent.metrics.join import Counter, Inputs
from edge_agent.metrics.spells import shared_out
from edge_agent.model import F64, I64, U8
from edge_agent.units import Unit

GRID = 2.0**-36  # kgce, t: shares of a minute are whole steps of it, so they sum up exactly


@dataclass(frozen=True)
class Totals:
    """What the boundary had in n minutes: energy and output.

    value, quality  (2, n); covered, estimated  int64 (n,), ns
    """

    value: F64
    quality: U8
    covered: I64
    estimated: I64

    def shared(self, i: int, spans: I64) -> Iterator[tuple[F64, int]]:
        """Yield the shares, in proportion to spans, and the quality of energy, then of output."""
        for value, quality in zip(self.value[:, i], self.quality[:, i], strict=True):
            yield shared_out(float(value), spans, GRID), int(quality)

    def told(self, i: int) -> int:
        """Return how long the boundary is known in a minute, measured or estimated, ns."""
        return int(self.covered[i] + self.estimated[i])


@dataclass(frozen=True)
class Whole:
    """The minutes of an energy metric.

    made     name of its column of output
    per      the unit of energy per output
    sources  ids of the table rows that its figures rest on
    """

    energy: Counter
    output: Counter
    made: str
    per: Unit
    sources: tuple[str, ...]

    @classmethod
    def of(cls, name: str, inputs: Inputs) -> "Whole":
        """Return it for the name of an energy metric; ``KeyError`` for one that has no energy."""
        schema, _ = inputs.plant.derived(f"{name}.total_kgce")
        made = "output_t" if "output_t" in schema.index else "output"
        sources = tuple(s for s in schema.provenance if not s.startswith("config:"))
        per = schema.tags[schema.index["intensity"]].unit
        energy = inputs.minute(f"{name}.total_kgce")
        return cls(energy, inputs.minute(f"{name}.{made}"), made, per, sources)

    def read(self, ends: I64, rows: Mapping[str, Rows]) -> Totals:
        """Return the minutes with these ends."""
        energy, energy_quality, covered, estimated = self.energy.read(ends, rows)
        output, output_quality, _, _ = self.output.read(ends, rows)
        value = np.rint(np.stack([energy, output]) / GRID) * GRID
        return Totals(value, np.stack([energy_quality, output_quality]), covered, estimated)
