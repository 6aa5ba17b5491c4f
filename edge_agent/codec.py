"""A block of samples as the bytes of one record of the log, and back, bit for bit.

All numbers are little-endian. A record is::

    byte 0      version of this format, 1
    byte 1      flags: 1 the body is compressed, 2 all qualities are GOOD and left out,
                4 the rows are equally spaced, 8 there are texts
    bytes 2-3   k, signals (uint16)
    bytes 4-7   n, rows (uint32)
    bytes 8-15  time of the first row, ns since the Unix epoch, UTC (int64)
    …           the body: values, time steps, qualities
    …           only with flag 8: the texts as JSON, then its length in bytes (uint32)
    last 4      CRC32 of all before (zlib's, IEEE 802.3): a single flipped bit is always found

The body holds k * n float64 row by row of the (k, n) array; then the n - 1 differences of the times
as int64, or the one they all are, or nothing for a single row; then k * n uint8 qualities unless
left out. A compressed body is one zstd frame (RFC 8878, level 1) of the same parts, where the bytes
of the values and of the time steps are shuffled first: all lowest bytes, then all second bytes, and
so on, because the upper bytes of neighbouring samples are alike. A body is compressed only when
that makes it smaller by an eighth; a plain one is read without a copy.

A value whose quality is BAD is written as the one NaN of NumPy, whatever bits it had.
"""

import struct
import threading
import zlib

import numpy as np
import orjson
import zstandard

from edge_agent.errors import Corrupt
from edge_agent.model import I64, NO_TEXTS, U8, Quality, SampleBlock, Schema, Texts

VERSION = 1
_COMPRESSED, _GOOD, _REGULAR, _TEXTS = 1, 2, 4, 8
_HEAD = struct.Struct("<BBHIq")
_TAIL = struct.Struct("<I")
_SMALL = 128  # bytes; below, a zstd frame gains nothing


class _Zstd(threading.local):
    """The contexts are not safe to share between threads, and dear to make."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1, write_checksum=False).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_ZSTD = _Zstd()


def encode(block: SampleBlock) -> bytes:
    """Return the block as one record."""
    k, n = block.value.shape
    value, flags = block.value, 0
    if block.quality.any():
        quality = block.quality.tobytes()
        bad = block.quality >= Quality.BAD
        if bad.any():
            value = np.where(bad, np.nan, value)
    else:
        quality, flags = b"", _GOOD
    steps = block.time[1:] - block.time[:-1]
    if n > 2 and (steps == steps[0]).all():
        steps, flags = steps[:1], flags | _REGULAR
    plain = b"".join(
        (
            value.astype("<f8", copy=False).tobytes(),
            steps.astype("<i8", copy=False).tobytes(),
            quality,
        )
    )
    if len(plain) >= _SMALL:
        size, end = 8 * k * n, len(plain) - len(quality)
        shuffled = _shuffle(plain[:size])
        if len(plain) > size:
            shuffled += _shuffle(plain[size:end]) + quality
        body = _ZSTD.compress(shuffled)
        if len(body) < len(plain) - len(plain) // 8:
            plain, flags = body, flags | _COMPRESSED
    if block.texts:
        said = {name: {str(i): text for i, text in t.items()} for name, t in block.texts.items()}
        written = orjson.dumps(said)
        plain, flags = plain + written + _TAIL.pack(len(written)), flags | _TEXTS
    record = _HEAD.pack(VERSION, flags, k, n, int(block.time[0]) if n else 0) + plain
    return record + _TAIL.pack(zlib.crc32(record))


def intact(payload: bytes) -> bool:
    """Return whether the record is the one that was written, as far as its checksum can tell."""
    end = len(payload) - _TAIL.size
    if end < _HEAD.size:
        return False
    return bool(zlib.crc32(memoryview(payload)[:end]) == _TAIL.unpack_from(payload, end)[0])


def decode(payload: bytes, schema: Schema) -> SampleBlock:
    """Return the block of a record, its arrays views of the payload where it is plain.

    errors  ``Corrupt`` when the record is not what ``encode`` wrote or has not the schema's columns
    """
    if not intact(payload):
        raise Corrupt(f"{schema.stream}: a record of {len(payload)} bytes fails its checksum")
    end = len(payload) - _TAIL.size
    view = memoryview(payload)
    version, flags, k, n, first = _HEAD.unpack_from(payload)
    if version != VERSION:
        raise Corrupt(f"{schema.stream}: a record has format {version}, known is {VERSION}")
    if k != len(schema.tags):
        raise Corrupt(f"{schema.stream}: a record has {k} signals, its schema {len(schema.tags)}")
    texts = NO_TEXTS
    if flags & _TEXTS:
        texts, end = _texts(view[_HEAD.size : end], end, schema)
    steps = 1 if flags & _REGULAR else max(0, n - 1)
    cells = k * n
    body = _body(view[_HEAD.size : end], flags, cells, steps, schema)
    value = np.frombuffer(body, "<f8", cells).reshape(k, n)
    if n == 1:
        time = np.array((first,), np.int64)
    else:
        time = _time(first, n, np.frombuffer(body, "<i8", steps, 8 * cells))
    if flags & _GOOD:
        quality: U8 = np.zeros((k, n), np.uint8)
    else:
        quality = np.frombuffer(body, np.uint8, cells, 8 * (cells + steps)).reshape(k, n)
    return SampleBlock(schema, time, value, quality, texts)


def _texts(stored: memoryview, end: int, schema: Schema) -> tuple[Texts, int]:
    """Return the texts at the end of a record, and where what is before them ends."""
    try:
        length = _TAIL.unpack_from(stored, len(stored) - _TAIL.size)[0]
        said = orjson.loads(stored[len(stored) - _TAIL.size - length : len(stored) - _TAIL.size])
        texts = {name: {int(i): text for i, text in t.items()} for name, t in said.items()}
    except (struct.error, ValueError, AttributeError) as e:
        raise Corrupt(f"{schema.stream}: the texts of a record cannot be read: {e}") from e
    return texts, end - _TAIL.size - length


def _body(
    stored: memoryview, flags: int, cells: int, steps: int, schema: Schema
) -> bytes | memoryview:
    """Return the plain body."""
    size = 8 * (cells + steps) + (0 if flags & _GOOD else cells)
    body: bytes | memoryview = stored
    if flags & _COMPRESSED:
        try:
            body = _ZSTD.decompress(stored, max_output_size=size)
        except zstandard.ZstdError as e:
            raise Corrupt(f"{schema.stream}: a record does not decompress: {e}") from e
    if len(body) != size:
        raise Corrupt(f"{schema.stream}: a record holds {len(body)} bytes, not {size}")
    if flags & _COMPRESSED:
        middle, rest = 8 * cells, 8 * (cells + steps)
        plain = _unshuffle(body[:middle])
        if len(body) > middle:
            plain = b"".join((plain, _unshuffle(body[middle:rest]), body[rest:]))
        return plain
    return body


def _time(first: int, n: int, steps: I64) -> I64:
    """Return the n times from the first and the steps between them."""
    time = np.empty(n, np.int64)
    time[:1] = first
    if len(steps) == n - 1:
        time[1:] = first + np.cumsum(steps)
    else:
        time[1:] = first + np.arange(1, n) * steps
    return time


def _shuffle(plain: bytes) -> bytes:
    """Return the bytes of 8-byte numbers grouped by their place in the number."""
    return np.frombuffer(plain, np.uint8).reshape(-1, 8).T.tobytes()


def _unshuffle(shuffled: bytes | memoryview) -> bytes:
    return np.frombuffer(shuffled, np.uint8).reshape(8, -1).T.tobytes()
