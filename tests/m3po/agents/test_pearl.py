"""PEARL's core against direct computations, and its training from end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from m3po.agents.pearl import (
    CHUNK,
    LatentEncoder,
    LatentPolicy,
    Pearl,
    PearlGroup,
    chunk_starts,
    divergence_from_prior,
    latent_transitions,
    product_of_gaussians,
)
from m3po.agents.sac import critic_loss, soft_target
from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer, drawn
from m3po.data.types import Stretches, side_by_side
from m3po.networks.policy import GaussianPolicy
from m3po.train import train
from tests.m3po import small
from tests.m3po.small import ACTION, OBSERVATION, episodes_of, filled_buffer, first_gradient, random_windows

LIMIT, LATENT = 3, 2


def encoder(seed: int = 0) -> LatentEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = LatentEncoder(OBSERVATION, ACTION, LIMIT, LATENT, 8, 1)
        built.fit(2 * torch.randn(50, 2 * OBSERVATION + ACTION) + 0.5)
    return built


def training_of(kl_weight: float) -> tuple[Pearl, PearlGroup]:
    """On the point mass, after 30 random steps."""
    changes: dict[str, Any] = {"kl_weight": kl_weight, "learning_rate": 1e-2, "batch_size": 64}
    built = Pearl(Config(run_dir=Path("unused"), **TINY | changes))
    group = PearlGroup([built])
    for _ in range(30):
        group.collect_step(random=True)
    group.begin_epoch()
    return built, group


def drawn_chunks(buffer: EnvironmentBuffer, count: int, generator: torch.Generator) -> Stretches:
    """Of one run."""
    return buffer.stretches(drawn(chunk_starts(buffer), count, generator), buffer.history_length, CHUNK)


def chunks_from(training: Pearl) -> Stretches:
    return drawn_chunks(training.environment_buffer, 16, torch.Generator().manual_seed(0))


def updated(group: PearlGroup, chunks: Stretches) -> dict[str, Tensor]:
    """What an update of a run on its own reports."""
    return {name: value[0] for name, value in group.update(side_by_side([chunks])).items()}


def test_the_product_of_gaussians_is_the_normalised_product_of_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4, 5, 1, generator=generator, dtype=torch.float64)
    variance = 0.2 + torch.rand(4, 5, 1, generator=generator, dtype=torch.float64)
    used = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [0, 1, 0, 1, 0]], dtype=torch.bool)
    product_mean, product_variance = product_of_gaussians(mean, variance, used)
    grid = np.linspace(-8, 8, 20001)
    for row in range(4):
        density = np.ones_like(grid)
        for place in range(5):
            if used[row, place]:
                density *= stats.norm.pdf(grid, mean[row, place, 0], math.sqrt(variance[row, place, 0]))
        density /= integrate.simpson(density, x=grid)
        first = integrate.simpson(grid * density, x=grid)
        second = integrate.simpson((grid - first) ** 2 * density, x=grid)
        assert product_mean[row, 0].item() == pytest.approx(first, abs=1e-9)
        assert product_variance[row, 0].item() == pytest.approx(second, abs=1e-9)


def test_without_a_factor_the_product_is_the_prior() -> None:
    mean, variance = torch.full((2, 3, 2), 7.0), torch.full((2, 3, 2), 0.1)
    used = torch.tensor([[False, False, False], [False, False, True]])
    product_mean, product_variance = product_of_gaussians(mean, variance, used)
    torch.testing.assert_close(product_mean, torch.tensor([[0.0, 0.0], [7.0, 7.0]]))
    torch.testing.assert_close(product_variance, torch.tensor([[1.0, 1.0], [0.1, 0.1]]))


def test_the_divergence_from_the_prior_is_its_integral() -> None:
    mean, variance = torch.tensor([[0.7, -1.2]]), torch.tensor([[0.3, 2.0]])
    expected = 0.0
    for m, v in zip(mean[0].tolist(), variance[0].tolist(), strict=True):
        q = stats.norm(m, math.sqrt(v))
        expected += integrate.quad(lambda z, q=q: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), -12, 12)[0]
    assert divergence_from_prior(mean, variance).item() == pytest.approx(expected, abs=1e-6)
    assert divergence_from_prior(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0.0


def direct_posterior(built: LatentEncoder, tokens: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Factor by factor, in a loop."""
    precision, weighted = torch.zeros(LATENT), torch.zeros(LATENT)
    for token in tokens:
        normalised = built.token_normaliser(torch.tensor(token))
        mean, raw = built.factors(normalised[None])[0, 0].chunk(2)
        variance = torch.log1p(torch.exp(raw))
        precision, weighted = precision + 1 / variance, weighted + mean / variance
    if not tokens:
        return torch.zeros(LATENT), torch.ones(LATENT)
    return weighted / precision, 1 / precision


