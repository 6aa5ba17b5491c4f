"""The serial cable without hardware."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from simulators.pseudo_terminal import Cable


@pytest.fixture
async def cable():
    with Cable() as cable:
        yield cable


@pytest.fixture
async def ends(cable):
    ends = [os.open(path, os.O_RDWR | os.O_NOCTTY) for path in (cable.ours, cable.theirs)]
    yield ends
    for end in ends:
        os.close(end)


async def heard(end: int, size: int) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.to_thread(os.read, end, size)


async def test_each_end_hears_what_the_other_says_byte_for_byte(ends):
    everything = bytes(range(256))
    for said, listening in (ends, ends[::-1]):
        os.write(said, everything)
        got = b""
        while len(got) < len(everything):
            got += await heard(listening, 256)
        assert got == everything


async def test_what_nobody_reads_is_lost_and_harms_nothing(ends):
    ours, theirs = ends
    os.set_blocking(ours, False)
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            os.write(ours, bytes(1024))
        await asyncio.sleep(0)
    os.write(theirs, b"still here")
    os.set_blocking(ours, True)
    assert await heard(ours, 64) == b"still here"


async def test_an_end_may_be_opened_again(cable):
    for word in (b"first", b"second"):
        ours, theirs = (
            os.open(path, os.O_RDWR | os.O_NOCTTY) for path in (cable.ours, cable.theirs)
        )
        os.write(ours, word)
        assert await heard(theirs, 64) == word
        os.close(ours)
        os.close(theirs)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_it_may_be_closed_twice_and_leaves_nothing_open():
    before = open_files()
    cable = Cable()
    assert open_files() == before + 4
    cable.close()
    cable.close()
    assert open_files() == before
