"""The commands as a person types them: what they say, where, and with which status they end."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from openpyxl import load_workbook

from edge_agent import __version__
from edge_agent.model import Quality
from edge_agent.outbox_archive import Archive
from edge_agent.sinks.history import History
from tests.commands import ROOT, called, children, gone, line, run, started
from tests.servers import free_port, wait_until

COMMANDS = (
    *("demo", "run", "status", "check", "explain", "scan", "browse", "simulate", "report"),
    *("recompute", "export"),
    *("tags export", "tags import"),
)
FREE = "127.0.0.1:0"
pytestmark = pytest.mark.timeout(60)  # processes import for seconds on a loaded machine


@pytest.fixture(scope="module")
def simulated() -> Iterator[dict[str, str]]:
    """The demonstration plant, played for the whole module; device -> address."""
    with started("simulate") as process:
        yield json.loads(line(process, "{"))["connect"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


@pytest.fixture
def plant(tmp_path: Path, simulated: dict[str, str]) -> Path:
    """A small plant on the simulators: a meter, a scale, and a PLC that pushes."""
    demo = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    devices = {name: demo["devices"][name] for name in ("em-kiln", "scale-coal", "plc-packer")}
    for name, device in devices.items():
        device["connect"] = simulated[name]
    tree = {"site": demo["site"], "devices": devices, "web": {"listen": FREE}}
    file = tmp_path / "plant.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return file


def changed(plant: Path, old: str, new: str) -> None:
    text = plant.read_text()
    assert old in text
    plant.write_text(text.replace(old, new))


# ---- help and mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_and_explains_every_option(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, said, error = called(capfd, *name.split(), "--help")
    assert (status, error) == (0, "")
    assert said.count(f"example:  edge-agent {name} ") == 1
    listed = re.findall(r"^  (\S.*)$", said.partition("usage")[2], re.MULTILINE)
    assert listed
    for option in listed:
        assert re.search(r"\S  +\S", option) or option.startswith("-"), option
    for option in set(re.findall(r"\[(--[a-z-]+)", said)):
        explained = re.search(rf"^  .*{option}\b.*?(  +|\n +)\S", said, re.MULTILINE)
        assert explained, option


def test_the_version_is_told() -> None:
    assert run("--version") == (0, f"edge-agent {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        ([], "COMMAND"),
        (["check"], "which configuration?"),
        (["check", "none.yaml"], "none.yaml:1:1: cannot be read: No such file or directory"),
        (["run", "none.yaml"], "none.yaml:1:1: cannot be read: No such file or directory"),
        (["demo", "--for", "soon"], "'soon' is not a duration (write 500ms, 1s"),
        (["demo", "--for", "0s"], "0s has no length"),
        (["demo", "--speed", "fast"], "'fast' is not a speed"),
        (["demo", "--speed", "1000"], "--speed 1000 polls too often; 20 is the most here"),
        (["demo", "--listen", "0.0.0.0:8080"], "--listen: \"0.0.0.0:8080\" is open to the network"),
        (["demo", "--listen", "here"], '--listen: "here" is not an address'),
        (["demo", "--mqtt", "broker"], "--mqtt: 'broker' is not the address of a broker"),
        (["demo", "--influx", "http://h:1"], "--influx: put the token into the environment"),
        (["report", "leader", "configs/demo.yaml", "--period", "soon"], "--period: "),
        (
            ["report", "leader", "configs/demo.yaml", "--period", "2026", "--metric", "x"],
            "--metric x: is no energy metric (there are: clinker)",
        ),
        (["report", "gossip", "configs/demo.yaml", "--period", "2026"], "invalid choice: 'gossip'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line_and_status_2(
    arguments: list[str],
    told: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INFLUX_TOKEN", raising=False)
    monkeypatch.chdir(ROOT)
    status, said, error = called(capfd, *arguments)
    assert (status, said) == (2, "")
    assert told in error
    assert error.count("\n") == 1


def test_every_mistake_of_a_file_is_one_line_with_its_place(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "site: {id: Works}\n"
        "devices:\n"
        "  em: {connect: 'modbus+tcp://10.0.0.1', tags: {p: {at: 'hr:0', unit: kWW}}}\n"
        "web: {listen: '0.0.0.0:80'}\n"
        "sink: {}\n"
    )
    for name in ("check", "run"):
        status, said, error = run(name, bad)
        lines = error.splitlines()
        assert (status, said) == (2, "")
        assert len(lines) == 4
        assert all(re.match(rf"{re.escape(str(bad))}:\d+:\d+: ", text) for text in lines)
        assert "reverse proxy with a login" in error


def test_the_schema_is_json() -> None:
    status, said, _ = run("check", "--schema")
    assert status == 0
    assert "devices" in json.loads(said)["properties"]


@pytest.mark.parametrize("arguments", [["check", "configs/demo.yaml"], ["check", "--schema"]])
def test_a_reader_that_goes_away_is_no_traceback(arguments: list[str]) -> None:
    with started(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) in {0, 1}


# ---- check --connect -------------------------------------------------------------------------


def test_check_connect_shows_what_every_device_says(plant: Path) -> None:
    status, said, error = run("check", plant, "--connect")
    assert (status, error) == (0, "")
    rows = [text.split() for text in said.splitlines()]
    read = {(r[0], r[1]): r[2:] for r in rows if len(r) >= 5 and r[-1] == "GOOD"}
    assert {d for d, _ in read} == {"em-kiln", "scale-coal", "plc-packer"}
    assert {t for d, t in read if d == "plc-packer"} == {"state", "bags", "reject"}
    value, unit, took, _ = read["scale-coal", "mass"]
    assert float(value) > 0
    assert unit == "t"
    assert 0 < float(took) < 5000


def test_check_connect_names_what_it_cannot_reach_and_shows_the_others(plant: Path) -> None:
    port = free_port()
    tree = yaml.safe_load(plant.read_text())
    tree["devices"]["scale-coal"]["connect"] = f"modbus+tcp://127.0.0.1:{port}?unit=1"
    tree["sinks"] = {"broker": {"type": "mqtt", "url": f"mqtt://127.0.0.1:{port}"}}
    plant.write_text(yaml.safe_dump(tree))
    status, said, error = run("check", plant, "--connect")
    assert status == 3
    assert "Traceback" not in error
    assert re.search(rf"^scale-coal +- +- +not reached: .*{port}", said, re.MULTILINE)
    assert re.search(r"^em-kiln +active_power .*GOOD$", said, re.MULTILINE)
    assert re.search(r"^plc-packer +bags .*GOOD$", said, re.MULTILINE)
    assert re.search(r"^sink +broker: not reached: ", said, re.MULTILINE)


def test_check_connect_reads_a_recorded_table(tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text("t,kwh\n2026-01-01T00:15:00Z,3\n2026-01-01T00:30:00Z,4\n")
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        "site: {id: works}\n"
        "devices:\n"
        f"  em: {{connect: 'replay+csv://{tmp_path}/day.csv', time: {{column: t, format: iso}},"
        " tags: {energy: {at: sum(kwh), unit: kWh, kind: counter}}}\n"
    )
    status, said, _ = run("check", plant, "--connect")
    assert status == 0
    assert re.search(r"^em +energy +7 +kWh .*GOOD$", said, re.MULTILINE)


# ---- run -------------------------------------------------------------------------------------


def test_run_reloads_on_sighup_and_ends_in_order_on_sigterm(plant: Path) -> None:
    with started("run", plant) as process:
        line(process, "em-kiln is up", error=True)
        good = plant.read_text()
        plant.write_text(good + "gateway: x\n")
        process.send_signal(signal.SIGHUP)
        assert "the old configuration stays" in line(process, "stays", error=True)
        assert 'unknown key "gateway"' in line(process, "unknown", error=True)
        plant.write_text(good)
        changed(plant, "em-kiln", "em-oven")
        process.send_signal(signal.SIGHUP)
        line(process, "the configuration is read again", error=True)
        line(process, "em-oven is up", error=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert (plant.parent / "data" / "log.db").exists()


def test_a_stop_right_after_a_reload_is_a_stop(plant: Path) -> None:
    with started("run", plant) as process:
        line(process, "em-kiln is up", error=True)
        process.send_signal(signal.SIGHUP)
        line(process, "the configuration is read again", error=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_port_that_is_taken_is_one_line_and_status_2(
    plant: Path, simulated: dict[str, str]
) -> None:
    port = simulated["em-kiln"].partition("?")[0].rpartition(":")[2]
    changed(plant, FREE, f"127.0.0.1:{port}")
    status, said, error = run("run", plant)
    assert (status, said) == (2, "")
    assert error.startswith(f"cannot listen on 127.0.0.1:{port}")
    assert error.count("\n") == 1


def test_a_data_folder_in_use_is_one_line_and_status_2(plant: Path) -> None:
    with started("run", plant) as process:
        line(process, "em-kiln is up", error=True)
        status, said, error = run("run", plant)
        assert (status, said) == (2, "")
        assert "another agent uses this log (one data folder each)" in error
        assert error.count("\n") == 1


# ---- simulate --------------------------------------------------------------------------------


def test_simulate_prints_where_it_listens_and_ends_on_sigterm(tmp_path: Path) -> None:
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        "devices: {em: {connect: 'modbus+tcp://10.0.0.1?unit=3', tags: {p: {at: 'hr:0'}}}}\n"
    )
    with started("simulate", plant, "--log-scans", tmp_path / "scans") as process:
        ready = json.loads(line(process, "{"))
        assert re.fullmatch(r"modbus\+tcp://127\.0\.0\.1:\d+\?unit=3", ready["connect"]["em"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    status, said, error = run("simulate", tmp_path / "none.yaml")
    assert (status, said, error.count("\n")) == (2, "", 1)


# ---- demo and report -------------------------------------------------------------------------


def test_ctrl_c_ends_the_demo_with_its_summary_and_leaves_no_process() -> None:
    with started("demo", "--for", "10m", "--listen", FREE) as process:
        line(process, "running")
        plants = children(process.pid)
        assert len(plants) == 1
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the session's group
        said, error = process.communicate(timeout=10)
        assert process.returncode == 0
        assert error == ""
        assert re.search(r"^read +[1-9]\d* rows from 13 devices$", said, re.MULTILINE)
        assert re.search(r"^lost +0 rows$", said, re.MULTILINE)
        wait_until(lambda: gone(plants), 5, "the simulators have ended")


def test_simulators_do_not_outlive_a_demo_that_is_killed() -> None:
    with started("demo", "--listen", FREE) as process:
        line(process, "stop ")
        plants = children(process.pid)
        assert len(plants) == 1
        process.kill()
        wait_until(lambda: gone(plants), 10, "the simulators have ended")


@pytest.mark.timeout(60)  # a demo of one minute of plant time, from a full minute on
def test_the_report_shows_the_rows_that_a_demo_stored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    status, said, error = run(
        "demo", "--for", "60s", "--speed", "10", "--data", data, "--listen", FREE
    )
    assert (status, error) == (0, "")
    assert re.search(r"^clinker/1min until \d\d:\d\d$(\n  .*)*intensity [\d.]+", said, re.MULTILINE)
    row = History(data / "history.db").last("clinker/1min", 1)
    assert row is not None
    plant = tmp_path / "plant.yaml"
    demo = (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")
    plant.write_text(demo.replace("data: ./data", f"data: {data}"), encoding="utf-8")
    end = int(row.time[0]) // 1_000_000_000
    local = [time.strftime("%Y-%m-%dT%H:%M", time.gmtime(end + 8 * 3600 - s)) for s in (60, 0)]
    period = "/".join(local)
    status, said, error = run("report", "leader", plant, "--period", period, "-o", tmp_path / "out")
    assert (status, error) == (0, "")
    sheet, found = sorted((tmp_path / "out").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert (sheet.suffix, found.suffix) == (".xlsx", ".json")
    assert f"{row['intensity'][0]:.3f} kgce/t" in said
    cells = [c.value for page in load_workbook(sheet).worksheets for r in page.rows for c in r]
    numbers = [value for value in cells if isinstance(value, int | float)]
    assert any(value == pytest.approx(row["intensity"][0], rel=1e-9) for value in numbers)
    written = [float(text) for text in re.findall(r"\d+\.\d+", found.read_text(encoding="utf-8"))]
    assert any(value == pytest.approx(row["intensity"][0], rel=1e-9) for value in written)
    assert run("report", "leader", plant, "--period", "13th month")[0] == 2


@pytest.mark.timeout(90)  # two demos of a minute of plant time
def test_a_demo_goes_on_behind_what_a_faster_one_stored(tmp_path: Path) -> None:
    command = ("demo", "--for", "60s", "--speed", "20", "--data", tmp_path, "--listen", FREE)
    newest = []
    for _ in range(2):
        status, _, error = run(*command)
        assert (status, error) == (0, "")
        archive = Archive(tmp_path / "log.db")
        newest.append(archive.latest_ns)
    blocks = (archive.block(record) for record in archive.records(0))
    later = [block for block in blocks if block.time[0] > newest[0]]
    assert later
    assert not any((block.quality == Quality.UNCERTAIN_CLOCK).any() for block in later)


@pytest.mark.timeout(60)  # a demo of a minute of plant time
def test_a_demo_takes_another_port_when_the_usual_one_is_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 8080))
            other.listen()
        except OSError:
            other.close()  # somebody else's listens there already: as good
        status, said, error = run("demo", "--for", "60s", "--speed", "20", "--data", tmp_path)
    assert (status, error) == (0, "")
    address = re.search(r"^dashboard +http://127\.0\.0\.1:(\d+)/$", said, re.MULTILINE)
    assert address is not None
    assert int(address[1]) != 8080
