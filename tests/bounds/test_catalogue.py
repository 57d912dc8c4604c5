"""The whole catalogue: the published check values, and the algebra that holds between the bounds for all parameters."""

from __future__ import annotations

import itertools
import time
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bounds import ALL_BOUNDS, Bound, get
from bounds.paper import crossover_rollout_length
from bounds.symbols import eps_m, eps_pi, gamma, k, r_max

NAMES = [
    *("m3po-th1", "m3po-th2", "mbpo-4.1", "mbpo-4.2", "mbpo-4.3"),
    *("linear-full", "linear-branched", "optimal-full", "optimal-branched"),
]
COLUMNS = ("m3po-th1", "m3po-th2", "linear-branched", "linear-full", "optimal-branched", "optimal-full")
# gamma, k, eps_m, eps_pi, then the columns; r_max = 1.
TABLE = (
    (0.95, 1, 0.1, 0.1, (236, 159.8, 79.8, 152, 29.152219504202, 33.694440952830)),
    (0.95, 5, 0.1, 0.1, (236, 173.19264875, 86.496324375, 152, 31.652761276829, 33.694440952830)),
    (0.9, 1, 0.2, 0.0, (36, 3.6, 3.6, 36, 3.6, 14.74236)),
    (0.9, 10, 0.05, 0.02, (17, 11.973325827370, 6.980947019550, 12.6, 6.273443375473, 9.356868120240)),
    (0.99, 1, 0.01, 0.01, (598, 399.98, 199.98, 396, 101.467537521858, 149.246072705275)),
    (0.85, 50, 0.3, 0.7, (147.111111111111, 150.611048890482, 65.918870222700, 75.555555555556, 34 / 3, 34 / 3)),
)
# Rounding of a comparison between two values that are each within 1e-12 of the truth.
SLACK = 1 + 2e-12

CLOSED_FORMS = tuple(bound for bound in ALL_BOUNDS if not bound.name.startswith("optimal"))


def test_the_catalogue_is_what_the_documentation_lists() -> None:
    assert [bound.name for bound in ALL_BOUNDS] == NAMES
    for bound in ALL_BOUNDS:
        assert get(bound.name) is bound
        assert bound.source
        assert bound.assumptions
        assert bound.expression.free_symbols <= {gamma, k, eps_m, eps_pi, r_max}
        assert bound.uses_rollout_length == (bound.scheme != "full")


def test_an_unknown_name_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'m3po-th3'.*m3po-th1.*optimal-branched"):
        get("m3po-th3")


@pytest.mark.parametrize("row", TABLE, ids=str)
@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_the_published_table_to_ten_digits(row: tuple[Any, ...], column: int) -> None:
    discount, length, model_error, divergence, values = row
    value = get(COLUMNS[column]).evaluate(
        discount=discount, model_error=model_error, policy_divergence=divergence, rollout_length=length
    )
    assert value == pytest.approx(values[column], rel=5e-13)


@pytest.mark.parametrize("bound", CLOSED_FORMS, ids=lambda bound: bound.name)
def test_the_value_is_the_expression(bound: Bound) -> None:
    """Substituted with exact numbers and evaluated by sympy to 30 digits."""
    for discount, length, m, p, r in itertools.product(
        (0.5, 0.9375), (1, 2, 17), (0.0, 0.25), (0.0, 0.125), (1.0, 7.0)
    ):
        exact = bound.expression.subs({gamma: discount, k: length, eps_m: m, eps_pi: p, r_max: r}).evalf(30)
        value = bound.evaluate(
            discount=discount, rollout_length=length, model_error=m, policy_divergence=p, reward_max=r
        )
        assert value == pytest.approx(float(exact), rel=1e-14, abs=0)


@pytest.mark.parametrize("bound", CLOSED_FORMS, ids=lambda bound: bound.name)
def test_a_million_points_in_a_fifth_of_a_second(bound: Bound) -> None:
    generator = np.random.default_rng(0)
    discount, model_error, divergence, reward = generator.uniform(0.01, 0.99, (4, 10**6))
    length = generator.integers(1, 1000, 10**6)
    durations = []
    for _ in range(3):
        started = time.process_time()
        bound.evaluate(
            discount=discount,
            model_error=model_error,
            policy_divergence=divergence,
            rollout_length=length,
            reward_max=reward,
        )
        durations.append(time.process_time() - started)
    assert min(durations) < 0.2


