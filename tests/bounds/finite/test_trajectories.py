"""Enumerated trajectories: their laws are the engine's, and there are as many as were counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from bounds.finite import Trajectories, enumerate_trajectories, state_laws
from bounds.finite.instance import Instance
from bounds.finite.process import FiniteProcess
from bounds.finite.trajectories import count_trajectories
from bounds.finite.trajectory_checks import SMALL_FAMILIES, check_trajectories
from tests.strategies import random_generator


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_marginals_and_densities_are_the_process_s(family):
    @given(random_generator())
    @settings(max_examples=15, deadline=None)
    def check(rng):
        instance = SMALL_FAMILIES[family](rng)
        found = enumerate_trajectories(instance)
        assert len(found.probability) == count_trajectories(instance)
        assert found.probability.sum() == pytest.approx(1.0, abs=1e-12)
        paths = np.concatenate([found.states, found.actions], axis=1)
        assert len(np.unique(paths, axis=0)) == len(paths)
        for time, law in enumerate(state_laws(instance.process, instance.data_policy)):
            marginal = np.bincount(found.states[:, time], weights=found.probability, minlength=len(law))
            np.testing.assert_allclose(marginal, law, atol=1e-13)
        initial = instance.process.initial[found.states[:, 0]]
        product = initial * np.exp((found.log_data_policy + found.log_density).sum(axis=1))
        np.testing.assert_allclose(product, found.probability, rtol=1e-9)

    check()


def other_law(instance: Instance, found: Trajectories, time: int, weight: np.ndarray) -> np.ndarray:
    size = len(state_laws(instance.process, instance.policy)[time])
    return np.bincount(found.states[:, time], weights=found.probability * weight, minlength=size)


def test_weights_turn_the_data_s_law_into_the_policy_s_and_the_model_s():
    for seed in range(9):
        instance = SMALL_FAMILIES["mdp"](np.random.default_rng([3, seed]))
        found = enumerate_trajectories(instance)
        rho = np.exp(found.log_policy - found.log_data_policy)
        x = np.exp(found.log_model_density - found.log_density)
        time = instance.process.horizon
        own = rho[:, :time].prod(axis=1)
        truth = state_laws(instance.process, instance.policy)[time]
        np.testing.assert_allclose(other_law(instance, found, time, own), truth, atol=1e-9)
        modelled = state_laws(instance.process, instance.policy, instance.model)[time]
        np.testing.assert_allclose(
            other_law(instance, found, time, own * x[:, :time].prod(axis=1)), modelled, atol=1e-9
        )


def test_too_many_are_refused_before_they_are_built():
    states, horizon = 10, 12
    kernel = np.full((horizon, states, 4, states), 1 / states)
    policy = np.full((horizon + 1, states, 4), 0.25)
    reward = np.zeros((horizon + 1, states, 4))
    process = FiniteProcess(np.full(states, 1 / states), kernel, reward, 0.0, 1.0)
    instance = Instance(process, kernel, policy, policy)
    with pytest.raises(ValueError, match=f"at most 1000000 trajectories, got {40**13}"):
        enumerate_trajectories(instance)


def test_the_seed_and_the_number_decide_the_instances():
    assert check_trajectories(3, seed=2) == check_trajectories(3, seed=2) != check_trajectories(3, seed=3)
    with pytest.raises(ValueError, match="instances must be >= 1, got 0"):
        check_trajectories(0)
