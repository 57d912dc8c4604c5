"""Importance-weighted returns and the budgeted control variate: slow loops, exact means, the budget, and its trap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bounds import off_policy
from bounds.finite import FiniteProcess, enumerate_trajectories, true_return
from bounds.finite.checks import measure
from bounds.finite.instance import Instance
from bounds.finite.trajectories import Trajectories
from bounds.finite.trajectory_checks import (
    SMALL_FAMILIES,
    UNBIASED,
    estimate_error,
    random_critic,
    trajectory_control_variate,
    trajectory_weighted_returns,
)
from bounds.nonnegative import nonnegative_lower
from bounds.off_policy import (
    WeightedReturns,
    control_variate_returns,
    critic_mean_of_draws,
    effective_sample_sizes,
    importance_weighted_returns,
)
from tests.bounds.definitions import slow_control_variate
from tests.strategies import discounts, random_generator

RANGE: dict[str, Any] = {"reward_low": -1.0, "reward_high": 2.0}


@st.composite
def episodes(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 8)))
    log_rho = rng.choice([0.0, 0.3, 1.5]) * rng.standard_normal(shape)
    log_rho = np.where(rng.uniform(size=shape) < rng.choice([0.0, 0.1]), -np.inf, log_rho)
    log_data = rng.standard_normal(shape)
    discount = float(rng.choice([0.0, 0.5, 0.95]))
    largest = np.array([3.0 * (discount ** np.arange(shape[1] - t)).sum() for t in range(shape[1])])
    return {
        "rewards": rng.uniform(-1, 2, shape), "log_policy": log_rho + log_data, "log_data_policy": log_data,
        "critic": largest * rng.uniform(size=shape), "critic_mean": largest * rng.uniform(size=shape),
        "discount": discount, "budget": float(10.0 ** rng.uniform(-2, 1)), "ratio_cap": float(rng.choice([1.0, 2.5])),
        **RANGE,
    }  # fmt: skip


PLAIN = ("rewards", "log_policy", "log_data_policy", "discount", "reward_low", "reward_high")


@given(episodes())
@settings(max_examples=150, deadline=None)
def test_both_equal_their_definitions(given_: dict[str, Any]) -> None:
    g, rewards = given_["discount"], given_["rewards"] + 1.0
    rho = np.exp(given_["log_policy"] - given_["log_data_policy"])
    powers = g ** np.arange(rewards.shape[1])
    found = importance_weighted_returns(**{name: given_[name] for name in PLAIN})
    expected = (powers * np.cumprod(rho, axis=1) * rewards).sum(axis=1)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    assert found.offset == pytest.approx(-1.0 / (1 - g), rel=1e-13)
    largest = np.array([3.0 * powers[: len(powers) - t].sum() for t in range(len(powers))])
    path = slow_control_variate(
        rho, rewards, given_["critic"], given_["critic_mean"], largest, g, given_["ratio_cap"], given_["budget"]
    )
    variate = control_variate_returns(**given_)
    np.testing.assert_allclose(variate.values, path[:, -1] + given_["budget"], rtol=1e-10, atol=1e-11)
    assert np.all(path + given_["budget"] >= -1e-10)
    assert variate.offset == pytest.approx(found.offset - given_["budget"], rel=1e-13)


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_their_means_are_the_true_return_and_no_path_overspends(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, for any critic; where the data policy lacks an action, at most the true return."""
    paths: list[np.ndarray] = []
    true = off_policy._control_variate_path

    def kept(*arguments: Any) -> np.ndarray:
        paths.append(true(*arguments))
        return paths[-1]

    monkeypatch.setattr(off_policy, "_control_variate_path", kept)

    @given(random_generator(), discounts())
    @settings(max_examples=30, deadline=None)
    def check(rng: np.random.Generator, discount: float) -> None:
        instance = SMALL_FAMILIES[family](rng)
        trajectories, measured = enumerate_trajectories(instance), measure(instance, discount, 1)
        critic = random_critic(rng, instance, discount)
        weighted = trajectory_weighted_returns(instance, trajectories, discount)
        variate = trajectory_control_variate(instance, trajectories, discount, critic)
        assert estimate_error(instance, trajectories, measured, weighted) <= UNBIASED
        assert estimate_error(instance, trajectories, measured, variate) <= UNBIASED
        assert np.min(paths[-1]) >= -critic.budget * (1 + 1e-12)
        assert weighted.values.min() >= 0

    check()


