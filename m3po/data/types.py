"""The arrays that travel between modules. Tensors are float32 unless said otherwise; N is a batch, L the window.

In front of the shapes given here may stand the run axis: [R, N, ...], of R runs side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

# Batches of windows larger than this are worked through in parts: they would spend their time on memory.
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Windows:
    """N truncated histories h_{L:t} = (o_{t-n}, a_{t-n}, ..., o_t), n = min(t, L).

    A step of the past is one token (o_s, a_s, o_{s+1} - o_s). The difference adds nothing that is not in h_t; it spares
    the encoder from subtracting. The newest token stands last, the ``lengths`` newest places are used and those before
    them are zero, so that one step in time is one place to the left.

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
        *rows, observation_size = observation.shape
        tokens = observation.new_zeros(*rows, history_length, 2 * observation_size + action_size)
        lengths = torch.zeros(rows, dtype=torch.int64, device=observation.device)
        return Windows(tokens, lengths, observation)

    def push(self, action: Tensor, next_observation: Tensor, change: Tensor | None = None) -> Windows:
        """h_{L:t}, a_t, o_{t+1} -> h_{L:t+1}: append a token and forget the oldest when the window is full.

        ``change``: as in ``token_of``.
        """
        limit = self.tokens.shape[-2]
        if limit == 0:
            return Windows(self.tokens, self.lengths, next_observation)
        token = token_of(self.observation, action, next_observation, change)
        tokens = torch.cat([self.tokens[..., 1:, :], token.unsqueeze(-2)], dim=-2)
        return Windows(tokens, (self.lengths + 1).clamp(max=limit), next_observation)

    def forget(self, lengths: Tensor) -> Windows:
        """Keep only the newest ``lengths`` [N] tokens of each window (0 <= lengths <= self.lengths)."""
        kept = newest(lengths, self.tokens.shape[-2])
        return Windows(torch.where(kept[..., None], self.tokens, 0.0), lengths, self.observation)

    def select(self, rows: Tensor) -> Windows:
        """The windows at ``rows``: indices, or booleans where there is no run axis."""
        return rows_of(self, rows)


def newest(lengths: Tensor, limit: int) -> Tensor:
    """Which of ``limit`` places the ``lengths`` [N] newest are. Shape [N, limit], booleans."""
    return torch.arange(limit, device=lengths.device) >= limit - lengths.unsqueeze(-1)


def token_of(observation: Tensor, action: Tensor, next_observation: Tensor, change: Tensor | None = None) -> Tensor:
    """(o_s, a_s, o_{s+1} - o_s). Shapes [..., O], [..., A], [..., O] -> [..., 2 O + A].

    ``change`` [..., O] is the difference where it is known better than from float32 observations.
    """
    return torch.cat([observation, action, next_observation - observation if change is None else change], dim=-1)


def parts_of(token: Tensor, observation_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """o_s, a_s and o_{s+1} - o_s of tokens. Shape [..., 2 O + A] -> [..., O], [..., A], [..., O]."""
    return token[..., :observation_size], token[..., observation_size:-observation_size], token[..., -observation_size:]


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


@dataclass(frozen=True)
class Segments:
    """N transitions as they happened, each with its past: h_{L:t} and the step to o_{t+1}, not encoded.

    The last token is the step (o_t, a_t, o_{t+1} - o_t) itself and the L before it are h_{L:t}'s, so the last L are
    h_{L:t+1}'s: both windows are read from the same tokens.

    Attributes:
        tokens: [N, L + 1, 2 O + A], in the environment's units; of the first L the ``lengths`` newest are used.
        lengths: [N] int64, past steps of h_{L:t}, in 0..L.
        reward: [N].
        not_terminal: [N], as in Transitions.
    """

    tokens: Tensor
    lengths: Tensor
    reward: Tensor
    not_terminal: Tensor

    @staticmethod
    def of(
        windows: Windows, action: Tensor, next_observation: Tensor, reward: Tensor, not_terminal: Tensor
    ) -> Segments:
        """The steps that follow the given windows."""
        token = token_of(windows.observation, action, next_observation)
        tokens = torch.cat([windows.tokens, token.unsqueeze(-2)], dim=-2)
        return Segments(tokens, windows.lengths, reward, not_terminal)

    def examples(self, observation_size: int) -> tuple[Windows, Tensor, Tensor]:
        """What a model learns from: the N histories, actions [N, A], and (o_{t+1} - o_t, r_t) [N, O + 1]."""
        observation, action, change = parts_of(self.tokens[..., -1, :], observation_size)
        targets = torch.cat([change, self.reward.unsqueeze(-1)], dim=-1)
        return Windows(self.tokens[..., :-1, :], self.lengths, observation), action, targets


@dataclass(frozen=True)
class Stretches:
    """N runs of c steps in a row within an episode, each behind as many steps of its past as there are, at most M.

    Attributes:
        tokens: [N, M + c, 2 O + A], in the environment's units.
        used: [N, M + c] booleans: which places hold steps of the episode that step number M is of; it always is one.
        reward, not_terminal: [N, c], of the last c steps, as in Transitions.
    """

    tokens: Tensor
    used: Tensor
    reward: Tensor
    not_terminal: Tensor


Batch = TypeVar("Batch", Transitions, Segments)


Record = TypeVar("Record", Windows, Transitions, Segments)
AnyRecord = TypeVar("AnyRecord", Windows, Transitions, Segments, Stretches)


def at(values: Tensor, places: Tensor, *, of_runs: bool) -> Tensor:
    """values[places] along the first axis: [S, ...], [N, ...] -> [N, ..., ...]; of every run by itself where the first
    axis of both is that of runs."""
    if not of_runs:
        return values[places]
    before = torch.arange(len(values), device=places.device) * values.shape[1]
    return values.flatten(0, 1)[places + before.view(-1, *[1] * (places.dim() - 1))]


def has_runs(record: Record) -> bool:
    """Whether the first axis of a record is that of runs."""
    return (record.lengths if isinstance(record, Windows) else record.reward).dim() == 2


def rows_of(record: Record, rows: Tensor | slice) -> Record:
    """The same record of only some ``rows``: a slice, of every run, or indices [N], with a run axis [R, N]."""
    of_runs = has_runs(record)

    def part(values: Tensor) -> Tensor:
        if isinstance(rows, slice):
            return values[:, rows] if of_runs else values[rows]
        return at(values, rows, of_runs=of_runs)

    return type(record)(**{field.name: part(getattr(record, field.name)) for field in fields(record)})


def run_of(record: AnyRecord, run: int) -> AnyRecord:
    """One run's part of a record with a run axis."""
    return type(record)(**{field.name: getattr(record, field.name)[run] for field in fields(record)})


def mean_of(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the last axis, of those that are ``valid``; None: of all. Shapes [..., N], [..., N] -> [...]."""
    return values.mean(dim=-1) if valid is None else (values * valid).sum(dim=-1) / valid.sum(dim=-1)


def side_by_side(records: Sequence[AnyRecord]) -> AnyRecord:
    """Records of several runs along a new run axis."""
    names = [field.name for field in fields(records[0])]
    return type(records[0])(**{name: torch.stack([getattr(each, name) for each in records]) for name in names})


def stacked_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors along a new first axis; they become views of it."""
    values = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, values, strict=True):
        tensor.data = view
    return values


def joined(records: Sequence[Record]) -> Record:
    """Several records of one kind, and of the same runs, after one another."""
    names, axis = [field.name for field in fields(records[0])], int(has_runs(records[0]))
    return type(records[0])(**{name: torch.cat([getattr(each, name) for each in records], dim=axis) for name in names})
