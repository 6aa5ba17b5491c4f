"""OPC UA: one server is one link; tags are polled (a Read per group) or pushed (a subscription).

A tag's ``at`` is a node id as a person writes it: ``nsu=urn:demo:plant;s=Packer1.State``, ``ns=2;s=…``,
``i=2258``, ``g=…``, ``b=…``. A namespace URI is looked up in the server's namespace array at each
connect, because its number may change with a restart of the server (OPC 10000-6, 5.3.1.10).

A server's silence is the link's: a request that is not answered in time ends the connection.
"""

import asyncio
import base64
import binascii
import logging
import re
import uuid
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal
from urllib.parse import unquote

from edge_agent.clock import Clock
from edge_agent.drivers.base import DeviceConfig, Driver, Group, groups_of
from edge_agent.errors import Disconnected
from edge_agent.model import SampleBlock
from edge_agent.units import Duration, Secret

log = logging.getLogger(__name__)

_NODE = re.compile(
    r"(?:nsu=(?P<uri>[^;]+);|ns=(?P<index>\d+);)?(?P<type>[isgb])=(?P<id>.+)", re.DOTALL
)


@dataclass(frozen=True)
class NodeAddress:
    """A node id, its namespace by URI or by number; ``identifier`` as the server knows it."""

    uri: str | None
    index: int
    identifier: int | str | bytes | uuid.UUID

    @classmethod
    def parse(cls, text: str) -> "NodeAddress":
        """Return the address that a person wrote; ``ValueError`` says what would be right.

        source  OPC 10000-6, 5.3.1.10: ``;`` and ``%`` in a URI are written %3B and %25
        """
        match = _NODE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f'"{text}" is no node id (write nsu=urn:demo:plant;s=Packer1.State, ns=2;s=…, ns=2;i=1001)'
            )
        uri, kind, written = match["uri"], match["type"], match["id"]
        identifier: int | str | bytes | uuid.UUID = written
        try:
            if kind == "i":
                identifier = int(written)
            elif kind == "g":
                identifier = uuid.UUID(written)
            elif kind == "b":
                identifier = base64.b64decode(written, validate=True)
        except (ValueError, binascii.Error) as e:
            right = {"i": "a whole number", "g": "a GUID", "b": "base64"}[kind]
            raise ValueError(f'"{text}": after {kind}= stands {right}') from e
        if isinstance(identifier, int) and not 0 <= identifier < 1 << 32:
            raise ValueError(f'"{text}": a numeric node id is 0 to 4294967295')
        return cls(unquote(uri) if uri else None, int(match["index"] or 0), identifier)


@dataclass(frozen=True, kw_only=True)
class Security:
    """How the server knows us and what the line carries.

    certificate, private_key   files (DER or PEM); made, self-signed, at the first connect if neither exists
    server_certificate         the only certificate that is accepted; None: the one the server shows
    """

    policy: Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "None"
    mode: Literal["none", "sign", "sign-and-encrypt"] = "none"
    user: str | None = None
    password: Secret | None = None
    certificate: str | None = None
    private_key: str | None = None
    server_certificate: str | None = None

    def faults(self) -> list[tuple[str, str]]:
        """Return what does not fit together: (key, message)."""
        found = []
        if (self.policy == "None") != (self.mode == "none"):
            found.append(("mode", f"policy {self.policy} does not go with mode {self.mode}"))
        if self.policy != "None":
            found += [
                (
                    name,
                    f"policy {self.policy} needs the path of a {name} (made there if there is none)",
                )
                for name in ("certificate", "private_key")
                if getattr(self, name) is None
            ]
        if self.user is None and self.password is not None:
            found.append(("password", "a password needs a user"))
        return found


@dataclass(frozen=True, kw_only=True)
class OpcUaDevice(DeviceConfig):
    """An OPC UA server, or the part of one that is one machine.

    publish          how often the server may push; state changes in between keep their own time
    clock_tolerance  how far the server's clock may be from the agent's
    """

    schemes: ClassVar[tuple[str, ...]] = ("opc.tcp",)

    timeout: Duration = Duration(4.0)
    security: Security | None = None
    publish: Duration = Duration(0.5)
    clock_tolerance: Duration = Duration(5.0)

    @property
    def endpoint(self) -> str:
        """``connect`` with the port that OPC UA has when none is written."""
        url = self.url
        return url._replace(netloc=url.netloc if url.port else f"{url.netloc}:4840").geturl()

    @property
    def link(self) -> Hashable:
        return (self.endpoint, self.security)

    @classmethod
    def build(cls, devices: Mapping[str, DeviceConfig], clock: Clock) -> Driver:
        return OpcUaDriver({k: d for k, d in devices.items() if isinstance(d, cls)}, clock)

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        try:
            if not self.url.hostname or self.url.port == 0:
                found.append((("connect",), "write opc.tcp://host:4840"))
        except ValueError as e:
            found.append((("connect",), f"{e} (write opc.tcp://host:4840)"))
        if "@" in self.url.netloc:
            found.append(
                (("connect",), "write user and password under security, not in the address")
            )
        for name, tag in self.tags.items():
            try:
                NodeAddress.parse(tag.at)
            except ValueError as e:
                found.append((("tags", name, "at"), str(e)))
        if self.security is not None:
            found += [(("security", key), message) for key, message in self.security.faults()]
        return found


class OpcUaDriver:
    """All devices behind one endpoint."""

    def __init__(self, devices: Mapping[str, OpcUaDevice], clock: Clock) -> None:
        self._clock = clock
        self._groups = {g: n for name, d in devices.items() for g, n in groups_of(name, d).items()}

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._groups)

    async def connect(self) -> None:
        """Open the link. Raises ``Disconnected``."""
        raise Disconnected("not yet")

    async def read(self, group: Group) -> SampleBlock:
        """Return at least one scan."""
        raise Disconnected(group.schema.stream)

    async def close(self) -> None:
        """Close the link; any number of times, also before ``connect``."""
        await asyncio.sleep(0)
