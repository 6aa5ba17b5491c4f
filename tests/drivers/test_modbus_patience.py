"""How long a unit is waited for."""

import pytest

from edge_agent.drivers.modbus_patience import ALONE, FLOOR, GROWTH, LEAST, Patience


def after(
    *round_trips: float, timeout: float = 1.0, alone: bool = False, loses_frames: bool = True
) -> Patience:
    patience = Patience(timeout, alone=alone, loses_frames=loses_frames)
    for took in round_trips:
        patience.answered(took)
    return patience


def test_it_begins_with_the_configured_time_out_and_no_second_try() -> None:
    patience = after(timeout=0.7)

    assert patience.first == patience.limit == 0.7


def test_a_quick_unit_is_soon_asked_again_and_soon_given_up() -> None:
    patience = after(*[0.02] * 50)

    assert patience.first == FLOOR
    assert patience.limit == LEAST


def test_over_tcp_a_unit_is_asked_again_late_and_only_where_nobody_else_waits() -> None:
    alone = after(*[0.02] * 50, alone=True, loses_frames=False)
    shared = after(*[0.02] * 50, loses_frames=False)

    assert (alone.first, alone.limit) == (0.5, 1.0)
    assert (shared.first, shared.limit) == (LEAST, LEAST)


def test_a_unit_that_has_the_link_to_itself_is_given_its_whole_time_out() -> None:
    patience = after(*[0.02] * 50, alone=True)

    assert patience.first == ALONE
    assert patience.limit == 1.0


def test_a_slow_unit_is_given_its_whole_time_out_and_no_second_try() -> None:
    patience = after(*[0.6, 0.8, 0.5, 0.7] * 10)

    assert patience.first == patience.limit == 1.0


def test_a_time_out_below_the_floor_is_kept() -> None:
    """L2, peers 19: time-outs below a second must be possible."""
    patience = after(*[0.001] * 20, timeout=0.03)

    assert patience.first == patience.limit == 0.03


def test_a_unit_that_fell_silent_is_asked_once_and_at_first_not_for_long() -> None:
    """L1, peers 10: a dead unit must be given up quickly."""
    patience = after(*[0.02] * 50)
    limits = []
    for _ in range(5):
        patience.silent()
        assert patience.first == patience.limit
        limits.append(patience.limit)

    assert limits == pytest.approx([2 * FLOOR] * 3 + [1.0, 2 * FLOOR])  # it may have become slower


def test_a_unit_that_is_back_is_known_as_before() -> None:
    patience = after(*[0.02] * 50)
    patience.silent()
    patience.answered(None, at_once=False)

    assert patience.first == FLOOR


@pytest.mark.parametrize(
    ("alone", "stall", "low", "high"), [(True, 4.05, 4.05, 6.0), (False, 2.0, 2.0, 3.0)]
)
def test_a_device_that_stalls_now_and_then_is_waited_for_once_that_is_known(
    alone: bool, stall: float, low: float, high: float
) -> None:
    """L1, peers 12: it stalls for 4.05 s every 298 s, and the time-out is 3 s."""
    patience = after(*[0.05] * 298, timeout=3.0, alone=alone)
    assert patience.limit <= 3.0
    patience.silent()
    patience.late(stall)
    for _ in range(298):
        patience.answered(0.05)

    assert low < patience.limit < high
    assert patience.first == (ALONE if alone else FLOOR)


def test_who_shares_a_line_makes_nobody_wait_longer_than_its_time_out() -> None:
    """L1, peers 4, 9: a slow unit's lateness is its own."""
    patience = after(0.05, timeout=0.5, alone=False)
    patience.late(1.0)
    patience.answered(0.05)

    assert patience.limit == 0.5


def test_a_limit_grows_to_a_few_time_outs_at_most() -> None:
    patience = after(0.05, alone=True)
    patience.late(1e6)
    patience.answered(0.05)

    assert patience.limit == GROWTH
    assert patience.stale == 2 * GROWTH


def test_a_device_that_is_one_answer_behind_is_not_slow() -> None:
    """Its answers come when it is asked again, however long that is."""
    patience = after(*[0.02] * 20)
    for _ in range(5):
        patience.silent()
        patience.late(10.0)
        patience.answered(None, at_once=False)
    patience.late(10.0)
    patience.silent()
    patience.answered(0.02)

    assert patience.limit == LEAST
