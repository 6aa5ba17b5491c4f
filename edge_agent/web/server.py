"""uvicorn in the agent's own loop: no signal handlers, no access log, a stop that is bounded."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from edge_agent.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

STOP = 3.0  # seconds that open requests have at a stop


def split_address(listen: str) -> tuple[str, int]:
    """Return host and port of ``127.0.0.1:8080`` or ``[::1]:8080``; port 0: any free one."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError([f'{listen!r} is not an address to listen on (write "127.0.0.1:8080")'])
    return host, int(port)


class WebServer:
    """Serves one application until it is stopped."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._app: Starlette | None = None

    async def start(self, app: Starlette, listen: str) -> str:
        """Return the address that is listened on, ``127.0.0.1:8080``.

        errors  ``ConfigError`` when the address is not ours or taken
        """
        import uvicorn

        class Quiet(uvicorn.Server):
            """Leaves the signals to the agent."""

            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        host, port = split_address(listen)
        bound = _bind(host, port)
        app.state.host = host
        self._app = app
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            log_level="warning",
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=2,
        )
        self._server = Quiet(config)
        self._task = asyncio.create_task(self._server.serve([bound]), name="web")
        while not self._server.started:
            if self._task.done():
                await self._task  # raises what went wrong
                raise RuntimeError("the web server ended while it was starting")
            await asyncio.sleep(0.005)
        name = f"[{host}]" if ":" in host else host
        return f"{name}:{bound.getsockname()[1]}"

    async def stop(self) -> None:
        """End the live streams, let short requests finish, close; any number of times."""
        if self._server is None or self._task is None or self._app is None:
            return
        self._app.state.viewers.close()
        self._server.should_exit = True
        done, _ = await asyncio.wait([self._task], timeout=STOP)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._server = self._task = None


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET  # a name
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.setblocking(False)
    except OSError as e:
        bound.close()
        reason = e.strerror or str(e)
        raise ConfigError(
            [f"cannot listen on {host}:{port}: {reason} (choose a free port of this box)"]
        ) from e
    return bound
