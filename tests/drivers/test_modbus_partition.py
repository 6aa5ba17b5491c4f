"""The plan is the optimum of the cost model, on random maps and on every template.

The tests find the optimum in two ways of their own: by trying every partition of a small map, and
by dynamic programming over plain numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.config.loading import load
from edge_agent.drivers.base import groups_of
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.drivers.modbus_partition import TCP, Cost
from edge_agent.drivers.modbus_plan import NOTHING_FOUND, Bounds, ReadPlan
from edge_agent.drivers.modbus_register import Register

METERS = Path(__file__).parents[2] / "configs" / "meters"
LINE = Cost.of_line(9600, 10)
FAST_LINE = Cost.of_line(115200, 10)
COSTS = {"tcp": TCP, "9600 baud": LINE, "115200 baud": FAST_LINE}
HR = Table.HOLDING_REGISTERS

Span = tuple[int, int]


class Law:
    """What a request for one table may be, written down address by address."""

    def __init__(
        self,
        columns: Sequence[Register],
        *,
        limit: int = 125,
        gap: int = 0,
        sections: Sequence[Span] = (),
        bounds: Bounds = NOTHING_FOUND,
        also: Iterable[tuple[Table, int, int]] = (),
    ) -> None:
        self.limit, self.gap, self.sections = limit, gap, sections
        self.bounds = bounds
        spans = [c.span for c in columns] + list(also)
        self.known = {(t, a) for t, first, last in spans for a in range(first, last + 1)}
        self.dead = {(t, a) for t, first, last in bounds.dead for a in range(first, last + 1)}

    def allows(self, table: Table, spans: Sequence[Span]) -> bool:
        first, last = min(s[0] for s in spans), max(s[1] for s in spans)
        if (first, last) in spans:  # one register with what lies within it
            return len({self.section(s) for s in spans}) == 1
        limit = 2000 if table.is_bits else min(self.limit, self.bounds.max_registers or 125)
        if last - first >= limit or len({self.section(s) for s in spans}) > 1:
            return False
        hull = [(table, address) for address in range(first, last + 1)]
        unknown = "".join("." if at in self.known else "x" for at in hull)
        return (
            max(map(len, unknown.split("."))) <= self.gap
            and not self.dead.intersection(hull)
            and not self.bounds.borders.intersection(hull[1:])
        )

    def section(self, span: Span) -> int:
        inside = [a <= span[0] and span[1] <= b for a, b in self.sections]
        return inside.index(True) if True in inside else -1


def wanted(columns: Sequence[Register], bounds: Bounds = NOTHING_FOUND) -> dict[Table, list[Span]]:
    found: dict[Table, list[Span]] = {}
    for table in Table:
        alive = {c.span for c in columns if c.span not in bounds.dead}
        spans = sorted((first, last) for t, first, last in alive if t is table)
        if spans:
            found[table] = spans
    return found


def partitions(spans: Sequence[Span]) -> Iterator[list[list[Span]]]:
    """Yield every way to put the registers into requests."""
    if not spans:
        yield []
        return
    for rest in partitions(spans[1:]):
        yield [[spans[0]], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], [spans[0], *rest[i]], *rest[i + 1 :]]


def price(cost: Cost, table: Table, groups: Sequence[Sequence[Span]]) -> tuple[int, int]:
    sizes = [max(s[1] for s in g) - min(s[0] for s in g) + 1 for g in groups]
    return sum(cost.of(table, size) for size in sizes), len(groups)


def by_trying(law: Law, columns: Sequence[Register], cost: Cost) -> tuple[int, int]:
    """Return time and number of requests of the best of all partitions."""
    totals = (0, 0)
    for table, spans in wanted(columns, law.bounds).items():
        best = min(
            price(cost, table, groups)
            for groups in partitions(spans)
            if all(law.allows(table, group) for group in groups)
        )
        totals = totals[0] + best[0], totals[1] + best[1]
    return totals


def by_programming(law: Law, columns: Sequence[Register], cost: Cost) -> tuple[int, int]:
    """Return the same for maps without overlaps, where requests hold neighbours."""
    totals = (0, 0)
    for table, spans in wanted(columns, law.bounds).items():

        @cache
        def best(n: int, table: Table = table, spans: list[Span] = spans) -> tuple[int, int]:
            """Time and requests of the first n registers."""
            if n == 0:
                return (0, 0)
            found = []
            for i in reversed(range(n)):
                group = spans[i:n]
                if i < n - 1 and group[-1][1] - group[0][0] >= 2000:
                    break
                if law.allows(table, group):
                    before, more = best(i), price(cost, table, [group])
                    found.append((before[0] + more[0], before[1] + more[1]))
            return min(found)

        for n in range(len(spans)):
            best(n)  # so that the recursion stays shallow
        found = best(len(spans))
        totals = totals[0] + found[0], totals[1] + found[1]
    return totals


def greedy(law: Law, columns: Sequence[Register], cost: Cost, gap: int) -> tuple[int, int]:
    """Return the same for the usual strategy: merge as far as gaps of a fixed width go."""
    totals = (0, 0)
    for table, spans in wanted(columns, law.bounds).items():
        groups: list[list[Span]] = []
        for span in spans:
            end = max(s[1] for s in groups[-1]) if groups else 0
            near = bool(groups) and span[0] - end - 1 <= gap
            if near and law.allows(table, [*groups[-1], span]):
                groups[-1].append(span)
            else:
                groups.append([span])
        found = price(cost, table, groups)
        totals = totals[0] + found[0], totals[1] + found[1]
    return totals


def of_plan(plan: ReadPlan) -> tuple[int, int]:
    return sum(plan.cost.of(r.table, r.count) for r in plan.requests), len(plan.requests)


@st.composite
def overlapping(draw: st.DrawFn) -> list[Register]:
    """A few registers, close to each other, some over others."""
    found = []
    for _ in range(draw(st.integers(1, 7))):
        table = draw(st.sampled_from([HR, HR, HR, Table.COILS]))
        kind = "bool" if table.is_bits else draw(st.sampled_from(["u16", "u32", "u64", "text"]))
        length = draw(st.integers(1, 20)) if kind == "text" else 0
        at = Address(table, draw(st.integers(0, 40)))
        found.append(Register(at, kind, length=length))  # type: ignore[arg-type]  # literals
    return found


@st.composite
def holed(draw: st.DrawFn, most: int = 80) -> list[Register]:
    """A map like a meter's: runs of registers with holes between."""
    found, at = [], draw(st.integers(0, 50))
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(["u16", "u32", "f32", "u64"]))
        found.append(Register(Address(HR, at), kind))  # type: ignore[arg-type]  # literals
        at += found[-1].words + draw(st.sampled_from([0, 0, 0, 1, 2, 5, 12, 30, 90]))
    return found


