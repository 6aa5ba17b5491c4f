"""Fits against certified values, probabilities against printed tables."""

import json
import math
from random import Random

import numpy as np
import pytest

from edge_agent.metrics.regression import (
    Model,
    Moments,
    fisher_above,
    incomplete_beta,
    student_quantile,
    student_two_sided,
)
from edge_agent.model import F64
from edge_agent.outbox_schema import as_json

# NIST StRD, https://www.itl.nist.gov/div898/strd/lls/data/LINKS/DATA/Norris.dat (lower difficulty)
NORRIS_X = (
    0.2, 337.4, 118.2, 884.6, 10.1, 226.5, 666.3, 996.3, 448.6, 777.0, 558.2, 0.4, 0.6, 775.5,
    666.9, 338.0, 447.5, 11.6, 556.0, 228.1, 995.8, 887.6, 120.2, 0.3, 0.3, 556.8, 339.1, 887.2,
    999.0, 779.0, 11.1, 118.3, 229.2, 669.1, 448.9, 0.5,
)  # fmt: skip
NORRIS_Y = (
    0.1, 338.8, 118.1, 888.0, 9.2, 228.1, 668.5, 998.5, 449.1, 778.9, 559.2, 0.3, 0.1, 778.1,
    668.8, 339.3, 448.9, 10.8, 557.7, 228.3, 998.0, 888.8, 119.6, 0.3, 0.6, 557.6, 339.3, 888.0,
    998.5, 778.9, 10.2, 117.6, 228.9, 668.4, 449.2, 0.2,
)  # fmt: skip
# .../strd/lls/data/LINKS/DATA/Longley.dat (higher difficulty): columns x1 … x6, y
LONGLEY = (
    (83.0, 234289, 2356, 1590, 107608, 1947, 60323),
    (88.5, 259426, 2325, 1456, 108632, 1948, 61122),
    (88.2, 258054, 3682, 1616, 109773, 1949, 60171),
    (89.5, 284599, 3351, 1650, 110929, 1950, 61187),
    (96.2, 328975, 2099, 3099, 112075, 1951, 63221),
    (98.1, 346999, 1932, 3594, 113270, 1952, 63639),
    (99.0, 365385, 1870, 3547, 115094, 1953, 64989),
    (100.0, 363112, 3578, 3350, 116219, 1954, 63761),
    (101.2, 397469, 2904, 3048, 117388, 1955, 66019),
    (104.6, 419180, 2822, 2857, 118734, 1956, 67857),
    (108.4, 442769, 2936, 2798, 120445, 1957, 68169),
    (110.8, 444546, 4681, 2637, 121950, 1958, 66513),
    (112.6, 482704, 3813, 2552, 123366, 1959, 68655),
    (114.2, 502601, 3931, 2514, 125368, 1960, 69564),
    (115.7, 518173, 4806, 2572, 127852, 1961, 69331),
    (116.9, 554894, 4007, 2827, 130081, 1962, 70551),
)


def moments(rows: F64) -> Moments:
    found = Moments(rows.shape[1] - 1)
    for row in rows:
        found.add(row)
    return found


def digits(found: float, certified: float) -> float:
    return -math.log10(max(abs(found - certified) / abs(certified), 1e-16))


def test_norris_has_its_certified_values() -> None:
    model = moments(np.column_stack([NORRIS_X, NORRIS_Y])).fit()
    assert digits(model.beta[0], -0.262323073774029) > 11
    assert digits(model.beta[1], 1.00211681802045) > 13
    assert digits(model.se[0], 0.232818234301152) > 11
    assert digits(model.se[1], 0.429796848199937e-3) > 11
    assert digits(model.rmse, 0.884796396144373) > 11
    assert digits(model.r2, 0.999993745883712) > 13
    assert digits(model.f, 5436385.54079785) > 11
    assert (model.n, model.freedom) == (36, 34)


