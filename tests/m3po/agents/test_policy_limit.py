"""Policies are kept near what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from m3po.agents.policy_limit import MovePenalty, gaussian_divergence, limit_move
from m3po.data.types import Windows
from m3po.errors import gaussian_tv_samples
from m3po.networks.policy import GaussianPolicy, HistoryPolicy
from tests.m3po.agents.test_reserved_episodes import moved, rows_of, training


@pytest.fixture
def policy(tmp_path: Path) -> HistoryPolicy:
    return training(tmp_path).policy


def histories(policy: HistoryPolicy, count: int, seed: int) -> Windows:
    generator = torch.Generator().manual_seed(seed)
    windows = Windows.initial(torch.randn(count, 4, generator=generator), policy.history_length, 2)
    for _ in range(4):
        windows = windows.push(
            torch.rand(count, 2, generator=generator) * 2 - 1, torch.randn(count, 4, generator=generator)
        )
    return windows


def test_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, other_mean, other_log_std = torch.randn(4, 50, 3, generator=generator)
    expected = kl_divergence(
        Independent(Normal(mean, log_std.exp()), 1), Independent(Normal(other_mean, other_log_std.exp()), 1)
    )
    torch.testing.assert_close(gaussian_divergence(mean, log_std, other_mean, other_log_std), expected)


def test_total_variation_of_equal_widths_is_the_known_one() -> None:
    """2 Phi(|d|/2) - 1 for means d standard deviations apart; 20,000 pairs, 8 draws each."""
    mean = torch.zeros(20000, 1)
    for distance in (0.0, 0.3, 2.0):
        found = (
            gaussian_tv_samples((mean, mean), (mean + distance, mean), torch.Generator().manual_seed(0)).mean().item()
        )
        expected = 2 * Normal(0.0, 1.0).cdf(torch.tensor(distance / 2)).item() - 1
        assert found == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("limit", [0.05, 0.2])
def test_a_policy_that_moved_too_far_is_brought_back_to_the_limit(policy: HistoryPolicy, limit: float) -> None:
    reference, learned = policy, moved(policy, 0.3)
    before = [each.clone() for each in reference.network.parameters()]
    kept, held_out = histories(policy, 2000, 1), histories(policy, 1000, 2)
    move = limit_move(learned, reference, kept, held_out, limit, torch.Generator().manual_seed(0))
    assert move.wanted > 0.4
    assert 0.9 * limit < move.taken <= limit
    assert 0 < move.share < 1
    assert move.steps == 0
    found = gaussian_tv_samples(
        reference.distribution(held_out), learned.distribution(held_out), torch.Generator().manual_seed(9), draws=40
    )
    assert found.mean().item() == pytest.approx(move.taken, abs=0.01)
    assert all(torch.equal(*pair) for pair in zip(before, reference.network.parameters(), strict=True))


def test_the_network_makes_up_for_an_encoder_that_moved(policy: HistoryPolicy) -> None:
    reference, learned = policy, policy.snapshot()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learned.encoder.parameters():
            parameter.add_(2 * torch.randn(parameter.shape, generator=generator))
    encoder = [each.clone() for each in learned.encoder.parameters()]
    kept, held_out = histories(policy, 2000, 1), histories(policy, 1000, 2)
    move = limit_move(learned, reference, kept, held_out, 0.02, generator)
    assert move.wanted > 0.04
    assert move.steps > 0
    assert move.taken <= 0.02
    found = gaussian_tv_samples(
        reference.distribution(held_out), learned.distribution(held_out), torch.Generator().manual_seed(9), draws=40
    )
    assert found.mean().item() == pytest.approx(move.taken, abs=0.01)
    assert all(torch.equal(*pair) for pair in zip(encoder, learned.encoder.parameters(), strict=True))


def test_a_policy_within_the_limit_is_left_alone(policy: HistoryPolicy) -> None:
    learned = moved(policy, 0.01)
    before = [each.clone() for each in learned.network.parameters()]
    windows = histories(policy, 500, 1)
    move = limit_move(learned, policy, windows, windows, 0.5, torch.Generator().manual_seed(0))
    assert (move.share, move.steps) == (1.0, 0)
    assert 0 < move.wanted == move.taken < 0.5
    assert all(torch.equal(*pair) for pair in zip(before, learned.network.parameters(), strict=True))


def test_the_penalty_finds_the_weight_that_holds_a_policy_where_it_should_be() -> None:
    """A policy that is pulled towards u = 1 by a constant force ends at the wanted divergence from where it was."""
    torch.manual_seed(0)
    policy = GaussianPolicy(3, 1, 32, 2)
    limit = 0.2
    penalty = MovePenalty.within(policy, limit)
    penalty.follow(policy)
    features = torch.randn(256, 3)
    start = [each.detach() for each in policy(features)]
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(1000):
        optimiser.zero_grad()
        (3 * (policy(features)[0] - 1).square().mean() + penalty(policy, features)).backward()
        optimiser.step()
    divergence = gaussian_divergence(*start, *policy(features)).mean().item()
    assert divergence == pytest.approx(2 * limit**2, rel=0.2)
    assert gaussian_tv_samples((start[0], start[1]), policy(features), torch.Generator().manual_seed(0)).mean() < limit


def test_every_epoch_of_a_limited_run_stays_within_the_limit(tmp_path: Path) -> None:
    settings = {"updates_per_step": 2, "learning_rate": 5e-3, "total_steps": 200}
    free = rows_of(training(tmp_path, move_limit=1.0, **settings))
    limited = rows_of(training(tmp_path, move_limit=0.05, **settings))
    assert max(row["move"] for row in free) > 0.1
    assert max(row["move"] for row in limited) <= 0.05


def test_a_run_is_taken_back_to_the_limit_where_the_penalty_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MovePenalty, "__call__", lambda self, policy, features, valid: 0 * features.sum())
    settings = {"updates_per_step": 2, "learning_rate": 5e-3, "total_steps": 200}
    for row in rows_of(training(tmp_path, move_limit=0.05, **settings)):
        assert row["move"] <= 0.05 < row["move_wanted"]
        assert 0 <= row["move_share"] < 1
