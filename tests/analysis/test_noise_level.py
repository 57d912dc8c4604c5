"""Certificates of the noisy half cheetah: shapes, resumption, and numbers that add up, on a very small case."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.noise_level import cli
from analysis.runs.resumable_table import read_rows
from analysis.studies import noise_level
from analysis.studies.noise_level import (
    HORIZON,
    NoiseLevelConfig,
    NoiseRow,
    fitted,
    measure_all,
    median_bias,
    trained,
    training_settings,
)
from m3po.envs.simulated_dynamics import SimulatedDynamics
from m3po.runs.run_directory import RunDirectory
from tests.command_errors import refusal


def config_at(directory: Path, **changes: Any) -> NoiseLevelConfig:
    (directory / "runs").mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "out": directory / "rows.csv", "runs": directory / "runs", "scaled": (0.5,), "equal": (), "samples": (200, 400),
        "training_steps": 200, "width": 8, "model_updates": 40, "episodes": 3,
    }  # fmt: skip
    return NoiseLevelConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[NoiseLevelConfig, list[NoiseRow]]:
    config = config_at(tmp_path_factory.mktemp("noise"))
    rows, _ = measure_all(config)
    return config, rows


def test_every_level_and_sample_size_has_a_row_that_adds_up(measured) -> None:
    _, rows = measured
    assert [(row.kind, row.level, row.samples) for row in rows] == [("scaled", 0.5, 200), ("scaled", 0.5, 400)]
    for row in rows:
        assert row.share_at_estimates == pytest.approx(row.model_share + row.reward_share, rel=1e-6)
        assert row.share_at_estimates <= row.share
        assert row.model_share <= 1
        # k = 1 and own data: the model part is a weighted mean of the profile, at most gamma of it
        assert row.model_share == pytest.approx(0.95 * row.model_error, abs=0.05)
        assert row.verdict in ("holds", "surrogate")
    assert rows[0].trained_return == rows[1].trained_return
    assert rows[0].model_error != rows[1].model_error


def test_a_finished_file_is_read_and_another_sample_size_is_added(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    config, rows = measured
    with monkeypatch.context() as patch:
        patch.setattr(noise_level, "fitted", None)
        again, _ = measure_all(config)
    assert [row.share for row in again] == pytest.approx([row.share for row in rows])
    with pytest.raises(ValueError, match="not measured with these settings"):
        measure_all(dataclasses.replace(config, episodes=4))


def test_noise_is_on_every_coordinate_and_the_density_is_that_of_the_noise(measured) -> None:
    """With the true mean as the model there is no bias; the model fitted to 400 steps is far off."""
    config, _ = measured
    options = RunDirectory.read(config.runs / "scaled-0.5").config.environment_options()
    training = training_settings(config, "scaled-0.5", np.array(options["process_noise"]))
    subject = trained(training)
    dynamics = subject.dynamics
    assert isinstance(dynamics, SimulatedDynamics)
    assert dynamics.process_noise.shape == (17,)
    assert (dynamics.process_noise > 0).all()
    generator = torch.Generator().manual_seed(0)
    episodes = subject.episodes(2, seed=0, generator=generator)
    assert episodes.rewards.shape == (2, HORIZON)
    assert episodes.valid.all()
    true = dynamics.mean(episodes.observations[:, :-1], episodes.actions.astype(np.float64), episodes.tasks)
    standardised = (episodes.observations[:, 1:] - true) / dynamics.process_noise
    assert standardised.std() == pytest.approx(1, abs=0.05)
    model = fitted(training, episodes, config, generator)
    assert model is not subject.model
    far = median_bias(model, dynamics, episodes)
    assert far > 1

    def exact(features: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normaliser = model.target_normaliser
        change = torch.as_tensor((true - episodes.observations[:, :-1]).reshape(-1, 17), dtype=torch.float32)
        moments = torch.zeros(1, len(action), 18)
        moments[0, :, :17] = (change - normaliser.mean[:17]) / normaliser.std[:17]
        return moments, moments

    model.elite_moments = exact  # type: ignore[method-assign]
    assert median_bias(model, dynamics, episodes) < 1e-3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--scaled", "0"], "--scaled must be a finite number > 0, got 0.0"),
        (["--samples", "300"], "--samples must be multiples of 200, got 300"),
        (["--episodes", "1"], "--episodes must be >= 2, got 1"),
        (["--runs", "no/where"], "no directory no/where"),
    ],
)
def test_bad_flags_exit_2_and_name_it(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refusal(cli, ["--out", tmp_path / "rows.csv", "--runs", tmp_path, *flags], capsys)


def test_the_table_of_the_docs_is_the_landed_rows() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "certificate_in_practice.md").read_text()
    rows = [
        row
        for samples in (5000, 20000)
        for row in read_rows(root / "paper_figures" / "data" / f"noise_level_{samples}.csv", NoiseRow, finite=True)
    ]
    assert len(rows) == 6
    for row in rows:
        shares = row.share, row.share_at_estimates, row.model_share
        cells = [
            f"{row.level:g}", f"{row.samples:,}", *(f"{share:.0%}" for share in shares), f"{row.reward_share:.1%}",
            f"{row.share_low_discount:.0%}", f"{row.share_high_discount:.0%}", f"{row.model_error:.3f}",
            f"{row.median_bias:.1f}", f"{row.clipped:.0%}",
            row.verdict + (", vacuously" if row.share > 1 else ""),
        ]  # fmt: skip
        assert f"| {' | '.join(cells)} |" in page
        assert row.share > 0.8  # none comes near half
