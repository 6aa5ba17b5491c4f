"""Lines of DL/T 645 and CJ/T 188 meters under the supervisor: away and back, dead among living.

Each way of being away lasts long enough for every back-off to have grown. What was asked and
answered is counted at the simulated meters.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers.base import DeviceConfig
from edge_agent.health import LinkHealth
from edge_agent.model import Quality, SampleBlock
from edge_agent.supervisor import run_driver
from edge_agent.units import Duration
from simulators.faults import Script, Trouble
from simulators.octets import OctetServer
from simulators.truth import Outcome
from tests.drivers import dlt645_bench as dlt645
from tests.drivers import test_cjt188 as cjt188
from tests.drivers.test_modbus_return import AWAY, WITHIN, Box

Meter = dlt645.Dlt645Meter | cjt188.Cjt188Meter
TIMEOUT = 0.5


@dataclass
class Rows:
    """When good rows of each device came, and all rows of it."""

    good: dict[str, list[float]] = field(default_factory=dict)
    all: dict[str, list[SampleBlock]] = field(default_factory=dict)

    def __call__(self, block: SampleBlock, *, substituted: bool = False) -> None:
        assert block.lawful()
        owner = block.schema.owner
        self.all.setdefault(owner, []).append(block)
        if not substituted and not block.quality.any():
            self.good.setdefault(owner, []).append(time.monotonic())

    async def after(self, moment: float, most: float, device: str = "m") -> float:
        """Return how long after a moment the first good row came."""
        async with asyncio.timeout(most):
            while not self.good.get(device) or self.good[device][-1] <= moment:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return next(t for t in self.good[device] if t > moment) - moment


class Bench:
    """Simulated meters of one protocol on one line, and the devices that read them."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.script = Script()
        self.meters: dict[str, Meter] = {}
        self.port = 0
        self._server: OctetServer | None = None

    def add(self, name: str, address: int) -> None:
        module = dlt645 if self.protocol == "dlt645" else cjt188
        bench = module.Bench()
        bench.script = self.script
        self.meters[name] = bench.add(name, query=f"address={address}")

    async def start(self) -> None:
        meters = list(self.meters.values())
        server: OctetServer
        if self.protocol == "dlt645":
            server = dlt645.Dlt645Server(meters)  # type: ignore[arg-type]
        else:
            server = cjt188.Cjt188Server(meters)  # type: ignore[arg-type]
        self.port = await server.start(port=self.port)
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.close()

    def device(self, address: int, at: str = "", poll: float = 0.5) -> DeviceConfig:
        at = at or f"{self.protocol}+tcp://127.0.0.1:{self.port}?"
        connect = f"{at}address={address}"
        keys: dict[str, object] = {"poll": Duration(poll), "timeout": Duration(TIMEOUT)}
        if self.protocol == "dlt645":
            return dlt645.made(connect, **keys)
        return cjt188.made(f"{connect}&di=1F90", **keys)


@asynccontextmanager
async def serving(protocol: str, names: Sequence[str] = ("m",)) -> AsyncIterator[Bench]:
    bench = Bench(protocol)
    for address, name in enumerate(names, 1):
        bench.add(name, address)
    try:
        await bench.start()
        yield bench
    finally:
        await bench.stop()


@asynccontextmanager
async def reading(**devices: DeviceConfig) -> AsyncIterator[Rows]:
    clock, rows = SystemClock(), Rows()
    driver = type(next(iter(devices.values()))).build(devices, clock)
    task = asyncio.create_task(
        run_driver(LinkHealth("link", tuple(devices)), driver, rows, clock, 0.01)
    )
    try:
        for name in devices:
            await rows.after(0.0, 5, name)
        yield rows
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def away(rows: Rows, gone: Callable[[], Awaitable[None]]) -> None:
    """Let the link go and see that nothing comes from it."""
    await gone()
    before = time.monotonic()
    await asyncio.sleep(AWAY)
    assert rows.good["m"][-1] < before + 0.2


