"""How the data arrives: what ``/api/v1/state``, ``…/refused`` and ``…/dropped`` say of it."""

from collections.abc import Iterable, Sequence

from edge_agent.health import Dropped, Health, LogCounts, ReaderCounts, SinkHealth, StoreHealth
from edge_agent.outbox_schema import Aside
from edge_agent.web.columns import columns

Json = dict[str, object]
MS = 1_000_000
REFUSALS, MOST_REFUSALS = 50, 200  # in one answer
VALUES = 2000  # of one refusal; its further rows are counted only
_NOTHING = ReaderCounts(0, 0, 0, 0, 0)


def health(kept: Health, counts: LogCounts, store: StoreHealth) -> Json:
    """Return links, sinks with what waits for them, the log and what is wrong now."""
    return {
        "ok": kept.ok and counts.conserved,
        "faults": dict(kept.faults),
        "links": [
            {
                "id": link.name,
                "devices": list(link.devices),
                "state": link.state.value,
                "since_ms": link.since_ns // MS,
                "error": link.error,
                "silent": sorted(link.silent),
            }
            for link in kept.links.values()
        ],
        "sinks": [_sink(sink, counts, store) for sink in kept.sinks.values()],
        "log": _log(counts) | _store(store),
    }


def _sink(sink: SinkHealth, counts: LogCounts, store: StoreHealth) -> Json:
    reader = counts.readers.get(sink.name, _NOTHING)
    remaining = sink.remaining_seconds
    return {
        "id": sink.name,
        "kind": sink.kind,
        "state": sink.state.value,
        "since_ms": sink.since_ns // MS,
        "error": sink.error,
        "last_refusal": sink.last_refusal,
        "refused_ms": sink.refused_ns // MS or None,
        "lag": reader.pending,
        "backlog": min(sink.backlog, reader.pending),  # they are not of the same moment
        "behind_s": round(sink.behind_seconds, 1),
        "remaining_s": None if remaining is None else round(remaining),
        "delivered": reader.delivered,
        "refused": reader.refused,
        "dropped": reader.dropped,
        "markers": store.markers(sink.name),
        "conserved": reader.conserved,
    }


def _log(counts: LogCounts) -> Json:
    return {
        "appended": counts.appended,
        "read": counts.read,
        "substituted": counts.substituted,
        "derived": counts.derived,
        "dropped": counts.dropped,
        "bytes": counts.bytes,
        "conserved": counts.conserved,
    }


def _store(store: StoreHealth) -> Json:
    room = store.room_seconds
    return {
        "raw_bytes": store.raw_bytes,
        "raw_budget_bytes": store.raw_budget_bytes,
        "derived_bytes": store.derived_bytes,
        "derived_budget_bytes": store.derived_budget_bytes,
        "disk_bytes": store.disk_bytes,
        "limit_bytes": store.limit_bytes,
        "oldest_ms": store.oldest_ns // MS or None,
        "kept_s": round(store.kept_seconds),
        "room_s": None if room is None else round(room),
        "set_aside": [
            {"name": file.name, "bytes": file.bytes, "time_ms": file.at_ns // MS}
            for file in store.set_aside
        ],
    }


def dropped(gaps: Iterable[Dropped], sink: str | None) -> list[Json]:
    """Return what left the log before a sink had it, newest first."""
    return [
        {
            "sink": gap.sink,
            "stream": gap.stream,
            "from_ms": gap.first_ns // MS,
            "to_ms": gap.last_ns // MS,
            "rows": gap.rows,
            "reason": gap.reason,
            "told": gap.told,
        }
        for gap in gaps
        if sink in {None, gap.sink}
    ]


def refused(newest: Sequence[Aside], skip: int, most: int) -> Json:
    """Return refusals with their rows, newest first.

    newest  the newest ones, at least one more than ``skip + most`` if there are so many
    """
    more = len(newest) > skip + most
    return {
        "refused": [_refusal(aside) for aside in newest[skip : skip + most]],
        "next": skip + most if more else None,
    }


def _refusal(aside: Aside) -> Json:
    block = aside.block
    shown = block.rows(0, min(len(block), max(1, VALUES // max(1, len(block.schema.tags)))))
    return {
        "sink": aside.reader,
        "at_ms": aside.at_ns // MS,
        "reason": aside.reason,
        "sequence": aside.sequence,
        **columns(shown),
        "rows": len(block),
    }
