"""A return certified on MuJoCo without any density: episodes of two mildly exploring policies, and a third policy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import gymnasium
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

import m3po.envs  # noqa: F401 - registers the environments
from analysis.guarantee.certification import Certification, certify
from analysis.guarantee.evidence import Evidence
from analysis.runs.over_seeds import mean_and_error
from m3po.flag_checks import EpisodeCount, Items, Seed, Within, check_fields

Array = NDArray[np.float64]

DISCOUNT = 0.95

# No reward of these episodes comes near them. The return that is certified is that of rewards clipped to this range.
REWARD_LOW, REWARD_HIGH = -10.0, 10.0

POLICY_STD = 0.3

# Random policies of which the best is taken, by one short episode each.
SEARCHED, SEARCH_STEPS = 40, 60

DRAWS = 4


@dataclass(frozen=True)
class MujocoConfig:
    """Certify the return of a policy on MuJoCo from the episodes of two others, without any density of the environment:
    one policy that is near to them, and one that is far."""

    environments: Annotated[tuple[str, ...], Items()] = ("HalfCheetah-v5", "m3po/HalfCheetahFwdBwd-v0")
    """Environments with observations and actions in boxes."""
    episodes: EpisodeCount = 160
    """Episodes of the two data policies together, half of each, >= 2."""
    critic_episodes: EpisodeCount = 20
    """Other episodes of the data policies, to which the critic is fitted, >= 2."""
    truth_episodes: EpisodeCount = 100
    """Fresh episodes of each certified policy, to hold the bound against, >= 2."""
    horizon: Annotated[int, Within(2, 1000)] = 200
    """Steps of an episode."""
    near: Annotated[float, Within(0.0, 10.0)] = 0.05
    """Standard deviations of the policy's noise by which it differs from the data policies, per coordinate of the
    action and on average; TV per step is about as large."""
    far: Annotated[float, Within(0.0, 10.0)] = 8.0
    """The same of the policy that is too far."""
    seed: Seed = 0
    """Seed of everything."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of text."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class GaussianPolicy:
    """a ~ N(tanh(W (o, 1)), POLICY_STD^2), clipped by the environment. Densities are of the action before clipping.

    Attributes:
        weights: [A, O + 1].
    """

    weights: Array

    def mean(self, observation: Array) -> Array:
        """[..., O] -> [..., A]."""
        ones = np.ones((*observation.shape[:-1], 1))
        return np.asarray(np.tanh(np.concatenate([observation, ones], axis=-1) @ self.weights.T))

    def log_density(self, observation: Array, action: Array) -> Array:
        """Summed over the coordinates of the action."""
        standardised = (action - self.mean(observation)) / POLICY_STD
        return np.asarray(np.sum(-0.5 * standardised**2 - np.log(POLICY_STD) - 0.5 * np.log(2 * np.pi), axis=-1))

    def moved(self, observations: Array, by: float, generator: np.random.Generator) -> GaussianPolicy:
        """A policy whose mean differs by ``by`` standard deviations at these observations, root mean square."""
        direction = generator.standard_normal(self.weights.shape)
        step = 1e-3
        away = (GaussianPolicy(self.weights + step * direction).mean(observations) - self.mean(observations)) / step
        size = float(np.sqrt(np.mean(np.square(away)))) / POLICY_STD
        return GaussianPolicy(self.weights + by / size * direction)


@dataclass(frozen=True, eq=False)
class Episodes:
    """Observations [N, H, O], actions before clipping [N, H, A], rewards and ``valid`` [N, H]."""

    observations: Array
    actions: Array
    rewards: Array
    valid: NDArray[np.bool_]