both = pytest.mark.parametrize("protocol", ["dlt645", "cjt188"])


@both
async def test_a_serial_server_that_was_off_is_read_within_two_seconds_of_its_start(
    protocol: str,
) -> None:
    async with serving(protocol) as bench, reading(m=bench.device(1)) as rows:
        await away(rows, bench.stop)
        await bench.start()

        assert await rows.after(time.monotonic(), 5) < WITHIN


@both
async def test_a_meter_that_was_silent_is_read_within_two_seconds(protocol: str) -> None:
    async with serving(protocol) as bench, reading(m=bench.device(1)) as rows:

        async def silence() -> None:
            bench.script.troubles.append(Trouble("m", "silence"))

        await away(rows, silence)
        bench.script.troubles.clear()

        assert await rows.after(time.monotonic(), 5) < WITHIN


@both
async def test_a_half_open_link_is_read_within_two_seconds_of_the_box_s_return(
    protocol: str,
) -> None:
    async with serving(protocol) as bench, Box(bench.port) as box:
        at = f"{protocol}+tcp://127.0.0.1:{box.port}?"
        async with reading(m=bench.device(1, at)) as rows:
            await away(rows, box.off)
            box.on()

            assert await rows.after(time.monotonic(), 8) < WITHIN


@both
async def test_a_serial_adapter_that_was_pulled_out_is_read_within_two_seconds(
    protocol: str, tmp_path: Path
) -> None:
    node = tmp_path / "ttyUSB0"

    async def plugged(port: int) -> asyncio.subprocess.Process:
        adapter = await asyncio.create_subprocess_exec(
            "socat", f"pty,raw,echo=0,link={node}", f"tcp:127.0.0.1:{port}"
        )
        async with asyncio.timeout(5):
            while not node.exists():  # noqa: ASYNC110 – another process makes it
                await asyncio.sleep(0.01)
        return adapter

    async with serving(protocol) as bench:
        adapter = await plugged(bench.port)
        try:
            at = f"{protocol}+serial://{node}?parity=N&"
            async with reading(m=bench.device(1, at)) as rows:

                async def pulled() -> None:
                    adapter.terminate()
                    await adapter.wait()

                await away(rows, pulled)
                adapter = await plugged(bench.port)

                assert await rows.after(time.monotonic(), 5) < WITHIN
        finally:
            if adapter.returncode is None:
                adapter.terminate()
            await adapter.wait()


@both
async def test_dead_and_garbled_meters_cost_the_others_of_their_line_no_poll(
    protocol: str,
) -> None:
    """L1, peers 1 and 4: two of six meters are dead, one is garbled; the rest miss nothing."""
    names = [f"m{i}" for i in range(6)]
    period, seconds = 1.5, 6.0
    async with serving(protocol, names) as bench:
        devices = {n: bench.device(i, poll=period) for i, n in enumerate(names, 1)}
        async with reading(**devices) as rows:
            bench.script.troubles += [
                Trouble("m0", "silence"), Trouble("m3", "silence"), Trouble("m4", "corrupt"),
            ]  # fmt: skip
            await asyncio.sleep(2 * period)  # until the dead ones are known
            begun = {n: len(rows.good[n]) for n in names}
            await asyncio.sleep(seconds)
            came = {n: len(rows.good[n]) - begun[n] for n in names}
            scans = {n: rows.all[n][-5:] for n in names}

    for name in ("m1", "m2", "m5"):
        assert came[name] >= int(seconds / period) - 1, came
        assert all(not b.quality.any() for b in scans[name])
    for name in ("m0", "m3"):
        assert came[name] == 0
        assert all((b.quality == Quality.BAD_NO_ANSWER).all() for b in scans[name])
    assert came["m4"] == 0
    outcomes = bench.meters["m1"].conduct.tally.outcomes
    assert set(outcomes) == {Outcome.ANSWERED}  # the wire agrees
