"""The search for readable registers, on devices that refuse like real ones."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.tools.ranges import LAST, MOST, Found, Refusal, Reply, Span, grid, search


@dataclass(frozen=True)
class Device:
    """Blocks of registers; a request must lie in one of them whole and not be too long."""

    blocks: tuple[tuple[int, int], ...]
    limit: int = MOST
    code: int = 2

    def reply(self, span: Span) -> Reply:
        assert 0 <= span.first <= span.last <= LAST
        assert 1 <= span.count <= MOST
        inside = any(low <= span.first and span.last <= high for low, high in self.blocks)
        if span.count > self.limit or not inside:
            return Refusal(self.code)
        return [address & 0xFFFF for address in range(span.first, span.last + 1)]

    @property
    def readable(self) -> set[int]:
        return {a for low, high in self.blocks for a in range(low, high + 1)}


def searched(device: Device, hints: list[int], most: int = 5000) -> Found:
    found = Found()
    asking = search(found, [Span(hint, 1) for hint in hints])
    try:
        span = next(asking)
        for _ in range(most):
            span = asking.send(device.reply(span))
    except StopIteration:
        return found
    raise AssertionError("the search does not end")


@st.composite
def devices(draw: st.DrawFn) -> Device:
    blocks, at = [], draw(st.integers(0, 300))
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.one_of(st.integers(2, 40), st.integers(100, 700)))
        blocks.append((at, at + size - 1))
        at += size + draw(st.one_of(st.just(0), st.integers(1, 40), st.integers(1000, 5000)))
    limit = draw(st.one_of(st.just(MOST), st.integers(8, MOST)))
    return Device(tuple(blocks), limit, draw(st.sampled_from([2, 3, 4, 0])))


@settings(max_examples=150, deadline=None)
@given(devices(), st.data())
def test_a_block_with_a_hint_in_it_is_found_whole_and_nothing_else(
    device: Device, data: st.DataObject
) -> None:
    low, high = data.draw(st.sampled_from(device.blocks))
    found = searched(device, [data.draw(st.integers(low, high))])
    assert set(range(low, high + 1)) <= set(found.words) <= device.readable
    assert all(word == address for address, word in found.words.items())
    assert not found.everywhere


@settings(max_examples=100, deadline=None)
@given(devices())
def test_a_limit_that_is_found_is_the_device_s(device: Device) -> None:
    found = searched(device, [low for low, _ in device.blocks])
    assert found.limit in {device.limit, MOST}
    if any(high - low + 1 > 3 * device.limit for low, high in device.blocks):
        assert found.limit == device.limit
    spans = found.ranges()
    assert {a for s in spans for a in range(s.first, s.last + 1)} == set(found.words)
    for span in spans:  # a range that is told can be read by requests within the limit
        ask = Span(span.first, min(span.count, found.limit))
        assert not isinstance(device.reply(ask), Refusal)


@settings(max_examples=100, deadline=None)
@given(devices())
def test_few_requests_find_a_map(device: Device) -> None:
    found = searched(device, [low for low, _ in device.blocks])
    whole = sum(-(-(high - low + 1) // device.limit) for low, high in device.blocks)
    assert found.requests <= 2 * whole + 24 * len(device.blocks) + 24


def test_a_border_is_no_hole_and_no_limit() -> None:
    found = searched(Device(((0, 99), (100, 199))), [0])
    assert found.ranges() == [Span(0, 100), Span(100, 100)]
    assert (found.limit, found.borders) == (MOST, {100})


def test_a_small_hole_is_looked_over() -> None:
    found = searched(Device(((0, 9), (14, 40))), [0])
    assert found.ranges() == [Span(0, 10), Span(14, 27)]


def test_a_device_that_gives_one_register_at_a_time_is_known_for_it() -> None:
    found = searched(Device(((0, 40),), limit=1), [0])
    assert found.limit == 1
    assert len(found.words) == 41


def test_single_registers_far_apart_are_no_limit() -> None:
    found = searched(Device(((0, 0), (2, 2), (4, 4), (6, 6))), [0])
    assert found.limit == MOST
    assert sorted(found.words) == [0, 2, 4, 6]


def test_a_device_that_answers_everything_is_asked_little() -> None:
    found = searched(Device(((0, LAST),)), grid())
    assert found.everywhere
    assert found.requests == len(grid()) + 3


def test_a_device_that_answers_everything_is_read_in_parts_that_it_allows() -> None:
    device, found = Device(((0, LAST),), limit=60), Found()
    asking = search(found, [Span(0, 200)])
    try:
        span = next(asking)
        while True:
            span = asking.send(device.reply(span))
    except StopIteration:
        assert set(range(200)) <= set(found.words)
    assert found.limit <= 60


def test_a_table_without_its_function_costs_one_request() -> None:
    found = searched(Device((), code=1), grid())
    assert found.absent
    assert found.requests == 1


def test_the_grid_finds_a_map_that_nobody_knows() -> None:
    found = searched(Device(((0x2000, 0x2050),)), grid())
    assert found.ranges() == [Span(0x2000, 0x51)]
