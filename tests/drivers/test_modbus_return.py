"""A link that was away is read again within two seconds of its return, by supervisor and driver.

Each way of being away lasts long enough for every back-off to have grown.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.clock import SystemClock
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.health import LinkHealth
from edge_agent.model import SampleBlock
from edge_agent.supervisor import run_driver
from edge_agent.units import Duration
from tests.drivers.modbus_meter import Meter
from tests.drivers.test_modbus import at, device

AWAY = 4.0  # seconds
WITHIN = 2.0


@dataclass
class Rows:
    """When good rows came; none may hold another value than the meter's."""

    good: list[float] = field(default_factory=list)

    def __call__(self, block: SampleBlock, *, substituted: bool = False) -> None:
        assert block.lawful()
        if substituted or block.quality.any():
            return
        assert block.value[:, 0].tolist() == [1000.0, 1001.0]
        self.good.append(time.monotonic())

    async def after(self, moment: float, most: float) -> float:
        """Return how long after a moment the first good row came."""
        async with asyncio.timeout(most):
            while not self.good or self.good[-1] <= moment:  # noqa: ASYNC110 – it is told nothing
                await asyncio.sleep(0.01)
        return next(t for t in self.good if t > moment) - moment


@asynccontextmanager
async def reading(connect: str, poll: float = 0.5) -> AsyncIterator[Rows]:
    meter = device(connect, poll=Duration(poll), timeout=Duration(1.0))
    driver, rows = ModbusDevice.build({"m": meter}, SystemClock()), Rows()
    task = asyncio.create_task(
        run_driver(LinkHealth("link", ("m",)), driver, rows, SystemClock(), 0.01)
    )
    try:
        await rows.after(0.0, 5)
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
    assert not rows.good or rows.good[-1] < before + 0.2


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_server_that_was_killed_is_read_within_two_seconds_of_its_start(
    framing: str,
) -> None:
    async with Meter(framing) as meter, reading(at(meter)) as rows:
        await away(rows, meter.stop)
        await meter.start()

        assert await rows.after(time.monotonic(), 5) < WITHIN


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_link_that_is_held_up_without_a_word_is_read_within_two_seconds(
    framing: str,
) -> None:
    """The peer's box takes what is sent and hands on nothing; later it hands on again."""
    async with Meter(framing) as meter, reading(at(meter)) as rows:

        async def silence() -> None:
            meter.silent_units = {1}

        await away(rows, silence)
        meter.silent_units = set()

        assert await rows.after(time.monotonic(), 5) < WITHIN


class Box:
    """A router between agent and meter that forgets its connections when it loses power.

    What is sent on a forgotten one is taken and lost, and nobody says so.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._epoch = 0
        self._is_on = True
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> "Box":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def off(self) -> None:
        self._is_on = False
        self._epoch += 1

    def on(self) -> None:
        self._is_on = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        epoch = self._epoch if self._is_on else -1
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, back, epoch))
                tasks.create_task(self._pump(there, writer, epoch))
        except (OSError, ExceptionGroup):
            return
        finally:
            writer.transport.abort()
            back.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, epoch: int
    ) -> None:
        while piece := await source.read(4096):
            if epoch == self._epoch and self._is_on:
                sink.write(piece)
        if epoch == self._epoch:
            sink.close()


@pytest.mark.parametrize("framing", ["tcp", "rtu"])
async def test_a_half_open_link_is_read_within_two_seconds_of_the_box_s_return(
    framing: str,
) -> None:
    async with (
        Meter(framing) as meter,
        Box(meter.port) as box,
        reading(at(meter).replace(str(meter.port), str(box.port))) as rows,
    ):
        await away(rows, box.off)
        box.on()

        assert await rows.after(time.monotonic(), 8) < WITHIN


async def test_a_serial_adapter_that_was_pulled_out_is_read_within_two_seconds(
    tmp_path: Path,
) -> None:
    """The device node vanishes and comes back."""
    node = tmp_path / "ttyUSB0"

    async def plugged(port: int) -> asyncio.subprocess.Process:
        adapter = await asyncio.create_subprocess_exec(
            "socat", f"pty,raw,echo=0,link={node}", f"tcp:127.0.0.1:{port}"
        )
        async with asyncio.timeout(5):
            while not node.exists():  # noqa: ASYNC110 – another process makes it
                await asyncio.sleep(0.01)
        return adapter

    async with Meter("rtu") as meter:
        adapter = await plugged(meter.port)
        try:
            async with reading(f"modbus+rtu://{node}?baud=115200&unit=1") as rows:

                async def pulled() -> None:
                    adapter.terminate()
                    await adapter.wait()
                    assert not node.exists()

                await away(rows, pulled)
                adapter = await plugged(meter.port)

                assert await rows.after(time.monotonic(), 5) < WITHIN
        finally:
            if adapter.returncode is None:
                adapter.terminate()
            await adapter.wait()
