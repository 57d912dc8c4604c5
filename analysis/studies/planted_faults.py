"""Models and promises with a planted fault, which a certificate has to flag."""

from __future__ import annotations

import copy
import dataclasses
import math

import torch
from torch import Tensor

from analysis.guarantee.estimates import Estimates
from bounds.confidence import Interval
from m3po.agents.m3po import M3PO
from m3po.networks.model import EnsembleModel

PROMISED = ("branched", True)

# The planted faults. A shift of less than the certificate cannot be told from an error that the certificate allows.
SHIFT = 1.25

CONTRACTION = 0.05


class ContractingModel(EnsembleModel):
    """A broken model: the next observation is a twentieth of what the trained one draws, next to the goal at once.

    Its density is the exact one of that: q(o') = q_trained(o' / c) / c^O.
    """

    def sample(
        self, features: Tensor, observation: Tensor, action: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        following, reward = super().sample(features, observation, action, generator)
        return CONTRACTION * following, reward

    def observation_log_density(
        self,
        features: Tensor,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        change: Tensor | None = None,
    ) -> Tensor:
        assert change is None, "the point mass stays near 0"
        inner = super().observation_log_density(features, observation, action, next_observation / CONTRACTION)
        return inner - observation.shape[1] * math.log(CONTRACTION)


class OverclaimingModel(ContractingModel):
    """The same broken model, which claims the density of the trained one."""

    def observation_log_density(
        self,
        features: Tensor,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        change: Tensor | None = None,
    ) -> Tensor:
        return EnsembleModel.observation_log_density(self, features, observation, action, next_observation, change)


def with_broken_model(training: M3PO, kind: type[EnsembleModel]) -> M3PO:
    """The same training with a fault in its model; nothing of the original is changed."""
    broken = copy.copy(training)
    broken.model = copy.copy(training.model)
    broken.model.__class__ = kind
    return broken


def shifted(measured: Estimates, by: float) -> Estimates:
    """The same measurement with a model return that is too high."""
    honest = measured.model_returns[PROMISED]
    moved = Interval(honest.estimate + by, honest.lower + by, honest.upper + by, honest.confidence, honest.samples)
    return dataclasses.replace(measured, model_returns={**measured.model_returns, PROMISED: moved})
