"""Small environments, policies and recordings for the tests of ``analysis.collecting``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

HORIZON, DISCOUNT = 5, 0.9


class Line(gym.Env[Any, Any]):
    """o' = 0.8 o + 0.5 a + 0.1 xi; paid exp(-o^2) in (0, 1]. It shows its state in an array that it uses again."""

    def __init__(self, ends_at: int | None = None, cut_at: int | None = None) -> None:
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = Box(-2.0, 2.0, (1,), np.float32)
        self.state = np.zeros(1)
        self.ends_at, self.cut_at, self.steps = ends_at, cut_at, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.state[:] = self.np_random.standard_normal()
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in the box"
        reward = float(np.exp(-(self.state[0] ** 2)))
        self.steps += 1
        self.state[:] = 0.8 * self.state + 0.5 * action[0] + 0.1 * self.np_random.standard_normal()
        return self.state, reward, self.steps == self.ends_at, self.steps == self.cut_at, {}


@dataclass
class Gains:
    """a ~ N(-gain o, std^2), not clipped as it never reaches the box: a function with a density."""

    gain: float
    std: float = 0.3
    seed: int = 0
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def __call__(self, observation: Any) -> Any:
        return np.clip(-self.gain * observation + self.std * self.generator.standard_normal(1), -2, 2)

    def log_prob(self, observation: Any, action: Any) -> Any:
        far = (action + self.gain * observation) / self.std
        return (-0.5 * far**2 - np.log(self.std) - 0.5 * np.log(2 * np.pi)).sum()


@dataclass(frozen=True)
class Recorded:
    """What Minari's EpisodeData is to its readers."""

    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any
    infos: Any = field(default_factory=dict)


def played(policy: Any, count: int, *, seed: int = 0, steps: int = HORIZON) -> list[Recorded]:
    """Episodes of the line, as a dataset has them."""
    environment, found = Line(), []
    for i in range(count):
        observations, actions, rewards = [environment.reset(seed=seed + i)[0].copy()], [], []
        for _ in range(steps):
            actions.append(np.float32(policy(observations[-1])))
            following, reward, *_ = environment.step(actions[-1])
            observations.append(following.copy())
            rewards.append(reward)
        nothing = np.zeros(steps, dtype=bool)
        found.append(Recorded(np.array(observations), np.array(actions), np.array(rewards), nothing, nothing))
    return found
