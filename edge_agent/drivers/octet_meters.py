"""What the configurations and the rows of all meters that speak in octet frames have in common."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Generic, TypeVar

import numpy as np

from edge_agent.drivers.base import DeviceConfig, Group, TagConfig, apply_flag, groups_of
from edge_agent.drivers.links import SerialSettings, link_faults
from edge_agent.drivers.octet_frames import Size
from edge_agent.drivers.octet_line import Line, OctetLine, common
from edge_agent.model import F64, U8, Quality, SampleBlock, Schema
from edge_agent.units import Duration, Unit

Path = tuple[str | int, ...]
S = TypeVar("S")

USUAL = SerialSettings(2400, "E", 1, 8)
PAUSE = Duration(0.02)
RETRY_FIRST, RETRY_LAST = 60.0, 3600.0  # seconds until what a meter refused is asked for again


@dataclass(frozen=True, kw_only=True)
class MeterDevice(DeviceConfig):
    """One meter on a serial line of this box, or behind a serial server.

    pause  between an answer and the next request
    """

    shared: ClassVar[tuple[str, ...]] = ()  # time-out and pause are the meter's, not the line's
    port: ClassVar[int]
    protocol: ClassVar[str]

    pause: Duration = PAUSE

    @property
    def serial(self) -> bool:
        """True for a serial line of this box."""
        return self.url.scheme.endswith("+serial")

    @property
    def link(self) -> tuple[str, int] | str:
        """Host and port, or the path of the serial line."""
        if self.serial:
            return self.url.path
        return self.url.hostname or "", self.url.port or self.port

    @property
    def line(self) -> Line:
        """What all meters of a link must agree on."""
        return Line(
            self.url.scheme,
            self.url.path if self.serial else self.url.hostname or "",
            0 if self.serial else self.url.port or self.port,
            USUAL.laid_under(self.url),
        )

    @property
    def occupies(self) -> float:
        """The share of a serial line's time that the bytes of its polls take."""
        if not self.serial:
            return 0.0
        groups = groups_of("", self)
        lengths = [self.octets_of(tags) / float(g.period or 1.0) for g, tags in groups.items()]
        return self.line.takes(1) * sum(lengths)

    def octets_of(self, tags: Sequence[str]) -> int:
        """Return how many bytes go over the wire for one scan of these tags, both ways."""
        raise NotImplementedError

    def address_faults(self, own: Mapping[str, Callable[[str], list[str]]]) -> list[str]:
        """Return what is wrong with the address; ``own`` as for ``link_faults``."""
        return list(link_faults(self.url, serial=self.serial, port=self.port, own=own))

    def common_faults(self, tag: TagConfig) -> list[tuple[str, str]]:
        """Return what no tag of such a meter may say."""
        faults = []
        if tag.mode == "subscribe":
            text = f"{self.protocol} knows no subscriptions (leave mode out, or write poll)"
            faults.append(("mode", text))
        faults += [
            (key, f"{self.protocol} says itself how a number is written: leave {key} out")
            for key in ("type", "length", "order", "scale_from")
            if getattr(tag, key) is not None
        ]
        return faults


def line_of(devices: Mapping[str, MeterDevice], size: Size) -> OctetLine:
    """Return the line of some meters; ``ConfigError`` if they do not agree on what it is."""
    line = common({name: device.line for name, device in devices.items()})
    return OctetLine(line, size, max(float(device.timeout) for device in devices.values()))


def unit_fault(tag: TagConfig, natural: str) -> list[tuple[str, str]]:
    """Return what is wrong with the unit of a tag whose meter counts in another."""
    try:
        written = Unit.parse(tag.unit)
    except ValueError:
        return []  # told where all units are checked
    if written.dimension == Unit.parse(natural).dimension:
        return []
    has = f'"{tag.unit}"' if tag.unit != "1" else "no unit"
    right = natural if natural != "1" else "no unit"
    return [("unit", f"it has {has}, but the meter shows {right} (write it, or a multiple of it)")]


