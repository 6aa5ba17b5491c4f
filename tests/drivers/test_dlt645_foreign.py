"""The DL/T 645 driver against a server written by others, and its configuration."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edge_agent.drivers import DRIVERS
from edge_agent.drivers.dlt645 import Dlt645Device
from edge_agent.errors import ConfigError
from tests.drivers.dlt645_bench import ADDRESS, Tags, device, driver, made
from tests.drivers.lines import connected, read

# ---- a server written by others ----------------------------------------------------------------


@asynccontextmanager
async def foreign_meter() -> AsyncIterator[int]:
    """PyPI's dlt645, whose addresses are written the other way round."""
    from dlt645.model.types.dlt645_type import Demand
    from dlt645.service.serversvc.async_server_service import AsyncMeterServerService

    server = AsyncMeterServerService.new_tcp_server("127.0.0.1", 0)
    server.set_address(bytes.fromhex(ADDRESS)[::-1])
    server.set_00(0x00010000, 1234.56)
    server.set_00(0x00000000, -1234.56)
    server.set_00(0x00010200, 3.5)
    server.set_02(0x02010100, 229.7)
    server.set_02(0x02020100, 4.321)
    server.set_02(0x02030000, -3.3526)
    server.set_02(0x02060000, 0.985)
    server.set_02(0x02800002, 50.02)
    server.set_02(0x02800007, -12.5)
    from datetime import datetime

    server.set_01(0x01010000, Demand(12.3456, datetime(2026, 8, 15, 14, 30)))  # noqa: DTZ001
    assert await server.start()
    try:
        yield server.server._server.sockets[0].getsockname()[1]
    finally:
        await server.stop()


FOREIGN: Tags = {
    "energy": {"at": "di:00010000", "unit": "kWh", "kind": "counter"},
    "combined": {"at": "di:00000000", "unit": "kWh"},
    "peak": {"at": "di:00010200", "unit": "kWh"},
    "voltage": {"at": "di:02010100", "unit": "V"},
    "current": {"at": "di:02020100", "unit": "A"},
    "power": {"at": "di:02030000", "unit": "kW"},
    "factor": {"at": "di:02060000"},
    "frequency": {"at": "di:02800002", "unit": "Hz"},
    "temperature": {"at": "di:02800007", "unit": "Cel"},
    "demand": {"at": "di:01010000", "unit": "kW"},
    "when": {"at": "di:01010000.time"},
}
TRUE = [1234.56, -1234.56, 3.5, 229.7, 4.321, -3.3526, 0.985, 50.02, -12.5, 12.3456, 2608151430.0]


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("query", [f"address={ADDRESS}", ""])
async def test_a_foreign_meter_is_read_right(query: str, blocks: bool) -> None:
    async with foreign_meter() as port:
        meter = device(port, FOREIGN, query, blocks=blocks)
        async with connected(driver(m=meter)) as d:
            assert await read(d) == [(value, 0) for value in TRUE]


async def test_a_foreign_meter_refuses_blocks_and_is_read_all_the_same() -> None:
    phases: Tags = {f"v{i}": {"at": f"di:02010{i}00", "unit": "V"} for i in (1, 2, 3)}
    async with foreign_meter() as port, connected(driver(m=device(port, phases, blocks=True))) as d:
        assert (await read(d))[0] == (229.7, 0)
        assert list(d.save()["m"]) == ["201FF00"]  # type: ignore[call-overload]


# ---- the configuration ------------------------------------------------------------------------


def test_dlt645_is_registered() -> None:
    assert Dlt645Device in DRIVERS


def test_a_right_configuration_has_no_faults() -> None:
    serial = made(
        "dlt645+serial:///dev/ttyUSB0?baud=9600&parity=N&stopbits=1&bytesize=8&address=42"
    )
    plain = made("dlt645+tcp://10.0.0.9:5345?address=AAAAAAAA0042&version=2007")

    assert serial.faults() == plain.faults() == []
    assert (serial.link, serial.line.serial.baud, serial.address) == (
        "/dev/ttyUSB0", 9600, "000000000042",
    )  # fmt: skip
    assert (plain.link, plain.line.serial.parity) == (("10.0.0.9", 5345), "E")
    assert made("dlt645+serial:///dev/ttyS1").line.serial.baud == 2400


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ("dlt645+tcp://", "no device to connect to (write dlt645+tcp://192.168.1.5:5345)"),
        ("dlt645+tcp://h:0", "no device to connect to"),
        ("dlt645+serial://dev/ttyS0", "no device to connect to"),
        ("dlt645+tcp://h?address=1234567890123", "is no address of a meter"),
        ("dlt645+tcp://h?address=20230517AA42", "is no address of a meter"),
        ("dlt645+tcp://h?version=2018", "version=2018 is not possible (write 2007 or 1997)"),
        ("dlt645+tcp://h?baud=2400", 'unknown option "baud" (known: address, version)'),
        ("dlt645+serial:///dev/ttyS0?baud=2401", "baud=2401 is not possible"),
    ],
)
def test_a_wrong_address_is_named(connect: str, message: str) -> None:
    (fault,) = made(connect).faults()

    assert fault[0] == ("connect",)
    assert message in fault[1]


@pytest.mark.parametrize(
    ("tag", "key", "message"),
    [
        ({"at": "hr:0", "unit": "kWh"}, "at", "is no data identifier of DL/T 645-2007"),
        ({"at": "di:9010", "unit": "kWh"}, "at", "version=1997"),
        ({"at": "di:00010000", "unit": "kW"}, "unit", "the meter shows kWh"),
        ({"at": "di:00010000"}, "unit", "it has no unit, but the meter shows kWh"),
        ({"at": "di:02060000", "unit": "V"}, "unit", "the meter shows no unit"),
        ({"at": "di:00010000", "unit": "kWh", "type": "u32"}, "type", "leave type out"),
        ({"at": "di:00010000", "unit": "kWh", "mode": "subscribe"}, "mode", "no subscriptions"),
    ],
)
def test_a_wrong_tag_is_named(tag: dict[str, object], key: str, message: str) -> None:
    (fault,) = made("dlt645+tcp://h?address=1", {"t": tag}).faults()

    assert fault[0] == ("tags", "t", key)
    assert message in fault[1]


def test_devices_of_one_line_must_agree_on_it() -> None:
    with pytest.raises(ConfigError, match=r"n: serial is .* with m"):
        driver(
            m=made("dlt645+serial:///dev/ttyS0?baud=2400&address=1"),
            n=made("dlt645+serial:///dev/ttyS0?baud=9600&address=2"),
        )
