"""``ProcessNoise``: the process goes on from what was shown, and its density is what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TransformObservation, TransformReward
from scipy import stats

from m3po.envs.process_noise import ProcessNoise
from m3po.foreign.environment import offers_of

KNOWN = (
    "Pendulum-v1", "MountainCarContinuous-v0", "CartPole-v1", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5",
    "Swimmer-v5", "InvertedPendulum-v5",
)  # fmt: skip


def noisy(env_id: str, std: Any = 0.02, **options: Any) -> ProcessNoise:
    return ProcessNoise(gym.make(env_id, **options), std)


@pytest.mark.parametrize("env_id", KNOWN)
def test_the_density_is_that_of_what_is_shown_and_the_process_goes_on_from_it(env_id: str) -> None:
    """A second environment without noise is put into what was shown: the next step is its outcome plus noise."""
    environment, twin = noisy(env_id), noisy(env_id)
    access = twin.access
    observation, _ = environment.reset(seed=3)
    twin.reset(seed=4)
    environment.action_space.seed(0)
    standardised = []
    for _ in range(25):
        action = environment.action_space.sample()
        access.set(twin.unwrapped, environment.coordinates(observation))
        twin.env.unwrapped.step(action)
        mean = access.get(twin.unwrapped)
        observation, _, terminated, truncated, info = environment.step(action)
        assert environment.observation_space.contains(observation)
        assert twin.observe(environment.coordinates(observation)) == pytest.approx(observation)
        moved = environment.coordinates(observation) - mean
        moved[list(access.periodic)] = (moved[list(access.periodic)] + np.pi) % (2 * np.pi) - np.pi
        assert info["log_density"] == pytest.approx(stats.norm.logpdf(moved, scale=0.02).sum(), rel=1e-6, abs=1e-3)
        standardised.append(moved / 0.02)
        if terminated or truncated:
            observation, _ = environment.reset()
    numbers = np.concatenate(standardised)
    assert stats.kstest(numbers, "norm").pvalue > 1e-3


def test_ends_are_judged_by_what_is_shown() -> None:
    environment = noisy("CartPole-v1", 0.2)
    environment.reset(seed=0)
    ends = 0
    for _ in range(300):
        observation, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
        assert terminated == environment.terminated(observation[None])[0]
        assert reward == 1.0
        ends += terminated
        if terminated or truncated:
            environment.reset()
    assert ends > 5
    assert offers_of(environment, "CartPole").rule is not None


def test_an_angle_has_the_density_of_all_its_turns() -> None:
    """With noise as wide as the circle its density on the circle is 1/(2 pi), and that of the line is not."""
    environment = noisy("Pendulum-v1", np.array([8.0, 0.01]))
    of_velocity = stats.norm.logpdf(0.01, scale=0.01)
    for drawn in (-3.0, 0.0, 0.2, 1.0, 5.0):
        found = environment._log_density(np.array([drawn, 1.0]))
        assert found - of_velocity == pytest.approx(-np.log(2 * np.pi), abs=1e-6)


def test_the_seed_decides_and_copies_differ() -> None:
    def states(seed: int | None) -> Any:
        environment = noisy("Pendulum-v1")
        environment.reset(seed=seed)
        return np.array([environment.step(np.zeros(1, np.float32))[0] for _ in range(5)])

    np.testing.assert_array_equal(states(1), states(1))
    assert not np.array_equal(states(1), states(2))
    assert not np.array_equal(states(None), states(None))


def test_what_is_redundant_is_known() -> None:
    pendulum, cart = noisy("Pendulum-v1"), noisy("CartPole-v1")
    assert pendulum.redundant
    assert not cart.redundant
    np.testing.assert_allclose(pendulum.coordinates([np.cos(2.0), np.sin(2.0), 0.5]), [2.0, 0.5])


@pytest.mark.parametrize("env_id", ["Ant-v5", "Acrobot-v1", "Reacher-v5", "m3po/SwitchingPointMass-v0"])
def test_environments_that_show_something_else_are_refused(env_id: str) -> None:
    with pytest.raises(ValueError, match=f"the state of {env_id} is not known"):
        noisy(env_id)


def test_what_does_not_fit_is_named() -> None:
    for std in (0.0, -1.0, np.nan, [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match=r"std must be one or 2 finite numbers > 0, got"):
            noisy("Pendulum-v1", std)
    scaled = TransformObservation(gym.make("CartPole-v1"), lambda o: 10 * o, None)
    with pytest.raises(ValueError, match="wrapped in TransformObservation, which changes what is shown"):
        ProcessNoise(scaled, 0.1)
    ProcessNoise(TransformReward(gym.make("CartPole-v1"), lambda r: -float(r)), 0.1)
    with pytest.raises(ValueError, match="must have flat observations"):
        ProcessNoise(gym.make("FrozenLake-v1"), 0.1, access=noisy("CartPole-v1").access)


def test_a_state_that_is_not_shown_whole_is_refused() -> None:
    """What the wrapper cannot see: it is told how to read the state, and checks it."""
    access = noisy("CartPole-v1").access
    base = gym.make("CartPole-v1")
    hidden = replace(access, observe=lambda state: np.concatenate([state[..., :3], 0 * state[..., 3:]], axis=-1))
    with pytest.raises(
        ValueError, match="does not show all 4 coordinates of its state: the process is partially observed"
    ):
        ProcessNoise(base, 0.1, access=hidden)
    with pytest.raises(ValueError, match="is not the inverse of observe"):
        ProcessNoise(base, 0.1, access=replace(access, coordinates=lambda seen: 2 * seen))
    other = ProcessNoise(base, 0.1, access=replace(access, observe=lambda s: 2 * s, coordinates=lambda seen: seen / 2))
    with pytest.raises(ValueError, match="noise on this state has no known density of what is shown"):
        other.reset()
    stubborn = ProcessNoise(base, 0.1, access=replace(access, set=lambda body, state: None))
    stubborn.reset()
    with pytest.raises(ValueError, match="is not in the state that was set"):
        stubborn.step(0)


def test_nothing_but_the_state_is_remembered() -> None:
    """Of the contact solver's last solution, and of an end that the noise undid, the next step knows nothing."""
    environment, twin = noisy("HalfCheetah-v5", 1e-9), noisy("HalfCheetah-v5", 1e-9)
    observation, _ = environment.reset(seed=3)
    twin.reset(seed=4)
    environment.action_space.seed(0)
    for _ in range(100):
        action = environment.action_space.sample()
        twin.unwrapped.data.qacc_warmstart[:] = 0.0  # type: ignore[attr-defined]
        twin.access.set(twin.unwrapped, observation)
        twin.env.unwrapped.step(action)
        observation, *_ = environment.step(action)
        assert np.abs(observation - twin.access.get(twin.unwrapped)).max() < 1e-8
    cart = noisy("CartPole-v1")
    cart.reset(seed=0)
    cart.unwrapped.steps_beyond_terminated = 0  # type: ignore[attr-defined]
    cart.access.set(cart.unwrapped, np.array([2.4, 1.0, 0.0, 0.0]))
    assert cart.unwrapped.step(0)[1] == 1.0
