"""Vectors of MuJoCo bodies: every episode is the single environment's, to the bit, whatever the threads."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import m3po.envs  # noqa: F401 (registers the environments)
from tests.m3po.envs.test_conformance import ENDING, MUJOCO, every_mujoco_environment

CHEETAH, ANT = "m3po/HalfCheetahFwdBwd-v0", "m3po/AntFwdBwd-v0"
WALKER, HUMANOID = "m3po/Walker2dRandomParams-v0", "m3po/HumanoidDirec-v0"
BODIES = tuple(MUJOCO)


def vector_of(env_id: str, count: int = 3, **options: Any) -> Any:
    return gym.make_vec(env_id, num_envs=count, vectorization_mode="vector_entry_point", **options)


def sync_of(env_id: str, count: int = 3, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **options: Any) -> Any:
    """gymnasium's vector of single environments."""
    vector_options = {"autoreset_mode": mode}
    return gym.make_vec(env_id, num_envs=count, vectorization_mode="sync", vector_kwargs=vector_options, **options)


def action_sequence(vector: Any, steps: int, seed: int = 5) -> np.ndarray:
    box = vector.single_action_space
    shape = (steps, vector.num_envs, *box.shape)
    return np.random.default_rng(seed).uniform(box.low, box.high, shape).astype(np.float32)


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """The same numbers, types, keys and masks, to the bit."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where} {key}")
    elif isinstance(left, tuple | list):
        assert len(left) == len(right), where
        for i, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where} {i}")
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        if left.dtype == object:
            assert_same(list(left), list(right), where)
        else:
            assert left.tobytes() == right.tobytes(), where
    else:
        assert left == right, where


def compare(env_id: str, steps: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **options: Any) -> tuple[int, int]:
    """Run ours beside gymnasium's; returns how many episodes ended and how often a task changed."""
    ours, theirs = vector_of(env_id, autoreset_mode=mode, threads=2, **options), sync_of(env_id, mode=mode, **options)
    try:
        started = ours.reset(seed=7)
        assert_same(started, theirs.reset(seed=7), "reset")
        ended = changed = 0
        tasks = started[1]["task"]
        for t, action in enumerate(action_sequence(ours, steps)):
            if t == 5:  # from here on the episodes end one after the other
                late = np.array([False, True, False])
                again = [each.reset(seed=9, options={"reset_mask": late.copy()}) for each in (ours, theirs)]
                assert_same(again[0], again[1], "masked reset")
            row = ours.step(action)
            assert_same(row, theirs.step(action), f"step {t}")
            over = row[2] | row[3]
            ended += int(over.sum())
            changed += int((row[4]["task"] != tasks).sum())
            tasks = row[4]["task"]
            if mode is AutoresetMode.DISABLED and over.any():
                again = ours.reset(options={"reset_mask": over})
                assert_same(again, theirs.reset(options={"reset_mask": over}), f"reset after step {t}")
        return ended, changed
    finally:
        ours.close()
        theirs.close()


@every_mujoco_environment
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_it_returns_what_gymnasiums_vector_of_single_environments_returns(env_id, mode):
    ended, changed = compare(env_id, 30, mode, max_episode_steps=12, switch_probability=0.2)
    assert ended >= 6
    assert changed >= 6


@pytest.mark.parametrize("env_id", ENDING)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_bodies_end_as_they_do_alone(env_id, noise):
    """From starts that are far from upright, so that they fall soon, and again and again."""
    assert compare(env_id, 60, reset_noise_scale=0.6, process_noise=noise)[0] >= 3


@every_mujoco_environment
@pytest.mark.parametrize(
    "options",
    [
        {"process_noise": 0.02, "switch_period": 4},
        {"process_noise": 0.02, "observe_reward": True, "reward_range": (-0.5, 0.5)},
        {"observe_reward": True, "reward_range": (0.0, 1.2), "reset_noise_scale": 0.2},
        {"observe_reward": False, "switch_probability": 0.0},
    ],
    ids=["noise", "noisy reward", "clipped", "bare"],
)
def test_it_is_the_single_environment_with_every_option(env_id, options):
    compare(env_id, 20, max_episode_steps=12, **options)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("m3po/HalfCheetahPier-v0", {"observe_pier": True, "process_noise": 0.02}),
        ("m3po/HalfCheetahPier-v0", {"fall_ends_episode": True}),
        ("m3po/AntCrippledLeg-v0", {"tasks": (3,)}),
        (WALKER, {"frame_skip": 4}),
    ],
)
def test_and_with_the_options_of_one_body(env_id, options):
    compare(env_id, 15, max_episode_steps=10, **options)


@every_mujoco_environment
@pytest.mark.slow
def test_a_thousand_steps_with_switches_and_resets_are_the_single_environments(env_id):
    for noise in (0.0, 0.01):
        ended, changed = compare(env_id, 1000, switch_probability=0.05, max_episode_steps=300, process_noise=noise)
        assert ended >= 9
        assert changed >= 30


