"""Line protocol against the published grammar, read back by a parser written here."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import Family, Gap, Kind, Quality, SampleBlock, Schema, Tag
from edge_agent.sinks.lines import PATTERNS, Lines, gap_line
from edge_agent.units import Unit
from tests.sinks.blocks import START, block, schema

Parsed = tuple[str, dict[str, str], dict[str, float | int], int]


def parse(line: str) -> Parsed:
    """Measurement, tags, fields and time of a line without text fields."""
    head, fields, time = re.split(r"(?<!\\) ", line)

    def pairs(text: str) -> list[tuple[str, str]]:
        cut = [re.split(r"(?<!\\)=", part) for part in re.split(r"(?<!\\),", text)]
        return [(re.sub(r"\\([,= ])", r"\1", k), re.sub(r"\\([,= ])", r"\1", v)) for k, v in cut]

    measurement, _, tags = head.partition(",")
    numbers = {k: int(v[:-1]) if v.endswith("i") else float(v) for k, v in pairs(fields)}
    assert len(numbers) == len(pairs(fields)), "a field stands twice"
    return measurement, dict(pairs(tags)), numbers, int(time)


def test_a_sample_is_written_as_the_contract_says() -> None:
    columns = schema("em-kiln/raw.slow", "active_power", "voltage l1", "running")
    value = np.array([[412.5, np.nan], [1e-7, 230.0], [3.0, 4.0]])
    quality = np.array([[0, 129], [0, 65], [0, 0]], np.uint8)
    written = Lines(columns, "demo").of(
        SampleBlock(columns, np.array([5, 6], np.int64), value, quality)
    )
    series = "sample,device=em-kiln,site=demo,stream=raw.slow "
    assert written == [
        series + "active_power=412.5,voltage\\ l1=1e-7,running=3i,quality=0i 5",
        series
        + "voltage\\ l1=230.0,running=4i,quality=129i,active_power.q=129i,voltage\\ l1.q=65i 6",
    ]


def test_a_derived_row_has_the_metric_and_its_window() -> None:
    columns = schema("clinker/1h", "intensity", family=Family.ENERGY)
    (line,) = Lines(columns, "demo").of(block(columns, 1))
    assert line.startswith("energy,metric=clinker,site=demo,window=1h intensity=")
    assert line.endswith(f",quality=0i {START}")


def test_a_derived_row_names_the_schema_that_says_what_it_rests_on() -> None:
    bare = schema("clinker/1h", "intensity", family=Family.ENERGY)
    columns = replace(bare, provenance=("config:1f", "standard_coal:electricity"))
    (line,) = Lines(columns, "demo").of(block(columns, 1))
    assert line.startswith(
        f'energy,metric=clinker,site=demo,window=1h schema="{columns.id}",intensity='
    )


def test_a_row_without_any_value_still_has_a_line() -> None:
    columns = schema("em-kiln/raw", "a", "b")
    silent = SampleBlock(
        columns, np.array([7], np.int64), np.full((2, 1), np.nan), np.full((2, 1), 129, np.uint8)
    )
    (line,) = Lines(columns, "demo").of(silent)
    assert parse(line)[2] == {"quality": 129, "a.q": 129, "b.q": 129}


def test_a_tag_called_quality_does_not_hide_the_quality() -> None:
    columns = schema("lab/raw", "quality")
    (line,) = Lines(columns, "demo").of(
        SampleBlock(columns, np.array([7], np.int64), np.array([[0.5]]), np.zeros((1, 1), np.uint8))
    )
    assert parse(line)[2] == {"quality.value": 0.5, "quality": 0}


def test_an_infinite_number_is_left_out_like_a_bad_one() -> None:
    columns = schema("lab/raw", "a", "running")
    value = np.array([[np.inf], [-np.inf]])
    (line,) = Lines(columns, "demo").of(
        SampleBlock(columns, np.array([7], np.int64), value, np.zeros((2, 1), np.uint8))
    )
    assert parse(line)[2] == {"quality": 128, "a.q": 128, "running.q": 128}


def test_a_state_beyond_all_sense_is_still_an_integer() -> None:
    columns = schema("lab/raw", "running")
    value = np.array([[1e300, -1e300, 7.0]])
    written = Lines(columns, "demo").of(
        SampleBlock(columns, np.arange(3), value, np.zeros((1, 3), np.uint8))
    )
    assert [parse(line)[2]["running"] for line in written] == [2**53, -(2**53), 7]


def test_a_gap_stands_at_its_first_row() -> None:
    gap = Gap(schema("em-kiln/raw"), 5, 9, 120, "bytes")
    assert gap_line(gap, "demo") == "gap,name=raw,owner=em-kiln,site=demo rows=120i,to=9i 5"


NAMES = st.lists(
    st.text(st.sampled_from("ab%,= é.q"), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
    unique=True,
)


@given(st.data(), NAMES)
def test_every_line_reads_back_to_the_row_that_it_was_written_from(
    data: st.DataObject, names: list[str]
) -> None:
    names = [f"{i}{name}_" for i, name in enumerate(names)]
    kinds = [data.draw(st.sampled_from([Kind.GAUGE, Kind.STATE])) for _ in names]
    tags = tuple(Tag(n, Unit.parse("1"), k) for n, k in zip(names, kinds, strict=True))
    columns = Schema("dev %s/raw", Family.SAMPLE, tags, 1.0)
    n = data.draw(st.integers(1, 5))
    quality = np.array(
        [[data.draw(st.sampled_from(list(Quality))) for _ in range(n)] for _ in tags], np.uint8
    )
    gauges = st.floats(allow_nan=False, allow_infinity=False)
    states = st.integers(-(2**31), 2**31).map(float)
    value = np.array(
        [[data.draw(states if k is Kind.STATE else gauges) for _ in range(n)] for k in kinds]
    )
    value[quality >= Quality.BAD] = np.nan
    time = np.arange(n, dtype=np.int64) * 10**9 + START
    written = Lines(columns, "a b").of(SampleBlock(columns, time, value, quality))
    for i, line in enumerate(written):
        measurement, series, fields, stamp = parse(line)
        assert measurement == "sample"
        assert series == {"device": "dev %s", "site": "a b", "stream": "raw"}
        assert stamp == time[i]
        expected: dict[str, float] = {"quality": int(quality[:, i].max())}
        for j, name in enumerate(names):
            if quality[j, i] != Quality.GOOD:
                expected[name + ".q"] = int(quality[j, i])
            if quality[j, i] < Quality.BAD:
                expected[name] = value[j, i]
                assert isinstance(fields[name], int) == (kinds[j] is Kind.STATE)
        assert fields == expected


@pytest.mark.parametrize("rows", [1, PATTERNS * 2])
def test_many_patterns_of_quality_do_not_grow_the_writer(rows: int) -> None:
    columns = schema("em/raw", "a", "b")
    writer = Lines(columns, "demo")
    qualities = np.array([np.arange(rows) % 120, np.arange(rows) // 120], np.uint8)
    time = np.arange(rows, dtype=np.int64)
    written = writer.of(SampleBlock(columns, time, np.ones((2, rows)), qualities))
    assert len(written) == rows
    assert len(writer._frames) <= PATTERNS
