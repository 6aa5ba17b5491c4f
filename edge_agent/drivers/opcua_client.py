"""The library's client as this driver needs it: no pace of its own, and answers in columns.

The requests are the library's, but of the answers that hold many values (Publish, Read,
HistoryRead) the columns are taken from the bytes that it has decrypted and put together. An answer
that holds anything else goes to the library's decoder.
"""

import asyncio
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from edge_agent.drivers import opcua_messages as messages
from edge_agent.drivers.opcua_certificates import NAME, application_uri
from edge_agent.drivers.opcua_columns import Columns, Irregular
from edge_agent.drivers.opcua_security import Security
from edge_agent.drivers.opcua_values import columns_of
from edge_agent.errors import Unreachable

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.client.client import Client
    from asyncua.client.ua_client import UaClient
    from asyncua.client.ua_session import UaSession

TCP_CONNECT = 0.8  # s, real: a host on the plant's network accepts sooner, or is away
SESSION_MS = 60_000  # a session that we could not close is forgotten soon; a PLC has few of them
NAMESPACES, CURRENT_TIME = 2255, 2258  # node ids, OPC 10000-6, annex A
UNTRUSTED = "the server does not trust the agent's certificate (accept it there)"
CLOSED = "the server closes the connection: perhaps it does not trust the agent's certificate"
_REFUSED_USER = "the server refuses the user or the password"
_WORDS = {
    "BadUserAccessDenied": _REFUSED_USER,
    "BadIdentityTokenInvalid": _REFUSED_USER,
    "BadIdentityTokenRejected": _REFUSED_USER,
    "BadUserSignatureInvalid": "the server refuses the key of the user's certificate",
    "BadSecurityChecksFailed": UNTRUSTED,
    "BadCertificateUntrusted": UNTRUSTED,
    "BadCertificateInvalid": UNTRUSTED,
    "BadCertificateUriInvalid": "the agent's certificate was made for another machine",
    "BadCertificateTimeInvalid": "the agent's certificate has ended, or a clock is wrong",
    "BadSecurityPolicyRejected": "the server does not offer this security policy",
    "BadSessionIdInvalid": "the server has forgotten the session",
    "BadSessionClosed": "the server has closed the session",
    "BadSecureChannelClosed": "the server has closed the channel",
    "BadSecureChannelIdInvalid": "the server has forgotten the channel",
    "BadTooManySessions": "the server has no session left",
    "BadTooManySubscriptions": "the server has no subscription left",
}
_EPOCH, _NEVER = datetime(1970, 1, 1, tzinfo=UTC), datetime(1601, 1, 1, tzinfo=UTC)


def new_client(endpoint: str, timeout: float) -> "Client":
    """Return a client that neither reconnects nor logs: both are the supervisor's.

    timeout  s, real, for every answer; within it a dead link is noticed, too
    """
    from asyncua.client.client import Client
    from asyncua.common.shortcuts import Shortcuts

    class Impatient(Client):
        """A client that does not wait for a host that is away as long as for a slow answer."""

        async def connect_socket(self) -> None:
            try:
                async with asyncio.timeout(TCP_CONNECT):
                    await super().connect_socket()
            except TimeoutError as e:
                raise Unreachable("the host does not accept connections in time") from e
            except OSError as e:
                raise Unreachable(str(e)) from e

    logging.getLogger("asyncua").setLevel(logging.WARNING)
    # what goes wrong in the client reaches us as an exception and is logged once, in words
    logging.getLogger("asyncua.client").setLevel(logging.CRITICAL + 1)
    client = Impatient(endpoint, timeout, max(1.0, timeout))
    client.name = client.description = NAME
    client.application_uri = application_uri()
    client.session_timeout = max(SESSION_MS, round(4000 * timeout))
    client.uaclient.session = _columnar(client.uaclient)
    client.nodes = Shortcuts(client.uaclient.session)
    return client


def _columnar(client: "UaClient") -> "UaSession":
    """Return a session whose publish responses hold ``Columns`` in place of changed values."""
    from asyncua import ua
    from asyncua.client.ua_session import UaSession
    from asyncua.ua.ua_binary import struct_from_binary
    from asyncua.ua.uaerrors import UaError, UaStructParsingError

    class Columnar(UaSession):
        async def publish(
            self, acks: "list[ua.SubscriptionAcknowledgement]"
        ) -> "ua.PublishResponse":
            request = ua.PublishRequest()
            request.Parameters.SubscriptionAcknowledgements = acks
            answer = await self._send_request(request, timeout=0)
            try:
                return _response(messages.published(bytes(answer)))
            except Irregular:
                pass
            try:
                return struct_from_binary(ua.PublishResponse, answer)
            except (UaError, ValueError, TypeError, LookupError, struct.error) as e:
                raise UaStructParsingError from e  # its number is missed, and it is asked for again

    return Columnar(client)


