"""How well a register map fits what a device said: mains values, and laws between them; pure.

A wrong map, or a wrong byte order, gives numbers too; but hardly ever 50.02 Hz, three equal phase
voltages and an apparent power whose square is the sum of the squares of the other two. Each such
finding counts for a map, each impossible number counts twice against it. Ratios of transformers
are not known yet, so voltages are looked for at the primary as well as behind a transformer.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from edge_agent.units import Unit

AGAINST = 2.0  # an impossible number counts so much more than a plausible one
LIKELY, CERTAIN = 4.0, 9.0  # points from which a map is possible, and very likely

# phase voltages and voltages between phases that there are, V: behind transformers of 100 V, at
# 220/380, 230/400 and 400/690 V, and of 6, 10, 20 and 35 kV, with some tolerance
# source: GB/T 156-2017 (nominal voltages)
VOLTAGES = (
    (52, 66), (90, 116), (195, 265), (340, 460), (600, 760),
    (3100, 3900), (5400, 6800), (9000, 11500), (19000, 23500), (32000, 39500),
)  # fmt: skip
SQRT3 = math.sqrt(3.0)
TINY = 1e-6  # what is smaller and not 0 is a float of a wrong order


@dataclass(frozen=True)
class Reading:
    """One tag's value in its unit; NaN where the device said that it has none."""

    name: str
    unit: str
    kind: str
    value: float


@dataclass
class Evidence:
    """Points for and against a map, and what a person should hear of them."""

    plus: float = 0.0
    minus: float = 0.0
    said: list[str] = field(default_factory=list)

    def add(self, points: float, said: str = "") -> None:
        if points >= 0:
            self.plus += points
        else:
            self.minus -= AGAINST * points
        if said:
            self.said.append(said)

    @property
    def points(self) -> float:
        """What speaks for it after what speaks against it."""
        return self.plus - self.minus

    @property
    def sound(self) -> bool:
        """Whether hardly anything speaks against it."""
        return self.points >= LIKELY and self.minus <= 0.2 * self.plus


def is_mains(volts: float) -> bool:
    """Return whether it is a voltage that networks or voltage transformers have."""
    return any(low <= volts <= high for low, high in VOLTAGES)


def is_mains_frequency(hertz: float) -> bool:
    """Return whether it is the frequency of a network; 50 Hz and 60 Hz."""
    return 49.5 <= hertz <= 50.5 or 59.5 <= hertz <= 60.5


def weigh(readings: Iterable[Reading]) -> Evidence:
    """Return what the values of one map say for and against it."""
    found = Evidence()
    held = [r for r in readings if not math.isnan(r.value)]
    for reading in held:
        _one(reading, found)
    values = {r.name: r.value * _factor(r.unit) for r in held}
    for law in (_phases, _star_and_delta, _triangle, _factor_of_power, _sum_of_phases):
        law(values, found)
    return found


def _factor(unit: str) -> float:
    try:
        return Unit.parse(unit).factor
    except ValueError:
        return 1.0


# ---- one value -------------------------------------------------------------------------------


def _one(reading: Reading, found: Evidence) -> None:
    value = reading.value
    if not math.isfinite(value) or (value != 0 and abs(value) < TINY) or abs(value) > 1e15:
        found.add(-1.0)
        return
    dimension = _dimension(reading.unit)
    for wanted, judge in _JUDGES.items():
        if dimension == _dimension(wanted):
            judge(reading, value * _factor(reading.unit), found)
            return
    if reading.kind == "counter":
        _energy(reading, value, found)
    else:
        _number(reading, value, found)


def _dimension(unit: str) -> object:
    try:
        return Unit.parse(unit).dimension
    except ValueError:
        return unit


def _frequency(reading: Reading, hertz: float, found: Evidence) -> None:
    if not reading.name.removeprefix("grid_").startswith("frequency") or "set" in reading.name:
        found.add(0.1 if 0.0 <= hertz <= 1000.0 else -1.0)  # of a drive
    elif is_mains_frequency(hertz):
        found.add(4.0, f"{hertz:.2f} Hz")
    elif hertz != 0:
        found.add(-3.0)


def _voltage(reading: Reading, volts: float, found: Evidence) -> None:
    if not reading.name.removeprefix("grid_").startswith("voltage"):
        found.add(0.1 if -10.0 <= volts <= 2000.0 else -1.0)  # of a drive, of a battery
    elif is_mains(volts):
        found.add(1.0)
    elif volts != 0:
        found.add(-0.7)


