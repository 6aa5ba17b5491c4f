"""The DL/T 645 driver when meters, frames and links fail."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from edge_agent.drivers.base import Counts, Learns, Probes
from edge_agent.drivers.dlt645_codec import parse
from edge_agent.errors import Disconnected, NoAnswer
from edge_agent.model import Quality
from edge_agent.units import Duration
from simulators.conduct import Framing, Line
from simulators.dlt645_server import Dlt645Meter, Dlt645Server, answer
from simulators.tables import device_table
from tests.drivers.dlt645_bench import (
    ADDRESS,
    GOOD,
    SHOWN,
    TAGS,
    TIMEOUT,
    Bench,
    Tags,
    device,
    driver,
    made,
)
from tests.drivers.lines import connected, read, serial_line, shows
from tests.proxy import Wire


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ---- trouble on the line ----------------------------------------------------------------------


async def test_a_silent_meter_is_no_answer_and_costs_one_timeout(bench: Bench) -> None:
    """L1, peers 10: fail fast on the first time-out."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("silence")
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="m: no answer"):
            await read(d)
        took = time.monotonic() - began

    assert TIMEOUT <= took < 3 * TIMEOUT
    assert bench.meters[0].conduct.tally.requests == 1


async def test_a_silence_costs_what_it_has_taken_not_the_answers_before_it(bench: Bench) -> None:
    """L1, peers 9: by that it is measured how long the meter is left alone."""
    meter = bench.add()
    serve = meter.serve

    def tiring(frame: bytes, line: Line) -> None:
        if meter.conduct.tally.requests < 1:
            serve(frame, line)

    meter.serve = tiring  # type: ignore[method-assign]
    bench.befall("delay", by=TIMEOUT / 2)
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        began = time.monotonic()
        with pytest.raises(NoAnswer) as silence:
            await read(d)
        took = time.monotonic() - began

    assert silence.value.waited is not None
    assert silence.value.waited == pytest.approx(took - TIMEOUT / 2, abs=TIMEOUT / 4)


async def test_a_dead_meter_costs_the_others_of_its_line_nothing_else(bench: Bench) -> None:
    """L1, peers 1: the silence of one loses no data of another."""
    bench.add()
    bench.add("n", query="address=43")
    bench.befall("silence")
    async with bench.serving():
        pair = driver(m=device(bench.port), n=device(bench.port, query="address=43"))
        async with connected(pair) as d:
            with pytest.raises(NoAnswer):
                await read(d)
            assert await read(d, "n/raw") == GOOD


async def test_a_late_answer_is_never_taken_for_the_next_one(bench: Bench) -> None:
    """L3, peers 22 and 23: the answer before is not the answer now."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read(d) == GOOD
        bench.befall("delay", by=1.5 * TIMEOUT)
        with pytest.raises(NoAnswer):
            await read(d)
        bench.recover()
        await asyncio.sleep(2.1 * TIMEOUT)
        assert await read(d) == GOOD


@pytest.mark.parametrize("tags", [TAGS, {"energy": TAGS["energy"]}], ids=["three", "one"])
async def test_a_meter_that_is_one_answer_behind_has_no_good_value(
    bench: Bench, tags: Tags
) -> None:
    """L3, peers 22: also where it is asked for one value only, so all its answers look alike."""
    began = time.monotonic()
    meter = bench.add(tags={**tags, "address": {"at": "di:04000401"}}, shown={
        **SHOWN, "address": (float(ADDRESS), "1"),
    })  # fmt: skip
    energy = meter._items["00010000"][0]
    energy.value = lambda _t: float(meter.conduct.tally.requests)  # other at every request
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        bench.befall("late-by-one")
        for _ in range(3):
            with pytest.raises(NoAnswer):
                await read(d)
            await asyncio.sleep(0)
        bench.recover()
        asked = meter.conduct.tally.requests
        found = (await read(d))[0]

    assert asked == 3
    assert found[1] == 0
    assert found[0] is not None
    assert found[0] > asked
    assert time.monotonic() - began < 10


async def test_an_item_that_alone_is_never_answered_is_left_out(bench: Bench) -> None:
    bench.add(tags={**TAGS, "odd": {"at": "di:02800002", "unit": "Hz"}},
              shown={**SHOWN, "odd": (50.0, "Hz")})  # fmt: skip
    meter = bench.meters[0]
    answer = meter._answer

    def deaf(exchange: object, line: object, item: str) -> None:
        if item != "02800002":
            answer(exchange, line, item)  # type: ignore[arg-type]

    meter._answer = deaf  # type: ignore[method-assign, assignment]
    tags = {"odd": {"at": "di:02800002", "unit": "Hz"}, **TAGS}
    async with bench.serving(), connected(driver(m=device(bench.port, tags))) as d:
        rows = []
        for _ in range(6):
            try:
                rows.append(await read(d))
            except NoAnswer:
                await asyncio.sleep(0)
        asked = meter.conduct.tally.requests
        last = await read(d)

    assert rows[0] == [(None, Quality.BAD_NO_ANSWER), *GOOD]
    assert last == [(None, Quality.BAD_ADDRESS), *GOOD]
    assert meter.conduct.tally.requests == asked + 3


async def test_a_meter_that_comes_and_goes_keeps_all_its_values(bench: Bench) -> None:
    """It is silent to something each time, but that is not because it does not know it."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        for _ in range(5):
            bench.befall("silence")
            with pytest.raises(NoAnswer):
                await d.probe("m")
            bench.recover()
            await d.probe("m")
        assert d.save() == {}
        assert await read(d) == GOOD


