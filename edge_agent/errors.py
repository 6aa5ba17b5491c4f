"""The exception tree, by what the caller should do.

::

    EdgeError
    ├── ConfigError     a person must mend a file or an argument: stop before the start
    ├── Disconnected    the link is of no use: close it, back off, connect again
    │   └── Unreachable     nobody was there to connect to: trying again soon costs nobody anything
    ├── NoAnswer        one unit behind a living link is silent: answer for it, go on with the next
    ├── Rejected        the peer refuses these rows for ever: put them aside and count them
    └── Corrupt         stored bytes are not what was written: set them aside and go on

Everything else that is raised is a bug. A bad *reading* is no exception but a ``Quality``.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class EdgeError(Exception):
    """Base of the errors that the agent knows how to answer."""


@dataclass(frozen=True, order=True)
class Fault:
    """One mistake in a file, where it stands and what would be right."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(EdgeError):
    """Every mistake of a configuration at once."""

    def __init__(self, faults: Sequence[Fault | str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, faults)))


class Disconnected(EdgeError):
    """The link is down or of no use.

    retry_after  seconds for which the peer has asked to be left alone, or None
    """

    def __init__(self, reason: str = "", *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(reason)


class Unreachable(Disconnected):
    """The link could not be opened: a port that refuses, a device node that is not there.

    A connection that was closed before anything was heard on it is none either.
    """


class NoAnswer(EdgeError):
    """A unit did not answer in time; the link it hangs on lives.

    waited  seconds of the line that its silence has taken; None: the whole call
    """

    def __init__(
        self, device: str, reason: str = "no answer", *, waited: float | None = None
    ) -> None:
        self.device, self.waited = device, waited
        super().__init__(f"{device}: {reason}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a peer refuses for ever.

    item    its index in what was written
    rows    which rows of its block, in order; none of a gap marker, which has no rows
    reason  what the peer said
    """

    item: int
    rows: Sequence[int]
    reason: str


class Rejected(EdgeError):
    """The peer refused some rows for ever; all others it has accepted."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("; ".join(f"{r.item}: {r.reason}" for r in self.refusals))


class Corrupt(EdgeError):
    """Stored bytes fail their checksum or do not decode."""
