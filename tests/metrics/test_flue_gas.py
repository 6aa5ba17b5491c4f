"""The formulas of HJ 212-2017, D.2, against worked vectors, and the substitution rule."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.metrics import flue_gas
from edge_agent.metrics.substitution import HOUR, Ledger, hours_searched, quarter_of
from edge_agent.model import F64
from tests.metrics.plants import SECOND, restored
from tests.metrics.stack_oracle import Past, looked_back

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "cems.json").read_text())
SHANGHAI = ZoneInfo("Asia/Shanghai")


def _18(g: dict[str, F64]) -> F64:
    return flue_gas.at_standard_state(g["Cs"], g["ts"], g["Ps"], g["Ba"])


def _31(g: dict[str, F64]) -> F64:
    return flue_gas.standard_dry_flow(g["Qsh"], g["ts"], g["Ps"], g["Ba"], g["Xsw"])


FORMULAS: dict[str, Callable[[dict[str, F64]], F64]] = {
    "18 std": _18,
    "19 dry": lambda g: flue_gas.dry(g["Cwet"], g["Xsw"]),
    "28 O2 correction": lambda g: flue_gas.corrected(g["C"], g["O2"], float(g["O2ref"][0])),
    "28 sinter": lambda g: flue_gas.corrected(g["C"], g["O2"], float(g["O2ref"][0])),
    "30": lambda g: flue_gas.actual_flow(g["Vs"], 1.0, float(g["F"][0])),
    "31": _31,
    "33 kg/h": lambda g: flue_gas.mass_rate(g["C"], g["Qsn"]),
}


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["formula"])
def test_a_formula_agrees_with_its_worked_vector(vector: dict[str, object]) -> None:
    given = {name: np.array([float(x)]) for name, x in vector["given"].items()}
    found = FORMULAS[vector["formula"]](given)[0]
    assert found == pytest.approx(vector["result"], abs=1e-6)


def test_every_formula_has_a_vector() -> None:
    assert {vector["formula"] for vector in VECTORS["vectors"]} == set(FORMULAS)


@pytest.mark.parametrize(
    ("gas", "factor"), [("so2", 2.8571), ("no", 1.3393), ("nox", 2.0536), ("co", 1.25)]
)
def test_ppm_of_a_gas_is_its_molar_mass_over_22_4(gas: str, factor: float) -> None:
    assert flue_gas.ppm_factor(gas) == pytest.approx(factor, abs=5e-5)


def test_nitrogen_oxides_are_counted_as_no2_by_mass_and_by_volume() -> None:
    by_mass = flue_gas.nox(np.array([30.0]), np.array([10.0]))
    assert by_mass[0] == pytest.approx(56.0)
    ppm = flue_gas.nox(np.array([flue_gas.ppm_factor("no")]), np.array([0.0]))
    assert ppm[0] == pytest.approx(flue_gas.ppm_factor("nox"))  # formulas 20 and 21 make 22


def test_correction_by_oxygen_and_by_excess_air_are_the_same_for_the_same_air() -> None:
    c, o2 = np.array([40.0, 55.0]), np.array([8.0, 14.5])
    reference = float(flue_gas.excess_air(np.array([9.0]))[0])
    one = flue_gas.corrected_by_excess_air(c, o2, reference)
    np.testing.assert_allclose(one, flue_gas.corrected(c, o2, 9.0), rtol=1e-14)


# substitution -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "gap", "hours"),
    [
        (1.0, 1, 180), (0.90, 24, 180), (0.90, 25, 720), (0.8999, 1, 2160), (0.75, 100, 2160),
        (0.7499, 1, None),
    ],
)  # fmt: skip
def test_the_rule_of_the_standard(rate: float, gap: int, hours: int | None) -> None:
    assert hours_searched(rate, gap) == hours


def test_a_quarter_is_the_calendars_in_the_sites_zone() -> None:
    start, end = quarter_of(1_767_225_600 * SECOND, SHANGHAI)  # 2026-01-01 08:00 local
    assert (end - start) // HOUR == 90 * 24
    assert (start % (24 * HOUR)) // HOUR == 16
    spring = quarter_of(1_774_000_000 * SECOND, ZoneInfo("Europe/Berlin"))
    assert (spring[1] - spring[0]) // HOUR == 90 * 24 - 1  # the hour that is left out in March
    assert quarter_of(spring[1], SHANGHAI)[1] > spring[1]


@pytest.mark.parametrize(("lost", "least"), [(0.03, 0.9), (0.1, 0.75), (0.4, 0.5)])
def test_the_ledger_equals_looking_back_at_every_hour(lost: float, least: float) -> None:
    random = Random(7)
    quarter = quarter_of(1_767_225_600 * SECOND, SHANGHAI)
    history: list[Past] = []
    while len(history) < 1200:
        mass = None if random.random() < lost else random.lognormvariate(1.0, 0.5)
        stopped = random.random() < 0.01
        for _ in range(random.choice([1, 40]) if mass is None else random.randint(1, 6)):
            noisy = mass if mass is None else mass * random.random()
            start = quarter[1] + (len(history) - 300) * HOUR  # 300 h of one quarter, then another
            history.append(Past(start, {"so2": noisy}, stopped))
    ledger = Ledger(("so2",), SHANGHAI)
    for i, hour in enumerate(history):
        booked = ledger.book(hour.start, hour.masses, stopped=hour.stopped)["so2"]
        if i % 7 == 0 or booked.substitute != 0.0:
            wanted = looked_back("so2", history[: i + 1], SHANGHAI)
            assert (booked.rate, booked.substitute) == wanted, i
        if i % 97 == 0:
            ledger = restored(Ledger(("so2",), SHANGHAI), ledger)
    assert least < booked.rate < {0.9: 1.0, 0.75: 0.9, 0.5: 0.75}[least]  # each class of the rule


def given(ledger: Ledger, start: int, hours: int) -> list[float | None]:
    lost = (ledger.book(start + i * HOUR, {"so2": None}, stopped=False) for i in range(hours))
    return [booked["so2"].substitute for booked in lost]


def test_a_gap_of_more_than_a_day_adds_up_to_its_hours_times_the_larger_maximum() -> None:
    start, _ = quarter_of(1_767_225_600 * SECOND, SHANGHAI)
    ledger = Ledger(("so2",), SHANGHAI)
    for i in range(200):  # 9 kg, then 5 kg for longer than 180 h
        ledger.book(start + i * HOUR, {"so2": 9.0 if i < 10 else 5.0}, stopped=False)
    found = given(ledger, start + 200 * HOUR, 30)
    assert found[:24] == [5.0] * 24
    assert found[24] == 9.0 + 24 * 4.0  # what the day before lacks
    assert found[25:] == [9.0] * 5
    assert sum(found) == 30 * 9.0


def test_below_three_quarters_nothing_is_substituted() -> None:
    start, end = quarter_of(1_767_225_600 * SECOND, SHANGHAI)
    ledger = Ledger(("so2",), SHANGHAI)
    ledger.book(start, {"so2": 5.0}, stopped=False)
    hours = (end - start) // HOUR
    found = given(ledger, start + HOUR, hours // 4 + 1)
    assert found[-1] is None
    assert set(found[:-1]) == {5.0}


def test_hours_without_any_row_are_invalid() -> None:
    start, end = quarter_of(1_767_225_600 * SECOND, SHANGHAI)
    ledger = Ledger(("so2",), SHANGHAI)
    ledger.book(start, {"so2": 5.0}, stopped=False)
    booked = ledger.book(start + 100 * HOUR, {"so2": None}, stopped=False)["so2"]
    whole = (end - start) // HOUR
    assert booked.rate == pytest.approx((whole - 100) / whole)
    after = ledger.book(end, {"so2": 4.0}, stopped=False)["so2"]
    assert after.rate == 1.0  # another quarter
