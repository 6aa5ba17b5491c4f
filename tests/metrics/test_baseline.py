"""Baselines worked out by hand: a fit, a retrofit, what is left out and what is told."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from edge_agent.metrics.base import Metric, Recalls
from edge_agent.metrics.baseline import BaselineConfig, Variable
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.savings import Acceptance
from edge_agent.model import F64, Quality, SampleBlock
from edge_agent.pipeline import teach
from tests.metrics.plants import SECOND, START, Works, restored, run, same

DAY = 86_400 * SECOND
MIDNIGHT = START - 8 * 3600 * SECOND  # 2026-01-01 in Shanghai
CLINKER = EnergyConfig(
    inputs={"electricity": ("em-a.energy",)}, output="scale.mass", windows=("1min", "1d")
)
SAVED = BaselineConfig(
    energy="clinker.electricity_1d",
    variables={"output": "clinker.output_t_1d"},
    baseline={"from": "2026-01-01", "to": "2026-01-12"},
    reporting={"from": "2026-01-15"},
    accept=Acceptance(days=10.0),
)
PLANT = Works(metrics={"clinker": CLINKER, "kpi": SAVED})


def days(electricity: F64, output: F64, first: int = 0) -> SampleBlock:
    """Rows of ``clinker/1d`` of days since the first of January."""
    schema = PLANT.derived("clinker.electricity_1d")[0]
    n = len(electricity)
    value = np.zeros((len(schema.tags), n))
    value[schema.index["electricity"]] = electricity
    value[schema.index["output_t"]] = output
    value[schema.index["coverage"]] = 1.0
    time = MIDNIGHT + (first + 1 + np.arange(n)) * DAY
    return SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))


def build(config: BaselineConfig = SAVED) -> Metric:
    return config.build("kpi", PLANT)[0]


def rows(*blocks: SampleBlock, config: BaselineConfig = SAVED) -> SampleBlock:
    return run([build(config)], blocks)["kpi/1d"]


def cell(block: SampleBlock, name: str, row: int = -1) -> tuple[float, int]:
    i = block.schema.index[name]
    return float(block.value[i, row]), int(block.quality[i, row])


# twelve days: output t, electricity kWh = 1000 + 50 t and a residual of +-20 or +-10
OUTPUT = np.array([100, 120, 80, 110, 90, 130, 100, 120, 80, 110, 90, 130], float)
NOISE = np.array([20, -20, 10, -10, 10, -10, -20, 20, -10, 10, -10, 10], float)
BEFORE = days(1000 + 50 * OUTPUT + NOISE, OUTPUT)
# a retrofit takes 5 kWh/t and 100 kWh a day; two days of work, then four that count
AFTER = np.array([110.0, 100, 120, 90, 100, 110])
RETROFITTED = days(900 + 45 * AFTER, AFTER, 12)


def test_a_retrofit_by_hand() -> None:
    found = rows(BEFORE, RETROFITTED)
    # each output stands twice with opposite residuals, so the line is 1000 + 50 t exactly
    assert cell(found, "b_0")[0] == pytest.approx(1000.0, rel=1e-12)
    assert cell(found, "b_output")[0] == pytest.approx(50.0, rel=1e-12)
    assert found["phase"].tolist() == [1.0] * 12 + [2.0] * 2 + [3.0] * 4
    assert found["expected"][12:] == pytest.approx(1000 + 50 * AFTER)
    # saved each day: 100 + 5 t; counted from the 15th on: 120, 90, 100 and 110 t
    saved = 100 + 5 * AFTER
    assert found["saving_ipmvp"][12:] == pytest.approx(saved)
    assert found["saving_gbt28750"][12:] == pytest.approx(-saved)
    total = 4 * 100 + 5 * (120 + 90 + 100 + 110)
    assert cell(found, "total_ipmvp")[0] == pytest.approx(total)
    assert cell(found, "total_gbt28750")[0] == pytest.approx(-total)
    assert cell(found, "cusum")[0] == pytest.approx(-total)
    assert cell(found, "enpi")[0] == pytest.approx((900 + 45 * 110) / (1000 + 50 * 110))
    # 4 · 20² and 8 · 10² over 12 - 2: RMSE 15.4919, mean 1000 + 50 · 105
    assert cell(found, "cv_rmse")[0] == pytest.approx(np.sqrt(240.0) / 6250)
    assert cell(found, "cusum_limit")[0] == pytest.approx(3 * np.sqrt(240.0) * 2)
    assert cell(found, "accepted") == (1.0, 0)
    assert found.quality[found.schema.index["total_ipmvp"], :14].tolist() == [131] * 14


def test_uncertainty_of_the_total_by_hand() -> None:
    found = rows(BEFORE, RETROFITTED)
    # residuals 20 -20 10 -10 10 -10 -20 20 -10 10 -10 10: lag-1 products -400 -200 -100 -100 -100
    # 200 -400 -200 -100 -100 -100 over 2400 are negative, so n' = n = 12
    assert cell(found, "rho")[0] == pytest.approx(-1600 / 2400)
    assert cell(found, "n_effective")[0] == 12.0
    expected = 4 * 1000 + 50 * 420
    wide = 1.812461 * 1.26 * (np.sqrt(240.0) / 6250) * np.sqrt((1 + 2 / 12) / 4) * expected
    assert cell(found, "uncertainty_90")[0] == pytest.approx(wide, rel=1e-6)
    assert cell(found, "fsu_90")[0] == pytest.approx(wide / 2500, rel=1e-6)
    assert cell(found, "uncertainty_68")[0] < cell(found, "uncertainty_90")[0]
    assert cell(found, "significant") == (1.0, 0)


def test_nothing_is_expected_while_the_baseline_runs() -> None:
    found = rows(BEFORE)
    for name in ("expected", "saving_ipmvp", "enpi", "r2", "accepted", "total_ipmvp", "b_output"):
        assert np.isnan(found[name]).all()
        assert (found.quality[found.schema.index[name]] == Quality.BAD_NOT_AVAILABLE).all()
    assert found["n"].tolist() == list(range(1, 13))
    assert found["actual"].tolist() == BEFORE["electricity"].tolist()
    assert found["output"].tolist() == OUTPUT.tolist()


def spoilt(block: SampleBlock, row: int, quality: int = 0, coverage: float = 1.0) -> SampleBlock:
    """The same rows with one whose electricity is absurd, and marked or thin."""
    value, marks, index = block.value.copy(), block.quality.copy(), block.schema.index
    value[index["electricity"], row] = np.nan if quality >= 128 else 1e6
    marks[index["electricity"], row] = quality
    value[index["coverage"], row] = coverage
    return SampleBlock(block.schema, block.time, value, marks)


@pytest.mark.parametrize(("quality", "coverage"), [(131, 1.0), (70, 1.0), (0, 0.5)])
def test_bad_flagged_and_thin_rows_are_left_out_and_counted(quality: int, coverage: float) -> None:
    found = rows(spoilt(BEFORE, 4, quality, coverage), spoilt(RETROFITTED, 3, quality, coverage))
    assert cell(found, "n")[0] == 11
    assert cell(found, "left_out")[0] == 1
    assert cell(found, "missed")[0] == 1
    assert cell(found, "b_output")[0] == pytest.approx(50.0, abs=0.2)
    assert cell(found, "total_ipmvp")[0] == pytest.approx(400 - 100 + 5 * (420 - 90), abs=100)


def test_a_variable_outside_the_range_of_the_baseline_is_marked() -> None:
    tested = np.array([80.0, 130, 76, 74, 134, 136])  # the range is 80 … 130, a tenth of it is 5
    found = rows(BEFORE, days(900 + 45 * tested, tested, 12))
    assert found["in_range"][12:].tolist() == [1, 1, 1, 0, 1, 0]
    marks = found.quality[found.schema.index["expected"], 12:].tolist()
    assert marks == [0, 0, 0, 64, 0, 64]


def test_non_routine_changes_are_spread_over_their_time() -> None:
    change = {"from": "2026-01-16", "to": "2026-01-19", "amount": "0.8 MWh", "reason": "kiln dried"}
    config = BaselineConfig(
        energy=SAVED.energy, variables=SAVED.variables, baseline=SAVED.baseline,
        reporting=SAVED.reporting, non_routine=(change,), accept=SAVED.accept,
    )  # fmt: skip
    found = rows(BEFORE, RETROFITTED, config=config)
    assert found["non_routine"].tolist() == [0.0] * 15 + [200.0] * 3
    assert found["expected"][14:] == pytest.approx(
        1000 + 50 * AFTER[2:] + np.array([0, 200, 200, 200])
    )
    assert cell(found, "total_ipmvp")[0] == pytest.approx(2500 + 600)
    assert cell(found, "cusum")[0] == pytest.approx(-2500)  # of the model alone


def test_records_of_an_earlier_baseline_make_the_model_at_once() -> None:
    records = tuple(
        {"energy": float(e), "output": float(x)}
        for e, x in zip(BEFORE["electricity"], OUTPUT, strict=True)
    )
    config = BaselineConfig(
        energy=SAVED.energy, variables=SAVED.variables, records=records,
        baseline={"from": "2025-01-01", "to": "2025-12-31"},
    )  # fmt: skip
    found = rows(days(900 + 45 * AFTER, AFTER), config=config)
    assert found["phase"].tolist() == [3.0] * 6
    assert found["saving_ipmvp"] == pytest.approx(100 + 5 * AFTER)
    assert cell(found, "n")[0] == 12
    assert cell(found, "accepted") == (1.0, 0)


def test_too_few_rows_make_no_model() -> None:
    found = rows(BEFORE.rows(0, 2), RETROFITTED)
    assert np.isnan(found["expected"]).all()
    assert cell(found, "n") == (2.0, 0)


@pytest.mark.parametrize(
    ("protocol", "accept", "accepted"),
    [
        ("ipmvp-c", {}, 0.0),  # twelve days are no year
        ("ipmvp-c", {"days": 12.0}, 1.0),
        ("ipmvp-c", {"days": 12.0, "t": 1e4}, 0.0),
        ("ashrae-g14", {}, 1.0),
        ("ashrae-g14", {"cv_rmse": 0.002}, 0.0),
        ("sep", {}, 1.0),
        ("sep", {"p_f": 1e-20}, 0.0),
        ("gbt28750", {}, None),  # its text was not read: it asks for nothing
        ("gbt28750", {"r2": 0.99}, 1.0),
    ],
)
def test_a_protocol_accepts_a_model_or_does_not(
    protocol: str, accept: dict[str, float], accepted: float | None
) -> None:
    config = BaselineConfig(
        energy=SAVED.energy, variables=SAVED.variables, baseline=SAVED.baseline,
        protocol=protocol, accept=Acceptance(**accept),  # type: ignore[arg-type]
    )  # fmt: skip
    value, quality = cell(rows(BEFORE, RETROFITTED, config=config), "accepted")
    assert (None if quality >= 128 else value) == accepted


def test_degree_days_are_made_of_the_mean_of_the_window() -> None:
    config = BaselineConfig(
        energy="clinker.electricity_1d",
        variables={"heating": Variable(tag="clinker.output_t_1d", below=100.0)},
        baseline=SAVED.baseline,
    )
    found = rows(BEFORE, config=config)
    assert found["heating"].tolist() == np.maximum(0.0, 100.0 - OUTPUT).tolist()


def test_a_later_configuration_goes_on_with_the_same_baseline() -> None:
    old = build()
    old.update(BEFORE)
    new, other = build(), build(BaselineConfig(energy=SAVED.energy, baseline=SAVED.baseline))
    for metric in (new, other):
        assert hasattr(metric, "resume")
        metric.resume(restored(build(), old).save())
    resumed = new.update(RETROFITTED)
    assert resumed is not None
    assert cell(resumed, "total_ipmvp")[0] == pytest.approx(2500.0)
    assert other.update(RETROFITTED) is not None
    assert other.save()["rows"] == 0  # another plan: begins anew


def test_a_baseline_of_another_meter_begins_anew() -> None:
    old, other = build(), build(replace(SAVED, energy="clinker.total_gj_1d"))
    same_unit = build(replace(SAVED, variables={"output": "clinker.electricity_1d"}))
    old.update(BEFORE)
    for metric in (other, same_unit):
        assert hasattr(metric, "resume")
        metric.resume(restored(build(), old).save())
        metric.update(RETROFITTED)
        assert metric.save()["rows"] == 0  # what another meter has told is not its own


def test_a_baseline_that_is_configured_later_learns_from_the_stored_rows() -> None:
    asked: list[str] = []

    def stored(stream: str, start: int, end: int) -> SampleBlock | None:
        asked.append(stream)
        i, j = np.searchsorted(BEFORE.time, [start, end], "right").tolist()
        return BEFORE.rows(i, j) if i < j else None

    metrics = [*CLINKER.build("clinker", PLANT), build()]
    teach(metrics, stored, MIDNIGHT + 12 * DAY)
    assert set(asked) == {"clinker/1d"}
    found = metrics[-1].update(RETROFITTED)
    assert found is not None
    same(found, rows(BEFORE, RETROFITTED).rows(12, 18))
    teach(metrics, stored, MIDNIGHT + 18 * DAY)  # it knows all of that already
    assert len(asked) == 2


def test_a_fit_is_recalled_from_own_rows() -> None:
    config = replace(SAVED, variables={"short": Variable(tag="clinker.output_t_1d", below=200.0)})
    whole = rows(BEFORE, RETROFITTED, config=config)
    metric = build(config)
    assert isinstance(metric, Recalls)
    metric.recall(whole.rows(0, 15))
    assert metric.update(BEFORE) is None  # fed again
    same(metric.update(RETROFITTED), whole.rows(15, 18))


def test_rows_do_not_depend_on_the_partition_or_on_restarts() -> None:
    whole = rows(BEFORE, RETROFITTED)
    single = [b.rows(i, i + 1) for b in (BEFORE, RETROFITTED) for i in range(len(b))]
    random = Random(4)

    def renew(metric: Metric) -> Metric:
        return restored(build(), metric) if random.random() < 0.5 else metric

    same(whole, run([build()], single, renew)["kpi/1d"])


UNITLESS = {"from": "2026-02-01", "to": "2026-02-02", "amount": "9", "reason": "a"}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"windows": ("1d", "1h")}, ("windows",)),
        ({"windows": ("1a",)}, ("windows",)),
        ({"baseline": {"from": "2026-01-01"}}, ("baseline",)),
        ({"baseline": {"from": "2026-01-01", "to": "2025-01-01"}}, ("baseline", "to")),
        ({"baseline": {"from": "yesterday", "to": "2025-01-01"}}, ("baseline",)),
        ({"reporting": {"from": "2026-01-12"}}, ("reporting", "from")),
        ({"reporting": {"until": "2026-01-12"}}, ("reporting",)),
        ({"variables": {"Output t": "a.b"}}, ("variables", "Output t")),
        ({"variables": {"expected": "a.b"}}, ("variables", "expected")),
        ({"variables": {"hdd": Variable(tag="a.b")}}, ("variables", "hdd")),
        ({"margin": -0.1}, ("margin",)),
        ({"covered": 1.5}, ("covered",)),
        ({"records": ({"energy": 1.0},)}, ("records", 0)),
        ({"non_routine": ({"from": "2026-01-01"},)}, ("non_routine", 0)),
        ({"non_routine": (UNITLESS,)}, ("non_routine", 0, "amount")),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_named_by_its_place(
    change: dict[str, object], path: tuple[str | int, ...]
) -> None:
    given: dict[str, object] = {
        "energy": SAVED.energy, "variables": SAVED.variables, "baseline": SAVED.baseline,
    }  # fmt: skip
    config = BaselineConfig(**(given | change))  # type: ignore[arg-type]
    assert [where for where, _ in config.faults()] == [path]
    assert SAVED.faults() == []


def test_a_column_of_another_window_is_refused() -> None:
    config = BaselineConfig(energy="clinker.electricity_1min", baseline=SAVED.baseline)
    with pytest.raises(ValueError, match=r"not of 1d \(write clinker\.electricity_1d\)"):
        build(config)
