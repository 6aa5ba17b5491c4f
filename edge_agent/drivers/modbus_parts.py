"""Taking Modbus requests apart: the parts in doubt, and the time there is for it; pure."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_plan import Request
from edge_agent.drivers.modbus_register import Register, Span

Columns = tuple[int, ...]


@dataclass(frozen=True)
class Suspect:
    """Columns in doubt.

    strikes  scans in which they were refused while others answered; since when
    """

    code: int
    strikes: int
    since: float


@dataclass(frozen=True)
class Cut:
    """A request that was refused and taken apart."""

    whole: Request
    left: Request
    right: Request
    code: int
    answered: frozenset[Columns] = frozenset()

    @property
    def border(self) -> tuple[Table, int]:
        """Where it was cut."""
        return self.whole.table, self.right.address


@dataclass(frozen=True)
class Root:
    """A request of the plan that was taken apart.

    proved  as a whole it had answered before
    since   when it was refused first; tried: when it was last asked as a whole
    """

    whole: Request
    proved: bool
    since: float
    tried: float


@dataclass(frozen=True)
class Size:
    """How many registers can be asked for: so many can, so many cannot.

    failed  times that the next one was refused
    """

    whole: Request
    can: int
    cannot: int
    failed: int = 0

    def after_failure(self, count: int) -> "Size":
        """Return what is known when so many were refused: the second time it is no accident."""
        if self.failed == 0:
            return replace(self, failed=1)
        return replace(self, cannot=min(count, self.cannot), failed=0)

    def next(self, registers: Sequence[Register]) -> Request | None:
        """Return the part of the whole that halves what is not known; None if all is."""
        parts = [
            part
            for part in beginnings(self.whole, registers)
            if self.can < part.count < self.cannot
        ]
        middle = (self.can + self.cannot) / 2
        return min(parts, key=lambda part: abs(part.count - middle), default=None)


@dataclass
class State:
    """What is open between scans.

    cuts, roots  by the columns of the whole
    together     wholes that were refused while both halves answered, and how often
    """

    suspects: dict[Columns, Suspect] = field(default_factory=dict)
    cuts: dict[Columns, Cut] = field(default_factory=dict)
    roots: dict[Columns, Root] = field(default_factory=dict)
    together: dict[Span, int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """True when nothing is open."""
        return not (self.suspects or self.cuts or self.roots or self.together)

    def copy(self) -> "State":
        return State(
            dict(self.suspects),
            dict(self.cuts),
            dict(self.roots),
            dict(self.together),
        )

    def clear(self, columns: Columns) -> None:
        """Forget what was held against some columns: nothing is in doubt about them."""
        whole = set(columns)
        self.suspects = {c: s for c, s in self.suspects.items() if not whole.issuperset(c)}
        self.cuts = {c: cut for c, cut in self.cuts.items() if not whole.issuperset(c)}


@dataclass
class Scan:
    """What has happened in one scan.

    further   requests that may be asked beside the plan
    good      requests that were answered; in_row: those since that were not
    asked     how many beside the plan; silent: how many got no answer at all
    wholes    requests of the plan that were taken apart, and how many parts were refused
    probed    registers known as refused that were refused again, by which exception
    """

    further: deque[Request] = field(default_factory=deque)
    good: list[Request] = field(default_factory=list)
    in_row: int = 0
    asked: int = 0
    silent: int = 0
    wholes: dict[Columns, int] = field(default_factory=dict)
    probed: dict[Span, int] = field(default_factory=dict)


class Spare:
    """How much of a link's time goes to finding out: a share, a little of it at once; seconds."""

    def __init__(self, share: float = 0.05, most: float = 0.1) -> None:
        self._share, self._most = share, most
        self._left, self._at = most, 0.0

    def is_left(self, now: float) -> bool:
        """Return whether another request may be asked; it may take more than what is left."""
        self._left = min(self._most, self._left + self._share * (now - self._at))
        self._at = now
        return self._left > 0

    def spend(self, seconds: float) -> None:
        """Note how long a request took."""
        self._left -= seconds


def is_one(request: Request, registers: Sequence[Register]) -> bool:
    """Return whether a request asks for one register alone (or bits of it)."""
    return len({registers[i].span for i in request.columns}) == 1


def halves(request: Request, registers: Sequence[Register]) -> tuple[Request, Request] | None:
    """Return a request in two parts; None if it asks for one register alone.

    A register that lies within another stays with it, until that one is alone with what it holds.
    """
    outer = _outer(request.columns, registers)
    if len(outer) > 1:
        middle = len(outer) // 2
        parts = [[i for group in side for i in group] for side in (outer[:middle], outer[middle:])]
    else:
        widest = registers[outer[0][0]].span
        parts = [
            [i for i in outer[0] if registers[i].span == widest],
            [i for i in outer[0] if registers[i].span != widest],
        ]
        if not parts[1]:
            return None
    return request.part(registers, parts[0]), request.part(registers, parts[1])


def beside_the_cut(left: Request, right: Request, registers: Sequence[Register]) -> Columns:
    """Return the columns of the last register before a cut and of the first one behind it."""
    return (*_outer(left.columns, registers)[-1], *_outer(right.columns, registers)[0])


def beside_a_border(
    request: Request, border: tuple[Table, int], registers: Sequence[Register]
) -> Columns | None:
    """Return the columns of the registers on both sides of a border that a request crosses."""
    table, at = border
    if request.table is not table or not request.address < at <= request.last:
        return None
    outer = _outer(request.columns, registers)
    before = [group for group in outer if registers[group[0]].first < at]
    behind = outer[len(before) :]
    return (*before[-1], *behind[0]) if before and behind else None


def beginnings(request: Request, registers: Sequence[Register]) -> Iterator[Request]:
    """Yield the parts of a request that begin where it does, from the shortest on."""
    columns: list[int] = []
    for group in _outer(request.columns, registers):
        columns += group
        yield request.part(registers, columns)


def within(inner: Span, outer: Span) -> bool:
    """Return whether a span lies in another."""
    return inner[0] is outer[0] and outer[1] <= inner[1] and inner[2] <= outer[2]


def _outer(columns: Sequence[int], registers: Sequence[Register]) -> list[list[int]]:
    """Return the columns by the registers that lie within no other, in the order of addresses."""
    outer: list[list[int]] = []
    end = -1
    for i in sorted(columns, key=lambda i: (registers[i].first, -registers[i].last)):
        if registers[i].last > end or not outer:
            outer.append([])
            end = registers[i].last
        outer[-1].append(i)
    return outer
