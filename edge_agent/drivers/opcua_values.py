"""What an OPC UA DataValue says: a number, a quality and the time at its source."""

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.base import DeviceConfig, Vocabulary
from edge_agent.drivers.opcua_columns import EXACT, Columns
from edge_agent.model import F64, U8, Kind, Quality, Schema

ABSENT = 0x80090000  # BadUnknownResponse: what we say of a value that the answer does not hold

# status codes without their information bits; OPC 10000-6, annex A.2 (StatusCode.csv)
_BAD = {
    0x80330000: Quality.BAD_ADDRESS,  # BadNodeIdInvalid
    0x80340000: Quality.BAD_ADDRESS,  # BadNodeIdUnknown
    0x80350000: Quality.BAD_ADDRESS,  # BadAttributeIdInvalid
    ABSENT: Quality.BAD_SHORT,
    0x80050000: Quality.BAD_DEVICE,  # BadCommunicationError
    0x801F0000: Quality.BAD_DEVICE,  # BadUserAccessDenied
    0x80310000: Quality.BAD_DEVICE,  # BadNoCommunication
    0x803A0000: Quality.BAD_DEVICE,  # BadNotReadable
    0x80890000: Quality.BAD_DEVICE,  # BadConfigurationError
    0x808B0000: Quality.BAD_DEVICE,  # BadDeviceFailure
    0x808C0000: Quality.BAD_DEVICE,  # BadSensorFailure
    0x808D0000: Quality.BAD_DEVICE,  # BadOutOfService
    0x80320000: Quality.BAD_NOT_AVAILABLE,  # BadWaitingForInitialData
    0x808A0000: Quality.BAD_NOT_AVAILABLE,  # BadNotConnected
    0x809B0000: Quality.BAD_NOT_AVAILABLE,  # BadNoData
    0x809E0000: Quality.BAD_NOT_AVAILABLE,  # BadDataUnavailable
}
_INFO_TYPE, _INFO_DATA_VALUE, _OVERFLOW = 0x0C00, 0x0400, 0x0080  # OPC 10000-4, 7.39.1

_FIRST, _LAST = -7_000_000_000_000_000_000, 9_200_000_000_000_000_000  # ns, as in the columns
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


class _Valued(Protocol):
    """The library's status code, as far as it is read here."""

    @property
    def value(self) -> int: ...


class Variant(Protocol):
    """The library's variant, as far as it is read here."""

    @property
    def Value(self) -> object: ...  # noqa: N802  the library's name


class DataValue(Protocol):
    """The library's DataValue, as far as it is read here."""

    @property
    def Value(self) -> Variant | None: ...  # noqa: N802  the library's names
    @property
    def StatusCode(self) -> _Valued | None: ...  # noqa: N802
    @property
    def SourceTimestamp(self) -> datetime.datetime | None: ...  # noqa: N802
    @property
    def ServerTimestamp(self) -> datetime.datetime | None: ...  # noqa: N802


def quality_of(status: int) -> Quality:
    """Return the quality that a status code stands for; the reserved severity is bad.

    A value that was pushed out of the server's queue leaves its mark on the next one: the number is
    right, what was before it is not known (Overflow bit).
    """
    severity = status >> 30
    if severity >= 2:
        return _BAD.get(status & 0xFFFF0000, Quality.BAD)
    overflow = status & _INFO_TYPE == _INFO_DATA_VALUE and status & _OVERFLOW
    return Quality.UNCERTAIN if severity == 1 or overflow else Quality.GOOD


def qualities(status: NDArray[np.uint32]) -> U8:
    """Return ``quality_of`` of every status code, (m,)."""
    if not status.any():
        return np.zeros(len(status), np.uint8)
    codes, place = np.unique(status, return_inverse=True)
    return np.array([quality_of(code) for code in codes.tolist()], np.uint8)[place]


def nanoseconds(time: datetime.datetime | None) -> int | None:
    """Return ns since the Unix epoch; None for the null time, 1601-01-01 (OPC 10000-6, 5.2.2.5)."""
    if time is None or time.year <= 1601:
        return None
    aware = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
    return (aware - _EPOCH) // _MICROSECOND * 1000


