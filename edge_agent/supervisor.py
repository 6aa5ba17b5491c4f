"""The one place of pace, retry and reconnect for every link; ``delivery.py`` is that of sinks.

A link's runner is one task: it keeps the absolute deadlines of all polled groups of the link and
reads the one that is due; a deadline is added up from the one before, never from "now", and a
tick that has passed is skipped. A pushed group has a task of its own for as long as the
connection lives. While the link is down every group still gets its row ``BAD_NO_ANSWER`` once a
period: silence is data.

A unit that times out is answered for and left to its breaker (``breaker.py``), which probes it so
seldom that all silent units together cost their line 5 % of its time. When it answers again, all it
has is read at once, as on a link that is new or back. A bug in a driver ends at the guard
(``guard.py``) and the others go on. What the pipeline raises is a bug of ours and ends the process;
the next start is a recovery.
"""

import asyncio
import heapq
import logging
import math
import random
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import numpy as np

from edge_agent.breaker import Breakers, Probe
from edge_agent.clock import Clock
from edge_agent.drivers.base import Driver, Group, Probes, Remembers
from edge_agent.errors import Disconnected, EdgeError, NoAnswer, Unreachable
from edge_agent.guard import FAILED_PAUSE, Backoff, PlugInFailed, note_down, plug_in
from edge_agent.health import LinkHealth, State
from edge_agent.model import Quality, SampleBlock, concatenate, no_answer

log = logging.getLogger(__name__)

SILENT_CONNECT = (
    0.7  # a connect that took this long was not refused: the peer is away, ask again soon
)
AWAY_PAUSE = 0.5
UNREACHABLE_PAUSE = (0.5, 1.3)  # seconds; with connecting and a first read, a link is back within 2
ROWS = 64  # scans that are joined at most
ROUNDING = 1e-6  # seconds by which a sleep may end too soon
LEAST = 0.1  # seconds that a probe has at least
OVERDUE = 0.5  # seconds that a probe waits for a moment in which no scan is due
EARLY = 0.7  # seconds; a group whose turn comes sooner is not read out of its turn


class Push(Protocol):
    """How a runner hands on a block."""

    def __call__(self, block: SampleBlock, *, substituted: bool = False) -> None: ...


@dataclass(eq=False)
class _Tick:
    """The schedule of one group."""

    group: Group
    period: float
    deadline: float
    joined: list[SampleBlock] = field(default_factory=list)
    joined_since: float = 0.0

    def advance(self, now: float) -> int:
        """Set the next deadline after now on the grid of the first; return the ticks skipped."""
        steps = max(1, int((now - self.deadline) / self.period) + 1)
        self.deadline += steps * self.period
        return steps - 1


