"""The two ants: reward from raw state, crippled legs, gymnasium's body as reference."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import m3po.envs  # noqa: F401 (registers the environments)
from tests.m3po.envs.bodies import check_directions

FWD_BWD, CRIPPLED = "m3po/AntFwdBwd-v0", "m3po/AntCrippledLeg-v0"
# Leg -> its motors and its outer geoms and joints (learning_to_adapt, ant).
MOTORS = {0: (2, 3), 1: (4, 5), 2: (6, 7), 3: (0, 1)}
GEOMS = {0: (3, 4), 1: (6, 7), 2: (9, 10), 3: (12, 13)}


def make(env_id: str, **options: Any) -> Any:
    return gym.make(env_id, **options).unwrapped


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 8)).astype(np.float32)


def raw_contact_cost(environment: Any) -> float:
    return 5e-4 * float(np.sum(np.clip(environment.data.cfrc_ext, -1, 1) ** 2))


@pytest.mark.parametrize("task", [0, 1])
def test_reward_of_forward_or_backward_from_the_raw_state(task):
    """d v_x - 0.5 |a|^2 - 5e-4 |clipped contact forces|^2 + 1, v_x of the torso's frame; 1 only while healthy."""
    environment = make(FWD_BWD, switch_probability=0.0)
    environment.reset(seed=1, options={"task": task})
    paid_contact = fell = False
    for step, action in enumerate(actions(120)):
        if step == 100:  # let it leap out of its healthy range
            environment.set_state(environment.data.qpos + np.eye(15)[2], environment.data.qvel.copy())
        before = float(environment.data.xpos[1, 0])
        _, reward, terminated, _, info = environment.step(action)
        velocity = (float(environment.data.xpos[1, 0]) - before) / 0.05
        healthy = 0.2 <= environment.data.qpos[2] <= 1.0
        contact = raw_contact_cost(environment)
        effort = sum(float(a) ** 2 for a in action)
        expected = (1 - 2 * task) * velocity - 0.5 * effort - contact + float(healthy)
        assert reward == pytest.approx(expected, abs=1e-6)
        parts = ("reward_forward", "reward_ctrl", "reward_contact", "reward_survive")
        assert reward == pytest.approx(sum(float(info[part]) for part in parts), abs=1e-12)
        assert terminated == (not healthy)
        assert velocity == pytest.approx((environment.data.qpos[0] - before) / 0.05, abs=0.1)
        paid_contact |= contact > 0
        fell |= terminated
    assert paid_contact
    assert fell


def test_reward_of_the_crippled_from_the_raw_state_in_health_and_out_of_it():
    environment = make(CRIPPLED, switch_probability=0.0)
    environment.reset(seed=1, options={"task": 0})
    for step, action in enumerate(actions(80)):
        if step == 50:
            environment.set_state(environment.data.qpos + np.eye(15)[2], environment.data.qvel.copy())
        before = float(environment.data.xpos[1, 0])
        _, reward, terminated, _, _ = environment.step(action)
        velocity = (float(environment.data.xpos[1, 0]) - before) / 0.05
        assert reward == pytest.approx(velocity + 0.05, abs=1e-12)
        assert not terminated


def test_forward_or_backward_on_gymnasiums_own_body():
    body = gym.make("Ant-v5", include_cfrc_ext_in_observation=False).unwrapped
    forward, backward = (make(FWD_BWD, switch_probability=0.0) for _ in range(2))
    check_directions(body, forward, backward, actions(40))


# The crippled leg


@pytest.mark.parametrize("leg", range(4))
def test_the_legs_motors_give_no_torque_and_the_others_theirs(leg):
    environment = make(CRIPPLED, switch_probability=0.0)
    environment.reset(seed=0, options={"task": leg})
    for action in (np.ones(8), -np.ones(8), actions(1)[0]):
        environment.step(action)
        gear = environment.model.actuator_gear[:, 0]
        torque = environment.data.qfrc_actuator
        for motor in range(8):
            dof = environment.model.jnt_dofadr[environment.model.actuator_trnid[motor, 0]]
            expected = 0.0 if motor in MOTORS[leg] else gear[motor] * action[motor]
            assert torque[dof] == pytest.approx(expected, abs=1e-9)
    # and what a crippled motor is told does not matter
    other = make(CRIPPLED, switch_probability=0.0)
    for each in (environment, other):
        each.reset(seed=1, options={"task": leg})
    action = actions(1)[0]
    silent = action.copy()
    silent[list(MOTORS[leg])] = 0.3
    first, second = environment.step(action), other.step(silent)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert action.tolist() == actions(1)[0].tolist()  # the caller's array is left alone