def test_every_step_of_a_chunk_has_the_posterior_of_its_own_history() -> None:
    episodes = episodes_of([1, 6, 9], seed=3)
    buffer = filled_buffer(episodes, LIMIT)
    built = encoder()
    chunks = drawn_chunks(buffer, 60, torch.Generator().manual_seed(0))
    mean, variance = built.posteriors(chunks)
    places = [(episode, t) for episode in range(3) for t in range(len(episodes[episode].rewards))]
    seen = set()
    for n, j in chunks.used[:, LIMIT:].nonzero().tolist():
        reward = chunks.reward[n, j].item()
        ((episode, t),) = [p for p in places if episodes[p[0]].rewards[p[1]] == pytest.approx(reward, abs=1e-7)]
        tokens, observation = episodes[episode].window(t, LIMIT)
        expected_mean, expected_variance = direct_posterior(built, tokens)
        torch.testing.assert_close(mean[n, j], expected_mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(variance[n, j], expected_variance, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(chunks.tokens[n, LIMIT + j, :OBSERVATION], torch.tensor(observation))
        seen.add((episode, t))
    assert seen == set(places)


def test_the_window_of_a_step_gives_the_same_posterior_when_acting() -> None:
    built = encoder()
    windows = random_windows(20, LIMIT)
    mean, variance = built.posterior(windows.tokens, windows.lengths)
    for row in range(20):
        length = int(windows.lengths[row])
        expected = direct_posterior(built, windows.tokens[row, LIMIT - length :].tolist())
        torch.testing.assert_close(mean[row], expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(variance[row], expected[1], atol=1e-5, rtol=1e-5)


def test_all_real_steps_are_drawn_equally_often() -> None:
    buffer = filled_buffer(episodes_of([3, 10, 4], seed=5), LIMIT)
    chunks = drawn_chunks(buffer, 6000, torch.Generator().manual_seed(0))
    # Five chunks, of 3, 4 + 4 + 2 and 4 steps: each is drawn 1,200 times on average, standard deviation 31.
    rewards = chunks.reward[chunks.used[:, LIMIT:]]
    counts = torch.stack([(rewards == value).sum() for value in buffer.rewards[: buffer.size]])
    assert (counts - 1200).abs().max() < 5 * 31


def test_a_terminated_step_and_only_it_is_terminal() -> None:
    buffer = filled_buffer(episodes_of([6], seed=2), LIMIT)
    buffer.terminated[5] = True
    chunks = drawn_chunks(buffer, 40, torch.Generator().manual_seed(0))
    ended = chunks.reward == buffer.rewards[5]
    used = chunks.used[:, LIMIT:]
    assert ended[used].any()
    torch.testing.assert_close(chunks.not_terminal[used], (~ended)[used].float())


def chunks_of(count: int = 16) -> Stretches:
    return drawn_chunks(filled_buffer(episodes_of([9, 8], seed=4), LIMIT), count, torch.Generator().manual_seed(0))


def test_both_ends_of_a_transition_share_z_and_only_the_first_teaches_the_encoder() -> None:
    built, chunks = encoder(), chunks_of()
    used = chunks.used[:, LIMIT:]
    batch, _, _ = latent_transitions(built, chunks, torch.Generator().manual_seed(1))
    latent, following = batch.features[:, OBSERVATION:], batch.next_features[:, OBSERVATION:]
    torch.testing.assert_close(latent, following, rtol=0, atol=0)
    assert latent.requires_grad
    assert not following.requires_grad
    mean, variance = built.posteriors(chunks)
    standardised = ((latent - mean[used]) / variance[used].sqrt()).detach()
    assert 0.6 < standardised.std().item() < 1.4
    step = chunks.tokens[:, LIMIT:][used]
    normalise = built.observation_normaliser
    torch.testing.assert_close(batch.features[:, :OBSERVATION], normalise(step[:, :OBSERVATION]))
    after = step[:, :OBSERVATION] + step[:, -OBSERVATION:]
    torch.testing.assert_close(batch.next_features[:, :OBSERVATION], normalise(after))
    torch.testing.assert_close(batch.action, step[:, OBSERVATION:-OBSERVATION])


def test_an_epoch_begins_with_the_units_of_all_real_steps_and_the_learning_rate_of_its_step() -> None:
    built, group = training_of(kl_weight=0.1)
    tokens = built.environment_buffer.tokens[:30]
    torch.testing.assert_close(group.encoder.token_normaliser.mean[0], tokens.mean(dim=0))
    torch.testing.assert_close(built.encoder.observation_normaliser.std, tokens[:, :4].std(dim=0, correction=0))
    for agent in (group.agent, built.agent):
        for optimiser in agent.optimisers().values():
            (parameters,) = optimiser.param_groups
            assert parameters["lr"] == pytest.approx(1e-2 * (1 - 0.9 * 30 / 260))


def test_an_update_descends_the_critics_loss_plus_the_weighted_divergence() -> None:
    """The encoder's gradient by autograd of the whole loss, written out, and Adam's first step along it."""
    built, group = training_of(kl_weight=0.7)
    chunks, noise = chunks_from(built), built.generator.get_state()
    used = chunks.used[:, LIMIT:]
    batch, divergence, _ = latent_transitions(built.encoder, chunks, built.generator)
    mean, variance = (values[used] for values in built.encoder.posteriors(chunks))
    torch.testing.assert_close(divergence, divergence_from_prior(mean, variance).mean())
    assert batch.reward.shape == (int(used.sum()),)
    agent, draws = built.agent, torch.randn(2, *batch.action.shape, generator=built.generator)
    target = soft_target(batch, agent.policy, agent.target_critics, torch.tensor(0.1), 0.95, draws[0])
    loss = critic_loss(agent.critics, batch, target) + 0.7 * divergence
    parameters = list(built.encoder.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    built.generator.set_state(noise)
    report = updated(group, chunks)
    assert report["kl_penalty"].item() == pytest.approx(0.7 * divergence.item(), rel=1e-5)
    for parameter, old in zip(parameters, before, strict=True):
        assert not torch.equal(parameter, old)
    for parameter, gradient in zip(group.encoder.parameters(), gradients, strict=True):
        found = first_gradient(group.agent.critic_optimiser, parameter)[0]
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)


def test_the_penalty_alone_drives_the_posterior_to_the_prior() -> None:
    """With a large weight the divergence falls; with none it does not matter to the update."""
    heavy, group = training_of(kl_weight=100.0)
    chunks = chunks_from(heavy)
    first = updated(group, chunks)["kl_penalty"]
    for _ in range(60):
        last = updated(group, chunks)["kl_penalty"]
    assert last < 0.3 * first


def test_acting_takes_the_posterior_mean_when_deterministic_and_samples_otherwise() -> None:
    built = encoder()
    policy = LatentPolicy(built, GaussianPolicy(built.feature_size, ACTION, 8, 1))
    windows = random_windows(12, LIMIT)
    latent, variance = policy.encoder.posterior(windows.tokens, windows.lengths)
    mean, log_std = policy.network(policy.encoder.features(windows.observation, latent))
    action, raw = policy.act(windows, torch.Generator().manual_seed(0), deterministic=True)
    torch.testing.assert_close(raw, mean)
    torch.testing.assert_close(action, torch.tanh(mean))
    generator = torch.Generator().manual_seed(0)
    _, sampled = policy.act(windows, generator)
    generator = torch.Generator().manual_seed(0)
    drawn = latent + variance.sqrt() * torch.randn(latent.shape, generator=generator)
    mean, log_std = policy.network(policy.encoder.features(windows.observation, drawn))
    expected = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
    torch.testing.assert_close(sampled, expected)


TINY = small.TINY | {"algorithm": "pearl", "total_steps": 260, "epoch_steps": 80}


def test_a_training_interrupted_within_an_epoch_is_the_uninterrupted_one(tmp_path: Path) -> None:
    config = Config(run_dir=tmp_path / "unused", **TINY)
    rows, whole = small.advanced(Pearl, config, None)
    again, same = small.advanced(Pearl, config, 150)
    assert rows == again
    pairs = zip(whole.agent.policy.parameters(), same.agent.policy.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    assert [row["step"] for row in rows] == [180, 260]
    assert all(math.isfinite(row[name]) for row in rows for name in ("critic_loss", "kl_penalty", "return"))


def test_it_runs_behind_the_command_and_learns_nothing_of_a_model(tmp_path: Path) -> None:
    directory = train(Config(run_dir=tmp_path / "run", **TINY))
    assert directory.complete
    last = directory.metrics()[-1]
    assert {"return", "critic_loss", "kl_penalty", "temperature"} <= set(last)
    assert not {"eps_m", "model_loss", "nll"} & set(last)


def test_a_memoryless_pearl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--history-length must be >= 1 for pearl"):
        Pearl(Config(run_dir=tmp_path, **{**TINY, "history_length": 0}))
