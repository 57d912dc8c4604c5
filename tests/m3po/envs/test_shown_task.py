"""``observe_task``: the same episodes, whose observations end with the task that rules the next step."""

from __future__ import annotations

import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from m3po import launcher
from m3po.config import Config
from m3po.envs.switching_point_mass import PointMassTask
from m3po.envs.walker2d import BASES
from m3po.train import train
from tests.m3po.envs.test_body_vector import action_sequence, assert_same, compare, vector_of
from tests.m3po.envs.test_conformance import (
    ALL,
    DIRECTIONS,
    MUJOCO,
    POINT_MASS,
    every_environment,
    every_mujoco_environment,
    make,
    random_actions,
    trajectory,
    two_tasks,
)
from tests.m3po.small import TINY_MODEL

# How many coordinates tell of the task, and the lower end of their range.
SHOWN = dict.fromkeys((POINT_MASS, *DIRECTIONS), (2, 0.0)) | {
    "m3po/AntCrippledLeg-v0": (4, 0.0),
    "m3po/HalfCheetahPier-v0": (8, -1.0),
    "m3po/Walker2dRandomParams-v0": (65, -1.0),
}
PIER, WALKER = "m3po/HalfCheetahPier-v0", "m3po/Walker2dRandomParams-v0"


def expected(environment: Any, env_id: str, task: int) -> list[float]:
    """What a task is shown as, from what it means."""
    if env_id == PIER:
        return list(environment.task_parameters(task)["damping"] / 5 - 1)
    if env_id == WALKER:
        multipliers = environment.task_parameters(task)
        return [math.log(x, base) / 3 for name, base in BASES.items() for x in multipliers[name].ravel()]
    return [float(j == task) for j in range(SHOWN[env_id][0])]


