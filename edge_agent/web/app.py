"""The page and its API: read-only, everything from ``Sources``, nothing from elsewhere.

``/api/v1/state`` once, ``/api/v1/live`` as it changes, ``/api/v1/rows`` from the history,
``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever watches over the process, and
one page that shows it all.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.clock import SECOND
from edge_agent.errors import Corrupt, Disconnected
from edge_agent.health import State
from edge_agent.web import delivery, prometheus
from edge_agent.web.alarms import alarms
from edge_agent.web.columns import columns
from edge_agent.web.openapi import document
from edge_agent.web.server import WebServer
from edge_agent.web.sources import Levels, Sources
from edge_agent.web.state import full_state
from edge_agent.web.stream import Viewers, events

__all__ = ["Levels", "Sources", "WebServer", "create_app"]

STATIC = Path(__file__).parent / "static"
MOST_ROWS = 50_000
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "draw.js": "text/javascript; charset=utf-8",
    "delivery.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(sources: Sources) -> Starlette:
    """Return the application; it reads the sources when it is asked, never before."""
    routes = [
        Route("/", _static("index.html"), methods=["GET"]),
        *(Route(f"/static/{name}", _static(name), methods=["GET"]) for name in _TYPES),
        Route("/api/v1/state", _state, methods=["GET"]),
        Route("/api/v1/live", _live, methods=["GET"]),
        Route("/api/v1/rows", _rows, methods=["GET"]),
        Route("/api/v1/alarms", _alarms, methods=["GET"]),
        Route("/api/v1/refused", _refused, methods=["GET"]),
        Route("/api/v1/dropped", _dropped, methods=["GET"]),
        Route("/api/v1/openapi.json", _openapi, methods=["GET"]),
        Route("/metrics", _metrics, methods=["GET"]),
        Route("/healthz", _healthz, methods=["GET"]),
        Route("/readyz", _readyz, methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refusal})
    app.state.sources = sources
    app.state.viewers = Viewers()
    app.state.host = "localhost"
    app.add_middleware(_Guard)
    return app


class _Guard:
    """Refuses foreign host names and puts the security headers on every answer.

    A page of another site can make a browser resolve its own name to this box (DNS rebinding); the
    name then stands in ``Host``. An address in figures cannot be rebound, so those pass.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        host = Headers(scope=scope).get("host", "")
        if not _is_ours(host, scope["app"].state.host):
            words = f"this address does not serve {host!r} (use the address it listens on)"
            await _json({"error": words}, 421)(scope, receive, with_headers)
            return
        await self._inner(scope, receive, with_headers)


