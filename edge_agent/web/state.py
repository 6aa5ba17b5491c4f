"""The state of the plant as JSON-able data: what ``/api/v1/state`` and the live stream send.

Numbers are the full float64; ``None`` stands exactly where the quality is BAD. Times are given
twice, as whole milliseconds for a browser and as nanoseconds in text: 64-bit integers do not
survive JSON there.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import cast
from zoneinfo import ZoneInfo

from edge_agent.clock import SECOND
from edge_agent.errors import Corrupt, Disconnected
from edge_agent.health import LinkHealth
from edge_agent.metrics.base import Window
from edge_agent.metrics.windows import Calendar
from edge_agent.model import Family, Kind, Quality, SampleBlock, Schema
from edge_agent.web import delivery
from edge_agent.web.alarms import alarms
from edge_agent.web.sources import Sources

Json = dict[str, object]
MS = 1_000_000
_ORDER = ("1min", "15min", "1h", "shift", "1d", "1mo", "1a", "12mo")
# a meter's check speaks up by its alarm: a card for each meter would bury the others
_NO_KPIS = frozenset({Family.SAMPLE, Family.SLOT, Family.ALARM, Family.CHECK})
_NUMBERS = frozenset({Kind.GAUGE, Kind.COUNTER})  # they have no words
_LOOK_BACK = 45 * 86_400 * SECOND  # how far a last closed window is looked for after a restart


def window_span(name: str, time: int, zone: ZoneInfo) -> tuple[int, int] | None:
    """Return start and end of the window that a time belongs to, ns; a border ends its window.

    returns  None for a window without borders that are known here (``shift``)
    """
    return Calendar(zone).window(cast("Window", name), time - 1)


@cache
def quality_name(quality: int) -> str:
    """Return the name of a quality; of its class for a number that is not known."""
    try:
        return Quality(quality).name
    except ValueError:
        return Quality(quality & 0xC0 if quality < Quality.BAD else Quality.BAD).name


def plain(value: float, quality: int) -> float | None:
    """Return the number, or None where it is BAD."""
    return None if quality >= Quality.BAD or value != value else value  # noqa: PLR0124 (NaN)


def full_state(sources: Sources) -> Json:
    """Return everything the page shows."""
    running = sources.running()
    return {
        "site": {
            "id": sources.site.id,
            "gateway": sources.site.gateway,
            "name": sources.site.name,
            "timezone": str(sources.site.zone),
            "version": sources.version,
        },
        "now_ms": sources.clock.wall_ns() // MS,
        "speed": sources.clock.speed,
        "devices": devices(sources),
        "kpis": kpis(sources, running),
        "alarms": alarms(running),
        **health(sources),
    }


def devices(sources: Sources) -> list[Json]:
    """Return every device with its link and the newest value of each of its tags."""
    found: dict[str, list[Schema]] = {
        device: [] for link in sources.health.links.values() for device in link.devices
    }
    for schema in sources.live.streams():
        if schema.family is Family.SAMPLE:
            found.setdefault(schema.owner, []).append(schema)
    links = {device: link for link in sources.health.links.values() for device in link.devices}
    return [_device(sources, name, links.get(name), streams) for name, streams in found.items()]


def _device(sources: Sources, name: str, link: LinkHealth | None, streams: list[Schema]) -> Json:
    newest = [(schema, sources.live.last(schema.stream)) for schema in streams]
    known = [(schema, block) for schema, block in newest if block is not None]
    return {
        "id": name,
        "link": None if link is None else link.name,
        "state": "up" if link is None else link.state.value,
        "silent": link is not None and name in link.silent,
        "streams": [stream_of(schema, block) for schema, block in known],
        "rows": [row for schema, block in known for row in _values(sources, schema, block)],
    }


def stream_of(schema: Schema, block: SampleBlock) -> Json:
    """Return the name, schema and time of a stream's newest row."""
    time = int(block.time[-1])
    return {
        "stream": schema.stream,
        "schema": schema.id,
        "period_s": schema.period,
        "time_ms": time // MS,
        "time_ns": str(time),
    }


def _values(sources: Sources, schema: Schema, block: SampleBlock) -> Iterator[Json]:
    """Yield the newest value of each tag of a stream; there may be a hundred thousand of them."""
    time_ms = int(block.time[-1]) // MS
    newest = zip(block.value[:, -1].tolist(), block.quality[:, -1].tolist(), strict=True)
    for i, (tag, (value, quality)) in enumerate(zip(schema.tags, newest, strict=True)):
        number = plain(value, quality)
        yield {
            "stream": schema.stream,
            "tag": tag.name,
            "unit": tag.unit.code,
            "kind": tag.kind.value,
            "value": number,
            "quality": quality,
            "quality_name": quality_name(quality),
            "time_ms": time_ms,
            "text": None if tag.kind in _NUMBERS else _text(sources, block, i, number),
        }


