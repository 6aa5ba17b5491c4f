"""What was found out about one Modbus device, kept over restarts; pure.

Three kinds of facts: registers that it refuses, borders that no request may cross, and how much one
request may ask for. Each is tried again, after a minute, then after ever longer pauses, at most an
hour; a register that had answered before, sooner. When one register answers again, so may the
others: all are asked. A fourth stays: whether reading undeclared registers, where the map allows
it, spoils the answers behind it (peers 15).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_plan import MAX_BITS, MAX_REGISTERS, Bounds, Request
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

SPOILT = 6  # answers in a row, each behind a request that read over a gap
AGAIN_SOON, AGAIN, AGAIN_LATEST = 10.0, 60.0, 3600.0  # seconds until a fact is tried again
ANYTHING = 8  # each so many probes in vain asks for what had not answered before
Border = tuple[Table, int]  # no request reads the address together with the one before
GOLDEN = 0.618034  # multiples of it spread evenly over the interval from 0 to 1
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
class _Fact:
    """A border, or how much one request may ask for.

    interval  seconds until it is tried again; due: when
    """

    interval: float
    due: float
    count: int = 0

    def later(self, now: float) -> "_Fact":
        """Return it after it was found to hold."""
        interval = min(2 * self.interval, AGAIN_LATEST)
        return replace(self, interval=interval, due=now + interval)


class Lessons:
    """The facts about one device, shared by its streams; times are monotonic seconds.

    version  grows with every change that a plan has to know of
    heard    answers of the device so far
    proved   spans of tags that have answered
    news     what was learnt since it was last taken, in words
    probed_in_vain  how often it gave no sign of life since it gave one
    """

    def __init__(self) -> None:
        self.version = 0
        self.heard = 0
        self.proved: set[Span] = set()
        self.refused: dict[Span, Refused] = {}
        self.news: list[str] = []
        self.probed_in_vain = 0
        self._no_gaps = False
        self._behind_gap = False  # the request before this one read over a gap
        self._spoilt = 0
        self._borders: dict[Border, _Fact] = {}
        self._most: dict[bool, _Fact] = {}  # of tables of bits, of registers
        self._intervals: dict[Span | Border | bool, float] = {}  # of facts that held no longer

    def sign_of_life(self, known: Iterable[Span]) -> Span:
        """Return what to ask a silent device for: the shortest that it is known to answer to.

        Any other will do, for a refusal is a sign of life as well. But some devices say nothing to
        what they do not know, so each probe in vain is followed by one for something else.

        known  the spans of the device's tags
        """
        times = self.probed_in_vain
        every = sorted(known, key=lambda s: (s in self.refused, s[2] - s[1], s[1], s[0].prefix))
        sound = [span for span in every if span in self.proved and span not in self.refused]
        if not sound or times % ANYTHING == ANYTHING - 1:
            return every[(times if not sound else times // ANYTHING) % len(every)]
        return sound[times % len(sound)]

    @property
    def bounds(self) -> Bounds:
        """What a plan has to respect."""
        most = {bits: bound.count for bits, bound in self._most.items()}
        return Bounds(
            most.get(False),
            most.get(True),
            frozenset(self.refused),
            frozenset(self._borders),
            self._no_gaps,
        )

    @property
    def is_open(self) -> bool:
        """True while something is to be tried again, sooner or later."""
        return bool(self.refused or self._most or self._borders)

    def told(self) -> list[str]:
        """Return the facts in words, a line each."""
        lines = [
            f"{_words(span)} {_why(fact.code)}; asked again every {fact.interval:g} s"
            for span, fact in sorted(self.refused.items(), key=lambda f: _key(f[0]))
        ]
        for table, at in sorted(self._borders, key=lambda border: (border[0].prefix, border[1])):
            lines.append(f"no request reads {_beside((table, at))}")
        for bits, bound in sorted(self._most.items()):
            what, usual = ("bits", MAX_BITS) if bits else ("registers", MAX_REGISTERS)
            if bound.count < usual:
                lines.append(f"a request asks for at most {bound.count} {what}")
        if self._no_gaps:
            lines.append("no undeclared register is read")
        return lines

    # ---- learning ------------------------------------------------------------------------

    def note(self, request: Request, *, spoilt: bool) -> None:
        """Note an answer, whether it was spoilt; the device's answers come in their order."""
        if self._behind_gap:
            self._spoilt = self._spoilt + 1 if spoilt else 0
            if self._spoilt == SPOILT and not self._no_gaps:
                self._no_gaps = True
                self._learnt("reading over gaps spoils the next answer; no undeclared one is read")
        self._behind_gap = request.gaps

    def bury(self, span: Span, code: int, now: float) -> None:
        """Leave a register out of all requests but its own."""
        usual = AGAIN_SOON if span in self.proved else AGAIN
        interval = min(max(usual, self._intervals.get(span, 0.0)), AGAIN_LATEST)
        self.refused[span] = Refused(code, interval, now + interval * self._share(span))
        self._learnt(f"{_words(span)} {_why(code)}; its neighbours are read without it")

    def still_refused(self, span: Span, code: int, now: float) -> None:
        """Wait longer before a register is asked again."""
        interval = min(2 * self.refused[span].interval, AGAIN_LATEST)
        self.refused[span] = Refused(code, interval, now + interval * self._share(span))

    def _share(self, span: Span) -> float:
        """Return after which share of its pause a register is asked, so that not all are at once.

        The first one answers for all; of many, one is always due soon.
        """
        place = list(self.refused).index(span) if span in self.refused else len(self.refused)
        return 1.0 - 0.5 * (place * GOLDEN % 1.0)

    def revive(self, span: Span, now: float) -> None:
        """Read a register with the others again, and ask what else is refused at once."""
        self._intervals[span] = 2 * self.refused.pop(span).interval
        self.proved.add(span)
        for other, fact in self.refused.items():
            self.refused[other] = replace(fact, due=now)
        self._learnt(f"{_words(span)} answers again")

    def border(self, border: Border, now: float) -> None:
        """Never read an address together with the one before it."""
        self._borders[border] = self._fact(border, now)
        self._learnt(
            f"{_beside(border)} are refused together, not one by one; "
            "no request crosses that border"
        )

    def still_border(self, border: Border, now: float) -> None:
        """Wait longer before a border is tried again."""
        if border in self._borders:
            self._borders[border] = self._borders[border].later(now)

    def open_border(self, border: Border) -> None:
        """Read across a border again."""
        if border in self._borders:
            self._intervals[border] = 2 * self._borders.pop(border).interval
            self._learnt(f"{_beside(border)} are answered together again")

    def shorten(self, table: Table, count: int, now: float) -> None:
        """Ask for no more than so many registers (or bits) at once."""
        before = self._most.get(table.is_bits)
        if before is None or count != before.count:
            what = "bits" if table.is_bits else "registers"
            self._learnt(f"longer requests fail; it is asked for at most {count} {what}")
        self._most[table.is_bits] = replace(self._fact(table.is_bits, now), count=count)

    def still_short(self, table: Table, now: float) -> None:
        """Wait longer before more is tried."""
        if table.is_bits in self._most:
            self._most[table.is_bits] = self._most[table.is_bits].later(now)

    def lengthen(self, table: Table, count: int, now: float) -> None:
        """Ask for so much from now on, and try more at once."""
        bound = self._most.get(table.is_bits)
        if bound is None or count <= bound.count:
            return
        self._intervals[table.is_bits] = 2 * bound.interval
        self._most[table.is_bits] = replace(bound, count=count, due=now)
        if count >= (MAX_BITS if table.is_bits else MAX_REGISTERS):
            del self._most[table.is_bits]
        self._learnt(f"a request for {count} is answered again")

    def most(self, bits: bool) -> int:
        """Return how much one request for bits, or registers, may ask for."""
        bound = self._most.get(bits)
        return (MAX_BITS if bits else MAX_REGISTERS) if bound is None else bound.count

    def due(self, now: float) -> list[Border | bool]:
        """Return the borders, and the tables of bits or registers, that are to be tried again."""
        borders = [border for border, fact in self._borders.items() if fact.due <= now]
        return [*borders, *(bits for bits, fact in self._most.items() if fact.due <= now)]

    def _fact(self, key: Border | bool, now: float) -> _Fact:
        interval = min(max(AGAIN, self._intervals.get(key, 0.0)), AGAIN_LATEST)
        return _Fact(interval, now + interval)

    def _learnt(self, text: str) -> None:
        self.version += 1
        self.news.append(text)

    # ---- over restarts -------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """Return the facts JSON-able."""
        return {
            "refused": [[*_key(s), fact.code, fact.interval] for s, fact in self.refused.items()],
            "borders": [[t.prefix, at, fact.interval] for (t, at), fact in self._borders.items()],
            "no_gaps": self._no_gaps,
            "most": [[bits, fact.count, fact.interval] for bits, fact in self._most.items()],
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
                due = now + pause * self._share(span)
                self.refused[span] = Refused(_whole(code), pause, due)
        for prefix, at, interval in _rows(state.get("borders"), 3):
            table, pause = _TABLES.get(str(prefix)), _number(interval, AGAIN, AGAIN_LATEST)
            if table is not None and _whole(at) > 0:
                self._borders[table, _whole(at)] = _Fact(pause, now + pause)
        self._no_gaps = state.get("no_gaps") is True
        for bits, count, interval in _rows(state.get("most"), 3):
            if _whole(count) > 0:
                pause = _number(interval, AGAIN, AGAIN_LATEST)
                self._most[bool(bits)] = _Fact(pause, now + pause, _whole(count))
        self.version += 1


def _key(span: Span) -> tuple[str, int, int]:
    return span[0].prefix, span[1], span[2]


def _words(span: Span) -> str:
    table, first, last = span
    return f"{table.prefix}:{first}" + (f" to {table.prefix}:{last}" if last > first else "")


def _beside(border: Border) -> str:
    table, at = border
    return f"{table.prefix}:{at - 1} and {table.prefix}:{at}"


def _why(code: int) -> str:
    return "is not answered" if code == SILENCE else f"is refused (exception {code})"


def _rows(written: object, width: int) -> Iterator[list[object]]:
    if isinstance(written, list):
        yield from (row for row in written if isinstance(row, list) and len(row) == width)


def _whole(written: object) -> int:
    return written if isinstance(written, int) and not isinstance(written, bool) else SILENCE


def _number(written: object, low: float, high: float) -> float:
    return min(max(low, written), high) if isinstance(written, (int, float)) else low
