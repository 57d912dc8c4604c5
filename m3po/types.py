"""The arrays that travel between modules. Tensors are float32 unless said otherwise; N is a batch, L the window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """N truncated histories h_{L:t} = (o_{t-n}, a_{t-n}, ..., o_t), n = min(t, L).

    A step of the past is one token (o_s, a_s, o_{s+1} - o_s). The difference adds nothing that is not in h_t; it spares
    the encoder from subtracting. Tokens fill the first ``lengths`` places in time order and the rest is zero.

    Attributes:
        tokens: [N, L, 2 O + A], in the environment's units.
        lengths: [N] int64, n in 0..L.
        observation: [N, O], o_t.
    """

    tokens: Tensor
    lengths: Tensor
    observation: Tensor

    @staticmethod
    def initial(observation: Tensor, history_length: int, action_size: int) -> Windows:
        """The histories (o_0). Shape [N, O] -> N windows with no past."""
        count, observation_size = observation.shape
        tokens = observation.new_zeros(count, history_length, 2 * observation_size + action_size)
        lengths = torch.zeros(count, dtype=torch.int64, device=observation.device)
        return Windows(tokens, lengths, observation)

    def push(self, action: Tensor, next_observation: Tensor) -> Windows:
        """h_{L:t}, a_t, o_{t+1} -> h_{L:t+1}: append a token and forget the oldest when the window is full."""
        limit = self.tokens.shape[1]
        if limit == 0:
            return Windows(self.tokens, self.lengths, next_observation)
        token = token_of(self.observation, action, next_observation)
        full = self.lengths == limit
        tokens = torch.where(full[:, None, None], self.tokens.roll(-1, dims=1), self.tokens)
        rows = torch.arange(len(tokens), device=tokens.device)
        tokens[rows, self.lengths.clamp(max=limit - 1)] = token
        return Windows(tokens, (self.lengths + 1).clamp(max=limit), next_observation)

    def forget(self, lengths: Tensor) -> Windows:
        """Keep only the newest ``lengths`` [N] tokens of each window (0 <= lengths <= self.lengths)."""
        limit = self.tokens.shape[1]
        if limit == 0:
            return self
        offsets = torch.arange(limit, device=self.tokens.device)
        places = (offsets + (self.lengths - lengths)[:, None]).clamp(max=limit - 1)
        kept = torch.gather(self.tokens, 1, places[..., None].expand_as(self.tokens))
        tokens = torch.where((offsets < lengths[:, None])[..., None], kept, 0.0)
        return Windows(tokens, lengths, self.observation)

    def select(self, rows: Tensor) -> Windows:
        """The windows at ``rows`` (indices or booleans)."""
        return Windows(self.tokens[rows], self.lengths[rows], self.observation[rows])


def token_of(observation: Tensor, action: Tensor, next_observation: Tensor) -> Tensor:
    """(o_s, a_s, o_{s+1} - o_s). Shapes [..., O], [..., A], [..., O] -> [..., 2 O + A]."""
    return torch.cat([observation, action, next_observation - observation], dim=-1)


@dataclass(frozen=True)
class Transitions:
    """N transitions as the soft actor-critic sees them: histories already encoded.

    Attributes:
        features, next_features: [N, F], the encodings of h_{L:t} and h_{L:t+1}.
        action: [N, A] in [-1, 1].
        reward: [N].
        not_terminal: [N], 0 where the episode ended in an absorbing zero-reward state at t + 1, else 1. Truncation by a
            time limit is not an end.
    """

    features: Tensor
    action: Tensor
    reward: Tensor
    next_features: Tensor
    not_terminal: Tensor
