"""Decoding for the tests, from the template's text alone: struct and fractions, nothing of ours."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_FORMATS = {
    "u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q",
    "f32": ">f", "f64": ">d", "bool": ">H",
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """One tag of a template: where it stands and how its words are read.

    scale_from  the tag whose value is an exponent of ten in the factor
    """

    name: str
    area: str
    address: int
    bit: int | None
    type: str
    order: str
    factor: Fraction
    offset: float
    unit: str
    scale_from: str | None

    @property
    def width(self) -> int:
        return struct.calcsize(_FORMATS[self.type]) // 2

    def decode(self, words: list[int]) -> float:
        if self.bit is not None:
            return float(words[0] >> self.bit & 1)
        octets = [word.to_bytes(2, "big") for word in words]
        if self.order in {"CDAB", "DCBA"}:
            octets.reverse()
        if self.order in {"BADC", "DCBA"}:
            octets = [pair[::-1] for pair in octets]
        raw = struct.unpack(_FORMATS[self.type], b"".join(octets))[0]
        return float(raw * float(self.factor)) + self.offset

    def close(self, read: float, true: float) -> bool:
        """Whether a reading is the truth but for one step of the register."""
        if self.type.startswith("f"):
            return abs(read - true) <= abs(true) * (2**-22 if self.type == "f32" else 1e-15)
        steps = (true - read) / float(self.factor)
        return -1e-5 <= steps < 1 + 1e-9


def expected(template: dict[str, Any], ct: int, pt: int) -> list[Expected]:
    rows = []
    for name, tag in template["tags"].items():
        area, _, place = str(tag["at"]).partition(":")
        address, _, bit = place.partition(".")
        factor = Fraction(str(tag.get("scale", 1)))
        for ratio in str(tag.get("ratio", "1")).split("*"):
            factor *= {"1": 1, "ct": ct, "pt": pt}[ratio]
        order = str(tag.get("order", template.get("order", "ABCD")))
        unit = str(tag.get("unit", "1"))
        one_bit = bit or area in {"co", "di"}
        rows.append(
            Expected(
                name,
                area,
                int(address, 0),
                int(bit) if bit else None,
                str(tag.get("type", "bool" if one_bit else "u16")),
                order,
                factor,
                float(tag.get("offset", 0)),
                unit,
                tag.get("scale_from"),
            )
        )
    return rows


def runs(rows: list[Expected], longest: int = 60) -> Iterator[list[Expected]]:
    """Registers that follow each other without a gap, read with one request."""
    run: list[Expected] = []
    for row in sorted(rows, key=lambda r: (r.area, r.address)):
        follows = run and (run[-1].area, run[-1].address + run[-1].width) == (row.area, row.address)
        if run and (not follows or row.address + row.width - run[0].address > longest):
            yield run
            run = []
        run.append(row)
    if run:
        yield run
