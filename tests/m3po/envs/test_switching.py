"""When tasks are redrawn: exact steps under a period, the promised frequency under a probability."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from m3po.envs.switching import SwitchingRule


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("period", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (4, [4]), (7, [])])
def test_a_period_redraws_after_exactly_these_steps(period, expected):
    steps = np.arange(1, 7)
    assert steps[SwitchingRule(period=period).redraws(steps, generator())].tolist() == expected


def test_each_episode_has_its_own_clock():
    assert SwitchingRule(period=3).redraws(np.array([2, 3, 4, 9]), generator()).tolist() == [False, True, False, True]


@pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
def test_a_probability_redraws_that_often(probability):
    redraws = SwitchingRule(probability=probability).redraws(np.full(20_000, 7), generator())
    assert stats.binomtest(int(redraws.sum()), redraws.size, probability).pvalue > 1e-3


def test_probability_one_redraws_always_and_zero_never():
    steps = np.arange(1, 200)
    assert SwitchingRule(probability=1.0).redraws(steps, generator()).all()
    assert not SwitchingRule().redraws(steps, generator()).any()


def test_only_the_random_rule_consumes_random_numbers():
    used, untouched = generator(), generator()
    SwitchingRule(period=2).redraws(np.arange(1, 9), used)
    SwitchingRule().redraws(np.arange(1, 9), used)
    assert used.bit_generator.state == untouched.bit_generator.state
    SwitchingRule(probability=0.5).redraws(np.arange(1, 9), used)
    assert used.bit_generator.state != untouched.bit_generator.state


@pytest.mark.parametrize("probability", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_bad_probability_is_named(probability):
    with pytest.raises(ValueError, match=f"switch_probability must be in .*got {probability}"):
        SwitchingRule(probability=probability)


@pytest.mark.parametrize("period", [0, -3, 2.5, float("nan"), float("inf")])
def test_a_bad_period_is_named(period):
    with pytest.raises(ValueError, match=f"switch_period must be .*got {period}"):
        SwitchingRule(period=period)


def test_two_rules_at_once_are_refused():
    with pytest.raises(ValueError, match=r"switch_probability=0\.5 and switch_period=3"):
        SwitchingRule(probability=0.5, period=3)