def with_draws(seed: int) -> tuple[Instance, Trajectories, np.ndarray, dict[str, Any]]:
    """A process of three times, each trajectory joined with every sequence of fresh actions of the policy.

    Returns the joint probabilities and what the control variate reads, U~ from one draw at each time.
    """
    rng = np.random.default_rng([41, seed])
    horizon, states, actions, cap = 2, 2, 2, 1.5
    policies = rng.dirichlet([0.7] * actions, size=(2, horizon + 1, states))
    kernel = rng.dirichlet([0.7] * states, size=(horizon, states, actions))
    reward = rng.uniform(0.0, 1.0, size=(horizon + 1, states, actions))
    process = FiniteProcess(rng.dirichlet([1.0] * states), kernel, reward, 0.0, 1.0)
    data, policy = policies
    instance = Instance(process, kernel, data, policy)
    found = enumerate_trajectories(instance)
    critic = rng.uniform(0.0, 1.0, size=reward.shape)
    draws = np.array(list(itertools.product(range(actions), repeat=horizon + 1)))
    path, draw = (index.ravel() for index in np.mgrid[: len(found.probability), : len(draws)])
    times, state, fresh = np.arange(horizon + 1), found.states[path], draws[draw]
    probability = found.probability[path] * policy[times, state, fresh].prod(axis=1)
    mean = critic_mean_of_draws(
        critic[times, state, fresh][..., None], np.log(policy[times, state, fresh])[..., None],
        np.log(data[times, state, fresh])[..., None], ratio_cap=cap,
    )  # fmt: skip
    return instance, found, probability, {
        "rewards": found.rewards[path], "log_policy": found.log_policy[path],
        "log_data_policy": found.log_data_policy[path], "critic": critic[times, state, found.actions[path]],
        "critic_mean": mean,
    }  # fmt: skip


def test_with_random_draws_of_the_policy_the_mean_is_exact_and_a_beta_that_knows_them_is_biased_upwards() -> None:
    """Every draw enumerated. The tempting beta leaves Z + L >= 0 as well, and promises more than there is."""
    excess = []
    for seed in range(20):
        instance, _found, probability, read = with_draws(seed)
        assert probability.sum() == pytest.approx(1.0, abs=1e-12)
        rho = np.exp(read["log_policy"] - read["log_data_policy"])
        largest, g, cap, budget = np.ones(3), 0.9, 1.5, 0.3
        settings_: dict[str, Any] = {"discount": g, "reward_low": 0.0, "reward_high": 1.0, "tail": "absorbing"}
        variate = control_variate_returns(**read, **settings_, budget=budget, ratio_cap=cap, critic_max=1.0)
        truth = true_return(instance.process, instance.policy, g)
        assert probability @ variate.values + variate.offset == pytest.approx(truth, rel=1e-12)
        z = slow_control_variate(
            rho, read["rewards"], read["critic"], read["critic_mean"], largest, g, cap, budget, beta_knows_the_draw=True
        )
        assert z.min() >= -budget - 1e-12
        excess.append(float(probability @ z[:, -1]) - truth)
    assert min(excess) > -1e-12
    assert np.mean(excess) > 0.005


def test_a_beta_that_knows_the_draw_is_caught_by_coverage() -> None:
    """The same fault as one would meet it: 95% bounds from 6,000 episodes of the worst of these processes."""
    instance, _found, probability, read = with_draws(18)
    rho = np.exp(read["log_policy"] - read["log_data_policy"])
    truth = true_return(instance.process, instance.policy, 0.9)
    rng, held = np.random.default_rng(6), {True: 0, False: 0}
    for knows in held:
        z = slow_control_variate(
            rho, read["rewards"], read["critic"], read["critic_mean"], np.ones(3), 0.9, 1.5, 0.3,
            beta_knows_the_draw=knows,
        )  # fmt: skip
        samples = rng.choice(len(z), size=(6000, 40), p=probability / probability.sum())
        lower = nonnegative_lower(np.maximum(z[samples, -1] + 0.3, 0.0)) - 0.3
        held[knows] = int(np.sum(lower <= truth))
    assert held[False] >= 38
    assert held[True] <= 20


def ending_instance() -> tuple[Instance, np.ndarray]:
    """State 2 is the end, paying 0 for ever; the others pay in [-1, 2]. And which states are ends."""
    rng = np.random.default_rng(7)
    kernel = rng.dirichlet([1.0] * 3, size=(3, 3, 2))
    kernel[:, 2] = [0.0, 0.0, 1.0]
    reward = rng.uniform(-1.0, 2.0, size=(4, 3, 2))
    reward[:, 2] = 0.0
    process = FiniteProcess(np.array([0.6, 0.4, 0.0]), kernel, reward, -1.0, 2.0)
    data, policy = rng.dirichlet([2.0] * 2, size=(2, 4, 3))
    return Instance(process, kernel, data, policy), np.array([False, False, True])


