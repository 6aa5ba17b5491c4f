"""The rows of a subscription and the words of a configuration, without a server."""

import numpy as np
import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.clock import SECOND, VirtualClock
from edge_agent.drivers.base import TagConfig, groups_of
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_address import NodeAddress
from edge_agent.drivers.opcua_limits import Limits, ServerTime
from edge_agent.drivers.opcua_rows import SubscriptionRows
from edge_agent.drivers.opcua_security import Security
from edge_agent.drivers.opcua_values import Scaling, columns_of, quality_of
from edge_agent.model import Quality, SampleBlock
from edge_agent.units import Secret
from tests.drivers.opcua_plant import utc

Q = Quality
KEEP_ALIVE = 5.0


def rows_of(clock: VirtualClock, **kinds: str) -> SubscriptionRows:
    tags = {
        name: TagConfig(at=f"ns=2;s={name}", kind=kind, mode="subscribe")  # type: ignore[arg-type]
        for name, kind in kinds.items()
    }
    device = OpcUaDevice(connect="opc.tcp://127.0.0.1:4840", tags=tags)
    ((group, names),) = groups_of("plc", device).items()
    return SubscriptionRows(
        device,
        group.schema,
        Scaling.of(device, group.schema, names),
        clock,
        tolerance=5 * SECOND,
        keep_alive=KEEP_ALIVE,
        floor=clock.now_ns,
    )


def said(value: float, at: int, status: int = 0) -> ua.DataValue:
    return ua.DataValue(ua.Variant(value), ua.StatusCode(status), utc(at))


def notify(
    rows: SubscriptionRows, items: list[tuple[int, ua.DataValue]], published: int | None
) -> SampleBlock:
    read = columns_of([value for _, value in items], [column for column, _ in items])
    return rows.notify(read, published)


