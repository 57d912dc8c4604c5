"""Coverage computed exactly by enumerating every sample path, or by simulation judged with an exact binomial test."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bounds import confidence
from bounds.confidence import betting, clopper_pearson, empirical_bernstein, hoeffding, simultaneous

METHODS = [hoeffding, empirical_bernstein, betting, clopper_pearson]
UNKNOWN_SIDES: Any = "both"
CHANCE_TESTS = [1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999]


def every_path(values: Any, n: int) -> Any:
    """[n, len(values)**n]: all sequences of n draws."""
    return np.array(list(itertools.product(values, repeat=n)), dtype=float).T


def exact_miss(
    method: confidence.Method, sides: Any, delta: float, values: Any, n: int, mean_of: float, probabilities: Any
) -> float:
    """Probability that the interval misses the mean, summed over every path."""
    paths = every_path(range(len(values)), n).astype(int)
    draws = np.asarray(values)[paths]
    interval = method(draws, 1 - delta, sides=sides)
    weight = np.prod(np.asarray(probabilities)[paths], axis=0)
    return float(weight[(interval.lower > mean_of) | (interval.upper < mean_of)].sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sides", ["two", "upper", "lower"])
@pytest.mark.parametrize("delta", [0.02, 0.1, 0.4])
def test_exact_coverage_on_bernoulli_draws(method, sides, delta):
    for p in CHANCE_TESTS:
        assert exact_miss(method, sides, delta, [0.0, 1.0], 11, p, [1 - p, p]) <= delta + 1e-12


@pytest.mark.parametrize("method", [hoeffding, empirical_bernstein, betting])
def test_exact_coverage_on_three_valued_draws(method):
    values = np.array([0.0, 0.3, 1.0])
    for probabilities in [(0.6, 0.3, 0.1), (0.05, 0.05, 0.9), (0.0, 0.99, 0.01), (0.98, 0.0, 0.02)]:
        mean = float(values @ probabilities)
        assert exact_miss(method, "two", 0.1, values, 7, mean, probabilities) <= 0.1 + 1e-12


def test_betting_capital_is_a_martingale_at_the_mean():
    """E[K_n(mu)] = 1 exactly: the sum over every path of probability times final capital."""
    values, probabilities = np.array([0.0, 0.4, 1.0]), np.array([0.5, 0.2, 0.3])
    mean = values @ probabilities
    paths = every_path(range(3), 8).astype(int)
    draws = values[paths]
    bets = confidence._plug_in_bets(draws, 0.05)
    capital = np.prod(1 + np.minimum(bets, 0.5 / mean) * (draws - mean), axis=0)
    weight = np.prod(probabilities[paths], axis=0)
    assert weight @ capital == pytest.approx(1, abs=1e-12)
    assert (capital >= 0).all()


def wealth_by_loop(draws: Any, mean: float, delta: float, stake: float = 0.5) -> float:
    """The definition, one draw at a time, in exact arithmetic apart from the square root."""
    capital, best, n = 1.0, 1.0, len(draws)
    total, squares = Fraction(1, 2), Fraction(1, 4)
    variance = 0.25
    for t, x in enumerate(draws, start=1):
        bet = min(math.sqrt(2 * math.log(1 / delta) / (n * variance)), stake / mean)
        capital *= 1 + bet * (x - mean)
        best = max(best, capital)
        total += Fraction(x)
        squares += (Fraction(x) - total / (t + 1)) ** 2
        variance = float(squares / (t + 1))
    return best


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.sampled_from([0.01, 0.1, 0.5]))
def test_betting_ends_are_where_the_capital_reaches_its_threshold(draws, delta):
    draws = np.array(draws)
    interval = betting(draws, 1 - delta, order=None)
    per_side = delta / 2
    for end, mirrored in ((interval.lower, draws), (1 - interval.upper, 1 - draws)):
        assert 0 <= end <= 1
        if end > 1e-9:
            assert wealth_by_loop(mirrored, end - 1e-11, per_side) >= (1 - 1e-6) / per_side
        assert wealth_by_loop(mirrored, end + 1e-11, per_side) <= (1 + 1e-6) / per_side
    assert interval.lower <= interval.upper


@given(st.integers(1, 400), st.floats(0.5, 0.999), st.sampled_from(["upper", "lower", "two"]))
def test_hoeffding_width_inverts_its_tail_bound(n, level, sides):
    """exp(-2 n w²), once per side, is the error probability."""
    draws = np.full(n, 0.5)
    interval = hoeffding(10 * draws, level, sides=sides, low=-10_000, high=20_000)
    ends = [w for w in (interval.upper - 5.0, 5.0 - interval.lower) if w < 10_005 - 1e-6]
    for width in ends:
        risk = (2 if sides == "two" else 1) * math.exp(-2 * n * (width / 30_000) ** 2)
        assert risk == pytest.approx(1 - level, rel=1e-9)


def test_empirical_bernstein_against_its_published_terms():
    """Maurer & Pontil 2009, Theorem 4, worked by hand: n = 5, V = 1/20, log(2/0.05) = 3.688879454113936."""
    draws = np.array([0.25, 0.5, 0.75, 0.25, 0.25]) + 0.05
    variance = np.var(draws, ddof=1)
    assert variance == pytest.approx(0.05)
    wide = np.repeat(draws, 2000)
    v, n = 0.05 * (2000 * 4) / (2000 * 5 - 1), 10_000
    expected = math.sqrt(2 * v * 3.688879454113936 / n) + 7 * 3.688879454113936 / (3 * (n - 1))
    one = empirical_bernstein(wide, 0.95, sides="upper")
    assert one.upper - one.estimate == pytest.approx(expected, rel=1e-9)
    assert one.lower == 0
    two = empirical_bernstein(wide, 0.9)
    assert two.upper - two.estimate == pytest.approx(expected, rel=1e-9)
    assert two.estimate - two.lower == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [1, 7, 40])
def test_clopper_pearson_inverts_the_binomial_tails(n):
    draws = (np.arange(n)[:, None] < np.arange(n + 1)).astype(float)
    interval = clopper_pearson(draws, 0.9)
    for ones in range(n + 1):
        lower, upper = interval.lower[ones], interval.upper[ones]
        if ones > 0:
            assert stats.binom.sf(ones - 1, n, lower) == pytest.approx(0.05, rel=1e-9)
        else:
            assert lower == 0
        if ones < n:
            assert stats.binom.cdf(ones, n, upper) == pytest.approx(0.05, rel=1e-9)
        else:
            assert upper == 1
    np.testing.assert_allclose(interval.estimate, np.arange(n + 1) / n)


def binomial_test(misses: int, repetitions: int, delta: float) -> float:
    """Chance of at least this many misses were the coverage exactly 1 - delta."""
    return float(stats.binom.sf(misses - 1, repetitions, delta))


@pytest.mark.parametrize("method", [hoeffding, empirical_bernstein, betting])
def test_coverage_on_continuous_draws(method):
    rng = np.random.default_rng(11)
    for a, b in [(1, 1), (0.2, 2), (5, 0.5)]:
        draws = rng.beta(a, b, size=(60, 4000))
        interval = method(draws, 0.9)
        mean = a / (a + b)
        misses = ((interval.lower > mean) | (interval.upper < mean)).sum()
        assert binomial_test(misses, 4000, 0.1) > 1e-6


@pytest.mark.parametrize("method", [hoeffding, empirical_bernstein, betting])
def test_simultaneous_covers_all_entries_together(method):
    """Strongly dependent and independent entries alike, 40 at once."""
    rng = np.random.default_rng(5)
    repetitions, steps, n = 300, 40, 50
    misses = 0
    for _ in range(repetitions):
        draws = rng.beta(0.5, 1.5, size=(n, steps))
        draws[:, : steps // 2] = draws[:, :1]
        interval = simultaneous(method, draws, 0.8)
        misses += ((interval.lower > 0.25) | (interval.upper < 0.25)).any()
    assert binomial_test(misses, repetitions, 0.2) > 1e-6
    assert interval.confidence == 0.8
    assert interval.lower.shape == (steps,)


def test_simultaneous_splits_the_error_over_the_entries():
    draws = np.random.default_rng(0).random((30, 4, 5))
    for method in (hoeffding, empirical_bernstein, betting):
        joint, each = simultaneous(method, draws, 0.9, "upper"), method(draws, 1 - 0.1 / 20, sides="upper")
        np.testing.assert_array_equal(joint.upper, each.upper)
        assert (joint.confidence, each.confidence) == (0.9, 1 - 0.1 / 20)
    alone = simultaneous(hoeffding, draws[:, 0, 0], 0.9)
    assert alone.upper == hoeffding(draws[:, 0, 0], 0.9).upper


@pytest.mark.parametrize("method", METHODS)
def test_two_sided_is_two_one_sided_bounds_at_half_the_error(method):
    draws = (np.random.default_rng(2).random((80, 3)) < 0.3).astype(float)
    two = method(draws, 0.9)
    np.testing.assert_allclose(two.lower, method(draws, 0.95, sides="lower").lower, rtol=1e-12)
    np.testing.assert_allclose(two.upper, method(draws, 0.95, sides="upper").upper, rtol=1e-12)
    assert (method(draws, 0.9, sides="lower").upper == 1).all()
    assert (method(draws, 0.9, sides="upper").lower == 0).all()
    assert (two.lower <= two.estimate).all()
    assert (two.estimate <= two.upper).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_range_other_than_the_unit_interval_scales_the_answer(method):
    unit = (np.random.default_rng(3).random((60, 2)) < 0.4).astype(float)
    plain, scaled = method(unit, 0.95), method(-3 + 8 * unit, 0.95, low=-3.0, high=5.0)
    for name in ("estimate", "lower", "upper"):
        np.testing.assert_allclose(getattr(scaled, name), -3 + 8 * getattr(plain, name), rtol=1e-9, atol=1e-9)
    assert plain.samples == 60


def test_betting_is_the_shortest_on_skewed_draws_and_shrinks():
    draws = np.random.default_rng(7).beta(0.3, 3, size=(300, 100))
    width = {method: (i := method(draws)).upper.mean() - i.lower.mean() for method in METHODS[:3]}
    assert [round(width[method], 3) for method in METHODS[:3]] == [0.157, 0.115, 0.045]
    few = betting(draws[:75])
    assert 0.3 < width[betting] / (few.upper - few.lower).mean() < 0.7


def test_scalars_for_one_quantity():
    interval = hoeffding([0.0, 1.0, 0.5])
    assert isinstance(interval.lower, float)
    assert interval.estimate == 0.5
    assert betting(np.zeros(50)).lower == 0
    assert betting(np.ones(50)).upper == 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: hoeffding([]), "at least 1 draws along axis 0, got 0"),
        (lambda: empirical_bernstein([0.5]), "at least 2 draws along axis 0, got 1"),
        (lambda: hoeffding(0.5), "scalar"),
        (lambda: betting([0.2, 1.2]), "[0.0, 1.0], got 1.2"),
        (lambda: betting([0.2, np.nan]), "got nan"),
        (lambda: hoeffding([0.2], 1.0), "confidence must lie in (0, 1), got 1.0"),
        (lambda: simultaneous(hoeffding, [[0.2]], 0.0), "confidence must lie in (0, 1), got 0.0"),
        (lambda: simultaneous(hoeffding, np.zeros((3, 0))), "(3, 0)"),
        (lambda: hoeffding([0.2], sides=UNKNOWN_SIDES), "'both'"),
        (lambda: hoeffding([0.2], low=1.0, high=1.0), "low=1.0, high=1.0"),
        (lambda: clopper_pearson([0.0, 0.5]), "exactly 0.0 or 1.0, got 0.5"),
    ],
)
def test_bad_values_are_named(call, named):
    with pytest.raises(ValueError) as raised:
        call()
    assert named in str(raised.value)


def test_rows_stacked_by_kind_do_not_give_a_false_end():
    """In the order given, the bets are over before the second kind comes: an upper end of .087 for a mean of .275."""
    blocks = np.repeat([0.05, 0.5], 150)
    assert betting(blocks, sides="upper", order=None).upper < 0.1
    for size, order in itertools.product((150, 40, 1000), range(3)):
        draws = np.repeat([0.05, 0.5], size)
        assert betting(draws, sides="upper", order=order).upper > 0.275
        assert betting(1 - draws, sides="lower", order=order).lower < 0.725
    tasks = np.repeat([0.1, 0.9, 0.2, 0.6], 100)
    found = betting(tasks)
    assert found.lower < tasks.mean() < found.upper


def test_the_order_depends_on_nothing_but_the_number_of_draws_and_is_shared():
    draws = np.random.default_rng(8).random((70, 3))
    together = betting(draws)
    for entry in range(3):
        assert betting(draws[:, entry]).lower == together.lower[entry]
    by_hand = betting(draws[np.random.default_rng(0).permutation(70)], order=None)
    np.testing.assert_array_equal(by_hand.upper, together.upper)
    assert (betting(draws, order=1).upper != together.upper).all()


def test_ends_that_cross_are_refused():
    coins = (np.random.default_rng(4).random((300, 3000)) < 0.5).astype(float)
    as_given = betting(coins, 0.6, order=None)
    assert 0 < (as_given.lower > as_given.upper).mean() < 0.02
    with pytest.raises(ValueError, match="the draws are not iid: their mean is at least"):
        betting(coins, 0.6)
