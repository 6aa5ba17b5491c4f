"""Which numbers of the log a reader has passed: pure arithmetic on spans.

A span ``(start, stop)`` holds the numbers behind ``start`` up to ``stop``; it may be empty. What a
reader has passed is a sorted tuple of spans that do not touch. The first begins at 0 and ends at
the *cursor*. After an outage another one begins where the reader went on with what was newest: what
is between them is its backlog. The last one ends where the live lane stands.
"""

from collections.abc import Sequence

Span = tuple[int, int]
Spans = tuple[Span, ...]

START: Spans = ((0, 0),)
END = (1 << 63) - 1  # above every number


def joined(spans: Sequence[Span], more: Span) -> Spans:
    """Return the spans with one more; those that touch become one."""
    found: list[Span] = []
    for start, stop in sorted((*spans, more)):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def without(spans: Sequence[Span], less: Sequence[Span]) -> list[Span]:
    """Return the numbers of spans that are in none of the others."""
    left = []
    for begin, stop in spans:
        start = begin
        for low, high in less:
            if high <= start or low >= stop:
                continue
            if low > start:
                left.append((start, low))
            start = high
        if start < stop:
            left.append((start, stop))
    return left


def between(spans: Spans) -> list[Span]:
    """Return what is not passed: the backlog, oldest first, and the live lane, which is last."""
    stops = (*(start for start, _ in spans[1:]), END)
    return [(span[1], stop) for span, stop in zip(spans, stops, strict=True)]


def holds(spans: Sequence[Span], number: int) -> bool:
    """Return whether a number is in one of the spans."""
    return any(start < number <= stop for start, stop in spans)