@st.composite
def laws(draw: st.DrawFn) -> tuple[list[Register], Law]:
    """A small map and whatever limits there are."""
    columns, border = draw(overlapping()), draw(st.integers(1, 40))
    dead = draw(st.sets(st.sampled_from(columns), max_size=2))
    borders = draw(st.sets(st.integers(1, 40), max_size=2))
    bounds = Bounds(
        None, None, frozenset(c.span for c in dead), frozenset((HR, at) for at in borders)
    )
    limit, gap = draw(st.integers(10, 25)), draw(st.integers(0, 12))
    sections = [(0, border - 1), (border, 80)]
    return columns, Law(columns, limit=limit, gap=gap, sections=sections, bounds=bounds)


@settings(max_examples=150, deadline=None)
@given(drawn=laws(), cost=st.sampled_from(list(COSTS.values())))
def test_the_plan_is_the_best_of_all_partitions(
    drawn: tuple[list[Register], Law], cost: Cost
) -> None:
    columns, law = drawn

    plan = ReadPlan.build(
        columns,
        max_registers=law.limit,
        max_gap=law.gap,
        sections=law.sections,
        cost=cost,
        bounds=law.bounds,
    )

    assert of_plan(plan) == by_trying(law, columns, cost)
    for request in plan.requests:
        held = [(columns[i].first, columns[i].last) for i in request.columns]
        assert law.allows(request.table, held)
        assert (request.address, request.last) == (
            min(s[0] for s in held), max(s[1] for s in held)
        )  # fmt: skip
    asked = [i for r in (*plan.requests, *plan.dead) for i in r.columns]
    assert sorted(asked) == list(range(len(columns)))


@pytest.mark.timeout(60)  # six seconds of computing, more on a loaded machine
@settings(max_examples=100, deadline=None)
@given(
    columns=holed(),
    gap=st.integers(0, 124),
    limit=st.integers(4, 125),
    learnt=st.none() | st.integers(4, 60),
    cost=st.sampled_from(list(COSTS.values())),
)
def test_no_strategy_with_a_fixed_gap_is_quicker_or_over_tcp_needs_fewer_requests(
    columns: list[Register], gap: int, limit: int, learnt: int | None, cost: Cost
) -> None:
    bounds = Bounds(max_registers=learnt)
    law = Law(columns, limit=limit, gap=gap, bounds=bounds)

    plan = ReadPlan.build(columns, max_registers=limit, max_gap=gap, cost=cost, bounds=bounds)

    time, requests = of_plan(plan)
    fixed = [greedy(law, columns, cost, width) for width in range(gap + 1)]
    assert (time, requests) == by_programming(law, columns, cost)
    assert time <= min(fixed)[0]
    if cost is TCP:
        assert requests <= min(count for _, count in fixed)


def template_names() -> list[str]:
    return sorted(p.relative_to(METERS).with_suffix("").as_posix() for p in METERS.rglob("*.yaml"))


def is_modbus(name: str) -> bool:
    return "protocol: modbus" in (METERS / f"{name}.yaml").read_text("utf-8")