@pytest.mark.parametrize("variate", [False, True])
def test_an_ended_episode_counts_as_the_absorbing_state_it_stands_for(variate: bool) -> None:
    instance, ends = ending_instance()
    found, g = enumerate_trajectories(instance), 0.8
    valid = ~ends[found.states]
    steps: dict[str, Any] = {
        name: np.where(valid, getattr(found, name), np.nan) for name in ("rewards", "log_policy", "log_data_policy")
    }
    extra: dict[str, Any] = {}
    if variate:
        critic = np.random.default_rng(8).uniform(0, 3.0, size=(4, 3, 2))
        mean = (np.minimum(instance.policy, 2.0 * np.asarray(instance.data_policy)) * critic).sum(-1)
        times = np.arange(4)
        extra = {
            "critic": np.where(valid, critic[times, found.states, found.actions], np.nan),
            "critic_mean": np.where(valid, mean[times, found.states], np.nan), "budget": 0.5, "critic_max": 3.0,
        }  # fmt: skip
    estimator = control_variate_returns if variate else importance_weighted_returns
    truth = true_return(instance.process, instance.policy, g)
    ended = estimator(**steps, **extra, **RANGE, discount=g, valid=valid, tail="absorbing")
    assert found.mean(ended.values) + ended.offset == pytest.approx(truth, rel=1e-12)
    # Under the worst tail, only an episode that goes on is paid r_lo from H on.
    worst = estimator(**steps, **extra, **RANGE, discount=g, valid=valid)
    on_weight = np.exp((found.log_policy - found.log_data_policy).sum(axis=1)) * valid[:, -1]
    later = -1.0 * g**4 / (1 - g) * found.mean(on_weight)
    assert found.mean(worst.values) + worst.offset == pytest.approx(truth + later, rel=1e-12)
    assert worst.values.min() >= 0


def test_on_own_data_it_is_the_mean_return() -> None:
    rewards, zeros = np.random.default_rng(9).uniform(-1, 2, (50, 6)), np.zeros((50, 6))
    found = importance_weighted_returns(rewards, zeros, zeros, **RANGE, discount=0.9, tail="absorbing")
    assert found.estimate == pytest.approx((rewards @ 0.9 ** np.arange(6)).mean(), rel=1e-13)
    assert found.lower(0.95) == pytest.approx(float(nonnegative_lower(found.values, 0.95)) + found.offset)
    assert found.lower(0.99) < found.lower(0.9) < found.estimate


def test_the_right_critic_takes_the_policy_s_own_noise_away() -> None:
    """Rewards that only depend on the action: with Q the reward to come, all that is left is the budget."""
    rng, n, horizon = np.random.default_rng(10), 400, 5
    actions = rng.integers(2, size=(n, horizon))
    zeros = np.full((n, horizon), np.log(0.5))
    paid, rest = actions.astype(float), 0.5 * np.arange(horizon - 1, -1, -1)
    arguments: dict[str, Any] = {"reward_low": 0.0, "reward_high": 1.0, "discount": 0.0, "tail": "absorbing"}
    arguments["discount"] = 1 - 1e-12
    variate = control_variate_returns(
        paid,
        zeros,
        zeros,
        paid + rest,
        np.broadcast_to(0.5 + rest, paid.shape),
        budget=50.0,
        ratio_cap=1.0,
        **arguments,
    )
    plain = importance_weighted_returns(paid, zeros, zeros, **arguments)
    assert variate.values.std() < 1e-9 < 0.5 < plain.values.std()
    assert variate.estimate == pytest.approx(2.5, rel=1e-9)


def test_weights_of_any_size() -> None:
    log_data, small = np.zeros((3, 4)), {"discount": 0.9} | RANGE
    never = np.full((3, 4), -np.inf)
    found = importance_weighted_returns(np.ones((3, 4)), never, log_data, **small)
    assert np.all(found.values == 0)
    assert effective_sample_sizes(never, log_data, discount=0.9).overall == 0.0
    huge = np.full((3, 4), 300.0)
    with pytest.raises(ValueError, match=r"the discounted importance weight must stay below e\^700, got e\^119\d"):
        importance_weighted_returns(np.ones((3, 4)), huge, log_data, **small)
    sizes = effective_sample_sizes(huge, log_data, discount=0.9)
    np.testing.assert_allclose([*sizes.per_time, sizes.overall], 3.0, rtol=1e-12)
    critic = np.ones((3, 4))
    with np.errstate(all="raise", under="ignore"):
        control_variate_returns(np.ones((3, 4)), huge / 3, log_data, critic, critic, budget=1.0, **small)
        control_variate_returns(np.ones((3, 4)), -huge, log_data, critic, critic, budget=1.0, **small)


