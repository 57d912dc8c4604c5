"""The ensemble's density, samples and losses against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from tests.m3po.small import OBSERVATION, encoder, model, output_layer, random_actions, random_windows


def moments(built: EnsembleModel, features: Tensor, action: Tensor) -> tuple[NDArray, NDArray]:
    """Means and standard deviations of each member's (o' - o, r) in the environment's units. Two [B, N, O + 1]."""
    mean, log_variance = (each.detach().double().numpy() for each in built.normalised_moments(features, action))
    scale, shift = (getattr(built.target_normaliser, name).double().numpy() for name in ("std", "mean"))
    return mean * scale + shift, np.exp(0.5 * log_variance) * scale


def small_model(observation_size: int, members: int) -> tuple[EnsembleModel, Tensor, Tensor, Tensor]:
    """A model of few coordinates, with one history's features, observation and action."""
    torch.manual_seed(observation_size)
    built = model(ContextEncoder(observation_size, 1, 0, 1), members)
    observation = torch.randn(1, observation_size)
    return built, built.encoder.observation_normaliser(observation), observation, torch.tensor([[0.3]])


@torch.no_grad()
def test_density_in_one_dimension_integrates_to_one() -> None:
    built, features, observation, action = small_model(1, 4)
    grid = torch.linspace(-40, 40, 80001)[:, None]
    count = len(grid)
    log_density = built.observation_log_density(
        features.expand(count, -1), observation.expand(count, -1), action.expand(count, -1), grid
    )
    total = np.trapezoid(log_density.double().exp().numpy(), grid[:, 0].double().numpy())
    assert total == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_density_in_two_dimensions_integrates_to_one() -> None:
    built, features, observation, action = small_model(2, 3)
    line = torch.linspace(-15, 15, 501)
    grid = torch.cartesian_prod(line, line)
    count = len(grid)
    log_density = built.observation_log_density(
        features.expand(count, -1), observation.expand(count, -1), action.expand(count, -1), grid
    )
    cell = float(line[1] - line[0]) ** 2
    assert log_density.double().exp().sum() * cell == pytest.approx(1.0, abs=1e-4)


@torch.no_grad()
def test_density_is_the_mixture_of_the_members() -> None:
    built = model(encoder(3))
    windows, action = random_windows(12, 3), random_actions(12)
    following = windows.observation + torch.randn(12, OBSERVATION, generator=torch.Generator().manual_seed(0))
    features = built.encoder(windows)
    mean, std = moments(built, features, action)
    change = (following - windows.observation).double().numpy()
    members = stats.norm.logpdf(change, mean[..., :-1], std[..., :-1]).sum(axis=-1)
    expected = special.logsumexp(members, axis=0) - np.log(built.members)
    result = built.observation_log_density(features, windows.observation, action, following)
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=1e-4, atol=1e-4)
    # The members disagree, so that a mixture is not one of them.
    assert np.ptp(members, axis=0).min() > 0.1


@torch.no_grad()
def test_samples_have_the_density_of_the_mixture() -> None:
    """Kolmogorov-Smirnov distance of each coordinate and of the reward to the mixture's distribution function."""
    built, features, observation, action = small_model(2, 3)
    count = 80000
    following, reward = built.sample(
        features.expand(count, -1),
        observation.expand(count, -1),
        action.expand(count, -1),
        torch.Generator().manual_seed(0),
    )
    drawn = torch.cat([following - observation, reward[:, None]], dim=1).double().numpy()
    mean, std = (each[:, 0] for each in moments(built, features, action))
    for coordinate in range(3):
        statistic = stats.kstest(
            drawn[:, coordinate],
            lambda x, j=coordinate: stats.norm.cdf(x[:, None], mean[:, j], std[:, j]).mean(axis=1),
        )
        assert statistic.pvalue > 1e-3, coordinate
    # Coordinates come from the same member: E[xy] is the members' average of products, not the product of averages.
    product = drawn[:, 0] * drawn[:, 1]
    standard_error = product.std() / count**0.5
    together, apart = (mean[:, 0] * mean[:, 1]).mean(), mean[:, 0].mean() * mean[:, 1].mean()
    assert abs(product.mean() - together) < 4 * standard_error
    assert abs(together - apart) > 8 * standard_error


