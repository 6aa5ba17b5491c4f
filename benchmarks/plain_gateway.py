"""A gateway written the plain way, as the baseline of ``benchmarks.gateway``.

    python -m benchmarks.plain_gateway FOLDER LOAD MQTT_PORT INFLUX_URL PORT...

pymodbus as its manual shows it, one ``convert_from_registers`` per value, one row of SQLite and one
``Point`` per sample, ``json`` and ``aiomqtt``; no metrics, no quality, no reconnect. It publishes
the agent's topics and columns, so that the same subscriber reads both.
"""

import asyncio
import json
import signal
import sqlite3
import sys
import time
from pathlib import Path

import aiomqtt
from influxdb_client import InfluxDBClient, Point, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS, WriteApi
from pymodbus.client import AsyncModbusTcpClient

from benchmarks.gateway_load import Load, of_json

MOST = 124  # registers of a request: whole float32


class Gateway:
    """Where the samples go."""

    def __init__(self, folder: Path, load: Load, mqtt: aiomqtt.Client, influx: WriteApi) -> None:
        self._load, self._mqtt, self._influx = load, mqtt, influx
        self._db = sqlite3.connect(folder / "plain.db", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("CREATE TABLE sample (time, device, tag, value)")

    async def poll(self, link: int, port: int) -> None:
        """Read all units of a connection once a period."""
        client = AsyncModbusTcpClient("127.0.0.1", port=port)
        await client.connect()
        due = time.monotonic()
        while True:
            for unit in range(1, self._load.units + 1):
                values = await self._read(client, unit)
                await self._put(self._load.devices[link * self._load.units + unit - 1], values)
            due += self._load.period
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _read(self, client: AsyncModbusTcpClient, unit: int) -> list[float]:
        values = list[float]()
        words = 2 * self._load.per_unit
        for first in range(0, words, MOST):
            count = min(MOST, words - first)
            reply = await client.read_holding_registers(first, count=count, device_id=unit)
            for i in range(0, count, 2):
                pair = reply.registers[i : i + 2]
                number = client.convert_from_registers(pair, client.DATATYPE.FLOAT32)
                values.append(float(number))  # type: ignore[arg-type]
        return values

    async def _put(self, device: str, values: list[float]) -> None:
        now, names = time.time_ns(), self._load.names
        samples = list(zip(names, values, strict=True))
        rows = [(now, device, name, value) for name, value in samples]
        self._db.executemany("INSERT INTO sample VALUES (?, ?, ?, ?)", rows)
        self._db.commit()
        message = {"t": [now // 1_000_000], "v": {name: [value] for name, value in samples}}
        await self._mqtt.publish(f"edge/bench/{device}/raw", json.dumps(message), qos=1)
        points = [
            Point("sample").tag("device", device).field(name, value).time(now, WritePrecision.NS)
            for name, value in samples
        ]
        await asyncio.to_thread(self._influx.write, "energy", "plant", points)


async def main(folder: Path, load: Load, mqtt: int, influx: str, ports: list[int]) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit)
    with InfluxDBClient(influx, "any", org="plant") as client:
        api = client.write_api(write_options=SYNCHRONOUS)
        async with aiomqtt.Client("127.0.0.1", mqtt) as broker, asyncio.TaskGroup() as tasks:
            gateway = Gateway(folder, load, broker, api)
            for link, port in enumerate(ports):
                tasks.create_task(gateway.poll(link, port))


if __name__ == "__main__":
    place, (wanted, _) = Path(sys.argv[1]), of_json(sys.argv[2])
    work = main(place, wanted, int(sys.argv[3]), sys.argv[4], [int(p) for p in sys.argv[5:]])
    asyncio.run(work)
