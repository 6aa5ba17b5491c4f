"""When silent units are asked again: never for more than their share of the line."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.breaker import PAUSE, SHARE, WHOLE, Breakers


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=30), st.integers(1, 5))
def test_dead_units_share_a_twentieth_of_the_line(costs: list[float], living: int) -> None:
    dead = {f"u{i}": cost for i, cost in enumerate(costs)}
    breakers = Breakers([*dead, *(f"living{i}" for i in range(living))])
    for unit, cost in dead.items():
        breakers.failed(unit, 0.0, cost)
    now = spent = 0.0
    for _ in range(200):
        probe = breakers.next_probe()
        assert probe is not None
        now = max(now, probe.at) + dead[probe.unit]
        spent += dead[probe.unit]
        breakers.failed(probe.unit, now, dead[probe.unit])
    assert spent <= SHARE * now + sum(costs)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20))
def test_a_unit_is_asked_again_within_20_time_outs_of_each_dead_one(costs: list[float]) -> None:
    dead = {f"u{i}": cost for i, cost in enumerate(costs)}
    breakers = Breakers([*dead, "living"])
    for unit, cost in dead.items():
        breakers.failed(unit, 0.0, cost)
    asked: dict[str, float] = {}
    longest = now = 0.0
    for round_ in range(3):  # in the first one they were all found silent at once
        for _ in dead:
            probe = breakers.next_probe()
            assert probe is not None
            now = max(now, probe.at)
            if round_:
                longest = max(longest, now - asked[probe.unit])
            asked[probe.unit] = now
            now += dead[probe.unit]
            breakers.failed(probe.unit, now, dead[probe.unit])
    assert longest <= max(2.0, len(costs) * max(costs) / SHARE) + sum(costs) + 1e-6


def test_a_line_without_a_living_unit_has_nobody_to_protect() -> None:
    breakers = Breakers(["a", "b"])
    breakers.failed("a", 10.0, 1.0)
    probe = breakers.next_probe()
    assert probe is not None
    assert probe.at == 10.0 + 1.0 / SHARE
    breakers.failed("b", 11.0, 1.0)
    probe = breakers.next_probe()
    assert probe is not None
    assert (probe.at, probe.unit) == (10.0 + PAUSE, "a")


def test_an_attempt_that_was_given_up_at_once_does_not_make_a_unit_cheap() -> None:
    breakers = Breakers(["a", "b"])
    assert breakers.failed("a", 0.0, 1.0)
    assert not breakers.failed("a", 20.0, 0.0)
    probe = breakers.next_probe()
    assert probe is not None
    assert probe.at == 20.0 + 1.0 / SHARE
    assert breakers.answered("a")
    assert breakers.next_probe() is None


def test_one_probe_in_sixteen_is_waited_for_whoever_is_due_meanwhile() -> None:
    breakers, whole = Breakers(["a", "b"]), []
    for i in range(2 * WHOLE):
        breakers.failed("a", 100.0 * i, 1.0)
        probe = breakers.next_probe()
        assert probe is not None
        whole.append(probe.is_whole)
    assert [i for i, is_whole in enumerate(whole) if is_whole] == [WHOLE - 1, 2 * WHOLE - 1]


def test_on_a_line_without_a_living_unit_every_probe_is_waited_for() -> None:
    breakers = Breakers(["a"])
    breakers.failed("a", 0.0, 1.0)
    probe = breakers.next_probe()
    assert probe is not None
    assert probe.is_whole
