"""The block, its schema and the quality that goes with every value."""

import json

import numpy as np
import pytest

from edge_agent.model import (
    Family,
    Kind,
    Quality,
    SampleBlock,
    Schema,
    Tag,
    concatenate,
    no_answer,
)
from edge_agent.units import Unit

SCHEMA = Schema(
    "em-kiln/raw",
    Family.SAMPLE,
    (
        Tag("active_power", Unit.parse("kW"), low=0, high=6000),
        Tag("energy", Unit.parse("kWh"), Kind.COUNTER, modulus=1e6, max_rate=2.5),
    ),
    1.0,
)


def block(*rows: tuple[int, float, float]) -> SampleBlock:
    time, *columns = zip(*rows, strict=True)
    quality = np.zeros((2, len(rows)), np.uint8)
    return SampleBlock(SCHEMA, np.array(time, np.int64), np.array(columns), quality)


def test_a_block_cannot_be_changed() -> None:
    found = block((1, 2.0, 3.0))
    for array in (found.time, found.value, found.quality):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_signal_is_one_contiguous_run() -> None:
    found = block((1, 2.0, 3.0), (2, 4.0, 5.0))
    assert found["energy"].flags.c_contiguous
    assert list(found["energy"]) == [3.0, 5.0]
    assert list(found.rows(1, 2)["active_power"]) == [4.0]


def test_a_block_of_another_shape_than_its_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="em-kiln/raw"):
        SampleBlock(SCHEMA, np.zeros(1, np.int64), np.zeros((3, 1)), np.zeros((3, 1), np.uint8))


def test_a_silent_device_gives_a_lawful_row_without_a_number() -> None:
    row = no_answer(SCHEMA, 7)
    assert row.lawful()
    assert np.all(np.isnan(row.value))
    assert np.all(row.quality == Quality.BAD_NO_ANSWER)


def test_blocks_are_joined_in_the_order_given() -> None:
    joined = concatenate([block((1, 1.0, 1.0)), block((2, 2.0, 2.0), (3, 3.0, 3.0))])
    assert list(joined.time) == [1, 2, 3]
    assert list(joined["energy"]) == [1.0, 2.0, 3.0]


def test_a_schema_survives_being_written_and_read() -> None:
    again = Schema.from_canonical(SCHEMA.canonical)
    assert again == SCHEMA
    assert again.id == SCHEMA.id


def test_a_canonical_schema_is_one_sorted_json_text_whatever_its_names_hold() -> None:
    tags = (Tag('a","tags":[', Unit.parse("kW")), Tag("}]", Unit.parse("1"), low=0.5))
    odd = Schema('x/","tags":', Family.SAMPLE, tags, 1.0)
    for schema in (SCHEMA, odd, Schema("x/raw", Family.SAMPLE, (), 1.0)):
        text = schema.canonical
        whole = json.dumps(
            json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        assert text == whole
        assert Schema.from_canonical(text) == schema


def test_devices_of_one_model_share_their_signals() -> None:
    tags = tuple(Tag(tag.name, tag.unit, tag.kind, tag.modulus) for tag in SCHEMA.tags)
    other = Schema("em-mill/raw", Family.SAMPLE, tags, 1.0)
    again = Schema("em-3/raw", Family.SAMPLE, tuple(tags), 1.0)
    assert other.tags is again.tags
    assert other.tags == tags


@pytest.mark.parametrize(
    "changed",
    [
        Schema("em-mill/raw", SCHEMA.family, SCHEMA.tags, SCHEMA.period),
        Schema(SCHEMA.stream, Family.SLOT, SCHEMA.tags, SCHEMA.period),
        Schema(SCHEMA.stream, SCHEMA.family, SCHEMA.tags[::-1], SCHEMA.period),
        Schema(SCHEMA.stream, SCHEMA.family, SCHEMA.tags, 2.0),
    ],
)
def test_the_id_of_a_schema_says_what_its_columns_mean(changed: Schema) -> None:
    assert changed.id != SCHEMA.id


def test_owner_and_name_are_the_parts_of_the_stream_id() -> None:
    assert (SCHEMA.owner, SCHEMA.name) == ("em-kiln", "raw")
    assert SCHEMA.columns(["energy"]).tolist() == [1]


def test_quality_is_ordered_by_severity_in_its_top_bits() -> None:
    assert max(Quality.GOOD, Quality.UNCERTAIN_CLOCK, Quality.BAD_DEVICE) is Quality.BAD_DEVICE
    assert {q & 0xC0 for q in Quality if q.name.startswith("BAD")} == {0x80}
    assert {q & 0xC0 for q in Quality if q.name.startswith("UNCERTAIN")} == {0x40}
    assert {q & 0xC0 for q in Quality if q.name.startswith("GOOD")} == {0x00}


def test_the_numbers_of_the_qualities_are_those_of_the_contract() -> None:
    assert {q.value for q in Quality} == {
        0, 1, 64, 65, 66, 67, 68, 69, 70, 71, 128, 129, 130, 131, 132, 133, 191,
    }  # fmt: skip
