"""A process that reads what the broker hands out and checks it against what the server must say.

    python -m benchmarks.gateway_subscriber PORT FILE LOAD

It says "ready" when it has subscribed. When standard input ends it writes an array of ``ROW`` to
FILE, one element for each row of a raw stream.
"""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import orjson

from benchmarks.gateway_load import Load, expected, of_json, stamps, steps_of, wall_ms

ROW = np.dtype(
    [
        ("arrival_ns", "<i8"),  # wall clock
        ("time_ms", "<i8"),
        ("stamp", "<i8"),
        ("device", "<i4"),
        ("checked", "<i4"),  # values of this row that were compared
        ("wrong", "<i4"),
    ]
)
CHECKED = 100  # messages a second that are compared in full


class Collector:
    """All rows so far. Called by one thread."""

    def __init__(self, load: Load, base: int) -> None:
        self._load, self._base = load, base
        self._numbers = {f"edge/bench/{name}/raw": i for i, name in enumerate(load.devices)}
        self._budget, self._filled = 0.0, time.monotonic()
        self.rows: list[tuple[int, int, int, int, int, int]] = []

    def take(self, topic: str, payload: bytes) -> None:
        arrival, device = time.time_ns(), self._numbers.get(topic)
        if device is None:
            return
        message = orjson.loads(payload)
        columns = message["v"]
        stamp = stamps(np.array(columns["stamp"], np.float64))
        times = np.array(message["t"], np.int64)
        counts = [(0, 0)] * len(times)
        if self._due():
            value = np.array(list(columns.values()), np.float64)
            walls = wall_ms(stamp, times)
            counts = [
                self.compare(device, value[:, i], walls[i], arrival / 1e6)
                for i in range(len(times))
            ]
        for i, (checked, wrong) in enumerate(counts):
            self.rows.append((arrival, int(times[i]), int(stamp[i]), device, checked, wrong))

    def _due(self) -> bool:
        now = time.monotonic()
        self._budget = min(CHECKED, self._budget + (now - self._filled) * CHECKED)
        self._filled = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def compare(self, device: int, value: np.ndarray, first: float, last: float) -> tuple[int, int]:
        """Return how many values were compared and how many were wrong.

        The first tag says when the scan began. A value is right that the server had in a step from
        then, ms, until the message came: a scan is several requests, some of which are repeated.
        """
        load = self._load
        link, unit = load.place(device)
        start, end = int(first // load.period_ms), int(last // load.period_ms)
        steps = steps_of(value, link, unit, start, self._base)
        right = value == expected(load.per_unit, link, unit, steps, self._base)
        right &= (steps >= start) & (steps <= end)
        return len(value) - 1, int((~right[1:]).sum())


def main(port: int, file: Path, load: Load, base: int) -> None:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    collector, subscribed = Collector(load, base), threading.Event()
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id="bench-subscriber", protocol=paho.MQTTv5
    )
    client.on_connect = lambda c, *_: c.subscribe("edge/bench/+/raw", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _c, _u, m: collector.take(m.topic, m.payload)
    client.connect("127.0.0.1", port)
    client.loop_start()
    subscribed.wait()
    print("ready", flush=True)
    sys.stdin.read()
    client.disconnect()
    client.loop_stop()
    file.write_bytes(np.array(collector.rows, ROW).tobytes())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *of_json(sys.argv[3]))
