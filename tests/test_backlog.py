"""How long it takes to catch up."""

import pytest

from edge_agent.backlog import SPAN, Backlog


def test_the_time_left_follows_from_the_pace_so_far() -> None:
    backlog = Backlog()
    for second in range(11):
        backlog.note(100.0 + second, 5000 - 100 * second, 0)

    assert backlog.remaining == pytest.approx(40.0)


def test_rows_that_do_not_get_fewer_take_for_ever() -> None:
    backlog = Backlog()
    assert backlog.remaining is None
    for second in range(11):
        backlog.note(second, 5000 + second, 0)

    assert backlog.remaining is None


def test_a_few_seconds_are_no_pace() -> None:
    backlog = Backlog()
    backlog.note(0.0, 1000, 0)
    backlog.note(4.0, 10, 0)

    assert backlog.remaining is None


def test_what_was_long_ago_does_not_count() -> None:
    backlog = Backlog()
    for second in range(int(2 * SPAN) + 1):  # it grew, then it shrinks
        backlog.note(second, 10_000 + 50 * second if second < SPAN else 20_000 - 50 * second, 0)

    assert backlog.remaining == pytest.approx((20_000 - 100 * SPAN) / 50)


def test_of_two_lanes_only_the_backlog_is_to_be_caught_up_with() -> None:
    backlog = Backlog()
    for second in range(11):
        backlog.note(second, 9000, 0)
    for second in range(11, 22):
        backlog.note(second, 3000 - 100 * second + second % 2 * 500, 3000 - 100 * second)

    assert backlog.remaining == pytest.approx(9.0)


def test_an_outage_begins_anew() -> None:
    backlog = Backlog()
    for second in range(11):
        backlog.note(second, 1000 - second, 0)
    backlog.forget()

    assert backlog.remaining is None
