"""What a document is made of: figures that say where they come from.

This is the decimal world: a stored float64 enters as the shortest decimal that reads back as the
same number (its ``repr``), sums and products are exact to 50 digits, and nothing is rounded before
it is compared. Rounding is for the eye only, by the number format of a cell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal

CONTEXT = Context(prec=50)
AGREE = Decimal("1e-9")  # relative: figures that must agree everywhere do so to this

Label = tuple[str, str]  # Chinese, English


def exact(value: float) -> Decimal:
    """Return the decimal that a stored number stands for."""
    return Decimal(repr(float(value)))


def total(values: Iterable[float]) -> Decimal:
    """Return the sum of stored numbers."""
    found = Decimal(0)
    for value in values:
        found = CONTEXT.add(found, exact(value))
    return found


def agree(one: Decimal, other: Decimal) -> bool:
    """Return whether two figures are the same to 1e-9 relative."""
    return abs(one - other) <= AGREE * max(abs(one), abs(other))


@dataclass(frozen=True)
class Figure:
    """One line of a document.

    key      names it for formulas of other lines and in JSON
    formula  how it follows from other lines: ``{electricity.amount}*{electricity.k}``
    stored   the same figure as the agent computed and stored it, where there is one
    status   one of ``STATUS``; what needs a person's eye is shown in colour and in words
    """

    key: str
    label: Label
    value: Decimal | int | str | None
    source: str
    unit: str = ""
    formula: str = ""
    stored: Decimal | None = None
    status: str = ""
    style: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the line agrees with what was stored; None when nothing was."""
        if self.stored is None or not isinstance(self.value, Decimal):
            return None
        return agree(self.value, self.stored)


STATUS: dict[str, Label] = {
    "": ("", ""),
    "unapproved": ("未核准", "unapproved"),
    "approved": ("已核准", "approved"),
    "measured": ("实测值，须附检测报告", "measured; attach the test report"),
    "reached": ("达到", "reached"),
    "missed": ("未达到", "not reached"),
    "unknown": ("无法判定", "cannot be judged"),
    "partial": ("数据不完整", "incomplete data"),
    "complete": ("完整", "complete"),
    "differs": ("与存储值不符", "differs from the stored value"),
}


@dataclass(frozen=True)
class Section:
    """A part of a document."""

    title: Label
    figures: tuple[Figure, ...]