def test_longley_has_its_certified_values() -> None:
    model = moments(np.array(LONGLEY)).fit()
    beta = (
        -3482258.63459582, 15.0618722713733, -0.358191792925910e-1, -2.02022980381683,
        -1.03322686717359, -0.511041056535807e-1, 1829.15146461355,
    )  # fmt: skip
    se = (
        890420.383607373, 84.9149257747669, 0.334910077722432e-1, 0.488399681651699,
        0.214274163161675, 0.226073200069370, 455.478499142212,
    )  # fmt: skip
    assert min(map(digits, model.beta.tolist(), beta)) > 10
    assert min(map(digits, model.se.tolist(), se)) > 11
    assert digits(model.left, 836424.055505915) > 11
    assert digits(model.r2, 0.995479004577296) > 13
    assert digits(model.r2_adjusted, 0.992465007628826) > 13  # R, lm
    assert digits(model.f, 330.285339234588) > 11


def slow(rows: F64) -> tuple[F64, float]:
    """Coefficients and lag-1 autocorrelation of the residuals from all rows at once."""
    x = np.column_stack([np.ones(len(rows)), rows[:, :-1]])
    beta = np.asarray(np.linalg.lstsq(x, rows[:, -1], rcond=None)[0], np.float64)
    e = rows[:, -1] - x @ beta
    return beta, float((e[1:] * e[:-1]).sum() / (e * e).sum())


@pytest.mark.parametrize("seed", range(5))
def test_one_pass_equals_all_rows_at_once(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(1e4, 100.0, (3, 80))
    noise = np.convolve(random.normal(0, 5.0, 90), [1.0, 0.8, 0.4], "valid")[:80]
    rows = np.column_stack([*x, 500 + 2 * x[0] - 0.5 * x[1] + noise])
    model = moments(rows).fit()
    beta, rho = slow(rows)
    np.testing.assert_allclose(model.beta, beta, rtol=1e-8)
    assert model.rho == pytest.approx(rho, rel=1e-7)
    x_all = np.column_stack([np.ones(80), rows[:, :-1]])
    e = rows[:, -1] - x_all @ beta
    se = np.sqrt(np.diag(np.linalg.inv(x_all.T @ x_all)) * (e @ e) / 76)
    np.testing.assert_allclose(model.se, se, rtol=1e-5)
    assert model.cv_rmse == pytest.approx(math.sqrt(e @ e / 76) / rows[:, -1].mean())
    assert abs(model.nmbe) < 1e-12
    assert model.low.tolist() == rows[:, :-1].min(axis=0).tolist()
    assert model.high.tolist() == rows[:, :-1].max(axis=0).tolist()


def test_a_row_left_out_parts_its_neighbours() -> None:
    found = Moments(0)
    for i, y in enumerate((1.0, 2.0, 3.0, 4.0)):
        if i == 2:
            found.skip()
        found.add(np.array([y]))
    assert found.pairs == 2
    # residuals -1.5 -0.5 | 0.5 1.5: (0.75 + 0.75) of 5.0, two pairs of the three there would be
    assert found.fit().rho == pytest.approx(1.5 / 5.0 * 3 / 2)


def test_moments_go_on_after_a_restart_bit_for_bit() -> None:
    rows = np.array(LONGLEY)
    random = Random(1)
    live = Moments(6)
    for row in rows:
        if random.random() < 0.5:
            fresh = Moments(6)
            fresh.load(json.loads(as_json(live.save())))
            live = fresh
        live.add(row)
    assert live.fit().beta.tolist() == moments(rows).fit().beta.tolist()
    assert live.fit().rho == moments(rows).fit().rho


def test_a_model_without_variables_is_the_mean() -> None:
    model = moments(np.array([[10.0], [12.0], [14.0]])).fit()
    assert model.beta.tolist() == [12.0]
    assert (model.r2, model.f, model.p_f) == (0.0, 0.0, 1.0)
    assert model.rmse == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([[1.0, 2.0], [2.0, 3.0]], "too few"),
        ([[1.0, 2.0], [1.0, 3.0], [1.0, 5.0]], "constant"),
        ([[1.0, 2.0, 2.0], [2.0, 4.0, 3.0], [3.0, 6.0, 5.0], [5.0, 10.0, 1.0]], "follows"),
    ],
)
def test_a_fit_that_is_none_says_why(rows: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        moments(np.array(rows)).fit()


# probabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("df", "confidence", "printed"),
    [
        # NIST/SEMATECH e-Handbook 1.3.6.7.2, critical values of Student's t (upper tails
        # 0.10, 0.05, 0.025, 0.01, 0.005, 0.001)
        (1, 0.80, 3.078), (1, 0.90, 6.314), (1, 0.95, 12.706), (1, 0.98, 31.821),
        (2, 0.90, 2.920), (5, 0.95, 2.571), (9, 0.99, 3.250), (10, 0.90, 1.812),
        (20, 0.95, 2.086), (30, 0.98, 2.457), (60, 0.99, 2.660),
        (100, 0.95, 1.984), (100, 0.998, 3.174), (10_000_000, 0.95, 1.960),
    ],
)  # fmt: skip
def test_student_quantiles_are_those_of_the_table(
    df: int, confidence: float, printed: float
) -> None:
    assert round(student_quantile(confidence, df), 3) == printed


