"""Error profiles and returns of one data policy's episodes, with the confidence that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analysis.diagnostics.intervals import Ends
from analysis.guarantee.evidence import CAUSES, HONESTY_LEVEL, refuse_dishonest
from analysis.guarantee.returns import model_return_samples
from analysis.guarantee.subject import ReturnRange, Subject
from analysis.guarantee.summed_errors import summed_errors
from bounds.confidence import Interval, betting
from bounds.honesty import honesty
from m3po.envs.protocol import FilteredDynamics
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

SCHEMES = ("branched", "branched-exact", "full")

# What a confidence level is shared between: the true return, three error profiles, the weighted sums of errors for
# branched and full rollouts, and the model return of every scheme with the learned and with the known reward.
STATEMENTS = 6 + 2 * len(SCHEMES)


@dataclass(frozen=True)
class Estimates:
    """What one data policy's episodes say about the triple (data policy, policy, model).

    ``summed`` bounds the certificate of branched and of full rollouts without its caps from above: the mean over
    episodes of a weighted sum of errors needs one interval, where a profile needs one at every time.
    ``model_returns`` are by scheme, and by whether the model's own reward pays.
    """

    model_error: Interval
    policy_divergence: Interval
    policy_divergence_sample_max: float
    reward_error: Interval
    model_returns: dict[tuple[str, bool], Interval]
    summed: dict[str, float]

    @property
    def promise(self) -> Interval:
        """The return that the model promises, and the certificate speaks of: branched, paid by the model's reward."""
        return self.model_returns["branched", True]

    @property
    def named_returns(self) -> dict[str, Interval]:
        """The model returns by scheme, which says so where the model's own reward pays."""
        return {
            scheme + (" (learned reward)" if learned else ""): interval
            for (scheme, learned), interval in self.model_returns.items()
        }

    @property
    def largest_model_error(self) -> Ends:
        """eps_m: the largest model error at any time; no transition after the last reward is ever paid for."""
        return Ends(
            *(float(np.max(getattr(self.model_error, end)[:-1], initial=0.0)) for end in ("estimate", "lower", "upper"))
        )


def measure(subject: Subject, trajectories: Trajectories, confidence: float, generator: torch.Generator) -> Estimates:
    """Error profiles [H] and model returns, each with confidence 1 - (1 - confidence)/STATEMENTS.

    Args:
        subject: with a known one-step density.
        trajectories: fresh episodes of its data policy.
        confidence: of everything together.
        generator: of all rollouts in the model.

    Raises:
        ValueError: when the one-step density is not known, or the densities cannot be what they claim to be at what
            happened (``bounds.honesty``).
    """
    each = 1 - (1 - confidence) / STATEMENTS
    model, policy, data_policy, dynamics = subject.model, subject.policy, subject.data_policy, subject.density
    data = EncodedTrajectories.of(trajectories, model.encoder.history_length, policy.device)
    low, high = subject.reward_low, subject.reward_high
    log_density = (
        history_log_density(dynamics, trajectories)
        if isinstance(dynamics, FilteredDynamics)
        else task_log_density(dynamics, trajectories)
    )
    log_model_density = model_log_density(model, data)
    claims = {"log_model_density": (log_density, log_model_density)}
    if data_policy is not None:
        claims["log_policy"] = (action_log_density(data_policy, data), action_log_density(policy, data))
    level = HONESTY_LEVEL / len(CAUSES)
    refuse_dishonest({name: honesty(*pair, trajectories.valid, level=level) for name, pair in claims.items()})
    errors = model_error_samples(log_density, log_model_density, trajectories.valid)
    divergence, sample_max = policy_divergence_samples(data_policy, policy, data, generator)
    reward_errors = reward_error_samples(model, data, low, high)
    returns: dict[tuple[str, bool], Interval] = {}
    for scheme in SCHEMES:
        if scheme == "branched-exact" and subject.rollout_length == 1:  # one model step at every t: the same return
            returns |= {(scheme, paid): value for (other, paid), value in returns.items() if other == "branched"}
            continue
        samples = model_return_samples(
            model,
            policy,
            data,
            discount=subject.discount,
            rollout_length=None if scheme == "full" else subject.rollout_length,
            scheme="exact" if scheme == "branched-exact" else "averaged",
            dynamics=dynamics,
            generator=generator,
            terminated=subject.terminated,
        )
        for learned, values in ((True, samples.learned_reward), (False, samples.known_reward)):
            if values is not None:
                returns[scheme, learned] = return_interval(values, subject.returns, each)
    reward_errors = np.minimum(reward_errors, high - low)
    summed: dict[str, float] = {}
    for scheme, steps in (("branched", subject.rollout_length), ("full", None)):
        sums, most = summed_errors(
            errors,
            None if data_policy is None else divergence,
            reward_errors,
            discount=subject.discount,
            reward_range=high - low,
            rollout_length=steps,
        )
        summed[scheme] = float(betting(sums, each, sides="upper", high=most).upper)
    nothing = np.zeros(subject.horizon)
    return Estimates(
        model_error=profile(errors, each),
        policy_divergence=Interval(nothing, nothing, nothing, 1.0, len(errors))
        if data_policy is None
        else profile(divergence, each),
        policy_divergence_sample_max=sample_max,
        reward_error=profile(reward_errors, each, high=high - low),
        model_returns=returns,
        summed=summed,
    )


def return_interval(samples: Array, returns: ReturnRange, confidence: float) -> Interval:
    """Betting interval for a mean discounted return, which lies in ``returns``."""
    rounding = 1e-6 * (returns.highest - returns.lowest)
    return betting(samples, confidence, low=returns.lowest - rounding, high=returns.highest + rounding)
