"""Lower bounds of a return from arrays: their levels on a two-step process, their reasons, and what they refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bounds import CriticValues, LowerBound, model_lower_bound, overlap_losses, return_lower_bounds
from bounds.confidence import betting
from bounds.return_bounds import default_budget, episodes_for_width

ARGUMENTS: dict[str, Any] = {"discount": 0.5, "reward_low": -1.0, "reward_high": 1.0}


def episodes(count: int, seed: int, data: float = 0.5, policy: float = 0.7) -> tuple[np.ndarray, ...]:
    """Two steps, two actions; the first is taken with probability ``data`` and pays 1 with probability 0.8, else -1."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(size=(count, 2)) < data
    paid = np.where(rng.uniform(size=first.shape) < np.where(first, 0.8, 0.3), 1.0, -1.0)
    return (
        paid,
        np.log(np.where(first, policy, 1 - policy)),
        np.log(np.where(first, data, 1 - data)),
        first,
    )


TRUTH = 1.5 * (0.7 * 0.6 + 0.3 * -0.4)


def test_each_holds_at_its_share_and_all_at_the_level() -> None:
    """With a critic that knows the expected rewards, and its exact mean under the policy."""
    missed = np.zeros(3)
    for seed in range(300):
        paid, log_policy, log_data, first = episodes(40, seed)
        largest = 2 * np.array([1.5, 1.0])
        q = np.clip(np.where(first, 1.6, 0.6) + np.array([0.5 * 1.3, 0.0]), 0, largest)
        inside = [np.minimum(1, 2 * 0.5 / share) for share in (0.7, 0.3)]
        both = [np.clip(each + np.array([0.5 * 1.3, 0.0]), 0, largest) for each in (1.6, 0.6)]
        mean = np.broadcast_to(0.7 * inside[0] * both[0] + 0.3 * inside[1] * both[1], paid.shape)
        found = return_lower_bounds(
            paid, log_policy, log_data, **ARGUMENTS, confidence=0.8, tail="absorbing", critic=CriticValues(q, mean)
        )
        assert [each.name for each in found] == ["importance-weights", "control-variate"]
        assert all(each.confidence == pytest.approx(0.9) for each in found)
        late = [each.value > TRUTH for each in found if each.value is not None]
        missed += [*late, any(late)]
    assert (missed[:2] <= stats.binom.isf(1e-4, 300, 0.1)).all()
    assert missed[2] <= stats.binom.isf(1e-4, 300, 0.2)


def test_own_episodes_are_one_betting_interval_of_their_returns() -> None:
    paid = episodes(50, 0, 0.7)[0]
    (found,) = return_lower_bounds(paid, **ARGUMENTS, tail="absorbing")
    returns = paid @ [1.0, 0.5]
    assert found.name == "own-returns"
    assert found.effective_sample_size is None
    assert found.value == pytest.approx(betting(returns, sides="lower", low=-1.5, high=1.5).lower, abs=1e-9)
    assert found.estimate == pytest.approx(returns.mean())
    (later,) = return_lower_bounds(paid, **ARGUMENTS)
    assert found.value is not None
    assert later.value == pytest.approx(found.value - 0.5, abs=0.1)  # the least reward from step 2 on


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.25, 1.0), (-1.0, 0.0)])
@pytest.mark.parametrize("tail", ["worst", "absorbing"])
def test_own_returns_stay_in_the_range_that_is_used(low: float, high: float, tail: Any) -> None:
    """At both ends of the reward range, with episodes that end and that go on, also with the least reward after H."""
    for paid in (low, high):
        for ends in (False, True) if low <= 0 <= high else (False,):
            valid = np.ones((30, 2), dtype=bool)
            valid[:15, 1] = not ends
            rewards = np.full((30, 2), paid)
            (found,) = return_lower_bounds(
                rewards, discount=0.5, reward_low=low, reward_high=high, valid=valid, tail=tail
            )
            assert found.value is not None
            assert found.estimate is not None
            assert found.value <= found.estimate + 1e-9


def test_many_own_episodes_at_the_top_of_the_range_leave_little_open() -> None:
    """Episodes that are over by H earn more than the least from then on; a range without that would cut it off."""
    valid = np.ones((3000, 2), dtype=bool)
    valid[:, 1] = False
    (found,) = return_lower_bounds(
        np.zeros((3000, 2)), discount=0.5, reward_low=-1.0, reward_high=0.0, valid=valid, tail="worst"
    )
    assert found.estimate == 0.0
    assert found.value == pytest.approx(0.0, abs=0.02)


def test_the_worst_model_is_within_the_range_that_is_used() -> None:
    """Returns at the least and nothing shared: the differences are at the bottom of their range, and not refused."""
    log_p = np.zeros((40, 2))
    losses = overlap_losses(log_p, np.full((40, 2), -np.inf), discount=0.5)
    found = model_lower_bound(losses, np.full(40, -1.5), reward_low=-1.0, reward_high=1.0, tail="absorbing")
    assert found.value == pytest.approx(-1.5 - 2 * 0.5)