@pytest.mark.parametrize("kind", ["corrupt", "garbage", "short", "poison"])
async def test_a_spoiled_answer_is_never_a_good_value(bench: Bench, kind: str) -> None:
    """L2, peers 15: stray bytes in a frame that adds up are as wrong as one that does not."""
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall(kind, at="di:00010000")
        for _ in range(5):
            try:
                found = await read(d)
            except NoAnswer:
                await asyncio.sleep(0)
                continue
            assert all(f == g or f[1] >= Quality.BAD for f, g in zip(found, GOOD, strict=True))
            if kind != "poison":
                assert all(quality >= Quality.BAD for _, quality in found)
        bench.recover()
        await asyncio.sleep(0)
        await read(d) if kind == "poison" else None  # what was strewn comes with the next answer
        assert await read(d) == GOOD


async def test_a_wrong_sum_is_told_apart_from_silence(bench: Bench) -> None:
    bench.add(tags={"energy": TAGS["energy"]})
    async with (
        bench.serving(),
        connected(driver(m=device(bench.port, {"energy": TAGS["energy"]}))) as d,
    ):
        bench.befall("corrupt")
        outcomes = []
        for _ in range(6):
            try:
                outcomes.append(await read(d))
            except NoAnswer:  # the flipped bit hit a beginning or the length
                await asyncio.sleep(0)

    assert [(None, Quality.BAD_SHORT)] in outcomes


async def test_a_garbled_meter_takes_no_more_of_its_line_than_two_exchanges_a_scan(
    bench: Bench,
) -> None:
    """L1, peers 4: what is on a bad wire must not hold up the others of its line."""
    meter = bench.add()
    meter.conduct.framing = Framing(  # a wrong sum, whatever the frame
        lambda frame, _: frame[:-2] + bytes((frame[-2] ^ 1,)) + frame[-1:],
        meter.conduct.framing.stray,
    )
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("corrupt")
        began = time.monotonic()
        assert await read(d) == [(None, Quality.BAD_SHORT)] * 3
        assert time.monotonic() - began < 2 * TIMEOUT  # it is known before the time-out
        assert meter.conduct.tally.requests == 2
        assert d.counts["corrupt_frames"] == 2  # type: ignore[attr-defined]
        bench.recover()
        assert await read(d) == GOOD


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_bytes_come_rows_are_lawful_and_nothing_unforeseen_is_raised(
    bench: Bench, seed: int
) -> None:
    """Answers of any function, length and content that add up, cut, doubled and among noise."""
    random, meter = Random(seed), bench.add()
    truth = {0x00010000: 1234.56, 0x02030000: -3.3526, 0x02010100: 229.7}
    right = meter.serve

    def mad(frame: bytes, line: object) -> None:
        item = bytes((o - 0x33) & 0xFF for o in frame[10:-2])
        data = random.choice([b"", item[:3], item, item + random.randbytes(random.randrange(9))])
        control = random.choice([0x91, 0xB1, 0xD1, 0x92, 0x93, 0xB2, 0x11, 0xFF])
        said = answer(ADDRESS, control, data + random.randbytes(random.randrange(3)))
        noise = random.randbytes(random.randrange(20))
        spoiled = [said, said[: random.randrange(len(said))], said + said, noise + said, noise]
        if random.random() < 0.3:
            right(frame, line)  # type: ignore[arg-type]
        else:
            line.send(random.choice(spoiled))  # type: ignore[attr-defined]

    meter.serve = mad  # type: ignore[method-assign, assignment]
    good = 0
    async with (
        bench.serving(),
        connected(driver(m=device(bench.port, timeout=Duration(0.03)))) as d,
    ):
        for _ in range(15):
            try:
                found = await read(d)
            except NoAnswer:
                continue
            for (value, quality), true in zip(found, truth.values(), strict=True):
                good += quality == 0 and value == true
                assert quality >= Quality.BAD or value is not None
    assert good > 0


