"""What the README says is so: its configuration, its commands, its meters."""

import re
import subprocess
import sys
from pathlib import Path

from docs import meters_table
from edge_agent.config import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_on_the_first_screen_has_no_mistake(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    path = tmp_path / "plant.yaml"
    path.write_text(block[1], encoding="utf-8")
    config = load(path, env={"MQTT_PASSWORD": "not shown"})
    assert set(config.devices) == {"em-kiln", "scale-clinker"}
    assert len(block[1].splitlines()) <= 12


def test_the_tables_of_meters_are_those_of_the_files() -> None:
    for page, table in meters_table.PAGES.items():
        assert meters_table.written(page) == table(), "run: python docs/meters_table.py"


def test_every_meter_that_comes_with_it_is_in_the_table() -> None:
    listed = set(re.findall(r"`([\w-]+/[\w.-]+)`(?: ✓)?(?= ·| \|)", README))
    folder = ROOT / "configs" / "meters"
    assert {f"{p.parent.name}/{p.stem}" for p in folder.rglob("*.yaml")} <= listed


def test_every_command_in_the_table_exists() -> None:
    named = set(re.findall(r"^\| `edge-agent (\w+)", README, re.MULTILINE))
    said = subprocess.run(
        [sys.executable, "-m", "edge_agent", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert named == set(re.findall(r"^    (\w+)  ", said, re.MULTILINE))


def test_every_target_that_is_named_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_picture_is_there() -> None:
    for name in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / name).is_file()
