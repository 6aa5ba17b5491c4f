"""Enthalpies against the verification values of IAPWS R7-97(2012), tables 5, 15, 35 and 36."""

import numpy as np
import pytest

from edge_agent.metrics.steam import (
    enthalpy,
    saturation_temperature,
    steam_enthalpy,
    water_enthalpy,
)


def test_water_has_the_enthalpy_of_table_5() -> None:
    pressure, kelvin = np.array([3.0, 80.0, 3.0]), np.array([300.0, 300.0, 500.0])
    wanted = [115.331273, 184.142828, 975.542239]
    np.testing.assert_allclose(water_enthalpy(pressure, kelvin), wanted, rtol=1e-8)


def test_steam_has_the_enthalpy_of_table_15() -> None:
    pressure, kelvin = np.array([0.0035, 0.0035, 30.0]), np.array([300.0, 700.0, 700.0])
    wanted = [2549.91145, 3335.68375, 2631.49474]
    np.testing.assert_allclose(steam_enthalpy(pressure, kelvin), wanted, rtol=1e-8)


def test_water_boils_at_the_temperatures_of_table_36() -> None:
    wanted = [372.755919, 453.035632, 584.149488]
    np.testing.assert_allclose(
        saturation_temperature(np.array([0.1, 1.0, 10.0])), wanted, rtol=1e-8
    )
    # table 35, the other way round: the pressure at which water boils at 300, 500 and 600 K
    pressure = np.array([0.353658941e-2, 2.63889776, 12.3443146])
    np.testing.assert_allclose(saturation_temperature(pressure), [300.0, 500.0, 600.0], rtol=1e-8)


def test_steam_colder_than_saturation_is_taken_as_dry_saturated_steam() -> None:
    pressure, kelvin = np.array([1.0, 1.0]), np.array([440.0, 460.0])
    value, assumed = enthalpy(pressure, kelvin, "steam")
    saturated, _ = enthalpy(pressure, None, "steam")
    assert assumed.tolist() == [True, False]
    assert value[0] == saturated[0] == pytest.approx(2777.1, abs=0.1)
    assert value[1] == steam_enthalpy(pressure, kelvin)[1]


def test_water_hotter_than_saturation_is_taken_as_boiling() -> None:
    value, assumed = enthalpy(np.array([0.1, 0.1]), np.array([400.0, 350.0]), "water")
    assert assumed.tolist() == [True, False]
    assert value.tolist() == pytest.approx([417.4, 321.8], abs=0.2)


@pytest.mark.parametrize(
    ("phase", "pressure", "kelvin"),
    [
        ("steam", 1.0, 1100.0), ("steam", 101.0, 1000.0), ("steam", 30.0, 650.0),
        ("steam", -0.1, 450.0), ("steam", 18.0, 625.0), ("steam", 21.0, 600.0),
        ("water", 25.0, 640.0), ("water", 0.0, 300.0), ("water", 1.0, 270.0),
    ],
)  # fmt: skip
def test_a_state_outside_of_the_regions_has_no_enthalpy(
    phase: str, pressure: float, kelvin: float
) -> None:
    value, assumed = enthalpy(np.array([pressure]), np.array([kelvin]), phase)
    assert np.isnan(value).tolist() == [True]
    assert assumed.tolist() == [False]


def test_hot_steam_above_the_critical_pressure_has_one() -> None:
    value, _ = enthalpy(np.array([30.0]), np.array([700.0]), "steam")
    assert value[0] == pytest.approx(2631.49474, rel=1e-8)


@pytest.mark.parametrize(
    ("pressure", "kgoe"),
    [(10.0, 92), (5.0, 90), (3.5, 88), (2.5, 85), (1.5, 80), (1.0, 76), (0.7, 72), (0.3, 66)],
)
def test_heat_is_of_the_magnitude_of_the_flat_values_of_gb_30251(
    pressure: float, kgoe: int
) -> None:
    """GB 30251-2024 Table A.1, kgoe per t of steam (1 kgoe = 1.4286 kgce).

    The table counts what the steam takes to make, more with the pressure; the heat that is in dry
    saturated steam is 70 to 100 % of that, and far from the flat 128.6 kgce/t of 2008.
    """
    value, _ = enthalpy(np.array([pressure]), None, "steam")
    kgce = float(value[0]) * 0.03412  # kJ/kg is MJ/t
    assert 0.7 < kgce / (kgoe * 1.4286) < 1.0
    assert 92.0 < kgce < 96.0
