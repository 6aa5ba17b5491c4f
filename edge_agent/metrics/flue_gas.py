"""Flue gas, formula by formula: HJ 212-2017, appendix D.2 (HJ 75-2017, appendix C, has the same).

Pure functions of arrays. Numbers 18 to 33 are those of HJ 212. The constants are as the standard
prints them: 273 K (not 273.15), 22.4 L/mol, 21 % oxygen in air. Nothing is guarded here: a divisor
that is 0 is the caller's case (``burning``, ``dryable``), and NumPy's warning if it forgets it.
"""

from edge_agent.model import F64

KELVIN = 273.0  # 0 °C, as formula 18 prints it
PASCAL = 101325.0
MOLAR_VOLUME = 22.4  # L/mol at standard state
AMBIENT = 21.0  # % O2 of air

# g/mol. SO2, NO, NO2 and CO stand in the standard; the others are sums of atomic masses.
MOLAR_MASS = {
    "so2": 64.0,
    "no": 30.0,
    "no2": 46.0,
    "nox": 46.0,  # always expressed as NO2
    "co": 28.0,
    "nh3": 17.0,
    "hcl": 36.5,
    "hf": 20.0,
}


def at_standard_state(actual: F64, celsius: F64, static: F64, atmosphere: F64) -> F64:
    """Return concentrations at 273 K and 101.325 kPa; wet stays wet, dry stays dry.

    static      gauge pressure of the duct, Pa, mostly negative; atmosphere Pa
    source      formula 18
    """
    pressure = PASCAL / (atmosphere + static)
    result: F64 = actual * pressure * (KELVIN + celsius) / KELVIN
    return result


def dry(wet: F64, humidity: F64) -> F64:
    """Return what is measured in wet gas (a concentration, or oxygen) in dry gas.

    humidity  volume of water in the gas, fraction below 1
    source    formula 19
    """
    result: F64 = wet / (1.0 - humidity)
    return result


def ppm_factor(gas: str) -> float:
    """Return mg/m3 at standard state of 1 ppm (µmol/mol) of a gas of ``MOLAR_MASS``.

    source  formula 20; for ``nox`` formula 22
    """
    return MOLAR_MASS[gas] / MOLAR_VOLUME


NO_AS_NO2 = MOLAR_MASS["no2"] / MOLAR_MASS["no"]  # formula 21


def nox(no: F64, no2: F64) -> F64:
    """Return nitrogen oxides as NO2 from NO and NO2, all in mg/m3.

    source  formula 21
    """
    result: F64 = no * NO_AS_NO2 + no2
    return result


def excess_air(o2: F64) -> F64:
    """Return the excess-air coefficient of dry oxygen contents below 21 %.

    source  formula 27
    """
    result: F64 = AMBIENT / (AMBIENT - o2)
    return result


def corrected_by_excess_air(concentration: F64, o2: F64, reference: float) -> F64:
    """Return dry concentrations at the excess-air coefficient of the emission standard.

    source  formula 26
    """
    result: F64 = concentration * excess_air(o2) / reference
    return result


def corrected(concentration: F64, o2: F64, reference: float) -> F64:
    """Return dry concentrations at the reference oxygen content (%), for O2 below 21 %.

    source  formula 28
    """
    result: F64 = concentration * (AMBIENT - reference) / (AMBIENT - o2)
    return result


def actual_flow(velocity: F64, field_factor: float, area: float) -> F64:
    """Return the wet flow at the duct's own state, m3/h.

    velocity      m/s at the measuring point
    field_factor  mean velocity of the section over that at the point (Kv)
    area          of the section, m2
    source        formulas 29 and 30
    """
    result: F64 = 3600.0 * area * (field_factor * velocity)
    return result


def standard_dry_flow(
    actual: F64, celsius: F64, static: F64, atmosphere: F64, humidity: F64
) -> F64:
    """Return the dry flow at standard state, m3/h.

    source  formula 31
    """
    state = KELVIN / (KELVIN + celsius) * (atmosphere + static) / PASCAL
    result: F64 = actual * state * (1.0 - humidity)
    return result


def mass_rate(concentration: F64, flow: F64) -> F64:
    """Return kg/h of a dry, NOT corrected concentration (mg/m3) in a dry standard flow (m3/h).

    source  formula 33
    """
    result: F64 = concentration * flow * 1e-6
    return result
