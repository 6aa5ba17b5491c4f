"""What the agent knows of itself: links, sinks, and the conservation of rows.

Rows appended to the log = rows read + substituted (a silent device is answered for) + derived.
For every sink: rows appended that it takes = delivered + refused + pending + dropped. The counts
are committed by the outbox with the rows and cursors themselves, so both identities hold after a
kill; ``Health`` only reads them.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum

LONG_ENOUGH = 600.0  # seconds of rows that tell how fast the log grows


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
    refused_ns: int = 0  # when that was, since the start; 0: never
    backlog: int = 0  # of the rows that wait, those in the lane behind live ones
    behind_seconds: float = 0.0  # age of the oldest waiting row against its stream's newest
    remaining_seconds: float | None = None  # until it has caught up; None: it does not just now


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


@dataclass(frozen=True)
class SetAside:
    """A damaged file that was renamed so that a new one could be begun.

    at_ns  when it was last written
    """

    name: str
    bytes: int
    at_ns: int


@dataclass(frozen=True)
class Dropped:
    """Rows that left the log before a sink had them.

    told  the sink has been given the marker in their place
    """

    sink: str
    stream: str
    first_ns: int
    last_ns: int
    rows: int
    reason: str
    told: bool = False


@dataclass(frozen=True)
class Commits:
    """The group commits since the start.

    recent  seconds that each of the last ones took, oldest first
    """

    count: int = 0
    seconds: float = 0.0
    recent: tuple[float, ...] = ()


@dataclass(frozen=True)
class StoreHealth:
    """The log as a store: how full it is and how far back it goes.

    raw_bytes, derived_bytes  of the rows, each held against its own budget
    disk_bytes                of all its files, held against ``limit_bytes``
    oldest_ns, newest_ns      times of the oldest raw row that is kept and of the newest
    """

    raw_bytes: int
    derived_bytes: int
    raw_budget_bytes: int
    derived_budget_bytes: int
    disk_bytes: int
    limit_bytes: int
    oldest_ns: int
    newest_ns: int
    set_aside: tuple[SetAside, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    commits: Commits = Commits()

    def markers(self, sink: str | None = None) -> int:
        """Return how many gap markers wait for a sink, or for all."""
        return sum(not gap.told and sink in {None, gap.sink} for gap in self.dropped)

    @property
    def kept_seconds(self) -> float:
        """How far back the raw rows go."""
        return max(0, self.newest_ns - self.oldest_ns) / 1e9

    @property
    def room_seconds(self) -> float | None:
        """For how long raw rows can wait until the budget drops the oldest; None: not known yet.

        At the pace of those that are kept, which needs a while to be one.
        """
        if self.kept_seconds < LONG_ENOUGH or not self.raw_bytes:
            return None
        return self.kept_seconds * self.raw_budget_bytes / self.raw_bytes


@dataclass
class Health:
    """All of it, as the dashboard, ``/healthz`` and ``/metrics`` show it."""

    started_ns: int = 0
    links: dict[str, LinkHealth] = field(default_factory=dict)
    sinks: dict[str, SinkHealth] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)  # "disk" -> what is wrong now
    rows_late_total: int = 0

    def to_json(self, counts: LogCounts, store: StoreHealth) -> dict[str, object]:
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
            "store": _of_store(store),
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


def _of_store(store: StoreHealth) -> dict[str, object]:
    told = {k: v for k, v in asdict(store).items() if k not in {"dropped", "commits"}}
    spans = {"kept_seconds": store.kept_seconds, "room_seconds": store.room_seconds}
    return told | spans | {"markers": store.markers(), "commits": store.commits.count}