def _response(taken: messages.Published) -> "ua.PublishResponse":
    """Return what the library's publish loop hands on, with columns in it."""
    from asyncua import ua

    sent = _NEVER
    if taken.published is not None:
        sent = _EPOCH + timedelta(microseconds=taken.published // 1000)
    message = ua.NotificationMessage(taken.number, sent, list(taken.parts))
    result = ua.PublishResult(taken.subscription, NotificationMessage=message)
    return ua.PublishResponse(Parameters=result)


class _Counted(bytes):
    """Elements of an array, encoded, whose length is their number.

    An array is written as the number of its elements and these, a ByteString as the number of its
    bytes and these. So what the library writes as the one is read as the other.
    """

    elements: int

    def __new__(cls, elements: Sequence[bytes]) -> "_Counted":
        made = super().__new__(cls, b"".join(elements))
        made.elements = len(elements)
        return made

    def __len__(self) -> int:
        return self.elements


@cache
def _encoded_read() -> type:
    """Return the class of a read request whose nodes are encoded already."""
    from asyncua import ua

    return make_dataclass(
        "ReadRequest",
        [
            ("TypeId", ua.NodeId),
            ("RequestHeader", ua.RequestHeader),
            ("MaxAge", ua.Double),
            ("TimestampsToReturn", ua.TimestampsToReturn),
            ("NodesToRead", ua.ByteString),
        ],
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """Attributes to read, encoded once."""

    encoded: tuple[bytes, ...]

    @classmethod
    def of(cls, nodes: "Sequence[tuple[ua.NodeId, int | None]]", attribute: int = 13) -> "Asked":
        """Return what asks for an attribute (13: the value) of nodes, or of one array element."""
        from asyncua import ua
        from asyncua.ua.ua_binary import struct_to_binary

        return cls(
            tuple(
                struct_to_binary(
                    ua.ReadValueId(
                        NodeId=node,
                        AttributeId=ua.IntegerId(attribute),
                        IndexRange=None if element is None else ua.String(element),
                    )
                )
                for node, element in nodes
            )
        )

    def __len__(self) -> int:
        return len(self.encoded)


def numbered(number: int) -> "ua.NodeId":
    """Return a node of the standard's own namespace."""
    from asyncua import ua

    return ua.NodeId(ua.Int32(number))


@cache
def server_time() -> Asked:
    """Return what asks for the server's clock."""
    return Asked.of([(numbered(CURRENT_TIME), None)])


async def send(client: "Client", request: object) -> bytes:
    """Return the body of the answer to a request; what a fault says is raised."""
    protocol = client.uaclient.protocol
    if protocol is None:
        raise ConnectionError("connection lost")
    return bytes(await protocol.send_request(request))


def encoded_read(encoded: Sequence[bytes]) -> object:
    """Return a read request of attributes that are encoded already, without time stamps."""
    from asyncua import ua

    plain, neither = ua.ReadRequest(), ua.TimestampsToReturn.Neither
    asked: object = _encoded_read()(
        plain.TypeId, plain.RequestHeader, 0.0, neither, _Counted(encoded)
    )
    return asked


async def read(client: "Client", encoded: Sequence[bytes]) -> Columns:
    """Return what one Read request brings; the number of values may differ from that asked for."""
    from asyncua import ua
    from asyncua.common.utils import Buffer
    from asyncua.ua.ua_binary import struct_from_binary

    answer = await send(client, encoded_read(encoded))
    try:
        return messages.read(answer)
    except Irregular:
        response = struct_from_binary(ua.ReadResponse, Buffer(answer))
        response.ResponseHeader.ServiceResult.check()
        return columns_of(response.Results)


def reason(error: Exception, timeout: float, security: Security | None) -> str:
    """Return in plain words why a link is of no use."""
    from asyncua import ua
    from asyncua.ua.uaerrors import UaStatusCodeError

    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, UaStatusCodeError):
        name = str(ua.StatusCode(error.code).name)
        return f"{_WORDS.get(name, 'the server refuses')} ({name})"
    if isinstance(error, AssertionError) and security is not None and security.secured:
        return UNTRUSTED
    if "No matching endpoints" in str(error) and security is not None:
        return f"the server offers no endpoint with {security.wanted}"
    return str(error) or type(error).__name__
