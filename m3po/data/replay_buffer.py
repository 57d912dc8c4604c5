"""D_env, the real transitions in the order they happened, and D_model, a ring of encoded fictitious ones."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Generic

import torch
from torch import Tensor

from m3po.data.types import Batch, Segments, Stretches, Windows, newest, parts_of, rows_of, token_of


def drawn(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of ``indices`` [N], uniformly with replacement."""
    return indices[torch.randint(len(indices), (count,), generator=generator, device=indices.device)]


def windows_ending_at(
    indices: Tensor, tokens: Tensor, first: Tensor, observations: Tensor, history_length: int
) -> Windows:
    """The histories h_{L:t} of steps stored one after another; a window never reaches into another episode.

    Args:
        indices: [N] which steps.
        tokens: [S, D] token s describes the step from o_s to o_{s+1}.
        first: [S] index of the first step of the episode that each step belongs to.
        observations: [S, O].
        history_length: L.

    Returns:
        N windows, each with the n = min(L, s - first[s]) tokens before its step.
    """
    lengths = (indices - first[indices]).clamp(max=history_length)
    places = indices[:, None] + torch.arange(-history_length, 0, device=indices.device)
    used = newest(lengths, history_length)
    gathered = torch.where(used[..., None], tokens[torch.where(used, places, 0)], 0.0)
    return Windows(gathered, lengths, observations[indices])


class EnvironmentBuffer:
    """D_env: every real transition, never overwritten, with its fixed part in the bootstrap and in the holdout.

    Args:
        capacity: most transitions it will hold.
        members: ensemble members; each transition weighs a Poisson(1) count in each member's loss (online bootstrap).
        holdout: share of transitions kept out of model training, in [0, 1).

    Attributes:
        size: transitions stored.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        *,
        history_length: int,
        members: int,
        holdout: float,
        device: torch.device,
    ) -> None:
        self.capacity = capacity
        self.history_length = history_length
        self.holdout = holdout
        self.size = 0
        self.observations = torch.zeros(capacity, observation_size, device=device)
        self.tokens = torch.zeros(capacity, 2 * observation_size + action_size, device=device)
        self.rewards = torch.zeros(capacity, device=device)
        self.terminated = torch.zeros(capacity, dtype=torch.bool, device=device)
        self.first = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.member_weights = torch.zeros(capacity, members, device=device)
        self.held_out = torch.zeros(capacity, dtype=torch.bool, device=device)
        self._observation_size = observation_size

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: float,
        next_observation: Tensor,
        *,
        change: Tensor | None = None,
        terminated: bool,
        starts_episode: bool,
        generator: torch.Generator,
    ) -> None:
        """Append one transition; ``change`` as in ``token_of``.

        Raises:
            ValueError: when the buffer is full.
        """
        if self.size == self.capacity:
            raise ValueError(f"the environment buffer is full ({self.capacity} transitions)")
        here = self.size
        self.observations[here] = observation
        self.tokens[here] = token_of(observation, action, next_observation, change)
        self.rewards[here] = reward
        self.terminated[here] = terminated
        self.first[here] = here if starts_episode else self.first[here - 1]
        self.member_weights[here] = torch.poisson(torch.ones(self.member_weights.shape[1]), generator=generator)
        self.held_out[here] = torch.rand((), generator=generator).item() < self.holdout
        self.size += 1

    def windows(self, indices: Tensor) -> Windows:
        """The histories h_{L:t} before the steps at ``indices`` [N]."""
        return windows_ending_at(indices, self.tokens, self.first, self.observations, self.history_length)

    def segments(self, indices: Tensor) -> Segments:
        """The real transitions at ``indices`` [N] with their past."""
        windows = self.windows(indices)
        tokens = torch.cat([windows.tokens, self.tokens[indices, None]], dim=1)
        return Segments(tokens, windows.lengths, self.rewards[indices], (~self.terminated[indices]).float())

    def sample_segments(self, count: int, generator: torch.Generator) -> Segments:
        """``count`` real transitions with their past, uniformly with replacement."""
        return self.segments(torch.randint(self.size, (count,), generator=generator, device=self.rewards.device))

    def stretches(self, indices: Tensor, past: int, following: int) -> Stretches:
        """The ``following`` steps from each of ``indices`` [N] on, with the ``past`` before them."""
        places = indices[:, None] + torch.arange(-past, following, device=indices.device)
        used = (places >= 0) & (places < self.size)
        places = torch.where(used, places, 0)
        used &= self.first[places] == self.first[indices][:, None]
        own = places[:, past:]
        return Stretches(self.tokens[places], used, self.rewards[own], (~self.terminated[own]).float())

    def actions(self, indices: Tensor) -> Tensor:
        """a_t of the steps at ``indices``: [N, A]."""
        return parts_of(self.tokens[indices], self._observation_size)[1]

    def targets(self, indices: Tensor) -> Tensor:
        """What the model predicts, (o_{t+1} - o_t, r_t): [N, O + 1]."""
        return torch.cat([self.tokens[indices, -self._observation_size :], self.rewards[indices, None]], dim=1)

    def outcomes(self) -> Tensor:
        """(o_{t+1}, r_t) of every step: [size, O + 1]."""
        changes = self.tokens[: self.size, -self._observation_size :]
        return torch.cat([self.observations[: self.size] + changes, self.rewards[: self.size, None]], dim=1)

    def initial_indices(self) -> Tensor:
        """Indices of the first step of every episode."""
        steps = torch.arange(self.size, device=self.first.device)
        return steps[self.first[: self.size] == steps]

    def state(self) -> dict[str, Tensor]:
        """The used part of every array, for a checkpoint."""
        names = ("observations", "tokens", "rewards", "terminated", "first", "member_weights", "held_out")
        return {name: getattr(self, name)[: self.size].clone() for name in names}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``."""
        self.size = len(state["rewards"])
        for name, values in state.items():
            getattr(self, name)[: self.size] = values


