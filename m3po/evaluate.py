"""Episodes of a policy in the real environment, many side by side, and their returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.policy import Policy
from m3po.types import Windows


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


def make_environment(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """gym.make with one-line errors.

    Raises:
        ValueError: for an unknown id or option, an environment without time limit, spaces that are not flat boxes, or
            actions without finite bounds.
    """
    try:
        environment = gym.make(env_id, **options)
    except (gym.error.Error, ImportError) as error:
        raise ValueError(f"unknown environment {env_id!r}: {error}") from error
    except TypeError as error:
        raise ValueError(f"{env_id} does not take the options {options}: {error}") from error
    spaces = (environment.observation_space, environment.action_space)
    if not all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces):
        raise ValueError(f"{env_id} has no flat Box observations and actions: {spaces}")
    box = environment.action_space
    if not (isinstance(box, gym.spaces.Box) and box.is_bounded()):
        raise ValueError(f"{env_id} has an action space without finite bounds: {box}")
    if environment.spec is None or environment.spec.max_episode_steps is None:
        raise ValueError(f"{env_id} has no time limit (max_episode_steps)")
    return environment


def to_tensor(values: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)


def to_environment(action: Tensor, space: gym.spaces.Box) -> NDArray[np.float32]:
    """[-1, 1] -> the bounds of the action space, coordinate by coordinate; rounding never leaves the box."""
    low, high = space.low, space.high
    rescaled = low + 0.5 * (action.cpu().numpy() + 1.0) * (high - low)
    return np.asarray(np.clip(rescaled, low, high), dtype=np.float32)


def run_episodes(
    env_id: str,
    policy: Policy,
    episodes: int,
    *,
    seed: int,
    generator: torch.Generator,
    deterministic: bool = False,
    options: Mapping[str, Any] | None = None,
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
    """
    if episodes < 1:
        raise ValueError(f"episodes must be >= 1, got {episodes}")
    options = options or {}
    environments = gym.make_vec(env_id, num_envs=episodes, **options)
    assert environments.spec is not None
    # The vector's specification knows the registered limit only.
    horizon = options.get("max_episode_steps", environments.spec.max_episode_steps)
    space = environments.single_action_space
    assert isinstance(space, gym.spaces.Box)
    assert horizon is not None
    device = policy.device

    observation, info = environments.reset(seed=seed)
    observation_size, action_size = observation.shape[1], space.shape[0]
    observations = np.zeros((episodes, horizon + 1, observation_size))
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
        tasks[alive, t] = np.asarray(info.get("task", tasks[:, t]))[alive]
        observation, reward, terminated, truncated, info = environments.step(to_environment(action, space))
        actions[alive, t] = action.cpu().numpy()[alive]
        raw_actions[alive, t] = raw.cpu().numpy()[alive]
        rewards[alive, t] = reward[alive]
        observations[alive, t + 1] = observation[alive]
        valid[alive, t] = True
        alive = alive & ~terminated & ~truncated
        if not alive.any():
            break
        windows = windows.push(action, to_tensor(observation, device))
    environments.close()
    return Trajectories(observations, actions, raw_actions, rewards, tasks, valid)