MODBUS = [name for name in template_names() if is_modbus(name)]


@pytest.mark.parametrize("connect", ["modbus+tcp://h", "modbus+rtu:///dev/ttyS0?baud=9600"])
@pytest.mark.parametrize("name", MODBUS)
def test_the_plan_of_every_template_is_the_optimum(name: str, connect: str, tmp_path: Path) -> None:
    """L2, peers 13 and 17: merged, and merged as well as it can be."""
    plant = tmp_path / "plant.yaml"
    plant.write_text(
        f"site: {{id: s}}\ndevices:\n  m: {{connect: '{connect}', template: {name}}}\n"
    )
    meter = load(plant).devices["m"]
    assert isinstance(meter, ModbusDevice)
    every = [meter.register(tag) for tag in meter.tags.values()]
    plans = meter.plans("m")

    for group, names in groups_of("m", meter).items():
        columns = [meter.register(meter.tags[tag]) for tag in names]
        law = Law(
            columns,
            limit=meter.max_registers,
            gap=meter.max_gap,
            sections=meter.sections,
            also=[r.span for r in every],
        )
        time, requests = of_plan(plans[group])
        fixed = [greedy(law, columns, meter.cost, gap) for gap in range(125)]
        assert (time, requests) == by_programming(law, columns, meter.cost)
        assert time <= min(fixed)[0]
        if meter.url.scheme == "modbus+tcp":
            assert requests <= min(count for _, count in fixed)
    assert plans


def test_where_a_line_is_slow_a_wide_gap_costs_more_than_a_request() -> None:
    columns = [Register(Address(HR, at)) for at in (0, 1, 50, 51)]

    over_tcp = ReadPlan.build(columns, max_gap=100)
    on_a_line = ReadPlan.build(columns, max_gap=100, cost=LINE)

    assert [(r.address, r.count) for r in over_tcp.requests] == [(0, 52)]
    assert [(r.address, r.count) for r in on_a_line.requests] == [(0, 2), (50, 2)]
    assert on_a_line.time < 2 * LINE.of(HR, 52) / 1e9


def test_the_modelled_time_of_a_line_is_that_of_its_bytes() -> None:
    """125 registers at 9600 baud were measured to take 314 ms (11 bits a character)."""
    assert Cost.of_line(9600, 11).of(HR, 125) == pytest.approx(0.314e9, rel=0.02)


def test_two_hundred_tags_of_a_meter_are_two_requests() -> None:
    """L2, peers 13: 200 requests took 4 s, merged 150 ms."""
    columns = [Register(Address(HR, at)) for at in range(200)]

    assert [r.count for r in ReadPlan.build(columns).requests] == [125, 75]


def test_a_slow_line_carries_hundreds_of_values_a_second() -> None:
    """L2, peers 18: with a request for each value, collectors stay at five a second."""
    columns = [Register(Address(HR, 2 * at), "f32") for at in range(60)]

    plan = ReadPlan.build(columns, cost=LINE)

    assert len(columns) / plan.time > 180
    assert len(columns) / (len(columns) * LINE.of(HR, 2) / 1e9) < 40  # one by one


def test_a_pause_that_a_device_needs_makes_requests_dearer() -> None:
    """L1, peers 6, L2, peers 19: a pause between requests; then a wider gap is worth reading."""
    columns = [Register(Address(HR, at)) for at in (0, 40)]

    quick = ReadPlan.build(columns, max_gap=100, cost=Cost.of_line(9600, 10))
    careful = ReadPlan.build(columns, max_gap=100, cost=Cost.of_line(9600, 10, pause=0.1))

    assert len(quick.requests) == 2
    assert [r.count for r in careful.requests] == [41]


def test_registers_of_another_stream_may_be_read_along_but_not_undeclared_ones() -> None:
    columns = [Register(Address(HR, at)) for at in (0, 2, 4)]

    plan = ReadPlan.build(columns, declared=[(HR, 1, 1)])

    assert [(r.address, r.count) for r in plan.requests] == [(0, 3), (4, 1)]


@settings(max_examples=100, deadline=None)
@given(columns=holed(), cost=st.sampled_from(list(COSTS.values())))
def test_an_undeclared_register_is_never_read(columns: list[Register], cost: Cost) -> None:
    """L2, peers 14 and 15: a gap may be refused, shift the values, or spoil the next answer."""
    known = {at for c in columns for at in range(c.first, c.last + 1)}

    for request in ReadPlan.build(columns, cost=cost).requests:
        assert known.issuperset(range(request.address, request.last + 1))


def test_a_plan_of_two_thousand_coils_with_holes_is_made_in_a_moment() -> None:
    columns = [Register(Address(Table.COILS, at), "bool") for at in range(6000) if at % 3]

    plan = ReadPlan.build(columns, max_gap=1)

    assert [r.count for r in plan.requests] == [2000, 2000, 1997]
