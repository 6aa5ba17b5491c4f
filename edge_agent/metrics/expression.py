"""The expression language of computed tags and alarms: what a text is compiled to.

``em-kiln.active_power / em-kiln.apparent_power > 0.9 and not plc.state == 3``

- names are ``owner.column``, as everywhere else; a dash inside a name belongs to the name, so a
  subtraction has a space before its minus; a name that begins with a digit stands between backticks
- numbers may have a unit: ``90 mg/m3``; a bare number takes the unit of what it is compared with or
  added to
- ``or``, ``and``, ``not``, ``< <= > >= == !=``, ``+ -``, ``* /``, ``-x``, ``**``, from loose to
  tight; functions of one row ``abs sqrt exp log round min max clip hypot where(condition, a, b)``,
  and of the rows before (``moving.py``) ``rate delta mean lowest highest forecast``
"""

from dataclasses import dataclass
from typing import Protocol

from edge_agent.metrics.moving import Moved
from edge_agent.metrics.operations import Program
from edge_agent.metrics.tokens import ExpressionError
from edge_agent.model import Kind
from edge_agent.units import Unit

__all__ = ["Column", "Comparison", "Expression", "ExpressionError", "Names"]


@dataclass(frozen=True, slots=True)
class Column:
    """What a name stands for: a column of a stream; unit None: not known (yet)."""

    stream: str
    index: int
    unit: Unit | None
    kind: Kind


class Names(Protocol):
    """What an expression may refer to."""

    def column(self, name: str) -> Column:
        """Return what a name stands for; ``ValueError`` or ``KeyError`` with what is wrong."""

    def moving(self, stream: str, moved: Moved) -> int:
        """Return the column that a function of the rows before makes of a stream's columns."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What an expression compares when it is one comparison: ``left``, ``sign``, ``right``."""

    left: Program
    sign: str
    right: Program
    unit: Unit


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression.

    unit        of its value; None: it is made of bare numbers only
    truth       whether it is true or false
    comparison  its two sides, when it is nothing but a comparison
    """

    text: str
    program: Program
    unit: Unit | None
    truth: bool
    comparison: Comparison | None
