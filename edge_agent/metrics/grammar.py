"""The grammar of expressions: a text to steps for a stack, with units checked.

The text is parsed by operator precedence (Pratt 1973) and turned into steps at once, so no tree is
ever built or walked; how deep brackets may be nested and how long a text may be is limited. Both
sides of a sum or comparison must have one dimension, and the right one is converted; products and
quotients make new units, and what has no dimension left becomes a plain number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_agent.metrics.expression import Column, Comparison, Expression, Names
from edge_agent.metrics.moving import FUNCTIONS, Moved
from edge_agent.metrics.operations import Step, folded
from edge_agent.metrics.tokens import ExpressionError, Token, tokens
from edge_agent.model import Kind
from edge_agent.units import Duration, Unit

DEEPEST = 30  # brackets, signs and functions inside each other
POWERS = 10  # the largest exponent of a quantity with a unit
ONE, SECOND = Unit.parse("1"), Unit.parse("s")
_COMPARE = ("<", "<=", ">", ">=", "==", "!=")
_BINDS = {"or": 1, "and": 2, **dict.fromkeys(_COMPARE, 4), "+": 5, "-": 5, "*": 6, "/": 6, "**": 8}
_NOT, _SIGN = 3, 7  # what ``not`` and a sign in front bind like
_PLAIN = ("abs", "round", "sqrt", "exp", "log")
_ROW = (*_PLAIN, "min", "max", "clip", "hypot", "where")


@dataclass(frozen=True, slots=True)
class _Term:
    """A part that has been compiled: where it begins, and what it is.

    sort    ``number``, ``truth`` or ``state``; number: of a part of plain numbers, its value
    """

    at: int
    start: int
    unit: Unit | None = None
    sort: str = "number"
    number: float | None = None
    streams: frozenset[str] = frozenset()
    counter: bool = False


def compiled(text: str, names: Names) -> Expression:
    """Return the program of an expression.

    errors  ``ExpressionError``: one line that says what is wrong, where, and what would be right
    """
    return _Parser(text, names).whole()


def names_in(text: str) -> list[str]:
    """Return the names that an expression uses, each once; ``ExpressionError`` if it is none."""
    found = _Unknown()
    _Parser(text, found, units=False).whole()
    return list(dict.fromkeys(found.names))


class _Unknown:
    """Names of which only that they stand there is known: what the first look needs."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def column(self, name: str) -> Column:
        self.names.append(name)
        return Column("", 0, None, Kind.GAUGE)

    def moving(self, _stream: str, _moved: Moved) -> int:
        return 0


