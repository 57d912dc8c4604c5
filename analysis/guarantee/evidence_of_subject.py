"""The evidence that fresh episodes of a subject's data policy are, as a user of ``analysis.certify`` would give it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.guarantee.evidence import Evidence
from analysis.guarantee.model_critic import ModelCritic
from analysis.guarantee.returns import model_return_samples
from analysis.guarantee.subject import Subject
from m3po.envs.protocol import FilteredDynamics
from m3po.errors import (
    EncodedTrajectories,
    action_log_density,
    history_log_density,
    model_log_density,
    predicted_rewards,
    task_log_density,
)
from m3po.networks.policy import draw_action, gaussian_log_density

Array = NDArray[np.float64]

# Draws of the policy at every history, for the critic's mean.
DRAWS = 6


def evidence_of(
    subject: Subject, data: EncodedTrajectories, critic: ModelCritic, generator: torch.Generator
) -> Evidence:
    """Rewards, all log densities, branched returns in the model paid by its learned reward, and the critic.

    Args:
        subject: what is certified, with a known one-step density.
        data: fresh episodes of its data policy, of its own policy where it names none.
        critic: fitted on other episodes.
        generator: of the rollouts in the model and of the draws for the critic.

    Raises:
        ValueError: when the one-step density is not known.
    """
    model, policy, dynamics, trajectories = subject.model, subject.policy, subject.density, data.trajectories
    returns = model_return_samples(
        model, policy, data, discount=subject.discount, rollout_length=subject.rollout_length, dynamics=dynamics,
        generator=generator, terminated=subject.terminated,
    )  # fmt: skip
    log_density = (history_log_density if isinstance(dynamics, FilteredDynamics) else task_log_density)(
        dynamics,  # type: ignore[arg-type]
        trajectories,
    )
    low, high = subject.reward_low, subject.reward_high
    predicted = np.clip(predicted_rewards(model, data, low, high), low, high)  # rounding to float32 only
    own = None if subject.data_policy is None else action_log_density(policy, data)
    theirs = None if subject.data_policy is None else action_log_density(subject.data_policy, data)
    return Evidence(
        log_density=log_density, log_model_density=model_log_density(model, data),
        model_returns=returns.learned_reward, rollout_length=subject.rollout_length,
        log_policy=own, log_data_policy=theirs,
        rewards=trajectories.rewards,
        predicted_rewards=predicted,
        critic=critic.values(data.features(model.encoder), data.actions),
        **_draws(subject, data, critic, generator),
        valid=trajectories.valid, absorbing=True, reward_low=low, reward_high=high,
        discount=subject.discount, policy_dependence="independent", model_dependence="independent",
        critic_dependence="independent",
    )  # fmt: skip


@torch.no_grad()
def _draws(
    subject: Subject, data: EncodedTrajectories, critic: ModelCritic, generator: torch.Generator
) -> dict[str, Any]:
    """The critic at fresh actions of the policy; where another policy acted, both log densities there. [N, H, D]."""
    policy, theirs = subject.policy, subject.data_policy
    mean, log_std = policy.network(data.features(policy.encoder))
    found: dict[str, list[Array]] = {"critic_draws": [], "log_policy_draws": [], "log_data_policy_draws": []}
    for _ in range(DRAWS):
        action, raw = draw_action(mean, log_std, generator)
        found["critic_draws"].append(critic.values(data.features(subject.model.encoder), action))
        if theirs is not None:
            moments = theirs.network(data.features(theirs.encoder))
            found["log_policy_draws"].append(data.per_step(gaussian_log_density(raw, mean, log_std)))
            found["log_data_policy_draws"].append(data.per_step(gaussian_log_density(raw, *moments)))
    return {name: np.stack(values, axis=2) for name, values in found.items() if values}
