"""What a device shows whose counters are reset, stand before their end or have a spike."""

from collections.abc import Callable

from edge_agent.clock import SECOND
from simulators.faults import Script, Trouble
from simulators.sources import Source
from simulators.tables import DeviceTable, TagRow

_KINDS = ("counter-reset", "restart", "rollover", "glitch")
EXACT = 2**53  # the largest count at which a float still knows the ones

Modulus = Callable[[TagRow], int | None]


class AilingSource(Source):
    """The same readings but for what the script does to them.

    modulus  raw count at which a tag begins again, None for what is no counter
    start    ns: from when the script's times count
    """

    def __init__(
        self, source: Source, table: DeviceTable, script: Script, start: int, modulus: Modulus
    ) -> None:
        super().__init__({})
        self._source, self._start = source, start
        self._counters = {tag.name for tag in table.tags if tag.kind == "counter"}
        self._spans = {
            tag.name: raw * float(tag.factor)
            for tag in table.tags
            if (raw := modulus(tag)) is not None and raw <= EXACT
        }
        self._script, self._device = script, table.id

    def knows(self, tag: str) -> bool:
        return self._source.knows(tag)

    def unit(self, tag: str) -> str:
        return self._source.unit(tag)

    def changes(self, tag: str, after: int, until: int) -> list[tuple[int, float]]:
        return self._source.changes(tag, after, until)

    def value(self, tag: str, t: int) -> float:
        value = self._source.value(tag, t)
        mine = [
            trouble
            for trouble in self._script.of(self._device, *_KINDS)
            if trouble.tag == tag or (not trouble.tag and tag in self._counters)
        ]
        seconds = (t - self._start) / SECOND
        begins = [begin for trouble in mine if (begin := _anew(trouble, seconds)) is not None]
        if begins:
            value -= self._source.value(tag, self._ns(max(begins)))
        for trouble in mine:
            spell = trouble.window(seconds)
            if spell and trouble.kind == "rollover" and tag in self._spans:
                end = self._source.value(tag, self._ns(spell[0] + trouble.by))
                value = self._source.value(tag, t) - end + self._spans[tag]
            elif spell and trouble.kind == "glitch":
                value *= trouble.times
        return value

    def _ns(self, seconds: float) -> int:
        return self._start + round(seconds * SECOND)


def _anew(trouble: Trouble, seconds: float) -> float | None:
    """Return when a trouble has last made counters begin at 0, None if it has not."""
    if trouble.kind == "counter-reset":
        spell = trouble.window(seconds)
        return spell[0] if spell else None
    if trouble.kind == "restart" and trouble.counters == "anew":
        return next((end for _begin, end in trouble.begun(seconds) if end <= seconds), None)
    return None
