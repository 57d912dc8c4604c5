"""PEARL (Rakelly et al. 2019): soft actor-critic on a latent task variable inferred from recent transitions.

The task changes while an episode runs, so the context is the last L steps of the running episode, for acting and for
learning; the source draws it from the recent data of one fixed task. docs/baselines.md lists what else is ours.

In front of the shapes given here may stand the run axis; a scalar is then one of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m3po.agents.group import Group, UpdateMetrics
from m3po.agents.loop import TrainingLoop
from m3po.agents.rollout import left_over
from m3po.agents.sac import SoftActorCritic, agent_networks, agent_settings, updates_with
from m3po.data.draws import Generators, normal, normal_rows
from m3po.data.replay_buffer import EnvironmentBuffer, EnvironmentBuffers, drawn
from m3po.data.types import Stretches, Transitions, Windows, at, mean_of, newest, parts_of, run_of
from m3po.networks.context_encoder import Normaliser
from m3po.networks.policy import EncodedPolicy
from m3po.networks.run_axis import stacked
from m3po.networks.stacked import StackedMLP
from m3po.runs.health import NamedTensors

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
    without = ~used.any(dim=-1, keepdim=True)
    precision = precisions.sum(dim=-2) + without
    return (precisions * mean).sum(dim=-2) / precision, 1 / precision


def divergence_from_prior(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mu, diag s^2) || N(0, I)) = 0.5 sum_j (s_j^2 + mu_j^2 - 1 - log s_j^2), in nats. [N, Z] each -> [N]."""
    return 0.5 * (variance + mean**2 - 1 - variance.log()).sum(dim=-1)