async def test_frames_of_other_meters_and_echoes_are_passed_over(bench: Bench) -> None:
    meter = bench.add()
    other = Dlt645Meter(
        device_table("o", {"connect": "dlt645+tcp://x?address=99", "tags": TAGS}),
        shows({name: (1.0, unit) for name, (_, unit) in SHOWN.items()}), bench.clock,
    )  # fmt: skip
    serve = meter.serve

    def echo(frame: bytes, line: object) -> None:
        line.send(frame)  # type: ignore[attr-defined]  # a converter that hears itself
        forged = b"\x68" + bytes.fromhex("000000000099")[::-1] + frame[7:-2]
        other.serve(forged + bytes((sum(forged) & 0xFF, 0x16)), line)  # type: ignore[arg-type]
        serve(frame, line)  # type: ignore[arg-type]

    meter.serve = echo  # type: ignore[method-assign, assignment]
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert await read(d) == GOOD
        assert isinstance(d, Counts)
        assert d.counts["late_frames"] == 6


async def test_a_meter_that_does_not_know_its_shortest_items_is_found_for_all_that(
    bench: Bench,
) -> None:
    """L1, peers 20: it was probed in turn by the two items that it says nothing to, for ever."""
    meter = bench.add()
    serve = meter.serve

    def picky(frame: bytes, line: Line) -> None:
        item = parse(frame).item("2007")
        if item not in {0x02010100, 0x02030000}:
            serve(frame, line)

    meter.serve = picky  # type: ignore[method-assign]
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert isinstance(d, Probes)
        for _ in range(3):
            with suppress(NoAnswer):
                await d.probe("m")

    assert meter.conduct.tally.requests == 1


async def test_a_probe_is_one_short_exchange(bench: Bench) -> None:
    meter = bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        assert isinstance(d, Probes)
        assert isinstance(d, Learns)
        await d.probe("m")
        assert meter.conduct.tally.requests == 1
        bench.befall("silence")
        with pytest.raises(NoAnswer):
            await d.probe("m")
        assert meter.conduct.tally.requests == 2
        bench.befall("exception")
        bench.recover()
        await asyncio.sleep(0)
        bench.befall("exception")
        await d.probe("m")  # a refusal is a sign of life


# ---- the link ---------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_is_told_at_once(bench: Bench) -> None:
    bench.add()
    async with bench.serving(), connected(driver(m=device(bench.port))) as d:
        bench.befall("reset")
        began = time.monotonic()
        with pytest.raises(Disconnected):
            await read(d)
        assert time.monotonic() - began < TIMEOUT
        bench.recover()
        with pytest.raises(Disconnected, match="is not connected"):
            await read(d)
        await d.connect()
        assert await read(d) == GOOD


async def test_the_first_good_value_comes_within_two_seconds_of_the_links_return(
    bench: Bench,
) -> None:
    bench.add()
    async with (
        bench.serving(),
        Wire(bench.port) as wire,
        connected(driver(m=device(wire.port))) as d,
    ):
        assert await read(d) == GOOD
        wire.cut()
        with pytest.raises(Disconnected):
            await read(d)
        wire.mend()
        began = time.monotonic()
        await d.connect()
        assert await read(d) == GOOD
        assert time.monotonic() - began < 2


async def test_a_serial_line_that_comes_back_is_read_again(bench: Bench, tmp_path: Path) -> None:
    bench.add()
    at = f"dlt645+serial://{tmp_path / 'theirs'}?parity=N&address={ADDRESS}"
    d = driver(m=made(at))
    found = []
    for _ in range(2):
        async with serial_line(tmp_path) as (ours, _theirs):
            server = Dlt645Server(bench.meters)
            try:
                server.start_serial(str(ours), 2400, "N")
                began = time.monotonic()
                await d.connect()
                found.append(await read(d))
                assert time.monotonic() - began < 2
            finally:
                await server.close()
        with pytest.raises(Disconnected):  # the converter was pulled out
            await read(d)
        await d.close()
        with pytest.raises(Disconnected, match="cannot be opened"):
            await d.connect()

    assert found == [GOOD, GOOD]


async def test_a_port_where_nobody_listens_is_told() -> None:
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1 cannot be reached"):
        await driver(m=device(1)).connect()


async def test_closing_is_possible_at_any_time(bench: Bench) -> None:
    d = driver(m=device(1))
    await d.close()
    bench.add()
    async with bench.serving():
        d = driver(m=device(bench.port))
        await d.connect()
        await d.close()
        await d.close()
