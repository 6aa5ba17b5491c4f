"""A CSV file played as a device."""

import asyncio
import csv
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from edge_agent.clock import VirtualClock
from edge_agent.drivers import DRIVERS
from edge_agent.drivers.base import Driver, FlagConfig, TagConfig, groups_of
from edge_agent.drivers.replay import ReplayDevice, ReplayTime
from edge_agent.errors import ConfigError
from edge_agent.model import Quality, SampleBlock, concatenate
from edge_agent.units import Duration

STEEL = Path(__file__).parents[2] / "simulators" / "data" / "steel_plant_2018.csv"
MINUTE = 60_000_000_000
HOURLY = """when,power,energy,state
2024-05-01 00:00,10.5,1.1,run
2024-05-01 01:00,,2.2,stop
2024-05-01 02:00,n/a,,run
2024-05-01 03:00,-3,3.3,other
"""
BY_COLUMN = ReplayTime(column="when", format="iso")
START = 1_714_521_600_000_000_000  # 2024-05-01T00:00:00Z


def write(folder: Path, text: str) -> str:
    file = folder / "rows.csv"
    file.write_text(text, "utf-8")
    return f"replay+csv://{file}"


def device(connect: str, time: ReplayTime = BY_COLUMN, **rest: object) -> ReplayDevice:
    return ReplayDevice(connect=connect, time=time, **rest)  # type: ignore[arg-type]  # short form


async def played(device: ReplayDevice) -> SampleBlock:
    """Return all rows of the one stream of a device."""
    driver: Driver = ReplayDevice.build({"d": device}, VirtualClock())
    await driver.connect()
    (group,) = driver.groups
    blocks = []
    try:
        while True:
            async with asyncio.timeout(0.1):
                blocks.append(await driver.read(group))
    except TimeoutError:
        await driver.close()
    assert max(len(b) for b in blocks) <= 256
    block = concatenate(blocks)
    assert block.lawful()
    assert block.schema == group.schema
    return block


async def test_a_column_is_a_gauge_with_the_times_of_the_file(tmp_path: Path) -> None:
    tags = {"power": TagConfig(at="power", unit="kW", scale=0.1, offset=1.0, range=(0.9, 2.0))}

    block = await played(device(write(tmp_path, HOURLY), tags=tags))

    assert block.time.tolist() == [START + i * 60 * MINUTE for i in range(4)]
    np.testing.assert_array_equal(block["power"], [2.05, np.nan, np.nan, 0.7])
    assert block.quality[0].tolist() == [
        Quality.UNCERTAIN_RANGE, Quality.BAD_NOT_AVAILABLE, Quality.BAD_NOT_AVAILABLE,
        Quality.UNCERTAIN_RANGE,
    ]  # fmt: skip


async def test_a_sum_is_a_counter_that_begins_at_the_start_of_the_first_interval(
    tmp_path: Path,
) -> None:
    tags = {
        "power": TagConfig(at="power"),
        "energy": TagConfig(at="sum(energy)", unit="kWh", kind="counter"),
    }

    block = await played(device(write(tmp_path, HOURLY), tags=tags))

    assert block.time.tolist() == [START + i * 60 * MINUTE for i in range(-1, 4)]
    np.testing.assert_array_equal(block["energy"], [0, 1.1, 3.3, np.nan, 6.6])
    assert block.quality[0, 0] == Quality.BAD_MISSING
    assert block.quality[1].tolist() == [0, 0, 0, Quality.BAD_NOT_AVAILABLE, 0]


async def test_where_stamps_are_starts_the_whole_total_comes_after_the_last_row(
    tmp_path: Path,
) -> None:
    time = ReplayTime(column="when", format="iso", label="start")
    tags = {"power": TagConfig(at="power"), "energy": TagConfig(at="sum(energy)", kind="counter")}

    block = await played(device(write(tmp_path, HOURLY), time, tags=tags))

    assert block.time.tolist() == [START + i * 60 * MINUTE for i in range(5)]
    np.testing.assert_array_equal(block["energy"], [0, 1.1, 3.3, np.nan, 6.6])
    assert block.quality[0, -1] == Quality.BAD_MISSING


