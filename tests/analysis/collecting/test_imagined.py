"""Models of users: branched returns against plain loops, densities against the environment's own, refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation
from scipy import stats

from analysis.certify import certify, collect, from_dataset
from analysis.collecting.episodes import Episodes, run
from analysis.collecting.imagined import Imagined, branched_returns
from analysis.collecting.policies import acting_of
from m3po.envs.process_noise import ProcessNoise, StateAccess
from tests.analysis.collecting.strange import DISCOUNT, HORIZON, Gains, Recorded

STD = 0.3
KNOWN: dict[str, Any] = {
    "reward_low": 0.0, "reward_high": 1.0, "discount": DISCOUNT, "absorbing": True, "horizon": HORIZON,
}  # fmt: skip


class Slope(gym.Env[Any, Any]):
    """s' = 0.8 s + 0.5 a, paid exp(-s^2); everything random is the noise that is put on it."""

    def __init__(self) -> None:
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = Box(-2.0, 2.0, (1,), np.float32)
        self.state = np.zeros(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.standard_normal(1)
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(paid(self.state, action))
        self.state = 0.8 * self.state + 0.5 * np.asarray(action, np.float64)
        return self.state, reward, False, False, {}


def paid(observation: Any, action: Any) -> Any:
    return np.exp(-(observation[..., 0] ** 2))


def put(body: Any, state: Any) -> None:
    body.state = state.copy()


def slope(ends: float = np.inf) -> ProcessNoise:
    """Ends beyond ``ends``."""
    access = StateAccess(
        get=lambda body: body.state.copy(), set=put, observe=lambda state: state, coordinates=lambda seen: seen,
        ends=lambda seen: seen[:, 0] > ends,
    )  # fmt: skip
    return ProcessNoise(Slope(), STD, access=access)


@dataclass
class Model:
    """The truth with a bias, another spread, and rewards that are too high."""

    bias: float = 0.0
    std: float = STD
    extra: float = 0.0

    def mean(self, observation: Any, action: Any) -> Any:
        return 0.8 * observation + 0.5 * action + self.bias

    def sample(self, observation: Any, action: Any, generator: np.random.Generator) -> Any:
        return self.mean(observation, action) + self.std * generator.standard_normal(observation.shape)

    def log_prob(self, observation: Any, action: Any, next_observation: Any) -> Any:
        return stats.norm.logpdf(next_observation, self.mean(observation, action), self.std).sum(axis=1)

    def reward(self, observation: Any, action: Any) -> Any:
        return paid(observation, action) + self.extra


def steady(observation: Any) -> Any:
    return np.clip(-0.5 * observation, -2, 2)


@pytest.mark.parametrize("rollout_length", [1, 2, 3, 10, None])
@pytest.mark.parametrize("ends", [np.inf, 0.3])
def test_branched_returns_are_those_of_the_definition(rollout_length: int | None, ends: float) -> None:
    """Without noise in policy and model, by plain loops over t, i, and the steps in the model."""
    environment, model, generator = slope(ends), Model(bias=0.3, std=0.0), np.random.default_rng(0)
    policy = acting_of(steady, deterministic=False, seed=0)
    episodes = Episodes.of(run([environment], "slope", policy, 6, HORIZON, range(6), generator), HORIZON)
    assert episodes.valid.all() == (ends == np.inf)
    imagined = Imagined(model, model.reward, lambda seen: seen, lambda state: state, environment.access.ends)
    found = branched_returns(
        imagined, policy, episodes, discount=DISCOUNT, rollout_length=rollout_length, generator=generator
    )
    for n, episode in enumerate(episodes.all):
        total = 0.0
        for t in range(HORIZON):
            values = []
            for i in [t] if rollout_length is None or t == 0 else range(1, min(t, rollout_length) + 1):
                value = 0.0
                if t - i < len(episode):
                    state, alive = float(episode.observations[t - i][0]), True
                    for _ in range(i):
                        state = 0.8 * state + 0.5 * -0.5 * state + 0.3
                        alive = alive and state <= ends
                    value = alive * np.exp(-(state**2))
                values.append(value)
            total += DISCOUNT**t * float(np.mean(values))
        assert found[n] == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("rollout_length", [1, 3, "full"])
def test_a_perfect_model_promises_what_is_earned(rollout_length: Any) -> None:
    evidence = collect(slope(), Gains(0.5), Model(), episodes=150, rollout_length=rollout_length, **KNOWN)
    assert evidence.log_density is not None
    assert evidence.log_model_density is not None
    assert evidence.model_returns is not None
    assert evidence.rewards is not None
    np.testing.assert_allclose(evidence.log_model_density, evidence.log_density, atol=1e-9)
    assert evidence.predicted_rewards is not None
    np.testing.assert_allclose(evidence.predicted_rewards, evidence.rewards, atol=1e-12)
    earned = evidence.rewards @ DISCOUNT ** np.arange(HORIZON)
    error = (earned.var() + evidence.model_returns.var()) ** 0.5 / 150**0.5
    assert abs(earned.mean() - evidence.model_returns.mean()) < 4 * error
    if rollout_length == 1:
        ways = {each.name: each for each in certify(evidence).lower_bounds}
        assert (ways["theorem-5"].estimate or 0.0) == pytest.approx(evidence.model_returns.mean(), abs=1e-6)


def test_a_model_that_is_wrong_promises_less_than_it_says() -> None:
    right, wrong, boasting = (
        {each.name: each for each in certify(collect(slope(), Gains(0.5), model, episodes=60, **KNOWN)).lower_bounds}
        for model in (Model(), Model(bias=0.3), Model(extra=0.4))
    )
    assert (wrong["theorem-5"].estimate or 0.0) < (right["theorem-5"].estimate or 0.0) - 0.3
    assert (boasting["theorem-5"].estimate or 0.0) < (right["theorem-5"].estimate or 0.0) + 0.05


def test_an_older_policys_episodes_certify_a_model_too() -> None:
    found = certify(collect(slope(), Gains(0.6), Model(), data_policy=Gains(0.5), episodes=100, **KNOWN))
    tried = {each.name for each in found.lower_bounds if each.value is not None}
    assert tried == {"importance-weights", "theorem-5", "theorem-4"}


def _as_steps(infos: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"log_density": value, "other": None} for value in infos["log_density"][1:]]


