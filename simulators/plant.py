"""The simulated cement plant: what is true, whatever the agent makes of it.

A clinker line of 5000 t/d with its drives, waste-heat recovery, scales, stack analyser, kiln
control and a packing machine. Everything is a formula of plant time and a seed: asking twice, late
or never changes nothing. Rates depend on the seed and the instant only; counters begin at the
plant's start with a seeded reading. The truth (``energy_kwh``, ``mass_t``, ``state_seconds`` …)
uses nothing of the agent's metrics.

Source of the magnitudes: GB 16780-2021, cement clinker (100-117 kgce/t, 48-61 kWh/t).
"""

from random import Random
from typing import ClassVar

from edge_agent.clock import Clock, PlantClock
from simulators.packer import PRODUCING, Packer
from simulators.signals import HOUR, MINUTE, SECOND, Reading, Signal, Total, lively
from simulators.sources import Feeder, Source, meter

DAY = 24 * HOUR
CALIBRATION = (20 * HOUR, 20 * HOUR + 10 * MINUTE)  # of each day, UTC: 04:00 to 04:10 in Shandong
NORMAL_FLAG, CALIBRATION_FLAG = 0, 3
ZERO_GAS = {"so2": 0.0, "nox": 0.0, "pm": 0.0, "o2": 20.9}  # what the analyser shows meanwhile

_LOADS = {  # meter -> kW, swing, step of a minute
    "em-kiln": (2600.0, 0.06, 0.05),
    "em-raw-mill": (5200.0, 0.05, 0.05),
    "em-coal-mill": (1150.0, 0.08, 0.08),
    "em-cooler": (2500.0, 0.06, 0.06),
    "em-whr": (7500.0, 0.08, 0.03),
}
_FLOWS = {  # scale -> t/h, swing, step of a minute
    "scale-coal": (27.1, 0.02, 0.015),
    "scale-clinker": (208.3, 0.03, 0.02),
    "scale-water": (62.0, 0.10, 0.10),
}
_GAS = {  # stack -> unit, mean, swing, step
    "so2": ("mg/m3", 18.0, 0.25, 0.20),
    "nox": ("mg/m3", 72.0, 0.12, 0.10),
    "pm": ("mg/m3", 3.4, 0.20, 0.20),
    "o2": ("%", 9.4, 0.04, 0.04),
    "temperature": ("Cel", 104.0, 0.03, 0.01),
    "humidity": ("%", 7.5, 0.10, 0.05),
    "pressure": ("Pa", 190.0, 0.20, 0.10),
    "flow": ("Nm3/h", 520_000.0, 0.04, 0.03),
}
_KILN = {
    "speed": ("1/min", 3.9, 0.02, 0.01),
    "burning_zone_temperature": ("Cel", 1430.0, 0.012, 0.006),
    "feed": ("t/h", 345.0, 0.03, 0.02),
}
_REST = (6800.0, 0.07, 0.05)  # cement mills and everything that has no meter of its own, kW
_PACKING_KW = (120.0, 330.0)  # fans and conveyors; what producing adds


