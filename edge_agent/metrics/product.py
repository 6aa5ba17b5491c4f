"""Energy and output of a boundary by product, and by batch.

A product is what a tag says is running: the minutes of an energy metric are given to the product
that runs, and a minute in which it changes is shared by time and marked estimated. What is used
while the tag is silent, or says nothing that is known, is ``unknown``: products and unknown sum up
to the boundary's total exactly. Batches are in ``batch.py``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from edge_agent.metrics.base import Metric, MetricConfig, Plant, QualityLimits, Reference, split_tag
from edge_agent.metrics.batch import Batches, BatchRows
from edge_agent.metrics.feed import Rows
from edge_agent.metrics.formula import SHARES, Sums, merged, ratio
from edge_agent.metrics.join import Inputs, SlotFormula
from edge_agent.metrics.spells import Machine
from edge_agent.metrics.whole import Whole
from edge_agent.model import F64, I64, U8, Family, Kind, Quality, Tag

UNKNOWN = "unknown"
_NAME = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True)
class Products(SlotFormula):
    """The formula: energy and output of each product are additive, their quotient is derived.

    The additive columns: energy of each product and the unknown, output of the same, the totals.
    """

    machine: Machine
    products: tuple[str, ...]
    whole: Whole
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.PRODUCT

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        kgce, made = self.whole.energy.unit, self.whole.output.unit
        names = (*self.products, UNKNOWN)
        per = self.whole.per
        return (
            *(Tag(f"kgce_{name}", kgce) for name in names),
            *(Tag(f"output_{name}", made) for name in names),
            Tag("total_kgce", kgce),
            Tag(self.whole.made, made),
            *(Tag(f"intensity_{name}", per) for name in self.products),
            *SHARES,
        )

    @cached_property
    def additive(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags[: 2 * len(self.products) + 4])

    @property
    def sources(self) -> tuple[str, ...]:
        return self.whole.sources

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        k = len(self.products) + 1
        sums = Sums.zeros(2 * k + 2, len(ends))
        minutes = self.whole.read(ends, rows)
        for i, stretch in enumerate(self.machine.spells(ends, rows)):
            spans = stretch.spans()
            shared = int((spans > 0).sum()) > 1
            doubt = max(stretch.worst, int(Quality.UNCERTAIN_ESTIMATED) if shared else 0)
            for j, (value, quality) in enumerate(minutes.shared(i, spans)):
                known = quality < Quality.BAD
                part, total = slice(j * k, (j + 1) * k), 2 * k + j
                sums.total[part, i], sums.total[total, i] = value, value.sum()
                sums.known[part, i] = sums.known[total, i] = known
                sums.worst[part, i] = max(quality, doubt) if known else quality
                sums.worst[total, i] = quality
            told = min(minutes.told(i), int(spans[:-1].sum()))
            sums.estimated[i] = told if shared else min(told, int(minutes.estimated[i]))
            sums.covered[i] = told - sums.estimated[i]
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        k = len(self.products) + 1
        quality = merged(sums, self.limits)
        energy, output = sums.total[:k], sums.total[k : 2 * k]
        totals = np.stack([energy.sum(axis=0), output.sum(axis=0)])
        ratios = [
            ratio(energy[j], output[j], np.maximum(quality[j], quality[k + j]))
            for j in range(k - 1)
        ]
        value = np.vstack([energy, output, totals, [value for value, _ in ratios]])
        return value, np.vstack([quality, [mark for _, mark in ratios]])


@dataclass(frozen=True, kw_only=True)
class ProductTag:
    """Which product runs: the tag that says it, and the numbers of each product."""

    tag: str
    products: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ProductConfig(MetricConfig):
    """Energy and output of an energy metric, by product and by batch.

    of     the energy metric, which needs the window 1min
    by     the tag that says which product runs
    batch  the tag that changes where a batch ends: a number or a text; a row for each batch
    """

    kind: ClassVar[str] = "product"

    of: str
    by: ProductTag | None = None
    batch: str | None = None

    def references(self) -> list[Reference]:
        found = [Reference(("of",), f"{self.of}.total_kgce", unit="kgce")]
        if self.by is not None:
            found.append(Reference(("by", "tag"), self.by.tag))
        if self.batch is not None:
            found.append(Reference(("batch",), self.batch))
        return found

    def faults(self) -> list[tuple[tuple[str | int, ...], str]]:
        found: list[tuple[tuple[str | int, ...], str]] = []
        if self.by is None and self.batch is None:
            found.append(
                ((), "needs by (which product runs) or batch (a tag that changes), or both")
            )
        products = {} if self.by is None else self.by.products
        if self.by is not None and not products:
            found.append((("by", "products"), "needs at least one product (write name: [1])"))
        seen: dict[int, str] = {}
        for name, numbers in products.items():
            here = ("by", "products", name)
            if name == UNKNOWN or not _NAME.fullmatch(name):
                message = f'"{name}" is no name for a product: write a-z, 0-9, ., _ and -'
                found.append((here, message))
            for i, number in enumerate(numbers):
                if number in seen:
                    message = f"{number} is {seen[number]} already: a number is one product"
                    found.append(((*here, i), message))
                seen.setdefault(number, name)
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        found: list[Metric] = []
        if self.by is not None:
            inputs = Inputs(plant)
            if _kind(self.by.tag, plant) is Kind.TEXT:
                raise ValueError(f'"{self.by.tag}" is a text: products are told by numbers')
            machine = Machine(inputs.raw(self.by.tag), tuple(self.by.products.values()))
            whole = Whole.of(self.of, inputs)
            formula = Products(machine, tuple(self.by.products), whole, plant.quality)
            found += inputs.metrics(name, formula, self.windows)
        if self.batch is not None:
            inputs = Inputs(plant)
            reading, whole = inputs.raw(self.batch), Whole.of(self.of, inputs)
            text = _kind(self.batch, plant) is Kind.TEXT
            rows = BatchRows(whole, reading, text, plant.quality)
            output = rows.schema(name, plant.provenance(rows.sources))
            found.append(Batches(output, rows, *inputs.joined()))
        return found


def _kind(tag: str, plant: Plant) -> Kind:
    raw = plant.raw(tag)
    return raw.tags[raw.index[split_tag(tag)[1]]].kind
