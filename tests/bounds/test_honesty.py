"""The e-test keeps its level, and sees what cannot be honest."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bounds.honesty import SHARES, honesty


def test_the_capital_is_a_martingale_for_every_share() -> None:
    """Summed over every path of three steps with two outcomes: E[capital] = 1 where q is covered by p."""
    p, q = np.array([0.7, 0.3]), np.array([0.2, 0.8])
    total = np.zeros(len(SHARES))
    for path in product((0, 1), repeat=3):
        capital = np.prod([1 - np.array(SHARES) + np.array(SHARES) * q[x] / p[x] for x in path], axis=0)
        total += np.prod(p[list(path)]) * capital
        found = honesty([np.log(p[list(path)])], [np.log(q[list(path)])])
        assert found.log_capital >= np.log(capital.mean()) - 1e-12
    np.testing.assert_allclose(total, 1)


def test_honest_outcomes_are_refuted_no_more_often_than_the_level_says() -> None:
    rng = np.random.default_rng(0)
    refuted = 0
    for shift in (0.02, 0.1, 0.3, 1.0):
        for _ in range(500):
            x = rng.standard_normal((20, 10))
            refuted += honesty(-(x**2) / 2, -((x - shift) ** 2) / 2, level=0.05).refuted
    assert 0 < refuted <= stats.binom.isf(1e-3, 2000, 0.05)


@pytest.mark.parametrize(("shift", "constant"), [(0.0, 0.01), (0.3, 0.03), (1.0, 0.1), (1.5, 0.25), (3.0, 5.0)])
def test_a_constant_far_below_the_models_own_divergence_is_seen(shift: float, constant: float) -> None:
    """With 8,000 steps; products of the ratios alone see a constant only beyond the divergence, shift^2/2."""
    x = np.random.default_rng(1).standard_normal((400, 20))
    log_p, log_q = -(x**2) / 2, -((x - shift) ** 2) / 2
    assert not honesty(log_p, log_q).refuted
    assert honesty(log_p - constant, log_q).refuted
    assert not honesty(log_p + constant, log_q).refuted


def test_outcomes_that_the_other_density_excludes_cost_only_the_reckless_player() -> None:
    log_p, log_q = np.full((40, 50), np.log(0.5)), np.full((40, 50), np.log(0.9))
    log_q[:, 0] = -np.inf
    assert honesty(log_p, log_q).refuted


def test_nothing_is_multiplied_after_the_end_of_an_episode() -> None:
    rng = np.random.default_rng(2)
    valid = np.arange(10) < rng.integers(1, 11, (30, 1))
    log_p, log_q = rng.normal(size=(2, 30, 10))
    found = honesty(np.where(valid, log_p, np.nan), np.where(valid, log_q, 1e9), valid)
    joined = honesty(log_p[valid][None], log_q[valid][None])
    assert found == joined
    assert found.steps == valid.sum()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"log_density": np.zeros(3)}, "equal shapes"),
        ({"log_density": np.full((2, 3), -np.inf)}, "log_density must be finite where something happened, got -inf"),
        ({"log_other_density": np.full((2, 3), np.nan)}, "log_other_density must be finite"),
        ({"level": 1.0}, "level must be in (0, 1), got 1.0"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as caught:
        honesty(**{"log_density": np.zeros((2, 3)), "log_other_density": np.zeros((2, 3)), **changes})
    assert named in str(caught.value)
