"""Theorem 3 is attained at every parameter, Theorem 4 wherever its windows fit; the relation tested is equality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bounds
from bounds.finite import attaining_instance, finite_horizon_discrepancy, profile_attaining_instance
from bounds.finite.checks import attaining_error, check_attaining
from bounds.finite.instance import Rollout
from bounds.finite.random_instances import ROLLOUTS
from tests.strategies import discounts, errors, random_generator

# discount, k, eps_m, eps_pi, optimal-branched, optimal-full: the table of docs/theory.md for rewards in [-1, 1].
TABLE = [
    (0.95, 1, 0.1, 0.1, 29.152219504202, 33.694440952830),
    (0.95, 5, 0.1, 0.1, 31.652761276829, 33.694440952830),
    (0.9, 1, 0.2, 0.0, 3.6, 14.74236),
    (0.9, 10, 0.05, 0.02, 6.273443375473, 9.356868120240),
    (0.99, 1, 0.01, 0.01, 101.467537521858, 149.246072705275),
    (0.85, 50, 0.3, 0.7, 11.333333333, 11.333333333),
]


@given(discounts(), st.integers(1, 30), errors(), errors(), st.integers(1, 30))
@settings(max_examples=220, deadline=None)
def test_the_gap_of_the_attaining_instance_is_the_discrepancy(discount, k, model_error, divergence, horizon):
    instance = attaining_instance(model_error, divergence, horizon, reward_low=0.0, reward_high=2.0)
    for rollout in ROLLOUTS:
        length = None if rollout == "full" else k
        expected = finite_horizon_discrepancy(discount, length, model_error, divergence, horizon, 2.0, rollout)
        gap = -instance.return_gap(discount, rollout, k)
        assert gap == pytest.approx(expected, rel=1e-10, abs=0.0)


@given(st.floats(0, 0.6), st.integers(1, 30), errors(), errors())
@settings(max_examples=60, deadline=None)
def test_the_gap_is_the_optimal_bound_of_the_catalogue(discount, k, model_error, divergence):
    # 1 - divergence has lost that much where the divergence is nearly 1.
    lost = 2.0**-52 / (1 - divergence) if divergence < 1 else 0.0
    assert attaining_error(discount, k, model_error, divergence) <= 1e-10 + lost


@given(errors(), errors(), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_its_measured_errors_are_the_arguments(model_error, divergence, horizon):
    profiles = attaining_instance(model_error, divergence, horizon).profiles()
    assert profiles.model_error_max == pytest.approx(model_error, rel=1e-12, abs=1e-15)
    assert profiles.policy_divergence_sup == pytest.approx(divergence, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("discount", "k", "model_error", "divergence", "branched", "full"), TABLE)
def test_long_attaining_instances_reach_the_table_and_the_optimal_bounds(
    discount, k, model_error, divergence, branched, full
):
    horizon = min(500, int(np.log(1e-13 * (1 - discount)) / np.log(discount)))
    missing = 2 * discount ** (horizon + 1) / (1 - discount)  # every u(t, i) with t > T is at most 1
    instance = attaining_instance(model_error, divergence, horizon, reward_low=0.0, reward_high=2.0)
    cases: list[tuple[Rollout, float, str]] = [
        ("averaged", branched, "optimal-branched"),
        ("full", full, "optimal-full"),
    ]
    for rollout, expected, name in cases:
        gap = -instance.return_gap(discount, rollout, k)
        value = bounds.get(name).evaluate(
            discount=discount, model_error=model_error, policy_divergence=divergence, rollout_length=k
        )
        assert value == pytest.approx(expected, rel=1e-10)
        assert gap <= value * (1 + 1e-12)
        assert gap == pytest.approx(value, rel=0, abs=missing + 1e-10 * value)


def test_the_finite_sum_worked_out_by_hand():
    # u(1,1) = .5 + .25, u(2,1) = min(1, .75 + .25), u(2,2) = min(1, .75 + .375): eps_pi = .5, eps_m = .25.
    assert finite_horizon_discrepancy(0.5, 2, 0.25, 0.5, 2, 2.0) == pytest.approx(2 * (0.5 * 0.75 + 0.25 * 1.0))
    assert finite_horizon_discrepancy(0.5, None, 0.1, 0.0, 3, 1.0) == pytest.approx(
        0.5 * 0.1 + 0.25 * 0.2 + 0.125 * 0.3
    )
    assert finite_horizon_discrepancy(0.5, 2, 0.1, 0.0, 2, 1.0) == pytest.approx(0.5 * 0.1 + 0.25 * 0.15)
    assert finite_horizon_discrepancy(0.5, 2, 0.1, 0.0, 2, 1.0, "exact") == pytest.approx(0.5 * 0.1 + 0.25 * 0.2)


@given(random_generator(), st.integers(1, 15), st.integers(1, 8), discounts(), st.floats(0.1, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_certificate_is_attained_where_its_windows_fit(rng, horizon, k, discount, fill):
    d = rng.dirichlet(np.ones(horizon + 1)) * rng.uniform()
    m = rng.uniform(size=horizon)
    widest = max(m[t : t + k].sum() for t in range(horizon))
    m *= fill * (1.0 - d.sum()) / widest
    instance = profile_attaining_instance(m, d, reward_low=0.0, reward_high=2.0)
    profiles = instance.profiles()
    np.testing.assert_allclose(profiles.model_error, m, atol=1e-13)
    np.testing.assert_allclose(profiles.policy_divergence, d, atol=1e-13)
    value = bounds.certificate(m, d, discount=discount, reward_range=2.0, rollout_length=k, tail="absorbing").value
    assert -instance.return_gap(discount, "averaged", k) == pytest.approx(value, rel=1e-10, abs=1e-13)
    if m.sum() + d.sum() <= 1.0:
        value = bounds.certificate(m, d, discount=discount, reward_range=2.0, tail="absorbing").value
        assert -instance.return_gap(discount, "full") == pytest.approx(value, rel=1e-10, abs=1e-13)


def test_check_attaining_covers_many_parameters():
    assert check_attaining(40, seed=3) <= 1e-12


@pytest.mark.parametrize("name", ["optimal-full", "optimal-branched"])
def test_check_attaining_notices_an_optimal_bound_that_is_off(name):
    """It holds the catalogue against the measurement: nothing of the worst case is compared with itself."""
    true = bounds.get(name)
    off = replace(true, formula=lambda x: (1 + 1e-9) * true.formula(x))
    assert check_attaining(3, seed=3, bounds=[off if each is true else each for each in bounds.ALL_BOUNDS]) > 5e-10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 0.1, 3), r"model_error must be in \[0, 1\], got -0.1"),
        ((0.1, 1.1, 3), r"policy_divergence must be in \[0, 1\], got 1.1"),
        ((0.1, 0.1, 0), "horizon must be an integer >= 1, got 0"),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        attaining_instance(*arguments)


def test_profiles_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shapes \[T\] and \[T\+1\]"):
        profile_attaining_instance([0.1], [0.1])
    with pytest.raises(ValueError, match="sum d \\+ max m <= 1"):
        profile_attaining_instance([0.6], [0.3, 0.3])
    with pytest.raises(ValueError, match="parameters must be >= 1"):
        check_attaining(0)
