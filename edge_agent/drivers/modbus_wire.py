"""The socket or serial line under the Modbus driver: one request, one answer, and no stale one.

pymodbus opens the link and frames the requests; on TCP and on serial lines its transport then hands
what comes to the protocol here. Its transaction manager is left out: it takes a late RTU answer for
the next one, gives up at the first frame of another unit, and spends three times as long on a
request as all the rest.

A late answer must never be taken for the answer to the next request. Over TCP every answer
carries the transaction id of its request. RTU has no such id, on a wire as well as behind a
converter (a new socket would not help there: the converter hands on whatever the line says); what
is done about it stands in ``modbus_owed``. Other units of the line are asked as usual meanwhile. A
unit slower than three time-outs cannot be told from a quick one, until it has been seen to be so
late; then its limit grows.

A TCP connection on which nobody has answered for a while may be half open: a box behind a router,
or a converter that has forgotten it, while a new one would work. It is replaced before the next
request; the units' silence is told by ``NoAnswer`` as ever.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from edge_agent.drivers.links import CONNECT, UNACKNOWLEDGED, watch
from edge_agent.drivers.modbus_frames import Framing, Mbap, Refused, Rtu, Shape, Words
from edge_agent.drivers.modbus_line import Line, Manners
from edge_agent.drivers.modbus_owed import Owed
from edge_agent.drivers.modbus_patience import Patience
from edge_agent.drivers.modbus_plan import Request
from edge_agent.errors import Disconnected, Unreachable

if TYPE_CHECKING:
    from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

__all__ = ["Line", "Manners", "Refused", "Wire", "Words"]

# by these exceptions a gateway says that it does not reach the unit, or that the unit is silent
GATEWAY_SILENT = (0x0A, 0x0B)
_Found = tuple[int, Words | Refused]  # the mark of the request, and what answers it

UNKNOWN_FUNCTION = 0x01
IN_VAIN = 3  # requests of another length after which a unit is silent to those, not behind
REMEMBERED = 16  # requests given up whose late answers are recognised
READ_AT_ONCE = 8192  # bytes; asyncio's own 256 KiB are mapped and unmapped at each read


class _Link(asyncio.Protocol):
    """What comes over one connection, while somebody waits for it and while nobody does."""

    def __init__(self, name: str, framing: Framing, pass_over: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.is_lost = False
        self.has_heard = False
        self.heard_at = self._loop.time()
        self._name, self._framing, self._pass_over = name, framing, pass_over
        self._waiter: asyncio.Future[_Found | None] | None = None

    def take_over(self, transport: asyncio.BaseTransport) -> None:
        """Become the protocol of a transport that pymodbus has opened."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_protocol(self)
        with suppress(AttributeError):  # uvloop has no such buffer
            transport.max_size = READ_AT_ONCE  # type: ignore[attr-defined]  # not in the stubs

    def data_received(self, data: bytes) -> None:
        self.heard_at, self.has_heard = self._loop.time(), True
        answer = self._framing.take(data)
        if answer is not None and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)
        if self._framing.strays or self._waiter is None:
            self._pass_over()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 – asyncio's signature
        self.is_lost = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._closed())

    async def exchange(self, frame: bytes, until: float) -> _Found | None:
        """Send a request; return what answers it, None if nothing does in time."""
        if self.transport is None or self.is_lost:
            raise self._closed()
        waiter: asyncio.Future[_Found | None] = self._loop.create_future()
        self._waiter = waiter
        timer = self._loop.call_at(until, _give_up, waiter)
        try:
            self._framing.sent(frame)
            self.transport.write(frame)
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _closed(self) -> Disconnected:
        kind = Disconnected if self.has_heard else Unreachable
        return kind(f"{self._name} closed the connection")


def _now() -> float:
    """Return the event loop's time, by which requests are bounded; for durations only."""
    return asyncio.get_running_loop().time()


