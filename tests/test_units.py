import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.units import Duration, Indirect, Secret, Size, Unit

FACTORS = [
    ("kWh", "kW.h", 1.0), ("MWh", "kWh", 1000.0), ("kWh", "MJ", 3.6), ("t/h", "kg/s", 1 / 3.6),
    ("mg/m3", "g/m3", 0.001), ("µg/m3", "mg/m3", 0.001), ("bar", "kPa", 100.0), ("%", "1", 0.01),
    ("ppm", "1", 1e-6), ("tce", "kgce", 1000.0), ("万元", "CNY", 10000.0),
    ("kgce/t", "kgce/kg", 0.001),
    ("1/min", "1/h", 60.0), ("kvarh", "kvar.h", 1.0), ("d", "h", 24.0), ("kNm3", "Nm3", 1000.0),
    ("kW", "MJ/h", 3.6), ("l", "m3", 0.001), ("kV.A", "kVA", 1.0), ("{bag}/h", "{bag}/min", 1 / 60),
    ("kgce/kWh", "tce/MWh", 1.0), ("CNY/kWh", "万元/MWh", 0.1), ("kgce/万元", "tce/CNY", 1e-7),
    ("tCO2/GJ", "kgCO2/MJ", 1.0), ("亩", "m2", 2000 / 3),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "factor"), FACTORS)
def test_a_value_is_converted_by_a_factor(one: str, other: str, factor: float) -> None:
    first, second = Unit.parse(one), Unit.parse(other)
    assert first.factor_to(second) == pytest.approx(factor, rel=1e-12)
    assert second.factor_to(first) == pytest.approx(1 / factor, rel=1e-12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("kgce", "kg"), ("Nm3", "m3"), ("kvar", "kW"), ("kVA", "kW"), ("kvarh", "kWh"),
        ("{bag}", "{piece}"), ("{bag}", "1"), ("Cel", "K"), ("kWh", "kW"), ("t", "tce"),
        ("CNY", "1"), ("tCO2", "t"), ("tCO2", "tce"),
    ],
)  # fmt: skip
def test_what_must_never_be_mixed_is_not_converted(one: str, other: str) -> None:
    with pytest.raises(ValueError, match="cannot be converted"):
        Unit.parse(one).factor_to(Unit.parse(other))


@pytest.mark.parametrize("code", ["kQh", "kwh", "m/", "kW h", "tonne", "kt/x", "min3x", "%%", "k%"])
def test_an_unknown_unit_is_refused_by_its_name(code: str) -> None:
    with pytest.raises(ValueError, match="unknown unit"):
        Unit.parse(code)


@pytest.mark.parametrize("code", ["kWh", "°C", "", "{bag}", "t/h", "万元"])
def test_a_unit_is_shown_as_it_was_written(code: str) -> None:
    assert Unit.parse(code).code == code


def test_the_same_unit_is_the_same_number_exactly() -> None:
    assert Unit.parse("µg/m3").factor_to(Unit.parse("µg/m3")) == 1.0


@given(st.sampled_from(["kWh", "t", "Nm3", "{bag}"]), st.sampled_from(["h", "d", "min", "a"]))
def test_a_rate_has_the_dimension_of_its_amount_per_time(amount: str, time: str) -> None:
    rate, whole, part = (Unit.parse(code) for code in (f"{amount}/{time}", amount, time))
    back = Unit.parse(f"{amount}/{time}.{time}")
    assert rate.factor == pytest.approx(whole.factor / part.factor, rel=1e-12)
    assert back.dimension == whole.dimension
    assert back.factor == pytest.approx(whole.factor)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("1s", 1), ("15min", 900), ("10m", 600), ("1.5h", 5400), ("7d", 604800),
        ("5y", 157680000), (" 2 s ", 2),
    ],
)  # fmt: skip
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds
    assert Duration.parse(text).ns == seconds * 1_000_000_000


@pytest.mark.parametrize("text", ["1", "s", "-1s", "1 week", "1e3s", "", 5, None, "1s 2s"])
def test_what_is_no_duration_says_what_would_be(text: object) -> None:
    with pytest.raises(ValueError, match="write 500ms, 1s"):
        Duration.parse(text)


@given(st.integers(0, 10**6), st.sampled_from(["B", "KiB", "MiB", "GiB"]))
def test_a_size_is_bytes(number: int, unit: str) -> None:
    exponent = ["B", "KiB", "MiB", "GiB"].index(unit)
    assert Size.parse(f"{number}{unit}") == number * 1024**exponent


@pytest.mark.parametrize("text", ["1", "1GB", "1.5GiB", "-1MiB", 7])
def test_what_is_no_size_says_what_would_be(text: object) -> None:
    with pytest.raises(ValueError, match="write 64MiB"):
        Size.parse(text)


def test_a_secret_is_never_shown() -> None:
    secret = Secret.parse(Indirect("hunter2"))
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("other")


@pytest.mark.parametrize("text", ["hunter2", 12345, None, "file:relative"])
def test_a_secret_that_stands_in_the_file_is_refused_without_being_shown(text: object) -> None:
    with pytest.raises(ValueError, match="does not stand in the file itself") as caught:
        Secret.parse(text)
    assert str(text) not in str(caught.value).replace("file:/path", "")


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("kg/kWh", "kg/kW/h"),
        ("1/kWh", "1/kW/h"),
        ("{bag}/rpm", "{bag}.min"),
        ("kgce/kvarh", "k[gce]/k[var]/h"),
    ],
)
def test_all_of_a_spelling_is_divided_by(spelled: str, plain: str) -> None:
    one, other = Unit.parse(spelled), Unit.parse(plain)
    assert one.dimension == other.dimension
    assert one.factor == pytest.approx(other.factor)


@pytest.mark.parametrize(
    ("one", "other", "power", "code"),
    [
        ("kW", "h", 1, "kW.h"),
        ("t/h", "h", 1, "t"),
        ("kgce", "t", -1, "k[gce]/t"),
        ("m", "m", 1, "m2"),
        ("m3", "h", -1, "m3/h"),
        ("h", "h", -1, "1"),
        ("1", "s", -1, "1/s"),
        ("万元", "万元", 1, "[CNY]2.100000000"),
        ("{bag}", "kWh", -1, "{bag}/kW/h"),
    ],
)
def test_a_product_of_units_has_a_code_that_means_the_same(
    one: str, other: str, power: int, code: str
) -> None:
    a, b = Unit.parse(one), Unit.parse(other)
    product = a.times(b, power)
    assert product.code == code
    assert product.factor == pytest.approx(a.factor * b.factor**power)
    powers = dict(a.dimension)
    for name, exponent in b.dimension:
        powers[name] = powers.get(name, 0) + exponent * power
    assert dict(product.dimension) == {name: p for name, p in powers.items() if p}
