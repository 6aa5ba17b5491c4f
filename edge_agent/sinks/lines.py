"""Blocks to InfluxDB line protocol; pure text, no I/O.

All numbers of a block are written by one orjson call (the shortest text that gives the same float64
back) and put into one frame per *pattern of quality*: a frame has the names of the fields and the
quality fields of its pattern already in it. So Python does one join per row, not one step per
field. Devices of one model share their frames.

Source: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from edge_agent.model import U8, Family, Gap, Kind, Quality, SampleBlock, Schema, Signals

EXACT = 2.0**53  # every integer up to it is a float64
PATTERNS = 256  # frames kept per model


class Lines:
    """Writes the lines of one schema.

    A sample's measurement is ``sample`` with tags ``device``, ``site``, ``stream``; a derived row's
    is its family with tags ``metric``, ``site``, ``window``. States are integers, texts strings,
    other numbers floats. A value that is BAD is left out (so is an infinite one, which the protocol
    cannot say); ``quality`` is the worst of the row and always there, ``<tag>.q`` for each tag that
    is anything but ``GOOD``. A tag called ``quality`` is written as ``quality.value``. The field
    ``schema`` of derived rows is the id under which the provenance is found.

    unit  ns of the times that are written, which are cut to it
    """

    def __init__(self, schema: Schema, site: str, unit: int = 1) -> None:
        self._schema = schema
        self._unit = unit
        owner, name = ("metric", "window") if schema.family.derived else ("device", "stream")
        measurement = schema.family.value if schema.family.derived else Family.SAMPLE.value
        tags = {owner: schema.owner, "site": site, name: schema.name}
        self._prefix = _escape(measurement) + _tags(tags) + " "
        if schema.provenance:
            self._prefix += f'schema="{schema.id}",'
        self._states = [i for i, tag in enumerate(schema.tags) if tag.kind is Kind.STATE]
        self._texts = [i for i, tag in enumerate(schema.tags) if tag.kind is Kind.TEXT]
        self._frames = _frames(schema.signals)

    def of(self, block: SampleBlock) -> list[str]:
        """Return one line per row, without line ends."""
        k, n = block.value.shape
        value = block.value.T.reshape(-1)  # row by row
        quality = np.ascontiguousarray(block.quality.T)
        if self._texts:
            quality = self._spoken(block, quality)
        infinite = np.isinf(value)
        if infinite.any():
            quality = np.where(
                infinite.reshape(n, k), np.maximum(quality, np.uint8(Quality.BAD)), quality
            )
        texts = numbers(value)
        for column in self._states:
            states = np.nan_to_num(value[column::k]).clip(-EXACT, EXACT)
            texts[column::k] = numbers(states.astype(np.int64))
        for column in self._texts:
            texts[column::k] = [_string(block.text(column, row)) for row in range(n)]
        times = numbers(block.time // self._unit if self._unit > 1 else block.time)
        patterns = quality.tobytes()
        return [
            self._line(patterns[i * k : (i + 1) * k], texts[i * k : (i + 1) * k], times[i])
            for i in range(n)
        ]

    def _line(self, pattern: bytes, texts: list[str], time: str) -> str:
        known = self._frames.get(pattern)
        if known is None:
            if len(self._frames) >= PATTERNS:
                self._frames.clear()
            known = self._frames[pattern] = self._compose(pattern)
        parts, columns = known
        if len(columns) < len(texts):
            texts = [texts[i] for i in columns]
        return self._prefix + filled(parts, [*texts, time])

    def _spoken(self, block: SampleBlock, quality: U8) -> U8:
        """Return the qualities, (n, k); a number without its text is no value."""
        quality = quality.copy()
        for column in self._texts:
            mute = [row for row in range(len(block)) if block.text(column, row) is None]
            quality[mute, column] = np.maximum(quality[mute, column], np.uint8(Quality.BAD))
        return quality

    def _compose(self, pattern: bytes) -> "Frame":
        names = [
            tag.name if tag.name != "quality" else "quality.value" for tag in self._schema.tags
        ]
        fields = [_escape(name) for name in names]
        good = [i for i, quality in enumerate(pattern) if quality < Quality.BAD]
        marks = [f",{fields[i]}.q={q}i" for i, q in enumerate(pattern) if q != Quality.GOOD]
        before, end = list[str](), ""
        for i in good:
            before.append(f"{end}{fields[i]}=")
            end = "i," if i in self._states else ","
        before.append(f"{end}quality={max(pattern, default=0)}i{''.join(marks)} ")
        return frame(before, "", ""), good


Frame = tuple[list[str], list[int]]  # see ``frame``; which columns of a row have a place in it


@lru_cache(maxsize=4096)
def _frames(_signals: Signals) -> dict[bytes, Frame]:
    """Return where the frames of the streams with these signals are kept, by pattern."""
    return {}


def frame(before: Sequence[str], between: str, end: str) -> list[str]:
    """Return a text with places to fill: what stands before each place, between two, at the end."""
    texts = [between + text if i else text for i, text in enumerate(before)]
    parts = [part for text in texts for part in (text, "")]
    return [*parts, end if texts else ""]


def filled(parts: list[str], texts: Sequence[str]) -> str:
    """Return the text with its places filled; twice as fast as ``%``."""
    whole = parts.copy()
    whole[1::2] = texts
    return "".join(whole)


def gap_line(gap: Gap, site: str, unit: int = 1) -> str:
    """Return the line that stands for rows that were dropped, at the time of the first.

    The line's time is cut to the unit like that of a row; the field ``to`` is in ns.
    """
    tags = {"name": gap.schema.name, "owner": gap.schema.owner, "site": site}
    return f"gap{_tags(tags)} rows={gap.rows}i,to={gap.last_ns}i {gap.first_ns // unit}"


def numbers(array: NDArray[np.float64] | NDArray[np.int64]) -> list[str]:
    """Return each number as text."""
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].decode().split(",")


def _string(text: str | None) -> str:
    """Return a text as the value of a string field."""
    escaped = (text or "").replace("\n", " ").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _tags(tags: dict[str, str]) -> str:
    return "".join(f",{key}={_escape(text)}" for key, text in tags.items())


def _escape(text: str) -> str:
    """Return a measurement, tag or field key with what separates them escaped."""
    for character in ",= ":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")
