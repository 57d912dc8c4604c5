"""PEARL (Rakelly et al. 2019): soft actor-critic on a latent task variable inferred from recent transitions.

The task changes while an episode runs, so the context is the last L steps of the running episode, for acting and for
learning; the source draws it from the recent data of one fixed task. docs/baselines.md lists what else is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m3po.agents.loop import TrainingLoop
from m3po.agents.sac import SoftActorCritic, SoftActorCriticSettings, agent_networks, agent_settings
from m3po.data.replay_buffer import EnvironmentBuffer
from m3po.data.types import Transitions, Windows, newest
from m3po.networks.context_encoder import Normaliser
from m3po.networks.policy import GaussianPolicy, draw_action
from m3po.networks.stacked import StackedMLP

LEAST_VARIANCE = 1e-7  # the source's

# Steps in a row that a batch takes together: at L = 16 a batch then encodes 5 steps per transition instead of 16.
CHUNK = 4


def product_of_gaussians(mean: Tensor, variance: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussian proportional to prod_i N(z; mu_i, diag s_i^2) over the used factors; N(0, I) where there is none.

    1/s^2 = sum_i 1/s_i^2 and mu = s^2 sum_i mu_i/s_i^2.

    Args:
        mean, variance: [N, L, Z].
        used: [N, L] booleans.

    Returns:
        mu and s^2, each [N, Z].
    """
    precisions = used[..., None] / variance
    without = ~used.any(dim=1, keepdim=True)
    precision = precisions.sum(dim=1) + without
    return (precisions * mean).sum(dim=1) / precision, 1 / precision


def divergence_from_prior(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mu, diag s^2) || N(0, I)) = 0.5 sum_j (s_j^2 + mu_j^2 - 1 - log s_j^2), in nats. [N, Z] each -> [N]."""
    return 0.5 * (variance + mean**2 - 1 - variance.log()).sum(dim=-1)


@dataclass(frozen=True)
class Chunks:
    """N runs of c real steps in a row, each with the L steps before it: their windows overlap, and share their factors.

    Attributes:
        tokens: [N, L + c, 2 O + A].
        lengths: [N, c] int64, past steps of each window, in 0..L.
        reward, not_terminal: [N, c], as in Transitions.
        used: [N, c] booleans; episodes rarely are a multiple of c steps long.
    """

    tokens: Tensor
    lengths: Tensor
    reward: Tensor
    not_terminal: Tensor
    used: Tensor

    @staticmethod
    def drawn(buffer: EnvironmentBuffer, count: int, generator: torch.Generator) -> Chunks:
        """``count`` chunks, uniformly with replacement, of those that every episode is cut into from its start."""
        device, limit = buffer.rewards.device, buffer.history_length
        steps = torch.arange(buffer.size, device=device)
        starts = steps[(steps - buffer.first[: buffer.size]) % CHUNK == 0]
        start = starts[torch.randint(len(starts), (count,), generator=generator, device=device)]
        own = start[:, None] + torch.arange(CHUNK, device=device)
        first = buffer.first[start][:, None]
        used = own < buffer.size
        own = torch.where(used, own, 0)
        used &= buffer.first[own] == first
        places = (start[:, None] + torch.arange(-limit, CHUNK, device=device)).clamp(min=0, max=buffer.size - 1)
        return Chunks(
            buffer.tokens[places],
            (own - first).clamp(min=0, max=limit),
            buffer.rewards[own],
            (~buffer.terminated[own]).float(),
            used,
        )


class LatentEncoder(nn.Module):
    """q(z | h_{L:t}): every step of the window contributes one Gaussian factor, and the factors are multiplied.

    Attributes:
        feature_size: O + Z, normalised o_t and z.
    """

    def __init__(
        self, observation_size: int, action_size: int, history_length: int, latent_size: int, width: int, layers: int
    ) -> None:
        super().__init__()
        self.history_length = history_length
        self.observation_size = observation_size
        token_size = 2 * observation_size + action_size
        self.token_normaliser = Normaliser(token_size)
        self.observation_normaliser = Normaliser(observation_size)
        self.factors = StackedMLP(1, token_size, width, layers, 2 * latent_size, gated=False)
        self.feature_size = observation_size + latent_size

    def fit(self, tokens: Tensor) -> None:
        """Fit both normalisers to tokens [N, 2 O + A]."""
        self.token_normaliser.fit(tokens)
        self.observation_normaliser.fit(tokens[:, : self.observation_size])

    def posterior(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The ``lengths`` [N] newest of tokens [N, L, 2 O + A] -> mean and variance of z, each [N, Z]."""
        return product_of_gaussians(*self._factors(tokens), newest(lengths, self.history_length))

    def posteriors(self, chunks: Chunks) -> tuple[Tensor, Tensor]:
        """Mean and variance of z at every step of N chunks, each [N, c, Z]."""
        limit = self.history_length
        # [N, c + 1, Z, L] without a copy; the last window is that of the step after the chunk.
        mean, variance = (
            values.unfold(1, limit, 1)[:, :-1].transpose(2, 3).flatten(0, 1) for values in self._factors(chunks.tokens)
        )
        mean, variance = product_of_gaussians(mean, variance, newest(chunks.lengths.flatten(), limit))
        return mean.unflatten(0, chunks.used.shape), variance.unflatten(0, chunks.used.shape)

    def _factors(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every token's factor: [N, T, 2 O + A] -> two [N, T, Z]."""
        outputs = self.factors(self.token_normaliser(tokens).flatten(0, 1))[0]
        mean, raw = outputs.unflatten(0, tokens.shape[:2]).chunk(2, dim=-1)
        return mean, nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)

    def features(self, observation: Tensor, latent: Tensor) -> Tensor:
        """[N, O], [N, Z] -> [N, O + Z]."""
        return torch.cat([self.observation_normaliser(observation), latent], dim=1)


