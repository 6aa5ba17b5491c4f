"""What stands for the mass of hours without valid data (HJ 75-2017, clause 12).

Only mass is substituted, never a concentration. By the quarter's rate of valid hours and the length
of the gap so far, an invalid hour is given the largest hourly mass of the last 180, 720 or 2160
valid hours before it:

    rate >= 90 %         gap up to 24 h: 180      longer: 720
    75 % <= rate < 90 %  2160
    rate < 75 %          none: no automatic substitution

The numbers are the clause's, as a platform in service has them (environment.md marks the text of
the clause as not read). The rate is the standard's (H - stops - invalid) / (H - stops) with all
hours H of the calendar quarter and what is known of it so far, so it can only fall, and the first
bad hour of a quarter does not end substitution.

How long a gap is, and how bad its quarter, is known too late for its first hours, and rows are not
written again. So the hour in which a larger maximum begins to count also brings what the hours of
the gap before it lack of that: the total of the gap is its hours times the maximum, as the rule has
it. Hours of another quarter are left as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast
from zoneinfo import ZoneInfo

from edge_agent.clock import SECOND
from edge_agent.metrics.base import State

HOUR = 3600 * SECOND
FULL_RATE, LEAST_RATE = 0.90, 0.75
SHORT_GAP = 24  # h
AFTER_SHORT, AFTER_LONG, AT_LOW_RATE = 180, 720, 2160  # valid hours that are looked through


def hours_searched(rate: float, gap: int) -> int | None:
    """Return how many valid hours the maximum is taken of; None: nothing is substituted.

    rate  of valid hours in the quarter; gap: consecutive invalid hours, this one included
    """
    if rate < LEAST_RATE:
        return None
    if rate < FULL_RATE:
        return AT_LOW_RATE
    return AFTER_SHORT if gap <= SHORT_GAP else AFTER_LONG


def quarter_of(instant: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return start and end of the calendar quarter that holds an instant, ns."""
    local = datetime.fromtimestamp(instant // SECOND, zone)
    first = (local.month - 1) // 3 * 3 + 1
    start = datetime(local.year, first, 1, tzinfo=zone)
    year, month = (local.year + 1, 1) if first == 10 else (local.year, first + 3)
    end = datetime(year, month, 1, tzinfo=zone)
    return int(start.timestamp()) * SECOND, int(end.timestamp()) * SECOND


@dataclass(frozen=True)
class Booked:
    """What became of one hour of a gas.

    rate        of valid hours in the quarter, this hour included
    substitute  kg that stand for an invalid hour, and for what those of the gap before it lack of
                the same; None: there is nothing that could
    """

    rate: float
    substitute: float | None


@dataclass
class Account:
    """What is kept of one gas.

    highest  (number, kg) of those of the last 2160 valid hours that no later one reached: the
             first that is young enough is the maximum of the last 180, 720 or 2160
    valid    valid hours so far; gap: consecutive invalid ones; invalid: those of the quarter
    filled   hours of the gap, in this quarter, that have a substitute; given: kg of them
    """

    highest: list[tuple[int, float]] = field(default_factory=list)
    valid: int = 0
    gap: int = 0
    invalid: int = 0
    filled: int = 0
    given: float = 0.0

    def add(self, mass: float) -> None:
        """Take a valid hour."""
        self.valid, self.gap = self.valid + 1, 0
        self.filled, self.given = 0, 0.0
        kept = [entry for entry in self.highest if entry[1] > mass]
        self.highest = [e for e in kept if e[0] > self.valid - AT_LOW_RATE]
        self.highest.append((self.valid, mass))

    def fill(self, hours: int) -> float | None:
        """Return what the next hour of a gap is given, by the maximum of so many valid hours."""
        maximum = self.largest(hours)
        if maximum is None:
            return None
        substitute = maximum + max(0.0, self.filled * maximum - self.given)
        self.filled, self.given = self.filled + 1, self.given + substitute
        return substitute

    def largest(self, hours: int) -> float | None:
        """Return the largest mass of the last so many valid hours; None if there are none."""
        young = (mass for number, mass in self.highest if number > self.valid - hours)
        return next(young, None)


class Ledger:
    """Valid, invalid and stopped hours of the gases of a stack; at most 2160 numbers of each."""

    def __init__(self, gases: Sequence[str], zone: ZoneInfo) -> None:
        self._zone = zone
        self._accounts = {gas: Account() for gas in gases}
        self._quarter = 0  # its start
        self._stopped = 0  # hours of it
        self._last = 0  # end of the last hour booked

    def book(
        self, start: int, masses: Mapping[str, float | None], *, stopped: bool
    ) -> dict[str, Booked]:
        """Take the next hour.

        masses   kg of each gas in the hour; None where the hour is not valid for it
        stopped  the plant did not run: no hour of the standard's count
        """
        begin, end = quarter_of(start, self._zone)
        self._go_to(start, begin)
        self._stopped += stopped
        hours = (end - begin) // HOUR - self._stopped
        self._last = start + HOUR
        return {gas: self._one(gas, mass, hours, stopped) for gas, mass in masses.items()}

    def _go_to(self, start: int, quarter: int) -> None:
        """Begin a quarter; hours of which there is no row at all are invalid."""
        if quarter > self._quarter:
            self._quarter, self._stopped = quarter, 0
            for account in self._accounts.values():
                account.invalid, account.filled, account.given = 0, 0, 0.0
        if self._last and start > self._last:
            missing = (start - self._last) // HOUR
            within = (start - max(self._last, quarter)) // HOUR
            for account in self._accounts.values():
                account.gap += missing
                account.invalid += within

    def _one(self, gas: str, mass: float | None, hours: int, stopped: bool) -> Booked:
        account = self._accounts[gas]
        if not stopped and mass is None:
            account.gap, account.invalid = account.gap + 1, account.invalid + 1
        rate = (hours - account.invalid) / hours if hours else 1.0
        if stopped:
            return Booked(rate, 0.0)
        if mass is not None:
            account.add(mass)
            return Booked(rate, 0.0)
        searched = hours_searched(rate, account.gap)
        return Booked(rate, None if searched is None else account.fill(searched))

    def copy(self) -> "Ledger":
        """Return a ledger that goes on from here by itself."""
        other = Ledger(tuple(self._accounts), self._zone)
        other.load(self.save())
        return other

    def save(self) -> State:
        """Return the state; see ``State``."""
        accounts = {
            gas: {
                "numbers": [number for number, _ in a.highest],
                "masses": [mass for _, mass in a.highest],
                "counts": [a.valid, a.gap, a.invalid, a.filled],
                "given": [a.given],
            }
            for gas, a in self._accounts.items()
        }
        head = {"quarter": self._quarter, "stopped": self._stopped, "last": self._last}
        return head | {"accounts": accounts}

    def load(self, state: State) -> None:
        """Take over what ``save`` returned; a gas that it does not know begins empty."""
        self._quarter, self._stopped = int(str(state["quarter"])), int(str(state["stopped"]))
        self._last = int(str(state["last"]))
        stored = cast("Mapping[str, Mapping[str, list[float]]]", state["accounts"])
        for gas in self._accounts:
            if gas in stored:
                numbers, masses = stored[gas]["numbers"], stored[gas]["masses"]
                highest = [(int(i), float(kg)) for i, kg in zip(numbers, masses, strict=True)]
                counts = (int(count) for count in stored[gas]["counts"])
                self._accounts[gas] = Account(highest, *counts, *stored[gas]["given"])
