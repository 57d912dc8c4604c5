"""Small instances of the algorithm's parts, and the slow, obvious history that the fast ones are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m3po.config import Config
from m3po.data.replay_buffer import EnvironmentBuffer
from m3po.data.types import Windows
from m3po.networks.context_encoder import ContextEncoder
from m3po.networks.model import EnsembleModel
from m3po.networks.policy import GaussianPolicy
from m3po.networks.stacked import StackedLinear, StackedMLP

OBSERVATION, ACTION = 3, 2
CPU = torch.device("cpu")
# What every algorithm reads. Epochs end with the episodes of 100 steps, so that a checkpoint never cuts one.
TINY: dict[str, Any] = {
    "total_steps": 300, "initial_random_steps": 100, "epoch_steps": 100, "width": 8, "layers": 1, "history_length": 3,
    "rollout_interval": 20, "updates_per_step": 1, "batch_size": 16, "evaluation_episodes": 4, "device": "cpu",
}  # fmt: skip
TINY_MODEL = TINY | {
    "context_size": 4, "ensemble_size": 2, "model_batch_size": 32, "model_updates": 20, "rollouts_per_step": 4,
    "measure_episodes": 4,
}  # fmt: skip


def advanced(algorithm: Callable[[Config], Any], config: Config, stop: int | None) -> tuple[list[dict[str, Any]], Any]:
    """The rows of a training without its times, and the training at its end.

    After ``stop`` steps another training goes on from its state.
    """
    training, rows = algorithm(config), []
    while not training.finished:
        row = training.advance()
        if row is not None:
            rows.append({name: value for name, value in row.items() if not name.endswith("seconds")})
        if training.steps == stop:
            saved, training = training.state(), algorithm(config)
            training.load_state(saved)
            assert training.collection.resume_episode()
            stop = None
    return rows, training


@dataclass(frozen=True)
class Episode:
    """One episode as python lists: T + 1 observations, T actions, T rewards."""

    observations: list[list[float]]
    actions: list[list[float]]
    rewards: list[float]

    def window(self, t: int, history_length: int) -> tuple[list[list[float]], list[float]]:
        """The tokens of h_{L:t}, oldest first, and o_t."""
        tokens = []
        for s in range(max(t - history_length, 0), t):
            before, after = self.observations[s], self.observations[s + 1]
            change = [b - a for a, b in zip(before, after, strict=True)]
            tokens.append([*before, *self.actions[s], *change])
        return tokens, self.observations[t]


def episodes_of(lengths: Sequence[int], seed: int) -> list[Episode]:
    """Random episodes with these numbers of steps."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Episode(
            torch.randn(steps + 1, OBSERVATION, generator=generator).tolist(),
            (2 * torch.rand(steps, ACTION, generator=generator) - 1).tolist(),
            torch.randn(steps, generator=generator).tolist(),
        )
        for steps in lengths
    ]


def filled_buffer(
    episodes: Sequence[Episode],
    history_length: int,
    *,
    members: int = 2,
    holdout: float = 0.2,
    seed: int = 0,
    capacity: int | None = None,
) -> EnvironmentBuffer:
    """A buffer of exactly these episodes, step by step, with room for no more unless it has another ``capacity``."""
    buffer = EnvironmentBuffer(
        capacity or max(sum(len(episode.rewards) for episode in episodes), 1),
        OBSERVATION,
        ACTION,
        history_length=history_length,
        members=members,
        holdout=holdout,
        device=CPU,
    )
    generator = torch.Generator().manual_seed(seed)
    for episode in episodes:
        for t, reward in enumerate(episode.rewards):
            buffer.add(
                torch.tensor(episode.observations[t]),
                torch.tensor(episode.actions[t]),
                reward,
                torch.tensor(episode.observations[t + 1]),
                terminated=False,
                starts_episode=t == 0,
                generator=generator,
            )
    return buffer


def assert_window(windows: Windows, row: int, tokens: list[list[float]], observation: list[float]) -> None:
    """Row ``row`` holds zeros and then exactly these tokens, and this observation."""
    assert windows.lengths[row] == len(tokens)
    expected = torch.zeros_like(windows.tokens[row])
    if tokens:
        expected[-len(tokens) :] = torch.tensor(tokens)
    torch.testing.assert_close(windows.tokens[row], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(windows.observation[row], torch.tensor(observation), rtol=0, atol=0)


def encoder(history_length: int = 3, context_size: int = 5, seed: int = 0) -> ContextEncoder:
    """An encoder with random weights, random normalisers and a random initial context."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = ContextEncoder(OBSERVATION, ACTION, history_length, context_size)
        built.fit(2 * torch.randn(50, 2 * OBSERVATION + ACTION) + 0.5)
        if history_length > 0:
            torch.nn.init.normal_(built.get_parameter("initial_context"))
    return built


def model(encoder: ContextEncoder, members: int = 3, seed: int = 1) -> EnsembleModel:
    """An ensemble whose members differ, in units that are not the normalised ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = EnsembleModel(encoder, encoder.action_size, members, 8, 1)
        size = len(built.target_normaliser.mean)
        built.target_normaliser.fit(torch.randn(40, size) * torch.linspace(0.5, 2.0, size) + 0.3)
        torch.nn.init.normal_(output_layer(built.heads).bias, std=0.7)
    return built


def policy_network(encoder: ContextEncoder, seed: int = 2) -> GaussianPolicy:
    """A policy network with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GaussianPolicy(encoder.feature_size, encoder.action_size, 8, 1)


def output_layer(stacked: StackedMLP) -> StackedLinear:
    """The last layer of a stack of networks."""
    layer = stacked.layers[-1]
    assert isinstance(layer, StackedLinear)
    return layer


def first_gradient(optimiser: torch.optim.Adam, parameter: torch.Tensor) -> torch.Tensor:
    """What the first step of Adam went along, after it."""
    moment: torch.Tensor = optimiser.state[parameter]["exp_avg"]
    return moment / (1 - optimiser.defaults["betas"][0])


def random_windows(count: int, history_length: int, seed: int = 3) -> Windows:
    """Windows of every length 0..L, taken from random episodes."""
    episodes = episodes_of([history_length + 4] * (count // (history_length + 4) + 1), seed)
    return filled_buffer(episodes, history_length).windows(torch.arange(count))


def random_actions(count: int, seed: int = 4) -> Tensor:
    """Actions [count, A] in [-1, 1]."""
    return 2 * torch.rand(count, ACTION, generator=torch.Generator().manual_seed(seed)) - 1