def _is_ours(host: str, listening: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    name = name.removeprefix("[").removesuffix("]").lower()
    if name in {"localhost", listening.lower()}:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _json(content: object, status: int = 200) -> Response:
    written = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(written, status, media_type="application/json")


async def _refusal(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is nothing at this address", 405: "only GET is answered here"}
    detail = error.detail if isinstance(error, HTTPException) else ""
    return _json({"error": words.get(status, detail) if detail in _STANDARD else detail}, status)


_STANDARD = {"Not Found", "Method Not Allowed"}


def _sources(request: Request) -> Sources:
    sources: Sources = request.app.state.sources
    return sources


def _static(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = (STATIC / name).read_bytes()

    async def endpoint(_request: Request) -> Response:
        headers = {"Cache-Control": "no-cache", "Content-Type": _TYPES[name]}
        return Response(content, headers=headers)

    return endpoint


async def _state(request: Request) -> Response:
    return _json(full_state(_sources(request)))


async def _live(request: Request) -> Response:
    return StreamingResponse(
        events(_sources(request), request.app.state.viewers),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _rows(request: Request) -> Response:
    sources, asked = _sources(request), request.query_params
    _known(request, ("stream", "from", "to"))
    stream = asked.get("stream", "")
    if not stream:
        raise HTTPException(400, "stream is missing (write stream=clinker/1min)")
    end = _time(sources, "to", asked.get("to")) or sources.clock.wall_ns()
    start = _time(sources, "from", asked.get("from"))
    start = max(end - 3600 * SECOND, -(1 << 63)) if start is None else start
    if start >= end:
        raise HTTPException(400, "from is not before to (rows with from < time <= to are returned)")
    try:
        block = await asyncio.to_thread(sources.rows, stream, start, end, MOST_ROWS + 1)
    except (Disconnected, Corrupt) as e:
        raise HTTPException(503, str(e)) from e
    if block is None:
        last = sources.live.last(stream)
        if last is None:
            raise HTTPException(404, f"no stream {stream!r} in the history (KPIs: clinker/1min)")
        block = last.rows(0, 0)
    if len(block) > MOST_ROWS:
        raise HTTPException(400, f"more than {MOST_ROWS} rows (ask for a shorter span)")
    # for so many rows it takes a tenth of a second, in which nothing else would be done
    return await asyncio.to_thread(lambda: _json(columns(block)))


def _known(request: Request, known: Sequence[str]) -> None:
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        words = f"unknown parameter {unknown[0]!r} (known: {', '.join(known)})"
        raise HTTPException(400, words)


def _time(sources: Sources, name: str, text: str | None) -> int | None:
    """Return ns of an ISO time (of the site's zone, if it names none) or of a number of ns."""
    if text is None:
        return None
    plain = re.fullmatch(r"-?\d+", text, re.ASCII)
    ns = int(text) if plain else _iso(sources, name, text)
    if not -(1 << 63) <= ns < 1 << 63:
        raise HTTPException(400, f"{name}={text!r} is not a time that can be stored (1678 to 2262)")
    return ns


def _iso(sources: Sources, name: str, text: str) -> int:
    try:
        # in an unescaped query, + means a space
        written = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
    except ValueError as e:
        raise HTTPException(
            400, f"{name}={text!r} is not a time (write 2026-10-05T08:00:00+08:00 or nanoseconds)"
        ) from e
    local = written.replace(tzinfo=sources.site.zone) if written.tzinfo is None else written
    return round(local.timestamp() * 1_000_000) * 1000


async def _openapi(request: Request) -> Response:
    return _json(document(_sources(request).version))


async def _alarms(request: Request) -> Response:
    return _json(alarms(request.app.state.sources.running()))


async def _refused(request: Request) -> Response:
    sources, sink = _sources(request), _sink(request, ("sink", "most", "skip"))
    most = _number(request, "most", delivery.REFUSALS, 1, delivery.MOST_REFUSALS)
    skip = _number(request, "skip", 0, 0, 1_000_000)

    def told() -> Response:
        return _json(delivery.refused(sources.refused(sink, skip + most + 1), skip, most))

    try:
        return await asyncio.to_thread(told)
    except Corrupt as e:
        raise HTTPException(503, str(e)) from e


def _number(request: Request, name: str, usual: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return usual
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise HTTPException(400, f"{name}={text!r} is not a whole number from {least} to {most}")
    return int(text)


async def _dropped(request: Request) -> Response:
    sources, sink = _sources(request), _sink(request, ("sink",))
    return _json(delivery.dropped(sources.store().dropped, sink))


def _sink(request: Request, known: Sequence[str]) -> str | None:
    """Return the sink that is asked for, or None for all."""
    _known(request, known)
    sinks, sink = _sources(request).health.sinks, request.query_params.get("sink")
    if sink is not None and sink not in sinks:
        raise HTTPException(404, f"no sink {sink!r} (there are: {', '.join(sinks)})")
    return sink


async def _metrics(request: Request) -> Response:
    sources = _sources(request)
    text = prometheus.exposition(sources.health, sources.counts(), sources.store(), sources.version)
    return Response(text, headers={"Content-Type": prometheus.CONTENT_TYPE})


async def _healthz(request: Request) -> Response:
    sources = _sources(request)
    counts = sources.counts()
    ok = sources.health.ok and counts.conserved
    found = sources.health.to_json(counts, sources.store())
    return _json(found, 200 if ok else 503)


async def _readyz(request: Request) -> Response:
    health = _sources(request).health
    waiting = [link.name for link in health.links.values() if link.state is State.STARTING]
    waiting += [sink.name for sink in health.sinks.values() if sink.state is State.STARTING]
    return _json({"ready": not waiting, "waiting": waiting}, 503 if waiting else 200)
