"""What every environment here promises, tested the same way on all seven."""

from __future__ import annotations

import copy
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from scipy import stats

import m3po.envs  # noqa: F401 (registers the environments)

POINT_MASS = "m3po/SwitchingPointMass-v0"
MUJOCO = {
    "m3po/HalfCheetahFwdBwd-v0": 17,
    "m3po/HalfCheetahPier-v0": 17,
    "m3po/AntFwdBwd-v0": 27,
    "m3po/AntCrippledLeg-v0": 27,
    "m3po/Walker2dRandomParams-v0": 17,
    "m3po/HumanoidDirec-v0": 45,
}
DIRECTIONS = ("m3po/HalfCheetahFwdBwd-v0", "m3po/AntFwdBwd-v0", "m3po/HumanoidDirec-v0")
ENDING = ("m3po/AntFwdBwd-v0", "m3po/Walker2dRandomParams-v0", "m3po/HumanoidDirec-v0")
ALL = (POINT_MASS, *MUJOCO)

every_environment = pytest.mark.parametrize("env_id", ALL)
every_mujoco_environment = pytest.mark.parametrize("env_id", MUJOCO)


def make(env_id: str, **options: Any) -> Any:
    """The bare environment: no time limit, no checks."""
    return gym.make(env_id, **options).unwrapped


def two_tasks(env_id: str) -> tuple[int, int]:
    return (0, 1) if env_id in (POINT_MASS, *DIRECTIONS) else (2, 1)


def random_actions(environment: gym.Env[Any, Any], steps: int, seed: int = 5) -> NDArray[np.float32]:
    box = environment.action_space
    assert isinstance(box, gym.spaces.Box)
    return np.random.default_rng(seed).uniform(box.low, box.high, (steps, *box.shape)).astype(np.float32)


def trajectory(environment: gym.Env[Any, Any], seed: int, steps: int = 40, **options: Any) -> list[tuple[Any, ...]]:
    """Everything an agent or an evaluation sees, as bytes and numbers; goes on past a termination."""
    observation, info = environment.reset(seed=seed, options=options or None)
    rows: list[tuple[Any, ...]] = [(observation.tobytes(), info["task"])]
    for action in random_actions(environment, steps):
        observation, reward, terminated, truncated, info = environment.step(action)
        rows.append((observation.tobytes(), reward, terminated, truncated, info["task"]))
    return rows


# gymnasium's contracts


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*")
@every_environment
@pytest.mark.parametrize("observe_reward", [False, True])
def test_gymnasiums_checker_passes(env_id, observe_reward):
    options: dict[str, Any] = {} if env_id == POINT_MASS else {"process_noise": 0.01 * observe_reward}
    check_env(make(env_id, observe_reward=observe_reward, **options), skip_render_check=True)


@every_environment
def test_every_step_stays_in_the_spaces(env_id):
    environment = gym.make(env_id)
    box = environment.observation_space
    assert isinstance(box, gym.spaces.Box)
    assert box.dtype == np.float64
    size = 4 if env_id == POINT_MASS else MUJOCO[env_id] + (env_id in DIRECTIONS)
    assert box.shape == (size,)
    observation, info = environment.reset(seed=0)
    assert observation in box
    for action in random_actions(environment, 30):
        observation, reward, terminated, truncated, info = environment.step(action)
        assert observation in box
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        assert type(info["task"]) is int
        if terminated:
            break


@every_environment
def test_the_time_limit_truncates(env_id):
    environment = gym.make(env_id)
    assert environment.spec is not None
    assert environment.spec.max_episode_steps == (100 if env_id == POINT_MASS else 1000)
    short = gym.make(env_id, max_episode_steps=3)
    short.reset(seed=0)
    assert [short.step(action)[2:4] for action in 0 * random_actions(short, 3)] == [(False, False)] * 2 + [
        (False, True)
    ]


@pytest.mark.parametrize("env_id", ["m3po/HalfCheetahFwdBwd-v0", "m3po/HalfCheetahPier-v0", "m3po/AntCrippledLeg-v0"])
def test_an_episode_that_cannot_end_has_1000_steps(env_id):
    environment = gym.make(env_id)
    environment.reset(seed=0)
    flags = [environment.step(action)[2:4] for action in random_actions(environment, 1000)]
    assert flags == [(False, False)] * 999 + [(False, True)]


