"""One HTTP connection to a database that takes InfluxDB 2's write call; its calls block.

The client library is used for its connection and its errors only: it is handed ready bytes. What
counts as taken is an answer of exactly 204 with a whole head. All else that is not a refusal in the
words of a database keeps the rows: pages of logins and proxies, redirections (a token is not sent
to where a stranger points), half answers, resets.

Source: RFC 9110 (10.2.3 Retry-After, 15.4 redirections), RFC 9112 (8, incomplete messages).
"""

import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING

from edge_agent.clock import SECOND, SystemClock
from edge_agent.errors import Disconnected
from edge_agent.sinks.influx_refusals import TOO_LARGE, Said, short, words_of

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient
    from influxdb_client.service.write_service import WriteService
    from urllib3 import PoolManager

TAKEN = 204
IDLE = 30.0  # seconds after which a connection is not used again
REFUSED = {400, 422}  # a bad line or a conflict of types; a row that the bucket does not keep
NOTHING = "# edge-agent is here\n"  # a comment: a request without a row

ADVICE = {
    401: "mend token (InfluxDB 1: user and password)",
    403: "the login may not write there: mend token or user, or give it the right to write",
    404: "mend bucket or org, or make them in the database",
    405: "this is no InfluxDB: mend url",
}
# what is said of a request without a row, also as plain text: InfluxDB 3 says "incoming write was
# empty"
_EMPTY = re.compile("^[^<]*(was empty|no (points|lines|data)|requires points)", re.IGNORECASE)
NO_CALL = "there is no write call of InfluxDB 2 here (InfluxDB 1 has it from 1.8 on): mend url"


class TooSlow(Disconnected):
    """The peer did not get done in time: it may be asked for less at once."""


@dataclass(frozen=True)
class Target:
    """Where lines are written to.

    timeout    seconds for each of: to connect, to send, to hear something
    precision  of the times in the lines: ``ns us ms s``
    ca         PEM file of the authority that an https server's certificate is checked with
    """

    url: str
    org: str
    bucket: str
    token: str = field(repr=False)
    precision: str
    timeout: float
    gzip: bool
    ca: str | None