def _current(_: Reading, ampere: float, found: Evidence) -> None:
    if ampere != 0:
        found.add(0.2 if -20.0 <= ampere <= 6500.0 else -1.0)


def _power(_: Reading, watt: float, found: Evidence) -> None:
    if watt != 0:
        found.add(0.1 if abs(watt) <= 5e7 else -1.0)


def _energy(_: Reading, amount: float, found: Evidence) -> None:
    if amount != 0:
        found.add(0.2 if amount > 0 else -1.0)


def _number(reading: Reading, value: float, found: Evidence) -> None:
    if "power_factor" in reading.name:
        if value != 0:
            found.add(0.5 if abs(value) <= 1.0005 else -2.0)
    elif reading.unit == "%":
        found.add(0.1 if -1.0 <= value <= 110.0 else -0.5)
    elif reading.kind == "state":
        found.add(0.1 if value <= 1000.0 else -0.2)


def _celsius(_: Reading, value: float, found: Evidence) -> None:
    if value != 0:
        found.add(0.3 if -60.0 <= value <= 1800.0 else -1.0)


_JUDGES: Mapping[str, Callable[[Reading, float, Evidence], None]] = {
    "Hz": _frequency, "V": _voltage, "A": _current, "Cel": _celsius,
    "W": _power, "var": _power, "VA": _power, "W.h": _energy, "k[var].h": _energy,
}  # fmt: skip


# ---- laws between values ---------------------------------------------------------------------


def _near(one: float, other: float, share: float) -> bool:
    return abs(one - other) <= share * max(abs(one), abs(other))


def _phases(values: Mapping[str, float], found: Evidence) -> None:
    """Judge whether three phase voltages are nearly equal."""
    for names, what in ((("l1", "l2", "l3"), "phases"), (("l12", "l23", "l31"), "between phases")):
        volts = [values[f"voltage_{n}"] for n in names if f"voltage_{n}" in values]
        if len(volts) < 3 or min(volts) <= 0:
            continue
        mean = sum(volts) / 3
        if max(volts) - min(volts) <= 0.1 * mean and is_mains(mean):
            found.add(2.0, f"3 {what} of {mean:.4g} V")
        else:
            found.add(-0.5)


def _star_and_delta(values: Mapping[str, float], found: Evidence) -> None:
    """Judge whether the voltage between two phases is sqrt(3) times that of one."""
    if min(star := values.get("voltage_l1", 0.0), delta := values.get("voltage_l12", 0.0)) > 1.0:
        if _near(delta, SQRT3 * star, 0.05):
            found.add(2.0)
        elif not _near(delta, star, 0.05):
            found.add(-1.0)


def _triangle(values: Mapping[str, float], found: Evidence) -> None:
    """Judge whether apparent power is the hypotenuse of active and reactive power."""
    p, q, s = (values.get(f"{n}_power", math.nan) for n in ("active", "reactive", "apparent"))
    if math.isnan(p + q + s) or s == 0:
        return
    if _near(abs(s), math.hypot(p, q), 0.03):
        found.add(4.0, "P² + Q² = S²")
    else:
        found.add(-1.0)


def _factor_of_power(values: Mapping[str, float], found: Evidence) -> None:
    """Judge whether the power factor is active over apparent power."""
    names = ("active_power", "apparent_power", "power_factor")
    p, s, factor = (values.get(n, math.nan) for n in names)
    if math.isnan(p + s + factor) or s == 0:
        return
    if _near(abs(p / s), abs(factor), 0.03):
        found.add(3.0, f"P/S = power factor {abs(factor):.2f}")
    else:
        found.add(-1.0)


def _sum_of_phases(values: Mapping[str, float], found: Evidence) -> None:
    """Judge whether a power is the sum of those of the phases."""
    for name, letter in (("active_power", "P"), ("reactive_power", "Q"), ("apparent_power", "S")):
        parts = [values.get(f"{name}_l{i}", math.nan) for i in (1, 2, 3)]
        whole = values.get(name, math.nan)
        if math.isnan(sum(parts) + whole) or whole == 0:
            continue
        if _near(whole, sum(parts), 0.03):
            found.add(2.0, f"{letter} = {letter}1 + {letter}2 + {letter}3")
        else:
            found.add(-0.5)


def told(evidence: Evidence) -> Iterator[str]:
    """Yield what a person should hear, the strongest first, each once."""
    yield from dict.fromkeys(evidence.said)