# Nothing between 0 and 1e-60: subnormal products keep no relative precision.
discounts = st.one_of(
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]),
    st.floats(1e-60, 0.9995),
    st.floats(-9, -3).map(lambda exponent: 1 - 10.0**exponent),
)
errors = st.one_of(
    st.sampled_from([0.0, 1.0]), st.floats(1e-60, 1), st.floats(-12, 0).map(lambda exponent: 10.0**exponent)
)
lengths = st.one_of(st.integers(1, 60), st.integers(1, 5000))
points = st.fixed_dictionaries(
    {"discount": discounts, "model_error": errors, "policy_divergence": errors, "rollout_length": lengths}
)
bounds_of_the_catalogue = st.sampled_from(ALL_BOUNDS)


def value(name: str, point: dict[str, Any]) -> float:
    return float(get(name).evaluate(**point))


@given(points)
def test_linear_is_at_most_the_paper(point: dict[str, Any]) -> None:
    assert value("linear-full", point) <= value("m3po-th1", point) * SLACK
    assert value("linear-branched", point) <= value("m3po-th2", point) * SLACK


@given(points)
def test_optimal_is_at_most_linear(point: dict[str, Any]) -> None:
    assert value("optimal-full", point) <= value("linear-full", point) * SLACK
    assert value("optimal-branched", point) <= value("linear-branched", point) * SLACK


@given(points)
def test_optimal_never_exceeds_the_trivial_discrepancy_after_the_first_step(point: dict[str, Any]) -> None:
    trivial = 2 * point["discount"] / (1 - point["discount"])
    assert value("optimal-full", point) <= trivial * SLACK
    assert value("optimal-branched", point) <= trivial * SLACK


@given(points)
def test_branching_is_never_worse_than_the_full_model_for_the_optimal_bound(point: dict[str, Any]) -> None:
    assert value("optimal-branched", point) <= value("optimal-full", point) * SLACK


@given(points)
def test_theorem_2_at_one_step_is_at_most_theorem_1(point: dict[str, Any]) -> None:
    """And the difference is 2 gamma^2 eps_m + 2 (1-gamma) eps_pi over (1-gamma)^2."""
    point = {**point, "rollout_length": 1}
    g, m, p = point["discount"], point["model_error"], point["policy_divergence"]
    first, second = value("m3po-th1", point), value("m3po-th2", point)
    assert second <= first * SLACK
    assert first - second == pytest.approx((2 * g**2 * m + 2 * (1 - g) * p) / (1 - g) ** 2, abs=1e-13 * first)


@given(points, st.integers(1, 50))
def test_the_paper_grows_with_the_rollout_length_by_the_stated_amount(point: dict[str, Any], more: int) -> None:
    g, total = point["discount"], point["model_error"] + point["policy_divergence"]
    lengths_between = point["rollout_length"] + np.arange(more)
    growth = np.sum(g ** (lengths_between + 1)) / (1 - g) * total
    longer = {**point, "rollout_length": point["rollout_length"] + more}
    before, after = value("m3po-th2", point), value("m3po-th2", longer)
    assert after - before == pytest.approx(growth, abs=1e-12 * after)


@given(bounds_of_the_catalogue, points, st.integers(1, 50))
def test_non_decreasing_in_the_rollout_length(bound: Bound, point: dict[str, Any], more: int) -> None:
    longer = {**point, "rollout_length": point["rollout_length"] + more}
    if bound.scheme != "branched-exact":
        assert value(bound.name, point) <= value(bound.name, longer) * SLACK
    if bound.scheme == "full":
        assert value(bound.name, point) == value(bound.name, longer)


@given(bounds_of_the_catalogue, points, errors)
def test_non_decreasing_in_the_model_error(bound: Bound, point: dict[str, Any], other: float) -> None:
    assume(other >= point["model_error"])
    assert value(bound.name, point) <= value(bound.name, {**point, "model_error": other}) * SLACK


@given(bounds_of_the_catalogue, points, errors)
def test_non_decreasing_in_the_policy_divergence(bound: Bound, point: dict[str, Any], other: float) -> None:
    assume(other >= point["policy_divergence"])
    assert value(bound.name, point) <= value(bound.name, {**point, "policy_divergence": other}) * SLACK


