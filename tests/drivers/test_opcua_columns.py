"""Answers decoded into columns: equal to what the library decodes, value for value."""

import struct
import timeit
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drivers import opcua_messages as messages
from edge_agent.drivers.opcua_client import Asked, encoded_read
from edge_agent.drivers.opcua_columns import Columns, Irregular, decode
from edge_agent.drivers.opcua_values import columns_of, nanoseconds

V = ua.VariantType


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low = -(1 << bits - 1) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


TIMES = st.timedeltas(timedelta(days=-130_000), timedelta(days=90_000)).map(
    lambda since: datetime(1970, 1, 1, tzinfo=UTC) + since
)
SCALARS = st.one_of(
    st.builds(lambda v: ua.Variant(v, V.Boolean), st.booleans()),
    st.builds(lambda v: ua.Variant(v, V.SByte), integers(8, signed=True)),
    st.builds(lambda v: ua.Variant(v, V.Byte), integers(8, signed=False)),
    st.builds(lambda v: ua.Variant(v, V.Int16), integers(16, signed=True)),
    st.builds(lambda v: ua.Variant(v, V.UInt16), integers(16, signed=False)),
    st.builds(lambda v: ua.Variant(v, V.Int32), integers(32, signed=True)),
    st.builds(lambda v: ua.Variant(v, V.UInt32), integers(32, signed=False)),
    st.builds(lambda v: ua.Variant(v, V.Int64), integers(64, signed=True)),
    st.builds(lambda v: ua.Variant(v, V.UInt64), integers(64, signed=False)),
    st.builds(lambda v: ua.Variant(v, V.Float), st.floats(width=32)),
    st.builds(lambda v: ua.Variant(v, V.Double), st.floats()),
    st.builds(lambda v: ua.Variant(v, V.DateTime), TIMES),
    st.builds(lambda v: ua.Variant(v, V.String), st.text()),
    st.builds(lambda v: ua.Variant(ua.LocalizedText(v, "zh"), V.LocalizedText), st.text()),
    st.builds(lambda v: ua.Variant([v], V.Double), st.floats()),  # one element of an array
    st.just(ua.Variant()),
)
UNKNOWN = st.one_of(
    st.builds(lambda v: ua.Variant(v, V.Guid), st.uuids()),
    st.builds(lambda v: ua.Variant(v, V.Int32), st.lists(integers(32, signed=True), min_size=2)),
    st.builds(lambda v: ua.Variant(ua.StatusCode(v), V.StatusCode), st.just(0x80000000)),
)
STATUSES = st.sampled_from([0, 0x80350000, 0x40000000, 0x00000480, 0x80340000])


@st.composite
def data_values(draw: st.DrawFn, variants: st.SearchStrategy[ua.Variant]) -> ua.DataValue:
    return ua.DataValue(
        draw(st.none() | variants) or ua.Variant(),
        draw(st.none() | st.builds(ua.StatusCode, STATUSES)),
        draw(st.none() | TIMES),
        draw(st.none() | TIMES),
        None,  # the library has the picoseconds of the source in another place than OPC 10000-6
        draw(st.none() | st.integers(0, 9999)),
    )


@st.composite
def answers(draw: st.DrawFn, variants: st.SearchStrategy[ua.Variant]) -> list[ua.DataValue]:
    """Runs of one layout, as real servers send them, mixed with anything."""
    values: list[ua.DataValue] = []
    for _ in range(draw(st.integers(0, 4))):
        value = draw(data_values(variants))
        values += [value] * draw(st.sampled_from([1, 2, 7, 40]))
    return values


def same(got: Columns, expected: Columns) -> None:
    assert got.handle.tolist() == expected.handle.tolist()
    np.testing.assert_array_equal(got.number, expected.number)
    assert got.rounded.tolist() == expected.rounded.tolist()
    assert got.status.tolist() == expected.status.tolist()
    assert (got.source // 1000).tolist() == (expected.source // 1000).tolist()  # its microseconds
    assert got.texts == expected.texts


@given(answers(SCALARS))
def test_a_read_response_is_what_the_library_decodes(values: list[ua.DataValue]) -> None:
    answer = struct_to_binary(ua.ReadResponse(Results=values))
    library = struct_from_binary(ua.ReadResponse, Buffer(answer)).Results
    same(messages.read(answer), columns_of(library))


@given(answers(SCALARS), st.integers(1, 1 << 31), st.lists(st.integers(0, 99), max_size=3))
def test_a_publish_response_is_what_the_library_decodes(
    values: list[ua.DataValue], number: int, kept: list[int]
) -> None:
    items = [ua.MonitoredItemNotification(i * 3, value) for i, value in enumerate(values)]
    sent = datetime(2026, 11, 25, 12, tzinfo=UTC)
    parts = [ua.DataChangeNotification(MonitoredItems=items)] * 2
    message = ua.NotificationMessage(number, sent, parts)  # type: ignore[arg-type]
    result = ua.PublishResult(7, kept, NotificationMessage=message)  # type: ignore[arg-type]
    answer = struct_to_binary(ua.PublishResponse(Parameters=result))
    found = messages.published(answer)
    assert (found.subscription, found.number) == (7, number)
    assert found.published == nanoseconds(sent)
    library = struct_from_binary(ua.PublishResponse, Buffer(answer)).Parameters
    for got, part in zip(found.parts, library.NotificationMessage.NotificationData, strict=True):
        handles = [item.ClientHandle for item in part.MonitoredItems]
        same(got, columns_of([item.Value for item in part.MonitoredItems], handles))


@given(st.lists(st.tuples(answers(SCALARS), st.none() | st.binary(max_size=9)), max_size=3))
def test_a_history_response_is_what_the_library_decodes(
    nodes: list[tuple[list[ua.DataValue], bytes | None]],
) -> None:
    results = [
        ua.HistoryReadResult(
            ContinuationPoint=onward,
            HistoryData=ua.HistoryData(DataValues=values),  # type: ignore[arg-type]
        )
        for values, onward in nodes
    ]
    answer = struct_to_binary(ua.HistoryReadResponse(Results=results))
    for got, (values, onward) in zip(messages.recorded(answer), nodes, strict=True):
        assert (got.status, got.onward) == (0, onward)
        library = struct_to_binary(ua.HistoryData(DataValues=values))
        same(got.values, columns_of(struct_from_binary(ua.HistoryData, Buffer(library)).DataValues))


@given(answers(st.one_of(SCALARS, UNKNOWN)))
def test_what_is_neither_number_nor_text_is_left_to_the_library_never_misread(
    values: list[ua.DataValue],
) -> None:
    answer = struct_to_binary(ua.ReadResponse(Results=values))
    try:
        found = messages.read(answer)
    except Irregular:
        return
    same(found, columns_of(struct_from_binary(ua.ReadResponse, Buffer(answer)).Results))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 60), st.booleans())
