"""Policies of Stable-Baselines3 as distributions: what is drawn, and what its density is."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from analysis.collecting.episodes import Episode, Episodes
from analysis.collecting.policies import acting_of

stable_baselines = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")

N = 6


class Anything(gym.Env[Any, Any]):
    """Shows random numbers, takes what its space has."""

    def __init__(self, action_space: Any, observation_space: Any = None) -> None:
        self.action_space = action_space
        self.observation_space = observation_space or Box(-1.0, 1.0, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


BOX = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))


def made(kind: str, action_space: Any = BOX, observation_space: Any = None, **settings: Any) -> Any:
    library = contrib if hasattr(contrib, kind) else stable_baselines
    network = "MultiInputPolicy" if isinstance(observation_space, Dict) else "MlpPolicy"
    network = "MlpLstmPolicy" if kind == "RecurrentPPO" else network
    small = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 1} | settings
    if kind in ("SAC", "TD3", "DQN", "TQC"):
        small["buffer_size"] = 10
    return getattr(library, kind)(network, Anything(action_space, observation_space), **small)


def observations(seed: int = 0, count: int = N) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["PPO", "A2C", "TRPO", "SAC", "TQC", "TD3", "RecurrentPPO"])
def test_the_mode_is_what_predict_says(kind: str) -> None:
    model = made(kind)
    choice, _ = acting_of(model, deterministic=True, seed=0).actions(observations(), None)
    expected = model.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(choice.draw(np.random.default_rng(0)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["PPO", "SAC"])
def test_draws_have_the_density(kind: str) -> None:
    """Of draws of one policy, the ratio to another's density has mean one."""
    seen = np.repeat(observations(count=1), 20_000, axis=0)
    models = [made(kind, seed=seed) for seed in (1, 2)]
    if kind == "PPO":
        models[1].policy.log_std.data[:] = -0.2
    drawing, other = (acting_of(each, deterministic=False, seed=0).actions(seen, None)[0] for each in models)
    drawn = drawing.draw(np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert all(BOX.contains(each) for each in drawn[:100])
    weights = np.exp(other.log_density(drawn) - drawing.log_density(drawn))
    assert weights.std() > 0.01
    assert abs(weights.mean() - 1) < 5 * weights.std() / len(weights) ** 0.5


def test_the_density_of_a_clipped_gaussian_is_stable_baselines_own_inside() -> None:
    model = made("PPO")
    choice, _ = acting_of(model, deterministic=False, seed=0).actions(observations(), None)
    inside = np.clip(choice.draw(np.random.default_rng(0)), BOX.low + 0.1, BOX.high - 0.1)
    with torch.no_grad():
        _, expected, _ = model.policy.evaluate_actions(torch.as_tensor(observations()), torch.as_tensor(inside))
    np.testing.assert_allclose(choice.log_density(inside), expected.numpy(), atol=1e-5)


def test_the_density_of_a_squashed_gaussian_is_stable_baselines_own_inside() -> None:
    model = made("SAC")
    choice, _ = acting_of(model, deterministic=False, seed=0).actions(observations(), None)
    unit = np.random.default_rng(0).uniform(-0.9, 0.9, (N, 2)).astype(np.float32)
    actor = model.policy.actor
    with torch.no_grad():
        distribution = actor.action_dist.proba_distribution(
            *actor.get_action_dist_params(torch.as_tensor(observations()))[:2]
        )
        expected = distribution.log_prob(torch.as_tensor(unit)).numpy()
    stretched = BOX.low + 0.5 * (unit + 1) * (BOX.high - BOX.low)
    jacobian = np.log((BOX.high - BOX.low) / 2).sum()
    np.testing.assert_allclose(choice.log_density(stretched) + jacobian, expected, atol=1e-3)


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete([3, 2]), MultiBinary(3)])
def test_choices_have_stable_baselines_own_probabilities(space: Any) -> None:
    model = made("PPO", space)
    choice, _ = acting_of(model, deterministic=False, seed=0).actions(observations(), None)
    drawn = choice.draw(np.random.default_rng(0))
    assert all(space.contains(each.astype(space.dtype) if isinstance(each, np.ndarray) else each) for each in drawn)
    with torch.no_grad():
        taken = torch.as_tensor(drawn, dtype=torch.float32)
        _, expected, _ = model.policy.evaluate_actions(torch.as_tensor(observations()), taken)
    np.testing.assert_allclose(choice.log_density(drawn), expected.numpy(), atol=1e-5)
    mode, _ = acting_of(model, deterministic=True, seed=0).actions(observations(), None)
    np.testing.assert_array_equal(
        mode.draw(np.random.default_rng(0)), model.predict(observations(), deterministic=True)[0]
    )
    seen = np.repeat(observations(count=1), 4000, axis=0)
    many = acting_of(model, deterministic=False, seed=0).actions(seen, None)[0]
    values, counts = np.unique(many.draw(np.random.default_rng(1)), axis=0, return_counts=True)
    probabilities = np.exp(many.log_density(np.resize(values, (4000, *values.shape[1:]))))[: len(values)]
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(counts / 4000, probabilities, atol=0.05)


