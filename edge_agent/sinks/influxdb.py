"""Blocks to InfluxDB 2 (or what speaks its write call) as line protocol.

The lines of several blocks travel in one request of at most ``MOST_LINES`` lines or ``MOST_BYTES``
bytes. A refused request is halved until the refused blocks are found; the others are written. To
write again does no harm: a row has the same series and time each time and replaces itself.

For the same reason two rows of one stream with the same time are one row in InfluxDB, the later one
(a device that pushes can change a state twice within the resolution of its clock). The log and MQTT
have both.

The client library is used for its connection and its errors only. Its ``Point`` costs far more
than the text (``benchmarks/bench_text.py``) and its batching writer can lose rows without an
exception, so it is handed ready bytes.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import orjson

from edge_agent.errors import Disconnected, Refusal, Rejected
from edge_agent.model import Gap, Site
from edge_agent.sinks.base import Item, SinkConfig, address_problem
from edge_agent.sinks.lines import Lines, gap_line
from edge_agent.units import Duration, Secret

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient
    from influxdb_client.service.write_service import WriteService

PORTS = {"http": 8086, "https": 8086}
MOST_LINES = 5_000
MOST_BYTES = 1_000_000

TOO_LARGE = 413
REFUSED = {400, TOO_LARGE, 422}  # bad line or type conflict; …; older than the bucket keeps
ADVICE = {
    401: "the token is not accepted: mend token of this sink; nothing is lost meanwhile",
    403: "the token may not write to the bucket: mend token or bucket; nothing is lost meanwhile",
    404: "the organisation or bucket is not known: mend org or bucket; nothing is lost meanwhile",
}


@dataclass(frozen=True, kw_only=True)
class InfluxConfig(SinkConfig):
    """A database that takes InfluxDB 2's write call.

    url   ``http://host:8086`` or ``https://host:8086``
    ca    PEM file of the authority that an https server's certificate is checked with
    gzip  whether requests are compressed
    """

    kind: ClassVar[str] = "influxdb"

    url: str
    org: str
    bucket: str
    token: Secret
    timeout: Duration = Duration(10.0)
    gzip: bool = True
    ca: str | None = None

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        problem = address_problem(self.url, "a database", PORTS, "key token", folder=True)
        if problem is not None:
            found.append((("url",), problem))
        found += [
            ((name,), f"{name} is empty (write its name)")
            for name in ("org", "bucket")
            if not getattr(self, name)
        ]
        if not self.token.reveal():
            found.append((("token",), "token is empty (write ${INFLUX_TOKEN} or file:/path)"))
        if self.timeout <= 0:
            found.append((("timeout",), "timeout is longer than 0 (write 10s)"))
        return found

    def build(self, site: Site) -> "InfluxSink":
        return InfluxSink(self, site)


@dataclass(frozen=True)
class _Part:
    """Lines of one item: all of them, or some when all are too large for the server."""

    index: int
    lines: list[str]
    size: int


def _pack(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Yield the parts in requests of bounded size, in the order given."""
    request, count, size = list[_Part](), 0, 0
    for part in parts:
        if request and (count + len(part.lines) > MOST_LINES or size + part.size > MOST_BYTES):
            yield request
            request, count, size = [], 0, 0
        request.append(part)
        count, size = count + len(part.lines), size + part.size
    if request:
        yield request


def _halves(request: Sequence[_Part], *, too_large: bool) -> list[list[_Part]]:
    """Return a refused request as two, or nothing when it cannot be made smaller."""
    if len(request) > 1:
        middle = len(request) // 2
        return [list(request[:middle]), list(request[middle:])]
    index, lines = request[0].index, request[0].lines
    if not too_large or len(lines) < 2:
        return []
    middle = len(lines) // 2
    return [[_part(index, lines[:middle])], [_part(index, lines[middle:])]]


def _part(index: int, lines: list[str]) -> _Part:
    return _Part(index, lines, sum(map(len, lines)) + len(lines))


