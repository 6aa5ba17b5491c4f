"""What a sink is and what its configuration holds.

A sink hands blocks to one peer and does nothing else: no buffer, no retry, no reconnect. The outbox
buffers, the supervisor retries. To add one, write one file with a ``SinkConfig`` subclass and a
class with the three members of ``Sink``, and name the config in ``sinks/__init__.py``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

from edge_agent.model import Family, Gap, SampleBlock, Schema, Site
from edge_agent.units import Duration

Item = SampleBlock | Gap


class Sink(Protocol):
    """One peer that takes blocks."""

    async def connect(self) -> None:
        """Reach the peer. Raises ``Disconnected``."""

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:
        """Return when the peer has acknowledged all items, in the order given.

        backlog  they are older than what the peer has had already: they come behind live rows
        errors   ``Disconnected``: nothing is known, all are sent again; ``Rejected``: the rows
                 named are refused for ever, all others acknowledged
        """

    async def close(self) -> None:
        """Let the peer go; any number of times, also before ``connect``."""


@runtime_checkable
class Tells(Protocol):
    """A sink that can say more of a peer that it has reached."""

    @property
    def remark(self) -> str:
        """What a person should know of the peer, in one line; empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class SinkConfig:
    """What every sink has.

    streams           patterns of stream ids that it takes (``em-*/raw``, ``clinker/*``); without,
                      everything but slot rows, which go to the local history only
    live_first_after  how long a row waits before what is newest goes first, and the rest behind it;
                      ``never``: always in order
    backlog_rate      rows of the rest per second, at most; without, half of the sink's time
    """

    kind: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()  # keys that name files

    streams: tuple[str, ...] = ()
    live_first_after: Duration | Literal["never"] = Duration(60.0)
    backlog_rate: float | None = None

    def takes(self, schema: Schema) -> bool:
        """Return whether the rows of a stream go to this sink."""
        if self.streams:
            return any(fnmatchcase(schema.stream, pattern) for pattern in self.streams)
        return schema.family is not Family.SLOT

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Return what is wrong beyond the types: (path below the sink, message)."""
        return []

    def pace_faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Return what is wrong with the keys that every sink has."""
        found: list[tuple[tuple[str | int, ...], str]] = []
        after, rate = self.live_first_after, self.backlog_rate
        if not isinstance(after, str) and after <= 0:
            told = "live_first_after is longer than 0 (write 60s, or never: always in order)"
            found.append((("live_first_after",), told))
        if rate is not None and not 0 < rate < math.inf:
            found.append((("backlog_rate",), "backlog_rate is rows per second (write 5000)"))
        return found

    def remarks(self, streams: Mapping[Schema, float | None]) -> list[str]:  # noqa: ARG002
        """Return what a person should know, though it is no fault.

        streams  raw ones that it takes, with the s between their rows; None for what pushes
        """
        return []

    def session(self) -> str:
        """Return what only one sink may hold (a client id at a broker); nothing if it is shared."""
        return ""

    def below(self, folder: Path) -> Self:
        """Return the same with files that are named relative to a folder."""
        placed: dict[str, Any] = {
            key: str(folder / Path(name).expanduser())
            for key in self.files
            if (name := getattr(self, key))
        }
        return replace(self, **placed)

    def build(self, site: Site) -> Sink:
        """Return the sink."""
        raise NotImplementedError


def address_problem(
    url: str, peer: str, ports: Mapping[str, int], login: str, *, folder: bool = False
) -> str | None:
    """Return what is wrong with the address of a peer, or None; no secret in it is shown.

    peer    what it is called: ``a broker``
    ports   the schemes that it may have, each with the usual port
    login   which keys say who the agent is
    folder  whether a path may stand behind host and port
    """
    right = "write " + " or ".join(f"{scheme}://host:{port}" for scheme, port in ports.items())
    if "@" in url:
        return f"a user and a password do not stand in url (write the {login}; {right})"
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError as e:
        return f"{e} ({right})"
    plain = url.partition("?")[0]
    if address.scheme not in ports or not address.hostname or port == 0:
        return f"{plain!r} is not the address of {peer} ({right})"
    if address.query or address.fragment or (address.path not in {"", "/"} and not folder):
        return f"url holds more than the address of {peer} ({right})"
    return None
