"""Theorem 5: a slow loop over branches, no gap beyond it on enumerated processes, equality where tight, limits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

import bounds
from bounds.certificate import Tail
from bounds.confidence import Interval
from bounds.finite import enumerate_trajectories, overlap_discrepancy, profile_attaining_instance
from bounds.finite.checks import TOLERANCE, draw_discount, measure, noisy_reward, plain_discrepancy
from bounds.finite.instance import Instance, Rollout
from bounds.finite.trajectory_checks import (
    SMALL_FAMILIES,
    check_trajectories,
    draw_small_history,
    draw_small_mdp,
    overlap_ratios,
)
from bounds.overlap import FORMS, Form, OverlapLosses, overlap_certificate, overlap_losses
from tests.bounds.definitions import slow_losses
from tests.strategies import discounts, random_generator

PARTS = ("log_density", "log_model_density", "log_data_policy", "log_policy")


@st.composite
def evidence(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of ``overlap_losses`` with moderate ratios, 0 among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 7)))
    spread = draw(st.sampled_from([0.0, 0.01, 1.0]))
    found: dict[str, Any] = {name: spread * rng.standard_normal(shape) for name in PARTS}
    for name in ("log_model_density", "log_policy"):
        found[name] = np.where(rng.uniform(size=shape) < draw(st.sampled_from([0.0, 0.2])), -np.inf, found[name])
    found |= {
        "discount": draw(st.sampled_from([0.0, 0.5, 0.97])),
        "rollout_length": draw(st.one_of(st.none(), st.integers(1, 9))),
        "scheme": draw(st.sampled_from(["averaged", "exact"])),
        "form": draw(st.sampled_from(FORMS)),
    }
    if draw(st.booleans()):
        found |= {"rewards": rng.uniform(-1, 2, shape), "predicted_rewards": rng.uniform(-1, 2, shape)}
        found["reward_range"] = 3.0
    if draw(st.booleans()):
        found["valid"] = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, shape[0])[:, None]
    return found


@given(evidence())
@settings(max_examples=200, deadline=None)
def test_equals_the_slow_loop(given_: dict[str, Any]) -> None:
    mask = given_.get("valid", np.ones(given_["log_policy"].shape, dtype=bool))
    rho = np.where(mask, np.exp(given_["log_policy"] - given_["log_data_policy"]), 1.0)
    x = np.where(mask, np.exp(given_["log_model_density"] - given_["log_density"]), 1.0)
    error = None
    if "rewards" in given_:
        error = np.where(mask, np.abs(given_["rewards"] - given_["predicted_rewards"]) / 3.0, 0.0)
    g, k, scheme, form = (given_[name] for name in ("discount", "rollout_length", "scheme", "form"))
    losses = overlap_losses(**given_)
    np.testing.assert_allclose(losses.values, slow_losses(rho, x, g, k, scheme, form, error), rtol=1e-11, atol=1e-13)
    powers = given_["discount"] ** np.arange(mask.shape[1])
    assert losses.largest == pytest.approx(powers.sum() - (error is None), rel=1e-14, abs=1e-15)
    assert np.all(losses.values <= losses.largest * (1 + 1e-14))
    if given_["form"] != "uncapped":
        assert np.all(losses.values >= 0)


@given(evidence())
@settings(max_examples=100, deadline=None)
def test_each_form_subtracts_at_least_as_much_as_the_one_before_it_in_every_episode(given_: dict[str, Any]) -> None:
    values = [overlap_losses(**(given_ | {"form": form})).values for form in FORMS]
    for smaller, larger in itertools.pairwise(values):
        assert np.all(smaller <= larger + 1e-12)


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_no_gap_exceeds_it_and_the_forms_keep_their_order(family: str) -> None:
    @given(random_generator(), discounts(), st.integers(1, 5), st.booleans())
    @settings(max_examples=25, deadline=None)
    def check(rng: np.random.Generator, discount: float, k: int, learned: bool) -> None:
        instance = SMALL_FAMILIES[family](rng)
        trajectories = enumerate_trajectories(instance)
        reward = noisy_reward(rng, instance) if learned else None
        ratios = list(overlap_ratios(instance, trajectories, measure(instance, discount, k), reward))
        target(max(ratio for name, ratio in ratios if name.startswith("overlap-")))
        assert [(name, ratio) for name, ratio in ratios if ratio > 1 + TOLERANCE] == []

    check()


def test_a_drawn_hundred_enumerated_instances_hold_and_come_close() -> None:
    report = check_trajectories(120, seed=1)
    assert report.holds
    assert {each.name: each.largest_ratio for each in report.reports if each.largest_ratio < 0.999} == {}


@pytest.mark.slow
def test_two_thousand_enumerated_instances_hold() -> None:
    report = check_trajectories(2000, seed=0)
    assert report.holds, report


def hardest(rng: np.random.Generator, rollout: Rollout, k: int, *, own_data: bool = False) -> Instance:
    """Histories of a task-POMDP, where the state is all that happened, with the reward that makes the gap largest."""
    instance = draw_small_history(rng)
    data = instance.policy if own_data else instance.data_policy
    return Instance(instance.process, instance.model, data, instance.policy).with_hardest_reward(rollout, k)


@pytest.mark.parametrize(("rollout", "k"), [("full", 1), ("exact", 1), ("exact", 2), ("averaged", 1)])
def test_the_uncapped_form_is_the_gap_where_the_data_policy_covers_the_policy(rollout: Rollout, k: int) -> None:
    """The hardest reward turns the whole total variation into gap. Averages over branches mix signs, unless k = 1."""
    for seed in range(25):
        rng = np.random.default_rng([31, seed])
        instance, discount = hardest(rng, rollout, k), draw_discount(rng)
        trajectories = enumerate_trajectories(instance)
        value = overlap_discrepancy(instance, trajectories, discount, rollout, k, form="uncapped")
        assert -instance.return_gap(discount, rollout, k) == pytest.approx(value, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("rollout", ["full", "exact"])
def test_on_the_policy_s_own_data_the_capped_form_is_the_gap_too(rollout: Rollout) -> None:
    """Then b min(a, X) = min(1, X), and the cap does nothing."""
    for seed in range(15):
        rng = np.random.default_rng([32, seed])
        instance = hardest(rng, rollout, 2, own_data=True)
        value = overlap_discrepancy(instance, enumerate_trajectories(instance), 0.8, rollout, 2, form="overlap")
        assert -instance.return_gap(0.8, rollout, 2) == pytest.approx(value, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_attained_where_theorem_4_is(form: Form) -> None:
    instance = profile_attaining_instance([0.1, 0.02, 0.07, 0.04], [0.05, 0.1, 0.0, 0.02, 0.03])
    trajectories = enumerate_trajectories(instance)
    for k in (1, 2, 3):
        measured = measure(instance, 0.7, k)
        for rollout in ("full", "averaged"):
            value = overlap_discrepancy(instance, trajectories, 0.7, rollout, k, form=form)
            assert -measured.gaps[rollout] == pytest.approx(value, rel=1e-11)
            assert plain_discrepancy(measured, rollout) == pytest.approx(value, rel=1e-11)


def test_theorem_5_is_far_below_theorem_4_on_a_random_process() -> None:
    shares = []
    for seed in range(30):
        rng = np.random.default_rng([33, seed])
        instance = draw_small_mdp(rng)
        measured = measure(instance, 0.9, 2)
        value = overlap_discrepancy(instance, enumerate_trajectories(instance), 0.9, "averaged", 2)
        if plain_discrepancy(measured, "averaged") > 0:
            shares.append(value / plain_discrepancy(measured, "averaged"))
    assert 0.3 < np.mean(shares) < 0.97


def arrays(shape: tuple[int, int] = (3, 6)) -> dict[str, Any]:
    return {name: np.zeros(shape) for name in PARTS}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [None, 1, 3, 40])
def test_no_difference_no_loss_and_disjoint_laws_lose_everything(form: Form, length: int | None) -> None:
    same = overlap_losses(**arrays(), discount=0.9, rollout_length=length, form=form)
    assert np.all(same.values == 0)
    apart = arrays() | {"log_model_density": np.full((3, 6), -np.inf)}
    losses = overlap_losses(**apart, discount=0.9, rollout_length=length, form=form)
    np.testing.assert_allclose(losses.values, losses.largest, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_small_losses_keep_their_digits(form: Form) -> None:
    """One model error of 1e-13 at step 0: k = 1 loses it at t = 1 alone."""
    small: dict[str, Any] = arrays((1, 4))
    small["log_model_density"][0, 0] = np.log1p(-1e-13)
    losses = overlap_losses(**small, discount=0.5, rollout_length=1, form=form)
    assert losses.values[0] == pytest.approx(0.5e-13, rel=1e-12)


def test_ratios_of_any_size_do_not_overflow_and_the_uncapped_form_refuses_what_cannot_be() -> None:
    rng = np.random.default_rng(0)
    wild: dict[str, Any] = {name: 1e4 * rng.standard_normal((5, 30)) for name in PARTS}
    with np.errstate(all="raise", under="ignore"):
        for form in FORMS[1:]:
            for length in (None, 1, 7):
                losses = overlap_losses(**wild, discount=0.99, rollout_length=length, form=form)
                assert np.all((losses.values >= 0) & (losses.values <= losses.largest * (1 + 1e-14)))
    with pytest.raises(ValueError, match=r"ratio b min\(a, X\) must stay below e\^700, got e\^\d.* at episode \d"):
        overlap_losses(**wild, discount=0.99, rollout_length=1, form="uncapped")


@pytest.mark.parametrize("length", [None, 1, 2])
@pytest.mark.parametrize("learned", [False, True])
def test_after_its_end_an_episode_loses_what_it_lost_by_then(length: int | None, learned: bool) -> None:
    """False in ``valid``: nothing differs any more, whatever the arrays hold there."""
    rng = np.random.default_rng(4)
    given_: dict[str, Any] = {name: 0.3 * rng.standard_normal((2, 6)) for name in PARTS}
    reward: dict[str, Any] = {}
    if learned:
        reward = {
            "rewards": rng.uniform(size=(2, 6)),
            "predicted_rewards": rng.uniform(size=(2, 6)),
            "reward_range": 1.0,
        }
    padded: dict[str, Any] = {
        name: values.copy() for name, values in (given_ | reward).items() if name != "reward_range"
    }
    broken: dict[str, Any] = {name: values.copy() for name, values in padded.items()}
    for name in padded:
        padded[name][0, 3:], broken[name][0, 3:] = 0.0, np.nan
    valid = np.ones((2, 6), dtype=bool)
    valid[0, 3:] = False
    extra: dict[str, Any] = {"discount": 0.9, "rollout_length": length} | ({"reward_range": 1.0} if learned else {})
    expected = overlap_losses(**padded, **extra).values
    np.testing.assert_array_equal(overlap_losses(**broken, **extra, valid=valid).values, expected)
    assert expected[0] > 0


def test_hand_computed() -> None:
    """gamma = 1/2, three times, k = 2; rho = (1/2, 2, .), x = (1/4, 1/2, .).

    t = 1: i = 1: a = 1, b = 1/2, X = 1/4: v = 1/8. t = 2: i = 1: a = 1/2, b = 2, X = 1/2: v = 1 (product: 1/4);
    i = 2: a = 1, b = 1, X = 1/8: v = 1/8 (product: min(1, 1) 1/8).
    """
    given_: dict[str, Any] = {
        "log_density": np.zeros((1, 3)),
        "log_model_density": np.log([[0.25, 0.5, 7.0]]),
        "log_data_policy": np.zeros((1, 3)),
        "log_policy": np.log([[0.5, 2.0, 5.0]]),
        "discount": 0.5,
        "rollout_length": 2,
    }
    expected: dict[Form, float] = {
        "overlap": 0.5 * 7 / 8 + 0.25 * 0.5 * 7 / 8,
        "product": 0.5 * 7 / 8 + 0.25 * 0.5 * (3 / 4 + 7 / 8),
    }
    for form, value in expected.items():
        assert overlap_losses(**given_, form=form).values[0] == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("tail", ["worst", "absorbing"])
def test_the_certificate_asks_for_one_interval_of_the_mean_loss_at_the_level_given(tail: Tail) -> None:
    losses = OverlapLosses(np.array([0.5, 1.5]), 2.0, "overlap", 4, 0.5)
    asked: list[Any] = []

    def method(
        samples: Any, confidence: float = 0.5, *, sides: str = "", low: float = -1, high: float = -1
    ) -> Interval:
        asked.append((list(samples), confidence, sides, low, high))
        return Interval(1.0, 0.0, 1.25, confidence, 2)

    found = overlap_certificate(losses, reward_range=3.0, confidence=0.9, tail=tail, method=method)
    rest = 3.0 * 0.5**4 / 0.5 if tail == "worst" else 0.0
    assert asked == [([0.5, 1.5], 0.9, "upper", 0.0, 2.0)]
    assert (found.value, found.estimate, found.tail_part) == (3.75 + rest, 3.0 + rest, rest)
    assert (found.confidence, found.episodes) == (0.9, 2)


def test_the_uncapped_certificate_bounds_the_overlap_from_below() -> None:
    losses = OverlapLosses(np.array([0.5, -1.5, 2.0]), 2.0, "uncapped", 4, 0.5)
    found = overlap_certificate(losses, reward_range=3.0, confidence=0.9, tail="absorbing")
    lower = float(bounds.nonnegative_lower([1.5, 3.5, 0.0], 0.9))
    assert lower > 0
    assert found.value == pytest.approx(3.0 * (2.0 - lower), rel=1e-14)
    assert found.estimate == pytest.approx(1.0, rel=1e-14)


def test_worst_is_the_default_tail_and_one_time_has_no_loss() -> None:
    losses = overlap_losses(np.zeros((4, 1)), np.zeros((4, 1)), discount=0.5)
    assert overlap_certificate(losses, reward_range=1.0).value == 1.0
    assert overlap_certificate(losses, reward_range=1.0, tail="absorbing").value == 0.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"discount": 1.0}, "discount must be in [0, 1), got 1.0"),
        ({"discount": np.nan}, "got nan"),
        ({"scheme": "mean"}, "scheme must be 'averaged' or 'exact', got 'mean'"),
        ({"form": "min"}, "form must be one of uncapped, overlap, product, sum, got 'min'"),
        ({"rollout_length": 0}, "rollout_length must be a whole number from 1 to 2^53 or None, got 0"),
        ({"log_density": np.zeros(6)}, "log_density must have two nonempty axes, episodes and times, got shape (6,)"),
        ({"log_density": np.zeros((0, 6))}, "got shape (0, 6)"),
        ({"log_policy": np.zeros((3, 5))}, "log_policy must have shape (3, 6) like the others, got (3, 5)"),
        ({"log_policy": None}, "log_data_policy and log_policy go together"),
        ({"log_policy": np.full((3, 6), np.nan)}, "log_policy must be finite or -inf, got nan at episode 0, time 0"),
        ({"log_model_density": np.full((3, 6), np.inf)}, "log_model_density must be finite or -inf, got inf"),
        ({"log_density": np.full((3, 6), -np.inf)}, "log_density must be finite at what was drawn from it, got -inf"),
        ({"log_data_policy": np.full((3, 6), -np.inf)}, "log_data_policy must be finite at what was drawn"),
        ({"valid": np.zeros((3, 6), dtype=bool)}, "valid must be True from the start of an episode to its end"),
        (
            {"valid": np.tile([True, False, True, True, True, True], (3, 1))},
            "got [True, False, True, True, True, True]",
        ),
        ({"valid": np.ones((3, 6))}, "valid must be booleans of shape (3, 6), got float64 of shape (3, 6)"),
        ({"rewards": np.zeros((3, 6))}, "rewards and predicted_rewards go together"),
        ({"rewards": np.zeros((3, 6)), "predicted_rewards": np.zeros((3, 6))}, "reward_range must be nonnegative"),
        (
            {"rewards": np.ones((3, 6)), "predicted_rewards": -np.ones((3, 6)), "reward_range": 1.0},
            "must differ by at most the reward range 1, got a difference of 2.0 at episode 0, time 0",
        ),
        (
            {"rewards": np.full((3, 6), np.nan), "predicted_rewards": np.ones((3, 6)), "reward_range": 1.0},
            "got a difference of nan",
        ),
    ],
)
def test_a_bad_value_is_named(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = arrays() | {"discount": 0.9, "rollout_length": 2} | change
    with pytest.raises(ValueError) as raised:
        overlap_losses(**arguments)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reward_range": -1.0}, "reward_range must be nonnegative and finite, got -1.0"),
        ({"tail": "none"}, "tail must be 'worst' or 'absorbing', got 'none'"),
        ({"confidence": 1.0}, "confidence must lie in (0, 1), got 1.0"),
    ],
)
def test_the_certificate_names_a_bad_value(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"reward_range": 1.0} | change
    forms: tuple[Form, ...] = ("overlap", "uncapped")
    for form in forms:
        with pytest.raises(ValueError) as raised:
            overlap_certificate(OverlapLosses(np.ones(3), 2.0, form, 4, 0.5), **arguments)
        assert named in str(raised.value)
