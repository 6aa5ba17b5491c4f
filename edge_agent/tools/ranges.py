"""Which addresses of a Modbus table can be read: a search with few requests; pure.

The search is a generator: it yields what to ask, and is sent the words of the answer or how it was
refused. It starts from addresses that known meters use and from a coarse grid. From each one that
can be read it grows to both sides, a whole block at a time, and halves the block where that is
refused. So a hole costs about seven requests, a border of two blocks as many, and a thousand
registers without any cost ten.

Three things look alike from outside and are told apart: a hole (the register alone is refused
too), the device's limit of registers per request (a block of the same size is accepted one
further on), and a border between two blocks that no request may cross (neither).

Source: MODBUS Application Protocol V1.1b3, 7: exception 1 says that there is no such function, 2
that the address, 3 that the count is not possible; many devices send 2 for 3 and 3 for 2.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

LAST = 0xFFFF
MOST = 125  # registers per request, MODBUS Application Protocol V1.1b3, 6.3
NO_FUNCTION = 1
HOPS = (1, 2, 4, 8, 16)  # how far behind a hole is looked for more
ODD = (65533, 48611, 31607)  # addresses that no map uses: who answers them all answers any


@dataclass(frozen=True)
class Span:
    """A request: addresses from ``first`` on."""

    first: int
    count: int

    @property
    def last(self) -> int:
        """The last address."""
        return self.first + self.count - 1


@dataclass(frozen=True)
class Refusal:
    """An answer without words; code 0 for silence or an answer that was no answer."""

    code: int


Reply = Sequence[int] | Refusal
Asking = Generator[Span, Reply, None]


@dataclass
class Found:
    """What is known of one table so far.

    words       address -> what stood there when it was read
    limit       registers that one request may ask for
    longest     the most that one request was answered for
    borders     addresses that no request may reach over from below
    cut         addresses after which nobody has looked, because what was read is enough
    everywhere  the device answers any address, so there are no ranges to find
    absent      the device has no such function
    """

    words: dict[int, int] = field(default_factory=dict)
    limit: int = MOST
    longest: int = 0
    borders: set[int] = field(default_factory=set)
    holes: set[int] = field(default_factory=set)
    cut: set[int] = field(default_factory=set)
    everywhere: bool = False
    absent: bool = False
    requests: int = 0

    def ranges(self) -> list[Span]:
        """Return the runs of readable addresses, parted at the borders."""
        runs: list[Span] = []
        for address in sorted(self.words):
            if runs and address == runs[-1].last + 1 and address not in self.borders:
                runs[-1] = Span(runs[-1].first, runs[-1].count + 1)
            else:
                runs.append(Span(address, 1))
        return runs


def grid(*, deep: bool = False) -> list[int]:
    """Return addresses at which maps like to begin; ``deep``: every 64th of all."""
    usual = [*range(0, 257, 16), *range(0x100, 0x2001, 0x100), *range(0x3000, 0x10000, 0x1000)]
    round_ones = [1, 100, 1000, 2000, 3000, 5000, 10000, 20000, 30000, 40000, 50000]
    return sorted({*usual, *round_ones, *(range(0, LAST + 1, 64) if deep else ())})


def search(found: Found, hints: Iterable[Span]) -> Asking:
    """Search a table from the hints on, in their order; what comes out is in ``found``."""
    for address in ODD:
        if address not in found.words and address not in found.holes:
            yield from _ask(found, Span(address, 1))
        if found.absent or address not in found.words:
            break
    found.everywhere = all(address in found.words for address in ODD)
    for hint in [] if found.absent else hints:
        if all(a in found.words for a in range(hint.first, hint.last + 1)):
            continue
        if found.everywhere:
            yield from _whole(found, hint)
        elif hint.first not in found.holes or hint.count > 1:
            yield from _from(found, hint)
        if found.absent:
            return


def _ask(found: Found, span: Span) -> Generator[Span, Reply, bool]:
    """Ask once; return whether there were words."""
    reply = yield span
    found.requests += 1
    if isinstance(reply, Refusal):
        found.absent |= reply.code == NO_FUNCTION and not found.words
        if span.count == 1:
            found.holes.add(span.first)
        return False
    found.longest = max(found.longest, span.count)
    found.words |= {span.first + i: word for i, word in enumerate(reply)}
    return True


def _whole(found: Found, span: Span) -> Asking:
    """Read a span in parts as large as the device allows."""
    at = span.first
    while at <= span.last:
        count = min(found.limit, span.last - at + 1)
        if (yield from _ask(found, Span(at, count))):
            at += count
        elif count == 1:
            return
        else:
            found.limit = count // 2


def _from(found: Found, hint: Span) -> Asking:
    """Grow to both sides from a hint, if it can be read."""
    if hint.first not in found.words and not (yield from _ask(found, hint)):
        return
    address: int | None = hint.first
    while address is not None:
        kept = dict(found.words)
        # the address is read again as the end and as the beginning of a block: what is told as
        # one range has been read as one
        found.words.pop(address)
        yield from _grow_left(found, address + 1)
        found.words.pop(address, None)
        at = yield from _grow_right(found, address)
        found.words |= {a: w for a, w in kept.items() if a not in found.words}
        address = yield from _hop(found, at)


def _hop(found: Found, hole: int) -> Generator[Span, Reply, int | None]:
    """Return the next readable address a little behind a hole; None if there is none."""
    for step in HOPS:
        address = hole + step
        if address > LAST or address in found.words:
            return None  # what follows is known already, with what lies behind it
        if address not in found.holes and (yield from _ask(found, Span(address, 1))):
            return address
    return None


def _grow_right(found: Found, at: int) -> Generator[Span, Reply, int]:
    """Read on from an address; return the first one that cannot be read (or 65536)."""
    while at <= LAST:
        if at in found.words:
            at += 1
            continue
        room = _until_known(found, at, min(found.limit, LAST + 1 - at))
        count = yield from _most(found, at, room, rightwards=True)
        if count == 0:
            found.holes.add(at)
            return at
        at += count
        if count < room and at not in found.holes:
            yield from _tell_apart(found, at - count, count)
    return at


def _grow_left(found: Found, at: int) -> Asking:
    """Read what stands before an address that can be read."""
    while at > 0 and at - 1 not in found.holes:
        if at - 1 in found.words:
            at -= 1
            continue
        room = 0
        while (
            room < min(found.limit, at)
            and at - 1 - room not in found.words
            and at - 1 - room not in found.holes
        ):
            room += 1
        count = yield from _most(found, at, room, rightwards=False)
        at -= count
        if count == 0:
            return
        if count < room and at - 1 not in found.holes:
            yield from _tell_apart_before(found, at, count)


def _until_known(found: Found, at: int, room: int) -> int:
    for i in range(room):
        if at + i in found.words or at + i in found.holes:
            return i
    return room


def _most(found: Found, at: int, room: int, *, rightwards: bool) -> Generator[Span, Reply, int]:
    """Return the size of the largest block that begins (or ends) at an address and can be read."""

    def block(count: int) -> Span:
        return Span(at, count) if rightwards else Span(at - count, count)

    if room == 0 or (yield from _ask(found, block(room))):
        return room
    good, bad = 0, room
    while bad - good > 1:
        middle = (good + bad) // 2
        if (yield from _ask(found, block(middle))):
            good = middle
        else:
            bad = middle
    return good


def _tell_apart(found: Found, first: int, count: int) -> Asking:
    """Find out why a block of ``count`` was the largest: hole, limit of the device, or border."""
    behind = first + count
    if behind > LAST or not (yield from _ask(found, Span(behind, 1))):
        return
    is_limit = count > 1 and (yield from _ask(found, Span(first + 1, count)))
    _limit_or_border(found, behind, count, is_limit=is_limit)


def _tell_apart_before(found: Found, first: int, count: int) -> Asking:
    """Do the same for a block that could not be longer to the left."""
    before = first - 1
    if not (yield from _ask(found, Span(before, 1))):
        return
    is_limit = count > 1 and (yield from _ask(found, Span(before, count)))
    _limit_or_border(found, first, count, is_limit=is_limit)


def _limit_or_border(found: Found, border: int, count: int, *, is_limit: bool) -> None:
    if count == found.longest == 1:  # four in a row, each alone: it takes no more than one
        is_limit = all(border - i in found.words for i in range(4))
    if is_limit and count >= found.longest:
        found.limit = count
    else:
        found.borders.add(border)
