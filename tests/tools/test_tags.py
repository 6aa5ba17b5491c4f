"""The tag table out and in again, and what a table that a person made is told."""

import subprocess
from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from edge_agent.config import Config, load
from edge_agent.drivers.base import TagConfig
from edge_agent.terminal import width
from edge_agent.tools import tagfile
from edge_agent.tools.cells import COLUMNS, TAG_KEYS, cell, column_of, value_of
from edge_agent.tools.models import Models
from edge_agent.tools.tags import exported, imported
from tests.commands import ROOT, called, run

DEMO = ROOT / "configs" / "demo.yaml"
Tree = dict[str, Any]


def back(config: Config, tree: Tree, grid: tagfile.Grid, file: Path) -> Config:
    """Return the plant of a tree in which each device's tags are those of the table."""
    found = imported(grid, "points", Models(config.path))
    assert found.faults == []
    assert found.good == found.rows
    fragment = yaml.safe_load("\n".join(found.lines))["devices"]
    devices = {
        name: {k: v for k, v in device.items() if k != "tags"} | fragment[name]
        for name, device in tree["devices"].items()
    }
    file.write_text(yaml.safe_dump(tree | {"devices": devices}, sort_keys=False), encoding="utf-8")
    return load(file)


def through_csv(config: Config) -> tagfile.Grid:
    return tagfile.parse_csv(tagfile.to_csv(exported(config)).encode("utf-8-sig"))


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".xlsx"])
def test_the_demo_s_table_comes_back_the_same(ending: str, chinese: bool, tmp_path: Path) -> None:
    config = load(DEMO)
    table = tmp_path / f"points{ending}"
    tagfile.write(table, exported(config), chinese=chinese)
    tree = yaml.safe_load(DEMO.read_text("utf-8"))
    again = back(config, tree, tagfile.read(table), tmp_path / "plant.yaml")
    assert again.devices == config.devices
    assert again.digest == config.digest  # the columns of the streams stand in the same order


def test_every_template_comes_back_the_same(tmp_path: Path) -> None:
    schemes = {"modbus": "modbus+tcp", "opcua": "opc.tcp"}
    models, devices = Models(), dict[str, Tree]()
    for i, name in enumerate(models.names()):
        facts = models.facts(name)
        assert facts is not None
        base = f"{schemes.get(facts.protocol, facts.protocol + '+tcp')}://h{i}:1"
        options = ("?unit=1", "?address=202305170042", "?address=12345678901234")
        more = ("", "&version=1997", "&type=20", "&type=30")
        places = [base, *(f"{base}{option}{other}" for option in options for other in more)]
        fitting = (p for p in places if (d := models.device(name, p)) and not d.faults())
        devices[f"d{i}"] = {"connect": next(fitting), "template": name, "ct": 40}
    file = tmp_path / "plant.yaml"
    tree = {"site": {"id": "works"}, "devices": devices}
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    config = load(file)
    again = back(config, tree, through_csv(config), tmp_path / "again.yaml")
    assert again.digest == config.digest
    found = imported(through_csv(config), "points", Models())
    assert not any("tags:" in line for line in found.lines)  # nothing differs


# ---- random plants ---------------------------------------------------------------------------

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12
)
numbers = st.one_of(
    st.floats(-1e12, 1e12, allow_nan=False).filter(bool), st.sampled_from([0.1, 1.0, 1e8, 1e-9])
)
ends = st.tuples(numbers, numbers).map(sorted).filter(lambda pair: pair[0] < pair[1])
keys: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["u16", "i16", "u32", "i32", "u64", "f32", "f64", "bcd32", "m10k32"]),
    "order": st.sampled_from(["ABCD", "CDAB", "BADC", "DCBA"]),
    "scale": numbers,
    "offset": st.floats(-1e6, 1e6),
    "unit": st.sampled_from(["kWh", "V", "°C", "{bag}", "万元", "%", "1/min", "mg/m3"]),
    "invalid": st.lists(st.integers(0, 65535), max_size=3),
    "range": ends,
    "states": st.dictionaries(st.integers(0, 300), words, max_size=3),
    "class": st.sampled_from(["fast", "slow"]),
    "poll": st.sampled_from(["10ms", "1s", "2.5s", "90s", "1h", "1.001s"]),
    "deadband": st.floats(0, 1e6),
    "ratio": st.sampled_from(["1", "ct", "pt", "ct*pt"]),
}


