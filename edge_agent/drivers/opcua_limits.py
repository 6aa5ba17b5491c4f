"""What a server bears in one request, and whether its clock goes on; pure.

source  OPC 10000-5, 6.3.11 (OperationLimitsType), 12.10 (ServerStatusDataType)
"""

from collections.abc import Mapping

MOST = 500  # nodes per request where the server does not say
ANNOUNCED = {"read": 11705, "items": 11714, "history": 12165, "points": 2737}  # ids of the limits
AGAIN = 60.0  # s, real, after which what the server has refused is asked for again
_TOO_LARGE = {
    0x80100000,  # BadTooManyOperations
    0x80080000,  # BadEncodingLimitsExceeded
    0x80B80000,  # BadRequestTooLarge
    0x80B90000,  # BadResponseTooLarge
}


_LOST = {
    0x80050000,  # BadCommunicationError
    0x800C0000,  # BadShutdown
    0x800E0000,  # BadServerHalted
    0x80220000,  # BadSecureChannelIdInvalid
    0x80250000,  # BadSessionIdInvalid
    0x80260000,  # BadSessionClosed
    0x80270000,  # BadSessionNotActivated
    0x80860000,  # BadSecureChannelClosed
    0x80AE0000,  # BadConnectionClosed
}


def lost(code: int) -> bool:
    """Return whether a refusal says that the session is no more, whatever was asked for."""
    return code & 0xFFFF0000 in _LOST


def too_large(code: int) -> bool:
    """Return whether a refusal says that less was to be asked for at once."""
    return code & 0xFFFF0000 in _TOO_LARGE


class Limits:
    """Nodes per request, by service: ``read``, ``items`` (monitored), ``history``.

    The smallest of what is configured, announced and learnt; ``points`` are the nodes of which the
    server remembers how far their history was read.

    learnt  sizes that were not refused after larger ones had been
    """

    def __init__(self, configured: int | None = None) -> None:
        self._configured = configured or MOST
        self._announced: dict[str, int] = {}
        self.learnt: dict[str, int] = {}

    def __getitem__(self, service: str) -> int:
        said = (self._announced.get(service, MOST), self.learnt.get(service, MOST))
        return min(MOST, self._configured, *said)

    def announce(self, said: Mapping[str, object]) -> None:
        """Take what the server announces; 0 there, or no number: it does not say."""
        self._announced = {
            service: int(number)
            for service, number in said.items()
            if isinstance(number, (int, float)) and number >= 1
        }

    def refused(self, service: str, size: int) -> bool:
        """Note that a request was too large; return whether a smaller one is possible."""
        self.learnt[service] = max(1, min(self[service], size) // 2)
        return size > 1

    def load(self, learnt: object) -> None:
        """Take over what was learnt before; what is no number is passed over."""
        if isinstance(learnt, Mapping):
            self.learnt = {
                str(k): v for k, v in learnt.items() if isinstance(v, int) and 1 <= v <= MOST
            }


class ServerTime:
    """Whether the server's clock goes on. All times in real seconds."""

    def __init__(self) -> None:
        self._said: float | None = None
        self._since = 0.0

    def still(self, said: float | None, now: float) -> float:
        """Return for how long the server's clock has stood still.

        said  what it says now; None if the server has no clock: then it never stands still
        now   by our own clock, which never goes back
        """
        if said is None or said != self._said:
            self._said, self._since = said, now
        return now - self._since

    def forget(self) -> None:
        """Begin anew: another connection."""
        self._said = None
