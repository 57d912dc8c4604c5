"""Branched rollouts against one-row-at-a-time rollouts over python lists, with the same random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3po.agents.rollout import Terminated, model_steps, never_terminated
from m3po.data.types import Windows
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import HistoryPolicy
from tests.m3po.small import ACTION, Episode, encoder, episodes_of, filled_buffer, model, policy_network


def slow_rollouts(
    built: EnsembleModel,
    policy: HistoryPolicy,
    starts: list[Episode],
    rollout_length: int,
    generator: torch.Generator,
    terminated: Terminated,
) -> list[dict[int, dict[str, Any]]]:
    """Per step, for each rollout that still runs, what happened. ``starts`` are whole pasts; each ends at its o_t."""
    histories = {row: Episode(list(e.observations), list(e.actions), []) for row, e in enumerate(starts)}
    steps: list[dict[int, dict[str, Any]]] = []
    for _ in range(rollout_length):
        alive = list(histories)
        if not alive:
            break
        action_noise = torch.randn(len(alive), ACTION, generator=generator)
        members = torch.randint(built.members, (len(alive),), generator=generator)
        noise = torch.randn(len(alive), len(built.target_normaliser.mean), generator=generator)
        happened: dict[int, dict[str, Any]] = {}
        for place, row in enumerate(alive):
            history = histories[row]
            features = encode(built.encoder, history)
            mean, log_std = policy.network(features)
            action = torch.tanh(mean[0] + torch.exp(log_std[0]) * action_noise[place])
            means, log_variances = built.normalised_moments(features, action[None])
            member = members[place]
            drawn = means[member, 0] + torch.exp(0.5 * log_variances[member, 0]) * noise[place]
            drawn = drawn * built.target_normaliser.std + built.target_normaliser.mean
            following = torch.tensor(history.observations[-1]) + drawn[:-1]
            ended = bool(terminated(following[None])[0])
            history.actions.append(action.tolist())
            history.observations.append(following.tolist())
            happened[row] = {
                "features": features[0],
                "action": action,
                "reward": drawn[-1],
                "next_features": encode(built.encoder, history)[0],
                "not_terminal": torch.tensor(0.0 if ended else 1.0),
            }
            if ended:
                del histories[row]
        steps.append(happened)
    return steps


def encode(built: ContextEncoder, history: Episode) -> Tensor:
    """Features of a whole past, through a window of one row."""
    tokens, observation = history.window(len(history.actions), built.history_length)
    padded = torch.zeros(1, built.history_length, built.token_normaliser.mean.numel())
    if tokens:
        padded[0, -len(tokens) :] = torch.tensor(tokens)
    return built(Windows(padded, torch.tensor([len(tokens)]), torch.tensor([observation])))


def past_of(episode: Episode, t: int) -> Episode:
    return Episode(episode.observations[: t + 1], episode.actions[:t], [])


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    history_length=st.integers(0, 4),
    rollout_length=st.integers(1, 6),
    threshold=st.sampled_from([float("inf"), 1.5, 0.5, -10.0]),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_branched_rollouts_are_the_slow_rollouts(
    lengths: list[int], history_length: int, rollout_length: int, threshold: float, seed: int
) -> None:
    def terminated(observation: Tensor) -> Tensor:
        return observation[:, 0] > threshold

    episodes = episodes_of(lengths, seed)
    built = model(encoder(history_length, seed=seed), seed=seed + 1)
    policy = HistoryPolicy(built.encoder, policy_network(built.encoder))
    starts = filled_buffer(episodes, history_length).windows(torch.arange(sum(lengths)))
    pasts = [past_of(episode, t) for episode in episodes for t in range(len(episode.rewards))]
    slow = slow_rollouts(built, policy, pasts, rollout_length, torch.Generator().manual_seed(seed), terminated)
    fast = list(
        model_steps(built, policy, starts, rollout_length, torch.Generator().manual_seed(seed), terminated=terminated)
    )
    assert len(fast) == len(slow)
    for step, happened in zip(fast, slow, strict=True):
        assert step.rows.tolist() == list(happened)
        for name in ("features", "action", "reward", "next_features", "not_terminal"):
            expected = torch.stack([each[name] for each in happened.values()])
            torch.testing.assert_close(getattr(step.transitions, name), expected, rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(built.encoder(step.windows), step.transitions.features, rtol=1e-5, atol=1e-5)
        again = built.encoder.transitions(step.segments())
        for name in ("features", "action", "reward", "next_features", "not_terminal"):
            torch.testing.assert_close(getattr(again, name), getattr(step.transitions, name), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_terminated_rollouts_are_marked_and_dropped_and_others_go_on() -> None:
    """The step that ends a rollout is yielded once, with not_terminal 0; nothing follows it."""
    built = model(encoder())
    policy = HistoryPolicy(built.encoder, policy_network(built.encoder))
    starts = filled_buffer(episodes_of([40], seed=0), 3).windows(torch.arange(40))
    steps = list(
        model_steps(
            built, policy, starts, 6, torch.Generator().manual_seed(0), lambda observation: observation[:, 0] > 1
        )
    )
    ended: set[int] = set()
    for step in steps:
        rows = step.rows.tolist()
        assert not ended & set(rows)
        over = step.windows.push(step.transitions.action, observations_of(built, step.transitions.next_features))
        expected = (over.observation[:, 0] <= 1).float()
        assert torch.equal(step.transitions.not_terminal, expected)
        ended |= {row for row, keeps in zip(rows, expected.tolist(), strict=True) if keeps == 0}
    assert 0 < len(ended) < 40


def observations_of(built: EnsembleModel, features: Tensor) -> Tensor:
    """The observation part of features, back in the environment's units."""
    normaliser = built.encoder.observation_normaliser
    return features[:, : len(normaliser.mean)] * normaliser.std + normaliser.mean