@st.composite
def tag_trees(draw: st.DrawFn, *, at: bool) -> Tree:
    written = draw(st.fixed_dictionaries({}, optional=keys))
    if written.get("type") not in {"u32", "i32", "u64", "m10k32", "bcd32"}:
        written.pop("invalid", None)
    if at:
        written["at"] = f"hr:{draw(st.integers(0, 4000))}"
        if draw(st.booleans()):
            written["kind"] = draw(st.sampled_from(["counter", "state"]))
            if written["kind"] == "counter":
                written["modulus"] = draw(st.floats(1, 1e15))
    return written


@st.composite
def plants(draw: st.DrawFn) -> Tree:
    own = {"connect": "modbus+tcp://h:1", "tags": draw(
        st.dictionaries(names, tag_trees(at=True), min_size=1, max_size=5))}  # fmt: skip
    meter: Tree = {"connect": "modbus+tcp://h:1?unit=2", "template": "chint/dtsu666"}
    known = ["voltage_l1", "frequency", "active_power", "active_energy_import"]
    changed = draw(
        st.dictionaries(st.sampled_from(known), st.one_of(st.none(), tag_trees(at=False)))
    )
    own_names = names.filter(lambda n: n not in known)
    extra = draw(st.dictionaries(own_names, tag_trees(at=True), max_size=2))
    meter["tags"] = {
        name: None
        if tag is None
        else {k: v for k, v in tag.items() if k not in {"type", "invalid"}}
        for name, tag in changed.items()
    } | extra
    return {"site": {"id": "works"}, "devices": {"own": own, "meter": meter}}


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(plants())
def test_any_table_comes_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, tree: Tree
) -> None:
    file = tmp_path_factory.mktemp("plant") / "plant.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False), encoding="utf-8")
    config = load(file)
    again = back(config, tree, through_csv(config), file.with_name("again.yaml"))
    assert again.devices == config.devices
    assert again.digest == config.digest


@settings(deadline=None)
@given(st.dictionaries(st.integers(-5, 70000), words, min_size=1))
def test_states_come_back_from_their_cell(states: dict[int, str]) -> None:
    assert value_of("states", cell("states", states)) == states


@settings(deadline=None)
@given(ends)
def test_a_range_comes_back_from_its_cell(pair: list[float]) -> None:
    assert value_of("range", cell("range", tuple(pair))) == pair


def test_there_is_a_column_for_every_key_of_a_tag() -> None:
    names_of_columns = [column.name for column in COLUMNS]
    assert set(TAG_KEYS) <= set(names_of_columns)
    assert len(set(names_of_columns)) == len(names_of_columns)
    assert {f.name.rstrip("_") for f in fields(TagConfig)} == set(TAG_KEYS)
    assert all(column_of(c.chinese) is c and column_of(c.name.upper()) is c for c in COLUMNS)


# ---- tables that people make -----------------------------------------------------------------


def table(text: str, encoding: str = "utf-8") -> tagfile.Grid:
    return tagfile.parse_csv(text.encode(encoding))


def tags_of(text: str, encoding: str = "utf-8") -> Mapping[str, Any]:
    found = imported(table(text, encoding), "points.csv", Models())
    assert found.faults == []
    return yaml.safe_load("\n".join(found.lines))["devices"]


