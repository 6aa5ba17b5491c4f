"""The systemd unit: read by systemd itself, and graded by it."""

import re
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "deploy" / "edge-agent@.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit of one plant, with a program that exists on this machine."""
    text = UNIT.read_text()
    program = "/opt/edge-agent/bin/edge-agent"
    assert program in text
    path = tmp_path / "edge-agent@plant.service"
    path.write_text(text.replace(program, "/bin/true"))
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_the_unit_is_hardened(unit: Path) -> None:
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    level = re.search(r"Overall exposure level .*: (\d+\.\d)", found.stdout)
    assert level is not None
    assert float(level[1]) <= 2.0
