"""An episode's weighted sum of errors, whose mean bounds the discrepancy of Theorem 4 without its caps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bounds import linear_weights

Array = NDArray[np.float64]


def summed_errors(
    model_error: Array,
    policy_divergence: Array | None,
    reward_error: Array | None,
    *,
    discount: float,
    reward_range: float,
    rollout_length: int | None,
) -> tuple[Array, float]:
    """Each episode's weighted sum of errors, whose mean bounds the discrepancy, and the largest such sum there can be.

    Args:
        model_error, policy_divergence, reward_error: per-step samples [N, H] in [0, 1], [0, 1], [0, reward_range]; None
            for a divergence that is 0 (the data policy itself) and for a known reward.
        discount, reward_range, rollout_length: as ``bounds.certificate``.

    Returns:
        [N] sums, in units of return, and their least upper bound.
    """
    weights = linear_weights(
        model_error.shape[1],
        discount=discount,
        rollout_length=rollout_length,
        learned_reward=reward_error is not None,
    )
    sums, largest = model_error @ weights.model_error, weights.model_error.sum()
    if policy_divergence is not None:
        sums, largest = sums + policy_divergence @ weights.policy_divergence, largest + weights.policy_divergence.sum()
    sums, largest = reward_range * sums, reward_range * largest
    if reward_error is not None:
        sums, largest = sums + reward_error @ weights.reward_error, largest + reward_range * weights.reward_error.sum()
    return sums, float(largest)