async def test_names_of_states_become_their_numbers(tmp_path: Path) -> None:
    tags = {"state": TagConfig(at="state", kind="state", states={0: "stop", 1: "run"})}

    block = await played(device(write(tmp_path, HOURLY), tags=tags))

    np.testing.assert_array_equal(block["state"], [1, 0, 1, np.nan])


async def test_sentinels_and_the_flag_are_honoured(tmp_path: Path) -> None:
    text = "when,power,flag\n2024-05-01,5,0\n2024-05-02,-999,0\n2024-05-03,6,2\n"
    tags = {"power": TagConfig(at="power", invalid=(-999,)), "flag": TagConfig(at="flag")}
    flag = FlagConfig(tag="flag", normal=(0,), fault=(2,))

    block = await played(device(write(tmp_path, text), tags=tags, flag=flag))

    assert block.quality[0].tolist() == [0, Quality.BAD_NOT_AVAILABLE, Quality.UNCERTAIN_FLAGGED]
    assert not block.quality[1].any()


async def test_stamps_without_a_zone_are_in_the_zone_given(tmp_path: Path) -> None:
    text = "at,x\n01/05/2024 08:00,1\n01/05/2024 08:15,2\n"
    time = ReplayTime(column="at", format="%d/%m/%Y %H:%M", zone="Asia/Shanghai")

    block = await played(device(write(tmp_path, text), time, tags={"x": TagConfig(at="x")}))

    assert block.time.tolist() == [START, START + 15 * MINUTE]
    assert block.schema.period == 900.0


async def test_a_year_of_a_steel_plant_sums_to_the_last_digit() -> None:
    time = ReplayTime(start="2018-01-01T00:00:00+08:00", every=Duration(900))
    tags = {
        "energy": TagConfig(at="sum(Usage_kWh)", unit="kWh", kind="counter"),
        "reactive": TagConfig(at="Lagging_Current_Reactive_Power_kVarh", unit="kvarh"),
    }
    with STEEL.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    exact = [Decimal(0)]
    for row in rows:
        exact.append(exact[-1] + Decimal(row["Usage_kWh"]))

    block = await played(device(f"replay+csv://{STEEL}", time, tags=tags))

    assert block["energy"].tolist() == [float(total) for total in exact]
    assert block["energy"][-1] == 731077.46
    assert block["reactive"][1:].tolist() == [
        float(row["Lagging_Current_Reactive_Power_kVarh"]) for row in rows
    ]
    assert len(block) == 26281
    assert str(np.datetime64(int(block.time[0]), "ns"))[:19] == "2017-12-31T16:00:00"
    assert str(np.datetime64(int(block.time[-1]), "ns"))[:19] == "2018-10-01T10:00:00"


async def test_after_a_reconnect_the_rows_go_on_where_they_stopped(tmp_path: Path) -> None:
    text = "when,x\n" + "".join(f"2024-05-01 {i // 60:02}:{i % 60:02},{i}\n" for i in range(300))
    driver = ReplayDevice.build(
        {"d": device(write(tmp_path, text), tags={"x": TagConfig(at="x")})}, VirtualClock()
    )
    await driver.connect()
    first = await driver.read(driver.groups[0])
    await driver.close()
    await driver.connect()
    second = await driver.read(driver.groups[0])

    assert first["x"].tolist() == list(range(256))
    assert second["x"].tolist() == list(range(256, 300))


async def test_rows_of_one_time_come_together(tmp_path: Path) -> None:
    stamps = [min(i, 255) + max(0, i - 257) for i in range(300)]  # three rows at 255 s
    lines = [f"2024-05-01T00:{s // 60:02}:{s % 60:02},{i}" for i, s in enumerate(stamps)]
    played_from = write(tmp_path, "\n".join(["when,x", *lines]))
    driver = ReplayDevice.build(
        {"d": device(played_from, tags={"x": TagConfig(at="x")})}, VirtualClock()
    )
    (group,) = driver.groups
    first, second = await driver.read(group), await driver.read(group)
    assert (len(first), len(second)) == (258, 42)
    assert first.time[-1] < second.time[0]


