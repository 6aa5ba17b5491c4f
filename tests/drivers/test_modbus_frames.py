"""Frames on the wire: whatever else is there, the answer is found and nothing else is taken."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_frames import Mbap, Refused, Rtu, Shape, Words, checksum, split
from edge_agent.drivers.modbus_plan import Request
from edge_agent.model import Quality
from tests.drivers.modbus_meter import checksum as by_the_book

TWO = Request(Table.HOLDING_REGISTERS, 0x10, 2, 0, ())


def rtu(unit: int, *body: int) -> bytes:
    frame = bytes([unit, *body])
    return frame + by_the_book(frame)


def mbap(transaction: int, unit: int, *body: int) -> bytes:
    return struct.pack(">HHHB", transaction, 0, 1 + len(body), unit) + bytes(body)


ANSWER = rtu(5, 3, 4, 0x12, 0x34, 0x56, 0x78)
OTHERS = {
    "another unit's answer": rtu(6, 3, 4, 1, 2, 3, 4),
    "another function's": rtu(5, 4, 4, 1, 2, 3, 4),
    "one of another length": rtu(5, 3, 2, 1, 2),
    "another unit's exception": rtu(6, 0x83, 2),
    "a broadcast": rtu(0, 6, 0, 1, 0, 2),
    "a broadcast to many": rtu(0, 16, 0, 1, 0, 1, 2, 9, 9),
    "another master's request": rtu(9, 3, 0, 0, 0, 10),
}


def waiting(request: Request = TWO, unit: int = 5) -> Rtu:
    framing = Rtu()
    framing.expect(unit, request)
    framing.sent(rtu(unit, *request.pdu))
    return framing


def words(found: tuple[int, Words | Refused] | None) -> list[int] | Refused | None:
    if found is None or isinstance(found[1], Refused):
        return found and found[1]  # type: ignore[return-value]  # a Refused
    return [int(word) for word in found[1]]


# ---- RTU --------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_the_specification(frame: bytes) -> None:
    assert checksum(frame) == by_the_book(frame)


def test_the_words_of_an_answer_are_a_view_of_its_bytes() -> None:
    found = waiting().take(ANSWER)

    assert found is not None
    assert isinstance(found[1], np.ndarray)
    assert found[1].base is not None
    assert found[1].dtype == np.dtype(">u2")
    assert found[1].tolist() == [0x1234, 0x5678]


@given(cuts=st.lists(st.integers(1, len(ANSWER) - 1), max_size=8))
def test_an_answer_in_any_number_of_chunks_is_one_answer(cuts: list[int]) -> None:
    framing, borders = waiting(), [0, *sorted(set(cuts)), len(ANSWER)]
    found = [framing.take(ANSWER[a:b]) for a, b in pairwise(borders)]

    assert [f for f in found[:-1] if f is not None] == []
    assert words(found[-1]) == [0x1234, 0x5678]
    assert not framing.is_noisy


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("chunks", [1, 2, 1000])
def test_a_frame_that_is_not_the_answer_is_passed_over_and_waiting_goes_on(
    other: bytes, chunks: int
) -> None:
    """L1, peers 7; L3, peers 22: what is on the line beside the answer harms nobody."""
    framing, line = waiting(), other + ANSWER + other
    size = -(-len(line) // chunks)
    found = [framing.take(line[i : i + size]) for i in range(0, len(line), size)]

    assert [words(f) for f in found if f is not None] == [[0x1234, 0x5678]]
    assert len(framing.strays) == 2
    assert not framing.is_noisy


@given(noise=st.binary(min_size=1, max_size=40), after=st.binary(max_size=40))
def test_noise_before_and_after_an_answer_does_not_hide_it(noise: bytes, after: bytes) -> None:
    framing = waiting()

    assert words(framing.take(noise + ANSWER + after)) == [0x1234, 0x5678]
    assert framing.is_noisy or len(split(noise)[0]) > 0


@given(
    st.integers(0, len(ANSWER) * 8 - 1),
    st.lists(st.sampled_from([*OTHERS.values(), b"\xff\0"]), max_size=3),
)
def test_a_flipped_bit_is_never_a_value(bit: int, others: list[bytes]) -> None:
    spoilt = bytearray(ANSWER)
    spoilt[bit // 8] ^= 1 << bit % 8
    framing = waiting()

    assert framing.take(b"".join([*others, bytes(spoilt), *others])) is None
    framing.rest()
    assert framing.is_noisy


def test_a_spoilt_frame_of_the_unit_shows_that_the_unit_is_there() -> None:
    framing = waiting()
    framing.take(ANSWER[:-1] + b"\0")
    framing.rest()

    assert framing.is_heard


def test_the_echo_of_the_request_is_no_answer() -> None:
    """A two-wire converter may hear itself."""
    framing = waiting()
    echo = rtu(5, *TWO.pdu)

    assert framing.take(echo) is None
    assert words(framing.take(ANSWER)) == [0x1234, 0x5678]
    assert framing.strays == []
    assert not framing.is_noisy


def test_an_echo_that_reads_like_an_answer_is_no_answer() -> None:
    """20 coils at 0x0342: the address in the echo stands where an answer says 3 bytes."""
    request = Request(Table.COILS, 0x0342, 20, 0, ())
    framing = waiting(request)

    assert framing.take(rtu(5, *request.pdu)) is None
    assert framing.strays == []
    found = framing.take(rtu(5, 1, 3, 0b101, 0, 0b1000))
    assert found is not None
    assert np.flatnonzero(found[1]).tolist() == [0, 2, 19]


def test_an_exception_is_an_answer() -> None:
    assert words(waiting().take(rtu(5, 0x83, 6))) == Refused(6)


def test_what_comes_while_nobody_waits_is_told_as_frames() -> None:
    framing = waiting()
    framing.rest()

    assert framing.take(ANSWER) is None
    assert [stray.shape for stray in framing.strays] == [Shape(5, 3, 4)]


def test_endless_noise_is_not_kept() -> None:
    framing = waiting()
    for _ in range(50):
        framing.take(bytes([5, 16, 0, 0, 0, 0, 255]) * 40)

    assert len(framing._buffer) <= 2048


# ---- TCP --------------------------------------------------------------------------------------


def tcp(transaction: int, unit: int = 5) -> bytes:
    return mbap(transaction, unit, 3, 4, 0x12, 0x34, 0x56, 0x78)


@pytest.mark.parametrize("chunk", [1, 3, 8, 13, 100])
def test_over_tcp_foreign_transactions_are_passed_over(chunk: int) -> None:
    """L3, peers 22, 23: an answer to an older request is not one to this."""
    framing = Mbap()
    old = framing.expect(5, TWO)
    mark = framing.expect(5, TWO)
    line = tcp(old) + tcp(0) + tcp(mark, unit=6) + tcp(mark) + tcp(old)
    found = [framing.take(line[i : i + chunk]) for i in range(0, len(line), chunk)]

    assert [words(f) for f in found if f is not None] == [[0x1234, 0x5678]]
    assert [stray.mark for stray in framing.strays] == [old, 0, mark, old]


def test_over_tcp_an_answer_to_either_of_two_equal_requests_will_do() -> None:
    framing = Mbap()
    first = framing.expect(5, TWO)
    framing.expect(5, TWO, again=True)

    found = framing.take(tcp(first))
    assert found is not None
    assert found[0] == first
    assert words(found) == [0x1234, 0x5678]


@pytest.mark.parametrize("cut", range(1, 13))
def test_over_tcp_half_an_answer_is_not_filled_up_with_the_next(cut: int) -> None:
    framing = Mbap()
    first = framing.expect(5, TWO)
    assert framing.take(mbap(first, 5, 3, 4, 9, 9, 9, 9)[:cut]) is None
    second = framing.expect(5, TWO, again=True)

    assert words(framing.take(tcp(second))) == [0x1234, 0x5678]


@pytest.mark.parametrize(
    "body",
    [
        (3, 2, 0x12, 0x34),
        (3, 4, 0x12, 0x34),
        (3, 250, 0x12, 0x34, 0x56, 0x78),
        (4, 4, 0x12, 0x34, 0x56, 0x78),
        (3,),
        (0x84, 2),
        (0x83, 4, 0x12, 0x34, 0x56, 0x78),
    ],
)
def test_over_tcp_an_answer_of_another_length_or_function_holds_no_values(
    body: tuple[int, ...],
) -> None:
    framing = Mbap()
    mark = framing.expect(5, TWO)
    found = words(framing.take(mbap(mark, 5, *body)))

    assert found == Refused(0)
    assert isinstance(found, Refused)
    assert found.quality == Quality.BAD_SHORT


def test_over_tcp_exceptions_are_told_also_where_the_length_leaves_out_the_code() -> None:
    framing = Mbap()
    mark = framing.expect(5, TWO)
    assert words(framing.take(mbap(mark, 5, 0x83, 2))) == Refused(2)

    mark = framing.expect(5, TWO)
    assert words(framing.take(struct.pack(">HHHBBB", mark, 0, 2, 5, 0x83, 6))) == Refused(6)


def test_over_tcp_noise_before_the_answer_does_not_hide_it() -> None:
    framing = Mbap()
    mark = framing.expect(5, TWO)

    assert words(framing.take(b"\xff" * 11 + tcp(mark))) == [0x1234, 0x5678]
    assert framing.is_noisy


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_over_tcp_no_bytes_at_all_stop_it(chunks: list[bytes]) -> None:
    framing = Mbap()
    framing.expect(5, TWO)
    for chunk in chunks:
        framing.take(chunk)
    mark = framing.expect(5, TWO)

    assert words(framing.take(tcp(mark))) == [0x1234, 0x5678]


def test_a_transaction_is_never_0_and_never_the_one_before() -> None:
    framing = Mbap()
    marks = [framing.expect(5, TWO) for _ in range(70_000)]

    assert min(marks) == 1
    assert max(marks) == 0xFFFF
    assert all(a != b for a, b in pairwise(marks))


# ---- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [Rtu(), Mbap()])
def test_bits_are_read_in_the_order_of_the_specification(framing: Rtu | Mbap) -> None:
    """L8, peers 55: a library turned the order of bits round and back; ours is the standard's.

    source  MODBUS Application Protocol V1.1b3, 6.1: coils 20 to 38 are CD 6B 05
    """
    request = Request(Table.COILS, 0x13, 19, 0, ())
    mark = framing.expect(5, request)
    body = (1, 3, 0xCD, 0x6B, 0x05)
    found = framing.take(rtu(5, *body) if isinstance(framing, Rtu) else mbap(mark, 5, *body))

    assert found is not None
    assert isinstance(found[1], np.ndarray)
    text = "".join(map(str, found[1].tolist()))
    assert text == "1011001111010110101"  # coils 20 to 27, 28 to 35, 36 to 38
