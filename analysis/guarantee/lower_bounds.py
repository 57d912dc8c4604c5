"""Two ways from evidence to a lower bound by Theorem 4: weighted sums per episode, and profiles over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.guarantee.evidence import Evidence
from analysis.guarantee.summed_errors import summed_errors
from bounds import Certificate, certificate
from bounds.confidence import Interval, betting, simultaneous
from bounds.divergence import one_sample_tv

Array = NDArray[np.float64]

# A lower bound that keeps less than this share of the range of returns guarantees nothing worth the name.
LEAST_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Samples:
    """Per-step samples in their ranges, whose means over episodes are the profiles of Theorem 4. Each [N, H]."""

    model_error: Array
    policy_divergence: Array
    reward_error: Array | None

    @staticmethod
    def of(evidence: Evidence) -> Samples:
        """Z = max(0, 1 - q/p) of model and policy, and |r - r_theta|; zero after an episode's end.

        Raises:
            ValueError: when a log density of the data is -inf or NaN where something happened.
        """
        assert evidence.log_density is not None
        assert evidence.log_model_density is not None
        mask = evidence.happened

        def total_variation(log_p: Array, log_q: Array) -> Array:
            return np.where(mask, one_sample_tv(np.where(mask, log_p, 0.0), np.where(mask, log_q, 0.0)), 0.0)

        divergence = np.zeros(mask.shape)
        if evidence.log_data_policy is not None and evidence.log_policy is not None:
            divergence = total_variation(evidence.log_data_policy, evidence.log_policy)
        reward_error = None
        if evidence.rewards is not None and evidence.predicted_rewards is not None:
            reward_error = np.where(mask, np.abs(evidence.rewards - evidence.predicted_rewards), 0.0)
        return Samples(total_variation(evidence.log_density, evidence.log_model_density), divergence, reward_error)


def summed_discrepancies(evidence: Evidence, samples: Samples) -> tuple[Array, float]:
    """``summed_errors`` of the evidence."""
    return summed_errors(
        samples.model_error,
        None if evidence.log_policy is None else samples.policy_divergence,
        samples.reward_error,
        discount=evidence.discount,
        reward_range=evidence.reward_high - evidence.reward_low,
        rollout_length=evidence.model_steps,
    )


def returns_lower(evidence: Evidence, returns: Array, confidence: float) -> float:
    """A lower confidence bound of the mean of discounted returns over H steps."""
    return float(_returns_interval(evidence, returns, confidence, "lower").lower)


def _returns_interval(
    evidence: Evidence, returns: Array, confidence: float, sides: Literal["two", "lower", "upper"]
) -> Interval:
    low, high = (bound * evidence.horizon_weight for bound in (evidence.reward_low, evidence.reward_high))
    return betting(np.clip(returns, low, high), confidence, sides=sides, low=low, high=high)


def lower_bound_by_sums(evidence: Evidence, samples: Samples, confidence: float) -> float:
    """J over H steps >= mean of (model return - weighted errors), by one interval where returns pair with episodes.

    Without pairing: two intervals, each with half of the error probability.
    """
    sums, largest = summed_discrepancies(evidence, samples)
    returns = evidence.model_returns
    if len(returns) == len(sums):
        low, high = (bound * evidence.horizon_weight for bound in (evidence.reward_low, evidence.reward_high))
        differences = np.clip(returns, low, high) - sums
        return float(betting(differences, confidence, sides="lower", low=low - largest, high=high).lower)
    half = 1 - (1 - confidence) / 2
    error = float(betting(sums, half, sides="upper", high=largest).upper) if largest > 0 else 0.0
    return returns_lower(evidence, returns, half) - error


def lower_bound_by_profiles(evidence: Evidence, samples: Samples, confidence: float) -> float:
    """J over H steps >= model return - certificate at the profiles' upper ends, which knows the caps of Theorem 4.

    The error probability is shared equally by the model return and each profile that was measured.
    """
    span = evidence.reward_high - evidence.reward_low
    measured = 2 + (evidence.log_policy is not None) + (samples.reward_error is not None)
    each = 1 - (1 - confidence) / measured
    found = certificate_of(
        evidence,
        simultaneous(betting, samples.model_error, each, "upper").upper,
        simultaneous(betting, samples.policy_divergence, each, "upper").upper
        if evidence.log_policy is not None
        else np.zeros(evidence.horizon),
        None
        if samples.reward_error is None
        else simultaneous(betting, samples.reward_error, each, "upper", high=span).upper,
    )
    return returns_lower(evidence, evidence.model_returns, each) - found.value


SUMS, PROFILES = "sums per episode", "profiles over time"

METHODS = {SUMS: lower_bound_by_sums, PROFILES: lower_bound_by_profiles}


def best_lower_bound(
    evidence: Evidence, samples: Samples, confidence: float, methods: Sequence[str] = (SUMS, PROFILES)
) -> tuple[str, float]:
    """The method that gives the larger lower bound of J over H steps, and that; both hold together."""
    half = 1 - (1 - confidence) / 2
    bounds = {name: METHODS[name](evidence, samples, half) for name in methods}
    method = max(bounds, key=lambda name: bounds[name])
    return method, bounds[method]


def certificate_of(
    evidence: Evidence, model_error: ArrayLike, policy_divergence: ArrayLike, reward_error: ArrayLike | None
) -> Certificate:
    """Theorem 4 over the H steps of the evidence."""
    return certificate(
        model_error,
        policy_divergence,
        discount=evidence.discount,
        reward_range=evidence.reward_high - evidence.reward_low,
        rollout_length=evidence.model_steps,
        reward_error_profile=reward_error,
        tail="absorbing",
    )


def estimated_parts(evidence: Evidence, samples: Samples) -> dict[str, float]:
    """Policy, model and reward part of Theorem 4 at the means of the samples, in units of return."""
    found = certificate_of(
        evidence,
        samples.model_error.mean(axis=0),
        samples.policy_divergence.mean(axis=0),
        None if samples.reward_error is None else samples.reward_error.mean(axis=0),
    )
    return {"policy": found.policy_part, "model": found.model_part, "reward": found.reward_part}
