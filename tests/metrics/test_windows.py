"""Borders of windows, on ordinary days and on days of a time change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from edge_agent.metrics.base import MINUTE, Window
from edge_agent.metrics.windows import Calendar

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
HOUR = 60 * MINUTE


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


def span(calendar: Calendar, window: Window, instant: str) -> tuple[str, str] | None:
    found = calendar.window(window, ns(instant))
    if found is None:
        return None
    start, end = (datetime.fromtimestamp(t // 10**9, UTC).isoformat()[:16] for t in found)
    return start, end


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        ("1min", "2026-10-05T03:07", "2026-10-05T03:08"),
        ("15min", "2026-10-05T03:00", "2026-10-05T03:15"),
        ("1h", "2026-10-05T03:00", "2026-10-05T04:00"),
        ("1d", "2026-10-04T16:00", "2026-10-05T16:00"),
        ("1mo", "2026-09-30T16:00", "2026-10-31T16:00"),
    ],
)
def test_windows_of_a_plant_in_shandong(window: Window, start: str, end: str) -> None:
    assert span(Calendar(SHANGHAI), window, "2026-10-05T11:07:59+08:00") == (start, end)


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)]
)
def test_a_day_of_a_time_change_has_23_or_25_hours(day: str, hours: int) -> None:
    found = Calendar(BERLIN).window("1d", ns(f"{day}T12:00:00+00:00"))
    assert found is not None
    assert found[1] - found[0] == hours * HOUR


@pytest.mark.parametrize("window", ["15min", "1h", "1d", "1mo", "shift"])
def test_windows_follow_each_other_without_gap_over_a_year(window: Window) -> None:
    shifts = {"A": "06:00-14:00", "B": "14:00-22:00", "C": "22:00-06:00"}
    calendar = Calendar(BERLIN, shifts)
    at = ns("2026-01-01T12:00:00+01:00")
    step = calendar.window(window, at)
    assert step is not None
    for _ in range(800):
        following = calendar.window(window, step[1])
        assert following is not None
        assert following[0] == step[1]
        assert calendar.window(window, step[1] - MINUTE) == step
        step = following


def test_shifts_are_local_times_and_a_night_shift_goes_over_midnight() -> None:
    calendar = Calendar(SHANGHAI, {"A": "08:00-16:00", "N": "20:00-04:00"})
    assert span(calendar, "shift", "2026-10-05T08:00:00+08:00") == (
        "2026-10-05T00:00",
        "2026-10-05T08:00",
    )
    assert span(calendar, "shift", "2026-10-05T01:00:00+08:00") == (
        "2026-10-04T12:00",
        "2026-10-04T20:00",
    )
    assert span(calendar, "shift", "2026-10-05T17:00:00+08:00") is None


def test_shifts_that_fill_the_day_end_at_midnight() -> None:
    calendar = Calendar(SHANGHAI, {"B": "16:00-00:00", "C": "00:00-08:00"})
    assert span(calendar, "shift", "2026-10-05T23:59:00+08:00") == (
        "2026-10-05T08:00",
        "2026-10-05T16:00",
    )
