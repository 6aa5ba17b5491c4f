"""Waste water worked out by hand: volume and mass, validity, substitution, limits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from edge_agent.config import load
from edge_agent.metrics.base import Limit, Metric, Recalls, Reference
from edge_agent.metrics.rollup import Chained, RollUp
from edge_agent.metrics.water import WaterConfig
from edge_agent.metrics.water_hours import Ledger
from edge_agent.model import Quality, SampleBlock, concatenate
from tests.metrics.examples.water import CONFIG
from tests.metrics.plants import (
    OUTLET,
    SECOND,
    START,
    Works,
    operators,
    pieces,
    restored,
    run,
    same,
)

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
MIDNIGHT = START - 8 * HOUR  # 2026-01-01 in Shanghai
NOT_AVAILABLE, MISSING, SUBSTITUTED = 131, 191, 67


def cell(block: SampleBlock, name: str, row: int = -1) -> tuple[float, int]:
    i = block.schema.index[name]
    return float(block.value[i, row]), int(block.quality[i, row])


def samples(minutes: float, **columns: object) -> SampleBlock:
    """Rows of the outlet each 5 s; a column is a number, or a function of the seconds."""
    n = round(minutes * 12) + 1
    value = np.zeros((len(OUTLET.tags), n))
    for name, column in columns.items():
        numbers = [column(5.0 * i) if callable(column) else column for i in range(n)]
        value[OUTLET.index[name]] = np.array(numbers, float)
    time = START + np.arange(n) * 5 * SECOND
    return SampleBlock(OUTLET, time, value, np.zeros(value.shape, np.uint8))


def compute(block: SampleBlock) -> dict[str, SampleBlock]:
    single = [block.rows(i, i + 1) for i in range(len(block))]
    return run([*operators(), *CONFIG.build("kpi", Works())], single)


def test_volume_and_mass_of_ten_minutes_are_those_of_the_vector() -> None:
    # HJ 212-2017, D.1, formulas 1 and 8: 25 L/s for 600 s with 40.1 mg/L: 15.0 m3 and 0.6015 kg
    found = compute(samples(11.0, discharge=25.0, cod=40.1))["kpi/1min"]
    assert found["volume_m3"][:10].sum() == pytest.approx(15.0, rel=1e-12)
    assert found["cod_mass_kg"][:10].sum() == pytest.approx(0.6015, rel=1e-12)
    assert found["cod"][:10] == pytest.approx(40.1)
    assert found["cod_abnormal"][:10].tolist() == [0.0] * 10


def test_a_concentration_is_weighted_by_flow() -> None:
    step = 480.0  # eight minutes of 10 L/s with 100 mg/L, then seven of 30 L/s with 20 mg/L
    block = samples(
        16.0,
        discharge=lambda s: 10.0 if s < step else 30.0,
        cod=lambda s: 100.0 if s < step else 20.0,
        nh3_n=2000.0,
    )
    found = compute(block)["kpi/15min"]
    # 4.8 m3 with 480 g and 12.6 m3 with 252 g, but for 5 s in which the flow rises
    assert cell(found, "volume_m3")[0] == pytest.approx(17.4, rel=5e-3)
    assert cell(found, "cod")[0] == pytest.approx(732 / 17.4, rel=5e-3)
    assert cell(found, "nh3_n")[0] == pytest.approx(2.0)  # µg/L -> mg/L


def test_ph_is_kept_by_its_extremes() -> None:
    block = samples(16.0, discharge=1.0, ph=lambda s: 9.5 if s == 60.0 else 6.1 if s == 300 else 7)
    found = compute(block)["kpi/15min"]
    assert (cell(found, "ph_min")[0], cell(found, "ph_max")[0]) == (6.1, 9.5)
    assert cell(found, "ph")[0] == pytest.approx(7.0, abs=0.02)


def test_water_that_stands_has_no_concentration() -> None:
    found = compute(samples(2.0, discharge=0.0, cod=40.0))["kpi/1min"]
    assert found.quality[found.schema.index["cod"]].tolist()[0] == NOT_AVAILABLE
    assert cell(found, "cod_mass_kg", 0) == (0.0, 0)


@pytest.mark.parametrize("mark", [Quality.UNCERTAIN_FLAGGED, Quality.BAD_NO_ANSWER])
def test_one_abnormal_sample_marks_the_period(mark: Quality) -> None:
    block = samples(31.0, discharge=10.0, cod=40.0)
    quality = block.quality.copy()
    quality[OUTLET.index["cod"], 200] = mark  # in the 17th minute
    value = np.where(quality >= 128, np.nan, block.value)
    found = compute(SampleBlock(OUTLET, block.time, value, quality))
    flags = found["kpi/1min"]["cod_abnormal"][:30].tolist()
    assert flags == [0.0] * 16 + [1.0] + [0.0] * 13
    assert found["kpi/15min"]["cod_abnormal"][:2].tolist() == [0.0, 1.0]
    assert cell(found["kpi/15min"], "cod", 1)[0] == pytest.approx(40.0)  # the value is kept


# hours, days, months ----------------------------------------------------------------------------


DAYS = replace(CONFIG, windows=("1min", "1h", "1d", "1mo"))


def outlet() -> list[Metric]:
    return [m for m in DAYS.build("kpi", Works()) if isinstance(m, RollUp)]


def minutes(
    hours: Sequence[float | None], first: int = 0, flow: float = 6.0, heat: float = 20.0,
    ph: float = 7.0,
) -> SampleBlock:  # fmt: skip
    """Minute rows of hours since midnight with these mg/L of COD; None: the analyser is off.

    flow  m3/h
    """
    schema = CONFIG.build("kpi", Works())[0].output
    cod = np.repeat([np.nan if c is None else c for c in hours], 60)
    n, index = len(cod), schema.index
    value, quality = np.zeros((len(schema.tags), n)), np.zeros((len(schema.tags), n), np.uint8)
    volume = flow / 60
    for name, column in {
        "cod": cod, "cod_mass_kg": cod * volume * 1e-3, "cod_volume_m3": volume, "nh3_n": 7.0,
        "nh3_n_mass_kg": 7.0 * volume * 1e-3, "nh3_n_volume_m3": volume, "volume_m3": volume,
        "ph": ph, "ph_max": ph, "ph_min": ph, "temperature": heat, "coverage": 1.0,
    }.items():  # fmt: skip
        value[index[name]] = column
    off = np.isnan(cod)
    for name in ("cod", "cod_mass_kg", "cod_volume_m3"):
        quality[index[name], off] = MISSING
        value[index[name], off] = np.nan
    quality[index["cod"]] = np.where((cod > 0) & (flow == 0), NOT_AVAILABLE, quality[index["cod"]])
    value[index["cod"], quality[index["cod"]] >= 128] = np.nan
    time = MIDNIGHT + (first * 60 + 1 + np.arange(n)) * MINUTE
    return SampleBlock(schema, time, value, quality)


def longer(*blocks: SampleBlock) -> dict[str, SampleBlock]:
    return run(outlet(), blocks)


def test_an_interval_of_invalid_hours_gets_the_mean_of_as_many_before() -> None:
    found = longer(minutes([10, 20, 30, 60, None, None, None, 40]))["kpi/1h"]
    mass = found["cod_mass_substituted_kg"]
    # 60, 30 and 20 mg/L in 6 m3 each; together three times their mean
    assert mass[4:7] == pytest.approx([0.36, 0.18, 0.12])
    assert mass[4:7].sum() == pytest.approx(3 * np.mean([20, 30, 60]) * 6e-3)
    assert mass[[0, 1, 2, 3, 7]].tolist() == [0.0] * 5
    marks = found.quality[found.schema.index["cod_mass_substituted_kg"]].tolist()
    assert marks == [0] * 4 + [SUBSTITUTED] * 3 + [0]
    assert np.isnan(found["cod"][4:7]).all()  # concentrations are not made up
    assert np.isnan(found["cod_mass_kg"][4:7]).all()
    assert found["cod_valid_h"].tolist() == [1, 1, 1, 1, 0, 0, 0, 1]
    assert found["volume_substituted_m3"].tolist() == [0.0] * 8


def test_an_interval_longer_than_what_is_known_before_it_stays_open() -> None:
    found = longer(minutes([10, None, None]))["kpi/1h"]
    marks = found.quality[found.schema.index["cod_mass_substituted_kg"]].tolist()
    assert marks == [0, SUBSTITUTED, NOT_AVAILABLE]


def test_an_hour_needs_45_valid_minutes() -> None:
    for valid, known in ((45, True), (44, False)):
        block = minutes([30.0, 30.0])
        names = ("cod", "cod_mass_kg", "cod_volume_m3")
        rows = [block.schema.index[name] for name in names]
        value, quality = block.value.copy(), block.quality.copy()
        value[rows, 60 + valid :] = np.nan
        quality[rows, 60 + valid :] = MISSING
        found = longer(SampleBlock(block.schema, block.time, value, quality))["kpi/1h"]
        assert (cell(found, "cod", 1)[1] < 128) == known
        assert cell(found, "cod_valid_h", 1)[0] == float(known)
        # the hour has 0.18 kg in either way: its own minutes, or the valid hour before it
        mass = found["cod_mass_kg"][1] if known else 0.0
        assert mass + found["cod_mass_substituted_kg"][1] == pytest.approx(0.18)
        mark = Quality.UNCERTAIN_ESTIMATED if known else Quality.UNCERTAIN_SUBSTITUTED
        assert cell(found, "cod_mass_substituted_kg", 1)[1] == mark


def test_hours_in_which_nobody_was_there_are_substituted_too() -> None:
    found = longer(minutes([10, 20, 30, 60]), minutes([40], first=7))["kpi/1h"]
    assert ((found.time - MIDNIGHT) // HOUR).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found["cod_mass_substituted_kg"][4:7] == pytest.approx([0.36, 0.18, 0.12])
    assert found["volume_substituted_m3"][4:7] == pytest.approx([6.0] * 3)
    assert found["coverage"][4:7].tolist() == [0.0] * 3
    assert found["estimated"][4:7].tolist() == [1.0] * 3
    assert found["cod_abnormal"].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]


def test_a_substitute_for_ph_is_the_median() -> None:
    ledger = Ledger()
    for ph in (6.0, 9.0, 7.0, 7.2):
        ledger.book("ph", ph)
    for wanted in (7.2, 7.1, 7.2, 7.1, None):  # of the last 1, 2, 3, 4 hours
        ledger.book("ph", None)
        assert ledger.middle("ph") == (None if wanted is None else pytest.approx(wanted))


def test_a_day_needs_20_valid_hours_and_adds_up_mass_and_substitutes() -> None:
    day = [30.0] * 20 + [None] * 4
    found = longer(minutes(day), minutes([30.0], first=24))["kpi/1d"]
    assert cell(found, "cod", 0) == (pytest.approx(30.0), Quality.UNCERTAIN)
    assert cell(found, "cod_mass_kg", 0)[0] == pytest.approx(20 * 0.18)
    assert cell(found, "cod_mass_substituted_kg", 0) == (pytest.approx(4 * 0.18), SUBSTITUTED)
    assert (cell(found, "cod_valid_h", 0)[0], cell(found, "cod_valid_d", 0)[0]) == (20.0, 1.0)
    found = longer(minutes([30.0] * 19 + [None] * 5), minutes([30.0], first=24))["kpi/1d"]
    assert cell(found, "cod", 0)[1] == MISSING
    assert cell(found, "cod_mass_kg", 0)[0] == pytest.approx(19 * 0.18)
    assert (cell(found, "cod_valid_h", 0)[0], cell(found, "cod_valid_d", 0)[0]) == (19.0, 0.0)


def hours_of(*days: tuple[float | None, int]) -> SampleBlock:
    """Hour rows of days that are all alike: (mg/L of COD, how many days)."""
    parts, first = [], 0
    for cod, n in days:
        hour = run(outlet()[:1], [minutes([30.0, cod])])["kpi/1h"].rows(1, 2)
        value, quality = (np.repeat(a, 24 * n, axis=1) for a in (hour.value, hour.quality))
        time = MIDNIGHT + (first + 1 + np.arange(24 * n)) * HOUR
        parts.append(SampleBlock(hour.schema, time, value, quality))
        first += 24 * n
    return concatenate(parts)


@pytest.mark.parametrize(("valid", "known"), [(25, True), (24, False)])
def test_a_month_needs_25_valid_days(valid: int, known: bool) -> None:
    block = hours_of((30.0, valid), (None, 31 - valid), (30.0, 2))
    found = run(outlet()[1:], [block])["kpi/1mo"]
    assert (cell(found, "cod", 0)[1] < 128) == known
    assert cell(found, "cod_valid_d", 0)[0] == valid
    assert cell(found, "cod_mass_kg", 0)[0] == pytest.approx(valid * 24 * 0.18)


def test_february_needs_23_valid_days() -> None:
    for valid, known in ((23, True), (22, False)):
        block = hours_of((30.0, 31 + valid), (None, 28 - valid), (30.0, 2))
        found = run(outlet()[1:], [block])["kpi/1mo"]
        assert (cell(found, "cod", 1)[1] < 128) == known


def test_daily_means_are_judged_by_the_limits_in_force() -> None:
    found = longer(
        minutes([50.0] * 24), minutes([51.0] * 24, 24, heat=12.0),
        minutes([51.0] * 24, 48, ph=9.5), minutes([1.0], 72),
    )["kpi/1d"]  # fmt: skip
    assert found["cod_limit"][:3].tolist() == [50.0] * 3
    assert found["cod_exceeded"][:3].tolist() == [0.0, 1.0, 1.0]
    assert found["nh3_n_limit"][:3].tolist() == [5.0, 8.0, 5.0]  # the cold limit up to 12 °C
    assert found["nh3_n_exceeded"][:3].tolist() == [1.0, 0.0, 1.0]
    assert found["ph_exceeded"][:3].tolist() == [0.0, 0.0, 1.0]
    assert any("outlet-cod" in source for source in found.schema.provenance)


def test_days_over_the_limit_are_counted_in_the_month() -> None:
    found = run(outlet()[1:], [hours_of((40.0, 20), (60.0, 11), (1.0, 2))])["kpi/1mo"]
    assert cell(found, "cod_exceeded_d", 0) == (11.0, 0)
    assert cell(found, "cod", 0)[0] == pytest.approx((40 * 20 + 60 * 11) / 31)


def test_a_day_without_limits_in_force_is_not_judged() -> None:
    block = minutes([50.0] * 48)
    past = SampleBlock(
        block.schema, block.time - 86_400 * SECOND, block.value.copy(), block.quality.copy()
    )
    found = longer(past)["kpi/1d"]
    assert found["cod_exceeded_d"].tolist() == pytest.approx([np.nan, 0.0], nan_ok=True)
    assert cell(found, "cod_limit", 0)[1] == NOT_AVAILABLE


def test_standing_hours_are_valid_but_are_no_example_for_substitutes() -> None:
    found = longer(
        minutes([30.0]), minutes([30.0], 1, flow=0.0), minutes([None], 2, flow=6.0)
    )["kpi/1h"]  # fmt: skip
    assert cell(found, "cod_mass_kg", 1) == (0.0, 0)
    assert cell(found, "cod_mass_substituted_kg", 2)[0] == pytest.approx(0.18)


def test_a_day_is_the_same_when_its_hours_are_not_published() -> None:
    alone = replace(CONFIG, windows=("1d",))
    assert [m.output.stream for m in alone.build("kpi", Works())] == ["kpi/1d"]
    block = samples(3.0, discharge=25.0, cod=40.0)
    later = SampleBlock(OUTLET, block.time + 20 * HOUR, block.value.copy(), block.quality.copy())
    single = [b.rows(i, i + 1) for b in (block, later) for i in range(len(b))]
    whole = run([*operators(), *CONFIG.build("kpi", Works())], single)["kpi/1d"]
    same(whole, run([*operators(), *alone.build("kpi", Works())], single)["kpi/1d"])


def test_substitution_does_not_depend_on_the_partition_or_on_restarts() -> None:
    random = Random(5)
    hours = [random.choice([20.0, 40.0, None]) for _ in range(60)]
    blocks = [minutes(hours), minutes(hours[:30], first=100), minutes([1.0], first=24 * 40)]

    def renew(metric: Metric) -> Metric:
        fresh = next(m for m in outlet() if m.output.stream == metric.output.stream)
        return restored(fresh, metric)

    whole = longer(*blocks)
    cut = [piece for block in blocks for piece in pieces(block, random, 90)]
    found = run(outlet(), cut, renew)
    for stream, rows in whole.items():
        same(rows, found[stream])


def test_valid_hours_are_recalled_from_own_rows() -> None:
    before, after = minutes([10, 20, None, 60]), minutes([None, None, 40], first=4)
    whole = run(outlet()[:1], [before, after])["kpi/1h"]
    hours = outlet()[0]
    assert isinstance(hours, Recalls)
    hours.recall(whole.rows(0, 4))
    assert hours.update(before) is None  # the hour before is fed again: it is in the rows
    same(hours.update(after), whole.rows(4, 7))


def test_a_quarter_hour_has_no_concentration_of_two_minutes() -> None:
    plain = next(m for m in replace(CONFIG, windows=("15min",)).build("kpi", Works()))
    assert isinstance(plain, Chained)
    block = minutes([10.0])
    off = np.arange(60) % 15 < 13
    value, quality = block.value.copy(), block.quality.copy()
    for name in ("cod", "cod_mass_kg", "cod_volume_m3"):
        value[block.schema.index[name], off] = np.nan
        quality[block.schema.index[name], off] = MISSING
    found = plain._rollup.update(SampleBlock(block.schema, block.time, value, quality))
    assert found is not None
    assert cell(found, "cod")[1] == MISSING
    assert cell(found, "cod_mass_kg") == (pytest.approx(2 * 0.1 * 10e-3), Quality.UNCERTAIN)
    assert cell(found, "nh3_n") == (pytest.approx(7.0), 0)


@pytest.mark.parametrize(
    ("concentrations", "path"),
    [
        ({}, ("concentrations",)),
        ({"ph": "a.b"}, ("concentrations", "ph")),
        ({"COD": "a.b"}, ("concentrations", "COD")),
        ({"cod_mass_kg": "a.b"}, ("concentrations", "cod_mass_kg")),
    ],
)
def test_a_wrong_configuration_is_named_by_its_place(
    concentrations: dict[str, str], path: tuple[str, ...]
) -> None:
    config = WaterConfig(concentrations=concentrations, flow="a.flow")
    assert [where for where, _ in config.faults()] == [path]
    assert CONFIG.faults() == []
    assert Reference(("ph",), "outlet.ph", OUTLET.tags[2].kind, "1") in CONFIG.references()


def test_limits_that_judge_twice_are_refused() -> None:
    limits = ("db37-3416-general", "db37-3416-key")  # both in force

    class Shandong(Works):
        def limits(self, prefix: str) -> tuple[Limit, ...]:
            del prefix
            return tuple(
                Limit(f"{i}-cod", "cod", 50.0, "mg/L", "24h", None, "2018-01-01", "", False)
                for i in limits
            )

    with pytest.raises(ValueError, match=r"two rows of cod: db37-3416-general-cod, db37-3416-key"):
        replace(CONFIG, limits="db37-3416").build("kpi", Shandong())


def test_limits_that_judge_nothing_are_refused() -> None:
    config = replace(CONFIG, limits="works-nox")
    with pytest.raises(ValueError, match=r'"works-nox" has no daily limit of cod, nh3_n'):
        config.build("kpi", Works())


def test_daily_limits_are_shown_beside_the_concentrations(tmp_path: Path) -> None:
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        """
site: {id: works}
devices:
  w:
    connect: modbus+tcp://127.0.0.1:5020?unit=1
    tags: {c: {at: hr40001, unit: mg/L}, n: {at: hr40003, unit: mg/L}, q: {at: hr40005, unit: L/s}}
metrics:
  out: {type: water, concentrations: {cod: w.c, nh3_n: w.n}, flow: w.q, limits: gb18918-1a}
"""
    )
    assert load(plant).targets() == {
        "out.cod": [("日均限值（未核准）/daily limit (unapproved)", 50.0)],
        "out.nh3_n": [("日均限值（未核准）/daily limit (unapproved)", 5.0)],
    }
