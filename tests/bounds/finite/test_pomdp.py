"""The history process of a task-POMDP against plain enumeration over task sequences."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bounds.finite import FiniteTaskPOMDP, Instance, branched_return, error_profiles, state_laws, true_return
from bounds.finite.random_instances import random_distributions, random_task_pomdp
from tests.strategies import random_generator


def all_histories(pomdp: FiniteTaskPOMDP, time: int) -> Iterator[tuple[int, ...]]:
    """Every history (o_0, a_0, ..., o_time)."""
    return itertools.product(range(pomdp.observations), *[range(pomdp.actions), range(pomdp.observations)] * time)


def switch_probability(pomdp: Any, task: int, o: int, action: int, following_o: int, following_task: int) -> float:
    rank = np.ndim(pomdp.task_transition)
    if rank == 2:
        return float(pomdp.task_transition[task, following_task])
    if rank == 4:
        return float(pomdp.task_transition[task, o, action, following_task])
    return float(pomdp.task_transition[task, o, action, following_o, following_task])


def joint_probability(pomdp: FiniteTaskPOMDP, tasks: Sequence[int], history: Sequence[int]) -> float:
    """P(tau_0..tau_t and the observations of the history | its actions), one factor per draw."""
    probability = float(pomdp.initial_task[tasks[0]] * pomdp.initial_observation[tasks[0], history[0]])
    for s in range(len(tasks) - 1):
        o, a, following = history[2 * s : 2 * s + 3]
        probability *= float(pomdp.observation_kernel[tasks[s], o, a, following])
        probability *= switch_probability(pomdp, tasks[s], o, a, following, tasks[s + 1])
    return probability


@given(random_generator(), st.integers(1, 3), st.integers(2, 3), st.integers(1, 2), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_kernel_belief_and_reward_equal_enumeration_over_task_sequences(rng, tasks, observations, actions, horizon):
    pomdp = random_task_pomdp(rng, tasks=tasks, observations=observations, actions=actions)
    process, beliefs = pomdp.sparse_history_process(horizon), pomdp.task_beliefs(horizon)
    np.testing.assert_allclose(process.initial, pomdp.initial_task @ pomdp.initial_observation, rtol=1e-12)
    for t in range(horizon + 1):
        for index, history in enumerate(all_histories(pomdp, t)):
            assert pomdp.history_index(history) == index
            weights = np.zeros(tasks)
            for sequence in itertools.product(range(tasks), repeat=t + 1):
                weights[sequence[-1]] += joint_probability(pomdp, sequence, history)
            belief = weights / weights.sum()
            np.testing.assert_allclose(beliefs[t][index], belief, atol=1e-10)
            last = history[-1]
            for a in range(actions):
                reward = sum(belief[m] * pomdp.reward[m, last, a] for m in range(tasks))
                assert process.reward[t][index, a] == pytest.approx(reward, abs=1e-10)
                if t < horizon:
                    kernel = [
                        sum(belief[m] * pomdp.observation_kernel[m, last, a, o] for m in range(tasks))
                        for o in range(observations)
                    ]
                    np.testing.assert_allclose(process.probabilities[t][index, a], kernel, atol=1e-10)


@given(random_generator(), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_the_return_equals_that_of_the_hidden_process(rng, window):
    """The history process pays what the POMDP pays, summed over tasks without ever forming a belief."""
    pomdp = random_task_pomdp(rng, tasks=2, observations=2, actions=2)
    horizon, discount = 3, 0.8
    policy = pomdp.lift([random_distributions(rng, (pomdp.history_count(j), 2)) for j in range(window + 1)], horizon)
    expected = 0.0
    for t in range(horizon + 1):
        for history in all_histories(pomdp, t):
            acting = 1.0
            for s in range(t):
                acting *= policy[s][pomdp.history_index(history[: 2 * s + 1]), history[2 * s + 1]]
            for sequence in itertools.product(range(2), repeat=t + 1):
                weight = acting * joint_probability(pomdp, sequence, history)
                for a in range(2):
                    chosen = policy[t][pomdp.history_index(history), a]
                    expected += discount**t * weight * chosen * pomdp.reward[sequence[-1], history[-1], a]
    assert true_return(pomdp.sparse_history_process(horizon), policy, discount) == pytest.approx(expected, rel=1e-10)


@given(random_generator(), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_lifted_tables_depend_on_the_window_alone(rng, window):
    pomdp = random_task_pomdp(rng, tasks=2, observations=2, actions=2)
    tables = [random_distributions(rng, (pomdp.history_count(j), 2)) for j in range(window + 1)]
    for t, layer in enumerate(pomdp.lift(tables, 3)):
        assert layer.shape == (pomdp.history_count(t), 2)
        for index, history in enumerate(all_histories(pomdp, t)):
            j = min(t, window)
            recent = history[len(history) - (2 * j + 1) :]
            np.testing.assert_array_equal(layer[index], tables[j][pomdp.history_index(recent)])


@given(random_generator())
@settings(max_examples=10, deadline=None)
def test_a_model_that_remembers_everything_can_be_perfect_and_one_that_forgets_cannot_do_better(rng):
    pomdp = random_task_pomdp(rng, tasks=3, observations=2, actions=2)
    process = pomdp.sparse_history_process(3)
    policy = pomdp.lift([random_distributions(rng, (2, 2))], 3)
    complete = pomdp.best_window_model(process, policy, 3)
    assert error_profiles(process, complete, policy, policy).model_error_max <= 1e-12
    for t, layer in enumerate(pomdp.best_window_model(process, policy, 0)):
        law = state_laws(process, policy)[t][:, None] * policy[t]
        for o in range(2):
            mine = law[o::2].sum(axis=0)[:, None] * layer[o]
            np.testing.assert_allclose(mine, (law[o::2, :, None] * process.probabilities[t][o::2]).sum(0), atol=1e-12)


def impossible_pomdp() -> FiniteTaskPOMDP:
    """Task 0 always shows 0, task 1 always shows 1; tasks never switch."""
    kernel = np.zeros((2, 2, 1, 2))
    kernel[0, :, :, 0] = kernel[1, :, :, 1] = 1.0
    reward = np.array([0.0, 1.0])[:, None, None] * np.ones((2, 2, 1))
    return FiniteTaskPOMDP(np.array([0.5, 0.5]), np.eye(2), np.eye(2), kernel, reward, 0.0, 1.0)


def test_impossible_histories_keep_a_belief_because_a_model_may_reach_them():
    pomdp = impossible_pomdp()
    beliefs = pomdp.task_beliefs(2)
    np.testing.assert_array_equal(beliefs[1], [[1, 0], [1, 0], [0, 1], [0, 1]])
    process = pomdp.sparse_history_process(2)
    np.testing.assert_array_equal(process.reward[1][:, 0], [0, 0, 1, 1])
    model = tuple(np.full(layer.shape, 0.5) for layer in process.probabilities)
    policy = tuple(np.ones(layer.shape) for layer in process.reward)
    assert branched_return(process, model, policy, policy, 0.5, 1) == pytest.approx(0.5 * 1.75)


def test_histories_of_a_switching_task_worked_out_by_hand():
    """The task switches with certainty after every step, so the history 0, 1, 0 has probability 1/2."""
    kernel = np.zeros((2, 2, 1, 2))
    kernel[0, :, :, 0] = kernel[1, :, :, 1] = 1.0
    pomdp = FiniteTaskPOMDP(np.array([0.5, 0.5]), np.eye(2), np.eye(2)[::-1], kernel, np.zeros((2, 2, 1)), 0.0, 1.0)
    process = pomdp.sparse_history_process(3)
    # o_1 shows the task before the first switch, o_2 the one after it.
    np.testing.assert_array_equal(process.probabilities[0][:, 0], [[1, 0], [0, 1]])
    assert process.probabilities[1][pomdp.history_index((0, 0, 0)), 0].tolist() == [0, 1]
    assert process.probabilities[2][pomdp.history_index((0, 0, 0, 0, 1)), 0].tolist() == [1, 0]


def test_dense_histories_have_the_contract_shapes_and_the_same_values():
    rng = np.random.default_rng(5)
    pomdp = random_task_pomdp(rng, tasks=2, observations=2, actions=2)
    dense, sparse = pomdp.history_process(2), pomdp.sparse_history_process(2)
    assert dense.transition.shape == (2, 32, 2, 32)
    assert dense.layer_sizes == (2, 8, 32)
    policy = pomdp.lift([random_distributions(rng, (2, 2))], 2)
    assert true_return(dense, sparse.dense_policy(policy), 0.9) == pytest.approx(true_return(sparse, policy, 0.9))


def test_padding_rows_are_no_histories():
    rng = np.random.default_rng(6)
    pomdp = random_task_pomdp(rng, tasks=2, observations=2, actions=2)
    dense, sparse = pomdp.history_process(2), pomdp.sparse_history_process(2)
    one = sparse.dense_policy(pomdp.lift([np.full((2, 2), 0.5)], 2))
    other = one.copy()
    other[0, 2:], other[1, 8:] = (1.0, 0.0), (0.0, 1.0)
    assert error_profiles(dense, dense.transition, one, other).policy_divergence_sup == 0.0
    other[1, 7] = (0.9, 0.1)
    assert error_profiles(dense, dense.transition, one, other).policy_divergence_sup == pytest.approx(0.4)


def test_a_million_histories_fit():
    """3 * 6^7 = 839 808 histories in the last layer, 1 007 769 in all; the peak is stated in MB."""
    rng = np.random.default_rng(0)
    pomdp = random_task_pomdp(rng, tasks=3, observations=3, actions=2)
    horizon = 7
    assert sum(pomdp.history_count(t) for t in range(horizon + 1)) == 1_007_769
    tracemalloc.start()
    process = pomdp.sparse_history_process(horizon)
    data_policy = pomdp.lift([random_distributions(rng, (3, 2))], horizon)
    policy = pomdp.lift([random_distributions(rng, (3, 2)), random_distributions(rng, (18, 2))], horizon)
    model = pomdp.best_window_model(process, data_policy, 1)
    instance = Instance(process, model, data_policy, policy)
    gap = instance.return_gap(0.9, "averaged", 3)
    profiles = instance.profiles()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert 0.0 < profiles.model_error_max < 1.0
    assert gap != 0.0
    assert peak < 130.0, f"{peak:.0f} MB"


def pomdp_arguments() -> dict[str, Any]:
    pomdp = impossible_pomdp()
    return {
        name: getattr(pomdp, name)
        for name in (
            "initial_task",
            "initial_observation",
            "task_transition",
            "observation_kernel",
            "reward",
            "reward_low",
            "reward_high",
        )
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_task": np.array([0.5, 0.4])}, "initial_task must sum to 1"),
        ({"initial_observation": np.ones((2, 3)) / 3}, r"initial_observation must have shape \(2, 2\)"),
        ({"task_transition": np.eye(3)}, "task_transition must have shape"),
        ({"task_transition": np.ones(2)}, "task_transition must have 2, 4 or 5 axes, got 1"),
        ({"observation_kernel": np.ones((2, 2, 2))}, "observation_kernel must have shape"),
        ({"reward_high": 0.5}, "reward must lie in"),
    ],
)
def test_bad_pomdps_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FiniteTaskPOMDP(**(pomdp_arguments() | changes))


def test_bad_requests_are_refused():
    pomdp = impossible_pomdp()
    with pytest.raises(ValueError, match="horizon must be an integer >= 0, got -1"):
        pomdp.sparse_history_process(-1)
    with pytest.raises(ValueError, match="sparse_history_process holds them sparsely"):
        pomdp.history_process(20)
    with pytest.raises(ValueError, match="a history ends in an observation, got 2 entries"):
        pomdp.history_index((0, 0))
    with pytest.raises(ValueError, match=r"history entry 0 must be in \[0, 2\), got 2"):
        pomdp.history_index((2,))
    with pytest.raises(ValueError, match=r"tables\[1\] must have 4 rows, got 2"):
        pomdp.lift([np.ones((2, 1)), np.ones((2, 1))], 3)
    with pytest.raises(ValueError, match="tables must hold at least one array"):
        pomdp.lift([], 3)
