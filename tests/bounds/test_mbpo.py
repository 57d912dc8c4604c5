"""MBPO 4.1-4.3: derived from the per-step sums of their proofs, within 1e-12 of many digits, limits."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import pytest

from bounds import get

DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6, 1 - 1e-9)
LENGTHS = (1, 2, 10, 1000, 10**6)
ERRORS = (0.0, 1e-9, 0.01, 0.3, 1.0)


def printed(name: str, g: Any, m: Any, p: Any, r: Any, n: int) -> Any:
    if name == "mbpo-4.1":
        return 2 * g * r * (m + 2 * p) / (1 - g) ** 2 + 4 * r * p / (1 - g)
    if name == "mbpo-4.2":
        return 2 * r * (g ** (n + 1) * p / (1 - g) ** 2 + (g**n + 2) * p / (1 - g) + n * (m + 2 * p) / (1 - g))
    return 2 * r * (g ** (n + 1) * p / (1 - g) ** 2 + g**n * p / (1 - g) + n * m / (1 - g))


@pytest.mark.parametrize("name", ["mbpo-4.1", "mbpo-4.2", "mbpo-4.3"])
def test_equal_to_the_printed_formula_in_many_digits(name: str) -> None:
    for discount, length, model_error, divergence in itertools.product(DISCOUNTS, LENGTHS, ERRORS, ERRORS):
        value = get(name).evaluate(
            discount=discount,
            model_error=model_error,
            policy_divergence=divergence,
            rollout_length=length,
            reward_max=2.5,
        )
        with mpmath.workdps(80):
            g, m, p, r = (mpmath.mpf(x) for x in (discount, model_error, divergence, 2.5))
            reference = printed(name, g, m, p, r, length)
            # gamma^k below the smallest float64 is 0
            assert abs(mpmath.mpf(float(value)) - reference) <= max(1e-12 * reference, mpmath.mpf(10) ** -300)


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_derived_from_the_per_step_sums(length: int) -> None:
    """Twice r_max times the discounted sum of a TV per step.

    4.1: two comparisons, t (eps_m + eps_pi) + eps_pi and t eps_pi + eps_pi.
    4.2: at most k steps of model and policy error since the branch and a last action, in two comparisons, plus, from
    t = k on, t - k + 1 actions of the data policy before the branch. 4.3: model error only since the branch.
    The sources count k steps also at t < k: that is their loosening of sum_t gamma^t min(t, k) to k/(1-gamma).
    """
    with mpmath.workdps(40):
        g, m, p, r = (mpmath.mpf(x) for x in (0.75, 0.125, 0.0625, 3.0))
        steps = range(500)
        before = [max(t - length + 1, 0) * p for t in steps]
        per_step: dict[str, list[Any]] = {
            "mbpo-4.1": [t * (m + p) + p + t * p + p for t in steps],
            "mbpo-4.2": [length * (m + p) + p + length * p + p + before[t] for t in steps],
            "mbpo-4.3": [length * m + before[t] for t in steps],
        }
        expected = {name: 2 * r * mpmath.fsum(g**t * s[t] for t in steps) for name, s in per_step.items()}
    for name, reference in expected.items():
        value = get(name).evaluate(
            discount=0.75, model_error=0.125, policy_divergence=0.0625, reward_max=3.0, rollout_length=length
        )
        assert value == pytest.approx(float(reference), rel=1e-14)


def test_limits() -> None:
    """gamma = 0; a perfect model and an unchanged policy; long branches forget the policy part of 4.3."""
    assert get("mbpo-4.1").evaluate(discount=0.0, model_error=1.0, policy_divergence=0.25) == 1.0
    assert get("mbpo-4.2").evaluate(discount=0.0, model_error=0.5, policy_divergence=0.25, rollout_length=3) == 7.0
    assert get("mbpo-4.3").evaluate(discount=0.0, model_error=0.5, policy_divergence=0.25, rollout_length=3) == 3.0
    assert get("mbpo-4.3").evaluate(discount=0.5, policy_divergence=1.0, rollout_length=2000) == 0.0
    shorter, longer = get("mbpo-4.3").evaluate(discount=0.9, policy_divergence=0.3, rollout_length=[1, 2])
    assert longer < shorter
