"""Episodes of a policy in the real environment, many side by side, and their returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
    if episodes < 1:
        raise ValueError(f"episodes must be >= 1, got {episodes}")
    if threads is not None:
        threads = whole_number("threads", threads)
    environments = SideBySide(env_id, options or {}, episodes, threads)
    try:
        return _run(environments, policy, seed, generator, deterministic=deterministic)
    finally:
        environments.close()


def _run(
    environments: SideBySide, policy: Policy, seed: int, generator: torch.Generator, *, deterministic: bool
) -> Trajectories:
    episodes, horizon, device = environments.count, environments.horizon, policy.device
    observation, task = environments.reset(seed)
    action_size = environments.action_space.shape[0]
    observations = np.zeros((episodes, horizon + 1, environments.observation_size))
    actions = np.zeros((episodes, horizon, action_size), dtype=np.float32)
    raw_actions = np.zeros_like(actions)
    rewards = np.zeros((episodes, horizon))
    tasks = np.full((episodes, horizon), -1, dtype=np.int64)
    valid = np.zeros((episodes, horizon), dtype=bool)
    observations[:, 0] = observation
    alive = np.ones(episodes, dtype=bool)
    windows = Windows.initial(to_tensor(observation, device), policy.history_length, action_size)
    for t in range(horizon):
        action, raw = policy.act(windows, generator, deterministic=deterministic)
        tasks[alive, t] = task[alive]
        answers = environments.step(action, alive, t)
        task = answers.tasks
        actions[alive, t] = action.cpu().numpy()[alive]
        raw_actions[alive, t] = raw.cpu().numpy()[alive]
        rewards[alive, t] = answers.rewards[alive]
        observations[alive, t + 1] = answers.observations[alive]
        valid[alive, t] = True
        alive = alive & ~answers.terminated & ~answers.truncated
        if not alive.any():
            break
        change = to_tensor(change_of(observation, answers.observations), device)
        observation = answers.observations
        windows = windows.push(action, to_tensor(observation, device), change)
    return Trajectories(observations, actions, raw_actions, rewards, tasks, valid)
