"""Which units of a line are asked, and when the silent ones are asked for a sign of life; pure.

A unit that did not answer is left alone until its probe is due. On a line that also has living
units a time-out of ``c`` seconds is followed by ``c / SHARE`` seconds without a probe of anybody,
and the one that was asked longest ago comes next: silent units together take ``SHARE`` of the line,
never two time-outs in a row, and each is asked again within ``1 / SHARE`` time-outs per silent
unit. The same wait follows a unit that answers a probe and then fails again, so one that comes and
goes costs no more than one that is dead. A probe has only the time until a living unit is due, but
for one in ``WHOLE``, as the silent unit may be slower than that. A line without any living unit has
nobody to protect: its units are probed every ``PAUSE`` seconds.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

SHARE = 0.05  # of a line's time, for all its silent units together
PAUSE = 0.9  # seconds between two probes of a unit, at least
WHOLE = 16  # one in so many probes of a unit is waited for as long as an answer may take


class Probe(NamedTuple):
    """When which silent unit is to be asked, and how long that will take if it stays silent.

    is_whole  it is waited for as long as an answer may take, whoever is due meanwhile
    """

    at: float
    unit: str
    cost: float
    is_whole: bool = True


@dataclass
class _Silence:
    """A unit that does not answer: since when, and what finding that out has cost the line."""

    failed_at: float
    cost: float
    times: int = 0


class Breakers:
    """The units of one line; all times in seconds of one clock."""

    def __init__(self, units: Collection[str]) -> None:
        self._units = frozenset(units)
        self._silent: dict[str, _Silence] = {}
        self._free_at = float("-inf")  # no probe before, on a line with living units

    @property
    def silent(self) -> Collection[str]:
        """The units that are not asked for values."""
        return self._silent.keys()

    def failed(self, unit: str, now: float, cost: float) -> bool:
        """Note that a unit did not answer; return whether it did before.

        cost  seconds of the line; an attempt that was given up without waiting does not count
        """
        before = self._silent.get(unit)
        known = before.cost if before is not None else 0.0
        cost = cost if cost > known / 10 else known
        times = before.times + 1 if before is not None else 0
        self._silent[unit] = _Silence(now, cost, times)
        self._free_at = max(self._free_at, now + cost / SHARE)
        return before is None

    def answered(self, unit: str) -> bool:
        """Note that a unit has answered; return whether it was silent."""
        return self._silent.pop(unit, None) is not None

    def next_probe(self) -> Probe | None:
        """Return the next probe; None when no unit is silent."""
        if not self._silent:
            return None
        unit, silence = min(self._silent.items(), key=lambda item: item[1].failed_at)
        protected = len(self._silent) < len(self._units)
        earliest = self._free_at if protected else silence.failed_at
        is_whole = not protected or silence.times % WHOLE == WHOLE - 1
        return Probe(max(silence.failed_at + PAUSE, earliest), unit, silence.cost, is_whole)