def _give_up(waiter: asyncio.Future[_Found | None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Wire:
    """One link, opened and closed any number of times; one request at a time.

    units   how each is treated, by number
    counts  frames passed over, corrupt ones, requests asked again, connections replaced
    """

    def __init__(self, line: Line, units: Mapping[int, Manners]) -> None:
        self.counts = Counter(late_frames=0, corrupt_frames=0, retries=0, renewals=0)
        self._line, self._units = line, dict(units)
        alone = len(units) == 1
        self._patience = {
            number: Patience(unit.timeout, alone=alone, loses_frames=line.is_rtu)
            for number, unit in units.items()
        }
        self._framing: Mbap | Rtu = Rtu() if line.is_rtu else Mbap()
        self._client: AsyncModbusTcpClient | AsyncModbusSerialClient | None = None
        self._link: _Link | None = None
        self._last: int | None = None  # the unit asked last
        self._free_at = 0.0  # since when the line is; times are the event loop's
        self._was_silent = False  # the unit asked last: what is behind it may still be busy with it
        self._mute_since: float | None = None  # when the first request went out that got nothing
        self._owed = Owed()  # over RTU
        self._in_vain = Counter[int]()  # requests of another length, since a unit said anything
        self._missed: dict[int, tuple[int, float]] = {}  # over TCP: mark -> unit, when it was sent

    async def open(self) -> None:
        """Open the link. Raises ``Unreachable``."""
        await self.close()
        name = self._line.name
        link = self._link = _Link(name, self._framing, self._pass_over)
        self._client = client = self._make(link)
        try:
            async with asyncio.timeout(CONNECT):
                is_open = await client.connect()
        except TimeoutError as e:
            raise Unreachable(f"{name} does not answer") from e
        if not is_open:
            raise Unreachable(f"{name} cannot be opened")
        if link.transport is None:  # that of a serial line says so a little later
            link.take_over(client.ctx.transport)
        watch(client.ctx.transport, max(unit.timeout for unit in self._units.values()))

    async def close(self) -> None:
        """Close the link; any number of times."""
        client, self._client, self._link = self._client, None, None
        if client is not None:
            client.close()
            await asyncio.sleep(0)  # the transport says goodbye in the loop's next round

    async def settle(self, unit: int) -> None:
        """Return when the line has been left alone for as long as both neighbours need."""
        gap = max(self._line.silence, self._units[unit].pause)
        if self._last is not None:
            gap = max(gap, self._units[self._last].pause)
        wait = self._free_at + gap - _now()
        if wait > 0:
            await asyncio.sleep(wait)

    async def probe(self, unit: int, request: Request) -> None:
        """Return when the unit has given a sign of life; a refusal is one.

        Over RTU it may ask for up to three registers more, so that it need not wait until no
        answer to the probe before can come any more.

        errors  as of ``ask``
        """
        await self.ask(unit, self._owed.wider(unit, request, _now()), is_probe=True)

    async def ask(
        self, unit: int, request: Request, *, is_probe: bool = False, is_trial: bool = False
    ) -> Words | Refused:
        """Return the words (or bits) of the answer, or why there are none.

        is_probe  only a sign of life is wanted: an answer to an older request will do
        is_trial  silence is the request's sooner than the unit's, which may be asked on at once
        errors    ``TimeoutError`` when the unit is silent, ``Disconnected`` when the link is gone
        """
        shape, patience = Shape.of(unit, request), self._patience[unit]
        self._open_link()
        if self._line.is_rtu and not is_probe:
            behind = await self._in_step(request, shape)
            if behind is not None:
                return behind
        link = await self._usable()
        first, limit = self._bounds(shape)
        sent: list[tuple[int, float]] = []
        found, is_over, began = None, False, _now()
        try:
            found = await self._send(link, unit, request, sent, began + first)
            if found is None and limit > first:
                self.counts["retries"] += 1
                found = await self._send(link, unit, request, sent, began + limit)
            is_over = True
        finally:
            self._last, self._free_at = unit, _now()
            self._framing.rest()
            self._pass_over()
            if not is_over or found is None:  # also when it was not waited for to the end
                self._remember(shape, sent, is_brief=self._framing.is_heard or is_trial)
        if found is not None:
            return self._answered(shape, found, sent)
        if self._framing.is_heard:
            patience.answered(None, at_once=False)
            return Refused(0)
        patience.silent()
        self._was_silent = True
        if self._mute_since is None and link.heard_at < began:
            self._mute_since = began
        raise TimeoutError("no answer")

    def _bounds(self, shape: Shape) -> tuple[float, float]:
        """Return after how many seconds a request is sent again, and after how many given up.

        The time that the bytes take on a wire comes on top: where it is known also of the
        configured time-out; behind a converter or gateway only of what was found to be usual. A
        gateway that waits for a silent unit lets the next one wait as well: that one has the whole
        of its time-out.
        """
        patience, air = self._patience[shape.unit], self._line.airtime(5 + shape.size)
        if self._was_silent and patience.is_well:
            most = patience.most + (air if self._line.is_serial else 0.0)
            return most, most
        if self._line.is_serial:
            return patience.first + air, patience.limit + air
        if len(self._units) == 1 and not self._line.is_rtu:  # no wire behind it
            return patience.first, patience.limit
        return min(patience.most, patience.first + air), min(patience.most, patience.limit + air)

    async def _send(
        self,
        link: _Link,
        unit: int,
        request: Request,
        sent: list[tuple[int, float]],
        until: float,
    ) -> _Found | None:
        client = self._client
        if client is None:
            raise Disconnected(f"{self._line.name} is not connected")
        mark = self._framing.expect(unit, request, again=bool(sent))
        sent.append((mark, _now()))
        return await link.exchange(client.ctx.framer.encode(request.pdu, unit, mark), until)

    def _answered(
        self, shape: Shape, found: _Found, sent: list[tuple[int, float]]
    ) -> Words | Refused:
        """Learn from an answer and return it."""
        (mark, answer), patience = found, self._patience[shape.unit]
        self._mute_since, self._was_silent = None, False
        if isinstance(answer, Refused) and answer.code in GATEWAY_SILENT:
            raise TimeoutError("the gateway has no answer from it")
        took = self._free_at - next(at for m, at in sent if m == mark)
        if shape not in self._owed and not isinstance(answer, Refused):
            self._owed.forget(shape.unit)  # it answers in the order in which it was asked
        if not self._line.is_rtu or len(sent) == 1:
            known = self._line.airtime(5 + shape.size) if self._line.is_serial else 0.0
            patience.answered(max(0.0, took - known), at_once=len(sent) == 1)
        else:  # the other of the two may still be answered, in about the same time
            patience.answered(None, at_once=False)
            until = self._free_at + max(took, patience.usual)
            self._owed.add(shape, [sent[-1][1]], until, is_brief=True)
        return answer

    def _open_link(self) -> _Link:
        if self._link is None or self._link.is_lost:
            raise Disconnected(f"{self._line.name} is not connected")
        return self._link

    async def _usable(self) -> _Link:
        """Return the link; a new one where nobody has answered on it for too long."""
        mute_since, link = self._mute_since, self._open_link()
        if mute_since is None or self._line.is_serial:
            return link
        if link.heard_at >= mute_since:
            self._mute_since = None
        elif _now() - mute_since > UNACKNOWLEDGED:
            self.counts["renewals"] += 1
            await self.open()
            link = self._open_link()
            link.heard_at = mute_since - 1.0  # connecting is no answer
        return link

    async def _in_step(self, request: Request, shape: Shape) -> Refused | None:
        """Return when the next answer can only be that to the request; else why it cannot be."""
        unit = shape.unit
        wait, is_brief = self._owed.wait(shape, _now())
        if wait and not is_brief:
            raise TimeoutError("no answer; it is not asked while a late one may still come")
        if wait:
            await asyncio.sleep(wait)
        if not self._owed.owes(unit):
            return None
        try:
            answer = await self.ask(unit, self._owed.apart(unit, request), is_probe=True)
        except TimeoutError:
            self._in_vain[unit] += 1
            if self._in_vain[unit] >= IN_VAIN:  # what is held back would have come by now
                self._owed.forget(unit)
            raise
        del self._in_vain[unit]
        if isinstance(answer, Refused) and answer.code:  # whichever request it is that it refuses
            answer = await self._of_another_function(unit, request)
        if isinstance(answer, Refused) and not answer.code:
            return answer
        await self.settle(unit)
        return None

    async def _of_another_function(self, unit: int, request: Request) -> Words | Refused:
        """Ask so that even an exception shows that the unit is in step."""
        other = self._owed.of_another_function(unit, request)
        if other is None:
            return Refused(0)
        await self.settle(unit)
        try:
            answer = await self.ask(unit, other, is_probe=True)
        except TimeoutError:  # it knows nothing of the function, nor holds anything back
            answer = Refused(UNKNOWN_FUNCTION)
        if not isinstance(answer, Refused) or answer.code:
            self._owed.forget(unit)
        return answer

    def _remember(self, shape: Shape, sent: list[tuple[int, float]], *, is_brief: bool) -> None:
        """Note what may be answered late; is_brief: but not by much."""
        if not self._line.is_rtu:
            self._missed |= {mark: (shape.unit, at) for mark, at in sent}
            while len(self._missed) > REMEMBERED:
                del self._missed[next(iter(self._missed))]
            return
        patience = self._patience[shape.unit]
        until = self._free_at + (patience.usual if is_brief else patience.stale)
        self._owed.add(shape, [at for _, at in sent], until, is_brief=is_brief)

    def _pass_over(self) -> None:
        """Count what was no answer, and learn from what was a late one."""
        framing = self._framing
        if framing.is_noisy:
            self.counts["corrupt_frames"] += 1
            framing.is_noisy = False
        strays, framing.strays = framing.strays, []
        for stray in strays:
            self.counts["late_frames"] += 1
            del self._in_vain[stray.shape.unit]
            if self._line.is_rtu:
                late = self._owed.came(stray.shape, _now())
                if late is not None:
                    self._patience[stray.shape.unit].late(late)
            elif stray.mark in self._missed:
                unit, at = self._missed.pop(stray.mark)
                self._patience[unit].late(_now() - at)

    def _make(self, link: _Link) -> "AsyncModbusTcpClient | AsyncModbusSerialClient":
        """Return a client; inside the running loop, which its constructor asks for."""
        from pymodbus import FramerType
        from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        line = self._line
        client: AsyncModbusTcpClient | AsyncModbusSerialClient

        def changed(is_connected: bool) -> None:  # before the first byte is read
            if is_connected:
                link.take_over(client.ctx.transport)

        if line.is_serial:
            client = AsyncModbusSerialClient(
                line.host,
                baudrate=line.baud,
                parity=line.parity,
                stopbits=line.stopbits,
                bytesize=line.bytesize,
                timeout=CONNECT,
                reconnect_delay=0,
                trace_connect=changed,
            )
        else:
            client = AsyncModbusTcpClient(
                line.host,
                port=line.port,
                framer=FramerType.RTU if line.is_rtu else FramerType.SOCKET,
                timeout=CONNECT,
                reconnect_delay=0,
                trace_connect=changed,
            )
        return client
