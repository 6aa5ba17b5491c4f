"""Borders of windows in a site's calendar.

Windows are ``[start, end)`` in ns since the Unix epoch, UTC. ``1min``, ``15min`` and ``1h`` are
aligned to the epoch; ``1d`` and ``1mo`` to local midnight, so a day of a time change has 23 or 25
hours; ``shift`` to the shift calendar's local times. Minutes that lie in no shift belong to no
shift window. ``1a`` is the calendar year; ``12mo`` the month that holds an instant and the eleven
before it.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from edge_agent.clock import SECOND
from edge_agent.metrics.base import MINUTE, Window

_FIXED = {"1min": MINUTE, "15min": 15 * MINUTE, "1h": 60 * MINUTE}
_DAY = timedelta(days=1)

# seconds that stand in the schema as the distance of rows
PERIODS: dict[Window, float] = {
    "1min": 60.0,
    "15min": 900.0,
    "1h": 3600.0,
    "shift": 28800.0,
    "1d": 86400.0,
    "1mo": 2678400.0,
    "1a": 31622400.0,
    "12mo": 31622400.0,
}


class Calendar:
    """Finds the window of an instant.

    shifts  name -> ``08:00-16:00``, local time; an end at or before the start is on the next day
    """

    def __init__(self, zone: ZoneInfo, shifts: Mapping[str, str] | None = None) -> None:
        self._zone = zone
        self._shifts = [_span(text) for text in (shifts or {}).values()]

    def window(self, window: Window, instant: int) -> tuple[int, int] | None:
        """Return start and end of the window that holds an instant; None if no shift holds it."""
        if window in _FIXED:
            length = _FIXED[window]
            start = instant // length * length
            return start, start + length
        local = datetime.fromtimestamp(instant // SECOND, UTC).astimezone(self._zone).date()
        if window == "1d":
            return self._ns(local, time()), self._ns(local + _DAY, time())
        if window == "1a":
            first = local.replace(month=1, day=1)
            return self._ns(first, time()), self._ns(first.replace(year=first.year + 1), time())
        if window in {"1mo", "12mo"}:
            first = local.replace(day=1)
            after = (first + 32 * _DAY).replace(day=1)
            begin = first if window == "1mo" else after.replace(year=after.year - 1)
            return self._ns(begin, time()), self._ns(after, time())
        return self._shift(local, instant)

    def count(self, window: Window, start: int, end: int) -> int:
        """Return how many windows lie in a span that begins and ends at their borders."""
        if window in _FIXED:
            return (end - start) // _FIXED[window]
        counted, at = 0, start
        while at < end:
            span = self.window(window, at)
            at = end if span is None else span[1]
            counted += 1
        return counted

    def _shift(self, local: date, instant: int) -> tuple[int, int] | None:
        for begin, end in self._shifts:
            for day in (local, local - _DAY):  # a night shift began yesterday
                last = day + _DAY if end <= begin else day
                span = self._ns(day, begin), self._ns(last, end)
                if span[0] <= instant < span[1]:
                    return span
        return None

    def _ns(self, day: date, clock: time) -> int:
        return int(datetime.combine(day, clock, self._zone).timestamp()) * SECOND


def _span(text: str) -> tuple[time, time]:
    begin, _, end = text.partition("-")
    return time.fromisoformat(begin.strip()), time.fromisoformat(end.strip())
