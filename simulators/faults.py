"""Scripted trouble: which device misbehaves how, from when to when.

A file is a list of ``{device: em-kiln, from: 10s, to: 20s, kind: silence}``; times count from the
plant's start. Kinds, and what else they take:

::

    silence        no answer
    delay          by: 300ms     the right answer, late
    exception      code: 6       an exception reply
    hole           at: hr:0x10, count: 2    a read that touches these addresses gets exception 2
    reset          the connection is cut
    garbage        bytes that are no frame
    counter-reset  every counter begins at 0 at the time ``from`` (leave out ``to``: it stays so)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edge_agent.units import Duration
from simulators.registers import Area, place

KINDS = ("silence", "delay", "exception", "hole", "reset", "garbage", "counter-reset")


@dataclass(frozen=True)
class Trouble:
    """One entry of a script; ``start`` and ``stop`` in seconds after the plant's start."""

    device: str
    kind: str
    start: float = 0.0
    stop: float = float("inf")
    by: float = 0.5
    code: int = 4
    area: Area = "hr"
    address: int = 0
    count: int = 1

    def touches(self, area: Area, address: int, count: int) -> bool:
        """Return whether a read meets the hole."""
        reaches = self.address < address + count and address < self.address + self.count
        return area == self.area and reaches


class Script:
    """All trouble of a run."""

    def __init__(self, troubles: list[Trouble] | None = None) -> None:
        self.troubles = troubles or []

    def now(self, device: str, seconds: float) -> list[Trouble]:
        """Return what befalls a device so many seconds after the plant's start."""
        return [t for t in self.troubles if t.device == device and t.start <= seconds < t.stop]


def _trouble(row: dict[str, object]) -> Trouble:
    unknown = set(row) - {"device", "from", "to", "kind", "by", "code", "at", "count"}
    if unknown or row.get("kind") not in KINDS:
        raise ValueError(
            f"{row}: write device, from, to, kind ({', '.join(KINDS)}) and its by, code, at, count"
        )
    area, address, _ = place(str(row.get("at", "hr:0")))
    return Trouble(
        str(row["device"]),
        str(row["kind"]),
        Duration.parse(row.get("from", "0s")),
        Duration.parse(row["to"]) if "to" in row else float("inf"),
        Duration.parse(row.get("by", "500ms")),
        int(str(row.get("code", 4))),
        area,
        address,
        int(str(row.get("count", 1))),
    )


def read_script(path: Path) -> Script:
    """Return the script in a file; ``ValueError`` says what would be right."""
    import yaml

    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: write a list of {{device, from, to, kind}}")  # noqa: TRY004 – a wrong file
    return Script([_trouble(cast("dict[str, object]", row)) for row in rows])
