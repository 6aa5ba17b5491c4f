"""Wiring, start and orderly stop of the whole agent.

Start: open the log (which is the recovery), load the metrics' states and feed what came after
them, then the web page, then the sinks, then the drivers, so nothing is produced before it can be
received. Stop: drivers, open batches, checkpoint, sinks until ``grace``, log; what did not finish
is named.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from edge_agent import __version__
from edge_agent.backlog import Backlog
from edge_agent.clock import Clock, SystemClock
from edge_agent.config import Config, uncollected
from edge_agent.database_files import damage
from edge_agent.delivery import run_sink
from edge_agent.drivers.base import Counts, DeviceConfig, Driver, KeepsFiles
from edge_agent.errors import ConfigError
from edge_agent.guard import learnt, teach
from edge_agent.health import Health, LinkHealth, LogCounts, SinkHealth, State, StoreHealth
from edge_agent.live import Live, Standing
from edge_agent.metrics.base import Metric
from edge_agent.metrics.slots import SlotOperator, slot_schema
from edge_agent.model import Family, SampleBlock
from edge_agent.outbox import Budget, Outbox, ReaderSpec
from edge_agent.outbox_survey import Survey
from edge_agent.pipeline import Pipeline
from edge_agent.sinks.base import Sink
from edge_agent.sinks.history import History, HistorySink
from edge_agent.supervisor import run_driver
from edge_agent.web.app import Sources, WebServer, create_app

log = logging.getLogger(__name__)

HISTORY = "history"
CHECKPOINT = 60.0  # seconds between checkpoints
SWITCH = 0.001  # seconds after which a thread that writes or sends lets the loop go on
GRACE = 5.0  # seconds the sinks have to drain at a stop


@dataclass(frozen=True)
class Link:
    """One physical link with the devices behind it."""

    name: str
    devices: Mapping[str, DeviceConfig]
    driver: Driver

    @property
    def address(self) -> str:
        """Where it leads: the same whatever devices are added to it or called."""
        return next(iter(self.devices.values())).connect.partition("?")[0]


def links_of(config: Config, clock: Clock) -> list[Link]:
    """Return the links: devices that share a socket or line, with their driver."""
    shared: dict[Hashable, dict[str, DeviceConfig]] = {}
    for name, device in config.devices.items():
        shared.setdefault((type(device), device.link), {})[name] = device
    links = []
    for devices in shared.values():
        driver = type(next(iter(devices.values()))).build(devices, clock)
        if isinstance(driver, KeepsFiles):
            driver.keep_in(config.data)
        links.append(Link("+".join(devices), devices, driver))
    return links


def metrics_of(config: Config, links: list[Link]) -> list[Metric]:
    """Return the slot operator of every stream and the operators of every KPI, in feeding order."""
    plant = config.plant()
    kpis = [m for name, kpi in config.every_metric.items() for m in kpi.build(name, plant)]
    raw = [group.schema for link in links for group in link.driver.groups]
    raw += [m.output for m in kpis if m.output.family is Family.COMPUTED]
    digests = config.device_digests
    slots = [
        SlotOperator(
            schema, config.quality, (f"config:{digests.get(schema.owner, config.digest)}",)
        )
        for schema in raw
        if slot_schema(schema).tags
    ]
    return ordered([*slots, *kpis])


def ordered(metrics: Sequence[Metric]) -> list[Metric]:
    """Return metrics so that each stands behind those whose rows it takes; no circle is among them.

    Otherwise they keep their order: a KPI's windows are given blocks one after the other.
    """
    makers = {metric.output.stream: metric for metric in metrics}
    found: dict[str, Metric] = {}

    def put(metric: Metric) -> None:
        if metric.output.stream in found:
            return
        for stream in metric.inputs:
            if stream in makers and makers[stream] is not metric:
                put(makers[stream])
        found.setdefault(metric.output.stream, metric)

    for metric in metrics:
        put(metric)
    return list(found.values())


class Agent:
    """The whole agent on one configuration."""

    def __init__(self, config: Config, clock: Clock | None = None, *, grace: float = GRACE) -> None:
        self.config = config
        self.live = Live()
        self.address = ""
        self.ready = asyncio.Event()
        self._grace = grace
        self._stopping = asyncio.Event()
        self._final: LogCounts | None = None
        try:
            config.data.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            advice = "data names a folder that the agent may write"
            raise ConfigError([f"{config.data}: {e.strerror} ({advice})"]) from e
        specs = [ReaderSpec(HISTORY, HistorySink.takes)]
        speed = 1.0 if clock is None else clock.speed
        specs += [
            ReaderSpec(name, sink.takes, _live_first(sink.live_first_after, speed))
            for name, sink in config.sinks.items()
        ]
        self.outbox = Outbox(
            config.data / "log.db", specs, budget=_budget(config), commit=self._commit_period()
        )
        self._survey = Survey(self.outbox.path, _budget(config))
        self.clock = clock or SystemClock(not_before=self.outbox.newest_ns)
        with uncollected():
            self._links = links_of(config, self.clock)
            self.pipeline = Pipeline(
                metrics_of(config, self._links),
                self.outbox,
                self.live,
                f"{config.digest} {__version__}",  # a state is read by the code that wrote it
                devices=config.device_digests,
                recorded=_recorded(config, self._links),
                stored=History(config.data / "history.db").rows,
            )
        self.health = Health(
            started_ns=self.clock.wall_ns(),
            links={link.name: LinkHealth(link.name, tuple(link.devices)) for link in self._links},
            sinks={HISTORY: SinkHealth(HISTORY, HISTORY)}
            | {name: SinkHealth(name, sink.kind) for name, sink in config.sinks.items()},
        )

    def stop(self) -> None:
        """Begin the orderly stop; ``run`` returns when it is done."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until ``stop``; raises only on bugs and on a store that cannot be opened."""
        # Python's 5 ms would add up: the log and each sink have a thread that computes now and then
        sys.setswitchinterval(SWITCH)
        await self.outbox.start()
        web: WebServer | None = None
        try:
            fed = self.pipeline.recover()
            if fed:
                log.info("recovered: %d records fed again through the metrics", fed)
            for link in self._links:
                teach(link.name, link.driver, self.pipeline.learnt.get(link.address))
            await asyncio.to_thread(self._survey.look)
            web = WebServer()
            self.address = await web.start(create_app(self._sources()), self.config.web.listen)
            async with asyncio.TaskGroup() as tasks:
                sinks = self._start_sinks(tasks)
                drivers = [
                    tasks.create_task(
                        run_driver(
                            self.health.links[link.name],
                            link.driver,
                            self.pipeline.push,
                            self.clock,
                            min(1.0, self._commit_period()),  # the page stays of this second
                            phase=i / len(self._links),
                        ),
                        name=f"driver {link.name}",
                    )
                    for i, link in enumerate(self._links)
                ]
                keeper = tasks.create_task(self._keep(), name="checkpoint")
                gc.collect()
                gc.freeze()
                self.ready.set()
                await self._stopping.wait()
                await _end([*drivers, keeper])
                self._checkpoint()
                await self._drain()
                await _end(sinks)
        finally:
            gc.unfreeze()
            if web is not None:
                await web.stop()
            with suppress(TimeoutError):  # a full disk; closing the log says what is not written
                async with asyncio.timeout(self._grace):
                    await self.outbox.flush()
            self._final = self.outbox.counts()
            if self.ready.is_set():  # else it did not start, and that is told
                _tell(self._final)
            self._survey.close()
            await self.outbox.close()

    def _checkpoint(self) -> None:
        self.pipeline.checkpoint({i.address: learnt(i.name, i.driver) for i in self._links})

    def _start_sinks(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        retention = self.config.retention
        sinks: dict[str, Sink] = {
            HISTORY: HistorySink(
                self.config.data / "history.db",
                slots_ns=retention.slots.ns,
                metrics_ns=retention.metrics.ns,
                slots_bytes=retention.slots_bytes,
                metrics_bytes=retention.metrics_bytes - retention.waiting_bytes,
            )
        }
        sinks |= {name: sink.build(self.config.site) for name, sink in self.config.sinks.items()}
        rates = {name: sink.backlog_rate for name, sink in self.config.sinks.items()}
        return [
            tasks.create_task(
                run_sink(
                    self.health.sinks[name],
                    sink,
                    self.outbox.reader(name),
                    self.outbox,
                    self.clock,
                    rates.get(name),
                ),
                name=f"sink {name}",
            )
            for name, sink in sinks.items()
        ]

    async def _keep(self) -> None:
        """Checkpoint each minute, and keep what health shows of the disk up to date."""
        due = CHECKPOINT
        backlogs = {name: Backlog() for name in self.health.sinks}
        drivers = ((link.name, link.driver) for link in self._links)
        counting = [(name, driver) for name, driver in drivers if isinstance(driver, Counts)]
        while True:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(self._survey.look)
            due -= 1.0
            if due <= 0:
                self._checkpoint()
                due = CHECKPOINT
            self.health.rows_late_total = self.pipeline.rows_late
            for name, driver in counting:
                self.health.links[name].counts = dict(driver.counts)
            for name, backlog in backlogs.items():
                self._pace(self.health.sinks[name], backlog)
            kept = self.health.sinks[HISTORY]
            away = kept.error if kept.state is State.DOWN else ""
            faults = {"disk": self.outbox.fault, "log": self.outbox.damage, HISTORY: away}
            faults["stored history"] = damage(self.config.data / "history.db")
            for name, fault in faults.items():
                if fault:
                    self.health.faults[name] = fault
                else:
                    self.health.faults.pop(name, None)

    def _pace(self, sink: SinkHealth, backlog: Backlog) -> None:
        """Tell how far a sink is behind and how long it takes to catch up."""
        reader = self.outbox.reader(sink.name)
        sink.backlog = reader.backlog if reader.split else 0
        sink.behind_seconds = self._survey.behind.get(sink.name, 0.0)
        if sink.state is State.UP:
            backlog.note(time.monotonic(), self._lag(sink.name), sink.backlog)
        else:
            backlog.forget()
        sink.remaining_seconds = backlog.remaining

    async def _drain(self) -> None:
        """Let the sinks deliver what is committed, but no longer than ``grace``."""
        try:
            async with asyncio.timeout(self._grace):
                await self.outbox.flush()
                while any(self._lag(name) for name in self._served()):  # noqa: ASYNC110  bounded by grace
                    await asyncio.sleep(0.02)
                await self.outbox.flush()  # the cursors
        except TimeoutError:
            left = {name: self._lag(name) for name in self.health.sinks}
            names = ", ".join(f"{name} ({lag} rows)" for name, lag in left.items() if lag)
            log.warning(
                "stopped before everything was delivered; kept for the next start: %s", names
            )

    def _lag(self, name: str) -> int:
        return self.outbox.reader(name).lag

    def _served(self) -> list[str]:
        """Return the sinks that can deliver, or may in a moment: they have just been started."""
        states = {State.UP, State.STARTING}
        return [name for name, sink in self.health.sinks.items() if sink.state in states]

    def _commit_period(self) -> float:
        if self.config.commit is not None:
            return self.config.commit
        periods = [
            d.period_of(tag) for d in self.config.devices.values() for tag in d.tags.values()
        ]
        return min(1.0, max(0.05, min(periods, default=1.0)))

    def _sources(self) -> Sources:
        history = History(self.config.data / "history.db")
        states = {
            f"{name}.{tag}": written.states
            for name, device in self.config.devices.items()
            for tag, written in device.tags.items()
            if written.states
        }
        return Sources(
            site=self.config.site,
            version=__version__,
            clock=self.clock,
            live=self.live,
            health=self.health,
            counts=self.counts,
            store=self.store,
            refused=self._survey.refused,
            running=Standing(self.pipeline.running).rows,
            rows=history.rows,
            states=states,
            targets=self.config.targets(),
        )

    def counts(self) -> LogCounts:
        """Return the committed counts of the log; after the stop, those it was left with."""
        return self._final or self.outbox.counts()

    def store(self) -> StoreHealth:
        """Return how full the log is; at most about a second old."""
        return replace(self._survey.store, commits=self.outbox.commits)

    def newest(self, family: Family) -> list[SampleBlock]:
        """Return the last row of every stream of one family."""
        rows = [self.live.last(schema.stream) for schema in self.live.streams()]
        return [row for row in rows if row is not None and row.schema.family is family]


def _recorded(config: Config, links: list[Link]) -> list[str]:
    """Return the streams of the devices that have their own times: those played from a file."""
    streams = (group.schema for link in links for group in link.driver.groups)
    return [s.stream for s in streams if config.devices[s.owner].spacing is not None]


def _budget(config: Config) -> Budget:
    kept = config.retention
    return Budget.within(kept.raw_bytes, kept.waiting_bytes, kept.raw.ns)


def _live_first(after: float | str, speed: float) -> float | None:
    """Return the seconds that a row may wait before newer ones go first; None: for ever."""
    return None if isinstance(after, str) else after / speed


def _tell(counts: LogCounts) -> None:
    """Say at the stop what became of the rows of every sink, since the log began."""
    for name, rows in counts.readers.items():
        log.info(
            "%s: %d rows delivered, %d refused, %d dropped, %d kept for the next start",
            name, rows.delivered, rows.refused, rows.dropped, rows.pending,
        )  # fmt: skip


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
