"""node-opcua, an OPC UA server written by others, as a process; see ``node_opcua/server.js``."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.process import free_port, listens, program

FOLDER = Path(__file__).parent / "node_opcua"
READY = 15.0  # s; making its key takes a while


class NodeServer:
    """The server; started and stopped any number of times on one port.

    settings  values: (name, built-in type, value); historizing, trusting, limits, before
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        assert (FOLDER / "node_modules").is_dir(), "node-opcua is not installed (run make test)"
        self.port = free_port()
        self.url = f"opc.tcp://127.0.0.1:{self.port}"
        self.settings = {"port": self.port, "folder": str(folder), "trusting": True} | settings
        self._process: asyncio.subprocess.Process | None = None
        self._log = folder / "node.log"

    async def start(self) -> None:
        """Return when it answers."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                program("node"),
                str(FOLDER / "server.js"),
                json.dumps(self.settings),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        async with asyncio.timeout(READY):
            answer = await self._answer()
        assert answer.get("ready") == self.port, answer

    async def _answer(self) -> dict[str, object]:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            line = await self._process.stdout.readline()
            assert line, self._log.read_text()[-2000:]
            if line.startswith(b"{"):  # its own warnings go the same way
                answer = json.loads(line)
                assert isinstance(answer, dict)
                return answer

    async def do(self, command: str, **rest: object) -> dict[str, object]:
        """Give it a command and return its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, **rest}).encode() + b"\n")
        answer = await self._answer()
        assert "error" not in answer, answer
        return answer

    async def until_listening(self) -> float:
        """Return when it has begun to listen, by ``time.monotonic``; ``start`` runs meanwhile."""
        async with asyncio.timeout(READY):
            while self._process is None or not listens(self._process.pid, self.port):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # another process has no event
        return time.monotonic()

    def signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    async def kill(self) -> None:
        """End it without a farewell."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def node_server(
    folder: Path, values: Sequence[tuple[str, str, object]], **settings: object
) -> AsyncIterator[NodeServer]:
    """A started server; killed at the end."""
    server = NodeServer(folder, values=values, **settings)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