def test_effective_sample_sizes_by_hand() -> None:
    """Weights (1, 3) and (1, 0) at the two times; gamma = 1/2."""
    sizes = effective_sample_sizes(np.log([[1.0, 1.0], [3.0, 1e-300]]), np.zeros((2, 2)), discount=0.5)
    np.testing.assert_allclose(sizes.per_time, [16 / 10, 1.0], rtol=1e-14)
    assert sizes.overall == pytest.approx(4.5**2 / (1.5**2 + 9), rel=1e-14)
    valid = np.array([[True, False], [True, False]])
    ended = effective_sample_sizes(np.log([[1.0, 1.0], [3.0, 1e-300]]), np.zeros((2, 2)), discount=0.5, valid=valid)
    np.testing.assert_allclose(ended.per_time, 1.6, rtol=1e-14)


def test_critic_mean_of_draws_by_hand() -> None:
    found = critic_mean_of_draws([[2.0, 4.0]], np.log([[0.5, 0.5]]), np.log([[0.1, 0.9]]), ratio_cap=2.0)
    np.testing.assert_allclose(found, [(0.4 * 2.0 + 4.0) / 2], rtol=1e-14)
    assert critic_mean_of_draws([3.0], [0.0], [-np.inf]) == 0.0
    for arguments, named in (
        (([1.0], [0.0], [0.0, 0.0]), r"one shape \[..., draws\], got \(1,\), \(1,\) and \(2,\)"),
        (([1.0], [-np.inf], [0.0]), "log_policy must be finite at what was drawn"),
        (([1.0], [0.0], [np.nan]), "log_data_policy finite or -inf"),
    ):
        with pytest.raises(ValueError, match=named):
            critic_mean_of_draws(*arguments)
    with pytest.raises(ValueError, match=r"ratio_cap must be finite and at least 1, got 0.5"):
        critic_mean_of_draws([1.0], [0.0], [0.0], ratio_cap=0.5)


def good() -> dict[str, Any]:
    shape = (2, 3)
    return {
        "rewards": np.zeros(shape), "log_policy": np.zeros(shape), "log_data_policy": np.zeros(shape),
        "critic": np.ones(shape), "critic_mean": np.ones(shape), "discount": 0.9, "budget": 1.0, **RANGE,
    }  # fmt: skip


EARLY = np.array([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"discount": 1.0}, "discount must be in [0, 1), got 1.0"),
        ({"reward_low": 3.0}, "reward_low <= reward_high must be finite, got 3.0 and 2.0"),
        ({"reward_high": np.inf}, "must be finite, got -1.0 and inf"),
        ({"rewards": np.full((2, 3), 2.5)}, "rewards must lie in [-1, 2], got 2.5 at episode 0, time 0"),
        ({"rewards": np.full((2, 3), np.nan)}, "rewards must lie in [-1, 2], got nan"),
        ({"rewards": np.zeros(3)}, "rewards must have two nonempty axes"),
        ({"log_policy": np.full((2, 3), np.inf)}, "log_policy must be finite or -inf, got inf"),
        ({"log_data_policy": np.full((2, 3), -np.inf)}, "log_data_policy must be finite at what was drawn from it"),
        ({"log_data_policy": np.zeros((2, 2))}, "log_data_policy must have shape (2, 3) like the others, got (2, 2)"),
        ({"tail": "zero"}, "tail must be 'worst' or 'absorbing', got 'zero'"),
        ({"valid": EARLY, "reward_low": -2.0, "reward_high": -1.0, "rewards": -np.ones((2, 3))}, "must include 0"),
        ({"valid": EARLY[:, ::-1]}, "valid must be True from the start of an episode"),
        ({"critic": np.full((2, 3), 9.0)}, "critic must lie in [0, 8.13] at time 0, got 9.0 at episode 0"),
        ({"critic_mean": np.full((2, 3), -1.0)}, "critic_mean must lie in [0, 8.13] at time 0, got -1.0"),
        ({"critic": np.full((2, 3), np.nan)}, "got nan"),
        ({"critic_max": 0.0}, "critic_max must be positive and finite, got 0.0"),
        ({"budget": 0.0}, "budget must be positive and finite, got 0.0"),
        ({"ratio_cap": 0.9}, "ratio_cap must be finite and at least 1, got 0.9"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as raised:
        control_variate_returns(**(good() | change))
    assert named in str(raised.value)
    plain = {
        name: value for name, value in (good() | change).items() if name not in ("critic", "critic_mean", "budget")
    }
    if not set(change) & {"critic", "critic_mean", "critic_max", "budget", "ratio_cap"}:
        with pytest.raises(ValueError) as raised:
            importance_weighted_returns(**plain)
        assert named in str(raised.value)


def test_a_lower_bound_asks_for_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def lower(values: np.ndarray, level: float) -> float:
        asked.append(level)
        return float(values.mean())

    monkeypatch.setattr(off_policy, "nonnegative_lower", lower)
    assert WeightedReturns(np.ones(3), -0.25).lower(0.97) == 0.75
    assert asked == [0.97]
