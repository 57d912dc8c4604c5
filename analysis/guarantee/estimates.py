"""Error profiles and returns of one data policy's episodes, with the confidence that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.guarantee.evidence import CAUSES, HONESTY_LEVEL, refuse_dishonest
from analysis.guarantee.returns import model_return_samples
from analysis.guarantee.summed_errors import summed_errors
from bounds.confidence import Interval, betting
from bounds.honesty import honesty
from m3po.agents.m3po import M3PO
from m3po.envs.protocol import CertifiableDynamics, FilteredDynamics
from m3po.episodes import Trajectories
from m3po.errors import (
    Array,
    EncodedTrajectories,
    action_log_density,
    history_log_density,
    model_error_samples,
    model_log_density,
    policy_divergence_samples,
    profile,
    reward_error_samples,
    task_log_density,
)
from m3po.networks.policy import HistoryPolicy

SCHEMES = ("branched", "branched-exact", "full")

# What a confidence level is shared between: the true return, three error profiles, the weighted sums of errors for
# branched and full rollouts, and the model return of every scheme with the learned and with the known reward.
STATEMENTS = 6 + 2 * len(SCHEMES)


@dataclass(frozen=True)
class Estimates:
    """What one data policy's episodes say about the triple (data policy, policy, model).

    ``summed`` bounds the certificate of branched and of full rollouts without its caps from above: the mean over
    episodes of a weighted sum of errors needs one interval, where a profile needs one at every time.
    """

    model_error: Interval
    policy_divergence: Interval
    policy_divergence_sample_max: float
    reward_error: Interval
    model_returns: dict[tuple[str, bool], Interval]
    summed: dict[str, float]


def measure(
    training: M3PO,
    data_policy: HistoryPolicy,
    trajectories: Trajectories,
    dynamics: CertifiableDynamics,
    confidence: float,
    generator: torch.Generator,
    length: int,
) -> Estimates:
    """Error profiles [H] and model returns (branched ones with k = ``length``), each with confidence
    1 - (1 - confidence)/STATEMENTS.

    Raises:
        ValueError: when the densities cannot be what they claim to be at what happened (``bounds.honesty``).
    """
    each = 1 - (1 - confidence) / STATEMENTS
    model, config = training.model, training.config
    data = EncodedTrajectories.of(trajectories, config.history_length, training.device)
    low, high = dynamics.reward_low, dynamics.reward_high
    log_density = (
        history_log_density(dynamics, trajectories)
        if isinstance(dynamics, FilteredDynamics)
        else task_log_density(dynamics, trajectories)
    )
    log_model_density = model_log_density(model, data)
    claims = {"log_model_density": (log_density, log_model_density)}
    if data_policy is not training.policy:
        claims["log_policy"] = (action_log_density(data_policy, data), action_log_density(training.policy, data))
    level = HONESTY_LEVEL / len(CAUSES)
    refuse_dishonest({name: honesty(*pair, trajectories.valid, level=level) for name, pair in claims.items()})
    errors = model_error_samples(log_density, log_model_density, trajectories.valid)
    divergence, sample_max = policy_divergence_samples(data_policy, training.policy, data, generator)
    reward_errors = reward_error_samples(model, data, low, high)
    returns: dict[tuple[str, bool], Interval] = {}
    for scheme in SCHEMES:
        if scheme == "branched-exact" and length == 1:  # one model step at every t: the same return
            returns |= {(scheme, paid): value for (other, paid), value in returns.items() if other == "branched"}
            continue
        samples = model_return_samples(
            model,
            training.policy,
            data,
            discount=config.discount,
            rollout_length=None if scheme == "full" else length,
            scheme="exact" if scheme == "branched-exact" else "averaged",
            dynamics=dynamics,
            generator=generator,
            terminated=training.terminated,
        )
        for learned, values in ((True, samples.learned_reward), (False, samples.known_reward)):
            if values is not None:
                returns[scheme, learned] = return_interval(values, dynamics, config.discount, training.horizon, each)
    certain_zero = data_policy is training.policy
    reward_errors = np.minimum(reward_errors, high - low)
    summed: dict[str, float] = {}
    for scheme, steps in (("branched", length), ("full", None)):
        sums, most = summed_errors(
            errors,
            None if certain_zero else divergence,
            reward_errors,
            discount=config.discount,
            reward_range=high - low,
            rollout_length=steps,
        )
        summed[scheme] = float(betting(sums, each, sides="upper", high=most).upper)
    nothing = np.zeros(training.horizon)
    return Estimates(
        model_error=profile(errors, each),
        policy_divergence=Interval(nothing, nothing, nothing, 1.0, len(errors))
        if certain_zero
        else profile(divergence, each),
        policy_divergence_sample_max=sample_max,
        reward_error=profile(reward_errors, each, high=high - low),
        model_returns=returns,
        summed=summed,
    )


def return_interval(
    samples: Array, dynamics: CertifiableDynamics, discount: float, horizon: int, confidence: float
) -> Interval:
    """Betting interval for a mean discounted return, which lies in [r_lo, r_hi] * (1 - gamma^H)/(1 - gamma)."""
    weight = (1 - discount**horizon) / (1 - discount)
    low, high = dynamics.reward_low * weight, dynamics.reward_high * weight
    rounding = 1e-6 * (high - low)
    return betting(samples, confidence, low=low - rounding, high=high + rounding)


def trivial_gap(dynamics: CertifiableDynamics, discount: float, horizon: int, *, learned_reward: bool) -> float:
    """The largest gap that any model at all can have: R sum_t gamma^t over t < H.

    With the known reward the sum starts at t = 1, since the first reward is the same in model and reality.
    """
    first = 0 if learned_reward else 1
    reward_range = dynamics.reward_high - dynamics.reward_low
    return reward_range * (discount**first - discount**horizon) / (1 - discount)
