"""Process noise and the exact one-step density of the certifiable MuJoCo environments."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.envs.protocol import CertifiableDynamics, FilteredDynamics, KnownReward
from m3po.foreign.checked_environment import to_environment

FWD_BWD, PIER, WALKER = "m3po/HalfCheetahFwdBwd-v0", "m3po/HalfCheetahPier-v0", "m3po/Walker2dRandomParams-v0"
ANT, CRIPPLED, HUMANOID = "m3po/AntFwdBwd-v0", "m3po/AntCrippledLeg-v0", "m3po/HumanoidDirec-v0"
NOISE = 0.02
CERTIFIABLE: list[tuple[str, dict[str, Any]]] = [
    (FWD_BWD, {}),
    (FWD_BWD, {"observe_reward": False}),
    (WALKER, {}),
    (WALKER, {"observe_reward": True}),
    (PIER, {"observe_pier": True}),
]
certifiable = pytest.mark.parametrize(("env_id", "options"), CERTIFIABLE)


def make(env_id: str, **options: Any) -> Any:
    settings: dict[str, Any] = {"process_noise": NOISE, "reward_range": (-10.0, 10.0)} | options
    return gym.make(env_id, **settings).unwrapped


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 6)).astype(np.float32)


def walk(environment: Any, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Steps of several episodes, with the standard normal numbers behind every one of them."""
    rows: dict[str, list[Any]] = {"before": [], "action": [], "task": [], "after": [], "normal": []}
    observation, info = environment.reset(seed=seed)
    for action in actions(steps, seed):
        generator = copy.deepcopy(environment.np_random)
        rows["before"].append(observation)
        rows["action"].append(action)
        rows["task"].append(info["task"])
        observation, _, terminated, _, info = environment.step(action)
        rows["after"].append(observation)
        rows["normal"].append(generator.standard_normal(len(observation)))
        if terminated:
            observation, info = environment.reset()
    return {name: np.array(values) for name, values in rows.items()}


@certifiable
def test_the_next_observation_is_the_map_plus_the_noise_bit_for_bit(env_id, options):
    """o' = f_task(o, a) + noise * xi in a long run: root position, contact solver and past leave no trace."""
    environment = make(env_id, switch_probability=0.05, **options)
    data = walk(environment, 1500)
    mean = environment.dynamics.mean(data["before"], data["action"].astype(float), data["task"])
    np.testing.assert_array_equal(data["after"], mean + NOISE * data["normal"])
    assert len(set(data["task"].tolist())) > 1


@certifiable
def test_the_map_is_that_of_the_task_whatever_was_asked_before(env_id, options):
    observation = make(env_id, **options).reset(seed=0)[0]
    action = actions(1)[0].astype(float)
    alone = [make(env_id, **options).dynamics.mean(observation, action, np.array(task)) for task in (0, 1)]
    together = make(env_id, **options).dynamics.mean(
        np.tile(observation, (4, 1)), np.tile(action, (4, 1)), np.array([1, 0, 1, 0])
    )
    np.testing.assert_array_equal(together, [alone[1], alone[0], alone[1], alone[0]])
    live = make(env_id, **{**options, "process_noise": NOISE}, switch_probability=0.0)
    for task in (0, 1):
        start = live.reset(seed=0, options={"task": task})[0]
        np.testing.assert_array_equal(start, observation)
        generator = copy.deepcopy(live.np_random)
        after = live.step(actions(1)[0])[0]
        np.testing.assert_array_equal(after, alone[task] + NOISE * generator.standard_normal(len(after)))


def test_the_map_is_the_bodys_step():
    """f against gymnasium's own step from the same state; only the solver's start differs, so not to the bit."""
    environment = make(FWD_BWD)
    plain = make(FWD_BWD, process_noise=0.0, reward_range=None, switch_probability=0.0)
    data = walk(environment, 200)
    mean = environment.dynamics.mean(data["before"], data["action"].astype(float), data["task"])
    for before, action, task, expected in zip(data["before"], data["action"], data["task"], mean, strict=True):
        plain.reset(options={"task": int(task)})
        plain.set_state(np.concatenate([[3.7], before[:8]]), before[8:17])
        np.testing.assert_allclose(plain.step(action)[0], expected, atol=2e-5)


