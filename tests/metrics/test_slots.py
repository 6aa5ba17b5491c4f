"""Slots of streams that are read more seldom than once a minute."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.metrics.slots import SlotOperator
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema, Tag, concatenate
from edge_agent.units import Unit

PERIOD = 150  # seconds; a value holds for three of them at most
TAGS = (
    Tag("power", Unit.parse("kW")),
    Tag("running", Unit.parse("1"), Kind.STATE),
    Tag("energy", Unit.parse("kWh"), Kind.COUNTER),
)
RAW = Schema("m/raw", Family.SAMPLE, TAGS, float(PERIOD))
SECOND = 1_000_000_000
MEAN = SlotOperator(RAW).output.index["power.mean"]


@st.composite
def scans(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """Time in s, value and whether it is good, of reads that come early, late or not at all."""
    rows, t = [], draw(st.integers(0, 120))
    for _ in range(draw(st.integers(2, 10))):
        rows.append((t, draw(st.integers(0, 9)), draw(st.integers(0, 5)) > 0))
        t += draw(st.sampled_from([PERIOD, PERIOD, 60, 61, 119, 2 * PERIOD, 5 * PERIOD, 450, 480]))
    return rows


def block(rows: list[tuple[int, int, bool]]) -> SampleBlock:
    time = np.array([t for t, _, _ in rows], np.int64) * SECOND
    good = np.array([g for _, _, g in rows])
    level = np.array([float(v) for _, v, _ in rows])
    value = np.where(good, [level, level % 2, np.arange(len(rows)) * 1.0], np.nan)
    quality = np.where(good, 0, Quality.BAD_DEVICE).astype(np.uint8)
    return SampleBlock(RAW, time, value, np.tile(quality, (3, 1)))


def held(rows: list[tuple[int, int, bool]], second: int) -> int | None:
    """Return the value that holds in a second."""
    past = [row for row in rows if row[0] <= second]
    if not past or not past[-1][2] or second - past[-1][0] >= 3 * PERIOD:
        return None
    return past[-1][1]


@settings(max_examples=150)
@given(scans())
def test_a_value_holds_over_all_slots_up_to_the_next_read(
    rows: list[tuple[int, int, bool]],
) -> None:
    operator = SlotOperator(RAW)
    given_rows = block(rows)
    parts = [operator.update(given_rows.rows(i, i + 1)) for i in range(len(rows))]
    slots = [part for part in parts if part is not None]
    whole = SlotOperator(RAW).update(given_rows)
    if not slots:
        assert whole is None
        return
    found = concatenate(slots)
    assert whole is not None
    np.testing.assert_array_equal(found.value, whole.value)

    known: int | None = None
    seen = int(found.time[0]) // SECOND - 60
    for i, end in enumerate((found.time // SECOND).tolist()):
        assert end == seen + 60
        levels = [held(rows, second) for second in range(seen, end)]
        seen = end
        good = [v for v in levels if v is not None]
        share = len(good) / 60
        assert found["power.coverage"][i] == pytest.approx(share)
        assert found["running.coverage"][i] == pytest.approx(share)
        states = [v % 2 for v in good]
        before = [known, *states] if known is not None else states
        changes = sum(a != b for a, b in pairwise(before))
        known = states[-1] if states else known
        if share < 0.5:
            assert found.quality[MEAN, i] == Quality.BAD_MISSING
            continue
        assert found["power.mean"][i] == pytest.approx(np.mean(good))
        assert (found["power.min"][i], found["power.max"][i]) == (min(good), max(good))
        assert found["running.last"][i] == states[-1]
        assert found["running.changes"][i] == changes
        graded = Quality.GOOD if share >= 0.95 else Quality.UNCERTAIN
        assert found.quality[MEAN, i] == graded
