"""What an expression does, step by step, on whole columns.

A compiled expression is a list of steps for a stack of columns: no tree is walked, so nothing can
be nested too deep. A value that is not known is NaN, and every operation hands NaN on; a result
that is no number (a division by zero, the logarithm of a negative one, an overflow) becomes NaN at
once, so it cannot turn into a number again. Truth is 1 and 0. ``and``, ``or`` and ``where`` need
only what decides: ``false and unknown`` is false.

The quality of a result is the worst of the inputs that decided it; what the instrument itself flags
(``UNCERTAIN_FLAGGED``) stays flagged under any other doubt, because metrics leave it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.model import F64, U8, Quality

_BAD, _FLAGGED = int(Quality.BAD), int(Quality.UNCERTAIN_FLAGGED)
_NO_VALUE = int(Quality.BAD_NOT_AVAILABLE)
Work = Callable[..., F64]
Marks = Callable[[Sequence[F64], Sequence[U8]], U8]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: put a column on the stack, put a number on it, or apply an operation.

    name    ``column``, ``number`` or one of ``OPERATIONS``
    number  the number; stream, index: which column of which stream
    """

    name: str
    number: float = 0.0
    stream: str = ""
    index: int = 0


Program = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """How many values it takes, what it makes of them, and what quality that has."""

    takes: int
    work: Work
    marks: Marks


def worst(marks: Sequence[U8]) -> U8:
    """Return the worst quality of several, row by row; flagged stays so unless it is bad."""
    found = marks[0]
    for other in marks[1:]:
        found = np.maximum(found, other)
    if len(marks) > 1 and (found > _FLAGGED).any():
        flagged = np.logical_or.reduce([mark == _FLAGGED for mark in marks])
        found = np.where(flagged & (found < _BAD), np.uint8(_FLAGGED), found)
    return found


def _finite(value: F64) -> F64:
    """Return the numbers, NaN in place of what is none."""
    good = np.isfinite(value)
    return value if good.all() else np.where(good, value, np.nan)


def _known(result: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]", *values: F64) -> F64:
    """Return truth as 1 and 0, NaN where one of the values is not known."""
    unknown = np.isnan(values[0])
    for value in values[1:]:
        unknown = unknown | np.isnan(value)
    return np.where(unknown, np.nan, result)


def _both(a: F64, b: F64) -> F64:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _either(a: F64, b: F64) -> F64:
    return np.where((a == 1) | (b == 1), 1.0, a + b)


def _choice(condition: F64, a: F64, b: F64) -> F64:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, a, b))


def _decided(by: float) -> Marks:
    """Return the quality of ``and`` (decided by one 0) or ``or`` (by one 1)."""

    def marks(values: Sequence[F64], given: Sequence[U8]) -> U8:
        (a, b), (p, q) = values, given
        one, other = a == by, b == by
        alone = np.where(one & other, np.minimum(p, q), np.where(one, p, q))
        return np.where(one | other, alone, worst((p, q)))

    return marks


def _chosen(values: Sequence[F64], given: Sequence[U8]) -> U8:
    condition, (c, p, q) = values[0], given
    used = np.where(np.isnan(condition), np.uint8(0), np.where(condition != 0, p, q))
    return worst((c, used))


def _all(_values: Sequence[F64], given: Sequence[U8]) -> U8:
    return worst(given)


OPERATIONS: dict[str, Operation] = {
    "+": Operation(2, lambda a, b: _finite(a + b), _all),
    "-": Operation(2, lambda a, b: _finite(a - b), _all),
    "*": Operation(2, lambda a, b: _finite(a * b), _all),
    "/": Operation(2, lambda a, b: _finite(np.divide(a, b)), _all),
    "**": Operation(2, lambda a, b: np.where(np.isnan(a), np.nan, _finite(np.power(a, b))), _all),
    "negative": Operation(1, lambda a: -a, _all),
    "abs": Operation(1, np.abs, _all),
    "sqrt": Operation(1, np.sqrt, _all),
    "exp": Operation(1, lambda a: _finite(np.exp(a)), _all),
    "log": Operation(1, lambda a: _finite(np.log(a)), _all),
    "round": Operation(1, np.rint, _all),
    "hypot": Operation(2, lambda a, b: _finite(np.hypot(a, b)), _all),
    "min": Operation(2, np.minimum, _all),
    "max": Operation(2, np.maximum, _all),
    "<": Operation(2, lambda a, b: _known(a < b, a, b), _all),
    "<=": Operation(2, lambda a, b: _known(a <= b, a, b), _all),
    ">": Operation(2, lambda a, b: _known(a > b, a, b), _all),
    ">=": Operation(2, lambda a, b: _known(a >= b, a, b), _all),
    "==": Operation(2, lambda a, b: _known(a == b, a, b), _all),
    "!=": Operation(2, lambda a, b: _known(a != b, a, b), _all),
    "not": Operation(1, lambda a: 1.0 - a, _all),
    "and": Operation(2, _both, _decided(0.0)),
    "or": Operation(2, _either, _decided(1.0)),
    "where": Operation(3, _choice, _chosen),
}


def columns_of(program: Program) -> list[tuple[str, int]]:
    """Return which columns of which streams a program puts on its stack."""
    return [(step.stream, step.index) for step in program if step.name == "column"]


def clean(value: F64, quality: U8) -> F64:
    """Return the values with NaN wherever there is no number or its quality is bad."""
    good = (quality < _BAD) & np.isfinite(value)
    return value if good.all() else np.where(good, value, np.nan)


def run(
    program: Program, value: F64, quality: U8, places: dict[tuple[str, int], int]
) -> tuple[F64, U8]:
    """Return value and quality of an expression, both (n,).

    value, quality  (c, n), the value ``clean``; places: the row of each column among them
    """
    marked = bool(quality.any())
    good = np.zeros(value.shape[1], np.uint8)
    values: list[F64] = []
    marks: list[U8] = []
    with np.errstate(all="ignore"):  # what is no number is looked for in each operation
        for step in program:
            if step.name == "column":
                row = places[step.stream, step.index]
                values.append(value[row])
                marks.append(quality[row])
            elif step.name == "number":
                values.append(np.float64(step.number))  # type: ignore[arg-type]  # it broadcasts
                marks.append(good)
            else:
                operation = OPERATIONS[step.name]
                taken = values[-operation.takes :]
                if marked:
                    mark = operation.marks(taken, marks[-operation.takes :])
                    del marks[-operation.takes :]
                    marks.append(mark)
                del values[-operation.takes :]
                values.append(operation.work(*taken))
    result = values[-1]
    if result.shape != good.shape:  # made of plain numbers only
        result = np.broadcast_to(result, good.shape)
    unknown = np.isnan(result)
    if not marked:
        if not unknown.any():
            return result, good
        return result, np.where(unknown, np.uint8(_NO_VALUE), good)
    quality = np.where(unknown & (marks[-1] < _BAD), np.uint8(_NO_VALUE), marks[-1])
    return np.where(quality >= _BAD, np.nan, result), quality.astype(np.uint8, copy=False)


def folded(name: str, numbers: Sequence[float]) -> float:
    """Return what an operation makes of plain numbers; NaN when that is no number."""
    with np.errstate(all="ignore"):
        return float(OPERATIONS[name].work(*(np.array(number) for number in numbers)))