CHINESE = (
    "1#车间点表,,,,,,\n"
    "设备,点名,寄存器地址,数据类型,字节序,单位,性质\n"
    "em-1,p,40001,FLOAT,cdab,kW,瞬时量\n"
    ",e,40003,DWORD,,kWh,累计量\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_a_chinese_spreadsheet_is_read(encoding: str, delimiter: str) -> None:
    devices = tags_of(CHINESE.replace(",", delimiter), encoding)
    assert devices == {
        "em-1": {
            "tags": {
                "p": {"at": "40001", "type": "f32", "order": "CDAB", "unit": "kW"},
                "e": {"at": "40003", "type": "u32", "unit": "kWh", "kind": "counter"},
            }
        }
    }


def test_a_table_with_addresses_is_a_whole_plant(tmp_path: Path) -> None:
    text = (
        "device,connect,template,tag,at,unit,range,states,poll,invalid\n"
        "em-1,modbus+tcp://10.0.0.1,chint/dtsu666,voltage_l1,,,180..260,,,\n"
        "plc,opc.tcp://10.0.0.2,,state,ns=2;s=State,,,0=stop; 1=run,500ms,\n"
        'plc,,,count,ns=2;s=Count,,0～100,,,"65535, 0x7FFF"\n'
    )
    devices = tags_of(text)
    file = tmp_path / "plant.yaml"
    file.write_text(yaml.safe_dump({"site": {"id": "works"}, "devices": devices}))
    read = load(file).devices
    assert read["em-1"].tags["voltage_l1"].range == (180.0, 260.0)
    assert read["em-1"].tags["voltage_l1"].at == "hr:0x2006"
    assert devices["em-1"]["tags"] == {"voltage_l1": {"range": [180, 260]}}
    assert read["plc"].tags["state"].states == {0: "stop", 1: "run"}
    assert read["plc"].tags["count"].invalid == (65535, 0x7FFF)


def test_what_is_wrong_with_the_device_costs_none_of_its_rows() -> None:
    text = (
        "设备,连接,电流变比,电压变比,模板,点名,地址,单位\n"
        "em,modbus+tcp://h:99999,twelve,100,chint/dtsu666,voltage_l1,,\n"
        "em,,,,,extra,hr:7,kW\n"
    )
    found = imported(table(text), "points.csv", Models())
    assert [fault.partition(" ")[0] for fault in found.faults] == [
        "points.csv:2:B:",
        "points.csv:2:C:",
    ]
    device = yaml.safe_load("\n".join(found.lines))["devices"]["em"]
    assert device == {
        "template": "chint/dtsu666", "pt": 100, "tags": {"extra": {"at": "hr:7", "unit": "kW"}},
    }  # fmt: skip


def test_no_in_the_column_use_takes_a_template_s_tag_out() -> None:
    text = "设备,模板,点名,启用,量程\nem,chint/dtsu666,voltage_l2,否,\nem,,frequency,是,45..55\n"
    assert tags_of(text)["em"]["tags"] == {"voltage_l2": None, "frequency": {"range": [45, 55]}}


WRONG = (
    "device,template,tag,at,type,scale,unit,range,states,use,colour\n"
    "em-1,,p,hr:0,f32,,kWW,,,,\n"
    "em-1,,q,hr:70000,u16,ten,kvar,,,,\n"
    "em-1,,good,hr:4,u16,0.1,V,,,,\n"
    "em-1,,good,hr:5,u16,0.1,V,,,,\n"
    "em-1,,r,hr:6,u17,,,5..1,,,\n"
    "em-1,,s,hr:7,,,,about 5,on,perhaps,\n"
    "Kiln 1,,p,hr:0,,,,,,,\n"
    "em-2,chint/dtsu6666,p,hr:0,,,,,,,\n"
    "em-1,,,hr:9,,,,,,,\n"
)


def test_every_mistake_of_a_table_is_told_with_row_and_column(tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text(WRONG)
    status, said, error = run("tags", "import", points)
    assert status == 2
    told = [text.removeprefix(f"{points}:") for text in error.splitlines()]
    places = [":".join(text.split(":")[:2]) for text in told]
    assert places == [
        "1:K", "2:G", "3:F", "3:D", "5:C", "6:E", "6:H", "7:H", "7:I", "7:J", "8:A", "9:B", "10:A",
    ] or sorted(places) == sorted([
        "1:K", "2:G", "3:F", "5:C", "6:E", "7:H", "7:I", "7:J", "8:A", "9:B", "10:A",
    ])  # fmt: skip
    by_place = dict(zip(places, told, strict=True))
    assert 'unknown column "colour"' in by_place["1:K"]
    assert 'unknown unit "kWW" (write a UCUM code' in by_place["2:G"]
    assert "must be a number" in by_place["3:F"]
    assert 'tag "good" stands twice (first in row 4)' in by_place["5:C"]
    assert '"u17" is not one of' in by_place["6:E"]
    assert '"about 5" is no range (write 0..2000)' in by_place["7:H"]
    assert "write 0=stop; 1=run" in by_place["7:I"]
    assert '"perhaps" is neither yes nor no' in by_place["7:J"]
    assert '"Kiln 1" is not a name' in by_place["8:A"]
    assert '(did you mean "chint/dtsu666"?)' in by_place["9:B"]
    assert '"tag" is missing' in by_place["10:A"]
    devices = yaml.safe_load(said)["devices"]  # what was right is not lost
    assert devices["em-1"]["tags"] == {
        "good": {"at": "hr:4", "type": "u16", "scale": 0.1, "unit": "V"}
    }


def test_a_date_that_a_spreadsheet_made_is_told(tmp_path: Path) -> None:
    book = Workbook()
    sheet = book.worksheets[0]
    sheet.append(["设备", "点名", "地址", "量程"])
    sheet.append(["em", "p", 40001, date(2026, 1, 2)])
    sheet.append(["em", "q", 40002, None])
    book.save(tmp_path / "points.xlsx")
    status, said, error = run("tags", "import", "points.xlsx", cwd=tmp_path)
    assert status == 2
    assert error.startswith("points.xlsx:2:D: the spreadsheet made a date of it (2026-01-02")
    assert yaml.safe_load(said)["devices"]["em"]["tags"] == {"q": {"at": "40002"}}


def test_a_workbook_is_made_for_people(tmp_path: Path) -> None:
    points = tmp_path / "点表.xlsx"
    status, said, error = run("tags", "export", DEMO, "-o", points, "--chinese")
    assert (status, error) == (0, "")
    assert said == f"written   {points}: 237 tags of 13 devices\n"
    book = load_workbook(points)
    sheet = book.worksheets[0]
    assert [c.value for c in sheet[1]][:4] == ["设备", "点名", "地址", "类型"]
    assert sheet.freeze_panes == "C2"
    scale = next(c for c in sheet[1] if c.value == "系数").column_letter
    assert sheet[f"{scale}2"].value == 0.01
    assert len(book.worksheets) == 2
    status, _, error = run("tags", "export", DEMO, "-o", points)
    assert status == 2
    assert error == f"{points}: is there already (--overwrite replaces it)\n"
    assert run("tags", "export", DEMO, "-o", points, "--overwrite")[0] == 0


def test_a_table_goes_to_the_terminal_and_one_device_may_be_chosen() -> None:
    status, said, error = run("tags", "export", DEMO, "--device", "scale-coal")
    assert (status, error) == (0, "")
    assert [line.split(",")[:2] for line in said.splitlines()] == [
        ["device", "tag"], ["scale-coal", "mass"], ["scale-coal", "flow"],
    ]  # fmt: skip
    assert run("tags", "export", DEMO, "--device", "x")[2] == "tags export: there is no device x\n"


def test_a_secret_in_an_address_stays_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "10.1.2.3")
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        "site: {id: works}\ndevices: {em: {connect: 'modbus+tcp://${HOST}', tags: {p: {at: hr:0}}}}"
    )
    (row,) = exported(load(plant))
    assert row["connect"] == "modbus+tcp://${HOST}"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("points.xls", b"", "is neither .csv nor .xlsx (save it as one of these)"),
        ("points.xlsx", b"PK nonsense", "is not an XLSX file"),
        ("points.csv", b"\xff\xfe\x00", "neither UTF-8 nor GBK"),
        ("points.csv", b"a,b\n1,2\n", "there is no column device and no column tag"),
        ("points.csv", b'device,tag\n"em,p\n', "is not CSV"),
        ("none.csv", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(
    name: str,
    content: bytes | None,
    told: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    status, said, error = called(capfd, "tags", "import", str(file))
    assert (status, said) == (2, "")
    assert told in error
    assert error.count("\n") == 1


def test_the_help_is_readable() -> None:
    for words_of in (("tags",), ("tags", "export"), ("tags", "import")):
        done = subprocess.run(
            [*run.__globals__["command"](*words_of, "--help")],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        assert "example:  edge-agent tags" in done.stdout
        assert max(map(width, done.stdout.splitlines())) <= 100
