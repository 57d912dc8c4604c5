"""History -> features: a GRU over the truncated history, and the normalisation that model, policy and critics share.

In front of the shapes given here may stand the run axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from m3po.data.types import Segments, Transitions, Windows, parts_of
from m3po.networks.recurrent_scan import GRU
from m3po.networks.run_axis import Linear, aligned
from m3po.networks.stacked import Gated


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
        return (values - aligned(self.mean, values)) / aligned(self.std, values)


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
        self.observation_size = observation_size
        self.action_size = action_size
        self.token_normaliser = Normaliser(2 * observation_size + action_size)
        self.observation_normaliser = Normaliser(observation_size)
        self.feature_size = observation_size
        if history_length > 0:
            self.embed = Gated(Linear(2 * observation_size + action_size, 2 * context_size))
            self.gru = GRU(context_size, context_size)
            self.initial_context = nn.Parameter(torch.zeros(context_size))
            self.feature_size += context_size

    def fit(self, tokens: Tensor) -> None:
        """Fit both normalisers to tokens [N, 2 O + A]."""
        self.token_normaliser.fit(tokens)
        self.observation_normaliser.fit(tokens[:, : self.observation_size])

    def copy_normalisers(self, other: ContextEncoder) -> None:
        """Take both normalisers from another encoder of the same sizes."""
        self.token_normaliser.load_state_dict(other.token_normaliser.state_dict())
        self.observation_normaliser.load_state_dict(other.observation_normaliser.state_dict())

    def forward(self, windows: Windows) -> Tensor:
        """N windows -> [N, feature_size]."""
        observation = self.observation_normaliser(windows.observation)
        if self.history_length == 0:
            return observation
        return torch.cat([observation, self._context(self._gates(windows.tokens), windows.lengths)], dim=-1)

    def transitions(self, segments: Segments) -> Transitions:
        """Encode both ends of N transitions; ``next_features`` carry no gradient, as targets need.

        The two windows share all but one token, and so the work on tokens.
        """
        limit = self.history_length
        observation, action, change = parts_of(segments.tokens[..., -1, :], self.observation_size)
        features = self.observation_normaliser(observation)
        next_features = self.observation_normaliser(observation + change)
        if limit > 0:
            gates = self._gates(segments.tokens[..., :-1, :])
            context = self._context(gates, segments.lengths)
            with torch.no_grad():
                last = self._gates(segments.tokens[..., -1:, :]).squeeze(-3)
                shifted = [*gates.detach().unbind(-3)[1:], last]
                next_context = self._context(shifted, (segments.lengths + 1).clamp(max=limit))
            features = torch.cat([features, context], dim=-1)
            next_features = torch.cat([next_features, next_context], dim=-1)
        return Transitions(features, action, segments.reward, next_features, segments.not_terminal)

    def _gates(self, tokens: Tensor) -> Tensor:
        """[N, T, 2 O + A] -> the tokens' part of the gates, time first: [T, N, 3 context_size]."""
        return self.gru.gates(self.embed(self.token_normaliser(tokens.transpose(-3, -2))))

    def _context(self, gates: Tensor | Sequence[Tensor], lengths: Tensor) -> Tensor:
        """T times [N, 3 context_size], [N] -> z [N, context_size]."""
        return self.gru.scan(gates, self.initial_context.unsqueeze(-2).expand(*lengths.shape, -1), lengths)