@pytest.mark.parametrize("leg", range(4))
def test_motors_and_geoms_belong_to_one_leg(leg):
    model = make(CRIPPLED).model
    bodies = {int(model.geom_bodyid[geom]) for geom in GEOMS[leg]}
    moved = {int(model.jnt_bodyid[model.actuator_trnid[motor, 0]]) for motor in MOTORS[leg]}
    assert bodies == moved


@pytest.mark.parametrize("leg", range(4))
def test_the_geometry_edit_halves_the_geoms_and_moves_the_lower_one(leg):
    whole, environment = make(CRIPPLED), make(CRIPPLED, switch_probability=0.0)
    upper, lower = GEOMS[leg]
    environment.reset(seed=0, options={"task": leg})
    for geom in (upper, lower):
        np.testing.assert_allclose(environment.model.geom_size[geom, :2], whole.model.geom_size[geom, :2] / 2)
    environment.data.qpos[:] = environment.init_qpos
    mujoco.mj_forward(environment.model, environment.data)
    mujoco.mj_forward(whole.model, whole.data)
    # the lower geom sits where the upper one's offset puts it in its own body's frame, 0.1 instead of 0.2 out
    for name, offset in (("geom_pos", whole.model.geom_pos[upper]),):
        np.testing.assert_allclose(getattr(environment.model, name)[lower], offset)
    body = environment.model.geom_bodyid[lower]
    rotation = environment.data.xmat[body].reshape(3, 3)
    expected = environment.data.xpos[body] + rotation @ whole.model.geom_pos[upper]
    np.testing.assert_allclose(environment.data.geom_xpos[lower], expected, atol=1e-12)
    assert np.linalg.norm(environment.data.geom_xpos[lower] - whole.data.geom_xpos[lower]) > 0.1
    others = [geom for geom in range(whole.model.ngeom) if geom != lower]
    np.testing.assert_allclose(environment.data.geom_xpos[others], whole.data.geom_xpos[others], atol=1e-12)
    np.testing.assert_array_equal(environment.model.body_mass, whole.model.body_mass)


def test_the_moved_geom_collides_where_it_is():
    """Lower the ant onto the floor: the crippled leg's contact, if any, is at the moved geom, not at the old one."""
    environment = make(CRIPPLED, switch_probability=0.0)
    environment.reset(seed=0, options={"task": 0})
    for _ in range(100):
        environment.step(np.zeros(8))
    lower = GEOMS[0][1]
    reach = environment.model.geom_size[lower, :2].sum() + 0.02
    touching = [contact for contact in environment.data.contact if lower in contact.geom]
    for contact in touching:
        assert np.linalg.norm(contact.pos - environment.data.geom_xpos[lower]) < reach
    feet = {int(geom) for contact in environment.data.contact for geom in contact.geom}
    assert feet & {7, 10, 13}


def test_a_switch_moves_the_old_leg_back():
    environment, fresh = make(CRIPPLED, switch_probability=0.0), make(CRIPPLED, switch_probability=0.0)
    environment.reset(seed=0, options={"task": 0})
    environment.set_task(3)
    fresh.reset(seed=0, options={"task": 3})
    for name in ("geom_size", "geom_pos", "geom_sameframe"):
        np.testing.assert_array_equal(getattr(environment.model, name), getattr(fresh.model, name))


def test_leg_3_is_kept_for_testing():
    environment = make(CRIPPLED)
    assert (environment.train_tasks, environment.test_tasks) == ((0, 1, 2), (3,))
    assert {environment.reset(seed=seed)[1]["task"] for seed in range(60)} == {0, 1, 2}
    assert {make(CRIPPLED, tasks=(3,)).reset(seed=seed)[1]["task"] for seed in range(5)} == {3}
    assert environment.reset(options={"task": 3})[1]["task"] == 3