class ModelBuffer(Generic[Batch]):
    """D_model: the newest ``capacity`` fictitious transitions, either encoded (Transitions) or as they are (Segments).

    Encodings die with the encoder that made them: ``clear`` after every training of the model. The arrays are laid out
    by the first batch.

    Attributes:
        size: transitions stored.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._next = 0
        self._store: Batch | None = None

    def clear(self) -> None:
        self.size = self._next = 0

    def add(self, batch: Batch) -> None:
        """Append N transitions, N <= capacity, over the oldest.

        Raises:
            ValueError: when the batch is larger than the buffer.
        """
        count = len(batch.reward)
        if count > self.capacity:
            raise ValueError(f"{count} transitions do not fit into a model buffer of {self.capacity}")
        if self._store is None:
            self._store = type(batch)(
                **{name: value.new_zeros(self.capacity, *value.shape[1:]) for name, value in vars(batch).items()}
            )
        until_end = min(count, self.capacity - self._next)
        for field in fields(batch):
            stored, added = getattr(self._store, field.name), getattr(batch, field.name)
            stored[self._next : self._next + until_end] = added[:until_end]
            stored[: count - until_end] = added[until_end:]
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """``count`` transitions, uniformly with replacement.

        Raises:
            ValueError: when the buffer is empty.
        """
        if self._store is None or self.size == 0:
            raise ValueError("the model buffer is empty")
        device = self._store.reward.device
        return rows_of(self._store, torch.randint(self.size, (count,), generator=generator, device=device))

    def state(self) -> dict[str, Any]:
        """The used part of every array, for a checkpoint; they lie in the ring's order."""
        arrays = {} if self._store is None else vars(rows_of(self._store, slice(self.size)))
        return {"next": self._next, "arrays": {name: value.clone() for name, value in arrays.items()}}

    def load_state(self, state: dict[str, Any], kind: type[Batch]) -> None:
        """Inverse of ``state``; ``kind`` is what the buffer holds."""
        self.clear()
        if state["arrays"]:
            self.add(kind(**state["arrays"]))
        self._next = state["next"]
