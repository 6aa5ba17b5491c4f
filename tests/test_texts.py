"""Texts of devices: numbers in the block, words at every end."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import codec
from edge_agent.drivers.base import Vocabulary
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag, concatenate
from edge_agent.sinks.lines import Lines
from edge_agent.sinks.mqtt_payload import columns
from edge_agent.units import Unit

SCHEMA = Schema(
    "packer/raw",
    Family.SAMPLE,
    (Tag("speed", Unit.parse("1")), Tag("batch", Unit.parse("1"), Kind.TEXT)),
    1.0,
)


def rows(words: Vocabulary, *said: str | None, start: int = 1) -> SampleBlock:
    batch = [np.nan if text is None else float(words.index(text)) for text in said]
    value = np.array([[1.5] * len(said), batch])
    quality = np.where(np.isnan(value), Quality.BAD_NOT_AVAILABLE, 0).astype(np.uint8)
    time = np.arange(start, start + len(said), dtype=np.int64)
    return SampleBlock(SCHEMA, time, value, quality, {"batch": words.used(value[1])})


def test_a_block_is_read_without_any_other() -> None:
    sent = rows(Vocabulary(), "P.O42.5", None, "中热水泥")
    read = codec.decode(codec.encode(sent), Schema.from_canonical(SCHEMA.canonical))
    assert [read.text(1, row) for row in range(3)] == ["P.O42.5", None, "中热水泥"]
    assert read.texts == sent.texts


@given(st.lists(st.text(max_size=20), min_size=1, max_size=30))
def test_every_text_comes_back_from_the_log(said: list[str]) -> None:
    said = [text.encode("utf-8", "replace").decode() for text in said]
    sent = rows(Vocabulary(), *said)
    read = codec.decode(codec.encode(sent), SCHEMA)
    assert [read.text(1, row) for row in range(len(said))] == said
    assert read.lawful()


def test_blocks_of_one_stream_are_joined_with_their_words() -> None:
    words = Vocabulary()
    joined = concatenate([rows(words, "a", "b"), rows(words, "a", "c", start=3)])
    assert [joined.text(1, row) for row in range(4)] == ["a", "b", "a", "c"]


def test_a_number_is_never_given_to_another_text() -> None:
    words = Vocabulary(most=2)
    first = [words.index(text) for text in ("a", "b", "c")]
    assert first == [0, 1, 2]
    assert words.index("a") == 3  # forgotten and new: not the number of another
    again = Vocabulary.load(orjson.loads(orjson.dumps(words.save())), most=2)
    assert [again.index(text) for text in ("c", "a", "d")] == [2, 3, 4]


def test_a_broker_gets_words() -> None:
    for block in (
        rows(Vocabulary(), "a", None),
        rows(Vocabulary(), *["a", None, "b", "a", "b", "b"]),
    ):
        sent = orjson.loads(columns(block))
        assert sent["v"]["batch"] == [block.text(1, row) for row in range(len(block))]
        assert sent["v"]["speed"] == [1.5] * len(block)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("P.O42.5", '"P.O42.5"'),
        ('a "b"\\c', '"a \\"b\\"\\\\c"'),
        ("two\nlines, and = %", '"two lines, and = %"'),
    ],
)
def test_a_database_gets_a_string_field(said: str, field: str) -> None:
    (line,) = Lines(SCHEMA, "demo").of(rows(Vocabulary(), said))
    assert line == f"sample,device=packer,site=demo,stream=raw speed=1.5,batch={field},quality=0i 1"


def test_a_text_that_is_bad_is_left_out() -> None:
    first, second = Lines(SCHEMA, "demo").of(rows(Vocabulary(), None, "a"))
    assert "batch=" not in first
    assert "batch.q=131i" in first
    assert 'batch="a"' in second