def _text(sources: Sources, block: SampleBlock, i: int, number: float | None) -> str | None:
    """Return what a state or a text says."""
    tag = block.schema.tags[i]
    if number is not None and tag.kind is Kind.STATE:
        return sources.states.get(f"{block.schema.owner}.{tag.name}", {}).get(round(number))
    return block.text(i, -1)


def change(sources: Sources, stream: str) -> Json | None:
    """Return the newest row of a stream in short: columns in the order of the schema.

    returns  None for what is no device's stream
    """
    block = sources.live.last(stream)
    if block is None or block.schema.family.derived:
        return None
    values, qualities = block.value[:, -1].tolist(), block.quality[:, -1].tolist()
    words = {
        tag.name: sources.states.get(f"{block.schema.owner}.{tag.name}", {}).get(round(value))
        for tag, value, quality in zip(block.schema.tags, values, qualities, strict=True)
        if tag.kind is Kind.STATE and plain(value, quality) is not None
    }
    index = block.schema.index
    words |= {name: block.text(index[name], -1) for name in block.texts if name in index}
    return stream_of(block.schema, block) | {
        "value": [plain(v, q) for v, q in zip(values, qualities, strict=True)],
        "quality": qualities,
        "quality_name": [quality_name(q) for q in qualities],
        "text": words,
    }


def kpis(sources: Sources, open_rows: Sequence[SampleBlock]) -> list[Json]:
    """Return every KPI: of each window the last closed row and the one that is still open."""
    rows = [block for block in open_rows if block.schema.family not in _NO_KPIS]
    running = {block.schema.stream: block for block in rows}
    schemas = {block.schema.stream: block.schema for block in running.values()}
    for schema in sources.live.streams():
        if schema.family not in _NO_KPIS:
            schemas.setdefault(schema.stream, schema)
    owners: dict[str, list[Schema]] = {}
    for schema in sorted(schemas.values(), key=_by_window):
        owners.setdefault(schema.owner, []).append(schema)
    return [
        {
            "id": owner,
            "family": streams[0].family.value,
            "targets": _targets(sources, owner),
            "windows": [
                window
                for schema in streams
                for window in _windows(sources, schema, running.get(schema.stream))
            ],
        }
        for owner, streams in sorted(owners.items(), key=_by_family)
    ]


def _by_family(owned: tuple[str, list[Schema]]) -> tuple[int, str]:
    return list(Family).index(owned[1][0].family), owned[0]


def _by_window(schema: Schema) -> int:
    return _ORDER.index(schema.name) if schema.name in _ORDER else len(_ORDER)


def _targets(sources: Sources, owner: str) -> Json:
    prefix = f"{owner}."
    return {
        column.removeprefix(prefix): [{"name": n, "value": v} for n, v in levels]
        for column, levels in sources.targets.items()
        if column.startswith(prefix)
    }


def _windows(sources: Sources, schema: Schema, running: SampleBlock | None) -> list[Json]:
    closed = sources.live.last(schema.stream) or _closed_before(sources, schema)
    found = [] if closed is None else [_window(sources, closed, running=False)]
    if running is not None:
        found.append(_window(sources, running, running=True))
    return found


def _closed_before(sources: Sources, schema: Schema) -> SampleBlock | None:
    """Return the last closed window from the history: after a restart none is in memory yet."""
    if schema.stream not in sources.closed_before:
        now = sources.clock.wall_ns()
        back = min(_LOOK_BACK, max(1, round(schema.period)) * SECOND * 3)
        try:
            stored = sources.rows(schema.stream, now - back, now)
        except (Disconnected, Corrupt):
            return None  # the history sink reports it; here nothing is shown, and it is tried again
        last = None if stored is None else stored.rows(len(stored) - 1, len(stored))
        sources.closed_before[schema.stream] = last
    return sources.closed_before[schema.stream]


def _window(sources: Sources, block: SampleBlock, *, running: bool) -> Json:
    schema, time = block.schema, int(block.time[-1])
    span = window_span(schema.name, time, sources.site.zone)
    start, end = span if span is not None else (None, None if running else time)
    return {
        "name": schema.name,
        "stream": schema.stream,
        "running": running,
        "from_ms": None if start is None else start // MS,
        "end_ms": None if end is None else end // MS,
        "time_ms": time // MS,
        "time_ns": str(time if end is None else end),
        "columns": [
            {
                "name": tag.name,
                "unit": tag.unit.code,
                "value": plain(float(block.value[i, -1]), int(block.quality[i, -1])),
                "quality": int(block.quality[i, -1]),
                "quality_name": quality_name(int(block.quality[i, -1])),
            }
            | ({"text": block.text(i, -1)} if tag.kind is Kind.TEXT else {})
            for i, tag in enumerate(schema.tags)
        ],
    }


def health(sources: Sources) -> Json:
    """Return links, sinks with what waits for them, the log and what is wrong now."""
    return delivery.health(sources.health, sources.counts(), sources.store())
