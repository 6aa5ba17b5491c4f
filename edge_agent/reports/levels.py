"""Rows of the tables that a figure is compared with, as the reports take them."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Level:
    """Levels 1 to 3 of a limit standard for one indicator; None: the standard has none.

    direction  inverse: lower is better; forward: higher is better
    row        where the row stands: ``file:line``
    note       what was left out, such as a correction that was not applied
    """

    standard: str
    clause: str
    unit: str
    level1: Decimal | None
    level2: Decimal | None
    level3: Decimal | None
    direction: str
    source: str
    edition: str
    confidence: str
    approved: bool
    row: str = ""
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """标杆 and 基准 level of a product."""

    document: str
    unit: str
    benchmark: Decimal | None
    baseline: Decimal | None
    source: str
    edition: str
    confidence: str
    approved: bool
    direction: str = "inverse"
    row: str = ""
    note: str = ""
