"""What a simulated device shows: the value of each of its tags at an instant.

A source answers in a unit of its own; the servers convert to the unit that the tag table writes.
Names are those of the tag tables (``active_power``, ``mass``); an unknown one is a ``KeyError``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simulators.plausible import reading
from simulators.signals import Reading, Signal, Wave

Changes = Callable[[int, int], list[tuple[int, float]]]


class Source:
    """The readings of one device by tag name.

    readings  name -> (unit, value at an instant in ns)
    changes   name -> the changes in ``(after, until]`` as (ns, new value), where known exactly
    """

    def __init__(
        self,
        readings: Mapping[str, tuple[str, Reading]],
        changes: Mapping[str, Changes] | None = None,
    ) -> None:
        self._readings = readings
        self._changes = changes or {}

    def knows(self, tag: str) -> bool:
        """Return whether the device has such a signal."""
        return tag in self._readings

    def unit(self, tag: str) -> str:
        """Return the unit in which ``value`` answers."""
        return self._readings[tag][0]

    def value(self, tag: str, t: int) -> float:
        """Return the value at an instant."""
        return self._readings[tag][1](t)

    def changes(self, tag: str, after: int, until: int) -> list[tuple[int, float]]:
        """Return when the value changed in ``(after, until]``; of a gauge only what it is now."""
        if tag in self._changes:
            return self._changes[tag](after, until)
        now = self.value(tag, until)
        return [(until, now)] if now != self.value(tag, after) else []


@dataclass(frozen=True)
class Feeder:
    """A three-phase feeder with a meter.

    load     kW; of a generator what it delivers
    voltage  V, line to line
    imported, exported  readings at ``start``, kWh
    """

    load: Signal
    voltage: float
    power_factor: float
    start: int
    imported: float = 0.0
    exported: float = 0.0
    generator: bool = False

    def power(self, t: int) -> float:
        """Return the active power in kW; from the grid is positive."""
        return -self.load.at(t) if self.generator else self.load.at(t)

    def energy(self, t: int) -> float:
        """Return the energy since the start, kWh."""
        return self.load.integral(self.start, t)

    def import_reading(self, t: int) -> float:
        """Return the import register, kWh."""
        return self.imported + (0.0 if self.generator else self.energy(t))

    def export_reading(self, t: int) -> float:
        """Return the export register, kWh."""
        return self.exported + (self.energy(t) if self.generator else 0.0)

    def line_voltage(self, t: int) -> float:
        """Return the line-to-line voltage, V."""
        return self.voltage * (1.0 + 0.006 * math.sin(_SAG.angle(t)))

    def current(self, t: int) -> float:
        """Return the mean phase current, A."""
        apparent = abs(self.power(t)) / self.power_factor
        return apparent * 1000.0 / (math.sqrt(3.0) * self.line_voltage(t))


_SAG = Wave(1.0, 937)
_FREQUENCY = Wave(1.0, 113)
_POWERS = ("active_power", "reactive_power", "apparent_power")
_PHASES = (1.01, 0.995, 0.995)  # what the phases carry of a third; adds up to 3
_TARIFFS = {"sharp": 0.1, "peak": 0.3, "flat": 0.35, "valley": 0.25}  # fixed shares, for display


def meter(feeder: Feeder) -> Source:
    """Return everything that an electricity meter on a feeder can show."""
    f = feeder
    tangent = math.tan(math.acos(f.power_factor))

    def sign(t: int) -> float:
        return math.copysign(1.0, f.power(t))

    readings: dict[str, tuple[str, Reading]] = {
        "active_power": ("kW", f.power),
        "reactive_power": ("kvar", lambda t: abs(f.power(t)) * tangent),
        "apparent_power": ("kVA", lambda t: abs(f.power(t)) / f.power_factor),
        "power_factor": ("1", lambda t: sign(t) * f.power_factor),
        "frequency": ("Hz", lambda t: 50.0 + 0.02 * math.sin(_FREQUENCY.angle(t))),
        "active_energy_import": ("kWh", f.import_reading),
        "active_energy_export": ("kWh", f.export_reading),
        "active_energy_total": ("kWh", lambda t: f.import_reading(t) + f.export_reading(t)),
        "reactive_energy_import": ("kvarh", lambda t: f.import_reading(t) * tangent),
        "reactive_energy_export": ("kvarh", lambda t: f.export_reading(t) * tangent),
        "reactive_energy_total": (
            "kvarh",
            lambda t: (f.import_reading(t) + f.export_reading(t)) * tangent,
        ),
        "apparent_energy": (
            "kVAh",
            lambda t: (f.import_reading(t) + f.export_reading(t)) / f.power_factor,
        ),
    }
    for phase, share in enumerate(_PHASES, 1):
        readings |= _phase_readings(f, phase, share, tangent)
    for tariff, share in _TARIFFS.items():
        readings[f"active_energy_import_{tariff}"] = ("kWh", _scaled(f.import_reading, share))
        readings[f"active_energy_total_{tariff}"] = ("kWh", _scaled(f.import_reading, share))
    return Source(readings)


def _phase_readings(
    f: Feeder, phase: int, share: float, tangent: float
) -> dict[str, tuple[str, Reading]]:
    third = share / 3.0
    other = phase % 3 + 1
    return {
        f"active_power_l{phase}": ("kW", _scaled(f.power, third)),
        f"reactive_power_l{phase}": ("kvar", lambda t: abs(f.power(t)) * tangent * third),
        f"apparent_power_l{phase}": ("kVA", lambda t: abs(f.power(t)) / f.power_factor * third),
        f"power_factor_l{phase}": ("1", lambda t: math.copysign(f.power_factor, f.power(t))),
        f"voltage_l{phase}": ("V", _scaled(f.line_voltage, 1.0 / math.sqrt(3.0))),
        f"voltage_l{phase}{other}": ("V", f.line_voltage),
        f"current_l{phase}": ("A", _scaled(f.current, share)),
        f"active_energy_import_l{phase}": ("kWh", _scaled(f.import_reading, third)),
        f"active_energy_export_l{phase}": ("kWh", _scaled(f.export_reading, third)),
    }


def _scaled(reading: Reading, factor: float) -> Reading:
    return lambda t: reading(t) * factor


def anything(
    key: str,
    start: int,
    tags: Mapping[str, tuple[str, str]],
    times: Mapping[str, float] | None = None,
) -> Source:
    """Return plausible readings for a device that the plant does not know.

    tags   name -> (kind, unit)
    times  what a tag's reading is multiplied with, if not 1: transformer ratios, or -1
    """
    readings = {}
    one_phase = "voltage_l1" in tags and "voltage_l2" not in tags
    for name, (kind, unit) in tags.items():
        like = f"{name}_l1" if one_phase and name in _POWERS else name
        in_unit, shown = reading(key, like, kind, unit, start)
        readings[name] = in_unit, _scaled(shown, (times or {}).get(name, 1.0))
    return Source(readings)