def test_a_fall_off_the_pier_ends_an_episode_in_the_vector_too():
    ours = vector_of("m3po/HalfCheetahPier-v0", 2, fall_ends_episode=True)
    ours.reset(seed=0)
    ours.envs[1].data.qpos[1] = -3.0
    row = ours.step(np.zeros((2, 6), np.float32))
    assert row[2].tolist() == [False, True]
    ours.close()


@every_mujoco_environment
def test_threads_change_nothing(env_id):
    found = []
    for threads in (1, 2, 5):
        ours = vector_of(env_id, 4, threads=threads, switch_probability=0.2)
        rows = [ours.reset(seed=1), *(ours.step(action) for action in action_sequence(ours, 12))]
        found.append(rows)
        ours.close()
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@every_mujoco_environment
def test_it_is_a_vector_environment_of_gymnasiums(env_id):
    ours, single = vector_of(env_id, 64, threads=1), gym.make(env_id)
    assert ours.num_envs == 64
    assert ours.spec.id == env_id
    assert isinstance(ours, VectorEnv)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert ours.single_observation_space == single.observation_space
    assert ours.single_action_space == single.action_space
    observations, infos = ours.reset(seed=3)
    assert observations in ours.observation_space
    assert infos["_task"].all()
    assert not isinstance(ours, SyncVectorEnv)
    ours.close()


def test_seeds_and_tasks_may_be_one_for_each_episode():
    ours = vector_of(CHEETAH)
    observations, infos = ours.reset(seed=[4, 9, 4], options={"task": [1, None, 0]})
    for i, seed in enumerate((4, 9, 4)):
        assert observations[i].tobytes() == gym.make(CHEETAH).reset(seed=seed)[0].tobytes()
    assert infos["task"][[0, 2]].tolist() == [1, 0]
    assert ours.reset(seed=1, options={"task": 1})[1]["task"].tolist() == [1, 1, 1]
    assert ours.np_random_seed == (1, 2, 3)
    ours.close()


def test_a_masked_reset_leaves_the_other_episodes_alone():
    ours, theirs = vector_of(CHEETAH), vector_of(CHEETAH)
    before = ours.reset(seed=0)[0]
    theirs.reset(seed=0)
    mask = np.array([False, True, False])
    options = {"reset_mask": mask, "task": 1}
    observations, infos = ours.reset(seed=5, options=options)
    assert options == {"reset_mask": mask, "task": 1}  # the caller's own
    assert infos["_task"].tolist() == mask.tolist()
    assert infos["task"][1] == 1
    assert observations[[0, 2]].tobytes() == before[[0, 2]].tobytes()
    assert observations[1].tobytes() == gym.make(CHEETAH).reset(seed=6)[0].tobytes()
    action = action_sequence(ours, 1)[0]
    assert ours.step(action)[0][[0, 2]].tobytes() == theirs.step(action)[0][[0, 2]].tobytes()
    ours.close()
    theirs.close()


@every_mujoco_environment
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_episodes_that_are_not_chosen_stand_still(env_id, noise):
    ours = vector_of(env_id, 2, process_noise=noise, switch_probability=0.2)
    single = gym.make(env_id, process_noise=noise, switch_probability=0.2)
    observations, _ = ours.reset(seed=[3, 8])
    single.reset(seed=3)
    for t, action in enumerate(action_sequence(ours, 12)):
        row = ours.step(action, which=np.array([t % 3 != 1, t % 3 == 1]))
        still = 1 if t % 3 != 1 else 0
        assert row[0][still].tobytes() == observations[still].tobytes()
        assert (row[1][still], row[2][still], row[3][still], row[4]["_task"][still]) == (0.0, False, False, False)
        observations = row[0]
        if still == 1:
            alone = single.step(action[0])
            assert (row[0][0].tobytes(), row[1][0], row[2][0]) == (alone[0].tobytes(), alone[1], alone[2])
            assert row[4]["task"][0] == alone[4]["task"]
    ours.close()


def test_what_was_returned_is_the_callers():
    ours = vector_of(CHEETAH)
    first, _ = ours.reset(seed=0)
    kept = first.copy()
    row = ours.step(np.zeros((3, 6), np.float32))
    copies = [each.copy() for each in row[:4]]
    ours.step(np.ones((3, 6), np.float32))
    assert_same(first, kept)
    assert_same([*row[:4]], copies)
    row = ours.step(np.zeros((3, 6), np.float32))
    copies = [each.copy() for each in row[:4]]
    ours.reset(options={"reset_mask": np.array([True, False, False])})
    ours.step(np.ones((3, 6), np.float32), which=np.array([False, False, True]))
    assert_same([*row[:4]], copies)
    first[:] = row[0][:] = np.nan
    assert np.isfinite(ours.step(np.zeros((3, 6), np.float32))[0]).all()
    ours.close()