@every_environment
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_run_the_same_episodes_as_single_environments(env_id, mode):
    environments = gym.make_vec(env_id, num_envs=2, vectorization_mode=mode)
    singles = [gym.make(env_id) for _ in range(2)]
    try:
        observations, infos = environments.reset(seed=7)
        alone = [single.reset(seed=7 + i) for i, single in enumerate(singles)]
        np.testing.assert_array_equal(observations, [observation for observation, _ in alone])
        assert infos["task"].tolist() == [info["task"] for _, info in alone]
        for action in random_actions(singles[0], 8):
            observations, rewards, terminated, _, infos = environments.step(np.stack([action, -action]))
            rows = [single.step(sign * action) for single, sign in zip(singles, (1, -1), strict=True)]
            np.testing.assert_array_equal(observations, [row[0] for row in rows])
            assert rewards.tolist() == [row[1] for row in rows]
            assert infos["task"].tolist() == [row[4]["task"] for row in rows]
            assert infos["task"].dtype == np.int64
            if terminated.any():  # the vector resets by itself
                break
    finally:
        environments.close()


# Reproducibility


@every_environment
@pytest.mark.parametrize("rule", [{"switch_probability": 0.2}, {"switch_period": 7}, {}])
def test_same_seed_and_actions_same_trajectory_bit_for_bit(env_id, rule):
    used = make(env_id, **rule)
    first = trajectory(used, seed=3)
    for seed in range(10, 14):
        trajectory(used, seed, steps=15)
    assert trajectory(used, seed=3) == first
    assert trajectory(make(env_id, **rule), seed=3) == first
    assert trajectory(used, seed=4)[1:] != first[1:]


@every_mujoco_environment
def test_noise_is_the_environments_own_too(env_id):
    first = trajectory(make(env_id, process_noise=0.02, switch_probability=0.2), seed=3)
    np.random.seed(1)  # what the environment must not look at
    assert trajectory(make(env_id, process_noise=0.02, switch_probability=0.2), seed=3) == first
    assert trajectory(make(env_id, process_noise=0.03, switch_probability=0.2), seed=3)[1:] != first[1:]


def digests() -> dict[str, str]:
    """Of one seeded episode of each environment."""
    environments = {env_id: gym.make(env_id, switch_probability=0.1) for env_id in ALL}
    return {
        env_id: hashlib.sha256(repr(trajectory(environment.unwrapped, seed=11)).encode()).hexdigest()
        for env_id, environment in environments.items()
    }


def test_another_process_replays_the_same_episodes():
    """A resumed training meets the interrupted episode again like this."""
    fresh = digests()
    for env_id in ALL:
        environment = make(env_id, switch_probability=0.1)
        for seed in range(3):
            trajectory(environment, seed)
        here = hashlib.sha256(repr(trajectory(environment, seed=11)).encode()).hexdigest()
        assert here == fresh[env_id]
    program = f"import {__name__} as suite\nprint(suite.digests())"
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == str(fresh)


@every_environment
@pytest.mark.parametrize("options", [{"switch_probability": 0.3}, {"switch_period": 4}, {"process_noise": 0.01}])
def test_a_copy_through_pickle_goes_on_where_the_original_was(env_id, options):
    environment = make(env_id, **options)
    trajectory(environment, seed=2, steps=17)
    copies = [pickle.loads(pickle.dumps(environment)), copy.deepcopy(environment)]
    for action in random_actions(environment, 25, seed=1):
        observation, reward, terminated, _, info = environment.step(action)
        for each in copies:
            row = each.step(action)
            np.testing.assert_array_equal(row[0], observation)
            assert row[1:3] == (reward, terminated)
            assert row[4]["task"] == info["task"]
    for each in copies:
        assert each.spec == environment.spec
        assert trajectory(each, seed=8) == trajectory(environment, seed=8)


@every_environment
def test_an_environment_that_was_never_reset_has_copies_too(env_id):
    environment = pickle.loads(pickle.dumps(make(env_id)))
    assert trajectory(environment, seed=1) == trajectory(make(env_id), seed=1)


