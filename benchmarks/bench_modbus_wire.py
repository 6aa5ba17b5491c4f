"""What one Modbus TCP request costs: 125 registers asked for and copied into the row of a scan.

    python -m benchmarks.bench_modbus_wire

prints one JSON object: CPU microseconds of this process per request, over one and over ten
connections, on asyncio's loop and on uvloop where it is installed. Minimum of repeats. The server
is a process of its own, so its cost is not in the figures.
"""

import asyncio
import json
import multiprocessing
import platform
import selectors
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_plan import Request
from edge_agent.drivers.modbus_wire import Manners, Refused, Wire

REPEATS, REQUESTS = 3, 10_000
REQUEST = Request(Table.HOLDING_REGISTERS, 0, 125, 0, ())
ANSWER = b"\0\0\0\xfd\1\3\xfa" + bytes(range(250))


def serve(listening: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listening:
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            connection = key.fileobj
            asked = connection.recv(64)
            if asked:
                connection.sendall(asked[:2] + ANSWER)
            else:
                selector.unregister(connection)
                connection.close()


async def ask(port: int, requests: int) -> None:
    config = ModbusDevice(connect=f"modbus+tcp://127.0.0.1:{port}")
    wire, row = Wire(config.line, {1: Manners(1.0, 0.0)}), np.zeros(125, np.uint16)
    await wire.open()
    try:
        for _ in range(requests):
            await wire.settle(1)
            answer = await wire.ask(1, REQUEST)
            assert not isinstance(answer, Refused)
            row[:] = answer
        assert row[1] == 0x0203
    finally:
        await wire.close()


async def measured(port: int, connections: int) -> float:
    began = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(ask(port, REQUESTS // connections))
    return (time.process_time() - began) / REQUESTS * 1e6


def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listening,))
    server.start()
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop"):
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    result: dict[str, object] = {
        "bench": "modbus wire", "python": platform.python_version(), "numpy": np.__version__,
        "pymodbus": version("pymodbus"), "machine": platform.machine(),
    }  # fmt: skip
    try:
        port = listening.getsockname()[1]
        for name, make in loops.items():
            for connections in (1, 10):
                with asyncio.Runner(loop_factory=make) as runner:
                    took = min(runner.run(measured(port, connections)) for _ in range(REPEATS))
                result[f"us_{name}_{connections}_connections"] = round(took, 1)
    finally:
        server.kill()
        server.join()
        listening.close()
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