def test_a_recurrent_policy_remembers_each_episode_by_itself() -> None:
    """The densities along recorded episodes are those that sb3-contrib computes with the states of ``predict``."""
    model = made("RecurrentPPO")
    horizon, seen = 4, [observations(t, 2) for t in range(5)]
    actions = np.random.default_rng(9).uniform(-1, 1, (horizon, 2, 2)).astype(np.float32) + np.array([0, 2], np.float32)
    found = Episodes(
        [Episode([each[i] for each in seen], [each[i] for each in actions], [0.0] * horizon, False) for i in range(2)],
        horizon,
    )
    log_densities = found.log_densities(acting_of(model, deterministic=False, seed=0))
    state = None
    for t in range(horizon):
        start = np.full(2, t == 0)
        before = (
            [torch.zeros(1, 2, 256) for _ in range(2)] if state is None else [torch.as_tensor(each) for each in state]
        )
        with torch.no_grad():
            distribution, _ = model.policy.get_distribution(
                torch.as_tensor(seen[t]), tuple(before), torch.as_tensor(start, dtype=torch.float32)
            )
        expected = distribution.log_prob(torch.as_tensor(actions[t])).numpy()
        np.testing.assert_allclose(log_densities[:, t], expected, atol=1e-5)
        _, state = model.predict(seen[t], state, start)
    fresh, _ = acting_of(model, deterministic=False, seed=0).actions(seen[3], None)
    assert not np.allclose(fresh.log_density(actions[3]), log_densities[:, 3], atol=1e-5)


def test_dictionaries_are_shown_as_they_are() -> None:
    space = Dict({"a": Box(-1, 1, (2,), np.float32), "b": Box(-1, 1, (1,), np.float32)})
    model = made("PPO", BOX, space)
    seen = {"a": observations()[:, :2], "b": observations()[:, 2:]}
    choice, _ = acting_of(model, deterministic=True, seed=0).actions(seen, None)
    np.testing.assert_allclose(
        choice.draw(np.random.default_rng(0)), model.predict(seen, deterministic=True)[0], atol=1e-6
    )


def test_observations_are_normalised_as_in_the_training() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vector = VecNormalize(DummyVecEnv([lambda: Anything(BOX)]))
    vector.obs_rms.mean[:], vector.obs_rms.var[:] = 3.0, 4.0
    model = stable_baselines.PPO("MlpPolicy", vector, device="cpu", seed=1)
    choice, _ = acting_of(model, deterministic=True, seed=0).actions(observations(), None)
    expected = model.predict((observations() - 3) / 2, deterministic=True)[0]
    np.testing.assert_allclose(choice.draw(np.random.default_rng(0)), expected, atol=1e-5)


def test_noise_that_is_shared_by_steps_is_refused() -> None:
    model = made("PPO", use_sde=True)
    with pytest.raises(ValueError, match="PPO explores with use_sde"):
        acting_of(model, deterministic=False, seed=0)
    acting_of(model, deterministic=True, seed=0)


@pytest.mark.parametrize("kind", ["TD3", "DQN"])
def test_policies_without_a_choice_have_no_density(kind: str) -> None:
    model = made(kind, Discrete(3) if kind == "DQN" else BOX)
    choice, _ = acting_of(model, deterministic=False, seed=0).actions(observations(), None)
    drawn = choice.draw(np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, model.predict(observations(), deterministic=True)[0])
    with pytest.raises(ValueError, match=f"{kind} has no density of its actions|{kind}"):
        choice.log_density(drawn)
