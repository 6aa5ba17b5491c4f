"""What an OPC UA DataValue says: a number, a quality and the time at its source."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.drivers.base import DeviceConfig
from edge_agent.model import F64, U8, Quality, Schema

EXACT = 1 << 53  # the largest integer up to which a float64 holds every one

# status codes without their information bits; OPC 10000-6, annex A.2 (StatusCode.csv)
_BAD = {
    0x80330000: Quality.BAD_ADDRESS,  # BadNodeIdInvalid
    0x80340000: Quality.BAD_ADDRESS,  # BadNodeIdUnknown
    0x80350000: Quality.BAD_ADDRESS,  # BadAttributeIdInvalid
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

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


class StatusCode(Protocol):
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
    def StatusCode(self) -> StatusCode | None: ...  # noqa: N802
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


def reading(value: DataValue) -> tuple[float, Quality]:
    """Return the raw number and its quality; NaN exactly where the quality is BAD."""
    quality = quality_of(0 if value.StatusCode is None else value.StatusCode.value)
    if quality >= Quality.BAD:
        return math.nan, quality
    raw = None if value.Value is None else value.Value.Value
    if not isinstance(raw, (bool, int, float)):
        return math.nan, Quality.BAD_NOT_AVAILABLE  # no value, a text, an array, a structure
    if isinstance(raw, int) and abs(raw) > EXACT:
        return float(raw), Quality.UNCERTAIN_PRECISION
    number = float(raw)
    return (number, quality) if math.isfinite(number) else (math.nan, Quality.BAD_NOT_AVAILABLE)


def nanoseconds(time: datetime.datetime | None) -> int | None:
    """Return ns since the Unix epoch; None for the null time, 1601-01-01 (OPC 10000-6, 5.2.2.5)."""
    if time is None or time.year <= 1601:
        return None
    aware = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
    return (aware - _EPOCH) // _MICROSECOND * 1000


def source_time(value: DataValue) -> int | None:
    """Return when the value became so at its source, else at the server, else None."""
    source = nanoseconds(value.SourceTimestamp)
    return nanoseconds(value.ServerTimestamp) if source is None else source


@dataclass(frozen=True)
class Scaling:
    """From raw numbers to tag units for the columns of one group.

    Every factor is an exact fraction, applied as one multiplication and one division, so 12345 with
    a scale of 0.1 is 1234.5 and not 1234.5000000000002.
    """

    numerator: F64
    denominator: F64
    offset: F64
    low: F64
    high: F64
    invalid: tuple[frozenset[float], ...]

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
            tuple(frozenset(map(float, tag.invalid)) for tag in tags),
        )

    def apply(self, columns: NDArray[np.intp], raw: F64, quality: U8) -> tuple[F64, U8]:
        """Return values in tag units and their quality.

        columns, raw, quality  (m,): the column of each raw number
        """
        said = [r in self.invalid[c] for c, r in zip(columns.tolist(), raw.tolist(), strict=True)]
        bad = quality >= Quality.BAD
        with np.errstate(over="ignore"):  # beyond float64 is no number, which is seen below
            value = raw * self.numerator[columns] / self.denominator[columns] + self.offset[columns]
        nothing = (np.array(said, bool) | ~np.isfinite(value)) & ~bad
        outside = (value < self.low[columns]) | (value > self.high[columns])
        marked = np.where(outside, np.maximum(quality, Quality.UNCERTAIN_RANGE), quality)
        marked = np.where(nothing, Quality.BAD_NOT_AVAILABLE, marked)
        marked = np.where(bad, quality, marked).astype(np.uint8)
        return np.where(marked >= Quality.BAD, np.nan, value), marked
