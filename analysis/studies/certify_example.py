"""Evidence made by hand: a ridge model of a small linear process, its policy, and a critic fitted in the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.flags.example import ExampleConfig
from m3po.envs.switching import SwitchingRule
from m3po.envs.switching_point_mass import DEFAULT_PROCESS_NOISE, PointMassDynamics, PointMassTask

Array = NDArray[np.float64]

Generator = np.random.Generator

HORIZON, DISCOUNT = 100, 0.95
# The noise of the policies before tanh, and their gains on position and velocity.
POLICY_STD = 0.3
DATA_GAINS, GAINS = (0.9, 0.5), (1.0, 0.6)


def policy_mean(observation: Array, gains: tuple[float, float]) -> Array:
    """-(g_p position + g_v velocity), before noise and tanh. [..., 4] -> [..., 2]."""
    return -(gains[0] * observation[..., :2] + gains[1] * observation[..., 2:])


def gaussian_log_density(value: Array, mean: Array, std: Array | float) -> Array:
    """log N(value; mean, diag std^2), summed over the last axis."""
    standardised = (value - mean) / std
    return np.asarray(np.sum(-0.5 * standardised**2 - np.log(std) - 0.5 * np.log(2 * np.pi), axis=-1))


def episodes_of(
    step: Callable[[Array, Array], Array], start: Array, gains: tuple[float, float], generator: Generator
) -> tuple[Array, Array]:
    """Observations [N, H + 1, 4] and the policy's actions before tanh [N, H, 2]."""
    observations, raw = np.zeros((len(start), HORIZON + 1, 4)), np.zeros((len(start), HORIZON, 2))
    observations[:, 0] = start
    for t in range(HORIZON):
        raw[:, t] = policy_mean(observations[:, t], gains) + POLICY_STD * generator.standard_normal((len(start), 2))
        observations[:, t + 1] = step(observations[:, t], np.tanh(raw[:, t]))
    return observations, raw


@dataclass(frozen=True)
class RidgeModel:
    """o' ~ N(o + W (o, a, 1), diag std^2), fitted by least squares with a small ridge.

    Attributes:
        weights: [4, 7].
        std: [4].
    """

    weights: Array
    std: Array

    @staticmethod
    def fit(observations: Array, actions: Array) -> RidgeModel:
        """From episodes [N, H + 1, 4] and [N, H, 2]."""
        inputs = RidgeModel.inputs(observations[:, :-1], actions).reshape(-1, 7)
        targets = np.diff(observations, axis=1).reshape(-1, 4)
        weights = np.asarray(
            np.linalg.solve(inputs.T @ inputs + 1e-3 * np.eye(7), inputs.T @ targets).T, dtype=np.float64
        )
        return RidgeModel(weights, (targets - inputs @ weights.T).std(axis=0))

    @staticmethod
    def inputs(observation: Array, action: Array) -> Array:
        """(o, a, 1)."""
        return np.concatenate([observation, action, np.ones((*action.shape[:-1], 1))], axis=-1)

    def mean(self, observation: Array, action: Array) -> Array:
        return np.asarray(observation + self.inputs(observation, action) @ self.weights.T)


# Draws of the policy for the critic's mean.
DRAWS = 6


@dataclass(frozen=True)
class QuadraticCritic:
    """Q_t(o, a) = w_t f(o, a) with f quadratic and w_t = sum_{u>=t} gamma^(u-t), kept in [0, range w_t].

    Attributes:
        coefficients: [28].
        largest: [H], range w_t.
    """

    coefficients: Array
    largest: Array

    @staticmethod
    def features(observation: Array, action: Array) -> Array:
        """1, the six numbers, and their products. [..., 28]."""
        numbers = np.concatenate([observation, action, np.ones((*action.shape[:-1], 1))], axis=-1)
        rows, columns = np.triu_indices(numbers.shape[-1])
        return np.asarray(numbers[..., rows] * numbers[..., columns])

    @staticmethod
    def fit(observations: Array, actions: Array, rewards: Array, reward_range: float) -> QuadraticCritic:
        """Least squares on what rollouts were paid from each step on; rewards [N, H] above the least."""
        remaining = np.cumsum(DISCOUNT ** np.arange(HORIZON))[::-1]
        to_go = np.zeros_like(rewards)
        following = np.zeros(len(rewards))
        for t in reversed(range(HORIZON)):
            following = to_go[:, t] = rewards[:, t] + DISCOUNT * following
        inputs = QuadraticCritic.features(observations[:, :-1], actions).reshape(-1, 28)
        coefficients = np.linalg.lstsq(inputs, (to_go / remaining).ravel(), rcond=None)[0]
        return QuadraticCritic(np.asarray(coefficients), reward_range * remaining)

    def values(self, observation: Array, action: Array) -> Array:
        """[N, H, ...] at observations [N, H, ..., 4] and actions [N, H, ..., 2]."""
        shape = (1, HORIZON) + (1,) * (observation.ndim - 3)
        largest = self.largest.reshape(shape)
        remaining = largest / self.largest[-1]
        return np.clip(remaining * (self.features(observation, action) @ self.coefficients), 0.0, largest)


