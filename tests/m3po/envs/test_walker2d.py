"""The walker: reward from raw positions, ranges of the random parameters, derived constants, gymnasium's body."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from scipy import stats

import m3po.envs  # noqa: F401 (registers the environments)

WALKER = "m3po/Walker2dRandomParams-v0"


def make(**options: Any) -> Any:
    return gym.make(WALKER, **options).unwrapped


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 6)).astype(np.float32)


def test_reward_from_raw_positions():
    """(x' - x) / 0.016 + 1 - 1e-3 |a|^2, the 1 only while height and angle are in their open ranges."""
    environment = make(switch_probability=0.05)
    assert environment.dt == pytest.approx(0.016)
    ended = 0
    for seed in range(8):
        environment.reset(seed=seed)
        for action in actions(60, seed):
            before = environment.data.qpos[0]
            _, reward, terminated, _, _ = environment.step(action)
            healthy = 0.8 < environment.data.qpos[1] < 2.0 and -1 < environment.data.qpos[2] < 1
            effort = sum(float(a) ** 2 for a in action)
            expected = (environment.data.qpos[0] - before) / 0.016 + float(healthy) - 1e-3 * effort
            assert reward == pytest.approx(expected, abs=1e-7)
            assert terminated == (not healthy)
            ended += terminated
            if terminated:
                break
    assert ended


def test_another_frame_skip():
    environment = pickle.loads(pickle.dumps(make(frame_skip=5)))
    assert environment.dt == pytest.approx(0.01)


def test_as_built_it_is_gymnasiums_own_body():
    body: Any = gym.make("Walker2d-v5", frame_skip=8).unwrapped
    environment = make(switch_probability=0.0)
    environment.reset(seed=0)
    environment.restore_model()
    body.reset(seed=0)
    for each in (environment, body):
        each.set_state(body.init_qpos, 5 * np.ones(9))
    for action in actions(25):
        observation, reward, terminated, *_ = body.step(action)
        row = environment.step(action)
        np.testing.assert_array_equal(row[0], observation)
        assert row[1:3] == (reward, terminated)


def test_multipliers_have_their_ranges_and_are_independent_per_element():
    environment = make()
    drawn = [environment.task_parameters(task) for task in range(400)]
    shapes = {"body_mass": (8,), "body_inertia": (8, 3), "geom_friction": (8, 3), "dof_damping": (9,)}
    assert {name: value.shape for name, value in drawn[0].items()} == shapes
    columns = []
    for name, shape in shapes.items():
        base = 1.3 if name == "dof_damping" else 1.5
        exponents = np.array([np.log(each[name]) / np.log(base) for each in drawn]).reshape(400, -1)
        assert exponents.shape[1] == np.prod(shape)
        assert -3 <= exponents.min() < -2.99
        assert 2.99 < exponents.max() <= 3
        columns += list(exponents.T)
    assert all(stats.kstest(column, "uniform", args=(-3, 6)).pvalue > 1e-4 for column in columns)
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.25


def test_the_model_is_the_body_times_the_multipliers():
    environment, built = make(), make().model
    environment.reset(seed=0, options={"task": 17})
    for name, multiplier in environment.task_parameters(17).items():
        np.testing.assert_allclose(getattr(environment.model, name), getattr(built, name) * multiplier, rtol=1e-14)
    assert built.geom_friction[built.geom("foot_geom").id, 0] == 1.9  # the v5 body's feet, .9 in older files


def test_derived_constants_follow_the_masses():
    """What mj_setConst derives, by hand: subtree masses, and the inverse weights of an independently edited model."""
    environment = make(switch_probability=0.0)
    environment.reset(seed=0, options={"task": 17})
    model = environment.model
    assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum())
    assert model.body_subtreemass[2] == pytest.approx(model.body_mass[2:5].sum())
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    mass_matrix = np.zeros((9, 9))
    for row, unit in zip(mass_matrix, np.eye(9), strict=True):
        mujoco.mj_mulM(model, data, row, unit)
    np.testing.assert_allclose(model.dof_invweight0[3:], np.diag(np.linalg.inv(mass_matrix))[3:], rtol=1e-9)
    np.testing.assert_allclose(model.dof_M0, np.diag(mass_matrix), rtol=1e-9)


def test_a_switch_does_not_disturb_the_state():
    environment = make(switch_probability=0.0)
    environment.reset(seed=0, options={"task": 1})
    for action in actions(3):
        environment.step(action)
    size = mujoco.mj_stateSize(environment.model, mujoco.mjtState.mjSTATE_INTEGRATION)
    states = [np.empty(size), np.empty(size)]
    mujoco.mj_getState(environment.model, environment.data, states[0], mujoco.mjtState.mjSTATE_INTEGRATION)
    environment.set_task(2)
    mujoco.mj_getState(environment.model, environment.data, states[1], mujoco.mjtState.mjSTATE_INTEGRATION)
    np.testing.assert_array_equal(states[0], states[1])


def test_tasks_move_differently():
    outcomes = []
    for task in range(3):
        environment = make(switch_probability=0.0)
        environment.reset(seed=0, options={"task": task})
        for action in actions(3):
            outcome = environment.step(action)[0]
        outcomes.append(outcome)
    assert all(np.abs(outcomes[i] - outcomes[j]).max() > 0.01 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_200_walkers_stay_finite():
    environment = make(switch_probability=0.0)
    for task in range(200):
        environment.reset(seed=task, options={"task": task})
        for action in actions(15, task):
            observation, reward, *_ = environment.step(action)
        assert np.isfinite(observation).all()
        assert np.isfinite(reward)


def test_the_sources_split():
    environment = make()
    assert (environment.train_tasks, environment.test_tasks) == (range(40), range(40, 50))
    assert max(environment.reset(seed=seed)[1]["task"] for seed in range(20)) > 50
    training = make(tasks=environment.train_tasks)
    assert max(training.reset(seed=seed)[1]["task"] for seed in range(200)) == 39


def test_velocities_are_clipped_in_the_observation_unless_it_must_be_the_state():
    for noise, largest in ((0.0, 10.0), (1e-6, 15.0)):
        environment = make(process_noise=noise)
        environment.reset(seed=0)
        velocity = np.zeros(9)
        velocity[0] = 15.0
        environment.set_state(environment.init_qpos, velocity)
        assert environment._get_obs()[8] == pytest.approx(largest)
