"""How a simulated server's link breaks, what its counters do then, and what it counts."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from edge_agent.clock import SECOND, VirtualClock
from simulators.faults import Script, Trouble
from simulators.fleet import play
from simulators.modbus_server import ModbusServer, Unit
from simulators.sources import Source
from simulators.tables import device_table
from simulators.truth import KEPT, Outcome, Tally

TABLE = {
    "tags": {
        "count": {"at": "hr:0", "type": "u32", "kind": "counter"},
        "gauge": {"at": "hr:2"},
    }
}
REQUEST = struct.pack(">HHHBBHH", 7, 0, 6, 1, 3, 0, 3)


class Bench:
    """A meter whose counter and gauge are the seconds since its start, and 1000."""

    def __init__(self, *troubles: Trouble) -> None:
        self.clock = VirtualClock()
        begin = self.clock.now_ns
        source = Source({
            "count": ("1", lambda t: 1000.0 + (t - begin) / SECOND),
            "gauge": ("1", lambda t: (t - begin) / SECOND),
        })  # fmt: skip
        self.unit = Unit(device_table("em", TABLE), source, self.clock, script=Script([*troubles]))
        self.server = ModbusServer([self.unit])
        self.port = 0

    async def until(self, seconds: float) -> None:
        """Let plant time pass, and the server act on it."""
        await self.clock.sleep_until(seconds)
        await asyncio.sleep(0.02)

    async def read(self) -> tuple[int, int] | None:
        """Return counter and gauge over a new connection, None for silence."""
        async with self.connected() as (reader, writer):
            return await ask(reader, writer)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, int] | None:
    writer.write(REQUEST)
    try:
        async with asyncio.timeout(0.2):
            reply = await reader.readexactly(15)
    except TimeoutError:
        return None
    count, gauge = struct.unpack(">IH", reply[9:])
    return count, gauge


@asynccontextmanager
async def playing(*troubles: Trouble) -> AsyncIterator[Bench]:
    bench = Bench(*troubles)
    bench.port = await bench.server.start()
    try:
        with bench.clock.participant():  # time passes when the test says so
            yield bench
    finally:
        await bench.server.close()


async def test_a_restart_cuts_all_connections_and_comes_back_on_the_same_port() -> None:
    async with playing(Trouble("em", "restart", 10.0, 13.0)) as bench:
        async with bench.connected() as (reader, _writer):
            await bench.until(10.0)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await bench.read()
        await bench.until(13.0)
        assert await bench.read() == (1013, 13)


async def test_counters_begin_anew_after_a_restart_if_the_script_says_so() -> None:
    async with playing(Trouble("em", "restart", 10.0, 13.0, counters="anew")) as bench:
        await bench.until(9.0)
        assert await bench.read() == (1009, 9)
        await bench.until(15.0)
        assert await bench.read() == (2, 15)


async def test_a_half_open_connection_is_never_answered_again_but_a_new_one_is() -> None:
    async with (
        playing(Trouble("em", "half-open", 10.0, 13.0)) as bench,
        bench.connected() as (reader, writer),
    ):
        assert await ask(reader, writer) == (1000, 0)
        await bench.until(10.0)
        assert await ask(reader, writer) is None
        assert await bench.read() == (1010, 10)
        await bench.until(14.0)
        assert await ask(reader, writer) is None
        assert bench.unit.conduct.tally.silent == 2


async def test_half_open_with_silent_new_connections_answers_those_when_it_is_over() -> None:
    async with playing(Trouble("em", "half-open", 10.0, 13.0, new="silent")) as bench:
        await bench.until(10.0)
        async with bench.connected() as (reader, writer):
            assert await ask(reader, writer) is None
            await bench.until(13.0)
            assert await ask(reader, writer) == (1013, 13)


async def test_half_open_can_refuse_new_connections_while_the_old_one_stays() -> None:
    async with (
        playing(Trouble("em", "half-open", 10.0, 13.0, new="refused")) as bench,
        bench.connected() as (reader, writer),
    ):
        await bench.until(10.0)
        with pytest.raises(ConnectionRefusedError):
            await bench.read()
        assert await ask(reader, writer) is None
        await bench.until(13.0)
        assert await bench.read() == (1013, 13)


async def test_a_late_answer_comes_in_reply_to_the_next_request() -> None:
    async with playing(Trouble("em", "late-by-one", 5.0, 8.0)) as bench:
        async with bench.connected() as (reader, writer):
            await bench.until(5.0)
            assert await ask(reader, writer) is None
            await bench.until(6.0)
            assert await ask(reader, writer) == (1005, 5)
            await bench.until(8.0)
            assert await ask(reader, writer) == (1008, 8)
        assert bytes(bench.unit.conduct.tally.outcomes) == bytes(
            [Outcome.SILENT, Outcome.SPOILED, Outcome.ANSWERED]
        )


async def test_a_delayed_answer_holds_nobody_else_up() -> None:
    async with (
        playing(Trouble("em", "delay", 0.0, 1.0, by=5.0)) as bench,
        bench.connected() as (reader, writer),
    ):
        assert await ask(reader, writer) is None
        await bench.until(1.0)
        assert await ask(reader, writer) == (1001, 1)
        await bench.until(5.0)
        assert struct.unpack(">IH", (await reader.readexactly(15))[9:]) == (1000, 0)


async def test_a_frozen_device_shows_the_instant_at_which_it_froze() -> None:
    async with playing(Trouble("em", "frozen", 10.0, 20.0)) as bench:
        await bench.until(10.5)
        assert await bench.read() == (1010, 10)
        await bench.until(19.0)
        assert await bench.read() == (1010, 10)
        await bench.until(20.0)
        assert await bench.read() == (1020, 20)


async def test_a_counter_is_moved_next_to_its_modulus_and_rolls_over() -> None:
    async with playing(Trouble("em", "rollover", 10.0, by=5.0)) as bench:
        await bench.until(9.0)
        assert await bench.read() == (1009, 9)
        await bench.until(14.0)
        assert await bench.read() == (2**32 - 1, 14)
        await bench.until(16.0)
        assert await bench.read() == (1, 16)


@pytest.mark.parametrize(("times", "shown"), [(0.0, 0), (10.0, 10100)])
async def test_a_counter_has_a_spike_and_then_its_value_again(times: float, shown: int) -> None:
    async with playing(Trouble("em", "glitch", 10.0, 11.0, times=times)) as bench:
        await bench.until(10.0)
        assert await bench.read() == (shown, 10)
        await bench.until(11.0)
        assert await bench.read() == (1011, 11)


async def test_a_read_of_poison_spoils_the_next_answer_only() -> None:
    async with playing(Trouble("em", "poison", at="hr:2", stray=4)) as bench:
        async with bench.connected() as (reader, writer):
            frames = []
            for count in (3, 2, 2):
                writer.write(struct.pack(">HHHBBHH", 7, 0, 6, 1, 3, 0, count))
                frames.append(await reader.read(300))
        assert [len(frame) for frame in frames] == [15, 13 + 4, 13]
        assert [int.from_bytes(frame[4:6], "big") + 6 for frame in frames] == [15, 17, 13]
        assert bench.unit.conduct.tally.asked.tolist() == [3, 2, 2]
        assert bench.unit.conduct.tally.spoiled == 1


def test_a_tally_keeps_the_newest_requests_and_counts_them_all() -> None:
    tally = Tally()
    for t in range(KEPT + 10):
        tally.count(t, Outcome.ANSWERED if t % 2 else Outcome.REFUSED, 3)

    assert (tally.requests, tally.answered, tally.refused) == (
        KEPT + 10,
        KEPT // 2 + 5,
        KEPT // 2 + 5,
    )
    assert tally.silent == tally.spoiled == 0
    assert tally.times[-1] == KEPT + 9
    assert len(tally.times) == len(tally.asked) == len(tally.outcomes) == KEPT // 2 + 10


async def test_a_fleet_tells_over_http_what_each_device_was_asked(tmp_path: Path) -> None:
    config = tmp_path / "plant.yaml"
    config.write_text(
        "devices:\n"
        "  em: {connect: 'modbus+tcp://x?unit=1', tags: {a: {at: 'hr:0'}}}\n"
        "  pm: {connect: 'modbus+tcp://x?unit=2', tags: {a: {at: 'hr:0'}}}\n"
    )
    clock = VirtualClock()
    script = Script([Trouble("pm", "silence")])

    def fetch(page: str) -> object:
        with urlopen(address + page, timeout=5) as answer:
            return json.load(answer)

    async with play(config, clock, script=script) as fleet:
        port = int(fleet.connect["em"].partition("127.0.0.1:")[2].partition("?")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for unit, count in ((1, 1), (1, 2), (2, 1)):
            writer.write(struct.pack(">HHHBBHH", 7, 0, 6, unit, 3, 0, count))
        await reader.readexactly(11 + 9)
        writer.close()
        address = await fleet.counted.serve()
        try:
            told = await asyncio.to_thread(fetch, "")
            one = await asyncio.to_thread(fetch, "em?times")
        finally:
            await fleet.counted.close()

    counts = {"requests": 2, "answered": 1, "refused": 1, "silent": 0, "spoiled": 0}
    assert told == {
        "em": counts,
        "pm": counts | {"requests": 1, "answered": 0, "refused": 0, "silent": 1},
    }
    assert one == counts | {
        "times": [clock.now_ns] * 2, "asked": [1, 2], "outcomes": ["answered", "refused"],
    }  # fmt: skip
    assert fleet.truth()["pm"].silent == 1


@pytest.mark.parametrize(
    ("trouble", "complaint"),
    [
        (Trouble("pm", "silence", line=3), "script:3: there is no device pm"),
        (Trouble("em", "hole", at="pump", line=4), "script:4: 'pump' is no Modbus address"),
    ],
)
async def test_a_script_that_does_not_fit_the_configuration_is_refused(
    tmp_path: Path, trouble: Trouble, complaint: str
) -> None:
    config = tmp_path / "plant.yaml"
    config.write_text("devices: {em: {connect: 'modbus+tcp://x?unit=1', tags: {a: {at: 'hr:0'}}}}")

    with pytest.raises(ValueError, match=complaint):
        async with play(config, VirtualClock(), script=Script([trouble])):
            pass
