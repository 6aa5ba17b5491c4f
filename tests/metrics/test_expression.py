"""The expression language: what is said, what it is in, and what happens to what is not known."""

import math
import operator
import time
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.metrics.expression import Column, Expression, ExpressionError
from edge_agent.metrics.grammar import DEEPEST, compiled, names_in
from edge_agent.metrics.moving import Moved
from edge_agent.metrics.operations import clean, run
from edge_agent.metrics.tokens import LONGEST
from edge_agent.model import U8, Kind, Quality
from edge_agent.units import Unit

TAGS = {
    "em-a.power": "kW",
    "em-b.power": "MW",
    "em-a.energy": "kWh",
    "em-a.reactive": "kvar",
    "cems.o2": "%",
    "cems.nox": "mg/m3",
    "cems.so2": "g/m3",
    "oven.temperature": "Cel",
    "plc.state": "1",
    "plc.recipe": "1",
    "scale.mass": "kg",
    "x.a": "1",
    "x.b": "1",
    "x.c": "1",
}
KINDS = {"em-a.energy": Kind.COUNTER, "plc.state": Kind.STATE, "plc.recipe": Kind.TEXT}
BAD, FLAGGED = int(Quality.BAD_DEVICE), int(Quality.UNCERTAIN_FLAGGED)


class Works:
    """All tags in one stream, in the order of ``TAGS``."""

    def __init__(self) -> None:
        self.moved: list[Moved] = []

    def column(self, name: str) -> Column:
        if name not in TAGS:
            raise KeyError(f'unknown tag "{name}"')
        return Column(
            "s", list(TAGS).index(name), Unit.parse(TAGS[name]), KINDS.get(name, Kind.GAUGE)
        )

    def moving(self, _stream: str, moved: Moved) -> int:
        self.moved.append(moved)
        return len(TAGS) + len(self.moved) - 1


def of(text: str) -> Expression:
    return compiled(text, Works())


def value(text: str, quality: dict[str, int] | None = None, **given: float) -> tuple[float, int]:
    """The value of one row; given by the tag's name with _ for what no name of Python may have."""
    numbers = {name: given.get(name.replace("-", "_").replace(".", "_"), 0.0) for name in TAGS}
    marks = {name: (quality or {}).get(name, 0) for name in TAGS}
    column = np.array([[number] for number in numbers.values()])
    mark = np.array([[m] for m in marks.values()], np.uint8)
    places = {("s", i): i for i in range(len(TAGS))}
    found, worst = run(of(text).program, clean(column, mark), mark, places)
    return float(found[0]), int(worst[0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + 2 * 3 + x.a", 7.0),
        ("(1 + 2) * 3 + x.a", 9.0),
        ("2 ** 3 ** 2 + x.a", 512.0),
        ("-2 ** 2 + x.a", -4.0),
        ("10 - 3 - 2 + x.a", 5.0),
        ("x.a + 1.5e3", 1500.0),
        ("x.a + .5", 0.5),
        ("8 / 4 / 2 + x.a", 1.0),
        ("x.a < 1 and not x.a > 1 or x.a == 7", 1.0),
        ("not x.a == 1", 1.0),
        ("min(3, x.a, 2) + max(1, x.b)", 1.0),
        ("clip(x.a, 2, 5)", 2.0),
        ("hypot(x.a + 3, 4)", 5.0),
        ("where(x.a == 0, 5, 6)", 5.0),
        ("abs(x.a - 3) + sqrt(x.b + 9) + exp(x.a) + log(x.b + 1) + round(x.a + 2.4)", 9.0),
        ("`x.a` + 1", 1.0),
    ],
)
def test_an_expression_means_what_it_says(text: str, wanted: float) -> None:
    assert value(text) == (wanted, 0)


