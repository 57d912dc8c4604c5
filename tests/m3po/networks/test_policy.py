"""The tanh-Gaussian against torch.distributions, scipy and quadrature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from m3po.networks.policy import HistoryPolicy, gaussian_log_density
from m3po.networks.squashed_sample import LOG_STD_HIGH, LOG_STD_LOW, SquashedSample
from tests.m3po.small import ACTION, encoder, output_layer, policy_network, random_windows


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """``SquashedSample`` of the outputs that stand for this mean and log standard deviation."""
    outputs = torch.cat([mean, torch.atanh((log_std + 2) / 3)], dim=-1)
    return SquashedSample.apply(outputs, noise)


@given(st.integers(1, 3), st.integers(0, 1000))
def test_gaussian_log_density_is_that_of_scipy(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    value, mean, log_std = generator.normal(size=(3, 5, size))
    result = gaussian_log_density(*(torch.as_tensor(each) for each in (value, mean, log_std)))
    np.testing.assert_allclose(result, stats.norm.logpdf(value, mean, np.exp(log_std)).sum(axis=-1), rtol=1e-12)


@given(st.integers(1, 3), st.integers(0, 1000))
def test_squashed_log_density_is_that_of_torch_distributions(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, raw_std, noise = torch.randn(3, 6, size, generator=generator, dtype=torch.float64)
    log_std = -2 + 3 * torch.tanh(raw_std)
    action, log_density = squashed_sample(mean, log_std, noise)
    raw = mean + log_std.exp() * noise
    torch.testing.assert_close(action, torch.tanh(raw), rtol=1e-14, atol=1e-14)
    # Its own inverse loses digits for |u| > 5 even in float64, where the formula under test does not.
    inside = (raw.abs() < 5).all(dim=1)
    reference = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    torch.testing.assert_close(log_density[inside], reference.log_prob(action)[inside], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.0), (-1.5, 0.5), (0.3, 1.0)])
def test_squashed_density_integrates_to_one(mean: float, log_std: float) -> None:
    noise = torch.linspace(-9, 9, 200001, dtype=torch.float64)[:, None]
    action, log_density = squashed_sample(torch.full_like(noise, mean), torch.full_like(noise, log_std), noise)
    assert np.trapezoid(log_density.exp().numpy(), action[:, 0].numpy()) == pytest.approx(1.0, abs=1e-6)


@given(st.floats(-300, 300))
def test_squashed_density_keeps_its_digits_far_out(raw: float) -> None:
    """log(1 - tanh(u)^2) = 2 (log 2 - |u| - log(1 + exp(-2|u|))), computed here from |u|, in float32 there."""
    mean = torch.tensor([[raw]])
    noise = torch.zeros(1, 1)
    log_std = torch.full((1, 1), -1.0)
    _, log_density = squashed_sample(mean, log_std, noise)
    u = abs(mean.item())
    correction = 2 * (math.log(2) - u - math.log1p(math.exp(-2 * u)))
    expected = 1.0 - 0.5 * math.log(2 * math.pi) - correction
    assert log_density.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_gradients_far_out_are_finite() -> None:
    mean = torch.tensor([[-200.0], [0.0], [200.0]], requires_grad=True)
    log_std = torch.zeros(3, 1, requires_grad=True)
    action, log_density = squashed_sample(mean, log_std, torch.ones(3, 1))
    (action.sum() + log_density.sum()).backward()
    # d/du of -log(1 - tanh(u)^2) is 2 tanh(u).
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad[[0, 2], 0], torch.tensor([-2.0, 2.0]))
    assert log_std.grad is not None
    assert torch.isfinite(log_std.grad).all()


@torch.no_grad()
def test_log_std_stays_in_its_range() -> None:
    built = encoder(3)
    network = policy_network(built)
    features = built(random_windows(8, 3))
    head = output_layer(network.network)
    for value, end in ((-1e4, LOG_STD_LOW), (1e4, LOG_STD_HIGH)):
        head.bias[..., ACTION:] = value
        mean, log_std = network(features)
        assert mean.shape == log_std.shape == (8, ACTION)
        torch.testing.assert_close(log_std, torch.full_like(log_std, end))
    head.weight[..., ACTION:] = 0.0
    head.bias[..., ACTION:] = 0.0
    _, log_std = network(features)
    torch.testing.assert_close(log_std, torch.full_like(log_std, 0.5 * (LOG_STD_LOW + LOG_STD_HIGH)))


def test_actions_follow_the_distribution() -> None:
    built = encoder(3)
    policy = HistoryPolicy(built, policy_network(built))
    windows = random_windows(1, 3)
    windows = windows.select(torch.zeros(20000, dtype=torch.int64))
    mean, log_std = policy.distribution(windows)
    action, raw = policy.act(windows, torch.Generator().manual_seed(0))
    assert torch.equal(action, torch.tanh(raw))
    assert action.abs().max() < 1
    for coordinate in range(ACTION):
        drawn = ((raw - mean) * torch.exp(-log_std))[:, coordinate].double().numpy()
        assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_deterministic_actions_are_the_mean() -> None:
    built = encoder(3)
    policy = HistoryPolicy(built, policy_network(built))
    windows = random_windows(8, 3)
    mean, _ = policy.distribution(windows)
    action, raw = policy.act(windows, torch.Generator(), deterministic=True)
    assert torch.equal(raw, mean)
    assert torch.equal(action, torch.tanh(mean))
    assert not action.requires_grad


def test_a_snapshot_is_left_alone_by_training() -> None:
    built = encoder(3)
    policy = HistoryPolicy(built, policy_network(built))
    windows = random_windows(8, 3)
    snapshot = policy.snapshot()
    before = snapshot.distribution(windows)
    with torch.no_grad():
        for parameter in [*policy.encoder.parameters(), *policy.network.parameters()]:
            parameter.add_(0.5)
        policy.encoder.observation_normaliser.mean.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(snapshot.distribution(windows), before, strict=True))
    assert not torch.allclose(policy.distribution(windows)[0], before[0])
