"""Periods as a person writes them."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from edge_agent.reports.period import Period

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026", "2026-01-01T00:00+08:00", "2027-01-01T00:00+08:00"),
        ("2026-10", "2026-10-01T00:00+08:00", "2026-11-01T00:00+08:00"),
        ("2026-12", "2026-12-01T00:00+08:00", "2027-01-01T00:00+08:00"),
        ("2026-10-05", "2026-10-05T00:00+08:00", "2026-10-06T00:00+08:00"),
        (
            "2026-10-05T08:00/2026-10-05T09:00",
            "2026-10-05T08:00+08:00",
            "2026-10-05T09:00+08:00",
        ),
        (
            "2026-10-05T08:00Z/2026-10-05T18:00+08:00",
            "2026-10-05T16:00+08:00",
            "2026-10-05T18:00+08:00",
        ),
    ],
)
def test_a_period_is_what_a_calendar_says(text: str, start: str, end: str) -> None:
    period = Period.parse(text, SHANGHAI)

    assert (period.start_ns, period.end_ns) == (ns(start), ns(end))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_of_changing_clocks_keeps_its_hours(day: str, hours: int) -> None:
    period = Period.parse(day, BERLIN)

    assert (period.end_ns - period.start_ns) // 3_600_000_000_000 == hours


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("October", "is not a period"),
        ("2026-13", "names no date"),
        ("2026-02-30", "names no date"),
        ("0000", "names no date"),
        ("9999", "names no date"),
        ("2026-10-05T09:00/2026-10-05T08:00", "ends before it begins"),
        ("2026-10-05T08:00/later", "is not a time"),
        ("", "is not a period"),
    ],
)
def test_what_is_no_period_is_refused_in_plain_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Period.parse(text, SHANGHAI)