class InfluxSink:
    """The sink of ``InfluxConfig``."""

    def __init__(self, config: InfluxConfig, site: Site) -> None:
        self._config = config
        self._site = site.id
        self._writers: dict[str, Lines] = {}  # by the schema's id
        self._client: InfluxDBClient | None = None
        self._service: WriteService | None = None

    async def connect(self) -> None:
        await self.close()
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        """Make the client and write no line with it, which tries address, token and bucket."""
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.service.write_service import WriteService

        config = self._config
        self._client = InfluxDBClient(
            config.url,
            config.token.reveal(),
            org=config.org,
            timeout=round(config.timeout * 1000),
            ssl_ca_cert=config.ca,
        )
        self._service = WriteService(self._client.api_client)  # type: ignore[no-untyped-call] # not annotated
        self._post("# edge-agent is here\n")  # a comment; some servers answer 400: no lines

    async def write(self, items: Sequence[Item], *, backlog: bool = False) -> None:  # noqa: ARG002
        requests = await asyncio.to_thread(self._requests, items)
        refused: dict[int, str] = {}
        while requests:
            request = requests.pop()
            text = "\n".join(line for part in request for line in part.lines)
            refusal = await asyncio.to_thread(self._post, text)
            if refusal is None:
                continue
            status, reason = refusal
            halves = _halves(request, too_large=status == TOO_LARGE)
            if not halves:
                refused[request[0].index] = f"the database answered {status}: {reason}"
            requests += reversed(halves)
        if refused:
            rows = [0 if isinstance(item, Gap) else len(item) for item in items]
            raise Rejected([Refusal(i, range(rows[i]), why) for i, why in refused.items()])

    async def close(self) -> None:
        client, self._client, self._service = self._client, None, None
        if client is not None:
            client.close()  # type: ignore[no-untyped-call] # not annotated

    def _requests(self, items: Sequence[Item]) -> list[list[_Part]]:
        """Return the requests that hold the items, the last one first."""
        parts = [_part(i, self._lines(item)) for i, item in enumerate(items)]
        return list(_pack(parts))[::-1]

    def _lines(self, item: Item) -> list[str]:
        if isinstance(item, Gap):
            return [gap_line(item, self._site)]
        writer = self._writers.get(item.schema.id)
        if writer is None:
            writer = self._writers[item.schema.id] = Lines(item.schema, self._site)
        return writer.of(item)

    def _post(self, text: str) -> tuple[int, str] | None:
        """Return None when the lines are written, status and reason when the server refuses them.

        errors  ``Disconnected`` when they may be taken another time
        """
        from influxdb_client.rest import ApiException
        from urllib3.exceptions import HTTPError

        if self._service is None:
            raise Disconnected("there is no connection to the database")
        body, encoding = text.encode(), "identity"
        if self._config.gzip:
            from isal import igzip

            body, encoding = igzip.compress(body, compresslevel=1), "gzip"
        try:
            _, status, headers = self._service.post_write_with_http_info(  # type: ignore[no-untyped-call] # not annotated
                org=self._config.org,
                bucket=self._config.bucket,
                body=body,
                precision="ns",
                content_encoding=encoding,
                content_type="text/plain; charset=utf-8",
            )
        except ApiException as e:
            status, reason = int(e.status or 0), _reason(e.body, str(e.reason))
            if status in REFUSED and (status == TOO_LARGE or not _is_page(e.headers)):
                return status, reason
            told = f"the database answered {status}: {reason}" if status else reason
            raise Disconnected(f"{told}; {ADVICE[status]}" if status in ADVICE else told) from e
        except (HTTPError, OSError, UnicodeDecodeError) as e:
            raise Disconnected(f"the database cannot be reached: {e}") from e
        if _is_page(headers):
            raise Disconnected(f"a web page answered ({status}), not a database: mend url")
        return None


def _is_page(headers: Mapping[str, str] | None) -> bool:
    """Return whether an answer is a web page: what it says of the rows is not a database's word.

    A server on the wrong port, or a login in front of it, answers 400 or 200 to anything.
    """
    kind = next((v for k, v in (headers or {}).items() if k.lower() == "content-type"), "")
    return kind.lower().startswith("text/html")


def _reason(body: object, otherwise: str) -> str:
    """Return the server's own words."""
    try:
        answer = orjson.loads(str(body or ""))
    except orjson.JSONDecodeError:
        return str(body or otherwise).strip()[:500]
    if isinstance(answer, dict):
        return str(answer.get("message") or answer.get("error") or otherwise)
    return otherwise