@pytest.mark.parametrize(
    ("text", "unit", "wanted"),
    [
        ("em-a.power + em-b.power", "kW", 5.0 + 2000.0),
        ("em-b.power + em-a.power", "MW", 2.005),
        ("em-b.power - 5 kW", "MW", 1.995),
        ("em-a.power + 5", "kW", 10.0),
        ("em-a.power / em-b.power", "1", 0.0025),
        ("em-a.power * 15 min", "kW.min", 75.0),
        ("cems.nox / cems.so2", "1", 0.003),
        ("cems.o2 + 1", "%", 22.0),
        ("(21 - 10) / (21 - cems.o2 / 1 % + 0 * x.a) + 0", "1", math.nan),
        ("em-a.power * (cems.o2 / 100 %)", "kW", 1.05),
        ("scale.mass / (em-a.power * 1 h)", "kg/kW/h", 0.8),
        ("sqrt(em-a.power * em-a.power)", "kW", 5.0),
        ("hypot(em-a.power / 1 kW, em-a.reactive / 1 kvar) * 1 kVA", "kVA", math.hypot(5, 12)),
        ("em-a.power ** 2", "kW2", 25.0),
        ("max(em-a.power, 1 MW)", "kW", 1000.0),
        ("where(plc.state == 3, em-a.power, 0)", "kW", 5.0),
        ("where(plc.state == 3, 0, em-a.power)", "kW", 0.0),
        ("oven.temperature - 20", "Cel", 180.0),
    ],
)
def test_a_result_has_a_unit(text: str, unit: str, wanted: float) -> None:
    found = of(text).unit
    assert found is not None
    assert found.factor_to(Unit.parse(unit)) == pytest.approx(1.0)
    given = {"em_a_power": 5.0, "em_b_power": 2.0, "em_a_reactive": 12.0, "cems_o2": 21.0}
    given |= {"cems_nox": 3.0, "cems_so2": 1.0, "scale_mass": 4.0, "plc_state": 3.0}
    number, _ = value(text, **given, oven_temperature=200.0)
    assert number == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("em-a.power + em-a.energy", "kW and kWh cannot be added: take rate() of the kWh"),
        ("em-a.energy - em-a.power", "kWh and kW cannot be subtracted: take rate() of the kWh"),
        (
            "em-a.power > 5 mg/m3",
            "cannot be compared: both sides must be of one kind (at character 12)",
        ),
        ("em-a.power + em-a.reactive", "kW and kvar cannot be added"),
        ("em-a.power-em-b.power", "write a minus with spaces around it (at character 1)"),
        ("em-a.powr + 1", 'unknown tag "em-a.powr" (at character 1)'),
        ("power + 1", '"power" is not a name: write owner.column'),
        ("tan(x.a)", 'unknown function "tan" (there are abs,'),
        ("x.a +", "ends too early: a name or a number is missing (at its end)"),
        ("x.a x.b", 'an operator is missing before "x.b" (at character 5)'),
        ("x.a + * 2", '"*" stands where a name or a number must (at character 7)'),
        ("(x.a + 1", '")" is missing after "(" (at its end)'),
        ("x.a ^ 2", '"^" has no meaning here: write ** (at character 5)'),
        ("x.a = 2", "write =="),
        ("0 < x.a < 2", "write a < b and b < c"),
        ("x.a + (x.a > 2)", "is true or false: write where(condition, 1, 0)"),
        ("x.a and x.b > 1", "is no condition: compare it with something (at character 1)"),
        ("plc.state * 2", "a state can only be compared"),
        ("plc.recipe == 2", "is a text: nothing can be computed of it"),
        ("x.a + 5 kQ", 'unknown unit "kQ" (at character 7)'),
        ("2/em-a.power + 100 kW/em-a.power", "put spaces around an operator"),
        ("exp(em-a.power)", "exp needs a plain number, this is in kW: divide it"),
        ("sqrt(em-a.power)", "kW is not the square of a unit"),
        ("em-a.power ** 0.5", "the exponent of kW must be a whole number"),
        ("x.a ** x.b", "an exponent must be a plain number"),
        ("x.a / (1 / 0)", "has no value"),
        ("clip(x.a, 2)", "clip takes (x, lowest, highest)"),
        ("min(x.a)", "min takes (a, b, …)"),
        ("where(x.a > 1, x.b)", '"," is missing after "where"'),
        ("mean(x.a)", "mean takes (x, length): mean(x, 10min)"),
        ("mean(x.a, 3 kW)", "mean takes a length of time"),
        ("mean(5, 10min)", "mean needs a tag"),
        ("1e999 + x.a", "is too large a number"),
        ("", "ends too early"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as told:
        of(text)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_the_names_of_an_expression_are_known_without_the_plant() -> None:
    assert names_in("rate(a-1.b) + a-1.b * where(c.d_1h > 5 kW, 1, 2)") == ["a-1.b", "c.d_1h"]


# what is not known ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bad", "wanted"),
    [
        ("x.a + 1", BAD, (math.nan, BAD)),
        ("x.a > 1", BAD, (math.nan, BAD)),
        ("x.a ** 0", BAD, (math.nan, BAD)),
        ("x.a > 1 and x.b > 1", BAD, (0.0, 0)),
        ("x.a > 1 and x.b < 1", BAD, (math.nan, BAD)),
        ("x.a > 1 or x.b < 1", BAD, (1.0, 0)),
        ("where(x.b == 0, x.c, x.a)", BAD, (0.0, 0)),
        ("where(x.a == 0, x.c, x.b)", BAD, (math.nan, BAD)),
        ("min(x.a, x.b)", BAD, (math.nan, BAD)),
        ("x.a + x.b", FLAGGED, (0.0, FLAGGED)),
        ("1 / x.b", 0, (math.nan, Quality.BAD_NOT_AVAILABLE)),
        ("1 / (1 / x.b)", 0, (math.nan, Quality.BAD_NOT_AVAILABLE)),
        ("log(x.b - 1)", 0, (math.nan, Quality.BAD_NOT_AVAILABLE)),
        ("exp(x.b + 1e4)", 0, (math.nan, Quality.BAD_NOT_AVAILABLE)),
    ],
)
def test_what_is_not_known_is_bad_with_its_reason(
    text: str, bad: int, wanted: tuple[float, int]
) -> None:
    found = value(text, {"x.a": bad})
    np.testing.assert_array_equal(found, wanted)