@torch.no_grad()
def test_the_density_that_is_reported_is_the_one_that_is_sampled() -> None:
    """E[g(o')/p(o')] over samples is the integral of g = 1, for any density g: here a Gaussian inside the mixture."""
    built, features, observation, action = small_model(2, 3)
    count = 40000
    wide = (features.expand(count, -1), observation.expand(count, -1), action.expand(count, -1))
    following, _ = built.sample(*wide, torch.Generator().manual_seed(1))
    log_density = built.observation_log_density(*wide, following).double().numpy()
    mean, std = (each[0, 0, :2] for each in moments(built, features, action))
    change = (following - observation).double().numpy()
    ratio = np.exp(stats.norm.logpdf(change, mean, 0.7 * std).sum(axis=-1) - log_density)
    assert ratio.mean() == pytest.approx(1.0, abs=4 * ratio.std() / count**0.5)
    assert ratio.std() / count**0.5 < 0.01


@torch.no_grad()
def test_every_row_draws_from_its_own_history() -> None:
    built = model(encoder(3), members=1)
    windows, action = random_windows(10, 3), random_actions(10)
    features = built.encoder(windows)
    repeats = 3000
    draws = [
        torch.cat([following - windows.observation, reward[:, None]], dim=1)
        for seed in range(repeats)
        for following, reward in [
            built.sample(features, windows.observation, action, torch.Generator().manual_seed(seed))
        ]
    ]
    drawn = torch.stack(draws).double().numpy()
    mean, std = (each[0] for each in moments(built, features, action))
    z = (drawn.mean(axis=0) - mean) / (std / repeats**0.5)
    assert np.abs(z).max() < 4.5
    np.testing.assert_allclose(drawn.std(axis=0), std, rtol=4.5 / (2 * repeats) ** 0.5)


@torch.no_grad()
def test_losses_are_negative_log_likelihoods_up_to_a_constant() -> None:
    built = model(encoder(3))
    windows, action = random_windows(12, 3), random_actions(12)
    target = torch.randn(12, OBSERVATION + 1, generator=torch.Generator().manual_seed(0))
    features = built.encoder(windows)
    mean, log_variance = (each.double().numpy() for each in built.normalised_moments(features, action))
    normalised = built.target_normaliser(target).double().numpy()
    expected = -stats.norm.logpdf(normalised, mean, np.exp(0.5 * log_variance)).sum(axis=-1)
    expected -= 0.5 * (OBSERVATION + 1) * np.log(2 * np.pi)
    result = built.member_losses(features, action, target)
    assert result.shape == (built.members, 12)
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_log_variance_is_bounded_whatever_the_head_says() -> None:
    built = model(encoder(3))
    features, action = built.encoder(random_windows(6, 3)), random_actions(6)
    head = output_layer(built.heads)
    size = OBSERVATION + 1
    low, high = -8.0, 0.5
    for value, end in ((-1e4, low), (1e4, high)):
        head.bias[..., size:] = value
        _, log_variance = built.normalised_moments(features, action)
        # softplus(high - low) exceeds high - low by exp(-8.5) = 2e-4.
        assert log_variance.min() >= low
        assert log_variance.max() <= high + 3e-4
        torch.testing.assert_close(log_variance, torch.full_like(log_variance, end), rtol=0, atol=3e-4)
    head.bias[..., size:] = -3.0
    head.weight[..., size:] = 0.0
    _, log_variance = built.normalised_moments(features, action)
    torch.testing.assert_close(log_variance, torch.full_like(log_variance, -3.0), rtol=0, atol=0.05)


