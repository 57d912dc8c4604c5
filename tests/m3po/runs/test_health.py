"""The guards name the cause and stay silent over sound numbers; the warnings have two sides each."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from m3po.data.types import Segments, Transitions
from m3po.runs.health import DivergenceError, check_updates, magnitudes, warnings_of


def transitions(scale: float, reward: list[float]) -> Transitions:
    count = len(reward)
    return Transitions(
        features=torch.full((count, 3), scale),
        action=torch.full((count, 2), -0.5),
        reward=torch.tensor(reward),
        next_features=torch.full((count, 3), 2 * scale),
        not_terminal=torch.ones(count),
    )


def metrics(**changes: float) -> dict[str, Tensor]:
    values = {"critic_loss": 0.5, "policy_loss": -2.0, "q_mean": 3.0} | changes
    return {name: torch.tensor(value) for name, value in values.items()}


def test_magnitudes_are_largest_absolute_values() -> None:
    assert magnitudes(reward=torch.tensor([1.0, -2.5, 0.0])) == "reward up to 2.5"
    both = magnitudes(tokens=torch.tensor([[1.0], [12345.0]]), lengths=torch.tensor([3, 7]))
    assert both == "tokens up to 1.23e+04, lengths up to 7"


def test_magnitudes_count_what_is_not_finite_and_leave_it_out() -> None:
    values = torch.tensor([math.inf, 4.0, -math.inf, math.nan, -8.0])
    assert magnitudes(reward=values) == "reward up to 8 (3 of 5 not finite)"
    assert magnitudes(reward=torch.full((2,), math.nan)) == "reward up to nan (2 of 2 not finite)"


def test_finite_metrics_pass() -> None:
    check_updates([metrics(), metrics()], [transitions(1.0, [1.0]), transitions(1.0, [math.nan])], step=1)


def test_finite_metrics_whose_sum_overflows_pass() -> None:
    rows = [metrics(critic_loss=3e38), metrics(critic_loss=3e38)]
    assert torch.isinf(rows[0]["critic_loss"] + rows[1]["critic_loss"])
    check_updates(rows, [transitions(1.0, [1.0])] * 2, step=1)


@pytest.mark.parametrize("name", ["critic_loss", "policy_loss", "q_mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_loss_its_update_and_its_batch_are_named(name: str, value: float) -> None:
    rows = [metrics(), metrics(**{name: value}), metrics()]
    batches = [transitions(10.0, [1.0, 1.0]), transitions(20.0, [-7.0, 1.0, math.inf]), transitions(30.0, [1.0])]
    with pytest.raises(DivergenceError) as caught:
        check_updates(rows, batches, step=1234)
    assert str(caught.value) == (
        f"{name} is {value} in update 2 of 3 at real step 1234; its batch of 3: features up to 20, action up to 0.5, "
        "reward up to 7 (1 of 3 not finite), next_features up to 40, not_terminal up to 1"
    )


def test_the_first_of_several_is_the_cause() -> None:
    """Once a loss is lost, everything after it is too."""
    rows = [metrics(), metrics(policy_loss=math.nan), metrics(critic_loss=math.nan, policy_loss=math.nan)]
    with pytest.raises(DivergenceError, match=r"^policy_loss is nan in update 2 of 3 "):
        check_updates(rows, [transitions(1.0, [1.0])] * 3, step=0)


def test_opposite_infinities_do_not_hide_each_other() -> None:
    with pytest.raises(DivergenceError, match=r"^critic_loss is inf in update 1 of 1 "):
        check_updates([metrics(critic_loss=math.inf, q_mean=-math.inf)], [transitions(1.0, [1.0])], step=0)


def test_a_batch_of_segments_is_described_too() -> None:
    batch = Segments(torch.full((2, 4, 5), 6.0), torch.tensor([0, 3]), torch.tensor([1.0, -2.0]), torch.ones(2))
    expected = "its batch of 2: tokens up to 6, lengths up to 3, reward up to 2, not_terminal up to 1"
    with pytest.raises(DivergenceError, match=re.escape(expected) + "$"):
        check_updates([metrics(q_mean=math.nan)], [batch], step=0)


# Rewards of at most 2 and an entropy bonus of at most 0.5 * 3 a step: (2 + 0.5 * 3)/(1 - 0.9) = 35.
@pytest.mark.parametrize("entropy", [3.0, -3.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_q_diverges_beyond_what_can_be_earned(entropy: float, sign: int) -> None:
    def found(q_mean: float) -> list[str]:
        row = {"critic_loss": 0.5, "q_mean": sign * q_mean, "entropy": entropy, "temperature": 0.5}
        return warnings_of(row, largest_reward=2.0, discount=0.9, target_entropy=-2.0)

    assert found(34.9) == []
    (warning,) = found(35.1)
    assert warning == (
        f"Q diverges: its mean target is {sign * 35.1:.3g}, and no policy can earn more than 35 (rewards up to 2)"
    )


# As far below the target as the target is from zero, and at least one nat.
@pytest.mark.parametrize(
    ("target", "threshold"), [(-6.0, -12.0), (-1.0, -2.0), (-0.25, -1.25), (0.0, -1.0), (3.0, 0.0)]
)
def test_entropy_collapses_well_below_its_target(target: float, threshold: float) -> None:
    def found(entropy: float) -> list[str]:
        row = {"critic_loss": 0.5, "q_mean": 0.0, "entropy": entropy, "temperature": 0.1}
        return warnings_of(row, largest_reward=1.0, discount=0.9, target_entropy=target)

    assert found(threshold + 0.01) == []
    (warning,) = found(threshold - 0.01)
    assert warning == f"entropy collapse: {threshold - 0.01:.3g} nats, the target is {target:.3g}"


# No policy can earn more than (2 + 0.5 * 3)/(1 - 0.75) = 14; two critics wrong by twice that lose 2 * 0.5 * 28^2 = 784.
@pytest.mark.parametrize("entropy", [3.0, -3.0])
def test_critics_diverge_beyond_errors_of_twice_what_can_be_earned(entropy: float) -> None:
    def found(critic_loss: float) -> list[str]:
        row = {"critic_loss": critic_loss, "q_mean": 0.0, "entropy": entropy, "temperature": 0.5}
        return warnings_of(row, largest_reward=2.0, discount=0.75, target_entropy=-2.0)

    assert found(783.0) == []
    (warning,) = found(785.0)
    assert warning == (
        "critics diverge: their mean loss is 785, where errors as large as every return that can be earned, 14, "
        "make 196"
    )


def test_all_warnings_may_come_at_once() -> None:
    row = {"critic_loss": 1e9, "q_mean": 1e6, "entropy": -50.0, "temperature": 0.1}
    first, second, third = warnings_of(row, largest_reward=1.0, discount=0.95, target_entropy=-6.0)
    assert first.startswith("Q diverges: its mean target is 1e+06")
    assert second.startswith("critics diverge: their mean loss is 1e+09")
    assert third.startswith("entropy collapse: -50 nats")


@pytest.mark.parametrize("q_mean", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("entropy", [-7.0, -6.0, 4.0])
def test_a_sound_row_has_no_warnings(q_mean: float, entropy: float) -> None:
    row = {"critic_loss": 2.0, "q_mean": q_mean, "entropy": entropy, "temperature": 0.1}
    assert warnings_of(row, largest_reward=1.0, discount=0.95, target_entropy=-6.0) == []
