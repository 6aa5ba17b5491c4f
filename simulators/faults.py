"""Scripted trouble: which device misbehaves how, from when to when.

A file is a list of ``{device: em-kiln, from: 10s, to: 20s, kind: silence}``; times count from the
plant's start, in plant time. ``for: 5s`` is the other way to write ``to``. With ``every: 10s,
for: 2s`` the trouble comes back each ten seconds and lasts two: flapping. Kinds, and what else
they take:

::

    silence        no answer
    delay          by: 500ms     the right answer, late
    late-by-one    the answer to a request comes in reply to the next one
    exception      code: 4       an exception reply (OPC UA: a bad status)
    busy           code: 6       likewise: 6 busy, 5 acknowledged and later
    hole           at: hr:0x10, count: 1, code: 2    a read that touches these is refused
    poison         at: hr:0x10, count: 1, bytes: 4   such a read is answered, but the next answer
                                                     holds stray bytes
    short          a frame that ends too early
    corrupt        a flipped bit that the checksum shows; without a checksum a wrong header
    garbage        bytes that are no frame
    reset          a request cuts the connection
    half-open      new: answered | silent | refused
                   what is connected stays so and is never answered again; new connections are
                   answered, or not before it has ended, or refused
    frozen         the values and times of the instant at which it began, for ever
    restart        counters: keep | anew    all connections are cut, nobody listens meanwhile
    rollover       by: 5s, tag: …   from then on counters stand so that they roll over after ``by``
    glitch         times: 0, tag: …   counters show so many times their value, and then it again
    counter-reset  tag: …   counters begin at 0 at ``from`` (leave out ``to``: it stays so)

Of an OPC UA server, exception, busy and hole (``at``: the tag's own) are bad status codes of nodes;
late-by-one and poison do not befall it, and what befalls the line is all its devices'.

A rollover stays as well if ``to`` is left out. ``at`` is an address of the device's protocol. A
half-open link and a restart befall all devices of the same server.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edge_agent.units import Duration
from simulators.registers import Area, place

if TYPE_CHECKING:
    import yaml

KINDS: Mapping[str, frozenset[str]] = {
    "silence": frozenset(),
    "delay": frozenset({"by"}),
    "late-by-one": frozenset(),
    "exception": frozenset({"code"}),
    "busy": frozenset({"code"}),
    "hole": frozenset({"at", "count", "code"}),
    "poison": frozenset({"at", "count", "bytes"}),
    "short": frozenset(),
    "corrupt": frozenset(),
    "garbage": frozenset(),
    "reset": frozenset(),
    "half-open": frozenset({"new"}),
    "frozen": frozenset(),
    "restart": frozenset({"counters"}),
    "rollover": frozenset({"by", "tag"}),
    "glitch": frozenset({"times", "tag"}),
    "counter-reset": frozenset({"tag"}),
}
LINK_KINDS = frozenset({"half-open", "restart"})  # they befall a server, not one of its devices
T = TypeVar("T")
_CODES = {"busy": 6, "hole": 2}
_ALWAYS = frozenset({"device", "kind", "from", "to", "for", "every"})


@dataclass(frozen=True)
class Trouble:
    """One entry of a script.

    start, stop   seconds after the plant's start
    every, lasts  seconds: within them it comes back each ``every`` and lasts ``lasts``; 0: it lasts
    line          where it stands in its file
    """

    device: str
    kind: str
    start: float = 0.0
    stop: float = math.inf
    every: float = 0.0
    lasts: float = 0.0
    by: float = 0.5
    code: int = 4
    at: str = ""
    count: int = 1
    stray: int = 4
    tag: str = ""
    times: float = 0.0
    new: str = "answered"
    counters: str = "keep"
    line: int = 0

    def window(self, seconds: float) -> tuple[float, float] | None:
        """Return begin and end of the spell that a time lies in, None while all is well."""
        if not self.start <= seconds < self.stop:
            return None
        if not self.every:
            return self.start, self.stop
        begin = self.start + math.floor((seconds - self.start) / self.every) * self.every
        end = min(begin + self.lasts, self.stop)
        return (begin, end) if seconds < end else None

    def next_change(self, seconds: float) -> float:
        """Return when it next begins or ends after a time; infinity if never."""
        if seconds < self.start:
            return self.start
        if spell := self.window(seconds):
            return spell[1]
        if not self.every or seconds >= self.stop:
            return math.inf
        begin = self.start + (math.floor((seconds - self.start) / self.every) + 1) * self.every
        return begin if begin < self.stop else math.inf

    def begun(self, seconds: float) -> Iterable[tuple[float, float]]:
        """Yield the spells that have begun by a time, the newest first."""
        if seconds < self.start:
            return
        number = (
            math.floor((min(seconds, self.stop) - self.start) / self.every) if self.every else 0
        )
        for i in range(number, -1, -1):
            begin = self.start + i * self.every
            if begin < self.stop:
                yield begin, min(begin + self.lasts, self.stop) if self.every else self.stop

    def touches(self, area: Area, address: int, count: int) -> bool:
        """Return whether a Modbus read meets the hole or the poison."""
        own, first, _ = place(self.at)
        return area == own and first < address + count and address < first + self.count


class Script:
    """All trouble of a run; name: where it is written."""

    def __init__(self, troubles: list[Trouble] | None = None, name: str = "script") -> None:
        self.troubles, self.name = troubles or [], name
        self._indexed: list[Trouble] = []
        self._by_device: dict[str, list[Trouble]] = {}

    def _mine(self, device: str) -> list[Trouble]:
        """Return all trouble of a device, also of what was added to the list meanwhile."""
        if self._indexed != self.troubles:
            self._indexed, self._by_device = list(self.troubles), {}
            for trouble in self.troubles:
                self._by_device.setdefault(trouble.device, []).append(trouble)
        return self._by_device.get(device, [])

    def now(self, device: str, seconds: float) -> list[Trouble]:
        """Return what befalls a device so many seconds after the plant's start."""
        return [t for t in self._mine(device) if t.window(seconds)]

    def of(self, device: str, *kinds: str) -> list[Trouble]:
        """Return all trouble of these kinds that a device ever has."""
        return [t for t in self._mine(device) if t.kind in kinds]

    def next_change(
        self, devices: Collection[str], seconds: float, kinds: Collection[str] = LINK_KINDS
    ) -> float:
        """Return when trouble of some kinds next begins or ends; infinity if never."""
        mine = (t for device in devices for t in self._mine(device) if t.kind in kinds)
        return min((t.next_change(seconds) for t in mine), default=math.inf)

    def strangers(self, devices: Collection[str]) -> list[str]:
        """Return a complaint for each entry whose device is none of these."""
        return [
            f"{self.name}:{t.line}: there is no device {t.device} in the configuration"
            for t in self.troubles
            if t.device not in devices
        ]


