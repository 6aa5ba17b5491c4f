"""``edge-agent browse``: the address tree of an OPC UA server, with values, to be pasted as tags.

Nodes are browsed breadth first, many per request, within the limits that the server announces and
through its continuation points; values are read as they are found, so that whatever ends the work
early, what was found until then is whole.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.config.words import nearest
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_address import NodeAddress
from edge_agent.drivers.opcua_client import new_client, reason
from edge_agent.drivers.opcua_security import Security
from edge_agent.errors import ConfigError, Disconnected
from edge_agent.tools.nodes import Variable, address, matches, unit_of
from edge_agent.units import Duration

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.client.client import Client

OBJECTS, SERVER, HIERARCHICAL, HAS_PROPERTY, NAMESPACES = 85, 2253, 33, 46, 2255
LIMITS = {"read": 11705, "browse": 11710}  # OPC 10000-5, 6.3.11: MaxNodesPerRead, …PerBrowse
VALUE, DATA_TYPE = 13, 14
AT_ONCE = 50  # nodes per request where the server does not say; small PLCs bear no more
CLOSE = 2.0  # s that a farewell may take
REFERENCES = 500  # per node and answer; the rest comes by continuation points
PROPERTIES = {"EngineeringUnits", "EURange", "EnumStrings", "EnumValues"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What to browse: from where, how deep, which variables, and how many nodes at most."""

    url: str
    path: str = ""
    depth: int = 8
    match: str | None = None
    most: int = 5000
    timeout: Duration = Duration(4.0)
    security: Security | None = None
    data: Path = Path("data")


@dataclass
class _Node:
    """A node on the way: where it is, how it is called, what hangs on it."""

    id: "ua.NodeId"
    path: tuple[str, ...]
    is_variable: bool
    properties: dict[str, "ua.NodeId"] = field(default_factory=dict)


