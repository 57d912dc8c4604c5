"""Rollouts in the model: branched from real histories for k steps, or full from the start of an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from m3po.data.draws import Generators
from m3po.data.types import Segments, Transitions, Windows, at, rows_of
from m3po.envs.body_rules import Rule
from m3po.networks.model import LearnedModel
from m3po.networks.policy import HistoryPolicy, draw_action

Terminated = Callable[[Tensor], Tensor]


def never_terminated(observation: Tensor) -> Tensor:
    """[..., O] -> [...] False: environments whose episodes end by their time limit only."""
    return torch.zeros(observation.shape[:-1], dtype=torch.bool, device=observation.device)


def termination_by(rule: Rule | None) -> Terminated:
    """The rule, which speaks of numpy arrays, for tensors; ``never_terminated`` without one."""
    if rule is None:
        return never_terminated

    def ended(observation: Tensor) -> Tensor:
        rows = observation.flatten(0, -2)
        return torch.as_tensor(rule.ends(rows.cpu().numpy()), device=rows.device).view(observation.shape[:-1])

    return ended


@dataclass(frozen=True)
class ModelStep:
    """One step of the rollouts in the model that still run.

    In front of the shapes may stand the run axis. n is then that of the run which has most rollouts left; the others
    are filled up with rows that are not ``valid``.

    Attributes:
        rows: [n] int64, which of the starts these rollouts came from.
        windows: the n histories before the step.
        transitions: what was done there and what came of it, encoded by the model's encoder.
        next_observation: [n, O].
        valid: [n] booleans; None: all are.
    """

    rows: Tensor
    windows: Windows
    transitions: Transitions
    next_observation: Tensor
    valid: Tensor | None = None

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
    generator: Generators,
    terminated: Terminated = never_terminated,
) -> Iterator[ModelStep]:
    """Yield the steps 1..k of rollouts: a ~ pi(.|h), (r, o') ~ p_theta(.|h, a), h' = (h, a, o').

    Each step draws its ensemble member anew, so that o' has exactly the mixture density of the model. Rollouts that
    terminate are dropped from later steps; the last yield may come before step k when none is left.

    Args:
        model, policy: a policy that reads the model's own encoder (the same object) shares its encodings.
        starts: the N histories to branch from, of one run or of several side by side.
        rollout_length: k >= 1.
        generator: source of all randomness.
        terminated: o' [..., O] -> [...] booleans.

    Raises:
        ValueError: when k < 1.
    """
    if rollout_length < 1:
        raise ValueError(f"rollout_length must be >= 1, got {rollout_length}")
    windows, features = starts, model.encoder(starts)
    rows = torch.arange(features.shape[-2], device=features.device).expand(features.shape[:-1])
    valid = None
    for _ in range(rollout_length):
        shared = policy.encoder is model.encoder
        mean, log_std = policy.network(features if shared else policy.encoder(windows))
        action, _ = draw_action(mean, log_std, generator)
        next_observation, reward = model.sample(features, windows.observation, action, generator)
        following = windows.push(action, next_observation)
        next_features = model.encoder(following)
        ended = terminated(next_observation)
        transitions = Transitions(features, action, reward, next_features, (~ended).float())
        yield ModelStep(rows, windows, transitions, next_observation, valid)
        windows, features = following, next_features
        if terminated is not never_terminated and ended.any():
            kept, valid = left_over(~ended if valid is None else ~ended & valid)
            if kept.shape[-1] == 0:
                return
            of_runs = kept.dim() == 2
            windows, features, rows = (
                rows_of(windows, kept),
                at(features, kept, of_runs=of_runs),
                at(rows, kept, of_runs=of_runs),
            )


def left_over(alive: Tensor) -> tuple[Tensor, Tensor | None]:
    """The places where ``alive`` [N] is true, [n], and None; of several runs [R, N] padded to the longest, with which
    of them are no padding, None when all."""
    if alive.dim() == 1:
        return alive.nonzero()[:, 0], None
    counts = alive.sum(dim=1)
    longest = int(counts.max())
    places = torch.argsort(~alive, dim=1, stable=True)[:, :longest]
    valid = torch.arange(longest, device=alive.device) < counts[:, None]
    return places, None if bool(valid.all()) else valid