class Connection:
    """Sends lines; made new for each connect of the sink."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None
        self._ended = False
        self._client: InfluxDBClient | None = None
        self._service: WriteService | None = None
        self._used = time.monotonic()
        self._bare: str | None = None  # what is said of a request without a row

    def open(self) -> str:
        """Try address, login and bucket with a request without a row; return who answers, in words.

        errors  ``Disconnected``
        """
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.service.write_service import WriteService

        target = self._target
        self._client = InfluxDBClient(
            target.url,
            # http.client writes headers in Latin-1; a password may be anything
            target.token.encode().decode("latin-1"),
            org=target.org,
            timeout=round(target.timeout * 1000),
            ssl_ca_cert=target.ca,
        )
        pools = self._client.api_client.rest_client.pool_manager
        _watch(pools, self)
        self._service = WriteService(self._client.api_client)  # type: ignore[no-untyped-call] # not annotated
        status, _, headers, body = self._exchange(NOTHING, bare=True)
        if status == TAKEN:
            return _kind(headers)
        if status == TOO_LARGE:
            raise Disconnected("413 to an empty request: mend what stands before the database")
        self._bare = short(words_of(body)[0])
        told = f"it answers {status} to a request without rows ({self._bare})"
        return f"{told}; whether it takes rows shows with the first ones only"

    def post(self, text: str) -> Said | None:
        """Return None when the lines are stored, and what the server says when it refuses them.

        errors  ``Disconnected`` when they may be taken another time
        """
        status, phrase, _, body = self._exchange(text)
        if status == TAKEN:
            return None
        words = short(words_of(body)[0])
        if words == self._bare and status != TOO_LARGE:
            told = f"the database answered {status}: {words}; it says so of a request without rows"
            raise Disconnected(f"{told} too: mend this sink")
        return Said(status, phrase, body)

    def confirm(self) -> None:
        """Return when a request without a row is answered as it was in the beginning.

        A server that says no to everything says nothing about rows.
        errors  ``Disconnected``
        """
        status, _, _, body = self._exchange(NOTHING, bare=True)
        words = short(words_of(body)[0])
        if status != TAKEN and words != self._bare:
            told = f"the database answered {status}: {words}; it does so without rows too"
            raise Disconnected(f"{told}: mend this sink or what stands before the database")

    def end(self) -> None:
        """Let nothing be written any more, also by a call that is under way; from any thread."""
        self._ended = True
        if self._socket is not None:
            with suppress(OSError):  # not the one of SSLSocket, which another thread may be in
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self._client is not None:
            self._client.close()  # type: ignore[no-untyped-call] # not annotated

    def opened(self, new: socket.socket | None) -> None:
        """Take note of a socket before anything is sent on it."""
        self._socket = new
        if self._ended and new is not None:
            new.close()
            raise ConnectionAbortedError("the sink was closed")

    def _exchange(
        self, text: str, *, bare: bool = False
    ) -> tuple[int, str, Mapping[str, str], str]:
        """Send text; return status, phrase, headers in lower case and body of a database's answer.

        That is 204, a request too large, or a refusal in a database's words.

        bare  there is no row in it
        """
        from influxdb_client.rest import ApiException
        from urllib3.exceptions import HTTPError

        if self._service is None or self._ended:
            raise Disconnected("there is no connection to the database")
        self._refresh()
        try:
            _, status, headers = self._service.post_write_with_http_info(  # type: ignore[no-untyped-call] # not annotated
                org=self._target.org,
                bucket=self._target.bucket,
                precision=self._target.precision,
                content_type="text/plain; charset=utf-8",
                urlopen_kw={"redirect": False},
                **self._body(text),
            )
            phrase, body = "", ""
        except ApiException as e:
            if not e.status:  # TLS
                raise Disconnected(_unreachable(str(e.reason))) from e
            status, phrase, headers, body = e.status, str(e.reason), e.headers, e.body
        except (HTTPError, OSError, UnicodeDecodeError) as e:
            raise self._failure(e) from e
        found = {name.lower(): value for name, value in (headers or {}).items()}
        if not (bare and status in REFUSED and _EMPTY.search(str(body or ""))):
            _judge(int(status), phrase, found, str(body or ""))
        return int(status), phrase, found, str(body or "")

    def _failure(self, error: BaseException) -> Disconnected:
        """Return what happened below HTTP."""
        from urllib3.exceptions import NewConnectionError
        from urllib3.exceptions import TimeoutError as HttpTimeout

        under = _under(error)
        slow = isinstance(error, HttpTimeout) and not isinstance(error, NewConnectionError)
        if slow or isinstance(under, TimeoutError):  # to send has one that urllib3 does not know
            seconds = f"{self._target.timeout:g} s"
            return TooSlow(f"the database cannot be reached: silent for {seconds}")
        return Disconnected(_unreachable(_words(under)))

    def _refresh(self) -> None:
        """Drop a connection that was idle: something on the way may have forgotten it silently."""
        idle, self._used = time.monotonic() - self._used, time.monotonic()
        if idle > IDLE and self._client is not None:
            self._client.api_client.rest_client.pool_manager.clear()

    def _body(self, text: str) -> dict[str, object]:
        body = text.encode()
        if not self._target.gzip:
            return {"body": body, "content_encoding": "identity"}
        from isal import igzip

        return {"body": igzip.compress(body, compresslevel=1), "content_encoding": "gzip"}


def _judge(status: int, phrase: str, headers: Mapping[str, str], body: str) -> None:
    """Raise ``Disconnected`` unless it is a database that has taken or refused what was sent."""
    page = headers.get("content-type", "").lower().startswith("text/html")
    if status == TAKEN and headers and not page:
        return
    if status == TOO_LARGE or (status in REFUSED and not page and _database(body)):
        return
    if status == TAKEN and not page:
        raise Disconnected("the answer broke off in its head")
    said = short(words_of(body)[0] or phrase)
    told = f"the database answered {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        there = re.sub("//[^/@]*@", "//", headers.get("location", "").partition("?")[0])
        told = f"the address answers {status}: go to {there or '?'}, which is not done: mend url"
    elif status < 300 or (page and status in REFUSED):
        told = f"a web page answered ({status}), not a database: mend url"
    elif status == 404 and not _database(body):
        told += f"; {NO_CALL}"
    elif status in ADVICE:
        told += f"; {ADVICE[status]}; nothing is lost meanwhile"
    elif status in REFUSED:
        told += "; these are not the words of a database: mend url"
    asked = _asked_for(headers)
    if asked:
        told += f"; it asks to be left alone for {asked:.0f} s"
    raise Disconnected(told, retry_after=asked)


def _kind(headers: Mapping[str, str]) -> str:
    """Return who answers and what is known of its rights after a request without a row.

    InfluxDB 1 and 2 look at login, bucket and rights before they look at the rows.
    """
    version = headers.get("x-influxdb-version", "").lstrip("v")
    if "x-influxdb-build" in headers and version[:1] in {"1", "2"}:
        return f"InfluxDB {version}; login, bucket and the right to write are tried"
    if "x-server-hostname" in headers:
        return "VictoriaMetrics, it seems: what it does not take of the rows is in its log only"
    name = f"InfluxDB {version}" if version else "a database that does not say its version"
    return f"{name}; whether the login may write shows with the first rows only"


def _database(body: str) -> bool:
    """Return whether an answer has the form of a database's: JSON with a message.

    What stands in front of one, or on a wrong port (a TLS server answers 400 to plain HTTP), does
    not speak so.
    """
    return body.lstrip().startswith("{") and bool(words_of(body)[0])


def _asked_for(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds the server asks to be left alone, if it does."""
    asked = headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdecimal():
        return float(asked)
    until = _date(asked)
    if until is None:
        return None
    # by the server's own clock where it says what that is
    now = _date(headers.get("date", "")) or datetime.fromtimestamp(
        SystemClock().wall_ns() / SECOND, UTC
    )
    return max(0.0, (until - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _under(error: BaseException) -> BaseException:
    """Return what lies under the errors that urllib3 wraps around it."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return error


def _words(error: BaseException) -> str:
    if isinstance(error, IncompleteRead):
        return "its answer broke off"
    if isinstance(error, RemoteDisconnected):
        return "it ended the connection without an answer"
    if isinstance(error, BadStatusLine):
        return f"it does not speak HTTP ({short(str(error))})"
    if isinstance(error, UnicodeDecodeError):
        return "its answer is no text"
    found = re.sub(r"^\w+\(host=.*?\): (Failed to establish a new connection: )?", "", str(error))
    return found or type(error).__name__


def _unreachable(reason: str) -> str:
    """Return a failure below HTTP in one plain line."""
    reason = short(reason)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return f"the certificate of the database does not pass: mend ca or url ({reason})"
    if "WRONG_VERSION_NUMBER" in reason:
        return "the database does not speak TLS there: write http:// in url, or mend its port"
    return f"the database cannot be reached: {reason}"


def _watch(pools: "PoolManager", connection: Connection) -> None:
    """Tell the connection of every socket that a pool manager of urllib3 opens."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            connection.opened(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            connection.opened(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    pools.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
