"""Energy by product and by batch: worked examples, and batches against their oracle."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from edge_agent.agent import ordered
from edge_agent.metrics.base import Metric, MetricConfig
from edge_agent.metrics.batch import Batches
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.product import ProductConfig, ProductTag
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema
from edge_agent.outbox_schema import as_json
from tests.metrics.examples import product
from tests.metrics.plants import (
    METER,
    PACKER,
    SCALE,
    SECOND,
    START,
    Works,
    agrees,
    interleaved,
    operators,
    pieces,
    plant_rows,
    restored,
    run,
    tag,
)
from tests.metrics.test_kpis import last, rows

MILL = EnergyConfig(
    inputs={"electricity": ("em-a.energy",)}, output="scale.mass", windows=("1min", "15min")
)
BY_RECIPE = ProductConfig(
    of="mill",
    by=ProductTag(tag="packer.state", products={"cement-425": (1,), "cement-525": (2,)}),
    windows=("1min", "15min"),
)
BATCHES = ProductConfig(of="mill", batch="packer.state")
PARTS = ("cement-425", "cement-525", "unknown")
KGCE = 0.1229  # per kWh


def built(config: MetricConfig, plant: Works | None = None) -> list[Metric]:
    configs = {"mill": MILL, "kpi": config}
    works = replace(plant or Works(), metrics=configs)
    made = [metric for name, given in configs.items() for metric in given.build(name, works)]
    return ordered([*operators(), *made])


def compute(config: MetricConfig, *blocks: SampleBlock) -> dict[str, SampleBlock]:
    by_time = sorted(
        (block.rows(i, i + 1) for block in blocks for i in range(len(block))),
        key=lambda row: int(row.time[0]),
    )
    return run(built(config), by_time)


def mill(minutes: float) -> list[SampleBlock]:
    """60 kWh and 30 t an hour."""
    return [
        rows(METER, minutes, energy=lambda s: 100 + s / 60),
        rows(SCALE, minutes, mass=lambda s: 500 + s / 0.12),
    ]


def recipe(minutes: float, number: Callable[[float], float]) -> SampleBlock:
    return rows(PACKER, minutes, state=number)


# products -----------------------------------------------------------------------------------------


def test_a_worked_example_by_product() -> None:
    tags = recipe(17.0, lambda s: 1 if s < 390 else 2)  # changes at 6:30
    found = compute(BY_RECIPE, *mill(17.0), tags)
    figures = last(found["kpi/15min"])
    assert figures["kgce_cement-425"] == pytest.approx(6.5 * KGCE, rel=1e-4)
    assert figures["kgce_cement-525"] == pytest.approx(8.5 * KGCE, rel=1e-4)
    assert figures["output_cement-425"] == pytest.approx(3.25, rel=1e-4)
    assert figures["intensity_cement-525"] == pytest.approx(2 * KGCE, rel=1e-4)
    assert figures["kgce_unknown"] == 0.0
    assert figures["coverage"] == pytest.approx(14 / 15)
    assert figures["estimated"] == pytest.approx(1 / 15)  # the minute of the change
    minute = found["kpi/1min"]
    marks = minute.quality[minute.schema.index["kgce_cement-425"]]
    assert marks[6] == Quality.UNCERTAIN_ESTIMATED
    assert marks[5] == marks[7] == Quality.GOOD


def test_products_and_unknown_sum_up_to_the_boundary_exactly() -> None:
    tags = recipe(17.0, lambda s: (s // 47) % 4)
    found = compute(BY_RECIPE, *mill(17.0), tags)
    for window in ("1min", "15min"):
        block, whole = found[f"kpi/{window}"], found[f"mill/{window}"]
        parts = np.sum([block[f"kgce_{name}"] for name in PARTS], axis=0)
        np.testing.assert_array_equal(parts, block["total_kgce"])
        np.testing.assert_allclose(block["total_kgce"], whole["total_kgce"], rtol=1e-9)
        made = np.sum([block[f"output_{name}"] for name in PARTS], axis=0)
        np.testing.assert_array_equal(made, block["output_t"])


def test_a_product_without_output_has_energy_and_no_intensity() -> None:
    scale = rows(SCALE, 17.0, mass=500.0)
    found = compute(BY_RECIPE, mill(17.0)[0], scale, recipe(17.0, lambda _: 1))["kpi/15min"]
    figures = last(found)
    assert figures["kgce_cement-425"] == pytest.approx(15 * KGCE, rel=1e-4)
    assert figures["output_cement-425"] == 0.0
    assert np.isnan(figures["intensity_cement-425"])
    mark = found.quality[found.schema.index["intensity_cement-425"], -1]
    assert mark == Quality.BAD_NOT_AVAILABLE


def test_a_silent_tag_is_unknown_after_three_periods() -> None:
    tags = recipe(3.0, lambda _: 1)  # its last row is at 3:00
    found = compute(BY_RECIPE, *mill(17.0), tags)["kpi/1min"]
    assert found["kgce_unknown"][2] == 0.0
    assert found["kgce_cement-425"][3] == pytest.approx(KGCE / 4, rel=1e-3)  # 15 s
    assert found["kgce_cement-425"][4] == 0.0
    assert found["kgce_unknown"][4] == found["total_kgce"][4] > 0


def test_a_boundary_that_waits_for_its_meters_is_waited_for() -> None:
    """The meters give no rows for ten minutes, the tag goes on: no minute is lost or made up."""
    away = [
        SampleBlock(b.schema, b.time[keep], b.value[:, keep], b.quality[:, keep])
        for b in mill(30.0)
        if (keep := (b.time < START + 200 * SECOND) | (b.time > START + 800 * SECOND)) is not None
    ]
    found = compute(BY_RECIPE, *away, recipe(30.0, lambda s: 1 if s < 390 else 2))
    part, whole = found["kpi/1min"], found["mill/1min"]
    assert part.time.tolist() == whole.time.tolist()
    np.testing.assert_allclose(part["total_kgce"], whole["total_kgce"], rtol=1e-9)
    column, of = part.schema.index["total_kgce"], whole.schema.index["total_kgce"]
    np.testing.assert_array_equal(part.quality[column], whole.quality[of])


def test_the_open_minute_is_shown_by_product_so_far() -> None:
    metrics = built(BY_RECIPE)
    blocks = [*mill(4.5), recipe(4.5, lambda _: 2)]
    single = [block.rows(i, i + 1) for block in blocks for i in range(len(block))]
    run(metrics, sorted(single, key=lambda row: int(row.time[0])))
    open_rows: dict[str, SampleBlock] = {}
    for metric in metrics:
        row = metric.running(START + 270 * SECOND, open_rows)
        if row is not None:
            open_rows[row.schema.stream] = row
    minute, whole = open_rows["kpi/1min"], open_rows["mill/1min"]
    assert minute["total_kgce"][0] == pytest.approx(whole["total_kgce"][0], rel=1e-9)
    quarter = open_rows["kpi/15min"]
    assert quarter["kgce_cement-525"][0] == pytest.approx(4.0 * KGCE, rel=0.2)
    assert quarter["kgce_cement-425"][0] == 0.0


# batches ------------------------------------------------------------------------------------------


def test_a_worked_example_by_batch() -> None:
    numbers = [7, 7, 8, 8, 8, 9]  # of 150 s each
    tags = recipe(17.0, lambda s: numbers[min(int(s // 150), 5)])
    block = compute(BATCHES, *mill(17.0), tags)["kpi/batch"]
    assert block["batch"].tolist() == [7.0, 8.0]
    assert (block.time - START).tolist() == [300 * SECOND, 750 * SECOND]  # labelled by the end
    assert block["start_s"].tolist() == [START / SECOND, START / SECOND + 300]
    assert block["duration_s"].tolist() == [300.0, 450.0]
    assert block["total_kgce"] == pytest.approx([5 * KGCE, 7.5 * KGCE], rel=1e-4)
    assert block["output_t"] == pytest.approx([2.5, 3.75], rel=1e-4)
    assert block["intensity"] == pytest.approx([2 * KGCE] * 2, rel=1e-4)
    assert block["unknown_s"].tolist() == [0.0, 0.0]
    column = block.schema.index["total_kgce"]
    # the beginning of the first was not seen; half a minute of 7.5 was shared
    assert block.quality[column].tolist() == [Quality.UNCERTAIN, Quality.UNCERTAIN_ESTIMATED]


def test_batches_may_last_seconds() -> None:
    tags = recipe(5.0, lambda s: s // 10)
    block = compute(BATCHES, *mill(5.0), tags)["kpi/batch"]
    assert block["batch"].tolist() == list(range(len(block)))
    assert set(block["duration_s"]) == {10.0}
    assert block["total_kgce"][6:] == pytest.approx([KGCE / 6] * (len(block) - 6), rel=1e-3)


def test_a_batch_goes_on_after_a_silence_that_is_unknown() -> None:
    tags = recipe(17.0, lambda s: 1 if s < 600 else 2)
    away = (tags.time >= START + 180 * SECOND) & (tags.time < START + 420 * SECOND)
    value = np.where(away, np.nan, tags.value)
    quality = np.where(away, np.uint8(Quality.BAD_NO_ANSWER), tags.quality)
    silent = SampleBlock(PACKER, tags.time, value, quality)
    block = compute(BATCHES, *mill(17.0), silent)["kpi/batch"]
    assert block["duration_s"].tolist() == [600.0]
    assert block["unknown_s"].tolist() == [240.0]
    assert block["unknown_kgce"] == pytest.approx([4 * KGCE], rel=1e-4)
    assert block["total_kgce"] == pytest.approx([6 * KGCE], rel=1e-4)
    assert block["coverage"] == pytest.approx([0.6])


def test_a_batch_that_is_open_shows_so_far_and_goes_on_after_a_restart() -> None:
    blocks = [*mill(40.0), recipe(40.0, lambda s: 1 if s < 1800 else 2)]
    cut = [block for whole in blocks for block in pieces(whole, Random(1), 30)]
    cut.sort(key=lambda block: int(block.time[0]))
    plain = run(built(BATCHES), cut)["kpi/batch"]
    fresh = {metric.output.stream: metric for metric in built(BATCHES)}
    metrics, found = built(BATCHES), []
    half = len(cut) // 2
    run(metrics, cut[:half])
    batches = metrics[-1]
    assert batches.output.stream == "kpi/batch"
    so_far = batches.running(0, {})
    assert so_far is not None
    assert so_far["duration_s"][0] == (so_far.time[0] - START) / SECOND > 0
    again = [restored(fresh[metric.output.stream], metric) for metric in metrics]
    found = run(again, cut[half:])["kpi/batch"]
    assert found["duration_s"].tolist() == plain["duration_s"].tolist() == [1800.0]
    assert found["total_kgce"].tolist() == plain["total_kgce"].tolist()


def test_an_open_batch_goes_on_after_a_change_of_the_configuration() -> None:
    """The metrics are new and are fed the last rows again; only the open batch is taken over."""
    blocks = [*mill(40.0), recipe(40.0, lambda s: 1 if s < 1800 else 2)]
    single = [block.rows(i, i + 1) for block in blocks for i in range(len(block))]
    single.sort(key=lambda row: int(row.time[0]))
    plain = run(built(BATCHES), single)["kpi/batch"]
    before, after = built(BATCHES), built(BATCHES)
    run(before, [row for row in single if row.time[0] < START + 1500 * SECOND])
    batches = after[-1]
    assert isinstance(batches, Batches)
    batches.resume(json.loads(as_json(before[-1].save())))
    found = run(after, [row for row in single if row.time[0] >= START + 1000 * SECOND])
    batch = found["kpi/batch"]
    assert batch["duration_s"].tolist() == [1800.0]
    assert batch["total_kgce"].tolist() == plain["total_kgce"].tolist()


LABELS = Schema("oven/raw", Family.SAMPLE, (tag("lot", "1", Kind.TEXT),), 5.0)


class Ovens(Works):
    """The works with a tag of texts."""

    def raw(self, name: str) -> Schema:
        return LABELS if name == "oven.lot" else super().raw(name)


def test_a_batch_may_be_named_by_a_text() -> None:
    labels = rows(LABELS, 10.0, lot=lambda s: 3 if s < 240 else 5)
    labels = replace(labels, texts={"lot": {3: "A-2026/017", 5: "A-2026/018"}})
    metrics = built(ProductConfig(of="mill", batch="oven.lot"), Ovens())
    blocks = [block.rows(i, i + 1) for block in [*mill(10.0), labels] for i in range(len(block))]
    metrics = [restored(new, old) for new, old in zip(metrics, metrics, strict=True)]
    block = run(metrics, sorted(blocks, key=lambda row: int(row.time[0])))["kpi/batch"]
    assert block.schema.tags[0].kind is Kind.TEXT
    assert [block.text(0, i) for i in range(len(block))] == ["A-2026/017"]


def total(found: Mapping[str, SampleBlock], until: int) -> float:
    block = found["boundary/1min"]
    return float(np.nansum(block["total_kgce"][block.time <= until]))


@pytest.mark.parametrize("seed", range(8))
def test_batches_equal_the_oracle_and_lose_nothing(seed: int) -> None:
    tags = {"scale.mass", "packer.state"}
    streams = {Works().raw(name).stream for name in tags}
    blocks = {name: block for name, block in plant_rows(seed, 19.0).items() if name in streams}
    configs = {**product.OTHERS, "kpi": product.CONFIG}
    works = Works(metrics=configs)
    made = [metric for name, config in configs.items() for metric in config.build(name, works)]
    metrics = ordered([*operators(), *made])
    found = run(metrics, interleaved(blocks, Random(seed), 3, 0.0))
    agrees(found["kpi/batch"], product.batches(blocks), 1e-12)
    batches = next(m for m in metrics if m.output.stream == "kpi/batch")
    state = batches.save()
    rest = sum(state["gap"][:1]) + state["open"]["amounts"][0] + state["open"]["unknown"][0]
    booked = np.nansum(found["kpi/batch"]["total_kgce"])
    booked += np.nansum(found["kpi/batch"]["unknown_kgce"]) + rest
    assert booked == pytest.approx(total(found, int(found["kpi/1min"].time[-1])), rel=1e-9)


# what is wrong ------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_in_plain_words() -> None:
    assert ProductConfig(of="mill").faults() == [
        ((), "needs by (which product runs) or batch (a tag that changes), or both")
    ]
    products = {"unknown": (1,), "b": (1, 2)}
    wrong = dict(
        ProductConfig(of="mill", by=ProductTag(tag="packer.state", products=products)).faults()
    )
    assert wrong["by", "products", "unknown"].startswith('"unknown" is no name for a product')
    assert wrong["by", "products", "b", 0] == "1 is unknown already: a number is one product"


def test_the_boundary_needs_minutes() -> None:
    hours = replace(MILL, windows=("1h",))
    plant = Works(metrics={"mill": hours, "kpi": BY_RECIPE})
    with pytest.raises(ValueError, match='"mill" needs the window 1min for this'):
        BY_RECIPE.build("kpi", plant)


def test_products_are_told_by_numbers() -> None:
    config = ProductConfig(of="mill", by=ProductTag(tag="oven.lot", products={"a": (1,)}))
    with pytest.raises(ValueError, match=r'"oven.lot" is a text: products are told by numbers'):
        built(config, Ovens())
