import asyncio
import math
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

from edge_agent.clock import SECOND, SystemClock
from edge_agent.drivers.base import FlagConfig, TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_driver import OpcUaDriver
from edge_agent.drivers.opcua_security import Security
from edge_agent.errors import Disconnected
from edge_agent.model import Quality
from edge_agent.units import Duration, Secret
from tests.drivers.opcua_plant import URI, Plant, connected, free_port, plant

Q = Quality
pytestmark = pytest.mark.asyncio(loop_scope="module")
FAST = Duration(0.1)


def tag(name: str, **written: object) -> TagConfig:
    return TagConfig(at=f"nsu={URI};s={name}", **written)  # type: ignore[arg-type]


def pushed(name: str, **written: object) -> TagConfig:
    return tag(name, mode="subscribe", **written)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Plant]:
    async with plant() as p:  # takes a second to start
        yield p


@pytest_asyncio.fixture(loop_scope="module")
async def server(running: Plant) -> Plant:
    await running.add("X", 0.0)
    await running.add("Y", 0.0)
    return running


# ---- polling


async def test_a_poll_returns_numbers_in_tag_units_at_the_middle_of_the_request(
    server: Plant,
) -> None:
    await server.add("Power", 12345, ua.VariantType.Int32)
    await server.add("Run", True)
    await server.add("Level", 2.5)
    device = OpcUaDevice(
        connect=server.url,
        tags={
            "power": tag("Power", scale=0.1, unit="kW"),
            "run": tag("Run", kind="state"),
            "level": tag("Level", scale=2, offset=-1.0),
        },
    )
    async with connected(device) as (driver, groups):
        before = time.time_ns()
        block = await driver.read(groups["raw"])
        after = time.time_ns()
    assert block.value[:, 0].tolist() == [1234.5, 1.0, 4.0]
    assert block.quality[:, 0].tolist() == [0, 0, 0]
    assert before - SECOND // 100 <= block.time[0] <= after + SECOND // 100


@pytest.mark.parametrize(
    ("value", "status", "expected"),
    [
        (7.0, "Good", Q.GOOD),
        (7.0, "GoodLocalOverride", Q.GOOD),
        (7.0, "UncertainLastUsableValue", Q.UNCERTAIN),
        (7.0, "Bad", Q.BAD),
        (7.0, "BadNodeIdUnknown", Q.BAD_ADDRESS),
        (7.0, "BadNoCommunication", Q.BAD_DEVICE),
        (7.0, "BadDeviceFailure", Q.BAD_DEVICE),
        (7.0, "BadSensorFailure", Q.BAD_DEVICE),
        (7.0, "BadWaitingForInitialData", Q.BAD_NOT_AVAILABLE),
        (7.0, "BadNotConnected", Q.BAD_NOT_AVAILABLE),
        (7.0, "BadTooManyOperations", Q.BAD),
        (None, "Good", Q.BAD_NOT_AVAILABLE),
        (math.nan, "Good", Q.BAD_NOT_AVAILABLE),
        (math.inf, "Good", Q.BAD_NOT_AVAILABLE),
        ("7.0", "Good", Q.BAD_NOT_AVAILABLE),
        ([7.0, 8.0], "Good", Q.BAD_NOT_AVAILABLE),
        (-1.0, "Good", Q.UNCERTAIN_RANGE),
        (-1.0, "UncertainLastUsableValue", Q.UNCERTAIN_RANGE),
        (65535, "Good", Q.BAD_NOT_AVAILABLE),
        (2**53, "Good", Q.GOOD),
        (2**53 + 1, "Good", Q.UNCERTAIN_PRECISION),
    ],
)
async def test_a_value_is_as_good_as_its_status_and_its_number(
    server: Plant, value: object, status: str, expected: Quality
) -> None:
    await server.add("X", value)
    await server.write("X", value, status=getattr(ua.StatusCodes, status))
    x = tag("X", invalid=(65535,), range=(0, 1e300))
    device = OpcUaDevice(connect=server.url, tags={"x": x})
    async with connected(device) as (driver, groups):
        block = await driver.read(groups["raw"])
    assert Quality(block.quality[0, 0]) is expected
    assert block.lawful()


