"""The two half cheetahs: reward from raw positions, the pier's physics, gymnasium's body as reference."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from scipy import stats

import m3po.envs  # noqa: F401 (registers the environments)
from tests.m3po.envs.bodies import check_directions

FWD_BWD, PIER = "m3po/HalfCheetahFwdBwd-v0", "m3po/HalfCheetahPier-v0"


def make(env_id: str, **options: Any) -> Any:
    return gym.make(env_id, **options).unwrapped


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 6)).astype(np.float32)


@pytest.mark.parametrize("env_id", [FWD_BWD, PIER])
@pytest.mark.parametrize("task", [0, 1])
def test_reward_from_raw_positions(env_id, task):
    """d (x' - x) / 0.05 - 0.05 |a|^2; d = -1 only for running backward. float32 actions: the cost is float32."""
    environment = make(env_id, switch_probability=0.0)
    environment.reset(seed=1, options={"task": task})
    direction = -1 if (env_id, task) == (FWD_BWD, 1) else 1
    for action in actions(50):
        before = environment.data.qpos[0]
        _, reward, _, _, info = environment.step(action)
        velocity = (environment.data.qpos[0] - before) / 0.05
        expected = direction * velocity - 0.05 * sum(float(a) ** 2 for a in action)
        assert reward == pytest.approx(expected, abs=1e-7)
        assert reward == pytest.approx(info["reward_forward"] + info["reward_ctrl"], abs=1e-12)
        assert info["reward_forward"] == pytest.approx(direction * velocity, abs=1e-12)


def test_forward_or_backward_on_gymnasiums_own_body(tmp_path, monkeypatch):
    """The same states, bit for bit, and rewards that add up to minus twice the cost over the two directions."""
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a warning about the body's file into the working directory
    body = gym.make("HalfCheetah-v5", ctrl_cost_weight=0.05).unwrapped
    forward, backward = (make(FWD_BWD, switch_probability=0.0) for _ in range(2))
    rewards = check_directions(body, forward, backward, actions(60))
    assert rewards.sum(axis=1) == pytest.approx(-2 * 0.05 * np.sum(actions(60) ** 2, axis=1), abs=1e-6)


def test_building_one_is_quiet(capfd, tmp_path, monkeypatch):
    """MuJoCo announces that it will drop something in the body's file; no news for users, nor for their disk."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env_id in (FWD_BWD, PIER):
            make(env_id).reset(seed=0)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert list(tmp_path.iterdir()) == []


# The pier


def test_masses_keep_the_sources_proportion():
    model = make(PIER).model
    assert model.body_mass.sum() == pytest.approx(14.0, rel=1e-12)
    assert model.body_mass[1:8].sum() == pytest.approx(2.93, abs=0.005)
    assert model.body_mass[8:] == pytest.approx([1.384] * 8, abs=0.0005)
    alone = make(FWD_BWD).model.body_mass
    np.testing.assert_allclose(model.body_mass[1:8] / model.body_mass[1], alone[1:] / alone[1], rtol=1e-12)


def test_the_blocks_are_the_sources():
    """Eight boxes in a row, 2 mm apart, on z-slides; every number of them."""
    model = make(PIER).model
    assert (model.nbody, model.njnt, model.nq, model.nv, model.nu) == (16, 17, 17, 17, 6)
    blocks = slice(8, 16)
    assert model.body_pos[blocks, 0].tolist() == [-8, 0, 4, 8, 12, 16, 20, 42]
    assert model.body_pos[blocks, 1:].tolist() == [[0, 0.05]] * 8
    joints = slice(9, 17)
    assert set(model.jnt_type[joints].tolist()) == {int(mujoco.mjtJoint.mjJNT_SLIDE)}
    assert model.jnt_axis[joints].tolist() == [[0, 0, 1]] * 8
    assert model.jnt_range[joints].tolist() == [[-0.15, 0.15]] * 8
    assert model.jnt_limited[joints].all()
    assert set(model.jnt_stiffness[joints].ravel()) == {150.0}
    assert set(model.qpos_spring[joints]) == {0.0}
    assert set(model.dof_armature[joints]) == {0.1}
    assert set(model.dof_damping[joints]) == {0.01}
    geoms = slice(9, 17)
    assert model.geom_size[geoms, 0].tolist() == [5.999, *[1.999] * 6, 19.999]
    assert model.geom_size[geoms, 1:].tolist() == [[0.99, 0.05]] * 8
    assert set(model.geom_condim[geoms]) == {3}
    # the cheetah collides with blocks, blocks with nothing else
    assert (model.geom_contype[geoms].tolist(), model.geom_conaffinity[geoms].tolist()) == ([0] * 8, [1] * 8)
    assert (set(model.geom_contype[1:9]), set(model.geom_conaffinity[1:9])) == ({1}, {0})
    left = model.body_pos[blocks, 0] - model.geom_size[geoms, 0]
    right = model.body_pos[blocks, 0] + model.geom_size[geoms, 0]
    np.testing.assert_allclose(left[1:] - right[:-1], 0.002, atol=1e-12)
    floor = model.geom("floor")
    assert (floor.pos[2], *floor.contype, *floor.conaffinity) == (-0.1, 0, 0)


def test_the_cheetah_of_the_pier_is_gymnasiums_but_for_its_mass():
    pier, body = make(PIER).model, make(FWD_BWD).model
    for name in ("jnt_range", "jnt_stiffness", "dof_armature", "qpos0", "body_pos", "geom_size", "geom_friction"):
        ours, theirs = getattr(pier, name), getattr(body, name)
        np.testing.assert_array_equal(ours[: len(theirs)], theirs)
    np.testing.assert_array_equal(pier.dof_damping[:9], body.dof_damping)
    np.testing.assert_array_equal(pier.actuator_gear, body.actuator_gear)


def test_dampings_are_independent_and_uniform():
    environment = make(PIER)
    drawn = np.array([environment.task_parameters(task)["damping"] for task in range(2000)])
    assert drawn.min() >= 0
    assert drawn.max() <= 10
    for column in drawn.T:
        assert stats.kstest(column / 10, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.1
    environment.reset(seed=0, options={"task": 1234})
    np.testing.assert_array_equal(environment.model.dof_damping[9:], drawn[1234])


def test_a_name_means_the_same_task_everywhere():
    """In numbers: names are kept in results."""
    assert make(PIER).task_parameters(1234)["damping"][:3] == pytest.approx(
        [3.3472368129821, 5.89730171984231, 6.91765724643761], abs=1e-12
    )


def test_blocks_start_where_spring_and_weight_balance_and_stay():
    environment = make(PIER, switch_probability=0.0)
    environment.reset(seed=0, options={"task": 5})
    expected = -environment.model.body_mass[8:] * 9.81 / 150
    np.testing.assert_allclose(environment.data.qpos[9:], expected, rtol=1e-12)
    tops = 0.05 + environment.data.qpos[9:] + 0.05
    assert np.all(np.abs(tops) < 0.01)  # level with the floor of HalfCheetah-v5, so the feet start as deep as there
    environment.data.qpos[1] = 5.0
    for _ in range(10):
        environment.step(np.zeros(6))
    np.testing.assert_allclose(environment.data.qpos[9:], expected, atol=1e-9)


def test_the_start_is_no_deeper_in_the_pier_than_gymnasiums_is_in_its_floor():
    depths = []
    for env_id in (PIER, FWD_BWD):
        environment = make(env_id)
        deepest = 0.0
        for seed in range(100):
            environment.reset(seed=seed)
            deepest = min([deepest, *(contact.dist for contact in environment.data.contact)])
        depths.append(deepest)
    assert depths[0] > depths[1] - 0.01


def test_the_pier_carries_the_cheetah_and_the_floor_does_not():
    environment = make(PIER, switch_probability=0.0)
    environment.reset(seed=0, options={"task": 5})
    touched = set()
    for _ in range(200):
        environment.step(np.zeros(6))
        touched |= {int(geom) for contact in environment.data.contact for geom in contact.geom}
    assert environment.data.qpos[1] > -0.3
    assert environment.data.qpos[10] < -0.13  # the block below it gave way
    assert touched & set(range(9, 17))
    assert 0 not in touched
    environment.data.qpos[0] = 100.0  # past the end of the pier
    for _ in range(50):
        environment.step(np.zeros(6))
    assert environment.data.qpos[1] < -10


@pytest.mark.parametrize("observe_pier", [False, True])
@pytest.mark.parametrize("process_noise", [0.0, 0.01])
def test_a_fall_ends_the_episode_when_asked(observe_pier, process_noise):
    options: dict[str, Any] = {"observe_pier": observe_pier, "process_noise": process_noise}
    for ends in (False, True):
        environment = make(PIER, fall_ends_episode=ends, **options)
        environment.reset(seed=0)
        flags = [environment.step(action)[2] for action in actions(30)]
        assert not any(flags)
        environment.data.qpos[0] = 100.0
        observations, flags, heights = [], [], []
        for action in actions(30):
            observation, _, terminated, _, _ = environment.step(action)
            observations.append(observation)
            flags.append(terminated)
            heights.append(environment.data.qpos[1])
        assert flags == [ends and height < -1.5 for height in heights]
        assert environment.terminated(np.array(observations)).tolist() == flags
        assert flags[-1] == ends


@pytest.mark.parametrize(("damping", "swings"), [(0.0, True), (10.0, False)])
def test_damping_is_what_the_task_changes(damping, swings):
    """A block pushed off its balance: undamped it comes back with most of its swing, damped it has lost most of it."""
    environment = make(PIER, switch_probability=0.0)
    environment.reset(seed=0)
    environment.model.dof_damping[9:] = damping
    balance = environment.data.qpos[15]
    environment.data.qpos[15] = balance + 0.05
    environment.data.qpos[1] = 5.0
    heights = []
    for _ in range(40):
        environment.step(np.zeros(6))
        heights.append(environment.data.qpos[15] - balance)
    assert (max(np.abs(heights[20:])) > 0.025) == swings


def test_the_hidden_blocks_rule_the_next_observation():
    """Same task, observation and action, other blocks, other outcome: why the pier has no density."""
    outcomes = []
    for sink in (0.0, 0.05):
        environment = make(PIER, switch_probability=0.0)
        environment.reset(seed=0, options={"task": 5})
        for _ in range(20):
            environment.step(np.zeros(6))
        qpos = environment.data.qpos.copy()
        qpos[9:] += sink
        environment.set_state(qpos, environment.data.qvel.copy())
        outcomes.append((environment._get_obs(), environment.step(np.zeros(6))[0]))
    np.testing.assert_array_equal(outcomes[0][0], outcomes[1][0])
    assert np.abs(outcomes[0][1] - outcomes[1][1]).max() > 0.01


def test_observe_pier_shows_the_whole_state():
    environment = make(PIER, observe_pier=True)
    observation, _ = environment.reset(seed=0)
    assert observation.shape == (34,)
    np.testing.assert_array_equal(observation, environment.state_vector())
