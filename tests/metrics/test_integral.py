"""Amounts of gauges: the trapezoid of the readings, over no outage, whatever the blocks are."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.metrics.base import Metric, QualityLimits
from edge_agent.metrics.formula import SHARES, Sums, merged
from edge_agent.metrics.integral import amount_unit
from edge_agent.metrics.join import Inputs, Integral, SlotFormula
from edge_agent.model import F64, U8, Family, Kind, Quality, SampleBlock, Tag
from edge_agent.units import Unit
from tests.metrics import oracle
from tests.metrics.plants import (
    SECOND,
    START,
    Works,
    as_oracle,
    interleaved,
    operators,
    plant_rows,
    restored,
    run,
    same,
)

MINUTE = 60 * SECOND


class Amount(SlotFormula):
    """One amount, as it is."""

    family = Family.ENERGY
    additive = ("amount",)
    scale = np.ones(1)
    limits = QualityLimits()

    def __init__(self, part: Integral) -> None:
        self.part = part

    @property
    def tags(self) -> tuple[Tag, ...]:
        return (Tag("amount", self.part.unit), *SHARES)

    def base(self, ends, rows) -> Sums:
        sums = Sums.zeros(1, len(ends))
        value, quality, sums.covered, sums.estimated = self.part.read(ends, rows)
        sums.set(0, value, quality)
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        return sums.total, merged(sums, self.limits)


def build(tag: str = "em-a.power") -> list[Metric]:
    inputs = Inputs(Works())
    part = inputs.amount(tag)
    assert isinstance(part, Integral)
    return inputs.metrics("kpi", Amount(part), ("1min", "15min"))


def readings(*rows: tuple[float, float | None]) -> SampleBlock:
    """Rows of the meter's power at seconds after the start; None: no answer."""
    schema = Works().raw("em-a.power")
    value = np.full((len(schema.tags), len(rows)), np.nan)
    value[schema.index["power"]] = [np.nan if v is None else v for _, v in rows]
    time = np.array([START + round(s * SECOND) for s, _ in rows], np.int64)
    return SampleBlock(schema, time, value, np.where(np.isnan(value), 129, 0).astype(np.uint8))


def amounts(*rows: tuple[float, float | None]) -> SampleBlock:
    return run(build(), [readings(*rows)])["kpi/1min"]


@pytest.mark.parametrize(
    ("rate", "amount", "seconds"),
    [
        ("kW", "kWh", 3600.0),
        ("MW", "MWh", 3600.0),
        ("kvar", "kvarh", 3600.0),
        ("t/h", "t", 3600.0),
        ("Nm3/h", "Nm3", 3600.0),
        ("m3/min", "m3", 60.0),
        ("kg/s", "kg", 1.0),
        ("GJ/h", "GJ", 3600.0),
        ("t.h-1", "t", 3600.0),
        ("k[VA]", "k[VA].h", 3600.0),
    ],
)
def test_the_unit_of_an_amount(rate: str, amount: str, seconds: float) -> None:
    unit, per = amount_unit(Unit.parse(rate))
    assert (unit.code, per) == (amount, seconds)
    assert unit.factor == pytest.approx(Unit.parse(rate).factor * per)


