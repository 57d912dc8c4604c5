"""Other people's algorithms train on every environment as it is registered."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import m3po.envs  # noqa: F401 (registers the environments)
from tests.m3po.envs.test_conformance import ALL, every_environment

STEPS = 3000


@pytest.mark.slow
@every_environment
def test_stable_baselines_sac_trains_unmodified(env_id):
    stable_baselines = pytest.importorskip("stable_baselines3")
    environment = gym.make(env_id)
    agent = stable_baselines.SAC(
        "MlpPolicy", environment, learning_starts=200, train_freq=8, batch_size=64, seed=0, device="cpu"
    )
    before = [parameter.detach().clone() for parameter in agent.actor.parameters()]
    agent.learn(STEPS)
    assert agent.num_timesteps >= STEPS
    assert any((old != new).any() for old, new in zip(before, agent.actor.parameters(), strict=True))
    action, _ = agent.predict(environment.reset(seed=0)[0])
    assert action in environment.action_space


@pytest.mark.slow
@every_environment
def test_recurrent_ppo_trains_unmodified_on_a_vector_of_them(env_id):
    contrib = pytest.importorskip("sb3_contrib")
    make_vec_env = pytest.importorskip("stable_baselines3.common.env_util").make_vec_env
    environments = make_vec_env(env_id, n_envs=2, seed=0)
    agent = contrib.RecurrentPPO(
        "MlpLstmPolicy", environments, n_steps=250, batch_size=125, n_epochs=2, seed=0, device="cpu"
    )
    agent.learn(STEPS)
    assert agent.num_timesteps >= STEPS
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in agent.policy.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(infinity|symmetric and normalized).*")
@every_environment
def test_stable_baselines_own_checker_passes(env_id):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    assert env_id in ALL
    checker.check_env(gym.make(env_id).unwrapped, skip_render_check=True)
