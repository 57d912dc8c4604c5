"""Maximum likelihood: what is weighted, what is held out, what is kept, and that it recovers a known system."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from m3po.agents.model_training import BOUND_WEIGHT, choose_elites_by_loss, explained_share, train_model
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer, EnvironmentBuffers
from m3po.data.types import Segments, Windows
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.runs.health import DivergenceError
from tests.m3po.small import ACTION, CPU, OBSERVATION, episodes_of, filled_buffer, first_gradient


def settings(**changes: Any) -> Config:
    """Small, with no weight decay, no forgetting and no extra share of episode starts."""
    return Config(
        run_dir=Path("unused"),
        **{
            "model_weight_decay": 0.0,
            "forgetting": 0.0,
            "start_share": 0.0,
            "model_batch_size": 32,
            "history_length": 3,
            **changes,
        },
    )


def fresh_model(seed: int = 0, members: int = 2, history_length: int = 3, width: int = 8) -> EnsembleModel:
    torch.manual_seed(seed)
    return EnsembleModel(ContextEncoder(OBSERVATION, ACTION, history_length, 5), ACTION, members, width, 1)


def optimiser(model: EnsembleModel, rate: float = 1e-3) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)


def train(model: EnsembleModel, buffer: EnvironmentBuffer, config: Config, seed: int = 0) -> dict[str, float]:
    return train_model(
        model, optimiser(model, config.model_learning_rate), buffer, config, torch.Generator().manual_seed(seed)
    )


def test_one_step_descends_the_loss_weighted_by_each_members_bootstrap_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of (1/N) sum_n sum_b w_nb NLL_b(n) + 0.01 sum (high - low), term by term."""
    buffer = filled_buffer(episodes_of([12, 9, 15], seed=0), 3, seed=1)
    assert (buffer.member_weights[:, 0] != buffer.member_weights[:, 1]).any()
    model = fresh_model()
    twin = copy.deepcopy(model)
    config = settings(model_updates=1)
    drawn: list[Tensor] = []
    segments = EnvironmentBuffers.segments

    def spy(self: EnvironmentBuffers, indices: Tensor) -> Segments:
        drawn.append(indices[0])
        return segments(self, indices)

    monkeypatch.setattr(EnvironmentBuffers, "segments", spy)
    stepped = optimiser(model)
    train_model(model, stepped, buffer, config, torch.Generator().manual_seed(0))
    # What judges the model, and the one batch.
    assert len(drawn) == 2
    batch = drawn[1]
    assert len(batch) == config.model_batch_size

    twin.encoder.fit(buffer.tokens[: buffer.size])
    twin.target_normaliser.fit(buffer.targets(torch.arange(buffer.size)))
    loss = BOUND_WEIGHT * (twin.log_variance_high - twin.log_variance_low).sum()
    for index in batch.tolist():
        one = torch.tensor([index])
        features = twin.encoder(buffer.windows(one))
        losses = twin.member_losses(features, buffer.actions(one), buffer.targets(one))
        for member in range(2):
            loss = loss + buffer.member_weights[index, member] * losses[member, 0] / len(batch)
    loss.backward()
    for (name, parameter), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(first_gradient(stepped, parameter), expected.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_member_with_weight_zero_learns_nothing() -> None:
    buffer = filled_buffer(episodes_of([20, 20], seed=0), 3)
    buffer.member_weights[:, 0] = 0.0
    buffer.member_weights[:, 1] = 1.0
    model = fresh_model()
    before = copy.deepcopy(model)
    train(model, buffer, settings(model_updates=20))
    for parameter, old in zip(model.heads.parameters(), before.heads.parameters(), strict=True):
        assert torch.equal(parameter[0], old[0])
        assert not torch.equal(parameter[1], old[1])


def test_held_out_transitions_are_never_trained_on_and_always_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = filled_buffer(episodes_of([20, 20], seed=0), 3, holdout=0.4)
    held_out = set(buffer.held_out.nonzero()[:, 0].tolist())
    assert 5 < len(held_out) < 35
    calls: list[set[int]] = []
    windows = EnvironmentBuffers.windows

    def spy(self: EnvironmentBuffers, indices: Tensor) -> Windows:
        calls.append(set(indices[0].tolist()))
        return windows(self, indices)

    monkeypatch.setattr(EnvironmentBuffers, "windows", spy)
    train(fresh_model(), buffer, settings(model_updates=60, model_patience=100, start_share=0.3))
    judges, *trained = calls
    assert judges == held_out
    assert set().union(*trained) == set(range(40)) - held_out


def test_start_share_adds_steps_with_a_short_past(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = filled_buffer(episodes_of([40, 40], seed=0), 3, holdout=0.2)
    drawn: list[Tensor] = []
    windows = EnvironmentBuffers.windows

    def spy(self: EnvironmentBuffers, indices: Tensor) -> Windows:
        drawn.append(windows(self, indices).lengths[0])
        return windows(self, indices)

    monkeypatch.setattr(EnvironmentBuffers, "windows", spy)
    train(fresh_model(), buffer, settings(model_updates=40, model_patience=100, start_share=0.5))
    lengths = torch.cat(drawn[1:])  # the first are the judges
    assert len(lengths) == 40 * 32
    training = ~buffer.held_out
    natural = ((torch.arange(80) - buffer.first)[training] < 3).double().mean().item()
    expected = 0.5 + 0.5 * natural
    share = (lengths < 3).double().mean().item()
    assert share == pytest.approx(expected, abs=4 * (0.5 * natural * (1 - natural) / len(lengths)) ** 0.5)


def test_forgetting_leaves_at_least_one_step_and_every_shorter_past_is_as_likely() -> None:
    """A past of n steps is cut to 1..n, each with chance 1/n, with the chance ``forgetting``; no past stays none."""
    buffer = filled_buffer(episodes_of([40, 40], seed=0), 3)
    counts = {}
    for forgetting in (0.0, 0.5):
        model = fresh_model()
        seen: list[Windows] = []
        model.encoder.register_forward_pre_hook(
            lambda _, windows, seen=seen: seen.append(windows[0]) if torch.is_grad_enabled() else None
        )
        train(model, buffer, settings(model_updates=60, model_patience=100, forgetting=forgetting))
        lengths = torch.cat([windows.lengths[0] for windows in seen])
        counts[forgetting] = torch.bincount(lengths, minlength=4).double() / len(lengths)
    # Both trainings draw the same transitions.
    before, after = counts[0.0], counts[0.5]
    expected = torch.stack(
        [
            before[0],
            before[1] + before[2] * 0.5 / 2 + before[3] * 0.5 / 3,
            before[2] * (0.5 + 0.5 / 2) + before[3] * 0.5 / 3,
            before[3] * (0.5 + 0.5 / 3),
        ]
    )
    assert ((after - expected).abs() < 4 * (0.25 / (60 * 32)) ** 0.5).all(), (after, expected)
    assert after[0] == pytest.approx(before[0])


@pytest.mark.parametrize("updates", [1, 10, 20, 33])
def test_model_updates_is_a_limit(updates: int) -> None:
    buffer = filled_buffer(episodes_of([20, 20], seed=0), 3)
    metrics = train(fresh_model(), buffer, settings(model_updates=updates, model_patience=1000))
    assert metrics["model_updates"] == updates


def test_training_stops_when_patience_ends_and_keeps_the_best() -> None:
    """Pure noise with many updates: the held-out loss rises in the end, and the parameters before that are kept."""
    buffer = filled_buffer(episodes_of([30, 30], seed=0), 3, holdout=0.4)
    model = fresh_model(width=32)
    config = settings(model_updates=2000, model_patience=3, model_learning_rate=1e-2)
    metrics = train(model, buffer, config)
    assert metrics["model_updates"] < 2000
    held_out = buffer.held_out.nonzero()[:, 0]
    assert choose_elites_by_loss(model, buffer.segments(held_out)) == pytest.approx(
        metrics["model_held_out_loss"], abs=1e-6
    )

    # Without patience the same training goes on from there, and the best it meets is still what it keeps.
    longer = fresh_model(width=32)
    later = train(longer, buffer, settings(model_updates=400, model_patience=1000, model_learning_rate=1e-2))
    assert later["model_updates"] == 400
    assert later["model_held_out_loss"] <= metrics["model_held_out_loss"]
    assert choose_elites_by_loss(longer, buffer.segments(held_out)) == pytest.approx(
        later["model_held_out_loss"], abs=1e-6
    )


def test_the_explained_share_is_that_of_the_elites_mean() -> None:
    buffer = filled_buffer(episodes_of([20, 20], seed=0), 3)
    model = fresh_model()
    segments = buffer.segments(torch.arange(30))
    windows, actions, targets = segments.examples(model.encoder.observation_size)
    model.target_normaliser.fit(targets * 3)
    model.elite = torch.tensor([1])
    means, _ = model.elite_moments(model.encoder(windows), actions)
    normaliser = model.target_normaliser
    predicted = means.mean(dim=0) * normaliser.std + normaliser.mean
    left = ((targets - predicted) ** 2).sum(dim=0) / ((targets - targets.mean(dim=0)) ** 2).sum(dim=0)
    assert explained_share(model, segments) == pytest.approx((1 - left).mean().item(), rel=1e-4)


def test_a_model_that_learned_explains_more_and_what_never_varies_counts_for_nothing() -> None:
    buffer = filled_buffer(episodes_of([40, 40], seed=0), 3)
    model = fresh_model(width=32)
    held_out = buffer.segments(buffer.held_out.nonzero()[:, 0])
    before = explained_share(model, held_out)
    metrics = train(model, buffer, settings(model_updates=200, model_patience=1000, model_learning_rate=1e-2))
    assert metrics["model_explained"] == pytest.approx(explained_share(model, held_out))
    assert metrics["model_explained"] > before
    same_reward = dataclasses.replace(held_out, reward=held_out.reward[:1].expand_as(held_out.reward))
    assert math.isfinite(explained_share(model, same_reward))
    still = dataclasses.replace(same_reward, tokens=held_out.tokens[:1].expand_as(held_out.tokens))
    assert math.isnan(explained_share(model, still))


def test_the_judged_loss_is_that_of_the_mixture() -> None:
    buffer = filled_buffer(episodes_of([6], seed=0), 3)
    model = fresh_model()
    indices = torch.tensor([1, 4])
    features = model.encoder(buffer.windows(indices))
    losses = model.member_losses(features, buffer.actions(indices), buffer.targets(indices))
    expected = -(0.5 * (torch.exp(-losses[0]) + torch.exp(-losses[1]))).log().mean()
    assert choose_elites_by_loss(model, buffer.segments(indices)) == pytest.approx(expected.item(), rel=1e-5)


def test_normalisers_are_fitted_to_the_data() -> None:
    buffer = filled_buffer(episodes_of([20, 20], seed=0), 3)
    model = fresh_model()
    train(model, buffer, settings(model_updates=1))
    targets = buffer.targets(torch.arange(40))
    torch.testing.assert_close(model.target_normaliser.mean, targets.mean(dim=0))
    torch.testing.assert_close(model.encoder.token_normaliser.std, buffer.tokens.std(dim=0, correction=0))


@pytest.mark.parametrize("held_out", [True, False])
def test_nothing_to_train_on_or_nothing_held_out_is_refused(held_out: bool) -> None:
    buffer = filled_buffer(episodes_of([5], seed=0), 3)
    buffer.held_out[:] = held_out
    with pytest.raises(ValueError, match="too few real transitions to train the model: 5"):
        train(fresh_model(), buffer, settings())


def test_transitions_that_are_not_numbers_are_refused() -> None:
    buffer = filled_buffer(episodes_of([20], seed=0), 3)
    buffer.rewards[buffer.held_out.nonzero()[0, 0]] = float("nan")
    named = (
        r"held-out loss is nan after 0 of its updates, on 20 real transitions; targets up to .* \(1 of \d+ not finite"
    )
    with pytest.raises(DivergenceError, match=named):
        train(fresh_model(), buffer, settings())


@pytest.mark.parametrize("history_length", [0, 2])
def test_a_linear_gaussian_system_is_recovered(history_length: int) -> None:
    """o' = o + A o + B a + c + noise, r = w o + v a + noise: means and standard deviations on fresh points."""
    generator = torch.Generator().manual_seed(0)
    size, noise = OBSERVATION + 1, torch.tensor([0.2, 0.25, 0.3, 0.2])
    of_observation = 0.3 * torch.randn(size, OBSERVATION, generator=generator)
    of_action = torch.randn(size, ACTION, generator=generator)
    shift = torch.tensor([0.5, -1.0, 0.0, 2.0])

    def true_mean(observation: Tensor, action: Tensor) -> Tensor:
        return observation @ of_observation.T + action @ of_action.T + shift

    count, steps = 2000, 2
    buffer = EnvironmentBuffer(
        count, OBSERVATION, ACTION, history_length=history_length, members=2, holdout=0.1, device=CPU
    )
    observation = torch.randn(count, OBSERVATION, generator=generator)
    action = 2 * torch.rand(count, ACTION, generator=generator) - 1
    target = true_mean(observation, action) + noise * torch.randn(count, size, generator=generator)
    for i in range(count):
        buffer.add(
            observation[i],
            action[i],
            target[i, -1].item(),
            observation[i] + target[i, :-1],
            terminated=False,
            starts_episode=i % steps == 0,
            generator=generator,
        )
    model = fresh_model(members=2, history_length=history_length, width=24)
    config = settings(
        model_updates=500, model_patience=100, model_batch_size=256, model_learning_rate=5e-3,
        history_length=history_length,
    )  # fmt: skip
    train(model, buffer, config)

    fresh = 500
    observation = torch.randn(fresh, OBSERVATION, generator=generator)
    action = 2 * torch.rand(fresh, ACTION, generator=generator) - 1
    following, reward = [], []
    windows = Windows.initial(observation, history_length, ACTION)
    features = model.encoder(windows)
    with torch.no_grad():
        for _ in range(300):
            drawn = model.sample(features, observation, action, generator)
            following.append(drawn[0])
            reward.append(drawn[1])
    samples = torch.cat([torch.stack(following) - observation, torch.stack(reward)[..., None]], dim=-1)
    error = (samples.mean(dim=0) - true_mean(observation, action)).square().mean(dim=0).sqrt()
    assert (error < 0.35 * noise).all(), error / noise
    spread = samples.std(dim=0).median(dim=0).values
    assert ((spread / noise - 1).abs() < 0.12).all(), spread / noise


def test_the_reach_of_samples_is_fitted_to_observations_and_rewards() -> None:
    buffer = filled_buffer(episodes_of([20, 20], seed=0), 3)
    model = fresh_model()
    train(model, buffer, settings(model_updates=1))
    following = buffer.observations[:40] + buffer.targets(torch.arange(40))[:, :-1]
    seen = torch.cat([following, buffer.rewards[:40, None]], dim=1)
    width = seen.amax(dim=0) - seen.amin(dim=0)
    torch.testing.assert_close(model.reach_low, seen.amin(dim=0) - width)
    torch.testing.assert_close(model.reach_high, seen.amax(dim=0) + width)
