"""The agent's own counters as Prometheus text (exposition format 0.0.4)."""

import math
from collections.abc import Iterable, Mapping

from edge_agent.health import Commits, Health, LogCounts, ReaderCounts, State, StoreHealth

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

QUANTILES = (0.5, 0.99, 1.0)
Labelled = Iterable[tuple[Mapping[str, str], float]]


def escaped(text: str) -> str:
    """Return a label's value with the three characters escaped that the format reserves."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def exposition(health: Health, counts: LogCounts, store: StoreHealth, version: str) -> str:
    """Return all counters of the agent."""
    nothing = ReaderCounts(0, 0, 0, 0, 0)
    links, sinks = list(health.links.values()), list(health.sinks.values())
    readers = [(sink, counts.readers.get(sink.name, nothing)) for sink in sinks]
    families: list[tuple[str, str, str, Labelled]] = [
        ("agent_info", "gauge", "Version of the agent.", [({"version": version}, 1)]),
        ("agent_start_time_seconds", "gauge", "Start of the agent.", _one(health.started_ns / 1e9)),
        ("agent_ok", "gauge", "1 if nothing needs a person.", _one(health.ok)),
        ("rows_conserved", "gauge", "1 if every row is accounted for.", _one(counts.conserved)),
        ("rows_appended_total", "counter", "Rows appended to the log.", _one(counts.appended)),
        ("rows_derived_total", "counter", "Rows computed from others.", _one(counts.derived)),
        ("rows_late_total", "counter", "Rows for windows closed already.",
         _one(health.rows_late_total)),
        ("log_bytes", "gauge", "Bytes of the log on disk.", _one(counts.bytes)),
        ("log_budget_bytes", "gauge", "Bytes that raw or derived rows may take, each their own.",
         _by_class(store.raw_budget_bytes, store.derived_budget_bytes)),
        ("log_used_bytes", "gauge", "Bytes of a budget that are taken.",
         _by_class(store.raw_bytes, store.derived_bytes)),
        ("log_oldest_row_time_seconds", "gauge", "Time of the oldest raw row that is kept.",
         _one(store.oldest_ns / 1e9)),
        ("log_files_set_aside", "gauge", "Damaged files of the log that nobody has removed yet.",
         _one(len(store.set_aside))),
        ("rows_read_total", "counter", "Rows read, by link.",
         [({"link": link.name}, link.rows_read) for link in links]),
        ("rows_substituted_total", "counter", "Rows that answer for a silent device.",
         [({"link": link.name}, link.rows_substituted) for link in links]),
        ("ticks_missed_total", "counter", "Reads left out because the one before took too long.",
         [({"link": link.name}, link.ticks_missed) for link in links]),
        ("timeouts_total", "counter", "Reads and probes that no unit has answered.",
         [({"link": link.name}, link.timeouts) for link in links]),
        ("probes_total", "counter", "Signs of life that were asked of silent units.",
         [({"link": link.name}, link.probes) for link in links]),
        ("scan_late_seconds", "gauge", "How late the last scan began.",
         [({"link": link.name}, link.late_seconds) for link in links]),
        ("link_events_total", "counter", "What went wrong on a link without costing a value.",
         [({"link": link.name, "event": event}, count)
          for link in links for event, count in link.counts.items()]),
        ("connects_total", "counter", "Connections made.",
         [({"link": link.name}, link.connects) for link in links]),
        ("scan_seconds", "gauge", "Duration of the last scan.",
         [({"link": link.name}, link.scan_seconds) for link in links]),
        ("link_up", "gauge", "1 if the link is up.",
         [({"link": link.name}, link.state is State.UP) for link in links]),
        ("devices_silent", "gauge", "Devices of the link that do not answer.",
         [({"link": link.name}, len(link.silent)) for link in links]),
        ("sink_up", "gauge", "1 if the sink is up.",
         [({"sink": sink.name}, sink.state is State.UP) for sink in sinks]),
        ("sink_lag_rows", "gauge", "Rows that a sink has still to be given.",
         [({"sink": sink.name}, reader.pending) for sink, reader in readers]),
        ("sink_backlog_rows", "gauge", "Rows of the lag that follow in a lane behind live ones.",
         [({"sink": sink.name}, sink.backlog) for sink in sinks]),
        ("sink_behind_seconds", "gauge", "Age of the oldest row in the lag by its stream's newest.",
         [({"sink": sink.name}, sink.behind_seconds) for sink in sinks]),
        ("rows_delivered_total", "counter", "Rows that a sink has acknowledged.",
         [({"sink": sink.name}, reader.delivered) for sink, reader in readers]),
        ("rows_refused_total", "counter", "Rows that a sink has refused for ever.",
         [({"sink": sink.name}, reader.refused) for sink, reader in readers]),
        ("rows_dropped_total", "counter", "Rows deleted before the sink had them, by the budget.",
         [({"sink": sink.name, "reason": "budget"}, reader.dropped) for sink, reader in readers]),
        ("fault", "gauge", "1 for each thing that is wrong now.",
         [({"name": name, "message": message}, 1) for name, message in health.faults.items()]),
    ]  # fmt: skip
    return "".join(_family(*family) for family in families) + _of_commits(store.commits)


def _one(value: float) -> Labelled:
    return [({}, value)]


def _by_class(raw: float, derived: float) -> Labelled:
    return [({"rows": "raw"}, raw), ({"rows": "derived"}, derived)]


def _of_commits(commits: Commits) -> str:
    """Return how long commits take as a summary; the quantiles are of the last 256."""
    ordered, name = sorted(commits.recent), "log_commit_seconds"
    text = _family(name, "summary", "Duration of a group commit, the disk's answer included.", [
        ({"quantile": f"{q:g}"}, ordered[max(0, math.ceil(q * len(ordered)) - 1)])
        for q in QUANTILES if ordered
    ])  # fmt: skip
    return f"{text}{name}_sum {commits.seconds!r}\n{name}_count {commits.count}\n"


def _family(name: str, kind: str, meaning: str, samples: Labelled) -> str:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
        number = repr(float(value)) if value != int(value) else str(int(value))
        lines.append(f"{name}{{{inside}}} {number}" if inside else f"{name} {number}")
    return "\n".join(lines) + "\n"