@pytest.mark.parametrize("unit", ["kWh", "mg/m3", "%", "Cel", "t", "kPa", "V"])
def test_what_is_no_rate_has_no_amount(unit: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        amount_unit(Unit.parse(unit))


def test_a_straight_line_has_the_amount_of_its_triangle() -> None:
    block = amounts(*[(float(s), 36.0 * s) for s in range(0, 181, 5)])
    assert block["amount"].tolist() == [pytest.approx(v) for v in (18.0, 54.0, 90.0)]
    assert block["coverage"].tolist() == [1.0] * 3
    assert not block.quality.any()


def test_a_border_between_two_readings_is_on_the_line_between_them() -> None:
    block = amounts(*[(s + 2.5, 36.0 * (s + 2.5)) for s in range(-5, 130, 5)])
    assert block["amount"][1:].tolist() == [pytest.approx(v) for v in (18.0, 54.0)]


def test_an_on_off_load_is_counted_once() -> None:
    rows = [(5.0 * i, 720.0 * (i % 2)) for i in range(13)]
    assert amounts(*rows)["amount"].tolist() == [pytest.approx(6.0)]


def test_nothing_is_made_up_for_an_outage() -> None:
    rows = [(float(s), 3600.0) for s in range(0, 185, 5) if not 20 < s < 40]
    block = amounts(*rows)
    assert block["amount"].tolist() == [pytest.approx(v) for v in (40.0, 60.0, 60.0)]
    assert block["coverage"].tolist() == [pytest.approx(40 / 60), 1.0, 1.0]
    assert block.quality[0].tolist() == [Quality.UNCERTAIN, 0, 0]
    assert not block["estimated"].any()


def test_two_missing_readings_are_no_outage() -> None:
    rows: list[tuple[float, float | None]] = [(float(s), 3600.0) for s in range(0, 65, 5)]
    rows[4], rows[5] = (20.0, None), (25.0, None)
    assert amounts(*rows)["amount"].tolist() == [pytest.approx(60.0)]


def test_a_minute_without_readings_is_bad_and_its_hour_is_not() -> None:
    rows: list[tuple[float, float | None]] = [(float(s), 3600.0) for s in range(0, 960, 5)]
    rows[14:36] = [(s, None) for s, _ in rows[14:36]]
    found = run(build(), [readings(*rows)])
    assert found["kpi/1min"].quality[0, 1:3].tolist() == [Quality.UNCERTAIN, Quality.BAD_MISSING]
    assert found["kpi/15min"]["amount"].tolist() == [pytest.approx(900.0 - 115.0)]
    assert found["kpi/15min"].quality[0].tolist() == [Quality.UNCERTAIN]


def test_a_state_and_a_temperature_have_no_amount() -> None:
    with pytest.raises(ValueError, match="must be a counter or a gauge"):
        Inputs(Works()).amount("packer.state")
    with pytest.raises(ValueError, match="is no rate"):
        Inputs(Works()).amount("cems.o2")


def test_a_counter_is_read_as_the_counter_it_is() -> None:
    assert Works().raw("em-a.energy").tags[1].kind is Kind.COUNTER
    assert Inputs(Works()).amount("em-a.energy") == Inputs(Works()).increment("em-a.energy")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), tag=st.sampled_from(["em-a.power", "cems.flow"]))
def test_any_partition_has_the_bits_of_the_slow_version(seed: int, tag: str) -> None:
    random, schema = Random(seed), Works().raw(tag)
    rows = {schema.stream: plant_rows(seed)[schema.stream]}
    whole = run(build(tag), [rows[schema.stream]])["kpi/1min"]
    for longest, late in ((1, 0.0), (8, 15.0)):
        cut = interleaved(rows, random, longest, late)
        same(whole, run(build(tag), cut)["kpi/1min"])
    fresh = {metric.output.stream: metric for metric in (*operators(), *build(tag))}

    def renew(metric: Metric) -> Metric:
        return metric if random.random() > 0.3 else restored(build(tag)[0], metric)

    minutes = [fresh["kpi/1min"]]
    same(whole, run(minutes, interleaved(rows, random, 4, 0.0), renew)["kpi/1min"])
    slow = oracle.integrals(as_oracle(rows[schema.stream]), tag.partition(".")[2], 3600.0)
    for i, end in enumerate(whole.time.tolist()):
        wanted, quality, covered = slow.get(end, (0.0, oracle.MISSING, 0))
        assert whole.quality[0, i] == quality
        assert whole["coverage"][i] == covered / MINUTE
        if quality < oracle.BAD:
            assert whole.value[0, i] == pytest.approx(wanted, rel=1e-12)
