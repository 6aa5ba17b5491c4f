"""The alarms as they stand: what ``/api/v1/alarms`` and the page show."""

from collections.abc import Sequence

from edge_agent.metrics.alarm import PRIORITIES
from edge_agent.metrics.alarm_states import AlarmState
from edge_agent.model import Family, SampleBlock

Json = dict[str, object]
MS = 1_000_000


def alarms(running: Sequence[SampleBlock]) -> list[Json]:
    """Return every alarm that has judged a row: what is not normal first, then by priority.

    running  the open rows of all metrics
    """
    rows = [row for row in running if row.schema.family is Family.ALARM]
    return sorted(map(_alarm, rows), key=_rank)


def _alarm(block: SampleBlock) -> Json:
    schema, time = block.schema, int(block.time[-1])
    number = {tag.name: float(block.value[i, -1]) for i, tag in enumerate(schema.tags)}
    state = AlarmState(round(number["state"]))
    value, limit = number["value"], number["limit"]
    return {
        "id": schema.owner,
        "state": state.name.lower(),
        "active": bool(number["active"]),
        "priority": PRIORITIES[round(number["priority"])],
        "value": None if value != value else value,  # noqa: PLR0124 (NaN)
        "limit": None if limit != limit else limit,  # noqa: PLR0124 (NaN)
        "unit": schema.tags[schema.index["value"]].unit.code,
        "quality": int(block.quality[schema.index["value"], -1]),
        "since_ms": (time - round(number["duration_s"] * 1e9)) // MS,
        "time_ms": time // MS,
        "raised_1h": round(number["raised_1h"]),
    }


def _rank(alarm: Json) -> tuple[bool, int, str]:
    priority = [*PRIORITIES].index(alarm["priority"])  # type: ignore[arg-type]  # one of them
    return alarm["state"] == "normal", -priority, str(alarm["id"])
