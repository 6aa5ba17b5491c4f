"""The load of ``benchmarks.gateway``: what is served, how it is configured, what must come out.

A load is many Modbus units of float32 registers behind a few TCP connections. They are served by
``modbus_load.c``, compiled when it is needed, or by ``modbus_load.py`` where there is no compiler.
Both compute each register from port, unit, tag and the time, by the formulas of ``expected``.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

LINKS = 10
UNIT = 500  # tags of a unit at most
STAMP = 1 << 24  # the stamp's modulus, in 1/8 ms
CYCLE = 20000  # steps after which a value comes again
SCAN = np.dtype(
    [
        ("first_ns", "<i8"),
        ("last_ns", "<i8"),
        ("stamp", "<u4"),
        ("requests", "<u4"),
        ("link", "<u2"),
        ("unit", "<u2"),
        ("complete", "<u4"),
    ]
)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Load:
    """So many float32 tags, read so often, over ``links`` connections."""

    tags: int
    period_ms: int
    links: int = LINKS

    @classmethod
    def parse(cls, text: str) -> "Load":
        """Return the load that is written ``100000@1s`` or ``10000@100ms``."""
        found = re.fullmatch(r"(\d+)@(\d+)(ms|s)", text)
        if found is None:
            raise ValueError(f"{text}: a load is written 10000@1s or 10000@100ms")
        return cls(int(found[1]), int(found[2]) * (1000 if found[3] == "s" else 1))

    @property
    def units(self) -> int:
        """Units of one connection."""
        return max(1, -(-self.tags // (self.links * UNIT)))

    @property
    def per_unit(self) -> int:
        """Tags of one unit."""
        return self.tags // (self.links * self.units)

    @property
    def devices(self) -> list[str]:
        """The ids of all units: of the first connection, of the second, …."""
        return [f"d{i:02d}-u{u:02d}" for i in range(self.links) for u in range(1, self.units + 1)]

    def place(self, device: int) -> tuple[int, int]:
        """Return connection and unit of a device by its place in ``devices``."""
        return device // self.units, device % self.units + 1

    @property
    def names(self) -> list[str]:
        """The tags of every unit."""
        return [
            "stamp",
            "energy_1",
            "energy_2",
            *(f"value_{i:03d}" for i in range(3, self.per_unit)),
        ]

    @property
    def period(self) -> float:
        """Seconds."""
        return self.period_ms / 1000

    def __str__(self) -> str:
        every = f"{self.period_ms} ms" if self.period_ms % 1000 else f"{self.period_ms // 1000} s"
        return f"{self.tags:,} at {every}".replace(",", " ")


def configuration(load: Load, ports: Sequence[int], sinks: str, web: int, commit: str = "") -> str:
    """Return the agent's configuration: a tag for every register, an energy KPI per connection."""
    tags = "".join(
        f"      {name}: {{at: hr:{2 * i}, type: f32{of_counter(i)}}}\n"
        for i, name in enumerate(load.names)
    )
    poll = f"{load.period_ms}ms"
    devices = "".join(
        f"  {device}:\n    connect: modbus+tcp://127.0.0.1:{ports[i // load.units]}"
        f"?unit={i % load.units + 1}\n    poll: {poll}\n    tags:\n{tags}"
        for i, device in enumerate(load.devices)
    )
    kpis = "".join(
        f"  line-{i:02d}:\n    type: energy\n    inputs: {{electricity: [{counters(load, i)}]}}\n"
        f"    windows: [1min, 15min, 1h]\n"
        for i in range(load.links)
    )
    text = "site: {id: bench}\ndata: data\nretention: {raw_bytes: 4GiB}\n"
    text += f"commit: {commit}\n" if commit else ""
    return f'{text}devices:\n{devices}metrics:\n{kpis}{sinks}web: {{listen: "127.0.0.1:{web}"}}\n'


def of_counter(tag: int) -> str:
    return ", unit: kWh, kind: counter" if tag in {1, 2} else ""


