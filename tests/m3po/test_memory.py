"""A training of the paper's size fits into a laptop: measured on the process, not counted."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from m3po.agents.m3po import M3PO
from m3po.config import Config

SAMPLES = 200_000


class Wide(gym.Env[Any, Any]):
    """The shapes of Humanoid without its inertias: 45 observed numbers, 17 actions."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (45,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (17,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(45), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.np_random.standard_normal(45), 0.0, False, False, {}


def peak_of_a_training(context_training: str, answer: Any) -> None:
    """Fill D_env, train the model once, fill D_model, update, and write a checkpoint; put the peak memory in bytes."""
    gym.register(id="test/Wide-v0", entry_point=f"{__name__}:Wide", max_episode_steps=1000)
    config = Config(
        run_dir=Path("unused"), env_id="test/Wide-v0", total_steps=SAMPLES + 1000, context_training=context_training,  # type: ignore[arg-type]
        model_updates=20, rollouts_per_step=1000, history_length=10, context_size=64, width=200, layers=4,
        ensemble_size=7, elites=5, device="cpu",
    )  # fmt: skip
    training = M3PO(config)
    buffer, generator = training.environment_buffer, torch.Generator().manual_seed(0)
    # As EnvironmentBuffer.add would, without 200,000 calls.
    for name in ("observations", "tokens", "rewards"):
        getattr(buffer, name)[:SAMPLES].normal_(generator=generator)
    buffer.first[:SAMPLES] = torch.arange(SAMPLES) // 1000 * 1000
    buffer.member_weights[:SAMPLES] = 1.0
    buffer.held_out[:SAMPLES] = torch.rand(SAMPLES, generator=generator) < config.holdout
    buffer.size = training.steps = SAMPLES
    training.group.begin_epoch()  # trains the model on everything and fills D_model
    assert training.model_buffer.size == config.model_buffer_size
    group: Any = training.group
    group.data.learn([True] * 4, config.batch_size, config.batch_size, group.buffers, [generator])
    torch.save(training.state(), "/dev/null")
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


@pytest.mark.slow
@pytest.mark.parametrize("context_training", ["model", "critic"])
def test_200k_samples_of_a_45_dimensional_environment_need_less_than_3_gib(context_training: str) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would count this process's memory
    answer = context.Queue()
    process = context.Process(target=peak_of_a_training, args=(context_training, answer))
    process.start()
    peak = answer.get(timeout=600)
    process.join()
    print(f"peak {peak / 2**30:.2f} GiB")
    assert 200_000 * (45 + 107) * 4 < peak < 3 * 2**30
