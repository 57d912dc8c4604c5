"""From evidence to lower bounds that go through a model: Theorem 5 per episode, and Theorem 4's profiles over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.guarantee.evidence import Evidence
from analysis.guarantee.summed_errors import summed_errors
from bounds import Certificate, LowerBound, OverlapLosses, certificate, model_lower_bound, overlap_losses
from bounds.confidence import Interval, betting, simultaneous
from bounds.divergence import one_sample_tv

Array = NDArray[np.float64]


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


def losses_of(evidence: Evidence, *, only: str | None = None) -> OverlapLosses:
    """Theorem 5's losses in the form "overlap", one per episode.

    Args:
        only: "policy", "model" or "reward": as if the others were perfect.
    """
    assert evidence.log_density is not None
    assert evidence.log_model_density is not None
    model_density = evidence.log_model_density if only in (None, "model") else evidence.log_density
    policies = (evidence.log_data_policy, evidence.log_policy) if only in (None, "policy") else (None, None)
    rewards = (evidence.rewards, evidence.predicted_rewards)
    return overlap_losses(
        evidence.log_density, model_density, *policies, discount=evidence.discount,
        rollout_length=evidence.model_steps, rewards=rewards[0] if rewards[1] is not None else None,
        predicted_rewards=rewards[0] if only in ("policy", "model") and rewards[1] is not None else rewards[1],
        reward_range=evidence.reward_high - evidence.reward_low, valid=evidence.valid,
    )  # fmt: skip


def lower_bound_by_overlap(evidence: Evidence, losses: OverlapLosses, confidence: float) -> LowerBound:
    """Theorem 5: J over H steps >= mean of (model return - overlap loss), one interval where both pair.

    Without pairing: two intervals, each with half of the error probability.
    """
    assert evidence.model_returns is not None
    return model_lower_bound(
        losses, evidence.model_returns, reward_low=evidence.reward_low, reward_high=evidence.reward_high,
        confidence=confidence, tail="absorbing",
    )  # fmt: skip


def lower_bound_by_profiles(evidence: Evidence, samples: Samples, confidence: float) -> LowerBound:
    """Theorem 4: J over H steps >= model return - certificate at the profiles' upper ends, caps included.

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
    assert evidence.model_returns is not None
    value = returns_lower(evidence, evidence.model_returns, each) - found.value
    estimate = float(evidence.model_returns.mean()) - sum(estimated_parts(evidence, samples).values())
    return LowerBound("theorem-4", value, estimate, confidence)


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
