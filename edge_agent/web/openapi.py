"""The OpenAPI document of the API, for whoever writes a client of it."""

Json = dict[str, object]

_NUMBER = {"type": ["number", "null"], "description": "full float64; null exactly where BAD"}
_QUALITY = {
    "type": "integer",
    "minimum": 0,
    "maximum": 255,
    "description": "0-63 good, 64-127 uncertain, 128-255 bad",
}
_MS = {"type": ["integer", "null"], "description": "milliseconds since the Unix epoch, UTC"}
_NS = {"type": "string", "pattern": "^[0-9]+$", "description": "nanoseconds since the epoch, UTC"}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}


def _object(**properties: object) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: object) -> Json:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> Json:
    stream = _object(
        stream=_TEXT, schema=_TEXT, period_s={"type": "number"}, time_ms=_MS, time_ns=_NS
    )
    value = _object(
        stream=_TEXT,
        tag=_TEXT,
        unit=_TEXT,
        kind={"enum": ["gauge", "counter", "state"]},
        value=_NUMBER,
        quality=_QUALITY,
        quality_name=_TEXT,
        time_ms=_MS,
        text={"type": ["string", "null"], "description": "the word for a state's number"},
    )
    device = _object(
        id=_TEXT,
        link={"type": ["string", "null"]},
        state=_TEXT,
        silent=_FLAG,
        streams=_list(stream),
        rows=_list(value),
    )
    figures = {"value": _NUMBER, "quality": _QUALITY, "quality_name": _TEXT}
    said = {"type": ["string", "null"], "description": "what a text column says; others have none"}
    column = _object(name=_TEXT, unit=_TEXT, **figures)
    column["properties"] = {"name": _TEXT, "unit": _TEXT, **figures, "text": said}
    window = _object(
        name={
            "enum": [
                "1min",
                "15min",
                "1h",
                "shift",
                "1d",
                "1mo",
                "1a",
                "12mo",
                "raw",
                "event",
                "batch",
            ]
        },
        stream=_TEXT,
        running={"type": "boolean", "description": "the window is still open and will change"},
        from_ms=_MS,
        end_ms=_MS,
        time_ms=_MS,
        time_ns=_NS,
        columns=_list(column),
    )
    level = _object(name=_TEXT, value={"type": "number"})
    targets = {"type": "object", "additionalProperties": _list(level)}
    link = _object(
        id=_TEXT, devices=_list(_TEXT), state=_TEXT, since_ms=_MS, error=_TEXT, silent=_list(_TEXT)
    )
    site = _object(id=_TEXT, gateway=_TEXT, name=_TEXT, timezone=_TEXT, version=_TEXT)
    states = ("normal", "unacknowledged", "acknowledged", "returned", "latched")
    quiet = ("latched_acknowledged", "shelved", "suppressed", "out_of_service")
    alarm = _object(
        id=_TEXT,
        state={"enum": [*states, *quiet], "description": "ISA-18.2"},
        active={"type": "boolean", "description": "the condition holds"},
        priority={"enum": ["journal", "low", "medium", "high", "critical"]},
        value=_NUMBER,
        limit=_NUMBER,
        unit=_TEXT,
        quality=_QUALITY,
        since_ms=_MS,
        time_ms=_MS,
        raised_1h=_COUNT,
    )
    return {
        "Error": _object(error=_TEXT),
        "Alarm": alarm,
        "Rows": _object(**_rows()),
        "Device": device,
        "Kpi": _object(id=_TEXT, family=_TEXT, targets=targets, windows=_list(window)),
        "State": _object(
            site=site,
            now_ms=_MS,
            speed={"type": "number", "description": "plant seconds per real second"},
            devices=_list(_ref("Device")),
            kpis=_list(_ref("Kpi")),
            alarms=_list(_ref("Alarm")),
            ok=_FLAG,
            faults={"type": "object", "additionalProperties": _TEXT},
            links=_list(link),
            sinks=_list(_ref("Sink")),
            log=_ref("Log"),
        ),
        **_delivery_schemas(),
    }


def _rows() -> Json:
    return {
        "stream": _TEXT,
        "schema": _TEXT,
        "period_s": {"type": "number"},
        "columns": _list(_object(name=_TEXT, unit=_TEXT, kind=_TEXT)),
        "rows": _COUNT,
        "time_ms": _list(_MS),
        "time_ns": _list(_NS),
        "value": {"type": "object", "additionalProperties": _list(_NUMBER)},
        "quality": {"type": "object", "additionalProperties": _list(_QUALITY)},
    }


