"""The commands as a person types them, in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.cli import main

ROOT = Path(__file__).parent.parent


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "edge_agent", *map(str, arguments)]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "INFLUX_TOKEN"}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def run(*arguments: str | Path, cwd: Path = ROOT) -> tuple[int, str, str]:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment(), check=False
    )
    return done.returncode, done.stdout, done.stderr


def called(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the same ``main`` in this process: a process for each wrong argument takes a second."""
    try:
        status = main(arguments)
    except SystemExit as e:
        status = int(str(e.code))
    return (status, *capfd.readouterr())


@contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background, in a session of its own as in a terminal of its own."""
    process = subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line(process: subprocess.Popen[str], begins: str, *, error: bool = False) -> str:
    """Return the next line that begins so; those before it are passed over."""
    stream = process.stderr if error else process.stdout
    assert stream is not None
    for text in stream:
        if begins in text:
            return text
    raise AssertionError(f"it ended without {begins!r}")


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: Sequence[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
