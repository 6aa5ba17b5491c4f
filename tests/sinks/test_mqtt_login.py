"""What keeps a gateway out of a broker, told in words that say what to mend."""

import asyncio
import logging
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import Disconnected
from edge_agent.sinks.mqtt import MqttConfig, MqttSink
from edge_agent.units import Duration, Secret
from tests.packets import CONNACK, CONNECT, PacketWire, kind
from tests.process import program
from tests.servers import HOST, Certificates, Mosquitto, certificates
from tests.sinks.blocks import SITE, block, schema

KILN = schema("em-kiln/raw")


def sink_for(url: str, **options: Any) -> MqttSink:
    return MqttConfig(url=url, timeout=Duration(2.0), **options).build(SITE)


async def refused(url: str, **options: Any) -> str:
    """Return why a sink is not let in; the answer comes within the time-out and some."""
    sink = sink_for(url, **options)
    began = time.monotonic()
    with pytest.raises(Disconnected) as error:
        await sink.connect()
    assert time.monotonic() - began < 5
    await sink.close()
    return str(error.value)


# ---- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "level", "advice"),
    [
        (5, 6, "does not speak MQTT 5: write version: 3.1.1"),
        ("3.1.1", 7, "does not speak MQTT 3.1.1: write version: 5"),
    ],
)
async def test_a_broker_of_the_other_version_is_told_with_what_to_write(
    mosquitto: Mosquitto, version: Any, level: int, advice: str
) -> None:
    def another(packet: bytes) -> bytes:  # a version that this broker really does not speak
        if kind(packet) != CONNECT:
            return packet
        at = packet.index(b"MQTT") + 4
        return packet[:at] + bytes([level]) + packet[at + 1 :]

    async with PacketWire(mosquitto.port) as wire:
        wire.to_broker = another
        assert advice in await refused(wire.url, version=version)


@pytest.mark.parametrize(
    ("version", "code", "words"),
    [
        (5, 0x85, "client id 'demo-cement-main': write another client_id"),
        ("3.1.1", 2, "client id 'demo-cement-main': write another client_id"),
        ("3.1.1", 3, "not available now"),
        (5, 0x86, "mend user and password"),
        ("3.1.1", 4, "mend user and password"),
        (5, 0x8A, "ask who keeps the broker"),
        (5, 0x9D, "mend url"),
        (5, 0x97, "quota"),
        (5, 0x83, "Implementation specific error (131)"),
    ],
)
async def test_each_refusal_says_what_to_mend(
    mosquitto: Mosquitto, version: Any, code: int, words: str
) -> None:
    def refuse(packet: bytes) -> bytes:
        return packet[:3] + bytes([code]) + packet[4:] if kind(packet) == CONNACK else packet

    async with PacketWire(mosquitto.port) as wire:
        wire.to_client = refuse
        assert words in await refused(wire.url, version=version)


# ---- what is no broker ---------------------------------------------------------------------------


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """A server that answers the first bytes with something and falls silent."""

    clients: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        await reader.read(100)
        writer.write(answer)

    server = await asyncio.start_server(serve, HOST, 0)
    yield f"mqtt://{HOST}:{server.sockets[0].getsockname()[1]}"
    server.close()
    for client in clients:
        client.transport.abort()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"x" * 200, "a web server"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "this port wants TLS: write mqtts://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak MQTT (it says b'SSH-2.0"),
        (b"\x20\x09", "began to answer and fell silent for 0.5 s"),
        (b"", "said nothing for 0.5 s"),
    ],
)
async def test_what_is_no_broker_is_told_apart(answer: bytes, words: str) -> None:
    async with saying(answer) as url:
        sink = MqttConfig(url=url, timeout=Duration(0.5)).build(SITE)
        with pytest.raises(Disconnected) as error:
            await sink.connect()
        assert words in str(error.value)
        await sink.close()


async def test_a_port_that_says_nothing_to_tls_is_given_up_in_time() -> None:
    async with saying(b"") as url:
        sink = MqttConfig(url=url.replace("mqtt", "mqtts"), timeout=Duration(0.5)).build(SITE)
        with pytest.raises(Disconnected, match="timed out"):
            async with asyncio.timeout(3):
                await sink.connect()
        await sink.close()


