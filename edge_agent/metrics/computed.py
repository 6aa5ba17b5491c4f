"""Computed tags: expressions over tags and metrics, usable wherever a device's tag is.

A metric of this type has one stream, ``<name>/raw``, with a row at each row of the fastest stream
that its expressions use; see ``aligned.py`` for what the others hold, ``grammar.py`` for the
language. Each value carries the worst quality of what decided it, and is BAD where it is not known.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edge_agent.metrics.aligned import Aligned, Names
from edge_agent.metrics.base import (
    Metric,
    MetricConfig,
    Mistakes,
    Plant,
    Reference,
    State,
    Window,
)
from edge_agent.metrics.expression import Expression, ExpressionError
from edge_agent.metrics.grammar import ONE, compiled, names_in
from edge_agent.metrics.operations import Program, Step
from edge_agent.model import Family, Kind, SampleBlock, Schema, Tag
from edge_agent.units import Unit

Path = tuple[str | int, ...]
_TAG = re.compile(r"[a-z0-9_]+")


class Computed:
    """The operator of one metric: rows of several streams to rows of its tags."""

    def __init__(self, output: Schema, aligned: Aligned, programs: Sequence[Program]) -> None:
        self._output = output
        self._aligned = aligned
        self._programs = tuple(programs)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._aligned.inputs

    @property
    def output(self) -> Schema:
        return self._output

    @property
    def rows_late(self) -> int:
        """Rows that came when they could not be used for their time any more."""
        return self._aligned.rows_late

    def update(self, block: SampleBlock, /) -> SampleBlock | None:
        rows = self._aligned.update(block)
        if rows is None:
            return None
        found = [rows.run(program) for program in self._programs]
        value, quality = np.stack([v for v, _ in found]), np.stack([q for _, q in found])
        return SampleBlock(self._output, rows.time, value, quality)

    def running(self, _now: int, _open: Mapping[str, SampleBlock], /) -> SampleBlock | None:
        """Return nothing: a sample is no window that could be open."""
        return None

    def save(self) -> State:
        return self._aligned.save()

    def load(self, state: State, /) -> None:
        self._aligned.load(state)


@dataclass(frozen=True, kw_only=True)
class ComputedTag:
    """One tag.

    value  the expression
    unit   what its values are converted to; None: the unit that the expression makes
    kind   ``counter`` for a sum of counters; None: ``state`` for true or false, else ``gauge``
    """

    value: str
    unit: str | None = None
    kind: Literal["gauge", "counter", "state"] | None = None


@dataclass(frozen=True, kw_only=True)
class ComputedConfig(MetricConfig):
    """Tags that are computed from others, row by row.

    tags  name -> expression, unit, kind
    """

    kind: ClassVar[str] = "computed"

    windows: tuple[Window, ...] = ()
    tags: Mapping[str, ComputedTag]

    def references(self) -> list[Reference]:
        return [
            Reference(("tags", name, "value"), used)
            for name, tag in self.tags.items()
            for used in used_in(tag.value)
        ]

    def faults(self) -> list[tuple[Path, str]]:
        found: list[tuple[Path, str]] = []
        if self.windows:
            found.append(
                (("windows",), "a computed tag has no windows: its slots come by themselves")
            )
        if not self.tags:
            found.append((("tags",), "has no tags: write name: {value: …}"))
        for name, tag in self.tags.items():
            here: Path = ("tags", name)
            if not _TAG.fullmatch(name):
                found.append((here, f'"{name}" is not the name of a tag: write a-z, 0-9 and _'))
            found += [((*here, "value"), message) for message in text_faults(tag.value)]
            try:
                Unit.parse(tag.unit or "1")
            except ValueError as error:
                found.append(((*here, "unit"), str(error)))
        return found

    def build(self, name: str, plant: Plant) -> list[Metric]:
        names, wrong = Names(plant), list[tuple[Path, str]]()
        tags, programs = list[Tag](), list[Program]()
        for tag_name, tag in self.tags.items():
            try:
                expression = compiled(tag.value, names)
                unit, program = converted(expression, tag.unit)
            except ExpressionError as error:
                wrong.append((("tags", tag_name, "value"), str(error)))
                continue
            except ValueError as error:
                wrong.append((("tags", tag_name, "unit"), str(error)))
                continue
            kind = Kind.STATE if expression.truth else Kind.GAUGE
            tags.append(Tag(tag_name, unit, kind if tag.kind is None else Kind(tag.kind)))
            programs.append(program)
        if wrong:
            raise Mistakes(wrong)
        aligned = names.align(plant)
        period, provenance = aligned.driver.period, plant.provenance(())
        output = Schema(f"{name}/raw", Family.COMPUTED, tuple(tags), period, provenance)
        return [Computed(output, aligned, programs)]


def used_in(text: str) -> list[str]:
    """Return the names that an expression uses; none when it is not one, which ``faults`` tells."""
    try:
        return names_in(text)
    except ExpressionError:
        return []


def text_faults(text: str) -> list[str]:
    """Return what is wrong with an expression, whatever its names stand for."""
    try:
        if names_in(text):
            return []
    except ExpressionError as error:
        return [str(error)]
    return ["uses no tag: a constant needs no computed tag"]


def converted(expression: Expression, wanted: str | None) -> tuple[Unit, Program]:
    """Return the unit of the results, and the program that gives them in it.

    errors  ``ValueError`` when they are of another kind than wanted
    """
    made = expression.unit
    unit = (made or ONE) if wanted is None else Unit.parse(wanted)
    if made is None:
        return unit, expression.program
    try:
        factor = made.factor_to(unit)
    except ValueError as error:
        raise ValueError(f"the value is in {made.code}, not convertible to {unit.code}") from error
    if factor == 1.0:
        return unit, expression.program
    return unit, (*expression.program, Step("number", factor), Step("*"))
