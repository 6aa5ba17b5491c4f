"""The formula of an energy boundary: what is added up each minute, and what follows from it.

``E = Σ (E_i · k_i)`` with the ``k`` of the minute's local day, net of what is returned, and
``e = E / P`` (GB/T 2589-2020, 综合能耗 and 单位产品综合能耗). Amounts, standard coal, GJ and tCO2
are additive columns, so a coefficient that changes inside a month counts for its days only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_agent.metrics.base import BAD, MINUTE, NOT_AVAILABLE, QualityLimits
from edge_agent.metrics.carriers import Dated, rounded, worth_grid
from edge_agent.metrics.flows import Flow, Taken
from edge_agent.metrics.formula import SHARES, Sums, merged, ratio, stacked
from edge_agent.metrics.join import Rows, SlotFormula
from edge_agent.metrics.per_unit import Constant, Divisor
from edge_agent.model import F64, I64, U8, Family, Signals, Tag, shared
from edge_agent.units import Unit

KGCE, GJ, TCO2 = Unit.parse("kgce"), Unit.parse("GJ"), Unit.parse("tCO2")
_STEAM = 1024.0  # MJ per t, of the size of steam's heat
Cell = tuple[F64, U8]


@dataclass(frozen=True)
class Worth:
    """What a carrier is worth per unit, in one column.

    suffix  of the column's name; grid: the step of its minutes
    """

    suffix: str
    unit: Unit
    factor: Dated
    grid: float

    @classmethod
    def of(cls, suffix: str, unit: Unit, factor: Dated, flows: Sequence[Flow | None]) -> "Worth":
        """Return it with the step that the finest of a carrier's meters needs."""
        given = [flow for flow in flows if flow is not None]
        step = min(flow.step * (_STEAM if flow.steam else 1.0) for flow in given)
        return cls(suffix, unit, factor, worth_grid(step * factor.least))


@dataclass(frozen=True)
class Carrier:
    """One carrier of a boundary, its flows, and what they are worth.

    added       whether own production is added to what comes in
    worth       kgce and GJ, and tCO2 where it is wanted; none for what is no energy
    non_fossil  shares of what comes in, of own production and of what is returned
    """

    name: str
    unit: Unit
    inputs: Flow | None
    returned: Flow | None
    produced: Flow | None
    added: bool
    worth: tuple[Worth, ...]
    non_fossil: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sources: tuple[str, ...] = ()

    @property
    def tags(self) -> list[Tag]:
        """Its columns, all additive."""
        found = [Tag(self.name, self.unit)]
        found += [Tag(f"{self.name}_returned", self.unit)] if self.returned else []
        found += [Tag(f"{self.name}_produced", self.unit)] if self.produced else []
        found += [Tag(f"{self.name}{part.suffix}", part.unit) for part in self.worth]
        if self.produced and self.worth:
            found.append(Tag(f"{self.name}_produced_kgce", KGCE))
        return found

    def read(self, ends: I64, rows: Mapping[str, Rows]) -> "Read":
        """Return what its meters say of the minutes with these ends."""
        net = bought = _nothing(len(ends)) if self.inputs is None else self.inputs.read(ends, rows)
        seen, cells = net, list[Cell]()
        made = returned = None
        if self.returned is not None:
            returned = self.returned.read(ends, rows)
            seen = seen.less(returned)
            cells.append((returned.amount, returned.quality))
        if self.produced is not None:
            made = self.produced.read(ends, rows)
            seen = seen.less(made)
            net = net.less(made, 1.0) if self.added else net
            cells.append((made.amount, made.quality))
        net = net if returned is None else net.less(returned)
        measures = [(net.measure, net.marks)] * len(self.worth)
        if made is not None and self.worth:
            measures.append((made.measure, made.marks))
        signed = zip((bought, made, returned), self.non_fossil, (1, 1, -1), strict=True)
        green = [(way, sign * share) for way, share, sign in signed if way is not None and share]
        return Read([(net.amount, net.quality), *cells], measures, green, seen)

    @property
    def worths(self) -> list[Worth]:
        """What makes its columns after the amounts, in their order."""
        return [*self.worth, *(self.worth[:1] if self.produced else ())]

    def green(self, ends: I64, read: "Read") -> Cell:
        """Return its non-fossil kgce: shares of what comes in and is made, less returned."""
        value, quality = np.zeros(len(ends)), np.zeros(len(ends), np.uint8)
        for taken, share in read.green if self.worth else ():
            factor = self.worth[0].factor.at(ends)
            none = np.isnan(factor)
            kgce = taken.measure * np.where(none, 0.0, factor) * share
            value = value + rounded(kgce, self.worth[0].grid / 64)
            quality = np.maximum(quality, np.where(none, NOT_AVAILABLE, taken.marks))
        return value, quality.astype(np.uint8)


