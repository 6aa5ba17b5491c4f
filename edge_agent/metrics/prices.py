"""Prices of electricity as they stand in a plant's file: dated, in parts that float or do not.

They are the user's: no price comes with the agent. By the Shandong notices the purchase price, the
capacity compensation and the like float with the band's coefficient; transmission price and shared
items do not, and government funds are besides outside the power factor adjustment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from edge_agent.metrics.demand import Contract, Method
from edge_agent.model import F64, I64

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The prices from a day on.

    since     local day, ``2026-01-01``
    floating  parts that are multiplied by the band's coefficient, CNY/kWh by name
    fixed     parts that are not, CNY/kWh by name
    funds     government funds: fixed, and not part of the power factor adjustment, CNY/kWh by name
    demand    basic price, CNY per kW of billed demand and month
    capacity  basic price, CNY per kVA of transformers and month
    """

    since: str
    floating: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    funds: Mapping[str, float] = field(default_factory=dict)
    demand: float | None = None
    capacity: float | None = None

    @property
    def day(self) -> int:
        """The first day, counted from 1970-01-01; ``ValueError`` when it is none."""
        return (date.fromisoformat(self.since) - _EPOCH).days


@dataclass(frozen=True)
class PriceList:
    """Prices by day.

    days  int64 (p,), ascending; floating, fixed, funds, basic: float64 (p,); basic NaN: not given
    """

    days: I64
    floating: F64
    fixed: F64
    funds: F64
    basic: F64

    @classmethod
    def of(cls, prices: tuple[Prices, ...], basic: str) -> "PriceList":
        """Return the list; basic: ``demand`` or ``capacity``, which of the basic prices counts."""
        found = [getattr(price, basic) for price in prices]
        return cls(
            np.array([price.day for price in prices], np.int64),
            np.array([sum(price.floating.values()) for price in prices], np.float64),
            np.array([sum(price.fixed.values()) for price in prices], np.float64),
            np.array([sum(price.funds.values()) for price in prices], np.float64),
            np.array([np.nan if price is None else price for price in found], np.float64),
        )

    def at(self, days: I64) -> I64:
        """Return the row in force on each day, -1 before the first."""
        return np.searchsorted(self.days, days, "right") - 1


@dataclass(frozen=True)
class Basic:
    """The basic charge of a two-part tariff.

    contract  what the maximum is held against; None: ``capacity`` kVA are billed, or the maximum
    """

    method: Method
    contract: Contract | None
    capacity: float | None

    def cost(self, demand: F64, price: F64) -> F64:
        """Return the charge of a month, CNY; price: per kW or kVA and month."""
        if self.capacity is not None:
            return self.capacity * price
        return (demand if self.contract is None else self.contract.billed(demand)) * price


def faults_of(prices: tuple[Prices, ...]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return what is wrong with the dates of a list."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    before: int | None = None
    for i, price in enumerate(prices):
        try:
            day = price.day
        except ValueError:
            found.append((("prices", i, "since"), f'"{price.since}" is not a day (2026-01-01)'))
            continue
        if before is not None and day <= before:
            found.append((("prices", i, "since"), "must be after the day of the entry before"))
        before = day
    return found