class Browse:
    """One look at a server; what was found so far can be shown at any time."""

    def __init__(self, look: Look, progress: Callable[[str], None]) -> None:
        self.look = look
        self.device = device_at(look)
        self.variables: list[Variable] = []
        self.nodes = 0
        self.is_full = False
        self.namespaces: list[str] = []
        self._progress = progress
        self._limits = dict.fromkeys(LIMITS, AT_ONCE)
        self._seen: set[str] = set()

    async def run(self) -> None:
        """Browse; raises ``Disconnected``, ``ConfigError`` for a path that is not there."""
        async with self._client() as client:
            await self._look_up(client)
            start = await self._start(client)
            await self._walk(client, start)
        self._progress("")

    @asynccontextmanager
    async def _client(self) -> AsyncIterator["Client"]:
        import struct

        from asyncua.ua.uaerrors import UaError

        timeout, security = float(self.look.timeout), self.look.security
        client = new_client(self.device.endpoint, timeout)
        try:
            if security is not None:
                await security.apply(client, self.look.data, None)
            await client.connect()
            try:
                yield client
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE):
                        await client.disconnect()
        except Disconnected as e:
            raise Disconnected(f"{self.device.endpoint}: {e}") from e
        except (OSError, UaError, AssertionError, ValueError, struct.error) as e:
            why = reason(e, timeout, security)
            raise Disconnected(f"{self.device.endpoint}: {why}") from e
        finally:
            client.disconnect_socket()

    async def _look_up(self, client: "Client") -> None:
        from asyncua import ua

        ids = [ua.NodeId(ua.Int32(n)) for n in (NAMESPACES, *LIMITS.values())]
        said = await self._read(client, [(node, VALUE) for node in ids])
        found = [None if a.Value is None else a.Value.Value for a in said]
        self.namespaces = [str(uri) for uri in found[0] or ()]
        for name, limit in zip(LIMITS, found[1:], strict=True):
            if isinstance(limit, int) and limit > 0:
                self._limits[name] = min(limit, 500)

    # ---- where to begin ----

    async def _start(self, client: "Client") -> _Node:
        """Return the node of ``path``: a node id, or browse names from Objects on."""
        from asyncua import ua

        objects = _Node(ua.NodeId(ua.Int32(OBJECTS)), (), is_variable=False)
        text = self.look.path.strip("/ ")
        if not text:
            return objects
        try:
            wanted = NodeAddress.parse(text)
        except ValueError:
            return await self._along(client, objects, text)
        node = wanted.node(self.namespaces)
        if node is None:
            hint = nearest(wanted.uri or "", self.namespaces)
            raise ConfigError([f"browse: --path: the server has no namespace {wanted.uri}{hint}"])
        return _Node(node, (), is_variable=False)

    async def _along(self, client: "Client", node: _Node, text: str) -> _Node:
        names = text.split("/")
        for name in names[1:] if names[0] == "Objects" else names:
            (children,) = await self._children(client, [node])
            found = [child for child in children if child.path[-1] == name]
            if not found:
                there = nearest(name, [child.path[-1] for child in children])
                raise ConfigError([f'browse: --path: there is no "{name}" in it{there}'])
            node = _Node(found[0].id, (), found[0].is_variable)
        return node

    # ---- the tree ----

    async def _walk(self, client: "Client", start: _Node) -> None:
        level = [start]
        for _ in range(self.look.depth):
            below: list[_Node] = []
            for i in range(0, len(level), self._limits["browse"]):
                part = level[i : i + self._limits["browse"]]
                for children in await self._children(client, part):
                    below += self._new(children, start)
                self._progress(f"{self.nodes} nodes, {len(self.variables)} variables found")
                if self.is_full:
                    break
            variables = [node for node in below if node.is_variable]
            await self._find_properties(client, variables)
            await self._read_variables(client, variables)
            level = [node for node in below if not node.is_variable or not node.properties]
            if not level or self.is_full:
                return

    def _new(self, children: Sequence[_Node], start: _Node) -> Iterator[_Node]:
        from asyncua import ua

        server = ua.NodeId(ua.Int32(SERVER))
        for child in children:
            key = child.id.to_string()
            if key in self._seen or (child.id == server and start.id != server):
                continue
            if self.nodes >= self.look.most:
                self.is_full = True
                return
            self._seen.add(key)
            self.nodes += 1
            yield child

    async def _find_properties(self, client: "Client", variables: Sequence[_Node]) -> None:
        for i in range(0, len(variables), self._limits["browse"]):
            part = variables[i : i + self._limits["browse"]]
            for node, found in zip(
                part, await self._references(client, part, HAS_PROPERTY), strict=True
            ):
                node.properties = {r.BrowseName.Name: r.NodeId for r in found}

    async def _children(self, client: "Client", nodes: Sequence[_Node]) -> list[list[_Node]]:
        """Return the objects and variables below each node; properties are none of them."""
        from asyncua import ua

        has_property = ua.NodeId(ua.Int32(HAS_PROPERTY))
        found = await self._references(client, nodes, HIERARCHICAL)
        return [
            [
                _Node(
                    r.NodeId,
                    (*node.path, str(r.BrowseName.Name)),
                    r.NodeClass is ua.NodeClass.Variable,
                )
                for r in references
                if r.ReferenceTypeId != has_property
            ]
            for node, references in zip(nodes, found, strict=True)
        ]

    async def _references(
        self, client: "Client", nodes: Sequence[_Node], kind: int
    ) -> "list[list[ua.ReferenceDescription]]":
        """Return the forward references of each node, followed to their end."""
        from asyncua import ua

        asked = ua.BrowseParameters(RequestedMaxReferencesPerNode=REFERENCES)
        asked.NodesToBrowse = [
            ua.BrowseDescription(
                NodeId=node.id,
                BrowseDirection=ua.BrowseDirection.Forward,
                ReferenceTypeId=ua.NodeId(ua.Int32(kind)),
                IncludeSubtypes=True,
                NodeClassMask=ua.NodeClass.Object | ua.NodeClass.Variable,
                ResultMask=ua.BrowseResultMask.All,
            )
            for node in nodes
        ]
        session = client.uaclient.session
        results = list(await session.browse(asked))
        found = [list(result.References) for result in results]
        points = [result.ContinuationPoint for result in results]
        while left := [i for i, point in enumerate(points) if point]:
            on = ua.BrowseNextParameters(ReleaseContinuationPoints=False)
            on.ContinuationPoints = [points[i] for i in left]
            for i, result in zip(left, await session.browse_next(on), strict=True):
                found[i] += result.References
                points[i] = result.ContinuationPoint
        return found

    # ---- values ----

    async def _read(
        self, client: "Client", asked: "Sequence[tuple[ua.NodeId, int]]"
    ) -> "list[ua.DataValue]":
        from asyncua import ua

        answers: list[ua.DataValue] = []
        for i in range(0, len(asked), self._limits["read"]):
            request = ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Neither)
            request.NodesToRead = [
                ua.ReadValueId(node, ua.IntegerId(attribute))
                for node, attribute in asked[i : i + self._limits["read"]]
            ]
            answers += await client.uaclient.session.read(request)
        return answers

    async def _read_variables(self, client: "Client", nodes: Sequence[_Node]) -> None:
        values = await self._read(client, [(node.id, VALUE) for node in nodes])
        wanted = [
            (i, name, held)
            for i, node in enumerate(nodes)
            for name, held in node.properties.items()
            if name in PROPERTIES
        ]
        said = await self._read(client, [(held, VALUE) for _, _, held in wanted])
        facts: list[dict[str, object]] = [{} for _ in nodes]
        for (i, name, _), answer in zip(wanted, said, strict=True):
            if answer.Value is not None:
                facts[i][name] = answer.Value.Value
        for node, value, known in zip(nodes, values, facts, strict=True):
            variable = self._variable(node, value, known)
            if matches(variable, self.look.match):
                self.variables.append(variable)

    def _variable(self, node: _Node, answer: "ua.DataValue", facts: dict[str, object]) -> Variable:
        index = node.id.NamespaceIndex
        uri = self.namespaces[index] if 0 < index < len(self.namespaces) else ""
        variant, status = answer.Value, answer.StatusCode
        value = None if variant is None else variant.Value
        array = len(value) if isinstance(value, list) else None
        unit = getattr(getattr(facts.get("EngineeringUnits"), "DisplayName", None), "Text", None)
        limits = facts.get("EURange")
        low, high = getattr(limits, "Low", None), getattr(limits, "High", None)
        is_bad = status is not None and not status.is_good()
        return Variable(
            path=node.path,
            address=address(node.id.Identifier, uri),
            type="unknown" if variant is None else str(variant.VariantType.name),
            value=value,
            why=str(status.name) if is_bad and status is not None else "",
            array=array,
            unit=unit_of(str(unit)) if unit else "",
            range=(float(low), float(high)) if low is not None and high is not None else None,
            states=_states(facts),
        )


def _states(facts: dict[str, object]) -> dict[int, str]:
    strings, values = facts.get("EnumStrings"), facts.get("EnumValues")
    if isinstance(values, list):
        return {int(v.Value): str(v.DisplayName.Text) for v in values}
    if isinstance(strings, list):
        return {i: str(text.Text) for i, text in enumerate(strings)}
    return {}


def device_at(look: Look) -> OpcUaDevice:
    """Return the server as a device; ``ConfigError`` when address or security is none."""
    if not look.url.startswith("opc.tcp://"):
        raise ConfigError([f"browse: {look.url}: browse reads opc.tcp://host:4840 (scan: modbus)"])
    device = OpcUaDevice(connect=look.url, timeout=look.timeout, security=look.security)
    wrong = [f"browse: {look.url}: {message}" for _, message in device.faults()]
    if wrong:
        raise ConfigError(wrong)
    return device
