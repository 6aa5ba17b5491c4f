"""The record format: exact round trip, and every damage is noticed."""

import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_agent import codec
from edge_agent.errors import Corrupt
from edge_agent.model import Family, Quality, SampleBlock, Schema, Tag
from edge_agent.units import Unit

QUALITIES = [int(quality) for quality in Quality]


def schema_of(k: int) -> Schema:
    tags = tuple(Tag(f"tag_{i}", Unit.parse("kW")) for i in range(k))
    return Schema("em-kiln/raw", Family.SAMPLE, tags, 1.0)


def power(k: int, n: int, seed: int = 1) -> SampleBlock:
    """What a meter would send: float32 that change a little from row to row."""
    random = np.random.default_rng(seed)
    base = random.uniform(1, 500, (k, 1))
    value = (base * (1 + random.normal(0, 0.01, (k, n)))).astype(np.float32).astype(float)
    time = 1_763_778_000_000_000_000 + np.arange(n) * 1_000_000_000
    return SampleBlock(schema_of(k), time, value, np.zeros((k, n), np.uint8))


@st.composite
def lawful_blocks(draw: st.DrawFn) -> SampleBlock:
    k, n = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    quality = draw(arrays(np.uint8, (k, n), elements=st.sampled_from(QUALITIES)))
    value = draw(arrays(np.float64, (k, n), elements=st.floats(allow_nan=False)))
    value[quality >= Quality.BAD] = np.nan
    steps = draw(st.lists(st.integers(0, 2**40), min_size=n, max_size=n))
    time = draw(st.integers(-(2**61), 2**61)) + np.cumsum(np.array(steps, np.int64))
    return SampleBlock(schema_of(k), time, value, quality)


def same_bits(a: SampleBlock, b: SampleBlock) -> bool:
    pairs = ((a.time, b.time), (a.value, b.value), (a.quality, b.quality))
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


@given(lawful_blocks())
def test_every_lawful_block_comes_back_bit_for_bit(block: SampleBlock) -> None:
    assert same_bits(codec.decode(codec.encode(block), block.schema), block)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (32, 1), (32, 2), (32, 60), (3200, 1), (4, 1024)])
def test_blocks_of_every_size_come_back(k: int, n: int) -> None:
    block = power(k, n)
    assert same_bits(codec.decode(codec.encode(block), block.schema), block)


def test_the_extreme_numbers_come_back() -> None:
    numbers = [0.0, -0.0, np.inf, -np.inf, 5e-324, np.finfo(float).max, 2.0**53, 1 / 3]
    value = np.array([numbers * 4])
    quality = np.zeros(value.shape, np.uint8)
    block = SampleBlock(schema_of(1), np.arange(32), value, quality)
    assert same_bits(codec.decode(codec.encode(block), block.schema), block)


def test_whatever_stands_behind_a_bad_mark_is_read_as_the_one_nan() -> None:
    odd = struct.unpack("<d", bytes.fromhex("010000000000f07f"))[0]  # a signalling NaN
    quality = np.array([[Quality.BAD_DEVICE, Quality.BAD, Quality.GOOD]], np.uint8)
    block = SampleBlock(schema_of(1), np.arange(3), np.array([[odd, 7.0, 8.0]]), quality)
    value = codec.decode(codec.encode(block), block.schema).value
    assert value.tobytes() == np.array([np.nan, np.nan, 8.0]).tobytes()


def test_a_block_without_rows_comes_back() -> None:
    block = power(3, 5).rows(0, 0)
    assert len(codec.decode(codec.encode(block), block.schema)) == 0


@pytest.mark.parametrize("n", [1, 60])
def test_what_is_read_cannot_be_written(n: int) -> None:
    block = codec.decode(codec.encode(power(4, n)), schema_of(4))
    for array in (block.time, block.value, block.quality):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_a_plain_record_is_read_without_a_copy() -> None:
    random = np.random.default_rng(2).bytes(8 * 4)  # does not compress
    value = np.frombuffer(random, np.float64).reshape(4, 1)
    payload = codec.encode(
        SampleBlock(schema_of(4), np.arange(1), value, np.zeros((4, 1), np.uint8))
    )
    read = codec.decode(payload, schema_of(4)).value
    assert np.shares_memory(read, np.frombuffer(payload, np.uint8))


@pytest.mark.parametrize("block", [power(2, 1), power(8, 12)], ids=["plain", "compressed"])
def test_every_flipped_bit_is_noticed(block: SampleBlock) -> None:
    payload = codec.encode(block)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not codec.intact(bytes(damaged))
        with pytest.raises(Corrupt):
            codec.decode(bytes(damaged), block.schema)


@pytest.mark.parametrize("block", [power(2, 1), power(8, 12)], ids=["plain", "compressed"])
def test_every_truncation_is_noticed(block: SampleBlock) -> None:
    payload = codec.encode(block)
    for length in range(len(payload)):
        with pytest.raises(Corrupt):
            codec.decode(payload[:length], block.schema)


def sealed(payload: bytes) -> bytes:
    """Give changed bytes a checksum that holds."""
    return payload + struct.pack("<I", zlib.crc32(payload))


def test_another_version_is_refused_by_name() -> None:
    body = codec.encode(power(2, 1))[:-4]
    with pytest.raises(Corrupt, match="format 9"):
        codec.decode(sealed(b"\x09" + body[1:]), schema_of(2))


def test_a_record_of_other_columns_is_refused() -> None:
    with pytest.raises(Corrupt, match="2 signals, its schema 3"):
        codec.decode(codec.encode(power(2, 1)), schema_of(3))


@given(st.binary(min_size=16, max_size=200), st.integers(0, 7))
@settings(max_examples=200)
def test_bytes_with_a_right_checksum_are_corrupt_or_a_block(rest: bytes, flags: int) -> None:
    head = struct.pack("<BBHIq", codec.VERSION, flags, 2, 3, 0)
    try:
        block = codec.decode(sealed(head + rest), schema_of(2))
    except Corrupt:
        return
    assert block.value.shape == (2, 3)


def test_sixty_rows_of_a_meter_take_less_than_half_their_size() -> None:
    block = power(32, 60)
    assert len(codec.encode(block)) < block.value.nbytes / 2


def test_threads_do_not_disturb_one_another() -> None:
    blocks = [power(32, 60, seed) for seed in range(4)]
    wrong: list[int] = []

    def work(block: SampleBlock) -> None:
        rounds = (codec.decode(codec.encode(block), block.schema) for _ in range(200))
        wrong.append(sum(not same_bits(read, block) for read in rounds))

    threads = [threading.Thread(target=work, args=(block,)) for block in blocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0, 0, 0]