class _Parser:
    """One reading of one text."""

    def __init__(self, text: str, names: Names, *, units: bool = True) -> None:
        self._text, self._names, self._units = text, names, units
        self._tokens = tokens(text)
        self._next = 0
        self._depth = 0
        self._steps: list[Step] = []
        self._last: tuple[int, int, Unit] | None = None  # where the last comparison stands

    def whole(self) -> Expression:
        term = self._part(0)
        token = self._tokens[self._next]
        if token.kind != "end":
            raise self._wrong(f'an operator is missing before "{token.text}"', token)
        program, comparison = tuple(self._steps), None
        if self._last is not None and program[-1].name in _COMPARE and not self._last[0]:
            _, middle, unit = self._last
            left, right = program[:middle], program[middle:-1]
            comparison = Comparison(left, program[-1].name, right, unit)
        return Expression(self._text, program, term.unit, term.sort == "truth", comparison)

    # ---- precedence ----

    def _part(self, binding: int) -> _Term:
        """Compile as much as binds tighter."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._wrong(f"is nested deeper than {DEEPEST}", self._tokens[self._next])
        term = self._first()
        while True:
            token = self._tokens[self._next]
            binds = _BINDS.get(token.text, 0) if token.kind in {"sign", "word"} else 0
            if binds <= binding:
                break
            self._next += 1
            term = self._joined(token, term, binds)
        self._depth -= 1
        return term

    def _first(self) -> _Term:
        """Compile what an expression can begin with."""
        token = self._take()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "name":
            return self._column(token)
        if token.text == "(":
            term = replace(self._part(0), counter=False)
            self._expect(")", token)
            return term
        if token.text == "-":
            term = self._quantity(self._part(_SIGN))
            return self._emit("negative", [term], replace(term, counter=False))
        if token.text == "not":
            term = self._truth(self._part(_NOT))
            return self._emit("not", [term], term)
        if token.text not in (*_ROW, *FUNCTIONS):
            raise self._no_start(token)
        return self._function(token)

    def _no_start(self, token: Token) -> ExpressionError:
        if token.kind == "end":
            return self._wrong("ends too early: a name or a number is missing", token)
        if token.kind != "word" or token.text in _BINDS:
            return self._wrong(f'"{token.text}" stands where a name or a number must', token)
        known = ", ".join((*_ROW, *FUNCTIONS))
        if self._tokens[self._next].text == "(":
            return self._wrong(f'unknown function "{token.text}" (there are {known})', token)
        return self._wrong(f'"{token.text}" is not a name: write owner.column', token)

    def _joined(self, token: Token, left: _Term, binds: int) -> _Term:
        """Compile what stands right of an operator, and the operator."""
        sign = token.text
        if sign in {"*", "/"}:
            left = self._plain(self._quantity(left))
            right = self._plain(self._quantity(self._part(binds)))
            return self._product(token, left, right)
        if sign in {"and", "or"}:
            left = self._truth(left)
            right = self._truth(self._part(binds))
            return self._emit(
                sign, [left, right], replace(left, streams=left.streams | right.streams)
            )
        if sign == "**":
            return self._power(self._plain(self._quantity(left)), self._part(binds - 1))
        if sign in _COMPARE:
            return self._comparison(token, left, self._part(binds))
        left = self._quantity(left)
        right = self._quantity(self._part(binds))
        verb = "added" if sign == "+" else "subtracted"
        return self._emit(sign, [left, right], self._alike(left, right, token, verb))

    # ---- parts ----

    def _number(self, token: Token) -> _Term:
        unit, start = None, len(self._steps)
        if token.unit is not None:
            try:
                unit = Unit.parse(token.unit)
            except ValueError as error:
                hint = (
                    ": put spaces around an operator"
                    if "/" in token.unit or "." in token.unit
                    else ""
                )
                raise self._wrong(f"{error}{hint}", token) from error
            unit = unit if self._units else None
        self._steps.append(Step("number", token.number))
        return _Term(token.at, start, unit, "number", token.number)

    def _column(self, token: Token) -> _Term:
        if token.text.count(".") != 1:
            hint = "a dash inside a name belongs to it, so write a minus with spaces around it"
            message = f'"{token.text}" is not a name owner.column'
            raise self._wrong(f"{message}: {hint}" if "-" in token.text else message, token)
        try:
            column = self._names.column(token.text)
        except (KeyError, ValueError) as error:
            raise self._wrong(str(error.args[0]), token) from error
        if column.kind is Kind.TEXT:
            raise self._wrong(f'"{token.text}" is a text: nothing can be computed of it', token)
        start = len(self._steps)
        self._steps.append(Step("column", 0.0, column.stream, column.index))
        sort = "state" if column.kind is Kind.STATE else "number"
        counter = column.kind is Kind.COUNTER
        return _Term(token.at, start, column.unit, sort, None, frozenset({column.stream}), counter)

    def _function(self, token: Token) -> _Term:
        self._expect("(", token)
        if token.text in FUNCTIONS:
            return self._moved(token)
        if token.text == "where":
            return self._where(token)
        term = self._quantity(self._part(0))
        if token.text in _PLAIN:
            self._expect(")", token)
            return self._unary(token, term)
        names = {"clip": ("max", "min"), "hypot": ("hypot",)}.get(token.text)
        given = 1
        while self._tokens[self._next].text == ",":
            self._next += 1
            name = token.text if names is None else names[min(given, len(names)) - 1]
            right = self._quantity(self._part(0))
            term = self._emit(name, [term, right], self._alike(term, right, token, "compared"))
            given += 1
        self._expect(")", token)
        if given < 2 or (names is not None and given != len(names) + 1):
            wants = {"clip": "x, lowest, highest", "hypot": "a, b"}.get(token.text, "a, b, …")
            raise self._wrong(f"{token.text} takes ({wants})", token)
        return term

    def _where(self, token: Token) -> _Term:
        condition = self._truth(self._part(0))
        self._expect(",", token)
        one = self._quantity(self._part(0))
        self._expect(",", token)
        other = self._quantity(self._part(0))
        self._expect(")", token)
        alike = self._alike(one, other, token, "chosen from")
        return self._emit("where", [condition, one, other], replace(alike, start=condition.start))

    def _unary(self, token: Token, term: _Term) -> _Term:
        if token.text in {"exp", "log"}:
            if term.unit is not None and term.unit.dimension:
                message = f"{token.text} needs a plain number, this is in {term.unit.code}"
                raise self._wrong(f"{message}: divide it by a quantity of that unit", token)
            term = self._plain(term)
        unit = term.unit
        if token.text == "sqrt" and unit is not None:
            term = self._plain(term)
            unit = self._root(token, unit)
        return self._emit(token.text, [term], replace(term, unit=unit, counter=False))

    def _root(self, token: Token, unit: Unit) -> Unit:
        try:
            return unit.root()
        except ValueError as error:
            raise self._wrong(f"sqrt is not possible: {error}", token) from error

    def _moved(self, token: Token) -> _Term:
        """Compile a function of the rows before; its argument becomes a column of the stream."""
        argument = self._quantity(self._part(0))
        span = 0.0
        if token.text != "rate":
            if self._tokens[self._next].text != ",":
                raise self._wrong(f"{token.text} takes (x, length): {token.text}(x, 10min)", token)
            self._next += 1
            span = self._length(token)
        self._expect(")", token)
        if len(argument.streams) != 1:
            message = "needs tags of one stream" if argument.streams else "needs a tag"
            raise self._wrong(
                f"{token.text} {message}: give the sum a name as a computed tag", token
            )
        (stream,) = argument.streams
        program = tuple(self._steps[argument.start :])
        del self._steps[argument.start :]
        try:
            moved = Moved(token.text, program, span, rises=argument.counter)
            index = self._names.moving(stream, moved)
        except ValueError as error:
            raise self._wrong(str(error), token) from error
        self._steps.append(Step("column", 0.0, stream, index))
        unit = argument.unit
        if token.text == "rate" and unit is not None:
            unit = unit.times(SECOND, -1)
        return replace(argument, unit=unit, counter=False)

    def _length(self, token: Token) -> float:
        length = self._take()
        try:
            if length.kind == "number" and length.number > 0:
                return float(Duration.parse(f"{length.number:g}{length.unit or ''}"))
        except ValueError:
            pass
        raise self._wrong(f"{token.text} takes a length of time: {token.text}(x, 10min)", length)

    # ---- what may be done with what ----

    def _quantity(self, term: _Term) -> _Term:
        if term.sort == "number":
            return term
        message = "is true or false: write where(condition, 1, 0)"
        if term.sort == "state":
            message = "a state can only be compared: plc.state == 3"
        raise ExpressionError(message, self._text, term.at)

    def _truth(self, term: _Term) -> _Term:
        if term.sort == "truth":
            return term
        raise ExpressionError("is no condition: compare it with something", self._text, term.at)

    def _plain(self, term: _Term) -> _Term:
        """Turn shares (%, ppm, kWh/MJ) into plain numbers."""
        unit = term.unit
        if unit is None or unit.dimension or unit.factor == 1.0:
            return term if unit is None or unit.dimension else replace(term, unit=ONE)
        return replace(self._scaled(term, unit.factor), unit=ONE)

    def _scaled(self, term: _Term, factor: float) -> _Term:
        """Multiply the part compiled last with a factor."""
        if term.number is not None:
            self._steps[-1] = Step("number", term.number * factor)
            return replace(term, number=term.number * factor, counter=False)
        self._steps += [Step("number", factor), Step("*")]
        return replace(term, counter=False)

    def _alike(self, left: _Term, right: _Term, token: Token, verb: str) -> _Term:
        """Return what two parts of one dimension make; the right one is converted."""
        unit = left.unit if left.unit is not None else right.unit
        if left.unit is not None and right.unit is not None:
            try:
                factor = right.unit.factor_to(left.unit)
            except ValueError as error:
                raise self._wrong(_unlike(left.unit, right.unit, verb), token) from error
            if factor != 1.0:
                self._scaled(right, factor)
        return _Term(left.at, left.start, unit, "number", None, left.streams | right.streams)

    def _product(self, token: Token, left: _Term, right: _Term) -> _Term:
        power = 1 if token.text == "*" else -1
        unit = None
        if left.unit is not None or right.unit is not None:
            unit = (left.unit or ONE).times(right.unit or ONE, power)
        streams = left.streams | right.streams
        term = _Term(left.at, left.start, unit, "number", None, streams)
        return self._plain(self._emit(token.text, [left, right], term))

    def _power(self, base: _Term, exponent: _Term) -> _Term:
        n = exponent.number
        if n is None or exponent.unit is not None:
            raise ExpressionError("an exponent must be a plain number", self._text, exponent.at)
        unit = base.unit
        if unit is not None and unit.dimension:
            if n != int(n) or abs(n) > POWERS:
                message = f"the exponent of {unit.code} must be a whole number up to {POWERS}"
                raise ExpressionError(message, self._text, exponent.at)
            unit = ONE.times(unit, int(n))
        return self._emit("**", [base, exponent], replace(base, unit=unit, counter=False))

    def _comparison(self, token: Token, left: _Term, right: _Term) -> _Term:
        for term in (left, right):
            if term.sort == "truth":
                hint = "write a < b and b < c" if self._last else "write it without a comparison"
                raise self._wrong(f"true or false cannot be compared: {hint}", token)
        middle = right.start
        alike = self._alike(left, right, token, "compared")
        term = self._emit(token.text, [left, right], replace(alike, sort="truth", unit=ONE))
        self._last = left.start, middle, alike.unit or ONE
        return term

    # ---- words and steps ----

    def _emit(self, name: str, parts: Sequence[_Term], result: _Term) -> _Term:
        """Add an operation; one of plain numbers only is done at once."""
        if all(part.number is not None for part in parts):
            value = folded(name, [step.number for step in self._steps[-len(parts) :]])
            if value != value:  # noqa: PLR0124 (NaN)
                raise ExpressionError("has no value", self._text, parts[0].at)
            self._steps[-len(parts) :] = [Step("number", value)]
            return replace(result, number=value)
        self._steps.append(Step(name))
        return replace(result, number=None)

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _expect(self, sign: str, opened: Token) -> None:
        token = self._tokens[self._next]
        if token.text != sign or token.kind != "sign":
            raise self._wrong(f'"{sign}" is missing after "{opened.text}"', token)
        self._next += 1

    def _wrong(self, message: str, token: Token) -> ExpressionError:
        return ExpressionError(message, self._text, token.at)


def _unlike(left: Unit, right: Unit, verb: str) -> str:
    """Return why two units cannot be added or compared, and what would be right."""
    message = f"{left.code} and {right.code} cannot be {verb}"
    if left.dimension == right.times(SECOND, -1).dimension:
        return f"{message}: take rate() of the {right.code}, or multiply the {left.code} by a time"
    if right.dimension == left.times(SECOND, -1).dimension:
        return f"{message}: take rate() of the {left.code}, or multiply the {right.code} by a time"
    return f"{message}: both sides must be of one kind"
