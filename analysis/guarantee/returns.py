"""Returns of branched and of full rollouts in the model, one unbiased sample per real episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from m3po.agents.rollout import Terminated, model_steps, never_terminated
from m3po.data.types import ROWS_AT_A_TIME
from m3po.envs.protocol import CertifiableDynamics, KnownReward
from m3po.errors import Array, EncodedTrajectories
from m3po.networks.model import LearnedModel
from m3po.networks.policy import HistoryPolicy


@dataclass(frozen=True)
class ModelReturns:
    """Returns of N rollouts in the model, iid over episodes.

    Attributes:
        learned_reward: [N], with r_theta: what the model promises.
        known_reward: [N], with the environment's own reward function on the model's histories, which is what the
            paper's theorems speak of; None where the reward is not a known function of observation and action. (One
            that depends on the hidden task is not: a rollout of the model has no task.)
    """

    learned_reward: Array
    known_reward: Array | None


def model_return_samples(
    model: LearnedModel,
    policy: HistoryPolicy,
    data: EncodedTrajectories,
    *,
    discount: float,
    rollout_length: int | None,
    scheme: Literal["averaged", "exact"] = "averaged",
    dynamics: CertifiableDynamics,
    generator: torch.Generator,
    terminated: Terminated = never_terminated,
) -> ModelReturns:
    """One unbiased sample per episode of J_branch(k), or of J_full when ``rollout_length`` is None.

    J_branch(k) = E[r_0] + sum_{t=1}^{H-1} gamma^t (1/n_t) sum_{i=1}^{n_t} E_{rho^(i)_t, pi}[r], n_t = min(t, k):
    from every real history h_s the policy runs i <= k steps in the model and is paid at time t = s + i. With scheme
    "exact" only i = n_t is paid, in full (Janner et al. 2019). The full-model return pays the rollout from h_0 at every
    t. Times count from 0 to H - 1, the horizon of the episodes.

    Raises:
        ValueError: when ``rollout_length`` < 1 or ``scheme`` is another one, and as ``model_steps``.
    """
    if rollout_length is not None and rollout_length < 1:
        raise ValueError(f"rollout_length must be >= 1 or None, got {rollout_length}")
    if scheme not in ("averaged", "exact"):
        raise ValueError(f"scheme must be 'averaged' or 'exact', got {scheme!r}")
    trajectories = data.trajectories
    episodes, horizon = trajectories.rewards.shape
    last = horizon - 1 if rollout_length is None else min(rollout_length, horizon - 1)
    device = data.actions.device
    steps = torch.arange(episodes * horizon, device=device)
    starting = steps % horizon == 0 if rollout_length is None else torch.ones_like(steps, dtype=torch.bool)
    starting &= torch.as_tensor(trajectories.valid.reshape(-1), device=device)
    chosen = steps[starting]
    low, high = dynamics.reward_low, dynamics.reward_high
    learned, known = torch.zeros(episodes, dtype=torch.float64), torch.zeros(episodes, dtype=torch.float64)
    for part in chosen.split(ROWS_AT_A_TIME):
        rollouts = model_steps(model, policy, data.windows.select(part), last + 1, generator, terminated)
        for i, step in enumerate(rollouts):
            start = part[step.rows]
            episode, t = (start // horizon).cpu(), (start % horizon + i).cpu()
            longest = t if rollout_length is None else t.clamp(max=rollout_length)
            if scheme == "exact" or rollout_length is None:
                share = (longest == i).double()
            else:
                share = torch.where(i <= longest, 1 / longest.clamp(min=1), 0.0) if i > 0 else (t == 0).double()
            weight = torch.where(t < horizon, share * discount ** t.double(), 0.0)
            action = step.transitions.action
            with torch.no_grad():
                reward = model.expected_reward(step.transitions.features, action, low, high)
            learned.index_add_(0, episode, weight * reward.double().cpu())
            if isinstance(dynamics, KnownReward):
                observation = step.windows.observation.double().cpu().numpy()
                paid = torch.as_tensor(dynamics.reward(observation, action.double().cpu().numpy()))
                known.index_add_(0, episode, weight * paid)
    return ModelReturns(learned.numpy(), known.numpy() if isinstance(dynamics, KnownReward) else None)