async def test_one_unknown_node_spoils_only_its_own_column(server: Plant) -> None:
    await server.write("X", 5.0)
    tags = {
        "gone": tag("Nowhere"),
        "x": tag("X"),
        "foreign": TagConfig(at="nsu=urn:demo:elsewhere;s=X"),
    }
    async with connected(OpcUaDevice(connect=server.url, tags=tags)) as (driver, groups):
        block = await driver.read(groups["raw"])
    assert block.quality[:, 0].tolist() == [Q.BAD_ADDRESS, Q.GOOD, Q.BAD_ADDRESS]
    assert block["x"][0] == 5.0


async def test_a_namespace_is_found_by_its_uri_wherever_it_stands(server: Plant) -> None:
    late = await server.server.register_namespace("urn:demo:late;%")
    await server.server.nodes.objects.add_variable(ua.NodeId("X", late), "Late", 7.0)
    await server.write("X", 6.0)
    tags = {
        "uri": tag("X"),
        "number": TagConfig(at=f"ns={server.index};s=X"),
        "late": TagConfig(at="nsu=urn:demo:late%3B%25;s=X"),
    }
    async with connected(OpcUaDevice(connect=server.url, tags=tags)) as (driver, groups):
        block = await driver.read(groups["raw"])
    assert late != server.index
    assert block.value[:, 0].tolist() == [6.0, 6.0, 7.0]