def columns_of(values: Sequence[DataValue], handles: Sequence[int] | None = None) -> Columns:
    """Return what the library has decoded as the columns that ``opcua_columns.decode`` makes."""
    columns = Columns.empty(len(values))
    if handles is not None:
        columns.handle[:] = handles
    for i, value in enumerate(values):
        columns.status[i] = 0 if value.StatusCode is None else value.StatusCode.value
        for time in (value.SourceTimestamp, value.ServerTimestamp):
            stamp = nanoseconds(time)
            if stamp is not None:
                columns.source[i] = min(max(stamp, _FIRST), _LAST)
                break
        raw = None if value.Value is None else value.Value.Value
        if isinstance(raw, list) and len(raw) == 1:
            raw = raw[0]  # one element of an array
        if isinstance(raw, str):
            columns.texts[i] = raw
        elif isinstance(raw, (bool, int, float)):
            columns.number[i] = float(raw)
            columns.rounded[i] = isinstance(raw, int) and abs(raw) > EXACT
        elif isinstance(raw, datetime.datetime):
            stamp = nanoseconds(raw)
            columns.number[i] = math.nan if stamp is None else stamp // 100 / 1e7
        else:
            text = getattr(raw, "Text", None)
            if isinstance(text, str):
                columns.texts[i] = text
    return columns


@dataclass(frozen=True)
class Scaling:
    """From raw numbers to tag units for the columns of one group.

    Every factor is an exact fraction, applied as one multiplication and one division, so 12345 with
    a scale of 0.1 is 1234.5 and not 1234.5000000000002. A text becomes the running number that it
    has in its column's vocabulary.
    """

    numerator: F64
    denominator: F64
    offset: F64
    low: F64
    high: F64
    invalid: Mapping[int, frozenset[float]]
    words: dict[int, Vocabulary]

    @classmethod
    def of(cls, config: DeviceConfig, schema: Schema, names: Sequence[str]) -> "Scaling":
        """Return the scaling of the named tags, in this order."""
        tags = [config.tags[name] for name in names]
        ratios: list[Fraction] = [config.ratio_of(tag) for tag in tags]
        return cls(
            np.array([float(r.numerator) for r in ratios]),
            np.array([float(r.denominator) for r in ratios]),
            np.array([tag.offset for tag in tags]),
            np.array([tag.low for tag in schema.tags]),
            np.array([tag.high for tag in schema.tags]),
            {c: frozenset(map(float, tag.invalid)) for c, tag in enumerate(tags) if tag.invalid},
            {c: Vocabulary() for c, tag in enumerate(schema.tags) if tag.kind is Kind.TEXT},
        )

    def apply(self, column: NDArray[np.intp], read: Columns) -> tuple[F64, U8]:
        """Return values in tag units and their quality, (m,); NaN exactly where it is BAD.

        column  (m,): the column of each value read
        """
        quality = qualities(read.status)
        quality[(quality < Quality.BAD) & read.rounded] = Quality.UNCERTAIN_PRECISION
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64: seen below
            value = read.number * self.numerator[column] / self.denominator[column]
            value += self.offset[column]
        outside = (value < self.low[column]) | (value > self.high[column])
        quality[outside] = np.maximum(quality[outside], Quality.UNCERTAIN_RANGE)
        for place, said in self._said_invalid(column, read.number):
            value[place[said]] = np.nan
        self._name(column, read, value)
        nothing = ~np.isfinite(value) & (quality < Quality.BAD)
        quality[nothing] = Quality.BAD_NOT_AVAILABLE
        value[quality >= Quality.BAD] = np.nan
        return value, quality

    def _said_invalid(
        self, column: NDArray[np.intp], number: F64
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
        """Yield where the columns with sentinels stand, and which of those are one."""
        for c, sentinels in self.invalid.items():
            (place,) = np.nonzero(column == c)
            yield place, np.isin(number[place], list(sentinels))

    def _name(self, column: NDArray[np.intp], read: Columns, value: F64) -> None:
        """Put the running number of its text into each value of a text column."""
        for c, words in self.words.items():
            for place in np.nonzero(column == c)[0].tolist():
                text = read.texts.get(place)
                value[place] = np.nan if text is None else words.index(text)

    def texts(self, schema: Schema, value: F64) -> dict[str, dict[int, str]]:
        """Return the texts that a block of values, (k, n), needs."""
        return {schema.tags[c].name: words.used(value[c]) for c, words in self.words.items()}
