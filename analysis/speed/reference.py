"""The algorithm's inner loops as one writes them first: what ``analysis.benchmark`` is measured against.

Same networks, same losses, same numbers (tests hold them together), but for the learned bounds of the ensemble's log
variance, which are left out; and every network is its own module with its own encoder and its own optimiser, members
and critics are a Python loop, and padded windows go through torch.nn.GRU.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from m3po.data.types import Segments
from m3po.networks.squashed_sample import LOG_STD_HIGH, LOG_STD_LOW


class SwishGated(nn.Module):
    """swish(u) * v of an affine map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        gate, value = self.linear(inputs).chunk(2, dim=-1)
        return nn.functional.silu(gate) * value


class Network(nn.Module):
    """Encoder and feed-forward network in one: tokens [N, L, D], lengths [N], inputs [N, I] -> [N, outputs].

    The ``lengths`` first tokens of a row are used, as torch.nn.GRU wants them.
    """

    def __init__(self, token_size: int, context_size: int, inputs: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.embed = SwishGated(token_size, context_size)
        self.gru = nn.GRU(context_size, context_size, batch_first=True)
        self.initial_context = nn.Parameter(torch.zeros(context_size))
        sizes = [inputs + context_size] + [width] * layers
        self.hidden = nn.Sequential(*(SwishGated(a, b) for a, b in pairwise(sizes)))
        self.output = nn.Linear(sizes[-1], outputs)

    def forward(self, tokens: Tensor, lengths: Tensor, observation: Tensor, action: Tensor | None = None) -> Tensor:
        initial = self.initial_context.expand(1, len(tokens), -1).contiguous()
        states, _ = self.gru(self.embed(tokens), initial)
        last = states[torch.arange(len(tokens), device=tokens.device), (lengths - 1).clamp(min=0)]
        context = torch.where(lengths[:, None] > 0, last, initial[0])
        parts = [observation, context] if action is None else [observation, context, action]
        return self.output(self.hidden(torch.cat(parts, dim=1)))


@dataclass(frozen=True)
class PlainBatch:
    """A batch of windows at t and t + 1, padded behind."""

    tokens: Tensor
    lengths: Tensor
    observation: Tensor
    action: Tensor
    reward: Tensor
    next_tokens: Tensor
    next_lengths: Tensor
    next_observation: Tensor
    not_terminal: Tensor

    @staticmethod
    def of(segments: Segments, observation_size: int) -> PlainBatch:
        """The same transitions."""
        limit = segments.tokens.shape[1] - 1
        step = segments.tokens[:, -1]
        observation = step[:, :observation_size]
        next_lengths = (segments.lengths + 1).clamp(max=limit)
        return PlainBatch(
            _padded_behind(segments.tokens[:, :-1], segments.lengths),
            segments.lengths,
            observation,
            step[:, observation_size:-observation_size],
            segments.reward,
            _padded_behind(segments.tokens[:, 1:], next_lengths),
            next_lengths,
            observation + step[:, -observation_size:],
            segments.not_terminal,
        )


def _padded_behind(tokens: Tensor, lengths: Tensor) -> Tensor:
    limit = tokens.shape[1]
    offsets = torch.arange(limit, device=tokens.device)
    places = (offsets + limit - lengths[:, None]) % limit
    moved = torch.gather(tokens, 1, places[..., None].expand_as(tokens))
    return torch.where((offsets < lengths[:, None])[..., None], moved, 0.0)


class PlainActorCritic:
    """Soft actor-critic with five networks, each with its own encoder, and an optimiser for each that learns."""

    def __init__(
        self, observation_size: int, action_size: int, context_size: int, width: int, layers: int,
        *, discount: float, target_rate: float, target_entropy: float, learning_rate: float, temperature: float,
    ) -> None:  # fmt: skip
        sizes = (2 * observation_size + action_size, context_size)
        self.policy = Network(*sizes, observation_size, width, layers, 2 * action_size)
        self.critics = [Network(*sizes, observation_size + action_size, width, layers, 1) for _ in range(2)]
        self.targets = [copy.deepcopy(critic).requires_grad_(False) for critic in self.critics]
        self.log_temperature = torch.full((), temperature).log().requires_grad_()
        self.discount, self.target_rate, self.target_entropy = discount, target_rate, target_entropy
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), lr=learning_rate)
        self.critic_optimisers = [torch.optim.Adam(each.parameters(), lr=learning_rate) for each in self.critics]
        self.temperature_optimiser = torch.optim.Adam([self.log_temperature], lr=learning_rate)

    def act(self, tokens: Tensor, lengths: Tensor, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A reparametrised action and its log density."""
        mean, log_std = self.policy(tokens, lengths, observation).chunk(2, dim=1)
        log_std = LOG_STD_LOW + 0.5 * (LOG_STD_HIGH - LOG_STD_LOW) * (torch.tanh(log_std) + 1)
        gaussian = Normal(mean, torch.exp(log_std))
        raw = mean + gaussian.stddev * noise
        correction = 2 * (math.log(2) - raw - nn.functional.softplus(-2 * raw))
        return torch.tanh(raw), (gaussian.log_prob(raw) - correction).sum(dim=1)

    def update(self, batch: PlainBatch, noise: Tensor) -> dict[str, Tensor]:
        """One step of every network; ``noise`` [2, N, A] as m3po.agents.sac draws it."""
        temperature = self.log_temperature.exp().detach()
        following = (batch.next_tokens, batch.next_lengths, batch.next_observation)
        here = (batch.tokens, batch.lengths, batch.observation)
        with torch.no_grad():
            action, log_density = self.act(*following, noise[0])
            values = [target(*following, action)[:, 0] for target in self.targets]
            value = torch.minimum(*values) - temperature * log_density
            target = batch.reward + self.discount * batch.not_terminal * value
        loss_q = torch.zeros(())
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            loss = 0.5 * ((critic(*here, batch.action)[:, 0] - target) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss_q = loss_q + loss.detach()
        action, log_density = self.act(*here, noise[1])
        value = torch.minimum(*(critic(*here, action)[:, 0] for critic in self.critics))
        loss_pi = (temperature * log_density - value).mean()
        self.policy_optimiser.zero_grad()
        loss_pi.backward()
        self.policy_optimiser.step()
        loss_t = -self.log_temperature * (log_density.detach().mean() + self.target_entropy)
        self.temperature_optimiser.zero_grad()
        loss_t.backward()
        self.temperature_optimiser.step()
        with torch.no_grad():
            for critic, slow in zip(self.critics, self.targets, strict=True):
                for parameter, target_parameter in zip(critic.parameters(), slow.parameters(), strict=True):
                    target_parameter.mul_(1 - self.target_rate).add_(self.target_rate * parameter)
        return {"critic_loss": loss_q, "policy_loss": loss_pi.detach(), "q_mean": target.mean()}


class PlainEnsemble:
    """B separate models (mean and log variance of a normalised target), each with its own encoder and optimiser."""

    def __init__(
        self, members: int, observation_size: int, action_size: int, context_size: int, width: int, layers: int
    ) -> None:
        self.members = [
            Network(
                2 * observation_size + action_size, context_size, observation_size + action_size, width, layers,
                2 * (observation_size + 1),
            )
            for _ in range(members)
        ]  # fmt: skip
        self.optimisers = [torch.optim.Adam(member.parameters(), lr=1e-3) for member in self.members]

    def update(self, batch: PlainBatch, target: Tensor, weights: Tensor) -> None:
        """One gradient step of every member on the weighted negative log likelihood. Shapes [N, O + 1], [N, B]."""
        for number, (member, optimiser) in enumerate(zip(self.members, self.optimisers, strict=True)):
            mean, log_variance = member(batch.tokens, batch.lengths, batch.observation, batch.action).chunk(2, dim=1)
            losses = 0.5 * ((target - mean) ** 2 * torch.exp(-log_variance) + log_variance).sum(dim=1)
            optimiser.zero_grad()
            (weights[:, number] * losses).mean().backward()
            optimiser.step()