def test_any_bytes_are_either_values_or_irregular(data: bytes, count: int, handles: bool) -> None:
    try:
        columns, offset = decode(data, 0, count, handles=handles)
    except Irregular:
        return
    assert len(columns) == count
    assert offset <= len(data)


@pytest.mark.parametrize("cut", [3, 20, 31, 33, 60])
def test_a_message_that_is_cut_off_is_irregular(cut: int) -> None:
    values = [ua.DataValue(ua.Variant(float(i))) for i in range(9)]
    answer = struct_to_binary(ua.ReadResponse(Results=values))
    assert len(messages.read(answer)) == 9
    with pytest.raises(Irregular):
        messages.read(answer[:cut])


def test_a_fault_and_a_status_change_are_the_librarys() -> None:
    fault = ua.ReadResponse()
    fault.ResponseHeader.ServiceResult = ua.StatusCode(ua.UInt32(0x80100000))
    with pytest.raises(Irregular):
        messages.read(struct_to_binary(fault))
    change = ua.StatusChangeNotification(ua.StatusCode(ua.UInt32(0x800A0000)))
    message = ua.NotificationMessage(1, datetime.now(UTC), [change])  # type: ignore[list-item]
    result = ua.PublishResult(7, NotificationMessage=message)
    with pytest.raises(Irregular):
        messages.published(struct_to_binary(ua.PublishResponse(Parameters=result)))


def test_times_keep_their_hundred_nanoseconds_and_the_null_time_is_none() -> None:
    value = ua.DataValue(ua.Variant(1.0), SourceTimestamp=datetime(1601, 1, 1, tzinfo=UTC))
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)
    value = ua.DataValue(ua.Variant(1.0), None, value.SourceTimestamp, moment)
    found = messages.read(struct_to_binary(ua.ReadResponse(Results=[value])))
    assert found.source.tolist() == [nanoseconds(moment)]


@pytest.mark.parametrize("count", [1, 20])
def test_picoseconds_stand_where_the_standard_has_them(count: int) -> None:
    """OPC 10000-6, 5.2.2.17: behind the time they belong to; the library's order is another."""
    ticks = 116_444_736_000_000_000 + 10_000_000
    one = struct.pack("<BBdqHqH", 0x3D, 11, 2.5, ticks, 7, ticks + 1, 9)
    found, offset = decode(one * count, 0, count, handles=False)
    assert offset == len(one) * count
    assert found.number.tolist() == [2.5] * count
    assert found.source.tolist() == [1_000_000_000] * count


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 2**32 - 1), st.text(max_size=20)),
            st.none() | st.integers(0, 9),
        )
    )
)
def test_a_request_that_is_encoded_once_is_the_one_that_the_library_makes(
    nodes: list[tuple[int | str, int | None]],
) -> None:
    ids = [(ua.NodeId(identifier, 2), element) for identifier, element in nodes]  # type: ignore[arg-type]
    request = ua.ReadRequest()
    request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
    request.Parameters.NodesToRead = [
        ua.ReadValueId(node, ua.IntegerId(13), None if i is None else ua.String(i))
        for node, i in ids
    ]
    encoded = encoded_read(Asked.of(ids).encoded)
    encoded.RequestHeader = request.RequestHeader  # type: ignore[attr-defined]
    assert struct_to_binary(encoded) == struct_to_binary(request)


def test_a_guid_is_no_number() -> None:
    value = ua.DataValue(ua.Variant(uuid.UUID(int=1), V.Guid))
    assert np.isnan(columns_of([value]).number[0])


def test_columns_are_many_times_faster_than_objects() -> None:
    value = ua.DataValue(ua.Variant(20.0, V.Float), SourceTimestamp=datetime.now(UTC))
    answer = struct_to_binary(ua.ReadResponse(Results=[value] * 500))

    def by_objects() -> Columns:
        return columns_of(struct_from_binary(ua.ReadResponse, Buffer(answer)).Results)

    slow = min(timeit.repeat(by_objects, number=1, repeat=5))
    fast = min(timeit.repeat(lambda: messages.read(answer), number=10, repeat=5)) / 10
    assert slow > 5 * fast