@torch.no_grad()
def test_expected_reward_clips_each_member_and_averages() -> None:
    built = model(encoder(3))
    features, action = built.encoder(random_windows(12, 3)), random_actions(12)
    mean, _ = moments(built, features, action)
    rewards = mean[..., -1]
    low, high = np.quantile(rewards, [0.25, 0.75])
    expected = np.clip(rewards, low, high).mean(axis=0)
    assert np.abs(expected - np.clip(rewards.mean(axis=0), low, high)).max() > 1e-3
    result = built.expected_reward(features, action, float(low), float(high))
    np.testing.assert_allclose(result.double().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_no_members_are_refused() -> None:
    with pytest.raises(ValueError, match="ensemble_size must be >= 1, got 0"):
        EnsembleModel(encoder(3), 2, 0, 8, 1)


def elite_model(elite: list[int], members: int = 5) -> EnsembleModel:
    """The model of ``small`` with these elites."""
    source = model(encoder(3), members)
    built = EnsembleModel(source.encoder, source.encoder.action_size, members, 8, 1, len(elite))
    built.load_state_dict(source.state_dict() | {"elite": torch.tensor(elite)})
    return built


def test_without_a_number_of_elites_every_member_is_one() -> None:
    assert EnsembleModel(encoder(3), 2, 4, 8, 1).elite.tolist() == [0, 1, 2, 3]
    assert EnsembleModel(encoder(3), 2, 4, 8, 1, 4).elite.tolist() == [0, 1, 2, 3]
    assert EnsembleModel(encoder(3), 2, 4, 8, 1, 2).elite.tolist() == [0, 1]


@pytest.mark.parametrize("elites", [0, -1, 5])
def test_a_bad_number_of_elites_is_refused(elites: int) -> None:
    with pytest.raises(ValueError, match=rf"^elites must be in 1\.\.4, got {elites}$"):
        EnsembleModel(encoder(3), 2, 4, 8, 1, elites)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.5, -2.0, 3.0, 0.1, -1.0], [1, 3, 4]),
        ([5.0, 4.0, 3.0, 2.0, 1.0], [2, 3, 4]),
        ([1.0, 1.0, 1.0, 1.0, 1.0], [0, 1, 2]),
        ([2.0, 1.0, 2.0, 0.0, 2.0], [0, 1, 3]),
        ([1.0, 0.0, 1.0, 1.0, 0.0], [0, 1, 4]),
    ],
)
def test_elites_have_the_smallest_losses_and_ties_go_by_number(losses: list[float], expected: list[int]) -> None:
    built = elite_model([0, 1, 2])
    built.choose_elites(torch.tensor(losses))
    assert built.elite.tolist() == expected
    assert built.elite.dtype == torch.int64


def test_elites_are_chosen_anew_every_time() -> None:
    """The number of elites stays, whoever they were."""
    built = elite_model([3, 4])
    for best in ([0, 2], [1, 4], [0, 1]):
        losses = torch.ones(5)
        losses[best] = 0.0
        built.choose_elites(losses)
        assert built.elite.tolist() == best


def test_the_elites_are_part_of_a_checkpoint() -> None:
    built = elite_model([0, 1])
    built.choose_elites(torch.tensor([3.0, 0.0, 2.0, 3.0, 1.0]))
    fresh = EnsembleModel(encoder(3, seed=9), 2, 5, 8, 1, 2)
    assert fresh.elite.tolist() == [0, 1]
    fresh.load_state_dict(built.state_dict())
    assert fresh.elite.tolist() == [1, 4]
    windows, action = random_windows(6, 3), random_actions(6)
    samples = [
        torch.cat([following, reward[:, None]], dim=1)
        for following, reward in (
            each.sample(each.encoder(windows), windows.observation, action, torch.Generator().manual_seed(0))
            for each in (built, fresh)
        )
    ]
    assert torch.equal(samples[0], samples[1])


