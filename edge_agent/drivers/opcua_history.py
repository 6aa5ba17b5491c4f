"""What a server remembers of an outage, read back once the link is up again.

The outage stands in the log already: every stream has had its ``BAD_NO_ANSWER`` row per period, and
a stream's time never goes back. So what the server remembers is a stream of its own,
``<device>/raw.history``, with the device's tags and the times of the source: nothing that was
appended or computed changes, and the gap is filled for whoever evaluates the raw rows. Live rows
come meanwhile; the two cost each other nothing.

A column between two of its recorded values holds the first of them, as in a subscription. Before
its first one it is ``BAD_MISSING``. Where the server remembers nothing, the gap stays marked.

source  OPC 10000-11 (historical access); OPC 10000-4, 5.10.3 (HistoryRead)
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.base import DeviceConfig, apply_flag
from edge_agent.drivers.opcua_client import Asked, send
from edge_agent.drivers.opcua_columns import NO_TIME, Columns, Irregular, join
from edge_agent.drivers.opcua_limits import Limits, lost, too_large
from edge_agent.drivers.opcua_messages import Recorded, recorded
from edge_agent.drivers.opcua_rows import laid_out
from edge_agent.drivers.opcua_values import Scaling, columns_of
from edge_agent.model import F64, U8, Family, Quality, SampleBlock, Schema

if TYPE_CHECKING:
    from asyncua import ua
    from asyncua.client.client import Client

log = logging.getLogger(__name__)

STREAM = "raw.history"
VALUES = 4000  # values in one answer at most: a few milliseconds of work
SLOWER = 4  # a server that takes too long is asked for so many times less
FEWEST = 50  # values of one node in it
MOST_GAPS = 100
TICK = 100  # ns: the finest step of a time in OPC UA
ACCESS_LEVEL, HISTORY_READ = 17, 0x04  # OPC 10000-3, 8.57

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Gap:
    """A time without rows: after ``start`` and up to ``stop``, ns."""

    start: int
    stop: int


class History:
    """The gaps of one device."""

    def __init__(self, device: str, config: DeviceConfig, period: float) -> None:
        self.device, self._config = device, config
        tags = tuple(config.model_tag(name, tag) for name, tag in config.tags.items())
        self._schema = Schema(f"{device}/{STREAM}", Family.SAMPLE, tags, period)
        self._scaling = Scaling.of(config, self._schema, tuple(config.tags))
        self.until = 0  # ns: rows are there up to here
        self.gaps: list[Gap] = []
        self.period = period
        self.found = False  # whether there are nodes of which the server remembers anything
        self._nodes: list[tuple[int, ua.NodeId]] = []
        self._most = VALUES
        self._forget()

    def _forget(self) -> None:
        k = len(self._schema.tags)
        self._value: F64 = np.full(k, np.nan)
        self._quality: U8 = np.full(k, Quality.BAD_MISSING, np.uint8)

    # ---- gaps

    def save(self) -> dict[str, object]:
        """Return what is still to be read, JSON-able."""
        return {"until": self.until, "gaps": [[gap.start, gap.stop] for gap in self.gaps]}

    def load(self, state: object) -> None:
        """Take over what ``save`` returned; what is not like it is passed over."""
        if not isinstance(state, Mapping):
            return
        until, gaps = state.get("until"), state.get("gaps")
        self.until = until if isinstance(until, int) else 0
        for gap in gaps if isinstance(gaps, Sequence) else ():
            if isinstance(gap, Sequence) and [type(t) for t in gap] == [int, int]:
                self.gaps.append(Gap(*gap))

    def opened(self, now: int, reach: int, slack: int) -> None:
        """Note at a connect what has been missed.

        reach  ns that are read back at most
        slack  ns between rows that are no gap
        """
        if self.until and reach and now - self.until > slack:
            self.gaps.append(Gap(max(self.until, now - reach), now))
            self.gaps = self.gaps[-MOST_GAPS:]
            self.until = now
        for gap in self.gaps:
            gap.start = max(gap.start, now - reach)
        self.gaps = [gap for gap in self.gaps if gap.start < gap.stop]
        self._nodes, self.found = [], False

    async def advance(
        self,
        client: "Client",
        ask: Callable[[Sequence[bytes]], Awaitable[Columns]],
        nodes: "Sequence[tuple[ua.NodeId, int | None] | None]",
        limits: Limits,
    ) -> SampleBlock | None:
        """Return the next rows; None when there are none now, because the gaps are filled or not.

        A server that cannot or will not tell its past is no lost link: the gaps stay as they are
        marked. One that takes too long is asked for less.

        ask    returns what encoded attributes are
        nodes  by column
        """
        from asyncua.ua.uaerrors import UaStatusCodeError

        try:
            if not self.found:
                await self._find(ask, nodes)
            return await self._next(client, limits)
        except TimeoutError:
            self._most //= SLOWER
            if self._most < FEWEST:
                self._give_up("it takes too long")
        except UaStatusCodeError as e:
            if lost(e.code):
                raise
            self._give_up(str(e))
        return None

    def _give_up(self, reason: str) -> None:
        log.info("%s: the gap is not filled: %s", self.device, reason)
        self.gaps.clear()
        self._most = VALUES
        self._forget()

    async def _find(
        self,
        ask: Callable[[Sequence[bytes]], Awaitable[Columns]],
        nodes: "Sequence[tuple[ua.NodeId, int | None] | None]",
    ) -> None:
        """Find out of which nodes the server remembers anything; without any, leave the gaps."""
        known = [(column, node[0]) for column, node in enumerate(nodes) if node and node[1] is None]
        answer = await ask(Asked.of([(node, None) for _, node in known], ACCESS_LEVEL).encoded)
        levels = np.nan_to_num(answer.number).astype(np.int64).tolist()
        self._nodes = [
            pair for pair, level in zip(known, levels, strict=True) if level & HISTORY_READ
        ]
        self.found = bool(self._nodes)
        if not self.found:
            self.gaps.clear()

    # ---- rows

    async def _next(self, client: "Client", limits: Limits) -> SampleBlock | None:
        """Return the next rows of the first gap; None when it has no more."""
        while self.gaps:
            gap = self.gaps[0]
            answers = await self._read(client, limits, gap)
            rows = self._rows(answers, gap)
            if gap.start >= gap.stop:
                del self.gaps[0]
                self._most = VALUES
                self._forget()
            if rows is not None:
                return rows
        return None

    def _rows(self, answers: Sequence[tuple[int, Recorded, bool]], gap: Gap) -> SampleBlock | None:
        """Return the rows up to where every node was read; move the gap's start there.

        answers  column, what was recorded, whether there is more of it
        """
        horizon, parts, columns = gap.stop, [], []
        for column, answer, more in answers:
            if more and len(answer.values):
                horizon = min(horizon, int(answer.values.source[-1]))
            parts.append(answer.values)
            columns.append(np.full(len(answer.values), column, np.intp))
        begin = gap.start
        if horizon <= begin:  # more values of one time than fit into an answer
            horizon = begin + TICK
        gap.start = horizon
        if not parts:
            return None
        values = join(parts)
        time = values.source
        wanted = (time != NO_TIME) & (time > begin) & (time <= horizon)
        if not wanted.any():
            return None
        return self._block(values, np.concatenate(columns), wanted)

    def _block(
        self, values: Columns, column: NDArray[np.intp], wanted: NDArray[np.bool_]
    ) -> SampleBlock:
        value, quality = self._scaling.apply(column, values)
        time = values.source
        order = np.nonzero(wanted)[0]
        order = order[np.argsort(time[order], kind="stable")]
        stamps, row = np.unique(time[order], return_inverse=True)
        laid = laid_out(
            (self._value, self._quality), column[order], row, value[order], quality[order]
        )
        self._value, self._quality = laid[0][:, -1].copy(), laid[1][:, -1].copy()
        apply_flag(self._config, self._schema, *laid)
        texts = self._scaling.texts(self._schema, laid[0])
        return SampleBlock(self._schema, stamps, *laid, texts)

    async def _read(
        self, client: "Client", limits: Limits, gap: Gap
    ) -> list[tuple[int, Recorded, bool]]:
        """Return what every node has recorded from the gap's start on."""
        from asyncua.ua.uaerrors import UaStatusCodeError

        most = max(FEWEST, self._most // max(1, len(self._nodes)))
        found: list[tuple[int, Recorded, bool]] = []
        left = list(self._nodes)
        while left:
            size = min(limits["history"], limits["points"])
            part = left[:size]
            try:
                answers = await self._ask(client, part, gap, most)
            except UaStatusCodeError as e:
                if not too_large(e.code) or not limits.refused("history", len(part)):
                    raise
                continue
            del left[: len(part)]
            for (column, node), answer in zip(part, answers, strict=False):
                if answer.status >> 30 >= 2:
                    log.info("%s: no history of %s", self.device, node.to_string())
                    self._nodes.remove((column, node))
                    continue
                more = answer.onward is not None or len(answer.values) >= most
                found.append((column, answer, more))
            await self._release(client, part, answers)
        return found

    async def _ask(
        self, client: "Client", nodes: "Sequence[tuple[int, ua.NodeId]]", gap: Gap, most: int
    ) -> list[Recorded]:
        from asyncua import ua
        from asyncua.common.utils import Buffer
        from asyncua.ua.ua_binary import struct_from_binary

        details = ua.ReadRawModifiedDetails(
            IsReadModified=False,
            StartTime=_time(gap.start),
            EndTime=_time(gap.stop),
            NumValuesPerNode=ua.UInt32(most),
            ReturnBounds=False,
        )
        asked = [ua.HistoryReadValueId(NodeId=node) for _, node in nodes]
        answer = await send(client, _request(details, asked))
        try:
            return recorded(answer)
        except Irregular:
            response = struct_from_binary(ua.HistoryReadResponse, Buffer(answer))
        response.ResponseHeader.ServiceResult.check()
        return [
            Recorded(
                result.StatusCode.value,
                result.ContinuationPoint,
                columns_of(getattr(result.HistoryData, "DataValues", None) or ()),
            )
            for result in response.Results
        ]

    @staticmethod
    async def _release(
        client: "Client", nodes: "Sequence[tuple[int, ua.NodeId]]", answers: Sequence[Recorded]
    ) -> None:
        """Tell the server that it need not remember how far we have read; it has few places."""
        from asyncua import ua

        kept = [
            ua.HistoryReadValueId(NodeId=node, ContinuationPoint=answer.onward)
            for (_, node), answer in zip(nodes, answers, strict=False)
            if answer.onward is not None
        ]
        if kept:
            details = ua.ReadRawModifiedDetails(IsReadModified=False, ReturnBounds=False)
            await send(client, _request(details, kept, release=True))


def _request(
    details: "ua.ReadRawModifiedDetails",
    nodes: "list[ua.HistoryReadValueId]",
    *,
    release: bool = False,
) -> "ua.HistoryReadRequest":
    from asyncua import ua

    return ua.HistoryReadRequest(
        Parameters=ua.HistoryReadParameters(
            HistoryReadDetails=details,
            TimestampsToReturn=ua.TimestampsToReturn.Source,
            ReleaseContinuationPoints=release,
            NodesToRead=nodes,
        )
    )


def _time(ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=ns // 1000)
