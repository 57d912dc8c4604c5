"""The meta-model p_theta(r_t, o_{t+1} | a_t, h_{L:t}): a bootstrap ensemble of Gaussians on a shared encoder.

In front of the shapes given here may stand the run axis.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from m3po.data.draws import Generators, integers, normal
from m3po.networks.context_encoder import ContextEncoder, Normaliser
from m3po.networks.run_axis import aligned
from m3po.networks.stacked import StackedMLP
from m3po.networks.units import HiddenUnits


def widened_range(outcomes: Tensor) -> Tensor:
    """Lowest and highest of each column of [N, O + 1], moved outwards by their distance. Shape [2, O + 1]."""
    low, high = outcomes.min(dim=0).values, outcomes.max(dim=0).values
    return torch.stack([low - (high - low), high + (high - low)])


def _mixture_log_density(target: Tensor, mean: Tensor, log_variance: Tensor, std: Tensor) -> Tensor:
    """log (1/E) sum_b prod_j N(y_j; mu_bj, sigma_bj^2) / std_j. Shapes [N, O], [E, N, O] twice, [O] -> [N]."""
    squares = (target.unsqueeze(-3) - mean) ** 2 * torch.exp(-log_variance)
    log_densities = -0.5 * (squares + log_variance + math.log(2 * math.pi)) - aligned(std, mean).log()
    return torch.logsumexp(log_densities.sum(dim=-1), dim=-2) - math.log(mean.shape[-3])


class LearnedModel(Protocol):
    """A model as rollouts and measurements see it: it samples, its density is known, and it promises rewards.

    The methods mean what those of ``EnsembleModel`` do, and have its shapes.
    """

    @property
    def encoder(self) -> ContextEncoder:
        """h -> features, which the methods read."""
        ...

    def sample(
        self, features: Tensor, observation: Tensor, action: Tensor, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """(o', r) ~ p_theta."""
        ...

    def observation_log_density(
        self,
        features: Tensor,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        change: Tensor | None = None,
    ) -> Tensor:
        """log p_theta(o' | h, a), the density of what ``sample`` draws."""
        ...

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        """r_theta(h, a) in [low, high]."""
        ...


class EnsembleModel(nn.Module):
    """p_theta(r, o' | a, h) = (1/E) sum_{b elite} N((o' - o, r); mu_b(a, h), diag sigma_b(a, h)^2), in normalised units
    inside.

    All B members are trained; the model, its samples and its density, is the mixture of the E elites.

    Args:
        encoder: h -> features; trained with the model.
        members: B.
        width, layers, units: of each member's head.
        elites: E, 1..B; all when None.

    Attributes:
        elite: [E] int64, which members make up the model; the first E until ``choose_elites``.

    Raises:
        ValueError: when ``members`` < 1 or ``elites`` is not in 1..members.
    """

    def __init__(
        self,
        encoder: ContextEncoder,
        action_size: int,
        members: int,
        width: int,
        layers: int,
        elites: int | None = None,
        *,
        units: HiddenUnits = "gated",
    ) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"ensemble_size must be >= 1, got {members}")
        if elites is not None and not 1 <= elites <= members:
            raise ValueError(f"elites must be in 1..{members}, got {elites}")
        self.register_buffer("elite", torch.arange(members if elites is None else elites))
        self.elite: Tensor
        self.encoder = encoder
        self.members = members
        observation_size = len(encoder.observation_normaliser.mean)
        self.target_normaliser = Normaliser(observation_size + 1)
        # Where samples of (o', r) are kept; everywhere until ``fit_reach``.
        self.register_buffer("reach_low", torch.full((observation_size + 1,), -torch.inf))
        self.register_buffer("reach_high", torch.full((observation_size + 1,), torch.inf))
        self.reach_low: Tensor
        self.reach_high: Tensor
        inputs, outputs = encoder.feature_size + action_size, 2 * (observation_size + 1)
        self.heads = StackedMLP(members, inputs, width, layers, outputs, units=units)
        # Bounds of the log variance are learned, as in PETS: a head far from data falls back to the largest seen.
        self.log_variance_high = nn.Parameter(torch.full((observation_size + 1,), 0.5))
        self.log_variance_low = nn.Parameter(torch.full((observation_size + 1,), -8.0))

    def fit_reach(self, outcomes: Tensor) -> None:
        """Keep samples of (o', r) within the range of ``outcomes`` [N, O + 1], widened by its width on either side."""
        low, high = widened_range(outcomes)
        self.reach_low.copy_(low)
        self.reach_high.copy_(high)

    def choose_elites(self, losses: Tensor) -> None:
        """Make the members with the smallest ``losses`` [B] the elites; equal losses go by number."""
        best = torch.argsort(losses, stable=True, dim=-1)[..., : self.elite.shape[-1]]
        self.elite.copy_(best.sort().values)

    def normalised_moments(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of each member's (o' - o, r), normalised. [N, F], [N, A] -> two [B, N, O + 1]."""
        mean, log_variance = self.heads(features, action).chunk(2, dim=-1)
        low, high = aligned(self.log_variance_low, mean), aligned(self.log_variance_high, mean)
        log_variance = high - nn.functional.softplus(high - log_variance)
        log_variance = low + nn.functional.softplus(log_variance - low)
        return mean, log_variance

    def elite_moments(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """``normalised_moments`` of the elites only. Shapes [N, F], [N, A] -> two [E, N, O + 1]."""
        mean, log_variance = self.normalised_moments(features, action)
        if self.elite.shape[-1] == self.members:
            return mean, log_variance
        elite = self.elite[..., None, None]
        return torch.take_along_dim(mean, elite, dim=-3), torch.take_along_dim(log_variance, elite, dim=-3)

    def member_losses(self, features: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Negative log likelihood in nats (up to a constant), per member and sample.

        0.5 sum_j [ (y_j - mu_j)^2 / sigma_j^2 + log sigma_j^2 ], y = normalised (o' - o, r).
        Shapes [N, F], [N, A], [N, O + 1] -> [B, N].
        """
        mean, log_variance = self.normalised_moments(features, action)
        residual = self.target_normaliser(target).unsqueeze(-3) - mean
        return 0.5 * (residual**2 * torch.exp(-log_variance) + log_variance).sum(dim=-1)

    def observation_log_density(
        self,
        features: Tensor,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        change: Tensor | None = None,
    ) -> Tensor:
        """log (1/E) sum_{b elite} N(o'; ...), in nats and in the environment's units: what rollouts sample from.

        ``change`` [N, O] is o' - o where it is known better than from float32 observations.
        Shapes [N, F], [N, O], [N, A], [N, O] -> [N].
        """
        size = observation.shape[-1]
        mean, log_variance = (each[..., :size] for each in self.elite_moments(features, action))
        change = next_observation - observation if change is None else change
        std = self.target_normaliser.std[..., :size]
        scale = aligned(std, change)
        target = change - aligned(self.target_normaliser.mean[..., :size], change)
        result = _mixture_log_density(target / scale, mean, log_variance, std)
        if not torch.isfinite(result).all():  # a square beyond float32
            result = _mixture_log_density(target.double() / scale, mean.double(), log_variance, std)
        return result

    def sample(
        self, features: Tensor, observation: Tensor, action: Tensor, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Draw an elite member per row, then (o', r) from it. Shapes [N, F], [N, O], [N, A] -> [N, O], [N].

        Both are kept within reach of what was seen (``fit_reach``): one rollout that runs away from a poor model
        teaches the critics values that they do not recover from. Where real outcomes never leave that reach, this
        cannot increase the model's total variation from the truth.
        """
        mean, log_variance = self.elite_moments(features, action)
        rows, device = features.shape[:-1], features.device
        member = integers(mean.shape[-3], rows, generator, device)[..., None, :, None]
        noise = normal((*rows, mean.shape[-1]), generator, device)
        mean, log_variance = (torch.take_along_dim(each, member, dim=-3).squeeze(-3) for each in (mean, log_variance))
        drawn = mean + torch.exp(0.5 * log_variance) * noise
        normaliser = self.target_normaliser
        drawn = drawn * aligned(normaliser.std, drawn) + aligned(normaliser.mean, drawn)
        outcome = torch.cat([observation + drawn[..., :-1], drawn[..., -1:]], dim=-1)
        outcome = outcome.clamp(aligned(self.reach_low, drawn), aligned(self.reach_high, drawn))
        return outcome[..., :-1], outcome[..., -1]

    def expected_reward(self, features: Tensor, action: Tensor, low: float, high: float) -> Tensor:
        """r_theta(h, a) = (1/E) sum_{b elite} clip(mu_b^r(h, a), low, high). Shapes [N, F], [N, A] -> [N]."""
        mean, _ = self.elite_moments(features, action)
        std, offset = (each[..., -1:, None] for each in (self.target_normaliser.std, self.target_normaliser.mean))
        return (mean[..., -1] * std + offset).clamp(low, high).mean(dim=-2)
