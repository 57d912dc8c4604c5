"""Episodes in the real environment: what is recorded, when it stops, how actions reach the box, one-line errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from m3po.envs.body_vector import BodyVector
from m3po.envs.switching_point_mass import SwitchingPointMass
from m3po.episodes import Trajectories, run_episodes
from m3po.errors import EncodedTrajectories
from m3po.foreign import checked_environment
from m3po.foreign.checked_environment import to_environment
from m3po.foreign.environment import make_environment
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.policy import GaussianPolicy, HistoryPolicy

LOW, HIGH = np.array([-2.0, 10.0], np.float32), np.array([4.0, 20.0], np.float32)
HORIZON = 6
CPU = torch.device("cpu")


class EarlyEnd(gym.Env[Any, Any]):
    """Terminates after 1..8 steps, drawn at reset; observes (step, length, last action) and pays the first action."""

    observation_space: Any = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space: Any = gym.spaces.Box(LOW, HIGH)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(1, 9))
        return np.array([0.0, self.length, 0.0, 0.0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        observation = np.array([self.time, self.length, *action])
        return observation, float(action[0]) + 5.0, self.time == self.length, False, {}


class Odd(EarlyEnd):
    """With spaces given by name."""

    def __init__(self, space: str) -> None:
        if space == "discrete":
            self.action_space = gym.spaces.Discrete(3)
        elif space == "image":
            self.observation_space = gym.spaces.Box(0, 1, (2, 2))
        elif space == "unbounded":
            self.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    before = set(gym.registry)
    register: Any = gym.register
    register("tests/EarlyEnd-v0", EarlyEnd, max_episode_steps=HORIZON)
    register("tests/NoLimit-v0", EarlyEnd)
    for space in ("discrete", "image", "unbounded"):
        register(f"tests/{space}-v0", Odd, max_episode_steps=5, kwargs={"space": space}, disable_env_checker=True)
    quiet = {"process_noise": 1e-7, "switch_probability": 0.5, "first_task": None}
    register("tests/Quiet-v0", SwitchingPointMass, max_episode_steps=12, kwargs=quiet)
    fast = "m3po.envs.switching_point_mass:SwitchingPointMassVector"
    register("tests/QuietFast-v0", SwitchingPointMass, vector_entry_point=fast, max_episode_steps=12, kwargs=quiet)
    yield
    for name in set(gym.registry) - before:
        del gym.registry[name]


def random_policy(observation_size: int = 4, action_size: int = 2, history_length: int = 3) -> HistoryPolicy:
    torch.manual_seed(0)
    encoder = ContextEncoder(observation_size, action_size, history_length, 5)
    return HistoryPolicy(encoder, GaussianPolicy(encoder.feature_size, action_size, 8, 1))


def run(env_id: str, policy: HistoryPolicy | None = None, episodes: int = 40, **options: Any) -> Trajectories:
    return run_episodes(
        env_id,
        random_policy() if policy is None else policy,
        episodes,
        seed=options.pop("seed", 0),
        generator=torch.Generator().manual_seed(options.pop("noise", 0)),
        **options,
    )


def test_an_episode_that_terminates_early_leaves_zero_invalid_steps():
    result = run("tests/EarlyEnd-v0")
    lengths = result.observations[:, 0, 1]
    steps = np.arange(HORIZON)
    np.testing.assert_array_equal(result.valid, steps < lengths[:, None])
    assert {1.0, 2.0, 6.0, 8.0} <= set(lengths)  # ends at once, inside, at the limit, and would end after the limit
    np.testing.assert_array_equal(result.observations[:, 1:, 0], np.where(result.valid, steps + 1, 0))
    np.testing.assert_array_equal(result.observations[:, 1:, 1], np.where(result.valid, lengths[:, None], 0))
    for values in (result.rewards, result.actions, result.raw_actions):
        assert (values[~result.valid] == 0).all()
        assert (values[result.valid] != 0).all()
    assert (result.tasks == -1).all()  # this environment does not tell


def test_actions_reach_the_environment_rescaled_to_its_box():
    result = run("tests/EarlyEnd-v0")
    np.testing.assert_allclose(result.actions, np.tanh(result.raw_actions), atol=1e-6)
    received = result.observations[:, 1:, 2:][result.valid]
    expected = LOW + (result.actions[result.valid].astype(np.float64) + 1) / 2 * (HIGH - LOW)
    np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.rewards[result.valid], received[:, 0] + 5, rtol=1e-12)


def test_the_ends_and_the_middle_of_the_box():
    box = gym.spaces.Box(LOW, HIGH)
    actions = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5]])
    found = to_environment(actions, box)
    np.testing.assert_array_equal(found, np.array([[-2, 10], [4, 20], [1, 17.5]], np.float32))
    assert found.dtype == np.float32


@given(
    st.tuples(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32)).filter(lambda ends: ends[0] < ends[1]),
    st.floats(-1, 1, width=32) | st.sampled_from([-1.0, 1.0]),
)
@example((-1.0, 1.401298464324817e-45), 1.0)
@example((-100.0, 0.30000001192092896), 1.0)
def test_no_rounding_leaves_the_box(ends, value):
    box = gym.spaces.Box(np.float32(ends[0]), np.float32(ends[1]), (1,))
    assert box.contains(to_environment(torch.tensor([value], dtype=torch.float32), box))


def test_returns_weigh_the_reward_at_t_with_gamma_to_the_t():
    rewards = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]])
    blank = np.zeros((2, 3, 1), np.float32)
    result = Trajectories(
        np.zeros((2, 4, 1)), blank, blank, rewards, np.zeros((2, 3), dtype=np.int64), np.ones((2, 3), dtype=bool)
    )
    np.testing.assert_array_equal(result.returns(0.5), [1 + 1 + 1, 2])
    np.testing.assert_array_equal(result.returns(), [7, 8])
    np.testing.assert_array_equal(result.returns(0.0), [1, 0])


@pytest.mark.parametrize("env_id", ["tests/Quiet-v0", "tests/QuietFast-v0"])
def test_observations_actions_and_tasks_belong_to_the_same_step(env_id):
    """Without noise every recorded step is the dynamics' mean under the recorded task."""
    result = run(env_id)
    instance: Any = make_environment(env_id).unwrapped
    dynamics = instance.dynamics
    actions = result.actions.astype(np.float64)
    expected = dynamics.mean(result.observations[:, :-1], actions, result.tasks)
    np.testing.assert_allclose(result.observations[:, 1:], expected, atol=2e-6)
    np.testing.assert_allclose(result.rewards, dynamics.reward(result.observations[:, :-1], actions), atol=1e-6)
    assert result.valid.all()
    assert set(np.unique(result.tasks)) == set(range(len(dynamics.tasks)))
    assert (result.tasks[:, 1:] != result.tasks[:, :-1]).any()


