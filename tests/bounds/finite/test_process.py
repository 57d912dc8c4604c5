"""Exact returns and error profiles against plain enumeration of every path."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bounds.finite import (
    FiniteProcess,
    Instance,
    SparseProcess,
    branched_return,
    error_profiles,
    full_model_return,
    load_instance,
    reward_error_profile,
    save_instance,
    state_laws,
    true_return,
)
from tests.strategies import discounts, history_instances, instances, mdp_instances

SMALL = {"max_horizon": 3, "max_states": 3, "max_actions": 2}


def path_expectation(instance: Any, time: int, model_steps: int, values: Any, last_policy: Any) -> float:
    """E[values[s_t, a_t]]: the last ``model_steps`` steps before t by (policy, model), the earlier ones real."""
    process = instance.process
    states, actions = values.shape
    total = 0.0
    for path in itertools.product(range(states), *[range(actions), range(states)] * time):
        probability = process.initial[path[0]]
        for s in range(time):
            state, action, following = path[2 * s : 2 * s + 3]
            real = s < time - model_steps
            policy, kernel = (instance.data_policy, process.transition) if real else (instance.policy, instance.model)
            probability *= policy[s][state, action] * kernel[s][state, action, following]
        total += probability * float(last_policy[time][path[-1]] @ values[path[-1]])
    return total


def brute_return(instance: Any, discount: float, steps_of_time: Callable[[int], Iterable[int]]) -> float:
    """sum_t discount^t times the mean of the reward over i in steps_of_time(t) model steps."""
    process = instance.process
    total = 0.0
    for t in range(process.horizon + 1):
        means = [path_expectation(instance, t, i, process.reward[t], instance.policy) for i in steps_of_time(t)]
        total += discount**t * sum(means) / len(means)
    return total


@given(mdp_instances(**SMALL), discounts(), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_returns_equal_the_sum_over_all_paths(instance, discount, k):
    process = instance.process
    truth = replace(instance, model=process.transition)
    assert true_return(process, instance.policy, discount) == pytest.approx(
        brute_return(truth, discount, lambda t: [t]), rel=1e-10, abs=1e-12
    )
    assert instance.model_return(discount, "full") == pytest.approx(
        brute_return(instance, discount, lambda t: [t]), rel=1e-10, abs=1e-12
    )
    assert instance.model_return(discount, "averaged", k) == pytest.approx(
        brute_return(instance, discount, lambda t: range(1, min(t, k) + 1) if t else [0]), rel=1e-10, abs=1e-12
    )
    assert instance.model_return(discount, "exact", k) == pytest.approx(
        brute_return(instance, discount, lambda t: [min(t, k)]), rel=1e-10, abs=1e-12
    )


@given(mdp_instances(**SMALL))
@settings(max_examples=25, deadline=None)
def test_profiles_equal_the_sum_over_all_paths(instance):
    process, profiles = instance.process, instance.profiles()
    states, actions = process.reward.shape[1:]
    for t in range(process.horizon + 1):
        apart = np.array(
            [0.5 * sum(abs(p - q)) for p, q in zip(instance.data_policy[t], instance.policy[t], strict=True)]
        )
        values = np.tile(apart[:, None], (1, actions))
        expected = path_expectation(instance, t, 0, values, instance.data_policy)
        assert profiles.policy_divergence[t] == pytest.approx(expected, abs=1e-12)
        if t < process.horizon:
            wrong = np.array(
                [
                    [0.5 * sum(abs(process.transition[t, s, a] - instance.model[t, s, a])) for a in range(actions)]
                    for s in range(states)
                ]
            )
            expected = path_expectation(instance, t, 0, wrong, instance.data_policy)
            assert profiles.model_error[t] == pytest.approx(expected, abs=1e-12)
    everywhere = 0.5 * np.abs(instance.data_policy - instance.policy).sum(-1)
    assert profiles.policy_divergence_sup == pytest.approx(everywhere.max(), abs=1e-12)
    assert profiles.model_error.shape == (process.horizon,)
    assert profiles.policy_divergence.shape == (process.horizon + 1,)


def two_state_instance() -> Instance:
    """State 1 pays 1. Truth: stay; the model leaves 0 with probability .25; pi_D = (.5, .5), pi = (1, 0)."""
    stay = np.zeros((2, 2, 2, 2))
    stay[:, 0, :, 0] = stay[:, 1, :, 1] = 1.0
    model = stay.copy()
    model[:, 0] = (0.75, 0.25)
    reward = np.zeros((3, 2, 2))
    reward[:, 1] = 1.0
    process = FiniteProcess(np.array([1.0, 0.0]), stay, reward, 0.0, 1.0)
    return Instance(process, model, np.full((3, 2, 2), 0.5), np.tile([1.0, 0.0], (3, 2, 1)))


def test_returns_of_a_process_worked_out_by_hand():
    instance = two_state_instance()
    assert true_return(instance.process, instance.policy, 0.5) == 0.0
    # The model is in state 1 with probability 1/4 at t = 1 and 7/16 at t = 2.
    assert instance.model_return(0.5, "full") == pytest.approx(0.5 * 0.25 + 0.25 * 7 / 16, rel=1e-15)
    assert instance.model_return(0.5, "averaged", 1) == pytest.approx(0.5 * 0.25 + 0.25 * 0.25, rel=1e-15)
    assert instance.model_return(0.5, "averaged", 2) == pytest.approx(0.5 * 0.25 + 0.25 * (4 + 7) / 32, rel=1e-15)
    assert instance.model_return(0.5, "exact", 2) == pytest.approx(0.5 * 0.25 + 0.25 * 7 / 16, rel=1e-15)
    profiles = instance.profiles()
    np.testing.assert_allclose(profiles.model_error, [0.25, 0.25], rtol=1e-15)
    np.testing.assert_allclose(profiles.policy_divergence, [0.5, 0.5, 0.5], rtol=1e-15)
    assert profiles.policy_divergence_sup == 0.5
    assert profiles.model_error_max == 0.25


def test_the_hardest_reward_pays_where_the_model_overestimates():
    hardest = two_state_instance().with_hardest_reward("full")
    assert hardest.return_gap(0.5, "full") == pytest.approx(-(0.5 * 0.25 + 0.25 * 7 / 16), rel=1e-15)


@given(mdp_instances(), discounts(), st.integers(1, 5), st.sampled_from(["full", "averaged", "exact"]))
@settings(max_examples=50, deadline=None)
def test_no_reward_beats_the_hardest_one(instance, discount, k, rollout):
    hardest = instance.with_hardest_reward(rollout, k).return_gap(discount, rollout, k)
    assert -hardest >= -instance.return_gap(discount, rollout, k) - 1e-10
    assert hardest <= 1e-12


@given(instances(), discounts(), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_a_perfect_model_and_the_data_policy_leave_no_gap(instance, discount, k):
    perfect = Instance(instance.process, instance.process.kernels, instance.data_policy, instance.data_policy)
    for rollout in ("full", "averaged", "exact"):
        assert perfect.return_gap(discount, rollout, k) == pytest.approx(0.0, abs=1e-9)
    profiles = perfect.profiles()
    assert profiles.model_error_max == 0.0
    assert profiles.policy_divergence_sup == 0.0


@given(instances(), discounts())
@settings(max_examples=50, deadline=None)
def test_branches_as_long_as_the_episode_are_the_full_model(instance, discount):
    horizon = instance.process.horizon
    full = instance.model_return(discount, "full")
    assert instance.model_return(discount, "exact", horizon) == pytest.approx(full, rel=1e-10, abs=1e-10)
    assert instance.model_return(discount, "exact", horizon + 7) == pytest.approx(full, rel=1e-10, abs=1e-10)
    one = [instance.model_return(discount, scheme, 1) for scheme in ("averaged", "exact")]
    assert one[0] == pytest.approx(one[1], rel=1e-10, abs=1e-10)


@given(history_instances(), discounts(), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_sparse_and_the_dense_process_agree(instance, discount, k):
    sparse = instance.process
    assert isinstance(sparse, SparseProcess)
    dense = Instance(
        sparse.dense(),
        sparse.dense_model(instance.model),
        sparse.dense_policy(instance.data_policy),
        sparse.dense_policy(instance.policy),
    )
    assert true_return(dense.process, dense.policy, discount) == pytest.approx(
        true_return(sparse, instance.policy, discount), rel=1e-10, abs=1e-12
    )
    for rollout in ("full", "averaged", "exact"):
        assert dense.model_return(discount, rollout, k) == pytest.approx(
            instance.model_return(discount, rollout, k), rel=1e-10, abs=1e-12
        )
    one, other = instance.profiles(), dense.profiles()
    np.testing.assert_allclose(one.model_error, other.model_error, atol=1e-12)
    np.testing.assert_allclose(one.policy_divergence, other.policy_divergence, atol=1e-12)
    assert one.policy_divergence_sup == pytest.approx(other.policy_divergence_sup, abs=1e-12)


@given(instances())
@settings(max_examples=30, deadline=None)
def test_laws_are_distributions(instance):
    for law in state_laws(instance.process, instance.policy, instance.model):
        assert law.sum() == pytest.approx(1.0, abs=1e-9)
        assert law.min() >= 0.0


def test_an_episode_without_transitions_pays_once():
    process = FiniteProcess(np.array([1.0]), np.zeros((0, 1, 1, 1)), np.full((1, 1, 1), 3.0), 0.0, 3.0)
    policy = np.ones((1, 1, 1))
    assert true_return(process, policy, 0.9) == 3.0
    assert branched_return(process, np.zeros((0, 1, 1, 1)), policy, policy, 0.9, 2) == 3.0
    assert error_profiles(process, np.zeros((0, 1, 1, 1)), policy, policy).model_error_max == 0.0


def test_a_learned_reward_replaces_the_true_one():
    instance = two_state_instance()
    learned = np.full((3, 2, 2), 0.5)
    assert instance.model_return(0.5, "full", model_reward=learned) == pytest.approx(0.5 * 1.75, rel=1e-15)
    assert instance.model_return(0.5, "averaged", 2, model_reward=learned) == pytest.approx(0.5 * 1.75, rel=1e-15)
    np.testing.assert_allclose(reward_error_profile(instance.process, learned, instance.data_policy), 0.5, rtol=1e-15)


@pytest.mark.parametrize("drawn", [history_instances(), mdp_instances()])
def test_an_instance_survives_its_file(tmp_path, drawn):
    @given(drawn)
    @settings(max_examples=5, deadline=None, database=None)
    def check(instance):
        save_instance(tmp_path / "instance.npz", instance, bound="m3po-th2", gamma=0.9)
        loaded = load_instance(tmp_path / "instance.npz")
        assert type(loaded.process) is type(instance.process)
        assert loaded.family == instance.family
        assert loaded.return_gap(0.9, "averaged", 2) == instance.return_gap(0.9, "averaged", 2)
        np.testing.assert_array_equal(loaded.profiles().model_error, instance.profiles().model_error)

    check()


def test_a_foreign_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(ValueError, match="not a stored instance"):
        load_instance(tmp_path / "other.npz")


def good() -> dict[str, Any]:
    process: Any = two_state_instance().process
    return {
        "initial": process.initial,
        "transition": process.transition,
        "reward": process.reward,
        "reward_low": 0.0,
        "reward_high": 1.0,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": np.array([0.5, 0.6])}, r"initial must sum to 1.*0\.1"),
        ({"initial": np.array([1.5, -0.5])}, r"initial .*-0\.5"),
        ({"initial": np.array([np.nan, 1.0])}, "initial"),
        ({"transition": np.zeros((2, 2, 2))}, r"transition must have shape \[T, S, A, S\]"),
        ({"transition": np.zeros((2, 2, 2, 2))}, "transition must sum to 1"),
        ({"reward": np.zeros((2, 2, 2))}, r"reward must have shape \(3, 2, 2\)"),
        ({"reward_high": 0.5}, r"reward must lie in \[0.0, 0.5\]"),
        ({"reward_low": 2.0}, "reward_low <= reward_high"),
        ({"layer_sizes": (1, 2)}, "layer_sizes"),
    ],
)
def test_bad_processes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FiniteProcess(**(good() | changes))


def test_bad_arguments_are_refused():
    instance: Any = two_state_instance()
    process, model, data, policy = instance.process, instance.model, instance.data_policy, instance.policy
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\), got 1.5"):
        true_return(process, policy, 1.5)
    with pytest.raises(ValueError, match="policy must have shape"):
        true_return(process, policy[:2], 0.5)
    with pytest.raises(ValueError, match="model must sum to 1"):
        full_model_return(process, 0.9 * model, policy, 0.5)
    with pytest.raises(ValueError, match="rollout_length must be an integer >= 1, got 0"):
        branched_return(process, model, data, policy, 0.5, 0)
    unknown_scheme: Any = "mean"
    with pytest.raises(ValueError, match="scheme must be 'averaged' or 'exact', got 'mean'"):
        branched_return(process, model, data, policy, 0.5, 1, unknown_scheme)
    with pytest.raises(ValueError, match="model_reward must lie in"):
        full_model_return(process, model, policy, 0.5, model_reward=process.reward + 1.0)
    with pytest.raises(ValueError, match="data_policy"):
        error_profiles(process, model, data[:, :1], policy)


def test_a_repeated_successor_is_refused():
    with pytest.raises(ValueError, match=r"successors\[0\] repeats a successor"):
        SparseProcess(
            np.array([1.0]),
            (np.zeros((1, 1, 2), dtype=np.int32),),
            (np.array([[[0.5, 0.5]]]),),
            (np.zeros((1, 1)), np.zeros((1, 1))),
            0.0,
            1.0,
        )
