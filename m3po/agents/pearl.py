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
from m3po.agents.sac import SoftActorCritic, agent_networks, agent_settings
from m3po.data.draws import Generators, normal
from m3po.data.replay_buffer import EnvironmentBuffer, drawn
from m3po.data.types import Stretches, Transitions, Windows, newest, parts_of
from m3po.networks.context_encoder import Normaliser
from m3po.networks.policy import EncodedPolicy
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


def drawn_chunks(buffer: EnvironmentBuffer, count: int, generator: torch.Generator) -> Stretches:
    """``count`` runs of ``CHUNK`` steps, uniformly with replacement, of those that every episode is cut into from its
    start; their windows of the last L steps overlap, and share their factors."""
    steps = torch.arange(buffer.size, device=buffer.rewards.device)
    starts = steps[(steps - buffer.first[: buffer.size]) % CHUNK == 0]
    return buffer.stretches(drawn(starts, count, generator), buffer.history_length, CHUNK)


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
        self.factors = StackedMLP(1, token_size, width, layers, 2 * latent_size, units="rectified")
        self.feature_size = observation_size + latent_size

    def fit(self, tokens: Tensor) -> None:
        """Fit both normalisers to tokens [N, 2 O + A]."""
        self.token_normaliser.fit(tokens)
        self.observation_normaliser.fit(tokens[:, : self.observation_size])

    def posterior(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The ``lengths`` [N] newest of tokens [N, L, 2 O + A] -> mean and variance of z, each [N, Z]."""
        return product_of_gaussians(*self._factors(tokens), newest(lengths, self.history_length))

    def posteriors(self, chunks: Stretches) -> tuple[Tensor, Tensor]:
        """Mean and variance of z at every step of N chunks behind L steps, each [N, c, Z]."""
        # [N, c + 1, Z, L] without a copy; the last window is that of the step after the chunk.
        mean, variance = (
            values.unfold(1, self.history_length, 1)[:, :-1].transpose(2, 3).flatten(0, 1)
            for values in self._factors(chunks.tokens)
        )
        used = chunks.used.unfold(1, self.history_length, 1)[:, :-1].flatten(0, 1)
        mean, variance = product_of_gaussians(mean, variance, used)
        return mean.unflatten(0, chunks.reward.shape), variance.unflatten(0, chunks.reward.shape)

    def _factors(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every token's factor: [N, T, 2 O + A] -> two [N, T, Z]."""
        outputs = self.factors(self.token_normaliser(tokens).flatten(0, 1))[0]
        mean, raw = outputs.unflatten(0, tokens.shape[:2]).chunk(2, dim=-1)
        return mean, nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)

    def features(self, observation: Tensor, latent: Tensor) -> Tensor:
        """[N, O], [N, Z] -> [N, O + Z]."""
        return torch.cat([self.observation_normaliser(observation), latent], dim=1)


@dataclass(frozen=True)
class LatentPolicy(EncodedPolicy[LatentEncoder]):
    """pi(a | o_t, z): z is drawn from the posterior at every step; the deterministic policy takes its mean."""

    def features(self, windows: Windows, generator: Generators, *, deterministic: bool) -> Tensor:
        latent, variance = self.encoder.posterior(windows.tokens, windows.lengths)
        if not deterministic:
            latent = latent + variance.sqrt() * normal(latent.shape, generator, latent.device)
        return self.encoder.features(windows.observation, latent)


def latent_transitions(
    encoder: LatentEncoder, chunks: Stretches, generator: torch.Generator
) -> tuple[Transitions, Tensor]:
    """The steps of N chunks as policy and critics read them, and mean_n KL(q(z | h_n) || N(0, I)).

    Both ends of a transition get the same z, drawn from the posterior at its beginning, as in the source.
    """
    used = chunks.used[:, encoder.history_length :]
    mean, variance = (values[used] for values in encoder.posteriors(chunks))
    latent = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, device=mean.device)
    step = chunks.tokens[:, encoder.history_length :][used]
    observation, action, change = parts_of(step, encoder.observation_size)
    transitions = Transitions(
        encoder.features(observation, latent),
        action,
        chunks.reward[used],
        encoder.features(observation + change, latent.detach()),
        chunks.not_terminal[used],
    )
    return transitions, divergence_from_prior(mean, variance).mean()


class Pearl(TrainingLoop):
    """PEARL in the loop of real steps that every algorithm shares: G updates on real transitions after each step."""

    algorithms = ("pearl",)

    def build(self, observation_size: int) -> None:
        config, action_size = self.config, self.action_size
        encoder = LatentEncoder(
            observation_size, action_size, config.history_length, config.latent_size, config.width, config.layers
        ).to(self.device)
        network, critics = agent_networks(
            config,
            encoder.feature_size,
            action_size,
            self.device,
            units="rectified",
            critics=config.critics,
        )
        self.target_entropy, settings = agent_settings(config, action_size, capturable=config.cuda_graphs)
        self.agent = SoftActorCritic(network, critics, settings, config.initial_temperature, encoder)
        self.encoder = encoder
        self.policy = LatentPolicy(encoder, network)

    def begin_epoch(self) -> None:
        self.encoder.fit(self.environment_buffer.tokens[: self.environment_buffer.size])
        self.agent.set_learning_rate(self.config.learning_rate_at(self.steps))

    def learn(self, epoch_step: int) -> tuple[list[dict[str, Tensor]], list[Stretches]]:
        count, size = self.config.updates_per_step, self.config.batch_size
        with self.stopwatch.measure("update"):
            chunks = -(-size // CHUNK)
            batches = [drawn_chunks(self.environment_buffer, chunks, self.generator) for _ in range(count)]
            return [self.update(batch) for batch in batches], batches

    def update(self, chunks: Stretches) -> dict[str, Tensor]:
        """One update of the agent; the encoder descends the critics' loss + kl_weight * KL(q(z | h) || N(0, I))."""
        transitions, divergence = latent_transitions(self.encoder, chunks, self.generator)
        penalties = {"kl_penalty": self.config.kl_weight * divergence}
        return self.agent.update(transitions, self.generator, penalties)

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        return self.agent_warnings(means, self.target_entropy)

    def learned_state(self) -> dict[str, Any]:
        return self.agent.state()

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self.agent.load_state(state)