@given(bounds_of_the_catalogue, points, discounts)
def test_non_decreasing_in_the_discount(bound: Bound, point: dict[str, Any], other: float) -> None:
    assume(other >= point["discount"])
    assert value(bound.name, point) <= value(bound.name, {**point, "discount": other}) * SLACK


@given(bounds_of_the_catalogue, discounts, lengths, st.floats(1e-3, 1e3))
def test_without_errors_every_bound_is_zero(bound: Bound, discount: float, length: int, reward: float) -> None:
    assert bound.evaluate(discount=discount, rollout_length=length, reward_max=reward) == 0


@given(bounds_of_the_catalogue, points)
def test_with_an_error_that_matters_no_bound_is_zero(bound: Bound, point: dict[str, Any]) -> None:
    assume(point["discount"] > 0.01 and point["model_error"] > 0)
    assert value(bound.name, point) > 0


@given(bounds_of_the_catalogue, points, st.floats(1e-6, 1e6))
def test_proportional_to_the_reward_scale(bound: Bound, point: dict[str, Any], reward: float) -> None:
    scaled = bound.evaluate(**point, reward_max=reward)
    assert scaled == pytest.approx(reward * value(bound.name, point), rel=1e-14)


@given(st.sampled_from(CLOSED_FORMS), points, st.floats(1e-3, 1))
def test_closed_forms_are_linear_in_the_errors(bound: Bound, point: dict[str, Any], share: float) -> None:
    shrunk = {
        **point,
        "model_error": share * point["model_error"],
        "policy_divergence": share * point["policy_divergence"],
    }
    assert value(bound.name, shrunk) == pytest.approx(share * value(bound.name, point), rel=1e-13, abs=1e-300)


@given(st.sampled_from(["optimal-full", "optimal-branched"]), points, st.floats(1e-3, 1))
def test_optimal_bounds_are_concave_in_the_model_error(name: str, point: dict[str, Any], share: float) -> None:
    """A sum of minima of 1 and a line in eps_m: a share of the error keeps at least that share of the increase."""
    perfect = value(name, {**point, "model_error": 0.0})
    chord = perfect + share * (value(name, point) - perfect)
    assert chord <= value(name, {**point, "model_error": share * point["model_error"]}) * SLACK


@given(points)
def test_theorem_1_is_mbpo_4_1(point: dict[str, Any]) -> None:
    assert value("m3po-th1", point) == pytest.approx(value("mbpo-4.1", point), rel=1e-14)


@given(points)
def test_the_crossover_separates_the_preferred_rollout_lengths(point: dict[str, Any]) -> None:
    """k <= k* iff C_Th2(k) <= C_Th1, decided in 50 digits; k* is at least 1."""
    assume(point["discount"] > 0)
    arguments = {name: point[name] for name in ("discount", "model_error", "policy_divergence")}
    crossover = float(crossover_rollout_length(**arguments))
    assert crossover >= 1 - 1e-9
    with mpmath.workdps(50):
        g, m, p = (mpmath.mpf(x) for x in arguments.values())
        margin = (g**2 + g ** (point["rollout_length"] + 1)) * m + (
            2 - 2 * g - g**2 + g ** (point["rollout_length"] + 1)
        ) * p
        # A margin this close to the crossover is not resolved by a float64 crossover.
        assume(abs(margin) > 1e-9 * (m + p) * g ** (point["rollout_length"] + 1))
        assert (point["rollout_length"] <= crossover) == (margin >= 0)


def test_the_crossover_of_the_documentation() -> None:
    crossover = crossover_rollout_length(discount=0.9, model_error=0.1, policy_divergence=[0.3, 0.0])
    assert crossover[0] == pytest.approx(11.9697, abs=5e-5)
    assert crossover[1] == np.inf


@given(bounds_of_the_catalogue, st.lists(points, min_size=1, max_size=6))
def test_arrays_equal_a_loop(bound: Bound, several: list[dict[str, Any]]) -> None:
    together = bound.evaluate(**{name: np.array([point[name] for point in several]) for name in several[0]})
    np.testing.assert_allclose(together, [bound.evaluate(**point) for point in several], rtol=1e-14, atol=0)
