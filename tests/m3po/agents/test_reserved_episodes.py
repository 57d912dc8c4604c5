"""Reserved episodes: what they say about a policy, and that nothing is learned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bounds.nonnegative import nonnegative_lower
from m3po.agents import certification
from m3po.agents.m3po import M3PO
from m3po.agents.reserved_episodes import ReservedEpisodes, ReservedShare, _with_bounded_weights
from m3po.config import Config
from m3po.episodes import Trajectories, run_episodes
from m3po.networks.policy import HistoryPolicy
from m3po.train import train

ENVIRONMENT = "m3po/SwitchingPointMass-v0"
DISCOUNT = 0.8
LOW, HIGH = -0.1, 1.0
RANGE = {"discount": DISCOUNT, "reward_low": LOW, "reward_high": HIGH, "confidence": 0.95}
TINY: dict[str, Any] = {
    "total_steps": 600,
    "initial_random_steps": 100,
    "epoch_steps": 100,
    "model_updates": 20,
    "updates_per_step": 1,
    "rollouts_per_step": 4,
    "rollout_interval": 20,
    "width": 16,
    "context_size": 8,
    "ensemble_size": 2,
    "measure_episodes": 2,
    "evaluation_episodes": 2,
    "device": "cpu",
}


def training(tmp_path: Path, **settings: Any) -> M3PO:
    return M3PO(Config(run_dir=tmp_path / "run", **TINY | settings))


def episodes_of(policy: HistoryPolicy, count: int, seed: int) -> Trajectories:
    return run_episodes(ENVIRONMENT, policy, count, seed=seed, generator=torch.Generator().manual_seed(seed))


def moved(policy: HistoryPolicy, size: float) -> HistoryPolicy:
    """A policy near another."""
    other = policy.snapshot()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.fixture
def policy(tmp_path: Path) -> HistoryPolicy:
    return training(tmp_path).policy


def test_a_policy_is_bounded_by_its_own_episodes_as_by_their_returns(policy: HistoryPolicy) -> None:
    own = episodes_of(policy, 30, 1)
    reserved = ReservedEpisodes(policy.history_length)
    assert reserved.certified(policy, **RANGE) is None
    reserved.add(policy, own.first(10))
    reserved.add(policy, Trajectories(**{name: value[10:] for name, value in vars(own).items()}))
    found = reserved.certified(policy, **RANGE)
    assert found is not None
    above = own.returns(DISCOUNT) - found.trivial
    assert found.trivial == pytest.approx(LOW * (1 - DISCOUNT**100) / (1 - DISCOUNT))
    # newest first: the order matters to a bound that may stop
    assert found.value - found.trivial == pytest.approx(
        nonnegative_lower(above[::-1], 0.95, running=True)[-1], rel=1e-6
    )
    assert found.effective == pytest.approx(found.used)


def test_weighted_returns_of_another_policys_episodes_have_the_policys_mean(policy: HistoryPolicy) -> None:
    """Of a reward that is the action itself, which a shifted policy earns more of; 2,000 episodes each."""
    other = policy.snapshot()
    with torch.no_grad():
        list(other.network.parameters())[-1][..., 0] += 0.06

    def earning(episodes: Trajectories) -> Trajectories:
        return Trajectories(**vars(episodes) | {"rewards": (episodes.actions[..., 0].astype(np.float64) + 1) / 2})

    truth, old = (earning(episodes_of(*each)) for each in ((other, 2000, 1), (policy, 2000, 2)))
    reserved = ReservedEpisodes(policy.history_length)
    reserved.add(policy, old)
    ratio = reserved._log_density(other, old) - reserved.log_data_policy
    times = 0.3 ** np.arange(100)
    weighted = (times * np.exp(np.cumsum(ratio, axis=1)) * old.rewards).sum(axis=1)
    returns = truth.returns(0.3)
    error = np.hypot(returns.std(), weighted.std()) / 2000**0.5
    assert abs(weighted.mean() - returns.mean()) < 2 * error
    assert abs(old.returns(0.3).mean() - returns.mean()) > 4 * error
    found = reserved.certified(other, **RANGE | {"reward_low": 0.0, "discount": 0.3})
    assert found is not None
    assert 0.8 * returns.mean() < found.value < returns.mean()
    assert found.effective < 0.99 * found.used


def test_the_newest_episodes_answer_where_older_ones_only_dilute(policy: HistoryPolicy) -> None:
    own = episodes_of(policy, 20, 1)
    alone, both = (ReservedEpisodes(policy.history_length) for _ in range(2))
    alone.add(policy, own)
    far = moved(policy, 0.5)
    both.add(far, episodes_of(far, 20, 2))
    both.add(policy, own)
    expected, found = (each.certified(policy, **RANGE) for each in (alone, both))
    assert expected is not None
    assert found == expected
    assert found.used == 20


def test_weights_are_only_ever_lowered() -> None:
    generator = np.random.default_rng(0)
    log_data, log_policy = generator.normal(size=(2, 5, 40))
    ratio = np.cumsum(log_policy - log_data, axis=1)
    lowered = np.cumsum(_with_bounded_weights(log_policy, log_data, 3.0) - log_data, axis=1)
    assert (lowered <= np.minimum(ratio, 3.0) + 1e-12).all()
    np.testing.assert_allclose(lowered.max(axis=1), np.minimum(ratio.max(axis=1), 3.0))
    assert 0 < (ratio.max(axis=1) > 3.0).sum() < 5
    np.testing.assert_allclose(_with_bounded_weights(log_policy, log_data, 1e9), log_policy, atol=1e-12)


def test_the_split_of_the_steps_ends_with_all_of_them() -> None:
    for total, horizon, share in ((1000, 100, 0.3), (7000, 100, 0.25), (701, 7, 0.5), (500, 100, 0.0), (99, 100, 0.9)):
        split = ReservedShare(total, horizon, share)
        assert split.training_steps + horizon * split.due(split.training_steps) == total
        due = [split.due(steps) for steps in range(split.training_steps + 1)]
        assert due == sorted(due)
        assert due[0] == 0
        assert horizon * due[-1] <= share * total + 1e-6


def rows_of(run: M3PO) -> list[dict[str, Any]]:
    rows = []
    while not run.finished:
        row = run.advance()
        if row is not None:
            rows.append(row)
    return rows


def test_a_run_spends_its_steps_on_learning_and_on_reserved_episodes(tmp_path: Path) -> None:
    run = training(tmp_path, reserved_share=0.5)
    rows = rows_of(run)
    assert run.steps == 600
    assert run.environment_buffer.size == 300
    assert run.certification.reserved.count == 3
    assert [row["step"] for row in rows] == [400, 600]
    assert [row["reserved_episodes"] for row in rows] == [2, 3]
    for row in rows:
        assert row["certified_return"] >= row["trivial_return"]
        assert 1 <= row["certifying_episodes"] <= row["reserved_episodes"]


def test_nothing_that_is_learned_depends_on_a_reserved_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training(tmp_path, reserved_share=0.5, move_limit=0.5)
    rows = rows_of(plain)

    def other(env_id: str, policy: HistoryPolicy, episodes: int, **options: Any) -> Trajectories:
        found = run_episodes(env_id, policy, episodes, **options | {"seed": 12345})
        found.valid[:, 10:] = False  # and they end early
        found.rewards[:, 10:] = 0
        return found

    monkeypatch.setattr(certification, "run_episodes", other)
    changed = training(tmp_path, reserved_share=0.5, move_limit=0.5)
    changed_rows = rows_of(changed)
    assert [row["step"] for row in rows] == [row["step"] for row in changed_rows]
    assert [row["certified_return"] for row in rows] != [row["certified_return"] for row in changed_rows]
    for one, two in zip(plain.policy.network.parameters(), changed.policy.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_resumed_run_certifies_the_same(tmp_path: Path) -> None:
    whole = training(tmp_path, reserved_share=0.5, move_limit=0.2)
    rows = rows_of(whole)
    first = training(tmp_path, reserved_share=0.5, move_limit=0.2)
    found = []
    while first.steps < 450:
        row = first.advance()
        found += [] if row is None else [row]
    second = training(tmp_path, reserved_share=0.5, move_limit=0.2)
    second.load_state(first.state())
    assert second.collection.resume_episode()
    found += rows_of(second)
    for one, two in zip(rows, found, strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in two.items() if "seconds" not in k
        }


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"env_id": "Pendulum-v1", "history_length": 0}, "--reserved-share 0.5 .* Pendulum-v1 does not say"),
        ({"total_steps": 150, "initial_random_steps": 50}, "--reserved-share 0.5 of 150 steps .* episode of 100"),
        ({"initial_random_steps": 400}, "--reserved-share 0.5 leaves 300 .* --initial-random-steps 400"),
    ],
)
def test_what_cannot_be_reserved_is_refused(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        train(Config(run_dir=tmp_path / "run", **TINY | settings, reserved_share=0.5))
    assert not (tmp_path / "run").exists()
