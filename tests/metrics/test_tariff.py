"""Tables, bands on days of 23 and 25 hours, prices, power factor and monthly bills."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_agent.config import load
from edge_agent.config.tables import Tables, data_dir
from edge_agent.errors import ConfigError
from edge_agent.metrics.base import Metric
from edge_agent.metrics.power import apparent, power_factor, unbalance
from edge_agent.metrics.prices import Prices
from edge_agent.metrics.slots import slot_schema
from edge_agent.metrics.tariff import TariffConfig
from edge_agent.metrics.tariff_tables import ALWAYS, BANDS, Band, Tariffs, local_minutes
from edge_agent.model import Quality, SampleBlock, Site
from tests.metrics.plants import METER, SECOND, Works, run

MINUTE = 60 * SECOND
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
NIGHT = Band("sharp", tuple(range(1, 13)), 120, 180, 2.0, -ALWAYS, ALWAYS, "night:02-03")
REST = [
    Band("flat", tuple(range(1, 13)), start, end, 1.0, -ALWAYS, ALWAYS, "night:rest")
    for start, end in ((0, 120), (180, 1440))
]
PRICE = Prices(since="2026-01-01", floating={"a": 0.5}, fixed={"b": 0.25}, funds={"c": 0.125})
CONFIG = TariffConfig(energy="em-a.energy", table="night", windows=("1min", "1h", "1d"))


@pytest.fixture(scope="module")
def packaged() -> Tariffs:
    return Tables().tariffs


@dataclass(frozen=True)
class NightPlant(Works):
    """A plant whose hour from two to three is sharp; the other tables are the packaged ones."""

    others: Tariffs = field(default_factory=Tariffs)

    @property
    def tariffs(self) -> Tariffs:
        rows = tuple(("tou", "2026", band) for band in (NIGHT, *REST))
        return Tariffs({"night": rows}, self.others.adjustments, self.others.rules)


def plant(zone: ZoneInfo = SHANGHAI, others: Tariffs | None = None) -> NightPlant:
    return NightPlant(site=Site("works", "main", "works", zone), others=others or Tariffs())


def slots(begin: datetime, minutes: int, kwh: float = 1.0, kvarh: float = 0.5) -> SampleBlock:
    """Slot rows of the meter: the same energies in each minute."""
    schema = slot_schema(METER)
    value = np.zeros((len(schema.tags), minutes))
    for name, amount in (("energy", kwh), ("reactive", kvarh)):
        value[schema.index[f"{name}.increment"]] = amount
        value[schema.index[f"{name}.coverage"]] = 1.0
    time = int(begin.timestamp()) * SECOND + (1 + np.arange(minutes)) * MINUTE
    return SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))


def compute(
    config: TariffConfig, block: SampleBlock, where: NightPlant | None = None
) -> dict[str, SampleBlock]:
    return run(config.build("bill", where or plant()), [block])


def row(rows: Mapping[str, SampleBlock], window: str, i: int = 0) -> dict[str, float]:
    block = rows[f"bill/{window}"]
    return {tag.name: float(block.value[j, i]) for j, tag in enumerate(block.schema.tags)}


def mark(rows: Mapping[str, SampleBlock], window: str, column: str, i: int = 0) -> int:
    block = rows[f"bill/{window}"]
    return int(block.quality[block.schema.index[column], i])


# ---- the packaged tables ---------------------------------------------------------------------


def minutes_of(day: datetime) -> np.ndarray:
    start = int(day.timestamp()) * SECOND
    return local_minutes(SHANGHAI, start + np.arange(1440) * MINUTE)


def hours(packaged: Tariffs, day: datetime, band: str, user_class: str = "tou") -> list[int]:
    """The hours of a day that lie in a band."""
    table = packaged.time_of_use("tou_shandong", user_class, None)
    found = table.row_of(minutes_of(day))
    number = BANDS.index(band)
    inside = (found >= 0) & (table.bands[found] == number)
    return [hour for hour in range(24) if inside[hour * 60 : hour * 60 + 60].all()]


@pytest.mark.parametrize("year", [2024, 2025, 2026])
def test_every_minute_of_a_whole_year_has_a_band_and_a_coefficient(
    packaged: Tariffs, year: int
) -> None:
    table = packaged.time_of_use("tou_shandong", "tou", None)
    for month in range(1, 13):
        found = table.row_of(minutes_of(datetime(year, month, 15, tzinfo=SHANGHAI)))
        assert (found >= 0).all()
        assert np.isfinite(table.coefficients[found]).all()


def test_the_bands_are_those_of_the_day_s_edition_and_season(packaged: Tariffs) -> None:
    january = datetime(2024, 1, 31, tzinfo=SHANGHAI)
    assert hours(packaged, january, "sharp") == [16, 17, 18]
    assert hours(packaged, january, "deep-valley") == [11, 12, 13]
    assert hours(packaged, datetime(2025, 12, 31, tzinfo=SHANGHAI), "peak") == [7, 8, 19, 20]
    assert hours(packaged, datetime(2026, 6, 1, tzinfo=SHANGHAI), "valley") == [7, 8, 9, 10, 11]


def test_what_no_row_names_is_in_no_band(packaged: Tariffs) -> None:
    in_2023 = datetime(2023, 1, 10, tzinfo=SHANGHAI)  # only the valley was read
    assert hours(packaged, in_2023, "valley") == [10, 11, 14, 15]
    assert hours(packaged, in_2023, "flat") == []
    in_2018 = packaged.time_of_use("tou_shandong", "tou", None)
    assert (in_2018.row_of(minutes_of(datetime(2018, 1, 1, tzinfo=SHANGHAI))) == -1).all()


def test_an_edition_can_be_taken_for_all_days(packaged: Tariffs) -> None:
    table = packaged.time_of_use("tou_shandong", "tou", "2024")
    found = table.row_of(minutes_of(datetime(2018, 1, 1, tzinfo=SHANGHAI)))
    assert (found >= 0).all()
    assert {table.rows[i].id for i in np.unique(found)} == {
        "tou_shandong:2024-winter-tou (unapproved)"
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tou_jiangsu", "tou", None), 'no table "tou_jiangsu"'),
        (("tou_shandong", "villa", None), "has no user class"),
        (("tou_shandong", "tou", "2019"), 'no edition "2019" .it has 2024, 2025, 2026, 2023'),
    ],
)
def test_a_name_that_no_table_has_is_told(
    packaged: Tariffs, names: tuple[str, str, str | None], message: str
) -> None:
    with pytest.raises(KeyError, match=message):
        packaged.time_of_use(*names)


@pytest.mark.parametrize(
    ("standard", "power_factors", "percent"),
    [
        (0.90, [1.00, 0.95, 0.94, 0.91, 0.90], [-0.75, -0.75, -0.60, -0.15, 0.0]),
        (0.90, [0.89, 0.80, 0.70, 0.69, 0.65, 0.64, 0.50], [0.5, 5.0, 10.0, 11, 15, 17, 45]),
        (0.85, [1.00, 0.94, 0.91, 0.90, 0.86, 0.85], [-1.10, -1.10, -0.65, -0.50, -0.10, 0.0]),
        (0.85, [0.84, 0.65, 0.64, 0.60, 0.59], [0.5, 10.0, 11.0, 15.0, 17.0]),
        (0.80, [1.00, 0.92, 0.91, 0.90, 0.80], [-1.30, -1.30, -1.15, -1.00, 0.0]),
        (0.80, [0.79, 0.60, 0.59, 0.55, 0.54], [0.5, 10.0, 11.0, 15.0, 17.0]),
    ],
)
def test_the_adjustment_of_a_power_factor(
    packaged: Tariffs, standard: float, power_factors: list[float], percent: list[float]
) -> None:
    found = packaged.adjustment(standard).share(np.array(power_factors)) * 100
    assert found.tolist() == pytest.approx(percent, abs=1e-12)


def test_the_power_factor_is_rounded_half_up_before_it_is_judged(packaged: Tariffs) -> None:
    share = packaged.adjustment(0.9).share
    assert share(np.array([0.8949, 0.8951, 0.9049])).tolist() == [0.005, 0.0, 0.0]
    assert np.isnan(share(np.array([np.nan]))).all()


def test_no_row_is_approved(packaged: Tariffs) -> None:
    names = [band.id for rows in packaged.bands.values() for _, _, band in rows]
    names += [a.id for a in packaged.adjustments.values()]
    names += [rule.id for rule in packaged.rules.values()]
    assert all(name.endswith("(unapproved)") for name in names)


def test_tables_beside_the_plant_take_precedence_and_change_the_digest(tmp_path: Path) -> None:
    text = (data_dir() / "tariffs" / "tou_shandong.csv").read_text("utf-8")
    (tmp_path / "tariffs").mkdir()
    own = tmp_path / "tariffs" / "tou_shandong.csv"
    own.write_text(text.replace(",1.7,", ",1.8,").replace("unapproved", "approved"), "utf-8")
    plain = Tables()
    changed = Tables(tmp_path, data_dir())
    table = changed.tariffs.time_of_use("tou_shandong", "tou", "2026")
    assert 1.8 in table.coefficients
    assert "tou_shandong:2026-winter-tou" in table.ids
    assert changed.digest != plain.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10:00,11:00,valley", "09:00,11:00,valley", "overlap at 09:00"),
        ("17:00,20:00,sharp", "17:00,25:00,sharp", "not a time of day"),
        ("17:00,20:00,sharp", "17:00,20:00,shrp", "is not one of"),
        ("17:00,20:00,sharp", "20:00,17:00,sharp", "start must be before end"),
    ],
)
def test_a_mistake_in_a_table_of_bands_is_told(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (data_dir() / "tariffs" / "tou_shandong.csv").read_text("utf-8")
    (tmp_path / "tariffs").mkdir()
    (tmp_path / "tariffs" / "tou_shandong.csv").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ConfigError, match=message):
        Tables(tmp_path, data_dir())


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("demand_rules", "two-part,1.05,2,", "two-part,,2,", "tolerance: must have a number"),
        ("power_factor", "0.85,0.65,0.85,", "0.85,0.70,0.85,", "pieces of 0.85 must join"),
    ],
)
def test_a_number_that_is_missing_is_no_zero_and_no_step_may_be(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    text = (data_dir() / "tariffs" / f"{name}.csv").read_text("utf-8")
    assert old in text
    (tmp_path / "tariffs").mkdir()
    (tmp_path / "tariffs" / f"{name}.csv").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ConfigError, match=message):
        Tables(tmp_path, data_dir())


# ---- bands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "length", "sharp"),
    [
        (datetime(2026, 3, 28, tzinfo=BERLIN), 24, 1),
        (datetime(2026, 3, 29, tzinfo=BERLIN), 23, 0),  # two o'clock is skipped
        (datetime(2026, 10, 25, tzinfo=BERLIN), 25, 2),  # and comes twice
    ],
)
def test_bands_follow_the_local_clock_on_days_of_23_and_25_hours(
    day: datetime, length: int, sharp: int
) -> None:
    rows = compute(CONFIG, slots(day, length * 60), plant(BERLIN))
    figures = row(rows, "1d")
    assert len(rows["bill/1d"]) == 1
    assert figures["energy_kwh"] == length * 60
    assert (figures["sharp_kwh"], figures["flat_kwh"]) == (sharp * 60, (length - sharp) * 60)
    assert figures["coverage"] == 1.0


def test_an_offset_of_three_quarters_of_an_hour_is_one() -> None:
    zone = ZoneInfo("Asia/Kathmandu")
    noon = datetime(2026, 1, 1, 12, 0, tzinfo=zone)
    start = int(noon.timestamp()) * SECOND
    found = local_minutes(zone, np.array([start, start + MINUTE]))
    assert (found % 1440).tolist() == [720, 721]


def test_an_increment_is_split_at_the_minute_in_which_a_band_ends() -> None:
    rows = compute(CONFIG, slots(datetime(2026, 1, 1, 1, 58, tzinfo=SHANGHAI), 64))
    bands = rows["bill/1min"]
    assert bands["flat_kwh"].tolist() == [1.0] * 2 + [0.0] * 60 + [1.0] * 2
    assert bands["sharp_kwh"].tolist() == [0.0] * 2 + [1.0] * 60 + [0.0] * 2


def test_a_minute_that_is_not_known_is_known_in_no_band() -> None:
    block = slots(datetime(2026, 1, 1, tzinfo=SHANGHAI), 1440)
    quality, value = block.quality.copy(), block.value.copy()
    column = block.schema.index["energy.increment"]
    quality[column, 600:1440] = Quality.BAD_MISSING
    value[column, 600:1440] = np.nan
    rows = compute(CONFIG, SampleBlock(block.schema, block.time, value, quality))
    assert row(rows, "1d")["energy_kwh"] == 600.0
    assert mark(rows, "1d", "flat_kwh") == Quality.UNCERTAIN
    assert mark(rows, "1h", "energy_kwh", 20) == Quality.BAD_MISSING


# ---- prices and bills ------------------------------------------------------------------------


def test_floating_parts_take_the_coefficient_and_fixed_ones_do_not() -> None:
    rows = compute(
        replace(CONFIG, prices=(PRICE,)), slots(datetime(2026, 1, 1, tzinfo=SHANGHAI), 1440)
    )
    figures = row(rows, "1d")
    assert figures["cost_floating"] == 0.5 * (60 * 2.0 + 1380)
    assert (figures["cost_fixed"], figures["cost_funds"]) == (360.0, 180.0)
    assert figures["cost_total"] == 750.0 + 360.0 + 180.0
    assert figures["price_mean"] == figures["cost_total"] / 1440.0
    assert "cost_demand" not in figures


def test_a_price_changes_at_local_midnight_within_a_window() -> None:
    later = replace(PRICE, since="2026-01-02", fixed={"b": 1.0})
    config = replace(CONFIG, prices=(PRICE, later), windows=("1min", "1h"))
    block = slots(datetime(2026, 1, 1, 23, 59, tzinfo=SHANGHAI), 2)
    assert compute(config, block)["bill/1min"]["cost_fixed"].tolist() == [0.25, 1.0]


def test_before_the_first_price_there_is_no_cost() -> None:
    config = replace(CONFIG, prices=(PRICE,))
    rows = compute(config, slots(datetime(2025, 12, 31, tzinfo=SHANGHAI), 1440))
    assert mark(rows, "1min", "cost_total") == Quality.BAD_NOT_AVAILABLE
    assert mark(rows, "1d", "cost_total") == Quality.BAD_NOT_AVAILABLE
    assert mark(rows, "1d", "energy_kwh") == Quality.GOOD


def test_the_power_factor_is_that_of_the_window_s_energies(packaged: Tariffs) -> None:
    config = replace(
        CONFIG,
        reactive_import="em-a.reactive",
        reactive_export="em-a.reactive",
        power_factor_standard=0.9,
        prices=(PRICE,),
    )
    block = slots(datetime(2026, 1, 1, tzinfo=SHANGHAI), 1440, 1.0, 0.375)
    figures = row(compute(config, block, plant(others=packaged)), "1d")
    assert figures["reactive_kvarh"] == 1080.0  # forward and reverse add up
    assert figures["power_factor"] == 0.8  # 3, 4, 5
    assert figures["adjustment"] == pytest.approx(0.05)
    assert figures["cost_adjustment"] == pytest.approx(0.05 * (750.0 + 360.0))  # funds are left out


def billed(packaged: Tariffs, **options: object) -> dict[str, SampleBlock]:
    """Two months of 60 kW, but for a quarter of an hour of 600 kW in January."""
    config = replace(
        CONFIG,
        prices=(replace(PRICE, demand=38.0, capacity=28.0),),
        windows=("1min", "1d", "1mo", "1a", "12mo"),
        **options,
    )
    block = slots(datetime(2026, 1, 1, tzinfo=SHANGHAI), (31 + 28) * 1440)
    value = block.value.copy()
    value[block.schema.index["energy.increment"], 5000:5015] = 10.0
    where = plant(others=packaged)
    metrics: list[Metric] = config.build("bill", where)
    ends = [datetime(2027, month, 1, 0, 1, tzinfo=SHANGHAI) for month in (1, 2, 3)]
    later = slots(ends[0], 3)
    later = SampleBlock(
        later.schema,
        np.array([int(end.timestamp()) * SECOND for end in ends]),
        later.value.copy(),
        later.quality.copy(),
    )
    return run(metrics, [SampleBlock(block.schema, block.time, value, block.quality.copy()), later])


@pytest.mark.parametrize(
    ("options", "january", "february"),
    [
        ({"contract": "500 kW"}, (500 + 2 * (600 - 525)) * 38.0, 500 * 38.0),
        ({"billed": "maximum"}, 600 * 38.0, 60 * 38.0),
        ({"billed": "capacity", "transformer": "1000 kVA"}, 28000.0, 28000.0),
    ],
)
def test_the_basic_charge_of_a_month_and_years_of_months(
    packaged: Tariffs, options: dict[str, object], january: float, february: float
) -> None:
    rows = billed(packaged, **options)
    months = rows["bill/1mo"]
    assert months["cost_demand"][:2].tolist() == pytest.approx([january, february])
    energy = sum(months[name][0] for name in ("cost_floating", "cost_fixed", "cost_funds"))
    assert months["cost_total"][0] == energy + months["cost_demand"][0]
    assert mark(rows, "1d", "cost_demand") == Quality.BAD_NOT_AVAILABLE
    assert row(rows, "1d")["cost_total"] < 2000.0
    twelve = rows["bill/12mo"]
    assert twelve["cost_demand"][1] == pytest.approx(january + february)
    assert twelve["cost_total"][1] == pytest.approx(months["cost_total"][:2].sum())
    year = rows["bill/1a"]
    assert year["cost_demand"][0] == pytest.approx(january + february)
    assert year["demand_max_kw"][0] == months["demand_max_kw"][0]


def test_a_running_month_has_the_basic_charge_of_the_maximum_so_far(packaged: Tariffs) -> None:
    config = replace(
        CONFIG, prices=(replace(PRICE, demand=38.0),), billed="maximum", windows=("1min", "1mo")
    )
    metrics = config.build("bill", plant(others=packaged))
    run(metrics, [slots(datetime(2026, 1, 1, tzinfo=SHANGHAI), 1440)])
    month = metrics[1].running(0, {})
    assert month is not None
    assert float(month["cost_demand"][0]) == pytest.approx(60 * 38.0)
    assert float(month["cost_total"][0]) == pytest.approx(1290.0 + 60 * 38.0)


def test_years_do_not_need_published_months() -> None:
    config = replace(CONFIG, prices=(PRICE,))
    block = slots(datetime(2026, 12, 1, tzinfo=SHANGHAI), 31 * 1440)
    for windows in (("1a",), ("1min", "1a"), ("1mo", "1a")):
        rows = compute(replace(config, windows=windows), block)
        assert row(rows, "1a")["energy_kwh"] == 31 * 1440, windows
        assert row(rows, "1a")["cost_total"] == pytest.approx(31 * 1290.0)


def test_the_rows_that_applied_stand_in_the_provenance(packaged: Tariffs) -> None:
    config = replace(CONFIG, reactive_import="em-a.reactive", power_factor_standard=0.9)
    for metric in config.build("bill", plant(others=packaged)):
        assert metric.output.provenance == (
            *("config:works", "night:02-03", "night:rest"),
            "power_factor:0.90 (unapproved)",
        )


def test_mistakes_of_a_configuration_are_told() -> None:
    config = TariffConfig(
        energy=(),
        power_factor_standard=0.9,
        prices=(
            Prices(since="2026-02-01"),
            Prices(since="2026-01-01", demand=38.0),
            Prices(since="1 May"),
        ),
    )
    assert [path for path, _ in config.faults()] == [
        ("prices", 1, "since"),
        ("prices", 2, "since"),
        ("energy",),
        ("power_factor_standard",),
        ("billed",),
    ]
    config = TariffConfig(energy="a.e", contract="100 kW", prices=(Prices(since="2026-01-01"),))
    assert config.faults() == [
        (("contract",), "is of no use without a basic price: demand among prices")
    ]


def test_a_plant_s_file_with_a_tariff_is_read_and_a_wrong_name_is_told_at_its_line(
    tmp_path: Path,
) -> None:
    text = """