def test_what_the_instrument_flags_stays_flagged_under_any_other_doubt() -> None:
    marks = {"x.a": FLAGGED, "x.b": int(Quality.UNCERTAIN_PRECISION)}
    assert value("x.a + x.b", marks) == (0.0, FLAGGED)
    assert value("x.a + x.c", {"x.a": FLAGGED, "x.c": BAD})[1] == BAD


# a slow version ---------------------------------------------------------------------------------

Pair = tuple[float | None, int]
SLOW: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "min": min, "max": max, "hypot": math.hypot,
}  # fmt: skip
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
MARKS = [0, 0, 0, 0, 1, 64, 65, 70, 71, 129, 191]


def worse(*marks: int) -> int:
    top = max(marks)
    return 70 if 70 in marks and top < 128 else top


def number(random: Random, depth: int, rows: Sequence[dict[str, Pair]]) -> tuple[str, list[Pair]]:
    """A random text and what it is, row by row."""
    if depth == 0 or random.random() < 0.2:
        if random.random() < 0.3:
            constant = random.choice([0.0, 1.0, 2.5, 1e200])
            return f"{constant!r}", [(constant, 0)] * len(rows)
        name = random.choice(["x.a", "x.b", "x.c"])
        return name, [row[name] for row in rows]
    kind = random.choice([*SLOW, "where", "negative", "abs"])
    a, va = number(random, depth - 1, rows)
    if kind in {"negative", "abs"}:
        text = f"-({a})" if kind == "negative" else f"abs({a})"
        change = operator.neg if kind == "negative" else abs
        return text, [(None if v is None else change(v), q) for v, q in va]
    b, vb = number(random, depth - 1, rows)
    if kind == "where":
        c, vc = condition(random, depth - 1, rows)
        both = zip(vc, va, vb, strict=True)
        return f"where({c}, {a}, {b})", [
            (None, q) if v is None else ((x if v else y)[0], worse(q, (x if v else y)[1]))
            for (v, q), x, y in both
        ]
    found = []
    for (v, p), (w, q) in zip(va, vb, strict=True):
        result = None
        if v is not None and w is not None and not (kind == "/" and w == 0):
            result = SLOW[kind](v, w)
        found.append(
            (result if result is not None and math.isfinite(result) else None, worse(p, q))
        )
    text = f"{kind}({a}, {b})" if kind.isalpha() else f"({a}) {kind} ({b})"
    return text, found


