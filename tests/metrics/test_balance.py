"""Examples of the balance that can be worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from edge_agent.metrics.balance import BalanceConfig
from edge_agent.model import Quality, SampleBlock
from tests.metrics.plants import METER, SUB_METER, Works
from tests.metrics.test_kpis import compute, last, rows

CONFIG = BalanceConfig(
    main=("em-a.energy",),
    own=("em-a.export",),
    subs={"kiln": ("em-b.energy",)},
    tolerance=0.1,
    windows=("1min", "15min"),
)


def plant(kiln: Callable[[float], float]) -> list[SampleBlock]:
    """6 kW at the main meter, 1.5 kW made behind it."""
    main = rows(METER, 17.0, energy=lambda s: 100 + s / 600, export=lambda s: s / 2.4e6)
    return [main, rows(SUB_METER, 17.0, energy=kiln)]


def test_the_gap_of_a_worked_example_is_shown_and_not_spread() -> None:
    figures = last(compute(CONFIG, plant(lambda s: 50 + s / 500))["kpi/15min"])
    assert figures["main"] == pytest.approx(1.5)
    assert figures["own"] == pytest.approx(0.375, abs=1e-3)
    assert figures["kiln"] == figures["sum_subs"] == pytest.approx(1.8)
    assert figures["gap"] == pytest.approx(0.075, abs=1e-3)
    assert figures["gap_share"] == pytest.approx(0.04, abs=1e-3)
    assert figures["unbalanced"] == 0.0
    assert figures["coverage"] == 1.0


def test_sub_meters_that_count_too_much_do_not_balance_either() -> None:
    figures = last(compute(CONFIG, plant(lambda s: 50 + s / 400))["kpi/15min"])
    assert figures["gap"] == pytest.approx(-0.375, abs=1e-3)
    assert figures["unbalanced"] == 1.0


def test_what_is_used_while_nothing_comes_in_does_not_balance() -> None:
    main = rows(METER, 17.0, energy=100.0, export=7.0)
    found = compute(CONFIG, [main, rows(SUB_METER, 17.0, energy=lambda s: s / 600)])["kpi/15min"]
    assert last(found)["unbalanced"] == 1.0
    assert found.quality[found.schema.index["gap_share"], -1] == Quality.BAD_NOT_AVAILABLE


def test_a_silent_sub_meter_is_not_one_that_counts_nothing() -> None:
    main, sub = plant(lambda s: 50 + s / 500)
    quality = sub.quality.copy()
    quality[:, 10:] = Quality.BAD_NO_ANSWER
    value = np.where(quality >= Quality.BAD, np.nan, sub.value)
    found = compute(CONFIG, [main, SampleBlock(SUB_METER, sub.time, value, quality)])["kpi/1min"]
    for name in ("kiln", "gap", "unbalanced"):
        assert found.quality[found.schema.index[name], 10] >= Quality.BAD
    assert found["main"][10] == pytest.approx(0.1, abs=1e-5)


def test_the_gap_of_a_quarter_is_the_sum_of_its_minutes_exactly() -> None:
    found = compute(CONFIG, plant(lambda s: 50 + s * 0.0021234567))
    assert found["kpi/15min"]["gap"][0] == found["kpi/1min"]["gap"][:15].sum()


def test_what_is_wrong_is_said_in_plain_words() -> None:
    wrong = BalanceConfig(
        main=(), subs={"gap": ("em-b.energy",), "b": ("em-b.energy",), "c": ()}, tolerance=5.0
    )
    told = dict(wrong.faults())
    assert told["main",] == "needs at least one meter"
    assert told["subs", "gap"] == '"gap" is a column of the balance itself'
    assert told["subs", "b", 0] == '"em-b.energy" is in this balance already: it would count twice'
    assert told["subs", "c"] == "needs at least one meter"
    assert told["tolerance",] == "must be a fraction from 0 to below 1 (0.05 is 5 %)"


def test_meters_of_different_things_do_not_balance() -> None:
    config = BalanceConfig(main=("em-a.energy",), subs={"water": ("scale.mass",)})
    with pytest.raises(ValueError, match=r'"scale.mass" counts kg, must be convertible to kWh'):
        config.build("kpi", Works())
