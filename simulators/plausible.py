"""Numbers that a person would believe, for devices that the plant does not know.

Mains voltages, 50 Hz, power factors below 1: whoever guesses a meter's map or byte order from what
it shows has something to go by. The first line that fits a tag's name and dimension is taken.
"""

import math
import re
from collections.abc import Iterable, Iterator
from random import Random

from edge_agent.units import Unit
from simulators.signals import SECOND, Reading, Wave

# name, unit, mean, swing as a share of the mean
_GAUGES: tuple[tuple[str, str, float, float], ...] = (
    (r"voltage_l\d\d", "V", 400.0, 0.01),
    (r"(output|motor)_voltage", "V", 380.0, 0.05),
    (r"(dc|bus|pv)\w*voltage\w*", "V", 560.0, 0.03),
    (r"\w*voltage\w*", "V", 230.0, 0.01),
    (r"current_n", "A", 0.6, 0.3),
    (r"\w*current\w*", "A", 12.0, 0.2),
    (r"active_power_l\d", "kW", 2.622, 0.2),
    (r"\w*power", "kW", 7.866, 0.2),
    (r"reactive_power_l\d", "kvar", 0.862, 0.2),
    (r"reactive_power", "kvar", 2.586, 0.2),
    (r"apparent_power_l\d", "kVA", 2.76, 0.2),
    (r"apparent_power", "kVA", 8.28, 0.2),
    (r"power_factor\w*", "1", 0.95, 0.0),
    (r"frequency", "Hz", 50.0, 0.0004),
    (r"\w*frequency\w*", "Hz", 42.0, 0.05),
    (r"speed", "1/min", 1450.0, 0.02),
    (r"\w*velocity\w*", "m/s", 1.8, 0.1),
    (r"torque", "N.m", 48.0, 0.1),
    (r"dew_point", "Cel", 3.0, 0.3),
    (r"\w*temperature\w*", "Cel", 42.0, 0.1),
    (r"humidity", "%", 55.0, 0.1),
    (r"\w*pressure\w*", "kPa", 620.0, 0.02),
    (r"water_flow", "L/h", 240.0, 0.1),
    (r"\w*flow\w*", "m3/h", 120.0, 0.1),
    (r"\w*flow\w*", "Nm3/h", 900.0, 0.1),
    (r"\w*flow\w*", "t/h", 12.0, 0.1),
    (r"o2", "%", 7.5, 0.1),
    (r"(so2|nox?|no2|dust|co)", "mg/m3", 28.0, 0.3),
    (r"(so2|nox?|no2|h2s|o3|co)", "[ppm]", 12.0, 0.3),
    (r"(gross|net)_weight", "kg", 1240.0, 0.2),
)
_LOAD = re.compile(r"(active|reactive|apparent)_power(_l\d)?|current(_l\d)?")  # swing together
_ANY = (50.0, 0.2)  # mean, swing of a gauge that no line fits

# name, unit, reading at the start, increase an hour
_COUNTERS: tuple[tuple[str, str, float, float], ...] = (
    (r"\w*energy\w*", "kWh", 12345.0, 7.866),
    (r"\w*energy\w*", "kvarh", 4056.0, 2.586),
    (r"\w*energy\w*", "kVAh", 12994.0, 8.28),
    (r"\w*energy\w*", "GJ", 812.0, 1.4),
    (r"\w*hours\w*", "h", 5021.0, 1.0),
)
_COUNT = (4321.0, 3600.0)
_EXPONENTS = {"frequency": -2, "current": -2, "voltage": -1, "power": 0, "energy": 0}
_WELL = ("fault", "alarm", "warning", "error")


def reading(key: str, name: str, kind: str, unit: str, start: int) -> tuple[str, Reading]:
    """Return the unit and the reading of one tag.

    key   what the period of its swing is drawn from; currents and powers of a device swing
          together, so that P² + Q² = S² and P = S times the power factor
    kind  gauge, counter or state; a state is 1, or 0 where its name says that something is wrong
    """
    if name.endswith("exponent"):
        of = name.removesuffix("_exponent").rpartition("_")[2]
        number = float(_EXPONENTS.get(of, -1))
        return unit, lambda _t: number
    if kind == "state":
        number = 0.0 if name.startswith(_WELL) else 1.0
        return unit, lambda _t: number
    if kind == "counter":
        in_unit, (base, rate) = _fitting(_COUNTERS, name, unit, _COUNT)
        return in_unit, lambda t: base + rate * ((t - start) / SECOND) / 3600.0
    in_unit, (mean, swing) = _fitting(_GAUGES, name, unit, _ANY)
    drawn = f"{key}/load" if _LOAD.fullmatch(name) else f"{key}/{name}"
    wave = Wave(mean * swing, Random(drawn).randrange(60, 600))
    return in_unit, lambda t: mean + wave.share * math.sin(wave.angle(t))


def _fitting(
    lines: Iterable[tuple[str, str, float, float]],
    name: str,
    unit: str,
    otherwise: tuple[float, float],
) -> tuple[str, tuple[float, float]]:
    return next(_matches(lines, name, unit), (unit, otherwise))


def _matches(
    lines: Iterable[tuple[str, str, float, float]], name: str, unit: str
) -> Iterator[tuple[str, tuple[float, float]]]:
    dimension = Unit.parse(unit).dimension
    for pattern, in_unit, *numbers in lines:
        if re.fullmatch(pattern, name) and Unit.parse(in_unit).dimension == dimension:
            yield in_unit, (numbers[0], numbers[1])