@certifiable
def test_log_density_is_scipys_normal_around_the_map(env_id, options):
    noise = np.linspace(0.01, 0.3, len(make(env_id, **options).reset(seed=0)[0]))
    environment = make(env_id, switch_probability=0.2, **{**options, "process_noise": noise})
    data = walk(environment, 30)
    arguments = data["before"], data["action"].astype(float), data["task"]
    mean = environment.dynamics.mean(*arguments)
    expected = stats.norm.logpdf(data["after"], mean, noise).sum(axis=1)
    np.testing.assert_allclose(environment.dynamics.log_density(data["after"], *arguments), expected, rtol=1e-10)
    # leading dimensions are free
    shaped = [each.reshape(5, 6, *each.shape[1:]) for each in (data["after"], *arguments)]
    np.testing.assert_allclose(environment.dynamics.log_density(*shaped), expected.reshape(5, 6), rtol=1e-10)


@certifiable
def test_steps_of_the_environment_follow_the_density(env_id, options):
    """One state and action, many draws of the environment itself: Kolmogorov-Smirnov per coordinate, correlations."""
    environment = make(env_id, switch_probability=0.0, **options)
    environment.reset(seed=0)
    for action in actions(6):
        before, *_, info = environment.step(action)
    task, action = info["task"], actions(1, 9)[0]
    qpos, qvel = environment.data.qpos.copy(), environment.data.qvel.copy()
    after = []
    for _ in range(1500):
        environment.data.qpos[:], environment.data.qvel[:] = qpos, qvel
        after.append(environment.step(action)[0])
    mean = environment.dynamics.mean(before, action.astype(float), np.array(task))
    standardised = (np.array(after) - mean) / NOISE
    assert min(stats.kstest(column, "norm").pvalue for column in standardised.T) > 1e-4
    assert np.abs(np.corrcoef(standardised.T) - np.eye(len(mean))).max() < 0.15
    log_density = environment.dynamics.log_density(np.array(after), before, action.astype(float), np.array(task))
    entropy = len(mean) * (0.5 * (1 + np.log(2 * np.pi)) + np.log(NOISE))
    assert abs(log_density.mean() + entropy) < 4 * log_density.std() / np.sqrt(len(after))


def test_the_density_integrates_to_one():
    """Importance sampling with a wider, shifted normal: the mean of p/q is 1 within four standard errors."""
    environment = make(FWD_BWD)
    before, info = environment.reset(seed=0)
    action, task = actions(1)[0].astype(float), np.array(info["task"])
    mean = environment.dynamics.mean(before, action, task)
    spread = 1.15 * NOISE
    generator = np.random.default_rng(0)
    points = mean + 0.1 * NOISE + spread * generator.standard_normal((6000, len(mean)))
    log_q = stats.norm.logpdf(points, mean + 0.1 * NOISE, spread).sum(axis=1)
    ratio = np.exp(environment.dynamics.log_density(points, before, action, task) - log_q)
    assert ratio.std() / np.sqrt(len(ratio)) < 0.02
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_actions_mean_the_same_through_every_door():
    """As the policy's number, as the environment gets it from run_episodes, and when handed to step directly."""
    environment = make(FWD_BWD, switch_probability=0.0)
    box = environment.action_space
    before, info = environment.reset(seed=3)
    task = np.array(info["task"])
    qpos, qvel = environment.data.qpos.copy(), environment.data.qvel.copy()
    for action in actions(50, 4):
        executed = to_environment(torch.as_tensor(action), box)
        outcomes = []
        for handed in (action, executed):
            environment.data.qpos[:], environment.data.qvel[:] = qpos, qvel
            generator = copy.deepcopy(environment.np_random)
            after = environment.step(handed)[0]
            outcomes.append(after - NOISE * generator.standard_normal(len(after)))
        mean = environment.dynamics.mean(before, action.astype(float), task)
        for outcome in outcomes:
            np.testing.assert_allclose(outcome, mean, rtol=0, atol=1e-14)


