"""What the agent knows of itself: links, sinks, and the conservation of rows.

Rows appended to the log = rows read + substituted (a silent device is answered for) + derived.
For every sink: rows appended that it takes = delivered + refused + pending + dropped. The counts
are committed by the outbox with the rows and cursors themselves, so both identities hold after a
kill; ``Health`` only reads them.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum


class State(StrEnum):
    """How a link or a sink is."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    FAILED = "failed"  # a bug was caught; restarted after a long pause
    STOPPED = "stopped"


@dataclass
class LinkHealth:
    """One physical link and the devices behind it; kept by ``supervisor.run_driver``."""

    name: str
    devices: tuple[str, ...]
    state: State = State.STARTING
    since_ns: int = 0
    error: str = ""
    connects: int = 0
    reads: int = 0
    rows_read: int = 0
    rows_substituted: int = 0
    ticks_missed: int = 0
    timeouts: int = 0  # reads and probes that no unit has answered
    probes: int = 0
    scan_seconds: float = 0.0  # of the last scan
    late_seconds: float = 0.0  # of the last scan, behind its deadline
    counts: dict[str, int] = field(default_factory=dict)  # of the driver: late frames, retries …
    silent: set[str] = field(default_factory=set)  # devices whose breaker is open


@dataclass
class SinkHealth:
    """One sink; kept by ``supervisor.run_sink``; the row counts are the outbox's."""

    name: str
    kind: str
    state: State = State.STARTING
    since_ns: int = 0
    error: str = ""
    last_refusal: str = ""
    backlog: int = 0  # rows that come behind live ones
    behind_seconds: float = 0.0  # since the next row was read, by the newest of its stream


@dataclass(frozen=True)
class ReaderCounts:
    """The committed counts of one reader of the log, in rows."""

    appended: int
    delivered: int
    refused: int
    pending: int
    dropped: int

    @property
    def conserved(self) -> bool:
        """Whether every row that the reader takes is accounted for."""
        return self.appended == self.delivered + self.refused + self.pending + self.dropped


@dataclass(frozen=True)
class LogCounts:
    """The committed counts of the log, in rows; ``readers`` by name."""

    appended: int
    read: int
    substituted: int
    derived: int
    dropped: int
    bytes: int
    readers: dict[str, ReaderCounts]

    @property
    def conserved(self) -> bool:
        """Whether no row came from nowhere and none went there."""
        total = self.appended == self.read + self.substituted + self.derived
        return total and all(reader.conserved for reader in self.readers.values())


@dataclass
class Health:
    """All of it, as the dashboard, ``/healthz`` and ``/metrics`` show it."""

    started_ns: int = 0
    links: dict[str, LinkHealth] = field(default_factory=dict)
    sinks: dict[str, SinkHealth] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)  # "disk" -> what is wrong now
    rows_late_total: int = 0

    def to_json(self, counts: LogCounts) -> dict[str, object]:
        """Return everything as JSON-able data."""
        links = [asdict(link) | {"silent": sorted(link.silent)} for link in self.links.values()]
        return {
            "started_ns": self.started_ns,
            "ok": self.ok and counts.conserved,
            "faults": self.faults,
            "links": links,
            "sinks": [asdict(s) | self._rows(s.name, counts) for s in self.sinks.values()],
            "log": {k: v for k, v in asdict(counts).items() if k != "readers"}
            | {"conserved": counts.conserved},
            "rows_late_total": self.rows_late_total,
        }

    @property
    def ok(self) -> bool:
        """Whether nothing needs a person; a silent device repairs itself, a full disk does not."""
        states = [link.state for link in self.links.values()]
        states += [sink.state for sink in self.sinks.values()]
        return not self.faults and State.FAILED not in states

    @staticmethod
    def _rows(name: str, counts: LogCounts) -> dict[str, object]:
        reader = counts.readers[name]
        return asdict(reader) | {"conserved": reader.conserved}
