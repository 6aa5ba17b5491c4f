"""How one simulated device behaves at the moment: the one mechanism of trouble of all servers.

A server asks its ``Conduct`` three things for every request:

::

    exchange = conduct.asked(size)                       # counted, with what befalls it now
    code = exchange.refusal(lambda trouble: ...)         # the exception it is scripted to make
    outcome = conduct.say(exchange, frame, line)         # sends it, late, spoiled or not at all

and computes the frame from the values at ``exchange.instant``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from edge_agent.clock import SECOND, Clock
from simulators.faults import Script, Trouble
from simulators.truth import Outcome, Tally


class Line(Protocol):
    """Where an answer goes.

    muted  nothing that is said arrives
    """

    muted: bool

    def send(self, frame: bytes) -> None:
        """Send now."""

    def later(self, seconds: float, frame: bytes) -> None:
        """Send so many seconds of plant time later, if the line is still there."""

    def cut(self) -> None:
        """Reset the connection; a serial line stays."""


@dataclass(frozen=True)
class Framing:
    """How the frames of a protocol go wrong.

    corrupt  makes of a frame one that a receiver can tell is wrong
    stray    puts bytes where they do not belong, with a checksum that is right again
    """

    corrupt: Callable[[bytes, Random], bytes]
    stray: Callable[[bytes, bytes], bytes]


def flipped(frame: bytes, random: Random) -> bytes:
    """Return a frame with one bit flipped, for protocols with a checksum."""
    bit = random.randrange(8 * len(frame))
    spoiled = bytearray(frame)
    spoiled[bit // 8] ^= 1 << bit % 8
    return bytes(spoiled)


@dataclass
class Exchange:
    """One request under way.

    asked_at  ns, plant time
    instant   ns: the instant whose values the device shows
    """

    number: int
    asked_at: int
    troubles: list[Trouble]
    instant: int
    poison: int = 0

    def refusal(self, touches: Callable[[Trouble], bool]) -> int | None:
        """Return the code of a scripted exception, None to answer with values.

        touches  whether the request reaches the addresses of a hole or a poison
        """
        for trouble in self.troubles:
            if trouble.kind in {"exception", "busy"}:
                return trouble.code
            if trouble.kind == "hole" and touches(trouble):
                return trouble.code
            if trouble.kind == "poison" and touches(trouble):
                self.poison = trouble.stray
        return None

    def befallen(self, kind: str) -> Trouble | None:
        """Return the trouble of a kind, if there is one."""
        return next((t for t in self.troubles if t.kind == kind), None)


class Conduct:
    """One device's behaviour and the tally of what it said.

    start  ns: from when the script's times count
    """

    def __init__(
        self,
        device: str,
        script: Script,
        clock: Clock,
        start: int,
        *,
        tally: Tally,
        framing: Framing,
    ) -> None:
        self.device, self.script, self.clock, self.start = device, script, clock, start
        self.tally, self.framing = tally, framing
        self._random = Random(device)
        self._held: bytes | None = None  # the answer that comes in reply to the next request
        self._stray = 0  # bytes that the next answer has too many

    def asked(self, size: int = 1) -> Exchange:
        """Count a request for so many registers; return it with what befalls the device now."""
        t = self.clock.wall_ns()
        seconds = (t - self.start) / SECOND
        troubles = self.script.now(self.device, seconds)
        instant = t
        for trouble in troubles:
            if trouble.kind == "frozen" and (spell := trouble.window(seconds)):
                instant = self.start + round(spell[0] * SECOND)
        return Exchange(self.tally.request(t, size), t, troubles, instant)

    def say(
        self, exchange: Exchange, frame: bytes, line: Line, *, refused: bool = False
    ) -> Outcome:
        """Send an answer as the script has it; return what came of it."""
        outcome = self._say(exchange, frame, line, refused=refused)
        self.tally.end(exchange.number, outcome)
        return outcome

    def _say(self, exchange: Exchange, frame: bytes, line: Line, *, refused: bool) -> Outcome:
        stray, self._stray = self._stray, exchange.poison
        if line.muted or exchange.befallen("silence"):
            return Outcome.SILENT
        if exchange.befallen("reset"):
            line.cut()
            return Outcome.SILENT
        outcome = Outcome.REFUSED if refused else Outcome.ANSWERED
        held, self._held = self._held, None
        if exchange.befallen("late-by-one"):
            self._held = frame
            if held is None:
                return Outcome.SILENT
            frame, outcome = held, Outcome.SPOILED
        spoiled = self._spoiled(exchange, frame, stray)
        if spoiled != frame:
            outcome = Outcome.SPOILED
        if delay := exchange.befallen("delay"):
            line.later(delay.by, spoiled)
        else:
            line.send(spoiled)
        return outcome

    def _spoiled(self, exchange: Exchange, frame: bytes, stray: int) -> bytes:
        if exchange.befallen("garbage"):
            return self._random.randbytes(self._random.randrange(1, 12))
        if exchange.befallen("short"):
            return frame[: self._random.randrange(1, len(frame))]
        if exchange.befallen("corrupt"):
            return self.framing.corrupt(frame, self._random)
        return self.framing.stray(frame, self._random.randbytes(stray)) if stray else frame
