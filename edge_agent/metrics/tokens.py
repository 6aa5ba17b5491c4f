"""The words of an expression: numbers, names, units and signs, each with its place in the text."""

import re
from dataclasses import dataclass
from typing import Literal

LONGEST = 2000  # characters of an expression
MOST = 500  # words of it

KEYWORDS = ("and", "or", "not")
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_UNIT = re.compile(r"(?:[^\W\d]|[%°\[{])[\w%°\[\]{}./]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_QUOTED = re.compile(r"`([^`]*)`")
_SIGN = re.compile(r"\*\*|<=|>=|==|!=|[-+*/<>(),]")

Kind = Literal["number", "name", "word", "sign", "end"]


class ExpressionError(ValueError):
    """What is wrong with an expression: one line, and where in the text it stands."""

    def __init__(self, message: str, text: str, at: int) -> None:
        self.what = message  # without the place
        where = "at its end" if at >= len(text.rstrip()) else f"at character {at + 1}"
        super().__init__(f"{message} ({where})")


@dataclass(frozen=True, slots=True)
class Token:
    """One word.

    kind  ``number`` (with its unit, if one is written behind it), ``name`` (owner.column),
          ``word`` (a function, and, or, not), ``sign``, ``end``
    """

    kind: Kind
    text: str
    at: int
    number: float = 0.0
    unit: str | None = None


def tokens(text: str) -> list[Token]:
    """Return the words of an expression, an ``end`` behind them.

    errors  ``ExpressionError``
    """
    if len(text) > LONGEST:
        raise ExpressionError(f"is longer than {LONGEST} characters", text, LONGEST)
    found: list[Token] = []
    at = _skip(text, 0)
    while at < len(text):
        token, at = _token(text, at)
        found.append(token)
        if len(found) > MOST:
            raise ExpressionError(f"has more than {MOST} words", text, token.at)
        at = _skip(text, at)
    return [*found, Token("end", "", len(text))]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _token(text: str, at: int) -> tuple[Token, int]:
    if match := _NUMBER.match(text, at):
        return _number(text, at, match.group(), match.end())
    if match := _NAME.match(text, at):
        name = match.group()
        return Token("name" if "." in name else "word", name, at), match.end()
    if match := _QUOTED.match(text, at):
        return Token("name", match.group(1), at), match.end()
    if match := _SIGN.match(text, at):
        return Token("sign", match.group(), at), match.end()
    meant = {"^": "**", "=": "==", "&": "and", "|": "or", "!": "not", "×": "*", "÷": "/", "−": "-"}
    hint = f": write {meant[text[at]]}" if text[at] in meant else ""
    raise ExpressionError(f'"{text[at]}" has no meaning here{hint}', text, at)


def _number(text: str, at: int, digits: str, end: int) -> tuple[Token, int]:
    number = float(digits)
    if number == float("inf"):
        raise ExpressionError(f"{digits} is too large a number", text, at)
    match = _UNIT.match(text, _skip(text, end))
    if match is None or match.group() in KEYWORDS:
        return Token("number", digits, at, number), end
    return Token("number", text[at : match.end()], at, number, match.group()), match.end()
