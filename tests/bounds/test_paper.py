"""Theorems 1 and 2: derived from their per-step sums, equal to Table 1 as printed, within 1e-12 of many digits."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy

from bounds import get
from bounds.paper import THEOREM_2, THEOREM_2_AS_PRINTED, crossover_rollout_length
from bounds.symbols import eps_m, eps_pi, gamma, k, r_max

DISCOUNTS = (0.0, 1e-3, 0.5, 0.85, 0.9, 0.99, 0.9999, 1 - 1e-6, 1 - 1e-9)
LENGTHS = (1, 2, 10, 1000, 10**6)
ERRORS = (0.0, 1e-9, 0.01, 0.3, 1.0)


def table_1_theorem_1(g: Any, m: Any, p: Any, r: Any) -> Any:
    return r * (2 * g * (m + 2 * p) / (1 - g) ** 2 + 4 * p / (1 - g))


def table_1_theorem_2(g: Any, m: Any, p: Any, r: Any, n: int) -> Any:
    return r * (
        (1 + g**2) / (1 - g) ** 2 * 2 * p
        + (g - n * g**n + (n - 1) * g ** (n + 1)) / (1 - g) ** 2 * (p + m)
        + (g**n - g) / (g - 1) * (p + m)
        + g**n / (1 - g) * (n + 1) * (p + m)
    )


def relative_error(value: float, reference: Any) -> float:
    if reference == 0:
        return 0.0 if value == 0 else float("inf")
    return float(abs(mpmath.mpf(float(value)) - reference) / reference)


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_equal_to_table_1_in_many_digits(discount: float) -> None:
    for length, model_error, divergence in itertools.product(LENGTHS, ERRORS, ERRORS):
        arguments: dict[str, Any] = {
            "discount": discount,
            "model_error": model_error,
            "policy_divergence": divergence,
            "reward_max": 2.5,
        }
        with mpmath.workdps(80):
            g, m, p, r = (mpmath.mpf(x) for x in (discount, model_error, divergence, 2.5))
            assert relative_error(get("m3po-th1").evaluate(**arguments), table_1_theorem_1(g, m, p, r)) <= 1e-12
            second = get("m3po-th2").evaluate(**arguments, rollout_length=length)
            assert relative_error(second, table_1_theorem_2(g, m, p, r, length)) <= 1e-12


def test_the_expression_is_table_1_for_symbolic_parameters() -> None:
    assert sympy.simplify(THEOREM_2.expression - THEOREM_2_AS_PRINTED) == 0
    assert get("m3po-th1").expression.equals(table_1_theorem_1(gamma, eps_m, eps_pi, r_max))
    printed = table_1_theorem_2(gamma, eps_m, eps_pi, r_max, k)
    assert sympy.simplify(THEOREM_2_AS_PRINTED - printed) == 0


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_derived_from_the_per_step_sums(length: int) -> None:
    """Theorem 1: r_max sum_t gamma^t {2t (eps_m + 2 eps_pi) + 4 eps_pi}, the return gap of two comparisons.

    Theorem 2: r_max {2 eps_pi + sum_{t>=1} gamma^t {4t eps_pi + (min(t,k)+1)(eps_pi+eps_m)}}, where min(t,k)+1 is the
    average of 2i over i = 1..min(t,k).
    """
    with mpmath.workdps(40):
        g, m, p, r = (mpmath.mpf(x) for x in (0.75, 0.125, 0.0625, 3.0))
        first = r * mpmath.fsum(g**t * (2 * t * (m + 2 * p) + 4 * p) for t in range(500))
        second = r * (
            2 * p
            + mpmath.fsum(
                g**t * (4 * t * p + mpmath.fsum(2 * i for i in range(1, min(t, length) + 1)) / min(t, length) * (p + m))
                for t in range(1, 500)
            )
        )
    arguments: dict[str, Any] = {"discount": 0.75, "model_error": 0.125, "policy_divergence": 0.0625, "reward_max": 3.0}
    assert get("m3po-th1").evaluate(**arguments) == pytest.approx(float(first), rel=1e-14)
    assert get("m3po-th2").evaluate(**arguments, rollout_length=length) == pytest.approx(float(second), rel=1e-14)


def test_limits() -> None:
    """gamma = 0 leaves the first action; k -> infinity leaves f(k) -> gamma (2 - gamma)/(1 - gamma)^2."""
    assert get("m3po-th1").evaluate(discount=0.0, model_error=1.0, policy_divergence=0.25, reward_max=3.0) == 3.0
    assert get("m3po-th2").evaluate(discount=0.0, model_error=1.0, policy_divergence=0.25, reward_max=3.0) == 1.5
    longest = get("m3po-th2").evaluate(discount=0.9, model_error=0.1, rollout_length=2**53)
    assert longest == pytest.approx(0.1 * 0.9 * 1.1 / 0.01, rel=1e-14)


def test_crossover_in_many_digits_and_at_the_edges() -> None:
    for discount, model_error, divergence in itertools.product((0.8, 0.9, 0.99, 1 - 1e-6), (1e-3, 0.1), (0.5, 1.0)):
        with mpmath.workdps(60):
            g, m, p = (mpmath.mpf(x) for x in (discount, model_error, divergence))
            rest = (g**2 + 2 * g - 2) * p - g**2 * m
            expected = mpmath.log(rest / (m + p)) / mpmath.log(g) - 1 if rest > 0 else mpmath.inf
        value = crossover_rollout_length(discount=discount, model_error=model_error, policy_divergence=divergence)
        assert float(value) == pytest.approx(float(expected), rel=1e-10)
    assert np.isinf(crossover_rollout_length(discount=0.0, model_error=0.5, policy_divergence=0.5))
    assert np.isinf(crossover_rollout_length(discount=0.9, model_error=0.0, policy_divergence=0.0))
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\), got 1.5"):
        crossover_rollout_length(discount=1.5, model_error=0.1, policy_divergence=0.1)


def test_the_crossover_is_where_the_two_theorems_meet() -> None:
    """Real k inserted in the printed formula gives Theorem 1's value."""
    crossover = float(crossover_rollout_length(discount=0.9, model_error=0.1, policy_divergence=0.3))
    second = THEOREM_2_AS_PRINTED.subs({gamma: 0.9, eps_m: 0.1, eps_pi: 0.3, r_max: 1}).subs(k, crossover)
    assert float(second) == pytest.approx(
        float(get("m3po-th1").evaluate(discount=0.9, model_error=0.1, policy_divergence=0.3)), rel=1e-12
    )
