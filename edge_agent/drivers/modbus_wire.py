"""The socket or serial line under the Modbus driver: one request, one answer, and no stale one.

A late answer must never be taken for the answer to the next request. Over TCP every answer
carries the transaction id of its request, and another's is dropped. RTU has no such id, on a wire
as well as behind a converter (a new socket would not help there: the converter hands on whatever
the line says). It only names the unit. So a unit that was silent is not asked again for two more
time-outs, while the other units of the line are; what it says meanwhile is thrown away. A unit
slower than three time-outs cannot be told from a quick one: raise ``timeout`` for it.

pymodbus does the framing. Its own retries, reconnects and counting of failures are off (they are
the supervisor's), its log as well (it writes a line per failed request). What it does not check
is checked here: length, unit and function of an answer, and that its transaction id is not 0.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from edge_agent.drivers.links import CONNECT, watch
from edge_agent.drivers.modbus_plan import Request
from edge_agent.errors import Disconnected, EdgeError
from edge_agent.model import Quality

if TYPE_CHECKING:
    from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
    from pymodbus.pdu import ModbusPDU

STALE = 2  # time-outs for which an RTU unit that was silent is not asked again
# by these exceptions a gateway says that it does not reach the unit, or that the unit is silent
GATEWAY_SILENT = (0x0A, 0x0B)
FOREVER = 1 << 30


class Garbled(EdgeError):
    """The answer to the request in flight could not be decoded."""


@dataclass(frozen=True)
class Refused:
    """An answer that holds no values.

    code    the device's exception code; 0 where the answer had another length or function than
            was asked for
    source  MODBUS Application Protocol V1.1b3, 7
    """

    code: int

    @property
    def quality(self) -> Quality:
        """What the columns of the request become."""
        return Quality.BAD_DEVICE if self.code else Quality.BAD_SHORT


@dataclass(frozen=True)
class Line:
    """What all devices of one link share; times in seconds."""

    scheme: str
    host: str
    port: int
    baud: int
    parity: str
    stopbits: int
    bytesize: int
    timeout: float
    pause: float

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.host if self.is_serial else f"{self.host}:{self.port}"

    @property
    def is_serial(self) -> bool:
        """True for a serial line of this box."""
        return self.scheme == "modbus+rtu"

    @property
    def is_rtu(self) -> bool:
        """True where answers carry no transaction id."""
        return self.scheme != "modbus+tcp"

    @property
    def gap(self) -> float:
        """Seconds between an answer and the next request: the pause, on a wire at least t3.5.

        source  MODBUS over Serial Line V1.02, 2.5.1.1: 3.5 characters of 11 bits, fixed at 1.75 ms
                above 19200 baud
        """
        silence = max(0.00175, 3.5 * 11 / self.baud) if self.is_serial else 0.0
        return max(self.pause, silence)

    def difference(self, other: "Line") -> str:
        """Return in words what differs from another line."""
        return ", ".join(
            f"{f.name} is {getattr(self, f.name)} here and {getattr(other, f.name)} there"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        )


class Wire:
    """One link, opened and closed any number of times."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._client: AsyncModbusTcpClient | AsyncModbusSerialClient | None = None
        self._asking = False
        self._free_at = 0.0  # no request before; times are the event loop's, for durations only
        self._stale_until: dict[int, float] = {}  # unit -> until when a late answer may come

    async def open(self) -> None:
        """Open the link. Raises ``Disconnected``."""
        await self.close()
        self._client = client = self._make()
        try:
            async with asyncio.timeout(CONNECT):
                is_open = await client.connect()
        except TimeoutError as e:
            raise Disconnected(f"{self._line.name} does not answer") from e
        if not is_open:
            raise Disconnected(f"{self._line.name} cannot be opened")
        client.ctx.comm_params.timeout_connect = self._line.timeout
        watch(client.ctx.transport, self._line.timeout)

    async def close(self) -> None:
        """Close the link; any number of times."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            await asyncio.sleep(0)  # the transport says goodbye in the loop's next round

    async def settle(self) -> None:
        """Return when the line has been left alone for as long as its devices need."""
        await asyncio.sleep(max(0.0, self._free_at - asyncio.get_running_loop().time()))

    async def ask(self, unit: int, request: Request) -> Sequence[int] | Refused:
        """Return the words (or bits) of the answer, or why there are none.

        errors  ``TimeoutError`` when the unit is silent, ``Disconnected`` when the link is gone
        """
        from pymodbus.exceptions import ConnectionException, ModbusIOException

        client, now = self._client, asyncio.get_running_loop().time
        if client is None or not client.connected:
            raise Disconnected(f"{self._line.name} is not connected")
        if now() < self._stale_until.get(unit, 0.0):
            raise TimeoutError("no answer; it is not asked while a late one may still come")
        read = {
            1: client.read_coils,
            2: client.read_discrete_inputs,
            3: client.read_holding_registers,
            4: client.read_input_registers,
        }[request.table.function]
        self._asking, answered = True, False
        try:
            reply = await read(request.address, count=request.count, device_id=unit)
            answer = self._checked(reply, unit, request)
            answered = True
        except Garbled:
            answer, answered = Refused(0), True
        except (ConnectionException, ModbusIOException) as e:
            if isinstance(e, ConnectionException) or not client.connected:
                raise Disconnected(f"{self._line.name} closed the connection") from e
            raise TimeoutError("no answer") from e
        finally:
            self._asking = False
            self._free_at = now() + self._line.gap
            if self._line.is_rtu and not answered:  # also when it was not waited for to the end
                self._stale_until[unit] = now() + STALE * self._line.timeout
        return answer

    def _checked(self, reply: "ModbusPDU", unit: int, request: Request) -> Sequence[int] | Refused:
        """Return what the answer holds if it is the answer to the request."""
        client = self._client
        if client is not None and reply.transaction_id != client.ctx.request_transaction_id:
            raise TimeoutError("the answer has another transaction id than the request")
        if reply.dev_id != unit:
            raise TimeoutError(f"unit {reply.dev_id} answered in place of unit {unit}")
        if reply.isError():
            if reply.exception_code in GATEWAY_SILENT:
                raise TimeoutError("the gateway has no answer from it")
            return Refused(reply.exception_code)
        if reply.function_code != request.table.function:
            return Refused(0)
        if request.table.is_bits:
            whole_bytes = -(-request.count // 8) * 8
            if len(reply.bits) != whole_bytes:
                return Refused(0)
            return reply.bits[: request.count]
        return reply.registers if len(reply.registers) == request.count else Refused(0)

    def _make(self) -> "AsyncModbusTcpClient | AsyncModbusSerialClient":
        """Return a client; inside the running loop, which its constructor asks for."""
        from pymodbus import FramerType
        from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient

        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
        line = self._line
        client: AsyncModbusTcpClient | AsyncModbusSerialClient
        if line.is_serial:
            client = AsyncModbusSerialClient(
                line.host,
                baudrate=line.baud,
                parity=line.parity,
                stopbits=line.stopbits,
                bytesize=line.bytesize,
                timeout=CONNECT,
                retries=0,
                reconnect_delay=0,
                trace_connect=self._changed,
            )
        else:
            client = AsyncModbusTcpClient(
                line.host,
                port=line.port,
                framer=FramerType.RTU if line.is_rtu else FramerType.SOCKET,
                timeout=CONNECT,
                retries=0,
                reconnect_delay=0,
                trace_connect=self._changed,
            )
        client.set_max_no_responses(FOREVER)
        self._tolerate(client)
        return client

    def _changed(self, is_connected: bool) -> None:
        """End the wait for an answer when the connection ends; pymodbus waits on."""
        client = self._client
        if client is None or is_connected or not self._asking:
            return
        if not client.ctx.response_future.done():
            lost = Disconnected(f"{self._line.name} closed the connection")
            client.ctx.response_future.set_exception(lost)

    def _tolerate(self, client: "AsyncModbusTcpClient | AsyncModbusSerialClient") -> None:
        """Let an answer that cannot be decoded spoil its request, not the connection.

        pymodbus raises in the transport's callback, which closes the socket with a traceback.
        """
        from pymodbus.exceptions import ModbusException

        ctx, strict = client.ctx, client.ctx.framer.handleFrame

        def handle(data: bytes, unit: int, transaction: int) -> "tuple[int, ModbusPDU | None]":
            try:
                return strict(data, unit, transaction)
            except ModbusException as e:
                if self._asking and not ctx.response_future.done():
                    ctx.response_future.set_exception(Garbled(str(e)))
                return len(data), None

        # there is no hook for it
        ctx.framer.handleFrame = handle  # type: ignore[method-assign, assignment]
