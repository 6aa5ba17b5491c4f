"""The only place that asks for the time.

Wall time is only for stamps, monotonic time only for durations. The wall time of the agent runs
as monotonic time plus an offset, so a step of the box's clock cannot tear a stream: a step
forward is taken over at once (the gap is not covered by data); a step backward is not followed,
and the rows are ``UNCERTAIN_CLOCK`` until the box's clock has caught up. The same holds when the
box starts with a clock behind the last stored row.

*Plant time* may run faster than real time: ``wall = start + (monotonic - origin) * speed``. The
demo hands the same three numbers to the agent and to the simulators. All seconds taken and
returned here are plant time; ``VirtualClock`` is the tests' clock, on which months pass in
seconds.
"""

import asyncio
import heapq
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

SECOND = 1_000_000_000
STEP = 2 * SECOND  # a difference of the box's clock larger than this is a step, not a drift


class Clock(Protocol):
    """What everything that needs the time is handed."""

    @property
    def uncertain(self) -> bool:
        """True while the stamps run ahead of the box's clock and cannot be trusted."""

    @property
    def speed(self) -> float:
        """Plant seconds per real second."""

    def wall_ns(self) -> int:
        """Return ns since the Unix epoch, UTC; never goes back."""

    def monotonic(self) -> float:
        """Return seconds since some origin; for durations and deadlines."""

    async def sleep_until(self, deadline: float) -> None:
        """Return when ``monotonic()`` has reached the deadline; at once if it has passed."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""

    @contextmanager
    def participant(self) -> Iterator[None]:
        """Mark a task as one the virtual clock must wait for; means nothing on a real clock."""


def midway(clock: Clock, began: float) -> int:
    """Return the wall time in the middle of what began at a moment of ``monotonic()``.

    The wall is asked at the end only: a step of the box's clock meanwhile would be halved.
    """
    return clock.wall_ns() - round((clock.monotonic() - began) / 2 * SECOND)


class SystemClock:
    """The time of the box: monotonic plus an offset that never goes back."""

    def __init__(self, *, not_before: int = 0) -> None:
        self._offset = max(time.time_ns(), not_before) - time.monotonic_ns()
        self._uncertain = False
        self.wall_ns()

    @property
    def uncertain(self) -> bool:
        return self._uncertain

    @property
    def speed(self) -> float:
        return 1.0

    def wall_ns(self) -> int:
        monotonic = time.monotonic_ns()
        ahead = monotonic + self._offset - time.time_ns()
        if ahead < -STEP:
            self._offset -= ahead
        self._uncertain = ahead > STEP
        return monotonic + self._offset

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep_until(self, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - time.monotonic()))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @contextmanager
    def participant(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class PlantClock:
    """Plant time that may run faster: the demo's and the simulators' clock.

    start   ns since the Unix epoch, UTC, at the origin
    origin  ``time.monotonic_ns()`` at the start; the same for all processes of one box
    """

    start: int
    origin: int
    speed: float = 1.0
    uncertain: bool = False

    def wall_ns(self) -> int:
        elapsed = time.monotonic_ns() - self.origin
        return self.start + (elapsed if self.speed == 1.0 else round(elapsed * self.speed))

    def monotonic(self) -> float:
        return (time.monotonic_ns() - self.origin) * self.speed / SECOND

    async def sleep_until(self, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - self.monotonic()) / self.speed)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self.speed)

    @contextmanager
    def participant(self) -> Iterator[None]:
        yield


@dataclass
class VirtualClock:
    """A clock that jumps to the next deadline as soon as every participant sleeps.

    Participants are the tasks whose work must be done before time may pass (the drivers' runners);
    without any, time passes whenever somebody sleeps. Sockets, disks and threads are real.
    """

    now_ns: int = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z
    uncertain: bool = False
    speed: float = 1.0
    _origin: int = field(init=False)
    _participants: set[asyncio.Task[None] | None] = field(default_factory=set)
    _sleepers: list[tuple[int, int, asyncio.Future[None], asyncio.Task[None] | None]] = field(
        default_factory=list
    )
    _count: int = 0

    def __post_init__(self) -> None:
        self._origin = self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return (self.now_ns - self._origin) / SECOND

    async def sleep(self, seconds: float) -> None:
        await self._sleep_until_ns(self.now_ns + round(max(0.0, seconds) * SECOND))

    async def sleep_until(self, deadline: float) -> None:
        await self._sleep_until_ns(self._origin + round(deadline * SECOND))

    @contextmanager
    def participant(self) -> Iterator[None]:
        task = asyncio.current_task()
        self._participants.add(task)
        try:
            yield
        finally:
            self._participants.discard(task)
            self._pass_time()

    async def _sleep_until_ns(self, deadline: int) -> None:
        if deadline <= self.now_ns:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._count += 1
        entry = (deadline, self._count, woken, asyncio.current_task())
        heapq.heappush(self._sleepers, entry)
        asyncio.get_running_loop().call_soon(self._pass_time)
        try:
            await woken
        finally:
            if not woken.done() or woken.cancelled():
                self._sleepers = [s for s in self._sleepers if s is not entry]
                heapq.heapify(self._sleepers)

    def _pass_time(self) -> None:
        """Jump to the earliest deadline if no participant has work left."""
        asleep = {sleeper[3] for sleeper in self._sleepers}
        if not self._sleepers or not self._participants <= asleep:
            return
        self.now_ns = max(self.now_ns, self._sleepers[0][0])
        while self._sleepers and self._sleepers[0][0] <= self.now_ns:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)