def _delivery_schemas() -> Json:
    seconds = {"type": "number", "minimum": 0}
    some = {"type": ["integer", "null"], "minimum": 0}
    counts = dict.fromkeys(("delivered", "refused", "dropped"), _COUNT)
    sink = _object(
        id=_TEXT,
        kind=_TEXT,
        state={"enum": ["starting", "up", "down", "failed", "stopped"]},
        since_ms=_MS,
        error=_TEXT,
        last_refusal=_TEXT,
        refused_ms=_MS | {"description": "when it refused rows last, since the start"},
        lag=_COUNT | {"description": "rows that wait"},
        backlog=_COUNT | {"description": "of these, rows in the lane behind live ones"},
        behind_s=seconds | {"description": "age of the oldest waiting row, by its stream's newest"},
        remaining_s=some | {"description": "until it has caught up; null: not known, or it grows"},
        **counts,
        markers=_COUNT | {"description": "gap markers that wait, up to 200; see /api/v1/dropped"},
        conserved=_FLAG,
    )
    names = ("appended", "read", "substituted", "derived", "dropped", "bytes")
    budgets = ("raw_bytes", "raw_budget_bytes", "derived_bytes", "derived_budget_bytes")
    log = _object(
        **dict.fromkeys(names, _COUNT),
        conserved=_FLAG,
        **dict.fromkeys((*budgets, "disk_bytes", "limit_bytes"), _COUNT),
        oldest_ms=_MS,
        kept_s=_COUNT | {"description": "how far back raw rows go"},
        room_s=some | {"description": "how long raw rows can wait before the oldest are dropped"},
        set_aside=_list(_object(name=_TEXT, bytes=_COUNT, time_ms=_MS)),
    )
    told = _FLAG | {"description": "the sink has been given the gap marker in their place"}
    gap = _object(
        sink=_TEXT,
        stream=_TEXT,
        from_ms=_MS,
        to_ms=_MS,
        rows=_COUNT,
        reason={"enum": ["bytes", "age", "corrupt"]},
        told=told,
    )
    kept = {"rows": _COUNT | {"description": "that were refused; the columns hold the first"}}
    refusal = _object(sink=_TEXT, at_ms=_MS, reason=_TEXT, sequence=_COUNT, **(_rows() | kept))
    page = _object(
        refused=_list(refusal),
        next=some | {"description": "skip so many for those before; null: there are none"},
    )
    return {"Sink": sink, "Log": log, "Dropped": gap, "Refused": page}


def _answer(words: str, kind: str, schema: object) -> Json:
    return {"description": words, "content": {kind: {"schema": schema}}}


def _get(summary: str, answers: Json, parameters: list[Json] | None = None) -> Json:
    operation: Json = {"summary": summary, "responses": answers}
    if parameters:
        operation["parameters"] = parameters
    return {"get": operation}


def _parameter(name: str, words: str, example: str, *, required: bool = False) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": words,
        "schema": _TEXT,
        "example": example,
    }


def document(version: str) -> Json:
    """Return the OpenAPI 3.1 document of the API."""
    json, error = "application/json", _answer("what is wrong", "application/json", _ref("Error"))
    time = "ISO 8601 (the site's zone, if none is named) or nanoseconds since the epoch"
    asked = [
        _parameter("stream", "stream id", "clinker/1min", required=True),
        _parameter("from", f"{time}; default: one hour before `to`", "2026-10-05T08:00:00+08:00"),
        _parameter("to", f"{time}; default: now", "2026-10-05T09:00:00+08:00"),
    ]
    state = _answer("everything the page shows", json, _ref("State"))
    health = _answer("links, sinks, log", json, {"type": "object"})
    ready = _answer("what is waited for", json, _object(ready=_FLAG, waiting=_list(_TEXT)))
    live = "event `state`: a State; event `change`: what is new, at most every 500 ms"
    return {
        "openapi": "3.1.0",
        "info": {"title": "edge-agent", "version": version, "description": "Read-only."},
        "paths": {
            "/api/v1/state": _get("Everything the page shows, once", {"200": state}),
            "/api/v1/live": _get(
                "Server-sent events", {"200": _answer(live, "text/event-stream", _TEXT)}
            ),
            "/api/v1/rows": _get(
                "Stored rows with from < time <= to",
                {"200": _answer("rows by column", json, _ref("Rows")), "400": error, "404": error},
                asked,
            ),
            "/api/v1/alarms": _get(
                "Every alarm as it stands, what is not normal first",
                {"200": _answer("alarms", json, _list(_ref("Alarm")))},
            ),
            "/api/v1/refused": _get(
                "Rows that a sink refused for ever, newest first; only the newest are kept",
                {
                    "200": _answer("refusals with reason and values", json, _ref("Refused")),
                    "400": error,
                    "404": error,
                },
                [
                    _parameter("sink", "only of this sink", "broker"),
                    _parameter("most", "refusals in the answer, up to 200; default: 50", "20"),
                    _parameter("skip", "newer ones to pass over: `next` of the answer before", "0"),
                ],
            ),
            "/api/v1/dropped": _get(
                "Rows that left the log before a sink had them, newest first; only the newest",
                {"200": _answer("gap markers", json, _list(_ref("Dropped"))), "404": error},
                [_parameter("sink", "only of this sink", "broker")],
            ),
            "/metrics": _get("Counters", {"200": _answer("Prometheus text", "text/plain", _TEXT)}),
            "/healthz": _get("Is all well", {"200": health, "503": health}),
            "/readyz": _get("Has every link and sink been tried", {"200": ready, "503": ready}),
        },
        "components": {"schemas": _schemas()},
    }
