"""The wire truth: what each simulated device was asked, when, and how it answered.

Counted at the server, so that nobody has to believe the agent. ``Truth.serve`` offers it on a
loopback port as JSON: ``/`` all devices, ``/em-kiln`` one, ``?times`` with every request.
"""

import asyncio
import json
from array import array
from collections.abc import Mapping
from enum import IntEnum
from urllib.parse import unquote, urlsplit

KEPT = 100_000  # requests per device of which the times are kept


class Outcome(IntEnum):
    """What came of a request."""

    SILENT = 0
    ANSWERED = 1  # with values, and as the device meant it
    REFUSED = 2  # an exception or a bad status
    SPOILED = 3  # bytes that are no right answer to it


class Tally:
    """The requests to one device.

    times     ns since the Unix epoch, plant time, when each request was there in whole
    asked     how many registers (or nodes, or data items) each asked for
    outcomes  an ``Outcome`` each
    """

    def __init__(self) -> None:
        self.times = array("q")
        self.asked = array("L")
        self.outcomes = bytearray()
        self.requests = 0
        self._counts = [0, 0, 0, 0]

    def request(self, t: int, asked: int = 1) -> int:
        """Count a request, silent so far; return its number."""
        if len(self.times) >= KEPT:
            del self.times[: KEPT // 2], self.asked[: KEPT // 2], self.outcomes[: KEPT // 2]
        self.times.append(t)
        self.asked.append(asked)
        self.outcomes.append(Outcome.SILENT)
        self._counts[Outcome.SILENT] += 1
        self.requests += 1
        return self.requests - 1

    def end(self, number: int, outcome: Outcome) -> None:
        """Say what came of a request."""
        place = number - (self.requests - len(self.times))
        if place >= 0:
            self._counts[self.outcomes[place]] -= 1
            self.outcomes[place] = outcome
            self._counts[outcome] += 1

    def count(self, t: int, outcome: Outcome, asked: int = 1) -> None:
        """Count a request whose outcome is known already."""
        self.end(self.request(t, asked), outcome)

    @property
    def answered(self) -> int:
        return self._counts[Outcome.ANSWERED]

    @property
    def refused(self) -> int:
        return self._counts[Outcome.REFUSED]

    @property
    def silent(self) -> int:
        return self._counts[Outcome.SILENT]

    @property
    def spoiled(self) -> int:
        return self._counts[Outcome.SPOILED]

    def as_json(self, *, times: bool = False) -> dict[str, object]:
        """Return the counts and, if asked, every request that is kept."""
        counts = ("requests", "answered", "refused", "silent", "spoiled")
        told: dict[str, object] = {name: getattr(self, name) for name in counts}
        if times:
            outcomes = [Outcome(outcome).name.lower() for outcome in self.outcomes]
            told |= {"times": self.times.tolist(), "asked": self.asked.tolist()}
            told |= {"outcomes": outcomes}
        return told


class Truth:
    """The tallies of a run, by device."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._server: asyncio.Server | None = None

    def tally(self, device: str) -> Tally:
        """Return a device's tally, an empty one at first."""
        return self._tallies.setdefault(device, Tally())

    def devices(self) -> Mapping[str, Tally]:
        """Return all tallies."""
        return self._tallies

    async def serve(self) -> str:
        """Offer the tallies on a free loopback port; return the address."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"

    async def close(self) -> None:
        """Stop offering; any number of times."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5.0):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = self._page(head.split(b"\r\n", 1)[0].decode("latin-1"))
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # whoever asked has gone, or says nothing
        finally:
            writer.close()

    def _page(self, request: str) -> tuple[str, bytes]:
        method, _, rest = request.partition(" ")
        url = urlsplit(rest.partition(" ")[0])
        if method != "GET":
            return "405 Method Not Allowed", b'{"error": "only GET"}'
        times, device = "times" in url.query, unquote(url.path.strip("/"))
        if not device:
            told = {name: tally.as_json(times=times) for name, tally in self._tallies.items()}
            return "200 OK", json.dumps(told).encode()
        if device not in self._tallies:
            return "404 Not Found", json.dumps({"error": f"no device {device}"}).encode()
        return "200 OK", json.dumps(self._tallies[device].as_json(times=times)).encode()
