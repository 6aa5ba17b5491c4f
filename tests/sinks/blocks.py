"""Blocks as the tests of the sinks send them."""

import numpy as np

from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Site, Tag
from edge_agent.units import Unit

START = 1_763_778_000_000_000_000
SECOND = 1_000_000_000
SITE = Site("demo-cement", "main", "示范水泥厂")


def schema(
    stream: str = "em-kiln/raw", *names: str, family: Family = Family.SAMPLE, state: str = "running"
) -> Schema:
    """A stream with gauges of the names given; one called like ``state`` is a state."""
    tags = tuple(
        Tag(name, Unit.parse("1"), Kind.STATE)
        if name == state
        else Tag(name, Unit.parse("kW"), Kind.GAUGE)
        for name in names or ("active_power", "voltage_l1")
    )
    return Schema(stream, family, tags, 1.0)


def block(columns: Schema, n: int = 3, *, first: int = 0, seed: int = 1) -> SampleBlock:
    """n rows, a second apart; the first value of the second row is BAD if there is one."""
    rng = np.random.default_rng(seed)
    k = len(columns.tags)
    value = rng.normal(400.0, 100.0, (k, n))
    quality = np.zeros((k, n), np.uint8)
    for i, tag in enumerate(columns.tags):
        if tag.kind is Kind.STATE:
            value[i] = np.floor(value[i])
    if n > 1:
        value[0, 1], quality[0, 1] = np.nan, Quality.BAD_NO_ANSWER
    time = START + (first + np.arange(n, dtype=np.int64)) * SECOND
    return SampleBlock(columns, time, value, quality)


Row = tuple[str, int, dict[str, float]]


def rows(blocks: list[SampleBlock]) -> list[Row]:
    """The rows of blocks as (stream, ms, values that are there), to compare with a peer's."""
    return [
        (
            b.schema.stream,
            int(b.time[i]) // 1_000_000,
            {
                tag.name: float(b.value[j, i])
                for j, tag in enumerate(b.schema.tags)
                if b.quality[j, i] < Quality.BAD
            },
        )
        for b in blocks
        for i in range(len(b))
    ]
