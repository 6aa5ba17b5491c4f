"""Node ids as a person writes them.

``nsu=urn:demo:plant;s=Packer1.State``, ``ns=2;s=…``, ``i=2258``, ``g=…``, ``b=…``. A namespace URI
is looked up in the server's namespace array, because its number may change with a restart of the
server (OPC 10000-6, 5.3.1.10). ``;index=3`` behind it is one element of an array.
"""

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from asyncua import ua

_NODE = re.compile(
    r"(?:nsu=(?P<uri>[^;]+);|ns=(?P<index>\d+);)?(?P<type>[isgb])=(?P<id>.+)", re.DOTALL
)
_ELEMENT = re.compile(r";index=(\d{1,9})$")


@dataclass(frozen=True)
class NodeAddress:
    """A node id, its namespace by URI or by number; ``identifier`` as the server knows it.

    element  which one of the array that the value is; None: the value as a whole
    """

    uri: str | None
    index: int
    identifier: int | str | bytes | uuid.UUID
    element: int | None = None

    @classmethod
    def parse(cls, text: str) -> "NodeAddress":
        """Return the address that a person wrote; ``ValueError`` says what would be right.

        source  OPC 10000-6, 5.3.1.10: ``;`` and ``%`` in a URI are written %3B and %25
        """
        element = _ELEMENT.search(text.strip())
        match = _NODE.fullmatch(_ELEMENT.sub("", text.strip()))
        if match is None:
            raise ValueError(
                f'"{text}" is no node id (write nsu=urn:demo:plant;s=Packer1.State or ns=2;i=1001)'
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
        which = None if element is None else int(element[1])
        return cls(unquote(uri) if uri else None, int(match["index"] or 0), identifier, which)

    def node(self, namespaces: Sequence[str]) -> "ua.NodeId | None":
        """Return the node id as this server numbers it; None if it has no such namespace."""
        from asyncua import ua

        index = self.index
        if self.uri is not None:
            if self.uri not in namespaces:
                return None
            index = namespaces.index(self.uri)
        # the library's annotation knows only its own subclasses of int and str; it takes plain ones
        return ua.NodeId(self.identifier, index)  # type: ignore[arg-type]