class _Schedule:
    """Ticks in the order of their deadlines."""

    def __init__(self, ticks: Iterable[_Tick]) -> None:
        self._heap = [(tick.deadline, i, tick) for i, tick in enumerate(ticks)]
        heapq.heapify(self._heap)

    @property
    def next(self) -> float:
        """The earliest deadline; infinite when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def take(self, now: float) -> tuple[_Tick, int]:
        """Return the tick that is due and how many of its own were skipped; it is due again."""
        _, i, tick = self._heap[0]
        skipped = tick.advance(now)
        heapq.heapreplace(self._heap, (tick.deadline, i, tick))
        return tick, skipped


class _LinkRunner:
    def __init__(
        self,
        health: LinkHealth,
        driver: Driver,
        push: Push,
        clock: Clock,
        *,
        batch: float,
        phase: float,
    ) -> None:
        self._health, self._driver, self._push = health, driver, push
        self._clock, self._batch = clock, batch
        self._backoff = Backoff()
        start, groups = clock.monotonic(), driver.groups
        self._ticks = [
            _Tick(group, period, start + period * ((i + phase) / len(groups)))
            for i, group in enumerate(groups)
            for period in [group.period if group.period is not None else group.schema.period]
        ]
        self._polled = [t for t in self._ticks if t.group.period is not None]
        self._pushed = [t.group for t in self._ticks if t.group.period is None]
        self._breakers = Breakers({t.group.schema.owner for t in self._polled})
        self._early: dict[_Tick, Probe] = {}  # to be read once, as soon as the line has time
        self._down_since: float | None = None
        self._lost: EdgeError | None = None  # why the last connection ended
        self._fruitful = True  # whether the last connection brought a scan

    async def run(self) -> NoReturn:
        with self._clock.participant():
            try:
                while True:
                    await self._until_up()
                    await self._while_up()
            finally:
                for tick in self._ticks:
                    self._flush(tick)
                await self._close()
                self._health.state = State.STOPPED

    async def _until_up(self) -> None:
        """Connect, however long it takes; answer for the devices meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            ticker: asyncio.Task[NoReturn] | None = None
            if self._down_since is not None:
                ticker = self._answering(tasks)
            if self._health.state is State.FAILED:
                await self._clock.sleep(FAILED_PAUSE)
            elif not self._fruitful and self._lost is not None:
                await self._pause(self._lost, 0.0)
            while True:
                began = self._clock.monotonic()
                try:
                    self._health.connects += 1
                    await plug_in(self._driver.connect())
                    break
                except (Disconnected, PlugInFailed) as e:
                    self._down(e)
                    if ticker is None:  # before the first try fails nothing is to report
                        ticker = self._answering(tasks)
                    await self._close()
                    await self._pause(e, self._clock.monotonic() - began)
            if ticker is not None:
                ticker.cancel()
        self._up()

    def _answering(self, tasks: asyncio.TaskGroup) -> "asyncio.Task[NoReturn]":
        return tasks.create_task(self._substitute(), name=f"silence of {self._health.name}")

    async def _while_up(self) -> None:
        """Read until the link is of no use; the first ``Disconnected`` ends all tasks of it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for group in self._pushed:
                    tasks.create_task(self._follow(group), name=f"driver {group.schema.stream}")
                if isinstance(self._driver, Remembers):
                    tasks.create_task(self._fill(self._driver), name=f"past {self._health.name}")
                await self._poll()
        except* (Disconnected, PlugInFailed) as group:
            reason = group.exceptions[0]
            while isinstance(reason, BaseExceptionGroup):
                reason = reason.exceptions[0]
            self._lost = reason
            self._down(reason)
        await self._close()

    async def _pause(self, reason: EdgeError, took: float) -> None:
        if isinstance(reason, PlugInFailed):
            await self._clock.sleep(FAILED_PAUSE)
        elif took >= SILENT_CONNECT * self._clock.speed:
            await self._clock.sleep(random.uniform(0, AWAY_PAUSE))
        elif isinstance(reason, Unreachable):
            most = random.uniform(*UNREACHABLE_PAUSE) * self._clock.speed
            await self._clock.sleep(min(most, self._backoff.next()))
        else:
            await self._clock.sleep(self._backoff.next())

    async def _substitute(self) -> NoReturn:
        with self._clock.participant():
            schedule = _Schedule(self._ticks)
            while True:
                await self._clock.sleep_until(schedule.next)
                tick, _ = schedule.take(self._clock.monotonic())
                self._answer_for(tick)

    async def _follow(self, group: Group) -> NoReturn:
        while True:
            self._hand_on(await plug_in(self._driver.read(group)))

    async def _fill(self, driver: Remembers) -> NoReturn:
        while True:
            self._hand_on(await plug_in(driver.past()))

    async def _poll(self) -> None:
        """Do what is due: ticks, what is read out of its turn, probes of silent units."""
        if not self._polled:
            await asyncio.Event().wait()
        schedule = _Schedule(self._polled)
        while True:
            now = self._clock.monotonic() + ROUNDING
            probe = self._breakers.next_probe()
            if probe is not None and probe.at <= now and self._has_time_for(probe, schedule, now):
                await self._probe(probe, schedule.next)
            elif schedule.next <= now:
                tick, skipped = schedule.take(now)
                self._health.ticks_missed += skipped
                self._early.pop(tick, None)
                self._health.late_seconds = now - (tick.deadline - (skipped + 1) * tick.period)
                await self._scan(tick)
            elif (early := self._next_early(schedule, now)) is not None:
                await self._scan(early)
            else:
                due = math.inf if probe is None or probe.at <= now else probe.at
                await self._clock.sleep_until(min(schedule.next, due))

    @staticmethod
    def _has_time_for(probe: Probe, schedule: _Schedule, now: float) -> bool:
        """Return whether a silent probe makes no scan late; on a full line it must not wait on."""
        return schedule.next - now > probe.cost or now - probe.at > OVERDUE

    def _next_early(self, schedule: _Schedule, now: float) -> _Tick | None:
        """Return what is to be read out of its turn and, should it fail, makes no scan late."""
        waiting = self._early.items()
        found = next((t for t, why in waiting if self._has_time_for(why, schedule, now)), None)
        if found is not None:
            del self._early[found]
        return found

    def _is_silent(self, tick: _Tick) -> bool:
        return tick.group.schema.owner in self._breakers.silent

    async def _scan(self, tick: _Tick) -> None:
        if self._is_silent(tick):
            self._answer_for(tick)
            return
        device, began = tick.group.schema.owner, self._clock.monotonic()
        try:
            block = await plug_in(self._driver.read(tick.group), NoAnswer)
        except NoAnswer as e:
            self._no_answer(device, e, began)
            self._answer_for(tick)
            return
        except (Disconnected, PlugInFailed):
            self._answer_for(tick)  # this tick's row; the others' come while the link is down
            raise
        self._health.scan_seconds = self._clock.monotonic() - began
        self._join(tick, block)

    async def _probe(self, probe: Probe, due: float) -> None:
        """Ask a silent unit for a sign of life; when it gives one, read all it has.

        due  when the next scan is
        """
        device, began = probe.unit, self._clock.monotonic()
        ticks = [t for t in self._polled if t.group.schema.owner == device]
        room = None if probe.is_whole else max(LEAST, due - began) / self._clock.speed
        self._health.probes += 1
        try:
            async with asyncio.timeout(room):
                if isinstance(self._driver, Probes):
                    await plug_in(self._driver.probe(device), NoAnswer)
                else:
                    shortest = min(ticks, key=lambda t: t.period)
                    found = await plug_in(self._driver.read(shortest.group), NoAnswer)
                    self._join(shortest, found)
        except NoAnswer as e:
            self._no_answer(device, e, began)
            return
        except TimeoutError:
            self._no_answer(device, NoAnswer(device, "no answer before others are due"), began)
            return
        self._breakers.answered(device)
        self._health.silent.discard(device)
        again = Probe(self._clock.monotonic(), device, probe.cost)
        self._early |= dict.fromkeys(ticks, again)
        log.info("%s answers again", device)

    def _no_answer(self, device: str, reason: NoAnswer, began: float) -> None:
        now = self._clock.monotonic()
        self._health.timeouts += 1
        self._health.silent.add(device)
        for tick in [t for t in self._early if t.group.schema.owner == device]:
            del self._early[tick]
        waited = now - began if reason.waited is None else reason.waited
        if self._breakers.failed(device, now, waited):
            log.warning("%s does not answer: %s", device, reason)

    def _join(self, tick: _Tick, block: SampleBlock) -> None:
        """Hand on a scan; those of groups faster than a commit are handed on together."""
        now = self._clock.monotonic()
        if not tick.joined:
            tick.joined_since = now
        tick.joined.append(block)
        rows = sum(len(b) for b in tick.joined)
        if tick.period >= self._batch or rows >= ROWS or now - tick.joined_since >= self._batch:
            self._flush(tick)

    def _flush(self, tick: _Tick) -> None:
        if tick.joined:
            scans, tick.joined = tick.joined, []
            self._hand_on(concatenate(scans))

    def _hand_on(self, block: SampleBlock) -> None:
        self._fruitful = True
        self._backoff.reset()
        self._health.reads += 1
        self._health.rows_read += len(block)
        self._push(self._marked(block))

    def _answer_for(self, tick: _Tick) -> None:
        self._flush(tick)
        self._health.rows_substituted += 1
        self._push(no_answer(tick.group.schema, self._clock.wall_ns()), substituted=True)

    def _marked(self, block: SampleBlock) -> SampleBlock:
        if not self._clock.uncertain:
            return block
        return block.marked(np.maximum(block.quality, np.uint8(Quality.UNCERTAIN_CLOCK)))

    def _up(self) -> None:
        self._fruitful = False
        now = self._clock.monotonic()
        self._early = {
            tick: Probe(now, tick.group.schema.owner, 0.0)
            for tick in self._polled
            if tick.deadline - now > EARLY
        }
        if self._down_since is not None:
            seconds = self._clock.monotonic() - self._down_since
            log.info("%s is back after %.1f s", self._health.name, seconds)
        else:
            log.info("%s is up", self._health.name)
        self._down_since = None
        self._health.state, self._health.error = State.UP, ""
        self._health.since_ns = self._clock.wall_ns()

    def _down(self, reason: BaseException) -> None:
        if self._down_since is None:
            self._down_since = self._clock.monotonic()
            self._health.since_ns = self._clock.wall_ns()
        note_down(self._health, reason)

    async def _close(self) -> None:
        with suppress(Disconnected, PlugInFailed):  # closing a link that is lost tells nothing new
            await plug_in(self._driver.close(), closing=True)


async def run_driver(
    health: LinkHealth,
    driver: Driver,
    push: Push,
    clock: Clock,
    batch: float,
    *,
    phase: float = 0.0,
) -> NoReturn:
    """Read one link for ever; ends only by cancellation or by what ``push`` raises.

    batch  seconds; scans of groups faster than this are handed on together
    phase  0 to 1; links with different ones do not ask all at the same moment
    """
    await _LinkRunner(health, driver, push, clock, batch=batch, phase=phase).run()