def test_a_source_time_older_than_the_row_before_it_is_clamped() -> None:
    clock = VirtualClock()
    rows, start = rows_of(clock, state="state", level="gauge"), clock.now_ns
    notify(rows, [(0, said(1, start)), (1, said(1, start + SECOND))], start)
    late = [(0, said(2, start + SECOND // 4)), (0, said(3, start + SECOND // 2))]
    block = notify(rows, late, start + SECOND)
    assert block.time.tolist() == [start + SECOND] * 2
    assert block["state"].tolist() == [2, 3]  # late, but both are there and in order
    assert not block.quality.any()


def test_changes_of_a_state_stand_in_the_order_of_their_times_not_of_their_arrival() -> None:
    clock = VirtualClock()
    rows, start = rows_of(clock, a="state", b="counter"), clock.now_ns
    notify(rows, [(0, said(0, start)), (1, said(0, start))], start)
    block = notify(
        rows,
        [(0, said(1, start + 3000)), (0, said(2, start + 9000)), (1, said(5, start + 6000))],
        start,
    )
    assert block.time.tolist() == [start + 3000, start + 6000, start + 9000]
    assert block["a"].tolist() == [1, 1, 2]
    assert block["b"].tolist() == [0, 5, 5]


def test_a_keep_alive_is_stamped_with_the_publish_time_if_the_clocks_agree() -> None:
    clock = VirtualClock()
    rows, start = rows_of(clock, x="gauge"), clock.now_ns
    notify(rows, [(0, said(1, start))], start)
    clock.now_ns += 5 * SECOND
    near, far = clock.now_ns - SECOND, clock.now_ns - 3600 * SECOND
    first, second = rows.keep_alive(near), rows.keep_alive(far)
    assert first is not None
    assert second is not None
    assert first.time.tolist() == [near]
    assert second.time.tolist() == [clock.now_ns]
    assert second.quality.tolist() == [[Q.GOOD]]


def test_there_is_no_row_before_the_first_values_unless_they_are_overdue() -> None:
    clock = VirtualClock()
    rows = rows_of(clock, x="gauge")
    assert rows.keep_alive(clock.now_ns) is None
    clock.now_ns += 10 * SECOND
    block = rows.keep_alive(clock.now_ns)
    assert block is not None
    assert block.quality.tolist() == [[Q.BAD_NOT_AVAILABLE]]


def test_a_server_clock_that_stands_still_is_no_answer_until_a_new_notification() -> None:
    clock = VirtualClock()
    rows, still = rows_of(clock, x="gauge", y="gauge"), clock.now_ns
    notify(rows, [(0, said(1, still)), (1, said(2, still))], still)
    clock.now_ns += 5 * SECOND
    block = rows.keep_alive(still)
    assert block is not None
    assert block.quality[:, 0].tolist() == [Q.BAD_NO_ANSWER, Q.BAD_NO_ANSWER]
    assert block.lawful()
    block = notify(rows, [(1, said(3, clock.now_ns))], still)
    assert block.quality[:, 0].tolist() == [Q.BAD_NO_ANSWER, Q.GOOD]
    assert not rows.revived
    rows.keep_alive(clock.now_ns)
    assert rows.revived  # the driver asks for the values again


def test_a_silence_leaves_a_refused_column_what_it_is() -> None:
    clock = VirtualClock()
    rows = rows_of(clock, x="gauge", gone="gauge")
    rows.refuse(1, Q.BAD_ADDRESS)
    notify(rows, [(0, said(1, clock.now_ns))], clock.now_ns)
    assert rows.silence().quality[:, 0].tolist() == [Q.BAD_NO_ANSWER, Q.BAD_ADDRESS]


def test_a_clock_mark_belongs_to_one_row_and_one_column() -> None:
    clock = VirtualClock()
    rows, start = rows_of(clock, x="state", y="gauge"), clock.now_ns
    notify(rows, [(0, said(1, start)), (1, said(1, start))], start)
    marked = notify(
        rows, [(0, said(2, start - 60 * SECOND)), (0, said(3, start - 59 * SECOND))], start
    )
    after = rows.keep_alive(start + 1)
    assert marked.time.tolist() == [start, start]
    assert marked["x"].tolist() == [2, 3]
    assert marked.quality.tolist() == [[Q.UNCERTAIN_CLOCK] * 2, [Q.GOOD] * 2]
    assert after is not None
    assert after.quality.tolist() == [[Q.GOOD], [Q.GOOD]]


def test_a_value_without_a_source_time_has_the_time_of_the_server_or_of_receipt() -> None:
    clock = VirtualClock()
    rows, start = rows_of(clock, x="gauge"), clock.now_ns
    clock.now_ns += SECOND
    server = ua.DataValue(ua.Variant(1.0), ServerTimestamp=utc(start + 5000))
    assert notify(rows, [(0, server)], start).time.tolist() == [start + 5000]
    block = notify(rows, [(0, ua.DataValue(ua.Variant(1.0)))], start)
    assert block.time.tolist() == [clock.now_ns]
    assert block.quality.tolist() == [[Q.GOOD]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BadNodeIdInvalid", Q.BAD_ADDRESS),
        ("BadNodeIdUnknown", Q.BAD_ADDRESS),
        ("BadAttributeIdInvalid", Q.BAD_ADDRESS),
        ("BadCommunicationError", Q.BAD_DEVICE),
        ("BadUserAccessDenied", Q.BAD_DEVICE),
        ("BadNoCommunication", Q.BAD_DEVICE),
        ("BadNotReadable", Q.BAD_DEVICE),
        ("BadConfigurationError", Q.BAD_DEVICE),
        ("BadDeviceFailure", Q.BAD_DEVICE),
        ("BadSensorFailure", Q.BAD_DEVICE),
        ("BadOutOfService", Q.BAD_DEVICE),
        ("BadWaitingForInitialData", Q.BAD_NOT_AVAILABLE),
        ("BadNotConnected", Q.BAD_NOT_AVAILABLE),
        ("BadNoData", Q.BAD_NOT_AVAILABLE),
        ("BadDataUnavailable", Q.BAD_NOT_AVAILABLE),
        ("BadInternalError", Q.BAD),
        ("UncertainInitialValue", Q.UNCERTAIN),
        ("GoodClamped", Q.GOOD),
    ],
)
def test_a_status_code_has_its_quality(name: str, expected: Quality) -> None:
    code = int(getattr(ua.StatusCodes, name))
    assert quality_of(code) is expected
    assert quality_of(code | 0x400 | 0x300) is expected  # the limit bits say nothing of it


def test_an_overflow_of_the_servers_queue_is_uncertain() -> None:
    assert quality_of(0x00000480) is Q.UNCERTAIN
    assert quality_of(0x00000080) is Q.GOOD  # no information of a data value: the bit means nothing
    assert quality_of(0xC0000000) is Q.BAD  # reserved severity


@pytest.mark.parametrize(
    ("text", "uri", "index", "identifier"),
    [
        ("nsu=urn:demo:plant;s=Packer1.State", "urn:demo:plant", 0, "Packer1.State"),
        ("nsu=urn:a%3Bb;i=7", "urn:a;b", 0, 7),
        ("ns=2;s=a;b=c", None, 2, "a;b=c"),
        ("i=2258", None, 0, 2258),
        ('ns=3;s="DB1"."values"[0]', None, 3, '"DB1"."values"[0]'),
        ("ns=1;b=AQI=", None, 1, b"\x01\x02"),
    ],
)
def test_a_node_address_is_read(text: str, uri: str | None, index: int, identifier: object) -> None:
    assert NodeAddress.parse(text) == NodeAddress(uri, index, identifier)  # type: ignore[arg-type]


def test_an_element_of_an_array_is_named_behind_the_node() -> None:
    assert NodeAddress.parse("ns=2;s=Curve;index=12") == NodeAddress(None, 2, "Curve", 12)
    assert NodeAddress.parse("ns=2;s=Curve;index=x").identifier == "Curve;index=x"


def test_every_fault_of_a_device_is_named_where_it_stands() -> None:
    device = OpcUaDevice(
        connect="opc.tcp://user:secret@plc",
        security=Security(
            policy="Basic256Sha256", password=Secret("secret"), certificate="agent.der"
        ),
        tags={
            "a": TagConfig(at="40001"),
            "b": TagConfig(at="ns=2;i=x"),
            "c": TagConfig(at="ns=2;g=1"),
            "d": TagConfig(at="ns=2;b=%"),
            "e": TagConfig(at="ns=2;i=4294967296"),
            "good": TagConfig(at="i=85"),
        },
    )
    found = device.faults()
    assert [path for path, _ in found] == [
        ("connect",),
        *(("tags", name, "at") for name in "abcde"),
        ("security", "certificate"),
        ("security", "password"),
    ]
    assert not [message for _, message in found if "secret" in message]


def test_devices_of_one_endpoint_share_a_link_unless_their_security_differs() -> None:
    plain = OpcUaDevice(connect="opc.tcp://plc")
    ported = OpcUaDevice(connect="opc.tcp://plc:4840")
    user = OpcUaDevice(connect="opc.tcp://plc", security=Security(user="edge"))
    assert plain.link == ported.link
    assert plain.link != user.link
    assert np.unique([hash(d.link) for d in (plain, ported, user)]).size == 2


def test_a_server_without_a_clock_is_never_frozen_and_ticks_count_from_the_last_change() -> None:
    time = ServerTime()
    assert [time.still(None, now) for now in (0.0, 9.0)] == [0.0, 0.0]
    said = [(5.0, 10.0), (5.0, 11.0), (6.0, 12.0), (6.0, 12.5)]
    assert [time.still(s, now) for s, now in said] == [0.0, 1.0, 0.0, 0.5]
    time.forget()
    assert time.still(6.0, 99.0) == 0.0


def test_the_smallest_of_all_limits_counts() -> None:
    limits = Limits(configured=200)
    assert limits["read"] == 200
    limits.announce({"read": 1000.0, "items": 50, "history": 0, "points": "many"})
    assert [limits[service] for service in ("read", "items", "history")] == [200, 50, 200]
    assert limits.refused("items", 50)
    assert limits["items"] == 25
    assert not limits.refused("items", 1)
    limits.load({"read": 7, "items": "x", "history": 0})
    assert (limits["read"], limits["items"]) == (7, 50)
    limits.load("nonsense")


class SlowRows:
    """The rows of a subscription, notification by notification: the oracle."""

    def __init__(self, kinds: list[str], tolerance: int, floor: int) -> None:
        self.exact = [kind != "gauge" for kind in kinds]
        self.held = [(float("nan"), int(Q.BAD_NOT_AVAILABLE)) for _ in kinds]
        self.waiting = [True] * len(kinds)
        self.tolerance, self.last = tolerance, floor

    def notify(
        self, items: list[tuple[int, float, int, int | None]], now: int
    ) -> list[tuple[int, list[tuple[float, int]]]]:
        """Take (column, value, quality, source time); return (time, (value, quality) by column)."""
        changes = []
        for column, value, quality, source in items:
            first, self.waiting[column] = self.waiting[column], False
            if source is None or (first and source < now - self.tolerance):
                moment, marked = (now, now), False
            elif abs(source - now) <= self.tolerance:
                moment, marked = (source, source), False
            else:
                moment, marked = (now, source), True
            changes.append((moment, column, value, quality, marked))
        changes.sort(key=lambda change: change[0])
        moments = {m for m, column, *_ in changes if self.exact[column]} | {changes[-1][0]}
        rows = []
        begin: tuple[int, int] = (-(1 << 63), -(1 << 63))
        for moment in sorted(moments):
            mine = [c for c in changes if begin < c[0] <= moment]
            for _, column, value, quality, _ in mine:
                self.held[column] = (value, quality)
            row = list(self.held)
            for _, column, _, _, marked in mine:
                if marked:
                    value, quality = row[column]
                    row[column] = (value, max(quality, int(Q.UNCERTAIN_CLOCK)))
            self.last = max(self.last, moment[0])
            rows.append((self.last, row))
            begin = moment
        return rows


NOTIFICATIONS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.floats(-1e6, 1e6),
        st.sampled_from([0, 0x40000000, 0x80050000]),
        st.none() | st.integers(-8 * 10**6, 8 * 10**6),  # us from now; the tolerance is five
        st.integers(0, 3),  # some share a time
    ),
    min_size=1,
    max_size=30,
)