def evidence(config: ExampleConfig) -> dict[str, Array | float | int | bool | str]:
    """The entries of the .npz; names and meanings are those of analysis.certify.Evidence."""
    generator = np.random.default_rng(config.seed)
    task = PointMassTask(angle=0.0, gain=1.25, wind=(0.4, 0.0))
    dynamics = PointMassDynamics([task], DEFAULT_PROCESS_NOISE, SwitchingRule())
    gains = DATA_GAINS if config.same_policy else GAINS

    def real_step(observation: Array, action: Array) -> Array:
        return dynamics.sample(observation, action, np.zeros(len(observation), dtype=np.int64), generator)

    def real_episodes(count: int, of: tuple[float, float]) -> tuple[Array, Array]:
        return episodes_of(real_step, dynamics.initial_observation(count, generator), of, generator)

    def discounted(observations: Array, actions: Array) -> Array:
        return np.asarray(dynamics.reward(observations, actions) @ DISCOUNT ** np.arange(HORIZON))

    # 1. The model, from its own episodes: what measures it must not have trained it.
    observations, raw = real_episodes(config.training_episodes, DATA_GAINS)
    model = RidgeModel.fit(observations, np.tanh(raw))

    # 2. Fresh episodes of the data policy, and the four log densities along them.
    observations, raw = real_episodes(config.episodes, DATA_GAINS)
    before, after, actions = observations[:, :-1], observations[:, 1:], np.tanh(raw)
    no_task = np.zeros(actions.shape[:2], dtype=np.int64)

    # 3. One branched return with k = 1 from each episode: from every real history the policy takes one step in the
    # model, and is paid for its action there. The reward function is known.
    def act(observation: Array) -> Array:
        return np.tanh(
            policy_mean(observation, gains) + POLICY_STD * generator.standard_normal(observation[..., :2].shape)
        )

    imagined_mean = model.mean(before[:, :-1], act(before[:, :-1]))
    imagined = imagined_mean + model.std * generator.standard_normal(imagined_mean.shape)
    branches = np.concatenate([before[:, :1], imagined], axis=1)
    entries: dict[str, Array | float | int | bool | str] = {
        "log_density": dynamics.log_density(after, before, actions, no_task),
        "log_model_density": gaussian_log_density(after, model.mean(before, actions), model.std),
        # tanh is a bijection: the densities before it have the same total variation.
        "log_data_policy": gaussian_log_density(raw, policy_mean(before, DATA_GAINS), POLICY_STD),
        "log_policy": gaussian_log_density(raw, policy_mean(before, gains), POLICY_STD),
        "model_returns": discounted(branches, act(branches)),
        "reward_low": dynamics.reward_low,
        "reward_high": dynamics.reward_high,
        "discount": DISCOUNT,
        "rollout_length": 1,
        "absorbing": True,
    }
    if config.rewards:
        # 4. What the data were paid, and a critic from rollouts in the model, at the data's actions and at fresh draws.
        def model_step(observation: Array, action: Array) -> Array:
            return model.mean(observation, action) + model.std * generator.standard_normal(observation.shape)

        rollouts, raw_rollouts = episodes_of(model_step, dynamics.initial_observation(200, generator), gains, generator)
        critic = QuadraticCritic.fit(
            rollouts, np.tanh(raw_rollouts), dynamics.reward(rollouts[:, :-1], np.tanh(raw_rollouts))
            - dynamics.reward_low, dynamics.reward_high - dynamics.reward_low
        )  # fmt: skip
        at = np.repeat(before[:, :, None], DRAWS, axis=2)
        drawn = policy_mean(at, gains) + POLICY_STD * generator.standard_normal((*at.shape[:-1], 2))
        entries |= {
            "rewards": dynamics.reward(before, actions),
            "critic": critic.values(before, actions),
            "critic_draws": critic.values(at, np.tanh(drawn)),
            "log_policy_draws": gaussian_log_density(drawn, policy_mean(at, gains), POLICY_STD),
            "log_data_policy_draws": gaussian_log_density(drawn, policy_mean(at, DATA_GAINS), POLICY_STD),
            "policy_dependence": "independent", "model_dependence": "independent", "critic_dependence": "independent",
        }  # fmt: skip
    if config.same_policy:
        for name in ("log_policy_draws", "log_data_policy_draws"):
            entries.pop(name, None)
        del entries["log_data_policy"], entries["log_policy"]
    if config.reveal_truth:
        observations, raw = real_episodes(config.episodes, gains)
        entries["true_returns"] = discounted(observations[:, :-1], np.tanh(raw))
    return entries
