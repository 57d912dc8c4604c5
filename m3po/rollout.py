"""Rollouts in the model: branched from real histories for k steps, or full from the start of an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from m3po.model import EnsembleModel
from m3po.policy import HistoryPolicy
from m3po.types import Transitions, Windows

Terminated = Callable[[Tensor], Tensor]


def never_terminated(observation: Tensor) -> Tensor:
    """[N, O] -> [N] False: environments whose episodes end by their time limit only."""
    return torch.zeros(len(observation), dtype=torch.bool, device=observation.device)


def termination_of(environment: gym.Env[Any, Any]) -> Terminated:
    """The environment's own ``terminated(observation [N, O]) -> [N]`` in numpy; ``never_terminated`` without one."""
    function = getattr(environment.unwrapped, "terminated", None)
    if function is None:
        return never_terminated
    return lambda observation: torch.as_tensor(function(observation.cpu().numpy()), device=observation.device)


@dataclass(frozen=True)
class ModelStep:
    """One step of the rollouts in the model that still run.

    Attributes:
        rows: [n] int64, which of the starts these rollouts came from.
        windows: the n histories before the step.
        transitions: what was done there and what came of it, encoded.
    """

    rows: Tensor
    windows: Windows
    transitions: Transitions


@torch.no_grad()
def model_steps(
    model: EnsembleModel,
    policy: HistoryPolicy,
    starts: Windows,
    rollout_length: int,
    generator: torch.Generator,
    terminated: Terminated = never_terminated,
) -> Iterator[ModelStep]:
    """Yield the steps 1..k of rollouts: a ~ pi(.|h), (r, o') ~ p_theta(.|h, a), h' = (h, a, o').

    Each step draws its ensemble member anew, so that o' has exactly the mixture density of the model. Rollouts that
    terminate are dropped from later steps; the last yield may come before step k when none is left.

    Args:
        model, policy: their encoders must be the same object.
        starts: the N histories to branch from.
        rollout_length: k >= 1.
        generator: source of all randomness.
        terminated: o' [N, O] -> [N] booleans.

    Raises:
        ValueError: when k < 1 or the policy reads another encoder than the model.
    """
    if rollout_length < 1:
        raise ValueError(f"rollout_length must be >= 1, got {rollout_length}")
    if policy.encoder is not model.encoder:
        raise ValueError("model_steps needs a policy on the model's own encoder")
    windows, features = starts, model.encoder(starts)
    rows = torch.arange(len(features), device=features.device)
    for _ in range(rollout_length):
        mean, log_std = policy.network(features)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        action = torch.tanh(mean + torch.exp(log_std) * noise)
        next_observation, reward = model.sample(features, windows.observation, action, generator)
        following = windows.push(action, next_observation)
        next_features = model.encoder(following)
        ended = terminated(next_observation)
        yield ModelStep(rows, windows, Transitions(features, action, reward, next_features, (~ended).float()))
        windows, features = following, next_features
        if ended.any():
            windows, features, rows = windows.select(~ended), features[~ended], rows[~ended]
            if len(features) == 0:
                return
