"""The OPC UA driver: polls, subscriptions, and what it believes of the server.

A server's silence is the link's: a request that is not answered in time ends the connection. A
server that answers while its clock (ServerStatus.CurrentTime, read with every poll and when a
subscription is quiet) stands still is frozen: what it says is ``BAD_NO_ANSWER``.

What the server announces of its limits is obeyed; one that refuses a request as too large is asked
for half as many nodes from then on, which is remembered over a restart. A node that it refuses
costs its own column, and is asked for again slowly.
"""

import asyncio
import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import SECOND, Clock, midway
from edge_agent.drivers.base import Group, Vocabulary, apply_flag, groups_of
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_address import NodeAddress
from edge_agent.drivers.opcua_client import (
    CLOSED,
    NAMESPACES,
    UNTRUSTED,
    Asked,
    new_client,
    numbered,
    read,
    reason,
    server_time,
)
from edge_agent.drivers.opcua_columns import Columns, join
from edge_agent.drivers.opcua_history import History
from edge_agent.drivers.opcua_limits import AGAIN, ANNOUNCED, Limits, ServerTime, too_large
from edge_agent.drivers.opcua_rows import SubscriptionRows
from edge_agent.drivers.opcua_subscription import FASTEST, Subscription
from edge_agent.drivers.opcua_values import ABSENT, Scaling
from edge_agent.errors import Disconnected
from edge_agent.model import Quality, SampleBlock

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.client.client import Client

log = logging.getLogger(__name__)

CLOSE = 2.0  # s, real: how long a farewell may take


@dataclass
class _Nodes:
    """The nodes of a group as this server numbers them.

    ids     by column; None: its namespace is not known to the server
    known   columns that can be asked for, with what asks for them
    """

    ids: "list[tuple[ua.NodeId, int | None] | None]"
    known: NDArray[np.intp]
    asked: Asked


