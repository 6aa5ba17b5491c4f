"""How well a template fits a device."""

from dataclasses import dataclass

from edge_agent.drivers.base import Order
from edge_agent.tools.plausible import CERTAIN, Evidence


@dataclass(frozen=True)
class Fit:
    """How a template fits: what speaks for it, and how many of its tags can be read.

    order  of the bytes, where the device must be told another than the template's
    """

    template: str
    evidence: Evidence
    readable: int
    tags: int
    order: Order | None = None

    @property
    def rank(self) -> float:
        """What templates are compared by."""
        return self.evidence.points * (self.readable / self.tags) ** 2

    @property
    def words(self) -> str:
        """How sure it is, in words."""
        whole = self.readable == self.tags
        return "very likely" if whole and self.evidence.points >= CERTAIN else "possible"