def episodes_of(
    environment: gymnasium.Env[Any, Any], policy: GaussianPolicy, count: int, horizon: int, seeds: Iterator[int],
    generator: np.random.Generator,
) -> Episodes:  # fmt: skip
    """``count`` episodes of ``horizon`` steps, each from a seed of its own."""
    actions_box = environment.action_space
    assert isinstance(actions_box, gymnasium.spaces.Box)
    size, actions = policy.weights.shape[1] - 1, policy.weights.shape[0]
    found = Episodes(
        np.zeros((count, horizon, size)), np.zeros((count, horizon, actions)), np.zeros((count, horizon)),
        np.zeros((count, horizon), dtype=bool),
    )  # fmt: skip
    for episode in range(count):
        observation, _ = environment.reset(seed=next(seeds))
        for t in range(horizon):
            mean = policy.mean(np.asarray(observation, dtype=np.float64))
            action = mean + POLICY_STD * generator.standard_normal(actions)
            found.observations[episode, t], found.actions[episode, t] = observation, action
            observation, reward, terminated, _, _ = environment.step(
                np.clip(action, actions_box.low, actions_box.high).astype(actions_box.dtype)
            )
            found.rewards[episode, t] = min(max(float(reward), REWARD_LOW), REWARD_HIGH)
            found.valid[episode, t] = True
            if terminated:
                break
    return found


@dataclass(frozen=True, eq=False)
class LinearCritic:
    """Q_t(o, a) = w_t (c (o, a, 1)), kept in [0, range w_t] with w_t = sum_{t<=u<H} gamma^(u-t)."""

    coefficients: Array
    remaining: Array

    @staticmethod
    def fit(made: Episodes) -> LinearCritic:
        """Ridge regression on what is paid above the least from each step on."""
        horizon = made.rewards.shape[1]
        remaining = np.cumsum(DISCOUNT ** np.arange(horizon))[::-1]
        to_go, following = np.zeros_like(made.rewards), np.zeros(len(made.rewards))
        for t in reversed(range(horizon)):
            following = to_go[:, t] = (
                np.where(made.valid[:, t], made.rewards[:, t], 0) - REWARD_LOW + DISCOUNT * following
            )
        inputs = LinearCritic._inputs(made.observations, made.actions)[made.valid]
        targets = (to_go / remaining)[made.valid]
        ridge = 1e-2 * len(inputs) * np.eye(inputs.shape[1])
        ridge[-1, -1] = 0.0
        coefficients = np.asarray(np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets), dtype=np.float64)
        return LinearCritic(coefficients, remaining)

    @staticmethod
    def _inputs(observations: Array, actions: Array) -> Array:
        return np.concatenate([observations, actions, np.ones((*actions.shape[:-1], 1))], axis=-1)

    def values(self, observations: Array, actions: Array) -> Array:
        """[N, H, ...]."""
        remaining = self.remaining.reshape(1, -1, *([1] * (observations.ndim - 3)))
        predicted = self._inputs(observations, actions) @ self.coefficients
        return np.asarray(np.clip(predicted, 0.0, REWARD_HIGH - REWARD_LOW) * remaining)


@dataclass(frozen=True)
class MujocoRow:
    """One policy certified on one environment.

    Attributes:
        environment, policy: which; "near" or "far".
        total_variation: mean per step, on the data.
        truth: mean return of fresh episodes, and its standard error.
        report: what ``certify`` says.
    """

    environment: str
    policy: str
    total_variation: float
    truth: tuple[float, float]
    report: Certification

    @property
    def share(self) -> float:
        """How much of the way from the least possible return to the true one is certain."""
        assert self.report.lower_bound is not None
        return (self.report.lower_bound - self.report.trivial) / (self.truth[0] - self.report.trivial)


def best_random_policy(
    environment: gymnasium.Env[Any, Any], seeds: Iterator[int], generator: np.random.Generator
) -> GaussianPolicy:
    """The best of a few random policies, each by one short episode: something to certify."""
    shape = (
        int(np.prod(environment.action_space.shape or ())),
        int(np.prod(environment.observation_space.shape or ())),
    )
    found = []
    for _ in range(SEARCHED):
        policy = GaussianPolicy(generator.standard_normal((shape[0], shape[1] + 1)) * 0.3)
        made = episodes_of(environment, policy, 1, SEARCH_STEPS, seeds, generator)
        found.append((float(made.rewards.sum()), policy))
    return max(found, key=lambda each: each[0])[1]


