"""D_env, the real transitions in the order they happened, and D_model, a ring of encoded fictitious ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Generic

import torch
from torch import Tensor

from m3po.data.draws import Generators, integers
from m3po.data.types import (
    Batch,
    Segments,
    Stretches,
    Windows,
    at,
    newest,
    parts_of,
    rows_of,
    run_of,
    stacked_tensors,
    token_of,
)


def drawn(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of ``indices`` [N], uniformly with replacement."""
    return indices[torch.randint(len(indices), (count,), generator=generator, device=indices.device)]


def windows_ending_at(
    indices: Tensor, tokens: Tensor, first: Tensor, observations: Tensor, history_length: int
) -> Windows:
    """The histories h_{L:t} of steps stored one after another; a window never reaches into another episode.

    In front of all shapes may stand the run axis.

    Args:
        indices: [N] which steps.
        tokens: [S, D] token s describes the step from o_s to o_{s+1}.
        first: [S] index of the first step of the episode that each step belongs to.
        observations: [S, O].
        history_length: L.

    Returns:
        N windows, each with the n = min(L, s - first[s]) tokens before its step.
    """
    of_runs = first.dim() == 2
    lengths = (indices - at(first, indices, of_runs=of_runs)).clamp(max=history_length)
    places = indices.unsqueeze(-1) + torch.arange(-history_length, 0, device=indices.device)
    used = newest(lengths, history_length)
    gathered = torch.where(used[..., None], at(tokens, torch.where(used, places, 0), of_runs=of_runs), 0.0)
    return Windows(gathered, lengths, at(observations, indices, of_runs=of_runs))


class RealTransitions:
    """Real transitions in the order they happened, of one run or, with the run axis in front of all shapes, of several.

    Attributes:
        observations: [S, O].
        tokens: [S, 2 O + A].
        rewards: [S].
        terminated: [S] booleans.
        first: [S] int64, index of the first step of the episode; -1 where no step is stored yet.
        member_weights: [S, B].
        held_out: [S] booleans.
    """

    observations: Tensor
    tokens: Tensor
    rewards: Tensor
    terminated: Tensor
    first: Tensor
    member_weights: Tensor
    held_out: Tensor

    arrays = ("observations", "tokens", "rewards", "terminated", "first", "member_weights", "held_out")

    def __init__(self, history_length: int) -> None:
        self.history_length = history_length

    def _at(self, values: Tensor, indices: Tensor) -> Tensor:
        return at(values, indices, of_runs=self.rewards.dim() == 2)

    def windows(self, indices: Tensor) -> Windows:
        """The histories h_{L:t} before the steps at ``indices`` [N]."""
        return windows_ending_at(indices, self.tokens, self.first, self.observations, self.history_length)

    def segments(self, indices: Tensor) -> Segments:
        """The real transitions at ``indices`` [N] with their past."""
        windows = self.windows(indices)
        tokens = torch.cat([windows.tokens, self._at(self.tokens, indices).unsqueeze(-2)], dim=-2)
        not_terminal = (~self._at(self.terminated, indices)).float()
        return Segments(tokens, windows.lengths, self._at(self.rewards, indices), not_terminal)

    def stretches(self, indices: Tensor, past: int, following: int) -> Stretches:
        """The ``following`` steps from each of ``indices`` [N] on, with the ``past`` before them."""
        steps = indices.unsqueeze(-1) + torch.arange(-past, following, device=indices.device)
        places = steps.clamp(0, self.rewards.shape[-1] - 1)
        same_episode = self._at(self.first, places) == self._at(self.first, indices).unsqueeze(-1)
        own = places[..., past:]
        not_terminal = (~self._at(self.terminated, own)).float()
        return Stretches(
            self._at(self.tokens, places), (steps == places) & same_episode, self._at(self.rewards, own), not_terminal
        )

    def weights(self, indices: Tensor) -> Tensor:
        """How much the steps at ``indices`` [N] weigh in each member's loss: [B, N]."""
        return self._at(self.member_weights, indices).mT