@dataclass(frozen=True)
class LatentPolicy:
    """pi(a | o_t, z): z is drawn from the posterior at every step; the deterministic policy takes its mean."""

    encoder: LatentEncoder
    network: GaussianPolicy

    @property
    def history_length(self) -> int:
        return self.encoder.history_length

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.no_grad()
    def act(
        self, windows: Windows, generator: torch.Generator, *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor]:
        """N windows -> action [N, A] in (-1, 1) and the same before tanh [N, A]."""
        latent, variance = self.encoder.posterior(windows.tokens, windows.lengths)
        if not deterministic:
            latent = latent + variance.sqrt() * torch.randn(latent.shape, generator=generator, device=latent.device)
        mean, log_std = self.network(self.encoder.features(windows.observation, latent))
        return draw_action(mean, log_std, generator, deterministic=deterministic)


class LatentActorCritic(SoftActorCritic):
    """Soft actor-critic whose encoder is trained by the critics' loss and by kl_weight * KL(q(z | h) || N(0, I))."""

    def __init__(
        self,
        policy: GaussianPolicy,
        critics: StackedMLP,
        settings: SoftActorCriticSettings,
        initial_temperature: float,
        encoder: LatentEncoder,
        kl_weight: float,
    ) -> None:
        super().__init__(policy, critics, settings, initial_temperature)
        self.latent_encoder = encoder
        self.kl_weight = kl_weight
        self.critic_optimiser = self._adam([*critics.parameters(), *encoder.parameters()])

    def modules(self) -> dict[str, nn.Module]:
        return super().modules() | {"encoder": self.latent_encoder}

    def encoded(self, batch: Any, generator: torch.Generator) -> tuple[Transitions, dict[str, Tensor]]:
        """Both ends of a transition get the same z, drawn from the posterior at its beginning, as in the source."""
        assert isinstance(batch, Chunks)
        encoder = self.latent_encoder
        size = encoder.observation_size
        mean, variance = (values[batch.used] for values in encoder.posteriors(batch))
        latent = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, device=mean.device)
        step = batch.tokens[:, encoder.history_length :][batch.used]
        observation = step[:, :size]
        transitions = Transitions(
            encoder.features(observation, latent),
            step[:, size:-size],
            batch.reward[batch.used],
            encoder.features(observation + step[:, -size:], latent.detach()),
            batch.not_terminal[batch.used],
        )
        return transitions, {"kl_penalty": self.kl_weight * divergence_from_prior(mean, variance).mean()}


class Pearl(TrainingLoop):
    """PEARL in the loop of real steps that every algorithm shares: G updates on real transitions after each step."""

    algorithms = ("pearl",)

    def build(self, observation_size: int) -> None:
        config, action_size = self.config, self.action_size
        encoder = LatentEncoder(
            observation_size, action_size, config.history_length, config.latent_size, config.width, config.layers
        ).to(self.device)
        network, critics = agent_networks(config, encoder.feature_size, action_size, self.device, gated=False)
        self.target_entropy, settings = agent_settings(config, action_size)
        self.agent = LatentActorCritic(
            network, critics, settings, config.initial_temperature, encoder, config.kl_weight
        )
        self.encoder = encoder
        self.policy = LatentPolicy(encoder, network)

    def begin_epoch(self) -> None:
        self.encoder.fit(self.environment_buffer.tokens[: self.environment_buffer.size])
        self.agent.set_learning_rate(self.config.learning_rate_at(self.steps))

    def learn(self, epoch_step: int) -> tuple[list[dict[str, Tensor]], list[Any]]:
        count, size = self.config.updates_per_step, self.config.batch_size
        with self.stopwatch.measure("update"):
            chunks = -(-size // CHUNK)
            batches = [Chunks.drawn(self.environment_buffer, chunks, self.generator) for _ in range(count)]
            return [self.agent.update(batch, self.generator) for batch in batches], batches

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        return self.agent_warnings(means, self.target_entropy)

    def learned_state(self) -> dict[str, Any]:
        return self.agent.state()

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self.agent.load_state(state)