@every_environment
@pytest.mark.parametrize("observe_reward", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_it_is_the_same_episode_and_the_task_of_the_next_step(env_id, observe_reward, noise):
    """After reset too, and after every switch; spaces, draws, rewards and endings of the rest are as without it."""
    options: dict[str, Any] = {"switch_probability": 0.3, "observe_reward": observe_reward}
    if env_id != POINT_MASS:
        options["process_noise"] = noise
    hidden, shown = make(env_id, **options), make(env_id, **options, observe_task=True)
    assert not hidden.observe_task
    size, (count, low) = hidden.observation_space.shape[0], SHOWN[env_id]
    assert shown.observation_space.shape == (size + count,)
    assert (shown.observation_space.low[size:] == low).all()
    assert (shown.observation_space.high[size:] == 1).all()
    assert repr(hidden.observation_space) == repr(gym.spaces.Box(-np.inf, np.inf, (size,), np.float64))
    rows = [[each.reset(seed=3), *map(each.step, random_actions(hidden, 25))] for each in (hidden, shown)]
    tasks = []
    for left, right in zip(*rows, strict=True):
        assert right[0][:size].tobytes() == left[0].tobytes()
        assert right[1:-1] == left[1:-1]
        task = right[-1]["task"]
        assert task == left[-1]["task"]
        assert right[0] in shown.observation_space
        assert right[0][size:].tolist() == pytest.approx(expected(shown, env_id, task), abs=1e-12)
        tasks.append(task)
    assert len(set(tasks)) > 1


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*")
@every_environment
def test_gymnasiums_checker_passes(env_id):
    check_env(make(env_id, observe_task=True), skip_render_check=True)


@pytest.mark.parametrize("env_id", MUJOCO)
def test_the_shown_task_has_no_noise_and_leaves_no_density(env_id):
    options: dict[str, Any] = {"reward_range": (-10.0, 10.0), "observe_reward": True, "process_noise": 0.05}
    hidden, shown = make(env_id, **options), make(env_id, **options, observe_task=True)
    assert (hidden.dynamics is not None) == (env_id in ("m3po/HalfCheetahFwdBwd-v0", WALKER))
    assert shown.dynamics is None
    assert shown.process_noise.shape == hidden.process_noise.shape
    size = shown.observation_space.shape[0]
    with pytest.raises(ValueError, match="process_noise must be one or"):
        make(env_id, **options | {"process_noise": np.full(size, 0.05)}, observe_task=True)


@pytest.mark.parametrize("vector", [False, True])
def test_the_point_mass_has_no_density_with_it_either(vector):
    shown = vector_of(POINT_MASS, 2, observe_task=True) if vector else make(POINT_MASS, observe_task=True)
    hidden = vector_of(POINT_MASS, 2) if vector else make(POINT_MASS)
    assert hidden.dynamics is not None
    assert shown.dynamics is None
    assert shown.observe_task
    assert not shown.observe_reward


@every_mujoco_environment
def test_what_speaks_of_observations_reads_the_same_state(env_id):
    """``outcome`` shows the task that it was asked for; endings and speeds are those of the state."""
    hidden, shown = make(env_id, observe_reward=True), make(env_id, observe_reward=True, observe_task=True)
    actions = random_actions(hidden, 12)
    seen, told = (np.array([each.reset(seed=1)[0], *(each.step(a)[0] for a in actions)]) for each in (hidden, shown))
    assert shown.terminated(told).tolist() == hidden.terminated(seen).tolist()
    assert_same(shown.forward_velocity(told[:-1], told[1:]), hidden.forward_velocity(seen[:-1], seen[1:]))
    for task in two_tasks(env_id):
        alone, following = hidden.outcome(seen[3], actions[0], task), shown.outcome(told[3], actions[0], task)
        assert following[: len(alone)].tobytes() == alone.tobytes()
        assert following[len(alone) :].tobytes() == shown.task_coordinates(task).tobytes()


@every_mujoco_environment
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_a_vector_shows_what_single_environments_show(env_id, mode):
    options: dict[str, Any] = {"process_noise": 0.02} if mode is AutoresetMode.DISABLED else {}
    ended, changed = compare(
        env_id, 20, mode, max_episode_steps=9, switch_probability=0.3, observe_task=True, **options
    )
    assert ended >= 4
    assert changed >= 4


@every_mujoco_environment
def test_a_vector_shows_it_where_only_some_move(env_id):
    ours, (count, _) = vector_of(env_id, 3, observe_task=True, switch_period=1), SHOWN[env_id]
    _, infos = ours.reset(seed=0)
    tasks = infos["task"]
    for t, action in enumerate(action_sequence(ours, 8)):
        moving = np.arange(3) != t % 3
        observations, *_, infos = ours.step(action, which=moving)
        tasks = np.where(moving, infos["task"], tasks)
        right = [ours.envs[0].task_coordinates(int(task)) for task in tasks]
        assert observations[:, -count:].tolist() == np.array(right).tolist()
    ours.close()


def test_the_point_masses_vector_shows_it_at_every_reset_and_end():
    tasks = [PointMassTask(angle=0.4 * i, gain=1.0, wind=(0.0, 0.0)) for i in range(3)]
    options: dict[str, Any] = {"tasks": tasks, "first_task": None, "switch_probability": 0.5, "observe_task": True}
    for mode in AutoresetMode:
        vector = vector_of(POINT_MASS, 4, autoreset_mode=mode, max_episode_steps=5, observe_reward=True, **options)
        assert vector.single_observation_space.shape == (4 + 1 + 3,)
        rows = [vector.reset(seed=2)]
        for action in action_sequence(vector, 12):
            rows.append(vector.step(action))
            if mode is AutoresetMode.DISABLED and rows[-1][3].any():
                rows.append(vector.reset(options={"reset_mask": rows[-1][3]}))
        for observations, *_, infos in rows:
            shown = observations[infos["_task"], -3:]
            np.testing.assert_array_equal(shown, np.eye(3)[infos["task"][infos["_task"]]])
            if "final_obs" in infos:
                ended = infos["_final_obs"]
                last = np.stack(infos["final_obs"][ended])[:, -3:]
                np.testing.assert_array_equal(last, np.eye(3)[infos["final_info"]["task"][ended]])
    single, vector = make(POINT_MASS, **options), vector_of(POINT_MASS, 1, **options)
    assert single.reset(seed=4)[0].tobytes() == vector.reset(seed=4)[0][0].tobytes()
    for action in action_sequence(vector, 20):
        assert single.step(action[0])[0].tobytes() == vector.step(action)[0][0].tobytes()


@every_environment
def test_a_copy_shows_the_task_too(env_id):
    environment = make(env_id, observe_task=True, switch_probability=0.3)
    assert pickle.loads(pickle.dumps(environment)).observation_space == environment.observation_space
    trajectory(environment, seed=2, steps=7)
    copy = pickle.loads(pickle.dumps(environment))
    for action in random_actions(environment, 6, seed=1):
        assert copy.step(action)[0].tobytes() == environment.step(action)[0].tobytes()


FLAGS = [(env_id, name) for env_id in ALL for name in ("observe_task", "observe_reward")]


@pytest.mark.parametrize(("env_id", "name"), [*FLAGS, (PIER, "observe_pier"), (PIER, "fall_ends_episode")])
@pytest.mark.parametrize("vector", [False, True])
def test_a_flag_that_is_none_is_named(env_id, name, vector):
    """The text "false" would otherwise be true."""
    for value in ("false", 2, 0.5, [True]):
        with pytest.raises(ValueError, match=rf"{name} must be true or false, got") as raised:
            _ = vector_of(env_id, 2, **{name: value}) if vector else make(env_id, **{name: value})
        assert repr(value) in str(raised.value)


def test_a_training_takes_it(tmp_path):
    options: dict[str, Any] = {"env_id": POINT_MASS, "env_options": '{"observe_task": true, "switch_period": 7}'}
    fewest = {"total_steps": 100, "initial_random_steps": 50, "evaluation_episodes": 2, "measure_episodes": 2}
    directory = train(Config(run_dir=tmp_path / "run", **options, **TINY_MODEL | fewest))
    assert directory.complete
    rows = directory.metrics()
    assert rows[-1]["step"] == 100
    assert "eps_m" not in rows[-1]  # there is no density to measure it against


def test_a_command_names_a_flag_that_is_none(tmp_path, capsys):
    options = '{"observe_task": "false"}'
    with pytest.raises(SystemExit) as stopped:
        launcher.main(["train", "--env-id", POINT_MASS, "--env-options", options, "--run-dir", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert "observe_task must be true or false, got 'false'" in capsys.readouterr().err
