"""Enthalpy of water and steam by pressure and temperature (IAPWS-IF97, regions 1, 2 and 4).

Steam is counted as energy by its heat: mass times enthalpy, less that of the feed water. Near
saturation a thermometer cannot tell dry steam from water, so what is measured below the saturation
temperature is taken as dry saturated steam, and marked. The wetness is not measured by anybody.

Source: IAPWS R7-97(2012), Revised Release on the Industrial Formulation 1997: equations 7 (region
1), 15-17 (region 2), 31 (region 4), 5 (border to region 3, which is not covered); coefficients of
tables 1, 2, 10, 11 and 34.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.model import F64

Mask = NDArray[np.bool_]
Phase = Literal["steam", "water"]

R = 0.461526  # kJ/(kg K)
ZERO = 273.15  # K at 0 °C
CRITICAL = 22.064  # MPa
_TRIPLE = 611.213e-6  # MPa, saturation at 0 °C
_HOTTEST = {"steam": 1073.15, "water": 623.15}  # K, upper ends of regions 2 and 1
_HIGHEST = 100.0  # MPa

# exponents of pressure and of temperature, coefficients
_ONE = np.array([
    (0, -2, 0.14632971213167), (0, -1, -0.84548187169114), (0, 0, -0.37563603672040e1),
    (0, 1, 0.33855169168385e1), (0, 2, -0.95791963387872), (0, 3, 0.15772038513228),
    (0, 4, -0.16616417199501e-1), (0, 5, 0.81214629983568e-3), (1, -9, 0.28319080123804e-3),
    (1, -7, -0.60706301565874e-3), (1, -1, -0.18990068218419e-1), (1, 0, -0.32529748770505e-1),
    (1, 1, -0.21841717175414e-1), (1, 3, -0.52838357969930e-4), (2, -3, -0.47184321073267e-3),
    (2, 0, -0.30001780793026e-3), (2, 1, 0.47661393906987e-4), (2, 3, -0.44141845330846e-5),
    (2, 17, -0.72694996297594e-15), (3, -4, -0.31679644845054e-4), (3, 0, -0.28270797985312e-5),
    (3, 6, -0.85205128120103e-9), (4, -5, -0.22425281908000e-5), (4, -2, -0.65171222895601e-6),
    (4, 10, -0.14341729937924e-12), (5, -8, -0.40516996860117e-6), (8, -11, -0.12734301741641e-8),
    (8, -6, -0.17424871230634e-9), (21, -29, -0.68762131295531e-18),
    (23, -31, 0.14478307828521e-19), (29, -38, 0.26335781662795e-22),
    (30, -39, -0.11947622640071e-22), (31, -40, 0.18228094581404e-23),
    (32, -41, -0.93537087292458e-25),
])  # fmt: skip
_IDEAL = np.array([
    (0, -0.96927686500217e1), (1, 0.10086655968018e2), (-5, -0.56087911283020e-2),
    (-4, 0.71452738081455e-1), (-3, -0.40710498223928), (-2, 0.14240819171444e1),
    (-1, -0.43839511319450e1), (2, -0.28408632460772), (3, 0.21268463753307e-1),
])  # fmt: skip
_TWO = np.array([
    (1, 0, -0.17731742473213e-2), (1, 1, -0.17834862292358e-1), (1, 2, -0.45996013696365e-1),
    (1, 3, -0.57581259083432e-1), (1, 6, -0.50325278727930e-1), (2, 1, -0.33032641670203e-4),
    (2, 2, -0.18948987516315e-3), (2, 4, -0.39392777243355e-2), (2, 7, -0.43797295650573e-1),
    (2, 36, -0.26674547914087e-4), (3, 0, 0.20481737692309e-7), (3, 1, 0.43870667284435e-6),
    (3, 3, -0.32277677238570e-4), (3, 6, -0.15033924542148e-2), (3, 35, -0.40668253562649e-1),
    (4, 1, -0.78847309559367e-9), (4, 2, 0.12790717852285e-7), (4, 3, 0.48225372718507e-6),
    (5, 7, 0.22922076337661e-5), (6, 3, -0.16714766451061e-10), (6, 16, -0.21171472321355e-2),
    (6, 35, -0.23895741934104e2), (7, 0, -0.59059564324270e-17), (7, 11, -0.12621808899101e-5),
    (7, 25, -0.38946842435739e-1), (8, 8, 0.11256211360459e-10), (8, 36, -0.82311340897998e1),
    (9, 13, 0.19809712802088e-7), (10, 4, 0.10406965210174e-18), (10, 10, -0.10234747095929e-12),
    (10, 14, -0.10018179379511e-8), (16, 29, -0.80882908646985e-10), (16, 50, 0.10693031879409),
    (18, 57, -0.33662250574171), (20, 20, 0.89185845355421e-24), (20, 35, 0.30629316876232e-12),
    (20, 48, -0.42002467698208e-5), (21, 21, -0.59056029685639e-25), (22, 53, 0.37826947613457e-5),
    (23, 39, -0.12768608934681e-14), (24, 26, 0.73087610595061e-28), (24, 40, 0.55414715350778e-16),
    (24, 58, -0.94369707241210e-6),
])  # fmt: skip
_SATURATION = (
    0.11670521452767e4, -0.72421316703206e6, -0.17073846940092e2, 0.12020824702470e5,
    -0.32325550322333e7, 0.14915108613530e2, -0.48232657361591e4, 0.40511340542057e6,
    -0.23855557567849, 0.65017534844798e3,
)  # fmt: skip
_BORDER = (0.34805185628969e3, -0.11671859879975e1, 0.10192970039326e-2)


def water_enthalpy(pressure: F64, temperature: F64) -> F64:
    """Return the enthalpy of liquid water, region 1.

    pressure, temperature  float64 (n,), MPa absolute and K; not checked
    returns                kJ/kg
    """
    i, j, n = _ONE.T[:, :, None]
    pi, tau = 7.1 - pressure / 16.53, 1386.0 / temperature - 1.222
    slope = (n * pi**i * j * tau ** (j - 1)).sum(axis=0)
    return np.asarray(R * 1386.0 * slope, np.float64)


def steam_enthalpy(pressure: F64, temperature: F64) -> F64:
    """Return the enthalpy of steam, region 2.

    pressure, temperature  float64 (n,), MPa absolute and K; not checked
    returns                kJ/kg
    """
    tau = 540.0 / temperature
    j, n = _IDEAL.T[:, :, None]
    slope = (n * j * tau ** (j - 1)).sum(axis=0)
    i, j, n = _TWO.T[:, :, None]
    slope = slope + (n * pressure**i * j * (tau - 0.5) ** (j - 1)).sum(axis=0)
    return np.asarray(R * 540.0 * slope, np.float64)


def saturation_temperature(pressure: F64) -> F64:
    """Return the temperature at which water boils, region 4: K for MPa; NaN outside of it."""
    n = (0.0, *_SATURATION)  # numbered from 1 as in the source
    inside = (pressure >= _TRIPLE) & (pressure <= CRITICAL)
    beta = np.where(inside, pressure, 0.1) ** 0.25
    e = beta**2 + n[3] * beta + n[6]
    f = n[1] * beta**2 + n[4] * beta + n[7]
    g = n[2] * beta**2 + n[5] * beta + n[8]
    d = 2.0 * g / (-f - np.sqrt(f**2 - 4.0 * e * g))
    found = (n[10] + d - np.sqrt((n[10] + d) ** 2 - 4.0 * (n[9] + n[10] * d))) / 2.0
    return np.where(inside, found, np.nan)


def enthalpy(pressure: F64, temperature: F64 | None, phase: Phase) -> tuple[F64, Mask]:
    """Return the enthalpy of steam or water as it is measured, and where it had to be assumed.

    pressure     float64 (n,), MPa absolute
    temperature  float64 (n,), K; None: saturated
    returns      kJ/kg, NaN outside of regions 1 and 2; true where the temperature is on the wrong
                 side of saturation, so that saturated steam, or boiling water, is assumed
    """
    boiling = saturation_temperature(pressure)
    given = boiling if temperature is None else temperature
    wrong = given < boiling if phase == "steam" else given > boiling
    kelvin = np.where(wrong, boiling, given)
    inside = (pressure > 0) & (pressure <= _HIGHEST)
    inside &= (kelvin >= ZERO) & (kelvin <= _HOTTEST[phase])
    if phase == "steam":
        below_border = pressure <= _BORDER[0] + _BORDER[1] * kelvin + _BORDER[2] * kelvin**2
        inside &= below_border | (kelvin <= _HOTTEST["water"])
        inside &= (kelvin > _HOTTEST["water"]) | (kelvin >= boiling) | (pressure < _TRIPLE)
    p, t = np.where(inside, pressure, 0.1), np.where(inside, kelvin, 400.0)
    found = steam_enthalpy(p, t) if phase == "steam" else water_enthalpy(p, t)
    return np.where(inside, found, np.nan), np.asarray(wrong & inside, bool)