def factor_to(natural: Unit, tag: TagConfig) -> Fraction:
    """Return the factor from the meter's unit to the tag's; ``ValueError`` if there is none."""
    return Fraction(repr(natural.factor_to(Unit.parse(tag.unit))))


@dataclass(frozen=True)
class Column:
    """How the raw numbers of one tag become values.

    ratio  exact; value = raw * ratio + offset, rounded once
    """

    ratio: Fraction
    offset: float
    invalid: tuple[int, ...]
    low: float
    high: float

    @classmethod
    def of(cls, config: DeviceConfig, tag: TagConfig) -> "Column":
        """Return the column of a tag; scale and transformer ratios are in."""
        low, high = tag.range or (-np.inf, np.inf)
        return cls(config.ratio_of(tag), tag.offset, tag.invalid, low, high)


class Row:
    """One scan being read."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = columns
        self.value: F64 = np.full((len(columns), 1), np.nan)
        self.quality: U8 = np.full((len(columns), 1), Quality.BAD_MISSING, np.uint8)

    def spoil(self, column: int, quality: Quality) -> None:
        """Say why a column has no value."""
        self.value[column, 0], self.quality[column, 0] = np.nan, quality

    def fill(self, column: int, raw: int | None, unit: Fraction) -> None:
        """Fill in a number of the meter; None: it has no value.

        unit  what its digits count, in the unit that the column's ratio begins from
        """
        how = self._columns[column]
        if raw is None or raw in how.invalid:
            self.spoil(column, Quality.BAD_NOT_AVAILABLE)
            return
        value = float(raw * unit * how.ratio) + how.offset
        inside = how.low <= value <= how.high
        self.value[column, 0] = value
        self.quality[column, 0] = Quality.GOOD if inside else Quality.UNCERTAIN_RANGE

    def block(self, config: DeviceConfig, schema: Schema, time: int) -> SampleBlock:
        """Return the row as a block of one scan."""
        apply_flag(config, schema, self.value, self.quality)
        return SampleBlock(schema, np.array([time], np.int64), self.value, self.quality)


class LineDriver(ABC, Generic[S]):
    """One line and all meters on it: what a driver of such meters need not write again.

    streams  what each stream is read with, by its group
    """

    def __init__(self, line: OctetLine, streams: Mapping[Group, S]) -> None:
        self._line, self._streams = line, dict(streams)
        self._lock = asyncio.Lock()  # one request in flight per line

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._streams)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._line.counts

    async def connect(self) -> None:
        await self._line.open()

    async def close(self) -> None:
        await self._line.close()

    async def read(self, group: Group) -> SampleBlock:
        async with self._lock:
            return await self._scan(self._streams[group])

    @abstractmethod
    async def _scan(self, stream: S) -> SampleBlock:
        """Return one scan of a stream; raises as ``Driver.read``."""


@dataclass
class Refusal:
    """What a meter does not answer to; it is asked again, ever more seldom.

    why  in words
    """

    why: str
    retry_at: float
    pause: float = RETRY_FIRST


@dataclass
class Refusals:
    """What one meter refuses, by data identifier; times are the monotonic clock's."""

    known: dict[int, Refusal] = field(default_factory=dict)

    def stands(self, item: int, now: float) -> bool:
        """Return whether an item need not be asked for now."""
        refusal = self.known.get(item)
        return refusal is not None and now < refusal.retry_at

    def learn(self, item: int, why: str, now: float) -> None:
        """Take note of a refusal; the pause to the next try doubles."""
        before = self.known.get(item)
        pause = RETRY_FIRST if before is None else min(2 * before.pause, RETRY_LAST)
        self.known[item] = Refusal(why, now + pause, pause)

    def forget(self, item: int) -> None:
        """Take note that the meter has answered to it."""
        self.known.pop(item, None)

    def save(self) -> dict[str, object]:
        """Return it JSON-able."""
        return {f"{item:X}": refusal.why for item, refusal in self.known.items()}

    def load(self, state: object, now: float) -> None:
        """Take over what ``save`` returned; pass over what it did not."""
        if not isinstance(state, dict):
            return
        for text, why in state.items():
            try:
                self.learn(int(str(text), 16), str(why), now)
            except ValueError:
                continue