def chunk_starts(buffer: EnvironmentBuffer) -> Tensor:
    """The first steps of the chunks, ``CHUNK`` steps in a row, that every episode is cut into from its start."""
    steps = torch.arange(buffer.size, device=buffer.rewards.device)
    return steps[(steps - buffer.first[: buffer.size]) % CHUNK == 0]


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
            values.unfold(-2, self.history_length, 1)[..., :-1, :, :].mT for values in self._factors(chunks.tokens)
        )
        return product_of_gaussians(mean, variance, chunks.used.unfold(-1, self.history_length, 1)[..., :-1, :])

    def _factors(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of every token's factor: [N, T, 2 O + A] -> two [N, T, Z]."""
        outputs = self.factors(self.token_normaliser(tokens).flatten(-3, -2)).squeeze(-3)
        mean, raw = outputs.unflatten(-2, tokens.shape[-3:-1]).chunk(2, dim=-1)
        return mean, nn.functional.softplus(raw).clamp(min=LEAST_VARIANCE)

    def features(self, observation: Tensor, latent: Tensor) -> Tensor:
        """[N, O], [N, Z] -> [N, O + Z]."""
        return torch.cat([self.observation_normaliser(observation), latent], dim=-1)


@dataclass(frozen=True)
class LatentPolicy(EncodedPolicy[LatentEncoder]):
    """pi(a | o_t, z): z is drawn from the posterior at every step; the deterministic policy takes its mean."""

    def features(self, windows: Windows, generator: Generators, *, deterministic: bool) -> Tensor:
        latent, variance = self.encoder.posterior(windows.tokens, windows.lengths)
        if not deterministic:
            latent = latent + variance.sqrt() * normal(latent.shape, generator, latent.device)
        return self.encoder.features(windows.observation, latent)


def latent_transitions(
    encoder: LatentEncoder, chunks: Stretches, generator: Generators
) -> tuple[Transitions, Tensor, Tensor | None]:
    """The steps of N chunks as policy and critics read them, and mean_n KL(q(z | h_n) || N(0, I)).

    Both ends of a transition get the same z, drawn from the posterior at its beginning, as in the source.

    Returns:
        The transitions of the n steps that were used; the divergence; and, of several runs where some have used fewer
        than others, which of the n are not only there to fill up: [R, n] booleans, else None.
    """
    past = encoder.history_length
    places, valid = left_over(chunks.used[..., past:].flatten(-2))
    if valid is not None:  # copies of what takes part: as finite as that
        places = torch.where(valid, places, places[..., :1])

    def used(values: Tensor, axis: int) -> Tensor:
        return at(values.flatten(axis - 1, axis), places, of_runs=places.dim() == 2)

    mean, variance = (used(values, -2) for values in encoder.posteriors(chunks))
    latent = mean + variance.sqrt() * normal_rows(mean.shape, generator, mean.device, valid)
    observation, action, change = parts_of(used(chunks.tokens[..., past:, :], -2), encoder.observation_size)
    transitions = Transitions(
        encoder.features(observation, latent),
        action,
        used(chunks.reward, -1),
        encoder.features(observation + change, latent.detach()),
        used(chunks.not_terminal, -1),
    )
    return transitions, mean_of(divergence_from_prior(mean, variance), valid), valid


class Pearl(TrainingLoop):
    """A run of PEARL; ``PearlGroup`` has what it learns from each real step."""

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

    @classmethod
    def side_by_side(cls, runs: Sequence[Pearl]) -> PearlGroup:
        return PearlGroup(runs)

    def updates_with(self, name: str) -> int:
        return updates_with(name, self.updates, self.config.policy_interval)

    def learned_metrics(self, means: Mapping[str, float]) -> dict[str, Any]:
        return self.agent_warnings(means, self.target_entropy)

    def learned_state(self) -> dict[str, Any]:
        return self.agent.state()

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self.agent.load_state(state)


class PearlGroup(Group[Pearl]):
    """PEARL in the loop of real steps that every algorithm shares: G updates on real transitions after each step.

    Attributes:
        encoder, agent: of all runs.
        buffers: D_env.
    """

    def stack(self) -> None:
        self.buffers = EnvironmentBuffers([run.environment_buffer for run in self.runs])
        self.encoder = stacked([run.encoder for run in self.runs])
        self.agent = SoftActorCritic.of_runs([run.agent for run in self.runs], self.encoder)
        self.policy = LatentPolicy(self.encoder, self.agent.policy)

    def begin_epoch(self) -> None:
        for run in self.runs:
            run.encoder.fit(run.environment_buffer.tokens[: run.environment_buffer.size])
        for agent in (self.agent, *(run.agent for run in self.runs)):
            agent.set_learning_rate(self.runs[0].config.learning_rate_at(self.runs[0].steps))

    def learn(self, epoch_step: int) -> tuple[Sequence[UpdateMetrics], Callable[[int], Sequence[NamedTensors]]]:
        with self.stopwatch.measure("update"):
            starts = [chunk_starts(run.environment_buffer) for run in self.runs]
            whole = self.policy_too()
            batches = [self.drawn_chunks(starts) for _ in whole]
            metrics = [self.update(batch, policy_too=each) for batch, each in zip(batches, whole, strict=True)]
        return metrics, lambda place: [run_of(batch, place) for batch in batches]

    def drawn_chunks(self, starts: Sequence[Tensor]) -> Stretches:
        """A batch: chunks from any of the ``starts`` of each run, uniformly with replacement. Their windows of the last
        L steps overlap, and share their factors."""
        config = self.runs[0].config
        count = -(-config.batch_size // CHUNK)
        indices = [drawn(own, count, each) for own, each in zip(starts, self.generators, strict=True)]
        return self.buffers.stretches(torch.stack(indices), config.history_length, CHUNK)

    def update(self, chunks: Stretches, *, policy_too: bool = True) -> dict[str, Tensor]:
        """One update of the agents; the encoders descend the critics' loss + kl_weight * KL(q(z | h) || N(0, I))."""
        transitions, divergence, valid = latent_transitions(self.encoder, chunks, self.generators)
        penalties = {"kl_penalty": self.runs[0].config.kl_weight * divergence}
        return self.agent.update(transitions, self.generators, penalties, valid, policy_too=policy_too)