def test_rows_without_a_step_are_zero():
    dynamics = make(WALKER).dynamics
    observation = np.zeros((2, 17))
    observation[:, 0] = 1.25
    values = dynamics.log_density(observation, observation, np.zeros((2, 6)), np.array([3, -1]))
    assert (values == 0).tolist() == [False, True]


def test_looking_at_the_density_does_not_disturb_the_episode():
    rows = []
    for look in (False, True):
        environment = make(WALKER, switch_probability=0.3)
        observation, info = environment.reset(seed=1)
        row = []
        for action in actions(10):
            if look:
                environment.dynamics.mean(observation, action.astype(float), np.array(info["task"] // 2))
            observation, reward, _, _, info = environment.step(action)
            row.append((observation.tobytes(), reward, info["task"]))
        rows.append(row)
    assert rows[0] == rows[1]


# Who has dynamics


@certifiable
def test_what_dynamics_offer(env_id, options):
    dynamics = make(env_id, **options).dynamics
    assert isinstance(dynamics, CertifiableDynamics)
    assert not isinstance(dynamics, FilteredDynamics)
    assert not isinstance(dynamics, KnownReward)  # the reward depends on the task or on what is not observed
    assert (dynamics.reward_low, dynamics.reward_high) == (-10.0, 10.0)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        (FWD_BWD, {"process_noise": 0.0}),
        (FWD_BWD, {"reward_range": None}),  # the velocity, and with it the reward, is not bounded
        (FWD_BWD, {"process_noise": [0.02] * 17 + [0.0]}),  # an observed reward without noise is a point mass
        (WALKER, {"process_noise": [0.0] + [0.02] * 16}),
        (PIER, {}),  # the hidden blocks
        (ANT, {}),
        (CRIPPLED, {}),
        (HUMANOID, {}),
    ],
)
def test_where_there_is_no_density_there_are_no_dynamics(env_id, options):
    assert make(env_id, **options).dynamics is None


# Process noise itself


@pytest.mark.parametrize("env_id", [FWD_BWD, PIER, WALKER, ANT, CRIPPLED, HUMANOID])
def test_noise_moves_the_state_and_not_the_reward_or_what_is_hidden(env_id):
    still, noisy = (gym.make(env_id, process_noise=noise, switch_probability=0.0).unwrapped for noise in (0.0, 0.01))
    action = np.zeros(still.action_space.shape)  # type: ignore[type-var]
    rows = []
    for environment in (still, noisy):
        environment.reset(seed=0, options={"task": 1})
        rows.append(environment.step(action))
    assert rows[0][1] == pytest.approx(rows[1][1], abs=1e-4)  # paid before the noise
    difference = rows[1][0] - rows[0][0]
    assert 0.002 < difference.std() < 0.02
    assert np.all(difference != 0)
    states: list[Any] = [still, noisy]
    hidden = 2 if env_id in (ANT, CRIPPLED, HUMANOID) else 1
    np.testing.assert_allclose(states[0].data.qpos[:hidden], states[1].data.qpos[:hidden], atol=1e-6)
    if env_id == PIER:
        np.testing.assert_allclose(states[0].data.qpos[9:], states[1].data.qpos[9:], atol=1e-6)
    if hidden == 2:
        assert np.linalg.norm(states[1].data.qpos[3:7]) == pytest.approx(1.0, abs=1e-12)
    # the state is what was seen
    seen = np.concatenate([states[1].data.qpos[noisy.get_wrapper_attr("observed_positions")]])
    np.testing.assert_array_equal(rows[1][0][: len(seen)], seen)


def test_the_root_travels_on_under_noise():
    environment = make(FWD_BWD, process_noise=1e-9, switch_probability=0.0)
    plain = make(FWD_BWD, process_noise=0.0, switch_probability=0.0)
    for each in (environment, plain):
        each.reset(seed=2, options={"task": 0})
        each.data.qpos[0] = 25.0
    for action in actions(20):
        noisy_info, info = environment.step(action)[4], plain.step(action)[4]
        assert noisy_info["x_position"] == pytest.approx(info["x_position"], abs=1e-3)
        assert noisy_info["x_position"] == environment.data.qpos[0]