def test_reasons() -> None:
    paid, log_policy, log_data, _ = episodes(30, 0)

    def reason(**changes: Any) -> str:
        given = {"rewards": paid, "log_policy": log_policy, "log_data_policy": log_data} | changes
        return return_lower_bounds(**given, **ARGUMENTS, tail="absorbing")[0].reason

    assert reason() == ""
    assert reason(log_policy=np.full(paid.shape, -np.inf)).startswith("no support")
    heavy = log_policy.copy()
    heavy[1:] -= 30
    assert reason(log_policy=heavy).startswith("weights too heavy: 30 episodes are worth 1")
    assert "the return itself is estimated at no more than" in reason(rewards=np.full(paid.shape, -1.0))
    few = return_lower_bounds(np.tile([[1.0, -1.0]], (2, 1)), **ARGUMENTS, tail="absorbing")[0]
    assert few.reason == "2 episodes are too few"


def test_the_model_is_bounded_by_theorem_5() -> None:
    rng = np.random.default_rng(0)
    log_p = rng.normal(size=(200, 2))
    losses = overlap_losses(log_p, log_p - rng.exponential(0.1, log_p.shape), discount=0.5, rollout_length=1)
    returns = rng.uniform(0.5, 1.0, 200)
    given: dict[str, Any] = {"reward_low": -1.0, "reward_high": 1.0, "confidence": 0.9, "tail": "absorbing"}
    paired = model_lower_bound(losses, returns, **given)
    unpaired = model_lower_bound(losses, returns[1:], **given)
    exact = float(returns.mean() - 2 * losses.values.mean())
    assert paired.estimate == pytest.approx(exact)
    assert unpaired.value is not None
    assert paired.value is not None
    assert unpaired.value < paired.value < exact
    worst = model_lower_bound(losses, returns, **given | {"tail": "worst"})
    assert worst.value == pytest.approx(paired.value - 0.5)
    perfect = dataclasses.replace(losses, values=np.zeros(200))
    assert (model_lower_bound(perfect, returns, **given).value or -9) > paired.value


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"log_policy": None}, "log_data_policy and log_policy go together"),
        ({"confidence": 1.0}, "confidence must be in (0, 1), got 1.0"),
        ({"reward_low": 1.0}, "reward_low must be < reward_high, got 1.0 and 1.0"),
        ({"rewards": np.full((30, 2), 3.0)}, "rewards must lie in [-1, 1], got 3.0"),
        ({"critic": CriticValues(np.full((30, 2), 9.0), np.zeros((30, 2)))}, "critic must lie in"),
        ({"critic": CriticValues(np.zeros((30, 2)), np.zeros((30, 2)), budget=0.0)}, "budget must be positive"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], named: str) -> None:
    paid, log_policy, log_data, _ = episodes(30, 0)
    given = {"rewards": paid, "log_policy": log_policy, "log_data_policy": log_data, **ARGUMENTS} | changes
    with pytest.raises(ValueError) as caught:
        return_lower_bounds(**given)
    assert named in str(caught.value)


def test_wrong_model_returns_are_named() -> None:
    log_p = np.zeros((5, 2))
    losses = overlap_losses(log_p, log_p, discount=0.5)
    with pytest.raises(ValueError, match="model_returns must be a list of returns in"):
        model_lower_bound(losses, np.full(5, 9.0), reward_low=0.0, reward_high=1.0)
    uncapped = overlap_losses(log_p, log_p, discount=0.5, form="uncapped")
    with pytest.raises(ValueError, match="uncapped form has no lower end"):
        model_lower_bound(uncapped, np.zeros(5), reward_low=0.0, reward_high=1.0)
    with pytest.raises(ValueError, match="reward_low must be < reward_high"):
        model_lower_bound(losses, np.zeros(5), reward_low=1.0, reward_high=1.0)


def test_the_default_budget_knows_nothing_of_the_rewards() -> None:
    assert default_budget(600, 10.0, own=False) == 10.0
    assert default_budget(10, 10.0, own=False) == 1.0
    assert default_budget(10**6, 10.0, own=False) == 50.0
    assert default_budget(600, 10.0, own=True) == 0.3
    assert LowerBound("theorem-4", None, None, None).reason == ""


@pytest.mark.parametrize(("confidence", "width"), [(0.95, 0.02), (0.8, 0.02), (0.95, 0.01)])
def test_so_many_episodes_give_a_bound_of_that_width(confidence: float, width: float) -> None:
    """Median over 30 sets of episodes with one reward in [0, 1]; the count errs on the safe side."""
    generator = np.random.default_rng(0)
    deviation = (2 * 5 / (7**2 * 8)) ** 0.5  # of Beta(2, 5)
    count = episodes_for_width(deviation, width, confidence)
    widths = []
    for _ in range(30):
        rewards = generator.beta(2, 5, size=(count, 1))
        (bound,) = return_lower_bounds(
            rewards, discount=0.5, reward_low=0.0, reward_high=1.0, confidence=confidence, tail="absorbing"
        )
        assert bound.value is not None
        widths.append(rewards.mean() - bound.value)
    assert 0.75 * width < np.median(widths) <= width


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [((0.0, 1.0), "got 0.0"), ((1.0, -1.0), "got 1.0 and -1.0"), ((1.0, 1.0, 1.0), "confidence .* got 1.0")],
)
def test_a_width_that_no_episodes_give_is_refused(arguments: tuple[float, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        episodes_for_width(*arguments)
