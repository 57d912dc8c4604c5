"""Episodes of a policy in the real environment, many side by side, and their returns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3po.data.types import Windows
from m3po.envs.vector_options import whole_number
from m3po.foreign.checked_environment import SideBySide, change_of, to_tensor
from m3po.networks.policy import Policy


@dataclass(frozen=True)
class Trajectories:
    """N episodes of at most H steps. Steps after the end of an episode are zero and not ``valid``.

    Attributes:
        observations: [N, H + 1, O] float64.
        actions: [N, H, A] float32, the policy's, in [-1, 1]; the environment gets them rescaled to its box.
        raw_actions: [N, H, A] float32, before tanh.
        rewards: [N, H] float64.
        tasks: [N, H] int64, the true task of each step (-1 where the environment does not tell).
        valid: [N, H] booleans.
    """

    observations: NDArray[np.float64]
    actions: NDArray[np.float32]
    raw_actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    tasks: NDArray[np.int64]
    valid: NDArray[np.bool_]

    def first(self, count: int) -> Trajectories:
        """The first ``count`` episodes, all when there are not more."""
        return Trajectories(**{each.name: getattr(self, each.name)[:count] for each in fields(self)})

    def returns(self, discount: float = 1.0) -> NDArray[np.float64]:
        """sum_{t < H} gamma^t r_t of each episode. Shape [N]."""
        return np.asarray(self.rewards @ discount ** np.arange(self.rewards.shape[1], dtype=np.float64))


def run_episodes(
    env_id: str,
    policy: Policy,
    episodes: int,
    *,
    seed: int,
    generator: torch.Generator,
    deterministic: bool = False,
    options: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Trajectories:
    """Run ``episodes`` whole episodes of a fixed policy.

    Args:
        env_id: environment; its own vector implementation is used when it has one.
        policy: acts on truncated histories.
        episodes: N >= 1.
        seed: of the environments.
        generator: of the actions.
        deterministic: take the mean of the policy instead of a sample.
        options: what to build the environment with.
        threads: of the simulation of the MuJoCo bodies here, which change nothing but the time it takes; None: as many
            as the process may use. torch's are set elsewhere.

    Raises:
        ValueError: when ``episodes`` < 1, on a bad number of threads, and as ``SideBySide``.
        DivergenceError: when an observation or a reward is not a finite number.
    """
    under_way = EpisodesUnderWay(
        env_id,
        episodes,
        seed=seed,
        history_length=policy.history_length,
        device=policy.device,
        options=options,
        threads=threads,
    )
    with closing(under_way):
        while not under_way.over:
            under_way.take(*policy.act(under_way.windows, generator, deterministic=deterministic))
        return under_way.trajectories()


class EpisodesUnderWay:
    """N episodes that go one step on with every action they are given.

    Args:
        history_length: L of the windows.
        device: of these.
        env_id, episodes, seed, options, threads: as in ``run_episodes``.

    Raises:
        ValueError, DivergenceError: as ``run_episodes``.

    Attributes:
        windows: the N histories h_{L:t} before the next step.
        over: whether all N have ended.
    """

    def __init__(
        self,
        env_id: str,
        episodes: int,
        *,
        seed: int,
        history_length: int,
        device: torch.device,
        options: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> None:
        if episodes < 1:
            raise ValueError(f"episodes must be >= 1, got {episodes}")
        if threads is not None:
            threads = whole_number("threads", threads)
        self._environments = SideBySide(env_id, options or {}, episodes, threads)
        try:
            self._observation, self._tasks = self._environments.reset(seed)
        except BaseException:
            self.close()
            raise
        horizon, action_size = self._environments.horizon, self._environments.action_space.shape[0]
        actions = np.zeros((episodes, horizon, action_size), dtype=np.float32)
        self._seen = Trajectories(
            observations=np.zeros((episodes, horizon + 1, self._environments.observation_size)),
            actions=actions,
            raw_actions=np.zeros_like(actions),
            rewards=np.zeros((episodes, horizon)),
            tasks=np.full((episodes, horizon), -1, dtype=np.int64),
            valid=np.zeros((episodes, horizon), dtype=bool),
        )
        self._seen.observations[:, 0] = self._observation
        self._alive = np.ones(episodes, dtype=bool)
        self._step = 0
        self._device = device
        self.windows = Windows.initial(to_tensor(self._observation, device), history_length, action_size)

    @property
    def over(self) -> bool:
        return self._step == self._seen.rewards.shape[1] or not self._alive.any()

    def take(self, action: Tensor, raw: Tensor) -> None:
        """One step with actions [N, A], ``raw`` before their squashing; those of episodes that have ended do nothing.

        Raises:
            ValueError, DivergenceError: as ``SideBySide.step``.
        """
        seen, alive, t = self._seen, self._alive, self._step
        answers = self._environments.step(action, alive, t)
        seen.tasks[alive, t] = self._tasks[alive]
        seen.actions[alive, t] = action.cpu().numpy()[alive]
        seen.raw_actions[alive, t] = raw.cpu().numpy()[alive]
        seen.rewards[alive, t] = answers.rewards[alive]
        seen.observations[alive, t + 1] = answers.observations[alive]
        seen.valid[alive, t] = True
        change = to_tensor(change_of(self._observation, answers.observations), self._device)
        self._observation, self._tasks = answers.observations, answers.tasks
        self._alive = alive & ~answers.terminated & ~answers.truncated
        self._step += 1
        self.windows = self.windows.push(action, to_tensor(self._observation, self._device), change)

    def trajectories(self) -> Trajectories:
        """What has happened."""
        return self._seen

    def close(self) -> None:
        """End the simulation."""
        self._environments.close()