def condition(
    random: Random, depth: int, rows: Sequence[dict[str, Pair]]
) -> tuple[str, list[Pair]]:
    if depth <= 0 or random.random() < 0.5:
        sign = random.choice(list(COMPARE))
        a, va = number(random, max(depth - 1, 0), rows)
        b, vb = number(random, max(depth - 1, 0), rows)
        return f"({a}) {sign} ({b})", [
            (None if v is None or w is None else float(COMPARE[sign](v, w)), worse(p, q))
            for (v, p), (w, q) in zip(va, vb, strict=True)
        ]
    a, va = condition(random, depth - 1, rows)
    kind = random.choice(["and", "or", "not"])
    if kind == "not":
        return f"not ({a})", [(None if v is None else 1.0 - v, q) for v, q in va]
    b, vb = condition(random, depth - 1, rows)
    decides = 0.0 if kind == "and" else 1.0
    found = []
    for (v, p), (w, q) in zip(va, vb, strict=True):
        if decides in {v, w}:
            found.append((decides, min(m for x, m in ((v, p), (w, q)) if x == decides)))
        else:
            found.append((None if v is None or w is None else 1.0 - decides, worse(p, q)))
    return f"({a}) {kind} ({b})", found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_an_expression_equals_the_slow_version(seed: int) -> None:
    random = Random(seed)
    numbers = [0.0, 1.0, -1.0, 2.5, 3.0, 1e-200, 1e300]
    cells = [
        [(random.choice(numbers), random.choice(MARKS if seed % 3 else [0])) for _ in range(6)]
        for _ in "abc"
    ]
    rows = [
        {f"x.{n}": (None if q >= 128 else v, q) for n, (v, q) in zip("abc", row, strict=True)}
        for row in zip(*cells, strict=True)
    ]
    make = condition if seed % 2 else number
    text, wanted = make(random, 4, rows)
    try:
        expression = of(text)
    except ExpressionError as error:  # constants whose result is no number
        assert "has no value" in str(error)  # noqa: PT017
        return
    names = list(TAGS)
    column = np.zeros((len(TAGS), 6))
    mark: U8 = np.zeros((len(TAGS), 6), np.uint8)
    for n, given_cells in zip("abc", cells, strict=True):
        column[names.index(f"x.{n}")] = [v for v, _ in given_cells]
        mark[names.index(f"x.{n}")] = [q for _, q in given_cells]
    places = {("s", i): i for i in range(len(TAGS))}
    found, quality = run(expression.program, clean(column, mark), mark, places)
    for i, (v, q) in enumerate(wanted):
        if v is None:
            assert np.isnan(found[i]), text
            assert quality[i] == (q if q >= 128 else Quality.BAD_NOT_AVAILABLE), text
        else:
            assert found[i] == pytest.approx(v, rel=1e-12), text
            assert quality[i] == q, text


# hostile texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1000,
        "(" * 900 + "1" + ")" * 900,
        "-" * 1900 + "1",
        "not " * 400 + "x.a > 1",
        "2 ** " * 300 + "2",
        "abs(" * 300 + "x.a" + ")" * 300,
        "where(" * 300,
        "x.a" + " + x.a" * 400,
        "9 ** 9 ** 9 ** 9 ** 9",
        "`" * 1999,
        "1" * 1999,
        "a" + ".b" * 900,
        "a-" * 900,
        "x" * (LONGEST + 1),
    ],
)
def test_a_hostile_text_is_refused_or_computed_at_once(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ExpressionError) as told:
        of(text)
    assert len(str(told.value)) < 5000
    assert time.perf_counter() - began < 0.5


def test_a_long_sum_is_computed_without_recursion() -> None:
    text = "x.a" + " + x.a" * 240
    assert value(text, x_a=1.0) == (241.0, 0)
    assert DEEPEST < 100


WORDS = [
    *("x.a", "em-a.power", "plc.state", "1", "2.5", "kW", "(", ")", ",", "+", "-", "*", "/", "**"),
    *("<", "==", "and", "or", "not", "where", "min", "rate", "mean", "10min", "`", "%", "\n", "é"),
]


def test_any_text_is_compiled_or_refused_with_a_reason() -> None:
    random, well = Random(4), 0
    for i in range(4000):
        n = random.randint(0, 25)
        if i % 2:
            text = " ".join(random.choice(WORDS) for _ in range(n))
        else:
            text = "".join(
                chr(random.choice([random.randrange(32, 127), random.randrange(1, 2000)]))
                for _ in range(n)
            )
        try:
            well += bool(of(text).program)
        except ExpressionError as error:
            assert str(error)  # noqa: PT017
    assert well > 20
