"""Blocks to InfluxDB (or what takes its write call) as line protocol.

InfluxDB 2's write call is what InfluxDB 1.8 and 3 and VictoriaMetrics take as well. The rows of
several blocks travel in one request of at most ``MOST_LINES`` lines or ``MOST_BYTES`` bytes, less
for a server that says 413 or does not get done in time. What of a refused request is refused is
found line by line (``influx_refusals``); all other rows are stored. To write again does no harm: a
row has the same series and time each time and replaces itself.

For the same reason rows of one stream with the same time (as it is sent, see ``precision``) are one
row in InfluxDB: of each field the last value that was there. The log and MQTT have them all.

A request is made, compressed and sent in a thread. ``close`` ends what is under way: no thread
writes after it. What is known of versions that cannot be tried here is taken from their documents:
tried are the engine of InfluxDB 1.6.7 behind the write call of version 2, and VictoriaMetrics.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from edge_agent.errors import Disconnected, Refusal, Rejected
from edge_agent.model import Gap, Kind, Schema, Site
from edge_agent.sinks.base import Item, SinkConfig, address_problem
from edge_agent.sinks.influx_refusals import TOO_LARGE, Line, Refused, Said, answer_of, isolate
from edge_agent.sinks.influx_wire import Connection, Target, TooSlow
from edge_agent.sinks.lines import Lines, gap_line
from edge_agent.units import Duration, Secret

T = TypeVar("T")
Precision = Literal["ns", "us", "ms", "s"]

PORTS = {"http": 8086, "https": 8086}
UNITS: Mapping[str, int] = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
TYPES = {Kind.STATE: "state", Kind.TEXT: "text"}  # of fields; all other kinds are numbers
MOST_LINES = 5_000
MOST_BYTES = 1_000_000
FEWEST_BYTES = 20_000  # in a request to the slowest
GROWTH = 1.05  # of the bound, with each request that is taken
PATIENCE = 3  # time-outs that a request may take as a whole: to connect, to send, to be answered
CLOSING = 2.0  # seconds for a thread to notice that its connection has gone


@dataclass(frozen=True, kw_only=True)
class InfluxConfig(SinkConfig):
    """A database that takes InfluxDB 2's write call.

    url             ``http://host:8086`` or ``https://host:8086``
    org             of InfluxDB 2; the others have none
    bucket          InfluxDB 1: ``database/retention-policy``; InfluxDB 3: the database
    token           of InfluxDB 2 and 3
    user, password  of InfluxDB 1, in place of a token
    precision       of the times that are sent
    timeout         to connect, to send, to hear something
    ca              PEM file of the authority that an https server's certificate is checked with
    gzip            whether requests are compressed
    """

    kind: ClassVar[str] = "influxdb"
    files: ClassVar[tuple[str, ...]] = ("ca",)

    url: str
    org: str = ""
    bucket: str
    token: Secret | None = None
    user: str | None = None
    password: Secret | None = None
    precision: Precision = "ns"
    timeout: Duration = Duration(10.0)
    gzip: bool = True
    ca: str | None = None

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        login = "key token, or the keys user and password"
        problem = address_problem(self.url, "a database", PORTS, login, folder=True)
        if problem is not None:
            found.append((("url",), problem))
        if not self.bucket:
            found.append((("bucket",), "bucket is empty (write its name)"))
        if self.timeout <= 0:
            found.append((("timeout",), "timeout is longer than 0 (write 10s)"))
        return found + self._login_faults()

    def _login_faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if self.token is not None and (self.user is not None or self.password is not None):
            found.append((("token",), "a token and a user are two logins (write one of them)"))
        elif (self.user is None) != (self.password is None):
            given, other = ("password", "user") if self.user is None else ("user", "password")
            found.append(((given,), f"{given} stands without {other} (write both, or a token)"))
        elif self.user is not None and (not self.user or ":" in self.user):
            found.append((("user",), "user is a name without a colon"))
        for name in ("token", "password"):
            secret: Secret | None = getattr(self, name)
            if secret is None:
                continue
            if not secret.reveal():
                found.append(
                    ((name,), f"{name} is empty (write ${{INFLUX_{name.upper()}}} or file:/path)")
                )
            elif any(ord(character) < 32 for character in secret.reveal()):
                found.append(
                    ((name,), f"{name} has a line break or a tab in it (is the file right?)")
                )
        return found

    def remarks(self, streams: Mapping[Schema, float | None]) -> list[str]:
        return [*self._coarse(streams), *_conflicts(streams)]

    def _coarse(self, streams: Mapping[Schema, float | None]) -> Iterator[str]:
        """Yield which streams may have rows that get the same time."""
        step = UNITS[self.precision] / UNITS["s"]
        close = [
            f"{schema.stream} ({'pushed' if period is None else f'every {period:g} s'})"
            for schema, period in streams.items()
            if step > 1e-6 and (period is None or period < step)
        ]
        if close:
            unit = self.precision
            told = f"precision {unit}: rows of a stream within one {unit} become one row; look at "
            yield told + _few(close)

    @property
    def target(self) -> Target:
        """Where its lines go."""
        login = self.token.reveal() if self.token is not None else ""
        if self.user is not None and self.password is not None:
            login = f"{self.user}:{self.password.reveal()}"
        return Target(
            url=self.url,
            org=self.org,
            bucket=self.bucket,
            token=login,
            precision=self.precision,
            timeout=self.timeout,
            gzip=self.gzip,
            ca=self.ca,
        )

    def build(self, site: Site) -> "InfluxSink":
        return InfluxSink(self, site)


def _conflicts(streams: Iterable[Schema]) -> Iterator[str]:
    """Yield the tags of one name that are another type in another stream: a field has one type."""
    types: dict[str, dict[str, list[str]]] = {}
    for schema in streams:
        for tag in schema.tags:
            kind = TYPES.get(tag.kind, "number")
            types.setdefault(tag.name, {}).setdefault(kind, []).append(schema.stream)
    for name, kinds in types.items():
        if len(kinds) > 1:
            there = " but ".join(f"a {kind} in {_few(where)}" for kind, where in kinds.items())
            yield f"{name} is {there}: the rows of one of them will be refused (rename it)"


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


class _Piece(NamedTuple):
    """Rows of one item that follow each other: the number of the first, and their lines."""

    item: int
    first: int
    stream: str
    texts: list[str]

    @property
    def lines(self) -> Iterator[Line]:
        for row, text in enumerate(self.texts, self.first):
            yield Line(self.item, row, self.stream, text)


class InfluxSink:
    """The sink of ``InfluxConfig``."""

    def __init__(self, config: InfluxConfig, site: Site) -> None:
        self._config = config
        self._target = config.target
        self._unit = UNITS[config.precision]
        self._site = site.id
        self._writers: dict[str, Lines] = {}  # by the schema's id
        self._refused = set[
            str
        ]()  # streams: they travel apart, so that the search for them is short
        self._connection: Connection | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._call: asyncio.Future[Any] | None = None  # what the thread does
        self._most = float(MOST_BYTES)  # in a request; less for a slow or narrow peer
        self._peer = ""  # who was reached

    @property
    def remark(self) -> str:
        return self._peer

    async def connect(self) -> None:
        await self.close()
        connection = self._connection = Connection(self._target)
        # of its own: a name that does not resolve must not hold up the threads of all others
        self._threads = ThreadPoolExecutor(1, "influxdb")
        self._peer = await self._threaded(connection.open)

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:  # noqa: ARG002
        if self._connection is None:
            raise Disconnected("there is no connection to the database")
        work = self._written(self._connection, items)

        def one_request() -> list[Refused] | None:
            try:
                next(work)
            except StopIteration as done:
                refused: list[Refused] = done.value
                return refused
            return None

        while (refused := await self._threaded(one_request)) is None:
            pass
        if refused:
            raise Rejected(_refusals(items, refused))

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()
        call, self._call = self._call, None
        if call is not None and not call.done():
            await asyncio.wait({call}, timeout=CLOSING)
        if self._threads is not None:  # an idle thread ends at once
            self._threads.shutdown(wait=call is None or call.done(), cancel_futures=True)

    async def _threaded(self, work: Callable[[], T]) -> T:
        """Do what blocks in a thread, within a bounded time."""
        call = asyncio.get_running_loop().run_in_executor(self._threads, work)
        call.add_done_callback(_seen)
        self._call = call
        patience = PATIENCE * self._config.timeout
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(call)
        except TimeoutError as e:
            await self.close()
            self._narrow(self._most)
            raise Disconnected(f"the database did not come to an end in {patience:g} s") from e

    def _written(
        self, connection: Connection, items: Sequence[Item]
    ) -> Generator[None, None, list[Refused]]:
        """Write the items, one request per step; return what is refused."""
        refused: list[Refused] = []
        for pieces in self._requests(items):
            said = self._post(connection, list(chain.from_iterable(p.texts for p in pieces)))
            yield
            found: list[Refused] = []
            if said is not None:
                found = yield from self._found(connection, pieces, said)
                refused += found
            if found or self._refused:
                self._refused.difference_update(piece.stream for piece in pieces)
                self._refused.update(line.stream for line, _ in found)
        return refused

    def _found(
        self, connection: Connection, pieces: Sequence[_Piece], said: Said
    ) -> Generator[None, None, list[Refused]]:
        """Search a refused request, one request per step."""
        lines = [line for piece in pieces for line in piece.lines]
        first = answer_of(said, lines)
        if not (first.dropped or first.named or first.too_large):  # it may be about anything
            connection.confirm()
            yield
        search, answer = isolate(lines, first), None
        while True:
            try:
                lines = search.send(answer)
            except StopIteration as done:
                found: list[Refused] = done.value
                return found
            again = self._post(connection, [line.text for line in lines])
            answer = None if again is None else answer_of(again, lines)
            yield

    def _requests(self, items: Sequence[Item]) -> Iterator[list[_Piece]]:
        """Yield the rows in requests of bounded size.

        They stand in the order given, but for streams of which rows were refused: these come last.
        """
        request, rows, size, apart = list[_Piece](), 0, 0, False
        for index in sorted(range(len(items)), key=lambda i: self._is_apart(items[i])):
            item, first = items[index], 0
            texts = self._texts(item)
            if self._is_apart(item) and not apart:
                apart = True
                if request:
                    yield request
                    request, rows, size = [], 0, 0
            while first < len(texts):
                part = texts[first : first + MOST_LINES - rows]
                length = sum(map(len, part)) + len(part)
                if size + length > self._most:  # lines of one item are about equally long
                    fitting = max(0, int(len(part) * (self._most - size) / length))
                    part = part[: fitting or not request]
                    length = sum(map(len, part)) + len(part)
                if not part:
                    yield request
                    request, rows, size = [], 0, 0
                    continue
                request.append(_Piece(index, first, item.schema.stream, part))
                first, rows, size = first + len(part), rows + len(part), size + length
        if request:
            yield request

    def _is_apart(self, item: Item) -> bool:
        return item.schema.stream in self._refused

    def _texts(self, item: Item) -> list[str]:
        if isinstance(item, Gap):
            return [gap_line(item, self._site, self._unit)]
        writer = self._writers.get(item.schema.id)
        if writer is None:
            writer = self._writers[item.schema.id] = Lines(item.schema, self._site, self._unit)
        return writer.of(item)

    def _post(self, connection: Connection, texts: list[str]) -> Said | None:
        """Send lines, and learn from it how much the peer takes at once."""
        text = "\n".join(texts)
        try:
            said = connection.post(text)
        except TooSlow:
            self._narrow(len(text))
            raise
        if said is None:
            self._most = min(MOST_BYTES, self._most * GROWTH)
        elif said.status == TOO_LARGE:
            self._narrow(len(text))
        return said

    def _narrow(self, size: float) -> None:
        self._most = min(self._most, max(FEWEST_BYTES, size / 2))


def _seen(call: asyncio.Future[Any]) -> None:
    """Take note of how a call has ended, also when nobody waits for it any more."""
    if not call.cancelled():
        call.exception()


def _refusals(items: Sequence[Item], refused: Sequence[Refused]) -> list[Refusal]:
    """Return what is refused by item and reason; a gap marker has no rows."""
    rows: dict[tuple[int, str], list[int]] = {}
    for line, reason in refused:
        found = rows.setdefault((line.item, reason), [])
        if not isinstance(items[line.item], Gap):
            found.append(line.row)
    return [Refusal(item, sorted(found), reason) for (item, reason), found in sorted(rows.items())]
