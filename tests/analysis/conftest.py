"""A short training that the tests of the reports share."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3po.config import Config
from m3po.train import train


def tiny_config(run_dir: Path, seed: int = 0) -> Config:
    return Config(
        run_dir=run_dir,
        seed=seed,
        total_steps=600,
        device="cpu",
        history_length=3,
        context_size=8,
        width=16,
        ensemble_size=2,
        model_updates=60,
        updates_per_step=1,
        rollouts_per_step=10,
        measure_episodes=10,
        evaluation_episodes=5,
    )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 600 steps with small networks. Read only."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_config(path))
    return path