@dataclass(frozen=True)
class Read:
    """What the meters of a carrier say.

    amounts, measures  what its columns are, or are worth by; green: flows with their share
    seen               all together, for coverage
    """

    amounts: list[Cell]
    measures: list[Cell]
    green: list[tuple[Taken, float]]
    seen: Taken


def _nothing(n: int) -> Taken:
    """Return a flow that nobody has asked for: none of it, fully known."""
    zero, good = np.zeros(n), np.zeros(n, np.uint8)
    return Taken(zero, good, zero, good, np.full(n, MINUTE), np.zeros(n, np.int64))


@dataclass(frozen=True)
class Boundary(SlotFormula):
    """The formula of a boundary.

    output    what energy is divided by for ``intensity``; denominators: for ``intensity_<name>``
    specific  carriers whose amount is divided by all of these, too
    own       whether anything is made inside or known as non-fossil
    """

    carriers: tuple[Carrier, ...]
    output: Divisor
    denominators: tuple[Divisor, ...]
    specific: tuple[str, ...]
    limits: QualityLimits

    @property
    def family(self) -> Family:
        return Family.ENERGY

    @property
    def own(self) -> bool:
        """Whether anything is made inside, or is known not to be fossil."""
        return any(c.produced or any(c.non_fossil) for c in self.carriers)

    @cached_property
    def tags(self) -> Signals:  # computed once
        carried = [tag for carrier in self.carriers for tag in carrier.tags]
        totals = [Tag(f"total{suffix}", unit) for suffix, unit in self.totals.items()]
        divided = [self.output.tag, Tag("intensity", per(KGCE, self.output.tag.unit))]
        for divisor in self.denominators:
            unit = per(KGCE, divisor.tag.unit)
            divided += [divisor.tag, Tag(f"intensity_{divisor.tag.name}", unit)]
        units = {carrier.name: carrier.unit for carrier in self.carriers}
        for name in self.specific:
            for divisor in (self.output, *self.denominators):
                column = f"{name}_per_{_short(divisor)}"
                divided.append(Tag(column, per(units[name], divisor.tag.unit)))
        own = [
            *(Tag(name, KGCE) for name in ("produced_kgce", "non_fossil_kgce")),
            Tag("non_fossil_share", Unit.parse("1")),
        ]
        return shared((*carried, *totals, *(own if self.own else ()), *divided, *SHARES))

    @cached_property
    def totals(self) -> dict[str, Unit]:
        """The totals there are: kgce and GJ always, tCO2 where it is wanted."""
        found = {"_kgce": KGCE, "_gj": GJ}
        return found | {part.suffix: part.unit for c in self.carriers for part in c.worth}

    @cached_property
    def additive(self) -> tuple[str, ...]:  # computed once
        carried = [tag.name for carrier in self.carriers for tag in carrier.tags]
        return (*carried, *(["non_fossil_kgce"] if self.own else []), *self._metered)

    @cached_property
    def _metered(self) -> dict[str, Divisor]:
        """The divisors that are added up, by column."""
        every = (self.output, *self.denominators)
        return {d.tag.name: d for d in every if not isinstance(d, Constant)}

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.additive)}

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row for carrier in self.carriers for row in carrier.sources))

    @cached_property
    def _plan(self) -> tuple[list[int], list[int], list[Worth], F64]:
        """Where amounts and what they are worth stand, what makes the latter, and its steps."""
        amounts, worth, found = list[int](), list[int](), list[Worth]()
        place = 0
        for carrier in self.carriers:
            made = carrier.worths
            first = place + len(carrier.tags) - len(made)
            amounts += range(place, first)
            worth += range(first, first + len(made))
            found += made
            place = first + len(made)
        return amounts, worth, found, np.array([[part.grid] for part in found])

    def base(self, ends: I64, rows: Mapping[str, Rows]) -> Sums:
        n = len(ends)
        sums = Sums.zeros(len(self.additive), n)
        amounts, worth, made, grids = self._plan
        carried = [carrier.read(ends, rows) for carrier in self.carriers]
        divided = [divisor.read(ends, rows) for divisor in self._metered.values()]
        value, marks = sums.total, sums.worst
        cells = [cell for read in carried for cell in read.amounts]
        value[amounts], marks[amounts] = _stacked(cells)
        if made:
            measure, mark = _stacked([cell for read in carried for cell in read.measures])
            factor = np.stack([np.broadcast_to(part.factor.at(ends), n) for part in made])
            none = np.isnan(factor)
            value[worth] = rounded(measure * np.where(none, 0.0, factor), grids)
            marks[worth] = np.maximum(mark, none * np.uint8(NOT_AVAILABLE))
        if self.own:
            place, pairs = self._index["non_fossil_kgce"], zip(self.carriers, carried, strict=True)
            parts, some = _stacked([carrier.green(ends, read) for carrier, read in pairs])
            value[place], marks[place] = parts.sum(axis=0), some.max(axis=0)
        last = len(self.additive) - len(divided)
        for i, (amount, quality, _) in enumerate(divided):
            value[last + i], marks[last + i] = amount, quality
        good = marks < BAD
        sums.total, sums.known = np.where(good, value, 0.0), good.astype(np.int64)
        spans = [(read.seen.covered, read.seen.estimated) for read in carried]
        spans += [span for _, _, span in divided if span is not None]
        sums.covered = np.minimum.reduce([covered for covered, _ in spans])
        guessed = np.maximum.reduce([estimated for _, estimated in spans])
        sums.estimated = np.minimum(guessed, sums.length - sums.covered)
        return sums

    def derive(self, sums: Sums) -> tuple[F64, U8]:
        quality = merged(sums, self.limits)
        cells = {name: (sums.total[i], quality[i]) for name, i in self._index.items()}
        none = np.zeros(sums.total.shape[1]), np.zeros(sums.total.shape[1], np.uint8)
        for suffix in self.totals:
            cells[f"total{suffix}"] = _sum([cells[c] for c in self._worth(suffix)], none)
        if self.own:
            made = [f"{c.name}_produced_kgce" for c in self.carriers if c.produced and c.worth]
            cells["produced_kgce"] = _sum([cells[name] for name in made], none)
            cells["non_fossil_share"] = _over(cells["non_fossil_kgce"], cells["total_kgce"])
        for divisor in (self.output, *self.denominators):
            name = divisor.tag.name
            if isinstance(divisor, Constant):
                cells[name] = np.full_like(none[0], divisor.value), none[1]
            first = divisor is self.output
            column = "intensity" if first else f"intensity_{name}"
            cells[column] = _over(cells["total_kgce"], cells[name])
            for one in self.specific:
                cells[f"{one}_per_{_short(divisor)}"] = _over(cells[one], cells[name])
        ordered = [cells[tag.name] for tag in self.tags[:-2]]
        return _stacked(ordered)

    def _worth(self, suffix: str) -> list[str]:
        return [
            f"{carrier.name}{suffix}"
            for carrier in self.carriers
            if any(part.suffix == suffix for part in carrier.worth)
        ]


def _stacked(cells: Sequence[Cell]) -> Cell:
    return stacked([value for value, _ in cells]), stacked([mark for _, mark in cells])


def per(unit: Unit, divisor: Unit) -> Unit:
    """Return the unit of a quotient, as a person would write it."""
    plain = not set(divisor.code) & {"/", "."}
    return Unit.parse(f"{unit.code}/{divisor.code}") if plain else unit.times(divisor, -1)


def _short(divisor: Divisor) -> str:
    return "output" if divisor.tag.name == "output_t" else divisor.tag.name


def _sum(cells: Sequence[Cell], none: Cell) -> Cell:
    """Return the sum of columns in their order, as good as the worst of them."""
    value, quality = none
    for part, mark in cells:
        value, quality = value + part, np.maximum(quality, mark)
    return value, quality


def _over(over: Cell, under: Cell) -> Cell:
    """Return a quotient; not available where nothing is there to divide by."""
    return ratio(over[0], under[0], np.maximum(over[1], under[1]).astype(np.uint8))
