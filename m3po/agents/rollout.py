"""Rollouts in the model: branched from real histories for k steps, or full from the start of an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from m3po.data.types import Segments, Transitions, Windows
from m3po.envs.body_rules import Rule
from m3po.networks.model import LearnedModel
from m3po.networks.policy import HistoryPolicy, draw_action

Terminated = Callable[[Tensor], Tensor]


def never_terminated(observation: Tensor) -> Tensor:
    """[N, O] -> [N] False: environments whose episodes end by their time limit only."""
    return torch.zeros(len(observation), dtype=torch.bool, device=observation.device)


def termination_by(rule: Rule | None) -> Terminated:
    """The rule, which speaks of numpy arrays, for tensors; ``never_terminated`` without one."""
    if rule is None:
        return never_terminated
    return lambda observation: torch.as_tensor(rule.ends(observation.cpu().numpy()), device=observation.device)


@dataclass(frozen=True)
class ModelStep:
    """One step of the rollouts in the model that still run.

    Attributes:
        rows: [n] int64, which of the starts these rollouts came from.
        windows: the n histories before the step.
        transitions: what was done there and what came of it, encoded by the model's encoder.
        next_observation: [n, O].
    """

    rows: Tensor
    windows: Windows
    transitions: Transitions
    next_observation: Tensor

    def segments(self) -> Segments:
        """The same n transitions, not encoded."""
        step = self.transitions
        return Segments.of(self.windows, step.action, self.next_observation, step.reward, step.not_terminal)


@torch.no_grad()
def model_steps(
    model: LearnedModel,
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
        model, policy: a policy that reads the model's own encoder (the same object) shares its encodings.
        starts: the N histories to branch from.
        rollout_length: k >= 1.
        generator: source of all randomness.
        terminated: o' [N, O] -> [N] booleans.

    Raises:
        ValueError: when k < 1.
    """
    if rollout_length < 1:
        raise ValueError(f"rollout_length must be >= 1, got {rollout_length}")
    windows, features = starts, model.encoder(starts)
    rows = torch.arange(len(features), device=features.device)
    for _ in range(rollout_length):
        shared = policy.encoder is model.encoder
        mean, log_std = policy.network(features if shared else policy.encoder(windows))
        action, _ = draw_action(mean, log_std, generator)
        next_observation, reward = model.sample(features, windows.observation, action, generator)
        following = windows.push(action, next_observation)
        next_features = model.encoder(following)
        ended = terminated(next_observation)
        transitions = Transitions(features, action, reward, next_features, (~ended).float())
        yield ModelStep(rows, windows, transitions, next_observation)
        windows, features = following, next_features
        if terminated is not never_terminated and ended.any():
            windows, features, rows = windows.select(~ended), features[~ended], rows[~ended]
            if len(features) == 0:
                return