# ---- passwords -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, "3.1.1"])
async def test_a_wrong_password_is_told_and_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, version: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    with Mosquitto(tmp_path, users={"edge": "secret"}) as broker:
        login = {"user": "edge", "password": Secret("hunter2"), "version": version}
        said = await refused(broker.url, **login)
        assert "mend user and password" in said
        right = sink_for(broker.url, user="edge", password=Secret("secret"), version=version)
        await right.connect()
        await right.close()
    shown = said + caplog.text + repr(MqttConfig(url=broker.url, **login))  # type: ignore[arg-type]
    assert "hunter2" not in shown
    assert "secret" not in shown


# ---- certificates --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("foreign"))


def openssl(*arguments: str | Path) -> None:
    subprocess.run([program("openssl"), *arguments], check=True, capture_output=True)


def dated(pem: Certificates, folder: Path, start: str, end: str) -> dict[str, str]:
    """Make a certificate of the client's key that is valid between two times (YYYYMMDD)."""
    request, made = pem.client_key.with_suffix(".csr"), folder / "dated.crt"
    (folder / "index").write_text("")
    (folder / "serial").write_text("01\n")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    openssl("ca", "-batch", "-config", folder / "ca.cnf", "-cert", pem.ca, "-keyfile",
            pem.ca.with_suffix(".key"), "-in", request, "-out", made, "-notext",
            "-startdate", f"{start}000000Z", "-enddate", f"{end}000000Z")  # fmt: skip
    return {"certificate": str(made), "private_key": str(pem.client_key)}


async def test_a_certificate_that_is_not_right_is_told_with_what_to_mend(
    tmp_path: Path, pem: Certificates, foreign: Certificates
) -> None:
    own = {"certificate": str(pem.client_certificate), "private_key": str(pem.client_key)}
    other = {
        "certificate": str(foreign.client_certificate), "private_key": str(foreign.client_key)
    }  # fmt: skip
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", pem.client_key, "-aes128", "-passout", "pass:hunter2", "-out", locked)
    ca = str(pem.ca)
    wrong: list[tuple[dict[str, str], str]] = [
        ({"ca": ca}, "the broker wants a certificate of this gateway"),
        ({"ca": ca} | other, "does not know the authority that signed certificate"),
        ({"ca": str(foreign.ca)} | own, "not signed by the authority in ca"),
        (own, "not signed by the authority in ca"),
        ({"ca": ca} | dated(pem, tmp_path, "20200101", "20200201"), "ended on 2020-02-01"),
        ({"ca": ca} | own | {"private_key": other["private_key"]}, "is not the key of certificate"),
        ({"ca": ca} | own | {"private_key": str(locked)}, "locked.key needs a password"),
        ({"ca": ca} | own | {"private_key": ca}, "is no key that can be read"),
        ({"ca": str(pem.client_key)}, "is no certificate that can be read"),
        ({"ca": str(tmp_path / "no.pem")}, "no.pem cannot be read: No such file"),
        ({"ca": ca} | own | {"certificate": str(locked)}, "is no certificate that can be read"),
    ]
    with Mosquitto(tmp_path, certificates=pem, require_certificate=True) as broker:
        for options, words in wrong:
            assert words in await refused(broker.url, **options)
        for version in (5, "3.1.1"):
            known = sink_for(broker.url, ca=ca, version=version, **own)
            await known.connect()
            await known.write([block(KILN)])
            await known.close()
        assert "this port wants TLS" in await refused(broker.url.replace("mqtts", "mqtt"))


async def test_a_certificate_that_begins_later_asks_for_the_clock(
    tmp_path: Path, pem: Certificates
) -> None:
    later = dated(pem, tmp_path, "20990101", "20990201")
    said = await refused(f"mqtts://{HOST}:1", ca=str(pem.ca), **later)
    assert "begins on 2099-01-01 00:00 (UTC): is this gateway's clock right?" in said


async def test_a_port_without_tls_is_told(mosquitto: Mosquitto, pem: Certificates) -> None:
    url = mosquitto.url.replace("mqtt", "mqtts")
    assert "this port is without TLS: write mqtt://" in await refused(url, ca=str(pem.ca))
