"""SwitchingPointMass against raw numbers, gymnasium's contracts, scipy's densities and brute-force filters."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

import m3po.envs  # noqa: F401 (registers the environments)
from m3po.envs.protocol import CertifiableDynamics, FilteredDynamics, KnownReward
from m3po.envs.switching import SwitchingRule
from m3po.envs.switching_point_mass import (
    DEFAULT_PROCESS_NOISE,
    DEFAULT_SWITCH_PROBABILITY,
    DEFAULT_TASKS,
    START_RADIUS,
    TASK_COLOURS,
    PointMassDynamics,
    PointMassTask,
    SwitchingPointMass,
    SwitchingPointMassVector,
)

ENV_ID = "m3po/SwitchingPointMass-v0"
# Three tasks that differ in everything, so that no symmetry of the defaults hides a mistake.
TASKS = (
    PointMassTask(angle=0.3, gain=1.5, wind=(0.2, -0.4)),
    PointMassTask(angle=-1.2, gain=0.7, wind=(0.0, 0.5)),
    PointMassTask(angle=2.5, gain=2.0, wind=(-0.3, 0.1)),
)
NOISE = (0.05, 0.08, 0.11, 0.2)
LAST_TASK = len(DEFAULT_TASKS) - 1


def dynamics(rule: SwitchingRule | None = None, first_task: int | None = None) -> PointMassDynamics:
    return PointMassDynamics(TASKS, NOISE, rule or SwitchingRule(), first_task)


def golden_mean(position: Any, velocity: Any, action: Any, task: PointMassTask) -> list[float]:
    """One step written out coordinate by coordinate."""
    dt, drag, spring = PointMassDynamics.time_step, PointMassDynamics.drag, PointMassDynamics.spring
    action = (action[0], -action[1]) if getattr(task, "mirrored", False) else action
    turned = (
        math.cos(task.angle) * action[0] - math.sin(task.angle) * action[1],
        math.sin(task.angle) * action[0] + math.cos(task.angle) * action[1],
    )
    moved = [p + dt * v for p, v in zip(position, velocity, strict=True)]
    pushed = [
        v + dt * (task.gain * push + wind - drag * v - spring * p)
        for p, v, push, wind in zip(position, velocity, turned, task.wind, strict=True)
    ]
    return moved + pushed


# The environment as gymnasium sees it


@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*")
@pytest.mark.parametrize("observe_reward", [False, True])
def test_gymnasiums_checker_passes(observe_reward):
    check_env(SwitchingPointMass(observe_reward=observe_reward), skip_render_check=True)


def test_the_module_prefix_works_in_a_fresh_interpreter():
    program = (
        "import gymnasium as gym, sys\n"
        "assert 'm3po' not in sys.modules\n"
        f"print(gym.make('m3po.envs:{ENV_ID}').reset(seed=0)[0].shape)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "(4,)\n"


def test_the_time_limit_truncates_and_nothing_terminates():
    environment = gym.make(ENV_ID)
    environment.reset(seed=0)
    flags = [environment.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert flags == [(False, False)] * 99 + [(False, True)]


@pytest.mark.parametrize("mode", [None, "vector_entry_point", "sync", "async"])
def test_every_vectorization_mode_makes_the_same_spaces_and_infos(mode):
    environments = gym.make_vec(ENV_ID, num_envs=3, vectorization_mode=mode, first_task=1)
    try:
        observation, info = environments.reset(seed=4)
        assert observation.shape == (3, 4)
        assert observation.dtype == np.float64
        assert environments.action_space.shape == (3, 2)
        assert environments.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        assert info["task"].tolist() == [1, 1, 1]
        assert info["_task"].all()
        observation, reward, terminated, truncated, info = environments.step(environments.action_space.sample())
        assert observation in environments.observation_space
        assert (reward.shape, reward.dtype, info["task"].shape) == ((3,), np.float64, (3,))
        assert not terminated.any()
        assert not truncated.any()
        assert environments.spec is not None
        assert (environments.spec.id, environments.spec.max_episode_steps) == (ENV_ID, 100)
    finally:
        environments.close()


def test_make_vec_takes_the_fast_vector_by_default():
    assert isinstance(gym.make_vec(ENV_ID, num_envs=2), SwitchingPointMassVector)


def episode(environment: gym.Env[Any, Any], seed: int, steps: int = 60, **options: Any) -> list[Any]:
    actions = np.random.default_rng(5).uniform(-1, 1, (steps, 2)).astype(np.float32)
    observation, info = environment.reset(seed=seed, options=options or None)
    rows: list[Any] = [(observation.tobytes(), info["task"])]
    for action in actions:
        observation, reward, _, _, info = environment.step(action)
        rows.append((observation.tobytes(), reward, info["task"]))
    return rows


@pytest.mark.parametrize("rule", [{"switch_probability": 0.3}, {"switch_period": 7}, {}])
def test_same_seed_and_actions_same_trajectory_bit_for_bit(rule):
    used = SwitchingPointMass(**rule)
    first = episode(used, seed=3)
    assert episode(used, seed=3) == first
    assert episode(SwitchingPointMass(**rule), seed=3) == first
    assert episode(used, seed=4)[1:] != first[1:]


def test_the_vector_of_one_is_the_single_environment_bit_for_bit():
    options: dict[str, Any] = {"switch_probability": 0.3, "first_task": None, "process_noise": NOISE, "tasks": TASKS}
    single, vector = SwitchingPointMass(**options), SwitchingPointMassVector(1, **options)
    actions = np.random.default_rng(5).uniform(-1.5, 1.5, (60, 2)).astype(np.float32)
    observation, info = single.reset(seed=9)
    observations, infos = vector.reset(seed=9)
    for action in actions:
        np.testing.assert_array_equal(observations[0], observation)
        assert infos["task"][0] == info["task"]
        observation, reward, _, _, info = single.step(action)
        observations, rewards, *_, infos = vector.step(action[None])
        assert rewards[0] == reward


def test_the_task_is_in_the_info_and_not_in_the_observation():
    """With the same noise and no action, tasks that differ only in the push give the same observations."""
    observations = []
    for task in range(len(DEFAULT_TASKS)):
        environment = SwitchingPointMass(switch_probability=0.0)
        first, info = environment.reset(seed=1, options={"task": task})
        assert info == {"task": task}
        following, _, _, _, info = environment.step(np.zeros(2, np.float32))
        assert info == {"task": task}
        observations.append((first.tobytes(), following.tobytes()))
    assert len({task.wind for task in DEFAULT_TASKS}) == 1
    assert len(set(observations)) == 1


@pytest.mark.parametrize("vector", [False, True])
def test_reset_pins_the_first_task_once(vector):
    options: dict[str, Any] = {"first_task": 0, "switch_probability": 0.0, "tasks": TASKS}
    environment: Any = SwitchingPointMassVector(3, **options) if vector else SwitchingPointMass(**options)
    for pinned in range(3):
        _, info = environment.reset(options={"task": pinned})
        assert np.all(info["task"] == pinned)
    _, info = environment.reset()
    assert np.all(info["task"] == 0)


def test_without_first_task_it_is_uniform():
    vector = SwitchingPointMassVector(6000, first_task=None, tasks=TASKS)
    counts = np.bincount(vector.reset(seed=2)[1]["task"], minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("make", [SwitchingPointMass, SwitchingPointMassVector])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"switch_probability": 1.5}, "switch_probability must be .* got 1.5"),
        ({"switch_period": 0}, "switch_period must be .* got 0"),
        ({"switch_probability": 0.1, "switch_period": 5}, "switch_probability=0.1 and switch_period=5"),
        ({"process_noise": 0.0}, "process_noise must be .* got 0.0"),
        ({"process_noise": (0.1, 0.1)}, r"process_noise must be .* got \(0.1, 0.1\)"),
        ({"process_noise": float("nan")}, "process_noise must be .* got nan"),
        ({"first_task": 9}, f"first_task must be a task index in 0..{LAST_TASK}, got 9"),
        ({"first_task": True}, f"first_task must be a task index in 0..{LAST_TASK}, got True"),
        ({"tasks": ()}, "tasks must name at least one"),
        ({"render_mode": "human"}, "render_mode must be None.*, got 'human'"),
    ],
)
def test_bad_options_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "numbers", [(math.inf, 1.0, (0.0, 0.0)), (0.0, math.nan, (0.0, 0.0)), (0.0, 1.0, (0.0, -math.inf))]
)
def test_a_task_that_is_not_finite_is_named(numbers):
    with pytest.raises(ValueError, match=r"must be finite, got PointMassTask.*(inf|nan)"):
        PointMassTask(*numbers)


@pytest.mark.parametrize("task", [LAST_TASK + 1, -1, 0.0, "0", True])
def test_a_bad_pinned_task_is_named(task):
    with pytest.raises(ValueError, match=rf"options\['task'\] must be a task index in 0..{LAST_TASK}, got"):
        SwitchingPointMass().reset(options={"task": task})


def test_the_picture_shows_the_robot_in_the_colour_of_its_task():
    environment = SwitchingPointMass(render_mode="rgb_array", switch_probability=0.0)
    for task in range(len(DEFAULT_TASKS)):
        environment.reset(seed=task, options={"task": task})
        environment._episodes.state[0, :2] = (1.0, -0.5)
        picture: Any = environment.render()
        assert (picture.shape, picture.dtype) == ((240, 240, 3), np.uint8)
        rows, columns = np.nonzero((picture == TASK_COLOURS[task]).all(axis=2))
        centre = -2 + 4 * columns.mean() / 239, 2 - 4 * rows.mean() / 239
        assert centre == pytest.approx((1.0, -0.5), abs=0.02)
    assert SwitchingPointMass().render() is None


def test_the_vector_takes_one_seed():
    with pytest.raises(ValueError, match="list of 2"):
        SwitchingPointMassVector(2).reset(seed=[1, 2])


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_a_bad_time_limit_of_the_vector_is_named(limit):
    with pytest.raises(ValueError, match=f"max_episode_steps must be .* got {limit}"):
        SwitchingPointMassVector(2, max_episode_steps=limit)


def steps_of(mode: AutoresetMode | str, steps: int = 5) -> list[Any]:
    """The reset and steps of three episodes of three steps, whose previous reward is observed."""
    vector = SwitchingPointMassVector(3, max_episode_steps=3, autoreset_mode=mode, observe_reward=True)
    rows: list[Any] = [vector.reset(seed=2)]
    assert vector.metadata["autoreset_mode"] is AutoresetMode(mode)
    for _ in range(steps):
        rows.append(vector.step(np.ones((3, 2), np.float32)))
    return rows


def test_an_episode_of_the_vector_starts_anew_in_the_step_that_ends_it():
    later, at_once = steps_of(AutoresetMode.NEXT_STEP), steps_of("SameStep")
    assert [row[3].all() for row in at_once[1:]] == [False, False, True, False, False]
    last, ended = at_once[3], later[3]
    np.testing.assert_array_equal(np.stack(list(last[4]["final_obs"])), ended[0])
    np.testing.assert_array_equal(last[4]["final_info"]["task"], ended[4]["task"])
    np.testing.assert_array_equal(last[1], ended[1])
    assert last[4]["_final_obs"].all()
    assert last[4]["_final_info"].all()
    np.testing.assert_allclose(np.hypot(*last[0][:, :2].T), 1)
    assert (last[0][:, 2:] == 0).all()
    assert "final_obs" not in at_once[4][4]
    np.testing.assert_array_equal(at_once[4][0][:, -1], at_once[4][1])


def test_without_autoreset_the_vector_waits_for_a_masked_reset():
    vector = SwitchingPointMassVector(3, max_episode_steps=2, autoreset_mode="Disabled", switch_probability=0.0)
    vector.reset(seed=0)
    actions = np.ones((3, 2), np.float32)
    before = vector.step(actions)[0]
    mask = np.array([False, True, False])
    observations, infos = vector.reset(options={"reset_mask": mask, "task": 1})
    np.testing.assert_array_equal(observations[~mask], before[~mask])
    assert np.hypot(*observations[1, :2]) == pytest.approx(1)
    assert (infos["_task"].tolist(), infos["task"][1]) == (mask.tolist(), 1)
    assert vector.step(actions)[3].tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"episodes \[0, 2\] have ended: reset them first"):
        vector.step(actions)
    vector.reset(options={"reset_mask": ~mask})
    assert vector.step(actions)[3].tolist() == [False, True, False]


@pytest.mark.parametrize("mask", [np.zeros(2, bool), np.ones(3, bool), [True, True], np.ones(2)])
def test_a_bad_mask_of_the_vector_is_named(mask):
    with pytest.raises(ValueError, match=r"options\['reset_mask'\] must (be a numpy array of 2 booleans|reset)"):
        SwitchingPointMassVector(2).reset(options={"reset_mask": mask})


# Switching


def tasks_of(vector: SwitchingPointMassVector, steps: int) -> np.ndarray:
    """[steps + 1, N], info["task"] at reset and after every step."""
    tasks = [vector.reset(seed=6)[1]["task"]]
    actions = np.zeros((vector.num_envs, 2), np.float32)
    return np.array(tasks + [vector.step(actions)[-1]["task"] for _ in range(steps)])


def test_a_period_switches_after_exactly_its_multiples():
    tasks = tasks_of(SwitchingPointMassVector(300, switch_period=4, tasks=TASKS), 14)
    changed = (tasks[1:] != tasks[:-1]).mean(axis=1)  # entry s - 1: over step s
    assert [step for step in range(1, 15) if changed[step - 1] > 0] == [4, 8, 12]
    # a redraw keeps the task with probability 1/3
    assert all(stats.binomtest(round(300 * changed[s - 1]), 300, 2 / 3).pvalue > 1e-4 for s in (4, 8, 12))


def test_the_clock_of_the_period_restarts_with_the_episode():
    environment = SwitchingPointMass(switch_period=3, first_task=0, tasks=TASKS)
    later = set()
    for seed in range(20):
        environment.reset(seed=seed)
        tasks = [environment.step(np.zeros(2, np.float32))[-1]["task"] for _ in range(4)]
        assert tasks[:2] == [0, 0]
        assert tasks[2] == tasks[3]
        later.add(tasks[2])
    assert later == {0, 1, 2}


@pytest.mark.parametrize(("options", "probability"), [({"switch_probability": 0.2}, 0.2), ({}, None)])
def test_a_probability_changes_the_task_that_often(options, probability):
    probability = DEFAULT_SWITCH_PROBABILITY if probability is None else probability
    tasks = tasks_of(SwitchingPointMassVector(400, tasks=TASKS, **options), 99)
    changes, steps = int((tasks[1:] != tasks[:-1]).sum()), tasks[1:].size
    assert stats.binomtest(changes, steps, probability * 2 / 3).pvalue > 1e-3


def test_the_info_names_the_task_of_the_next_step():
    environment = SwitchingPointMass(switch_probability=1.0, process_noise=1e-9, tasks=TASKS, first_task=None)
    action = np.array([0.7, -0.2], np.float32)
    observation, info = environment.reset(seed=0)
    seen = set()
    for _ in range(30):
        expected = golden_mean(observation[:2], observation[2:], action.astype(np.float64), TASKS[info["task"]])
        seen.add(info["task"])
        observation, _, _, _, info = environment.step(action)
        np.testing.assert_allclose(observation, expected, atol=1e-7)
    assert seen == {0, 1, 2}


def test_period_one_leaves_the_default_probability_behind():
    assert SwitchingPointMass(switch_period=1).dynamics.switching == SwitchingRule(period=1)
    assert SwitchingPointMass().dynamics.switching == SwitchingRule(probability=DEFAULT_SWITCH_PROBABILITY)


# Rewards, dynamics, start


@pytest.mark.parametrize(
    ("position", "action", "reward"),
    [
        ((0.0, 0.0), (0.0, 0.0), 1.0),
        ((0.4, 0.0), (0.0, 0.0), 0.6065306597126334),
        ((0.24, 0.32), (1.0, -1.0), 0.5065306597126334),
        ((1.0, 0.0), (0.5, 0.0), 0.0439369336234074 - 0.0125),
        ((50.0, 0.0), (-1.0, 1.0), -0.1),
    ],
)
def test_rewards_in_numbers(position, action, reward):
    observation = np.array([*position, 3.0, -2.0])
    assert dynamics().reward(observation, np.array(action)) == pytest.approx(reward, abs=1e-15)


def test_the_reward_is_paid_for_the_observation_before_the_step_and_the_clipped_action():
    environment = SwitchingPointMass()
    observation, _ = environment.reset(seed=0)
    wild, clipped = np.array([3.0, -0.5], np.float32), np.array([1.0, -0.5])
    _, reward, *_ = environment.step(wild)
    assert reward == environment.dynamics.reward(observation, clipped)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_the_reward_stays_in_its_range(numbers):
    instance = dynamics()
    reward = instance.reward(np.array(numbers[:4]), np.clip(numbers[4:], -1, 1))
    assert instance.reward_low <= reward <= instance.reward_high


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.integers(0, 2))
def test_means_in_numbers(numbers, task):
    position, velocity, action = numbers[:2], numbers[2:4], numbers[4:]
    mean = dynamics().mean(np.array(numbers[:4]), np.array(action), np.array(task))
    np.testing.assert_allclose(mean, golden_mean(position, velocity, action, TASKS[task]), rtol=1e-13, atol=1e-13)


def test_methods_broadcast_over_leading_dimensions():
    generator = np.random.default_rng(0)
    observation, following = generator.normal(size=(2, 3, 5, 4))
    action, task = generator.uniform(-1, 1, (3, 5, 2)), generator.integers(3, size=(3, 5))
    instance = dynamics()
    for index in np.ndindex(3, 5):
        one = (observation[index], action[index], task[index])
        np.testing.assert_allclose(instance.mean(observation, action, task)[index], instance.mean(*one), atol=1e-15)
        density = instance.log_density(following, observation, action, task)
        assert density[index] == pytest.approx(float(instance.log_density(following[index], *one)), rel=1e-13)


def test_noise_has_its_scale_on_every_coordinate_and_no_correlation():
    count = 40_000
    instance = dynamics()
    observation, action = np.tile([0.5, -0.2, 0.3, 0.1], (count, 1)), np.tile([0.3, 0.9], (count, 1))
    task = np.full(count, 2)
    drawn = instance.sample(observation, action, task, np.random.default_rng(8))
    residual = drawn - instance.mean(observation, action, task)
    np.testing.assert_allclose(residual.std(axis=0), NOISE, rtol=4 / math.sqrt(2 * count))
    assert np.abs(residual.mean(axis=0) / NOISE).max() < 4 / math.sqrt(count)
    correlations = np.asarray(np.corrcoef(residual.T))[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(count)


def test_episodes_start_at_rest_uniformly_on_the_circle():
    start = SwitchingPointMassVector(5000).reset(seed=0)[0]
    np.testing.assert_allclose(np.hypot(start[:, 0], start[:, 1]), START_RADIUS, rtol=1e-14)
    assert (start[:, 2:] == 0).all()
    angle = np.arctan2(start[:, 1], start[:, 0])
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("vector", [False, True])
def test_observe_reward_appends_the_previous_reward(vector):
    environment: Any = (
        SwitchingPointMassVector(1, observe_reward=True) if vector else SwitchingPointMass(observe_reward=True)
    )
    observation = np.ravel(environment.reset(seed=0)[0])
    assert (observation.shape, observation[4]) == ((5,), 0.0)
    for _ in range(3):
        action = np.array([0.4, -1.0], np.float32)
        observation, reward, *_ = environment.step(action[None] if vector else action)
        assert np.ravel(observation)[4] == np.ravel(reward)[0] != 0


def test_the_protocols_are_met():
    instance = dynamics()
    for protocol in (CertifiableDynamics, FilteredDynamics, KnownReward):
        assert isinstance(instance, protocol)


# The vector


class Tape:
    """A generator that hands out recorded numbers, so that a vector and its single environments see the same noise."""

    def __init__(self, seed: int, rows: slice, count: int) -> None:
        self.generator, self.rows, self.count = np.random.default_rng(seed), rows, count

    def standard_normal(self, shape: tuple[int, int]) -> np.ndarray:
        return self.generator.standard_normal((self.count, shape[1]))[self.rows]

    def random(self, shape: tuple[int]) -> np.ndarray:
        return self.generator.random(self.count)[self.rows]

    def integers(self, high: int, size: int) -> np.ndarray:
        return self.generator.integers(high, size=self.count)[self.rows]

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return self.generator.uniform(low, high, self.count)[self.rows]


@pytest.mark.parametrize("rule", [{"switch_probability": 0.3}, {"switch_period": 3}])
@pytest.mark.parametrize("first_task", [None, 1])
def test_with_the_same_noise_the_vector_is_n_single_environments(rule, first_task):
    count, steps = 5, 25
    options: dict[str, Any] = {**rule, "first_task": first_task, "tasks": TASKS, "process_noise": NOISE}
    actions = np.random.default_rng(1).uniform(-1.2, 1.2, (steps, count, 2)).astype(np.float32)
    vector = SwitchingPointMassVector(count, **options)
    vector._np_random = Tape(3, slice(None), count)  # type: ignore[assignment]
    observation, info = vector.reset()
    table = [(observation, np.zeros(count), info["task"])]
    for action in actions:
        observation, reward, *_, info = vector.step(action)
        table.append((observation, reward, info["task"]))
    for row in range(count):
        single = SwitchingPointMass(**options)
        single._np_random = Tape(3, slice(row, row + 1), count)  # type: ignore[assignment]
        observation, info = single.reset()
        mine = [(observation, 0.0, info["task"])]
        for action in actions[:, row]:
            observation, one_reward, *_, info = single.step(action)
            mine.append((observation, one_reward, info["task"]))
        for (observations, rewards, tasks), (observation, one_reward, task) in zip(table, mine, strict=True):
            np.testing.assert_allclose(observations[row], observation, rtol=1e-14, atol=1e-15)
            assert rewards[row] == pytest.approx(one_reward, rel=1e-14)
            assert tasks[row] == task


@pytest.mark.parametrize("limit", [1, 4])
def test_autoreset_has_gymnasiums_next_step_semantics(limit):
    """Flags, zero rewards and fresh starts fall on the same steps as in SyncVectorEnv, over more than two episodes."""
    fast = SwitchingPointMassVector(3, max_episode_steps=limit, tasks=TASKS, first_task=2, observe_reward=True)
    slow = gym.make_vec(
        ENV_ID, num_envs=3, vectorization_mode="sync",
        max_episode_steps=limit, tasks=TASKS, first_task=2, observe_reward=True,
    )  # fmt: skip
    actions = np.full((3, 2), 0.5, np.float32)
    histories = []
    for environments in (fast, slow):
        environments.reset(seed=0)
        rows = []
        for _ in range(3 * (limit + 1)):
            observation, reward, terminated, truncated, info = environments.step(actions)
            fresh = (observation[:, 2:] == 0).all(axis=1)
            radius = np.hypot(observation[:, 0], observation[:, 1])
            np.testing.assert_allclose(radius[fresh], START_RADIUS)
            assert (info["task"][fresh] == 2).all()
            rows.append([terminated.tolist(), truncated.tolist(), (reward == 0).tolist(), fresh.tolist()])
        histories.append(rows)
    assert histories[0] == histories[1]
    assert np.array(histories[0])[:, 3].all(axis=1).tolist() == ([False] * limit + [True]) * 3


def test_an_episode_that_ends_alone_is_reset_alone():
    vector = SwitchingPointMassVector(3, max_episode_steps=5)
    vector.reset(seed=0)
    vector._episodes.steps[1] = 4  # as after a staggered start
    actions = np.ones((3, 2), np.float32)
    fresh, truncations = [], []
    for _ in range(7):
        observation, _, _, truncated, _ = vector.step(actions)
        fresh.append((observation[:, 2:] == 0).all(axis=1).tolist())
        truncations.append(truncated.tolist())
    steps = np.arange(7)
    np.testing.assert_array_equal(fresh, np.stack([steps == 5, steps == 1, steps == 5], axis=1))
    np.testing.assert_array_equal(truncations, np.stack([steps == 4, (steps == 0) | (steps == 6), steps == 4], axis=1))


def test_a_reset_in_mid_episode_starts_the_clock_again():
    vector = SwitchingPointMassVector(2, max_episode_steps=3)
    actions = np.zeros((2, 2), np.float32)
    for steps in (2, 3, 3):  # also right after a truncation
        vector.reset(seed=0)
        truncated = [vector.step(actions)[3].all() for _ in range(steps)]
        assert truncated == [step == 2 for step in range(steps)]


def test_what_step_returns_is_never_overwritten_later():
    vector = SwitchingPointMassVector(6, max_episode_steps=3, switch_probability=1.0, tasks=TASKS)
    outputs, copies = [], []
    vector.reset(seed=0)
    for _ in range(7):  # the last one ends the episodes
        observation, reward, terminated, truncated, info = vector.step(np.ones((6, 2), np.float32))
        outputs.append((observation, reward, terminated, truncated, info["task"]))
        copies.append(tuple(array.copy() for array in outputs[-1]))
    vector.reset()
    for output, copy in zip(outputs, copies, strict=True):
        for array, before in zip(output, copy, strict=True):
            np.testing.assert_array_equal(array, before)


# The one-step density


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_log_density_is_scipys(seed, task):
    generator = np.random.default_rng(seed)
    observation, action = generator.normal(size=4), generator.uniform(-1, 1, 2)
    mean = golden_mean(observation[:2], observation[2:], action, TASKS[task])
    following = np.asarray(mean) + generator.normal(size=4) * generator.choice([0.1, 3.0])
    expected = stats.multivariate_normal(mean, np.diag(np.square(NOISE))).logpdf(following)
    found = dynamics().log_density(following, observation, action, np.array(task))
    assert float(found) == pytest.approx(float(expected), rel=1e-10, abs=1e-10)


def test_the_density_integrates_to_one():
    """A product grid of trapezoids over +- 8 standard deviations, exact to rounding for Gaussians."""
    instance = dynamics()
    observation, action, task = np.array([0.3, -0.8, 0.5, 0.2]), np.array([0.6, -0.9]), np.array(1)
    mean = instance.mean(observation, action, task)
    grid = np.linspace(-8, 8, 33)
    axes = [mean[i] + NOISE[i] * grid for i in range(4)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    cell = math.prod(noise * (grid[1] - grid[0]) for noise in NOISE)
    assert np.exp(instance.log_density(points, observation, action, task)).sum() * cell == pytest.approx(1, abs=1e-12)


def test_simulated_next_observations_follow_the_density():
    """Kolmogorov-Smirnov per coordinate and chi-square on orthants of the *environment's* steps, level 2e-4."""
    count = 5000
    vector = SwitchingPointMassVector(count, tasks=TASKS, process_noise=NOISE, first_task=None, switch_probability=0.3)
    observation, info = vector.reset(seed=12)
    actions = np.random.default_rng(2).uniform(-1, 1, (3, count, 2)).astype(np.float32)
    for action in actions:
        before, task = observation, info["task"]
        observation, *_, info = vector.step(action)
    instance = vector.dynamics
    standardised = (observation - instance.mean(before, actions[-1].astype(np.float64), task)) / NOISE
    for coordinate in standardised.T:
        assert stats.kstest(coordinate, "norm").pvalue > 2e-4
    cells = np.bincount((standardised > 0) @ np.array([1, 2, 4, 8]), minlength=16)
    assert stats.chisquare(cells).pvalue > 2e-4
    # and log_density names that very law: its mean under p is minus the entropy
    log_density = instance.log_density(observation, before, actions[-1].astype(np.float64), task)
    entropy = 0.5 * 4 * (1 + math.log(2 * math.pi)) + np.log(NOISE).sum()
    assert abs(log_density.mean() + entropy) < 4 * log_density.std() / math.sqrt(count)