@given(st.lists(NOTIFICATIONS, min_size=1, max_size=5))
def test_rows_are_those_of_a_slow_and_obvious_reading(
    responses: list[list[tuple[int, float, int, int | None, int]]],
) -> None:
    kinds = ["gauge", "state", "counter", "gauge"]
    clock = VirtualClock()
    rows = rows_of(clock, **{f"t{i}": kind for i, kind in enumerate(kinds)})
    slow = SlowRows(kinds, 5 * SECOND, clock.now_ns)
    for response in responses:
        clock.now_ns += SECOND
        times = [
            None if away is None else clock.now_ns + (away >> 2 * alike << 2 * alike) * 1000
            for *_, away, alike in response
        ]
        values = [
            ua.DataValue(ua.Variant(value), ua.StatusCode(status), None if t is None else utc(t))
            for (_, value, status, *_), t in zip(response, times, strict=True)
        ]
        columns = [column for column, *_ in response]
        block = rows.notify(columns_of(values, columns), clock.now_ns)
        expected = slow.notify(
            [
                (column, float("nan") if status >> 30 >= 2 else value, quality_of(status), t)
                for (column, value, status, *_), t in zip(response, times, strict=True)
            ],
            clock.now_ns,
        )
        assert block.time.tolist() == [time for time, _ in expected]
        for column in range(len(kinds)):
            value = [row[column][0] for _, row in expected]
            np.testing.assert_array_equal(block.value[column], value)
            assert block.quality[column].tolist() == [row[column][1] for _, row in expected]
        assert block.lawful()
