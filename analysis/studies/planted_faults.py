"""Models and promises with a planted fault, which a certificate has to flag."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from analysis.guarantee.estimates import Estimates
from bounds.confidence import Interval
from m3po.data.draws import Generators
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import LearnedModel

# The planted faults. A shift of less than the certificate cannot be told from an error that the certificate allows.
SHIFT = 1.25

CONTRACTION = 0.05


@dataclass(frozen=True)
class ContractingModel:
    """A broken model: the next observation is a twentieth of what the trained one draws, next to the goal at once.

    Its density is the exact one of that, q(o') = q_trained(o' / c) / c^O; with ``overclaims`` it is the trained one's.
    """

    trained: LearnedModel
    overclaims: bool = False

    @property
    def encoder(self) -> ContextEncoder:
        return self.trained.encoder

    def sample(
        self, features: Tensor, observation: Tensor, action: Tensor, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        following, reward = self.trained.sample(features, observation, action, generator)
        return CONTRACTION * following, reward

    def observation_log_density(
        self,
        features: Tensor,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        change: Tensor | None = None,
    ) -> Tensor:
        if self.overclaims:
            return self.trained.observation_log_density(features, observation, action, next_observation, change)
        assert change is None, "the point mass stays near 0"
        inner = self.trained.observation_log_density(features, observation, action, next_observation / CONTRACTION)
        return inner - observation.shape[1] * math.log(CONTRACTION)

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        return self.trained.expected_reward(features, action, low, high)


def shifted(measured: Estimates, by: float) -> Estimates:
    """The same measurement with a promise that is too high."""
    honest = measured.promise
    moved = Interval(honest.estimate + by, honest.lower + by, honest.upper + by, honest.confidence, honest.samples)
    return dataclasses.replace(measured, model_returns={**measured.model_returns, ("branched", True): moved})