def test_the_device_sets_the_pace_and_has_one_stream(tmp_path: Path) -> None:
    tags = {"a": TagConfig(at="power", class_="slow"), "b": TagConfig(at="energy")}
    recorded = device(write(tmp_path, HOURLY), tags=tags)

    driver = ReplayDevice.build({"d": recorded}, VirtualClock())

    (group,) = driver.groups
    assert tuple(groups_of("d", recorded)) == driver.groups
    assert (group.period, group.schema.stream, group.schema.period) == (None, "d/raw", 3600.0)


def test_a_path_may_be_relative_or_hold_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "x.csv").write_text(HOURLY, "utf-8")
    monkeypatch.chdir(tmp_path)
    tags = {"p": TagConfig(at="power")}

    relative = device("replay+csv:my%20data/x.csv", tags=tags)

    assert relative.faults() == []
    assert relative.path == Path("my data/x.csv")
    assert ReplayDevice in DRIVERS


def test_rows_out_of_order_are_named_by_their_line(tmp_path: Path) -> None:
    text = HOURLY.replace("2024-05-01 02:00", "2024-04-01 02:00")
    wrong = device(write(tmp_path, text), tags={"p": TagConfig(at="power")})

    (fault,) = wrong.faults()

    assert fault[0] == ("connect",)
    assert "rows.csv:4:1: 2024-04-01 02:00 is earlier than the row before" in fault[1]
    with pytest.raises(ConfigError, match=r"rows\.csv:4:1"):
        ReplayDevice.build({"d": wrong}, VirtualClock())


def test_every_unreadable_stamp_is_named(tmp_path: Path) -> None:
    text = HOURLY.replace("2024-05-01 01:00", "").replace("2024-05-01 03:00", "soon")

    first, second = (text for _, text in device(write(tmp_path, text)).faults())

    assert 'rows.csv:3:1: "" is not a time as iso' in first
    assert 'rows.csv:5:1: "soon" is not a time as iso' in second


@pytest.mark.parametrize(
    ("time", "path", "message"),
    [
        (ReplayTime(), ("time",), "give either column and format, or start and every"),
        (ReplayTime(column="when"), ("time",), "format is missing"),
        (ReplayTime(column="x", format="iso"), ("connect",), 'no column "x" (it has: when,'),
        (ReplayTime(column="when", format="iso", zone="Mars/Base"), ("time", "zone"), "Mars/Base"),
        (
            ReplayTime(column="when", format="iso", start="2018-01-01T00:00:00Z"),
            ("time", "start"),
            "give either column",
        ),
        (ReplayTime(start="2018-01-01T00:00:00", every=Duration(1)), ("time", "start"), "no zone"),
        (ReplayTime(start="yesterday", every=Duration(1)), ("time", "start"), "is not a time"),
        (
            ReplayTime(start="2018-01-01T00:00:00Z", every=Duration(0)),
            ("time", "every"),
            "longer than nothing",
        ),
    ],
)
def test_a_wrong_time_is_named(
    tmp_path: Path, time: ReplayTime, path: tuple[str, ...], message: str
) -> None:
    (fault,) = device(write(tmp_path, HOURLY), time).faults()

    assert fault[0] == path
    assert message in fault[1]


def test_a_wrong_file_or_tag_is_named(tmp_path: Path) -> None:
    connect = write(tmp_path, HOURLY)
    missing = device("replay+csv:///nowhere/rows.csv").faults()
    (tmp_path / "empty.csv").write_text("", "utf-8")
    empty = device(f"replay+csv://{tmp_path}/empty.csv").faults()
    tags = {"a": TagConfig(at="sum(volts)"), "b": TagConfig(at="power", type="f32")}

    assert missing == [
        (("connect",), "/nowhere/rows.csv cannot be read: No such file or directory")
    ]
    assert [path for path, _ in empty] == [("connect",)]
    ((_, here),) = device("replay+csv:nowhere.csv").faults()
    assert here.endswith(f"(it is looked for in {Path.cwd()}: write the whole path)")
    assert device(connect, tags=tags).faults() == [
        (("tags", "a", "at"), 'no column "volts" (the file has: when, power, energy, state)'),
        (("tags", "b", "type"), "a file holds plain numbers: leave type out"),
    ]