@torch.no_grad()
def test_samples_come_from_the_elites_and_from_each_as_often() -> None:
    """Members whose means lie 10 apart and whose noise is below 0.02 can be told from one draw."""
    built = elite_model([0, 2, 3])
    layer, size = output_layer(built.heads), OBSERVATION + 1
    layer.weight.zero_()
    layer.bias[..., :size] = 10.0 * torch.arange(5.0)[:, None, None]
    layer.bias[..., size:] = -1e4
    count = 30000
    features, observation = torch.zeros(count, built.encoder.feature_size), torch.zeros(count, OBSERVATION)
    following, reward = built.sample(features, observation, torch.zeros(count, 2), torch.Generator().manual_seed(0))
    drawn = built.target_normaliser(torch.cat([following, reward[:, None]], dim=1)) / 10
    member = drawn.round().long()
    assert (drawn - member).abs().max() < 0.02
    assert (member == member[:, :1]).all()  # all coordinates of a row are one member's
    shares = torch.bincount(member[:, 0], minlength=5) / count
    assert shares[[1, 4]].tolist() == [0.0, 0.0]
    standard_error = (1 / 3 * 2 / 3 / count) ** 0.5
    assert (shares[[0, 2, 3]] - 1 / 3).abs().max() < 4 * standard_error


@torch.no_grad()
@pytest.mark.parametrize("elite", [[0, 1], [1, 3, 4], [2], [0, 1, 2, 3, 4]])
def test_density_and_reward_are_those_of_the_mixture_of_the_elites(elite: list[int]) -> None:
    built = elite_model(elite)
    windows, action = random_windows(12, 3), random_actions(12)
    following = windows.observation + torch.randn(12, OBSERVATION, generator=torch.Generator().manual_seed(0))
    features = built.encoder(windows)
    mean, std = moments(built, features, action)
    change = (following - windows.observation).double().numpy()
    density = np.zeros(12)
    for member in elite:
        density += stats.norm.pdf(change, mean[member, :, :-1], std[member, :, :-1]).prod(axis=-1) / len(elite)
    result = built.observation_log_density(features, windows.observation, action, following)
    np.testing.assert_allclose(result.double().numpy(), np.log(density), rtol=1e-4, atol=1e-4)

    low, high = np.quantile(mean[..., -1], [0.25, 0.75])
    expected = sum(np.clip(mean[member, :, -1], low, high) for member in elite) / len(elite)
    reward = built.expected_reward(features, action, float(low), float(high))
    np.testing.assert_allclose(reward.double().numpy(), expected, rtol=1e-4, atol=1e-5)
    if len(elite) < 5:  # the whole ensemble would say something else
        whole = elite_model([0, 1, 2, 3, 4])
        assert (
            whole.observation_log_density(features, windows.observation, action, following) - result
        ).abs().max() > 0.1
        assert (whole.expected_reward(features, action, float(low), float(high)) - reward).abs().max() > 0.01


@torch.no_grad()
def test_members_that_are_not_elites_still_learn() -> None:
    built, whole = elite_model([4]), elite_model([0, 1, 2, 3, 4])
    windows, action = random_windows(6, 3), random_actions(6)
    target = torch.randn(6, OBSERVATION + 1, generator=torch.Generator().manual_seed(0))
    features = built.encoder(windows)
    losses = built.member_losses(features, action, target)
    assert losses.shape == (5, 6)
    assert torch.equal(losses, whole.member_losses(features, action, target))


@torch.no_grad()
def test_samples_stay_within_reach_of_what_was_seen_and_are_untouched_inside_it() -> None:
    """Seen o' in [-1, 3] and r in [0, 1]: samples are kept in [-5, 7] and [-1, 2]."""
    built, features, observation, action = small_model(1, 2)
    rows = (features.expand(4000, -1), observation.expand(4000, -1), action.expand(4000, -1))
    built.target_normaliser.std.fill_(6.0)
    free = built.sample(*rows, torch.Generator().manual_seed(0))
    built.fit_reach(torch.tensor([[-1.0, 0.5], [3.0, 0.0], [2.0, 1.0]]))
    kept = built.sample(*rows, torch.Generator().manual_seed(0))
    for loose, held, (low, high) in zip(free, kept, ((-5.0, 7.0), (-1.0, 2.0)), strict=True):
        assert loose.min() < low
        assert loose.max() > high
        torch.testing.assert_close(held, loose.clamp(low, high), rtol=0, atol=0)
