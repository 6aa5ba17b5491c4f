"""Blocks to InfluxDB line protocol; pure text, no I/O.

All numbers of a block are written by one orjson call (the shortest text that gives the same float64
back) and put into one template per *pattern of quality*: a template has the measurement, the tags,
the names of the fields and the quality fields of its pattern already in it. A field that is left
out takes its number as ``%.0s``. So Python does one ``%`` per row, not one step per field.

Source: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

import numpy as np
import orjson
from numpy.typing import NDArray

from edge_agent.model import U8, Family, Gap, Kind, Quality, SampleBlock, Schema

EXACT = 2.0**53  # every integer up to it is a float64
PATTERNS = 256  # templates kept per stream


class Lines:
    """Writes the lines of one schema.

    A sample's measurement is ``sample`` with tags ``device``, ``site``, ``stream``; a derived row's
    is its family with tags ``metric``, ``site``, ``window``. States are integers, texts strings,
    other numbers floats. A value that is BAD is left out (so is an infinite one, which the protocol
    cannot say); ``quality`` is the worst of the row and always there, ``<tag>.q`` for each tag that
    is anything but ``GOOD``. A tag called ``quality`` is written as ``quality.value``.
    """

    def __init__(self, schema: Schema, site: str) -> None:
        self._schema = schema
        owner, name = ("metric", "window") if schema.family.derived else ("device", "stream")
        measurement = schema.family.value if schema.family.derived else Family.SAMPLE.value
        tags = {owner: schema.owner, "site": site, name: schema.name}
        self._prefix = _literal(_escape(measurement) + _tags(tags) + " ")
        names = [tag.name if tag.name != "quality" else "quality.value" for tag in schema.tags]
        self._fields = [_literal(_escape(name)) for name in names]
        self._states = [i for i, tag in enumerate(schema.tags) if tag.kind is Kind.STATE]
        self._texts = [i for i, tag in enumerate(schema.tags) if tag.kind is Kind.TEXT]
        self._templates: dict[bytes, str] = {}

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
        texts = _numbers(value)
        for column in self._states:
            states = np.nan_to_num(value[column::k]).clip(-EXACT, EXACT)
            texts[column::k] = _numbers(states.astype(np.int64))
        for column in self._texts:
            texts[column::k] = [_string(block.text(column, row)) for row in range(n)]
        times = _numbers(block.time)
        patterns = quality.tobytes()
        return [
            self._template(patterns[i * k : (i + 1) * k]) % (*texts[i * k : (i + 1) * k], times[i])
            for i in range(n)
        ]

    def _spoken(self, block: SampleBlock, quality: U8) -> U8:
        """Return the qualities, (n, k); a number without its text is no value."""
        quality = quality.copy()
        for column in self._texts:
            mute = [row for row in range(len(block)) if block.text(column, row) is None]
            quality[mute, column] = np.maximum(quality[mute, column], np.uint8(Quality.BAD))
        return quality

    def _template(self, pattern: bytes) -> str:
        template = self._templates.get(pattern)
        if template is None:
            if len(self._templates) >= PATTERNS:
                self._templates.clear()
            template = self._templates[pattern] = self._compose(pattern)
        return template

    def _compose(self, pattern: bytes) -> str:
        skipped, fields = "", list[str]()
        marks = list[str]()
        for i, quality in enumerate(pattern):
            if quality >= Quality.BAD:
                skipped += "%.0s"
            else:
                suffix = "i" if i in self._states else ""
                fields.append(f"{skipped}{self._fields[i]}=%s{suffix}")
                skipped = ""
            if quality != Quality.GOOD:
                marks.append(f"{self._fields[i]}.q={quality}i")
        worst = f"quality={max(pattern, default=0)}i"
        return self._prefix + ",".join([*fields, skipped + worst, *marks]) + " %s"


def gap_line(gap: Gap, site: str) -> str:
    """Return the line that stands for rows that were dropped, at the time of the first."""
    tags = {"name": gap.schema.name, "owner": gap.schema.owner, "site": site}
    return f"gap{_tags(tags)} rows={gap.rows}i,to={gap.last_ns}i {gap.first_ns}"


def _numbers(array: NDArray[np.float64] | NDArray[np.int64]) -> list[str]:
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


def _literal(text: str) -> str:
    """Return text that ``%`` leaves alone."""
    return text.replace("%", "%%")
