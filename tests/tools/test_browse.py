"""``edge-agent browse`` against real servers: tree, units, guesses, users, large servers."""

import asyncio
import re
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from asyncua import Server, ua
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config import load
from edge_agent.drivers.opcua_address import NodeAddress
from edge_agent.terminal import width
from edge_agent.tools.browse import REFERENCES
from edge_agent.tools.nodes import Variable, address, kind_of, machines, unit_of, words
from tests.commands import called, command, environment, run
from tests.drivers.node_server import node_server
from tests.servers import free_port

URI = "urn:demo:plant"
pytestmark = pytest.mark.timeout(60)  # processes import for seconds on a loaded machine


async def browsed(
    *arguments: str, password: str | None = None, interrupt: Callable[[], bool] | None = None
) -> tuple[int, str, str]:
    """Run the command beside the server of this loop."""
    process = await asyncio.create_subprocess_exec(
        *command("browse", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() | ({"OPCUA_PASSWORD": password} if password else {}),
    )
    try:
        if interrupt is not None:
            while not interrupt():  # noqa: ASYNC110  another process has no event
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGINT)
        said, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(), error.decode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A line with two machines, one below a folder, and what real servers have beside numbers."""
    opcua = Server()
    await opcua.init()
    opcua.set_endpoint(f"opc.tcp://127.0.0.1:{free_port()}")
    index = await opcua.register_namespace(URI)
    mill = await opcua.nodes.objects.add_object(index, "Mill1")
    drive = await mill.add_object(index, "Drive")
    speed = await drive.add_variable(ua.NodeId("Mill1.Drive.Speed", index), "Speed", 14.5)
    await speed.add_property(
        index, "EngineeringUnits", ua.EUInformation(URI, 0, ua.LocalizedText("r/min"))
    )
    await speed.add_property(index, "EURange", ua.Range(0.0, 60.0))
    mode = await drive.add_variable(
        ua.NodeId("Mill1.Drive.Mode", index), "Mode", 1, ua.VariantType.Int32
    )
    texts = [ua.LocalizedText("停止"), ua.LocalizedText("运行")]
    await mode.add_property(index, "EnumStrings", texts)
    energy = await mill.add_variable(ua.NodeId("Mill1.电量", index), "电量", 812.5)
    await energy.add_property(
        index, "EngineeringUnits", ua.EUInformation(URI, 0, ua.LocalizedText("kWh"))
    )
    await mill.add_variable(ua.NodeId("Mill1.Speed", index), "Speed", 1.5)
    await mill.add_variable(ua.NodeId("Mill1.Recipe", index), "RecipeName", "P.O 42.5")
    await mill.add_variable(ua.NodeId("Mill1.Trend", index), "Trend", [1.0, 2.0, 3.0])
    await mill.add_variable(ua.NodeId(4711, index), "TotalCycles", 99, ua.VariantType.UInt32)
    packer = await opcua.nodes.objects.add_object(index, "Packer")
    await packer.add_variable(ua.NodeId(uuid.UUID(int=7), index), "Running", True)
    async with opcua:
        yield opcua


def url(opcua: Server) -> str:
    return f"opc.tcp://127.0.0.1:{opcua.endpoint.port}"


async def test_a_server_becomes_devices_that_can_be_checked(server: Server, tmp_path: Path) -> None:
    status, said, error = await browsed(url(server))
    assert (status, error) == (0, "")
    tree = said[: said.index("devices:")]
    assert [text for text in tree.splitlines() if width(text) > 100] == []
    assert re.search(r"^Mill1$\n^  Drive$\n", said, re.MULTILINE) or "\n  Drive\n" in said
    assert re.search(r"^    Speed +14\.5 +1/min +Double +gauge$", said, re.MULTILINE)
    assert re.search(r"^  Trend +\[1\.0, 2\.0, 3\.0\] +Double\[3\]$", said, re.MULTILINE)
    file = tmp_path / "plant.yaml"
    file.write_text("site: {id: works}\n" + said[said.index("devices:") :], encoding="utf-8")
    devices = load(file).devices
    assert list(devices) == ["mill-1", "packer"]
    tags = devices["mill-1"].tags
    assert set(tags) == {"drive_speed", "mode", "speed", "recipe_name", "total_cycles"} | {
        name for name in tags if tags[name].unit == "kWh"
    }
    assert tags["drive_speed"].unit == "1/min"
    assert tags["drive_speed"].range == (0.0, 60.0)
    assert tags["mode"].states == {0: "停止", 1: "运行"}
    assert (tags["mode"].kind, tags["total_cycles"].kind) == ("state", "counter")
    assert tags["recipe_name"].kind == "text"
    assert tags["total_cycles"].at == f"nsu={URI};i=4711"
    assert [tag.kind for tag in tags.values() if tag.unit == "kWh"] == ["counter"]
    assert devices["packer"].tags["running"].at == f"nsu={URI};g={uuid.UUID(int=7)}"
    checked = await asyncio.to_thread(run, "check", file, "--connect")
    assert checked[0] == 0, checked[1]
    assert re.search(r"^mill-1 +drive_speed +14\.5 +1/min .*GOOD$", checked[1], re.MULTILINE)
    assert re.search(r"^mill-1 +mode +1 运行 .*GOOD$", checked[1], re.MULTILINE)


async def test_a_part_of_the_tree_can_be_chosen(server: Server, tmp_path: Path) -> None:
    _, said, _ = await browsed(url(server), "--path", "Objects/Mill1/Drive")
    assert "2 variables below Objects/Mill1/Drive" in said
    assert "  plc:" in said
    _, said, _ = await browsed(url(server), "--match", "*speed")
    assert re.findall(r"^ +(\w+): +\{at", said, re.MULTILINE) == ["speed", "drive_speed"]
    _, said, _ = await browsed(url(server), "--depth", "2")
    assert "Mill1.Drive.Speed" not in said
    file = tmp_path / "found.yaml"
    _, said, _ = await browsed(url(server), "-o", str(file))
    assert "devices:" not in said
    assert file.read_text("utf-8").startswith("devices:\n  mill-1:\n")
    status, _, error = await browsed(url(server), "--path", "Objects/Mil")
    assert (status, error.count("\n")) == (2, 1)
    assert "--path: there is no" in error


async def test_a_large_server_is_browsed_within_bounds() -> None:
    opcua = Server()
    await opcua.init()
    opcua.set_endpoint(f"opc.tcp://127.0.0.1:{free_port()}")
    index = await opcua.register_namespace(URI)
    folder = await opcua.nodes.objects.add_folder(index, "Line")
    for i in range(1200):
        await folder.add_variable(ua.NodeId(f"v{i}", index), f"V{i}", float(i))
    async with opcua:
        status, said, error = await browsed(url(opcua))
        assert (status, error) == (0, "")
        assert said.startswith(f"{url(opcua)}: 1200 variables (")
        assert said.count(" {at: ") == 1200
        status, said, _ = await browsed(url(opcua), "--most", "300")
    assert status == 0
    assert "ended at 300 nodes: choose a part with --path or --match, or raise --most" in said
    assert 250 < said.count(" {at: ") < 300


async def test_a_server_that_answers_in_parts_is_browsed_to_its_end(tmp_path: Path) -> None:
    """L4, peers 32: limits per call are read, and continuation points followed."""
    values = [(f"Value{i}", "Double", i + 0.5) for i in range(REFERENCES + 150)]
    async with node_server(tmp_path, values) as node:
        status, said, error = await browsed(node.url, "--match", "Value*")
    assert (status, error) == (0, "")
    assert f": {len(values)} variables" in said  # the rest came by a continuation point
    assert re.search(rf"^ *Value{len(values) - 1} +{len(values) - 0.5} ", said, re.MULTILINE)


class OneUser:
    def get_user(self, iserver, username=None, password=None, certificate=None):
        del iserver, certificate
        from asyncua.crypto.permission_rules import User, UserRole

        right = (username, password) == ("edge", "sesame")
        return User(role=UserRole.User) if right else None


async def test_a_password_comes_from_the_environment_and_is_not_written_down() -> None:
    opcua = Server(user_manager=OneUser())
    await opcua.init()
    opcua.set_endpoint(f"opc.tcp://127.0.0.1:{free_port()}")
    index = await opcua.register_namespace(URI)
    await opcua.nodes.objects.add_variable(ua.NodeId("p", index), "Power", 3.0)
    async with opcua:
        status, said, error = await browsed(url(opcua), "--user", "edge", password="sesame")
        assert (status, error) == (0, "")
        assert 'security: {user: edge, password: "${OPCUA_PASSWORD}"}' in said
        assert "sesame" not in said
        status, said, error = await browsed(url(opcua), "--user", "edge", password="wrong")
    assert (status, said) == (1, "")
    assert "the server refuses the user or the password" in error
    assert error.count("\n") == 1


async def test_ctrl_c_ends_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # the kernel accepts, nobody answers
        hanging.setblocking(False)

        def connected() -> bool:
            try:
                held.append(hanging.accept()[0])
            except BlockingIOError:
                return False
            return True

        held: list[socket.socket] = []
        where = f"opc.tcp://127.0.0.1:{hanging.getsockname()[1]}"
        status, said, error = await browsed(where, "--timeout", "15s", interrupt=connected)
        for connection in held:
            connection.close()
    assert (status, error) == (130, "")
    assert "ended early" in said


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([f"opc.tcp://127.0.0.1:{free_port()}"], 1, "opc.tcp://127.0.0.1"),
        (["modbus+tcp://127.0.0.1"], 2, "browse reads opc.tcp://host:4840 (scan: modbus)"),
        (["opc.tcp://u:p@127.0.0.1"], 2, "write user and password under security"),
        (["opc.tcp://h", "--depth", "0"], 2, "'0' is not a whole number from 1 on"),
        (["opc.tcp://h", "--mode", "sign"], 2, "mode sign needs a policy (Basic256Sha256)"),
    ],
)
def test_what_cannot_be_browsed_is_told_in_one_line(
    arguments: list[str], status: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    done, said, error = called(capfd, "browse", *arguments)
    assert (done, said) == (status, "")
    assert told in error
    assert error.count("\n") == 1


# ---- the pure part ---------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1)


@settings(deadline=None)
@given(
    st.one_of(st.integers(0, 2**32 - 1), texts, st.uuids(), st.binary(min_size=1)),
    st.one_of(st.just(""), texts),
)
def test_an_address_is_read_back_as_the_same_node(
    identifier: int | str | bytes | uuid.UUID, namespace: str
) -> None:
    read = NodeAddress.parse(address(identifier, namespace))
    if isinstance(identifier, str) and re.search(r";index=\d{1,9}$", identifier):
        return  # the one spelling that means an element of an array
    assert (read.identifier, read.uri or "") == (identifier, namespace)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("TotalBags", ["total", "bags"]),
        ("PLC_Motor2Speed", ["plc", "motor", "2", "speed"]),
        ("HTTPServer", ["http", "server"]),
        ("1号磨_电流", ["1", "号磨", "电流"]),
    ],
)
def test_names_are_parted_into_words(name: str, found: list[str]) -> None:
    assert words(name) == found


@pytest.mark.parametrize(
    ("name", "type_", "value", "unit", "kind"),
    [
        ("State", "Int32", 1, "", "state"),
        ("MachineStatus", "UInt16", 1, "", "state"),
        ("StateOfCharge", "Double", 81.5, "%", "gauge"),
        ("Running", "Boolean", True, "", "state"),
        ("ProducedPieces", "UInt32", 5, "", "counter"),
        ("ActiveImport", "Double", 5.0, "kWh", "counter"),
        ("总产量", "Float", 5.0, "t", "counter"),
        ("运行状态", "Int16", 5, "", "state"),
        ("EnergyBalance", "Double", -5.0, "", "gauge"),
        ("Temperature", "Double", 5.0, "°C", "gauge"),
        ("Recipe", "String", "A", "", "text"),
    ],
)
def test_the_kind_is_guessed_from_name_type_and_unit(
    name: str, type_: str, value: object, unit: str, kind: str
) -> None:
    assert kind_of(Variable((name,), "i=1", type_, value, unit=unit)) == kind


@pytest.mark.parametrize(
    ("said", "unit"),
    [("°C", "°C"), ("degC", "°C"), ("m³/h", "m3/h"), ("r/min", "1/min"), ("kWh", "kWh"), ("%", "%"),
     ("bananas", ""), ("", ""), ("㎥", "m3")],
)  # fmt: skip
def test_units_are_those_the_configuration_knows(said: str, unit: str) -> None:
    assert unit_of(said) == unit


paths = st.lists(st.text("aB1_é电", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


@settings(deadline=None)
@given(st.lists(paths, max_size=12))
def test_every_variable_gets_a_name_of_its_own(found: list[tuple[str, ...]]) -> None:
    variables = [Variable(path, f"i={i}", "Double", 0.0) for i, path in enumerate(found)]
    devices = machines(variables, "plc")
    assert len({device.name for device in devices}) == len(devices)
    assert all(re.fullmatch(r"[a-z0-9-]+", device.name) for device in devices)
    tags = [(device.name, tag) for device in devices for tag in device.tags]
    assert all(re.fullmatch(r"[a-z0-9_]+", tag) for _, tag in tags)
    addresses = [v.address for device in devices for v in device.tags.values()]
    assert sorted(addresses) == sorted(v.address for v in variables)
