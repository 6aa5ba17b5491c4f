"""What the answers of an OPC UA server cost: bytes to rows, per value.

    python -m benchmarks.bench_opcua

prints one JSON object: microseconds per value for a publish response and a read response of 1000
values (and 100), decoded by the library into objects and from there into rows, and decoded straight
into columns; the read request encoded anew and once; and the machine. The bytes are those that a
server sends: every value with its status and both times. Minimum of repeats, both ways in one run.
"""

import json
import platform
import timeit
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary

from edge_agent.clock import VirtualClock
from edge_agent.drivers import opcua_messages as messages
from edge_agent.drivers.base import TagConfig, groups_of
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_client import Asked, encoded_read
from edge_agent.drivers.opcua_rows import SubscriptionRows
from edge_agent.drivers.opcua_values import Scaling, columns_of
from edge_agent.model import SampleBlock

REPEATS = 7


def microseconds(run: Callable[[], object]) -> float:
    timer = timeit.Timer(run)
    loops, _ = timer.autorange()
    return min(timer.repeat(REPEATS, loops)) / loops * 1e6


class Plant:
    """A group of gauges, and what a server says of them."""

    def __init__(self, n: int) -> None:
        tags = {f"t{i}": TagConfig(at=f"ns=2;s=Line.T{i}", mode="subscribe") for i in range(n)}
        device = OpcUaDevice(connect="opc.tcp://127.0.0.1:4840", tags=tags)
        ((group, names),) = groups_of("plc", device).items()
        self.clock = VirtualClock()
        self.n, self.scaling = n, Scaling.of(device, group.schema, names)
        self.rows = SubscriptionRows(
            device,
            group.schema,
            self.scaling,
            self.clock,
            tolerance=5_000_000_000,
            keep_alive=5.0,
            floor=0,
        )
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.clock.now_ns // 1000)
        self.values = [
            ua.DataValue(ua.Variant(20.0 + i, ua.VariantType.Float), ua.StatusCode(), now, now)
            for i in range(n)
        ]
        items = [ua.MonitoredItemNotification(i, value) for i, value in enumerate(self.values)]
        change = ua.DataChangeNotification(MonitoredItems=items)
        message = ua.NotificationMessage(1, now, [change])
        result = ua.PublishResult(1, NotificationMessage=message)
        self.published = struct_to_binary(ua.PublishResponse(Parameters=result))
        self.read = struct_to_binary(ua.ReadResponse(Results=self.values))
        self.nodes = [ua.NodeId(f"Line.T{i}", 2) for i in range(n)]
        self.encoded = Asked.of([(node, None) for node in self.nodes]).encoded

    def publish_by_objects(self) -> SampleBlock:
        answer = struct_from_binary(ua.PublishResponse, Buffer(self.published))
        (part,) = answer.Parameters.NotificationMessage.NotificationData
        items = part.MonitoredItems
        read = columns_of([item.Value for item in items], [item.ClientHandle for item in items])
        return self.rows.notify(read, None)

    def publish_by_columns(self) -> SampleBlock:
        (part,) = messages.published(self.published).parts
        return self.rows.notify(part, None)

    def read_by_objects(self) -> object:
        answer = struct_from_binary(ua.ReadResponse, Buffer(self.read))
        return self.scaling.apply(np.arange(self.n), columns_of(answer.Results))

    def read_by_columns(self) -> object:
        return self.scaling.apply(np.arange(self.n), messages.read(self.read))

    def request_anew(self) -> bytes:
        request = ua.ReadRequest()
        value = ua.AttributeIds.Value
        request.Parameters.NodesToRead = [ua.ReadValueId(node, value) for node in self.nodes]
        return struct_to_binary(request)

    def request_once(self) -> bytes:
        return struct_to_binary(encoded_read(self.encoded))


def main() -> None:
    result: dict[str, object] = {
        "bench": "opcua", "python": platform.python_version(), "numpy": np.__version__,
        "machine": platform.machine(),
    }  # fmt: skip
    for n in (100, 1000):
        plant = Plant(n)
        assert not plant.publish_by_columns().quality.any()
        for name in ("publish_by_objects", "publish_by_columns", "read_by_objects",
                     "read_by_columns", "request_anew", "request_once"):  # fmt: skip
            result[f"us_{name}_{n}"] = round(microseconds(getattr(plant, name)) / n, 3)
        for name in ("publish", "read"):
            slow, fast = (
                float(str(result[f"us_{name}_by_{way}_{n}"])) for way in ("objects", "columns")
            )
            result[f"ratio_{name}_{n}"] = round(slow / fast, 1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
