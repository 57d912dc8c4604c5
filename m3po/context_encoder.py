"""History -> features: a GRU over the truncated history, and the normalisation that model, policy and critics share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m3po.networks import Gated
from m3po.types import Windows


class Normaliser(nn.Module):
    """x -> (x - mean) / std, with mean and std fixed between calls of ``fit``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.mean: Tensor
        self.std: Tensor

    def fit(self, values: Tensor) -> None:
        """Take mean and standard deviation from ``values`` [N, size]; a constant coordinate keeps scale 1."""
        std, mean = torch.std_mean(values, dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std


class ContextEncoder(nn.Module):
    """h_{L:t} -> features (normalised o_t, z_t), z_t the last hidden state of a GRU over the window's tokens.

    Following section 6 and Figure 5 of the paper, the past goes through the recurrent network and the present
    observation goes past it. The GRU starts from a learned state, which is z_t at the start of an episode, where there
    is no past. History length 0 leaves o_t alone (then M3PO is MBPO).

    Attributes:
        feature_size: O + context_size (O when history_length is 0).
    """

    def __init__(self, observation_size: int, action_size: int, history_length: int, context_size: int) -> None:
        super().__init__()
        self.history_length = history_length
        self.action_size = action_size
        self.token_normaliser = Normaliser(2 * observation_size + action_size)
        self.observation_normaliser = Normaliser(observation_size)
        self.feature_size = observation_size
        if history_length > 0:
            self.embed = Gated(nn.Linear(2 * observation_size + action_size, 2 * context_size))
            self.gru = nn.GRU(context_size, context_size, batch_first=True)
            self.initial_context = nn.Parameter(torch.zeros(context_size))
            self.feature_size += context_size

    def fit(self, tokens: Tensor) -> None:
        """Fit both normalisers to tokens [N, 2 O + A]."""
        self.token_normaliser.fit(tokens)
        self.observation_normaliser.fit(tokens[:, : len(self.observation_normaliser.mean)])

    def forward(self, windows: Windows) -> Tensor:
        """N windows -> [N, feature_size]."""
        observation = self.observation_normaliser(windows.observation)
        if self.history_length == 0:
            return observation
        count = len(windows.lengths)
        initial = self.initial_context.expand(1, count, -1).contiguous()
        hidden, _ = self.gru(self.embed(self.token_normaliser(windows.tokens)), initial)
        rows = torch.arange(count, device=hidden.device)
        context = hidden[rows, (windows.lengths - 1).clamp(min=0)]
        context = torch.where(windows.lengths[:, None] > 0, context, initial[0])
        return torch.cat([observation, context], dim=1)