def test_densities_that_a_dataset_holds_are_used() -> None:
    environment, policy, recordings = slope(), Gains(0.5), []
    for i in range(50):
        seen, actions, rewards, told = [environment.reset(seed=i)[0]], [], [], []
        for _ in range(HORIZON):
            actions.append(np.float32(policy(seen[-1])))
            observation, reward, _, _, info = environment.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
            told.append(info["log_density"])
        nothing = np.zeros(HORIZON, dtype=bool)
        infos = {"log_density": np.array([0.0, *told])}
        recordings.append(Recorded(np.array(seen), np.array(actions), np.array(rewards), nothing, nothing, infos))
    found = from_dataset(recordings, policy, policy, model=Model(), env=environment, **KNOWN)
    assert found.log_density is not None
    assert found.log_model_density is not None
    np.testing.assert_allclose(found.log_model_density, found.log_density, atol=1e-5)
    for first in (0, 1):  # as steps return them, with what reset told or without
        listed = [replace(each, infos=[{}] * first + _as_steps(each.infos)) for each in recordings]
        again = from_dataset(listed, policy, policy, model=Model(), env=environment, **KNOWN)
        np.testing.assert_array_equal(again.log_density, found.log_density)
    with pytest.raises(ValueError, match="model needs env"):
        from_dataset(recordings, policy, policy, model=Model(), **KNOWN)
    recordings[3].infos.clear()
    with pytest.raises(ValueError, match="episode 3 has no log_density in its infos"):
        from_dataset(recordings, policy, policy, model=Model(), env=environment, **KNOWN)


