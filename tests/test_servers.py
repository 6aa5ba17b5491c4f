"""The tests' own ground: servers that come and go, and no way out of this machine."""

import asyncio
import os
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import NotLoopbackError
from tests.servers import HOST, Influx, Mosquitto, Server, VictoriaMetrics, answers


@pytest.mark.parametrize("kind", [Mosquitto, Influx, VictoriaMetrics])
def test_a_server_comes_back_on_its_port(
    kind: type[Mosquitto] | type[Influx] | type[VictoriaMetrics], tmp_path: Path
) -> None:
    with kind(tmp_path) as server:
        port = server.port
        assert answers(port)
        server.kill()
        assert not answers(port)
        server.start()
        server.restart()
        assert server.port == port
        assert answers(port)
        server.pause()
    assert not answers(port)


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_such_option"):
        Mosquitto(tmp_path, settings="no_such_option 1").start()


def test_a_server_moves_on_when_its_port_is_taken(tmp_path: Path) -> None:
    broker: Server = Mosquitto(tmp_path)
    with socket.socket() as taken:
        taken.bind((HOST, broker.port))
        taken.listen()
        with broker:
            assert broker.port != taken.getsockname()[1]


def test_rows_of_the_database_outlive_a_restart(influx: Influx) -> None:
    request = urllib.request.Request(
        f"{influx.url}/api/v2/write?bucket={influx.bucket}&precision=ns",
        b"m,a=b v=1 5",
        {"Authorization": f"Token {influx.token}"},
    )
    urllib.request.urlopen(request, timeout=5).close()
    influx.restart()
    assert influx.query("select v from m") == [{"time": 5, "v": 1}]


def test_a_subscriber_hears_what_came_while_the_broker_was_down(mosquitto: Mosquitto) -> None:
    def publish(text: str) -> None:
        subprocess.run(
            [
                "mosquitto_pub",
                "-h",
                HOST,
                "-p",
                str(mosquitto.port),
                "-q",
                "1",
                "-t",
                "t",
                "-m",
                text,
            ],
            check=True,
        )

    with mosquitto.subscriber() as seen:
        publish("before")
        seen.wait_for(1)
        mosquitto.restart()
        publish("after")
        assert [m.payload for m in seen.wait_for(2)] == [b"before", b"after"]


@pytest.mark.parametrize("address", [("192.0.2.1", 9), ("example.invalid", 9)])
async def test_no_test_reaches_out_of_this_machine(address: tuple[str, int]) -> None:
    with socket.socket() as outward, pytest.raises(NotLoopbackError):
        outward.connect(address)
    with socket.socket() as outward:
        outward.setblocking(False)
        with pytest.raises(NotLoopbackError):
            await asyncio.get_running_loop().sock_connect(outward, ("192.0.2.1", 9))


def test_loopback_and_unix_sockets_are_open(tmp_path: Path) -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind((HOST, 0))
        server.listen()
        client.connect(server.getsockname())
    path = os.path.relpath(tmp_path / "s")  # a unix address is at most 108 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
