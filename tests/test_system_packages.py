"""The script that installs what the tests need, run with an apt-get of the test's own."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "system-packages"
POLICY = Path("/usr/sbin/policy-rc.d")
TOOLS = ("sh", "id", "find", "mktemp", "rm", "tee", "chmod", "env", "grep", "tail", "cat")


def run(path: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "LANG": "C.UTF-8"}
    return subprocess.run(
        ["/bin/sh", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the shell's tools only, and an ``id`` that says: not root."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    (folder / "id").unlink()
    script(folder / "id", "echo 1000")
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_nothing_is_said_and_done_when_nothing_is_missing() -> None:
    started = time.monotonic()
    done = run(os.environ["PATH"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 1


def test_without_rights_one_line_names_what_is_missing(tools: Path) -> None:
    done = run(str(tools))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "install these" in line
    assert "mosquitto-clients" in line
    assert "chromium" in line


def test_what_is_missing_is_installed_through_sudo(tools: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script(tools / "sudo", f'[ "$1" = -n ] && shift\necho "$@" >>{log}\n[ "$1" = true ] || true')
    script(tools / "apt-get", "exit 9")  # never reached: sudo above runs nothing
    done = run(str(tools))
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    (install,) = [call for call in calls if "apt-get install" in call]
    assert install.startswith("env DEBIAN_FRONTEND=noninteractive apt-get install -y")
    assert {"mosquitto-clients", "socat", "mbpoll"} <= set(install.split())
    policy = [call for call in calls if "policy-rc.d" in call]
    if POLICY.exists():  # somebody's own is left as it is
        assert policy == []
    else:
        assert policy[-1] == f"rm -f {POLICY}"


def test_what_apt_cannot_install_is_named_in_the_last_line(tools: Path) -> None:
    script(tools / "sudo", 'shift\ncase $1 in true|env|apt-get) exec "$@" ;; esac')
    script(tools / "true", "exit 0")
    script(tools / "apt-get", "echo 'E: Unable to locate package mbpoll'\nexit 100")
    done = run(str(tools))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "could not install" in last
    assert "Unable to locate package mbpoll" in last
