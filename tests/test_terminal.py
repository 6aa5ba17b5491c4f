"""Lines for a terminal: every column begins at one place, whatever the script."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.terminal import labelled, padded, shortened, table, width

cells = st.text("ab1 窑磨电°é·—㎥", max_size=12).map(str.strip)
rows = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=6)
)


@settings(deadline=None)
@given(rows)
def test_columns_stand_under_each_other(held: list[list[str]]) -> None:
    widths = [max(map(width, column)) for column in zip(*held, strict=True)]
    for row, line in zip(held, table(held), strict=True):
        begin = 0
        for cell, places in zip(row, widths, strict=True):
            rest = line
            while rest and width(line) - width(rest) < begin:
                rest = rest[1:]
            assert rest.startswith(cell)
            begin += places + 2


@settings(deadline=None)
@given(cells, st.integers(1, 20))
def test_a_shortened_text_fits_and_says_that_it_is_one(text: str, places: int) -> None:
    short = shortened(text, places)
    assert width(short) <= places
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))
    assert width(padded(short, places)) == places


def test_chinese_takes_two_places_and_a_combining_mark_none() -> None:
    assert [width(text) for text in ("kiln", "回转窑", "e\N{COMBINING ACUTE ACCENT}")] == [4, 6, 1]


def test_long_texts_are_folded_below_themselves() -> None:
    told = list(labelled([("a", "word " * 30), ("long label", "  1  kept as it is")], 60))
    assert all(width(line) <= 60 for line in told)
    assert told[0].startswith("a           word")
    assert told[1].startswith("            word")
    assert told[-1] == "long label    1  kept as it is"
