"""Experiments on a Modbus device: requests that tell only whether they are answered; pure.

Their words are known from the requests of the plan. They find out why a request is refused whose
halves are not, and whether what was found out still holds: now and then the registers beside a
border are asked together, and a longer request than the longest is asked. So a lesson that a noisy
line has taught is forgotten within minutes, and a device loses no value while that is found out.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_agent.drivers.modbus_lessons import SILENCE, Border, Lessons
from edge_agent.drivers.modbus_parts import (
    Columns,
    Cut,
    Size,
    beginnings,
    beside_a_border,
    beside_the_cut,
)
from edge_agent.drivers.modbus_plan import Bounds, ReadPlan, Request
from edge_agent.drivers.modbus_register import Register

NOWHERE = -1  # the offset of a request whose words are not kept
SHORT = 8  # registers; that fewer are answered in time has other reasons than their number
PAUSE = 5.0  # seconds between two looks at what is to be tried again: plans are made for it
Relax = Callable[[Bounds], ReadPlan]


@dataclass(frozen=True)
class _Whole:
    """Whether it is really refused, for all that its halves are not."""

    cut: Cut


@dataclass(frozen=True)
class _Pair:
    """Whether the two registers beside the cut are refused together."""

    cut: Cut


@dataclass(frozen=True)
class _Part:
    """Whether so much is answered of what is too long."""


@dataclass(frozen=True)
class _Beside:
    """Whether the border is still one."""

    border: Border


@dataclass(frozen=True)
class _Longer:
    """Whether more than the longest request is still too much."""


_Trial = _Whole | _Pair | _Part | _Beside | _Longer


class Trials:
    """The experiments of one stream."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self._cuts: list[Cut] = []  # in question
        self._failed: Counter[Border] = Counter()  # of each: failures of the whole, then the pair
        self._size: Size | None = None
        self._registers: Sequence[Register] = ()
        self._asked: dict[Columns, _Trial] = {}
        self._now = 0.0
        self._looked = float("-inf")  # when it was last looked for what is to be tried again

    @property
    def borders(self) -> frozenset[Border]:
        """Cuts in question: borders, until it is known why."""
        return frozenset(cut.border for cut in self._cuts)

    @property
    def is_empty(self) -> bool:
        """True when nothing is in question."""
        return not self._cuts and self._size is None

    def begin(self, registers: Sequence[Register], relax: Relax, now: float) -> list[Request]:
        """Return what may be asked in a scan.

        relax  makes the stream's plan within other bounds
        """
        self._registers, self._now, self._asked = registers, now, {}
        wanted = [self._confirm(cut) for cut in self._cuts]
        wanted.append(self._measure())
        if now - self._looked >= PAUSE and (due := self._lessons.due(now)):
            self._looked = now
            wanted += self._again(due, relax)
        return [request for request in wanted if request is not None]

    def question(self, cut: Cut) -> Request | None:
        """Return the first experiment on a request that is refused while its halves are not."""
        if cut.border in self.borders:
            return None
        self._cuts.append(cut)
        return self._confirm(cut)

    def answered(self, request: Request) -> Request | None:
        """Note an answer; return the next experiment."""
        trial = self._asked.pop(request.columns, None)
        if trial is None:
            return None
        match trial:
            case _Whole(cut):  # it was an accident
                self._drop(cut)
            case _Pair(cut):
                return self._too_long(cut)
            case _Part():
                return self._measured(request.count, answered=True)
            case _Beside(border):
                self._lessons.open_border(border)
            case _Longer():
                self._lessons.lengthen(request.table, request.count, self._now)
        return None

    def failed(self, request: Request) -> Request | None:
        """Note that there was no answer, or a refusal; return the next experiment."""
        trial = self._asked.pop(request.columns, None)
        if trial is None:
            return None
        match trial:
            case _Whole(cut):
                self._failed[cut.border] = 1
                return self._pair(cut)
            case _Pair(cut):
                self._failed[cut.border] += 1
                if self._failed[cut.border] <= 2:  # once may be an accident
                    return self._pair(cut)
                self._drop(cut)
                self._lessons.border(cut.border, self._now)
            case _Part():
                return self._measured(request.count, answered=False)
            case _Beside(border):
                self._lessons.still_border(border, self._now)
            case _Longer():
                self._lessons.still_short(request.table, self._now)
        return None

    def _drop(self, cut: Cut) -> None:
        self._cuts = [other for other in self._cuts if other is not cut]
        del self._failed[cut.border]

    def _ask(self, trial: _Trial, whole: Request, columns: Columns) -> Request | None:
        if columns in self._asked:
            return None
        self._asked[columns] = trial
        return replace(whole.part(self._registers, columns), offset=NOWHERE)

    def _confirm(self, cut: Cut) -> Request | None:
        """Ask the whole once more, or the pair if that has been done."""
        if self._failed[cut.border]:
            return self._pair(cut)
        return self._ask(_Whole(cut), cut.whole, cut.whole.columns)

    def _pair(self, cut: Cut) -> Request | None:
        pair = beside_the_cut(cut.left, cut.right, self._registers)
        if set(pair) == set(cut.whole.columns):
            self._drop(cut)
            self._lessons.border(cut.border, self._now)
            return None
        return self._ask(_Pair(cut), cut.whole, pair)

    def _too_long(self, cut: Cut) -> Request | None:
        """Learn from neighbours that go together that the whole is too long; find out how much."""
        self._drop(cut)
        can = max(cut.left.count, cut.right.count)
        if cut.code == SILENCE and can < SHORT:
            return None
        self._lessons.shorten(cut.whole.table, can, self._now)
        if cut.code == SILENCE:  # each further failure would cost a time-out
            return None
        self._size = Size(cut.whole, can, cut.whole.count)
        return self._measure()

    def _measured(self, count: int, *, answered: bool) -> Request | None:
        """Note whether a part was answered; return the next one."""
        size = self._size
        if size is not None:
            known = replace(size, can=count, failed=0) if answered else size.after_failure(count)
            self._size = known
        return self._measure()

    def _measure(self) -> Request | None:
        """Ask for the part of a request that halves what is not known of the longest one."""
        size = self._size
        if size is None:
            return None
        part = size.next(self._registers)
        if part is not None:
            return self._ask(_Part(), size.whole, part.columns)
        self._size = None
        self._lessons.shorten(size.whole.table, size.cannot - 1, self._now)
        return None

    def _again(self, due: Sequence[Border | bool], relax: Relax) -> list[Request | None]:
        """Ask whether borders are still borders and longer requests still too long."""
        lessons, found = self._lessons, list[Request | None]()
        free = relax(Bounds(dead=frozenset(lessons.refused)))
        for fact in due:
            if isinstance(fact, tuple):
                for request in free.requests:
                    pair = beside_a_border(request, fact, self._registers)
                    if pair:
                        found.append(self._ask(_Beside(fact), request, pair))
            else:
                found.append(self._longer(fact, relax))
        return found

    def _longer(self, bits: bool, relax: Relax) -> Request | None:
        """Ask for up to twice as much as the longest request that is known to be answered."""
        most = self._lessons.most(bits)
        bounds = replace(self._lessons.bounds, max_registers=None, max_bits=None)
        parts = [
            part
            for request in relax(bounds).requests
            if request.table.is_bits is bits and request.count > most
            for part in beginnings(request, self._registers)
            if part.count > most
        ]
        if not parts:
            return None
        part = max((p for p in parts if p.count <= 2 * most), key=_count, default=None)
        part = part or min(parts, key=_count)
        return self._ask(_Longer(), part, part.columns)


def _count(request: Request) -> int:
    return request.count
