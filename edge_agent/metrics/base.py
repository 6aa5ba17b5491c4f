"""What a metric is, what a KPI's configuration holds and what it is built from.

A metric is a deterministic operator from blocks to blocks. It asks no clock, opens no file and
keeps O(columns) numbers. To add a KPI, write one file with a ``MetricConfig`` subclass and a class,
and name the config in ``metrics/__init__.py``; the laws of ``tests/metrics/test_laws.py`` then hold
for it by discovery.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.tariff_tables import Tariffs
from edge_agent.model import F64, U8, Kind, Quality, SampleBlock, Schema, Site

# what JSON has, and arrays of numbers; NaN comes back as None
State = Mapping[str, object]
Window = Literal["1min", "15min", "1h", "shift", "1d", "1mo", "1a", "12mo"]
MINUTE = 60_000_000_000
# NumPy takes five times as long to compare with a member of an enum as with a plain number
BAD, MISSING = int(Quality.BAD), int(Quality.BAD_MISSING)
NOT_AVAILABLE, UNCERTAIN = int(Quality.BAD_NOT_AVAILABLE), int(Quality.UNCERTAIN)
ESTIMATED, FLAGGED = int(Quality.UNCERTAIN_ESTIMATED), int(Quality.UNCERTAIN_FLAGGED)
SILENCE = 3  # periods: how long a value holds, and how far apart readings are without an outage


class Metric(Protocol):
    """A deterministic operator from blocks of its inputs to rows of one output stream."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Stream ids of the blocks that it wants."""

    @property
    def output(self) -> Schema:
        """What its rows are."""

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        """Return the rows that the block completes, if any."""

    def running(self, now: int, open_rows: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return the one row of the window that is still open, as it stands; never stored.

        now        time of the newest raw row, ns
        open_rows  what the metrics before it returned, by stream
        """

    def save(self) -> State:
        """Return the whole state, small; nothing in it changes any more."""

    def load(self, state: State, /) -> None:
        """Take over a state that ``save`` returned, as it is read from JSON."""


@runtime_checkable
class Patient(Metric, Protocol):
    """A metric that can be given some rows later than they come: those that complete nothing."""

    @property
    def quiet(self) -> int:
        """Rows of its inputs that are before it complete nothing, ns; 0: any row may."""


@runtime_checkable
class Resumable(Protocol):
    """A metric that can go on under another configuration: it is made of published rows."""

    def resume(self, state: State) -> None:
        """Take over the state of another configuration, or leave it if it does not fit."""


@runtime_checkable
class Recalls(Protocol):
    """A metric that remembers more than a day, and can take it from rows that it published."""

    @property
    def memory(self) -> int:
        """How far back it looks, ns."""

    @property
    def output(self) -> Schema:
        """What its rows are."""

    def recall(self, rows: SampleBlock, /) -> None:
        """Take over what it remembers from its own rows; it goes on behind the last of them."""


@runtime_checkable
class Learns(Protocol):
    """A metric that learns what was before it was configured from stored rows of its inputs."""

    def since(self, instant: int) -> int | None:
        """Return from when on it needs the stored rows of its inputs, to go on at an instant, ns.

        None when it knows what it needs already.
        """


@dataclass(frozen=True)
class Coefficient:
    """One dated row of ``configs/coefficients``: how much standard coal a unit of a carrier is.

    kgce_per_unit  kgce per ``unit``; approved: a person has compared the row with the official text
    mj_per_unit    its heating value, where the row has one; None: 29.3076 MJ per kgce
    """

    code: str
    unit: str
    kgce_per_unit: float
    basis: str
    standard: str
    source: str
    edition: str
    valid_from: str
    valid_to: str
    confidence: str
    approved: bool
    mj_per_unit: float | None = None

    @property
    def id(self) -> str:
        """What stands in the provenance of the figures that were computed with it."""
        row = f"standard_coal:{self.code}:{self.standard}:{self.basis}:{self.valid_from}"
        return row if self.approved else f"{row}:unapproved"


@dataclass(frozen=True, kw_only=True)
class Co2Factor:
    """One row of the CO2 factors: how many tonnes of CO2 a unit stands for.

    data_year  the year that a grid's factor is of; empty: of no year
    tc_per_gj  carbon content times oxidation of a fuel, t of carbon per GJ
    """

    code: str
    variant: str
    data_year: str
    unit: str
    tco2_per_unit: float
    tc_per_gj: float | None
    valid_from: str
    valid_to: str
    approved: bool

    @property
    def id(self) -> str:
        """What stands in the provenance of the figures that were computed with it."""
        row = f"co2_factors:{self.code}:{self.variant}:{self.data_year or self.valid_from}"
        return row if self.approved else f"{row}:unapproved"


@dataclass(frozen=True)
class Limit:
    """One dated row of ``configs/limits``: how much of a pollutant may be in a mean.

    averaging              ``1h`` or ``24h``: which means are judged by it
    o2_reference           % O2 of the means that it judges; None: they are not corrected
    valid_from, valid_to   ISO dates, both inclusive; empty: not known, or still in force
    approved               a person has compared the row with the official text
    """

    id: str
    pollutant: str
    limit: float
    unit: str
    averaging: str
    o2_reference: float | None
    valid_from: str
    valid_to: str
    approved: bool

    @property
    def source(self) -> str:
        """What stands in the provenance of the figures that were judged by it."""
        return f"emission_limits:{self.id}" + ("" if self.approved else " (unapproved)")

    def in_force(self, day: str) -> bool:
        """Return whether the row is valid on a day, an ISO date."""
        return self.valid_from <= day and (not self.valid_to or day <= self.valid_to)


@dataclass(frozen=True)
class InstrumentFlag:
    """How a device says in which state it is: the tag, and which numbers mean what.

    A number in none of the lists is a fault.
    """

    tag: str
    normal: tuple[int, ...]
    maintenance: tuple[int, ...] = ()
    calibration: tuple[int, ...] = ()
    fault: tuple[int, ...] = ()


@dataclass(frozen=True)
class QualityLimits:
    """Below which share of good time a window's value is UNCERTAIN, and below which it is BAD."""

    uncertain_below: float = 0.95
    bad_below: float = 0.5


@dataclass(frozen=True)
class Reference:
    """A tag that a KPI uses, and what it must be; checked when the configuration is read.

    path  where it stands below the metric: ``("inputs", "electricity", 0)``
    unit  what it must be convertible to, or to one of
    """

    path: tuple[str | int, ...]
    tag: str
    kind: Kind | None = None
    unit: str | tuple[str, ...] | None = None


class Mistakes(ValueError):
    """What is wrong with a KPI, found while it is built: (path below the metric, message)."""

    def __init__(self, found: Sequence[tuple[tuple[str | int, ...], str]]) -> None:
        self.found = list(found)
        super().__init__("; ".join(message for _, message in found))


class Plant(Protocol):
    """What a KPI may ask while it is built."""

    @property
    def site(self) -> Site:
        """The site; its zone aligns days and months."""

    @property
    def shifts(self) -> Mapping[str, str]:
        """Shift name -> ``08:00-16:00``, local time."""

    @property
    def quality(self) -> QualityLimits:
        """The thresholds of window quality."""

    def raw(self, tag: str) -> Schema:
        """Return the raw stream that holds a tag ``em-kiln.active_power``."""

    def slot(self, tag: str) -> Schema:
        """Return the slot stream of the same tag (columns ``active_energy_import.increment`` …)."""

    def derived(self, reference: str) -> tuple[Schema, str]:
        """Return stream and column of another metric: ``clinker.intensity_1h``; ``KeyError``."""

    def provenance(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Return what stands in a derived stream's schema: the configuration, then the sources."""

    def coefficients(self, carrier: str, basis: str, standard: str) -> tuple[Coefficient, ...]:
        """Return a carrier's coefficients of all dates, in the order of their dates.

        standard  with its edition, or without: of all editions

        errors  ``KeyError`` that says why there is none
        """

    def co2_factors(self, code: str, variant: str) -> tuple[Co2Factor, ...]:
        """Return the CO2 factors of a grid or fuel, of all dates; ``KeyError`` if there is none.

        variant  of a grid: average, fossil …; of a fuel: its family
        """

    def limits(self, prefix: str) -> tuple[Limit, ...]:
        """Return the emission limits whose ids begin so, of all dates."""

    @property
    def tariffs(self) -> Tariffs:
        """The tables of ``configs/tariffs``."""

    def flag(self, tag: str) -> InstrumentFlag | None:
        """Return how the device of a tag says in which state it is; None: it does not."""


@dataclass(frozen=True, kw_only=True)
class MetricConfig:
    """What every KPI has."""

    kind: ClassVar[str] = ""
    section: ClassVar[str] = "metrics"  # of the plant's file

    windows: tuple[Window, ...] = ("1min", "15min", "1h")

    def references(self) -> list[Reference]:
        """Return every tag that it uses."""
        raise NotImplementedError

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Return what is wrong beyond types and references: (path below the metric, message)."""
        return []

    def remarks(self, plant: Plant) -> list[str]:  # noqa: ARG002  those that override it use it
        """Return what is no mistake, but should be known: days without a row, unapproved rows."""
        return []

    def build(self, name: str, plant: Plant) -> list[Metric]:
        """Return its operators, one per window, in the order in which blocks must reach them."""
        raise NotImplementedError


def usable(value: F64, quality: U8) -> NDArray[np.bool_]:
    """Return where a reading may be used: not bad, and not flagged by the instrument itself."""
    good: NDArray[np.bool_] = (quality < BAD) & (quality != FLAGGED)
    good &= np.isfinite(value)
    return good


def split_tag(tag: str) -> tuple[str, str]:
    """Return device and name of a tag written ``em-kiln.active_power``."""
    device, _, name = tag.partition(".")
    return device, name
