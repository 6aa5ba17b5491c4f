"""One meter on a line of DL/T 645: exchanges, and what is known of it.

A late answer is never taken for the next one: answers carry address and data identifier, so after
a silence a meter is first asked for another data identifier than the one it owes an answer to. A
meter that goes on being one answer behind has no value at all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.clock import Clock
from edge_agent.drivers import dlt645_codec as codec
from edge_agent.drivers.dlt645_items import layout
from edge_agent.drivers.octet_line import Garbled, OctetLine
from edge_agent.drivers.octet_meters import Refusals
from edge_agent.errors import EdgeError, NoAnswer

FRAMES = 32  # frames of one answer at most
SILENCES = 3  # times in a row after which an item that alone is not answered counts as refused
ITS_ADDRESS = -1  # stands for the request by which a meter says its address
EVERYBODY_HAS = {"2007": 0x04000401, "1997": 0xC032}  # its own address


class Refused(EdgeError):
    """The meter has answered that it will not answer."""

    def __init__(self, frame: codec.Frame, version: str) -> None:
        self.has_no_such_data = codec.has_no_such_data(frame)
        super().__init__(codec.reasons(frame, version))


@dataclass(frozen=True)
class Identity:
    """Who a meter is and how it wants to be asked; times in seconds."""

    name: str
    address: str
    version: str
    timeout: float
    pause: float


class Meter:
    """What is asked of one meter, and what it is known to refuse.

    items  the data identifiers that it is asked for
    """

    def __init__(
        self, identity: Identity, line: OctetLine, clock: Clock, items: Iterable[int]
    ) -> None:
        self.name = identity.name
        self.refusals = Refusals()
        self._identity, self._version = identity, identity.version
        self._address = identity.address  # its own, once it has said it
        self._line, self._clock = line, clock
        self._items = _shortest_first(items, identity.version)
        self._owed: int | None = None  # what it was asked for last and has not answered
        self._alone: int | None = None  # the item whose silence may be its own, not the meter's
        self._probes = 0  # since it answered
        self._silences: dict[int, int] = {}  # how often an item was silent among others that spoke

    # ---- what is known ----

    def refuses(self, item: int) -> bool:
        """Return whether an item need not be asked for now."""
        return self.refusals.stands(item, self._clock.monotonic())

    def learn(self, item: int, why: str) -> None:
        """Take note that the meter does not know an item."""
        self.refusals.learn(item, why, self._clock.monotonic())

    def doubts(self, item: int) -> bool:
        """Return whether silence to an item would say nothing, or a quick answer be a late one."""
        return self._owed == item or item in self._silences

    def suspect(self, item: int) -> None:
        """Take note that a meter that speaks was silent to an item."""
        self._alone = item

    def silent(self, reason: Exception) -> NoAnswer:
        """Take note that the meter is silent; there may be another one in its place."""
        self._address, self._alone = self._identity.address, None
        return NoAnswer(self.name, str(reason))

    # ---- exchanges ----

    async def sign_of_life(self) -> bool:
        """Have the meter answer to the shortest that it has, but not to what it owes.

        The next time in vain to the next, for it may be silent to what it does not know.

        returns  whether it did; False where what came had a wrong sum
        errors   ``NoAnswer``
        """
        if await self.learn_address():
            return True
        known = [i for i in self._items if i != self._owed and not self.refuses(i)]
        known.append(EVERYBODY_HAS[self._version])
        self._probes += 1
        try:
            await self.read(known[(self._probes - 1) % len(known)])
        except Refused:
            return True
        except Garbled:
            return False
        except TimeoutError as e:
            raise self.silent(e) from e
        return True

    async def read(self, item: int) -> bytes:
        """Return the data of an item, of all frames of the answer together.

        errors  ``TimeoutError``, ``Garbled``, ``Refused``, ``Disconnected``
        """
        length = codec.identifier_length(self._version)
        request = codec.read(self._address, item, self._version)
        frame = await self._ask(request, _Expected(self._address, self._version, item))
        data = frame.data[length:]
        for sequence in range(1, FRAMES):
            if not frame.more_follows:
                return data
            request = codec.read_on(self._address, item, sequence, self._version)
            expected = _Expected(self._address, self._version, item, sequence)
            frame = await self._ask(request, expected)
            data += frame.data[length : -1 if self._version == "2007" else None]
        raise Garbled("the answer has no end")

    async def learn_address(self) -> bool:
        """Ask the only meter of a line who it is; return whether it said so.

        Not every meter answers to that; one that did not the last time is asked for values.

        errors  ``NoAnswer``
        """
        if self._address != codec.ANYBODY or self._version != "2007" or self._owed == ITS_ADDRESS:
            return False
        expected = _Expected(self._address, self._version, ITS_ADDRESS)
        try:
            await self._ask(codec.read_address(), expected)
        except (Garbled, Refused):
            return False
        except TimeoutError as e:
            raise self.silent(e) from e
        return True

    async def _ask(self, request: bytes, expected: "_Expected") -> codec.Frame:
        owed, self._owed = self._owed, expected.item  # also if the wait is broken off
        identity = self._identity
        frame = await self._line.ask(request, expected, identity.timeout, identity.pause)
        self._owed, self._probes = None, 0
        self._silences.pop(expected.item, None)
        if owed is not None and owed != expected.item:
            self._count_silence(owed)
        said = frame.address
        if expected.item == ITS_ADDRESS and len(frame.data) == 6:
            said = frame.data[::-1].hex()  # some repeat the wildcard in the place of their address
        if said.isdecimal():
            self._address = said
        if frame.is_refusal:
            raise Refused(frame, self._version)
        return frame

    def _count_silence(self, item: int) -> None:
        """Take note of an item that was not answered, while the next one was.

        It counts only where one before it was answered as well: a meter that comes and goes is
        silent to something each time.
        """
        alone, self._alone = self._alone == item, None
        self._silences[item] = self._silences.get(item, 0) + alone
        if self._silences[item] >= SILENCES:
            self.learn(item, "it does not answer to it")


@dataclass(frozen=True)
class _Expected:
    """Which frame is the answer: of whom, to what and, if it goes on, the how manieth."""

    address: str
    version: str
    item: int
    sequence: int = 0

    def __call__(self, octets: bytes) -> codec.Frame | None:
        frame = codec.parse(octets)
        function = 0x13 if self.item == ITS_ADDRESS else 0x12 if self.sequence else 0x11
        right = (
            frame.is_answer
            and frame.function == (function if self.version == "2007" else function & 0xF)
            and codec.is_one_of(frame.address, self.address)
        )
        if right and self.item != ITS_ADDRESS and not frame.is_refusal:
            right = frame.item(self.version) == self.item
            if self.sequence and self.version == "2007":
                right = right and frame.data[-1] == self.sequence
        return frame if right else None


def _shortest_first(items: Iterable[int], version: str) -> tuple[int, ...]:
    lengths = {item: found for item in items if (found := layout(item, version)) is not None}
    return tuple(sorted(lengths, key=lambda item: (lengths[item].block, lengths[item].octets)))
