"""M3PO learns what a policy without memory cannot: on the point mass it beats the best memoryless policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.runs.anchors import committed_anchors
from analysis.runs.evaluation import returns_of
from m3po.agents.training import restored
from m3po.config import Config
from m3po.train import train

EPISODES = 200


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_policy_that_a_training_ends_with_beats_every_memoryless_one(seed: int, tmp_path: Path) -> None:
    """The settings of the demo but for the episodes that only measure."""
    directory = train(
        Config(run_dir=tmp_path / "run", seed=seed, device="cpu", measure_episodes=2, evaluation_episodes=2)
    )
    training = restored(directory)
    returns = returns_of(training.policy, training.config.env_id, training.options, EPISODES, seed=100 + seed)
    least = returns.mean() - 3 * returns.std(ddof=1) / EPISODES**0.5
    assert least > committed_anchors()["memoryless"]