def test_deterministic_takes_the_mean_of_the_policy_at_the_recorded_histories():
    policy = random_policy()
    result = run("tests/EarlyEnd-v0", policy, deterministic=True)
    again = run("tests/EarlyEnd-v0", policy, deterministic=True, noise=1)
    np.testing.assert_array_equal(result.actions, again.actions)
    windows = EncodedTrajectories.of(result, policy.encoder.history_length, CPU).windows
    mean = policy.distribution(windows)[0].numpy().reshape(result.raw_actions.shape)
    np.testing.assert_allclose(result.raw_actions[result.valid], mean[result.valid], rtol=1e-5, atol=1e-6)


def test_otherwise_actions_are_draws_of_the_policy_at_the_recorded_histories():
    policy = random_policy()
    result = run("tests/EarlyEnd-v0", policy, episodes=800)
    windows = EncodedTrajectories.of(result, policy.encoder.history_length, CPU).windows
    mean, log_std = (each.numpy().reshape(result.raw_actions.shape) for each in policy.distribution(windows))
    noise = ((result.raw_actions - mean) / np.exp(log_std))[result.valid]
    assert np.abs(noise.mean(axis=0)).max() < 4 / np.sqrt(len(noise))
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=4 / np.sqrt(2 * len(noise)))


@pytest.mark.parametrize("env_id", ["tests/EarlyEnd-v0", "tests/QuietFast-v0"])
def test_the_seeds_decide_everything(env_id):
    first, second = run(env_id), run(env_id)
    for name in ("observations", "actions", "raw_actions", "rewards", "tasks", "valid"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (run(env_id, seed=1).observations[:, 0] != first.observations[:, 0]).any()
    assert (run(env_id, noise=1).actions[:, 0] != first.actions[:, 0]).all()


def test_a_policy_without_memory_can_run_too():
    assert run("tests/EarlyEnd-v0", random_policy(history_length=0)).valid[:, 0].all()


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("m3po/Walker2dRandomParams-v0", {"max_episode_steps": 120}),
        ("m3po/HalfCheetahFwdBwd-v0", {"max_episode_steps": 12, "process_noise": 0.02}),
        ("m3po/AntCrippledLeg-v0", {"max_episode_steps": 12, "switch_period": 4}),
    ],
)
def test_bodies_side_by_side_run_the_episodes_of_single_environments(env_id, options, monkeypatch):
    """To the bit, whatever the threads, and where some episodes end before others."""
    space = make_environment(env_id, **options).observation_space
    assert space.shape is not None
    policy = random_policy(space.shape[0], 8 if "Ant" in env_id else 6)
    found = [run(env_id, policy, 5, options=options, threads=threads) for threads in (1, 2, None)]
    monkeypatch.setattr(checked_environment, "vector_of", lambda environment, count: None)
    alone = run(env_id, policy, 5, options=options)
    if "Walker" in env_id:
        assert len(set(alone.valid.sum(axis=1))) > 1
    for each in found:
        for name in ("observations", "actions", "raw_actions", "rewards", "tasks", "valid"):
            np.testing.assert_array_equal(getattr(each, name), getattr(alone, name))