def counters(load: Load, link: int) -> str:
    units = load.devices[link * load.units : (link + 1) * load.units]
    return ", ".join(f"{unit}.energy_{n}" for unit in units for n in (1, 2))


def stamps(value: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return values of tag 0 as the server counts them, in 1/8 ms."""
    return np.rint(value * 8).astype(np.int64)


def wall_ms(stamp: NDArray[np.int64], near_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the wall clock that stamps mean, in ms; ``near_ms`` is within 17 min of it."""
    behind = (near_ms * 8 - stamp + STAMP // 2) % STAMP - STAMP // 2
    wall: NDArray[np.float64] = near_ms - behind / 8
    return wall


def expected(
    tags: int, link: int, unit: int, step: int | NDArray[np.int64], base: int
) -> NDArray[np.float32]:
    """Return what all tags of a unit but the first are in a step; the same as in the C program.

    step  of all tags, or of each, (tags,)
    """
    steps = np.broadcast_to(np.asarray(step, np.int64), tags)
    value = (np.arange(tags) * 37 + unit * 101 + link * 1009 + steps * 11) % CYCLE / 10.0
    value[1:3] = (steps[1:3] - base) * 0.25 + unit * 1000.0
    return value.astype(np.float32)


def steps_of(
    value: NDArray[np.float64], link: int, unit: int, first: int, base: int
) -> NDArray[np.int64]:
    """Return the earliest step, from the first one on, in which each tag may have had its value."""
    now = np.arange(len(value)) * 37 + unit * 101 + link * 1009 + first * 11
    behind = (np.rint(value * 10).astype(np.int64) - now) * pow(11, -1, CYCLE) % CYCLE
    behind[1:3] = np.rint((value[1:3] - unit * 1000.0) * 4) + base - first
    steps: NDArray[np.int64] = first + behind
    return steps


class Server:
    """The process that serves a load; ``scans`` is what it answered, once it has ended."""

    def __init__(self, folder: Path, load: Load, *, compiler: bool = True) -> None:
        self.load = load
        self.base = int(time.time() * 1000) // load.period_ms
        self.ports: list[int] = []
        self.scans = np.empty(0, SCAN)
        self.kind = "C, epoll"
        self._file = folder / "scans"
        found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler and found is not None:
            self._program = [str(folder / "modbus_load")]
            source = str(HERE / "modbus_load.c")
            subprocess.run([found, "-O2", "-o", self._program[0], source], check=True)
        else:
            self.kind = "Python, selectors"
            self._program = [sys.executable, "-m", "benchmarks.modbus_load"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it listens."""
        load = self.load
        numbers = [load.links, load.per_unit, load.period_ms, self.base]
        self._process = subprocess.Popen(
            [*self._program, str(self._file), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HERE.parent,
        )
        self.ports = [int(port) for port in self._said().split()[1:]]

    @property
    def pid(self) -> int:
        """The process; there must be one."""
        assert self._process is not None
        return self._process.pid

    def counts(self) -> tuple[int, int]:
        """Return how many requests and how many whole scans it has answered so far."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"?")
        self._process.stdin.flush()
        requests, scans = self._said().split()
        return int(requests), int(scans)

    def _said(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            raise RuntimeError("the server of the load has ended")
        return line

    def stop(self) -> None:
        """End it and read what it answered; any number of times."""
        process, self._process = self._process, None
        if process is None:
            return
        process.communicate(timeout=20)
        self.scans = np.fromfile(self._file, SCAN)

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


def as_json(load: Load, base: int) -> str:
    """Return what another process needs to know of a load."""
    return json.dumps([load.tags, load.period_ms, load.links, base])


def of_json(text: str) -> tuple[Load, int]:
    """Return what ``as_json`` wrote: the load and its first step."""
    written: list[Any] = json.loads(text)
    return Load(*written[:3]), int(written[3])
