"""A wire that can be cut: a TCP forwarder between a client and a real server.

async with Wire(server_port) as wire:
    ...                 # connect the client to wire.port
    wire.stall()        # takes what is sent and brings nothing to the other end
    wire.cut()          # resets every connection, refuses new ones; what stalled is lost
    wire.mend()
    wire.limit(2000)    # bytes a second in each direction; None: no limit
"""

import asyncio
from types import TracebackType


class Wire:
    def __init__(self, target: int) -> None:
        self._target = target
        self._intact = True
        self._flows = asyncio.Event()
        self._flows.set()
        self._cuts = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit: float | None = None
        self.port = 0
        self.forwarded = 0

    async def __aenter__(self) -> "Wire":
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def stall(self) -> None:
        self._flows.clear()

    def cut(self) -> None:
        self._intact = False
        self._cuts += 1
        self._flows.set()
        for end in list(self._ends):
            end.transport.abort()

    def mend(self) -> None:
        self._intact = True
        self._flows.set()

    def limit(self, rate: float | None) -> None:
        self._limit = rate

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._ends.add(writer)
        try:
            if not self._intact:
                writer.transport.abort()
                return
            cuts = self._cuts
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._ends.add(back)
            try:
                if self._cuts != cuts:  # cut while it was being laid
                    back.transport.abort()
                    writer.transport.abort()
                    return
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pump(reader, back))
                    tasks.create_task(self._pump(there, writer))
            finally:
                self._ends.discard(back)
        except OSError:
            writer.transport.abort()
        finally:
            self._ends.discard(writer)
            self._tasks.discard(task)

    def _most(self) -> int:
        """Return how many bytes are carried at once: of a slow wire a tenth of a second's."""
        return 65536 if self._limit is None else max(1, int(self._limit / 10))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        cuts = self._cuts
        try:
            while piece := await source.read(self._most()):
                if self._limit is not None:
                    await asyncio.sleep(len(piece) / self._limit)
                await self._flows.wait()
                if self._cuts != cuts:
                    return
                sink.write(piece)
                await sink.drain()
                self.forwarded += len(piece)
        except OSError:
            return
        finally:
            sink.transport.abort() if not self._intact else sink.close()