def evidence_of(made: list[Episodes], data: list[GaussianPolicy], policy: GaussianPolicy, critic: LinearCritic,
                generator: np.random.Generator) -> Evidence:  # fmt: skip
    """Everything certify needs: rewards, two log densities of every action, and a critic with draws of the policy."""
    observations, actions = (np.concatenate([getattr(each, name) for each in made])
                             for name in ("observations", "actions"))  # fmt: skip
    at = np.repeat(observations[:, :, None], DRAWS, axis=2)
    drawn = policy.mean(at) + POLICY_STD * generator.standard_normal((*at.shape[:-1], actions.shape[-1]))
    sizes = np.cumsum([0] + [len(each.rewards) for each in made])
    rows = [slice(first, last) for first, last in pairwise(sizes)]
    return Evidence(
        rewards=np.concatenate([each.rewards for each in made]),
        valid=np.concatenate([each.valid for each in made]),
        log_policy=policy.log_density(observations, actions),
        log_data_policy=np.concatenate(
            [each.log_density(observations[row], actions[row]) for each, row in zip(data, rows, strict=True)]
        ),
        data_policy=np.concatenate([np.full(len(each.rewards), index) for index, each in enumerate(made)]),
        critic=critic.values(observations, actions), critic_draws=critic.values(at, drawn),
        log_policy_draws=policy.log_density(at, drawn),
        log_data_policy_draws=np.concatenate(
            [each.log_density(at[row], drawn[row]) for each, row in zip(data, rows, strict=True)]
        ),
        reward_low=REWARD_LOW, reward_high=REWARD_HIGH, discount=DISCOUNT, policy_dependence="independent",
        critic_dependence="independent",
    )  # fmt: skip


def total_variation(evidence: Evidence) -> float:
    """Mean over the data of max(0, 1 - pi/pi_D)."""
    assert evidence.log_policy is not None
    assert evidence.log_data_policy is not None
    ratio = (evidence.log_policy - evidence.log_data_policy)[evidence.happened]
    return float(np.mean(-np.expm1(np.minimum(ratio, 0.0))))


def measure(config: MujocoConfig) -> list[MujocoRow]:
    """Both policies on every environment."""
    rows = []
    steps = len(config.environments) * 4
    with tqdm(total=steps, desc="collecting", file=sys.stderr, leave=False) as bar:
        for number, name in enumerate(config.environments):
            generator = np.random.default_rng([config.seed, number])
            seeds = iter(int(each) for each in generator.integers(2**31, size=100_000))
            environment = gymnasium.make(name, max_episode_steps=config.horizon)
            try:
                certified = best_random_policy(environment, seeds, generator)
                start = episodes_of(environment, certified, 2, config.horizon, seeds, generator).observations
                data = [certified.moved(start, config.near * share, generator) for share in (1.2, 0.8)]
                policies = {"near": certified, "far": certified.moved(start, config.far, generator)}

                def collected(count: int, data: list[GaussianPolicy] = data, environment: Any = environment,
                              seeds: Iterator[int] = seeds,
                              generator: np.random.Generator = generator) -> list[Episodes]:  # fmt: skip
                    return [
                        episodes_of(environment, policy, part, config.horizon, seeds, generator)
                        for policy, part in zip(data, ((count + 1) // 2, count // 2), strict=True)
                    ]

                fitted = collected(config.critic_episodes)
                critic = LinearCritic.fit(
                    Episodes(*(np.concatenate([getattr(each, field) for each in fitted])
                               for field in ("observations", "actions", "rewards", "valid")))
                )  # fmt: skip
                bar.update()
                made = collected(config.episodes)
                bar.update()
                for label, policy in policies.items():
                    evidence = evidence_of(made, data, policy, critic, generator)
                    report = certify(evidence)
                    fresh = episodes_of(environment, policy, config.truth_episodes, config.horizon, seeds, generator)
                    returns = fresh.rewards @ DISCOUNT ** np.arange(config.horizon)
                    rows.append(MujocoRow(name, label, total_variation(evidence), mean_and_error(returns), report))
                    bar.update()
            finally:
                environment.close()
    return rows
