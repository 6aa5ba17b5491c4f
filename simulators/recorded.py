"""Recorded plants played through simulated meters; whose they are says ``data/SOURCES.md``."""

import csv
from bisect import bisect_right
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from zoneinfo import ZoneInfo

from simulators.signals import HOUR, MINUTE, SECOND, Reading
from simulators.sources import Source

DATA = Path(__file__).parent / "data"
STEEL_PLANT = DATA / "steel_plant_2018.csv"
GAS_TURBINE = DATA / "gas_turbine_emissions_2015.csv"
INTERVAL = 15 * MINUTE
ROWS_OF_DAY = 96
SHANGHAI = ZoneInfo("Asia/Shanghai")


class RecordedMeter:
    """A meter point of a steel plant, 2018: 15-minute energies as registers that run on in between.

    The energy register is the sum of the intervals before, rising evenly within each; the power
    register is the interval's mean. Rows carry their END (day/month/year), and the 96th of a day is
    stamped 00:00 of the same date: so the order of the rows counts, not their stamp.

    path     the file
    zone     of the site; the first row begins at midnight there
    initial  register at the first row's begin, kWh
    errors   ``ValueError`` if the rows are not whole intervals of consecutive days
    """

    def __init__(
        self, path: Path = STEEL_PLANT, zone: ZoneInfo = SHANGHAI, initial: Decimal = Decimal(0)
    ) -> None:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self._initial = initial
        self._usage = [Decimal(row["Usage_kWh"]) for row in rows]
        self._lagging = [Decimal(row["Lagging_Current_Reactive_Power_kVarh"]) for row in rows]
        self._leading = [Decimal(row["Leading_Current_Reactive_Power_kVarh"]) for row in rows]
        self._factor = [float(row["Lagging_Current_Power_Factor"]) / 100.0 for row in rows]
        self.first_day = _day(rows[0]["date"])
        for i, row in enumerate(rows):
            if _day(row["date"]) != self.first_day + timedelta(days=i // ROWS_OF_DAY):
                raise ValueError(f"{path}: row {i + 2} is not of the day that its place means")
        midnight = datetime(
            self.first_day.year, self.first_day.month, self.first_day.day, tzinfo=zone
        )
        self.start = int(midnight.timestamp()) * SECOND
        self.stop = self.start + len(rows) * INTERVAL

    def sums_by_day(self) -> dict[date, Decimal]:
        """Return kWh by local day, straight from the rows."""
        return self._sums(lambda day: day)

    def sums_by_month(self) -> dict[date, Decimal]:
        """Return kWh by local month, keyed by its first day."""
        return self._sums(lambda day: day.replace(day=1))

    def _sums(self, key: Callable[[date], date]) -> dict[date, Decimal]:
        sums: dict[date, Decimal] = {}
        for i, usage in enumerate(self._usage):
            period = key(self.first_day + timedelta(days=i // ROWS_OF_DAY))
            sums[period] = sums.get(period, Decimal(0)) + usage
        return sums

    def energy(self, t: int) -> Decimal:
        """Return the energy register in kWh, exact; it stands still outside the record."""
        return self._initial + _running(self._usage, self._usage_before, t - self.start)

    @cached_property
    def _usage_before(self) -> list[Decimal]:
        return _before(self._usage)

    @cached_property
    def _lagging_before(self) -> list[Decimal]:
        return _before(self._lagging)

    @cached_property
    def _leading_before(self) -> list[Decimal]:
        return _before(self._leading)

    def power(self, t: int) -> float:
        """Return the mean power of the interval at an instant, kW; 0 outside the record."""
        return self._mean(self._usage, t)

    def _mean(self, column: list[Decimal], t: int) -> float:
        if not self.start <= t < self.stop:
            return 0.0
        return float(column[(t - self.start) // INTERVAL] * (HOUR // INTERVAL))

    def _power_factor(self, t: int) -> float:
        return self._factor[(t - self.start) // INTERVAL] if self.start <= t < self.stop else 1.0

    def source(self) -> Source:
        """Return the readings of an electricity meter; what was not recorded stands still at 0."""
        nothing = ("voltage", "current", "active_power", "reactive_power", "apparent_power")
        silent: dict[str, str] = {}
        for name, unit in zip(nothing, ("V", "A", "kW", "kvar", "kVA"), strict=True):
            phases = (
                ("l1", "l2", "l3", "l12", "l23", "l31") if name == "voltage" else ("l1", "l2", "l3")
            )
            silent |= {f"{name}_{phase}": unit for phase in phases}
        for tariff in ("sharp", "peak", "flat", "valley"):
            silent[f"active_energy_total_{tariff}"] = "kWh"
            silent[f"active_energy_import_{tariff}"] = "kWh"
        silent |= {"active_energy_export": "kWh", "frequency": "Hz"}
        readings: dict[str, tuple[str, Reading]] = {
            name: (unit, lambda _t: 0.0) for name, unit in silent.items()
        }
        return Source(readings | self._recorded())

    def _recorded(self) -> dict[str, tuple[str, Reading]]:
        def lagging(t: int) -> float:
            return float(_running(self._lagging, self._lagging_before, t - self.start))

        def leading(t: int) -> float:
            return float(_running(self._leading, self._leading_before, t - self.start))

        def reactive(t: int) -> float:
            return self._mean(self._lagging, t) - self._mean(self._leading, t)

        return {
            "active_energy_import": ("kWh", lambda t: float(self.energy(t))),
            "active_energy_total": ("kWh", lambda t: float(self.energy(t))),
            "active_power": ("kW", self.power),
            "reactive_energy_import": ("kvarh", lagging),
            "reactive_energy_export": ("kvarh", leading),
            "reactive_energy_total": ("kvarh", lambda t: lagging(t) + leading(t)),
            "reactive_power": ("kvar", reactive),
            "apparent_power": ("kVA", lambda t: (self.power(t) ** 2 + reactive(t) ** 2) ** 0.5),
            "power_factor": ("1", self._power_factor),
        }


def _day(stamp: str) -> date:
    day, month, year = stamp[:10].split("/")
    return date(int(year), int(month), int(day))


def _before(column: list[Decimal]) -> list[Decimal]:
    return list(accumulate(column, initial=Decimal(0)))


def _running(column: list[Decimal], before: list[Decimal], elapsed: int) -> Decimal:
    """Return the sum of a column up to an instant, rising evenly within each interval."""
    if elapsed <= 0:
        return Decimal(0)
    row, rest = divmod(elapsed, INTERVAL)
    return before[-1] if row >= len(column) else before[row] + column[row] * rest / INTERVAL


class RecordedAnalyser:
    """The exhaust of a gas turbine, hourly: CO and NOx in mg/m³; each row stands for its hour.

    The rows carry no time; ``start`` (ns) says when the first one begins.
    """

    def __init__(self, start: int, path: Path = GAS_TURBINE) -> None:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self._begins = [start + i * HOUR for i in range(len(rows))]
        self.co = [float(row["co_mg_m3"]) for row in rows]
        self.nox = [float(row["nox_mg_m3"]) for row in rows]
        self.energy_mwh = [float(row["turbine_energy_yield_MWh"]) for row in rows]

    def source(self) -> Source:
        """Return the readings; before the first hour it shows that one, after the last the last."""
        return Source({
            "co": ("mg/m3", self._held(self.co)),
            "nox": ("mg/m3", self._held(self.nox)),
            "flag": ("1", lambda _t: 0.0),
        })  # fmt: skip

    def _held(self, column: list[float]) -> Reading:
        return lambda t: column[max(0, bisect_right(self._begins, t) - 1)]
