"""The humanoid: reward from the raw state, with its forward weight; gymnasium's body as reference."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import m3po.envs  # noqa: F401 (registers the environments)
from tests.m3po.envs.bodies import check_directions

HUMANOID = "m3po/HumanoidDirec-v0"
HIDDEN = {
    f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
}  # what v5 could add to its observation


def make(**options: Any) -> Any:
    return gym.make(HUMANOID, **options).unwrapped


def actions(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.4, 0.4, (steps, 17)).astype(np.float32)


def centre_of_mass(environment: Any) -> float:
    masses = environment.model.body_mass
    return float(sum(m * x for m, x in zip(masses, environment.data.xipos[:, 0], strict=True)) / masses.sum())


@pytest.mark.parametrize("task", [0, 1])
def test_reward_from_the_raw_state(task):
    """1.25 d v_x + 5 - 0.1 |a|^2 - min(5e-7 |contact forces|^2, 10), v_x of the centre of mass; 5 if healthy."""
    environment = make(switch_probability=0.0)
    assert environment.dt == pytest.approx(0.015)
    environment.reset(seed=1, options={"task": task})
    fell = False
    for action in actions(80):
        before = centre_of_mass(environment)
        _, reward, terminated, _, info = environment.step(action)
        velocity = (centre_of_mass(environment) - before) / 0.015
        healthy = 1.0 < environment.data.qpos[2] < 2.0
        contact = min(5e-7 * float(np.sum(environment.data.cfrc_ext**2)), 10.0)
        effort = sum(float(a) ** 2 for a in action)
        expected = 1.25 * (1 - 2 * task) * velocity + 5.0 * healthy - 0.1 * effort - contact
        assert reward == pytest.approx(expected, abs=1e-6)
        assert info["reward_forward"] == pytest.approx(1.25 * (1 - 2 * task) * velocity, abs=1e-9)
        assert terminated == (not healthy)
        fell |= terminated
    assert fell


def test_noise_does_not_count_as_velocity():
    """What the noise moved between two steps is no part of the second one's reward."""
    environment = make(switch_probability=0.0, process_noise=0.02)
    environment.reset(seed=0, options={"task": 0})
    environment.step(np.zeros(17))
    data = mujoco.MjData(environment.model)
    data.qpos[:] = environment.data.qpos
    mujoco.mj_kinematics(environment.model, data)
    before = float(environment.model.body_mass @ data.xipos[:, 0]) / environment.model.body_mass.sum()
    environment.process_noise[:] = 0.0  # so that the second step ends where the body's own step does
    info = environment.step(np.zeros(17))[4]
    assert before == pytest.approx(centre_of_mass(environment) - info["x_velocity"] * 0.015, abs=0.001)


def test_gymnasiums_own_body():
    forward, backward = (make(switch_probability=0.0) for _ in range(2))
    check_directions(gym.make("Humanoid-v5", **HIDDEN).unwrapped, forward, backward, actions(40))


def test_the_action_box_is_the_bodys():
    box = make().action_space
    np.testing.assert_array_equal(box.high, np.full(17, 0.4, np.float32))
    np.testing.assert_array_equal(box.low, -box.high)