def test_truncation_is_not_termination() -> None:
    """Rollouts that stop at k, or start at the last step before a time limit, still bootstrap."""
    built = model(encoder())
    policy = HistoryPolicy(built.encoder, policy_network(built.encoder))
    buffer = filled_buffer(episodes_of([5, 5], seed=0), 3)
    starts = buffer.windows(torch.tensor([4, 9]))
    steps = list(model_steps(built, policy, starts, 3, torch.Generator().manual_seed(0)))
    assert len(steps) == 3
    assert all(torch.equal(step.transitions.not_terminal, torch.ones(2)) for step in steps)
    assert not never_terminated(starts.observation).any()


@pytest.mark.parametrize("rollout_length", [0, -3])
def test_rollout_length_below_one_is_named(rollout_length: int) -> None:
    built = model(encoder())
    policy = HistoryPolicy(built.encoder, policy_network(built.encoder))
    starts = filled_buffer(episodes_of([5], seed=0), 3).windows(torch.arange(5))
    with pytest.raises(ValueError, match=f"rollout_length must be >= 1, got {rollout_length}"):
        next(iter(model_steps(built, policy, starts, rollout_length, torch.Generator())))


@torch.no_grad()
def test_a_policy_with_its_own_encoder_acts_on_its_own_encodings() -> None:
    built, other = model(encoder()), encoder(seed=7)
    policy = HistoryPolicy(other, policy_network(other))
    starts = filled_buffer(episodes_of([5], seed=0), 3).windows(torch.arange(5))
    steps = list(model_steps(built, policy, starts, 2, torch.Generator().manual_seed(3)))
    windows = starts
    generator = torch.Generator().manual_seed(3)
    for step in steps:
        action, _ = policy.act(windows, generator)
        torch.testing.assert_close(step.transitions.action, action)
        torch.testing.assert_close(step.transitions.features, built.encoder(windows), rtol=1e-5, atol=1e-5)
        following, _ = built.sample(built.encoder(windows), windows.observation, action, generator)
        torch.testing.assert_close(step.next_observation, following, rtol=1e-4, atol=1e-4)
        windows = windows.push(action, step.next_observation)


def test_rollouts_carry_no_gradient() -> None:
    built = model(encoder())
    policy = HistoryPolicy(built.encoder, policy_network(built.encoder))
    starts = filled_buffer(episodes_of([5], seed=0), 3).windows(torch.arange(5))
    (step,) = model_steps(built, policy, starts, 1, torch.Generator().manual_seed(0))
    assert not step.transitions.next_features.requires_grad
    assert not step.transitions.reward.requires_grad
