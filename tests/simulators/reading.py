"""Decoding for the tests, from the template's text alone: struct and fractions, nothing of ours."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

_FORMATS = {
    "u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q",
    "f32": ">f", "f64": ">d",
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """One tag of a template: where it stands and how its words are read."""

    name: str
    area: str
    address: int
    type: str
    order: str
    factor: Fraction
    unit: str

    @property
    def width(self) -> int:
        return struct.calcsize(_FORMATS[self.type]) // 2

    def decode(self, words: list[int]) -> float:
        octets = [word.to_bytes(2, "big") for word in words]
        if self.order in {"CDAB", "DCBA"}:
            octets.reverse()
        if self.order in {"BADC", "DCBA"}:
            octets = [pair[::-1] for pair in octets]
        return float(struct.unpack(_FORMATS[self.type], b"".join(octets))[0] * float(self.factor))

    def close(self, read: float, true: float) -> bool:
        """Whether a reading is the truth but for one step of the register."""
        if self.type.startswith("f"):
            return abs(read - true) <= abs(true) * (2**-23 if self.type == "f32" else 1e-15)
        return -float(self.factor) * 1e-5 <= true - read < float(self.factor) * (1 + 1e-9)


def expected(template: dict[str, Any], ct: int, pt: int) -> list[Expected]:
    rows = []
    for name, tag in template["tags"].items():
        area, _, address = str(tag["at"]).partition(":")
        factor = Fraction(str(tag.get("scale", 1)))
        for ratio in str(tag.get("ratio", "1")).split("*"):
            factor *= {"1": 1, "ct": ct, "pt": pt}[ratio]
        order = str(tag.get("order", "ABCD"))
        unit = str(tag.get("unit", "1"))
        rows.append(Expected(name, area, int(address, 0), str(tag["type"]), order, factor, unit))
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
