"""What a user installs: the built wheel, in an environment that has nothing else of ours."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.timeout(240)  # an installation from scratch and a demo in plant time
def test_the_wheel_runs_the_demo_from_an_empty_folder(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        tmp_path / "dist",
        ROOT,
        cwd=empty,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "edge_agent/configs/demo.yaml" in names
    assert "simulators/__main__.py" in names
    assert not [n for n in names if n.startswith(("tests/", "configs/", "benchmarks/"))]

    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check",
        "-c", ROOT / "constraints.txt", wheel, cwd=empty)  # fmt: skip
    where = run(python, "-c", "import edge_agent; print(edge_agent.__file__)", cwd=empty).stdout
    assert where.startswith(str(tmp_path / "env"))

    done = run(tmp_path / "env" / "bin" / "edge-agent", "demo", "--for", "60s", "--speed", "10",
               "--listen", "127.0.0.1:0", cwd=empty)  # fmt: skip
    assert "lost        0 rows" in done.stdout
    assert "clinker/1min" in done.stdout
    assert list(empty.iterdir()) == []
