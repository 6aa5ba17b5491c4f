"""What every driver over a serial line or a TCP serial server has in common: address and bounds."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, parse_qsl

CONNECT = 0.8  # seconds a connect may take
UNACKNOWLEDGED = (
    3.0  # seconds after which bytes the peer's box does not acknowledge end a connection
)

_ALLOWED = {
    "baud": {str(b) for b in (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)},
    "parity": {"N", "E", "O"},
    "stopbits": {"1", "2"},
    "bytesize": {"7", "8"},
}


@dataclass(frozen=True)
class SerialSettings:
    """How bytes go over a serial line."""

    baud: int = 9600
    parity: str = "N"
    stopbits: int = 1
    bytesize: int = 8

    def laid_under(self, url: SplitResult) -> "SerialSettings":
        """Return these settings with those that an address gives laid over them."""
        given = {name: texts[0] for name, texts in parse_qs(url.query).items()}
        return SerialSettings(
            int(given.get("baud", self.baud)),
            given.get("parity", self.parity),
            int(given.get("stopbits", self.stopbits)),
            int(given.get("bytesize", self.bytesize)),
        )


def link_faults(
    url: SplitResult, *, serial: bool, port: int, own: Mapping[str, Callable[[str], list[str]]]
) -> Iterator[str]:
    """Yield what is wrong with ``scheme://host:port?…`` or ``scheme:///dev/tty?…``.

    port  the usual one, for the example of what would be right
    own   the options of the driver itself, each with what it says of a text
    """
    example = f"{url.scheme}://" + ("/dev/ttyUSB0" if serial else f"192.168.1.5:{port}")
    try:
        missing = not url.path.strip("/") if serial else not url.hostname
        if missing or (serial and url.netloc) or url.port == 0:
            yield f"no device to connect to (write {example})"
    except ValueError:
        yield f"a port is a number from 1 to 65535 (write {example})"
    if not serial and url.path.strip("/"):
        yield f'"{url.path}" after host and port means nothing (write {example})'
    known = set(own) | (set(_ALLOWED) if serial else set())
    for option, text in parse_qsl(url.query, keep_blank_values=True):
        if option not in known:
            yield f'unknown option "{option}" (known: {", ".join(sorted(known))})'
        elif option in own:
            yield from own[option](text)
        elif text not in _ALLOWED[option]:
            right = " ".join(sorted(_ALLOWED[option], key=lambda t: (len(t), t)))
            yield f"{option}={text} is not possible (one of {right})"


def watch(transport: asyncio.BaseTransport, timeout: float) -> None:
    """Have the kernel end a connection whose peer is gone without a word.

    A silent unit and a box without power look alike to us, but the box of a silent unit still
    acknowledges what it is sent.

    timeout  seconds that an answer may take
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        bound = max(UNACKNOWLEDGED, 2 * timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(bound * 1000))