class _PackerLoad:
    """The packing plant's power: a base, and more while the machine produces."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def at(self, t: int, /) -> float:
        return _PACKING_KW[0] + _PACKING_KW[1] * (self._packer.state(t) == PRODUCING)

    def integral(self, start: int, stop: int, /) -> float:
        made = self._packer.produced_ns(stop) - self._packer.produced_ns(start)
        return (_PACKING_KW[0] * (stop - start) + _PACKING_KW[1] * made) / HOUR


class CementPlant:
    """A seeded plant and its truth. Times are ns since the epoch, UTC; spans are ``[t0, t1)``."""

    METERS: ClassVar[tuple[str, ...]] = (*_LOADS, "em-packing", "em-grid")
    SCALES: ClassVar[tuple[str, ...]] = tuple(_FLOWS)
    GASES: ClassVar[tuple[str, ...]] = tuple(_GAS)

    def __init__(self, seed: int, clock: Clock) -> None:
        self.seed = seed
        self.start = clock.start if isinstance(clock, PlantClock) else clock.wall_ns()
        self.packer = Packer(seed, self.start)
        loads: dict[str, Signal] = {n: lively(seed, n, *row) for n, row in _LOADS.items()}
        loads["em-packing"] = _PackerLoad(self.packer)
        rest = lively(seed, "rest", *_REST)
        taken = [(-1.0 if name == "em-whr" else 1.0, load) for name, load in loads.items()]
        loads["em-grid"] = Total([*taken, (1.0, rest)])
        self._loads = loads
        self._flows = {n: lively(seed, n, *row) for n, row in _FLOWS.items()}
        self._gas = {n: lively(seed, f"stack/{n}", *row[1:]) for n, row in _GAS.items()}
        self._kiln = {n: lively(seed, f"kiln/{n}", *row[1:]) for n, row in _KILN.items()}

    # -- the truth ---------------------------------------------------------------------------------

    def power_kw(self, meter_id: str, t: int) -> float:
        """Return the power through a meter; what em-whr delivers is positive here."""
        return self._loads[meter_id].at(t)

    def energy_kwh(self, meter_id: str, t0: int, t1: int) -> float:
        """Return the energy through a meter; what em-whr delivers is positive here."""
        return self._loads[meter_id].integral(t0, t1)

    def flow_t_h(self, scale: str, t: int) -> float:
        """Return the mass flow over a scale."""
        return self._flows[scale].at(t)

    def mass_t(self, scale: str, t0: int, t1: int) -> float:
        """Return the mass that went over a scale."""
        return self._flows[scale].integral(t0, t1)

    def state(self, t: int) -> int:
        """Return the packer's state."""
        return self.packer.state(t)

    def state_changes(self, t0: int, t1: int) -> list[tuple[int, int]]:
        """Return the packer's changes in ``(t0, t1]`` as (ns, new state)."""
        return self.packer.changes(t0, t1)

    def state_seconds(self, t0: int, t1: int) -> dict[int, float]:
        """Return the seconds in each of the packer's states; they add up to the span."""
        return {state: ns / SECOND for state, ns in self.packer.state_ns(t0, t1).items()}

    def bags(self, t0: int, t1: int) -> int:
        """Return how many bags were made, the rejected ones included."""
        return self.packer.bags(t1) - self.packer.bags(t0)

    def rejects(self, t0: int, t1: int) -> int:
        """Return how many bags were rejected."""
        return self.packer.rejects(t1) - self.packer.rejects(t0)

    def gas(self, name: str, t: int) -> float:
        """Return what is in the stack; the analyser shows it unless it is being calibrated."""
        return self._gas[name].at(t)

    def flag(self, t: int) -> int:
        """Return the analyser's flag: 0 normal, 3 calibration."""
        return CALIBRATION_FLAG if CALIBRATION[0] <= t % DAY < CALIBRATION[1] else NORMAL_FLAG

    def normal_spans(self, t0: int, t1: int) -> list[tuple[int, int]]:
        """Return the parts of a span in which the analyser was not being calibrated."""
        spans, begin = [], t0
        for day in range(t0 // DAY, t1 // DAY + 1):
            first, last = day * DAY + CALIBRATION[0], day * DAY + CALIBRATION[1]
            if last > t0 and first < t1:
                if first > begin:
                    spans.append((begin, first))
                begin = last
        if begin < t1:
            spans.append((begin, t1))
        return spans

    def gas_mean(self, name: str, t0: int, t1: int) -> float:
        """Return the mean in the stack while the analyser was normal; NaN if it never was."""
        spans = self.normal_spans(t0, t1)
        hours = sum(stop - start for start, stop in spans) / HOUR
        total = sum(self._gas[name].integral(start, stop) for start, stop in spans)
        return total / hours if hours else float("nan")

    # -- what the devices show ---------------------------------------------------------------------

    def source(self, device: str) -> Source | None:
        """Return the readings of a device of this plant, None for a foreign one."""
        if device in self._loads:
            return meter(self._feeder(device))
        if device in self._flows:
            return self._scale(device)
        makers = {
            "cems-kiln": self._analyser,
            "plc-kiln": self._kiln_control,
            "plc-packer": self._packer_control,
        }
        return makers[device]() if device in makers else None

    def initial(self, device: str, low: int, high: int) -> int:
        """Return the seeded reading of a counter at the start."""
        return Random(f"{self.seed}/{device}/initial").randrange(low, high)

    def _feeder(self, device: str) -> Feeder:
        voltage = 10_000.0 if device == "em-grid" else 690.0
        generator = device == "em-whr"
        reading = float(self.initial(device, 50_000, 250_000))
        return Feeder(
            self._loads[device],
            voltage=voltage,
            power_factor=0.95 if generator else 0.88,
            start=self.start,
            imported=1200.0 if generator else reading,
            exported=reading if generator else 0.0,
            generator=generator,
        )

    def _scale(self, device: str) -> Source:
        flow, initial = self._flows[device], float(self.initial(device, 10_000, 90_000))
        return Source({
            "mass": ("t", lambda t: initial + flow.integral(self.start, t)),
            "flow": ("t/h", flow.at),
        })  # fmt: skip

    def _analyser(self) -> Source:
        return Source(
            {name: (row[0], self._shown(name)) for name, row in _GAS.items()}
            | {"flag": ("1", lambda t: float(self.flag(t)))}
        )

    def _shown(self, name: str) -> Reading:
        gas, zero = self._gas[name], ZERO_GAS.get(name)
        if zero is None:
            return gas.at
        return lambda t: gas.at(t) if self.flag(t) == NORMAL_FLAG else zero

    def _kiln_control(self) -> Source:
        return Source(
            {name: (row[0], self._kiln[name].at) for name, row in _KILN.items()}
            | {"state": ("1", lambda _t: 1.0)}
        )

    def _packer_control(self) -> Source:
        packer = self.packer
        made = self.initial("plc-packer/bags", 100_000, 900_000)
        torn = made // 50

        return Source(
            {
                "state": ("1", lambda t: float(packer.state(t))),
                "bags": ("{bag}", lambda t: float(made + packer.bags(t))),
                "reject": ("{bag}", lambda t: float(torn + packer.rejects(t))),
            },
            {
                "state": lambda a, u: [(t, float(s)) for t, s in packer.changes(a, u)],
                "bags": lambda a, u: [(t, float(made + n)) for t, n in packer.bag_changes(a, u)],
                "reject": lambda a, u: [
                    (t, float(torn + n)) for t, n in packer.reject_changes(a, u)
                ],
            },
        )
