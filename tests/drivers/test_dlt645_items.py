"""What the data identifiers of DL/T 645 hold: formats, places, blocks and plans."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drivers import dlt645_items, octet_frames
from edge_agent.drivers.dlt645_items import block_of, canonical, layout, place
from edge_agent.drivers.dlt645_plan import plan
from simulators.octets import decimal

PREAMBLE = b"\xfe" * 4


def value(data: bytes, at: str, version: str = "2007") -> float | None:
    where = place(at, version)
    raw = where.raw(data)
    return None if raw is None else float(Fraction(raw, 10**where.field.decimals))


# ---- values -----------------------------------------------------------------------------------


@given(st.sampled_from([1, 2, 3, 4, 6]), st.booleans(), st.data())
def test_a_number_comes_back_as_it_was_written(
    length: int, signed: bool, data: st.DataObject
) -> None:
    most = (8 if signed else 10) * 10 ** (2 * length - 1) - 1
    number = data.draw(st.integers(-most if signed else 0, most))
    field = dlt645_items.Field(length, signed=signed)
    written = decimal(float(number), length, 0, signed=signed, wraps=False)
    if abs(number) < 2**50:
        assert field.raw(written) == number


@given(st.binary(min_size=4, max_size=4))
def test_octets_that_are_no_digits_are_no_value(raw: bytes) -> None:
    found = dlt645_items.Field(4).raw(raw)
    text = raw[::-1].hex()

    assert found == (int(text) if text.isdecimal() else None)


@pytest.mark.parametrize("at", ["di:00010000", "di:02030000", "di:04000501", "di:02800007"])
def test_all_ff_is_no_value(at: str) -> None:
    where = place(at)

    assert where.raw(b"\xff" * where.field.octets) is None


def test_the_highest_bit_is_a_sign_only_where_the_standard_says_so() -> None:
    assert value(bytes.fromhex("26 35 83"), "di:02030000") == -3.3526
    assert value(bytes.fromhex("56 34 12 80"), "di:00000000") == -1234.56
    assert value(bytes.fromhex("56 34 12 80"), "di:00010000") == 801234.56


@pytest.mark.parametrize(
    ("at", "unit", "length", "decimals"),
    [
        ("00010000", "kWh", 4, 2), ("00020400", "kWh", 4, 2), ("00030000", "kvarh", 4, 2),
        ("0009000C", "kVAh", 4, 2), ("00150000", "kWh", 4, 2), ("00460000", "kVAh", 4, 2),
        ("00800000", "kWh", 4, 2), ("01010000", "kW", 3, 4), ("01030101", "kvar", 3, 4),
        ("02010300", "V", 2, 1), ("02020100", "A", 3, 3), ("02030000", "kW", 3, 4),
        ("02040100", "kvar", 3, 4), ("02050200", "kVA", 3, 4), ("02060300", "1", 2, 3),
        ("02070100", "deg", 2, 1), ("02080100", "%", 2, 2), ("020A0115", "%", 2, 2),
        ("020C0300", "V", 2, 1), ("02800001", "A", 3, 3), ("02800002", "Hz", 2, 2),
        ("02800004", "kW", 3, 4), ("02800005", "kvar", 3, 4), ("02800007", "Cel", 2, 1),
        ("02800008", "V", 2, 2), ("0280000A", "min", 4, 0), ("04000101", "1", 4, 0),
        ("04000102", "1", 3, 0), ("04000103", "min", 1, 0), ("04000401", "1", 6, 0),
        ("04000409", "1", 3, 0), ("04000507", "1", 2, 0), ("05040101", "kWh", 4, 2),
    ],
)  # fmt: skip
def test_an_item_is_as_long_as_the_standard_says(
    at: str, unit: str, length: int, decimals: int
) -> None:
    where = place(at)

    assert (where.field.unit, where.field.octets, where.field.decimals) == (unit, length, decimals)


@pytest.mark.parametrize(
    ("at", "unit", "length", "decimals"),
    [
        ("9010", "kWh", 4, 2), ("9424", "kWh", 4, 2), ("9130", "kvarh", 4, 2),
        ("A010", "kW", 3, 4), ("B010", "1", 4, 0), ("B611", "V", 2, 0), ("B623", "A", 2, 2),
        ("B630", "kW", 3, 4), ("B640", "kvar", 2, 2), ("B651", "1", 2, 3), ("C011", "1", 3, 0),
        ("C020", "1", 1, 0), ("C032", "1", 6, 0),
    ],
)  # fmt: skip
def test_an_item_of_1997_is_as_long_as_the_standard_says(
    at: str, unit: str, length: int, decimals: int
) -> None:
    where = place(at, "1997")

    assert (where.field.unit, where.field.octets, where.field.decimals) == (unit, length, decimals)


@pytest.mark.parametrize(
    ("written", "version", "best"),
    [
        ("00-01-00-00", "2007", "di:00010000"),
        ("DI:0001ff00[2]", "2007", "di:0001FF00[2]"),
        ("0101FF00[1].time", "2007", "di:0101FF00[1].time"),
        ("04000503.4", "2007", "di:04000503.4"),
        ("040005FF[2].4", "2007", "di:040005FF[2].4"),
        ("di:901F[0]", "1997", "di:901F[0]"),
    ],
)
def test_a_place_is_written_in_several_ways_and_best_in_one(
    written: str, version: str, best: str
) -> None:
    assert canonical(place(written, version), version) == best


@pytest.mark.parametrize(
    ("at", "version", "message"),
    [
        ("hr:0", "2007", "is no data identifier"),
        ("9010", "2007", "write 8 hexadecimal digits"),
        ("00010000", "1997", "write 4 hexadecimal digits"),
        ("03010000", "2007", "is not in the table of DL/T 645-2007"),
        ("1234", "1997", "is not in the table of DL/T 645-1997"),
        ("0001FF00", "2007", "name one of its members"),
        ("00010000[1]", "2007", "is one value, not a block"),
        ("0001FF00[64]", "2007", "no block has more than 64"),
        ("00010000.time", "2007", "only a maximum demand has a time"),
        ("02010100.1", "2007", "only status words have bits"),
        ("04000501.16", "2007", "its bits are 0 to 15"),
    ],
)
def test_a_wrong_place_is_told_with_what_would_be_right(
    at: str, version: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        place(at, version)


@pytest.mark.parametrize(
    ("item", "version", "block", "member"),
    [
        (0x00010000, "2007", 0x0001FF00, 0), (0x00010403, "2007", 0x0001FF03, 4),
        (0x01010200, "2007", 0x0101FF00, 2), (0x02010100, "2007", 0x0201FF00, 0),
        (0x02030300, "2007", 0x0203FF00, 3), (0x020A0205, "2007", 0x020A02FF, 4),
        (0x04000503, "2007", 0x040005FF, 2), (0x9014, "1997", 0x901F, 4),
        (0xB612, "1997", 0xB61F, 1), (0xB630, "1997", 0xB63F, 0),
    ],
)  # fmt: skip
def test_an_item_is_a_member_of_its_block(item: int, version: str, block: int, member: int) -> None:
    assert block_of(item, version) == (block, member)


@pytest.mark.parametrize(
    ("item", "version"),
    [(0x00150000, "2007"), (0x02800002, "2007"), (0x0001FF00, "2007"), (0xC011, "1997")],
)
def test_an_item_that_stands_alone_has_no_block(item: int, version: str) -> None:
    assert block_of(item, version) is None


@given(st.integers(0, 2**32 - 1))
def test_a_block_is_made_of_what_its_members_are(item: int) -> None:
    found = block_of(item)
    one = layout(item)
    if found is not None:
        assert one is not None
        whole = layout(found[0])
        assert whole is not None
        assert (whole.block, whole.fields) == (True, one.fields)


@given(
    st.lists(
        st.sampled_from(
            [
                "00010000",
                "00010100",
                "00010400",
                "0001FF00[2]",
                "00020000",
                "01010000",
                "01010000.time",
                "01010100",
                "02010100",
                "02010200",
                "0201FF00[2]",
                "02030000",
                "02030300",
                "04000501.3",
                "04000502",
                "02800002",
            ]
        ),
        min_size=1,
        unique=True,
    ),
    st.booleans(),
    st.data(),
)
def test_a_plan_brings_every_column_once_and_by_blocks_the_same_values(
    written: list[str], blocks: bool, data: st.DataObject
) -> None:
    places = [place(at) for at in written]
    asks = plan(places, "2007", blocks=blocks)
    held: dict[int, bytes] = {}  # what a meter would answer to each block
    for ask in asks:
        whole = ask.columns[0][1].layout
        size = whole.octets * (5 if whole.block else 1)
        held[ask.item] = data.draw(st.binary(min_size=size, max_size=size))

    assert sorted(c for ask in asks for c, _ in ask.columns) == list(range(len(places)))
    assert len({ask.item for ask in asks}) == len(asks)
    for ask in asks:
        assert sorted(c for one in ask.singles for c, _ in one.columns) in (
            [],
            sorted(c for c, _ in ask.columns),
        )
        for column, where in ask.columns:
            own = places[column]
            found = block_of(own.item)
            if own.item == ask.item:
                assert own.raw(held[ask.item]) == where.raw(held[ask.item])
            else:
                assert found is not None
                size = own.layout.octets
                part = held[ask.item][found[1] * size : (found[1] + 1) * size]
                assert found[0] == ask.item
                assert own.raw(part) == where.raw(held[ask.item])


def test_the_sum_covers_what_follows_the_preamble_only() -> None:
    assert octet_frames.sealed(b"\x68\x01") == PREAMBLE + b"\x68\x01\x69\x16"