# The hidden task


def tasks_of(environment: gym.Env[Any, Any], steps: int, seed: int = 6) -> list[int]:
    """info["task"] after reset and after every step."""
    tasks = [environment.reset(seed=seed)[1]["task"]]
    return tasks + [environment.step(action)[-1]["task"] for action in random_actions(environment, steps)]


@every_environment
def test_a_period_switches_at_its_multiples_and_nowhere_else(env_id):
    environment = make(env_id, switch_period=4)
    changed = np.zeros(13, dtype=int)
    for seed in range(12):
        tasks = tasks_of(environment, 13, seed)
        changed += np.diff(tasks) != 0
    assert set(np.flatnonzero(changed) + 1) == {4, 8, 12}


@every_environment
def test_a_probability_changes_the_task_that_often(env_id):
    environment = make(env_id, switch_probability=0.25)
    count = 2 if env_id == POINT_MASS else len(environment.tasks)
    tasks = tasks_of(environment, 600)
    changes = int((np.diff(tasks) != 0).sum())
    assert stats.binomtest(changes, 600, 0.25 * (1 - 1 / count)).pvalue > 1e-4


@every_mujoco_environment
def test_the_default_rule_is_five_switches_an_episode_on_average(env_id):
    environment = make(env_id)
    assert (environment.switching.probability, environment.switching.period) == (0.005, None)


@every_environment
def test_the_task_can_stay_within_an_episode(env_id):
    environment = make(env_id, switch_probability=0.0)
    for seed in range(4):
        assert len(set(tasks_of(environment, 100, seed))) == 1


