"""A process that listens on a loopback port: what all servers of ``tests.servers`` share."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

READY = 15.0  # seconds in which a server must answer
STOP = 10.0  # seconds in which it must end before it is killed
HOST = "127.0.0.1"


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    for _ in range(100):
        port = random.SystemRandom().randrange(15000, 31000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("there is no free port between 15000 and 31000")


def program(name: str) -> str:
    """Return the path of a program, also of one that only root has on the search path."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} is not installed (run .ci/system-packages)")
    return found


def wait_until(claim: Callable[[], bool], seconds: float, what: str) -> None:
    """Return when the claim is true; ``AssertionError`` when it is not within the time."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} not within {seconds:g} s")
        time.sleep(0.01)


def answers(port: int) -> bool:
    """Return whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def listens(pid: int, port: int) -> bool:
    """Return whether it is this process that listens on a loopback port."""
    wanted = f"{int.from_bytes(socket.inet_aton(HOST), 'little'):08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[1] == wanted and line[3] == "0A"}
    if not sockets:
        return False
    try:
        return any(str(fd.readlink()) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # it has just closed one of them, or ended
        return False


class Server:
    """A process that listens on one loopback port."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"{self.name}-{random.SystemRandom().randrange(16**6):06x}"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.log = self.folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False

    def command(self) -> list[str]:
        """Write the configuration for ``self.port`` and return the command that uses it."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process; there must be one."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it accepts connections."""
        assert self._process is None, f"{self.name} runs already"
        for attempt in range(5):
            with self.log.open("ab") as log:
                self._process = process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                )
            self._wait(process)
            if process.poll() is None:
                self._was_up = True
                return
            self._process = None
            if not self._was_up:  # somebody took the port since we looked
                self.port = free_port()
            time.sleep(0.1 * attempt)
        raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-2000:]}")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Return when the process listens or has ended."""

        def ready() -> bool:
            return process.poll() is not None or listens(process.pid, self.port)

        try:
            wait_until(ready, READY, f"{self.name} is up")
        except AssertionError:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in order; any number of times."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL: nothing is saved any more."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: the kernel still accepts connections, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused process does not see SIGTERM
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
