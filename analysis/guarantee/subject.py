"""What a guarantee is about: a model, the policy that it promises a return for, and the environment that decides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m3po.agents.m3po import M3PO
from m3po.agents.reserved_episodes import ReservedEpisodes
from m3po.agents.rollout import Terminated
from m3po.agents.training import restored
from m3po.envs.protocol import CertifiableDynamics
from m3po.episodes import Trajectories, run_episodes
from m3po.networks.model import LearnedModel
from m3po.networks.policy import HistoryPolicy
from m3po.runs.run_directory import RunDirectory

NO_DENSITY = (
    "the one-step density of this environment is not known, or a point mass, so no total variation can be measured"
)


@dataclass(frozen=True)
class ReturnRange:
    """Which discounted returns an episode can have: sum_{t < H} gamma^t r_t with every r_t in [r_lo, r_hi].

    Attributes:
        discount: gamma, in [0, 1).
        horizon: H >= 1, the steps of an episode.
        reward_low, reward_high: r_lo <= r_hi; infinite where the environment names none.
    """

    discount: float
    horizon: int
    reward_low: float
    reward_high: float

    @property
    def reward_range(self) -> float:
        """R = r_hi - r_lo."""
        return self.reward_high - self.reward_low

    @property
    def is_known(self) -> bool:
        """Whether the environment names a range of rewards."""
        return math.isfinite(self.reward_low) and math.isfinite(self.reward_high)

    @property
    def lowest(self) -> float:
        """The return of every policy is at least this."""
        return self.reward_low * self._weight

    @property
    def highest(self) -> float:
        """The return of every policy is at most this."""
        return self.reward_high * self._weight

    @property
    def _weight(self) -> float:
        return (1 - self.discount**self.horizon) / (1 - self.discount)

    @property
    def weight_after_the_horizon(self) -> float:
        """sum_{t >= H} gamma^t: what rewards after the last step would count, should the process go on."""
        return self.discount**self.horizon / (1 - self.discount)

    def trivial_gap(self, *, learned_reward: bool) -> float:
        """The largest gap that any model at all can have: R sum_t gamma^t over t < H.

        With the known reward the sum starts at t = 1, since the first reward is the same in model and reality.
        """
        first = 0 if learned_reward else 1
        return self.reward_range * (self.discount**first - self.discount**self.horizon) / (1 - self.discount)


@dataclass(frozen=True)
class Subject:
    """A model, the policy whose return it promises, whose data they are judged by, and the environment they are for.

    Attributes:
        model: p_theta.
        policy: pi, whose true return is to be guaranteed.
        data_policy: pi_D, whose fresh episodes are measured; None where that is pi itself: no policy divergence.
        dynamics: the environment's one-step density; None where none is known, or a wrapper stands before it.
        obstacle: that wrapper's name; None without one.
        discount: gamma of the returns.
        horizon: H, the steps of an episode.
        reward_low, reward_high: every expected reward lies between them; infinite where the environment names none.
        terminated: o' [N, O] -> [N], which observations end an episode.
        rollout_length: k of the branched rollouts.
        env_id, options: what the environment is built from.
        steps: real steps behind the model.
        reserved: episodes of its policies of which the run learned nothing; None where there are none.
    """

    model: LearnedModel
    policy: HistoryPolicy
    data_policy: HistoryPolicy | None
    dynamics: CertifiableDynamics | None
    obstacle: str | None
    discount: float
    horizon: int
    reward_low: float
    reward_high: float
    terminated: Terminated
    rollout_length: int
    env_id: str
    options: Mapping[str, Any]
    steps: int
    reserved: ReservedEpisodes | None = None

    @staticmethod
    def restored(run_dir: Path, *, trust_env: bool = False) -> Subject:
        """Model and policy of a run's last checkpoint, on the CPU, judged by data of who collected the last.

        Args:
            run_dir: of a training with a model.
            trust_env: build its environment even if that imports a module or reads files that the run names.

        Raises:
            ValueError: when the directory is no run of such a training, or its checkpoint is damaged or has no fitted
                model yet.
        """
        training = restored(RunDirectory.read(run_dir), M3PO, trust_env=trust_env)
        return dataclasses.replace(Subject.of(training), data_policy=training.data_policy)

    @staticmethod
    def of(training: M3PO) -> Subject:
        """Model and policy as they are in a training now, judged by fresh data of the policy itself.

        Raises:
            ValueError: when the model was never fitted.
        """
        training.check_fitted()
        low, high = training.reward_range
        return Subject(
            model=training.model,
            policy=training.policy,
            data_policy=None,
            dynamics=training.offers.dynamics,
            obstacle=training.offers.obstacle,
            discount=training.config.discount,
            horizon=training.horizon,
            reward_low=low,
            reward_high=high,
            terminated=training.terminated,
            rollout_length=training.config.rollout_length_at(training.steps),
            env_id=training.config.env_id,
            options=training.options,
            steps=training.steps,
            reserved=training.certification.reserved if training.certification.reserved.count > 0 else None,
        )

    @property
    def returns(self) -> ReturnRange:
        """The discounted returns that there can be."""
        return ReturnRange(self.discount, self.horizon, self.reward_low, self.reward_high)

    @property
    def density(self) -> CertifiableDynamics:
        """The environment's one-step density, which total variation is measured with.

        Raises:
            ValueError: when it is not known.
        """
        if self.dynamics is None:
            raise ValueError(f"{self.env_id}: {self.why_no_density}")
        return self.dynamics

    @property
    def why_no_density(self) -> str:
        """In words, why no total variation can be measured where ``dynamics`` is None."""
        if self.obstacle is None:
            return NO_DENSITY
        return (
            f"the environment offers a one-step density, and {self.obstacle} may change the observations, actions or "
            "rewards that it speaks of, so no total variation can be measured"
        )

    def on_own_data(self) -> Subject:
        """The same model and policy, judged by fresh data of the policy itself."""
        return dataclasses.replace(self, data_policy=None)

    def episodes(self, count: int, *, seed: int, generator: torch.Generator) -> Trajectories:
        """``count`` fresh episodes of the data policy; ``seed`` is the environments', ``generator`` of the actions."""
        return run_episodes(
            self.env_id,
            self.policy if self.data_policy is None else self.data_policy,
            count,
            seed=seed,
            generator=generator,
            options=self.options,
        )
