"""Fixtures that all tests share, and the guard that keeps them on loopback."""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.servers import Influx, Mosquitto, VictoriaMetrics

# no folder of examples in the checkout, which may be read-only; no deadline on a loaded machine
hypothesis.settings.register_profile("edge", database=None, deadline=None)
hypothesis.settings.load_profile("edge")


class NotLoopbackError(AssertionError):
    """A test tried to reach something outside this machine."""


def _is_loopback(family: int, address: Any) -> bool:
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return True
    host = str(address[0])
    if host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False  # a name: what it resolves to is not known here


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Let no socket of this process connect to anything but this machine.

    asyncio, http clients and TLS all connect through ``socket.socket``. Processes that a test
    starts are not covered: the servers of ``tests.servers`` are configured to listen on loopback.
    """

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if not _is_loopback(self.family, address):
                raise NotLoopbackError(f"a test connects to {address}; only loopback is allowed")
            return original(self, address)

        return connect

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(name))
        yield


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that everybody may use."""
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def influx(tmp_path: Path) -> Iterator[Influx]:
    """An InfluxDB with an empty bucket."""
    with Influx(tmp_path) as database:
        yield database


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    """An empty VictoriaMetrics."""
    with VictoriaMetrics(tmp_path) as store:
        yield store
