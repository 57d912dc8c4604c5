"""This project's algorithm and other people's train on every environment as it is registered."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.agents.m3po import M3PO
from m3po.config import Config
from m3po.episodes import run_episodes
from m3po.errors import error_metrics
from m3po.train import train
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


SMALL: dict[str, Any] = {
    "device": "cpu",
    "history_length": 3,
    "context_size": 8,
    "width": 16,
    "ensemble_size": 2,
    "model_updates": 20,
    "updates_per_step": 1,
    "rollouts_per_step": 10,
    "measure_episodes": 3,
    "evaluation_episodes": 2,
}


@pytest.mark.slow
@every_environment
def test_m3po_trains_on_them(env_id, tmp_path):
    """Episodes that end early included: rollouts in the model end there too."""
    directory = train(Config(run_dir=tmp_path / "run", env_id=env_id, total_steps=500, rollout_length=3, **SMALL))
    assert directory.complete
    rows = directory.metrics()
    assert rows[-1]["step"] == 500
    assert np.isfinite(rows[-1]["return"])
    assert ("eps_m" in rows[-1]) == (env_id == ALL[0])  # no density without noise: surrogates only


CERTIFIABLE = {
    "HalfCheetahFwdBwd": {"process_noise": 0.3, "reward_range": (-10.0, 10.0), "switch_period": 7},
    "Walker2dRandomParams": {"process_noise": 0.3, "reward_range": (-10.0, 10.0), "switch_period": 7},
}


@pytest.mark.parametrize("name", CERTIFIABLE)
def test_the_model_error_is_measured_where_there_is_a_density(name, tmp_path, monkeypatch):
    """The whole way from episodes, some of which end early, to eps_m against the simulated density."""
    env_id = f"m3po-test/{name}-v0"
    entry_point = gym.spec(f"m3po/{name}-v0").entry_point
    monkeypatch.setitem(gym.registry, env_id, gym.envs.registration.EnvSpec(
        id=env_id, entry_point=entry_point, max_episode_steps=12, kwargs=CERTIFIABLE[name]
    ))  # fmt: skip
    training = M3PO(Config(run_dir=tmp_path / "run", env_id=env_id, **SMALL))
    generator = torch.Generator().manual_seed(0)
    episodes = run_episodes(env_id, training.policy, 20, seed=0, generator=generator)
    assert episodes.valid.all() == (name == "HalfCheetahFwdBwd")  # a walker under this noise falls
    dynamics = training.offers.dynamics
    assert dynamics is not None
    row = error_metrics(training.model, training.policy, None, episodes, dynamics, confidence=0.9, generator=generator)
    assert 0.9 < row["eps_m"] <= 1  # the model is untrained
    # and a model that is the truth has no error: the density against itself
    observations, actions = episodes.observations, episodes.actions.astype(np.float64)
    arguments = observations[:, 1:], observations[:, :-1], actions, episodes.tasks
    log_density = dynamics.log_density(*arguments)
    valid = episodes.valid
    entropy_per_coordinate = 0.5 * np.log(2 * np.pi * np.e) + np.log(0.3)
    expected = -entropy_per_coordinate * observations.shape[-1]
    assert log_density[valid].mean() == pytest.approx(expected, abs=5 * np.sqrt(0.5 * 18 / valid.sum()))
    assert np.all(log_density[~valid] == 0)
