"""Lines for a person at a terminal: columns that stand under each other, Chinese ones too."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from unicodedata import combining, east_asian_width

Row = Sequence[str]

WIDE = 96  # places of a line; what is longer goes on below


def width(text: str) -> int:
    """Return how many places a text takes; a Chinese character takes two."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, places: int) -> str:
    """Return the text with spaces behind it, as wide as asked for or as it is."""
    return text + " " * (places - width(text))


def shortened(text: str, places: int) -> str:
    """Return the text, or as much of it as fits with an ellipsis at its end."""
    if width(text) <= places:
        return text
    kept = ""
    for character in text:
        if width(kept + character) > places - 1:
            break
        kept += character
    return kept + "…"


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the rows in columns."""
    held = [list(row) for row in rows]
    if not held:
        return
    widths = [max(map(width, column)) for column in zip(*held, strict=True)]
    for row in held:
        cells = (padded(cell, places) for cell, places in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def labelled(pairs: Iterable[tuple[str, str]], places: int = WIDE) -> Iterator[str]:
    """Yield ``label  text`` with the texts in one column, folded where they are long.

    A line of a text that begins with two spaces is kept as it is: it is aligned already.
    """
    held = list(pairs)
    indent = max((width(label) for label, _ in held), default=0) + 2
    for label, text in held:
        lines = [
            part
            for line in text.split("\n")
            for part in ([line] if line.startswith("  ") else _folded(line, places - indent))
        ]
        for i, line in enumerate(lines):
            yield (padded(label if i == 0 else "", indent) + line).rstrip()


def _folded(line: str, places: int) -> list[str]:
    return wrap(line, places, break_long_words=False, break_on_hyphens=False) or [""]
