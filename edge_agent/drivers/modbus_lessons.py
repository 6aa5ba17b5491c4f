"""What was found out about one Modbus device, kept over restarts; pure.

Three kinds of facts: registers that it refuses, borders that no request may cross, and how much one
request may ask for. A refused register is asked again by itself, after a minute, then after ever
longer pauses, at most an hour; one that had answered before, sooner. When one answers again, so may
the others: all are asked. A bound on the size is doubled again after an hour, then after ever
longer times, at most a day. Borders stay.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_plan import MAX_BITS, MAX_REGISTERS, Bounds
from edge_agent.drivers.modbus_register import Span
from edge_agent.model import Quality

SILENCE = -1  # in place of an exception code: the request was not answered at all
NONSENSE = 0  # the same: the answer had another length or function than was asked for
ILLEGAL_ADDRESS = 2  # MODBUS Application Protocol V1.1b3, 7
_QUALITY = {
    SILENCE: Quality.BAD_NO_ANSWER,
    NONSENSE: Quality.BAD_SHORT,
    ILLEGAL_ADDRESS: Quality.BAD_ADDRESS,
}

AGAIN_SOON, AGAIN, AGAIN_LATEST = 10.0, 60.0, 3600.0  # seconds until a refused register is asked
WIDER, WIDER_LATEST = 3600.0, 86400.0  # seconds until longer requests are tried
_TABLES = {table.prefix: table for table in Table}


@dataclass(frozen=True)
class Refused:
    """A register that is not read with the others.

    code      of the exception, or ``SILENCE``
    interval  seconds until it is asked again; due: when
    """

    code: int
    interval: float
    due: float

    @property
    def quality(self) -> Quality:
        """What it makes of its tags."""
        return quality_of(self.code, alone=True)


def quality_of(code: int, *, alone: bool) -> Quality:
    """Return what a request without values makes of its columns.

    alone  it asked for one register only: the exception is about that one
    """
    quality = _QUALITY.get(code, Quality.BAD_DEVICE)
    return Quality.BAD_DEVICE if quality is Quality.BAD_ADDRESS and not alone else quality


@dataclass(frozen=True)
class _Most:
    """How much one request may ask for, and when more is tried."""

    count: int
    interval: float
    due: float


class Lessons:
    """The facts about one device, shared by its streams; times are monotonic seconds.

    version  grows with every change that a plan has to know of
    heard    answers of the device so far
    proved   spans of tags that have answered
    news     what was learnt since it was last taken, in words
    """

    def __init__(self) -> None:
        self.version = 0
        self.heard = 0
        self.proved: set[Span] = set()
        self.refused: dict[Span, Refused] = {}
        self.news: list[str] = []
        self._borders: set[tuple[Table, int]] = set()
        self._most: dict[bool, _Most] = {}  # of tables of bits, of registers
        self._intervals: dict[Span, float] = {}  # of registers that came back

    @property
    def bounds(self) -> Bounds:
        """What a plan has to respect."""
        most = {bits: bound.count for bits, bound in self._most.items()}
        return Bounds(
            most.get(False), most.get(True), frozenset(self.refused), frozenset(self._borders)
        )

    @property
    def is_open(self) -> bool:
        """True while something is to be tried again, sooner or later."""
        return bool(self.refused or self._most)

    def told(self) -> list[str]:
        """Return the facts in words, a line each."""
        lines = [
            f"{_words(span)} {_why(fact.code)}; asked again every {fact.interval:g} s"
            for span, fact in sorted(self.refused.items(), key=lambda f: _key(f[0]))
        ]
        for table, at in sorted(self._borders, key=lambda border: (border[0].prefix, border[1])):
            lines.append(f"no request reads {table.prefix}:{at - 1} and {table.prefix}:{at}")
        for bits, bound in sorted(self._most.items()):
            what, usual = ("bits", MAX_BITS) if bits else ("registers", MAX_REGISTERS)
            if bound.count < usual:
                lines.append(f"a request asks for at most {bound.count} {what}")
        return lines

    # ---- learning ------------------------------------------------------------------------

    def bury(self, span: Span, code: int, now: float) -> None:
        """Leave a register out of all requests but its own."""
        usual = AGAIN_SOON if span in self.proved else AGAIN
        interval = max(usual, self._intervals.get(span, 0.0))
        self.refused[span] = Refused(code, interval, now + interval)
        self._learnt(f"{_words(span)} {_why(code)}; its neighbours are read without it")

    def still_refused(self, span: Span, code: int, now: float) -> None:
        """Wait longer before a register is asked again."""
        interval = min(2 * self.refused[span].interval, AGAIN_LATEST)
        self.refused[span] = Refused(code, interval, now + interval)

    def revive(self, span: Span, now: float) -> None:
        """Read a register with the others again, and ask what else is refused at once."""
        self._intervals[span] = 2 * self.refused.pop(span).interval
        self.proved.add(span)
        for other, fact in self.refused.items():
            self.refused[other] = replace(fact, due=now)
        self._learnt(f"{_words(span)} answers again")

    def border(self, table: Table, at: int) -> None:
        """Never read an address together with the one before it."""
        self._borders.add((table, at))
        self._learnt(
            f"{table.prefix}:{at - 1} and {table.prefix}:{at} are refused together, "
            "not one by one; no request crosses that border"
        )

    def shorten(self, table: Table, count: int, now: float) -> None:
        """Ask for no more than so many registers (or bits) at once."""
        before, interval = self._most.get(table.is_bits), WIDER
        if before is not None:  # a more exact count is no new failure
            again = 1 if count >= before.count else 2
            interval = min(again * before.interval, WIDER_LATEST)
        if before is None or count != before.count:
            what = "bits" if table.is_bits else "registers"
            self._learnt(f"longer requests fail; it is asked for at most {count} {what}")
        self._most[table.is_bits] = _Most(count, interval, now + interval)

    def widen(self, now: float) -> None:
        """Allow twice as much where it is time to try."""
        for bits, bound in self._most.items():
            usual = MAX_BITS if bits else MAX_REGISTERS
            if now >= bound.due and bound.count < usual:
                count = min(2 * bound.count, usual)
                self._most[bits] = replace(bound, count=count, due=now + bound.interval)
                self.version += 1

    def _learnt(self, text: str) -> None:
        self.version += 1
        self.news.append(text)

    # ---- over restarts -------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """Return the facts JSON-able."""
        return {
            "refused": [[*_key(s), fact.code, fact.interval] for s, fact in self.refused.items()],
            "borders": [[table.prefix, at] for table, at in self._borders],
            "most": [[bits, bound.count, bound.interval] for bits, bound in self._most.items()],
        }

    def load(self, state: Mapping[str, object], known: Iterable[Span], now: float) -> None:
        """Take over what ``save`` returned; what is not understood or not of the map is left out.

        known  the spans of the device's tags
        """
        spans = set(known)
        for prefix, first, last, code, interval in _rows(state.get("refused"), 5):
            table, pause = _TABLES.get(str(prefix)), _number(interval, AGAIN_SOON, AGAIN_LATEST)
            span = None if table is None else (table, _whole(first), _whole(last))
            if span is not None and span in spans:
                self.refused[span] = Refused(_whole(code), pause, now + pause)
        for prefix, at in _rows(state.get("borders"), 2):
            table = _TABLES.get(str(prefix))
            if table is not None and _whole(at) > 0:
                self._borders.add((table, _whole(at)))
        for bits, count, interval in _rows(state.get("most"), 3):
            if _whole(count) > 0:
                pause = _number(interval, WIDER, WIDER_LATEST)
                self._most[bool(bits)] = _Most(_whole(count), pause, now + pause)
        self.version += 1


def _key(span: Span) -> tuple[str, int, int]:
    return span[0].prefix, span[1], span[2]


def _words(span: Span) -> str:
    table, first, last = span
    return f"{table.prefix}:{first}" + (f" to {table.prefix}:{last}" if last > first else "")


def _why(code: int) -> str:
    return "is not answered" if code == SILENCE else f"is refused (exception {code})"


def _rows(written: object, width: int) -> Iterator[list[object]]:
    if isinstance(written, list):
        yield from (row for row in written if isinstance(row, list) and len(row) == width)


def _whole(written: object) -> int:
    return written if isinstance(written, int) and not isinstance(written, bool) else SILENCE


def _number(written: object, low: float, high: float) -> float:
    return min(max(low, written), high) if isinstance(written, (int, float)) else low