def test_episodes_that_have_ended_are_not_simulated_further(monkeypatch):
    env_id, options = "m3po/Walker2dRandomParams-v0", {"max_episode_steps": 120}
    steps = []
    simulate = BodyVector._simulate

    def counted(self, actions, indices):
        steps.append(len(indices))
        simulate(self, actions, indices)

    monkeypatch.setattr(BodyVector, "_simulate", counted)
    found = run(env_id, random_policy(17, 6), 5, options=options)
    assert sum(steps) == found.valid.sum() < 5 * len(steps)


@pytest.mark.parametrize("threads", [None, 3])
def test_the_bodies_are_simulated_in_so_many_threads(threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 5, 6}, raising=False)
    seen = []
    simulate = BodyVector._simulate

    def noted(self, actions, indices):
        seen.append(self.threads)
        simulate(self, actions, indices)

    monkeypatch.setattr(BodyVector, "_simulate", noted)
    run("m3po/Walker2dRandomParams-v0", random_policy(17, 6), 5, options={"max_episode_steps": 2}, threads=threads)
    assert seen == [threads or 4] * 2


@pytest.mark.parametrize("threads", [0, 1.5, -2])
def test_the_number_of_threads_is_checked(threads):
    with pytest.raises(ValueError, match=f"threads must be a whole number >= 1, got {threads}"):
        run("tests/EarlyEnd-v0", threads=threads)


@pytest.mark.parametrize("episodes", [0, -1])
def test_the_number_of_episodes_is_checked(episodes):
    with pytest.raises(ValueError, match=f"episodes must be >= 1, got {episodes}"):
        run("tests/EarlyEnd-v0", episodes=episodes)


def test_a_good_environment_is_made_with_its_options():
    environment = make_environment("m3po/SwitchingPointMass-v0", first_task=1)
    assert environment.reset(seed=0)[1] == {"task": 1}


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("tests/Nothing-v0", "unknown environment 'tests/Nothing-v0'"),
        ("nonsense", "unknown environment 'nonsense'"),
        ("no spaces allowed!", "unknown environment 'no spaces allowed!'"),
        ("no_such_module:Env-v0", "unknown environment 'no_such_module:Env-v0'"),
        ("m3po/SwitchingPointMass-v7", "unknown environment 'm3po/SwitchingPointMass-v7'"),
        ("tests/NoLimit-v0", "tests/NoLimit-v0 has no time limit"),
        ("tests/discrete-v0", "tests/discrete-v0 has no flat Box .*Discrete"),
        ("tests/image-v0", "tests/image-v0 has no flat Box"),
        ("tests/unbounded-v0", "tests/unbounded-v0 has an action space without finite bounds"),
    ],
)
def test_environments_that_cannot_be_used_are_named_in_one_line(env_id, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_environment(env_id)
    assert "\n" not in str(caught.value)


def test_bad_options_stay_the_environments_own_error():
    with pytest.raises(ValueError, match=r"switch_period must be .* got 0"):
        make_environment("m3po/SwitchingPointMass-v0", switch_period=0)


@pytest.mark.parametrize("env_id", ["tests/Quiet-v0", "tests/QuietFast-v0", "m3po/HalfCheetahFwdBwd-v0"])
@pytest.mark.parametrize("limit", [7, 15])
def test_another_time_limit_than_the_registered_one_is_the_horizon(env_id, limit):
    sizes = {"observation_size": 18, "action_size": 6} if "Cheetah" in env_id else {}
    result = run(env_id, random_policy(**sizes), episodes=2, options={"max_episode_steps": limit})
    assert result.valid.shape == (2, limit)
    assert result.valid.all()
    assert result.observations.shape[1] == limit + 1


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_first_episodes_are_those_with_all_that_is_known_of_them(count):
    result = run("tests/EarlyEnd-v0", episodes=5)
    part = result.first(count)
    for name, values in vars(part).items():
        np.testing.assert_array_equal(values, getattr(result, name)[: min(count, 5)])
    assert part.rewards.shape == (min(count, 5), HORIZON)