class OpcUaDriver:
    """All devices behind one endpoint."""

    def __init__(self, devices: Mapping[str, OpcUaDevice], clock: Clock) -> None:
        self._clock, self._devices = clock, dict(devices)
        self._groups = {
            group: (device, names)
            for name, device in devices.items()
            for group, names in groups_of(name, device).items()
        }
        self._scalings = {g: Scaling.of(d, g.schema, n) for g, (d, n) in self._groups.items()}
        first = next(iter(devices.values()))
        self._endpoint, self._security = first.endpoint, first.security
        if first.security is not None and first.security.in_clear:
            log.warning("%s: without a policy the password may be read on the line", self._endpoint)
        self._timeout = float(max(device.timeout for device in devices.values()))
        asked = [device.max_nodes for device in devices.values() if device.max_nodes is not None]
        self._limits = Limits(configured=min(asked, default=None))
        self._data = Path("data")  # until it is told
        self._client: Client | None = None
        self._nodes: dict[Group, _Nodes] = {}
        self._pushed: dict[Group, Subscription] = {}
        self._floor = 0
        self._thumbprint: str | None = None
        self._said: set[str] = set()  # of certificates, once each
        self._previous = False  # show the certificate before a renewal
        self._time = ServerTime()
        self._histories = {
            name: History(name, device, min(g.schema.period for g in groups_of(name, device)))
            for name, device in devices.items()
            if device.tags
        }
        self._stands = False  # the server's clock does
        self._again_at = 0.0

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._groups)

    def keep_in(self, folder: Path) -> None:
        """Take the folder that certificates are below."""
        self._data = folder

    # ---- what was learnt

    def save(self) -> dict[str, object]:
        """Return the pinned certificate, the sizes that were refused, and the texts' numbers."""
        words = {
            f"{group.schema.stream} {group.schema.tags[column].name}": vocabulary.save()
            for group, scaling in self._scalings.items()
            for column, vocabulary in scaling.words.items()
        }
        return {
            "endpoint": self._endpoint,
            "certificate": self._thumbprint,
            "most": self._limits.learnt,
            "words": words,
            "history": {name: history.save() for name, history in self._histories.items()},
        }

    def load(self, state: Mapping[str, object], /) -> None:
        """Take over what ``save`` returned; what is of another server is passed over."""
        if state.get("endpoint") != self._endpoint:
            return
        pinned, most, words = (state.get(key) for key in ("certificate", "most", "words"))
        self._thumbprint = pinned if isinstance(pinned, str) else None
        self._limits.load(most)
        past = state.get("history")
        for name, history in self._histories.items():
            history.load(past.get(name) if isinstance(past, dict) else None)
        for group, scaling in self._scalings.items():
            for column in scaling.words:
                name = f"{group.schema.stream} {group.schema.tags[column].name}"
                held = words.get(name) if isinstance(words, dict) else None
                if isinstance(held, dict):
                    try:
                        scaling.words[column] = Vocabulary.load(held)
                    except (TypeError, ValueError):
                        log.debug("%s: its texts cannot be read", name)

    # ---- the link

    async def connect(self) -> None:
        """Open the link and begin the subscriptions. Raises ``Disconnected``."""
        await self.close()
        # half a second and more on a small box; the other links' connects must not wait for it
        await asyncio.to_thread(import_module, "asyncua.client.client")
        try:
            with self._failures():
                self._client = client = new_client(self._endpoint, self._timeout)
                thumbprint = await self._introduce(client)
                try:
                    await client.connect()
                except ConnectionError as e:  # some servers say nothing more
                    raise ConnectionError(CLOSED if self._secured else str(e)) from e
                self._thumbprint = thumbprint  # the server has proved that it is its own
                await self._look_up(client)
                self._note_gaps()
                for group in self._groups:
                    if group.period is None:
                        self._pushed[group] = self._subscription(client, group)
                        await self._pushed[group].begin()
        except Disconnected as e:
            if UNTRUSTED in str(e) or CLOSED in str(e):
                # the next try shows the other certificate, if there are two
                self._previous = not self._previous
            raise

    @property
    def _secured(self) -> bool:
        return self._security is not None and self._security.secured

    async def _introduce(self, client: "Client") -> str | None:
        """Prepare a client as the configuration has it; return the server's thumbprint."""
        if self._security is None:
            return self._thumbprint
        thumbprint, notes = await self._security.apply(
            client, self._data, self._thumbprint, previous=self._previous
        )
        for note in notes:
            if note not in self._said:
                log.warning("%s", note)
        self._said.update(notes)
        return thumbprint

    async def read(self, group: Group) -> SampleBlock:
        """Return the rows of the next response: to a Read request, or of the subscription.

        errors  ``Disconnected`` when the server does not answer in time or the session is lost
        """
        if self._client is None:
            raise Disconnected(f"{self._endpoint}: not connected")
        with self._failures():
            if group.period is None:
                block = await self._pushed[group].next_rows()
            else:
                block = await self._poll(self._client, group)
        if block.quality[:, -1].min() < Quality.BAD:
            history = self._histories[group.schema.owner]
            history.until = max(history.until, int(block.time[-1]))
        return block

    async def past(self) -> SampleBlock:
        """Return the next rows of an outage that is over. Raises ``Disconnected``."""
        client = self._client
        if client is None:
            raise Disconnected(f"{self._endpoint}: not connected")
        with self._failures():
            ask = partial(self._read_all, client)
            for device, history in self._histories.items():
                while history.gaps:
                    rows = await history.advance(client, ask, self._ids(device), self._limits)
                    if rows is not None:
                        return rows
        await asyncio.Event().wait()  # until the connection ends
        raise Disconnected(f"{self._endpoint}: connection lost")

    def _note_gaps(self) -> None:
        """Note what each device has been missing."""
        now = self._clock.wall_ns()
        for name, history in self._histories.items():
            device = self._devices[name]
            history.opened(now, device.history.ns, round(2 * history.period * SECOND))

    def _ids(self, device: str) -> "list[tuple[ua.NodeId, int | None] | None]":
        """Return the nodes of a device's tags, in the order written."""
        found: dict[str, tuple[ua.NodeId, int | None] | None] = {}
        for group, (_, names) in self._groups.items():
            if group.schema.owner == device:
                found |= dict(zip(names, self._nodes[group].ids, strict=True))
        return [found[name] for name in self._devices[device].tags]

    async def close(self) -> None:
        """Close the link; any number of times, also before ``connect``."""
        client, self._client = self._client, None
        self._floor = max((self._floor, *(p.rows.last for p in self._pushed.values())))
        self._pushed.clear()
        self._time.forget()
        if client is None:
            return
        try:
            async with asyncio.timeout(CLOSE):
                await client.disconnect()
        except TimeoutError:
            log.debug("%s: did not answer the farewell", self._endpoint)
        finally:
            client.disconnect_socket()
            for _ in range(5):  # the library cancels its tasks but does not wait for them
                await asyncio.sleep(0)

    # ---- polling

    async def _poll(self, client: "Client", group: Group) -> SampleBlock:
        (config, names), scaling = self._groups[group], self._scalings[group]
        k = len(names)
        value, quality = np.full(k, np.nan), np.full(k, Quality.BAD_ADDRESS, np.uint8)
        await self._look_again(client)
        nodes, began = self._nodes[group], self._clock.monotonic()
        answer = await self._read_all(client, (*server_time().encoded, *nodes.asked.encoded))
        time = midway(self._clock, began)
        known, said = nodes.known, answer.part(1, len(answer))
        value[known], quality[known] = scaling.apply(known, said)
        if self._frozen(answer, config.frozen_after):
            value[:], quality[:] = np.nan, Quality.BAD_NO_ANSWER
        rows, marks = value.reshape(k, 1), quality.reshape(k, 1)
        apply_flag(config, group.schema, rows, marks)
        texts = scaling.texts(group.schema, rows)
        return SampleBlock(group.schema, np.array([time], np.int64), rows, marks, texts)

    async def _read_all(self, client: "Client", encoded: Sequence[bytes]) -> Columns:
        """Return as many values as are asked for, by as many requests as the server needs."""
        from asyncua.ua.uaerrors import UaStatusCodeError

        parts: list[Columns] = []
        start = 0
        while start < len(encoded):
            asked = encoded[start : start + self._limits["read"]]
            try:
                part = await read(client, asked)
            except UaStatusCodeError as e:
                if not too_large(e.code) or not self._limits.refused("read", len(asked)):
                    raise
                log.info("%s: %d nodes are too many for it", self._endpoint, len(asked))
                continue
            parts.append(part.part(0, len(asked)))
            if len(part) < len(asked):
                missing = Columns.empty(len(asked) - len(part))
                missing.status[:] = ABSENT
                parts.append(missing)
            start += len(asked)
        return join(parts)

    def _frozen(self, answer: Columns, patience: float) -> bool:
        """Return whether the server's clock, the first value of an answer, stands still."""
        said = float(answer.number[0])
        known = np.isfinite(said) and answer.status[0] >> 30 < 2
        still = self._time.still(said if known else None, asyncio.get_running_loop().time())
        if self._stands != (still >= patience):
            self._stands = not self._stands
            if self._stands:
                log.warning("%s answers, but its clock stands still", self._endpoint)
            else:
                log.info("%s: its clock goes on", self._endpoint)
        return self._stands

    async def _is_frozen(self, client: "Client", patience: float) -> bool:
        return self._frozen(await self._read_all(client, server_time().encoded), patience)

    # ---- what the server is like

    async def _look_up(self, client: "Client") -> None:
        """Learn the namespaces and limits of the server, and what its nodes are called there."""
        namespaces = await self._namespaces(client)
        wanted = Asked.of([(numbered(i), None) for i in ANNOUNCED.values()])
        said = await self._read_all(client, wanted.encoded)
        self._limits.announce(dict(zip(ANNOUNCED, said.number.tolist(), strict=True)))
        self._find(namespaces, self._groups)
        for group, nodes in self._nodes.items():
            device, names = self._groups[group]
            missing = {
                device.tags[name].at
                for name, node in zip(names, nodes.ids, strict=True)
                if node is None
            }
            for uri in {NodeAddress.parse(at).uri for at in missing}:
                log.warning("%s: the server has no namespace %s", group.schema.owner, uri)

    async def _namespaces(self, client: "Client") -> list[str]:
        from asyncua import ua

        asked = ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Neither)
        asked.NodesToRead = [ua.ReadValueId(numbered(NAMESPACES), ua.IntegerId(13))]
        (answer,) = await client.uaclient.session.read(asked)
        found = None if answer.Value is None else answer.Value.Value
        self._again_at = asyncio.get_running_loop().time() + AGAIN
        return [str(uri) for uri in found or ()]

    def _find(self, namespaces: Sequence[str], groups: Iterable[Group]) -> None:
        """Note what the nodes of some groups are called by a server with these namespaces."""
        for group in groups:
            device, names = self._groups[group]
            addresses = [NodeAddress.parse(device.tags[name].at) for name in names]
            ids: list[tuple[ua.NodeId, int | None] | None] = []
            for address in addresses:
                node = address.node(namespaces)
                ids.append(None if node is None else (node, address.element))
            known = np.array([i for i, node in enumerate(ids) if node is not None], np.intp)
            self._nodes[group] = _Nodes(ids, known, Asked.of([i for i in ids if i is not None]))

    async def _look_again(self, client: "Client") -> None:
        """Look for namespaces that were not there, from time to time."""
        lacking = [g for g, nodes in self._nodes.items() if None in nodes.ids]
        if lacking and asyncio.get_running_loop().time() >= self._again_at:
            self._find(await self._namespaces(client), lacking)

    def _subscription(self, client: "Client", group: Group) -> Subscription:
        """Return the subscription of a pushed group, its times in real seconds."""
        config, _ = self._groups[group]
        speed, keep_alive = self._clock.speed, group.schema.period / self._clock.speed
        rows = SubscriptionRows(
            config,
            group.schema,
            self._scalings[group],
            self._clock,
            tolerance=round(config.clock_tolerance.ns * speed),
            keep_alive=group.schema.period,
            floor=max(self._floor, self._clock.wall_ns()),
        )

        async def nodes() -> "Sequence[tuple[ua.NodeId, int | None] | None]":
            await self._look_again(client)
            return self._nodes[group].ids

        return Subscription(
            group,
            client.uaclient.session,
            rows,
            nodes,
            lambda: self._is_frozen(client, config.frozen_after),
            float(config.frozen_after),
            publish=max(FASTEST, min(config.publish / speed, keep_alive)),
            keep_alive=keep_alive,
            limits=self._limits,
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the library raises when the link is of no use into ``Disconnected``."""
        from asyncua.ua.uaerrors import UaError

        try:
            yield
        except Disconnected as e:
            raise type(e)(f"{self._endpoint}: {e}") from e
        # an assertion is how the library reports a secure channel that the server has closed, a
        # ValueError or struct.error is an answer that cannot be decoded
        except (OSError, UaError, AssertionError, ValueError, struct.error) as e:
            words = reason(e, self._timeout, self._security)
            raise Disconnected(f"{self._endpoint}: {words}") from e