def read_script(path: Path) -> Script:
    """Return the script in a file; ``ValueError`` names every mistake with its line."""
    import yaml

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, yaml.YAMLError) as e:
        raise ValueError(f"{path}: cannot be read: {e}") from e
    if root is None:
        return Script()
    if not isinstance(root, yaml.SequenceNode):
        raise ValueError(f"{path}:1: write a list of {{device, from, to, kind}}")  # noqa: TRY004 – a wrong file
    rows = [_Row.of(node) for node in root.value]
    mistakes = [f"{path}:{row.line}: {text}" for row in rows for text in row.mistakes]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return Script([row.trouble for row in rows if row.trouble is not None], str(path))


@dataclass
class _Row:
    """One entry being read."""

    line: int
    written: dict[str, str]
    mistakes: list[str] = field(default_factory=list)
    trouble: Trouble | None = None

    @classmethod
    def of(cls, node: "yaml.Node") -> "_Row":
        import yaml

        row = cls(node.start_mark.line + 1, {})
        if not isinstance(node, yaml.MappingNode):
            row.mistakes.append("write {device: …, kind: …, from: 10s, to: 20s}")
            return row
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
                row.written[key.value] = value.value
            else:
                row.mistakes.append(
                    f"{getattr(key, 'value', 'a key')}: one word or number is right"
                )
        row.check_words()
        if not row.mistakes:
            row.trouble = row.build()
        return row

    def check_words(self) -> None:
        kind = self.written.get("kind", "")
        if "device" not in self.written:
            self.mistakes.append("device is missing")
        if kind not in KINDS:
            said = "kind is missing" if not kind else f'there is no kind "{kind}"'
            self.mistakes.append(f"{said} (one of {', '.join(KINDS)})")
            return
        for key in self.written:
            if key not in _ALWAYS | KINDS[kind]:
                more = ", ".join(sorted(KINDS[kind]))
                right = f"takes {more}" if more else "takes nothing else"
                self.mistakes.append(f"{kind} knows no {key} ({right})")
        if "at" in KINDS[kind] and "at" not in self.written:
            self.mistakes.append(f"{kind} needs at: which address (at: hr:0x10)")
        if "every" in self.written and "for" not in self.written:
            self.mistakes.append("every needs for: how long it lasts each time")
        if {"to", "for"} <= set(self.written) and "every" not in self.written:
            self.mistakes.append("write to or for, not both")

    def build(self) -> Trouble:
        kind = self.written["kind"]
        start = self._read("from", 0.0, Duration.parse, "10s")
        every = self._read("every", 0.0, Duration.parse, "10s")
        lasts = self._read("for", 0.0, Duration.parse, "2s")
        stop = self._read("to", math.inf, Duration.parse, "20s")
        if lasts and not every:
            stop = start + lasts
        if stop <= start or ("for" in self.written and lasts <= 0):
            self.mistakes.append("it ends before it begins")
        if every and lasts >= every:
            self.mistakes.append("for is shorter than every, or it never ends")
        return Trouble(
            self.written["device"],
            kind,
            start,
            stop,
            every,
            lasts if every else 0.0,
            by=self._read("by", 5.0 if kind == "rollover" else 0.5, Duration.parse, "500ms"),
            code=self._read("code", _CODES.get(kind, 4), lambda text: int(text, 0), "6"),
            at=self.written.get("at", ""),
            count=self._read("count", 1, lambda text: int(text, 0), "2"),
            stray=self._read("bytes", 4, lambda text: int(text, 0), "4"),
            tag=self.written.get("tag", ""),
            times=self._read("times", 0.0, float, "10"),
            new=self._choice("new", "answered", "silent", "refused"),
            counters=self._choice("counters", "keep", "anew"),
            line=self.line,
        )

    def _read(self, key: str, usual: T, read: Callable[[str], T], right: str) -> T:
        if key not in self.written:
            return usual
        try:
            return read(self.written[key])
        except ValueError:
            self.mistakes.append(f'{key}: "{self.written[key]}" is not possible (write {right})')
            return usual

    def _choice(self, key: str, *choices: str) -> str:
        chosen = self.written.get(key, choices[0])
        if chosen not in choices:
            self.mistakes.append(f'{key}: "{chosen}" is none of {", ".join(choices)}')
        return chosen