def test_tasks_that_edit_the_model_edit_one_episodes_alone():
    for env_id in ("m3po/HalfCheetahPier-v0", "m3po/AntCrippledLeg-v0", WALKER):
        ours = vector_of(env_id, 3)
        ours.reset(seed=0, options={"task": [0, 1, 2]})
        fields = [
            np.concatenate([getattr(each.model, name).ravel() for name in each.edited_fields]).tobytes()
            for each in ours.envs
        ]
        assert len(set(fields)) == 3
        ours.close()
    shared = vector_of(CHEETAH, 3)
    assert len({id(each.model) for each in shared.envs}) == 1
    shared.close()


def test_the_density_to_certify_against_comes_with_the_vector():
    assert vector_of(CHEETAH, 1).dynamics is None
    ours = vector_of(CHEETAH, 1, process_noise=0.05, reward_range=(-10.0, 10.0))
    assert ours.dynamics is not None
    assert vector_of(HUMANOID, 1, process_noise=0.05, reward_range=(-10.0, 10.0)).dynamics is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_envs": 0}, "num_envs must be a whole number >= 1, got 0"),
        ({"threads": 0}, "threads must be a whole number >= 1, got 0"),
        ({"threads": 1.5}, "threads must be a whole number >= 1, got 1.5"),
        ({"threads": "two"}, "threads must be a whole number >= 1, got 'two'"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number >= 1, got 0"),
        ({"autoreset_mode": "never"}, "autoreset_mode must be one of .*, got 'never'"),
        ({"switch_probability": 2.0}, "switch_probability must be in"),
        ({"tasks": ()}, "tasks must name at least one task"),
    ],
)
def test_wrong_options_are_named(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        gym.make_vec(CHEETAH, vectorization_mode="vector_entry_point", **{"num_envs": 2} | options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"seed": [1, 2]}, "seed must be one, or one for each of 3 episodes, got 2"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"seed": 1.5}, "seed must be a whole number >= 0, got 1.5"),
        ({"seed": [1, "2", 3]}, "seed must be a whole number >= 0, got '2'"),
        ({"seed": True}, "seed must be a whole number >= 0, got True"),
        ({"options": {"task": [0, 1]}}, r"options\['task'\] must be one, or one for each of 3 episodes, got 2"),
        ({"options": {"task": [0, 1, 2]}}, r"options\['task'\] must be a task in 0..1, got 2"),
        ({"options": {"task": "forward"}}, r"options\['task'\] must be a task in 0..1, got 'forward'"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, "reset_mask.* must reset an episode, got"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, "reset_mask.* of 3 booleans"),
        ({"options": {"reset_mask": [True, True, True]}}, "reset_mask.* numpy array"),
        ({"options": {"reset_mask": np.ones(3)}}, "reset_mask.* booleans"),
    ],
)
def test_wrong_resets_are_named_and_reset_nothing(arguments, complaint):
    ours = vector_of(CHEETAH)
    ours.reset(seed=0)
    state = [each.data.qpos.tobytes() for each in ours.envs]
    with pytest.raises(ValueError, match=complaint):
        ours.reset(**arguments)
    assert [each.data.qpos.tobytes() for each in ours.envs] == state
    ours.close()


def test_a_step_before_a_reset_or_of_another_shape_is_refused():
    ours = vector_of(CHEETAH, autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(gym.error.ResetNeeded):
        ours.step(np.zeros((3, 6), np.float32))
    ours.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must have shape \(3, 6\), got \(3, 5\)"):
        ours.step(np.zeros((3, 5), np.float32))
    for which in (np.array([True, False]), np.array([0, 2]), np.ones(3), [True, False, True]):
        with pytest.raises(ValueError, match="which must be a numpy array of 3 booleans, got"):
            ours.step(np.zeros((3, 6), np.float32), which=which)
    ours.step(np.zeros((3, 6), np.float32), which=np.array([True, False, True]))
    with pytest.raises(ValueError, match=r"episodes \[0, 2\] have ended: reset them first"):
        ours.step(np.zeros((3, 6), np.float32))
    ours.close()


def test_an_error_of_a_simulation_in_a_thread_is_raised(monkeypatch):
    ours = vector_of(CHEETAH, threads=2)
    ours.reset(seed=0)

    failing = threading.Event()

    def fails(i: int, control: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            failing.wait(10)
        else:
            failing.set()
            raise RuntimeError(f"body {i}")

    monkeypatch.setattr(ours._bodies, "advance", fails)
    with pytest.raises(RuntimeError, match="body"):
        ours.step(np.zeros((3, 6), np.float32))
    ours.close()


def test_actions_in_any_layout_or_type_cost_what_they_cost_alone():
    ours, theirs = vector_of(ANT), sync_of(ANT)  # eight actions are summed in pairs, where they lie side by side
    ours.reset(seed=0)
    theirs.reset(seed=0)
    for kind in (np.float32, np.float64):
        for action in action_sequence(ours, 6):
            action = np.asfortranarray(action.astype(kind))
            assert_same(ours.step(action), theirs.step(action))
    ours.close()
    theirs.close()
