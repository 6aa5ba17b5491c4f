"""The time that a report is about: a year, a month, a day or any span, in the zone of the site."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

SECOND = 1_000_000_000
_HOW = 'write "2026", "2026-10", "2026-10-05" or "2026-10-05T08:00/2026-10-05T09:00"'


@dataclass(frozen=True)
class Period:
    """Start and end in ns since the Unix epoch, UTC: ``[start, end)``; and how it was written."""

    text: str
    start_ns: int
    end_ns: int
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str, zone: ZoneInfo) -> Self:
        """Return the period that a person wrote; ``ValueError`` says what would be right."""
        text = text.strip()
        first, stroke, last = text.partition("/")
        start, end = (_moment(text, first, zone), _moment(text, last, zone)) if stroke else (
            _whole(text, zone)
        )  # fmt: skip
        if start >= end:
            raise ValueError(f"period {text!r} ends before it begins (write start/end)")
        return cls(text, start, end, zone)

    @property
    def begin(self) -> datetime:
        """The start as local time."""
        return datetime.fromtimestamp(self.start_ns // SECOND, self.zone)

    @property
    def end(self) -> datetime:
        """The end, which is no longer in it, as local time."""
        return datetime.fromtimestamp(self.end_ns // SECOND, self.zone)

    def __str__(self) -> str:
        form = "%Y-%m-%d %H:%M"
        return f"{self.begin:{form}} – {self.end:{form}} {self.zone.key} (UTC{self.begin:%z})"


def _whole(text: str, zone: ZoneInfo) -> tuple[int, int]:
    """Return the borders of a local year, month or day; a day may have 23 or 25 hours."""
    match = re.fullmatch(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", text)
    if not match:
        raise ValueError(f"{text!r} is not a period ({_HOW})")
    year, month, day = match.groups()
    try:
        first = datetime(int(year), int(month or "1"), int(day or "1"), tzinfo=zone)
        if day is not None:
            after = first + timedelta(days=1)
        elif month is not None:
            after = (first + timedelta(days=32)).replace(day=1)
        else:
            after = first.replace(year=first.year + 1)
    except (ValueError, OverflowError) as e:
        raise ValueError(f"period {text!r} names no date: {e} ({_HOW})") from e
    return _ns(first), _ns(after)


def _moment(text: str, written: str, zone: ZoneInfo) -> int:
    try:
        moment = datetime.fromisoformat(written.strip())
    except ValueError as e:
        raise ValueError(f"{written!r} in the period {text!r} is not a time ({_HOW})") from e
    return _ns(moment if moment.tzinfo is not None else moment.replace(tzinfo=zone))


def _ns(moment: datetime) -> int:
    return round(moment.timestamp()) * SECOND
