"""Which lines of a refused request the database refuses; pure, no I/O.

A row counts as stored only when a request that held it was accepted as a whole, and as refused only
when the server has named it, has said that it dropped every line sent, or has refused it alone.
Everything between is asked again in smaller parts, which does no harm: a row that is written twice
replaces itself.

What servers say, and how far it is to be believed:

* InfluxDB 1 and 2: ``partial write: … dropped=N``. N is what *one shard* dropped, and lines that do
  not parse are not counted, so N may be too small (1.6.7 answered ``dropped=1`` to three conflicts
  in two shards). N equal to the lines sent means all of them; a smaller N is no reason to stop
  searching.
* InfluxDB 1 and 2: ``unable to parse '<line>': <reason>``, once for each such line.
* InfluxDB 3: ``data`` with ``line_number`` and ``error_message`` of at most 100 lines (as it is
  documented; not tried against a real one).

The search halves by stream first, then by which fields a line has, then by rows: a type conflict
concerns a whole stream, or those of its rows that have the field, so it costs a few requests and
not one per row.

Sources: docs.influxdata.com, "Troubleshoot issues writing data" of influxdb/v1, influxdb/v2 and
influxdb3/core; answers of InfluxDB 1.6.7.
"""

import re
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import orjson

TOO_LARGE = 413
LONGEST = 300  # characters of a reason that are kept
NAMED = 100  # lines that InfluxDB 3 names at most

_DROPPED = re.compile(r"\bpartial write\b.*\bdropped=(\d+)\s*$", re.DOTALL)
_UNPARSED = "unable to parse '"
_SPACE = re.compile(r"(?<!\\) ")  # between tags and fields
_VALUES = re.compile(r'=(?:"(?:[^"\\]|\\.)*"|[^,]*)')


class Line(NamedTuple):
    """One line to write: the row of which item it is, of which stream, and the text."""

    item: int
    row: int
    stream: str
    text: str


class Said(NamedTuple):
    """A server's refusal as it came; the phrase is what stands behind the status."""

    status: int
    phrase: str
    body: str


class Refused(NamedTuple):
    """A line that is refused for ever, and what the server said."""

    line: Line
    reason: str


@dataclass(frozen=True)
class Answer:
    """A server's refusal of a request.

    dropped  how many lines it says that it has dropped, at least; 0: it does not say
    named    reasons of the lines that it names, by place in the request
    """

    status: int
    reason: str
    dropped: int = 0
    named: Mapping[int, str] = field(default_factory=dict)

    @property
    def too_large(self) -> bool:
        return self.status == TOO_LARGE

    def told(self, reason: str = "") -> str:
        """Return the refusal as a person reads it."""
        return f"the database answered {self.status}: {reason or self.reason}"


Search = Generator[list[Line], Answer | None, list[Refused]]


def answer_of(said: Said, lines: Sequence[Line]) -> Answer:
    """Return what a server has said of the lines sent."""
    words, entries = words_of(said.body)
    dropped = _DROPPED.search(words)
    named = _numbered(entries, len(lines)) or _parsed(words, lines)
    reason = short(words or said.phrase)
    return Answer(said.status, reason, int(dropped[1]) if dropped else 0, named)


def words_of(body: str) -> tuple[str, object]:
    """Return the server's message and, if there are some, its entries about single lines."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "" if body.lstrip().startswith("<") else body.strip(), None  # a page says nothing
    if not isinstance(said, dict):
        return "", None
    return str(said.get("message") or said.get("error") or ""), said.get("data")


def isolate(lines: list[Line], answer: Answer, *, whole: bool = True) -> Search:
    """Yield the requests to send, each to be answered, None if accepted; return what is refused.

    answer  that of the request of all these lines, which was refused
    whole   whether the lines that it does not name are asked for in one go
    """
    if len(lines) == 1 or answer.dropped >= len(lines):
        told = answer.told()
        return [Refused(line, told) for line in lines]
    if not answer.named:
        return (yield from _halved(lines, answer))
    found = [Refused(lines[i], answer.told(why)) for i, why in answer.named.items()]
    rest = [line for i, line in enumerate(lines) if i not in answer.named]
    if whole and len(answer.named) < NAMED:
        return found + (yield from _asked(rest, whole=False))
    return found + (yield from _halved(rest, answer))  # one more at a time would have no end


def _asked(lines: list[Line], *, whole: bool = True) -> Search:
    """Search lines of which nothing is known yet."""
    if not lines:
        return []
    answer = yield lines
    return [] if answer is None else (yield from isolate(lines, answer, whole=whole))


def _halved(lines: list[Line], answer: Answer) -> Search:
    """Search lines of which some are refused, without asking for all of them again."""
    if len(lines) < 2:
        return (yield from _asked(lines))
    first, second = _halves(lines, by_size=answer.too_large)
    found = yield from _asked(first)
    if found or answer.too_large or answer.named:
        return found + (yield from _asked(second))
    return (yield from _halved(second, answer))  # the first half is stored: it is in the second


def _halves(lines: list[Line], *, by_size: bool) -> tuple[list[Line], list[Line]]:
    """Return the lines in two parts, each with the lines of a stream in their order."""
    if not by_size:
        for groups in (_grouped(lines, _stream), _shapes(lines)):
            if len(groups) > 1:
                middle = len(groups) // 2
                return list(chain(*groups[:middle])), list(chain(*groups[middle:]))
    middle = len(lines) // 2
    return lines[:middle], lines[middle:]


def _shapes(lines: list[Line]) -> list[list[Line]]:
    """Return the lines of one stream by the fields that they have, unless two have one time.

    Of two rows at one time the later one must be written last.
    """
    times = {line.text.rpartition(" ")[2] for line in lines}
    return _grouped(lines, _shape) if len(times) == len(lines) else [lines]


def _grouped(lines: list[Line], kin: Callable[[Line], Hashable]) -> list[list[Line]]:
    groups: dict[Hashable, list[Line]] = {}
    for line in lines:
        groups.setdefault(kin(line), []).append(line)
    return list(groups.values())


def _stream(line: Line) -> str:
    return line.stream


def _shape(line: Line) -> str:
    """Return the fields that a line has, without their values."""
    return _VALUES.sub("", _SPACE.split(line.text, maxsplit=1)[-1])


def _numbered(entries: object, sent: int) -> dict[int, str]:
    """Return what InfluxDB 3 says of single lines; it counts from 1."""
    found = {}
    for entry in entries if isinstance(entries, list) else (entries,):
        if not isinstance(entry, dict):
            continue
        number = entry.get("line_number")
        if isinstance(number, int) and 1 <= number <= sent:
            found[number - 1] = short(str(entry.get("error_message") or ""))
    return found


def _parsed(words: str, lines: Sequence[Line]) -> dict[int, str]:
    """Return the lines that InfluxDB 1 or 2 quotes as those that it cannot read."""
    if _UNPARSED not in words:
        return {}
    places: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        places.setdefault(line.text, []).append(i)
    found = {}
    for quoted in words.split(_UNPARSED)[1:]:
        text, _, why = quoted.rpartition("': ")
        why = why.partition("\n")[0].partition(" dropped=")[0]
        found.update(dict.fromkeys(places.get(text, ()), f"unable to parse: {short(why)}"))
    return found


def short(text: str) -> str:
    """Return one line of bounded length."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