@every_mujoco_environment
def test_every_episode_draws_its_first_task_uniformly(env_id):
    environment = make(env_id)
    tasks = np.array([environment.reset(seed=seed)[1]["task"] for seed in range(400)])
    count = min(len(environment.tasks), 4)
    cells = np.bincount(tasks * count // len(environment.tasks), minlength=count)
    assert stats.chisquare(cells).pvalue > 1e-4


@every_environment
def test_reset_pins_the_first_task_once(env_id):
    environment = make(env_id, switch_probability=0.0)
    for task in two_tasks(env_id):
        _, info = environment.reset(seed=0, options={"task": task})
        assert info["task"] == task
        assert environment.step(random_actions(environment, 1)[0])[-1]["task"] == task
    unpinned = environment.reset(seed=0)[1]["task"]
    assert unpinned == make(env_id).reset(seed=0)[1]["task"]


@every_environment
@pytest.mark.parametrize("task", [-1, 2**40, 1.0, "0", True, None])
def test_a_bad_task_is_named_in_one_line(env_id, task):
    environment = make(env_id)
    if task is None:
        environment.reset(options={"task": None})  # as good as no pin
        return
    with pytest.raises(ValueError, match=r"options\['task'\] must be a task.* got") as raised:
        environment.reset(options={"task": task})
    assert repr(task) in str(raised.value)
    assert "\n" not in str(raised.value)


@every_environment
def test_the_first_observation_says_nothing_about_the_task(env_id):
    environment = make(env_id)
    first = [environment.reset(seed=4, options={"task": task})[0].tobytes() for task in two_tasks(env_id)]
    assert first[0] == first[1]
    assert environment.reset(seed=4)[0].tobytes() == first[0]  # pinning changes nothing else


@every_mujoco_environment
def test_the_observation_is_positions_and_velocities_and_nothing_else(env_id):
    environment = make(env_id, switch_probability=0.3)
    environment.reset(seed=0)
    skipped = 2 if MUJOCO[env_id] > 17 else 1
    positions = {17: 9, 27: 15, 45: 24}[MUJOCO[env_id]]
    for action in random_actions(environment, 30):
        observation, reward, *_ = environment.step(action)
        state = [
            *environment.data.qpos[skipped:positions],
            *environment.data.qvel[: MUJOCO[env_id] - positions + skipped],
        ]
        expected = np.array(state + [reward] * (env_id in DIRECTIONS))
        if env_id == "m3po/Walker2dRandomParams-v0":
            expected[8:] = np.clip(expected[8:], -10, 10)
        np.testing.assert_array_equal(observation, expected)


@pytest.mark.parametrize("env_id", DIRECTIONS)
def test_only_the_reward_tells_directions_apart(env_id):
    """The states are the same in both tasks, bit for bit; by default the previous reward is observed, at first as 0."""
    environment = make(env_id, switch_probability=0.0)
    seen, rewards = [], []
    for task in (0, 1):
        observation, _ = environment.reset(seed=1, options={"task": task})
        assert observation[-1] == 0.0
        rows = [environment.step(action) for action in random_actions(environment, 15)]
        assert [row[0][-1] for row in rows] == [row[1] for row in rows]
        seen.append([row[0][:-1].tobytes() for row in rows])
        rewards.append([row[1] for row in rows])
    assert seen[0] == seen[1]
    assert rewards[0] != rewards[1]
    blind = make(env_id, observe_reward=False)
    assert blind.reset(seed=1)[0].shape == (MUJOCO[env_id],)
    assert blind.observation_space.shape == (MUJOCO[env_id],)


@every_mujoco_environment
def test_a_long_range_of_tasks_costs_nothing(env_id):
    count = make(env_id).task_count
    assert make(env_id, tasks=range(count)).tasks == range(count)
    for tasks in (range(count + 1), range(-1, 1), range(1, -2, -1)):
        with pytest.raises(ValueError, match="tasks must be a task in"):
            make(env_id, tasks=tasks)


@every_mujoco_environment
def test_the_split_and_what_it_draws(env_id):
    environment = make(env_id, tasks=(1,), switch_probability=0.5)
    assert set(tasks_of(environment, 20)) == {1}
    for split in (environment.default_tasks, environment.train_tasks, environment.test_tasks):
        assert all(0 <= task < environment.task_count for task in (split[0], split[-1]))
    if env_id in ("m3po/AntCrippledLeg-v0", "m3po/Walker2dRandomParams-v0"):
        assert not set(environment.train_tasks) & set(environment.test_tasks)


# The model's fields


@every_mujoco_environment
def test_500_switches_and_resets_leave_the_model_as_it_was_built(env_id):
    environment = make(env_id, switch_probability=0.5)
    built = pickle.dumps(make(env_id).model)
    task = two_tasks(env_id)[0]
    fresh = make(env_id)
    fresh.reset(seed=1, options={"task": task})
    edited = pickle.dumps(fresh.model)
    assert (edited == built) == (env_id in DIRECTIONS)
    generator = np.random.default_rng(0)
    action = random_actions(environment, 1)[0]
    for _ in range(500):
        if generator.random() < 0.5:
            environment.reset(seed=int(generator.integers(1000)))
        else:
            environment.set_task(int(generator.integers(environment.task_count)))
        environment.step(action)
    environment.reset(seed=1, options={"task": task})
    assert pickle.dumps(environment.model) == edited
    assert trajectory(environment, seed=9) == trajectory(make(env_id, switch_probability=0.5), seed=9)
    environment.restore_model()
    assert pickle.dumps(environment.model) == built


@every_mujoco_environment
def test_a_switch_leaves_the_state_alone_and_rules_the_next_step(env_id):
    """From the same state on, a switched environment is one that always had that task."""
    old, new = two_tasks(env_id)
    environment, other = make(env_id, switch_probability=0.0), make(env_id, switch_probability=0.0)
    actions = random_actions(environment, 12)
    environment.reset(seed=3, options={"task": old})
    other.reset(seed=3, options={"task": new})
    for action in actions[:6]:
        environment.step(action)
    before = environment.data.qpos.copy(), environment.data.qvel.copy(), environment.data.qacc_warmstart.copy()
    environment.set_task(new)
    after = environment.data.qpos, environment.data.qvel, environment.data.qacc_warmstart
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    other.set_state(*before[:2])
    for name in ("qpos", "qvel", "qacc_warmstart", "xpos", "xipos", "time"):  # v5 reads positions one step late
        if name != "time":
            getattr(other.data, name)[...] = getattr(environment.data, name)
    for action in actions[6:]:
        rows = [each.step(action) for each in (environment, other)]
        np.testing.assert_array_equal(rows[0][0], rows[1][0])
        assert rows[0][1] == rows[1][1]


# Termination


@every_mujoco_environment
def test_terminated_is_what_the_environment_does_on_thousands_of_states(env_id):
    environment = make(env_id, switch_probability=0.05)
    generator = np.random.default_rng(2)
    observations, flags = [], []
    environment.reset(seed=0)
    height = 2 if MUJOCO[env_id] > 17 else 1
    for count in range(3000):
        qpos = environment.init_qpos + generator.uniform(-0.1, 0.1, environment.model.nq)
        qpos[height] = generator.uniform(0, 2.3) - (0.7 if "Cheetah" in env_id else 0.0)
        if height == 1:
            qpos[2] = generator.uniform(-1.3, 1.3)
        environment.set_state(qpos, environment.init_qvel + generator.normal(size=environment.model.nv))
        observation, _, terminated, _, _ = environment.step(environment.action_space.low * generator.uniform(-1, 1))
        observations.append(observation)
        flags.append(terminated)
        if count % 200 == 0:
            environment.reset(seed=count)
    found = environment.terminated(np.array(observations))
    assert found.shape == (3000,)
    assert found.dtype == bool
    assert found.tolist() == flags
    assert environment.terminated(np.array(observations, dtype=np.float32)).mean() == pytest.approx(np.mean(flags))
    if env_id in ENDING:
        assert 0.2 < np.mean(flags) < 0.9
    else:
        assert not np.any(flags)


@pytest.mark.parametrize("env_id", ENDING)
def test_terminated_agrees_in_ordinary_episodes_with_and_without_noise(env_id):
    for noise in (0.0, 0.02):
        environment = make(env_id, process_noise=noise)
        ended = 0
        for seed in range(15):
            environment.reset(seed=seed)
            for action in random_actions(environment, 150, seed):
                observation, _, terminated, _, _ = environment.step(3 * action)
                assert environment.terminated(observation[None]).tolist() == [terminated]
                ended += terminated
                if terminated:
                    break
        assert ended > 0


@pytest.mark.parametrize("env_id", ENDING)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_height_that_is_no_number_ends_the_episode(env_id, value):
    environment = make(env_id)
    observation = environment.reset(seed=0)[0]
    assert environment.terminated(observation[None]).tolist() == [False]
    observation[0] = value
    assert environment.terminated(observation[None]).tolist() == [True]


# Bad options


@every_mujoco_environment
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switch_probability": 1.5}, "switch_probability must be .* got 1.5"),
        ({"switch_period": 0}, "switch_period must be .* got 0"),
        ({"switch_probability": 0.1, "switch_period": 5}, "switch_probability=0.1 and switch_period=5"),
        ({"process_noise": -0.1}, "process_noise must be .* got -0.1"),
        ({"process_noise": (0.1, 0.1)}, r"process_noise must be .* got \(0.1, 0.1\)"),
        ({"process_noise": float("nan")}, "process_noise must be .* got nan"),
        ({"tasks": ()}, "tasks must name at least one"),
        ({"tasks": (0, -3)}, r"tasks must be a task in 0\.\.\d+, got -3"),
        ({"reward_range": (1.0, 1.0)}, r"reward_range must be .* got \(1.0, 1.0\)"),
        ({"reward_range": (0.0, float("inf"))}, r"reward_range must be .* got \(0.0, inf\)"),
    ],
)
def test_bad_options_are_named(env_id, options, message):
    with pytest.raises(ValueError, match=message):
        make(env_id, **options)


@every_mujoco_environment
def test_rewards_are_clipped_when_asked_and_only_then(env_id):
    free, clipped = (make(env_id, reward_range=given, switch_probability=0.0) for given in (None, (-0.2, 0.3)))
    rows = [trajectory(each, seed=0, task=1) for each in (free, clipped)]
    rewards = [np.array([row[1] for row in each[1:]]) for each in rows]
    np.testing.assert_array_equal(rewards[1], np.clip(rewards[0], -0.2, 0.3))
    assert np.any(rewards[0] != rewards[1])
