"""A critic for the control variate: a regression on rollouts in the model, from episodes that certify nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.guarantee.subject import Subject
from m3po.agents.rollout import model_steps
from m3po.episodes import Trajectories
from m3po.errors import EncodedTrajectories

Array = NDArray[np.float64]

# Model steps of a rollout, and the places along it from which what is paid is a target.
ROLLOUT_STEPS = 40
TARGETS_AT = (0, 5, 10)

# One rollout starts from every second history.
STRIDE = 2

RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class ModelCritic:
    """Q_t(h, a) = w_t x' M x, x = (features of h, a, 1), kept in [0, range w_t], with w_t = sum_{t<=u<H} gamma^(u-t).

    Attributes:
        form: M, [F + A + 1, F + A + 1].
        largest: [H], range w_t.
    """

    form: Tensor
    largest: Array

    @staticmethod
    @torch.no_grad()
    def fit(subject: Subject, trajectories: Trajectories, generator: torch.Generator) -> ModelCritic:
        """Least squares with a small ridge on what rollouts of the policy in the model are paid.

        Args:
            subject: whose model and policy; its episodes must not end early.
            trajectories: of any policy, other than those that certify: rollouts start from their histories.
            generator: of the rollouts.
        """
        model, policy = subject.model, subject.policy
        data = EncodedTrajectories.of(trajectories, model.encoder.history_length, policy.device)
        inputs, paid = [], []
        starts = data.windows.select(torch.arange(0, len(data.actions), STRIDE))
        for step, each in enumerate(model_steps(model, policy, starts, ROLLOUT_STEPS, generator)):
            reward = each.transitions.reward.double().clamp(subject.reward_low, subject.reward_high)
            paid.append(reward - subject.reward_low)
            if step in TARGETS_AT:
                inputs.append(_with_one(each.transitions.features, each.transitions.action))
        powers = subject.discount ** torch.arange(ROLLOUT_STEPS, dtype=torch.float64)
        rewards = torch.stack(paid)
        targets = [
            powers[: ROLLOUT_STEPS - first] @ rewards[first:] / powers[: ROLLOUT_STEPS - first].sum()
            for first in TARGETS_AT
        ]
        x = torch.cat(inputs)
        rows, columns = torch.triu_indices(x.shape[1], x.shape[1])
        products = x[:, rows] * x[:, columns]
        weight = RIDGE * len(x) * torch.eye(products.shape[1], dtype=torch.float64)
        weight[-1, -1] = 0.0  # the constant
        found = torch.linalg.solve(products.T @ products + weight, products.T @ torch.cat(targets))
        form = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        form[rows, columns] = found
        remaining = np.cumsum(subject.discount ** np.arange(subject.horizon))[::-1]
        return ModelCritic(form, (subject.reward_high - subject.reward_low) * remaining)

    def values(self, features: Tensor, actions: Tensor) -> Array:
        """[N, H] at the features [N H, F] and actions [N H, A] of N whole episodes."""
        x = _with_one(features, actions)
        mean = ((x @ self.form) * x).sum(dim=1).numpy().reshape(-1, len(self.largest))
        return np.clip(mean * (self.largest / self.largest[-1]), 0.0, self.largest)


def _with_one(features: Tensor, actions: Tensor) -> Tensor:
    return torch.cat([features, actions, torch.ones_like(actions[:, :1])], dim=1).double()