# The density given the history


RULES = [
    SwitchingRule(),
    SwitchingRule(probability=0.3),
    SwitchingRule(probability=1.0),
    SwitchingRule(period=1),
    SwitchingRule(period=2),
    SwitchingRule(period=3),
]


def simulate(
    instance: PointMassDynamics, episodes: int, horizon: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, actions and tasks by an independent loop; the actions follow the past, as a real policy's do."""
    generator = np.random.default_rng(seed)
    observations = np.zeros((episodes, horizon + 1, 4))
    actions, tasks = np.zeros((episodes, horizon, 2)), np.zeros((episodes, horizon), dtype=np.int64)
    observations[:, 0] = generator.normal(size=(episodes, 4))
    for n in range(episodes):
        task = int(generator.integers(len(TASKS))) if instance.first_task is None else instance.first_task
        for t in range(horizon):
            action = np.tanh(generator.normal(size=2) + observations[n, max(t - 1, 0), 2:])
            mean = golden_mean(observations[n, t, :2], observations[n, t, 2:], action, TASKS[task])
            observations[n, t + 1] = mean + np.asarray(NOISE) * generator.normal(size=4)
            actions[n, t], tasks[n, t] = action, task
            period, probability = instance.switching.period, instance.switching.probability
            if ((t + 1) % period == 0) if period else (generator.random() < probability):
                task = int(generator.integers(len(TASKS)))
    return observations, actions, tasks


def log_transition(rule: SwitchingRule, step: int, before: int, after: int) -> float:
    """log P(task after step number `step` | task before): redrawn uniformly with the rule's chance, else kept."""
    chance = float(step % rule.period == 0) if rule.period else rule.probability
    probability = (1 - chance) * (before == after) + chance / len(TASKS)
    return math.log(probability) if probability else -math.inf


def log_prior(instance: PointMassDynamics, start: int) -> list[float]:
    """log P(task_start), summed over every way the first tasks may have gone."""
    count = len(TASKS)
    first = [1 / count] * count if instance.first_task is None else np.eye(count)[instance.first_task].tolist()
    totals = [0.0] * count
    for path in itertools.product(range(count), repeat=start + 1):
        logs = [log_transition(instance.switching, s + 1, path[s], path[s + 1]) for s in range(start)]
        totals[path[-1]] += first[path[0]] * math.exp(sum(logs))
    return [math.log(total) if total else -math.inf for total in totals]


def brute_force(
    instance: PointMassDynamics, observations: np.ndarray, actions: np.ndarray, start: int, t: int
) -> float:
    """log P(o_{start+1..t+1} | a) - log P(o_{start+1..t} | a), each a sum over all task sequences from step start."""

    def log_evidence(last: int) -> float:
        if last < start:
            return 0.0
        terms = []
        for path in itertools.product(range(len(TASKS)), repeat=last - start + 1):
            total = log_prior(instance, start)[path[0]]
            for s in range(start, last + 1):
                mean = golden_mean(observations[s, :2], observations[s, 2:], actions[s], TASKS[path[s - start]])
                total += stats.norm.logpdf(observations[s + 1], mean, NOISE).sum()
                if s < last:
                    total += log_transition(instance.switching, s + 1, path[s - start], path[s - start + 1])
            terms.append(total)
        return float(logsumexp(terms))

    return log_evidence(t) - log_evidence(t - 1)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("first_task", [None, 1])
def test_the_filter_equals_the_sum_over_all_task_sequences(rule, first_task):
    instance = dynamics(rule, first_task)
    horizon = 4
    observations, actions, _ = simulate(instance, 3, horizon, seed=1)
    found = instance.history_log_density(observations, actions)
    expected = [
        [brute_force(instance, o, a, 0, t) for t in range(horizon)] for o, a in zip(observations, actions, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("first_task", [None, 1])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_the_window_restarts_from_the_task_prior(rule, first_task, window):
    instance = dynamics(rule, first_task)
    horizon = 4
    observations, actions, _ = simulate(instance, 2, horizon, seed=2)
    found = instance.history_log_density(observations, actions, window)
    expected = [
        [brute_force(instance, o, a, max(t - window, 0), t) for t in range(horizon)]
        for o, a in zip(observations, actions, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(st.sampled_from(RULES), st.sampled_from([None, 0, 2]), st.integers(0, 2**32 - 1))
def test_a_window_as_long_as_the_episode_is_no_window(rule, first_task, seed):
    instance = dynamics(rule, first_task)
    observations, actions, _ = simulate(instance, 2, 6, seed)
    whole = instance.history_log_density(observations, actions)
    np.testing.assert_allclose(instance.history_log_density(observations, actions, 5), whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(instance.history_log_density(observations, actions, 99), whole, rtol=1e-12, atol=1e-12)


def test_with_one_task_the_history_adds_nothing():
    instance = PointMassDynamics(TASKS[:1], NOISE, SwitchingRule(probability=0.5))
    observations, actions, _ = simulate(instance, 4, 5, seed=0)
    expected = instance.log_density(observations[:, 1:], observations[:, :-1], actions, np.zeros((4, 5), dtype=int))
    np.testing.assert_allclose(instance.history_log_density(observations, actions), expected, rtol=1e-13, atol=1e-13)


def test_a_task_that_was_ruled_out_stays_out_and_gives_finite_densities():
    """A belief of exactly zero on the likelier task: the filter must keep the other and not divide zero by zero."""
    instance = PointMassDynamics(TASKS, 1e-4, SwitchingRule(), first_task=0)
    observations, actions = np.zeros((1, 4, 4)), np.full((1, 3, 2), 0.9)
    for t in range(3):  # episodes that were pinned to another task than the filter believes in
        observations[0, t + 1] = golden_mean(observations[0, t, :2], observations[0, t, 2:], actions[0, t], TASKS[1])
    expected = instance.log_density(observations[:, 1:], observations[:, :-1], actions, np.zeros((1, 3), dtype=int))
    np.testing.assert_allclose(instance.history_log_density(observations, actions), expected, rtol=1e-12)


def test_a_negative_window_is_named():
    with pytest.raises(ValueError, match="window must be >= 0, got -1"):
        dynamics().history_log_density(np.zeros((1, 2, 4)), np.zeros((1, 1, 2)), -1)


@pytest.mark.parametrize("rule", [SwitchingRule(probability=0.2), SwitchingRule(period=3)], ids=str)
@pytest.mark.parametrize("first_task", [None, 1])
def test_the_filter_is_the_true_predictive_density(rule, first_task):
    """E[q/p] = 1 under p for every density q; here q is the filter of another switching rule."""
    episodes, horizon = 4000, 8
    vector = SwitchingPointMassVector(
        episodes, tasks=TASKS, process_noise=NOISE, first_task=first_task,
        switch_probability=rule.probability if rule.period is None else None, switch_period=rule.period,
    )  # fmt: skip
    observation, _ = vector.reset(seed=3)
    observations, actions = [observation], []
    generator = np.random.default_rng(3)
    for _ in range(horizon):
        actions.append(np.tanh(generator.normal(size=(episodes, 2)) + observation[:, 2:]).astype(np.float32))
        observation, *_ = vector.step(actions[-1])
        observations.append(observation)
    seen = np.stack(observations, axis=1), np.stack(actions, axis=1).astype(np.float64)
    log_p = vector.dynamics.history_log_density(*seen)
    for other in (dynamics(SwitchingRule(), None), dynamics(SwitchingRule(probability=0.7), 0)):
        ratio = np.exp(other.history_log_density(*seen) - log_p)
        deviation = (ratio.mean(axis=0) - 1) / np.maximum(ratio.std(axis=0), 1e-12) * math.sqrt(episodes)
        assert np.abs(deviation).max() < 4
    # no filter that sees less predicts better: E[log p - log q] >= 0
    for window in (0, 1, 2):
        gain = log_p - vector.dynamics.history_log_density(*seen, window)
        assert gain.mean() >= -4 * gain.mean(axis=1).std() / math.sqrt(episodes)


@pytest.mark.parametrize("rule", [SwitchingRule(probability=0.2), SwitchingRule(period=3)], ids=str)
@pytest.mark.parametrize("first_task", [None, 1])
def test_beliefs_are_calibrated_and_the_prior_is_the_frequency(rule, first_task):
    episodes, horizon = 1500, 6
    instance = dynamics(rule, first_task)
    observations, actions, tasks = simulate(instance, episodes, horizon, seed=5)
    belief = np.tile(instance.prior(0), (episodes, 1))
    for t in range(horizon):
        truth = tasks[:, t, None] == np.arange(3)
        # E[(1{task = j} - belief_j) belief_i] = 0: calibration with the belief itself as test function
        for weight in belief.T:
            product = (truth - belief) * weight[:, None]
            deviation = product.mean(axis=0) * math.sqrt(episodes) / np.maximum(product.std(axis=0), 1e-12)
            assert np.abs(deviation).max() < 4.5
        frequency, prior = truth.mean(axis=0), instance.prior(t)
        assert np.all(np.abs(frequency - prior) <= 4.5 * np.sqrt(prior * (1 - prior) / episodes))
        log_likelihoods = np.stack(
            [
                instance.log_density(observations[:, t + 1], observations[:, t], actions[:, t], np.full(episodes, j))
                for j in range(3)
            ],
            axis=-1,
        )
        belief = instance.update_belief(belief, log_likelihoods, t + 1)
        np.testing.assert_allclose(belief.sum(axis=1), 1, rtol=1e-12)


def test_default_tasks_are_balanced():
    """The average push over the tasks is none and the drift is always the same: one observation tells nothing."""
    instance = PointMassDynamics(DEFAULT_TASKS, DEFAULT_PROCESS_NOISE, SwitchingRule())
    assert np.abs(instance.push_matrices).max() > 0.01
    np.testing.assert_allclose(instance.push_matrices.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_array_equal(instance.drifts, np.tile(instance.drifts[0], (len(DEFAULT_TASKS), 1)))


@pytest.mark.parametrize("task", range(len(DEFAULT_TASKS)))
def test_means_of_the_default_tasks_in_numbers(task):
    instance = PointMassDynamics(DEFAULT_TASKS, DEFAULT_PROCESS_NOISE, SwitchingRule())
    observation, action = np.array([0.4, -0.7, 0.2, 0.9]), np.array([0.6, -0.3])
    mean = instance.mean(observation, action, np.array(task))
    expected = golden_mean(observation[:2], observation[2:], action, DEFAULT_TASKS[task])
    np.testing.assert_allclose(mean, expected, rtol=1e-13)
