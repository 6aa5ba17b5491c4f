"""The live stream: server-sent events, first the full state, then what has changed.

A change is sent at most every 500 ms of real time and at least every 2 s, so the page's clock and
the open windows go on when no device does. Rows of devices go as columns in the order of the schema
that the full state has named; an unknown schema makes the full state go again.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import orjson

from edge_agent.web.alarms import alarms
from edge_agent.web.sources import Sources
from edge_agent.web.state import MS, Json, change, full_state, health, kpis

FASTEST = 0.5  # seconds of real time between two changes
SLOWEST = 2.0
HEARTBEAT = 10.0


class Viewers:
    """The browsers that are watching, so that a stop can end their streams at once."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.waking: set[asyncio.Event] = set()

    def close(self) -> None:
        """End all streams."""
        self.closing.set()
        for woken in self.waking:
            woken.set()


async def events(sources: Sources, viewers: Viewers) -> AsyncIterator[bytes]:
    """Yield the events of one browser until the server closes."""
    touched: set[str] = set()
    woken = asyncio.Event()

    def listener(stream: str) -> None:
        touched.add(stream)
        woken.set()

    viewers.waking.add(woken)
    try:
        with sources.live.listening(listener):
            viewer = _Viewer(sources)
            yield b"retry: 1000\n\n" + viewer.full()
            beaten = time.monotonic()
            while not await _within(viewers.closing, FASTEST):
                await _within(woken, SLOWEST - FASTEST)
                woken.clear()
                streams = sorted(touched)
                touched.clear()
                yield viewer.changes(streams)
                if time.monotonic() - beaten >= HEARTBEAT:
                    beaten = time.monotonic()
                    yield b": heartbeat\n\n"
    finally:
        viewers.waking.discard(woken)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Return whether the event came within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class _Viewer:
    """What one browser has been told."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._schemas: dict[str, str] = {}
        self._kpis: dict[str, bytes] = {}
        self._health = b""

    def full(self) -> bytes:
        """Return the event with everything."""
        state = full_state(self._sources)
        for stream in _streams(state):
            self._schemas[str(stream["stream"])] = str(stream["schema"])
        self._kpis = {str(kpi["id"]): orjson.dumps(kpi) for kpi in _objects(state["kpis"])}
        self._health = orjson.dumps({key: state[key] for key in _HEALTH})
        return _event("state", state)

    def changes(self, streams: list[str]) -> bytes:
        """Return the event with what is new since the one before."""
        rows: list[Json] = []
        for stream in streams:
            row = change(self._sources, stream)
            if row is None:
                continue
            if self._schemas.get(stream) != row["schema"]:
                return self.full()
            rows.append(row)
        event: Json = {"now_ms": self._sources.clock.wall_ns() // MS, "streams": rows}
        changed = []
        running = self._sources.running()
        for kpi in kpis(self._sources, running):
            written = orjson.dumps(kpi)
            if self._kpis.get(str(kpi["id"])) != written:
                self._kpis[str(kpi["id"])] = written
                changed.append(kpi)
        event |= {"kpis": changed, "alarms": alarms(running)}
        state = health(self._sources)
        if (written := orjson.dumps(state)) != self._health:
            self._health = written
            event |= state
        return _event("change", event)


_HEALTH = ("ok", "faults", "links", "sinks", "log")


def _objects(listed: object) -> list[Json]:
    return (
        [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )


def _streams(state: Json) -> list[Json]:
    return [s for device in _objects(state["devices"]) for s in _objects(device["streams"])]


def _event(name: str, content: Json) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"
