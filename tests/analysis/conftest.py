"""What the tests of the reports share: a short training, and a model that lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.guarantee import estimates, returns
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


@pytest.fixture
def boasting_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model promises the largest reward everywhere, and no error of it is measured: the boast must be refuted."""
    honest = returns.model_return_samples

    def boasting(*arguments, dynamics, **keywords):
        returns = honest(*arguments, dynamics=dynamics, **keywords)
        best = dynamics.reward_high * (1 - 0.95**100) / 0.05
        return type(returns)(np.full_like(returns.learned_reward, best), np.full_like(returns.learned_reward, best))

    monkeypatch.setattr(estimates, "model_return_samples", boasting)
    monkeypatch.setattr(estimates, "model_error_samples", lambda p, q, valid: np.zeros(valid.shape))
    monkeypatch.setattr(
        estimates,
        "reward_error_samples",
        lambda model, data, low, high: np.zeros(data.trajectories.rewards.shape),
    )
