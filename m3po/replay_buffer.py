"""D_env, the real transitions in the order they happened, and D_model, a ring of encoded fictitious ones."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from m3po.types import Transitions, Windows, token_of


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
    offsets = torch.arange(history_length, device=indices.device)
    places = (indices - lengths)[:, None] + offsets
    used = offsets < lengths[:, None]
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
        terminated: bool,
        starts_episode: bool,
        generator: torch.Generator,
    ) -> None:
        """Append one transition.

        Raises:
            ValueError: when the buffer is full.
        """
        if self.size == self.capacity:
            raise ValueError(f"the environment buffer is full ({self.capacity} transitions)")
        here = self.size
        self.observations[here] = observation
        self.tokens[here] = token_of(observation, action, next_observation)
        self.rewards[here] = reward
        self.terminated[here] = terminated
        self.first[here] = here if starts_episode else self.first[here - 1]
        self.member_weights[here] = torch.poisson(torch.ones(self.member_weights.shape[1]), generator=generator)
        self.held_out[here] = torch.rand((), generator=generator).item() < self.holdout
        self.size += 1

    def windows(self, indices: Tensor) -> Windows:
        """The histories h_{L:t} before the steps at ``indices`` [N]."""
        return windows_ending_at(indices, self.tokens, self.first, self.observations, self.history_length)

    def actions(self, indices: Tensor) -> Tensor:
        """a_t of the steps at ``indices``: [N, A]."""
        size = self._observation_size
        return self.tokens[indices, size:-size]

    def targets(self, indices: Tensor) -> Tensor:
        """What the model predicts, (o_{t+1} - o_t, r_t): [N, O + 1]."""
        return torch.cat([self.tokens[indices, -self._observation_size :], self.rewards[indices, None]], dim=1)

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


class ModelBuffer:
    """D_model: the newest ``capacity`` encoded transitions.

    They are encodings, so they die with the encoder that made them: ``clear`` after every training of the model.
    """

    def __init__(self, capacity: int, feature_size: int, action_size: int, *, device: torch.device) -> None:
        self.capacity = capacity
        self.size = 0
        self._next = 0
        self._store = Transitions(
            features=torch.zeros(capacity, feature_size, device=device),
            action=torch.zeros(capacity, action_size, device=device),
            reward=torch.zeros(capacity, device=device),
            next_features=torch.zeros(capacity, feature_size, device=device),
            not_terminal=torch.zeros(capacity, device=device),
        )

    def clear(self) -> None:
        self.size = self._next = 0

    def add(self, batch: Transitions) -> None:
        """Append N transitions, N <= capacity, over the oldest.

        Raises:
            ValueError: when the batch is larger than the buffer.
        """
        count = len(batch.reward)
        if count > self.capacity:
            raise ValueError(f"{count} transitions do not fit into a model buffer of {self.capacity}")
        places = (self._next + torch.arange(count, device=batch.reward.device)) % self.capacity
        for field in fields(Transitions):
            getattr(self._store, field.name)[places] = getattr(batch, field.name)
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """``count`` transitions, uniformly with replacement.

        Raises:
            ValueError: when the buffer is empty.
        """
        if self.size == 0:
            raise ValueError("the model buffer is empty")
        rows = torch.randint(self.size, (count,), generator=generator, device=self._store.reward.device)
        return Transitions(**{field.name: getattr(self._store, field.name)[rows] for field in fields(Transitions)})