@pytest.mark.parametrize(
    ("df1", "df2", "tail", "printed"),
    [
        # NIST/SEMATECH e-Handbook 1.3.6.7.3, upper critical values of F
        (1, 1, 0.05, 161.448), (2, 10, 0.05, 4.103), (5, 20, 0.05, 2.711), (10, 100, 0.05, 1.927),
        (1, 10, 0.10, 3.285), (3, 30, 0.01, 4.510),
    ],
)  # fmt: skip
def test_f_probabilities_are_those_of_the_table(
    df1: int, df2: int, tail: float, printed: float
) -> None:
    assert fisher_above(printed + 6e-4, df1, df2) < tail < fisher_above(printed - 6e-4, df1, df2)


def test_probabilities_with_a_closed_form_are_exact() -> None:
    for t in (0.1, 1.0, 3.0, 40.0):
        assert student_two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, rel=1e-13)
        two = 1 - t / math.sqrt(2 + t * t)
        assert student_two_sided(t, 2) == pytest.approx(two, rel=1e-11)
    assert incomplete_beta(3.0, 1.0, 0.4) == pytest.approx(0.4**3, rel=1e-14)
    assert (incomplete_beta(2.0, 3.0, 0.0), incomplete_beta(2.0, 3.0, 1.0)) == (0.0, 1.0)


# savings ----------------------------------------------------------------------------------------


def model(rho: float = 0.0) -> Model:
    """Twelve months, mean 1000, RMSE 50: CV(RMSE) 5 %."""
    return Model(
        n=12, beta=np.array([400.0, 2.0]), se=np.ones(2), explained=9e5, left=25_000.0,
        total=925_000.0, mean=1000.0, bias=0.0, rho=rho, low=np.array([100.0]),
        high=np.array([500.0]),
    )  # fmt: skip


def test_the_uncertainty_of_a_year_of_months_by_hand() -> None:
    # t(90 %, 10) = 1.812461, so 1.812461 · 1.26 · 0.05 · sqrt((1 + 2/12) / 12) · 12 000 kWh
    assert model().uncertainty(12_000.0, 12, 0.90) == pytest.approx(427.2413, rel=1e-6)


def test_autocorrelation_widens_the_uncertainty() -> None:
    correlated = model(rho=0.5)
    assert correlated.independent == pytest.approx(4.0)
    # n/n' = 3 and 1 + 2/n' = 1.5 against 1 and 1 + 2/12
    widened = correlated.uncertainty(1e4, 12, 0.68) / model().uncertainty(1e4, 12, 0.68)
    assert widened == pytest.approx(math.sqrt(3 * 1.5 / (1 + 2 / 12)))
    assert model(rho=-0.5).independent == 12.0


def test_the_range_is_widened_by_a_share_of_itself() -> None:
    x = np.array([[59.0, 60.0, 300.0, 540.0, 541.0]])
    assert model().within(x, 0.1).tolist() == [False, True, True, True, False]
    assert model().within(x, 0.0).tolist() == [False, False, True, False, False]
    assert model().predict(x)[2] == 1000.0