async def test_a_request_never_asks_for_more_nodes_than_the_server_takes(
    server: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = server.server.get_node(ua.NodeId(ua.Int32(11705)))  # MaxNodesPerRead
    service, asked = server.server.iserver.attribute_service, []
    read = service.read

    def counting(parameters: ua.ReadParameters, *rest: object) -> object:
        asked.append(len(parameters.NodesToRead))
        return read(parameters, *rest)

    tags = {f"x{i}": tag("X") for i in range(5)}
    announced = ua.DataValue(ua.Variant(2, ua.VariantType.UInt32))
    await server.server.write_attribute_value(limit.nodeid, announced)
    async with connected(OpcUaDevice(connect=server.url, tags=tags)) as (driver, groups):
        monkeypatch.setattr(service, "read", counting)
        block = await driver.read(groups["raw"])
    await server.server.write_attribute_value(
        limit.nodeid, ua.DataValue(ua.Variant(0, ua.VariantType.UInt32))
    )
    assert asked[:3] == [2, 2, 2]  # five and the server's time
    assert block.quality[:, 0].tolist() == [0] * 5


async def test_a_flag_marks_what_is_read_with_it(server: Plant) -> None:
    await server.write("X", 5.0)
    await server.add("Y", 2)
    device = OpcUaDevice(
        connect=server.url,
        tags={"x": tag("X"), "state": tag("Y", kind="state"), "pushed": pushed("X")},
        flag=FlagConfig(tag="state", normal=(0,)),
    )
    async with connected(device) as (driver, groups):
        for name, flagged in (("raw", "x"), ("raw.sub", "pushed")):
            block = await driver.read(groups[name])
            assert block.quality[block.schema.index[flagged], -1] == Q.UNCERTAIN_FLAGGED
            assert block.quality[block.schema.index["state"], -1] == Q.GOOD


async def test_texts_are_read_and_keep_their_numbers(server: Plant) -> None:
    await server.add("Batch", "A-17")
    tags = {
        "batch": tag("Batch", type="text"),
        "pushed": pushed("Batch", type="text"),
        "number": tag("Batch"),
    }
    device = OpcUaDevice(connect=server.url, tags=tags)
    said = []
    async with connected(device) as (driver, groups):
        for text in ("A-17", "B-18", "A-17"):
            await server.write("Batch", text)
            for name in ("raw", "raw.sub"):
                block = await driver.read(groups[name])
                said.append((block.text(0, len(block) - 1), block.value[0, -1]))
            assert block.lawful()
        block = await driver.read(groups["raw"])
        learnt = driver.save()
    assert said == [("A-17", 0.0)] * 2 + [("B-18", 1.0)] * 2 + [("A-17", 0.0)] * 2
    assert block.quality[:, 0].tolist() == [Q.GOOD, Q.BAD_NOT_AVAILABLE]  # a text is no number
    again = OpcUaDevice.build({"plc": device}, SystemClock())
    assert isinstance(again, OpcUaDriver)
    again.load(learnt)
    await server.write("Batch", "B-18")
    await again.connect()
    block = await again.read(again.groups[0])
    await again.close()
    assert (block.text(0, 0), block.value[0, 0]) == ("B-18", 1.0)


# ---- the link


async def test_a_stopped_server_is_disconnected_for_every_reader() -> None:
    async with plant() as p:
        await p.add("X", 0.0)
        device = OpcUaDevice(connect=p.url, tags={"x": tag("X"), "pushed": pushed("X")})
        async with connected(device) as (driver, groups):
            await driver.read(groups["raw.sub"])
            waiting = asyncio.create_task(driver.read(groups["raw.sub"]))
            await p.server.stop()
            with pytest.raises(Disconnected, match="connection lost"):
                await waiting
            with pytest.raises(Disconnected):
                await driver.read(groups["raw"])


async def test_nobody_there_is_disconnected() -> None:
    device = OpcUaDevice(connect=f"opc.tcp://127.0.0.1:{free_port()}", tags={"x": tag("X")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    with pytest.raises(Disconnected, match="Connect call failed"):
        await driver.connect()
    await driver.close()


async def test_a_server_that_accepts_but_never_answers_is_disconnected_in_time() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    device = OpcUaDevice(
        connect=f"opc.tcp://127.0.0.1:{port}", timeout=Duration(0.2), tags={"x": tag("X")}
    )
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    began = time.monotonic()
    with pytest.raises(Disconnected, match=r"no answer within 0\.2 s"):
        await driver.connect()
    await driver.close()
    assert time.monotonic() - began < 1.0
    listener.close()
    await listener.wait_closed()


async def test_a_host_that_is_away_costs_less_than_a_second() -> None:
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # the queue is full now: the next is not even refused
        url = f"opc.tcp://127.0.0.1:{full.getsockname()[1]}"
        driver = OpcUaDevice.build(
            {"plc": OpcUaDevice(connect=url, tags={"x": tag("X")})}, SystemClock()
        )
        began = time.monotonic()
        with pytest.raises(Disconnected, match="does not accept connections in time"):
            await driver.connect()
        assert 0.7 < time.monotonic() - began < 1.5
        await driver.close()


async def test_close_is_idempotent_and_leaves_no_task_behind(server: Plant) -> None:
    before = asyncio.all_tasks()
    device = OpcUaDevice(connect=server.url, tags={"x": tag("X"), "pushed": pushed("X")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    await driver.close()
    await driver.connect()
    await driver.read(driver.groups[1])
    await driver.close()
    await driver.close()
    left = [t.get_coro().cr_code.co_filename for t in asyncio.all_tasks() - before]
    assert not [name for name in left if "asyncua/server" not in name]
    with pytest.raises(Disconnected, match="not connected"):
        await driver.read(driver.groups[0])


async def test_a_link_that_comes_back_continues_its_streams(server: Plant) -> None:
    device = OpcUaDevice(connect=server.url, publish=FAST, tags={"x": pushed("X", kind="state")})
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    (group,) = driver.groups
    blocks = []
    for value in (1.0, 2.0):
        await driver.connect()
        blocks.append(await driver.read(group))
        await server.write("X", value)
        blocks.append(await driver.read(group))
        await driver.close()
    times = np.concatenate([b.time for b in blocks])
    assert (np.diff(times) >= 0).all()
    assert blocks[2]["x"].tolist() == [1.0]


# ---- security


class Users:
    def get_user(self, _server: object, username: str, password: str, **_: object) -> User | None:
        known = username == "edge" and password == "right"
        return User(role=UserRole.User, name=username) if known else None


async def test_a_password_that_may_be_read_on_the_line_is_warned_of(
    server: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    security = Security(user="edge", password=Secret("right"))
    device = OpcUaDevice(connect=server.url, security=security, tags={"x": tag("X")})
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw"])
    warned = [r.getMessage() for r in caplog.records if r.name == "edge_agent.drivers.opcua_driver"]
    assert warned == [f"{server.url}: without a policy the password may be read on the line"]


def secured(p: Plant, folder: Path, password: str) -> OpcUaDevice:
    security = Security(
        policy="Basic256Sha256",
        mode="sign-and-encrypt",
        user="edge",
        password=Secret(password),
        certificate=str(folder / "pki" / "agent.der"),
        private_key=str(folder / "pki" / "agent.key"),
    )
    return OpcUaDevice(connect=p.url, security=security, tags={"x": tag("X"), "p": pushed("X")})


@pytest_asyncio.fixture(loop_scope="module")
async def fortress(tmp_path: Path) -> AsyncIterator[Plant]:
    from asyncua.crypto.cert_gen import setup_self_signed_certificate
    from cryptography.x509.oid import ExtendedKeyUsageOID

    p = Plant(Users())  # type: ignore[arg-type]
    await p.prepare()
    key, certificate = tmp_path / "server.pem", tmp_path / "server.der"
    uri = p.server.get_application_uri()
    await setup_self_signed_certificate(
        key, certificate, uri, "localhost", [ExtendedKeyUsageOID.SERVER_AUTH], {}
    )
    await p.server.load_certificate(certificate)
    await p.server.load_private_key(key)
    p.server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    await p.add("X", 6.0)
    await p.server.start()
    yield p
    await p.server.stop()


async def test_an_encrypted_link_with_a_user_reads_and_subscribes(
    fortress: Plant, tmp_path: Path
) -> None:
    device = secured(fortress, tmp_path, "right")
    async with connected(device) as (driver, groups):
        assert (await driver.read(groups["raw"]))["x"].tolist() == [6.0]
        assert (await driver.read(groups["raw.sub"]))["p"].tolist() == [6.0]
    key = tmp_path / "pki" / "agent.key"
    assert key.stat().st_mode & 0o777 == 0o600
    made = key.read_bytes()
    async with connected(device) as (driver, groups):
        await driver.read(groups["raw"])
    assert key.read_bytes() == made  # made once


async def test_a_wrong_password_is_disconnected_with_plain_words(
    fortress: Plant, tmp_path: Path
) -> None:
    driver = OpcUaDevice.build({"plc": secured(fortress, tmp_path, "wrong")}, SystemClock())
    with pytest.raises(Disconnected, match="refuses the user or the password") as raised:
        await driver.connect()
    assert "wrong" not in str(raised.value)
    await driver.close()


async def test_an_untrusted_certificate_is_disconnected_with_plain_words(
    fortress: Plant, tmp_path: Path
) -> None:
    (tmp_path / "trusted").mkdir()
    shutil.copy(tmp_path / "server.der", tmp_path / "trusted")  # only itself
    store = TrustStore([tmp_path / "trusted"], [])
    await store.load()
    options = (
        CertificateValidatorOptions.TRUSTED_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
    )
    fortress.server.set_certificate_validator(CertificateValidator(options, store))
    driver = OpcUaDevice.build({"plc": secured(fortress, tmp_path, "right")}, SystemClock())
    with pytest.raises(Disconnected, match="does not trust the agent's certificate"):
        await driver.connect()
    await driver.close()


async def test_a_policy_that_is_not_offered_is_disconnected_with_plain_words(
    server: Plant, tmp_path: Path
) -> None:
    driver = OpcUaDevice.build({"plc": secured(server, tmp_path, "right")}, SystemClock())
    with pytest.raises(Disconnected, match="no endpoint with policy Basic256Sha256"):
        await driver.connect()
    await driver.close()
