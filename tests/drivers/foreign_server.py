"""Modbus servers written by others, as processes of their own.

    python -m tests.drivers.foreign_server pyModbusTCP MAP        says its port
    python -m tests.drivers.foreign_server uModbus MAP            says its port
    python -m tests.drivers.foreign_server uModbus MAP DEVICE     a serial line; says "ready"

MAP holds coils, discrete inputs, holding and input registers, ``SIZE`` little-endian words each.
"""

import socketserver
import struct
import sys
from pathlib import Path

SIZE = 512
UNIT = 1
TABLES = ("co", "di", "hr", "ir")


def read_map(path: str) -> dict[str, list[int]]:
    words = struct.unpack(f"<{4 * SIZE}H", Path(path).read_bytes())
    return {name: list(words[i * SIZE : (i + 1) * SIZE]) for i, name in enumerate(TABLES)}


def by_py_modbus_tcp(tables: dict[str, list[int]]) -> None:
    from pyModbusTCP.server import DataBank, ModbusServer

    bank = DataBank(coils_size=SIZE, d_inputs_size=SIZE, h_regs_size=SIZE, i_regs_size=SIZE)
    bank.set_coils(0, [bool(bit) for bit in tables["co"]])
    bank.set_discrete_inputs(0, [bool(bit) for bit in tables["di"]])
    bank.set_holding_registers(0, tables["hr"])
    bank.set_input_registers(0, tables["ir"])
    server = ModbusServer("127.0.0.1", 0, no_block=True, data_bank=bank)
    server.start()
    say(server._service.server_address[1])
    server._serve_th.join()


def by_u_modbus(tables: dict[str, list[int]], device: str | None) -> None:
    if device is None:
        from umodbus.server.tcp import RequestHandler, get_server

        server = get_server(socketserver.ThreadingTCPServer, ("127.0.0.1", 0), RequestHandler)
    else:
        import serial
        from umodbus.server.serial import get_server as get_serial_server
        from umodbus.server.serial.rtu import RTUServer

        server = get_serial_server(RTUServer, serial.Serial(device, 115200))

    @server.route(slave_ids=[UNIT], function_codes=[1, 2, 3, 4], addresses=range(SIZE))
    def value(slave_id: int, function_code: int, address: int) -> int:  # noqa: ARG001 – its names
        return tables[TABLES[function_code - 1]][address]

    if device is None:
        say(server.server_address[1])
        server.serve_forever()
    say("ready")
    server.serial_port.timeout = 0.01  # its own serve_forever waits half a second per request
    while True:
        try:
            server.serve_once()
        except ValueError:
            continue  # nothing was asked


def say(what: object) -> None:
    print(what, flush=True)  # noqa: T201 – the test reads it


if __name__ == "__main__":
    kind, path, *rest = sys.argv[1:]
    if kind == "pyModbusTCP":
        by_py_modbus_tcp(read_map(path))
    else:
        by_u_modbus(read_map(path), rest[0] if rest else None)
