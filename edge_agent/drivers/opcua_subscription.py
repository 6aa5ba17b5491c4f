"""One subscription of a living session: what is asked for, and its responses in order.

The library hands over every publish response through one callback, one after the other and waiting
for each, so a full queue here holds back its next request and nothing is dropped on our side. Its
own handlers are not used: they run as tasks that may overtake each other, or drop what a full queue
does not take.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.drivers.base import Group
from edge_agent.drivers.opcua_columns import Columns, join
from edge_agent.drivers.opcua_limits import AGAIN, Limits, too_large
from edge_agent.drivers.opcua_rows import SubscriptionRows
from edge_agent.drivers.opcua_values import columns_of, nanoseconds, quality_of
from edge_agent.errors import Disconnected
from edge_agent.model import Quality, SampleBlock, concatenate

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.client.ua_session import UaSession

log = logging.getLogger(__name__)

FASTEST = 0.05  # s, real: no publishing interval below this
LIFETIME = 60.0  # s, real, without our requests, after which the server forgets a subscription
QUEUE = 1000  # values of one item that the server keeps between two publish responses
SAMPLES = 5  # the server looks at an item so often per publishing interval
BACKLOG = 64  # responses not yet read
OVERDUE = 1.0  # s, real: shorter waits than this are the scheduler's, not the server's
PATIENCE = 3  # times in a row that responses are overdue before the link is given up
MISSING = 100  # messages asked for again at most


@dataclass
class Subscription:
    """The subscription of one pushed group.

    find        the nodes by column; None: its namespace is not known to the server
    frozen      asks whether the server's clock stands still
    look        real seconds without a response after which it is asked
    keep_alive  real seconds from one response to the next at most, as the server has revised it
    expected    number of the next message; None before the first
    """

    group: Group
    session: "UaSession"
    rows: SubscriptionRows
    find: "Callable[[], Awaitable[Sequence[tuple[ua.NodeId, int | None] | None]]]"
    frozen: Callable[[], Awaitable[bool]]
    look: float
    publish: float
    keep_alive: float
    limits: Limits
    responses: "asyncio.Queue[ua.PublishResult]" = field(
        default_factory=lambda: asyncio.Queue(BACKLOG)
    )
    id: int = 0
    items: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    again_at: float = 0.0
    expected: int | None = None
    silences: int = 0
    still: bool = False

    async def begin(self) -> None:
        """Create the subscription and its monitored items; their values are the first to come."""
        from asyncua import ua

        asked = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=self.publish * 1e3,
            RequestedMaxKeepAliveCount=self._count(self.publish),
            RequestedLifetimeCount=max(30, int(LIFETIME / self.publish)),
        )
        answer = await self.session.create_subscription(asked, self.responses.put)
        self.id, self.publish = answer.SubscriptionId, answer.RevisedPublishingInterval / 1e3
        count = answer.RevisedMaxKeepAliveCount
        if count > self._count(self.publish):  # the server has made the interval longer
            changed = ua.ModifySubscriptionParameters(
                SubscriptionId=self.id,
                RequestedPublishingInterval=answer.RevisedPublishingInterval,
                RequestedMaxKeepAliveCount=self._count(self.publish),
                RequestedLifetimeCount=asked.RequestedLifetimeCount,
            )
            count = (await self.session.update_subscription(changed)).RevisedMaxKeepAliveCount
        self.keep_alive = max(self.keep_alive, self.publish * count)
        await self._monitor(range(len(self.group.schema.tags)))

    async def next_rows(self) -> SampleBlock:
        """Return the rows of the next response, or the row of its absence.

        errors  ``Disconnected`` when the server ends the subscription or keeps silent for good
        """
        quiet = 0.0
        while True:
            overdue = max(OVERDUE, self.keep_alive * (1 if self.silences else 2))
            wait = min(self.look, overdue - quiet)
            try:
                async with asyncio.timeout(wait):
                    result = await self.responses.get()
            except TimeoutError:
                quiet += wait
                if quiet >= overdue:
                    self.silences += 1
                    if self.silences > PATIENCE:
                        raise Disconnected("the server answers, but publishes nothing") from None
                    return self.rows.silence()
                if await self._stands_still():
                    return self.rows.silence()
                continue
            self.silences = 0
            message = result.NotificationMessage
            if message is not None and not message.NotificationData and await self._stands_still():
                return self.rows.silence()
            block = await self._rows_of(message)
            if self.rows.revived:
                self.rows.revived = False
                await self._renew()
            if self.refused and asyncio.get_running_loop().time() >= self.again_at:
                await self._monitor(self.refused)
            if block is not None:
                return block

    async def _stands_still(self) -> bool:
        """Return whether the server's clock stands still; ask for the values when it goes on."""
        still = await self.frozen()
        if self.still and not still:
            self.rows.wake()
            await self._renew()
        self.still = still
        return still

    async def _rows_of(self, message: "ua.NotificationMessage | None") -> SampleBlock | None:
        if message is None:
            return None
        blocks = [await self._again(number) for number in self._missing(message)]
        blocks.append(self._apply(message))
        made = [block for block in blocks if block is not None]
        return concatenate(made) if made else None

    def _missing(self, message: "ua.NotificationMessage") -> range:
        """Return the numbers of the messages that did not arrive before this one.

        source  OPC 10000-4, 7.26: a keep-alive carries the number of the message that is next
        """
        number, expected = int(message.SequenceNumber), self.expected
        if any(_ended(item) for item in message.NotificationData or ()):
            return range(0)
        if message.NotificationData:
            self.expected = number + 1
        elif expected is not None:
            self.expected = max(expected, number)
        if expected is None or number <= expected:
            return range(0)
        log.warning("%s: %d messages missing", self.group.schema.stream, number - expected)
        if number - expected > MISSING:
            self.rows.doubt()
            return range(0)
        return range(expected, number)

    async def _again(self, number: int) -> SampleBlock | None:
        """Return the rows of a message that was lost; without it, what is held is in doubt."""
        from asyncua.ua.uaerrors import UaStatusCodeError

        try:
            message = await self.session.republish(self.id, number)
        except UaStatusCodeError as e:
            log.warning("%s: message %d is lost: %s", self.group.schema.stream, number, e)
            self.rows.doubt()
            return None
        if not message.NotificationData:
            self.rows.doubt()
            return None
        return self._apply(message)

    def _apply(self, message: "ua.NotificationMessage") -> SampleBlock | None:
        from asyncua import ua

        changed: list[Columns] = []
        for part in message.NotificationData or ():
            reason = _ended(part)
            if reason is not None:
                lost = (
                    reason == "BadShutdown"
                )  # said by the server, or by the library for a lost link
                raise Disconnected("connection lost" if lost else f"subscription ended: {reason}")
            if isinstance(part, Columns):
                changed.append(part)
            elif isinstance(part, ua.DataChangeNotification):
                items = part.MonitoredItems
                handles = [item.ClientHandle for item in items]
                changed.append(columns_of([item.Value for item in items], handles))
        published = nanoseconds(message.PublishTime)
        if any(len(part) for part in changed):
            read = join(changed)
            if int(read.handle.max()) >= len(self.group.schema.tags):
                raise Disconnected("the server sends what it was not asked for")
            return self.rows.notify(read, published)
        return self.rows.keep_alive(published)

    async def _renew(self) -> None:
        """Ask for the values again that did not change while the server was silent."""
        from asyncua import ua

        old = ua.DeleteMonitoredItemsParameters(self.id, self.items)
        await self.session.delete_monitored_items(old)
        self.items = []
        await self._monitor(range(len(self.group.schema.tags)))

    async def _monitor(self, columns: Sequence[int]) -> None:
        """Have the server watch some columns; a refused one costs the others nothing."""
        from asyncua.ua.uaerrors import UaStatusCodeError

        known = set(self.refused)
        self.again_at = asyncio.get_running_loop().time() + AGAIN
        nodes = await self.find()
        left = [(column, node) for column in columns if (node := nodes[column]) is not None]
        self.refused = [column for column in columns if nodes[column] is None]
        for column in self.refused:
            self.rows.refuse(column, Quality.BAD_ADDRESS)
        while left:
            part = left[: self.limits["items"]]
            try:
                answers = await self.session.create_monitored_items(self._request(part))
            except UaStatusCodeError as e:
                if not too_large(e.code) or not self.limits.refused("items", len(part)):
                    raise
                continue
            del left[: len(part)]
            for (column, _), answer in zip(part, answers, strict=True):
                if answer.StatusCode.is_good():
                    self.items.append(answer.MonitoredItemId)
                    self.rows.expect(column)
                    continue
                self._refuse(column, answer.StatusCode, said=column in known)

    def _refuse(self, column: int, status: "ua.StatusCode", *, said: bool) -> None:
        """Note that the server does not watch a column, and say so once."""
        self.refused.append(column)
        self.rows.refuse(column, max(quality_of(status.value), Quality.BAD))
        schema = self.group.schema
        if not said:
            log.warning(
                "%s.%s is not watched: %s", schema.owner, schema.tags[column].name, status.name
            )

    def _request(
        self, columns: "Sequence[tuple[int, tuple[ua.NodeId, int | None]]]"
    ) -> "ua.CreateMonitoredItemsParameters":
        from asyncua import ua
        from asyncua.ua.attribute_ids import AttributeIds

        return ua.CreateMonitoredItemsParameters(
            SubscriptionId=self.id,
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            ItemsToCreate=[
                ua.MonitoredItemCreateRequest(
                    ua.ReadValueId(
                        NodeId=node,
                        AttributeId=AttributeIds.Value,
                        IndexRange=None if element is None else ua.String(element),
                    ),
                    ua.MonitoringMode.Reporting,
                    ua.MonitoringParameters(
                        ClientHandle=column,
                        SamplingInterval=self.publish * 1e3 / SAMPLES,
                        QueueSize=QUEUE,
                        DiscardOldest=True,
                    ),
                )
                for column, (node, element) in columns
            ],
        )

    def _count(self, interval: float) -> int:
        """Return after how many silent intervals the server must give a sign of life."""
        return max(1, int(self.keep_alive / interval)) if interval > 0 else 1


def _ended(notification: object) -> str | None:
    """Return why the server ends the subscription, if it does; a lost link is told the same way."""
    from asyncua import ua

    if isinstance(notification, ua.StatusChangeNotification) and notification.Status.is_bad():
        return str(notification.Status.name)
    return None