class EnvironmentBuffer(RealTransitions):
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
        super().__init__(history_length)
        self.capacity = capacity
        self.holdout = holdout
        self.size = 0
        self.observations = torch.zeros(capacity, observation_size, device=device)
        self.tokens = torch.zeros(capacity, 2 * observation_size + action_size, device=device)
        self.rewards = torch.zeros(capacity, device=device)
        self.terminated = torch.zeros(capacity, dtype=torch.bool, device=device)
        self.first = torch.full((capacity,), -1, device=device)
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
        return {name: getattr(self, name)[: self.size].clone() for name in self.arrays}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``."""
        self.size = len(state["rewards"])
        for name, values in state.items():
            getattr(self, name)[: self.size] = values


class EnvironmentBuffers(RealTransitions):
    """D_env of several runs side by side; ``buffers`` stay what they are and become views.

    Args:
        buffers: of equal sizes.
    """

    def __init__(self, buffers: Sequence[EnvironmentBuffer]) -> None:
        super().__init__(buffers[0].history_length)
        self.buffers = tuple(buffers)
        for name in self.arrays:
            setattr(self, name, stacked_tensors([getattr(each, name) for each in buffers]))

    def drawn(self, count: int, generators: Generators) -> Tensor:
        """Indices of ``count`` steps of each run, uniformly with replacement: [R, N]."""
        sizes = [each.size for each in self.buffers]
        return integers(sizes, (len(sizes), count), generators, self.rewards.device)


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

    def lay_out(self, store: Batch) -> None:
        """Keep what is stored in the arrays of ``store`` from now on."""
        if self._store is not None:
            for name, value in vars(self._store).items():
                getattr(store, name).copy_(value)
        self._store = store

    @property
    def row(self) -> Batch | None:
        """A record with one row of what is stored; None before the first ``add``."""
        return None if self._store is None else rows_of(self._store, slice(1))

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


class ModelBuffers(Generic[Batch]):
    """D_model of several runs side by side; ``buffers`` stay what they are, and keep their rows in arrays of all."""

    def __init__(self, buffers: Sequence[ModelBuffer[Batch]]) -> None:
        self.buffers: tuple[ModelBuffer[Batch], ...] = tuple(buffers)
        self._store: Batch | None = None
        row = next((each.row for each in buffers if each.row is not None), None)
        if row is not None:
            self._lay_out(row)

    def _lay_out(self, row: Batch) -> None:
        """Arrays for rows of any run like this one."""
        shape = len(self.buffers), self.buffers[0].capacity
        self._store = type(row)(
            **{name: value.new_zeros(*shape, *value.shape[1:]) for name, value in vars(row).items()}
        )
        for run, buffer in enumerate(self.buffers):
            buffer.lay_out(run_of(self._store, run))

    def clear(self) -> None:
        for each in self.buffers:
            each.clear()

    def add(self, batch: Batch, valid: Tensor | None = None) -> None:
        """Append [R, N] transitions, of them only the ``valid`` [R, N], over the oldest of their runs.

        Raises:
            ValueError: when they are more than a buffer holds.
        """
        if self._store is None:
            self._lay_out(run_of(rows_of(batch, slice(1)), 0))
        for run, buffer in enumerate(self.buffers):
            rows = run_of(batch, run)
            buffer.add(rows if valid is None else rows_of(rows, valid[run]))

    def sample(self, count: int, generators: Generators) -> Batch:
        """``count`` transitions of each run, uniformly with replacement: [R, N].

        Raises:
            ValueError: when the buffer of a run is empty.
        """
        sizes = [each.size for each in self.buffers]
        if self._store is None or 0 in sizes:
            raise ValueError("the model buffer is empty")
        return rows_of(self._store, integers(sizes, (len(sizes), count), generators, self._store.reward.device))