class Swing:
    """Pendulum's own equations, in angle and angular velocity."""

    def __init__(self, std: float, size: int = 2) -> None:
        self.std, self.size = std, size

    def mean(self, seen: Any, action: Any) -> Any:
        angle, push = np.arctan2(seen[:, 1], seen[:, 0]), np.clip(action[:, 0], -2, 2)
        velocity = seen[:, 2] + (15.0 * np.sin(angle) + 3.0 * push) * 0.05
        velocity = np.clip(velocity, -8, 8)
        return np.stack([angle + 0.05 * velocity, velocity], axis=1)

    def sample(self, seen: Any, action: Any, generator: np.random.Generator) -> Any:
        drawn = self.mean(seen, action) + self.std * generator.standard_normal((len(seen), 2))
        return drawn if self.size == 2 else np.column_stack([np.cos(drawn[:, 0]), np.sin(drawn[:, 0]), drawn[:, 1]])

    def log_prob(self, seen: Any, action: Any, following: Any) -> Any:
        assert following.shape[1] == 2
        moved = following - self.mean(seen, action)
        moved[:, 0] = (moved[:, 0] + np.pi) % (2 * np.pi) - np.pi
        return stats.norm.logpdf(moved, scale=self.std).sum(axis=1)

    def reward(self, seen: Any, action: Any) -> Any:
        angle = np.arctan2(seen[:, 1], seen[:, 0])
        return -(angle**2 + 0.1 * seen[:, 2] ** 2 + 0.001 * np.clip(action[:, 0], -2, 2) ** 2)


PENDULUM: dict[str, Any] = {
    "episodes": 20, "reward_low": -20.0, "reward_high": 0.0, "discount": 0.9, "absorbing": True, "horizon": 20,
}  # fmt: skip


def test_redundant_coordinates_are_taken_out_of_the_density() -> None:
    """A cosine and a sine are one angle: the model tells angle and velocity, and its density is the environment's."""
    environment = ProcessNoise(gym.make("Pendulum-v1"), 0.05)
    push = lambda seen: np.clip(-seen[1:2], -2, 2)  # noqa: E731
    found = collect(environment, push, Swing(0.05), **PENDULUM)
    assert found.log_density is not None
    assert found.log_model_density is not None
    np.testing.assert_allclose(found.log_model_density, found.log_density, atol=1e-6)
    assert found.predicted_rewards is not None
    assert found.rewards is not None
    np.testing.assert_allclose(found.predicted_rewards, found.rewards, atol=1e-5)
    known = collect(environment, push, Swing(0.05), reward=Swing(0.05).reward, **PENDULUM)
    assert known.predicted_rewards is None
    with pytest.raises(ValueError, match="3 numbers that 2 coordinates determine, so that no density on all of them"):
        collect(environment, push, Swing(0.05, size=3), **PENDULUM)


class Silent(Model):
    reward = None  # type: ignore[assignment]


class Broken(Model):
    def log_prob(self, observation: Any, action: Any, next_observation: Any) -> Any:
        return np.full(len(observation), np.nan)


class Flat(Model):
    def sample(self, observation: Any, action: Any, generator: np.random.Generator) -> Any:
        return super().sample(observation, action, generator)[:, 0]


@pytest.mark.parametrize(
    ("environment", "changes", "match"),
    [
        (Slope(), {}, "the one-step density of Slope is not known, so that no model of it can be certified"),
        (TransformObservation(slope(), lambda o: 10 * o, None), {}, "TransformObservation outside of ProcessNoise"),
        (slope(), {"model": Silent()}, "the model predicts no reward"),
        (slope(), {"model": Broken()}, r"model.log_prob returned NaN, expected \[20\] numbers"),
        (slope(), {"model": Flat()}, r"model.sample returned shape \[20\], expected \[20, 1\] numbers"),
        (slope(), {"reward": lambda o, a: 0.5 * paid(o, a)}, "is not the environment's own function"),
        (slope(), {"rollout_length": 0}, "rollout_length must be a whole number >= 1, got 0"),
    ],
)
def test_models_that_cannot_be_certified_are_refused(environment: Any, changes: dict[str, Any], match: str) -> None:
    settings = KNOWN | {"model": Model(), "episodes": 20} | changes
    with pytest.raises(ValueError, match=match):
        collect(environment, Gains(0.5), **settings)
