"""One message per row: what readers find in it, and that nothing of a block is lost."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import Family, Gap, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.sinks.mqtt_payload import MOST_VALUES, columns, gap, pieces, rows
from edge_agent.units import Unit
from tests.sinks.blocks import block, schema

KILN = schema("em-kiln/raw")
PACKER = Schema(
    "packer/raw",
    Family.SAMPLE,
    (Tag("running", Unit.parse("1"), Kind.STATE), Tag("batch", Unit.parse("1"), Kind.TEXT)),
    1.0,
)


def test_a_row_is_a_flat_object() -> None:
    time = np.array([1763778000000, 1763778001000], np.int64) * 1_000_000
    value = np.array([[412.5, np.nan], [0.1, 1e300]])
    quality = np.array([[0, 129], [0, 0]], np.uint8)
    sent = SampleBlock(KILN, time, value, quality)
    assert rows(sent) == [
        b'{"t":1763778000000,"active_power":412.5,"voltage_l1":0.1}',
        b'{"t":1763778001000,"active_power":null,"voltage_l1":1e+300,"q":{"active_power":129}}',
    ]
    assert rows(sent, backlog=True)[0].endswith(b'0.1,"h":1}')


def test_states_and_texts_stand_in_a_row_as_in_columns() -> None:
    value = np.array([[3.0, 4.0], [7.0, np.nan]])
    quality = np.array([[0, 64], [0, 131]], np.uint8)
    sent = SampleBlock(
        PACKER, np.array([10**9, 2 * 10**9]), value, quality, {"batch": {7: '中"热'}}
    )
    first, second = map(orjson.loads, rows(sent))
    assert first == {"t": 1000, "running": 3.0, "batch": '中"热'}
    assert second == {"t": 2000, "running": 4.0, "batch": None, "q": {"running": 64, "batch": 131}}


def test_derived_rows_name_their_schema_and_gaps_have_a_time() -> None:
    hours = Schema("clinker/1h", Family.ENERGY, KILN.tags, 3600.0, ("config:1f",))
    (sent,) = rows(
        SampleBlock(hours, np.array([10**9]), np.ones((2, 1)), np.zeros((2, 1), np.uint8))
    )
    assert orjson.loads(sent)["s"] == hours.id
    dropped = Gap(KILN, 5_000_000, 9_000_000, 120, "bytes")
    assert gap(dropped, "rows", backlog=True) == (
        b'{"t":5,"gap":{"from":5,"to":9,"rows":120,"reason":"bytes"},"h":1}'
    )


def test_a_tag_with_the_name_of_another_key_keeps_its_value() -> None:
    names = schema("em/raw", "t", "q", "s", "h", "gap")
    quality = np.array([[0], [64], [0], [0], [0]], np.uint8)
    sent = SampleBlock(names, np.array([10**9]), np.arange(5.0).reshape(5, 1), quality)
    (read,) = map(orjson.loads, rows(sent, backlog=True))
    assert read == {"t": 1000, "t.value": 0, "q.value": 1, "s.value": 2, "h.value": 3,
                    "gap.value": 4, "q": {"q.value": 64}, "h": 1}  # fmt: skip


QUALITIES = st.sampled_from(list(Quality))


@given(st.data())
def test_rows_and_columns_hold_the_same_to_the_last_bit(data: st.DataObject) -> None:
    k, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    names = schema("em/raw", *(f"x{i}" for i in range(k)))
    quality = np.array(
        data.draw(st.lists(QUALITIES, min_size=k * n, max_size=k * n)), np.uint8
    ).reshape(k, n)
    finite = st.floats(allow_nan=False, allow_infinity=False)
    value = np.array(data.draw(st.lists(finite, min_size=k * n, max_size=k * n))).reshape(k, n)
    value = np.where(quality >= Quality.BAD, np.nan, value)
    sent = SampleBlock(names, np.arange(n, dtype=np.int64) * 10**6, value, quality)
    whole, single = orjson.loads(columns(sent)), [orjson.loads(row) for row in rows(sent)]
    assert [row["t"] for row in single] == whole["t"]
    for i, row in enumerate(single):
        for name in names.index:
            assert repr(row[name]) == repr(whole["v"][name][i])
            assert row.get("q", {}).get(name, 0) == whole["q"].get(name, [0] * n)[i]


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_a_long_block_is_cut_and_every_row_is_sent_once(kind: str) -> None:
    sent = block(KILN, MOST_VALUES + 3)
    cut = list(pieces(sent, kind, backlog=False, largest=10**9))  # type: ignore[arg-type]
    assert [row for span, _ in cut for row in span] == list(range(len(sent)))
    assert len(cut) == (3 if kind == "columns" else len(sent))
    ((span, _),) = pieces(block(KILN, 60), "columns", backlog=False, largest=10**9)
    assert span == range(60)


@given(st.integers(1, 400), st.integers(60, 3000))
def test_a_block_is_cut_until_its_messages_are_small_enough(n: int, largest: int) -> None:
    cut = list(pieces(block(KILN, n), "columns", backlog=True, largest=largest))
    assert [row for span, _ in cut for row in span] == list(range(n))
    assert all(len(text) <= largest or len(span) == 1 for span, text in cut)
    assert [len(orjson.loads(text)["t"]) for _, text in cut] == [len(span) for span, _ in cut]