site: {id: works}
devices:
  em: {connect: "modbus+tcp://127.0.0.1:5020?unit=1", template: acrel/adl3000}
metrics:
  bill:
    type: tariff
    energy: em.active_energy_import
    table: TABLE
    prices:
      - {since: "2026-01-01", floating: {purchase: 0.4}, fixed: {transmission: 0.15}}
"""
    file = tmp_path / "plant.yaml"
    file.write_text(text.replace("TABLE", "tou_shandong"), "utf-8")
    assert load(file).metrics["bill"].windows == ("1min", "1h", "1d", "1mo")
    demand = "  incomer: {type: demand, power: em.active_power, contract: 6.3 MW}\n"
    file.write_text(text.replace("TABLE", "tou_shandong") + demand, "utf-8")
    assert load(file).targets()["incomer.demand_max_kw"] == [("合同需量/contract", 6300.0)]
    file.write_text(text.replace("TABLE", "tou_jiangsu"), "utf-8")
    with pytest.raises(ConfigError, match=r"plant.yaml:6.*no table .tou_jiangsu"):
        load(file)


# ---- pure functions --------------------------------------------------------------------------


def test_power_factor_apparent_power_and_unbalance() -> None:
    assert power_factor(np.array([3.0, 0.0, 0.0]), np.array([4.0, 2.0, 0.0])).tolist()[:2] == [
        0.6, 0.0,
    ]  # fmt: skip
    assert np.isnan(power_factor(np.zeros(1), np.zeros(1))).all()
    assert apparent(np.array([3.0]), np.array([4.0])).tolist() == [5.0]
    phases = np.array([[230.0, 0.0], [240.0, 0.0], [220.0, 0.0]])
    assert unbalance(phases)[0] == pytest.approx(10 / 230)
    assert np.isnan(unbalance(phases)[1])


def test_local_minutes_agree_with_the_standard_library() -> None:
    random = np.random.default_rng(1)
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    instants = np.sort(start + random.integers(0, 365 * 1440, 500) * 60)
    found = local_minutes(BERLIN, instants * SECOND)
    for second, minute in zip(instants.tolist(), found.tolist(), strict=True):
        local = datetime.fromtimestamp(second, BERLIN).replace(tzinfo=None)
        assert datetime(1970, 1, 1) + timedelta(minutes=minute) == local  # noqa: DTZ001  local
